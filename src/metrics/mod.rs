//! What the process counts of itself, as Prometheus text (`/metrics`).
//!
//! One value for the whole process, handed down; every part counts what it alone knows. Counting never blocks.

mod durations;
mod families;
pub(crate) mod line;
mod recent;
mod samples;
mod text;

use std::sync::{Mutex, PoisonError};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Metric, Registry},
};

pub use durations::Durations;
pub use families::{Family as FamilyFigures, FamilyKind, Histogram, Reading, Series};
pub use recent::{RECENT_MAX, RecentError};
pub use samples::{Sample, Sampled};

/// Begins the names of all that is ours.
const PREFIX: &str = "tmws";

/// How a client reaches us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Transport {
    /// stdin and stdout.
    #[default]
    Stdio,
    /// WebSocket.
    WebSocket,
    /// Streamable HTTP.
    Http,
    /// HTTP+SSE of 2024-11-05.
    Sse,
    /// WebSocket with the old dialect.
    Dialect,
}

impl Transport {
    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stdio => "stdio",
            Self::WebSocket => "websocket",
            Self::Http => "http",
            Self::Sse => "sse",
            Self::Dialect => "dialect",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TransportLabels {
    transport: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleLabels {
    rule: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PatternLabels {
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    layer: &'static str,
    code: &'static str,
}

/// Who tells of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// A tool, with a code of its own (`busy`, `denied`, …), in a result.
    Tool,
    /// The protocol, with a code of JSON-RPC.
    Protocol,
}

impl Layer {
    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tool => "tool",
            Self::Protocol => "protocol",
        }
    }
}

/// All figures of the process.
pub struct Metrics {
    /// What is encoded; the handles below count into it without it.
    registry: Mutex<Registry>,
    connections: Family<TransportLabels, Gauge>,
    sessions: Family<TransportLabels, Gauge>,
    refused: Family<RuleLabels, Counter>,
    violations: Counter,
    rate_limited: Counter,
    calls: Family<MethodLabels, Durations>,
    patterns: Family<PatternLabels, Durations>,
    errors: Family<ErrorLabels, Counter>,
    recent: recent::Recent,
    known: Mutex<Vec<KnownFamily>>,
}

/// A family that there is, whether it has figures yet or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownFamily {
    /// Its name as scrapers see it, a counter's without `_total`.
    pub name: String,
    /// What it says, for people.
    pub help: &'static str,
    /// What its figures are.
    pub kind: FamilyKind,
}

/// Registers a family of ours.
fn put(
    registry: &mut Registry,
    known: &mut Vec<KnownFamily>,
    kind: FamilyKind,
    name: &'static str,
    help: &'static str,
    metric: impl Metric,
) {
    known.push(KnownFamily { name: format!("{PREFIX}_{name}"), help, kind });
    registry.register(name, help, metric);
}

/// Counts one thing that is there until this is dropped.
#[must_use = "it is counted until this is dropped"]
pub struct Counted(Gauge);

impl Counted {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let mut known = Vec::new();
        for family in samples::process() {
            known.push(KnownFamily {
                name: family.name.to_owned(),
                help: family.help,
                kind: family.kind.into(),
            });
            registry.register_collector(Box::new(family));
        }
        let ours = registry.sub_registry_with_prefix(PREFIX);
        put(
            ours,
            &mut known,
            FamilyKind::Info,
            "build",
            "The program",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        let connections = Family::<TransportLabels, Gauge>::default();
        put(ours, &mut known, FamilyKind::Gauge, "connections", "Connections open", connections.clone());
        let sessions = Family::<TransportLabels, Gauge>::default();
        put(ours, &mut known, FamilyKind::Gauge, "sessions", "Sessions in memory", sessions.clone());
        let refused = Family::<RuleLabels, Counter>::default();
        put(
            ours,
            &mut known,
            FamilyKind::Counter,
            "frames_refused",
            "Frames and requests refused, by rule",
            refused.clone(),
        );
        let violations = Counter::default();
        put(
            ours,
            &mut known,
            FamilyKind::Counter,
            "schema_violations",
            "Messages of ours that were withheld because they do not fit their schema",
            violations.clone(),
        );
        let rate_limited = Counter::default();
        put(
            ours,
            &mut known,
            FamilyKind::Counter,
            "rate_limited",
            "Calls refused because they came too fast",
            rate_limited.clone(),
        );
        let calls = Family::<MethodLabels, Durations>::default();
        put(
            ours,
            &mut known,
            FamilyKind::Histogram,
            "call_duration_seconds",
            "Calls that reached the service, from its door to their answer, by method",
            calls.clone(),
        );
        let patterns = Family::<PatternLabels, Durations>::default();
        put(
            ours,
            &mut known,
            FamilyKind::Histogram,
            "pattern_duration_seconds",
            "Calls that ran a pattern to its end, by the pattern's type",
            patterns.clone(),
        );
        let errors = Family::<ErrorLabels, Counter>::default();
        put(
            ours,
            &mut known,
            FamilyKind::Counter,
            "call_errors",
            "Calls answered with an error, by code",
            errors.clone(),
        );
        Self {
            registry: Mutex::new(registry),
            connections,
            sessions,
            refused,
            violations,
            rate_limited,
            calls,
            patterns,
            errors,
            recent: recent::Recent::default(),
            known: Mutex::new(known),
        }
    }
}

impl Metrics {
    /// A connection was accepted.
    pub fn connection(&self, transport: Transport) -> Counted {
        let labels = TransportLabels { transport: transport.as_str() };
        Counted::new(self.connections.get_or_create_owned(&labels))
    }

    /// A session began: a WebSocket, an HTTP session, an event stream of 2024-11-05.
    pub fn session(&self, transport: Transport) -> Counted {
        let labels = TransportLabels { transport: transport.as_str() };
        Counted::new(self.sessions.get_or_create_owned(&labels))
    }

    /// A frame or a request was refused under `rule`: lower-case words with hyphens.
    pub fn refused(&self, rule: &'static str) {
        self.refused_often(rule, 1);
    }

    /// So many were.
    pub fn refused_often(&self, rule: &'static str, count: u64) {
        self.refused.get_or_create(&RuleLabels { rule }).inc_by(count);
    }

    /// Something of ours did not fit its schema.
    pub fn schema_violation(&self) {
        self.violations.inc();
    }

    /// A call came too fast.
    pub fn rate_limited(&self) {
        self.rate_limited.inc();
    }

    /// The durations of calls of `method`, to be kept by whoever observes often.
    #[must_use]
    pub fn calls_of(&self, method: &'static str) -> Durations {
        self.calls.get_or_create_owned(&MethodLabels { method })
    }

    /// The durations of patterns of this type, to be kept likewise.
    #[must_use]
    pub fn patterns_of(&self, kind: &'static str) -> Durations {
        self.patterns.get_or_create_owned(&PatternLabels { r#type: kind })
    }

    /// A call ended with an error.
    pub fn call_error(&self, layer: Layer, code: &'static str) {
        self.errors.get_or_create(&ErrorLabels { layer: layer.as_str(), code }).inc();
    }

    /// The same, remembered for those who look at the last ones.
    pub fn note_error(&self, error: RecentError) {
        self.call_error(error.layer, error.code);
        self.recent.push(error);
    }

    /// The last errors noted, at most [`RECENT_MAX`], the newest first.
    #[must_use]
    pub fn recent_errors(&self) -> Vec<RecentError> {
        self.recent.list()
    }

    /// Adds a family that is read at each scrape; its name gets the prefix, a counter's its suffix.
    pub fn sample(
        &self,
        name: &'static str,
        help: &'static str,
        kind: Sampled,
        read: impl Fn() -> Vec<Sample> + Send + Sync + 'static,
    ) {
        let known = KnownFamily { name: format!("{PREFIX}_{name}"), help, kind: kind.into() };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).push(known);
        let family = samples::Family { name, help, kind, read: Box::new(read) };
        let mut registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        registry.sub_registry_with_prefix(PREFIX).register_collector(Box::new(family));
    }

    /// Everything, in OpenMetrics' text format.
    #[must_use]
    pub fn open_metrics(&self) -> String {
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        encode(&mut text, &registry).expect("a string takes everything");
        text
    }

    /// Every family that there is.
    #[must_use]
    pub fn known(&self) -> Vec<KnownFamily> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything, as values.
    #[must_use]
    pub fn families(&self) -> Vec<FamilyFigures> {
        families::read(&self.open_metrics())
    }

    /// Everything, in Prometheus' text format, version 0.0.4.
    #[must_use]
    pub fn text(&self) -> String {
        text::classic(&self.open_metrics())
    }
}
