//! From an answer of MCP to one of the dialect.
//!
//! What a tool answers with `isError` is a JSON-RPC error here: clients of the dialect take a result for a success. A
//! figure stands in a result only where the server measured it.

use serde_json::{Map, Value, json};

use crate::{
    engine::ErrorKind,
    schema::dialect::DialectMethod,
    wire::{ErrorCode, RpcError},
};

/// Codes that errors of the core have beneath the dialect.
const CODES: [ErrorCode; 6] = [
    ErrorCode::ParseError,
    ErrorCode::InvalidRequest,
    ErrorCode::MethodNotFound,
    ErrorCode::InvalidParams,
    ErrorCode::InternalError,
    ErrorCode::TooManyRequests,
];

/// The result or error that `message`, the core's answer to a request that `method` was translated to, stands for.
/// `None` where it is not what such a request is answered with: a bug of ours.
pub(super) fn translate(method: DialectMethod, mut message: Value) -> Option<Result<Value, RpcError>> {
    if let Some(error) = message.get_mut("error") {
        return of_error(error).map(Err);
    }
    let mut result = message.get_mut("result")?.take();
    match method {
        DialectMethod::Ping | DialectMethod::ToolsList | DialectMethod::ToolsCall => Some(Ok(result)),
        DialectMethod::ExecutePattern
        | DialectMethod::BareStoreMemory
        | DialectMethod::StoreMemory
        | DialectMethod::SearchMemory => {
            let text = result.pointer("/content/0/text")?.as_str()?;
            let Value::Object(answer) = serde_json::from_str(text).ok()? else { return None };
            if result.get("isError") == Some(&Value::Bool(true)) {
                return failure(&answer).map(Err);
            }
            let receipt = result.get_mut("_meta").and_then(|meta| meta.get_mut("tmws/receipt"));
            match method {
                DialectMethod::ExecutePattern => executed(answer, receipt?),
                DialectMethod::SearchMemory => found(answer),
                _ => stored(answer),
            }
            .map(Ok)
        }
    }
}

fn of_error(error: &mut Value) -> Option<RpcError> {
    let number = error.get("code")?.as_i64()?;
    let code = CODES.into_iter().find(|code| i64::from(code.code()) == number)?;
    let said = RpcError::new(code, error.get("message")?.as_str()?);
    Some(match error.get_mut("data") {
        Some(data) => said.with_data(data.take()),
        None => said,
    })
}

/// A failure that a tool tells of.
fn failure(answer: &Map<String, Value>) -> Option<RpcError> {
    let code = answer.get("error")?.as_str()?;
    let kind = ErrorKind::ALL.iter().find(|kind| kind.code() == code)?;
    let mut data = json!({"error": code});
    for (from, to) in [("part", "part"), ("retry_after_ms", "retryAfterMs")] {
        if let Some(value) = answer.get(from) {
            data[to] = value.clone();
        }
    }
    Some(RpcError::new(code_of(*kind), answer.get("message")?.as_str()?).with_data(data))
}

/// What the caller can mend by asking for something else, what by asking later, and the rest.
const fn code_of(kind: ErrorKind) -> ErrorCode {
    match kind {
        ErrorKind::UnknownPattern
        | ErrorKind::InvalidInput
        | ErrorKind::Denied
        | ErrorKind::NotFound
        | ErrorKind::UnknownHandle => ErrorCode::InvalidParams,
        ErrorKind::Busy => ErrorCode::TooManyRequests,
        ErrorKind::PatternFault
        | ErrorKind::Budget
        | ErrorKind::Deadline
        | ErrorKind::StoreUnavailable
        | ErrorKind::LimitExceeded
        | ErrorKind::AssertionFailed
        | ErrorKind::ProgramFailed
        | ErrorKind::Cancelled
        | ErrorKind::Internal => ErrorCode::InternalError,
    }
}

fn executed(mut answer: Map<String, Value>, receipt: &mut Value) -> Option<Value> {
    let mut result = Map::new();
    let mut put = |key: &str, value: Value| result.insert(key.to_owned(), value);
    let ran = receipt.get("matched_by")? != "none";
    put("success", ran.into());
    if ran {
        let pattern = receipt.get("pattern")?.as_str()?;
        let (name, version) = pattern.split_once('@').unwrap_or((pattern, ""));
        put("pattern_name", name.into());
        if !version.is_empty() {
            put("pattern_version", version.into());
        }
        put("result", Value::Object(answer));
    } else {
        let candidates = answer.swap_remove("candidates")?;
        let nothing = candidates.as_array().is_none_or(Vec::is_empty);
        let why = if nothing {
            "no pattern fits this query: ask in other words, or name one as `pattern`"
        } else {
            "no single pattern fits this query: name one of the candidates as `pattern`"
        };
        put("error", why.into());
        put("candidates", candidates);
    }
    put("execution_time_ms", receipt.get_mut("ms")?.take());
    put("tokens_used", receipt.get_mut("tokens_out")?.take());
    if let Some(estimated) = receipt.get_mut("tokens_estimated") {
        put("tokens_estimated", estimated.take());
    }
    put("cache_hit", (receipt.get("cache")? == "hit").into());
    Some(Value::Object(result))
}

fn stored(mut answer: Map<String, Value>) -> Option<Value> {
    let mut result = Map::new();
    result.insert("success".to_owned(), true.into());
    result.insert("memory_id".to_owned(), answer.swap_remove("id")?);
    for name in ["duplicate", "similar", "project"] {
        if let Some(value) = answer.swap_remove(name) {
            result.insert(name.to_owned(), value);
        }
    }
    Some(Value::Object(result))
}

/// Members of a memory: as the pattern names them, as the dialect does.
const MEMORY: [(&str, &str); 9] = [
    ("id", "id"),
    ("text", "content"),
    ("importance", "importance"),
    ("tags", "tags"),
    ("kind", "kind"),
    ("trust", "trust"),
    ("created", "created_at"),
    ("score", "similarity"),
    ("project", "project"),
];

fn found(mut answer: Map<String, Value>) -> Option<Value> {
    let Value::Array(hits) = answer.swap_remove("memories")? else { return None };
    let memories: Vec<Value> = hits
        .into_iter()
        .filter_map(|hit| {
            let Value::Object(mut hit) = hit else { return None };
            let named =
                MEMORY.iter().filter_map(|(from, to)| Some(((*to).to_owned(), hit.swap_remove(*from)?)));
            Some(Value::Object(named.collect()))
        })
        .collect();
    let mut result = Map::new();
    result.insert("success".to_owned(), true.into());
    result.insert("count".to_owned(), memories.len().into());
    result.insert("total".to_owned(), answer.swap_remove("total")?);
    result.insert("memories".to_owned(), memories.into());
    for name in ["project", "more"] {
        if let Some(value) = answer.swap_remove(name) {
            result.insert(name.to_owned(), value);
        }
    }
    Some(Value::Object(result))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::dialect::{seal_error, seal_result};
    use crate::wire::RequestId;

    fn told(text: &Value, more: &Value) -> Value {
        let mut result = json!({"content": [{"type": "text", "text": text.to_string()}]});
        for (name, value) in more.as_object().cloned().unwrap_or_default() {
            result[name] = value;
        }
        json!({"jsonrpc": "2.0", "id": 1, "result": result})
    }

    #[test]
    fn every_failure_of_a_tool_is_an_error_that_can_be_sealed() {
        let id = RequestId::from_integer(1);
        for kind in ErrorKind::ALL {
            let body = json!({"error": kind.code(), "message": "m", "part": "p", "retry_after_ms": 5});
            for method in
                [DialectMethod::ExecutePattern, DialectMethod::StoreMemory, DialectMethod::SearchMemory]
            {
                let error = translate(method, told(&body, &json!({"isError": true}))).unwrap().unwrap_err();
                assert_eq!(
                    error.data,
                    Some(json!({"error": kind.code(), "part": "p", "retryAfterMs": 5})),
                    "{kind:?}"
                );
                seal_error(Some(&id), &error).unwrap();
            }
        }
        for code in CODES {
            let message = json!({"jsonrpc": "2.0", "id": 1, "error": {"code": code.code(), "message": "m"}});
            let error = translate(DialectMethod::ToolsList, message).unwrap().unwrap_err();
            assert_eq!((error.code, error.data.as_ref()), (code, None));
            seal_error(Some(&id), &error).unwrap();
        }
    }

    #[test]
    fn figures_come_from_the_receipt_alone() {
        let receipt = json!({"pattern": "a.b@2.1.0", "tokens_out": 12, "cache": "hit", "matched_by": "name", "ms": 1.5});
        let executed = |receipt: Value| {
            translate(
                DialectMethod::ExecutePattern,
                told(&json!({"x": 1}), &json!({"_meta": {"tmws/receipt": receipt}})),
            )
        };
        let result = executed(receipt.clone()).unwrap().unwrap();
        seal_result(DialectMethod::ExecutePattern, &RequestId::from_integer(1), &result).unwrap();
        assert_eq!(
            result,
            json!({
                "success": true, "pattern_name": "a.b", "pattern_version": "2.1.0", "result": {"x": 1},
                "execution_time_ms": 1.5, "tokens_used": 12, "cache_hit": true,
            })
        );
        // What was not measured is not made up: there is no result then.
        for missing in ["tokens_out", "cache", "matched_by", "ms", "pattern"] {
            let mut receipt = receipt.clone();
            receipt.as_object_mut().unwrap().shift_remove(missing);
            assert_eq!(executed(receipt), None, "{missing}");
        }
        assert_eq!(translate(DialectMethod::ExecutePattern, told(&json!({"x": 1}), &json!({}))), None);
    }

    #[test]
    fn what_is_no_answer_of_ours_is_not_guessed_at() {
        for message in [
            json!({}),
            json!({"result": {}}),
            json!({"result": {"content": [{"type": "text", "text": "plain"}]}}),
            json!({"result": {"content": [{"type": "text", "text": "[1]"}]}}),
            json!({"error": {"code": 1, "message": "m"}}),
            json!({"error": {}}),
        ] {
            assert_eq!(translate(DialectMethod::StoreMemory, message.clone()), None, "{message}");
        }
    }
}
