//! The scripted service behind the core: one fixed answer for each call, in the newest vocabulary.

use serde_json::{Map, Value, json};
use tmws::{
    protocol::{Answers, Ask, Call, CallError, LogLevel, Notice, Reply},
    wire::Method,
};

use super::catalogue::{self, object};

/// What the service does with a call.
pub(crate) enum Answer {
    /// Tells these notices, then ends the call.
    Now(Vec<Notice>, Reply),
    /// Keeps it until the conversation says how it ends.
    Held,
}

/// The tool, prompt, URI or reference that a call is about; empty for lists.
pub(crate) fn subject(call: &Call) -> &str {
    let key = match call.method() {
        Method::ToolsCall | Method::PromptsGet => "name",
        Method::ResourcesRead => "uri",
        Method::TasksGet | Method::TasksResult | Method::TasksUpdate | Method::TasksCancel => "taskId",
        _ => return "",
    };
    call.params().get(key).and_then(Value::as_str).unwrap_or("")
}

/// The fixed answer to `call`.
pub(crate) fn answer(call: &Call) -> Answer {
    let reply = match call.method() {
        Method::ToolsList => Reply::List(catalogue::tools()),
        Method::PromptsList => Reply::List(catalogue::prompts()),
        Method::ResourcesList => Reply::List(catalogue::resources()),
        Method::ResourcesTemplatesList => Reply::List(catalogue::templates()),
        Method::ToolsCall => return tool(call),
        Method::PromptsGet => return prompt(call),
        Method::ResourcesRead => return resource(call),
        Method::CompletionComplete => return completion(call),
        Method::TasksGet
        | Method::TasksResult
        | Method::TasksList
        | Method::TasksUpdate
        | Method::TasksCancel => return Answer::Held,
        other => panic!("the core answers {} itself", other.as_str()),
    };
    Answer::Now(Vec::new(), reply)
}

fn now(reply: Reply) -> Answer {
    Answer::Now(Vec::new(), reply)
}

fn result(value: Value) -> Answer {
    now(Reply::Result(object(value)))
}

fn text(text: impl Into<String>) -> Answer {
    result(json!({"content": [{"type": "text", "text": text.into()}]}))
}

fn content(block: &str) -> Answer {
    result(json!({"content": [self::block(block)]}))
}

/// One content block of this kind, with every member that the newest revision knows.
fn block(kind: &str) -> Value {
    let annotations = json!({"audience": ["user"], "priority": 0.5, "lastModified": "2026-01-02T03:04:05Z"});
    let meta = json!({"example.fixture/rank": 1});
    match kind {
        "text" => json!({"type": "text", "text": "words", "annotations": annotations, "_meta": meta}),
        "image" => {
            json!({"type": "image", "data": "aW1n", "mimeType": "image/png", "annotations": annotations, "_meta": meta})
        }
        "audio" => {
            json!({"type": "audio", "data": "c25k", "mimeType": "audio/wav", "annotations": annotations, "_meta": meta})
        }
        "embedded" => json!({
            "type": "resource",
            "resource": {"uri": "test://a", "mimeType": "text/plain", "text": "text a", "_meta": meta},
            "annotations": annotations,
            "_meta": meta,
        }),
        "blob" => json!({
            "type": "resource",
            "resource": {"uri": "test://bin", "mimeType": "application/octet-stream", "blob": "AAEC"},
        }),
        "link" => json!({
            "type": "resource_link",
            "uri": "test://a",
            "name": "a",
            "title": "Resource A",
            "description": "A text",
            "mimeType": "text/plain",
            "size": 6,
            "icons": [{"src": "https://fixture.example/icon.png"}],
            "annotations": annotations,
            "_meta": meta,
        }),
        other => panic!("no block {other}"),
    }
}

fn structured(value: &Value) -> Answer {
    let text = value.to_string();
    result(json!({"content": [{"type": "text", "text": text}], "structuredContent": value}))
}

fn form(message: &str) -> Ask {
    let schema = json!({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]});
    Ask {
        method: Method::ElicitationCreate,
        params: object(json!({"message": message, "requestedSchema": schema})),
        is_optional: false,
    }
}

fn url() -> Ask {
    let params = json!({"mode": "url", "message": "Sign in", "url": "https://fixture.example/sign-in"});
    Ask { method: Method::ElicitationCreate, params: object(params), is_optional: false }
}

fn sampling() -> Ask {
    let messages = json!([{"role": "user", "content": {"type": "text", "text": "Capital of France?"}}]);
    Ask {
        method: Method::SamplingCreateMessage,
        params: object(json!({"messages": messages, "maxTokens": 100})),
        is_optional: false,
    }
}

fn roots() -> Ask {
    Ask { method: Method::RootsList, params: Map::new(), is_optional: false }
}

fn ask(requests: Vec<(&str, Ask)>, state: Option<Value>) -> Answer {
    let requests = requests.into_iter().map(|(key, ask)| (key.to_owned(), ask)).collect();
    now(Reply::InputRequired { requests, state })
}

fn response<'a>(answers: Option<&'a Answers>, key: &str) -> Option<&'a Value> {
    answers.and_then(|answers| answers.responses.get(key))
}

/// Asks `ask` under the key `answer`, then says the answer.
fn ask_once(call: &Call, question: Ask) -> Answer {
    match response(call.answers.as_ref(), "answer") {
        Some(answer) => text(answer.to_string()),
        None => ask(vec![("answer", question)], None),
    }
}

/// Collects three answers, over as many rounds as the client needs; what is there already travels in the state.
fn ask_multi(call: &Call) -> Answer {
    let mut have = Map::new();
    if let Some(answers) = &call.answers {
        have.extend(answers.state.as_ref().and_then(Value::as_object).cloned().unwrap_or_default());
        have.extend(answers.responses.clone());
    }
    let missing: Vec<(&str, Ask)> = [("name", form("Your name?")), ("model", sampling()), ("roots", roots())]
        .into_iter()
        .filter(|(key, _)| !have.contains_key(*key))
        .collect();
    if missing.is_empty() {
        return text("all three answered");
    }
    let state = (!have.is_empty()).then_some(Value::Object(have));
    ask(missing, state)
}

fn ask_rounds(call: &Call) -> Answer {
    let answers = call.answers.as_ref();
    let round = answers.and_then(|answers| answers.state.as_ref()?["round"].as_i64()).unwrap_or(0);
    match round {
        0 => ask(vec![("first", form("First?"))], Some(json!({"round": 1}))),
        1 if response(answers, "first").is_none() => {
            ask(vec![("first", form("First?"))], Some(json!({"round": 1})))
        }
        1 => ask(vec![("second", form("Second?"))], Some(json!({"round": 2}))),
        _ => match response(answers, "second") {
            Some(answer) => text(answer.to_string()),
            None => ask(vec![("second", form("Second?"))], Some(json!({"round": 2}))),
        },
    }
}

fn ask_state(call: &Call) -> Answer {
    match call.answers.as_ref().and_then(|answers| answers.state.as_ref()) {
        Some(state) => text(state.to_string()),
        None => ask(Vec::new(), Some(json!({"count": 1}))),
    }
}

fn tool(call: &Call) -> Answer {
    let arguments = call.params().get("arguments").and_then(Value::as_object);
    let argument = |key: &str| arguments.and_then(|arguments| arguments.get(key));
    match subject(call) {
        "echo" => text(argument("text").and_then(Value::as_str).unwrap_or("echo")),
        "add" => {
            let number = |key| argument(key).and_then(Value::as_i64).unwrap_or(0);
            text((number("a") + number("b")).to_string())
        }
        name if name.starts_with("slow") => Answer::Held,
        "fail" => result(json!({"content": [{"type": "text", "text": "it failed"}], "isError": true})),
        "panic" => now(Reply::Error(CallError::Internal)),
        kind @ ("image" | "audio" | "embedded" | "blob" | "link") => content(kind),
        "mixed" => {
            let blocks: Vec<Value> =
                ["text", "image", "audio", "embedded", "link"].into_iter().map(block).collect();
            result(json!({"content": blocks}))
        }
        "structured" => structured(&json!({"n": 7})),
        "structured_array" => structured(&json!([1, 2])),
        "structured_null" => structured(&Value::Null),
        "structured_text" => structured(&json!("seven")),
        "empty" => result(json!({"content": []})),
        "big" => text("x".repeat(argument("bytes").and_then(Value::as_u64).unwrap_or(0) as usize)),
        "ask_elicit" => ask_once(call, form("Your name?")),
        "ask_url" => ask_once(call, url()),
        "ask_sampling" => ask_once(call, sampling()),
        "ask_roots" => ask_once(call, roots()),
        "ask_multi" => ask_multi(call),
        "ask_rounds" => ask_rounds(call),
        "ask_state" => ask_state(call),
        "progress" => progress(),
        "logs" => logs(),
        "needs_sampling" => now(Reply::Error(CallError::MissingCapability(object(json!({"sampling": {}}))))),
        _ => now(Reply::Error(CallError::InvalidParams("unknown tool: see tools/list".to_owned()))),
    }
}

fn done(notices: Vec<Notice>) -> Answer {
    Answer::Now(notices, Reply::Result(object(json!({"content": [{"type": "text", "text": "done"}]}))))
}

fn progress() -> Answer {
    let step = |progress: f64, message: Option<&str>| Notice::Progress {
        progress,
        total: Some(100.0),
        message: message.map(str::to_owned),
    };
    done(vec![step(0.0, None), step(50.0, Some("halfway")), step(100.0, None)])
}

fn logs() -> Answer {
    done(
        LogLevel::ALL
            .into_iter()
            .map(|level| Notice::Log {
                level,
                logger: Some("fixture".to_owned()),
                data: Value::from(level.as_str()),
            })
            .collect(),
    )
}

fn message(content: &Value) -> Answer {
    result(json!({"description": "A prompt", "messages": [{"role": "user", "content": content}]}))
}

fn prompt(call: &Call) -> Answer {
    let argument = |key: &str| {
        call.params().get("arguments").and_then(|arguments| arguments.get(key)).and_then(Value::as_str)
    };
    match subject(call) {
        "p" => message(&json!({"type": "text", "text": "Do it."})),
        "p_args" => match argument("first") {
            Some(first) => {
                let words = format!("{first} {}", argument("second").unwrap_or("-"));
                message(&json!({"type": "text", "text": words}))
            }
            None => now(Reply::Error(CallError::InvalidParams(
                "the prompt p_args needs the argument first".to_owned(),
            ))),
        },
        "p_image" => message(&block("image")),
        "p_audio" => message(&block("audio")),
        "p_link" => message(&block("link")),
        "p_embedded" => message(&block("embedded")),
        "p_ask" => match response(call.answers.as_ref(), "answer") {
            Some(answer) => message(&json!({"type": "text", "text": answer.to_string()})),
            None => ask(vec![("answer", form("Your name?"))], None),
        },
        "p_slow" => Answer::Held,
        _ => now(Reply::Error(CallError::InvalidParams("unknown prompt: see prompts/list".to_owned()))),
    }
}

fn resource(call: &Call) -> Answer {
    let uri = subject(call);
    let contents = |text: &str| json!([{"uri": uri, "mimeType": "text/plain", "text": text}]);
    match uri {
        "test://a" => result(json!({"contents": contents("text a")})),
        "test://bin" => result(
            json!({"contents": [{"uri": uri, "mimeType": "application/octet-stream", "blob": "AAEC"}]}),
        ),
        "test://ask" => match response(call.answers.as_ref(), "answer") {
            Some(answer) => result(json!({"contents": contents(&answer.to_string())})),
            None => ask(vec![("answer", form("Your name?"))], None),
        },
        "test://hint" => result(json!({"contents": contents("hinted"), "ttlMs": 1, "cacheScope": "private"})),
        "test://slow" => Answer::Held,
        "test://fail" => now(Reply::Error(CallError::Internal)),
        _ => match uri.strip_prefix("test://t/") {
            Some(id) if !id.is_empty() => result(json!({"contents": contents(&format!("item {id}"))})),
            _ => now(Reply::Error(CallError::ResourceNotFound { uri: uri.to_owned() })),
        },
    }
}

fn completion(call: &Call) -> Answer {
    let member = |object: &str, key: &str| {
        call.params().get(object).and_then(|object| object.get(key)).and_then(Value::as_str)
    };
    let known = match member("ref", "type") {
        Some("ref/prompt") => member("ref", "name") == Some("p_args"),
        _ => member("ref", "uri") == Some("test://t/{id}"),
    };
    if !known {
        return now(Reply::Error(CallError::InvalidParams("nothing to complete there".to_owned())));
    }
    let value = member("argument", "value").unwrap_or("");
    let count = match value {
        "slow" => return Answer::Held,
        "many" => 150,
        _ => 2,
    };
    let values: Vec<String> = (1..=count).map(|number| format!("{value}-{number}")).collect();
    result(json!({"completion": {"values": values, "total": count, "hasMore": false}}))
}
