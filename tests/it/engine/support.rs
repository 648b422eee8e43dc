//! An engine over a SQLite file in a temporary folder, and a store that can be told to stall, fail or panic.

#![allow(clippy::unwrap_used, reason = "what a test sets up must be there")]

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Map, Value};
use tempfile::TempDir;
use tmws::{
    cache::CacheLimits,
    engine::{
        Caller, Clock, Engine, EngineError, EngineSettings, ExecuteRequest, Execution, LiveLibrary, Outcome,
        Patterns, Routed, Surroundings, Target, Unobserved, Workspace, Workspaces,
    },
    pattern::{Mode, Origin, Pattern, library::Library, loader::load, router::Among},
    scope::{ProjectId, Scope},
    store::{
        Forgotten, Hits, ImportReport, LazyStore, Mark, Memory, MemoryChange, MemoryFilter, MemoryQuery,
        NewMemory, Remembered, SharedStore, SqliteOptions, SqliteStore, Store, StoreError, StoreStats,
        StoredResult,
    },
};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

pub(super) const NOW: &str = "2026-03-01T12:00:00Z";

/// A pattern file of `fixtures/patterns/engine`.
pub(super) fn pattern(name: &str) -> Arc<Pattern> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("fixtures/patterns/engine/{name}.yaml"));
    let text = std::fs::read_to_string(&path).unwrap();
    load(name, &text, Origin::User(path)).unwrap_or_else(|errors| panic!("{name}: {errors:?}")).pattern
}

pub(super) fn built_in(name: &str) -> Arc<Pattern> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/pattern/builtin/{name}.yaml"));
    let text = std::fs::read_to_string(&path).unwrap();
    load(name, &text, Origin::BuiltIn).unwrap_or_else(|errors| panic!("{name}: {errors:?}")).pattern
}

pub(super) fn scope_of(project: &str) -> Scope {
    Scope::mint(ProjectId::parse(project).unwrap(), "local", "default", None)
}

/// Some patterns by name.
pub(super) struct Shelf(BTreeMap<String, Arc<Pattern>>);

impl Shelf {
    pub(super) fn of(patterns: Vec<Arc<Pattern>>) -> Arc<Self> {
        Arc::new(Self(patterns.into_iter().map(|pattern| (pattern.name.clone(), pattern)).collect()))
    }
}

impl Patterns for Shelf {
    fn named(&self, name: &str) -> Option<Arc<Pattern>> {
        self.0.get(name).cloned()
    }

    fn all(&self) -> Vec<Arc<Pattern>> {
        self.0.values().cloned().collect()
    }

    fn route(&self, query: &str, _: Mode, among: Among<'_>) -> Routed {
        let meant = |pattern: &Pattern| pattern.triggers.phrases.iter().any(|phrase| phrase == query);
        match self.0.values().find(|pattern| (among.admits)(pattern) && meant(pattern)) {
            Some(pattern) => Routed::Match { pattern: Arc::clone(pattern), input: Map::new(), by: "phrase" },
            None => Routed::Candidates(self.all().into_iter().map(|pattern| (pattern, Map::new())).collect()),
        }
    }

    fn ranked(&self, _: &str) -> Vec<Arc<Pattern>> {
        self.all()
    }
}

struct At(Timestamp);

impl Clock for At {
    fn now(&self) -> Timestamp {
        self.0
    }
}

struct Here(Workspace);

pub(super) fn here(workspace: Workspace) -> Arc<dyn Workspaces> {
    Arc::new(Here(workspace))
}

impl Workspaces for Here {
    fn workspace(&self, _: &Scope) -> Workspace {
        self.0.clone()
    }
}

/// An engine and what it stands on.
pub(super) struct Bench {
    pub(super) engine: Arc<Engine>,
    pub(super) store: Arc<Staged>,
    pub(super) scope: Scope,
    pub(super) folder: TempDir,
}

impl Bench {
    pub(super) async fn new(patterns: &[&str]) -> Self {
        Self::with(patterns.iter().map(|name| pattern(name)).collect()).await
    }

    pub(super) async fn with(patterns: Vec<Arc<Pattern>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let inner = SqliteStore::open(SqliteOptions::new(folder.path().join("store.db"))).await.unwrap();
        Self::over(patterns, Some(Arc::new(inner)), folder)
    }

    /// Without a store behind: every call that is not staged fails.
    pub(super) fn storeless(patterns: &[&str]) -> Self {
        let patterns = patterns.iter().map(|name| pattern(name)).collect();
        Self::over(patterns, None, tempfile::tempdir().unwrap())
    }

    /// With a store whose file cannot be made, behind its guard.
    pub(super) fn lost(patterns: &[&str]) -> Self {
        let patterns = patterns.iter().map(|name| pattern(name)).collect();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("in the way"), "a file").unwrap();
        let store = LazyStore::new(SqliteOptions::new(folder.path().join("in the way/store.db")));
        Self::over(patterns, Some(Arc::new(store)), folder)
    }

    /// Over the patterns of the binary, routed as they are.
    pub(super) async fn of_built_ins() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let inner = SqliteStore::open(SqliteOptions::new(folder.path().join("store.db"))).await.unwrap();
        Self::on(Arc::new(LiveLibrary::new(Library::built_in())), Some(Arc::new(inner)), folder)
    }

    fn over(patterns: Vec<Arc<Pattern>>, inner: Option<SharedStore>, folder: TempDir) -> Self {
        let shelf = patterns.into_iter().map(|pattern| (pattern.name.clone(), pattern)).collect();
        Self::on(Arc::new(Shelf(shelf)), inner, folder)
    }

    fn on(patterns: Arc<dyn Patterns>, inner: Option<SharedStore>, folder: TempDir) -> Self {
        let store = Arc::new(Staged::new(inner));
        let root = folder.path().join("work");
        std::fs::create_dir(&root).unwrap();
        let engine = Engine::new(
            patterns,
            Arc::clone(&store) as SharedStore,
            Arc::new(Here(Workspace::Root(root.canonicalize().unwrap()))),
            Arc::new(At(NOW.parse().unwrap())),
            EngineSettings::default(),
        );
        Self { engine: Arc::new(engine), store, scope: scope_of("p1"), folder }
    }

    /// The same with answers kept.
    pub(super) fn keeping(self, limits: CacheLimits) -> Self {
        let engine = Arc::into_inner(self.engine).expect("nobody has it yet").with_cache(limits, None);
        Self { engine: Arc::new(engine), ..self }
    }

    pub(super) fn homeless(patterns: &[&str]) -> Engine {
        let shelf = patterns.iter().map(|name| pattern(name)).map(|pattern| (pattern.name.clone(), pattern));
        Engine::new(
            Arc::new(Shelf(shelf.collect())),
            Arc::new(Staged::new(None)),
            Arc::new(Here(Workspace::None {
                reason: "the root is your home folder; set TMWS_ROOT".to_owned(),
            })),
            Arc::new(At(NOW.parse().unwrap())),
            EngineSettings::default(),
        )
    }

    pub(super) async fn call(&self, request: ExecuteRequest) -> Result<Execution, EngineError> {
        self.engine.execute(&self.scope, request, around(&CancellationToken::new())).await
    }

    pub(super) async fn run(&self, name: &str, input: Value) -> Result<Execution, EngineError> {
        self.call(request(name, input)).await
    }

    /// The output of a run that must go well.
    pub(super) async fn output(&self, name: &str, input: Value) -> Value {
        value(&self.run(name, input).await.unwrap()).clone()
    }
}

pub(super) fn around(cancel: &CancellationToken) -> Surroundings<'static> {
    Surroundings {
        observer: &Unobserved,
        asker: std::sync::Arc::new(tmws::engine::NobodyToAsk),
        cancel: cancel.clone(),
        deadline: tokio::time::Instant::now().into_std() + Duration::from_mins(1),
        task_deadline: None,
    }
}

pub(super) fn request(name: &str, input: Value) -> ExecuteRequest {
    let Value::Object(input) = input else { panic!("inputs are an object") };
    ExecuteRequest {
        target: Target::Pattern(name.to_owned()),
        input,
        mode: Mode::Balanced,
        session: None,
        unless: None,
        fresh: false,
        caller: Caller::Model,
    }
}

pub(super) fn value(execution: &Execution) -> &Value {
    match &execution.outcome {
        Outcome::Output { value, .. } => value,
        other => panic!("no output: {other:?}"),
    }
}

pub(super) fn etag(execution: &Execution) -> String {
    match &execution.outcome {
        Outcome::Output { etag, .. } | Outcome::Unchanged { etag } => etag.clone(),
        other => panic!("no etag: {other:?}"),
    }
}

/// What the store does at its next search.
pub(super) enum Act {
    Fail(StoreError),
    Panic,
    /// Waits until [`Staged::release`].
    Wait,
    /// Never answers.
    Stall,
}

/// What the store does with results.
#[derive(Clone, Copy)]
pub(super) enum Keeps {
    Well,
    Not,
    /// Never answers.
    Never,
}

/// The real store, whose searches and kept results can be told to misbehave, and which says when a search is reached.
pub(crate) struct Staged {
    inner: Option<SharedStore>,
    acts: Mutex<VecDeque<Act>>,
    pub(super) keeps: Mutex<Keeps>,
    /// Does not say its mark.
    pub(crate) is_dumb: AtomicBool,
    /// Says nothing to whoever asks for its mark, or for results.
    pub(super) is_mark_silent: AtomicBool,
    pub(super) are_results_silent: AtomicBool,
    /// Who is asked for results, where it is another store.
    pub(super) results: Mutex<Option<SharedStore>>,
    /// How often it was asked whether a session was ended.
    pub(crate) ends_asked: AtomicUsize,
    released: Semaphore,
    reached: mpsc::UnboundedSender<String>,
    pub(super) searches: tokio::sync::Mutex<mpsc::UnboundedReceiver<String>>,
}

impl Staged {
    pub(crate) fn new(inner: Option<SharedStore>) -> Self {
        let (reached, searches) = mpsc::unbounded_channel();
        Self {
            inner,
            acts: Mutex::default(),
            keeps: Mutex::new(Keeps::Well),
            is_dumb: AtomicBool::new(false),
            is_mark_silent: AtomicBool::new(false),
            are_results_silent: AtomicBool::new(false),
            results: Mutex::default(),
            ends_asked: AtomicUsize::new(0),
            released: Semaphore::new(0),
            reached,
            searches: tokio::sync::Mutex::new(searches),
        }
    }

    pub(super) fn next(&self, acts: impl IntoIterator<Item = Act>) {
        self.acts.lock().unwrap().extend(acts);
    }

    pub(super) fn release(&self, n: usize) {
        self.released.add_permits(n);
    }

    /// The words of the next search, once it is reached.
    pub(super) async fn searched(&self) -> String {
        let searched = tokio::time::timeout(Duration::from_secs(30), async {
            self.searches.lock().await.recv().await.unwrap()
        });
        searched.await.expect("a search is reached")
    }

    /// How many searches were reached and not yet asked for.
    pub(super) async fn searched_count(&self) -> usize {
        let mut searches = self.searches.lock().await;
        std::iter::from_fn(|| searches.try_recv().ok()).count()
    }

    fn inner(&self) -> Result<&SharedStore, StoreError> {
        self.inner
            .as_ref()
            .ok_or_else(|| StoreError::Unavailable { reason: "there is none in this test".to_owned() })
    }
}

/// Gets no further where nothing is said.
async fn said(is_silent: &AtomicBool) {
    if is_silent.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
}

#[async_trait]
impl Store for Staged {
    async fn search(&self, scope: &Scope, query: MemoryQuery, now: Timestamp) -> Result<Hits, StoreError> {
        let act = self.acts.lock().unwrap().pop_front();
        self.reached.send(query.text.clone()).unwrap();
        match act {
            None => {}
            Some(Act::Fail(error)) => return Err(error),
            Some(Act::Panic) => panic!("the store panics, as told"),
            Some(Act::Wait) => self.released.acquire().await.unwrap().forget(),
            Some(Act::Stall) => std::future::pending().await,
        }
        self.inner()?.search(scope, query, now).await
    }

    async fn put_result(
        &self,
        scope: &Scope,
        result: StoredResult,
        now: Timestamp,
    ) -> Result<String, StoreError> {
        let keeps = *self.keeps.lock().unwrap();
        match keeps {
            Keeps::Well => {}
            Keeps::Not => return Err(StoreError::Locked),
            Keeps::Never => std::future::pending().await,
        }
        self.inner()?.put_result(scope, result, now).await
    }

    async fn remember(
        &self,
        scope: &Scope,
        new: NewMemory,
        now: Timestamp,
    ) -> Result<Remembered, StoreError> {
        self.inner()?.remember(scope, new, now).await
    }

    async fn get(&self, scope: &Scope, id: &str, now: Timestamp) -> Result<Option<Memory>, StoreError> {
        self.inner()?.get(scope, id, now).await
    }

    async fn ids_ending(
        &self,
        scope: &Scope,
        ending: &str,
        now: Timestamp,
    ) -> Result<Vec<String>, StoreError> {
        self.inner()?.ids_ending(scope, ending, now).await
    }

    async fn list(&self, scope: &Scope, filter: MemoryFilter, now: Timestamp) -> Result<Hits, StoreError> {
        self.inner()?.list(scope, filter, now).await
    }

    async fn update(
        &self,
        scope: &Scope,
        id: &str,
        change: MemoryChange,
        now: Timestamp,
    ) -> Result<Option<Memory>, StoreError> {
        self.inner()?.update(scope, id, change, now).await
    }

    async fn forget(&self, scope: &Scope, ids: &[String], now: Timestamp) -> Result<Forgotten, StoreError> {
        self.inner()?.forget(scope, ids, now).await
    }

    async fn stats(&self, scope: &Scope, now: Timestamp) -> Result<StoreStats, StoreError> {
        self.inner()?.stats(scope, now).await
    }

    async fn export(
        &self,
        scope: &Scope,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Memory>, StoreError> {
        self.inner()?.export(scope, after, limit).await
    }

    async fn import(
        &self,
        scope: &Scope,
        memories: Vec<Memory>,
        now: Timestamp,
    ) -> Result<ImportReport, StoreError> {
        self.inner()?.import(scope, memories, now).await
    }

    async fn generation(&self, scope: &Scope) -> Result<u64, StoreError> {
        Ok(self.mark(scope).await?.generation)
    }

    async fn mark(&self, scope: &Scope) -> Result<Mark, StoreError> {
        said(&self.is_mark_silent).await;
        if self.is_dumb.load(Ordering::SeqCst) {
            return Err(StoreError::Locked);
        }
        self.inner()?.mark(scope).await
    }

    async fn next_expiry(
        &self,
        scope: &Scope,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        self.inner()?.next_expiry(scope, now, until).await
    }

    async fn open_session(&self, scope: &Scope, now: Timestamp) -> Result<String, StoreError> {
        self.inner()?.open_session(scope, now).await
    }

    async fn session_scratch(
        &self,
        scope: &Scope,
        handle: &str,
        now: Timestamp,
    ) -> Result<Map<String, Value>, StoreError> {
        self.inner()?.session_scratch(scope, handle, now).await
    }

    async fn set_session_scratch(
        &self,
        scope: &Scope,
        handle: &str,
        key: &str,
        value: Value,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.inner()?.set_session_scratch(scope, handle, key, value, now).await
    }

    async fn close_session(&self, scope: &Scope, handle: &str, now: Timestamp) -> Result<bool, StoreError> {
        self.inner()?.close_session(scope, handle, now).await
    }

    async fn end_session(
        &self,
        scope: &Scope,
        name: &str,
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if self.is_dumb.load(Ordering::SeqCst) {
            return Err(StoreError::Locked);
        }
        self.inner()?.end_session(scope, name, expires, now).await
    }

    async fn is_session_ended(&self, scope: &Scope, name: &str, now: Timestamp) -> Result<bool, StoreError> {
        self.ends_asked.fetch_add(1, Ordering::SeqCst);
        if self.is_dumb.load(Ordering::SeqCst) {
            return Err(StoreError::Locked);
        }
        self.inner()?.is_session_ended(scope, name, now).await
    }

    async fn get_result(
        &self,
        scope: &Scope,
        handle: &str,
        now: Timestamp,
    ) -> Result<StoredResult, StoreError> {
        said(&self.are_results_silent).await;
        let other = self.results.lock().unwrap().clone();
        match other {
            Some(other) => other.get_result(scope, handle, now).await,
            None => self.inner()?.get_result(scope, handle, now).await,
        }
    }

    async fn state_key(&self) -> Result<[u8; 32], StoreError> {
        if self.is_dumb.load(Ordering::SeqCst) {
            return Err(StoreError::Locked);
        }
        self.inner()?.state_key().await
    }

    async fn close(&self, limit: Duration) {
        if let Some(inner) = &self.inner {
            inner.close(limit).await;
        }
    }
}

/// Some time ahead, for calls that must not be late.
pub(super) fn soon() -> Instant {
    Instant::now() + Duration::from_mins(1)
}
