//! How many tokens the provider may cost in an hour and in a day of UTC.
//!
//! Tokens are set aside before a completion and settled by what the provider reports. Counted by this process, since it
//! started.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// Most tokens in each period; zero is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenLimits {
    /// An hour.
    pub hour: u64,
    /// A day.
    pub day: u64,
}

/// What was spent.
#[derive(Debug)]
pub(super) struct Budget {
    limits: TokenLimits,
    spent: Mutex<[Period; 2]>,
}

/// One period: which, and what was spent in it.
#[derive(Clone, Copy, Debug, Default)]
struct Period {
    number: i64,
    tokens: u64,
}

/// Nothing is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exhausted {
    /// The setting that says so.
    pub(super) setting: &'static str,
    /// Until the next period.
    pub(super) retry_after: Duration,
}

/// Tokens set aside. Dropped unsettled, they count as spent: what a call that was given up has cost is not known.
#[derive(Debug)]
pub(super) struct Reserved<'a> {
    budget: &'a Budget,
    tokens: u64,
    numbers: [i64; 2],
}

impl Budget {
    pub(super) fn new(limits: TokenLimits) -> Self {
        Self { limits, spent: Mutex::default() }
    }

    fn spent(&self) -> MutexGuard<'_, [Period; 2]> {
        self.spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets `tokens` aside.
    ///
    /// # Errors
    /// [`Exhausted`] where a period has not so many left.
    pub(super) fn reserve(&self, tokens: u64, now: Timestamp) -> Result<Reserved<'_>, Exhausted> {
        let second = now.as_second();
        let rows =
            [("llm.tokens_per_hour", HOUR, self.limits.hour), ("llm.tokens_per_day", DAY, self.limits.day)];
        let numbers = rows.map(|(_, length, _)| second.div_euclid(length));
        let mut spent = self.spent();
        for ((period, number), (setting, length, limit)) in spent.iter_mut().zip(numbers).zip(rows) {
            if period.number != number {
                *period = Period { number, tokens: 0 };
            }
            if limit > 0 && period.tokens.saturating_add(tokens) > limit {
                let left = length - second.rem_euclid(length);
                let retry_after = Duration::from_secs(u64::try_from(left).unwrap_or(0));
                return Err(Exhausted { setting, retry_after });
            }
        }
        for period in spent.iter_mut() {
            period.tokens = period.tokens.saturating_add(tokens);
        }
        Ok(Reserved { budget: self, tokens, numbers })
    }
}

impl Reserved<'_> {
    /// What it really cost, in the periods in which it was set aside.
    pub(super) fn settle(self, tokens: u64) {
        let mut spent = self.budget.spent();
        for (period, number) in spent.iter_mut().zip(self.numbers) {
            if period.number == number {
                period.tokens = period.tokens.saturating_sub(self.tokens).saturating_add(tokens);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn an_hour_and_a_day_are_kept_and_begin_anew() {
        let budget = Budget::new(TokenLimits { hour: 100, day: 150 });
        let first = at("2026-03-01T12:10:00Z");
        budget.reserve(80, first).unwrap().settle(60);
        let refused = budget.reserve(50, first).unwrap_err();
        assert_eq!(refused.setting, "llm.tokens_per_hour");
        assert_eq!(refused.retry_after, Duration::from_mins(50));
        budget.reserve(40, first).unwrap().settle(40);
        let next = at("2026-03-01T13:00:00Z");
        let refused = budget.reserve(60, next).unwrap_err();
        assert_eq!(refused.setting, "llm.tokens_per_day");
        assert_eq!(refused.retry_after, Duration::from_hours(11));
        let _given_up = budget.reserve(50, next).unwrap();
        assert!(budget.reserve(1, next).is_err(), "what was given up counts");
        assert!(budget.reserve(100, at("2026-03-02T00:00:00Z")).is_ok());
    }

    #[test]
    fn zero_is_no_limit() {
        let budget = Budget::new(TokenLimits { hour: 0, day: 0 });
        assert!(budget.reserve(u64::MAX, at("2026-03-01T12:10:00Z")).is_ok());
    }
}
