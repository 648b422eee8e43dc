//! A token that is withdrawn, or changed, while its clients are here: every transport lets go of them.

use serde_json::{Value, json};
use tempfile::TempDir;
use tmws::{
    access::{Access, NewToken, Projects, TokenSource, add_token, revoke_tokens},
    limits::ConnectionLimits,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{Answer, Seen, Server, Setup, Ws, within};

/// A server with two tokens of one principal.
struct Desk {
    folder: TempDir,
    tokens: [String; 2],
    hashes: [String; 2],
    server: Server,
}

impl Desk {
    async fn open() -> Self {
        Self::with(ConnectionLimits::default()).await
    }

    async fn with(connection_limits: ConnectionLimits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tokens.toml");
        let new = NewToken { principal: "ada".to_owned(), ..NewToken::default() };
        let made = [(); 2].map(|()| add_token(&file, &new, &Projects::default()).unwrap());
        let hashes = made.each_ref().map(|(_, entry)| entry.short_hash());
        let tokens = made.map(|(token, _)| token);
        let source = TokenSource::File(file);
        let access =
            Access::with_tokens(source, Projects::default(), || jiff::Timestamp::UNIX_EPOCH).unwrap();
        let server = Server::with(Setup { connection_limits, access, ..Setup::default() }).await;
        Self { folder, tokens, hashes, server }
    }

    fn bearer(&self, which: usize) -> String {
        format!("Bearer {}", self.tokens[which])
    }

    fn withdraw(&self, which: usize) {
        let file = self.folder.path().join("tokens.toml");
        revoke_tokens(&file, &self.hashes[which], &Projects::default()).unwrap();
        assert!(self.server.host.access.refresh(false));
        self.server.host.hub.wake_all();
    }

    async fn ws(&self, which: usize) -> Ws {
        let bearer = self.bearer(which);
        Ws::connect_with(self.server.address, "/ws", &[("authorization", &bearer)]).await.unwrap()
    }

    /// A session of Streamable HTTP.
    async fn session(&self, which: usize) -> String {
        let answer = self.post(which, None, &initialize()).await;
        assert_eq!(answer.status, 200);
        answer.header("mcp-session-id").to_owned()
    }

    async fn post(&self, which: usize, session: Option<&str>, message: &Value) -> Answer {
        let bearer = self.bearer(which);
        let mut headers = vec![("authorization", bearer.as_str())];
        headers.extend(session.map(|session| ("mcp-session-id", session)));
        self.server.http().await.post(message, &headers).await
    }

    async fn stream(&self, which: usize, path: &str, session: Option<&str>) -> Answer {
        let bearer = self.bearer(which);
        let mut headers = vec![("authorization", bearer.as_str()), ("accept", "text/event-stream")];
        headers.extend(session.map(|session| ("mcp-session-id", session)));
        let answer = self.server.http().await.send("GET", path, &headers, "").await;
        assert_eq!(answer.status, 200);
        answer
    }
}

fn initialize() -> Value {
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"}}})
}

fn ping(id: i64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "ping"})
}

fn wait(id: i64, tag: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
        "params": {"name": "wait", "arguments": {"tag": tag}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn every_transport_lets_go_of_its_clients_and_of_nobody_else() {
    let desk = Desk::open().await;
    let (mut gone, mut stays) = (desk.ws(0).await, desk.ws(1).await);
    gone.send(&initialize()).await;
    gone.receive().await;
    let session = desk.session(0).await;
    let mut get = desk.stream(0, "/mcp", Some(&session)).await;
    let mut sse = desk.stream(0, "/sse", None).await;
    assert_eq!(sse.message().await.unwrap().event.as_deref(), Some("endpoint"));

    desk.withdraw(0);
    let (code, reason) = gone.closed().await.expect("a close");
    assert_eq!(code, 1008, "{reason}");
    assert!(reason.contains("withdrawn") && !reason.contains(&desk.tokens[0]), "{reason}");
    assert_eq!(within("the end of the stream", get.message()).await, None);
    assert_eq!(within("the end of the stream", sse.message()).await, None);
    assert_eq!(desk.post(0, Some(&session), &ping(1)).await.status, 401);
    let bearer = desk.bearer(0);
    assert!(Ws::connect_with(desk.server.address, "/ws", &[("authorization", &bearer)]).await.is_err());

    stays.send(&ping(1)).await;
    assert_eq!(stays.receive().await["id"], 1);
    // The session is the principal's: its other token brings it back.
    assert_eq!(desk.post(1, Some(&session), &ping(1)).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_a_session_with_a_withdrawn_token_is_sent_away_whoever_used_it_last() {
    let desk = Desk::open().await;
    let session = desk.session(0).await;
    let mut get = desk.stream(0, "/mcp", Some(&session)).await;
    assert_eq!(desk.post(1, Some(&session), &ping(1)).await.status, 200);
    desk.withdraw(0);
    // Comments go on coming on a stream that stays.
    assert_eq!(within("the end of the stream", get.message()).await, None);
    // Its place is free.
    let _get = desk.stream(1, "/mcp", Some(&session)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_waits_for_room_does_not_run_once_its_token_is_withdrawn() {
    let limits = ConnectionLimits { inflight_requests_max: 1, ..ConnectionLimits::default() };
    let desk = Desk::with(limits).await;
    let session = desk.session(1).await;
    let asked = |which: usize, id: i64, tag: &'static str| {
        let (address, bearer, session) = (desk.server.address, desk.bearer(which), session.clone());
        tokio::spawn(async move {
            let headers = [("authorization", bearer.as_str()), ("mcp-session-id", session.as_str())];
            super::Http::connect(address).await.post(&wait(id, tag), &headers).await
        })
    };
    let first = asked(1, 1, "first");
    assert_eq!(desk.server.probe.next().await, Seen::Started("first".to_owned()));
    let second = asked(0, 2, "second");
    // Whether it waits by now or comes later, it must not run.
    tokio::task::yield_now().await;
    desk.withdraw(0);
    desk.server.probe.release("first");
    assert_eq!(second.await.unwrap().status, 401);
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(desk.server.probe.next().await, Seen::Ended("first".to_owned()));
    let third = asked(1, 3, "third");
    assert_eq!(desk.server.probe.next().await, Seen::Started("third".to_owned()));
    desk.server.probe.release("third");
    assert_eq!(third.await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_arrives_after_its_token_was_withdrawn_is_not_served() {
    let desk = Desk::open().await;
    let mut sse = desk.stream(1, "/sse", None).await;
    let messages = sse.message().await.unwrap().data.unwrap();
    let body = ping(1).to_string();
    let session = desk.session(1).await;
    let mut streams = Vec::new();
    for path in ["/mcp", &messages] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: {}\r\nmcp-session-id: {session}\r\n\
             content-type: application/json\r\naccept: */*\r\nexpect: 100-continue\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n",
            desk.bearer(0),
            body.len()
        );
        let mut stream = TcpStream::connect(desk.server.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        // The token was good: the body is asked for.
        let mut told = [0; 25];
        within("100 Continue", stream.read_exact(&mut told)).await.unwrap();
        assert!(told.starts_with(b"HTTP/1.1 100"));
        streams.push(stream);
    }
    desk.withdraw(0);
    for mut stream in streams {
        stream.write_all(body.as_bytes()).await.unwrap();
        let mut answer = String::new();
        within("the answer", stream.read_to_string(&mut answer)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        assert!(answer.contains("invalid_token") && !answer.contains(&desk.tokens[0]), "{answer}");
    }
}
