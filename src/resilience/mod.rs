//! What keeps a failing backend from taking everything else with it: a circuit breaker for each, a bound on how many
//! calls it may hold, and an account of both.

pub mod breaker;
mod call;
mod guard;
mod retry;
mod visits;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

pub use breaker::{Breaker, BreakerCounts, BreakerSettings, BreakerState, Permit, Refused};
pub use call::{accounted, by, deadline, note, on_behalf_of, until};
pub use guard::{Entry, Guard, GuardSettings, Shut};
pub use retry::{Pauses, retry_after};

/// Hosts that are known at once: beyond, the one that nobody asked for longest is forgotten. All other backends are named
/// by the configuration.
const HOSTS_MAX: usize = 128;
/// The store's name among databases.
pub const STORE: &str = "store";

/// What kind of thing a backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BackendKind {
    /// The store of memories.
    Database,
    /// The second layer of the cache.
    Redis,
    /// A database that patterns read.
    Source,
    /// Another MCP server.
    Server,
    /// The provider of a language model.
    Model,
    /// A host that `http.get` reads from.
    Host,
}

impl BackendKind {
    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Database => "database",
            Self::Redis => "redis",
            Self::Source => "source",
            Self::Server => "server",
            Self::Model => "model",
            Self::Host => "host",
        }
    }
}

/// One backend: what it is, and which of these, by the name that the configuration gives it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Backend {
    /// What it is.
    pub kind: BackendKind,
    /// Which one. Never an address with a password.
    pub name: Arc<str>,
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.name)
    }
}

/// The guards of all backends of a process, made when first asked for.
#[derive(Debug, Default)]
pub struct Backends {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    guards: BTreeMap<Backend, (u64, Arc<Guard>)>,
    /// Counts the questions: who was asked for last has the highest number.
    asked: u64,
}

/// How one backend stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which.
    pub backend: Backend,
    /// Its breaker.
    pub breaker: BreakerState,
    /// Whether it is in trouble: not closed, or left alone, and somebody cared lately.
    pub is_ailing: bool,
    /// Whether no connection to it could be made, whatever its breaker says.
    pub is_left_alone: bool,
    /// How long nobody may try, where nobody may.
    pub retry_after: Option<Duration>,
    /// Tries that failed.
    pub failures: u64,
    /// Times that the breaker opened.
    pub opened: u64,
    /// Calls that were turned away: by the breaker, or because there was no place.
    pub refused: u64,
    /// Calls that it holds now.
    pub in_use: usize,
    /// Calls that wait for a place now.
    pub waiting: usize,
    /// Questions that were asked again.
    pub retries: u64,
}

impl fmt::Display for Standing {
    /// `database store: open`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = match self.breaker {
            BreakerState::Closed if self.is_left_alone => "left alone".to_owned(),
            breaker => breaker.as_str().replace('_', " "),
        };
        write!(f, "{}: {how}", self.backend)
    }
}

impl Backends {
    /// The guard of a backend, with what its kind is guarded by.
    #[must_use]
    pub fn guard(&self, kind: BackendKind, name: &str) -> Arc<Guard> {
        self.guard_with(kind, name, kind.settings())
    }

    /// The guard of a backend; where there is none yet, with these settings.
    #[must_use]
    pub fn guard_with(&self, kind: BackendKind, name: &str, settings: GuardSettings) -> Arc<Guard> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.asked += 1;
        let asked = known.asked;
        let backend = Backend { kind, name: name.into() };
        if let Some((last, guard)) = known.guards.get_mut(&backend) {
            *last = asked;
            return Arc::clone(guard);
        }
        if kind == BackendKind::Host {
            known.make_room();
        }
        let guard = Arc::new(Guard::new(backend.clone(), settings));
        known.guards.insert(backend, (asked, Arc::clone(&guard)));
        guard
    }

    /// The breaker of a backend.
    #[must_use]
    pub fn breaker(&self, kind: BackendKind, name: &str) -> Arc<Breaker> {
        Arc::clone(self.guard(kind, name).breaker())
    }

    /// How long nobody may ask a backend, where nobody may.
    #[must_use]
    pub fn retry_after(&self, kind: BackendKind, name: &str) -> Option<Duration> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, guard) = known.guards.get(&Backend { kind, name: name.into() })?;
        guard.breaker().shut(Instant::now())
    }

    /// How all that anybody used stand at `now`.
    #[must_use]
    pub fn standings(&self, now: Instant) -> Vec<Standing> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.guards.values().map(|(_, guard)| guard.standing(now)).collect()
    }

    /// Those in trouble.
    #[must_use]
    pub fn ailing(&self, now: Instant) -> Vec<Standing> {
        let mut standings = self.standings(now);
        standings.retain(|standing| standing.is_ailing);
        standings
    }
}

impl Known {
    /// Forgets the host that nobody asked for longest, where there are too many.
    fn make_room(&mut self) {
        let hosts = || self.guards.iter().filter(|(backend, _)| backend.kind == BackendKind::Host);
        if hosts().count() < HOSTS_MAX {
            return;
        }
        let oldest = hosts().min_by_key(|(_, (last, _))| *last).map(|(backend, _)| backend.clone());
        if let Some(oldest) = oldest {
            self.guards.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_has_one_guard_and_all_are_told_of() {
        let backends = Backends::default();
        let now = Instant::now();
        for _ in 0..BackendKind::Redis.settings().breaker.failures {
            let breaker = backends.breaker(BackendKind::Redis, "cache");
            breaker.admit(now).unwrap().fail(now, None);
        }
        let _other = backends.guard(BackendKind::Database, STORE);
        let told =
            |standings: Vec<Standing>| -> Vec<String> { standings.iter().map(ToString::to_string).collect() };
        assert_eq!(told(backends.standings(now)), ["database store: closed", "redis cache: open"]);
        assert_eq!(told(backends.ailing(now)), ["redis cache: open"]);
        assert_eq!(backends.retry_after(BackendKind::Database, STORE), None);
        assert!(backends.retry_after(BackendKind::Redis, "cache").is_some());
    }

    #[test]
    fn of_hosts_those_that_were_asked_last_are_known() {
        let backends = Backends::default();
        let _server = backends.guard(BackendKind::Server, "kept");
        for n in 0..HOSTS_MAX {
            let _host = backends.guard(BackendKind::Host, &format!("host{n}"));
        }
        let _again = backends.guard(BackendKind::Host, "host0");
        let _new = backends.guard(BackendKind::Host, "new");
        let standings = backends.standings(Instant::now());
        assert_eq!(standings.len(), HOSTS_MAX + 1);
        for (name, is_known) in [("host0", true), ("host1", false), ("new", true), ("kept", true)] {
            let known = standings.iter().any(|standing| *standing.backend.name == *name);
            assert_eq!(known, is_known, "{name}");
        }
    }
}
