//! A thousand come and go, politely and not; afterwards all is as it was.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::{
    client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use super::process::Served;
use crate::network::{Http, PATIENCE, within};

const VISITS: usize = 1_000;
/// What is made once (the store's connections, worker threads, the allocator's arenas) is made by then.
const FIRST_VISITS: usize = 500;
const AT_ONCE: usize = 16;
/// What the allocator may keep of a thousand visits, beyond what it kept of the first: 4 KiB each would be 4 MiB.
const RSS_KIB_MAX: usize = 3 << 10;
/// Sessions that nobody ended go after so long.
const SESSION_IDLE: &str = "limits.http_session_idle=1s";

/// How a visit goes.
#[derive(Clone, Copy, Debug)]
enum Visit {
    WsWhole,
    WsReset,
    WsResetInCall,
    WsHalfAHandshake,
    TcpAlone,
    HttpWhole,
    HttpResetWithStream,
    HttpModern,
    HttpHalfABody,
    HttpResetInCall,
    SseReset,
}

const VISITS_OF_ALL_KINDS: [Visit; 11] = [
    Visit::WsWhole,
    Visit::WsReset,
    Visit::WsResetInCall,
    Visit::WsHalfAHandshake,
    Visit::TcpAlone,
    Visit::HttpWhole,
    Visit::HttpResetWithStream,
    Visit::HttpModern,
    Visit::HttpHalfABody,
    Visit::HttpResetInCall,
    Visit::SseReset,
];

fn initialize() -> Value {
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "churn", "version": "1"}}})
}

fn call() -> Value {
    let lines: Vec<String> = (0..50).map(|n| format!("line {n} of what is said")).collect();
    let arguments = json!({"pattern": "test.echo", "input": {"mark": "churn", "lines": lines}});
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "execute_pattern", "arguments": arguments}})
}

async fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Leaves with a reset: whatever was on the way is gone.
fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
    drop(stream);
}

fn post(path: &str, headers: &str, message: &Value) -> String {
    let body = message.to_string();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

async fn open_http(http: &mut Http) -> String {
    let answer = http.post(&initialize(), &[]).await;
    assert_eq!(answer.status, 200);
    let session = answer.header("mcp-session-id").to_owned();
    drop(answer.text().await);
    let headers = [("mcp-session-id", session.as_str()), ("mcp-protocol-version", "2025-11-25")];
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    assert_eq!(http.post(&initialized, &headers).await.status, 202);
    session
}

impl Visit {
    async fn happen(self, address: SocketAddr) {
        match self {
            Self::WsWhole | Self::WsReset | Self::WsResetInCall => self.web_socket(address).await,
            Self::WsHalfAHandshake => {
                let mut stream = tcp(address).await;
                let head = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upg";
                stream.write_all(head.as_bytes()).await.unwrap();
                reset(stream);
            }
            Self::TcpAlone => drop(tcp(address).await),
            Self::HttpWhole => {
                let mut http = Http::connect(address).await;
                let session = open_http(&mut http).await;
                let headers = [("mcp-session-id", session.as_str()), ("mcp-protocol-version", "2025-11-25")];
                let answer = http.post(&call(), &headers).await;
                assert_eq!(answer.status, 200);
                drop(answer.text().await);
                assert!(http.send("DELETE", "/mcp", &headers, "").await.status.is_success());
            }
            Self::HttpResetWithStream => {
                let session = open_http(&mut Http::connect(address).await).await;
                let mut stream = tcp(address).await;
                let head = format!(
                    "GET /mcp HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\nMcp-Session-Id: {session}\r\nMcp-Protocol-Version: 2025-11-25\r\n\r\n"
                );
                stream.write_all(head.as_bytes()).await.unwrap();
                let read = within("the stream's head", stream.read(&mut [0; 512])).await.unwrap();
                assert!(read > 0);
                reset(stream);
            }
            Self::HttpModern => {
                let mut message = call();
                message["params"]["_meta"] = json!({
                    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                    "io.modelcontextprotocol/clientCapabilities": {},
                });
                let headers = [
                    ("mcp-protocol-version", "2026-07-28"),
                    ("mcp-method", "tools/call"),
                    ("mcp-name", "execute_pattern"),
                ];
                let answer = Http::connect(address).await.post(&message, &headers).await;
                assert_eq!(answer.status, 200);
                drop(answer.text().await);
            }
            Self::HttpHalfABody => {
                let mut stream = tcp(address).await;
                let request = post("/mcp", "", &initialize());
                stream.write_all(&request.as_bytes()[..request.len() - 40]).await.unwrap();
                reset(stream);
            }
            Self::HttpResetInCall => {
                let session = open_http(&mut Http::connect(address).await).await;
                let mut stream = tcp(address).await;
                let headers = format!("Mcp-Session-Id: {session}\r\nMcp-Protocol-Version: 2025-11-25\r\n");
                stream.write_all(post("/mcp", &headers, &call()).as_bytes()).await.unwrap();
                reset(stream);
            }
            Self::SseReset => {
                let mut stream = tcp(address).await;
                let head = "GET /sse HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n";
                stream.write_all(head.as_bytes()).await.unwrap();
                let read = within("the stream's head", stream.read(&mut [0; 512])).await.unwrap();
                assert!(read > 0);
                reset(stream);
            }
        }
    }

    async fn web_socket(self, address: SocketAddr) {
        use futures_util::SinkExt as _;
        let request = format!("ws://{address}/ws").into_client_request().unwrap();
        let (mut ws, _) = within("the handshake", client_async(request, tcp(address).await)).await.unwrap();
        ws.send(Message::text(initialize().to_string())).await.unwrap();
        assert!(within("an answer", ws.next()).await.unwrap().unwrap().is_text());
        match self {
            Self::WsWhole => {
                ws.send(Message::text(call().to_string())).await.unwrap();
                assert!(within("an answer", ws.next()).await.unwrap().unwrap().is_text());
                ws.close(None).await.unwrap();
                while let Some(Ok(_)) = within("the close", ws.next()).await {}
            }
            Self::WsResetInCall => {
                ws.send(Message::text(call().to_string())).await.unwrap();
                reset(ws.into_inner());
            }
            _ => reset(ws.into_inner()),
        }
    }
}

async fn visits(address: SocketAddr, count: usize) {
    stream::iter(0..count)
        .for_each_concurrent(AT_ONCE, |number| {
            VISITS_OF_ALL_KINDS[number % VISITS_OF_ALL_KINDS.len()].happen(address)
        })
        .await;
}

/// What a server holds on to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    threads: usize,
    connections: i64,
    sessions: i64,
}

async fn held(served: &Served) -> Held {
    Held {
        connections: served.gauge("tmws_connections").await,
        sessions: served.gauge("tmws_sessions").await,
        descriptors: served.descriptors(),
        threads: served.status("Threads"),
    }
}

/// Waits until no more is held than `base`; threads for blocking work go some seconds after it.
async fn settled(served: &Served, base: Option<Held>) -> Held {
    let begun = Instant::now();
    let mut before = held(served).await;
    loop {
        // An interval of looking, not a wait that anything depends on.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = held(served).await;
        let enough = match base {
            Some(base) => {
                now.descriptors <= base.descriptors
                    && now.threads <= base.threads
                    && now.connections <= base.connections
                    && now.sessions <= base.sessions
            }
            // The one that asks is a connection.
            None => now == before && now.sessions == 0 && now.connections <= 1,
        };
        if enough {
            return now;
        }
        assert!(begun.elapsed() < PATIENCE, "still held: {now:?}; at first: {base:?}");
        before = now;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_come_and_go_and_leave_nothing_behind() {
    let served = Served::launch(false, &["limits.calls_per_second=0", SESSION_IDLE]);
    visits(served.address, FIRST_VISITS).await;
    let base = settled(&served, None).await;
    let rss = served.status("VmRSS");
    visits(served.address, VISITS).await;
    let after = settled(&served, Some(base)).await;
    let grown = served.status("VmRSS").saturating_sub(rss);
    assert!(grown <= RSS_KIB_MAX, "{grown} KiB more after {VISITS} visits than before: {base:?}, {after:?}");
    served.end();
}
