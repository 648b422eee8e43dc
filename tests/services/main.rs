//! Tests against servers that run beside: `scripts/postgres cargo test --test services`. Without them these fail, and are
//! never skipped; plain `cargo test` leaves them out.

mod postgres;
mod sql;
