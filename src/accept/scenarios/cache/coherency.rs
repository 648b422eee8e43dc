//! Nothing stale: what was acknowledged before a call began is in its answer, whoever answers and from whatever is kept.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    LOOK_EVERY, USED_MAX, client_in, layer,
    load::Timeline,
    setup,
    trial::{Project, WRITERS},
    used,
};
use crate::accept::{
    client::{Client, MODERN, Target},
    scenario::{Broken, Frame, Seen},
    stage::{Instance, Person, Postgres, Setup, Stage, Where},
};

/// In the full profile at least so many answers are looked into.
const CHECKS: u64 = 100_000;
/// Longest that a slow machine is given for them, as a multiple of the time that they should take.
const LONGER: u32 = 3;
/// Readers ask about so many of the writers, so that the same is asked again before the next write.
const READ_TAGS: u64 = 2;
const PROJECTS: usize = 2;
/// Readers in each project at each instance, over WebSocket; and one over HTTP.
const READERS: usize = 2;
/// A write that was not acknowledged is tried again: the same memory is stored once.
const WRITE_TRIES: u32 = 8;
/// Failures and stale answers that are kept in words.
const TOLD_MAX: usize = 5;

/// R3. Readers and writers at three instances on one store and one Redis, which is killed and started again with what it
/// held; every answer shows every write that was acknowledged before it was asked for.
pub(super) async fn coherent(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let (phase, wanted) =
        stage.profile.pick((Duration::from_millis(2500), 0), (Duration::from_secs(16), CHECKS));
    // What it held when it was killed it holds again: entries that were overtaken meanwhile come back.
    let mut redis = stage.own_redis(&["appendonly yes", "appendfsync always"]).await?;
    let (store, database, kind) = match stage.postgres().await {
        Ok(postgres) => {
            let database = postgres.database(&stage.name("r3")).await?;
            (Where::Database(database.url.clone()), Some(database), "PostgreSQL")
        }
        Err(_) => (super::file(stage, "r3")?, None, "one SQLite file"),
    };
    let ada = super::owner(stage, "r3", PROJECTS + 1);
    let shared = Setup {
        settings: vec![("limits.database_connections", "6".to_owned())],
        ..setup(&store, redis.url(), ada)
    };
    let (a, b, c) =
        tokio::try_join!(stage.start(shared.clone()), stage.start(shared.clone()), stage.start(shared))?;
    let instances = [&a, &b, &c];
    let mut probes = Vec::new();
    for instance in instances {
        probes.push(client_in(instance, ada, ada.projects[PROJECTS]).await?);
    }
    let [probe_a, probe_b, probe_c] = &mut probes[..] else { return Ok(()) };
    used(probe_a, probe_b, "b", USED_MAX).await?;
    used(probe_a, probe_c, "c", USED_MAX).await?;

    let trial = Arc::new(Trial::new(&ada.projects[..PROJECTS]));
    let begun = Instant::now();
    let callers = Callers::start(&trial, instances, ada, stage.seed).await?;
    trial.until(begun, phase, wanted / 3).await;
    let with = trial.timeline.count("shared");
    redis.kill().await?;
    trial.timeline.mark("Redis is killed");
    trial.until(begun, phase * 2, wanted * 2 / 3).await;
    let without = (trial.timeline.count("shared"), trial.timeline.count("local"));
    redis.resume().await?;
    trial.timeline.mark("Redis is back, with what it held");
    let back = used(probe_b, probe_c, "back", USED_MAX).await?;
    trial.timeline.mark("it is used again");
    let again = trial.timeline.count("shared");
    trial.until(begun, (phase * 3).max(begun.elapsed() + phase / 2), wanted).await;
    let end = trial.timeline.count("shared");
    let lost = callers.end(&trial).await;
    let took = begun.elapsed();

    let checks = trial.checks.load(Ordering::Relaxed);
    let [answers, writes, lagging, unheard, failed] =
        [&trial.answers, &trial.writes, &trial.stale, &trial.unheard, &trial.failed]
            .map(|count| count.load(Ordering::Relaxed));
    seen.figure("stale", lagging as f64);
    seen.equal("answers that show what nobody had written", &0, &unheard);
    seen.equal("calls that failed", &0, &failed);
    seen.equal("callers that ended early", &0, &lost);
    seen.check("Redis answered before it was killed", with > 0, "answers from it", with.to_string());
    seen.check("memory answered without it", without.1 > 0, "answers from memory", without.1.to_string());
    seen.check("it answered again", end > again, "answers from it", format!("{again} before, {end} after"));
    seen.check("writers wrote", writes > 30, "more than 30 writes", writes.to_string());
    seen.check(
        "as much was looked into as was meant to be",
        checks >= wanted,
        wanted.to_string(),
        checks.to_string(),
    );
    seen.note(format!(
        "{checks} checks in {answers} answers and {writes} writes at three instances on {kind}, in {took:.1?}: {} answers from \
         memory, {} from Redis, {} made. Redis was used again {back:.2?} after it answered.",
        trial.timeline.count("local"),
        trial.timeline.count("shared"),
        trial.timeline.count("miss")
    ));
    trial.tell(seen);
    drop((a, b, c));
    if let (Some(database), Ok(postgres)) = (database, stage.postgres().await) {
        Postgres::drop(postgres, &database).await?;
    }
    Ok(())
}

/// What was found.
struct Trial {
    projects: Vec<Project>,
    timeline: Arc<Timeline>,
    checks: AtomicU64,
    answers: AtomicU64,
    writes: AtomicU64,
    stale: AtomicU64,
    unheard: AtomicU64,
    failed: AtomicU64,
    /// The first few of what did not hold, and the frames around the first.
    told: Mutex<(Vec<String>, Vec<Frame>)>,
}

impl Trial {
    fn new(projects: &[&'static str]) -> Self {
        Self {
            projects: projects.iter().map(|name| Project::new(name)).collect(),
            timeline: Timeline::new(),
            checks: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            unheard: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            told: Mutex::default(),
        }
    }

    /// Waits until it has gone on for `time`, and until so much was looked into, unless that takes far longer.
    async fn until(&self, begun: Instant, time: Duration, checks: u64) {
        while begun.elapsed() < time
            || (self.checks.load(Ordering::Relaxed) < checks && begun.elapsed() < time * LONGER)
        {
            sleep(LOOK_EVERY).await;
        }
    }

    fn note(&self, what: &str, frames: Vec<Frame>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.0.len() < TOLD_MAX {
            told.0.push(what.to_owned());
        }
        if told.1.is_empty() {
            told.1 = frames;
        }
    }

    fn tell(&self, seen: &mut Seen) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for what in told.0.drain(..) {
            seen.note(what);
        }
        seen.frames.append(&mut told.1);
        self.timeline.tell(seen);
    }

    /// Asks about a writer, and looks into the answer. `None` where the call failed.
    async fn ask(&self, project: usize, client: &mut Client, writer: usize) -> Option<()> {
        let project = &self.projects[project];
        let before = project.acknowledged();
        let called = client.run("memory.by-tag", json!({"tag": Project::tag(writer), "k": 1})).await;
        let after = project.begun();
        let called = match called {
            Ok(called) if !called.is_error => called,
            Ok(called) => {
                self.failed(&called.body.to_string(), client.frames());
                return Some(());
            }
            Err(broken) => {
                self.failed(&broken.to_string(), broken.frames);
                return None;
            }
        };
        let judged = project.judge(writer, &before, &after, &called.body);
        self.timeline.note(layer(&called));
        self.answers.fetch_add(1, Ordering::Relaxed);
        self.checks.fetch_add(judged.checks, Ordering::Relaxed);
        for (count, found, what) in
            [(&self.stale, judged.stale, "stale"), (&self.unheard, judged.unheard, "unheard of")]
        {
            count.fetch_add(found.len() as u64, Ordering::Relaxed);
            if let Some(first) = found.first() {
                let from = layer(&called);
                self.note(&format!("{what}, {from}, {}: {first}", client.name), client.frames());
            }
        }
        Some(())
    }

    fn failed(&self, why: &str, frames: Vec<Frame>) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.timeline.note("failed");
        self.note(&format!("a call failed: {why}"), frames);
    }
}

/// Who reads and writes.
struct Callers {
    running: JoinSet<bool>,
    end: CancellationToken,
}

impl Callers {
    async fn start(
        trial: &Arc<Trial>,
        instances: [&Instance; 3],
        ada: Person,
        seed: u64,
    ) -> Result<Self, Broken> {
        let (mut running, end) = (JoinSet::new(), CancellationToken::new());
        let mut readers = Vec::new();
        let mut writers = Vec::new();
        for (project, name) in ada.projects[..PROJECTS].iter().enumerate() {
            for instance in instances {
                for _ in 0..READERS {
                    readers.push((project, client_in(instance, ada, name).await?));
                }
                let target = Target::of(instance, ada, name);
                readers.push((
                    project,
                    Client::http(&format!("ada over HTTP in {name}"), &target, MODERN).await?,
                ));
            }
            for writer in 0..WRITERS {
                let mut everywhere = Vec::new();
                for instance in instances {
                    everywhere.push(client_in(instance, ada, name).await?);
                }
                writers.push((project, writer, everywhere));
            }
        }
        for (number, (project, client)) in readers.into_iter().enumerate() {
            running.spawn(read(Arc::clone(trial), project, client, seed + number as u64, end.clone()));
        }
        for (project, writer, clients) in writers {
            running.spawn(write(Arc::clone(trial), project, writer, clients));
        }
        Ok(Self { running, end })
    }

    /// Ends them: how many had ended by themselves.
    async fn end(mut self, trial: &Trial) -> u64 {
        self.end.cancel();
        for project in &trial.projects {
            project.due.close();
        }
        let mut lost = 0;
        while let Some(ended) = self.running.join_next().await {
            lost += u64::from(!ended.unwrap_or(false));
        }
        lost
    }
}

/// Reads until it is told to end; whether it did until then.
async fn read(
    trial: Arc<Trial>,
    project: usize,
    mut client: Client,
    first: u64,
    end: CancellationToken,
) -> bool {
    let mut turn = first;
    while !end.is_cancelled() {
        turn += 1;
        let asked = trial.ask(project, &mut client, (turn % READ_TAGS) as usize).await;
        if asked.is_none() {
            return false;
        }
        trial.projects[project].answered();
    }
    true
}

/// Writes whenever a write is due, at one instance after the other, and looks for it at the next; whether it did until the
/// end.
async fn write(trial: Arc<Trial>, project: usize, writer: usize, mut clients: Vec<Client>) -> bool {
    let of = &trial.projects[project];
    let mut n = 0_u64;
    while let Ok(due) = of.due.acquire().await {
        due.forget();
        n += 1;
        let at = (writer + n as usize) % clients.len();
        let new = json!({"content": of.text(writer, n), "tags": [Project::tag(writer)]});
        of.begins(writer, n);
        if !remember(&trial, &mut clients[at], &new).await {
            return false;
        }
        of.acknowledges(writer, n);
        trial.writes.fetch_add(1, Ordering::Relaxed);
        let next = (at + 1) % clients.len();
        if trial.ask(project, &mut clients[next], writer).await.is_none() {
            return false;
        }
    }
    true
}

async fn remember(trial: &Trial, client: &mut Client, new: &Value) -> bool {
    let mut last = Value::Null;
    for _ in 0..WRITE_TRIES {
        match client.call("remember", new.clone()).await {
            Ok(called) if !called.is_error => return true,
            // It may be stored or not: the same again stores nothing new.
            Ok(called) if called.code() == "store_unavailable" || called.code() == "busy" => {
                last = called.body;
                sleep(LOOK_EVERY).await;
            }
            Ok(called) => {
                trial.failed(&called.body.to_string(), client.frames());
                return false;
            }
            Err(broken) => {
                trial.failed(&broken.to_string(), broken.frames);
                return false;
            }
        }
    }
    trial.failed(&last.to_string(), client.frames());
    false
}
