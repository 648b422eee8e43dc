//! `Mcp-Session-Id`: everything that another instance needs to go on with a session, signed.
//!
//! ```text
//! base64url( version 1 │ revision 1 │ capabilities 1 │ expiry 5 │ nonce 16 │ tag 16 )
//! ```
//!
//! The expiry is in seconds since 1970. The tag is bound to principal and project, so that a foreign id reads like an
//! invented one. The nonce makes ids unguessable and unique, and names the implicit session of its calls: the same on
//! every instance.

use serde_json::{Map, Value, json};

use crate::{
    hex::hex,
    protocol::{Client, Signer},
    revision::Revision,
};

const PURPOSE: &str = "http session";
const VERSION: u8 = 1;
const NONCE_BYTES: usize = 16;
const PAYLOAD_BYTES: usize = 8 + NONCE_BYTES;

/// Unique per session.
pub(super) type Nonce = [u8; NONCE_BYTES];

/// The capabilities of a client that decide what it may be asked: path, bit.
const CAPABILITIES: [(&[&str], u8); 6] = [
    (&["roots"], 1),
    (&["sampling"], 2),
    (&["sampling", "tools"], 4),
    (&["sampling", "context"], 8),
    (&["elicitation", "form"], 16),
    (&["elicitation", "url"], 32),
];
const ELICITATION_FORM: u8 = 16;

/// What an id says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SessionId {
    pub(super) revision: Revision,
    pub(super) expires_unix_s: u64,
    pub(super) nonce: Nonce,
    capabilities: u8,
}

impl SessionId {
    /// The id of a session that `client` opened.
    pub(super) fn new(client: &Client, expires_unix_s: u64, nonce: Nonce) -> Self {
        Self { revision: client.revision, expires_unix_s, nonce, capabilities: compact(&client.capabilities) }
    }

    /// The text, for the audience of `signer`.
    pub(super) fn text(&self, signer: &Signer) -> String {
        let mut payload = [0; PAYLOAD_BYTES];
        payload[0] = VERSION;
        payload[1] = self.revision.index() as u8;
        payload[2] = self.capabilities;
        payload[3..8].copy_from_slice(&self.expires_unix_s.to_be_bytes()[3..]);
        payload[8..].copy_from_slice(&self.nonce);
        signer.seal(PURPOSE, &payload)
    }

    /// Reads a text. `None` for what was not issued to the audience of `signer`; whether it is still good is left to
    /// [`SessionId::is_expired`].
    pub(super) fn read(signer: &Signer, text: &str) -> Option<Self> {
        let payload = signer.open(PURPOSE, text)?;
        let payload: &[u8; PAYLOAD_BYTES] = payload.as_slice().try_into().ok()?;
        let revision = *Revision::LEGACY.get(usize::from(payload[1]))?;
        if payload[0] != VERSION {
            return None;
        }
        let mut expiry = [0; 8];
        expiry[3..].copy_from_slice(&payload[3..8]);
        let nonce = *payload.last_chunk()?;
        Some(Self { revision, expires_unix_s: u64::from_be_bytes(expiry), nonce, capabilities: payload[2] })
    }

    /// Whether its time is over.
    pub(super) const fn is_expired(&self, now_unix_ms: u64) -> bool {
        self.expires_unix_s <= now_unix_ms / 1000
    }

    /// The client that opened the session, as far as the id tells.
    pub(super) fn client(&self) -> Client {
        let mut capabilities = Map::new();
        for (path, bit) in CAPABILITIES {
            if self.capabilities & bit == 0 {
                continue;
            }
            let mut members = &mut capabilities;
            for key in path {
                let member = members.entry((*key).to_owned()).or_insert_with(|| json!({}));
                let Value::Object(inner) = member else { break };
                members = inner;
            }
        }
        Client { revision: self.revision, info: None, capabilities }
    }
}

/// The name of the implicit session of a session's calls.
pub(super) fn implicit_session(nonce: &Nonce) -> String {
    hex(nonce)
}

/// The name under which the store notes that the session was deleted.
pub(super) fn noted_as(nonce: &Nonce) -> String {
    format!("http {}", hex(nonce))
}

fn compact(capabilities: &Map<String, Value>) -> u8 {
    let mut bits = 0;
    for (path, bit) in CAPABILITIES {
        let mut members = Some(capabilities);
        let declared = path.iter().all(|key| {
            let member = members.and_then(|members| members.get(*key));
            members = member.and_then(Value::as_object);
            member.is_some()
        });
        if declared {
            bits |= bit;
        }
    }
    // `elicitation: {}` means forms.
    let names_no_mode = capabilities
        .get("elicitation")
        .and_then(Value::as_object)
        .is_some_and(|modes| !modes.contains_key("url"));
    if names_no_mode { bits | ELICITATION_FORM } else { bits }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn client(capabilities: &Value) -> Client {
        let capabilities = capabilities.as_object().unwrap().clone();
        Client { revision: Revision::V2025_06_18, info: None, capabilities }
    }

    #[test]
    fn an_id_comes_back_for_its_audience_alone() {
        let signer = Signer::new([7; 32]).for_audience("alice\nproject");
        let id = SessionId::new(&client(&json!({"roots": {}})), 1_900_000_000, [5; 16]);
        let text = id.text(&signer);
        assert!(text.len() <= 64 && text.bytes().all(|byte| (0x21..=0x7E).contains(&byte)), "{text}");
        assert_eq!(SessionId::read(&signer, &text), Some(id));
        assert_eq!(SessionId::read(&Signer::new([7; 32]).for_audience("bob\nproject"), &text), None);
        assert_eq!(SessionId::read(&Signer::new([8; 32]).for_audience("alice\nproject"), &text), None);
    }

    #[test]
    fn an_id_expires_at_its_second() {
        let id = SessionId::new(&client(&json!({})), 100, [0; 16]);
        assert!(!id.is_expired(99_999));
        assert!(id.is_expired(100_000));
    }

    #[test]
    fn what_a_client_may_be_asked_survives() {
        let table = [
            (json!({}), json!({})),
            (json!({"roots": {"listChanged": true}, "experimental": {"x": {}}}), json!({"roots": {}})),
            (json!({"sampling": {}}), json!({"sampling": {}})),
            (
                json!({"sampling": {"tools": {}, "context": {}}}),
                json!({"sampling": {"tools": {}, "context": {}}}),
            ),
            (json!({"elicitation": {}}), json!({"elicitation": {"form": {}}})),
            (json!({"elicitation": {"form": {"applyDefaults": true}}}), json!({"elicitation": {"form": {}}})),
            (json!({"elicitation": {"url": {}}}), json!({"elicitation": {"url": {}}})),
            (
                json!({"elicitation": {"form": {}, "url": {}}}),
                json!({"elicitation": {"form": {}, "url": {}}}),
            ),
        ];
        for (declared, restored) in table {
            let id = SessionId::new(&client(&declared), 1, [0; 16]);
            assert_eq!(Value::Object(id.client().capabilities), restored, "{declared}");
        }
    }

    proptest! {
        #[test]
        fn no_invented_text_is_an_id(text in "[!-~]{0,80}") {
            prop_assert_eq!(SessionId::read(&Signer::new([7; 32]), &text), None);
        }
    }
}
