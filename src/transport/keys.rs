//! The key that signs session ids, cursors and request states, and how a server comes to know it.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::Notify,
    time::{error::Elapsed, timeout},
};
use tracing::{info, warn};

use crate::{protocol::Signer, random, store::SharedStore};

/// A client waits so long for the store to tell the key.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Where the key comes from.
pub enum Keys {
    /// It was configured, or made for this process.
    Given(Signer),
    /// The store keeps it, so that every instance on it has the same.
    Stored(Arc<Stored>),
}

/// A key that the store keeps.
///
/// Asked for when the first client needs it, by one task for all who wait. Until the store tells it, a key of this
/// process's own signs: what other instances cannot read, this one still reads when it has learnt theirs.
pub struct Stored {
    store: SharedStore,
    told: OnceLock<Signer>,
    own: Signer,
    /// A client was answered without it: from then on none waits.
    is_late: AtomicBool,
    is_asking: AtomicBool,
    asked: Notify,
}

/// Ends a question, however it ended.
struct Asking(Arc<Stored>);

impl Keys {
    /// `key`, as it was configured.
    #[must_use]
    pub fn given(key: [u8; 32]) -> Self {
        Self::Given(Signer::new(key))
    }

    /// The key that `store` keeps.
    ///
    /// # Panics
    /// Where the system has no randomness.
    #[must_use]
    pub fn of(store: SharedStore) -> Self {
        Self::Stored(Arc::new(Stored {
            store,
            told: OnceLock::new(),
            // Without randomness nothing here can be safe.
            own: Signer::new(random::key().expect("the system has randomness")),
            is_late: AtomicBool::new(false),
            is_asking: AtomicBool::new(false),
            asked: Notify::new(),
        }))
    }

    /// What signs now, without an audience. The store is asked on `runtime`: a client that goes away stops nothing.
    pub(super) async fn signer(&self, runtime: &Handle) -> Signer {
        match self {
            Self::Given(signer) => signer.clone(),
            Self::Stored(stored) => stored.signer(runtime).await,
        }
    }
}

impl Stored {
    async fn signer(self: &Arc<Self>, runtime: &Handle) -> Signer {
        if let Some(signer) = self.told.get() {
            return signer.clone();
        }
        let mut asked = std::pin::pin!(self.asked.notified());
        // From here on no end of a question is missed.
        asked.as_mut().enable();
        if !self.is_asking.swap(true, Ordering::AcqRel) {
            let asking = Asking(Arc::clone(self));
            runtime.spawn(async move { asking.0.ask().await });
        }
        if !self.is_late.load(Ordering::Relaxed) {
            let _: Result<(), Elapsed> = timeout(WAIT_MAX, asked).await;
        }
        self.told.get().unwrap_or_else(|| self.own()).clone()
    }

    async fn ask(&self) {
        if self.told.get().is_some() {
            return;
        }
        if let Ok(key) = self.store.state_key().await {
            drop(self.told.set(Signer::new(key).accepting(&self.own)));
            if self.is_late.load(Ordering::Relaxed) {
                info!("the store told its key: from now on it signs session ids and cursors");
            }
        }
    }

    fn own(&self) -> &Signer {
        if !self.is_late.swap(true, Ordering::Relaxed) {
            warn!(
                "the store did not tell its key: until it does, session ids and cursors are signed with a key of this process, and no other instance takes them"
            );
        }
        &self.own
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.is_asking.store(false, Ordering::Release);
        self.0.asked.notify_waiters();
    }
}
