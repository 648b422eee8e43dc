//! The shape of a pattern file, by the published JSON Schema, with messages for people.

use std::sync::LazyLock;

use jsonschema::{PatternOptions, ValidationError, Validator, error::ValidationErrorKind};
use serde_json::Value;

use super::{PATTERN_SCHEMA, Report, did_you_mean};
use crate::pattern::yaml::pointer_part;

static SCHEMA: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(PATTERN_SCHEMA).expect("the embedded schema is JSON (tested)"));

static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| {
    jsonschema::draft202012::options()
        .with_pattern_options(PatternOptions::regex())
        .build(&SCHEMA)
        .expect("the embedded schema is a JSON Schema (tested)")
});

/// Lists of steps inside `with`, which the schema of the file does not look into.
static STEPS_VALIDATOR: LazyLock<Validator> = LazyLock::new(|| {
    let schema = serde_json::json!({
        "$id": "urn:tmws:schema:pattern:steps",
        "$ref": "#/$defs/steps",
        "$defs": SCHEMA["$defs"],
    });
    jsonschema::draft202012::options()
        .with_pattern_options(PatternOptions::regex())
        .build(&schema)
        .expect("a part of the embedded schema is a JSON Schema (tested)")
});

/// Reports what is wrong with the list of steps at `pointer`; whether nothing is.
pub(super) fn check_steps(report: &mut Report<'_>, pointer: &str) -> bool {
    let before = report.errors.len();
    if let Some(steps) = report.get(pointer) {
        violations(report, &STEPS_VALIDATOR, steps, pointer);
    }
    report.errors.len() == before
}

/// Reports every place where the document has not the shape of a pattern.
pub(super) fn check(report: &mut Report<'_>) {
    let document = &report.document.value;
    if !document.is_object() {
        report.at("", "a pattern is a mapping: apiVersion, kind, name, …");
        return;
    }
    violations(report, &VALIDATOR, document, "");
}

fn violations(report: &mut Report<'_>, validator: &Validator, value: &Value, prefix: &str) {
    let mut seen = Vec::new();
    for error in validator.iter_errors(value) {
        let pointer = format!("{prefix}{}", error.instance_path().as_str());
        match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected } => {
                let known = parent(&error).and_then(|schema| schema["properties"].as_object());
                for key in unexpected {
                    let known = known.into_iter().flat_map(|known| known.keys()).map(String::as_str);
                    let hint = did_you_mean(key, known.clone()).or_else(|| {
                        let known: Vec<_> = known.collect();
                        (!known.is_empty()).then(|| format!("known here: {}", known.join(", ")))
                    });
                    report.at_key(
                        &format!("{pointer}/{}", pointer_part(key)),
                        format!("unknown key `{key:.40}`"),
                        hint,
                    );
                }
            }
            ValidationErrorKind::Required { property } => {
                let place = dotted(&pointer);
                let of = if place.is_empty() { String::new() } else { format!(" in {place}") };
                report.at_key(
                    &pointer,
                    format!("`{}` is missing{of}", property.as_str().unwrap_or_default()),
                    None,
                );
            }
            ValidationErrorKind::PropertyNames { error: inner } => {
                let name = inner.instance().as_str().unwrap_or_default().to_owned();
                let says = says(inner).unwrap_or("a valid name");
                report.at_key(
                    &format!("{pointer}/{}", pointer_part(&name)),
                    format!("the name `{name:.40}` is not {says}"),
                    None,
                );
            }
            // One complaint a place: a text that breaks a pattern and a length is wrong once.
            _ if seen.contains(&pointer) => {}
            kind => {
                let place = dotted(&pointer);
                let (message, hint) = expectation(&error, kind);
                report.at_with_hint(&pointer, format!("{place} expects {message}"), hint);
                seen.push(pointer);
            }
        }
    }
}

fn expectation(error: &ValidationError<'_>, kind: &ValidationErrorKind) -> (String, Option<String>) {
    if let Some(says) = says(error) {
        return (says.to_owned(), None);
    }
    let message = match kind {
        ValidationErrorKind::Enum { options } => {
            let options: Vec<&str> =
                options.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let given = error.instance().as_str().unwrap_or_default();
            return (format!("one of {}", options.join(", ")), did_you_mean(given, options.iter().copied()));
        }
        ValidationErrorKind::Type { .. } => {
            let wanted = parent(error).map_or(&Value::Null, |schema| &schema["type"]);
            match wanted.as_str().unwrap_or_default() {
                "object" => "a mapping",
                "array" => "a list",
                "string" => "a text (quote it)",
                "integer" => "a whole number",
                "boolean" => "true or false",
                _ => "another type of value",
            }
            .to_owned()
        }
        ValidationErrorKind::Minimum { limit } => format!("at least {limit}"),
        ValidationErrorKind::Maximum { limit } => format!("at most {limit}"),
        ValidationErrorKind::MinLength { limit } => format!("at least {limit} characters"),
        ValidationErrorKind::MaxLength { limit } => format!("at most {limit} characters"),
        ValidationErrorKind::MinItems { limit } => format!("at least {limit} items"),
        ValidationErrorKind::MaxItems { limit } => format!("at most {limit} items"),
        ValidationErrorKind::MinProperties { limit } => format!("at least {limit} members"),
        ValidationErrorKind::MaxProperties { limit } => format!("at most {limit} members"),
        ValidationErrorKind::UniqueItems => "no item twice".to_owned(),
        other => format!("something else (schema keyword {})", other.keyword()),
    };
    (message, None)
}

/// The schema object that holds the keyword which failed.
fn parent(error: &ValidationError<'_>) -> Option<&'static Value> {
    let location = error.absolute_keyword_location()?.as_str();
    let pointer = location.split_once('#').map_or("", |(_, pointer)| pointer).replace("%24", "$");
    let (parent, _) = pointer.rsplit_once('/')?;
    SCHEMA.pointer(parent)
}

/// The words of the schema for what belongs there.
fn says(error: &ValidationError<'_>) -> Option<&'static str> {
    parent(error)?["x-says"].as_str()
}

/// A JSON Pointer as people write places: `limits.timeout`, `steps[0].with`.
fn dotted(pointer: &str) -> String {
    let mut place = String::new();
    for part in pointer.split('/').skip(1) {
        if part.bytes().all(|byte| byte.is_ascii_digit()) {
            place.extend(["[", part, "]"]);
        } else {
            if !place.is_empty() {
                place.push('.');
            }
            place.push_str(&part.replace("~1", "/").replace("~0", "~"));
        }
    }
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_schema_is_a_schema_and_explains_its_fields() {
        assert!(jsonschema::draft202012::meta::is_valid(&SCHEMA));
        assert!(VALIDATOR.is_valid(&serde_json::json!({
            "apiVersion": "tmws/v1", "kind": "Pattern", "name": "a", "version": "1.0.0", "type": "memory",
            "description": "as short as can be", "steps": [{"id": "a", "uses": "data.merge"}], "output": {"value": 1}
        })));
        for (name, property) in SCHEMA["properties"].as_object().expect("properties") {
            let target = property["$ref"].as_str().map_or(property, |reference| {
                SCHEMA.pointer(reference.trim_start_matches('#')).expect("references resolve")
            });
            assert!(property["title"].is_string() || target["title"].is_string(), "{name} has no title");
        }
    }
}
