//! A PostgreSQL server of a test's own, which may be killed and started again. It ends with the test, also with one that
//! fails; its programs are those in TMWS_TEST_POSTGRES_BIN, which `scripts/postgres` names.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection as _, PgConnection};
use tmws::store::PostgresOptions;

/// An account that owns nothing; PostgreSQL does not run as root.
const NOBODY: u32 = 65_534;
/// A backstop: everything that is waited for happens long before.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a server ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// SIGKILL to the process that listens; its backends notice and end by themselves.
    Kill,
    /// Without a checkpoint: the next start recovers from the log.
    Immediate,
    /// Connections are closed, open transactions rolled back.
    Fast,
}

/// The server. What it acknowledged is on the disk: `fsync` and `synchronous_commit` are on.
pub(crate) struct Server {
    folder: tempfile::TempDir,
    port: u16,
    running: Option<Child>,
}

impl Server {
    /// A new, empty one that accepts connections.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("tmws-server").tempdir().unwrap();
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        give_away(folder.path());
        give_away(&data);
        let made = tool("initdb", folder.path())
            .args(["-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--auth=trust", "--no-sync", "-D"])
            .arg(&data)
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert!(made.success(), "initdb: {made}");
        let mut server = Self { folder, port: 0, running: None };
        for _ in 0..5 {
            server.port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
            // Another process may have taken the port meanwhile.
            if server.try_resume().await {
                return server;
            }
        }
        panic!("the server does not start: {}", server.log());
    }

    /// Its address, of the administrator.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// A store on it.
    pub(crate) fn options(&self) -> PostgresOptions {
        PostgresOptions { connections_max: 6, ..PostgresOptions::new(self.url()) }
    }

    /// Ends it, and waits until it has ended.
    pub(crate) fn end(&mut self, how: End) {
        let Some(mut child) = self.running.take() else { return };
        let signal = match how {
            End::Kill => Signal::KILL,
            End::Immediate => Signal::QUIT,
            End::Fast => Signal::INT,
        };
        kill_process(Pid::from_child(&child), signal).unwrap();
        child.wait().unwrap();
    }

    /// Starts it again, at the same address, and waits until it accepts connections.
    pub(crate) async fn resume(&mut self) {
        let begun = Instant::now();
        // Backends of a killed server hold its memory until they have noticed.
        while !self.try_resume().await {
            assert!(begun.elapsed() < PATIENCE, "the server does not start again: {}", self.log());
        }
    }

    async fn try_resume(&mut self) -> bool {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log_file()).unwrap();
        let mut child = tool("postgres", self.folder.path())
            .arg("-D")
            .arg(self.folder.path().join("data"))
            .args(["-p", &self.port.to_string()])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
            .args(["-c", "fsync=on", "-c", "synchronous_commit=on", "-c", "shared_buffers=32MB"])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if child.try_wait().unwrap().is_some() {
                return false;
            }
            if let Ok(connection) = PgConnection::connect(&self.url()).await {
                connection.close().await.unwrap();
                self.running = Some(child);
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let _ = kill_process(Pid::from_child(&child), Signal::QUIT);
        let _ = child.wait();
        false
    }

    /// Stops it and all of its processes where they are: connections stay, and are made, and nobody answers.
    pub(crate) fn freeze(&self) {
        self.signal_all(Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal_all(Signal::CONT);
    }

    fn signal_all(&self, signal: Signal) {
        let Some(child) = &self.running else { return };
        let first = Pid::from_child(child);
        let _ = kill_process(first, signal);
        // None is begun while the first one stands still.
        for process in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(stat) = fs::read_to_string(process.path().join("stat")) else { continue };
            let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
            if parent.and_then(|parent| parent.parse().ok()) == Some(first.as_raw_nonzero().get())
                && let Some(pid) = Pid::from_raw(pid)
            {
                let _ = kill_process(pid, signal);
            }
        }
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.thaw();
        if let Some(mut child) = self.running.take() {
            let _ = kill_process(Pid::from_child(&child), Signal::QUIT);
            let _ = child.wait();
        }
    }
}

/// A program of PostgreSQL, run by an account that may; it ends when the thread that runs it does.
fn tool(name: &str, folder: &Path) -> Command {
    let programs = std::env::var_os("TMWS_TEST_POSTGRES_BIN")
        .expect("no TMWS_TEST_POSTGRES_BIN: run `scripts/postgres cargo test --test services`");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "QUIT"]);
    if rustix::process::geteuid().is_root() {
        command.args([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()]);
    }
    command.arg(PathBuf::from(programs).join(name)).current_dir(folder).stdin(Stdio::null());
    command
}

fn give_away(path: &Path) {
    if rustix::process::geteuid().is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}
