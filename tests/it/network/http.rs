//! Routes, guards, eras and 2026-07-28 over HTTP.

use std::time::Duration;

use serde_json::{Value, json};
use tmws::{limits::NetworkLimits, protocol::ServerEvent, tool::Audience};

use super::{Answer, Http, Seen, Server, Setup};

const VERSION: (&str, &str) = ("mcp-protocol-version", "2026-07-28");
const JSON: (&str, &str) = ("content-type", "application/json");
const BOTH: (&str, &str) = ("accept", "application/json, text/event-stream");

fn meta(version: &str) -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": version,
        "io.modelcontextprotocol/clientCapabilities": {},
    })
}

/// A request of 2026-07-28.
pub(super) fn modern(id: i64, method: &str, mut params: Value) -> Value {
    params["_meta"] = meta("2026-07-28");
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

/// A tool call of 2026-07-28.
pub(super) fn call(id: i64, tool: &str, arguments: &Value) -> Value {
    modern(id, "tools/call", json!({"name": tool, "arguments": arguments}))
}

/// Its headers.
pub(super) fn called(tool: &str) -> [(&'static str, &str); 3] {
    [VERSION, ("mcp-method", "tools/call"), ("mcp-name", tool)]
}

type Row<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a str, u16);
type Mirrored<'a> = (Value, &'a [(&'a str, &'a str)], (u16, i64));

fn code(answer: &Value) -> i64 {
    answer.pointer("/error/code").and_then(Value::as_i64).unwrap_or_default()
}

async fn refused(answer: Answer) -> (u16, i64) {
    let status = answer.status.as_u16();
    (status, code(&answer.json().await))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_request_as_such_has_its_status() {
    let server = Server::start().await;
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "server/discover"}).to_string();
    let evil: &[(&str, &str)] = &[JSON, BOTH, ("host", "evil.example"), ("origin", "http://evil.example")];
    let table: &[Row<'_>] = &[
        ("GET", "/x", &[], "", 404),
        ("GET", "/mcp/x", &[], "", 404),
        ("POST", "/p/a%62/mcp", &[JSON, BOTH], &ping, 404),
        ("PUT", "/mcp", &[JSON, BOTH], &ping, 405),
        ("HEAD", "/mcp", &[], "", 405),
        ("POST", "/ws", &[JSON, BOTH], &ping, 405),
        ("GET", "/messages", &[], "", 405),
        ("GET", "/mcp", &[VERSION], "", 405),
        ("DELETE", "/mcp", &[VERSION], "", 405),
        ("GET", "/mcp", &[("mcp-protocol-version", "v999")], "", 400),
        ("OPTIONS", "/mcp", &[], "", 204),
        ("POST", "/mcp", &[BOTH], &ping, 415),
        ("POST", "/mcp", &[BOTH, ("content-type", "text/plain")], &ping, 415),
        ("POST", "/mcp", &[JSON, ("accept", "application/json")], &ping, 406),
        ("POST", "/mcp", &[JSON, ("accept", "text/event-stream")], &ping, 406),
        ("POST", "/mcp", &[JSON, ("accept", "text/html")], &ping, 406),
        ("POST", "/mcp", &[JSON, BOTH], "{", 400),
        ("POST", "/mcp", &[JSON, BOTH], "", 400),
        ("POST", "/mcp", &[JSON, BOTH], "{}", 400),
        ("POST", "/mcp", evil, &ping, 403),
        ("GET", "/ws", &[("host", "evil.example")], "", 403),
        ("GET", "/healthz", &[("host", "evil.example")], "", 403),
        ("POST", "/mcp", &[JSON, BOTH, ("origin", "http://evil.example")], &ping, 403),
        ("POST", "/mcp", &[JSON, BOTH, ("tmws-agent", "a b")], &ping, 400),
        // Passed on to the era decision, and refused there.
        ("POST", "/mcp/?x=1", &[JSON, BOTH, VERSION, ("host", "localhost:1")], &ping, 400),
        ("POST", "/p/team/mcp", &[JSON, ("accept", "*/*"), VERSION], &ping, 400),
        ("POST", "/mcp", &[("content-type", "Application/JSON;charset=UTF-8"), BOTH, VERSION], &ping, 400),
    ];
    for (method, path, headers, body, status) in table {
        let answer = server.http().await.send(method, path, headers, (*body).to_owned()).await;
        assert_eq!(answer.status.as_u16(), *status, "{method} {path} {headers:?} {body}");
        if *status == 405 {
            let expected = if headers.contains(&VERSION) { "POST" } else { answer.header("allow") };
            assert_eq!(answer.header("allow"), expected);
            assert!(!answer.header("allow").is_empty(), "{method} {path}");
        }
        if *method == "POST" && matches!(status, 403 | 406 | 415) {
            let error = answer.json().await;
            assert_eq!(code(&error), -32600, "{path}");
            assert!(error.get("id").is_none() && error["error"]["message"].as_str().is_some());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_body_decides_the_era_and_the_header_is_held_against_it() {
    let server = Server::start().await;
    let mut client = server.http().await;
    let bare = |method: &str| json!({"jsonrpc": "2.0", "id": 7, "method": method});
    let claiming = |version: Value| {
        json!({"jsonrpc": "2.0", "id": 7, "method": "server/discover", "params": {"_meta": {
            "io.modelcontextprotocol/protocolVersion": version,
            "io.modelcontextprotocol/clientCapabilities": {},
        }}})
    };
    let initialize = |version: &str| {
        let mut message = bare("initialize");
        message["params"] = json!({"_meta": meta(version)});
        message
    };
    let answer = json!({"jsonrpc": "2.0", "id": 7, "result": {}});
    let (e, d, v999) = ("2026-07-28", "2025-11-25", "v999");
    let table: Vec<(Value, Option<&str>, &str, u16, i64)> = vec![
        (claiming(json!(e)), Some(e), "server/discover", 200, 0),
        (claiming(json!(e)), Some(d), "server/discover", 400, -32020),
        (claiming(json!(e)), None, "server/discover", 400, -32020),
        (claiming(json!(e)), Some(e), "Server/Discover", 400, -32020),
        (claiming(json!(v999)), Some(e), "server/discover", 400, -32020),
        (claiming(json!(v999)), Some(v999), "server/discover", 400, -32022),
        (claiming(json!(d)), Some(d), "server/discover", 400, -32022),
        (claiming(json!(1)), None, "", 400, -32602),
        (
            json!({"jsonrpc": "2.0", "id": 7, "method": "tools/list", "params": {"_meta": {"io.modelcontextprotocol/protocolVersion": e}}}),
            Some(e),
            "tools/list",
            400,
            -32602,
        ),
        (initialize(e), Some(e), "initialize", 404, -32601),
        (initialize(e), None, "initialize", 400, -32020),
        (initialize(v999), Some(v999), "initialize", 400, -32022),
        (bare("initialize"), Some(e), "", 400, -32020),
        (bare("tools/list"), Some(e), "tools/list", 400, -32602),
        (bare("tools/list"), Some(v999), "", 400, -32022),
        (json!({"jsonrpc": "2.0", "method": "notifications/x"}), Some(e), "", 202, 0),
        (json!({"jsonrpc": "2.0", "method": "notifications/x"}), Some(v999), "", 400, -32022),
        (answer.clone(), Some(e), "", 400, -32600),
        (answer, Some(v999), "", 400, -32022),
        (json!([bare("ping")]), Some(e), "", 400, -32600),
        (json!([bare("ping"), claiming(json!(e))]), None, "", 400, -32600),
        (json!([bare("ping"), claiming(json!(e))]), Some(d), "", 400, -32600),
    ];
    for (body, version, method, status, expected) in table {
        let mut headers = vec![("mcp-method", method)];
        headers.extend(version.map(|version| ("mcp-protocol-version", version)));
        let answer = client.post(&body, &headers).await;
        assert_eq!(answer.status.as_u16(), status, "{body} {version:?} {method}");
        if status == 202 {
            assert_eq!(answer.text().await, "");
            continue;
        }
        let answer = answer.json().await;
        assert_eq!(code(&answer), expected, "{body} {version:?}: {answer}");
        if body.get("result").is_none() && body.is_object() {
            let id = (status != 202 && body.get("id").is_some()).then(|| json!(7));
            assert_eq!(answer.get("id").cloned(), id, "{body}");
        }
        if expected == -32022 {
            assert_eq!(answer.pointer("/error/data/supported"), Some(&json!([e])));
            assert!(answer.pointer("/error/data/requested").is_some_and(Value::is_string));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ladder_of_2026_07_28_answers_with_its_statuses() {
    let server = Server::start().await;
    let mut client = server.http().await;
    let table = [
        (call(1, "echo", &json!({"text": "hi"})), "tools/call", Some("echo"), 200, 0),
        (call(1, "echo", &json!({})), "tools/call", None, 400, -32020),
        (call(1, "echo", &json!({})), "tools/call", Some("Echo"), 400, -32020),
        (modern(1, "resources/read", json!({"uri": "test://a"})), "resources/read", Some("test://a"), 200, 0),
        (modern(1, "resources/read", json!({"uri": "no://"})), "resources/read", Some("no://"), 200, -32602),
        (modern(1, "prompts/get", json!({"name": "p"})), "prompts/get", Some("p"), 200, 0),
        (modern(1, "no/method", json!({})), "no/method", None, 404, -32601),
        (modern(1, "ping", json!({})), "ping", None, 404, -32601),
        (modern(1, "tools/list", json!({"cursor": 1})), "tools/list", None, 200, -32602),
        (modern(1, "tools/list", json!({"cursor": "x"})), "tools/list", None, 200, -32602),
        (call(1, "nope", &json!({})), "tools/call", Some("nope"), 200, -32602),
        (call(1, "panic", &json!({})), "tools/call", Some("panic"), 200, -32603),
        (call(1, "ask", &json!({})), "tools/call", Some("ask"), 400, -32021),
    ];
    for (body, method, name, status, expected) in table {
        let mut headers =
            vec![VERSION, ("mcp-method", method), ("mcp-session-id", "ignored"), ("last-event-id", "1")];
        headers.extend(name.map(|name| ("mcp-name", name)));
        let answer = client.post(&body, &headers).await;
        assert_eq!(answer.status.as_u16(), status, "{body}");
        assert_eq!(answer.header("content-type"), "application/json", "{body}");
        assert_eq!(answer.header("mcp-session-id"), "");
        let answer = answer.json().await;
        assert_eq!(code(&answer), expected, "{answer}");
        assert_eq!(answer["id"], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_repeat_arguments_are_compared_after_the_params() {
    let server = Server::start().await;
    let mut client = server.http().await;
    let table: &[Mirrored<'_>] = &[
        (
            json!({"region": "eu", "floor": 42}),
            &[("mcp-param-region", "eu"), ("mcp-param-floor", "42.0")],
            (200, 0),
        ),
        (json!({"region": "\u{e9}"}), &[("mcp-param-region", "=?base64?w6k=?=")], (200, 0)),
        (json!({"region": null}), &[], (200, 0)),
        (json!({"region": "eu"}), &[], (400, -32020)),
        (json!({"region": "eu"}), &[("mcp-param-region", "EU")], (400, -32020)),
        (json!({}), &[("mcp-param-region", "eu")], (400, -32020)),
    ];
    for (arguments, headers, expected) in table {
        let mut all = called("mirrored").to_vec();
        all.extend_from_slice(headers);
        let answer = client.post(&call(1, "mirrored", arguments), &all).await;
        assert_eq!(refused(answer).await, *expected, "{arguments} {headers:?}");
    }
    // The params come first, and the schema of the method knows better.
    let mut broken = call(1, "mirrored", &json!({"region": "eu"}));
    broken["params"]["arguments"] = json!([]);
    let answer = client.post(&broken, &called("mirrored")).await;
    assert_eq!(refused(answer).await, (200, -32602));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_begins_with_the_first_notification_and_ends_with_the_answer() {
    let server = Server::start().await;
    let mut client = server.http().await;
    let mut message = call(1, "progress", &json!({"tag": "t", "count": 2}));
    message["params"]["_meta"]["progressToken"] = json!("p");
    let mut answer = client.post(&message, &called("progress")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "text/event-stream");
    assert_eq!(answer.header("cache-control"), "no-cache");
    assert_eq!(answer.header("x-accel-buffering"), "no");
    for step in 1..=2 {
        let event = answer.event().await.unwrap();
        assert_eq!(event.event.as_deref(), Some("message"));
        assert_eq!((event.id.as_deref(), event.json()["params"]["progress"].as_i64()), (None, Some(step)));
    }
    server.probe.release("t");
    assert_eq!(answer.event().await.unwrap().json()["result"]["content"][0]["text"], "t");
    assert_eq!(answer.event().await, None);
    // The connection goes on.
    let answer = client.post(&call(2, "echo", &json!({"text": "x"})), &called("echo")).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_call_gets_its_stream_and_comments() {
    let network_limits = NetworkLimits { keep_alive: Duration::from_millis(20), ..NetworkLimits::default() };
    let server = Server::with(Setup { network_limits, ..Setup::default() }).await;
    let mut client = server.http().await;
    let mut answer = client.post(&call(1, "wait", &json!({"tag": "t"})), &called("wait")).await;
    assert_eq!(answer.header("content-type"), "text/event-stream");
    for _ in 0..3 {
        assert!(answer.event().await.unwrap().comment.is_some());
    }
    server.probe.release("t");
    assert_eq!(answer.message().await.unwrap().json()["id"], 1);
    assert_eq!(answer.event().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_cancels_before_the_head_and_after_it() {
    let server = Server::start().await;
    let mut waiting = server.http().await;
    let waits = tokio::spawn(async move {
        waiting.post(&call(1, "wait", &json!({"tag": "before"})), &called("wait")).await;
    });
    assert_eq!(server.probe.next().await, Seen::Started("before".to_owned()));
    waits.abort();
    assert_eq!(server.probe.next().await, Seen::Cancelled("before".to_owned()));

    let mut streaming = server.http().await;
    let mut message = call(1, "progress", &json!({"tag": "after", "count": 1}));
    message["params"]["_meta"]["progressToken"] = json!(0);
    let mut answer = streaming.post(&message, &called("progress")).await;
    answer.event().await.unwrap();
    assert_eq!(server.probe.next().await, Seen::Started("after".to_owned()));
    drop((answer, streaming));
    assert_eq!(server.probe.next().await, Seen::Cancelled("after".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_posted_cancellation_has_no_effect() {
    let server = Server::start().await;
    let mut client = server.http().await;
    let waits = tokio::spawn(async move {
        client.post(&call(1, "wait", &json!({"tag": "t"})), &called("wait")).await.json().await
    });
    assert_eq!(server.probe.next().await, Seen::Started("t".to_owned()));
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    let answer = server.http().await.post(&cancel, &[VERSION]).await;
    assert_eq!(answer.status, 202);
    server.probe.release("t");
    assert_eq!(server.probe.next().await, Seen::Ended("t".to_owned()));
    assert_eq!(waits.await.unwrap()["result"]["content"][0]["text"], "t");
}

pub(super) async fn listen(client: &mut Http, id: i64, more: &[(&str, &str)]) -> Answer {
    let message = modern(id, "subscriptions/listen", json!({"notifications": {"toolsListChanged": true}}));
    let mut answer =
        client.post(&message, &[&[VERSION, ("mcp-method", "subscriptions/listen")], more].concat()).await;
    assert_eq!(answer.header("content-type"), "text/event-stream");
    let acknowledged = answer.message().await.unwrap().json();
    assert_eq!(acknowledged["method"], "notifications/subscriptions/acknowledged");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listen_hears_changes_and_ends_with_its_result_when_the_server_does() {
    let server = Server::start().await;
    let (mut one, mut two) = (server.http().await, server.http().await);
    let mut streams = [listen(&mut one, 5, &[]).await, listen(&mut two, 5, &[]).await];
    server.probe.announce(Audience::Everyone, ServerEvent::PromptsChanged);
    server.probe.announce(Audience::Everyone, ServerEvent::ToolsChanged);
    for stream in &mut streams {
        let change = stream.message().await.unwrap().json();
        assert_eq!(change["method"], "notifications/tools/list_changed");
        assert_eq!(change["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 5);
    }
    assert_eq!(server.host.hub.len(), 2);
    server.stop();
    for stream in &mut streams {
        let end = stream.message().await.unwrap().json();
        assert_eq!((&end["id"], &end["result"]["resultType"]), (&json!(5), &json!("complete")));
        assert_eq!(stream.event().await, None);
    }
    server.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_allowed_origins_may_ask_and_read() {
    let setup = Setup { origins: vec!["https://app.example".to_owned()], ..Setup::default() };
    let server = Server::with(setup).await;
    let origin = ("origin", "https://app.example");
    let asks = [
        origin,
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "Authorization, content-type, MCP-Param-Region, x-evil"),
    ];
    let mut client = server.http().await;
    let answer = client.send("OPTIONS", "/p/team/mcp", &asks, "").await;
    assert_eq!(answer.status, 204);
    assert_eq!(answer.header("access-control-allow-origin"), origin.1);
    assert_eq!(answer.header("access-control-allow-methods"), "POST, GET, DELETE, OPTIONS");
    assert_eq!(
        answer.header("access-control-allow-headers"),
        "authorization, content-type, mcp-param-region"
    );
    let mut headers = called("echo").to_vec();
    headers.push(origin);
    let answer = client.post(&call(1, "echo", &json!({})), &headers).await;
    assert_eq!(answer.header("access-control-allow-origin"), origin.1);
    assert_eq!(answer.header("vary"), "Origin");
    assert!(answer.header("access-control-expose-headers").contains("Mcp-Session-Id"));
    let answer = client.post(&call(1, "echo", &json!({})), &called("echo")).await;
    assert_eq!(answer.header("access-control-allow-origin"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_names_itself_in_a_header() {
    let server = Server::start().await;
    let mut client = server.http().await;
    for (agent, expected) in [(Some("planner:1"), "planner:1"), (None, "default")] {
        let mut headers = called("whoami").to_vec();
        headers.extend(agent.map(|agent| ("tmws-agent", agent)));
        let answer =
            client.post_to("/p/team/mcp", &call(1, "whoami", &json!({})), &headers).await.json().await;
        let scope: Value =
            serde_json::from_str(answer["result"]["content"][0]["text"].as_str().unwrap()).unwrap();
        assert_eq!((&scope["agent"], &scope["project"]), (&json!(expected), &json!("team")));
        assert_eq!(scope["session"], Value::Null);
    }
}
