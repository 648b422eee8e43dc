//! Forms: the restricted schemas that every revision with elicitation can ask a user with. An object of plain fields, each
//! a text, a number, a yes or no, or one of several choices.

use serde_json::{Map, Value};

use super::expression::expression_source;
use crate::{nearest, pattern::yaml::pointer_part};

/// Fields of one form at most: a person fills it in.
const FIELDS_MAX: usize = 20;
/// Choices of one field at most.
const CHOICES_MAX: usize = 200;

/// Members that any field may have.
const COMMON: &[&str] = &["type", "title", "description", "default"];

/// A kind of field, and the members it has beside those that all have.
const KINDS: &[(&str, &[&str])] = &[
    ("string", &["minLength", "maxLength", "format", "enum", "oneOf"]),
    ("integer", &["minimum", "maximum"]),
    ("number", &["minimum", "maximum"]),
    ("boolean", &[]),
];

/// Formats of texts.
const FORMATS: &[&str] = &["email", "uri", "date", "date-time"];

/// What is wrong with a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FormFault {
    /// Where, a JSON pointer into the schema.
    pub pointer: String,
    /// What, a fragment.
    pub message: String,
    /// What to do, where that is known.
    pub hint: Option<String>,
}

/// Checks that `schema` is a form. With `in_file`, titles, descriptions, defaults and lists of choices may still be
/// expressions.
///
/// # Errors
/// The first fault.
pub fn check(schema: &Value, in_file: bool) -> Result<(), FormFault> {
    let fault = |pointer: &str, message: String, hint: Option<String>| {
        Err(FormFault { pointer: pointer.to_owned(), message, hint })
    };
    let Some(form) = schema.as_object() else {
        return fault("", "a form is an object schema".to_owned(), None);
    };
    for name in form.keys() {
        if !["type", "properties", "required"].contains(&name.as_str()) {
            let hint = nearest::nearest(name, ["type", "properties", "required"]);
            return fault(
                &format!("/{}", pointer_part(name)),
                format!("a form has no `{name:.40}`: it has type, properties and required"),
                hint.map(|near| format!("did you mean `{near}`?")),
            );
        }
    }
    if form.get("type").and_then(Value::as_str) != Some("object") {
        return fault("/type", "a form is of type object".to_owned(), None);
    }
    let Some(fields) = form.get("properties").and_then(Value::as_object).filter(|fields| !fields.is_empty())
    else {
        return fault("/properties", "a form has fields, under properties".to_owned(), None);
    };
    if fields.len() > FIELDS_MAX {
        return fault("/properties", format!("a form has at most {FIELDS_MAX} fields"), None);
    }
    for (name, field) in fields {
        check_field(field, in_file).map_err(|fault| FormFault {
            pointer: format!("/properties/{}{}", pointer_part(name), fault.pointer),
            ..fault
        })?;
    }
    match form.get("required") {
        None => Ok(()),
        Some(Value::Array(required)) => {
            for (index, name) in required.iter().enumerate() {
                if !name.as_str().is_some_and(|name| fields.contains_key(name)) {
                    return fault(
                        &format!("/required/{index}"),
                        "what is required is a field of the form".to_owned(),
                        None,
                    );
                }
            }
            Ok(())
        }
        Some(_) => fault("/required", "expects a list of fields".to_owned(), None),
    }
}

fn check_field(field: &Value, in_file: bool) -> Result<(), FormFault> {
    let fault =
        |pointer: &str, message: String| Err(FormFault { pointer: pointer.to_owned(), message, hint: None });
    let Some(field) = field.as_object() else {
        return fault("", "a field is an object schema".to_owned());
    };
    let kind = field.get("type").and_then(Value::as_str).unwrap_or_default();
    let Some((_, own)) = KINDS.iter().find(|(known, _)| *known == kind) else {
        return Err(FormFault {
            pointer: "/type".to_owned(),
            message: "a field is a string, an integer, a number or a boolean".to_owned(),
            hint: Some("forms are flat: clients have no fields for lists and objects".to_owned()),
        });
    };
    for (name, value) in field {
        let at = format!("/{}", pointer_part(name));
        if !COMMON.contains(&name.as_str()) && !own.contains(&name.as_str()) {
            let known = || COMMON.iter().chain(*own).copied();
            return Err(FormFault {
                pointer: at,
                message: format!("a {kind} of a form has no `{name:.40}`"),
                hint: Some(nearest::nearest(name, known()).map_or_else(
                    || format!("it may have {}", known().collect::<Vec<_>>().join(", ")),
                    |near| format!("did you mean `{near}`?"),
                )),
            });
        }
        let is_open = in_file && value.as_str().is_some_and(|text| expression_source(text).is_some());
        let is_right = match name.as_str() {
            "title" | "description" => value.is_string(),
            "default" => is_open || fits_kind(kind, value),
            "minLength" | "maxLength" => value.as_u64().is_some(),
            "minimum" | "maximum" => value.is_number(),
            "format" => value.as_str().is_some_and(|format| FORMATS.contains(&format)),
            "enum" => is_open || are_choices(value, |choice| choice.as_str()),
            "oneOf" => is_open || are_choices(value, titled),
            _ => true,
        };
        if !is_right {
            let wanted = match name.as_str() {
                "title" | "description" => "a text",
                "default" => "a value of the field's type",
                "format" => "one of email, uri, date, date-time",
                "enum" => "a list of up to 200 different texts",
                "oneOf" => "a list of up to 200 choices {const, title} with different texts",
                _ => "a number",
            };
            return fault(&at, format!("expects {wanted}"));
        }
    }
    if field.contains_key("enum") && field.contains_key("oneOf") {
        return fault("/oneOf", "choices are listed once: enum, or oneOf with titles".to_owned());
    }
    Ok(())
}

fn fits_kind(kind: &str, value: &Value) -> bool {
    match kind {
        "string" => value.is_string(),
        "integer" => value.as_i64().is_some() || value.as_u64().is_some(),
        "number" => value.is_number(),
        _ => value.is_boolean(),
    }
}

fn titled(choice: &Value) -> Option<&str> {
    let members: &Map<String, Value> = choice.as_object()?;
    members.get("title")?.as_str()?;
    (members.len() == 2).then(|| members.get("const")?.as_str()).flatten()
}

fn are_choices<'v>(value: &'v Value, text: impl Fn(&'v Value) -> Option<&'v str>) -> bool {
    let Some(choices) = value.as_array() else { return false };
    let texts: Vec<&str> = choices.iter().map_while(text).collect();
    let unique: std::collections::HashSet<&str> = texts.iter().copied().collect();
    !choices.is_empty()
        && choices.len() <= CHOICES_MAX
        && texts.len() == choices.len()
        && unique.len() == texts.len()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn form(field: &Value) -> Value {
        json!({"type": "object", "properties": {"a": field}, "required": ["a"]})
    }

    #[test]
    fn a_form_has_plain_fields() {
        for field in [
            json!({"type": "string"}),
            json!({"type": "string", "title": "T", "description": "d", "default": "x", "minLength": 1, "maxLength": 9}),
            json!({"type": "string", "format": "email"}),
            json!({"type": "string", "enum": ["a", "b"]}),
            json!({"type": "string", "oneOf": [{"const": "a", "title": "A"}]}),
            json!({"type": "integer", "minimum": 1, "maximum": 3, "default": 2}),
            json!({"type": "number", "default": 0.5}),
            json!({"type": "boolean", "default": true}),
        ] {
            assert_eq!(check(&form(&field), false), Ok(()), "{field}");
        }
    }

    #[test]
    fn what_no_client_can_show_is_refused_with_its_place() {
        for (schema, pointer) in [
            (json!("x"), ""),
            (json!({"type": "object"}), "/properties"),
            (json!({"type": "object", "properties": {}}), "/properties"),
            (json!({"properties": {"a": {"type": "string"}}}), "/type"),
            (
                json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": false}),
                "/additionalProperties",
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["b"]}),
                "/required/0",
            ),
            (form(&json!({"type": "array"})), "/properties/a/type"),
            (form(&json!({"type": "object"})), "/properties/a/type"),
            (form(&json!({"type": ["string", "null"]})), "/properties/a/type"),
            (form(&json!({"type": "string", "pattern": "^a"})), "/properties/a/pattern"),
            (form(&json!({"type": "string", "format": "regex"})), "/properties/a/format"),
            (form(&json!({"type": "string", "enum": []})), "/properties/a/enum"),
            (form(&json!({"type": "string", "enum": ["a", "a"]})), "/properties/a/enum"),
            (form(&json!({"type": "string", "enum": [1]})), "/properties/a/enum"),
            (form(&json!({"type": "string", "oneOf": [{"const": "a"}]})), "/properties/a/oneOf"),
            (form(&json!({"type": "integer", "default": "1"})), "/properties/a/default"),
            (form(&json!({"type": "boolean", "minimum": 1})), "/properties/a/minimum"),
            (form(&json!({"type": "string", "enum": "${ .steps.a }"})), "/properties/a/enum"),
        ] {
            assert_eq!(
                check(&schema, false).map_err(|fault| fault.pointer),
                Err(pointer.to_owned()),
                "{schema}"
            );
        }
    }

    #[test]
    fn in_a_file_choices_may_be_computed() {
        let computed = form(&json!({"type": "string", "enum": "${ .steps.a }", "default": "${ .steps.b }"}));
        assert_eq!(check(&computed, true), Ok(()));
        assert!(check(&form(&json!({"type": "${ .steps.a }"})), true).is_err());
    }
}
