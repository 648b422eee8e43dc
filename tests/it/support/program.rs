//! `tmws serve` as a program with a configuration of its own, its log, and a client of it that asks many things at once.

use std::{
    collections::HashMap,
    fs,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

/// A backstop: everything that is waited for happens long before.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a pattern for a test does: its inputs, permissions, limits, steps and output as they stand in a file.
pub(crate) fn pattern(name: &str, body: &str) -> String {
    let words = name.replace('.', " ");
    format!(
        "apiVersion: tmws/v1\nkind: Pattern\nname: {name}\nversion: 1.0.0\n\
         description: Does {words}. For tests only.\n\
         triggers:\n  phrases: [do {words}]\n  examples:\n    match: [do {words}, please do {words}, now do {words}]\n    \
         no_match: [one thing, two things, three things]\n  priority: 10\n  auto: read-only\n{body}\
         annotations: {{readOnlyHint: true}}\ntests:\n  - {{name: none, inputs: {{}}, expect: {{error: invalid_input}}}}\n"
    )
}

/// The program. It ends with the test.
pub(crate) struct Program {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<String>>,
    _home: TempDir,
}

impl Program {
    /// Without tokens, for the local user's project `personal`. `patterns`: names and texts.
    pub(crate) fn serve(config: &str, patterns: &[(&str, String)], environment: &[(&str, &str)]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join(".config/tmws/patterns");
        fs::create_dir_all(&folder).unwrap();
        fs::write(home.path().join(".config/tmws/tmws.toml"), config).unwrap();
        for (name, text) in patterns {
            fs::write(folder.join(format!("{name}.yaml")), text).unwrap();
        }
        let mut child = Command::new(env!("CARGO_BIN_EXE_tmws"))
            .args(["serve", "--listen", "127.0.0.1:0", "--no-auth"])
            .current_dir(home.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", home.path())
            .env("TMWS_LIMITS_CALLS_PER_SECOND", "0")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::<Mutex<String>>::default();
        let address = loop {
            let mut line = String::new();
            let length = stderr.read_line(&mut line).unwrap();
            let told = log.lock().unwrap_or_else(PoisonError::into_inner).clone();
            assert!(length > 0, "the server does not listen: {told}");
            log.lock().unwrap_or_else(PoisonError::into_inner).push_str(&line);
            if let Some((_, rest)) = line.split_once("address=") {
                break rest.split_whitespace().next().unwrap().parse().unwrap();
            }
        };
        let told = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut log = told.lock().unwrap_or_else(PoisonError::into_inner);
                log.push_str(&line);
                log.push('\n');
            }
        });
        Self { child, address, log, _home: home }
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a path answers.
    pub(crate) async fn page(&self, path: &str) -> String {
        let asked = async {
            let mut stream = TcpStream::connect(self.address).await?;
            let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        tokio::time::timeout(PATIENCE, asked).await.expect("a page").unwrap()
    }

    /// The sum of the samples of a figure that have these labels, now.
    pub(crate) async fn figure(&self, name: &str, labels: &str) -> f64 {
        figure(&self.page("/metrics").await, name, labels)
    }

    /// Waits until a figure is `wanted`, or more.
    pub(crate) async fn until(&self, name: &str, labels: &str, wanted: f64) {
        let begun = Instant::now();
        loop {
            let value = self.figure(name, labels).await;
            if value >= wanted {
                return;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "{name} {{{labels}}} stays {value}; the log:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The same of one that falls to nothing.
    pub(crate) async fn until_none(&self, name: &str, labels: &str) {
        let begun = Instant::now();
        while self.figure(name, labels).await > 0.0 {
            assert!(begun.elapsed() < PATIENCE, "{name} {{{labels}}} stays; the log:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Program {
    #[expect(clippy::print_stderr, reason = "what whoever mends a failure needs")]
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the program said:\n{}", self.log());
        }
    }
}

/// The sum of the samples of a figure that have these labels.
pub(crate) fn figure(metrics: &str, name: &str, labels: &str) -> f64 {
    let values = metrics.lines().filter_map(|line| {
        let (sample, value) = line.rsplit_once(' ')?;
        let rest = sample.strip_prefix(name)?;
        let is_meant = (rest.is_empty() || rest.starts_with('{')) && rest.contains(labels);
        is_meant.then(|| value.parse::<f64>().unwrap())
    });
    values.sum()
}

/// One answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) frame: Value,
    /// From the question to its arrival.
    pub(crate) took: Duration,
}

impl Answer {
    pub(crate) fn is_error(&self) -> bool {
        self.frame["result"]["isError"] == true
    }

    /// The JSON of its text.
    pub(crate) fn body(&self) -> Value {
        let text = self.frame["result"]["content"][0]["text"].as_str();
        let text = text.unwrap_or_else(|| panic!("{}", self.frame));
        serde_json::from_str(text).unwrap_or_else(|_| panic!("{text}"))
    }

    pub(crate) fn receipt(&self) -> &Value {
        &self.frame["result"]["_meta"]["tmws/receipt"]
    }

    /// What its receipt says was not as it should be.
    pub(crate) fn degraded(&self) -> String {
        self.receipt()["degraded"].to_string()
    }
}

/// A session of 2025-11-25 on one WebSocket.
pub(crate) struct Socket {
    stream: WebSocketStream<TcpStream>,
    asked: HashMap<i64, Instant>,
    answers: HashMap<i64, Answer>,
    last: i64,
}

impl Socket {
    pub(crate) async fn open(program: &Program) -> Self {
        let mut request = format!("ws://{}/ws", program.address).into_client_request().unwrap();
        request.headers_mut().append("sec-websocket-protocol", "mcp".parse().unwrap());
        let stream = TcpStream::connect(program.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (stream, _) = client_async(request, stream).await.unwrap();
        let mut socket = Self { stream, asked: HashMap::new(), answers: HashMap::new(), last: 0 };
        let hello = socket.send("initialize", &hello()).await;
        socket.answer(hello).await;
        socket.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        socket
    }

    /// Sends a message.
    pub(crate) async fn say(&mut self, message: &Value) {
        self.stream.send(Message::text(message.to_string())).await.unwrap();
    }

    /// Asks: the id of the question.
    pub(crate) async fn send(&mut self, method: &str, params: &Value) -> i64 {
        self.last += 1;
        let id = self.last;
        self.asked.insert(id, Instant::now());
        self.say(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
        id
    }

    /// Has a pattern run: the id of the call.
    pub(crate) async fn run(&mut self, pattern: &str, input: Value) -> i64 {
        let arguments = json!({"pattern": pattern, "input": input});
        self.send("tools/call", &json!({"name": "execute_pattern", "arguments": arguments})).await
    }

    /// Waits for an answer.
    pub(crate) async fn answer(&mut self, id: i64) -> Answer {
        let begun = Instant::now();
        loop {
            if let Some(answer) = self.answers.remove(&id) {
                return answer;
            }
            let left = PATIENCE.saturating_sub(begun.elapsed());
            let message = tokio::time::timeout(left, self.stream.next()).await;
            match message.unwrap_or_else(|_| panic!("no answer to {id}")) {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value = serde_json::from_str(&text).unwrap();
                    if let Some(id) = frame["id"].as_i64()
                        && let Some(asked) = self.asked.remove(&id)
                    {
                        self.answers.insert(id, Answer { frame, took: asked.elapsed() });
                    }
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("no text: {other:?}"),
            }
        }
    }

    /// Has a pattern run, and waits for the answer.
    pub(crate) async fn ran(&mut self, pattern: &str, input: Value) -> Answer {
        let id = self.run(pattern, input).await;
        self.answer(id).await
    }
}

/// The handshake's params.
pub(crate) fn hello() -> Value {
    json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}})
}
