//! What the arguments of steps are, so far as a literal can be judged by itself when the file is read. What an expression
//! gives, and what depends on more (a root that was granted, a source that is configured), the step itself judges.

use serde_json::Value;

use super::expression::expression_source;
use crate::stoppable::{Reading, Stoppable, Unfit};

/// Largest compiled form of a regex, in bytes.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// What an argument takes. Null is everywhere as if it were left out.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Any,
    Text,
    Flag,
    /// A whole number within bounds.
    Count(usize, usize),
    /// A number from 0 to 1.
    Fraction,
    /// A text, or a list of texts.
    Texts,
    List,
    OneOf(&'static [&'static str]),
    /// A linear-time regex.
    Regex,
}

/// What `name` of the step `uses` takes.
#[expect(clippy::match_same_arms, reason = "a table: a row is one argument, whatever others take the same")]
fn kind(uses: &str, name: &str) -> Kind {
    use Kind::{Any, Count, Flag, Fraction, List, OneOf, Regex, Text, Texts};
    const ALL: usize = usize::MAX >> 1;
    match (uses, name) {
        ("fs.grep", "pattern") => Regex,
        ("fs.read", "offset") => Count(1, ALL),
        ("fs.read", "limit") => Count(1, 20_000),
        ("fs.glob", "limit") => Count(1, 10_000),
        ("fs.grep", "limit") => Count(1, 2000),
        ("fs.grep", "context") => Count(0, 10),
        ("fs.grep", "max_per_file") => Count(1, 500),
        ("fs.tree" | "fs.outline", "limit") => Count(1, 5000),
        ("fs.tree", "depth") => Count(1, 16),
        ("fs.outline", "depth") => Count(0, 64),
        ("fs.outline", "max_per_file") => Count(1, 2000),
        ("git.log", "max") => Count(1, 2000),
        ("git.diff", "context") => Count(0, 20),
        ("git.blame", "from_line" | "to_line") => Count(1, 10_000_000),
        ("git.blame", "lines") => List,
        ("exec.run", "max_bytes") => Count(1 << 10, 4 << 20),
        ("http.get", "max_bytes") => Count(1, 16 << 20),
        ("sql.query", "rows") => Count(1, 10_000),
        ("sql.describe", "limit") => Count(1, 500),
        ("memory.search" | "memory.list", "k") => Count(0, 100),
        ("memory.search" | "memory.list", "offset") => Count(0, 1_000_000),
        ("memory.list", "order") => Text,
        ("memory.store", "visibility") => OneOf(&["session", "agent", "project", "shared"]),
        ("memory.store", "trust") => OneOf(&["user", "agent", "external"]),
        ("data.parse", "format") => OneOf(&["test", "build", "log"]),
        ("data.parse", "limit") => Count(1, 500),
        ("data.group" | "data.rank", "limit") | ("data.truncate", "keep" | "chars") => Count(0, 1_000_000),
        ("control.foreach", "limit") => Count(0, 1_000),
        ("control.foreach", "concurrency") => Count(0, 8),
        ("llm.complete", "max_tokens") => Count(1, ALL),
        ("data.group" | "data.dedupe" | "data.rank" | "data.merge" | "control.foreach", "items") => List,
        ("memory.search" | "memory.list" | "memory.store" | "memory.update", "tags")
        | ("memory.forget", "ids")
        | ("sql.describe", "tables") => Texts,
        (_, "importance" | "importance_min") => Fraction,
        (
            _,
            "tail" | "hidden" | "ignore_case" | "word" | "literal" | "lines" | "stat" | "staged"
            | "merge_base" | "patch" | "merge" | "superseded",
        ) => Flag,
        (
            _,
            "accept" | "by" | "code" | "command" | "content" | "expires" | "filter" | "from" | "glob" | "id"
            | "kind" | "message" | "name" | "path" | "pattern" | "prompt" | "query" | "repo" | "rev" | "root"
            | "server" | "since" | "source" | "supersedes" | "system" | "template" | "text" | "to" | "tool"
            | "until" | "url",
        ) => Text,
        _ => Any,
    }
}

/// Why `value` cannot be `name` of the step `uses`; `None` where it can, or where only the run can tell: an expression
/// gives anything. `literal`: a regex is meant as it is.
pub(super) fn fault(uses: &str, name: &str, value: &Value, literal: bool) -> Option<String> {
    if let (Kind::Regex, Some(source)) = (kind(uses, name), value.as_str()) {
        let is_meant = !literal && expression_source(source).is_none();
        return regex_fault(source).filter(|_| is_meant).map(|fault| format!("`{name}` of {uses}: {fault}"));
    }
    unfit(uses, name, value).map(|expected| format!("`{name}` of {uses} must be {expected}"))
}

/// What a literal `value` must be and is not.
fn unfit(uses: &str, name: &str, value: &Value) -> Option<String> {
    match value {
        Value::Null => return None,
        Value::String(text) if expression_source(text).is_some() => return None,
        _ => {}
    }
    let text = |value: &Value| value.is_string();
    let is_expression = |value: &Value| value.as_str().is_some_and(|text| expression_source(text).is_some());
    match kind(uses, name) {
        Kind::Any => None,
        Kind::Text | Kind::Regex => (!text(value)).then(|| "a text".to_owned()),
        Kind::Flag => (!value.is_boolean()).then(|| "true or false".to_owned()),
        Kind::Count(min, max) => {
            let fits = value.as_u64().is_some_and(|count| (min as u64..=max as u64).contains(&count));
            (!fits).then(|| match max {
                0..=0xFFFF_FFFF => format!("a whole number from {min} to {max}"),
                _ => format!("a whole number from {min}"),
            })
        }
        Kind::Fraction => {
            let fits = value.as_f64().is_some_and(|number| (0.0..=1.0).contains(&number));
            (!fits).then(|| "a number from 0 to 1".to_owned())
        }
        Kind::Texts => {
            let fits = text(value)
                || value
                    .as_array()
                    .is_some_and(|items| items.iter().all(|item| text(item) || is_expression(item)));
            (!fits).then(|| "a list of texts".to_owned())
        }
        Kind::List => (!value.is_array()).then(|| "a list".to_owned()),
        Kind::OneOf(words) => {
            let fits = value.as_str().is_some_and(|word| word.is_empty() || words.contains(&word));
            (!fits).then(|| words.join(", "))
        }
    }
}

/// Why `source` is no regex that can be searched for.
pub(super) fn regex_fault(source: &str) -> Option<String> {
    let reading = Reading { size_max: REGEX_BYTES_MAX, ..Reading::default() };
    // The engine shows the regex and the place over several lines, then says why.
    Stoppable::new(source, reading).err().map(|unfit| match unfit {
        Unfit::Syntax(why) => {
            let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!("not a linear-time regex (no look-around, no back-references): {why:.200}")
        }
        unfit => unfit.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pattern::STEPS;

    #[test]
    fn what_an_argument_is_not_is_said() {
        for (uses, name, value, expected) in [
            ("fs.read", "limit", json!("abc"), Some("a whole number from 1 to 20000")),
            ("fs.read", "tail", json!(5), Some("true or false")),
            ("fs.read", "offset", json!(0), Some("a whole number from 1")),
            ("http.get", "max_bytes", json!("lots"), Some("a whole number from 1 to 16777216")),
            ("fs.grep", "limit", json!(-1), Some("a whole number from 1 to 2000")),
            ("memory.store", "tags", json!([1]), Some("a list of texts")),
            ("memory.store", "importance", json!(2), Some("a number from 0 to 1")),
            ("data.parse", "format", json!("xml"), Some("test, build, log")),
            ("data.merge", "items", json!("a"), Some("a list")),
            ("fs.read", "path", json!(["a"]), Some("a text")),
            ("fs.read", "limit", json!(null), None),
            ("fs.read", "limit", json!("${ .inputs.n }"), None),
            ("memory.store", "tags", json!(["a", "${ .inputs.tag }"]), None),
            ("memory.store", "tags", json!("a"), None),
            ("mcp.call", "arguments", json!({"a": 1}), None),
        ] {
            let expected = expected.map(|expected| format!("`{name}` of {uses} must be {expected}"));
            assert_eq!(fault(uses, name, &value, false), expected, "{value}");
        }
        let look = fault("fs.grep", "pattern", &json!("(?=x)"), false).unwrap();
        assert!(look.starts_with("`pattern` of fs.grep: not a linear-time regex (no look-around"), "{look}");
        assert_eq!(fault("fs.grep", "pattern", &json!("(?=x)"), true), None);
    }

    /// What takes anything is known by name, so that nobody forgets a new argument.
    #[test]
    fn every_argument_is_in_the_table() {
        const ANY: &[&str] = &[
            "args",
            "arguments",
            "as",
            "cases",
            "default",
            "input",
            "items",
            "order",
            "params",
            "schema",
            "session",
            "steps",
            "that",
            "values",
        ];
        for row in STEPS {
            for name in row.required.iter().chain(row.optional) {
                assert!(
                    kind(row.uses, name) != Kind::Any || ANY.contains(name),
                    "{} of {} is in no row",
                    name,
                    row.uses
                );
            }
        }
    }
}
