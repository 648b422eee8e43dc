//! D5: what 1,000 calls leave of connections to the database.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    probe::{self, setup},
    sql::Session,
};
use crate::accept::{
    client::{Client, MODERN, Target},
    load::{Dice, Recorder, workers},
    scenario::{Broken, Seen, Series},
    stage::{AGENTS, Postgres, Setup, Stage, Where},
};

/// Connections of the server's pool.
const SIZE: i64 = 6;
/// Connections beside the pool: one that listens for changes of other servers.
const BESIDE: i64 = 1;
const CALLS: usize = 1_000;
const AGENTS_AT_ONCE: usize = 25;
/// What goes on when the last call was answered ends within this.
const QUIET_MAX: Duration = Duration::from_secs(5);

/// How a database is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Connections {
    all: i64,
    /// In a transaction in which nothing happens.
    idle_within: i64,
    active: i64,
}

async fn connections(session: &mut Session) -> Result<Connections, Broken> {
    let rows = session
        .rows(
            "SELECT count(*) AS all, count(*) FILTER (WHERE state LIKE 'idle in transaction%') AS idle_within, \
             count(*) FILTER (WHERE state = 'active') AS active FROM pg_stat_activity \
             WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'",
        )
        .await?;
    let number = |name: &str| rows.first().and_then(|row| row[name].as_i64()).unwrap_or(-1);
    Ok(Connections { all: number("all"), idle_within: number("idle_within"), active: number("active") })
}

/// D5: connections before and after, the most at once, and transactions that nobody ends. A tenth of the calls is cancelled
/// or given up on by their clients.
pub(super) async fn run(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let postgres = stage.postgres().await?;
    let database = postgres.database(&stage.name("d5")).await?;
    let store = Where::Database(database.url.clone());
    let mut instance = stage
        .start(Setup { settings: vec![("limits.database_connections", SIZE.to_string())], ..setup(store) })
        .await?;
    let target = Target::of(&instance, AGENTS[0], "alpha");
    let mut first = Client::socket("first", &target, MODERN).await?;
    probe::remember(&mut first, json!({"content": "ships come and go"})).await?;
    let mut session = Session::open(&database.url).await?;
    let before = connections(&mut session).await?;

    let recorder = Recorder::new();
    let begun = Instant::now();
    let drawn = stage.seed;
    let running = workers(AGENTS_AT_ONCE, |worker| {
        let (target, recorder) = (target.clone(), Arc::clone(&recorder));
        async move {
            if let Err(broken) = agent(worker, drawn, &target, &recorder).await {
                recorder.failed(&broken);
            }
        }
    });
    tokio::pin!(running);
    let mut most = before;
    let mut series = Series { name: "connections to the database".to_owned(), unit: "", ..Series::default() };
    loop {
        tokio::select! {
            _ = &mut running => break,
            () = tokio::time::sleep(Duration::from_millis(50)) => {
                let now = connections(&mut session).await?;
                series.points.push((begun.elapsed(), now.all as f64));
                most.all = most.all.max(now.all);
            }
        }
    }
    // A call that its client gave up on may still be ending.
    let ended = Instant::now();
    let mut after = connections(&mut session).await?;
    while (after.idle_within > 0 || after.active > 0) && ended.elapsed() < QUIET_MAX {
        tokio::time::sleep(Duration::from_millis(50)).await;
        after = connections(&mut session).await?;
    }
    series.points.push((begun.elapsed(), after.all as f64));
    seen.series.push(series);

    let allowed = SIZE + BESIDE;
    seen.check(
        "calls answered",
        recorder.failed_count() == 0,
        "all that were not given up",
        format!("{} failed", recorder.failed_count()),
    );
    seen.check(
        "calls",
        recorder.well_count() as usize + CALLS / 10 >= CALLS,
        format!("{CALLS}, a tenth of them given up"),
        recorder.well_count().to_string(),
    );
    seen.check(
        "the pool is used to its size",
        most.all >= SIZE,
        format!("{SIZE} connections at once, under {AGENTS_AT_ONCE} agents"),
        most.all.to_string(),
    );
    seen.check(
        "connections at once",
        most.all <= allowed,
        format!("at most {SIZE} as configured, and {BESIDE} that listens"),
        most.all.to_string(),
    );
    seen.equal("transactions left open", &0, &after.idle_within);
    seen.equal("statements still running", &0, &after.active);
    seen.figure("leaked", (after.all - allowed).max(0) as f64 + after.idle_within as f64);
    // All of the pool can be had: none is held by a call that has gone.
    let again = Recorder::new();
    workers(SIZE as usize * 2, |worker| {
        let (target, again) = (target.clone(), Arc::clone(&again));
        async move {
            let begun = Instant::now();
            let done = async {
                let mut client = Client::socket(&format!("again {worker}"), &target, MODERN).await?;
                probe::remember(&mut client, json!({"content": format!("afterwards {worker}")})).await
            };
            match done.await {
                Ok(_) => again.well("memory", begun),
                Err(broken) => again.failed(&broken),
            }
        }
    })
    .await;
    seen.equal("calls that a full pool of them answers afterwards", &(SIZE as u64 * 2), &again.well_count());
    seen.note(format!(
        "{} connections before, {} at most, {} after {CALLS} calls of {AGENTS_AT_ONCE} agents",
        before.all, most.all, after.all
    ));
    recorder.tell(seen);
    session.close().await;
    instance.end().await?;
    Postgres::drop(postgres, &database).await
}

/// One agent's share of the calls.
async fn agent(worker: usize, seed: u64, target: &Target, recorder: &Recorder) -> Result<(), Broken> {
    let mut dice = Dice::new(seed, worker as u64);
    let mut client = Client::socket(&format!("agent {worker}"), target, MODERN).await?;
    for nth in 0..CALLS / AGENTS_AT_ONCE {
        let (name, input) = match dice.roll(4) {
            0 => (
                "memory.remember",
                json!({"content": format!("ship {worker} of {nth} {}", probe::text(&mut dice, nth))}),
            ),
            1 => ("memory.by-tag", json!({"k": dice.roll(40) + 1})),
            _ => ("memory.recall", json!({"query": probe::mixed_question(&mut dice, nth)})),
        };
        let begun = Instant::now();
        match nth % 20 {
            // Cancelled while it runs.
            9 => {
                let arguments = probe::params(name, &input);
                let id = client.post("tools/call", arguments).await?;
                client
                    .say(json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}}))
                    .await?;
            }
            // The connection ends while it runs.
            19 => {
                let arguments = probe::params(name, &input);
                client.post("tools/call", arguments).await?;
                client = Client::socket(&format!("agent {worker} anew"), target, MODERN).await?;
            }
            _ => match probe::call(&mut client, name, input).await? {
                called if called.is_error => recorder.failed(&called.body),
                _ => recorder.well("memory", begun),
            },
        }
    }
    Ok(())
}
