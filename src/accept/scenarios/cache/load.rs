//! Callers that go on while something is done to Redis, and where their answers came from, over time.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{KEPT, layer};
use crate::accept::{
    client::{Called, Client},
    load::{Dice, Recorder, percentile},
    scenario::{Broken, Frame, Seen, Series},
};

/// Between two points of a series.
const POINT: Duration = Duration::from_millis(250);
/// Questions that are asked at a time, and how soon they are others: each is asked for the first time, then found at other
/// instances, then in memory.
const QUESTIONS: u64 = 60;
const OTHERS_AFTER: Duration = Duration::from_millis(250);
/// A caller thinks for so long.
const PAUSE: Duration = Duration::from_millis(2);

/// Where answers come from.
const KINDS: [(&str, &str); 4] = [
    ("shared", "answers from Redis"),
    ("local", "answers from memory"),
    ("miss", "answers made"),
    ("failed", "calls that failed"),
];

/// Answers over time.
pub(super) struct Timeline {
    begun: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// For each point, by kind.
    points: Vec<[u32; KINDS.len()]>,
    marks: Vec<(Duration, String)>,
    frames: Vec<Frame>,
}

impl Timeline {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { begun: Instant::now(), state: Mutex::default() })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says what happens now.
    pub(super) fn mark(&self, what: impl Into<String>) {
        self.state().marks.push((self.begun.elapsed(), what.into()));
    }

    /// Counts an answer.
    pub(super) fn note(&self, kind: &str) {
        let Some(kind) = KINDS.iter().position(|(name, _)| *name == kind) else { return };
        let point = (self.begun.elapsed().as_millis() / POINT.as_millis()) as usize;
        let mut state = self.state();
        if state.points.len() <= point {
            state.points.resize(point + 1, [0; KINDS.len()]);
        }
        state.points[point][kind] += 1;
    }

    /// How many answers of a kind there were.
    pub(super) fn count(&self, kind: &str) -> u64 {
        let Some(kind) = KINDS.iter().position(|(name, _)| *name == kind) else { return 0 };
        self.state().points.iter().map(|point| u64::from(point[kind])).sum()
    }

    fn broke(&self, broken: &Broken) {
        let mut state = self.state();
        if state.frames.is_empty() {
            state.frames.clone_from(&broken.frames);
        }
    }

    /// Hands the series to the scenario.
    pub(super) fn tell(&self, seen: &mut Seen) {
        let mut state = self.state();
        for (place, (kind, name)) in KINDS.iter().enumerate() {
            if *kind == "failed" && state.points.iter().all(|point| point[place] == 0) {
                continue;
            }
            let per_second = 1.0 / POINT.as_secs_f64();
            let points = state.points.iter().enumerate();
            let points =
                points.map(|(at, point)| (POINT * at as u32, f64::from(point[place]) * per_second)).collect();
            let name = (*name).to_owned();
            seen.series.push(Series { name, unit: "calls/s", points, marks: state.marks.clone() });
        }
        seen.frames.append(&mut state.frames);
    }
}

/// Callers that go on until they are told to end.
pub(super) struct Load {
    pub(super) timeline: Arc<Timeline>,
    pub(super) recorder: Arc<Recorder>,
    end: CancellationToken,
    callers: JoinSet<()>,
}

impl Load {
    /// Each of `clients` asks, one question after the other: what is kept, what of memories is kept, and now and then it
    /// writes.
    pub(super) fn start(seed: u64, clients: Vec<Client>) -> Self {
        let (timeline, recorder) = (Timeline::new(), Recorder::new());
        let end = CancellationToken::new();
        let mut callers = JoinSet::new();
        for (number, client) in clients.into_iter().enumerate() {
            let dice = Dice::new(seed, number as u64 + 1);
            callers.spawn(call(
                client,
                dice,
                number,
                Arc::clone(&timeline),
                Arc::clone(&recorder),
                end.clone(),
            ));
        }
        Self { timeline, recorder, end, callers }
    }

    /// Ends it; who called hands its connection back to nobody.
    pub(super) async fn end(mut self, seen: &mut Seen) -> Ended {
        self.end.cancel();
        while self.callers.join_next().await.is_some() {}
        let times = self.recorder.times(None);
        let ended = Ended {
            calls: self.recorder.well_count() + self.recorder.failed_count(),
            failed: self.recorder.failed_count(),
            worst: percentile(&times, 100.0),
            p95: percentile(&times, 95.0),
        };
        self.timeline.tell(seen);
        self.recorder.tell(seen);
        ended
    }
}

/// What became of a load.
pub(super) struct Ended {
    pub(super) calls: u64,
    pub(super) failed: u64,
    /// In milliseconds.
    pub(super) worst: f64,
    pub(super) p95: f64,
}

async fn call(
    mut client: Client,
    mut dice: Dice,
    number: usize,
    timeline: Arc<Timeline>,
    recorder: Arc<Recorder>,
    end: CancellationToken,
) {
    let begun = Instant::now();
    let mut written = 0_u64;
    while !end.is_cancelled() {
        let turn = dice.roll(20);
        let sent = Instant::now();
        let (kind, called) = match turn {
            0 => {
                written += 1;
                let content = format!("caller {number} saw ship {written}");
                let arguments = json!({"content": content, "tags": [format!("c{}", number % 4)]});
                ("remember", client.call("remember", arguments).await)
            }
            1..=4 => {
                let tag = format!("c{}", dice.roll(4));
                ("memories", client.run("memory.by-tag", json!({"tag": tag, "k": 1})).await)
            }
            _ => {
                let since = (begun.elapsed().as_millis() / OTHERS_AFTER.as_millis()) as u64;
                let mark = format!("q{}", since * (QUESTIONS / 2) + dice.roll(QUESTIONS));
                ("kept", client.run(KEPT, json!({"mark": mark})).await)
            }
        };
        match called {
            Ok(called) if !called.is_error => {
                recorder.well(kind, sent);
                timeline.note(layer(&called));
            }
            Ok(called) => {
                timeline.note("failed");
                timeline.broke(&client.broken(kind, "an answer", &called.body));
                recorder.failed(&told(kind, &called));
            }
            Err(broken) => {
                // Its connection is gone: whatever it would ask from here on fails as well.
                timeline.note("failed");
                timeline.broke(&broken);
                recorder.failed(&broken);
                return;
            }
        }
        sleep(PAUSE).await;
    }
}

fn told(kind: &str, called: &Called) -> String {
    format!("{kind}: {}", called.body)
}
