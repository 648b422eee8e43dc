//! What the tests of the cache share.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{Semaphore, broadcast};

use super::{Invalidation, Key, Lease, SecondLayer, Told, Value};
use crate::{
    pattern::CacheScopeRule,
    scope::{ProjectId, Scope},
};

/// A value that is its text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Text(pub(super) String);

impl Value for Text {
    fn encode(&self) -> Vec<u8> {
        self.0.clone().into_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        String::from_utf8(bytes.to_vec()).ok().map(Self)
    }

    fn weight(&self) -> usize {
        self.0.len()
    }
}

pub(super) fn key(name: &str) -> Key {
    let scope = Scope::mint(ProjectId::personal(), "ada", "default", None);
    Key::new(&scope, CacheScopeRule::Project, false, [name.as_bytes()]).unwrap()
}

/// A second layer in this process, whose moments a test chooses. The real one is tested with the real server.
pub(crate) struct Chosen {
    pub(crate) kept: Mutex<HashMap<Key, Vec<u8>>>,
    pub(crate) told: broadcast::Sender<Invalidation>,
    /// Each answer takes a permit after it was read.
    pub(crate) answers: Semaphore,
    pub(crate) asked: AtomicUsize,
    /// Somebody else holds every lease.
    pub(crate) is_held: AtomicBool,
    /// Leases asked for.
    pub(crate) wanted: AtomicUsize,
    leases: Mutex<HashMap<Key, (u64, bool)>>,
}

impl Default for Chosen {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            told: broadcast::channel(64).0,
            answers: Semaphore::new(Semaphore::MAX_PERMITS),
            asked: AtomicUsize::new(0),
            is_held: AtomicBool::new(false),
            wanted: AtomicUsize::new(0),
            leases: Mutex::default(),
        }
    }
}

#[async_trait]
impl SecondLayer for Chosen {
    async fn get(&self, key: &Key, _: Duration) -> Option<Vec<u8>> {
        let read = self.kept.lock().unwrap().get(key).cloned();
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.answers.acquire().await.unwrap().forget();
        read
    }

    async fn put(&self, key: &Key, bytes: Vec<u8>, _: Duration, lease: Option<u64>, _: Duration) -> bool {
        if let Some(lease) = lease
            && self.leases.lock().unwrap().get(key).is_some_and(|(latest, _)| *latest != lease)
        {
            return false;
        }
        self.kept.lock().unwrap().insert(key.clone(), bytes);
        let _ = self.told.send(Invalidation::Entry(*key.digest()));
        true
    }

    async fn lease(&self, key: &Key, _: Duration, _: Duration) -> Lease {
        self.wanted.fetch_add(1, Ordering::SeqCst);
        if self.is_held.load(Ordering::SeqCst) {
            return Lease::Held;
        }
        let mut leases = self.leases.lock().unwrap();
        let (number, held) = leases.entry(key.clone()).or_default();
        if *held {
            return Lease::Held;
        }
        (*number, *held) = (*number + 1, true);
        Lease::Taken(*number)
    }

    async fn give_back(&self, key: &Key, lease: u64, _: Duration) {
        if let Some((number, held)) = self.leases.lock().unwrap().get_mut(key)
            && *number == lease
        {
            *held = false;
        }
    }

    fn invalidations(&self) -> broadcast::Receiver<Invalidation> {
        self.told.subscribe()
    }

    fn told(&self) -> Told {
        Told::Well
    }

    async fn close(&self) {}
}
