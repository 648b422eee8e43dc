//! The second wall: what the store's own role gets to see of the tables, whatever it asks, is what the settings of its
//! transaction name, and without settings nothing. The first wall, the conditions of every statement, is tested by the
//! contract and the model, also where this one does not hold.

use std::{collections::BTreeSet, time::Duration};

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tmws::{
    revision::Era,
    scope::{ProjectId, Scope},
    store::{NewMemory, NewTask, PostgresOptions, PostgresStore, Store, StoredResult, Visibility},
};

use crate::{
    store::contract::{at, note, scope},
    store_contract::{connect_walled, free, walled},
};

/// Tables of ours that hold what belongs to somebody, and the setting that opens each.
const WALLED: [(&str, &str, &str); 7] = [
    ("memory", "reader", "tmws.readers"),
    ("memory_vector", "reader", "tmws.readers"),
    ("tombstone", "reader", "tmws.readers"),
    ("session", "realm", "tmws.realm"),
    ("ended_session", "realm", "tmws.realm"),
    ("result", "realm", "tmws.realm"),
    ("task", "owner", "tmws.owner"),
];

/// Tables without a wall: nothing of what somebody stored stands in them, but for the words of `memory_text`, which are
/// read joined with `memory` alone (an index on words is not used under row-level security).
const OPEN: [&str; 5] = ["embedding_model", "generation", "memory_text", "meta", "schema_version"];

async fn fill(store: &dyn Store) {
    for (project, principal, agent) in [
        ("a", "ann", "x"),
        ("a", "bob", "y"),
        ("b", "ann", "x"),
        ("personal", "ann", "x"),
        ("personal", "bob", "x"),
    ] {
        let scope = Scope::mint(ProjectId::parse(project).unwrap(), principal, agent, Some("one"));
        for visibility in [Visibility::Session, Visibility::Agent, Visibility::Project, Visibility::Shared] {
            let new = NewMemory {
                visibility,
                tags: vec!["tag".to_owned()],
                ..note(&format!("{project} {principal} {visibility:?}"))
            };
            store.remember(&scope, new, at(1)).await.unwrap();
        }
        let gone = store.remember(&scope, note(&format!("gone {project} {principal}")), at(1)).await.unwrap();
        store.forget(&scope, &[gone.memory.id], at(2)).await.unwrap();
        store.open_session(&scope, at(1)).await.unwrap();
        store.end_session(&scope, &format!("{project} {principal}"), at(100), at(1)).await.unwrap();
        let result = StoredResult { pattern: "p@1".to_owned(), value: json!({"of": principal}) };
        store.put_result(&scope, result, at(1)).await.unwrap();
        let task = NewTask {
            id: format!("t_{project}_{principal}"),
            era: Era::Modern,
            body: json!({}),
            expires: at(100),
            lease: at(50),
        };
        store.put_task(&scope, task, 10, at(1)).await.unwrap();
    }
}

async fn words(connection: &mut PgConnection, sql: &str) -> BTreeSet<String> {
    let words: Vec<String> =
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(connection).await.unwrap();
    words.into_iter().collect()
}

async fn count(connection: &mut PgConnection, table: &str) -> i64 {
    let sql = AssertSqlSafe(format!("SELECT count(*) FROM tmws.{table}"));
    sqlx::query_scalar(sql).fetch_one(connection).await.unwrap()
}

#[tokio::test]
async fn the_stores_role_sees_nothing_without_settings_and_with_them_what_they_name() {
    let (database, store) = walled().await;
    fill(&*store).await;
    let mut admin = database.connect().await;
    let mut role = connect_walled(&database).await;
    for (table, column, setting) in WALLED {
        let all = words(&mut admin, &format!("SELECT DISTINCT {column} FROM tmws.{table}")).await;
        // The vectors of the model may not be there yet.
        assert!(all.len() > 2 || table == "memory_vector", "{table} holds {all:?}");
        assert_eq!(count(&mut role, table).await, 0, "{table} without settings");
        for one in &all {
            let mut transaction = role.begin().await.unwrap();
            sqlx::query("SELECT set_config($1, $2, true)")
                .bind(setting)
                .bind(one)
                .execute(&mut *transaction)
                .await
                .unwrap();
            let seen = words(&mut transaction, &format!("SELECT {column} FROM tmws.{table}")).await;
            assert_eq!(seen, BTreeSet::from([one.clone()]), "{table} where {setting} is {one}");
            let sql = AssertSqlSafe(format!("DELETE FROM tmws.{table} WHERE {column} <> '{one}'"));
            let deleted = sqlx::query(sql).execute(&mut *transaction).await.unwrap().rows_affected();
            assert_eq!(deleted, 0, "{table}: what is not seen is not changed");
            transaction.rollback().await.unwrap();
        }
        assert_eq!(count(&mut role, table).await, 0, "{table} after the transaction");
    }
    store.close(Duration::from_secs(5)).await;
}

#[tokio::test]
async fn a_row_cannot_be_written_for_somebody_else() {
    let (database, store) = walled().await;
    fill(&*store).await;
    let mut role = connect_walled(&database).await;
    let readers = words(&mut database.connect().await, "SELECT DISTINCT reader FROM tmws.memory").await;
    let mut readers = readers.into_iter();
    let (own, other) = (readers.next().unwrap(), readers.next().unwrap());
    let mut transaction = role.begin().await.unwrap();
    sqlx::query("SELECT set_config('tmws.readers', $1, true)")
        .bind(&own)
        .execute(&mut *transaction)
        .await
        .unwrap();
    let error = sqlx::query("UPDATE tmws.memory SET reader = $1")
        .bind(&other)
        .execute(&mut *transaction)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("row-level security"), "{error}");
}

#[tokio::test]
async fn every_table_that_holds_what_belongs_to_somebody_is_walled() {
    let (database, _store) = walled().await;
    let mut admin = database.connect().await;
    let tables = |wall: &str| {
        format!(
            "SELECT relname::text FROM pg_class WHERE relnamespace = 'tmws'::regnamespace AND relkind IN ('r', 'p') \
             AND {wall} (relrowsecurity AND relforcerowsecurity)"
        )
    };
    let walled: BTreeSet<String> = WALLED.iter().map(|(table, ..)| (*table).to_owned()).collect();
    assert_eq!(words(&mut admin, &tables("")).await, walled);
    let open = words(&mut admin, &tables("NOT")).await;
    assert!(open.iter().all(|table| OPEN.contains(&table.as_str())), "{open:?}");
}

/// A store that logs in as a superuser works as a role of its own, so that the wall stands all the same.
#[tokio::test]
async fn a_superuser_is_walled_in_too() {
    let (database, store) = walled().await;
    fill(&*store).await;
    store.close(Duration::from_secs(5)).await;
    let options = PostgresOptions { connections_max: 2, ..PostgresOptions::new(database.url()) };
    let store = PostgresStore::open(options).await.unwrap();
    store.remember(&scope("a", "ann"), note("by a superuser"), at(3)).await.unwrap();
    let mut admin = database.connect().await;
    let role: String =
        sqlx::query_scalar("SELECT 'tmws_' || oid FROM pg_database WHERE datname = current_database()")
            .fetch_one(&mut admin)
            .await
            .unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("SET ROLE {role}"))).execute(&mut admin).await.unwrap();
    for (table, ..) in WALLED {
        assert_eq!(count(&mut admin, table).await, 0, "{table}");
    }
}

/// Otherwise the tests above say nothing.
#[tokio::test]
async fn row_level_security_holds_one_role_of_the_tests_and_not_the_other() {
    for (is_free, (database, store)) in [(false, walled().await), (true, free().await)] {
        fill(&*store).await;
        let roles = "SELECT count(*) FROM pg_stat_activity a JOIN pg_roles r ON r.rolname = a.usename \
                     WHERE a.datname = $1 AND a.application_name = 'tmws' AND (r.rolsuper OR r.rolbypassrls)";
        assert_eq!(database.value(roles).await > 0, is_free);
    }
}
