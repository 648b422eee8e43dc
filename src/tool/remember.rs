//! `remember`: stores a memory, by the pattern `memory.remember`.

use serde_json::{Map, Value};

use super::arguments::{Arguments, InvalidArgument};
use crate::{
    engine::{Caller, ExecuteRequest, Target},
    pattern::Mode,
};

const KNOWN: &[&str] = &["content", "tags", "importance", "supersedes"];
/// The pattern that does it.
pub(super) const PATTERN: &str = "memory.remember";
/// The store's own limit, in bytes, is smaller unless configured otherwise.
const CONTENT_CHARS_MAX: usize = 1 << 20;
const ID_CHARS_MAX: usize = 64;

/// The execution that the params of a `tools/call` stand for.
///
/// # Errors
/// The first argument that does not fit.
pub(super) fn parse(params: &Map<String, Value>) -> Result<ExecuteRequest, InvalidArgument> {
    let arguments = Arguments::of(params, KNOWN)?;
    let mut input = Map::new();
    input.insert("content".to_owned(), arguments.required_text("content", CONTENT_CHARS_MAX)?.into());
    if let Some(tags) = arguments.texts("tags")? {
        input.insert("tags".to_owned(), tags.into());
    }
    if let Some(importance) = arguments.fraction("importance")? {
        input.insert("importance".to_owned(), importance.into());
    }
    if let Some(id) = arguments.text("supersedes", ID_CHARS_MAX)? {
        input.insert("supersedes".to_owned(), id.into());
    }
    Ok(ExecuteRequest {
        target: Target::Pattern(PATTERN.to_owned()),
        input,
        mode: Mode::Balanced,
        session: None,
        unless: None,
        fresh: false,
        caller: Caller::Trusted,
    })
}
