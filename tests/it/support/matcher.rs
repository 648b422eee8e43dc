//! Compares a frame with what a conversation expects; the matchers are those of `fixtures/conversations/README.md`.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// Texts captured from frames, by name.
pub(crate) type Captures = BTreeMap<String, String>;

/// Whether `got` is what `expected` describes.
///
/// # Errors
/// Where the first difference lies and what it is.
pub(crate) fn matches(expected: &Value, got: &Value, captures: &mut Captures) -> Result<(), String> {
    at("", expected, got, captures)
}

fn at(path: &str, expected: &Value, got: &Value, captures: &mut Captures) -> Result<(), String> {
    match expected {
        Value::String(text) if text == "…" => match got {
            Value::String(text) if !text.is_empty() => Ok(()),
            other => Err(format!("{path}: a string was expected, not {other}")),
        },
        Value::String(text) => match text.strip_prefix("$capture:") {
            Some(name) => capture(path, name, got, captures),
            None => equal(path, expected, got),
        },
        Value::Object(members) => match members.iter().next() {
            Some((key, argument)) if key.starts_with('$') && members.len() == 1 && is_matcher(key) => {
                special(path, key, argument, got, captures)
            }
            _ => object(path, members, got, captures),
        },
        Value::Array(items) => array(path, items, got, captures),
        Value::Null | Value::Bool(_) | Value::Number(_) => equal(path, expected, got),
    }
}

fn is_matcher(key: &str) -> bool {
    matches!(key, "$any" | "$match" | "$without" | "$either" | "$json" | "$count" | "$unordered")
}

fn equal(path: &str, expected: &Value, got: &Value) -> Result<(), String> {
    let same = match (expected, got) {
        (Value::Number(expected), Value::Number(got)) => {
            expected == got || (expected.as_f64() == got.as_f64() && expected.is_f64() != got.is_f64())
        }
        _ => expected == got,
    };
    if same { Ok(()) } else { Err(format!("{path}: {expected} was expected, not {got}")) }
}

fn capture(path: &str, name: &str, got: &Value, captures: &mut Captures) -> Result<(), String> {
    let text = match got {
        Value::String(text) => {
            let quoted = Value::from(text.as_str()).to_string();
            quoted[1..quoted.len() - 1].to_owned()
        }
        Value::Number(number) if !number.is_f64() => number.to_string(),
        other => return Err(format!("{path}: a string or an integer was expected, not {other}")),
    };
    captures.insert(name.to_owned(), text);
    Ok(())
}

fn texts(argument: &Value) -> Vec<&str> {
    match argument {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().map(|item| item.as_str().expect("a text to match")).collect(),
        other => panic!("a text or texts to match, not {other}"),
    }
}

fn special(
    path: &str,
    key: &str,
    argument: &Value,
    got: &Value,
    captures: &mut Captures,
) -> Result<(), String> {
    let holds = match key {
        "$any" => match argument.as_str() {
            Some("string") => got.is_string(),
            Some("integer") => got.is_i64() || got.is_u64(),
            Some("number") => got.is_number(),
            Some("object") => got.is_object(),
            Some("array") => got.is_array(),
            Some("boolean") => got.is_boolean(),
            Some("value") => true,
            _ => return Err(format!("{path}: $any does not know {argument}")),
        },
        "$match" => got.as_str().is_some_and(|got| {
            let got = got.to_lowercase();
            texts(argument).iter().all(|text| got.contains(&text.to_lowercase()))
        }),
        "$without" => got.as_str().is_some_and(|got| !texts(argument).iter().any(|text| got.contains(text))),
        "$count" => got.as_array().is_some_and(|items| Some(items.len() as u64) == argument.as_u64()),
        "$json" => {
            let Some(value) = got.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok()) else {
                return Err(format!("{path}: JSON text was expected, not {got}"));
            };
            return at(&format!("{path}($json)"), argument, &value, captures);
        }
        "$unordered" => return unordered(path, argument, got, captures),
        "$either" => {
            let choices = argument.as_array().ok_or_else(|| format!("{path}: $either wants an array"))?;
            let mut faults = Vec::new();
            for choice in choices {
                let mut tried = captures.clone();
                match at(path, choice, got, &mut tried) {
                    Ok(()) => {
                        *captures = tried;
                        return Ok(());
                    }
                    Err(fault) => faults.push(fault),
                }
            }
            return Err(format!("{path}: none of the choices fits ({})", faults.join(" | ")));
        }
        _ => false,
    };
    if holds { Ok(()) } else { Err(format!("{path}: {key} {argument} was expected, not {got}")) }
}

fn object(
    path: &str,
    members: &Map<String, Value>,
    got: &Value,
    captures: &mut Captures,
) -> Result<(), String> {
    let Value::Object(got) = got else {
        return Err(format!("{path}: an object was expected, not {got}"));
    };
    let open = members.contains_key("...");
    for (key, expected) in members.iter().filter(|(key, _)| *key != "...") {
        match got.get(key) {
            Some(value) => at(&format!("{path}/{key}"), expected, value, captures)?,
            None => return Err(format!("{path}/{key}: is missing")),
        }
    }
    match got.keys().find(|key| !members.contains_key(*key)) {
        Some(key) if !open => Err(format!("{path}/{key}: was not expected ({})", got[key])),
        _ => Ok(()),
    }
}

fn array(path: &str, items: &[Value], got: &Value, captures: &mut Captures) -> Result<(), String> {
    let Value::Array(got) = got else {
        return Err(format!("{path}: an array was expected, not {got}"));
    };
    let (items, open) = match items.split_last() {
        Some((Value::String(last), rest)) if last == "..." => (rest, true),
        _ => (items, false),
    };
    if got.len() < items.len() || (!open && got.len() != items.len()) {
        return Err(format!("{path}: {} items were expected, not {}", items.len(), got.len()));
    }
    for (index, (expected, value)) in items.iter().zip(got).enumerate() {
        at(&format!("{path}/{index}"), expected, value, captures)?;
    }
    Ok(())
}

fn unordered(path: &str, argument: &Value, got: &Value, captures: &mut Captures) -> Result<(), String> {
    let (Value::Array(items), Value::Array(got)) = (argument, got) else {
        return Err(format!("{path}: an array was expected, not {got}"));
    };
    if items.len() != got.len() {
        return Err(format!("{path}: {} items were expected, not {}", items.len(), got.len()));
    }
    let mut open: Vec<&Value> = got.iter().collect();
    for expected in items {
        let found = open.iter().position(|value| {
            let mut tried = captures.clone();
            let fits = at(path, expected, value, &mut tried).is_ok();
            if fits {
                *captures = tried;
            }
            fits
        });
        match found {
            Some(index) => open.remove(index),
            None => return Err(format!("{path}: no item fits {expected}")),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_matcher_accepts_and_refuses() {
        let table = [
            (json!("…"), json!("a"), true),
            (json!("…"), json!(""), false),
            (json!({"$any": "integer"}), json!(3), true),
            (json!({"$any": "integer"}), json!(3.5), false),
            (json!({"$match": "Cursor"}), json!("no such cursor"), true),
            (json!({"$match": ["a", "z"]}), json!("abc"), false),
            (json!({"$without": "secret"}), json!("fine"), true),
            (json!({"$without": "secret"}), json!("a secret"), false),
            (json!({"$either": [1, 2]}), json!(2), true),
            (json!({"$either": [1, 2]}), json!(3), false),
            (json!({"$json": {"a": 1}}), json!("{\"a\":1}"), true),
            (json!({"$json": {"a": 1}}), json!("{\"a\":2}"), false),
            (json!({"$count": 2}), json!([1, 2]), true),
            (json!({"$count": 2}), json!([1]), false),
            (json!({"$unordered": [1, 2]}), json!([2, 1]), true),
            (json!({"$unordered": [1, 2]}), json!([1, 1]), false),
            (json!({"a": 1}), json!({"a": 1, "b": 2}), false),
            (json!({"a": 1, "...": "..."}), json!({"a": 1, "b": 2}), true),
            (json!({"a": 1, "b": 2}), json!({"b": 2, "a": 1}), true),
            (json!({"a": 1}), json!({}), false),
            (json!([1, "..."]), json!([1, 2, 3]), true),
            (json!([1]), json!([1, 2]), false),
            (json!(1), json!("1"), false),
            (json!(50), json!(50.0), true),
            (json!({"$schema": "x"}), json!({"$schema": "x"}), true),
            (json!({}), json!({"a": 1}), false),
        ];
        for (expected, got, holds) in table {
            let outcome = matches(&expected, &got, &mut Captures::new());
            assert_eq!(outcome.is_ok(), holds, "{expected} against {got}: {outcome:?}");
        }
    }

    #[test]
    fn a_capture_keeps_the_text_as_it_stands_inside_json() {
        let mut captures = Captures::new();
        matches(&json!({"a": "$capture:x", "b": "$capture:y"}), &json!({"a": "q\"", "b": 7}), &mut captures)
            .unwrap();
        assert_eq!(captures["x"], "q\\\"");
        assert_eq!(captures["y"], "7");
    }
}
