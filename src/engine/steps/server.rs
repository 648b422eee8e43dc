//! `server.stats`: figures of the caller's own calls in its own project since the server started, and what is degraded.
//!
//! | step | output |
//! |---|---|
//! | `server.stats` | `{since?, calls, failed: {code: n}, patterns: [{name, calls, failed}], p50_ms?, p95_ms?, p99_ms?, shared, unchanged, cache?: {local, shared, misses}, tokens_out, tokens_estimated, bytes_out, bytes_seen, degraded: [text]}` |
//!
//! What was not measured is absent. Durations are told at most an eighth too high. The call that asks is not yet among them.

use serde_json::{Map, Value, json};

use super::{StepContext, StepError, StepOutput};
use crate::engine::{
    figures::{CacheUse, OwnFigures},
    tokens,
};

/// Runs the step `uses`.
pub(super) fn run(uses: &str, ctx: &StepContext, _: &Map<String, Value>) -> Result<StepOutput, StepError> {
    if uses != "server.stats" {
        return Err(super::unknown_step(uses));
    }
    let own = ctx.outside.figures.of(&ctx.scope);
    let mut value = own.as_ref().map_or_else(nothing, told);
    let mut degraded = ctx.outside.degraded(&ctx.scope);
    if tokens::count("").estimated {
        degraded.push("tokens: the vocabulary is not loaded, they are estimated".to_owned());
    }
    value["degraded"] = json!(degraded);
    Ok(StepOutput::of(value))
}

fn nothing() -> Value {
    json!({
        "calls": 0, "failed": {}, "patterns": [], "shared": 0, "unchanged": 0, "tokens_out": 0,
        "tokens_estimated": 0, "bytes_out": 0, "bytes_seen": 0,
    })
}

fn told(own: &OwnFigures) -> Value {
    let mut patterns: Vec<_> = own.patterns.iter().collect();
    patterns.sort_by(|(one, (fewer, _)), (other, (more, _))| more.cmp(fewer).then(one.cmp(other)));
    let patterns: Vec<Value> = patterns
        .into_iter()
        .map(|(name, (calls, failed))| json!({"name": name, "calls": calls, "failed": failed}))
        .collect();
    let mut value = json!({
        "since": own.since.to_string(), "calls": own.calls, "failed": own.failed, "patterns": patterns,
        "shared": own.shared, "unchanged": own.unchanged, "tokens_out": own.tokens_out,
        "tokens_estimated": own.tokens_estimated, "bytes_out": own.bytes_out, "bytes_seen": own.bytes_seen,
    });
    for (name, percent) in [("p50_ms", 50), ("p95_ms", 95), ("p99_ms", 99)] {
        if let Some(duration) = own.percentile(percent) {
            value[name] = json!((duration.as_secs_f64() * 100_000.0).round() / 100.0);
        }
    }
    if own.cache != CacheUse::default() {
        let CacheUse { local, shared, misses } = own.cache;
        value["cache"] = json!({"local": local, "shared": shared, "misses": misses});
    }
    value
}
