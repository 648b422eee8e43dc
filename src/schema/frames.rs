//! What a server says, held against the schemas from outside: for players of transcripts and other judges.

use serde_json::Value;

use super::{
    Violation,
    catalog::{Definition, ErrorShape},
    gate::verdict,
    rules,
    violation::Fault,
};
use crate::{
    revision::{Era, Revision},
    wire::{Direction, Kind, Method},
};

/// Holds one message of a server against the definition that it must fit under `revision`. `asked` is the method of the
/// request that it answers; requests and notifications need none.
///
/// Nothing is admitted or sealed by it.
///
/// # Errors
/// The violation: also of a message that `revision` does not have, or that is none.
pub fn check_server_message(
    revision: Revision,
    asked: Option<Method>,
    message: &Value,
) -> Result<(), Violation> {
    let odd = |what: String| Err(Violation::single(format!("{revision} message of a server"), "", what));
    if let Some(name) = message.get("method") {
        let Some(method) = name.as_str().and_then(Method::parse) else {
            return odd(format!("has the method {name}, which no revision knows"));
        };
        let is_notification = message.get("id").is_none();
        let row = method.row();
        if row.direction == Direction::ToServer {
            return odd(format!("has the method {name}, which is the client's"));
        }
        if is_notification != (row.kind == Kind::Notification) {
            return odd(format!(
                "has the method {name}, which is {} notification",
                if is_notification { "no" } else { "a" }
            ));
        }
        return verdict(revision, Definition::Message(method), message);
    }
    if let Some(error) = message.get("error") {
        let code = error.get("code").and_then(Value::as_i64).unwrap_or_default();
        return verdict(revision, Definition::Error(ErrorShape::of(revision, code)), message);
    }
    let Some(result) = message.get("result") else {
        return odd("has neither method, result nor error".to_owned());
    };
    let Some(method) = asked else {
        return odd("answers nothing".to_owned());
    };
    let kind = result.get("resultType").and_then(Value::as_str);
    let definition = match (revision.era(), kind) {
        (Era::Modern, Some("input_required")) => Definition::InputRequiredResponse,
        (Era::Modern, Some("task")) => Definition::TaskCreatedResponse,
        (Era::Legacy, _) if method == Method::ToolsCall && became_a_task(result) => {
            Definition::TaskCreatedResponse
        }
        _ => Definition::Response(method),
    };
    verdict(revision, definition, message)?;
    if definition == Definition::TaskCreatedResponse {
        return Ok(());
    }
    match rules::check_result(revision, method, result) {
        None => Ok(()),
        Some(Fault { instance_path, message }) => {
            Err(Violation::single(definition.describe(revision), format!("/result{instance_path}"), message))
        }
    }
}

/// Whether a legacy result of `tools/call` names a task in place of contents (2025-11-25).
fn became_a_task(result: &Value) -> bool {
    result.get("task").is_some_and(Value::is_object) && result.get("content").is_none()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_kind_of_message_has_its_verdict() {
        let list = json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": []}});
        let modern = json!({"jsonrpc": "2.0", "id": 1, "result": {"resultType": "complete", "tools": [], "ttlMs": 0, "cacheScope": "private"}});
        let waits = json!({"jsonrpc": "2.0", "id": 1, "result": {"resultType": "input_required", "requestState": "s"}});
        let error = json!({"jsonrpc": "2.0", "id": 1, "error": {"code": -32601, "message": "no"}});
        let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}});
        let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
        let (old, new) = (Revision::V2025_06_18, Revision::V2026_07_28);
        let (tools, call) = (Some(Method::ToolsList), Some(Method::ToolsCall));
        let table = [
            (old, tools, &list, true),
            (new, tools, &list, false),
            (new, tools, &modern, true),
            (old, tools, &modern, false),
            (old, call, &list, false),
            (old, None, &list, false),
            (new, call, &waits, true),
            (old, call, &error, true),
            (new, None, &progress, true),
            (old, None, &ping, true),
            (new, None, &ping, false),
        ];
        for (revision, asked, message, is_valid) in table {
            let verdict = check_server_message(revision, asked, message);
            assert_eq!(verdict.is_ok(), is_valid, "{revision} {asked:?} {message}: {verdict:?}");
        }
        for message in [
            json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "a"}}),
            json!({"jsonrpc": "2.0", "method": "ping"}),
            json!({"jsonrpc": "2.0", "id": 1, "method": "nothing"}),
            json!({"jsonrpc": "2.0", "id": 1}),
            json!(7),
        ] {
            assert!(check_server_message(old, None, &message).is_err(), "{message}");
        }
    }
}
