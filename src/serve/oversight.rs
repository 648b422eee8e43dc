//! What stands around the service of a shared server: limits, figures, the audit log, readiness.

use std::{io, sync::Arc, time::Instant};

use tokio::runtime::Handle;
use tracing::warn;

use crate::{
    access::Access,
    admission::Governed,
    audit::{Audit, Digester},
    cache::{
        CacheFigures, SecondLayer as _, Told,
        redis::{Answered, Redis, RedisFigures},
    },
    compose::Shared,
    config::{Config, DatabaseUrl},
    metrics::{Metrics, Sample, Sampled},
    otlp::{Exporter, Traced},
    resilience::{BackendKind, Backends, BreakerState, Standing},
    store::{SharedStore, StoreLoad, StoreState},
    tool::{Service, tasks::TaskFigures},
    transport::{Checked, Health, StoreCheck},
};

/// The parts, for [`crate::transport::Host`].
pub(super) struct Oversight {
    pub(super) service: Arc<dyn Service>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) audit: Option<Arc<Audit>>,
    pub(super) health: Health,
    /// The way to the collector of telemetry, where there is one.
    pub(super) exporter: Option<Arc<Exporter>>,
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
    let backends = Arc::clone(&parts.engine.outside().backends);
    health = health.with(Checked::helpful("backends", move || ailing(&backends)));
    let database = match config.database {
        DatabaseUrl::Sqlite(_) => "sqlite",
        DatabaseUrl::Postgres(_) => "postgres",
    };
    if let Some(redis) = &parts.redis {
        let told = Arc::clone(redis);
        health = health.with(Checked::helpful("redis", move || match told.told() {
            Told::Well => Ok(()),
            Told::Unused => Err("it is being connected for the first time".to_owned()),
            Told::Ailing(reason) => Err(reason),
        }));
        // Whether it can be used is known before somebody needs it.
        redis.begin();
        watch_redis(redis, &metrics);
    }
    watch(parts, &metrics, database);
    watch_load(&parts.store, &metrics);
    let exporter = Exporter::start(&config.otlp, Some(&metrics), &Handle::current());
    let service = Governed::new(
        inner,
        &config.network,
        &config.connection,
        Arc::clone(&metrics),
        audit.as_ref().map(Arc::clone),
    );
    let service = with_spans(service, exporter.as_ref());
    Ok(Oversight { service, metrics, audit, health, exporter })
}

/// The service, its calls told to the collector where there is one.
pub(super) fn with_spans(service: Arc<dyn Service>, exporter: Option<&Arc<Exporter>>) -> Arc<dyn Service> {
    match exporter {
        Some(exporter) => Traced::new(service, Arc::clone(exporter)),
        None => service,
    }
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

/// What backends are called where their names are not for everybody: which databases, servers and hosts there are is for
/// those who may use them. The names are in the figures.
const COUNTED: [(BackendKind, &str); 4] = [
    (BackendKind::Source, "of the databases that patterns read"),
    (BackendKind::Server, "of the MCP servers"),
    (BackendKind::Model, "of the language model's providers"),
    (BackendKind::Host, "of the hosts of http.get"),
];

/// Whether all that is depended on works.
fn ailing(backends: &Backends) -> Result<(), String> {
    let ailing = backends.ailing(Instant::now());
    let is_counted = |standing: &&Standing| COUNTED.iter().any(|(kind, _)| *kind == standing.backend.kind);
    let named = ailing.iter().filter(|standing| !is_counted(standing)).map(ToString::to_string);
    let counted = COUNTED.iter().filter_map(|(kind, what)| {
        let count = ailing.iter().filter(|standing| standing.backend.kind == *kind).count();
        (count > 0).then(|| format!("{count} {what}: left alone"))
    });
    let told: Vec<String> = named.chain(counted).collect();
    if told.is_empty() { Ok(()) } else { Err(told.join(", ")) }
}

/// A figure of each backend.
type BackendFigure = (&'static str, &'static str, Sampled, fn(&Standing) -> f64);

const BACKEND_FIGURES: [BackendFigure; 6] = [
    ("breaker_opened", "Times that the breaker of a backend opened", Sampled::Counter, |of| of.opened as f64),
    ("backend_failures", "Tries of a backend that failed", Sampled::Counter, |of| of.failures as f64),
    ("backend_refused", "Calls that a backend's guard turned away", Sampled::Counter, |of| of.refused as f64),
    ("backend_retries", "Reads that a backend was asked again", Sampled::Counter, |of| of.retries as f64),
    ("backend_in_use", "Calls that a backend holds now", Sampled::Gauge, |of| of.in_use as f64),
    ("backend_waiting", "Calls that wait for a backend now", Sampled::Gauge, |of| of.waiting as f64),
];

/// The state as told. A server that no connection could be made to is not asked for a while, then by one call, whatever its
/// breaker says.
const fn state_of(of: &Standing) -> BreakerState {
    match of.breaker {
        BreakerState::Closed if of.is_left_alone && of.retry_after.is_some() => BreakerState::Open,
        BreakerState::Closed if of.is_left_alone => BreakerState::HalfOpen,
        breaker => breaker,
    }
}

/// Whether a backend has no such figure: Redis has a breaker, and no places; and what it was asked is not asked again.
fn is_without_places(of: &Standing, figure: &str) -> bool {
    of.backend.kind == BackendKind::Redis
        && matches!(figure, "backend_retries" | "backend_in_use" | "backend_waiting")
}

/// How the backends stand that anybody has used.
fn watch_backends(backends: &Arc<Backends>, metrics: &Metrics) {
    let labels = |of: &Standing| {
        vec![("kind", of.backend.kind.as_str().to_owned()), ("name", of.backend.name.to_string())]
    };
    let known = Arc::clone(backends);
    metrics.sample(
        "breaker_state",
        "Which state the breaker of a backend is in (1)",
        Sampled::Gauge,
        move || {
            let standings = known.standings(Instant::now());
            let samples = standings.iter().flat_map(|of| {
                BreakerState::ALL.into_iter().map(move |state| Sample {
                    labels: [labels(of), vec![("state", state.as_str().to_owned())]].concat(),
                    value: f64::from(u8::from(state_of(of) == state)),
                })
            });
            samples.collect()
        },
    );
    for (name, help, kind, figure) in BACKEND_FIGURES {
        let known = Arc::clone(backends);
        metrics.sample(name, help, kind, move || {
            let standings = known.standings(Instant::now());
            let told = standings.iter().filter(|of| !is_without_places(of, name));
            told.map(|of| Sample { labels: labels(of), value: figure(of) }).collect()
        });
    }
}

/// How busy the store is.
fn watch_load(store: &SharedStore, metrics: &Metrics) {
    type Figure = (&'static str, &'static str, Sampled, fn(&StoreLoad) -> Option<f64>);
    const FIGURES: [Figure; 7] = [
        (
            "store_connections",
            "Connections of the store to its database that are open",
            Sampled::Gauge,
            |load| load.connections.map(f64::from),
        ),
        (
            "store_connections_idle",
            "Connections of the store that have nothing to do",
            Sampled::Gauge,
            |load| load.idle.map(f64::from),
        ),
        (
            "store_connection_waits",
            "Times that no connection of the store was idle, and one was waited for",
            Sampled::Counter,
            |load| load.waits.map(|waits| waits as f64),
        ),
        (
            "store_connection_waited_seconds",
            "Time waited for connections of the store, in all",
            Sampled::Counter,
            |load| load.waited.map(|waited| waited.as_secs_f64()),
        ),
        (
            "store_writes_waiting",
            "Writes that wait for the one task that writes to SQLite",
            Sampled::Gauge,
            |load| load.writes_waiting.map(|waiting| waiting as f64),
        ),
        (
            "store_memories_embedded",
            "Memories that this process gave a vector in the background",
            Sampled::Counter,
            |load| load.embedded.map(|embedded| embedded as f64),
        ),
        (
            "store_memories_to_embed",
            "Memories without a vector of the embedding model, as last counted in the background",
            Sampled::Gauge,
            |load| load.unembedded.map(|count| count as f64),
        ),
    ];
    for (name, help, kind, figure) in FIGURES {
        let store = SharedStore::clone(store);
        metrics
            .sample(name, help, kind, move || figure(&store.load()).map(Sample::plain).into_iter().collect());
    }
}

/// A figure of the cache's second layer.
type RedisFigure = (&'static str, &'static str, Sampled, fn(&RedisFigures) -> f64);

const REDIS_FIGURES: [RedisFigure; 10] = [
    ("redis_commands", "Commands sent to Redis", Sampled::Counter, |of| of.commands as f64),
    ("redis_failures", "Commands to Redis that failed", Sampled::Counter, |of| of.failures as f64),
    ("redis_timeouts", "Commands that Redis did not answer in time", Sampled::Counter, |of| {
        of.timeouts as f64
    }),
    (
        "redis_skipped",
        "Commands that were not sent: no connection stood, or the server takes no writes",
        Sampled::Counter,
        |of| of.skipped as f64,
    ),
    ("redis_waited_seconds", "Time waited for Redis, in all", Sampled::Counter, |of| of.waited.as_secs_f64()),
    ("redis_reconnects", "Connections made anew to a server of Redis", Sampled::Counter, |of| {
        of.reconnects as f64
    }),
    ("redis_invalidations", "Entries that Redis told of as changed", Sampled::Counter, |of| {
        of.invalidations as f64
    }),
    ("redis_nodes", "Servers of Redis that hold entries", Sampled::Gauge, |of| of.nodes as f64),
    ("redis_connected", "Servers of Redis that are connected and tell what changes", Sampled::Gauge, |of| {
        of.connected as f64
    }),
    ("redis_refusing", "Servers of Redis that take no writes", Sampled::Gauge, |of| of.refusing as f64),
];

/// What the cache's second layer knows of itself.
fn watch_redis(redis: &Arc<Redis>, metrics: &Metrics) {
    type Figure = (&'static str, &'static str, fn(&Answered) -> f64);
    const BY_OPERATION: [Figure; 2] = [
        ("redis_answers", "Commands that Redis answered, by operation of the cache", |of| of.count as f64),
        (
            "redis_answer_seconds",
            "Time that these answers took, in all: by their count it is the mean",
            |of| of.waited.as_secs_f64(),
        ),
    ];
    for (name, help, figure) in BY_OPERATION {
        let known = Arc::clone(redis);
        metrics.sample(name, help, Sampled::Counter, move || {
            let of = known.answered().into_iter();
            of.map(|(operation, of)| Sample::labelled("operation", operation, figure(&of))).collect()
        });
    }
    for (name, help, kind, figure) in REDIS_FIGURES {
        let known = Arc::clone(redis);
        metrics.sample(name, help, kind, move || vec![Sample::plain(figure(&known.figures()))]);
    }
}

/// A figure of the cache.
type CacheFigure = (&'static str, &'static str, Sampled, fn(&CacheFigures) -> u64);

const CACHE_FIGURES: [CacheFigure; 6] = [
    ("cache_stale", "Answers kept that were of an older generation", Sampled::Counter, |of| of.stale),
    ("cache_fills", "Answers kept", Sampled::Counter, |of| of.fills),
    ("cache_invalidations", "Answers that the second layer told to drop", Sampled::Counter, |of| {
        of.invalidations
    }),
    (
        "cache_evictions",
        "Answers that made room for others, or outlived themselves",
        Sampled::Counter,
        |of| of.evictions,
    ),
    ("cache_entries", "Answers in the first layer", Sampled::Gauge, |of| of.entries),
    ("cache_bytes", "Bytes of the answers in the first layer", Sampled::Gauge, |of| of.bytes),
];

/// What kept answers are worth: a lookup goes from layer to layer until one has it.
fn watch_cache(parts: &Shared, metrics: &Metrics) {
    let (engine, has_redis) = (Arc::clone(&parts.engine), parts.redis.is_some());
    metrics.sample(
        "cache_lookups",
        "Read-only runs by cache layer and outcome; in a single flight a run is computed, or shared by an equal one at the same time",
        Sampled::Counter,
        move || {
            let (computed, shared) = engine.shared_runs();
            let of = engine.cache_figures();
            let redis = [("redis", "hit", of.shared_hits), ("redis", "miss", of.misses)];
            [
                ("local", "hit", of.local_hits),
                ("local", "miss", of.shared_hits + of.misses),
                ("single_flight", "computed", computed),
                ("single_flight", "shared", shared),
            ]
            .into_iter()
            .chain(redis.into_iter().filter(|_| has_redis))
            .map(|(layer, outcome, count)| Sample {
                labels: vec![("layer", layer.to_owned()), ("outcome", outcome.to_owned())],
                value: count as f64,
            })
            .collect()
        },
    );
    for (name, help, kind, figure) in CACHE_FIGURES {
        let engine = Arc::clone(&parts.engine);
        metrics.sample(name, help, kind, move || vec![Sample::plain(figure(&engine.cache_figures()) as f64)]);
    }
}

/// What the parts know of themselves.
fn watch(parts: &Shared, metrics: &Metrics, database: &'static str) {
    let store = SharedStore::clone(&parts.store);
    metrics.sample("store_state", "Which state the store is in (1), by backend", Sampled::Gauge, move || {
        let state = store.state();
        let samples = StoreState::ALL.into_iter().map(|of| Sample {
            labels: vec![("backend", database.to_owned()), ("state", of.as_str().to_owned())],
            value: f64::from(u8::from(state == Some(of))),
        });
        if state.is_some() { samples.collect() } else { Vec::new() }
    });
    watch_backends(&parts.engine.outside().backends, metrics);
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
    watch_cache(parts, metrics);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_is_ready_is_told_to_everybody_without_the_names_of_what_not_everybody_may_use() {
        let backends = Backends::default();
        assert_eq!(ailing(&backends), Ok(()));
        for (kind, name) in [
            (BackendKind::Redis, "cache"),
            (BackendKind::Source, "payroll"),
            (BackendKind::Source, "salaries"),
            (BackendKind::Host, "intern.example"),
            (BackendKind::Model, "llm.example"),
        ] {
            let breaker = backends.breaker(kind, name);
            breaker.admit(Instant::now()).unwrap().fail(Instant::now(), Some(Duration::from_mins(1)));
        }
        backends.guard(BackendKind::Server, "secret").leave_alone(Duration::from_mins(1), "gone");
        assert_eq!(
            ailing(&backends).unwrap_err(),
            "redis cache: open, 2 of the databases that patterns read: left alone, 1 of the MCP servers: left alone, \
             1 of the language model's providers: left alone, 1 of the hosts of http.get: left alone"
        );
        let standings = backends.standings(Instant::now());
        assert!(standings.iter().all(|of| state_of(of) == BreakerState::Open), "{standings:?}");
    }
}
