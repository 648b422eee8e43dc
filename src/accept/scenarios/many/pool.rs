//! M5: more calls than database connections.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::Barrier;

use super::{away, over_postgres, setup, sockets};
use crate::accept::{
    client::Client,
    load::{Recorder, percentile, workers},
    metrics::Metrics,
    scenario::{Broken, Seen, Series},
    stage::{self, Database, Stage},
};

const CONNECTIONS: usize = 10;
const CALLS: usize = 50;
/// Between two looks at the connections.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long the memories are locked: every connection is in use then, and the rest waits. Well below the time after which
/// a call gives up asking what its answer depends on: a query that is given up keeps its backend until the lock is gone.
const HELD: Duration = Duration::from_millis(200);

/// M5: 50 clients call at once over 10 connections, several times. In the middle somebody else locks the memories for a
/// moment: that is when more wait than there are connections for. `pg_stat_activity` counts the server's connections.
pub(super) async fn run(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let rounds = stage.profile.pick(4, 24);
    let mut setup = setup();
    setup.settings.push(("limits.database_connections", CONNECTIONS.to_string()));
    let (instance, database) = over_postgres(stage, "m5", setup).await?;
    let clients = Arc::new(Mutex::new(sockets(&instance, CALLS).await?));
    let looking = Looking::start(&database).await?;
    let recorder = Recorder::new();
    let mut waiting_most = 0.0_f64;
    for round in 0..rounds {
        let lock = if round % 4 == 1 { Some(lock(&database).await?) } else { None };
        let barrier = Arc::new(Barrier::new(CALLS + 1));
        let calling = tokio::spawn(workers(CALLS, {
            let (clients, recorder, barrier) =
                (Arc::clone(&clients), Arc::clone(&recorder), Arc::clone(&barrier));
            move |number| {
                let (clients, recorder, barrier) =
                    (Arc::clone(&clients), Arc::clone(&recorder), Arc::clone(&barrier));
                async move {
                    let client = clients.lock().unwrap_or_else(PoisonError::into_inner).pop();
                    let Some(mut client) = client else { return };
                    barrier.wait().await;
                    call(&mut client, (round, number), &recorder).await;
                    clients.lock().unwrap_or_else(PoisonError::into_inner).push(client);
                }
            }
        }));
        barrier.wait().await;
        if let Some(lock) = lock {
            let begun = Instant::now();
            while begun.elapsed() < HELD {
                let metrics = Metrics::of(&instance).await?;
                waiting_most = waiting_most.max(metrics.sum("tmws_calls_in_flight", &[]));
                tokio::time::sleep(LOOK_EVERY).await;
            }
            lock.close().await.map_err(|error| Broken::new("unlocking the memories", "it is done", error))?;
        }
        let ended = calling.await.map_or(0, |ended| ended.len());
        seen.equal(format!("calls of round {round} that came to their end"), &CALLS, &ended);
    }
    let (most, series) = looking.end().await?;
    seen.figure("errors", recorder.failed_count() as f64);
    seen.check(
        "connections of the server to its database, at most",
        most <= CONNECTIONS + 1,
        format!("{CONNECTIONS}, and one for the moment in which a new model's index is made"),
        series.marks.last().map_or_else(|| most.to_string(), |(_, what)| what.clone()),
    );
    // Where all are in use and nobody waits, nothing was shown.
    seen.check("all connections were in use", most >= CONNECTIONS, CONNECTIONS.to_string(), most.to_string());
    seen.check(
        "more calls were being worked on than there are connections",
        waiting_most > CONNECTIONS as f64,
        format!("more than {CONNECTIONS}"),
        waiting_most.to_string(),
    );
    seen.note(format!(
        "{} calls, {CALLS} at once over {CONNECTIONS} connections, {waiting_most} of them at work while the memories were \
         locked for {HELD:?}; half of all took no more than {:.0} ms, the longest {:.0} ms.",
        rounds * CALLS,
        percentile(&recorder.times(None), 50.0),
        percentile(&recorder.times(None), 100.0),
    ));
    seen.series.push(series);
    recorder.tell(seen);
    away(stage, instance, &database).await
}

/// Every third call remembers something, the others look something up that nobody has asked for.
async fn call(client: &mut Client, (round, number): (usize, usize), recorder: &Recorder) {
    let begun = Instant::now();
    let text = format!("crane {number} of round {round}");
    let called = if number % 3 == 0 {
        client.call("remember", json!({"content": text, "tags": ["crane"]})).await
    } else {
        client.run("accept.newest", json!({"tag": text})).await
    };
    match called {
        Ok(called) if !called.is_error => recorder.well("memory", begun),
        Ok(called) => recorder.failed(&called.body),
        Err(broken) => recorder.failed(&broken),
    }
}

/// A connection that keeps everybody else from the memories until it is closed.
async fn lock(database: &Database) -> Result<PgConnection, Broken> {
    let locking = async {
        let mut connection = stage::connect(&database.url).await?;
        sqlx::raw_sql(
            "SET application_name = 'tmws-accept'; BEGIN; LOCK TABLE tmws.memory IN ACCESS EXCLUSIVE MODE",
        )
        .execute(&mut connection)
        .await?;
        Ok(connection)
    };
    locking.await.map_err(|error: sqlx::Error| Broken::new("locking the memories", "they are", error))
}

/// Counts, again and again, the connections to a database that are not the run's own.
struct Looking {
    is_over: Arc<AtomicBool>,
    most: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<Result<Series, sqlx::Error>>,
}

impl Looking {
    async fn start(database: &Database) -> Result<Self, Broken> {
        let broken = |error: sqlx::Error| Broken::new("looking at pg_stat_activity", "an answer", error);
        let mut connection = stage::connect(&database.url).await.map_err(broken)?;
        sqlx::raw_sql("SET application_name = 'tmws-accept'")
            .execute(&mut connection)
            .await
            .map_err(broken)?;
        let (is_over, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let task = tokio::spawn({
            let (is_over, most) = (Arc::clone(&is_over), Arc::clone(&most));
            async move {
                let begun = Instant::now();
                let mut series =
                    Series { name: "database connections".to_owned(), unit: "", ..Series::default() };
                while !is_over.load(Ordering::Relaxed) {
                    let found: i64 = sqlx::query_scalar(
                        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                         AND backend_type = 'client backend' AND application_name <> 'tmws-accept'",
                    )
                    .fetch_one(&mut connection)
                    .await?;
                    let found = usize::try_from(found).unwrap_or(0);
                    if found > CONNECTIONS.max(most.fetch_max(found, Ordering::Relaxed)) {
                        let what: Option<String> = sqlx::query_scalar(
                            "SELECT string_agg(of, '; ') FROM (SELECT count(*) || ' ' || state || ', waiting for ' || \
                             coalesce(wait_event, 'nothing') || ': ' || left(query, 60) AS of FROM pg_stat_activity \
                             WHERE datname = current_database() AND backend_type = 'client backend' \
                             AND application_name <> 'tmws-accept' GROUP BY state, wait_event, left(query, 60)) AS it",
                        )
                        .fetch_one(&mut connection)
                        .await?;
                        let what = what.unwrap_or_default();
                        series.marks.push((begun.elapsed(), format!("{found} connections: {what}")));
                    }
                    series.points.push((begun.elapsed(), found as f64));
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                connection.close().await?;
                Ok(series)
            }
        });
        Ok(Self { is_over, most, task })
    }

    async fn end(self) -> Result<(usize, Series), Broken> {
        self.is_over.store(true, Ordering::Relaxed);
        let series = match self.task.await {
            Ok(Ok(series)) => series,
            Ok(Err(error)) => return Err(Broken::new("looking at pg_stat_activity", "an answer", error)),
            Err(error) => return Err(Broken::new("looking at pg_stat_activity", "an end", error)),
        };
        Ok((self.most.load(Ordering::Relaxed), series))
    }
}
