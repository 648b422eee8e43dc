//! `_meta`: reserved keys, and the envelope that a modern request carries in it.

use serde_json::{Map, Value};

use super::LogLevel;
use crate::revision::Revision;

/// `_meta` key: the revision of this request.
pub(super) const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
/// `_meta` key: who the client is. Optional, never decides anything.
pub(super) const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
/// `_meta` key: what the client can do, for this request only.
pub(super) const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
/// `_meta` key: least severe log level wanted for this request.
pub(super) const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// `_meta` key: who the server is, in results.
pub(super) const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
/// `_meta` key: the id of the listen request that a notification belongs to.
pub(super) const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";
/// `_meta` key: the task that a message of 2025-11-25 belongs to.
pub(super) const RELATED_TASK: &str = "io.modelcontextprotocol/related-task";
/// `_meta` key without prefix: under which name progress is wanted.
pub(super) const PROGRESS_TOKEN: &str = "progressToken";

/// `params._meta` of a message, where it is an object.
pub(super) fn of_message(message: &Value) -> Option<&Map<String, Value>> {
    message.get("params")?.get("_meta")?.as_object()
}

/// Whether a message claims to be modern: `_meta` is an object with a protocol version of whatever value.
///
/// Nothing else counts, neither capabilities nor a progress token alone.
pub(super) fn claims_modern(message: &Value) -> bool {
    of_message(message).is_some_and(|meta| meta.contains_key(PROTOCOL_VERSION))
}

/// The envelope of a request that claims to be modern; `None` where it does not.
pub(super) fn envelope_of(message: &Value) -> Option<Result<Envelope<'_>, EnvelopeFault>> {
    of_message(message).filter(|meta| meta.contains_key(PROTOCOL_VERSION)).map(read_envelope)
}

/// Why a claim to be modern is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum EnvelopeFault {
    /// A required key is missing, or one has the wrong type: -32602, with the reason as a sentence.
    Malformed(String),
    /// Complete, but names a revision that is not served statelessly: -32022.
    Unsupported {
        /// What was asked for.
        requested: String,
    },
}

/// The envelope of a modern request.
#[derive(Debug, PartialEq)]
pub(super) struct Envelope<'a> {
    pub(super) revision: Revision,
    pub(super) client_info: Option<&'a Map<String, Value>>,
    pub(super) client_capabilities: &'a Map<String, Value>,
    pub(super) log_level: Option<LogLevel>,
}

/// Reads the envelope: complete and well-typed first, then the version.
pub(super) fn read_envelope(meta: &Map<String, Value>) -> Result<Envelope<'_>, EnvelopeFault> {
    let malformed = |key: &str, rule: &str| EnvelopeFault::Malformed(format!("/params/_meta/{key} {rule}"));
    let requested = match meta.get(PROTOCOL_VERSION) {
        Some(Value::String(text)) => text.as_str(),
        _ => return Err(malformed(PROTOCOL_VERSION, "must be a string")),
    };
    let client_capabilities = match meta.get(CLIENT_CAPABILITIES) {
        Some(Value::Object(capabilities)) => capabilities,
        Some(_) => return Err(malformed(CLIENT_CAPABILITIES, "must be an object")),
        None => {
            return Err(malformed(
                CLIENT_CAPABILITIES,
                "is missing: send {} where there is nothing to declare",
            ));
        }
    };
    let client_info = match meta.get(CLIENT_INFO) {
        None => None,
        Some(Value::Object(info))
            if ["name", "version"].iter().all(|key| info.get(*key).is_some_and(Value::is_string)) =>
        {
            Some(info)
        }
        Some(_) => {
            return Err(malformed(CLIENT_INFO, "must be an object with the strings `name` and `version`"));
        }
    };
    let log_level = match meta.get(LOG_LEVEL) {
        None => None,
        Some(level) => match level.as_str().and_then(LogLevel::parse) {
            Some(level) => Some(level),
            None => return Err(malformed(LOG_LEVEL, "must be one of the eight log levels of RFC 5424")),
        },
    };
    if meta.get(PROGRESS_TOKEN).is_some_and(|token| !is_token(token)) {
        return Err(malformed(PROGRESS_TOKEN, "must be a string or an integer"));
    }
    match Revision::MODERN.into_iter().find(|revision| revision.as_str() == requested) {
        Some(revision) => Ok(Envelope { revision, client_info, client_capabilities, log_level }),
        None => Err(EnvelopeFault::Unsupported { requested: requested.to_owned() }),
    }
}

/// Whether a value may be a progress token: a string or an integer.
fn is_token(value: &Value) -> bool {
    match value {
        Value::String(_) => true,
        Value::Number(number) => {
            number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|n| n.fract() == 0.0)
        }
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_a_protocol_version_is_a_claim() {
        let table = [
            (json!({"params": {"_meta": {PROTOCOL_VERSION: "2026-07-28"}}}), true),
            (json!({"params": {"_meta": {PROTOCOL_VERSION: null}}}), true),
            (json!({"params": {"_meta": {CLIENT_CAPABILITIES: {}, "progressToken": 1}}}), false),
            (json!({"params": {"_meta": PROTOCOL_VERSION}}), false),
            (json!({"params": {PROTOCOL_VERSION: "2026-07-28"}}), false),
            (json!({}), false),
        ];
        for (message, claims) in table {
            assert_eq!(claims_modern(&message), claims, "{message}");
        }
    }

    #[test]
    fn an_envelope_is_checked_for_shape_before_version() {
        let read = |meta: Value| {
            let meta = meta.as_object().unwrap().clone();
            read_envelope(&meta).map(|envelope| envelope.log_level).map_err(|fault| match fault {
                EnvelopeFault::Malformed(text) => text,
                EnvelopeFault::Unsupported { requested } => requested,
            })
        };
        assert_eq!(read(json!({PROTOCOL_VERSION: "2026-07-28", CLIENT_CAPABILITIES: {}})), Ok(None));
        assert_eq!(
            read(json!({PROTOCOL_VERSION: "2026-07-28", CLIENT_CAPABILITIES: {}, LOG_LEVEL: "error"})),
            Ok(Some(LogLevel::Error))
        );
        assert_eq!(
            read(json!({PROTOCOL_VERSION: "2025-11-25", CLIENT_CAPABILITIES: {}})),
            Err("2025-11-25".to_owned())
        );
        for meta in [
            json!({PROTOCOL_VERSION: 1, CLIENT_CAPABILITIES: {}}),
            json!({PROTOCOL_VERSION: "v999"}),
            json!({PROTOCOL_VERSION: "v999", CLIENT_CAPABILITIES: []}),
            json!({PROTOCOL_VERSION: "v999", CLIENT_CAPABILITIES: {}, CLIENT_INFO: {"name": "n"}}),
            json!({PROTOCOL_VERSION: "v999", CLIENT_CAPABILITIES: {}, LOG_LEVEL: "loud"}),
            json!({PROTOCOL_VERSION: "v999", CLIENT_CAPABILITIES: {}, "progressToken": 1.5}),
        ] {
            assert!(read(meta.clone()).unwrap_err().starts_with("/params/_meta/"), "{meta}");
        }
    }
}
