//! M1 and M2: agents that call what agents call, all at once.

use std::{sync::Arc, time::Duration};

use super::{MORE, crew};
use crate::accept::{
    client::{Client, LEGACY, MODERN, Target},
    load::{Recorder, mean, percentile, workers},
    scenario::{Broken, Seen},
    stage::{Stage, Where},
    workload::{self, Caller, Kind},
};

struct Crowd {
    /// For the names of what it makes.
    name: &'static str,
    agents: usize,
    calls: usize,
    /// An agent thinks for so long at most before each call.
    thinks_max: Duration,
    memories: usize,
}

/// M1.
pub(super) async fn fifty(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let (calls, memories) = stage.profile.pick((6, 60), (60, workload::MEMORIES));
    let thinks_max = Duration::from_millis(stage.profile.pick(600, 1_000));
    let recorder = run(stage, seen, &Crowd { name: "m1", agents: 50, calls, thinks_max, memories }).await?;
    seen.figure("average", mean(&recorder.times(None)));
    recorder.tell(seen);
    Ok(())
}

/// M2.
pub(super) async fn two_hundred(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let (calls, memories) = stage.profile.pick((2, 60), (20, workload::MEMORIES));
    let thinks_max = Duration::from_millis(stage.profile.pick(1_500, 3_000));
    let recorder = run(stage, seen, &Crowd { name: "m2", agents: 200, calls, thinks_max, memories }).await?;
    recorder.tell(seen);
    Ok(())
}

async fn run(stage: &Stage, seen: &mut Seen, crowd: &Crowd) -> Result<Arc<Recorder>, Broken> {
    let redis = stage.redis().await?.url().to_owned();
    let database = stage.postgres().await?.database(&stage.name(crowd.name)).await?;
    let mut setup = workload::setup();
    setup.people.extend(MORE);
    setup.store = Where::Database(database.url.clone());
    setup.redis = Some(redis);
    let mut instance = stage.start(setup).await?;
    workload::prepare(stage, &instance, crowd.memories).await?;
    let targets: Arc<Vec<Target>> =
        Arc::new(crew().into_iter().map(|person| Target::of(&instance, person, "alpha")).collect());
    let recorder = Recorder::new();
    let (seed, calls, thinks_max) = (stage.seed, crowd.calls, crowd.thinks_max);
    let reached = workers(crowd.agents, |agent| {
        let (targets, recorder) = (Arc::clone(&targets), Arc::clone(&recorder));
        async move {
            let target = &targets[agent % targets.len()];
            // Every fifth agent is an old one.
            let revision = if agent % 5 == 4 { LEGACY[agent / 5 % LEGACY.len()] } else { MODERN };
            let name = format!("agent {agent}");
            let mut client = match Client::socket(&name, target, revision).await {
                Ok(client) => client,
                Err(broken) => {
                    (0..calls).for_each(|_| recorder.failed(&broken));
                    return (0, broken.frames);
                }
            };
            let mut caller = Caller::new(seed, agent as u64);
            for done in 0..calls {
                let thinks = caller.dice().share();
                tokio::time::sleep(thinks_max.mul_f64(thinks)).await;
                let ask = caller.any(&Kind::TYPES);
                let begun = std::time::Instant::now();
                match ask.call(&mut client).await {
                    Ok(_) => recorder.well(ask.kind.name(), begun),
                    Err(broken) => {
                        recorder.failed(&broken);
                        // Where the connection has ended, what it would have called fails as well.
                        if client.ask("ping", serde_json::json!({})).await.is_err() && revision != MODERN {
                            (done + 1..calls).for_each(|_| recorder.failed(&"the connection had ended"));
                            return (done, broken.frames);
                        }
                    }
                }
            }
            (calls, Vec::new())
        }
    })
    .await;
    seen.equal("agents that came to their end", &crowd.agents, &reached.len());
    if let Some((_, frames)) = reached.into_iter().find(|(done, frames)| *done < calls && !frames.is_empty())
    {
        seen.frames.extend(frames);
    }
    let times = recorder.times(None);
    seen.figure("success", recorder.success());
    seen.note(format!(
        "{} agents of {} principals made {} calls: {} well, {} failed; half took no more than {:.0} ms, 95 % {:.0} ms, \
         99 % {:.0} ms.",
        crowd.agents,
        crew().len(),
        crowd.agents * calls,
        recorder.well_count(),
        recorder.failed_count(),
        percentile(&times, 50.0),
        percentile(&times, 95.0),
        percentile(&times, 99.0),
    ));
    instance.end().await?;
    stage.postgres().await?.as_ref().drop(&database).await?;
    Ok(recorder)
}
