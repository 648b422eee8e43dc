//! A circuit breaker: after so many failures in a row nothing is tried for a while, then one try decides.
//!
//! Closed: all may try. Open: nobody may, until the pause is over. Half open: one may, the probe; its success closes the
//! breaker, its failure opens it again, and a probe that is given up leaves the next one to try.
//!
//! Time is an argument, so that a test needs no clock.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

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
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Failures in a row.
    Closed(u32),
    Open(Instant),
    /// Whether somebody tries.
    HalfOpen(bool),
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
        Self { settings, state: Mutex::new(State::Closed(0)) }
    }

    /// Asks to try once.
    ///
    /// # Errors
    /// [`Refused`] while it is open, or half open with a probe out.
    pub fn admit(&self, now: Instant) -> Result<Permit<'_>, Refused> {
        let mut state = self.state();
        let is_probe = match *state {
            State::Closed(_) => false,
            State::Open(until) if now < until => return Err(Refused { retry_after: until - now }),
            State::Open(_) | State::HalfOpen(false) => {
                *state = State::HalfOpen(true);
                true
            }
            State::HalfOpen(true) => return Err(Refused { retry_after: self.settings.pause }),
        };
        Ok(Permit { breaker: self, is_probe, is_told: false })
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
    /// once.
    pub fn fail(mut self, now: Instant, pause: Option<Duration>) {
        self.is_told = true;
        let settings = self.breaker.settings;
        let mut state = self.breaker.state();
        let opened = State::Open(now + pause.unwrap_or_default().max(settings.pause));
        *state = match (*state, pause) {
            (State::Closed(failures), None) if failures + 1 < settings.failures => {
                State::Closed(failures + 1)
            }
            (State::Closed(_), _) => opened,
            _ if self.is_probe => opened,
            (state, _) => state,
        };
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
