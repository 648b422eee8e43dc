//! Memories, results and tasks, and what is asked of them: plain values.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{reembed::Progress, waits::Waits};
use crate::{embedding::Identity, revision::Era};

/// Who may see a memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Only the session that stored it.
    Session,
    /// Only the agent of the principal that stored it.
    Agent,
    /// Everybody in the project.
    #[default]
    Project,
    /// Every project of the principal.
    Shared,
}

/// How far recalled content may be trusted. Recalled text is data, never an instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// Said by the user.
    User,
    /// Stored by an agent.
    #[default]
    Agent,
    /// Came from outside: a page, a file, another server.
    External,
}

/// One memory. Also the line format of export and import (JSON Lines).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// `m_` and 26 characters (time-ordered, Crockford base 32).
    pub id: String,
    /// Project it belongs to.
    pub project: String,
    /// The text.
    pub content: String,
    /// Sorted, lower-case, without duplicates.
    #[serde(default)]
    pub tags: Vec<String>,
    /// 0 to 1.
    pub importance: f64,
    /// `note`, `decision`, `fact`, `todo`, …: free, lower-case.
    pub kind: String,
    /// Who may see it.
    #[serde(default)]
    pub visibility: Visibility,
    /// How far to trust it.
    #[serde(default)]
    pub trust: Trust,
    /// Principal that stored it.
    pub principal: String,
    /// Agent that stored it.
    pub agent: String,
    /// Session that stored it (opaque), for visibility `session`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The memory that this one replaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supersedes: Option<String>,
    /// The memory that replaced this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded_by: Option<String>,
    /// When it was stored.
    pub created: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
    /// When it was last found by a search or read; kept to about a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recalled: Option<Timestamp>,
    /// When it disappears by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// What `remember` takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewMemory {
    /// The text; not blank.
    pub content: String,
    /// Any case, any order.
    pub tags: Vec<String>,
    /// 0 to 1; 0.5 where absent.
    pub importance: Option<f64>,
    /// `note` where absent.
    pub kind: Option<String>,
    /// Who may see it.
    pub visibility: Visibility,
    /// How far to trust it.
    pub trust: Trust,
    /// Id of the memory that this one replaces.
    pub supersedes: Option<String>,
    /// When it disappears by itself.
    pub expires: Option<Timestamp>,
}

/// What `remember` did.
#[derive(Clone, Debug, PartialEq)]
pub struct Remembered {
    /// The memory as stored.
    pub memory: Memory,
    /// Equal content was there already: nothing new was stored.
    pub duplicate: bool,
    /// Ids of live memories with nearly the same words (lexically), at most 3: candidates for `supersedes`.
    pub similar: Vec<String>,
}

/// What `update` changes; `None` leaves a field alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryChange {
    /// All tags anew.
    pub tags: Option<Vec<String>>,
    /// 0 to 1.
    pub importance: Option<f64>,
    /// Kind.
    pub kind: Option<String>,
    /// Expiry; `Some(None)` removes it.
    pub expires: Option<Option<Timestamp>>,
}

/// Narrows what is listed or searched.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryFilter {
    /// All of these tags.
    pub tags: Vec<String>,
    /// Of this kind.
    pub kind: Option<String>,
    /// At least this important.
    pub importance_min: Option<f64>,
    /// Stored at or after.
    pub since: Option<Timestamp>,
    /// Stored before.
    pub until: Option<Timestamp>,
    /// Also those that were superseded.
    pub superseded: bool,
    /// Order of a list (a search is ordered by rank).
    pub order: Order,
    /// At most so many.
    pub limit: usize,
    /// Skip so many.
    pub offset: usize,
}

impl Default for MemoryFilter {
    fn default() -> Self {
        Self {
            tags: Vec::new(),
            kind: None,
            importance_min: None,
            since: None,
            until: None,
            superseded: false,
            order: Order::Newest,
            limit: 20,
            offset: 0,
        }
    }
}

/// Order of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Latest first.
    #[default]
    Newest,
    /// Earliest first.
    Oldest,
    /// Most important first, then latest.
    Important,
}

/// How a search looks for memories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retrieval {
    /// By words and by meaning, the two orders fused by reciprocal rank (Cormack et al., SIGIR 2009).
    #[default]
    Hybrid,
    /// By words alone.
    Lexical,
    /// By meaning alone: the nearest vectors of the current embedding model.
    Vector,
}

/// How far the vectors of a store are those of its current model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EmbeddingProgress {
    /// The current model; `None` where there is none, or it cannot be used.
    pub model: Option<Identity>,
    /// Memories that have a vector of it.
    pub embedded: u64,
    /// Memories in all.
    pub memories: u64,
}

/// How busy a store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreLoad {
    /// Connections to its database, or its file, that are open.
    pub connections: Option<u32>,
    /// Of these so many have nothing to do.
    pub idle: Option<u32>,
    /// Times that a call found none of them idle, and waited for one.
    pub waits: Option<u64>,
    /// How long these waited, together.
    pub waited: Option<Duration>,
    /// Writes that wait for the one task that writes.
    pub writes_waiting: Option<usize>,
    /// Memories that this process gave a vector in the background.
    pub embedded: Option<u64>,
    /// Memories without a vector of the current model, as this process last counted them.
    pub unembedded: Option<u64>,
}

impl StoreLoad {
    /// Of a pool.
    pub(in crate::store) fn of_pool<D: sqlx::Database>(pool: &sqlx::Pool<D>, waits: &Waits) -> Self {
        Self {
            connections: Some(pool.size()),
            idle: u32::try_from(pool.num_idle()).ok(),
            waits: Some(waits.count()),
            waited: Some(waits.waited()),
            ..Self::default()
        }
    }

    /// With what was embedded in the background.
    pub(in crate::store) fn with_embedding(self, progress: Option<Progress>) -> Self {
        let embedded = progress.map(|progress| progress.embedded);
        let unembedded = progress.and_then(|progress| progress.unembedded);
        Self { embedded, unembedded, ..self }
    }
}

/// A search: free words, never query syntax.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MemoryQuery {
    /// Any text; its words are looked for, any of them, rarer ones weigh more.
    pub text: String,
    /// How.
    pub by: Retrieval,
    /// Narrows the search.
    pub filter: MemoryFilter,
}

/// One memory found.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The memory.
    pub memory: Memory,
    /// 0 to 1, larger is better; 1 in a list. In a search never more than the hit before it, and otherwise the larger of
    /// two: the share of the query's telling words that the memory holds, lowered in proportion to how much rarer and
    /// more frequent those of the best hit are, and the cosine similarity of its vector to the query's.
    pub score: f64,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hits {
    /// Best or first ones.
    pub hits: Vec<Hit>,
    /// How many match in all. In a search, how many there are to page through: those with the words, counted up to
    /// 200, and those near in meaning, of which at least 50 and three times what was asked for are looked at.
    pub total: u64,
}

/// What `forget` did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Forgotten now.
    pub forgotten: Vec<String>,
    /// Unknown, foreign or gone already.
    pub unknown: Vec<String>,
}

/// What `import` did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportReport {
    /// New ones.
    pub imported: u64,
    /// Equal ones that were there already.
    pub skipped: u64,
    /// Ids that exist with other content; left alone.
    pub conflicts: Vec<String>,
}

/// Counts for one scope.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Live memories.
    pub memories: u64,
    /// Superseded ones, kept as history.
    pub superseded: u64,
    /// Per tag, most frequent first, at most 20.
    pub tags: Vec<(String, u64)>,
    /// Per kind.
    pub kinds: Vec<(String, u64)>,
}

/// A result kept behind a handle.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredResult {
    /// Pattern and version that made it.
    pub pattern: String,
    /// The whole output before shrinking.
    pub value: Value,
}

/// A task to keep. What it is stays its registry's business.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTask {
    /// Unguessable, and never used before.
    pub id: String,
    /// The design that it was made under.
    pub era: Era,
    /// The whole of it.
    pub body: Value,
    /// From then on it is gone.
    pub expires: Timestamp,
    /// Until then its process is known to run it.
    pub lease: Timestamp,
}

/// A change of a task.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskChange {
    /// The whole of it from now on.
    pub body: Value,
    /// Whether it is the last change.
    pub is_final: bool,
    /// Until then its process is known to run it.
    pub lease: Timestamp,
    /// It is to be changed only where its lease has ended.
    pub only_abandoned: bool,
}

/// A task as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredTask {
    /// The whole of it.
    pub body: Value,
    /// Whether nothing can change any more.
    pub is_final: bool,
    /// Until then its process is known to run it.
    pub lease: Timestamp,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskWrite {
    /// It is kept.
    Written,
    /// It was not to be made: this stays.
    Kept(StoredTask),
    /// There is no such task.
    Gone,
}
