//! Steps: what each takes, what it waits for, what it holds.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{
    Report, asking, did_you_mean, effect,
    field::{self, Names},
    graph, permission, shape,
};
use crate::pattern::{
    BindSource, Effect, Expression, Family, OnError, Permissions, STEPS, StepRow, StepSpec, Template,
    arguments::fault as argument_fault,
};

/// Deepest nesting of `control.*` steps.
const DEPTH_MAX: usize = 4;

const KEYS: [&str; 7] = ["id", "uses", "with", "needs", "if", "timeout", "on_error"];

struct Context<'a> {
    binds: &'a [(String, BindSource)],
    permissions: &'a Permissions,
}

/// Reads the steps; also what expressions of the output may name.
pub(super) fn read<'a>(
    report: &mut Report<'_>,
    inputs: &'a Value,
    binds: &'a [(String, BindSource)],
    permissions: &Permissions,
) -> (Vec<StepSpec>, Names<'a>) {
    let mut everywhere = Vec::new();
    ids(report, "/steps", 0, &mut everywhere);
    let names = Names { inputs, binds, steps: Vec::new(), everywhere: everywhere.into(), locals: Vec::new() };
    let (steps, _) = list(report, "/steps", &names, &Context { binds, permissions }, 0);
    let mut names = names;
    // Also those that are wrong in themselves: what reads them is not.
    let count = report.items("/steps").len();
    names.steps = (0..count).map(|index| report.text(&format!("/steps/{index}/id")).to_owned()).collect();
    (steps, names)
}

/// The lists of steps that the step at `pointer` holds, by where they stand.
pub(super) fn nested(report: &Report<'_>, pointer: &str) -> Vec<String> {
    match report.text(&format!("{pointer}/uses")) {
        "control.parallel" | "control.foreach" => vec![format!("{pointer}/with/steps")],
        "control.switch" => {
            let cases = report.items(&format!("{pointer}/with/cases")).len();
            let cases = (0..cases).map(|index| format!("{pointer}/with/cases/{index}/steps"));
            let default = format!("{pointer}/with/default");
            let default = report.get(&default).is_some().then_some(default);
            cases.chain(default).collect()
        }
        _ => Vec::new(),
    }
}

/// Collects every id; each is unique in the pattern.
fn ids(report: &mut Report<'_>, list: &str, depth: usize, found: &mut Vec<String>) {
    for index in 0..report.items(list).len() {
        let pointer = format!("{list}/{index}");
        let id = report.text(&format!("{pointer}/id")).to_owned();
        if found.contains(&id) {
            report.at(&format!("{pointer}/id"), format!("another step has the id `{id}`"));
        }
        found.push(id);
        if depth < DEPTH_MAX {
            for list in nested(report, &pointer) {
                ids(report, &list, depth + 1, found);
            }
        }
    }
}

/// Reads the list of steps at `pointer`; also the steps around it that it mentions.
fn list(
    report: &mut Report<'_>,
    pointer: &str,
    names: &Names<'_>,
    context: &Context<'_>,
    depth: usize,
) -> (Vec<StepSpec>, Vec<String>) {
    let own: Vec<String> = (0..report.items(pointer).len())
        .map(|index| report.text(&format!("{pointer}/{index}/id")).to_owned())
        .collect();
    if depth > 0 && !report.tested && !shape::check_steps(report, pointer) {
        return (Vec::new(), Vec::new());
    }
    let mut names = names.clone();
    names.steps.extend(own.iter().cloned());
    let mut outer = Vec::new();
    let mut steps = Vec::new();
    for index in 0..own.len() {
        let Some((mut step, mentioned)) = step(report, &format!("{pointer}/{index}"), &names, context, depth)
        else {
            continue;
        };
        for id in mentioned {
            if !own.contains(&id) {
                outer.push(id);
            } else if !step.needs.contains(&id) {
                step.needs.push(id);
            }
        }
        for (place, need) in step.needs.iter().enumerate() {
            let at = format!("{pointer}/{index}/needs/{place}");
            if *need == step.id {
                report.at(&at, format!("the step `{need}` waits for itself"));
            } else if !own.contains(need) {
                report.at_with_hint(
                    &at,
                    format!("there is no step `{need}` beside this one"),
                    did_you_mean(need, own.iter().map(String::as_str)),
                );
            }
        }
        steps.push(step);
    }
    if let Some(cycle) = graph::cycle(&steps)
        && cycle.len() > 2
    {
        let first = own.iter().position(|id| Some(id) == cycle.first()).unwrap_or(0);
        report.at(&format!("{pointer}/{first}"), format!("steps wait for each other: {}", cycle.join(" → ")));
    }
    (steps, outer)
}

/// Reads the step at `pointer`; also every step that it mentions.
fn step(
    report: &mut Report<'_>,
    pointer: &str,
    names: &Names<'_>,
    context: &Context<'_>,
    depth: usize,
) -> Option<(StepSpec, Vec<String>)> {
    // Lists inside `with` are not seen by the schema of the file.
    let Some(fields) = report.get(pointer)?.as_object() else {
        report.at(pointer, "expects a step: {id, uses, with}");
        return None;
    };
    let (id, uses) = (report.text(&format!("{pointer}/id")), report.text(&format!("{pointer}/uses")));
    if id.is_empty() || uses.is_empty() {
        report.at(pointer, "a step has an id and says what it uses");
        return None;
    }
    for key in fields.keys().filter(|key| !KEYS.contains(&key.as_str())) {
        report.at_key(
            &format!("{pointer}/{key}"),
            format!("unknown key `{key:.40}`"),
            did_you_mean(key, KEYS),
        );
    }
    let Some(row) = StepRow::find(uses) else {
        let hint = did_you_mean(uses, STEPS.iter().map(|row| row.uses)).or_else(|| {
            let family = uses.split('.').next().unwrap_or_default();
            let family: Vec<_> = STEPS
                .iter()
                .map(|row| row.uses)
                .filter(|known| known.split('.').next() == Some(family))
                .collect();
            (!family.is_empty()).then(|| format!("there are {}", family.join(", ")))
        });
        report.at_with_hint(&format!("{pointer}/uses"), format!("there is no step `{uses:.40}`"), hint);
        return None;
    };
    let mut mentioned = Vec::new();
    members(report, pointer, row);
    let (with, children) = arguments(report, pointer, row, names, context, depth, &mut mentioned);
    permission::check(report, pointer, row, &with, context.binds, context.permissions);
    let condition = fields.get("if").and_then(Value::as_str).and_then(|text| {
        let at = format!("{pointer}/if");
        let Some(source) = crate::pattern::expression::expression_source(text) else {
            report.at(&at, "expects an expression, written ${ … }");
            return None;
        };
        let (condition, steps) = field::expression(report, &at, source, names)?;
        mentioned.extend(steps);
        Some(condition)
    });
    if mentioned.iter().any(|step| step == id) {
        report.at(pointer, format!("the step `{id}` reads its own value"));
        mentioned.retain(|step| step != id);
    }
    let step = StepSpec {
        id: id.to_owned(),
        uses: row,
        with,
        needs: report.texts(&format!("{pointer}/needs")),
        condition,
        timeout: field::duration_within(report, &format!("{pointer}/timeout"), Duration::from_mins(30)),
        on_error: on_error(report, pointer),
        children,
    };
    if matches!(step.on_error, OnError::Retry { .. })
        && effect(std::slice::from_ref(&step)) != Effect::ReadOnly
    {
        report.at(&format!("{pointer}/on_error"), "a step that writes is never tried again");
    }
    Some((step, mentioned))
}

/// Compares the members of `with` with the step's row.
fn members(report: &mut Report<'_>, pointer: &str, row: &StepRow) {
    let at = format!("{pointer}/with");
    let known = || row.required.iter().chain(row.optional).copied();
    let given: Vec<&String> = report.members(&at).map(|(name, _)| name).collect();
    for name in &given {
        if !known().any(|known| known == name.as_str()) {
            let hint = did_you_mean(name, known()).or_else(|| {
                let known: Vec<_> = known().collect();
                Some(if known.is_empty() {
                    format!("{} takes nothing", row.uses)
                } else {
                    format!("{} takes {}", row.uses, known.join(", "))
                })
            });
            report.at_key(
                &format!("{at}/{}", crate::pattern::yaml::pointer_part(name)),
                format!("{} has no argument `{name:.40}`", row.uses),
                hint,
            );
        }
    }
    if !report.tested
        && let Some(with) = report.get(&at).and_then(Value::as_object).cloned()
    {
        let literal = with.get("literal").is_some_and(|literal| *literal != Value::Bool(false));
        for (name, value) in &with {
            if let Some(fault) = argument_fault(row.uses, name, value, literal) {
                report.at(&format!("{at}/{}", crate::pattern::yaml::pointer_part(name)), fault);
            }
        }
    }
    for name in row.required {
        if !given.iter().any(|given| given.as_str() == *name) {
            let at = if report.get(&at).is_some() { at.clone() } else { pointer.to_owned() };
            report.at_key(&at, format!("{} needs the argument `{name}`", row.uses), None);
        }
    }
}

/// The arguments of a step, and the steps that it holds.
fn arguments(
    report: &mut Report<'_>,
    pointer: &str,
    row: &StepRow,
    names: &Names<'_>,
    context: &Context<'_>,
    depth: usize,
    mentioned: &mut Vec<String>,
) -> (Template, Vec<Vec<StepSpec>>) {
    let at = format!("{pointer}/with");
    let mut with = report.get(&at).and_then(Value::as_object).cloned().unwrap_or_default();
    let mut children = Vec::new();
    if row.family == Family::Control {
        let lists = nested(report, pointer);
        if !lists.is_empty() && depth >= DEPTH_MAX {
            report.at(pointer, format!("control steps may be nested {DEPTH_MAX} deep"));
            return (Template::Literal(Value::Object(Map::new())), children);
        }
        let mut inside = names.clone();
        if row.uses == "control.foreach" {
            let name = with.get("as").and_then(Value::as_str).unwrap_or("item");
            let letters = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_';
            let taken = ["inputs", "bind", "steps", "query", "session", "index"].contains(&name);
            if taken
                || !name.starts_with(|char: char| char.is_ascii_lowercase())
                || !name.chars().all(letters)
            {
                report.at(&format!("{at}/as"), format!("the item cannot be called `{name:.40}`"));
            }
            inside.locals.extend([name.to_owned(), "index".to_owned()]);
        }
        for list_at in lists {
            if report.get(&list_at).is_none() {
                report.at(&list_at, "expects a list of steps");
            }
            let (steps, outer) = list(report, &list_at, &inside, context, depth + 1);
            mentioned.extend(outer);
            children.push(steps);
        }
        for name in ["steps", "default"] {
            if row.required.contains(&name) || row.optional.contains(&name) {
                with.remove(name);
            }
        }
        cases(report, &at, &mut with);
    }
    if row.uses == "control.ask" {
        asking::check_form(report, pointer);
    }
    if row.uses == "data.jq" {
        filter(report, &at, &with, names, mentioned);
    }
    if row.uses == "data.template"
        && !report.tested
        && let Some(text) = with.get("template").and_then(Value::as_str)
        && crate::pattern::expression::expression_source(text).is_none()
        && let Some(fault) = crate::pattern::jinja::fault(text)
    {
        report.at(&format!("{at}/template"), fault);
    }
    let (template, steps) = field::template(report, &at, &Value::Object(with), names);
    mentioned.extend(steps);
    (template, children)
}

/// Leaves only the conditions of `control.switch` in `with`: `cases: [{when: …}]`.
fn cases(report: &mut Report<'_>, at: &str, with: &mut Map<String, Value>) {
    let Some(Value::Array(cases)) = with.get_mut("cases") else { return };
    for (index, case) in cases.iter_mut().enumerate() {
        let at = format!("{at}/cases/{index}");
        let Some(members) = case.as_object_mut() else {
            report.at(&at, "expects a case: {when: ${ … }, steps: […]}");
            continue;
        };
        for name in members.keys().filter(|name| !["when", "steps"].contains(&name.as_str())) {
            report.at_key(
                &format!("{at}/{}", crate::pattern::yaml::pointer_part(name)),
                format!("unknown key `{name:.40}`"),
                did_you_mean(name, ["when", "steps"]),
            );
        }
        if !members.get("when").and_then(Value::as_str).is_some_and(|when| when.trim().starts_with("${")) {
            report.at(&at, "a case says `when: ${ … }` and which steps");
        }
        members.retain(|name, _| name == "when");
    }
}

/// Checks the filter of `data.jq`: jq without `${ }`, over `input`, else over what expressions see.
fn filter(
    report: &mut Report<'_>,
    at: &str,
    with: &Map<String, Value>,
    names: &Names<'_>,
    mentioned: &mut Vec<String>,
) {
    let at = format!("{at}/filter");
    let Some(source) = with.get("filter") else { return };
    let Some(source) = source.as_str() else {
        report.at(&at, "expects a jq filter");
        return;
    };
    if crate::pattern::expression::expression_source(source).is_some() {
        report.at(&at, "a filter is jq itself, without ${ }");
        return;
    }
    match Expression::compile(source) {
        Ok(_) if with.contains_key("input") => {}
        Ok(expression) => mentioned.extend(field::reads(report, &at, &expression, names)),
        Err(error) => report.at(&at, error.to_string()),
    }
}

fn on_error(report: &mut Report<'_>, pointer: &str) -> OnError {
    let at = format!("{pointer}/on_error");
    match report.get(&at) {
        Some(Value::String(word)) if word == "continue" => OnError::Continue,
        Some(value @ Value::Object(_)) => {
            let backoff =
                field::duration_within(report, &format!("{at}/retry/backoff"), Duration::from_secs(10));
            OnError::Retry {
                max: value["retry"]["max"].as_u64().unwrap_or(1).min(5) as u32,
                backoff: backoff.unwrap_or(Duration::from_millis(50)),
            }
        }
        _ => OnError::Abort,
    }
}
