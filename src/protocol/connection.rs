//! One peer on one ordered stream of messages.

use std::{
    collections::VecDeque,
    ops::Deref,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    BatchAnswers, Call, CallId, Client, LogLevel, Profile, Signer,
    batch::{Batches, Slot, within},
    inflight::{InFlight, InFlightTable},
    rules::{self, Situation},
    subscriptions::Listen,
    tasks::OwnTasks,
};
use crate::{
    limits::ConnectionLimits,
    revision::Revision,
    schema::{Gate, Sealed},
    wire::{Envelope, ErrorCode, Method, RequestId},
};

/// How much longer than its deadline a call may take before it is given up on.
pub(super) const BACKSTOP: Duration = Duration::from_secs(1);
/// Logs that a legacy client gets before it sets a level, where it is told anything unasked: there the server chooses.
const LOG_LEVEL_DEFAULT: LogLevel = LogLevel::Info;
/// What is said of calls that the end of the server cuts off.
pub(super) const STOPPING: (&str, &str) =
    ("was not finished, as the server is shutting down", "call again after a reconnect");
/// What is said of those that it does not let begin.
pub(super) const UNBEGUN: &str = "was not begun, as the server is shutting down";
/// What is advised where something may have been changed until then.
pub(super) const LOOK_FIRST: &str =
    "what it was to change may or may not be changed; look before you call it again";
/// Places for outputs that an idle connection keeps; a burst's are given back.
const OUTPUTS_KEPT: usize = 8;
/// Most messages kept back until the client says that it is initialized.
const HELD_MAX: usize = 64;
/// Longest field of a diagnostic; the rest is cut off.
const DIAGNOSTIC_CHARS_MAX: usize = 512;
/// Most diagnostics kept for [`Connection::poll_diagnostic`]; more are dropped.
const DIAGNOSTICS_MAX: usize = 64;

/// The time of an input, as the driver saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// For deadlines. Never goes back.
    pub monotonic: Instant,
    /// For what outlives the process (`requestState`): milliseconds since 1970 in UTC.
    pub unix_ms: u64,
}

/// What the driver has to do.
#[derive(Debug)]
pub enum Output {
    /// Write this frame.
    Send(Outgoing),
    /// Serve this call; hand its end to [`Connection::handle_reply`].
    Dispatch(Call),
    /// Stop serving this call. Its reply, should it still come, is ignored.
    Cancel(CallId),
}

/// A frame to write, and what a binding with more than one way out has to know of it.
#[derive(Debug)]
pub struct Outgoing {
    /// The frame.
    pub frame: Sealed,
    /// What it belongs to.
    pub about: About,
    /// The code, where it is an error response (not for arrays).
    pub error: Option<ErrorCode>,
}

impl Deref for Outgoing {
    type Target = Sealed;

    fn deref(&self) -> &Sealed {
        &self.frame
    }
}

/// What a frame of ours belongs to. One stream takes them all; HTTP sends each where it belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum About {
    /// It answers the frame just handed in, and no request: that frame had no usable id, or one that is taken.
    Frame,
    /// A request of the client: its answer, or something on the way to it.
    Request {
        /// The id as received; for an array the id of one of its answers.
        id: RequestId,
        /// Whether this is the answer.
        is_answer: bool,
    },
    /// No request: a change told to the session.
    Session,
}

/// The answer to one request.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) id: RequestId,
    pub(super) frame: Sealed,
    pub(super) error: Option<ErrorCode>,
}

/// How bad a diagnostic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The peer misbehaved, or something was dropped.
    Warning,
    /// Our bug.
    Error,
}

/// Something for the log: a constant message and its fields. Holds no payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad.
    pub severity: Severity,
    /// What happened.
    pub message: &'static str,
    /// The circumstances.
    pub fields: Vec<(&'static str, String)>,
}

impl Diagnostic {
    /// Whether something of ours did not fit its schema and was withheld.
    #[must_use]
    pub fn is_violation_of_ours(&self) -> bool {
        self.severity == Severity::Error && self.fields.iter().any(|(name, _)| *name == "violation")
    }
}

/// The legacy session of a connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) revision: Revision,
    pub(super) client: Arc<Client>,
    /// `notifications/initialized` was seen.
    pub(super) initialized: bool,
    /// Least severe level to tell; `None` tells nothing. Before `logging/setLevel` the server chooses.
    pub(super) log_level: Option<LogLevel>,
    /// Resources subscribed to, in the order of subscription.
    pub(super) subscriptions: Vec<String>,
}

impl Session {
    /// The session that a handshake opens.
    pub(super) fn open(client: Client) -> Self {
        Self {
            revision: client.revision,
            initialized: false,
            log_level: rules::is_told_unasked(client.revision).then_some(LOG_LEVEL_DEFAULT),
            client: Arc::new(client),
            subscriptions: Vec::new(),
        }
    }
}

/// A message that waits for `notifications/initialized`.
#[derive(Debug)]
pub(super) struct Held {
    frame: Sealed,
    about: About,
    /// The ask that it is, if it is one.
    pub(super) ask: Option<RequestId>,
}

/// The protocol machine of one connection: frames and replies in, frames and calls out.
///
/// `handle_*` is input, `poll_*` is output, the rest tells its state. **Contract**: one `handle_*`, then
/// [`Connection::poll_output`] until it yields `None`, only then the next input. While [`Connection::accepts_input`]
/// is false no further frame may be handed in (what arrives nevertheless is queued, not lost). The machine is
/// deterministic: no clock, no randomness, no I/O.
///
/// Each request is answered exactly once, unless the client cancels it: then never.
#[derive(Debug)]
pub struct Connection {
    pub(super) profile: Arc<Profile>,
    pub(super) gate: Arc<Gate>,
    pub(super) limits: ConnectionLimits,
    pub(super) signer: Signer,
    pub(super) batch_answers: BatchAnswers,
    pub(super) session: Option<Session>,
    pub(super) inflight: InFlightTable,
    pub(super) batches: Batches,
    pub(super) listens: Vec<Listen>,
    pub(super) next_listen: u64,
    /// Boxed: most connections make no task.
    pub(super) tasks: Option<Box<OwnTasks>>,
    pub(super) next_ask: i64,
    /// Messages read but not looked at: there was no room for another call.
    pub(super) backlog: VecDeque<(Envelope, Option<Slot>)>,
    pub(super) held: VecDeque<Held>,
    pub(super) is_eof: bool,
    /// Draining is over: what is left is answered without being begun.
    pub(super) is_stopping: bool,
    output: VecDeque<Output>,
    diagnostics: VecDeque<Diagnostic>,
    /// How often each situation led to a refusal since it was last asked for. Boxed: most connections never need it.
    refusals: Option<Box<[u32; Situation::COUNT]>>,
}

impl Connection {
    /// A connection on which nothing was said yet.
    #[must_use]
    pub fn new(
        profile: Arc<Profile>,
        gate: Arc<Gate>,
        limits: ConnectionLimits,
        signer: Signer,
        batch_answers: BatchAnswers,
    ) -> Self {
        Self {
            profile,
            gate,
            limits,
            signer,
            batch_answers,
            session: None,
            inflight: InFlightTable::default(),
            batches: Batches::default(),
            listens: Vec::new(),
            next_listen: 0,
            tasks: None,
            next_ask: 0,
            backlog: VecDeque::new(),
            held: VecDeque::new(),
            is_eof: false,
            is_stopping: false,
            output: VecDeque::new(),
            diagnostics: VecDeque::new(),
            refusals: None,
        }
    }

    /// The same connection with a legacy session that `client` opened elsewhere and that is initialized already: HTTP
    /// sessions outlive connections and move between instances. Log level and subscriptions begin anew. What the client
    /// is asked is numbered after `asked`: a number that tells these questions from those of where the session was before,
    /// which the client may still answer.
    #[must_use]
    pub fn with_session(mut self, client: Client, asked: u32) -> Self {
        self.next_ask = asked.into();
        self.session = Some(Session { initialized: true, ..Session::open(client) });
        self
    }

    /// The service says that a call only reads: should it be stopped, it may simply be called again. Of a call of a tool
    /// this is not known otherwise.
    pub fn set_reads_only(&mut self, call: CallId) {
        if let Some(call) = self.inflight.get_mut(call) {
            call.may_change = false;
        }
    }

    /// Time passed: ends what took too long. Call when [`Connection::poll_timeout`] is due; earlier does no harm.
    pub fn handle_timeout(&mut self, now: Now) {
        for call in self.inflight.expired(now.monotonic) {
            self.expire(call);
        }
        self.resume(now);
    }

    /// The client gave a request up by closing the stream that its answer would have come on (2026-07-28 over HTTP):
    /// the same as `notifications/cancelled` for it. Ids that are not in flight are ignored.
    pub fn handle_cancel(&mut self, now: Now, id: &RequestId) {
        if let Some(holder) = self.inflight.holder(id) {
            self.cancel(holder);
            self.resume(now);
        } else if let Some(index) = self.waiting_request(id)
            && let Some((_, slot)) = self.backlog.remove(index)
        {
            self.answer(slot, None);
        }
    }

    /// No more input will come, or the server is about to stop: ends the subscription streams with their result and
    /// fails the calls that wait for an answer of the client. Running calls go on.
    pub fn handle_eof(&mut self, now: Now) {
        self.is_eof = true;
        self.end_listens();
        self.fail_asking("the connection ended before the client answered");
        self.resume(now);
    }

    /// The time for draining is over: stops every running call and answers that the server stops.
    pub fn handle_drain_deadline(&mut self, now: Now) {
        self.is_eof = true;
        self.end_listens();
        self.fail_asking("the server is shutting down");
        self.is_stopping = true;
        let (why, advice) = STOPPING;
        for name in self.inflight.names() {
            self.stop(name, why, advice);
        }
        // What still waits in the backlog is answered too; none of it is begun.
        self.resume(now);
    }

    /// What to do next; `None` when the machine waits for input.
    pub fn poll_output(&mut self) -> Option<Output> {
        let output = self.output.pop_front();
        if output.is_none() && self.output.capacity() > OUTPUTS_KEPT {
            self.output.shrink_to(OUTPUTS_KEPT);
        }
        output
    }

    /// When [`Connection::handle_timeout`] is to be called, if ever.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.inflight.next_deadline()
    }

    /// The next line for the log.
    pub fn poll_diagnostic(&mut self) -> Option<Diagnostic> {
        self.diagnostics.pop_front()
    }

    /// The rules under which messages were refused since the last call, each with how often.
    pub fn take_refusals(&mut self) -> impl Iterator<Item = (&'static str, u32)> + use<> {
        let refusals = self.refusals.take().map_or([0; _], |counts| *counts);
        Situation::RULES.into_iter().zip(refusals).filter(|(_, count)| *count > 0)
    }

    /// Whether [`Connection::take_refusals`] has anything.
    #[must_use]
    pub const fn has_refused(&self) -> bool {
        self.refusals.is_some()
    }

    pub(super) fn count_refusal(&mut self, situation: Situation) {
        let count = &mut self.refusals.get_or_insert_default()[situation as usize];
        *count = count.saturating_add(1);
    }

    /// Whether the driver may hand in another frame.
    #[must_use]
    pub fn accepts_input(&self) -> bool {
        !self.is_eof && self.has_place()
    }

    /// Whether another request could be begun, though no further input may be expected: what arrives nevertheless, while
    /// the server ends, is served as what came before it.
    #[must_use]
    pub fn has_place(&self) -> bool {
        self.backlog.is_empty() && self.has_room()
    }

    /// Whether nothing is left to be done: input has ended, every request is answered, every output taken.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.is_eof
            && self.inflight.is_empty()
            && self.listens.is_empty()
            && self.backlog.is_empty()
            && self.batches.is_empty()
            && self.output.is_empty()
    }

    /// Most requests worked on at once.
    #[must_use]
    pub fn inflight_max(&self) -> usize {
        self.limits.inflight_requests_max.max(1)
    }

    /// Requests that are not answered yet, open subscription streams not counted.
    #[must_use]
    pub fn inflight(&self) -> usize {
        self.inflight.len()
    }

    /// Of these the `tasks/result` that wait for the end of a task: they take none of the room for
    /// [`Connection::inflight_max`], and there are at most as many again.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.inflight.waiting()
    }

    /// Longest that a call of `method` may take.
    #[must_use]
    pub const fn deadline_of(&self, method: Method) -> Duration {
        match method {
            Method::TasksResult => self.limits.task_deadline,
            _ => self.limits.call_deadline,
        }
    }

    /// Whether a request with this id is neither answered nor cancelled.
    #[must_use]
    pub fn is_in_flight(&self, id: &RequestId) -> bool {
        self.inflight.holder(id).is_some()
    }

    /// The revision of the legacy session, if there is one.
    #[must_use]
    pub fn session_revision(&self) -> Option<Revision> {
        self.session.as_ref().map(|session| session.revision)
    }

    /// Whether a request with this id still waits for its answer, be it in flight or for room.
    #[must_use]
    pub fn is_pending(&self, id: &RequestId) -> bool {
        self.is_in_flight(id) || self.waiting_request(id).is_some()
    }

    /// The request that a call serves, as long as it is in flight.
    #[must_use]
    pub fn request_of(&self, call: CallId) -> Option<&RequestId> {
        self.inflight.get(call).map(InFlight::id)
    }

    /// Who opened the legacy session, if there is one.
    #[must_use]
    pub fn session_client(&self) -> Option<&Client> {
        self.session.as_ref().map(|session| &*session.client)
    }

    /// Resources subscribed to and subscription streams open.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        self.session.as_ref().map_or(0, |session| session.subscriptions.len()) + self.listens.len()
    }

    /// Where a request with this id waits in the backlog, if it may be cancelled (`initialize` may not).
    pub(super) fn waiting_request(&self, id: &RequestId) -> Option<usize> {
        self.backlog.iter().position(|(waiting, _)| {
            matches!(waiting, Envelope::Request(request)
                if request.id == *id && request.method != Method::Initialize.as_str())
        })
    }

    pub(super) fn has_room(&self) -> bool {
        self.inflight.running() < self.inflight_max()
    }

    pub(super) fn emit(&mut self, output: Output) {
        self.output.push_back(output);
    }

    pub(super) fn send(&mut self, frame: Sealed, about: About, error: Option<ErrorCode>) {
        self.output.push_back(Output::Send(Outgoing { frame, about, error }));
    }

    /// Sends an answer, or puts it into its batch. `None` closes the place without an answer.
    pub(super) fn answer(&mut self, slot: Option<Slot>, answer: Option<Answer>) {
        let Some(slot) = slot else {
            if let Some(Answer { id, frame, error }) = answer {
                // An id that is still taken belongs to another request: this refuses its second use.
                let is_taken = self.inflight.holder(&id).is_some();
                let about = if is_taken { About::Frame } else { About::Request { id, is_answer: true } };
                self.send(frame, about, error);
            }
            return;
        };
        let Some(answers) = self.batches.close(slot, answer) else { return };
        let Some(id) = answers.first().map(|answer| answer.id.clone()) else { return };
        let frames: Vec<Sealed> = answers.into_iter().map(|answer| answer.frame).collect();
        let mut runs = within(frames, self.limits.frame_out_bytes_max).into_iter().peekable();
        while let Some(run) = runs.next() {
            let array = self.gate.seal_batch(&run);
            let is_answer = runs.peek().is_none();
            self.send(array, About::Request { id: id.clone(), is_answer }, None);
        }
    }

    /// Sends a message of ours to the legacy session, or keeps it until the client is initialized.
    pub(super) fn send_unasked(&mut self, frame: Sealed, about: About, ask: Option<RequestId>) {
        if self.session.as_ref().is_some_and(|session| session.initialized) {
            self.send(frame, about, None);
        } else if ask.is_none() && self.held.iter().any(|held| held.frame.as_bytes() == frame.as_bytes()) {
            // The same change twice tells nothing new.
        } else if ask.is_none() && self.held.len() >= HELD_MAX {
            self.warn("notification dropped, the client is not initialized and too many wait", Vec::new());
        } else {
            self.held.push_back(Held { frame, about, ask });
        }
    }

    pub(super) fn release_held(&mut self) {
        while let Some(held) = self.held.pop_front() {
            self.send(held.frame, held.about, None);
        }
    }

    pub(super) fn warn(&mut self, message: &'static str, fields: Vec<(&'static str, String)>) {
        self.diagnose(Severity::Warning, message, fields);
    }

    pub(super) fn bug(&mut self, message: &'static str, fields: Vec<(&'static str, String)>) {
        self.diagnose(Severity::Error, message, fields);
    }

    fn diagnose(
        &mut self,
        severity: Severity,
        message: &'static str,
        mut fields: Vec<(&'static str, String)>,
    ) {
        if self.diagnostics.len() < DIAGNOSTICS_MAX {
            for (_, value) in &mut fields {
                if let Some((end, _)) = value.char_indices().nth(DIAGNOSTIC_CHARS_MAX) {
                    value.truncate(end);
                }
            }
            self.diagnostics.push_back(Diagnostic { severity, message, fields });
        }
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "model_tests.rs"]
mod model_tests;
