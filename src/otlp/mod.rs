//! Traces and figures for a collector of OpenTelemetry (OTLP over HTTP, protobuf), where one is configured.
//!
//! ```text
//! call ─ traced      one span a call, one a step: names, codes, durations; nothing of what was asked or answered
//!   └ export         a bounded queue, one task: batches to /v1/traces, the figures of /metrics to /v1/metrics
//!       └ encode     spans and families as the collector reads them
//! ```
//!
//! Where none is configured, nothing of this is made: calls go past it.

mod encode;
mod export;
mod settings;
mod traced;

pub use export::Exporter;
pub use settings::{CollectorHeaders, CollectorUrl, OtlpSettings};
pub use traced::Traced;
