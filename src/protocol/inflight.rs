//! Requests in flight: which ids and progress tokens are taken, what each call waits for.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

use serde_json::{Map, Value};

use super::{CallId, Client, LogLevel, TaskOffer, batch::Slot};
use crate::{
    revision::Revision,
    schema::Admitted,
    wire::{Method, RequestId},
};

/// Progress that the client wants to hear of.
#[derive(Debug)]
pub(super) struct Progress {
    /// As received: a string or an integer.
    pub(super) token: Value,
    /// The last value told; the next must be greater.
    pub(super) last: Option<f64>,
}

/// One request to the client that is not answered yet.
#[derive(Debug)]
pub(super) struct OpenAsk {
    pub(super) id: RequestId,
    pub(super) key: String,
    pub(super) method: Method,
    /// Whether an error is an answer.
    pub(super) is_optional: bool,
}

/// What a call waits for.
#[derive(Debug)]
pub(super) enum Stage {
    /// The service works on it.
    Running,
    /// The client has to answer first (legacy era).
    Asking { open: Vec<OpenAsk>, responses: Map<String, Value>, state: Option<Value> },
}

/// One request that the service answers.
#[derive(Debug)]
pub(super) struct InFlight {
    /// Its name towards the service, from the first dispatch on.
    pub(super) name: CallId,
    pub(super) request: Arc<Admitted>,
    pub(super) client: Arc<Client>,
    /// Whether it may become a task.
    pub(super) task: Option<TaskOffer>,
    pub(super) progress: Option<Progress>,
    /// Level asked for by this request (modern era); legacy calls follow their session.
    pub(super) log_level: Option<LogLevel>,
    /// Where the page begins, for lists.
    pub(super) offset: u32,
    /// Its place in a batch.
    pub(super) slot: Option<Slot>,
    pub(super) stage: Stage,
    /// Whether the client answered an earlier round.
    pub(super) is_retry: bool,
    /// How often the client was asked, in the legacy era.
    pub(super) rounds: u32,
    /// Whether it may have changed something by the time it is stopped.
    pub(super) may_change: bool,
    /// When the current stage must have ended.
    pub(super) deadline: Instant,
}

impl InFlight {
    pub(super) fn id(&self) -> &RequestId {
        self.request.id()
    }

    pub(super) fn method(&self) -> Method {
        self.request.method()
    }

    pub(super) fn revision(&self) -> Revision {
        self.request.revision()
    }

    /// Whether its client takes a task and nothing else for an answer (2025-11-25).
    pub(super) const fn wants_task(&self) -> bool {
        matches!(self.task, Some(TaskOffer::Wanted { .. }))
    }

    /// Whether it waits for the end of a task: it takes none of the room that calls work in.
    fn is_waiting(&self) -> bool {
        self.method() == Method::TasksResult && matches!(self.stage, Stage::Running)
    }
}

/// Whose an id is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Call(CallId),
    /// A subscription stream, by its number.
    Listen(u64),
}

/// The table of requests in flight.
#[derive(Debug, Default)]
pub(super) struct InFlightTable {
    /// Boxed: the map keeps its last node, with room for eleven calls, however long the connection is idle.
    calls: BTreeMap<CallId, Box<InFlight>>,
    ids: HashMap<RequestId, Holder>,
    /// Open requests of ours: their ids, and the call that waits.
    asks: HashMap<RequestId, CallId>,
    /// How many calls wait for the client.
    asking: usize,
    /// How many wait for the end of a task.
    waiting: usize,
    next_call: u64,
}

impl InFlightTable {
    /// Who holds an id.
    pub(super) fn holder(&self, id: &RequestId) -> Option<Holder> {
        self.ids.get(id).copied()
    }

    /// Takes an id for a subscription stream.
    pub(super) fn hold_listen(&mut self, id: RequestId, listen: u64) {
        self.ids.insert(id, Holder::Listen(listen));
    }

    /// Frees an id.
    pub(super) fn free(&mut self, id: &RequestId) {
        self.ids.remove(id);
    }

    /// Whether another active request reports progress under `token`.
    pub(super) fn has_token(&self, token: &Value) -> bool {
        self.calls.values().filter_map(|call| call.progress.as_ref()).any(|progress| progress.token == *token)
    }

    /// Enters a call under a fresh name. Its stage decides whether it counts as running.
    pub(super) fn insert(&mut self, mut call: InFlight) -> CallId {
        self.next_call += 1;
        let name = CallId(self.next_call);
        call.name = name;
        self.ids.insert(call.id().clone(), Holder::Call(name));
        self.count(&call, 1);
        self.calls.insert(name, Box::new(call));
        name
    }

    /// Takes a call out, its id and its open asks with it.
    pub(super) fn remove(&mut self, name: CallId) -> Option<InFlight> {
        let call = self.calls.remove(&name)?;
        self.ids.remove(call.id());
        self.count(&call, -1);
        Some(*call)
    }

    fn count(&mut self, call: &InFlight, by: isize) {
        if call.is_waiting() {
            self.waiting = self.waiting.saturating_add_signed(by);
        }
        if let Stage::Asking { open, .. } = &call.stage {
            self.asking = self.asking.saturating_add_signed(by);
            if by < 0 {
                for ask in open {
                    self.asks.remove(&ask.id);
                }
            }
        }
    }

    /// Names the call that waits for the answer to an ask.
    pub(super) fn open_ask(&mut self, ask: RequestId, call: CallId) {
        self.asks.insert(ask, call);
    }

    /// The call that waits for the answer to an ask.
    pub(super) fn asker(&self, ask: &RequestId) -> Option<CallId> {
        self.asks.get(ask).copied()
    }

    /// Forgets an ask that was answered.
    pub(super) fn close_ask(&mut self, ask: &RequestId) {
        self.asks.remove(ask);
    }

    pub(super) fn get(&self, name: CallId) -> Option<&InFlight> {
        self.calls.get(&name).map(|call| &**call)
    }

    pub(super) fn get_mut(&mut self, name: CallId) -> Option<&mut InFlight> {
        self.calls.get_mut(&name).map(|call| &mut **call)
    }

    /// Calls that the service works on.
    pub(super) fn running(&self) -> usize {
        self.calls.len() - self.asking - self.waiting
    }

    /// Calls that wait for the end of a task.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Calls that wait for the client.
    pub(super) fn asking(&self) -> usize {
        self.asking
    }

    /// All calls, oldest first.
    pub(super) fn names(&self) -> Vec<CallId> {
        self.calls.keys().copied().collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }

    /// The earliest deadline of all calls.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.calls.values().map(|call| call.deadline).min()
    }

    /// Calls whose deadline has come, oldest first.
    pub(super) fn expired(&self, now: Instant) -> Vec<CallId> {
        self.calls.iter().filter(|(_, call)| call.deadline <= now).map(|(name, _)| *name).collect()
    }
}
