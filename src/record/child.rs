//! A stdio server and its host, with two pipes more between them than without us.
//!
//! A thread for each direction, blocking as the ends of a pipe do, so that whoever does not read stops whoever writes.
//! What a thread passes on and what it notes of it happen under one lock: an answer is never noted before its request.
//! While the lock is held nothing blocks but the file.

use std::{
    ffi::OsString,
    fs::File,
    io::{self, PipeWriter},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::{CommandExt as _, ExitStatusExt as _},
    },
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, OFlags, fcntl_setfl, fstat},
    io::Errno,
    net::SendFlags,
    process::{Pid, Signal, kill_process},
};
use tokio::{
    process::Command,
    runtime::Builder,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, oneshot},
};

use super::{
    lines::LineTap,
    sink::{Options, Sink, new, outlive_a_full_file},
};
use crate::transcript::{Direction, Entry, Transport};

/// Read at once.
const READ_BYTES: usize = 64 << 10;
/// A pipe that `poll` calls writable takes so much without blocking (`PIPE_BUF`).
const AT_ONCE_BYTES: usize = 4096;
/// The program as it runs now.
const ITSELF: &str = "/proc/self/exe";

/// Signals that are passed on, with their names, and whether a terminal sends them to the server by itself.
const SIGNALS: &[(Signal, &str, bool)] = &[
    (Signal::TERM, "SIGTERM", false),
    (Signal::INT, "SIGINT", true),
    (Signal::HUP, "SIGHUP", true),
    (Signal::QUIT, "SIGQUIT", true),
    (Signal::USR1, "SIGUSR1", false),
    (Signal::USR2, "SIGUSR2", false),
];

/// Why nothing can be recorded.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The server does not start.
    #[error("`{program}` could not be started: {source}")]
    Start {
        /// As given.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The system refuses what every process has.
    #[error("this process could not be set up: {0}")]
    SetUp(#[from] io::Error),
}

/// What both threads write to.
struct Record {
    sink: Sink,
    from_client: LineTap,
    from_server: LineTap,
    /// The end was the host's doing.
    is_ending: bool,
}

type Shared = Arc<Mutex<Record>>;

fn locked(shared: &Shared) -> MutexGuard<'_, Record> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Launches `command` in place of this process until it ends, and returns its exit code: 128 and the signal's number
/// where a signal ended it. stdin, stdout and stderr are as if it had been launched by whoever launched us.
///
/// # Errors
/// It could not be launched.
pub fn stdio(command: &[OsString], options: Options) -> Result<u8, RecordError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let code = runtime.block_on(run(command, options));
    runtime.shutdown_background();
    code
}

/// Becomes the server: it dies with the recorder that launched it (`parent`), even where that is killed. Only comes back
/// where it cannot.
pub fn become_server(parent: u32, command: &[OsString]) -> RecordError {
    // Asked for first: a recorder that is gone by then will not be missed later.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return io::Error::from(error).into();
    }
    let is_orphan = rustix::process::getppid().is_none_or(|pid| pid.as_raw_pid().cast_unsigned() != parent);
    let (program, arguments) =
        command.split_first().map_or((None, &[][..]), |(first, rest)| (Some(first), rest));
    let Some(program) = program.filter(|_| !is_orphan) else {
        return RecordError::SetUp(io::Error::other("the recorder has ended"));
    };
    let source = std::process::Command::new(program).args(arguments).exec();
    RecordError::Start { program: program.to_string_lossy().into_owned(), source }
}

async fn run(command: &[OsString], options: Options) -> Result<u8, RecordError> {
    let text = |argument: &OsString| argument.to_string_lossy().into_owned();
    let (program, arguments) =
        command.split_first().ok_or_else(|| io::Error::other("there is no command"))?;
    let program_name = text(program);
    let mut sink = Sink::new(options, Transport::Stdio, &program_name);
    let argv: Vec<String> = arguments.iter().map(text).collect();
    let argv = sink.redactor().arguments(&argv);

    outlive_a_full_file()?;
    // From here on they do not end this process.
    let (signalled, mut signals) = mpsc::channel(16);
    for (number, name, from_terminal) in SIGNALS {
        let mut stream = signal(SignalKind::from_raw(number.as_raw()))?;
        let signalled = signalled.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some()
                && signalled.send((*number, *name, *from_terminal)).await.is_ok()
            {}
        });
    }

    let mut child = launch(program, arguments)
        .map_err(|source| RecordError::Start { program: program_name.clone(), source })?;
    let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(io::Error::other("the server was started without pipes").into());
    };
    let (input, output) = (input.into_owned_fd()?, output.into_owned_fd()?);
    sink.note(Entry { event: Some("start".to_owned()), argv: Some(argv), ..new(Direction::Event) });
    let shared = Arc::new(Mutex::new(Record {
        sink,
        from_client: LineTap::new(Direction::C2s),
        from_server: LineTap::new(Direction::S2c),
        is_ending: false,
    }));

    let (has_ended, ended) = io::pipe()?;
    let (drained, mut is_drained) = oneshot::channel::<()>();
    spawn("to server", {
        let shared = Arc::clone(&shared);
        move || pass_to_server(input, &shared)
    })?;
    spawn("to client", {
        let shared = Arc::clone(&shared);
        move || {
            pass_to_client(output, has_ended.as_fd(), &shared);
            drop(drained);
        }
    })?;

    let mut ended: Option<PipeWriter> = Some(ended);
    let mut status: Option<ExitStatus> = None;
    let status = loop {
        tokio::select! {
            biased;
            Some((number, name, from_terminal)) = signals.recv() => {
                let mut record = locked(&shared);
                record.sink.event(&format!("signal {name}"));
                record.is_ending |= !matches!(number, Signal::USR1 | Signal::USR2);
                if let Some(status) = status {
                    // It is gone; whoever asks for the end does not read what it said.
                    break status;
                }
                if let Some(pid) = pid && !(from_terminal && has_terminal()) {
                    // An error means that it has ended by itself.
                    let _ = kill_process(pid, number);
                }
            }
            waited = child.wait(), if status.is_none() => {
                status = Some(waited?);
                // Its last words are in the pipe.
                ended = None;
            }
            _ = &mut is_drained, if status.is_some() => {
                if let Some(status) = status {
                    break status;
                }
            }
        }
    };
    drop(ended);
    let mut record = locked(&shared);
    let Record { sink, from_client, from_server, is_ending } = &mut *record;
    from_client.finish(sink);
    from_server.finish(sink);
    if !*is_ending {
        let code = Some(exit_code(status).into());
        sink.note(Entry { event: Some("exit".to_owned()), code, ..new(Direction::Event) });
    }
    sink.finish();
    Ok(exit_code(status))
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
    (code & 0xff) as u8
}

/// Starts the server, in our process group: what ends the group ends it. Where it can be, it starts as this program,
/// which binds it to our life before it becomes the server.
fn launch(program: &OsString, arguments: &[OsString]) -> io::Result<tokio::process::Child> {
    let start = |command: &mut Command| command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    if cfg!(target_os = "linux") && std::path::Path::new(ITSELF).exists() {
        let mut command = Command::new(ITSELF);
        let parent = std::process::id().to_string();
        command.arg0("tmws").args(["record", "--for", &parent, "--"]).arg(program).args(arguments);
        if let Ok(child) = start(&mut command) {
            return Ok(child);
        }
    }
    start(Command::new(program).args(arguments))
}

fn has_terminal() -> bool {
    use std::io::IsTerminal as _;
    io::stdin().is_terminal() || io::stderr().is_terminal()
}

fn spawn(name: &str, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // What they do is not deep.
    std::thread::Builder::new().name(name.to_owned()).stack_size(256 << 10).spawn(job).map(drop)
}

/// The server's stdin: ours alone, so that it may be non-blocking.
fn pass_to_server(server: OwnedFd, shared: &Shared) {
    let stdin = io::stdin();
    if fcntl_setfl(&server, OFlags::NONBLOCK).is_ok() {
        let server_reads = pass(stdin.as_fd(), server.as_fd(), None, Kind::Own, |bytes| {
            let mut record = locked(shared);
            let count = rustix::io::write(&server, bytes)?;
            let Record { sink, from_client, .. } = &mut *record;
            from_client.feed(&bytes[..count], sink);
            Ok(count)
        });
        let mut record = locked(shared);
        let Record { sink, from_client, is_ending, .. } = &mut *record;
        from_client.finish(sink);
        if server_reads {
            sink.event("stdin-eof");
            *is_ending = true;
            // Under the lock: what the server says to its end is noted after it.
            drop(server);
            return;
        }
    }
    // The host must notice that nobody reads any more.
    if let Ok(nothing) = File::open("/dev/null") {
        let _ = rustix::stdio::dup2_stdin(nothing);
    }
}

/// Our stdout may be anything, and the description of it somebody else's too.
fn pass_to_client(server: OwnedFd, has_ended: BorrowedFd<'_>, shared: &Shared) {
    let stdout = io::stdout();
    let kind = match fstat(&stdout).map(|stat| FileType::from_raw_mode(stat.st_mode)) {
        Ok(FileType::Socket) => Kind::Socket,
        Ok(FileType::Fifo | FileType::CharacterDevice) => Kind::Pipe,
        _ => Kind::Own,
    };
    let client_reads = pass(server.as_fd(), stdout.as_fd(), Some(has_ended), kind, |bytes| {
        let mut record = locked(shared);
        let count = match kind {
            Kind::Socket => rustix::net::send(&stdout, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?,
            Kind::Pipe => write_in_parts(stdout.as_fd(), bytes)?,
            Kind::Own => rustix::io::write(&stdout, bytes)?,
        };
        let Record { sink, from_server, .. } = &mut *record;
        from_server.feed(&bytes[..count], sink);
        Ok(count)
    });
    // Either the server must notice that nobody reads any more, or the host that nobody writes.
    drop(server);
    if client_reads && let Ok(nothing) = File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(nothing);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Never blocks longer than a file does.
    Own,
    /// Is written to in small parts once it is writable.
    Pipe,
    /// Is written to without waiting.
    Socket,
}

/// Passes bytes on until the source ends (true) or nobody takes them any more (false). After `has_ended` only what is
/// there already.
fn pass(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    has_ended: Option<BorrowedFd<'_>>,
    kind: Kind,
    mut write: impl FnMut(&[u8]) -> Result<usize, Errno>,
) -> bool {
    let mut buffer = vec![0; READ_BYTES];
    // A file is always ready, and says nothing by it.
    let watches_reader = fstat(to)
        .is_ok_and(|stat| matches!(FileType::from_raw_mode(stat.st_mode), FileType::Fifo | FileType::Socket));
    loop {
        let mut fds = vec![PollFd::from_borrowed_fd(from, PollFlags::IN)];
        fds.extend(has_ended.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        if watches_reader {
            fds.push(PollFd::from_borrowed_fd(to, PollFlags::empty()));
        }
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(_) => return true,
        }
        let has_gone = watches_reader
            && fds.last().is_some_and(|fd| fd.revents().intersects(PollFlags::ERR | PollFlags::HUP));
        if has_gone {
            return false;
        }
        if fds[0].revents().is_empty() {
            // Only the server's end is left to be told.
            return true;
        }
        let count = match rustix::io::read(from, &mut buffer[..]) {
            Ok(0) => return true,
            Ok(count) => count,
            Err(Errno::INTR | Errno::AGAIN) => continue,
            Err(_) => return true,
        };
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            // A pipe that would block is asked first; all else says so itself.
            if kind == Kind::Pipe && !wait_writable(to) {
                return false;
            }
            match write(rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if !wait_writable(to) {
                        return false;
                    }
                }
                Err(_) => return false,
            }
        }
    }
}

/// Writes to a pipe that takes something, as much as it takes at once.
fn write_in_parts(to: BorrowedFd<'_>, bytes: &[u8]) -> Result<usize, Errno> {
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut written = 0;
    loop {
        let part = &bytes[written..bytes.len().min(written + AT_ONCE_BYTES)];
        match rustix::io::write(to, part) {
            Ok(count) => written += count,
            Err(error) if written == 0 => return Err(error),
            // It comes again with the rest.
            Err(_) => return Ok(written),
        }
        let mut fds = [PollFd::from_borrowed_fd(to, PollFlags::OUT)];
        let takes_more =
            matches!(poll(&mut fds, Some(&at_once)), Ok(1..)) && fds[0].revents() == PollFlags::OUT;
        if written == bytes.len() || !takes_more {
            return Ok(written);
        }
    }
}

/// Waits until `to` takes something. False where nobody will.
fn wait_writable(to: BorrowedFd<'_>) -> bool {
    loop {
        let mut fds = [PollFd::from_borrowed_fd(to, PollFlags::OUT)];
        match poll(&mut fds, None) {
            Ok(_) => return !fds[0].revents().contains(PollFlags::ERR),
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}
