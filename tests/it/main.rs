//! Tests from outside the crate, one file a subject.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod conversations;
mod pattern_loader;
mod pattern_routing;
mod schema;
mod store_contract;
mod store_faults;
mod store_model;
mod support;
