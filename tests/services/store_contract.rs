//! The contract of stores, and the model of it, on PostgreSQL: each check in a database of its own, copied from one that was
//! made once. Each runs twice: as a role that row-level security walls in, and as one that it does not hold, so that each
//! of the two walls is seen to stand alone.

use std::{sync::Arc, time::Duration};

use sqlx::{Connection as _, PgConnection};
use tmws::store::{PostgresOptions, PostgresStore, Store};
use tokio::sync::OnceCell;

use crate::{
    postgres::{Database, run},
    store::{contract::contract, model},
};

/// What the databases are copied from.
struct Template {
    name: String,
    /// Owns what is in them; row-level security holds it.
    walled: String,
    /// May do the same, and row-level security does not hold it.
    free: String,
}

/// Not so that it had to be encoded in an address: `pg_dump` and we would read that differently.
pub(crate) const PASSWORD: &str = "in-here-only";

async fn template() -> &'static Template {
    static MADE: OnceCell<Template> = OnceCell::const_new();
    MADE.get_or_init(|| async {
        let database = Database::new("CREATE EXTENSION vector").await;
        let walled = format!("walled_{}", database.name);
        let free = format!("free_{}", database.name);
        let mut admin = database.connect().await;
        run(
            &mut admin,
            &format!(
                "CREATE ROLE {walled} LOGIN PASSWORD '{PASSWORD}'; ALTER DATABASE {} OWNER TO {walled}; \
                 CREATE ROLE {free} LOGIN BYPASSRLS PASSWORD '{PASSWORD}' IN ROLE {walled}",
                database.name
            ),
        )
        .await;
        admin.close().await.unwrap();
        let store = PostgresStore::open(options(&database, &walled)).await.unwrap();
        store.close(Duration::from_secs(5)).await;
        // A database that somebody is connected to cannot be copied.
        database.wait_until_unused().await;
        Template { name: database.name, walled, free }
    })
    .await
}

fn options(database: &Database, role: &str) -> PostgresOptions {
    PostgresOptions { connections_max: 4, ..PostgresOptions::new(database.url_as(role, PASSWORD)) }
}

/// A database with the newest schema and nothing in it.
pub(crate) async fn fresh() -> Database {
    Database::copied(&template().await.name).await
}

/// A store on it, as the role that row-level security walls in.
pub(crate) async fn walled() -> (Database, Arc<dyn Store>) {
    let database = fresh().await;
    let store = PostgresStore::open(walled_options(&database).await).await.unwrap();
    (database, store)
}

pub(crate) async fn walled_options(database: &Database) -> PostgresOptions {
    options(database, &template().await.walled)
}

/// A store on it, as a role that row-level security does not hold: what a scope sees is up to the statements alone.
pub(crate) async fn free() -> (Database, Arc<dyn Store>) {
    let database = fresh().await;
    let store = PostgresStore::open(options(&database, &template().await.free)).await.unwrap();
    (database, store)
}

/// A connection with the rights of the store's own role.
pub(crate) async fn connect_walled(database: &Database) -> PgConnection {
    PgConnection::connect(&database.url_as(&template().await.walled, PASSWORD)).await.unwrap()
}

contract!(on_postgres, super::walled);
contract!(on_postgres_without_row_level_security, super::free);

#[test]
fn every_scope_sees_exactly_what_the_model_says() {
    model::every_scope_sees_exactly_what_the_model_says(2, walled);
}

#[test]
fn every_scope_sees_exactly_what_the_model_says_where_row_level_security_does_not_hold() {
    model::every_scope_sees_exactly_what_the_model_says(2, free);
}
