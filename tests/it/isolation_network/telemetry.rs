//! What a collector of OpenTelemetry is told by the real binary, and that calls go on where there is none.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpListener,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use opentelemetry_proto::tonic::{
    collector::{metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest},
    common::v1::{KeyValue, any_value},
    metrics::v1::{Metric, metric, number_data_point},
    trace::v1::{Span, span::SpanKind, status::StatusCode},
};
use prost::Message as _;
use serde_json::{Value, json};

use super::process::Served;
use crate::network::{Http, PATIENCE};

/// Nowhere but in what a client sent.
const MARK: &str = "vermilion-ibis-2718";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A request as the collector got it.
struct Told {
    head: String,
    body: Vec<u8>,
}

/// A collector that takes everything.
struct Collector {
    url: String,
    told: Arc<Mutex<Vec<Told>>>,
}

impl Collector {
    fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/base", listener.local_addr().unwrap());
        let told = Arc::<Mutex<Vec<Told>>>::default();
        let kept = Arc::clone(&told);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || {
                    let mut reader = BufReader::new(stream.try_clone().unwrap());
                    let mut stream = stream;
                    loop {
                        let mut head = String::new();
                        while reader.read_line(&mut head).is_ok_and(|read| read > 2) {}
                        let lower = head.to_ascii_lowercase();
                        let Some(length) = lower.split("content-length: ").nth(1) else { return };
                        let length = length.lines().next().unwrap().trim().parse().unwrap();
                        let mut body = vec![0; length];
                        reader.read_exact(&mut body).unwrap();
                        kept.lock().unwrap().push(Told { head: lower, body });
                        let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n";
                        stream.write_all(answer.as_bytes()).unwrap();
                    }
                });
            }
        });
        Self { url, told }
    }

    fn bodies(&self, path: &str) -> Vec<Vec<u8>> {
        let told = self.told.lock().unwrap();
        let line = format!("post /base{path} http/1.1");
        told.iter().filter(|told| told.head.starts_with(&line)).map(|told| told.body.clone()).collect()
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.bodies("/v1/traces");
        let requests = requests.iter().map(|body| ExportTraceServiceRequest::decode(&body[..]).unwrap());
        requests
            .flat_map(|request| request.resource_spans)
            .inspect(|spans| {
                let resource = spans.resource.as_ref().unwrap();
                assert_eq!(text(&resource.attributes, "service.name"), "tmws");
                assert_eq!(text(&resource.attributes, "service.version"), env!("CARGO_PKG_VERSION"));
            })
            .flat_map(|spans| spans.scope_spans)
            .flat_map(|spans| spans.spans)
            .collect()
    }

    /// The last metrics told.
    fn metrics(&self) -> Vec<Metric> {
        let body = self.bodies("/v1/metrics").pop().expect("metrics");
        let request = ExportMetricsServiceRequest::decode(&body[..]).unwrap();
        let scopes = request.resource_metrics.into_iter().flat_map(|metrics| metrics.scope_metrics);
        scopes.flat_map(|scope| scope.metrics).collect()
    }
}

fn value<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a any_value::Value> {
    attributes.iter().find(|pair| pair.key == key)?.value.as_ref()?.value.as_ref()
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> &'a str {
    match value(attributes, key) {
        Some(any_value::Value::StringValue(text)) => text,
        other => panic!("{key}: {other:?} in {attributes:?}"),
    }
}

fn digits(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

async fn call(http: &mut Http, input: Value, meta: Value, header: Option<&str>) -> Value {
    let mut all = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    all.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": "execute_pattern", "arguments": input, "_meta": all}});
    let mut headers = vec![
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "execute_pattern"),
    ];
    headers.extend(header.map(|header| ("traceparent", header)));
    http.post(&call, &headers).await.json().await
}

fn echo(number: u32) -> Value {
    json!({"pattern": "test.echo", "input": {"mark": format!("{MARK}-{number}")}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_is_told_of_each_call_and_step_and_nothing_that_was_said() {
    let collector = Collector::open();
    let served = Served::launch(false, &[&format!("telemetry.otlp={}", collector.url)]);
    let mut http = Http::connect(served.address).await;
    let parent = |flags: &str| format!("00-{TRACE}-{PARENT}-{flags}");
    let answers = [
        call(&mut http, echo(1), json!({"traceparent": parent("01"), "tracestate": "vendor=x"}), None).await,
        call(&mut http, echo(2), json!({}), Some(&parent("01"))).await,
        call(&mut http, echo(3), json!({"traceparent": MARK}), None).await,
        call(&mut http, echo(4), json!({"traceparent": parent("00")}), None).await,
        call(&mut http, json!({"pattern": MARK}), json!({}), None).await,
    ];
    let failed: Vec<bool> = answers.iter().map(|answer| answer["result"]["isError"] == true).collect();
    assert_eq!(failed, [false, false, false, false, true], "{answers:#?}");
    drop(http);
    served.end();

    for told in collector.told.lock().unwrap().iter() {
        let seen = String::from_utf8_lossy(&told.body);
        assert!(!seen.contains("vermilion") && !told.head.contains("vermilion"), "{seen}");
        assert!(told.head.contains("content-type: application/x-protobuf"), "{}", told.head);
    }
    let spans = collector.spans();
    let (calls, steps): (Vec<&Span>, Vec<&Span>) =
        spans.iter().partition(|span| span.kind == i32::from(SpanKind::Server));
    assert_eq!(calls.len(), 4, "one of five traces is not recorded: {spans:#?}");
    assert_eq!(steps.len(), 3, "{spans:#?}");
    for (index, span) in calls.iter().enumerate() {
        assert_eq!(span.name, "tools/call execute_pattern");
        assert_eq!(text(&span.attributes, "mcp.method.name"), "tools/call");
        assert_eq!(text(&span.attributes, "mcp.protocol.version"), "2026-07-28");
        assert_eq!(text(&span.attributes, "gen_ai.tool.name"), "execute_pattern");
        assert_eq!(text(&span.attributes, "network.transport"), "tcp");
        assert_eq!(text(&span.attributes, "tmws.transport"), "http");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
        let is_continued = index < 2;
        assert_eq!(digits(&span.trace_id) == TRACE, is_continued, "{span:?}");
        assert_eq!(digits(&span.parent_span_id), if is_continued { PARENT } else { "" });
        assert_eq!(span.trace_state, if index == 0 { "vendor=x" } else { "" });
    }
    for span in &calls[..3] {
        assert_eq!(text(&span.attributes, "tmws.pattern.name"), "test.echo");
        assert_eq!(text(&span.attributes, "tmws.pattern.version"), "1.0.0");
        assert_eq!(text(&span.attributes, "tmws.pattern.type"), "infrastructure");
        assert!(!text(&span.attributes, "tmws.cache").is_empty());
        assert!(span.status.is_none() && value(&span.attributes, "error.type").is_none());
        let step = steps.iter().find(|step| step.parent_span_id == span.span_id).expect("a step of it");
        assert_eq!((step.name.as_str(), &step.trace_id), ("step said", &span.trace_id));
        assert_eq!(text(&step.attributes, "tmws.step.outcome"), "ok");
        assert!(matches!(value(&step.attributes, "tmws.step.bytes"), Some(any_value::Value::IntValue(1..))));
        assert!(
            step.start_time_unix_nano >= span.start_time_unix_nano
                && step.end_time_unix_nano <= span.end_time_unix_nano
        );
    }
    let status = calls[3].status.as_ref().expect("a status");
    assert_eq!((status.code, status.message.as_str()), (StatusCode::Error.into(), "unknown_pattern"));
    assert_eq!(text(&calls[3].attributes, "error.type"), "unknown_pattern");
    assert!(value(&calls[3].attributes, "tmws.pattern.name").is_none());

    let metrics = collector.metrics();
    let of = |name: &str| {
        metrics.iter().find(|metric| metric.name == name).unwrap_or_else(|| panic!("no {name}: {metrics:#?}"))
    };
    let calls = of("tmws.call_duration");
    let Some(metric::Data::Histogram(histogram)) = &calls.data else { panic!("{calls:?}") };
    let point =
        histogram.data_points.iter().find(|point| text(&point.attributes, "method") == "tools/call").unwrap();
    assert_eq!(
        (calls.unit.as_str(), point.count, point.bucket_counts.len(), point.explicit_bounds.len()),
        ("s", 5, 18, 17)
    );
    assert_eq!(point.bucket_counts.iter().sum::<u64>(), 5);
    let errors = of("tmws.call_errors");
    let Some(metric::Data::Sum(sum)) = &errors.data else { panic!("{errors:?}") };
    assert!(sum.is_monotonic);
    assert_eq!(sum.data_points[0].value, Some(number_data_point::Value::AsDouble(1.0)));
    assert!(matches!(of("process.resident_memory").data, Some(metric::Data::Gauge(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_collector_a_server_does_its_work_and_counts_what_nobody_took() {
    // Nobody listens there any more.
    let url = format!("http://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let served = Served::launch(false, &[&format!("telemetry.otlp={url}"), "limits.calls_per_second=0"]);
    let mut http = Http::connect(served.address).await;
    for number in 0..20 {
        let answer = call(&mut http, echo(number), json!({}), None).await;
        assert!(answer["result"]["isError"] != true && answer["result"].is_object(), "{answer:#}");
    }
    let begun = Instant::now();
    loop {
        let text = http.send("GET", "/metrics", &[], "").await.text().await;
        // A span for each call, and one for its step.
        if text.contains("tmws_otlp_spans_total{outcome=\"failed\"} 40.0\n") {
            assert!(text.contains("tmws_otlp_spans_total{outcome=\"exported\"} 0.0\n"), "{text}");
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{text}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(http);
    served.end();
}
