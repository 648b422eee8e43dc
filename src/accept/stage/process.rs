//! A process that a run started.

use std::{
    path::Path,
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::watch,
};

use super::Ledger;
use crate::accept::scenario::Broken;

/// An account that owns nothing: PostgreSQL does not run as root.
pub(super) const NOBODY: u32 = 65_534;
/// Bytes of a log that are kept.
const LOG_BYTES_MAX: usize = 256 << 10;

/// How a program is run.
pub struct Program {
    command: Command,
}

impl Program {
    /// A program that ends with this process, however that ends, where the machine has `setpriv`; nothing of the
    /// environment but `PATH`. `as_nobody`: without the rights of root, where the run has them.
    #[must_use]
    pub fn new(program: &Path, path: &std::ffi::OsStr, as_nobody: bool) -> Self {
        let has_setpriv = std::env::split_paths(path).any(|folder| folder.join("setpriv").is_file());
        let mut command = if has_setpriv {
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL"]);
            if as_nobody && geteuid().is_root() {
                command.args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}"), "--clear-groups"]);
            }
            command.arg(program);
            command
        } else {
            let mut command = Command::new(program);
            if as_nobody && geteuid().is_root() {
                command.uid(NOBODY).gid(NOBODY);
            }
            command
        };
        command.env_clear().env("PATH", path).stdin(Stdio::null()).kill_on_drop(true);
        Self { command }
    }

    /// A program of a server that is none of this program: with a `PATH` of the system alone.
    #[must_use]
    pub(super) fn of_server(program: &Path, as_nobody: bool) -> Self {
        Self::new(program, std::ffi::OsStr::new("/usr/bin:/bin"), as_nobody)
    }

    /// The command, for arguments, environment and folder.
    pub const fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Runs it to its end: its exit status, and what it wrote to both of its outputs.
    ///
    /// # Errors
    /// It cannot be started, or does not end in `within`.
    pub async fn run(mut self, what: &str, within: Duration) -> Result<(ExitStatus, String), Broken> {
        let broken = |seen: String| Broken::new(format!("running {what}"), "an end", seen);
        let child = self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let child = child.map_err(|error| broken(error.to_string()))?;
        let output = tokio::time::timeout(within, child.wait_with_output())
            .await
            .map_err(|_| broken(format!("it did not end in {within:?}")))?
            .map_err(|error| broken(error.to_string()))?;
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        Ok((output.status, said))
    }

    /// Starts it and leaves it running; its standard error is its log.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(mut self, what: &str, ledger: &Arc<Ledger>) -> Result<Held, Broken> {
        let broken =
            |error: &dyn std::fmt::Display| Broken::new(format!("starting {what}"), "a process", error);
        let mut child = self
            .command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| broken(&error))?;
        let pid = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .and_then(Pid::from_raw)
            .ok_or_else(|| broken(&"it ended at once"))?;
        ledger.started(pid);
        let log = Arc::new(Log::default());
        if let Some(stderr) = child.stderr.take() {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let mut lines = BufReader::new(stderr).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    log.add(&line);
                }
                log.end();
            });
        }
        Ok(Held { what: what.to_owned(), child, pid, log, ledger: Arc::clone(ledger) })
    }
}

/// What a process wrote to its standard error.
pub struct Log {
    text: Mutex<String>,
    /// Changes with each line; whether it has ended.
    told: watch::Sender<bool>,
}

impl Default for Log {
    fn default() -> Self {
        Self { text: Mutex::default(), told: watch::Sender::new(false) }
    }
}

impl Log {
    fn add(&self, line: &str) {
        {
            let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
            text.push_str(line);
            text.push('\n');
            if text.len() > LOG_BYTES_MAX {
                let from = text.ceil_char_boundary(text.len() - LOG_BYTES_MAX / 2);
                text.drain(..from);
            }
        }
        self.told.send_modify(|_| {});
    }

    fn end(&self) {
        self.told.send_replace(true);
    }

    /// All of it that is kept.
    pub fn text(&self) -> String {
        self.text.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The first line, from the beginning, that `found` makes something of; `None` where the log ends without one.
    pub async fn find<T>(&self, mut found: impl FnMut(&str) -> Option<T>) -> Option<T> {
        let mut told = self.told.subscribe();
        loop {
            let has_ended = *told.borrow_and_update();
            if let Some(value) = self.text().lines().find_map(&mut found) {
                return Some(value);
            }
            if has_ended || told.changed().await.is_err() {
                return None;
            }
        }
    }
}

/// A running process. Dropped, it is killed.
pub struct Held {
    what: String,
    child: Child,
    pid: Pid,
    log: Arc<Log>,
    ledger: Arc<Ledger>,
}

impl Held {
    /// Its number.
    #[must_use]
    pub const fn pid(&self) -> Pid {
        self.pid
    }

    /// What it wrote.
    #[must_use]
    pub const fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // Without a number it has ended and was waited for; then somebody else may have the number by now.
        if self.child.id().is_some() {
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Sends it `signal` and waits for its end: its status, and how long that took.
    ///
    /// # Errors
    /// It does not end in `within`; then it is killed.
    pub async fn end(&mut self, signal: Signal, within: Duration) -> Result<(ExitStatus, Duration), Broken> {
        let begun = Instant::now();
        self.signal(signal);
        let Ok(ended) = tokio::time::timeout(within, self.child.wait()).await else {
            let _ = self.child.kill().await;
            self.ledger.ended(self.pid);
            return Err(Broken::new(
                format!("ending {}", self.what),
                format!("an end within {within:?}"),
                "it still ran, and was killed",
            ));
        };
        self.ledger.ended(self.pid);
        ended
            .map(|status| (status, begun.elapsed()))
            .map_err(|error| Broken::new(format!("ending {}", self.what), "its status", error))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // What is stopped does not die of anything but this.
            let _ = kill_process(self.pid, Signal::KILL);
        }
        self.ledger.ended(self.pid);
    }
}
