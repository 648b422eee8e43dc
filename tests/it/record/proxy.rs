//! In front of a server on the network: the recorder as a process, servers and clients of the network tests around it.

use std::{
    fs,
    io::{BufRead, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Instant,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tmws::transcript::{Direction, Entry, Transcript, Transport};
use tokio_tungstenite::tungstenite::{Error, Message, protocol::CloseFrame};

use super::{PATIENCE, events, recording, said};
use crate::{
    network::{Http, Seen, Server, Setup, Ws},
    support::scratch::Scratch,
};

fn certificate() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/tls/cert.pem")
}

/// A recorder that listens.
struct Recorder {
    child: Child,
    address: SocketAddr,
    log: Receiver<String>,
    place: Scratch,
}

impl Recorder {
    fn start(to: &str) -> Self {
        Self::with(to, &[])
    }

    fn with(to: &str, flags: &[&str]) -> Self {
        let place = Scratch::new();
        let folder = place.path("recordings");
        let mut command = place.command(&["record", "--listen", "127.0.0.1:0", "--to", to, "--dir"]);
        command.env("SSL_CERT_FILE", certificate());
        let mut child = command.arg(folder).args(flags).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, log) = channel();
        let errors = child.stderr.take().unwrap();
        std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        let line = log.recv_timeout(PATIENCE).expect("the address is told");
        let address = line.split("address=").nth(1).and_then(|rest| rest.split(' ').next());
        let address = address.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{line}"));
        Self { child, address, log, place }
    }

    /// Ends it with a signal, and reads what it wrote.
    fn end(mut self) -> (String, Transcript) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let begun = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < PATIENCE, "the recorder does not end");
            std::thread::yield_now();
        }
        let (file, transcript) = recording(&self.place.path("recordings"));
        let name = file.file_name().unwrap().to_str().unwrap();
        while !self.log.recv_timeout(PATIENCE).expect("the file's name is told").contains(name) {}
        (fs::read_to_string(file).unwrap(), transcript)
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn initialize(revision: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": revision, "capabilities": {}, "clientInfo": {"name": "ada", "version": "1"}}})
}

fn initialized() -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/initialized"})
}

fn call(id: u32, name: &str, arguments: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params":
        {"name": name, "arguments": arguments, "_meta": {"progressToken": id}}})
}

/// Of an entry what counts, in a line.
fn brief(entry: &Entry) -> String {
    let http = entry.http.as_ref().map(|http| {
        let status = http.status.map(|status| status.to_string());
        let line = http.method.as_ref().map(|method| format!("{method} {}", http.path.as_deref().unwrap()));
        line.or(status).unwrap()
    });
    let of = entry.of.map(|of| format!("of {of}"));
    let ws = entry.ws.clone().map(|ws| format!("ws {ws}"));
    let sse = entry.sse.clone().map(|sse| format!("sse {sse}"));
    let code = entry.code.map(|code| code.to_string());
    let parts = [http, ws, sse, entry.event.clone(), code, of];
    format!("{:?} {}", entry.dir, parts.into_iter().flatten().collect::<Vec<_>>().join(" "))
}

fn briefs(transcript: &Transcript) -> Vec<String> {
    transcript.entries.iter().map(brief).collect()
}

#[tokio::test]
async fn a_session_over_http_is_written_down_with_its_streams() {
    let server = Server::start().await;
    let recorder = Recorder::start(&format!("http://{}", server.address));
    let mut client = Http::connect(recorder.address).await;
    let answer = client.post(&initialize("2025-06-18"), &[("User-Agent", "ada/1")]).await;
    let session = answer.header("mcp-session-id").to_owned();
    assert!(session.len() > 20, "the client gets the real one: {session}");
    assert!(answer.text().await.contains("serverInfo"));
    let headers = [("Mcp-Session-Id", session.as_str()), ("mcp-protocol-version", "2025-06-18")];
    assert_eq!(client.post(&initialized(), &headers).await.status, 202);
    // The stream of a GET stays open beside what follows.
    let mut listening = Http::connect(recorder.address).await;
    let accept = [("accept", "text/event-stream"), headers[0], headers[1]];
    let stream = listening.send("GET", "/mcp", &accept, "").await;
    assert_eq!(stream.header("content-type"), "text/event-stream");
    // One call that answers as events, which come before the call has ended.
    let mut answer = client.post(&call(1, "progress", &json!({"tag": "t", "count": 2})), &headers).await;
    for _ in 0..2 {
        let event = answer.message().await.unwrap();
        assert_eq!(event.json()["method"], "notifications/progress");
    }
    server.probe.release("t");
    assert_eq!(answer.message().await.unwrap().json()["result"]["content"][0]["text"], "t");
    assert!(answer.message().await.is_none());
    drop(stream);
    drop(listening);
    let mut client = Http::connect(recorder.address).await;
    let deleted = client.send("DELETE", "/mcp", &headers, "").await;
    assert!(deleted.status.is_success());
    assert_eq!(client.send("GET", "/.well-known/oauth-protected-resource", &[], "").await.status, 404);

    let (text, transcript) = recorder.end();
    assert!(!text.contains(&session), "a session id is a secret");
    assert_eq!(transcript.header.transport, Transport::Http);
    assert_eq!(transcript.header.client, "ada");
    let mut seen = briefs(&transcript);
    // When the recorder hears that a client has left is the network's affair.
    let closed =
        seen.iter().position(|line| line.starts_with("Event get-stream-closed")).expect("it was left");
    seen.remove(closed);
    let expected = [
        "C2s POST /mcp",
        "S2c 200",
        "C2s POST /mcp",
        "S2c 202",
        "C2s GET /mcp",
        "S2c 200",
        "C2s POST /mcp",
        "S2c 200",
        "S2c sse message",
        "S2c sse message",
        "S2c sse message",
        "C2s DELETE /mcp",
    ];
    assert_eq!(seen[..expected.len()], expected, "{seen:#?}");
    assert!(seen[expected.len() + 1].ends_with("/.well-known/oauth-protected-resource"), "{seen:#?}");
    let head = |index: usize| transcript.entries[index].http.as_ref().unwrap().headers.as_ref().unwrap();
    assert_eq!(head(1)["mcp-session-id"], "session-1");
    assert_eq!(head(2)["mcp-session-id"], "session-1");
    assert!(head(0).get("host").is_none());
    assert_eq!(transcript.entries[0].raw.as_deref(), Some(&*initialize("2025-06-18").to_string()));
}

#[tokio::test]
async fn a_stream_that_its_client_leaves_is_told_to_the_server_and_noted() {
    let server = Server::start().await;
    let recorder = Recorder::start(&format!("http://{}", server.address));
    let mut client = Http::connect(recorder.address).await;
    let mut call = call(1, "progress", &json!({"tag": "t", "count": 1}));
    call["params"]["_meta"] = json!({"progressToken": 1, "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "modern", "version": "2"}});
    let headers =
        [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "progress")];
    let mut answer = client.post(&call, &headers).await;
    assert_eq!(answer.message().await.unwrap().json()["method"], "notifications/progress");
    assert_eq!(server.probe.next().await, Seen::Started("t".to_owned()));
    drop(answer);
    drop(client);
    assert_eq!(server.probe.next().await, Seen::Cancelled("t".to_owned()), "its leaving cancels the call");
    let (_, transcript) = recorder.end();
    assert_eq!(transcript.header.client, "modern");
    assert_eq!(events(&transcript), ["client-closed-stream"]);
}

#[tokio::test]
async fn the_endpoint_of_http_and_sse_leads_through_the_recorder() {
    let server = Server::start().await;
    let recorder = Recorder::start(&format!("http://{}", server.address));
    let mut stream = Http::connect(recorder.address).await;
    let mut stream = stream.send("GET", "/sse", &[("accept", "text/event-stream")], "").await;
    let endpoint = stream.message().await.unwrap();
    assert_eq!(endpoint.event.as_deref(), Some("endpoint"));
    let path = endpoint.data.unwrap();
    let mut client = Http::connect(recorder.address).await;
    assert_eq!(client.post_to(&path, &initialize("2024-11-05"), &[]).await.status, 202);
    assert_eq!(stream.message().await.unwrap().json()["id"], 0);
    let (text, transcript) = recorder.end();
    let secret = path.rsplit('=').next().unwrap();
    assert!(secret.len() > 8 && !text.contains(secret), "{path}");
    let (told, used) = (transcript.entries[2].raw.clone().unwrap(), &transcript.entries[3]);
    assert_eq!(transcript.entries[2].sse.as_deref(), Some("endpoint"));
    assert_eq!(Some(&told), used.http.as_ref().unwrap().path.as_ref(), "the same in both places");
    assert!(told.ends_with("=session-1"), "{told}");
    let answer = transcript.entries.iter().find(|entry| entry.sse.as_deref() == Some("message")).unwrap();
    assert_eq!(answer.of, Some(1), "it came on the stream, not in answer to the POST");
}

#[tokio::test]
async fn headers_are_spelled_and_ordered_as_they_were_sent() {
    let server = Server::start().await;
    let recorder = Recorder::start(&format!("http://{}", server.address));
    let address = recorder.address;
    let body = initialize("2025-11-25").to_string();
    // Twice on one connection, the body apart from its head.
    let told = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        let mut told = String::new();
        for (name, last) in [("X-oDD", ""), ("x-Odd", "Connection: close\r\n")] {
            let head = format!(
                "POST /mcp HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n{name}: 1\r\n\
                 Accept: application/json, text/event-stream\r\nX-Two: a\r\nX-Two: b\r\n{last}Content-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(body.as_bytes()).unwrap();
            let mut buffer = [0; 4096];
            while last.is_empty() && !told.contains("serverInfo") {
                let count = stream.read(&mut buffer).unwrap();
                told.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
            }
        }
        stream.read_to_string(&mut told).unwrap();
        told
    });
    let told = told.await.unwrap();
    assert_eq!(told.matches("HTTP/1.1 200").count(), 2, "{told}");
    let (_, transcript) = recorder.end();
    for (entry, name) in said(&transcript, Direction::C2s).iter().zip(["X-oDD", "x-Odd"]) {
        let headers = entry.http.as_ref().unwrap().headers.as_ref().unwrap();
        let names: Vec<_> = headers.keys().filter(|name| *name != "Connection").map(String::as_str).collect();
        assert_eq!(names, ["Content-Type", name, "Accept", "X-Two", "Content-Length"]);
        assert_eq!(headers["X-Two"], json!(["a", "b"]));
    }
}

#[tokio::test]
async fn what_belongs_to_a_connection_stays_on_it() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = listener.local_addr().unwrap();
    let heard = tokio::task::spawn_blocking(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut heard, mut byte) = (Vec::new(), [0]);
        while !heard.ends_with(b"{}") {
            stream.read_exact(&mut byte).unwrap();
            heard.push(byte[0]);
        }
        let answer = "HTTP/1.1 200 OK\r\nConnection: close, X-Hop\r\nX-Hop: 1\r\nX-End: 2\r\n\
                      Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n";
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(heard).unwrap().to_ascii_lowercase()
    });
    let recorder = Recorder::start(&format!("http://{upstream}"));
    let mut client = Http::connect(recorder.address).await;
    let headers = [
        ("connection", "X-Hop"),
        ("x-hop", "1"),
        ("te", "trailers"),
        ("keep-alive", "timeout=5"),
        ("proxy-authorization", "Basic eA=="),
        ("accept-encoding", "gzip"),
        ("authorization", "Bearer t"),
        ("x-end", "2"),
    ];
    let answer = client.send("POST", "/deep/mcp?a=b", &headers, "{}").await;
    assert_eq!((answer.header("x-hop"), answer.header("x-end")), ("", "2"));
    assert_eq!(answer.text().await, "[]");
    let heard = heard.await.unwrap();
    assert!(heard.starts_with("post /deep/mcp?a=b http/1.1\r\n"), "{heard}");
    for there in
        [format!("host: {upstream}\r\n"), "authorization: bearer t".to_owned(), "x-end: 2".to_owned()]
    {
        assert!(heard.contains(&there), "{there}: {heard}");
    }
    for gone in ["x-hop", "te:", "keep-alive", "proxy-", "accept-encoding"] {
        assert!(!heard.contains(gone), "{gone}: {heard}");
    }
    let (_, transcript) = recorder.end();
    assert_eq!(transcript.entries[1].raw.as_deref(), Some("[]"));
}

#[tokio::test]
async fn a_server_behind_tls_is_reached() {
    let key = certificate().with_file_name("key.pem");
    let tls = tmws::transport::tls_acceptor(&certificate(), &key).unwrap();
    let server = Server::with(Setup { tls: Some(tls), ..Setup::default() }).await;
    let recorder = Recorder::start(&format!("https://localhost:{}", server.address.port()));
    let mut client = Http::connect(recorder.address).await;
    let answer = client.post(&initialize("2025-11-25"), &[]).await;
    assert!(answer.text().await.contains("serverInfo"));
    recorder.end();
    let recorder = Recorder::start(&format!("wss://localhost:{}", server.address.port()));
    let mut client = Ws::connect(recorder.address, "/ws").await;
    client.send(&initialize("2025-11-25")).await;
    assert_eq!(client.receive().await["id"], 0);
    recorder.end();
}

#[tokio::test]
async fn large_bodies_pass_whole() {
    let server = Server::start().await;
    let recorder = Recorder::start(&format!("http://{}", server.address));
    let mut client = Http::connect(recorder.address).await;
    let session = client.post(&initialize("2025-11-25"), &[]).await.header("mcp-session-id").to_owned();
    let headers = [("mcp-session-id", session.as_str())];
    let text = "x".repeat(900 << 10);
    let answer = client.post(&call(1, "echo", &json!({"text": text})), &headers).await.text().await;
    assert!(answer.contains(&text), "{} bytes", answer.len());
    let (_, transcript) = recorder.end();
    assert_eq!(said(&transcript, Direction::S2c)[1].raw.as_deref(), Some(&*answer));
}

#[tokio::test]
async fn planted_secrets_are_in_no_recording() {
    let server = Server::start().await;
    let recorder = Recorder::with(&format!("http://{}", server.address), &["--redact", "customer-[0-9]+"]);
    let mut client = Http::connect(recorder.address).await;
    let secret = "planted-5ecret-0123456789";
    let (bearer, cookie, origin) = (
        format!("Bearer {secret}"),
        format!("a={secret}"),
        format!("http://u:{secret}@{}", recorder.address),
    );
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Cookie", &cookie),
        ("X-Api-Key", secret),
        ("Proxy-Authorization", &bearer),
        ("Mcp-Session-Id", secret),
        ("Referer", &origin),
    ];
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"a": secret, "b": "customer-1"}});
    client.post_to(&format!("/mcp?access_token={secret}"), &body, &headers).await.text().await;
    let (text, _) = recorder.end();
    for gone in [secret, "customer-1"] {
        assert!(!text.contains(gone), "{text}");
    }

    let recorder = Recorder::start(&format!("ws://{}", server.address));
    let protocols = format!("mcp, tmws.token.{secret}");
    let headers = [("sec-websocket-protocol", protocols.as_str()), ("authorization", &bearer)];
    let path = format!("/ws?token={secret}");
    let mut client = Ws::connect_with(recorder.address, &path, &headers).await.unwrap();
    client.send(&initialize("2025-11-25")).await;
    client.receive().await;
    drop(client);
    let (text, _) = recorder.end();
    assert!(!text.contains(secret), "{text}");
}

#[tokio::test]
async fn strangers_do_not_get_in_through_the_recorder() {
    let server = Server::start().await;
    let recorder = Recorder::start(&format!("http://{}", server.address));
    let own = format!("http://{}", recorder.address);
    let rebound = format!("evil.example:{}", recorder.address.port());
    for (header, expected) in [
        (("host", "evil.example"), 403),
        (("host", rebound.as_str()), 403),
        (("origin", "http://evil.example"), 403),
        (("origin", own.as_str()), 200),
    ] {
        let mut client = Http::connect(recorder.address).await;
        let answer = client.post(&initialize("2025-11-25"), &[header]).await;
        assert_eq!(answer.status, expected, "{header:?}");
    }
}

#[tokio::test]
async fn a_websocket_is_written_down_as_it_was_spoken() {
    let server = Server::start().await;
    let recorder = Recorder::start(&format!("ws://{}/ws", server.address));
    let mut client = Ws::connect(recorder.address, "/ws").await;
    client.send(&initialize("2025-11-25")).await;
    let answer = client.receive().await;
    assert_eq!(answer["id"], 0);
    client.send(&initialized()).await;
    let text = "x".repeat(900 << 10);
    client.send(&call(1, "echo", &json!({"text": text}))).await;
    assert_eq!(client.receive().await["result"]["content"][0]["text"], *text);
    futures_util::SinkExt::send(&mut client.stream, Message::Ping("p".into())).await.unwrap();
    assert!(matches!(client.next().await, Some(Ok(Message::Pong(_)))));
    let close = CloseFrame { code: 1000.into(), reason: "done".into() };
    client.stream.close(Some(close)).await.unwrap();
    assert!(client.closed().await.is_some());

    let (_, transcript) = recorder.end();
    assert_eq!((transcript.header.transport, transcript.header.client.as_str()), (Transport::Ws, "ada"));
    assert_eq!(
        briefs(&transcript),
        [
            "C2s ws handshake",
            "S2c ws accept",
            "C2s ws text",
            "S2c ",
            "C2s ws text",
            "C2s ws text",
            "S2c ",
            "C2s ws ping",
            "S2c ws pong",
            "Event ws-close 1000",
        ]
    );
    let entries = &transcript.entries;
    assert_eq!((entries[0].path.as_deref(), entries[1].subprotocol.as_deref()), (Some("/ws"), Some("mcp")));
    assert_eq!(entries[2].raw.as_deref(), Some(&*initialize("2025-11-25").to_string()));
    assert_eq!(entries[9].reason.as_deref(), Some("done"));
}

#[tokio::test]
async fn a_websocket_that_the_server_closes_or_refuses_says_so() {
    let server = Server::start().await;
    let recorder = Recorder::start(&format!("ws://{}", server.address));
    let mut client = Ws::connect(recorder.address, "/ws").await;
    futures_util::SinkExt::send(&mut client.stream, Message::Binary(vec![0xff].into())).await.unwrap();
    assert_eq!(client.closed().await.map(|(code, _)| code), Some(1003));
    let (_, transcript) = recorder.end();
    assert_eq!(briefs(&transcript)[2..], ["C2s ws binary", "Event ws-closed-by-server 1003"]);
    assert_eq!(transcript.entries[2].raw.as_deref(), Some("/w=="));

    let recorder = Recorder::start(&format!("ws://{}", server.address));
    let headers = [("sec-websocket-protocol", "mcp"), ("origin", "http://evil.example")];
    let Err(Error::Http(refusal)) = Ws::connect_with(recorder.address, "/ws", &headers).await else {
        panic!("it is refused");
    };
    assert_eq!(refusal.status(), 403);
    let (_, transcript) = recorder.end();
    assert_eq!(briefs(&transcript), ["C2s ws handshake", "S2c 403"]);
}

#[tokio::test]
async fn a_server_that_is_not_there_is_told_to_the_client() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let recorder = Recorder::start(&format!("http://{nobody}"));
    let mut client = Http::connect(recorder.address).await;
    let answer = client.post(&initialize("2025-11-25"), &[]).await;
    assert_eq!(answer.status, 502);
    assert!(answer.text().await.contains("did not answer"));
    let (_, transcript) = recorder.end();
    assert_eq!(events(&transcript), ["no-response"]);
}

#[test]
fn what_cannot_be_listened_on_or_reached_is_refused() {
    let place = Scratch::new();
    for (listen, to, code, expected) in [
        ("0.0.0.0:0", "http://h", 2, "not on loopback"),
        ("here", "http://h", 2, "no address and port"),
        ("127.0.0.1:0", "ftp://h", 2, "`--to` takes"),
        ("127.0.0.1:0", "http://u:Secret@h", 2, "no user and password"),
    ] {
        let output = place.command(&["record", "--listen", listen, "--to", to]).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{told}");
        assert!(told.contains(expected) && !told.contains("Secret"), "{told}");
    }
}
