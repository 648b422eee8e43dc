//! What the tests of `fs.*` and `git.*` steps share: a context, a folder, a repository.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Map, Value};
use tmws::{
    engine::steps::{StepContext, StepError, StepOutput, fs as fs_steps, git as git_steps},
    scope::{ProjectId, Scope},
    store::{
        Forgotten, Hits, ImportReport, Memory, MemoryChange, MemoryFilter, MemoryQuery, NewMemory,
        Remembered, Store, StoreError, StoreStats, StoredResult,
    },
};
use tokio_util::sync::CancellationToken;

/// A temporary folder, canonical, removed at the end.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
    _temporary: tempfile::TempDir,
}

impl Folder {
    pub(crate) fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        Self { path: temporary.path().canonicalize().unwrap(), _temporary: temporary }
    }

    /// A repository without a commit on branch `main`.
    pub(crate) fn repository() -> Self {
        let folder = Self::new();
        folder.git(&["init", "-q", "-b", "main", "."]);
        folder
    }

    pub(crate) fn write(&self, path: &str, content: impl AsRef<[u8]>) -> &Self {
        let path = self.path.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    /// Runs git as a person would, with fixed names and times.
    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        git(&self.path, arguments)
    }

    pub(crate) fn commit(&self, message: &str) -> &Self {
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "--allow-empty", "-m", message]);
        self
    }

    pub(crate) fn context(&self) -> StepContext {
        StepContext {
            scope: Scope::mint(ProjectId::personal(), "local", "default", None),
            listener: None,
            store: Arc::new(NoStore),
            roots: BTreeMap::from([("root".to_owned(), self.path.clone())]),
            permissions: Arc::default(),
            outside: Arc::default(),
            asker: Arc::new(tmws::engine::NobodyToAsk),
            id: "step".to_owned(),
            now: "2026-03-01T12:00:00Z".parse().unwrap(),
            deadline: Instant::now() + Duration::from_secs(30),
            cancel: CancellationToken::new(),
            bytes_max: 2 << 20,
        }
    }

    pub(crate) async fn fs(&self, uses: &str, with: Value) -> Result<Value, StepError> {
        let output = fs_steps::run(uses, &self.context(), &with_root("root", with)).await;
        output.map(|StepOutput { value, .. }| value)
    }

    pub(crate) async fn git_step(&self, uses: &str, with: Value) -> Result<Value, StepError> {
        let output = git_steps::run(uses, &self.context(), &with_root("repo", with)).await;
        output.map(|StepOutput { value, .. }| value)
    }
}

pub(crate) fn with_root(name: &str, with: Value) -> Map<String, Value> {
    let Value::Object(mut with) = with else { panic!("`with` is an object") };
    with.entry(name).or_insert_with(|| "root".into());
    with
}

pub(crate) fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(folder)
        .args(arguments)
        .envs([
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_AUTHOR_NAME", "Ada"),
            ("GIT_AUTHOR_EMAIL", "ada@example.org"),
            ("GIT_AUTHOR_DATE", "2026-02-20T10:00:00Z"),
            ("GIT_COMMITTER_NAME", "Ada"),
            ("GIT_COMMITTER_EMAIL", "ada@example.org"),
            ("GIT_COMMITTER_DATE", "2026-02-20T10:00:00Z"),
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A store for steps that must not touch it.
struct NoStore;

macro_rules! untouched {
    ($($name:ident($($argument:ident: $type:ty),*) -> $answer:ty;)*) => {
        #[async_trait]
        #[expect(unused_variables, reason = "nothing is done with them")]
        impl Store for NoStore {
            $(async fn $name(&self, $($argument: $type),*) -> $answer {
                panic!("a step of files or git touched the store: {}", stringify!($name))
            })*
        }
    };
}

untouched! {
    remember(scope: &Scope, new: NewMemory, now: Timestamp) -> Result<Remembered, StoreError>;
    get(scope: &Scope, id: &str, now: Timestamp) -> Result<Option<Memory>, StoreError>;
    ids_ending(scope: &Scope, ending: &str, now: Timestamp) -> Result<Vec<String>, StoreError>;
    search(scope: &Scope, query: MemoryQuery, now: Timestamp) -> Result<Hits, StoreError>;
    list(scope: &Scope, filter: MemoryFilter, now: Timestamp) -> Result<Hits, StoreError>;
    update(scope: &Scope, id: &str, change: MemoryChange, now: Timestamp) -> Result<Option<Memory>, StoreError>;
    forget(scope: &Scope, ids: &[String], now: Timestamp) -> Result<Forgotten, StoreError>;
    stats(scope: &Scope, now: Timestamp) -> Result<StoreStats, StoreError>;
    export(scope: &Scope, after: Option<&str>, limit: usize) -> Result<Vec<Memory>, StoreError>;
    import(scope: &Scope, memories: Vec<Memory>, now: Timestamp) -> Result<ImportReport, StoreError>;
    generation(scope: &Scope) -> Result<u64, StoreError>;
    open_session(scope: &Scope, now: Timestamp) -> Result<String, StoreError>;
    session_scratch(scope: &Scope, handle: &str, now: Timestamp) -> Result<Map<String, Value>, StoreError>;
    set_session_scratch(scope: &Scope, handle: &str, key: &str, value: Value, now: Timestamp) -> Result<(), StoreError>;
    close_session(scope: &Scope, handle: &str, now: Timestamp) -> Result<bool, StoreError>;
    put_result(scope: &Scope, result: StoredResult, now: Timestamp) -> Result<String, StoreError>;
    get_result(scope: &Scope, handle: &str, now: Timestamp) -> Result<StoredResult, StoreError>;
    state_key() -> Result<[u8; 32], StoreError>;
    close(limit: Duration) -> ();
}
