//! A connection's share of the machine: while others work, too, only so many of its calls are begun at once as there are
//! processors.
//!
//! A server that is asked for more than it can do does all of it slowly. Whoever has 60 calls open would have 60 shares of
//! it, and who has one call a single share. So the calls of one connection that are more than a processor each wait
//! for one another, in the order in which they came, and the one call of another finds the machine nearly free.
//!
//! Nobody waits where nobody else works. And nobody waits long: a call has its place for [`HELD_MAX`] at most. One that
//! takes longer waits for something outside, as a rule, and does not hold up the others of its connection.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::timeout_at};

use crate::processors;

/// Longest that a call has its place.
const HELD_MAX: Duration = Duration::from_millis(50);
/// A connection works while its last call came no longer ago.
const RECENT: Duration = Duration::from_secs(1);
/// Lanes beyond which those that nobody is in are forgotten.
const LANES_MAX: usize = 256;

/// The lanes: one for the calls of each connection.
pub(super) struct Shares {
    places: usize,
    waiting_max: usize,
    waiting: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lanes: HashMap<u64, Arc<Lane>>,
    /// The lane of the last call, and the last other one, with when that was.
    last: [Option<(u64, Instant)>; 2],
}

/// The calls of one connection.
#[derive(Default)]
struct Lane {
    /// Held by the one that is begun next; the others stand behind it.
    next: tokio::sync::Mutex<()>,
    held: Mutex<Held>,
    /// A place was given back.
    freed: Notify,
    waiting: AtomicUsize,
}

/// The places that are taken, by their numbers, and since when: the oldest first.
#[derive(Default)]
struct Held {
    since: Vec<(u64, Instant)>,
    next: u64,
}

/// A place, given back by dropping it.
#[must_use = "the place is given back when this is dropped"]
pub(super) struct Share {
    lane: Arc<Lane>,
    number: u64,
}

/// A call that waits, counted until it is dropped.
pub(super) struct Waiting<'a> {
    shares: &'a Shares,
    number: u64,
    lane: Arc<Lane>,
}

impl Shares {
    /// One place a processor for each lane; in each at most `waiting_max` wait.
    pub(super) fn new(waiting_max: usize) -> Self {
        Self::of(processors::lane(), waiting_max)
    }

    fn of(places: usize, waiting_max: usize) -> Self {
        Self { places, waiting_max, waiting: AtomicUsize::new(0), state: Mutex::default() }
    }

    /// A share for a call of the lane `number` that comes at `now`, unless it has to wait.
    pub(super) fn try_enter(&self, number: u64, now: Instant) -> Option<Share> {
        let (lane, is_alone) = {
            let mut state = self.state();
            state.note(number, now);
            (state.lane(number), state.is_alone(number, now))
        };
        let places = if is_alone {
            usize::MAX
        } else {
            // Whoever stands in the line goes first.
            let _next = lane.next.try_lock().ok()?;
            self.places
        };
        lane.take(places, now).ok()
    }

    /// A call of the lane `number` is about to wait, for its share or for what comes after it. `None`: too many do.
    pub(super) fn wait(&self, number: u64) -> Option<Waiting<'_>> {
        let lane = self.state().lane(number);
        // Counted first: of several that come at the same time no more are let in.
        let before = lane.waiting.fetch_add(1, Ordering::Relaxed);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting { shares: self, number, lane };
        (before < self.waiting_max).then_some(waiting)
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting<'_> {
    /// Waits for the calls of the lane that came before, and for a place.
    pub(super) async fn share(&self) -> Share {
        let Self { shares, number, lane } = self;
        let _next = lane.next.lock().await;
        loop {
            let now = Instant::now();
            let is_alone = shares.state().is_alone(*number, now);
            match lane.take(if is_alone { usize::MAX } else { shares.places }, now) {
                Ok(share) => return share,
                // Whether told or not, it looks again.
                Err(free_at) => drop(timeout_at(free_at.into(), lane.freed.notified()).await),
            }
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.lane.waiting.fetch_sub(1, Ordering::Relaxed);
        self.shares.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl State {
    fn note(&mut self, lane: u64, now: Instant) {
        if self.last[0].is_none_or(|(last, _)| last != lane) {
            self.last[1] = self.last[0];
        }
        self.last[0] = Some((lane, now));
    }

    /// Whether no other lane than `lane` had a call of late.
    fn is_alone(&self, lane: u64, now: Instant) -> bool {
        let is_other_at_work = |last: &Option<(u64, Instant)>| {
            last.is_some_and(|(other, at)| other != lane && now.saturating_duration_since(at) < RECENT)
        };
        !self.last.iter().any(is_other_at_work)
    }

    fn lane(&mut self, number: u64) -> Arc<Lane> {
        if self.lanes.len() >= LANES_MAX && !self.lanes.contains_key(&number) {
            // Whose calls run or wait holds it.
            self.lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
        }
        Arc::clone(self.lanes.entry(number).or_default())
    }
}

impl Lane {
    /// One of `places`.
    ///
    /// # Errors
    /// All are taken; when one is free at the latest.
    fn take(self: &Arc<Self>, places: usize, now: Instant) -> Result<Share, Instant> {
        let mut held = self.held();
        held.since.retain(|(_, since)| now.saturating_duration_since(*since) < HELD_MAX);
        if held.since.len() >= places
            && let Some((_, oldest)) = held.since.first()
        {
            return Err(*oldest + HELD_MAX);
        }
        let number = held.next;
        held.next += 1;
        held.since.push((number, now));
        Ok(Share { lane: Arc::clone(self), number })
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.lane.held().since.retain(|(number, _)| *number != self.number);
        self.lane.freed.notify_one();
    }
}

#[cfg(test)]
#[path = "share_tests.rs"]
mod tests;
