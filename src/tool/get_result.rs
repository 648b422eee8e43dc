//! `get_result`: the rest of a large result, by its handle.

use serde_json::{Map, Value};

use super::arguments::{Arguments, InvalidArgument};
use crate::engine::ResultQuery;

const HANDLE_CHARS_MAX: usize = 128;
const SELECT_CHARS_MAX: usize = 1_000;
const OFFSET_MAX: usize = i32::MAX as usize;
const LIMIT_MAX: usize = 100_000;

/// The part that the params of a `tools/call` ask for.
///
/// # Errors
/// The first argument that does not fit.
pub(super) fn parse(params: &Map<String, Value>) -> Result<ResultQuery, InvalidArgument> {
    let arguments = Arguments::of(params, &["handle", "select", "offset", "limit"])?;
    Ok(ResultQuery {
        handle: arguments.required_text("handle", HANDLE_CHARS_MAX)?.to_owned(),
        select: arguments.text("select", SELECT_CHARS_MAX)?.map(str::to_owned),
        offset: arguments.count("offset", 0, OFFSET_MAX)?.unwrap_or(0),
        limit: arguments.count("limit", 1, LIMIT_MAX)?,
    })
}
