//! The encoding of event streams: what goes over the wire as `text/event-stream`.
//!
//! Our messages are one line of JSON each, so that one `data:` line carries a whole one.

use std::time::Duration;

use bytes::Bytes;

use crate::schema::Sealed;

/// Tells the client, and whoever stands between, that the stream lives. Clients skip it.
pub(super) const KEEP_ALIVE: Bytes = Bytes::from_static(b":\n\n");

/// One message of ours. Every one is named `message`: official clients drop events of any other name. `id` is where the
/// stream may be resumed.
pub(super) fn message(id: Option<&str>, frame: &Sealed) -> Bytes {
    let frame = frame.as_bytes();
    let mut event = Vec::with_capacity(frame.len() + id.map_or(0, |id| id.len() + 5) + 24);
    if let Some(id) = id {
        push(&mut event, "id", id.as_bytes());
    }
    push(&mut event, "event", b"message");
    push(&mut event, "data", frame);
    event.push(b'\n');
    event.into()
}

/// An event without content, so that the client has an id to resume from before anything was said. Only clients of
/// 2025-11-25 know what to make of it.
pub(super) fn priming(id: &str) -> Bytes {
    let mut event = Vec::with_capacity(id.len() + 16);
    push(&mut event, "id", id.as_bytes());
    push(&mut event, "data", b"");
    event.push(b'\n');
    event.into()
}

/// How long the client shall wait before it comes again, once the stream has ended.
pub(super) fn retry(after: Duration) -> Bytes {
    format!("retry: {}\n\n", after.as_millis()).into()
}

/// An event of any name; `data` is one line.
pub(super) fn named(name: &str, data: &str) -> Bytes {
    format!("event: {name}\ndata: {data}\n\n").into()
}

fn push(event: &mut Vec<u8>, field: &str, value: &[u8]) {
    event.extend_from_slice(field.as_bytes());
    event.extend_from_slice(b": ");
    event.extend_from_slice(value);
    event.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        revision::Revision,
        schema::Gate,
        wire::{Method, RequestId},
    };

    #[test]
    fn events_look_as_the_event_stream_format_has_them() {
        let id = RequestId::from_integer(1);
        let frame = Gate::new()
            .seal_result(Revision::V2025_11_25, Method::Ping, &id, &serde_json::json!({}))
            .unwrap();
        let text = r#"{"jsonrpc":"2.0","id":1,"result":{}}"#;
        let table = [
            (message(None, &frame), format!("event: message\ndata: {text}\n\n")),
            (message(Some("a-1"), &frame), format!("id: a-1\nevent: message\ndata: {text}\n\n")),
            (priming("a-0"), "id: a-0\ndata: \n\n".to_owned()),
            (retry(Duration::from_millis(1500)), "retry: 1500\n\n".to_owned()),
            (
                named("endpoint", "/messages?session=x"),
                "event: endpoint\ndata: /messages?session=x\n\n".to_owned(),
            ),
            (KEEP_ALIVE, ":\n\n".to_owned()),
        ];
        for (event, expected) in table {
            assert_eq!(event, expected.as_bytes());
        }
    }
}
