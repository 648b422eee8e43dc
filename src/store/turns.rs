//! Searches at once: more of them than processors can do only take those from each other, and all are answered later.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use tokio::time::timeout;

use super::view::View;
use crate::turnstile::{Entry, Permit, Turnstile};

/// Whose turn it is to search: one of each principal who waits, then the next of each. Who asks for many at once waits
/// for its own, not the others for them.
pub(super) struct Turns {
    turnstile: Arc<Turnstile>,
    /// Makes lanes that nobody can choose to be equal.
    lanes: RandomState,
}

impl Turns {
    /// So many at once as `places`.
    pub(super) fn new(places: usize) -> Self {
        let turnstile = Turnstile::new(places);
        Self { turnstile, lanes: RandomState::new() }
    }

    /// One more place for whoever has a turn, if one is free and nobody waits.
    pub(super) fn another(&self) -> Option<Permit> {
        self.turnstile.try_enter()
    }

    /// Waits for a turn of whoever's view this is, no longer than `patience`.
    ///
    /// # Errors
    /// It did not come in time.
    pub(super) async fn wait(&self, view: &View, patience: Duration) -> Result<Permit, sqlx::Error> {
        match self.turnstile.enter(self.lanes.hash_one(&view.principal)) {
            Entry::Now(turn) => Ok(turn),
            Entry::Later(turn) => timeout(patience, turn).await.map_err(|_| sqlx::Error::PoolTimedOut),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;
    use crate::scope::{ProjectId, Scope};

    #[tokio::test]
    async fn one_who_asks_for_many_does_not_keep_the_others_waiting() {
        const LONG: Duration = Duration::from_mins(1);
        let view = |principal: &str| View::of(&Scope::mint(ProjectId::personal(), principal, "agent", None));
        let (greedy, other) = (view("greedy"), view("other"));
        let turns = Turns::new(1);
        let running = turns.wait(&greedy, LONG).await.unwrap();
        let mut queue: Vec<_> = (0..5).map(|_| Box::pin(turns.wait(&greedy, LONG))).collect();
        for waiting in &mut queue {
            assert!(poll!(waiting).is_pending());
        }
        let mut late = Box::pin(turns.wait(&other, LONG));
        assert!(poll!(&mut late).is_pending());
        drop(running);
        // The greedy one came first; the other is next, however many of the greedy one wait.
        let mut queue = queue.into_iter();
        let next = queue.next().unwrap().await.unwrap();
        assert!(poll!(&mut late).is_pending());
        drop(next);
        drop(late.await.unwrap());
        for waiting in queue {
            drop(waiting.await.unwrap());
        }
        let _held = turns.wait(&other, LONG).await.unwrap();
        assert!(matches!(turns.wait(&other, Duration::ZERO).await, Err(sqlx::Error::PoolTimedOut)));
    }
}
