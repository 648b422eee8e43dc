//! Noting that memories were recalled, behind the answer that shows them.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{Memory, SharedStore};
use crate::scope::Scope;

/// When a memory was last recalled is noted this exactly.
const NOTED: SignedDuration = SignedDuration::from_mins(1);

/// Has `store` note that `memories`, as they were just read, were recalled at `now`. Returns at once: nobody waits for it,
/// and nothing fails by it. Needs a tokio runtime.
pub fn note_recalled<'a>(
    store: &SharedStore,
    scope: &Scope,
    memories: impl IntoIterator<Item = &'a Memory>,
    now: Timestamp,
) {
    let is_due =
        |memory: &&Memory| memory.recalled.is_none_or(|recalled| now.duration_since(recalled) >= NOTED);
    let ids: Vec<String> = memories.into_iter().filter(is_due).map(|memory| memory.id.clone()).collect();
    if ids.is_empty() {
        return;
    }
    let (store, scope) = (Arc::clone(store), scope.clone());
    tokio::spawn(async move {
        if let Err(error) = store.recalled(&scope, &ids, now).await {
            tracing::debug!(%error, "it is not noted that memories were recalled");
        }
    });
}
