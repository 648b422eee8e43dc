//! Secrets have a type that cannot be printed.

use std::fmt;

use sha2::{Digest as _, Sha256};

/// Key for signing, derived from text of any form.
#[derive(Clone, PartialEq, Eq)]
pub struct StateKey([u8; 32]);

impl StateKey {
    /// Shortest text that is taken, in bytes: 128 bits as hexadecimal digits.
    pub const TEXT_BYTES_MIN: usize = 32;

    /// The key that `text` stands for (its SHA-256), or `None` where it is too short to be one.
    #[must_use]
    pub fn of_text(text: &str) -> Option<Self> {
        (text.len() >= Self::TEXT_BYTES_MIN).then(|| Self(Sha256::digest(text.as_bytes()).into()))
    }

    /// The key, to sign with.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for StateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_never_printed() {
        let key = StateKey::of_text(&"k".repeat(32)).expect("long enough");
        assert_eq!(format!("{key:?}"), "[secret]");
        assert_eq!(StateKey::of_text("short"), None);
    }
}
