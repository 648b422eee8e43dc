//! Nothing stale: what was acknowledged before a call began is in its answer, whoever answers and from whatever it keeps.
//!
//! Each writer counts up: its n-th memory says so and has the writer's tag. `memory.by-tag` tells how many memories each tag
//! has, so one answer shows how far every writer of its project had come, and the newest memory of one of them besides.
//! Each of these is held against what was acknowledged before the call was made: one check. Writers also look for each of
//! their writes at another instance, by tag and by a word that only it has.
//!
//! `cargo test` builds without optimization, so the figures printed are of that build.

use std::{
    array,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

use super::{Answer, Client, Line, Service, Way, within};
use crate::redis_server::Server;

/// `memory.by-tag` counts no more tags than 16.
const WRITERS: usize = 12;
/// Readers ask for the tags of so many of them, so that the same is asked for again before the next write.
const READ_TAGS: usize = 2;
/// A project has a write for so many answers.
const ANSWERS_PER_WRITE: u64 = 20;
/// Callers that share a WebSocket or a pipe.
const CALLERS_PER_LINE: usize = 4;
const PROJECTS: [&str; 2] = ["alpha", "beta"];

/// How far the writers of one project have come.
struct Project {
    name: &'static str,
    begun: [AtomicU64; WRITERS],
    acknowledged: [AtomicU64; WRITERS],
    /// Writes that are due.
    due: Semaphore,
    answers: AtomicU64,
}

/// What was found.
#[derive(Default)]
struct Tally {
    answers: AtomicU64,
    writes: AtomicU64,
    stale: AtomicU64,
    local: AtomicU64,
    shared: AtomicU64,
    misses: AtomicU64,
}

/// One run.
struct Trial {
    projects: Vec<Project>,
    tally: Tally,
    checks: watch::Sender<u64>,
}

/// Somebody who calls.
enum Caller {
    Http(Box<Client>),
    Line(Line),
}

impl Caller {
    async fn call(&mut self, tool: &str, arguments: &Value) -> Answer {
        let answer = match self {
            Self::Http(client) => client.call(tool, arguments).await,
            Self::Line(line) => line.call(tool, arguments).await,
        };
        answer.unwrap_or_else(|why| panic!("{tool} {arguments}: {why}"))
    }

    /// Stores a memory. One that was not answered in time may be stored or not: the same again stores nothing new.
    async fn remember(&mut self, content: &str, tags: &[String]) {
        let new = json!({"content": content, "tags": tags});
        let mut tries = 0;
        loop {
            tries += 1;
            let told = match self {
                Self::Http(client) => client.call("remember", &new).await,
                Self::Line(line) => line.call("remember", &new).await,
            };
            match told {
                Ok(_) => return,
                Err(why) if why.contains("store_unavailable") && tries < 5 => {}
                Err(why) => panic!("remember {new}: {why}"),
            }
        }
    }

    async fn run(&mut self, pattern: &str, input: Value) -> Answer {
        self.call("execute_pattern", &json!({"pattern": pattern, "input": input})).await
    }
}

impl Project {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            begun: array::from_fn(|_| AtomicU64::new(0)),
            acknowledged: array::from_fn(|_| AtomicU64::new(0)),
            due: Semaphore::new(0),
            answers: AtomicU64::new(0),
        }
    }

    fn tag(&self, writer: usize) -> String {
        format!("{}-{writer}", self.name)
    }

    /// A word that only the `n`-th memory of a writer has.
    fn word(&self, writer: usize, n: u64) -> String {
        format!("zq{}w{writer}n{n}n", self.name)
    }

    fn acknowledged(&self) -> [u64; WRITERS] {
        array::from_fn(|writer| self.acknowledged[writer].load(Ordering::SeqCst))
    }
}

impl Project {
    /// One verdict for each thing that an answer shows: it is what was acknowledged `before` the call, or newer. Never is it
    /// more than had begun `after`, nor anything of another project.
    fn judge(
        &self,
        asked: usize,
        before: &[u64; WRITERS],
        after: &[u64; WRITERS],
        body: &Value,
    ) -> Vec<Result<(), String>> {
        let tags = body["tags"].as_object().expect("tags");
        assert!(tags.keys().all(|tag| tag.starts_with(self.name)), "of another project: {body}");
        let held = |what: &str, writer: usize, told: u64| {
            assert!(told <= after[writer], "writer {writer} had not come so far: {body}");
            let acknowledged = before[writer];
            if told < acknowledged {
                Err(format!("{what} of writer {writer}: {told}, not {acknowledged}"))
            } else {
                Ok(())
            }
        };
        let newest =
            body["memories"][0].as_str().and_then(|text| text.split_once(" counts ")?.1.split(' ').next());
        let newest = newest.and_then(|n| n.parse().ok()).unwrap_or_default();
        let counts = (0..WRITERS).filter(|writer| before[*writer] > 0).map(|writer| {
            held("the count", writer, tags.get(&self.tag(writer)).and_then(Value::as_u64).unwrap_or_default())
        });
        let newest = (before[asked] > 0).then(|| held("the newest", asked, newest));
        counts.chain(newest).collect()
    }
}

#[test]
fn an_answer_that_lags_behind_is_seen() {
    let project = Project::new("alpha");
    let (mut before, mut after) = ([0; WRITERS], [9; WRITERS]);
    (before[0], before[1], after[1]) = (3, 1, 1);
    let body = |first: u64, second: u64, newest: u64| json!({"tags": {"alpha-0": first, "alpha-1": second}, "memories": [format!("2026-01-01 note: alpha-0 counts {newest} and says")]});
    let stale =
        |body: &Value| project.judge(0, &before, &after, body).iter().map(Result::is_err).collect::<Vec<_>>();
    assert_eq!(stale(&body(3, 1, 3)), [false; 3]);
    assert_eq!(stale(&body(4, 1, 5)), [false; 3]);
    assert_eq!(stale(&body(2, 1, 3)), [true, false, false]);
    assert_eq!(stale(&body(3, 0, 3)), [false, true, false]);
    assert_eq!(stale(&body(3, 1, 2)), [false, false, true]);
    assert_eq!(stale(&json!({"tags": {}, "memories": []})), [true; 3]);
}

impl Trial {
    fn new(projects: &[&'static str]) -> Arc<Self> {
        Arc::new(Self {
            projects: projects.iter().map(|name| Project::new(name)).collect(),
            tally: Tally::default(),
            checks: watch::channel(0).0,
        })
    }

    fn checked(&self, wanted: u64) -> bool {
        *self.checks.borrow() >= wanted
    }

    async fn wait_for(&self, wanted: u64) {
        self.checks.subscribe().wait_for(|checks| *checks >= wanted).await.unwrap();
    }

    fn found(&self, is_stale: bool, told: impl FnOnce() -> String) {
        if is_stale && self.tally.stale.fetch_add(1, Ordering::Relaxed) < 5 {
            eprintln!("stale: {}", told());
        }
        self.checks.send_modify(|checks| *checks += 1);
    }

    fn note(&self, answer: &Answer) {
        let tally = &self.tally;
        tally.answers.fetch_add(1, Ordering::Relaxed);
        let figure = match (answer.cache.as_deref(), answer.layer.as_deref()) {
            (_, Some("local")) => &tally.local,
            (_, Some("shared")) => &tally.shared,
            (Some("miss"), None) => &tally.misses,
            _ => return,
        };
        figure.fetch_add(1, Ordering::Relaxed);
    }

    /// Reads until it is told to end.
    async fn read(
        self: Arc<Self>,
        project: usize,
        mut caller: Caller,
        mut turn: usize,
        end: watch::Receiver<bool>,
    ) {
        let project = &self.projects[project];
        while !*end.borrow() {
            turn += 1;
            let writer = turn % READ_TAGS;
            let before = project.acknowledged();
            let answer = caller.run("memory.by-tag", json!({"tag": project.tag(writer), "k": 1})).await;
            let after: [u64; WRITERS] = array::from_fn(|w| project.begun[w].load(Ordering::SeqCst));
            self.note(&answer);
            for verdict in project.judge(writer, &before, &after, &answer.body) {
                self.found(verdict.is_err(), || format!("{}: {answer:?}", verdict.unwrap_err()));
            }
            if (project.answers.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(ANSWERS_PER_WRITE) {
                project.due.add_permits(1);
            }
        }
    }

    /// Writes whenever a write is due, each time at the next caller, and looks for it at the one after.
    async fn write(self: Arc<Self>, project: usize, writer: usize, mut callers: Vec<Caller>) {
        let project = &self.projects[project];
        let (mut n, several) = (0_u64, callers.len());
        while let Ok(permit) = project.due.acquire().await {
            permit.forget();
            n += 1;
            let tag = project.tag(writer);
            let content = format!("{tag} counts {n} and says {}", project.word(writer, n));
            project.begun[writer].store(n, Ordering::SeqCst);
            let at = (writer + n as usize) % several;
            callers[at].remember(&content, std::slice::from_ref(&tag)).await;
            project.acknowledged[writer].store(n, Ordering::SeqCst);
            self.tally.writes.fetch_add(1, Ordering::Relaxed);
            let reader = &mut callers[(at + 1) % several];
            if n.is_multiple_of(4) {
                let word = project.word(writer, n);
                let answer = reader.run("memory.recall", json!({"query": word, "k": 1})).await;
                self.note(&answer);
                let text = answer.body["hits"][0]["text"].as_str().unwrap_or_default();
                self.found(!text.contains(&word), || format!("{word} is not recalled: {answer:?}"));
            } else {
                let answer = reader.run("memory.by-tag", json!({"tag": tag, "k": 1})).await;
                self.note(&answer);
                let (told, newest) = (answer.body["total"].as_u64(), &answer.body["memories"][0]);
                let is_there = newest.as_str().is_some_and(|text| text.contains(&format!(" counts {n} ")));
                self.found(told != Some(n) || !is_there, || format!("{tag} had {n}: {answer:?}"));
            }
        }
    }

    /// Says how it went. No answer may have been stale.
    fn tell(&self, what: &str, took: Duration) {
        let [answers, writes, stale, local, shared, misses] = self.figures();
        let checks = *self.checks.borrow();
        println!(
            "{what}: {checks} checks in {answers} answers and {writes} writes, stale {stale}; answered by the first layer \
             {local}, by the second {shared}, by a run {misses}; {took:.1?}, {:.0} calls/s, {:.0} checks/s",
            (answers + writes) as f64 / took.as_secs_f64(),
            checks as f64 / took.as_secs_f64(),
        );
        assert_eq!(stale, 0, "stale reads, of {checks}");
        assert!(writes > 50 && local > 0 && misses > 0, "nothing was tried");
    }

    fn figures(&self) -> [u64; 6] {
        let Tally { answers, writes, stale, local, shared, misses } = &self.tally;
        [answers, writes, stale, local, shared, misses].map(|figure| figure.load(Ordering::Relaxed))
    }
}

/// Who reads and writes, until `end`.
struct Callers {
    running: JoinSet<()>,
    end: watch::Sender<bool>,
}

impl Callers {
    fn new() -> Self {
        Self { running: JoinSet::new(), end: watch::channel(false).0 }
    }

    fn read(&mut self, trial: &Arc<Trial>, project: usize, caller: Caller) {
        let turn = self.running.len() * 5;
        self.running.spawn(Arc::clone(trial).read(project, caller, turn, self.end.subscribe()));
    }

    /// Waits for `what`; a caller that failed ends the test at once.
    async fn until<T>(&mut self, what: impl Future<Output = T>) -> T {
        tokio::select! {
            value = what => value,
            ended = self.running.join_next() => {
                ended.expect("callers").unwrap();
                panic!("a caller ended early");
            }
        }
    }

    async fn stop(mut self, trial: &Trial) {
        self.end.send_replace(true);
        for project in &trial.projects {
            project.due.close();
        }
        while let Some(joined) = within("a caller's end", self.running.join_next()).await {
            joined.unwrap();
        }
    }
}

/// Three instances on one database: for each instance and project one keep-alive connection and one WebSocket that
/// several callers share, and writers that go round the instances.
async fn on_three_instances(
    trial: &Arc<Trial>,
    service: &Service,
    middle: impl AsyncFnOnce(&mut Callers),
) -> Duration {
    let instances = service.three().await;
    // What a process and a database do once.
    for instance in &instances {
        let mut first =
            Caller::Http(Box::new(Client::new(instance.address, Way::Modern, "ada", PROJECTS[0])));
        first.remember("warm", &[]).await;
    }
    let mut callers = Callers::new();
    let begun = Instant::now();
    for (project, name) in PROJECTS.iter().enumerate() {
        for instance in &instances {
            let http = Client::new(instance.address, Way::Modern, "ada", name);
            callers.read(trial, project, Caller::Http(Box::new(http)));
            let line = Line::socket(instance.address, name).await;
            for _ in 0..CALLERS_PER_LINE {
                callers.read(trial, project, Caller::Line(line.clone()));
            }
        }
        for writer in 0..WRITERS {
            let everywhere = instances.iter().map(|instance| {
                let way = [Way::Modern, Way::Legacy, Way::Socket][writer % 3];
                Caller::Http(Box::new(Client::new(instance.address, way, "ada", name)))
            });
            callers.running.spawn(Arc::clone(trial).write(project, writer, everywhere.collect()));
        }
        // The first write of each writer needs no answer before it.
        trial.projects[project].due.add_permits(WRITERS);
    }
    middle(&mut callers).await;
    callers.stop(trial).await;
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_read_is_stale_while_redis_is_killed_and_started_again() {
    const CHECKS: u64 = 100_000;
    // What it held when it was killed it holds again: entries that were overtaken meanwhile come back.
    let mut redis = Server::start(&["appendonly yes"]);
    let service = Service::new(Some(&redis.url())).await;
    let trial = Trial::new(&PROJECTS);
    let took = on_three_instances(&trial, &service, async |callers: &mut Callers| {
        callers.until(trial.wait_for(CHECKS / 3)).await;
        let before = trial.figures();
        assert!(before[4] > 0, "the second layer answered nothing: {before:?}");
        redis.kill();
        let killed = trial.figures();
        callers.until(trial.wait_for(CHECKS * 2 / 3)).await;
        let without = trial.figures();
        assert!(without[3] > killed[3], "without Redis nothing was kept: {without:?}");
        tokio::task::block_in_place(|| redis.resume());
        let resumed = (trial.figures(), Instant::now());
        // It is used again, without anybody asking for it.
        let used = async {
            let mut checks = trial.checks.subscribe();
            while trial.figures()[4] == resumed.0[4] {
                checks.changed().await.unwrap();
            }
            resumed.1.elapsed()
        };
        let used = callers.until(within("the second layer", used)).await;
        println!("Redis answers again {used:.2?} after its return");
        let now = *trial.checks.borrow();
        callers.until(trial.wait_for(CHECKS.max(now + CHECKS / 10))).await;
    })
    .await;
    assert!(trial.checked(CHECKS));
    trial.tell("three instances, PostgreSQL and Redis", took);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_read_is_stale_on_three_instances_without_redis() {
    const CHECKS: u64 = 20_000;
    let service = Service::new(None).await;
    let trial = Trial::new(&PROJECTS);
    let took = on_three_instances(&trial, &service, async |callers: &mut Callers| {
        callers.until(trial.wait_for(CHECKS)).await;
    })
    .await;
    trial.tell("three instances, PostgreSQL alone", took);
    assert_eq!(trial.figures()[4], 0, "there is no second layer");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_read_is_stale_where_two_processes_share_a_file() {
    const CHECKS: u64 = 50_000;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    };
    let url = format!("sqlite:{}", folder.path().join("store.db").display());
    let lines = ["one", "two"].map(|home| Line::stdio(&path("workspace"), &path(home), &url));
    let trial = Trial::new(&["alpha"]);
    let mut callers = Callers::new();
    let begun = Instant::now();
    for line in &lines {
        for _ in 0..CALLERS_PER_LINE {
            callers.read(&trial, 0, Caller::Line(line.clone()));
        }
    }
    for writer in 0..WRITERS {
        let both = lines.iter().map(|line| Caller::Line(line.clone())).collect();
        callers.running.spawn(Arc::clone(&trial).write(0, writer, both));
    }
    trial.projects[0].due.add_permits(WRITERS);
    callers.until(trial.wait_for(CHECKS)).await;
    callers.stop(&trial).await;
    trial.tell("two processes, one SQLite file", begun.elapsed());
}
