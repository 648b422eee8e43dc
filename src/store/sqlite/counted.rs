//! Counts of a scope's memories, counted again only where something was written or has expired since.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};

use super::{Readers, mark::Marks, query, view::View};
use crate::{scope::Scope, store::StoreStats};

/// Scopes whose counts are kept; beyond that all are counted anew.
const SCOPES_MAX: usize = 256;
/// How far ahead it is asked whether a memory expires.
const AHEAD: SignedDuration = SignedDuration::from_hours(1);

/// The counts of one store.
#[derive(Default)]
pub(super) struct Counted {
    kept: Mutex<HashMap<Scope, Kept>>,
}

struct Kept {
    generation: u64,
    /// From when to when no memory expires.
    from: Timestamp,
    until: Timestamp,
    stats: Arc<StoreStats>,
}

impl Counted {
    /// The counts of `scope` at `now`.
    pub(super) async fn get(
        &self,
        marks: &Marks,
        readers: &Readers,
        scope: &Scope,
        now: Timestamp,
    ) -> Result<StoreStats, sqlx::Error> {
        // Read first: what is written while it is counted makes the counts those of an older generation.
        let generation = marks.get(readers, scope).await?.generation;
        let holds = |kept: &&Kept| kept.generation == generation && (kept.from..kept.until).contains(&now);
        let known = self.lock().get(scope).filter(holds).map(|kept| Arc::clone(&kept.stats));
        if let Some(known) = known {
            return Ok(StoreStats::clone(&known));
        }
        let view = View::of(scope);
        let ahead = now.saturating_add(AHEAD).unwrap_or(Timestamp::MAX);
        let until = query::next_expiry(readers, &view, now, ahead).await?.unwrap_or(ahead);
        let stats = query::stats(readers, &view, now).await?;
        let mut kept = self.lock();
        if kept.len() >= SCOPES_MAX {
            kept.clear();
        }
        let stats = Arc::new(stats);
        kept.insert(scope.clone(), Kept { generation, from: now, until, stats: Arc::clone(&stats) });
        Ok(StoreStats::clone(&stats))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Scope, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
