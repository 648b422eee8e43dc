//! What stands around the service of a shared server: limits, figures, the audit log, readiness.

use std::{io, sync::Arc};

use tracing::warn;

use crate::{
    access::Access,
    admission::Governed,
    audit::{Audit, Digester},
    compose::Shared,
    config::Config,
    metrics::{Metrics, Sample, Sampled},
    store::{SharedStore, StoreState},
    tool::{Service, tasks::TaskFigures},
    transport::{Checked, Health, StoreCheck},
};

/// The parts, for [`crate::transport::Host`].
pub(super) struct Oversight {
    pub(super) service: Arc<dyn Service>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) audit: Option<Arc<Audit>>,
    pub(super) health: Health,
}

/// Puts them around the service of `parts`.
///
/// # Errors
/// The system gives no thread for the audit log. A log that cannot be written is no error: calls are refused until it can.
pub(super) fn oversee(config: &Config, parts: &Shared, access: &Arc<Access>) -> io::Result<Oversight> {
    let inner: Arc<dyn Service> = Arc::clone(&parts.service) as Arc<dyn Service>;
    let metrics = Arc::new(Metrics::default());
    let audit = open_audit(config)?;
    let mut health = Health::default().with(StoreCheck::new(SharedStore::clone(&parts.store)));
    if let Some(audit) = &audit {
        let log = Arc::downgrade(audit);
        health = health.with(Checked::essential("audit_log", move || match log.upgrade() {
            Some(log) => log.check().map_err(|unlogged| unlogged.to_string()),
            None => Err("it is closed".to_owned()),
        }));
    }
    let door = Arc::clone(access);
    health = health.with(Checked::helpful("tokens", move || {
        door.degraded().map_or(Ok(()), |reason| Err(reason.to_owned()))
    }));
    watch(parts, &metrics);
    let service = Governed::new(
        inner,
        &config.network,
        &config.connection,
        Arc::clone(&metrics),
        audit.as_ref().map(Arc::clone),
    );
    Ok(Oversight { service, metrics, audit, health })
}

fn open_audit(config: &Config) -> io::Result<Option<Arc<Audit>>> {
    let Some(path) = &config.audit_file else { return Ok(None) };
    let digester = match &config.state_key {
        Some(key) => Digester::derived(key.expose()),
        None => Digester::beside(path).or_else(|error| {
            warn!(%error, "the audit log's key cannot be kept: digests compare within this process only");
            Digester::random()
        })?,
    };
    Audit::start(path.clone(), digester).map(Some)
}

/// What the parts know of themselves.
fn watch(parts: &Shared, metrics: &Metrics) {
    let store = SharedStore::clone(&parts.store);
    metrics.sample("store_state", "Which state the store is in (1), by backend", Sampled::Gauge, move || {
        let state = store.state();
        let samples = StoreState::ALL.into_iter().map(|of| Sample {
            labels: vec![("backend", "sqlite".to_owned()), ("state", of.as_str().to_owned())],
            value: f64::from(u8::from(state == Some(of))),
        });
        if state.is_some() { samples.collect() } else { Vec::new() }
    });
    let store = SharedStore::clone(&parts.store);
    metrics.sample(
        "breaker_open",
        "Whether calls get the last failure of a backend at once (1), instead of trying it again",
        Sampled::Gauge,
        move || {
            let is_open = store.state().map(|state| f64::from(u8::from(state == StoreState::Failed)));
            is_open.map(|open| Sample::labelled("backend", "sqlite", open)).into_iter().collect()
        },
    );
    let tasks = Arc::clone(parts.service.tasks());
    metrics.sample("tasks_running", "Tasks that run", Sampled::Gauge, move || {
        vec![Sample::plain(tasks.figures().running as f64)]
    });
    let tasks = Arc::clone(parts.service.tasks());
    metrics.sample("tasks_ended", "Tasks that have ended, by how", Sampled::Counter, move || {
        let ended = TaskFigures::ENDED.into_iter().zip(tasks.figures().ended);
        ended.map(|(how, count)| Sample::labelled("how", how, count as f64)).collect()
    });
    let tasks = Arc::clone(parts.service.tasks());
    metrics.sample(
        "tasks_refused",
        "Calls that found no room to become tasks",
        Sampled::Counter,
        move || vec![Sample::plain(tasks.figures().refused as f64)],
    );
    let engine = Arc::clone(&parts.engine);
    metrics.sample(
        "cache_lookups",
        "Read-only runs by cache layer: computed, or taken over from an equal one that ran at the same time",
        Sampled::Counter,
        move || {
            let (computed, shared) = engine.shared_runs();
            [("computed", computed), ("shared", shared)]
                .map(|(outcome, count)| Sample {
                    labels: vec![("layer", "single_flight".to_owned()), ("outcome", outcome.to_owned())],
                    value: count as f64,
                })
                .into()
        },
    );
}
