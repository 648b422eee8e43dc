//! What a validator found wrong: paths and rules, never values.

use std::{collections::HashSet, fmt};

use jsonschema::{
    ValidationError, Validator,
    error::{TypeKind, ValidationErrorKind},
};
use serde_json::Value;

/// At most so many faults are kept per violation.
pub const VIOLATION_FAULTS_MAX: usize = 3;

/// Longest instance path kept, in bytes: its keys come from the peer.
const PATH_BYTES_MAX: usize = 200;

/// So many errors are looked at before the first [`VIOLATION_FAULTS_MAX`] by path are kept.
const ERRORS_SEEN_MAX: usize = 64;

/// One thing wrong in a message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// JSON Pointer to the place, from the message's root.
    pub instance_path: String,
    /// What the schema wants there, as a fragment. Never quotes the value: it may be a secret.
    pub message: String,
}

impl Fault {
    pub(super) fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { instance_path: path.into(), message: message.into() }
    }
}

/// A message does not fit its schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Violation {
    /// The definition that was applied, for instance `2025-06-18 tools/call request`.
    pub definition: String,
    /// At least one, at most [`VIOLATION_FAULTS_MAX`], ordered by path.
    pub faults: Vec<Fault>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a valid {}: ", self.definition)?;
        for (index, fault) in self.faults.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            let path = if fault.instance_path.is_empty() { "/" } else { &fault.instance_path };
            write!(f, "{separator}{path} {}", fault.message)?;
        }
        Ok(())
    }
}

impl Violation {
    /// One fault that no schema finds.
    pub(super) fn single(definition: String, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { definition, faults: vec![Fault::new(path, message)] }
    }

    /// The first faults by path of a value that `validator` refused. `prefix` is where the value stands in its message;
    /// `known` are the member names that the definition speaks of.
    ///
    /// Explaining costs far more than refusing, and the peer chooses the size: a large value is cut down first.
    pub(super) fn collect(
        definition: String,
        prefix: &str,
        validator: &Validator,
        value: &Value,
        known: impl FnOnce() -> HashSet<String>,
    ) -> Self {
        let mut faults = Vec::new();
        let mut explain_all = |value: &Value| {
            for error in validator.iter_errors(value).take(ERRORS_SEEN_MAX) {
                explain(&error, prefix, &mut faults);
            }
        };
        if is_small(value, &mut { EXPLAINED_NODES_MAX }) {
            explain_all(value);
        } else {
            explain_all(&cut_down(value, &known()));
        }
        faults.sort();
        faults.dedup();
        faults.truncate(VIOLATION_FAULTS_MAX);
        if faults.is_empty() {
            let message = format!("does not fit beyond the first {LIST_ITEMS_EXPLAINED_MAX} items of a list");
            faults.push(Fault::new(prefix, message));
        }
        Self { definition, faults }
    }
}

/// A value of so many parts is explained as it is.
const EXPLAINED_NODES_MAX: usize = 256;

/// Of a larger value, so many items of each list, and so many members that the definition does not name, are looked at.
const LIST_ITEMS_EXPLAINED_MAX: usize = 8;

/// Longest string kept in a value that is cut down; longer than every word of a schema, so no string becomes one.
const STRING_CHARS_KEPT: usize = 64;

fn is_small(value: &Value, budget: &mut usize) -> bool {
    let Some(rest) = budget.checked_sub(1) else { return false };
    *budget = rest;
    match value {
        Value::Array(items) => items.iter().all(|item| is_small(item, budget)),
        Value::Object(members) => members.values().all(|member| is_small(member, budget)),
        Value::String(text) => text.len() <= 4 * STRING_CHARS_KEPT * EXPLAINED_NODES_MAX,
        Value::Null | Value::Bool(_) | Value::Number(_) => true,
    }
}

/// A copy that keeps its shape: lists lose their ends, maps lose members that no definition names.
fn cut_down(value: &Value, known: &HashSet<String>) -> Value {
    match value {
        Value::Array(items) => {
            items.iter().take(LIST_ITEMS_EXPLAINED_MAX).map(|item| cut_down(item, known)).collect()
        }
        Value::Object(members) => {
            let mut others = 0;
            let kept = members.iter().filter(|(name, _)| {
                known.contains(*name) || {
                    others += 1;
                    others <= LIST_ITEMS_EXPLAINED_MAX
                }
            });
            Value::Object(kept.map(|(name, member)| (name.clone(), cut_down(member, known))).collect())
        }
        Value::String(text) => Value::String(text.chars().take(STRING_CHARS_KEPT).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// Adds what `error` says; of alternatives only the one that was meant, if that can be told, else what all of them miss.
fn explain(error: &ValidationError<'_>, prefix: &str, faults: &mut Vec<Fault>) {
    if let ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } =
        error.kind()
    {
        let base = error.instance_path().as_str();
        if let Some(meant) = meant_alternative(context, base.len()) {
            for inner in meant {
                explain(inner, prefix, faults);
            }
            return;
        }
        if let Some(fault) = common_fault(context, base) {
            faults.push(Fault::new(bounded_path(prefix, &fault.instance_path), fault.message));
            return;
        }
    }
    if let ValidationErrorKind::AdditionalProperties { unexpected } = error.kind() {
        for name in unexpected.iter().take(VIOLATION_FAULTS_MAX) {
            let name = name.replace('~', "~0").replace('/', "~1");
            let path = bounded_path(prefix, &format!("{}/{name}", error.instance_path().as_str()));
            faults.push(Fault::new(path, "is not known here"));
        }
        return;
    }
    faults.push(Fault::new(bounded_path(prefix, error.instance_path().as_str()), rule(error.kind())));
}

/// Members that tell alternatives apart.
const DISCRIMINATORS: [&str; 4] = ["type", "mode", "method", "action"];

/// Errors of one alternative.
type Alternative = Vec<ValidationError<'static>>;

/// The alternative that the value claims to be: the only one of the value's own type whose discriminating member, right
/// below the value at `depth`, is there and right, or the only one of those that has all its members.
fn meant_alternative(context: &[Alternative], depth: usize) -> Option<&Alternative> {
    let claimed = |errors: &&Alternative| {
        !errors.iter().any(|error| {
            let below = error.instance_path().as_str().get(depth..).unwrap_or("");
            match error.kind() {
                ValidationErrorKind::Constant { .. } | ValidationErrorKind::Enum { .. } => {
                    below.strip_prefix('/').is_some_and(|member| DISCRIMINATORS.contains(&member))
                }
                ValidationErrorKind::Type { .. } | ValidationErrorKind::AnyOf { .. } => below.is_empty(),
                ValidationErrorKind::Required { property } => {
                    below.is_empty()
                        && property.as_str().is_some_and(|property| DISCRIMINATORS.contains(&property))
                }
                _ => false,
            }
        })
    };
    let complete = |errors: &&Alternative| {
        !errors.iter().any(|error| {
            matches!(error.kind(), ValidationErrorKind::Required { .. })
                && error.instance_path().as_str().len() == depth
        })
    };
    only(context.iter().filter(claimed)).or_else(|| only(context.iter().filter(claimed).filter(complete)))
}

/// The item of an iterator that has just one.
fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next()?;
    items.next().is_none().then_some(first)
}

/// The one thing that every alternative finds wrong with the value at `base`: its type, a missing member, or the word in
/// the member that tells them apart.
fn common_fault(context: &[Alternative], base: &str) -> Option<Fault> {
    // One error per alternative, or nothing.
    let of_each =
        |path: &str, wanted: &dyn Fn(&ValidationErrorKind) -> Option<String>| -> Option<Vec<String>> {
            let mut found: Vec<String> = Vec::new();
            for errors in context {
                let mut here = errors.iter().filter(|error| error.instance_path().as_str() == path);
                let text = here.find_map(|error| wanted(error.kind()))?;
                if !found.contains(&text) {
                    found.push(text);
                }
            }
            (!found.is_empty()).then_some(found)
        };
    let types = of_each(base, &|kind| match kind {
        ValidationErrorKind::Type { kind } => Some(type_nouns(kind)),
        // Alternatives of alternatives: each of them wants the type that the first of its own wants.
        ValidationErrorKind::AnyOf { context } => {
            context.first()?.iter().find_map(|error| match error.kind() {
                ValidationErrorKind::Type { kind } => Some(type_nouns(kind)),
                _ => None,
            })
        }
        _ => None,
    });
    if let Some(types) = types {
        return Some(Fault::new(base, format!("must be {}", types.join(" or "))));
    }
    for member in DISCRIMINATORS {
        let lacks = of_each(base, &|kind| match kind {
            ValidationErrorKind::Required { property } if property.as_str() == Some(member) => {
                Some(format!("lacks `{member}`"))
            }
            _ => None,
        });
        if let Some(lacks) = lacks {
            return Some(Fault::new(base, lacks.join(" or ")));
        }
        let path = format!("{base}/{member}");
        let words = of_each(&path, &|kind| match kind {
            ValidationErrorKind::Constant { expected_value } => Some(expected_value.to_string()),
            ValidationErrorKind::Enum { options } => Some(option_list(options)),
            _ => None,
        });
        if let Some(words) = words {
            return Some(Fault::new(path, format!("must be one of {}", words.join(", "))));
        }
    }
    let lacks = of_each(base, &|kind| match kind {
        ValidationErrorKind::Required { property } => Some(format!("`{}`", property.as_str()?)),
        _ => None,
    })?;
    Some(Fault::new(base, format!("lacks {}", lacks.join(" or "))))
}

fn bounded_path(prefix: &str, path: &str) -> String {
    let mut whole = format!("{prefix}{path}");
    if whole.len() > PATH_BYTES_MAX {
        let end = (0..=PATH_BYTES_MAX).rev().find(|&end| whole.is_char_boundary(end)).unwrap_or(0);
        whole.truncate(end);
        whole.push('…');
    }
    whole
}

/// The rule that was broken, in words. Only what stands in the schema is quoted.
fn rule(kind: &ValidationErrorKind) -> String {
    match kind {
        ValidationErrorKind::Type { kind } => format!("must be {}", type_nouns(kind)),
        ValidationErrorKind::Required { property } => {
            format!("lacks `{}`", property.as_str().unwrap_or_default())
        }
        ValidationErrorKind::Constant { expected_value } => format!("must be {expected_value}"),
        ValidationErrorKind::Enum { options } => format!("must be one of {}", option_list(options)),
        ValidationErrorKind::Minimum { limit } => format!("must be at least {limit}"),
        ValidationErrorKind::Maximum { limit } => format!("must be at most {limit}"),
        ValidationErrorKind::MinLength { limit: 1 } => "must not be empty".to_owned(),
        ValidationErrorKind::MaxLength { limit } => format!("must have at most {limit} characters"),
        ValidationErrorKind::Pattern { pattern } => format!("must match `{pattern}`"),
        ValidationErrorKind::MaxProperties { limit: 0 } => "must be empty".to_owned(),
        ValidationErrorKind::MaxItems { limit } => format!("must have at most {limit} items"),
        ValidationErrorKind::MinItems { limit } => format!("must have at least {limit} items"),
        ValidationErrorKind::AnyOf { .. } | ValidationErrorKind::OneOfNotValid { .. } => {
            "fits none of the allowed forms".to_owned()
        }
        other => format!("breaks the rule `{}`", other.keyword()),
    }
}

fn type_nouns(kind: &TypeKind) -> String {
    match kind {
        TypeKind::Single(wanted) => noun(wanted.as_str()).to_owned(),
        TypeKind::Multiple(wanted) => {
            let nouns: Vec<&str> = wanted.iter().map(|wanted| noun(wanted.as_str())).collect();
            nouns.join(" or ")
        }
    }
}

fn option_list(options: &Value) -> String {
    let options = options.as_array().map(Vec::as_slice).unwrap_or_default();
    options.iter().map(Value::to_string).collect::<Vec<_>>().join(", ")
}

fn noun(json_type: &str) -> &'static str {
    match json_type {
        "array" => "an array",
        "boolean" => "a boolean",
        "integer" => "an integer",
        "null" => "null",
        "number" => "a number",
        "object" => "an object",
        "string" => "a string",
        _ => "of another type",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        revision::Revision,
        schema::{Definition, verdict},
        wire::Method,
    };

    fn faults(definition: Definition, value: &Value) -> String {
        verdict(Revision::V2025_11_25, definition, value).unwrap_err().to_string()
    }

    #[test]
    fn at_most_three_faults_are_told_in_the_order_of_their_paths() {
        let request = json!({"jsonrpc": "1.0", "id": null, "method": "x", "params": []});
        insta::assert_snapshot!(
            faults(Definition::Message(Method::ToolsCall), &request),
            @r#"not a valid 2025-11-25 tools/call request: /id must be an integer or a string; /jsonrpc must be "2.0"; /method must be "tools/call""#
        );
    }

    #[test]
    fn a_large_value_is_explained_by_its_beginning() {
        let blocks: Vec<Value> = (0..50_000).map(|_| json!({"type": "video"})).collect();
        let answer = json!({"role": "assistant", "model": "m", "content": blocks});
        insta::assert_snapshot!(
            faults(Definition::Result(Method::SamplingCreateMessage), &answer),
            @r#"not a valid 2025-11-25 sampling/createMessage result: /content/0/type must be one of "text", "image", "audio", "tool_use", "tool_result"; /content/1/type must be one of "text", "image", "audio", "tool_use", "tool_result"; /content/2/type must be one of "text", "image", "audio", "tool_use", "tool_result""#
        );
        let mut blocks: Vec<Value> = (0..50_000).map(|_| json!({"type": "text", "text": ""})).collect();
        blocks[40_000] = Value::Null;
        let answer = json!({"role": "assistant", "model": "m", "content": blocks});
        insta::assert_snapshot!(
            faults(Definition::Result(Method::SamplingCreateMessage), &answer),
            @"not a valid 2025-11-25 sampling/createMessage result: / does not fit beyond the first 8 items of a list"
        );
    }

    #[test]
    fn members_that_a_definition_names_survive_cutting_down() {
        let mut params: serde_json::Map<String, Value> =
            (0..1_000).map(|index| (format!("unknown{index}"), Value::Null)).collect();
        params.insert("name".to_owned(), json!("t"));
        params.insert("arguments".to_owned(), json!(1));
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
        insta::assert_snapshot!(
            faults(Definition::Message(Method::ToolsCall), &request),
            @"not a valid 2025-11-25 tools/call request: /params/arguments must be an object"
        );
    }

    #[test]
    fn a_long_path_is_cut() {
        let request = json!({"jsonrpc": "2.0", "id": 1, "method": "prompts/get",
            "params": {"name": "p", "arguments": {"ü".repeat(500): 1}}});
        let violation = verdict(Revision::V2025_11_25, Definition::Message(Method::PromptsGet), &request);
        let path = violation.unwrap_err().faults.remove(0).instance_path;
        assert!(path.starts_with("/params/arguments/ü") && path.len() <= PATH_BYTES_MAX + '…'.len_utf8());
    }
}
