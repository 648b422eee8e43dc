//! Writes of memories.
//!
//! **Order.** Before anything else, a write takes a lock of the transaction on each audience whose memories it may
//! touch, always in one order. So writes of one audience follow each other: of two that store equal content the second
//! finds the first's; none waits for another that waits for it; and the numbers that memories are ordered by are drawn
//! within the lock, so that an export, which takes the same locks to read, never sees a number while a smaller one is
//! still being committed ([`super::query::export`]). Other audiences, other projects that is, go on beside.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use async_trait::async_trait;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use sqlx::{PgConnection, Row as _};

use super::{
    Shared,
    fault::Fault,
    query,
    row::{self, Numbers, bind_live, columns, live, memory, stored_name},
    transaction::{KEPT_PLANS, Write},
    vectors,
};
use crate::{
    limits::StoreLimits,
    scope::Scope,
    store::{
        Forgotten, ImportReport, Memory, MemoryChange, NewMemory, Remembered, StoreError, id,
        rules::{Draft, Replaced, changed, imported, normal_change, superseded_before, whole_microseconds},
        view::{View, audience, reader, realm},
    },
};

/// Expired memories stay for so long (a clock may have been wrong), then go with the next write.
const EXPIRED_KEPT_MICROSECONDS: i64 = 24 * 3600 * 1_000_000;
/// Expired memories that one write clears away at most.
const CLEARED_MAX: i32 = 16;
/// A memory's last recall is kept to so many microseconds.
const RECALLED_GRAIN_MICROSECONDS: i64 = 60 * 1_000_000;
/// Memories that one statement stores at most.
const ROWS_MAX: usize = 500;

/// Stores a memory, with its vector where the model is cheap and there; else whoever works behind makes it.
pub(super) async fn remember(
    shared: &Shared,
    scope: &Scope,
    new: NewMemory,
    now: Timestamp,
) -> Result<Remembered, StoreError> {
    let now = whole_microseconds(now);
    let (view, limits) = (View::of(scope), shared.options.limits);
    let draft = Draft::new(scope, new, &limits, now)?;
    let vector = vectors::at_once(shared, vec![draft.content.clone()]).await;
    let is_bare = vector.is_none();
    let write = Remember { view: view.clone(), id: shared.ids.mint(now)?, draft, limits, vector, now };
    let (memory, duplicate) = shared.database.write(&view, write).await?;
    if is_bare && !duplicate {
        shared.models.wake();
    }
    // The memory is stored; that no likeness could be looked for does not make it a failure.
    let similar = query::similar(shared, &view, &memory, now).await.unwrap_or_else(|error| {
        tracing::debug!(%error, "similar memories not looked for");
        Vec::new()
    });
    Ok(Remembered { memory, duplicate, similar })
}

pub(super) async fn update(
    shared: &Shared,
    scope: &Scope,
    id: &str,
    change: MemoryChange,
    now: Timestamp,
) -> Result<Option<Memory>, StoreError> {
    let now = whole_microseconds(now);
    let change = normal_change(change, &shared.options.limits, now)?;
    let view = View::of(scope);
    let write = Update { view: view.clone(), id: id.to_owned(), change, now };
    shared.database.write(&view, write).await
}

pub(super) async fn forget(
    shared: &Shared,
    scope: &Scope,
    ids: &[String],
    now: Timestamp,
) -> Result<Forgotten, StoreError> {
    let view = View::of(scope);
    let write = Forget { view: view.clone(), ids: ids.to_vec(), now };
    shared.database.write(&view, write).await
}

pub(super) async fn recalled(
    shared: &Shared,
    scope: &Scope,
    ids: &[String],
    now: Timestamp,
) -> Result<(), StoreError> {
    if ids.is_empty() {
        return Ok(());
    }
    let view = View::of(scope);
    let (lane, database) = (view.readers().join(","), Arc::clone(&shared.database));
    let write = move |recalled: Vec<(Vec<String>, Timestamp)>| {
        let (view, database) = (view.clone(), Arc::clone(&database));
        async move {
            let now = recalled.iter().map(|(_, now)| *now).max().unwrap_or_default();
            let ids: BTreeSet<String> = recalled.into_iter().flat_map(|(ids, _)| ids).collect();
            let ids = ids.into_iter().filter(|id| id::is_memory_id(id)).collect();
            database.write(&view, Recalled { view: view.clone(), ids, now }).await
        }
    };
    shared.recalled.put(lane, (ids.to_vec(), now), write).await
}

pub(super) async fn import(
    shared: &Shared,
    scope: &Scope,
    memories: Vec<Memory>,
) -> Result<ImportReport, StoreError> {
    let view = View::of(scope);
    let memories = memories
        .into_iter()
        .map(|memory| imported(scope, memory, &shared.options.limits))
        .collect::<Result<Vec<_>, _>>()?;
    if memories.is_empty() {
        return Ok(ImportReport::default());
    }
    let texts = memories.iter().map(|memory| memory.content.clone()).collect();
    let vectors = vectors::at_once(shared, texts).await;
    let is_bare = vectors.is_none();
    let report = shared.database.write(&view, Import { memories, vectors }).await?;
    if is_bare && report.imported > 0 {
        shared.models.wake();
    }
    Ok(report)
}

/// The locks of `audiences`, in the order in which everybody takes them.
pub(super) fn locks<'a>(audiences: impl IntoIterator<Item = &'a str>) -> Vec<i64> {
    let keys: BTreeSet<i64> = audiences
        .into_iter()
        .map(|audience| {
            let hash = Sha256::digest(format!("tmws audience {audience}"));
            hash.iter().take(8).fold(0, |key, byte| key << 8 | i64::from(*byte))
        })
        .collect();
    keys.into_iter().collect()
}

/// All audiences of which a scope sees anything.
pub(super) fn audiences(view: &View) -> [&str; 3] {
    [&view.realm, &view.personal, &view.shared]
}

/// The generation of the audiences in the place `at`, within a statement. Whoever reads the same one reads the same memories.
pub(super) fn generation(at: usize) -> String {
    format!("(SELECT coalesce(sum(value), 0)::int8 FROM tmws.generation WHERE audience = ANY (${at}))")
}

/// Waits for whoever writes to the audiences. Within READ COMMITTED, what comes next sees what they wrote.
async fn lock(transaction: &mut PgConnection, locks: Vec<i64>) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_advisory_xact_lock(key) FROM unnest($1::int8[]) key")
        .bind(locks)
        .execute(transaction)
        .await?;
    Ok(())
}

/// Tells everyone who may have seen one of these that something was written.
async fn bump(
    transaction: &mut PgConnection,
    memories: impl IntoIterator<Item = &Memory>,
) -> Result<(), Fault> {
    let audiences = memories
        .into_iter()
        .map(|memory| audience(&memory.project, &memory.principal, memory.visibility))
        .collect();
    bump_audiences(transaction, audiences).await
}

/// Gives `audiences` generations that no other write has ([`crate::store::Store::generation`]), and tells whoever listens once
/// it is committed. The last thing that a transaction does, and once: its rows stay locked until it ends, in the order of
/// the set. (`tmws.bump` of the schema counts, and a count comes again after a restore.)
pub(super) async fn bump_audiences(
    transaction: &mut PgConnection,
    audiences: BTreeSet<String>,
) -> Result<(), Fault> {
    if audiences.is_empty() {
        return Ok(());
    }
    let values = audiences.iter().map(|_| fresh_generation()).collect::<Result<Vec<_>, _>>()?;
    sqlx::query(
        "WITH written AS (INSERT INTO tmws.generation (audience, value) \
         SELECT * FROM unnest($1::text[], $2::int8[]) \
         ON CONFLICT (audience) DO UPDATE SET value = excluded.value RETURNING audience, value) \
         SELECT pg_notify('tmws_changed', audience || ' ' || value) FROM written",
    )
    .bind(audiences.into_iter().collect::<Vec<_>>())
    .bind(values)
    .execute(transaction)
    .await?;
    Ok(())
}

/// 61 bits, so that those of all audiences of a scope can be summed, and more than 0.
fn fresh_generation() -> Result<i64, StoreError> {
    let mut random = [0; 8];
    id::fill(&mut random)?;
    Ok(i64::from_le_bytes(random) & ((1 << 61) - 1) | 1)
}

/// The memory `id` that the view sees; its own project's first.
async fn find(
    transaction: &mut PgConnection,
    view: &View,
    id: &str,
    now: Timestamp,
) -> Result<Option<(i64, Memory)>, sqlx::Error> {
    // What is no id may hold what no statement takes.
    if !id::is_memory_id(id) {
        return Ok(None);
    }
    let query = sqlx::query(concat!(
        "SELECT m.seq, ",
        columns!(),
        " FROM tmws.memory m WHERE m.id = $3 AND ",
        live!(),
        " ORDER BY m.realm = $4 DESC, m.seq LIMIT 1"
    ));
    let row = bind_live(query, view, now).bind(id).bind(&view.realm).fetch_optional(transaction).await?;
    row.map(|row| Ok((row.try_get(0)?, memory(&row, 1)?))).transpose()
}

/// Stores a draft, or finds it stored.
pub(super) struct Remember {
    pub(super) view: View,
    pub(super) id: String,
    pub(super) draft: Draft,
    pub(super) limits: StoreLimits,
    pub(super) vector: Option<Numbers>,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Write for Remember {
    /// The memory, and whether it was there already.
    type Output = (Memory, bool);

    async fn apply(&self, tx: &mut PgConnection) -> Result<Self::Output, Fault> {
        let Self { view, draft, now, .. } = self;
        let own = audience(&view.project, &view.principal, draft.visibility);
        let touched = match draft.supersedes {
            Some(_) => locks(audiences(view)),
            None => locks([own.as_str()]),
        };
        lock(tx, touched).await?;
        purge(tx, *now).await?;
        let known = self.known(tx).await?;
        let old = match &draft.supersedes {
            Some(id) if known.as_ref().is_none_or(|(_, known)| known.id != *id) => {
                Some(self.superseded(tx, id).await?)
            }
            _ => None,
        };
        let id = known.as_ref().map_or(&self.id, |(_, known)| &known.id);
        if let Some((old_seq, _)) = &old {
            sqlx::query(
                "UPDATE tmws.memory SET superseded_by = $2, updated = greatest(updated, $3) WHERE seq = $1",
            )
            .bind(old_seq)
            .bind(id)
            .bind(now.as_microsecond())
            .execute(&mut *tx)
            .await?;
        }
        let old = old.map(|(_, old)| old);
        if let Some((seq, known)) = known {
            let merged = draft.merged(&known, old.as_ref().map(|old| old.id.clone()), &self.limits, *now)?;
            let is_changed = merged != known;
            if is_changed {
                row::update(tx, seq, &merged).await?;
            }
            bump(tx, is_changed.then_some(&merged).into_iter().chain(&old)).await?;
            return Ok((merged, true));
        }
        let fresh = draft.fresh(view, &self.id, *now);
        let stored = row::insert(tx, &[&fresh], self.vector.clone()).await?;
        if stored.is_empty() {
            return Err(StoreError::Internal("a new id is taken".into()).into());
        }
        bump(tx, std::iter::once(&fresh).chain(&old)).await?;
        Ok((fresh, false))
    }
}

impl Remember {
    /// The live memory with equal content that exactly the same readers see.
    async fn known(&self, tx: &mut PgConnection) -> Result<Option<(i64, Memory)>, sqlx::Error> {
        let fresh = self.draft.fresh(&self.view, &self.id, self.now);
        let query = sqlx::query(concat!(
            "SELECT m.seq, ",
            columns!(),
            " FROM tmws.memory m WHERE m.content_hash = $3 AND m.reader = $4 AND m.realm = $5 \
             AND m.superseded_by IS NULL AND ",
            live!(),
            " ORDER BY m.seq LIMIT 1"
        ));
        let row = bind_live(query, &self.view, self.now)
            .bind(&self.draft.content_hash)
            .bind(reader(&fresh))
            .bind(&self.view.realm)
            .fetch_optional(tx)
            .await?;
        row.map(|row| Ok((row.try_get(0)?, memory(&row, 1)?))).transpose()
    }

    /// The memory that is to be replaced: visible, of the same project, not replaced before.
    async fn superseded(&self, tx: &mut PgConnection, id: &str) -> Result<(i64, Memory), Fault> {
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

    async fn apply(&self, tx: &mut PgConnection) -> Result<Self::Output, Fault> {
        lock(tx, locks(audiences(&self.view))).await?;
        let Some((seq, old)) = find(tx, &self.view, &self.id, self.now).await? else { return Ok(None) };
        let new = changed(&old, &self.change, self.now);
        if new != old {
            row::update(tx, seq, &new).await?;
            bump(tx, [&new]).await?;
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

    async fn apply(&self, tx: &mut PgConnection) -> Result<Self::Output, Fault> {
        lock(tx, locks(audiences(&self.view))).await?;
        let mut outcome = Forgotten::default();
        let mut erased = Vec::new();
        for id in &self.ids {
            if outcome.forgotten.contains(id) || outcome.unknown.contains(id) {
                continue;
            }
            let Some((seq, memory)) = find(tx, &self.view, id, self.now).await? else {
                outcome.unknown.push(id.clone());
                continue;
            };
            // Words and vectors hang on the row and go with it.
            sqlx::query(
                "WITH gone AS (DELETE FROM tmws.memory WHERE seq = $1 RETURNING seq, realm, id, reader) \
                 INSERT INTO tmws.tombstone (seq, realm, id, reader, forgotten, forgotten_by) \
                 SELECT seq, realm, id, reader, $2, $3 FROM gone",
            )
            .bind(seq)
            .bind(self.now.as_microsecond())
            .bind(stored_name(&self.view.principal))
            .execute(&mut *tx)
            .await?;
            outcome.forgotten.push(id.clone());
            erased.push(memory);
        }
        bump(tx, &erased).await?;
        Ok(outcome)
    }
}

/// Takes exported memories, already in their normal form.
pub(super) struct Import {
    pub(super) memories: Vec<Memory>,
    /// Of all of them, or of none.
    pub(super) vectors: Option<Numbers>,
}

#[async_trait]
impl Write for Import {
    type Output = ImportReport;

    async fn apply(&self, tx: &mut PgConnection) -> Result<Self::Output, Fault> {
        let touched: Vec<String> = self
            .memories
            .iter()
            .map(|memory| audience(&memory.project, &memory.principal, memory.visibility))
            .collect();
        lock(tx, locks(touched.iter().map(String::as_str))).await?;
        let mut report = ImportReport::default();
        let mut written = BTreeSet::new();
        for (nth, memories) in self.memories.chunks(ROWS_MAX).enumerate() {
            let vectors = self.vectors.as_ref().map(|vectors| {
                let from = nth * ROWS_MAX * vectors.dimension;
                let until = from + memories.len() * vectors.dimension;
                Numbers { all: vectors.all[from..until].to_vec(), ..*vectors }
            });
            take(tx, memories, vectors, &mut report, &mut written).await?;
        }
        bump_audiences(tx, written).await?;
        Ok(report)
    }
}

/// Stores those that are new; `written` gets whose they are.
async fn take(
    tx: &mut PgConnection,
    memories: &[Memory],
    vectors: Option<Numbers>,
    report: &mut ImportReport,
    written: &mut BTreeSet<String>,
) -> Result<(), Fault> {
    // What is there, by realm and id; `None` for what was forgotten.
    let mut known: HashMap<(String, String), Option<Vec<u8>>> = HashMap::new();
    let ids: Vec<&str> = memories.iter().map(|memory| memory.id.as_str()).collect();
    let rows = sqlx::query(
        "SELECT realm, id, content FROM tmws.memory WHERE id = ANY ($1) \
         UNION ALL SELECT realm, id, NULL FROM tmws.tombstone WHERE id = ANY ($1)",
    )
    .bind(ids)
    .fetch_all(&mut *tx)
    .await?;
    for row in rows {
        known.insert((row.try_get(0)?, row.try_get(1)?), row.try_get(2)?);
    }
    let (mut fresh, mut numbers) = (Vec::new(), Vec::new());
    for (nth, memory) in memories.iter().enumerate() {
        let key = (realm(&memory.project, &memory.principal), memory.id.clone());
        match known.get(&key) {
            None => {
                known.insert(key, Some(memory.content.clone().into_bytes()));
                if let Some(vectors) = &vectors {
                    let from = nth * vectors.dimension;
                    numbers.extend_from_slice(&vectors.all[from..from + vectors.dimension]);
                }
                fresh.push(memory);
            }
            Some(Some(content)) if *content == memory.content.as_bytes() => report.skipped += 1,
            Some(_) => report.conflicts.push(memory.id.clone()),
        }
    }
    if fresh.is_empty() {
        return Ok(());
    }
    let vectors = vectors.map(|vectors| Numbers { all: numbers, ..vectors });
    let stored: std::collections::HashSet<String> =
        row::insert(tx, &fresh, vectors).await?.into_iter().collect();
    // An id may be taken behind a wall: that it is a conflict says nothing of what has it.
    let (imported, taken): (Vec<&Memory>, Vec<&Memory>) =
        fresh.into_iter().partition(|memory| stored.contains(&memory.id));
    report.imported += imported.len() as u64;
    report.conflicts.extend(taken.into_iter().map(|memory| memory.id.clone()));
    written.extend(
        imported.into_iter().map(|memory| audience(&memory.project, &memory.principal, memory.visibility)),
    );
    Ok(())
}

/// Notes when memories were recalled. No write in the sense of a generation, so it takes no locks of audiences: rows
/// that somebody else has in hand are passed over.
struct Recalled {
    view: View,
    ids: Vec<String>,
    now: Timestamp,
}

#[async_trait]
impl Write for Recalled {
    type Output = ();

    fn plan(&self) -> &'static str {
        KEPT_PLANS
    }

    async fn apply(&self, tx: &mut PgConnection) -> Result<(), Fault> {
        let query = sqlx::query(concat!(
            "UPDATE tmws.memory SET recalled = $2 WHERE seq IN (SELECT m.seq FROM tmws.memory m WHERE m.id = ANY ($3) \
             AND (m.recalled IS NULL OR m.recalled <= $2 - $4) AND ",
            live!(),
            " ORDER BY m.seq FOR UPDATE SKIP LOCKED)"
        ));
        bind_live(query, &self.view, self.now)
            .bind(&self.ids)
            .bind(RECALLED_GRAIN_MICROSECONDS)
            .execute(tx)
            .await?;
        Ok(())
    }
}

async fn purge(tx: &mut PgConnection, now: Timestamp) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT tmws.purge_memory($1, $2)")
        .bind(now.as_microsecond().saturating_sub(EXPIRED_KEPT_MICROSECONDS))
        .bind(CLEARED_MAX)
        .execute(tx)
        .await?;
    Ok(())
}
