//! A `tmws serve` of its own, with tokens for three principals and two projects.

use std::{
    fs,
    io::{self, BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    network::{Http, PATIENCE},
    support::serving,
};

/// Who there is, and where each may write beside `personal`.
pub(super) const PRINCIPALS: [(&str, &[&str]); 3] =
    [("ada", &["alpha", "beta"]), ("ben", &["alpha"]), ("cyd", &["beta"])];

/// The token of a principal.
pub(super) fn token(principal: usize) -> String {
    serving::token(PRINCIPALS[principal].0)
}

/// A running server, ended with it.
pub(super) struct Served {
    child: Child,
    pub(super) address: SocketAddr,
    _folder: TempDir,
}

impl Served {
    /// With tokens, or open to everybody.
    pub(super) fn launch(with_tokens: bool, settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (workspace, user) = (folder.path().join("workspace"), folder.path().join("config/tmws"));
        fs::create_dir_all(&workspace).unwrap();
        fs::create_dir_all(user.join("patterns")).unwrap();
        fs::write(user.join("patterns/test.echo.yaml"), serving::ECHO).unwrap();
        fs::write(user.join("tmws.toml"), "[projects.alpha]\n[projects.beta]\n").unwrap();
        let tokens = folder.path().join("tokens.toml");
        serving::write_tokens(&tokens, &PRINCIPALS);
        let mut command = Command::new(env!("CARGO_BIN_EXE_tmws"));
        command.args(["serve", "--listen", "127.0.0.1:0"]);
        if with_tokens {
            command.env("TMWS_TOKENS_FILE", &tokens);
        } else {
            command.arg("--no-auth");
        }
        for setting in settings {
            command.args(["--setting", setting]);
        }
        let mut child = command
            .current_dir(&workspace)
            .env("TMWS_DATABASE_URL", format!("sqlite:{}", folder.path().join("store.db").display()))
            .env("XDG_CONFIG_HOME", folder.path().join("config"))
            .env("XDG_DATA_HOME", folder.path().join("data"))
            .env_remove("TMWS_ROOT")
            .env_remove("CLAUDE_PROJECT_DIR")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = String::new();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "the server does not listen:\n{said}");
            if let Some(address) = serving::address_in(&line) {
                break address;
            }
            said.push_str(&line);
        };
        // Whatever else it says is seen where the test fails; nobody may keep it from saying it.
        std::thread::spawn(move || io::copy(&mut stderr, &mut io::stderr()));
        Self { child, address, _folder: folder }
    }

    /// Open descriptors.
    pub(super) fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// A figure of `/proc/<pid>/status`.
    pub(super) fn status(&self, field: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
    }

    /// The sum of a gauge over all its labels, on a connection that ends with the answer.
    pub(super) async fn gauge(&self, name: &str) -> i64 {
        let mut http = Http::connect(self.address).await;
        let answer = http.send("GET", "/metrics", &[("connection", "close")], "").await;
        assert_eq!(answer.status, 200);
        let text = answer.text().await;
        let prefix = format!("{name}{{");
        text.lines()
            .filter(|line| line.starts_with(&prefix))
            .map(|line| line.rsplit_once(' ').unwrap().1.parse::<i64>().unwrap())
            .sum()
    }

    /// Ends it by a signal: within the grace, with success.
    pub(super) fn end(mut self) {
        let begun = Instant::now();
        self.signal(Signal::TERM);
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
        assert!(begun.elapsed() < Duration::from_secs(5) + PATIENCE / 4, "{:?}", begun.elapsed());
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).unwrap();
        let _ = kill_process(pid, signal);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
