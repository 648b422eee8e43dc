//! Requests of one revision: admitted, then answered here or dispatched to the service.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{
    Answers, Call, CallId, Capabilities, Client, Connection, LogLevel, Now, Output,
    batch::Slot,
    connection::{BACKSTOP, STOPPING, UNBEGUN},
    incoming::text,
    inflight::{InFlight, Progress, Stage},
    meta,
    replies::{subject, undeclared},
    rules::{self, Situation},
    signer::State,
    tasks,
};
use crate::{
    revision::{Era, Revision},
    schema::Admitted,
    wire::{Gate as Capability, Method, Request, RequestId, RpcError},
};

/// Greatest integer that a progress token of more than 64 bits may not exceed to be echoed exactly.
const EXACT_INTEGER_MAX: f64 = 9_007_199_254_740_992.0;

/// A client that waits for too many tasks is told to come again after so long.
const WAIT_AGAIN_MS: u64 = 1_000;

/// Whether the server offers what a method needs.
fn is_offered(capability: Capability, offered: &Capabilities) -> bool {
    match capability {
        Capability::Free => true,
        Capability::Tools => offered.tools.is_some(),
        Capability::Prompts => offered.prompts.is_some(),
        Capability::Resources => offered.resources.is_some(),
        Capability::ResourcesSubscribe => offered.resources.is_some_and(|resources| resources.subscribe),
        Capability::Completions => offered.completions,
        Capability::Logging => offered.logging,
        Capability::Tasks => offered.tasks,
        Capability::ClientRoots | Capability::ClientSampling | Capability::ClientElicitation => false,
    }
}

impl Connection {
    /// Method, then params: serves a request under `revision`, or answers why not.
    #[expect(clippy::too_many_arguments, reason = "the whole of one request, taken apart once")]
    pub(super) fn admit(
        &mut self,
        now: Now,
        revision: Revision,
        method: Option<Method>,
        request: Request,
        client: Arc<Client>,
        log_level: Option<LogLevel>,
        slot: Option<Slot>,
    ) {
        let method = method.filter(|method| {
            method.exists_in(revision) && is_offered(method.row().gate, &self.profile.capabilities)
        });
        let Some(method) = method else {
            return self.unknown_method(Some(revision), &request, slot);
        };
        match self.gate.admit_request(revision, method, request) {
            Ok(admitted) => self.serve(now, admitted, client, log_level, slot),
            Err((id, violation)) => {
                let reason = format!("invalid params: {violation}");
                self.refuse(Some(revision), &id, slot, Situation::BadParams, reason);
            }
        }
    }

    fn serve(
        &mut self,
        now: Now,
        request: Admitted,
        client: Arc<Client>,
        log_level: Option<LogLevel>,
        slot: Option<Slot>,
    ) {
        match request.method() {
            Method::ServerDiscover => self.discover(request.revision(), request.id(), slot),
            Method::LoggingSetLevel => {
                if let Some(level) = text(request.params(), "level").and_then(LogLevel::parse)
                    && let Some(session) = &mut self.session
                {
                    session.log_level = Some(level);
                }
                self.answer_result(request.revision(), request.method(), request.id(), slot, Map::new());
            }
            Method::ResourcesSubscribe | Method::ResourcesUnsubscribe => self.subscribe(&request, slot),
            Method::SubscriptionsListen => self.listen(&request, client, slot),
            method
                if request.revision().era() == Era::Modern
                    && tasks::is_method(method)
                    && !tasks::declares(&client) =>
            {
                self.refuse_undeclared(request.id(), slot, tasks::required());
            }
            Method::ToolsList
            | Method::PromptsList
            | Method::ResourcesList
            | Method::ResourcesTemplatesList
            | Method::ToolsCall
            | Method::PromptsGet
            | Method::ResourcesRead
            | Method::CompletionComplete
            | Method::TasksGet
            | Method::TasksResult
            | Method::TasksList
            | Method::TasksUpdate
            | Method::TasksCancel => self.begin(now, request, client, log_level, slot),
            // Answered before they come here, or nothing that a client requests.
            _ => {
                self.bug(
                    "request admitted that nothing serves",
                    vec![("method", request.method().as_str().to_owned())],
                );
                self.answer_internal(Some(request.revision()), request.id(), slot);
            }
        }
    }

    /// Begins a call of the service: cursor, progress token and earlier answers are checked first.
    fn begin(
        &mut self,
        now: Now,
        request: Admitted,
        client: Arc<Client>,
        log_level: Option<LogLevel>,
        slot: Option<Slot>,
    ) {
        let revision = request.revision();
        let prepared = self.read_cursor(&request).and_then(|offset| {
            let progress = self.read_progress(&request)?;
            let answers = self.read_answers(now, &request)?;
            Ok((offset, progress, answers))
        });
        let (offset, progress, answers) = match prepared {
            Ok(prepared) => prepared,
            Err(reason) => {
                return self.refuse(Some(revision), request.id(), slot, Situation::BadParams, reason);
            }
        };
        if request.method() == Method::TasksResult && self.inflight.waiting() >= self.inflight_max() {
            return self.refuse_wait(&request, slot);
        }
        let call = InFlight {
            name: CallId(0),
            task: tasks::offer(&self.profile.capabilities, &client, &request),
            deadline: now.monotonic + self.deadline_of(request.method()) + BACKSTOP,
            may_change: request.method() == Method::ToolsCall,
            request: Arc::new(request),
            client,
            progress,
            log_level,
            offset,
            slot,
            stage: Stage::Running,
            is_retry: answers.is_some(),
            rounds: 0,
        };
        self.dispatch(call, answers);
    }

    /// So many wait for the end of tasks that another has to come again, or to ask how the task stands.
    fn refuse_wait(&mut self, request: &Admitted, slot: Option<Slot>) {
        let (revision, limit) = (Some(request.revision()), self.inflight_max());
        let reason = format!(
            "{limit} requests of this connection wait for the end of tasks already: call again later, or use tasks/get"
        );
        self.count_refusal(Situation::Busy);
        let error = RpcError::new(rules::code(Situation::Busy, revision), reason)
            .with_data(json!({"retryAfterMs": WAIT_AGAIN_MS}));
        self.answer_error(revision, request.id(), slot, &error);
    }

    /// A request of 2026-07-28 that does not declare what it needs.
    pub(super) fn refuse_undeclared(
        &mut self,
        id: &RequestId,
        slot: Option<Slot>,
        required: Map<String, Value>,
    ) {
        let revision = Some(Revision::V2026_07_28);
        self.count_refusal(Situation::MissingCapability);
        self.answer_error(revision, id, slot, &undeclared(required));
    }

    /// Hands a call to the service, under a fresh name.
    pub(super) fn dispatch(&mut self, call: InFlight, answers: Option<Answers>) {
        if self.is_stopping {
            let (why, advice) = STOPPING;
            if call.is_retry || call.rounds > 0 {
                return self.finish_stopped(&call, why, advice);
            }
            let outcome = call.failure("deadline", format!("{} {UNBEGUN}: {advice}", subject(&call)));
            return self.finish(&call, outcome);
        }
        let dispatched = Call {
            id: CallId(0),
            request: Arc::clone(&call.request),
            client: Arc::clone(&call.client),
            wants_progress: call.progress.is_some(),
            log_level: self.wanted_level(&call),
            answers,
            task: call.task,
        };
        let id = self.inflight.insert(call);
        self.emit(Output::Dispatch(Call { id, ..dispatched }));
    }

    /// Least severe level that the client of a call wants to hear of now.
    pub(super) fn wanted_level(&self, call: &InFlight) -> Option<LogLevel> {
        if !self.profile.capabilities.logging {
            return None;
        }
        match call.revision().era() {
            Era::Legacy => self.session_level(),
            Era::Modern => call.log_level,
        }
    }

    /// Least severe level that the legacy session wants to hear of.
    pub(super) fn session_level(&self) -> Option<LogLevel> {
        let session = self.session.as_ref().filter(|_| self.profile.capabilities.logging)?;
        session.log_level
    }

    fn read_cursor(&self, request: &Admitted) -> Result<u32, String> {
        if rules::list_member(request.method()).is_none() {
            return Ok(0);
        }
        let Some(cursor) = request.params().get("cursor") else { return Ok(0) };
        cursor
            .as_str()
            .and_then(|cursor| self.signer.read_cursor(request.revision(), request.method(), cursor))
            .ok_or_else(|| {
                "invalid params: /params/cursor is no cursor of this list: pass `nextCursor` unchanged, or leave it out for \
                 the first page"
                    .to_owned()
            })
    }

    fn read_progress(&self, request: &Admitted) -> Result<Option<Progress>, String> {
        let meta = request.params().get("_meta");
        let Some(token) = meta.and_then(|meta| meta.get(meta::PROGRESS_TOKEN)) else { return Ok(None) };
        let echoes_exactly = match token {
            Value::String(_) => true,
            Value::Number(number) => {
                number.is_i64()
                    || number.is_u64()
                    || number.as_f64().is_some_and(|float| float.abs() <= EXACT_INTEGER_MAX)
            }
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => false,
        };
        if !echoes_exactly {
            return Ok(None);
        }
        if self.inflight.has_token(token) || self.tasks.as_ref().is_some_and(|own| own.has_token(token)) {
            return Err("invalid params: /params/_meta/progressToken belongs to another request in flight: use a fresh one"
                .to_owned());
        }
        Ok(Some(Progress { token: token.clone(), last: None }))
    }

    /// What a modern client answered to an earlier `input_required`, verified.
    fn read_answers(&self, now: Now, request: &Admitted) -> Result<Option<Answers>, String> {
        let (revision, method, params) = (request.revision(), request.method(), request.params());
        let answers_task = method == Method::TasksUpdate;
        if revision.era() == Era::Legacy || !(answers_task || rules::may_ask(method)) {
            return Ok(None);
        }
        let issued = match params.get("requestState") {
            _ if answers_task => None,
            None => None,
            Some(Value::String(state)) => Some(
                self.signer
                    .read_state(revision, method, params, now.unix_ms, state)
                    .map_err(|fault| format!("invalid params: {fault}"))?,
            ),
            Some(_) => return Err("invalid params: /params/requestState must be a string".to_owned()),
        };
        let given = match params.get("inputResponses") {
            None => None,
            Some(Value::Object(given)) => Some(given),
            Some(_) => return Err("invalid params: /params/inputResponses must be an object".to_owned()),
        };
        if issued.is_none() && given.is_none() {
            return Ok(None);
        }
        let mut responses = Map::new();
        for (key, value) in given.into_iter().flatten() {
            let Some(asked) = asked_method(issued.as_ref(), key, value) else { continue };
            if answers_task && asked == Method::SamplingCreateMessage && value.get("role").is_none() {
                // No answer to anything: under a key that nobody asked under it does no harm, under one that the task
                // asked under the service refuses it.
                continue;
            }
            let response = self
                .gate
                .admit_input_response(revision, asked, value.clone())
                .map_err(|violation| format!("invalid params: /params/inputResponses: {violation}"))?;
            responses.insert(key.clone(), response);
        }
        Ok(Some(Answers { responses, state: issued.and_then(|issued| issued.state) }))
    }
}

/// Which kind of ask an entry of `inputResponses` answers; `None` where its key was never asked for.
///
/// A client may lose the state and still answer: then the kind is told by the answer's own members.
fn asked_method(issued: Option<&State>, key: &str, value: &Value) -> Option<Method> {
    match issued {
        Some(state) => state.asked.get(key).and_then(Value::as_str).and_then(Method::parse),
        None if value.get("roots").is_some() => Some(Method::RootsList),
        None if value.get("action").is_some() => Some(Method::ElicitationCreate),
        None => Some(Method::SamplingCreateMessage),
    }
}
