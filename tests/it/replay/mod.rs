//! `tmws replay`: what it says of servers that misbehave, and how it plays against real ones.

mod binary;
mod streams;
mod verdicts;

use std::fmt::Write as _;

use serde_json::{Value, json};
use tmws::transcript::{Direction, Entry, Header, Transcript, Transport};

/// A transcript over stdio that is written line by line.
pub(super) struct Pen {
    transcript: Transcript,
}

impl Pen {
    pub(super) fn new() -> Self {
        let header: Header = serde_json::from_value(json!({
            "type": "header", "format": "mcp-rec/1", "client": "test", "version": "1", "transport": "stdio",
            "variant": "basic", "recorded": "2026-11-22T10:55:10Z",
        }))
        .unwrap();
        let pen = Self { transcript: Transcript { header, entries: Vec::new(), result: None } };
        pen.event("start")
    }

    fn entry(mut self, dir: Direction, change: impl FnOnce(&mut Entry)) -> Self {
        let n = self.transcript.entries.len() as u64 + 1;
        let mut entry = Entry::new(n, 0.0, dir);
        change(&mut entry);
        self.transcript.entries.push(entry);
        self
    }

    /// The client says this.
    #[expect(clippy::needless_pass_by_value, reason = "tests write it in place")]
    pub(super) fn says(self, message: Value) -> Self {
        self.entry(Direction::C2s, |entry| entry.raw = Some(message.to_string()))
    }

    /// The server said this.
    #[expect(clippy::needless_pass_by_value, reason = "tests write it in place")]
    pub(super) fn hears(self, message: Value) -> Self {
        self.entry(Direction::S2c, |entry| entry.raw = Some(message.to_string()))
    }

    /// The client says bytes that are no text.
    pub(super) fn says_bytes(self, base64: &str) -> Self {
        self.entry(Direction::C2s, |entry| {
            entry.raw = Some(base64.to_owned());
            entry.encoding = Some("base64".to_owned());
        })
    }

    pub(super) fn event(self, event: &str) -> Self {
        self.entry(Direction::Event, |entry| entry.event = Some(event.to_owned()))
    }

    /// A request and its answer.
    #[expect(clippy::needless_pass_by_value, reason = "tests write it in place")]
    pub(super) fn asks(self, id: i64, method: &str, params: Value, result: Value) -> Self {
        self.says(json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
            .hears(json!({"jsonrpc": "2.0", "id": id, "result": result}))
    }

    /// A session of 2025-11-25 whose client has roots.
    pub(super) fn opened() -> Self {
        let client = json!({"name": "t", "version": "1"});
        Self::new()
            .asks(
                0,
                "initialize",
                json!({"protocolVersion": "2025-11-25", "capabilities": {"roots": {}}, "clientInfo": client}),
                json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": client}),
            )
            .says(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
    }

    /// The same conversation over another transport, as the header says it.
    pub(super) fn over(mut self, transport: Transport) -> Self {
        self.transcript.header.transport = transport;
        self
    }

    pub(super) fn done(self) -> Transcript {
        Transcript::validate(&self.transcript.to_text().unwrap()).unwrap()
    }
}

/// Findings as lines: `3 once: request 1 …`.
pub(super) fn findings(report: &tmws::replay::Report) -> String {
    let mut text = String::new();
    for (step, finding) in report.findings() {
        writeln!(text, "{} {}: {}", step.line, finding.rule.name(), finding.text).unwrap();
    }
    text
}
