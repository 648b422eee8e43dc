//! Several instances of the real binary as one service: they share a PostgreSQL database, tokens and the key that signs,
//! some of them a Redis, and nothing else.

#![expect(clippy::print_stderr, reason = "what whoever mends a failure needs")]

mod answer;
mod client;
mod coherency;
mod failover;
mod instance;
mod line;
mod outage;
mod proxy;
mod restored;
mod rolling;
#[path = "../../it/support/serving.rs"]
mod serving;
mod sessions;
mod sticky;

use std::time::Duration;

use answer::Answer;
use client::{Client, Way};
use instance::{Instance, Service};
use line::Line;
use proxy::Proxy;

/// A backstop: whatever is waited for happens long before, also on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_mins(1);

/// Awaits `what`.
async fn within<T>(what: &str, waited: impl Future<Output = T>) -> T {
    let Ok(value) = tokio::time::timeout(PATIENCE, waited).await else {
        panic!("{what}: nothing came within {PATIENCE:?}");
    };
    value
}
