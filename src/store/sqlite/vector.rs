//! Vectors in the file: whose they are, writing them, and bringing the index in memory up to date with them.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _};
use simsimd::SpatialSimilarity as _;
use sqlx::{QueryBuilder, Row as _, Sqlite, SqliteConnection, pool::PoolConnection};

use super::{
    READER_WAIT, READERS_MAX, Readers, Shared,
    fault::{Fault, classify},
    index::{Entry, Index, Scanned, Small, Taken},
    memory::bump_audience,
    search::listed,
    searchers::Searchers,
    view::View,
    writer::{Write, Writer},
};
use crate::{
    embedding::Identity,
    processors,
    store::{
        EmbeddingProgress, StoreError,
        reembed::{LATEST, Unembedded, VectorTable},
        turns::Turns,
    },
    turnstile::Permit,
};

/// Bytes of vectors that are kept in memory: about a million of 256 numbers.
const INDEX_BYTES_MAX: usize = 256 << 20;
/// What a model's row says of its last use is this exact.
const USE_NOTED_MICROSECONDS: i64 = 3_600 * 1_000_000;

/// A vector, and whose it is.
#[derive(Clone, Debug)]
pub(super) struct Vector {
    pub(super) model: Identity,
    pub(super) exact: Vec<f32>,
}

impl Vector {
    /// Keeps it for the memory `seq`. Whether it is new: one that is gone, or has a vector of the model, is left alone.
    pub(super) async fn put(
        &self,
        tx: &mut SqliteConnection,
        seq: i64,
        now: Timestamp,
    ) -> Result<bool, sqlx::Error> {
        if self.exact.len() != self.model.dimension {
            tracing::error!(model = %self.model.name, numbers = self.exact.len(), "a vector of a wrong dimension is not kept");
            return Ok(false);
        }
        if self.insert(tx, seq).await? {
            return Ok(true);
        }
        Ok(make_model(tx, &self.model, now).await? && self.insert(tx, seq).await?)
    }

    /// Keeps vectors of memories that have none, in few statements.
    pub(super) async fn put_new(
        tx: &mut SqliteConnection,
        vectors: &[(i64, &Self)],
        now: Timestamp,
    ) -> Result<(), sqlx::Error> {
        let Some(((first, one), rest)) = vectors.split_first() else { return Ok(()) };
        // The first makes the model's row where there is none, and brings those of another model to light.
        one.put(tx, *first, now).await?;
        let (alike, others): (Vec<_>, Vec<_>) = rest
            .iter()
            .partition(|(_, vector)| vector.model == one.model && vector.exact.len() == one.model.dimension);
        if let Some(model) = Model::find(tx, &one.model).await?
            && !alike.is_empty()
        {
            let mut insert = QueryBuilder::new("INSERT INTO vector (seq, model, scale, small, exact) ");
            insert.push_values(&alike, |mut row, (seq, vector)| {
                let small = Small::of(&vector.exact);
                row.push_bind(*seq)
                    .push_bind(model.id)
                    .push_bind(small.scale)
                    .push_bind(
                        small.numbers.iter().map(|number| number.to_le_bytes()[0]).collect::<Vec<u8>>(),
                    )
                    .push_bind(
                        vector.exact.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>(),
                    );
            });
            insert.build().execute(&mut *tx).await?;
        }
        for (seq, vector) in others {
            vector.put(tx, seq, now).await?;
        }
        Ok(())
    }

    async fn insert(&self, tx: &mut SqliteConnection, seq: i64) -> Result<bool, sqlx::Error> {
        let small = Small::of(&self.exact);
        let done = bind_model(
            sqlx::query(
                "INSERT INTO vector (seq, model, scale, small, exact) \
                 SELECT m.seq, o.id, ?5, ?6, ?7 FROM memory m CROSS JOIN model o \
                 WHERE m.seq = ?4 AND o.name = ?1 AND o.dimension = ?2 AND o.hash = ?3 \
                 ON CONFLICT (seq, model) DO NOTHING",
            ),
            &self.model,
        )
        .bind(seq)
        .bind(small.scale)
        .bind(small.numbers.iter().map(|number| number.to_le_bytes()[0]).collect::<Vec<u8>>())
        .bind(self.exact.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>())
        .execute(tx)
        .await?;
        Ok(done.rows_affected() > 0)
    }
}

fn bind_model<'q>(query: super::view::Bound<'q>, model: &Identity) -> super::view::Bound<'q> {
    query
        .bind(model.name.to_string())
        .bind(i64::try_from(model.dimension).unwrap_or(i64::MAX))
        .bind(model.hash.to_string())
}

/// Makes the model's row. Whether there was none.
async fn make_model(
    tx: &mut SqliteConnection,
    model: &Identity,
    now: Timestamp,
) -> Result<bool, sqlx::Error> {
    let made = bind_model(
        sqlx::query(
            "INSERT INTO model (name, dimension, hash, used) VALUES (?1, ?2, ?3, ?4) \
             ON CONFLICT (name, dimension, hash) DO NOTHING",
        ),
        model,
    )
    .bind(now.as_microsecond())
    .execute(tx)
    .await?;
    Ok(made.rows_affected() > 0)
}

/// A model by its number in the file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Model {
    id: i64,
    dimension: usize,
    /// The last change of any vector.
    newest: i64,
}

/// How it is with the latest memories.
#[derive(Clone, Copy, Debug)]
pub(super) enum Recent {
    /// One of them has no vector.
    Bare,
    /// Each up to this one has one.
    Settled(i64),
}

impl Model {
    /// The model as the file knows it; `None` where it has no vectors of it.
    pub(super) async fn find(
        tx: &mut SqliteConnection,
        model: &Identity,
    ) -> Result<Option<Self>, sqlx::Error> {
        let row = bind_model(
            sqlx::query(
                "SELECT id, (SELECT coalesce(max(change), 0) FROM vector) FROM model \
                 WHERE name = ?1 AND dimension = ?2 AND hash = ?3",
            ),
            model,
        )
        .fetch_optional(tx)
        .await?;
        let dimension = model.dimension;
        row.map(|row| Ok(Self { id: row.try_get(0)?, dimension, newest: row.try_get(1)? })).transpose()
    }

    /// The same for a search, and how it is with recent memories: the latest ones after the number `after`, where one is
    /// given.
    pub(super) fn searched(
        file: &Connection,
        model: &Identity,
        after: Option<i64>,
    ) -> rusqlite::Result<Option<(Self, Option<Recent>)>> {
        let mut found = file.prepare_cached(
            "SELECT o.id, (SELECT coalesce(max(change), 0) FROM vector), (SELECT coalesce(max(seq), 0) FROM memory), \
             EXISTS (SELECT 1 FROM (SELECT seq FROM memory WHERE seq > ?4 ORDER BY seq DESC LIMIT ?5) m \
             WHERE NOT EXISTS (SELECT 1 FROM vector v WHERE v.seq = m.seq AND v.model = o.id)) \
             FROM model o WHERE o.name = ?1 AND o.dimension = ?2 AND o.hash = ?3",
        )?;
        let dimension = i64::try_from(model.dimension).unwrap_or(i64::MAX);
        let (known_to, name, hash) = (after.unwrap_or(i64::MAX), &*model.name, &*model.hash);
        let read = |row: &rusqlite::Row<'_>| {
            let found = Self { id: row.get(0)?, dimension: model.dimension, newest: row.get(1)? };
            let newest: i64 = row.get(2)?;
            let recent = match after {
                Some(_) if row.get(3)? => Some(Recent::Bare),
                Some(after) if newest - after <= LATEST => Some(Recent::Settled(newest)),
                _ => None,
            };
            Ok((found, recent))
        };
        found.query_row((name, dimension, hash, known_to, LATEST), read).optional()
    }

    /// The cosine of each of `seqs` to `query`; those without a vector are left out.
    pub(super) fn cosines(
        self,
        file: &Connection,
        query: &[f32],
        seqs: &[i64],
    ) -> rusqlite::Result<Vec<(f32, i64)>> {
        let mut stored = file.prepare_cached(
            "SELECT v.seq, v.exact FROM json_each(?1) c CROSS JOIN vector v ON v.seq = c.value AND v.model = ?2",
        )?;
        let mut rows = stored.query((listed(seqs), self.id))?;
        let mut cosines = Vec::with_capacity(seqs.len());
        let mut exact: Vec<f32> = Vec::with_capacity(self.dimension);
        while let Some(row) = rows.next()? {
            let (bytes, _) = row.get_ref(1)?.as_blob()?.as_chunks();
            exact.clear();
            exact.extend(bytes.iter().map(|number| f32::from_le_bytes(*number)));
            if exact.len() == self.dimension {
                cosines.push((f32::dot(&exact, query).unwrap_or(0.0) as f32, row.get(0)?));
            }
        }
        Ok(cosines)
    }
}

/// The vectors of the store, for searches and for whoever embeds in the background.
pub(super) struct Table {
    pub(super) shared: Arc<Shared>,
    readers: Readers,
    writer: Writer,
    pub(super) searchers: Arc<Searchers>,
    pub(super) index: Index,
    /// Held by the one search that reads vectors into the index; the others would read the same.
    loading: Mutex<()>,
    turns: Turns,
}

impl Table {
    pub(super) fn new(shared: Arc<Shared>, readers: Readers, writer: Writer) -> Self {
        Self {
            searchers: Arc::new(Searchers::new(&shared.options, READERS_MAX)),
            shared,
            readers,
            writer,
            index: Index::new(INDEX_BYTES_MAX),
            loading: Mutex::default(),
            // The hand-over of one to a thread that may block goes on beside the work of the others. With more of them
            // each finds less of the file in the pages that its connection keeps.
            turns: Turns::new((processors::count() + 1).min(READERS_MAX as usize)),
        }
    }

    /// Waits until a search of `view` may begin.
    pub(super) async fn turn(&self, view: &View) -> Result<Permit, sqlx::Error> {
        self.turns.wait(view, READER_WAIT).await
    }

    async fn reader(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        self.readers.get().await.map_err(|error| self.told(&error))
    }

    fn told(&self, error: &sqlx::Error) -> StoreError {
        classify(&self.shared.options.path, error)
    }

    /// What `audiences` have of `model`, at least as `file` stands.
    pub(super) fn scanned(
        &self,
        file: &Connection,
        model: Model,
        audiences: &[&str],
    ) -> rusqlite::Result<Scanned> {
        let Model { id, dimension, newest } = model;
        if let Some(scanned) = self.index.scanned(id, dimension, audiences, newest) {
            return Ok(scanned);
        }
        let _loading = self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(scanned) = self.index.scanned(id, dimension, audiences, newest) {
                return Ok(scanned);
            }
            let known = self.index.known(id, dimension, audiences);
            for (&audience, known) in audiences.iter().zip(known) {
                if known.is_some_and(|known| known >= newest) {
                    continue;
                }
                let entries = match known {
                    Some(since) => stored_since(file, id, audience, since)?,
                    None => stored(file, id, audience)?,
                };
                let taken = Taken { audience, since: known, entries: &entries, upto: newest };
                self.index.take(id, dimension, audiences, &taken);
            }
        }
    }

    /// How far memories have vectors of `model`.
    pub(super) async fn progress(&self, model: Option<Identity>) -> Result<EmbeddingProgress, sqlx::Error> {
        let none = Identity { name: "".into(), dimension: 0, hash: "".into() };
        let row = bind_model(
            sqlx::query(
                "SELECT (SELECT count(*) FROM memory), (SELECT count(*) FROM vector v WHERE v.model = \
                 (SELECT id FROM model WHERE name = ?1 AND dimension = ?2 AND hash = ?3))",
            ),
            model.as_ref().unwrap_or(&none),
        )
        .fetch_one(&mut *self.readers.get().await?)
        .await?;
        let count = |at: usize| row.try_get::<i64, _>(at).map(|count| u64::try_from(count).unwrap_or(0));
        Ok(EmbeddingProgress { model, memories: count(0)?, embedded: count(1)? })
    }
}

/// Every vector that `audience` has of the model `id`.
fn stored(file: &Connection, id: i64, audience: &str) -> rusqlite::Result<Vec<Entry>> {
    let mut stored = file.prepare_cached(
        "SELECT v.change, v.seq, v.scale, v.small FROM memory m CROSS JOIN vector v ON v.seq = m.seq AND v.model = ?1 \
         WHERE m.audience = ?2",
    )?;
    stored.query_map((id, audience), entry)?.collect()
}

/// Those of them that came after the change `since`.
fn stored_since(file: &Connection, id: i64, audience: &str, since: i64) -> rusqlite::Result<Vec<Entry>> {
    let mut stored = file.prepare_cached(
        "SELECT v.change, v.seq, v.scale, v.small FROM vector v CROSS JOIN memory m ON m.seq = v.seq \
         WHERE v.change > ?3 AND v.model = ?1 AND m.audience = ?2 ORDER BY v.change",
    )?;
    stored.query_map((id, audience, since), entry)?.collect()
}

fn entry(row: &rusqlite::Row<'_>) -> rusqlite::Result<Entry> {
    let bytes = row.get_ref(3)?.as_blob()?;
    let numbers = bytes.iter().map(|byte| i8::from_le_bytes([*byte])).collect();
    let scale: f64 = row.get(2)?;
    Ok(Entry { change: row.get(0)?, seq: row.get(1)?, small: Small { scale: scale as f32, numbers } })
}

#[async_trait]
impl VectorTable for Table {
    async fn newest(&self) -> Result<i64, StoreError> {
        sqlx::query_scalar("SELECT coalesce(max(seq), 0) FROM memory")
            .fetch_one(&mut *self.reader().await?)
            .await
            .map_err(|error| self.told(&error))
    }

    async fn unembedded(
        &self,
        model: &Identity,
        after: i64,
        limit: usize,
    ) -> Result<Vec<Unembedded>, StoreError> {
        let rows = bind_model(
            sqlx::query(
                "SELECT m.seq, m.content FROM memory m WHERE m.seq > ?4 AND NOT EXISTS \
                 (SELECT 1 FROM vector v WHERE v.seq = m.seq AND v.model = \
                 (SELECT id FROM model WHERE name = ?1 AND dimension = ?2 AND hash = ?3)) ORDER BY m.seq LIMIT ?5",
            ),
            model,
        )
        .bind(after)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut *self.reader().await?)
        .await
        .map_err(|error| self.told(&error))?;
        rows.iter()
            .map(|row| Ok(Unembedded { seq: row.try_get(0)?, content: row.try_get(1)? }))
            .collect::<Result<_, sqlx::Error>>()
            .map_err(|error| self.told(&error))
    }

    async fn count_unembedded(&self, model: &Identity, after: i64) -> Result<u64, StoreError> {
        let count: i64 = bind_model(
            sqlx::query(
                "SELECT count(*) FROM memory m WHERE m.seq > ?4 AND NOT EXISTS \
                 (SELECT 1 FROM vector v WHERE v.seq = m.seq AND v.model = \
                 (SELECT id FROM model WHERE name = ?1 AND dimension = ?2 AND hash = ?3))",
            ),
            model,
        )
        .bind(after)
        .fetch_one(&mut *self.reader().await?)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(|error| self.told(&error))?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    async fn put_vectors(
        &self,
        model: &Identity,
        vectors: Vec<(i64, Vec<f32>)>,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        self.writer.write(PutVectors { model: model.clone(), vectors, now }).await
    }

    async fn note_use(&self, model: &Identity, now: Timestamp) -> Result<(), StoreError> {
        let used: Option<i64> =
            sqlx::query_scalar("SELECT used FROM model WHERE name = ?1 AND dimension = ?2 AND hash = ?3")
                .bind(model.name.to_string())
                .bind(i64::try_from(model.dimension).unwrap_or(i64::MAX))
                .bind(model.hash.to_string())
                .fetch_optional(&mut *self.reader().await?)
                .await
                .map_err(|error| self.told(&error))?;
        let now = now.as_microsecond();
        match used {
            Some(used) if used <= now.saturating_sub(USE_NOTED_MICROSECONDS) => {
                self.writer.write(NoteUse { model: model.clone(), now }).await
            }
            _ => Ok(()),
        }
    }

    async fn prune(
        &self,
        model: &Identity,
        unused_since: Timestamp,
        limit: usize,
    ) -> Result<u64, StoreError> {
        let has_unused: bool = bind_model(
            sqlx::query(
                "SELECT EXISTS (SELECT 1 FROM model WHERE used < ?4 AND NOT (name = ?1 AND dimension = ?2 AND hash = ?3))",
            ),
            model,
        )
        .bind(unused_since.as_microsecond())
        .fetch_one(&mut *self.reader().await?)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(|error| self.told(&error))?;
        // Looking for their vectors means looking at all.
        if !has_unused {
            return Ok(0);
        }
        self.writer.write(Prune { model: model.clone(), unused_since, limit }).await
    }
}

/// Keeps vectors of memories that had none.
struct PutVectors {
    model: Identity,
    vectors: Vec<(i64, Vec<f32>)>,
    now: Timestamp,
}

#[async_trait]
impl Write for PutVectors {
    /// How many are new.
    type Output = u64;

    async fn apply(&self, tx: &mut SqliteConnection) -> Result<u64, Fault> {
        make_model(tx, &self.model, self.now).await?;
        let mut new: Vec<i64> = Vec::new();
        for (seq, exact) in &self.vectors {
            let vector = Vector { model: self.model.clone(), exact: exact.clone() };
            if vector.put(tx, *seq, self.now).await? {
                new.push(*seq);
            }
        }
        // Searches find more from now on.
        for audience in audiences(tx, &new).await? {
            bump_audience(tx, audience).await?;
        }
        Ok(new.len() as u64)
    }
}

/// Whose these memories are.
async fn audiences(tx: &mut SqliteConnection, seqs: &[i64]) -> Result<Vec<String>, sqlx::Error> {
    if seqs.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query_scalar(
        "SELECT DISTINCT m.audience FROM json_each(?1) c CROSS JOIN memory m ON m.seq = c.value",
    )
    .bind(listed(seqs))
    .fetch_all(tx)
    .await
}

/// Notes that a model is in use.
struct NoteUse {
    model: Identity,
    now: i64,
}

#[async_trait]
impl Write for NoteUse {
    type Output = ();

    async fn apply(&self, tx: &mut SqliteConnection) -> Result<(), Fault> {
        bind_model(
            sqlx::query(
                "UPDATE model SET used = max(used, ?4) WHERE name = ?1 AND dimension = ?2 AND hash = ?3",
            ),
            &self.model,
        )
        .bind(self.now)
        .execute(tx)
        .await?;
        Ok(())
    }
}

/// Deletes vectors of models that nobody uses any more.
struct Prune {
    model: Identity,
    unused_since: Timestamp,
    limit: usize,
}

#[async_trait]
impl Write for Prune {
    /// How many went.
    type Output = u64;

    async fn apply(&self, tx: &mut SqliteConnection) -> Result<u64, Fault> {
        let unused = self.unused_since.as_microsecond();
        let limit = i64::try_from(self.limit).unwrap_or(i64::MAX);
        let gone = bind_model(
            sqlx::query(
                "DELETE FROM vector WHERE change IN (SELECT v.change FROM vector v WHERE v.model IN \
                 (SELECT id FROM model WHERE used < ?4 AND NOT (name = ?1 AND dimension = ?2 AND hash = ?3)) LIMIT ?5)",
            ),
            &self.model,
        )
        .bind(unused)
        .bind(limit)
        .execute(&mut *tx)
        .await?
        .rows_affected();
        if gone < self.limit as u64 {
            bind_model(
                sqlx::query(
                    "DELETE FROM model WHERE used < ?4 AND NOT (name = ?1 AND dimension = ?2 AND hash = ?3)",
                ),
                &self.model,
            )
            .bind(unused)
            .execute(tx)
            .await?;
        }
        Ok(gone)
    }
}
