//! Drives one connection: feeds the core, runs the calls it dispatches, collects the frames it sends.
//!
//! The driver is not async and owns no socket: a transport calls it from one thread or task, and is woken through
//! [`Wake`] when a call has something to say.

use std::{
    collections::{HashMap, VecDeque},
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span, debug, error, error_span, field::Empty, warn};

use crate::{
    metrics::{Metrics, Transport},
    pattern::Pattern,
    protocol::{
        Call, CallError, CallId, Connection, Diagnostic, Notice, Now, Outgoing, Output, Reply, ServerEvent,
        Severity,
    },
    session::Identity,
    tool::{ConnectionId, Context, Notices, Origin, ReplyFuture, Service},
    trace::TraceContext,
    wire::{Frame, FrameError, Method, RequestId},
};

/// A cancelled call may tidy up for so long before it is dropped.
const CANCEL_GRACE: Duration = Duration::from_millis(100);
/// Notices waiting to be taken by the transport; more are dropped (they are advisory by specification).
const NOTICES_MAX: usize = 256;

/// Of a request's id so much is logged, where that is between characters.
const REQUEST_SHOWN_BYTES: usize = 64;

/// Places for frames that an idle connection keeps.
const OUTGOING_KEPT: usize = 16;

/// Wakes the transport's loop. Called from any thread, must not block.
pub trait Wake: Send + Sync {
    /// The mailbox has something.
    fn wake(&self);
}

enum Mail {
    Reply(CallId, Reply),
    Notice(CallId, Notice),
    Event(ServerEvent),
    Departure(CallId),
}

/// Where running calls leave replies and notices for their connection.
pub struct Mailbox {
    queue: Mutex<Vec<Mail>>,
    /// The transport has been woken and has not looked yet.
    woken: AtomicBool,
    /// The client does not read: notices are dropped until it does.
    congested: AtomicBool,
    wake: Box<dyn Wake>,
}

impl Mailbox {
    /// An empty mailbox that wakes through `wake`.
    pub fn new(wake: impl Wake + 'static) -> Arc<Self> {
        Arc::new(Self {
            queue: Mutex::default(),
            woken: AtomicBool::new(false),
            congested: AtomicBool::new(false),
            wake: Box::new(wake),
        })
    }

    fn put(&self, mail: Mail) {
        {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if matches!(mail, Mail::Notice(..) | Mail::Event(_))
                && (self.congested.load(Ordering::Relaxed) || queue.len() >= NOTICES_MAX)
            {
                return;
            }
            queue.push(mail);
        }
        if !self.woken.swap(true, Ordering::AcqRel) {
            self.wake.wake();
        }
    }

    fn take(&self) -> Vec<Mail> {
        self.woken.store(false, Ordering::Release);
        std::mem::take(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What a call has told so far, where it was not looked at yet.
    fn take_notices(&self, call: CallId) -> Vec<Notice> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue
            .extract_if(.., |mail| matches!(mail, Mail::Notice(of, _) if *of == call))
            .filter_map(|mail| match mail {
                Mail::Notice(_, notice) => Some(notice),
                Mail::Reply(..) | Mail::Event(_) | Mail::Departure(_) => None,
            })
            .collect()
    }

    /// Wakes the transport without leaving anything.
    pub fn wake(&self) {
        self.wake.wake();
    }

    /// Leaves a change for the connection's subscribers.
    pub fn put_event(&self, event: ServerEvent) {
        self.put(Mail::Event(event));
    }
}

struct CallNotices {
    mailbox: Arc<Mailbox>,
    call: CallId,
    chosen: OnceLock<Arc<Pattern>>,
    trace: Option<TraceContext>,
}

impl Notices for CallNotices {
    fn notify(&self, notice: Notice) {
        self.mailbox.put(Mail::Notice(self.call, notice));
    }

    fn release_connection(&self) {
        self.mailbox.put(Mail::Departure(self.call));
    }

    fn choose_pattern(&self, pattern: &Arc<Pattern>) {
        Span::current().record("pattern", pattern.name.as_str());
        // A call runs one pattern.
        let _ = self.chosen.set(Arc::clone(pattern));
    }

    fn trace(&self) -> Option<TraceContext> {
        self.trace.clone()
    }

    fn chosen_pattern(&self) -> Option<Arc<Pattern>> {
        self.chosen.get().cloned()
    }
}

/// One connection with its running calls.
pub struct Driver {
    connection: Connection,
    service: Arc<dyn Service>,
    id: ConnectionId,
    identity: Identity,
    runtime: Handle,
    mailbox: Arc<Mailbox>,
    running: HashMap<CallId, CancellationToken>,
    outgoing: Vec<Outgoing>,
    departures: Vec<RequestId>,
    call_deadline: Duration,
    origin: Origin,
    metrics: Option<Arc<Metrics>>,
    /// The trace that headers told, for calls that tell none themselves.
    trace: Option<Box<TraceContext>>,
}

impl Driver {
    /// A driver for `connection`, which `id` names. Calls that are not ready at once run on `runtime`.
    pub fn new(
        id: ConnectionId,
        connection: Connection,
        service: Arc<dyn Service>,
        identity: Identity,
        runtime: Handle,
        mailbox: Arc<Mailbox>,
        call_deadline: Duration,
    ) -> Self {
        Self {
            id,
            connection,
            service,
            identity,
            runtime,
            mailbox,
            running: HashMap::new(),
            outgoing: Vec::new(),
            departures: Vec::new(),
            call_deadline,
            origin: Origin::default(),
            metrics: None,
            trace: None,
        }
    }

    /// The same driver for a client on the network: its calls say where they come from, and what the core refuses is
    /// counted.
    #[must_use]
    pub fn on_network(mut self, origin: Origin, metrics: Arc<Metrics>) -> Self {
        self.origin = origin;
        self.metrics = Some(metrics);
        self
    }

    /// Where the client is.
    #[must_use]
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// How the client reaches us.
    pub const fn set_transport(&mut self, transport: Transport) {
        self.origin.transport = transport;
    }

    /// The connection is one request and nothing more.
    pub const fn set_stateless(&mut self) {
        self.origin.is_stateless = true;
    }

    /// Calls of the frames that come next belong to this trace, where they tell no other.
    pub fn set_trace(&mut self, trace: Option<TraceContext>) {
        self.trace = trace.map(Box::new);
    }

    /// One frame of the client.
    pub fn frame(&mut self, now: Now, bytes: &[u8]) {
        self.connection.handle_frame(now, bytes);
        self.pump(now);
    }

    /// One frame of the client that the binding parsed itself, to look at it first.
    pub fn parsed_frame(&mut self, now: Now, frame: Result<Frame, FrameError>) {
        self.connection.handle_parsed_frame(now, frame);
        self.pump(now);
    }

    /// The client gave a request up by closing the stream that its answer would have come on.
    pub fn cancel(&mut self, now: Now, id: &RequestId) {
        self.connection.handle_cancel(now, id);
        self.pump(now);
    }

    /// The core's state, to be looked at.
    #[must_use]
    pub const fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Whose connection it is.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Calls that begin from now on belong to `identity`: the same owner came with other rights.
    pub fn set_identity(&mut self, identity: Identity) {
        self.identity = identity;
    }

    /// A frame beyond the size limit was dropped.
    pub fn oversized_frame(&mut self, now: Now, size_bytes: usize) {
        self.connection.handle_oversized_frame(now, size_bytes);
        self.pump(now);
    }

    /// Takes what running calls have left. To be called after each wake.
    pub fn mail(&mut self, now: Now) {
        // Not every binding asks for them.
        self.departures.clear();
        for mail in self.mailbox.take() {
            match mail {
                Mail::Reply(call, reply) => {
                    self.running.remove(&call);
                    self.connection.handle_reply(now, call, reply);
                }
                Mail::Notice(call, notice) => self.connection.handle_notice(now, call, notice),
                Mail::Event(event) => self.connection.handle_event(now, &event),
                Mail::Departure(call) => self.departures.extend(self.connection.request_of(call).cloned()),
            }
            self.pump(now);
        }
    }

    /// Time has passed: to be called when [`Driver::next_timeout`] is due.
    pub fn timeout(&mut self, now: Now) {
        self.connection.handle_timeout(now);
        self.pump(now);
    }

    /// When the core wants to be called again, if at all.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.connection.poll_timeout()
    }

    /// The client sends no more; calls in flight go on.
    pub fn eof(&mut self, now: Now) {
        self.connection.handle_eof(now);
        self.pump(now);
    }

    /// The time for draining is over: what still runs is cancelled.
    pub fn drain_deadline(&mut self, now: Now) {
        self.connection.handle_drain_deadline(now);
        self.pump(now);
        for cancel in self.running.values() {
            cancel.cancel();
        }
    }

    /// Whether every request has its answer.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.connection.is_drained()
    }

    /// Whether no call is running any more, cancelled ones included.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// Whether another frame may be fed; otherwise the transport stops reading. A cancelled call is over for the client,
    /// but still work until it has ended: of these, too, there are only so many.
    #[must_use]
    pub fn accepts_input(&self) -> bool {
        self.connection.accepts_input() && self.has_place()
    }

    /// Whether another request could be begun, be it that input has ended ([`Connection::has_place`]).
    #[must_use]
    pub fn has_place(&self) -> bool {
        self.connection.has_place()
            && self.running.len() < 2 * self.connection.inflight_max() + self.connection.waiting()
    }

    /// The frames to write, in order. What is taken must be written.
    pub fn take_outgoing(&mut self) -> std::vec::Drain<'_, Outgoing> {
        self.outgoing.drain(..)
    }

    /// The requests whose calls gave back the connection that the client holds open for them. For bindings with a stream
    /// per request; the others need not ask.
    pub fn take_departures(&mut self) -> std::vec::Drain<'_, RequestId> {
        self.departures.drain(..)
    }

    /// Tells calls whether the client reads.
    pub fn set_congested(&self, congested: bool) {
        self.mailbox.congested.store(congested, Ordering::Relaxed);
    }

    /// The core's contract: after one input drain its outputs, then feed the next. Replies that are ready at once are
    /// the next input.
    fn pump(&mut self, now: Now) {
        // A burst is over: what it needed is not kept for as long as the connection is idle.
        if self.outgoing.is_empty() && self.outgoing.capacity() > OUTGOING_KEPT {
            self.outgoing.shrink_to(OUTGOING_KEPT);
        }
        let mut ready: VecDeque<(CallId, Reply)> = VecDeque::new();
        loop {
            while let Some(output) = self.connection.poll_output() {
                match output {
                    Output::Send(outgoing) => self.outgoing.push(outgoing),
                    Output::Dispatch(call) => {
                        let id = call.id;
                        if let Some(reply) = self.start(now, call) {
                            ready.push_back((id, reply));
                        }
                    }
                    Output::Cancel(call) => {
                        if let Some(cancel) = self.running.get(&call) {
                            cancel.cancel();
                        }
                    }
                }
            }
            while let Some(diagnostic) = self.connection.poll_diagnostic() {
                if let Some(metrics) = &self.metrics
                    && diagnostic.is_violation_of_ours()
                {
                    metrics.schema_violation();
                }
                log(&diagnostic);
            }
            if self.connection.has_refused() {
                for (rule, count) in self.connection.take_refusals() {
                    if let Some(metrics) = &self.metrics {
                        metrics.refused_often(rule, count.into());
                    }
                }
            }
            // Answered in the order asked; nothing can be told of a call after its answer.
            let Some((call, reply)) = ready.pop_front() else { return };
            for notice in self.mailbox.take_notices(call) {
                self.connection.handle_notice(now, call, notice);
            }
            self.connection.handle_reply(now, call, reply);
        }
    }

    /// Starts a call; its reply, where it is ready at once.
    fn start(&mut self, now: Now, call: Call) -> Option<Reply> {
        let id = call.id;
        if self.service.reads_only(call.method(), call.params()) {
            self.connection.set_reads_only(id);
        }
        let deadline = match call.method() {
            // It waits for a task, which may take longer than any call.
            Method::TasksResult => self.connection.deadline_of(Method::TasksResult),
            _ => self.call_deadline,
        };
        let trace = told_trace(call.params()).or_else(|| self.trace.as_deref().cloned());
        // Of the gravest level, so that it is there for whatever is logged within.
        let span = error_span!(
            "call",
            connection = self.id.0,
            request = Empty,
            method = call.method().as_str(),
            pattern = Empty,
            trace = Empty,
        );
        if !span.is_disabled() {
            if let Some(request) = self.connection.request_of(id) {
                span.record("request", shown(request.token()));
            }
            if let Some(trace) = &trace {
                span.record("trace", trace.trace());
            }
        }
        let entered = span.enter();
        let cancel = CancellationToken::new();
        let context = Context {
            connection: self.id,
            origin: self.origin,
            scope: self.identity.scope(call.client.revision.era()),
            notices: Arc::new(CallNotices {
                mailbox: Arc::clone(&self.mailbox),
                call: id,
                chosen: OnceLock::new(),
                trace,
            }),
            cancel: cancel.clone(),
            deadline: now.monotonic + deadline,
        };
        let service = Arc::clone(&self.service);
        let made = std::panic::catch_unwind(AssertUnwindSafe(|| service.call(call, context)));
        let Ok(mut future) = made else {
            return Some(panicked());
        };
        // A noop waker suffices: a future that is not ready is polled anew by its task at once.
        let mut noop = std::task::Context::from_waker(Waker::noop());
        if let Poll::Ready(reply) = poll_caught(&mut future, &mut noop) {
            return Some(reply);
        }
        self.running.insert(id, cancel.clone());
        let mailbox = Arc::clone(&self.mailbox);
        drop(entered);
        let running = async move {
            let caught = std::future::poll_fn(|context| poll_caught(&mut future, context));
            let given_up = async {
                cancel.cancelled().await;
                tokio::time::sleep(CANCEL_GRACE).await;
            };
            let reply = tokio::select! {
                biased;
                reply = caught => reply,
                () = given_up => {
                    debug!("a cancelled call did not end in time and was dropped");
                    Reply::Error(CallError::Internal)
                }
            };
            mailbox.put(Mail::Reply(id, reply));
        };
        self.runtime.spawn(running.instrument(span));
        None
    }
}

/// The trace that a request tells in its `_meta`.
fn told_trace(params: &serde_json::Map<String, serde_json::Value>) -> Option<TraceContext> {
    let meta = params.get("_meta")?;
    let text = |name: &str| meta.get(name)?.as_str();
    TraceContext::parse(text("traceparent")?, text("tracestate"))
}

/// An id as it may stand in the log: what a client chose may be long.
fn shown(id: &str) -> &str {
    id.get(..REQUEST_SHOWN_BYTES).unwrap_or(id)
}

fn log(diagnostic: &Diagnostic) {
    // Their names vary with the message, so they travel as one text; what a peer chose is escaped.
    let fields: Vec<String> =
        diagnostic.fields.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    let about = fields.join(" ");
    match diagnostic.severity {
        Severity::Warning => warn!(%about, "{}", diagnostic.message),
        Severity::Error => error!(%about, "{}", diagnostic.message),
    }
}

fn panicked() -> Reply {
    error!("a call panicked; it is answered as an internal error");
    Reply::Error(CallError::Internal)
}

fn poll_caught(future: &mut ReplyFuture, context: &mut std::task::Context<'_>) -> Poll<Reply> {
    std::panic::catch_unwind(AssertUnwindSafe(|| Pin::as_mut(future).poll(context)))
        .unwrap_or_else(|_| Poll::Ready(panicked()))
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast;

    use super::*;
    use crate::{
        limits::ConnectionLimits,
        protocol::{BatchAnswers, CacheHint, CacheScope, Capabilities, Profile, Signer},
        schema::Gate,
        scope::{ProjectId, Rights},
        tool::Change,
    };

    /// A service whose calls end only when they are cancelled.
    struct Endless(broadcast::Sender<Change>);

    impl Service for Endless {
        fn profile(&self) -> Arc<Profile> {
            let hint = CacheHint { ttl_ms: 0, scope: CacheScope::Private };
            Arc::new(Profile {
                server_info: serde_json::Map::new(),
                instructions: None,
                capabilities: Capabilities { tools: Some(false), ..Capabilities::default() },
                list_cache: hint,
                read_cache: hint,
            })
        }

        fn call(self: Arc<Self>, _: Call, context: Context) -> ReplyFuture {
            Box::pin(async move {
                context.cancel.cancelled().await;
                Reply::Error(CallError::Internal)
            })
        }

        fn events(&self) -> broadcast::Receiver<Change> {
            self.0.subscribe()
        }
    }

    #[test]
    fn what_each_connection_holds_is_small() {
        assert!(size_of::<Driver>() <= 776, "{}", size_of::<Driver>());
        assert!(size_of::<Mailbox>() <= 64, "{}", size_of::<Mailbox>());
        assert!(size_of::<Identity>() <= 16, "{}", size_of::<Identity>());
    }

    struct Never;

    impl Wake for Never {
        fn wake(&self) {}
    }

    #[test]
    fn cancelled_calls_that_have_not_ended_are_bounded_too() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let service: Arc<dyn Service> = Arc::new(Endless(broadcast::channel(1).0));
        let limits = ConnectionLimits { inflight_requests_max: 4, ..ConnectionLimits::default() };
        let connection = Connection::new(
            service.profile(),
            Arc::new(Gate::new()),
            limits,
            Signer::new([0; 32]),
            BatchAnswers::Array,
        );
        let identity = Identity::new(ProjectId::personal, "local", "default", "session", Rights::ALL);
        let mailbox = Mailbox::new(Never);
        let mut driver = Driver::new(
            ConnectionId(0),
            connection,
            service,
            identity,
            runtime.handle().clone(),
            Arc::clone(&mailbox),
            limits.call_deadline,
        );
        let now = Now { monotonic: Instant::now(), unix_ms: 0 };
        let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
        let mut calls = 0;
        while driver.accepts_input() {
            calls += 1;
            let call = format!(
                r#"{{"jsonrpc":"2.0","id":{calls},"method":"tools/call","params":{{"name":"x",{meta}}}}}"#
            );
            driver.frame(now, call.as_bytes());
            let cancel = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{calls}}}}}"#
            );
            driver.frame(now, cancel.as_bytes());
        }
        assert_eq!(calls, 8);
        // Only now the runtime runs: every call sees that it was cancelled, and ends.
        runtime.block_on(async {
            while !mailbox.woken.load(Ordering::Acquire) {
                tokio::task::yield_now().await;
            }
        });
        driver.mail(now);
        assert!(driver.accepts_input());
    }
}
