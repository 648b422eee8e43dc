//! An entry as bytes in the second layer.
//!
//! ```text
//! 1 byte    1: this layout
//! 8 bytes   which program wrote it: only the same version reads it again
//! 8 bytes   when it expires, microseconds since 1970, little endian
//! 1 byte    whether a generation follows that counts
//! 8 bytes   that generation, little endian
//! 8 bytes   check sum over the key's digest, what is above and what is below
//! the rest  the value
//! ```
//!
//! Whatever is not exactly that is no entry: written by another version, under another key, damaged, or by somebody else.

use std::sync::{Arc, LazyLock};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::{Entry, Key, Value};

const LAYOUT: u8 = 1;
const HEAD: usize = 1 + 8 + 8 + 1 + 8;
const SUM: usize = 8;

/// Names the program's version: what another one means by a value is unknown.
static WRITER: LazyLock<[u8; 8]> = LazyLock::new(|| {
    let digest = Sha256::digest(concat!("tmws ", env!("CARGO_PKG_VERSION")));
    first_eight(&digest)
});

/// `entry` as bytes that are good under `key` only.
pub(super) fn encode<V: Value>(key: &Key, entry: &Entry<V>) -> Vec<u8> {
    let value = entry.value.encode();
    let mut bytes = Vec::with_capacity(HEAD + SUM + value.len());
    bytes.push(LAYOUT);
    bytes.extend(*WRITER);
    bytes.extend(entry.expires.as_microsecond().to_le_bytes());
    bytes.push(u8::from(entry.generation.is_some()));
    bytes.extend(entry.generation.unwrap_or_default().to_le_bytes());
    bytes.extend(sum(key, &bytes, &value));
    bytes.extend(value);
    bytes
}

/// What [`encode`] made of an entry under `key`; `None` for anything else.
pub(super) fn decode<V: Value>(key: &Key, bytes: &[u8]) -> Option<Entry<V>> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let (told, value) = rest.split_at_checked(SUM)?;
    if told != sum(key, head, value) {
        return None;
    }
    let (layout, head) = head.split_at_checked(1)?;
    let (writer, head) = head.split_at_checked(8)?;
    let (expires, head) = head.split_first_chunk()?;
    let (has_generation, head) = head.split_at_checked(1)?;
    let generation = u64::from_le_bytes(head.try_into().ok()?);
    if layout != [LAYOUT] || writer != *WRITER {
        return None;
    }
    Some(Entry {
        expires: Timestamp::from_microsecond(i64::from_le_bytes(*expires)).ok()?,
        generation: match has_generation {
            [0] => None,
            [1] => Some(generation),
            _ => return None,
        },
        value: Arc::new(V::decode(value)?),
    })
}

fn sum(key: &Key, head: &[u8], value: &[u8]) -> [u8; SUM] {
    let mut digest = Sha256::new();
    digest.update(key.digest());
    digest.update(head);
    digest.update(value);
    first_eight(&digest.finalize())
}

fn first_eight(digest: &[u8]) -> [u8; 8] {
    digest.first_chunk().copied().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cache::testing::{Text, key};

    fn entry(text: &str, generation: Option<u64>, expires: i64) -> Entry<Text> {
        let expires = Timestamp::from_microsecond(expires).unwrap();
        Entry { value: Arc::new(Text(text.to_owned())), generation, expires }
    }

    proptest! {
        #[test]
        fn what_was_encoded_comes_back_under_its_own_key(
            text in ".{0,200}",
            generation in proptest::option::of(any::<u64>()),
            expires in 0_i64..4_000_000_000_000_000,
        ) {
            let written = entry(&text, generation, expires);
            let bytes = encode(&key("a"), &written);
            let read: Entry<Text> = decode(&key("a"), &bytes).expect("its own bytes");
            prop_assert_eq!(&read.value.0, &written.value.0);
            prop_assert_eq!((read.generation, read.expires), (written.generation, written.expires));
            prop_assert!(decode::<Text>(&key("b"), &bytes).is_none(), "moved to another key");
        }

        #[test]
        fn any_bytes_are_an_entry_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode::<Text>(&key("a"), &bytes).is_none());
        }

        #[test]
        fn a_damaged_entry_is_none(at in any::<prop::sample::Index>(), change in 1_u8..=255, cut in any::<bool>()) {
            let mut bytes = encode(&key("a"), &entry("what was kept", Some(7), 1_000_000));
            let at = at.index(bytes.len());
            if cut {
                bytes.truncate(at);
            } else {
                bytes[at] ^= change;
            }
            prop_assert!(decode::<Text>(&key("a"), &bytes).is_none());
        }
    }

    #[test]
    fn an_entry_of_another_version_is_none() {
        let mut bytes = encode(&key("a"), &entry("x", None, 1));
        bytes[1] ^= 1;
        let value = bytes.split_off(HEAD + SUM);
        bytes.truncate(HEAD);
        let sum = sum(&key("a"), &bytes, &value);
        bytes.extend(sum);
        bytes.extend(value);
        assert!(decode::<Text>(&key("a"), &bytes).is_none(), "with a good check sum too");
    }
}
