//! Backends that fail, hang or are asked too much: what callers are told, how soon, and that others do not feel it.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use sqlx::{Connection as _, Executor as _, sqlite::SqliteConnectOptions};
use tmws::{
    engine::{
        ErrorKind, Outside,
        steps::{
            self, StepContext, StepError, http,
            http::Http,
            sql::{Address, SourceSpec, Sources},
        },
    },
    limits::StoreLimits,
    pattern::{Permissions, StepRow, host::HostRule},
    resilience::{BackendKind, Backends, BreakerState, STORE, Standing, accounted, until},
    scope::{ProjectId, Scope},
    store::{LazyStore, MemoryFilter, NewMemory, SqliteOptions, Store, StoreError},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use crate::steps_support::Folder;

/// A backstop: everything that is waited for happens long before.
const PATIENCE: Duration = Duration::from_mins(1);

// --- Hosts ---

/// A host that answers, or hangs.
struct Host {
    address: SocketAddr,
    hangs: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Host {
    async fn at(address: SocketAddr, answers: &'static [&'static str]) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (hangs, asked) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (silent, count) = (Arc::clone(&hangs), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let nth = count.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
                let silent = Arc::clone(&silent);
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await?);
                    }
                    if silent.load(Ordering::SeqCst) {
                        stream.read_u8().await?;
                    }
                    stream.write_all(answers[nth].as_bytes()).await?;
                    stream.shutdown().await
                });
            }
        });
        Self { address, hangs, asked, task }
    }

    async fn new(answers: &'static [&'static str]) -> Self {
        Self::at(([127, 0, 0, 1], 0).into(), answers).await
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
    }
}

const OK: &[&str] = &["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"];

struct Reader {
    folder: Folder,
    outside: Arc<Outside>,
}

impl Reader {
    fn new() -> Self {
        let rules = vec![HostRule::parse("127.0.0.1").unwrap()];
        let outside = Outside { http: Http::new(rules), ..Outside::default() };
        Self { folder: Folder::new(), outside: Arc::new(outside) }
    }

    async fn get(&self, address: SocketAddr, time: Duration) -> Result<Value, StepError> {
        let context = StepContext {
            permissions: Arc::new(Permissions { http: vec![address.to_string()], ..Permissions::default() }),
            outside: Arc::clone(&self.outside),
            deadline: Instant::now() + time,
            ..self.folder.context()
        };
        let with = Map::from_iter([("url".to_owned(), json!(format!("http://{address}/")))]);
        http::run("http.get", &context, &with).await.map(|output| output.value)
    }

    fn standing(&self, address: SocketAddr) -> Standing {
        let standings = self.outside.backends.standings(Instant::now());
        let of = |standing: &Standing| *standing.backend.name == *address.to_string();
        standings.into_iter().find(of).unwrap()
    }
}

#[tokio::test]
async fn a_host_that_is_gone_is_left_alone_and_read_again_once_it_is_back() {
    let address = Host::new(OK).await.address;
    let reader = Reader::new();
    let mut errors = Vec::new();
    for _ in 0..3 {
        let (result, notes) = accounted(reader.get(address, PATIENCE)).await;
        assert!(!notes.is_empty());
        errors.push(result.unwrap_err());
    }
    let standing = reader.standing(address);
    assert_eq!((standing.breaker, standing.failures, standing.opened), (BreakerState::Open, 5, 1));
    assert!(standing.retries >= 3 && standing.refused > 0, "{standing:?}");
    let error = errors.pop().unwrap();
    assert_eq!(error.kind, ErrorKind::ProgramFailed);
    assert!(error.retry_after.is_some() && error.message.contains("left alone"), "{error:?}");
    let scope = reader.folder.context().scope;
    assert_eq!(reader.outside.degraded(&scope), Vec::<String>::new(), "hosts are nobody else's concern");

    let back = Host::at(address, OK).await;
    let begun = Instant::now();
    while let Err(error) = reader.get(address, PATIENCE).await {
        assert!(begun.elapsed() < PATIENCE, "{error:?}");
        tokio::time::sleep(error.retry_after.unwrap()).await;
    }
    assert_eq!(back.asked.load(Ordering::SeqCst), 1, "one probe");
    assert_eq!(reader.standing(address).breaker, BreakerState::Closed);
}

#[tokio::test]
async fn a_host_that_asks_to_be_asked_again_is_as_far_as_time_allows() {
    const SOON: &str = "HTTP/1.1 503 Later\r\nRetry-After: 0\r\nContent-Length: 0\r\n\r\n";
    const LATE: &str = "HTTP/1.1 503 Later\r\nRetry-After: 900\r\nContent-Length: 0\r\n\r\n";
    const NEVER: &str =
        "HTTP/1.1 503 Later\r\nRetry-After: 18446744073709551615\r\nContent-Length: 0\r\n\r\n";
    const UNSAID: &str = "HTTP/1.1 503 Later\r\nContent-Length: 0\r\n\r\n";
    const ANSWER: &str = OK[0];
    for (answers, status, asked) in [
        (&[SOON, ANSWER][..], 200, 2),
        (&[SOON, SOON, ANSWER][..], 200, 3),
        (&[SOON, SOON, SOON, ANSWER][..], 503, 3),
        (&[LATE, ANSWER][..], 503, 1),
        (&[NEVER, ANSWER][..], 503, 1),
        (&[UNSAID, ANSWER][..], 503, 1),
    ] {
        let host = Host::new(answers).await;
        let reader = Reader::new();
        let answer = reader.get(host.address, PATIENCE).await.unwrap();
        assert_eq!((&answer["status"], host.asked.load(Ordering::SeqCst)), (&json!(status), asked));
        assert_eq!(reader.standing(host.address).retries, asked as u64 - 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_hang_in_one_host_take_nothing_from_those_of_another() {
    let (hanging, good) = (Host::new(OK).await, Host::new(OK).await);
    hanging.hangs.store(true, Ordering::SeqCst);
    let reader = Reader::new();
    let time = Duration::from_secs(3);
    let measure = async || {
        let mut slowest = Duration::ZERO;
        for _ in 0..30 {
            let begun = Instant::now();
            assert_eq!(reader.get(good.address, PATIENCE).await.unwrap()["text"], "ok");
            slowest = slowest.max(begun.elapsed());
        }
        slowest
    };
    let alone = measure().await;
    let calls = join_all((0..90).map(|_| async {
        let begun = Instant::now();
        let error = reader.get(hanging.address, time).await.unwrap_err();
        (error, begun.elapsed())
    }));
    let (ended, beside) = tokio::join!(calls, measure());
    assert!(beside < alone * 20 + Duration::from_secs(1), "beside {beside:?}, alone {alone:?}");
    let mut busy = 0;
    for (error, elapsed) in ended {
        assert!(elapsed < time * 3, "{elapsed:?}: {error:?}");
        match error.kind {
            ErrorKind::Busy => {
                busy += 1;
                assert!(error.retry_after.is_some(), "{error:?}");
            }
            ErrorKind::Deadline | ErrorKind::ProgramFailed => {}
            _ => panic!("{error:?}"),
        }
    }
    // Sixteen are let through, sixty-four wait.
    assert!(busy >= 10, "{busy}");
    let standing = reader.standing(hanging.address);
    assert_eq!((standing.in_use, standing.waiting, standing.opened), (0, 0, 1), "{standing:?}");
}

// --- What is given up ---

#[tokio::test]
async fn a_call_that_gives_a_host_or_a_database_up_says_that_it_is_slow() {
    let brief = Duration::from_millis(100);
    let host = Host::new(OK).await;
    host.hangs.store(true, Ordering::SeqCst);
    let reader = Reader::new();
    let (result, notes) = accounted(reader.get(host.address, brief)).await;
    assert_eq!(result.unwrap_err().kind, ErrorKind::Deadline);
    assert_eq!(notes, [format!("host {}: slow", host.address)]);

    // It takes connections, and says nothing.
    let url = format!("postgres://ann@{}/db?sslmode=disable", host.address);
    let source = SourceSpec::new("still", Address::parse(&url).unwrap());
    let outside = Outside { sql: Sources::new([source], true, |_| None), ..Outside::default() };
    let folder = Folder::new();
    let context = StepContext {
        permissions: Arc::new(Permissions { sql: vec!["*".to_owned()], ..Permissions::default() }),
        outside: Arc::new(outside),
        deadline: Instant::now() + brief,
        ..folder.context()
    };
    let with = Map::from_iter([("source".into(), json!("still")), ("query".into(), json!("SELECT 1"))]);
    let row = StepRow::find("sql.query").unwrap();
    let (result, notes) = accounted(steps::run(row, &context, &with)).await;
    assert_eq!(result.map(|output| output.value).unwrap_err().kind, ErrorKind::Deadline);
    assert_eq!(notes, ["source still: slow"]);
}

// --- The store ---

fn ann() -> Scope {
    Scope::mint(ProjectId::parse("a").unwrap(), "ann", "default", None)
}

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn note(text: &str) -> NewMemory {
    NewMemory { content: text.to_owned(), ..NewMemory::default() }
}

async fn locked(path: &Path) -> sqlx::SqliteConnection {
    let mut other =
        sqlx::SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(path)).await.unwrap();
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    other
}

fn store(path: &Path, busy_timeout: Duration, backends: &Backends) -> LazyStore {
    let limits = StoreLimits { busy_timeout, ..StoreLimits::default() };
    LazyStore::new(SqliteOptions { limits, ..SqliteOptions::new(path) }).known_to(backends)
}

#[tokio::test]
async fn a_store_that_stays_locked_is_left_alone_for_a_moment_and_works_again_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    let backends = Backends::default();
    let store = store(&path, Duration::from_millis(20), &backends);
    store.remember(&ann(), note("before"), now()).await.unwrap();
    let mut other = locked(&path).await;
    for _ in 0..5 {
        let error = store.remember(&ann(), note("late"), now()).await.unwrap_err();
        assert!(matches!(error, StoreError::Locked), "{error:?}");
    }
    assert!(backends.retry_after(BackendKind::Database, STORE).is_some());
    let ailing: Vec<String> = backends.ailing(Instant::now()).iter().map(ToString::to_string).collect();
    assert_eq!(ailing, ["database store: open"]);
    let (result, notes) = accounted(store.remember(&ann(), note("late"), now())).await;
    assert!(matches!(result, Err(StoreError::Locked)), "{result:?}");
    assert_eq!(notes, ["database store: open"]);
    other.execute("ROLLBACK").await.unwrap();
    let begun = Instant::now();
    while store.remember(&ann(), note("after"), now()).await.is_err() {
        assert!(begun.elapsed() < PATIENCE);
        tokio::task::yield_now().await;
    }
    assert_eq!(backends.ailing(Instant::now()), []);
    assert_eq!(
        store.list(&ann(), MemoryFilter { limit: 9, ..MemoryFilter::default() }, now()).await.unwrap().total,
        2
    );
}

#[tokio::test]
async fn no_call_of_the_store_outlasts_its_caller_s_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tmws.db");
    let store = store(&path, PATIENCE * 10, &Backends::default());
    store.remember(&ann(), note("before"), now()).await.unwrap();
    let _other = locked(&path).await;
    let begun = Instant::now();
    let deadline = begun + Duration::from_millis(100);
    let (error, notes) = accounted(until(deadline, store.remember(&ann(), note("late"), now()))).await;
    let error = error.unwrap_err();
    assert_eq!(notes, ["database store: slow"]);
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("may or may not be stored"), "{error}");
}

#[tokio::test]
async fn what_is_wrong_with_a_call_says_nothing_of_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let backends = Backends::default();
    let store = store(&folder.path().join("tmws.db"), PATIENCE, &backends);
    for _ in 0..10 {
        let error = store.remember(&ann(), note(" "), now()).await.unwrap_err();
        assert!(matches!(error, StoreError::Invalid { .. }), "{error:?}");
        let error = store.get_result(&ann(), "r_x", now()).await.unwrap_err();
        assert!(matches!(error, StoreError::UnknownHandle), "{error:?}");
    }
    let standings = backends.standings(Instant::now());
    assert_eq!((standings[0].failures, standings[0].breaker), (0, BreakerState::Closed));
}
