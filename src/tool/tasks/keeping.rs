//! Tasks in the store: kept while they run, so that whoever looks later, here or in another process, finds them; and
//! brought to their end there first, so that of two ends the first is the one that all see.
//!
//! Where the store fails, a task goes on in memory, and the log says so.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};
use tracing::{debug, warn};

use super::{
    Tasks,
    entry::{Entry, expiry_ms},
    record,
};
use crate::{
    protocol::{CallError, Task, TaskState},
    revision::Era,
    scope::Scope,
    store::{NewTask, SharedStore, StoreError, StoredTask, TaskChange, TaskWrite},
};

/// An answer waits so long for the store, and no longer.
const STORE_WAIT: Duration = Duration::from_secs(1);
/// Longer than any process runs.
const FOR_EVER: Duration = Duration::from_hours(24 * 365);
/// A lease is renewed so many times before it ends.
const RENEWALS: u32 = 3;
/// What a reader of a task is told whose process is gone.
const SERVER_GONE: &str = "the server that ran it ended before it did; call again";

/// What who waits for a task is told when it is not kept any longer.
const EXPIRED: &str =
    "the time for which it was to be kept was over before it ended; call again and ask for more";

impl Tasks {
    /// Looks after a task for as long as it is in memory: keeps each change, renews its lease, learns of an end that another
    /// process gave it, forgets it when it is kept elsewhere or expired. `kept` is told when it can be read elsewhere.
    pub(super) async fn look_after(self: Arc<Self>, entry: Arc<Entry>, kept: oneshot::Sender<()>) {
        let mut changes = entry.watch();
        let task = Arc::clone(&changes.borrow_and_update());
        let gone = Instant::now() + task.ttl.unwrap_or(FOR_EVER);
        if let Some(keeper) = &self.keeper
            && let Err(error) = self.put(keeper, &entry, &task).await
        {
            warn!(%error, "a task could not be kept in the store; for now it is in memory alone");
        }
        // Nobody may be waiting any more.
        let _ = kept.send(());
        drop(task);
        loop {
            let renewal = self.limits.lease / RENEWALS;
            let is_kept = tokio::select! {
                seen = changes.changed() => {
                    if seen.is_err() {
                        return;
                    }
                    self.keep(&entry).await
                }
                () = tokio::time::sleep(renewal), if self.keeper.is_some() => self.keep(&entry).await,
                () = tokio::time::sleep_until(gone) => {
                    // Nobody can find it any more; who has found it before is told.
                    self.expire(&entry);
                    break;
                }
            };
            if is_kept && entry.now().state.is_final() {
                break;
            }
        }
        let mut book = self.book();
        if book.entries.get(&entry.now().id).is_some_and(|there| Arc::ptr_eq(there, &entry)) {
            book.entries.remove(&entry.now().id);
        }
    }

    /// Keeps a task as it is now. Whether the store has all of it.
    async fn keep(&self, entry: &Arc<Entry>) -> bool {
        let Some(keeper) = &self.keeper else { return false };
        let task = entry.now();
        if task.state.is_final() && entry.is_saved() {
            return true;
        }
        let written = match self.write(keeper, entry, &task, false).await {
            // The file is another, or had no room when the task was made.
            Ok(TaskWrite::Gone) => match self.put(keeper, entry, &task).await {
                Ok(()) => self.write(keeper, entry, &task, false).await,
                Err(error) => Err(error),
            },
            written => written,
        };
        match written {
            Ok(TaskWrite::Written) => true,
            Ok(TaskWrite::Kept(stored)) => {
                if stored.is_final {
                    debug!("another process brought a task to its end");
                    entry.set_saved();
                    self.publish_final(entry, read(&stored, &task));
                }
                stored.is_final
            }
            Ok(TaskWrite::Gone) => false,
            Err(error) => {
                warn!(%error, "a task could not be kept in the store; for now it is in memory alone");
                false
            }
        }
    }

    async fn put(&self, keeper: &SharedStore, entry: &Entry, task: &Task) -> Result<(), StoreError> {
        let now = self.clock.now();
        let new = NewTask {
            id: task.id.clone(),
            era: entry.era,
            body: record::write(task),
            expires: timestamp(expiry_ms(task)),
            lease: self.lease(now),
        };
        keeper.put_task(&entry.scope, new, self.limits.kept_max, now).await
    }

    async fn write(
        &self,
        keeper: &SharedStore,
        entry: &Entry,
        task: &Task,
        only_abandoned: bool,
    ) -> Result<TaskWrite, StoreError> {
        self.write_as(keeper, &entry.scope, entry.era, task, only_abandoned).await
    }

    async fn write_as(
        &self,
        keeper: &SharedStore,
        scope: &Scope,
        era: Era,
        task: &Task,
        only_abandoned: bool,
    ) -> Result<TaskWrite, StoreError> {
        let now = self.clock.now();
        let change = TaskChange {
            body: record::write(task),
            is_final: task.state.is_final(),
            lease: self.lease(now),
            only_abandoned,
        };
        keeper.change_task(scope, era, &task.id, change, now).await
    }

    fn lease(&self, now: Timestamp) -> Timestamp {
        let lease = SignedDuration::try_from(self.limits.lease).unwrap_or(SignedDuration::MAX);
        now.saturating_add(lease).unwrap_or(Timestamp::MAX)
    }

    /// Brings a task to its end, unless it is there already: what it then is.
    pub(super) async fn settle(&self, entry: &Arc<Entry>, change: impl FnOnce(&mut Task)) -> Arc<Task> {
        let _ending = entry.ending().await;
        let before = entry.now();
        if before.state.is_final() {
            return before;
        }
        let mut ended = Task::clone(&before);
        change(&mut ended);
        ended.updated_ms = self.now_ms().max(before.updated_ms);
        if let Some(keeper) = &self.keeper {
            match timeout(STORE_WAIT, self.write(keeper, entry, &ended, false)).await {
                Ok(Ok(TaskWrite::Written)) => entry.set_saved(),
                Ok(Ok(TaskWrite::Kept(stored))) if stored.is_final => {
                    entry.set_saved();
                    ended = read(&stored, &ended);
                }
                // Whoever looks after it tries again.
                Ok(Ok(TaskWrite::Kept(_) | TaskWrite::Gone)) => {}
                Ok(Err(error)) => {
                    warn!(%error, "the end of a task could not be kept in the store; for now it is in memory alone");
                }
                Err(_) => {
                    warn!("the store did not keep the end of a task in time; for now it is in memory alone");
                }
            }
        }
        self.publish_final(entry, ended)
    }

    /// The end of a task that is not kept any longer, unless it has ended: in memory alone, as the store forgets it too.
    fn expire(&self, entry: &Arc<Entry>) {
        let before = entry.now();
        if !before.state.is_final() {
            let message = Some(EXPIRED.to_owned());
            let ended = Task { state: TaskState::Cancelled, message, ..Task::clone(&before) };
            self.publish_final(entry, Task { updated_ms: self.now_ms().max(before.updated_ms), ..ended });
        }
    }

    /// A task that is not in memory. Where its process is gone, it has failed.
    ///
    /// # Errors
    /// The store cannot be asked.
    pub(super) async fn find_kept(
        &self,
        scope: &Scope,
        era: Era,
        id: &str,
    ) -> Result<Option<Task>, CallError> {
        let Some(keeper) = &self.keeper else { return Ok(None) };
        let asked = async {
            let stored = keeper.get_task(scope, era, id, self.clock.now()).await?;
            match stored {
                None => Ok(None),
                Some(stored) => self.looked_at(keeper, scope, era, stored).await,
            }
        };
        in_time(asked).await
    }

    /// All that the store has of the caller's, of this era.
    ///
    /// # Errors
    /// The store cannot be asked.
    pub(super) async fn list_kept(&self, scope: &Scope, era: Era) -> Result<Vec<Task>, CallError> {
        let Some(keeper) = &self.keeper else { return Ok(Vec::new()) };
        let asked = async {
            let mut tasks = Vec::new();
            for stored in keeper.list_tasks(scope, era, self.clock.now()).await? {
                tasks.extend(self.looked_at(keeper, scope, era, stored).await?);
            }
            Ok(tasks)
        };
        in_time(asked).await
    }

    /// A task of another process, cancelled unless it has ended: what it then is.
    ///
    /// # Errors
    /// The store cannot be asked.
    pub(super) async fn cancel_kept(
        &self,
        scope: &Scope,
        era: Era,
        task: &Task,
    ) -> Result<Option<Task>, CallError> {
        let Some(keeper) = &self.keeper else { return Ok(None) };
        let mut cancelled = Task { state: TaskState::Cancelled, ..task.clone() };
        cancelled.updated_ms = self.now_ms().max(task.updated_ms);
        let asked = async {
            Ok(match self.write_as(keeper, scope, era, &cancelled, false).await? {
                TaskWrite::Written => Some(cancelled),
                TaskWrite::Kept(stored) => Some(read(&stored, task)),
                TaskWrite::Gone => None,
            })
        };
        in_time(asked).await
    }

    /// A task as it was kept, with its end where nobody runs it any more.
    async fn looked_at(
        &self,
        keeper: &SharedStore,
        scope: &Scope,
        era: Era,
        stored: StoredTask,
    ) -> Result<Option<Task>, StoreError> {
        let Some(task) = record::read(&stored.body) else {
            warn!("a task of the store is none that this binary can read");
            return Ok(None);
        };
        let is_ours = self.book().entries.contains_key(&task.id);
        if stored.is_final || is_ours || stored.lease > self.clock.now() {
            return Ok(Some(task));
        }
        let mut failed = Task {
            state: TaskState::Failed(CallError::Lost(SERVER_GONE.to_owned())),
            message: Some(SERVER_GONE.to_owned()),
            ..task.clone()
        };
        failed.updated_ms = self.now_ms().max(task.updated_ms);
        Ok(match self.write_as(keeper, scope, era, &failed, true).await? {
            TaskWrite::Written => Some(failed),
            TaskWrite::Kept(stored) => Some(read(&stored, &task)),
            TaskWrite::Gone => None,
        })
    }
}

/// What the store gave, where it did in time.
async fn in_time<T>(asked: impl Future<Output = Result<T, StoreError>>) -> Result<T, CallError> {
    let busy = |message| CallError::Busy { retry_after: STORE_WAIT, message };
    match timeout(STORE_WAIT, asked).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(busy(error.to_string())),
        Err(_) => Err(busy("the store did not answer in time: try again".to_owned())),
    }
}

/// The task in `stored`; where it cannot be read, `known` as one that failed.
fn read(stored: &StoredTask, known: &Task) -> Task {
    record::read(&stored.body).unwrap_or_else(|| {
        warn!("a task of the store is none that this binary can read");
        Task { state: TaskState::Failed(CallError::Internal), ..known.clone() }
    })
}

fn timestamp(unix_ms: u64) -> Timestamp {
    i64::try_from(unix_ms)
        .ok()
        .and_then(|unix_ms| Timestamp::from_millisecond(unix_ms).ok())
        .unwrap_or(Timestamp::MAX)
}
