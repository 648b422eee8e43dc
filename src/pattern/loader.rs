//! From a file's text to a [`Pattern`]: whole, or not at all.
//!
//! First the shape by `schemas/pattern/v1.json`, then what a schema cannot say. Every error has its place in the file.

mod asking;
mod field;
mod graph;
mod inputs;
mod permission;
mod shape;
mod step;

use std::{fmt, sync::Arc};

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::{hex::hex, nearest::nearest};

use super::{
    Auto, BindSource, CacheScopeRule, CacheSpec, Deprecated, Effect, Expression, Family, Origin, OutputSpec,
    Pattern, PatternKind, PatternLimits, PromptSpec, Shrink, StepSpec, Template, TestSource, TestSpec,
    TriggerRegex, Triggers, Version,
    router::Matcher,
    yaml::{self, Document, Position},
};

/// Something wrong in a pattern file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LoadError {
    /// The file, as named by the caller.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, as a fragment.
    pub message: String,
    /// What to do, where that is known.
    pub hint: Option<String>,
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        match &self.hint {
            Some(hint) => write!(f, " ({hint})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for LoadError {}

pub(crate) use inputs::with_defaults as inputs_with_defaults;

/// The published schema of pattern files.
pub const PATTERN_SCHEMA: &str = include_str!("../../schemas/pattern/v1.json");

/// A pattern as loaded, with places for later complaints (such as triggers that collide with another file's).
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The pattern.
    pub pattern: Arc<Pattern>,
    /// Its file, as named by the caller.
    pub file: String,
    document: Document,
}

impl Loaded {
    /// An error at `pointer` in the file.
    #[must_use]
    pub fn error(&self, pointer: &str, message: String, hint: Option<String>) -> LoadError {
        let Position { line, column } = self.document.position(pointer);
        LoadError { file: self.file.clone(), line, column, message, hint }
    }
}

/// Loads the pattern in `text`. `file` names it in errors.
///
/// # Errors
/// Everything wrong, in file order; at least one.
pub fn load(file: &str, text: &str, origin: Origin) -> Result<Loaded, Vec<LoadError>> {
    load_checked(file, text, origin, false)
}

/// Loads a built-in pattern for running: what the project's own tests have checked by [`load`] is not checked again at
/// each start.
///
/// # Errors
/// As [`load`].
pub(super) fn load_built_in(file: &str, text: &str) -> Result<Loaded, Vec<LoadError>> {
    load_checked(file, text, Origin::BuiltIn, true)
}

fn load_checked(file: &str, text: &str, origin: Origin, tested: bool) -> Result<Loaded, Vec<LoadError>> {
    let document = yaml::parse(text.strip_prefix('\u{feff}').unwrap_or(text)).map_err(|error| {
        vec![LoadError {
            file: file.to_owned(),
            line: error.position.line,
            column: error.position.column,
            message: error.message,
            hint: None,
        }]
    })?;
    let mut report = Report { file, document: &document, tested, errors: Vec::new() };
    if !tested {
        shape::check(&mut report);
    }
    if report.errors.is_empty() {
        let pattern = read(&mut report, text, origin);
        if report.errors.is_empty() {
            return Ok(Loaded { pattern: Arc::new(pattern), file: file.to_owned(), document });
        }
    }
    let mut errors = report.errors;
    errors.sort_by_key(|error| (error.line, error.column));
    errors.dedup();
    Err(errors)
}

/// Collects what is wrong.
struct Report<'d> {
    file: &'d str,
    document: &'d Document,
    /// Shape, schemas and examples were checked before.
    tested: bool,
    errors: Vec<LoadError>,
}

impl<'d> Report<'d> {
    /// Something wrong with the value at `pointer`.
    fn at(&mut self, pointer: &str, message: impl Into<String>) {
        self.push(self.document.position(pointer), message.into(), None);
    }

    /// The same, with what to do.
    fn at_with_hint(&mut self, pointer: &str, message: impl Into<String>, hint: Option<String>) {
        self.push(self.document.position(pointer), message.into(), hint);
    }

    /// Something wrong with the key of the member at `pointer`.
    fn at_key(&mut self, pointer: &str, message: impl Into<String>, hint: Option<String>) {
        self.push(self.document.key_position(pointer), message.into(), hint);
    }

    fn push(&mut self, position: Position, message: String, hint: Option<String>) {
        self.errors.push(LoadError {
            file: self.file.to_owned(),
            line: position.line,
            column: position.column,
            message,
            hint,
        });
    }

    /// The value at `pointer`.
    fn get(&self, pointer: &str) -> Option<&'d Value> {
        self.document.value.pointer(pointer)
    }

    fn text(&self, pointer: &str) -> &'d str {
        self.get(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    fn members(&self, pointer: &str) -> impl Iterator<Item = (&'d String, &'d Value)> + use<'d> {
        self.get(pointer).and_then(Value::as_object).into_iter().flatten()
    }

    fn items(&self, pointer: &str) -> &'d [Value] {
        self.get(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    fn texts(&self, pointer: &str) -> Vec<String> {
        self.items(pointer).iter().filter_map(Value::as_str).map(str::to_owned).collect()
    }
}

/// `hint` of an unknown word: the nearest known one.
fn did_you_mean<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<String> {
    nearest(word, known).map(|near| format!("did you mean `{near}`?"))
}

/// The hash that names a file's content.
#[must_use]
pub fn hash(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

/// Reads what has the right shape.
fn read(report: &mut Report<'_>, text: &str, origin: Origin) -> Pattern {
    let inputs = inputs::read(report);
    let inputs_are_whole = report.errors.is_empty();
    let binds = binds(report);
    let permissions = permission::read(report, &binds);
    let before = report.errors.len();
    let (steps, names) = step::read(report, &inputs, &binds, &permissions);
    let steps_are_whole = report.errors.len() == before;
    if !report.tested && steps_are_whole {
        asking::check(report, "/steps", &steps);
    }
    let effect = effect(&steps);
    let output = output(report, &names);
    let limits = limits(report);
    let counted = count(&steps);
    if counted > limits.max_steps {
        let at = if report.get("/limits/max_steps").is_some() { "/limits/max_steps" } else { "/steps" };
        report.at(at, format!("the pattern has {counted} steps, and max_steps is {}", limits.max_steps));
    }
    let kind = kind(report, &steps, steps_are_whole);
    let triggers = triggers(report, &inputs, effect);
    let cache = cache(report, effect, &steps);
    let prompt = prompt(report, &inputs, effect);
    let annotations = annotations(report, effect);
    let deprecated = deprecated(report);
    let tests = tests(report, &inputs, inputs_are_whole);
    Pattern {
        name: report.text("/name").to_owned(),
        version: version(report.text("/version")),
        kind,
        description: report.text("/description").split_whitespace().collect::<Vec<_>>().join(" "),
        triggers,
        inputs,
        binds,
        permissions: Arc::new(permissions),
        limits,
        steps,
        output,
        cache,
        prompt,
        annotations,
        deprecated,
        tests,
        effect,
        origin,
        hash: hash(text),
        source: text.into(),
    }
}

fn version(text: &str) -> Version {
    let mut parts = text.split('.').map(|part| part.parse().unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0);
    Version { major: part(), minor: part(), patch: part() }
}

fn binds(report: &mut Report<'_>) -> Vec<(String, BindSource)> {
    report
        .members("/bind")
        .map(|(name, bind)| {
            let source = match bind["from"].as_str().unwrap_or_default() {
                "workspace.root" => BindSource::WorkspaceRoot,
                "project.id" => BindSource::ProjectId,
                "agent" => BindSource::Agent,
                _ => BindSource::Now,
            };
            (name.clone(), source)
        })
        .collect()
}

fn effect(steps: &[StepSpec]) -> Effect {
    let own = steps.iter().map(|step| step.uses.effect);
    let inner = steps.iter().flat_map(|step| &step.children).map(|steps| effect(steps));
    own.chain(inner).max().unwrap_or(Effect::ReadOnly)
}

fn count(steps: &[StepSpec]) -> usize {
    steps.iter().map(|step| 1 + step.children.iter().map(|steps| count(steps)).sum::<usize>()).sum()
}

fn families(steps: &[StepSpec], found: &mut Vec<Family>) {
    for step in steps {
        found.push(step.uses.family);
        step.children.iter().for_each(|steps| families(steps, found));
    }
}

fn kind(report: &mut Report<'_>, steps: &[StepSpec], steps_are_whole: bool) -> PatternKind {
    let mut used = Vec::new();
    families(steps, &mut used);
    let memory = used.contains(&Family::Memory);
    let outside = used
        .iter()
        .any(|family| !matches!(family, Family::Memory | Family::Data | Family::Control | Family::Session));
    let declared = report.text("/type");
    let (kind, fits, fitting) = match declared {
        "infrastructure" => (PatternKind::Infrastructure, !memory, if outside { "hybrid" } else { "memory" }),
        "memory" => (PatternKind::Memory, !outside, if memory { "hybrid" } else { "infrastructure" }),
        _ => (PatternKind::Hybrid, memory && outside, if memory { "memory" } else { "infrastructure" }),
    };
    if !fits && steps_are_whole {
        let why = match kind {
            PatternKind::Infrastructure => "has no memory steps, and this one has",
            PatternKind::Memory => "has no fs or git steps, and this one has",
            PatternKind::Hybrid => "has memory steps and fs or git steps, and this one does not have both",
        };
        report.at_with_hint(
            "/type",
            format!("a pattern of type {declared} {why}"),
            Some(format!("its type is {fitting}")),
        );
    }
    kind
}

fn output(report: &mut Report<'_>, names: &field::Names<'_>) -> OutputSpec {
    let value = report.get("/output/value").cloned().unwrap_or(Value::Null);
    let value = field::template(report, "/output/value", &value, names).0;
    let schema = report.get("/output/schema").cloned().unwrap_or_else(|| Value::Object(Map::new()));
    if !report.tested
        && let Err(error) = inputs::compile(&schema)
    {
        report.at(&format!("/output/schema{}", error.0), format!("not a JSON Schema: {}", error.1));
    }
    let produced = output_fields(&value);
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for name in &required {
        if let Some(produced) = &produced
            && !produced.iter().any(|field| field == name)
        {
            report.at_with_hint(
                "/output/schema/required",
                format!("`{name}` is required, and output.value does not have it"),
                did_you_mean(name, produced.iter().map(String::as_str)),
            );
        }
    }
    let fields = produced.or_else(|| {
        let declared = schema["properties"].as_object()?;
        Some(declared.keys().cloned().collect())
    });
    let mut shrink = Vec::new();
    for (index, item) in report.items("/output/budget/shrink").iter().enumerate() {
        let at = format!("/output/budget/shrink/{index}");
        let known = |report: &mut Report<'_>, member: &str, name: &str| {
            if let Some(fields) = &fields
                && !fields.iter().any(|field| field == name)
            {
                report.at_with_hint(
                    &format!("{at}/{member}"),
                    format!("the output has no field `{name}`"),
                    did_you_mean(name, fields.iter().map(String::as_str))
                        .or_else(|| Some(format!("it has {}", fields.join(", ")))),
                );
            }
        };
        match (item["drop"].as_str(), item["truncate"].as_str(), item["keep"].as_u64()) {
            (Some(name), None, None) => {
                known(report, "drop", name);
                if required.contains(&name) {
                    report.at(
                        &format!("{at}/drop"),
                        format!("`{name}` is required by output.schema: it cannot be dropped"),
                    );
                }
                shrink.push(Shrink::Drop { field: name.to_owned() });
            }
            (None, Some(name), Some(keep)) => {
                known(report, "truncate", name);
                shrink.push(Shrink::Truncate { field: name.to_owned(), keep: keep as usize });
            }
            (None, Some(_), None) => {
                report.at(&at, "`truncate` also says how many it keeps, as in {truncate: log, keep: 12}");
            }
            _ => report.at(&at, "either {drop: field} or {truncate: field, keep: 12}"),
        }
    }
    OutputSpec {
        schema,
        value,
        budget_tokens: report.get("/output/budget/tokens").and_then(Value::as_u64).unwrap_or(900) as usize,
        shrink,
        overflow_handle: report.text("/output/budget/overflow") != "cut",
    }
}

/// Names of the output's fields, where they can be known without running.
fn output_fields(value: &Template) -> Option<Vec<String>> {
    match value {
        Template::Object(members) => Some(members.iter().map(|(name, _)| name.clone()).collect()),
        Template::Literal(Value::Object(members)) => Some(members.keys().cloned().collect()),
        Template::Expression(expression) => expression.reads().fields.clone(),
        _ => None,
    }
}

fn limits(report: &mut Report<'_>) -> PatternLimits {
    let timeout = field::duration_within(report, "/limits/timeout", std::time::Duration::from_mins(30));
    let max_bytes = report.get("/limits/max_bytes").map(|_| field::size(report.text("/limits/max_bytes")));
    if max_bytes.is_some_and(|bytes| bytes > 64 << 20) {
        report.at("/limits/max_bytes", "at most 64MiB");
    }
    let max_steps = report.get("/limits/max_steps").and_then(Value::as_u64);
    PatternLimits {
        timeout: timeout.unwrap_or(std::time::Duration::from_secs(5)),
        max_steps: max_steps.unwrap_or(64) as usize,
        max_bytes: max_bytes.unwrap_or(4 << 20),
    }
}

fn triggers(report: &mut Report<'_>, inputs: &Value, effect: Effect) -> Triggers {
    let auto = match report.text("/triggers/auto") {
        "read-only" => Auto::ReadOnly,
        _ => Auto::Never,
    };
    if auto == Auto::ReadOnly && effect != Effect::ReadOnly {
        let what = if effect == Effect::Writes { "writes" } else { "runs programs" };
        report.at_with_hint(
            "/triggers/auto",
            format!("a pattern that {what} is never run by a query"),
            Some("say `auto: never`".to_owned()),
        );
    }
    for (index, phrase) in report.items("/triggers/phrases").iter().enumerate() {
        if !phrase.as_str().unwrap_or_default().chars().any(char::is_alphanumeric) {
            report.at(
                &format!("/triggers/phrases/{index}"),
                "a phrase without a letter or digit matches nothing",
            );
        }
    }
    let declared: Vec<&str> = inputs["properties"]
        .as_object()
        .into_iter()
        .flat_map(|properties| properties.keys())
        .map(String::as_str)
        .collect();
    let mut regexes = Vec::new();
    for (index, source) in report.texts("/triggers/regex").iter().enumerate() {
        let at = format!("/triggers/regex/{index}");
        if report.tested {
            regexes.push(TriggerRegex::checked(source));
            continue;
        }
        match field::regex(source) {
            Ok(regex) => {
                for name in regex.capture_names().flatten() {
                    if !declared.contains(&name) {
                        report.at_with_hint(
                            &at,
                            format!("the group `{name}` names no input"),
                            did_you_mean(name, declared.iter().copied()),
                        );
                    }
                }
                if regex.is_match("") {
                    report.at(&at, "this regex matches every query, even an empty one");
                }
                regexes.push(TriggerRegex::checked(source));
            }
            Err(message) => report.at(&at, message),
        }
    }
    let triggers = Triggers {
        phrases: report.texts("/triggers/phrases"),
        regexes,
        match_examples: report.texts("/triggers/examples/match"),
        no_match_examples: report.texts("/triggers/examples/no_match"),
        priority: report.get("/triggers/priority").and_then(Value::as_i64).unwrap_or(50) as i32,
        auto,
    };
    if auto == Auto::ReadOnly && triggers.phrases.is_empty() && triggers.regexes.is_empty() {
        report.at_with_hint(
            "/triggers/auto",
            "nothing can trigger this pattern",
            Some("add phrases or a regex, or say `auto: never`".to_owned()),
        );
    }
    for (examples, expected) in [("match", true), ("no_match", false)] {
        for (index, query) in report.texts(&format!("/triggers/examples/{examples}")).iter().enumerate() {
            if !report.tested && Matcher::matches(&triggers, query) != expected {
                let message = if expected {
                    "no phrase or regex matches this example"
                } else {
                    "a phrase or regex matches this example, and it should not"
                };
                report.at(&format!("/triggers/examples/{examples}/{index}"), message);
            }
        }
    }
    triggers
}

fn cache(report: &mut Report<'_>, effect: Effect, steps: &[StepSpec]) -> Option<CacheSpec> {
    report.get("/cache")?;
    let ttl = field::duration_within(report, "/cache/ttl", std::time::Duration::from_hours(24));
    let scope = match report.text("/cache/scope") {
        "call" => CacheScopeRule::Call,
        "session" => CacheScopeRule::Session,
        "principal" => CacheScopeRule::Principal,
        "project" => CacheScopeRule::Project,
        "public" => CacheScopeRule::Public,
        _ => CacheScopeRule::Never,
    };
    if effect != Effect::ReadOnly && scope != CacheScopeRule::Never {
        report.at_key("/cache", "a pattern that writes or executes is never cached", None);
    }
    let mut used = Vec::new();
    families(steps, &mut used);
    if used.contains(&Family::Http) && scope != CacheScopeRule::Never {
        report.at_key("/cache", "what http.get fetched is never cached", None);
    }
    Some(CacheSpec { ttl: ttl.unwrap_or_default(), scope, key: report.texts("/cache/key") })
}

fn prompt(report: &mut Report<'_>, inputs: &Value, effect: Effect) -> Option<PromptSpec> {
    report.get("/prompt")?;
    if effect != Effect::ReadOnly {
        report.at_key("/prompt", "a prompt runs its pattern: only patterns that read may be prompts", None);
    }
    let declared: Vec<&str> = inputs["properties"]
        .as_object()
        .into_iter()
        .flat_map(|properties| properties.keys())
        .map(String::as_str)
        .collect();
    let arguments = report.texts("/prompt/arguments");
    for (index, name) in arguments.iter().enumerate() {
        if !declared.contains(&name.as_str()) {
            report.at_with_hint(
                &format!("/prompt/arguments/{index}"),
                format!("there is no input `{name}`"),
                did_you_mean(name, declared.iter().copied()),
            );
        }
    }
    for name in inputs["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !arguments.iter().any(|argument| argument == name) {
            report.at_key(
                "/prompt",
                format!("the required input `{name}` is not among the prompt's arguments"),
                None,
            );
        }
    }
    Some(PromptSpec { title: report.text("/prompt/title").to_owned(), arguments })
}

fn deprecated(report: &mut Report<'_>) -> Option<Deprecated> {
    let given = report.get("/deprecated")?;
    let text = |name: &str| given[name].as_str().map(|text| text.trim().to_owned());
    let replaced_by = text("replaced_by");
    if replaced_by.as_deref().is_some_and(|name| name == report.text("/name")) {
        report.at("/deprecated/replaced_by", "a pattern cannot replace itself");
    }
    Some(Deprecated { replaced_by, reason: text("reason"), since: text("since") })
}

fn annotations(report: &mut Report<'_>, effect: Effect) -> Map<String, Value> {
    let reads = effect == Effect::ReadOnly;
    if report.get("/annotations/readOnlyHint").and_then(Value::as_bool).is_some_and(|hint| hint != reads) {
        let what = if reads { "only reads" } else { "does not only read" };
        report.at("/annotations/readOnlyHint", format!("this pattern {what}"));
    }
    if reads && report.get("/annotations/destructiveHint").and_then(Value::as_bool) == Some(true) {
        report.at("/annotations/destructiveHint", "this pattern only reads");
    }
    report.get("/annotations").and_then(Value::as_object).cloned().unwrap_or_default()
}

fn tests(report: &mut Report<'_>, inputs: &Value, inputs_are_whole: bool) -> Vec<TestSpec> {
    let validator = (inputs_are_whole && !report.tested).then(|| inputs::compile(inputs).ok()).flatten();
    let mut tests: Vec<TestSpec> = Vec::new();
    for (index, test) in report.items("/tests").iter().enumerate() {
        let at = format!("/tests/{index}");
        let name = test["name"].as_str().unwrap_or_default().to_owned();
        if tests.iter().any(|earlier| earlier.name == name) {
            report.at(&format!("{at}/name"), "another test has this name");
        }
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let expect = &test["expect"];
        if let Some(source) = expect["jq"].as_str()
            && let Err(error) = Expression::compile(source)
        {
            report.at(&format!("{at}/expect/jq"), error.to_string());
        }
        let now = match test["now"].as_str().map(str::parse::<jiff::Timestamp>) {
            Some(Ok(now)) => Some(now),
            Some(Err(_)) => {
                report.at(&format!("{at}/now"), "expects a time such as 2026-03-01T12:00:00Z");
                None
            }
            None => None,
        };
        for member in ["fixture", "memories", "servers"] {
            if !stays_below(test[member].as_str().unwrap_or_default()) {
                report.at(&format!("{at}/{member}"), "expects a path relative to this file, without `..`");
            }
        }
        let sources: Vec<TestSource> = test["sources"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, value)| test_source(name, value))
            .collect();
        for source in &sources {
            if !stays_below(&source.file) {
                let name = yaml::pointer_part(&source.name);
                report.at(
                    &format!("{at}/sources/{name}"),
                    "expects a path relative to this file, without `..`",
                );
            }
        }
        let given = test["inputs"].as_object().cloned().unwrap_or_default();
        if expect["error"].is_null()
            && let Some(validator) = &validator
        {
            let filled = inputs_with_defaults(inputs, given.clone());
            if let Some((pointer, message)) = inputs::first_error(validator, &filled) {
                report.at(&format!("{at}/inputs{pointer}"), message);
            }
        }
        tests.push(TestSpec {
            name,
            fixture: text(&test["fixture"]),
            memories: text(&test["memories"]),
            servers: text(&test["servers"]),
            sources,
            now,
            inputs: given,
            expect_jq: text(&expect["jq"]),
            expect_max_tokens: expect["max_tokens"].as_u64().map(|tokens| tokens as usize),
            expect_error: text(&expect["error"]),
        });
    }
    tests
}

/// Whether `path` is relative and leads nowhere else.
fn stays_below(path: &str) -> bool {
    let mut parts = std::path::Path::new(path).components();
    parts.all(|part| matches!(part, std::path::Component::Normal(_)))
}

/// A database of a test; the schema has seen to its form.
fn test_source(name: &str, value: &Value) -> TestSource {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let queries = value["queries"].as_object().into_iter().flatten().map(|(name, query)| {
        let params = query["params"].as_array().into_iter().flatten().map(text).collect();
        (name.clone(), text(&query["sql"]), text(&query["description"]), params)
    });
    let file = if value.is_string() { text(value) } else { text(&value["file"]) };
    TestSource { name: name.to_owned(), file, queries: queries.collect() }
}
