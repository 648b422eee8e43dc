//! A circuit breaker: after so many failures in a row nothing is tried for a while, then one try decides.
//!
//! Closed: all may try. Open: nobody may, until the pause is over. Half open: one may, the probe; its success closes the
//! breaker, its failure opens it again, and a probe that is given up leaves the next one to try.
//!
//! Time is an argument, so that a test needs no clock.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// A breaker that nobody has asked for so long after it would let one try is not told of as trouble any more.
pub(super) const TOLD_FOR: Duration = Duration::from_mins(5);

/// When it opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Failures in a row that open it; at least one.
    pub failures: u32,
    /// How long it stays open.
    pub pause: Duration,
}

/// A breaker in front of one backend. Shared by all who use that.
#[derive(Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    state: Mutex<State>,
    failures: AtomicU64,
    opened: AtomicU64,
    refused: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Failures in a row.
    Closed(u32),
    Open(Instant),
    /// Whether somebody tries.
    HalfOpen(bool),
}

/// What a breaker has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BreakerCounts {
    /// Tries that failed.
    pub failures: u64,
    /// Times that it opened, a failed probe included.
    pub opened: u64,
    /// Those who were not let through.
    pub refused: u64,
}

/// What the breaker is doing, for figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// All may try.
    Closed,
    /// Nobody may.
    Open,
    /// One may.
    HalfOpen,
}

impl BreakerState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// Nobody may try now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Worth asking again after so long; while a probe is out, a guess.
    pub retry_after: Duration,
}

/// The leave to try once. To be told how it went; dropped untold (the caller gave up), it counts as nothing.
#[derive(Debug)]
#[must_use = "a permit that is not told how it went counts as nothing"]
pub struct Permit<'a> {
    breaker: &'a Breaker,
    is_probe: bool,
    is_told: bool,
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub const fn new(settings: BreakerSettings) -> Self {
        Self {
            settings,
            state: Mutex::new(State::Closed(0)),
            failures: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    /// Asks to try once.
    ///
    /// # Errors
    /// [`Refused`] while it is open, or half open with a probe out.
    pub fn admit(&self, now: Instant) -> Result<Permit<'_>, Refused> {
        let mut state = self.state();
        if let Some(retry_after) = self.wait(*state, now) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Refused { retry_after });
        }
        let is_probe = !matches!(*state, State::Closed(_));
        if is_probe {
            *state = State::HalfOpen(true);
        }
        Ok(Permit { breaker: self, is_probe, is_told: false })
    }

    /// How long nobody may try, where [`Breaker::admit`] would refuse at `now`. Takes no turn, and counts nothing.
    #[must_use]
    pub fn shut(&self, now: Instant) -> Option<Duration> {
        let state = *self.state();
        self.wait(state, now)
    }

    fn wait(&self, state: State, now: Instant) -> Option<Duration> {
        match state {
            State::Open(until) if now < until => Some(until - now),
            State::HalfOpen(true) => Some(self.settings.pause),
            State::Closed(_) | State::Open(_) | State::HalfOpen(false) => None,
        }
    }

    /// Somebody was turned away without having asked here.
    pub(super) fn count_refusal(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// What it has counted.
    #[must_use]
    pub fn counts(&self) -> BreakerCounts {
        BreakerCounts {
            failures: self.failures.load(Ordering::Relaxed),
            opened: self.opened.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Whether what it stands before is in trouble at `now`: it is not closed, and somebody cared lately.
    #[must_use]
    pub fn is_ailing(&self, now: Instant) -> bool {
        match *self.state() {
            State::Closed(_) => false,
            State::Open(until) => now < until + TOLD_FOR,
            State::HalfOpen(_) => true,
        }
    }

    /// What it is doing at `now`.
    #[must_use]
    pub fn now(&self, now: Instant) -> BreakerState {
        match *self.state() {
            State::Closed(_) => BreakerState::Closed,
            State::Open(until) if now < until => BreakerState::Open,
            State::Open(_) | State::HalfOpen(_) => BreakerState::HalfOpen,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit<'_> {
    /// Whether it is the one try that decides.
    #[must_use]
    pub const fn is_probe(&self) -> bool {
        self.is_probe
    }

    /// The backend works.
    pub fn succeed(mut self) {
        self.is_told = true;
        let mut state = self.breaker.state();
        // What began before the breaker opened says nothing about the time since.
        if self.is_probe || matches!(*state, State::Closed(_)) {
            *state = State::Closed(0);
        }
    }

    /// The backend failed at `now`. `pause`: how long it asked to be left alone, where it did; then the breaker opens at
    /// once. Whether it opened by this.
    pub fn fail(mut self, now: Instant, pause: Option<Duration>) -> bool {
        self.is_told = true;
        let Breaker { settings, failures, opened, .. } = self.breaker;
        failures.fetch_add(1, Ordering::Relaxed);
        let mut state = self.breaker.state();
        let opens = match (*state, pause) {
            (State::Closed(before), None) => before + 1 >= settings.failures,
            (State::Closed(_), Some(_)) => true,
            // What began before the breaker opened says nothing new.
            _ => self.is_probe,
        };
        if opens {
            opened.fetch_add(1, Ordering::Relaxed);
            *state = State::Open(now + pause.unwrap_or_default().max(settings.pause));
        } else if let State::Closed(before) = &mut *state {
            *before += 1;
        }
        opens
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if self.is_probe && !self.is_told {
            *self.breaker.state() = State::HalfOpen(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(10);

    fn breaker() -> (Breaker, Instant) {
        (Breaker::new(BreakerSettings { failures: 3, pause: PAUSE }), Instant::now())
    }

    fn fail(breaker: &Breaker, now: Instant) {
        breaker.admit(now).unwrap().fail(now, None);
    }

    #[test]
    fn failures_in_a_row_open_it_and_a_success_between_does_not() {
        let (breaker, now) = breaker();
        for _ in 0..2 {
            fail(&breaker, now);
            fail(&breaker, now);
            breaker.admit(now).unwrap().succeed();
        }
        assert_eq!(breaker.now(now), BreakerState::Closed);
        for _ in 0..3 {
            fail(&breaker, now);
        }
        assert_eq!(breaker.now(now), BreakerState::Open);
        let later = now + Duration::from_secs(4);
        assert_eq!(breaker.admit(later).unwrap_err().retry_after, Duration::from_secs(6));
        assert_eq!(breaker.counts(), BreakerCounts { failures: 7, opened: 1, refused: 1 });
    }

    #[test]
    fn trouble_that_nobody_looks_at_any_more_is_not_told_of() {
        let (breaker, now) = breaker();
        assert!(!breaker.is_ailing(now));
        (0..3).for_each(|_| fail(&breaker, now));
        for (after, ails) in [(Duration::ZERO, true), (PAUSE * 2, true), (PAUSE + TOLD_FOR, false)] {
            assert_eq!(breaker.is_ailing(now + after), ails, "{after:?}");
        }
    }

    #[test]
    fn one_probe_decides() {
        let (breaker, now) = breaker();
        for _ in 0..3 {
            fail(&breaker, now);
        }
        let later = now + PAUSE;
        let probe = breaker.admit(later).unwrap();
        assert!(breaker.admit(later).is_err(), "a second one waits for the probe");
        probe.fail(later, None);
        assert_eq!(breaker.now(later), BreakerState::Open);
        let again = later + PAUSE;
        breaker.admit(again).unwrap().succeed();
        assert_eq!(breaker.now(again), BreakerState::Closed);
        let (first, second) = (breaker.admit(again).unwrap(), breaker.admit(again).unwrap());
        first.succeed();
        second.succeed();
    }

    #[test]
    fn a_probe_that_is_given_up_leaves_the_next_one_to_try() {
        let (breaker, now) = breaker();
        for _ in 0..3 {
            fail(&breaker, now);
        }
        let later = now + PAUSE;
        drop(breaker.admit(later).unwrap());
        breaker.admit(later).unwrap().succeed();
        assert_eq!(breaker.now(later), BreakerState::Closed);
    }

    #[test]
    fn a_backend_that_asks_for_a_pause_gets_it_at_once() {
        let (breaker, now) = breaker();
        breaker.admit(now).unwrap().fail(now, Some(Duration::from_mins(1)));
        assert_eq!(breaker.admit(now).unwrap_err().retry_after, Duration::from_mins(1));
    }

    #[test]
    fn what_began_before_it_opened_changes_nothing() {
        let (breaker, now) = breaker();
        let (early, other) = (breaker.admit(now).unwrap(), breaker.admit(now).unwrap());
        for _ in 0..3 {
            fail(&breaker, now);
        }
        early.succeed();
        other.fail(now + PAUSE / 2, None);
        assert_eq!(breaker.now(now + PAUSE / 2), BreakerState::Open);
        assert_eq!(breaker.now(now + PAUSE), BreakerState::HalfOpen);
    }
}
