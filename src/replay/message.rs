//! One JSON-RPC message as the player sees it: by its members alone, whatever revision it is of.

use serde_json::Value;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind<'a> {
    /// Has a method and an id.
    Request { id: &'a Value, method: &'a str },
    /// Has a method and no id.
    Notification { method: &'a str },
    /// Has a result or an error.
    Answer { id: Option<&'a Value> },
    /// JSON, but no message.
    Other,
}

/// Tells what `message` is.
pub(super) fn kind(message: &Value) -> Kind<'_> {
    let id = message.get("id").filter(|id| !id.is_null());
    match (message.get("method").and_then(Value::as_str), id) {
        (Some(method), Some(id)) => Kind::Request { id, method },
        (Some(method), None) => Kind::Notification { method },
        (None, id) if message.get("result").is_some() || message.get("error").is_some() => {
            Kind::Answer { id }
        }
        (None, _) => Kind::Other,
    }
}

/// The messages of one frame: several where it is a batch.
pub(super) fn messages(frame: Value) -> Vec<Value> {
    match frame {
        Value::Array(messages) => messages,
        message => vec![message],
    }
}

/// The revision that a request names in `_meta` (2026-07-28 and later).
pub(super) fn claim(message: &Value) -> Option<&str> {
    message.get("params")?.get("_meta")?.get("io.modelcontextprotocol/protocolVersion")?.as_str()
}

/// The progress token that a request brings.
pub(super) fn progress_token(message: &Value) -> Option<&Value> {
    message.get("params")?.get("_meta")?.get("progressToken")
}

/// What a person calls it: `tools/call echo (id 2)`.
pub(super) fn summary(message: &Value) -> String {
    let subject = ["name", "uri", "taskId"]
        .into_iter()
        .find_map(|member| message.get("params")?.get(member)?.as_str())
        .map(|subject| format!(" {}", clip(subject, 60)))
        .unwrap_or_default();
    match kind(message) {
        Kind::Request { id, method } => format!("{method}{subject} (id {id})"),
        Kind::Notification { method } => format!("{method}{subject}"),
        Kind::Answer { id: Some(id) } => format!("the answer to request {id}"),
        Kind::Answer { id: None } => "an error without id".to_owned(),
        Kind::Other => "no message".to_owned(),
    }
}

/// At most `max` characters of `text`, and a sign where there were more.
pub(super) fn clip(text: &str, max: usize) -> String {
    let mut characters = text.chars();
    let mut clipped: String = characters.by_ref().take(max).collect();
    if characters.next().is_some() {
        clipped.push('…');
    }
    clipped
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_message_is_told_by_its_members() {
        let table = [
            (json!({"id": 0, "method": "tools/call", "params": {"name": "echo"}}), "tools/call echo (id 0)"),
            (json!({"method": "notifications/initialized"}), "notifications/initialized"),
            (json!({"id": "a", "result": {}}), "the answer to request \"a\""),
            (json!({"id": null, "error": {"code": -32700}}), "an error without id"),
            (json!({"id": 1}), "no message"),
            (json!("text"), "no message"),
        ];
        for (message, expected) in table {
            assert_eq!(summary(&message), expected, "{message}");
        }
        assert_eq!(clip("äbc", 2), "äb…");
        assert_eq!(clip("äb", 2), "äb");
    }
}
