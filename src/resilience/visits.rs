//! How much of one backend one connection may have, so that calls which hang in it leave the connection room for others.
//!
//! It is counted in calls, since it is calls that a connection has a bounded number of: what one call asks at the same
//! time counts once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::call::Caller;

/// What the connections have of one backend.
#[derive(Debug)]
pub(super) struct Visits {
    calls_max: usize,
    connections: Mutex<HashMap<u64, Connection>>,
}

#[derive(Debug)]
struct Connection {
    /// Visits, those with them that wait.
    visits: usize,
    free: Arc<Semaphore>,
    /// Calls that have room, each with how often it asks.
    calls: HashMap<u64, (usize, OwnedSemaphorePermit)>,
}

/// A part of a call, on its way to the backend.
#[derive(Debug)]
pub(super) struct Visit<'a> {
    visits: &'a Visits,
    caller: Caller,
    free: Arc<Semaphore>,
    has_room: bool,
}

impl Visits {
    /// Each connection may have `calls_max` calls in it.
    pub(super) fn new(calls_max: usize) -> Self {
        Self { calls_max, connections: Mutex::default() }
    }

    /// Somebody comes. May go on at once where it [has room](Visit::has_room).
    pub(super) fn visit(&self, caller: Caller) -> Visit<'_> {
        let mut connections = self.connections();
        let connection = connections.entry(caller.connection).or_insert_with(|| Connection {
            visits: 0,
            free: Arc::new(Semaphore::new(self.calls_max)),
            calls: HashMap::new(),
        });
        connection.visits += 1;
        let free = Arc::clone(&connection.free);
        let has_room = connection.take(caller.call, || Arc::clone(&free).try_acquire_owned().ok());
        Visit { visits: self, caller, free, has_room }
    }

    fn connections(&self) -> MutexGuard<'_, HashMap<u64, Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// Room for `call`: what it has, or what `permit` gives.
    fn take(&mut self, call: u64, permit: impl FnOnce() -> Option<OwnedSemaphorePermit>) -> bool {
        if let Some((asks, _)) = self.calls.get_mut(&call) {
            *asks += 1;
            return true;
        }
        let Some(permit) = permit() else { return false };
        self.calls.insert(call, (1, permit));
        true
    }
}

impl Visit<'_> {
    /// Whether it may go on.
    pub(super) const fn has_room(&self) -> bool {
        self.has_room
    }

    /// Waits until it may.
    pub(super) async fn wait(&mut self) {
        if self.has_room {
            return;
        }
        let Ok(permit) = Arc::clone(&self.free).acquire_owned().await else { return };
        let mut connections = self.visits.connections();
        if let Some(connection) = connections.get_mut(&self.caller.connection) {
            self.has_room = connection.take(self.caller.call, || Some(permit));
        }
    }
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        let mut connections = self.visits.connections();
        let Some(connection) = connections.get_mut(&self.caller.connection) else { return };
        connection.visits -= 1;
        if self.has_room
            && let Some((asks, _)) = connection.calls.get_mut(&self.caller.call)
        {
            *asks -= 1;
            if *asks == 0 {
                connection.calls.remove(&self.caller.call);
            }
        }
        if connection.visits == 0 {
            connections.remove(&self.caller.connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const fn caller(connection: u64, call: u64) -> Caller {
        Caller { connection, call }
    }

    #[test]
    fn each_connection_has_its_own_and_a_call_counts_once() {
        let visits = Visits::new(1);
        let (one, same) = (visits.visit(caller(7, 1)), visits.visit(caller(7, 1)));
        assert!(one.has_room() && same.has_room(), "one call");
        assert!(visits.visit(caller(8, 1)).has_room(), "another connection");
        let mut second = visits.visit(caller(7, 2));
        assert!(!second.has_room() && second.wait().now_or_never().is_none());
        drop(one);
        assert!(second.wait().now_or_never().is_none(), "the call still asks");
        drop(same);
        assert!(second.wait().now_or_never().is_some() && second.has_room());
        assert_eq!(visits.connections().len(), 1);
        drop(second);
        assert_eq!(visits.connections().len(), 0, "what nobody uses is forgotten");
    }
}
