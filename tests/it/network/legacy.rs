//! Sessions of 2025 over Streamable HTTP.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use tmws::{
    limits::{ConnectionLimits, NetworkLimits},
    protocol::ServerEvent,
    store::{LazyStore, SqliteOptions},
    tool::Audience,
    transport::Keys,
};

use super::{Answer, Event, Http, Seen, Server, Setup, within};
use crate::engine::support::Staged;

const A: &str = "2024-11-05";
const B: &str = "2025-03-26";
const C: &str = "2025-06-18";
const D: &str = "2025-11-25";

/// Name, message, headers; status, code, id.
type Posted<'a> = (&'a str, Value, Vec<(&'a str, &'a str)>, u16, Option<i64>, Value);
/// Name, method, headers; status.
type Asked<'a> = (&'a str, &'a str, Vec<(&'a str, &'a str)>, u16);

/// One client with one session.
struct Client {
    http: Http,
    session: String,
}

fn initialize(revision: &str, capabilities: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": revision, "capabilities": capabilities,
        "clientInfo": {"name": "test", "version": "1"}}})
}

#[expect(clippy::needless_pass_by_value, reason = "arguments are written where the call is")]
fn call(id: impl Into<Value>, tool: &str, arguments: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id.into(), "method": "tools/call",
        "params": {"name": tool, "arguments": arguments}})
}

/// The same with a progress token.
fn watched(id: i64, tool: &str, arguments: Value) -> Value {
    let mut call = call(id, tool, arguments);
    call["params"]["_meta"] = json!({"progressToken": id});
    call
}

fn cancel(id: i64) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}})
}

fn said(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}]})
}

impl Client {
    async fn open(server: &Server, revision: &str) -> Self {
        Self::with(server, revision, &json!({})).await
    }

    async fn with(server: &Server, revision: &str, capabilities: &Value) -> Self {
        let mut http = server.http().await;
        let answer = http.post(&initialize(revision, capabilities), &[]).await;
        assert_eq!(answer.status, 200);
        let session = answer.header("mcp-session-id").to_owned();
        assert!(
            !session.is_empty() && session.bytes().all(|byte| (0x21..=0x7E).contains(&byte)),
            "{session}"
        );
        assert_eq!(answer.json().await["result"]["protocolVersion"], revision);
        let mut client = Self { http, session };
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let answer = client.post(&initialized).await;
        assert_eq!(answer.status, 202);
        assert_eq!(answer.text().await, "");
        client
    }

    async fn post(&mut self, message: &Value) -> Answer {
        self.http.post(message, &[("mcp-session-id", &self.session)]).await
    }

    /// Posts on a connection of its own, so that the answer may take its time.
    async fn post_aside(&self, server: &Server, message: &Value) -> Answer {
        server.http().await.post(message, &[("mcp-session-id", &self.session)]).await
    }

    async fn ask(&mut self, message: &Value) -> Value {
        let answer = self.post(message).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), "application/json");
        answer.json().await
    }

    /// GET, on a connection of its own.
    async fn listen(&self, server: &Server, last_event: Option<&str>) -> Answer {
        let mut headers = vec![("accept", "text/event-stream"), ("mcp-session-id", self.session.as_str())];
        headers.extend(last_event.map(|id| ("last-event-id", id)));
        server.http().await.send("GET", "/mcp", &headers, "").await
    }

    async fn delete(&self, server: &Server) -> Answer {
        let headers = [("mcp-session-id", self.session.as_str())];
        server.http().await.send("DELETE", "/mcp", &headers, "").await
    }
}

/// A POST that is not answered at once: it goes on aside.
fn aside(client: &Client, server: &Server, message: Value) -> impl Future<Output = Answer> + Send + use<> {
    let (address, session) = (server.address, client.session.clone());
    async move { Http::connect(address).await.post(&message, &[("mcp-session-id", &session)]).await }
}

async fn next_json(answer: &mut Answer) -> (Event, Value) {
    let event = answer.message().await.expect("another event");
    assert_eq!(event.event.as_deref(), Some("message"), "{event:?}");
    let message = event.json();
    (event, message)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_revision_opens_a_session_and_is_answered_with_json() {
    let server = Server::start().await;
    for revision in [A, B, C, D] {
        let mut client = Client::open(&server, revision).await;
        let answer = client.ask(&call(1, "echo", json!({"text": revision}))).await;
        assert_eq!(answer["result"]["content"], said(revision)["content"], "{revision}");
        let unknown = client.ask(&json!({"jsonrpc": "2.0", "id": 2, "method": "nothing/such"})).await;
        assert_eq!(unknown["error"]["code"], -32601);
        let bad = client.ask(&json!({"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {}})).await;
        assert_eq!(bad["error"]["code"], -32602);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_post_has_its_status_and_code() {
    let server = Server::start().await;
    let mut client = Client::open(&server, C).await;
    let session = client.session.clone();
    let with = vec![("mcp-session-id", session.as_str())];
    let ping = json!({"jsonrpc": "2.0", "id": 7, "method": "ping"});
    let mut other_version = with.clone();
    other_version.push(("mcp-protocol-version", B));
    let mut unknown_version = with.clone();
    unknown_version.push(("mcp-protocol-version", "2031-01-01"));
    let mut bad_initialize = initialize(D, &json!({}));
    bad_initialize["params"]["clientInfo"] = json!(1);
    let table: Vec<Posted<'_>> = vec![
        ("no session", ping.clone(), vec![], 400, Some(-32602), json!(7)),
        ("no session, notification", cancel(1), vec![], 400, Some(-32602), Value::Null),
        ("unknown session", ping.clone(), vec![("mcp-session-id", "x")], 404, Some(-32600), Value::Null),
        ("initialize twice", initialize(C, &json!({})), with.clone(), 400, Some(-32600), json!(0)),
        ("initialize, bad params", bad_initialize, vec![], 400, Some(-32602), json!(0)),
        (
            "initialize without id",
            json!({"jsonrpc": "2.0", "method": "initialize", "params": {}}),
            vec![],
            400,
            Some(-32600),
            Value::Null,
        ),
        ("no message", json!({"jsonrpc": "2.0", "id": 4}), with.clone(), 400, Some(-32600), json!(4)),
        (
            "id null",
            json!({"jsonrpc": "2.0", "id": null, "method": "ping"}),
            with.clone(),
            400,
            Some(-32600),
            Value::Null,
        ),
        ("array outside 2025-03-26", json!([ping]), with.clone(), 400, Some(-32600), Value::Null),
        ("another known version", ping.clone(), other_version, 200, None, json!(7)),
        ("unknown version", ping.clone(), unknown_version, 400, Some(-32022), json!(7)),
        (
            "unknown method",
            json!({"jsonrpc": "2.0", "id": 5, "method": "x"}),
            with.clone(),
            200,
            Some(-32601),
            json!(5),
        ),
        (
            "request without id",
            json!({"jsonrpc": "2.0", "method": "tools/list"}),
            with.clone(),
            202,
            None,
            Value::Null,
        ),
        (
            "unknown notification",
            json!({"jsonrpc": "2.0", "method": "x/y"}),
            with.clone(),
            202,
            None,
            Value::Null,
        ),
        (
            "answer to nothing",
            json!({"jsonrpc": "2.0", "id": 99, "result": {}}),
            with.clone(),
            202,
            None,
            Value::Null,
        ),
    ];
    for (name, message, headers, status, code, id) in table {
        let answer = client.http.post(&message, &headers).await;
        assert_eq!(answer.status, status, "{name}");
        assert_eq!(answer.header("mcp-session-id"), "", "{name}");
        let text = answer.text().await;
        if text.is_empty() {
            assert_eq!((status, code), (202, None), "{name}");
            continue;
        }
        let body: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(body["error"]["code"].as_i64(), code, "{name}: {body}");
        assert_eq!(body["id"], id, "{name}: {body}");
    }
    let headers = [
        ("content-type", "application/json"),
        ("accept", "application/json, text/event-stream"),
        ("mcp-session-id", session.as_str()),
    ];
    let answer = client.http.send("POST", "/mcp", &headers, "{").await;
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json().await["error"]["code"], -32700);
    // Both ways in are named.
    let text = client.http.post(&ping, &[]).await.text().await;
    assert!(
        text.contains("initialize") && text.contains("io.modelcontextprotocol/protocolVersion"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_get_or_delete_has_its_status() {
    let server = Server::start().await;
    let client = Client::open(&server, D).await;
    let session = ("mcp-session-id", client.session.as_str());
    let events = ("accept", "text/event-stream");
    let table: Vec<Asked<'_>> = vec![
        ("not accepted", "GET", vec![session, ("accept", "application/json")], 406),
        ("accepts nothing", "GET", vec![session], 406),
        ("no session", "GET", vec![events], 400),
        ("unknown session", "GET", vec![events, ("mcp-session-id", "x")], 404),
        ("modern", "GET", vec![events, session, ("mcp-protocol-version", "2026-07-28")], 405),
        ("unknown version", "GET", vec![events, session, ("mcp-protocol-version", "x")], 400),
        ("unknown event", "GET", vec![events, session, ("last-event-id", "x")], 400),
        ("two events", "GET", vec![events, session, ("last-event-id", "x"), ("last-event-id", "y")], 400),
        ("two sessions", "GET", vec![events, session, session], 400),
        ("delete, two sessions", "DELETE", vec![session, ("mcp-session-id", "x")], 400),
        ("delete, no session", "DELETE", vec![], 400),
        ("delete, unknown session", "DELETE", vec![("mcp-session-id", "x")], 404),
    ];
    for (name, method, headers, status) in table {
        let answer = server.http().await.send(method, "/mcp", &headers, "").await;
        assert_eq!(answer.status, status, "{name}");
    }
    let stream = client.listen(&server, None).await;
    assert_eq!(stream.status, 200);
    assert_eq!(stream.header("content-type"), "text/event-stream");
    assert_eq!(client.listen(&server, None).await.status, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_session_is_gone_for_every_use_and_cancels_what_ran() {
    let server = Server::start().await;
    let mut client = Client::open(&server, D).await;
    let waiting = tokio::spawn(aside(&client, &server, call(1, "wait", json!({"tag": "t"}))));
    assert_eq!(server.probe.next().await, Seen::Started("t".to_owned()));
    let mut stream = client.listen(&server, None).await;
    assert_eq!(client.delete(&server).await.status, 204);
    assert_eq!(server.probe.next().await, Seen::Cancelled("t".to_owned()));
    assert_eq!(stream.message().await, None);
    let waited = waiting.await.unwrap();
    assert_eq!(waited.status, 200);
    assert_eq!(waited.json().await["error"]["code"], -32600);
    for _ in 0..2 {
        assert_eq!(client.post(&call(2, "echo", json!({}))).await.status, 404);
        assert_eq!(client.listen(&server, None).await.status, 404);
        assert_eq!(client.delete(&server).await.status, 404);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_project_finds_no_session_exactly_as_for_an_unknown_one() {
    let server = Server::start().await;
    let mut client = Client::open(&server, D).await;
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    let headers = [("mcp-session-id", client.session.as_str())];
    let foreign = client.http.post_to("/p/other/mcp", &ping, &headers).await;
    assert_eq!(foreign.status, 404);
    let foreign = foreign.text().await;
    let unknown = client.http.post_to("/p/other/mcp", &ping, &[("mcp-session-id", "x")]).await.text().await;
    assert_eq!(foreign, unknown);
    // Also where the session is not in memory.
    let elsewhere = Server::start().await;
    let mut http = elsewhere.http().await;
    assert_eq!(http.post_to("/p/other/mcp", &ping, &headers).await.status, 404);
    assert_eq!(http.post(&ping, &headers).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_goes_on_at_another_instance_with_the_same_key() {
    let one = Server::start().await;
    let two = Server::start().await;
    let stranger = Server::with(Setup { keys: Keys::given([8; 32]), ..Setup::default() }).await;
    let mut client = Client::with(&one, C, &json!({"elicitation": {}})).await;
    let whoami = call(1, "whoami", json!({}));
    let here = client.ask(&whoami).await;
    client.http = two.http().await;
    let there = client.ask(&whoami).await;
    assert_eq!(here, there);
    // What the client may be asked is known there too.
    let mut asked = client.post(&call(2, "ask", json!({}))).await;
    let (_, ask) = next_json(&mut asked).await;
    assert_eq!(ask["method"], "elicitation/create");
    // What was asked where it was before, it may still answer: the numbers there begin at 1.
    assert!(ask["id"].as_i64().is_some_and(|id| id > 1 << 20 && id < 1 << 31), "{ask}");
    client.http = stranger.http().await;
    assert_eq!(client.post(&whoami).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_tells_its_key_late_ends_no_session_and_binds_the_instances_from_then_on() {
    let folder = tempfile::tempdir().unwrap();
    let real = LazyStore::new(SqliteOptions::new(folder.path().join("tmws.db")));
    let store = Arc::new(Staged::new(Some(Arc::new(real))));
    store.is_dumb.store(true, Ordering::SeqCst);
    let instance = || Server::with(Setup { keys: Keys::of(Arc::clone(&store) as _), ..Setup::default() });
    let (one, two) = (instance().await, instance().await);
    let whoami = call(1, "whoami", json!({}));

    let mut early = Client::with(&one, C, &json!({})).await;
    early.http = two.http().await;
    assert_eq!(early.post(&whoami).await.status, 404, "each signs for itself");

    store.is_dumb.store(false, Ordering::SeqCst);
    // Whoever comes first sets off the question, and waits for nothing that others were not given either.
    let mut late = within("the key of the store", async {
        loop {
            let mut client = Client::with(&one, C, &json!({})).await;
            client.http = two.http().await;
            if client.post(&whoami).await.status == 200 {
                return client;
            }
        }
    })
    .await;
    late.http = one.http().await;
    assert_eq!(late.post(&whoami).await.status, 200);
    early.http = one.http().await;
    assert_eq!(early.post(&whoami).await.status, 200, "the session goes on where it began");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_deleted_at_one_instance_is_gone_at_the_others_that_do_not_have_it_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let file = SqliteOptions::new(folder.path().join("tmws.db"));
    let stores: Vec<Arc<Staged>> =
        (0..2).map(|_| Arc::new(Staged::new(Some(Arc::new(LazyStore::new(file.clone())))))).collect();
    let instance = async |store: &Arc<Staged>| {
        Server::with(Setup { ended: Some(Arc::clone(store) as _), ..Setup::default() }).await
    };
    let (one, two) = (instance(&stores[0]).await, instance(&stores[1]).await);
    let asked = |number: usize| stores[number].ends_asked.load(Ordering::SeqCst);
    let echo = call(1, "echo", json!({}));

    let mut first = Client::open(&one, D).await;
    let (mut other, mut kept) = (Client::open(&one, D).await, Client::open(&one, D).await);
    for _ in 0..3 {
        assert_eq!(first.post(&echo).await.status, 200);
    }
    assert_eq!((asked(0), asked(1)), (0, 0), "nobody asks for a session that is in memory");
    assert_eq!(first.delete(&one).await.status, 204);
    first.http = two.http().await;
    assert_eq!(first.post(&echo).await.status, 404);
    assert_eq!(first.listen(&two, None).await.status, 404);
    assert_eq!(first.delete(&two).await.status, 404);
    assert_eq!(asked(1), 1, "what the store said is known from then on");

    // Others go on there, and the store is asked once.
    kept.http = two.http().await;
    for _ in 0..3 {
        assert_eq!(kept.post(&echo).await.status, 200);
    }
    assert_eq!(asked(1), 2);

    // Deleted where it was not opened, it is gone where somebody else starts anew.
    assert_eq!(kept.delete(&two).await.status, 204);
    let three = instance(&stores[0]).await;
    kept.http = three.http().await;
    assert_eq!(kept.post(&echo).await.status, 404);

    // A store that says nothing keeps nobody out, and no DELETE from its answer.
    for store in &stores {
        store.is_dumb.store(true, Ordering::SeqCst);
    }
    other.http = two.http().await;
    assert_eq!(other.post(&echo).await.status, 200);
    assert_eq!(other.delete(&two).await.status, 204);
    assert_eq!(other.post(&echo).await.status, 404, "here it is known without the store");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_id_is_unknown_in_memory_and_out_of_it() {
    let limits = NetworkLimits { http_session_ttl: Duration::ZERO, ..NetworkLimits::default() };
    let server = Server::with(Setup { network_limits: limits, ..Setup::default() }).await;
    let mut http = server.http().await;
    let answer = http.post(&initialize(D, &json!({})), &[]).await;
    let session = answer.header("mcp-session-id").to_owned();
    drop(answer.text().await);
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    assert_eq!(http.post(&ping, &[("mcp-session-id", &session)]).await.status, 404);
    assert_eq!(http.post(&ping, &[("mcp-session-id", &session)]).await.status, 404);
    let elsewhere = Server::start().await;
    let mut http = elsewhere.http().await;
    assert_eq!(http.post(&ping, &[("mcp-session-id", &session)]).await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_leaves_the_memory_and_comes_back() {
    let limits = NetworkLimits { http_session_idle: Duration::from_millis(40), ..NetworkLimits::default() };
    let server = Server::with(Setup { network_limits: limits, ..Setup::default() }).await;
    let mut client = Client::open(&server, D).await;
    let before = client.ask(&call(1, "whoami", json!({}))).await;
    within("the session to leave the memory", async {
        while !server.host.hub.is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(client.ask(&call(1, "whoami", json!({}))).await, before);
    assert_eq!(server.host.hub.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sessions_in_memory_are_bounded() {
    let limits = NetworkLimits { http_sessions_max: 2, ..NetworkLimits::default() };
    let server = Server::with(Setup { network_limits: limits, ..Setup::default() }).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        clients.push(Client::open(&server, D).await);
        assert!(server.host.hub.len() <= 2);
    }
    // All of them are served nevertheless.
    for client in &mut clients {
        assert!(client.ask(&call(1, "echo", json!({"text": "x"}))).await["result"].is_object());
    }
    // Those in use stay.
    let _streams = [clients[0].listen(&server, None).await, clients[1].listen(&server, None).await];
    let refused = clients[2].post(&call(2, "echo", json!({}))).await;
    assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (503, "1"));
    let error = refused.json().await["error"].clone();
    assert_eq!(error["data"], json!({"retryAfterMs": 1_000}), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_answer_is_json_and_what_comes_before_it_makes_a_stream() {
    let server = Server::start().await;
    for (revision, primes) in [(A, false), (B, false), (C, false), (D, true)] {
        let client = Client::open(&server, revision).await;
        let waiting = tokio::spawn(aside(&client, &server, call(1, "wait", json!({"tag": revision}))));
        assert_eq!(server.probe.next().await, Seen::Started(revision.to_owned()));
        server.probe.release(revision);
        assert_eq!(server.probe.next().await, Seen::Ended(revision.to_owned()));
        let answer = waiting.await.unwrap();
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.json().await["result"]["content"], said(revision)["content"]);

        let tag = format!("p{revision}");
        let mut answer =
            client.post_aside(&server, &watched(2, "progress", json!({"tag": tag, "count": 2}))).await;
        assert_eq!(answer.header("content-type"), "text/event-stream");
        if primes {
            let event = answer.event().await.unwrap();
            assert!(event.id.is_some() && event.event.is_none(), "{event:?}");
            assert_eq!(event.data.as_deref(), Some(""));
        }
        let mut ids = Vec::new();
        for step in 1..=2 {
            let (event, message) = next_json(&mut answer).await;
            assert_eq!(message["params"]["progress"], step, "{revision}");
            ids.push(event.id.unwrap());
        }
        server.probe.release(&tag);
        let (event, message) = next_json(&mut answer).await;
        assert_eq!(message["id"], 2);
        ids.push(event.id.unwrap());
        assert_eq!(answer.message().await, None);
        let count = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), count);
        for _ in 0..2 {
            server.probe.next().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_call_gets_its_stream_after_a_while_and_comments_from_then_on() {
    let limits = NetworkLimits { keep_alive: Duration::from_millis(20), ..NetworkLimits::default() };
    let server = Server::with(Setup { network_limits: limits, ..Setup::default() }).await;
    let client = Client::open(&server, D).await;
    let mut answer = client.post_aside(&server, &call(1, "wait", json!({"tag": "t"}))).await;
    assert_eq!(answer.header("content-type"), "text/event-stream");
    assert_eq!(answer.event().await.unwrap().data.as_deref(), Some(""));
    for _ in 0..3 {
        assert!(answer.event().await.unwrap().comment.is_some());
    }
    server.probe.release("t");
    let (_, message) = next_json(&mut answer).await;
    assert_eq!(message["id"], 1);
    assert_eq!(answer.message().await, None);
    // The session's own stream has them too.
    let mut stream = client.listen(&server, None).await;
    assert!(stream.event().await.unwrap().comment.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_request_ends_its_stream_silently_and_its_json_with_an_error() {
    let server = Server::start().await;
    let mut client = Client::open(&server, C).await;
    let waiting = tokio::spawn(aside(&client, &server, call(1, "wait", json!({"tag": "json"}))));
    server.probe.next().await;
    assert_eq!(client.post(&cancel(1)).await.status, 202);
    assert_eq!(server.probe.next().await, Seen::Cancelled("json".to_owned()));
    let answer = waiting.await.unwrap();
    assert_eq!(answer.status, 200);
    let body = answer.json().await;
    assert_eq!((body["id"].clone(), body["error"]["code"].clone()), (json!(1), json!(-32600)));

    let mut stream = client.post_aside(&server, &watched(2, "progress", json!({"tag": "sse"}))).await;
    next_json(&mut stream).await;
    assert_eq!(client.post(&cancel(2)).await.status, 202);
    assert_eq!(stream.message().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_in_flight_is_refused_and_the_first_use_unharmed() {
    let server = Server::start().await;
    let mut client = Client::open(&server, B).await;
    let waiting = tokio::spawn(aside(&client, &server, call(1, "wait", json!({"tag": "t"}))));
    server.probe.next().await;
    for message in
        [call(1, "echo", json!({})), json!([call(1, "echo", json!({})), call(2, "echo", json!({}))])]
    {
        let answer = client.post(&message).await;
        assert_eq!(answer.status, 400);
        assert_eq!(answer.json().await["error"]["code"], -32600);
    }
    server.probe.release("t");
    assert_eq!(waiting.await.unwrap().json().await["result"]["content"], said("t")["content"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_those_of_2025_03_26() {
    let server = Server::start().await;
    let mut client = Client::open(&server, B).await;
    let answers = client
        .ask(&json!([
            call(1, "echo", json!({"text": "a"})),
            {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"},
            {"jsonrpc": "2.0", "id": 3},
            call("1", "echo", json!({"text": "b"})),
        ]))
        .await;
    let ids: Vec<&Value> = answers.as_array().unwrap().iter().map(|answer| &answer["id"]).collect();
    assert_eq!(ids, [&json!(1), &json!(3), &json!("1")]);
    assert_eq!(client.ask(&json!([call(1, "echo", json!({}))])).await.as_array().unwrap().len(), 1);
    let table = [
        (
            "notifications alone",
            json!([{"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}]),
            202,
        ),
        ("responses alone", json!([{"jsonrpc": "2.0", "id": 9, "result": {}}]), 202),
        ("empty", json!([]), 400),
        ("no message in it", json!([1]), 400),
        ("bad alone", json!([{"jsonrpc": "2.0", "id": 3}]), 400),
        ("mixed", json!([call(1, "echo", json!({})), {"jsonrpc": "2.0", "id": 9, "result": {}}]), 400),
    ];
    for (name, batch, status) in table {
        assert_eq!(client.post(&batch).await.status, status, "{name}");
    }
    // One that takes its time is gathered, and ends where all of it is cancelled.
    let batch = json!([call(1, "wait", json!({"tag": "x"})), call(2, "echo", json!({}))]);
    let waiting = tokio::spawn(aside(&client, &server, batch));
    server.probe.next().await;
    server.probe.release("x");
    assert_eq!(waiting.await.unwrap().json().await.as_array().unwrap().len(), 2);
    server.probe.next().await;
    let waiting = tokio::spawn(aside(&client, &server, json!([call(1, "wait", json!({"tag": "y"}))])));
    server.probe.next().await;
    client.post(&json!([cancel(1)])).await;
    assert_eq!(waiting.await.unwrap().json().await["error"]["code"], -32600);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_the_client_comes_on_the_stream_of_its_request() {
    let server = Server::start().await;
    let mut client = Client::with(&server, C, &json!({"elicitation": {}})).await;
    let mut session_stream = client.listen(&server, None).await;
    let mut first = client.post_aside(&server, &call(1, "ask", json!({}))).await;
    let mut second = client.post_aside(&server, &call(2, "ask", json!({}))).await;
    let (_, first_ask) = next_json(&mut first).await;
    let (_, second_ask) = next_json(&mut second).await;
    assert_ne!(first_ask["id"], second_ask["id"]);
    for (stream, ask, id) in [(&mut second, second_ask, 2), (&mut first, first_ask, 1)] {
        assert_eq!(ask["method"], "elicitation/create");
        let answer = json!({"jsonrpc": "2.0", "id": ask["id"], "result": {"action": "accept", "content": {"name": "N"}}});
        let answer = client.post(&answer).await;
        assert_eq!(answer.status, 202);
        assert_eq!(answer.text().await, "");
        let (_, message) = next_json(stream).await;
        assert_eq!(message["id"], id);
        assert!(message["result"]["content"][0]["text"].as_str().unwrap().contains("accept"), "{message}");
        assert_eq!(stream.message().await, None);
    }
    client.delete(&server).await;
    assert_eq!(session_stream.message().await, None, "nothing of this belongs there");
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_come_on_the_stream_of_the_session_and_wait_for_it() {
    let server = Server::start().await;
    let client = Client::open(&server, D).await;
    for _ in 0..3 {
        server.probe.announce(Audience::Everyone, ServerEvent::ToolsChanged);
    }
    server.probe.announce(Audience::Everyone, ServerEvent::PromptsChanged);
    let mut stream = client.listen(&server, None).await;
    let (first, message) = next_json(&mut stream).await;
    assert_eq!(message["method"], "notifications/tools/list_changed");
    let mut message = message;
    // Whether the three arrived before the stream is a matter of chance; the fourth is the last.
    while message["method"] != "notifications/prompts/list_changed" {
        (_, message) = next_json(&mut stream).await;
    }
    server.probe.announce(Audience::Everyone, ServerEvent::ResourcesChanged);
    assert_eq!(next_json(&mut stream).await.1["method"], "notifications/resources/list_changed");
    // The connection is cut: the client names what it got last, and takes its own place.
    let mut again = client.listen(&server, first.id.as_deref()).await;
    let mut methods = Vec::new();
    while methods.last() != Some(&json!("notifications/resources/list_changed")) {
        methods.push(next_json(&mut again).await.1["method"].clone());
    }
    assert_eq!(stream.message().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_cut_in_the_middle_of_a_call_is_resumed() {
    let server = Server::start().await;
    for revision in [C, D] {
        let client = Client::open(&server, revision).await;
        let tag = revision.to_owned();
        let other = format!("other{revision}");
        let mut stream =
            client.post_aside(&server, &watched(1, "progress", json!({"tag": tag, "count": 3}))).await;
        let mut last = None;
        while last.is_none() {
            let event = stream.message().await.unwrap();
            last = event.data.as_deref().is_some_and(|data| !data.is_empty()).then_some(event);
        }
        let last = last.unwrap();
        assert_eq!(last.json()["params"]["progress"], 1);
        drop(stream);
        // What another stream says in the meantime does not come on this one.
        let waiting =
            tokio::spawn(aside(&client, &server, watched(2, "progress", json!({"tag": other, "count": 1}))));
        let mut other_stream = waiting.await.unwrap();
        server.probe.release(&tag);
        let mut resumed = client.listen(&server, last.id.as_deref()).await;
        assert_eq!(resumed.status, 200);
        for step in 2..=3 {
            assert_eq!(next_json(&mut resumed).await.1["params"]["progress"], step);
        }
        let (_, answer) = next_json(&mut resumed).await;
        assert_eq!(answer["id"], 1);
        assert_eq!(answer["result"]["content"], said(&tag)["content"]);
        assert_eq!(resumed.message().await, None);
        // And once more, after it was complete.
        let mut replayed = client.listen(&server, last.id.as_deref()).await;
        let mut count = 0;
        while replayed.message().await.is_some() {
            count += 1;
        }
        assert_eq!(count, 3);
        server.probe.release(&other);
        while let Some(event) = other_stream.message().await {
            if event.data.as_deref() != Some("") {
                assert_ne!(event.json()["id"], 1);
            }
        }
        // No other session and no other instance can.
        let stranger = Client::open(&server, revision).await;
        assert_eq!(stranger.listen(&server, last.id.as_deref()).await.status, 400);
        let elsewhere = Server::start().await;
        assert_eq!(client.listen(&elsewhere, last.id.as_deref()).await.status, 400);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_may_send_its_client_away_and_is_polled_for_where_the_revision_has_that() {
    let server = Server::start().await;
    let client = Client::open(&server, D).await;
    let mut stream = client.post_aside(&server, &call(1, "poll", json!({"tag": "d"}))).await;
    let start = stream.event().await.unwrap();
    assert_eq!(start.data.as_deref(), Some(""));
    let retry = stream.event().await.unwrap();
    assert!(retry.retry.is_some() && retry.data.is_none(), "{retry:?}");
    assert_eq!(stream.event().await, None);
    let mut polled = client.listen(&server, start.id.as_deref()).await;
    server.probe.release("d");
    assert_eq!(next_json(&mut polled).await.1["id"], 1);
    assert_eq!(polled.message().await, None);

    let older = Client::open(&server, C).await;
    server.probe.release("c");
    let answer = older.post_aside(&server, &call(1, "poll", json!({"tag": "c"}))).await;
    assert_eq!(answer.json().await["id"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_to_be_said_again_is_bounded() {
    let limits = NetworkLimits { replay_events_max: 4, ..NetworkLimits::default() };
    let server = Server::with(Setup { network_limits: limits, ..Setup::default() }).await;
    let client = Client::open(&server, C).await;
    let mut stream =
        client.post_aside(&server, &watched(1, "progress", json!({"tag": "t", "count": 1}))).await;
    let (first, _) = next_json(&mut stream).await;
    drop(stream);
    for index in 0..6 {
        let tag = format!("t{index}");
        server.probe.release(&tag);
        let mut stream = client
            .post_aside(&server, &watched(10 + index, "progress", json!({"tag": tag, "count": 1})))
            .await;
        while stream.message().await.is_some() {}
    }
    server.probe.release("t");
    loop {
        if server.probe.next().await == Seen::Ended("t".to_owned()) {
            break;
        }
    }
    let mut resumed = client.listen(&server, first.id.as_deref()).await;
    let (_, answer) = next_json(&mut resumed).await;
    assert_eq!(answer["id"], 1, "the newest is kept");
    assert_eq!(resumed.message().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn colliding_ids_of_fifty_sessions_never_meet() {
    let server = Arc::new(Server::start().await);
    let mut tasks = Vec::new();
    for index in 0..50 {
        let server = Arc::clone(&server);
        tasks.push(tokio::spawn(async move {
            let mut client = Client::open(&server, [B, C, D][index % 3]).await;
            let mut seen = Vec::new();
            for id in 1..=5 {
                let marker = format!("marker-{index}-{id}");
                let answer = client.ask(&call(id, "echo", json!({"text": marker}))).await;
                assert_eq!(answer["id"], id);
                assert_eq!(answer["result"]["content"], said(&marker)["content"]);
                // Late ones too, with the same id in all sessions at once.
                let tag = format!("tag-{index}-{id}");
                server.probe.release(&tag);
                let mut stream = client
                    .post_aside(&server, &watched(100, "progress", json!({"tag": tag, "count": 2})))
                    .await;
                while let Some(event) = stream.message().await {
                    seen.push(event.data.unwrap_or_default());
                }
            }
            for text in &seen {
                assert!(!text.contains("tag-") || text.contains(&format!("tag-{index}-")), "{text}");
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_outlives_its_deadline_is_answered() {
    let limits = ConnectionLimits { call_deadline: Duration::from_millis(20), ..ConnectionLimits::default() };
    let server = Server::with(Setup { connection_limits: limits, ..Setup::default() }).await;
    let client = Client::open(&server, D).await;
    let answer = client.post_aside(&server, &call(1, "wait", json!({"tag": "t"}))).await;
    let body = answer.json().await;
    assert_eq!(body["id"], 1);
    assert_eq!(body["result"]["isError"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_beyond_the_bound_wait_for_room() {
    let limits = ConnectionLimits { inflight_requests_max: 1, ..ConnectionLimits::default() };
    let server = Server::with(Setup { connection_limits: limits, ..Setup::default() }).await;
    let mut client = Client::open(&server, D).await;
    let first = tokio::spawn(aside(&client, &server, call(1, "wait", json!({"tag": "a"}))));
    assert_eq!(server.probe.next().await, Seen::Started("a".to_owned()));
    let second = tokio::spawn(aside(&client, &server, call(2, "wait", json!({"tag": "b"}))));
    // What makes room never waits for it, nor does what needs none.
    assert_eq!(client.post(&cancel(77)).await.status, 202);
    assert_eq!(
        client.post(&json!({"jsonrpc": "2.0", "id": 3, "method": "ping"})).await.json().await["id"],
        3
    );
    server.probe.release("a");
    assert_eq!(first.await.unwrap().json().await["id"], 1);
    assert_eq!(server.probe.next().await, Seen::Ended("a".to_owned()));
    assert_eq!(server.probe.next().await, Seen::Started("b".to_owned()));
    server.probe.release("b");
    assert_eq!(second.await.unwrap().json().await["id"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_answers_what_runs_and_ends_its_streams() {
    let server = Server::start().await;
    let client = Client::open(&server, D).await;
    let mut session_stream = client.listen(&server, None).await;
    let mut stream = client.post_aside(&server, &watched(1, "progress", json!({"tag": "t"}))).await;
    assert_eq!(stream.message().await.unwrap().data.as_deref(), Some(""));
    next_json(&mut stream).await;
    let late = tokio::spawn(aside(&client, &server, call(2, "wait", json!({"tag": "never"}))));
    while server.probe.next().await != Seen::Started("never".to_owned()) {}
    server.stop();
    assert_eq!(session_stream.message().await, None);
    server.probe.release("t");
    assert_eq!(next_json(&mut stream).await.1["id"], 1);
    assert_eq!(stream.message().await, None);
    server.cut_off();
    let answer = late.await.unwrap().json().await;
    assert_eq!(answer["id"], 2);
    drop((client, session_stream, stream));
    server.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_while_the_server_ends_is_served() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let server = Server::start().await;
    let client = Client::open(&server, D).await;
    let mut session_stream = client.listen(&server, None).await;
    let session = format!("mcp-session-id: {}\r\n", client.session);
    let messages =
        [(session, call(7, "echo", json!({"text": "late"}))), (String::new(), initialize(D, &json!({})))];
    let mut begun = Vec::new();
    for (header, message) in messages {
        let body = message.to_string();
        let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        let head = format!(
            "POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\naccept: application/json, \
             text/event-stream\r\n{header}expect: 100-continue\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut seen = [0; 256];
        let count = within("that the body is wanted", stream.read(&mut seen)).await.unwrap();
        assert!(seen[..count].starts_with(b"HTTP/1.1 100 "));
        begun.push((stream, body));
    }
    server.stop();
    assert_eq!(session_stream.message().await, None, "the session knows");
    for (mut stream, body) in begun {
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within("the answer", stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"result\""), "{answer}");
    }
    drop((client, session_stream));
    server.ended().await;
}
