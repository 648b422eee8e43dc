//! M9: clients that come and go.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use super::{all, crew, setup};
use crate::accept::{
    client::{Client, LEGACY, MODERN, Target},
    load::{Dice, Recorder, workers},
    metrics::Metrics,
    scenario::{Broken, Seen},
    stage::{Instance, Stage},
};

/// How often somebody comes and goes.
const COMINGS: usize = 1_000;
/// Before anything is counted: whatever is kept for the next, such as connections to a database file, is there then.
const WARMING: usize = 400;
/// What a connection to the file has: a thread, and the file and its log open.
const THREADS_EACH: f64 = 1.0;
const DESCRIPTORS_EACH: f64 = 2.0;
/// So many at the same time.
const AT_ONCE: usize = 24;
/// One of them takes no longer.
const ONE_MAX: Duration = Duration::from_secs(30);
/// Sessions over HTTP that nobody ends are put out of memory after so long.
const IDLE: Duration = Duration::from_secs(1);
/// After the last one has gone all is as before within this.
const QUIET_MAX: Duration = Duration::from_secs(20);
/// Where nothing has changed for so long, nothing will: threads that wait for work take five seconds to end.
const STILL: Duration = Duration::from_secs(8);
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// How somebody comes and goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// A WebSocket, with a call and a close.
    Clean,
    /// The same, ended without a close.
    Abrupt,
    /// The same, reset.
    Reset,
    /// A WebSocket of which half of the request was sent.
    HalfUpgrade,
    /// A whole request for a WebSocket, whose answer nobody reads.
    UnreadUpgrade,
    /// A legacy session that was begun and not finished.
    HalfInitialize,
    /// A call that nobody waits for, over WebSocket.
    MidCall,
    /// The same, over HTTP.
    MidPost,
    /// One request over HTTP.
    Http,
    /// A session over HTTP that nobody ends.
    HttpSession,
    /// A stream of events.
    Sse,
    /// A connection on which nothing is said.
    Silent,
}

const WAYS: [Way; 12] = [
    Way::Clean,
    Way::Abrupt,
    Way::Reset,
    Way::HalfUpgrade,
    Way::UnreadUpgrade,
    Way::HalfInitialize,
    Way::MidCall,
    Way::MidPost,
    Way::Http,
    Way::HttpSession,
    Way::Sse,
    Way::Silent,
];

/// What is counted before and after.
#[derive(Clone, Debug)]
struct Counted {
    connections: f64,
    calls: f64,
    sessions: f64,
    threads: f64,
    descriptors: usize,
    /// Connections of the store to its file. Their number has a bound and they stay, so a new one is nothing that leaked.
    store: f64,
    /// Sessions and results that the store keeps.
    rows: i64,
    resident: u64,
}

impl Counted {
    async fn of(instance: &Instance) -> Result<Self, Broken> {
        let metrics = Metrics::of(instance).await?;
        let calls = ["tmws_calls_in_flight", "tmws_calls_waiting", "tmws_tasks_running"];
        Ok(Self {
            connections: metrics.sum("tmws_connections", &[]),
            calls: calls.iter().map(|name| metrics.sum(name, &[])).sum(),
            sessions: metrics.sum("tmws_sessions", &[]),
            threads: metrics.sum("process_threads", &[]),
            store: metrics.sum("tmws_store_connections", &[]),
            descriptors: instance
                .descriptors()
                .ok_or_else(|| Broken::new("counting descriptors", "a folder in /proc", "there is none"))?,
            rows: rows(&instance.home.join("tmws.db")).await?,
            resident: instance.resident().unwrap_or(0),
        })
    }

    /// Whether it counts what `other` counts; memory aside, which is never the same.
    fn is_like(&self, other: &Self) -> bool {
        let counts = |it: &Self| {
            let counted = [it.connections, it.calls, it.sessions, it.threads].map(|count| count as u64);
            (counted, it.descriptors, it.rows)
        };
        counts(self) == counts(other)
    }

    /// What there is beyond `before`: tasks (connections, calls and threads), descriptors and handles.
    fn beyond(&self, before: &Self) -> [f64; 3] {
        let more = |now: f64, then: f64| (now - then).max(0.0);
        let opened = more(self.store, before.store);
        [
            more(self.connections, before.connections)
                + more(self.calls, before.calls)
                + more(self.threads, before.threads + opened * THREADS_EACH),
            more(self.descriptors as f64, before.descriptors as f64 + opened * DESCRIPTORS_EACH),
            more(self.sessions, before.sessions) + more(self.rows as f64, before.rows as f64),
        ]
    }
}

/// M9: clients come and go in twelve ways, politely and not. Before and after, when all is quiet: connections, calls
/// being worked on and threads (each connection and each call is a task, and there is no figure of others), open
/// descriptors of the process, and sessions in memory and handles in the store.
pub(super) async fn run(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let mut setup = setup();
    setup.settings.push(("limits.http_session_idle", format!("{}ms", IDLE.as_millis())));
    let mut instance = stage.start(setup).await?;
    // The store is there from its first use on.
    let mut first = Client::socket("the first", &Target::of(&instance, crew()[0], "alpha"), MODERN).await?;
    let called = first.call("remember", json!({"content": "Somebody was here."})).await?;
    first.well("remembering", called)?;
    drop(first);
    come_and_go(&instance, stage.seed, WARMING).await?;
    // Threads that wait for work go; what is left is the server's own.
    let (before, quiet) = settled(&instance, |counted| {
        counted.connections <= 1.0 && counted.sessions == 0.0 && counted.calls == 0.0
    })
    .await?;
    seen.check("all is quiet after the first who came and went", quiet, "no session", "there are some");
    let came = come_and_go(&instance, stage.seed.wrapping_add(1), COMINGS).await?;
    let at_once = Counted::of(&instance).await?;
    let (after, _) =
        settled(&instance, |counted| counted.beyond(&before).iter().all(|more| *more <= 0.0)).await?;
    let [tasks, descriptors, handles] = after.beyond(&before);
    seen.figure("tasks", tasks);
    seen.figure("descriptors", descriptors);
    seen.figure("handles", handles);
    seen.equal("came and went as they meant to", &COMINGS, &came);
    seen.check("the server runs", instance.is_running(), "as before", "it has ended");
    seen.note(format!("Before: {before:?}. Just after: {at_once:?}. When quiet: {after:?}."));
    seen.data.push((
        "growth_of_memory_mb",
        json!((after.resident as f64 - before.resident as f64) / f64::from(1 << 20)),
    ));
    let mut client =
        Client::socket("whoever comes after", &Target::of(&instance, crew()[0], "alpha"), MODERN).await?;
    let called = client.run("accept.echo", json!({"text": "still here"})).await?;
    seen.equal("an answer to who comes after", &json!("still here"), &called.body["text"]);
    drop(client);
    instance.end().await?;
    Ok(())
}

/// What is counted once it `holds`, or once waiting does not help any more; and whether it held.
async fn settled(instance: &Instance, holds: impl Fn(&Counted) -> bool) -> Result<(Counted, bool), Broken> {
    let begun = Instant::now();
    let mut last = (Counted::of(instance).await?, Instant::now());
    loop {
        let held = holds(&last.0);
        if held || begun.elapsed() > QUIET_MAX || last.1.elapsed() > STILL {
            return Ok((last.0, held));
        }
        tokio::time::sleep(LOOK_EVERY).await;
        let counted = Counted::of(instance).await?;
        let since = if counted.is_like(&last.0) { last.1 } else { Instant::now() };
        last = (counted, since);
    }
}

/// How many came and went as they meant to.
async fn come_and_go(instance: &Instance, seed: u64, times: usize) -> Result<usize, Broken> {
    let targets: Arc<Vec<Target>> =
        Arc::new(crew().into_iter().map(|person| Target::of(instance, person, "alpha")).collect());
    let (next, well, failed) =
        (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Recorder::new());
    let ended = workers(AT_ONCE, |_| {
        let (targets, next, well, failed) =
            (Arc::clone(&targets), Arc::clone(&next), Arc::clone(&well), Arc::clone(&failed));
        async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= times {
                    return Ok(());
                }
                let mut dice = Dice::new(seed, number as u64);
                let target = &targets[dice.roll(targets.len() as u64) as usize];
                let way = WAYS[number % WAYS.len()];
                match timeout(ONE_MAX, once(target, way, &mut dice)).await {
                    Ok(Ok(())) => {
                        well.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(Err(broken)) => failed.failed(&broken),
                    Err(_) => failed.failed(&format!("{way:?}: nothing in {ONE_MAX:?}")),
                }
            }
        }
    })
    .await;
    all::<()>("coming and going", AT_ONCE, ended)?;
    let mut told = Seen::default();
    failed.tell(&mut told);
    match told.evidence.first() {
        Some(first) => Err(Broken::new(
            "coming and going",
            format!("all {times} as they meant to"),
            format!("{} did not: {first}", failed.failed_count()),
        )),
        None => Ok(well.load(Ordering::Relaxed)),
    }
}

/// Somebody comes and goes.
async fn once(target: &Target, way: Way, dice: &mut Dice) -> Result<(), Broken> {
    let broken =
        |seen: &dyn std::fmt::Display| Broken::new(format!("coming and going ({way:?})"), "as meant", seen);
    let legacy = LEGACY[dice.roll(LEGACY.len() as u64) as usize];
    let is_legacy = dice.roll(2) == 0;
    match way {
        Way::Clean | Way::Abrupt | Way::Reset => {
            let mut socket = socket(target, way == Way::Reset).await?;
            if is_legacy {
                exchange(&mut socket, &initialize(legacy)).await?;
                let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
                say(&mut socket, &initialized).await?;
            }
            let answer = exchange(&mut socket, &call(!is_legacy, "hello")).await?;
            if !answer.contains("hello") {
                return Err(broken(&answer));
            }
            if way == Way::Clean {
                socket.close(None).await.map_err(|error| broken(&error))?;
                while let Some(Ok(_)) = socket.next().await {}
            }
        }
        Way::HalfInitialize => {
            let mut socket = socket(target, is_legacy).await?;
            say(&mut socket, &initialize(legacy)).await?;
        }
        Way::MidCall => {
            let mut socket = socket(target, is_legacy).await?;
            let work = json!({"name": "execute_pattern", "arguments":
                {"pattern": "accept.newest", "input": {"tag": format!("tag-{}", dice.roll(1 << 40))}}});
            say(&mut socket, &modern("tools/call", work)).await?;
        }
        Way::HalfUpgrade => {
            let head = upgrade(target);
            let part = dice.roll(head.len() as u64 - 1) as usize;
            raw(target, &head.as_bytes()[..part], None, dice).await?;
        }
        Way::UnreadUpgrade => raw(target, upgrade(target).as_bytes(), None, dice).await?,
        Way::MidPost => raw(target, post(target, &call(true, "hello")).as_bytes(), None, dice).await?,
        Way::Sse => {
            let head = head(target, "GET", "/p/alpha/sse", &["accept: text/event-stream"]);
            raw(target, head.as_bytes(), Some("endpoint"), dice).await?;
        }
        Way::Silent => raw(target, &[], None, dice).await?,
        Way::Http | Way::HttpSession => {
            let revision = if way == Way::Http { MODERN } else { legacy };
            let mut client = Client::http("a passer-by", target, revision).await?;
            let called = client.run("accept.echo", json!({"text": "hello"})).await?;
            if called.body["text"] != "hello" {
                return Err(broken(&called.body));
            }
        }
    }
    Ok(())
}

type Socket = WebSocketStream<TcpStream>;

/// A WebSocket whose end, where nobody closes it, is a reset or not.
async fn socket(target: &Target, is_reset: bool) -> Result<Socket, Broken> {
    let broken = |seen: &dyn std::fmt::Display| Broken::new("opening a WebSocket", "101", seen);
    let stream = connect(target, is_reset).await?;
    let url = format!("ws://{}{}", target.authority(), target.socket_path);
    let mut request = url.into_client_request().map_err(|error| broken(&error))?;
    let headers = request.headers_mut();
    headers.insert("sec-websocket-protocol", "mcp".parse().map_err(|error| broken(&error))?);
    headers.insert("authorization", bearer(target).parse().map_err(|error| broken(&error))?);
    client_async(request, stream).await.map(|(socket, _)| socket).map_err(|error| broken(&error))
}

async fn connect(target: &Target, is_reset: bool) -> Result<TcpStream, Broken> {
    let broken = |error: std::io::Error| Broken::new("connecting", "a connection", error);
    let stream = TcpStream::connect((target.host.as_str(), target.port)).await.map_err(broken)?;
    if is_reset {
        stream.set_zero_linger().map_err(broken)?;
    }
    Ok(stream)
}

async fn say(socket: &mut Socket, message: &Value) -> Result<(), Broken> {
    let said = socket.send(Message::text(message.to_string())).await;
    said.map_err(|error| Broken::new("sending a frame", "it is taken", error))
}

/// Sends a request, and gives the text that comes next.
async fn exchange(socket: &mut Socket, message: &Value) -> Result<String, Broken> {
    say(socket, message).await?;
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Ok(text.to_string()),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(Broken::new("waiting for a frame", "a frame", error)),
            None => return Err(Broken::new("waiting for a frame", "a frame", "the end of the connection")),
        }
    }
}

/// Sends bytes as they are, reads until `awaited` is there, and goes: every other one with a reset.
async fn raw(target: &Target, bytes: &[u8], awaited: Option<&str>, dice: &mut Dice) -> Result<(), Broken> {
    let broken = |error: std::io::Error| Broken::new("sending bytes", "they are taken", error);
    let mut stream = connect(target, dice.roll(2) == 0).await?;
    stream.write_all(bytes).await.map_err(broken)?;
    let Some(awaited) = awaited else { return Ok(()) };
    let mut come = Vec::new();
    while !String::from_utf8_lossy(&come).contains(awaited) {
        if stream.read_buf(&mut come).await.map_err(broken)? == 0 {
            let seen = String::from_utf8_lossy(&come).into_owned();
            return Err(Broken::new("waiting for an event", awaited, seen));
        }
    }
    Ok(())
}

fn bearer(target: &Target) -> String {
    format!("Bearer {}", target.token.as_deref().unwrap_or_default())
}

fn head(target: &Target, method: &str, path: &str, headers: &[&str]) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\n", target.authority());
    for header in [format!("authorization: {}", bearer(target)).as_str()].iter().chain(headers) {
        head.push_str(header);
        head.push_str("\r\n");
    }
    head + "\r\n"
}

fn upgrade(target: &Target) -> String {
    let key = format!("sec-websocket-key: {}", STANDARD.encode([7_u8; 16]));
    let headers = [
        "upgrade: websocket",
        "connection: Upgrade",
        "sec-websocket-version: 13",
        "sec-websocket-protocol: mcp",
        &key,
    ];
    head(target, "GET", &target.socket_path, &headers)
}

fn post(target: &Target, message: &Value) -> String {
    let body = message.to_string();
    let length = format!("content-length: {}", body.len());
    let version = format!("mcp-protocol-version: {MODERN}");
    let headers = [
        "content-type: application/json",
        "accept: application/json, text/event-stream",
        "mcp-method: tools/call",
        "mcp-name: execute_pattern",
        &version,
        &length,
    ];
    head(target, "POST", &target.http_path, &headers) + &body
}

fn initialize(revision: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": revision,
        "capabilities": {}, "clientInfo": {"name": "tmws-accept", "version": env!("CARGO_PKG_VERSION")}}})
}

fn call(is_modern: bool, text: &str) -> Value {
    let params =
        json!({"name": "execute_pattern", "arguments": {"pattern": "accept.echo", "input": {"text": text}}});
    if is_modern {
        modern("tools/call", params)
    } else {
        json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params})
    }
}

fn modern(method: &str, mut params: Value) -> Value {
    params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {}});
    json!({"jsonrpc": "2.0", "id": 2, "method": method, "params": params})
}

/// Sessions and results that a store in a file keeps.
async fn rows(path: &Path) -> Result<i64, Broken> {
    let asked = async {
        let options = SqliteConnectOptions::new().filename(path).read_only(true);
        let mut connection = SqliteConnection::connect_with(&options).await?;
        let found: i64 =
            sqlx::query_scalar("SELECT (SELECT count(*) FROM session) + (SELECT count(*) FROM result)")
                .fetch_one(&mut connection)
                .await?;
        connection.close().await?;
        Ok(found)
    };
    asked.await.map_err(|error: sqlx::Error| Broken::new("counting what the store keeps", "a number", error))
}
