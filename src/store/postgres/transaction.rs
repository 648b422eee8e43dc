//! How a read and a write run: in a transaction whose rows are walled by what its scope sees.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, PgPool, PgTransaction, Postgres, SqlSafeStr as _,
    pool::PoolConnection,
};
use tokio::sync::oneshot;

use super::fault::{Fault, classify, closed, is_lost, is_transient, unavailable};
use crate::store::{
    Place, StoreError, id,
    view::{self, View},
    waits::Waits,
};

/// Tries of one write that others keep ending, the first included.
const TRIES_MAX: u32 = 24;
/// Connections that are tried where the one at hand turns out to be dead.
const CONNECTIONS_TRIED_MAX: u32 = 3;
/// The first pause between two tries; it doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// For statements whose plan is the same whatever their values: it is made once a connection, not once a call.
pub(super) const KEPT_PLANS: &str = "SET LOCAL plan_cache_mode TO force_generic_plan";

/// A pool of connections and where they lead.
pub(super) struct Database {
    pub(super) pool: PgPool,
    pub(super) waits: Waits,
    pub(super) place: Place,
}

/// What a transaction may see.
#[derive(Clone, Debug)]
pub(super) enum Wall {
    /// The rows of a scope.
    Scope(Box<View>),
    /// Everything: jobs for the whole store.
    Whole,
}

impl From<&View> for Wall {
    fn from(view: &View) -> Self {
        Self::Scope(Box::new(view.clone()))
    }
}

impl Wall {
    /// The statements that begin a transaction within it. Everything in them is hexadecimal hashes of ours.
    fn begin(&self, mode: &str, plan: &str) -> AssertSqlSafe<String> {
        let wall = match self {
            Self::Whole => "SET LOCAL tmws.whole TO 'on'".to_owned(),
            Self::Scope(view) => format!(
                "SET LOCAL tmws.readers TO '{}'; SET LOCAL tmws.realm TO '{}'; SET LOCAL tmws.owner TO '{}'",
                view.readers().join(","),
                view.realm,
                view::owner(view),
            ),
        };
        AssertSqlSafe(format!("BEGIN {mode}; {wall}; {plan}"))
    }
}

/// One write: a value, so that it can be applied again after another transaction ended this one.
#[async_trait]
pub(super) trait Write: Send + Sync + 'static {
    /// What the caller gets.
    type Output: Send + 'static;

    /// The settings that its statements are planned with, beside those of the connection.
    fn plan(&self) -> &'static str {
        ""
    }

    /// Applies it within the open transaction. After an error nothing of it is kept.
    async fn apply(&self, transaction: &mut PgConnection) -> Result<Self::Output, Fault>;
}

/// A write that changes nothing: whether one would be taken.
pub(super) struct Nothing;

#[async_trait]
impl Write for Nothing {
    type Output = ();

    async fn apply(&self, transaction: &mut PgConnection) -> Result<(), Fault> {
        // Refused where only reading is possible, whether there are rows or not.
        sqlx::query("DELETE FROM tmws.meta WHERE false").execute(transaction).await?;
        Ok(())
    }
}

impl Database {
    /// A transaction that reads one state of the store within `wall`; dropped when done.
    pub(super) async fn read(&self, wall: impl Into<Wall>) -> Result<PgTransaction<'static>, StoreError> {
        self.begin("ISOLATION LEVEL REPEATABLE READ READ ONLY", "", wall.into()).await
    }

    /// One whose statements are planned with the settings of `plan`.
    pub(super) async fn read_planned(
        &self,
        wall: impl Into<Wall>,
        plan: &str,
    ) -> Result<PgTransaction<'static>, StoreError> {
        self.begin("ISOLATION LEVEL REPEATABLE READ READ ONLY", plan, wall.into()).await
    }

    /// One in which each statement reads the state as of its own beginning.
    pub(super) async fn read_stepwise(
        &self,
        wall: impl Into<Wall>,
    ) -> Result<PgTransaction<'static>, StoreError> {
        self.begin("ISOLATION LEVEL READ COMMITTED READ ONLY", "", wall.into()).await
    }

    async fn begin(&self, mode: &str, plan: &str, wall: Wall) -> Result<PgTransaction<'static>, StoreError> {
        let begin = || {
            let statements = wall.begin(mode, plan);
            async move {
                // The beginning is part of the wait: it is in one with the connection.
                let _waiting = self.waits.begin(&self.pool);
                self.begin_to_its_end(statements).await
            }
        };
        self.on_a_live_one(begin).await
    }

    /// A transaction that `statements` begin. It is begun to its end though its caller stops waiting: sqlx knows of a
    /// transaction once it is told that it began, and a connection that comes back to the pool before that comes back
    /// within one that nobody ends; a write that gets it next may only read. Where the pool is closed nobody gets it, and
    /// what nobody waits for ends at once.
    async fn begin_to_its_end(
        &self,
        statements: AssertSqlSafe<String>,
    ) -> Result<PgTransaction<'static>, sqlx::Error> {
        let connection = self.pool.acquire().await?;
        let closing = self.pool.close_event();
        let (waiting, is_given_up) = oneshot::channel::<()>();
        let begin = PgTransaction::begin(connection, Some(statements.into_sql_str()));
        let begun = tokio::spawn(async move {
            tokio::select! {
                begun = begin => begun,
                () = async { let _ = is_given_up.await; closing.await } => Err(sqlx::Error::PoolClosed),
            }
        });
        let begun = begun.await;
        drop(waiting);
        begun.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and the store with it.
            Err(_) => Err(sqlx::Error::PoolClosed),
        })
    }

    /// What `ask` gives, which takes a connection of the pool and changes nothing: asked on another one where the one at
    /// hand turns out to be dead.
    pub(super) async fn on_a_live_one<T, Answer>(&self, ask: impl Fn() -> Answer) -> Result<T, StoreError>
    where
        Answer: Future<Output = Result<T, sqlx::Error>>,
    {
        let mut tried = 1;
        loop {
            match ask().await {
                Err(error) if is_lost(&error) && tried < CONNECTIONS_TRIED_MAX => tried += 1,
                other => return other.map_err(|error| self.told(error)),
            }
        }
    }

    /// Applies `write` within `wall` and commits it. A caller that stops waiting cancels a write that has no connection
    /// yet, no other. Where others end it (a deadlock, a serialization failure), it is applied again, a bounded number of
    /// times.
    pub(super) async fn write<W: Write>(
        self: &Arc<Self>,
        wall: impl Into<Wall>,
        write: W,
    ) -> Result<W::Output, StoreError> {
        let wall = wall.into();
        let connection = self.acquire().await?;
        let database = Arc::clone(self);
        let work = async move { database.write_on(connection, &wall, &write).await };
        tokio::spawn(work).await.unwrap_or_else(|error| {
            if error.is_cancelled() { Err(closed()) } else { Err(StoreError::Internal(Box::new(error))) }
        })
    }

    async fn acquire(&self) -> Result<PoolConnection<Postgres>, StoreError> {
        self.waits.acquire(&self.pool).await.map_err(|error| self.told(error))
    }

    async fn write_on<W: Write>(
        &self,
        mut connection: PoolConnection<Postgres>,
        wall: &Wall,
        write: &W,
    ) -> Result<W::Output, StoreError> {
        let (mut tries, mut lost) = (0, 0);
        loop {
            match transact(&mut connection, wall, write).await {
                Ok(output) => return Ok(output),
                Err(Stopped::Beginning(error)) if is_lost(&error) && lost + 1 < CONNECTIONS_TRIED_MAX => {
                    lost += 1;
                    // Nothing was sent on it: closed, so that nobody else gets it.
                    connection.close_on_drop();
                    drop(connection);
                    connection = self.acquire().await?;
                }
                Err(Stopped::Within(Fault::Database(error)))
                    if is_transient(&error) && tries + 1 < TRIES_MAX =>
                {
                    tries += 1;
                    tokio::time::sleep(pause(tries)).await;
                }
                Err(Stopped::Within(fault)) => return Err(fault.told(|error| classify(&self.place, error))),
                Err(Stopped::Committing(error)) if is_lost(&error) => {
                    tracing::debug!(%error, "the connection was lost while committing");
                    return Err(unavailable(
                        &self.place,
                        "lost the connection while a write was being committed: it may or may not be stored; look \
                         before you write it again",
                    ));
                }
                Err(Stopped::Beginning(error) | Stopped::Committing(error)) => return Err(self.told(error)),
            }
        }
    }

    /// The typed error for `error`.
    pub(super) fn told(&self, error: impl Into<Fault>) -> StoreError {
        match error.into() {
            Fault::Database(sqlx::Error::PoolTimedOut) if self.is_exhausted() => unavailable(
                &self.place,
                "is busy: all connections that limits.database_connections allows are in use; try again in a moment",
            ),
            fault => fault.told(|error| classify(&self.place, error)),
        }
    }

    fn is_exhausted(&self) -> bool {
        self.pool.num_idle() == 0 && self.pool.size() >= self.pool.options().get_max_connections()
    }
}

/// How far a transaction came.
enum Stopped {
    Beginning(sqlx::Error),
    Within(Fault),
    /// What came of it is unknown where the connection is lost.
    Committing(sqlx::Error),
}

async fn transact<W: Write>(
    connection: &mut PgConnection,
    wall: &Wall,
    write: &W,
) -> Result<W::Output, Stopped> {
    let begin = wall.begin("ISOLATION LEVEL READ COMMITTED", write.plan());
    let mut transaction = connection.begin_with(begin).await.map_err(Stopped::Beginning)?;
    match write.apply(&mut transaction).await {
        Ok(output) => match transaction.commit().await {
            Ok(()) => Ok(output),
            Err(error) if is_transient(&error) => Err(Stopped::Within(error.into())),
            Err(error) => Err(Stopped::Committing(error)),
        },
        Err(fault) => {
            // It is gone either way.
            let _ = transaction.rollback().await;
            Err(Stopped::Within(fault))
        }
    }
}

/// A pause before try `tries`, drawn at random from the upper half of what it may be.
fn pause(tries: u32) -> Duration {
    let longest = PAUSE.saturating_mul(1 << tries.min(10)).min(PAUSE_MAX);
    let mut random = [0; 4];
    // Without randomness there is no jitter, and nothing else is amiss.
    let _ = id::fill(&mut random);
    longest.mul_f64(0.5 + f64::from(u32::from_be_bytes(random)) / f64::from(u32::MAX) / 2.0)
}
