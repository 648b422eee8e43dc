//! Runs a program in a session or process group of its own, without standard input, and keeps the head and the tail of
//! what it writes. Whatever came of it and lives when the program has ended, or when nobody waits any longer, is killed
//! ([`super::family`]).

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    io,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    net::unix::pipe,
    process::Command,
};
use tokio_util::sync::CancellationToken;

use super::family::{Family, MARK, Mark};

/// How long pipes are read after the program itself has ended and all that came of it was killed. Only a process that
/// cannot be found can hold them open for longer.
const DRAIN: Duration = Duration::from_millis(250);
/// Read at once, in bytes.
const CHUNK: usize = 64 << 10;
/// How much less urgent than this process a program is.
const NICENESS: i32 = 5;

/// What to run.
pub(super) struct Program<'a> {
    /// An absolute path.
    pub(super) path: &'a Path,
    pub(super) arguments: &'a [OsString],
    /// All of it.
    pub(super) environment: &'a [(OsString, OsString)],
    pub(super) folder: &'a Path,
    /// It is not ours: it gets a session of its own where the system can give one, less of the processor, and a mark by
    /// which what it started is found.
    pub(super) guest: bool,
    /// Both streams come through one pipe, in the order that they were written; all is in `out`.
    pub(super) merged: bool,
    pub(super) out: Keep,
    pub(super) err: Keep,
    /// Bytes of both streams together after which it is ended.
    pub(super) written_max: u64,
    pub(super) deadline: Instant,
}

/// What is kept of a stream, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keep {
    /// So much of its beginning and its end; the others are read and thrown away.
    Ends(usize),
    /// So much of its beginning; the others are read and thrown away.
    Head(usize),
    /// So much of its beginning; the program is ended when there is more.
    Only(usize),
}

/// A program that ran to its end.
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) out: Capture,
    pub(super) err: Capture,
    pub(super) elapsed: Duration,
}

impl Ended {
    /// The exit code; `None` where a signal ended it.
    pub(super) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Whether it says that all went well.
    pub(super) fn success(&self) -> bool {
        self.status.success()
    }

    /// The signal that ended it.
    pub(super) fn signal(&self) -> Option<i32> {
        self.status.signal()
    }
}

/// Why there is no [`Ended`]. The program and its group are gone.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("could not be started: {0}")]
    Start(io::ErrorKind),
    #[error("its output could not be read: {0}")]
    Read(io::ErrorKind),
    #[error("it wrote more than {0} bytes")]
    Flood(u64),
    #[error("it took longer than it may")]
    Deadline,
    #[error("cancelled by the caller")]
    Cancelled,
}

/// The absolute folders of this process's search path that do not lie below `without`.
pub(super) fn search_path(without: &Path) -> Vec<PathBuf> {
    static FOLDERS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    let folders = FOLDERS.get_or_init(|| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect()
    });
    folders.iter().filter(|folder| !lies_below(folder, without)).cloned().collect()
}

/// Whether `path`, links followed, lies in `folder`, which is canonical.
pub(super) fn lies_below(path: &Path, folder: &Path) -> bool {
    path.starts_with(folder) || path.canonicalize().is_ok_and(|path| path.starts_with(folder))
}

/// The first executable file called `name` in `folders`.
pub(super) fn find(name: &OsStr, folders: &[PathBuf]) -> Option<PathBuf> {
    folders.iter().map(|folder| folder.join(name)).find(|path| is_executable(path))
}

/// Whether `path` is a file that may be executed.
pub(super) fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// The program that gives another a session of its own, so that it has no terminal to write to or to be stopped by.
/// Where the system has none, a process group must do.
fn session_maker() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM
        .get_or_init(|| {
            let folders = ["/usr/bin", "/bin", "/usr/local/bin"].map(PathBuf::from);
            find(OsStr::new("setsid"), &folders)
        })
        .as_deref()
}

/// Head and tail of a stream.
#[derive(Debug, Default)]
pub(super) struct Capture {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    head_max: usize,
    tail_max: usize,
    /// Bytes that came.
    pub(super) total: u64,
}

/// What was kept of a stream, as text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Text {
    pub(super) content: String,
    /// Bytes that were not kept.
    pub(super) left_out: u64,
    /// Some were not UTF-8.
    pub(super) lossy: bool,
}

impl Capture {
    /// Of both ends a quarter is kept of the beginning, the others of the end, where programs sum up.
    fn new(keep: Keep) -> Self {
        let (head_max, tail_max) = match keep {
            Keep::Ends(bytes) => (bytes / 4, bytes - bytes / 4),
            Keep::Head(bytes) | Keep::Only(bytes) => (bytes, 0),
        };
        Self { head_max, tail_max, ..Self::default() }
    }

    /// Whether there was more than is kept.
    pub(super) fn is_cut(&self) -> bool {
        self.total > (self.head.len() + self.tail.len()) as u64
    }

    /// The beginning.
    pub(super) fn into_head(self) -> Vec<u8> {
        self.head
    }

    fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let (first, rest) = bytes.split_at(bytes.len().min(self.head_max - self.head.len()));
        self.head.extend_from_slice(first);
        let rest = &rest[rest.len().saturating_sub(self.tail_max)..];
        let beyond = (self.tail.len() + rest.len()).saturating_sub(self.tail_max);
        self.tail.drain(..beyond);
        self.tail.extend(rest);
    }

    /// The text. Where something was left out, whole lines are kept around a line that says how much.
    pub(super) fn text(mut self) -> Text {
        let tail: &[u8] = self.tail.make_contiguous();
        if (self.head.len() + tail.len()) as u64 == self.total {
            let mut bytes = self.head;
            bytes.extend_from_slice(tail);
            let (text, lossy) = lossily(&bytes);
            return Text { content: text, left_out: 0, lossy };
        }
        let head_end = self.head.iter().rposition(|byte| *byte == b'\n').map_or(self.head.len(), |at| at + 1);
        let tail_start = tail.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        // A last line that is longer than all that is kept is kept in part.
        let tail_start = if tail_start == tail.len() { 0 } else { tail_start };
        let (head, tail) = (&self.head[..head_end], &tail[tail_start..]);
        let left_out = self.total - (head.len() + tail.len()) as u64;
        let ((head, head_lossy), (tail, tail_lossy)) = (lossily(head), lossily(tail));
        let line = if head.is_empty() || head.ends_with('\n') { "" } else { "\n" };
        Text {
            content: format!("{head}{line}[… {left_out} bytes left out …]\n{tail}"),
            left_out,
            lossy: head_lossy || tail_lossy,
        }
    }
}

fn lossily(bytes: &[u8]) -> (String, bool) {
    match str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), false),
        Err(_) => (String::from_utf8_lossy(bytes).into_owned(), true),
    }
}

/// Why reading ended before the streams did.
enum Stop {
    /// There is more than is wanted.
    Enough,
    Fault(Fault),
}

/// Reads `stream` to its end into `capture`; `written` counts over all streams. The stream stays open: what writes to it
/// is not to notice first that nobody reads any longer.
async fn fill(
    stream: Option<&mut (impl AsyncRead + Unpin)>,
    capture: &mut Capture,
    keep: Keep,
    written: &AtomicU64,
    written_max: u64,
) -> Result<(), Stop> {
    let Some(stream) = stream else { return Ok(()) };
    let mut chunk = vec![0; CHUNK];
    loop {
        let read = stream.read(&mut chunk).await.map_err(|error| Stop::Fault(Fault::Read(error.kind())))?;
        if read == 0 {
            return Ok(());
        }
        let before = written.fetch_add(read as u64, Ordering::Relaxed);
        if before + read as u64 > written_max {
            return Err(Stop::Fault(Fault::Flood(written_max)));
        }
        capture.push(&chunk[..read]);
        if matches!(keep, Keep::Only(_)) && capture.is_cut() {
            return Err(Stop::Enough);
        }
    }
}

/// What starts `program`, without its arguments.
fn command(program: &Program<'_>) -> Command {
    if let Some(maker) = session_maker().filter(|_| program.guest) {
        let mut command = Command::new(maker);
        command.arg(program.path);
        return command;
    }
    let mut command = Command::new(program.path);
    command.process_group(0);
    command
}

/// Runs `program` to its end.
///
/// # Errors
/// [`Fault`]. In every case, and when the future is dropped, nothing of the program's group is left, nor of what has its
/// mark.
pub(super) async fn run(program: &Program<'_>, cancel: &CancellationToken) -> Result<Ended, Fault> {
    let begun = Instant::now();
    let start = |error: io::Error| Fault::Start(error.kind());
    let mut command = command(program);
    let mark = if program.guest { Mark::new() } else { None };
    command
        .args(program.arguments)
        .env_clear()
        .envs(program.environment.iter().map(|(name, value)| (name, value)))
        .envs(mark.as_ref().map(|mark| (MARK, mark.value())))
        .current_dir(program.folder)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let mut merged = if program.merged {
        let (reader, writer) = io::pipe().map_err(start)?;
        command.stdout(writer.try_clone().map_err(start)?).stderr(writer);
        Some(pipe::Receiver::from_owned_fd(reader.into()).map_err(start)?)
    } else {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        None
    };
    let mut child = command.spawn().map_err(start)?;
    // Our copies of the pipe's writing end would keep it open.
    drop(command);
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    if program.guest {
        be_modest(pid);
    }
    let (mut stdout, mut stderr) = (child.stdout.take(), child.stderr.take());
    let (mut out, mut err) = (Capture::new(program.out), Capture::new(program.err));
    let status = {
        // On one task: both streams are read by turns.
        let written = AtomicU64::new(0);
        let max = program.written_max;
        let reading = async {
            match &mut merged {
                Some(both) => fill(Some(both), &mut out, program.out, &written, max).await,
                None => tokio::try_join!(
                    fill(stdout.as_mut(), &mut out, program.out, &written, max),
                    fill(stderr.as_mut(), &mut err, program.err, &written, max)
                )
                .map(drop),
            }
        };
        let mut reading = std::pin::pin!(reading);
        // Made after `reading`, so that it goes first: a shell must not go on because its pipe broke.
        let family = Arc::new(Family::new(pid, mark));
        let mut read = false;
        let status = loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => break Err(Fault::Cancelled),
                () = tokio::time::sleep_until(program.deadline.into()) => break Err(Fault::Deadline),
                ended = &mut reading, if !read => {
                    match ended {
                        // It may live on without pipes.
                        Ok(()) => {}
                        Err(Stop::Enough) => family.signal(Signal::KILL),
                        Err(Stop::Fault(fault)) => break Err(fault),
                    }
                    read = true;
                }
                status = child.wait() => break status.map_err(|error| Fault::Read(error.kind())),
            }
        };
        // What it left behind ends with it.
        family.end().await;
        let status = status?;
        if !read {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(Fault::Cancelled),
                ended = tokio::time::timeout(DRAIN, reading) => if let Ok(Err(Stop::Fault(fault))) = ended {
                    return Err(fault);
                }
            }
        }
        status
    };
    Ok(Ended { status, out, err, elapsed: begun.elapsed() })
}

/// Makes the program less urgent than this process, and leaves no memory image behind. Best effort: it may have ended.
fn be_modest(pid: Option<Pid>) {
    let _ = pid.map(|pid| rustix::process::setpriority_process(Some(pid), NICENESS));
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Resource, Rlimit, prlimit};
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        let _ = pid.map(|pid| prlimit(Some(pid), Resource::Core, none));
    }
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
