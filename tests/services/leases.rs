//! Two instances of the engine, each with a first layer of its own, before one store and one Redis: who runs what takes
//! long, who waits, and what happens where whoever runs it is gone, late, or alone.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde_json::json;
use tmws::{
    cache::{CacheLimits, Layer, SecondLayer, redis::Redis},
    engine::{Clock, Engine, EngineSettings, Execution, Workspace},
    scope::Scope,
    store::{NewMemory, SharedStore, SqliteOptions, SqliteStore},
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    engine_support::{Act, NOW, Shelf, Staged, around, built_in, here, request, scope_of, value},
    redis_server::{PATIENCE, Server, client, until},
};

const PATTERN: &str = "memory.recall";
/// How long the runs take that the instances know of.
const RUN: Duration = Duration::from_millis(200);
/// The length of a lease is four runs.
const LEASE: Duration = Duration::from_millis(800);
/// What a busy machine may add to it.
const SLACK: Duration = Duration::from_millis(1_500);
/// What whoever waits for another may go on waiting once Redis is gone: one answer's time, and what a busy machine adds.
const WITHOUT: Duration = Duration::from_millis(400);

const MISS: (&str, Option<Layer>) = ("miss", None);
const SHARED: (&str, Option<Layer>) = ("hit", Some(Layer::Shared));

fn way(execution: &Execution) -> (&'static str, Option<Layer>) {
    (execution.receipt.cache, execution.receipt.cache_layer)
}

struct Still(Timestamp);

impl Clock for Still {
    fn now(&self) -> Timestamp {
        self.0
    }
}

/// What instances share.
struct Common {
    server: Server,
    store: SharedStore,
    _folder: tempfile::TempDir,
}

/// One of them.
struct Instance {
    engine: Arc<Engine>,
    /// The way to the store, which tells of searches and may hold them up.
    store: Arc<Staged>,
    redis: Arc<Redis>,
}

impl Common {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(SqliteOptions::new(folder.path().join("store.db"))).await.unwrap();
        let common = Self { server: Server::start(&[]), store: Arc::new(store), _folder: folder };
        common.remember("The harbour has berth seven.").await;
        common
    }

    async fn remember(&self, content: &str) {
        let new = NewMemory { content: content.to_owned(), ..NewMemory::default() };
        self.store.remember(&scope(), new, NOW.parse().unwrap()).await.unwrap();
    }

    /// One that nobody asked yet.
    fn fresh_instance(&self) -> Instance {
        let store = Arc::new(Staged::new(Some(Arc::clone(&self.store))));
        let redis = Arc::new(client(&self.server.url()));
        let engine = Engine::new(
            Shelf::of(vec![built_in(PATTERN)]),
            Arc::clone(&store) as SharedStore,
            here(Workspace::None { reason: "none is needed".to_owned() }),
            Arc::new(Still(NOW.parse().unwrap())),
            EngineSettings::default(),
        )
        .with_cache(CacheLimits::default(), Some(Arc::clone(&redis) as Arc<dyn SecondLayer>));
        Instance { engine: Arc::new(engine), store, redis }
    }

    /// One that knows how long a run takes: it ran once.
    async fn instance(&self, name: &str) -> Instance {
        let instance = self.fresh_instance();
        instance.store.next([Act::Wait]);
        let first = instance.asks(name);
        assert_eq!(instance.store.searched().await, name);
        tokio::time::sleep(RUN).await;
        instance.store.release(1);
        assert_eq!(way(&ended(first).await), MISS);
        instance
    }

    /// The number of the one lease there is whose holder has not given it back.
    fn lease(&self) -> Option<u64> {
        let keys: Vec<String> = self.server.ask("KEYS tmws:lease:1:*");
        let held = keys.iter().filter_map(|key| {
            let text: String = self.server.ask(&format!("GET {key}"));
            let (number, until) = text.split_once(' ').unwrap();
            (until != "0").then(|| number.parse().unwrap())
        });
        let held: Vec<u64> = held.collect();
        assert!(held.len() <= 1, "{held:?}");
        held.first().copied()
    }

    /// All answers that Redis keeps.
    fn entries(&self) -> Vec<(String, Vec<u8>)> {
        let mut keys: Vec<String> = self.server.ask("KEYS tmws:1:*");
        keys.sort();
        keys.into_iter().map(|key| (key.clone(), self.server.ask(&format!("GET {key}")))).collect()
    }
}

impl Instance {
    /// Asks, and goes on.
    fn asks(&self, query: &str) -> JoinHandle<Execution> {
        let (engine, request) = (Arc::clone(&self.engine), request(PATTERN, json!({"query": query})));
        tokio::spawn(async move {
            engine.execute(&scope(), request, around(&CancellationToken::new())).await.unwrap()
        })
    }

    /// Asks what another instance runs now, and waits until this one was told so: it looked for the answer, asked for the
    /// lease, and looked again.
    async fn asks_in_vain(&self, query: &str) -> JoinHandle<Execution> {
        let before = self.redis.figures().commands;
        let waits = self.asks(query);
        until("the wait for another", async || self.redis.figures().commands >= before + 3).await;
        assert!(!waits.is_finished());
        assert_eq!(self.store.searched_count().await, 0, "it ran what another runs");
        waits
    }
}

fn scope() -> Scope {
    scope_of("p1")
}

async fn ended(asked: JoinHandle<Execution>) -> Execution {
    tokio::time::timeout(PATIENCE, asked).await.expect("an answer comes").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_instances_one_runs_what_takes_long_and_the_other_gets_its_answer() {
    let common = Common::new().await;
    let (one, other) = (common.instance("one").await, common.instance("other").await);
    one.store.next([Act::Wait]);
    let runs = one.asks("harbour");
    assert_eq!(one.store.searched().await, "harbour");
    assert!(common.lease().is_some());
    let waits = other.asks_in_vain("harbour").await;
    one.store.release(1);
    let (ran, waited) = (ended(runs).await, ended(waits).await);
    assert_eq!((way(&ran), way(&waited)), (MISS, SHARED));
    assert_eq!(ran.text, waited.text);
    assert!(value(&ran)["hits"].to_string().contains("berth seven"));
    assert_eq!(other.store.searched_count().await, 0);
    assert_eq!(common.lease(), None, "it is given back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_asked_first_one_alone_runs() {
    let common = Common::new().await;
    let (one, other) = (common.instance("one").await, common.instance("other").await);
    for round in 0..20 {
        let query = format!("harbour {round}");
        let (a, b) = (one.asks(&query), other.asks(&query));
        let (a, b) = (ended(a).await, ended(b).await);
        assert_eq!(a.text, b.text);
        let mut ways = [way(&a), way(&b)];
        ways.sort_by_key(|(cache, _)| *cache);
        assert_eq!(ways, [SHARED, MISS], "round {round}");
        let runs = one.store.searched_count().await + other.store.searched_count().await;
        assert_eq!(runs, 1, "round {round}");
        // Runs were quick; that they take long is to be known in the next rounds, too.
        for instance in [&one, &other].into_iter().filter(|_| round % 2 == 1) {
            instance.store.next([Act::Wait]);
            let slow = instance.asks(&format!("slow {round} {:p}", instance.store));
            instance.store.searched().await;
            tokio::time::sleep(RUN).await;
            instance.store.release(1);
            assert_eq!(way(&ended(slow).await), MISS);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_instance_that_is_gone_was_running_another_runs_when_the_lease_is_over() {
    let common = Common::new().await;
    let (one, other) = (common.instance("one").await, common.instance("other").await);
    one.store.next([Act::Wait]);
    let runs = one.asks("harbour");
    assert_eq!(one.store.searched().await, "harbour");
    let (first, taken) = (common.lease().expect("a lease"), Instant::now());
    other.store.next([Act::Wait]);
    let waits = other.asks_in_vain("harbour").await;
    // It goes with all it has.
    runs.abort();
    assert!(runs.await.unwrap_err().is_cancelled());
    one.redis.close().await;
    drop(one);
    assert_eq!(other.store.searched().await, "harbour");
    let took = taken.elapsed();
    assert!(took < LEASE + SLACK, "{took:?}");
    let second = common.lease().expect("a lease");
    assert!(second > first, "{second} after {first}");
    other.store.release(1);
    assert_eq!(way(&ended(waits).await), MISS);
    let third = common.fresh_instance();
    assert_eq!(way(&ended(third.asks("harbour")).await), SHARED);
    println!("taken over {took:?} after it was taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_instance_puts_after_another_took_over_is_refused() {
    let common = Common::new().await;
    let (one, other) = (common.instance("one").await, common.instance("other").await);
    one.store.next([Act::Wait]);
    let late = one.asks("harbour");
    assert_eq!(one.store.searched().await, "harbour");
    let first = common.lease().expect("a lease");
    // From here on the answer of the first is an old one; it has the same key.
    common.remember("The harbour has berth nine, too.").await;
    let waits = other.asks_in_vain("harbour").await;
    let newer = ended(waits).await;
    assert_eq!(way(&newer), MISS);
    assert!(newer.text.contains("berth nine"));
    let kept = common.entries();
    let keys: Vec<String> = common.server.ask("KEYS tmws:lease:1:*");
    let numbers: Vec<u64> = keys
        .iter()
        .map(|key| common.server.ask::<String>(&format!("GET {key}")))
        .map(|text| text.split_once(' ').unwrap().0.parse().unwrap())
        .collect();
    assert!(numbers.iter().any(|number| *number > first), "{numbers:?} after {first}");
    let before = one.redis.figures().commands;
    one.store.release(1);
    assert_eq!(way(&ended(late).await), MISS);
    assert!(one.redis.figures().commands > before, "it tried to put");
    assert_eq!(common.entries(), kept, "what it put replaced a newer answer");
    let third = common.fresh_instance();
    let found = ended(third.asks("harbour")).await;
    assert_eq!((way(&found), &found.text), (SHARED, &newer.text));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_lease_is_held_redis_is_killed_and_nobody_waits_for_it() {
    let mut common = Common::new().await;
    let (one, other) = (common.instance("one").await, common.instance("other").await);
    one.store.next([Act::Wait]);
    let runs = one.asks("harbour");
    assert_eq!(one.store.searched().await, "harbour");
    let waits = other.asks_in_vain("harbour").await;
    common.server.kill();
    let begun = Instant::now();
    assert_eq!(other.store.searched().await, "harbour");
    let gave_up = begun.elapsed();
    assert_eq!(way(&ended(waits).await), MISS);
    let begun = Instant::now();
    one.store.release(1);
    assert_eq!(way(&ended(runs).await), MISS);
    let ended_within = begun.elapsed();
    println!("gave up {gave_up:?} after the end of Redis; the holder's end took {ended_within:?}");
    assert!(gave_up < WITHOUT && ended_within < WITHOUT, "{gave_up:?}, {ended_within:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_lease_is_held_redis_stops_answering_and_nobody_waits_for_it_long() {
    let common = Common::new().await;
    let (one, other) = (common.instance("one").await, common.instance("other").await);
    one.store.next([Act::Wait]);
    let runs = one.asks("harbour");
    assert_eq!(one.store.searched().await, "harbour");
    let waits = other.asks_in_vain("harbour").await;
    common.server.pause();
    let begun = Instant::now();
    assert_eq!(other.store.searched().await, "harbour");
    let gave_up = begun.elapsed();
    assert_eq!(way(&ended(waits).await), MISS);
    let begun = Instant::now();
    one.store.release(1);
    assert_eq!(way(&ended(runs).await), MISS);
    let ended_within = begun.elapsed();
    println!("gave up {gave_up:?} after Redis stopped; the holder's end took {ended_within:?}");
    assert!(gave_up < WITHOUT + LEASE / 2 && ended_within < WITHOUT, "{gave_up:?}, {ended_within:?}");
}
