//! What the times of calls say: how they are distributed, and how they and their number went over time.

use std::time::Duration;

use super::svg::{Chart, Line};
use crate::accept::{
    load::{mean, ms, percentile},
    scenario::{Distribution, Result},
};

/// Parts of the time that a scenario took.
const PARTS: usize = 40;

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
    // Of fewer there is nothing to see over time.
    if end > Duration::ZERO && calls >= 2 * PARTS {
        charts.push(chart(
            "time",
            "P95 latency over time",
            "s",
            "ms",
            false,
            lines(&|one| over_time(one, end)),
        ));
        charts.push(chart(
            "rate",
            "Throughput",
            "s",
            "calls/s",
            false,
            vec![Line { name: "all calls".to_owned(), points: rate(&timed, end) }],
        ));
    }
    charts
}

/// How many per cent were answered within how many milliseconds.
fn shares(distribution: &Distribution) -> Vec<(f64, f64)> {
    let times = sorted(distribution);
    (1..=100_u32).map(|share| (percentile(&times, f64::from(share)).max(0.001), f64::from(share))).collect()
}

fn part(at: Duration, end: Duration) -> usize {
    ((at.as_secs_f64() / end.as_secs_f64() * PARTS as f64) as usize).min(PARTS - 1)
}

/// The middle of a part, in seconds.
fn middle(part: usize, end: Duration) -> f64 {
    (part as f64 + 0.5) * end.as_secs_f64() / PARTS as f64
}

fn over_time(distribution: &Distribution, end: Duration) -> Vec<(f64, f64)> {
    let mut parts = vec![Vec::new(); PARTS];
    for (at, took) in &distribution.calls {
        parts[part(*at, end)].push(*took);
    }
    let filled = parts.iter_mut().enumerate().filter(|(_, times)| !times.is_empty());
    filled
        .map(|(number, times)| {
            times.sort_unstable();
            (middle(number, end), percentile(times, 95.0))
        })
        .collect()
}

/// Calls that began in each part, a second.
fn rate(timed: &[&Distribution], end: Duration) -> Vec<(f64, f64)> {
    let mut parts = [0_u32; PARTS];
    for (at, _) in timed.iter().flat_map(|one| &one.calls) {
        parts[part(*at, end)] += 1;
    }
    let seconds = end.as_secs_f64() / PARTS as f64;
    parts
        .iter()
        .enumerate()
        .map(|(number, calls)| (middle(number, end), f64::from(*calls) / seconds))
        .collect()
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
