//! `tmws memory`: the store by hand.

mod export;
mod import;
mod lines;
mod server_memory;
mod upkeep;

use std::io::{self, Read as _};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Failure, Output, arguments};
use crate::{
    compose::Local,
    exit::Exit,
    scope::Scope,
    store::{Hit, MemoryFilter, MemoryQuery, NewMemory, Store, StoreOptions, Trust, whole_id},
};

/// Longest content taken from stdin, in bytes: more than any memory may have.
const STDIN_BYTES_MAX: u64 = 8 << 20;

/// Runs one memory command as the local user.
///
/// # Errors
/// The failure, with exit code.
pub(super) async fn run(
    command: arguments::Memory,
    local: &Local,
    options: &StoreOptions,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let (store, scope, now) = (&*local.store, &local.scope(), local.clock.now());
    match command {
        arguments::Memory::Add { content, tag, importance, kind, supersedes } => {
            let content = if content == "-" { read_stdin("store a memory")? } else { content };
            let supersedes = match supersedes {
                Some(id) => Some(
                    whole_id(store, scope, &id, now)
                        .await
                        .map_err(|error| Failure::of_store("store a memory", &error))?,
                ),
                None => None,
            };
            let new = NewMemory {
                content,
                tags: tag,
                importance,
                kind,
                trust: Trust::User,
                supersedes,
                ..NewMemory::default()
            };
            add(new, store, scope, now, output).await
        }
        arguments::Memory::Search { query, tag, limit } => {
            search(&query.join(" "), tag, usize::from(limit), store, scope, now, output).await
        }
        arguments::Memory::Forget { ids } => forget(&ids, store, scope, now, output).await,
        arguments::Memory::Export { file, progress } => {
            export::run(file.as_deref(), progress, store, scope, output).await
        }
        arguments::Memory::Import { file, from, adopt, progress } => {
            let limits = options.limits();
            let import = import::Import { origin: from, adopt, progress, store, limits, scope, now };
            import.run(&file, output).await
        }
        arguments::Memory::Verify { thorough, progress } => {
            upkeep::verify(thorough, progress, options, output).await
        }
        arguments::Memory::Backup { file, progress } => {
            upkeep::backup(&file, progress, options, output).await
        }
    }
}

async fn add(
    new: NewMemory,
    store: &dyn Store,
    scope: &Scope,
    now: Timestamp,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let done =
        store.remember(scope, new, now).await.map_err(|error| Failure::of_store("store a memory", &error))?;
    if output.is_json() {
        output.json(&json!({
            "id": done.memory.id, "project": done.memory.project,
            "duplicate": done.duplicate, "similar": done.similar,
        }))?;
        return Ok(Exit::Ok);
    }
    let verb = if done.duplicate { "known already" } else { "stored" };
    output.line(&format!("{}  {verb}", done.memory.id))?;
    if !done.similar.is_empty() {
        output.line(&format!("similar: {} (replace one with --supersedes)", done.similar.join(", ")))?;
    }
    Ok(Exit::Ok)
}

async fn search(
    words: &str,
    tags: Vec<String>,
    limit: usize,
    store: &dyn Store,
    scope: &Scope,
    now: Timestamp,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let filter = MemoryFilter { tags, limit, ..MemoryFilter::default() };
    let found = if words.trim().is_empty() {
        store.list(scope, filter, now).await
    } else {
        store
            .search(scope, MemoryQuery { text: words.to_owned(), filter, ..MemoryQuery::default() }, now)
            .await
    };
    let found = found.map_err(|error| Failure::of_store("search memories", &error))?;
    if output.is_json() {
        let hits: Vec<Value> = found.hits.iter().map(hit_json).collect();
        output.json(&json!({"total": found.total, "hits": hits}))?;
        return Ok(Exit::Ok);
    }
    if found.hits.is_empty() {
        output.line("nothing found")?;
        return Ok(Exit::Ok);
    }
    let rows: Vec<[String; 5]> = found
        .hits
        .iter()
        .map(|Hit { memory, .. }| {
            [
                memory.id.clone(),
                day(memory.created),
                memory.kind.clone(),
                memory.tags.join(","),
                clip(&memory.content, 100),
            ]
        })
        .collect();
    output.table(&rows)?;
    if (found.hits.len() as u64) < found.total {
        output.line(&format!("{} of {}", found.hits.len(), found.total))?;
    }
    Ok(Exit::Ok)
}

async fn forget(
    ids: &[String],
    store: &dyn Store,
    scope: &Scope,
    now: Timestamp,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let failed = |error| Failure::of_store("forget memories", &error);
    let mut whole = Vec::with_capacity(ids.len());
    for id in ids {
        whole.push(whole_id(store, scope, id, now).await.map_err(failed)?);
    }
    let done = store.forget(scope, &whole, now).await.map_err(failed)?;
    if output.is_json() {
        output.json(&json!({"forgotten": done.forgotten, "unknown": done.unknown}))?;
    } else {
        for id in &done.forgotten {
            output.line(&format!("{id}  forgotten"))?;
        }
        for id in &done.unknown {
            output.line(&format!("{id}  unknown"))?;
        }
    }
    Ok(if done.unknown.is_empty() { Exit::Ok } else { Exit::Failed })
}

/// Waits for `work`, or for a person who has had enough of it.
async fn until_interrupted<T>(
    work: impl Future<Output = Result<T, Failure>>,
    interrupted: impl FnOnce() -> Failure,
) -> Result<T, Failure> {
    tokio::select! {
        biased;
        done = work => done,
        // Where no signal can be waited for, it ends the process as it always did.
        Ok(()) = tokio::signal::ctrl_c() => Err(interrupted()),
    }
}

fn hit_json(hit: &Hit) -> Value {
    let mut value = serde_json::to_value(&hit.memory).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        map.insert("score".to_owned(), hit.score.into());
    }
    value
}

fn day(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d").to_string()
}

fn clip(text: &str, chars_max: usize) -> String {
    let mut clipped: String = text.chars().take(chars_max).collect();
    if clipped.len() < text.len() {
        clipped.push('…');
    }
    clipped
}

fn read_stdin(action: &str) -> Result<String, Failure> {
    let mut text = String::new();
    io::stdin()
        .lock()
        .take(STDIN_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| Failure::of_io(action, &error))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
