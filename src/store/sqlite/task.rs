//! Tasks. Every statement asks for the project, the principal and the era that a task belongs to: unknown, expired,
//! foreign and of the other era are one case.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::{Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{Readers, fault::Fault, view::View, writer::Write};
use crate::{
    revision::Era,
    store::{StoredTask, TaskWrite},
};

/// Expired rows that one write clears away at most.
const CLEARED_MAX: i64 = 64;

const fn era_text(era: Era) -> &'static str {
    match era {
        Era::Legacy => "legacy",
        Era::Modern => "modern",
    }
}

/// Whose tasks.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    realm: String,
    principal: String,
    era: &'static str,
}

impl Owner {
    pub(super) fn new(view: &View, era: Era) -> Self {
        Self { realm: view.realm.clone(), principal: view.principal.clone(), era: era_text(era) }
    }
}

/// Keeps a new task.
pub(super) struct PutTask {
    pub(super) owner: Owner,
    pub(super) id: String,
    pub(super) body: String,
    pub(super) expires: Timestamp,
    pub(super) lease: Timestamp,
    /// Tasks of the principal in the project, of either era.
    pub(super) most: usize,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Write for PutTask {
    type Output = ();

    async fn apply(&self, tx: &mut SqliteConnection) -> Result<(), Fault> {
        sqlx::query("DELETE FROM task WHERE seq IN (SELECT seq FROM task WHERE expires <= ?1 LIMIT ?2)")
            .bind(self.now.as_microsecond())
            .bind(CLEARED_MAX)
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "INSERT INTO task (id, realm, principal, era, is_final, expires, lease, body) \
             VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6, ?7)",
        )
        .bind(&self.id)
        .bind(&self.owner.realm)
        .bind(&self.owner.principal)
        .bind(self.owner.era)
        .bind(self.expires.as_microsecond())
        .bind(self.lease.as_microsecond())
        .bind(&self.body)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "DELETE FROM task WHERE seq IN (SELECT seq FROM task \
             WHERE realm = ?1 AND principal = ?2 AND is_final = 1 ORDER BY seq LIMIT max(0, \
             (SELECT count(*) FROM task WHERE realm = ?1 AND principal = ?2) - ?3))",
        )
        .bind(&self.owner.realm)
        .bind(&self.owner.principal)
        .bind(i64::try_from(self.most).unwrap_or(i64::MAX))
        .execute(tx)
        .await?;
        Ok(())
    }
}

/// Changes a task that is not final.
pub(super) struct ChangeTask {
    pub(super) owner: Owner,
    pub(super) id: String,
    pub(super) body: String,
    pub(super) is_final: bool,
    pub(super) lease: Timestamp,
    pub(super) only_abandoned: bool,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Write for ChangeTask {
    type Output = TaskWrite;

    async fn apply(&self, tx: &mut SqliteConnection) -> Result<TaskWrite, Fault> {
        let changed = sqlx::query(
            "UPDATE task SET body = ?6, is_final = ?7, lease = ?8 WHERE id = ?1 AND realm = ?2 AND principal = ?3 \
             AND era = ?4 AND expires > ?5 AND is_final = 0 AND (?9 = 0 OR lease <= ?5)",
        )
        .bind(&self.id)
        .bind(&self.owner.realm)
        .bind(&self.owner.principal)
        .bind(self.owner.era)
        .bind(self.now.as_microsecond())
        .bind(&self.body)
        .bind(self.is_final)
        .bind(self.lease.as_microsecond())
        .bind(self.only_abandoned)
        .execute(&mut *tx)
        .await?;
        if changed.rows_affected() > 0 {
            return Ok(TaskWrite::Written);
        }
        let there = task(tx, &self.owner, &self.id, self.now).await?;
        Ok(there.map_or(TaskWrite::Gone, TaskWrite::Kept))
    }
}

fn stored(row: &SqliteRow) -> Result<StoredTask, sqlx::Error> {
    let body: &str = row.try_get(0)?;
    Ok(StoredTask {
        body: serde_json::from_str(body).map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
        is_final: row.try_get(1)?,
        lease: Timestamp::from_microsecond(row.try_get(2)?)
            .map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
    })
}

async fn task<'c>(
    from: impl sqlx::SqliteExecutor<'c>,
    owner: &Owner,
    id: &str,
    now: Timestamp,
) -> Result<Option<StoredTask>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT body, is_final, lease FROM task \
         WHERE id = ?1 AND realm = ?2 AND principal = ?3 AND era = ?4 AND expires > ?5",
    )
    .bind(id)
    .bind(&owner.realm)
    .bind(&owner.principal)
    .bind(owner.era)
    .bind(now.as_microsecond())
    .fetch_optional(from)
    .await?;
    row.map(|row| stored(&row)).transpose()
}

/// One task.
pub(super) async fn get(
    pool: &Readers,
    owner: &Owner,
    id: &str,
    now: Timestamp,
) -> Result<Option<StoredTask>, sqlx::Error> {
    task(&mut *pool.get().await?, owner, id, now).await
}

/// All tasks of the owner, newest first.
pub(super) async fn list(
    pool: &Readers,
    owner: &Owner,
    now: Timestamp,
) -> Result<Vec<StoredTask>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT body, is_final, lease FROM task \
         WHERE realm = ?1 AND principal = ?2 AND era = ?3 AND expires > ?4 ORDER BY seq DESC",
    )
    .bind(&owner.realm)
    .bind(&owner.principal)
    .bind(owner.era)
    .bind(now.as_microsecond())
    .fetch_all(&mut *pool.get().await?)
    .await?;
    rows.iter().map(stored).collect()
}
