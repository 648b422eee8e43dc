//! What goes wrong around a PostgreSQL server: each cause has its own error, in time; nothing acknowledged is lost, nothing
//! is half stored, and the store works again when the cause is gone, without being opened anew.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{Connection as _, PgConnection};
use tmws::{
    scope::Scope,
    store::{Memory, MemoryChange, MemoryFilter, PostgresStore, Store, StoreError},
};

use crate::{
    postgres::{Database, run},
    server::{End, Server},
    store::contract::{at, note, scope},
    store_contract::{fresh, walled, walled_options},
};

/// A backstop: everything that is waited for happens long before.
const PATIENCE: Duration = Duration::from_secs(60);
/// No call takes longer, whatever happens to the server.
const CALL_MAX: Duration = Duration::from_secs(12);
/// How long after the server accepts connections again a call may still fail.
const RECOVERY_MAX: Duration = Duration::from_secs(10);

fn ann() -> Scope {
    scope("a", "ann")
}

async fn contents(store: &dyn Store) -> BTreeSet<String> {
    store.export(&ann(), None, usize::MAX).await.unwrap().into_iter().map(|memory| memory.content).collect()
}

/// Waits until `holds`; looks again and again.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("{what} does not happen"));
}

// --- Servers that end ---

/// What tasks that write without end see of a server.
#[derive(Default)]
struct Witness {
    acknowledged: Mutex<BTreeSet<String>>,
    /// Written without an acknowledgement: may be there or not.
    unsure: Mutex<BTreeSet<String>>,
    written: AtomicUsize,
    failed: AtomicUsize,
    slowest: Mutex<Duration>,
    stop: AtomicBool,
}

impl Witness {
    fn timed<T>(&self, begun: Instant, value: T) -> T {
        let mut slowest = self.slowest.lock().unwrap();
        *slowest = begun.elapsed().max(*slowest);
        value
    }

    async fn write(&self, store: &dyn Store, task: usize) {
        for n in 0.. {
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let text = format!("task {task} number {n} {}", "of many words ".repeat(n % 40));
            let begun = Instant::now();
            let outcome = self.timed(begun, store.remember(&ann(), note(&text), at(1)).await);
            match outcome {
                Ok(stored) => {
                    assert_eq!(stored.memory.content, text);
                    self.acknowledged.lock().unwrap().insert(text);
                    self.written.fetch_add(1, Ordering::SeqCst);
                }
                Err(error) => {
                    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
                    self.unsure.lock().unwrap().insert(text);
                    self.failed.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    }

    async fn read(&self, store: &dyn Store) {
        while !self.stop.load(Ordering::SeqCst) {
            let filter = MemoryFilter { limit: 5, ..MemoryFilter::default() };
            let begun = Instant::now();
            let outcome = self.timed(begun, store.list(&ann(), filter, at(1)).await);
            if let Err(error) = outcome {
                assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_or_restarted_loses_nothing_acknowledged_and_is_found_again() {
    let mut server = Server::start().await;
    let store = PostgresStore::open(server.options()).await.unwrap();
    let witness = Arc::new(Witness::default());
    let mut tasks: Vec<_> = (0..4)
        .map(|task| {
            let (store, witness) = (Arc::clone(&store), Arc::clone(&witness));
            tokio::spawn(async move { witness.write(&*store, task).await })
        })
        .collect();
    tasks.push({
        let (store, witness) = (Arc::clone(&store), Arc::clone(&witness));
        tokio::spawn(async move { witness.read(&*store).await })
    });
    let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
    for how in [End::Kill, End::Immediate, End::Fast, End::Kill] {
        let before = count(&witness.written);
        until("writing", async || count(&witness.written) > before + 20).await;
        let failed = count(&witness.failed);
        server.end(how);
        // One error may be of a connection that was open; the others come while there is no server.
        until("failing", async || count(&witness.failed) > failed + 4).await;
        server.resume().await;
        let back = Instant::now();
        let before = count(&witness.written);
        until("recovery", async || count(&witness.written) > before).await;
        assert!(back.elapsed() < RECOVERY_MAX, "{how:?}: back after {:?}", back.elapsed());
    }
    witness.stop.store(true, Ordering::SeqCst);
    for task in tasks {
        task.await.unwrap();
    }
    let slowest = *witness.slowest.lock().unwrap();
    assert!(slowest < CALL_MAX, "a call took {slowest:?}");
    let stored = contents(&*store).await;
    let (acknowledged, unsure) = (witness.acknowledged.lock().unwrap(), witness.unsure.lock().unwrap());
    let lost: Vec<_> = acknowledged.difference(&stored).collect();
    assert!(lost.is_empty(), "{} of {} acknowledged are lost", lost.len(), acknowledged.len());
    assert!(stored.iter().all(|text| acknowledged.contains(text) || unsure.contains(text)), "torn");
    let found = store.stats(&ann(), at(2)).await.unwrap().memories;
    assert_eq!(found, stored.len() as u64);
    store.close(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_server_that_is_away_is_told_in_time_and_by_name() {
    let mut server = Server::start().await;
    let store = PostgresStore::open(server.options()).await.unwrap();
    server.end(End::Fast);
    for _ in 0..2 {
        let begun = Instant::now();
        let error = store.remember(&ann(), note("away"), at(1)).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("127.0.0.1") && !text.contains("postgres@"), "{text}");
        assert!(begun.elapsed() < CALL_MAX, "{:?}", begun.elapsed());
    }
    let begun = Instant::now();
    let Err(error) = PostgresStore::open(server.options()).await else { panic!("there is no server") };
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert!(begun.elapsed() < CALL_MAX, "{:?}", begun.elapsed());
}

// --- One server, trouble within ---

/// A connection that holds a lock under which nobody else writes memories.
async fn hold(database: &Database) -> PgConnection {
    let mut holder = database.connect().await;
    run(&mut holder, "BEGIN; LOCK TABLE tmws.memory_text IN SHARE MODE").await;
    holder
}

/// Waits until `count` of our connections wait for a lock.
async fn wait_for_waiting(database: &Database, count: i64) {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND application_name LIKE 'tmws%' \
                   AND wait_event_type = 'Lock'";
    until("waiting for a lock", async || database.value(waiting).await == count).await;
}

fn tagged(text: &str) -> tmws::store::NewMemory {
    tmws::store::NewMemory { tags: vec!["tag".to_owned()], ..note(text) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_killed_within_a_transaction_leaves_nothing_of_it() {
    let (database, store) = walled().await;
    store.remember(&ann(), tagged("before"), at(1)).await.unwrap();
    let generation = store.generation(&ann()).await.unwrap();
    let holder = hold(&database).await;
    let write = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.remember(&ann(), tagged("between"), at(2)).await }
    });
    wait_for_waiting(&database, 1).await;
    let killed = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1 \
                  AND application_name LIKE 'tmws%' AND wait_event_type = 'Lock'";
    assert_eq!(database.value(killed).await, 1);
    let error = write.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    holder.close().await.unwrap();
    assert_eq!(contents(&*store).await, ["before".to_owned()].into());
    assert_eq!(store.generation(&ann()).await.unwrap(), generation);
    for table in ["memory", "memory_text"] {
        let rows = database.value(&format!("SELECT count(*) FROM tmws.{table} WHERE $1 <> ''")).await;
        assert_eq!(rows, 1, "{table}");
    }
    store.remember(&ann(), tagged("after"), at(3)).await.unwrap();
    assert_eq!(contents(&*store).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_that_is_not_given_ends_in_time() {
    let database = fresh().await;
    let mut options = walled_options(&database).await;
    options.limits.busy_timeout = Duration::from_millis(300);
    let store = PostgresStore::open(options).await.unwrap();
    let holder = hold(&database).await;
    let begun = Instant::now();
    let error = store.remember(&ann(), tagged("late"), at(1)).await.unwrap_err();
    assert!(matches!(error, StoreError::Locked | StoreError::Unavailable { .. }), "{error:?}");
    assert!(begun.elapsed() < CALL_MAX, "{:?}", begun.elapsed());
    assert_eq!(contents(&*store).await.len(), 0, "reading goes on");
    holder.close().await.unwrap();
    store.remember(&ann(), tagged("late"), at(2)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_the_server_stops_is_told_and_keeps_nothing() {
    let (database, store) = walled().await;
    store.remember(&ann(), tagged("before"), at(1)).await.unwrap();
    let holder = hold(&database).await;
    let write = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.remember(&ann(), tagged("between"), at(2)).await }
    });
    wait_for_waiting(&database, 1).await;
    let cancelled = "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE datname = $1 \
                     AND application_name LIKE 'tmws%' AND wait_event_type = 'Lock'";
    assert_eq!(database.value(cancelled).await, 1);
    let error = write.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("took too long"), "{error}");
    holder.close().await.unwrap();
    store.remember(&ann(), tagged("after"), at(3)).await.unwrap();
    assert_eq!(contents(&*store).await, ["after", "before"].map(String::from).into());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_beyond_the_connections_wait_and_are_told_in_time() {
    let database = fresh().await;
    let mut options = walled_options(&database).await;
    options.connections_max = 2;
    // Longer than a caller waits for a connection.
    options.limits.busy_timeout = Duration::from_secs(20);
    let store = PostgresStore::open(options).await.unwrap();
    let holder = hold(&database).await;
    let writes: Vec<_> = (0..2)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.remember(&ann(), tagged(&format!("held {n}")), at(1)).await })
        })
        .collect();
    wait_for_waiting(&database, 2).await;
    let begun = Instant::now();
    let error = store.list(&ann(), MemoryFilter::default(), at(1)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert!(begun.elapsed() < CALL_MAX, "{:?}", begun.elapsed());
    holder.close().await.unwrap();
    for write in writes {
        // Given the lock in time, or told that it was not.
        let _ = write.await.unwrap();
    }
    store.remember(&ann(), tagged("after"), at(2)).await.unwrap();
    assert!(contents(&*store).await.contains("after"));
}

#[tokio::test]
async fn a_server_without_a_connection_left_is_told_and_used_again() {
    let database = fresh().await;
    let mut admin = database.connect().await;
    run(&mut admin, &format!("ALTER DATABASE {} CONNECTION LIMIT 0", database.name)).await;
    let begun = Instant::now();
    let Err(error) = PostgresStore::open(walled_options(&database).await).await else {
        panic!("no connection is left")
    };
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    assert!(error.to_string().contains("has no connection left"), "{error}");
    assert!(begun.elapsed() < CALL_MAX, "{:?}", begun.elapsed());
    run(&mut admin, &format!("ALTER DATABASE {} CONNECTION LIMIT -1", database.name)).await;
    let store = PostgresStore::open(walled_options(&database).await).await.unwrap();
    store.remember(&ann(), note("after"), at(1)).await.unwrap();
}

#[tokio::test]
async fn a_database_that_is_only_read_is_read_and_named() {
    let (database, store) = walled().await;
    store.remember(&ann(), note("before"), at(1)).await.unwrap();
    store.close(Duration::from_secs(5)).await;
    let mut admin = database.connect().await;
    run(&mut admin, &format!("ALTER DATABASE {} SET default_transaction_read_only = on", database.name))
        .await;
    let store = PostgresStore::open(walled_options(&database).await).await.unwrap();
    let error = store.remember(&ann(), note("between"), at(2)).await.unwrap_err();
    assert!(matches!(error, StoreError::ReadOnly { .. }), "{error:?}");
    assert!(matches!(store.check().await, Err(StoreError::ReadOnly { .. })), "whoever asks is told");
    assert_eq!(contents(&*store).await.len(), 1, "reading goes on");
}

// --- Many at once ---

fn numbered(n: usize) -> Memory {
    Memory {
        id: format!("m_{n:026}"),
        project: "a".to_owned(),
        content: format!("number {n}"),
        tags: vec!["same".to_owned()],
        importance: 0.5,
        kind: "note".to_owned(),
        visibility: tmws::store::Visibility::Project,
        trust: tmws::store::Trust::Agent,
        principal: "ann".to_owned(),
        agent: "default".to_owned(),
        session: None,
        supersedes: None,
        superseded_by: None,
        created: at(1),
        updated: at(1),
        recalled: None,
        expires: None,
    }
}

/// Half of the tasks go through the rows upwards, half downwards, all at once: they import them, change them, forget them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_tasks_that_write_the_same_rows_in_opposite_orders_all_end() {
    const ROWS: usize = 12;
    let (database, store) = walled().await;
    let begun = Instant::now();
    let tasks: Vec<_> = (0..50)
        .map(|task| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut rows: Vec<usize> = (0..ROWS).collect();
                if task % 2 == 1 {
                    rows.reverse();
                }
                store.import(&ann(), rows.iter().map(|n| numbered(*n)).collect(), at(1)).await.unwrap();
                for n in &rows {
                    let change =
                        MemoryChange { importance: Some(task as f64 / 50.0), ..MemoryChange::default() };
                    store.update(&ann(), &numbered(*n).id, change, at(2)).await.unwrap();
                }
                let ids: Vec<String> = rows[..ROWS / 2].iter().map(|n| numbered(*n).id).collect();
                store.forget(&ann(), &ids, at(3)).await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        tokio::time::timeout(PATIENCE, task).await.expect("all end").unwrap();
    }
    assert!(begun.elapsed() < PATIENCE);
    // Each row was forgotten by somebody, and what was forgotten does not come back.
    assert_eq!(contents(&*store).await.len(), 0);
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND state LIKE 'idle in%'";
    assert_eq!(database.value(open).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_contents_at_once_are_stored_once() {
    let (_database, store) = walled().await;
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.remember(&ann(), note("the same"), at(1)).await.unwrap() })
        })
        .collect();
    let mut fresh = 0;
    for task in tasks {
        fresh += usize::from(!task.await.unwrap().duplicate);
    }
    assert_eq!((fresh, contents(&*store).await.len()), (1, 1));
}
