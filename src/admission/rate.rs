//! How often somebody may call: a bucket each, by the cell rate algorithm.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed},
};

/// So many buckets are kept before those that are full again are looked for.
const SWEEP_MIN: usize = 256;
/// Most buckets. Connections and tokens are bounded far below; what calls beyond is told to come again.
const BUCKETS_MAX: usize = 1 << 17;

struct Bucket<C: Clock> {
    limiter: RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<C::Instant>>,
    /// When it was last used, in milliseconds since the beginning.
    used_ms: AtomicU64,
}

struct Buckets<C: Clock> {
    by_key: HashMap<u64, Bucket<C>>,
    sweep_at: usize,
}

/// The buckets of everybody.
pub(super) struct Rates<C: Clock = DefaultClock> {
    quota: Quota,
    clock: C,
    begun: Instant,
    /// Unused for so long, a bucket is full again and as good as a new one.
    full_after: Duration,
    buckets: RwLock<Buckets<C>>,
}

impl<C: Clock + Clone> Rates<C> {
    /// `per_second` calls, and `burst` at once before that counts. `None` where there is no limit.
    pub(super) fn new(per_second: usize, burst: usize, clock: C) -> Option<Self> {
        let number = |count: usize| NonZeroU32::new(u32::try_from(count).unwrap_or(u32::MAX));
        let quota = Quota::per_second(number(per_second)?).allow_burst(number(burst.max(1))?);
        Some(Self {
            quota,
            clock,
            begun: Instant::now(),
            full_after: quota.burst_size_replenished_in() + Duration::from_secs(1),
            buckets: RwLock::new(Buckets { by_key: HashMap::new(), sweep_at: SWEEP_MIN }),
        })
    }

    /// Counts one call of whoever `key` stands for.
    ///
    /// # Errors
    /// Too soon: worth trying again after so long.
    pub(super) fn check(&self, key: u64, now: Instant) -> Result<(), Duration> {
        let now_ms = now.saturating_duration_since(self.begun).as_millis() as u64;
        {
            let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(bucket) = buckets.by_key.get(&key) {
                return self.take(bucket, now_ms);
            }
        }
        let mut buckets = self.buckets.write().unwrap_or_else(PoisonError::into_inner);
        if buckets.by_key.len() >= buckets.sweep_at {
            let full_ms = self.full_after.as_millis() as u64;
            buckets
                .by_key
                .retain(|_, bucket| now_ms.saturating_sub(bucket.used_ms.load(Ordering::Relaxed)) < full_ms);
            buckets.by_key.shrink_to(SWEEP_MIN);
            buckets.sweep_at = SWEEP_MIN.max(2 * buckets.by_key.len()).min(BUCKETS_MAX);
            if buckets.by_key.len() >= BUCKETS_MAX {
                return Err(self.full_after);
            }
        }
        let bucket = buckets.by_key.entry(key).or_insert_with(|| Bucket {
            limiter: RateLimiter::direct_with_clock(self.quota, self.clock.clone()),
            used_ms: AtomicU64::new(now_ms),
        });
        self.take(bucket, now_ms)
    }

    fn take(&self, bucket: &Bucket<C>, now_ms: u64) -> Result<(), Duration> {
        bucket.used_ms.store(now_ms, Ordering::Relaxed);
        bucket.limiter.check().map_err(|not_until| not_until.wait_time_from(self.clock.now()))
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.buckets.read().unwrap().by_key.len()
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    #[test]
    fn a_burst_passes_then_the_rate_counts_and_each_has_its_own() {
        let clock = FakeRelativeClock::default();
        let rates = Rates::new(10, 3, clock.clone()).unwrap();
        let now = Instant::now();
        for _ in 0..3 {
            assert_eq!(rates.check(1, now), Ok(()));
        }
        let pause = rates.check(1, now).unwrap_err();
        assert!(pause > Duration::ZERO && pause <= Duration::from_millis(100), "{pause:?}");
        assert_eq!(rates.check(2, now), Ok(()), "another's calls do not count");
        clock.advance(pause);
        assert_eq!(rates.check(1, now), Ok(()));
        assert!(rates.check(1, now).is_err());
    }

    #[test]
    fn zero_is_no_limit() {
        assert!(Rates::new(0, 200, FakeRelativeClock::default()).is_none());
    }

    #[test]
    fn buckets_of_those_who_have_gone_are_dropped() {
        let rates = Rates::new(100, 200, FakeRelativeClock::default()).unwrap();
        let mut now = Instant::now();
        for key in 0..10_000 {
            rates.check(key, now).unwrap();
            // A hundred newcomers a second, none of whom comes again.
            now += Duration::from_millis(10);
        }
        assert!(rates.len() <= 2 * SWEEP_MIN.max(400), "{}", rates.len());
    }
}
