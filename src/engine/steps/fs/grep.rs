//! `fs.grep`: lines that a linear-time regex matches, grouped by file.

use std::{
    fmt::Write as _,
    io::Read,
    mem,
    panic::resume_unwind,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, TrySendError, sync_channel},
    },
    thread::scope,
};

use globset::GlobMatcher;
use memchr::{memchr, memchr_iter, memrchr};
use serde_json::{Map, Value, json};

use super::{
    findings::{Findings, Scanned, What},
    glob::matcher,
    rank::Rank,
    root::{Bounds, Found, Root, is_binary, relative, shown},
    secret,
    symbol::Looks,
    walk::{Entry, Flow, Walk, Walked},
};
use crate::{
    engine::steps::{StepContext, StepError, StepOutput, arguments::Arguments},
    processors,
    stoppable::{Reading, Scratch, Stoppable, Unfit},
};

/// Longest regex taken, in bytes.
const PATTERN_BYTES_MAX: usize = 1000;
/// Largest compiled regex, in bytes.
const REGEX_BYTES_MAX: usize = 1 << 20;
/// Larger files are skipped, and said to be.
const FILE_BYTES_MAX: usize = 4 << 20;
/// Longest line shown, in characters.
const LINE_CHARS_MAX: usize = 200;
/// The same where hits are texts, and of what encloses them.
const LINE_CHARS_SHORT: usize = 120;
const SYMBOL_CHARS_MAX: usize = 48;

/// Words of languages behind which a name is defined.
const DEFINING: [&[u8]; 19] = [
    b"fn",
    b"struct",
    b"enum",
    b"trait",
    b"type",
    b"union",
    b"mod",
    b"macro_rules!",
    b"class",
    b"interface",
    b"def",
    b"func",
    b"function",
    b"const",
    b"static",
    b"module",
    b"package",
    b"#define",
    b"namespace",
];

/// Threads that read and scan at most, the one that walks among them.
const THREADS_MAX: usize = 4;
/// Files handed out together: handing them out one by one costs more than reading them.
const BATCH_FILES: usize = 16;
/// Batches that wait to be read at most; each file of one may hold its folder open.
const QUEUE_BATCHES_MAX: usize = 4;
/// Files between two looks at the clock and at whether the run was cancelled: both cost a lock.
const FILES_PER_LOOK: usize = 8;
/// So few files are read by the thread that walks.
const ALONE_MAX: usize = 32;

/// Files that follow one another, numbered by how many were handed out before.
struct Batch {
    number: usize,
    files: Vec<Entry>,
    /// Whether the lines themselves are wanted: files before these do not fill the answer yet.
    wanted: bool,
}

/// Batches that wait to be read.
type Queue = Arc<Mutex<Receiver<Batch>>>;

/// What a search begins at.
enum Start {
    Folder,
    File(Vec<u8>),
    TooLarge,
}

/// What is looked for, checked.
pub(super) struct Search {
    root: PathBuf,
    regex: Stoppable,
    glob: Option<GlobMatcher>,
    path: PathBuf,
    limit: usize,
    context: usize,
    per_file: usize,
    /// Hits as texts.
    lines: bool,
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
        let reading = Reading {
            ignore_case: arguments.flag("ignore_case")?,
            lines: true,
            bytes: true,
            size_max: REGEX_BYTES_MAX,
        };
        let regex = Stoppable::new(&source, reading)
            .map_err(|unfit: Unfit| arguments.refuse("pattern", unfit.to_string()))?;
        Ok(Self {
            root: arguments.granted("root", context)?,
            regex,
            glob: arguments.text_or_none("glob")?.map(|glob| matcher(arguments, "glob", glob)).transpose()?,
            path: relative(arguments.text_or_none("path")?.unwrap_or_default())?,
            limit: arguments.count("limit", 100, 1, 2000)?,
            context: arguments.count("context", 0, 0, 10)?,
            per_file: arguments.count("max_per_file", 20, 1, 500)?,
            lines: arguments.flag("lines")?,
        })
    }

    /// Looks through the files. `n` counts every hit met; `files` shows as many as the limits allow.
    pub(super) fn run(&self, bounds: &Bounds, bytes_max: usize) -> Result<StepOutput, StepError> {
        let root = Root::open(&self.root)?;
        let mut found = Findings { bytes_max, ..Findings::default() };
        let walked = match self.start(&root)? {
            Start::Folder => self.folder(&root, bounds, &mut found)?,
            Start::File(bytes) => {
                let scanned = self.scan(&self.path, &bytes, &mut Scratch::default(), bounds, true)?;
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

    /// Walks in order on this thread, and reads and scans on as many as there are processors, this one among them; what
    /// they find is put in order again.
    fn folder(&self, root: &Root, bounds: &Bounds, found: &mut Findings) -> Result<Walked, StepError> {
        let (jobs, queue) = sync_channel::<Batch>(QUEUE_BATCHES_MAX);
        let queue: Queue = Arc::new(Mutex::new(queue));
        let threads = processors::count().min(THREADS_MAX);
        let hits = AtomicUsize::new(0);
        let (walked, mut scanned) = scope(|scope| -> Result<(Walked, Vec<(usize, Scanned)>), StepError> {
            let mut own = Reader::new(self, bounds, &hits);
            let mut workers = Vec::new();
            let mut secret = 0;
            let mut number = 0;
            let mut files = Vec::new();
            // What is handed out comes behind all that was looked through so far: where that fills the answer, this is only
            // counted, whichever thread gets it.
            let mut batch = |files: Vec<Entry>| {
                let first = number;
                number += files.len();
                Batch { number: first, files, wanted: hits.load(Ordering::Relaxed) < self.limit }
            };
            let walk = Walk { root, bounds, hidden: false };
            let walked = walk.visit(&self.path, &mut |met| {
                if self.glob.as_ref().is_some_and(|glob| !glob.is_match(met.path)) {
                    return Ok(Flow::On);
                }
                if files.is_empty() && bounds.used_up()? {
                    return Ok(Flow::Stop);
                }
                if secret::reason(met.path).is_some() {
                    secret += 1;
                    return Ok(Flow::On);
                }
                files.push(met.entry());
                // A handful is read sooner than a thread is started.
                let enough = if workers.is_empty() { ALONE_MAX } else { BATCH_FILES };
                if files.len() < enough {
                    return Ok(Flow::On);
                }
                if workers.is_empty() {
                    workers.extend((1..threads).map(|_| {
                        let (queue, mut reader) = (Arc::clone(&queue), Reader::new(self, bounds, &hits));
                        scope.spawn(move || reader.drain(&queue).map(|()| reader.done))
                    }));
                }
                // Where the others have enough to do, this thread does it.
                match jobs.try_send(batch(mem::take(&mut files))) {
                    Ok(()) => {}
                    Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) => own.read(&batch)?,
                }
                Ok(Flow::On)
            });
            own.read(&batch(files))?;
            drop(jobs);
            own.drain(&queue)?;
            let mut scanned = own.done;
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
    fn scan(
        &self,
        path: &Path,
        bytes: &[u8],
        scratch: &mut Scratch,
        bounds: &Bounds,
        wanted: bool,
    ) -> Result<Scanned, StepError> {
        let mut scanned = Scanned { what: What::Text, bytes: bytes.len() as u64, ..Scanned::default() };
        if is_binary(bytes) {
            return Ok(Scanned { what: What::Binary, ..scanned });
        }
        if secret::is_private_key(bytes) {
            return Ok(Scanned { what: What::Secret, ..scanned });
        }
        let mut hits: Vec<(usize, usize)> = Vec::new();
        match self.hits(bytes, scratch, bounds, wanted, &mut hits) {
            (n, Ok(())) => scanned.n = n,
            (n, Err(Halt::Time)) => (scanned.n, scanned.cut) = (n, true),
            (_, Err(Halt::Failed(error))) => return Err(error),
        }
        scanned.hits = hits.len();
        if !hits.is_empty() {
            scanned.value = Some(self.shown(path, bytes, scanned.n, &hits, scratch, bounds));
        }
        Ok(scanned)
    }

    /// Counts the lines of `bytes` that match, and notes number and place of those that are `wanted`.
    fn hits(
        &self,
        bytes: &[u8],
        scratch: &mut Scratch,
        bounds: &Bounds,
        wanted: bool,
        hits: &mut Vec<(usize, usize)>,
    ) -> (usize, Result<(), Halt>) {
        // Positions only move forward, so line numbers are counted once over the file.
        let (mut n, mut counted_to, mut line, mut from) = (0, 0, 0, 0);
        let mut go_on = || bounds.go_on();
        loop {
            let at = match self.next(bytes, from, scratch, &mut go_on) {
                // An empty match behind the last newline is in no line.
                Ok(Some(at)) if at < bytes.len() || at > 0 && bytes[at - 1] != b'\n' => at,
                Ok(_) => return (n, Ok(())),
                Err(halt) => return (n, Err(halt)),
            };
            let start = memrchr(b'\n', &bytes[..at]).map_or(0, |newline| newline + 1);
            let end = memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |length| at + length);
            // A match that needs more than its line is none: what is found are lines.
            match self.regex.find(scratch, &bytes[start..end], 0..end - start, &mut go_on) {
                Ok(Some(inside)) => {
                    line += newlines(&bytes[counted_to..start]);
                    counted_to = start;
                    n += 1;
                    if wanted && hits.len() < self.per_file {
                        hits.push((line, inside.start));
                    }
                }
                Ok(None) => {}
                Err(halt) => return (n, Err(halt)),
            }
            if end == bytes.len() {
                return (n, Ok(()));
            }
            from = end + 1;
        }
    }

    /// Where the next match begins, looked for in so many whole lines at once as the regex is quick for.
    fn next(
        &self,
        bytes: &[u8],
        from: usize,
        scratch: &mut Scratch,
        go_on: &mut impl FnMut() -> Result<(), Halt>,
    ) -> Result<Option<usize>, Halt> {
        let mut from = from;
        loop {
            let rest = &bytes[from..];
            let most = self.regex.whole_max().min(rest.len());
            let upto = if most == rest.len() {
                bytes.len()
            } else {
                let newline = memrchr(b'\n', &rest[..most])
                    .or_else(|| memchr(b'\n', &rest[most..]).map(|newline| most + newline));
                newline.map_or(bytes.len(), |newline| from + newline + 1)
            };
            match self.regex.find(scratch, bytes, from..upto, go_on)? {
                Some(found) => return Ok(Some(found.start)),
                None if upto == bytes.len() => return Ok(None),
                None => from = upto,
            }
        }
    }

    /// Whether a match stands behind a word that defines what follows it.
    fn is_defined_in(&self, line: &[u8], scratch: &mut Scratch, bounds: &Bounds) -> bool {
        let mut from = 0;
        while from <= line.len() {
            // Where the time is over, the line is one among others.
            let found = self.regex.find(scratch, line, from..line.len(), &mut || bounds.go_on());
            let Ok(Some(hit)) = found else { return false };
            let before = line[..hit.start].trim_ascii_end();
            if before.len() < hit.start {
                let word = before.iter().rposition(u8::is_ascii_whitespace).map_or(0, |space| space + 1);
                if DEFINING.contains(&&before[word..]) {
                    return true;
                }
            }
            from = hit.end.max(hit.start + 1);
        }
        false
    }

    /// Hits of a file, and its rank among files where hits are texts.
    fn shown(
        &self,
        path: &Path,
        bytes: &[u8],
        n: usize,
        hits: &[(usize, usize)],
        scratch: &mut Scratch,
        bounds: &Bounds,
    ) -> (Rank, Value) {
        let lines: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
        let looks = Looks::of(path);
        if self.lines {
            let defined = |line: &[u8]| self.is_defined_in(line, scratch, bounds);
            return shown_as_lines(path, &lines, looks, n, hits, defined);
        }
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
        (Rank::default(), json!({"path": shown(path), "n": n, "hits": hits}))
    }
}

/// Hits as one text each, those that define what is looked for first.
fn shown_as_lines(
    path: &Path,
    lines: &[&[u8]],
    looks: Looks,
    n: usize,
    hits: &[(usize, usize)],
    mut defined: impl FnMut(&[u8]) -> bool,
) -> (Rank, Value) {
    let mut shown_hits: Vec<(bool, String)> = hits
        .iter()
        .map(|&(index, at)| {
            let text = clip(lines[index], at);
            let mut shown = format!("{}: {}", index + 1, first_chars(&text, LINE_CHARS_SHORT));
            if let Some(symbol) = looks.enclosing(lines, index) {
                let symbol = clip(symbol, 0);
                let _ = write!(shown, " [{}]", name_of(symbol.trim_end_matches([' ', '{', ':'])));
            }
            (!defined(lines[index]), shown)
        })
        .collect();
    shown_hits.sort_by_key(|(uses, _)| *uses);
    let defines = shown_hits.first().is_some_and(|(uses, _)| !uses);
    let hits: Vec<Value> = shown_hits.into_iter().map(|(_, shown)| shown.into()).collect();
    (Rank::of(path, defines), json!({"path": shown(path), "n": n, "hits": hits}))
}

/// The name in a line that defines something, for those who read many of them.
fn name_of(symbol: &str) -> &str {
    if symbol.chars().count() <= SYMBOL_CHARS_MAX {
        return symbol;
    }
    let symbol = ["pub(super) ", "pub(crate) "]
        .iter()
        .fold(symbol, |left, word| left.strip_prefix(word).unwrap_or(left));
    let symbol = symbol.split('(').next().unwrap_or(symbol);
    first_chars(symbol, SYMBOL_CHARS_MAX)
}

fn first_chars(text: &str, most: usize) -> &str {
    text.char_indices().nth(most).map_or(text, |(end, _)| &text[..end])
}

/// One thread's part of a search.
struct Reader<'a> {
    search: &'a Search,
    bounds: &'a Bounds,
    /// Hits with their lines, of all threads.
    hits: &'a AtomicUsize,
    bytes: Vec<u8>,
    scratch: Scratch,
    done: Vec<(usize, Scanned)>,
}

impl<'a> Reader<'a> {
    fn new(search: &'a Search, bounds: &'a Bounds, hits: &'a AtomicUsize) -> Self {
        Self { search, bounds, hits, bytes: Vec::new(), scratch: Scratch::default(), done: Vec::new() }
    }

    /// Takes what is queued until no more can come, or there is no time.
    fn drain(&mut self, queue: &Queue) -> Result<(), StepError> {
        loop {
            let batch = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(batch) = batch else { return Ok(()) };
            self.read(&batch)?;
        }
    }

    fn read(&mut self, batch: &Batch) -> Result<(), StepError> {
        for (at, entry) in batch.files.iter().enumerate() {
            if at.is_multiple_of(FILES_PER_LOOK) && self.bounds.used_up()? {
                self.done.push((batch.number + at, Scanned { cut: true, ..Scanned::default() }));
                break;
            }
            let scanned = self.entry(entry, batch.wanted)?;
            self.done.push((batch.number + at, scanned));
        }
        Ok(())
    }

    fn entry(&mut self, entry: &Entry, wanted: bool) -> Result<Scanned, StepError> {
        let scanned = match entry.read(FILE_BYTES_MAX, &mut self.bytes) {
            Ok((_, false)) => Scanned { what: What::Large, ..Scanned::default() },
            Ok((bytes, true)) => {
                self.search.scan(&entry.path, bytes, &mut self.scratch, self.bounds, wanted)?
            }
            Err(_) => Scanned { what: What::Unreadable, ..Scanned::default() },
        };
        self.hits.fetch_add(scanned.hits, Ordering::Relaxed);
        Ok(scanned)
    }
}

/// Why a search in a file ended before the file did.
enum Halt {
    /// The time is used up.
    Time,
    Failed(StepError),
}

impl Bounds {
    /// Whether a search may go on.
    fn go_on(&self) -> Result<(), Halt> {
        match self.used_up() {
            Ok(false) => Ok(()),
            Ok(true) => Err(Halt::Time),
            Err(error) => Err(Halt::Failed(error)),
        }
    }
}

fn newlines(bytes: &[u8]) -> usize {
    memchr_iter(b'\n', bytes).count()
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
