//! Parts of a key that a pattern declares: the state of the workspace as a text, much cheaper than the run.
//!
//! | part | what it is |
//! |---|---|
//! | `git.head` | the branch and the commit that `HEAD` means, read from the files of the repository |
//! | `git.dirty_hash` | what `git status` says: branch, upstream, changed files with the times of their last change |
//! | `fs.mtime` | paths, sizes and times of last change of all files under the root that are not ignored |
//!
//! `memory.generation` may be declared too; it holds for every pattern that reads memories, declared or not.
//!
//! What cannot be found out has no text, and then nothing is kept.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    NobodyToAsk, Outside,
    steps::{self, StepContext},
};
use crate::{
    pattern::{Pattern, StepRow},
    scope::Scope,
    store::SharedStore,
};

/// Longest that finding out one part may take.
const PART_MAX: Duration = Duration::from_secs(2);
/// Most output of one part.
const BYTES_MAX: usize = 32 << 20;

/// A declared part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Head,
    DirtyHash,
    Mtime,
}

impl Part {
    /// The part called `name`, if it is one that the key has.
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "git.head" => Some(Self::Head),
            "git.dirty_hash" => Some(Self::DirtyHash),
            "fs.mtime" => Some(Self::Mtime),
            _ => None,
        }
    }
}

/// What parts are found out with.
pub(super) struct Around<'a> {
    pub(super) pattern: &'a Pattern,
    pub(super) scope: &'a Scope,
    pub(super) store: &'a SharedStore,
    pub(super) outside: &'a Arc<Outside>,
    pub(super) now: Timestamp,
    pub(super) deadline: Instant,
    pub(super) cancel: &'a CancellationToken,
}

/// The texts of `parts` for the folder `root`, in their order; `None` where one of them cannot be found out.
pub(super) async fn found(parts: &[Part], root: &Path, around: &Around<'_>) -> Option<Vec<String>> {
    let mut texts = Vec::with_capacity(parts.len());
    for part in parts {
        texts.push(match part {
            // The status names branch and commit.
            Part::Head if parts.contains(&Part::DirtyHash) => String::new(),
            Part::Head => {
                let root = root.to_owned();
                tokio::task::spawn_blocking(move || steps::git_head(&root)).await.ok()??
            }
            Part::DirtyHash => status(root, around).await?,
            Part::Mtime => steps::newest(root, &context(root, around)).await.ok()??,
        });
    }
    Some(texts)
}

async fn status(root: &Path, around: &Around<'_>) -> Option<String> {
    let context = context(root, around);
    let with = Map::from_iter([("repo".to_owned(), Value::from(root.to_str()?))]);
    let status = steps::run(StepRow::find("git.status")?, &context, &with).await.ok()?.value;
    let told = ["branch", "head", "upstream", "upstream_gone", "ahead", "behind", "dirty_hash", "shallow"]
        .map(|name| status.get(name).cloned());
    Some(json!(told).to_string())
}

fn context(root: &Path, around: &Around<'_>) -> StepContext {
    StepContext {
        scope: around.scope.clone(),
        store: SharedStore::clone(around.store),
        listener: None,
        roots: BTreeMap::from([(root.to_string_lossy().into_owned(), root.to_owned())]),
        permissions: Arc::clone(&around.pattern.permissions),
        outside: Arc::clone(around.outside),
        asker: Arc::new(NobodyToAsk),
        id: "cache".to_owned(),
        now: around.now,
        deadline: around.deadline.min(Instant::now() + PART_MAX),
        cancel: around.cancel.clone(),
        bytes_max: BYTES_MAX,
    }
}
