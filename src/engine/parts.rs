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
//!
//! A `git status` that the key needs is not asked for again by the run: its steps are given what the key was made of.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    NobodyToAsk, Outside,
    steps::{self, StepContext, StepOutput},
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

/// Declared parts as they were at one moment.
#[derive(Default)]
pub(super) struct Found {
    /// In the order in which they are declared.
    pub(super) texts: Vec<String>,
    /// What `HEAD` meant just before, where the status was asked for.
    head: Option<String>,
    pub(super) status: Option<Arc<Status>>,
    /// How long it took.
    pub(super) elapsed: Duration,
}

/// What `git status` said for a key.
pub(super) struct Status {
    with: Map<String, Value>,
    output: StepOutput,
    /// Some step of the run asked git itself.
    is_asked_again: AtomicBool,
}

impl Status {
    /// The output of a step `git.status` with the arguments `with`; `None` where that is another question.
    pub(super) fn answer(&self, with: &Map<String, Value>) -> Option<StepOutput> {
        if *with == self.with {
            return Some(self.output.clone());
        }
        self.is_asked_again.store(true, Ordering::Relaxed);
        None
    }

    fn text(&self) -> String {
        let told =
            ["branch", "head", "upstream", "upstream_gone", "ahead", "behind", "dirty_hash", "shallow"]
                .map(|name| self.output.value.get(name));
        json!(told).to_string()
    }
}

/// What `parts` are for the folder `root`; `None` where one of them cannot be found out.
pub(super) async fn found(parts: &[Part], root: &Path, around: &Around<'_>) -> Option<Found> {
    let begun = Instant::now();
    let mut found = Found::default();
    for part in parts {
        let text = match part {
            // The status names branch and commit.
            Part::Head if parts.contains(&Part::DirtyHash) => String::new(),
            Part::Head => head(root).await?,
            Part::DirtyHash => {
                found.head = head(root).await;
                let status = status(root, around).await?;
                let text = status.text();
                found.status = Some(Arc::new(status));
                text
            }
            Part::Mtime => steps::newest(root, &context(root, around)).await.ok()??,
        };
        found.texts.push(text);
    }
    found.elapsed = begun.elapsed();
    Some(found)
}

/// Whether `parts` still are what they were in `before`, after a run that read the work tree (`reads_tree`) or knows of
/// it from that status alone.
pub(super) async fn stand(
    parts: &[Part],
    before: &Found,
    reads_tree: bool,
    root: &Path,
    around: &Around<'_>,
) -> bool {
    let knew_by_status = !reads_tree
        && !parts.contains(&Part::Mtime)
        && before.status.as_ref().is_some_and(|status| !status.is_asked_again.load(Ordering::Relaxed));
    if knew_by_status && before.head.is_some() {
        return head(root).await == before.head;
    }
    found(parts, root, around).await.is_some_and(|now| now.texts == before.texts)
}

async fn head(root: &Path) -> Option<String> {
    let root = root.to_owned();
    tokio::task::spawn_blocking(move || steps::git_head(&root)).await.ok()?
}

async fn status(root: &Path, around: &Around<'_>) -> Option<Status> {
    let context = context(root, around);
    let with = Map::from_iter([("repo".to_owned(), Value::from(root.to_str()?))]);
    let output = steps::run(StepRow::find("git.status")?, &context, &with).await.ok()?;
    Some(Status { with, output, is_asked_again: AtomicBool::new(false) })
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
