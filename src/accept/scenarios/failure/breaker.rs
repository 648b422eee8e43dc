//! A circuit breaker, through its states.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::look::{self, Breaker};
use crate::accept::{
    client::{Client, MODERN, Target},
    scenario::{Broken, Seen, Series},
    stage::{AGENTS, Instance, Setup, Stage},
    until::until,
    workload,
};

/// Each state is reached within this.
const STATE_MAX: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The pause of the breaker of Redis is a second; shorter than this it was none.
const PAUSE_LEAST: Duration = Duration::from_millis(800);

/// What goes on while the breaker is looked at.
struct Watch<'a> {
    client: Client,
    instance: &'a Instance,
    begun: Instant,
    asked: u64,
    failed: u64,
    curve: Series,
}

impl Watch<'_> {
    /// Asks for something that no cache has, so that Redis is asked.
    async fn ask(&mut self) -> Result<(), Broken> {
        self.asked += 1;
        let input = json!({"query": format!("ballast of the ship number {}", self.asked)});
        let called = self.client.run("memory.recall", input).await?;
        self.failed += u64::from(called.is_error);
        Ok(())
    }

    async fn state(&mut self) -> Result<Breaker, Broken> {
        let breaker = look::breaker(self.instance, "redis").await?;
        let level = match breaker.state.as_str() {
            "closed" => 0.0,
            "half_open" => 1.0,
            "open" => 2.0,
            _ => f64::NAN,
        };
        if !level.is_nan() {
            self.curve.points.push((self.begun.elapsed(), level));
        }
        Ok(breaker)
    }

    /// Looks, and asks in between where `asks`, until the breaker is in `state`.
    async fn reach(&mut self, seen: &mut Seen, state: &str, asks: bool) -> Result<Breaker, Broken> {
        let begun = Instant::now();
        loop {
            let breaker = self.state().await?;
            let is_there = breaker.state == state;
            if is_there || begun.elapsed() > STATE_MAX {
                seen.check(
                    format!("the metrics say {state}{}", if asks { " once calls were made" } else { "" }),
                    is_there,
                    format!("{state} within {STATE_MAX:?}"),
                    format!("{breaker:?} after {:?}", begun.elapsed()),
                );
                self.curve.marks.push((self.begun.elapsed(), state.to_owned()));
                return Ok(breaker);
            }
            if asks {
                self.ask().await?;
            } else {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    /// What `/readyz` says of the backends.
    async fn backends(&mut self) -> Result<Value, Broken> {
        let told = look::ready(self.instance).await?;
        let all = &told["dependencies"];
        let found = all
            .get("backends")
            .cloned()
            .or_else(|| all.as_array()?.iter().find(|dependency| dependency["name"] == "backends").cloned());
        found.ok_or_else(|| Broken::new("asking for /readyz", "the dependency `backends`", told))
    }
}

/// E4: Redis hangs: the breaker opens; when its pause is over it is half open, the probe fails and it opens again; Redis
/// goes on, the next probe goes well and it closes. No call fails meanwhile.
pub(super) async fn cycle(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let redis = stage.own_redis(&[]).await?;
    let setup = Setup { redis: Some(redis.url().to_owned()), ..workload::setup() };
    let mut instance = stage.start(setup).await?;
    let target = Target::of(&instance, AGENTS[0], "alpha");
    workload::remember(stage, &target, 24).await?;
    let curve = Series { name: "breaker: closed 0, half open 1, open 2".to_owned(), ..Series::default() };
    let mut watch = Watch {
        client: Client::socket("ada", &target, MODERN).await?,
        instance: &instance,
        begun: Instant::now(),
        asked: 0,
        failed: 0,
        curve,
    };
    let closed = watch.reach(seen, "closed", true).await?;
    is_well(&mut watch, seen, "before anything fails", true).await?;

    redis.freeze(true);
    watch.curve.marks.push((watch.begun.elapsed(), "Redis hangs".to_owned()));
    let open = watch.reach(seen, "open", true).await?;
    let opened = Instant::now();
    seen.check(
        "the metrics count that it opened",
        open.opened > closed.opened,
        format!("more than {}", closed.opened),
        open.opened.to_string(),
    );
    is_well(&mut watch, seen, "while it is open", false).await?;
    watch.reach(seen, "half_open", false).await?;
    seen.check(
        "it stayed open for its pause",
        opened.elapsed() >= PAUSE_LEAST,
        format!("at least {PAUSE_LEAST:?}"),
        format!("{:?}", opened.elapsed()),
    );
    let again = watch.reach(seen, "open", true).await?;
    seen.check(
        "a probe that failed opened it again",
        again.opened > open.opened,
        format!("more than {}", open.opened),
        again.opened.to_string(),
    );

    redis.freeze(false);
    watch.curve.marks.push((watch.begun.elapsed(), "Redis goes on".to_owned()));
    watch.reach(seen, "half_open", false).await?;
    watch.reach(seen, "closed", true).await?;
    is_well(&mut watch, seen, "after it closed", true).await?;
    seen.equal("calls that failed on the way", &0, &watch.failed);
    seen.note(format!(
        "{} calls, none of which was to fail: what the breaker guards is the second layer of the cache",
        watch.asked
    ));
    seen.series.push(watch.curve);
    instance.end().await?;
    Ok(())
}

/// Looks at `/readyz`, which may be some moments behind, until it says of Redis what it should.
async fn is_well(watch: &mut Watch<'_>, seen: &mut Seen, when: &str, is_well: bool) -> Result<(), Broken> {
    let begun = Instant::now();
    let look = async || Ok(watch.backends().await?.to_string());
    let (text, held) =
        until(STATE_MAX, LOOK_EVERY, look, |text: &String| text.contains("redis") != is_well).await?;
    seen.check(
        format!("/readyz on the backends {when}"),
        held,
        if is_well { "no breaker of Redis" } else { "the breaker of Redis" },
        format!("{text}, {:?} later", begun.elapsed()),
    );
    Ok(())
}
