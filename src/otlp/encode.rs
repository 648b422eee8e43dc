//! Spans and figures as OTLP has them.

use jiff::Timestamp;
use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint,
        ResourceMetrics, ScopeMetrics, Sum, metric, number_data_point,
    },
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span as OtlpSpan, Status, span::SpanKind, status::StatusCode},
};
use prost::Message as _;

use crate::{
    metrics::{FamilyFigures, FamilyKind, Reading},
    trace::TraceContext,
};

/// Flags of a span: the lowest eight are those of its trace; this says that the next one is meant.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;
/// Begins the names of all figures that are ours.
const OURS: &str = "tmws_";

/// One value of a span.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Told {
    Text(String),
    Count(u64),
}

impl From<&str> for Told {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// Whose work a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A call of a client.
    Server,
    /// A step of it.
    Internal,
}

/// Something that took its time.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) context: TraceContext,
    /// The span that it is part of.
    pub(super) parent: Option<TraceContext>,
    /// Whether that is somebody else's.
    pub(super) is_parent_remote: bool,
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) begun: Timestamp,
    pub(super) ended: Timestamp,
    pub(super) attributes: Vec<(&'static str, Told)>,
    /// The code of its failure.
    pub(super) failure: Option<String>,
}

/// Who exports.
pub(super) struct Exporting {
    pub(super) service: String,
    /// Names this process among those of the service.
    pub(super) instance: String,
    pub(super) begun: Timestamp,
}

impl Exporting {
    fn resource(&self) -> Resource {
        let attributes = [
            ("service.name", self.service.as_str()),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("service.instance.id", self.instance.as_str()),
        ];
        Resource {
            attributes: attributes.map(|(key, text)| pair(key, Told::from(text))).into(),
            ..Resource::default()
        }
    }

    /// A request that tells of `spans`.
    pub(super) fn traces(&self, spans: Vec<Span>) -> Vec<u8> {
        let spans = spans.into_iter().map(span).collect();
        let scope_spans = vec![ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() }];
        let resource_spans =
            ResourceSpans { resource: Some(self.resource()), scope_spans, ..ResourceSpans::default() };
        ExportTraceServiceRequest { resource_spans: vec![resource_spans] }.encode_to_vec()
    }

    /// A request that tells what `families` are at `now`.
    pub(super) fn metrics(&self, families: &[FamilyFigures], now: Timestamp) -> Vec<u8> {
        let at = Between { start: nanos(self.begun), now: nanos(now) };
        let metrics = families.iter().filter_map(|family| metric(family, at)).collect();
        let scope_metrics = vec![ScopeMetrics { scope: Some(scope()), metrics, ..ScopeMetrics::default() }];
        let resource_metrics =
            ResourceMetrics { resource: Some(self.resource()), scope_metrics, ..ResourceMetrics::default() };
        ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] }.encode_to_vec()
    }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope {
        name: "tmws".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    }
}

fn pair(key: &str, told: Told) -> KeyValue {
    let value = match told {
        Told::Text(text) => any_value::Value::StringValue(text),
        Told::Count(count) => any_value::Value::IntValue(i64::try_from(count).unwrap_or(i64::MAX)),
    };
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn nanos(at: Timestamp) -> u64 {
    u64::try_from(at.as_nanosecond()).unwrap_or_default()
}

fn span(span: Span) -> OtlpSpan {
    let Span { context, parent, is_parent_remote, name, kind, begun, ended, attributes, failure } = span;
    let remote = if parent.is_some() && is_parent_remote { IS_REMOTE } else { 0 };
    OtlpSpan {
        trace_id: context.trace_id.to_vec(),
        span_id: context.span_id.to_vec(),
        trace_state: context.state().unwrap_or_default().to_owned(),
        parent_span_id: parent.map(|parent| parent.span_id.to_vec()).unwrap_or_default(),
        flags: u32::from(context.is_sampled()) | HAS_IS_REMOTE | remote,
        name,
        kind: match kind {
            Kind::Server => SpanKind::Server,
            Kind::Internal => SpanKind::Internal,
        }
        .into(),
        start_time_unix_nano: nanos(begun),
        end_time_unix_nano: nanos(ended.max(begun)),
        attributes: attributes.into_iter().map(|(key, told)| pair(key, told)).collect(),
        // Only what failed has a status: the rest is for others to judge.
        status: failure.map(|code| Status { message: code, code: StatusCode::Error.into() }),
        ..OtlpSpan::default()
    }
}

#[derive(Clone, Copy)]
struct Between {
    start: u64,
    now: u64,
}

/// A family under its name with dots, in its base unit; what has no numbers is left out.
fn metric(family: &FamilyFigures, at: Between) -> Option<Metric> {
    let numbers = || {
        let points = family.series.iter().filter_map(|series| match series.reading {
            Reading::Number(number) => Some(NumberDataPoint {
                attributes: attributes(&series.labels),
                start_time_unix_nano: at.start,
                time_unix_nano: at.now,
                value: Some(number_data_point::Value::AsDouble(number)),
                ..NumberDataPoint::default()
            }),
            Reading::Histogram(_) => None,
        });
        points.collect::<Vec<_>>()
    };
    let cumulative = AggregationTemporality::Cumulative.into();
    let data = match family.kind {
        FamilyKind::Info => return None,
        FamilyKind::Gauge => metric::Data::Gauge(Gauge { data_points: numbers() }),
        FamilyKind::Counter => metric::Data::Sum(Sum {
            data_points: numbers(),
            aggregation_temporality: cumulative,
            is_monotonic: true,
        }),
        FamilyKind::Histogram => {
            let points = family.series.iter().filter_map(|series| match &series.reading {
                Reading::Histogram(histogram) => Some(HistogramDataPoint {
                    attributes: attributes(&series.labels),
                    start_time_unix_nano: at.start,
                    time_unix_nano: at.now,
                    count: histogram.count(),
                    sum: Some(histogram.sum),
                    bucket_counts: histogram.counts.clone(),
                    explicit_bounds: histogram.bounds.clone(),
                    ..HistogramDataPoint::default()
                }),
                Reading::Number(_) => None,
            });
            let data_points = points.collect();
            metric::Data::Histogram(Histogram { data_points, aggregation_temporality: cumulative })
        }
    };
    if family.series.is_empty() {
        return None;
    }
    let (name, unit) = match (family.name.strip_suffix("_seconds"), family.name.strip_suffix("_bytes")) {
        (Some(name), _) => (name, "s"),
        (_, Some(name)) => (name, "By"),
        (None, None) => (family.name.as_str(), ""),
    };
    let name = match name.strip_prefix(OURS) {
        Some(name) => format!("tmws.{name}"),
        None => name.replacen('_', ".", 1),
    };
    let description = family.help.clone();
    Some(Metric { name, description, unit: unit.to_owned(), data: Some(data), ..Metric::default() })
}

fn attributes(labels: &[(String, String)]) -> Vec<KeyValue> {
    labels.iter().map(|(name, label)| pair(name, Told::from(label.as_str()))).collect()
}
