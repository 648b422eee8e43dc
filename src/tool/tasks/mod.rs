//! Calls that outlive their answer: one registry a process, for both designs of tasks.
//!
//! ```text
//! tools/call ─ Tasks::begin ─ ends within the grace ─ its own answer, and no task ever was
//!                └ else a task: kept, told of (`Change`), read, answered, cancelled through `Tasks::serve`
//! ```
//!
//! A task belongs to a principal in a project, and to the design that it was made under; to everybody else it does not
//! exist. It does not belong to a connection: whoever comes back as the same principal in the same project finds it.

mod entry;
mod keeping;
mod record;
mod serve;
mod start;
mod worker;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;

pub use worker::{NotAsked, Worker};

use self::entry::Entry;
use super::Change;
use crate::{
    engine::Clock,
    limits::TaskLimits,
    protocol::{Task, TaskState},
    schema::Gate,
    scope::Scope,
    store::SharedStore,
};

/// What a reader of a task that ended with its server is told.
const SERVER_STOPPED: &str = "the server stopped before it ended; call again";

/// How one call may run as a task. What is `None` is as the limits say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskOptions {
    /// A call that takes longer becomes a task, where that is for the server to decide.
    pub grace: Option<Duration>,
    /// And only where its work says [`Worker::outlive_call`], or asks the client something.
    pub on_request: bool,
    /// How long it is kept, unless the client wishes for less.
    pub ttl: Option<Duration>,
    /// How often the client is advised to look.
    pub poll_interval: Option<Duration>,
    /// Longest that it may run.
    pub deadline: Option<Duration>,
}

/// What the registry knows of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskFigures {
    /// Tasks that run now.
    pub running: usize,
    /// Tasks in memory, ended ones included.
    pub in_memory: usize,
    /// Tasks ever made.
    pub begun: u64,
    /// Of these, ended with a result, an error, or cancelled.
    pub ended: [u64; 3],
    /// Calls that found no room to become one.
    pub refused: u64,
}

impl TaskFigures {
    /// The labels of [`TaskFigures::ended`].
    pub const ENDED: [&'static str; 3] = ["completed", "failed", "cancelled"];
}

/// The tasks of one process, shared by all connections.
///
/// Must be used within a tokio runtime, as calls are. Making one costs nothing and does no I/O.
pub struct Tasks {
    limits: TaskLimits,
    keeper: Option<SharedStore>,
    clock: Arc<dyn Clock>,
    events: broadcast::Sender<Change>,
    gate: Gate,
    book: Mutex<Book>,
    /// Told whenever a task's work has come to its end.
    vacated: Notify,
    /// Cancelled when no task may begin any more.
    closing: CancellationToken,
    begun: AtomicU64,
    refused: AtomicU64,
    ended: [AtomicU64; 3],
}

/// Who is there.
#[derive(Default)]
struct Book {
    entries: HashMap<String, Arc<Entry>>,
    running: usize,
    running_of: HashMap<Box<str>, usize>,
}

impl Tasks {
    /// A registry without tasks. Changes are told to `events`; what outlives the process is in `keeper`.
    #[must_use]
    pub fn new(
        limits: TaskLimits,
        keeper: Option<SharedStore>,
        clock: Arc<dyn Clock>,
        events: broadcast::Sender<Change>,
    ) -> Arc<Self> {
        Arc::new(Self {
            limits,
            keeper,
            clock,
            events,
            gate: Gate::new(),
            book: Mutex::default(),
            vacated: Notify::new(),
            closing: CancellationToken::new(),
            begun: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            ended: Default::default(),
        })
    }

    /// The limits that hold here.
    #[must_use]
    pub const fn limits(&self) -> &TaskLimits {
        &self.limits
    }

    /// Counts.
    #[must_use]
    pub fn figures(&self) -> TaskFigures {
        let (running, in_memory) = {
            let book = self.book();
            (book.running, book.entries.len())
        };
        TaskFigures {
            running,
            in_memory,
            begun: self.begun.load(Ordering::Relaxed),
            ended: [0, 1, 2].map(|at| self.ended[at].load(Ordering::Relaxed)),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// No task begins from now on, and each that runs is cancelled; who waits for its result is told.
    pub async fn stop(&self) {
        self.closing.cancel();
        let running: Vec<Arc<Entry>> = self.book().entries.values().map(Arc::clone).collect();
        let ending = running.iter().filter(|entry| !entry.now().state.is_final()).map(|entry| {
            self.settle(entry, |task| {
                task.state = TaskState::Cancelled;
                task.message = Some(SERVER_STOPPED.to_owned());
            })
        });
        join_all(ending).await;
    }

    /// As [`Tasks::stop`]; then waits until the work has ended too, for `limit` in all.
    pub async fn close(&self, limit: Duration) {
        let closing = async {
            self.stop().await;
            loop {
                let vacated = self.vacated.notified();
                if self.book().running == 0 {
                    return;
                }
                vacated.await;
            }
        };
        if tokio::time::timeout(limit, closing).await.is_err() {
            tracing::warn!("tasks did not end in time; what is left of them ends with the process");
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.now().as_millisecond()).unwrap_or(0)
    }

    /// The end in memory: the first wins.
    fn publish_final(&self, entry: &Arc<Entry>, ended: Task) -> Arc<Task> {
        let place = match &ended.state {
            TaskState::Completed(_) => Some(0),
            TaskState::Failed(_) => Some(1),
            TaskState::Cancelled => Some(2),
            TaskState::Working | TaskState::InputRequired(_) => None,
        };
        let is_news = entry.change(
            ended.updated_ms,
            move |task| *task = ended,
            |event| {
                let _ = self.events.send(event);
            },
        );
        if is_news && let Some(place) = place {
            self.ended[place].fetch_add(1, Ordering::Relaxed);
        }
        entry.cancel.cancel();
        entry.now()
    }

    /// Changes a task that has not ended, and tells its owner. `false` where it has.
    fn publish(&self, entry: &Entry, change: impl FnOnce(&mut Task)) -> bool {
        let now_ms = self.now_ms();
        entry.change(now_ms, change, |event| {
            // No listener is no fault.
            let _ = self.events.send(event);
        })
    }
}

/// Whether a task of `owner` may be told of to `caller`.
fn is_owner(owner: &Scope, caller: &Scope) -> bool {
    owner.principal() == caller.principal() && owner.project() == caller.project()
}

/// All of `futures`, at once.
async fn join_all<T>(futures: impl IntoIterator<Item = impl Future<Output = T>>) {
    let mut waiting: Vec<_> = futures.into_iter().map(Box::pin).collect();
    std::future::poll_fn(|context| {
        waiting.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if waiting.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
