//! Wakes for sessions that have no task of their own.

use std::sync::{
    Arc, Weak,
    atomic::{AtomicBool, Ordering},
};

use tokio::runtime::Handle;

use crate::session::Wake;

/// Something with a mailbox to be looked after.
pub(super) trait Tended: Send + Sync {
    /// Takes what calls have left, and brings it where it belongs.
    fn tend(&self);
}

/// Has somebody tended soon, by a short task of which at most one waits.
///
/// A call may leave something while whoever fed it holds the lock of the session: so nothing is locked here.
pub(super) struct Knock(Arc<Inner>);

struct Inner {
    tended: Weak<dyn Tended>,
    is_scheduled: AtomicBool,
    runtime: Handle,
}

impl Knock {
    /// Knocks at `tended` for as long as it is there.
    pub(super) fn new(tended: Weak<dyn Tended>, runtime: Handle) -> Self {
        Self(Arc::new(Inner { tended, is_scheduled: AtomicBool::new(false), runtime }))
    }
}

impl Wake for Knock {
    fn wake(&self) {
        if self.0.is_scheduled.swap(true, Ordering::AcqRel) {
            return;
        }
        let inner = Arc::clone(&self.0);
        self.0.runtime.spawn(async move {
            inner.is_scheduled.store(false, Ordering::Release);
            if let Some(tended) = inner.tended.upgrade() {
                tended.tend();
            }
        });
    }
}
