//! Vectors of memories: whose they are, how they come into the table, and which are near.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, PgTransaction, Row as _};

use super::{
    Shared,
    fault::Fault,
    lexeme,
    memory::{audiences, bump_audiences, generation},
    row::{Numbers, bind_filter, count, filtered, wanted},
    schema,
    transaction::{Wall, Write},
};
use crate::{
    embedding::{Identity, Vectors},
    store::{
        MemoryFilter, StoreError,
        fuse::Near,
        reembed::{Progress, Reembedding, Unembedded, VectorTable},
        view::View,
    },
};

/// How long a write waits for a model that is cheap but not read yet.
const MODEL_WAIT: Duration = Duration::from_secs(1);
/// Largest dimension that pgvector makes an index of; beyond it every search looks at all vectors.
const INDEXED_DIMENSION_MAX: usize = 2_000;
/// Where a scope sees no more memories than this, all of their vectors are compared: quicker than an index scan that
/// passes over everybody else's, and exact.
pub(super) const EXACT_MAX: u64 = 1_000;
/// Candidates that the index keeps while a vector is put in its place. More than pgvector's own 64: a write takes about
/// twice as long, and the nearest are found with a fourth of the candidates that every search would have to keep.
const EF_CONSTRUCTION: usize = 200;
/// Candidates that an index scan keeps at least.
const EF_SEARCH_MIN: usize = 100;
/// The most that pgvector keeps.
const EF_SEARCH_MAX: usize = 1_000;
/// A model's row says when it was last used to about an hour.
const USE_GRAIN_MICROSECONDS: i64 = 3_600 * 1_000_000;

/// Readers that are remembered to have all vectors.
const WHOLE_MAX: usize = 4_096;

fn whole_key(model: i32, readers: &[String]) -> String {
    format!("{model} {}", readers.join(","))
}

/// The models that this process uses, and who embeds behind.
#[derive(Default)]
pub(super) struct Models {
    /// The last one used, and its row.
    known: Mutex<Option<(Identity, i32)>>,
    /// Held by the one who makes a row.
    registering: tokio::sync::Mutex<()>,
    reembedding: OnceLock<Reembedding>,
    /// The model and the readers that were seen to have all vectors, and the generation of their audiences at that time.
    whole: Mutex<HashMap<String, i64>>,
}

impl Models {
    /// Starts embedding what has no vector.
    pub(super) fn start(&self, shared: &Arc<Shared>) {
        let table: Weak<dyn VectorTable> = Arc::downgrade(shared) as _;
        let embeddings = Arc::clone(&shared.options.embeddings);
        self.reembedding.get_or_init(|| Reembedding::start(table, embeddings));
    }

    /// Something was stored without a vector.
    pub(super) fn wake(&self) {
        if let Some(reembedding) = self.reembedding.get() {
            reembedding.wake();
        }
    }

    /// See [`Reembedding::unsure_after`].
    pub(super) fn unsure_after(&self) -> Option<i64> {
        self.reembedding.get().and_then(Reembedding::unsure_after)
    }

    /// See [`Reembedding::miss`].
    pub(super) fn miss(&self) {
        if let Some(reembedding) = self.reembedding.get() {
            reembedding.miss();
        }
    }

    /// The generation at which `readers` were last seen to have all vectors of `model`.
    pub(super) fn whole_at(&self, model: i32, readers: &[String]) -> Option<i64> {
        self.whole().get(&whole_key(model, readers)).copied()
    }

    /// They have them at that generation.
    pub(super) fn note_whole(&self, model: i32, readers: &[String], generation: i64) {
        let mut whole = self.whole();
        if whole.len() >= WHOLE_MAX {
            whole.clear();
        }
        whole.insert(whole_key(model, readers), generation);
    }

    fn whole(&self) -> MutexGuard<'_, HashMap<String, i64>> {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it did so far.
    pub(super) fn progress(&self) -> Option<Progress> {
        self.reembedding.get().and_then(Reembedding::progress)
    }

    pub(super) fn end(&self) {
        if let Some(reembedding) = self.reembedding.get() {
            reembedding.end();
        }
    }

    fn known(&self, model: &Identity) -> Option<i32> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().filter(|(identity, _)| identity == model).map(|(_, row)| *row)
    }

    fn forget(&self) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The model's row, where it has one: a model without has no vectors.
    pub(super) async fn find(&self, shared: &Shared, model: &Identity) -> Result<Option<i32>, StoreError> {
        if let Some(row) = self.known(model) {
            return Ok(Some(row));
        }
        let row = find(shared, model).await?;
        if let Some(row) = row {
            self.know(model, row);
        }
        Ok(row)
    }

    /// The model's row, made with its index where there is none.
    async fn row(&self, shared: &Shared, model: &Identity) -> Result<i32, StoreError> {
        if let Some(row) = self.find(shared, model).await? {
            return Ok(row);
        }
        // One connection beyond the pool's at a time, whoever else stores the first memory of a model.
        let _registering = self.registering.lock().await;
        if let Some(row) = self.find(shared, model).await? {
            return Ok(row);
        }
        let row = register(shared, model).await.map_err(|error| shared.database.told(error))?;
        self.know(model, row);
        Ok(row)
    }

    fn know(&self, model: &Identity, row: i32) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((model.clone(), row));
    }
}

/// The model's row, where it has one and an index if it can have one.
async fn find(shared: &Shared, model: &Identity) -> Result<Option<i32>, StoreError> {
    let mut tx = shared.database.read(Wall::Whole).await?;
    let found = sqlx::query_scalar(
        "SELECT id FROM tmws.embedding_model WHERE name = $1 AND dimension = $2 AND hash = $3 \
         AND ($2 > $4 OR to_regclass('tmws.memory_vector_by_' || id) IS NOT NULL)",
    )
    .bind(&*model.name)
    .bind(count(model.dimension))
    .bind(&*model.hash)
    .bind(count(INDEXED_DIMENSION_MAX))
    .fetch_optional(&mut *tx)
    .await;
    found.map_err(|error| shared.database.told(error))
}

/// Makes the row and the index, as the owner of the tables. The model has no vectors then, so the index is made at once;
/// who writes other vectors waits for as long as it takes to look through the table.
async fn register(shared: &Shared, model: &Identity) -> Result<i32, sqlx::Error> {
    let mut connection = shared.owner.connect().await?;
    let made = async {
        let mut transaction = connection.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(schema::LOCK).execute(&mut *transaction).await?;
        sqlx::query(
            "INSERT INTO tmws.embedding_model (name, dimension, hash, used) VALUES ($1, $2, $3, 0) \
             ON CONFLICT (name, dimension, hash) DO NOTHING",
        )
        .bind(&*model.name)
        .bind(count(model.dimension))
        .bind(&*model.hash)
        .execute(&mut *transaction)
        .await?;
        let row: i32 = sqlx::query_scalar(
            "SELECT id FROM tmws.embedding_model WHERE name = $1 AND dimension = $2 AND hash = $3",
        )
        .bind(&*model.name)
        .bind(count(model.dimension))
        .bind(&*model.hash)
        .fetch_one(&mut *transaction)
        .await?;
        if model.dimension <= INDEXED_DIMENSION_MAX {
            let make = format!(
                "SAVEPOINT indexing; CREATE INDEX IF NOT EXISTS memory_vector_by_{row} ON tmws.memory_vector \
                 USING hnsw ((embedding::vector({})) vector_cosine_ops) WITH (ef_construction = {EF_CONSTRUCTION}) \
                 WHERE model = {row}",
                model.dimension
            );
            if let Err(error) = sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut *transaction).await {
                tracing::warn!(%error, "no index of the vectors could be made: every search looks at all of them");
                sqlx::raw_sql("ROLLBACK TO indexing").execute(&mut *transaction).await?;
            }
        }
        transaction.commit().await?;
        Ok(row)
    }
    .await;
    let _ = connection.close().await;
    made
}

/// The vectors of texts that are about to be stored, where the model is cheap and there. No write fails or waits because
/// of a model.
pub(super) async fn at_once(shared: &Shared, texts: Vec<String>) -> Option<Numbers> {
    let Vectors { identity, vectors } = shared.options.embeddings.embed_at_once(texts, MODEL_WAIT).await?;
    match shared.models.row(shared, &identity).await {
        Ok(row) => Some(Numbers::new(row, identity.dimension, &vectors)),
        Err(error) => {
            tracing::debug!(%error, "stored without vectors for now");
            None
        }
    }
}

/// What is near to what.
pub(super) struct Search<'s> {
    /// The model's row.
    pub(super) model: i32,
    /// What is looked for; of length 1.
    pub(super) vector: Vec<f32>,
    pub(super) view: &'s View,
    pub(super) filter: &'s MemoryFilter,
    pub(super) now: Timestamp,
    /// Least cosine similarity.
    pub(super) floor: f32,
    /// How many are wanted.
    pub(super) depth: usize,
    /// Whether an index scan goes on where the filter leaves out much.
    pub(super) scans_iteratively: bool,
    /// The transaction began with [`plan`].
    pub(super) is_planned: bool,
}

/// The settings that the `depth` nearest are looked for with in an index. Only its order serves there: anything else reads
/// all vectors, so nothing is sorted that comes in order. A plan is kept for whatever values: statements name which
/// conditions they have, and to make one takes as long as to search.
pub(super) fn plan(depth: usize, scans_iteratively: bool) -> String {
    let ef = if scans_iteratively {
        depth.saturating_mul(2).clamp(EF_SEARCH_MIN, EF_SEARCH_MAX)
    } else {
        EF_SEARCH_MAX
    };
    format!(
        "SET LOCAL hnsw.ef_search TO {ef}; SET LOCAL enable_sort TO off; \
         SET LOCAL plan_cache_mode TO force_generic_plan"
    )
}

/// What was found near, and in which state of the store.
#[derive(Clone, Debug, Default)]
pub(super) struct Nearest {
    /// The nearest first.
    pub(super) near: Vec<Near>,
    /// The generation of the scope's audiences, told where anything was near, however little.
    pub(super) generation: Option<i64>,
}

impl Search<'_> {
    /// The nearest first. `seen`: how many memories the scope sees at most.
    pub(super) async fn nearest(&self, tx: &mut PgConnection, seen: u64) -> Result<Nearest, sqlx::Error> {
        if seen > EXACT_MAX && self.vector.len() <= INDEXED_DIMENSION_MAX && !self.is_narrow(tx).await? {
            let found = self.by_index(tx).await?;
            // An index scan gives up at some point; where it has not shown that nothing else is near, all are compared.
            let is_through = found.near.len() >= self.depth
                || found.near.last().is_some_and(|near| near.cosine < self.floor);
            if is_through {
                return Ok(self.above_floor(found));
            }
        }
        if seen > EXACT_MAX {
            // Much is compared, and what is best depends on how much.
            sqlx::raw_sql(
                "SET LOCAL enable_hashjoin TO on; SET LOCAL enable_seqscan TO on; \
                 SET LOCAL plan_cache_mode TO force_custom_plan",
            )
            .execute(&mut *tx)
            .await?;
        }
        let found = self.exactly(tx).await?;
        Ok(self.above_floor(found))
    }

    fn above_floor(&self, mut found: Nearest) -> Nearest {
        found.near.retain(|near| near.cosine >= self.floor);
        found
    }

    /// Whether few memories have the tags and the kind that are asked for.
    async fn is_narrow(&self, tx: &mut PgConnection) -> Result<bool, sqlx::Error> {
        let Some(marks) = lexeme::marks(&self.view.readers(), self.filter) else { return Ok(false) };
        let many: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM (SELECT FROM tmws.memory_text t WHERE t.words @@ $1::tsquery LIMIT $2) counted",
        )
        .bind(marks)
        .bind(count(EXACT_MAX as usize + 1))
        .fetch_one(tx)
        .await?;
        Ok(u64::try_from(many).is_ok_and(|many| many <= EXACT_MAX))
    }

    async fn by_index(&self, tx: &mut PgConnection) -> Result<Nearest, sqlx::Error> {
        if !self.is_planned {
            let plan = plan(self.depth, self.scans_iteratively);
            sqlx::raw_sql(AssertSqlSafe(plan)).execute(&mut *tx).await?;
        }
        let distance =
            format!("v.embedding::vector({0}) <=> (SELECT $9::float4[]::vector({0}))", self.vector.len());
        let sql = format!(
            "SELECT v.seq, {distance}, {} FROM tmws.memory_vector v JOIN tmws.memory m ON m.seq = v.seq \
             WHERE v.model = {} AND {} ORDER BY {distance} LIMIT {}",
            generation(11),
            self.model,
            wanted(self.filter),
            // Where it does not know how many, the planner takes a tenth of all rows to be wanted.
            count(self.depth),
        );
        self.fetch(tx, sql, None).await
    }

    async fn exactly(&self, tx: &mut PgConnection) -> Result<Nearest, sqlx::Error> {
        let marks = lexeme::marks(&self.view.readers(), self.filter);
        let marked = if marks.is_some() {
            "AND m.seq IN (SELECT t.seq FROM tmws.memory_text t WHERE t.words @@ $12::tsquery)"
        } else {
            ""
        };
        // Not the expression of the index, so that no scan of it stands in.
        let sql = format!(
            "SELECT v.seq, v.embedding <=> (SELECT $9::float4[]::vector) AS distance, {} FROM tmws.memory m \
             JOIN tmws.memory_vector v ON v.model = {} AND v.seq = m.seq WHERE {} {marked} \
             ORDER BY distance, v.seq DESC LIMIT $10",
            generation(11),
            self.model,
            filtered!(),
        );
        self.fetch(tx, sql, marks).await
    }

    async fn fetch(
        &self,
        tx: &mut PgConnection,
        sql: String,
        marks: Option<String>,
    ) -> Result<Nearest, sqlx::Error> {
        let mut query = bind_filter(sqlx::query(AssertSqlSafe(sql)), self.view, self.filter, self.now)
            .bind(&self.vector)
            .bind(count(self.depth))
            .bind(audiences(self.view).map(str::to_owned).to_vec());
        if let Some(marks) = marks {
            query = query.bind(marks);
        }
        let rows = query.fetch_all(tx).await?;
        let near = rows.iter().map(|row| {
            let distance: f64 = row.try_get(1)?;
            // A vector of zeros is at no distance from anything.
            let cosine = if distance.is_nan() { f32::MIN } else { (1.0 - distance) as f32 };
            Ok(Near { seq: row.try_get(0)?, cosine })
        });
        Ok(Nearest {
            near: near.collect::<Result<_, sqlx::Error>>()?,
            generation: rows.first().map(|row| row.try_get(2)).transpose()?,
        })
    }
}

/// Keeps vectors of memories that are there.
struct PutVectors {
    row: i32,
    seqs: Vec<i64>,
    numbers: Vec<f32>,
    dimension: usize,
    now: Timestamp,
}

#[async_trait]
impl Write for PutVectors {
    type Output = u64;

    async fn apply(&self, tx: &mut PgConnection) -> Result<u64, Fault> {
        let put: Vec<(String, i64)> = sqlx::query_as(
            "WITH put AS (INSERT INTO tmws.memory_vector (seq, model, reader, embedding) \
             SELECT m.seq, e.id, m.reader, ($3::float4[])[(g.nth - 1) * $4 + 1 : g.nth * $4]::vector \
             FROM unnest($2::int8[]) WITH ORDINALITY g (seq, nth) JOIN tmws.memory m ON m.seq = g.seq \
             JOIN tmws.embedding_model e ON e.id = $1 ORDER BY m.seq ON CONFLICT (model, seq) DO NOTHING \
             RETURNING seq) \
             SELECT m.audience, count(*) FROM put JOIN tmws.memory m ON m.seq = put.seq GROUP BY m.audience",
        )
        .bind(self.row)
        .bind(&self.seqs)
        .bind(&self.numbers)
        .bind(count(self.dimension))
        .fetch_all(&mut *tx)
        .await?;
        note_use(tx, self.row, self.now).await?;
        let new = put.iter().map(|(_, count)| u64::try_from(*count).unwrap_or(0)).sum();
        // Searches find more from now on.
        bump_audiences(tx, put.into_iter().map(|(audience, _)| audience).collect()).await?;
        Ok(new)
    }
}

struct NoteUse {
    row: i32,
    now: Timestamp,
}

#[async_trait]
impl Write for NoteUse {
    type Output = ();

    async fn apply(&self, tx: &mut PgConnection) -> Result<(), Fault> {
        Ok(note_use(tx, self.row, self.now).await?)
    }
}

async fn note_use(tx: &mut PgConnection, row: i32, now: Timestamp) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE tmws.embedding_model SET used = $2 WHERE id = $1 AND used <= $2 - $3")
        .bind(row)
        .bind(now.as_microsecond())
        .bind(USE_GRAIN_MICROSECONDS)
        .execute(tx)
        .await?;
    Ok(())
}

/// Deletes vectors of models that nobody uses.
struct Prune {
    kept: Identity,
    unused_since: Timestamp,
    limit: usize,
}

#[async_trait]
impl Write for Prune {
    /// How many vectors went, and the models that have none left.
    type Output = (u64, Vec<i32>);

    async fn apply(&self, tx: &mut PgConnection) -> Result<Self::Output, Fault> {
        let unused: Vec<i32> = sqlx::query_scalar(
            "SELECT id FROM tmws.embedding_model WHERE used < $1 AND (name, dimension, hash) <> ($2, $3, $4) \
             ORDER BY id FOR UPDATE SKIP LOCKED",
        )
        .bind(self.unused_since.as_microsecond())
        .bind(&*self.kept.name)
        .bind(count(self.kept.dimension))
        .bind(&*self.kept.hash)
        .fetch_all(&mut *tx)
        .await?;
        let gone = sqlx::query(
            "DELETE FROM tmws.memory_vector WHERE (model, seq) IN \
             (SELECT model, seq FROM tmws.memory_vector WHERE model = ANY ($1) LIMIT $2 FOR UPDATE SKIP LOCKED)",
        )
        .bind(&unused)
        .bind(count(self.limit))
        .execute(&mut *tx)
        .await?
        .rows_affected();
        let empty = sqlx::query_scalar(
            "DELETE FROM tmws.embedding_model e WHERE id = ANY ($1) \
             AND NOT EXISTS (SELECT FROM tmws.memory_vector v WHERE v.model = e.id) RETURNING id",
        )
        .bind(&unused)
        .fetch_all(&mut *tx)
        .await?;
        Ok((gone, empty))
    }
}

/// Both tables are read once, side by side in the order of their numbers, as far as that is wanted. Where it takes few to
/// have no vector, or the tables have just grown, the planner would compare each memory with each vector.
const SIDE_BY_SIDE: &str = "SET LOCAL enable_nestloop TO off; SET LOCAL enable_hashjoin TO off; \
                            SET LOCAL enable_seqscan TO off; SET LOCAL enable_bitmapscan TO off; \
                            SET LOCAL enable_sort TO off";

impl Shared {
    /// The memories `m` with a number above $1 that have no vector of `model`, as the end of a statement, and the
    /// transaction that it is for.
    async fn bare(&self, model: &Identity) -> Result<(String, PgTransaction<'static>), StoreError> {
        let mut tx = self.database.read_planned(Wall::Whole, SIDE_BY_SIDE).await?;
        let row: Result<Option<i32>, _> = sqlx::query_scalar(
            "SELECT id FROM tmws.embedding_model WHERE name = $1 AND dimension = $2 AND hash = $3",
        )
        .bind(&*model.name)
        .bind(count(model.dimension))
        .bind(&*model.hash)
        .fetch_optional(&mut *tx)
        .await;
        let row = row.map_err(|error| self.database.told(error))?;
        let bare = row.map_or_else(String::new, |row| {
            format!(
                " AND NOT EXISTS (SELECT FROM tmws.memory_vector v WHERE v.model = {row} AND v.seq = m.seq \
                 AND v.seq > $1)"
            )
        });
        Ok((format!("FROM tmws.memory m WHERE m.seq > $1{bare}"), tx))
    }
}

#[async_trait]
impl VectorTable for Shared {
    async fn newest(&self) -> Result<i64, StoreError> {
        let mut tx = self.database.read(Wall::Whole).await?;
        let newest = sqlx::query_scalar("SELECT coalesce(max(seq), 0) FROM tmws.memory").fetch_one(&mut *tx);
        newest.await.map_err(|error| self.database.told(error))
    }

    async fn unembedded(
        &self,
        model: &Identity,
        after: i64,
        limit: usize,
    ) -> Result<Vec<Unembedded>, StoreError> {
        let (bare, mut tx) = self.bare(model).await?;
        let sql = format!("SELECT m.seq, m.content {bare} ORDER BY m.seq LIMIT $2");
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(after).bind(count(limit)).fetch_all(&mut *tx).await;
        let read = || -> Result<Vec<Unembedded>, sqlx::Error> {
            let each = |row| {
                Ok(Unembedded { seq: sqlx::Row::try_get(row, 0)?, content: super::row::content(row, 1)? })
            };
            rows?.iter().map(each).collect()
        };
        read().map_err(|error| self.database.told(error))
    }

    async fn count_unembedded(&self, model: &Identity, after: i64) -> Result<u64, StoreError> {
        let (bare, mut tx) = self.bare(model).await?;
        let sql = format!("SELECT count(*) {bare}");
        let found: Result<i64, _> =
            sqlx::query_scalar(AssertSqlSafe(sql)).bind(after).fetch_one(&mut *tx).await;
        Ok(u64::try_from(found.map_err(|error| self.database.told(error))?).unwrap_or(0))
    }

    async fn put_vectors(
        &self,
        model: &Identity,
        vectors: Vec<(i64, Vec<f32>)>,
        now: Timestamp,
    ) -> Result<u64, StoreError> {
        let row = self.models.row(self, model).await?;
        let (seqs, vectors): (Vec<i64>, Vec<Vec<f32>>) = vectors.into_iter().unzip();
        let Numbers { all: numbers, dimension, .. } = Numbers::new(row, model.dimension, &vectors);
        let put = self.database.write(Wall::Whole, PutVectors { row, seqs, numbers, dimension, now }).await?;
        if put == 0 {
            // The row may be gone: somebody tidied up while this process slept. The next call looks again.
            self.models.forget();
        }
        Ok(put)
    }

    async fn note_use(&self, model: &Identity, now: Timestamp) -> Result<(), StoreError> {
        let Some(row) = find(self, model).await? else {
            self.models.forget();
            return Ok(());
        };
        self.database.write(Wall::Whole, NoteUse { row, now }).await
    }

    async fn prune(
        &self,
        model: &Identity,
        unused_since: Timestamp,
        limit: usize,
    ) -> Result<u64, StoreError> {
        let prune = Prune { kept: model.clone(), unused_since, limit };
        let (gone, empty) = self.database.write(Wall::Whole, prune).await?;
        for row in empty {
            if let Err(error) = drop_index(self, row).await {
                // It is empty, and of a model that does not come back under this number.
                tracing::debug!(%error, "an index of vectors stays");
            }
        }
        Ok(gone)
    }
}

async fn drop_index(shared: &Shared, row: i32) -> Result<(), sqlx::Error> {
    let mut connection = shared.owner.connect().await?;
    let drop = format!("DROP INDEX IF EXISTS tmws.memory_vector_by_{row}");
    let dropped = sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut connection).await;
    let _ = connection.close().await;
    dropped.map(|_| ())
}
