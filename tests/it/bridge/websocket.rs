//! Over WebSocket.

use std::net::{TcpListener, TcpStream};

use super::{
    Bridge, INITIALIZE, INITIALIZED, PATIENCE, accept, call, empty_answer, initialize_answer, listen,
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::time::Duration;
use tokio_tungstenite::tungstenite::{
    Message, WebSocket, accept_hdr,
    handshake::server::{Request, Response},
    http::HeaderValue,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

/// The server's end of one connection, and the handshake's request.
struct Peer {
    socket: WebSocket<TcpStream>,
    request: Request,
}

impl Peer {
    #[expect(clippy::result_large_err, reason = "the handshake's own type")]
    fn accept(listener: &TcpListener) -> Self {
        let mut request = None;
        let socket = accept_hdr(accept(listener), |seen: &Request, mut response: Response| {
            request = Some(seen.clone());
            response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("mcp"));
            Ok(response)
        })
        .unwrap();
        Self { socket, request: request.unwrap() }
    }

    /// The next text frame.
    fn receive_text(&mut self) -> String {
        loop {
            match self.socket.read().unwrap() {
                Message::Text(text) => return text.to_string(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("no text: {other:?}"),
            }
        }
    }

    fn receive(&mut self) -> Value {
        serde_json::from_str(&self.receive_text()).unwrap()
    }

    fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).unwrap();
    }

    fn header(&self, name: &str) -> &str {
        self.request.headers().get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A bridge whose host has opened a session.
fn open() -> (Bridge, Peer, TcpListener) {
    let (listener, address) = listen();
    let mut bridge = Bridge::start(&[&format!("ws://{address}")]);
    bridge.send(INITIALIZE);
    let mut peer = Peer::accept(&listener);
    assert_eq!(peer.receive_text(), INITIALIZE);
    peer.send(&initialize_answer(&json!(0), "2025-11-25"));
    assert_eq!(bridge.receive()["result"]["protocolVersion"], "2025-11-25");
    bridge.send(INITIALIZED);
    assert_eq!(peer.receive_text(), INITIALIZED);
    (bridge, peer, listener)
}

#[test]
fn the_handshake_names_project_agent_and_token() {
    let (listener, address) = listen();
    let _bridge = Bridge::start(&[&format!("ws://x:se%63ret@{address}")]);
    let peer = Peer::accept(&listener);
    let path = peer.request.uri().path();
    assert!(path.starts_with("/p/p_") && path.ends_with("/ws"), "{path}");
    assert_eq!(peer.header("authorization"), "Bearer secret");
    assert_eq!(peer.header("tmws-agent"), "tester");
    assert_eq!(peer.header("sec-websocket-protocol"), "mcp");
    assert_eq!(peer.header("host"), address.to_string());
}

#[test]
fn the_project_may_be_named_or_left_to_the_server() {
    for (arguments, path) in [(["--project", "web"].as_slice(), "/p/web/ws"), (&["--no-project"], "/ws")] {
        let (listener, address) = listen();
        let url = format!("ws://{address}/");
        let arguments: Vec<&str> = arguments.iter().copied().chain([url.as_str()]).collect();
        let _bridge = Bridge::start(&arguments);
        assert_eq!(Peer::accept(&listener).request.uri().path(), path);
    }
}

#[test]
fn frames_pass_as_they_are_and_each_is_one_line() {
    let (mut bridge, mut peer, _listener) = open();
    let strange = r#"{"id" : 12345678901234567890123 , "jsonrpc":"2.0", "method":"tools/call","params":{"name":"ä\u0000"}}"#;
    bridge.send(strange);
    assert_eq!(peer.receive_text(), strange);
    peer.socket.send(Message::binary(vec![1, 2, 3])).unwrap();
    peer.send("no json");
    peer.send("{\n  \"jsonrpc\": \"2.0\",\r\n  \"id\": 12345678901234567890123,\n  \"result\": {}\n}");
    assert_eq!(
        bridge.receive_text(),
        r#"{   "jsonrpc": "2.0",    "id": 12345678901234567890123,   "result": {} }"#
    );
    peer.send(r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#);
    assert_eq!(bridge.receive()["method"], "notifications/tools/list_changed");
    peer.send(r#"{"jsonrpc":"2.0","id":1,"method":"roots/list"}"#);
    assert_eq!(bridge.receive()["method"], "roots/list");
    bridge.send(r#"{"jsonrpc":"2.0","id":1,"result":{"roots":[]}}"#);
    assert_eq!(peer.receive()["result"], json!({"roots": []}));
    let (rest, _) = bridge.end();
    assert_eq!(rest, Vec::<Value>::new(), "nothing else was on stdout");
}

#[test]
fn a_lost_connection_is_made_again_and_no_request_is_repeated() {
    let (mut bridge, mut peer, listener) = open();
    for (method, params) in [
        ("logging/setLevel", json!({"level": "info"})),
        ("logging/setLevel", json!({"level": "error"})),
        ("resources/subscribe", json!({"uri": "test://a"})),
        ("resources/subscribe", json!({"uri": "test://b"})),
        ("resources/unsubscribe", json!({"uri": "test://a"})),
    ] {
        bridge.send(&json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string());
        assert_eq!(peer.receive()["method"], method);
        peer.send(&empty_answer(&json!(1)));
        bridge.receive();
    }
    let ids = ["\"a\\u0062\"", "-7", "123456789012345678901234567890"];
    for id in ids {
        bridge.send(&call(id, "remember"));
        assert_eq!(peer.receive()["params"]["name"], "remember");
    }
    drop(peer);
    let mut lost: Vec<String> = ids.iter().map(|_| bridge.receive_text()).collect();
    lost.sort();
    let mut expected = ids.map(|id| {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32603,"message":"the connection to ws://"#)
    });
    expected.sort();
    for (line, expected) in lost.iter().zip(&expected) {
        assert!(line.starts_with(expected.as_str()), "{line}");
        assert!(
            line.contains("may or may not have been carried out") && line.contains("not sent again"),
            "{line}"
        );
    }
    // What comes while there is no connection, or before the session stands again, waits.
    bridge.send(&call("8", "waits"));
    let mut peer = Peer::accept(&listener);
    let again = peer.receive();
    assert_eq!(again["method"], "initialize");
    assert_eq!(again["params"], serde_json::from_str::<Value>(INITIALIZE).unwrap()["params"]);
    assert!(again["id"].as_str().unwrap().starts_with("tmws-connect-"), "{again}");
    peer.send(&initialize_answer(&again["id"], "2025-11-25"));
    assert_eq!(peer.receive_text(), INITIALIZED);
    let level = peer.receive();
    assert_eq!(
        (&level["method"], &level["params"]),
        (&json!("logging/setLevel"), &json!({"level": "error"}))
    );
    let subscription = peer.receive();
    assert_eq!(
        (&subscription["method"], &subscription["params"]),
        (&json!("resources/subscribe"), &json!({"uri": "test://b"}))
    );
    peer.send(&empty_answer(&level["id"]));
    peer.send(&empty_answer(&subscription["id"]));
    let waited = peer.receive();
    assert_eq!(waited["params"]["name"], "waits", "no request is repeated: {waited}");
    peer.send(&empty_answer(&json!(8)));
    assert_eq!(
        bridge.receive(),
        json!({"jsonrpc": "2.0", "id": 8, "result": {}}),
        "the replay's answers stay here"
    );
}

#[test]
fn a_close_of_the_server_is_told_with_its_reason() {
    let (mut bridge, mut peer, _listener) = open();
    bridge.send(&call("1", "t"));
    peer.receive();
    peer.socket.close(Some(CloseFrame { code: CloseCode::Away, reason: "shutting down".into() })).unwrap();
    let _ = peer.socket.flush();
    drop(peer);
    let why = bridge.receive_error("1");
    assert!(why.contains("the server closed it (1001: shutting down)"), "{why}");
}

/// The server has closed, and the bridge knows; the end of the connection is yet to come.
fn closing(peer: &mut Peer) {
    let frame = CloseFrame { code: CloseCode::Away, reason: "shutting down".into() };
    peer.socket.close(Some(frame)).unwrap();
    assert!(peer.socket.read().unwrap().is_close());
}

#[test]
fn what_no_closing_connection_takes_is_sent_on_the_next_one_in_its_order() {
    let (mut bridge, mut peer, listener) = open();
    bridge.send(&call("1", "sent"));
    peer.receive();
    closing(&mut peer);
    bridge.send(&call("2", "unsent"));
    bridge.send(&call("3", "later"));
    assert!(bridge.receive_error("1").contains("It may or may not have been carried out"));
    let mut next = Peer::accept(&listener);
    let again = next.receive();
    assert_eq!(again["method"], "initialize");
    next.send(&initialize_answer(&again["id"], "2025-11-25"));
    assert_eq!(next.receive_text(), INITIALIZED);
    for id in ["2", "3"] {
        let sent = next.receive();
        assert_eq!(sent["id"].to_string(), id, "{sent}");
        next.send(&empty_answer(&sent["id"]));
        let answer = bridge.receive();
        assert_eq!(answer, json!({"jsonrpc": "2.0", "id": sent["id"], "result": {}}));
    }
}

#[test]
fn a_server_that_is_not_there_for_the_moment_is_waited_for() {
    use std::io::{Read, Write};
    let (listener, address) = listen();
    let mut bridge = Bridge::start(&[&format!("ws://{address}")]);
    bridge.send(INITIALIZE);
    for status in ["503 Service Unavailable", "502 Bad Gateway"] {
        let mut stream = accept(&listener);
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).unwrap();
    }
    let mut peer = Peer::accept(&listener);
    assert_eq!(peer.receive_text(), INITIALIZE);
    peer.send(&initialize_answer(&json!(0), "2025-11-25"));
    assert_eq!(bridge.receive()["result"]["protocolVersion"], "2025-11-25");
}

#[test]
fn another_revision_after_a_restart_ends_the_bridge() {
    let (mut bridge, peer, listener) = open();
    drop(peer);
    let mut peer = Peer::accept(&listener);
    let again = peer.receive();
    bridge.send(&call("9", "t"));
    peer.send(&initialize_answer(&again["id"], "2025-03-26"));
    let status = bridge.wait();
    assert_eq!(status.code(), Some(1));
    let said: Vec<String> = bridge.lines.iter().collect();
    // The call may have come too late to be told.
    assert!(said.iter().all(|line| line.contains("speaks 2025-03-26 now")), "{said:?}");
}

#[test]
fn requests_without_a_server_are_told_where_and_what_to_do_and_it_goes_on_trying() {
    let (listener, address) = listen();
    drop(listener);
    let mut bridge = Bridge::start(&[&format!("ws://x:secret@{address}"), "--no-project"]);
    bridge.send(INITIALIZE);
    let why = bridge.receive_error("0");
    for part in [
        format!("cannot connect to ws://{address}/ws: "),
        "is `tmws serve` running".to_owned(),
        "was not sent".to_owned(),
    ] {
        assert!(why.contains(&part), "{part}: {why}");
    }
    let listener = TcpListener::bind(address).unwrap();
    bridge.send(INITIALIZE);
    let mut peer = Peer::accept(&listener);
    assert_eq!(peer.receive_text(), INITIALIZE);
    peer.send(&initialize_answer(&json!(0), "2025-11-25"));
    assert_eq!(bridge.receive()["id"], 0);
    let log: Vec<String> = bridge.log.try_iter().collect();
    assert!(log.iter().all(|line| !line.contains("secret")), "{log:?}");
}

#[test]
fn a_refused_handshake_is_told_at_once() {
    use std::io::{Read, Write};
    let (listener, address) = listen();
    let mut bridge = Bridge::with(&[&format!("ws://{address}")], |command| {
        command.env("TMWS_TOKEN", "se-cret");
    });
    bridge.send(INITIALIZE);
    let mut stream = accept(&listener);
    let mut head = [0; 4096];
    let count = stream.read(&mut head).unwrap();
    assert!(
        String::from_utf8_lossy(&head[..count])
            .to_ascii_lowercase()
            .contains("authorization: bearer se-cret")
    );
    stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").unwrap();
    let why = bridge.receive_error("0");
    assert!(why.contains("401 Unauthorized: it does not accept the token from TMWS_TOKEN"), "{why}");
    assert!(!why.contains("se-cret"), "{why}");
}

#[test]
fn the_end_of_input_waits_for_answers_and_no_longer_than_a_second() {
    let (mut bridge, mut peer, _listener) = open();
    bridge.send(&call("1", "quick"));
    bridge.send(&call("2", "slow"));
    peer.receive();
    peer.receive();
    drop(bridge.input.take());
    peer.send(&empty_answer(&json!(1)));
    let (rest, took) = bridge.end();
    assert_eq!(rest[0], json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
    assert_eq!(rest[1]["id"], 2);
    assert!(rest[1]["error"]["message"].as_str().unwrap().contains("the bridge to ws://"), "{}", rest[1]);
    assert!(took < Duration::from_secs(1) + Duration::from_millis(500), "{took:?}");
    match peer.socket.read().unwrap() {
        Message::Close(Some(frame)) => assert_eq!(frame.code, CloseCode::Normal),
        other => panic!("no goodbye: {other:?}"),
    }
}

#[test]
fn without_anything_in_flight_the_end_comes_at_once() {
    let (bridge, mut peer, _listener) = open();
    let answering = std::thread::spawn(move || while peer.socket.read().is_ok() {});
    let (rest, took) = bridge.end();
    assert!(rest.is_empty() && took < Duration::from_millis(800), "{took:?}");
    answering.join().unwrap();
}

#[test]
fn a_signal_ends_it_as_the_end_of_input_does() {
    for signal in [Signal::TERM, Signal::INT] {
        let (mut bridge, mut peer, _listener) = open();
        bridge.send(&call("1", "slow"));
        peer.receive();
        bridge.signal(signal);
        assert!(bridge.wait().success());
        assert!(bridge.receive_error("1").contains("the bridge to"));
    }
}

#[test]
fn a_host_that_reads_no_more_ends_it() {
    let (mut bridge, mut peer, _listener) = open();
    // The reading thread ends with its first line after the receiver has gone, and closes stdout with it.
    drop(std::mem::replace(&mut bridge.lines, std::sync::mpsc::channel().1));
    for _ in 0..1_000 {
        let notice = format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/x","params":{{"a":"{}"}}}}"#,
            "a".repeat(1_000)
        );
        if peer.socket.send(Message::text(notice)).is_err() {
            break;
        }
    }
    assert!(bridge.wait().success());
}

#[test]
fn work_does_not_make_it_grow() {
    let (mut bridge, mut peer, _listener) = open();
    peer.socket.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    let filler = "x".repeat(10_000);
    let work = |bridge: &mut Bridge, peer: &mut Peer| {
        for id in 0..1_000 {
            bridge.send(&call(&id.to_string(), &filler));
            peer.receive_text();
            peer.send(&json!({"jsonrpc": "2.0", "id": id, "result": {"content": [{"type": "text", "text": filler}]}}).to_string());
            bridge.receive_text();
        }
        bridge.resident_kib()
    };
    let before = work(&mut bridge, &mut peer);
    let after = work(&mut bridge, &mut peer);
    assert!(after <= before + 256, "{before} KiB, then {after} KiB");
}

#[test]
fn large_messages_leave_no_memory_behind() {
    let (mut bridge, mut peer, _listener) = open();
    peer.socket.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
    let exchange = |bridge: &mut Bridge, peer: &mut Peer, bytes: usize| {
        let filler = "x".repeat(bytes);
        for id in 0..20 {
            bridge.send(&call(&id.to_string(), &filler));
            peer.receive_text();
            peer.send(&json!({"jsonrpc": "2.0", "id": id, "result": {"content": [{"type": "text", "text": filler}]}}).to_string());
            assert!(bridge.receive_text().len() > bytes);
        }
        bridge.resident_kib()
    };
    let before = exchange(&mut bridge, &mut peer, 1_000);
    exchange(&mut bridge, &mut peer, 3_000_000);
    let after = exchange(&mut bridge, &mut peer, 1_000);
    assert!(after <= before + 1_024, "{before} KiB, then {after} KiB");
}

#[test]
#[cfg(target_os = "linux")]
fn the_token_is_in_neither_the_command_line_nor_the_environment() {
    let (listener, address) = listen();
    for (url, variable) in [(format!("ws://x:Secret@{address}"), ""), (format!("ws://{address}"), "Secret")] {
        let bridge = Bridge::with(&[&url], |command| {
            command.env("TMWS_TOKEN", variable);
        });
        let peer = Peer::accept(&listener);
        assert_eq!(peer.header("authorization"), "Bearer Secret");
        for file in ["cmdline", "environ"] {
            let bytes = std::fs::read(format!("/proc/{}/{file}", bridge.child.id())).unwrap();
            assert!(!String::from_utf8_lossy(&bytes).contains("Secret"), "{file} of {url}");
        }
    }
}

#[test]
fn a_line_that_is_too_long_is_answered_where_the_revision_allows_it() {
    for (revision, answers) in [("2025-06-18", false), ("2025-11-25", true)] {
        let (listener, address) = listen();
        let mut bridge = Bridge::with(&[&format!("ws://{address}")], |command| {
            command.env("TMWS_LIMITS_FRAME_IN", "1KiB");
        });
        let mut peer = Peer::accept(&listener);
        bridge.send(INITIALIZE);
        peer.receive();
        peer.send(&initialize_answer(&json!(0), revision));
        bridge.receive();
        bridge.send(&call("1", &"x".repeat(2_000)));
        bridge.send(&call("2", "short"));
        assert_eq!(peer.receive()["id"], 2, "the long one was skipped");
        peer.send(&empty_answer(&json!(2)));
        if answers {
            let error = bridge.receive();
            assert_eq!(error["error"]["code"], -32700, "{error}");
            assert!(error.get("id").is_none(), "{error}");
        }
        assert_eq!(bridge.receive()["id"], 2);
    }
}

#[test]
fn files_and_sockets_serve_as_well_as_pipes() {
    use std::{
        fs::File,
        io::{BufRead, BufReader, Write},
        os::{fd::OwnedFd, unix::net::UnixStream},
        process::Stdio,
    };
    let folder = tempfile::tempdir().unwrap();
    let (questions, answers) = (folder.path().join("in"), folder.path().join("out"));
    std::fs::write(&questions, INITIALIZE).unwrap();
    let (listener, address) = listen();
    let mut bridge = Bridge::with_pipes(&[&format!("ws://{address}")], |command| {
        command.stdin(File::open(&questions).unwrap()).stdout(File::create(&answers).unwrap());
    });
    let mut peer = Peer::accept(&listener);
    assert_eq!(peer.receive_text(), INITIALIZE);
    peer.send(&initialize_answer(&json!(0), "2025-11-25"));
    assert!(bridge.wait().success());
    assert!(std::fs::read_to_string(&answers).unwrap().ends_with("}\n"));

    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut bridge = Bridge::with_pipes(&[&format!("ws://{address}")], |command| {
        let output: OwnedFd = theirs.try_clone().unwrap().into();
        command.stdin(Stdio::from(OwnedFd::from(theirs))).stdout(Stdio::from(output));
    });
    writeln!(&ours, "{INITIALIZE}").unwrap();
    let mut peer = Peer::accept(&listener);
    assert_eq!(peer.receive_text(), INITIALIZE);
    peer.send(&initialize_answer(&json!(0), "2025-11-25"));
    let mut line = String::new();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    BufReader::new(&ours).read_line(&mut line).unwrap();
    assert_eq!(line, format!("{}\n", initialize_answer(&json!(0), "2025-11-25")));
    drop(ours);
    assert!(bridge.wait().success());
}

#[test]
fn the_flags_of_a_shared_pipe_are_put_back() {
    use rustix::fs::{OFlags, fcntl_getfl};
    let (listener, address) = listen();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut bridge = Bridge::with_pipes(&[&format!("ws://{address}")], |command| {
        command.stdin(std::process::Stdio::piped()).stdout(writer.try_clone().unwrap());
    });
    let _peer = Peer::accept(&listener);
    drop(bridge.child.stdin.take());
    assert!(bridge.wait().success());
    assert!(!fcntl_getfl(&writer).unwrap().contains(OFlags::NONBLOCK));
    drop(reader);
}
