//! What the bridge looks at in a frame: the members that tell what it is and whom it answers. Values stay raw.

use std::borrow::Cow;

use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json, value::RawValue};

use crate::wire::{ErrorCode, RequestId};

/// The members of one message that matter here.
#[derive(Deserialize)]
pub(super) struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<&'a RawValue>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<IgnoredAny>,
}

/// What a message is.
pub(super) enum Kind<'a> {
    Request {
        id: RequestId,
        method: Cow<'a, str>,
    },
    Notification {
        method: Cow<'a, str>,
    },
    Response {
        id: RequestId,
        succeeded: bool,
    },
    /// An error that names no request.
    Unattributed,
    /// No message. Whoever gets it says so.
    Other,
}

impl<'a> Message<'a> {
    /// The message in `frame`; `None` where there is none, or where a member stands twice.
    pub(super) fn read(frame: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(frame).ok()
    }

    /// The messages of `frame`: one, or those of a batch (2025-03-26).
    pub(super) fn read_all(frame: &'a [u8]) -> Vec<Self> {
        if frame.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
            let items: Vec<&RawValue> = serde_json::from_slice(frame).unwrap_or_default();
            return items.into_iter().filter_map(|item| Self::read(item.get().as_bytes())).collect();
        }
        Self::read(frame).into_iter().collect()
    }

    pub(super) fn kind(&self) -> Kind<'a> {
        let id = self.id.map(|raw| RequestId::from_token(raw.get()));
        let method = self.method.and_then(|raw| text(raw.get()));
        match (id, method) {
            (Some(Some(id)), Some(method)) => Kind::Request { id, method },
            (None, Some(method)) => Kind::Notification { method },
            (Some(Some(id)), None)
                if self.method.is_none() && (self.result.is_some() || self.error.is_some()) =>
            {
                Kind::Response { id, succeeded: self.error.is_none() }
            }
            (None, None) if self.method.is_none() && self.error.is_some() => Kind::Unattributed,
            _ => Kind::Other,
        }
    }

    /// The same for a frame of the host's: what has an id and answers nothing asks something, however ill it is made, and
    /// the server's refusal is owed to that id.
    pub(super) fn kind_from_host(&self) -> Kind<'a> {
        match self.kind() {
            Kind::Other if self.result.is_none() && self.error.is_none() => {
                match self.id.and_then(|raw| RequestId::from_token(raw.get())) {
                    Some(id) => Kind::Request { id, method: Cow::Borrowed("") },
                    None => Kind::Other,
                }
            }
            kind => kind,
        }
    }

    /// `params` as they stand.
    pub(super) fn raw_params(&self) -> Option<&'a str> {
        self.params.map(RawValue::get)
    }

    /// The members of `params` that matter here.
    pub(super) fn params(&self) -> Params<'a> {
        self.params.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
    }

    /// `result.protocolVersion`.
    pub(super) fn negotiated(&self) -> Option<Cow<'a, str>> {
        #[derive(Deserialize)]
        struct Negotiated<'a> {
            #[serde(borrow, rename = "protocolVersion")]
            version: &'a RawValue,
        }
        let negotiated: Negotiated<'a> = serde_json::from_str(self.result?.get()).ok()?;
        text(negotiated.version.get())
    }

    /// Where the id's token stands in `frame`, which this message was read from.
    pub(super) fn id_place(&self, frame: &[u8]) -> Option<std::ops::Range<usize>> {
        let token = self.id?.get();
        let start = (token.as_ptr() as usize).checked_sub(frame.as_ptr() as usize)?;
        (start + token.len() <= frame.len()).then(|| start..start + token.len())
    }
}

/// Members of `params`.
#[derive(Default, Deserialize)]
pub(super) struct Params<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    uri: Option<&'a RawValue>,
    #[serde(borrow, rename = "taskId")]
    task_id: Option<&'a RawValue>,
    #[serde(borrow, rename = "requestId")]
    request_id: Option<&'a RawValue>,
    #[serde(borrow, rename = "_meta")]
    meta: Option<&'a RawValue>,
}

/// The envelope's key: its presence alone makes a request a modern one.
#[derive(Default, Deserialize)]
struct Meta<'a> {
    #[serde(borrow, rename = "io.modelcontextprotocol/protocolVersion")]
    version: Option<&'a RawValue>,
    #[serde(borrow, rename = "io.modelcontextprotocol/subscriptionId")]
    subscription: Option<&'a RawValue>,
}

impl<'a> Params<'a> {
    fn meta(&self) -> Meta<'a> {
        self.meta.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
    }

    /// The revision that the envelope names; `Some("")` where the claim is there and is no text.
    pub(super) fn claim(&self) -> Option<Cow<'a, str>> {
        self.meta().version.map(|raw| text(raw.get()).unwrap_or_default())
    }

    /// The subscription that a notification belongs to.
    pub(super) fn subscription(&self) -> Option<RequestId> {
        self.meta().subscription.and_then(|raw| RequestId::from_token(raw.get()))
    }

    pub(super) fn uri(&self) -> Option<Cow<'a, str>> {
        text(self.uri?.get())
    }

    /// The request that a cancellation names.
    pub(super) fn request_id(&self) -> Option<RequestId> {
        RequestId::from_token(self.request_id?.get())
    }

    /// What `Mcp-Name` mirrors for `method` (specification of 2026-07-28: basic/transports, Streamable HTTP).
    pub(super) fn subject(&self, method: &str) -> Option<Cow<'a, str>> {
        let raw = match method {
            "tools/call" | "prompts/get" => self.name,
            "resources/read" => self.uri,
            "tasks/get" | "tasks/update" | "tasks/cancel" => self.task_id,
            _ => None,
        };
        text(raw?.get())
    }
}

/// The text that a JSON token stands for.
fn text(token: &str) -> Option<Cow<'_, str>> {
    let inner = token.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(token).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// A request of the bridge's own.
pub(super) fn request(id: &RequestId, method: &str, params: Option<&str>) -> Vec<u8> {
    let params = params.map_or_else(String::new, |params| format!(r#","params":{params}"#));
    format!(r#"{{"jsonrpc":"2.0","id":{},"method":"{method}"{params}}}"#, id.token()).into_bytes()
}

/// An error response in the server's stead, with the id as the host wrote it.
pub(super) fn error(id: &RequestId, message: &str) -> Vec<u8> {
    let error = json!({"code": ErrorCode::InternalError.code(), "message": message});
    with_id(id, &error)
}

/// An error object under `id`.
pub(super) fn with_id(id: &RequestId, error: &Value) -> Vec<u8> {
    format!(r#"{{"jsonrpc":"2.0","id":{},"error":{error}}}"#, id.token()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn describe(frame: &str) -> String {
        match Message::read(frame.as_bytes()).map(|message| message.kind()) {
            Some(Kind::Request { id, method }) => format!("request {id} {method}"),
            Some(Kind::Notification { method }) => format!("notification {method}"),
            Some(Kind::Response { id, succeeded }) => format!("response {id} {succeeded}"),
            Some(Kind::Unattributed) => "unattributed".to_owned(),
            Some(Kind::Other) => "other".to_owned(),
            None => "none".to_owned(),
        }
    }

    #[test]
    fn a_message_is_told_by_its_members() {
        let table = [
            (r#"{"jsonrpc":"2.0","id":-7,"method":"ping"}"#, "request -7 ping"),
            (r#"{"method":"pi\u006eg","id":"a\"b"}"#, r#"request "a\"b" ping"#),
            (
                r#"{"id":123456789012345678901234567890,"result":{}}"#,
                "response 123456789012345678901234567890 true",
            ),
            (r#"{"id":1,"error":{}}"#, "response 1 false"),
            (r#"{"error":{}}"#, "unattributed"),
            (r#"{"method":"notifications/initialized"}"#, "notification notifications/initialized"),
            (r#"{"id":1.5,"method":"ping"}"#, "other"),
            (r#"{"id":1}"#, "other"),
            (r#"{"id":1,"id":2,"method":"ping"}"#, "none"),
            ("[1]", "none"),
            ("nonsense", "none"),
        ];
        for (frame, expected) in table {
            assert_eq!(describe(frame), expected, "{frame}");
        }
    }

    #[test]
    fn whatever_of_the_host_s_has_an_id_is_owed_an_answer() {
        let table = [
            (r#"{"id":10,"method":5}"#, true),
            (r#"{"id":10}"#, true),
            (r#"{"id":10,"method":"ping"}"#, true),
            (r#"{"id":1.5,"method":5}"#, false),
            (r#"{"method":5}"#, false),
            (r#"{"id":10,"result":{}}"#, false),
        ];
        for (frame, is_owed) in table {
            let kind = Message::read(frame.as_bytes()).unwrap().kind_from_host();
            assert_eq!(matches!(kind, Kind::Request { .. }), is_owed, "{frame}");
        }
    }

    #[test]
    fn a_claim_is_the_key_alone() {
        let claim = |params: &str| {
            let frame = format!(r#"{{"id":1,"method":"m","params":{params}}}"#);
            Message::read(frame.as_bytes()).unwrap().params().claim().map(Cow::into_owned)
        };
        let key = "io.modelcontextprotocol/protocolVersion";
        assert_eq!(claim(&format!(r#"{{"_meta":{{"{key}":"2026-07-28"}}}}"#)).as_deref(), Some("2026-07-28"));
        assert_eq!(claim(&format!(r#"{{"_meta":{{"{key}":3}}}}"#)).as_deref(), Some(""));
        assert_eq!(claim(r#"{"_meta":{"progressToken":1}}"#), None);
        assert_eq!(claim("{}"), None);
    }
}
