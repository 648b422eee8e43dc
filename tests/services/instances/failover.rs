//! A Redis that loses a master, fails over, is full or takes no writes, behind the real binary and under load: no call fails
//! for it, and whoever looks after the server is told of what lasts, once, and of its end.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    Client, Instance, Service, Way,
    outage::{CLIENTS, Seen, WORSE, times},
};
use crate::{
    program::figure,
    redis_many::{Cluster, RECOVERED, Watched},
    redis_server::{Server, until},
};

const READY: &str = r#""redis":{"status":"ready"}"#;
/// What it says when a server takes no writes, and when it does again.
const REFUSES: &str = "a Redis of the cache takes no writes";
const TAKES: &str = "a Redis of the cache takes writes again";

/// What it says when a server is lost, and when another one took over from it.
const LOST: &str = "a Redis of the cache cannot be used";
const TAKEN_OVER: &str = "the Redis of the cache works again";

/// Two instances and what their clients see.
struct Load {
    _service: Service,
    instances: [Instance; 2],
    seen: Arc<Seen>,
    clients: JoinSet<()>,
    /// The worst call while all was well.
    before: Duration,
}

impl Load {
    /// On the Redis at `url`, until both answer with what the other one kept.
    async fn start(url: &str) -> Self {
        let service = Service::new(Some(url)).await;
        let (one, other) = tokio::join!(service.start(0), service.start(1));
        let instances = [one, other];
        for instance in &instances {
            until("Redis is connected", async || instance.page("/readyz").await.contains(READY)).await;
        }
        let (seen, mut clients) = (Arc::<Seen>::default(), JoinSet::new());
        for number in 0..CLIENTS {
            let client = Client::new(instances[number % 2].address, Way::Modern, "ada", "alpha");
            let seen = Arc::clone(&seen);
            clients.spawn(async move { seen.load(client, number).await });
        }
        seen.more("warming up", &seen.calls, 200).await;
        let _ = seen.worst();
        seen.more("calls", &seen.calls, 400).await;
        seen.more("answers of the other instance", &seen.shared, 20).await;
        let before = seen.worst();
        Self { _service: service, instances, seen, clients, before }
    }

    /// Waits until answers of the other instance are found again, from `begun` on.
    async fn recovers(&self, begun: Instant) -> Duration {
        self.seen.more("answers of the other instance again", &self.seen.shared, 5).await;
        let took = begun.elapsed();
        assert!(took < RECOVERED, "used again after {took:?}");
        for instance in &self.instances {
            until("readiness", async || instance.page("/readyz").await.contains(READY)).await;
        }
        took
    }

    /// Each instance said once that a server was lost, and once that another took over; that is a connection made anew.
    async fn tell_of_one_outage(&self) {
        for instance in &self.instances {
            until("the end is told", async || times(&instance.said(), TAKEN_OVER) > 0).await;
            let (log, metrics) = (instance.said(), instance.page("/metrics").await);
            assert_eq!((times(&log, LOST), times(&log, TAKEN_OVER)), (1, 1), "{log}");
            let reconnects = figure(&metrics, "tmws_redis_reconnects_total", "");
            assert!((reconnects - 1.0).abs() < 0.5, "{reconnects}");
        }
    }

    /// Ends the clients. None of their calls failed, nor waited for long.
    async fn end(mut self, what: &str) {
        let during = self.seen.worst();
        self.seen.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        let failed = self.seen.failed.lock().unwrap().clone();
        println!(
            "{what}: {} calls, {} failed; worst call {:?} before, {during:?} with it",
            self.seen.calls.load(Ordering::SeqCst),
            failed.len(),
            self.before,
        );
        assert_eq!(failed, [] as [String; 0]);
        assert_eq!(self.seen.lost.load(Ordering::SeqCst), 0, "connections that ended before an answer");
        assert!(
            during < self.before + WORSE,
            "{what}: the worst call took {:?} before, {during:?}",
            self.before
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_loses_the_master_of_a_project_fails_no_call() {
    let mut cluster = Cluster::start().await;
    let load = Load::start(&cluster.url()).await;
    let master = cluster.master_of("alpha");
    cluster.servers[master].kill();
    let killed = Instant::now();
    load.seen.more("receipts that tell", &load.seen.degraded, 5).await;
    load.seen.more("answers of the own layer meanwhile", &load.seen.local, 20).await;
    let again = load.recovers(killed).await;
    load.tell_of_one_outage().await;
    println!("a master of a cluster killed: used again after {again:?}");
    load.end("a master of a cluster killed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_of_sentinels_fails_no_call() {
    let mut watched = Watched::start().await;
    let load = Load::start(&watched.url()).await;
    watched.master.kill();
    let killed = Instant::now();
    load.seen.more("receipts that tell", &load.seen.degraded, 5).await;
    load.seen.more("answers of the own layer meanwhile", &load.seen.local, 20).await;
    let again = load.recovers(killed).await;
    load.tell_of_one_outage().await;
    println!("Sentinels failed over: used again after {again:?}");
    load.end("Sentinels failed over").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_is_full_fails_no_call_and_is_told_of() {
    let redis = Server::start(&["maxmemory-policy noeviction"]);
    let load = Load::start(&redis.url()).await;
    // It holds more than that already.
    redis.ask::<()>("CONFIG SET maxmemory 500kb");
    load.seen.more("receipts that tell", &load.seen.degraded, 5).await;
    until("telling", async || load.instances[0].page("/readyz").await.contains("its memory is full")).await;
    load.seen.more("calls with a full Redis", &load.seen.calls, 400).await;
    load.seen.more("answers of the own layer meanwhile", &load.seen.local, 20).await;
    redis.ask::<()>("CONFIG SET maxmemory 0");
    let grown = Instant::now();
    load.recovers(grown).await;
    load.end("a full Redis").await;
}

/// What of an instance tells everybody of its Redis: readiness, the dashboard, `tmws.stats`.
async fn told(instance: &Instance) -> [String; 3] {
    let ready: Value = serde_json::from_str(&instance.page("/readyz").await).unwrap();
    let board: Value = serde_json::from_str(&instance.page("/dashboard.json").await).unwrap();
    let mut client = Client::new(instance.address, Way::Modern, "ada", "alpha");
    let stats = client.run("tmws.stats", json!({})).await.unwrap();
    let of = |told: &Value| told["dependencies"]["redis"].to_string();
    [of(&ready), of(&board), stats.body["degraded"].to_string()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_takes_no_writes_fails_no_call_and_is_told_of_everywhere_and_so_is_its_end() {
    let redis = Server::start(&[]);
    let load = Load::start(&redis.url()).await;
    redis.ask::<()>("CONFIG SET min-replicas-to-write 1");
    load.seen.more("receipts that tell", &load.seen.degraded, 20).await;
    let mut said = [String::new(), String::new(), String::new()];
    until("telling everywhere", async || {
        said = told(&load.instances[0]).await;
        said.iter().all(|text| text.contains("NOREPLICAS"))
    })
    .await;
    // It stays so, and is not said again.
    for _ in 0..10 {
        load.seen.more("calls", &load.seen.calls, 50).await;
        said = told(&load.instances[0]).await;
        assert!(said.iter().all(|text| text.contains("NOREPLICAS")), "{said:#?}");
    }
    let metrics = load.instances[0].page("/metrics").await;
    assert!((figure(&metrics, "tmws_redis_refusing", "") - 1.0).abs() < 0.5, "{metrics}");
    redis.ask::<()>("CONFIG SET min-replicas-to-write 0");
    let mended = Instant::now();
    load.recovers(mended).await;
    said = told(&load.instances[0]).await;
    assert!(!said.join("").contains("NOREPLICAS"), "{said:#?}");
    let metrics = load.instances[0].page("/metrics").await;
    assert!(figure(&metrics, "tmws_redis_refusing", "") < 0.5, "{metrics}");
    let log = load.instances[0].said();
    assert_eq!((times(&log, REFUSES), times(&log, TAKES)), (1, 1), "{log}");
    load.end("a Redis that takes no writes").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_as_the_redis_is_told_of_before_anybody_calls_and_steadily() {
    let master = Server::start(&[]);
    let replica = Server::start(&[&format!("replicaof 127.0.0.1 {}", master.port)]);
    until("it follows", async || replica.ask::<String>("INFO replication").contains("master_link_status:up"))
        .await;
    let service = Service::new(Some(&replica.url())).await;
    let instance = service.start(0).await;
    until("telling", async || instance.page("/readyz").await.contains("it is a replica")).await;
    let mut client = Client::new(instance.address, Way::Modern, "ada", "alpha");
    for round in 0..60 {
        let content = format!("round {round}");
        client.call("remember", &json!({"content": content, "tags": ["replica"]})).await.unwrap();
        client.run("memory.by-tag", json!({"tag": "replica"})).await.unwrap();
        let ready = instance.page("/readyz").await;
        assert!(ready.contains("redis_url is to name its master"), "{ready}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let metrics = instance.page("/metrics").await;
    for (name, value) in
        [("tmws_redis_refusing", 1.0), ("tmws_redis_connected", 1.0), ("tmws_redis_reconnects_total", 0.0)]
    {
        assert!((figure(&metrics, name, "") - value).abs() < 0.5, "{name} of {metrics}");
    }
    let log = instance.said();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("Redis")).collect();
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert!(warnings[0].contains(REFUSES) && warnings[0].contains("redis_url is to name its master"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_make_room_for_others_are_counted() {
    let mut service = Service::new(None).await;
    service.set("TMWS_LIMITS_CACHE", "20KiB".to_owned());
    let instance = service.start(0).await;
    let mut client = Client::new(instance.address, Way::Modern, "ada", "alpha");
    let evicted = async || figure(&instance.page("/metrics").await, "tmws_cache_evictions_total", "");
    assert!(evicted().await < 0.5);
    for number in 0..200 {
        client.run("memory.by-tag", json!({"tag": format!("tag {number}")})).await.unwrap();
    }
    until("answers made room for others", async || evicted().await > 10.0).await;
    let metrics = instance.page("/metrics").await;
    assert!(figure(&metrics, "tmws_cache_bytes", "") <= 20_480.0, "{metrics}");
}
