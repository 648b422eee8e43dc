//! JSON parsed to a `Value`, with duplicate keys noticed and the depth counted.

use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value, map::Entry};

/// Deepest nesting accepted, counting the outermost value as 1.
pub const JSON_DEPTH_MAX: usize = 128;

/// What the parser saw besides the value itself.
#[derive(Debug, Default)]
pub struct StrictJson {
    /// The first key that came twice in one object, if any. The later value was kept.
    pub duplicate_key: Option<String>,
}

impl StrictJson {
    /// Puts a member into its object, noticing a key that stood there already.
    pub(super) fn insert(&mut self, map: &mut Map<String, Value>, key: String, value: Value) {
        match map.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(value);
            }
            Entry::Occupied(mut entry) => {
                if self.duplicate_key.is_none() {
                    self.duplicate_key = Some(entry.key().clone());
                }
                entry.insert(value);
            }
        }
    }
}

/// Parses one JSON text. Depth beyond [`JSON_DEPTH_MAX`], NaN, lone surrogates and trailing text are errors;
/// a duplicate key is reported, so that the caller can still find the id.
///
/// # Errors
/// The parser's own error, with line and column.
pub fn parse_strict(text: &str) -> Result<(Value, StrictJson), serde_json::Error> {
    let mut seen = StrictJson::default();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer.disable_recursion_limit();
    let value = Strict { depth: 1, seen: &mut seen }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok((value, seen))
}

/// Seed for one value at a depth.
pub(super) struct Strict<'a> {
    pub(super) depth: usize,
    pub(super) seen: &'a mut StrictJson,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        if self.depth > JSON_DEPTH_MAX {
            return Err(A::Error::custom(TooDeep));
        }
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Strict { depth: self.depth + 1, seen: self.seen })? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        if self.depth > JSON_DEPTH_MAX {
            return Err(A::Error::custom(TooDeep));
        }
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let value = access.next_value_seed(Strict { depth: self.depth + 1, seen: self.seen })?;
            self.seen.insert(&mut map, key, value);
        }
        Ok(Value::Object(map))
    }
}

/// An error of a part, told as one of the whole: without the line and column, which count within the part.
pub(super) struct Within(pub(super) serde_json::Error);

impl fmt::Display for Within {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        f.write_str(text.split_once(" at line ").map_or(text.as_str(), |(fault, _)| fault))
    }
}

/// Says where nesting ended.
pub(super) struct TooDeep;

impl fmt::Display for TooDeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nested deeper than {JSON_DEPTH_MAX} levels")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_value_is_accepted_and_one_more_is_not() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse_strict(&nested(JSON_DEPTH_MAX)).is_ok());
        assert!(parse_strict(&nested(JSON_DEPTH_MAX + 1)).unwrap_err().to_string().contains("128 levels"));
    }

    #[test]
    fn a_duplicate_key_is_reported_at_any_depth() {
        let (_, seen) = parse_strict(r#"{"a":{"b":1,"b":2}}"#).unwrap();
        assert_eq!(seen.duplicate_key.as_deref(), Some("b"));
    }

    #[test]
    fn what_is_not_json_is_an_error() {
        for text in ["", "{", "NaN", "\u{feff}{}", r#""\ud800""#, "{} {}", "01", "1e999"] {
            assert!(parse_strict(text).is_err(), "{text}");
        }
    }
}
