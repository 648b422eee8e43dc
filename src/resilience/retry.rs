//! Asking again, where that is safe: only what reads, only where the backend failed at once, a few times, after pauses that
//! differ from caller to caller, and never beyond the caller's time.

use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use hyper::{HeaderMap, header::RETRY_AFTER};
use jiff::Timestamp;

use super::Guard;

/// Times that something is asked again.
const RETRIES_MAX: usize = 2;
/// The first pause is at least this and at most twice as long; each further one twice that, up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(25);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// After how long a server wants to be asked again, where it says so: `Retry-After`, in seconds or as a date. It may be any
/// length.
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = text.parse().ok().or_else(|| {
        let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
        Some(u64::try_from(date.as_second() - now.as_second()).unwrap_or(0))
    });
    seconds.map(Duration::from_secs)
}

/// The pauses before one question is asked again.
#[derive(Debug)]
pub struct Pauses(Option<ExponentialBackoff>);

impl Pauses {
    /// For what only reads.
    #[must_use]
    pub fn of_a_read() -> Self {
        let pauses = ExponentialBuilder::default()
            .with_jitter()
            .with_min_delay(PAUSE_MIN)
            .with_max_delay(PAUSE_MAX)
            .with_max_times(RETRIES_MAX);
        Self(Some(pauses.build()))
    }

    /// For what must not be asked again.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    /// Waits before the question is asked again, at least `at_least`, and counts it. `false`, at once: it is not to be, since
    /// it was asked often enough or `deadline` comes first.
    pub async fn wait(&mut self, guard: &Guard, at_least: Duration, deadline: Instant) -> bool {
        let Some(pause) = self.0.as_mut().and_then(Iterator::next) else { return false };
        let pause = pause.max(at_least);
        // Whoever asks for it may ask for any.
        if pause >= deadline.saturating_duration_since(Instant::now()) {
            return false;
        }
        tokio::time::sleep(pause).await;
        guard.count_retry();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resilience::{Backend, BackendKind};

    #[tokio::test]
    async fn what_reads_is_asked_again_twice_within_its_time() {
        let kind = BackendKind::Host;
        let guard = Guard::new(Backend { kind, name: "h".into() }, kind.settings());
        let now = Instant::now();
        let (soon, later) = (now + PAUSE_MIN, now + Duration::from_mins(1));
        let tries = [
            (Pauses::of_a_read(), Duration::ZERO, later, 2),
            (Pauses::of_a_read(), Duration::from_millis(30), later, 2),
            (Pauses::of_a_read(), Duration::from_mins(2), later, 0),
            (Pauses::of_a_read(), Duration::ZERO, soon, 0),
            (Pauses::of_a_read(), Duration::from_secs(u64::MAX), later, 0),
            (Pauses::none(), Duration::ZERO, later, 0),
        ];
        let mut told = 0;
        for (mut pauses, at_least, deadline, most) in tries {
            let mut waits = 0;
            while pauses.wait(&guard, at_least, deadline).await {
                waits += 1;
            }
            assert_eq!(waits, most, "{at_least:?}");
            told += most;
        }
        assert_eq!(guard.standing(now).retries, told);
    }

    #[test]
    fn when_to_ask_again_is_said_in_seconds_or_as_a_date() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("7", Some(7)),
            (" 0 ", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("Sun, 01 Mar 2026 12:00:09 GMT", Some(9)),
            ("Sun, 01 Mar 2026 11:00:00 GMT", Some(0)),
            ("18446744073709551616", None),
            ("-1", None),
            ("1.5", None),
            ("", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
