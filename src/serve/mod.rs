//! Composition roots of servers: parts, service, bindings; and the graceful end.

mod oversight;
mod shared;
mod signals;
mod stdio;

use std::time::{Duration, Instant, UNIX_EPOCH};

use crate::protocol::Now;

pub use shared::{ServeError, known_figures, projects, shared, token_source};
pub use stdio::stdio;

/// Threads for work that blocks: files, git.
const BLOCKING_THREADS_MAX: usize = 16;
/// Idle blocking threads go after so long: an idle server should cost next to nothing.
const BLOCKING_KEEP_ALIVE: Duration = Duration::from_secs(5);

#[expect(clippy::disallowed_methods, reason = "the edge where time comes in")]
fn now() -> Now {
    let unix_ms =
        std::time::SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    Now { monotonic: Instant::now(), unix_ms }
}
