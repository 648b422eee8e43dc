//! How far something is, on stderr.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

/// Between two lines that replace each other.
const ON_TERMINAL: Duration = Duration::from_millis(100);
/// Between two lines of a log.
const IN_LOG: Duration = Duration::from_secs(1);

/// A line that is renewed on a terminal; lines now and then elsewhere, where they were asked for.
pub(super) struct Progress {
    shown: bool,
    terminal: bool,
    last: Option<Instant>,
}

impl Progress {
    /// Shown on a terminal, and wherever it is `wanted`.
    pub(super) fn new(wanted: bool) -> Self {
        let terminal = io::stderr().is_terminal();
        Self { shown: terminal || wanted, terminal, last: None }
    }

    /// Tells how far it is, unless it told so a moment ago.
    pub(super) fn tell(&mut self, text: impl FnOnce() -> String) {
        let pause = if self.terminal { ON_TERMINAL } else { IN_LOG };
        if !self.shown || self.last.is_some_and(|last| last.elapsed() < pause) {
            return;
        }
        self.last = Some(Instant::now());
        self.write(&text());
    }

    /// Tells the last state, whenever it told something before; on a terminal the line goes, for the answer to take its place.
    pub(super) fn end(&mut self, text: impl FnOnce() -> String) {
        if self.shown && !self.terminal {
            self.write(&text());
        }
        self.clear();
    }

    /// Whether a person watches it.
    pub(super) const fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Tells something that stays, above the line that is renewed.
    pub(super) fn stay(&mut self, text: &str) {
        self.clear();
        super::output::tell(text);
    }

    /// Takes the line from the terminal.
    pub(super) fn clear(&mut self) {
        if self.terminal && self.last.take().is_some() {
            self.write("");
        }
    }

    /// Whatever goes wrong on stderr cannot be told anywhere.
    fn write(&self, text: &str) {
        let text = super::output::clean(text);
        let mut stderr = io::stderr().lock();
        let _ = if self.terminal { write!(stderr, "\r\u{1b}[K{text}") } else { writeln!(stderr, "{text}") };
        let _ = stderr.flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}
