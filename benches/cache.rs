//! What kept answers spare, and what finding them costs.
//!
//! `cargo bench --bench cache [-- OPERATIONS]`. On a machine that does nothing else.
//!
//! **Times**, promised: a hit of the first layer below 2 µs, one of the second below 300 µs with a Redis on this machine
//! (`scripts/redis`; where `TMWS_TEST_REDIS_URL` names no server it is left out, and said so), the engine's whole way to a kept answer below 50 µs, the
//! question whether memories changed below 5 µs on SQLite and below 300 µs on PostgreSQL (`scripts/postgres cargo bench
//! --bench cache`; where `TMWS_TEST_POSTGRES_URL` names no server it is left out, and said so). The engine's way is everything between `Engine::execute` and its
//! return: the pattern by name, whether the caller may run it, inputs against their schema, the key, the generation, the
//! lookup, receipt and figures.
//!
//! **Hit rate**, promised above 80 %: reads are calls of `memory.by-tag` through the engine over a real SQLite store,
//! whose answers all depend on the project's memories; a write stores a memory, so that nothing kept of its project is a hit
//! any more. 1,000 questions are asked as often as Zipf with exponent 1.1 says, and lie in 100 projects, ten in each; one
//! operation in twenty is a write, into any of the projects alike. Beside it the same where it is harder, and the control
//! in which no question comes twice; the harder ones do a tenth of the operations, since most of theirs are runs.

#![allow(clippy::print_stdout, reason = "the report")]
#![allow(clippy::disallowed_methods, reason = "a benchmark is told of its servers by the environment")]

use std::{
    error::Error,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tmws::{
    cache::{
        Cache, CacheLimits, Entry, Key, Layer, SecondLayer, Value, Wanted,
        redis::{Redis, RedisUrl},
    },
    engine::{
        Caller, Clock, Engine, EngineSettings, ExecuteRequest, LiveLibrary, NobodyToAsk, Surroundings,
        Target, Unobserved, Workspace, Workspaces,
    },
    pattern::{CacheScopeRule, Mode, library::Library},
    resilience::{BackendKind, Backends},
    scope::{ProjectId, Scope},
    store::{NewMemory, PostgresOptions, SharedStore, SqliteOptions, SqliteStore, StoreOptions},
};
use tokio_util::sync::CancellationToken;

const QUESTIONS: usize = 1_000;
const PROJECTS: usize = 100;
const EXPONENT: f64 = 1.1;
/// One operation in so many is a write.
const WRITES: u64 = 20;
const OPERATIONS: usize = 100_000;
/// The harder workloads do so much less.
const HARDER_LESS: usize = 10;
const TIMED: usize = 20_000;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// A clock that stands until it is moved, in microseconds after the first of March 2026.
#[derive(Default)]
struct Hands(AtomicI64);

impl Clock for Hands {
    fn now(&self) -> Timestamp {
        let begun: Timestamp = "2026-03-01T12:00:00Z".parse().expect("a time");
        begun + SignedDuration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

struct Nowhere;

impl Workspaces for Nowhere {
    fn workspace(&self, _: &Scope) -> Workspace {
        Workspace::None { reason: "none is needed".to_owned() }
    }
}

struct Text(String);

impl Value for Text {
    fn encode(&self) -> Vec<u8> {
        self.0.clone().into_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        String::from_utf8(bytes.to_vec()).ok().map(Self)
    }

    fn weight(&self) -> usize {
        self.0.len()
    }
}

/// Numbers that look random and are the same each time (xorshift).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    #[expect(clippy::cast_precision_loss, reason = "53 bits are meant")]
    fn fraction(&mut self) -> f64 {
        self.roll(1 << 53) as f64 / (1_u64 << 53) as f64
    }
}

/// Draws ranks from 0 on as Zipf says.
struct Zipf(Vec<f64>);

impl Zipf {
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    fn new(n: usize) -> Self {
        let mut sum = 0.0;
        let sums: Vec<f64> = (1..=n)
            .map(|rank| {
                sum += (rank as f64).powf(-EXPONENT);
                sum
            })
            .collect();
        Self(sums.into_iter().map(|part| part / sum).collect())
    }

    fn draw(&self, dice: &mut Dice) -> usize {
        let at = dice.fraction();
        self.0.partition_point(|sum| *sum < at).min(self.0.len() - 1)
    }
}

struct Server {
    engine: Engine,
    store: SharedStore,
    clock: Arc<Hands>,
    _folder: tempfile::TempDir,
}

impl Server {
    async fn new() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let store: SharedStore =
            Arc::new(SqliteStore::open(SqliteOptions::new(folder.path().join("store.db"))).await?);
        let clock = Arc::new(Hands::default());
        let engine = Engine::new(
            Arc::new(LiveLibrary::new(Library::built_in())),
            Arc::clone(&store),
            Arc::new(Nowhere),
            Arc::clone(&clock) as Arc<dyn Clock>,
            EngineSettings::default(),
        )
        .with_cache(CacheLimits::default(), None);
        Ok(Self { engine, store, clock, _folder: folder })
    }

    async fn ask(&self, scope: &Scope, pattern: &str, input: serde_json::Value) -> Result<bool> {
        let request = ExecuteRequest {
            target: Target::Pattern(pattern.to_owned()),
            input: input.as_object().cloned().unwrap_or_default(),
            mode: Mode::Balanced,
            session: None,
            unless: None,
            fresh: false,
            caller: Caller::Model,
        };
        let around = Surroundings {
            observer: &Unobserved,
            asker: Arc::new(NobodyToAsk),
            cancel: CancellationToken::new(),
            deadline: Instant::now() + Duration::from_secs(30),
            task_deadline: None,
        };
        Ok(self.engine.execute(scope, request, around).await?.receipt.cache == "hit")
    }

    async fn write(&self, scope: &Scope, text: String, tag: String) -> Result<()> {
        let new = NewMemory { content: text, tags: vec![tag], ..NewMemory::default() };
        self.store.remember(scope, new, self.clock.now()).await?;
        Ok(())
    }
}

fn scope_of(project: usize) -> Scope {
    let project = ProjectId::parse(&format!("p{project}")).expect("a project's name");
    Scope::mint(project, "ada", "default", None)
}

fn percentiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e6;
    (at(50), at(95))
}

/// Promises that were not kept, each with what was measured.
static BROKEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// `is_kept` as a word. A promise that is not kept fails the run at its end.
fn verdict(is_kept: bool, what: impl FnOnce() -> String) -> &'static str {
    if is_kept {
        return "kept";
    }
    BROKEN.lock().unwrap_or_else(PoisonError::into_inner).push(what());
    "NOT KEPT"
}

fn told(what: &str, times: Vec<Duration>, promised: f64) {
    let (half, most) = percentiles(times);
    let verdict = verdict(most < promised, || format!("{what}: {most:.2} µs of {promised}"));
    println!("{what:<58} P50 {half:>8.2} µs  P95 {most:>8.2} µs  promised {promised:>3} µs: {verdict}");
}

async fn times(server: &Server) -> Result<()> {
    let cache: Cache<Text> = Cache::new(CacheLimits::default(), None);
    let now = Timestamp::now();
    let wanted = Wanted { now, generation: Some(7) };
    let mut keys = Vec::new();
    for index in 0..QUESTIONS {
        let key = Key::new(&scope_of(1), CacheScopeRule::Principal, false, [index.to_string().as_bytes()]);
        let key = key.ok_or("a key")?;
        let value = Arc::new(Text("x".repeat(2_000)));
        let expires = now + SignedDuration::from_hours(1);
        cache.put(&key, Entry { value, generation: Some(7), expires }, now, None, Duration::ZERO).await;
        keys.push(key);
    }
    let mut taken = Vec::with_capacity(TIMED);
    for index in 0..TIMED {
        let key = &keys[index % keys.len()];
        let begun = Instant::now();
        let found = cache.get(key, wanted, Duration::ZERO).await;
        taken.push(begun.elapsed());
        assert!(found.is_some(), "it was put");
    }
    told("a hit of the first layer", taken, 2.0);
    match std::env::var("TMWS_TEST_REDIS_URL") {
        Ok(url) => of_redis(&url).await?,
        Err(_) => println!("a hit of the second layer: no server; see the head of this benchmark"),
    }

    let scope = scope_of(1);
    for number in 0..200 {
        server.write(&scope, format!("harbour note {number} about the queue"), "queue".to_owned()).await?;
    }
    let mut taken = Vec::with_capacity(TIMED);
    for _ in 0..TIMED {
        let begun = Instant::now();
        server.store.mark(&scope).await?;
        taken.push(begun.elapsed());
    }
    told("whether memories changed (SQLite)", taken, 5.0);
    match std::env::var("TMWS_TEST_POSTGRES_URL") {
        Ok(url) => of_postgres(url).await?,
        Err(_) => {
            println!("whether memories changed (PostgreSQL): no server; see the head of this benchmark");
        }
    }

    for (pattern, input) in [
        ("memory.recall", json!({"query": "harbour queue"})),
        ("memory.by-tag", json!({"tag": "queue"})),
        ("memory.timeline", json!({"query": "harbour"})),
    ] {
        let begun = Instant::now();
        server.ask(&scope, pattern, input.clone()).await?;
        let run = begun.elapsed().as_secs_f64() * 1e6;
        let mut taken = Vec::with_capacity(TIMED);
        for _ in 0..TIMED {
            let input = input.clone();
            let begun = Instant::now();
            let hit = server.ask(&scope, pattern, input).await?;
            taken.push(begun.elapsed());
            assert!(hit, "it was asked before");
        }
        told(&format!("the engine's whole way, {pattern} (its run: {run:.0} µs)"), taken, 50.0);
    }
    Ok(())
}

/// Entries that another instance put, each found here for the first time: asked of Redis, read, and kept in the first layer.
async fn of_redis(url: &str) -> Result<()> {
    let cache = || -> Result<Cache<Text>> {
        let url = RedisUrl::parse(url)?;
        let breaker = Backends::default().breaker(BackendKind::Redis, "cache");
        let redis: Arc<dyn SecondLayer> = Arc::new(Redis::new(url, CacheLimits::default(), breaker));
        Ok(Cache::new(CacheLimits::default(), Some(redis)))
    };
    let (writer, reader) = (cache()?, cache()?);
    let within = Duration::from_secs(1);
    let now = Timestamp::now();
    let wanted = Wanted { now, generation: Some(7) };
    let expires = now + SignedDuration::from_mins(1);
    let mut keys = Vec::new();
    let run = format!("{} {now}", std::process::id());
    for index in 0..TIMED / 4 {
        let name = format!("{run} {index}");
        let key =
            Key::new(&scope_of(1), CacheScopeRule::Principal, false, [name.as_bytes()]).ok_or("a key")?;
        let value = Arc::new(Text("x".repeat(2_000)));
        writer.put(&key, Entry { value, generation: Some(7), expires }, now, None, within).await;
        keys.push(key);
    }
    let absent =
        Key::new(&scope_of(1), CacheScopeRule::Principal, false, [b"none".as_slice()]).ok_or("a key")?;
    assert!(reader.get(&absent, wanted, within).await.is_none(), "it connects");
    let mut taken = Vec::with_capacity(keys.len());
    for key in &keys {
        let begun = Instant::now();
        let found = reader.get(key, wanted, within).await;
        taken.push(begun.elapsed());
        assert!(matches!(found, Some((_, Layer::Shared))), "another instance put it");
    }
    told("a hit of the second layer", taken, 300.0);
    writer.close().await;
    reader.close().await;
    Ok(())
}

/// The same question of a server: one at a time, and of as many as a busy instance has.
async fn of_postgres(url: String) -> Result<()> {
    let store = StoreOptions::Postgres(PostgresOptions::new(url)).open().await?;
    let scope = Scope::mint(ProjectId::personal(), "ada", "default", None);
    let note = NewMemory { content: "harbour note about the queue".to_owned(), ..NewMemory::default() };
    store.remember(&scope, note, Timestamp::now()).await?;
    for (what, asking) in [("one asks", 1), ("8 ask", 8)] {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..asking {
            let (store, scope) = (SharedStore::clone(&store), scope.clone());
            tasks.spawn(async move {
                let mut taken = Vec::with_capacity(TIMED / 4);
                for _ in 0..TIMED / 4 {
                    let begun = Instant::now();
                    store.mark(&scope).await?;
                    taken.push(begun.elapsed());
                }
                Result::Ok(taken)
            });
        }
        let taken = tasks.join_all().await.into_iter().collect::<Result<Vec<_>>>()?.concat();
        told(&format!("whether memories changed (PostgreSQL, {what})"), taken, 300.0);
    }
    store.close(Duration::from_secs(5)).await;
    Ok(())
}

/// One way to spread questions and writes.
#[derive(Clone, Copy)]
struct Workload {
    name: &'static str,
    projects: usize,
    /// Questions in all, or in each project.
    per_project: bool,
    /// Writes go where questions go, and not into any project alike.
    writes_follow: bool,
    /// No question comes twice.
    no_repeat: bool,
    /// Time between operations.
    pause: Duration,
}

const DECLARED: Workload = Workload {
    name: "declared: 1,000 questions in 100 projects",
    projects: PROJECTS,
    per_project: false,
    writes_follow: false,
    no_repeat: false,
    pause: Duration::ZERO,
};

async fn hit_rate(load: Workload, operations: usize) -> Result<f64> {
    let server = Server::new().await?;
    let scopes: Vec<Scope> = (0..load.projects).map(scope_of).collect();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let zipf = Zipf::new(QUESTIONS);
    // Ranks lie in the projects in an order of their own: a project does not get the ten most asked ones.
    let project_of = |rank: usize| rank.wrapping_mul(7_919) % load.projects;
    let (mut hits, mut reads) = (0_u32, 0_u32);
    for operation in 0..operations {
        let step = i64::try_from(load.pause.as_micros())?;
        server.clock.0.fetch_add(step, Ordering::Relaxed);
        let rank = zipf.draw(&mut dice);
        let anywhere = usize::try_from(dice.roll(load.projects as u64))?;
        let question = if load.per_project { anywhere } else { project_of(rank) };
        if dice.roll(WRITES) == 0 {
            let project = if load.writes_follow { question } else { anywhere };
            server.write(&scopes[project], format!("note {operation}"), format!("t{rank}")).await?;
            continue;
        }
        let tag = if load.no_repeat { format!("u{operation}") } else { format!("t{rank}") };
        reads += 1;
        hits += u32::from(server.ask(&scopes[question], "memory.by-tag", json!({"tag": tag})).await?);
    }
    let rate = 100.0 * f64::from(hits) / f64::from(reads);
    println!("{:<72} {rate:>6.2} %", load.name);
    Ok(rate)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let operations = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(OPERATIONS);
    times(&Server::new().await?).await?;
    println!(
        "\nhits of {operations} operations, Zipf {EXPONENT}, 5 % writes, all answers depend on memories"
    );
    let declared = hit_rate(DECLARED, operations).await?;
    let control = Workload { name: "control: no question comes twice", no_repeat: true, ..DECLARED };
    let control = hit_rate(control, operations).await?;
    for load in [
        Workload { name: "one project: each write ends all entries", projects: 1, ..DECLARED },
        Workload { name: "writes go where questions go", writes_follow: true, ..DECLARED },
        Workload {
            name: "declared, 100 operations a second: entries end after 60 s as well",
            pause: Duration::from_millis(10),
            ..DECLARED
        },
        Workload { name: "1,000 questions in each of 100 projects (100,000)", per_project: true, ..DECLARED },
    ] {
        hit_rate(load, operations / HARDER_LESS).await?;
    }
    let verdict = verdict(declared > 80.0 && control == 0.0, || {
        format!("hits: {declared:.2} % of the declared workload, {control:.2} % of the control")
    });
    println!("promised: above 80 % of the declared workload, none of the control: {verdict}");
    let broken = std::mem::take(&mut *BROKEN.lock().unwrap_or_else(PoisonError::into_inner));
    if broken.is_empty() { Ok(()) } else { Err(format!("not kept: {}", broken.join("; ")).into()) }
}
