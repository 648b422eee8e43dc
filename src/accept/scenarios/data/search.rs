//! D1, D2: searches in a large store.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    probe::{self, mixed_question, question, remember_all, setup, text},
    seed,
    sql::Session,
};
use crate::accept::{
    client::{Client, MODERN, Target},
    load::{Dice, Recorder, mean, percentile, workers},
    scenario::{Broken, Seen},
    stage::{AGENTS, Database, Instance, Postgres, Stage, Where},
};

/// Who searches at the same time.
const AGENTS_AT_ONCE: usize = 50;
/// The searches that one index must have served before it counts as used are told late by the server.
const TOLD_MAX: Duration = Duration::from_secs(30);
const IDLE_TELLS: Duration = Duration::from_secs(11);

/// A database with `memories`, and a server on it that has not yet searched.
async fn large(stage: &Stage, database: &Database, base: usize, memories: usize) -> Result<Instance, Broken> {
    let mut instance = stage.start(setup(Where::Database(database.url.clone()))).await?;
    let mut dice = Dice::new(stage.seed, 1);
    let texts = (0..base).map(|number| text(&mut dice, number)).collect();
    remember_all(&instance, "alpha", texts, 8).await?;
    instance.end().await?;
    seed::multiply(&database.url, memories).await?;
    instance.restart().await?;
    Ok(instance)
}

/// D1: 50 agents search at the same time, each as soon as it has its last answer, in a store of 100,000 memories.
pub(super) async fn many_at_once(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let memories = stage.profile.pick(5_000, 100_000);
    let begun = Instant::now();
    let postgres = stage.postgres().await?;
    let database = postgres.database(&stage.name("d1")).await?;
    let mut instance = large(stage, &database, stage.profile.pick(200, 450), memories).await?;
    let mut session = Session::open(&database.url).await?;
    let stored = session.count("SELECT count(*) FROM tmws.memory_vector").await?;
    session.close().await;
    seen.check(
        "memories with a vector",
        usize::try_from(stored).is_ok_and(|stored| stored + 8 >= memories),
        format!("about {memories} (equal texts are stored once)"),
        stored.to_string(),
    );
    seen.note(format!(
        "{stored} memories with vectors: {} stored through the server, the rest made of them by SQL, with the index made \
         anew; it took {:.1} s",
        stage.profile.pick(200, 450),
        begun.elapsed().as_secs_f64()
    ));
    seen.data.push(("memories", json!(stored)));

    let target = Target::of(&instance, AGENTS[0], "alpha");
    // What a server and a database do once and for all is no part of a search.
    let mut first = Client::socket("first", &target, MODERN).await?;
    let mut dice = Dice::new(stage.seed, 2);
    for number in 0..24 {
        probe::well(&mut first, "memory.recall", json!({"query": mixed_question(&mut dice, number)})).await?;
    }
    let each = stage.profile.pick(4, 20);
    let recorder = Recorder::new();
    let ready = Arc::new(tokio::sync::Barrier::new(AGENTS_AT_ONCE));
    let drawn = stage.seed;
    let kept: Vec<(usize, usize)> = workers(AGENTS_AT_ONCE, |worker| {
        let (target, recorder, ready) = (target.clone(), Arc::clone(&recorder), Arc::clone(&ready));
        async move {
            let mut dice = Dice::new(drawn, 100 + worker as u64);
            let client = Client::socket(&format!("agent {worker}"), &target, MODERN).await;
            ready.wait().await;
            let mut client = match client {
                Ok(client) => client,
                Err(broken) => {
                    recorder.failed(&broken);
                    return (0, each);
                }
            };
            let mut from_cache = 0;
            for nth in 0..each {
                // Every other one shares no word with any memory: only its vector finds anything.
                let number = worker + nth * 5;
                let question = match nth % 2 {
                    0 => format!("{} {worker}x{nth}", question(&mut dice, number)),
                    _ => format!("{} {worker}x{nth}", mixed_question(&mut dice, number)),
                };
                let begun = Instant::now();
                match client.run("memory.recall", json!({"query": question, "k": 10})).await {
                    Ok(called) if called.is_error => recorder.failed(&called.body),
                    Ok(called) if called.body["hits"].as_array().is_none_or(Vec::is_empty) => {
                        recorder.failed(&format!("{question:?} found nothing: {}", called.body));
                    }
                    Ok(called) => {
                        from_cache += usize::from(called.cache() == "hit");
                        recorder.well("memory", begun);
                    }
                    Err(broken) => recorder.failed(&broken),
                }
            }
            (from_cache, 0)
        }
    })
    .await;
    let from_cache: usize = kept.iter().map(|(from_cache, _)| from_cache).sum();
    seen.equal("answers that came from a cache instead of a search", &0, &from_cache);
    seen.equal("agents that ended", &AGENTS_AT_ONCE, &kept.len());
    let times = recorder.times(None);
    seen.figure("average", mean(&times));
    seen.figure("p95", percentile(&times, 95.0));
    seen.figure("success", recorder.success());
    seen.note(format!(
        "{AGENTS_AT_ONCE} agents, {each} searches each, {} in all; P50 {:.0} ms, P99 {:.0} ms",
        times.len(),
        percentile(&times, 50.0),
        percentile(&times, 99.0)
    ));
    recorder.tell(seen);
    instance.end().await?;
    Postgres::drop(postgres, &database).await
}

/// D2: what the planner did with the searches of the server: by the database's counters, and, where the run may start a
/// server of its own, by the plans that `auto_explain` wrote to its log.
pub(super) async fn index_is_used(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let mut own = stage.own_postgres().await.ok();
    if let Some(server) = &mut own {
        log_plans(server).await?;
    }
    let postgres = match &own {
        Some(own) => own,
        None => stage.postgres().await?,
    };
    let database = postgres.database(&stage.name("d2")).await?;
    let is_explained = own.is_some() && explain(&database).await;
    let mut instance = large(stage, &database, 150, stage.profile.pick(3_000, 20_000)).await?;
    let target = Target::of(&instance, AGENTS[0], "alpha");
    let mut client = Client::socket("searcher", &target, MODERN).await?;
    let mut dice = Dice::new(stage.seed, 3);
    // The first ones find out how large the store is, and what the planner is told follows from that.
    for number in 0..6 {
        probe::well(&mut client, "memory.recall", json!({"query": question(&mut dice, number)})).await?;
    }
    // An idle server process tells what it read after ten seconds, one that ends at once.
    let before = settled(&database.url, 0, IDLE_TELLS).await?;
    let log_before = if is_explained { logged(&database).await?.len() } else { 0 };
    let searches: i64 = 40;
    for number in 0..40 {
        let question =
            if number % 2 == 0 { question(&mut dice, number) } else { mixed_question(&mut dice, number) };
        probe::well(&mut client, "probe.search", json!({"query": format!("{question} {number}y")})).await?;
    }
    instance.end().await?;
    let after = settled(&database.url, before.index + searches, Duration::from_secs(1)).await?;
    seen.check(
        "scans of the HNSW index",
        after.index - before.index >= searches,
        format!("at least {searches} more, one a search"),
        format!("{} more", after.index - before.index),
    );
    seen.equal("sequential scans of the vectors", &0, &(after.sequential - before.sequential));
    seen.equal("sequential scans of the memories", &0, &(after.memories - before.memories));
    if is_explained {
        let log = logged(&database).await?;
        let log = log.get(log_before..).unwrap_or_default();
        let plans: Vec<&str> = log.split("duration: ").filter(|plan| plan.contains("<=>")).collect();
        let by_index =
            plans.iter().filter(|plan| plan.contains("Index Scan using memory_vector_by_")).count();
        let sequential = plans.iter().filter(|plan| plan.contains("Seq Scan on memory_vector")).count();
        seen.check(
            "plans of the searches, as the server logged them",
            by_index >= 40 && sequential == 0,
            format!("{searches} with a scan of the HNSW index, none with a sequential scan of the vectors"),
            format!("{} plans, {by_index} with the index, {sequential} sequential", plans.len()),
        );
        if let Some(plan) = plans.iter().find(|plan| plan.contains("memory_vector_by_")) {
            let shown: Vec<&str> = plan
                .lines()
                .filter(|line| line.contains("Scan") || line.contains("Loop"))
                .map(str::trim)
                .collect();
            seen.note(format!("a plan: {}", shown.join("; ")));
        }
    } else {
        seen.note("plans were not logged: that needs a server of the run's own with auto_explain; the counters say it");
    }
    Postgres::drop(postgres, &database).await
}

/// How often something was read.
#[derive(Clone, Copy)]
struct Counters {
    index: i64,
    sequential: i64,
    memories: i64,
}

/// The counters of the database, once the index was read `least` times, or as they are when waiting does not help: a
/// server process tells them when it has been idle for a moment.
async fn settled(url: &str, wanted: i64, quiet: Duration) -> Result<Counters, Broken> {
    let begun = Instant::now();
    let mut last = (-1, Instant::now());
    loop {
        let mut session = Session::open(url).await?;
        let counters = Counters {
            index: session
                .count(
                    "SELECT sum(idx_scan) FROM pg_stat_user_indexes WHERE schemaname = 'tmws' \
                     AND indexrelname ~ '^memory_vector_by_[0-9]+$'",
                )
                .await?,
            sequential: session
                .count("SELECT sum(seq_scan) FROM pg_stat_user_tables WHERE schemaname = 'tmws' AND relname = 'memory_vector'")
                .await?,
            memories: session
                .count("SELECT sum(seq_scan) FROM pg_stat_user_tables WHERE schemaname = 'tmws' AND relname = 'memory'")
                .await?,
        };
        session.close().await;
        if counters.index != last.0 {
            last = (counters.index, Instant::now());
        }
        let still = last.1.elapsed();
        // What nobody has told for longer than the idle keep it to themselves is not to come.
        let is_settled = if counters.index >= wanted { still > quiet } else { still > IDLE_TELLS };
        if is_settled || begun.elapsed() > TOLD_MAX {
            return Ok(counters);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Has the server keep its log in a file that SQL can read.
async fn log_plans(server: &mut Postgres) -> Result<(), Broken> {
    let mut session = Session::open(server.url()).await?;
    session.run("ALTER SYSTEM SET logging_collector TO on").await?;
    session.close().await;
    server.stop().await?;
    server.resume().await
}

/// Has the server log the plans of this database's statements; whether it can.
async fn explain(database: &Database) -> bool {
    let Ok(mut session) = Session::open(&database.url).await else { return false };
    let done = session
        .run(&format!(
            "LOAD 'auto_explain'; ALTER DATABASE {0} SET session_preload_libraries TO 'auto_explain'; \
             ALTER DATABASE {0} SET auto_explain.log_min_duration TO 0",
            database.name
        ))
        .await;
    session.close().await;
    done.is_ok()
}

/// The server's log.
async fn logged(database: &Database) -> Result<String, Broken> {
    let log = database.value("SELECT pg_read_file(pg_current_logfile())").await?;
    Ok(log.unwrap_or_default())
}
