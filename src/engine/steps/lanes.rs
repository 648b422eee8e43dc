//! How much one agent of a principal may have going at once: what it asks for beyond that waits for its own, and takes
//! nothing from the others.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{processors, scope::Scope};

/// Lanes beyond which those that nobody is in are forgotten.
const LANES_MAX: usize = 256;

/// A lane for each agent of each principal.
#[derive(Debug, Default)]
pub(super) struct Lanes(Mutex<BTreeMap<(String, String), Weak<Semaphore>>>);

impl Lanes {
    /// No lanes.
    pub(super) const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// Waits until less than as many as there are processors are in the lane of `scope`. Left by dropping what is given.
    pub(super) async fn enter(&self, scope: &Scope) -> Option<OwnedSemaphorePermit> {
        // It is never closed: nobody goes without.
        self.lane(scope).acquire_owned().await.ok()
    }

    fn lane(&self, scope: &Scope) -> Arc<Semaphore> {
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lanes.len() >= LANES_MAX {
            lanes.retain(|_, lane| lane.strong_count() > 0);
        }
        let lane = lanes.entry((scope.principal().to_owned(), scope.agent().to_owned())).or_default();
        lane.upgrade().unwrap_or_else(|| {
            let made = Arc::new(Semaphore::new(processors::lane()));
            *lane = Arc::downgrade(&made);
            made
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scope::ProjectId;

    #[tokio::test]
    async fn who_fills_its_lane_waits_and_the_others_do_not() {
        let lanes = Lanes::new();
        let scope = |principal: &str, agent: &str| {
            Scope::mint(ProjectId::parse("harbour").expect("a name"), principal, agent, None)
        };
        let (ada, other) = (scope("ada", "one"), scope("ada", "two"));
        let mut held = Vec::new();
        for _ in 0..processors::lane() {
            held.push(lanes.enter(&ada).await.unwrap());
        }
        let mut waiting = Box::pin(lanes.enter(&ada));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        assert!(futures_util::poll!(Box::pin(lanes.enter(&other))).is_ready());
        assert!(futures_util::poll!(Box::pin(lanes.enter(&scope("ben", "one")))).is_ready());
        held.pop();
        assert!(waiting.await.is_some());
        drop(held);
        // What nobody is in does not stay for ever.
        for nth in 0..2 * LANES_MAX {
            drop(lanes.enter(&scope("ada", &format!("agent-{nth}"))).await);
        }
        assert!(lanes.0.lock().unwrap().len() <= LANES_MAX);
    }
}
