//! Text that leaves us and must come back unchanged: cursors and `requestState`.
//!
//! Signed, not encrypted: whoever holds it can read it, nobody else can make it. The content of a cursor is one
//! number; a service decides itself what it puts into a `requestState`.

use std::{fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::{revision::Revision, wire::Method};

/// Longest cursor accepted, in bytes. Ours are shorter.
const CURSOR_BYTES_MAX: usize = 128;
/// Longest `requestState` accepted and sent, in bytes.
pub(super) const REQUEST_STATE_BYTES_MAX: usize = 64 << 10;
/// A cursor needs less of a tag than a state: forging one only turns pages.
const CURSOR_TAG_BYTES: usize = 16;
const STATE_TAG_BYTES: usize = 32;
/// Longest sealed text that is looked at, in bytes.
const SEALED_BYTES_MAX: usize = 256;
/// 128 bits: out of reach for guessing, and short enough for a header.
const SEAL_TAG_BYTES: usize = 16;

/// Signs cursors and `requestState` with one key.
///
/// Every instance that shall accept what another one issued is given the same key. A cursor is bound to method, revision
/// and audience (the principal and project, as the binding knows them), a `requestState` to its request too. Cheap to
/// clone.
#[derive(Clone)]
pub struct Signer {
    keys: Arc<Keys>,
    audience: Arc<str>,
}

struct Keys {
    key: [u8; 32],
    /// Signs nothing any more; what it signed is still taken.
    older: Option<[u8; 32]>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signer([secret])")
    }
}

/// Why a `requestState` is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum StateFault {
    /// Not ours, changed on the way, or given back with another request.
    #[error(
        "`requestState` was not issued for this request, or was changed: repeat the original params and the exact state, or call again without it"
    )]
    Foreign,
    /// Too old.
    #[error("`requestState` has expired: call again without it")]
    Expired,
}

/// What a `requestState` of ours holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct State {
    /// What was asked: key to method name.
    pub(super) asked: Map<String, Value>,
    /// What the service gave.
    pub(super) state: Option<Value>,
}

impl Signer {
    /// A signer for `key`, without an audience.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self { keys: Arc::new(Keys { key, older: None }), audience: "".into() }
    }

    /// The same signer, which also takes what `older` signed.
    #[must_use]
    pub fn accepting(self, older: &Self) -> Self {
        Self { keys: Arc::new(Keys { key: self.keys.key, older: Some(older.keys.key) }), ..self }
    }

    /// The same signer for one audience: what was issued to another one is refused.
    #[must_use]
    pub fn for_audience(&self, audience: &str) -> Self {
        Self { keys: Arc::clone(&self.keys), audience: audience.into() }
    }

    /// Who signed before, for the same audience.
    fn older(&self) -> Option<Self> {
        let keys = Arc::new(Keys { key: self.keys.older?, older: None });
        Some(Self { keys, audience: Arc::clone(&self.audience) })
    }

    /// The cursor for the page that begins at item `offset`.
    pub(super) fn cursor(&self, revision: Revision, method: Method, offset: u32) -> String {
        let mut bytes = offset.to_be_bytes().to_vec();
        let tag = self.cursor_tag(revision, method, &bytes);
        bytes.extend_from_slice(&tag);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The offset in a cursor, or `None` where it was not issued by us for this method and revision.
    pub(super) fn read_cursor(&self, revision: Revision, method: Method, cursor: &str) -> Option<u32> {
        if cursor.len() > CURSOR_BYTES_MAX {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(cursor).ok()?;
        let (offset, tag) = bytes.split_first_chunk::<4>()?;
        let expected = self.cursor_tag(revision, method, offset);
        let equal: bool = subtle::ConstantTimeEq::ct_eq(tag, &expected[..]).into();
        if !equal {
            return self.older()?.read_cursor(revision, method, cursor);
        }
        Some(u32::from_be_bytes(*offset))
    }

    /// The text of a state for the request with `params`, good until `expires_unix_ms`.
    pub(super) fn state(
        &self,
        revision: Revision,
        method: Method,
        params: &Map<String, Value>,
        expires_unix_ms: u64,
        state: State,
    ) -> String {
        let mut content = json!({"exp": expires_unix_ms, "ask": state.asked});
        if let Some(state) = state.state {
            content["state"] = state;
        }
        let mut bytes = content.to_string().into_bytes();
        let tag = self.state_tag(revision, method, params, &bytes);
        bytes.extend_from_slice(&tag);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What a state holds, if it was issued for the request with `params` and is still good.
    pub(super) fn read_state(
        &self,
        revision: Revision,
        method: Method,
        params: &Map<String, Value>,
        now_unix_ms: u64,
        text: &str,
    ) -> Result<State, StateFault> {
        if text.len() > REQUEST_STATE_BYTES_MAX {
            return Err(StateFault::Foreign);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| StateFault::Foreign)?;
        let (content, tag) = bytes.split_last_chunk::<STATE_TAG_BYTES>().ok_or(StateFault::Foreign)?;
        let expected = self.state_tag(revision, method, params, content);
        let equal: bool = subtle::ConstantTimeEq::ct_eq(&tag[..], &expected[..]).into();
        if !equal {
            let older = self.older().ok_or(StateFault::Foreign)?;
            return older.read_state(revision, method, params, now_unix_ms, text);
        }
        let mut content: Map<String, Value> =
            serde_json::from_slice(content).map_err(|_| StateFault::Foreign)?;
        if content.get("exp").and_then(Value::as_u64).is_none_or(|expires| expires < now_unix_ms) {
            return Err(StateFault::Expired);
        }
        let asked = match content.remove("ask") {
            Some(Value::Object(asked)) => asked,
            _ => Map::new(),
        };
        Ok(State { asked, state: content.remove("state") })
    }

    /// `payload` as text that this audience alone can hand back, and only for the same purpose.
    #[must_use]
    pub fn seal(&self, purpose: &str, payload: &[u8]) -> String {
        let mut bytes = payload.to_vec();
        bytes.extend_from_slice(&self.seal_tag(purpose, payload));
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The payload of a text that [`Signer::seal`] made for the same audience and purpose; `None` for any other text.
    #[must_use]
    pub fn open(&self, purpose: &str, text: &str) -> Option<Vec<u8>> {
        if text.len() > SEALED_BYTES_MAX {
            return None;
        }
        let mut bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (payload, tag) = bytes.split_last_chunk::<SEAL_TAG_BYTES>()?;
        let equal: bool =
            subtle::ConstantTimeEq::ct_eq(&tag[..], &self.seal_tag(purpose, payload)[..]).into();
        let length = payload.len();
        if !equal {
            return self.older()?.open(purpose, text);
        }
        bytes.truncate(length);
        Some(bytes)
    }

    fn seal_tag(&self, purpose: &str, payload: &[u8]) -> [u8; SEAL_TAG_BYTES] {
        let tag = self.tag(&[b"seal", purpose.as_bytes(), self.audience.as_bytes(), payload]);
        *tag.first_chunk().expect("a SHA-256 tag is longer")
    }

    /// An id for a URL elicitation (2025-11-25 wants one): not guessable, the same for the same inputs.
    pub(super) fn elicitation_id(&self, unix_ms: u64, ask: i64) -> String {
        let tag =
            self.tag(&[b"elicitation", self.audience.as_bytes(), &unix_ms.to_be_bytes(), &ask.to_be_bytes()]);
        URL_SAFE_NO_PAD.encode(&tag[..16])
    }

    fn cursor_tag(&self, revision: Revision, method: Method, offset: &[u8]) -> [u8; CURSOR_TAG_BYTES] {
        let tag = self.tag(&[
            b"cursor",
            self.audience.as_bytes(),
            revision.as_str().as_bytes(),
            method.as_str().as_bytes(),
            offset,
        ]);
        *tag.first_chunk().expect("a SHA-256 tag is longer")
    }

    fn state_tag(
        &self,
        revision: Revision,
        method: Method,
        params: &Map<String, Value>,
        content: &[u8],
    ) -> [u8; 32] {
        self.tag(&[
            b"state",
            self.audience.as_bytes(),
            revision.as_str().as_bytes(),
            method.as_str().as_bytes(),
            &params_digest(params),
            content,
        ])
    }

    /// HMAC-SHA-256 over the parts, each preceded by its length, so that no two lists of parts read alike.
    fn tag(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.keys.key[..]).expect("HMAC takes a key of any length");
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

/// Members of params that change between the rounds of one request.
const VOLATILE: [&str; 3] = ["_meta", "inputResponses", "requestState"];

/// A digest of what stays the same in params from round to round, whatever the order of members or the spelling of
/// numbers: a client parses and writes them again.
fn params_digest(params: &Map<String, Value>) -> [u8; 32] {
    let mut hasher = Sha256::new();
    let mut keys: Vec<&String> = params.keys().filter(|key| !VOLATILE.contains(&key.as_str())).collect();
    keys.sort_unstable();
    for key in keys {
        hash_text(&mut hasher, key);
        hash_value(&mut hasher, &params[key]);
    }
    hasher.finalize().into()
}

fn hash_text(hasher: &mut Sha256, text: &str) {
    hasher.update((text.len() as u64).to_be_bytes());
    hasher.update(text.as_bytes());
}

fn hash_value(hasher: &mut Sha256, value: &Value) {
    match value {
        Value::Null => hasher.update(b"n"),
        Value::Bool(flag) => hasher.update(if *flag { b"t" } else { b"f" }),
        Value::Number(number) => {
            hasher.update(b"#");
            // `1`, `1.0` and `1e0` are one number to the client that writes it again.
            match number.as_f64().filter(|float| float.fract() == 0.0 && float.abs() < 9e15) {
                Some(whole) => hash_text(hasher, &(whole as i64).to_string()),
                None => hash_text(hasher, &number.to_string()),
            }
        }
        Value::String(text) => {
            hasher.update(b"s");
            hash_text(hasher, text);
        }
        Value::Array(items) => {
            hasher.update(b"[");
            hasher.update((items.len() as u64).to_be_bytes());
            for item in items {
                hash_value(hasher, item);
            }
        }
        Value::Object(members) => {
            hasher.update(b"{");
            hasher.update((members.len() as u64).to_be_bytes());
            let mut keys: Vec<&String> = members.keys().collect();
            keys.sort_unstable();
            for key in keys {
                hash_text(hasher, key);
                hash_value(hasher, &members[key]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const D: Revision = Revision::V2025_11_25;
    const E: Revision = Revision::V2026_07_28;

    fn params(value: Value) -> Map<String, Value> {
        let Value::Object(members) = value else { panic!("no object: {value}") };
        members
    }

    #[test]
    fn a_cursor_is_good_for_its_method_revision_and_audience_alone() {
        let signer = Signer::new([7; 32]).for_audience("alice");
        let cursor = signer.cursor(D, Method::ToolsList, 300);
        assert_eq!(signer.read_cursor(D, Method::ToolsList, &cursor), Some(300));
        assert_eq!(signer.for_audience("bob").read_cursor(D, Method::ToolsList, &cursor), None);
        assert_eq!(Signer::new([7; 32]).read_cursor(D, Method::ToolsList, &cursor), None);
        assert_eq!(signer.read_cursor(E, Method::ToolsList, &cursor), None);
        assert_eq!(signer.read_cursor(D, Method::PromptsList, &cursor), None);
        assert_eq!(Signer::new([8; 32]).read_cursor(D, Method::ToolsList, &cursor), None);
        assert_eq!(signer.read_cursor(D, Method::ToolsList, ""), None);
        assert_eq!(signer.read_cursor(D, Method::ToolsList, &"A".repeat(4096)), None);
    }

    #[test]
    fn a_state_is_good_for_its_request_audience_and_time_alone() {
        let signer = Signer::new([7; 32]).for_audience("alice");
        let original = params(json!({"name": "t", "arguments": {"a": 1, "b": [true]}, "_meta": {"x": 1}}));
        let state = State { asked: params(json!({"k": "roots/list"})), state: Some(json!({"n": 2})) };
        let text = signer.state(E, Method::ToolsCall, &original, 1_000, state.clone());
        let again = params(
            json!({"arguments": {"b": [true], "a": 1.0}, "name": "t", "_meta": {}, "inputResponses": {}, "requestState": "s"}),
        );
        assert_eq!(signer.read_state(E, Method::ToolsCall, &again, 1_000, &text), Ok(state));
        let faults = [
            (signer.read_state(E, Method::ToolsCall, &again, 1_001, &text), StateFault::Expired),
            (signer.read_state(E, Method::PromptsGet, &again, 0, &text), StateFault::Foreign),
            (signer.read_state(D, Method::ToolsCall, &again, 0, &text), StateFault::Foreign),
            (
                signer.read_state(E, Method::ToolsCall, &params(json!({"name": "u"})), 0, &text),
                StateFault::Foreign,
            ),
            (
                signer.for_audience("bob").read_state(E, Method::ToolsCall, &again, 0, &text),
                StateFault::Foreign,
            ),
            (Signer::new([0; 32]).read_state(E, Method::ToolsCall, &again, 0, &text), StateFault::Foreign),
            (signer.read_state(E, Method::ToolsCall, &again, 0, ""), StateFault::Foreign),
        ];
        for (outcome, fault) in faults {
            assert_eq!(outcome, Err(fault));
        }
    }

    #[test]
    fn what_is_sealed_opens_for_its_audience_and_purpose_alone() {
        let signer = Signer::new([7; 32]).for_audience("alice");
        let text = signer.seal("session", b"payload");
        assert_eq!(signer.open("session", &text).as_deref(), Some(&b"payload"[..]));
        let strangers = [
            signer.open("other", &text),
            signer.for_audience("bob").open("session", &text),
            Signer::new([8; 32]).for_audience("alice").open("session", &text),
            signer.open("session", ""),
            signer.open("session", &text[1..]),
            signer.open("session", &format!("{text}=")),
            signer.open("session", &"A".repeat(4096)),
        ];
        assert_eq!(strangers, [const { None }; 7]);
    }

    #[test]
    fn what_an_older_key_signed_is_taken_and_it_signs_no_more() {
        let (old, other) = (Signer::new([1; 32]), Signer::new([3; 32]));
        let (mine, new) =
            (old.for_audience("alice"), Signer::new([2; 32]).accepting(&old).for_audience("alice"));
        let request = params(json!({"name": "t"}));
        let state = State { asked: Map::new(), state: None };

        let cursor = mine.cursor(D, Method::ToolsList, 7);
        let text = mine.state(E, Method::ToolsCall, &request, 1_000, state.clone());
        let sealed = mine.seal("session", b"payload");
        assert_eq!(new.read_cursor(D, Method::ToolsList, &cursor), Some(7));
        assert_eq!(new.read_state(E, Method::ToolsCall, &request, 0, &text), Ok(state));
        assert_eq!(new.open("session", &sealed).as_deref(), Some(&b"payload"[..]));
        assert_eq!(new.for_audience("bob").open("session", &sealed), None);
        assert_eq!(new.open("session", &other.for_audience("alice").seal("session", b"payload")), None);

        assert_eq!(mine.open("session", &new.seal("session", b"payload")), None);
        assert_eq!(mine.read_cursor(D, Method::ToolsList, &new.cursor(D, Method::ToolsList, 7)), None);
    }

    #[test]
    fn the_key_does_not_show() {
        assert_eq!(format!("{:?}", Signer::new([65; 32])), "Signer([secret])");
    }

    proptest! {
        #[test]
        fn no_changed_byte_passes(index in 0usize..200, flip in 1u8..=255) {
            let signer = Signer::new([7; 32]);
            let original = params(json!({"name": "t"}));
            let state = State { asked: Map::new(), state: Some(json!("s")) };
            let text = signer.state(E, Method::ToolsCall, &original, 9, state);
            let mut bytes = text.into_bytes();
            let index = index % bytes.len();
            bytes[index] ^= flip;
            if let Ok(text) = String::from_utf8(bytes) {
                prop_assert!(signer.read_state(E, Method::ToolsCall, &original, 0, &text).is_err());
            }
        }

        #[test]
        fn any_text_is_a_cursor_or_not_without_panic(text in ".{0,200}") {
            prop_assert_eq!(Signer::new([7; 32]).read_cursor(D, Method::ToolsList, &text), None);
        }
    }
}
