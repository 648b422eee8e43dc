//! The half of a search that goes by meaning, on a connection of its own beside the half that goes by words: neither needs
//! what the other finds, and each keeps one processor of the server busy.
//!
//! Two transactions may see two states of the store. So what was found beside comes with the generation of the scope's
//! audiences, which every write changes: it counts only where the other half sees the same one. Where it does not, where
//! there is nobody to ask, or where that fails, it is found within the other half's transaction as it would be alone.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{
    Shared,
    vectors::{Nearest, Search},
};
use crate::{store::StoreError, turnstile::Permit};

/// Connections that a search takes which goes both ways at once.
const TAKEN: u32 = 2;

/// What is about to be looked for beside.
pub(super) struct Beside<'s> {
    shared: &'s Shared,
    search: &'s Search<'s>,
    /// What its transaction begins with.
    plan: &'s str,
    /// How many memories the scope sees.
    seen: u64,
    /// Of a server here, one more processor is taken.
    _turn: Option<Permit>,
}

impl<'s> Beside<'s> {
    /// `search`, where two connections are at hand and at least half of them all are left to others, and where the server,
    /// if it is here, has a processor for it. Nobody waits for any of that.
    pub(super) fn of(shared: &'s Shared, search: &'s Search<'s>, plan: &'s str, seen: u64) -> Option<Self> {
        let pool = &shared.database.pool;
        let idle = u32::try_from(pool.num_idle()).unwrap_or(u32::MAX);
        let used = pool.size().saturating_sub(idle);
        if idle < TAKEN || (used + TAKEN) * 2 > pool.options().get_max_connections() {
            return None;
        }
        let turn = match &shared.turns {
            Some(turns) => Some(turns.another()?),
            None => None,
        };
        Some(Self { shared, search, plan, seen, _turn: turn })
    }

    /// What is near. `None` where that could not be found out: whoever asks within another transaction is told why.
    async fn nearest(self, has_begun: &AtomicBool) -> Option<Nearest> {
        let database = &self.shared.database;
        let mut tx = match database.read_planned(self.search.view, self.plan).await {
            Ok(tx) => tx,
            Err(error) => {
                tracing::debug!(%error, "a search goes on by one connection");
                return None;
            }
        };
        has_begun.store(true, Ordering::Relaxed);
        let found = self.search.nearest(&mut tx, self.seen).await;
        found.map_err(|error| tracing::debug!(%error, "a search goes on by one connection")).ok()
    }
}

/// What `words` gives, and what was found near beside it.
pub(super) async fn both<T>(
    words: impl Future<Output = Result<T, StoreError>>,
    beside: Option<Beside<'_>>,
) -> Result<(T, Option<Nearest>), StoreError> {
    let Some(beside) = beside else { return Ok((words.await?, None)) };
    let has_begun = AtomicBool::new(false);
    // They are large; on the heap, what waits for them is not.
    let (mut words, mut meaning) = (Box::pin(words), Box::pin(beside.nearest(&has_begun)));
    tokio::select! {
        near = &mut meaning => Ok((words.await?, near)),
        found = &mut words => {
            let found = found?;
            // Where it has not even begun, its connection may be a dead one.
            let near = if has_begun.load(Ordering::Relaxed) { meaning.await } else { None };
            Ok((found, near))
        }
    }
}
