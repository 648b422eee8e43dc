//! The gate: nothing unvalidated reaches a tool or a transport, by type.
//!
//! [`Admitted`] and [`Sealed`] have private fields and are built only in this module. The schemas are this project's own
//! (`schemas/mcp/<revision>/<group>.json`, and `schemas/dialect` for what is older than MCP); where their verdict differs
//! from the published ones on purpose, the errata table says so.

mod catalog;
pub mod dialect;
mod documents;
mod errata;
mod frames;
mod gate;
mod rules;
mod violation;

pub use catalog::{Definition, ErrorShape};
pub use documents::{DefinitionText, Document, definitions, documents};
pub use errata::{Cause, ERRATA, Erratum, Loosening, Verdict};
pub use frames::check_server_message;
pub use gate::{Admitted, AdmittedNotification, Gate, Sealed, verdict};
pub use violation::{Fault, VIOLATION_FAULTS_MAX, Violation};
