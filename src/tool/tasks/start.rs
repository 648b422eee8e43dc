//! From a call to a task: the work runs within the call until it is one, then on its own.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    task::Poll,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tokio::sync::{Notify, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, error, warn};

use super::{
    TaskOptions, Tasks, Worker,
    entry::{Entry, expiry_ms},
    is_owner,
    worker::{Line, Standing},
};
use crate::{
    engine::{EngineError, ErrorKind},
    protocol::{Call, CallError, Reply, Task, TaskOffer, TaskState},
    revision::Era,
    scope::Scope,
    tool::{Context, ReplyFuture, reply},
};

/// A cancelled task's work may tidy up for so long before it is dropped.
const CANCEL_GRACE: Duration = Duration::from_millis(100);
/// Work that knows its deadline ends by itself; what does not is ended so much later.
const DEADLINE_GRACE: Duration = Duration::from_millis(500);
/// A task is kept so long at least, whatever its client wishes: it must be there when its id arrives.
const TTL_MIN: Duration = Duration::from_secs(1);
/// A new task's answer waits so long for the store.
const KEEP_WAIT: Duration = Duration::from_secs(1);
/// When there may be room again is not known: a caller is told to wait so long.
const TRY_AGAIN: Duration = Duration::from_secs(5);

impl Tasks {
    /// Runs the `work` of a call as [`Call::task`] says:
    ///
    /// * `Wanted`: it is a task at once, and that is the reply.
    /// * `Allowed`: work that ends within the grace is the reply; else it becomes a task, and that is the reply. Where
    ///   there is no room for one, or [`Worker::stay_call`] was said, it stays a call.
    /// * `None`: a call.
    ///
    /// For as long as it is a call, it is cancelled with it and ends with it. As a task it ends at its deadline, when it is
    /// cancelled, when it is not kept any longer, or with the process. A task can be read before its reply is made.
    ///
    /// The work's reply must be [`Reply::Result`] or [`Reply::Error`] once it is a task.
    pub fn begin<W, F>(
        self: &Arc<Self>,
        call: &Call,
        context: &Context,
        options: &TaskOptions,
        work: W,
    ) -> ReplyFuture
    where
        W: FnOnce(Worker) -> F,
        F: Future<Output = Reply> + Send + 'static,
    {
        let Some(offer) = call.task else {
            let worker = self.worker(context.cancel.clone(), context.deadline, context, Standing::Plain);
            return Box::pin(work(worker));
        };
        let wish = match offer {
            TaskOffer::Wanted { ttl } => ttl,
            TaskOffer::Allowed => None,
        };
        let ttl_max = options.ttl.unwrap_or(self.limits.ttl).max(TTL_MIN);
        let terms = Terms {
            scope: context.scope.clone(),
            era: call.client.revision.era(),
            ttl: wish.map_or(ttl_max, |wish| wish.clamp(TTL_MIN, ttl_max)),
            poll_interval: options.poll_interval.unwrap_or(self.limits.poll_interval),
        };
        let longest = options.deadline.unwrap_or(self.limits.deadline).min(terms.ttl);
        let standing = if options.on_request { Standing::Undecided } else { Standing::Willing };
        let worker = self.worker(CancellationToken::new(), Instant::now() + longest, context, standing);
        let line = Arc::clone(&worker.0);
        match offer {
            TaskOffer::Wanted { .. } => {
                let work = Box::pin(work(worker));
                let tasks = Arc::clone(self);
                Box::pin(async move {
                    match tasks.make(&terms, &line) {
                        Ok(entry) => tasks.detach(entry, line, work).await,
                        Err(error) => Reply::Error(error),
                    }
                })
            }
            TaskOffer::Allowed => {
                let grace = options.grace.unwrap_or(self.limits.after);
                let work = Box::pin(work(worker));
                let around = Around { cancel: context.cancel.clone(), deadline: context.deadline, grace };
                Box::pin(attend(Arc::clone(self), terms, line, work, around))
            }
        }
    }

    fn worker(
        self: &Arc<Self>,
        cancel: CancellationToken,
        deadline: Instant,
        context: &Context,
        standing: Standing,
    ) -> Worker {
        Worker(Arc::new(Line {
            tasks: Arc::clone(self),
            cancel,
            deadline,
            notices: Arc::clone(&context.notices),
            standing: watch::Sender::new(standing),
            hurry: Notify::new(),
            message: Mutex::default(),
        }))
    }

    /// Makes a task, where there is room.
    fn make(&self, terms: &Terms, line: &Line) -> Result<Arc<Entry>, CallError> {
        if self.closing.is_cancelled() {
            return Err(self.refuse("the server is stopping: call again later"));
        }
        let id = mint_id()?;
        let now_ms = self.now_ms();
        let message = line.message.lock().unwrap_or_else(PoisonError::into_inner).take();
        let task = Task {
            id: id.clone(),
            state: TaskState::Working,
            message,
            created_ms: now_ms,
            updated_ms: now_ms,
            ttl: Some(terms.ttl),
            poll_interval: Some(terms.poll_interval),
        };
        let entry = Entry::new(terms.scope.clone(), terms.era, line.cancel.clone(), task);
        let principal = terms.scope.principal();
        let mut book = self.book();
        let of_principal = book.running_of.get(principal).copied().unwrap_or(0);
        if of_principal >= self.limits.running_per_principal_max {
            let most = self.limits.running_per_principal_max;
            return Err(self.refuse(format!(
                "{most} of your tasks are running, which is as many as may at once: wait for one to end, or cancel one"
            )));
        }
        if book.running >= self.limits.running_max {
            return Err(self.refuse("the server runs as many tasks as it may: call again later"));
        }
        if !book.make_room(&terms.scope, self.limits.kept_max, now_ms) {
            return Err(
                self.refuse("none of your tasks in this project has ended, and there is no room for more")
            );
        }
        book.running += 1;
        *book.running_of.entry(principal.into()).or_default() += 1;
        book.entries.insert(id, Arc::clone(&entry));
        drop(book);
        self.begun.fetch_add(1, Ordering::Relaxed);
        Ok(entry)
    }

    fn refuse(&self, message: impl Into<String>) -> CallError {
        self.refused.fetch_add(1, Ordering::Relaxed);
        CallError::Busy { retry_after: TRY_AGAIN, message: message.into() }
    }

    /// The work has come to its end: another may run.
    fn vacate(&self, scope: &Scope) {
        let mut book = self.book();
        book.running = book.running.saturating_sub(1);
        if let Some(running) = book.running_of.get_mut(scope.principal()) {
            *running -= 1;
            if *running == 0 {
                book.running_of.remove(scope.principal());
            }
        }
        drop(book);
        self.vacated.notify_waiters();
    }

    /// From here on the work runs on its own; the reply is the task. Whoever drops this future only misses the reply.
    async fn detach(self: Arc<Self>, entry: Arc<Entry>, line: Arc<Line>, work: ReplyFuture) -> Reply {
        let task = entry.now();
        line.standing.send_replace(Standing::Task(Arc::clone(&entry)));
        // No listener is no fault.
        let _ = self.events.send(entry.news(Arc::clone(&task)));
        let (kept, is_kept) = oneshot::channel();
        tokio::spawn(Arc::clone(&self).look_after(Arc::clone(&entry), kept));
        // What is logged still says which call it began with.
        tokio::spawn(run(Arc::clone(&self), entry, line.deadline, work).in_current_span());
        // The client may come back through another process on the same store.
        if self.keeper.is_some() && tokio::time::timeout(KEEP_WAIT, is_kept).await.is_err() {
            warn!("the store did not keep a task in time; for now it is in memory alone");
        }
        Reply::Task(Box::new(Task::clone(&task)))
    }
}

impl super::Book {
    /// Forgets what is expired, and of `scope`'s tasks the oldest that has ended, where there are `most`. `false` where
    /// there is still no room.
    fn make_room(&mut self, scope: &Scope, most: usize, now_ms: u64) -> bool {
        self.entries.retain(|_, entry| {
            let task = entry.now();
            !task.state.is_final() || expiry_ms(&task) > now_ms
        });
        let mut own: Vec<(u64, bool, String)> = self
            .entries
            .values()
            .filter(|entry| is_owner(&entry.scope, scope))
            .map(|entry| {
                let task = entry.now();
                (task.created_ms, task.state.is_final(), task.id.clone())
            })
            .collect();
        if own.len() < most {
            return true;
        }
        own.sort_unstable();
        match own.into_iter().find(|(_, is_final, _)| *is_final) {
            Some((_, _, id)) => self.entries.remove(&id).is_some(),
            None => false,
        }
    }
}

/// What a new task is to be.
struct Terms {
    scope: Scope,
    era: Era,
    ttl: Duration,
    poll_interval: Duration,
}

/// The call around work that is no task yet.
struct Around {
    cancel: CancellationToken,
    deadline: Instant,
    grace: Duration,
}

/// What happened to a call that may become a task.
enum Event {
    Ended(Reply),
    Cancelled,
    Late,
    Ripe,
    Decided,
}

/// Attends to work within its call, until it has ended or is a task.
async fn attend(
    tasks: Arc<Tasks>,
    terms: Terms,
    line: Arc<Line>,
    mut work: ReplyFuture,
    around: Around,
) -> Reply {
    // Whoever drops this ends the work; a task's token is its own.
    let _dropped = DropGuard(&line);
    let ripe = tokio::time::sleep(around.grace);
    // Work that stays a call knows its deadline and says why it ends.
    let late = tokio::time::sleep_until((around.deadline + DEADLINE_GRACE).into());
    tokio::pin!(ripe, late);
    let mut standing = line.standing.subscribe();
    // Whether it may become a task, and whether time makes it one.
    let mut is_open = true;
    let mut is_willing = matches!(*standing.borrow_and_update(), Standing::Willing);
    // Why it could become no task.
    let mut refusal = None;
    loop {
        let event = tokio::select! {
            biased;
            reply = &mut work => Event::Ended(reply),
            () = around.cancel.cancelled() => Event::Cancelled,
            () = &mut late => Event::Late,
            _ = standing.changed(), if is_open => Event::Decided,
            () = line.hurry.notified(), if is_open => Event::Ripe,
            () = &mut ripe, if is_open && is_willing => Event::Ripe,
        };
        match event {
            Event::Ended(reply) => return reply,
            Event::Decided => {
                let standing = standing.borrow_and_update();
                is_open = !matches!(*standing, Standing::Plain);
                is_willing = matches!(*standing, Standing::Willing);
            }
            Event::Ripe => match tasks.make(&terms, &line) {
                Ok(entry) => return tasks.detach(entry, Arc::clone(&line), work).await,
                Err(error) => {
                    is_open = false;
                    refusal = Some(error);
                    line.standing.send_replace(Standing::Plain);
                }
            },
            Event::Cancelled | Event::Late => {
                line.cancel.cancel();
                let ended = tokio::time::timeout(CANCEL_GRACE, work).await;
                return match (ended, refusal) {
                    // What work says that was ended because there was no room for it is not the reason.
                    (_, Some(error)) if !around.cancel.is_cancelled() => Reply::Error(error),
                    (Ok(reply), _) => reply,
                    (Err(_), _) => late_reply(&terms.scope),
                };
            }
        }
    }
}

/// Cancels the work of a call that was dropped before it was a task.
struct DropGuard<'a>(&'a Line);

impl Drop for DropGuard<'_> {
    fn drop(&mut self) {
        if !matches!(*self.0.standing.borrow(), Standing::Task(_)) {
            self.0.cancel.cancel();
        }
    }
}

/// Runs the work of a task to its end.
async fn run(tasks: Arc<Tasks>, entry: Arc<Entry>, deadline: Instant, mut work: ReplyFuture) {
    let cancelled = async {
        entry.cancel.cancelled().await;
        tokio::time::sleep(CANCEL_GRACE).await;
    };
    let late = tokio::time::sleep_until((deadline + DEADLINE_GRACE).into());
    let reply = tokio::select! {
        biased;
        reply = std::future::poll_fn(|context| poll_caught(&mut work, context)) => Some(reply),
        () = cancelled => None,
        () = late => Some(late_reply(&entry.scope)),
    };
    // What it holds is let go before its place is.
    drop(work);
    if let Some(reply) = reply {
        let state = state_of(reply);
        tasks.settle(&entry, |task| task.state = state).await;
    }
    tasks.vacate(&entry.scope);
}

/// How a task whose work replied so has ended.
fn state_of(reply: Reply) -> TaskState {
    match reply {
        Reply::Result(result) => TaskState::Completed(result),
        Reply::Error(error) => TaskState::Failed(error),
        Reply::List(_) | Reply::InputRequired { .. } | Reply::Task(_) | Reply::Tasks(_) => {
            error!("the work of a task replied with what no task can end with");
            TaskState::Failed(CallError::Internal)
        }
    }
}

fn late_reply(scope: &Scope) -> Reply {
    let error = EngineError {
        kind: ErrorKind::Deadline,
        message: "it did not end in the time that it may take; ask for less".to_owned(),
        part: None,
        retry_after: None,
        receipt: None,
    };
    reply::failed(&error, scope)
}

fn poll_caught(work: &mut ReplyFuture, context: &mut std::task::Context<'_>) -> Poll<Reply> {
    catch_unwind(AssertUnwindSafe(|| Pin::as_mut(work).poll(context))).unwrap_or_else(|_| {
        error!("the work of a task panicked; it fails as an internal error");
        Poll::Ready(Reply::Error(CallError::Internal))
    })
}

/// `t_` and 128 random bits.
fn mint_id() -> Result<String, CallError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| {
        error!(%error, "the system has no randomness for the id of a task");
        CallError::Internal
    })?;
    Ok(format!("t_{}", URL_SAFE_NO_PAD.encode(random)))
}
