//! One connection on a WebSocket: one task, which owns the driver and the socket.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::task::AtomicWaker;
use tokio::time::{Sleep, sleep_until};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tracing::{debug, error};

use super::{
    Language,
    keep_alive::{KeepAlive, Quiet},
    socket::{CloseCode, Ended, Incoming, Socket},
};
use crate::{
    access::Entrant,
    metrics::Transport,
    protocol::{BatchAnswers, Now},
    session::Wake,
    transport::{Host, Io, Seat, dialect::Dialect},
};

/// Bytes of answers that are written at once, although more of the burst is still to be read.
const WRITE_AT_BYTES: usize = 32 << 10;
/// Unsent bytes beyond which nothing is read.
const UNSENT_BYTES_MAX: usize = 1 << 20;
/// Messages taken in while the connection is full of calls: beyond these pings and the close of the peer are not seen.
const HELD_BYTES_MAX: usize = 64 << 10;
/// The closing handshake may take so long.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// The same while the server ends.
const CLOSE_LIMIT_STOPPING: Duration = Duration::from_millis(400);
/// A timer never fires sooner again, whatever asks for it.
const TIMER_STEP: Duration = Duration::from_millis(1);

/// Wakes the connection's task from anywhere.
struct Bell {
    rung: AtomicBool,
    waker: AtomicWaker,
}

impl Wake for Arc<Bell> {
    fn wake(&self) {
        self.rung.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// How it ends.
enum Farewell {
    /// With the closing handshake; the close frame is queued.
    Orderly,
    /// There is nobody to say it to.
    Silent,
}

/// Serves one client until its end.
pub(super) async fn serve(host: Arc<Host>, entrant: Entrant, mut socket: Socket<Io>, language: Language) {
    // Rung from the start: the server may be stopping already.
    let bell = Arc::new(Bell { rung: AtomicBool::new(true), waker: AtomicWaker::new() });
    let signer = host.signer_for(&entrant).await;
    let (session, client, transport, dialect) = match language {
        Language::Mcp => (Host::random_name(), None, Transport::WebSocket, None),
        Language::Dialect => {
            let dialect = Box::new(Dialect::open(&host));
            if let Some(welcome) = dialect.welcome(&host, &entrant) {
                socket.queue_text(welcome.as_bytes());
            }
            let session = dialect.session().to_owned();
            (session, Some(Dialect::client()), Transport::Dialect, Some(dialect))
        }
    };
    let mut seat = host.seat(&entrant, &session, signer, BatchAnswers::Frames, client, Arc::clone(&bell));
    seat.driver.set_transport(transport);
    let membership = host.join(&seat);
    let counted = host.metrics.session(transport);
    let now = (host.clock)().monotonic;
    let limits = &host.network_limits;
    let keep_alive = KeepAlive::new(limits.ping_interval, limits.idle_timeout, now);
    let mut connection = Connection {
        seat,
        dialect,
        socket,
        bell,
        entrant,
        held: VecDeque::new(),
        held_bytes: 0,
        keep_alive,
        stalled: None,
        is_congested: false,
        is_stopping: false,
        host,
    };
    let farewell = {
        let mut timer = pin!(sleep_until(connection.due().into()));
        poll_fn(|context| {
            let polled = catch_unwind(AssertUnwindSafe(|| connection.poll(context, timer.as_mut())));
            polled.unwrap_or_else(|_| {
                error!("a WebSocket connection panicked; it is closed");
                connection.socket.close(CloseCode::Error, "internal error");
                Poll::Ready(Farewell::Orderly)
            })
        })
        .await
    };
    // Nobody can take the answers any more: what still runs for this client is cancelled, and its subscriptions go.
    let now = (connection.host.clock)();
    drop(membership);
    connection.seat.driver.eof(now);
    connection.seat.driver.drain_deadline(now);
    let Connection { seat, mut socket, host, .. } = connection;
    drop(seat);
    if matches!(farewell, Farewell::Orderly) {
        let limit = if host.stopping.is_cancelled() { CLOSE_LIMIT_STOPPING } else { CLOSE_LIMIT };
        // Boxed: every connection would carry it along all its life.
        Box::pin(socket.finish(limit)).await;
    }
    drop(counted);
}

struct Connection {
    host: Arc<Host>,
    entrant: Entrant,
    seat: Seat,
    /// Stands between socket and driver where they speak different languages.
    dialect: Option<Box<Dialect>>,
    socket: Socket<Io>,
    bell: Arc<Bell>,
    /// Messages that the driver has no room for yet.
    held: VecDeque<Utf8Bytes>,
    held_bytes: usize,
    keep_alive: KeepAlive,
    /// Since when the peer takes nothing of what waits for it.
    stalled: Option<Instant>,
    is_congested: bool,
    /// The server ends: no new work.
    is_stopping: bool,
}

impl Connection {
    fn now(&self) -> Now {
        (self.host.clock)()
    }

    /// One round: everything that has come is taken, everything that is to be said is written.
    fn poll(&mut self, context: &mut Context<'_>, mut timer: Pin<&mut Sleep>) -> Poll<Farewell> {
        // Before the flag is looked at, so that no ring is missed.
        self.bell.waker.register(context.waker());
        let now = self.now();
        if self.bell.rung.swap(false, Ordering::AcqRel)
            && let Some(farewell) = self.rung(now)
        {
            return Poll::Ready(farewell);
        }
        loop {
            let has_more = match self.read(context, now) {
                Ok(has_more) => has_more,
                Err(farewell) => return Poll::Ready(farewell),
            };
            if self.send(context, now).is_err() {
                return Poll::Ready(Farewell::Silent);
            }
            // Reading had stopped for want of room, and now there is some.
            if !(has_more && self.may_read()) {
                break;
            }
        }
        if self.socket.take_heard() {
            self.keep_alive.heard(now.monotonic);
        }
        if self.is_stopping && self.is_done() {
            self.socket.close(CloseCode::Away, "the server is stopping");
            return Poll::Ready(Farewell::Orderly);
        }
        // The timer is moved only where something is due before it; that it fires early costs less.
        let due = self.due();
        if timer.deadline() > due.into() {
            timer.as_mut().reset(due.into());
        }
        while timer.as_mut().poll(context).is_ready() {
            let now = self.now();
            if let Some(farewell) = self.timed(now) {
                return Poll::Ready(farewell);
            }
            if self.send(context, now).is_err() {
                return Poll::Ready(Farewell::Silent);
            }
            timer.as_mut().reset(self.due().max(now.monotonic + TIMER_STEP).into());
        }
        Poll::Pending
    }

    /// Somebody has woken us: a call with something to say, or the server about its end or a token.
    fn rung(&mut self, now: Now) -> Option<Farewell> {
        self.seat.driver.mail(now);
        self.collect();
        if self.entrant.principal.is_revoked() {
            self.host.metrics.refused("token-withdrawn");
            self.socket.close(CloseCode::Policy, "the token was withdrawn: ask for a new one");
            return Some(Farewell::Orderly);
        }
        if self.host.cut_off.is_cancelled() {
            self.seat.driver.eof(now);
            self.seat.driver.drain_deadline(now);
            self.collect();
            self.socket.close(CloseCode::Away, "the server is stopping");
            return Some(Farewell::Orderly);
        }
        if !self.is_stopping && self.host.stopping.is_cancelled() {
            self.is_stopping = true;
            // What came before the end but found no room gets no answer; the close says so.
            self.held.clear();
            self.held_bytes = 0;
            self.seat.driver.eof(now);
            self.collect();
        }
        None
    }

    /// Takes everything that has come. True where reading stopped for want of room, false where nothing is left.
    fn read(&mut self, context: &mut Context<'_>, now: Now) -> Result<bool, Farewell> {
        loop {
            while self.seat.driver.accepts_input()
                && let Some(text) = self.held.pop_front()
            {
                self.held_bytes -= text.len();
                self.feed(now, &text);
            }
            if !self.may_read() {
                return Ok(true);
            }
            match self.socket.poll_incoming(context) {
                Poll::Pending => return Ok(false),
                Poll::Ready(Ok(Incoming::Text(text))) => self.take(now, text),
                Poll::Ready(Ok(Incoming::Control)) => {}
                Poll::Ready(Ok(Incoming::Binary(_))) => {
                    self.host.metrics.refused("binary-frame");
                    self.socket.fail(CloseCode::Unsupported, "MCP is JSON: send it in text messages");
                    return Err(Farewell::Orderly);
                }
                Poll::Ready(Err(Ended::Closed)) => return Err(Farewell::Orderly),
                Poll::Ready(Err(Ended::Failed(code))) => {
                    self.host.metrics.refused(match code {
                        CloseCode::Invalid => "invalid-utf8",
                        CloseCode::Size => "oversized-frame",
                        _ => "websocket-protocol",
                    });
                    return Err(Farewell::Orderly);
                }
                Poll::Ready(Err(Ended::Gone)) => {
                    debug!("a WebSocket's peer left without a close");
                    return Err(Farewell::Silent);
                }
            }
            if self.socket.unsent_bytes() >= WRITE_AT_BYTES && self.send(context, now).is_err() {
                return Err(Farewell::Silent);
            }
        }
    }

    fn take(&mut self, now: Now, text: Utf8Bytes) {
        if self.is_stopping {
            return;
        }
        let has_room = self.held.is_empty() && self.seat.driver.accepts_input();
        if has_room || self.seat.driver.connection().text_needs_no_room(&text) {
            self.feed(now, &text);
        } else {
            self.held_bytes += text.len();
            self.held.push_back(text);
        }
    }

    fn feed(&mut self, now: Now, text: &Utf8Bytes) {
        match &mut self.dialect {
            None => self.seat.driver.frame(now, text.as_bytes()),
            Some(dialect) => {
                if let Some(answer) = dialect.take(&self.host, &mut self.seat.driver, now, text.as_bytes()) {
                    self.socket.queue_text(answer.as_bytes());
                }
            }
        }
        self.collect();
    }

    /// Queues what the driver has to send.
    fn collect(&mut self) {
        for outgoing in self.seat.driver.take_outgoing() {
            match &mut self.dialect {
                None => self.socket.queue_text(outgoing.frame.as_bytes()),
                Some(dialect) => {
                    if let Some(frame) = dialect.give(&self.host, &outgoing) {
                        self.socket.queue_text(frame.as_bytes());
                    }
                }
            }
        }
    }

    fn may_read(&self) -> bool {
        let limits = &self.host.connection_limits;
        // While the peer takes what it is sent, nothing waits but the answers of this burst.
        let is_full = self.stalled.is_some()
            && (self.socket.unsent_frames() >= limits.writer_queue_frames_max
                || self.socket.unsent_bytes() >= UNSENT_BYTES_MAX);
        !is_full && self.held_bytes < HELD_BYTES_MAX && self.held.len() < limits.writer_queue_frames_max
    }

    fn send(&mut self, context: &mut Context<'_>, now: Now) -> Result<(), ()> {
        let unsent = self.socket.unsent_bytes();
        let sent = self.socket.poll_send(context);
        match sent {
            Poll::Ready(Ok(())) => self.stalled = None,
            Poll::Ready(Err(error)) => {
                if error.kind() == io::ErrorKind::TimedOut {
                    self.host.metrics.refused("slow-reader");
                }
                debug!(%error, "a WebSocket's peer is gone");
                return Err(());
            }
            Poll::Pending => {
                if self.stalled.is_none() || self.socket.unsent_bytes() != unsent {
                    self.stalled = Some(now.monotonic);
                }
            }
        }
        if self.is_congested != self.stalled.is_some() {
            self.is_congested = self.stalled.is_some();
            self.seat.driver.set_congested(self.is_congested);
        }
        Ok(())
    }

    fn is_done(&self) -> bool {
        self.stalled.is_none() && self.seat.driver.is_drained() && self.seat.driver.is_idle()
    }

    fn due(&self) -> Instant {
        let mut due = self.keep_alive.due();
        if let Some(stalled) = self.stalled {
            due = due.min(stalled + self.host.network_limits.write_stall);
        }
        match self.seat.driver.next_timeout() {
            Some(timeout) => due.min(timeout),
            None => due,
        }
    }

    /// Something may be due.
    fn timed(&mut self, now: Now) -> Option<Farewell> {
        if self.seat.driver.next_timeout().is_some_and(|due| due <= now.monotonic) {
            self.seat.driver.timeout(now);
            self.collect();
        }
        if self.stalled.is_some_and(|since| since + self.host.network_limits.write_stall <= now.monotonic) {
            self.host.metrics.refused("slow-reader");
            return Some(Farewell::Silent);
        }
        match self.keep_alive.check(now.monotonic) {
            Quiet::Bearable => None,
            Quiet::Ping => {
                self.socket.rest();
                self.socket.queue_ping();
                None
            }
            Quiet::TooLong => {
                self.host.metrics.refused("idle");
                self.socket.close(CloseCode::Away, "nothing was heard for too long");
                Some(Farewell::Orderly)
            }
        }
    }
}
