//! Answers out: what the service said, fitted, enveloped, sealed. Every answer is made here, once.

use serde_json::{Map, Value, json};

use super::{
    About, CallError, CallId, Connection, LogLevel, Notice, Now, Output, Reply,
    batch::Slot,
    connection::{Answer, LOOK_FIRST},
    fit,
    incoming::beginning,
    inflight::{InFlight, Progress, Stage},
    meta,
    rules::{self, Situation},
    tasks,
};
use crate::{
    revision::{Era, Revision},
    schema::{Sealed, Violation},
    wire::{ErrorCode, Method, RequestId, RpcError},
};

/// What a client is told of our bugs; the log has the rest.
const INTERNAL: &str = "internal error: the server's log has the details";
/// Integers beyond are written as the floats they are.
const EXACT_INTEGER_MAX: f64 = 9_007_199_254_740_992.0;

/// How a request ends.
#[derive(Debug)]
pub(super) enum Outcome {
    Result(Map<String, Value>),
    Error(RpcError),
}

/// Why a result cannot be sent.
enum Unsendable {
    Violation(Violation),
    TooLarge { size_bytes: usize },
}

impl Connection {
    /// The service ended a call. Ignored where the call is not running: cancelled, or ended before.
    pub fn handle_reply(&mut self, now: Now, call: CallId, reply: Reply) {
        if !self.inflight.get(call).is_some_and(|call| matches!(call.stage, Stage::Running)) {
            return;
        }
        let Some(call) = self.inflight.remove(call) else { return };
        match reply {
            Reply::Result(result) if call.wants_task() => self.finish_without_task(&call, &result),
            Reply::Result(result) => self.finish_payload(&call, Outcome::Result(result)),
            Reply::List(items) => self.finish_page(&call, &items),
            Reply::Error(error) => {
                let outcome = error_outcome(&call, error);
                self.finish_payload(&call, outcome);
            }
            Reply::InputRequired { requests, state } => self.input_required(now, call, requests, state),
            Reply::Task(task) => self.finish_task(call, &task),
            Reply::Tasks(tasks) => self.finish_tasks(&call, &tasks),
        }
        self.resume(now);
    }

    /// The service tells something while a call runs. Dropped where nobody wants to know.
    pub fn handle_notice(&mut self, _now: Now, call: CallId, notice: Notice) {
        let Some(running) = self.inflight.get(call) else { return self.task_notice(call, notice) };
        let level = self.wanted_level(running);
        let Some(running) = self.inflight.get_mut(call) else { return };
        let revision = running.revision();
        let Some((method, mut params)) = told(revision, notice, running.progress.as_mut(), level) else {
            return;
        };
        if let Some(task) = tasks::related(running) {
            tasks::relate(&mut params, task);
        }
        let about = About::Request { id: running.id().clone(), is_answer: false };
        if let Some(frame) = self.seal_notification(revision, method, params) {
            self.send(frame, about, None);
        }
    }

    /// A call took longer than it may: the service is told to stop, the client why there is no result.
    pub(super) fn expire(&mut self, name: CallId) {
        let Some(call) = self.inflight.get(name) else { return };
        match call.stage {
            Stage::Running => {
                let method = call.method();
                self.warn(
                    "call given up, it outlived its deadline",
                    vec![("method", method.as_str().to_owned())],
                );
                let seconds = self.deadline_of(method).as_secs_f64();
                let why = format!("gave no answer within {seconds} s and was stopped");
                self.stop(name, &why, "ask for less, or try again");
            }
            Stage::Asking { .. } => self.fail_asker(name, "the client did not answer in time"),
        }
    }

    /// Stops a running call, with an answer.
    pub(super) fn stop(&mut self, name: CallId, why: &str, advice: &str) {
        if let Some(call) = self.inflight.remove(name) {
            self.emit(Output::Cancel(name));
            self.finish_stopped(&call, why, advice);
        }
    }

    /// Ends a request that got no result because it was not let go on. The advice is for one that changes nothing.
    pub(super) fn finish_stopped(&mut self, call: &InFlight, why: &str, advice: &str) {
        let advice = if call.may_change { LOOK_FIRST } else { advice };
        let outcome = call.failure("deadline", format!("{} {why}: {advice}", subject(call)));
        self.finish(call, outcome);
    }

    /// The client cancelled a request: the service stops, and nothing more is said about it.
    pub(super) fn cancel_call(&mut self, name: CallId) {
        // A task is stopped by `tasks/cancel` alone (2025-11-25 basic/utilities/tasks): its maker is answered.
        if self.inflight.get(name).is_some_and(InFlight::wants_task) {
            return;
        }
        let Some(call) = self.inflight.remove(name) else { return };
        match &call.stage {
            Stage::Running => self.emit(Output::Cancel(name)),
            Stage::Asking { open, .. } => self.withdraw(&call, open, "the request was cancelled"),
        }
        self.answer(call.slot, None);
    }

    /// Ends a request with its one answer.
    pub(super) fn finish(&mut self, call: &InFlight, outcome: Outcome) {
        let (revision, method) = (call.revision(), call.method());
        match outcome {
            Outcome::Error(error) => self.answer_error(Some(revision), call.id(), call.slot, &error),
            Outcome::Result(mut result) => {
                fit::result(revision, method, &mut result);
                if call.is_retry && method == Method::ResourcesRead && revision.era() == Era::Modern {
                    // What depended on the client's answers is nobody's to reuse.
                    result.insert("ttlMs".to_owned(), json!(0));
                    result.insert("cacheScope".to_owned(), json!("private"));
                }
                self.answer_result(revision, method, call.id(), call.slot, result);
            }
        }
    }

    /// Answers with one page of a list: as many items as the settings allow and as fit into a frame.
    pub(super) fn finish_page(&mut self, call: &InFlight, items: &[Value]) {
        let (revision, method) = (call.revision(), call.method());
        let Some(member) = rules::list_member(method) else {
            self.bug("call answered with a list that is none", vec![("method", method.as_str().to_owned())]);
            return self.answer_internal(Some(revision), call.id(), call.slot);
        };
        let start = (call.offset as usize).min(items.len());
        let mut count = self.limits.page_items.max(1).min(items.len() - start);
        loop {
            let mut page = items[start..start + count].to_vec();
            for item in &mut page {
                fit::item(revision, method, item);
            }
            let mut result = Map::new();
            result.insert(member.to_owned(), Value::Array(page));
            let end = start + count;
            if end < items.len() {
                let cursor = self.signer.cursor(revision, method, end as u32);
                result.insert("nextCursor".to_owned(), json!(cursor));
            }
            match self.seal_result(revision, method, call.id(), result) {
                Ok(answer) => return self.answer(call.slot, Some(answer)),
                Err(Unsendable::TooLarge { .. }) if count > 1 => count /= 2,
                Err(unsendable) => {
                    return self.answer_unsendable(revision, method, call.id(), call.slot, unsendable);
                }
            }
        }
    }

    /// Answers with a result: envelope, seal, size.
    pub(super) fn answer_result(
        &mut self,
        revision: Revision,
        method: Method,
        id: &RequestId,
        slot: Option<Slot>,
        result: Map<String, Value>,
    ) {
        match self.seal_result(revision, method, id, result) {
            Ok(answer) => self.answer(slot, Some(answer)),
            Err(unsendable) => self.answer_unsendable(revision, method, id, slot, unsendable),
        }
    }

    fn seal_result(
        &self,
        revision: Revision,
        method: Method,
        id: &RequestId,
        mut result: Map<String, Value>,
    ) -> Result<Answer, Unsendable> {
        match revision.era() {
            Era::Legacy => {}
            Era::Modern => self.insert_envelope(method, &mut result),
        }
        let frame = self
            .gate
            .seal_result(revision, method, id, &Value::Object(result))
            .map_err(Unsendable::Violation)?;
        let frame = self.sized(frame)?;
        Ok(Answer { id: id.clone(), frame, error: None })
    }

    /// What every modern result carries: its type, who we are, and where due how long it may be kept.
    pub(super) fn insert_envelope(&self, method: Method, result: &mut Map<String, Value>) {
        let kind = result.entry("resultType").or_insert_with(|| json!("complete"));
        if kind == "complete"
            && let Some(hint) = self.cache_hint(method)
        {
            result.entry("ttlMs").or_insert_with(|| json!(hint.ttl_ms));
            result.entry("cacheScope").or_insert_with(|| json!(hint.scope.as_str()));
        }
        let meta = result.entry("_meta").or_insert_with(|| json!({}));
        if let Value::Object(meta) = meta {
            meta.entry(meta::SERVER_INFO).or_insert_with(|| Value::Object(self.profile.server_info.clone()));
        }
    }

    /// Answers a `tools/call` with the task that it became. Whether the client got it.
    pub(super) fn answer_created_task(
        &mut self,
        revision: Revision,
        id: &RequestId,
        slot: Option<Slot>,
        mut result: Map<String, Value>,
    ) -> bool {
        let method = Method::ToolsCall;
        match revision.era() {
            Era::Legacy => {}
            Era::Modern => self.insert_envelope(method, &mut result),
        }
        let sealed = self.gate.seal_created_task(revision, id, &Value::Object(result));
        match sealed.map_err(Unsendable::Violation).and_then(|frame| self.sized(frame)) {
            Ok(frame) => {
                self.answer(slot, Some(Answer { id: id.clone(), frame, error: None }));
                true
            }
            Err(unsendable) => {
                let reason = match unsendable {
                    Unsendable::Violation(violation) => violation.to_string(),
                    Unsendable::TooLarge { size_bytes } => format!("it has {size_bytes} bytes"),
                };
                self.bug("task withheld, it does not fit its schema or a frame", vec![("violation", reason)]);
                self.answer_internal(Some(revision), id, slot);
                false
            }
        }
    }

    /// A frame, where it may be sent.
    fn sized(&self, frame: Sealed) -> Result<Sealed, Unsendable> {
        let size_bytes = frame.as_bytes().len();
        if size_bytes > self.limits.frame_out_bytes_max {
            return Err(Unsendable::TooLarge { size_bytes });
        }
        Ok(frame)
    }

    fn answer_unsendable(
        &mut self,
        revision: Revision,
        method: Method,
        id: &RequestId,
        slot: Option<Slot>,
        unsendable: Unsendable,
    ) {
        match unsendable {
            Unsendable::Violation(violation) => {
                self.bug(
                    "result withheld, it does not fit its schema",
                    vec![("method", method.as_str().to_owned()), ("violation", violation.to_string())],
                );
                self.answer_internal(Some(revision), id, slot);
            }
            Unsendable::TooLarge { size_bytes } => {
                let limit = self.limits.frame_out_bytes_max;
                let reason = format!(
                    "the result has {size_bytes} bytes, more than the {limit} that one message may have: ask for less, or in parts"
                );
                match failure(method, "limit_exceeded", reason) {
                    Outcome::Error(error) => self.answer_error(Some(revision), id, slot, &error),
                    // So short a result fits, unless the limit is absurd: then this ends with the error.
                    Outcome::Result(result) => match self.seal_result(revision, method, id, result) {
                        Ok(answer) => self.answer(slot, Some(answer)),
                        Err(_) => self.answer_internal(Some(revision), id, slot),
                    },
                }
            }
        }
    }

    /// Answers with the error of a situation.
    pub(super) fn refuse(
        &mut self,
        revision: Option<Revision>,
        id: &RequestId,
        slot: Option<Slot>,
        situation: Situation,
        reason: String,
    ) {
        self.count_refusal(situation);
        let error = RpcError::new(rules::code(situation, revision), reason);
        self.answer_error(revision, id, slot, &error);
    }

    pub(super) fn answer_internal(&mut self, revision: Option<Revision>, id: &RequestId, slot: Option<Slot>) {
        self.answer_error(revision, id, slot, &RpcError::new(ErrorCode::InternalError, INTERNAL));
    }

    pub(super) fn answer_error(
        &mut self,
        revision: Option<Revision>,
        id: &RequestId,
        slot: Option<Slot>,
        error: &RpcError,
    ) {
        let frame = self.seal_error(revision, Some(id), error);
        let answer = frame.map(|frame| Answer { id: id.clone(), frame, error: Some(error.code) });
        self.answer(slot, answer);
    }

    /// Seals an error, or in its place the internal one that always fits.
    pub(super) fn seal_error(
        &mut self,
        revision: Option<Revision>,
        id: Option<&RequestId>,
        error: &RpcError,
    ) -> Option<Sealed> {
        let violation = match self.gate.seal_error(revision, id, error) {
            Ok(frame) if frame.as_bytes().len() <= self.limits.frame_out_bytes_max => return Some(frame),
            // It repeats something long that the client sent: the beginning tells as much.
            Ok(_) => match self.gate.seal_error(revision, id, &shortened(error)) {
                Ok(frame) => return Some(frame),
                Err(violation) => violation,
            },
            Err(violation) => violation,
        };
        self.bug("error replaced, it does not fit its schema", vec![("violation", violation.to_string())]);
        self.gate.seal_error(revision, id, &RpcError::new(ErrorCode::InternalError, INTERNAL)).ok()
    }

    pub(super) fn seal_notification(
        &mut self,
        revision: Revision,
        method: Method,
        params: Map<String, Value>,
    ) -> Option<Sealed> {
        let params = (!params.is_empty()).then_some(params);
        match self.gate.seal_notification(revision, method, params) {
            Ok(frame) if frame.as_bytes().len() <= self.limits.frame_out_bytes_max => Some(frame),
            Ok(_) => {
                self.warn(
                    "notification dropped, it is too large",
                    vec![("method", method.as_str().to_owned())],
                );
                None
            }
            Err(violation) => {
                self.bug(
                    "notification withheld, it does not fit its schema",
                    vec![("violation", violation.to_string())],
                );
                None
            }
        }
    }
}

/// The same error with every text cut to its beginning.
fn shortened(error: &RpcError) -> RpcError {
    fn cut_all(value: &Value) -> Value {
        match value {
            Value::String(text) => json!(beginning(text)),
            Value::Array(items) => items.iter().map(cut_all).collect(),
            Value::Object(members) => {
                members.iter().map(|(key, value)| (beginning(key), cut_all(value))).collect()
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }
    RpcError { code: error.code, message: beginning(&error.message), data: error.data.as_ref().map(cut_all) }
}

/// What of a notice is told under `revision`: method and params. Nothing where the client did not ask for it, or was told as
/// much already.
pub(super) fn told(
    revision: Revision,
    notice: Notice,
    wanted: Option<&mut Progress>,
    level_wanted: Option<LogLevel>,
) -> Option<(Method, Map<String, Value>)> {
    let mut params = Map::new();
    match notice {
        Notice::Progress { progress, total, message } => {
            let wanted = wanted?;
            if !progress.is_finite() || wanted.last.is_some_and(|last| progress <= last) {
                return None;
            }
            wanted.last = Some(progress);
            params.insert("progressToken".to_owned(), wanted.token.clone());
            params.insert("progress".to_owned(), number(progress));
            if let Some(total) = total.filter(|total| total.is_finite()) {
                params.insert("total".to_owned(), number(total));
            }
            if let Some(message) = message.filter(|_| revision >= Revision::V2025_03_26) {
                params.insert("message".to_owned(), json!(message));
            }
            Some((Method::NotificationsProgress, params))
        }
        Notice::Log { level, logger, data } => {
            level_wanted.filter(|wanted| level >= *wanted)?;
            params.insert("level".to_owned(), json!(level.as_str()));
            if let Some(logger) = logger {
                params.insert("logger".to_owned(), json!(logger));
            }
            params.insert("data".to_owned(), data);
            Some((Method::NotificationsMessage, params))
        }
    }
}

/// How a call ends that the service ended with an error.
fn error_outcome(call: &InFlight, error: CallError) -> Outcome {
    match error {
        CallError::MissingCapability(required) => missing_capability(call, required),
        error => Outcome::Error(rpc_error(call.revision(), error)),
    }
}

/// The JSON-RPC error that `error` is under `revision`.
pub(super) fn rpc_error(revision: Revision, error: CallError) -> RpcError {
    let coded = |situation, message| RpcError::new(rules::code(situation, Some(revision)), message);
    match error {
        CallError::InvalidParams(reason) => coded(Situation::BadParams, reason),
        CallError::ResourceNotFound { uri } => {
            let message = format!("resource not found: {}", beginning(&uri));
            coded(Situation::ResourceNotFound, message).with_data(json!({"uri": uri}))
        }
        CallError::MissingCapability(required) => match revision.era() {
            Era::Modern => undeclared(required),
            Era::Legacy => coded(Situation::MissingCapability, lacks(&Value::Object(required))),
        },
        CallError::TaskSupport(reason) => match revision.era() {
            Era::Modern => RpcError { message: reason, ..undeclared(tasks::required()) },
            Era::Legacy => coded(Situation::UnknownMethod, reason),
        },
        CallError::HeaderMismatch(reason) => coded(Situation::HeaderMismatch, reason),
        CallError::Busy { retry_after, message } => {
            let pause = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
            coded(Situation::Busy, message).with_data(json!({"retryAfterMs": pause}))
        }
        CallError::Lost(reason) => RpcError::new(ErrorCode::InternalError, reason),
        CallError::Internal => RpcError::new(ErrorCode::InternalError, INTERNAL),
    }
}

/// A request of 2026-07-28 did not declare `required`.
pub(super) fn undeclared(required: Map<String, Value>) -> RpcError {
    let required = Value::Object(required);
    let code = rules::code(Situation::MissingCapability, Some(Revision::V2026_07_28));
    RpcError::new(code, lacks(&required)).with_data(json!({"requiredCapabilities": required}))
}

fn lacks(required: &Value) -> String {
    format!("the client does not declare the capability that this needs: {required}")
}

impl InFlight {
    /// How it ends for a reason that the model can act on, with its code. A client that wants a task reads no result.
    pub(super) fn failure(&self, code: &str, reason: String) -> Outcome {
        if self.wants_task() {
            return Outcome::Error(RpcError::new(ErrorCode::InternalError, reason));
        }
        failure(self.method(), code, reason)
    }

    /// How it ends where its tool would not begin a task.
    pub(super) fn refusal(&self, reason: String) -> Outcome {
        Outcome::Error(rpc_error(self.revision(), CallError::InvalidParams(reason)))
    }
}

/// A failure that the model can act on: for a tool a result that says so, as a tool's own failures do, else an error.
fn failure(method: Method, code: &str, reason: String) -> Outcome {
    if method == Method::ToolsCall {
        let text = json!({"error": code, "message": reason}).to_string();
        let mut result = Map::new();
        result.insert("content".to_owned(), json!([{"type": "text", "text": text}]));
        result.insert("isError".to_owned(), json!(true));
        Outcome::Result(result)
    } else {
        Outcome::Error(RpcError::new(ErrorCode::InternalError, reason))
    }
}

/// The client did not declare `required`: an error of its own in the modern era; a legacy client is told in words.
pub(super) fn missing_capability(call: &InFlight, required: Map<String, Value>) -> Outcome {
    let is_tool = matches!(call.method(), Method::ToolsCall | Method::TasksResult) && !call.wants_task();
    match call.revision().era() {
        Era::Legacy if is_tool => failure(Method::ToolsCall, "denied", lacks(&Value::Object(required))),
        Era::Legacy | Era::Modern => {
            Outcome::Error(rpc_error(call.revision(), CallError::MissingCapability(required)))
        }
    }
}

/// What a call is about, for a person: `tool "x"`.
pub(super) fn subject(call: &InFlight) -> String {
    let params = call.request.params();
    let name = params.get("name").or_else(|| params.get("uri")).and_then(Value::as_str).unwrap_or_default();
    let name = beginning(name);
    if name.is_empty() {
        call.method().as_str().to_owned()
    } else {
        format!("{} {name:?}", call.method().as_str())
    }
}

/// A whole number without a point, as clients expect it.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() <= EXACT_INTEGER_MAX { json!(value as i64) } else { json!(value) }
}
