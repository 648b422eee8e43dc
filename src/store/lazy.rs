//! A store that is opened when it is first needed, and left alone for a moment where it fails.

use std::{
    sync::{
        Arc, Mutex as StdMutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant as StdInstant},
};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Map, Value};
use tokio::{
    sync::Mutex,
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    Changes, EmbeddingProgress, Forgotten, Hits, ImportReport, Mark, Memory, MemoryChange, MemoryFilter,
    MemoryQuery, NewMemory, NewTask, Remembered, Store, StoreError, StoreLoad, StoreOptions, StoreState,
    StoreStats, StoredResult, StoredTask, TaskChange, TaskWrite,
};
use crate::{
    resilience::{self, Backend, BackendKind, Backends, Entry, Guard, Pauses, STORE},
    revision::Era,
    scope::Scope,
};

/// Who says nothing of its time waits so long for a place among the calls.
const PLACE_MAX: Duration = Duration::from_secs(10);
/// So long before its caller's time is over a call ends, or by a quarter where that is less, so that its own typed error
/// still arrives.
const ENDS_EARLY: Duration = Duration::from_millis(50);
/// Longest wait for a server's answer: to what is read, to a search that may have a model read first, and to a write, which
/// may wait for the locks of others.
const READ_MAX: Duration = Duration::from_secs(3);
const SEARCH_MAX: Duration = Duration::from_secs(8);
const WRITE_MAX: Duration = Duration::from_secs(10);
/// An opening whose caller has left may go on until it has taken so long.
const OPEN_MAX: Duration = Duration::from_secs(20);
/// A read that failed sooner than this is asked again.
const QUICK: Duration = Duration::from_millis(500);

/// A [`Store`] that touches no file and no network before the first call, tries again after a failure, and opens anew
/// where its file was replaced.
///
/// **Guarded.** A breaker stands before it: after failures in a row that mean that it is gone, locked or slow, and at
/// once where it cannot be opened, calls get the last error without a try; after a pause one of them tries. No call
/// waits beyond its caller's deadline ([`resilience::until`]), nor for a server that has stopped answering.
pub struct LazyStore {
    options: Arc<StoreOptions>,
    state: Arc<Mutex<State>>,
    /// The same for those who only look: the place in [`StoreState::ALL`].
    told: Arc<AtomicUsize>,
    /// Whoever calls is somebody else than whose file it is.
    is_discreet: bool,
    guard: Arc<Guard>,
    /// What calls get that are not let through.
    last: StdMutex<Option<StoreError>>,
    /// Ends an opening that nobody waits for any more.
    ended: CancellationToken,
}

enum State {
    Closed,
    /// The last opening failed, then.
    Failed {
        error: StoreError,
        at: Instant,
    },
    Open(Arc<dyn Store>),
    /// For good.
    Ended,
}

/// What a call does, as far as it matters to how long it may take and whether it may be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ask {
    /// Reads little.
    Read,
    /// Reads, perhaps with a model.
    Search,
    /// Changes something.
    Write,
    /// Reads or changes much: takes as long as it takes.
    Long,
}

impl Ask {
    const fn limit(self, is_model_read: bool) -> Option<Duration> {
        match self {
            Self::Search if !is_model_read => Some(SEARCH_MAX),
            Self::Read | Self::Search => Some(READ_MAX),
            Self::Write => Some(WRITE_MAX),
            Self::Long => None,
        }
    }

    fn late(self) -> StoreError {
        let reason = match self {
            Self::Read | Self::Search => "it did not answer in time; try again in a moment",
            Self::Write | Self::Long => {
                "it did not answer in time: what was being written may or may not be stored; look before you write it \
                 again"
            }
        };
        StoreError::Unavailable { reason: reason.to_owned() }
    }
}

/// Why a try failed.
enum Failed {
    /// The store was not asked: it could not be opened.
    Opening(StoreError),
    /// It was not asked: somebody else just found out, or it was closed for good.
    Unasked(StoreError),
    /// It says so.
    Told(StoreError),
    /// The time was over.
    Late,
}

/// One try of a call; what failed is told to the breaker. `Err`: the error for the caller, and until when the same may be
/// asked again, where it may.
macro_rules! attempt {
    ($lazy:expr, $ask:expr, $store:ident => $call:expr) => {{
        let (lazy, ask): (&Self, Ask) = ($lazy, $ask);
        match lazy.enter(ask).await {
            Err(error) => Err((error, None)),
            Ok((entry, end)) => {
                let began = Instant::now();
                let is_asked = AtomicBool::new(false);
                let work = async {
                    let $store = lazy.store(began, end, &is_asked).await?;
                    let answer = async { $call.await.map_err(Failed::Told) };
                    match lazy.answer_by(ask) {
                        Some(until) => timeout_at(until, answer).await.unwrap_or(Err(Failed::Late)),
                        None => answer.await,
                    }
                };
                let tried = match end {
                    Some(end) => timeout_at(end, work).await.unwrap_or(Err(Failed::Late)),
                    None => work.await,
                };
                match tried {
                    Ok(answer) => {
                        entry.succeed();
                        Ok(answer)
                    }
                    Err(failed) => {
                        let failed = match failed {
                            // It waited for somebody else's opening, who tells how that went.
                            Failed::Late if !is_asked.load(Ordering::Relaxed) => {
                                Failed::Unasked(Ask::Read.late())
                            }
                            failed => failed,
                        };
                        let (error, is_worth_it) = lazy.fail(entry, failed, ask);
                        let is_quick = is_worth_it && began.elapsed() < QUICK;
                        Err((error, is_quick.then(|| end.unwrap_or_else(|| began + PLACE_MAX))))
                    }
                }
            }
        }
    }};
}

/// Asks for what only reads: again, where the store is gone at once.
macro_rules! read {
    ($lazy:expr, $ask:ident, $store:ident => $call:expr) => {{
        let mut pauses = Pauses::of_a_read();
        let outcome = loop {
            match attempt!($lazy, Ask::$ask, $store => $call) {
                Ok(answer) => break Ok(answer),
                Err((error, None)) => break Err(error),
                Err((error, Some(until))) => {
                    if !pauses.wait(&$lazy.guard, Duration::ZERO, until.into_std()).await {
                        break Err(error);
                    }
                }
            }
        };
        $lazy.shown(outcome)
    }};
}

/// Asks once.
macro_rules! once {
    ($lazy:expr, $ask:ident, $store:ident => $call:expr) => {{
        let outcome = attempt!($lazy, Ask::$ask, $store => $call);
        $lazy.shown(outcome.map_err(|(error, _)| error))
    }};
}

impl LazyStore {
    /// A store where `options` say; nothing is opened or made yet.
    #[must_use]
    pub fn new(options: impl Into<StoreOptions>) -> Self {
        let backend = Backend { kind: BackendKind::Database, name: STORE.into() };
        Self {
            options: Arc::new(options.into()),
            state: Arc::new(Mutex::new(State::Closed)),
            told: Arc::default(),
            is_discreet: false,
            guard: Arc::new(Guard::new(backend, BackendKind::Database.settings())),
            last: StdMutex::default(),
            ended: CancellationToken::new(),
        }
    }

    /// The same for a server with many clients: where the file is stands in the log, not in their errors.
    #[must_use]
    pub fn discreet(options: impl Into<StoreOptions>) -> Self {
        Self { is_discreet: true, ..Self::new(options) }
    }

    /// The same, known to `backends`.
    #[must_use]
    pub fn known_to(self, backends: &Backends) -> Self {
        Self { guard: backends.guard(BackendKind::Database, STORE), ..self }
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

    /// A place among the calls, and until when this one can wait where that is known.
    async fn enter(&self, ask: Ask) -> Result<(Entry<'_>, Option<Instant>), StoreError> {
        let now = StdInstant::now();
        let end = resilience::deadline().map(|end| {
            let left = end.saturating_duration_since(now);
            now + left.saturating_sub(ENDS_EARLY.min(left / 4))
        });
        let entered = self.guard.enter(end.unwrap_or(now + PLACE_MAX)).await;
        match entered {
            Ok(entry) => Ok((entry, end.map(Instant::from_std))),
            Err(shut) if shut.is_busy => Err(StoreError::Busy),
            Err(_) => Err(self.last().as_ref().map_or_else(|| ask.late(), StoreError::repeated)),
        }
    }

    /// When a server that has said nothing is given up.
    fn answer_by(&self, ask: Ask) -> Option<Instant> {
        match &*self.options {
            // What lies in a file is there, or is locked, which has a limit of its own.
            StoreOptions::Sqlite(_) => None,
            StoreOptions::Postgres(options) => {
                ask.limit(options.embeddings.is_ready()).map(|limit| Instant::now() + limit)
            }
        }
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<StoreError>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the breaker of a failure. The error for the caller, and whether the same may be asked again.
    fn fail(&self, entry: Entry<'_>, failed: Failed, ask: Ask) -> (StoreError, bool) {
        let keep = |error: &StoreError| *self.last() = Some(error.repeated());
        match failed {
            Failed::Opening(error) => {
                keep(&error);
                // Trying it is dear, and others would do the same.
                entry.fail(Some(Duration::ZERO), &error.to_string());
                (error, false)
            }
            Failed::Unasked(error) => {
                resilience::note(format!("{}: failed", self.guard.backend()));
                entry.dismiss();
                (error, false)
            }
            Failed::Late => {
                let error = ask.late();
                keep(&Ask::Read.late());
                entry.give_up();
                (error, false)
            }
            Failed::Told(error) => match &error {
                StoreError::Unavailable { .. } | StoreError::Locked => {
                    keep(&error);
                    entry.fail(None, &error.to_string());
                    let is_gone = matches!(error, StoreError::Unavailable { .. });
                    (error, is_gone)
                }
                StoreError::Invalid { .. } | StoreError::UnknownHandle => {
                    entry.succeed();
                    (error, false)
                }
                StoreError::Busy
                | StoreError::ReadOnly { .. }
                | StoreError::Corrupt { .. }
                | StoreError::NewerVersion { .. }
                | StoreError::Unsuitable { .. }
                | StoreError::LoginRefused { .. }
                | StoreError::DiskFull { .. }
                | StoreError::Internal(_) => {
                    // It answers; what is wrong with it is another matter.
                    entry.succeed();
                    (error, false)
                }
            },
        }
    }

    /// The open store. Callers that come while it is being opened wait for the one opening, and get its error. It goes on
    /// without the call that began it, which waits until `end`: what takes longer to open is there for the next one. From
    /// when on this call asks itself is told in `is_asked`.
    async fn store(
        &self,
        began: Instant,
        end: Option<Instant>,
        is_asked: &AtomicBool,
    ) -> Result<Arc<dyn Store>, Failed> {
        let mut state = Arc::clone(&self.state).lock_owned().await;
        is_asked.store(true, Ordering::Relaxed);
        match &*state {
            State::Open(store) if !store.is_lost() => return Ok(Arc::clone(store)),
            State::Failed { error, at } if *at >= began => return Err(Failed::Unasked(error.repeated())),
            State::Ended => return Err(Failed::Unasked(closed())),
            State::Open(_) | State::Failed { .. } | State::Closed => {}
        }
        let (options, told, ended) = (Arc::clone(&self.options), Arc::clone(&self.told), self.ended.clone());
        let limit = end.map(|end| end.max(Instant::now() + OPEN_MAX));
        let opening = async move {
            let open = async {
                match limit {
                    Some(limit) => {
                        timeout_at(limit, options.open()).await.unwrap_or_else(|_| Err(Ask::Read.late()))
                    }
                    None => options.open().await,
                }
            };
            let opened = tokio::select! {
                biased;
                () = ended.cancelled() => Err(closed()),
                opened = open => opened,
            };
            match opened {
                Ok(store) => {
                    *state = State::Open(Arc::clone(&store));
                    told.store(StoreState::Open as usize, Ordering::Relaxed);
                    Ok(store)
                }
                Err(error) => {
                    let is_known = matches!(
                        &*state, State::Failed { error: last, .. } if last.to_string() == error.to_string()
                    );
                    if !is_known && !ended.is_cancelled() {
                        tracing::warn!(%error, "the store cannot be opened");
                    }
                    let shown = error.repeated();
                    *state = State::Failed { error, at: Instant::now() };
                    told.store(StoreState::Failed as usize, Ordering::Relaxed);
                    Err(Failed::Opening(shown))
                }
            }
        };
        let opened = tokio::spawn(opening.in_current_span()).await;
        opened.unwrap_or_else(|_| {
            let reason = "its opening broke off; try again in a moment".to_owned();
            Err(Failed::Opening(StoreError::Unavailable { reason }))
        })
    }
}

fn closed() -> StoreError {
    StoreError::Unavailable { reason: "it was closed; start tmws again".to_owned() }
}

#[async_trait]
impl Store for LazyStore {
    async fn remember(
        &self,
        scope: &Scope,
        new: NewMemory,
        now: Timestamp,
    ) -> Result<Remembered, StoreError> {
        once!(self, Write, store => store.remember(scope, new, now))
    }

    async fn get(&self, scope: &Scope, id: &str, now: Timestamp) -> Result<Option<Memory>, StoreError> {
        read!(self, Read, store => store.get(scope, id, now))
    }

    async fn ids_ending(
        &self,
        scope: &Scope,
        ending: &str,
        now: Timestamp,
    ) -> Result<Vec<String>, StoreError> {
        read!(self, Read, store => store.ids_ending(scope, ending, now))
    }

    async fn search(&self, scope: &Scope, query: MemoryQuery, now: Timestamp) -> Result<Hits, StoreError> {
        read!(self, Search, store => store.search(scope, query.clone(), now))
    }

    async fn recalled(&self, scope: &Scope, ids: &[String], now: Timestamp) -> Result<(), StoreError> {
        once!(self, Write, store => store.recalled(scope, ids, now))
    }

    async fn embedding(&self) -> Result<EmbeddingProgress, StoreError> {
        read!(self, Read, store => store.embedding())
    }

    async fn mark(&self, scope: &Scope) -> Result<Mark, StoreError> {
        read!(self, Read, store => store.mark(scope))
    }

    async fn next_expiry(
        &self,
        scope: &Scope,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        read!(self, Read, store => store.next_expiry(scope, now, until))
    }

    async fn changes(&self) -> Result<Option<Changes>, StoreError> {
        read!(self, Read, store => store.changes())
    }

    async fn list(&self, scope: &Scope, filter: MemoryFilter, now: Timestamp) -> Result<Hits, StoreError> {
        read!(self, Read, store => store.list(scope, filter.clone(), now))
    }

    async fn update(
        &self,
        scope: &Scope,
        id: &str,
        change: MemoryChange,
        now: Timestamp,
    ) -> Result<Option<Memory>, StoreError> {
        once!(self, Write, store => store.update(scope, id, change, now))
    }

    async fn forget(&self, scope: &Scope, ids: &[String], now: Timestamp) -> Result<Forgotten, StoreError> {
        once!(self, Write, store => store.forget(scope, ids, now))
    }

    async fn stats(&self, scope: &Scope, now: Timestamp) -> Result<StoreStats, StoreError> {
        read!(self, Search, store => store.stats(scope, now))
    }

    async fn export(
        &self,
        scope: &Scope,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Memory>, StoreError> {
        once!(self, Long, store => store.export(scope, after, limit))
    }

    async fn import(
        &self,
        scope: &Scope,
        memories: Vec<Memory>,
        now: Timestamp,
    ) -> Result<ImportReport, StoreError> {
        once!(self, Long, store => store.import(scope, memories, now))
    }

    async fn generation(&self, scope: &Scope) -> Result<u64, StoreError> {
        read!(self, Read, store => store.generation(scope))
    }

    async fn open_session(&self, scope: &Scope, now: Timestamp) -> Result<String, StoreError> {
        once!(self, Write, store => store.open_session(scope, now))
    }

    async fn session_scratch(
        &self,
        scope: &Scope,
        handle: &str,
        now: Timestamp,
    ) -> Result<Map<String, Value>, StoreError> {
        read!(self, Read, store => store.session_scratch(scope, handle, now))
    }

    async fn set_session_scratch(
        &self,
        scope: &Scope,
        handle: &str,
        key: &str,
        value: Value,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        once!(self, Write, store => store.set_session_scratch(scope, handle, key, value, now))
    }

    async fn close_session(&self, scope: &Scope, handle: &str, now: Timestamp) -> Result<bool, StoreError> {
        once!(self, Write, store => store.close_session(scope, handle, now))
    }

    async fn end_session(
        &self,
        scope: &Scope,
        name: &str,
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        once!(self, Write, store => store.end_session(scope, name, expires, now))
    }

    async fn is_session_ended(&self, scope: &Scope, name: &str, now: Timestamp) -> Result<bool, StoreError> {
        read!(self, Read, store => store.is_session_ended(scope, name, now))
    }

    async fn put_result(
        &self,
        scope: &Scope,
        result: StoredResult,
        now: Timestamp,
    ) -> Result<String, StoreError> {
        once!(self, Write, store => store.put_result(scope, result, now))
    }

    async fn get_result(
        &self,
        scope: &Scope,
        handle: &str,
        now: Timestamp,
    ) -> Result<StoredResult, StoreError> {
        read!(self, Read, store => store.get_result(scope, handle, now))
    }

    async fn has_result(&self, scope: &Scope, handle: &str, now: Timestamp) -> Result<bool, StoreError> {
        read!(self, Read, store => store.has_result(scope, handle, now))
    }

    async fn put_task(
        &self,
        scope: &Scope,
        task: NewTask,
        most: usize,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        once!(self, Write, store => store.put_task(scope, task, most, now))
    }

    async fn change_task(
        &self,
        scope: &Scope,
        era: Era,
        id: &str,
        change: TaskChange,
        now: Timestamp,
    ) -> Result<TaskWrite, StoreError> {
        once!(self, Write, store => store.change_task(scope, era, id, change, now))
    }

    async fn get_task(
        &self,
        scope: &Scope,
        era: Era,
        id: &str,
        now: Timestamp,
    ) -> Result<Option<StoredTask>, StoreError> {
        read!(self, Read, store => store.get_task(scope, era, id, now))
    }

    async fn list_tasks(
        &self,
        scope: &Scope,
        era: Era,
        now: Timestamp,
    ) -> Result<Vec<StoredTask>, StoreError> {
        read!(self, Read, store => store.list_tasks(scope, era, now))
    }

    async fn state_key(&self) -> Result<[u8; 32], StoreError> {
        once!(self, Write, store => store.state_key())
    }

    async fn check(&self) -> Result<(), StoreError> {
        once!(self, Write, store => store.check())
    }

    fn load(&self) -> StoreLoad {
        // Where it is being opened there is nothing to tell.
        match self.state.try_lock().as_deref() {
            Ok(State::Open(store)) => store.load(),
            Ok(_) | Err(_) => StoreLoad::default(),
        }
    }

    fn state(&self) -> Option<StoreState> {
        StoreState::ALL.get(self.told.load(Ordering::Relaxed)).copied()
    }

    async fn close(&self, limit: Duration) {
        let started = Instant::now();
        // Nothing was acknowledged by an opening that still goes on.
        self.ended.cancel();
        let Ok(mut state) = tokio::time::timeout(limit, self.state.lock()).await else { return };
        self.tell(StoreState::Closed);
        if let State::Open(store) = std::mem::replace(&mut *state, State::Ended) {
            store.close(limit.saturating_sub(started.elapsed())).await;
        }
    }
}
