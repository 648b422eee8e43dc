//! Takes what is to be told to the collector, and tells it: one task, a bounded queue, nobody waits.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use reqwest::{Client, header::CONTENT_TYPE};
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval_at, timeout},
};
use tracing::warn;

use super::{
    encode::{Exporting, Span},
    settings::{CollectorUrl, OtlpSettings, SERVICE},
};
use crate::{
    engine::llm::https_client,
    hex::hex,
    metrics::{Metrics, Sample, Sampled},
    trace::TraceContext,
};

/// Spans that wait; more are dropped and counted.
const WAITING_MAX: usize = 2_048;
/// Spans told at once.
const BATCH_MAX: usize = 512;
/// Spans are told after so long at the latest.
const BATCH_WAIT: Duration = Duration::from_secs(1);
/// The figures are told so often.
const METRICS_EVERY: Duration = Duration::from_mins(1);
/// The collector must have answered within so long.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// A collector that does not answer is warned of so often at most.
const WARN_EVERY: Duration = Duration::from_mins(1);

/// What became of spans.
#[derive(Default)]
struct Figures {
    exported: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
}

enum Order {
    Tell(Box<Span>),
    /// Tells what is left, and ends.
    Close(oneshot::Sender<()>),
}

/// The way to one collector.
pub struct Exporter {
    orders: mpsc::Sender<Order>,
    figures: Arc<Figures>,
}

impl Exporter {
    /// Longest that [`Exporter::close`] takes.
    pub const CLOSE_MAX: Duration = Duration::from_secs(1);

    /// A way to the collector of `settings`, where it names one. It works on `runtime`; connected is with the first span.
    /// With `metrics` these are told, too, and what becomes of spans is counted there.
    #[must_use]
    pub fn start(
        settings: &OtlpSettings,
        metrics: Option<&Arc<Metrics>>,
        runtime: &Handle,
    ) -> Option<Arc<Self>> {
        let url = settings.url.clone()?;
        let (orders, taken) = mpsc::channel(WAITING_MAX);
        let figures = Arc::<Figures>::default();
        if let Some(metrics) = metrics {
            watch(&figures, metrics);
        }
        let task = Task {
            url,
            settings: settings.clone(),
            exporting: Exporting {
                service: settings.service.clone().unwrap_or_else(|| SERVICE.to_owned()),
                // Random, as ids of spans are.
                instance: hex(&TraceContext::root().trace_id),
                begun: Timestamp::now(),
            },
            metrics: metrics.map(Arc::downgrade),
            figures: Arc::clone(&figures),
            client: None,
            warned: None,
        };
        runtime.spawn(task.run(taken));
        Some(Arc::new(Self { orders, figures }))
    }

    /// To be told; dropped where too many wait.
    pub(super) fn tell(&self, span: Span) {
        if self.orders.try_send(Order::Tell(Box::new(span))).is_err() {
            self.figures.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Tells what is left, within [`Exporter::CLOSE_MAX`].
    pub async fn close(&self) {
        let (done, is_done) = oneshot::channel();
        let closing = async {
            if self.orders.send(Order::Close(done)).await.is_ok() {
                let _ = is_done.await;
            }
        };
        let _ = timeout(Self::CLOSE_MAX, closing).await;
    }
}

fn watch(figures: &Arc<Figures>, metrics: &Metrics) {
    let figures = Arc::clone(figures);
    metrics.sample(
        "otlp_spans",
        "Spans for the collector: exported, dropped because too many waited, or failed because it did not take them",
        Sampled::Counter,
        move || {
            let of = |name, count: &AtomicU64| {
                Sample::labelled("outcome", name, count.load(Ordering::Relaxed) as f64)
            };
            vec![
                of("exported", &figures.exported),
                of("dropped", &figures.dropped),
                of("failed", &figures.failed),
            ]
        },
    );
}

struct Task {
    url: CollectorUrl,
    settings: OtlpSettings,
    exporting: Exporting,
    metrics: Option<Weak<Metrics>>,
    figures: Arc<Figures>,
    client: Option<Client>,
    /// When the collector was warned of last.
    warned: Option<Instant>,
}

impl Task {
    async fn run(mut self, mut taken: mpsc::Receiver<Order>) {
        let mut metrics = interval_at(Instant::now() + METRICS_EVERY, METRICS_EVERY);
        metrics.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let order = tokio::select! {
                order = taken.recv() => order,
                _ = metrics.tick() => {
                    self.tell_metrics().await;
                    continue;
                }
            };
            let (spans, closing) = match order {
                None => return,
                Some(Order::Close(done)) => (Vec::new(), Some(done)),
                Some(Order::Tell(span)) => gather(*span, &mut taken).await,
            };
            if !spans.is_empty() {
                self.tell_spans(spans).await;
            }
            if let Some(done) = closing {
                // Nobody comes after it but those who were at it when it came.
                taken.close();
                let mut left = Vec::new();
                while let Some(Order::Tell(span)) = taken.recv().await {
                    left.push(*span);
                }
                if !left.is_empty() {
                    self.tell_spans(left).await;
                }
                self.tell_metrics().await;
                let _ = done.send(());
                return;
            }
        }
    }

    async fn tell_spans(&mut self, spans: Vec<Span>) {
        let count = spans.len() as u64;
        let body = self.exporting.traces(spans);
        let told = self.post("traces", body).await;
        let counter = if told { &self.figures.exported } else { &self.figures.failed };
        counter.fetch_add(count, Ordering::Relaxed);
    }

    async fn tell_metrics(&mut self) {
        let Some(metrics) = self.metrics.as_ref().and_then(Weak::upgrade) else { return };
        let body = self.exporting.metrics(&metrics.families(), Timestamp::now());
        self.post("metrics", body).await;
    }

    /// Whether the collector took it.
    async fn post(&mut self, signal: &str, body: Vec<u8>) -> bool {
        let reason = match timeout(ANSWER_MAX, self.try_post(signal, body)).await {
            Ok(Ok(())) => return true,
            Ok(Err(reason)) => reason,
            Err(_) => format!("it does not answer within {ANSWER_MAX:?}"),
        };
        if self.warned.is_none_or(|last| last.elapsed() >= WARN_EVERY) {
            self.warned = Some(Instant::now());
            warn!(collector = %self.url, reason, "a collector of telemetry takes nothing; calls go on without it");
        }
        false
    }

    async fn try_post(&mut self, signal: &str, body: Vec<u8>) -> Result<(), String> {
        let client = match &self.client {
            Some(client) => client,
            None => self.client.insert(https_client().await?),
        };
        let mut request = client.post(self.url.of(signal)).body(body);
        for (name, value) in self.settings.headers.iter() {
            request = request.header(name, value);
        }
        let request = request.header(CONTENT_TYPE, "application/x-protobuf");
        // The text of an error may quote what was sent.
        let answer = request.send().await.map_err(|error| {
            if error.is_connect() { "it cannot be reached" } else { "the connection to it broke" }.to_owned()
        })?;
        let status = answer.status();
        // Read to its end, so that the connection is used again.
        let _ = answer.bytes().await;
        if status.is_success() { Ok(()) } else { Err(format!("it answers with status {}", status.as_u16())) }
    }
}

/// What comes soon after a first span.
async fn gather(first: Span, taken: &mut mpsc::Receiver<Order>) -> (Vec<Span>, Option<oneshot::Sender<()>>) {
    let mut spans = vec![first];
    let until = Instant::now() + BATCH_WAIT;
    while spans.len() < BATCH_MAX {
        match tokio::time::timeout_at(until, taken.recv()).await {
            Ok(Some(Order::Tell(span))) => spans.push(*span),
            Ok(Some(Order::Close(done))) => return (spans, Some(done)),
            Ok(None) | Err(_) => break,
        }
    }
    (spans, None)
}
