//! Resources: `pattern://{name}` (listed), `memory://{id}` and `result://{handle}` (templates).

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use rmcp::model::{ReadResourceResult, Resource, ResourceContents, ResourceTemplate};
use serde_json::Value;

use super::{Context, TmwsService, reply};
use crate::{
    engine::{EngineError, ErrorKind},
    pattern::{Effect, Pattern},
    protocol::{Call, CallError, Reply},
    store::{note_recalled, whole_id},
};

/// When to come back, where nothing says it.
const TRY_AGAIN: Duration = Duration::from_secs(1);
const PATTERN: &str = "pattern://";
pub(super) const MEMORY: &str = "memory://";
pub(super) const RESULT: &str = "result://";
/// Longest name, id or handle looked up, in bytes.
const KEY_BYTES_MAX: usize = 128;

/// The patterns that the caller may run. Memories and results are reached by their templates, never listed.
pub(super) async fn list(service: &TmwsService, context: &Context) -> Reply {
    let patterns = match service.runnable(&context.scope).await {
        Ok(patterns) => patterns,
        Err(error) => return internal(&error),
    };
    Reply::List(patterns.iter().map(|pattern| reply::to_value(&resource(pattern))).collect())
}

/// The templates, the same for everybody.
pub(super) fn templates() -> Arc<[Value]> {
    static TEMPLATES: OnceLock<Arc<[Value]>> = OnceLock::new();
    let make = || {
        [
            ("pattern://{name}", "pattern", "A pattern's file", "application/yaml"),
            ("memory://{id}", "memory", "One memory of this project", "application/json"),
            (
                "result://{handle}",
                "result",
                "A whole result that an answer names as `more.handle`",
                "application/json",
            ),
        ]
        .map(|(uri, name, description, mime_type)| {
            reply::to_value(
                &ResourceTemplate::new(uri, name).with_description(description).with_mime_type(mime_type),
            )
        })
        .into()
    };
    Arc::clone(TEMPLATES.get_or_init(make))
}

/// Reads one resource. Unknown, foreign and expired ones answer the same.
pub(super) async fn read(service: &TmwsService, call: &Call, context: &Context) -> Reply {
    let uri = call.params().get("uri").and_then(Value::as_str).unwrap_or_default();
    match contents(service, uri, context).await {
        Ok(Some((text, mime_type))) => {
            let contents = ResourceContents::text(text, uri).with_mime_type(mime_type);
            let mut result = reply::to_map(&ReadResourceResult::new(vec![contents]));
            // The envelope is the core's.
            result.retain(|key, _| key == "contents");
            Reply::Result(result)
        }
        Ok(None) => Reply::Error(CallError::ResourceNotFound { uri: uri.to_owned() }),
        Err(error) if error.kind == ErrorKind::UnknownHandle => {
            Reply::Error(CallError::ResourceNotFound { uri: uri.to_owned() })
        }
        Err(error) if error.kind == ErrorKind::InvalidInput => {
            Reply::Error(CallError::InvalidParams(error.message))
        }
        Err(error) => internal(&error),
    }
}

async fn contents(
    service: &TmwsService,
    uri: &str,
    context: &Context,
) -> Result<Option<(String, &'static str)>, EngineError> {
    let key =
        |scheme| uri.strip_prefix(scheme).filter(|key: &&str| !key.is_empty() && key.len() <= KEY_BYTES_MAX);
    if let Some(name) = key(PATTERN) {
        let patterns = service.runnable(&context.scope).await?;
        let found = patterns.iter().find(|pattern| pattern.name == name);
        return Ok(found.map(|pattern| (pattern.source.to_string(), "application/yaml")));
    }
    let now = service.clock.now();
    if let Some(id) = key(MEMORY) {
        let id = whole_id(&*service.store, &context.scope, id, now);
        let id = TmwsService::within(context.deadline, id).await?;
        let found =
            TmwsService::within(context.deadline, service.store.get(&context.scope, &id, now)).await?;
        note_recalled(&service.store, &context.scope, &found, now);
        return Ok(found.map(|memory| (reply::to_value(&memory).to_string(), "application/json")));
    }
    if let Some(handle) = key(RESULT) {
        let found =
            TmwsService::within(context.deadline, service.store.get_result(&context.scope, handle, now))
                .await?;
        return Ok(Some((found.value.to_string(), "application/json")));
    }
    Ok(None)
}

fn resource(pattern: &Pattern) -> Resource {
    debug_assert_eq!(pattern.effect, Effect::ReadOnly, "never list what the caller may not run");
    Resource::new(format!("{PATTERN}{}", pattern.name), pattern.name.as_str())
        .with_description(&*pattern.told())
        .with_mime_type("application/yaml")
        .with_size(pattern.source.len() as u64)
}

/// We failed, not the caller: the log has the details. Where that passes, the caller is told to come back.
pub(super) fn internal(error: &EngineError) -> Reply {
    if let ErrorKind::StoreUnavailable | ErrorKind::Busy | ErrorKind::Deadline = error.kind {
        let retry_after = error.retry_after.unwrap_or(TRY_AGAIN);
        let message = format!("{} ({})", error.message, error.kind.code());
        return Reply::Error(CallError::Busy { retry_after, message });
    }
    tracing::error!(code = error.kind.code(), %error, "a request failed");
    Reply::Error(CallError::Internal)
}
