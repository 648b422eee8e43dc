//! `tmws memory`: the store by hand.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Read as _, Write},
    path::Path,
};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Failure, Output, arguments, draft::Draft};
use crate::{
    exit::Exit,
    scope::{ProjectId, Scope},
    store::{Hit, Memory, MemoryFilter, MemoryQuery, NewMemory, Store, StoreError, Trust, Visibility},
};

/// Memories per page of an export.
const EXPORT_PAGE: usize = 500;

/// Longest line of an import, in bytes: the largest memory allowed, escaped at worst, and its labels.
const IMPORT_LINE_BYTES_MAX: u64 = 8 << 20;

/// Runs one memory command as the local user.
///
/// # Errors
/// The failure, with exit code.
pub(super) async fn run(
    command: arguments::Memory,
    store: &dyn Store,
    scope: &Scope,
    now: Timestamp,
    output: &mut Output,
) -> Result<Exit, Failure> {
    match command {
        arguments::Memory::Add { content, tag, importance, kind, supersedes } => {
            let content = if content == "-" { read_stdin("store a memory")? } else { content };
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
        arguments::Memory::Export { file } => export(file.as_deref(), store, scope, output).await,
        arguments::Memory::Import { file, adopt } => import(&file, adopt, store, scope, now, output).await,
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
        store.search(scope, MemoryQuery { text: words.to_owned(), filter }, now).await
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
    let done =
        store.forget(scope, ids, now).await.map_err(|error| Failure::of_store("forget memories", &error))?;
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

async fn export(
    file: Option<&Path>,
    store: &dyn Store,
    scope: &Scope,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let Some(path) = file else {
        each_page(store, scope, |lines| output.verbatim(lines)).await?;
        return Ok(Exit::Ok);
    };
    let action = format!("export to {}", path.display());
    let failed = |error: io::Error| Failure::of_io(action.clone(), &error);
    let draft = Draft::beside(path).map_err(failed)?;
    let mut writer = BufWriter::new(draft.file());
    let count = each_page(store, scope, |lines| writer.write_all(lines.as_bytes()).map_err(failed)).await?;
    writer.flush().map_err(failed)?;
    drop(writer);
    draft.publish(path).map_err(failed)?;
    if output.is_json() {
        output.json(&json!({"exported": count, "file": path.display().to_string()}))?;
    } else {
        output.line(&format!("{count} memories in {}", path.display()))?;
    }
    Ok(Exit::Ok)
}

/// Hands every memory on as JSON Lines, a page at a time, and counts them.
async fn each_page(
    store: &dyn Store,
    scope: &Scope,
    mut take: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let mut after: Option<String> = None;
    let mut count = 0;
    loop {
        let page = store
            .export(scope, after.as_deref(), EXPORT_PAGE)
            .await
            .map_err(|error| Failure::of_store("export memories", &error))?;
        let Some(last) = page.last() else { return Ok(count) };
        after = Some(last.id.clone());
        let mut lines = String::new();
        for memory in &page {
            let line = serde_json::to_string(memory)
                .map_err(|error| Failure::new(Exit::Software, "export memories", error.to_string()))?;
            lines.push_str(&line);
            lines.push('\n');
        }
        take(&lines)?;
        count += page.len() as u64;
    }
}

async fn import(
    path: &Path,
    adopt: bool,
    store: &dyn Store,
    scope: &Scope,
    now: Timestamp,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let (name, mut memories) = if path == Path::new("-") {
        ("stdin".to_owned(), parse_lines("stdin", io::stdin().lock())?)
    } else {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| Failure::of_io(format!("import {name}"), &error))?;
        let memories = parse_lines(&name, BufReader::new(file))?;
        (name, memories)
    };
    if adopt {
        for memory in &mut memories {
            take_over(memory, scope);
        }
    }
    let report = store.import(scope, memories, now).await.map_err(|error| {
        let failure = Failure::of_store(format!("import {name}"), &error);
        match error {
            StoreError::Invalid { field: "project", .. } => failure
                .with_hint("nothing was imported; `--adopt` takes memories of other projects into this one"),
            _ => failure.with_hint("nothing was imported"),
        }
    })?;
    if output.is_json() {
        output.json(&json!({
            "imported": report.imported, "skipped": report.skipped, "conflicts": report.conflicts,
        }))?;
    } else {
        output.line(&format!("{} imported, {} known already", report.imported, report.skipped))?;
        for id in &report.conflicts {
            output.line(&format!("{id}  left alone: it exists here with other content, or was forgotten here for good (store its text anew with `memory add`)"))?;
        }
    }
    Ok(if report.conflicts.is_empty() { Exit::Ok } else { Exit::Failed })
}

/// Makes a memory of another project or user this one's. What belongs to no project stays so.
fn take_over(memory: &mut Memory, scope: &Scope) {
    if memory.project != ProjectId::personal().as_str() {
        scope.project().as_str().clone_into(&mut memory.project);
    }
    scope.principal().clone_into(&mut memory.principal);
    if memory.visibility == Visibility::Agent {
        scope.agent().clone_into(&mut memory.agent);
    }
}

/// Reads memories, one a line; blank lines are skipped. The first fault ends it, so that nothing is half imported.
fn parse_lines(name: &str, mut lines: impl BufRead) -> Result<Vec<Memory>, Failure> {
    let action = || format!("import {name}");
    let mut memories = Vec::new();
    for number in 1_u64.. {
        let mut line = Vec::new();
        let read = lines
            .by_ref()
            .take(IMPORT_LINE_BYTES_MAX + 1)
            .read_until(b'\n', &mut line)
            .map_err(|error| Failure::of_io(action(), &error))?;
        if read == 0 {
            break;
        }
        let fault = |cause: String| {
            Failure::new(Exit::Usage, action(), format!("line {number}: {cause}"))
                .with_hint("nothing was imported; each line is one memory as `tmws memory export` writes it")
        };
        if line.len() as u64 > IMPORT_LINE_BYTES_MAX {
            return Err(fault("longer than 8 MiB".to_owned()));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        // Serde's own message names the member and never the value of a text.
        memories.push(serde_json::from_slice(&line).map_err(|error| fault(error_without_position(&error)))?);
    }
    Ok(memories)
}

/// Serde's message without its `at line 1 column 7`, which counts within our line.
fn error_without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => format!("{} (column {})", &text[..end], error.column()),
        None => text,
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
        .take(IMPORT_LINE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|error| Failure::of_io(action, &error))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"id":"m_1","project":"personal","content":"a","importance":0.5,"kind":"note","principal":"local","agent":"default","created":"2026-03-01T12:00:00Z","updated":"2026-03-01T12:00:00Z"}"#;

    #[test]
    fn lines_are_memories_and_blank_ones_are_skipped() {
        let text = format!("{LINE}\n\n{LINE}\r\n{LINE}");
        assert_eq!(parse_lines("stdin", text.as_bytes()).expect("memories").len(), 3);
    }

    #[test]
    fn a_fault_names_its_line_and_member() {
        for (text, expected) in [
            ("\n{\"id\":1}", "line 2: invalid type: integer `1`, expected a string (column 7)"),
            ("nonsense", "line 1: expected ident (column 2)"),
            (&LINE.replace("\"kind\"", "\"knid\""), "line 1: unknown field `knid`"),
        ] {
            let failure = parse_lines("stdin", text.as_bytes()).expect_err(text);
            assert_eq!(failure.exit, Exit::Usage);
            let told = failure.to_string();
            assert!(told.starts_with(&format!("tmws: failed to import stdin: {expected}")), "{told}");
        }
    }
}
