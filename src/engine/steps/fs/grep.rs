//! `fs.grep`: lines that a linear-time regex matches, grouped by file.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use globset::GlobMatcher;
use regex::bytes::{Regex, RegexBuilder};
use serde_json::{Map, Value, json};

use super::{
    glob::matcher,
    root::{Bounds, Found, Root, is_binary, relative, shown},
    secret,
    symbol::Looks,
    walk::{Flow, Walk, Walked},
};
use crate::engine::steps::{StepContext, StepError, StepOutput, arguments::Arguments};

/// Longest regex taken, in bytes.
const PATTERN_BYTES_MAX: usize = 1000;
/// Largest compiled regex, in bytes.
const REGEX_BYTES_MAX: usize = 1 << 20;
/// Larger files are skipped, and said to be.
const FILE_BYTES_MAX: usize = 4 << 20;
/// Longest line shown, in characters.
const LINE_CHARS_MAX: usize = 200;

/// What a search begins at.
enum Start {
    Folder,
    File(Vec<u8>),
    TooLarge,
}

/// What is looked for, checked.
pub(super) struct Search {
    root: PathBuf,
    regex: Regex,
    glob: Option<GlobMatcher>,
    path: PathBuf,
    limit: usize,
    context: usize,
    per_file: usize,
}

impl Search {
    /// Reads the arguments.
    pub(super) fn read(arguments: &Arguments<'_>, context: &StepContext) -> Result<Self, StepError> {
        let text = arguments.text("pattern")?;
        if text.len() > PATTERN_BYTES_MAX {
            return Err(arguments.refuse("pattern", format!("longer than {PATTERN_BYTES_MAX} bytes")));
        }
        let mut source = if arguments.flag("literal")? { regex::escape(text) } else { format!("(?:{text})") };
        if arguments.flag("word")? {
            source = format!(r"\b(?:{source})\b");
        }
        let regex = RegexBuilder::new(&source)
            .case_insensitive(arguments.flag("ignore_case")?)
            .multi_line(true)
            .crlf(true)
            .size_limit(REGEX_BYTES_MAX)
            .dfa_size_limit(4 * REGEX_BYTES_MAX)
            .build()
            .map_err(|error| {
                let why = match error {
                    regex::Error::CompiledTooBig(_) => "the regex is too large once compiled".to_owned(),
                    error => {
                        format!("not a regex of this engine (no look-around, no back-references): {error}")
                    }
                };
                arguments.refuse("pattern", why)
            })?;
        Ok(Self {
            root: arguments.granted("root", context)?,
            regex,
            glob: arguments.text_or_none("glob")?.map(|glob| matcher(arguments, "glob", glob)).transpose()?,
            path: relative(arguments.text_or_none("path")?.unwrap_or_default())?,
            limit: arguments.count("limit", 100, 1, 2000)?,
            context: arguments.count("context", 0, 0, 10)?,
            per_file: arguments.count("max_per_file", 20, 1, 500)?,
        })
    }

    /// Looks through the files. `n` counts every hit met; `files` shows as many as the limits allow.
    pub(super) fn run(&self, bounds: &Bounds, bytes_max: usize) -> Result<StepOutput, StepError> {
        let root = Root::open(&self.root)?;
        let mut found = Findings { bytes_max, ..Findings::default() };
        let walked = match self.start(&root)? {
            Start::Folder => {
                let walk = Walk { root: &root, bounds, hidden: false };
                walk.visit(&self.path, &mut |met| {
                    if self.glob.as_ref().is_some_and(|glob| !glob.is_match(met.path)) {
                        return Ok(Flow::On);
                    }
                    if bounds.used_up()? {
                        return Ok(Flow::Stop);
                    }
                    if secret::reason(met.path).is_some() {
                        found.secret += 1;
                        return Ok(Flow::On);
                    }
                    match met.read(FILE_BYTES_MAX) {
                        Ok((_, false)) => found.large += 1,
                        Ok((bytes, true)) => self.file(met.path, &bytes, bounds, &mut found)?,
                        Err(_) => found.unreadable += 1,
                    }
                    Ok(Flow::On)
                })?
            }
            Start::File(bytes) => {
                self.file(&self.path, &bytes, bounds, &mut found)?;
                Walked::default()
            }
            Start::TooLarge => {
                found.large += 1;
                Walked::default()
            }
        };
        Ok(found.into_output(walked))
    }

    /// What `path` names.
    fn start(&self, root: &Root) -> Result<Start, StepError> {
        if self.path.as_os_str().is_empty() {
            return Ok(Start::Folder);
        }
        match root.find(&self.path)? {
            Found::Directory => Ok(Start::Folder),
            Found::File { metadata, .. } if metadata.len() > FILE_BYTES_MAX as u64 => Ok(Start::TooLarge),
            Found::File { file, .. } => {
                let mut bytes = Vec::new();
                file.take(FILE_BYTES_MAX as u64)
                    .read_to_end(&mut bytes)
                    .map_err(|error| root.failed(&self.path, &error))?;
                Ok(Start::File(bytes))
            }
        }
    }

    fn file(
        &self,
        path: &Path,
        bytes: &[u8],
        bounds: &Bounds,
        found: &mut Findings,
    ) -> Result<(), StepError> {
        found.searched += 1;
        found.bytes += bytes.len() as u64;
        if is_binary(bytes) {
            found.binary += 1;
            return Ok(());
        }
        if secret::is_private_key(bytes) {
            found.secret += 1;
            return Ok(());
        }
        let Some(first) = self.regex.find(bytes) else { return Ok(()) };
        let mut hits: Vec<(usize, usize)> = Vec::new();
        let mut n = 0_usize;
        // Positions only move forward, so line numbers are counted once over the file.
        let (mut counted_to, mut line) = (0, 0);
        // An empty match behind the last newline is in no line.
        let in_a_line = |&at: &usize| at < bytes.len() || at > 0 && bytes[at - 1] != b'\n';
        let mut next = Some(first.start()).filter(in_a_line);
        while let Some(at) = next {
            let start = bytes[..at].iter().rposition(|&byte| byte == b'\n').map_or(0, |newline| newline + 1);
            let end =
                bytes[at..].iter().position(|&byte| byte == b'\n').map_or(bytes.len(), |length| at + length);
            // A match that needs more than its line is none: what is found are lines.
            if let Some(inside) = self.regex.find(&bytes[start..end]) {
                line += newlines(&bytes[counted_to..start]);
                counted_to = start;
                n += 1;
                if hits.len() < self.per_file && found.shown + hits.len() < self.limit {
                    hits.push((line, inside.start()));
                }
            }
            if bounds.used_up()? {
                found.cut = true;
                break;
            }
            next = (end < bytes.len())
                .then(|| self.regex.find_at(bytes, end + 1))
                .flatten()
                .map(|hit| hit.start())
                .filter(in_a_line);
        }
        if n == 0 {
            return Ok(());
        }
        found.n += n;
        found.files_n += 1;
        found.shown += hits.len();
        if hits.len() < n {
            found.cut = true;
        }
        if !hits.is_empty() {
            let value = self.shown(path, bytes, n, &hits);
            let size = value.to_string().len();
            if found.produced + size > found.bytes_max {
                found.cut = true;
            } else {
                found.produced += size;
                found.files.push(value);
            }
        }
        Ok(())
    }

    fn shown(&self, path: &Path, bytes: &[u8], n: usize, hits: &[(usize, usize)]) -> Value {
        let lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
        let looks = Looks::of(path);
        let text = |index: usize| Value::from(clip(lines[index], 0));
        let hits: Vec<Value> = hits
            .iter()
            .map(|&(index, at)| {
                let mut hit = Map::new();
                hit.insert("line".into(), (index + 1).into());
                hit.insert("text".into(), clip(lines[index], at).into());
                if let Some(symbol) = looks.enclosing(&lines, index) {
                    hit.insert("symbol".into(), clip(symbol, 0).trim_end_matches([' ', '{', ':']).into());
                }
                if self.context > 0 {
                    let from = index.saturating_sub(self.context);
                    let last = lines.len() - usize::from(lines.last().is_some_and(|line| line.is_empty()));
                    let to = (index + 1 + self.context).min(last);
                    hit.insert("before".into(), (from..index).map(text).collect());
                    hit.insert("after".into(), (index + 1..to.max(index + 1)).map(text).collect());
                }
                Value::Object(hit)
            })
            .collect();
        json!({"path": shown(path), "n": n, "hits": hits})
    }
}

#[derive(Default)]
struct Findings {
    n: usize,
    files_n: usize,
    shown: usize,
    files: Vec<Value>,
    searched: usize,
    bytes: u64,
    produced: usize,
    bytes_max: usize,
    cut: bool,
    binary: usize,
    large: usize,
    secret: usize,
    unreadable: usize,
}

impl Findings {
    fn into_output(self, walked: Walked) -> StepOutput {
        let skipped: Map<String, Value> = [
            ("binary", self.binary),
            ("large", self.large),
            ("secret", self.secret),
            ("unreadable", self.unreadable + walked.unreadable),
        ]
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| (name.to_owned(), count.into()))
        .collect();
        let value = json!({
            "n": self.n,
            "files_n": self.files_n,
            "files": self.files,
            "searched": self.searched,
            "skipped": skipped,
            "truncated": self.cut || walked.cut,
        });
        StepOutput { value, bytes: self.bytes }
    }
}

#[expect(clippy::naive_bytecount, reason = "the lines between two hits; the search itself takes longer")]
fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|&&byte| byte == b'\n').count()
}

/// A line for reading: trimmed, and around byte `at` where it is long.
fn clip(line: &[u8], at: usize) -> String {
    let text = String::from_utf8_lossy(line);
    let trimmed = text.trim();
    if trimmed.chars().count() <= LINE_CHARS_MAX {
        return trimmed.to_owned();
    }
    let before = String::from_utf8_lossy(&line[..at.min(line.len())]).chars().count();
    let from = before.saturating_sub(LINE_CHARS_MAX / 4);
    let middle: String = text.chars().skip(from).take(LINE_CHARS_MAX).collect();
    let (head, tail) = (
        if from > 0 { "…" } else { "" },
        if from + LINE_CHARS_MAX < text.chars().count() { "…" } else { "" },
    );
    format!("{head}{}{tail}", middle.trim())
}
