//! The host's end: stdin as lines, stdout as frames, whatever the host handed over.
//!
//! Both are registered with the reactor; files, which cannot be, never block for long. stdin's description is left as
//! it is: `poll(2)` is asked before each read, so that none blocks. stdout never blocks either: pipes are
//! non-blocking while the bridge lives, sockets are written with `MSG_DONTWAIT`, ttys through an opening of their own.

use std::{
    io::{self, IsTerminal as _, Stdin, Stdout},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, open},
    io::Errno,
    net::SendFlags,
};
use tokio::io::{Interest, unix::AsyncFd};

use crate::wire::{Line, LineDecoder};

/// Read at once from stdin.
const READ_BYTES: usize = 16 << 10;
/// Beyond so many unsent bytes nothing more is taken from the server.
const UNSENT_BYTES_MAX: usize = 256 << 10;
/// An emptied buffer keeps at most so much.
const KEPT_BYTES: usize = 16 << 10;

#[cfg(target_os = "linux")]
const HANG_UP: PollFlags = PollFlags::RDHUP;
#[cfg(not(target_os = "linux"))]
const HANG_UP: PollFlags = PollFlags::empty();

/// `fd`, which stays open for the life of the process, registered with the reactor; as it came where it cannot be (a
/// file).
#[expect(
    deprecated,
    reason = "its successor is unsafe to call with a descriptor that may be closed; these never are"
)]
fn register<T: AsRawFd>(fd: T, interest: Interest) -> io::Result<Result<AsyncFd<T>, T>> {
    match AsyncFd::try_with_interest(fd, interest) {
        Ok(fd) => Ok(Ok(fd)),
        Err(error) => {
            let (fd, error) = error.into_parts();
            if error.kind() == io::ErrorKind::PermissionDenied { Ok(Err(fd)) } else { Err(error) }
        }
    }
}

fn is_ready(fd: BorrowedFd<'_>, flags: PollFlags) -> io::Result<bool> {
    let mut fds = [PollFd::from_borrowed_fd(fd, flags)];
    match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
        Ok(count) => Ok(count > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Lines from the host.
pub(super) struct Input {
    stdin: Result<AsyncFd<Stdin>, Stdin>,
    decoder: LineDecoder,
    buffer: Box<[u8]>,
    at_end: bool,
}

impl Input {
    pub(super) fn new(line_bytes_max: usize) -> io::Result<Self> {
        Ok(Self {
            stdin: register(io::stdin(), Interest::READABLE)?,
            decoder: LineDecoder::new(line_bytes_max),
            buffer: vec![0; READ_BYTES].into_boxed_slice(),
            at_end: false,
        })
    }

    /// The next whole line that has been read.
    pub(super) fn line(&mut self) -> Option<Line> {
        let line = self.decoder.next_line();
        if line.is_none() && self.at_end { self.decoder.finish() } else { line }
    }

    /// Whether the input has ended.
    pub(super) const fn is_at_end(&self) -> bool {
        self.at_end
    }

    /// Waits for bytes and reads once. Losing the future loses nothing.
    pub(super) async fn fill(&mut self) -> io::Result<()> {
        let read = match &self.stdin {
            Err(file) => rustix::io::read(file, &mut self.buffer[..]),
            Ok(stdin) => {
                while !is_ready(stdin.get_ref().as_fd(), PollFlags::IN)? {
                    stdin.readable().await?.clear_ready();
                }
                rustix::io::read(stdin.get_ref(), &mut self.buffer[..])
            }
        };
        match read {
            Ok(0) | Err(Errno::CONNRESET | Errno::IO) => self.at_end = true,
            Ok(count) => self.decoder.push(&self.buffer[..count]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Waits until the host has closed its end, without reading.
    pub(super) async fn hung_up(&self) -> io::Result<()> {
        match &self.stdin {
            Err(_) => std::future::pending().await,
            Ok(stdin) => {
                while !is_ready(stdin.get_ref().as_fd(), HANG_UP)? {
                    stdin.readable().await?.clear_ready();
                }
                Ok(())
            }
        }
    }
}

enum Kind {
    /// Non-blocking while the bridge lives; the flags it had before.
    Pipe(OFlags),
    Socket,
    /// Opened anew, because the description is shared with the shell that it came from.
    Tty(OwnedFd),
    /// Takes what it is given.
    Other,
}

/// The only owner of stdout.
pub(super) struct Output {
    stdout: Result<AsyncFd<Stdout>, Stdout>,
    kind: Kind,
    unsent: Vec<u8>,
    /// Bytes of `unsent` that are written already.
    written: usize,
}

/// Nobody reads stdout any more.
pub(super) struct Gone;

impl Output {
    pub(super) fn new() -> io::Result<Self> {
        let stdout = register(io::stdout(), Interest::WRITABLE)?;
        let fd = io::stdout();
        let kind = match FileType::from_raw_mode(fstat(&fd)?.st_mode) {
            FileType::Fifo => {
                let flags = fcntl_getfl(&fd)?;
                fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
                Kind::Pipe(flags)
            }
            FileType::Socket => Kind::Socket,
            FileType::CharacterDevice if fd.is_terminal() => {
                own_opening(fd.as_fd()).map_or(Kind::Other, Kind::Tty)
            }
            FileType::RegularFile
            | FileType::Directory
            | FileType::Symlink
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => Kind::Other,
        };
        Ok(Self { stdout, kind, unsent: Vec::new(), written: 0 })
    }

    /// Takes one frame; a newline inside, which JSON allows between tokens only, becomes a space.
    pub(super) fn push(&mut self, frame: &[u8]) {
        let start = self.unsent.len();
        self.unsent.extend_from_slice(frame);
        if frame.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
            for byte in &mut self.unsent[start..] {
                if matches!(byte, b'\n' | b'\r') {
                    *byte = b' ';
                }
            }
        }
        self.unsent.push(b'\n');
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.unsent.len() == self.written
    }

    pub(super) const fn is_full(&self) -> bool {
        self.unsent.len() - self.written >= UNSENT_BYTES_MAX
    }

    /// Writes all that waits. Losing the future loses nothing.
    pub(super) async fn flush(&mut self) -> io::Result<Result<(), Gone>> {
        while !self.is_empty() {
            match self.write() {
                Ok(count) => self.written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => match &self.stdout {
                    Ok(stdout) => {
                        let mut guard = stdout.writable().await?;
                        // Only what is still full is waited for anew.
                        if !is_ready(stdout.get_ref().as_fd(), PollFlags::OUT)? {
                            guard.clear_ready();
                        }
                    }
                    Err(_) => tokio::task::yield_now().await,
                },
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => return Ok(Err(Gone)),
                Err(error) => return Err(error.into()),
            }
        }
        self.unsent.clear();
        // A burst of large answers must not keep its memory for ever.
        self.unsent.shrink_to(KEPT_BYTES);
        self.written = 0;
        Ok(Ok(()))
    }

    fn write(&self) -> Result<usize, Errno> {
        let bytes = &self.unsent[self.written..];
        let fd = match &self.stdout {
            Ok(stdout) => stdout.get_ref().as_fd(),
            Err(stdout) => stdout.as_fd(),
        };
        match &self.kind {
            Kind::Socket => rustix::net::send(fd, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            Kind::Tty(own) => rustix::io::write(own, bytes),
            Kind::Pipe(_) | Kind::Other => rustix::io::write(fd, bytes),
        }
    }
}

/// The same tty as a description of our own, where the system offers one (`/proc`).
fn own_opening(tty: BorrowedFd<'_>) -> Option<OwnedFd> {
    let path = format!("/proc/self/fd/{}", tty.as_raw_fd());
    open(path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).ok()
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Kind::Pipe(flags) = self.kind {
            // The description may be shared with whoever launched us: leave it as it was.
            let _ = fcntl_setfl(io::stdout(), flags);
        }
    }
}
