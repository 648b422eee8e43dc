//! A PostgreSQL server that stands still for a while: what callers of the real binary are told and how soon, what goes on
//! without it, and that all works again by itself.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tmws::{
    engine::{
        ErrorKind, NobodyToAsk, Outside,
        steps::{
            self, StepContext, StepError,
            sql::{Address, SourceSpec, Sources},
        },
    },
    pattern::{Permissions, StepRow},
    resilience::BreakerState,
    scope::{ProjectId, Scope},
    store::{LazyStore, SqliteOptions},
};
use tokio_util::sync::CancellationToken;

use crate::server::Server;

/// How long it stands still.
const FROZEN: Duration = Duration::from_secs(5);
/// How long afterwards a call may still fail.
const RECOVERY_MAX: Duration = Duration::from_secs(10);
/// A backstop: everything that is waited for happens long before.
const PATIENCE: Duration = Duration::from_mins(1);
/// `memory.recall` says that it takes two seconds at most; the machine may be busy.
const RECALL_MAX: Duration = Duration::from_secs(4);
/// What needs no memory takes milliseconds; the machine may be busy.
const UNHARMED: Duration = Duration::from_secs(2);

// --- The binary ---

/// `tmws serve` on a server.
struct Served {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Served {
    fn open(url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let workspace = folder.path().join("workspace");
        fs::create_dir(&workspace).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tmws"))
            .args(["serve", "--listen", "127.0.0.1:0", "--no-auth"])
            .current_dir(workspace)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", folder.path())
            .env("TMWS_DATABASE_URL", url)
            .env("TMWS_LIMITS_CALLS_PER_SECOND", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "the server does not listen");
            if let Some((_, rest)) = line.split_once("address=") {
                break rest.split_whitespace().next().unwrap().to_owned();
            }
        };
        // What it says later is nobody's concern, but must not block it.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Self { child, address, _folder: folder }
    }

    async fn client(&self) -> Client {
        // Once a process; there is no TLS here, but the client wants one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut client =
            Client { http: reqwest::Client::new(), address: self.address.clone(), session: String::new() };
        let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}});
        let response = client.post(&hello).await;
        client.session = response.headers()["mcp-session-id"].to_str().unwrap().to_owned();
        drop(response.text().await);
        client.post(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        client
    }

    async fn text(&self, path: &str) -> String {
        reqwest::get(format!("http://{}{path}", self.address)).await.unwrap().text().await.unwrap()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Client {
    http: reqwest::Client,
    address: String,
    session: String,
}

impl Client {
    async fn post(&self, message: &Value) -> reqwest::Response {
        let mut request = self
            .http
            .post(format!("http://{}/mcp", self.address))
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .body(message.to_string());
        if !self.session.is_empty() {
            request =
                request.header("mcp-session-id", &self.session).header("mcp-protocol-version", "2025-06-18");
        }
        request.send().await.unwrap()
    }

    /// Runs a pattern: whether it failed, and its answer.
    async fn run(&self, pattern: &str, input: Value) -> (bool, Value) {
        let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
            "name": "execute_pattern", "arguments": {"pattern": pattern, "input": input}}});
        let text = self.post(&call).await.text().await.unwrap();
        let mut events = text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim);
        let answer = events.rfind(|data| data.starts_with('{')).unwrap_or(&text);
        let answer: Value = serde_json::from_str(answer).unwrap_or_else(|_| panic!("{text}"));
        let result = &answer["result"];
        let text = result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"));
        (result["isError"] == true, serde_json::from_str(text).unwrap_or_else(|_| panic!("{text}")))
    }
}

/// What tasks that call without end see.
#[derive(Default)]
struct Seen {
    answers: AtomicUsize,
    errors: Mutex<Vec<Value>>,
    slowest: Mutex<Duration>,
    stop: AtomicBool,
}

impl Seen {
    fn took(&self, elapsed: Duration) {
        let mut slowest = self.slowest.lock().unwrap();
        *slowest = slowest.max(elapsed);
    }

    async fn call(&self, client: Client, pattern: &str, input: Value) {
        while !self.stop.load(Ordering::SeqCst) {
            let begun = Instant::now();
            let (failed, answer) = client.run(pattern, input.clone()).await;
            self.took(begun.elapsed());
            if failed {
                self.errors.lock().unwrap().push(answer);
                // A caller that is told to come again later does not come at once.
                tokio::time::sleep(Duration::from_millis(20)).await;
            } else {
                self.answers.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "{what} does not happen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "its figures")]
async fn a_database_that_stands_still_is_told_in_time_and_found_again_and_what_needs_no_memory_goes_on() {
    let server = Server::start().await;
    let tmws = Served::open(&server.url());
    let (recalls, others) = (Arc::<Seen>::default(), Arc::<Seen>::default());
    let mut tasks = Vec::new();
    for n in 0..8 {
        let (client, seen) = (tmws.client().await, Arc::clone(&recalls));
        // Each asks for something else, so that none gets another's answer.
        let input = json!({"query": format!("what was decided about number {n}")});
        tasks.push(tokio::spawn(async move { seen.call(client, "memory.recall", input).await }));
    }
    for _ in 0..2 {
        let (client, seen) = (tmws.client().await, Arc::clone(&others));
        tasks.push(tokio::spawn(async move { seen.call(client, "tmws.stats", json!({})).await }));
    }
    let count = |seen: &Seen| seen.answers.load(Ordering::SeqCst);
    until("recalling", async || count(&recalls) > 20 && count(&others) > 20).await;
    let early: Vec<Value> = std::mem::take(&mut *recalls.errors.lock().unwrap());
    *recalls.slowest.lock().unwrap() = Duration::ZERO;
    *others.slowest.lock().unwrap() = Duration::ZERO;
    assert!(
        tmws.text("/metrics")
            .await
            .contains(r#"tmws_breaker_state{kind="database",name="store",state="closed"} 1"#)
    );

    server.freeze();
    let frozen = Instant::now();
    let before = count(&others);
    let (mut not_closed, mut degraded, mut told) = (false, false, false);
    let client = tmws.client().await;
    while frozen.elapsed() < FROZEN {
        let metrics = tmws.text("/metrics").await;
        not_closed |=
            metrics.contains(r#"tmws_breaker_state{kind="database",name="store",state="closed"} 0"#);
        degraded |= tmws.text("/readyz").await.contains("degraded");
        let (_, stats) = client.run("tmws.stats", json!({})).await;
        told |= stats["degraded"].to_string().contains("database store: ");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let during = count(&others) - before;
    server.thaw();
    let after = count(&recalls);
    let back = until("recovery", async || count(&recalls) > after).await;
    until("closing", async || {
        tmws.text("/metrics")
            .await
            .contains(r#"tmws_breaker_state{kind="database",name="store",state="closed"} 1"#)
    })
    .await;
    until("being ready", async || tmws.text("/readyz").await.contains(r#""status":"ready""#)).await;
    for seen in [&recalls, &others] {
        seen.stop.store(true, Ordering::SeqCst);
    }
    for task in tasks {
        task.await.unwrap();
    }

    let errors = recalls.errors.lock().unwrap();
    let (slowest, unharmed) = (*recalls.slowest.lock().unwrap(), *others.slowest.lock().unwrap());
    println!(
        "stood still for {FROZEN:?}: {} recalls failed, the slowest call took {slowest:?}; the first answer came {back:?} \
         after it went on; beside it {during} calls without memory, the slowest {unharmed:?}; before: {early:?}",
        errors.len()
    );
    assert!(errors.len() > 5, "nobody noticed");
    for error in &*errors {
        assert_eq!(error["error"], "store_unavailable", "{error}");
        assert!(error["retry_after_ms"].as_u64().is_some_and(|pause| pause > 0), "{error}");
        assert!(!error.to_string().contains("postgres@"), "{error}");
    }
    assert!(slowest < RECALL_MAX, "a recall took {slowest:?}");
    assert!(unharmed < UNHARMED && during > 20, "{during} calls without memory, the slowest {unharmed:?}");
    assert_eq!(*others.errors.lock().unwrap(), [] as [Value; 0]);
    assert!(not_closed && degraded && told, "metrics {not_closed}, readyz {degraded}, stats {told}");
    assert!(back < RECOVERY_MAX, "back after {back:?}");
}

// --- A database that patterns read ---

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_stands_still_is_left_alone_and_read_again_afterwards() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let spec = |name: &str, address: &str| {
        let mut spec = SourceSpec::new(name, Address::parse(address).unwrap());
        spec.timeout = Duration::from_secs(3);
        spec
    };
    let file = folder.path().join("other.db");
    steps::sql::make_sqlite(&file, "CREATE TABLE t (n)").await.unwrap();
    let specs = [spec("still", &server.url()), spec("other", &format!("sqlite:{}", file.display()))];
    let outside = Outside { sql: Sources::new(specs, true, |_| None), ..Outside::default() };
    let context = StepContext {
        scope: Scope::mint(ProjectId::parse("shop").unwrap(), "local", "default", None),
        store: Arc::new(LazyStore::new(SqliteOptions::new(folder.path().join("store.db")))),
        listener: None,
        roots: std::collections::BTreeMap::default(),
        permissions: Arc::new(Permissions { sql: vec!["*".to_owned()], ..Permissions::default() }),
        outside: Arc::new(outside),
        asker: Arc::new(NobodyToAsk),
        id: "step".to_owned(),
        now: "2026-03-01T12:00:00Z".parse().unwrap(),
        deadline: Instant::now() + PATIENCE * 5,
        cancel: CancellationToken::new(),
        bytes_max: 1 << 20,
    };
    let ask = async |source: &str| -> Result<Value, StepError> {
        let Value::Object(with) = json!({"source": source, "query": "SELECT 1"}) else { unreachable!() };
        let row = StepRow::find("sql.query").unwrap();
        steps::run(row, &context, &with).await.map(|output| output.value)
    };
    assert_eq!(ask("still").await.unwrap()["rows"], json!([[1]]));
    server.freeze();
    let ended = futures_util::future::join_all((0..6).map(|_| ask("still"))).await;
    for error in ended.into_iter().map(Result::unwrap_err) {
        assert!(
            matches!(error.kind, ErrorKind::Deadline | ErrorKind::ProgramFailed | ErrorKind::Busy),
            "{error:?}"
        );
    }
    // The breaker lets one probe through at a time: whoever is turned away is told so at once, and when to come again.
    let began = Instant::now();
    let turned_away = loop {
        let begun = Instant::now();
        let error = ask("still").await.unwrap_err();
        if error.retry_after.is_some() {
            break begun.elapsed();
        }
        assert!(began.elapsed() < PATIENCE, "nobody is turned away: {error:?}");
    };
    assert!(turned_away < Duration::from_secs(1), "{turned_away:?}");
    assert_eq!(ask("other").await.unwrap()["n"], 1, "the other one is read");
    let degraded = context.outside.degraded(&context.scope);
    assert!(degraded.iter().any(|text| text.starts_with("source still: ")), "{degraded:?}");
    server.thaw();
    let back = until("recovery", async || ask("still").await.is_ok()).await;
    assert!(back < RECOVERY_MAX, "back after {back:?}");
    let standings = context.outside.backends.standings(Instant::now());
    assert!(standings.iter().all(|standing| standing.breaker == BreakerState::Closed), "{standings:?}");
    context.outside.close().await;
}
