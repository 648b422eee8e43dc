//! What goes wrong around the SQLite file: each cause has its own error, nothing acknowledged is lost, and the store
//! works again when the cause is gone.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{BufReader, Write as _},
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};
use tmws::{
    limits::StoreLimits,
    revision::Era,
    scope::Scope,
    store::{
        LazyStore, Memory, MemoryFilter, MemoryQuery, NewMemory, NewTask, Retrieval, SqliteOptions,
        SqliteStore, Store, StoreError,
    },
    transport::{Dependency as _, StoreCheck},
};

use crate::store::contract::{at, note, scope};

const SOON: Duration = Duration::from_secs(5);

/// An account that owns nothing.
const NOBODY: u32 = 65_534;

fn ann() -> Scope {
    scope("a", "ann")
}

fn options(path: &Path) -> SqliteOptions {
    let limits = StoreLimits { busy_timeout: Duration::from_millis(100), ..StoreLimits::default() };
    SqliteOptions { limits, ..SqliteOptions::new(path) }
}

async fn open(path: &Path) -> Result<SqliteStore, StoreError> {
    SqliteStore::open(options(path)).await
}

async fn contents(store: &dyn Store) -> BTreeSet<String> {
    store.export(&ann(), None, usize::MAX).await.unwrap().into_iter().map(|memory| memory.content).collect()
}

/// A store at `path` with memories `m0`, `m1`, …, closed again.
async fn filled(path: &Path, count: usize) {
    let store = open(path).await.unwrap();
    for n in 0..count {
        store.remember(&ann(), note(&format!("m{n} {}", "filler ".repeat(50))), at(1)).await.unwrap();
    }
    store.close(SOON).await;
}

async fn raw(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).create_if_missing(true).connect().await.unwrap()
}

async fn run(connection: &mut SqliteConnection, statement: &'static str) {
    sqlx::query(statement).execute(connection).await.unwrap();
}

/// The error's text with the folder named `[folder]`.
fn told(error: &StoreError, folder: &Path) -> String {
    error.to_string().replace(folder.to_str().unwrap(), "[folder]")
}

async fn refused(path: &Path) -> StoreError {
    match open(path).await {
        Err(error) => error,
        Ok(_) => panic!("{} must not open", path.display()),
    }
}

// --- Child processes: this test binary again, running one test that acts on what it is told. ---

const CHILD: &str = "TMWS_TEST_CHILD";
const CHILD_PATH: &str = "TMWS_TEST_CHILD_PATH";

fn child(act: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["store_faults::acts_as_a_child_of_the_other_tests", "--exact", "--nocapture"])
        .env(CHILD, act)
        .env(CHILD_PATH, path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// Tells the parent one line, at once.
fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("told {line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// The next whole line that the child tells.
fn hear(out: &mut impl std::io::BufRead) -> Option<String> {
    let mut line = String::new();
    while out.read_line(&mut line).unwrap() > 0 {
        if let Some(text) = line.strip_suffix('\n').and_then(|line| line.split("told ").nth(1)) {
            return Some(text.to_owned());
        }
        line.clear();
    }
    None
}

fn hear_all(mut child: Child) -> Vec<String> {
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let heard = std::iter::from_fn(|| hear(&mut out)).collect();
    child.wait().unwrap();
    heard
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acts_as_a_child_of_the_other_tests() {
    let (Some(act), Some(path)) = (std::env::var_os(CHILD), std::env::var_os(CHILD_PATH)) else { return };
    let path = PathBuf::from(path);
    match act.to_str().unwrap() {
        "write without end" => {
            let store = Arc::new(open(&path).await.unwrap());
            let mut writers: Vec<_> =
                (0..8).map(|task| tokio::spawn(write_without_end(Arc::clone(&store), task))).collect();
            writers.push(tokio::spawn(import_without_end(store)));
            for writer in writers {
                writer.await.unwrap();
            }
        }
        "open and remember" => {
            let options = SqliteOptions::new(&path);
            let outcome = match SqliteStore::open(options).await {
                Err(error) => format!("open: {error}"),
                Ok(store) => {
                    let outcome = store
                        .remember(&ann(), note(&format!("by process {}", std::process::id())), at(1))
                        .await;
                    let seen = store.list(&ann(), MemoryFilter::default(), at(1)).await;
                    store.close(SOON).await;
                    match (outcome, seen) {
                        (Ok(_), Ok(_)) => "remembered".to_owned(),
                        (Err(error), seen) => {
                            format!("remember: {error}; sees {:?}", seen.map(|hits| hits.total).ok())
                        }
                        (Ok(_), Err(error)) => format!("list: {error}"),
                    }
                }
            };
            tell(&outcome);
        }
        "write and search" => {
            let store = SqliteStore::open(SqliteOptions::new(&path)).await.unwrap();
            let process = std::process::id();
            for n in 0..WRITTEN_AND_SEARCHED {
                let text = format!("process{process} writes about subject{n}");
                match store.remember(&ann(), note(&text), at(1)).await {
                    Ok(_) => tell(&text),
                    Err(error) => tell(&format!("failed: {error}")),
                }
                assert_finds(&store, &text).await;
            }
            store.close(SOON).await;
        }
        "fill the disk" => tell(&fill_the_disk(&path).await),
        other => panic!("no act {other}"),
    }
}

/// Fills a small file system to the brim with a store on it, makes room, and goes on with the same store.
async fn fill_the_disk(path: &Path) -> String {
    let filler = path.with_file_name("filler");
    fs::write(&filler, vec![1; 512 << 10]).unwrap();
    let store = open(path).await.unwrap();
    let mut kept = BTreeSet::new();
    let error = loop {
        let text = format!("{} {}", kept.len(), "word ".repeat(4_000));
        match store.remember(&ann(), note(&text), at(1)).await {
            Ok(stored) => kept.insert(stored.memory.content),
            Err(error) => break error,
        };
    };
    assert_eq!(contents(&store).await, kept, "reading goes on");
    let again = store.remember(&ann(), note(&"more ".repeat(4_000)), at(2)).await.unwrap_err();
    assert_eq!(error.to_string(), again.to_string());
    fs::remove_file(filler).unwrap();
    kept.insert(store.remember(&ann(), note("after"), at(3)).await.unwrap().memory.content);
    store.close(SOON).await;
    assert_eq!(contents(&open(path).await.unwrap()).await, kept);
    assert!(kept.len() > 5);
    told(&error, path.parent().unwrap())
}

/// A text whose length and letters follow from its name, so that a torn one is noticed.
fn whole_text(name: &str) -> String {
    let sum: usize = name.bytes().map(usize::from).sum();
    format!("{name} {}", "0123456789".repeat(sum % 400))
}

async fn write_without_end(store: Arc<SqliteStore>, task: usize) {
    let process = std::process::id();
    for n in 0_u32.. {
        let name = format!("{process}-{task}-{n}");
        let new = NewMemory { tags: vec![format!("task{task}"), "all".into()], ..note(&whole_text(&name)) };
        if store.remember(&ann(), new, at(1)).await.is_err() {
            return;
        }
        tell(&name);
    }
}

/// Memories of one import.
const IMPORTED: usize = 30;

async fn import_without_end(store: Arc<SqliteStore>) {
    let process = std::process::id();
    let one = store.remember(&ann(), note(&whole_text(&format!("{process}-x"))), at(1)).await.unwrap().memory;
    for n in 0_u32.. {
        let names: Vec<String> = (0..IMPORTED).map(|at| format!("{process}i{n}-of-{at}")).collect();
        let memories = names.iter().enumerate().map(|(at, name)| Memory {
            id: format!("m_{:026}", u64::from(process) << 32 | u64::from(n) << 8 | at as u64),
            content: whole_text(name),
            tags: vec!["imported".to_owned(), name.clone()],
            ..one.clone()
        });
        match store.import(&ann(), memories.collect(), at(1)).await {
            Ok(report) => assert_eq!(report.imported, IMPORTED as u64),
            Err(_) => return,
        }
        for name in names {
            tell(&name);
        }
    }
}

// --- Crashes and races ---

/// Rounds of writing that end with SIGKILL; so many files at once.
const KILLED_ROUNDS: usize = 200;
const KILLED_FILES: usize = 8;

#[test]
fn writers_killed_in_200_rounds_lose_nothing_that_was_acknowledged_and_tear_nothing() {
    let acknowledged: usize = std::thread::scope(|threads| {
        let files: Vec<_> =
            (0..KILLED_FILES).map(|file| threads.spawn(move || rounds_that_are_killed(file))).collect();
        files.into_iter().map(|file| file.join().unwrap()).sum()
    });
    assert!(acknowledged > 10 * KILLED_ROUNDS, "{acknowledged} writes are too few to tell");
}

/// Returns how many writes were acknowledged.
fn rounds_that_are_killed(file: usize) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    let mut acknowledged = BTreeSet::new();
    for round in 0..KILLED_ROUNDS / KILLED_FILES {
        let mut writer = child("write without end", &path).spawn().unwrap();
        let mut out = BufReader::new(writer.stdout.take().unwrap());
        for _ in 0..=(round * 7 + file * 3) % 40 {
            acknowledged.insert(hear(&mut out).unwrap());
        }
        writer.kill().unwrap();
        // What it told before it died was acknowledged too.
        acknowledged.extend(std::iter::from_fn(|| hear(&mut out)));
        writer.wait().unwrap();
        runtime.block_on(check_after_a_kill(&path, &acknowledged, round));
    }
    acknowledged.len()
}

async fn check_after_a_kill(path: &Path, acknowledged: &BTreeSet<String>, round: usize) {
    let store = open(path).await.unwrap();
    let stored = contents(&store).await;
    let names: BTreeSet<&str> = stored.iter().map(|text| text.split(' ').next().unwrap()).collect();
    for name in acknowledged {
        assert!(names.contains(name.as_str()), "round {round}: {name} was acknowledged and is missing");
    }
    for text in &stored {
        assert_eq!(*text, whole_text(text.split(' ').next().unwrap()), "round {round}: torn");
    }
    // An import is there whole or not at all.
    let mut imports: BTreeMap<&str, usize> = BTreeMap::new();
    for (import, _) in names.iter().filter_map(|name| name.split_once("-of-")) {
        *imports.entry(import).or_default() += 1;
    }
    assert!(imports.values().all(|count| *count == IMPORTED), "round {round}: {imports:?}");
    let found = store.stats(&ann(), at(2)).await.unwrap().memories;
    assert_eq!(found, stored.len() as u64);
    store.close(SOON).await;
    check_file(path).await;
}

/// Everything in the file agrees: pages, index of words, tags, and what hangs on memories.
async fn check_file(path: &Path) {
    let mut connection = raw(path).await;
    let check: String =
        sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut connection).await.unwrap();
    assert_eq!(check, "ok");
    run(&mut connection, "INSERT INTO memory_fts (memory_fts, rank) VALUES ('integrity-check', 1)").await;
    let orphans = sqlx::query("PRAGMA foreign_key_check").fetch_all(&mut connection).await.unwrap();
    assert_eq!(orphans.len(), 0);
    let differing: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM memory m WHERE m.tags <> (SELECT json_group_array(tag) FROM \
         (SELECT tag FROM memory_tag t WHERE t.seq = m.seq ORDER BY tag))",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert_eq!(differing, 0, "tags");
    connection.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_write_and_search_one_file_see_each_other_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    filled(&path, 1).await;
    let children: Vec<_> = (0..2).map(|_| child("write and search", &path).spawn().unwrap()).collect();
    let mut listeners = Vec::new();
    for mut child in children {
        let path = path.clone();
        listeners.push(tokio::spawn(async move {
            let mut out = BufReader::new(child.stdout.take().unwrap());
            let store = SqliteStore::open(SqliteOptions::new(&path)).await.unwrap();
            let mut heard = Vec::new();
            while let Some(name) = tokio::task::block_in_place(|| hear(&mut out)) {
                assert!(!name.starts_with("failed"), "{name}");
                assert_finds(&store, &name).await;
                let own = format!("heard {name}");
                store.remember(&ann(), note(&own), at(1)).await.unwrap();
                heard.push(own);
                heard.push(name);
            }
            child.wait().unwrap();
            store.close(SOON).await;
            heard
        }));
    }
    let mut all = Vec::new();
    for listener in listeners {
        all.extend(listener.await.unwrap());
    }
    assert_eq!(all.len(), 2 * 2 * WRITTEN_AND_SEARCHED);
    let store = open(&path).await.unwrap();
    assert_eq!(contents(&store).await.len(), all.len() + 1);
    store.close(SOON).await;
    check_file(&path).await;
}

/// Writes of a child that searches for each of them.
const WRITTEN_AND_SEARCHED: usize = 40;

/// Every way of searching finds the memory whose whole text is `text`, though others are written meanwhile.
async fn assert_finds(store: &SqliteStore, text: &str) {
    for by in [Retrieval::Lexical, Retrieval::Vector, Retrieval::Hybrid] {
        let query = MemoryQuery { text: text.to_owned(), by, ..MemoryQuery::default() };
        let hits = store.search(&ann(), query, at(1)).await.unwrap();
        assert!(hits.hits.iter().any(|hit| hit.memory.content == text), "{by:?} does not find {text}");
    }
}

#[tokio::test]
async fn processes_that_make_the_same_file_at_once_all_work() {
    for _ in 0..10 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/tmws.db");
        let children: Vec<_> = (0..3).map(|_| child("open and remember", &path).spawn().unwrap()).collect();
        for child in children {
            assert_eq!(hear_all(child), ["remembered"]);
        }
        let store = open(&path).await.unwrap();
        assert_eq!(contents(&store).await.len(), 3);
        store.close(SOON).await;
    }
}

#[test]
fn stores_on_threads_that_make_the_same_file_at_once_all_work() {
    for round in 0..50 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tmws.db");
        let start = std::sync::Barrier::new(2);
        std::thread::scope(|threads| {
            for name in ["one", "two"] {
                let (path, start) = (&path, &start);
                threads.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    start.wait();
                    runtime.block_on(async {
                        let store = SqliteStore::open(SqliteOptions::new(path)).await.unwrap();
                        store.remember(&ann(), note(name), at(1)).await.unwrap();
                        store.close(SOON).await;
                    });
                });
            }
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = open(&path).await.unwrap();
            assert_eq!(contents(&store).await, ["one", "two"].map(String::from).into(), "round {round}");
            store.close(SOON).await;
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_tasks_write_and_read_their_own_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(SqliteOptions::new(folder.path().join("tmws.db"))).await.unwrap());
    let before = store.generation(&ann()).await.unwrap();
    let tasks: Vec<_> = (0..50)
        .map(|task| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for n in 0..10 {
                    // Every fifth is refused: its neighbours in the transaction must not notice.
                    if n % 5 == 4 {
                        let wrong = tmws::store::NewMemory {
                            supersedes: Some("m_unknown".into()),
                            ..note(&format!("wrong {task} {n}"))
                        };
                        store.remember(&ann(), wrong, at(1)).await.unwrap_err();
                        continue;
                    }
                    let new = note(&format!("task {task} number {n}"));
                    let id = store.remember(&ann(), new, at(1)).await.unwrap().memory.id;
                    assert!(store.get(&ann(), &id, at(1)).await.unwrap().is_some(), "own write read");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(contents(&*store).await.len(), 400);
    assert_ne!(store.generation(&ann()).await.unwrap(), before);
    store.close(SOON).await;
}

#[tokio::test]
async fn a_closed_store_says_so_and_keeps_everything() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    for store in [
        Box::new(open(&path).await.unwrap()) as Box<dyn Store>,
        Box::new(LazyStore::new(options(&path))) as Box<dyn Store>,
    ] {
        store.remember(&ann(), note("kept"), at(1)).await.unwrap();
        store.close(SOON).await;
        for error in [
            store.remember(&ann(), note("late"), at(2)).await.unwrap_err(),
            store.get(&ann(), "m_x", at(2)).await.unwrap_err(),
        ] {
            insta::allow_duplicates! {
                insta::assert_snapshot!(error, @"the store is not available: it was closed; start tmws again");
            }
        }
    }
    assert!(!folder.path().join("tmws.db-wal").exists(), "everything is in the one file");
    assert_eq!(contents(&open(&path).await.unwrap()).await, ["kept".to_owned()].into());
}

// --- Causes, one by one ---

#[tokio::test]
async fn a_locked_store_is_read_and_says_who_holds_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    filled(&path, 1).await;
    let store = open(&path).await.unwrap();
    let mut other = raw(&path).await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    let error = store.remember(&ann(), note("late"), at(2)).await.unwrap_err();
    insta::assert_snapshot!(error, @"the store is locked by another process; try again, or end the process that holds it");
    assert_eq!(contents(&store).await.len(), 1, "reading goes on");
    let second = open(&path).await.unwrap();
    assert_eq!(contents(&second).await.len(), 1, "an up-to-date file needs no lock to be opened");
    run(&mut other, "ROLLBACK").await;
    store.remember(&ann(), note("late"), at(3)).await.unwrap();
    assert_eq!(contents(&second).await.len(), 2);
}

#[tokio::test]
async fn whoever_asks_whether_a_server_is_ready_is_told_of_a_store_that_takes_no_writes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    filled(&path, 1).await;
    let check = StoreCheck::new(Arc::new(LazyStore::new(options(&path))));
    assert_eq!(check.check().await, Ok(()));
    let mut other = raw(&path).await;
    run(&mut other, "BEGIN IMMEDIATE").await;
    assert_eq!(check.check().await, Err("it is locked by another process".to_owned()));
    run(&mut other, "ROLLBACK").await;
    assert_eq!(check.check().await, Ok(()));
    other.close().await.unwrap();
    fs::rename(&path, folder.path().join("elsewhere.db")).unwrap();
    assert_eq!(check.check().await, Err("it cannot be opened or reached".to_owned()));
}

#[tokio::test]
async fn whose_machine_it_is_not_learns_no_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    let mut told = Vec::new();
    for what in ["a text that is no database, and longer than the smallest one ".repeat(20), String::new()] {
        if what.is_empty() {
            fs::remove_file(&path).unwrap();
            fs::create_dir(&path).unwrap();
        } else {
            fs::write(&path, what).unwrap();
        }
        let store = LazyStore::discreet(options(&path));
        told.push(store.remember(&ann(), note("x"), at(1)).await.unwrap_err().to_string());
        told.push(store.generation(&ann()).await.unwrap_err().to_string());
    }
    let folder = folder.path().display().to_string();
    for error in told {
        assert!(error.contains(" tmws.db is ") && !error.contains(&folder), "{error}");
    }
}

#[tokio::test]
async fn a_locked_new_file_cannot_be_made_a_store_until_it_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    let mut other = raw(&path).await;
    run(&mut other, "BEGIN EXCLUSIVE").await;
    assert!(matches!(refused(&path).await, StoreError::Locked));
    run(&mut other, "ROLLBACK").await;
    open(&path).await.unwrap();
}

/// Runs "open and remember" as an account that is not the superuser, to whom no mode means anything.
fn as_nobody(path: &Path) -> String {
    let mut command = child("open and remember", path);
    if rustix::process::geteuid().is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    hear_all(command.spawn().unwrap()).join("\n")
}

/// A folder that the account of [`as_nobody`] owns and reaches.
fn nobodys_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    give_to_nobody(folder.path());
    folder
}

fn give_to_nobody(path: &Path) {
    if rustix::process::geteuid().is_root() {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn a_read_only_file_is_read_and_named() {
    let folder = nobodys_folder();
    let path = folder.path().join("tmws.db");
    assert_eq!(as_nobody(&path), "remembered");
    let before = fs::read(&path).unwrap();
    set_mode(&path, 0o400);
    insta::assert_snapshot!(
        as_nobody(&path).replace(folder.path().to_str().unwrap(), "[folder]"),
        @"remember: the store [folder]/tmws.db is read-only; make it writable, or name another with TMWS_DATABASE_URL; sees Some(1)"
    );
    assert_eq!(fs::read(&path).unwrap(), before);
    set_mode(&path, 0o600);
    assert_eq!(as_nobody(&path), "remembered");
    assert_eq!(contents(&open(&path).await.unwrap()).await.len(), 2);
}

#[tokio::test]
async fn a_read_only_folder_is_named() {
    let folder = nobodys_folder();
    let path = folder.path().join("tmws.db");
    set_mode(folder.path(), 0o500);
    let new = as_nobody(&path);
    set_mode(folder.path(), 0o700);
    assert_eq!(as_nobody(&path), "remembered");
    set_mode(folder.path(), 0o500);
    let old = as_nobody(&path);
    set_mode(folder.path(), 0o700);
    for text in [new, old] {
        insta::allow_duplicates! {
            insta::assert_snapshot!(
                text.replace(folder.path().to_str().unwrap(), "[folder]"),
                @"open: the store [folder]/tmws.db is read-only; make it writable, or name another with TMWS_DATABASE_URL"
            );
        }
    }
    assert_eq!(as_nobody(&path), "remembered");
    assert_eq!(contents(&open(&path).await.unwrap()).await.len(), 2);
}

#[tokio::test]
async fn a_file_of_somebody_else_is_named() {
    if !rustix::process::geteuid().is_root() {
        return; // Only the superuser can give a file away.
    }
    let folder = nobodys_folder();
    let path = folder.path().join("tmws.db");
    filled(&path, 1).await;
    set_mode(&path, 0o600);
    insta::assert_snapshot!(
        as_nobody(&path).replace(folder.path().to_str().unwrap(), "[folder]"),
        @"open: the store is not available: [folder]/tmws.db cannot be opened; check that it and its folder exist and are yours"
    );
    give_to_nobody(&path);
    assert_eq!(as_nobody(&path), "remembered");
}

#[tokio::test]
async fn damaged_and_foreign_files_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let name = |name: &str| folder.path().join(name);
    fs::write(name("garbage"), b"this is no database at all, but a note of mine\n".repeat(40)).unwrap();
    fs::write(name("short"), b"x").unwrap();
    filled(&name("truncated"), 60).await;
    let whole = fs::read(name("truncated")).unwrap();
    fs::write(name("truncated"), &whole[..whole.len() / 2]).unwrap();
    filled(&name("header"), 3).await;
    let mut scratched = fs::read(name("header")).unwrap();
    scratched[100..600].fill(0xA5);
    fs::write(name("header"), scratched).unwrap();
    let mut foreign = raw(&name("foreign")).await;
    run(&mut foreign, "CREATE TABLE theirs (x)").await;
    foreign.close().await.unwrap();
    let mut foreign = raw(&name("marked")).await;
    run(&mut foreign, "PRAGMA application_id = 7").await;
    foreign.close().await.unwrap();
    let mut versioned = raw(&name("versioned")).await;
    run(&mut versioned, "PRAGMA user_version = 7").await;
    versioned.close().await.unwrap();
    let mut in_use = raw(&name("in-use")).await;
    run(&mut in_use, "PRAGMA journal_mode = WAL").await;
    run(&mut in_use, "CREATE TABLE theirs (x)").await;

    for file in ["garbage", "short", "truncated", "header", "foreign", "marked", "versioned", "in-use"] {
        let before = fs::read(name(file)).unwrap();
        let error = refused(&name(file)).await;
        assert!(matches!(error, StoreError::Corrupt { .. }), "{file}: {error:?}");
        assert_eq!(
            told(&error, folder.path()),
            format!(
                "the store [folder]/{file} is damaged or no TMWS store; it was left untouched: restore it, or move it away"
            )
        );
        assert!(fs::read(name(file)).unwrap() == before, "{file} was changed");
    }
    run(&mut in_use, "INSERT INTO theirs VALUES (1)").await;
    // Restored, it works with all that it had.
    fs::write(name("truncated"), whole).unwrap();
    assert_eq!(contents(&open(&name("truncated")).await.unwrap()).await.len(), 60);
}

#[tokio::test]
async fn damage_met_while_reading_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    filled(&path, 200).await;
    let mut bytes = fs::read(&path).unwrap();
    let whole = bytes.clone();
    let pages = bytes.len() / 4096;
    // Everything but the first pages, which hold the schema.
    for page in pages / 2..pages {
        bytes[page * 4096..page * 4096 + 64].fill(0xFF);
    }
    fs::write(&path, &bytes).unwrap();
    let store = open(&path).await.unwrap();
    let error = store.export(&ann(), None, usize::MAX).await.unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    drop(store);
    fs::write(&path, &whole).unwrap();
    assert_eq!(contents(&open(&path).await.unwrap()).await.len(), 200);
}

#[tokio::test]
async fn a_newer_store_is_refused_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    filled(&path, 2).await;
    let mut connection = raw(&path).await;
    run(&mut connection, "PRAGMA user_version = 99").await;
    connection.close().await.unwrap();
    let before = fs::read(&path).unwrap();
    let error = refused(&path).await;
    insta::assert_snapshot!(
        told(&error, folder.path()),
        @"the store [folder]/tmws.db has schema version 99, this binary knows 3; it was left untouched: use a newer tmws"
    );
    assert!(fs::read(&path).unwrap() == before);
    let mut connection = raw(&path).await;
    run(&mut connection, "PRAGMA user_version = 3").await;
    connection.close().await.unwrap();
    assert_eq!(contents(&open(&path).await.unwrap()).await.len(), 2);
}

/// `fixtures/stores/schema-1.db` was written before there were tasks.
#[tokio::test]
async fn a_store_of_the_first_schema_is_brought_to_the_newest_with_all_that_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/stores/schema-1.db");
    fs::copy(old, &path).unwrap();
    let store = open(&path).await.unwrap();
    let kept = ["m0 kept by version 1", "m1 kept by version 1", "m2 kept by version 1"].map(str::to_owned);
    assert_eq!(contents(&store).await, BTreeSet::from(kept));
    let scratch = store.session_scratch(&ann(), "s_B541R8eBsF3HoETBdo6IOw", at(6)).await.unwrap();
    assert_eq!(scratch["k"], 7);
    let result = store.get_result(&ann(), "r_pC2IzAQbTMA7OqF_rSHC1Q", at(6)).await.unwrap();
    assert_eq!(result.pattern, "p@1");
    assert_eq!(store.state_key().await.unwrap()[..4], [13, 221, 25, 53]);
    let task = NewTask {
        id: "t_1".to_owned(),
        era: Era::Modern,
        body: serde_json::json!({}),
        expires: at(9),
        lease: at(9),
    };
    store.put_task(&ann(), task, 9, at(6)).await.unwrap();
    store.close(SOON).await;
    let again = open(&path).await.unwrap();
    assert_eq!(contents(&again).await.len(), 3);
    assert!(again.get_task(&ann(), Era::Modern, "t_1", at(7)).await.unwrap().is_some());
}

#[tokio::test]
async fn a_full_disk_loses_nothing_and_spoils_no_neighbour() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    let small = SqliteOptions { file_bytes_max: Some(400 << 10), ..options(&path) };
    let store = Arc::new(SqliteStore::open(small).await.unwrap());
    let mut kept = BTreeMap::new();
    let error = loop {
        let text = format!("{} {}", kept.len(), "word ".repeat(2_000));
        match store.remember(&ann(), note(&text), at(1)).await {
            Ok(stored) => kept.insert(stored.memory.id, text),
            Err(error) => break error,
        };
        assert!(kept.len() < 100);
    };
    insta::assert_snapshot!(
        told(&error, folder.path()),
        @"no space left on the disk of the store [folder]/tmws.db; nothing was written: free some space and try again"
    );
    // Writes at once with little room: the large ones fail, the small ones between them do not.
    let some: Vec<String> = kept.keys().take(6).cloned().collect();
    assert_eq!(store.forget(&ann(), &some, at(2)).await.unwrap().forgotten, some);
    kept.retain(|id, _| !some.contains(id));
    let writes: Vec<_> = (0..20)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                // Thousands of different words take as much room again in the index.
                let words = if n % 2 == 0 { 7_000 } else { 2 };
                let text = (0..words).map(|word| format!("w{n}x{word}")).collect::<Vec<_>>().join(" ");
                (n, store.remember(&ann(), note(&text), at(2)).await.map(|stored| (stored.memory.id, text)))
            })
        })
        .collect();
    for write in writes {
        match write.await.unwrap() {
            (n, Ok((id, text))) if n % 2 == 1 => drop(kept.insert(id, text)),
            (n, Err(StoreError::DiskFull { .. })) if n % 2 == 0 => {}
            (n, other) => panic!("{n}: {:?}", other.map(|(id, _)| id)),
        }
    }
    let stored = contents(&*store).await;
    assert_eq!(stored, kept.values().cloned().collect());
    // Room is made: the same store goes on.
    let some: Vec<String> = kept.keys().take(5).cloned().collect();
    assert_eq!(store.forget(&ann(), &some, at(3)).await.unwrap().forgotten.len(), 5);
    store.remember(&ann(), note(&"again ".repeat(1_000)), at(4)).await.unwrap();
    store.close(SOON).await;
    let reopened = open(&path).await.unwrap();
    assert_eq!(contents(&reopened).await.len(), kept.len() - 5 + 1);
}

#[tokio::test]
async fn an_import_that_finds_no_room_leaves_nothing_of_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    let small = SqliteOptions { file_bytes_max: Some(600 << 10), ..options(&path) };
    let store = SqliteStore::open(small).await.unwrap();
    let one = store.remember(&ann(), note("one"), at(1)).await.unwrap().memory;
    let many = |bytes: usize| -> Vec<Memory> {
        let nth = |n| Memory {
            id: format!("m_{n:026}"),
            content: format!("{n} {}", "x".repeat(bytes)),
            tags: vec![format!("tag{n}")],
            ..one.clone()
        };
        (0..60).map(nth).collect()
    };
    let generation = store.generation(&ann()).await.unwrap();
    let error = store.import(&ann(), many(20_000), at(2)).await.unwrap_err();
    assert!(matches!(error, StoreError::DiskFull { .. }), "{error:?}");
    assert_eq!(contents(&store).await.len(), 1);
    assert_eq!(store.generation(&ann()).await.unwrap(), generation);
    assert_eq!(store.import(&ann(), many(200), at(3)).await.unwrap().imported, 60);
    store.close(SOON).await;
    check_file(&path).await;
}

#[test]
fn a_really_full_disk_loses_nothing_and_is_used_again_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    // A file system of its own, in a mount namespace of its own that ends with the child.
    let namespaces = if rustix::process::geteuid().is_root() { "-m" } else { "-Urm" };
    let mounted = |then: &str| {
        let mut shell = Command::new("unshare");
        shell.args([namespaces, "sh", "-c"]).arg(format!("mount -t tmpfs -o size=2m tmpfs \"$0\" && {then}"));
        shell.arg(folder.path());
        shell
    };
    let possible = mounted("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !possible {
        return; // Not allowed to mount here; the test with a limit on the file's size goes the same way in SQLite.
    }
    let child = child("fill the disk", &folder.path().join("tmws.db"));
    let mut shell = mounted("exec \"$@\"");
    shell.arg(child.get_program()).args(child.get_args());
    shell.envs(child.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    insta::assert_snapshot!(
        hear_all(shell.spawn().unwrap()).join("\n"),
        @"no space left on the disk of the store [folder]/tmws.db; nothing was written: free some space and try again"
    );
}

#[tokio::test]
async fn a_path_that_can_be_no_file_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let name = |name: &str| folder.path().join(name);
    fs::create_dir(name("folder")).unwrap();
    fs::write(name("file"), "").unwrap();
    std::os::unix::net::UnixListener::bind(name("socket")).unwrap();
    let mut texts = Vec::new();
    for path in ["folder", "file/tmws.db", "socket"] {
        texts.push(told(&refused(&name(path)).await, folder.path()));
    }
    insta::assert_snapshot!(texts.join("\n"), @"
    the store is not available: [folder]/folder is a folder; name a file with TMWS_DATABASE_URL
    the store is not available: [folder]/file/tmws.db cannot be made: a part of its path is no folder; name another with TMWS_DATABASE_URL
    the store is not available: [folder]/socket is no regular file; name another with TMWS_DATABASE_URL
    ");
}

#[tokio::test]
async fn what_is_made_is_for_the_user_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("share/tmws/tmws.db");
    let store = open(&path).await.unwrap();
    store.remember(&ann(), note("secret"), at(1)).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder.path().join("share")), 0o700);
    assert_eq!(mode(&folder.path().join("share/tmws")), 0o700);
    for file in ["tmws.db", "tmws.db-wal", "tmws.db-shm"] {
        assert_eq!(mode(&folder.path().join("share/tmws").join(file)), 0o600, "{file}");
    }
}

#[tokio::test]
async fn forgotten_content_is_in_no_file_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    let store = open(&path).await.unwrap();
    let mut id = String::new();
    for n in 0..40 {
        let text = if n == 20 { "Xylophonic quintessence".to_owned() } else { format!("ordinary {n}") };
        let stored = store.remember(&ann(), note(&text), at(1)).await.unwrap();
        if n == 20 {
            id = stored.memory.id;
        }
    }
    let holds = || {
        fs::read_dir(folder.path()).unwrap().any(|entry| {
            let bytes = fs::read(entry.unwrap().path()).unwrap().to_ascii_lowercase();
            bytes.windows(6).any(|window| window == b"xyloph")
                || bytes.windows(6).any(|window| window == b"quinte")
        })
    };
    assert!(holds());
    store.forget(&ann(), &[id], at(2)).await.unwrap();
    assert!(!holds());
    store.close(SOON).await;
    assert!(!holds());
}

#[tokio::test]
async fn a_file_that_vanishes_is_noticed_before_a_write_is_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let (path, away) = (folder.path().join("tmws.db"), folder.path().join("away.db"));
    let store = LazyStore::new(options(&path));
    store.remember(&ann(), note("before"), at(1)).await.unwrap();
    fs::rename(&path, &away).unwrap();
    let error = store.remember(&ann(), note("between"), at(2)).await.unwrap_err();
    insta::assert_snapshot!(
        told(&error, folder.path()),
        @"the store is not available: [folder]/tmws.db was moved, replaced or deleted while in use; put it back, or start tmws again"
    );
    fs::rename(&away, &path).unwrap();
    store.remember(&ann(), note("after"), at(3)).await.unwrap();
    assert_eq!(contents(&store).await, ["after", "before"].map(String::from).into());
}

#[tokio::test]
async fn a_lazy_store_touches_nothing_until_it_is_used_and_tries_again_after_a_pause() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deep/tmws.db");
    let store = LazyStore::new(options(&path));
    assert!(!folder.path().join("deep").exists());
    fs::write(folder.path().join("deep"), "in the way").unwrap();
    let first = store.stats(&ann(), at(1)).await.unwrap_err();
    assert!(matches!(first, StoreError::Unavailable { .. }), "{first:?}");
    fs::remove_file(folder.path().join("deep")).unwrap();
    let second = store.stats(&ann(), at(1)).await.unwrap_err();
    assert_eq!(first.to_string(), second.to_string(), "within the pause, the same answer without a try");
    assert!(!folder.path().join("deep").exists());
    tokio::time::timeout(SOON, async {
        while store.remember(&ann(), note("works"), at(2)).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert!(path.exists());
}
