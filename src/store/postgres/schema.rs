//! The schema `tmws`: which version is there, and bringing it to the newest.

use std::borrow::Cow;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::fault::{Fault, unsuitable};
use crate::store::{Place, StoreError};

/// The migrations by the version that they lead to, oldest first. A released one never changes.
const MIGRATIONS: &[(i64, &str)] = &[(1, include_str!("../migrations/postgres/0001_memory.sql"))];
/// The version that this binary writes and knows.
pub(super) const VERSION: i64 = MIGRATIONS[MIGRATIONS.len() - 1].0;
/// What everyone locks who makes or changes the schema: "TMWS".
pub(super) const LOCK: i64 = 0x544D_5753;

/// The version of the schema that is there: 0 where there is none, or an empty one.
pub(super) async fn version(connection: &mut PgConnection, place: &Place) -> Result<i64, Fault> {
    let (has_version, has_tables): (bool, bool) = sqlx::query_as(
        "SELECT to_regclass('tmws.schema_version') IS NOT NULL, EXISTS (SELECT FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'tmws')",
    )
    .fetch_one(&mut *connection)
    .await?;
    if !has_version {
        return if has_tables { Err(StoreError::Corrupt { place: place.clone() }.into()) } else { Ok(0) };
    }
    let found: Option<i64> =
        sqlx::query_scalar("SELECT max(version) FROM tmws.schema_version").fetch_one(connection).await?;
    match found {
        Some(found) if found > VERSION => {
            Err(StoreError::NewerVersion { place: place.clone(), found, known: VERSION }.into())
        }
        Some(found) if found > 0 => Ok(found),
        _ => Err(StoreError::Corrupt { place: place.clone() }.into()),
    }
}

/// Brings the schema to the newest version in one transaction, unless another process did so meanwhile.
pub(super) async fn migrate(connection: &mut PgConnection, place: &Place) -> Result<(), Fault> {
    let mut transaction = connection.begin().await?;
    // Whoever waits here may wait for a migration of much data.
    sqlx::raw_sql("SET LOCAL lock_timeout = '10min'; SET LOCAL statement_timeout = 0")
        .execute(&mut *transaction)
        .await?;
    sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *transaction).await?;
    let found = version(&mut transaction, place).await?;
    if found == VERSION {
        transaction.commit().await?;
        return Ok(());
    }
    if found == 0 {
        extension(&mut transaction, place).await?;
        let is_made: bool = sqlx::query_scalar("SELECT to_regnamespace('tmws') IS NOT NULL")
            .fetch_one(&mut *transaction)
            .await?;
        if !is_made {
            sqlx::raw_sql("CREATE SCHEMA tmws").execute(&mut *transaction).await?;
        }
        sqlx::raw_sql(
            "CREATE TABLE tmws.schema_version (version bigint PRIMARY KEY, \
             applied timestamptz NOT NULL DEFAULT now())",
        )
        .execute(&mut *transaction)
        .await?;
    }
    for (version, sql) in MIGRATIONS.iter().filter(|(version, _)| *version > found) {
        sqlx::raw_sql(AssertSqlSafe((*sql).to_owned())).execute(&mut *transaction).await?;
        sqlx::query("INSERT INTO tmws.schema_version (version) VALUES ($1)")
            .bind(version)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// Makes the extension where it is not there yet.
async fn extension(connection: &mut PgConnection, place: &Place) -> Result<(), Fault> {
    let made = sqlx::raw_sql("CREATE EXTENSION IF NOT EXISTS vector").execute(connection).await;
    let Err(error) = made else { return Ok(()) };
    let state = error.as_database_error().and_then(|error| error.code().map(Cow::into_owned));
    Err(match state.as_deref() {
        Some("0A000" | "58P01") => unsuitable(
            place,
            "the extension pgvector is not installed on the server: install it there (Debian and Ubuntu: package \
             postgresql-NN-pgvector, NN being the server's version), 0.7 or newer",
        )
        .into(),
        Some("42501") => unsuitable(
            place,
            "the extension pgvector is not there, and the role in TMWS_DATABASE_URL may not make it: have an \
             administrator run CREATE EXTENSION vector in this database",
        )
        .into(),
        _ => error.into(),
    })
}
