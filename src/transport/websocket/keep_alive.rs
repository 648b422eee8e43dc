//! When a quiet connection is pinged, and when it is given up.

use std::time::{Duration, Instant};

/// What is to be done about a quiet peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quiet {
    /// It was heard of, or pinged, recently enough.
    Bearable,
    /// It is to be pinged.
    Ping,
    /// It has been silent for too long, pongs included.
    TooLong,
}

/// Watches how long a peer has been silent. Time is an argument.
#[derive(Clone, Copy, Debug)]
pub struct KeepAlive {
    ping_interval: Duration,
    idle_timeout: Duration,
    heard: Instant,
    pinged: Instant,
}

impl KeepAlive {
    /// A peer that was heard of just now.
    #[must_use]
    pub const fn new(ping_interval: Duration, idle_timeout: Duration, now: Instant) -> Self {
        Self { ping_interval, idle_timeout, heard: now, pinged: now }
    }

    /// Bytes have come.
    pub const fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// When to ask [`KeepAlive::check`] next.
    #[must_use]
    pub fn due(&self) -> Instant {
        (self.heard.max(self.pinged) + self.ping_interval).min(self.heard + self.idle_timeout)
    }

    /// What is to be done now. A ping that is asked for counts as sent.
    pub fn check(&mut self, now: Instant) -> Quiet {
        if self.heard + self.idle_timeout <= now {
            Quiet::TooLong
        } else if self.heard.max(self.pinged) + self.ping_interval <= now {
            self.pinged = now;
            Quiet::Ping
        } else {
            Quiet::Bearable
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_peer_is_pinged_at_intervals_and_given_up_in_the_end() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut quiet = KeepAlive::new(Duration::from_secs(30), Duration::from_secs(100), start);
        let expected = [
            (29, Quiet::Bearable, 30),
            (30, Quiet::Ping, 60),
            (59, Quiet::Bearable, 60),
            (60, Quiet::Ping, 90),
            (95, Quiet::Ping, 100),
            (100, Quiet::TooLong, 100),
        ];
        for (second, what, due) in expected {
            assert_eq!(quiet.check(at(second)), what, "at {second} s");
            assert_eq!(quiet.due(), at(due), "at {second} s");
        }
        quiet.heard(at(100));
        assert_eq!(quiet.check(at(101)), Quiet::Bearable);
        assert_eq!(quiet.due(), at(130));
    }
}
