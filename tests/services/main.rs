//! Tests against servers that run beside: `scripts/redis scripts/postgres cargo test --test services`. Without them these
//! fail, and are never skipped; plain `cargo test` leaves them out.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(clippy::print_stdout, reason = "figures, for who asks with --nocapture")]

mod accept_left;
#[path = "../it/engine/support.rs"]
#[allow(dead_code, reason = "what other tests use of it")]
mod engine_support;
mod frozen;
mod instances;
mod leases;
mod moving;
mod postgres;
#[path = "../it/support/program.rs"]
#[allow(dead_code, reason = "what other tests use of it")]
mod program;
mod redis_faults;
mod redis_layer;
mod redis_many;
mod redis_program;
mod redis_server;
#[path = "../sabotage/mod.rs"]
mod sabotage;
mod sabotages;
mod search_beside;
mod search_quality;
mod server;
mod sql;
#[path = "../store/mod.rs"]
#[allow(dead_code, reason = "what other tests use of it")]
mod store;
mod store_contract;
mod store_faults;
mod store_isolation;
mod store_many;
mod store_postgres;
mod tls;
mod waiting;
