//! M8: one connection that asks as fast as it can.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::MORE;
use crate::accept::{
    client::{Client, MODERN, Target},
    load::{Recorder, percentile, workers},
    scenario::{Broken, Seen},
    stage::{AGENTS, Instance, Stage},
    workload::{self, Caller, Kind},
};

/// Connections of the others.
const OTHERS: usize = 4;
/// Each of them begins a call so often: well below the limit of calls a second.
const EVERY: Duration = Duration::from_millis(40);
/// Requests of the greedy one that are open at the same time: about as many as a connection may have.
const WINDOW: usize = 60;
/// What all of them call.
const KINDS: [Kind; 2] = [Kind::Infrastructure, Kind::Memory];

/// M8: four connections of two principals work at a steady pace, alone and beside one of a third principal that keeps
/// 60 requests open, with the limits that a server has unless told otherwise. Alone and not, in turn, several times, so
/// that the machine's own ups and downs are in both.
pub(super) async fn run(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let (turns, length) = stage.profile.pick((3, 1_000), (4, 2_500));
    let mut setup = workload::setup();
    setup.people.extend(MORE);
    setup.is_unlimited = false;
    let mut instance = stage.start(setup).await?;
    workload::repository(stage, &instance).await?;
    let length = Duration::from_millis(length);
    let (alone, beside) = (Recorder::new(), Recorder::new());
    // What is made at first need is neither's.
    others(&instance, stage.seed, length / 2, &Recorder::new()).await?;
    let (mut answered, mut refused) = (0, 0);
    for turn in 0..turns {
        let seed = stage.seed.wrapping_add(turn);
        others(&instance, seed, length, &alone).await?;
        let greedy = Greedy::start(&instance, seed).await?;
        others(&instance, seed, length, &beside).await?;
        let (well, not) = greedy.end().await?;
        answered += well;
        refused += not;
    }
    let (own, with) = (percentile(&alone.times(None), 95.0), percentile(&beside.times(None), 95.0));
    seen.figure("others", with / own);
    seen.equal("calls of the others that failed, alone", &0, &alone.failed_count());
    seen.equal("calls of the others that failed, beside it", &0, &beside.failed_count());
    let (calls, least) = (answered + refused, beside.well_count() as usize);
    seen.check(
        "the greedy connection asked for more than all others",
        calls > least,
        format!("more than {least}"),
        calls.to_string(),
    );
    seen.note(format!(
        "Alone, 95 % of the others' {} calls took no more than {own:.1} ms; beside the greedy connection, of {}, {with:.1} \
         ms. It was answered {answered} times and told {refused} times that it asks too much.",
        alone.well_count(),
        beside.well_count(),
    ));
    for (recorder, name) in [(alone, "alone"), (beside, "beside the greedy one")] {
        let mut told = Seen::default();
        recorder.tell(&mut told);
        for mut distribution in told.distributions {
            distribution.name = format!("{}, {name}", distribution.name);
            seen.distributions.push(distribution);
        }
        seen.evidence.extend(told.evidence);
    }
    instance.end().await?;
    Ok(())
}

/// The others work for so long.
async fn others(
    instance: &Instance,
    seed: u64,
    length: Duration,
    recorder: &Arc<Recorder>,
) -> Result<(), Broken> {
    let targets = Arc::new(AGENTS.map(|person| Target::of(instance, person, "alpha")));
    let ended = workers(OTHERS, |number| {
        let (targets, recorder) = (Arc::clone(&targets), Arc::clone(recorder));
        async move {
            let target = &targets[number % targets.len()];
            let mut client = Client::socket(&format!("other {number}"), target, MODERN).await?;
            let mut caller = Caller::new(seed, number as u64).fresh();
            let begun = Instant::now();
            let mut next = begun + EVERY.mul_f64(number as f64 / OTHERS as f64);
            // Where answers take much longer than they should, enough has been seen.
            while next.duration_since(begun) < length && begun.elapsed() < length * 3 {
                tokio::time::sleep_until(next.into()).await;
                let ask = caller.any(&KINDS);
                // From when it was to begin: a call that waits for the one before it has waited.
                match ask.call(&mut client).await {
                    Ok(_) => recorder.well(ask.kind.name(), next),
                    Err(broken) => recorder.failed(&broken),
                }
                next += EVERY;
            }
            Ok(())
        }
    })
    .await;
    super::all("working beside others", OTHERS, ended).map(drop)
}

/// The greedy connection.
struct Greedy {
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    refused: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<Result<(), Broken>>,
}

impl Greedy {
    async fn start(instance: &Instance, seed: u64) -> Result<Self, Broken> {
        let mut client =
            Client::socket("the greedy one", &Target::of(instance, MORE[0], "alpha"), MODERN).await?;
        let (is_over, answered, refused) =
            (Arc::new(AtomicBool::new(false)), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let task = tokio::spawn({
            let (is_over, answered, refused) =
                (Arc::clone(&is_over), Arc::clone(&answered), Arc::clone(&refused));
            async move {
                let mut caller = Caller::new(seed, 9_999).fresh();
                let mut open = 0;
                while open > 0 || !is_over.load(Ordering::Relaxed) {
                    while open < WINDOW && !is_over.load(Ordering::Relaxed) {
                        let ask = caller.any(&KINDS);
                        client
                            .post("tools/call", json!({"name": ask.tool, "arguments": ask.arguments}))
                            .await?;
                        open += 1;
                    }
                    let Some(frame) = client.next(crate::accept::client::PATIENCE).await? else {
                        return Err(client.broken("asking greedily", "an answer to each", &Value::Null));
                    };
                    if frame.get("method").is_some() || frame.get("id").is_none() {
                        continue;
                    }
                    open -= 1;
                    let is_well = frame["result"]["isError"] != true && frame.get("error").is_none();
                    let counter = if is_well { &answered } else { &refused };
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            }
        });
        Ok(Self { is_over, answered, refused, task })
    }

    /// Stops asking: how often it was answered, and refused.
    async fn end(self) -> Result<(usize, usize), Broken> {
        self.is_over.store(true, Ordering::Relaxed);
        let ended = self.task.await.map_err(|error| Broken::new("asking greedily", "an end", error))?;
        ended?;
        Ok((self.answered.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed)))
    }
}
