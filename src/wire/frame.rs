//! One received text as JSON-RPC envelopes.

use std::fmt;

use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, value::RawValue};

use super::{
    RequestId,
    json::{Strict, StrictJson, Within, parse_strict},
};

/// Most messages of one batch. Each costs far more memory than the few bytes that it may be written in.
pub const BATCH_MESSAGES_MAX: usize = 1_000;

/// Why a frame is no JSON text at all: answered -32700 (without id), or met with silence where the revision has no
/// id-less error.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than the limit.
    #[error("frame of {size_bytes} bytes exceeds the limit of {limit_bytes} bytes")]
    TooLarge {
        /// Size received so far.
        size_bytes: usize,
        /// The limit in force.
        limit_bytes: usize,
    },
    /// Not UTF-8.
    #[error("frame is not UTF-8 (first bad byte at offset {offset})")]
    NotUtf8 {
        /// Offset of the first bad byte.
        offset: usize,
    },
    /// Not JSON, or nested too deep.
    #[error("frame is not JSON: {0}")]
    NotJson(#[source] serde_json::Error),
}

/// A parsed frame.
#[derive(Debug)]
pub enum Frame {
    /// One message.
    Single(Envelope),
    /// An array of messages, in order. Only 2025-03-26 has batches; the caller decides.
    Batch(Vec<Envelope>),
}

/// One JSON-RPC message, told apart by its members alone.
#[derive(Debug)]
pub enum Envelope {
    /// Has a method and an id.
    Request(Request),
    /// Has a method and no id.
    Notification(Notification),
    /// Has a result or an error.
    Response(Response),
    /// JSON, but no message: answered -32600, with the id where one could be read.
    Invalid {
        /// The id, if a string or an integer stood there.
        id: Option<RequestId>,
        /// What is wrong, as a fragment.
        reason: String,
    },
}

/// A request as received.
#[derive(Debug)]
pub struct Request {
    /// The id, as received.
    pub id: RequestId,
    /// The method name.
    pub method: String,
    /// The whole message, for validation.
    pub message: Value,
}

/// A notification as received.
#[derive(Debug)]
pub struct Notification {
    /// The method name.
    pub method: String,
    /// The whole message, for validation.
    pub message: Value,
    /// `params.requestId` as an id, read from its exact token, if there is one.
    pub request_id: Option<RequestId>,
}

/// An answer to a request of ours.
#[derive(Debug)]
pub struct Response {
    /// The id of our request; `None` only for an error without an id.
    pub id: Option<RequestId>,
    /// The whole message, for validation. Has exactly one of `result` and `error`.
    pub message: Value,
}

impl Request {
    /// `params`, where it is an object.
    #[must_use]
    pub fn params(&self) -> Option<&Map<String, Value>> {
        self.message.get("params").and_then(Value::as_object)
    }
}

/// Parses one frame.
///
/// Nothing is validated beyond JSON-RPC itself: `jsonrpc` is `"2.0"`, an id is a string or an integer, `params` is an
/// object, a message is exactly one of request, notification, response. A duplicate key anywhere makes the message
/// [`Envelope::Invalid`] (two readers could take different values from it).
///
/// # Errors
/// [`FrameError`] where the bytes are no JSON text. The size is not checked here: the decoder that cut the frame did.
pub fn parse_frame(bytes: &[u8]) -> Result<Frame, FrameError> {
    let text =
        std::str::from_utf8(bytes).map_err(|error| FrameError::NotUtf8 { offset: error.valid_up_to() })?;
    let mut deserializer = serde_json::Deserializer::from_str(text);
    deserializer.disable_recursion_limit();
    let top = TopSeed { in_batch: false }.deserialize(&mut deserializer).map_err(FrameError::NotJson)?;
    deserializer.end().map_err(FrameError::NotJson)?;
    Ok(match top {
        Top::Message(parsed) => Frame::Single(parsed.classify()),
        Top::Array(items) => Frame::Batch(
            items
                .into_iter()
                .map(|item| match item {
                    Top::Message(parsed) => parsed.classify(),
                    Top::Array(_) | Top::TooMany | Top::Other => invalid(None, "a message must be an object"),
                })
                .collect(),
        ),
        Top::TooMany => {
            Frame::Single(invalid(None, format!("a batch holds at most {BATCH_MESSAGES_MAX} messages")))
        }
        Top::Other => Frame::Single(invalid(None, "a message must be an object")),
    })
}

fn invalid(id: Option<RequestId>, reason: impl Into<String>) -> Envelope {
    Envelope::Invalid { id, reason: reason.into() }
}

enum Top {
    Message(Parsed),
    Array(Vec<Top>),
    /// An array of more than [`BATCH_MESSAGES_MAX`] elements.
    TooMany,
    Other,
}

struct Parsed {
    members: Map<String, Value>,
    has_id: bool,
    /// The id, where the member is a string or an integer.
    id: Option<RequestId>,
    /// `params.requestId`, likewise: with every digit, for cancellation.
    request_id: Option<RequestId>,
    duplicate_key: Option<String>,
}

struct TopSeed {
    in_batch: bool,
}

impl<'de> DeserializeSeed<'de> for TopSeed {
    type Value = Top;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Top, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for TopSeed {
    type Value = Top;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON-RPC message")
    }

    fn visit_unit<E>(self) -> Result<Top, E> {
        Ok(Top::Other)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Top, E> {
        Ok(Top::Other)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Top, E> {
        Ok(Top::Other)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Top, E> {
        Ok(Top::Other)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Top, E> {
        Ok(Top::Other)
    }
    fn visit_str<E>(self, _: &str) -> Result<Top, E> {
        Ok(Top::Other)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Top, A::Error> {
        let mut items = Vec::new();
        if self.in_batch {
            // An array inside a batch is no message; its content only has to be JSON of bounded depth.
            let mut seen = StrictJson::default();
            while seq.next_element_seed(Strict { depth: 3, seen: &mut seen })?.is_some() {}
        } else {
            while let Some(item) = seq.next_element_seed(TopSeed { in_batch: true })? {
                items.push(item);
                if items.len() > BATCH_MESSAGES_MAX {
                    // The rest only has to be JSON; nothing of it is kept.
                    items.clear();
                    let mut seen = StrictJson::default();
                    while seq.next_element_seed(Strict { depth: 2, seen: &mut seen })?.is_some() {}
                    return Ok(Top::TooMany);
                }
            }
        }
        Ok(Top::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Top, A::Error> {
        let depth = if self.in_batch { 3 } else { 2 };
        let mut seen = StrictJson::default();
        let mut members = Map::with_capacity(4);
        let (mut has_id, mut id, mut request_id) = (false, None, None);
        while let Some(key) = access.next_key::<String>()? {
            let value = match key.as_str() {
                "id" => {
                    let token = access.next_value::<&RawValue>()?.get();
                    has_id = true;
                    id = RequestId::from_token(token);
                    match &id {
                        Some(id) => id.to_value(),
                        None => not_an_id(token)?,
                    }
                }
                "params" => {
                    access.next_value_seed(Params { depth, seen: &mut seen, request_id: &mut request_id })?
                }
                _ => access.next_value_seed(Strict { depth, seen: &mut seen })?,
            };
            seen.insert(&mut members, key, value);
        }
        Ok(Top::Message(Parsed { members, has_id, id, request_id, duplicate_key: seen.duplicate_key }))
    }
}

/// What stands where an id should: read as strictly as the rest of the frame (a raw token is not), and then refused as
/// an id. A number may be of any size here, as ids may.
fn not_an_id<E: serde::de::Error>(token: &str) -> Result<Value, E> {
    if token.starts_with(['-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']) {
        return Ok(Value::Null);
    }
    parse_strict(token).map(|(value, _)| value).map_err(|error| E::custom(Within(error)))
}

/// `params`, keeping the exact token of `requestId`.
struct Params<'a> {
    depth: usize,
    seen: &'a mut StrictJson,
    request_id: &'a mut Option<RequestId>,
}

impl<'de> DeserializeSeed<'de> for Params<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Params<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("params")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Value, A::Error> {
        Strict { depth: self.depth, seen: self.seen }.visit_seq(seq)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let value = if key == "requestId" {
                let token = access.next_value::<&RawValue>()?.get();
                *self.request_id = RequestId::from_token(token);
                match &*self.request_id {
                    Some(id) => id.to_value(),
                    None => not_an_id(token)?,
                }
            } else {
                access.next_value_seed(Strict { depth: self.depth + 1, seen: self.seen })?
            };
            self.seen.insert(&mut map, key, value);
        }
        Ok(Value::Object(map))
    }
}

impl Parsed {
    fn classify(self) -> Envelope {
        let Self { members, has_id, id, request_id, duplicate_key } = self;
        if let Some(key) = duplicate_key {
            // With two ids in the frame neither is the right one to echo.
            let id = if key == "id" { None } else { id };
            return invalid(id, format!("the key {key:?} occurs twice in one object"));
        }
        if members.get("jsonrpc").and_then(Value::as_str) != Some("2.0") {
            return invalid(id, "`jsonrpc` must be \"2.0\"");
        }
        if has_id && id.is_none() {
            return invalid(None, "`id` must be a string or an integer");
        }
        let has_outcome = members.contains_key("result") || members.contains_key("error");
        match members.get("method") {
            Some(Value::String(_)) if has_outcome => {
                invalid(id, "a message has either `method` or an outcome, not both")
            }
            Some(Value::String(method)) => {
                if members.get("params").is_some_and(|params| !params.is_object()) {
                    return invalid(id, "`params` must be an object where it is present");
                }
                let method = method.clone();
                let message = Value::Object(members);
                match id {
                    Some(id) => Envelope::Request(Request { id, method, message }),
                    None => Envelope::Notification(Notification { method, message, request_id }),
                }
            }
            Some(_) => invalid(id, "`method` must be a string"),
            None => match (members.contains_key("result"), members.contains_key("error")) {
                (true, true) => invalid(id, "a response has either `result` or `error`, not both"),
                (true, false) if id.is_none() => invalid(None, "a response needs the `id` of its request"),
                (false, false) => invalid(id, "a message needs `method`, `result` or `error`"),
                (true | false, _) => Envelope::Response(Response { id, message: Value::Object(members) }),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frame, then `kind id-token` as understood.
    const TABLE: &[(&str, &str)] = &[
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, "request 1"),
        (r#"{"jsonrpc":"2.0","id":1.0,"method":"ping"}"#, "request 1.0"),
        (r#"{"jsonrpc":"2.0","id":"","method":"ping"}"#, r#"request """#),
        (
            r#"{"jsonrpc":"2.0","id":12345678901234567890123,"method":"ping"}"#,
            "request 12345678901234567890123",
        ),
        (r#"{"jsonrpc":"2.0","method":"ping"}"#, "notification -"),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, "invalid -"),
        (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, "invalid -"),
        (r#"{"jsonrpc":"2.0","id":1,"id":1,"method":"ping"}"#, "invalid -"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"ping"}"#, "invalid 1"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"a":{"b":1,"b":1}}}"#, "invalid 1"),
        (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, "invalid 1"),
        (r#"{"id":1,"method":"ping"}"#, "invalid 1"),
        (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, "invalid 1"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#, "invalid 1"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":null}"#, "invalid 1"),
        (r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#, "invalid 1"),
        (r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#, "invalid 1"),
        (r#"{"jsonrpc":"2.0","id":1}"#, "invalid 1"),
        (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "response 1"),
        (r#"{"jsonrpc":"2.0","error":{"code":1,"message":""}}"#, "response -"),
        (r#"{"jsonrpc":"2.0","result":{}}"#, "invalid -"),
        ("42", "invalid -"),
        ("null", "invalid -"),
        (r#""text""#, "invalid -"),
    ];

    fn describe(envelope: &Envelope) -> String {
        let (kind, id) = match envelope {
            Envelope::Request(request) => ("request", Some(&request.id)),
            Envelope::Notification(_) => ("notification", None),
            Envelope::Response(response) => ("response", response.id.as_ref()),
            Envelope::Invalid { id, .. } => ("invalid", id.as_ref()),
        };
        format!("{kind} {}", id.map_or("-", RequestId::token))
    }

    #[test]
    fn a_batch_is_bounded_and_its_rest_still_has_to_be_json() {
        let batch = |count: usize, last: &str| format!("[{}{last}]", "1,".repeat(count - 1));
        let parse = |text: String| parse_frame(text.as_bytes());
        let Ok(Frame::Batch(items)) = parse(batch(BATCH_MESSAGES_MAX, "1")) else {
            panic!("within the limit")
        };
        assert_eq!(items.len(), BATCH_MESSAGES_MAX);
        for count in [BATCH_MESSAGES_MAX + 1, 10 * BATCH_MESSAGES_MAX] {
            assert!(matches!(
                parse(batch(count, "1")),
                Ok(Frame::Single(Envelope::Invalid { id: None, .. }))
            ));
            assert!(parse(batch(count, "]")).is_err());
        }
    }

    #[test]
    fn envelopes_are_told_apart_by_their_members() {
        for (text, expected) in TABLE {
            match parse_frame(text.as_bytes()).unwrap() {
                Frame::Single(envelope) => assert_eq!(describe(&envelope), *expected, "{text}"),
                Frame::Batch(_) => panic!("{text} is no batch"),
            }
            match parse_frame(format!("[{text},[{text}]]").as_bytes()).unwrap() {
                Frame::Batch(items) => {
                    assert_eq!(describe(&items[0]), *expected, "{text}");
                    assert_eq!(describe(&items[1]), "invalid -");
                }
                Frame::Single(_) => panic!("[{text}] is a batch"),
            }
        }
    }

    #[test]
    fn a_cancelled_id_keeps_every_digit() {
        let text = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":18446744073709551617}}"#;
        let Frame::Single(Envelope::Notification(notification)) = parse_frame(text.as_bytes()).unwrap()
        else {
            panic!("a notification");
        };
        assert_eq!(notification.request_id.unwrap().token(), "18446744073709551617");
    }

    #[test]
    fn depth_is_counted_from_the_outermost_object() {
        let nested = |levels: usize| {
            let (open, close) = ("[".repeat(levels), "]".repeat(levels));
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"a":{open}{close}}}}}"#)
        };
        assert!(parse_frame(nested(126).as_bytes()).is_ok());
        assert!(matches!(parse_frame(nested(127).as_bytes()), Err(FrameError::NotJson(_))));
    }

    #[test]
    fn what_is_no_text_is_a_frame_error() {
        assert!(matches!(parse_frame(b"\xff{}"), Err(FrameError::NotUtf8 { offset: 0 })));
        assert!(matches!(parse_frame(b"{"), Err(FrameError::NotJson(_))));
        assert!(matches!(parse_frame("\u{feff}{}".as_bytes()), Err(FrameError::NotJson(_))));
        for id in [r#""\ud800""#, r#""\udc00\ud800""#, &format!("{}{}", "[".repeat(200), "]".repeat(200))] {
            for text in [
                format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"x"}}"#),
                format!(r#"{{"jsonrpc":"2.0","method":"x","params":{{"requestId":{id}}}}}"#),
                format!(r#"[{{"jsonrpc":"2.0","id":{id},"method":"x"}}]"#),
            ] {
                assert!(matches!(parse_frame(text.as_bytes()), Err(FrameError::NotJson(_))), "{text}");
            }
        }
    }
}
