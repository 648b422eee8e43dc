//! How long what one instance keeps in its memory outlives the end of the same entry in Redis.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ::redis::aio::MultiplexedConnection;
use serde_json::json;

use super::{KEPT, client, file, fresh, layer, metric, owner, setup, used};
use crate::accept::{
    client::Client,
    load::{Recorder, percentile},
    scenario::{Broken, Seen},
    stage::Stage,
};

/// An entry that lives on for so long was not told of.
const TOLD_MAX: Duration = Duration::from_secs(3);
/// Tries to have an answer in the memory of an instance.
const KEPT_TRIES: usize = 50;

/// R2. Three instances have the same answer in their memory; then the first makes it anew, or its key in Redis is removed.
/// Measured from before that until the others no longer answer from their memory, call and answer included.
pub(super) async fn spread(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let rounds = stage.profile.pick(120, 600);
    let redis = stage.redis().await?;
    let ada = owner(stage, "r2", 1);
    let shared = setup(&file(stage, "r2")?, redis.url(), ada);
    let (a, b, c) =
        tokio::try_join!(stage.start(shared.clone()), stage.start(shared.clone()), stage.start(shared))?;
    let (mut at_a, mut at_b, mut at_c) =
        (client(&a, ada).await?, client(&b, ada).await?, client(&c, ada).await?);
    used(&mut at_a, &mut at_b, "b", super::USED_MAX).await?;
    used(&mut at_a, &mut at_c, "c", super::USED_MAX).await?;
    redis.forget(ada.projects[0]).await?;
    at_a.run(KEPT, json!({"mark": MARK})).await?;
    let keys = redis.keys(ada.projects[0]).await?;
    let [key] = &keys[..] else {
        return Err(Broken::new("looking for the key of an answer", "one", format!("{keys:?}")));
    };
    let broken = |error: ::redis::RedisError| Broken::new("asking Redis", "an answer", error);
    let opened = ::redis::Client::open(redis.url()).map_err(broken)?;
    let mut outside = opened.get_multiplexed_async_connection().await.map_err(broken)?;

    let told_before = (told(&b).await?, told(&c).await?);
    let recorder = Recorder::new();
    for round in 0..rounds {
        in_memory(&mut at_a, &mut [&mut at_b, &mut at_c]).await?;
        let begun = Instant::now();
        if round % 2 == 0 {
            // Another word for the same: what was made anew has to reach both.
            let (made, first, second) = tokio::join!(
                fresh(&mut at_a, KEPT, json!({"mark": MARK})),
                dropped(&mut at_b, begun, "made anew", &recorder),
                dropped(&mut at_c, begun, "made anew", &recorder),
            );
            made?;
            first?;
            second?;
        } else {
            // One of them alone: what it makes then is a change for the other.
            let watched = if round % 4 == 1 { &mut at_b } else { &mut at_c };
            let (removed, found) =
                tokio::join!(remove(&mut outside, key), dropped(watched, begun, "removed", &recorder));
            removed?;
            found?;
        }
    }
    let told_after = (told(&b).await?, told(&c).await?);
    let made = f64::from(rounds) / 2.0;
    seen.check(
        "both count what they were told to drop",
        told_after.0 - told_before.0 >= made && told_after.1 - told_before.1 >= made,
        format!("at least {made} each"),
        format!("{} and {}", told_after.0 - told_before.0, told_after.1 - told_before.1),
    );
    let times = recorder.times(None);
    seen.figure("p95", percentile(&times, 95.0));
    seen.note(format!(
        "{} entries over {rounds} rounds at two instances: P50 {:.1} ms, P95 {:.1} ms, worst {:.1} ms, each with the call that \
         saw it. Nobody reads a stale answer meanwhile where memories are concerned: that is R3.",
        times.len(),
        percentile(&times, 50.0),
        percentile(&times, 95.0),
        percentile(&times, 100.0)
    ));
    recorder.tell(seen);
    Ok(())
}

const MARK: &str = "the harbour is open";

/// Until each of `others` answers from its memory.
async fn in_memory(first: &mut Client, others: &mut [&mut Client]) -> Result<(), Broken> {
    first.run(KEPT, json!({"mark": MARK})).await?;
    for client in others {
        let mut last = json!(null);
        let mut is_there = false;
        for _ in 0..KEPT_TRIES {
            let called = client.run(KEPT, json!({"mark": MARK})).await?;
            is_there = layer(&called) == "local";
            if is_there {
                break;
            }
            last = called.receipt;
        }
        if !is_there {
            return Err(client.broken("asking again and again", "what is in its memory", &last));
        }
    }
    Ok(())
}

/// Asks until the answer does not come from memory, and notes how long after `begun` that was.
async fn dropped(
    client: &mut Client,
    begun: Instant,
    kind: &str,
    recorder: &Arc<Recorder>,
) -> Result<(), Broken> {
    loop {
        let called = client.run(KEPT, json!({"mark": MARK})).await?;
        if matches!(layer(&called), "shared" | "miss") {
            recorder.well(kind, begun);
            return Ok(());
        }
        if begun.elapsed() > TOLD_MAX {
            return Err(client.broken(
                "asking for what was changed elsewhere",
                format!("not from memory within {TOLD_MAX:?}"),
                &called.receipt,
            ));
        }
    }
}

async fn remove(outside: &mut MultiplexedConnection, key: &str) -> Result<(), Broken> {
    let removed: Result<i64, _> = ::redis::cmd("DEL").arg(key).query_async(outside).await;
    match removed {
        Ok(1) => Ok(()),
        Ok(other) => Err(Broken::new("removing a key of Redis", "1", other)),
        Err(error) => Err(Broken::new("removing a key of Redis", "1", error)),
    }
}

async fn told(instance: &crate::accept::stage::Instance) -> Result<f64, Broken> {
    metric(instance, "tmws_cache_invalidations_total").await
}
