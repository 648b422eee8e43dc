//! Request ids: kept as the exact JSON token received, compared by value.

use std::{fmt, hash, sync::Arc};

use serde_json::{Value, value::RawValue};

/// A JSON-RPC request id: a string or an integer.
///
/// `1` and `"1"` differ; `1`, `1.0` and `10e-1` are the same integer. What is echoed is the token as it was received,
/// so no integer ever loses a digit. Cheap to clone.
#[derive(Clone)]
pub struct RequestId {
    token: Arc<str>,
    key: Key,
}

/// What ids are compared by.
#[derive(Clone)]
enum Key {
    /// The token is an integer in its canonical spelling.
    PlainInteger,
    /// The token is a string without escapes.
    PlainText,
    /// Canonical decimal digits with an optional leading `-`.
    Integer(Arc<str>),
    /// The text with its escapes resolved.
    Text(Arc<str>),
}

/// Longest integer id compared digit by digit; a longer spelling is refused.
const INTEGER_DIGITS_MAX: usize = 400;
/// So many digits always fit 64 bits.
const SAFE_DIGITS_MAX: usize = 18;

impl RequestId {
    /// The id written as `token`, or `None` where it is neither a string nor an integer.
    #[must_use]
    pub fn from_token(token: &str) -> Option<Self> {
        let token = token.trim_matches([' ', '\t', '\r', '\n']);
        let key = match token.as_bytes().first()? {
            b'"' => {
                let text: String = serde_json::from_str(token).ok()?;
                if token.contains('\\') { Key::Text(text.into()) } else { Key::PlainText }
            }
            _ if is_plain_integer(token) => Key::PlainInteger,
            b'-' | b'0'..=b'9' => Key::Integer(canonical_integer(token)?.into()),
            _ => return None,
        };
        Some(Self { token: token.into(), key })
    }

    /// An integer id of our own making.
    #[must_use]
    pub fn from_integer(number: i64) -> Self {
        Self { key: Key::PlainInteger, token: number.to_string().into() }
    }

    /// The token as received: valid JSON.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Whether it is a string, and the text or digits that it is compared by.
    fn identity(&self) -> (bool, &str) {
        match &self.key {
            Key::PlainInteger => (false, &self.token),
            Key::Integer(digits) => (false, digits),
            Key::PlainText => (true, &self.token[1..self.token.len() - 1]),
            Key::Text(text) => (true, text),
        }
    }

    /// The id as a `Value`, for validation only: an integer beyond 64 bits becomes the nearest double.
    #[must_use]
    pub fn to_value(&self) -> Value {
        match &self.key {
            Key::PlainInteger if self.token.len() <= SAFE_DIGITS_MAX => {
                self.token.parse::<i64>().map_or(Value::Null, Value::from)
            }
            Key::PlainText | Key::Text(_) => Value::from(self.identity().1),
            Key::PlainInteger | Key::Integer(_) => {
                serde_json::from_str(&self.token).unwrap_or_else(|_| Value::from(self.identity().1))
            }
        }
    }

    /// The id as a raw JSON value, to embed in output unchanged.
    #[must_use]
    pub fn to_raw(&self) -> Box<RawValue> {
        RawValue::from_string(self.token.to_string()).expect("the token was parsed as JSON before")
    }

    /// Whether `value` names this id (for `requestId` members that were parsed to a `Value`).
    #[must_use]
    pub fn matches(&self, value: &Value) -> bool {
        match value {
            Value::String(_) | Value::Number(_) => {
                Self::from_token(&value.to_string()).is_some_and(|id| id == *self)
            }
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
        }
    }
}

impl PartialEq for RequestId {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for RequestId {}

impl hash::Hash for RequestId {
    fn hash<H: hash::Hasher>(&self, state: &mut H) {
        self.identity().hash(state);
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.token)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({})", self.token)
    }
}

/// Whether `token` is an integer spelled canonically, which nearly all ids are.
fn is_plain_integer(token: &str) -> bool {
    let digits = token.strip_prefix('-').unwrap_or(token);
    let canonical = token == "0" || !digits.starts_with('0');
    canonical
        && (1..=INTEGER_DIGITS_MAX).contains(&digits.len())
        && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// The digits of a JSON number that is an integer (`1.0` and `1e2` are), or `None` for a fraction or an absurd length.
fn canonical_integer(token: &str) -> Option<String> {
    let (sign, rest) = token.strip_prefix('-').map_or(("", token), |rest| ("-", rest));
    let (mantissa, exponent) = match rest.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i64>().ok()?),
        None => (rest, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if ![whole, fraction].iter().all(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
        || whole.is_empty()
    {
        return None;
    }
    let mut digits = format!("{whole}{fraction}");
    // The point stands `point` digits from the left once the exponent is applied.
    let point = i64::try_from(whole.len()).ok()?.checked_add(exponent)?;
    if digits.bytes().all(|byte| byte == b'0') {
        return Some("0".to_owned());
    }
    if point.unsigned_abs() as usize > INTEGER_DIGITS_MAX || digits.len() > INTEGER_DIGITS_MAX {
        return None;
    }
    let point = usize::try_from(point).ok()?;
    if point < digits.len() {
        if digits[point..].bytes().any(|byte| byte != b'0') {
            return None;
        }
        digits.truncate(point);
    } else {
        digits.extend(std::iter::repeat_n('0', point - digits.len()));
    }
    let digits = digits.trim_start_matches('0');
    Some(format!("{sign}{digits}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_compare_by_value_and_echo_the_token() {
        let table: &[(&str, &str, bool)] = &[
            ("1", "1.0", true),
            ("100", "1e2", true),
            ("1", "10E-1", true),
            ("-0", "0", true),
            ("1", "\"1\"", false),
            ("18446744073709551616", "18446744073709551617", false),
            ("18446744073709551616", "18446744073709551616.00", true),
            ("\"a\"", "\"\\u0061\"", true),
            ("\"\"", "\"\"", true),
        ];
        for (left, right, equal) in table {
            let (a, b) = (RequestId::from_token(left).unwrap(), RequestId::from_token(right).unwrap());
            assert_eq!(a == b, *equal, "{left} against {right}");
            assert_eq!(a.token(), *left);
        }
    }

    #[test]
    fn what_is_no_id_is_refused() {
        for token in ["null", "true", "1.5", "{}", "[]", "1e-1", "1e401", "", "15e-1"] {
            assert!(RequestId::from_token(token).is_none(), "{token}");
        }
    }
}
