//! A Redis that is full, gone, and back.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    KEPT, USED_MAX, client, file, fresh, layer, load::Load, metric, owner, setup, standing, stands, used,
};
use crate::accept::{
    client::Client,
    load::workers,
    scenario::{Broken, Seen},
    stage::{Instance, Person, Redis, Stage},
};

/// Callers at each of two instances.
const CALLERS: usize = 4;
/// Until a server says that its Redis does not work, and that it does.
const SAID_MAX: Duration = Duration::from_secs(10);

/// Two instances on one store and one Redis that use it.
pub(super) async fn pair(stage: &Stage, url: &str, of: &str) -> Result<(Person, Instance, Instance), Broken> {
    let ada = owner(stage, of, 1);
    let shared = setup(&file(stage, of)?, url, ada);
    let (a, b) = tokio::try_join!(stage.start(shared.clone()), stage.start(shared))?;
    let (mut at_a, mut at_b) = (client(&a, ada).await?, client(&b, ada).await?);
    used(&mut at_a, &mut at_b, "first", USED_MAX).await?;
    used(&mut at_b, &mut at_a, "first back", USED_MAX).await?;
    Ok((ada, a, b))
}

/// Callers at both.
pub(super) async fn callers(
    ada: Person,
    instances: [&Instance; 2],
    of_each: usize,
) -> Result<Vec<Client>, Broken> {
    let mut all = Vec::new();
    for instance in instances {
        for _ in 0..of_each {
            all.push(client(instance, ada).await?);
        }
    }
    Ok(all)
}

/// Bytes of an answer, and what Redis has room for: about as much as it takes empty.
const CARGO: usize = 8_000;
const ROOM: &str = "maxmemory 2mb";
const ROOM_BYTES: usize = 2 << 20;
/// Callers who fill it. Each asks so often at least, and so often at most until Redis is seen to be full.
const FILLERS: usize = 3;
const ASKED_MIN: usize = 80;
const ASKED_MAX: usize = 1_500;
/// Keys that were evicted, or commands refused, before it counts as full.
const FULL: u64 = 5;

/// R5. Answers are made until Redis is full, and further on: one that makes room, and one that refuses.
pub(super) async fn full(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let (evicting, refusing) =
        tokio::join!(fill(stage, "maxmemory-policy allkeys-lru"), fill(stage, "maxmemory-policy noeviction"));
    let (evicting, refusing) = (evicting?, refusing?);
    seen.figure("errors", (evicting.failures.len() + refusing.failures.len()) as f64);
    for why in evicting.failures.iter().chain(&refusing.failures).take(8) {
        seen.note(format!("a call failed: {why}"));
    }
    seen.check(
        "allkeys-lru makes room",
        evicting.evicted > 0 && evicting.refused == 0,
        "evicted keys, and no command refused",
        format!("{} evicted, {} refused", evicting.evicted, evicting.refused),
    );
    seen.check(
        "noeviction refuses",
        refusing.evicted == 0 && refusing.refused > 0,
        "no evicted key, and commands refused",
        format!("{} evicted, {} refused", refusing.evicted, refusing.refused),
    );
    for (what, filled) in [("allkeys-lru", &evicting), ("noeviction", &refusing)] {
        seen.check(
            format!("{what}: memory stays where it was told to"),
            filled.used_memory <= ROOM_BYTES * 5 / 4,
            format!("at most {ROOM_BYTES} bytes and what is under way"),
            filled.used_memory.to_string(),
        );
        seen.check(
            format!("{what}: the server stays ready"),
            filled.ready == 200,
            "200",
            filled.ready.to_string(),
        );
        seen.check(
            format!("{what}: what was made last is kept in memory"),
            filled.last == "local",
            "local",
            filled.last.clone(),
        );
    }
    seen.check(
        "a full Redis that refuses is degraded, and says why",
        refusing.standing == "degraded" && refusing.reason.contains("full"),
        "degraded: its memory is full",
        format!("{}: {}", refusing.standing, refusing.reason),
    );
    seen.check(
        "one that makes room is not",
        evicting.standing == "ready",
        "ready",
        format!("{}: {}", evicting.standing, evicting.reason),
    );
    seen.check(
        "with room again it is used again, without a restart",
        refusing.again.is_some_and(|took| took < Duration::from_secs(10)),
        "within 10 s",
        format!("{:?}", refusing.again),
    );
    seen.note(format!(
        "{} and {} answers of {CARGO} bytes; used memory {} and {} bytes; the refusing one was used again {:.1?} after it had \
         room.",
        evicting.asked,
        refusing.asked,
        evicting.used_memory,
        refusing.used_memory,
        refusing.again.unwrap_or_default()
    ));
    Ok(())
}

struct Filled {
    asked: usize,
    failures: Vec<String>,
    evicted: u64,
    /// Commands that were refused for want of room.
    refused: u64,
    used_memory: usize,
    /// Where the answer that was made last comes from afterwards.
    last: String,
    standing: String,
    reason: String,
    ready: u16,
    again: Option<Duration>,
}

async fn fill(stage: &Stage, policy: &str) -> Result<Filled, Broken> {
    let redis = stage.own_redis(&[ROOM, policy]).await?;
    let (ada, a, b) = pair(stage, redis.url(), "r5").await?;
    let mut fillers = Vec::new();
    for _ in 0..FILLERS {
        fillers.push(Mutex::new(Some(client(&a, ada).await?)));
    }
    let is_full = CancellationToken::new();
    let filling = workers(FILLERS, |number| {
        let client = fillers[number].lock().ok().and_then(|mut client| client.take());
        fill_with(number, client, is_full.clone())
    });
    let watching = async {
        while info(&redis, "stats", "evicted_keys").await? < FULL && refused(&redis).await? < FULL {
            sleep(super::LOOK_EVERY * 5).await;
        }
        is_full.cancel();
        Ok::<_, Broken>(())
    };
    // Who fills ends at some time, whatever is seen meanwhile.
    let mut filling = std::pin::pin!(filling);
    let filled = tokio::select! {
        filled = &mut filling => filled,
        watched = watching => {
            watched?;
            filling.await
        }
    };
    let asked = filled.iter().map(|(asked, _)| asked).sum();
    let failures: Vec<String> = filled.into_iter().flat_map(|(_, failures)| failures).collect();
    let mut at_a = client(&a, ada).await?;
    let input = json!({"mark": "the last one"});
    at_a.run(KEPT, input.clone()).await?;
    let last = layer(&at_a.run(KEPT, input).await?).to_owned();
    let evicted = info(&redis, "stats", "evicted_keys").await?;
    let refused = refused(&redis).await?;
    let used_memory = info(&redis, "memory", "used_memory").await?;
    // What is refused is asked again after a pause; then it says so once more.
    let wanted = if policy.ends_with("noeviction") { "degraded" } else { "ready" };
    let begun = Instant::now();
    let (standing, reason, ready) = loop {
        // What is small may still find room.
        fresh(&mut at_a, KEPT, json!({"mark": "more", "cargo": cargo("more")})).await?;
        let told = standing(&a).await?;
        if told.0 == wanted || begun.elapsed() > SAID_MAX {
            break told;
        }
        sleep(super::LOOK_EVERY).await;
    };
    let mut again = None;
    if wanted == "degraded" {
        redis.ask::<String>(&["CONFIG", "SET", "maxmemory", "64mb"]).await?;
        let begun = Instant::now();
        fresh(&mut at_a, KEPT, json!({"mark": "more", "cargo": cargo("more")})).await?;
        used(&mut at_a, &mut client(&b, ada).await?, "with room", USED_MAX).await?;
        stands(&a, "ready", SAID_MAX).await?;
        again = Some(begun.elapsed());
    }
    Ok(Filled {
        asked,
        failures,
        evicted,
        refused,
        used_memory: used_memory as usize,
        last,
        standing,
        reason,
        ready,
        again,
    })
}

/// Asks for one thing after the other, also for a while after Redis is full: how often, and what failed.
async fn fill_with(
    number: usize,
    client: Option<Client>,
    is_full: CancellationToken,
) -> (usize, Vec<String>) {
    let Some(mut client) = client else { return (0, vec!["there is no client".to_owned()]) };
    let mut failures = Vec::new();
    let mut asked = 0;
    while asked < ASKED_MIN || (!is_full.is_cancelled() && asked < ASKED_MAX) {
        asked += 1;
        let mark = format!("{number} {asked}");
        match client.run(KEPT, json!({"mark": mark, "cargo": cargo(&mark)})).await {
            Ok(called) if !called.is_error => {}
            Ok(called) => failures.push(called.body.to_string()),
            Err(broken) => {
                failures.push(broken.to_string());
                break;
            }
        }
    }
    (asked, failures)
}

/// Something long.
fn cargo(of: &str) -> String {
    format!("{of}: crates of salt; ").chars().cycle().take(CARGO).collect()
}

/// A number of `INFO`.
async fn info(redis: &Redis, section: &str, name: &str) -> Result<u64, Broken> {
    let text: String = redis.ask(&["INFO", section]).await?;
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok());
    found.ok_or_else(|| Broken::new(format!("asking Redis for {name}"), "a number", text))
}

/// Commands that Redis refused because it is full.
async fn refused(redis: &Redis) -> Result<u64, Broken> {
    let text: String = redis.ask(&["INFO", "errorstats"]).await?;
    let count = |line: &str| line.strip_prefix("errorstat_OOM:count=")?.trim().parse().ok();
    Ok(text.lines().find_map(count).unwrap_or(0))
}

/// R6. Callers at two instances go on while Redis is killed.
pub(super) async fn killed(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let phase = stage.profile.pick(Duration::from_millis(1500), Duration::from_secs(6));
    let mut redis = stage.own_redis(&[]).await?;
    let (ada, a, b) = pair(stage, redis.url(), "r6").await?;
    let load = Load::start(stage.seed, callers(ada, [&a, &b], CALLERS).await?);
    sleep(phase).await;
    let before = load.timeline.count("shared");
    redis.kill().await?;
    load.timeline.mark("Redis is killed");
    let mut said = Vec::new();
    for instance in [&a, &b] {
        said.push(stands(instance, "degraded", SAID_MAX).await?);
    }
    load.timeline.mark("/readyz says so");
    // What was under way at that moment may still have come from it.
    let (without, local) = (load.timeline.count("shared"), load.timeline.count("local"));
    sleep(phase).await;
    let (after, local_after) = (load.timeline.count("shared"), load.timeline.count("local"));
    for instance in [&a, &b] {
        let (told, reason, status) = standing(instance).await?;
        seen.check(
            "degraded is no reason to send nothing there",
            status == 200 && told == "degraded",
            "200, redis degraded",
            format!("{status}, redis {told}: {reason}"),
        );
        let connected = metric(instance, "tmws_redis_connected").await?;
        seen.equal("/metrics says that no server of Redis is connected", &0.0, &connected);
        seen.check(
            "/readyz gives no address away",
            !reason.contains("127.0.0.1") && !reason.is_empty(),
            "a reason, and no address",
            reason,
        );
    }
    let mut at_a = client(&a, ada).await?;
    let question = json!({"mark": "made without Redis"});
    let layers = (
        layer(&at_a.run(KEPT, question.clone()).await?).to_owned(),
        layer(&at_a.run(KEPT, question).await?).to_owned(),
    );
    seen.equal("receipts: made, then from memory", &("miss".to_owned(), "local".to_owned()), &layers);
    seen.check("before, answers came from Redis", before > 0, "some", before.to_string());
    seen.equal("receipts: afterwards none did", &without, &after);
    seen.check(
        "memory still answers",
        local_after > local,
        "answers from memory",
        (local_after - local).to_string(),
    );
    let ended = load.end(seen).await;
    seen.figure("failed", ended.failed as f64);
    seen.note(format!(
        "{} calls by {} callers, {} failed; P95 {:.1} ms, worst {:.1} ms; /readyz said so after {:.0?} and {:.0?}: {}. The \
         receipt tells by its cache_layer: none is shared.",
        ended.calls,
        CALLERS * 2,
        ended.failed,
        ended.p95,
        ended.worst,
        said[0].0,
        said[0].0 + said[1].0,
        said[0].1
    ));
    Ok(())
}

/// R7. Redis is killed and started again, under load; until an answer that one instance made afterwards is found in it by
/// another.
pub(super) async fn back(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let (rounds, out) = stage.profile.pick((1, Duration::from_millis(1500)), (3, Duration::from_secs(4)));
    let mut redis = stage.own_redis(&[]).await?;
    let (ada, mut a, mut b) = pair(stage, redis.url(), "r7").await?;
    let pids = (a.pid(), b.pid());
    let (mut at_a, mut at_b) = (client(&a, ada).await?, client(&b, ada).await?);
    let load = Load::start(stage.seed, callers(ada, [&a, &b], CALLERS).await?);
    let mut worst = Duration::ZERO;
    for round in 0..rounds {
        sleep(Duration::from_secs(1)).await;
        redis.kill().await?;
        load.timeline.mark("Redis is killed");
        for instance in [&a, &b] {
            stands(instance, "degraded", SAID_MAX).await?;
        }
        sleep(out).await;
        redis.resume().await?;
        let begun = Instant::now();
        load.timeline.mark("Redis is back");
        used(&mut at_a, &mut at_b, &format!("round {round}"), USED_MAX).await?;
        used(&mut at_b, &mut at_a, &format!("round {round} back"), USED_MAX).await?;
        let took = begun.elapsed();
        load.timeline.mark("it is used again, both ways");
        worst = worst.max(took);
        seen.note(format!("Round {}: used again, both ways, {took:.2?} after it answered.", round + 1));
    }
    for instance in [&a, &b] {
        let (took, _) = stands(instance, "ready", SAID_MAX).await?;
        seen.check("/readyz says that it works", took < SAID_MAX, "ready", format!("after {took:.1?}"));
    }
    sleep(Duration::from_millis(500)).await;
    seen.check(
        "nothing was started again",
        a.is_running() && b.is_running() && (a.pid(), b.pid()) == pids,
        "the same processes",
        format!("{:?}", (a.pid(), b.pid())),
    );
    let ended = load.end(seen).await;
    seen.check("no call failed meanwhile", ended.failed == 0, "0", ended.failed.to_string());
    seen.figure("used_again", worst.as_secs_f64());
    seen.note(format!(
        "{} calls meanwhile, {} failed; P95 {:.1} ms, worst {:.1} ms.",
        ended.calls, ended.failed, ended.p95, ended.worst
    ));
    Ok(())
}
