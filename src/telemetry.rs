//! Logs: to stderr, never to stdout; constant messages with named fields; no payload above TRACE. What is logged within a
//! call says which: its connection, request, method, pattern and trace.

mod json;

use std::{
    io::{self, Write},
    os::fd::AsFd,
    str::FromStr,
};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    filter::Targets,
    layer::SubscriberExt as _,
    util::{SubscriberInitExt as _, TryInitError},
};

/// Libraries whose lines hold what was read and sent, and how far each is heard at most, whatever the filter says.
const CHATTY: &[(&str, LevelFilter)] = &[
    // Its errors quote what another server answered, which may repeat the headers that it was sent. What matters of
    // them is a `Fault` of `engine::steps::mcp`.
    ("rmcp", LevelFilter::OFF),
    ("sqlx", LevelFilter::WARN),
    ("tiktoken_rs", LevelFilter::WARN),
    ("jsonschema", LevelFilter::WARN),
];

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error("`{filter}` is no log filter; use off, error, warn, info, debug or trace, or target=level pairs")]
    Filter {
        /// As given.
        filter: String,
    },
    /// Somebody else began already.
    #[error("logging was begun twice")]
    Twice(#[source] TryInitError),
}

/// Reads a filter: a level, or `target=level` pairs separated by commas.
///
/// # Errors
/// [`TelemetryError::Filter`].
pub fn parse_filter(filter: &str) -> Result<Targets, TelemetryError> {
    let refused = || TelemetryError::Filter { filter: filter.chars().take(80).collect() };
    // The parser takes any lone word for a target; here it is a level or a slip.
    let slip = |part: &str| match part.trim() {
        "" => true,
        part => !part.contains('=') && LevelFilter::from_str(part).is_err(),
    };
    if filter.split(',').any(slip) {
        return Err(refused());
    }
    let targets = Targets::from_str(filter).map_err(|_| refused())?;
    let most = |target: &str| CHATTY.iter().find(|(name, _)| target.starts_with(name)).map(|(_, most)| *most);
    let all = targets.default_level().unwrap_or(LevelFilter::OFF);
    let own: Vec<_> = targets
        .iter()
        .map(|(target, level)| (target.to_owned(), most(target).map_or(level, |most| level.min(most))))
        .collect();
    // What the filter itself says of a library comes last, and so stays.
    let chatty = CHATTY.iter().map(|(name, most)| ((*name).to_owned(), all.min(*most)));
    Ok(chatty.chain(own).collect::<Targets>().with_default(all))
}

/// How a line is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// As a JSON object.
    Json,
}

impl LogFormat {
    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Text, Self::Json]
            .into_iter()
            .find(|format| format.as_str() == text)
            .ok_or_else(|| "a log is written as text or json".to_owned())
    }
}

/// Begins logging to stderr. No file, no thread, no network: cheap enough to come before the first frame. Lines that
/// nobody takes are dropped: a host that never reads stderr must not stop the server.
///
/// # Errors
/// See [`TelemetryError`].
pub fn start(filter: &str, format: LogFormat) -> Result<(), TelemetryError> {
    let targets = parse_filter(filter)?;
    let registry = tracing_subscriber::registry().with(targets);
    match format {
        LogFormat::Text => {
            let lines = tracing_subscriber::fmt::layer().with_writer(|| Patient).with_ansi(false);
            registry.with(lines).try_init()
        }
        LogFormat::Json => registry.with(json::Lines::new(|| Patient)).try_init(),
    }
    .map_err(TelemetryError::Twice)
}

/// Written at once: a pipe that `poll` calls writable takes so much without blocking (`PIPE_BUF`).
const AT_ONCE_BYTES: usize = 4096;

/// Stderr, as long as it takes what it is given; where it does not, what is written is lost.
struct Patient;

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr().lock();
        let mut fds = [PollFd::from_borrowed_fd(stderr.as_fd(), PollFlags::OUT)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let takes = poll(&mut fds, Some(&at_once)).is_ok_and(|ready| ready > 0);
        if !takes {
            return Ok(bytes.len());
        }
        let part = &bytes[..bytes.len().min(AT_ONCE_BYTES)];
        // Once: what `io::stderr` does with a short or failed write could block.
        Ok(rustix::io::write(stderr.as_fd(), part).unwrap_or(bytes.len()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_or_pairs() {
        for filter in ["off", "warn", "tmws=debug", "warn,tmws::store=trace"] {
            parse_filter(filter).expect("a filter");
        }
        for filter in ["tmws=loud", "loud", "", "warn,"] {
            let error = parse_filter(filter).expect_err("no filter");
            assert!(error.to_string().starts_with(&format!("`{filter}` is no log filter")), "{error}");
        }
    }

    #[test]
    fn libraries_that_print_payloads_stay_quiet() {
        let targets = parse_filter("trace").expect("a filter");
        assert!(targets.would_enable("tmws::wire", &tracing::Level::TRACE));
        assert!(targets.would_enable("sqlx::query", &tracing::Level::WARN));
        for filter in [
            "trace",
            "warn,sqlx=trace,rmcp=error",
            "sqlx::query=debug,rmcp::transport=trace",
            "s=trace,r=trace",
        ] {
            let targets = parse_filter(filter).expect("a filter");
            assert!(!targets.would_enable("sqlx::query", &tracing::Level::INFO), "{filter}");
            assert!(!targets.would_enable("rmcp::transport::worker", &tracing::Level::ERROR), "{filter}");
        }
        assert!(
            !parse_filter("sqlx=off,warn").expect("a filter").would_enable("sqlx", &tracing::Level::WARN)
        );
        assert!(!parse_filter("off").expect("a filter").would_enable("sqlx", &tracing::Level::ERROR));
    }
}
