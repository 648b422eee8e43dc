//! One answer through its life: from which layer it comes, what ends it, and when.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};

use super::{KEPT, client, client_in, file, fresh, kept, layer, metric, owner, setup, used};
use crate::accept::{
    client::Client,
    scenario::{Broken, Distribution, Seen},
    stage::{ADMIN, Instance, Person, Setup, Stage},
};

/// The machine may be so busy that Redis is not waited for; then what was seen says nothing, and is looked at again.
const TRIES: usize = 3;

/// R1. One server alone, then two that share a store and a Redis: each answer comes from the layer that it must come
/// from, and says what was written.
pub(super) async fn layers(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let redis = stage.redis().await?;
    let ada = owner(stage, "r1", 2 + TRIES);
    let ben = Person { name: "ben", ..ada };
    let shared = Setup { people: vec![ADMIN, ada, ben], ..setup(&file(stage, "r1")?, redis.url(), ada) };
    let single = Setup { redis: None, store: file(stage, "r1")?, ..shared.clone() };
    let (a, b, alone) =
        tokio::try_join!(stage.start(shared.clone()), stage.start(shared), stage.start(single))?;

    let mut one = Walk::new("one server");
    let mut at = client(&alone, ada).await?;
    one.ask(&mut at, "first", "miss", 0).await?;
    one.ask(&mut at, "again", "local", 0).await?;
    one.write(&mut at).await?;
    one.ask(&mut at, "after a write", "miss", 1).await?;
    one.ask(&mut at, "again", "local", 1).await?;
    one.tell(seen);

    used(&mut client(&a, ada).await?, &mut client(&b, ada).await?, "r1", super::USED_MAX).await?;
    used(&mut client(&b, ada).await?, &mut client(&a, ada).await?, "r1 back", super::USED_MAX).await?;
    for (number, project) in ada.projects[2..].iter().enumerate() {
        let before = troubles([&a, &b]).await?;
        let walk = both(&a, &b, ada, ben, project).await?;
        let is_calm = troubles([&a, &b]).await? == before;
        let is_right = walk.steps.iter().all(|step| step.found == step.expected);
        if is_right || is_calm || number + 1 == TRIES {
            walk.tell(seen);
            break;
        }
        walk.tell_truth(seen);
        seen.note("Redis was not answering in time while the machine was busy: the walk was made once more.");
    }
    Ok(())
}

/// Commands that Redis did not answer in time, and failures, of servers.
async fn troubles(instances: [&Instance; 2]) -> Result<u64, Broken> {
    let mut sum = 0;
    for instance in instances {
        for name in ["tmws_redis_failures_total", "tmws_redis_skipped_total"] {
            sum += metric(instance, name).await? as u64;
        }
    }
    Ok(sum)
}

async fn both(a: &Instance, b: &Instance, ada: Person, ben: Person, project: &str) -> Result<Walk, Broken> {
    let mut walk = Walk::new("two servers");
    let (mut at_a, mut at_b) = (client_in(a, ada, project).await?, client_in(b, ada, project).await?);
    walk.ask(&mut at_a, "first, at A", "miss", 0).await?;
    walk.ask(&mut at_a, "again, at A", "local", 0).await?;
    walk.ask(&mut at_b, "what A has, at B", "shared", 0).await?;
    walk.ask(&mut at_b, "again, at B", "local", 0).await?;
    walk.write(&mut at_a).await?;
    walk.ask(&mut at_a, "after a write at A, at A", "miss", 1).await?;
    walk.ask(&mut at_b, "after it, at B", "shared", 1).await?;
    walk.ask(&mut at_b, "again, at B", "local", 1).await?;
    walk.write(&mut at_a).await?;
    walk.ask(&mut at_b, "after another write at A, at B first", "miss", 2).await?;
    walk.ask(&mut at_a, "after it, at A", "shared", 2).await?;
    walk.ask(&mut at_a, "again, at A", "local", 2).await?;
    let called = fresh(&mut at_a, "memory.by-tag", question()).await?;
    walk.note("asked for afresh, at A", "miss", 2, layer(&called), &called.body);
    walk.ask(&mut at_a, "after that, at A", "local", 2).await?;
    // Whose answer it is, and of which project.
    let mut of_ben = client_in(a, ben, project).await?;
    walk.ask(&mut of_ben, "the same of somebody else", "miss", 2).await?;
    let mut elsewhere = client_in(a, ada, ada.projects[1]).await?;
    let called = fresh(&mut elsewhere, "memory.by-tag", question()).await?;
    walk.note("the same in another project", "miss", 0, layer(&called), &called.body);
    let written =
        elsewhere.call("remember", json!({"content": "of another project", "tags": ["far"]})).await?;
    walk.note("a write in another project", "", 0, "", &json!({"total": u8::from(written.is_error)}));
    walk.ask(&mut at_a, "after a write in another project, at A", "local", 2).await?;
    Ok(walk)
}

/// Questions one after the other, what each should come from and say, and what it did.
struct Walk {
    of: &'static str,
    written: u64,
    steps: Vec<Step>,
}

struct Step {
    what: &'static str,
    expected: (String, u64),
    found: (String, u64),
}

fn question() -> Value {
    json!({"tag": "berth", "k": 5})
}

impl Walk {
    const fn new(of: &'static str) -> Self {
        Self { of, written: 0, steps: Vec::new() }
    }

    async fn ask(
        &mut self,
        client: &mut Client,
        what: &'static str,
        layer: &str,
        total: u64,
    ) -> Result<(), Broken> {
        let called = client.run("memory.by-tag", question()).await?;
        let called = client.well(what, called)?;
        self.note(what, layer, total, super::layer(&called), &called.body);
        Ok(())
    }

    fn note(&mut self, what: &'static str, layer: &str, total: u64, from: &str, body: &Value) {
        let found = (from.to_owned(), body["total"].as_u64().unwrap_or(u64::MAX));
        self.steps.push(Step { what, expected: (layer.to_owned(), total), found });
    }

    async fn write(&mut self, client: &mut Client) -> Result<(), Broken> {
        self.written += 1;
        let content = format!("berth number {} is free", self.written);
        let called = client.call("remember", json!({"content": content, "tags": ["berth"]})).await?;
        client.well("remembering", called).map(drop)
    }

    fn tell(&self, seen: &mut Seen) {
        for step in &self.steps {
            seen.equal(format!("{}: {}", self.of, step.what), &step.expected, &step.found);
        }
    }

    /// What may not be otherwise however busy the machine is.
    fn tell_truth(&self, seen: &mut Seen) {
        for step in &self.steps {
            seen.equal(format!("{}: the count, {}", self.of, step.what), &step.expected.1, &step.found.1);
        }
    }
}

/// Answers of each life and layer.
const KEYS: usize = 4;
/// Between two looks at an answer whose end is near.
const NEAR_EVERY: Duration = Duration::from_millis(4);

/// R4. Answers that live for some seconds are asked for until they are made anew: in the memory of the process that made
/// them, and of one that found them in Redis half-way. Redis is asked for the same.
pub(super) async fn ends(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let lives = stage.profile.pick(&[3_000_u64, 4_000][..], &[3_000, 6_000, 10_000]);
    let redis = stage.redis().await?;
    let ada = owner(stage, "r4", 1);
    let mut shared = setup(&file(stage, "r4")?, redis.url(), ada);
    shared.patterns.extend(lives.iter().map(|ms| kept(&name(*ms), &format!("{ms}ms"))));
    let (a, b) = tokio::try_join!(stage.start(shared.clone()), stage.start(shared))?;
    let (mut maker, mut finder) = (client(&a, ada).await?, client(&b, ada).await?);
    used(&mut maker, &mut finder, "r4", super::USED_MAX).await?;

    let begun = Instant::now();
    let mut running = JoinSet::new();
    for &ms in lives {
        for key in 0..KEYS {
            for is_found in [false, true] {
                let (maker, finder) = (client(&a, ada).await?, client(&b, ada).await?);
                let mark = format!("{key} {is_found}");
                running.spawn(one_of_some(ms, mark, maker, is_found.then_some(finder)));
            }
        }
    }
    let mut worst = 0.0_f64;
    let mut doubt = Duration::ZERO;
    let mut told = [Distribution::default(), Distribution::default()];
    for (place, name) in ["made here", "found in Redis"].into_iter().enumerate() {
        name.clone_into(&mut told[place].name);
    }
    while let Some(ended) = running.join_next().await {
        let life = ended.map_err(|error| Broken::new("watching an answer", "its end", error))??;
        let wanted = Duration::from_millis(life.ms);
        let off = 100.0 * (life.lived.as_secs_f64() - wanted.as_secs_f64()).abs() / wanted.as_secs_f64();
        worst = worst.max(off);
        doubt = doubt.max(life.doubt);
        told[usize::from(life.is_found)].calls.push((begun.elapsed(), life.lived));
        if life.is_found {
            seen.check(
                format!("an answer of {} ms that was found in Redis came from there", life.ms),
                life.was_shared,
                "shared",
                "something else",
            );
        }
    }
    let key_lives = in_redis(stage, &mut maker, ada, lives).await?;
    for (ms, left) in key_lives {
        let of_life = 100.0 * left as f64 / ms as f64;
        seen.check(
            format!("Redis keeps an answer of {ms} ms no longer than that"),
            left > 0 && (90.0..=100.0).contains(&of_life),
            "between 90 and 100 % of it, just after it was made",
            format!("{of_life:.1} %"),
        );
    }
    seen.distributions.extend(told);
    seen.figure("deviation", worst);
    seen.note(format!(
        "{} answers in {} lives ({lives:?} ms), half of them read from Redis half-way; each end is known to within {:.0} ms.",
        lives.len() * KEYS * 2,
        lives.len(),
        doubt.as_secs_f64() * 1e3
    ));
    Ok(())
}

fn name(ms: u64) -> String {
    format!("{KEPT}-{ms}")
}

struct Life {
    ms: u64,
    is_found: bool,
    was_shared: bool,
    lived: Duration,
    /// Half of the time in which it may have begun, and of that in which it may have ended.
    doubt: Duration,
}

/// One whose answer was kept half-way. On a machine so busy that Redis is not waited for it is not found there; then
/// another one is looked at.
async fn one_of_some(
    ms: u64,
    mark: String,
    mut maker: Client,
    mut finder: Option<Client>,
) -> Result<Life, Broken> {
    let mut tries = 1;
    loop {
        let lived = one_life(ms, format!("{mark} {tries}"), &mut maker, finder.as_mut()).await;
        if lived.is_ok() || finder.is_none() || tries == TRIES {
            return lived;
        }
        tries += 1;
    }
}

async fn one_life(
    ms: u64,
    mark: String,
    maker: &mut Client,
    finder: Option<&mut Client>,
) -> Result<Life, Broken> {
    let (pattern, input) = (name(ms), json!({"mark": mark}));
    let sent = Instant::now();
    let made = maker.run(&pattern, input.clone()).await?;
    if layer(&made) != "miss" {
        return Err(maker.broken("asking for something new", "a miss", &made.receipt));
    }
    let (made_at, made_doubt) = (sent + sent.elapsed() / 2, sent.elapsed() / 2);
    let is_found = finder.is_some();
    let mut was_shared = false;
    sleep(Duration::from_millis(ms / 2)).await;
    let watcher = finder.unwrap_or(maker);
    let mut last_hit = None;
    loop {
        let sent = Instant::now();
        let called = watcher.run(&pattern, input.clone()).await?;
        match layer(&called) {
            "shared" if is_found => was_shared = true,
            // Where Redis was not heard for a moment the memory is emptied, and the answer found there as well.
            "local" | "shared" => {}
            "miss" => {
                // It ended between the last answer that was kept and this one.
                let Some(last_hit) = last_hit else {
                    return Err(watcher.broken("asking half-way", "what is kept", &called.receipt));
                };
                let between = Instant::now().saturating_duration_since(last_hit) / 2;
                let ended = last_hit + between;
                let lived = ended.saturating_duration_since(made_at);
                return Ok(Life { ms, is_found, was_shared, lived, doubt: between + made_doubt });
            }
            _ => return Err(watcher.broken("asking again", "what is kept", &called.receipt)),
        }
        last_hit = Some(sent);
        let age = made_at.elapsed();
        if age > Duration::from_millis(ms * 2) {
            return Err(watcher.broken("asking long after its end", "a miss", &called.receipt));
        }
        let is_near = age * 100 > Duration::from_millis(ms) * 85;
        sleep(if is_near { NEAR_EVERY } else { Duration::from_millis(ms / 20) }).await;
    }
}

/// What is left of lives, in milliseconds, as Redis says it just after an answer was made.
async fn in_redis(
    stage: &Stage,
    maker: &mut Client,
    ada: Person,
    lives: &[u64],
) -> Result<Vec<(u64, i64)>, Broken> {
    let redis = stage.redis().await?;
    let mut found = Vec::new();
    for &ms in lives {
        redis.forget(ada.projects[0]).await?;
        maker.run(&name(ms), json!({"mark": "for Redis"})).await?;
        let keys = redis.keys(ada.projects[0]).await?;
        let [key] = &keys[..] else {
            return Err(Broken::new("looking for the key of an answer", "one", format!("{keys:?}")));
        };
        found.push((ms, redis.ask::<i64>(&["PTTL", key]).await?));
    }
    Ok(found)
}
