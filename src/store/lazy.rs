//! A store that is opened when it is first needed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::{sync::Mutex, time::Instant};

use super::{
    Changes, EmbeddingProgress, Forgotten, Hits, ImportReport, Mark, Memory, MemoryChange, MemoryFilter,
    MemoryQuery, NewMemory, NewTask, Remembered, Store, StoreError, StoreOptions, StoreState, StoreStats,
    StoredResult, StoredTask, TaskChange, TaskWrite,
};
use crate::{revision::Era, scope::Scope};

/// After a failed opening, calls get its error for so long before the next one tries again.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// A [`Store`] that touches no file and no network before the first call, tries again after a failure, and opens anew
/// where its file was replaced.
pub struct LazyStore {
    options: StoreOptions,
    state: Mutex<State>,
    /// The same for those who only look: the place in [`StoreState::ALL`].
    told: AtomicUsize,
    /// Whoever calls is somebody else than whose file it is.
    is_discreet: bool,
}

enum State {
    Closed,
    Failed {
        error: StoreError,
        since: Instant,
    },
    Open(Arc<dyn Store>),
    /// For good.
    Ended,
}

impl LazyStore {
    /// A store where `options` say; nothing is opened or made yet.
    #[must_use]
    pub fn new(options: impl Into<StoreOptions>) -> Self {
        Self {
            options: options.into(),
            state: Mutex::new(State::Closed),
            told: AtomicUsize::new(0),
            is_discreet: false,
        }
    }

    /// The same for a server with many clients: where the file is stands in the log, not in their errors.
    #[must_use]
    pub fn discreet(options: impl Into<StoreOptions>) -> Self {
        Self { is_discreet: true, ..Self::new(options) }
    }

    /// An outcome as its caller may see it.
    fn shown<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        outcome.map_err(|error| {
            if !self.is_discreet {
                return error;
            }
            let shown = match self.options.path() {
                Some(path) => error.without_folder(path),
                None => error.repeated(),
            };
            tracing::debug!(%error, "a call of the store failed");
            shown
        })
    }

    fn tell(&self, state: StoreState) {
        self.told.store(state as usize, Ordering::Relaxed);
    }

    /// The open store. Callers that come while it is being opened wait for the one opening.
    async fn store(&self) -> Result<Arc<dyn Store>, StoreError> {
        let mut state = self.state.lock().await;
        match &*state {
            State::Open(store) if !store.is_lost() => return Ok(Arc::clone(store)),
            State::Failed { error, since } if since.elapsed() < RETRY_AFTER => return Err(error.repeated()),
            State::Ended => {
                return Err(StoreError::Unavailable { reason: "it was closed; start tmws again".to_owned() });
            }
            State::Open(_) | State::Failed { .. } | State::Closed => {}
        }
        match self.options.open().await {
            Ok(store) => {
                *state = State::Open(Arc::clone(&store));
                self.tell(StoreState::Open);
                Ok(store)
            }
            Err(error) => {
                tracing::warn!(%error, "the store cannot be opened");
                let told = error.repeated();
                *state = State::Failed { error, since: Instant::now() };
                self.tell(StoreState::Failed);
                Err(told)
            }
        }
    }
}

#[async_trait]
impl Store for LazyStore {
    async fn remember(
        &self,
        scope: &Scope,
        new: NewMemory,
        now: Timestamp,
    ) -> Result<Remembered, StoreError> {
        self.shown(async { self.store().await?.remember(scope, new, now).await }.await)
    }

    async fn get(&self, scope: &Scope, id: &str, now: Timestamp) -> Result<Option<Memory>, StoreError> {
        self.shown(async { self.store().await?.get(scope, id, now).await }.await)
    }

    async fn search(&self, scope: &Scope, query: MemoryQuery, now: Timestamp) -> Result<Hits, StoreError> {
        self.shown(async { self.store().await?.search(scope, query, now).await }.await)
    }

    async fn recalled(&self, scope: &Scope, ids: &[String], now: Timestamp) -> Result<(), StoreError> {
        self.shown(async { self.store().await?.recalled(scope, ids, now).await }.await)
    }

    async fn embedding(&self) -> Result<EmbeddingProgress, StoreError> {
        self.shown(async { self.store().await?.embedding().await }.await)
    }

    async fn mark(&self, scope: &Scope) -> Result<Mark, StoreError> {
        self.shown(async { self.store().await?.mark(scope).await }.await)
    }

    async fn changes(&self) -> Result<Option<Changes>, StoreError> {
        self.shown(async { self.store().await?.changes().await }.await)
    }

    async fn list(&self, scope: &Scope, filter: MemoryFilter, now: Timestamp) -> Result<Hits, StoreError> {
        self.shown(async { self.store().await?.list(scope, filter, now).await }.await)
    }

    async fn update(
        &self,
        scope: &Scope,
        id: &str,
        change: MemoryChange,
        now: Timestamp,
    ) -> Result<Option<Memory>, StoreError> {
        self.shown(async { self.store().await?.update(scope, id, change, now).await }.await)
    }

    async fn forget(&self, scope: &Scope, ids: &[String], now: Timestamp) -> Result<Forgotten, StoreError> {
        self.shown(async { self.store().await?.forget(scope, ids, now).await }.await)
    }

    async fn stats(&self, scope: &Scope, now: Timestamp) -> Result<StoreStats, StoreError> {
        self.shown(async { self.store().await?.stats(scope, now).await }.await)
    }

    async fn export(
        &self,
        scope: &Scope,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Memory>, StoreError> {
        self.shown(async { self.store().await?.export(scope, after, limit).await }.await)
    }

    async fn import(
        &self,
        scope: &Scope,
        memories: Vec<Memory>,
        now: Timestamp,
    ) -> Result<ImportReport, StoreError> {
        self.shown(async { self.store().await?.import(scope, memories, now).await }.await)
    }

    async fn generation(&self, scope: &Scope) -> Result<u64, StoreError> {
        self.shown(async { self.store().await?.generation(scope).await }.await)
    }

    async fn open_session(&self, scope: &Scope, now: Timestamp) -> Result<String, StoreError> {
        self.shown(async { self.store().await?.open_session(scope, now).await }.await)
    }

    async fn session_scratch(
        &self,
        scope: &Scope,
        handle: &str,
        now: Timestamp,
    ) -> Result<Map<String, Value>, StoreError> {
        self.shown(async { self.store().await?.session_scratch(scope, handle, now).await }.await)
    }

    async fn set_session_scratch(
        &self,
        scope: &Scope,
        handle: &str,
        key: &str,
        value: Value,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.shown(
            async { self.store().await?.set_session_scratch(scope, handle, key, value, now).await }.await,
        )
    }

    async fn close_session(&self, scope: &Scope, handle: &str, now: Timestamp) -> Result<bool, StoreError> {
        self.shown(async { self.store().await?.close_session(scope, handle, now).await }.await)
    }

    async fn put_result(
        &self,
        scope: &Scope,
        result: StoredResult,
        now: Timestamp,
    ) -> Result<String, StoreError> {
        self.shown(async { self.store().await?.put_result(scope, result, now).await }.await)
    }

    async fn get_result(
        &self,
        scope: &Scope,
        handle: &str,
        now: Timestamp,
    ) -> Result<StoredResult, StoreError> {
        self.shown(async { self.store().await?.get_result(scope, handle, now).await }.await)
    }

    async fn put_task(
        &self,
        scope: &Scope,
        task: NewTask,
        most: usize,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.shown(async { self.store().await?.put_task(scope, task, most, now).await }.await)
    }

    async fn change_task(
        &self,
        scope: &Scope,
        era: Era,
        id: &str,
        change: TaskChange,
        now: Timestamp,
    ) -> Result<TaskWrite, StoreError> {
        self.shown(async { self.store().await?.change_task(scope, era, id, change, now).await }.await)
    }

    async fn get_task(
        &self,
        scope: &Scope,
        era: Era,
        id: &str,
        now: Timestamp,
    ) -> Result<Option<StoredTask>, StoreError> {
        self.shown(async { self.store().await?.get_task(scope, era, id, now).await }.await)
    }

    async fn list_tasks(
        &self,
        scope: &Scope,
        era: Era,
        now: Timestamp,
    ) -> Result<Vec<StoredTask>, StoreError> {
        self.shown(async { self.store().await?.list_tasks(scope, era, now).await }.await)
    }

    async fn state_key(&self) -> Result<[u8; 32], StoreError> {
        self.shown(async { self.store().await?.state_key().await }.await)
    }

    async fn check(&self) -> Result<(), StoreError> {
        self.shown(async { self.store().await?.check().await }.await)
    }

    fn state(&self) -> Option<StoreState> {
        StoreState::ALL.get(self.told.load(Ordering::Relaxed)).copied()
    }

    async fn close(&self, limit: Duration) {
        let started = Instant::now();
        // An opening that goes on longer than that is left alone: nothing was acknowledged by it.
        let Ok(mut state) = tokio::time::timeout(limit, self.state.lock()).await else { return };
        self.tell(StoreState::Closed);
        if let State::Open(store) = std::mem::replace(&mut *state, State::Ended) {
            store.close(limit.saturating_sub(started.elapsed())).await;
        }
    }
}
