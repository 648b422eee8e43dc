//! The store on PostgreSQL: its contract, and what only a server can do to it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tmws::{
    accept::proxy::{Proxy, Way},
    embedding::Embeddings,
    resilience::accounted,
    revision::Era,
    scope::Scope,
    store::{
        Change, Changes, LazyStore, MemoryQuery, NewTask, PostgresOptions, PostgresStore, Store, StoreError,
        StoredResult,
    },
};
use tokio::{sync::Notify, task::JoinHandle, time::timeout};

use super::{
    postgres::{Database, run},
    tls,
};
use crate::store::contract::{at, note, scope};

/// A store in a database of its own.
async fn open() -> (Database, Arc<dyn Store>) {
    let database = Database::new("").await;
    let store = PostgresStore::open(PostgresOptions::new(database.url())).await.unwrap();
    (database, store)
}

fn result(n: usize) -> StoredResult {
    StoredResult { pattern: "p@1".into(), value: json!(n) }
}

fn ann() -> Scope {
    scope("a", "ann")
}

/// What opening `url` fails with, checked to hold no password.
async fn refused(url: &str) -> StoreError {
    let error = match PostgresStore::open(PostgresOptions::new(url)).await {
        Ok(_) => panic!("it was opened"),
        Err(error) => error,
    };
    let password = url.split_once("://").and_then(|(_, rest)| rest.split_once('@')).map(|(user, _)| user);
    let password = password.and_then(|user| user.split_once(':')).map_or("secret", |(_, password)| password);
    for text in [error.to_string(), format!("{error:?}")] {
        assert!(!text.contains(password), "{text}");
    }
    error
}

#[tokio::test]
async fn what_an_older_binary_cannot_know_is_left_untouched() {
    let (database, store) = open().await;
    store.close(Duration::from_secs(5)).await;
    run(&mut database.connect().await, "INSERT INTO tmws.schema_version (version) VALUES (900)").await;
    let error = refused(&database.url()).await;
    assert!(matches!(error, StoreError::NewerVersion { found: 900, .. }), "{error:?}");
    assert!(error.to_string().contains(&database.name), "says where: {error}");
    assert_eq!(database.value("SELECT count(*) FROM tmws.schema_version WHERE $1 <> ''").await, 2);
}

#[tokio::test]
async fn a_schema_that_is_not_ours_is_left_untouched() {
    let database = Database::new("CREATE SCHEMA tmws; CREATE TABLE tmws.mine (a int)").await;
    let error = refused(&database.url()).await;
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'tmws' AND $1 <> ''";
    assert_eq!(database.value(tables).await, 1);
}

#[tokio::test]
async fn an_empty_schema_made_for_us_is_taken() {
    let database = Database::new("CREATE SCHEMA tmws").await;
    let store = PostgresStore::open(PostgresOptions::new(database.url())).await.unwrap();
    store.check().await.unwrap();
}

#[tokio::test]
async fn many_that_open_a_new_database_at_once_migrate_it_once() {
    let database = Database::new("").await;
    let opening = (0..10).map(|_| {
        let options = PostgresOptions::new(database.url());
        tokio::spawn(async move {
            let store = PostgresStore::open(options).await.unwrap();
            let key = store.state_key().await.unwrap();
            store.close(Duration::from_secs(5)).await;
            key
        })
    });
    let opening: Vec<_> = opening.collect();
    let mut keys = std::collections::BTreeSet::new();
    for one in opening {
        keys.insert(one.await.unwrap());
    }
    assert_eq!(keys.len(), 1, "one state key for all");
    assert_eq!(database.value("SELECT count(*) FROM tmws.schema_version WHERE $1 <> ''").await, 1);
}

#[tokio::test]
async fn every_way_in_that_is_shut_is_told_with_what_to_do() {
    let database = Database::new("").await;
    let url = database.url();
    let (_, host) = url.split_once('@').unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (url, permanent, says) in [
        (format!("postgres://postgres:hunter2@{host}"), true, "refuses the role or its password"),
        (format!("postgres://nobody:hunter2@{host}"), true, "refuses the role or its password"),
        (format!("{url}_gone"), true, "there is no such database"),
        (format!("postgres://postgres:hunter2@{free}/x"), false, "connection refused"),
        (format!("{url}?sslmode=require"), false, "TLS"),
        (format!("{url}?sslmode=verify-full&sslrootcert=/nowhere.pem"), false, "TLS"),
        ("postgres://postgres:hunter2@[/x".to_owned(), false, "no valid address"),
        (format!("{url}?sslmode=hunter2"), false, "no valid address"),
    ] {
        let error = refused(&url).await;
        let is_login = matches!(error, StoreError::LoginRefused { .. });
        assert_eq!(is_login, says.contains("role"), "{error:?}");
        assert_eq!(is_login || matches!(error, StoreError::Unsuitable { .. }), permanent, "{error:?}");
        assert_eq!(matches!(error, StoreError::Unavailable { .. }), !permanent, "{error:?}");
        assert!(error.to_string().contains(says), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn a_missing_extension_is_told_with_who_may_make_it() {
    let database = Database::new("").await;
    let role = format!("plain_{}", database.name);
    let mut admin = database.connect().await;
    run(&mut admin, &format!("CREATE ROLE {role} LOGIN PASSWORD 'hunter2'")).await;
    let error = refused(&database.url_as(&role, "hunter2")).await;
    assert!(matches!(error, StoreError::Unsuitable { .. }), "{error:?}");
    assert!(error.to_string().contains("CREATE EXTENSION vector"), "{error}");
    // With it, the schema is the next thing that it may not make.
    run(&mut admin, "CREATE EXTENSION vector").await;
    let error = refused(&database.url_as(&role, "hunter2")).await;
    assert!(matches!(error, StoreError::Unsuitable { .. }), "{error:?}");
    run(&mut admin, &format!("CREATE SCHEMA tmws AUTHORIZATION {role}")).await;
    let store = PostgresStore::open(PostgresOptions::new(database.url_as(&role, "hunter2"))).await.unwrap();
    store.put_result(&ann(), result(1), at(0)).await.unwrap();
    let facts =
        PostgresStore::inspect(&PostgresOptions::new(database.url_as(&role, "hunter2"))).await.unwrap();
    assert!(facts.is_walled && !facts.is_encrypted && facts.schema == facts.schema_known, "{facts:?}");
}

#[tokio::test]
async fn looking_at_a_database_makes_nothing_in_it() {
    let database = Database::new("").await;
    let facts = PostgresStore::inspect(&PostgresOptions::new(database.url())).await.unwrap();
    assert_eq!((facts.schema, facts.vector.as_deref()), (0, None));
    let made = "SELECT count(*) FROM pg_namespace WHERE nspname = 'tmws' AND $1 <> ''";
    assert_eq!(database.value(made).await, 0);
}

/// Rows of `table` that a transaction sees which names these settings, as the role that the store works as.
async fn seen(database: &Database, role: &str, settings: &str, table: &str) -> i64 {
    let mut connection = database.connect().await;
    run(&mut connection, &format!("BEGIN; SET LOCAL ROLE {role}; {settings}")).await;
    let count = AssertSqlSafe(format!("SELECT count(*) FROM tmws.{table}"));
    sqlx::query_scalar(count).fetch_one(&mut connection).await.unwrap()
}

#[tokio::test]
async fn the_second_wall_stands_whatever_a_statement_asks_for() {
    let (database, store) = open().await;
    let task =
        |id: &str| NewTask { id: id.into(), era: Era::Modern, body: json!(1), expires: at(9), lease: at(9) };
    for (project, id) in [("a", "t_1"), ("b", "t_2")] {
        store.put_result(&scope(project, "ann"), result(1), at(0)).await.unwrap();
        store.open_session(&scope(project, "ann"), at(0)).await.unwrap();
        store.put_task(&scope(project, "ann"), task(id), 9, at(0)).await.unwrap();
    }
    let role =
        format!("tmws_{}", database.value("SELECT oid::bigint FROM pg_database WHERE datname = $1").await);
    let mut admin = database.connect().await;
    let realm: String =
        sqlx::query_scalar("SELECT realm FROM tmws.session LIMIT 1").fetch_one(&mut admin).await.unwrap();
    let owner: String =
        sqlx::query_scalar("SELECT owner FROM tmws.task LIMIT 1").fetch_one(&mut admin).await.unwrap();
    let one = format!("SET LOCAL tmws.realm TO '{realm}'; SET LOCAL tmws.owner TO '{owner}'");
    for table in ["session", "result", "task"] {
        assert_eq!(seen(&database, &role, "", table).await, 0, "{table}: nobody said who asks");
        assert_eq!(seen(&database, &role, &one, table).await, 1, "{table}: one project");
        assert_eq!(
            seen(&database, &role, "SET LOCAL tmws.whole TO 'on'", table).await,
            2,
            "{table}: the store"
        );
    }
    // Nor can a row be written, or be given, to others.
    let mut connection = database.connect().await;
    run(&mut connection, &format!("BEGIN; SET LOCAL ROLE {role}; {one}")).await;
    let moved = sqlx::raw_sql("UPDATE tmws.task SET owner = 'o1'").execute(&mut connection).await;
    assert_eq!(moved.unwrap_err().as_database_error().unwrap().code().as_deref(), Some("42501"));
}

#[tokio::test]
async fn every_table_with_rows_of_somebody_is_walled() {
    let (database, _store) = open().await;
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
         WHERE nspname = 'tmws' AND relkind = 'r' AND NOT (relrowsecurity AND relforcerowsecurity) ORDER BY 1",
    )
    .fetch_all(&mut database.connect().await)
    .await
    .unwrap();
    // No row of these is anybody's, but for `memory_text`: see the migration.
    assert_eq!(names, ["embedding_model", "generation", "memory_text", "meta", "schema_version"]);
}

#[tokio::test]
async fn writes_that_others_end_are_done_again() {
    let (database, store) = open().await;
    let mut admin = database.connect().await;
    // Every session's first three writes end as in a deadlock or a conflict; a sequence forgets nothing.
    run(
        &mut admin,
        "CREATE SEQUENCE public.tries; GRANT USAGE ON SEQUENCE public.tries TO PUBLIC;
         CREATE FUNCTION public.conflict() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           CASE nextval('public.tries') % 4
             WHEN 1 THEN RAISE EXCEPTION 'deadlock' USING ERRCODE = '40P01';
             WHEN 2, 3 THEN RAISE EXCEPTION 'conflict' USING ERRCODE = '40001';
             ELSE RETURN NEW;
           END CASE;
         END $$;
         CREATE TRIGGER conflict BEFORE INSERT ON tmws.session FOR EACH ROW EXECUTE FUNCTION public.conflict()",
    )
    .await;
    store.open_session(&ann(), at(0)).await.unwrap();
    assert_eq!(database.value("SELECT last_value FROM public.tries WHERE $1 <> ''").await, 4);
    // Also at the very end.
    run(
        &mut admin,
        "DROP TRIGGER conflict ON tmws.session;
         CREATE CONSTRAINT TRIGGER late AFTER INSERT ON tmws.result DEFERRABLE INITIALLY DEFERRED
           FOR EACH ROW EXECUTE FUNCTION public.conflict()",
    )
    .await;
    let handle = store.put_result(&ann(), result(7), at(0)).await.unwrap();
    assert_eq!(store.get_result(&ann(), &handle, at(1)).await.unwrap(), result(7));
    assert_eq!(database.value("SELECT last_value FROM public.tries WHERE $1 <> ''").await, 8);
    assert_eq!(database.value("SELECT count(*) FROM tmws.result WHERE $1 <> ''").await, 1);
    // Not for ever.
    run(&mut admin, "ALTER SEQUENCE public.tries RESTART WITH 1 INCREMENT BY 4").await;
    let error = store.put_result(&ann(), result(8), at(0)).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Unavailable { reason } if reason.contains("too many writes")),
        "{error:?}"
    );
}

#[tokio::test]
async fn fifty_tasks_on_one_session_lose_nothing() {
    let (_database, store) = open().await;
    let handle = store.open_session(&ann(), at(0)).await.unwrap();
    let writing = (0..50).map(|n| {
        let (store, handle) = (Arc::clone(&store), handle.clone());
        tokio::spawn(async move {
            store.set_session_scratch(&ann(), &handle, &format!("k{n}"), json!(n), at(1)).await
        })
    });
    for one in writing.collect::<Vec<_>>() {
        one.await.unwrap().unwrap();
    }
    assert_eq!(store.session_scratch(&ann(), &handle, at(2)).await.unwrap().len(), 50);
}

/// Waits until `count` backends of ours are in `state` with `part` in their query.
async fn until(database: &Database, state: &str, part: &str, count: i64) {
    for _ in 0..1_000 {
        if database.backends(state, part).await == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never {count} of {part} in state {state}");
}

/// A store whose lock waits end after `lock`, and a result table that somebody has locked.
async fn locked(lock: Duration) -> (Database, Arc<dyn Store>, PgConnection) {
    let database = Database::new("").await;
    let mut options = PostgresOptions::new(database.url());
    options.limits.busy_timeout = lock;
    let store = PostgresStore::open(options).await.unwrap();
    let mut other = database.connect().await;
    run(&mut other, "BEGIN; LOCK TABLE tmws.result").await;
    (database, store, other)
}

#[tokio::test]
async fn a_lock_that_is_not_free_in_time_is_told() {
    let (_database, store, other) = locked(Duration::from_millis(50)).await;
    let error = store.put_result(&ann(), result(1), at(0)).await.unwrap_err();
    assert!(matches!(error, StoreError::Locked), "{error:?}");
    other.close().await.unwrap();
    store.put_result(&ann(), result(1), at(0)).await.unwrap();
}

#[tokio::test]
async fn a_connection_stolen_within_a_write_is_told_and_nothing_of_it_is_kept() {
    let (database, store, other) = locked(Duration::from_mins(1)).await;
    let writing = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.put_result(&ann(), result(1), at(0)).await })
    };
    until(&database, "active", "tmws.purge_result", 1).await;
    let stolen = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                  WHERE application_name = 'tmws' AND state = 'active' AND datname = $1";
    assert_eq!(database.value(stolen).await, 1);
    let error = writing.await.unwrap().unwrap_err();
    assert!(matches!(&error, StoreError::Unavailable { .. }), "{error:?}");
    other.close().await.unwrap();
    assert_eq!(database.value("SELECT count(*) FROM tmws.result WHERE $1 <> ''").await, 0);
    // The next one gets another connection.
    store.put_result(&ann(), result(1), at(0)).await.unwrap();
}

#[tokio::test]
async fn connections_that_were_ended_while_idle_are_not_noticed() {
    let (database, store) = open().await;
    for _ in 0..5 {
        store.put_result(&ann(), result(1), at(0)).await.unwrap();
        let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                     WHERE application_name = 'tmws' AND datname = $1";
        assert!(database.value(ended).await > 0);
        store.put_result(&ann(), result(1), at(0)).await.unwrap();
    }
}

#[tokio::test]
async fn a_write_that_began_is_kept_though_nobody_waits_for_it() {
    let (database, store, other) = locked(Duration::from_mins(1)).await;
    let writing = {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.put_result(&ann(), result(1), at(0)).await })
    };
    until(&database, "active", "tmws.purge_result", 1).await;
    writing.abort();
    assert!(writing.await.unwrap_err().is_cancelled());
    other.close().await.unwrap();
    until(&database, "active", "tmws.purge_result", 0).await;
    until(&database, "idle", "COMMIT", 1).await;
    assert_eq!(database.value("SELECT count(*) FROM tmws.result WHERE $1 <> ''").await, 1);
}

/// More than anything here takes.
const LONG: Duration = Duration::from_secs(30);

/// A store with one connection, and a read whose beginning has gone out on it, and hangs in the proxy.
async fn hung() -> (Database, Arc<Proxy>, Arc<dyn Store>, JoinHandle<()>) {
    let database = Database::new("").await;
    let url = database.url();
    let (_, place) = url.rsplit_once('@').unwrap();
    let (place, _) = place.split_once('/').unwrap();
    let proxy = Arc::new(Proxy::start(place.parse().unwrap()).await.unwrap());
    let mut options = PostgresOptions::new(url.replacen(place, &proxy.address().to_string(), 1));
    options.connections_max = 1;
    let store = PostgresStore::open(options).await.unwrap();
    store.put_result(&ann(), result(1), at(0)).await.unwrap();
    let begins = Arc::new(Notify::new());
    let (told, hung) = (Arc::clone(&begins), Arc::downgrade(&proxy));
    proxy.edit(Some(Arc::new(move |way, piece: &mut Vec<u8>| {
        if way == Way::There && piece.windows(9).any(|text| text == b"READ ONLY") {
            hung.upgrade().unwrap().freeze(true);
            told.notify_one();
        }
    })));
    let reading = tokio::spawn({
        let store = Arc::clone(&store);
        async move { drop(store.session_scratch(&ann(), "s_none", at(0)).await) }
    });
    timeout(LONG, begins.notified()).await.expect("it begins");
    (database, proxy, store, reading)
}

#[tokio::test]
async fn a_read_that_is_given_up_while_it_begins_leaves_its_connection_as_it_was() {
    let (database, proxy, store, reading) = hung().await;
    reading.abort();
    assert!(reading.await.unwrap_err().is_cancelled());
    proxy.edit(None);
    proxy.freeze(false);
    let ann = ann();
    let writing = store.put_result(&ann, result(2), at(0));
    timeout(LONG, writing).await.expect("the connection comes back").unwrap();
    assert_eq!(database.value("SELECT count(*) FROM tmws.result WHERE $1 <> ''").await, 2);
    until(&database, "idle in transaction%", "", 0).await;
}

#[tokio::test]
async fn a_read_that_was_given_up_while_it_began_does_not_keep_a_store_from_closing() {
    let (_database, _proxy, store, reading) = hung().await;
    reading.abort();
    assert!(reading.await.unwrap_err().is_cancelled());
    timeout(LONG, store.close(LONG * 2)).await.expect("it closes though the database is silent");
}

#[tokio::test]
async fn a_pool_that_is_used_up_is_told_and_recovers() {
    let database = Database::new("").await;
    let mut options = PostgresOptions::new(database.url());
    (options.connections_max, options.limits.busy_timeout) = (2, Duration::from_mins(1));
    let store = PostgresStore::open(options).await.unwrap();
    let mut other = database.connect().await;
    run(&mut other, "BEGIN; LOCK TABLE tmws.result").await;
    // Results of one project would be written together.
    let writing: Vec<_> = ["a", "b"]
        .map(|project| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.put_result(&scope(project, "ann"), result(1), at(0)).await })
        })
        .into();
    until(&database, "active", "%", 2).await;
    let (before, begun) = (store.load(), Instant::now());
    let error = store.check().await.unwrap_err();
    let (after, waited) = (store.load(), begun.elapsed());
    assert!(after.waits > before.waits, "{before:?}, {after:?}");
    let more = after.waited.unwrap() - before.waited.unwrap();
    assert!(more >= waited.mul_f64(0.9), "{more:?} of {waited:?}");
    let told = error.to_string();
    assert!(told.contains("limits.database_connections") && told.contains(&database.name), "{told}");
    other.close().await.unwrap();
    for one in writing {
        one.await.unwrap().unwrap();
    }
    store.check().await.unwrap();
}

#[tokio::test]
async fn results_that_wait_for_each_other_are_kept_by_one_transaction() {
    let database = Database::new("").await;
    let mut options = PostgresOptions::new(database.url());
    options.limits.busy_timeout = Duration::from_mins(1);
    let store = PostgresStore::open(options).await.unwrap();
    let mut other = database.connect().await;
    run(&mut other, "BEGIN; LOCK TABLE tmws.result").await;
    let keep = |n: usize, agent: &str| {
        let (store, scope) = (Arc::clone(&store), scope("a", agent));
        tokio::spawn(async move { (n, store.put_result(&scope, result(n), at(1)).await) })
    };
    let first = keep(0, "ann");
    until(&database, "active", "%", 1).await;
    let others: Vec<_> = (1..12).map(|n| keep(n, if n % 2 == 0 { "ann" } else { "bob" })).collect();
    tokio::task::yield_now().await;
    other.close().await.unwrap();
    let mut handles = Vec::new();
    for one in std::iter::once(first).chain(others) {
        let (n, handle) = one.await.unwrap();
        handles.push((n, handle.unwrap()));
    }
    for (n, handle) in handles {
        let [owner, stranger] = if n % 2 == 0 { ["ann", "bob"] } else { ["bob", "ann"] };
        let kept = store.get_result(&scope("a", owner), &handle, at(20)).await.unwrap();
        assert_eq!(kept.value, json!(n));
        let foreign = store.get_result(&scope("a", stranger), &handle, at(20)).await;
        assert!(matches!(foreign, Err(StoreError::UnknownHandle)), "{foreign:?}");
    }
    let transactions = database.value("SELECT count(DISTINCT xmin::text) FROM tmws.result").await;
    assert_eq!(transactions, 2, "of the first, and of all others");
}

#[tokio::test]
async fn a_database_that_only_reads_is_told() {
    let (database, store) = open().await;
    let handle = store.put_result(&ann(), result(1), at(0)).await.unwrap();
    store.close(Duration::from_secs(5)).await;
    let read_only = format!("ALTER DATABASE {} SET default_transaction_read_only = on", database.name);
    run(&mut database.connect().await, &read_only).await;
    let store = PostgresStore::open(PostgresOptions::new(database.url())).await.unwrap();
    assert_eq!(store.get_result(&ann(), &handle, at(1)).await.unwrap(), result(1));
    for error in
        [store.put_result(&ann(), result(1), at(0)).await.unwrap_err(), store.check().await.unwrap_err()]
    {
        assert!(matches!(error, StoreError::ReadOnly { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_lazy_store_connects_at_its_first_call() {
    let database = Database::new("").await;
    let store = LazyStore::new(PostgresOptions::new(database.url()));
    let ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tmws' AND datname = $1";
    assert_eq!(database.value(ours).await, 0);
    store.check().await.unwrap();
    assert!(database.value(ours).await > 0);
    store.close(Duration::from_secs(5)).await;
    for _ in 0..500 {
        if database.value(ours).await == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("connections are left behind");
}

#[tokio::test]
async fn what_the_server_refuses_is_told_apart_by_what_to_do() {
    let (database, store) = open().await;
    let mut admin = database.connect().await;
    for (state, kind, says) in [
        ("57014", "Unavailable", "took too long"),
        ("55P03", "Locked", "locked by another process"),
        ("53100", "DiskFull", "no space left"),
        ("53200", "Unavailable", "out of memory"),
        ("53300", "Unavailable", "limits.database_connections"),
        ("25006", "ReadOnly", "read-only"),
        ("42501", "Unsuitable", "grant it"),
        ("57P01", "Unavailable", "ended the connection"),
        ("58030", "Unavailable", "cannot read or write its files"),
        ("XX001", "Corrupt", "damaged"),
        ("42P01", "Corrupt", "damaged"),
        ("22000", "Internal", "unexpectedly"),
    ] {
        run(
            &mut admin,
            &format!(
                "CREATE OR REPLACE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION 'row of hunter2' USING ERRCODE = '{state}'; END $$;
                 CREATE OR REPLACE TRIGGER fail BEFORE INSERT ON tmws.result EXECUTE FUNCTION public.fail()"
            ),
        )
        .await;
        let error = store.put_result(&ann(), result(1), at(0)).await.unwrap_err();
        assert!(format!("{error:?}").starts_with(kind), "{state}: {error:?}");
        assert!(error.to_string().contains(says), "{state}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{state}: {error}");
    }
}

async fn next(changes: &mut Changes) -> Change {
    tokio::time::timeout(Duration::from_mins(1), changes.next()).await.unwrap().unwrap()
}

#[tokio::test]
async fn committed_writes_are_told_and_a_lost_connection_means_that_anything_may_have_changed() {
    let (database, store) = open().await;
    let listening = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = $1";
    assert_eq!(database.value(listening).await, 0, "nobody asked");
    let mut changes = store.changes().await.unwrap().unwrap();
    let mut others = store.changes().await.unwrap().unwrap();
    assert_eq!(next(&mut changes).await, Change::Everything, "listening begins");
    let mut admin = database.connect().await;
    let written = |generation| Change::Written { audience: "p1".into(), generation };
    for generation in 1..=2 {
        run(&mut admin, "SELECT tmws.bump('p1')").await;
        assert_eq!(next(&mut changes).await, written(generation));
    }
    run(&mut admin, "BEGIN; SELECT tmws.bump('p1'); ROLLBACK").await;
    let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                 WHERE query LIKE 'LISTEN%' AND datname = $1";
    assert_eq!(database.value(ended).await, 1);
    assert_eq!(next(&mut changes).await, Change::Everything, "the connection is lost");
    assert_eq!(next(&mut changes).await, Change::Everything, "listening begins anew");
    run(&mut admin, "SELECT tmws.bump('p1')").await;
    assert_eq!(next(&mut changes).await, written(3));
    assert_eq!(next(&mut others).await, Change::Everything);
    assert_eq!(next(&mut others).await, written(1));
    store.close(Duration::from_secs(5)).await;
    assert_eq!(changes.next().await, None, "the store is closed");
}

#[tokio::test]
async fn nobody_listens_once_nobody_wants_to_know() {
    let (database, store) = open().await;
    let mut changes = store.changes().await.unwrap().unwrap();
    assert_eq!(next(&mut changes).await, Change::Everything);
    drop(changes);
    run(&mut database.connect().await, "SELECT tmws.bump('p1')").await;
    until(&database, "%", "LISTEN", 0).await;
    // And again for the next one.
    let mut changes = store.changes().await.unwrap().unwrap();
    assert_eq!(next(&mut changes).await, Change::Everything);
}

#[tokio::test]
async fn tls_is_used_and_the_certificate_looked_at() {
    let database = Database::new("").await;
    let server = database.url();
    let (user, host) = server.split_once('@').unwrap();
    let (host, name) = host.split_once('/').unwrap();
    let (port, handshakes) = tls::in_front_of(host.to_owned(), "127.0.0.1").await;
    // All of 127/8 is this machine, where the script has a server at all.
    let (other, _) = tls::in_front_of(host.to_owned(), "127.0.0.2").await;
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tls");
    let url = |host: &str, mode: &str| format!("{user}@{host}:{port}/{name}?sslmode={mode}");
    let elsewhere =
        format!("{user}@127.0.0.2:{other}/{name}?sslmode=verify-full&sslrootcert={folder}/cert.pem");
    let rooted = |host: &str| format!("{}&sslrootcert={folder}/cert.pem", url(host, "verify-full"));
    for (url, works) in [
        (url("127.0.0.1", "require"), true),
        (rooted("localhost"), true),
        (rooted("127.0.0.1"), true),
        // Signed by nobody whom the world trusts.
        (url("localhost", "verify-full"), false),
        // Made for another name.
        (elsewhere, false),
    ] {
        let before = handshakes.load(Ordering::SeqCst);
        if works {
            let store = PostgresStore::open(PostgresOptions::new(&url)).await.unwrap();
            store.put_result(&ann(), result(1), at(0)).await.unwrap();
            assert!(handshakes.load(Ordering::SeqCst) > before, "{url}: without TLS");
        } else {
            let error = refused(&url).await;
            assert!(error.to_string().contains("sslrootcert"), "{error}");
            assert_eq!(handshakes.load(Ordering::SeqCst), before, "{url}");
        }
    }
}

#[test]
fn options_say_nothing_of_where_they_lead() {
    let options = PostgresOptions::new("postgres://ann:hunter2@db.example.com/x");
    let shown = format!("{options:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("ann"), "{shown}");
}

#[tokio::test]
async fn vectors_that_come_later_change_the_generation_and_until_then_searches_say_so() {
    const CAR: &str = "The automobile is parked in the underground garage";
    let database = Database::new("").await;
    let without = PostgresOptions { embeddings: Embeddings::none(), ..PostgresOptions::new(database.url()) };
    let store = PostgresStore::open(without).await.unwrap();
    store.remember(&ann(), note(CAR), at(1)).await.unwrap();
    store.close(Duration::from_secs(5)).await;
    let store = PostgresStore::open(PostgresOptions::new(database.url())).await.unwrap();
    let elsewhere = scope("b", "ann");
    let (before, others) =
        (store.generation(&ann()).await.unwrap(), store.generation(&elsewhere).await.unwrap());
    let ask = async || {
        let query = MemoryQuery { text: "where did I leave my car".to_owned(), ..MemoryQuery::default() };
        let (found, notes) = accounted(store.search(&ann(), query, at(2))).await;
        (found.unwrap().hits.len(), notes)
    };
    // It begins half a second after the opening.
    assert_eq!(ask().await, (0, vec!["embeddings: words alone".to_owned()]));
    let found = async { while ask().await != (1, Vec::new()) {} };
    timeout(Duration::from_mins(1), found).await.unwrap();
    assert_ne!(store.generation(&ann()).await.unwrap(), before, "its searches find more");
    assert_eq!(store.generation(&elsewhere).await.unwrap(), others, "others' do not");
    // Another process stores one without: it is told of at once, and made up for.
    let without = PostgresOptions { embeddings: Embeddings::none(), ..PostgresOptions::new(database.url()) };
    let other = PostgresStore::open(without).await.unwrap();
    other.remember(&ann(), note("The car keys are in the drawer"), at(2)).await.unwrap();
    assert_eq!(ask().await.1, ["embeddings: some memories have no vector yet"]);
    let found = async { while ask().await != (2, Vec::new()) {} };
    timeout(Duration::from_mins(1), found).await.unwrap();
    for store in [store, other] {
        store.close(Duration::from_secs(5)).await;
    }
}
