//! The gate: nothing unvalidated reaches a tool or a transport, by type.
//!
//! [`Admitted`] and [`Sealed`] have private fields and are built only in this module. The schemas are this project's own
//! (`schemas/mcp/<revision>/<group>.json`); where their verdict differs from the published ones on purpose, the errata
//! table says so.

mod catalog;
mod documents;
mod errata;
mod gate;
mod rules;
mod violation;

pub use catalog::{Definition, ErrorShape};
pub use documents::{DefinitionText, Document, definitions, documents};
pub use errata::{Cause, ERRATA, Erratum, Verdict};
pub use gate::{Admitted, AdmittedNotification, Gate, Sealed, verdict};
pub use violation::{Fault, VIOLATION_FAULTS_MAX, Violation};
