//! What other processes wrote, told to whoever keeps what was read.

use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::view::View;
use crate::scope::Scope;

/// Something changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A write of memories was committed, by whatever process.
    Written {
        /// A hash of who may notice: see [`Change::concerns`].
        audience: String,
        /// What tells this state of that audience from all others; only equality means something.
        generation: u64,
    },
    /// What happened meanwhile is unknown: anything may have changed.
    Everything,
}

impl Change {
    /// Whether `scope` may notice it.
    #[must_use]
    pub fn concerns(&self, scope: &Scope) -> bool {
        match self {
            Self::Everything => true,
            Self::Written { audience, .. } => {
                let view = View::of(scope);
                [view.realm, view.personal, view.shared].contains(audience)
            }
        }
    }
}

/// A subscription to changes. What was read before it began is to be dropped once; from then on every committed write is
/// told, in order, or [`Change::Everything`] where some were missed.
#[derive(Debug)]
pub struct Changes(pub(super) Receiver<Change>);

impl Changes {
    /// The next one; `None` once the store is closed.
    pub async fn next(&mut self) -> Option<Change> {
        match self.0.recv().await {
            Ok(change) => Some(change),
            Err(RecvError::Lagged(_)) => Some(Change::Everything),
            Err(RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast;

    use super::*;
    use crate::{
        scope::ProjectId,
        store::{Visibility, view},
    };

    #[test]
    fn a_change_concerns_whoever_may_notice_it() {
        let scope =
            |project: &str, principal| Scope::mint(ProjectId::parse(project).unwrap(), principal, "x", None);
        let written = |project, principal, visibility| Change::Written {
            audience: view::audience(project, principal, visibility),
            generation: 1,
        };
        for (change, ann_in_a, ann_in_b, bob_in_a) in [
            (written("a", "ann", Visibility::Project), true, false, true),
            (written("a", "ann", Visibility::Shared), true, true, false),
            (written("personal", "ann", Visibility::Project), true, true, false),
            (Change::Everything, true, true, true),
        ] {
            let concerns =
                [("a", "ann"), ("b", "ann"), ("a", "bob")].map(|(p, w)| change.concerns(&scope(p, w)));
            assert_eq!(concerns, [ann_in_a, ann_in_b, bob_in_a], "{change:?}");
        }
    }

    #[tokio::test]
    async fn whoever_is_too_slow_is_told_that_anything_may_have_changed() {
        let (sender, receiver) = broadcast::channel(1);
        let mut changes = Changes(receiver);
        for generation in 1..=3 {
            sender.send(Change::Written { audience: "p".into(), generation }).unwrap();
        }
        assert_eq!(changes.next().await, Some(Change::Everything));
        assert_eq!(changes.next().await, Some(Change::Written { audience: "p".into(), generation: 3 }));
        drop(sender);
        assert_eq!(changes.next().await, None);
    }
}
