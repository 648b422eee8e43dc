//! Answers in the making: content, receipt, errors. The core adds the envelope and fits them to each revision.

use std::time::Duration;

use rmcp::model::ContentBlock;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::arguments::InvalidArgument;
use crate::{
    engine::{EngineError, ErrorKind, LlmReceipt, Receipt, tokens},
    protocol::{CallError, Reply},
    revision::Revision,
    scope::Scope,
    store::StoreError,
};

/// How results travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Payload {
    /// One compact JSON text block.
    #[default]
    Text,
    /// `structuredContent` alone where the revision has it; else the text block.
    Structured,
    /// Both.
    Both,
}

impl Payload {
    /// All of them, as written.
    pub const ALL: [(&'static str, Self); 3] =
        [("text", Self::Text), ("structured", Self::Structured), ("both", Self::Both)];

    /// As written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Structured => "structured",
            Self::Both => "both",
        }
    }
}

/// A model type as JSON. Types that serialise to an object of plain members cannot fail; null would be refused on
/// the way out.
pub(super) fn to_value(model: &impl Serialize) -> Value {
    serde_json::to_value(model).unwrap_or_default()
}

/// As [`to_value`], for what is an object.
pub(super) fn to_map(model: &impl Serialize) -> Map<String, Value> {
    match to_value(model) {
        Value::Object(mut map) => {
            // Part of the envelope, which is the core's.
            map.remove("resultType");
            map
        }
        _ => Map::new(),
    }
}

/// The answer of a tool that went well: `text` is compact JSON, the same in every form.
pub(super) fn complete(
    revision: Revision,
    payload: Payload,
    text: String,
    meta: Map<String, Value>,
) -> Reply {
    let value = match payload {
        Payload::Text => None,
        // What is no JSON stays text.
        Payload::Structured | Payload::Both => {
            serde_json::from_str(&text).ok().filter(|value| fits_structured(revision, value))
        }
    };
    let mut result = Map::new();
    let text_too = value.is_none() || payload == Payload::Both;
    result.insert("content".to_owned(), if text_too { text_content(text) } else { json!([]) });
    if let Some(value) = value {
        result.insert("structuredContent".to_owned(), value);
    }
    if !meta.is_empty() {
        result.insert("_meta".to_owned(), Value::Object(meta));
    }
    Reply::Result(result)
}

/// Whether `structuredContent` may carry `value`: from 2025-06-18 on an object, since 2026-07-28 any value.
fn fits_structured(revision: Revision, value: &Value) -> bool {
    match revision {
        Revision::V2024_11_05 | Revision::V2025_03_26 => false,
        Revision::V2025_06_18 | Revision::V2025_11_25 => value.is_object(),
        Revision::V2026_07_28 => true,
    }
}

/// One text block.
pub(super) fn text_content(text: String) -> Value {
    json!([to_value(&ContentBlock::text(text))])
}

/// A failure that the model can act on: `isError`, and one text block with code, message, part and pause. Its receipt is
/// beside it, where it has one.
pub(super) fn failed(error: &EngineError, scope: &Scope) -> Reply {
    if error.kind == ErrorKind::Internal {
        tracing::error!(code = error.kind.code(), part = error.part.as_deref(), "tool call failed");
    }
    let mut body = Map::new();
    body.insert("error".to_owned(), error.kind.code().into());
    body.insert("message".to_owned(), error.message.as_str().into());
    if let Some(part) = &error.part {
        body.insert("part".to_owned(), part.as_str().into());
    }
    if let Some(pause) = error.retry_after {
        body.insert("retry_after_ms".to_owned(), millis(pause).into());
    }
    let text = Value::Object(body).to_string();
    let mut told = Map::new();
    if let Some(receipt) = &error.receipt {
        let mut receipt = Receipt::clone(receipt);
        let tokens = tokens::count(&text);
        (receipt.tokens_out, receipt.tokens_estimated) = (tokens.count, tokens.estimated);
        told.insert("tmws/receipt".to_owned(), receipt_meta(&receipt));
    }
    told.insert("tmws/scope".to_owned(), scope_meta(scope));
    let mut result = Map::new();
    result.insert("content".to_owned(), text_content(text));
    result.insert("isError".to_owned(), true.into());
    result.insert("_meta".to_owned(), Value::Object(told));
    Reply::Result(result)
}

/// Arguments that do not fit: a protocol error up to 2025-06-18, a failed result since 2025-11-25, which lets the
/// model mend its call.
///
/// Spec: 2025-11-25 server/tools#error-handling.
pub(super) fn invalid_arguments(revision: Revision, error: &InvalidArgument, scope: &Scope) -> Reply {
    match revision {
        Revision::V2024_11_05 | Revision::V2025_03_26 | Revision::V2025_06_18 => {
            Reply::Error(CallError::InvalidParams(error.message.clone()))
        }
        Revision::V2025_11_25 | Revision::V2026_07_28 => failed(
            &EngineError {
                kind: ErrorKind::InvalidInput,
                message: error.message.clone(),
                part: Some(error.field.clone()),
                retry_after: None,
                receipt: None,
            },
            scope,
        ),
    }
}

/// What a store error means to a model. The error's own text is safe; its source goes to the log only.
pub(super) fn of_store(error: &StoreError) -> EngineError {
    let (kind, part, retry_after) = match error {
        StoreError::Locked => (ErrorKind::StoreUnavailable, None, Some(Duration::from_secs(1))),
        StoreError::Busy => (ErrorKind::Busy, None, Some(Duration::from_millis(200))),
        StoreError::Unavailable { .. } => (ErrorKind::StoreUnavailable, None, Some(Duration::from_secs(5))),
        StoreError::ReadOnly { .. }
        | StoreError::Corrupt { .. }
        | StoreError::NewerVersion { .. }
        | StoreError::Unsuitable { .. }
        | StoreError::LoginRefused { .. }
        | StoreError::DiskFull { .. } => (ErrorKind::StoreUnavailable, None, None),
        StoreError::Invalid { field, .. } => (ErrorKind::InvalidInput, Some((*field).to_owned()), None),
        StoreError::UnknownHandle => (ErrorKind::UnknownHandle, None, None),
        StoreError::Internal(source) => {
            tracing::error!(error = source.as_ref() as &dyn std::error::Error, "store failed");
            (ErrorKind::Internal, None, None)
        }
    };
    EngineError { kind, message: error.to_string(), part, retry_after, receipt: None }
}

/// `_meta` of an execution: the receipt and the scope. Not seen by the model.
pub(super) fn meta(receipt: &Receipt, scope: &Scope) -> Map<String, Value> {
    let mut map = Map::new();
    map.insert("tmws/receipt".to_owned(), receipt_meta(receipt));
    map.insert("tmws/scope".to_owned(), scope_meta(scope));
    map
}

/// The scope as told to the client. The session stays out: it is a key.
pub(super) fn scope_meta(scope: &Scope) -> Value {
    json!({"project": scope.project().as_str(), "principal": scope.principal(), "agent": scope.agent()})
}

/// The receipt as told to the client and on the command line.
#[must_use]
pub fn receipt_meta(receipt: &Receipt) -> Value {
    let mut map = Map::new();
    let mut put = |key: &str, value: Value| map.insert(key.to_owned(), value);
    if let Some(pattern) = &receipt.pattern {
        put("pattern", pattern.as_str().into());
    }
    if let Some(note) = &receipt.deprecated {
        put("deprecated", note.as_str().into());
    }
    if let Some(kind) = receipt.kind {
        put("type", kind.into());
    }
    if let Some(hash) = &receipt.hash {
        put("hash", hash.as_str().into());
    }
    put("tokens_out", receipt.tokens_out.into());
    if receipt.tokens_estimated {
        put("tokens_estimated", true.into());
    }
    put("bytes_seen", receipt.bytes_seen.into());
    put("cache", receipt.cache.into());
    if let Some(layer) = receipt.cache_layer {
        put("cache_layer", layer.as_str().into());
    }
    put("matched_by", receipt.matched_by.into());
    put("ms", fraction_millis(receipt.elapsed).into());
    let steps: Vec<Value> = receipt
        .steps
        .iter()
        .map(|step| {
            let mut told = json!({
                "id": step.id, "outcome": step.outcome, "ms": fraction_millis(step.elapsed), "bytes": step.bytes,
            });
            if step.n != 1 {
                told["n"] = json!(step.n);
            }
            told
        })
        .collect();
    put("steps", steps.into());
    if !receipt.llm.is_empty() {
        let llm: Vec<Value> = receipt.llm.iter().map(llm_meta).collect();
        put("llm", llm.into());
    }
    if !receipt.degraded.is_empty() {
        put("degraded", receipt.degraded.clone().into());
    }
    Value::Object(map)
}

fn llm_meta(receipt: &LlmReceipt) -> Value {
    let mut map = Map::new();
    if let Some(model) = &receipt.model {
        map.insert("model".to_owned(), model.as_str().into());
    }
    for (name, tokens) in [("tokens_in", receipt.tokens_in), ("tokens_out", receipt.tokens_out)] {
        if let Some(tokens) = tokens {
            map.insert(name.to_owned(), tokens.into());
        }
    }
    map.insert("ms".to_owned(), fraction_millis(receipt.elapsed).into());
    map.insert("outcome".to_owned(), receipt.outcome.as_str().into());
    Value::Object(map)
}

/// Milliseconds with three places.
fn fraction_millis(duration: Duration) -> f64 {
    (duration.as_micros() as f64) / 1000.0
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
