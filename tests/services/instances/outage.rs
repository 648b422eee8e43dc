//! A Redis or a database that is gone or refuses its login, behind the real binary: what callers see over HTTP, and what whoever
//! looks after the server sees.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::task::JoinSet;

use super::{Client, Service, Way, instance::Instance};
use crate::{
    program::figure,
    redis_server::{Server, until},
};

pub(super) const CLIENTS: usize = 4;
/// One call of so many stores a memory: what was kept before is none any more.
const CALLS_PER_WRITE: u64 = 10;
/// How much longer than before the worst call may take while Redis is gone.
pub(super) const WORSE: Duration = Duration::from_millis(200);
/// How soon a Redis that is there again is used.
const AGAIN: Duration = Duration::from_secs(5);
/// What it says when Redis is lost and found.
const LOST: &str = "a Redis of the cache cannot be used";
const FOUND: &str = "a Redis of the cache works again";

/// What clients see.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) calls: AtomicU64,
    pub(super) local: AtomicU64,
    pub(super) shared: AtomicU64,
    /// Answers whose receipts tell of Redis.
    pub(super) degraded: AtomicU64,
    /// Connections that ended before an answer: no server ends here.
    pub(super) lost: AtomicU64,
    pub(super) failed: Mutex<Vec<String>>,
    worst: Mutex<Duration>,
    pub(super) stop: AtomicBool,
}

impl Seen {
    pub(super) async fn load(&self, mut client: Client, number: usize) {
        for round in 0.. {
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let begun = Instant::now();
            let answer = if round % CALLS_PER_WRITE == 0 {
                let content = format!("Client {number} wrote this as call {round}");
                client.call("remember", &json!({"content": content, "tags": ["load"]})).await
            } else {
                client.run("memory.by-tag", json!({"tag": "load", "k": round % 3 + 1})).await
            };
            let elapsed = begun.elapsed();
            self.took(elapsed);
            self.lost.fetch_add(std::mem::take(&mut client.lost) as u64, Ordering::SeqCst);
            match answer {
                Ok(answer) => {
                    let count = |count: &AtomicU64, counts: bool| {
                        count.fetch_add(u64::from(counts), Ordering::SeqCst);
                    };
                    count(&self.local, answer.layer.as_deref() == Some("local"));
                    count(&self.shared, answer.layer.as_deref() == Some("shared"));
                    count(
                        &self.degraded,
                        answer.degraded.iter().any(|part| part.starts_with("redis cache: ")),
                    );
                    count(&self.calls, true);
                }
                Err(why) => self.failed.lock().unwrap().push(why),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn took(&self, elapsed: Duration) {
        let mut worst = self.worst.lock().unwrap();
        *worst = worst.max(elapsed);
    }

    /// The worst call since this was asked last.
    pub(super) fn worst(&self) -> Duration {
        std::mem::take(&mut *self.worst.lock().unwrap())
    }

    pub(super) async fn more(&self, what: &str, count: &AtomicU64, more: u64) {
        let before = count.load(Ordering::SeqCst);
        until(what, async || {
            assert_eq!(*self.failed.lock().unwrap(), [] as [String; 0]);
            count.load(Ordering::SeqCst) >= before + more
        })
        .await;
    }
}

pub(super) fn times(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_killed_and_started_again_fails_no_call_and_is_told_of_and_used_again() {
    let mut redis = Server::start(&[]);
    let service = Service::new(Some(&redis.url())).await;
    let (one, other) = tokio::join!(service.start(0), service.start(1));
    let instances: [Instance; 2] = [one, other];
    until("Redis is connected before anybody calls", async || {
        instances[0].page("/readyz").await.contains(r#""redis":{"status":"ready"}"#)
    })
    .await;
    let seen = Arc::<Seen>::default();
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let client = Client::new(instances[number % 2].address, Way::Modern, "ada", "alpha");
        let seen = Arc::clone(&seen);
        clients.spawn(async move { seen.load(client, number).await });
    }
    seen.more("warming up", &seen.calls, 400).await;
    seen.more("answers of the other instance", &seen.shared, 20).await;
    let _ = seen.worst();
    seen.more("calls", &seen.calls, 1_000).await;
    // On a machine that others use as well, one answer in a while comes too late.
    let told = seen.degraded.load(Ordering::SeqCst);
    assert!(told < 100, "all is well, and {told} say otherwise");
    let before = seen.worst();
    let early = instances[0].page("/metrics").await;
    let lost = times(&instances[0].said(), LOST);

    redis.kill();
    let killed = Instant::now();
    seen.more("receipts that tell", &seen.degraded, 20).await;
    seen.more("answers of the own layer without Redis", &seen.local, 50).await;
    until("telling that it is not ready", async || {
        instances[0].page("/readyz").await.contains("nobody listens at its address")
    })
    .await;
    seen.more("calls without Redis", &seen.calls, 1_000).await;
    let gone = killed.elapsed();
    let lost_once = times(&instances[0].said(), LOST) - lost;
    redis.resume();
    let resumed = Instant::now();
    seen.more("answers of the other instance again", &seen.shared, 1).await;
    let again = resumed.elapsed();
    until("readiness", async || instances[0].page("/readyz").await.contains(r#""redis":{"status":"ready"}"#))
        .await;
    seen.more("calls", &seen.calls, 500).await;
    let during = seen.worst();
    let told = seen.degraded.load(Ordering::SeqCst);
    seen.more("calls", &seen.calls, 300).await;
    let more = seen.degraded.load(Ordering::SeqCst) - told;
    assert!(more < 30, "what is over is told of {more} times");

    // One that hangs is not answered in time.
    redis.pause();
    seen.more("receipts that tell", &seen.degraded, 10).await;
    redis.go_on();
    // Whoever looks after it reads of it, once while it is gone, and when it is there; and sees every figure move.
    until("telling that all is well", async || {
        let said = instances[0].said();
        times(&said, LOST) >= 2 && times(&said, LOST) == times(&said, FOUND)
    })
    .await;
    seen.more("calls with a Redis that is well", &seen.calls, 200).await;
    let late = instances[0].page("/metrics").await;
    seen.stop.store(true, Ordering::SeqCst);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    println!(
        "Redis killed for {gone:.1?}: {} calls, {} failed, {told} told of it; worst call {before:?} before, {during:?} with \
         it; used again after {again:?}",
        seen.calls.load(Ordering::SeqCst),
        seen.failed.lock().unwrap().len(),
    );
    assert_eq!(*seen.failed.lock().unwrap(), [] as [String; 0]);
    assert_eq!(seen.lost.load(Ordering::SeqCst), 0, "connections that ended before an answer");
    assert!(again < AGAIN, "used again after {again:?}");
    assert!(
        during < before + WORSE,
        "the worst call took {before:?} before, {during:?} with a Redis that was killed"
    );

    assert_eq!(lost_once, 1, "{}", instances[0].said());
    for (name, labels) in [
        ("tmws_cache_lookups_total", r#"layer="local",outcome="hit""#),
        ("tmws_cache_lookups_total", r#"layer="local",outcome="miss""#),
        ("tmws_cache_lookups_total", r#"layer="redis",outcome="hit""#),
        ("tmws_cache_lookups_total", r#"layer="redis",outcome="miss""#),
        ("tmws_cache_lookups_total", r#"layer="single_flight",outcome="computed""#),
        ("tmws_cache_fills_total", ""),
        ("tmws_cache_stale_total", ""),
        ("tmws_cache_invalidations_total", ""),
        ("tmws_redis_answers_total", r#"operation="get""#),
        ("tmws_redis_answers_total", r#"operation="put""#),
        ("tmws_redis_answer_seconds_total", r#"operation="get""#),
        ("tmws_redis_answer_seconds_total", r#"operation="put""#),
        ("tmws_redis_commands_total", ""),
        ("tmws_redis_failures_total", ""),
        ("tmws_redis_timeouts_total", ""),
        ("tmws_redis_skipped_total", ""),
        ("tmws_redis_waited_seconds_total", ""),
        ("tmws_redis_reconnects_total", ""),
        ("tmws_redis_invalidations_total", ""),
        ("tmws_breaker_opened_total", r#"kind="redis""#),
        ("tmws_backend_failures_total", r#"kind="redis""#),
        ("tmws_backend_refused_total", r#"kind="redis""#),
    ] {
        let (from, to) = (figure(&early, name, labels), figure(&late, name, labels));
        assert!(to > from, "{name} {{{labels}}} went from {from} to {to}");
    }
    for (name, labels, least) in [
        ("tmws_cache_entries", "", 1.0),
        ("tmws_cache_bytes", "", 400.0),
        ("tmws_redis_nodes", "", 1.0),
        ("tmws_redis_connected", "", 1.0),
        ("tmws_store_connections", "", 1.0),
        ("tmws_breaker_state", r#"kind="database",name="store",state="closed""#, 1.0),
    ] {
        let value = figure(&late, name, labels);
        assert!(value >= least, "{name} {{{labels}}} is {value}");
    }
    for name in ["tmws_store_connections_idle", "tmws_backend_in_use", "tmws_backend_waiting"] {
        assert!(late.contains(&format!("\n{name}")), "{name} is not told");
    }
    for name in ["tmws_backend_in_use", "tmws_backend_waiting", "tmws_backend_retries_total"] {
        assert!(!late.contains(&format!(r#"{name}{{kind="redis""#)), "{name} of Redis could never move");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_refuses_the_login_is_told_of_before_anybody_calls() {
    let redis = Server::start(&["requirepass right"]);
    let service = Service::new(Some(&redis.url().replace("//", "//:hunter2@"))).await;
    let instance = service.start(0).await;
    until("telling", async || instance.page("/readyz").await.contains("refuses the user or the password"))
        .await;
    until("logging", async || instance.said().contains(LOST)).await;
    let mut client = Client::new(instance.address, Way::Modern, "ada", "alpha");
    let stats = client.run("tmws.stats", json!({})).await.unwrap();
    let degraded = stats.body["degraded"].to_string();
    assert!(degraded.contains("redis cache: it refuses the user or the password"), "{degraded}");
    let said = instance.said();
    assert!(said.contains("refuses the user or the password") && !said.contains("hunter2"), "{said}");
    assert_eq!(times(&said, LOST), 1, "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_refuses_the_login_is_told_of_as_that_and_logged_once() {
    let mut service = Service::new(None).await;
    let url = service.database.url();
    let (_, host) = url.split_once('@').unwrap();
    service.set("TMWS_DATABASE_URL", format!("postgres://postgres:hunter2@{host}"));
    let instance = service.start(0).await;
    let mut client = Client::new(instance.address, Way::Modern, "ada", "alpha");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        let refused = client.run("memory.by-tag", json!({"tag": "load"})).await.unwrap_err();
        assert!(refused.contains("store_unavailable") && !refused.contains("hunter2"), "{refused}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let ready = instance.page("/readyz").await;
    assert!(ready.contains("it refuses the role or the password"), "{ready}");
    let said = instance.said();
    let warnings: Vec<&str> = said.lines().filter(|line| line.contains("WARN")).collect();
    assert!(warnings.len() <= 3 && !said.contains("hunter2"), "{warnings:#?}");
    assert!(
        warnings.iter().any(|line| line.contains("left alone") && line.contains("refuses the role")),
        "{said}"
    );
}
