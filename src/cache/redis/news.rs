//! What servers tell, for all who want to know.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use redis::Value;
use tokio::sync::{Notify, broadcast};

use super::PREFIX;
use crate::cache::Invalidation;

/// Messages that somebody who reads slowly may be behind; who is further behind is told that some were missed.
const BEHIND_MAX: usize = 1024;

/// The way from the connections to the first layer.
pub(super) struct News {
    sender: broadcast::Sender<Invalidation>,
    /// Which servers there are may have changed.
    pub(super) changed: Notify,
    /// A server that was told of does not do what it was told of for.
    misled: AtomicBool,
    invalidations: AtomicU64,
    reconnects: AtomicU64,
}

impl News {
    pub(super) fn new() -> Self {
        Self {
            sender: broadcast::Sender::new(BEHIND_MAX),
            changed: Notify::new(),
            misled: AtomicBool::new(false),
            invalidations: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
        }
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<Invalidation> {
        self.sender.subscribe()
    }

    /// Entries that were told of, and how often a lost server was reached again.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.invalidations.load(Ordering::Relaxed), self.reconnects.load(Ordering::Relaxed))
    }

    /// Who told of the servers may know less by now than others do.
    pub(super) fn mislead(&self) {
        self.misled.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Whether that was so since this was asked last.
    pub(super) fn was_misled(&self) -> bool {
        self.misled.swap(false, Ordering::Relaxed)
    }

    pub(super) fn everything(&self) {
        // Without a receiver nobody keeps anything.
        let _ = self.sender.send(Invalidation::Everything);
    }

    pub(super) fn connected(&self, again: bool) {
        self.reconnects.fetch_add(u64::from(again), Ordering::Relaxed);
    }

    /// The data of a push `invalidate`: one list of keys, or nothing where all were removed.
    pub(super) fn invalidated(&self, data: &[Value]) {
        let [Value::Array(keys)] = data else { return self.everything() };
        self.invalidations.fetch_add(keys.len() as u64, Ordering::Relaxed);
        for key in keys {
            let told = match key {
                Value::BulkString(key) => digest_of(key),
                Value::SimpleString(key) => digest_of(key.as_bytes()),
                _ => return self.everything(),
            };
            // What is no entry of ours is none that anybody keeps.
            if let Some(digest) = told {
                let _ = self.sender.send(Invalidation::Entry(digest));
            }
        }
    }
}

/// The digest in a key of an entry.
fn digest_of(key: &[u8]) -> Option<[u8; 32]> {
    let rest = key.strip_prefix(PREFIX.as_bytes())?;
    let at = rest.iter().rposition(|byte| *byte == b':')?;
    let digits: &[u8; 64] = rest[at + 1..].try_into().ok()?;
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |at: usize| char::from(pair[at]).to_digit(16);
        *byte = (digit(0)? * 16 + digit(1)?) as u8;
    }
    Some(digest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cache::{Key, redis::entry_key},
        pattern::CacheScopeRule,
        scope::{ProjectId, Scope},
    };

    #[test]
    fn a_key_is_told_by_its_digest_and_what_is_not_understood_as_everything() {
        let scope = Scope::mint(ProjectId::parse("a.b").unwrap(), "ann", "a", None);
        let key = Key::new(&scope, CacheScopeRule::Project, false, [b"x".as_slice()]).unwrap();
        let news = News::new();
        let mut told = news.subscribe();
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let foreign = [bulk("tmws:1:"), bulk("other:a"), bulk("tmws:1:{p}:00ff")].to_vec();
        news.invalidated(&[Value::Array(foreign)]);
        news.invalidated(&[Value::Array(vec![bulk(&entry_key(&key))])]);
        news.invalidated(&[Value::Nil]);
        news.invalidated(&[]);
        let mut all = Vec::new();
        while let Ok(one) = told.try_recv() {
            all.push(one);
        }
        let everything = Invalidation::Everything;
        assert_eq!(all, [Invalidation::Entry(*key.digest()), everything.clone(), everything]);
        assert_eq!(news.counts(), (4, 0));
    }
}
