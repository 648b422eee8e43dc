//! The one task that writes: it takes what is queued, commits it as one transaction, then acknowledges each write.

use async_trait::async_trait;
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::{mpsc, oneshot};

use super::{
    Shared,
    fault::{Fault, classify, closed, is_busy, unavailable},
    open::{self, FileIdentity},
};
use crate::store::StoreError;
use std::sync::{Arc, atomic::Ordering};

/// Writes waiting; callers wait beyond it.
const QUEUE_WRITES_MAX: usize = 1_024;
/// Writes of one transaction.
const BATCH_WRITES_MAX: usize = 256;
/// How long the erasing of old copies waits for readers of them.
const ERASE_WAIT_MS: u32 = 100;

/// One write: a value, so that it can be applied again after a transaction that another write broke.
#[async_trait]
pub(super) trait Write: Send + Sync + 'static {
    /// What the caller gets.
    type Output: Send + 'static;

    /// Whether what it deletes has to leave the files at once.
    const ERASES: bool = false;

    /// Applies it within the open transaction, which it shares with others.
    ///
    /// [`Fault::Refused`] promises that it has changed nothing that anybody sees: there is nothing to roll back, so that
    /// what is to be refused is looked for before the first change. Any other error ends the transaction; every write of
    /// it then gets one of its own.
    async fn apply(&self, transaction: &mut SqliteConnection) -> Result<Self::Output, Fault>;
}

/// A write that changes nothing: whether one would be taken.
pub(super) struct Nothing;

#[async_trait]
impl Write for Nothing {
    type Output = ();

    async fn apply(&self, _: &mut SqliteConnection) -> Result<(), Fault> {
        Ok(())
    }
}

/// Where writes are handed in.
#[derive(Clone)]
pub(super) struct Writer {
    queue: mpsc::Sender<Command>,
}

enum Command {
    Write(Box<dyn Job>),
    Close(oneshot::Sender<()>),
}

impl Writer {
    /// Starts the task, which ends when the last `Writer` is gone or closed.
    pub(super) fn start(
        shared: Arc<Shared>,
        connection: SqliteConnection,
        identity: Option<FileIdentity>,
    ) -> Self {
        let (queue, commands) = mpsc::channel(QUEUE_WRITES_MAX);
        tokio::spawn(Task { shared, connection: Some(connection), identity }.run(commands));
        Self { queue }
    }

    /// Hands in `write` and waits until it is committed. A caller that stops waiting cancels a write that has not
    /// begun; one that has begun is committed or refused all the same.
    pub(super) async fn write<W: Write>(&self, write: W) -> Result<W::Output, StoreError> {
        let (reply, answer) = oneshot::channel();
        let job = Box::new(Pending { write, outcome: None, reply });
        self.queue.send(Command::Write(job)).await.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// How many wait to be taken.
    pub(super) fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    /// Commits what is queued, then closes the connection.
    pub(super) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.queue.send(Command::Close(done)).await.is_ok() {
            // The task is gone otherwise, which is as good.
            let _ = closed.await;
        }
    }
}

/// What became of a write within its transaction.
enum Applied {
    /// Done, or refused and nothing changed.
    Settled,
    /// The transaction is of no more use.
    Broken(sqlx::Error),
}

#[async_trait]
trait Job: Send {
    async fn apply(&mut self, transaction: &mut SqliteConnection) -> Applied;
    fn refuse(&mut self, error: StoreError);
    fn is_wanted(&self) -> bool;
    fn erases(&self) -> bool;
    fn acknowledge(self: Box<Self>);
}

struct Pending<W: Write> {
    write: W,
    outcome: Option<Result<W::Output, StoreError>>,
    reply: oneshot::Sender<Result<W::Output, StoreError>>,
}

#[async_trait]
impl<W: Write> Job for Pending<W> {
    async fn apply(&mut self, transaction: &mut SqliteConnection) -> Applied {
        let outcome = match self.write.apply(transaction).await {
            Ok(output) => Ok(output),
            Err(Fault::Refused(error)) => Err(error),
            Err(Fault::Database(error)) => return Applied::Broken(error),
        };
        self.outcome = Some(outcome);
        Applied::Settled
    }

    fn refuse(&mut self, error: StoreError) {
        self.outcome = Some(Err(error));
    }

    fn is_wanted(&self) -> bool {
        !self.reply.is_closed()
    }

    fn erases(&self) -> bool {
        W::ERASES && matches!(self.outcome, Some(Ok(_)))
    }

    fn acknowledge(self: Box<Self>) {
        if let Some(outcome) = self.outcome {
            // Nobody may be waiting any more.
            let _ = self.reply.send(outcome);
        }
    }
}

struct Task {
    shared: Arc<Shared>,
    /// `None` after a failure that left the state of the connection unknown.
    connection: Option<SqliteConnection>,
    identity: Option<FileIdentity>,
}

impl Task {
    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut done = None;
        while done.is_none() {
            let Some(first) = commands.recv().await else { break };
            let mut batch = Vec::new();
            let mut next = Some(first);
            while let Some(command) = next.take() {
                match command {
                    Command::Write(job) if job.is_wanted() => batch.push(job),
                    Command::Write(_) => {}
                    Command::Close(reply) => {
                        done = Some(reply);
                        break;
                    }
                }
                if batch.len() < BATCH_WRITES_MAX {
                    next = commands.try_recv().ok();
                }
            }
            if !batch.is_empty() {
                self.commit(batch).await;
            }
        }
        if let Some(connection) = self.connection.take() {
            // The last connection of all processes folds the write-ahead log into the file.
            let _ = connection.close().await;
        }
        if let Some(done) = done {
            let _ = done.send(());
        }
    }

    /// Commits `batch` and acknowledges every write in it.
    async fn commit(&mut self, mut batch: Vec<Box<dyn Job>>) {
        match self.ready().await {
            Err(error) => self.refuse_all(&mut batch, |_| error.repeated()),
            Ok(()) => {
                if let Err(error) = self.attempt(&mut batch).await {
                    if batch.len() == 1 || is_busy(&error) {
                        self.refuse_all(&mut batch, |path| classify(path, &error));
                    } else {
                        // One write broke the transaction of all: each gets its own.
                        for job in &mut batch {
                            let alone = std::slice::from_mut(job);
                            match self.ready().await {
                                Err(error) => self.refuse_all(alone, |_| error.repeated()),
                                Ok(()) => {
                                    if let Err(error) = self.attempt(alone).await {
                                        self.refuse_all(alone, |path| classify(path, &error));
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
        if batch.iter().any(|job| job.erases()) {
            self.erase_old_copies().await;
        }
        for job in batch {
            job.acknowledge();
        }
    }

    fn refuse_all(&self, batch: &mut [Box<dyn Job>], error: impl Fn(&std::path::Path) -> StoreError) {
        for job in batch {
            job.refuse(error(&self.shared.options.path));
        }
    }

    /// Makes sure of a connection to the file that is at the path now.
    async fn ready(&mut self) -> Result<(), StoreError> {
        let path = self.shared.options.path.clone();
        let identity = open::run_blocking(move || Ok(FileIdentity::of(&path))).await?;
        if identity != self.identity {
            // What were written now would be in a file that nobody finds again.
            if !self.shared.lost.swap(true, Ordering::AcqRel) {
                let path = self.shared.options.path.display();
                tracing::warn!(%path, "the store's file was moved, replaced or deleted while in use; the next call opens what is there");
            }
            return Err(unavailable(
                &self.shared.options.path,
                "was moved, replaced or deleted while in use; put it back, or start tmws again",
            ));
        }
        if self.connection.is_none() {
            self.connection = Some(open::connect_writer(&self.shared.options).await?);
        }
        Ok(())
    }

    /// One transaction. After an error nothing of it is in the file.
    async fn attempt(&mut self, batch: &mut [Box<dyn Job>]) -> Result<(), sqlx::Error> {
        let mut connection = self.connection.take().ok_or(sqlx::Error::WorkerCrashed)?;
        let outcome = transact(&mut connection, batch).await;
        if outcome.is_ok() || sqlx::query("ROLLBACK").execute(&mut connection).await.is_ok() {
            self.connection = Some(connection);
        } else {
            // The transaction never began, or ended by itself (disk full, I/O error): the connection is in a state that we
            // do not know. Closing rolls back whatever is left.
            let _ = connection.close().await;
        }
        outcome
    }

    /// Folds the write-ahead log into the file and empties it, so that no old copy of an erased row stays behind.
    ///
    /// Readers of an old snapshot can keep it from ending; the next erasing, or closing, does the rest.
    async fn erase_old_copies(&mut self) {
        let Some(connection) = self.connection.as_mut() else { return };
        let wait = |ms: u128| sqlx::AssertSqlSafe(format!("PRAGMA busy_timeout = {ms}"));
        let usual = self.shared.options.limits.busy_timeout.as_millis();
        for statement in [
            wait(ERASE_WAIT_MS.into()),
            sqlx::AssertSqlSafe("PRAGMA wal_checkpoint(TRUNCATE)".to_owned()),
            wait(usual),
        ] {
            if let Err(error) = sqlx::query(statement).execute(&mut *connection).await {
                tracing::debug!(%error, "old copies of erased rows stay in the log for now");
            }
        }
    }
}

async fn transact(connection: &mut SqliteConnection, batch: &mut [Box<dyn Job>]) -> Result<(), sqlx::Error> {
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
    for job in batch {
        if let Applied::Broken(error) = job.apply(connection).await {
            return Err(error);
        }
    }
    sqlx::query("COMMIT").execute(&mut *connection).await?;
    Ok(())
}
