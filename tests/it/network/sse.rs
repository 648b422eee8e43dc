//! HTTP+SSE of 2024-11-05.

use std::time::Duration;

use serde_json::{Value, json};
use tmws::{
    limits::{ConnectionLimits, NetworkLimits},
    protocol::ServerEvent,
    tool::Audience,
};

use super::{Answer, Seen, Server, Setup};

/// One client: its stream, and where it posts.
struct Client {
    stream: Answer,
    messages: String,
}

fn call(id: i64, tool: &str, arguments: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
}

impl Client {
    async fn connect(server: &Server, path: &str) -> Self {
        let headers = [("accept", "text/event-stream")];
        let mut stream = server.http().await.send("GET", path, &headers, "").await;
        assert_eq!(stream.status, 200);
        assert_eq!(stream.header("content-type"), "text/event-stream");
        let endpoint = stream.message().await.unwrap();
        assert_eq!(endpoint.event.as_deref(), Some("endpoint"));
        Self { stream, messages: endpoint.data.unwrap() }
    }

    async fn open(server: &Server, revision: &str, capabilities: &Value) -> Self {
        let mut client = Self::connect(server, "/sse").await;
        let initialize = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": revision, "capabilities": capabilities,
            "clientInfo": {"name": "test", "version": "1"}}});
        client.post(server, &initialize).await;
        assert_eq!(client.next().await["result"]["protocolVersion"], revision);
        client.post(server, &json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        client
    }

    async fn post(&self, server: &Server, message: &Value) {
        let answer = server.http().await.post_to(&self.messages, message, &[]).await;
        assert_eq!(answer.status, 202);
        assert_eq!(answer.text().await, "");
    }

    async fn next(&mut self) -> Value {
        let event = self.stream.message().await.expect("the stream goes on");
        assert_eq!((event.event.as_deref(), event.id), (Some("message"), None));
        serde_json::from_str(&event.data.unwrap()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_the_server_says_comes_on_the_stream() {
    let server = Server::start().await;
    for revision in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let mut client = Client::open(&server, revision, &json!({"elicitation": {}})).await;
        client.post(&server, &call(1, "echo", &json!({"text": "hello"}))).await;
        assert_eq!(client.next().await["result"]["content"][0]["text"], "hello");
        client.post(&server, &json!({"jsonrpc": "2.0", "id": 2, "method": "nothing"})).await;
        assert_eq!(client.next().await["error"]["code"], -32601);
        if revision == "2025-06-18" {
            client.post(&server, &call(3, "ask", &json!({}))).await;
            let ask = client.next().await;
            assert_eq!(ask["method"], "elicitation/create");
            let answer = json!({"jsonrpc": "2.0", "id": ask["id"], "result": {"action": "decline"}});
            client.post(&server, &answer).await;
            assert_eq!(client.next().await["id"], 3);
        }
        if revision == "2025-03-26" {
            client.post(&server, &json!([call(4, "echo", &json!({})), call(5, "echo", &json!({}))])).await;
            assert_eq!(client.next().await["id"], 4);
            assert_eq!(client.next().await["id"], 5);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn late_answers_progress_and_changes_come_by_themselves() {
    let server = Server::start().await;
    let mut client = Client::open(&server, "2025-03-26", &json!({})).await;
    let mut watched = call(1, "progress", &json!({"tag": "t", "count": 2}));
    watched["params"]["_meta"] = json!({"progressToken": "p"});
    client.post(&server, &watched).await;
    for step in 1..=2 {
        assert_eq!(client.next().await["params"]["progress"], step);
    }
    server.probe.announce(Audience::Everyone, ServerEvent::ToolsChanged);
    assert_eq!(client.next().await["method"], "notifications/tools/list_changed");
    server.probe.release("t");
    assert_eq!(client.next().await["id"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_dies_with_its_stream() {
    let server = Server::start().await;
    let client = Client::open(&server, "2024-11-05", &json!({})).await;
    client.post(&server, &call(1, "wait", &json!({"tag": "t"}))).await;
    assert_eq!(server.probe.next().await, Seen::Started("t".to_owned()));
    let Client { stream, messages } = client;
    drop(stream);
    assert_eq!(server.probe.next().await, Seen::Cancelled("t".to_owned()));
    let mut http = server.http().await;
    let answer = http.post_to(&messages, &call(2, "echo", &json!({})), &[]).await;
    assert_eq!(answer.status, 404);
    assert!(server.host.hub.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_posted_for_nobody_is_refused() {
    let server = Server::start().await;
    let client = Client::connect(&server, "/p/alpha/sse").await;
    assert!(client.messages.starts_with("/p/alpha/messages?session="), "{}", client.messages);
    let other = Client::connect(&server, "/p/alpha/sse").await;
    assert_ne!(client.messages, other.messages);
    let session = client.messages.split_once('?').unwrap().1;
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    let mut http = server.http().await;
    let mut texts = Vec::new();
    for path in [
        "/p/beta/messages?session=x".to_owned(),
        format!("/p/beta/messages?{session}"),
        format!("/messages?{session}"),
        "/messages".to_owned(),
    ] {
        let answer = http.post_to(&path, &ping, &[]).await;
        assert_eq!(answer.status, 404, "{path}");
        texts.push(answer.text().await);
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "{texts:?}");
    let headers = [("content-type", "application/json")];
    let broken = http.send("POST", &client.messages, &headers, "{").await;
    assert_eq!(broken.status, 400);
    assert_eq!(broken.json().await["error"]["code"], -32700);
    let plain =
        http.send("POST", &client.messages, &[("content-type", "text/plain")], ping.to_string()).await;
    assert_eq!(plain.status, 415);
    let large = http.send("POST", &client.messages, &headers, "x".repeat(5 << 20)).await;
    assert_eq!(large.status, 413);
    let mut http = server.http().await;
    assert_eq!(http.send("DELETE", "/sse", &[], "").await.status, 405);
}

/// Errors without id are not for the stream: the schema of most revisions has none.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_id_to_be_answered_under_is_refused_by_its_post() {
    let server = Server::start().await;
    let batch = json!([{"jsonrpc": "2.0", "id": 1, "method": "ping"}]);
    for revision in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let mut client = Client::open(&server, revision, &json!({})).await;
        let takes_batch = revision == "2025-03-26";
        let table = [
            (json!(5), false),
            (json!({"jsonrpc": "2.0", "id": null, "method": "ping"}), false),
            (json!([]), false),
            (batch.clone(), takes_batch),
        ];
        for (message, is_taken) in table {
            let answer = server.http().await.post_to(&client.messages, &message, &[]).await;
            assert_eq!(answer.status, if is_taken { 202 } else { 400 }, "{revision} {message}");
            if !is_taken {
                let answer = answer.json().await;
                assert_eq!((&answer["error"]["code"], answer.get("id")), (&json!(-32600), None));
            }
        }
        if takes_batch {
            assert_eq!(client.next().await["id"], 1);
        }
        // What has an id is answered where answers go.
        client.post(&server, &json!({"jsonrpc": "1.0", "id": 2, "method": "ping"})).await;
        let answer = client.next().await;
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&json!(2), &json!(-32600)), "{revision}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_it_is_off_the_answer_says_what_turns_it_on() {
    let server = Server::with(Setup { serves_sse: false, ..Setup::default() }).await;
    let mut http = server.http().await;
    let answer = http.send("GET", "/sse", &[("accept", "text/event-stream")], "").await;
    assert_eq!(answer.status, 404);
    assert!(answer.text().await.contains("TMWS_LEGACY_SSE"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_stream_has_comments_and_calls_have_their_deadline() {
    let server = Server::with(Setup {
        network_limits: NetworkLimits { keep_alive: Duration::from_millis(20), ..NetworkLimits::default() },
        connection_limits: ConnectionLimits {
            call_deadline: Duration::from_millis(30),
            ..ConnectionLimits::default()
        },
        ..Setup::default()
    })
    .await;
    let mut client = Client::open(&server, "2024-11-05", &json!({})).await;
    for _ in 0..2 {
        assert!(client.stream.event().await.unwrap().comment.is_some());
    }
    client.post(&server, &call(1, "wait", &json!({"tag": "t"}))).await;
    assert_eq!(client.next().await["result"]["isError"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_answers_what_runs_and_ends_the_stream() {
    let server = Server::start().await;
    let mut client = Client::open(&server, "2024-11-05", &json!({})).await;
    client.post(&server, &call(1, "wait", &json!({"tag": "t"}))).await;
    assert_eq!(server.probe.next().await, Seen::Started("t".to_owned()));
    server.stop();
    server.probe.release("t");
    assert_eq!(client.next().await["id"], 1);
    assert_eq!(client.stream.message().await, None);
    server.ended().await;
}
