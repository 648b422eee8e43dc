//! Writes of memories.

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::{Row as _, SqliteConnection};

use super::{
    fault::Fault,
    view::{View, audience, columns, live, memory, realm, tags_text, trust_text, visibility_text},
    writer::Write,
};
use crate::{
    limits::StoreLimits,
    store::{
        Forgotten, ImportReport, Memory, MemoryChange, StoreError, Visibility,
        rules::{Draft, content_hash, may_supersede, normal_tags},
        terms::index_words,
    },
};

/// Expired memories stay for so long (a clock may have been wrong), then go with the next write.
const EXPIRED_KEPT_MICROSECONDS: i64 = 24 * 3600 * 1_000_000;

/// Stores a draft, or finds it stored.
pub(super) struct Remember {
    pub(super) view: View,
    pub(super) id: String,
    pub(super) draft: Draft,
    pub(super) limits: StoreLimits,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Write for Remember {
    /// The memory, and whether it was there already.
    type Output = (Memory, bool);

    async fn apply(&self, tx: &mut SqliteConnection) -> Result<Self::Output, Fault> {
        purge_expired(tx, self.now).await?;
        let known = self.known(tx).await?;
        let old = match &self.draft.supersedes {
            Some(id) if known.as_ref().is_none_or(|(_, known)| known.id != *id) => {
                Some(self.superseded(tx, id).await?)
            }
            _ => None,
        };
        let id = match &known {
            Some((_, known)) => &known.id,
            None => &self.id,
        };
        if let Some((old_seq, old)) = &old {
            bump(tx, old).await?;
            sqlx::query("UPDATE memory SET superseded_by = ?2, updated = max(updated, ?3) WHERE seq = ?1")
                .bind(old_seq)
                .bind(id)
                .bind(self.now.as_microsecond())
                .execute(&mut *tx)
                .await?;
        }
        if let Some((seq, known)) = known {
            let merged = self.merged(&known, old.map(|(_, old)| old.id))?;
            if merged != known {
                update_row(tx, seq, &merged).await?;
                bump(tx, &merged).await?;
            }
            return Ok((merged, true));
        }
        let memory = self.fresh();
        insert_row(tx, &memory).await?;
        bump(tx, &memory).await?;
        Ok((memory, false))
    }
}

impl Remember {
    fn fresh(&self) -> Memory {
        let Self { view, draft, now, .. } = self;
        Memory {
            id: self.id.clone(),
            project: view.project.clone(),
            content: draft.content.clone(),
            tags: draft.tags.clone(),
            importance: draft.importance,
            kind: draft.kind.clone(),
            visibility: draft.visibility,
            trust: draft.trust,
            principal: view.principal.clone(),
            agent: view.agent.clone(),
            session: if draft.visibility == Visibility::Session { view.session.clone() } else { None },
            supersedes: draft.supersedes.clone(),
            superseded_by: None,
            created: *now,
            updated: *now,
            expires: draft.expires,
        }
    }

    /// The live memory with equal content that exactly the same readers see.
    async fn known(&self, tx: &mut SqliteConnection) -> Result<Option<(i64, Memory)>, sqlx::Error> {
        let query = sqlx::query(concat!(
            "SELECT m.seq, ",
            columns!(),
            " FROM memory m WHERE ",
            live!(),
            " AND m.content_hash = ?8 AND m.visibility = ?9 AND m.realm = ?1 AND m.superseded_by IS NULL \
             ORDER BY m.seq LIMIT 1"
        ));
        let row = self
            .view
            .bind(query, self.now)
            .bind(&self.draft.content_hash)
            .bind(visibility_text(self.draft.visibility))
            .fetch_optional(tx)
            .await?;
        row.map(|row| Ok((row.try_get(0)?, memory(&row, 1)?))).transpose()
    }

    /// The memory that is to be replaced: visible, of the same project, not replaced before.
    async fn superseded(&self, tx: &mut SqliteConnection, id: &str) -> Result<(i64, Memory), Fault> {
        let refused = |message: String| Fault::Refused(StoreError::Invalid { field: "supersedes", message });
        let found = find(tx, &self.view, id, self.now).await?;
        let Some((seq, old)) = found.filter(|(_, old)| old.project == self.view.project) else {
            return Err(refused("names no memory of this project; search for the right id".to_owned()));
        };
        if let Some(newer) = &old.superseded_by {
            let newer = find(tx, &self.view, newer, self.now).await?;
            return Err(refused(newer.map_or_else(
                || "names a memory that was superseded before".to_owned(),
                |(_, newer)| {
                    format!("names a memory that was superseded before; supersede {} instead", newer.id)
                },
            )));
        }
        if !may_supersede(old.visibility, self.draft.visibility) {
            return Err(refused(format!(
                "names a memory of visibility `{}`, which one of visibility `{}` cannot replace; use `{0}`",
                visibility_text(old.visibility),
                visibility_text(self.draft.visibility),
            )));
        }
        Ok((seq, old))
    }

    /// `known` with what the draft adds: tags united, the larger importance, the later expiry.
    fn merged(&self, known: &Memory, supersedes: Option<String>) -> Result<Memory, StoreError> {
        let tags: Vec<String> = known.tags.iter().chain(&self.draft.tags).cloned().collect();
        let expires = match (known.expires, self.draft.expires) {
            (Some(one), Some(other)) => Some(one.max(other)),
            _ => None,
        };
        let mut merged = Memory {
            tags: normal_tags(&tags, &self.limits)?,
            importance: known.importance.max(self.draft.importance),
            supersedes: known.supersedes.clone().or(supersedes),
            expires,
            ..known.clone()
        };
        if merged != *known {
            merged.updated = known.updated.max(self.now);
        }
        Ok(merged)
    }
}

/// Changes a memory.
pub(super) struct Update {
    pub(super) view: View,
    pub(super) id: String,
    pub(super) change: MemoryChange,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Write for Update {
    type Output = Option<Memory>;

    async fn apply(&self, tx: &mut SqliteConnection) -> Result<Self::Output, Fault> {
        let Some((seq, old)) = find(tx, &self.view, &self.id, self.now).await? else { return Ok(None) };
        let change = self.change.clone();
        let mut new = Memory {
            tags: change.tags.unwrap_or_else(|| old.tags.clone()),
            importance: change.importance.unwrap_or(old.importance),
            kind: change.kind.unwrap_or_else(|| old.kind.clone()),
            expires: change.expires.unwrap_or(old.expires),
            ..old.clone()
        };
        if new != old {
            new.updated = old.updated.max(self.now);
            update_row(tx, seq, &new).await?;
            bump(tx, &new).await?;
        }
        Ok(Some(new))
    }
}

/// Forgets memories.
pub(super) struct Forget {
    pub(super) view: View,
    pub(super) ids: Vec<String>,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Write for Forget {
    type Output = Forgotten;

    const ERASES: bool = true;

    async fn apply(&self, tx: &mut SqliteConnection) -> Result<Self::Output, Fault> {
        let mut outcome = Forgotten::default();
        for id in &self.ids {
            if outcome.forgotten.contains(id) || outcome.unknown.contains(id) {
                continue;
            }
            let Some((seq, memory)) = find(tx, &self.view, id, self.now).await? else {
                outcome.unknown.push(id.clone());
                continue;
            };
            sqlx::query(
                "INSERT INTO tombstone \
                 (seq, realm, id, audience, visibility, principal, agent, session, forgotten, forgotten_by) \
                 SELECT seq, realm, id, audience, visibility, principal, agent, session, ?2, ?3 \
                 FROM memory WHERE seq = ?1",
            )
            .bind(seq)
            .bind(self.now.as_microsecond())
            .bind(&self.view.principal)
            .execute(&mut *tx)
            .await?;
            sqlx::query("DELETE FROM memory WHERE seq = ?1").bind(seq).execute(&mut *tx).await?;
            bump(tx, &memory).await?;
            outcome.forgotten.push(id.clone());
        }
        Ok(outcome)
    }
}

/// Takes exported memories, already in their normal form.
pub(super) struct Import {
    pub(super) memories: Vec<Memory>,
}

#[async_trait]
impl Write for Import {
    type Output = ImportReport;

    async fn apply(&self, tx: &mut SqliteConnection) -> Result<Self::Output, Fault> {
        let mut report = ImportReport::default();
        for memory in &self.memories {
            let known = sqlx::query(
                "SELECT content FROM memory WHERE realm = ?1 AND id = ?2 \
                 UNION ALL SELECT NULL FROM tombstone WHERE realm = ?1 AND id = ?2",
            )
            .bind(realm(&memory.project, &memory.principal))
            .bind(&memory.id)
            .fetch_optional(&mut *tx)
            .await?;
            match known {
                None => {
                    insert_row(tx, memory).await?;
                    bump(tx, memory).await?;
                    report.imported += 1;
                }
                Some(row) if row.try_get::<Option<String>, _>(0)?.as_ref() == Some(&memory.content) => {
                    report.skipped += 1;
                }
                Some(_) => report.conflicts.push(memory.id.clone()),
            }
        }
        Ok(report)
    }
}

/// The memory `id` that the view sees; its own project's first.
async fn find(
    tx: &mut SqliteConnection,
    view: &View,
    id: &str,
    now: Timestamp,
) -> Result<Option<(i64, Memory)>, sqlx::Error> {
    let query = sqlx::query(concat!(
        "SELECT m.seq, ",
        columns!(),
        " FROM memory m WHERE m.id = ?8 AND ",
        live!(),
        " ORDER BY m.realm = ?1 DESC, m.seq LIMIT 1"
    ));
    let row = view.bind(query, now).bind(id).fetch_optional(tx).await?;
    row.map(|row| Ok((row.try_get(0)?, memory(&row, 1)?))).transpose()
}

async fn insert_row(tx: &mut SqliteConnection, memory: &Memory) -> Result<(), sqlx::Error> {
    let seq: i64 = sqlx::query_scalar(
        "INSERT INTO memory (realm, id, audience, project, visibility, principal, agent, session, content, \
         content_hash, tags, words, importance, kind, trust, supersedes, superseded_by, created, updated, expires) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20) \
         RETURNING seq",
    )
    .bind(realm(&memory.project, &memory.principal))
    .bind(&memory.id)
    .bind(audience(&memory.project, &memory.principal, memory.visibility))
    .bind(&memory.project)
    .bind(visibility_text(memory.visibility))
    .bind(&memory.principal)
    .bind(&memory.agent)
    .bind(&memory.session)
    .bind(&memory.content)
    .bind(content_hash(&memory.content))
    .bind(tags_text(&memory.tags)?)
    .bind(index_words(&memory.content))
    .bind(memory.importance)
    .bind(&memory.kind)
    .bind(trust_text(memory.trust))
    .bind(&memory.supersedes)
    .bind(&memory.superseded_by)
    .bind(memory.created.as_microsecond())
    .bind(memory.updated.as_microsecond())
    .bind(memory.expires.map(Timestamp::as_microsecond))
    .fetch_one(&mut *tx)
    .await?;
    insert_tags(tx, seq, &memory.tags).await
}

/// Writes everything of a memory that can change.
async fn update_row(tx: &mut SqliteConnection, seq: i64, memory: &Memory) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM memory_tag WHERE seq = ?1").bind(seq).execute(&mut *tx).await?;
    sqlx::query(
        "UPDATE memory SET tags = ?2, importance = ?3, kind = ?4, supersedes = ?5, updated = ?6, expires = ?7 \
         WHERE seq = ?1",
    )
    .bind(seq)
    .bind(tags_text(&memory.tags)?)
    .bind(memory.importance)
    .bind(&memory.kind)
    .bind(&memory.supersedes)
    .bind(memory.updated.as_microsecond())
    .bind(memory.expires.map(Timestamp::as_microsecond))
    .execute(&mut *tx)
    .await?;
    insert_tags(tx, seq, &memory.tags).await
}

async fn insert_tags(tx: &mut SqliteConnection, seq: i64, tags: &[String]) -> Result<(), sqlx::Error> {
    if tags.is_empty() {
        return Ok(());
    }
    sqlx::query("INSERT INTO memory_tag (seq, tag) SELECT ?1, value FROM json_each(?2)")
        .bind(seq)
        .bind(tags_text(tags)?)
        .execute(tx)
        .await?;
    Ok(())
}

/// Counts one more write for everyone who may have seen it.
async fn bump(tx: &mut SqliteConnection, memory: &Memory) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO generation (audience, value) VALUES (?1, 1) \
         ON CONFLICT (audience) DO UPDATE SET value = value + 1",
    )
    .bind(audience(&memory.project, &memory.principal, memory.visibility))
    .execute(tx)
    .await?;
    Ok(())
}

async fn purge_expired(tx: &mut SqliteConnection, now: Timestamp) -> Result<(), sqlx::Error> {
    sqlx::query(
        "DELETE FROM memory WHERE seq IN (SELECT seq FROM memory WHERE expires <= ?1 ORDER BY expires LIMIT 16)",
    )
    .bind(now.as_microsecond().saturating_sub(EXPIRED_KEPT_MICROSECONDS))
    .execute(tx)
    .await?;
    Ok(())
}
