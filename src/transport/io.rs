//! One accepted connection as bytes: plain or TLS, the same type for HTTP and for what is upgraded from it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Sleep, sleep},
};
use tokio_rustls::server::TlsStream;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::metrics::Counted;

/// After our end was closed, what the client still sends is read for so long: closing over unread bytes would make its
/// system throw the answer away.
const LINGER: Duration = Duration::from_secs(1);

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What a connection is doing, as far as time-outs are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Between requests.
    Idle = 0,
    /// The head of a request has begun to arrive, or nothing has come yet at all.
    Head = 1,
    /// A request is being answered.
    Busy = 2,
}

/// What the two sides of HTTP's machinery know of one connection: its bytes, and its requests.
#[derive(Debug)]
pub(super) struct Line {
    phase: AtomicU8,
    /// Requests begun so far.
    served: AtomicU64,
    /// The last answer may leave bytes of its request unread.
    lingers: AtomicBool,
}

impl Line {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            phase: AtomicU8::new(Phase::Head as u8),
            served: AtomicU64::new(0),
            lingers: AtomicBool::new(false),
        })
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Idle,
            1 => Phase::Head,
            _ => Phase::Busy,
        }
    }

    pub(super) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// A request begins.
    pub(super) fn begin(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
        self.phase.store(Phase::Busy as u8, Ordering::Relaxed);
    }

    /// A request is answered.
    pub(super) fn end(&self) {
        self.phase.store(Phase::Idle as u8, Ordering::Relaxed);
    }

    /// The request is answered although not all of it was read.
    pub(super) fn linger(&self) {
        self.lingers.store(true, Ordering::Relaxed);
    }

    fn arrived(&self) {
        if self.phase.load(Ordering::Relaxed) == Phase::Idle as u8 {
            self.phase.store(Phase::Head as u8, Ordering::Relaxed);
        }
    }
}

/// The place that a connection holds among all: given back when its bytes are, whoever has them by then.
#[expect(dead_code, reason = "held for what happens when they are dropped")]
pub(super) struct Place {
    pub(super) permit: OwnedSemaphorePermit,
    pub(super) tracked: TaskTrackerToken,
    pub(super) counted: Counted,
}

/// A connection of a client. Ends with an error where the peer takes nothing of what waits for it for too long.
pub struct Io {
    stream: Stream,
    line: Arc<Line>,
    /// How long a write may wait without progress.
    stall: Duration,
    /// Runs while a write waits, and while the connection lingers.
    timer: Option<Pin<Box<Sleep>>>,
    /// Our end is closed.
    is_shut: bool,
    _place: Place,
}

impl Io {
    pub(super) fn plain(stream: TcpStream, line: Arc<Line>, stall: Duration, place: Place) -> Self {
        Self { stream: Stream::Plain(stream), line, stall, timer: None, is_shut: false, _place: place }
    }

    pub(super) fn tls(stream: TlsStream<TcpStream>, line: Arc<Line>, stall: Duration, place: Place) -> Self {
        let stream = Stream::Tls(Box::new(stream));
        Self { stream, line, stall, timer: None, is_shut: false, _place: place }
    }

    /// Holds a write's outcome against the time that it may wait.
    fn guard<T>(&mut self, context: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.timer = None;
            return outcome;
        }
        let stall = self.stall;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(stall)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing of what is sent")))
    }

    fn poll_read_stream(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }

    /// Reads what nobody wants, until the peer closes or time is over.
    fn poll_linger(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        if timer.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        let mut scrap = [0; 4 << 10];
        loop {
            let mut buffer = ReadBuf::new(&mut scrap);
            match ready!(self.poll_read_stream(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
    }
}

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(this.poll_read_stream(context, buffer))?;
        if buffer.filled().len() > before {
            this.line.arrived();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        };
        this.guard(context, outcome)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let outcome = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        };
        this.guard(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_shut {
            return Poll::Ready(Ok(()));
        }
        let outcome = match &mut this.stream {
            // A socket has nothing of its own to flush, and must not end a write's wait.
            Stream::Plain(stream) => return Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        };
        this.guard(context, outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.is_shut {
            let outcome = match &mut this.stream {
                Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
                Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
            };
            ready!(this.guard(context, outcome))?;
            this.is_shut = true;
        }
        if this.line.lingers.load(Ordering::Relaxed) {
            ready!(this.poll_linger(context));
        }
        Poll::Ready(Ok(()))
    }
}
