//! Sessions and results behind handles. Only a handle's hash is stored, and every statement asks for the project and
//! the principal that it is bound to: unknown, expired and foreign are one case.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Map, Value};
use sqlx::{PgConnection, Row as _};

use super::{
    fault::Fault,
    transaction::{Database, KEPT_PLANS, Write},
};
use crate::{
    limits::StoreLimits,
    store::{StoreError, StoredResult, rules, view::View},
};

/// Expired rows that one write clears away at most.
pub(super) const CLEARED_MAX: i32 = 64;

fn microseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, sqlx::Error> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// Where a handle leads.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    pub(super) view: View,
    pub(super) hash: Vec<u8>,
}

/// Writers of one realm's handles come one after another: each looks how many there are and takes the oldest away.
async fn take_turn(tx: &mut PgConnection, realm: &str) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('handles ' || $1, 0))")
        .bind(realm)
        .execute(tx)
        .await?;
    Ok(())
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

    async fn apply(&self, tx: &mut PgConnection) -> Result<(), Fault> {
        let (now, view) = (self.now.as_microsecond(), &self.bound.view);
        take_turn(tx, &view.realm).await?;
        sqlx::query("SELECT tmws.purge_session($1, $2)")
            .bind(now.saturating_sub(microseconds(self.limits.session_idle)))
            .bind(CLEARED_MAX)
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "INSERT INTO tmws.session (handle_hash, realm, principal, opened, touched, scratch) \
             VALUES ($1, $2, $3, $4, $4, '{}')",
        )
        .bind(&self.bound.hash)
        .bind(&view.realm)
        .bind(&view.principal)
        .bind(now)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "DELETE FROM tmws.session WHERE handle_hash <> $3 AND handle_hash IN (SELECT handle_hash \
             FROM tmws.session WHERE realm = $1 ORDER BY touched DESC, seq DESC OFFSET $2)",
        )
        .bind(&view.realm)
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

macro_rules! session {
    ($lock:literal) => {
        concat!(
            "SELECT scratch, touched FROM tmws.session \
             WHERE handle_hash = $1 AND realm = $2 AND principal = $3 AND touched > $4",
            $lock
        )
    };
}

async fn session(
    tx: &mut PgConnection,
    statement: &'static str,
    bound: &Bound,
    limits: &StoreLimits,
    now: Timestamp,
) -> Result<Session, Fault> {
    let row = sqlx::query(statement)
        .bind(&bound.hash)
        .bind(&bound.view.realm)
        .bind(&bound.view.principal)
        .bind(now.as_microsecond().saturating_sub(microseconds(limits.session_idle)))
        .fetch_optional(tx)
        .await?
        .ok_or(StoreError::UnknownHandle)?;
    Ok(Session { scratch: row.try_get(0)?, touched: row.try_get(1)? })
}

/// The scratch, and whether the session must be touched: it counts as used at most a minute (for a short idle time, a
/// thousandth of it) before it really was, so that reads seldom write.
pub(super) async fn scratch(
    database: &Database,
    bound: &Bound,
    limits: &StoreLimits,
    now: Timestamp,
) -> Result<(Map<String, Value>, bool), StoreError> {
    let mut tx = database.read(&bound.view).await?;
    let read = async {
        let session = session(&mut tx, session!(""), bound, limits, now).await?;
        let unused = now.as_microsecond().saturating_sub(session.touched);
        let stale = unused > (microseconds(limits.session_idle) / 1_000).min(60_000_000);
        Ok::<_, Fault>((parse(&session.scratch)?, stale))
    };
    read.await.map_err(|error| database.told(error))
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

    async fn apply(&self, tx: &mut PgConnection) -> Result<(), Fault> {
        let session = session(tx, session!(" FOR UPDATE"), &self.bound, &self.limits, self.now).await?;
        let scratch = match &self.change {
            None => session.scratch,
            Some((key, value)) => {
                rules::changed_scratch(parse(&session.scratch)?, key, value.clone(), &self.limits)?
            }
        };
        sqlx::query(
            "UPDATE tmws.session SET touched = greatest(touched, $2), scratch = $3 WHERE handle_hash = $1",
        )
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

    async fn apply(&self, tx: &mut PgConnection) -> Result<bool, Fault> {
        match session(tx, session!(" FOR UPDATE"), &self.bound, &self.limits, self.now).await {
            Err(Fault::Refused(_)) => return Ok(false),
            other => other?,
        };
        sqlx::query("DELETE FROM tmws.session WHERE handle_hash = $1")
            .bind(&self.bound.hash)
            .execute(tx)
            .await?;
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

    async fn apply(&self, tx: &mut PgConnection) -> Result<(), Fault> {
        let view = &self.bound.view;
        take_turn(tx, &view.realm).await?;
        sqlx::query("SELECT tmws.purge_ended_session($1, $2)")
            .bind(self.now.as_microsecond())
            .bind(CLEARED_MAX)
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "INSERT INTO tmws.ended_session (name_hash, realm, principal, expires) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (name_hash) DO NOTHING",
        )
        .bind(&self.bound.hash)
        .bind(&view.realm)
        .bind(&view.principal)
        .bind(self.expires.as_microsecond())
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "DELETE FROM tmws.ended_session WHERE name_hash <> $3 AND name_hash IN (SELECT name_hash \
             FROM tmws.ended_session WHERE realm = $1 ORDER BY expires DESC OFFSET $2)",
        )
        .bind(&view.realm)
        .bind(i64::try_from(self.limits.handles_per_project_max).unwrap_or(i64::MAX))
        .bind(&self.bound.hash)
        .execute(tx)
        .await?;
        Ok(())
    }
}

/// Whether that was noted.
pub(super) async fn is_ended(database: &Database, bound: &Bound, now: Timestamp) -> Result<bool, StoreError> {
    let ended = "SELECT EXISTS (SELECT FROM tmws.ended_session \
                 WHERE name_hash = $1 AND realm = $2 AND principal = $3 AND expires > $4)";
    holds(database, ended, bound, now).await
}

/// What `statement` says of a handle at `now`.
async fn holds(
    database: &Database,
    statement: &'static str,
    bound: &Bound,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let mut tx = database.read(&bound.view).await?;
    let found = sqlx::query_scalar(statement)
        .bind(&bound.hash)
        .bind(&bound.view.realm)
        .bind(&bound.view.principal)
        .bind(now.as_microsecond())
        .fetch_one(&mut *tx)
        .await;
    found.map_err(|error| database.told(error))
}

/// A result that is to be kept.
pub(super) struct NewResult {
    pub(super) bound: Bound,
    pub(super) pattern: String,
    pub(super) value: String,
    pub(super) now: Timestamp,
}

/// Keeps results of one realm.
pub(super) struct PutResults {
    pub(super) results: Vec<NewResult>,
    pub(super) limits: StoreLimits,
}

impl PutResults {
    /// Keeps them.
    pub(super) async fn put(self, database: &Arc<Database>) -> Result<(), StoreError> {
        let Some(NewResult { bound, .. }) = self.results.first() else { return Ok(()) };
        database.write(&bound.view.clone(), self).await
    }
}

#[async_trait]
impl Write for PutResults {
    type Output = ();

    fn plan(&self) -> &'static str {
        KEPT_PLANS
    }

    async fn apply(&self, tx: &mut PgConnection) -> Result<(), Fault> {
        let Some(NewResult { bound: Bound { view, .. }, .. }) = self.results.first() else { return Ok(()) };
        let each = |of: fn(&NewResult) -> &String| self.results.iter().map(of).collect::<Vec<_>>();
        let times = || self.results.iter().map(|result| result.now.as_microsecond());
        let ttl = microseconds(self.limits.handle_ttl);
        take_turn(tx, &view.realm).await?;
        sqlx::query("SELECT tmws.purge_result($1, $2)")
            .bind(times().max())
            .bind(CLEARED_MAX)
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "INSERT INTO tmws.result (handle_hash, realm, principal, expires, pattern, value) \
             SELECT handle_hash, $2, principal, expires, pattern, value \
             FROM unnest($1::bytea[], $3::text[], $4::int8[], $5::text[], $6::text[]) \
             WITH ORDINALITY g (handle_hash, principal, expires, pattern, value, nth) ORDER BY nth",
        )
        .bind(self.results.iter().map(|result| &result.bound.hash).collect::<Vec<_>>())
        .bind(&view.realm)
        .bind(each(|result| &result.bound.view.principal))
        .bind(times().map(|now| now.saturating_add(ttl)).collect::<Vec<_>>())
        .bind(each(|result| &result.pattern))
        .bind(each(|result| &result.value))
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "DELETE FROM tmws.result WHERE realm = $1 AND seq <= \
             (SELECT seq FROM tmws.result WHERE realm = $1 ORDER BY seq DESC LIMIT 1 OFFSET $2)",
        )
        .bind(&view.realm)
        .bind(i64::try_from(self.limits.handles_per_project_max).unwrap_or(i64::MAX))
        .execute(tx)
        .await?;
        Ok(())
    }
}

/// The result behind a handle.
pub(super) async fn result(
    database: &Database,
    bound: &Bound,
    now: Timestamp,
) -> Result<StoredResult, StoreError> {
    let mut tx = database.read(&bound.view).await?;
    let read = async {
        let row = sqlx::query(
            "SELECT pattern, value FROM tmws.result \
             WHERE handle_hash = $1 AND realm = $2 AND principal = $3 AND expires > $4",
        )
        .bind(&bound.hash)
        .bind(&bound.view.realm)
        .bind(&bound.view.principal)
        .bind(now.as_microsecond())
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::UnknownHandle)?;
        Ok::<_, Fault>(StoredResult { pattern: row.try_get(0)?, value: parse(row.try_get(1)?)? })
    };
    read.await.map_err(|error| database.told(error))
}

/// Whether there is a result behind a handle.
pub(super) async fn has_result(
    database: &Database,
    bound: &Bound,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let kept = "SELECT EXISTS (SELECT FROM tmws.result \
                WHERE handle_hash = $1 AND realm = $2 AND principal = $3 AND expires > $4)";
    holds(database, kept, bound, now).await
}

/// Keeps `fresh` as the state key unless there is one, and returns the one there is.
pub(super) struct StateKey {
    pub(super) fresh: [u8; 32],
}

#[async_trait]
impl Write for StateKey {
    type Output = [u8; 32];

    async fn apply(&self, tx: &mut PgConnection) -> Result<[u8; 32], Fault> {
        sqlx::query(
            "INSERT INTO tmws.meta (key, value) VALUES ('state_key', $1) ON CONFLICT (key) DO NOTHING",
        )
        .bind(self.fresh.as_slice())
        .execute(&mut *tx)
        .await?;
        Ok(stored_state_key(tx).await?.ok_or(sqlx::Error::RowNotFound)?)
    }
}

async fn stored_state_key(tx: &mut PgConnection) -> Result<Option<[u8; 32]>, sqlx::Error> {
    let bytes: Option<Vec<u8>> =
        sqlx::query_scalar("SELECT value FROM tmws.meta WHERE key = 'state_key'").fetch_optional(tx).await?;
    bytes
        .map(|bytes| {
            bytes.try_into().map_err(|_| sqlx::Error::Decode("the state key is not 32 bytes".into()))
        })
        .transpose()
}

/// The state key, where one was made.
pub(super) async fn state_key(database: &Database) -> Result<Option<[u8; 32]>, StoreError> {
    let mut tx = database.read(super::transaction::Wall::Whole).await?;
    stored_state_key(&mut tx).await.map_err(|error| database.told(error))
}
