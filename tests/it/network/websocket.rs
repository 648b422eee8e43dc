//! The WebSocket binding: opening, framing, closing, and MCP on it.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::SinkExt as _;
use serde_json::{Value, json};
use tmws::{
    limits::{ConnectionLimits, NetworkLimits},
    protocol::Now,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::Message;

use super::{Http, Seen, Server, Setup, Ws, within};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The answer to [`KEY`] that RFC 6455 prints.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn initialize(id: i64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}})
}

fn call(id: i64, tool: &str, arguments: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
}

/// A WebSocket whose legacy session stands.
async fn open(server: &Server) -> Ws {
    let mut ws = server.ws().await;
    ws.send(&initialize(0)).await;
    assert_eq!(ws.receive().await["result"]["protocolVersion"], "2025-11-25");
    ws.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    ws
}

/// A frame as a client sends it, under a mask that changes nothing.
fn frame(first_byte: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first_byte];
    match payload.len() {
        short @ 0..126 => bytes.push(0x80 | short as u8),
        medium @ 126..65_536 => {
            bytes.push(0xfe);
            bytes.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        long => {
            bytes.push(0xff);
            bytes.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(payload);
    bytes
}

fn text_frame(message: &Value) -> Vec<u8> {
    frame(0x81, message.to_string().as_bytes())
}

async fn write(ws: &mut Ws, bytes: &[u8]) {
    ws.stream.get_mut().write_all(bytes).await.unwrap();
}

/// Waits for something that no message tells of.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    within(what, async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

fn refused(server: &Server, rule: &str) -> bool {
    server.host.metrics.text().lines().any(|line| {
        line.contains("refused") && line.contains(&format!("rule=\"{rule}\"")) && !line.ends_with(" 0")
    })
}

/// A header with another value, or left out.
type Replaced<'a> = Option<(&'a str, Option<&'a str>)>;

/// The headers of a good handshake, with one of them replaced (or left out) and some added.
fn handshake<'a>(
    replaced: Option<(&str, Option<&'a str>)>,
    added: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    let good = [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", KEY),
    ];
    let mut headers: Vec<(&str, &str)> = good
        .into_iter()
        .filter_map(|(name, value)| match replaced {
            Some((other, replacement)) if other == name => replacement.map(|value| (name, value)),
            _ => Some((name, value)),
        })
        .collect();
    headers.extend_from_slice(added);
    headers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_is_answered_by_its_headers() {
    let server = Server::start().await;
    let cases: &[(&str, Replaced<'_>, u16)] = &[
        ("as it should be", None, 101),
        ("among other tokens", Some(("connection", Some("keep-alive, UPGRADE"))), 101),
        ("in capitals", Some(("upgrade", Some("WebSocket"))), 101),
        ("no Connection", Some(("connection", None)), 426),
        ("another Connection", Some(("connection", Some("keep-alive"))), 426),
        ("no Upgrade", Some(("upgrade", None)), 426),
        ("another protocol", Some(("upgrade", Some("h2c"))), 426),
        ("no version", Some(("sec-websocket-version", None)), 426),
        ("an old version", Some(("sec-websocket-version", Some("8"))), 426),
        ("two versions", Some(("sec-websocket-version", Some("13, 8"))), 426),
        ("no key", Some(("sec-websocket-key", None)), 400),
        ("a short key", Some(("sec-websocket-key", Some("c2hvcnQ="))), 400),
        ("a key that is no base64", Some(("sec-websocket-key", Some("!!!!!!!!!!!!!!!!!!!!!!=="))), 400),
    ];
    for (what, replaced, status) in cases {
        let mut client = server.http().await;
        let answer = client.send("GET", "/ws", &handshake(*replaced, &[]), "").await;
        assert_eq!(answer.status, *status, "{what}");
        match status {
            101 => {
                assert_eq!(answer.header("sec-websocket-accept"), ACCEPT, "{what}");
                assert_eq!(answer.header("upgrade"), "websocket", "{what}");
                assert_eq!(answer.header("connection"), "Upgrade", "{what}");
            }
            426 => {
                assert_eq!(answer.header("sec-websocket-version"), "13", "{what}");
                assert_eq!(answer.header("upgrade"), "websocket", "{what}");
            }
            _ => assert!(answer.text().await.contains("Sec-WebSocket-Key"), "{what}"),
        }
    }
    let mut client = server.http().await;
    let twice = handshake(None, &[("sec-websocket-key", KEY)]);
    assert_eq!(client.send("GET", "/ws", &twice, "").await.status, 400);
    let mut client = server.http().await;
    assert_eq!(client.send("GET", "/ws", &handshake(None, &[]), "a body").await.status, 400);
    let mut client = server.http().await;
    let answer = client.send("POST", "/ws", &handshake(None, &[]), "").await;
    assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, "GET, OPTIONS"));
    assert!(refused(&server, "websocket-handshake"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_subprotocol_mcp_is_ever_selected_and_extensions_are_declined() {
    let server = Server::start().await;
    let cases: &[(&[&str], &str)] = &[
        (&[], ""),
        (&["mcp"], "mcp"),
        (&["graphql-ws, mcp"], "mcp"),
        (&["graphql-ws", "mcp"], "mcp"),
        (&["tmws.token.c2VjcmV0,mcp"], "mcp"),
        (&["tmws.token.c2VjcmV0"], ""),
        (&["MCP"], ""),
        (&["mcp.version.2025-11-25"], ""),
        (&[","], ""),
    ];
    for (lines, selected) in cases {
        let mut headers =
            handshake(None, &[("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")]);
        headers.extend(lines.iter().map(|line| ("sec-websocket-protocol", *line)));
        let answer = server.http().await.send("GET", "/ws", &headers, "").await;
        assert_eq!(answer.status, 101, "{lines:?}");
        assert_eq!(answer.header("sec-websocket-protocol"), *selected, "{lines:?}");
        assert_eq!(answer.header("sec-websocket-extensions"), "", "{lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_with_the_handshake_is_not_lost() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let mut bytes = format!(
        "GET /ws HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n",
        server.address
    )
    .into_bytes();
    bytes.extend(text_frame(&initialize(7)));
    stream.write_all(&bytes).await.unwrap();
    let mut seen = Vec::new();
    within("the answer", async {
        while !seen.windows(7).any(|window| window == br#""id":7,"#) {
            assert!(stream.read_buf(&mut seen).await.unwrap() > 0, "it is open");
        }
    })
    .await;
    assert!(seen.starts_with(b"HTTP/1.1 101"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_breach_closes_with_its_code() {
    let limits = ConnectionLimits { frame_in_bytes_max: 1_000, ..ConnectionLimits::default() };
    let server = Server::with(Setup { connection_limits: limits, ..Setup::default() }).await;
    let long = [frame(0x01, &[b'x'; 600]), frame(0x80, &[b'x'; 600])].concat();
    let cases: &[(&str, Vec<u8>, u16, &str)] = &[
        ("binary", frame(0x82, b"{}"), 1003, "binary-frame"),
        ("fragmented binary", [frame(0x02, b"{"), frame(0x80, b"}")].concat(), 1003, "binary-frame"),
        ("not UTF-8", frame(0x81, b"\"\xff\""), 1007, "invalid-utf8"),
        (
            "not UTF-8 across fragments",
            [frame(0x01, b"\xe2"), frame(0x80, b"x")].concat(),
            1007,
            "invalid-utf8",
        ),
        ("too large", frame(0x81, &[b'x'; 1_001]), 1009, "oversized-frame"),
        ("too large in fragments", long, 1009, "oversized-frame"),
        (
            "announced too large",
            vec![0x81, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
            1009,
            "oversized-frame",
        ),
        ("unmasked", vec![0x81, 0x02, b'{', b'}'], 1002, "websocket-protocol"),
        ("compressed", frame(0xc1, b"{}"), 1002, "websocket-protocol"),
        ("a continuation of nothing", frame(0x80, b"x"), 1002, "websocket-protocol"),
        ("an opcode that is none", frame(0x83, b"x"), 1002, "websocket-protocol"),
        ("a fragmented ping", frame(0x09, b"x"), 1002, "websocket-protocol"),
        ("a long ping", frame(0x89, &[0; 126]), 1002, "websocket-protocol"),
        ("a close of one byte", frame(0x88, b"x"), 1002, "websocket-protocol"),
    ];
    for (what, bytes, code, rule) in cases {
        let mut ws = server.ws().await;
        write(&mut ws, bytes).await;
        let closed = ws.closed().await;
        assert_eq!(closed.as_ref().map(|(code, _)| *code), Some(*code), "{what}: {closed:?}");
        assert!(ws.next().await.is_none_or(|more| more.is_err()), "{what}: nothing follows");
        assert!(refused(&server, rule), "{what}");
    }
    // The edge itself is let in (and is no JSON-RPC, which is answered).
    let mut ws = open(&server).await;
    let filler = "x".repeat(1_000 - r#"{"jsonrpc":"2.0","id":1,"method":""}"#.len());
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": filler}).to_string();
    assert_eq!(message.len(), 1_000);
    write(&mut ws, &frame(0x81, message.as_bytes())).await;
    assert_eq!(ws.receive().await["error"]["code"], -32601);
    // Whoever closes is answered with what was said.
    write(&mut ws, &frame(0x88, &[0x03, 0xe8])).await;
    assert_eq!(ws.closed().await.map(|(code, _)| code), Some(1000));
    until("all have left", || server.host.hub.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fragments_are_put_together_around_control_frames() {
    let server = Server::start().await;
    let mut ws = open(&server).await;
    let message = call(1, "echo", &json!({"text": "zwölf Boxkämpfer"})).to_string().into_bytes();
    // Cut inside a character, too.
    let cut = message.iter().position(|byte| *byte >= 0x80).unwrap() + 1;
    let bytes = [
        frame(0x01, &message[..10]),
        frame(0x89, b"first"),
        frame(0x00, &message[10..cut]),
        frame(0x00, b""),
        frame(0x8a, b"unasked"),
        frame(0x89, b"second"),
        frame(0x80, &message[cut..]),
    ]
    .concat();
    // Byte by byte, so that no frame comes whole.
    for byte in bytes {
        write(&mut ws, &[byte]).await;
    }
    let mut pongs = Vec::new();
    let answer = loop {
        match ws.next().await.unwrap().unwrap() {
            Message::Pong(bytes) => pongs.push(bytes),
            Message::Text(text) => break serde_json::from_str::<Value>(&text).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(pongs, ["first", "second"]);
    assert_eq!(answer["result"]["content"][0]["text"], "zwölf Boxkämpfer");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_speaks_both_eras_and_bad_json_is_answered_by_era() {
    let server = Server::start().await;
    let mut ws = server.ws().await;
    let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {}});
    let mut modern = call(1, "whoami", &json!({}));
    modern["params"]["_meta"] = meta;
    ws.send(&modern).await;
    let answer = ws.receive().await;
    assert_eq!(answer["result"]["resultType"], "complete", "{answer}");
    let scope: Value =
        serde_json::from_str(answer["result"]["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(scope["session"], Value::Null);

    ws.stream.send(Message::text("{")).await.unwrap();
    assert_eq!(ws.receive().await["error"]["code"], -32700);

    ws.send(&initialize(2)).await;
    assert_eq!(ws.receive().await["id"], 2);
    ws.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    ws.send(&call(3, "whoami", &json!({}))).await;
    let answer = ws.receive().await;
    let scope: Value =
        serde_json::from_str(answer["result"]["content"][0]["text"].as_str().unwrap()).unwrap();
    assert!(scope["session"].as_str().is_some_and(|session| session.len() >= 22), "{scope}");
    assert!(answer["result"].get("resultType").is_none());
    modern["id"] = json!(4);
    ws.send(&modern).await;
    assert_eq!(ws.receive().await["result"]["resultType"], "complete");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_answered_with_single_frames() {
    let server = Server::start().await;
    let mut ws = server.ws().await;
    let mut hello = initialize(0);
    hello["params"]["protocolVersion"] = json!("2025-03-26");
    ws.send(&hello).await;
    assert_eq!(ws.receive().await["result"]["protocolVersion"], "2025-03-26");
    ws.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    ws.send(&json!([
        {"jsonrpc": "2.0", "id": 1, "method": "ping"},
        call(2, "echo", &json!({"text": "two"})),
    ]))
    .await;
    assert_eq!(ws.receive().await, json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
    assert_eq!(ws.receive().await["id"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_in_one_write_is_answered_in_order() {
    let server = Server::start().await;
    let mut ws = open(&server).await;
    let count = 500;
    let burst: Vec<u8> =
        (1..=count).flat_map(|id| text_frame(&call(id, "echo", &json!({"text": id.to_string()})))).collect();
    write(&mut ws, &burst).await;
    for id in 1..=count {
        let answer = ws.receive().await;
        assert_eq!(answer["id"], id);
        assert_eq!(answer["result"]["content"][0]["text"], id.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_message_after_a_small_one_and_back_is_taken_whole() {
    let server = Server::start().await;
    let mut ws = open(&server).await;
    for (id, bytes) in [(1, 10), (2, 3 << 19), (3, 20), (4, 20 << 10), (5, 100)] {
        let size = if bytes > 1 << 20 { 100 } else { bytes };
        let mut message = call(id, "echo", &json!({"text": "y".repeat(size)}));
        message["params"]["arguments"]["rest"] = json!("z".repeat(bytes - size));
        ws.send(&message).await;
        let answer = ws.receive().await;
        assert_eq!(answer["id"], id);
        assert_eq!(answer["result"]["content"][0]["text"].as_str().unwrap().len(), size);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_is_stopped_and_never_answered() {
    let server = Server::start().await;
    let mut ws = open(&server).await;
    ws.send(&call(1, "wait", &json!({"tag": "a"}))).await;
    assert_eq!(server.probe.next().await, Seen::Started("a".into()));
    ws.send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}))
        .await;
    assert_eq!(server.probe.next().await, Seen::Cancelled("a".into()));
    ws.send(&json!({"jsonrpc": "2.0", "id": 2, "method": "ping"})).await;
    assert_eq!(ws.receive().await["id"], 2);
}

/// What frees room, or belongs to a call that has some, does not wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn cancellations_and_answers_are_heard_while_the_connection_is_full_of_calls() {
    let limits = ConnectionLimits { inflight_requests_max: 2, ..ConnectionLimits::default() };
    let server = Server::with(Setup { connection_limits: limits, ..Setup::default() }).await;
    let mut ws = server.ws().await;
    let mut initialize = initialize(0);
    initialize["params"]["capabilities"] = json!({"elicitation": {}});
    ws.send(&initialize).await;
    ws.receive().await;
    ws.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    ws.send(&call(1, "ask", &json!({}))).await;
    let ask = ws.receive().await;
    for id in 2..=4 {
        ws.send(&call(id, "wait", &json!({"tag": id.to_string()}))).await;
    }
    for id in 2..=3 {
        assert_eq!(server.probe.next().await, Seen::Started(id.to_string()));
    }
    ws.send(&json!({"jsonrpc": "2.0", "id": ask["id"], "result": {"action": "decline"}})).await;
    assert_eq!(ws.receive().await["id"], 1);
    ws.send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}}))
        .await;
    let mut seen = [server.probe.next().await, server.probe.next().await];
    seen.sort_by_key(|seen| matches!(seen, Seen::Started(_)));
    assert_eq!(seen, [Seen::Cancelled("2".into()), Seen::Started("4".into())]);
    for id in 3..=4 {
        server.probe.release(&id.to_string());
        assert_eq!(ws.receive().await["id"], id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_leaves_cancels_their_calls_however_they_leave() {
    let server = Server::start().await;
    for (tag, with_close) in [("close", true), ("vanish", false)] {
        let mut ws = open(&server).await;
        ws.send(&call(1, "wait", &json!({"tag": tag}))).await;
        assert_eq!(server.probe.next().await, Seen::Started(tag.into()));
        if with_close {
            ws.stream.close(None).await.unwrap();
        }
        drop(ws);
        assert_eq!(server.probe.next().await, Seen::Cancelled(tag.into()));
        until("it is out of the register", || server.host.hub.is_empty()).await;
    }
    until("its session is counted no more", || {
        let text = server.host.metrics.text();
        text.lines()
            .any(|line| line.contains("sessions{") && line.contains("websocket") && line.ends_with(" 0"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_are_answered_while_the_connection_is_full_of_calls() {
    let limits = ConnectionLimits { inflight_requests_max: 2, ..ConnectionLimits::default() };
    let server = Server::with(Setup { connection_limits: limits, ..Setup::default() }).await;
    let mut ws = open(&server).await;
    for id in 1..=6 {
        ws.send(&call(id, "wait", &json!({"tag": id.to_string()}))).await;
    }
    for id in 1..=2 {
        assert_eq!(server.probe.next().await, Seen::Started(id.to_string()));
    }
    ws.stream.send(Message::Ping("still there?".into())).await.unwrap();
    assert_eq!(ws.next().await.unwrap().unwrap(), Message::Pong("still there?".into()));
    for id in 1..=6 {
        server.probe.release(&id.to_string());
    }
    let mut answered: Vec<i64> = Vec::new();
    for _ in 1..=6 {
        answered.push(ws.receive().await["id"].as_i64().unwrap());
    }
    answered.sort_unstable();
    assert_eq!(answered, [1, 2, 3, 4, 5, 6]);
    // Whoever vanishes from a full connection is noticed, too.
    for id in 7..=10 {
        ws.send(&call(id, "wait", &json!({"tag": id.to_string()}))).await;
    }
    drop(ws);
    until("it is out of the register", || server.host.hub.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_not_read_and_then_cut_off() {
    let network = NetworkLimits { write_stall: Duration::from_millis(300), ..NetworkLimits::default() };
    let server = Server::with(Setup { network_limits: network, ..Setup::default() }).await;
    let mut ws = open(&server).await;
    let message = text_frame(&call(1, "echo", &json!({"text": "x".repeat(500 << 10)})));
    let stream = ws.stream.get_mut();
    let mut taken = 0_usize;
    // Only what fits between the two systems' buffers and a bounded queue is taken of what it sends.
    let ended = within("the end", async {
        loop {
            match stream.write(&message[taken % message.len()..]).await {
                Ok(count) => taken += count,
                Err(error) => break error,
            }
        }
    })
    .await;
    assert!(taken < 64 << 20, "{taken} bytes were taken, {ended}");
    assert!(refused(&server, "slow-reader"));
    until("it is out of the register", || server.host.hub.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_answers_what_runs_takes_nothing_new_and_closes_with_1001() {
    let server = Server::start().await;
    let mut busy = open(&server).await;
    let mut idle = open(&server).await;
    busy.send(&call(1, "wait", &json!({"tag": "a"}))).await;
    assert_eq!(server.probe.next().await, Seen::Started("a".into()));
    // Once this is answered, the round that began the call is over: the next one sees the end before it reads.
    busy.stream.send(Message::Ping("".into())).await.unwrap();
    assert_eq!(busy.next().await.unwrap().unwrap(), Message::Pong("".into()));
    server.stop();
    assert_eq!(idle.closed().await.map(|(code, _)| code), Some(1001));
    busy.send(&call(2, "wait", &json!({"tag": "b"}))).await;
    busy.stream.send(Message::Ping("x".into())).await.unwrap();
    assert_eq!(busy.next().await.unwrap().unwrap(), Message::Pong("x".into()));
    server.probe.release("a");
    assert_eq!(server.probe.next().await, Seen::Ended("a".into()));
    assert_eq!(busy.receive().await["id"], 1);
    assert_eq!(busy.closed().await.map(|(code, _)| code), Some(1001));
    server.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_grace_is_over_calls_are_cancelled_and_everybody_is_closed() {
    let server = Server::start().await;
    let mut ws = open(&server).await;
    ws.send(&call(1, "wait", &json!({"tag": "a"}))).await;
    assert_eq!(server.probe.next().await, Seen::Started("a".into()));
    server.stop();
    server.cut_off();
    assert_eq!(server.probe.next().await, Seen::Cancelled("a".into()));
    assert_eq!(ws.closed().await.map(|(code, _)| code), Some(1001));
    until("it is out of the register", || server.host.hub.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_client_is_pinged_and_stays_while_it_answers() {
    let network = NetworkLimits {
        ping_interval: Duration::from_millis(40),
        idle_timeout: Duration::from_millis(400),
        ..NetworkLimits::default()
    };
    let server = Server::with(Setup { network_limits: network, ..Setup::default() }).await;
    let mut silent = server.ws().await;
    let mut ws = open(&server).await;
    // Long enough to have been closed without its pongs.
    for _ in 0..20 {
        assert_eq!(ws.next().await.unwrap().unwrap(), Message::Ping("".into()));
        ws.stream.flush().await.unwrap();
    }
    ws.send(&json!({"jsonrpc": "2.0", "id": 1, "method": "ping"})).await;
    assert_eq!(ws.receive().await["id"], 1);
    // The other one reads and says nothing.
    let mut bytes = Vec::new();
    within("its close", silent.stream.get_mut().read_to_end(&mut bytes)).await.unwrap();
    let pings = bytes.chunks(2).take_while(|frame| frame == &[0x89, 0]).count();
    assert!(pings >= 2, "{bytes:?}");
    assert_eq!(bytes[2 * pings], 0x88);
    assert_eq!(bytes[2 * pings + 2..2 * pings + 4], 1001_u16.to_be_bytes());
    assert!(refused(&server, "idle"));
}

static CLOCK_FAILS: AtomicBool = AtomicBool::new(false);

fn fragile_clock() -> Now {
    assert!(!CLOCK_FAILS.swap(false, Ordering::AcqRel), "asked to");
    super::now()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_of_ours_closes_that_connection_with_1011() {
    let server = Server::with(Setup { clock: fragile_clock, ..Setup::default() }).await;
    let mut other = open(&server).await;
    let mut ws = open(&server).await;
    ws.send(&call(1, "panic", &json!({}))).await;
    assert_eq!(ws.receive().await["error"]["code"], -32603, "a call that panics is only that call");
    CLOCK_FAILS.store(true, Ordering::Release);
    ws.send(&json!({"jsonrpc": "2.0", "id": 2, "method": "ping"})).await;
    assert_eq!(ws.closed().await.map(|(code, _)| code), Some(1011));
    other.send(&json!({"jsonrpc": "2.0", "id": 2, "method": "ping"})).await;
    assert_eq!(other.receive().await["id"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_leave_nothing_behind() {
    let server = Server::start().await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let base = tasks();
    for round in 0..10 {
        let mut open_ones = Vec::new();
        for _ in 0..20 {
            open_ones.push(open(&server).await);
        }
        assert_eq!(server.host.hub.len(), 20, "round {round}");
        drop(open_ones);
        until("all have left", || server.host.hub.is_empty()).await;
    }
    until("all tasks have ended", || tasks() <= base).await;
    let mut http: Http = server.http().await;
    assert_eq!(http.send("GET", "/healthz", &[], "").await.status, 200);
}
