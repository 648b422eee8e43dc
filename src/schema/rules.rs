//! What the protocol demands and no schema says: checked beside the schemas, in both directions.

use serde_json::{Map, Value};

use super::violation::Fault;
use crate::{
    revision::{Era, Revision},
    wire::{ErrorCode, Method},
};

/// Most completion values in one result.
const COMPLETION_VALUES_MAX: usize = 100;

/// `_meta` key by which a modern server names itself; legacy peers never see it.
const SERVER_INFO_KEY: &str = "io.modelcontextprotocol/serverInfo";

/// Whether `method` may answer `input_required` (2026-07-28 basic/patterns/mrtr: these three and no other).
pub(super) const fn may_ask_for_input(method: Method) -> bool {
    matches!(method, Method::ToolsCall | Method::PromptsGet | Method::ResourcesRead)
}

/// A client's answer to `asked`: official SDKs send null where a member should be absent, and the form's content also
/// where the user declined. Both are taken away before validation.
pub(super) fn tidy_answer(asked: Method, result: &mut Value) {
    if asked != Method::ElicitationCreate {
        return;
    }
    let Some(result) = result.as_object_mut() else { return };
    let refused = matches!(result.get("action").and_then(Value::as_str), Some("decline" | "cancel"));
    match result.get_mut("content") {
        Some(Value::Object(content)) if !refused => content.retain(|_, value| !value.is_null()),
        Some(Value::Object(_) | Value::Null) => {
            result.shift_remove("content");
        }
        _ => {}
    }
}

/// The same for the `inputResponses` of a modern request, where an elicitation's answer is known by its `action`.
pub(super) fn tidy_input_responses(params: &mut Map<String, Value>) {
    let Some(Value::Object(responses)) = params.get_mut("inputResponses") else { return };
    for response in responses.values_mut().filter(|response| response.get("action").is_some()) {
        tidy_answer(Method::ElicitationCreate, response);
    }
}

/// What a schema cannot see in a client's answer; paths start at the result.
pub(super) fn check_answer(asked: Method, result: &Value) -> Option<Fault> {
    if asked != Method::RootsList {
        return None;
    }
    let roots = result.get("roots").and_then(Value::as_array)?;
    let strange = roots.iter().position(|root| {
        let uri = root.get("uri").and_then(Value::as_str).unwrap_or_default();
        !uri.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("file:"))
    })?;
    Some(Fault::new(format!("/roots/{strange}/uri"), "must be a `file:` URI"))
}

/// What a schema cannot see in a result of ours; paths start at the result.
pub(super) fn check_result(revision: Revision, method: Method, result: &Value) -> Option<Fault> {
    let result = result.as_object()?;
    if revision.era() == Era::Modern {
        return check_modern_result(method, result);
    }
    // Clients of the legacy era validate some results strictly: a newer member makes them drop the answer.
    let older = revision < Revision::V2025_06_18;
    for (member, is_newer) in
        [("resultType", true), ("ttlMs", true), ("cacheScope", true), ("structuredContent", older)]
    {
        if is_newer && result.contains_key(member) {
            return Some(Fault::new(format!("/{member}"), format!("does not exist in {revision}")));
        }
    }
    if result.get("_meta").is_some_and(|meta| meta.get(SERVER_INFO_KEY).is_some()) {
        return Some(Fault::new("/_meta", format!("must not hold `{SERVER_INFO_KEY}` in {revision}")));
    }
    match method {
        Method::Ping
        | Method::LoggingSetLevel
        | Method::ResourcesSubscribe
        | Method::ResourcesUnsubscribe
            if result.keys().any(|key| key != "_meta") =>
        {
            Some(Fault::new("", "must be empty but for `_meta`"))
        }
        Method::CompletionComplete => {
            let values = result.get("completion")?.get("values")?.as_array()?;
            (values.len() > COMPLETION_VALUES_MAX).then(|| {
                Fault::new("/completion/values", format!("must have at most {COMPLETION_VALUES_MAX} items"))
            })
        }
        _ => None,
    }
}

fn check_modern_result(method: Method, result: &Map<String, Value>) -> Option<Fault> {
    match result.get("resultType").and_then(Value::as_str)? {
        "complete" if method == Method::TasksGet => task_members(result),
        "complete" => None,
        "input_required" if !may_ask_for_input(method) => {
            Some(Fault::new("/resultType", format!("must be \"complete\" for {}", method.as_str())))
        }
        "input_required" => {
            let asks = result.get("inputRequests").and_then(Value::as_object);
            if asks.is_none() && !result.contains_key("requestState") {
                return Some(Fault::new("", "lacks both `inputRequests` and `requestState`"));
            }
            let caches = ["ttlMs", "cacheScope"].into_iter().find(|member| result.contains_key(*member));
            if let Some(member) = caches {
                return Some(Fault::new(
                    format!("/{member}"),
                    "must be absent: such a result is never cached",
                ));
            }
            asks?.iter().find_map(|(key, ask)| {
                let method = Method::parse(ask.get("method")?.as_str()?)?;
                let fault = check_ask(method, ask.get("params")?.as_object()?)?;
                let key = key.replace('~', "~0").replace('/', "~1");
                Some(Fault::new(format!("/inputRequests/{key}{}", fault.instance_path), fault.message))
            })
        }
        _ => Some(Fault::new("/resultType", "must be \"complete\" or \"input_required\"")),
    }
}

/// Members of a task that one of the two designs calls otherwise, or keeps for another status: they would be read as
/// nothing.
const FOREIGN_TASK_MEMBERS: [&str; 2] = ["ttl", "pollInterval"];
const STATUS_MEMBERS: [(&str, &str); 3] =
    [("input_required", "inputRequests"), ("completed", "result"), ("failed", "error")];

/// What a schema cannot see in the result of a `tools/call` that became a task; paths start at the result.
pub(super) fn check_created_task(revision: Revision, result: &Value) -> Option<Fault> {
    let result = result.as_object()?;
    if revision.era() == Era::Legacy {
        return result
            .contains_key("resultType")
            .then(|| Fault::new("/resultType", format!("does not exist in {revision}")));
    }
    let details = STATUS_MEMBERS.map(|(_, member)| member);
    let strange = FOREIGN_TASK_MEMBERS.iter().chain(&details).chain(&["requestState", "task"]);
    strange
        .copied()
        .find(|member| result.contains_key(*member))
        .map(|member| Fault::new(format!("/{member}"), "must be absent from a task that was only made"))
}

/// What a schema cannot see in a task of 2026-07-28; paths start at the task.
pub(super) fn check_detailed_task(task: &Value) -> Option<Fault> {
    task_members(task.as_object()?)
}

fn task_members(task: &Map<String, Value>) -> Option<Fault> {
    let status = task.get("status").and_then(Value::as_str)?;
    let others = STATUS_MEMBERS.iter().filter(|(of, _)| *of != status).map(|(_, member)| *member);
    others
        .chain(FOREIGN_TASK_MEMBERS)
        .find(|member| task.contains_key(*member))
        .map(|member| Fault::new(format!("/{member}"), format!("does not belong to a task that is {status}")))
}

/// What a schema cannot see in a request of ours to the client; paths start at the message.
pub(super) fn check_ask(method: Method, params: &Map<String, Value>) -> Option<Fault> {
    match method {
        Method::SamplingCreateMessage => check_tool_turns(params.get("messages")?.as_array()?),
        Method::ElicitationCreate => {
            let fields = params.get("requestedSchema")?.get("properties")?.as_object()?;
            fields.values().position(has_strange_choices).map(|index| {
                let name = fields.keys().nth(index).map_or("", String::as_str);
                let name = name.replace('~', "~0").replace('/', "~1");
                let path = format!("/params/requestedSchema/properties/{name}");
                Fault::new(path, "must list its choices as strings, with one name each where they have names")
            })
        }
        _ => None,
    }
}

/// A choice among values that are no strings passes as a plain text field in the published form rules.
fn has_strange_choices(field: &Value) -> bool {
    let strings = |value: &Value| {
        value.as_array().is_some_and(|items| !items.is_empty() && items.iter().all(Value::is_string))
    };
    let choices = field.get("enum");
    if choices.is_some_and(|choices| !strings(choices)) {
        return true;
    }
    let count = |value: Option<&Value>| value.and_then(Value::as_array).map(Vec::len);
    field.get("enumNames").is_some_and(|names| !strings(names) || count(Some(names)) != count(choices))
}

/// Tool results stand alone in a user's message, which follows the message that asked for exactly these
/// (2025-11-25 client/sampling#tool-result-messages).
fn check_tool_turns(messages: &[Value]) -> Option<Fault> {
    let mut open: Vec<&str> = Vec::new();
    for (index, message) in messages.iter().enumerate() {
        let blocks = match message.get("content") {
            Some(Value::Array(blocks)) => blocks.as_slice(),
            Some(block) => std::slice::from_ref(block),
            None => &[],
        };
        let of_type = |wanted: &str| -> Vec<&Value> {
            blocks.iter().filter(|block| block.get("type").and_then(Value::as_str) == Some(wanted)).collect()
        };
        let results = of_type("tool_result");
        let path = || format!("/params/messages/{index}/content");
        if !results.is_empty() && results.len() != blocks.len() {
            return Some(Fault::new(path(), "must not mix tool results with other blocks"));
        }
        let mut answered: Vec<&str> =
            results.iter().filter_map(|block| block.get("toolUseId")?.as_str()).collect();
        answered.sort_unstable();
        if answered != open {
            return Some(Fault::new(path(), "must answer exactly the tool uses of the message before"));
        }
        open = of_type("tool_use").iter().filter_map(|block| block.get("id")?.as_str()).collect();
        open.sort_unstable();
    }
    (!open.is_empty()).then(|| Fault::new("/params/messages", "must end with the results of the tools used"))
}

/// Whether an error code may be sent under `revision`.
pub(super) fn check_error(revision: Revision, code: ErrorCode) -> Option<Fault> {
    let exists = match code {
        ErrorCode::ResourceNotFoundLegacy => revision.era() == Era::Legacy,
        ErrorCode::UrlElicitationRequired => revision == Revision::V2025_11_25,
        ErrorCode::ParseError
        | ErrorCode::InvalidRequest
        | ErrorCode::MethodNotFound
        | ErrorCode::InvalidParams
        | ErrorCode::InternalError
        | ErrorCode::HeaderMismatch
        | ErrorCode::MissingRequiredClientCapability
        | ErrorCode::UnsupportedProtocolVersion
        | ErrorCode::TooManyRequests => true,
    };
    (!exists).then(|| Fault::new("/error/code", format!("is not defined in {revision}")))
}
