//! In which response of Streamable HTTP a message comes: small servers that put it where it does not belong.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tmws::{
    replay::{Against, Options, play},
    transcript::Transcript,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    sync::{Mutex, mpsc},
};

use super::findings;

/// Nothing here takes so long on a healthy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";

/// Where a server puts the answer to a call, and the progress before it.
#[derive(Clone, Copy)]
enum Place {
    Own,
    OfTheGet,
}

fn event(message: &Value) -> String {
    format!("event: message\ndata: {message}\n\n")
}

/// One request of HTTP: its method and its body.
async fn request(socket: &mut TcpStream) -> (String, Value) {
    let mut reader = BufReader::new(socket);
    let (mut method, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).await.unwrap();
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if method.is_empty() {
            method = line.split(' ').next().unwrap().to_owned();
        }
        if let Some((_, value)) =
            line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).await.unwrap();
    (method, serde_json::from_slice(&body).unwrap_or_default())
}

/// A server of tools whose calls are answered, after one step of progress, in the response at `place`.
async fn server(place: Place) -> Against {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    let (opened, streams) = mpsc::unbounded_channel();
    let streams = Arc::new(Mutex::new(streams));
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let (opened, streams) = (opened.clone(), Arc::clone(&streams));
            tokio::spawn(async move {
                let (method, message) = request(&mut socket).await;
                let id = &message["id"];
                if method == "GET" {
                    socket.write_all(STREAM.as_bytes()).await.unwrap();
                    opened.send(socket).unwrap();
                } else if id.is_null() {
                    socket.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").await.unwrap();
                } else if message["method"] == "initialize" {
                    let result = json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "s", "version": "1"}});
                    let body = json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string();
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}",
                        body.len()
                    );
                    socket.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await.unwrap();
                } else {
                    let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": "p", "progress": 1}});
                    let answer = json!({"jsonrpc": "2.0", "id": id, "result": {"content": []}});
                    let said = [event(&progress), event(&answer)].concat();
                    socket.write_all(STREAM.as_bytes()).await.unwrap();
                    match place {
                        Place::Own => socket.write_all(said.as_bytes()).await.unwrap(),
                        Place::OfTheGet => {
                            let mut stream = streams.lock().await.recv().await.unwrap();
                            stream.write_all(said.as_bytes()).await.unwrap();
                        }
                    }
                }
            });
        }
    });
    Against::Url { url, token: None }
}

/// A session with a stream that the client opens before it calls.
fn conversation() -> Transcript {
    let client = json!({"name": "t", "version": "1"});
    let exchange = |method: &str, raw: Value| {
        let mut entry = json!({"dir": "c2s", "http": {"method": method, "path": "/mcp", "headers": {"Accept": "application/json, text/event-stream"}}});
        if !raw.is_null() {
            entry["raw"] = json!(raw.to_string());
        }
        entry
    };
    let head =
        |status: u16, of: u64| json!({"dir": "s2c", "of": of, "http": {"status": status, "headers": {}}});
    let stream = |of: u64| json!({"dir": "s2c", "of": of, "http": {"status": 200, "headers": {"Content-Type": "text/event-stream"}}});
    let said = |of: u64, id: i64, result: Value| json!({"dir": "s2c", "of": of, "sse": "message", "raw": json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string()});
    let opening = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
    let opened =
        json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": client});
    let call = json!({"name": "echo", "arguments": {}, "_meta": {"progressToken": "p"}});
    let entries = [
        exchange("POST", json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": opening})),
        stream(1),
        said(1, 0, opened),
        exchange("POST", json!({"jsonrpc": "2.0", "method": "notifications/initialized"})),
        head(202, 4),
        exchange("GET", Value::Null),
        stream(6),
        exchange("POST", json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call})),
        stream(8),
        said(8, 1, json!({"content": []})),
        json!({"dir": "event", "event": "get-stream-closed", "of": 6}),
    ];
    let mut lines = vec![json!({
        "type": "header", "format": "mcp-rec/1", "client": "t", "version": "1", "transport": "http",
        "variant": "streams", "recorded": "2026-11-22T10:55:10Z",
    })];
    lines.extend(entries.into_iter().zip(1..).map(|(mut entry, n)| {
        entry["n"] = json!(n);
        entry["t"] = json!(0);
        entry
    }));
    let text = lines.iter().fold(String::new(), |text, line| text + &line.to_string() + "\n");
    Transcript::validate(&text).unwrap()
}

#[tokio::test]
async fn an_answer_and_its_progress_come_in_the_response_of_their_request() {
    let astray = "9 stream: progress for token \"p\" came in the response of another request\n\
                  9 stream: the answer to request 1 (tools/call) came in the response of another request\n";
    for (place, expected) in [(Place::Own, ""), (Place::OfTheGet, astray)] {
        let options = Options { timeout: PATIENCE, is_exact: false };
        let report = play(&conversation(), &mut server(place).await, &options).await.unwrap();
        assert_eq!(findings(&report), expected, "{}", report.to_text(true));
    }
}
