//! The protocol core: every rule of every revision, sans I/O.
//!
//! No tokio, clock, environment or randomness in here: time is an argument, keys and ids are handed in.
//! The driver's contract: one `handle_*`, then `poll_output` until it yields `None`, only then the next input.

mod asks;
mod batch;
mod call;
mod connection;
mod fit;
mod incoming;
mod inflight;
mod lifecycle;
mod meta;
mod profile;
mod replies;
mod requests;
mod rules;
mod signer;
mod subscriptions;
mod task;
mod tasks;

pub use batch::BatchAnswers;
pub use call::{Answers, Ask, Call, CallError, CallId, Client, LogLevel, Notice, Reply, ServerEvent};
pub use connection::{About, Connection, Diagnostic, Now, Outgoing, Output, Severity};
pub use profile::{CacheHint, CacheScope, Capabilities, Profile, ResourcesCapability};
pub use rules::{Claim, error_may_lack_id};
pub use signer::Signer;
pub use task::{Task, TaskOffer, TaskState};
