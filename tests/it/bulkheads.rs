//! What calls that hang leave to all others of the same connection, on the real binary; and the figures of what waits.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]
#![expect(clippy::float_cmp, reason = "what is counted is whole")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, sqlite::SqliteConnectOptions};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::Notify,
};

use crate::support::{
    program::{Program, Socket, hello, pattern},
    scratch::Scratch,
};

/// What has a place is answered in milliseconds, what has to wait for one in half a second; the machine may be busy.
const PROMPT: Duration = Duration::from_secs(3);
/// As many as a connection may have, and more.
const CALLS: i64 = 100;

/// A host that answers when it is told to.
struct Host {
    address: SocketAddr,
    /// Questions that came, and those whose asker has left.
    asked: Arc<AtomicUsize>,
    left: Arc<AtomicUsize>,
    answers: Arc<AtomicBool>,
    told: Arc<Notify>,
}

impl Host {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = Self {
            address: listener.local_addr().unwrap(),
            asked: Arc::default(),
            left: Arc::default(),
            answers: Arc::default(),
            told: Arc::default(),
        };
        let (asked, left) = (Arc::clone(&host.asked), Arc::clone(&host.left));
        let (answers, told) = (Arc::clone(&host.answers), Arc::clone(&host.told));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (asked, left) = (Arc::clone(&asked), Arc::clone(&left));
                let (answers, told) = (Arc::clone(&answers), Arc::clone(&told));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await?);
                    }
                    asked.fetch_add(1, Ordering::SeqCst);
                    let told = told.notified();
                    if !answers.load(Ordering::SeqCst) {
                        tokio::select! {
                            () = told => {}
                            _ = stream.read_u8() => {
                                left.fetch_add(1, Ordering::SeqCst);
                                return Ok(());
                            }
                        }
                    }
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await?;
                    stream.shutdown().await
                });
            }
        });
        host
    }

    /// From now on it answers, those with it that wait.
    fn answer(&self) {
        self.answers.store(true, Ordering::SeqCst);
        self.told.notify_waiters();
    }

    /// The configuration that lets it be reached.
    fn config(&self) -> String {
        format!("[http]\nprivate_hosts = [\"{}\"]\n", self.address)
    }

    /// Fetches one of its pages.
    fn pattern(&self) -> (&'static str, String) {
        let body = format!(
            "type: infrastructure\n\
             inputs: {{type: object, additionalProperties: false, required: [page], properties: {{page: {{type: string}}}}}}\n\
             permissions: {{http: ['{0}']}}\nlimits: {{timeout: 25s, max_steps: 2, max_bytes: 1MiB}}\n\
             steps:\n  - {{id: fetched, uses: http.get, with: {{url: '${{ \"http://{0}/\" + .inputs.page }}'}}}}\n\
             output:\n  schema: {{type: object, required: [text], properties: {{text: {{type: string}}}}}}\n  \
             value: '${{ {{text: .steps.fetched.text}} }}'\n  budget: {{tokens: 120}}\n",
            self.address
        );
        ("test.fetch", pattern("test.fetch", &body))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_hangs_leaves_its_connection_room_for_all_else() {
    let host = Host::new().await;
    let program = Program::serve(&host.config(), &[host.pattern()], &[]);
    let mut socket = Socket::open(&program).await;
    // What is loaded at first is loaded.
    assert!(!socket.ran("tmws.stats", json!({})).await.is_error());
    let mut calls = Vec::new();
    for n in 0..CALLS {
        calls.push(socket.run("test.fetch", json!({"page": n.to_string()})).await);
    }
    let ping = socket.send("ping", &json!({})).await;
    let pong = socket.answer(ping).await;
    assert!(pong.took < PROMPT && pong.frame["result"].is_object(), "{pong:?}");
    let list = socket.send("tools/list", &json!({})).await;
    let stats = socket.run("tmws.stats", json!({})).await;
    let remembered = json!({"name": "remember", "arguments": {"content": "beside a host that hangs"}});
    let remembered = socket.send("tools/call", &remembered).await;
    for (what, id) in [("the list", list), ("another pattern", stats), ("another backend", remembered)] {
        let answer = socket.answer(id).await;
        assert!(answer.took < PROMPT && !answer.is_error(), "{what}: {answer:?}");
    }
    let begun = Instant::now();
    let cancel =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": calls[0]}});
    socket.say(&cancel).await;
    while host.left.load(Ordering::SeqCst) == 0 {
        assert!(begun.elapsed() < PROMPT, "the cancelled call goes on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Those that found no room at the host are told so, with a time to come back; the others wait for it.
    let last = socket.answer(*calls.last().unwrap()).await;
    let body = last.body();
    assert!(
        body["error"] == "busy" && body["retry_after_ms"].as_u64().is_some_and(|pause| pause > 0),
        "{body}"
    );
    assert!(last.took < PROMPT, "{last:?}");
    assert_eq!(last.receipt()["pattern"], "test.fetch@1.0.0", "{last:?}");
    assert!(last.degraded().contains("busy"), "{last:?}");
    // One connection has no more than its share; the place of the cancelled call may have been taken again.
    let asked = host.asked.load(Ordering::SeqCst);
    assert!((16..=17).contains(&asked), "{asked} of one connection");
    host.answer();
    assert_eq!(socket.answer(calls[1]).await.body()["text"], "ok");
    let labels = format!("name=\"{}\"", host.address);
    program.until_none("tmws_backend_in_use", &labels).await;
    program.until_none("tmws_backend_waiting", &labels).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_to_a_host_that_is_quick_is_answered_whole() {
    let host = Host::new().await;
    host.answer();
    let program = Program::serve(&host.config(), &[host.pattern()], &[]);
    let mut socket = Socket::open(&program).await;
    let mut calls = Vec::new();
    for n in 0..CALLS {
        calls.push(socket.run("test.fetch", json!({"page": n.to_string()})).await);
    }
    for call in calls {
        assert_eq!(socket.answer(call).await.body()["text"], "ok");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_stdio_a_ping_and_a_cancellation_are_heard_while_all_calls_hang() {
    let host = Host::new().await;
    let scratch = Scratch::new();
    let folder = scratch.path("home/.config/tmws/patterns");
    fs::create_dir_all(&folder).unwrap();
    let (name, text) = host.pattern();
    fs::write(folder.join(format!("{name}.yaml")), text).unwrap();
    fs::write(scratch.path("home/.config/tmws/tmws.toml"), host.config()).unwrap();
    let mut command = scratch.command(&["stdio", "--setting", "limits.inflight_requests=8"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (mut input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut say = move |message: Value| input.write_all(format!("{message}\n").as_bytes()).unwrap();
    let (frames, mut heard) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let frame: Value = serde_json::from_str(&line).unwrap();
            if frames.send(frame).is_err() {
                return;
            }
        }
    });
    let mut answer = async |id: i64| -> Value {
        loop {
            let frame = tokio::time::timeout(Duration::from_secs(20), heard.recv()).await;
            let frame = frame.unwrap_or_else(|_| panic!("no answer to {id}")).expect("it runs");
            if frame["id"] == id {
                return frame;
            }
        }
    };
    say(json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": hello()}));
    answer(0).await;
    say(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    // All room of the connection is taken by calls that may have a place at the host, and more calls wait behind them.
    for n in 1..=20 {
        let arguments = json!({"pattern": "test.fetch", "input": {"page": n.to_string()}});
        say(json!({"jsonrpc": "2.0", "id": n, "method": "tools/call",
            "params": {"name": "execute_pattern", "arguments": arguments}}));
    }
    while host.asked.load(Ordering::SeqCst) < 8 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let begun = Instant::now();
    say(json!({"jsonrpc": "2.0", "id": "p", "method": "ping"}));
    say(json!({"jsonrpc": "2.0", "id": 99, "method": "ping"}));
    assert!(answer(99).await["result"].is_object());
    assert!(begun.elapsed() < PROMPT, "a ping took {:?}", begun.elapsed());
    say(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}));
    while host.left.load(Ordering::SeqCst) == 0 || host.asked.load(Ordering::SeqCst) < 9 {
        assert!(begun.elapsed() < PROMPT * 2, "the cancelled call goes on, or nothing takes its room");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // What waited is answered in its turn.
    host.answer();
    assert_eq!(answer(20).await["result"]["isError"], Value::Null);
    drop(say);
    assert!(child.wait().unwrap().success());
}

// --- Figures ---

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_wait_for_a_locked_file_are_counted_while_they_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    let url = format!("sqlite:{}", path.display());
    let program = Program::serve("", &[], &[("TMWS_DATABASE_URL", &url)]);
    let mut socket = Socket::open(&program).await;
    let remember =
        |n: i64| json!({"name": "remember", "arguments": {"content": format!("berth {n} is free")}});
    let first = socket.send("tools/call", &remember(0)).await;
    assert!(!socket.answer(first).await.is_error());
    assert_eq!(program.figure("tmws_store_writes_waiting", "").await, 0.0);

    let mut other =
        sqlx::SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&path)).await.unwrap();
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    // What comes while the first ones wait for the file waits for them.
    let mut writes = Vec::new();
    for n in 1.. {
        writes.push(socket.send("tools/call", &remember(n)).await);
        if program.figure("tmws_store_writes_waiting", "").await >= 1.0 {
            break;
        }
        assert!(n < 40, "no write waits");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    other.execute("ROLLBACK").await.unwrap();
    for write in writes {
        let answer = socket.answer(write).await;
        assert!(!answer.is_error(), "{answer:?}");
    }
    assert_eq!(program.figure("tmws_store_writes_waiting", "").await, 0.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_are_counted_while_they_run_when_they_end_and_when_there_is_no_room_for_them() {
    let host = Host::new().await;
    let limits = [("TMWS_LIMITS_TASKS_PER_PRINCIPAL", "1")];
    let program = Program::serve(&host.config(), &[host.pattern()], &limits);
    let mut socket = Socket::open(&program).await;
    let task = |input: Value| json!({"name": "execute_pattern", "arguments": {"pattern": "test.fetch", "input": input}, "task": {}});
    let figures = async || {
        let page = program.page("/metrics").await;
        let of = |name: &str, labels: &str| crate::support::program::figure(&page, name, labels);
        let ended = |how: &str| of("tmws_tasks_ended_total", &format!("how=\"{how}\""));
        let ended = [ended("completed"), ended("failed"), ended("cancelled")];
        (of("tmws_tasks_running", ""), ended, of("tmws_tasks_refused_total", ""))
    };
    assert_eq!(figures().await, (0.0, [0.0; 3], 0.0));

    let first = socket.send("tools/call", &task(json!({"page": "a"}))).await;
    let made = socket.answer(first).await;
    let id = made.frame["result"]["task"]["taskId"].clone();
    assert!(id.is_string(), "{made:?}");
    assert_eq!(figures().await, (1.0, [0.0; 3], 0.0));
    let second = socket.send("tools/call", &task(json!({"page": "b"}))).await;
    let refused = socket.answer(second).await;
    assert!(refused.frame["result"]["task"].is_null(), "{refused:?}");
    assert_eq!(figures().await, (1.0, [0.0; 3], 1.0));
    let cancel = socket.send("tasks/cancel", &json!({"taskId": id})).await;
    let cancelled = socket.answer(cancel).await;
    assert_eq!(cancelled.frame["result"]["status"], "cancelled", "{cancelled:?}");
    program.until_none("tmws_tasks_running", "").await;
    assert_eq!(figures().await, (0.0, [0.0, 0.0, 1.0], 1.0));

    host.answer();
    for (input, ended) in [
        (json!({"page": "c"}), [1.0, 0.0, 1.0]),
        // It is no input of the pattern: the task comes to its end, which is an answer that says so.
        (json!({"side": "d"}), [2.0, 0.0, 1.0]),
    ] {
        let asked = socket.send("tools/call", &task(input)).await;
        let made = socket.answer(asked).await;
        let wait = json!({"taskId": made.frame["result"]["task"]["taskId"]});
        let result = socket.send("tasks/result", &wait).await;
        socket.answer(result).await;
        program.until_none("tmws_tasks_running", "").await;
        assert_eq!(figures().await, (0.0, ended, 1.0));
    }
}
