//! How many calls.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use super::Deployment;
use crate::accept::{
    client::Client,
    load::{Recorder, workers},
    scenario::{Broken, Seen, Series},
    stage::Stage,
    workload::{Caller, Kind},
};

/// Connections of P3: enough to keep two cores busy.
const CALLERS: usize = 16;
/// Workers of P4.
const CROWD: usize = 100;
const SECOND: Duration = Duration::from_secs(1);
/// Between two looks at the memory of a process.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// P3: sixteen clients call as fast as they are answered.
pub(super) async fn sustained(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let deployment = Deployment::new(stage, "p3").await?;
    let warm = Duration::from_secs(1);
    let whole = stage.profile.pick(5, 50);
    // What a connection takes is not of the rate.
    let clients = deployment.clients(CALLERS).await?;
    let recorder = Recorder::new();
    let until = Instant::now() + warm + SECOND * whole;
    storm(clients, stage.seed, until, &recorder).await;
    let failed = recorder.failed_count();
    recorder.tell(seen);
    let ends = seen.distributions.iter().flat_map(|kind| kind.calls.iter().map(|(at, took)| *at + *took));
    let mut seconds = vec![0_u32; whole as usize];
    for end in ends {
        let second = end.checked_sub(warm).map(|end| end.as_secs() as usize);
        if let Some(count) = second.and_then(|second| seconds.get_mut(second)) {
            *count += 1;
        }
    }
    let total: u32 = seconds.iter().sum();
    seen.figure("rate", f64::from(total) / f64::from(whole));
    seen.figure("least", seconds.iter().min().copied().map_or(f64::NAN, f64::from));
    seen.figure("most", seconds.iter().max().copied().map_or(f64::NAN, f64::from));
    seen.equal("calls that failed", &0, &failed);
    seen.series.push(Series {
        name: "calls answered".to_owned(),
        unit: "calls/s",
        points: (0..).zip(&seconds).map(|(at, count)| (warm + SECOND * at, f64::from(*count))).collect(),
        marks: Vec::new(),
    });
    seen.note(format!(
        "{CALLERS} clients without a pause for {whole} s after one second to get going, mixed calls of all types, caches \
         on; `most` is the best second"
    ));
    deployment.end(stage).await
}

/// P4: a hundred clients call without a pause; the memory of the server's process must not go on growing.
pub(super) async fn crowd(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let deployment = Deployment::new(stage, "p4").await?;
    let clients = deployment.clients(CROWD).await?;
    let recorder = Recorder::new();
    let (warm, measured) = stage.profile.pick((3, 4), (20, 60));
    let begun = Instant::now();
    let load = storm(clients, stage.seed, begun + SECOND * (warm + measured), &recorder);
    tokio::pin!(load);
    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut curve: Vec<(Duration, f64)> = Vec::new();
    loop {
        tokio::select! {
            () = &mut load => break,
            _ = look.tick() => {
                if let Some(bytes) = deployment.instance.resident() {
                    curve.push((begun.elapsed(), bytes as f64 / f64::from(1 << 20)));
                }
            }
        }
    }
    let after: Vec<f64> =
        curve.iter().filter(|(at, _)| *at >= SECOND * warm).map(|(_, megabytes)| *megabytes).collect();
    let quarter = after.len() / 4;
    let growth = if quarter == 0 {
        f64::NAN
    } else {
        middle(&after[after.len() - quarter..]) - middle(&after[..quarter])
    };
    seen.figure("success", recorder.success());
    seen.figure("growth", growth.max(0.0));
    seen.check(
        "every worker was served",
        recorder.well_count() >= CROWD as u64 * 2,
        format!("at least {}", CROWD * 2),
        recorder.well_count().to_string(),
    );
    seen.note(format!(
        "{CROWD} connections without a pause for {} s; growth is the middle of the last quarter less that of the first, \
         after {warm} s to warm up; {} calls, {} of them failed",
        warm + measured,
        recorder.well_count() + recorder.failed_count(),
        recorder.failed_count()
    ));
    seen.series.push(Series {
        name: "resident memory".to_owned(),
        unit: "MB",
        points: curve,
        marks: vec![(SECOND * warm, "warm".to_owned())],
    });
    recorder.tell(seen);
    deployment.end(stage).await
}

fn middle(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// All `clients` make mixed calls without a pause until then.
async fn storm(clients: Vec<Client>, seed: u64, until: Instant, recorder: &Arc<Recorder>) {
    let many = clients.len();
    let clients = Arc::new(Mutex::new(clients));
    workers(many, |number| {
        let (clients, recorder) = (Arc::clone(&clients), Arc::clone(recorder));
        async move {
            let Some(mut client) = clients.lock().unwrap_or_else(PoisonError::into_inner).pop() else {
                return;
            };
            let mut caller = Caller::new(seed, number as u64);
            while Instant::now() < until {
                let ask = caller.any(&Kind::ALL);
                let begun = Instant::now();
                match ask.call(&mut client).await {
                    Ok(_) => recorder.well(ask.kind.name(), begun),
                    Err(broken) => {
                        recorder.failed(&broken);
                        // Of a connection that is gone nothing else would come; it is not to be counted a million times.
                        if client.ask("ping", serde_json::json!({})).await.is_err() {
                            return;
                        }
                    }
                }
            }
        }
    })
    .await;
}
