//! What test runners print.

mod cargo;
mod go;
mod javascript;
mod node;
mod python;

use std::{borrow::Cow, collections::HashSet, ops::Range};

use serde_json::{Map, Value};

use super::{
    lines::{Lines, head},
    put,
};

/// What `tool` may say.
pub(super) const TOOLS: &[&str] =
    &["cargo", "nextest", "pytest", "unittest", "vitest", "jest", "mocha", "node", "go"];

/// Most failures kept; of more only the number is.
const FAILURES_MAX: usize = 500;
/// Longest message, in bytes.
const MESSAGE_BYTES_MAX: usize = 600;
/// Longest detail, in bytes.
const DETAIL_BYTES_MAX: usize = 2400;

/// One test that failed.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Failure {
    pub(super) name: String,
    pub(super) file: Option<String>,
    pub(super) line: Option<u64>,
    pub(super) message: String,
    pub(super) detail: Option<String>,
}

/// What one run of one or several runners came to.
#[derive(Debug, Default)]
pub(super) struct Report {
    tool: String,
    passed: Option<u64>,
    failed: u64,
    skipped: u64,
    duration_ms: Option<u64>,
    /// Packages that ran, failed and had no tests, where the runner says those.
    packages: Option<[u64; 3]>,
    /// Why tests did not run, or did not run to their end.
    error: Option<String>,
    failures: Vec<Failure>,
    failures_n: usize,
    truncated: bool,
    /// Lines by which its tool was recognised.
    evidence: Vec<usize>,
    /// From where to where its tool ran, where both ends are said: what stands between was printed by tests.
    runs: Vec<Range<usize>>,
}

impl Report {
    /// A report of `tool` in which nothing ran yet.
    fn new(tool: &str) -> Self {
        Self { tool: tool.to_owned(), passed: Some(0), ..Self::default() }
    }

    /// Notes a failure.
    fn fail(&mut self, mut failure: Failure) {
        self.failures_n += 1;
        if self.failures.len() < FAILURES_MAX {
            failure.message = cut(&failure.message, MESSAGE_BYTES_MAX);
            failure.detail = failure
                .detail
                .map(|detail| cut(detail.trim_matches('\n').trim_end(), DETAIL_BYTES_MAX))
                .filter(|detail| !detail.is_empty());
            self.failures.push(failure);
        }
    }

    fn count(&mut self, kind: Count, n: u64) {
        match kind {
            Count::Passed => self.passed = Some(self.passed.unwrap_or(0).saturating_add(n)),
            Count::Failed => self.failed = self.failed.saturating_add(n),
            Count::Skipped => self.skipped = self.skipped.saturating_add(n),
        }
    }

    fn last_for(&mut self, milliseconds: Option<u64>) {
        if let Some(more) = milliseconds {
            self.duration_ms = Some(self.duration_ms.unwrap_or(0).saturating_add(more));
        }
    }

    fn say(&mut self, error: impl Into<String>) {
        if self.error.is_none() {
            self.error = Some(cut(error.into().trim(), MESSAGE_BYTES_MAX));
        }
    }

    /// Whether all that looks like this tool stands in what tests of `other` printed.
    fn is_within(&self, other: &Self) -> bool {
        !self.evidence.is_empty() && self.evidence.iter().all(|line| is_in(&other.runs, *line))
    }

    /// Two runners, one after the other.
    fn join(mut self, other: Self) -> Self {
        self.tool = format!("{}+{}", self.tool, other.tool);
        self.passed = match (self.passed, other.passed) {
            (Some(a), Some(b)) => Some(a.saturating_add(b)),
            _ => None,
        };
        self.failed = self.failed.saturating_add(other.failed);
        self.skipped = self.skipped.saturating_add(other.skipped);
        self.last_for(other.duration_ms);
        self.packages = self.packages.or(other.packages);
        self.error = self.error.or(other.error);
        self.failures_n += other.failures_n;
        self.failures.extend(other.failures);
        self.truncated |= other.truncated;
        self
    }

    /// As the step gives it.
    pub(super) fn into_value(mut self, limit: usize) -> Value {
        let n = self.failures_n;
        self.truncated |= self.failures.len() > limit || n > self.failures.len();
        let ran = self.passed.is_none_or(|passed| passed + self.skipped > 0);
        let ok = self.failed == 0 && self.error.is_none() && n == 0 && ran;
        let known = !self.tool.is_empty();
        let mut members = Map::new();
        members.insert("tool".into(), known.then_some(self.tool).into());
        members.insert("ok".into(), known.then_some(ok).into());
        members.insert("passed".into(), self.passed.into());
        members.insert("failed".into(), self.failed.into());
        members.insert("skipped".into(), self.skipped.into());
        put(&mut members, "duration_ms", self.duration_ms);
        if let Some([ok, failed, untested]) = self.packages {
            members.insert(
                "packages".into(),
                serde_json::json!({"ok": ok, "failed": failed, "without_tests": untested}),
            );
        }
        put(&mut members, "error", self.error);
        let failures: Vec<Value> = self.failures.into_iter().take(limit).map(Failure::into_value).collect();
        members.insert("failures".into(), failures.into());
        members.insert("failures_n".into(), n.into());
        members.insert("truncated".into(), self.truncated.into());
        Value::Object(members)
    }
}

impl Failure {
    fn into_value(self) -> Value {
        let mut members = Map::new();
        members.insert("name".into(), self.name.into());
        put(&mut members, "file", self.file);
        put(&mut members, "line", self.line);
        members.insert("message".into(), self.message.into());
        put(&mut members, "detail", self.detail);
        Value::Object(members)
    }
}

/// Whether `line` stands between the ends of one of `runs`, which are in order and apart.
fn is_in(runs: &[Range<usize>], line: usize) -> bool {
    runs.get(runs.partition_point(|run| run.end <= line)).is_some_and(|run| run.start < line)
}

#[derive(Clone, Copy)]
enum Count {
    Passed,
    Failed,
    Skipped,
}

/// The lines as the readers see them.
type Text<'a> = [Cow<'a, str>];
/// A reader: `None` where the text is not its tool's.
type Reader = fn(&Text<'_>) -> Option<Report>;

/// Readers by tool. One whose output may hold that of another comes before it, and rules it out.
const READERS: &[(&str, Reader, &[&str])] = &[
    ("nextest", cargo::nextest, &["cargo"]),
    ("cargo", cargo::libtest, &[]),
    ("pytest", python::pytest, &["unittest"]),
    ("unittest", python::unittest, &[]),
    ("vitest", javascript::vitest, &["jest", "mocha", "node"]),
    ("jest", javascript::jest, &["mocha", "node"]),
    ("mocha", javascript::mocha, &["node"]),
    ("node", node::read, &[]),
    ("go", go::read, &[]),
];

/// Reads `text` as the output of `tool`, or of whatever it looks like.
pub(super) fn parse(text: &str, tool: Option<&str>) -> Report {
    let lines = Lines::of(text);
    let mut ruled_out: HashSet<&str> = HashSet::new();
    let mut reports: Vec<Report> = Vec::new();
    for (name, read, others) in READERS {
        if tool.is_some_and(|tool| tool != *name) || ruled_out.contains(name) {
            continue;
        }
        if let Some(read) = read(&lines.all) {
            ruled_out.extend(*others);
            reports.push(read);
        }
    }
    let outer: Vec<bool> =
        reports.iter().map(|report| !reports.iter().any(|other| report.is_within(other))).collect();
    let outer = reports.into_iter().zip(outer).filter_map(|(report, is_outer)| is_outer.then_some(report));
    let mut report = outer.reduce(Report::join).unwrap_or_default();
    report.truncated |= lines.skipped > 0;
    report
}

/// `text` within `bytes_max` bytes, `…` at the end where something was cut.
fn cut(text: &str, bytes_max: usize) -> String {
    let kept = head(text, bytes_max);
    if kept.len() == text.len() { text.to_owned() } else { format!("{kept}…") }
}

/// Lines gathered for one failure, bounded.
#[derive(Default)]
struct Block {
    text: String,
}

impl Block {
    fn push(&mut self, line: &str) {
        if self.text.len() < 2 * DETAIL_BYTES_MAX {
            self.text.push_str(line);
            self.text.push('\n');
        }
    }

    /// The gathered lines without the white space that all of them begin with.
    fn dedented(&self) -> String {
        let margin = self
            .text
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| line.len() - line.trim_start_matches(' ').len())
            .min()
            .unwrap_or(0);
        let mut text = String::with_capacity(self.text.len());
        for line in self.text.lines() {
            text.push_str(line.get(margin..).unwrap_or("").trim_end());
            text.push('\n');
        }
        text
    }
}

/// `3 passed`, `1 failed`: the pairs of a number and a word in `text`, separated by `separator`.
fn pairs(text: &str, separator: char) -> impl Iterator<Item = (u64, &str)> {
    text.split(separator).filter_map(|pair| {
        let (n, word) = pair.trim().split_once(' ')?;
        Some((n.parse().ok()?, word.trim()))
    })
}

/// The place that a frame of a JavaScript stack names: `at f (file:1:2)`, `at file:1:2`, `❯ file:1:2`.
fn frame(line: &str) -> Option<(String, u64)> {
    let line = line.trim();
    let rest = line.strip_prefix("at ").or_else(|| line.strip_prefix("❯ "))?;
    let inside = match rest.rfind('(') {
        Some(open) if rest.ends_with(')') => &rest[open + 1..rest.len() - 1],
        _ => rest.rsplit(' ').next().unwrap_or(rest),
    };
    let inside = inside.strip_prefix("file://").unwrap_or(inside);
    if inside.starts_with("node:") || inside.contains("node_modules/") || inside.starts_with("internal/") {
        return None;
    }
    let (path, line, _, rest) = super::lines::place(inside)?;
    rest.is_empty().then(|| (path.to_owned(), line))
}
