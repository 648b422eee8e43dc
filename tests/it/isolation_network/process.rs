//! A `tmws serve` of its own, with tokens for three principals and two projects.

use std::{
    fmt::Write as _,
    fs,
    io::{self, BufRead as _, BufReader},
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::network::{Http, PATIENCE};

/// Who there is, and where each may write beside `personal`.
pub(super) const PRINCIPALS: [(&str, &[&str]); 3] =
    [("ada", &["alpha", "beta"]), ("ben", &["alpha"]), ("cyd", &["beta"])];

/// A pattern that says back what it is given, by a handle where that is much.
const ECHO: &str = "\
apiVersion: tmws/v1
kind: Pattern
name: test.echo
version: 1.0.0
type: infrastructure
description: Says back what it is given. For tests only.
triggers:
  phrases: [echo to me]
  examples:
    match: [please echo to me now, echo to me, 'do echo to me']
    no_match: [say it again, repeat that, an echoing hall]
  priority: 10
  auto: read-only
inputs:
  type: object
  additionalProperties: false
  required: [mark]
  properties:
    mark: {type: string}
    lines: {type: array, items: {type: string}}
limits: {timeout: 10s, max_steps: 2, max_bytes: 1MiB}
steps:
  - {id: said, uses: data.template, with: {template: '{{mark}}', values: {mark: '${ .inputs.mark }'}}}
output:
  schema: {type: object, required: [said], properties: {said: {type: string}, lines: {type: array}}}
  value: '${ {said: .steps.said, lines: (.inputs.lines // [])} }'
  budget: {tokens: 120, shrink: [{truncate: lines, keep: 3}], overflow: handle}
annotations: {readOnlyHint: true}
tests:
  - {name: it says it, inputs: {mark: a}, expect: {jq: '.said == \"a\"', max_tokens: 120}}
  - {name: it says nothing else, inputs: {mark: b}, expect: {jq: '.said == \"b\"', max_tokens: 120}}
";

/// The token of a principal.
pub(super) fn token(principal: usize) -> String {
    format!("tmws_for_tests_only_{}_0123456789abcdef", PRINCIPALS[principal].0)
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
        fs::write(user.join("patterns/test.echo.yaml"), ECHO).unwrap();
        fs::write(user.join("tmws.toml"), "[projects.alpha]\n[projects.beta]\n").unwrap();
        let tokens = folder.path().join("tokens.toml");
        write_tokens(&tokens);
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
            if let Some((_, rest)) = line.split_once("address=") {
                let end =
                    rest.find(|c: char| !(c.is_ascii_digit() || ".:".contains(c))).unwrap_or(rest.len());
                break rest[..end].parse().unwrap();
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

fn write_tokens(path: &Path) {
    let mut text = String::new();
    for (principal, (name, projects)) in PRINCIPALS.iter().enumerate() {
        let hash = Sha256::digest(token(principal).as_bytes());
        let hash = hash.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        let projects: Vec<String> =
            projects.iter().chain(&["personal"]).map(|name| format!("{name} = \"write\"")).collect();
        let _ = writeln!(
            text,
            "[[token]]\nsha256 = \"{hash}\"\nprincipal = \"{name}\"\nprojects = {{ {} }}\n\
             scopes = [\"pattern:run\", \"memory:read\", \"memory:write\"]\n",
            projects.join(", ")
        );
    }
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
