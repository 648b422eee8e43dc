//! The two formats that providers speak: OpenAI's chat completions and Anthropic's messages.

use serde_json::{Value, json};

use super::Prompt;

/// How a provider is spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `POST …/chat/completions`, and what is compatible with it.
    #[default]
    OpenAi,
    /// `POST …/v1/messages`.
    Anthropic,
}

/// The version of the API whose shapes these are.
const ANTHROPIC_VERSION: &str = "2023-06-01";

/// Reads `usage`: tokens in and out.
const USAGE: [(&str, &str); 2] =
    [("/usage/prompt_tokens", "/usage/completion_tokens"), ("/usage/input_tokens", "/usage/output_tokens")];

/// A completion as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) text: String,
    pub(super) model: Option<String>,
    pub(super) tokens_in: Option<u64>,
    pub(super) tokens_out: Option<u64>,
}

impl Format {
    /// All of them, as written in settings.
    pub const ALL: [(&'static str, Self); 2] = [("openai", Self::OpenAi), ("anthropic", Self::Anthropic)];

    /// As written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
        }
    }

    /// Headers beside the content's type; the value of the secret one is `key`.
    pub(super) fn headers(self, key: &str) -> [(&'static str, String); 2] {
        match self {
            Self::OpenAi => {
                [("authorization", format!("Bearer {key}")), ("accept", "application/json".into())]
            }
            Self::Anthropic => {
                [("x-api-key", key.to_owned()), ("anthropic-version", ANTHROPIC_VERSION.into())]
            }
        }
    }

    /// The body of a request. `host` tells OpenAI's own service, whose newer models refuse the older name of a limit that
    /// all others know.
    pub(super) fn body(self, host: &str, model: &str, prompt: &Prompt) -> Value {
        match self {
            Self::OpenAi => {
                let mut messages = Vec::with_capacity(2);
                if let Some(system) = &prompt.system {
                    messages.push(json!({"role": "system", "content": system}));
                }
                messages.push(json!({"role": "user", "content": prompt.prompt}));
                let limit = if host == "api.openai.com" { "max_completion_tokens" } else { "max_tokens" };
                json!({"model": model, "messages": messages, limit: prompt.max_tokens, "stream": false})
            }
            Self::Anthropic => {
                let mut body = json!({
                    "model": model,
                    "max_tokens": prompt.max_tokens,
                    "messages": [{"role": "user", "content": prompt.prompt}],
                });
                if let Some(system) = &prompt.system {
                    body["system"] = json!(system);
                }
                body
            }
        }
    }

    /// The completion in an answer; `None` where there is none.
    pub(super) fn read(self, answer: &Value) -> Option<Read> {
        let (text, (tokens_in, tokens_out)) = match self {
            Self::OpenAi => {
                let text = answer.pointer("/choices/0/message/content")?.as_str()?.to_owned();
                (text, USAGE[0])
            }
            Self::Anthropic => {
                let blocks = answer.get("content")?.as_array()?;
                let text = |block: &Value| {
                    (block.get("type")?.as_str()? == "text")
                        .then(|| block.get("text")?.as_str())
                        .flatten()
                        .map(str::to_owned)
                };
                let texts: Vec<String> = blocks.iter().filter_map(text).collect();
                (!texts.is_empty()).then(|| texts.concat()).map(|text| (text, USAGE[1]))?
            }
        };
        let count = |pointer: &str| answer.pointer(pointer).and_then(Value::as_u64);
        Some(Read {
            text,
            model: answer.get("model").and_then(Value::as_str).map(|model| model.chars().take(100).collect()),
            tokens_in: count(tokens_in),
            tokens_out: count(tokens_out),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_is_read_as_its_documents_say() {
        // Shapes of the public API references of both.
        let openai = json!({
            "id": "chatcmpl-1", "object": "chat.completion", "model": "m-1",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 19, "completion_tokens": 1, "total_tokens": 20},
        });
        let anthropic = json!({
            "id": "msg_1", "type": "message", "role": "assistant", "model": "m-1", "stop_reason": "end_turn",
            "content": [{"type": "thinking", "thinking": "…"}, {"type": "text", "text": "ye"}, {"type": "text", "text": "s"}],
            "usage": {"input_tokens": 19, "output_tokens": 1},
        });
        let read =
            Read { text: "yes".into(), model: Some("m-1".into()), tokens_in: Some(19), tokens_out: Some(1) };
        assert_eq!(Format::OpenAi.read(&openai), Some(read.clone()));
        assert_eq!(Format::Anthropic.read(&anthropic), Some(read));
        for (format, answer) in [
            (Format::OpenAi, json!({"choices": []})),
            (Format::OpenAi, json!({"choices": [{"message": {"content": null}}]})),
            (Format::OpenAi, json!([])),
            (Format::Anthropic, json!({"content": []})),
            (Format::Anthropic, json!({"content": "yes"})),
            (Format::Anthropic, json!({"content": [{"type": "tool_use"}]})),
        ] {
            assert_eq!(format.read(&answer), None, "{answer}");
        }
    }
}
