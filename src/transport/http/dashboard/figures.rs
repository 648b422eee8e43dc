//! What the dashboard is told: the figures of `/metrics` and the standing of `/readyz`, put together for one page.
//!
//! `schemas/dashboard/v1.json` describes it.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    metrics::{FamilyFigures, FamilyKind, Reading, RecentError, Series},
    transport::{Host, Standing},
};

/// Families that have a member of their own below.
const NAMED: &[&str] = &[
    "tmws_build",
    "tmws_connections",
    "tmws_sessions",
    "tmws_call_duration_seconds",
    "tmws_pattern_duration_seconds",
    "tmws_call_errors",
    "tmws_frames_refused",
    "process_uptime_seconds",
];
/// The shares whose durations are told, with their names.
const SHARES: [(f64, &str); 3] = [(0.5, "p50_ms"), (0.95, "p95_ms"), (0.99, "p99_ms")];

/// Everything, as it is now.
pub(super) async fn told(host: &Host) -> Value {
    let report = host.health.report().await;
    let families = host.metrics.families();
    let mut standing = report.to_json();
    if host.stopping.is_cancelled() {
        standing["status"] = json!(Standing::Unavailable.as_str());
        standing["reason"] = json!("the server is stopping");
    }
    let Value::Object(mut told) = standing else { return Value::Null };
    let series = |name: &str| series_of(&families, name);
    told.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
    told.insert("at_unix_ms".to_owned(), json!(Timestamp::now().as_millisecond()));
    let uptime = number(series("process_uptime_seconds").first());
    told.insert("uptime_seconds".to_owned(), json!(uptime.map_or(0, |seconds| seconds as u64)));
    told.insert("connections".to_owned(), by_label(series("tmws_connections")));
    told.insert("sessions".to_owned(), by_label(series("tmws_sessions")));
    told.insert("patterns".to_owned(), durations(series("tmws_pattern_duration_seconds"), "type"));
    told.insert("methods".to_owned(), durations(series("tmws_call_duration_seconds"), "method"));
    told.insert("errors".to_owned(), counts(series("tmws_call_errors")));
    told.insert("refused".to_owned(), counts(series("tmws_frames_refused")));
    let recent: Vec<Value> = host.metrics.recent_errors().iter().map(recent).collect();
    told.insert("recent_errors".to_owned(), recent.into());
    let others = families.iter().filter(|family| !NAMED.contains(&family.name.as_str()));
    told.insert("figures".to_owned(), others.filter_map(figure).collect());
    Value::Object(told)
}

fn series_of<'a>(families: &'a [FamilyFigures], name: &str) -> &'a [Series] {
    families.iter().find(|family| family.name == name).map_or(&[], |family| &family.series)
}

fn number(series: Option<&Series>) -> Option<f64> {
    match series?.reading {
        Reading::Number(number) => Some(number),
        Reading::Histogram(_) => None,
    }
}

/// A number as JSON: whole where it is, nothing where JSON has no word for it.
fn told_number(number: f64) -> Value {
    if number.fract() == 0.0 && number.abs() < 9e15 { json!(number as i64) } else { json!(number) }
}

/// Milliseconds, to the microsecond.
fn millis(seconds: f64) -> Value {
    told_number((seconds * 1e6).round() / 1e3)
}

/// `{label: number}` of figures with one label.
fn by_label(series: &[Series]) -> Value {
    let pairs = series.iter().filter_map(|of| {
        let (_, label) = of.labels.first()?;
        Some((label.clone(), told_number(number(Some(of))?)))
    });
    Value::Object(pairs.collect())
}

/// How long calls took, for each that there were, the most frequent first.
fn durations(series: &[Series], key: &str) -> Value {
    let mut rows: Vec<(u64, Value)> = series
        .iter()
        .filter_map(|of| {
            let Reading::Histogram(histogram) = &of.reading else { return None };
            let count = histogram.count();
            if count == 0 {
                return None;
            }
            let mut row = Map::new();
            row.insert(key.to_owned(), json!(of.labels.first()?.1));
            row.insert("count".to_owned(), json!(count));
            row.insert("mean_ms".to_owned(), millis(histogram.sum / count as f64));
            for (share, name) in SHARES {
                row.insert(name.to_owned(), histogram.quantile(share).map_or(Value::Null, millis));
            }
            Some((count, Value::Object(row)))
        })
        .collect();
    rows.sort_by(|(a, _), (b, _)| b.cmp(a));
    rows.into_iter().map(|(_, row)| row).collect()
}

/// Labels and `count` of each, the most frequent first.
fn counts(series: &[Series]) -> Value {
    let mut rows: Vec<(f64, Value)> = series
        .iter()
        .filter_map(|of| {
            let count = number(Some(of))?;
            let mut row: Map<String, Value> =
                of.labels.iter().map(|(name, label)| (name.clone(), json!(label))).collect();
            row.insert("count".to_owned(), told_number(count));
            Some((count, Value::Object(row)))
        })
        .collect();
    rows.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    rows.into_iter().map(|(_, row)| row).collect()
}

fn recent(error: &RecentError) -> Value {
    let mut row = json!({
        "at_unix_ms": error.at.as_millisecond(),
        "layer": error.layer.as_str(),
        "code": error.code,
        "method": error.method,
    });
    if let Some(pattern) = &error.pattern {
        row["pattern"] = json!(pattern);
    }
    row
}

/// A family as it is; what has no numbers is left out.
fn figure(family: &FamilyFigures) -> Option<Value> {
    let kind = match family.kind {
        FamilyKind::Counter => "counter",
        FamilyKind::Gauge => "gauge",
        FamilyKind::Histogram | FamilyKind::Info => return None,
    };
    let samples: Vec<Value> = family
        .series
        .iter()
        .filter_map(|of| {
            let labels: Map<String, Value> =
                of.labels.iter().map(|(name, label)| (name.clone(), json!(label))).collect();
            Some(json!({"labels": labels, "value": told_number(number(Some(of))?)}))
        })
        .collect();
    (!samples.is_empty())
        .then(|| json!({"name": family.name, "help": family.help, "kind": kind, "samples": samples}))
}
