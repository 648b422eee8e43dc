//! Servers on stdin and stdout: programs that are started, and pipes that are given.

use std::{
    collections::VecDeque,
    ffi::OsString,
    fmt, io,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    process::{Child, Command},
    sync::mpsc,
};

use super::{Happening, Link, Order, Teller};
use crate::wire::{Line, LineDecoder};

/// Longest line that is taken for a frame.
const FRAME_BYTES_MAX: usize = 64 << 20;
/// So much of what a program says on stderr is kept, from its end.
const TAIL_BYTES_MAX: usize = 2 << 10;
const READ_BYTES: usize = 64 << 10;

/// Both ends of one conversation, as whoever plays it has them: what the server says, what is said to it.
pub type Pipes = (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>);

/// A program that is running, or has run; with the value it ends, and all that it started in its group.
pub(in crate::replay) struct Program {
    pid: Option<Pid>,
    has_ended: Arc<AtomicBool>,
}

impl Program {
    /// The program in a process group of its own.
    pub(in crate::replay) fn start(
        command: &[OsString],
        environment: &[(OsString, OsString)],
        working_directory: Option<&PathBuf>,
    ) -> io::Result<(Self, Child)> {
        let Some((program, arguments)) = command.split_first() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no command is given"));
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(folder) = working_directory {
            command.current_dir(folder);
        }
        let child = command.spawn()?;
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Ok((Self { pid, has_ended: Arc::default() }, child))
    }

    /// Sends the signal with this name, as in `SIGTERM`; whether it could be.
    pub(in crate::replay) fn signal(&self, name: &str) -> bool {
        let signal = match name {
            "SIGTERM" => Signal::TERM,
            "SIGINT" => Signal::INT,
            "SIGHUP" => Signal::HUP,
            "SIGKILL" => Signal::KILL,
            _ => return false,
        };
        match self.pid {
            Some(pid) if !self.has_ended.load(Ordering::Acquire) => kill_process(pid, signal).is_ok(),
            _ => false,
        }
    }

    /// Called once the program itself is gone: takes with it what it left behind.
    fn reaper(&self) -> impl Fn() + Send + use<> {
        let (pid, has_ended) = (self.pid, Arc::clone(&self.has_ended));
        move || {
            if let Some(pid) = pid
                && !has_ended.swap(true, Ordering::AcqRel)
            {
                // Nobody is left in it, mostly.
                let _ = kill_process_group(pid, Signal::KILL);
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.reaper()();
    }
}

/// The end of what a program says on stderr.
#[derive(Clone, Default)]
pub(in crate::replay) struct Tail(Arc<Mutex<VecDeque<u8>>>);

impl Tail {
    pub(in crate::replay) fn push(&self, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(bytes);
        let excess = kept.len().saturating_sub(TAIL_BYTES_MAX);
        kept.drain(..excess);
    }

    /// Its last line that is not empty.
    fn last_line(&self) -> Option<String> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes: Vec<u8> = kept.iter().copied().collect();
        let text = String::from_utf8_lossy(&bytes);
        text.lines().rev().find(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned())
    }
}

/// How a program ended.
struct Exit<'a>(io::Result<ExitStatus>, &'a Tail);

impl fmt::Display for Exit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Ok(status) => write!(f, "it ended with {status}")?,
            Err(error) => write!(f, "it cannot be waited for: {error}")?,
        }
        match self.1.last_line() {
            Some(line) => write!(f, "; its last words: {}", super::super::message::clip(&line, 300)),
            None => Ok(()),
        }
    }
}

impl Link {
    /// A conversation with a program.
    pub(in crate::replay) fn start(
        command: &[OsString],
        environment: &[(OsString, OsString)],
        working_directory: Option<&PathBuf>,
        teller: Teller,
    ) -> io::Result<Self> {
        let (program, mut child) = Program::start(command, environment, working_directory)?;
        let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(errors)) = (input, output, errors) else {
            return Err(io::Error::other("the program has no pipes"));
        };
        let (orders, ordered) = mpsc::unbounded_channel();
        let reap = program.reaper();
        let task = tokio::spawn(async move {
            let tail = Tail::default();
            let heard = tokio::spawn(hear(errors, tail.clone()));
            let writer = tokio::spawn(write(input, ordered));
            let mut reading = Box::pin(read(output, teller.clone()));
            // A program may leave others behind that hold its stdout open: they end with it.
            let status = tokio::select! {
                () = &mut reading => child.wait().await,
                status = child.wait() => {
                    reap();
                    reading.await;
                    status
                }
            };
            reap();
            writer.abort();
            let _ = heard.await;
            teller.tell(Happening::Ended { how: Exit(status, &tail).to_string() });
        });
        Ok(Self { orders, program: Some(program), task: task.abort_handle() })
    }

    /// A conversation on pipes.
    pub(in crate::replay) fn on((output, input): Pipes, teller: Teller) -> Self {
        let (orders, ordered) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let writer = tokio::spawn(write(input, ordered));
            read(output, teller.clone()).await;
            writer.abort();
            teller.tell(Happening::Ended { how: "it closed its output".to_owned() });
        });
        Self { orders, program: None, task: task.abort_handle() }
    }
}

/// Writes frames until the client's end; leaving is the end of input.
async fn write(mut input: impl AsyncWrite + Unpin, mut orders: mpsc::UnboundedReceiver<Order>) {
    while let Some(Order::Frame(mut frame)) = orders.recv().await {
        frame.push(b'\n');
        if input.write_all(&frame).await.is_err() || input.flush().await.is_err() {
            return;
        }
    }
    let _ = input.shutdown().await;
}

async fn read(mut output: impl AsyncRead + Unpin, teller: Teller) {
    let mut decoder = LineDecoder::new(FRAME_BYTES_MAX);
    let mut buffer = vec![0; READ_BYTES];
    let tell = |line: Line| {
        teller.tell(match line {
            Line::Frame(bytes) => Happening::frame(None, &bytes),
            Line::TooLong { size_bytes } => {
                Happening::frame(None, format!("a line of {size_bytes} bytes").as_bytes())
            }
        });
    };
    while let Ok(count) = output.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        decoder.push(&buffer[..count]);
        while let Some(line) = decoder.next_line() {
            tell(line);
        }
    }
    if let Some(line) = decoder.finish() {
        tell(line);
    }
}

async fn hear(mut errors: impl AsyncRead + Unpin, tail: Tail) {
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(count @ 1..) = errors.read(&mut buffer).await {
        tail.push(&buffer[..count]);
    }
}
