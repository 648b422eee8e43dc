//! What a session costs that does nothing, and whether those who work feel the crowd.
//!
//! `cargo build --release --bin tmws --example idle_sessions`, then
//! `target/release/examples/idle_sessions [--idle 10000] [--active 200] [--secs 5] [--server PATH] [--kib 20]`.
//!
//! Opens idle WebSocket sessions, each with its handshake, lets active ones call meanwhile, and asks every idle one
//! for a sign of life at the end. Prints KiB of the server's RSS per idle session, calls a second, latencies and errors.
//! Ends with 1 where a session costs more than `--kib`, anything failed, or it took longer than two minutes.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "the report")]

use std::{
    fs,
    io::{self, BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::{Barrier, Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, client::IntoClientRequest as _, protocol::WebSocketConfig},
};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"idle","version":"1"}}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
const CALL: &str = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"find_patterns","arguments":{"limit":1}}}"#;

/// All of it is over by then.
const TIME_MAX: Duration = Duration::from_mins(2);
/// One answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Handshakes at once: fewer than the queue of a listener holds.
const OPENING_MAX: usize = 64;
/// Sessions that pay for what is made once, before anything is measured.
const FIRST_SESSIONS: usize = 100;
/// Loopback addresses that clients come from, so that no address runs out of ports.
const SOURCES: u8 = 4;
/// The allocator gets so long to settle.
const SETTLING: Duration = Duration::from_secs(2);

struct Options {
    idle: usize,
    active: usize,
    seconds: f64,
    kib_max: f64,
    server: PathBuf,
}

const USAGE: &str =
    "usage: idle_sessions [--idle 10000] [--active 200] [--secs 5] [--server PATH] [--kib 20]";

impl Options {
    /// # Errors
    /// What cannot be understood.
    fn read(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options =
            Self { idle: 10_000, active: 200, seconds: 5.0, kib_max: 20.0, server: PathBuf::new() };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("no value after {name}"))?;
            let wrong = || format!("{name} wants a number, not {value}");
            match name.as_str() {
                "--idle" => options.idle = value.parse().map_err(|_| wrong())?,
                "--active" => options.active = value.parse().map_err(|_| wrong())?,
                "--secs" => options.seconds = value.parse().map_err(|_| wrong())?,
                "--kib" => options.kib_max = value.parse().map_err(|_| wrong())?,
                "--server" => options.server = PathBuf::from(&value),
                _ => return Err(format!("{name} is not known")),
            }
        }
        if options.server.as_os_str().is_empty() {
            let own = std::env::current_exe().expect("this program has a path");
            options.server =
                own.parent().and_then(Path::parent).expect("it is among the examples").join("tmws");
        }
        Ok(options)
    }
}

/// A server of its own, ended with it.
struct Server {
    child: Child,
    address: SocketAddr,
    folder: PathBuf,
}

impl Server {
    fn launch(program: &Path) -> io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("tmws-idle-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let mut child = Command::new(program)
            .args(["serve", "--no-auth", "--listen", "127.0.0.1:0", "--setting", "limits.calls_per_second=0"])
            .current_dir(&folder)
            .env("TMWS_DATABASE_URL", format!("sqlite:{}", folder.join("store.db").display()))
            .env("XDG_CONFIG_HOME", &folder)
            .env("XDG_DATA_HOME", &folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let address = loop {
            let Some(line) = lines.next().transpose()? else {
                return Err(io::Error::other("the server ended before it listened"));
            };
            if let Some((_, rest)) = line.split_once("address=") {
                let end =
                    rest.find(|c: char| !(c.is_ascii_digit() || ".:".contains(c))).unwrap_or(rest.len());
                break rest[..end].parse().map_err(io::Error::other)?;
            }
            eprintln!("server: {line}");
        };
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(|line| eprintln!("server: {line}")));
        Ok(Self { child, address, folder })
    }

    fn rss_kib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or_default()
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).map_or(0, Iterator::count)
    }

    fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten();
        let nanos = tasks
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
            .filter_map(|stat| stat.split(' ').next()?.parse::<u64>().ok())
            .sum();
        Duration::from_nanos(nanos)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// One session of the client.
struct Session {
    stream: WebSocketStream<TcpStream>,
}

impl Session {
    async fn open(address: SocketAddr, number: usize) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        let source = Ipv4Addr::new(127, 0, 0, 2 + (number % usize::from(SOURCES)) as u8);
        socket.bind(SocketAddr::from((source, 0)))?;
        let tcp = socket.connect(address).await?;
        tcp.set_nodelay(true)?;
        let mut request = format!("ws://{address}/ws").into_client_request().map_err(io::Error::other)?;
        request.headers_mut().insert("sec-websocket-protocol", "mcp".parse().map_err(io::Error::other)?);
        let config = WebSocketConfig::default().read_buffer_size(1 << 10).write_buffer_size(0);
        let (stream, _) =
            client_async_with_config(request, tcp, Some(config)).await.map_err(io::Error::other)?;
        let mut session = Self { stream };
        let answer = session.ask(INITIALIZE).await?;
        if !answer.contains("2025-11-25") {
            return Err(io::Error::other(answer));
        }
        session.send(INITIALIZED).await?;
        Ok(session)
    }

    async fn send(&mut self, text: &'static str) -> io::Result<()> {
        self.stream.send(Message::text(text)).await.map_err(io::Error::other)
    }

    async fn ask(&mut self, text: &'static str) -> io::Result<String> {
        let asked = async {
            self.send(text).await?;
            self.answer().await
        };
        timeout(ANSWER_MAX, asked).await?
    }

    /// The next text; pings are answered on the way.
    async fn answer(&mut self) -> io::Result<String> {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) => return Ok(text.as_str().to_owned()),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(other)) => return Err(io::Error::other(format!("not a text: {other:?}"))),
                Some(Err(error)) => return Err(io::Error::other(error)),
                None => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// Does nothing but answer pings until `end`, then shows that it lives.
    async fn idle(mut self, mut end: watch::Receiver<bool>) -> io::Result<()> {
        tokio::select! {
            answer = self.answer() => return Err(io::Error::other(format!("nobody asked: {answer:?}"))),
            ended = end.wait_for(|ended| *ended) => drop(ended.map_err(io::Error::other)?),
        }
        let answer = self.ask(PING).await?;
        if !answer.contains("\"result\"") {
            return Err(io::Error::other(answer));
        }
        self.stream.close(None).await.map_err(io::Error::other)
    }

    /// Calls one after the other until `until`; the latencies.
    async fn work(mut self, start: Arc<Barrier>, seconds: f64) -> io::Result<Vec<Duration>> {
        start.wait().await;
        let until = Instant::now() + Duration::from_secs_f64(seconds);
        let mut taken = Vec::new();
        while Instant::now() < until {
            let begun = Instant::now();
            let answer = self.ask(CALL).await?;
            taken.push(begun.elapsed());
            if !answer.contains("\"result\"") || answer.contains("\"isError\":true") {
                return Err(io::Error::other(answer));
            }
        }
        Ok(taken)
    }
}

async fn open(address: SocketAddr, count: usize) -> io::Result<Vec<Session>> {
    let places = Arc::new(Semaphore::new(OPENING_MAX));
    let mut opening = JoinSet::new();
    for number in 0..count {
        let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
        opening.spawn(async move {
            let session = timeout(ANSWER_MAX, Session::open(address, number)).await?;
            drop(place);
            session
        });
    }
    opening.join_all().await.into_iter().collect()
}

/// Counts what failed and tells the first few.
fn errors<T>(results: impl IntoIterator<Item = io::Result<T>>, of: &str) -> (Vec<T>, usize) {
    let (mut good, mut bad) = (Vec::new(), 0);
    for result in results {
        match result {
            Ok(value) => good.push(value),
            Err(error) => {
                bad += 1;
                if bad <= 3 {
                    eprintln!("{of}: {error}");
                }
            }
        }
    }
    (good, bad)
}

async fn run(options: Options) -> io::Result<bool> {
    let server = Server::launch(&options.server)?;
    let address = server.address;
    let first = open(address, FIRST_SESSIONS).await?;
    for mut session in first {
        session.ask(CALL).await?;
        let _ = session.stream.close(None).await;
    }
    tokio::time::sleep(SETTLING).await;
    let (base, base_descriptors) = (server.rss_kib(), server.descriptors());

    let begun = Instant::now();
    let (end, ended) = watch::channel(false);
    let mut idle = JoinSet::new();
    for session in open(address, options.idle).await? {
        idle.spawn(session.idle(ended.clone()));
    }
    drop(ended);
    let opened = begun.elapsed();
    tokio::time::sleep(SETTLING).await;
    let crowded = server.rss_kib();
    let per_session = (crowded - base) / options.idle as f64;
    println!(
        "{} idle sessions opened in {:.1} s: RSS {base:.0} → {crowded:.0} KiB, {per_session:.2} KiB each (at most {})",
        options.idle,
        opened.as_secs_f64(),
        options.kib_max,
    );

    let start = Arc::new(Barrier::new(options.active + 1));
    let mut active = JoinSet::new();
    for session in open(address, options.active).await? {
        active.spawn(session.work(Arc::clone(&start), options.seconds));
    }
    let cpu = server.cpu();
    start.wait().await;
    let begun = Instant::now();
    let (latencies, failed_calls) = errors(active.join_all().await, "an active session");
    let (taken, cpu) = (begun.elapsed(), server.cpu().saturating_sub(cpu));
    let mut latencies: Vec<Duration> = latencies.into_iter().flatten().collect();
    latencies.sort_unstable();
    let calls = latencies.len().max(1);
    let at = |part: usize| latencies.get(calls * part / 100).map_or(0.0, |at| at.as_secs_f64() * 1e3);
    println!(
        "{} active sessions for {:.1} s: {:.0} calls/s, p50 {:.2} ms, p99 {:.2} ms, {:.1} µs of the server's CPU a call, {failed_calls} failed",
        options.active,
        taken.as_secs_f64(),
        latencies.len() as f64 / taken.as_secs_f64(),
        at(50),
        at(99),
        cpu.as_secs_f64() * 1e6 / calls as f64,
    );

    let _ = end.send(true);
    let (alive, dead) = errors(idle.join_all().await, "an idle session");
    tokio::time::sleep(SETTLING).await;
    let left = server.descriptors().saturating_sub(base_descriptors);
    println!(
        "{} idle sessions answered at the end, {dead} did not; afterwards RSS {:.0} KiB, {left} descriptors left over",
        alive.len(),
        server.rss_kib(),
    );
    Ok(per_session <= options.kib_max && failed_calls == 0 && dead == 0 && left == 0)
}

/// As many descriptors as the system allows; the server inherits them.
fn raise_limit(wanted: u64) -> io::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_some_and(|current| current < wanted) {
        if maximum.is_some_and(|maximum| maximum < wanted) {
            return Err(io::Error::other(format!("{wanted} open files are needed, and {maximum:?} allowed")));
        }
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })?;
    }
    Ok(())
}

fn main() -> ExitCode {
    let options = match Options::read(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("idle_sessions: {error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let wanted = (options.idle + options.active + 1_000) as u64;
    let ran = raise_limit(wanted).and_then(|()| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async { timeout(TIME_MAX, run(options)).await? })
    });
    match ran {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("idle_sessions: {error}");
            ExitCode::FAILURE
        }
    }
}
