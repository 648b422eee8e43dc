//! A task as JSON, for the store. What an older binary wrote is read; what cannot be read is a task that failed.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::{
    protocol::{Ask, CallError, Task, TaskState},
    wire::Method,
};

pub(super) fn write(task: &Task) -> Value {
    let mut body = Map::new();
    let mut put = |key: &str, value: Value| body.insert(key.to_owned(), value);
    put("id", task.id.as_str().into());
    put("created_ms", task.created_ms.into());
    put("updated_ms", task.updated_ms.into());
    if let Some(message) = &task.message {
        put("message", message.as_str().into());
    }
    if let Some(ttl) = task.ttl {
        put("ttl_ms", millis(ttl).into());
    }
    if let Some(poll_interval) = task.poll_interval {
        put("poll_interval_ms", millis(poll_interval).into());
    }
    let state = match &task.state {
        TaskState::Working => json!("working"),
        TaskState::InputRequired(open) => {
            let asks: Vec<Value> = open
                .iter()
                .map(|(key, ask)| json!({"key": key, "method": ask.method.as_str(), "params": ask.params}))
                .collect();
            json!({"input_required": asks})
        }
        TaskState::Completed(result) => json!({"completed": result}),
        TaskState::Failed(error) => json!({"failed": write_error(error)}),
        TaskState::Cancelled => json!("cancelled"),
    };
    put("state", state);
    Value::Object(body)
}

/// `None` where it is none of ours.
pub(super) fn read(body: &Value) -> Option<Task> {
    let number = |key: &str| body.get(key).and_then(Value::as_u64);
    Some(Task {
        id: body.get("id")?.as_str()?.to_owned(),
        state: read_state(body.get("state")?)?,
        message: body.get("message").and_then(Value::as_str).map(str::to_owned),
        created_ms: number("created_ms")?,
        updated_ms: number("updated_ms")?,
        ttl: number("ttl_ms").map(Duration::from_millis),
        poll_interval: number("poll_interval_ms").map(Duration::from_millis),
    })
}

fn read_state(state: &Value) -> Option<TaskState> {
    match state {
        Value::String(word) => match word.as_str() {
            "working" => Some(TaskState::Working),
            "cancelled" => Some(TaskState::Cancelled),
            _ => None,
        },
        Value::Object(state) => {
            let (word, value) = state.iter().next()?;
            match word.as_str() {
                "completed" => Some(TaskState::Completed(value.as_object()?.clone())),
                "failed" => Some(TaskState::Failed(read_error(value)?)),
                "input_required" => value
                    .as_array()?
                    .iter()
                    .map(read_ask)
                    .collect::<Option<_>>()
                    .map(TaskState::InputRequired),
                _ => None,
            }
        }
        _ => None,
    }
}

fn read_ask(ask: &Value) -> Option<(String, Ask)> {
    let method = Method::parse(ask.get("method")?.as_str()?)?;
    let params = ask.get("params")?.as_object()?.clone();
    Some((ask.get("key")?.as_str()?.to_owned(), Ask { method, params, is_optional: false }))
}

fn write_error(error: &CallError) -> Value {
    match error {
        CallError::InvalidParams(message) => json!({"invalid_params": message}),
        CallError::ResourceNotFound { uri } => json!({"resource_not_found": uri}),
        CallError::MissingCapability(capability) => json!({"missing_capability": capability}),
        CallError::TaskSupport(message) => json!({"task_support": message}),
        CallError::HeaderMismatch(message) => json!({"header_mismatch": message}),
        CallError::Busy { retry_after, message } => {
            json!({"busy": {"retry_after_ms": millis(*retry_after), "message": message}})
        }
        CallError::Lost(message) => json!({"lost": message}),
        CallError::Internal => json!({"internal": null}),
    }
}

fn read_error(error: &Value) -> Option<CallError> {
    let (word, value) = error.as_object()?.iter().next()?;
    let text = || value.as_str().map(str::to_owned);
    Some(match word.as_str() {
        "invalid_params" => CallError::InvalidParams(text()?),
        "resource_not_found" => CallError::ResourceNotFound { uri: text()? },
        "missing_capability" => CallError::MissingCapability(value.as_object()?.clone()),
        "task_support" => CallError::TaskSupport(text()?),
        "lost" => CallError::Lost(text()?),
        "header_mismatch" => CallError::HeaderMismatch(text()?),
        "busy" => CallError::Busy {
            retry_after: Duration::from_millis(value.get("retry_after_ms")?.as_u64()?),
            message: value.get("message")?.as_str()?.to_owned(),
        },
        _ => CallError::Internal,
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_comes_back_as_it_was_written() {
        let map = |value: Value| value.as_object().cloned().unwrap();
        let ask = Ask {
            method: Method::ElicitationCreate,
            params: map(json!({"message": "?"})),
            is_optional: false,
        };
        let errors = [
            CallError::InvalidParams("a".to_owned()),
            CallError::ResourceNotFound { uri: "b".to_owned() },
            CallError::MissingCapability(map(json!({"roots": {}}))),
            CallError::TaskSupport("c".to_owned()),
            CallError::HeaderMismatch("d".to_owned()),
            CallError::Busy { retry_after: Duration::from_millis(7), message: "e".to_owned() },
            CallError::Lost("f".to_owned()),
            CallError::Internal,
        ];
        let mut states: Vec<TaskState> = errors.into_iter().map(TaskState::Failed).collect();
        states.extend([
            TaskState::Working,
            TaskState::Cancelled,
            TaskState::Completed(map(json!({"content": [], "isError": true}))),
            TaskState::InputRequired(vec![("b".to_owned(), ask.clone()), ("a".to_owned(), ask)]),
        ]);
        for (n, state) in states.into_iter().enumerate() {
            let task = Task {
                id: "t_1".to_owned(),
                state,
                message: (n % 2 == 0).then(|| "half".to_owned()),
                created_ms: 5,
                updated_ms: 6,
                ttl: (n % 3 == 0).then_some(Duration::from_mins(1)),
                poll_interval: Some(Duration::from_millis(250)),
            };
            assert_eq!(read(&write(&task)), Some(task));
        }
        for foreign in [json!(null), json!({}), json!({"id": "x", "state": "unheard of"})] {
            assert_eq!(read(&foreign), None);
        }
    }
}
