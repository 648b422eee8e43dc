//! Conversations in the old dialect, as its clients hold them: recorded in `compat/transcripts/tmws-dialect-1/old`, and
//! held again with the server of today.
//!
//! With `TMWS_WRITE_TRANSCRIPTS` set they are recorded anew.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use futures_util::SinkExt as _;
use regex::Regex;
use serde_json::{Value, json};
use tmws::{
    schema::dialect::{DialectMethod, verdict},
    store::short_id,
    transcript::{Direction, FORMAT, Transcript, Transport},
};
use tokio_tungstenite::tungstenite::Message;

use super::{Setup, Ws, dialect_engine::Desk};

/// Records the conversations anew.
const WRITE: &str = "TMWS_WRITE_TRANSCRIPTS";
const FOLDER: &str = "compat/transcripts/tmws-dialect-1/old";
/// Where the session id of the welcome belongs.
const SESSION: &str = "SESSION";
/// Where the handle of the frame before belongs.
const HANDLE: &str = "HANDLE";

/// A conversation: its name, path and headers, and what the client says; each is answered before the next.
struct Scenario {
    name: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    says: Vec<String>,
}

fn request(id: &str, method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()
}

fn scenarios() -> Vec<Scenario> {
    let long =
        "a sentence that makes it longer than any answer may be, so that something is left out. ".repeat(60);
    vec![
        Scenario {
            // As the multi-client script of the old server speaks, which asks for a handshake all the same.
            name: "shared-server-client",
            path: "/ws/mcp",
            headers: &[("x-agent-id", "artemis-optimizer")],
            says: vec![
                request(
                    "init_1",
                    "initialize",
                    &json!({"protocolVersion": "1.0", "clientInfo": {"name": "test-client-1", "version": "1.0.0"}}),
                ),
                request(
                    "store_1",
                    "memory/store",
                    &json!({"content": "Test memory from client 1 (artemis-optimizer)", "importance": 0.7}),
                ),
                request("search_1", "memory/search", &json!({"query": "test memory", "limit": 5})),
            ],
        },
        Scenario {
            // As its tests of patterns speak.
            name: "pattern-client",
            path: "/ws/mcp?agent_id=ws-test-0b8e6a52-6f0e-4b0e-9d7e-5a1c3c1f2a77",
            headers: &[],
            says: vec![
                request(
                    "pattern-exec-1",
                    "execute_pattern",
                    &json!({"query": "execute tool test", "execution_mode": "balanced", "use_cache": true}),
                ),
                request(
                    "memory-1",
                    "store_memory",
                    &json!({"content": "Test memory content", "importance": 0.5, "tags": ["test"]}),
                ),
                request(
                    "req-0",
                    "execute_pattern",
                    &json!({"query": "execute tool test_0", "execution_mode": "fast"}),
                ),
            ],
        },
        Scenario {
            name: "every-method",
            path: "/ws/mcp?agent_id=athena",
            headers: &[],
            says: vec![
                request("1", "ping", &json!({})),
                request("2", "tools/list", &json!({})),
                request(
                    "3",
                    "store_memory",
                    &json!({"content": "The default port is 7337.", "tags": ["port", "Defaults"], "importance": 0.9}),
                ),
                request(
                    "4",
                    "memory/store",
                    &json!({"content": "The default port is 7337.", "metadata": {}}),
                ),
                request(
                    "5",
                    "memory/store",
                    &json!({"content": "Releases are signed.", "importance": null, "session_id": SESSION}),
                ),
                request(
                    "6",
                    "memory/search",
                    &json!({"query": "default port", "limit": 3, "tags": ["port"], "min_importance": 0.5}),
                ),
                request("7", "memory/search", &json!({"query": "zebra"})),
                request(
                    "8",
                    "execute_pattern",
                    &json!({"query": "what do you remember about the default port?", "use_cache": false}),
                ),
                request(
                    "9",
                    "execute_pattern",
                    &json!({"pattern": "memory.recall", "input": {"query": "releases"}, "execution_mode": "comprehensive", "session_id": SESSION}),
                ),
                request(
                    "10",
                    "tools/call",
                    &json!({"name": "remember", "arguments": {"content": format!("Ports: {long}")}}),
                ),
                request(
                    "11",
                    "tools/call",
                    &json!({"name": "remember", "arguments": {"content": format!("More on ports: {long}{long}{long}")}}),
                ),
                request("12", "memory/search", &json!({"query": "ports", "limit": 100})),
                request(
                    "13",
                    "tools/call",
                    &json!({"name": "get_result", "arguments": {"handle": HANDLE, "select": "$.total"}}),
                ),
            ],
        },
        Scenario {
            name: "refusals",
            path: "/ws/mcp?agent_id=hestia-auditor",
            headers: &[],
            says: vec![
                "not json".to_owned(),
                format!("[{}]", request("0", "ping", &json!({}))),
                r#"{"id":"no-version","method":"ping"}"#.to_owned(),
                r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#.to_owned(),
                request("1", "task/create", &json!({"title": "Write it down", "priority": "high"})),
                request("2", "task/list", &json!({"limit": 50})),
                request("3", "tasks/get", &json!({"taskId": "t"})),
                request("4", "workflow/execute", &json!({"workflow_id": "w"})),
                request("5", "agent/info", &json!({})),
                request("6", "resources/list", &json!({})),
                request("7", "echo", &json!({"data": "Message 0 from WS1"})),
                request("8", "memory/sotre", &json!({})),
                request("9", "memory/store", &json!({"content": "x", "importance": 7})),
                request("10", "memory/store", &json!({"content": "x", "access_level": "private"})),
                request("11", "memory/search", &json!({})),
                request(
                    "12",
                    "execute_pattern",
                    &json!({"pattern": "memory.remember", "input": {"content": "x"}}),
                ),
                request("13", "execute_pattern", &json!({"pattern": "memory.recal"})),
                request("14", "tools/call", &json!({"name": "store_memory", "arguments": {"content": "x"}})),
                request(
                    "15",
                    "tools/call",
                    &json!({"name": "get_result", "arguments": {"handle": "r_AAAAAAAAAAAAAAAAAAAAAA"}}),
                ),
                request("16", "ping", &json!({})),
            ],
        },
    ]
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER)
}

/// Ids and handles that a server mints.
fn minted() -> Regex {
    Regex::new("(?:m_[0-9A-Z]{26}|s_[0-9a-f]{32}|r_[A-Za-z0-9_-]{22})").unwrap()
}

async fn text(ws: &mut Ws) -> String {
    match ws.next().await.expect("it is open").expect("a message") {
        Message::Text(text) => text.to_string(),
        other => panic!("no text: {other:?}"),
    }
}

/// Holds a conversation and writes it down.
async fn record(scenario: &Scenario) -> String {
    let desk = Desk::open(Setup::default()).await;
    let begun = Instant::now();
    let mut lines = vec![json!({
        "type": "header", "format": FORMAT, "client": "tmws-dialect", "version": "1", "transport": "ws",
        "variant": scenario.name, "server": "tmws serve --setting old_dialect=true",
        "recorded": jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    })];
    let mut put = |entry: Value| {
        let t = (begun.elapsed().as_secs_f64() * 1e4).round() / 1e4;
        let mut line = json!({"n": lines.len(), "t": t});
        for (name, member) in entry.as_object().unwrap() {
            line[name] = member.clone();
        }
        lines.push(line);
    };
    let headers: serde_json::Map<String, Value> =
        scenario.headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
    put(json!({"dir": "c2s", "ws": "handshake", "path": scenario.path, "headers": headers}));
    let mut ws = Ws::connect_with(desk.server.address, scenario.path, scenario.headers).await.unwrap();
    put(json!({"dir": "s2c", "ws": "accept"}));
    let welcome = text(&mut ws).await;
    let session = minted().find(&welcome).unwrap().as_str().to_owned();
    put(json!({"dir": "s2c", "ws": "text", "raw": welcome}));
    let mut before = String::new();
    let handle = Regex::new("r_[A-Za-z0-9_-]{22}").unwrap();
    for says in &scenario.says {
        let handle = handle.find(&before).map_or("", |found| found.as_str());
        let says = says.replace(SESSION, &session).replace(HANDLE, handle);
        put(json!({"dir": "c2s", "ws": "text", "raw": says}));
        ws.stream.send(Message::text(says)).await.unwrap();
        before = text(&mut ws).await;
        put(json!({"dir": "s2c", "ws": "text", "raw": before}));
    }
    put(json!({"dir": "event", "event": "ws-close", "code": 1000, "reason": ""}));
    lines.iter().flat_map(|line| [line.to_string(), "\n".to_owned()]).collect()
}

/// What differs from one time to the next, made equal: what is measured, minted or counted by a vocabulary that may not
/// be there yet.
fn equalled(value: &mut Value, names: &mut HashMap<String, String>, minted: &Regex) {
    match value {
        Value::Object(members) => {
            members.shift_remove("tokens_estimated");
            for (name, member) in members {
                match (name.as_str(), &*member) {
                    (
                        "execution_time_ms" | "ms" | "tokens_used" | "tokens_out" | "bytes_seen" | "bytes",
                        Value::Number(_),
                    ) => *member = json!(0),
                    ("created_at" | "age" | "hash" | "etag" | "server_version", Value::String(_)) => {
                        *member = json!(name);
                    }
                    // The tools' own answers are JSON in a text.
                    ("text", Value::String(text)) if text.starts_with('{') => {
                        let mut inner: Value = serde_json::from_str(text).unwrap();
                        equalled(&mut inner, names, minted);
                        *member = inner;
                    }
                    _ => equalled(member, names, minted),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| equalled(item, names, minted)),
        Value::String(text) => {
            let renamed = minted.replace_all(text, |found: &regex::Captures<'_>| {
                let next = format!("{}{}", &found[0][..2], names.len() + 1);
                names.entry(found[0].to_owned()).or_insert(next).clone()
            });
            *text = renamed.into_owned();
            // A built-in pattern shows the end of a memory's id.
            for (id, name) in names.iter().filter(|(id, _)| id.starts_with("m_")) {
                *text = text.replace(short_id(id), name);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Holds a recorded conversation again: each frame of the server fits its definition, and says what it said then.
async fn hold(file: &Path) {
    let transcript = Transcript::validate(&fs::read_to_string(file).unwrap()).unwrap();
    assert_eq!(transcript.header.transport, Transport::Ws);
    let name = &transcript.header.variant;
    let desk = Desk::open(Setup::default()).await;
    let minted = minted();
    let mut ws = None;
    let (mut now, mut then) = (HashMap::new(), HashMap::new());
    let mut today: HashMap<String, String> = HashMap::new();
    let mut asked: HashMap<String, DialectMethod> = HashMap::new();
    for entry in &transcript.entries {
        let n = entry.n;
        match (entry.dir, entry.ws.as_deref(), &entry.raw) {
            (Direction::C2s, Some("handshake"), _) => {
                let headers: Vec<(&'static str, &str)> = entry
                    .headers
                    .iter()
                    .flatten()
                    .map(|(name, value)| {
                        assert_eq!(name, "x-agent-id", "{name}: nothing else may be in a recording");
                        ("x-agent-id", value.as_str().unwrap())
                    })
                    .collect();
                let path = entry.path.as_deref().unwrap();
                ws = Some(Ws::connect_with(desk.server.address, path, &headers).await.unwrap());
            }
            (Direction::C2s, _, Some(raw)) => {
                let raw = minted.replace_all(raw, |found: &regex::Captures<'_>| {
                    today.get(&found[0]).cloned().unwrap_or_else(|| found[0].to_owned())
                });
                if let Ok(message) = serde_json::from_str::<Value>(&raw)
                    && let Some(method) = message["method"].as_str().and_then(DialectMethod::parse)
                {
                    asked.insert(message["id"].to_string(), method);
                }
                ws.as_mut().unwrap().stream.send(Message::text(raw.into_owned())).await.unwrap();
            }
            (Direction::S2c, _, Some(raw)) => {
                let said = text(ws.as_mut().unwrap()).await;
                for (was, is) in minted.find_iter(raw).zip(minted.find_iter(&said)) {
                    today.insert(was.as_str().to_owned(), is.as_str().to_owned());
                }
                let mut found: Value = serde_json::from_str(&said).unwrap();
                let mut wanted: Value = serde_json::from_str(raw).unwrap();
                let method = found.get("id").and_then(|id| asked.get(&id.to_string()).copied());
                for frame in [&found, &wanted] {
                    verdict(method, frame)
                        .unwrap_or_else(|violation| panic!("{name}, {n}: {violation}\n{frame}"));
                }
                equalled(&mut found, &mut now, &minted);
                equalled(&mut wanted, &mut then, &minted);
                assert_eq!(found, wanted, "{name}, {n}\nfound:  {found}\nwanted: {wanted}");
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_conversations_go_as_they_went() {
    let scenarios = scenarios();
    if std::env::var_os(WRITE).is_some() {
        fs::create_dir_all(folder()).unwrap();
        for scenario in &scenarios {
            let text = record(scenario).await;
            fs::write(folder().join(format!("{}.jsonl", scenario.name)), text).unwrap();
        }
    }
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut names: Vec<String> =
        scenarios.iter().map(|scenario| format!("{}.jsonl", scenario.name)).collect();
    names.sort();
    let found: Vec<&str> = files.iter().map(|file| file.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(found, names);
    for file in &files {
        hold(file).await;
    }
}
