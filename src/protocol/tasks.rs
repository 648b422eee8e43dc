//! Tasks on the wire: two designs that share this module's vocabulary and nothing else.
//!
//! 2025-11-25: the client wants a task, reads it flat, and `tasks/result` waits for its end. 2026-07-28: the server makes
//! one where the request declares the extension, and the task holds what it asks and what it ends with.

use std::collections::VecDeque;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{
    About, CallId, Capabilities, Client, Connection, Notice, Now, Task, TaskOffer, TaskState,
    asks::Shown,
    fit,
    inflight::{InFlight, Progress, Stage},
    meta,
    replies::{Outcome, rpc_error, told},
};
use crate::{
    revision::{Era, Revision},
    schema::Admitted,
    wire::{Method, RequestId},
};

/// The extension of 2026-07-28.
pub(super) const EXTENSION: &str = "io.modelcontextprotocol/tasks";
/// The revision of the one design.
const LEGACY: Revision = Revision::V2025_11_25;
/// The revision of the other.
const MODERN: Revision = Revision::V2026_07_28;
/// Spans beyond are told as this: the greatest integer that every client reads exactly.
const SPAN_MS_MAX: u64 = (1 << 53) - 1;

/// Whether a request declares the extension. What a legacy client says of it means nothing.
pub(super) fn declares(client: &Client) -> bool {
    let extensions = client.capabilities.get("extensions");
    client.revision == MODERN && extensions.and_then(|all| all.get(EXTENSION)).is_some_and(Value::is_object)
}

/// The capability that a request of 2026-07-28 must declare.
pub(super) fn required() -> Map<String, Value> {
    let mut required = Map::new();
    required.insert("extensions".to_owned(), json!({EXTENSION: {}}));
    required
}

/// Whether a request is one of the extension's methods.
pub(super) const fn is_method(method: Method) -> bool {
    matches!(method, Method::TasksGet | Method::TasksUpdate | Method::TasksCancel)
}

/// How a call may become a task. A `params.task` where tasks are not offered, or of another revision, means nothing.
pub(super) fn offer(offered: &Capabilities, client: &Client, request: &Admitted) -> Option<TaskOffer> {
    if !offered.tasks || request.method() != Method::ToolsCall {
        return None;
    }
    match request.revision() {
        LEGACY => {
            let wish = request.params().get("task")?.as_object()?;
            let ttl = wish.get("ttl").and_then(milliseconds);
            Some(TaskOffer::Wanted { ttl })
        }
        MODERN => declares(client).then_some(TaskOffer::Allowed),
        Revision::V2024_11_05 | Revision::V2025_03_26 | Revision::V2025_06_18 => None,
    }
}

/// A span of whole milliseconds, however the integer is spelled; `None` where it is negative.
fn milliseconds(value: &Value) -> Option<std::time::Duration> {
    let spelled_as_float = || value.as_f64().filter(|float| *float >= 0.0).map(|float| float as u64);
    value.as_u64().or_else(spelled_as_float).map(std::time::Duration::from_millis)
}

/// A time as text of RFC 3339 in UTC.
fn time(unix_ms: u64) -> String {
    let time = i64::try_from(unix_ms).ok().and_then(|unix_ms| Timestamp::from_millisecond(unix_ms).ok());
    time.unwrap_or(Timestamp::MAX).to_string()
}

/// What a task says of itself under either design, without what its status calls for.
fn head(era: Era, task: &Task) -> Map<String, Value> {
    let status = match &task.state {
        TaskState::Working => "working",
        TaskState::InputRequired(_) => "input_required",
        TaskState::Completed(result)
            if era == Era::Legacy && result.get("isError") == Some(&Value::Bool(true)) =>
        {
            "failed"
        }
        TaskState::Completed(_) => "completed",
        TaskState::Failed(_) => "failed",
        TaskState::Cancelled => "cancelled",
    };
    let (ttl, interval) = match era {
        Era::Legacy => ("ttl", "pollInterval"),
        Era::Modern => ("ttlMs", "pollIntervalMs"),
    };
    let span =
        |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(SPAN_MS_MAX).min(SPAN_MS_MAX);
    let mut members = Map::new();
    members.insert("taskId".to_owned(), json!(task.id));
    members.insert("status".to_owned(), json!(status));
    if let Some(message) = &task.message {
        members.insert("statusMessage".to_owned(), json!(message));
    }
    members.insert("createdAt".to_owned(), json!(time(task.created_ms)));
    members.insert("lastUpdatedAt".to_owned(), json!(time(task.updated_ms)));
    members.insert(ttl.to_owned(), json!(task.ttl.map(span)));
    if let Some(poll_interval) = task.poll_interval {
        members.insert(interval.to_owned(), json!(span(poll_interval)));
    }
    members
}

/// Says in `_meta` which task a message of 2025-11-25 belongs to.
pub(super) fn relate(members: &mut Map<String, Value>, task: &str) {
    let meta = members.entry("_meta").or_insert_with(|| json!({}));
    if let Value::Object(meta) = meta {
        meta.insert(meta::RELATED_TASK.to_owned(), json!({"taskId": task}));
    }
}

/// The task that everything about a call belongs to: only `tasks/result` has one.
pub(super) fn related(call: &InFlight) -> Option<&str> {
    match call.method() {
        Method::TasksResult => call.request.params().get("taskId").and_then(Value::as_str),
        _ => None,
    }
}

/// A task that a call of this session made.
#[derive(Debug)]
struct OwnTask {
    call: CallId,
    id: String,
    progress: Option<Progress>,
}

/// The tasks that calls of a 2025-11-25 session made and that are not known to have ended, oldest first.
#[derive(Debug, Default)]
pub(super) struct OwnTasks {
    tasks: VecDeque<OwnTask>,
}

impl OwnTasks {
    /// Whether one of them reports progress under `token`.
    pub(super) fn has_token(&self, token: &Value) -> bool {
        self.tasks.iter().filter_map(|task| task.progress.as_ref()).any(|known| known.token == *token)
    }
}

impl Connection {
    /// A call answered with a task: made by it, read, or stopped.
    pub(super) fn finish_task(&mut self, mut call: InFlight, task: &Task) {
        let revision = call.revision();
        let result = match (call.method(), revision.era()) {
            (Method::ToolsCall, _) if call.task.is_some() => return self.finish_created(&mut call, task),
            (Method::TasksGet | Method::TasksCancel, Era::Legacy) => head(Era::Legacy, task),
            (Method::TasksGet, Era::Modern) => match self.detailed(&call.client.capabilities, task) {
                Some(result) => result,
                None => return self.answer_internal(Some(revision), call.id(), call.slot),
            },
            (Method::TasksCancel, Era::Modern) => Map::new(),
            (method, _) => {
                self.bug(
                    "call answered with a task that it did not allow",
                    vec![("method", method.as_str().to_owned())],
                );
                return self.answer_internal(Some(revision), call.id(), call.slot);
            }
        };
        self.answer_result(revision, call.method(), call.id(), call.slot, result);
    }

    /// A `tools/call` became a task. In 2025-11-25 its session is told of it from now on.
    fn finish_created(&mut self, call: &mut InFlight, task: &Task) {
        let revision = call.revision();
        let mut result = Map::new();
        match revision.era() {
            Era::Legacy => {
                result.insert("task".to_owned(), Value::Object(head(Era::Legacy, task)));
            }
            Era::Modern => {
                result.insert("resultType".to_owned(), json!("task"));
                result.extend(head(Era::Modern, task));
            }
        }
        let is_told = self.answer_created_task(revision, call.id(), call.slot, result);
        if revision.era() == Era::Modern || !is_told || task.state.is_final() {
            return;
        }
        let limit = self.limits.subscriptions_max;
        let own = &mut self.tasks.get_or_insert_default().tasks;
        while own.len() >= limit.max(1) {
            own.pop_front();
        }
        own.push_back(OwnTask { call: call.name, id: task.id.clone(), progress: call.progress.take() });
    }

    /// Answers with a page of tasks.
    pub(super) fn finish_tasks(&mut self, call: &InFlight, tasks: &[Task]) {
        let items: Vec<Value> = tasks.iter().map(|task| Value::Object(head(Era::Legacy, task))).collect();
        self.finish_page(call, &items);
    }

    /// A `tools/call` of 2025-11-25 that wanted a task was answered with a result. Its client reads nothing but a task; what
    /// a tool says that would not begin is told as an error.
    pub(super) fn finish_without_task(&mut self, call: &InFlight, result: &Map<String, Value>) {
        let said = result
            .get("content")
            .and_then(|content| content.get(0)?.get("text")?.as_str())
            .filter(|_| result.get("isError") == Some(&Value::Bool(true)));
        let Some(reason) = said else {
            self.bug("call that wanted a task answered with a result", Vec::new());
            return self.answer_internal(Some(call.revision()), call.id(), call.slot);
        };
        let outcome = call.refusal(reason.to_owned());
        self.finish(call, outcome);
    }

    /// The end of a task, as the call that it was would have been answered.
    pub(super) fn finish_payload(&mut self, call: &InFlight, mut outcome: Outcome) {
        if let (Outcome::Result(result), Some(task)) = (&mut outcome, related(call)) {
            relate(result, task);
        }
        self.finish(call, outcome);
    }

    /// A whole task of 2026-07-28: `None` where something in it is wrong, which is our bug and logged.
    fn detailed(&mut self, declared: &Map<String, Value>, task: &Task) -> Option<Map<String, Value>> {
        let mut members = head(Era::Modern, task);
        match &task.state {
            TaskState::Working | TaskState::Cancelled => {}
            TaskState::InputRequired(requests) => {
                let Shown { requests, .. } = self.show_asks(MODERN, declared, requests.clone())?;
                members.insert("inputRequests".to_owned(), Value::Object(requests));
            }
            TaskState::Completed(result) => {
                let mut result = result.clone();
                fit::result(MODERN, Method::ToolsCall, &mut result);
                self.insert_envelope(Method::ToolsCall, &mut result);
                members.insert("result".to_owned(), Value::Object(result));
            }
            TaskState::Failed(error) => {
                let mut message = rpc_error(MODERN, error.clone()).to_message(None);
                members.insert("error".to_owned(), message["error"].take());
            }
        }
        Some(members)
    }

    /// A task stands elsewhere: tells whoever was promised to hear of it.
    pub(super) fn task_changed(&mut self, now: Now, era: Era, task: &Task) {
        match era {
            Era::Legacy => {
                self.tell_own_task(task);
                if task.state.is_final() {
                    self.ask_no_longer(now, &task.id);
                }
            }
            Era::Modern => self.tell_listeners(task),
        }
    }

    /// To the session whose call made it, and until its end.
    fn tell_own_task(&mut self, task: &Task) {
        let Some(own) = &mut self.tasks else { return };
        let Some(index) = own.tasks.iter().position(|own| own.id == task.id) else { return };
        if task.state.is_final() {
            own.tasks.remove(index);
            if own.tasks.is_empty() {
                self.tasks = None;
            }
        }
        let params = head(Era::Legacy, task);
        if let Some(frame) = self.seal_notification(LEGACY, Method::NotificationsTasksStatus, params) {
            self.send_unasked(frame, About::Session, None);
        }
    }

    /// Who waits for the result of a task has asked its client what nobody needs to know any more: another answered, or the
    /// task was stopped. The question is taken back, and the end is the answer. (What tells of less than the end may be
    /// older than the question.)
    fn ask_no_longer(&mut self, now: Now, task: &str) {
        if self.inflight.asking() == 0 {
            return;
        }
        for name in self.inflight.names() {
            let waits = self.inflight.get(name).is_some_and(|call| {
                related(call) == Some(task) && matches!(call.stage, Stage::Asking { .. })
            });
            if !waits {
                continue;
            }
            let Some(mut call) = self.inflight.remove(name) else { continue };
            let stage = std::mem::replace(&mut call.stage, Stage::Running);
            let Stage::Asking { open, state, .. } = stage else { continue };
            self.withdraw(&call, &open, "the task has ended");
            self.dispatch_again(now, call, Map::new(), state);
        }
        self.resume(now);
    }

    /// To every stream that named it.
    fn tell_listeners(&mut self, task: &Task) {
        for (id, client) in self.task_listeners(&task.id) {
            let Some(mut params) = self.detailed(&client.capabilities, task) else { continue };
            params.insert("_meta".to_owned(), json!({meta::SUBSCRIPTION_ID: RequestId::to_value(&id)}));
            if let Some(frame) = self.seal_notification(MODERN, Method::NotificationsTasks, params) {
                self.send(frame, About::Request { id, is_answer: false }, None);
            }
        }
    }

    /// The service tells something of a call that became a task: in 2025-11-25 progress token and log level outlive the
    /// answer, in 2026-07-28 nothing does.
    pub(super) fn task_notice(&mut self, call: CallId, notice: Notice) {
        if self.is_eof {
            return;
        }
        let level = self.session_level();
        let Some(own) = self.tasks.as_mut().and_then(|own| own.tasks.iter_mut().find(|own| own.call == call))
        else {
            return;
        };
        let Some((method, mut params)) = told(LEGACY, notice, own.progress.as_mut(), level) else { return };
        relate(&mut params, &own.id);
        if let Some(frame) = self.seal_notification(LEGACY, method, params) {
            self.send_unasked(frame, About::Session, None);
        }
    }
}
