//! Digests of what must not be read in the log: equal things have equal ones, and without the key nobody can try out
//! what they stand for.

use std::{io, path::Path};

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::Value;
use sha2::Sha256;

use super::file;
use crate::hex::hex;

/// Bytes of a session's digest in the log: enough to tell sessions apart.
const SESSION_BYTES: usize = 8;

/// Makes digests with the log's key.
#[derive(Clone)]
pub struct Digester(Hmac<Sha256>);

impl Digester {
    /// With a key derived from the server's state key, so that every instance of it makes the same.
    #[must_use]
    pub fn derived(state_key: &[u8; 32]) -> Self {
        let mut mac = keyed(state_key);
        mac.update(b"tmws audit log 1");
        Self::with_key(&mac.finalize().into_bytes())
    }

    /// With a key of this process.
    ///
    /// # Errors
    /// The system has no randomness.
    pub fn random() -> io::Result<Self> {
        Ok(Self::with_key(&crate::random::key()?))
    }

    /// With the key kept beside the log at `path` (`.key` is added to its name), made where there is none.
    ///
    /// # Errors
    /// It can be neither read nor made, or is not ours alone.
    pub fn beside(path: &Path) -> io::Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(".key");
        file::key(Path::new(&name), crate::random::key).map(|key| Self::with_key(&key))
    }

    /// With this key.
    #[must_use]
    pub fn with_key(key: &[u8]) -> Self {
        Self(keyed(key))
    }

    /// Of a JSON value, whatever the order of its members.
    pub(super) fn value(&self, value: &Value) -> String {
        let mut mac = self.0.clone();
        mac.update(b"value\0");
        feed(value, &mut mac);
        hex(&mac.finalize().into_bytes())
    }

    /// Of a session's key.
    pub(super) fn session(&self, session: &str) -> String {
        let mut mac = self.0.clone();
        mac.update(b"session\0");
        mac.update(session.as_bytes());
        hex(&mac.finalize().into_bytes()[..SESSION_BYTES])
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

/// Compact JSON with the members of every object in order of their names.
fn feed(value: &Value, mac: &mut Hmac<Sha256>) {
    match value {
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_unstable_by_key(|(name, _)| name.as_str());
            mac.update(b"{");
            for (name, member) in sorted {
                mac.update(Value::from(name.as_str()).to_string().as_bytes());
                mac.update(b":");
                feed(member, mac);
                mac.update(b",");
            }
            mac.update(b"}");
        }
        Value::Array(items) => {
            mac.update(b"[");
            for item in items {
                feed(item, mac);
                mac.update(b",");
            }
            mac.update(b"]");
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            mac.update(value.to_string().as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_digest_depends_on_key_and_value_but_not_on_order() {
        let digester = Digester::derived(&[1; 32]);
        let one = digester.value(&json!({"a": 1, "b": [{"c": "x", "d": null}]}));
        assert_eq!(one.len(), 64);
        assert_eq!(one, digester.value(&json!({"b": [{"d": null, "c": "x"}], "a": 1})));
        assert_ne!(one, digester.value(&json!({"a": 1, "b": [{"c": "y", "d": null}]})));
        assert_ne!(one, Digester::derived(&[2; 32]).value(&json!({"a": 1, "b": [{"c": "x", "d": null}]})));
        assert_ne!(digester.session("s"), digester.session("t"));
    }
}
