//! Everybody who is connected: changes are told to those whom they concern, and the end to all.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::broadcast::{Receiver, error::RecvError};
use tracing::debug;

use super::Mailbox;
use crate::{
    scope::Scope,
    tool::{Change, ConnectionId},
};

struct Listener {
    scope: Scope,
    mailbox: Arc<Mailbox>,
}

/// The register of connections that hear of changes.
#[derive(Default)]
pub struct Hub {
    listeners: Mutex<HashMap<ConnectionId, Listener>>,
}

/// A place in the register; left by dropping it.
#[must_use = "the place is left when this is dropped"]
pub struct Membership {
    hub: Arc<Hub>,
    id: ConnectionId,
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.hub.listeners.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Hub {
    /// From now on `mailbox` gets the changes that concern `scope`.
    pub fn join(self: &Arc<Self>, id: ConnectionId, scope: Scope, mailbox: Arc<Mailbox>) -> Membership {
        let listener = Listener { scope, mailbox };
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).insert(id, listener);
        Membership { hub: Arc::clone(self), id }
    }

    /// Tells a change to everybody whom it concerns.
    pub fn tell(&self, change: &Change) {
        let concerned: Vec<Arc<Mailbox>> = {
            let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
            listeners
                .values()
                .filter(|listener| change.audience.includes(&listener.scope))
                .map(|listener| Arc::clone(&listener.mailbox))
                .collect()
        };
        for mailbox in concerned {
            mailbox.put_event(change.event.clone());
        }
    }

    /// Wakes everybody, to look whether the server stops or their token was withdrawn.
    pub fn wake_all(&self) {
        let all: Vec<Arc<Mailbox>> = {
            let listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
            listeners.values().map(|listener| Arc::clone(&listener.mailbox)).collect()
        };
        for mailbox in all {
            mailbox.wake();
        }
    }

    /// Hands on what the service announces, until it is gone.
    pub async fn run(&self, mut changes: Receiver<Change>) {
        loop {
            match changes.recv().await {
                Ok(change) => self.tell(&change),
                Err(RecvError::Lagged(missed)) => {
                    debug!(missed, "changes came too fast; some were not told");
                }
                Err(RecvError::Closed) => return,
            }
        }
    }

    /// How many listen.
    #[must_use]
    pub fn len(&self) -> usize {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether nobody listens.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
