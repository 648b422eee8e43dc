//! Tasks. Every statement asks for the owner (project and principal) and the era that a task belongs to: unknown,
//! expired, foreign and of the other era are one case.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::{PgConnection, Row as _, postgres::PgRow};

use super::{
    fault::Fault,
    handle::CLEARED_MAX,
    row::time,
    transaction::{Database, Write},
};
use crate::{
    revision::Era,
    store::{
        StoreError, StoredTask, TaskWrite,
        view::{self, View},
    },
};

const fn era_text(era: Era) -> &'static str {
    match era {
        Era::Legacy => "legacy",
        Era::Modern => "modern",
    }
}

/// Whose tasks.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) view: View,
    hash: String,
    era: &'static str,
}

impl Owner {
    pub(super) fn new(view: View, era: Era) -> Self {
        Self { hash: view::owner(&view), view, era: era_text(era) }
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

    async fn apply(&self, tx: &mut PgConnection) -> Result<(), Fault> {
        // One after another: each looks how many there are and takes the oldest away.
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended('tasks ' || $1, 0))")
            .bind(&self.owner.hash)
            .execute(&mut *tx)
            .await?;
        sqlx::query("SELECT tmws.purge_task($1, $2)")
            .bind(self.now.as_microsecond())
            .bind(CLEARED_MAX)
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "INSERT INTO tmws.task (id, owner, era, is_final, expires, lease, body) \
             VALUES ($1, $2, $3, false, $4, $5, $6)",
        )
        .bind(&self.id)
        .bind(&self.owner.hash)
        .bind(self.owner.era)
        .bind(self.expires.as_microsecond())
        .bind(self.lease.as_microsecond())
        .bind(&self.body)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "DELETE FROM tmws.task WHERE seq IN (SELECT seq FROM tmws.task WHERE owner = $1 AND is_final \
             ORDER BY seq LIMIT greatest(0, (SELECT count(*) FROM tmws.task WHERE owner = $1) - $2))",
        )
        .bind(&self.owner.hash)
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

    async fn apply(&self, tx: &mut PgConnection) -> Result<TaskWrite, Fault> {
        // Where another changes it just now, this waits for that and looks again.
        let changed = sqlx::query(
            "UPDATE tmws.task SET body = $5, is_final = $6, lease = $7 WHERE id = $1 AND owner = $2 \
             AND era = $3 AND expires > $4 AND NOT is_final AND (NOT $8 OR lease <= $4)",
        )
        .bind(&self.id)
        .bind(&self.owner.hash)
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

fn stored(row: &PgRow) -> Result<StoredTask, sqlx::Error> {
    let body: &str = row.try_get(0)?;
    Ok(StoredTask {
        body: serde_json::from_str(body).map_err(|error| sqlx::Error::Decode(Box::new(error)))?,
        is_final: row.try_get(1)?,
        lease: time(row.try_get(2)?)?,
    })
}

async fn task(
    tx: &mut PgConnection,
    owner: &Owner,
    id: &str,
    now: Timestamp,
) -> Result<Option<StoredTask>, sqlx::Error> {
    let row = sqlx::query(
        "SELECT body, is_final, lease FROM tmws.task \
         WHERE id = $1 AND owner = $2 AND era = $3 AND expires > $4",
    )
    .bind(id)
    .bind(&owner.hash)
    .bind(owner.era)
    .bind(now.as_microsecond())
    .fetch_optional(tx)
    .await?;
    row.map(|row| stored(&row)).transpose()
}

/// One task.
pub(super) async fn get(
    database: &Database,
    owner: &Owner,
    id: &str,
    now: Timestamp,
) -> Result<Option<StoredTask>, StoreError> {
    let mut tx = database.read(&owner.view).await?;
    task(&mut tx, owner, id, now).await.map_err(|error| database.told(error))
}

/// All tasks of the owner, newest first.
pub(super) async fn list(
    database: &Database,
    owner: &Owner,
    now: Timestamp,
) -> Result<Vec<StoredTask>, StoreError> {
    let mut tx = database.read(&owner.view).await?;
    let rows = sqlx::query(
        "SELECT body, is_final, lease FROM tmws.task \
         WHERE owner = $1 AND era = $2 AND expires > $3 ORDER BY seq DESC",
    )
    .bind(&owner.hash)
    .bind(owner.era)
    .bind(now.as_microsecond())
    .fetch_all(&mut *tx)
    .await;
    let rows = rows.map_err(|error| database.told(error))?;
    rows.iter().map(stored).collect::<Result<_, _>>().map_err(|error| database.told(error))
}
