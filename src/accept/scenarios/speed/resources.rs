//! What a call costs the machine.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use super::Deployment;
use crate::accept::{
    load::{Recorder, workers},
    scenario::{Broken, Seen, Series},
    stage::Stage,
    workload::{Caller, Kind},
};

/// Calls a second that are due, whether or not earlier ones were answered.
const RATE: u32 = 100;
/// Connections that share them.
const CONNECTIONS: usize = 24;
const LOOK_EVERY: Duration = Duration::from_millis(250);
const MB: f64 = 1_048_576.0;

/// P6: a hundred calls a second fall due; processor time, memory, database connections and Redis are looked at from
/// outside.
pub(super) async fn under_load(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let deployment = Deployment::new(stage, "p6").await?;
    let (postgres, redis) = (stage.postgres().await?, stage.redis().await?);
    let clients = Arc::new(Mutex::new(deployment.clients(CONNECTIONS).await?));
    let due_in_all = RATE * stage.profile.pick(5, 50);
    let next = Arc::new(AtomicU32::new(0));
    let recorder = Recorder::new();
    let begun = Instant::now();
    let before = processor(&deployment)?;
    let load = workers(CONNECTIONS, |number| {
        let (clients, recorder, next) = (Arc::clone(&clients), Arc::clone(&recorder), Arc::clone(&next));
        let mut caller = Caller::new(stage.seed, number as u64);
        async move {
            let Some(mut client) = clients.lock().unwrap_or_else(PoisonError::into_inner).pop() else {
                return;
            };
            loop {
                let ticket = next.fetch_add(1, Ordering::Relaxed);
                if ticket >= due_in_all {
                    return;
                }
                let due = begun + Duration::from_secs(1) * ticket / RATE;
                tokio::time::sleep_until(due.into()).await;
                let ask = caller.any(&Kind::ALL);
                match ask.call(&mut client).await {
                    // A call that could not be sent when it was due waited as well.
                    Ok(_) => recorder.well(ask.kind.name(), due),
                    Err(broken) => recorder.failed(&broken),
                }
            }
        }
    });
    tokio::pin!(load);
    let mut curves = ["processor", "resident memory", "database connections", "Redis memory"]
        .map(|name| Series { name: name.to_owned(), ..Series::default() });
    for (curve, unit) in curves.iter_mut().zip(["%", "MB", "", "MB"]) {
        curve.unit = unit;
    }
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last = (Instant::now(), before);
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{}'", deployment.database.name);
    loop {
        tokio::select! {
            _ = &mut load => break,
            _ = look.tick() => {
                let (at, used) = (begun.elapsed(), processor(&deployment)?);
                let passed = last.0.elapsed();
                if passed >= LOOK_EVERY / 2 {
                    curves[0].points.push((at, 100.0 * (used.saturating_sub(last.1)).as_secs_f64() / passed.as_secs_f64()));
                    last = (Instant::now(), used);
                }
                let resident = deployment.instance.resident();
                curves[1].points.extend(resident.map(|bytes| (at, bytes as f64 / MB)));
                let connections = postgres.value(&sql).await?.and_then(|count| count.parse::<f64>().ok());
                curves[2].points.extend(connections.map(|count| (at, count)));
                let memory: String = redis.ask(&["INFO", "memory"]).await?;
                let memory = memory.lines().find_map(|line| line.strip_prefix("used_memory:")?.trim().parse::<f64>().ok());
                curves[3].points.extend(memory.map(|bytes| (at, bytes / MB)));
            }
        }
    }
    let took = begun.elapsed();
    let used = processor(&deployment)?.saturating_sub(before);
    let most = |curve: &Series| {
        curve.points.iter().map(|(_, value)| *value).max_by(f64::total_cmp).unwrap_or(f64::NAN)
    };
    seen.figure("cpu", 100.0 * used.as_secs_f64() / took.as_secs_f64());
    for (name, curve) in [("rss", 1), ("database_connections", 2), ("redis_memory", 3)] {
        seen.figure(name, most(&curves[curve]));
    }
    // The other figures are of a hundred calls a second only where so many were answered.
    seen.figure("rate", recorder.well_count() as f64 / took.as_secs_f64());
    seen.equal("calls that failed", &0, &recorder.failed_count());
    seen.note(format!(
        "{due_in_all} mixed calls, one due each {} ms, over {CONNECTIONS} connections; cpu is that of the server's \
         process, in per cent of one core, over the whole run; the programs that it starts (git) are not counted",
        1000 / RATE
    ));
    seen.series.extend(curves);
    recorder.tell(seen);
    deployment.end(stage).await
}

fn processor(deployment: &Deployment) -> Result<Duration, Broken> {
    deployment.instance.processor_time().ok_or_else(|| {
        Broken::new("reading the processor time of the server", "/proc/PID/stat", "it cannot be read")
    })
}
