//! TMWS: the MCP server that no client can break.
//!
//! Modules in reading order; each imports only from those above it. Two columns meet only in [`tool`]:
//! wire → schema → protocol, and pattern → store → engine.

// `compat/fixture`, which is part of tests and examples too, names this crate as they do.
extern crate self as tmws;

mod dial;
pub mod hex;
pub mod limits;
pub mod nearest;
mod processors;
pub mod random;
pub mod revision;
pub mod scope;
mod stoppable;
pub mod trace;
mod turnstile;

pub mod metrics;

pub mod resilience;

pub mod wire;

pub mod schema;

pub mod protocol;

pub mod embedding;

pub mod pattern;

pub mod store;

pub mod cache;

pub mod engine;

pub mod tool;

pub mod audit;

pub mod access;

pub mod admission;

pub mod session;

pub mod otlp;

pub mod transport;

pub mod exit;

pub mod telemetry;

pub mod config;

pub mod compose;

pub mod bridge;

pub mod transcript;

pub mod record;

pub mod replay;

pub mod serve;

pub mod token_report;

pub mod accept;

pub mod cli;
