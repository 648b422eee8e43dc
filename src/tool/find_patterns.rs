//! `find_patterns`: names, one-line descriptions and inputs, best match first.

use serde_json::{Map, Value};

use super::{
    arguments::{Arguments, InvalidArgument},
    execute_pattern::QUERY_CHARS_MAX,
};

/// Patterns listed unless `limit` says otherwise.
const LIMIT: usize = 10;
/// Largest `limit`.
const LIMIT_MAX: usize = 50;

/// What is looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FindPatterns {
    /// Words to rank by; blank: all, in the order of names.
    pub(super) query: String,
    /// At most so many.
    pub(super) limit: usize,
}

/// The search that the params of a `tools/call` stand for.
///
/// # Errors
/// The first argument that does not fit.
pub(super) fn parse(params: &Map<String, Value>) -> Result<FindPatterns, InvalidArgument> {
    let arguments = Arguments::of(params, &["query", "limit"])?;
    Ok(FindPatterns {
        query: arguments.text_or_empty("query", QUERY_CHARS_MAX)?.unwrap_or_default().trim().to_owned(),
        limit: arguments.count("limit", 1, LIMIT_MAX)?.unwrap_or(LIMIT),
    })
}
