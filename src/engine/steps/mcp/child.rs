//! A server that is started: a process in a group of its own, with an environment of few words, which never outlives
//! what holds it.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use rustix::process::{Pid, Signal};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    super::family::{Family, MARK, Mark},
    pipe::Fate,
    setting::Hidden,
};

/// Variables of ours that every child is given: what a program needs to find its parts and to speak the user's
/// language. None holds a secret.
const PASSED_ON: [&str; 17] = [
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "LOGNAME",
    "PATH",
    "SHELL",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TEMP",
    "TMP",
    "TMPDIR",
    "TZ",
    "USER",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
];
/// After its stdin ended a child may take so long to end by itself.
const AFTER_EOF: Duration = Duration::from_millis(500);
/// After SIGTERM so long.
const AFTER_TERM: Duration = Duration::from_millis(250);
/// Of what a child says on stderr so much is logged, in bytes; the rest is read and dropped.
const STDERR_BYTES_MAX: usize = 64 << 10;
const LINE_BYTES_MAX: usize = 1 << 10;

/// What a child is started with.
pub(super) struct Launch<'a> {
    /// The server's name, for the log.
    pub(super) name: &'a str,
    pub(super) argv: &'a [String],
    pub(super) environment: &'a BTreeMap<String, Hidden>,
    pub(super) passed_on: &'a [String],
    pub(super) folder: &'a Path,
}

/// A running child. Dropped, it is killed with its whole group, and then what left the group.
pub(super) struct Process {
    family: Arc<Family>,
    ended: CancellationToken,
}

impl Process {
    /// Starts a child; `fate` is told how it ended. Its stdin and stdout are the caller's to use.
    ///
    /// # Errors
    /// It cannot be started.
    pub(super) fn start(launch: &Launch<'_>, fate: Arc<Fate>) -> io::Result<(Self, ChildStdin, ChildStdout)> {
        let (program, arguments) =
            launch.argv.split_first().ok_or_else(|| io::Error::other("the command is empty"))?;
        let mark = Mark::new();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .envs(environment(launch))
            .envs(mark.as_ref().map(|mark| (MARK, mark.value())))
            .current_dir(launch.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let (Some(pid), Some(stdin), Some(stdout), Some(stderr)) =
            (pid, child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::other("it was started without pipes"));
        };
        let family = Arc::new(Family::new(Some(pid), mark));
        let ended = CancellationToken::new();
        tokio::spawn(listen(launch.name.to_owned(), stderr));
        tokio::spawn(wait(child, Arc::clone(&family), ended.clone(), fate));
        Ok((Self { family, ended }, stdin, stdout))
    }

    /// Waits until it is gone: by itself as its stdin has ended, else by SIGTERM, else by SIGKILL to its whole group.
    pub(super) async fn end(&self) {
        if timeout(AFTER_EOF, self.ended.cancelled()).await.is_ok() {
            return;
        }
        self.family.signal(Signal::TERM);
        if timeout(AFTER_TERM, self.ended.cancelled()).await.is_ok() {
            return;
        }
        self.kill().await;
    }

    /// Waits until it is gone.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Ends it now.
    async fn kill(&self) {
        self.family.signal(Signal::KILL);
        self.ended.cancelled().await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.family.signal(Signal::KILL);
    }
}

/// The whole environment of a child.
fn environment(launch: &Launch<'_>) -> BTreeMap<OsString, OsString> {
    let ours = PASSED_ON.iter().copied().chain(launch.passed_on.iter().map(String::as_str));
    let given = launch.environment.iter().map(|(name, value)| (name.into(), value.expose().into()));
    ours.filter_map(|name| Some((name.into(), std::env::var_os(name)?))).chain(given).collect()
}

/// Holds the child until it is gone, and all that came of it. Dropped with its runtime, they go too.
async fn wait(mut child: Child, family: Arc<Family>, ended: CancellationToken, fate: Arc<Fate>) {
    let _ended = ended.drop_guard();
    match child.wait().await {
        Ok(status) => fate.decide(|| describe(status)),
        Err(error) => fate.decide(|| format!("it cannot be waited for: {error}")),
    }
    family.end().await;
}

fn describe(status: ExitStatus) -> String {
    format!("it ended with {status}")
}

/// Logs the first of what a child says on stderr, and reads on: a child whose stderr nobody reads stops.
async fn listen(server: String, mut stderr: ChildStderr) {
    let mut buffer = vec![0; 8 << 10];
    let mut rest = STDERR_BYTES_MAX;
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        if rest == 0 {
            continue;
        }
        let part = &buffer[..count.min(rest)];
        rest -= part.len();
        if tracing::enabled!(tracing::Level::DEBUG) {
            for line in part.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let line = String::from_utf8_lossy(&line[..line.len().min(LINE_BYTES_MAX)]);
                tracing::debug!(server, line = %line.escape_debug(), "a server says on stderr");
            }
        }
        if rest == 0 {
            tracing::debug!(server, "a server says too much on stderr; the rest is not logged");
        }
    }
}
