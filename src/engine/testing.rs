//! Runs the tests that a pattern file carries: each in a fresh store and a fresh copy of its fixture, at its own time.
//!
//! A fixture is a git bundle (cloned), a folder (copied), or nothing (no workspace). Paths are relative to the pattern's
//! file; those of built-in patterns are embedded ([`EMBEDDED`]). Memories are imported into the test's project, whatever
//! project the file names; only `personal` stays what it is.

use std::{
    fmt::Write as _,
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant as StdInstant},
};

use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::{process::Command, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Caller, Clock, Engine, EngineError, EngineSettings, ExecuteRequest, Execution, NobodyToAsk, Outcome,
    Outside, Patterns, Routed, Surroundings, Target, Unobserved, Workspace, Workspaces,
    service::budget_of,
    steps::{
        mcp::{Script, Servers},
        sql::{Address, NamedQuery, SourceSpec, Sources, make_sqlite},
    },
    tokens,
};
use crate::{
    pattern::{Expression, Mode, Origin, Pattern, TestSpec, router::Among},
    scope::{ProjectId, Scope},
    store::{Memory, SharedStore, SqliteOptions, SqliteStore},
};

/// Longest test.
const TEST_MAX: Duration = Duration::from_mins(1);
/// Bytes that an expectation may make.
const EXPECT_BYTES_MAX: usize = 16 << 20;

macro_rules! embedded {
    ($($path:literal)*) => {
        /// Fixtures of built-in patterns, by the path that their tests name.
        pub const EMBEDDED: &[(&str, &[u8])] =
            &[$(($path, include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/", $path))),)*];
    };
}

embedded! {
    "fixtures/mcp/servers.json"
    "fixtures/db/shop.sql"
    "fixtures/memories/labelled.jsonl"
    "fixtures/memories/team.jsonl"
    "fixtures/outputs/cargo/colour.txt"
    "fixtures/outputs/cargo/does-not-compile.txt"
    "fixtures/outputs/cargo/failures.txt"
    "fixtures/outputs/gcc/errors.txt"
    "fixtures/outputs/log/pino.txt"
    "fixtures/outputs/log/python.txt"
    "fixtures/projects/make/Makefile"
    "fixtures/projects/make/build.log"
    "fixtures/projects/make/test.log"
    "fixtures/repos/review.bundle"
    "fixtures/repos/small.bundle"
}

/// How one test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestOutcome {
    /// Its name in the file.
    pub name: String,
    /// Why it failed; `None` where it passed.
    pub failure: Option<String>,
    /// o200k_base tokens of the answer, where there was one.
    pub tokens: Option<usize>,
    /// How long the pattern ran, without the making of its fixture.
    pub elapsed: Duration,
}

/// Runs all tests of `pattern` in file order. `scope` is whose calls they are; nothing of the user's own is read or
/// written. `folder` is where the pattern's file lies.
pub async fn run_tests(pattern: &Arc<Pattern>, scope: &Scope, folder: Option<&Path>) -> Vec<TestOutcome> {
    let mut outcomes = Vec::new();
    for test in &pattern.tests {
        outcomes.push(outcome(pattern, test, Mode::Balanced, scope, folder).await);
    }
    outcomes
}

/// Runs all tests of `pattern` in `mode`, which changes its budget, and looks at the budget alone: an answer is within it,
/// or the error `budget`.
pub async fn run_budgets(
    pattern: &Arc<Pattern>,
    mode: Mode,
    scope: &Scope,
    folder: Option<&Path>,
) -> Vec<TestOutcome> {
    let mut outcomes = Vec::new();
    for test in &pattern.tests {
        let test =
            TestSpec { expect_jq: None, expect_max_tokens: Some(budget_of(pattern, mode)), ..test.clone() };
        let outcome = outcome(pattern, &test, mode, scope, folder).await;
        let is_typed = |failure: &String| failure.starts_with("failed with budget:");
        let failure = outcome.failure.filter(|failure| !is_typed(failure));
        outcomes.push(TestOutcome { failure, ..outcome });
    }
    outcomes
}

async fn outcome(
    pattern: &Arc<Pattern>,
    test: &TestSpec,
    mode: Mode,
    scope: &Scope,
    folder: Option<&Path>,
) -> TestOutcome {
    let (failure, tokens, elapsed) = match run_test(pattern, test, mode, scope, folder).await {
        Ok(ran) => ran,
        Err(failure) => (Some(failure), None, Duration::ZERO),
    };
    TestOutcome { name: test.name.clone(), failure, tokens, elapsed }
}

type Ran = (Option<String>, Option<usize>, Duration);

async fn run_test(
    pattern: &Arc<Pattern>,
    test: &TestSpec,
    mode: Mode,
    scope: &Scope,
    folder: Option<&Path>,
) -> Result<Ran, String> {
    let scratch = Scratch::new().map_err(|error| format!("no temporary folder: {error}"))?;
    let place = Place { embedded: pattern.origin == Origin::BuiltIn, folder };
    let workspace = match &test.fixture {
        Some(fixture) => Workspace::Root(place.workspace(fixture, &scratch.0).await?),
        None => Workspace::None { reason: "this test has no fixture".to_owned() },
    };
    let now = test.now.unwrap_or_else(Timestamp::now);
    let store = SqliteStore::open(SqliteOptions::new(scratch.0.join("store.db")))
        .await
        .map_err(|error| format!("no store for the test: {error}"))?;
    let shared: SharedStore = Arc::new(store);
    if let Some(memories) = &test.memories {
        let lines =
            String::from_utf8(place.bytes(memories)?).map_err(|_| format!("{memories} is not UTF-8"))?;
        shared
            .import(
                scope,
                read_memories(&lines, scope, now).map_err(|error| format!("{memories}: {error}"))?,
                now,
            )
            .await
            .map_err(|error| format!("{memories}: {error}"))?;
    }
    let workspaces: Arc<dyn Workspaces> = Arc::new(Fixed(workspace));
    let outside = Arc::new(Outside {
        mcp: servers(test, &place, &workspaces)?,
        sql: place.sources(test, &scratch.0).await?,
        ..Outside::default()
    });
    let engine = Engine::new(
        Arc::new(Only(Arc::clone(pattern))),
        SharedStore::clone(&shared),
        workspaces,
        Arc::new(Stopped(now)),
        EngineSettings::default(),
    )
    .with_outside(Arc::clone(&outside));
    // A limit in tokens is only worth something when they are counted.
    let _ = tokens::count_exactly("", Instant::now() + TEST_MAX).await;
    let begun = Instant::now();
    let result = engine
        .execute(
            scope,
            ExecuteRequest {
                target: Target::Pattern(pattern.name.clone()),
                input: test.inputs.clone(),
                mode,
                session: None,
                unless: None,
                fresh: true,
                caller: Caller::Trusted,
            },
            Surroundings {
                observer: &Unobserved,
                asker: Arc::new(NobodyToAsk),
                cancel: CancellationToken::new(),
                deadline: StdInstant::now() + TEST_MAX,
                task_deadline: None,
            },
        )
        .await;
    let elapsed = begun.elapsed();
    outside.close().await;
    shared.close(Duration::from_secs(5)).await;
    let tokens = result.as_ref().ok().map(|execution| execution.receipt.tokens_out);
    Ok((judge(test, result), tokens, elapsed))
}

/// The MCP servers of `test`: they speak as others do, and say what its file says.
fn servers(test: &TestSpec, place: &Place<'_>, workspaces: &Arc<dyn Workspaces>) -> Result<Servers, String> {
    let Some(name) = &test.servers else { return Ok(Servers::default()) };
    let script = String::from_utf8(place.bytes(name)?).map_err(|_| format!("{name} is not UTF-8"))?;
    let settings = Script::read(&script).map_err(|fault| format!("{name}: {fault}"))?;
    Ok(Servers::new(settings, Box::new(|_, _| true), Arc::clone(workspaces), None))
}

/// Why `result` is not what `test` expects; `None` where it is.
fn judge(test: &TestSpec, result: Result<Execution, EngineError>) -> Option<String> {
    match (result, &test.expect_error) {
        (Err(error), Some(code)) if error.kind.code() == code => None,
        (Err(error), Some(code)) => {
            Some(format!("expected the error {code}, got {}: {}", error.kind.code(), error.message))
        }
        (Err(error), None) => Some(format!("failed with {}: {}", error.kind.code(), error.message)),
        (Ok(execution), Some(code)) => Some(format!("expected the error {code}, got {}", execution.text)),
        (Ok(execution), None) => judge_answer(test, &execution),
    }
}

fn judge_answer(test: &TestSpec, execution: &Execution) -> Option<String> {
    let Outcome::Output { value, .. } = &execution.outcome else {
        return Some(format!("gave no output: {}", execution.text));
    };
    // The etag changes with every edit of the file, so no expectation can be about it.
    let mut value = Value::clone(value);
    if let Value::Object(members) = &mut value {
        members.shift_remove("etag");
    }
    let mut failure = String::new();
    if let Some(source) = &test.expect_jq {
        let held = Expression::compile(source)
            .and_then(|jq| jq.evaluate(&value, StdInstant::now() + TEST_MAX, EXPECT_BYTES_MAX));
        match held {
            Ok(Value::Bool(true)) => {}
            Ok(other) => {
                let _ = write!(failure, "expect.jq gave {other} for {}", execution.text);
            }
            Err(error) => {
                let _ = write!(failure, "expect.jq failed: {error}; the answer was {}", execution.text);
            }
        }
    }
    if let Some(max) = test.expect_max_tokens {
        let receipt = &execution.receipt;
        if receipt.tokens_estimated || receipt.tokens_out > max {
            let _ = write!(failure, "{} tokens, allowed are {max}: {}", receipt.tokens_out, execution.text);
        }
    }
    (!failure.is_empty()).then_some(failure)
}

/// Memories of a JSON Lines file, as if `scope` had stored them in its own project. A line is one of an export, or any
/// part of it with `content`: what it leaves out is as for a memory that is stored at `now`.
pub(crate) fn read_memories(text: &str, scope: &Scope, now: Timestamp) -> Result<Vec<Memory>, String> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, line)| {
            let fault = |error: serde_json::Error| format!("line {}: {error}", index + 1);
            let mut members: Map<String, Value> = serde_json::from_str(line).map_err(fault)?;
            let given = members.get("created").cloned().unwrap_or_else(|| Value::from(now.to_string()));
            for (name, value) in [
                ("id", Value::from(format!("m_{:026}", index + 1))),
                ("importance", Value::from(0.5)),
                ("kind", Value::from("note")),
                ("agent", Value::from("default")),
                ("created", given.clone()),
                ("updated", given),
            ] {
                members.entry(name).or_insert(value);
            }
            // A project's own, unless it says that they are the principal's.
            if members.get("project").is_none_or(|project| project != ProjectId::personal().as_str()) {
                members.insert("project".to_owned(), Value::from(scope.project().to_string()));
            }
            members.insert("principal".to_owned(), Value::from(scope.principal()));
            serde_json::from_value(Value::Object(members)).map_err(fault)
        })
        .collect()
}

/// Where the files that tests name are found.
struct Place<'a> {
    embedded: bool,
    folder: Option<&'a Path>,
}

impl Place<'_> {
    fn bytes(&self, name: &str) -> Result<Vec<u8>, String> {
        if self.embedded {
            let found = EMBEDDED.iter().find(|(path, _)| *path == name);
            return found.map(|(_, bytes)| bytes.to_vec()).ok_or_else(|| format!("{name} is not embedded"));
        }
        std::fs::read(self.path(name)?).map_err(|error| format!("{name}: {error}"))
    }

    fn path(&self, name: &str) -> Result<PathBuf, String> {
        let folder = self.folder.ok_or_else(|| format!("{name}: the pattern's folder is not known"))?;
        Ok(folder.join(name))
    }

    /// The databases that `test` names, made within `scratch`.
    async fn sources(&self, test: &TestSpec, scratch: &Path) -> Result<Sources, String> {
        let mut specs = Vec::with_capacity(test.sources.len());
        for source in &test.sources {
            let file = &source.file;
            let sql = String::from_utf8(self.bytes(file)?).map_err(|_| format!("{file} is not UTF-8"))?;
            let path = scratch.join(format!("{}.db", source.name));
            make_sqlite(&path, &sql).await.map_err(|error| format!("{file}: {error}"))?;
            let mut spec = SourceSpec::new(&source.name, Address::Sqlite(path));
            spec.queries = source
                .queries
                .iter()
                .cloned()
                .map(|(name, sql, description, params)| NamedQuery { name, description, sql, params })
                .collect();
            specs.push(spec);
        }
        Ok(Sources::new(specs, true, |_| None))
    }

    /// A folder made from the fixture `name`, within `scratch`.
    async fn workspace(&self, name: &str, scratch: &Path) -> Result<PathBuf, String> {
        let root = scratch.join("workspace");
        let bundle = Path::new(name).extension().is_some_and(|extension| extension == "bundle");
        if bundle {
            let file = scratch.join("fixture.bundle");
            std::fs::write(&file, self.bytes(name)?).map_err(|error| format!("{name}: {error}"))?;
            clone(&file, &root).await.map_err(|error| format!("{name}: {error}"))?;
        } else if self.embedded {
            embedded_folder(name, &root).map_err(|error| format!("{name}: {error}"))?;
        } else {
            let from = self.path(name)?;
            copy(&from, &root).map_err(|error| format!("{name}: {error}"))?;
        }
        root.canonicalize().map_err(|error| format!("{name}: {error}"))
    }
}

/// Writes the embedded files below `name` to `root`.
fn embedded_folder(name: &str, root: &Path) -> io::Result<()> {
    let prefix = format!("{}/", name.trim_end_matches('/'));
    let mut files = EMBEDDED.iter().filter(|(path, _)| path.starts_with(&prefix)).peekable();
    if files.peek().is_none() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "is not embedded"));
    }
    for (path, bytes) in files {
        let to = root.join(&path[prefix.len()..]);
        std::fs::create_dir_all(to.parent().unwrap_or(root))?;
        std::fs::write(to, bytes)?;
    }
    Ok(())
}

/// Clones a bundle with a git that reads nobody's configuration.
pub(crate) async fn clone(bundle: &Path, root: &Path) -> Result<(), String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let output = Command::new("git")
        .args(["clone", "--quiet", "--no-hardlinks", "--config", "core.hooksPath=/dev/null"])
        .arg(bundle)
        .arg(root)
        .env_clear()
        .env("PATH", path)
        .env("HOME", root.parent().unwrap_or(root))
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(|error| format!("git cannot be run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("git clone failed: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

/// When copied files say that they last changed: answers that tell it are the same on every machine.
const COPIED: Duration = Duration::from_mins(29_539_410);

/// Copies files and folders; links are left out.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let to = to.join(entry.file_name());
        if kind.is_dir() {
            copy(&entry.path(), &to)?;
        } else if kind.is_file() {
            std::fs::copy(entry.path(), &to)?;
            std::fs::File::open(&to)?.set_modified(std::time::SystemTime::UNIX_EPOCH + COPIED)?;
        }
    }
    Ok(())
}

/// A temporary folder of our own, gone with the value.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let name = random.iter().fold(String::from("tmws-test-"), |name, byte| name + &format!("{byte:02x}"));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path)?;
        Ok(Self(path.canonicalize()?))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "a test's temporary folder is left behind");
        }
    }
}

struct Only(Arc<Pattern>);

impl Patterns for Only {
    fn named(&self, name: &str) -> Option<Arc<Pattern>> {
        (self.0.name == name).then(|| Arc::clone(&self.0))
    }

    fn all(&self) -> Vec<Arc<Pattern>> {
        vec![Arc::clone(&self.0)]
    }

    fn route(&self, _: &str, _: Mode, _: Among<'_>) -> Routed {
        Routed::Candidates(vec![(Arc::clone(&self.0), Map::new())])
    }

    fn ranked(&self, _: &str) -> Vec<Arc<Pattern>> {
        self.all()
    }
}

struct Fixed(Workspace);

impl Workspaces for Fixed {
    fn workspace(&self, _: &Scope) -> Workspace {
        self.0.clone()
    }
}

/// A clock that stands.
pub(crate) struct Stopped(pub(crate) Timestamp);

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_written_by_hand_needs_its_content_only() {
        let scope = Scope::mint(ProjectId::personal(), "local", "default", None);
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let text = "{\"content\": \"one\"}\n\n{\"content\": \"two\", \"kind\": \"decision\", \
                    \"created\": \"2026-01-01T00:00:00Z\"}\n";
        let read = read_memories(text, &scope, now).unwrap();
        let told: Vec<_> = read
            .iter()
            .map(|memory| {
                (&*memory.id, &*memory.kind, memory.created.to_string(), memory.updated == memory.created)
            })
            .collect();
        assert_eq!(
            told,
            [
                ("m_00000000000000000000000001", "note", "2026-03-01T12:00:00Z".to_owned(), true),
                ("m_00000000000000000000000003", "decision", "2026-01-01T00:00:00Z".to_owned(), true),
            ]
        );
        let error = read_memories("{\"content\": \"one\", \"tag\": []}", &scope, now).unwrap_err();
        assert!(error.starts_with("line 1: unknown field `tag`"), "{error}");
    }
}
