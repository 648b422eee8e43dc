//! Writing memories out as JSON Lines, a page at a time.

use std::{
    io::{self, BufWriter, Write},
    path::Path,
};

use serde_json::json;

use super::until_interrupted;
use crate::{
    cli::{Failure, Output, draft::Draft, progress::Progress},
    exit::Exit,
    scope::Scope,
    store::Store,
};

/// Memories per page at most.
const PAGE_MAX: usize = 500;
/// Memories per page at least.
const PAGE_MIN: usize = 16;
/// Bytes of a page that are aimed at, going by the page before.
const PAGE_BYTES: usize = 4 << 20;

pub(super) async fn run(
    file: Option<&Path>,
    progress: bool,
    store: &dyn Store,
    scope: &Scope,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let mut progress = Progress::new(progress);
    let Some(path) = file else {
        each(store, scope, &mut progress, |line| output.verbatim(line)).await?;
        return Ok(Exit::Ok);
    };
    let action = format!("export to {}", path.display());
    let failed = |error: io::Error| Failure::of_io(action.clone(), &error);
    let draft = Draft::beside(path).map_err(failed)?;
    let mut writer = BufWriter::new(draft.file());
    let writing = each(store, scope, &mut progress, |line| writer.write_all(line.as_bytes()).map_err(failed));
    let count = until_interrupted(writing, || {
        Failure::new(Exit::Failed, action.clone(), "interrupted").with_hint("no file was written")
    })
    .await?;
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

/// Hands every memory on as a line, and counts them.
async fn each(
    store: &dyn Store,
    scope: &Scope,
    progress: &mut Progress,
    mut take: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let mut after: Option<String> = None;
    let (mut count, mut limit, mut line) = (0, PAGE_MIN, String::new());
    loop {
        let page = store
            .export(scope, after.as_deref(), limit)
            .await
            .map_err(|error| Failure::of_store("export memories", &error))?;
        let Some(last) = page.last() else { break };
        after = Some(last.id.clone());
        let mut bytes = 0;
        for memory in &page {
            line.clear();
            line.push_str(
                &serde_json::to_string(memory)
                    .map_err(|error| Failure::new(Exit::Software, "export memories", error.to_string()))?,
            );
            line.push('\n');
            bytes += line.len();
            take(&line)?;
        }
        count += page.len() as u64;
        progress.tell(|| format!("exported {count}"));
        limit = (PAGE_BYTES / (bytes / page.len()).max(1)).clamp(PAGE_MIN, PAGE_MAX);
    }
    progress.end(|| format!("exported {count}"));
    Ok(count)
}
