//! Names an output, so that an equal one need not be sent again.

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// Crockford's base 32: no two letters that look alike.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 40 bits: an etag is only ever compared with one other.
const LETTERS: usize = 8;

/// The etag of `output` (whole, before shrinking and without envelope) made by the pattern file with `hash` for an
/// answer of at most `budget` tokens: the same output under another budget is another text.
#[must_use]
pub(super) fn etag(hash: &str, budget: usize, output: &Value) -> String {
    let mut digest = Sha256::new();
    digest.update(hash.as_bytes());
    digest.update(budget.to_le_bytes());
    digest.update(canonical(output).as_bytes());
    let digest = digest.finalize();
    let bits = digest[..8].iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
    (0..LETTERS).map(|letter| char::from(ALPHABET[(bits >> (5 * letter) & 31) as usize])).collect()
}

/// Compact JSON with the members of every object in order of their names.
#[must_use]
pub(super) fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

/// As [`canonical`], of an object.
#[must_use]
pub(super) fn canonical_object(members: &Map<String, Value>) -> String {
    let mut text = String::new();
    write_object(members, &mut text);
    text
}

fn write_object(members: &Map<String, Value>, text: &mut String) {
    let mut sorted: Vec<_> = members.iter().collect();
    sorted.sort_unstable_by_key(|(name, _)| name.as_str());
    text.push('{');
    for (index, (name, member)) in sorted.into_iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&Value::from(name.as_str()).to_string());
        text.push(':');
        write_canonical(member, text);
    }
    text.push('}');
}

fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(members) => write_object(members, text),
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_canonical(item, text);
            }
            text.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            text.push_str(&value.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_etag_depends_on_content_pattern_and_budget_but_not_on_order() {
        let one = etag("h", 400, &json!({"a": 1, "b": [{"c": "x", "d": null}]}));
        assert_eq!(one.len(), LETTERS);
        assert_eq!(one, etag("h", 400, &json!({"b": [{"d": null, "c": "x"}], "a": 1})));
        assert_ne!(one, etag("h", 400, &json!({"a": 1, "b": [{"c": "y", "d": null}]})));
        assert_ne!(one, etag("i", 400, &json!({"a": 1, "b": [{"c": "x", "d": null}]})));
        assert_ne!(one, etag("h", 800, &json!({"a": 1, "b": [{"c": "x", "d": null}]})));
    }

    #[test]
    fn canonical_text_is_json_with_sorted_members() {
        assert_eq!(canonical(&json!({"b": "é\"", "a": [1.5, true]})), r#"{"a":[1.5,true],"b":"é\""}"#);
    }
}
