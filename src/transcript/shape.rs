//! The shape of a line, by the published JSON Schema.

use std::sync::LazyLock;

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use super::TranscriptError;

/// The JSON Schema of one line of a transcript.
pub const TRANSCRIPT_SCHEMA: &str = include_str!("../../schemas/transcript/v1.json");

/// Faults told of one line at most.
const FAULTS_MAX: usize = 3;

static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| {
    let schema: Value =
        serde_json::from_str(TRANSCRIPT_SCHEMA).expect("the embedded schema is JSON (tested)");
    jsonschema::draft202012::options()
        .with_pattern_options(PatternOptions::regex())
        .build(&schema)
        .expect("the embedded schema is a JSON Schema (tested)")
});

/// Holds the text of line `line` against the schema.
pub(super) fn check(line: usize, text: &str) -> Result<(), TranscriptError> {
    let wrong = |reason| TranscriptError::Line { line, reason };
    let value: Value = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
    if VALIDATOR.is_valid(&value) {
        return Ok(());
    }
    let faults: Vec<String> = VALIDATOR
        .iter_errors(&value)
        .take(FAULTS_MAX)
        .map(|error| {
            let path = error.instance_path().as_str();
            // Whoever reads it knows the value; quoting it could quote what a header holds.
            let message = error.masked().to_string();
            if path.is_empty() { message } else { format!("{path}: {message}") }
        })
        .collect();
    Err(wrong(faults.join("; ")))
}
