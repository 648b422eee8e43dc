//! Schemas inside pattern files: of inputs, of outputs, and what must fit them.

use jsonschema::{PatternOptions, Validator};
use serde_json::{Map, Value, json};

use super::{Report, did_you_mean};
use crate::pattern::yaml::pointer_part;

/// Deepest nesting of a schema.
const DEPTH_MAX: usize = 16;
/// Keywords that may not stand at the root: a tool's inputSchema is a plain object.
const COMBINATORS: [&str; 10] =
    ["anyOf", "oneOf", "allOf", "not", "if", "then", "else", "$ref", "$dynamicRef", "dependentSchemas"];

/// Compiles a JSON Schema 2020-12 whose regexes run in linear time and whose references stay inside it.
///
/// # Errors
/// Where and why not.
pub(super) fn compile(schema: &Value) -> Result<Validator, (String, String)> {
    closed(schema, "", 0)?;
    jsonschema::draft202012::options()
        .with_pattern_options(PatternOptions::regex().size_limit(1 << 20))
        .should_validate_formats(true)
        .build(schema)
        .map_err(|error| {
            let type_name =
                error.instance().as_str().filter(|_| error.instance_path().as_str().ends_with("/type"));
            let message = if let Some(name) = type_name {
                let types = ["null", "boolean", "object", "array", "number", "string", "integer"];
                let near = did_you_mean(name, types).map_or_else(String::new, |hint| format!(", {hint}"));
                format!("there is no type `{name:.40}`{near}")
            } else if error.instance().as_str().is_some_and(|text| super::field::regex(text).is_err())
                && error.instance_path().as_str().ends_with("/pattern")
            {
                super::field::regex(error.instance().as_str().unwrap_or_default()).err().unwrap_or_default()
            } else {
                error.to_string().lines().next().unwrap_or_default().chars().take(200).collect()
            };
            (error.instance_path().as_str().to_owned(), message)
        })
}

/// Refuses references that leave the schema, and schemas that are nested without end.
fn closed(schema: &Value, pointer: &str, depth: usize) -> Result<(), (String, String)> {
    if depth > DEPTH_MAX {
        return Err((pointer.to_owned(), format!("nested deeper than {DEPTH_MAX}")));
    }
    match schema {
        Value::Object(members) => {
            for (name, member) in members {
                let pointer = format!("{pointer}/{}", pointer_part(name));
                if ["$ref", "$dynamicRef", "$schema", "$id"].contains(&name.as_str())
                    && member.as_str().is_some_and(|target| !target.starts_with('#'))
                    && (name != "$schema" || member != "https://json-schema.org/draft/2020-12/schema")
                {
                    return Err((pointer, format!("`{name}` must stay inside the schema: it starts with #")));
                }
                closed(member, &pointer, depth + 1)?;
            }
            Ok(())
        }
        Value::Array(items) => items
            .iter()
            .enumerate()
            .try_for_each(|(index, item)| closed(item, &format!("{pointer}/{index}"), depth + 1)),
        _ => Ok(()),
    }
}

/// `given` with the defaults of the top level.
pub(crate) fn with_defaults(schema: &Value, mut given: Map<String, Value>) -> Value {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if let Some(default) = property.get("default")
            && !given.contains_key(name)
        {
            given.insert(name.clone(), default.clone());
        }
    }
    Value::Object(given)
}

/// The first thing that does not fit: where, and why.
pub(super) fn first_error(validator: &Validator, value: &Value) -> Option<(String, String)> {
    validator.iter_errors(value).next().map(|error| {
        let text: String = error.to_string().chars().take(200).collect();
        (error.instance_path().as_str().to_owned(), text)
    })
}

/// The schema of the inputs.
pub(super) fn read(report: &mut Report<'_>) -> Value {
    let Some(schema) = report.get("/inputs") else {
        return json!({"type": "object", "properties": {}, "additionalProperties": false});
    };
    if report.tested {
        return schema.clone();
    }
    for keyword in COMBINATORS {
        if schema.get(keyword).is_some() {
            report.at_key(
                &format!("/inputs/{keyword}"),
                format!(
                    "`{keyword}` may not stand at the root of inputs: clients do not understand it there"
                ),
                None,
            );
        }
    }
    if schema["type"] != "object" {
        let at = if schema.get("type").is_some() { "/inputs/type" } else { "/inputs" };
        report.at(at, "inputs are of `type: object`");
    }
    match compile(schema) {
        Ok(_) if report.errors.is_empty() => details(report, schema),
        Ok(_) => {}
        Err((pointer, message)) => {
            report.at(&format!("/inputs{pointer}"), format!("not a JSON Schema: {message}"));
        }
    }
    schema.clone()
}

fn details(report: &mut Report<'_>, schema: &Value) {
    let properties = schema["properties"].as_object();
    for (index, name) in schema["required"].as_array().into_iter().flatten().enumerate() {
        let name = name.as_str().unwrap_or_default();
        if !properties.is_some_and(|properties| properties.contains_key(name)) {
            let known = properties.into_iter().flat_map(|properties| properties.keys()).map(String::as_str);
            let hint = did_you_mean(name, known);
            report.at_with_hint(
                &format!("/inputs/required/{index}"),
                format!("there is no input `{name:.40}`"),
                hint,
            );
        }
    }
    for (name, property) in properties.into_iter().flatten() {
        let at = format!("/inputs/properties/{}", pointer_part(name));
        let letters = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_';
        if name.len() > 40
            || !name.starts_with(|char: char| char.is_ascii_lowercase())
            || !name.chars().all(letters)
        {
            report.at_key(
                &at,
                format!("the input name `{name:.40}` is not of lower-case letters, digits and _, at most 40"),
                None,
            );
        }
        if property.get("x-from-query").is_some_and(|flag| !flag.is_boolean()) {
            report.at(&format!("{at}/x-from-query"), "x-from-query is true or false");
        }
        if let Some(default) = property.get("default") {
            // The whole schema, so that its definitions are there; without what other inputs must do.
            let mut alone = schema.clone();
            alone["required"] = json!([]);
            if let Ok(validator) = compile(&alone)
                && let Some((_, message)) = first_error(&validator, &json!({(name.as_str()): default}))
            {
                report.at(
                    &format!("{at}/default"),
                    format!("the default does not fit its own schema: {message}"),
                );
            }
        }
    }
}
