//! What is wrong with a transcript.

/// Why a text is no transcript.
#[derive(Debug, thiserror::Error)]
pub enum TranscriptError {
    /// There is no line in it.
    #[error("the transcript is empty: its first line must be the header")]
    Empty,
    /// Another format.
    #[error("the transcript's format is {found:?}, and this program reads \"mcp-rec/1\"")]
    Format {
        /// What the header says.
        found: String,
    },
    /// One line is wrong.
    #[error("line {line} is no line of a transcript: {reason}")]
    Line {
        /// Counts from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}
