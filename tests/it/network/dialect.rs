//! The old dialect as a binding: its door, its first frame, its order, its ends. What its methods do is in
//! `dialect_engine`.

use std::collections::HashSet;

use futures_util::SinkExt as _;
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};
use serde_json::{Value, json};
use tmws::{
    limits::{ConnectionLimits, NetworkLimits},
    protocol::ServerEvent,
    schema::dialect::{DialectMethod, verdict},
    tool::Audience,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::{Seen, Server, Setup, Ws, within};

const PATH: &str = "/ws/mcp?agent_id=ws-test-1";

async fn serve() -> Server {
    Server::with(Setup { serves_dialect: true, ..Setup::default() }).await
}

/// An open connection and its session id.
pub(super) async fn open(server: &Server, path: &str, headers: &[(&'static str, &str)]) -> (Ws, String) {
    let mut ws = Ws::connect_with(server.address, path, headers).await.expect("a WebSocket");
    let welcome = ws.receive().await;
    verdict(None, &welcome).unwrap_or_else(|violation| panic!("{violation}: {welcome}"));
    assert_eq!(welcome["method"], "welcome");
    let session = welcome["params"]["session_id"].as_str().unwrap().to_owned();
    (ws, session)
}

fn call(id: &str, tool: &str, arguments: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
}

/// Who the server takes the connection for.
async fn whoami(ws: &mut Ws) -> Value {
    ws.send(&call("who", "whoami", &json!({}))).await;
    let answer = ws.receive().await;
    verdict(Some(DialectMethod::ToolsCall), &answer).unwrap();
    serde_json::from_str(answer["result"]["content"][0]["text"].as_str().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn switched_off_the_path_is_as_unknown_as_any_other() {
    let (off, on) = (Server::start().await, serve().await);
    for method in ["GET", "POST", "OPTIONS", "DELETE"] {
        for path in ["/ws/mcp", PATH, "/p/web/ws/mcp"] {
            let mut http = off.http().await;
            let answer = http.send(method, path, &[], "").await;
            let nowhere = off.http().await.send(method, "/ws/nothing", &[], "").await;
            assert_eq!((answer.status, nowhere.status), (404.try_into().unwrap(), 404.try_into().unwrap()));
            assert_eq!(answer.text().await, nowhere.text().await, "{method} {path}");
        }
    }
    match Ws::connect_with(off.address, PATH, &[]).await {
        Err(Error::Http(answer)) => assert_eq!(answer.status(), 404),
        other => panic!("{:?}", other.map(|_| "it was let in")),
    }
    let metadata = "/.well-known/oauth-protected-resource/ws/mcp";
    assert_eq!(off.http().await.send("GET", metadata, &[], "").await.status, 404);
    for (method, status) in [("GET", 426), ("POST", 405), ("OPTIONS", 204)] {
        assert_eq!(on.http().await.send(method, "/ws/mcp", &[], "").await.status, status, "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_welcome_comes_first_and_names_a_session_of_its_own() {
    let server = serve().await;
    let mut sessions = HashSet::new();
    for _ in 0..3 {
        let (mut ws, session) = open(&server, PATH, &[]).await;
        let scope = whoami(&mut ws).await;
        assert_eq!((&scope["agent"], &scope["session"]), (&json!("ws-test-1"), &json!(session)));
        assert_eq!((&scope["principal"], &scope["project"]), (&json!("local"), &json!("personal")));
        assert!(sessions.insert(session), "a session id came twice");
    }
    let metrics = server.host.metrics.text();
    assert!(metrics.contains("transport=\"dialect\""), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_named_by_query_or_header_and_a_bad_name_is_refused() {
    let server = serve().await;
    for (path, headers, agent) in [
        ("/ws/mcp", vec![], "default"),
        ("/ws/mcp?agent_id=a%3Ab", vec![("x-agent-id", "c")], "a:b"),
        ("/ws/mcp/?agent_id=", vec![("x-agent-id", "c"), ("tmws-agent", "d")], "c"),
        ("/p/alpha/ws/mcp", vec![("tmws-agent", "d")], "d"),
    ] {
        let (mut ws, _) = open(&server, path, &headers).await;
        let scope = whoami(&mut ws).await;
        assert_eq!(scope["agent"], agent, "{path}");
        let project = if path.starts_with("/p/") { "alpha" } else { "personal" };
        assert_eq!(scope["project"], project, "{path}");
    }
    for path in ["/ws/mcp?agent_id=a%20b", "/ws/mcp?agent_id=a&agent_id=b", "/ws/mcp?agent_id=%ff"] {
        match Ws::connect_with(server.address, path, &[]).await {
            Err(Error::Http(answer)) => assert_eq!(answer.status(), 400, "{path}"),
            other => panic!("{path}: {:?}", other.map(|_| "it was let in")),
        }
    }
    // What a page of somebody else may not do at /ws it may not do here.
    match Ws::connect_with(server.address, PATH, &[("origin", "http://evil.example")]).await {
        Err(Error::Http(answer)) => assert_eq!(answer.status(), 403),
        other => panic!("{:?}", other.map(|_| "it was let in")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_subprotocol_is_selected_where_it_is_offered_and_that_of_mcp_is_not() {
    let server = serve().await;
    for (offered, selected) in [
        ("mcp, tmws-dialect-1", Some("tmws-dialect-1")),
        ("mcp", None),
        ("tmws-dialect-1", Some("tmws-dialect-1")),
    ] {
        let mut http = server.http().await;
        let answer = http
            .send(
                "GET",
                PATH,
                &[
                    ("connection", "upgrade"),
                    ("upgrade", "websocket"),
                    ("sec-websocket-version", "13"),
                    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
                    ("sec-websocket-protocol", offered),
                ],
                "",
            )
            .await;
        assert_eq!(answer.status, 101);
        let found = answer.headers.get("sec-websocket-protocol").map(|value| value.to_str().unwrap());
        assert_eq!(found, selected, "{offered}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_comes_but_answers_each_once_and_under_its_id() {
    let server = serve().await;
    let (mut ws, _) = open(&server, PATH, &[]).await;
    // A change that a client of MCP would be told.
    server.probe.announce(Audience::Everyone, ServerEvent::ToolsChanged);
    ws.send(&call("a", "wait", &json!({"tag": "slow"}))).await;
    assert_eq!(server.probe.next().await, Seen::Started("slow".to_owned()));
    ws.send(&call("a", "echo", &json!({"text": "twice"}))).await;
    let refused = ws.receive().await;
    assert_eq!((&refused["id"], &refused["error"]["code"]), (&json!("a"), &json!(-32600)));
    ws.send(&call("b", "progress", &json!({"tag": "told", "count": 3}))).await;
    assert_eq!(server.probe.next().await, Seen::Started("told".to_owned()));
    server.probe.release("told");
    assert_eq!(ws.receive().await["id"], "b");
    ws.send(&call("c", "log", &json!({"tag": "logged"}))).await;
    assert_eq!(ws.receive().await["id"], "c");
    ws.send(&call("d", "panic", &json!({}))).await;
    let failed = ws.receive().await;
    verdict(Some(DialectMethod::ToolsCall), &failed).unwrap();
    assert_eq!((&failed["id"], &failed["error"]["code"]), (&json!("d"), &json!(-32603)));
    server.probe.release("slow");
    assert_eq!(ws.receive().await["id"], "a");
    // Ids that are free again, and integers.
    for id in [json!("a"), json!(7), json!(12_345_678_901_234_567_890_u64)] {
        ws.send(&json!({"jsonrpc": "2.0", "id": id, "method": "ping"})).await;
        let pong = ws.receive().await;
        verdict(Some(DialectMethod::Ping), &pong).unwrap();
        assert_eq!((&pong["id"], &pong["result"]), (&id, &json!({})));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cancelled_is_not_answered_and_leaving_cancels_all() {
    let server = serve().await;
    let (mut ws, _) = open(&server, PATH, &[]).await;
    let cancel = |id: &str| json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
    ws.send(&call("a", "wait", &json!({"tag": "given-up"}))).await;
    assert_eq!(server.probe.next().await, Seen::Started("given-up".to_owned()));
    ws.send(&cancel("a")).await;
    assert_eq!(server.probe.next().await, Seen::Cancelled("given-up".to_owned()));
    // The id is free at once, and the answer to it is the second one's.
    ws.send(&call("a", "echo", &json!({"text": "again"}))).await;
    let answer = ws.receive().await;
    assert_eq!((&answer["id"], &answer["result"]["content"][0]["text"]), (&json!("a"), &json!("again")));
    ws.send(&call("b", "wait", &json!({"tag": "left"}))).await;
    assert_eq!(server.probe.next().await, Seen::Started("left".to_owned()));
    drop(ws);
    assert_eq!(server.probe.next().await, Seen::Cancelled("left".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_are_worked_on_at_once_wait_for_their_turn() {
    let limits = ConnectionLimits { inflight_requests_max: 2, ..ConnectionLimits::default() };
    let server =
        Server::with(Setup { serves_dialect: true, connection_limits: limits, ..Setup::default() }).await;
    let (mut ws, _) = open(&server, PATH, &[]).await;
    for tag in ["1", "2", "3", "4"] {
        ws.send(&call(tag, "wait", &json!({"tag": tag}))).await;
    }
    ws.send(&json!({"jsonrpc": "2.0", "id": "5", "method": "task/create"})).await;
    let begun: HashSet<String> = [server.probe.next().await, server.probe.next().await]
        .map(|seen| match seen {
            Seen::Started(tag) => tag,
            other => panic!("{other:?}"),
        })
        .into();
    assert_eq!(begun, ["1", "2"].map(str::to_owned).into());
    for tag in ["1", "2", "3", "4"] {
        server.probe.release(tag);
    }
    let mut answered = HashSet::new();
    for _ in 0..5 {
        answered.insert(ws.receive().await["id"].as_str().unwrap().to_owned());
    }
    assert_eq!(answered, ["1", "2", "3", "4", "5"].map(str::to_owned).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_server_lets_calls_answer_and_closes() {
    let server = serve().await;
    let (mut ws, _) = open(&server, PATH, &[]).await;
    ws.send(&call("a", "wait", &json!({"tag": "last"}))).await;
    assert_eq!(server.probe.next().await, Seen::Started("last".to_owned()));
    server.stop();
    server.probe.release("last");
    assert_eq!(ws.receive().await["result"]["content"][0]["text"], "last");
    assert_eq!(ws.closed().await.map(|(code, _)| code), Some(1001));
    server.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_end_cuts_off_is_answered_too() {
    let server = serve().await;
    let (mut ws, _) = open(&server, PATH, &[]).await;
    ws.send(&call("a", "wait", &json!({"tag": "stuck"}))).await;
    assert_eq!(server.probe.next().await, Seen::Started("stuck".to_owned()));
    server.stop();
    server.cut_off();
    let answer = ws.receive().await;
    verdict(Some(DialectMethod::ToolsCall), &answer).unwrap();
    assert!(answer["error"].is_object() || answer["result"]["isError"] == true, "{answer}");
    assert_eq!(ws.closed().await.map(|(code, _)| code), Some(1001));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breach_closes_with_the_code_for_it() {
    let limits = ConnectionLimits { frame_in_bytes_max: 4 << 10, ..ConnectionLimits::default() };
    let server =
        Server::with(Setup { serves_dialect: true, connection_limits: limits, ..Setup::default() }).await;
    let table = [(Message::binary(vec![1, 2, 3]), 1003), (Message::text("x".repeat((4 << 10) + 1)), 1009)];
    for (message, code) in table {
        let (mut ws, _) = open(&server, PATH, &[]).await;
        ws.stream.send(message).await.unwrap();
        assert_eq!(ws.closed().await.map(|(code, _)| code), Some(code));
    }
    let (mut ws, _) = open(&server, PATH, &[]).await;
    ws.stream.get_mut().write_all(&[0x81, 0x81, 0, 0, 0, 0, 0xff]).await.unwrap();
    assert_eq!(ws.closed().await.map(|(code, _)| code), Some(1007));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_too_long_for_a_frame_is_not_repeated() {
    let server = serve().await;
    let (mut ws, _) = open(&server, PATH, &[]).await;
    let limit = server.host.connection_limits.frame_out_bytes_max;
    for method in ["ping", "tools/list", "nothing"] {
        ws.send(&json!({"jsonrpc": "2.0", "id": "x".repeat(limit), "method": method})).await;
        let answer = ws.receive().await;
        assert_eq!((answer.get("id"), &answer["error"]["code"]), (None, &json!(-32600)), "{method}");
    }
}

/// Parts that soups of frames are made of.
fn frames() -> impl Strategy<Value = String> {
    let ids = prop_oneof![
        Just(json!("a")),
        Just(json!(1)),
        Just(json!(1.5)),
        Just(json!(null)),
        Just(json!({})),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,8}".prop_map(Value::from),
    ];
    let methods = prop_oneof![
        4 => proptest::sample::select(DialectMethod::ALL.to_vec()).prop_map(|method| method.as_str().to_owned()),
        2 => proptest::sample::select(vec![
            "initialize", "task/create", "notifications/cancelled", "notifications/initialized", "resources/read",
            "server/discover", "subscriptions/listen", "logging/setLevel", "welcome",
        ])
        .prop_map(str::to_owned),
        1 => "\\PC{0,12}",
    ];
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec(("[a-z_]{0,9}", inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    });
    let keys = proptest::sample::select(vec![
        "query",
        "pattern",
        "content",
        "tags",
        "importance",
        "limit",
        "name",
        "arguments",
        "session_id",
        "cursor",
        "requestId",
        "_meta",
        "use_cache",
        "input",
    ]);
    let params = proptest::collection::vec((keys, value.clone()), 0..4).prop_map(|members| {
        Value::Object(members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
    });
    let message =
        (ids, methods, prop_oneof![3 => params, 1 => value.clone()]).prop_map(|(id, method, params)| {
            json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string()
        });
    prop_oneof![
        6 => message.clone(),
        2 => (message, any::<prop::sample::Index>(), "\\PC{0,3}").prop_map(|(text, at, with)| {
            let at = text.floor_char_boundary(at.index(text.len()));
            format!("{}{with}{}", &text[..at], text[at..].chars().skip(1).collect::<String>())
        }),
        1 => value.prop_map(|value| value.to_string()),
        1 => "\\PC{0,40}",
        1 => Just(String::new()),
    ]
}

/// Whatever is said, the connection goes on, and all that comes is what the dialect's schema allows.
#[tokio::test(flavor = "multi_thread")]
async fn no_text_ends_a_connection_or_gets_an_answer_that_is_none() {
    let limits = NetworkLimits { calls_per_second: 0, ..NetworkLimits::default() };
    let server =
        Server::with(Setup { serves_dialect: true, network_limits: limits, ..Setup::default() }).await;
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let (mut ws, _) = open(&server, PATH, &[]).await;
    for round in 0..1_500 {
        let text = frames().new_tree(&mut runner).unwrap().current();
        ws.stream.send(Message::text(text.clone())).await.unwrap();
        let probe = format!("probe-{round}");
        ws.send(&json!({"jsonrpc": "2.0", "id": probe, "method": "ping"})).await;
        let mut answers = 0;
        loop {
            let frame = ws.receive().await;
            if frame["id"] == probe {
                assert_eq!(frame["result"], json!({}), "{text}");
                break;
            }
            answers += 1;
            let method = serde_json::from_str::<Value>(&text)
                .ok()
                .and_then(|message| DialectMethod::parse(message["method"].as_str()?));
            verdict(method, &frame).unwrap_or_else(|violation| panic!("{text}\n{violation}: {frame}"));
        }
        assert!(answers <= 1, "{text}: {answers} answers");
    }
    let metrics = server.host.metrics.text();
    let violations = metrics.lines().find(|line| line.starts_with("tmws_schema_violations")).unwrap();
    assert!(violations.ends_with(" 0"), "{violations}");
}

/// Bytes that are no WebSocket, or a broken one: the connection ends with the code that is due, never with 1011, and
/// the next one is served.
#[tokio::test(flavor = "multi_thread")]
async fn no_bytes_hurt_the_server() {
    let server = serve().await;
    let mut runner = TestRunner::new_with_rng(
        Config::default(),
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let soups = prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..64),
        // Masked frames of any opcode and length.
        (any::<u8>(), 0_u8..126, proptest::collection::vec(any::<u8>(), 0..130)).prop_map(
            |(first, length, payload)| [&[first, 0x80 | length, 0, 0, 0, 0][..], &payload].concat()
        ),
    ];
    let handshake = format!(
        "GET {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    for _ in 0..300 {
        let soup = soups.new_tree(&mut runner).unwrap().current();
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(handshake.as_bytes()).await.unwrap();
        stream.write_all(&soup).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut said = Vec::new();
        within("the end", stream.read_to_end(&mut said)).await.unwrap();
        let head = said.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("an answer") + 4;
        let codes = close_codes(&said[head..]);
        assert!(
            codes.iter().all(|code| [1000, 1002, 1003, 1007, 1009].contains(code) || *code >= 3000),
            "{soup:?}: {codes:?}"
        );
    }
    let (mut ws, _) = open(&server, PATH, &[]).await;
    assert_eq!(whoami(&mut ws).await["agent"], "ws-test-1");
}

/// The codes of the close frames among `bytes`, frames as servers send them.
fn close_codes(mut bytes: &[u8]) -> Vec<u16> {
    let mut codes = Vec::new();
    while let [first, length, rest @ ..] = bytes {
        let (length, rest) = match length {
            126 => (usize::from(u16::from_be_bytes([rest[0], rest[1]])), &rest[2..]),
            short => (usize::from(*short), rest),
        };
        let (payload, rest) = rest.split_at(length);
        match (first & 0x0f, payload) {
            (8, [high, low, ..]) => codes.push(u16::from_be_bytes([*high, *low])),
            (1, text) => {
                let frame: Value = serde_json::from_slice(text).unwrap();
                assert!(
                    verdict(None, &frame).is_ok() || frame["id"].is_string() || frame["id"].is_number(),
                    "{frame}"
                );
            }
            _ => {}
        }
        bytes = rest;
    }
    codes
}
