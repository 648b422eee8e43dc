//! The embedded store: one SQLite file, shared by every process that names it.
//!
//! Write-ahead log with `synchronous = FULL`: what was acknowledged survives the end of the process and of the machine.
//! One task writes, in batches; a few connections read, each read one statement on one snapshot.

mod backup;
mod counted;
mod fault;
mod handle;
mod index;
mod mark;
mod memory;
mod migration;
mod open;
mod query;
mod search;
mod searchers;
mod signs;
mod task;
mod vector;
mod verify;
mod view;
mod writer;

use std::{
    path::PathBuf,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Map, Value};
use sqlx::{Sqlite, SqlitePool, pool::PoolConnection, sqlite::SqlitePoolOptions};

use self::{
    counted::Counted,
    fault::{Fault, classify},
    handle::Bound,
    task::Owner,
    vector::{Table, Vector},
    view::View,
    writer::Writer,
};
use super::{
    EmbeddingProgress, Forgotten, Hits, ImportReport, Mark, Memory, MemoryChange, MemoryFilter, MemoryQuery,
    NewMemory, NewTask, Remembered, Store, StoreError, StoreLoad, StoreStats, StoredResult, StoredTask,
    TaskChange, TaskWrite, id, reembed::Reembedding, rules, waits::Waits,
};
use crate::{embedding::Embeddings, limits::StoreLimits, revision::Era, scope::Scope};

pub(in crate::store) use {backup::copy_into, migration::plan as migration, verify::verify};

/// Connections that read at once; further reads wait.
const READERS_MAX: u32 = 4;
/// How long a read waits for one of them.
const READER_WAIT: Duration = Duration::from_secs(5);
/// How long a write waits for the model of its vector, at most: the reading of the table in the binary.
const MODEL_WAIT: Duration = Duration::from_secs(1);
/// When a memory was last recalled is this exact.
const RECALL_NOTED: Duration = Duration::from_mins(1);

/// Where the file is and how far it may grow.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// The database file; its folders are made.
    pub path: PathBuf,
    /// Limits of what is stored.
    pub limits: StoreLimits,
    /// The model of the vectors.
    pub embeddings: Arc<Embeddings>,
    /// Largest size of the file, in bytes; beyond it, writes fail as on a full disk. `None`: as the disk allows.
    pub file_bytes_max: Option<u64>,
}

impl SqliteOptions {
    /// A file with the default limits. A relative path is taken from the current folder.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self {
            path: std::path::absolute(&path).unwrap_or(path),
            limits: StoreLimits::default(),
            embeddings: Embeddings::builtin(),
            file_bytes_max: None,
        }
    }
}

/// What the writer and the readers share.
struct Shared {
    options: SqliteOptions,
    /// The file is not at its path any more.
    lost: AtomicBool,
}

/// The connections that read, for all but searches.
#[derive(Clone)]
struct Readers {
    pool: SqlitePool,
    waits: Arc<Waits>,
}

impl Readers {
    /// One of them.
    async fn get(&self) -> Result<PoolConnection<Sqlite>, sqlx::Error> {
        self.waits.acquire(&self.pool).await
    }
}

/// A [`Store`] in one SQLite file.
pub struct SqliteStore {
    shared: Arc<Shared>,
    readers: Readers,
    writer: Writer,
    ids: id::IdMint,
    marks: mark::Marks,
    counted: Counted,
    vectors: Arc<Table>,
    reembedding: Reembedding,
}

impl SqliteStore {
    /// Opens the file, making it where there is none and bringing an older one to the newest schema.
    ///
    /// Needs a tokio runtime, where its writing task lives until the store is dropped or closed.
    ///
    /// # Errors
    /// Every kind of [`StoreError`] that speaks of the file. A file that is not ours, damaged or newer is left as it is.
    pub async fn open(options: SqliteOptions) -> Result<Self, StoreError> {
        let connection = open::open(&options).await?;
        let path = options.path.clone();
        let identity = open::run_blocking(move || Ok(open::FileIdentity::of(&path))).await?;
        let pool = SqlitePoolOptions::new()
            .max_connections(READERS_MAX)
            .acquire_timeout(READER_WAIT)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_lazy_with(open::connect_options(&options).pragma("query_only", "ON"));
        let readers = Readers { pool, waits: Arc::default() };
        let shared = Arc::new(Shared { options, lost: AtomicBool::new(false) });
        let marks = mark::Marks::new(&shared.options.path);
        let writer = Writer::start(Arc::clone(&shared), connection, identity);
        let vectors = Arc::new(Table::new(Arc::clone(&shared), readers.clone(), writer.clone()));
        let table: Weak<Table> = Arc::downgrade(&vectors);
        let reembedding = Reembedding::start(table, Arc::clone(&shared.options.embeddings));
        Ok(Self {
            shared,
            readers,
            writer,
            ids: id::IdMint::default(),
            marks,
            counted: Counted::default(),
            vectors,
            reembedding,
        })
    }

    /// The vectors of `texts`, where that takes next to no time; who embeds in the background sees to them otherwise.
    async fn vectors_of(&self, texts: Vec<String>) -> Vec<Option<Vector>> {
        let count = texts.len();
        let embeddings = &self.shared.options.embeddings;
        if let Some(made) = embeddings.embed_at_once(texts, MODEL_WAIT).await
            && made.vectors.len() == count
        {
            let model = made.identity;
            let vectors = made.vectors.into_iter();
            return vectors.map(|exact| Some(Vector { model: model.clone(), exact })).collect();
        }
        vec![None; count]
    }

    fn limits(&self) -> &StoreLimits {
        &self.shared.options.limits
    }

    async fn stored_state_key(&self) -> Result<Option<[u8; 32]>, StoreError> {
        let mut reader = self.readers.get().await.map_err(|error| self.told(error))?;
        handle::state_key(&mut *reader).await.map_err(|error| self.told(error))
    }

    fn told(&self, error: impl Into<Fault>) -> StoreError {
        error.into().told(|error| classify(&self.shared.options.path, error))
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn remember(
        &self,
        scope: &Scope,
        new: NewMemory,
        now: Timestamp,
    ) -> Result<Remembered, StoreError> {
        let now = rules::whole_microseconds(now);
        let view = View::of(scope);
        let draft = rules::Draft::new(scope, new, self.limits(), now)?;
        let vector = self.vectors_of(vec![draft.content.clone()]).await.pop().flatten();
        let has_vector = vector.is_some();
        let write = memory::Remember {
            view: view.clone(),
            id: self.ids.mint(now)?,
            draft,
            vector,
            limits: *self.limits(),
            now,
        };
        let (memory, duplicate) = self.writer.write(write).await?;
        if !has_vector {
            self.reembedding.wake();
        }
        // The memory is stored; that no likeness could be looked for does not make it a failure.
        let similar = query::similar(&self.readers, &view, &memory, now).await.unwrap_or_else(|error| {
            let error = classify(&self.shared.options.path, &error);
            tracing::debug!(%error, "similar memories not looked for");
            Vec::new()
        });
        Ok(Remembered { memory, duplicate, similar })
    }

    async fn get(&self, scope: &Scope, id: &str, now: Timestamp) -> Result<Option<Memory>, StoreError> {
        query::get(&self.readers, &View::of(scope), id, now).await.map_err(|error| self.told(error))
    }

    async fn ids_ending(
        &self,
        scope: &Scope,
        ending: &str,
        now: Timestamp,
    ) -> Result<Vec<String>, StoreError> {
        query::ids_ending(&self.readers, &View::of(scope), ending, now)
            .await
            .map_err(|error| self.told(error))
    }

    async fn search(&self, scope: &Scope, query: MemoryQuery, now: Timestamp) -> Result<Hits, StoreError> {
        let query = MemoryQuery { filter: rules::normal_filter(query.filter), ..query };
        let searched = search::search(&self.vectors, &self.reembedding, &View::of(scope), query, now).await;
        searched.map_err(|error| self.told(error))
    }

    async fn recalled(&self, scope: &Scope, ids: &[String], now: Timestamp) -> Result<(), StoreError> {
        let now = rules::whole_microseconds(now);
        let since = now.checked_sub(RECALL_NOTED).unwrap_or(now);
        let seqs = query::recalled_before(&self.readers, &View::of(scope), ids, since, now)
            .await
            .map_err(|error| self.told(error))?;
        if seqs.is_empty() {
            return Ok(());
        }
        self.writer.write(memory::Recall { seqs, now }).await
    }

    async fn embedding(&self) -> Result<EmbeddingProgress, StoreError> {
        let model = self.shared.options.embeddings.identity().await.ok();
        self.vectors.progress(model).await.map_err(|error| self.told(error))
    }

    async fn list(&self, scope: &Scope, filter: MemoryFilter, now: Timestamp) -> Result<Hits, StoreError> {
        let filter = rules::normal_filter(filter);
        query::list(&self.readers, &View::of(scope), &filter, now).await.map_err(|error| self.told(error))
    }

    async fn update(
        &self,
        scope: &Scope,
        id: &str,
        change: MemoryChange,
        now: Timestamp,
    ) -> Result<Option<Memory>, StoreError> {
        let now = rules::whole_microseconds(now);
        let change = rules::normal_change(change, self.limits(), now)?;
        self.writer.write(memory::Update { view: View::of(scope), id: id.to_owned(), change, now }).await
    }

    async fn forget(&self, scope: &Scope, ids: &[String], now: Timestamp) -> Result<Forgotten, StoreError> {
        self.writer.write(memory::Forget { view: View::of(scope), ids: ids.to_vec(), now }).await
    }

    async fn stats(&self, scope: &Scope, now: Timestamp) -> Result<StoreStats, StoreError> {
        let counted = self.counted.get(&self.marks, &self.readers, scope, now).await;
        counted.map_err(|error| self.told(error))
    }

    async fn export(
        &self,
        scope: &Scope,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Memory>, StoreError> {
        query::export(&self.readers, &View::of(scope), after, limit)
            .await
            .map_err(|error| self.told(error))?
            .ok_or_else(|| StoreError::Invalid {
                field: "after",
                message: "names no memory of this scope; start the export anew".to_owned(),
            })
    }

    async fn import(
        &self,
        scope: &Scope,
        memories: Vec<Memory>,
        now: Timestamp,
    ) -> Result<ImportReport, StoreError> {
        let memories: Vec<Memory> = memories
            .into_iter()
            .map(|memory| rules::imported(scope, memory, self.limits()))
            .collect::<Result<_, _>>()?;
        let texts = memories.iter().map(|memory| memory.content.clone()).collect();
        let vectors = self.vectors_of(texts).await;
        let has_vectors = vectors.iter().all(Option::is_some);
        let memories = memories.into_iter().zip(vectors).collect();
        let report = self.writer.write(memory::Import { memories, now }).await?;
        if !has_vectors {
            self.reembedding.wake();
        }
        Ok(report)
    }

    async fn generation(&self, scope: &Scope) -> Result<u64, StoreError> {
        Ok(self.mark(scope).await?.generation)
    }

    async fn mark(&self, scope: &Scope) -> Result<Mark, StoreError> {
        self.marks.get(&self.readers, scope).await.map_err(|error| self.told(error))
    }

    async fn next_expiry(
        &self,
        scope: &Scope,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        query::next_expiry(&self.readers, &View::of(scope), now, until)
            .await
            .map_err(|error| self.told(error))
    }

    async fn open_session(&self, scope: &Scope, now: Timestamp) -> Result<String, StoreError> {
        let handle = id::mint_handle('s')?;
        let bound = Bound::new(&View::of(scope), id::handle_hash(&handle));
        self.writer.write(handle::OpenSession { bound, limits: *self.limits(), now }).await?;
        Ok(handle)
    }

    async fn session_scratch(
        &self,
        scope: &Scope,
        handle: &str,
        now: Timestamp,
    ) -> Result<Map<String, Value>, StoreError> {
        let bound = Bound::new(&View::of(scope), id::handle_hash(handle));
        let (scratch, stale) = handle::scratch(&self.readers, &bound, self.limits(), now)
            .await
            .map_err(|error| self.told(error))?;
        if stale {
            let touch = handle::UseSession { bound, change: None, limits: *self.limits(), now };
            self.writer.write(touch).await?;
        }
        Ok(scratch)
    }

    async fn set_session_scratch(
        &self,
        scope: &Scope,
        handle: &str,
        key: &str,
        value: Value,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let bound = Bound::new(&View::of(scope), id::handle_hash(handle));
        let change = Some((key.to_owned(), value));
        self.writer.write(handle::UseSession { bound, change, limits: *self.limits(), now }).await
    }

    async fn close_session(&self, scope: &Scope, handle: &str, now: Timestamp) -> Result<bool, StoreError> {
        let bound = Bound::new(&View::of(scope), id::handle_hash(handle));
        self.writer.write(handle::CloseSession { bound, limits: *self.limits(), now }).await
    }

    async fn end_session(
        &self,
        scope: &Scope,
        name: &str,
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let bound = Bound::new(&View::of(scope), id::handle_hash(name));
        self.writer.write(handle::EndSession { bound, expires, limits: *self.limits(), now }).await
    }

    async fn is_session_ended(&self, scope: &Scope, name: &str, now: Timestamp) -> Result<bool, StoreError> {
        let bound = Bound::new(&View::of(scope), id::handle_hash(name));
        handle::is_ended(&self.readers, &bound, now).await.map_err(|error| self.told(error))
    }

    async fn put_result(
        &self,
        scope: &Scope,
        result: StoredResult,
        now: Timestamp,
    ) -> Result<String, StoreError> {
        let value = rules::result_text(&result.value, self.limits())?;
        let handle = id::mint_handle('r')?;
        let bound = Bound::new(&View::of(scope), id::handle_hash(&handle));
        let pattern = result.pattern;
        self.writer.write(handle::PutResult { bound, pattern, value, limits: *self.limits(), now }).await?;
        Ok(handle)
    }

    async fn get_result(
        &self,
        scope: &Scope,
        handle: &str,
        now: Timestamp,
    ) -> Result<StoredResult, StoreError> {
        let bound = Bound::new(&View::of(scope), id::handle_hash(handle));
        handle::result(&self.readers, &bound, now).await.map_err(|error| self.told(error))
    }

    async fn has_result(&self, scope: &Scope, handle: &str, now: Timestamp) -> Result<bool, StoreError> {
        let bound = Bound::new(&View::of(scope), id::handle_hash(handle));
        self.marks.has_result(&self.readers, bound, now).await.map_err(|error| self.told(error))
    }

    async fn put_task(
        &self,
        scope: &Scope,
        task: NewTask,
        most: usize,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let NewTask { id, era, body, expires, lease } = task;
        let body = rules::task_text(&body, self.limits())?;
        let owner = Owner::new(&View::of(scope), era);
        self.writer.write(task::PutTask { owner, id, body, expires, lease, most, now }).await
    }

    async fn change_task(
        &self,
        scope: &Scope,
        era: Era,
        id: &str,
        change: TaskChange,
        now: Timestamp,
    ) -> Result<TaskWrite, StoreError> {
        let TaskChange { body, is_final, lease, only_abandoned } = change;
        let body = rules::task_text(&body, self.limits())?;
        let (owner, id) = (Owner::new(&View::of(scope), era), id.to_owned());
        self.writer.write(task::ChangeTask { owner, id, body, is_final, lease, only_abandoned, now }).await
    }

    async fn get_task(
        &self,
        scope: &Scope,
        era: Era,
        id: &str,
        now: Timestamp,
    ) -> Result<Option<StoredTask>, StoreError> {
        let owner = Owner::new(&View::of(scope), era);
        task::get(&self.readers, &owner, id, now).await.map_err(|error| self.told(error))
    }

    async fn list_tasks(
        &self,
        scope: &Scope,
        era: Era,
        now: Timestamp,
    ) -> Result<Vec<StoredTask>, StoreError> {
        let owner = Owner::new(&View::of(scope), era);
        task::list(&self.readers, &owner, now).await.map_err(|error| self.told(error))
    }

    fn load(&self) -> StoreLoad {
        let Readers { pool, waits } = &self.readers;
        let load = StoreLoad::of_pool(pool, waits).with_embedding(self.reembedding.progress());
        StoreLoad { writes_waiting: Some(self.writer.waiting()), ..load }
    }

    async fn state_key(&self) -> Result<[u8; 32], StoreError> {
        if let Some(key) = self.stored_state_key().await? {
            return Ok(key);
        }
        let mut fresh = [0; 32];
        id::fill(&mut fresh)?;
        self.writer.write(handle::StateKey { fresh }).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.writer.write(writer::Nothing).await
    }

    fn is_lost(&self) -> bool {
        self.shared.lost.load(Ordering::Acquire)
    }

    async fn close(&self, limit: Duration) {
        self.reembedding.end();
        let closing = async {
            self.vectors.searchers.close().await;
            self.readers.pool.close().await;
            self.writer.close().await;
        };
        if tokio::time::timeout(limit, closing).await.is_err() {
            tracing::warn!("the store did not close in time; what was acknowledged is safe");
        }
    }
}
