//! Inputs: defaults, then the pattern's own schema, with messages that name the input and what to do.

use jsonschema::{PatternOptions, ValidationError, Validator, error::ValidationErrorKind};
use serde_json::{Map, Value};

use super::{EngineError, ErrorKind};
use crate::nearest::nearest;

/// Compiles a JSON Schema 2020-12 whose regexes run in linear time and whose references stay inside it.
///
/// # Errors
/// Why it is no schema.
pub(super) fn schema(schema: &Value) -> Result<Validator, String> {
    jsonschema::draft202012::options()
        .with_pattern_options(PatternOptions::regex())
        .build(schema)
        .map_err(|error| error.to_string())
}

/// Fills in defaults (of the top level only) and checks: `given` as the steps will see it.
///
/// # Errors
/// `invalid_input`, its `part` the input concerned.
pub(super) fn prepare(
    schema: &Value,
    validator: &Validator,
    given: Map<String, Value>,
) -> Result<Map<String, Value>, EngineError> {
    let properties = schema.get("properties").and_then(Value::as_object);
    let mut input = given;
    for (name, property) in properties.into_iter().flatten() {
        if let Some(default) = property.get("default")
            && !input.contains_key(name)
        {
            input.insert(name.clone(), default.clone());
        }
    }
    let input = Value::Object(input);
    if let Some(error) = validator.iter_errors(&input).next() {
        let names: Vec<&str> = properties.into_iter().flat_map(Map::keys).map(String::as_str).collect();
        return Err(refused(&error, &names));
    }
    match input {
        Value::Object(input) => Ok(input),
        _ => unreachable!("made an object above"),
    }
}

fn refused(error: &ValidationError<'_>, names: &[&str]) -> EngineError {
    let path = error.instance_path().to_string();
    let place = path.trim_start_matches('/').replace('/', ".");
    let (part, message) = match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected }
            if place.is_empty() =>
        {
            let name = unexpected.first().cloned().unwrap_or_default();
            let hint = match (nearest(&name, names.iter().copied()), names) {
                (Some(near), _) => format!("; did you mean `{near}`?"),
                (None, []) => "; this pattern takes no inputs".to_owned(),
                (None, names) => format!("; the inputs are {}", names.join(", ")),
            };
            (name.clone(), format!("unknown input `{}`{hint}", short(&name)))
        }
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            let name = if place.is_empty() { name.to_owned() } else { format!("{place}.{name}") };
            (name.clone(), format!("input `{name}` is missing"))
        }
        _ => {
            let name = if place.is_empty() { "input".to_owned() } else { place };
            // What is wrong must not be lost behind a long value.
            let quoted = error.to_string();
            let told = if quoted.chars().count() > 200 { error.masked().to_string() } else { quoted };
            (name.clone(), format!("input `{name}`: {}", short(&told)))
        }
    };
    EngineError {
        kind: ErrorKind::InvalidInput,
        message,
        part: Some(short(&part)),
        retry_after: None,
        receipt: None,
    }
}

fn short(text: &str) -> String {
    super::steps::data_clip(text, 200)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn inputs_are_completed_or_refused_by_name() {
        let of = json!({
            "type": "object",
            "additionalProperties": false,
            "required": ["query"],
            "properties": {
                "query": {"type": "string", "minLength": 1},
                "since": {"type": "string", "pattern": "^\\d+[hdw]$", "default": "7d"},
                "tags": {"type": "array", "items": {"type": "string"}},
                "k": {"type": "integer", "maximum": 20},
            },
        });
        let validator = schema(&of).unwrap();
        let cases = [
            (json!({"query": "a"}), Ok(json!({"query": "a", "since": "7d"}))),
            (json!({"query": "a", "since": "1h"}), Ok(json!({"query": "a", "since": "1h"}))),
            (json!({}), Err(("query", "input `query` is missing"))),
            (
                json!({"query": "a", "sinse": "1h"}),
                Err(("sinse", "unknown input `sinse`; did you mean `since`?")),
            ),
            (
                json!({"query": "a", "colour": 1}),
                Err(("colour", "unknown input `colour`; the inputs are query, since, tags, k")),
            ),
            (
                json!({"query": "a", "since": "yesterday"}),
                Err(("since", r#"input `since`: "yesterday" does not match "^\d+[hdw]$""#)),
            ),
            (
                json!({"query": "a", "since": "1".repeat(500)}),
                Err(("since", r#"input `since`: value does not match "^\d+[hdw]$""#)),
            ),
            (
                json!({"query": "a", "tags": ["x", 1]}),
                Err(("tags.1", r#"input `tags.1`: 1 is not of type "string""#)),
            ),
            (json!({"query": "a", "k": 50}), Err(("k", "input `k`: 50 is greater than the maximum of 20"))),
        ];
        for (given, expected) in cases {
            let Value::Object(map) = given.clone() else { unreachable!() };
            let got = prepare(&of, &validator, map);
            match (got, expected) {
                (Ok(got), Ok(expected)) => assert_eq!(Value::Object(got), expected),
                (Err(error), Err((part, message))) => {
                    assert_eq!((error.part.as_deref(), error.message.as_str()), (Some(part), message));
                    assert_eq!(error.kind, ErrorKind::InvalidInput);
                }
                (got, expected) => panic!("{given}: {got:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn a_schema_cannot_backtrack_or_reach_outside() {
        assert!(schema(&json!({"type": "string", "pattern": "(?=a)b"})).is_err());
        assert!(schema(&json!({"$ref": "https://example.org/schema.json"})).is_err());
    }
}
