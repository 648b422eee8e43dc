//! How long a call takes.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::json;

use super::Deployment;
use crate::accept::{
    load::{Recorder, percentile, workers},
    scenario::{Broken, Seen},
    stage::Stage,
    workload::{Caller, Kind},
};

/// Calls of each kind that are not measured: connections are opened, tables and plans come into memory.
const WARM_UP: usize = 8;

/// P1: calls of one kind after another, by one client, none of them answered from a cache.
pub(super) async fn by_type(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let deployment = Deployment::new(stage, "p1").await?;
    let mut client = deployment.client("ada").await?;
    let calls = stage.profile.pick(50, 500);
    let recorder = Recorder::new();
    let mut caller = Caller::new(stage.seed, 1).fresh();
    let mut hits = 0;
    let mut parts: Vec<(&str, Vec<Duration>)> = Vec::new();
    for kind in Kind::ALL {
        for number in 0..WARM_UP + calls {
            let ask = caller.next(kind);
            let begun = Instant::now();
            match ask.call(&mut client).await {
                Err(broken) => recorder.failed(&broken),
                Ok(_) if number < WARM_UP => {}
                Ok(answer) => {
                    recorder.well(kind.name(), begun);
                    hits += u64::from(answer.cache() == "hit");
                    let part = answer.receipt["pattern"].as_str().map_or_else(
                        || if ask.tool == "remember" { "remember" } else { "offered" }.to_owned(),
                        |name| name.split('@').next().unwrap_or(name).to_owned(),
                    );
                    note(&mut parts, &part, answer.elapsed);
                }
            }
        }
    }
    seen.equal("calls that failed", &0, &recorder.failed_count());
    seen.equal("answers from a cache though fresh ones were asked for", &0, &hits);
    for (figure, kind) in [
        ("matching_p95", Kind::Matching),
        ("infrastructure_p95", Kind::Infrastructure),
        ("memory_p95", Kind::Memory),
        ("hybrid_p95", Kind::Hybrid),
    ] {
        seen.figure(figure, percentile(&recorder.times(Some(kind.name())), 95.0));
    }
    let told = parts.iter_mut().map(|(name, times)| {
        times.sort_unstable();
        let (p50, p95) = (percentile(times, 50.0), percentile(times, 95.0));
        ((*name).to_owned(), json!({"n": times.len(), "p50": p50, "p95": p95}))
    });
    seen.data.push(("by_pattern", told.collect()));
    seen.note(format!(
        "{calls} calls of each kind, one after the other, by one client over WebSocket; all answers were computed"
    ));
    recorder.tell(seen);
    deployment.end(stage).await
}

/// Patterns that the workload runs: a note of another is one of `other`.
const PARTS: [&str; 14] = [
    "offered",
    "remember",
    "harbour.motto",
    "code.find",
    "code.outline",
    "todo.sweep",
    "memory.recall",
    "memory.lookup",
    "memory.by-tag",
    "repo.digest",
    "session.primer",
    "diff.review",
    "project.health",
    "other",
];

fn note(parts: &mut Vec<(&'static str, Vec<Duration>)>, part: &str, took: Duration) {
    let name = PARTS.iter().find(|name| **name == part).copied().unwrap_or("other");
    match parts.iter_mut().find(|(known, _)| *known == name) {
        Some((_, times)) => times.push(took),
        None => parts.push((name, vec![took])),
    }
}

/// Connections of P2, and the longest pause that an agent makes between two calls.
const AGENTS_AT_ONCE: usize = 8;
const PAUSE_MS: u64 = 200;

/// P2: eight agents make mixed calls with pauses, as agents do; what they wait is measured at the client.
pub(super) async fn end_to_end(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let deployment = Deployment::new(stage, "p2").await?;
    let clients = deployment.clients(AGENTS_AT_ONCE).await?;
    let clients = Arc::new(Mutex::new(clients));
    let recorder = Recorder::new();
    let until = Instant::now() + stage.profile.pick(Duration::from_secs(4), Duration::from_secs(40));
    let drawn_from = stage.seed;
    workers(AGENTS_AT_ONCE, |number| {
        let (clients, recorder) = (Arc::clone(&clients), Arc::clone(&recorder));
        async move {
            let Some(mut client) = clients.lock().unwrap_or_else(PoisonError::into_inner).pop() else {
                return;
            };
            let mut caller = Caller::new(drawn_from, number as u64);
            while Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(caller.dice().roll(PAUSE_MS))).await;
                let ask = caller.any(&Kind::ALL);
                let begun = Instant::now();
                match ask.call(&mut client).await {
                    Ok(_) => recorder.well(ask.kind.name(), begun),
                    Err(broken) => recorder.failed(&broken),
                }
            }
        }
    })
    .await;
    let times = recorder.times(None);
    for (figure, of) in [("p50", 50.0), ("p95", 95.0), ("p99", 99.0)] {
        seen.figure(figure, percentile(&times, of));
    }
    seen.equal("calls that failed", &0, &recorder.failed_count());
    seen.check(
        "there were enough calls for a 99th percentile",
        times.len() >= 100,
        "at least 100 calls",
        times.len().to_string(),
    );
    seen.note(format!(
        "{AGENTS_AT_ONCE} agents over WebSocket, mixed calls of all types, pauses of up to {PAUSE_MS} ms; {} calls",
        times.len()
    ));
    recorder.tell(seen);
    deployment.end(stage).await
}
