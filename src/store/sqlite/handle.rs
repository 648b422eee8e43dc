//! Sessions and results behind handles. Only a handle's hash is stored, and every statement asks for the project and
//! the principal that it is bound to: unknown, expired and foreign are one case.

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Map, Value};
use sqlx::{FromRow, Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    Readers,
    fault::Fault,
    view::{View, time},
    writer::Write,
};
use crate::{
    limits::StoreLimits,
    store::{StoreError, StoredResult, rules},
};

/// Expired rows that one write clears away at most.
const CLEARED_MAX: i64 = 64;

fn microseconds(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, sqlx::Error> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// Where a handle leads.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Bound {
    pub(super) hash: Vec<u8>,
    pub(super) realm: String,
    pub(super) principal: String,
}

impl Bound {
    pub(super) fn new(view: &View, hash: Vec<u8>) -> Self {
        Self { hash, realm: view.realm.clone(), principal: view.principal.clone() }
    }
}

/// Keeps a new session.
pub(super) struct OpenSession {
    pub(super) bound: Bound,
    pub(super) limits: StoreLimits,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Write for OpenSession {
    type Output = ();

    async fn apply(&self, tx: &mut SqliteConnection) -> Result<(), Fault> {
        let now = self.now.as_microsecond();
        sqlx::query(
            "DELETE FROM session WHERE rowid IN (SELECT rowid FROM session WHERE touched <= ?1 LIMIT ?2)",
        )
        .bind(now.saturating_sub(microseconds(self.limits.session_idle)))
        .bind(CLEARED_MAX)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "INSERT INTO session (handle_hash, realm, principal, opened, touched, scratch) \
             VALUES (?1, ?2, ?3, ?4, ?4, '{}')",
        )
        .bind(&self.bound.hash)
        .bind(&self.bound.realm)
        .bind(&self.bound.principal)
        .bind(now)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "DELETE FROM session WHERE realm = ?1 AND handle_hash <> ?3 AND rowid IN \
             (SELECT rowid FROM session WHERE realm = ?1 ORDER BY touched DESC, rowid DESC LIMIT -1 OFFSET ?2)",
        )
        .bind(&self.bound.realm)
        .bind(i64::try_from(self.limits.handles_per_project_max).unwrap_or(i64::MAX))
        .bind(&self.bound.hash)
        .execute(tx)
        .await?;
        Ok(())
    }
}

/// A session's scratch, and when the session was last used.
struct Session {
    scratch: String,
    touched: i64,
}

const SESSION: &str = "SELECT scratch, touched FROM session \
    WHERE handle_hash = ?1 AND realm = ?2 AND principal = ?3 AND touched > ?4";

async fn session<'c>(
    from: impl sqlx::SqliteExecutor<'c>,
    bound: &Bound,
    limits: &StoreLimits,
    now: Timestamp,
) -> Result<Session, Fault> {
    let row = sqlx::query(SESSION)
        .bind(&bound.hash)
        .bind(&bound.realm)
        .bind(&bound.principal)
        .bind(now.as_microsecond().saturating_sub(microseconds(limits.session_idle)))
        .fetch_optional(from)
        .await?
        .ok_or(StoreError::UnknownHandle)?;
    Ok(Session { scratch: row.try_get(0)?, touched: row.try_get(1)? })
}

/// The scratch, and whether the session must be touched: it counts as used at most a minute (for a short idle time, a
/// thousandth of it) before it really was, so that reads seldom write.
pub(super) async fn scratch(
    pool: &Readers,
    bound: &Bound,
    limits: &StoreLimits,
    now: Timestamp,
) -> Result<(Map<String, Value>, bool), Fault> {
    let session = session(&mut *pool.get().await?, bound, limits, now).await?;
    let unused = now.as_microsecond().saturating_sub(session.touched);
    Ok((parse(&session.scratch)?, unused > (microseconds(limits.session_idle) / 1_000).min(60_000_000)))
}

/// Changes a session: its time, and one value where there is one.
pub(super) struct UseSession {
    pub(super) bound: Bound,
    pub(super) change: Option<(String, Value)>,
    pub(super) limits: StoreLimits,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Write for UseSession {
    type Output = ();

    async fn apply(&self, tx: &mut SqliteConnection) -> Result<(), Fault> {
        let session = session(&mut *tx, &self.bound, &self.limits, self.now).await?;
        let scratch = match &self.change {
            None => session.scratch,
            Some((key, value)) => {
                rules::changed_scratch(parse(&session.scratch)?, key, value.clone(), &self.limits)?
            }
        };
        sqlx::query("UPDATE session SET touched = max(touched, ?2), scratch = ?3 WHERE handle_hash = ?1")
            .bind(&self.bound.hash)
            .bind(self.now.as_microsecond())
            .bind(scratch)
            .execute(tx)
            .await?;
        Ok(())
    }
}

/// Ends a session.
pub(super) struct CloseSession {
    pub(super) bound: Bound,
    pub(super) limits: StoreLimits,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Write for CloseSession {
    type Output = bool;

    async fn apply(&self, tx: &mut SqliteConnection) -> Result<bool, Fault> {
        match session(&mut *tx, &self.bound, &self.limits, self.now).await {
            Err(Fault::Refused(_)) => return Ok(false),
            other => other?,
        };
        sqlx::query("DELETE FROM session WHERE handle_hash = ?1").bind(&self.bound.hash).execute(tx).await?;
        Ok(true)
    }
}

/// Notes that a session of a transport was ended.
pub(super) struct EndSession {
    pub(super) bound: Bound,
    pub(super) expires: Timestamp,
    pub(super) limits: StoreLimits,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Write for EndSession {
    type Output = ();

    async fn apply(&self, tx: &mut SqliteConnection) -> Result<(), Fault> {
        sqlx::query(
            "DELETE FROM ended_session WHERE name_hash IN \
             (SELECT name_hash FROM ended_session WHERE expires <= ?1 LIMIT ?2)",
        )
        .bind(self.now.as_microsecond())
        .bind(CLEARED_MAX)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "INSERT INTO ended_session (name_hash, realm, principal, expires) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (name_hash) DO NOTHING",
        )
        .bind(&self.bound.hash)
        .bind(&self.bound.realm)
        .bind(&self.bound.principal)
        .bind(self.expires.as_microsecond())
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "DELETE FROM ended_session WHERE name_hash <> ?3 AND name_hash IN (SELECT name_hash FROM ended_session \
             WHERE realm = ?1 ORDER BY expires DESC LIMIT -1 OFFSET ?2)",
        )
        .bind(&self.bound.realm)
        .bind(i64::try_from(self.limits.handles_per_project_max).unwrap_or(i64::MAX))
        .bind(&self.bound.hash)
        .execute(tx)
        .await?;
        Ok(())
    }
}

/// Whether that was noted.
pub(super) async fn is_ended(pool: &Readers, bound: &Bound, now: Timestamp) -> Result<bool, sqlx::Error> {
    let ended = "SELECT EXISTS (SELECT 1 FROM ended_session \
                 WHERE name_hash = ?1 AND realm = ?2 AND principal = ?3 AND expires > ?4)";
    told(pool, ended, bound, now).await
}

/// What `statement` says of a handle at `now`.
async fn told<T>(
    pool: &Readers,
    statement: &'static str,
    bound: &Bound,
    now: Timestamp,
) -> Result<T, sqlx::Error>
where
    (T,): for<'r> FromRow<'r, SqliteRow>,
    T: Send + Unpin,
{
    sqlx::query_scalar(statement)
        .bind(&bound.hash)
        .bind(&bound.realm)
        .bind(&bound.principal)
        .bind(now.as_microsecond())
        .fetch_one(&mut *pool.get().await?)
        .await
}

/// Keeps a result.
pub(super) struct PutResult {
    pub(super) bound: Bound,
    pub(super) pattern: String,
    pub(super) value: String,
    pub(super) limits: StoreLimits,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Write for PutResult {
    type Output = ();

    async fn apply(&self, tx: &mut SqliteConnection) -> Result<(), Fault> {
        let now = self.now.as_microsecond();
        sqlx::query("DELETE FROM result WHERE seq IN (SELECT seq FROM result WHERE expires <= ?1 LIMIT ?2)")
            .bind(now)
            .bind(CLEARED_MAX)
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "INSERT INTO result (handle_hash, realm, principal, expires, pattern, value) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )
        .bind(&self.bound.hash)
        .bind(&self.bound.realm)
        .bind(&self.bound.principal)
        .bind(now.saturating_add(microseconds(self.limits.handle_ttl)))
        .bind(&self.pattern)
        .bind(&self.value)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "DELETE FROM result WHERE realm = ?1 AND seq <= \
             (SELECT seq FROM result WHERE realm = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
        )
        .bind(&self.bound.realm)
        .bind(i64::try_from(self.limits.handles_per_project_max).unwrap_or(i64::MAX))
        .execute(tx)
        .await?;
        Ok(())
    }
}

/// The result behind a handle.
pub(super) async fn result(pool: &Readers, bound: &Bound, now: Timestamp) -> Result<StoredResult, Fault> {
    let row = sqlx::query(
        "SELECT pattern, value FROM result \
         WHERE handle_hash = ?1 AND realm = ?2 AND principal = ?3 AND expires > ?4",
    )
    .bind(&bound.hash)
    .bind(&bound.realm)
    .bind(&bound.principal)
    .bind(now.as_microsecond())
    .fetch_optional(&mut *pool.get().await?)
    .await?
    .ok_or(StoreError::UnknownHandle)?;
    Ok(StoredResult { pattern: row.try_get(0)?, value: parse(row.try_get(1)?)? })
}

/// Until when the result behind a handle is there, where there is one at `now`.
pub(super) async fn result_expires(
    pool: &Readers,
    bound: &Bound,
    now: Timestamp,
) -> Result<Option<Timestamp>, sqlx::Error> {
    let expires = "SELECT max(expires) FROM result \
                   WHERE handle_hash = ?1 AND realm = ?2 AND principal = ?3 AND expires > ?4";
    let expires: Option<i64> = told(pool, expires, bound, now).await?;
    expires.map(time).transpose()
}

/// Keeps `fresh` as the state key unless there is one, and returns the one there is.
pub(super) struct StateKey {
    pub(super) fresh: [u8; 32],
}

#[async_trait]
impl Write for StateKey {
    type Output = [u8; 32];

    async fn apply(&self, tx: &mut SqliteConnection) -> Result<[u8; 32], Fault> {
        sqlx::query("INSERT INTO meta (key, value) VALUES ('state_key', ?1) ON CONFLICT (key) DO NOTHING")
            .bind(self.fresh.as_slice())
            .execute(&mut *tx)
            .await?;
        Ok(state_key(tx).await?.ok_or(sqlx::Error::RowNotFound)?)
    }
}

/// The state key, where one was made.
pub(super) async fn state_key<'c>(
    from: impl sqlx::SqliteExecutor<'c>,
) -> Result<Option<[u8; 32]>, sqlx::Error> {
    let bytes: Option<Vec<u8>> =
        sqlx::query_scalar("SELECT value FROM meta WHERE key = 'state_key'").fetch_optional(from).await?;
    bytes
        .map(|bytes| {
            bytes.try_into().map_err(|_| sqlx::Error::Decode("the state key is not 32 bytes".into()))
        })
        .transpose()
}
