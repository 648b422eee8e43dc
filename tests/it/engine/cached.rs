//! Answers that are kept: found again while a run would say the same, and only by those who may.

use std::{
    path::Path,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};
use tmws::{
    cache::{CacheLimits, Layer},
    embedding::Embeddings,
    engine::{
        Caller, Clock, Engine, EngineSettings, ExecuteRequest, Execution, Outcome, ResultQuery, Workspace,
    },
    pattern::{Mode, Origin, Pattern, loader::load},
    scope::{ProjectId, Rights, Scope},
    store::{LazyStore, NewMemory, SharedStore, SqliteOptions, SqliteStore, Store as _, Visibility},
};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::support::{
    Act, Keeps, NOW, Shelf, Staged, around, built_in, etag, here, request, scope_of, soon, value,
};

/// A clock that a test moves.
struct Hands(Mutex<Timestamp>);

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

/// An engine that keeps answers, over a store of its own.
struct Kept {
    engine: Arc<Engine>,
    store: Arc<Staged>,
    clock: Arc<Hands>,
    folder: tempfile::TempDir,
}

impl Kept {
    async fn with(patterns: Vec<Arc<Pattern>>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("work")).unwrap();
        let inner = SqliteStore::open(SqliteOptions::new(folder.path().join("store.db"))).await.unwrap();
        let store = Arc::new(Staged::new(Some(Arc::new(inner))));
        let clock = Arc::new(Hands(Mutex::new(NOW.parse().unwrap())));
        let engine = engine(patterns, Arc::clone(&store) as SharedStore, Arc::clone(&clock), folder.path());
        Self { engine: Arc::new(engine), store, clock, folder }
    }

    async fn of(names: &[&str]) -> Self {
        Self::with(names.iter().map(|name| built_in(name)).collect()).await
    }

    async fn call(&self, scope: &Scope, request: ExecuteRequest) -> Execution {
        self.engine.execute(scope, request, around(&CancellationToken::new())).await.unwrap()
    }

    async fn run(&self, name: &str, input: Value) -> Execution {
        self.call(&scope_of("p1"), request(name, input)).await
    }

    async fn remember(&self, scope: &Scope, text: &str) {
        self.store.remember(scope, memory(text), self.clock.now()).await.unwrap();
    }

    fn pass(&self, seconds: i64) {
        *self.clock.0.lock().unwrap() += SignedDuration::from_secs(seconds);
    }

    fn work(&self) -> std::path::PathBuf {
        self.folder.path().join("work").canonicalize().unwrap()
    }
}

fn engine(patterns: Vec<Arc<Pattern>>, store: SharedStore, clock: Arc<Hands>, folder: &Path) -> Engine {
    Engine::new(
        Shelf::of(patterns),
        store,
        here(Workspace::Root(folder.join("work").canonicalize().unwrap())),
        clock,
        EngineSettings::default(),
    )
    .with_cache(CacheLimits::default(), None)
}

fn memory(text: &str) -> NewMemory {
    NewMemory { content: text.to_owned(), ..NewMemory::default() }
}

/// How the cache served it: `off`, `miss`, `local`.
fn way(execution: &Execution) -> &'static str {
    match (execution.receipt.cache, execution.receipt.cache_layer) {
        ("hit", Some(layer)) => layer.as_str(),
        (cache, None) => cache,
        (cache, layer) => panic!("{cache} {layer:?}"),
    }
}

fn inline(text: &str) -> Arc<Pattern> {
    load("inline.yaml", text, Origin::User("inline.yaml".into()))
        .unwrap_or_else(|errors| panic!("{errors:?}"))
        .pattern
}

const RECALL: &str = "memory.recall";

fn asked() -> Value {
    json!({"query": "harbour"})
}

fn texts(execution: &Execution) -> String {
    value(execution)["hits"].to_string()
}

#[tokio::test]
async fn an_answer_is_kept_and_says_so() {
    let kept = Kept::of(&[RECALL]).await;
    kept.remember(&scope_of("p1"), "the harbour queue retries thrice").await;
    let first = kept.run(RECALL, asked()).await;
    assert_eq!(way(&first), "miss");
    let again = kept.run(RECALL, asked()).await;
    assert_eq!((way(&again), again.receipt.cache_layer), ("local", Some(Layer::Local)));
    assert_eq!((&again.text, &again.outcome), (&first.text, &first.outcome));
    assert_eq!(again.receipt.steps, [], "no step ran");
    assert_eq!((again.receipt.pattern, again.receipt.hash), (first.receipt.pattern, first.receipt.hash));
    assert_eq!((again.receipt.bytes_seen, again.receipt.matched_by), (first.receipt.bytes_seen, "name"));
    assert!(kept.store.searched_count().await == 1, "the store was searched once");
    let own = kept.engine.outside().figures.of(&scope_of("p1")).unwrap();
    assert_eq!((own.cache.local, own.cache.shared, own.cache.misses), (1, 0, 1));
    let figures = kept.engine.cache_figures();
    assert_eq!((figures.local_hits, figures.misses, figures.fills, figures.entries), (1, 1, 1, 1));
}

#[tokio::test]
async fn a_write_is_seen_by_the_next_call() {
    let kept = Kept::of(&[RECALL]).await;
    for round in 0..20 {
        kept.remember(&scope_of("p1"), &format!("harbour note number {round}")).await;
        let next = kept.run(RECALL, json!({"query": format!("harbour note number {round}")})).await;
        assert_eq!(way(&next), "miss");
        assert!(texts(&next).contains(&format!("number {round}")), "{}", next.text);
    }
    let before = kept.run(RECALL, asked()).await;
    assert_eq!(way(&kept.run(RECALL, asked()).await), "local");
    kept.remember(&scope_of("p2"), "another project's harbour").await;
    assert_eq!(way(&kept.run(RECALL, asked()).await), "local", "a write elsewhere changes nothing here");
    kept.remember(&scope_of("p1"), "harbour master is Ada").await;
    let after = kept.run(RECALL, asked()).await;
    assert_eq!(way(&after), "miss");
    assert_ne!(before.text, after.text);
    assert!(kept.engine.cache_figures().stale > 0);
}

#[tokio::test]
async fn what_was_found_by_words_alone_is_not_kept_and_says_so_until_vectors_are_there() {
    const CAR: &str = "The automobile is parked in the underground garage";
    let asked = || json!({"query": "where did I leave my car"});
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("work")).unwrap();
    let path = folder.path().join("store.db");
    let without = SqliteOptions { embeddings: Embeddings::none(), ..SqliteOptions::new(&path) };
    let store = SqliteStore::open(without).await.unwrap();
    store.remember(&scope_of("p1"), memory(CAR), NOW.parse().unwrap()).await.unwrap();
    store.close(Duration::from_secs(5)).await;

    // Vectors are made from half a second after the opening on.
    let store = Arc::new(SqliteStore::open(SqliteOptions::new(&path)).await.unwrap());
    let clock = Arc::new(Hands(Mutex::new(NOW.parse().unwrap())));
    let engine = engine(vec![built_in(RECALL)], Arc::clone(&store) as SharedStore, clock, folder.path());
    let ask = async || {
        let around = around(&CancellationToken::new());
        engine.execute(&scope_of("p1"), request(RECALL, asked()), around).await.unwrap()
    };
    for _ in 0..2 {
        let found = ask().await;
        assert_eq!((way(&found), texts(&found).contains("automobile")), ("miss", false));
        assert_eq!(found.receipt.degraded, ["embeddings: words alone"]);
    }
    let waited = async {
        loop {
            let found = ask().await;
            // Vectors that come while it is searched may be told of as if they were still missing, never the other way round.
            let (is_found, is_told) =
                (texts(&found).contains("automobile"), !found.receipt.degraded.is_empty());
            assert_eq!((way(&found), is_found || is_told), ("miss", true));
            if is_found && !is_told {
                return;
            }
        }
    };
    timeout(Duration::from_mins(1), waited).await.unwrap();
    let again = ask().await;
    assert_eq!((way(&again), texts(&again).contains("automobile")), ("local", true));
}

#[tokio::test]
async fn a_copy_that_is_put_in_the_place_of_the_store_brings_no_answer_back() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("work")).unwrap();
    let (path, copy) = (folder.path().join("store.db"), folder.path().join("copy.db"));
    let now: Timestamp = NOW.parse().unwrap();
    let scope = scope_of("p1");
    let store = SqliteStore::open(SqliteOptions::new(&path)).await.unwrap();
    store.remember(&scope, memory("harbour one"), now).await.unwrap();
    store.close(Duration::from_secs(5)).await;
    std::fs::copy(&path, &copy).unwrap();

    let store: SharedStore = Arc::new(LazyStore::new(SqliteOptions::new(&path)));
    let clock = Arc::new(Hands(Mutex::new(now)));
    let engine = engine(vec![built_in(RECALL)], Arc::clone(&store), clock, folder.path());
    let ask = async || {
        let around = around(&CancellationToken::new());
        engine.execute(&scope, request(RECALL, asked()), around).await.unwrap()
    };
    store.remember(&scope, memory("harbour two"), now).await.unwrap();
    assert!(texts(&ask().await).contains("harbour two"));
    assert_eq!(way(&ask().await), "local");
    std::fs::rename(&copy, &path).unwrap();
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(folder.path().join(format!("store.db{suffix}")));
    }
    // A write notices it; the next one is of the copy.
    store.remember(&scope, memory("harbour nowhere"), now).await.unwrap_err();
    store.remember(&scope, memory("harbour three"), now).await.unwrap();
    let found = ask().await;
    let texts = texts(&found);
    assert!(texts.contains("harbour three") && !texts.contains("harbour two"), "{}: {texts}", way(&found));
}

#[tokio::test]
async fn whoever_may_read_otherwise_has_an_entry_of_their_own() {
    let kept = Kept::of(&[RECALL]).await;
    let own = scope_of("p1");
    kept.remember(&own, "the harbour queue retries thrice").await;
    let ask = || request(RECALL, asked());
    assert_eq!(way(&kept.call(&own, ask()).await), "miss");
    let project = ProjectId::parse("p1").unwrap();
    let others = [
        Scope::mint(project.clone(), "other", "default", None),
        Scope::mint(project.clone(), "local", "agent-2", None),
        scope_of("p2"),
        own.with_rights(Rights::PATTERN_RUN.with(Rights::MEMORY_READ)),
    ];
    for scope in &others {
        assert_eq!(way(&kept.call(scope, ask()).await), "miss", "{scope:?}");
        assert_eq!(way(&kept.call(scope, ask()).await), "local", "{scope:?}");
    }
    for other in [
        ExecuteRequest { mode: Mode::Comprehensive, ..ask() },
        request(RECALL, json!({"query": "harbour", "k": 3})),
        request(RECALL, json!({"query": "Harbour"})),
    ] {
        assert_eq!(way(&kept.call(&own, other).await), "miss");
    }
    assert_eq!(way(&kept.call(&own, ExecuteRequest { caller: Caller::Trusted, ..ask() }).await), "local");
    let lacking = own.with_rights(Rights::PATTERN_RUN);
    let refused = kept.engine.execute(&lacking, ask(), around(&CancellationToken::new())).await;
    assert!(!matches!(refused, Ok(execution) if execution.receipt.cache == "hit"));
}

#[tokio::test]
async fn what_a_session_alone_may_see_stays_in_it() {
    let kept = Kept::of(&[RECALL]).await;
    let project = ProjectId::parse("p1").unwrap();
    let session = |name| Scope::mint(project.clone(), "local", "default", Some(name));
    let (one, two) = (session("one"), session("two"));
    kept.remember(&one, "harbour for everyone").await;
    assert_eq!(way(&kept.call(&one, request(RECALL, asked())).await), "miss");
    let secret = NewMemory { visibility: Visibility::Session, ..memory("harbour secret of one") };
    kept.store.remember(&one, secret, kept.clock.now()).await.unwrap();
    for _ in 0..2 {
        assert!(texts(&kept.call(&one, request(RECALL, asked())).await).contains("secret"));
        assert!(!texts(&kept.call(&two, request(RECALL, asked())).await).contains("secret"));
    }
    let handle = kept.store.open_session(&two, kept.clock.now()).await.unwrap();
    let within = || ExecuteRequest { session: Some(handle.clone()), ..request(RECALL, asked()) };
    assert_eq!(way(&kept.call(&two, within()).await), "miss");
    assert_eq!(way(&kept.call(&two, within()).await), "local");
    kept.store.set_session_scratch(&two, &handle, "topic", json!("ships"), kept.clock.now()).await.unwrap();
    assert_eq!(way(&kept.call(&two, within()).await), "miss", "its scratch is another");
    kept.store.close_session(&two, &handle, kept.clock.now()).await.unwrap();
    let ended = kept.engine.execute(&two, within(), around(&CancellationToken::new())).await.unwrap_err();
    assert_eq!(ended.kind.code(), "unknown_handle", "a kept answer is no way around an ended session");
}

#[tokio::test]
async fn an_etag_that_holds_is_answered_from_what_is_kept() {
    let kept = Kept::of(&[RECALL]).await;
    kept.remember(&scope_of("p1"), "the harbour queue retries thrice").await;
    let first = kept.run(RECALL, asked()).await;
    let again = || ExecuteRequest { unless: Some(etag(&first)), ..request(RECALL, asked()) };
    let unchanged = kept.call(&scope_of("p1"), again()).await;
    assert_eq!(unchanged.outcome, Outcome::Unchanged { etag: etag(&first) });
    assert_eq!(way(&unchanged), "local");
    assert_eq!(serde_json::from_str::<Value>(&unchanged.text).unwrap()["project"], "work");
    kept.remember(&scope_of("p1"), "harbour master is Ada").await;
    let changed = kept.call(&scope_of("p1"), again()).await;
    assert!(matches!(changed.outcome, Outcome::Output { .. }));
    // What a call with an etag found out is kept whole: the next one without gets it.
    let unless = ExecuteRequest { unless: Some(etag(&changed)), fresh: true, ..request(RECALL, asked()) };
    let fresh = kept.call(&scope_of("p1"), unless).await;
    assert_eq!((way(&fresh), &fresh.outcome), ("miss", &Outcome::Unchanged { etag: etag(&changed) }));
    let whole = kept.run(RECALL, asked()).await;
    assert_eq!((way(&whole), &whole.text), ("local", &changed.text));
}

#[tokio::test]
async fn ages_that_grow_change_no_etag_and_are_never_told_late() {
    let kept =
        Kept::with(vec![built_in("memory.recall"), built_in("todo.sweep"), built_in("session.primer")]).await;
    kept.remember(&scope_of("p1"), "the harbour queue retries thrice").await;
    let input = || json!({"query": "harbour queue"});
    kept.pass(30);
    let first = kept.run("memory.recall", input()).await;
    assert_eq!(value(&first)["hits"][0]["age"], "0m");
    let again = || ExecuteRequest { unless: Some(etag(&first)), ..request("memory.recall", input()) };
    kept.pass(29);
    assert_eq!(way(&kept.run("memory.recall", input()).await), "local");
    kept.pass(1);
    let unchanged = kept.call(&scope_of("p1"), again()).await;
    assert_eq!(unchanged.outcome, Outcome::Unchanged { etag: etag(&first) });
    let grown = kept.run("memory.recall", input()).await;
    assert_eq!(value(&grown)["hits"][0]["age"], "1m", "the kept one says 0m");
    assert_eq!(etag(&grown), etag(&first));
    for passed in [60, 7_200, 200_000] {
        kept.pass(passed);
        let unchanged = kept.call(&scope_of("p1"), again()).await;
        assert_eq!(unchanged.outcome, Outcome::Unchanged { etag: etag(&first) }, "{passed}");
    }
    kept.remember(&scope_of("p1"), "the harbour queue has a master").await;
    let changed = kept.call(&scope_of("p1"), again()).await;
    assert!(matches!(changed.outcome, Outcome::Output { .. }));

    let work = kept.work();
    git(&work, &["init", "-q"]);
    std::fs::write(work.join("berth.rs"), "// TODO: count the berths\n").unwrap();
    git(&work, &["add", "."]);
    git(&work, &["commit", "-q", "-m", "berths"]);
    let first = kept.run("todo.sweep", json!({})).await;
    let told = value(&first)["notes"][0].as_str().unwrap().to_owned();
    // Far beyond the commit's own time, which is the machine's.
    kept.pass(400 * 24 * 3_600);
    let later = kept.run("todo.sweep", json!({"path": "."})).await;
    assert_ne!(value(&later)["notes"][0], told.as_str(), "its age is another");
    let unless = ExecuteRequest { unless: Some(etag(&first)), ..request("todo.sweep", json!({})) };
    assert_eq!(kept.call(&scope_of("p1"), unless).await.outcome, Outcome::Unchanged { etag: etag(&first) });
}

#[tokio::test]
async fn an_entry_ends_with_its_time_and_with_the_first_memory_that_expires() {
    let kept = Kept::of(&[RECALL]).await;
    kept.remember(&scope_of("p1"), "the harbour queue retries thrice").await;
    assert_eq!(way(&kept.run(RECALL, asked()).await), "miss");
    kept.pass(59);
    assert_eq!(way(&kept.run(RECALL, asked()).await), "local");
    kept.pass(1);
    assert_eq!(way(&kept.run(RECALL, asked()).await), "miss", "its ttl is 60 s");
    let expires = Some(kept.clock.now() + SignedDuration::from_secs(10));
    let brief = NewMemory { expires, ..memory("harbour closed today") };
    kept.store.remember(&scope_of("p1"), brief, kept.clock.now()).await.unwrap();
    assert!(texts(&kept.run(RECALL, asked()).await).contains("closed"));
    kept.pass(9);
    assert_eq!(way(&kept.run(RECALL, asked()).await), "local");
    kept.pass(1);
    let after = kept.run(RECALL, asked()).await;
    assert_eq!(way(&after), "miss");
    assert!(!texts(&after).contains("closed"), "an expiry is no write, and is seen all the same");
}

#[tokio::test]
async fn fresh_looks_nothing_up_and_replaces_what_is_kept() {
    let kept = Kept::of(&[RECALL]).await;
    kept.remember(&scope_of("p1"), "the harbour queue retries thrice").await;
    // Its age says the hour, so that no minute ends what is kept.
    kept.pass(3_600);
    kept.run(RECALL, asked()).await;
    kept.pass(30);
    let fresh = ExecuteRequest { fresh: true, ..request(RECALL, asked()) };
    assert_eq!(way(&kept.call(&scope_of("p1"), fresh).await), "miss");
    kept.pass(45);
    assert_eq!(way(&kept.run(RECALL, asked()).await), "local", "from the fresh run on");
}

#[tokio::test]
async fn errors_partial_answers_and_lost_rests_are_not_kept() {
    let partial = inline(
        "apiVersion: tmws/v1\nkind: Pattern\nname: test.partial\nversion: 1.0.0\ntype: memory\ndescription: Goes on where \
         its search fails, for a test.\ninputs: {type: object, additionalProperties: false, properties: {}}\npermissions: \
         {memory: [read]}\nsteps:\n  - {id: found, uses: memory.search, with: {query: harbour}, on_error: continue}\noutput:\n  \
         schema: {type: object}\n  value: {n: \"${ .steps.found.n // 0 }\"}\n  budget: {tokens: 100}\ncache: {ttl: 60s, \
         scope: principal}\n",
    );
    let kept = Kept::with(vec![partial, built_in(RECALL)]).await;
    let down = || Act::Fail(tmws::store::StoreError::Unavailable { reason: "as told".to_owned() });
    kept.store.next([down()]);
    let first = kept.run("test.partial", json!({})).await;
    assert!(value(&first)["partial"].is_object());
    let second = kept.run("test.partial", json!({})).await;
    assert_eq!(way(&second), "miss");
    assert!(value(&second).get("partial").is_none(), "{}", second.text);
    assert_eq!(way(&kept.run("test.partial", json!({})).await), "local");

    kept.store.next([down()]);
    let failed = kept
        .engine
        .execute(&scope_of("p1"), request(RECALL, asked()), around(&CancellationToken::new()))
        .await;
    assert_eq!(failed.unwrap_err().kind.code(), "store_unavailable");
    assert_eq!(way(&kept.run(RECALL, asked()).await), "miss");

    let long = "harbour ".repeat(60);
    for number in 0..40 {
        kept.remember(&scope_of("p1"), &format!("{number} {long}")).await;
    }
    *kept.store.keeps.lock().unwrap() = Keeps::Not;
    let wide = || json!({"query": "harbour", "k": 20});
    let lost = kept.run(RECALL, wide()).await;
    assert!(value(&lost)["more"]["handle"].is_null() && value(&lost)["more"].is_object(), "{}", lost.text);
    *kept.store.keeps.lock().unwrap() = Keeps::Well;
    let found = kept.run(RECALL, wide()).await;
    assert_eq!(way(&found), "miss");
    let again = kept.run(RECALL, wide()).await;
    let Outcome::Output { handle: Some(handle), .. } = &again.outcome else { panic!("{}", again.text) };
    assert_eq!(way(&again), "local");
    let query = ResultQuery { handle: handle.clone(), ..ResultQuery::default() };
    kept.engine.get_result(&scope_of("p1"), &query, soon()).await.unwrap();

    // As where others took its room, or a copy of the store was put in the store's place.
    let mut raw =
        SqliteConnectOptions::new().filename(kept.folder.path().join("store.db")).connect().await.unwrap();
    sqlx::query("DELETE FROM result").execute(&mut raw).await.unwrap();
    raw.close().await.unwrap();
    let next = kept.run(RECALL, wide()).await;
    let Outcome::Output { handle: Some(other), .. } = &next.outcome else { panic!("{}", next.text) };
    assert_eq!((way(&next), other == handle), ("miss", false));
    let query = ResultQuery { handle: other.clone(), ..ResultQuery::default() };
    kept.engine.get_result(&scope_of("p1"), &query, soon()).await.unwrap();
}

#[tokio::test]
async fn where_the_store_cannot_be_asked_nothing_kept_is_used() {
    let kept = Kept::of(&[RECALL]).await;
    kept.remember(&scope_of("p1"), "the harbour queue retries thrice").await;
    kept.run(RECALL, asked()).await;
    assert_eq!(way(&kept.run(RECALL, asked()).await), "local");
    kept.store.is_dumb.store(true, std::sync::atomic::Ordering::SeqCst);
    let ran = kept.run(RECALL, asked()).await;
    assert_eq!(way(&ran), "off", "it ran, and its answer was not kept");
}

#[tokio::test]
async fn nobody_joins_a_run_from_before_a_write_that_they_know_of() {
    let kept = Arc::new(Kept::of(&[RECALL]).await);
    kept.remember(&scope_of("p1"), "the harbour queue retries thrice").await;
    kept.store.next([Act::Wait]);
    let call = |kept: &Arc<Kept>| {
        let kept = Arc::clone(kept);
        tokio::spawn(async move { kept.run(RECALL, asked()).await })
    };
    let early = call(&kept);
    kept.store.searched().await;
    kept.remember(&scope_of("p1"), "harbour master is Ada").await;
    let late = call(&kept).await.unwrap();
    assert!(texts(&late).contains("Ada"), "{}", late.text);
    kept.store.release(1);
    early.await.unwrap();
    // What the early one kept is from before the write.
    let next = kept.run(RECALL, asked()).await;
    assert!(texts(&next).contains("Ada"), "{}", next.text);
}

fn git(folder: &Path, arguments: &[&str]) {
    let status = Command::new("git")
        .current_dir(folder)
        .args(["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"])
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_AUTHOR_DATE", "2026-02-28T12:00:00Z")
        .env("GIT_COMMITTER_DATE", "2026-02-28T12:00:00Z")
        .status()
        .unwrap();
    assert!(status.success(), "git {arguments:?}");
}

#[tokio::test]
async fn a_digest_of_the_repository_is_kept_until_the_repository_changes() {
    let kept = Kept::of(&["repo.digest"]).await;
    let work = kept.work();
    git(&work, &["init", "-q"]);
    std::fs::write(work.join("a.txt"), "one\n").unwrap();
    git(&work, &["add", "."]);
    git(&work, &["commit", "-q", "-m", "one"]);
    let digest = || kept.run("repo.digest", json!({}));
    let first = digest().await;
    assert_eq!(way(&first), "miss", "{}", first.text);
    assert_eq!(way(&digest().await), "local");
    let changes: [&dyn Fn(); 5] = [
        &|| std::fs::write(work.join("a.txt"), "one\ntwo\n").unwrap(),
        &|| std::fs::write(work.join("a.txt"), "one\nthree\n").unwrap(),
        &|| std::fs::write(work.join("new.txt"), "new\n").unwrap(),
        &|| git(&work, &["commit", "-q", "-a", "-m", "two"]),
        &|| git(&work, &["checkout", "-q", "-b", "side"]),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        change();
        let after = digest().await;
        assert_eq!(way(&after), "miss", "change {number}");
        assert_eq!(way(&digest().await), "local", "change {number}");
        assert_ne!(after.text, first.text);
    }
    kept.remember(&scope_of("p1"), "the harbour queue retries thrice").await;
    assert_eq!(way(&digest().await), "miss", "it reads memories too");
}

fn files(cache: &str) -> Arc<Pattern> {
    inline(&format!(
        "apiVersion: tmws/v1\nkind: Pattern\nname: test.files\nversion: 1.0.0\ntype: infrastructure\ndescription: Lists text \
         files, for a test.\ninputs: {{type: object, additionalProperties: false, properties: {{}}}}\nbind: {{root: {{from: \
         workspace.root}}}}\npermissions: {{fs.read: [\"${{ .bind.root }}\"]}}\nsteps:\n  - {{id: found, uses: fs.glob, with: {{root: \
         \"${{ .bind.root }}\", pattern: \"*.txt\"}}}}\noutput:\n  schema: {{type: object}}\n  value: {{files: \"${{ \
         .steps.found.files }}\"}}\n  budget: {{tokens: 100, overflow: cut}}\ncache: {cache}\n"
    ))
}

#[tokio::test]
async fn files_are_looked_at_where_a_pattern_declares_them() {
    let kept = Kept::with(vec![files("{ttl: 60s, scope: project, key: [fs.mtime]}")]).await;
    let list = || kept.run("test.files", json!({}));
    std::fs::write(kept.work().join("a.txt"), "one\n").unwrap();
    assert_eq!(way(&list().await), "miss");
    assert_eq!(way(&list().await), "local");
    std::fs::write(kept.work().join("b.txt"), "two\n").unwrap();
    let after = list().await;
    assert_eq!((way(&after), &value(&after)["files"]), ("miss", &json!(["a.txt", "b.txt"])));
    // All of the project's principals share it, and nobody else's project does.
    let colleague = Scope::mint(ProjectId::parse("p1").unwrap(), "other", "default", None);
    assert_eq!(way(&kept.call(&colleague, request("test.files", json!({}))).await), "local");
    assert_eq!(way(&kept.call(&scope_of("p2"), request("test.files", json!({}))).await), "miss");
    // Without the declaration an answer may be as old as its ttl.
    let undeclared = Kept::with(vec![files("{ttl: 60s, scope: project}")]).await;
    undeclared.run("test.files", json!({})).await;
    std::fs::write(undeclared.work().join("b.txt"), "two\n").unwrap();
    assert_eq!(way(&undeclared.run("test.files", json!({})).await), "local");
    // What cannot be found out: no repository.
    let headless = Kept::with(vec![files("{ttl: 60s, scope: project, key: [git.head]}")]).await;
    for _ in 0..2 {
        assert_eq!(way(&headless.run("test.files", json!({})).await), "off");
    }
}

#[tokio::test]
async fn processes_on_one_file_never_answer_with_what_was_before_a_write() {
    const ROUNDS: usize = 300;
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("work")).unwrap();
    let clock = Arc::new(Hands(Mutex::new(NOW.parse().unwrap())));
    let mut instances = Vec::new();
    for _ in 0..2 {
        let store = SqliteStore::open(SqliteOptions::new(folder.path().join("store.db"))).await.unwrap();
        let store: SharedStore = Arc::new(store);
        let engine =
            engine(vec![built_in("memory.by-tag")], Arc::clone(&store), Arc::clone(&clock), folder.path());
        instances.push((engine, store));
    }
    let scope = scope_of("p1");
    let mut hits = 0;
    for round in 0..ROUNDS {
        let (_, writer) = &instances[round % 2];
        let new = NewMemory { tags: vec!["berth".to_owned()], ..memory(&format!("berth note {round}")) };
        writer.remember(&scope, new, clock.now()).await.unwrap();
        for (engine, _) in &instances {
            for _ in 0..2 {
                let ask = request("memory.by-tag", json!({"tag": "berth"}));
                let read = engine.execute(&scope, ask, around(&CancellationToken::new())).await.unwrap();
                assert_eq!(value(&read)["total"], json!(round + 1), "round {round}: {}", read.text);
                hits += usize::from(way(&read) == "local");
            }
        }
    }
    assert!(hits >= ROUNDS, "what did not change was found: {hits}");
}
