//! Memory, sessions, result handles and tasks: the traits, and what each call guarantees.
//!
//! Every call takes a [`Scope`]. A write is acknowledged after its transaction committed, never before.

mod changes;
mod error;
mod fault;
mod fuse;
mod id;
mod lazy;
mod model;
mod options;
mod postgres;
mod recall;
mod reembed;
mod rules;
mod sqlite;
mod terms;
mod turns;
mod upkeep;
mod view;
mod waits;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use serde_json::{Map, Value};

pub use changes::{Change, Changes};
pub use error::{Place, StoreError};
pub use id::{derived_id, is_short_id, short_id, whole_id};
pub use lazy::LazyStore;
pub use model::{
    EmbeddingProgress, Forgotten, Hit, Hits, ImportReport, Memory, MemoryChange, MemoryFilter, MemoryQuery,
    NewMemory, NewTask, Order, Remembered, Retrieval, StoreLoad, StoreStats, StoredResult, StoredTask,
    TaskChange, TaskWrite, Trust, Visibility,
};
pub use options::StoreOptions;
pub use postgres::{CONNECTIONS_MAX, PostgresFacts, PostgresOptions, PostgresStore};
pub use recall::note_recalled;
pub use rules::check_import;
pub use sqlite::{SqliteOptions, SqliteStore};
pub use upkeep::{
    CopyError, FINDINGS_TOLD_MAX, Finding, Flaw, MigrationPlan, MigrationStep, Verification, Watch,
};

use crate::{revision::Era, scope::Scope};

/// Where memories, sessions, results and tasks live.
///
/// **Isolation.** Reads see the scope's project and the principal's `personal` project, plus `shared` memories of the
/// same principal from any project; visibility `agent` is a wall around one agent of one principal (in the project and
/// in `personal`), `session` around one session of one principal in one project. `personal` is one project per
/// principal. Nothing else is ever returned, counted or hinted at: unknown and foreign answer alike. What a scope sees
/// it may also change and forget.
///
/// **Durability.** A call that writes returns after its transaction is on the disk. One that fails has changed nothing;
/// where the connection is lost while committing, it may have been stored. A caller that stops waiting cancels a write
/// that has not begun, no other.
///
/// **Reading.** Each call sees one state of the store, with everything acknowledged before it began.
///
/// **Time.** `now` is handed in, and kept to the microsecond. A memory is expired from its expiry on; it then counts as
/// gone. Order is the order in which memories were stored, so a clock that goes backwards neither loses nor reorders
/// what was acknowledged.
#[async_trait]
pub trait Store: Send + Sync {
    /// Stores a memory. Content equal to a live memory's in the same project and visibility (after Unicode NFC-free
    /// whitespace folding) stores nothing new: that memory is returned, its tags united, its importance the larger, its
    /// expiry the later. Visibility `agent` compares within the agent, `session` within the session, `shared` within the
    /// principal. `supersedes` must be visible, in the same project, not superseded before, and seen by nobody who would
    /// not see the new one; it is kept and marked.
    async fn remember(&self, scope: &Scope, new: NewMemory, now: Timestamp)
    -> Result<Remembered, StoreError>;

    /// One memory, or `None` where it is unknown, foreign or forgotten (the same answer for all three).
    async fn get(&self, scope: &Scope, id: &str, now: Timestamp) -> Result<Option<Memory>, StoreError>;

    /// The ids of visible memories that end in `ending`, which answers show in place of the whole id ([`is_short_id`]): two
    /// at most, for two are as good as more to say that it names no single one.
    async fn ids_ending(
        &self,
        scope: &Scope,
        ending: &str,
        now: Timestamp,
    ) -> Result<Vec<String>, StoreError>;

    /// Best first, by words, by meaning or by both ([`Retrieval`]). By words: memories with any of them, whole and in any
    /// English form; where there are none, those with words that begin so. By meaning: those whose vectors of the current
    /// model are near enough; vectors of different models are never compared. Filter and scope narrow what is looked at,
    /// not what was found: as many as asked for are returned where there are so many. Nothing in the text is syntax; a
    /// text without a word finds nothing. Where vectors cannot be had, a hybrid search goes by words alone.
    async fn search(&self, scope: &Scope, query: MemoryQuery, now: Timestamp) -> Result<Hits, StoreError>;

    /// Memories by filter, newest or most important first. Tags and kind are compared in their normal form.
    async fn list(&self, scope: &Scope, filter: MemoryFilter, now: Timestamp) -> Result<Hits, StoreError>;

    /// Notes that these memories were recalled at `now`. Best effort, to about a minute, and no write in the sense of
    /// [`Store::generation`]: neither `updated` nor the generation changes, unknown and foreign ids are passed over.
    async fn recalled(&self, scope: &Scope, ids: &[String], now: Timestamp) -> Result<(), StoreError> {
        let _ = (scope, ids, now);
        Ok(())
    }

    /// How far memories have vectors of the current model, in the whole store. A store embeds what has none by itself,
    /// in the background, from where an earlier process left off.
    async fn embedding(&self) -> Result<EmbeddingProgress, StoreError> {
        Ok(EmbeddingProgress::default())
    }

    /// Changes tags, importance, kind, expiry; content changes supersede instead.
    async fn update(
        &self,
        scope: &Scope,
        id: &str,
        change: MemoryChange,
        now: Timestamp,
    ) -> Result<Option<Memory>, StoreError>;

    /// Forgets memories by id: content and index entries are erased, a tombstone (id, time, principal) stays.
    async fn forget(&self, scope: &Scope, ids: &[String], now: Timestamp) -> Result<Forgotten, StoreError>;

    /// Counts for this scope.
    async fn stats(&self, scope: &Scope, now: Timestamp) -> Result<StoreStats, StoreError>;

    /// Everything the scope may see, in the order in which it was stored, in pages: `after` is the last id of the page
    /// before (also where it was forgotten since). Superseded and expired memories are part of it.
    async fn export(
        &self,
        scope: &Scope,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Memory>, StoreError>;

    /// Takes memories as exported, in one transaction: existing ids with equal content are skipped, with other content
    /// reported as conflicts and left alone; so are ids that were forgotten. A memory that the scope could not see
    /// refuses the whole import.
    async fn import(
        &self,
        scope: &Scope,
        memories: Vec<Memory>,
        now: Timestamp,
    ) -> Result<ImportReport, StoreError>;

    /// Changed by every committed memory write that this scope may notice (in its project, the principal's `personal`,
    /// or `shared` of the principal), and by the vectors of such memories that come later, in the transaction of the
    /// write. A value that no other state of these memories has, before or after, also not once a copy of the store was
    /// put in its place: an equal one means equal memories and vectors, a larger one nothing. An expiry is no write:
    /// whoever keeps what was read must not keep it beyond the earliest expiry in it.
    async fn generation(&self, scope: &Scope) -> Result<u64, StoreError>;

    /// What reads of this scope depend on: [`Store::generation`], and whether its session matters. Cheap: it is asked
    /// before every answer that is kept.
    async fn mark(&self, scope: &Scope) -> Result<Mark, StoreError> {
        Ok(Mark { generation: self.generation(scope).await?, has_session: scope.session().is_some() })
    }

    /// The first time after `now` and up to `until` at which a memory expires that this scope may see (or perhaps may):
    /// from then on its reads may differ without a write. Where a store does not know, that is `now`.
    async fn next_expiry(
        &self,
        scope: &Scope,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Option<Timestamp>, StoreError> {
        let _ = (scope, until);
        Ok(Some(now))
    }

    /// Tells of every memory write that is committed from now on, by whatever process, while the subscription is kept;
    /// `None` where the store does not tell. Then [`Store::generation`] is to be asked.
    async fn changes(&self) -> Result<Option<Changes>, StoreError> {
        Ok(None)
    }

    /// Mints a session handle (`s_` and 128 random bits, base64url) bound to principal and project. Only its hash is
    /// kept. Beyond the limit of handles per project, the session unused for longest goes.
    async fn open_session(&self, scope: &Scope, now: Timestamp) -> Result<String, StoreError>;

    /// The session's scratch, or [`StoreError::UnknownHandle`] for an unknown, expired or foreign handle. Touches it
    /// (to a minute; a thousandth of an idle time that is shorter than that allows).
    async fn session_scratch(
        &self,
        scope: &Scope,
        handle: &str,
        now: Timestamp,
    ) -> Result<Map<String, Value>, StoreError>;

    /// Replaces one scratch value (null removes it); bounded by the scratch limit.
    async fn set_session_scratch(
        &self,
        scope: &Scope,
        handle: &str,
        key: &str,
        value: Value,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Ends a session. `false` where there was none for this scope.
    async fn close_session(&self, scope: &Scope, handle: &str, now: Timestamp) -> Result<bool, StoreError>;

    /// Notes until `expires` that the session `name` of a transport was ended: an unguessable name, bound to principal and
    /// project by whoever made it, that would still be taken for good elsewhere. Only its hash is kept. Beyond the limit of
    /// handles per project, what expires first goes.
    ///
    /// A store that does not note it says so with [`StoreError::Unavailable`].
    async fn end_session(
        &self,
        scope: &Scope,
        name: &str,
        expires: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let _ = (scope, name, expires, now);
        Err(StoreError::Unavailable { reason: "it notes no ends of sessions".to_owned() })
    }

    /// Whether that was noted of `name` for the scope's principal and project, and has not expired.
    async fn is_session_ended(&self, scope: &Scope, name: &str, now: Timestamp) -> Result<bool, StoreError> {
        let _ = (scope, name, now);
        Ok(false)
    }

    /// Keeps a result behind a handle (`r_` and 128 random bits), immutable, bound to principal and project. Beyond the
    /// limit of handles per project, the oldest result goes.
    async fn put_result(
        &self,
        scope: &Scope,
        result: StoredResult,
        now: Timestamp,
    ) -> Result<String, StoreError>;

    /// The result behind `handle`, or [`StoreError::UnknownHandle`].
    async fn get_result(
        &self,
        scope: &Scope,
        handle: &str,
        now: Timestamp,
    ) -> Result<StoredResult, StoreError>;

    /// Whether [`Store::get_result`] would find a result behind `handle`, without reading it.
    async fn has_result(&self, scope: &Scope, handle: &str, now: Timestamp) -> Result<bool, StoreError> {
        match self.get_result(scope, handle, now).await {
            Ok(_) => Ok(true),
            Err(StoreError::UnknownHandle) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Keeps a new task, bound to principal, project and era. Where the principal then has more than `most` in the project,
    /// the oldest final ones go; running ones never do. A body is bounded as a result is.
    ///
    /// A store that keeps no tasks says so with [`StoreError::Unavailable`]: they end with their process.
    async fn put_task(
        &self,
        scope: &Scope,
        task: NewTask,
        most: usize,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let _ = (scope, task, most, now);
        Err(no_tasks())
    }

    /// Changes a task that is not final, in one step with looking whether it is: of two that end it, whoever asks, the
    /// first wins, and the other is told what it now is. Unknown, expired, foreign and of the other era are one case.
    async fn change_task(
        &self,
        scope: &Scope,
        era: Era,
        id: &str,
        change: TaskChange,
        now: Timestamp,
    ) -> Result<TaskWrite, StoreError> {
        let _ = (scope, era, id, change, now);
        Err(no_tasks())
    }

    /// One task, or `None` where it is unknown, expired, foreign or of the other era (the same answer for all four).
    async fn get_task(
        &self,
        scope: &Scope,
        era: Era,
        id: &str,
        now: Timestamp,
    ) -> Result<Option<StoredTask>, StoreError> {
        let _ = (scope, era, id, now);
        Err(no_tasks())
    }

    /// All tasks of the principal in the project that were made under `era`, newest first.
    async fn list_tasks(
        &self,
        scope: &Scope,
        era: Era,
        now: Timestamp,
    ) -> Result<Vec<StoredTask>, StoreError> {
        let _ = (scope, era, now);
        Err(no_tasks())
    }

    /// Looks whether writes are taken now, as a write that changes nothing: with the same waits and the same errors.
    async fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// Whether it can be used, as far as it knows without looking; `None` where it does not keep account.
    fn state(&self) -> Option<StoreState> {
        None
    }

    /// How busy it is, as far as it knows without looking; nothing where it does not keep account, or is not open.
    fn load(&self) -> StoreLoad {
        StoreLoad::default()
    }

    /// 32 secret bytes that every process on this store shares, made at the first call.
    async fn state_key(&self) -> Result<[u8; 32], StoreError>;

    /// Whether what it lies on was moved, replaced or deleted while in use: it is of no more use, one opened anew may be.
    fn is_lost(&self) -> bool {
        false
    }

    /// Closes cleanly, within `limit`.
    async fn close(&self, limit: Duration);
}

/// What reads of a scope depend on: under an equal mark, the same principal and agent read the same in the same project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// See [`Store::generation`].
    pub generation: u64,
    /// Whether the scope's session may see what other sessions of the principal do not.
    pub has_session: bool,
}

fn no_tasks() -> StoreError {
    StoreError::Unavailable { reason: "it keeps no tasks".to_owned() }
}

/// What a store knows of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreState {
    /// Nobody has needed it yet, or it was closed for good.
    Closed,
    /// The last opening went well.
    Open,
    /// The last opening failed.
    Failed,
}

impl StoreState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::Failed];

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::Failed => "failed",
        }
    }
}

/// A store shared by everything in the process.
pub type SharedStore = Arc<dyn Store>;
