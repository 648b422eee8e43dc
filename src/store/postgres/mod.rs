//! The shared store: PostgreSQL with pgvector, for any number of processes on any number of machines.
//!
//! Every call is one transaction whose rows are walled twice: by its own statements, and by row-level security with what
//! the transaction names ([`transaction`]).

mod beside;
mod fault;
mod gather;
mod handle;
mod lexeme;
mod listen;
mod mark;
mod memory;
mod open;
mod query;
mod row;
mod schema;
mod search;
mod stem;
mod task;
mod transaction;
mod vectors;
mod verify;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Map, Value};
use sqlx::postgres::PgConnectOptions;

use self::{
    gather::Gathering,
    handle::Bound,
    listen::Listening,
    task::Owner,
    transaction::{Database, Nothing},
};
use super::{
    Changes, EmbeddingProgress, Forgotten, Hits, ImportReport, Mark, Memory, MemoryChange, MemoryFilter,
    MemoryQuery, NewMemory, NewTask, Place, Remembered, Store, StoreError, StoreLoad, StoreStats,
    StoredResult, StoredTask, TaskChange, TaskWrite, id, rules, turns::Turns, view::View,
};
use crate::{embedding::Embeddings, limits::StoreLimits, revision::Era, scope::Scope};

pub(in crate::store) use verify::{migration, verify};

/// Connections at once, where nobody says how many.
pub const CONNECTIONS_MAX: u32 = 10;

/// Which server and database, and how far it may be used.
#[derive(Clone)]
pub struct PostgresOptions {
    /// `postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=…`: a secret, never shown.
    pub url: String,
    /// Limits of what is stored.
    pub limits: StoreLimits,
    /// The model of the vectors.
    pub embeddings: Arc<Embeddings>,
    /// Connections at once.
    pub connections_max: u32,
}

impl PostgresOptions {
    /// A database with the default limits.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            limits: StoreLimits::default(),
            embeddings: Embeddings::builtin(),
            connections_max: CONNECTIONS_MAX,
        }
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// A server and what it holds, as found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PostgresFacts {
    /// Where it is.
    pub place: Place,
    /// Its version, as it says it.
    pub server: String,
    /// Version of the extension; `None` where it is not in the database yet.
    pub vector: Option<String>,
    /// Version of our schema; 0 where there is none yet.
    pub schema: i64,
    /// The newest version of the schema that this binary knows.
    pub schema_known: i64,
    /// Whether the connection is encrypted.
    pub is_encrypted: bool,
    /// Whether row-level security holds for what this store does, or will once it is opened.
    pub is_walled: bool,
}

/// What a store is made of; background work holds it too.
struct Shared {
    database: Arc<Database>,
    options: PostgresOptions,
    /// How the tables' owner connects: for what only it may do. Never shown.
    owner: PgConnectOptions,
    /// Whether `hnsw.iterative_scan` is there: pgvector 0.8 or newer.
    scans_iteratively: bool,
    ids: id::IdMint,
    models: vectors::Models,
    frequencies: search::Frequencies,
    turns: Option<Turns>,
    listening: Arc<Listening>,
    marks: mark::Marks,
    /// Results, by their realm.
    results: Arc<Gathering<handle::NewResult>>,
    /// Memories that were recalled and when, by exactly who reads them.
    recalled: Arc<Gathering<(Vec<String>, Timestamp)>>,
}

/// A [`Store`] in a PostgreSQL database.
pub struct PostgresStore {
    shared: Arc<Shared>,
}

impl PostgresStore {
    /// Opens the database, bringing it to the newest schema. Its connections belong to the tokio runtime it is called on.
    ///
    /// # Errors
    /// Every kind of [`StoreError`] that speaks of the server or the database. A schema that is newer, or not ours, is
    /// left as it is.
    pub async fn open(options: PostgresOptions) -> Result<Arc<dyn Store>, StoreError> {
        let shared = Arc::new(open::open(options).await?);
        shared.models.start(&shared);
        Ok(Arc::new(Self { shared }))
    }

    /// What stands at the other end and what opening would do, changing nothing.
    ///
    /// # Errors
    /// As [`PostgresStore::open`].
    pub async fn inspect(options: &PostgresOptions) -> Result<PostgresFacts, StoreError> {
        open::inspect(options).await
    }

    fn database(&self) -> &Arc<Database> {
        &self.shared.database
    }

    fn limits(&self) -> StoreLimits {
        self.shared.options.limits
    }
}

impl Drop for PostgresStore {
    fn drop(&mut self) {
        self.shared.listening.end();
    }
}

#[async_trait]
impl Store for PostgresStore {
    async fn remember(
        &self,
        scope: &Scope,
        new: NewMemory,
        now: Timestamp,
    ) -> Result<Remembered, StoreError> {
        memory::remember(&self.shared, scope, new, now).await
    }

    async fn get(&self, scope: &Scope, id: &str, now: Timestamp) -> Result<Option<Memory>, StoreError> {
        query::get(&self.shared, scope, id, now).await
    }

    async fn ids_ending(
        &self,
        scope: &Scope,
        ending: &str,
        now: Timestamp,
    ) -> Result<Vec<String>, StoreError> {
        query::ids_ending(&self.shared, scope, ending, now).await
    }

    async fn search(&self, scope: &Scope, query: MemoryQuery, now: Timestamp) -> Result<Hits, StoreError> {
        search::search(&self.shared, scope, query, now).await
    }

    async fn list(&self, scope: &Scope, filter: MemoryFilter, now: Timestamp) -> Result<Hits, StoreError> {
        query::list(&self.shared, scope, filter, now).await
    }

    async fn recalled(&self, scope: &Scope, ids: &[String], now: Timestamp) -> Result<(), StoreError> {
        memory::recalled(&self.shared, scope, ids, now).await
    }

    async fn embedding(&self) -> Result<EmbeddingProgress, StoreError> {
        query::embedding(&self.shared).await
    }

    async fn update(
        &self,
        scope: &Scope,
        id: &str,
        change: MemoryChange,
        now: Timestamp,
    ) -> Result<Option<Memory>, StoreError> {
        memory::update(&self.shared, scope, id, change, now).await
    }

    async fn forget(&self, scope: &Scope, ids: &[String], now: Timestamp) -> Result<Forgotten, StoreError> {
        memory::forget(&self.shared, scope, ids, now).await
    }

    async fn stats(&self, scope: &Scope, now: Timestamp) -> Result<StoreStats, StoreError> {
        query::stats(&self.shared, scope, now).await
    }

    async fn export(
        &self,
        scope: &Scope,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Memory>, StoreError> {
        query::export(&self.shared, scope, after, limit).await
    }

    async fn import(
        &self,
        scope: &Scope,
        memories: Vec<Memory>,
        _now: Timestamp,
    ) -> Result<ImportReport, StoreError> {
        memory::import(&self.shared, scope, memories).await
    }

    async fn generation(&self, scope: &Scope) -> Result<u64, StoreError> {
        Ok(self.mark(scope).await?.generation)
    }

    async fn mark(&self, scope: &Scope) -> Result<Mark, StoreError> {
        self.shared.marks.get(self.database(), View::of(scope)).await
    }

    async fn next_expiry(
        &self,
        scope: &Scope,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        let view = View::of(scope);
        let mut tx = self.database().read_planned(&view, transaction::KEPT_PLANS).await?;
        let first: Result<Option<i64>, _> = sqlx::query_scalar(
            "SELECT m.expires FROM tmws.memory m WHERE m.expires > $4 AND m.expires <= $5 \
             AND m.audience IN ($1, $2, $3) ORDER BY m.expires LIMIT 1",
        )
        .bind(&view.realm)
        .bind(&view.personal)
        .bind(&view.shared)
        .bind(now.as_microsecond())
        .bind(until.as_microsecond())
        .fetch_optional(&mut *tx)
        .await;
        let first = first.map_err(|error| self.database().told(error))?;
        Ok(first.and_then(|first| Timestamp::from_microsecond(first).ok()))
    }

    async fn changes(&self) -> Result<Option<Changes>, StoreError> {
        Ok(Some(self.shared.listening.subscribe(self.database())))
    }

    async fn open_session(&self, scope: &Scope, now: Timestamp) -> Result<String, StoreError> {
        let handle = id::mint_handle('s')?;
        let view = View::of(scope);
        let bound = Bound { view: view.clone(), hash: id::handle_hash(&handle) };
        let write = handle::OpenSession { bound, limits: self.limits(), now };
        self.database().write(&view, write).await?;
        Ok(handle)
    }

    async fn session_scratch(
        &self,
        scope: &Scope,
        handle: &str,
        now: Timestamp,
    ) -> Result<Map<String, Value>, StoreError> {
        let view = View::of(scope);
        let bound = Bound { view: view.clone(), hash: id::handle_hash(handle) };
        let (scratch, stale) = handle::scratch(self.database(), &bound, &self.limits(), now).await?;
        if stale {
            let touch = handle::UseSession { bound, change: None, limits: self.limits(), now };
            self.database().write(&view, touch).await?;
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
        let view = View::of(scope);
        let bound = Bound { view: view.clone(), hash: id::handle_hash(handle) };
        let change = Some((key.to_owned(), value));
        let write = handle::UseSession { bound, change, limits: self.limits(), now };
        self.database().write(&view, write).await
    }

    async fn close_session(&self, scope: &Scope, handle: &str, now: Timestamp) -> Result<bool, StoreError> {
        let view = View::of(scope);
        let bound = Bound { view: view.clone(), hash: id::handle_hash(handle) };
        self.database().write(&view, handle::CloseSession { bound, limits: self.limits(), now }).await
    }

    async fn end_session(
        &self,
        scope: &Scope,
        name: &str,
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let view = View::of(scope);
        let bound = Bound { view: view.clone(), hash: id::handle_hash(name) };
        self.database().write(&view, handle::EndSession { bound, expires, limits: self.limits(), now }).await
    }

    async fn is_session_ended(&self, scope: &Scope, name: &str, now: Timestamp) -> Result<bool, StoreError> {
        let bound = Bound { view: View::of(scope), hash: id::handle_hash(name) };
        handle::is_ended(self.database(), &bound, now).await
    }

    async fn put_result(
        &self,
        scope: &Scope,
        result: StoredResult,
        now: Timestamp,
    ) -> Result<String, StoreError> {
        let limits = self.limits();
        let value = rules::result_text(&result.value, &limits)?;
        let handle = id::mint_handle('r')?;
        let bound = Bound { view: View::of(scope), hash: id::handle_hash(&handle) };
        let (realm, database) = (bound.view.realm.clone(), Arc::clone(self.database()));
        let write = move |results| {
            let database = Arc::clone(&database);
            async move { handle::PutResults { results, limits }.put(&database).await }
        };
        let new = handle::NewResult { bound, pattern: result.pattern, value, now };
        self.shared.results.put(realm, new, write).await?;
        Ok(handle)
    }

    async fn get_result(
        &self,
        scope: &Scope,
        handle: &str,
        now: Timestamp,
    ) -> Result<StoredResult, StoreError> {
        let bound = Bound { view: View::of(scope), hash: id::handle_hash(handle) };
        handle::result(self.database(), &bound, now).await
    }

    async fn has_result(&self, scope: &Scope, handle: &str, now: Timestamp) -> Result<bool, StoreError> {
        let bound = Bound { view: View::of(scope), hash: id::handle_hash(handle) };
        handle::has_result(self.database(), &bound, now).await
    }

    async fn put_task(
        &self,
        scope: &Scope,
        task: NewTask,
        most: usize,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let NewTask { id, era, body, expires, lease } = task;
        let body = rules::task_text(&body, &self.limits())?;
        let view = View::of(scope);
        let owner = Owner::new(view.clone(), era);
        self.database().write(&view, task::PutTask { owner, id, body, expires, lease, most, now }).await
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
        let body = rules::task_text(&body, &self.limits())?;
        if !can_be_text(id) {
            return Ok(TaskWrite::Gone);
        }
        let view = View::of(scope);
        let (owner, id) = (Owner::new(view.clone(), era), id.to_owned());
        let write = task::ChangeTask { owner, id, body, is_final, lease, only_abandoned, now };
        self.database().write(&view, write).await
    }

    async fn get_task(
        &self,
        scope: &Scope,
        era: Era,
        id: &str,
        now: Timestamp,
    ) -> Result<Option<StoredTask>, StoreError> {
        if !can_be_text(id) {
            return Ok(None);
        }
        task::get(self.database(), &Owner::new(View::of(scope), era), id, now).await
    }

    async fn list_tasks(
        &self,
        scope: &Scope,
        era: Era,
        now: Timestamp,
    ) -> Result<Vec<StoredTask>, StoreError> {
        task::list(self.database(), &Owner::new(View::of(scope), era), now).await
    }

    fn load(&self) -> StoreLoad {
        let Database { pool, waits, .. } = &**self.database();
        StoreLoad::of_pool(pool, waits).with_embedding(self.shared.models.progress())
    }

    async fn state_key(&self) -> Result<[u8; 32], StoreError> {
        if let Some(key) = handle::state_key(self.database()).await? {
            return Ok(key);
        }
        let mut fresh = [0; 32];
        id::fill(&mut fresh)?;
        self.database().write(transaction::Wall::Whole, handle::StateKey { fresh }).await
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.database().write(transaction::Wall::Whole, Nothing).await
    }

    async fn close(&self, limit: Duration) {
        self.shared.models.end();
        self.shared.listening.end();
        if tokio::time::timeout(limit, self.database().pool.close()).await.is_err() {
            tracing::warn!("the store did not close in time; what was acknowledged is safe");
        }
    }
}

/// Whether the type `text` of PostgreSQL could hold it: a NUL it cannot, so nothing is called so.
fn can_be_text(text: &str) -> bool {
    !text.contains('\0')
}
