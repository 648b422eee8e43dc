//! The task that does it.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, timeout},
};

use super::{Counts, Pace, VectorTable};
use crate::{
    embedding::{EmbeddingError, Embeddings, Identity},
    store::StoreError,
};

/// Memories read at once.
const PAGE: usize = 64;
/// Memories embedded and kept at once where the model is dear: some tenths of a second of work.
const DEAR: usize = 8;
/// Vectors deleted at once.
const PRUNED: usize = 512;
/// A number this far below the largest may still be stored: transactions commit in another order than they began.
const UNSETTLED: i64 = 1_024;
/// A model that nobody has used for so long loses its vectors: seven days.
const UNUSED: Duration = Duration::from_hours(7 * 24);
/// Between lines of the log about a long work.
const TOLD: Duration = Duration::from_secs(30);

/// Why it stops for a while.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    /// The store is gone.
    #[error("the store was closed")]
    Gone,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Model(#[from] EmbeddingError),
}

/// A part of the work that is told in the log.
struct Account {
    begun: Instant,
    told: Instant,
    embedded: u64,
    is_told: bool,
}

pub(super) struct Work {
    table: Weak<dyn VectorTable>,
    embeddings: Arc<Embeddings>,
    woken: Arc<Notify>,
    counts: Arc<Counts>,
    pace: Pace,
    /// When everything was looked at, from the first memory on.
    whole: Option<Instant>,
}

impl Work {
    pub(super) fn new(
        table: Weak<dyn VectorTable>,
        embeddings: Arc<Embeddings>,
        woken: Arc<Notify>,
        counts: Arc<Counts>,
        pace: Pace,
    ) -> Self {
        Self { table, embeddings, woken, counts, pace, whole: None }
    }

    /// Until the store is gone.
    pub(super) async fn run(mut self) {
        let mut errors = 0_u32;
        self.rest(self.pace.settle).await;
        loop {
            let wait = match self.pass().await {
                Ok(()) => {
                    errors = 0;
                    self.pace.look
                }
                Err(Trouble::Gone | Trouble::Model(EmbeddingError::Off)) => return,
                Err(trouble) => {
                    // Where the model is at fault, whoever read it has said so.
                    tracing::debug!(%trouble, "memories are not embedded for now");
                    errors = errors.saturating_add(1);
                    let wait = self.pace.retry.saturating_mul(1 << (errors - 1).min(16));
                    sleep(wait.min(self.pace.retry_max)).await;
                    continue;
                }
            };
            self.rest(wait).await;
        }
    }

    /// Waits until woken, `at_most` so long.
    async fn rest(&self, at_most: Duration) {
        if timeout(at_most, self.woken.notified()).await.is_ok() {
            sleep(self.pace.gather).await;
        }
    }

    fn table(&self) -> Result<Arc<dyn VectorTable>, Trouble> {
        self.table.upgrade().ok_or(Trouble::Gone)
    }

    /// Embeds what there is to embed, then tidies up now and then.
    async fn pass(&mut self) -> Result<(), Trouble> {
        let begun = self.counts.begin();
        let newest = self.table()?.newest().await?;
        if newest == 0 {
            self.counts.end(begun, newest);
            return Ok(());
        }
        let model = self.embeddings.identity().await?;
        let is_whole = self.whole.is_none_or(|whole| whole.elapsed() >= self.pace.whole);
        let mut after = if is_whole { 0 } else { self.counts.settled().saturating_sub(UNSETTLED) };
        let mut account: Option<Account> = None;
        loop {
            let began = Instant::now();
            let page = self.table()?.unembedded(&model, after, PAGE).await?;
            let Some(last) = page.last().map(|memory| memory.seq) else { break };
            let is_full = page.len() == PAGE;
            if account.is_none() {
                let count = if is_full {
                    self.table()?.count_unembedded(&model, after).await?
                } else {
                    page.len() as u64
                };
                self.counts.find(count);
            }
            let account = account.get_or_insert_with(|| Account::begin(&model, is_full));
            let (count, mut new) = (page.len() as u64, 0);
            let mut page = page.into_iter();
            // The model was read to know it.
            let size = if self.embeddings.is_cheap() == Some(true) { PAGE } else { DEAR };
            loop {
                let (seqs, texts): (Vec<i64>, Vec<String>) =
                    page.by_ref().take(size).map(|memory| (memory.seq, memory.content)).unzip();
                if seqs.is_empty() {
                    break;
                }
                let batch = Instant::now();
                let made = self.embeddings.embed_behind(texts).await?;
                let vectors: Vec<_> = seqs.into_iter().zip(made.vectors).collect();
                let done = vectors.len() as u64;
                let put = self.table()?.put_vectors(&made.identity, vectors, (self.pace.now)()).await?;
                self.counts.embed(done, put);
                new += put;
                sleep(batch.elapsed().clamp(self.pace.pause, self.pace.pause_max)).await;
            }
            after = last;
            account.tell(&model, new);
            tracing::trace!(count, new, elapsed = ?began.elapsed(), "a page of memories was embedded");
            if is_full && new * 2 < count {
                // Another process is at the same memories: one is enough.
                sleep(self.pace.yielding).await;
            }
        }
        self.counts.end(begun, newest);
        if let Some(account) = account {
            account.end(&model);
        }
        if is_whole {
            self.tidy(&model).await?;
            self.whole = Some(Instant::now());
        }
        Ok(())
    }

    /// Everything has its vector: those of models that nobody uses any more go.
    async fn tidy(&self, model: &Identity) -> Result<(), Trouble> {
        let now = (self.pace.now)();
        self.table()?.note_use(model, now).await?;
        let Ok(unused_since) = now.checked_sub(UNUSED) else { return Ok(()) };
        let mut gone = 0;
        loop {
            let pruned = self.table()?.prune(model, unused_since, PRUNED).await?;
            gone += pruned;
            if pruned < PRUNED as u64 {
                break;
            }
            sleep(self.pace.pause.max(Duration::from_millis(1))).await;
        }
        if gone > 0 {
            tracing::info!(vectors = gone, "vectors of models that were not used for 7 days were deleted");
        }
        Ok(())
    }
}

impl Account {
    /// `is_long`: worth a line in the log.
    fn begin(model: &Identity, is_long: bool) -> Self {
        if is_long {
            tracing::info!(model = %model.name, "memories without a vector of the embedding model get one, in the background");
        }
        Self { begun: Instant::now(), told: Instant::now(), embedded: 0, is_told: is_long }
    }

    fn tell(&mut self, model: &Identity, new: u64) {
        self.embedded += new;
        if self.told.elapsed() >= TOLD {
            tracing::info!(model = %model.name, embedded = self.embedded, "memories are being embedded");
            self.told = Instant::now();
            self.is_told = true;
        }
    }

    fn end(self, model: &Identity) {
        if self.is_told {
            let elapsed = self.begun.elapsed();
            tracing::info!(model = %model.name, embedded = self.embedded, ?elapsed, "every memory has a vector of the embedding model");
        } else {
            tracing::debug!(model = %model.name, embedded = self.embedded, "memories were embedded");
        }
    }
}
