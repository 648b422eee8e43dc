//! `tmws --version`.

use serde_json::{Value, json};

use super::{Failure, Output, schema};
use crate::revision::Revision;

/// The schema of `tmws.toml`.
pub(super) const CONFIG_SCHEMA: &str = include_str!("../../schemas/config/v1.json");

/// Version, revisions and schemas as one value.
#[must_use]
pub(super) fn describe() -> Value {
    let revisions: Vec<&str> = Revision::ALL.into_iter().map(Revision::as_str).collect();
    let schemas: Vec<String> = schema::documents()
        .into_iter()
        .map(|document| document.name)
        .filter(|name| !name.starts_with("mcp/"))
        .collect();
    json!({"name": "tmws", "version": env!("CARGO_PKG_VERSION"), "revisions": revisions, "schemas": schemas})
}

/// Prints it.
///
/// # Errors
/// Stdout is closed or full.
pub(super) fn run(output: &mut Output) -> Result<(), Failure> {
    if output.is_json() {
        output.json(&describe())
    } else {
        output.line(concat!("tmws ", env!("CARGO_PKG_VERSION")))
    }
}
