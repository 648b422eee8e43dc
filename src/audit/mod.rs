//! Who did what: a log that is only appended to, one JSON object a line, arguments as keyed digests.
//!
//! A call asks for its [`Place`] before it begins and fills it when it has ended, so that nothing runs that could not be
//! written down: where the log is full or cannot be written, calls are refused. Formatting, hashing and writing happen on
//! one thread.

mod digest;
mod file;
mod line;
mod writer;

use std::{
    io,
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use jiff::Timestamp;

pub use digest::Digester;
pub use line::{CallLine, Event, Outcome};

use line::Line;

/// Lines that may wait for the writer, those of calls that still run included.
const LINES_MAX: usize = 8_192;
/// Bytes of arguments that weigh as much as one line, for what waits.
const BYTES_PER_LINE: usize = 4_096;
/// Events of connections may fill the queue only so far: a flood of refused ones must not keep calls out.
const EVENT_LINES_MAX: usize = LINES_MAX / 2;
/// With so many lines waiting the writer does not wait for more.
const LINES_SOON: usize = LINES_MAX / 8;
/// At its end the log gets so long for what is left.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(1);

/// Why a call cannot be written down, and must not run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unlogged {
    /// Too much waits to be written.
    #[error("the audit log is behind: too many lines wait to be written; try again")]
    Full,
    /// The file cannot be written. Without a path: whoever asks need not know it.
    #[error("the audit log cannot be written ({reason}): no call runs unlogged; its operator must mend it")]
    Failing {
        /// In the system's words.
        reason: Arc<str>,
    },
}

/// The log. Dropping the last handle writes what is left.
pub struct Audit {
    shared: Arc<Shared>,
}

/// A line that will fit. Dropped unfilled, it is given back.
#[must_use = "the place is given back when this is dropped"]
pub struct Place(Option<Arc<Shared>>);

struct Shared {
    path: PathBuf,
    digester: Digester,
    queue: Mutex<Queue>,
    /// Something is to be done.
    wake: Condvar,
    /// The writer has ended.
    ended: Condvar,
    /// Weight of the lines that wait and of the places given.
    taken: AtomicUsize,
    failing: AtomicBool,
    reason: Mutex<Arc<str>>,
    written: AtomicU64,
    /// Events left out because there was no room.
    left_out: AtomicU64,
}

#[derive(Default)]
struct Queue {
    lines: Vec<Line>,
    /// The file is to be opened anew.
    reopens: bool,
    closes: bool,
    has_ended: bool,
    /// The writer sleeps until it is woken; else it looks by itself before long.
    sleeps: bool,
}

impl Audit {
    /// The log at `path`, made with its folder where there is none (0600, 0700), never through a symbolic link. A file
    /// that cannot be opened is tried again every second; until then calls are refused.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(path: PathBuf, digester: Digester) -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared {
            path,
            digester,
            queue: Mutex::default(),
            wake: Condvar::new(),
            ended: Condvar::new(),
            taken: AtomicUsize::new(0),
            failing: AtomicBool::new(false),
            reason: Mutex::new("".into()),
            written: AtomicU64::new(0),
            left_out: AtomicU64::new(0),
        });
        // Opened before the first call may come, so that none is let in by a log that never worked.
        let writer = writer::Writer::open(&shared);
        let thread = thread::Builder::new().name("tmws-audit".to_owned());
        thread.spawn({
            let shared = Arc::clone(&shared);
            move || writer.run(&shared)
        })?;
        Ok(Arc::new(Self { shared }))
    }

    /// A place for the line of one call.
    ///
    /// # Errors
    /// There is none: the call must not run.
    pub fn admit(&self) -> Result<Place, Unlogged> {
        self.check_writes()?;
        if self.shared.taken.fetch_add(1, Ordering::Relaxed) >= LINES_MAX {
            self.shared.taken.fetch_sub(1, Ordering::Relaxed);
            return Err(Unlogged::Full);
        }
        Ok(Place(Some(Arc::clone(&self.shared))))
    }

    /// Whether calls can be written down now.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), Unlogged> {
        self.check_writes()?;
        if self.shared.taken.load(Ordering::Relaxed) >= LINES_MAX { Err(Unlogged::Full) } else { Ok(()) }
    }

    fn check_writes(&self) -> Result<(), Unlogged> {
        if self.shared.failing.load(Ordering::Acquire) {
            let reason = Arc::clone(&self.shared.reason.lock().unwrap_or_else(PoisonError::into_inner));
            return Err(Unlogged::Failing { reason });
        }
        Ok(())
    }

    /// Writes down what happened to a connection. Where there is no room it is left out, and that is counted and said in
    /// the log.
    pub fn note(&self, event: Event) {
        let taken = self.shared.taken.fetch_add(1, Ordering::Relaxed);
        if taken >= EVENT_LINES_MAX {
            self.shared.taken.fetch_sub(1, Ordering::Relaxed);
            self.shared.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.shared.put(Line::Event { at: Timestamp::now(), event });
    }

    /// Somebody could not prove who they are.
    pub fn refused(&self, peer: IpAddr, reason: &'static str) {
        self.note(Event::Refused { peer, reason, principal: None, project: None, method: None });
    }

    /// Opens the file anew: it was moved away.
    pub fn reopen(&self) {
        self.shared.lock().reopens = true;
        self.shared.wake.notify_one();
    }

    /// Lines written since the start.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }

    /// Lines that wait to be written, with those of calls that run.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.shared.taken.load(Ordering::Relaxed)
    }

    /// Events that were left out for want of room.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.shared.left_out.load(Ordering::Relaxed)
    }

    /// Writes what waits, to the disk, and ends; within a second. Whatever comes later is lost.
    pub fn close(&self) {
        let mut queue = self.shared.lock();
        queue.closes = true;
        self.shared.wake.notify_one();
        let waited = self.shared.ended.wait_timeout_while(queue, CLOSE_WAIT_MAX, |queue| !queue.has_ended);
        drop(waited);
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        self.close();
    }
}

impl Place {
    /// Fills it. From here on the line holds the place.
    pub fn fill(mut self, line: CallLine) {
        let Some(shared) = self.0.take() else { return };
        let weight = line.request.params().values().map(bytes_of).sum::<usize>() / BYTES_PER_LINE;
        if weight > 0 {
            shared.taken.fetch_add(weight, Ordering::Relaxed);
        }
        shared.put(Line::Call { weight: weight + 1, line: Box::new(line) });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.taken.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, line: Line) {
        let wakes = {
            let mut queue = self.lock();
            queue.lines.push(line);
            std::mem::take(&mut queue.sleeps) || queue.lines.len() == LINES_SOON
        };
        if wakes {
            self.wake.notify_one();
        }
    }
}

/// About as many bytes as a value takes.
fn bytes_of(value: &serde_json::Value) -> usize {
    use serde_json::Value;
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len() + 16,
        Value::Array(items) => 16 + items.iter().map(bytes_of).sum::<usize>(),
        Value::Object(members) => {
            16 + members.iter().map(|(name, value)| name.len() + bytes_of(value)).sum::<usize>()
        }
    }
}

#[cfg(test)]
mod tests;
