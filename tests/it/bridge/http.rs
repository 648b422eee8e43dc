//! Over Streamable HTTP.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use super::{
    Bridge, INITIALIZE, INITIALIZED, PATIENCE, accept, call, empty_answer, initialize_answer, listen,
};
use serde_json::{Value, json};

/// One request as it came, on its connection.
struct Exchange {
    stream: BufReader<TcpStream>,
    line: String,
    headers: HashMap<String, String>,
    body: String,
}

impl Exchange {
    fn read(mut stream: BufReader<TcpStream>) -> Option<Self> {
        let mut line = String::new();
        if stream.read_line(&mut line).unwrap_or(0) == 0 {
            return None;
        }
        let mut headers = HashMap::new();
        loop {
            let mut header = String::new();
            stream.read_line(&mut header).unwrap();
            let Some((name, value)) = header.trim_end().split_once(':') else { break };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        Some(Self {
            stream,
            line: line.trim_end().to_owned(),
            headers,
            body: String::from_utf8(body).unwrap(),
        })
    }

    /// The next request on a new connection; one that was opened and not used is passed over.
    fn accept(listener: &TcpListener) -> Self {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(exchange) = Self::read(BufReader::new(accept(listener))) {
                return exchange;
            }
        }
        panic!("connections come, and no request")
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    fn write(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// Answers and closes the connection, so that the next request comes on a new one.
    fn answer(mut self, status: &str, headers: &str, body: &str) {
        let length = body.len();
        self.write(&format!(
            "HTTP/1.1 {status}\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
    }

    fn answer_json(self, body: &str) {
        self.answer("200 OK", "Content-Type: application/json\r\n", body);
    }

    fn begin_events(&mut self) {
        self.write(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n: hello\n\n",
        );
    }

    fn event(&mut self, id: &str, data: &str) {
        self.write(&format!("event: message\nid: {id}\ndata: {data}\n\n"));
    }

    /// Whether the bridge has closed its end.
    fn is_closed(&mut self) -> bool {
        self.stream.read(&mut [0; 16]).is_ok_and(|count| count == 0)
    }
}

/// A bridge whose host has opened a session, and the GET stream.
fn open() -> (Bridge, Exchange, TcpListener) {
    let (listener, address) = listen();
    let mut bridge = Bridge::start(&[&format!("http://x:secret@{address}"), "--project", "web"]);
    bridge.send(INITIALIZE);
    let exchange = Exchange::accept(&listener);
    assert_eq!(exchange.line, "POST /p/web/mcp HTTP/1.1");
    assert_eq!(exchange.body, INITIALIZE);
    assert_eq!(exchange.header("authorization"), "Bearer secret");
    assert_eq!(exchange.header("tmws-agent"), "tester");
    assert_eq!(exchange.header("accept"), "application/json, text/event-stream");
    assert_eq!(exchange.header("mcp-session-id"), "");
    exchange.answer(
        "200 OK",
        "Content-Type: application/json\r\nMcp-Session-Id: one\r\n",
        &initialize_answer(&json!(0), "2025-11-25"),
    );
    assert_eq!(bridge.receive()["result"]["protocolVersion"], "2025-11-25");
    let stream = initialized(&mut bridge, &listener, "one");
    (bridge, stream, listener)
}

/// Takes `initialized` and the GET stream that follows it.
fn initialized(bridge: &mut Bridge, listener: &TcpListener, session: &str) -> Exchange {
    if session == "one" {
        bridge.send(INITIALIZED);
    }
    let exchange = Exchange::accept(listener);
    assert_eq!(exchange.body, INITIALIZED);
    assert_eq!(exchange.header("mcp-session-id"), session);
    assert_eq!(exchange.header("mcp-protocol-version"), "2025-11-25");
    exchange.answer("202 Accepted", "", "");
    let mut stream = Exchange::accept(listener);
    assert!(stream.line.starts_with("GET /p/web/mcp "), "{}", stream.line);
    assert_eq!(stream.header("mcp-session-id"), session);
    stream.begin_events();
    stream
}

#[test]
fn a_session_is_opened_used_and_deleted() {
    let (mut bridge, mut stream, listener) = open();
    stream.event("1", r#"{"jsonrpc":"2.0","id":5,"method":"roots/list"}"#);
    assert_eq!(bridge.receive()["method"], "roots/list");
    bridge.send(r#"{"jsonrpc":"2.0","id":5,"result":{"roots":[]}}"#);
    let exchange = Exchange::accept(&listener);
    assert_eq!(exchange.json()["result"], json!({"roots": []}));
    exchange.answer("202 Accepted", "", "");
    // Two calls at once, answered in the other order, one as a stream.
    bridge.send(&call("\"a\"", "first"));
    let mut first = Exchange::accept(&listener);
    bridge.send(&call("-9", "second"));
    let second = Exchange::accept(&listener);
    second.answer_json(&empty_answer(&json!(-9)));
    assert_eq!(bridge.receive()["id"], -9);
    first.begin_events();
    first.event("2", r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#);
    assert_eq!(bridge.receive()["method"], "notifications/progress");
    first.event("3", &empty_answer(&json!("a")));
    assert_eq!(bridge.receive()["id"], "a");
    drop(first);
    let ending = std::thread::spawn(move || {
        let exchange = Exchange::accept(&listener);
        assert!(exchange.line.starts_with("DELETE /p/web/mcp "), "{}", exchange.line);
        assert_eq!(exchange.header("mcp-session-id"), "one");
        exchange.answer("204 No Content", "", "");
    });
    let (rest, took) = bridge.end();
    assert!(rest.is_empty() && took < Duration::from_millis(800), "{rest:?} {took:?}");
    ending.join().unwrap();
}

#[test]
fn connections_are_used_again() {
    let (mut bridge, _stream, listener) = open();
    bridge.send(&call("1", "t"));
    let mut exchange = Exchange::accept(&listener);
    for id in 1..=3 {
        let body = empty_answer(&json!(id));
        exchange.write(&format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        assert_eq!(bridge.receive()["id"], id);
        bridge.send(&call(&(id + 1).to_string(), "t"));
        exchange = Exchange::read(exchange.stream).expect("another request on the same connection");
    }
}

#[test]
fn a_session_that_is_gone_is_opened_anew_and_what_it_refused_is_sent_then() {
    let (mut bridge, stream, listener) = open();
    bridge.send(r#"{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"info"}}"#);
    Exchange::accept(&listener).answer_json(&empty_answer(&json!(1)));
    bridge.receive();
    bridge.send(&call("2", "t"));
    let refused = Exchange::accept(&listener);
    let body = refused.body.clone();
    refused.answer("404 Not Found", "", "");
    // The session that is left is deleted, in no order with the new one.
    let next = || loop {
        let exchange = Exchange::accept(&listener);
        if exchange.line.starts_with("DELETE") {
            exchange.answer("404 Not Found", "", "");
            continue;
        }
        return exchange;
    };
    let again = next();
    let id = again.json()["id"].clone();
    assert_eq!(again.json()["method"], "initialize");
    assert_eq!(again.header("mcp-session-id"), "");
    again.answer(
        "200 OK",
        "Content-Type: application/json\r\nMcp-Session-Id: two\r\n",
        &initialize_answer(&id, "2025-11-25"),
    );
    drop(stream);
    let exchange = next();
    assert_eq!((exchange.body.as_str(), exchange.header("mcp-session-id")), (INITIALIZED, "two"));
    exchange.answer("202 Accepted", "", "");
    let (mut streams, mut level, mut called) = (0, 0, 0);
    while streams + level + called < 3 {
        let mut exchange = next();
        assert_eq!(exchange.header("mcp-session-id"), "two");
        if exchange.line.starts_with("GET") {
            streams += 1;
            exchange.begin_events();
        } else if exchange.body == body {
            called += 1;
            exchange.answer_json(&empty_answer(&json!(2)));
        } else {
            assert_eq!(exchange.json()["params"], json!({"level": "info"}));
            level += 1;
            let answer = empty_answer(&exchange.json()["id"]);
            exchange.answer_json(&answer);
        }
    }
    assert_eq!((streams, level, called), (1, 1, 1));
    assert_eq!(bridge.receive(), json!({"jsonrpc": "2.0", "id": 2, "result": {}}));
}

#[test]
fn what_was_in_flight_at_a_loss_is_told_and_not_repeated() {
    let (mut bridge, _stream, listener) = open();
    for id in ["\"a\"", "123456789012345678901234567890"] {
        bridge.send(&call(id, "remember"));
        drop(Exchange::accept(&listener));
        let why = bridge.receive_error(id);
        assert!(why.contains("may or may not have been carried out"), "{why}");
    }
    bridge.send(&call("3", "next"));
    assert_eq!(Exchange::accept(&listener).json()["params"]["name"], "next");
}

#[test]
fn a_stream_that_the_server_breaks_off_is_resumed_where_it_was() {
    let (mut bridge, _stream, listener) = open();
    bridge.send(&call("1", "slow"));
    let mut exchange = Exchange::accept(&listener);
    exchange.begin_events();
    exchange.write("id: p-0\ndata:\n\nretry: 10\n\n");
    drop(exchange);
    let mut resumed = Exchange::accept(&listener);
    assert!(resumed.line.starts_with("GET"), "{}", resumed.line);
    assert_eq!(resumed.header("last-event-id"), "p-0");
    resumed.begin_events();
    resumed.event("p-1", &empty_answer(&json!(1)));
    assert_eq!(bridge.receive()["result"], json!({}));
    // Without an answer and without more to resume, the caller is told.
    bridge.send(&call("2", "slow"));
    let mut exchange = Exchange::accept(&listener);
    exchange.begin_events();
    drop(exchange);
    bridge.receive_error("2");
}

const CLAIM: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

fn modern(id: &str, method: &str, members: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{members}{CLAIM}}}}}"#)
}

#[test]
fn a_modern_request_brings_its_headers_and_its_closed_stream_cancels_it() {
    let (listener, address) = listen();
    let mut bridge = Bridge::start(&[&format!("http://{address}/mcp"), "--no-project"]);
    let table = [
        ("tools/call", r#""name":"plain","#, "plain"),
        ("prompts/get", r#""name":"ä","#, "=?base64?w6Q=?="),
        ("resources/read", r#""uri":"a:b c","#, "a:b c"),
        ("tools/list", "", ""),
        ("server/discover", "", ""),
    ];
    for (method, members, name) in table {
        bridge.send(&modern("1", method, members));
        let exchange = Exchange::accept(&listener);
        assert_eq!(exchange.header("mcp-protocol-version"), "2026-07-28");
        assert_eq!(exchange.header("mcp-method"), method);
        assert_eq!(exchange.header("mcp-name"), name, "{method}");
        exchange.answer_json(&empty_answer(&json!(1)));
        assert_eq!(bridge.receive()["id"], 1);
    }
    bridge.send(&modern("\"c\"", "tools/call", r#""name":"slow","#));
    let mut exchange = Exchange::accept(&listener);
    exchange.begin_events();
    bridge.send(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"c"}}"#);
    assert!(exchange.is_closed());
    let (rest, _) = bridge.end();
    assert_eq!(rest, Vec::<Value>::new(), "a cancelled request has no answer");
}

#[test]
fn a_listen_whose_stream_is_lost_is_made_again_and_acknowledged_once() {
    let (listener, address) = listen();
    let mut bridge = Bridge::start(&[&format!("http://{address}/mcp"), "--no-project"]);
    bridge.send(&modern("7", "subscriptions/listen", r#""notifications":{},"#));
    let notice = |method: &str| {
        json!({"jsonrpc": "2.0", "method": method, "params": {"_meta": {"io.modelcontextprotocol/subscriptionId": 7}}}).to_string()
    };
    let acknowledged = notice("notifications/subscriptions/acknowledged");
    let changed = notice("notifications/tools/list_changed");
    for time in 0..2 {
        let mut exchange = Exchange::accept(&listener);
        assert_eq!(exchange.header("mcp-method"), "subscriptions/listen");
        exchange.begin_events();
        exchange.event("", &acknowledged);
        exchange.event("", &changed);
        if time == 0 {
            assert_eq!(bridge.receive()["method"], "notifications/subscriptions/acknowledged");
        }
        assert_eq!(bridge.receive()["method"], "notifications/tools/list_changed");
    }
}

#[test]
fn a_refusal_becomes_an_error_of_its_request() {
    let (mut bridge, _stream, listener) = open();
    let table = [
        ("401 Unauthorized", "", "401 Unauthorized: it does not accept the token from the address"),
        ("403 Forbidden", "no such project", "it says: no such project"),
        ("429 Too Many Requests", "", "try again later"),
        ("500 Internal Server Error", "<html>", "500 Internal Server Error"),
    ];
    for (status, body, expected) in table {
        bridge.send(&call("1", "t"));
        Exchange::accept(&listener).answer(status, "", body);
        let why = bridge.receive_error("1");
        assert!(why.contains(expected) && !why.contains("secret"), "{why}");
    }
    for body in [
        r#"{"jsonrpc":"2.0","error":{"code":-32602,"message":"no"}}"#,
        r#"{"jsonrpc":"2.0","id":18446744073709551617,"error":{"code":-32602,"message":"no"}}"#,
    ] {
        bridge.send(&call("18446744073709551617", "t"));
        Exchange::accept(&listener).answer("400 Bad Request", "Content-Type: application/json\r\n", body);
        assert_eq!(
            bridge.receive_text(),
            r#"{"jsonrpc":"2.0","id":18446744073709551617,"error":{"code":-32602,"message":"no"}}"#
        );
    }
}

#[test]
fn what_a_server_has_no_place_for_is_asked_again_when_it_says_unless_it_was_cancelled() {
    let (mut bridge, _stream, listener) = open();
    let full = |exchange: Exchange, after: &str| {
        exchange.answer("503 Service Unavailable", &format!("Retry-After: {after}\r\n"), "no place");
    };
    bridge.send(&call("1", "t"));
    for _ in 0..3 {
        let exchange = Exchange::accept(&listener);
        assert_eq!(exchange.body, call("1", "t"));
        full(exchange, "0");
    }
    let exchange = Exchange::accept(&listener);
    assert_eq!((exchange.body.as_str(), exchange.header("mcp-session-id")), (&*call("1", "t"), "one"));
    exchange.answer_json(&empty_answer(&json!(1)));
    assert_eq!(bridge.receive(), json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
    // Longer than anybody waits, or than anything lasts, or unsaid: an answer.
    for after in ["60", "18446744073709551615"] {
        bridge.send(&call("2", "t"));
        full(Exchange::accept(&listener), after);
        assert!(bridge.receive_error("2").contains("503"));
    }
    bridge.send(&call("3", "t"));
    Exchange::accept(&listener).answer("503 Service Unavailable", "", "");
    assert!(bridge.receive_error("3").contains("503"));
    // What is cancelled while it waits is neither asked again nor told to the server, which knows nothing of it.
    bridge.send(&call("4", "t"));
    full(Exchange::accept(&listener), "1");
    // The log still holds the pauses of the first call, which were shorter.
    while !bridge.log.recv_timeout(PATIENCE).unwrap().contains("pause=1s") {}
    bridge.send(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":4}}"#);
    bridge.send(&call("5", "t"));
    let exchange = Exchange::accept(&listener);
    assert_eq!(exchange.body, call("5", "t"));
    exchange.answer_json(&empty_answer(&json!(5)));
    assert_eq!(bridge.receive()["id"], 5);
}

#[test]
fn what_waits_to_be_asked_again_waits_for_a_session_too() {
    let (mut bridge, _stream, listener) = open();
    bridge.send(&call("1", "t"));
    Exchange::accept(&listener).answer("503 Service Unavailable", "Retry-After: 0\r\n", "no place");
    let again = Exchange::accept(&listener);
    bridge.send(&call("2", "t"));
    let gone = Exchange::accept(&listener);
    again.answer("503 Service Unavailable", "Retry-After: 0\r\n", "no place");
    gone.answer("404 Not Found", "", "");
    let mut opening = None;
    // Nothing may come while the session is being opened: several pauses long it is looked for.
    let until = Instant::now() + Duration::from_millis(500);
    listener.set_nonblocking(true).unwrap();
    while Instant::now() < until {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        let Some(exchange) = Exchange::read(BufReader::new(stream)) else { continue };
        if exchange.line.starts_with("DELETE") {
            exchange.answer("404 Not Found", "", "");
        } else if exchange.body.contains("initialize") {
            opening = Some(exchange);
        } else {
            // It may have been on its way.
            assert_eq!(exchange.header("mcp-session-id"), "one", "{}", exchange.body);
            exchange.answer("503 Service Unavailable", "Retry-After: 0\r\n", "no place");
        }
    }
    listener.set_nonblocking(false).unwrap();
    let opening = opening.unwrap();
    let id = opening.json()["id"].clone();
    opening.answer(
        "200 OK",
        "Content-Type: application/json\r\nMcp-Session-Id: two\r\n",
        &initialize_answer(&id, "2025-11-25"),
    );
    let mut called = 0;
    while called < 2 {
        let mut exchange = Exchange::accept(&listener);
        assert_eq!(exchange.header("mcp-session-id"), "two", "{}", exchange.body);
        if exchange.line.starts_with("GET") {
            exchange.begin_events();
        } else if exchange.body == INITIALIZED {
            exchange.answer("202 Accepted", "", "");
        } else {
            called += 1;
            let answer = empty_answer(&exchange.json()["id"]);
            exchange.answer_json(&answer);
        }
    }
    let mut answered = [bridge.receive(), bridge.receive()].map(|answer| answer["id"].clone());
    answered.sort_by_key(ToString::to_string);
    assert_eq!(answered, [json!(1), json!(2)]);
}

#[test]
fn what_holds_back_the_rest_while_it_waits_does_not_hold_back_a_new_session() {
    let subscribe =
        r#"{"jsonrpc":"2.0","id":2,"method":"resources/subscribe","params":{"uri":"memory://digest"}}"#;
    let (mut bridge, _stream, listener) = open();
    bridge.send(&call("1", "t"));
    let gone = Exchange::accept(&listener);
    bridge.send(subscribe);
    // Longer than the new session may take below: it is not this pause that lets the rest go.
    Exchange::accept(&listener).answer("503 Service Unavailable", "Retry-After: 9\r\n", "no place");
    while !bridge.log.recv_timeout(PATIENCE).unwrap().contains("pause=9s") {}
    bridge.send(&call("3", "after"));
    gone.answer("404 Not Found", "", "");
    let lost = Instant::now();
    let mut came = Vec::new();
    while came.len() < 3 {
        assert!(lost.elapsed() < Duration::from_secs(8), "{came:?}");
        let mut exchange = Exchange::accept(&listener);
        if exchange.line.starts_with("DELETE") {
            exchange.answer("204 No Content", "", "");
        } else if exchange.line.starts_with("GET") {
            exchange.begin_events();
        } else if exchange.body.contains("initialize\"") {
            let answer = initialize_answer(&exchange.json()["id"], "2025-11-25");
            exchange.answer("200 OK", "Content-Type: application/json\r\nMcp-Session-Id: two\r\n", &answer);
        } else if exchange.body == INITIALIZED {
            exchange.answer("202 Accepted", "", "");
        } else {
            assert_eq!(exchange.header("mcp-session-id"), "two", "{}", exchange.body);
            came.push(exchange.body.clone());
            let answer = empty_answer(&exchange.json()["id"]);
            exchange.answer_json(&answer);
        }
    }
    // What came after the subscription still does.
    let places =
        [subscribe.to_owned(), call("3", "after")].map(|body| came.iter().position(|it| *it == body));
    assert!(places[0].is_some() && places[0] < places[1], "{came:?}");
    let mut answered = [(); 3].map(|()| bridge.receive()["id"].clone());
    answered.sort_by_key(ToString::to_string);
    assert_eq!(answered, [json!(1), json!(2), json!(3)]);
}

#[test]
fn a_server_that_comes_back_finds_the_session_opened_anew() {
    let (mut bridge, stream, listener) = open();
    let address = listener.local_addr().unwrap();
    drop(listener);
    drop(stream);
    while !bridge.log.recv_timeout(PATIENCE).unwrap().contains("cannot be reached") {}
    bridge.send(&call("1", "waits"));
    let listener = TcpListener::bind(address).unwrap();
    let again = loop {
        let exchange = Exchange::accept(&listener);
        if exchange.line.starts_with("POST") {
            break exchange;
        }
        exchange.answer("404 Not Found", "", "");
    };
    let id = again.json()["id"].clone();
    assert_eq!(again.json()["method"], "initialize");
    again.answer(
        "200 OK",
        "Content-Type: application/json\r\nMcp-Session-Id: two\r\n",
        &initialize_answer(&id, "2025-11-25"),
    );
    let (mut stream, mut called) = (None, false);
    while stream.is_none() || !called {
        let mut exchange = Exchange::accept(&listener);
        if exchange.line.starts_with("GET") {
            exchange.begin_events();
            stream = Some(exchange);
        } else if exchange.body == INITIALIZED {
            exchange.answer("202 Accepted", "", "");
        } else if exchange.line.starts_with("POST") {
            assert!(!called, "no call is repeated");
            called = true;
            assert_eq!(
                (exchange.body.as_str(), exchange.header("mcp-session-id")),
                (call("1", "waits").as_str(), "two")
            );
            exchange.answer_json(&empty_answer(&json!(1)));
        } else {
            exchange.answer("404 Not Found", "", "");
        }
    }
    assert_eq!(bridge.receive()["id"], 1);
}
