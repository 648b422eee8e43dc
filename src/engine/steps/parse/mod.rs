//! `data.parse`: what test runners, compilers and logs print, as values.
//!
//! | format | value |
//! |---|---|
//! | `test` | `{tool, ok, passed, failed, skipped, duration_ms?, packages?, error?, failures: [{name, file?, line?, message, detail?}], failures_n, truncated}` |
//! | `build` | `{tool, ok, errors, warnings, diagnostics: [{level, code?, message, file?, line?, column?, n}], diagnostics_n, error?, truncated}` |
//! | `log` | `{lines, events, from?, to?, levels: {error: n, …}, clusters: [{n, level, template, sample, first, last, first_time?, last_time?, where?}], clusters_n, truncated}` |
//!
//! `tool` names the tools whose output was recognised, joined with `+`; it is null where none was. `passed` is null where
//! the tool does not say (`go test` without `-v`). `ok` holds where something ran and nothing failed, and is null where
//! nothing was recognised. Everything is read
//! in one pass over the lines, escapes, carriage returns and CI prefixes left out; `limit` bounds the lists, and the
//! `…_n` beside them count all. Nothing in a text can make this fail: what is not understood is passed over.

mod build;
mod lines;
mod log;
mod test;

use serde_json::{Map, Value};

use super::{StepError, arguments::Arguments};

/// Texts longer than this, in bytes, are read off the caller's thread.
const INLINE_BYTES_MAX: usize = 32 << 10;
/// Entries of a list, unless told.
const LIMIT: usize = 50;
const LIMIT_MAX: usize = 500;

#[derive(Clone, Copy)]
enum Format {
    Test,
    Build,
    Log,
}

/// Runs the step.
pub(super) async fn run(arguments: Arguments<'_>) -> Result<Value, StepError> {
    let format = match arguments.text("format")? {
        "test" => Format::Test,
        "build" => Format::Build,
        "log" => Format::Log,
        _ => return Err(arguments.wrong("format", "test, build or log")),
    };
    let tool = arguments.text_or_none("tool")?;
    if let Some(tool) = tool {
        let known = match format {
            Format::Test => test::TOOLS,
            Format::Build => build::TOOLS,
            Format::Log => &[],
        };
        if !known.contains(&tool) {
            return Err(match format {
                Format::Log => arguments.refuse("tool", "a log has no tool; leave it out"),
                _ => arguments.wrong("tool", &known.join(", ")),
            });
        }
    }
    let limit = arguments.count("limit", LIMIT, 1, LIMIT_MAX)?;
    let text = arguments.text_or_none("text")?.unwrap_or_default();
    if text.len() <= INLINE_BYTES_MAX {
        return Ok(parse(text, format, tool, limit));
    }
    let (text, tool) = (text.to_owned(), tool.map(str::to_owned));
    super::fs::blocking(move || Ok(parse(&text, format, tool.as_deref(), limit))).await
}

fn parse(text: &str, format: Format, tool: Option<&str>, limit: usize) -> Value {
    match format {
        Format::Test => test::parse(text, tool).into_value(limit),
        Format::Build => build::parse(text, tool).into_value(limit),
        Format::Log => log::parse(text).into_value(limit),
    }
}

/// Adds `name` where there is a value.
fn put<T: Into<Value>>(members: &mut Map<String, Value>, name: &str, value: Option<T>) {
    if let Some(value) = value {
        members.insert(name.to_owned(), value.into());
    }
}

#[cfg(test)]
mod tests;
