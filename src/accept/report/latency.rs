//! What the times of calls say: how they are distributed, and how they and their number went over time.

use std::time::Duration;

use super::svg::{Chart, Line};
use crate::accept::{
    load::{mean, ms, percentile},
    scenario::{Distribution, Result},
};

/// Parts of the time that a scenario took, at most; and calls that a part has, in the middle of all.
const PARTS_MAX: usize = 40;
const CALLS_A_PART: usize = 10;
/// Of fewer calls there is nothing to see over time.
const CALLS_MIN: usize = 80;

/// Figures of one kind of call, in milliseconds.
pub(super) struct Latency {
    pub(super) name: String,
    pub(super) count: usize,
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Latency {
    pub(super) fn of(distribution: &Distribution) -> Self {
        let times = sorted(distribution);
        Self {
            name: distribution.name.clone(),
            count: times.len(),
            mean: mean(&times),
            p50: percentile(&times, 50.0),
            p95: percentile(&times, 95.0),
            p99: percentile(&times, 99.0),
            max: percentile(&times, 100.0),
        }
    }
}

fn sorted(distribution: &Distribution) -> Vec<Duration> {
    let mut times: Vec<Duration> = distribution.calls.iter().map(|(_, took)| *took).collect();
    times.sort_unstable();
    times
}

/// The charts of a scenario's calls; none where nothing was timed.
pub(super) fn charts(result: &Result) -> Vec<Chart> {
    let timed: Vec<&Distribution> =
        result.seen.distributions.iter().filter(|one| !one.calls.is_empty()).collect();
    if timed.is_empty() {
        return Vec::new();
    }
    let lines = |of: &dyn Fn(&Distribution) -> Vec<(f64, f64)>| {
        timed.iter().map(|one| Line { name: one.name.clone(), points: of(one) }).collect::<Vec<_>>()
    };
    let chart = |what: &str, title: &str, across, unit: &str, is_log, lines| Chart {
        id: format!("{}-{what}", result.row.id),
        title: title.to_owned(),
        across,
        unit: unit.to_owned(),
        is_log,
        lines,
        marks: Vec::new(),
    };
    let mut charts =
        vec![chart("share", "Share of calls answered within", "ms, logarithmic", "%", true, lines(&shares))];
    let end = timed.iter().flat_map(|one| one.calls.iter().map(|(at, _)| *at)).max().unwrap_or_default();
    let calls: usize = timed.iter().map(|one| one.calls.len()).sum();
    let parts = Parts { end, count: (calls / CALLS_A_PART).min(PARTS_MAX) };
    if end > Duration::ZERO && calls >= CALLS_MIN {
        charts.push(chart(
            "time",
            "P95 latency over time",
            "s",
            "ms",
            false,
            lines(&|one| over_time(one, parts)),
        ));
        charts.push(chart(
            "rate",
            "Throughput",
            "s",
            "calls/s",
            false,
            vec![Line { name: "all calls".to_owned(), points: rate(&timed, parts) }],
        ));
    }
    charts
}

/// How many per cent were answered within how many milliseconds.
fn shares(distribution: &Distribution) -> Vec<(f64, f64)> {
    let times = sorted(distribution);
    (1..=100_u32).map(|share| (percentile(&times, f64::from(share)).max(0.001), f64::from(share))).collect()
}

/// The time until `end`, in parts of the same length.
#[derive(Clone, Copy)]
struct Parts {
    end: Duration,
    count: usize,
}

impl Parts {
    fn of(self, at: Duration) -> usize {
        ((at.as_secs_f64() / self.seconds()) as usize).min(self.count - 1)
    }

    /// Of one.
    fn seconds(self) -> f64 {
        self.end.as_secs_f64() / self.count as f64
    }

    /// The middle of one, in seconds.
    fn middle(self, part: usize) -> f64 {
        (part as f64 + 0.5) * self.seconds()
    }
}

fn over_time(distribution: &Distribution, parts: Parts) -> Vec<(f64, f64)> {
    let mut filled = vec![Vec::new(); parts.count];
    for (at, took) in &distribution.calls {
        filled[parts.of(*at)].push(*took);
    }
    let filled = filled.iter_mut().enumerate().filter(|(_, times)| !times.is_empty());
    filled
        .map(|(number, times)| {
            times.sort_unstable();
            (parts.middle(number), percentile(times, 95.0))
        })
        .collect()
}

/// Calls that began in each part, a second.
fn rate(timed: &[&Distribution], parts: Parts) -> Vec<(f64, f64)> {
    let mut begun = vec![0_u32; parts.count];
    for (at, _) in timed.iter().flat_map(|one| &one.calls) {
        begun[parts.of(*at)] += 1;
    }
    let begun = begun.iter().enumerate();
    begun.map(|(number, calls)| (parts.middle(number), f64::from(*calls) / parts.seconds())).collect()
}

/// A scenario's curves: resources, cache hits, recoveries.
pub(super) fn series(result: &Result) -> Vec<Chart> {
    result
        .seen
        .series
        .iter()
        .enumerate()
        .map(|(number, series)| Chart {
            id: format!("{}-series-{number}", result.row.id),
            title: series.name.clone(),
            across: "s",
            unit: series.unit.to_owned(),
            is_log: false,
            lines: vec![Line {
                name: series.name.clone(),
                points: series.points.iter().map(|(at, value)| (at.as_secs_f64(), *value)).collect(),
            }],
            marks: series.marks.iter().map(|(at, text)| (at.as_secs_f64(), text.clone())).collect(),
        })
        .collect()
}

/// In seconds, with milliseconds.
pub(super) fn seconds(time: Duration) -> f64 {
    ms(time).round() / 1e3
}
