//! What holds for every frame of a server, whatever a conversation expects.

use serde_json::Value;
use tmws::{
    protocol::{About, Outgoing},
    wire::parse_strict,
};

/// Watches both directions of one connection.
pub(crate) struct Promises {
    /// Ids sent by the client that may still be answered, each as often as it was sent.
    answerable: Vec<String>,
    frame_bytes_max: usize,
}

impl Promises {
    /// Nothing was said yet; no frame of the server may be longer than `frame_bytes_max`.
    pub(crate) fn new(frame_bytes_max: usize) -> Self {
        Self { answerable: Vec::new(), frame_bytes_max }
    }

    /// The ids that were never answered.
    pub(crate) fn unanswered(self) -> Vec<String> {
        self.answerable
    }

    /// Remembers which ids may be answered. Frames that cannot be read have none.
    pub(crate) fn note(&mut self, bytes: &[u8]) {
        let Some(value) = std::str::from_utf8(bytes).ok().and_then(|text| parse_strict(text).ok()) else {
            return;
        };
        let value = value.0;
        let messages = match value {
            Value::Array(items) => items,
            single => vec![single],
        };
        self.answerable
            .extend(messages.iter().filter_map(|message| message.get("id")).map(ToString::to_string));
    }

    /// Checks what holds for every frame of a server, whatever the conversation expects.
    pub(crate) fn check(&mut self, outgoing: &Outgoing) -> Result<Value, String> {
        let text = std::str::from_utf8(outgoing.frame.as_bytes())
            .map_err(|error| format!("a frame is not UTF-8: {error}"))?;
        if text.contains(['\n', '\r']) {
            return Err(format!("a frame has more than one line: {text}"));
        }
        let limit = self.frame_bytes_max;
        if text.len() > limit {
            return Err(format!("a frame of {} bytes exceeds {limit} bytes", text.len()));
        }
        let frame = parse(text)?;
        let messages: &[Value] = match &frame {
            Value::Array(items) if !items.is_empty() => items,
            single => std::slice::from_ref(single),
        };
        for message in messages {
            self.check_message(message).map_err(|fault| format!("{fault}: {text}"))?;
        }
        check_label(&frame, outgoing).map_err(|fault| format!("{fault}: {text}"))?;
        Ok(frame)
    }

    fn check_message(&mut self, message: &Value) -> Result<(), String> {
        let Value::Object(members) = message else {
            return Err("a frame is no object".to_owned());
        };
        if members.get("jsonrpc") != Some(&Value::from("2.0")) {
            return Err("a frame has no jsonrpc 2.0".to_owned());
        }
        let known = ["jsonrpc", "id", "method", "params", "result", "error"];
        if let Some(key) = members.keys().find(|key| !known.contains(&key.as_str())) {
            return Err(format!("a frame has the member {key}"));
        }
        match members.get("id") {
            Some(id) if !id.is_string() && !id.is_number() => {
                Err("an id is neither string nor number".to_owned())
            }
            Some(id) if !members.contains_key("method") => {
                let id = id.to_string();
                match self.answerable.iter().position(|known| *known == id) {
                    Some(index) => {
                        self.answerable.swap_remove(index);
                        Ok(())
                    }
                    None => Err("an answer to nothing, or a second one".to_owned()),
                }
            }
            _ => Ok(()),
        }
    }
}

/// Checks that the label of a frame, by which HTTP routes it, says what the frame is.
fn check_label(frame: &Value, outgoing: &Outgoing) -> Result<(), String> {
    if frame.is_array() {
        return Ok(());
    }
    let code = frame.pointer("/error/code").and_then(Value::as_i64);
    if code != outgoing.error.map(|error| i64::from(error.code())) {
        return Err(format!("labelled with the error {:?}", outgoing.error));
    }
    let answers = frame.get("method").is_none().then(|| frame.get("id")).flatten();
    let fits = match (&outgoing.about, answers) {
        (About::Request { id, is_answer: true }, Some(answered)) => id.to_value() == *answered,
        // An id that is taken is refused with that id, but not for the request that has it.
        (About::Frame, _) => code.is_some(),
        (About::Request { is_answer: false, .. } | About::Session, None) => true,
        _ => false,
    };
    if fits { Ok(()) } else { Err(format!("labelled {:?}", outgoing.about)) }
}

/// A frame as a value.
///
/// # Errors
/// The frame and why it is no JSON.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("a frame is no JSON ({error}): {text}"))
}
