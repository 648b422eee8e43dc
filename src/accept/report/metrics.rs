//! `metrics.json`: every figure of a run, for machines and for the next run. `schemas/acceptance/v1.json` describes it.

use std::sync::LazyLock;

use serde_json::{Map, Value, json};

use super::latency::{Latency, seconds};
use crate::accept::{
    AcceptError, Run,
    scenario::{Better, Level, Result as Ran, Series},
};

/// Points of a series that are kept.
const POINTS_MAX: usize = 500;

static SCHEMA: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    let schema: Value =
        serde_json::from_str(include_str!("../../../schemas/acceptance/v1.json")).expect("a file of ours");
    jsonschema::draft202012::new(&schema).expect("a file of ours")
});

/// What does not fit the schema, in words.
pub(super) fn faults(metrics: &Value) -> Vec<String> {
    SCHEMA.iter_errors(metrics).map(|fault| format!("{}: {fault}", fault.instance_path())).collect()
}

/// What a run told.
///
/// # Errors
/// It does not fit its schema: a bug.
pub(super) fn of(run: &Run) -> Result<Value, AcceptError> {
    let named = |pairs: &[(String, String)]| -> Map<String, Value> {
        pairs.iter().map(|(name, value)| (name.clone(), json!(value))).collect()
    };
    let told = json!({
        "version": 1,
        "program": env!("CARGO_PKG_VERSION"),
        "profile": run.profile.name(),
        "seed": run.seed,
        "begun": run.begun.to_string(),
        "elapsed_seconds": seconds(run.elapsed),
        "decision": run.decided.decision.to_string(),
        "reasons": run.decided.reasons,
        "is_partial": run.decided.is_partial,
        "is_interrupted": run.is_interrupted,
        "asked": run.asked,
        "passed": run.decided.passed,
        "environment": named(&run.environment),
        "settings": named(&run.settings),
        "scenarios": run.results.iter().map(scenario).collect::<Vec<_>>(),
    });
    let faults = faults(&told);
    if faults.is_empty() { Ok(told) } else { Err(AcceptError::Unfit(faults.join("; "))) }
}

fn scenario(result: &Ran) -> Value {
    let (row, seen) = (result.row, &result.seen);
    let mut told = json!({
        "id": row.id,
        "title": row.title,
        "area": row.area.name(),
        "is_vital": row.is_vital,
        "verdict": result.verdict.name(),
        "elapsed_seconds": seconds(result.elapsed),
        "figures": figures(result),
        "checks": {
            "held": seen.checks.iter().filter(|check| check.held).count(),
            "failed": seen.checks.iter().filter(|check| !check.held).map(|check| json!({
                "what": check.what, "expected": check.expected, "seen": check.seen
            })).collect::<Vec<_>>(),
        },
        "latencies": seen.distributions.iter().map(latency).collect::<Vec<_>>(),
        "series": seen.series.iter().map(series).collect::<Vec<_>>(),
        "notes": seen.evidence,
    });
    if let Some(why) = &result.why {
        told["why"] = json!(why);
    }
    if !seen.data.is_empty() {
        told["data"] = seen.data.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    }
    told
}

fn figures(result: &Ran) -> Vec<Value> {
    let known = result.row.figures.iter().filter_map(|row| {
        let (_, value) = result.seen.figures.iter().find(|(name, _)| *name == row.name)?;
        let mut told = json!({"name": row.name, "unit": row.unit, "value": finite(*value)});
        told["better"] = json!(match row.better {
            Better::Less => "less",
            Better::More => "more",
        });
        if let Some(target) = row.target {
            told["target"] = json!(target);
        }
        if let Some(critical) = row.critical {
            told["critical"] = json!(critical);
        }
        told["level"] = json!(level(row.level(*value)));
        Some(told)
    });
    let unknown = result.seen.figures.iter().filter(|(name, _)| result.row.figure(name).is_none());
    known
        .chain(
            unknown.map(
                |(name, value)| json!({"name": name, "unit": "", "value": finite(*value), "level": "good"}),
            ),
        )
        .collect()
}

pub(super) const fn level(level: Level) -> &'static str {
    match level {
        Level::Good => "good",
        Level::Near => "near",
        Level::Warning => "warning",
        Level::Critical => "critical",
    }
}

/// JSON has no word for what is no number.
fn finite(value: f64) -> Value {
    if value.is_finite() { json!((value * 1e6).round() / 1e6) } else { Value::Null }
}

fn latency(distribution: &crate::accept::scenario::Distribution) -> Value {
    let of = Latency::of(distribution);
    json!({
        "name": of.name, "count": of.count, "mean_ms": finite(of.mean), "p50_ms": finite(of.p50),
        "p95_ms": finite(of.p95), "p99_ms": finite(of.p99), "max_ms": finite(of.max),
    })
}

fn series(series: &Series) -> Value {
    let step = series.points.len().div_ceil(POINTS_MAX).max(1);
    json!({
        "name": series.name,
        "unit": series.unit,
        "points": series.points.iter().step_by(step)
            .map(|(at, value)| json!([seconds(*at), finite(*value)])).collect::<Vec<_>>(),
        "marks": series.marks.iter().map(|(at, text)| json!([seconds(*at), text])).collect::<Vec<_>>(),
    })
}
