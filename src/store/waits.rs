//! How long calls wait for a connection of a pool.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use sqlx::{Database, Pool, pool::PoolConnection};

/// What was waited for connections, since the store was opened.
#[derive(Debug, Default)]
pub(super) struct Waits {
    count: AtomicU64,
    microseconds: AtomicU64,
}

/// A wait that goes on until this is dropped, also by whoever gives up.
#[must_use = "it is waited until this is dropped"]
pub(super) struct Waiting<'a> {
    waits: &'a Waits,
    since: Instant,
}

impl Waits {
    /// Somebody is about to ask `pool` for a connection: a wait, where none has nothing to do.
    pub(super) fn begin<D: Database>(&self, pool: &Pool<D>) -> Option<Waiting<'_>> {
        (pool.num_idle() == 0).then(|| Waiting { waits: self, since: Instant::now() })
    }

    /// A connection of `pool`.
    pub(super) async fn acquire<D: Database>(
        &self,
        pool: &Pool<D>,
    ) -> Result<PoolConnection<D>, sqlx::Error> {
        let _waiting = self.begin(pool);
        pool.acquire().await
    }

    /// How many there were that are over.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// How long these were, together.
    pub(super) fn waited(&self) -> Duration {
        Duration::from_micros(self.microseconds.load(Ordering::Relaxed))
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.waits.count.fetch_add(1, Ordering::Relaxed);
        let waited = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.waits.microseconds.fetch_add(waited, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use sqlx::sqlite::SqlitePoolOptions;

    use super::*;

    #[tokio::test]
    async fn who_finds_none_idle_waits_and_is_counted_when_that_is_over() {
        let pool = SqlitePoolOptions::new().max_connections(1).connect_lazy("sqlite::memory:").unwrap();
        let waits = Waits::default();
        let first = waits.acquire(&pool).await.unwrap();
        // It had to be opened.
        assert_eq!(waits.count(), 1);
        let opened = waits.waited();
        let shown = Duration::from_millis(20);
        let given_up = tokio::time::timeout(shown, waits.acquire(&pool)).await;
        assert!(given_up.is_err());
        assert_eq!(waits.count(), 2);
        assert!(waits.waited() >= opened + shown, "{:?}", waits.waited());
        let second = async {
            let second = waits.acquire(&pool).await.unwrap();
            assert_eq!(waits.count(), 3);
            second
        };
        let (mut second, ()) = tokio::join!(second, async {
            tokio::task::yield_now().await;
            assert_eq!(waits.count(), 2, "the wait goes on");
            drop(first);
        });
        second.return_to_pool().await;
        let waited = waits.waited();
        drop(waits.acquire(&pool).await.unwrap());
        assert_eq!((waits.count(), waits.waited()), (3, waited), "one was idle");
    }
}
