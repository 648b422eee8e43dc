//! One session in memory: a driver behind a lock, without a task of its own.
//!
//! A POST locks, feeds, and mostly leaves with its answer. What comes later is fetched by a [`Knock`], which routes it
//! and wakes the responses that wait. The lock is never held across an await.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, Weak,
    atomic::{AtomicU64, Ordering},
};

use bytes::Bytes;
use hyper::StatusCode;
use tokio::{
    sync::{
        Notify,
        futures::Notified,
        oneshot::{self, Receiver, error::TryRecvError},
    },
    time::timeout,
};
use tracing::{debug, warn};

use super::{
    knock::{Knock, Tended},
    posted::{Message, error},
    reading::Reading,
    session_id::{self, Nonce, SessionId},
    streams::{CannotResume, First, Read, SESSION, Streams},
};
use crate::{
    access::Entrant,
    metrics::{Counted, Transport},
    protocol::{About, BatchAnswers, Client, Now, Signer},
    revision::{Era, Revision},
    scope::ProjectId,
    session::{Driver, Identity, Mailbox, Membership},
    tool::ConnectionId,
    transport::{
        Host,
        http::{Response, body, events},
    },
    wire::{ErrorCode, Frame, FrameError, RequestId},
};

/// Why a session in memory is no longer to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// The client ended it.
    Deleted,
    /// It left the memory; its id brings it back.
    Evicted,
}

/// What became of a message.
pub(super) enum Taken<'a> {
    /// It is answered.
    Answered(Response),
    /// It will be, or its stream begins.
    Waits { stream: u64, first: Receiver<First>, ids: Vec<RequestId> },
    /// There is no room for another request now.
    Full(Notified<'a>),
    /// The session is over.
    Over(Over),
}

/// A session.
pub(super) struct Session {
    host: Arc<Host>,
    /// Whose it is.
    principal: Box<str>,
    project: ProjectId,
    pub(super) nonce: Nonce,
    /// When its id ends, in seconds since 1970; 0 until it has one.
    expires_unix_s: AtomicU64,
    /// There is room for another request.
    room: Notify,
    state: Mutex<State>,
    _counted: Counted,
}

struct State {
    driver: Driver,
    streams: Streams,
    /// Who used it last.
    entrant: Entrant,
    revision: Revision,
    used: std::time::Instant,
    over: Option<Over>,
    has_ended_input: bool,
    is_congested: bool,
    id: ConnectionId,
    mailbox: Arc<Mailbox>,
    membership: Option<Membership>,
}

impl Session {
    /// A session that `client` opened elsewhere, or one that waits for its handshake.
    fn new(
        host: &Arc<Host>,
        entrant: &Entrant,
        signer: Signer,
        nonce: Nonce,
        client: Option<Client>,
    ) -> Arc<Self> {
        let name = session_id::implicit_session(&nonce);
        let revision = client.as_ref().map_or(Revision::LATEST_LEGACY, |client| client.revision);
        let now = (host.clock)();
        let mut epoch = [0; 4];
        // Without randomness nothing here can be safe.
        getrandom::fill(&mut epoch).expect("the system has randomness");
        let limits = &host.network_limits;
        let streams =
            Streams::new(u32::from_be_bytes(epoch), limits.replay_events_max, limits.replay_bytes_max);
        Arc::new_cyclic(|this: &Weak<Self>| {
            let tended: Weak<dyn Tended> = this.clone();
            let knock = Knock::new(tended, host.runtime.clone());
            let seat = host.seat(entrant, &name, signer, BatchAnswers::Array, client, knock);
            let membership = host.join(&seat);
            Self {
                host: Arc::clone(host),
                principal: entrant.principal.name.clone(),
                project: entrant.project.clone(),
                nonce,
                expires_unix_s: AtomicU64::new(0),
                room: Notify::new(),
                state: Mutex::new(State {
                    driver: seat.driver,
                    streams,
                    entrant: entrant.clone(),
                    revision,
                    used: now.monotonic,
                    over: None,
                    has_ended_input: false,
                    is_congested: false,
                    id: seat.id,
                    mailbox: seat.mailbox,
                    membership: Some(membership),
                }),
                _counted: host.metrics.session(Transport::Http),
            }
        })
    }

    /// A session that was opened elsewhere, or has left the memory.
    pub(super) fn restore(host: &Arc<Host>, entrant: &Entrant, signer: Signer, id: &SessionId) -> Arc<Self> {
        let session = Self::new(host, entrant, signer, id.nonce, Some(id.client()));
        session.expires_unix_s.store(id.expires_unix_s, Ordering::Relaxed);
        session
    }

    /// Opens a session: the answer of the handshake, and the session with its id where it succeeded.
    pub(super) fn open(
        host: &Arc<Host>,
        entrant: &Entrant,
        signer: &Signer,
        message: Message,
    ) -> (Response, Option<(Arc<Self>, String)>) {
        let mut nonce = Nonce::default();
        // Without randomness nothing here can be safe.
        getrandom::fill(&mut nonce).expect("the system has randomness");
        let session = Self::new(host, entrant, signer.clone(), nonce, None);
        let now = (host.clock)();
        let mut state = session.lock();
        let state_mut = &mut *state;
        state_mut.driver.parsed_frame(now, Ok(message.frame));
        let answer = state_mut.driver.take_outgoing().next();
        let Some(answer) = answer else {
            return (body::empty(StatusCode::BAD_REQUEST), None);
        };
        let Some(client) = state_mut.driver.connection().session_client() else {
            return (body::json(StatusCode::BAD_REQUEST, answer.frame), None);
        };
        let ttl = host.network_limits.http_session_ttl;
        let id = SessionId::new(client, now.unix_ms / 1000 + ttl.as_secs(), nonce);
        state_mut.revision = id.revision;
        session.expires_unix_s.store(id.expires_unix_s, Ordering::Relaxed);
        let text = id.text(signer);
        drop(state);
        (body::json(StatusCode::OK, answer.frame), Some((session, text)))
    }

    /// Whether it belongs to whoever comes.
    pub(super) fn belongs_to(&self, entrant: &Entrant) -> bool {
        self.principal == entrant.principal.name && self.project == entrant.project
    }

    /// Whether the time of its id is over.
    pub(super) fn is_expired(&self, now_unix_ms: u64) -> bool {
        self.expires_unix_s() <= now_unix_ms / 1000
    }

    /// When its id ends, in seconds since 1970.
    pub(super) fn expires_unix_s(&self) -> u64 {
        self.expires_unix_s.load(Ordering::Relaxed)
    }

    /// Why it is not to be used any more, if so.
    pub(super) fn over(&self) -> Option<Over> {
        self.lock().over
    }

    /// When it was used last, where nobody uses it now.
    pub(super) fn idle_since(&self) -> Option<std::time::Instant> {
        let state = self.lock();
        (state.over.is_none() && state.is_idle()).then_some(state.used)
    }

    /// Takes it out of use where nobody uses it. False where somebody does.
    pub(super) fn evict(&self) -> bool {
        let mut state = self.lock();
        if state.over.is_none() && !state.is_idle() {
            return false;
        }
        state.over.get_or_insert(Over::Evicted);
        state.membership = None;
        state.streams.complete_all();
        true
    }

    /// Ends it for good: what runs is cancelled, every stream ends.
    pub(super) fn delete(&self) {
        let now = (self.host.clock)();
        self.lock().end(now, Over::Deleted);
        self.room.notify_waiters();
    }

    /// Feeds a message.
    pub(super) fn take_in(&self, entrant: &Entrant, message: &mut Option<Message>) -> Taken<'_> {
        let now = (self.host.clock)();
        let mut state = self.lock();
        if let Some(over) = state.over {
            return Taken::Over(over);
        }
        let Some(arrived) = message.take() else { return Taken::Answered(body::empty(StatusCode::ACCEPTED)) };
        if let Some(refusal) = self.refuse(&state, &arrived) {
            return Taken::Answered(refusal);
        }
        // While the server ends, what still arrives is served as well: other instances may not have the session yet.
        let waits = !arrived.ids.is_empty() && !state.driver.has_place();
        if waits && !arrived.needs_no_room(state.driver.connection()) {
            *message = Some(arrived);
            return Taken::Full(self.room.notified());
        }
        state.meet(&self.host, entrant);
        state.used = now.monotonic;
        let Message { frame, ids, is_initialize, may_cancel, has_only_invalid, trace } = arrived;
        state.driver.set_trace(trace);
        let taken = state.feed(now, frame, ids, |is_error| has_only_invalid || (is_initialize && is_error));
        if may_cancel {
            state.complete_cancelled();
        }
        self.settle(&mut state);
        taken
    }

    /// What the session's own state forbids.
    fn refuse(&self, state: &State, message: &Message) -> Option<Response> {
        let connection = state.driver.connection();
        let (reason, id) = if message.is_batch() && state.revision != Revision::V2025_03_26 {
            ("an array of messages is only legal in a 2025-03-26 session: send one message per request", None)
        } else if message.is_batch() && message.ids.iter().any(|id| connection.is_pending(id)) {
            ("the batch holds the id of a request that is still in flight: use fresh ids", None)
        } else if let Some(reason) = message.invalid_reason() {
            let id = message.ids.first().filter(|id| !connection.is_pending(id));
            return Some(error(
                *self.host.gate,
                StatusCode::BAD_REQUEST,
                id,
                ErrorCode::InvalidRequest,
                format!("not a JSON-RPC message of this revision: {reason}"),
            ));
        } else {
            return None;
        };
        let code = ErrorCode::InvalidRequest;
        Some(error(*self.host.gate, StatusCode::BAD_REQUEST, id, code, reason.to_owned()))
    }

    /// Awaits how a POST is to be answered.
    pub(super) async fn wait(
        self: &Arc<Self>,
        entrant: &Entrant,
        stream: u64,
        mut first: Receiver<First>,
        ids: &[RequestId],
    ) -> Response {
        let keep_alive = self.host.network_limits.keep_alive;
        let told = if let Ok(told) = timeout(keep_alive, &mut first).await {
            told.ok()
        } else {
            let mut state = self.lock();
            match first.try_recv() {
                Ok(told) => Some(told),
                Err(TryRecvError::Empty) if state.streams.begin_events(stream) => Some(First::Events),
                Err(TryRecvError::Empty | TryRecvError::Closed) => None,
            }
        };
        match told {
            Some(First::Answer(frame)) => body::json(StatusCode::OK, frame),
            Some(First::Events) => self.events(entrant, stream),
            Some(First::Cancelled) | None => {
                let reason = "the request was cancelled, or its session has ended";
                let code = ErrorCode::InvalidRequest;
                error(*self.host.gate, StatusCode::OK, ids.first(), code, reason.to_owned())
            }
        }
    }

    /// The event stream of a POST.
    fn events(self: &Arc<Self>, entrant: &Entrant, stream: u64) -> Response {
        let mut state = self.lock();
        let Some((generation, id)) = state.streams.attach(stream, &entrant.principal) else {
            return body::empty(StatusCode::NOT_FOUND);
        };
        // Older clients take the empty text for a message.
        let primes = state.revision >= Revision::V2025_11_25;
        drop(state);
        self.reading(stream, generation, primes.then(|| events::priming(&id)))
    }

    fn reading(self: &Arc<Self>, stream: u64, generation: u64, prelude: Option<Bytes>) -> Response {
        let keep_alive = self.host.network_limits.keep_alive;
        body::events(Box::pin(Reading::new(Arc::clone(self), stream, generation, prelude, keep_alive)))
    }

    /// The answer of a GET: the session's own stream, or the one that `last_event` is of.
    pub(super) fn listen(
        self: &Arc<Self>,
        entrant: &Entrant,
        last_event: Option<&str>,
    ) -> Result<Response, Over> {
        let now = (self.host.clock)();
        let mut state = self.lock();
        if let Some(over) = state.over {
            return Err(over);
        }
        state.meet(&self.host, entrant);
        state.used = now.monotonic;
        if self.host.stopping.is_cancelled() {
            return Ok(body::unavailable(
                *self.host.gate,
                "the server is shutting down: open the stream again in a moment",
            ));
        }
        let stream = match last_event {
            None if state.streams.is_read(SESSION) => {
                self.host.metrics.refused("second-stream");
                return Ok(body::text(
                    StatusCode::CONFLICT,
                    "this session has its stream already: one GET at a time",
                ));
            }
            None => SESSION,
            Some(id) => match state.streams.resume(id, entrant.rights) {
                Ok(stream) => stream,
                Err(CannotResume) => {
                    return Ok(body::text(
                        StatusCode::BAD_REQUEST,
                        "nothing can be resumed after this Last-Event-ID: leave it out for what is to come",
                    ));
                }
            },
        };
        let attached = state.streams.attach(stream, &entrant.principal);
        drop(state);
        Ok(attached.map_or_else(
            || body::empty(StatusCode::NOT_FOUND),
            |(generation, _)| self.reading(stream, generation, None),
        ))
    }

    /// The next events of a stream for its reader.
    pub(super) fn read(&self, stream: u64, generation: u64, waker: &std::task::Waker) -> Read {
        let mut state = self.lock();
        let read = state.streams.read(stream, generation, waker);
        match &read {
            Read::Events(_) => state.watch_congestion(),
            Read::Lagged => {
                self.host.metrics.refused("slow-reader");
                debug!("a reader of events did not keep up and was sent away");
            }
            Read::Later | Read::Leave | Read::End => {}
        }
        read
    }

    /// A reader has gone.
    pub(super) fn detach(&self, stream: u64, generation: u64) {
        let mut state = self.lock();
        state.streams.detach(stream, generation);
        state.watch_congestion();
        state.used = (self.host.clock)().monotonic;
    }

    /// Says who finds room now.
    fn settle(&self, state: &mut State) {
        state.watch_congestion();
        if state.driver.has_place() {
            self.room.notify_waiters();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tended for Session {
    fn tend(&self) {
        let now = (self.host.clock)();
        let mut state = self.lock();
        if state.over.is_some() {
            return;
        }
        state.driver.mail(now);
        if state.driver.next_timeout().is_some_and(|due| due <= now.monotonic) {
            state.driver.timeout(now);
        }
        state.route();
        state.streams.dismiss_revoked();
        if state.entrant.principal.is_revoked() {
            warn!("a session was put out of memory: its token was withdrawn");
            state.end(now, Over::Evicted);
        } else if self.host.stopping.is_cancelled() {
            state.stop(now, self.host.cut_off.is_cancelled());
        }
        self.settle(&mut state);
        if state.has_ended_input || state.over.is_some() {
            self.room.notify_waiters();
        }
    }
}

impl State {
    /// Calls that begin now are those of `entrant`: the same principal may come with another token.
    fn meet(&mut self, host: &Host, entrant: &Entrant) {
        if self.entrant.rights != entrant.rights || self.entrant.agent != entrant.agent {
            let known = self.driver.identity().scope(Era::Legacy);
            let project = entrant.project.clone();
            let identity = Identity::new(
                move || project,
                &entrant.principal.name,
                &entrant.agent,
                known.session().unwrap_or_default(),
                entrant.rights,
            );
            // The old place is left before the new one is taken: they have one name.
            self.membership = None;
            let mailbox = Arc::clone(&self.mailbox);
            self.membership = Some(host.hub.join(self.id, identity.scope(Era::Legacy), mailbox));
            self.driver.set_identity(identity);
            self.entrant = entrant.clone();
        } else if !Arc::ptr_eq(&self.entrant.principal, &entrant.principal) {
            self.entrant = entrant.clone();
        }
    }

    /// Feeds a message and sorts what comes of it at once. `is_bad` tells from whether the answer is an error whether HTTP
    /// shall say so too.
    fn feed(
        &mut self,
        now: Now,
        frame: Frame,
        mut ids: Vec<RequestId>,
        is_bad: impl Fn(bool) -> bool,
    ) -> Taken<'static> {
        // The answer to an id that is taken belongs to the request that took it.
        let connection = self.driver.connection();
        if ids.iter().any(|id| connection.is_pending(id)) {
            ids.clear();
        }
        self.driver.parsed_frame(now, Ok::<_, FrameError>(frame));
        let (mut before, mut answer, mut refusal) = (Vec::new(), None, None);
        for outgoing in self.driver.take_outgoing() {
            match &outgoing.about {
                About::Frame => refusal = Some(outgoing.frame),
                About::Request { id, is_answer } if ids.contains(id) => {
                    if *is_answer {
                        answer = Some((outgoing.frame, outgoing.error.is_some()));
                    } else {
                        before.push(outgoing.frame);
                    }
                }
                About::Request { .. } | About::Session => self.streams.put(outgoing),
            }
        }
        if let Some(refusal) = refusal {
            return Taken::Answered(body::json(StatusCode::BAD_REQUEST, refusal));
        }
        if before.is_empty()
            && let Some((frame, is_error)) = answer
        {
            let status = if is_bad(is_error) { StatusCode::BAD_REQUEST } else { StatusCode::OK };
            return Taken::Answered(body::json(status, frame));
        }
        if ids.is_empty() {
            return Taken::Answered(body::empty(StatusCode::ACCEPTED));
        }
        let (sender, first) = oneshot::channel();
        let stream = self.streams.open(ids.clone(), Some(sender), self.entrant.rights);
        for frame in before {
            self.streams.put_to(stream, frame, false);
        }
        if let Some((frame, _)) = answer {
            self.streams.put_to(stream, frame, true);
        }
        Taken::Waits { stream, first, ids }
    }

    /// Brings everything to its stream.
    fn route(&mut self) {
        for outgoing in self.driver.take_outgoing() {
            self.streams.put(outgoing);
        }
        for id in self.driver.take_departures() {
            // Only these clients are promised that they may come back.
            if self.revision >= Revision::V2025_11_25 {
                self.streams.leave_early(&id);
            }
        }
    }

    fn complete_cancelled(&mut self) {
        let connection = self.driver.connection();
        self.streams.complete_cancelled(|id| connection.is_pending(id));
    }

    /// The server stops: what runs is answered, or, once that is late, given up.
    fn stop(&mut self, now: Now, is_late: bool) {
        if !self.has_ended_input {
            self.has_ended_input = true;
            self.driver.eof(now);
            self.route();
            self.streams.complete(SESSION);
        }
        if is_late {
            self.driver.drain_deadline(now);
            self.route();
            self.streams.complete_all();
        }
    }

    fn end(&mut self, now: Now, over: Over) {
        for id in self.streams.open_requests() {
            self.driver.cancel(now, &id);
        }
        self.route();
        self.streams.complete_all();
        self.over = Some(over);
        self.membership = None;
    }

    fn watch_congestion(&mut self) {
        let is_congested = self.streams.is_congested();
        if is_congested != self.is_congested {
            self.is_congested = is_congested;
            self.driver.set_congested(is_congested);
        }
    }

    fn is_idle(&self) -> bool {
        self.driver.is_idle() && self.driver.connection().inflight() == 0 && self.streams.is_quiet()
    }
}
