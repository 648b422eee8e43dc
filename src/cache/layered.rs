//! The cache in two layers.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use moka::{Expiry, notification::RemovalCause, policy::EvictionPolicy, sync};
use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    time::{sleep_until, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{CacheFigures, CacheLimits, Entry, Invalidation, Key, Layer, Lease, SecondLayer, Value, frame};

/// Bytes that an entry takes beside its value: the key, the clock of its expiry, the maps.
const ENTRY_BYTES: usize = 400;
/// Counters of the guard; keys share them, which now and then refuses a fill that would have been good.
const SLOTS: usize = 1_024;
/// How often a wait for an entry looks by itself: what the second layer tells may be late or lost.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

type Digest = [u8; 32];

/// Answers by key: in this process, and behind it in a layer that all instances share. Nothing is allocated or opened
/// before the first use.
///
/// **The guard.** What is read from the second layer may be old by the time it is put into the first: the invalidation
/// may have come in between. So each invalidation counts up the slot of its key before it drops the entry; a fill reads
/// the slot before it asks the second layer, and takes back what it put where the slot has changed since.
pub struct Cache<V: Value> {
    limits: CacheLimits,
    first: OnceLock<Arc<First<V>>>,
    second: Option<Arc<dyn SecondLayer>>,
    /// Ends the listening.
    listening: OnceLock<DropGuard>,
    counted: Arc<Counted>,
}

/// What this process keeps.
struct First<V: Value> {
    entries: sync::Cache<Digest, Kept<V>>,
    slots: Vec<AtomicU64>,
    counted: Arc<Counted>,
}

struct Kept<V> {
    entry: Entry<V>,
    /// From when it was put.
    life: Duration,
    bytes: u32,
}

impl<V> Clone for Kept<V> {
    fn clone(&self) -> Self {
        Self { entry: self.entry.clone(), ..*self }
    }
}

#[derive(Debug, Default)]
struct Counted {
    local_hits: AtomicU64,
    shared_hits: AtomicU64,
    misses: AtomicU64,
    stale: AtomicU64,
    fills: AtomicU64,
    invalidations: AtomicU64,
    evictions: AtomicU64,
}

/// Each entry lives as long as it says.
struct Life;

impl<V: Value> Expiry<Digest, Kept<V>> for Life {
    fn expire_after_create(&self, _: &Digest, kept: &Kept<V>, _: Instant) -> Option<Duration> {
        Some(kept.life)
    }

    fn expire_after_update(
        &self,
        _: &Digest,
        kept: &Kept<V>,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(kept.life)
    }
}

/// What an entry must be to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Not expired at this time.
    pub now: Timestamp,
    /// What [`crate::store::Store::mark`] says now, where the answer reads memories.
    pub generation: Option<u64>,
}

impl Wanted {
    fn fits<V>(&self, entry: &Entry<V>) -> bool {
        entry.expires > self.now && entry.generation == self.generation
    }
}

impl<V: Value> Cache<V> {
    /// A cache within `limits`, before `second` where there is one.
    #[must_use]
    pub fn new(limits: CacheLimits, second: Option<Arc<dyn SecondLayer>>) -> Self {
        Self { limits, first: OnceLock::new(), second, listening: OnceLock::new(), counted: Arc::default() }
    }

    /// Whether anything is kept.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.limits.local_bytes_max > 0
    }

    /// Whether there is a layer that instances share.
    #[must_use]
    pub const fn is_shared(&self) -> bool {
        self.second.is_some()
    }

    /// What is kept under `key` in this process, if it is as `wanted`. Does not wait, and counts hits alone.
    #[must_use]
    pub fn get_local(&self, key: &Key, wanted: Wanted) -> Option<Entry<V>> {
        let kept = self.first.get()?.entries.get(key.digest())?;
        if wanted.fits(&kept.entry) {
            self.counted.local_hits.fetch_add(1, Ordering::Relaxed);
            return Some(kept.entry);
        }
        if kept.entry.generation != wanted.generation {
            self.counted.stale.fetch_add(1, Ordering::Relaxed);
        }
        None
    }

    /// What is kept under `key`, if it is as `wanted`; the second layer is asked for `within` at most.
    pub async fn get(&self, key: &Key, wanted: Wanted, within: Duration) -> Option<(Entry<V>, Layer)> {
        if !self.is_on() {
            return None;
        }
        if let Some(entry) = self.get_local(key, wanted) {
            return Some((entry, Layer::Local));
        }
        let found = self.get_shared(key, wanted, within, true).await;
        let count = if found.is_some() { &self.counted.shared_hits } else { &self.counted.misses };
        count.fetch_add(1, Ordering::Relaxed);
        found.map(|entry| (entry, Layer::Shared))
    }

    /// `is_first`: what is found is counted, where it is too old; else the lookup has been counted.
    async fn get_shared(
        &self,
        key: &Key,
        wanted: Wanted,
        within: Duration,
        is_first: bool,
    ) -> Option<Entry<V>> {
        let second = self.second.as_ref()?;
        let first = self.first();
        self.listen();
        let seen = first.slot(key.digest()).load(Ordering::SeqCst);
        let bytes = timeout(within, second.get(key, within)).await.ok().flatten()?;
        let entry: Entry<V> = frame::decode(key, &bytes)?;
        if !wanted.fits(&entry) {
            if is_first && entry.generation != wanted.generation {
                self.counted.stale.fetch_add(1, Ordering::Relaxed);
            }
            return None;
        }
        first.fill(key.digest(), &entry, wanted.now, seen);
        Some(entry)
    }

    /// Keeps `entry` under `key`, in the second layer where it is not too large for it; with the number of a lease, only
    /// while no later one was taken. Waits for `within` at most.
    pub async fn put(
        &self,
        key: &Key,
        entry: Entry<V>,
        now: Timestamp,
        lease: Option<u64>,
        within: Duration,
    ) {
        let life = life(&entry, now);
        if !self.is_on() || life.is_zero() {
            return;
        }
        let first = self.first();
        self.counted.fills.fetch_add(1, Ordering::Relaxed);
        let Some(second) = &self.second else { return first.keep(key.digest(), entry, life) };
        self.listen();
        let bytes = frame::encode(key, &entry);
        first.keep(key.digest(), entry, life);
        if bytes.len() > self.limits.value_bytes_max {
            return;
        }
        // Whatever is told of it from here on is newer than what was kept above.
        let _ = timeout(within, second.put(key, bytes, life, lease, within)).await;
    }

    /// Asks to make what is under `key`, where instances share a layer.
    pub async fn lease(&self, key: &Key, length: Duration, within: Duration) -> Lease {
        let Some(second) = self.second.as_ref().filter(|_| self.is_on()) else { return Lease::Unavailable };
        self.listen();
        timeout(within, second.lease(key, length, within)).await.unwrap_or(Lease::Unavailable)
    }

    /// Gives a lease back before its time.
    pub async fn give_back(&self, key: &Key, lease: u64, within: Duration) {
        if let Some(second) = &self.second {
            let _ = timeout(within, second.give_back(key, lease, within)).await;
        }
    }

    /// Waits until another instance has put what is under `key`, at most until `until`, and no longer once the second
    /// layer says that it knows nothing any more. Each look at it takes `within` at most. For a lookup that was in vain, and
    /// counted as such.
    pub async fn await_shared(
        &self,
        key: &Key,
        wanted: Wanted,
        until: Instant,
        within: Duration,
    ) -> Option<Entry<V>> {
        let mut told = self.second.as_ref()?.invalidations();
        let until = tokio::time::Instant::from_std(until);
        loop {
            if let Some(entry) = self.get_shared(key, wanted, within, false).await {
                return Some(entry);
            }
            let look = until.min(tokio::time::Instant::now() + LOOK_AGAIN);
            tokio::select! {
                is_known = about(&mut told, key.digest()) => if !is_known { return None },
                () = sleep_until(look) => {}
            }
            if tokio::time::Instant::now() >= until {
                return None;
            }
        }
    }

    /// What it counted.
    #[must_use]
    pub fn figures(&self) -> CacheFigures {
        let Counted { local_hits, shared_hits, misses, stale, fills, invalidations, evictions } =
            &*self.counted;
        let entries = self.first.get().map(|first| {
            first.entries.run_pending_tasks();
            (first.entries.entry_count(), first.entries.weighted_size())
        });
        let (entries, bytes) = entries.unwrap_or_default();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CacheFigures {
            local_hits: read(local_hits),
            shared_hits: read(shared_hits),
            misses: read(misses),
            stale: read(stale),
            fills: read(fills),
            invalidations: read(invalidations),
            evictions: read(evictions),
            entries,
            bytes,
        }
    }

    /// Closes the connections of the second layer.
    pub async fn close(&self) {
        if let Some(second) = &self.second {
            second.close().await;
        }
    }

    fn first(&self) -> &Arc<First<V>> {
        self.first
            .get_or_init(|| Arc::new(First::new(self.limits.local_bytes_max, Arc::clone(&self.counted))))
    }

    /// From now on what the second layer tells is heard, until the cache is dropped. In a runtime.
    fn listen(&self) {
        self.listening.get_or_init(|| {
            let end = CancellationToken::new();
            if let Some(second) = &self.second {
                let (told, first) = (second.invalidations(), Arc::clone(self.first()));
                tokio::spawn(end.clone().run_until_cancelled_owned(hear(told, first)));
            }
            end.drop_guard()
        });
    }
}

impl<V: Value> First<V> {
    fn new(bytes_max: usize, counted: Arc<Counted>) -> Self {
        let evicted = Arc::clone(&counted);
        let entries = sync::Cache::builder()
            .max_capacity(bytes_max as u64)
            .weigher(|_, kept: &Kept<V>| kept.bytes)
            .eviction_policy(EvictionPolicy::tiny_lfu())
            .expire_after(Life)
            .eviction_listener(move |_, _, cause| {
                if matches!(cause, RemovalCause::Size | RemovalCause::Expired) {
                    evicted.evictions.fetch_add(1, Ordering::Relaxed);
                }
            })
            .build();
        let slots = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        Self { entries, slots, counted }
    }

    fn slot(&self, digest: &Digest) -> &AtomicU64 {
        // A hash: any of its bits are as good as others.
        let slot = usize::from(digest[0]) | usize::from(digest[1]) << 8;
        &self.slots[slot % SLOTS]
    }

    fn keep(&self, digest: &Digest, entry: Entry<V>, life: Duration) {
        let bytes = u32::try_from(entry.value.weight().saturating_add(ENTRY_BYTES)).unwrap_or(u32::MAX);
        self.entries.insert(*digest, Kept { entry, life, bytes });
    }

    /// Keeps what was read from the second layer when the slot stood at `seen`.
    fn fill(&self, digest: &Digest, entry: &Entry<V>, now: Timestamp, seen: u64) {
        let slot = self.slot(digest);
        if slot.load(Ordering::SeqCst) != seen {
            return;
        }
        self.keep(digest, entry.clone(), life(entry, now));
        if slot.load(Ordering::SeqCst) != seen {
            self.entries.invalidate(digest);
        }
    }

    /// Something changed in the second layer.
    fn drop_told(&self, told: &Invalidation) {
        match told {
            Invalidation::Entry(digest) => {
                self.slot(digest).fetch_add(1, Ordering::SeqCst);
                self.counted.invalidations.fetch_add(1, Ordering::Relaxed);
                self.entries.invalidate(digest);
            }
            Invalidation::Everything => {
                for slot in &self.slots {
                    slot.fetch_add(1, Ordering::SeqCst);
                }
                // All of it came from there or went there. One by one: what is put meanwhile is put anew.
                for (digest, _) in &self.entries {
                    self.counted.invalidations.fetch_add(1, Ordering::Relaxed);
                    self.entries.invalidate(&*digest);
                }
            }
        }
    }
}

/// How long `entry` is still good.
fn life<V>(entry: &Entry<V>, now: Timestamp) -> Duration {
    Duration::try_from(entry.expires.duration_since(now)).unwrap_or_default()
}

/// Drops what the second layer tells of.
async fn hear<V: Value>(mut told: Receiver<Invalidation>, first: Arc<First<V>>) {
    loop {
        match told.recv().await {
            Ok(told) => first.drop_told(&told),
            Err(RecvError::Lagged(_)) => first.drop_told(&Invalidation::Everything),
            Err(RecvError::Closed) => return first.drop_told(&Invalidation::Everything),
        }
    }
}

/// Until something is told that concerns `digest`; whether it is about the entry alone, and not that everything is in
/// doubt.
async fn about(told: &mut Receiver<Invalidation>, digest: &Digest) -> bool {
    loop {
        match told.recv().await {
            Ok(Invalidation::Entry(other)) if other != *digest => {}
            Ok(Invalidation::Everything) => return false,
            Ok(Invalidation::Entry(_)) | Err(RecvError::Lagged(_)) => return true,
            // Nothing will be told any more: the wait goes on by looking.
            Err(RecvError::Closed) => std::future::pending().await,
        }
    }
}
