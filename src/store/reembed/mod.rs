//! Giving vectors to memories that have none of the current model: new ones whose model was not ready, and all of them
//! after the model was changed. In the background, page by page; what is done is in the store, so that whoever comes
//! next goes on from there.

mod work;

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::{sync::Notify, task::JoinHandle};

use self::work::Work;
use super::StoreError;
use crate::{
    embedding::{Embeddings, Identity, SOME_WITHOUT},
    resilience,
};

/// So many of the latest memories are looked at by a search that cannot know of them otherwise.
pub(super) const LATEST: i64 = 1_000;

/// A memory without a vector, by the store's own number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unembedded {
    /// The number that the store orders memories by.
    pub(super) seq: i64,
    /// What the vector is made of.
    pub(super) content: String,
}

/// What a store does for it, in the whole store, whatever the scope.
#[async_trait]
pub(super) trait VectorTable: Send + Sync + 'static {
    /// The largest number of a memory; 0 where there is none. Cheap.
    async fn newest(&self) -> Result<i64, StoreError>;

    /// At most `limit` memories with a number above `after` that have no vector of `model`, in order.
    async fn unembedded(
        &self,
        model: &Identity,
        after: i64,
        limit: usize,
    ) -> Result<Vec<Unembedded>, StoreError>;

    /// How many memories with a number above `after` have no vector of `model`. As dear as reading them all.
    async fn count_unembedded(&self, model: &Identity, after: i64) -> Result<u64, StoreError>;

    /// Keeps vectors, one a number, and the model's row where there is none, used at `now`. How many are new: a memory
    /// that is gone, or that somebody else has given its vector, is passed over. New ones change the generations of whoever
    /// may see their memories, in the same transaction; nothing else here changes any.
    async fn put_vectors(
        &self,
        model: &Identity,
        vectors: Vec<(i64, Vec<f32>)>,
        now: Timestamp,
    ) -> Result<u64, StoreError>;

    /// Notes in the model's row, where there is one, that it is in use at `now`. Writes nothing where what it says is less
    /// than an hour old.
    async fn note_use(&self, model: &Identity, now: Timestamp) -> Result<(), StoreError>;

    /// Deletes at most `limit` vectors of models other than `model` whose last use was before `unused_since`, and the rows
    /// of such models that have none left. How many vectors went; fewer than `limit`: that is all.
    async fn prune(&self, model: &Identity, unused_since: Timestamp, limit: usize)
    -> Result<u64, StoreError>;
}

/// What was done so far, by one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// Memories that got their vector.
    pub(super) embedded: u64,
    /// Memories without one, as last counted; `None` before the first look.
    pub(super) unembedded: Option<u64>,
}

/// The same, counted by the task.
struct Counts {
    embedded: AtomicU64,
    /// `u64::MAX`: nobody has looked yet.
    unembedded: AtomicU64,
    /// How often somebody said that there is something to do, and up to where it was done.
    woken: (AtomicU64, AtomicU64),
    /// Up to this number every memory has a vector, as far as was seen.
    settled: AtomicI64,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            embedded: AtomicU64::new(0),
            unembedded: AtomicU64::new(u64::MAX),
            woken: (AtomicU64::new(0), AtomicU64::new(0)),
            settled: AtomicI64::new(0),
        }
    }
}

impl Counts {
    /// So many have none.
    fn find(&self, count: u64) {
        self.unembedded.store(count, Ordering::Relaxed);
    }

    /// `done` of them have one now, `new` of these from us. Only the task writes.
    fn embed(&self, done: u64, new: u64) {
        self.embedded.fetch_add(new, Ordering::Relaxed);
        let left = self.unembedded.load(Ordering::Relaxed);
        self.unembedded.store(left.saturating_sub(done), Ordering::Relaxed);
    }

    /// Begins to look at everything that was said up to now.
    fn begin(&self) -> u64 {
        self.woken.0.load(Ordering::Acquire)
    }

    /// All of that has its vector, up to the memory `newest`.
    fn end(&self, begun: u64, newest: i64) {
        self.find(0);
        self.settle(newest);
        self.woken.1.store(begun, Ordering::Release);
    }

    /// Every memory up to `newest` has a vector.
    fn settle(&self, newest: i64) {
        self.settled.fetch_max(newest, Ordering::Relaxed);
    }

    fn settled(&self) -> i64 {
        self.settled.load(Ordering::Relaxed)
    }

    /// Whether memories are known to have none.
    fn is_behind(&self) -> bool {
        let is_woken = self.woken.0.load(Ordering::Acquire) != self.woken.1.load(Ordering::Acquire);
        is_woken || self.progress().unembedded.is_some_and(|left| left > 0)
    }

    fn progress(&self) -> Progress {
        let unembedded = self.unembedded.load(Ordering::Relaxed);
        Progress {
            embedded: self.embedded.load(Ordering::Relaxed),
            unembedded: (unembedded != u64::MAX).then_some(unembedded),
        }
    }
}

/// How long everything takes, at least or at most.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// From the opening to the first look, unless woken: the call that opened the store comes first.
    settle: Duration,
    /// From being woken to the look, so that what is stored together is embedded together.
    gather: Duration,
    /// Least pause after a page; it is as long as the page took where that was longer.
    pause: Duration,
    /// Longest pause after a page.
    pause_max: Duration,
    /// After a page that somebody else was quicker with.
    yielding: Duration,
    /// Between looks for what other processes stored.
    look: Duration,
    /// After the first error; doubled after each.
    retry: Duration,
    /// Longest wait after an error.
    retry_max: Duration,
    /// Between looks at all memories, and for models that nobody uses.
    whole: Duration,
    /// The clock.
    now: fn() -> Timestamp,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            settle: Duration::from_millis(500),
            gather: Duration::from_millis(50),
            pause: Duration::from_millis(2),
            pause_max: Duration::from_secs(1),
            yielding: Duration::from_secs(10),
            look: Duration::from_mins(1),
            retry: Duration::from_secs(1),
            retry_max: Duration::from_mins(5),
            whole: Duration::from_mins(15),
            now: Timestamp::now,
        }
    }
}

/// The background embedder of an open store. It ends when this is dropped, or the store is.
pub(super) struct Reembedding {
    woken: Arc<Notify>,
    counts: Arc<Counts>,
    task: Option<JoinHandle<()>>,
}

impl Reembedding {
    /// Starts it. Nothing is read or asked before a moment has passed, or [`Reembedding::wake`]; the store is not kept alive
    /// by it. Needs a tokio runtime.
    pub(super) fn start(table: Weak<dyn VectorTable>, embeddings: Arc<Embeddings>) -> Self {
        Self::paced(table, embeddings, Pace::default())
    }

    fn paced(table: Weak<dyn VectorTable>, embeddings: Arc<Embeddings>, pace: Pace) -> Self {
        let (woken, counts) = (Arc::new(Notify::new()), Arc::<Counts>::default());
        let task = (!embeddings.is_off()).then(|| {
            let (woken, counts) = (Arc::clone(&woken), Arc::clone(&counts));
            tokio::spawn(Work::new(table, embeddings, woken, counts, pace).run())
        });
        Self { woken, counts, task }
    }

    /// Says that a memory was stored without a vector. Cheap.
    pub(super) fn wake(&self) {
        self.counts.woken.0.fetch_add(1, Ordering::Release);
        self.woken.notify_one();
    }

    /// After which number memories may have no vector without anybody here knowing it: another process stored them, or
    /// nobody has looked yet. A search by meaning looks at the [`LATEST`] of those, in the transaction that it reads in.
    /// `None` where some are known to have none; that is noted in the account of the call then.
    pub(super) fn unsure_after(&self) -> Option<i64> {
        if self.task.is_some() && self.counts.is_behind() {
            resilience::note(SOME_WITHOUT);
            return None;
        }
        Some(self.counts.settled())
    }

    /// A search saw that every memory up to `newest` has a vector.
    pub(super) fn settle(&self, newest: i64) {
        self.counts.settle(newest);
    }

    /// A search saw that some have none: notes that in the account of its call, and has them embedded.
    pub(super) fn miss(&self) {
        resilience::note(SOME_WITHOUT);
        self.wake();
    }

    /// What it did; `None` where there is nothing to do, because vectors are switched off.
    pub(super) fn progress(&self) -> Option<Progress> {
        self.task.as_ref().map(|_| self.counts.progress())
    }

    /// Stops it where it is, within milliseconds: a page that was not kept is done again by whoever comes next.
    pub(super) fn end(&self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Drop for Reembedding {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests;
