//! `execute_pattern`: runs a read-only pattern, by name or by a query.

use serde_json::{Map, Value};

use super::arguments::{Arguments, InvalidArgument, not_blank};
use crate::{
    engine::{Caller, ExecuteRequest, Target},
    pattern::Mode,
};

const KNOWN: &[&str] = &["pattern", "query", "input", "mode", "session", "unless", "fresh"];
/// Longest pattern name, handle or etag, in characters.
const NAME_CHARS_MAX: usize = 128;
/// Longest question, in characters.
pub(super) const QUERY_CHARS_MAX: usize = 2_000;

/// The request that the params of a `tools/call` stand for.
///
/// # Errors
/// The first argument that does not fit.
pub(super) fn parse(params: &Map<String, Value>) -> Result<ExecuteRequest, InvalidArgument> {
    let arguments = Arguments::of(params, KNOWN)?;
    let pattern = arguments.text("pattern", NAME_CHARS_MAX)?;
    let query = arguments.text("query", QUERY_CHARS_MAX)?;
    let target = match (pattern, query) {
        (Some(pattern), None) => Target::Pattern(pattern.to_owned()),
        (None, Some(query)) => Target::Query(not_blank("query", query)?.to_owned()),
        (Some(_), Some(_)) => {
            return Err(InvalidArgument::new("query", "give either `pattern` or `query`, not both"));
        }
        (None, None) => {
            return Err(InvalidArgument::new(
                "pattern",
                "give `pattern` (a name that find_patterns lists) or `query` (a question in words)",
            ));
        }
    };
    let mode = match arguments.text("mode", NAME_CHARS_MAX)? {
        None | Some("balanced") => Mode::Balanced,
        Some("fast") => Mode::Fast,
        Some("comprehensive") => Mode::Comprehensive,
        Some(_) => {
            return Err(InvalidArgument::new("mode", "`mode` must be fast, balanced or comprehensive"));
        }
    };
    Ok(ExecuteRequest {
        target,
        input: arguments.object("input")?.cloned().unwrap_or_default(),
        mode,
        session: arguments.text("session", NAME_CHARS_MAX)?.map(str::to_owned),
        unless: arguments.text("unless", NAME_CHARS_MAX)?.map(str::to_owned),
        fresh: arguments.flag("fresh")?,
        caller: Caller::Model,
    })
}
