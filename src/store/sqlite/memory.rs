//! Writes of memories.

use std::collections::{BTreeSet, HashMap};

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::{QueryBuilder, Row as _, SqliteConnection};

use super::{
    fault::Fault,
    vector::Vector,
    view::{View, audience, columns, live, memory, realm, tags_text, trust_text, visibility_text},
    writer::Write,
};
use crate::{
    limits::StoreLimits,
    store::{
        Forgotten, ImportReport, Memory, MemoryChange,
        rules::{Draft, Replaced, changed, content_hash, superseded_before},
        terms::index_words,
    },
};

/// Expired memories stay for so long (a clock may have been wrong), then go with the next ones that are stored.
const EXPIRED_KEPT_MICROSECONDS: i64 = 24 * 3600 * 1_000_000;
/// Rows of an import that go in one statement.
const IMPORT_ROWS_MAX: usize = 25;

/// A generation that no other write has: see [`crate::store::Store::generation`]. 61 bits, so that those of all audiences of a
/// scope can be summed, and more than 0.
macro_rules! fresh_generation {
    () => {
        "(random() & 2305843009213693951 | 1)"
    };
}

/// The live row of `memory` as `m` with content hash ?8 that exactly the readers of visibility ?9 see.
macro_rules! equal {
    () => {
        concat!(
            live!(),
            " AND m.content_hash = ?8 AND m.visibility = ?9 AND m.realm = ?1 AND m.superseded_by IS NULL"
        )
    };
}

/// Stores a draft, or finds it stored.
pub(super) struct Remember {
    pub(super) view: View,
    pub(super) id: String,
    pub(super) draft: Draft,
    /// Of its content, where there was one in time.
    pub(super) vector: Option<Vector>,
    pub(super) limits: StoreLimits,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Write for Remember {
    /// The memory, and whether it was there already.
    type Output = (Memory, bool);

    async fn apply(&self, tx: &mut SqliteConnection) -> Result<Self::Output, Fault> {
        if self.draft.supersedes.is_none() {
            let memory = self.draft.fresh(&self.view, &self.id, self.now);
            if let Some(seq) = self.insert_unless_known(tx, &memory).await? {
                if let Some(vector) = &self.vector {
                    vector.put(tx, seq, self.now).await?;
                }
                return Ok((memory, false));
            }
        }
        let known = self.known(tx).await?;
        let old = match &self.draft.supersedes {
            Some(id) if known.as_ref().is_none_or(|(_, known)| known.id != *id) => {
                Some(self.superseded(tx, id).await?)
            }
            _ => None,
        };
        let merged = match &known {
            Some((_, known)) => Some(self.draft.merged(
                known,
                old.as_ref().map(|(_, old)| old.id.clone()),
                &self.limits,
                self.now,
            )?),
            None => None,
        };
        // Nothing is refused from here on.
        if let Some((old_seq, old)) = &old {
            bump(tx, old).await?;
            sqlx::query("UPDATE memory SET superseded_by = ?2, updated = max(updated, ?3) WHERE seq = ?1")
                .bind(old_seq)
                .bind(known.as_ref().map_or(&self.id, |(_, known)| &known.id))
                .bind(self.now.as_microsecond())
                .execute(&mut *tx)
                .await?;
        }
        if let Some(((seq, known), merged)) = known.zip(merged) {
            if merged != known {
                update_row(tx, seq, &merged).await?;
                bump(tx, &merged).await?;
            }
            return Ok((merged, true));
        }
        let memory = self.draft.fresh(&self.view, &self.id, self.now);
        let seq = insert_row(tx, &memory).await?;
        if let Some(vector) = &self.vector {
            vector.put(tx, seq, self.now).await?;
        }
        bump(tx, &memory).await?;
        Ok((memory, false))
    }
}

impl Remember {
    /// Stores `memory` with its tags and counts it, unless equal content is there (`None`); clears away a few memories that
    /// expired long ago. All in one go: each way to the connection's thread costs about as much as a statement.
    async fn insert_unless_known(
        &self,
        tx: &mut SqliteConnection,
        memory: &Memory,
    ) -> Result<Option<i64>, sqlx::Error> {
        // Each statement has either parameters ?N, all from ?1 on, or parameters $N: sqlx gives both the Nth value, and to
        // those that a statement with gaps leaves out whatever comes.
        let query = sqlx::query(concat!(
            "DELETE FROM memory WHERE seq IN \
             (SELECT seq FROM memory WHERE expires <= $21 ORDER BY expires LIMIT 16); \
             INSERT INTO memory (realm, id, audience, project, visibility, principal, agent, session, content, \
             content_hash, tags, words, importance, kind, trust, created, updated, expires) \
             SELECT ?1, ?10, ?11, ?12, ?9, ?4, ?5, ?13, ?14, ?8, ?15, ?16, ?17, ?18, ?19, ?7, ?7, ?20 \
             WHERE NOT EXISTS (SELECT 1 FROM memory m WHERE ",
            equal!(),
            ") RETURNING seq; \
             INSERT INTO memory_tag (seq, tag) SELECT m.seq, t.value FROM json_each($15) t CROSS JOIN memory m \
             WHERE m.realm = $1 AND m.id = $10; \
             INSERT INTO generation (audience, value) SELECT $11, ",
            fresh_generation!(),
            " FROM memory WHERE realm = $1 AND id = $10 \
             ON CONFLICT (audience) DO UPDATE SET value = excluded.value"
        ));
        let rows = self
            .view
            .bind(query, self.now)
            .bind(&self.draft.content_hash)
            .bind(visibility_text(memory.visibility))
            .bind(&memory.id)
            .bind(audience(&memory.project, &memory.principal, memory.visibility))
            .bind(&memory.project)
            .bind(&memory.session)
            .bind(&memory.content)
            .bind(tags_text(&memory.tags)?)
            .bind(index_words(&memory.content))
            .bind(memory.importance)
            .bind(&memory.kind)
            .bind(trust_text(memory.trust))
            .bind(memory.expires.map(Timestamp::as_microsecond))
            .bind(self.now.as_microsecond().saturating_sub(EXPIRED_KEPT_MICROSECONDS))
            .fetch_all(tx)
            .await?;
        rows.first().map(|row| row.try_get(0)).transpose()
    }

    /// The live memory with equal content that exactly the same readers see.
    async fn known(&self, tx: &mut SqliteConnection) -> Result<Option<(i64, Memory)>, sqlx::Error> {
        let query = sqlx::query(concat!(
            "SELECT m.seq, ",
            columns!(),
            " FROM memory m WHERE ",
            equal!(),
            " ORDER BY m.seq LIMIT 1"
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
        let found = find(tx, &self.view, id, self.now).await?;
        match self.draft.replaces(&self.view, found)? {
            Replaced::Now(seq, old) => Ok((seq, *old)),
            Replaced::Before(newer) => {
                let newer = find(tx, &self.view, &newer, self.now).await?;
                Err(superseded_before(newer.as_ref().map(|(_, newer)| newer)).into())
            }
        }
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
        let new = changed(&old, &self.change, self.now);
        if new != old {
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

/// Notes that memories were recalled.
pub(super) struct Recall {
    /// As the store numbers them.
    pub(super) seqs: Vec<i64>,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Write for Recall {
    type Output = ();

    async fn apply(&self, tx: &mut SqliteConnection) -> Result<(), Fault> {
        Ok(note_recalled(tx, &self.seqs, self.now).await?)
    }
}

/// Takes exported memories, already in their normal form.
pub(super) struct Import {
    /// Each with the vector of its content, where there was one in time.
    pub(super) memories: Vec<(Memory, Option<Vector>)>,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Write for Import {
    type Output = ImportReport;

    async fn apply(&self, tx: &mut SqliteConnection) -> Result<Self::Output, Fault> {
        let mut report = ImportReport::default();
        let mut fresh: Vec<(&Memory, Option<&Vector>)> = Vec::new();
        let mut chosen: HashMap<(String, &str), &str> = HashMap::new();
        let known = known_contents(tx, &self.memories).await?;
        for ((memory, vector), known) in self.memories.iter().zip(known) {
            let place = (realm(&memory.project, &memory.principal), memory.id.as_str());
            // What the same import has brought counts as there.
            let there = match &known {
                Known::Nothing => chosen.get(&place).copied(),
                Known::Content(content) => Some(content.as_str()),
                Known::Forgotten => {
                    report.conflicts.push(memory.id.clone());
                    continue;
                }
            };
            match there {
                None => {
                    chosen.insert(place, &memory.content);
                    fresh.push((memory, vector.as_ref()));
                }
                Some(content) if content == memory.content => report.skipped += 1,
                Some(_) => report.conflicts.push(memory.id.clone()),
            }
        }
        let mut audiences: BTreeSet<String> = BTreeSet::new();
        for rows in fresh.chunks(IMPORT_ROWS_MAX) {
            let memories: Vec<&Memory> = rows.iter().map(|(memory, _)| *memory).collect();
            let seqs = insert_rows(tx, &memories).await?;
            let vectors: Vec<(i64, &Vector)> = seqs
                .iter()
                .zip(rows)
                .filter_map(|(seq, (_, vector))| vector.map(|vector| (*seq, vector)))
                .collect();
            Vector::put_new(tx, &vectors, self.now).await?;
            for (seq, memory) in seqs.into_iter().zip(memories) {
                if let Some(recalled) = memory.recalled {
                    note_recalled(tx, &[seq], recalled).await?;
                }
                audiences.insert(audience(&memory.project, &memory.principal, memory.visibility));
            }
        }
        for audience in audiences {
            bump_audience(tx, audience).await?;
        }
        report.imported = fresh.len() as u64;
        Ok(report)
    }
}

/// What is at the place of a memory that is to be imported.
#[derive(Clone)]
enum Known {
    Nothing,
    Content(String),
    Forgotten,
}

/// What is at each memory's place, by its realm and id.
async fn known_contents(
    tx: &mut SqliteConnection,
    memories: &[(Memory, Option<Vector>)],
) -> Result<Vec<Known>, sqlx::Error> {
    let mut known = vec![Known::Nothing; memories.len()];
    let places: Vec<_> =
        memories.iter().map(|(memory, _)| (realm(&memory.project, &memory.principal), &memory.id)).collect();
    let rows = sqlx::query(
        "SELECT w.key, m.content FROM json_each(?1) w CROSS JOIN memory m \
         WHERE m.realm = w.value ->> 0 AND m.id = w.value ->> 1 \
         UNION ALL SELECT w.key, NULL FROM json_each(?1) w CROSS JOIN tombstone t \
         WHERE t.realm = w.value ->> 0 AND t.id = w.value ->> 1",
    )
    .bind(json_text(&places)?)
    .fetch_all(tx)
    .await?;
    for row in rows {
        let at = usize::try_from(row.try_get::<i64, _>(0)?).unwrap_or(usize::MAX);
        if let Some(known) = known.get_mut(at) {
            *known = row.try_get::<Option<String>, _>(1)?.map_or(Known::Forgotten, Known::Content);
        }
    }
    Ok(known)
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

/// Stores a memory. By what number.
async fn insert_row(tx: &mut SqliteConnection, memory: &Memory) -> Result<i64, sqlx::Error> {
    insert_rows(tx, &[memory]).await?.pop().ok_or(sqlx::Error::RowNotFound)
}

/// Stores memories, whose places are free, in their order. By what numbers.
async fn insert_rows(tx: &mut SqliteConnection, memories: &[&Memory]) -> Result<Vec<i64>, sqlx::Error> {
    let mut insert = QueryBuilder::new(
        "INSERT INTO memory (realm, id, audience, project, visibility, principal, agent, session, content, \
         content_hash, tags, words, importance, kind, trust, supersedes, superseded_by, created, updated, expires) ",
    );
    let tags = memories.iter().map(|memory| tags_text(&memory.tags)).collect::<Result<Vec<_>, _>>()?;
    insert.push_values(memories.iter().zip(tags), |mut row, (memory, tags)| {
        row.push_bind(realm(&memory.project, &memory.principal))
            .push_bind(&memory.id)
            .push_bind(audience(&memory.project, &memory.principal, memory.visibility))
            .push_bind(&memory.project)
            .push_bind(visibility_text(memory.visibility))
            .push_bind(&memory.principal)
            .push_bind(&memory.agent)
            .push_bind(&memory.session)
            .push_bind(&memory.content)
            .push_bind(content_hash(&memory.content))
            .push_bind(tags)
            .push_bind(index_words(&memory.content))
            .push_bind(memory.importance)
            .push_bind(&memory.kind)
            .push_bind(trust_text(memory.trust))
            .push_bind(&memory.supersedes)
            .push_bind(&memory.superseded_by)
            .push_bind(memory.created.as_microsecond())
            .push_bind(memory.updated.as_microsecond())
            .push_bind(memory.expires.map(Timestamp::as_microsecond));
    });
    insert.push(" RETURNING realm, id, seq");
    // Statements of the usual numbers of rows stay prepared.
    let usual = matches!(memories.len(), 1 | IMPORT_ROWS_MAX);
    let rows = insert.build().persistent(usual).fetch_all(&mut *tx).await?;
    // They come in no order that SQLite promises.
    let places = rows
        .iter()
        .map(|row| Ok(((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?)))
        .collect::<Result<HashMap<(String, String), i64>, sqlx::Error>>()?;
    let seqs = memories
        .iter()
        .map(|memory| {
            let place = (realm(&memory.project, &memory.principal), memory.id.clone());
            places.get(&place).copied().ok_or(sqlx::Error::RowNotFound)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let tagged: Vec<(i64, &String)> = seqs
        .iter()
        .zip(memories)
        .flat_map(|(seq, memory)| memory.tags.iter().map(|tag| (*seq, tag)))
        .collect();
    if !tagged.is_empty() {
        sqlx::query("INSERT INTO memory_tag (seq, tag) SELECT value ->> 0, value ->> 1 FROM json_each(?1)")
            .bind(json_text(&tagged)?)
            .execute(tx)
            .await?;
    }
    Ok(seqs)
}

fn json_text(value: &impl serde::Serialize) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(Box::new(error)))
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

/// Those of `seqs` that are gone by now are passed over; a time never goes back.
async fn note_recalled(tx: &mut SqliteConnection, seqs: &[i64], at: Timestamp) -> Result<(), sqlx::Error> {
    for seq in seqs {
        sqlx::query(
            "INSERT INTO recall (seq, at) SELECT seq, ?2 FROM memory WHERE seq = ?1 \
             ON CONFLICT (seq) DO UPDATE SET at = max(at, excluded.at)",
        )
        .bind(seq)
        .bind(at.as_microsecond())
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// Tells everyone who may have seen it that something was written.
async fn bump(tx: &mut SqliteConnection, memory: &Memory) -> Result<(), sqlx::Error> {
    bump_audience(tx, audience(&memory.project, &memory.principal, memory.visibility)).await
}

/// Tells everyone of `audience` that something was written.
pub(super) async fn bump_audience(tx: &mut SqliteConnection, audience: String) -> Result<(), sqlx::Error> {
    sqlx::query(concat!(
        "INSERT INTO generation (audience, value) VALUES (?1, ",
        fresh_generation!(),
        ") ON CONFLICT (audience) DO UPDATE SET value = excluded.value"
    ))
    .bind(audience)
    .execute(tx)
    .await?;
    Ok(())
}
