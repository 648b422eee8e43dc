//! Rules that hold on every binding alike, tried on each.

use serde_json::{Value, json};

use super::{Http, Server, Ws, http::modern};

const LEVEL: &str = "io.modelcontextprotocol/logLevel";

/// Message, headers; code.
type Row<'a> = (&'a Value, Vec<(&'a str, &'a str)>, i64);

fn initialize(revision: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": revision, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}})
}

fn request(id: i64, method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

/// A session over HTTP: its client and its id.
async fn open(server: &Server, revision: &str) -> (Http, String) {
    let mut http = server.http().await;
    let answer = http.post(&initialize(revision), &[]).await;
    let session = answer.header("mcp-session-id").to_owned();
    answer.text().await;
    (http, session)
}

/// A call that tells something and answers in one go must not lose what it told.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_quick_call_tells_comes_before_its_answer() {
    let server = Server::start().await;
    let log = json!({"name": "log", "arguments": {"tag": "t"}});

    let (mut http, session) = open(&server, "2025-06-18").await;
    let headers = [("mcp-session-id", session.as_str())];
    http.post(&request(1, "logging/setLevel", &json!({"level": "debug"})), &headers).await.text().await;
    let mut answer = http.post(&request(2, "tools/call", &log), &headers).await;
    assert_eq!(answer.message().await.unwrap().json()["method"], "notifications/message");
    assert_eq!(answer.message().await.unwrap().json()["id"], 2);
    assert_eq!(answer.message().await, None);

    let mut message = modern(3, "tools/call", log.clone());
    message["params"]["_meta"][LEVEL] = json!("debug");
    let headers = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "log")];
    let mut answer = server.http().await.post(&message, &headers).await;
    assert_eq!(answer.message().await.unwrap().json()["method"], "notifications/message");
    assert_eq!(answer.message().await.unwrap().json()["id"], 3);

    let mut ws: Ws = server.ws().await;
    ws.send(&message).await;
    assert_eq!(ws.receive().await["method"], "notifications/message");
    assert_eq!(ws.receive().await["id"], 3);
}

/// A proxy that keeps sessions at their instances may have read another value than we.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_named_once() {
    let server = Server::start().await;
    let (mut http, session) = open(&server, "2025-11-25").await;
    let (_, other) = open(&server, "2025-11-25").await;
    let ping = request(1, "ping", &json!({}));
    for second in [&session, &other] {
        let headers = [("mcp-session-id", session.as_str()), ("mcp-session-id", second.as_str())];
        let answer = http.post(&ping, &headers).await;
        assert_eq!(answer.status, 400);
        let answer = answer.json().await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(1), &json!(-32600)));
    }
    assert_eq!(http.post(&ping, &[("mcp-session-id", session.as_str())]).await.status, 200);
}

/// No answer is longer than a frame may be, whatever it would have to repeat.
#[tokio::test(flavor = "multi_thread")]
async fn an_id_too_long_for_a_frame_is_not_repeated() {
    let server = Server::start().await;
    let (mut http, session) = open(&server, "2025-11-25").await;
    let limit = server.host.connection_limits.frame_out_bytes_max;
    let id = "x".repeat(2 * limit);
    let long = json!({"jsonrpc": "2.0", "id": id, "method": "tools/list"});
    let mut claiming = long.clone();
    claiming["params"] = modern(1, "tools/list", json!({}))["params"].clone();
    let shapeless = json!({"jsonrpc": "1.0", "id": id, "method": "tools/list"});
    let version = "mcp-protocol-version";
    let table: [Row<'_>; 7] = [
        (&long, vec![], -32602),
        (&long, vec![(version, "2026-07-28")], -32602),
        (&long, vec![(version, "x")], -32022),
        (&long, vec![("mcp-session-id", &session)], -32600),
        (&shapeless, vec![("mcp-session-id", &session)], -32600),
        (&claiming, vec![], -32020),
        (&claiming, vec![(version, "2026-07-28"), ("mcp-method", "tools/list")], -32600),
    ];
    for (message, headers, code) in table {
        let answer = http.post(message, &headers).await;
        assert_eq!(answer.status, 400, "{headers:?}");
        let text = answer.text().await;
        assert!(text.len() <= limit, "{headers:?}: {} bytes", text.len());
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&answer["error"]["code"], answer.get("id")), (&json!(code), None), "{headers:?}");
    }
}
