//! Arguments of our tools, checked in code with messages that a model can act on.
//!
//! The bounds here and the schemas under `schemas/tool/` say the same; a test holds them together. A member that is
//! null counts as absent, because clients in strict modes send every member.

use serde_json::{Map, Value};

use crate::nearest;

/// What is wrong with the arguments, and in which member.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidArgument {
    /// The member.
    pub field: String,
    /// What is wrong and what is allowed; names the member, never quotes a value.
    pub message: String,
}

impl InvalidArgument {
    /// A fault in `field`.
    pub fn new(field: &str, message: impl Into<String>) -> Self {
        Self { field: field.to_owned(), message: message.into() }
    }
}

/// The arguments of one call, none of them unknown.
pub struct Arguments<'a> {
    members: Option<&'a Map<String, Value>>,
}

impl<'a> Arguments<'a> {
    /// Takes `params.arguments` of a `tools/call` whose members must be among `known`.
    ///
    /// # Errors
    /// The first unknown member, with the nearest known one.
    pub fn of(params: &'a Map<String, Value>, known: &[&str]) -> Result<Self, InvalidArgument> {
        let members = params.get("arguments").and_then(Value::as_object);
        for name in members.into_iter().flat_map(Map::keys) {
            if !known.contains(&name.as_str()) {
                let shown: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
                let hint = nearest::hint(name, known.iter().copied());
                let known = known.join(", ");
                return Err(InvalidArgument {
                    message: format!("unknown argument `{shown}`{hint} (known: {known})"),
                    field: shown,
                });
            }
        }
        Ok(Self { members })
    }

    fn get(&self, field: &str) -> Option<&'a Value> {
        self.members?.get(field).filter(|value| !value.is_null())
    }

    /// Text of 1 to `chars_max` characters.
    ///
    /// # Errors
    /// Not text, empty or too long.
    pub fn text(&self, field: &str, chars_max: usize) -> Result<Option<&'a str>, InvalidArgument> {
        let text = self.text_or_empty(field, chars_max)?;
        if text == Some("") {
            return Err(InvalidArgument::new(field, format!("`{field}` must not be empty")));
        }
        Ok(text)
    }

    /// Text of at most `chars_max` characters, perhaps none.
    ///
    /// # Errors
    /// Not text, or too long.
    pub fn text_or_empty(&self, field: &str, chars_max: usize) -> Result<Option<&'a str>, InvalidArgument> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let text = value.as_str().ok_or_else(|| wants(field, "a string", value))?;
        // No text has more characters than bytes: the count is needed only for long ones.
        if text.len() > chars_max && text.chars().count() > chars_max {
            return Err(InvalidArgument::new(
                field,
                format!("`{field}` has more than {chars_max} characters"),
            ));
        }
        Ok(Some(text))
    }

    /// Text that must be there and not be blank.
    ///
    /// # Errors
    /// As [`Arguments::text`], or absent or blank.
    pub fn required_text(&self, field: &str, chars_max: usize) -> Result<&'a str, InvalidArgument> {
        let text = self
            .text(field, chars_max)?
            .ok_or_else(|| InvalidArgument::new(field, format!("`{field}` is required")))?;
        not_blank(field, text)
    }

    /// A whole number within bounds.
    ///
    /// # Errors
    /// Not a whole number, or out of bounds.
    pub fn count(&self, field: &str, min: usize, max: usize) -> Result<Option<usize>, InvalidArgument> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let whole = value.as_u64().or_else(|| {
            // 3.0 is a whole number in JSON Schema.
            value
                .as_f64()
                .filter(|number| number.fract() == 0.0 && (0.0..=9e15).contains(number))
                .map(|number| number as u64)
        });
        whole
            .and_then(|whole| usize::try_from(whole).ok())
            .filter(|whole| (min..=max).contains(whole))
            .map(Some)
            .ok_or_else(|| {
                InvalidArgument::new(field, format!("`{field}` must be a whole number from {min} to {max}"))
            })
    }

    /// A number from 0 to 1.
    ///
    /// # Errors
    /// Anything else.
    pub fn fraction(&self, field: &str) -> Result<Option<f64>, InvalidArgument> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value
            .as_f64()
            .filter(|number| (0.0..=1.0).contains(number))
            .map(Some)
            .ok_or_else(|| InvalidArgument::new(field, format!("`{field}` must be a number from 0 to 1")))
    }

    /// True or false.
    ///
    /// # Errors
    /// Anything else.
    pub fn flag(&self, field: &str) -> Result<bool, InvalidArgument> {
        let Some(value) = self.get(field) else { return Ok(false) };
        value.as_bool().ok_or_else(|| wants(field, "true or false", value))
    }

    /// An object.
    ///
    /// # Errors
    /// Anything else.
    pub fn object(&self, field: &str) -> Result<Option<&'a Map<String, Value>>, InvalidArgument> {
        let Some(value) = self.get(field) else { return Ok(None) };
        value.as_object().map(Some).ok_or_else(|| wants(field, "an object", value))
    }

    /// A list of strings, none empty.
    ///
    /// # Errors
    /// Anything else.
    pub fn texts(&self, field: &str) -> Result<Option<Vec<String>>, InvalidArgument> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let items = value.as_array().ok_or_else(|| wants(field, "a list of strings", value))?;
        let texts: Option<Vec<String>> = items
            .iter()
            .map(|item| item.as_str().filter(|text| !text.is_empty()).map(str::to_owned))
            .collect();
        texts.map(Some).ok_or_else(|| {
            InvalidArgument::new(field, format!("`{field}` must hold strings only, none of them empty"))
        })
    }
}

/// Refuses text of spaces only.
pub(super) fn not_blank<'a>(field: &str, text: &'a str) -> Result<&'a str, InvalidArgument> {
    if text.trim().is_empty() {
        return Err(InvalidArgument::new(field, format!("`{field}` must not be blank")));
    }
    Ok(text)
}

fn wants(field: &str, wanted: &str, value: &Value) -> InvalidArgument {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    InvalidArgument::new(field, format!("`{field}` must be {wanted}, not {kind}"))
}
