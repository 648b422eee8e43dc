//! Redis servers of a test's own, which may be killed, stopped and started again. They end with the test, also with one
//! that fails; their programs are those in TMWS_TEST_REDIS_BIN, which `scripts/redis` names.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use redis::{ConnectionLike as _, FromRedisValue};
use rustix::process::{Pid, Signal, kill_process};
use tmws::{
    cache::{
        CacheLimits, Key, SecondLayer as _,
        redis::{Redis, RedisUrl},
    },
    pattern::CacheScopeRule,
    resilience::{BackendKind, Backends, Breaker},
    scope::{ProjectId, Scope},
};

/// A backstop: everything that is waited for happens long before.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// What a call is given.
pub(crate) const WITHIN: Duration = Duration::from_secs(1);
/// How long entries live that are not to end during a test.
pub(crate) const LONG: Duration = Duration::from_mins(10);

/// A server.
pub(crate) struct Server {
    folder: tempfile::TempDir,
    program: &'static str,
    options: Vec<String>,
    pub(crate) port: u16,
    running: Option<Child>,
}

impl Server {
    /// A new, empty one with these lines of configuration.
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::run("redis-server", options)
    }

    /// A Sentinel, likewise.
    pub(crate) fn sentinel(options: &[&str]) -> Self {
        Self::run("redis-sentinel", options)
    }

    fn run(program: &'static str, options: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("tmws-redis").tempdir().unwrap();
        let options = options.iter().map(|&line| line.to_owned()).collect();
        let mut server = Self { folder, program, options, port: 0, running: None };
        for _ in 0..5 {
            server.port = free_port();
            server.configure();
            // Another process may have taken the port meanwhile.
            if server.try_resume() {
                return server;
            }
        }
        panic!("the server does not start: {}", server.log());
    }

    fn configure(&self) {
        let mut lines = vec![
            format!("port {}", self.port),
            "bind 127.0.0.1".to_owned(),
            format!("dir {}", self.folder.path().display()),
        ];
        if self.program == "redis-server" {
            lines.extend(["save \"\"".to_owned(), "appendonly no".to_owned()]);
        }
        // `PORT` in an option is another free port.
        lines.extend(self.options.iter().map(|line| line.replace("PORT", &free_port().to_string())));
        fs::write(self.folder.path().join("redis.conf"), lines.join("\n") + "\n").unwrap();
    }

    /// Starts it again, at the same address and without its data, and waits until it answers.
    pub(crate) fn resume(&mut self) {
        let begun = Instant::now();
        while !self.try_resume() {
            assert!(begun.elapsed() < PATIENCE, "the server does not start again: {}", self.log());
        }
    }

    fn try_resume(&mut self) -> bool {
        let programs = variable("TMWS_TEST_REDIS_BIN");
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file()).unwrap();
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(PathBuf::from(programs).join(self.program))
            .arg(self.folder.path().join("redis.conf"))
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            // A refusal is an answer.
            let answers = self.connect().map(|mut connection| connection.check_connection());
            if answers.is_ok() || answers.is_err_and(|error| !error.is_io_error()) {
                self.running = Some(child);
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
        false
    }

    fn connect(&self) -> redis::RedisResult<redis::Connection> {
        redis::Client::open(self.url())?.get_connection_with_timeout(Duration::from_secs(5))
    }

    /// Its host and port.
    pub(crate) fn place(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its address, without a login.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}", self.place())
    }

    /// The answer to a command, words parted by blanks, of whoever needs no login.
    pub(crate) fn ask<T: FromRedisValue>(&self, command: &str) -> T {
        self.try_ask(command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    pub(crate) fn try_ask<T: FromRedisValue>(&self, command: &str) -> redis::RedisResult<T> {
        let mut words = command.split(' ');
        let mut asked = redis::cmd(words.next().unwrap());
        for word in words {
            asked.arg(word);
        }
        asked.query(&mut self.connect()?)
    }

    /// Ends it at once: SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut child = self.running.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// It does nothing any more, and stays.
    pub(crate) fn pause(&self) {
        kill_process(Pid::from_child(self.running.as_ref().unwrap()), Signal::STOP).unwrap();
    }

    /// It goes on.
    pub(crate) fn go_on(&self) {
        kill_process(Pid::from_child(self.running.as_ref().unwrap()), Signal::CONT).unwrap();
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.running.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A port that nobody listens at now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn variable(name: &str) -> String {
    let found = std::env::vars().find(|(known, _)| known == name).map(|(_, value)| value);
    found.unwrap_or_else(|| {
        panic!("no {name}: run `scripts/redis scripts/postgres cargo test --test services`")
    })
}

/// The address of the server that all tests share.
pub(crate) fn shared() -> String {
    variable("TMWS_TEST_REDIS_URL")
}

/// A client of the Redis at `url`.
pub(crate) fn client(url: &str) -> Redis {
    client_with(url, CacheLimits::default()).0
}

/// The same with limits, and its breaker.
pub(crate) fn client_with(url: &str, limits: CacheLimits) -> (Redis, Arc<Breaker>) {
    let breaker = Backends::default().breaker(BackendKind::Redis, "cache");
    (Redis::new(RedisUrl::parse(url).unwrap(), limits, Arc::clone(&breaker)), breaker)
}

/// A key of project `project`.
pub(crate) fn key_in(project: &str, name: &str) -> Key {
    let scope = Scope::mint(ProjectId::parse(project).unwrap(), "ann", "agent", None);
    Key::new(&scope, CacheScopeRule::Project, false, [name.as_bytes()]).unwrap()
}

/// A key that no other test uses, nor another run of this one.
pub(crate) fn key(name: &str) -> Key {
    let run = Instant::now();
    key_in("p", &format!("{name} {} {run:?}", std::process::id()))
}

/// Waits until `holds`; looks again and again. How long it took.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let begun = Instant::now();
    let waited = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("{what} does not happen"));
    begun.elapsed()
}

/// Whether what is put is kept and read.
pub(crate) async fn works(redis: &Redis, key: &Key) -> bool {
    redis.put(key, b"works".to_vec(), LONG, None, WITHIN).await
        && redis.get(key, WITHIN).await.as_deref() == Some(b"works".as_slice())
}
