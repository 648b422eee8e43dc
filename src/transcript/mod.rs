//! Conversations between a client and a server, written down: the format `mcp-rec/1`.
//!
//! One JSON object a line: a header, then what was seen in the order in which it was seen, then (where the client was run
//! by whoever recorded it) how that ended. `schemas/transcript/v1.json` is the format; members that it does not name are
//! kept by nobody.

mod error;
mod shape;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use error::TranscriptError;
pub use shape::TRANSCRIPT_SCHEMA;

/// The format's name, in every header.
pub const FORMAT: &str = "mcp-rec/1";
/// What stands in place of the value of a header that held a secret.
pub const REDACTED: &str = "<redacted>";

/// A whole transcript.
#[derive(Clone, Debug, PartialEq)]
pub struct Transcript {
    /// Who spoke with whom, and how.
    pub header: Header,
    /// What was seen.
    pub entries: Vec<Entry>,
    /// How the client ended, where it was run for the recording.
    pub result: Option<RunResult>,
}

/// How frames travelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// Lines on stdin and stdout.
    Stdio,
    /// Streamable HTTP, or HTTP+SSE.
    Http,
    /// WebSocket.
    Ws,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stdio => "stdio",
            Self::Http => "HTTP",
            Self::Ws => "WebSocket",
        })
    }
}

/// The first line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "header")]
pub struct Header {
    /// [`FORMAT`].
    pub format: String,
    /// The client's name: `py-mcp`.
    pub client: String,
    /// The client's version.
    pub version: String,
    /// How frames travelled.
    pub transport: Transport,
    /// Which scenario: `basic`, `rich`.
    pub variant: String,
    /// The command that ran the client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<Vec<String>>,
    /// What was set in its environment for the recording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_env: Option<Map<String, Value>>,
    /// The server: a command, a path or a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// What was set in its environment for the recording.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_env: Option<Map<String, Value>>,
    /// When: RFC 3339, UTC.
    pub recorded: String,
}

/// The last line, if there is one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "result")]
pub struct RunResult {
    /// Exit code of the client.
    pub rc: i64,
    /// Whether it did what it should.
    pub ok: bool,
    /// How long it ran.
    pub seconds: f64,
}

/// Who spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Client to server.
    C2s,
    /// Server to client.
    S2c,
    /// Nobody: something happened.
    Event,
}

/// One thing seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Counts from 1.
    pub n: u64,
    /// Seconds since the recording began.
    pub t: f64,
    /// Who spoke.
    pub dir: Direction,
    /// A line of an HTTP head, with the body in `raw` where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Http>,
    /// The type of a server-sent event, its data in `raw`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sse: Option<String>,
    /// The id of a server-sent event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sse_id: Option<String>,
    /// A WebSocket message (`text`, `binary`, `ping`, …), or `handshake` and `accept`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ws: Option<String>,
    /// Path of a WebSocket handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Headers of a WebSocket handshake.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Map<String, Value>>,
    /// Subprotocol of a WebSocket that was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subprotocol: Option<String>,
    /// What happened: `start`, `stdin-eof`, `signal SIGTERM`, `exit`, `ws-close`, `get-stream-closed`,
    /// `client-closed-stream`, `stream-end`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// Arguments of a process that started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argv: Option<Vec<String>>,
    /// Code of a WebSocket close, or exit code of a process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// Reason of a WebSocket close.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Which connection, where several were recorded: they count from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conn: Option<u64>,
    /// The `n` of the HTTP request that this answers or ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
    /// The frame or body, as it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
    /// `base64` where the frame or body was not UTF-8, and `raw` is Base64 of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// So many bytes of the frame or body follow that were passed on and not written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<u64>,
    /// The frame or body ended before its end: no newline came, or its sender left.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unfinished: bool,
}

/// The head of an HTTP request or response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Http {
    /// Method of a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Path of a request, with its query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Status of a response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The headers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<Map<String, Value>>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
const fn is_false(value: &bool) -> bool {
    !*value
}

impl Entry {
    /// An entry that says nothing yet.
    #[must_use]
    pub const fn new(n: u64, t: f64, dir: Direction) -> Self {
        Self {
            n,
            t,
            dir,
            http: None,
            sse: None,
            sse_id: None,
            ws: None,
            path: None,
            headers: None,
            subprotocol: None,
            event: None,
            argv: None,
            code: None,
            reason: None,
            conn: None,
            of: None,
            raw: None,
            encoding: None,
            cut: None,
            unfinished: false,
        }
    }
}

impl Transcript {
    /// Reads a whole transcript whose every line has the shape that the schema gives it.
    ///
    /// # Errors
    /// The line that has not, and where and why.
    pub fn validate(text: &str) -> Result<Self, TranscriptError> {
        for (line, text) in lines(text) {
            shape::check(line, text)?;
        }
        Self::parse(text)
    }

    /// The transcript as text; what [`Transcript::parse`] reads back.
    ///
    /// # Errors
    /// None in practice: no member of the format can fail to be written.
    pub fn to_text(&self) -> Result<String, serde_json::Error> {
        let mut text = line(&self.header)?;
        for entry in &self.entries {
            text.push_str(&line(entry)?);
        }
        if let Some(result) = &self.result {
            text.push_str(&line(result)?);
        }
        Ok(text)
    }

    /// Reads a whole transcript, as far as its members are needed: [`Transcript::validate`] looks at all of them.
    ///
    /// # Errors
    /// The line that is not one of the format's, and why.
    pub fn parse(text: &str) -> Result<Self, TranscriptError> {
        let mut lines = lines(text);
        let bad = |line: usize| {
            move |error: serde_json::Error| TranscriptError::Line { line, reason: error.to_string() }
        };
        let (number, line) = lines.next().ok_or(TranscriptError::Empty)?;
        let header: Header = serde_json::from_str(line).map_err(bad(number))?;
        if header.format != FORMAT {
            return Err(TranscriptError::Format { found: header.format });
        }
        let (mut entries, mut result) = (Vec::new(), None);
        for (number, line) in lines {
            if result.is_some() {
                let reason = "nothing may follow the result".to_owned();
                return Err(TranscriptError::Line { line: number, reason });
            }
            let value: Value = serde_json::from_str(line).map_err(bad(number))?;
            if value.get("type").is_some() {
                result = Some(serde_json::from_value(value).map_err(bad(number))?);
            } else {
                let entry: Entry = serde_json::from_value(value).map_err(bad(number))?;
                follows(entries.last(), &entry)
                    .map_err(|reason| TranscriptError::Line { line: number, reason })?;
                entries.push(entry);
            }
        }
        Ok(Self { header, entries, result })
    }
}

/// The lines that are not empty, with their numbers, which count from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line))
        .filter(|(_, line)| !line.trim().is_empty())
}

/// Entries count one by one; a process that starts begins again.
fn follows(before: Option<&Entry>, entry: &Entry) -> Result<(), String> {
    let expected = before.map_or(1, |before| before.n.saturating_add(1));
    if entry.n == expected || (entry.n == 1 && entry.event.as_deref() == Some("start")) {
        return Ok(());
    }
    Err(format!("`n` is {} where {expected} comes next", entry.n))
}

/// A line of the format: `header`, `entry` or `result` as text, with its newline.
///
/// # Errors
/// None in practice: no member of the format can fail to be written.
pub fn line(part: &impl Serialize) -> Result<String, serde_json::Error> {
    serde_json::to_string(part).map(|mut text| {
        text.push('\n');
        text
    })
}
