//! What an operator sees of a server: `/readyz`, and of the metrics its breakers.

use serde_json::Value;

use crate::accept::{
    client::Target,
    metrics::{self, Metrics},
    scenario::Broken,
    stage::{ADMIN, Instance},
};

/// What the metrics say of a breaker.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Breaker {
    /// `closed`, `open` or `half_open`; empty where it is not there yet.
    pub(super) state: String,
    pub(super) opened: f64,
}

/// The breaker of the backends of a kind.
pub(super) async fn breaker(instance: &Instance, kind: &str) -> Result<Breaker, Broken> {
    let figures = Metrics::of(instance).await?;
    let labels = [("kind", kind)];
    let mut states = figures.samples.iter().filter(|sample| {
        sample.name == "tmws_breaker_state"
            && sample.value > 0.0
            && sample.labels.get("kind").is_some_and(|seen| seen == kind)
    });
    let state = states.next().and_then(|sample| sample.labels.get("state")).cloned();
    Ok(Breaker {
        state: state.unwrap_or_default(),
        opened: figures.sum("tmws_breaker_opened_total", &labels),
    })
}

/// `/readyz`.
pub(super) async fn ready(instance: &Instance) -> Result<Value, Broken> {
    let (_, text) = metrics::get(&Target::of(instance, ADMIN, "personal"), "/readyz").await?;
    serde_json::from_str(&text).map_err(|error| Broken::new("asking for /readyz", "JSON", error))
}
