//! HTTP+SSE of 2024-11-05: one GET for everything that the server says, a POST for each thing that the client says.
//!
//! A session lives as long as its stream and is driven by whoever reads it: the body of the GET fetches what calls have
//! left, and looks after their time. What the client says is fed by its POSTs.

use std::{
    collections::{HashMap, VecDeque},
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::{Method, StatusCode};
use tokio::{
    sync::{Notify, futures::Notified},
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{
    Request, Response, body, events, headers,
    post::{self, Unread},
    server::Site,
};
use crate::{
    access::Entrant,
    metrics::{Counted, Transport},
    protocol::{BatchAnswers, Now},
    revision::Revision,
    session::{Driver, Membership, Wake},
    transport::{Host, io::Line},
    wire::{Envelope, ErrorCode, Frame as Posted, FrameError, RpcError, parse_frame},
};

const SWITCHED_OFF: &str = "HTTP+SSE of 2024-11-05 is not served here: use Streamable HTTP at /mcp, or have the server \
                            started with the setting `legacy_sse` (TMWS_LEGACY_SSE=on)";
const NOT_DECLARED: &str = "the body of a POST is JSON: send `Content-Type: application/json`";
const NO_SUCH_SESSION: &str = "no such session, or not any more: open a stream with GET /sse first";

/// The streams that are open.
#[derive(Default)]
pub(super) struct Streams {
    sessions: Mutex<HashMap<Box<str>, Arc<Session>>>,
}

/// `/sse` and `/messages`.
pub(super) async fn answer(
    site: &Arc<Site>,
    entrant: &Entrant,
    line: &Arc<Line>,
    request: Request,
) -> Response {
    let is_post = request.method() == Method::POST;
    if !site.serves_sse {
        return body::refuse(site, is_post, StatusCode::NOT_FOUND, SWITCHED_OFF);
    }
    if is_post { take_in(site, entrant, line, request).await } else { open(site, entrant, &request).await }
}

/// Opens a session: its stream begins with the address that the client shall POST to.
async fn open(site: &Arc<Site>, entrant: &Entrant, request: &Request) -> Response {
    let host = &site.host;
    if host.stopping.is_cancelled() {
        return body::unavailable(*host.gate, "the server is shutting down: connect again in a moment");
    }
    let signer = host.signer_for(entrant).await;
    let name: Box<str> = Host::random_name().into();
    let waker = Arc::new(Mutex::new(None));
    let bell = Bell(Arc::clone(&waker));
    // What scratch is named by is not what the session is reached by.
    let scratch = Host::random_name();
    let mut seat = host.seat(entrant, &scratch, signer, BatchAnswers::Frames, None, bell);
    seat.driver.set_transport(Transport::Sse);
    let membership = host.join(&seat);
    // Relative to the stream's own address, under the same project.
    let path = request.uri().path().trim_end_matches('/').strip_suffix("/sse").unwrap_or_default();
    let mut queue = Queue::default();
    queue.push(events::named("endpoint", &format!("{path}/messages?session={name}")));
    let session = Arc::new(Session {
        host: Arc::clone(host),
        entrant: entrant.clone(),
        waker,
        room: Notify::new(),
        state: Mutex::new(State { driver: seat.driver, queue, is_over: false, has_ended_input: false }),
        _membership: membership,
        _counted: host.metrics.session(Transport::Sse),
    });
    site.streams.lock().insert(name.clone(), Arc::clone(&session));
    let now = Instant::now();
    body::events(Box::pin(Reading {
        site: Arc::clone(site),
        name,
        session,
        quiet_since: now,
        timer: Box::pin(sleep_until(now + host.network_limits.keep_alive)),
        stopping: Some(Box::pin(host.stopping.clone().cancelled_owned())),
        cut_off: Box::pin(host.cut_off.clone().cancelled_owned()),
    }))
}

/// Hands a POST to its session.
async fn take_in(site: &Arc<Site>, entrant: &Entrant, line: &Arc<Line>, request: Request) -> Response {
    let host = &site.host;
    let refuse = |status, code, reason: &str| body::refusal(site, status, None, &RpcError::new(code, reason));
    let session = request
        .uri()
        .query()
        .and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("session=")))
        .and_then(|name| site.streams.lock().get(name).cloned())
        .filter(|session| session.belongs_to(entrant));
    let Some(session) = session else {
        // The body was not read: the client shall see the answer nevertheless.
        line.linger();
        host.metrics.refused("unknown-session");
        return refuse(StatusCode::NOT_FOUND, ErrorCode::InvalidRequest, NO_SUCH_SESSION);
    };
    if !headers::is_json(request.headers()) {
        line.linger();
        host.metrics.refused("content-type");
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, ErrorCode::InvalidRequest, NOT_DECLARED);
    }
    let limit = host.connection_limits.frame_in_bytes_max;
    let (head, body) = request.into_parts();
    let body = match post::read(body, limit, host.network_limits.body_timeout).await {
        Ok(body) => body,
        Err(fault) => {
            line.linger();
            let (status, rule) = match fault {
                Unread::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large"),
                Unread::TooSlow => (StatusCode::REQUEST_TIMEOUT, "body-too-slow"),
                Unread::Broken => (StatusCode::BAD_REQUEST, "body-broken"),
            };
            host.metrics.refused(rule);
            let reason =
                format!("the body was not read: it is too long (at most {limit} bytes), or came too slowly");
            return refuse(status, ErrorCode::InvalidRequest, &reason);
        }
    };
    let mut frame = match parse_frame(&body) {
        Ok(frame) => Some(frame),
        Err(fault) => {
            host.metrics.refused("not-json");
            return refuse(StatusCode::BAD_REQUEST, ErrorCode::ParseError, &fault.to_string());
        }
    };
    loop {
        if entrant.principal.is_revoked() {
            return post::withdrawn(site, entrant, &head);
        }
        let room = match session.feed(&mut frame) {
            Fed::Taken => return body::empty(StatusCode::ACCEPTED),
            Fed::Over => return refuse(StatusCode::NOT_FOUND, ErrorCode::InvalidRequest, NO_SUCH_SESSION),
            Fed::Refused(reason) => {
                host.metrics.refused("not-a-message");
                return refuse(StatusCode::BAD_REQUEST, ErrorCode::InvalidRequest, &reason);
            }
            Fed::Full(room) => room,
        };
        room.await;
    }
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes whoever reads the stream. The lock is its own: a call may ring while the session is locked.
struct Bell(Arc<Mutex<Option<Waker>>>);

impl Wake for Bell {
    fn wake(&self) {
        ring(&self.0);
    }
}

fn ring(waker: &Mutex<Option<Waker>>) {
    let waker = waker.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// One stream with its driver.
struct Session {
    host: Arc<Host>,
    entrant: Entrant,
    waker: Arc<Mutex<Option<Waker>>>,
    /// There is room for another request.
    room: Notify,
    state: Mutex<State>,
    _membership: Membership,
    _counted: Counted,
}

struct State {
    driver: Driver,
    queue: Queue,
    is_over: bool,
    has_ended_input: bool,
}

/// Events that were not written yet.
#[derive(Default)]
struct Queue {
    events: VecDeque<Bytes>,
}

impl Queue {
    fn push(&mut self, event: Bytes) {
        self.events.push_back(event);
    }

    /// All of them in one piece.
    fn take(&mut self) -> Option<Bytes> {
        let first = self.events.pop_front()?;
        if self.events.is_empty() {
            return Some(first);
        }
        let mut all = first.to_vec();
        self.events.drain(..).for_each(|event| all.extend_from_slice(&event));
        Some(all.into())
    }
}

/// What became of a message.
enum Fed<'a> {
    Taken,
    /// No answer on the stream could say so: the POST does.
    Refused(String),
    Full(Notified<'a>),
    Over,
}

impl Session {
    fn belongs_to(&self, entrant: &Entrant) -> bool {
        self.entrant.principal.name == entrant.principal.name
            && self.entrant.project == entrant.project
            // What another token of the principal may do is not what this stream was opened for.
            && self.entrant.rights == entrant.rights
    }

    fn feed(&self, frame: &mut Option<Posted>) -> Fed<'_> {
        let now = (self.host.clock)();
        let mut state = self.lock();
        if state.is_over || state.has_ended_input {
            return Fed::Over;
        }
        let Some(arrived) = frame.take() else { return Fed::Taken };
        if let Some(reason) = refusal(&arrived, state.driver.connection().session_revision()) {
            return Fed::Refused(reason);
        }
        let holds_request = match &arrived {
            Posted::Single(envelope) => matches!(envelope, Envelope::Request(_)),
            Posted::Batch(_) => true,
        };
        let needs_no_room = matches!(
            &arrived,
            Posted::Single(envelope) if state.driver.connection().needs_no_room(envelope)
        );
        let has_room = state.driver.accepts_input() || needs_no_room;
        if holds_request && (self.is_full(&state) || !has_room) {
            *frame = Some(arrived);
            return Fed::Full(self.room.notified());
        }
        state.driver.parsed_frame(now, Ok::<_, FrameError>(arrived));
        state.collect();
        drop(state);
        // Its reader has something to write, or another time-out to look after.
        ring(&self.waker);
        Fed::Taken
    }

    /// Whether what the client does not read holds back what it asks.
    fn is_full(&self, state: &State) -> bool {
        let queue_max = self.host.connection_limits.writer_queue_frames_max;
        state.queue.events.len() >= queue_max.max(1)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why nothing of a frame can be answered under an id of its own, if so.
fn refusal(frame: &Posted, revision: Option<Revision>) -> Option<String> {
    match frame {
        Posted::Single(Envelope::Invalid { id: None, reason }) => {
            Some(format!("not a JSON-RPC message of this revision: {reason}"))
        }
        Posted::Batch(_) if revision != Some(Revision::V2025_03_26) => Some(
            "an array of messages is only legal in a 2025-03-26 session: send one message per request"
                .to_owned(),
        ),
        Posted::Batch(messages) if messages.is_empty() => {
            Some("a batch must hold at least one message".to_owned())
        }
        Posted::Single(_) | Posted::Batch(_) => None,
    }
}

impl State {
    fn collect(&mut self) {
        for outgoing in self.driver.take_outgoing() {
            self.queue.push(events::message(None, &outgoing.frame));
        }
    }

    /// The server stops: what runs is answered, or, once that is late, given up.
    fn stop(&mut self, now: Now, is_late: bool) {
        if !self.has_ended_input {
            self.has_ended_input = true;
            self.driver.eof(now);
        }
        if is_late && !self.driver.is_drained() {
            self.driver.drain_deadline(now);
        }
        self.collect();
    }
}

/// The body of the GET.
struct Reading {
    site: Arc<Site>,
    name: Box<str>,
    session: Arc<Session>,
    quiet_since: Instant,
    timer: Pin<Box<Sleep>>,
    /// Until it has happened.
    stopping: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    cut_off: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Body for Reading {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let session = Arc::clone(&this.session);
        {
            let mut waker = session.waker.lock().unwrap_or_else(PoisonError::into_inner);
            match &mut *waker {
                Some(known) => known.clone_from(context.waker()),
                None => *waker = Some(context.waker().clone()),
            }
        }
        loop {
            let now = (session.host.clock)();
            let mut state = session.lock();
            if state.is_over || session.entrant.principal.is_revoked() {
                return Poll::Ready(None);
            }
            state.driver.mail(now);
            if state.driver.next_timeout().is_some_and(|due| due <= now.monotonic) {
                state.driver.timeout(now);
            }
            state.collect();
            if this.stopping.as_mut().is_none_or(|stopping| stopping.as_mut().poll(context).is_ready()) {
                this.stopping = None;
                let is_late = this.cut_off.as_mut().poll(context).is_ready();
                state.stop(now, is_late);
            }
            let events = state.queue.take();
            if let Some(events) = events {
                drop(state);
                session.room.notify_waiters();
                this.quiet_since = Instant::now();
                return Poll::Ready(Some(Ok(Frame::data(events))));
            }
            if state.has_ended_input && state.driver.is_drained() {
                return Poll::Ready(None);
            }
            if state.driver.accepts_input() && !session.is_full(&state) {
                session.room.notify_waiters();
            }
            let mut due = this.quiet_since + session.host.network_limits.keep_alive;
            let is_quiet = due <= Instant::now();
            if is_quiet {
                drop(state);
                this.quiet_since = Instant::now();
                return Poll::Ready(Some(Ok(Frame::data(events::KEEP_ALIVE))));
            }
            if let Some(timeout) = state.driver.next_timeout() {
                due = due.min(timeout.into());
            }
            drop(state);
            if this.timer.deadline() != due {
                this.timer.as_mut().reset(due);
            }
            if this.timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.site.streams.lock().remove(&self.name);
        let now = (self.session.host.clock)();
        let mut state = self.session.lock();
        state.is_over = true;
        state.driver.drain_deadline(now);
        drop(state);
        self.session.room.notify_waiters();
    }
}
