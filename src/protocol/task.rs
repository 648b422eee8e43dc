//! Tasks as the core and the service speak of them: one vocabulary for the experimental tasks of 2025-11-25 and the
//! extension `io.modelcontextprotocol/tasks` of 2026-07-28. On the wire the two have nothing in common; a task belongs to
//! the design that it was made under, and to the other it does not exist.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{Ask, CallError};

/// How a `tools/call` may become a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskOffer {
    /// 2025-11-25, `params.task`: the client wants one, and gets one at once.
    Wanted {
        /// How long the client would like it kept, from its making.
        ttl: Option<Duration>,
    },
    /// 2026-07-28: this request declares the extension. The server decides.
    Allowed,
}

/// A task as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Unguessable.
    pub id: String,
    /// Where it stands.
    pub state: TaskState,
    /// One line for a person.
    pub message: Option<String>,
    /// When it was made: milliseconds since 1970 in UTC.
    pub created_ms: u64,
    /// When it last changed, likewise.
    pub updated_ms: u64,
    /// How long it is kept, from its making; `None` is for ever.
    pub ttl: Option<Duration>,
    /// Worth asking again after so long.
    pub poll_interval: Option<Duration>,
}

/// Where a task stands. The last three are final.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskState {
    /// It runs.
    Working,
    /// It waits for the client: all that is asked and not answered, by keys unique for the task's whole life.
    InputRequired(Vec<(String, Ask)>),
    /// What the call would have answered, also where that says `isError` (which 2025-11-25 calls `failed`).
    Completed(Map<String, Value>),
    /// The call would have ended with a JSON-RPC error.
    Failed(CallError),
    /// The client, or the server's end, stopped it.
    Cancelled,
}

impl TaskState {
    /// Whether nothing can change any more.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Completed(_) | Self::Failed(_) | Self::Cancelled)
    }
}
