//! `fs.grep`: lines that a linear-time regex matches, grouped by file.

use std::{
    io::Read,
    num::NonZero,
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, sync_channel},
    },
    thread::{available_parallelism, scope},
};

use globset::GlobMatcher;
use regex::bytes::{Regex, RegexBuilder};
use serde_json::{Map, Value, json};

use super::{
    glob::matcher,
    root::{Bounds, Found, Root, is_binary, relative, shown},
    secret,
    symbol::Looks,
    walk::{Entry, Flow, Walk, Walked},
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

/// Threads that read and scan at most.
const THREADS_MAX: usize = 4;
/// Files that wait to be read at most; each may hold its folder open.
const QUEUE_MAX: usize = 128;
/// So few files are read by the thread that walks.
const ALONE_MAX: usize = 32;

/// Files that wait to be read, numbered in order.
type Queue = Arc<Mutex<Receiver<(usize, Entry)>>>;

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
            Start::Folder => self.folder(&root, bounds, &mut found)?,
            Start::File(bytes) => {
                let scanned = self.scan(&self.path, &bytes, bounds, true)?;
                found.add(self.limit, scanned);
                Walked::default()
            }
            Start::TooLarge => {
                found.large += 1;
                Walked::default()
            }
        };
        Ok(found.into_output(walked))
    }

    /// Walks in order on this thread, and reads and scans on as many as there are processors; what they find is put in
    /// order again.
    fn folder(&self, root: &Root, bounds: &Bounds, found: &mut Findings) -> Result<Walked, StepError> {
        let (jobs, queue) = sync_channel::<(usize, Entry)>(QUEUE_MAX);
        // The workers alone hold it: once all of them are gone, sending fails instead of waiting.
        let mut queue = Some(Arc::new(Mutex::new(queue)));
        let threads = available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
        let shared = Shared { hits: AtomicUsize::new(0), enough: self.limit + threads * self.per_file };
        let (walked, mut scanned) = scope(|scope| -> Result<(Walked, Vec<(usize, Scanned)>), StepError> {
            let mut workers = Vec::new();
            let mut secret = 0;
            let mut number = 0;
            let walk = Walk { root, bounds, hidden: false };
            let mut early = Vec::new();
            let walked = walk.visit(&self.path, &mut |met| {
                if self.glob.as_ref().is_some_and(|glob| !glob.is_match(met.path)) {
                    return Ok(Flow::On);
                }
                if bounds.used_up()? {
                    return Ok(Flow::Stop);
                }
                if secret::reason(met.path).is_some() {
                    secret += 1;
                    return Ok(Flow::On);
                }
                let job = (number, met.entry());
                number += 1;
                // A handful is read sooner than a thread is started.
                if queue.is_some() && early.len() < ALONE_MAX {
                    early.push(job);
                    return Ok(Flow::On);
                }
                if let Some(queue) = queue.take() {
                    workers.extend((0..threads).map(|_| {
                        let (queue, shared) = (Arc::clone(&queue), &shared);
                        scope.spawn(move || self.work(&queue, shared, bounds))
                    }));
                    for job in early.drain(..) {
                        let _ = jobs.send(job);
                    }
                }
                // Workers go only when their time is up; what they leave is said to be cut.
                Ok(if jobs.send(job).is_ok() { Flow::On } else { Flow::Stop })
            });
            drop(jobs);
            let mut scanned = Vec::new();
            for (number, entry) in early {
                scanned.push((number, self.entry(&entry, &shared, bounds)?));
            }
            for worker in workers {
                match worker.join() {
                    Ok(part) => scanned.extend(part?),
                    Err(panic) => resume_unwind(panic),
                }
            }
            found.secret += secret;
            Ok((walked?, scanned))
        })?;
        scanned.sort_unstable_by_key(|(number, _)| *number);
        for (_, scanned) in scanned {
            found.add(self.limit, scanned);
        }
        Ok(walked)
    }

    /// Takes files until there are no more, or no time.
    fn work(
        &self,
        queue: &Queue,
        shared: &Shared,
        bounds: &Bounds,
    ) -> Result<Vec<(usize, Scanned)>, StepError> {
        let mut done = Vec::new();
        loop {
            let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok((number, entry)) = job else { return Ok(done) };
            done.push((number, self.entry(&entry, shared, bounds)?));
        }
    }

    fn entry(&self, entry: &Entry, shared: &Shared, bounds: &Bounds) -> Result<Scanned, StepError> {
        // Files are handed out in order: where those before this one already fill the answer, this one is only counted.
        let wanted = shared.hits.load(Ordering::Relaxed) < shared.enough;
        if bounds.used_up()? {
            return Ok(Scanned { cut: true, ..Scanned::default() });
        }
        let scanned = match entry.read(FILE_BYTES_MAX) {
            Ok((_, false)) => Scanned { what: What::Large, ..Scanned::default() },
            Ok((bytes, true)) => self.scan(&entry.path, &bytes, bounds, wanted)?,
            Err(_) => Scanned { what: What::Unreadable, ..Scanned::default() },
        };
        shared.hits.fetch_add(scanned.hits, Ordering::Relaxed);
        Ok(scanned)
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

    /// Looks through one file; the lines themselves only where they are `wanted`.
    fn scan(&self, path: &Path, bytes: &[u8], bounds: &Bounds, wanted: bool) -> Result<Scanned, StepError> {
        let mut scanned = Scanned { what: What::Text, bytes: bytes.len() as u64, ..Scanned::default() };
        if is_binary(bytes) {
            return Ok(Scanned { what: What::Binary, ..scanned });
        }
        if secret::is_private_key(bytes) {
            return Ok(Scanned { what: What::Secret, ..scanned });
        }
        let Some(first) = self.regex.find(bytes) else { return Ok(scanned) };
        let mut hits: Vec<(usize, usize)> = Vec::new();
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
                scanned.n += 1;
                if wanted && hits.len() < self.per_file {
                    hits.push((line, inside.start()));
                }
            }
            if bounds.used_up()? {
                scanned.cut = true;
                break;
            }
            next = (end < bytes.len())
                .then(|| self.regex.find_at(bytes, end + 1))
                .flatten()
                .map(|hit| hit.start())
                .filter(in_a_line);
        }
        scanned.hits = hits.len();
        if !hits.is_empty() {
            scanned.value = Some(self.shown(path, bytes, scanned.n, &hits));
        }
        Ok(scanned)
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

/// Between the thread that walks and those that read.
struct Shared {
    /// Hits with their lines, so far.
    hits: AtomicUsize,
    /// With so many, those of the files before any that is not yet taken fill the answer: files that are read at the same
    /// time may be out of order.
    enough: usize,
}

/// What one file was.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum What {
    /// Not looked at.
    #[default]
    Nothing,
    Text,
    Binary,
    Secret,
    Large,
    Unreadable,
}

/// What one file gave.
#[derive(Default)]
struct Scanned {
    what: What,
    bytes: u64,
    /// Lines that match.
    n: usize,
    /// Of them in `value`.
    hits: usize,
    value: Option<Value>,
    cut: bool,
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
    /// Adds the next file, in order, with as many of its lines as `limit` and the bytes allow.
    fn add(&mut self, limit: usize, scanned: Scanned) {
        let Scanned { what, bytes, n, hits, value, cut } = scanned;
        let count = match what {
            What::Nothing | What::Text => None,
            What::Binary => Some(&mut self.binary),
            What::Secret => Some(&mut self.secret),
            What::Large => Some(&mut self.large),
            What::Unreadable => Some(&mut self.unreadable),
        };
        if let Some(count) = count {
            *count += 1;
        }
        self.searched += usize::from(matches!(what, What::Text | What::Binary | What::Secret));
        self.bytes += bytes;
        self.cut |= cut;
        if n == 0 {
            return;
        }
        self.n += n;
        self.files_n += 1;
        let hits = hits.min(limit.saturating_sub(self.shown));
        self.cut |= hits < n;
        let Some(mut value) = value.filter(|_| hits > 0) else { return };
        if let Some(Value::Array(lines)) = value.get_mut("hits") {
            lines.truncate(hits);
        }
        self.shown += hits;
        let size = value.to_string().len();
        if self.produced + size > self.bytes_max {
            self.cut = true;
        } else {
            self.produced += size;
            self.files.push(value);
        }
    }

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
