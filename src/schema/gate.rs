//! Admitting what comes in and sealing what goes out.

use std::io::Write as _;

use serde_json::{Map, Value, json};

use super::{
    Violation,
    catalog::{Definition, ErrorShape},
    rules,
    violation::Fault,
};
use crate::{
    revision::{Era, Revision},
    wire::{Direction, Kind, Method, Notification, Request, RequestId, Response, RpcError, write_value},
};

/// A request that fits its method's schema under its revision.
#[derive(Debug)]
pub struct Admitted {
    id: RequestId,
    method: Method,
    revision: Revision,
    params: Map<String, Value>,
}

impl Admitted {
    /// The id as received.
    #[must_use]
    pub const fn id(&self) -> &RequestId {
        &self.id
    }
    /// The method.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }
    /// The revision it was validated under.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }
    /// The params; empty where they were absent.
    #[must_use]
    pub const fn params(&self) -> &Map<String, Value> {
        &self.params
    }
}

/// A notification that fits its schema.
#[derive(Debug)]
pub struct AdmittedNotification {
    method: Method,
    params: Map<String, Value>,
    request_id: Option<RequestId>,
}

impl AdmittedNotification {
    /// The method.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }
    /// The params; empty where they were absent.
    #[must_use]
    pub const fn params(&self) -> &Map<String, Value> {
        &self.params
    }
    /// `params.requestId` from its exact token.
    #[must_use]
    pub const fn request_id(&self) -> Option<&RequestId> {
        self.request_id.as_ref()
    }
}

/// A message that fits its schema, serialized: the only thing a transport writes.
#[derive(Clone, Debug)]
pub struct Sealed {
    bytes: Vec<u8>,
}

impl Sealed {
    /// What was checked and written elsewhere in this module.
    pub(super) const fn of(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }
    /// One JSON text on one line, without terminator.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
    /// Size in bytes, without terminator.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a message is never empty")]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
    /// The bytes themselves.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// The validators of every revision, compiled when first needed.
///
/// The schemas are constants of the program, so what is compiled is kept for the whole process: a gate is free to make
/// and to copy, and after the first message of a kind nothing is locked or allocated to find its validator.
#[derive(Clone, Copy, Debug, Default)]
pub struct Gate {}

impl Gate {
    /// A gate.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Admits a request of a client. The definition is chosen by `method`, which exists in `revision`.
    ///
    /// Unknown members are tolerated, null is not. In the modern era nulls inside elicitation answers are stripped
    /// first, as in [`Gate::admit_answer`].
    ///
    /// # Errors
    /// The violation, and the request's id comes back with it for the answer. A method that clients do not send under
    /// `revision` is one too.
    pub fn admit_request(
        &self,
        revision: Revision,
        method: Method,
        request: Request,
    ) -> Result<Admitted, (RequestId, Violation)> {
        let Request { id, mut message, .. } = request;
        let definition = Definition::Message(method);
        let is_ours =
            method.row().direction == Direction::ToClient || method.row().kind == Kind::Notification;
        if is_ours {
            return Err((id, misplaced(revision, definition)));
        }
        if revision.era() == Era::Modern
            && (rules::may_ask_for_input(method) || method == Method::TasksUpdate)
            && let Some(Value::Object(params)) = message.get_mut("params")
        {
            rules::tidy_input_responses(params);
        }
        match check(revision, definition, &message, "") {
            Ok(()) => Ok(Admitted { id, method, revision, params: take_params(message) }),
            Err(violation) => Err((id, violation)),
        }
    }

    /// Admits a notification of a client.
    ///
    /// # Errors
    /// The violation; the notification is to be ignored.
    pub fn admit_notification(
        &self,
        revision: Revision,
        method: Method,
        notification: Notification,
    ) -> Result<AdmittedNotification, Violation> {
        let Notification { message, request_id, .. } = notification;
        let definition = Definition::Message(method);
        let row = method.row();
        if row.direction == Direction::ToClient || row.kind != Kind::Notification {
            return Err(misplaced(revision, definition));
        }
        check(revision, definition, &message, "")?;
        Ok(AdmittedNotification { method, params: take_params(message), request_id })
    }

    /// Admits a client's answer to a request of ours (legacy era): `Ok(Ok(result))` or `Ok(Err(error object))`.
    /// Nulls inside an `ElicitResult` are stripped first, as official SDKs send them; its content is dropped where the
    /// user did not accept.
    ///
    /// # Errors
    /// The violation; the answer counts as failed.
    pub fn admit_answer(
        &self,
        revision: Revision,
        asked: Method,
        response: Response,
    ) -> Result<Result<Value, Value>, Violation> {
        let mut message = response.message;
        if message.get("error").is_some() {
            let code = message.pointer("/error/code").and_then(Value::as_i64).unwrap_or_default();
            check(revision, Definition::Error(ErrorShape::of(revision, code)), &message, "")?;
            return Ok(Err(message["error"].take()));
        }
        let definition = Definition::Response(asked);
        if let Some(result) = message.get_mut("result") {
            rules::tidy_answer(asked, result);
        }
        check(revision, definition, &message, "")?;
        let result = message["result"].take();
        obey(revision, definition, "/result", rules::check_answer(asked, &result))?;
        Ok(Ok(result))
    }

    /// Admits one entry of `inputResponses` (modern era), a bare result object for an ask of kind `asked`.
    ///
    /// # Errors
    /// The violation: -32602. Its paths start at the entry.
    pub fn admit_input_response(
        &self,
        revision: Revision,
        asked: Method,
        mut result: Value,
    ) -> Result<Value, Violation> {
        let definition = Definition::Result(asked);
        if asked.row().kind != Kind::Ask {
            return Err(misplaced(revision, definition));
        }
        rules::tidy_answer(asked, &mut result);
        check(revision, definition, &result, "")?;
        obey(revision, definition, "", rules::check_answer(asked, &result))?;
        Ok(result)
    }

    /// Seals the result of `method`; the definition is chosen by method and, in the modern era, by `resultType`.
    ///
    /// Only the result is validated: the envelope around it is written here and cannot be wrong. The id is echoed as the
    /// exact token received.
    ///
    /// # Errors
    /// The violation: our bug.
    pub fn seal_result(
        &self,
        revision: Revision,
        method: Method,
        id: &RequestId,
        result: &Value,
    ) -> Result<Sealed, Violation> {
        let asks_for_input = revision.era() == Era::Modern
            && result.get("resultType").and_then(Value::as_str) == Some("input_required");
        let definition = if asks_for_input {
            Definition::InputRequired
        } else if method == Method::TasksResult {
            // The published definition is open; what a task ends with is the result of the call that it was.
            check(revision, Definition::Result(method), result, "/result")?;
            Definition::Result(TASK_METHOD)
        } else {
            Definition::Result(method)
        };
        if method.row().direction == Direction::ToClient {
            return Err(misplaced(revision, definition));
        }
        check(revision, definition, result, "/result")?;
        if method == Method::TasksGet {
            check_ended_task(revision, result, "/result")?;
        }
        obey(revision, definition, "/result", rules::check_result(revision, method, result))?;
        Ok(write_message(Some(id), "result", result))
    }

    /// Seals the result of a `tools/call` that became a task.
    ///
    /// # Errors
    /// The violation: our bug.
    pub fn seal_created_task(
        &self,
        revision: Revision,
        id: &RequestId,
        result: &Value,
    ) -> Result<Sealed, Violation> {
        let definition = Definition::TaskCreated;
        check(revision, definition, result, "/result")?;
        obey(revision, definition, "/result", rules::check_created_task(revision, result))?;
        Ok(write_message(Some(id), "result", result))
    }

    /// Seals an error; the definition is chosen by its code. `None` is a connection without a revision yet: there an
    /// error may go without an id, as 2025-11-25 and later have it.
    ///
    /// # Errors
    /// The violation: our bug (for instance no id towards a revision that demands one).
    pub fn seal_error(
        &self,
        revision: Option<Revision>,
        id: Option<&RequestId>,
        error: &RpcError,
    ) -> Result<Sealed, Violation> {
        let shape = |revision| ErrorShape::of(revision, i64::from(error.code.code()));
        let (revision, definition) = match revision {
            Some(revision) => (revision, Definition::Error(shape(revision))),
            // Codes that one era alone defines are held against that era.
            None if shape(Revision::V2026_07_28) != ErrorShape::General => {
                (Revision::V2026_07_28, Definition::Error(shape(Revision::V2026_07_28)))
            }
            None => (Revision::LATEST_LEGACY, Definition::Error(shape(Revision::LATEST_LEGACY))),
        };
        let message = error.to_message(id);
        check(revision, definition, &message, "")?;
        obey(revision, definition, "", rules::check_error(revision, error.code))?;
        Ok(write_message(id, "error", &message["error"]))
    }

    /// Seals a notification of ours.
    ///
    /// # Errors
    /// The violation: our bug.
    pub fn seal_notification(
        &self,
        revision: Revision,
        method: Method,
        params: Option<Map<String, Value>>,
    ) -> Result<Sealed, Violation> {
        let definition = Definition::Message(method);
        let row = method.row();
        if row.direction == Direction::ToServer || row.kind != Kind::Notification {
            return Err(misplaced(revision, definition));
        }
        let mut message = json!({"jsonrpc": "2.0", "method": method.as_str()});
        if let Some(params) = params {
            message["params"] = Value::Object(params);
        }
        check(revision, definition, &message, "")?;
        if method == Method::NotificationsTasks
            && let Some(params) = message.get("params")
        {
            check_ended_task(revision, params, "/params")?;
            obey(revision, definition, "/params", rules::check_detailed_task(params))?;
        }
        if method == Method::NotificationsCancelled && message.pointer("/params/requestId").is_none() {
            let fault = Fault::new("/params", "lacks `requestId`");
            obey(revision, definition, "", Some(fault))?;
        }
        Ok(Sealed { bytes: text_of(&message) })
    }

    /// Seals a request of ours to a legacy client. Empty `params` are left out where the method allows it.
    ///
    /// # Errors
    /// The violation: the tool that asked is wrong.
    pub fn seal_request(
        &self,
        revision: Revision,
        method: Method,
        id: &RequestId,
        params: Map<String, Value>,
    ) -> Result<Sealed, Violation> {
        let definition = Definition::Message(method);
        let row = method.row();
        if row.direction == Direction::ToServer || row.kind == Kind::Notification {
            return Err(misplaced(revision, definition));
        }
        obey(revision, definition, "", rules::check_ask(method, &params))?;
        let mut message = json!({"jsonrpc": "2.0", "id": id.to_value(), "method": method.as_str()});
        if !params.is_empty() {
            message["params"] = Value::Object(params);
        }
        check(revision, definition, &message, "")?;
        let mut bytes = Vec::with_capacity(256);
        write!(bytes, r#"{{"jsonrpc":"2.0","id":{},"method":"{}""#, id.token(), method.as_str())
            .expect("writing to memory does not fail");
        if let Some(params) = message.get("params") {
            bytes.extend_from_slice(br#","params":"#);
            write_value(&mut bytes, params);
        }
        bytes.push(b'}');
        Ok(Sealed { bytes })
    }

    /// Checks one ask that is to travel inside `inputRequests` (no `jsonrpc`, no id).
    ///
    /// # Errors
    /// The violation: the tool that asked is wrong.
    pub fn check_input_request(
        &self,
        revision: Revision,
        method: Method,
        params: &Map<String, Value>,
    ) -> Result<(), Violation> {
        let definition = Definition::Ask(method);
        let mut ask = json!({"method": method.as_str()});
        if !params.is_empty() {
            ask["params"] = Value::Object(params.clone());
        }
        check(revision, definition, &ask, "")?;
        obey(revision, definition, "", rules::check_ask(method, params))
    }

    /// The array that answers a 2025-03-26 batch, from answers already sealed.
    #[must_use]
    pub fn seal_batch(&self, answers: &[Sealed]) -> Sealed {
        let mut bytes = Vec::with_capacity(2 + answers.iter().map(|answer| answer.len() + 1).sum::<usize>());
        bytes.push(b'[');
        for (index, answer) in answers.iter().enumerate() {
            if index > 0 {
                bytes.push(b',');
            }
            bytes.extend_from_slice(&answer.bytes);
        }
        bytes.push(b']');
        Sealed { bytes }
    }
}

/// The one method whose calls become tasks.
const TASK_METHOD: Method = Method::ToolsCall;

/// The result within a task (2026-07-28), which its own definition leaves open, against that of the call that it was.
fn check_ended_task(revision: Revision, task: &Value, prefix: &str) -> Result<(), Violation> {
    let Some(result) = task.get("result") else { return Ok(()) };
    let prefix = format!("{prefix}/result");
    let definition = Definition::Result(TASK_METHOD);
    check(revision, definition, result, &prefix)?;
    obey(revision, definition, &prefix, rules::check_result(revision, TASK_METHOD, result))
}

/// The schema's verdict alone, for comparing it with others: no rule beyond the schema is applied.
///
/// # Errors
/// The violation, also where `revision` has no such message.
pub fn verdict(revision: Revision, definition: Definition, value: &Value) -> Result<(), Violation> {
    check(revision, definition, value, "")
}

/// Validates `value`, which stands at `prefix` in its message.
fn check(revision: Revision, definition: Definition, value: &Value, prefix: &str) -> Result<(), Violation> {
    let Some(validator) = definition.validator(revision) else {
        return Err(misplaced(revision, definition));
    };
    if validator.is_valid(value) {
        return Ok(());
    }
    let known = || definition.member_names(revision);
    Err(Violation::collect(definition.describe(revision), prefix, validator, value, known))
}

/// Turns the fault that a rule beyond the schemas found into a violation.
fn obey(
    revision: Revision,
    definition: Definition,
    prefix: &str,
    fault: Option<Fault>,
) -> Result<(), Violation> {
    match fault {
        None => Ok(()),
        Some(Fault { instance_path, message }) => {
            Err(Violation::single(definition.describe(revision), format!("{prefix}{instance_path}"), message))
        }
    }
}

fn misplaced(revision: Revision, definition: Definition) -> Violation {
    Violation::single(definition.describe(revision), "", "is not sent this way in this revision")
}

fn take_params(message: Value) -> Map<String, Value> {
    match message {
        Value::Object(mut members) => match members.swap_remove("params") {
            Some(Value::Object(params)) => params,
            _ => Map::new(),
        },
        _ => Map::new(),
    }
}

/// `{"jsonrpc":"2.0","id":…,"<outcome>":…}`; the id is copied token by token.
pub(super) fn write_message(id: Option<&RequestId>, outcome: &str, value: &Value) -> Sealed {
    let mut bytes = Vec::with_capacity(256);
    bytes.extend_from_slice(br#"{"jsonrpc":"2.0""#);
    if let Some(id) = id {
        bytes.extend_from_slice(br#","id":"#);
        bytes.extend_from_slice(id.token().as_bytes());
    }
    bytes.extend_from_slice(b",\"");
    bytes.extend_from_slice(outcome.as_bytes());
    bytes.extend_from_slice(b"\":");
    write_value(&mut bytes, value);
    bytes.push(b'}');
    Sealed { bytes }
}

pub(super) fn text_of(message: &Value) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(256);
    write_value(&mut bytes, message);
    bytes
}
