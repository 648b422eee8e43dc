//! The database goes away, and comes back.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;

use crate::accept::{
    client::{Client, MODERN, Target},
    load::workers,
    scenario::{Broken, Frame, Seen, Series},
    stage::{AGENTS, Instance, Postgres, Setup, Stage, Where},
    workload,
};

/// Half of them read, half of them write.
const CALLERS: usize = 12;
/// Between two calls of one of them.
const PAUSE: Duration = Duration::from_millis(10);
/// Clients that look for what was acknowledged.
const READERS: usize = 6;
/// Failures whose frames are kept.
const FRAMES_OF: usize = 3;
/// A server that has not found its database again after so long does not.
const BACK_MAX: Duration = Duration::from_secs(20);
/// All has gone well for so long: it has recovered.
const CALM: Duration = Duration::from_secs(1);
const BUCKET: Duration = Duration::from_millis(200);

/// How a call ended.
#[derive(Clone, Debug)]
enum End {
    /// Well; a write with its tag.
    Well(Option<String>),
    /// Told: code, and whether there was a hint when to come again.
    Told(String, bool),
    /// Not answered: the connection broke, or nothing came.
    Lost(String),
}

/// A call that ended, and when.
#[derive(Clone, Debug)]
struct Event {
    at: Instant,
    is_write: bool,
    end: End,
}

/// What all callers share.
#[derive(Default)]
struct Diary {
    events: Mutex<Vec<Event>>,
    frames: Mutex<Vec<Frame>>,
    failures: AtomicU64,
    in_flight: AtomicUsize,
    is_over: AtomicBool,
}

impl Diary {
    fn events(&self) -> std::sync::MutexGuard<'_, Vec<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From when on, after `since`, reads and writes have both gone well and no call has failed.
    fn well_since(&self, since: Instant) -> Option<Instant> {
        let events = self.events();
        let failures = events.iter().filter(|event| !matches!(event.end, End::Well(_)));
        let last = failures.map(|event| event.at).max().unwrap_or(since).max(since);
        let first = |is_write: bool| {
            let well = events.iter().filter(|event| {
                event.is_write == is_write && event.at > last && matches!(event.end, End::Well(_))
            });
            well.map(|event| event.at).min()
        };
        Some(first(true)?.max(first(false)?))
    }
}

/// What came of it.
struct Outage {
    instance: Instance,
    target: Target,
    /// Both go on until the end.
    _postgres: Postgres,
    begun: Instant,
    gone: Instant,
    /// It accepts connections again.
    there: Instant,
    /// From when on reads and writes go well again, and nothing fails.
    well: Option<Instant>,
    in_flight: usize,
    events: Vec<Event>,
    frames: Vec<Frame>,
}

/// Readers and writers work; the database goes away under them, and comes back.
async fn outage(stage: &Stage, is_kill: bool) -> Result<Outage, Broken> {
    let mut postgres = stage.own_postgres().await?;
    let database = postgres.database(&stage.name("outage")).await?;
    let setup = Setup { store: Where::Database(database.url.clone()), ..workload::setup() };
    let instance = stage.start(setup).await?;
    let target = Target::of(&instance, AGENTS[0], "alpha");
    workload::remember(stage, &target, 80).await?;
    let diary = Arc::new(Diary::default());
    let begun = Instant::now();
    let load = workers(CALLERS, |number| caller(number, target.clone(), Arc::clone(&diary)));
    let director = async {
        let over = |diary: &Diary| diary.is_over.store(true, Ordering::Relaxed);
        tokio::time::sleep(stage.profile.pick(Duration::from_millis(1_500), Duration::from_secs(4))).await;
        // In mid-call: until somebody waits for an answer.
        let patience = Instant::now() + Duration::from_secs(5);
        while diary.in_flight.load(Ordering::Relaxed) < 2 && Instant::now() < patience {
            tokio::task::yield_now().await;
        }
        let in_flight = diary.in_flight.load(Ordering::Relaxed);
        let gone = Instant::now();
        let ended = if is_kill { postgres.kill().await } else { postgres.stop().await };
        if let Err(broken) = ended {
            over(&diary);
            return Err(broken);
        }
        tokio::time::sleep(stage.profile.pick(Duration::from_millis(1_500), Duration::from_secs(4))).await;
        if let Err(broken) = postgres.resume().await {
            over(&diary);
            return Err(broken);
        }
        let there = Instant::now();
        let is_calm = || diary.well_since(there).is_some_and(|well| well.elapsed() > CALM);
        while there.elapsed() < BACK_MAX && !is_calm() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        over(&diary);
        Ok((gone, there, in_flight))
    };
    let (directed, _) = tokio::join!(director, load);
    let (gone, there, in_flight) = directed?;
    let well = diary.well_since(there);
    let mut events = std::mem::take(&mut *diary.events());
    events.sort_unstable_by_key(|event| event.at);
    let frames = std::mem::take(&mut *diary.frames.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Outage { instance, target, _postgres: postgres, begun, gone, there, well, in_flight, events, frames })
}

async fn caller(number: usize, target: Target, diary: Arc<Diary>) {
    let is_write = number.is_multiple_of(2);
    let name = format!("{} {number}", if is_write { "writer" } else { "reader" });
    let mut client: Option<Client> = None;
    let mut written = 0_u32;
    while !diary.is_over.load(Ordering::Relaxed) {
        let note = |end: End| diary.events().push(Event { at: Instant::now(), is_write, end });
        let Some(open) = &mut client else {
            match Client::socket(&name, &target, MODERN).await {
                Ok(opened) => client = Some(opened),
                Err(broken) => {
                    note(End::Lost(broken.to_string()));
                    tokio::time::sleep(PAUSE * 10).await;
                }
            }
            continue;
        };
        let tag = format!("outage-{number}-{written}");
        let (tool, arguments) = if is_write {
            written += 1;
            (
                "remember",
                json!({"content": format!("What writer {number} wrote as {written}"), "tags": [&tag]}),
            )
        } else {
            let input = json!({"query": "the berth of the Heron"});
            ("execute_pattern", json!({"pattern": "memory.recall", "input": input, "fresh": true}))
        };
        diary.in_flight.fetch_add(1, Ordering::Relaxed);
        let called = open.call(tool, arguments).await;
        diary.in_flight.fetch_sub(1, Ordering::Relaxed);
        match called {
            Ok(called) if !called.is_error => note(End::Well(is_write.then_some(tag))),
            Ok(called) => {
                let hint = called.body["retry_after_ms"].as_u64().is_some_and(|pause| pause > 0);
                note(End::Told(called.code().to_owned(), hint));
                if diary.failures.fetch_add(1, Ordering::Relaxed) < FRAMES_OF as u64 {
                    let frames = open.frames();
                    let last = frames.into_iter().rev().take(2).rev();
                    diary.frames.lock().unwrap_or_else(PoisonError::into_inner).extend(last);
                }
                tokio::time::sleep(PAUSE * 3).await;
            }
            Err(broken) => {
                note(End::Lost(broken.to_string()));
                client = None;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// E1: the database is killed while agents read and write. Whoever fails is told so, with a time to come back; the server
/// lives; what it acknowledged is there when the database is.
pub(super) async fn lost(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let mut outage = outage(stage, true).await?;
    let log = outage.instance.log();
    let crashed = !outage.instance.is_running() || log.contains("panicked");
    seen.figure("crashes", f64::from(u8::from(crashed)));
    seen.check(
        "calls were in flight when the database was killed",
        outage.in_flight > 0,
        "at least one",
        outage.in_flight.to_string(),
    );
    let (mut told, mut wrong, mut lost) = (0, Vec::new(), Vec::new());
    for event in &outage.events {
        match &event.end {
            End::Well(_) => {}
            End::Told(code, true) if code == "store_unavailable" => told += 1,
            End::Told(code, hint) => {
                wrong.push(format!("{code}, {} hint", if *hint { "with a" } else { "no" }));
            }
            End::Lost(why) => lost.push(why.clone()),
        }
    }
    seen.check("the outage was felt", told > 0, "failed calls", told.to_string());
    seen.check(
        "every call that failed was told `store_unavailable`, with a time to come back",
        wrong.is_empty(),
        "no other answer",
        format!("{} others: {}", wrong.len(), wrong.first().map_or("", String::as_str)),
    );
    seen.check(
        "every call was answered",
        lost.is_empty(),
        "no connection was lost, no call left waiting",
        format!("{}: {}", lost.len(), lost.first().map_or("", String::as_str)),
    );
    let acknowledged: Vec<String> = outage
        .events
        .iter()
        .filter_map(|event| if let End::Well(Some(tag)) = &event.end { Some(tag.clone()) } else { None })
        .collect();
    let before = outage
        .events
        .iter()
        .filter(|event| event.is_write && event.at < outage.gone && matches!(event.end, End::Well(_)));
    seen.check(
        "writes were acknowledged before the kill",
        before.count() > 0,
        "some",
        acknowledged.len().to_string(),
    );
    let missing = missing(&outage.target, &acknowledged).await?;
    seen.figure("lost_writes", missing.len() as f64);
    if let Some(tag) = missing.first() {
        seen.note(format!("the write tagged {tag} was acknowledged and is not there"));
    }
    seen.note(format!(
        "{} calls of {CALLERS} clients; {} writes acknowledged, each looked for by its tag afterwards; {told} calls told \
         `store_unavailable`; {} were in flight at the kill",
        outage.events.len(),
        acknowledged.len(),
        outage.in_flight
    ));
    seen.series.push(timeline(&outage));
    seen.frames.append(&mut outage.frames);
    outage.instance.end().await?;
    Ok(())
}

/// The tags of `tags` under which nothing is remembered.
async fn missing(target: &Target, tags: &[String]) -> Result<Vec<String>, Broken> {
    let tags = Arc::new(tags.to_vec());
    let found = workers(READERS, |number| {
        let (tags, target) = (Arc::clone(&tags), target.clone());
        async move {
            let mut client = Client::socket(&format!("auditor {number}"), &target, MODERN).await?;
            let mut missing = Vec::new();
            for tag in tags.iter().skip(number).step_by(READERS) {
                let arguments =
                    json!({"pattern": "memory.by-tag", "input": {"tag": tag, "k": 1}, "fresh": true});
                let called = client.call("execute_pattern", arguments).await?;
                match called.body["total"].as_u64() {
                    Some(1..) => {}
                    Some(0) => missing.push(tag.clone()),
                    None => return Err(client.broken("looking for a write", "a total", &called.body)),
                }
            }
            Ok(missing)
        }
    })
    .await;
    if found.len() < READERS {
        return Err(Broken::new("looking for writes", "all were looked for", "a worker of the run ended"));
    }
    let found: Result<Vec<Vec<String>>, Broken> = found.into_iter().collect();
    Ok(found?.into_iter().flatten().collect())
}

/// E2: the database is ended as by its administrator and started again; the server finds it by itself.
pub(super) async fn back(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let mut outage = outage(stage, false).await?;
    let recovered = outage.well.map_or(BACK_MAX, |well| well.saturating_duration_since(outage.there));
    seen.figure("recovered", recovered.as_secs_f64());
    seen.check(
        "reads and writes go well again",
        outage.well.is_some(),
        format!("within {BACK_MAX:?}"),
        outage.well.map_or("never".to_owned(), |_| format!("{recovered:?}")),
    );
    seen.check("the server is the same process", outage.instance.is_running(), "it runs", "it has ended");
    let failed =
        outage.events.iter().filter(|event| event.at > outage.gone && !matches!(event.end, End::Well(_)));
    seen.check("the outage was felt", failed.count() > 0, "failed calls", "none");
    seen.note(format!(
        "the database was away for {:.1} s; from {:.2} s after it accepted connections again all calls went well, and \
         nothing else was started",
        outage.there.saturating_duration_since(outage.gone).as_secs_f64(),
        recovered.as_secs_f64()
    ));
    seen.series.push(timeline(&outage));
    seen.frames.append(&mut outage.frames);
    outage.instance.end().await?;
    Ok(())
}

/// The share of calls that went well, over time.
fn timeline(outage: &Outage) -> Series {
    let since = |at: Instant| at.saturating_duration_since(outage.begun);
    let mut buckets: Vec<(u32, u32)> = Vec::new();
    for event in &outage.events {
        let place = (since(event.at).as_millis() / BUCKET.as_millis()) as usize;
        if buckets.len() <= place {
            buckets.resize(place + 1, (0, 0));
        }
        buckets[place].0 += u32::from(matches!(event.end, End::Well(_)));
        buckets[place].1 += 1;
    }
    let points = (0..).zip(&buckets).filter(|(_, (_, all))| *all > 0);
    let points = points.map(|(at, (well, all))| (BUCKET * at, 100.0 * f64::from(*well) / f64::from(*all)));
    let mut marks = vec![
        (since(outage.gone), "database ended".to_owned()),
        (since(outage.there), "database back".to_owned()),
    ];
    marks.extend(outage.well.map(|well| (since(well), "recovered".to_owned())));
    Series { name: "calls that went well".to_owned(), unit: "%", points: points.collect(), marks }
}
