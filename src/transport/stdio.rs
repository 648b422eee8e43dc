//! MCP on stdin and stdout: one JSON text per line (specification: basic/transports, stdio).
//!
//! One thread owns both ends and sleeps in `poll(2)`: a trivial call costs one read and one write, with no task switch
//! between them. Whatever stdin is (pipe, Unix socket, file, tty), `poll` is asked before each read, so a read never
//! blocks the loop. Writes never block either: pipes are switched to non-blocking for the life of the loop, sockets
//! are written with `MSG_DONTWAIT`, ttys through a non-blocking opening of their own; files take what they are given. All frames that one round produced leave in
//! one write. While the reader of stdout does not keep up stdin is not read. While too many calls are in flight requests are
//! held back, and after some of them stdin is not read either; what needs no room (pings, cancellations, answers) goes past
//! them. The client's leaving is watched for all the time, so that neither delays the end.

use std::{
    collections::VecDeque,
    io::{self, IsTerminal, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FileType, Mode, OFlags, fcntl_getfl, fcntl_setfl, fstat, open},
    io::Errno,
    net::SendFlags,
};
use tracing::debug;

use crate::{
    limits::{ConnectionLimits, ShutdownLimits},
    protocol::Now,
    session::{Driver, Wake},
    wire::{Line, LineDecoder},
};

/// Read at once from stdin.
const READ_BYTES: usize = 64 << 10;
/// What `poll` is asked of an input that is not to be read: only whether the other end has closed.
#[cfg(target_os = "linux")]
const HANG_UP: PollFlags = PollFlags::RDHUP;
#[cfg(not(target_os = "linux"))]
const HANG_UP: PollFlags = PollFlags::empty();
/// Lines taken in while the connection is full of calls: beyond these pings and cancellations are not seen.
const HELD_BYTES_MAX: usize = 64 << 10;
/// Unsent bytes beyond which stdin is not read.
const UNSENT_BYTES_MAX: usize = 1 << 20;

/// How the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// stdin ended and every call was answered.
    Drained,
    /// stdin ended, and calls were cut off after the drain limit.
    CutOff,
    /// A signal asked for the end.
    Stopped,
    /// Nobody reads stdout any more.
    PeerGone,
}

/// Whether somebody outside asked for the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Nobody did.
    No,
    /// Calls in flight may still answer, as at the end of input.
    Drain,
    /// They are cut off now.
    Cut,
}

/// Wakes the loop from other threads.
pub struct Waker {
    writer: UnixStream,
}

impl Wake for Waker {
    fn wake(&self) {
        // A full pipe means that the loop has been woken already.
        let _ = (&self.writer).write(&[1]);
    }
}

/// The loop's end of a [`Waker`].
pub struct Wakened {
    reader: UnixStream,
}

/// A waker and its other end.
///
/// # Errors
/// No file descriptor is left.
pub fn waker() -> io::Result<(Waker, Wakened)> {
    let (reader, writer) = UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    writer.set_nonblocking(true)?;
    Ok((Waker { writer }, Wakened { reader }))
}

/// What one connection is served on.
#[derive(Clone, Copy)]
pub struct Binding<'a> {
    /// Frames come from here.
    pub input: BorrowedFd<'a>,
    /// Frames go here, and nothing else does.
    pub output: BorrowedFd<'a>,
    /// The loop's end of the waker that the driver's mailbox has.
    pub wakened: &'a Wakened,
    /// Limits of the connection.
    pub limits: &'a ConnectionLimits,
    /// How it ends.
    pub shutdown: &'a ShutdownLimits,
}

impl Binding<'_> {
    /// Serves the connection until its end, and at most `shutdown.exit` longer.
    ///
    /// `stop` is asked after each wake-up; once it says so the loop stops reading and drains, or cuts off what runs.
    ///
    /// # Errors
    /// `poll`, reading or writing failed for another reason than the peer's leaving.
    pub fn run(
        &self,
        driver: &mut Driver,
        clock: impl Fn() -> Now,
        stop: impl Fn() -> Stop,
    ) -> io::Result<Ended> {
        let Self { input, output, wakened, limits, shutdown } = *self;
        let mut writer = Writer::new(output)?;
        let mut lines = Lines::new(limits.frame_in_bytes_max);
        let mut buffer = vec![0; READ_BYTES];
        let mut phase = Phase::Open;
        // The client has closed its end. What it left is finite (it lies in the kernel), and is taken in without regard
        // to room: the core queues it, and the end of input comes to light.
        let mut hung_up: Option<Instant> = None;
        loop {
            if phase.reads() {
                lines.feed(driver, &clock, &mut writer, limits, hung_up.is_some());
            }
            if writer.flush()? == Flushed::PeerGone {
                return Ok(Ended::PeerGone);
            }
            let now = clock();
            if let Some(end) = phase.ended(driver, &writer, now, shutdown) {
                return Ok(end);
            }
            let takes = hung_up.is_some() || !writer.is_full(limits) && lines.may_hold(limits);
            let interest = match phase {
                Phase::Open if takes && lines.is_exhausted => Interest::Read,
                Phase::Open => Interest::HangUp,
                Phase::Draining { .. } | Phase::Cut { .. } => Interest::Nothing,
            };
            driver.set_congested(!writer.is_empty());
            // Held-back frames that may go on now: look around without sleeping.
            let goes_on = phase.reads() && !writer.is_full(limits) && lines.can_go_on(driver, limits);
            let at_once = goes_on.then_some(now.monotonic);
            let timeout =
                [at_once, driver.next_timeout(), phase.next_timeout(shutdown)].into_iter().flatten().min();
            let woken = wait(input, output, wakened, interest, !writer.is_empty(), timeout, now.monotonic)?;
            let now = clock();
            if woken.mail {
                wakened.clear();
                driver.mail(now);
                match stop() {
                    Stop::Drain if phase == Phase::Open => {
                        phase = Phase::Draining { since: now.monotonic, stopped: true };
                        driver.eof(now);
                    }
                    Stop::Cut if !matches!(phase, Phase::Cut { .. }) => {
                        // As if draining had begun so long ago that it is over.
                        let since = now.monotonic.checked_sub(shutdown.drain).unwrap_or(now.monotonic);
                        phase = Phase::Cut { since, stopped: true };
                        driver.drain_deadline(now);
                    }
                    Stop::No | Stop::Drain | Stop::Cut => {}
                }
            }
            if driver.next_timeout().is_some_and(|due| due <= now.monotonic) {
                driver.timeout(now);
            }
            if phase.drain_is_over(now.monotonic, shutdown) {
                phase = phase.cut();
                driver.drain_deadline(now);
            }
            if woken.hung_up {
                hung_up.get_or_insert(now.monotonic);
            }
            if woken.input {
                match read(input, &mut buffer) {
                    Ok(0) => {
                        lines.feed_rest(driver, now);
                        // A client that left waits from then on, however long it took to read what it left.
                        let since = hung_up.unwrap_or(now.monotonic);
                        phase = Phase::Draining { since, stopped: false };
                        driver.eof(now);
                    }
                    Ok(count) => lines.push(&buffer[..count]),
                    Err(Errno::INTR | Errno::AGAIN) => {}
                    Err(Errno::CONNRESET | Errno::IO) => {
                        phase = Phase::Draining { since: now.monotonic, stopped: false };
                        driver.eof(now);
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            writer.extend(driver);
        }
    }
}

fn feed(driver: &mut Driver, now: Now, line: &Line) {
    match line {
        Line::Frame(bytes) => driver.frame(now, bytes),
        Line::TooLong { size_bytes } => driver.oversized_frame(now, *size_bytes),
    }
}

/// What was read and is not fed yet.
struct Lines {
    decoder: LineDecoder,
    /// These wait until there is room for another request, in order.
    held: VecDeque<Line>,
    held_bytes: usize,
    /// No complete line is left in the decoder.
    is_exhausted: bool,
}

impl Lines {
    const fn new(line_bytes_max: usize) -> Self {
        Self {
            decoder: LineDecoder::new(line_bytes_max),
            held: VecDeque::new(),
            held_bytes: 0,
            is_exhausted: true,
        }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.decoder.push(bytes);
        self.is_exhausted = false;
    }

    /// Whether another line may be looked at, although it may have to wait.
    fn may_hold(&self, limits: &ConnectionLimits) -> bool {
        self.held_bytes < HELD_BYTES_MAX && self.held.len() < limits.writer_queue_frames_max.max(1)
    }

    /// Whether [`Lines::feed`] would do anything, as far as room is concerned.
    fn can_go_on(&self, driver: &Driver, limits: &ConnectionLimits) -> bool {
        !self.held.is_empty() && driver.accepts_input() || !self.is_exhausted && self.may_hold(limits)
    }

    /// Feeds what finds room, or needs none; all of it, `regardless` of room, where the client has left.
    fn feed(
        &mut self,
        driver: &mut Driver,
        clock: &impl Fn() -> Now,
        writer: &mut Writer<'_>,
        limits: &ConnectionLimits,
        regardless: bool,
    ) {
        while regardless || !writer.is_full(limits) {
            let has_room = regardless || driver.accepts_input();
            let line = match self.held.pop_front_if(|_| has_room) {
                Some(line) => {
                    self.held_bytes -= size(&line);
                    line
                }
                None if !self.may_hold(limits) => return,
                None => {
                    let Some(line) = self.decoder.next_line() else {
                        self.is_exhausted = true;
                        return;
                    };
                    if !has_room && !needs_no_room(driver, &line) {
                        self.held_bytes += size(&line);
                        self.held.push_back(line);
                        continue;
                    }
                    line
                }
            };
            feed(driver, clock(), &line);
            writer.extend(driver);
        }
    }

    /// Feeds what is left at the end of the input.
    fn feed_rest(&mut self, driver: &mut Driver, now: Now) {
        for line in self.held.drain(..) {
            feed(driver, now, &line);
        }
        self.held_bytes = 0;
        while let Some(line) = self.decoder.next_line() {
            feed(driver, now, &line);
        }
        // A complete JSON text before the end counts even without its newline.
        if let Some(line) = self.decoder.finish() {
            feed(driver, now, &line);
        }
    }
}

fn size(line: &Line) -> usize {
    match line {
        Line::Frame(bytes) => bytes.len(),
        Line::TooLong { .. } => 0,
    }
}

fn needs_no_room(driver: &Driver, line: &Line) -> bool {
    let Line::Frame(bytes) = line else { return false };
    std::str::from_utf8(bytes).is_ok_and(|text| driver.connection().text_needs_no_room(text))
}

/// Where the loop is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// No more input; calls in flight may still answer.
    Draining {
        since: Instant,
        stopped: bool,
    },
    /// What still ran was cancelled.
    Cut {
        since: Instant,
        stopped: bool,
    },
}

impl Phase {
    const fn reads(self) -> bool {
        matches!(self, Self::Open)
    }

    fn next_timeout(self, shutdown: &ShutdownLimits) -> Option<Instant> {
        match self {
            Self::Open => None,
            Self::Draining { since, .. } => Some(since + shutdown.drain),
            Self::Cut { since, .. } => Some(since + shutdown.exit),
        }
    }

    fn drain_is_over(self, now: Instant, shutdown: &ShutdownLimits) -> bool {
        matches!(self, Self::Draining { since, .. } if since + shutdown.drain <= now)
    }

    const fn cut(self) -> Self {
        match self {
            Self::Draining { since, stopped } => Self::Cut { since, stopped },
            Self::Open | Self::Cut { .. } => self,
        }
    }

    fn ended(
        self,
        driver: &Driver,
        writer: &Writer<'_>,
        now: Now,
        shutdown: &ShutdownLimits,
    ) -> Option<Ended> {
        match self {
            Self::Open => None,
            Self::Draining { stopped, .. } => (driver.is_drained() && driver.is_idle() && writer.is_empty())
                .then_some(if stopped { Ended::Stopped } else { Ended::Drained }),
            Self::Cut { since, stopped } => {
                let gone = (driver.is_idle() && writer.is_empty()) || since + shutdown.exit <= now.monotonic;
                gone.then_some(if stopped { Ended::Stopped } else { Ended::CutOff })
            }
        }
    }
}

/// What the input is watched for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Interest {
    /// Bytes, or the end.
    Read,
    /// The other end's closing.
    HangUp,
    Nothing,
}

struct Woken {
    input: bool,
    hung_up: bool,
    mail: bool,
}

/// Sleeps until something can be done.
fn wait(
    input: BorrowedFd<'_>,
    output: BorrowedFd<'_>,
    wakened: &Wakened,
    interest: Interest,
    writes: bool,
    timeout: Option<Instant>,
    now: Instant,
) -> io::Result<Woken> {
    let mut fds = [
        PollFd::from_borrowed_fd(wakened.reader.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(output, PollFlags::OUT),
        PollFd::from_borrowed_fd(output, PollFlags::OUT),
    ];
    // With nothing to write, `output` is left out: a reader that has gone would otherwise wake the loop for ever.
    let mut used = 1 + usize::from(writes);
    let watched = match interest {
        Interest::Read => Some(PollFlags::IN),
        Interest::HangUp => Some(HANG_UP),
        Interest::Nothing => None,
    };
    let place = used;
    if let Some(flags) = watched {
        fds[place] = PollFd::from_borrowed_fd(input, flags);
        used += 1;
    }
    let timeout = timeout.map(|due| {
        // Rounded up to the next microsecond, so that the wake-up is never a hair early.
        let left = due.saturating_duration_since(now) + Duration::from_micros(1);
        Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) }
    });
    match poll(&mut fds[..used], timeout.as_ref()) {
        Ok(_) => {}
        Err(Errno::INTR) => return Ok(Woken { input: false, hung_up: false, mail: true }),
        Err(error) => return Err(error.into()),
    }
    let happened = watched.is_some() && !fds[place].revents().is_empty();
    Ok(Woken {
        input: happened && interest == Interest::Read,
        hung_up: happened && interest == Interest::HangUp,
        mail: !fds[0].revents().is_empty(),
    })
}

fn read(input: BorrowedFd<'_>, buffer: &mut [u8]) -> Result<usize, Errno> {
    rustix::io::read(input, buffer)
}

impl Wakened {
    fn clear(&self) {
        let mut sink = [0; 64];
        while (&self.reader).read(&mut sink).is_ok_and(|count| count == sink.len()) {}
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Flushed {
    /// What could be written was.
    Open,
    /// Nobody reads any more.
    PeerGone,
}

enum Kind {
    /// Non-blocking while the writer lives; the flags it had before.
    Pipe(OFlags),
    Socket,
    /// Opened anew and non-blocking, because the description is shared with the shell that it came from.
    Tty(OwnedFd),
    /// A file: takes what it is given.
    Other,
}

/// The only owner of stdout.
struct Writer<'a> {
    output: BorrowedFd<'a>,
    kind: Kind,
    unsent: Vec<u8>,
    /// Bytes of `unsent` that are written already.
    written: usize,
    frames: usize,
}

impl<'a> Writer<'a> {
    fn new(output: BorrowedFd<'a>) -> io::Result<Self> {
        let kind = match FileType::from_raw_mode(fstat(output)?.st_mode) {
            FileType::Fifo => {
                let flags = fcntl_getfl(output)?;
                fcntl_setfl(output, flags | OFlags::NONBLOCK)?;
                Kind::Pipe(flags)
            }
            FileType::Socket => Kind::Socket,
            FileType::CharacterDevice if output.is_terminal() => {
                own_opening(output).map_or(Kind::Other, Kind::Tty)
            }
            FileType::RegularFile
            | FileType::Directory
            | FileType::Symlink
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => Kind::Other,
        };
        Ok(Self { output, kind, unsent: Vec::new(), written: 0, frames: 0 })
    }

    fn extend(&mut self, driver: &mut Driver) {
        for outgoing in driver.take_outgoing() {
            self.unsent.extend_from_slice(outgoing.frame.as_bytes());
            self.unsent.push(b'\n');
            self.frames += 1;
        }
    }

    const fn is_empty(&self) -> bool {
        self.unsent.len() == self.written
    }

    /// While a burst is being answered nothing is unsent but its own answers: they leave together.
    const fn is_full(&self, limits: &ConnectionLimits) -> bool {
        self.frames >= limits.writer_queue_frames_max || self.unsent.len() - self.written >= UNSENT_BYTES_MAX
    }

    fn flush(&mut self) -> io::Result<Flushed> {
        while !self.is_empty() {
            let bytes = &self.unsent[self.written..];
            let written = match self.kind {
                Kind::Socket => {
                    rustix::net::send(self.output, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
                }
                Kind::Tty(ref own) => rustix::io::write(own, bytes),
                Kind::Pipe(_) | Kind::Other => rustix::io::write(self.output, bytes),
            };
            match written {
                Ok(count) => self.written += count,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(Flushed::Open),
                Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => {
                    debug!("nobody reads stdout any more");
                    return Ok(Flushed::PeerGone);
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.unsent.clear();
        // A burst of large answers must not keep its memory for ever.
        self.unsent.shrink_to(READ_BYTES);
        self.written = 0;
        self.frames = 0;
        Ok(Flushed::Open)
    }
}

/// The same tty as a description of our own, where the system offers one (`/proc`).
fn own_opening(tty: BorrowedFd<'_>) -> Option<OwnedFd> {
    let path = format!("/proc/self/fd/{}", tty.as_raw_fd());
    open(path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).ok()
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        if let Kind::Pipe(flags) = self.kind {
            // The description may be shared with whoever launched us: leave it as it was.
            let _ = fcntl_setfl(self.output, flags);
        }
    }
}
