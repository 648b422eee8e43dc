//! Completions: pattern names, memory ids and tags, values of prompt arguments.
//!
//! An empty list says that nothing fits, and a client may remember it. So where the store does not say what there is, the
//! answer is what the pattern itself names, and where that is nothing, an error with a time to come back.

use std::time::{Duration, Instant};

use rmcp::model::CompletionInfo;
use serde_json::{Map, Value};

use super::{Context, TmwsService, prompts, reply, resources};
use crate::{
    engine::EngineError,
    protocol::{Call, CallError, Reply},
    scope::Rights,
    store::MemoryFilter,
};

/// Memories looked at for ids.
const MEMORIES_MAX: usize = 500;

/// Longest wait for the store: somebody is typing.
const STORE_MAX: Duration = Duration::from_secs(2);

/// What is completed.
enum Source {
    /// These values.
    Values(Vec<String>),
    /// Names of patterns.
    Patterns,
    /// What the store has, else these values.
    Stored(Stored, Vec<String>),
}

/// What the store is asked for.
enum Stored {
    /// Ids of memories, newest first.
    Memories,
    /// Tags, most frequent first.
    Tags,
}

/// Completes one argument of a prompt or of a resource template: what begins with the value first, then what holds it.
pub(super) async fn complete(service: &TmwsService, call: &Call, context: &Context) -> Reply {
    let params = call.params();
    let argument =
        |key| params.get("argument").and_then(|argument| argument.get(key)).and_then(Value::as_str);
    let (name, value) = (argument("name").unwrap_or_default(), argument("value").unwrap_or_default());
    let source = match source(service, params.get("ref"), name, context).await {
        Ok(Some(source)) => source,
        Ok(None) => {
            return Reply::Error(CallError::InvalidParams(
                "`ref` and `argument.name` name no argument of a prompt or resource template here".to_owned(),
            ));
        }
        Err(error) => return resources::internal(&error),
    };
    match candidates(service, source, context).await {
        Ok(candidates) => Reply::Result(answer(candidates, value)),
        Err(error) => resources::internal(&error),
    }
}

async fn source(
    service: &TmwsService,
    reference: Option<&Value>,
    argument: &str,
    context: &Context,
) -> Result<Option<Source>, EngineError> {
    let member = |key| reference.and_then(|reference| reference.get(key)).and_then(Value::as_str);
    if let Some(uri) = member("uri") {
        return Ok(match (uri, argument) {
            ("pattern://{name}", "name") => Some(Source::Patterns),
            ("memory://{id}", "id") => Some(Source::Stored(Stored::Memories, Vec::new())),
            // Handles are secrets of whoever got them.
            ("result://{handle}", "handle") => Some(Source::Values(Vec::new())),
            _ => None,
        });
    }
    let Some(name) = member("name") else { return Ok(None) };
    let patterns = service.runnable(&context.scope).await?;
    let found = patterns.iter().find(|pattern| {
        pattern.name == name
            && pattern.prompt.as_ref().is_some_and(|spec| spec.arguments.iter().any(|a| a == argument))
    });
    Ok(found.map(|pattern| {
        let named = || prompts::property(pattern, argument).map(suggested).unwrap_or_default();
        match argument {
            "tag" | "tags" => Source::Stored(Stored::Tags, named()),
            "id" | "memory" => Source::Stored(Stored::Memories, named()),
            "pattern" => Source::Patterns,
            _ => Source::Values(named()),
        }
    }))
}

/// Values that an input's schema names.
fn suggested(property: &Value) -> Vec<String> {
    let listed = ["enum", "examples"].into_iter().filter_map(|key| property.get(key)?.as_array()).flatten();
    let mut values: Vec<String> = Vec::new();
    for value in listed.chain(property.get("const")).chain(property.get("default")) {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        if !values.contains(&text) {
            values.push(text);
        }
    }
    if property.get("type").and_then(Value::as_str) == Some("boolean") {
        values = vec!["true".to_owned(), "false".to_owned()];
    }
    values
}

async fn candidates(
    service: &TmwsService,
    source: Source,
    context: &Context,
) -> Result<Vec<String>, EngineError> {
    match source {
        Source::Values(values) => Ok(values),
        Source::Patterns => {
            let patterns = service.runnable(&context.scope).await?;
            Ok(patterns.iter().map(|pattern| pattern.name.clone()).collect())
        }
        Source::Stored(..) if !context.scope.rights().include(Rights::MEMORY_READ) => Ok(Vec::new()),
        Source::Stored(wanted, named) => match stored(service, &wanted, context).await {
            Err(error) if !named.is_empty() => {
                tracing::warn!(code = error.kind.code(), "completions are those that the pattern names");
                Ok(named)
            }
            found => found,
        },
    }
}

async fn stored(
    service: &TmwsService,
    wanted: &Stored,
    context: &Context,
) -> Result<Vec<String>, EngineError> {
    let (now, store) = (service.clock.now(), &service.store);
    let deadline = context.deadline.min(Instant::now() + STORE_MAX);
    match wanted {
        Stored::Memories => {
            let filter = MemoryFilter { limit: MEMORIES_MAX, ..MemoryFilter::default() };
            let found = TmwsService::within(deadline, store.list(&context.scope, filter, now)).await?;
            Ok(found.hits.into_iter().map(|hit| hit.memory.id).collect())
        }
        Stored::Tags => {
            let stats = TmwsService::within(deadline, store.stats(&context.scope, now)).await?;
            Ok(stats.tags.into_iter().map(|(tag, _)| tag).collect())
        }
    }
}

fn answer(candidates: Vec<String>, value: &str) -> Map<String, Value> {
    let value = value.to_lowercase();
    let (begin, rest): (Vec<String>, Vec<String>) =
        candidates.into_iter().partition(|candidate| candidate.to_lowercase().starts_with(&value));
    let hold = rest.into_iter().filter(|candidate| candidate.to_lowercase().contains(&value));
    let mut values: Vec<String> = begin.into_iter().chain(hold).collect();
    let total = values.len();
    values.truncate(CompletionInfo::MAX_VALUES);
    let mut completion = CompletionInfo::default();
    completion.has_more = Some(total > values.len());
    completion.total = u32::try_from(total).ok();
    completion.values = values;
    let mut result = Map::new();
    result.insert("completion".to_owned(), reply::to_value(&completion));
    result
}
