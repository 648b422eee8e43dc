//! Many calls at once, timed, and what their times say.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::scenario::{Distribution, Seen};

/// Numbers that look random and are the same for the same seed (SplitMix64).
#[derive(Clone, Copy, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Of a run's seed, and of one of its workers.
    #[must_use]
    pub const fn new(seed: u64, worker: u64) -> Self {
        Self(seed ^ worker.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The next one, below `sides`.
    pub const fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % if sides == 0 { 1 } else { sides }
    }

    /// The next one, from 0 up to 1.
    pub const fn share(&mut self) -> f64 {
        self.roll(1 << 53) as f64 / (1_u64 << 53) as f64
    }
}

/// Times of calls, by kind, and what failed.
#[derive(Default)]
pub struct Recorder {
    state: Mutex<State>,
    failed: AtomicU64,
}

#[derive(Default)]
struct State {
    begun: Option<Instant>,
    kinds: Vec<Distribution>,
    /// The first few of what failed, in words.
    failures: Vec<String>,
}

/// Failures that are kept in words.
const FAILURES_MAX: usize = 8;

impl Recorder {
    /// One whose clock begins now.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let recorder = Self::default();
        recorder.state().begun = Some(Instant::now());
        Arc::new(recorder)
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a call of `kind` that went well, begun then.
    pub fn well(&self, kind: &str, begun: Instant) {
        let took = begun.elapsed();
        let mut state = self.state();
        let at = begun.saturating_duration_since(state.begun.unwrap_or(begun));
        match state.kinds.iter_mut().find(|known| known.name == kind) {
            Some(known) => known.calls.push((at, took)),
            None => state.kinds.push(Distribution { name: kind.to_owned(), calls: vec![(at, took)] }),
        }
    }

    /// Notes a call that failed.
    pub fn failed(&self, why: &dyn std::fmt::Display) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state();
        if state.failures.len() < FAILURES_MAX {
            state.failures.push(why.to_string());
        }
    }

    /// How many went well.
    #[must_use]
    pub fn well_count(&self) -> u64 {
        self.state().kinds.iter().map(|kind| kind.calls.len() as u64).sum()
    }

    /// How many failed.
    #[must_use]
    pub fn failed_count(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// The share that went well, in per cent; 0 where nothing was called.
    #[must_use]
    pub fn success(&self) -> f64 {
        let (well, failed) = (self.well_count() as f64, self.failed_count() as f64);
        if well + failed == 0.0 { 0.0 } else { 100.0 * well / (well + failed) }
    }

    /// All times of all kinds, or of one, shortest first.
    #[must_use]
    pub fn times(&self, kind: Option<&str>) -> Vec<Duration> {
        let state = self.state();
        let kinds = state.kinds.iter().filter(|known| kind.is_none_or(|kind| known.name == kind));
        let mut times: Vec<Duration> =
            kinds.flat_map(|kind| kind.calls.iter().map(|(_, took)| *took)).collect();
        times.sort_unstable();
        times
    }

    /// Hands everything to the scenario: distributions, and the first failures in words.
    pub fn tell(&self, seen: &mut Seen) {
        let mut state = self.state();
        seen.distributions.append(&mut state.kinds);
        for failure in state.failures.drain(..) {
            seen.note(format!("a call failed: {failure}"));
        }
    }
}

/// The value below which `of` per cent of the sorted `times` lie, in milliseconds; not a number where there are none.
#[must_use]
pub fn percentile(times: &[Duration], of: f64) -> f64 {
    if times.is_empty() {
        return f64::NAN;
    }
    let place = (times.len() as f64 * of / 100.0).ceil() as usize;
    ms(times[place.clamp(1, times.len()) - 1])
}

/// Their mean, in milliseconds; not a number where there are none.
#[must_use]
pub fn mean(times: &[Duration]) -> f64 {
    if times.is_empty() { f64::NAN } else { ms(times.iter().sum::<Duration>()) / times.len() as f64 }
}

/// In milliseconds.
#[must_use]
pub const fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Runs `work` for each number below `workers` at the same time, and gives what each gave. A worker that panics counts as
/// one that gave nothing.
pub async fn workers<T, F, W>(workers: usize, work: W) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
    W: Fn(usize) -> F,
{
    let mut running = tokio::task::JoinSet::new();
    for number in 0..workers {
        running.spawn(work(number));
    }
    let mut given = Vec::with_capacity(workers);
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok(value) => given.push(value),
            Err(error) => tracing::error!(%error, "a worker of the run ended unexpectedly"),
        }
    }
    given
}
