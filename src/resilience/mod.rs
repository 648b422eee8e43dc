//! What keeps a failing backend from taking everything else with it: a circuit breaker for each, a bound on how many
//! calls it may hold, and an account of both.

pub mod breaker;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

pub use breaker::{Breaker, BreakerSettings, BreakerState, Permit, Refused};

/// Failures in a row that open a breaker, and for how long, where nobody says otherwise.
const DEFAULT: BreakerSettings = BreakerSettings { failures: 5, pause: Duration::from_secs(1) };

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
    known: Mutex<BTreeMap<Backend, Arc<Breaker>>>,
}

/// How one backend stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which.
    pub backend: Backend,
    /// Its breaker.
    pub breaker: BreakerState,
}

impl Backends {
    /// The breaker of a backend.
    #[must_use]
    pub fn breaker(&self, kind: BackendKind, name: &str) -> Arc<Breaker> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let breaker = known.entry(Backend { kind, name: name.into() });
        Arc::clone(breaker.or_insert_with(|| Arc::new(Breaker::new(DEFAULT))))
    }

    /// How all that anybody used stand at `now`.
    #[must_use]
    pub fn standings(&self, now: Instant) -> Vec<Standing> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known
            .iter()
            .map(|(backend, breaker)| Standing { backend: backend.clone(), breaker: breaker.now(now) })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_has_one_breaker_and_all_are_told_of() {
        let backends = Backends::default();
        let now = Instant::now();
        for _ in 0..DEFAULT.failures {
            let breaker = backends.breaker(BackendKind::Redis, "cache");
            breaker.admit(now).unwrap().fail(now, None);
        }
        let _other = backends.breaker(BackendKind::Database, "store");
        let told: Vec<_> = backends
            .standings(now)
            .into_iter()
            .map(|standing| (standing.backend.to_string(), standing.breaker))
            .collect();
        assert_eq!(
            told,
            [
                ("database store".to_owned(), BreakerState::Closed),
                ("redis cache".to_owned(), BreakerState::Open)
            ]
        );
    }
}
