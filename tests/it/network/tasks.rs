//! Tasks over HTTP: where each message of theirs goes, and with which status.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tmws::{
    protocol::{ServerEvent, Task, TaskState},
    revision::Era,
    tool::Audience,
};

use super::{Answer, Http, Server};

const RELATED: &str = "io.modelcontextprotocol/related-task";
const VERSION: (&str, &str) = ("mcp-protocol-version", "2026-07-28");

fn task(id: &str, state: TaskState) -> Task {
    let (message, poll_interval) = (None, None);
    let ttl = Some(Duration::from_mins(1));
    Task { id: id.to_owned(), state, message, created_ms: 0, updated_ms: 0, ttl, poll_interval }
}

fn changed(era: Era, id: &str) -> ServerEvent {
    ServerEvent::TaskChanged { era, task: Arc::new(task(id, TaskState::Cancelled)) }
}

fn request(id: i64, method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

fn modern(method: &str, mut params: Value, extensions: &Value) -> Value {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"extensions": extensions},
    });
    request(1, method, &params)
}

async fn next(stream: &mut Answer) -> Value {
    stream.message().await.expect("another event").json()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_legacy_task_tells_comes_on_the_stream_of_its_session() {
    let server = Server::start().await;
    let mut http = server.http().await;
    let initialize = json!({"protocolVersion": "2025-11-25", "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"}});
    let opened = http.post(&request(0, "initialize", &initialize), &[]).await;
    let session = opened.header("mcp-session-id").to_owned();
    assert!(opened.json().await["result"]["capabilities"]["tasks"]["list"].is_object());
    let headers = [("mcp-session-id", session.as_str())];
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    assert_eq!(http.post(&initialized, &headers).await.text().await, "");
    let listening = [("accept", "text/event-stream"), headers[0]];
    let mut stream = server.http().await.send("GET", "/mcp", &listening, "").await;

    let wish =
        json!({"name": "task", "arguments": {"tag": "t"}, "task": {}, "_meta": {"progressToken": "p"}});
    let made = http.post(&request(1, "tools/call", &wish), &headers).await;
    assert_eq!(made.header("content-type"), "application/json");
    assert_eq!(made.json().await["result"]["task"]["taskId"], "t");
    // Its call is answered; what it tells goes on.
    server.probe.release("t");
    let progress = next(&mut stream).await;
    assert_eq!(
        progress["params"],
        json!({"progressToken": "p", "progress": 1, "_meta": {RELATED: {"taskId": "t"}}})
    );

    // A result that is waited for comes on the stream of its own request.
    let (address, named) = (server.address, session.clone());
    let waiting = tokio::spawn(async move {
        let wait = request(2, "tasks/result", &json!({"taskId": "t"}));
        Http::connect(address).await.post(&wait, &[("mcp-session-id", &named)]).await.json().await
    });
    assert_eq!(server.probe.next().await, super::Seen::Started("result t".to_owned()));
    server.probe.announce(Audience::Everyone, changed(Era::Modern, "t"));
    server.probe.announce(Audience::Everyone, changed(Era::Legacy, "foreign"));
    server.probe.announce(Audience::Everyone, changed(Era::Legacy, "t"));
    let told = next(&mut stream).await;
    assert_eq!(
        (&told["method"], &told["params"]["taskId"]),
        (&json!("notifications/tasks/status"), &json!("t"))
    );
    server.probe.release("result t");
    let ended = waiting.await.unwrap();
    assert_eq!((&ended["id"], &ended["result"]["_meta"][RELATED]), (&json!(2), &json!({"taskId": "t"})));

    for (method, params, code) in [
        ("tasks/get", json!({"taskId": "t"}), None),
        ("tasks/list", json!({}), None),
        ("tasks/cancel", json!({"taskId": "t"}), None),
        ("tasks/update", json!({"taskId": "t", "inputResponses": {}}), Some(-32601)),
    ] {
        let answer = http.post(&request(3, method, &params), &headers).await;
        assert_eq!(answer.status, 200, "{method}");
        assert_eq!(answer.json().await["error"]["code"].as_i64(), code, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_about_a_modern_task_has_its_headers_and_status() {
    let server = Server::start().await;
    let mut http = server.http().await;
    let declared = json!({"io.modelcontextprotocol/tasks": {}});
    let by_id = || json!({"taskId": "t"});
    let update = || json!({"taskId": "t", "inputResponses": {}});
    let listen = || json!({"notifications": {"taskIds": ["t"]}});
    let rows = [
        ("tasks/get", by_id(), &declared, Some("t"), 200, None),
        ("tasks/update", update(), &declared, Some("t"), 200, None),
        ("tasks/cancel", by_id(), &declared, Some("t"), 200, None),
        ("tasks/get", by_id(), &declared, None, 400, Some(-32020)),
        ("tasks/update", update(), &declared, Some("T"), 400, Some(-32020)),
        ("tasks/cancel", by_id(), &declared, Some("u"), 400, Some(-32020)),
        ("tasks/result", by_id(), &declared, None, 404, Some(-32601)),
        ("tasks/list", json!({}), &declared, None, 404, Some(-32601)),
        ("tasks/get", by_id(), &json!({}), Some("t"), 400, Some(-32021)),
        ("tasks/update", update(), &json!({}), Some("t"), 400, Some(-32021)),
        ("tasks/cancel", by_id(), &json!({}), Some("t"), 400, Some(-32021)),
        ("subscriptions/listen", listen(), &json!({}), None, 400, Some(-32021)),
    ];
    for (method, params, extensions, name, status, code) in rows {
        let mut headers = vec![VERSION, ("mcp-method", method)];
        headers.extend(name.map(|name| ("mcp-name", name)));
        let answer = http.post(&modern(method, params, extensions), &headers).await;
        assert_eq!(answer.header("content-type"), "application/json", "{method}");
        assert_eq!(answer.status, status, "{method} {name:?}");
        assert_eq!(answer.json().await["error"]["code"].as_i64(), code, "{method} {name:?}");
    }

    let listening = [VERSION, ("mcp-method", "subscriptions/listen")];
    let mut stream =
        server.http().await.post(&modern("subscriptions/listen", listen(), &declared), &listening).await;
    assert_eq!(next(&mut stream).await["params"]["notifications"], json!({"taskIds": ["t"]}));
    let call = json!({"name": "task", "arguments": {"tag": "t"}});
    let called = [VERSION, ("mcp-method", "tools/call"), ("mcp-name", "task")];
    let made = http.post(&modern("tools/call", call, &declared), &called).await;
    assert_eq!(made.json().await["result"]["resultType"], "task");
    server.probe.release("t");
    server.probe.announce(Audience::Everyone, changed(Era::Modern, "foreign"));
    server.probe.announce(Audience::Everyone, changed(Era::Modern, "t"));
    let told = next(&mut stream).await;
    assert_eq!((&told["method"], &told["params"]["taskId"]), (&json!("notifications/tasks"), &json!("t")));
}
