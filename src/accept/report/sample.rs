//! Made-up runs, for tests and to look at.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use crate::accept::{
    Profile, Run,
    decision::{Asked, Decided},
    load::Dice,
    scenario::{Better, Broken, Distribution, Frame, Result as Ran, Row, Seen, Series, Verdict},
    stage::AGENTS,
    table,
};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(super) fn run(profile: Profile, results: Vec<Ran>, asked: usize) -> Run {
    let is_interrupted = results.len() < asked;
    let is_whole = asked == table::SCENARIOS.len();
    Run {
        profile,
        seed: 1,
        slack: 1,
        begun: Timestamp::from_second(1_772_366_400).unwrap(),
        elapsed: results.iter().map(|result| result.elapsed).sum(),
        decided: Decided::of(&results, Asked { profile, is_whole, scenarios: asked, is_interrupted }),
        is_interrupted,
        asked,
        results,
        environment: [
            ("tmws", "0.1.0"),
            ("PostgreSQL", "18.1"),
            ("Redis", "8.0.2"),
            ("CPU", "2 × a <small> one"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into(),
        settings: vec![
            ("--profile".to_owned(), profile.name().to_owned()),
            ("--postgres".to_owned(), "postgres://postgres:hunter22@db/x".to_owned()),
        ],
    }
}

/// Some of everything, few enough to read: passed, warned, failed with frames and a token, missing, waived.
pub(super) fn small() -> Run {
    let row = |id| table::find(id).unwrap();
    let mut m2 = Seen::default();
    m2.figure("success", 99.5);
    m2.check("every agent got its own answer", true, "200", "200");
    m2.distributions.push(calls("memory", 3, 20, 1_000, 9));
    let mut r2 = Seen::default();
    r2.figure("p95", 82.25);
    r2.note("in 100 invalidations");
    let mut w7 = Seen::default();
    w7.equal("a frame without a method", &-32600, &-32600);
    let token = AGENTS[0].token();
    let mut broken =
        Broken::new("ada: a frame that is <no> JSON", "-32700 & no close", "the server closed with 1002");
    broken.frames = vec![
        Frame {
            at: ms(12),
            client: "ada".to_owned(),
            is_sent: true,
            text: format!("{{\"token\":\"{token}\""),
        },
        Frame {
            at: ms(15),
            client: "ada".to_owned(),
            is_sent: false,
            text: "</pre><script>\u{1}".to_owned(),
        },
    ];
    let mut e2 = Seen::default();
    e2.figure("recovered", 9.4);
    e2.series.push(Series {
        name: "calls that go well".to_owned(),
        unit: "calls/s",
        points: [(0, 100.0), (1, 0.0), (2, f64::NAN), (3, 90.0)].map(|(at, y)| (ms(at * 1000), y)).into(),
        marks: vec![(ms(1_000), "the database is killed".to_owned())],
    });
    let missing =
        Broken::new("looking for redis-server", "redis-server on PATH", "it is not there").missing();
    let results = vec![
        Ran::of(row("M2"), m2, ms(8_100)),
        Ran::broken(row("W7"), w7, broken, ms(2_000)),
        Ran {
            verdict: Verdict::Waived,
            why: Some("PostgreSQL was waived on the command line".to_owned()),
            ..Ran::of(row("D5"), Seen::default(), ms(0))
        },
        Ran::of(row("R2"), r2, ms(5_000)),
        Ran::broken(row("R7"), Seen::default(), missing, ms(1)),
        Ran::of(row("E2"), e2, ms(7_500)),
    ];
    run(Profile::Quick, results, 7)
}

/// A run of all scenarios, with figures within their thresholds but for some; to be looked at.
pub(super) fn whole() -> Run {
    let mut dice = Dice::new(7, 0);
    let results =
        table::SCENARIOS.iter().map(|row| table::find(row.id).unwrap()).map(|row| made_up(row, &mut dice));
    run(Profile::Full, results.collect(), table::SCENARIOS.len())
}

fn made_up(row: &'static Row, dice: &mut Dice) -> Ran {
    let mut seen = Seen::default();
    for figure in row.figures {
        let target = figure.target.unwrap_or(1234.0);
        let share = match row.id {
            "R2" | "P2" => 1.05,
            "M8" => 0.95,
            "P4" => 2.5,
            _ => 0.2 + 0.6 * dice.share(),
        };
        let value = match figure.better {
            Better::Less => target * share,
            Better::More if figure.unit == "%" => 100.0 - (100.0 - target) * share.min(1.0),
            Better::More => target * (2.0 - share),
        };
        seen.figure(figure.name, value);
    }
    for number in 0..=dice.roll(6) {
        seen.check(format!("{} held in case {number}", row.title), true, "it does", "it does");
    }
    let seconds = u64::from(row.seconds.1);
    match row.id.as_bytes()[0] {
        b'P' | b'M' if row.id != "P5" => {
            for (kind, (name, typical)) in
                [("matching", 3), ("infrastructure", 14), ("memory", 30), ("hybrid", 70)]
                    .into_iter()
                    .enumerate()
            {
                seen.distributions.push(calls(name, typical, 400, seconds * 1_000, kind as u64));
            }
            seen.note("2,400 calls of 50 agents, none of which failed");
        }
        b'E' | b'R' => seen.series.push(recovery(seconds, dice)),
        _ => {}
    }
    match row.id {
        "P5" => seen.data.push((
            "by_type",
            json!({"memory": {"n": 3, "savings": [31.0, 71.2, 80.5]}, "infrastructure": {"n": 2, "savings": [48.0, 55.5]},
 "hybrid": {"n": 1, "savings": [-4.0]}}),
        )),
        "P6" => {
            for (name, unit, around) in
                [("CPU", "%", 43.0), ("RSS", "MB", 110.0), ("Redis memory", "MB", 14.0)]
            {
                let points = (0..seconds).map(|at| (ms(at * 1000), around * (0.9 + 0.2 * dice.share())));
                seen.series.push(Series {
                    name: name.to_owned(),
                    unit,
                    points: points.collect(),
                    marks: Vec::new(),
                });
            }
        }
        "R9" => {
            let hits = |at: u64| 100.0 * (1.0 - (-(at as f64) / 12.0).exp()) * 0.84;
            let points = (0..seconds).map(|at| (ms(at * 1000), hits(at))).collect();
            seen.series.push(Series { name: "cache hits".to_owned(), unit: "%", points, marks: Vec::new() });
        }
        "W8" => {
            let mut broken =
                Broken::new("sly: reading again", "the answers to 40 calls", "the server closed with 1013");
            broken.frames = (0..12)
                .map(|number| Frame {
                    at: ms(40 * number),
                    client: "sly".to_owned(),
                    is_sent: number % 2 == 0,
                    text: json!({"jsonrpc": "2.0", "id": number / 2, "method": "tools/call", "params": {"name":
                        "execute_pattern", "arguments": {"pattern": "memory.recall", "input": {"query": "a rather long question, so that the frame is wider than a phone"}}}})
                    .to_string(),
                })
                .collect();
            return Ran::broken(row, seen, broken, ms(seconds * 1_000));
        }
        _ => {}
    }
    Ran::of(row, seen, ms(seconds * 1_000))
}

/// Calls of about `typical` ms, spread over `end` ms.
fn calls(name: &str, typical: u64, count: u64, end: u64, worker: u64) -> Distribution {
    let mut dice = Dice::new(1, worker);
    let calls = (0..count).map(|number| {
        let tail = 1.0 / (1.0 - 0.97 * dice.share()).sqrt();
        (ms(number * end / count), Duration::from_secs_f64(typical as f64 * tail / 1e3))
    });
    Distribution { name: name.to_owned(), calls: calls.collect() }
}

fn recovery(seconds: u64, dice: &mut Dice) -> Series {
    let points = (0..seconds * 4).map(|quarter| {
        let at = quarter as f64 / 4.0;
        let is_down = at > 3.0 && at < 5.5;
        (ms(quarter * 250), if is_down { 4.0 } else { 90.0 + 20.0 * dice.share() })
    });
    Series {
        name: "calls that go well".to_owned(),
        unit: "calls/s",
        points: points.collect(),
        marks: vec![
            (ms(3_000), "killed".to_owned()),
            (ms(4_000), "started".to_owned()),
            (ms(5_500), "used again".to_owned()),
        ],
    }
}
