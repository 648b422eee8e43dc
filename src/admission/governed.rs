//! The service in front of the service.

use std::{
    hash::{BuildHasher as _, RandomState},
    pin::Pin,
    sync::Arc,
    task::{Poll, ready},
    time::{Duration, Instant},
};

use governor::clock::DefaultClock;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::{
    meter::{Failure, Meter, failure_of},
    rate::Rates,
    share::{Share, Shares},
};
use crate::{
    audit::{Audit, CallLine, Outcome, Place, Unlogged},
    engine::ErrorKind,
    limits::{ConnectionLimits, NetworkLimits},
    metrics::{Metrics, Sample, Sampled},
    protocol::{Call, CallError, Profile, Reply},
    revision::Revision,
    scope::{Rights, Scope},
    tool::{Change, ConnectionId, Context, MirroredArgument, Notices, Origin, ReplyFuture, Service},
    turnstile::{Entry, Permit, Turnstile},
    wire::Method,
};

/// When a place or the log may be free again is not known: a caller is told to wait so long.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Who asks for more than its rate hears so after this: one that asks on at once, whatever it is told, would have the
/// server do nothing but tell it.
const REFUSED_AFTER: Duration = Duration::from_millis(100);
/// A call that was dropped without an end: it panicked, or outlived its cancellation.
const DROPPED: &str = "-32603";

/// A service whose calls are limited in rate and number, counted, and written down.
///
/// A call that the service answers at once is answered at once.
pub struct Governed {
    inner: Arc<dyn Service>,
    rates: Option<Rates<DefaultClock>>,
    turnstile: Arc<Turnstile>,
    shares: Arc<Shares>,
    meter: Meter,
    audit: Option<Arc<Audit>>,
    /// Makes keys of rates and lanes that nobody can choose to be equal.
    keys: RandomState,
}

impl Governed {
    /// Puts the limits in front of `inner`. Adds its gauges to `metrics`: once for each value of those.
    #[must_use]
    pub fn new(
        inner: Arc<dyn Service>,
        network: &NetworkLimits,
        connection: &ConnectionLimits,
        metrics: Arc<Metrics>,
        audit: Option<Arc<Audit>>,
    ) -> Arc<Self> {
        let turnstile = Turnstile::new(network.inflight_total_max);
        let shares = Arc::new(Shares::new(connection.inflight_requests_max.max(1)));
        let running = Arc::clone(&turnstile);
        metrics.sample("calls_in_flight", "Calls that the service works on", Sampled::Gauge, move || {
            vec![Sample::plain(running.running() as f64)]
        });
        let line = Arc::clone(&shares);
        metrics.sample(
            "calls_waiting",
            "Calls that wait until others have ended",
            Sampled::Gauge,
            move || vec![Sample::plain(line.waiting() as f64)],
        );
        if let Some(audit) = &audit {
            watch(audit, &metrics);
        }
        Arc::new(Self {
            inner,
            rates: Rates::new(network.calls_per_second, network.calls_burst, DefaultClock::default()),
            turnstile,
            shares,
            meter: Meter::new(metrics),
            audit,
            keys: RandomState::new(),
        })
    }

    /// Who shares a rate: the calls of a principal's token, else those of a connection. The calls of stateless clients
    /// without token are told apart by address.
    fn rate_key(&self, context: &Context) -> u64 {
        if context.origin.has_token {
            self.keys.hash_one((0_u8, context.scope.principal()))
        } else {
            self.lane(context)
        }
    }

    /// Who waits in one lane: the calls of a connection; where each is its own connection, those of a principal.
    fn lane(&self, context: &Context) -> u64 {
        let Origin { peer, is_stateless, .. } = context.origin;
        if is_stateless {
            self.keys.hash_one((1_u8, context.scope.principal(), peer))
        } else {
            self.keys.hash_one((2_u8, context.connection))
        }
    }

    fn check_rate(&self, context: &Context, now: Instant) -> Result<(), Busy> {
        let Some(rates) = &self.rates else { return Ok(()) };
        rates.check(self.rate_key(context), now).map_err(|retry_after| {
            self.meter.rate_limited();
            Busy { retry_after, message: "too many calls a second: slow down, then call again".to_owned() }
        })
    }

    /// A share of the machine for a call of `lane` and a place among all calls, where it gets both at once.
    fn try_enter(&self, lane: u64, now: Instant) -> Option<(Share, Permit)> {
        let share = self.shares.try_enter(lane, now)?;
        Some((share, self.turnstile.try_enter()?))
    }

    /// The same, waited for. `None`: too many of the lane wait.
    async fn enter(&self, lane: u64) -> Option<(Share, Permit)> {
        let waiting = self.shares.wait(lane)?;
        let share = waiting.share().await;
        let permit = match self.turnstile.enter(lane) {
            Entry::Now(permit) => permit,
            Entry::Later(waiting) => waiting.await,
        };
        Some((share, permit))
    }

    /// The audit's place, where the method needs one.
    fn check_audit(&self, method: Method) -> Result<Option<Place>, Busy> {
        match &self.audit {
            Some(audit) if is_audited(method) => audit.admit().map(Some).map_err(Busy::from),
            Some(_) | None => Ok(None),
        }
    }

    /// The answer to a call that does not come to the service.
    fn refusal(&self, method: Method, revision: Revision, busy: Busy, scope: &Scope) -> Reply {
        let reply = busy.into_reply(method, scope);
        if let Some(failure) = failure_of(revision, &reply) {
            self.meter.failed(failure, method, None);
        }
        reply
    }
}

impl Service for Governed {
    fn profile(&self) -> Arc<Profile> {
        self.inner.profile()
    }

    fn call(self: Arc<Self>, call: Call, context: Context) -> ReplyFuture {
        let begun = Instant::now();
        let (method, revision) = (call.method(), call.client.revision);
        if let Err(busy) = self.check_rate(&context, begun) {
            let reply = self.refusal(method, revision, busy, &context.scope);
            return Box::pin(async move {
                tokio::select! {
                    () = context.cancel.cancelled() => {}
                    () = tokio::time::sleep(REFUSED_AFTER) => {}
                }
                reply
            });
        }
        let place = match self.check_audit(method) {
            Ok(place) => place,
            Err(busy) => {
                let reply = self.refusal(method, revision, busy, &context.scope);
                return Box::pin(std::future::ready(reply));
            }
        };
        let line = place.map(|place| {
            Box::new(Unfilled {
                place: Some(place),
                at: Timestamp::now(),
                scope: context.scope.clone(),
                connection: context.connection,
                origin: context.origin,
                request: Arc::clone(&call.request),
                cancel: context.cancel.clone(),
                begun,
            })
        });
        let notices = Arc::clone(&context.notices);
        let record = Record { governed: self, method, revision, begun, notices, line };
        if method == Method::TasksResult {
            // It works on nothing: it waits, and may for as long as a task runs. The core bounds how many do.
            let inner = Arc::clone(&record.governed.inner).call(call, context);
            return Box::pin(Running { inner, record, place: None });
        }
        match record.governed.try_enter(record.governed.lane(&context), begun) {
            Some(place) => Box::pin(Running::start(place, call, context, record)),
            None => Box::pin(wait(call, context, record)),
        }
    }

    fn events(&self) -> broadcast::Receiver<Change> {
        self.inner.events()
    }

    fn needs(&self, method: Method, params: &Map<String, Value>) -> Rights {
        self.inner.needs(method, params)
    }

    fn reads_only(&self, method: Method, params: &Map<String, Value>) -> bool {
        self.inner.reads_only(method, params)
    }

    fn mirrored(&self, tool: &str) -> Arc<[MirroredArgument]> {
        self.inner.mirrored(tool)
    }
}

/// Waits for a place, then runs the call.
async fn wait(call: Call, context: Context, record: Record) -> Reply {
    let governed = Arc::clone(&record.governed);
    let place = tokio::select! {
        biased;
        // The core has answered, or nobody listens.
        () = context.cancel.cancelled() => return record.cancelled(),
        place = governed.enter(governed.lane(&context)) => place,
        () = tokio::time::sleep_until(context.deadline.into()) => None,
    };
    match place {
        Some(place) => Running::start(place, call, context, record).await,
        None => record.refuse(overcrowded(), &context.scope),
    }
}

fn overcrowded() -> Busy {
    Busy {
        retry_after: TRY_AGAIN,
        message: "the server works on as many calls as it may: call again later".to_owned(),
    }
}

/// Whether a call reads or changes something, so that it is written down.
const fn is_audited(method: Method) -> bool {
    matches!(
        method,
        Method::ToolsCall
            | Method::ResourcesRead
            | Method::PromptsGet
            | Method::TasksGet
            | Method::TasksResult
            | Method::TasksUpdate
            | Method::TasksCancel
    )
}

/// Why a call does not run now.
struct Busy {
    retry_after: Duration,
    message: String,
}

impl From<Unlogged> for Busy {
    fn from(unlogged: Unlogged) -> Self {
        Self { retry_after: TRY_AGAIN, message: unlogged.to_string() }
    }
}

impl Busy {
    /// For a tool a result that the model reads, for all else an error.
    fn into_reply(self, method: Method, scope: &Scope) -> Reply {
        let Self { retry_after, message } = self;
        if method != Method::ToolsCall {
            return Reply::Error(CallError::Busy { retry_after, message });
        }
        // Rounded up: whoever comes back after it is not told so again.
        let pause = u64::try_from(retry_after.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
        let body = json!({"error": ErrorKind::Busy.code(), "message": message, "retry_after_ms": pause});
        let scope = json!({
            "project": scope.project().as_str(), "principal": scope.principal(), "agent": scope.agent(),
        });
        let mut result = Map::new();
        result.insert("content".to_owned(), json!([{"type": "text", "text": body.to_string()}]));
        result.insert("isError".to_owned(), true.into());
        result.insert("_meta".to_owned(), json!({"tmws/scope": scope}));
        Reply::Result(result)
    }
}

/// A call on its way, from the door to its end.
struct Record {
    governed: Arc<Governed>,
    method: Method,
    revision: Revision,
    begun: Instant,
    notices: Arc<dyn Notices>,
    line: Option<Box<Unfilled>>,
}

impl Record {
    /// The service has answered.
    fn end(&mut self, reply: &Reply) {
        let elapsed = self.begun.elapsed();
        // The pattern of a call that became a task has not come to its end.
        let pattern = self.notices.chosen_pattern().filter(|_| !matches!(reply, Reply::Task(_)));
        let failure =
            self.governed.meter.ended(self.method, self.revision, reply, pattern.as_deref(), elapsed);
        if let Some(mut line) = self.line.take() {
            line.fill(match (failure, reply) {
                (Some(Failure { code, .. }), _) => Outcome::Failed(code),
                (None, Reply::InputRequired { .. }) => Outcome::Asked,
                (
                    None,
                    Reply::List(_) | Reply::Result(_) | Reply::Task(_) | Reply::Tasks(_) | Reply::Error(_),
                ) => Outcome::Ok,
            });
        }
    }

    /// The service was not asked.
    fn refuse(mut self, busy: Busy, scope: &Scope) -> Reply {
        let reply = self.governed.refusal(self.method, self.revision, busy, scope);
        if let Some(mut line) = self.line.take() {
            line.fill(Outcome::Failed(ErrorKind::Busy.code()));
        }
        reply
    }

    fn cancelled(mut self) -> Reply {
        if let Some(mut line) = self.line.take() {
            line.fill(Outcome::Cancelled);
        }
        Reply::Error(CallError::Internal)
    }
}

/// A line whose end is not known yet. Dropped, it tells that the call ended without one.
struct Unfilled {
    place: Option<Place>,
    at: Timestamp,
    scope: Scope,
    connection: ConnectionId,
    origin: Origin,
    request: Arc<crate::schema::Admitted>,
    cancel: CancellationToken,
    begun: Instant,
}

impl Unfilled {
    fn fill(&mut self, outcome: Outcome) {
        let Some(place) = self.place.take() else { return };
        // Whatever it answered: nobody was told.
        let outcome = if self.cancel.is_cancelled() { Outcome::Cancelled } else { outcome };
        place.fill(CallLine {
            at: self.at,
            scope: self.scope.clone(),
            connection: self.connection,
            origin: self.origin,
            request: Arc::clone(&self.request),
            outcome,
            elapsed: self.begun.elapsed(),
        });
    }
}

impl Drop for Unfilled {
    fn drop(&mut self) {
        self.fill(Outcome::Failed(DROPPED));
    }
}

/// A call that the service works on.
struct Running {
    inner: ReplyFuture,
    record: Record,
    /// Given back with the reply, not when somebody drops this.
    place: Option<(Share, Permit)>,
}

impl Running {
    fn start(place: (Share, Permit), call: Call, context: Context, record: Record) -> Self {
        let inner = Arc::clone(&record.governed.inner).call(call, context);
        Self { inner, record, place: Some(place) }
    }
}

impl Future for Running {
    type Output = Reply;

    fn poll(mut self: Pin<&mut Self>, context: &mut std::task::Context<'_>) -> Poll<Reply> {
        let reply = ready!(self.inner.as_mut().poll(context));
        self.record.end(&reply);
        drop(self.place.take());
        Poll::Ready(reply)
    }
}

/// The audit log's figures.
fn watch(audit: &Arc<Audit>, metrics: &Metrics) {
    // Weak: the figures must not keep the log from ending.
    let weak = || Arc::downgrade(audit);
    let log = weak();
    metrics.sample("audit_up", "Whether the audit log can be written", Sampled::Gauge, move || {
        let log = log.upgrade();
        log.map(|log| Sample::plain(f64::from(u8::from(log.check().is_ok())))).into_iter().collect()
    });
    let log = weak();
    metrics.sample("audit_lines", "Lines written to the audit log", Sampled::Counter, move || {
        log.upgrade().map(|log| Sample::plain(log.written() as f64)).into_iter().collect()
    });
    let log = weak();
    metrics.sample(
        "audit_lines_waiting",
        "Lines that wait to be written to the audit log, those of running calls with them",
        Sampled::Gauge,
        move || log.upgrade().map(|log| Sample::plain(log.waiting() as f64)).into_iter().collect(),
    );
    let log = weak();
    metrics.sample(
        "audit_events_left_out",
        "Events of connections that found no room in the audit log",
        Sampled::Counter,
        move || log.upgrade().map(|log| Sample::plain(log.left_out() as f64)).into_iter().collect(),
    );
}
