//! Values that need more than their shape: durations, sizes, regexes, expressions.

use std::{sync::Arc, time::Duration};

use regex::{Regex, RegexBuilder};
use serde_json::Value;

use super::{Report, did_you_mean};
use crate::pattern::{BindSource, Expression, Template, expression::expression_source};

const REGEX_BYTES_MAX: usize = 1 << 20;

/// What expressions may name where they stand.
#[derive(Clone)]
pub(super) struct Names<'a> {
    /// The inputs' schema.
    pub(super) inputs: &'a Value,
    /// Bound values.
    pub(super) binds: &'a [(String, BindSource)],
    /// Steps whose values are visible.
    pub(super) steps: Vec<String>,
    /// Steps anywhere in the pattern.
    pub(super) everywhere: Arc<[String]>,
    /// What loops around it set.
    pub(super) locals: Vec<String>,
}

/// A duration of the schema's form.
pub(super) fn duration(text: &str) -> Duration {
    let digits = text.trim_end_matches(|char: char| char.is_ascii_alphabetic());
    let amount: u64 = digits.parse().unwrap_or(0);
    let seconds = match &text[digits.len()..] {
        "ms" => return Duration::from_millis(amount),
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => 1,
    };
    Duration::from_secs(amount.saturating_mul(seconds))
}

/// The duration at `pointer`, if there is one; an error where it is longer than `most`.
pub(super) fn duration_within(report: &mut Report<'_>, pointer: &str, most: Duration) -> Option<Duration> {
    report.get(pointer)?;
    let duration = duration(report.text(pointer));
    if duration > most {
        let most = most.as_secs();
        let most = match most {
            _ if most.is_multiple_of(86_400) => format!("{}d", most / 86_400),
            _ if most.is_multiple_of(60) => format!("{}m", most / 60),
            _ => format!("{most}s"),
        };
        report.at(pointer, format!("at most {most}"));
    }
    Some(duration)
}

/// A size of the schema's form, in bytes.
pub(super) fn size(text: &str) -> usize {
    let digits = text.trim_end_matches(|char: char| char.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => 1,
    };
    digits.parse::<usize>().unwrap_or(0).saturating_mul(unit)
}

/// A linear-time regex.
pub(super) fn regex(source: &str) -> Result<Regex, String> {
    RegexBuilder::new(source).size_limit(REGEX_BYTES_MAX).build().map_err(|error| {
        let text = error.to_string();
        let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        if last.contains("look-around") {
            "look-around is not available: it cannot be matched in linear time (crate regex)".to_owned()
        } else if last.contains("backreferences") {
            "back-references are not available: they cannot be matched in linear time (crate regex)"
                .to_owned()
        } else if last.contains("size limit") {
            format!("the regex is too large: compiled, it has more than {REGEX_BYTES_MAX} bytes")
        } else {
            format!("not a regex: {last}")
        }
    })
}

/// The template at `pointer` and the steps that it mentions.
pub(super) fn template(
    report: &mut Report<'_>,
    pointer: &str,
    value: &Value,
    names: &Names<'_>,
) -> (Template, Vec<String>) {
    let mut mentioned = Vec::new();
    partly(report, pointer, value);
    let template = Template::build(value, pointer, &mut |pointer, source| {
        let (expression, steps) = expression(report, pointer, source, names)?;
        mentioned.extend(steps);
        Some(expression)
    });
    (template, mentioned)
}

/// Complains of texts with `${` that are not wholly an expression.
fn partly(report: &mut Report<'_>, pointer: &str, value: &Value) {
    match value {
        // Regexes and text templates may have it in their own right.
        Value::String(text)
            if text.contains("${")
                && expression_source(text).is_none()
                && !["/pattern", "/template", "/filter"].iter().any(|member| pointer.ends_with(member)) =>
        {
            report.at_with_hint(
                pointer,
                "an expression must be the whole value",
                Some(r#"build texts inside it: ${ "since \(.inputs.since)" }"#.to_owned()),
            );
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                partly(report, &format!("{pointer}/{index}"), item);
            }
        }
        Value::Object(members) => {
            for (name, member) in members {
                partly(report, &format!("{pointer}/{}", crate::pattern::yaml::pointer_part(name)), member);
            }
        }
        _ => {}
    }
}

/// The expression `source` that stands at `pointer`, and the steps that it mentions.
pub(super) fn expression(
    report: &mut Report<'_>,
    pointer: &str,
    source: &str,
    names: &Names<'_>,
) -> Option<(Arc<Expression>, Vec<String>)> {
    match Expression::compile(source) {
        Ok(expression) => {
            let mentioned = reads(report, pointer, &expression, names);
            Some((Arc::new(expression), mentioned))
        }
        Err(error) => {
            let hint = source
                .contains("${")
                .then(|| "an expression is one ${ … } around the whole value".to_owned());
            report.at_with_hint(pointer, error.to_string(), hint);
            None
        }
    }
}

/// Checks what `expression` reads; gives the steps among it.
pub(super) fn reads(
    report: &mut Report<'_>,
    pointer: &str,
    expression: &Expression,
    names: &Names<'_>,
) -> Vec<String> {
    const ROOTS: [&str; 5] = ["inputs", "bind", "steps", "query", "session"];
    let reads = expression.reads();
    if reads.whole {
        report.at_with_hint(
            pointer,
            "the expression uses `.` as a whole",
            Some("name what it reads, such as .inputs.<name> or .steps.<id>".to_owned()),
        );
    }
    let mut mentioned = Vec::new();
    for path in &reads.paths {
        let (root, name) = (path[0].as_str(), path.get(1).map(String::as_str));
        let unknown = |report: &mut Report<'_>,
                       what: &str,
                       name: &str,
                       known: &mut dyn Iterator<Item = &str>| {
            report.at_with_hint(pointer, format!("there is no {what} `{name}`"), did_you_mean(name, known));
        };
        match (root, name) {
            ("inputs", Some(name)) => {
                let declared = names.inputs["properties"].as_object();
                if !declared.is_some_and(|declared| declared.contains_key(name)) {
                    let mut known =
                        declared.into_iter().flat_map(|declared| declared.keys()).map(String::as_str);
                    unknown(report, "input", name, &mut known);
                }
            }
            ("bind", Some(name)) => {
                if !names.binds.iter().any(|(known, _)| known == name) {
                    unknown(
                        report,
                        "bound value",
                        name,
                        &mut names.binds.iter().map(|(known, _)| known.as_str()),
                    );
                }
            }
            ("steps", Some(id)) => {
                if names.steps.iter().any(|known| known == id) {
                    mentioned.push(id.to_owned());
                } else if names.everywhere.iter().any(|known| known == id) {
                    report.at_with_hint(
                        pointer,
                        format!("the step `{id}` is inside another and cannot be seen from here"),
                        Some("read the value of the step that holds it".to_owned()),
                    );
                } else {
                    unknown(report, "step", id, &mut names.steps.iter().map(String::as_str));
                }
            }
            ("steps", None) => report.at(pointer, "name the step that is read: .steps.<id>"),
            ("inputs" | "bind" | "query" | "session", _) => {}
            (other, _) if names.locals.iter().any(|local| local == other) => {}
            (other, _) => {
                let known = ROOTS.into_iter().chain(names.locals.iter().map(String::as_str));
                let hint = did_you_mean(other, known.clone()).or_else(|| {
                    Some(format!(
                        "there are {}",
                        known.map(|name| format!(".{name}")).collect::<Vec<_>>().join(", ")
                    ))
                });
                report.at_with_hint(pointer, format!("there is no `.{other}` here"), hint);
            }
        }
    }
    mentioned
}
