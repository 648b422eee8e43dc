//! The service in front of the service that tells a collector of every call.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use tokio::sync::broadcast;

use super::{
    Exporter,
    encode::{Kind, Span, Told},
};
use crate::{
    admission::failure_of,
    engine::StepReceipt,
    metrics::Transport,
    pattern::Pattern,
    protocol::{Call, Notice, Profile, Reply},
    revision::Revision,
    scope::Rights,
    tool::{Change, Context, MirroredArgument, Notices, Origin, ReplyFuture, Service, ToolName},
    trace::TraceContext,
    wire::Method,
};

/// Spans of steps that one call may have; a loop can have many more.
const STEPS_MAX: usize = 128;
/// What ended without an answer: it panicked, was cancelled, or its client has gone.
const UNANSWERED: &str = "cancelled";

/// A service whose calls are spans.
pub struct Traced {
    inner: Arc<dyn Service>,
    exporter: Arc<Exporter>,
}

impl Traced {
    /// Puts spans around the calls of `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn Service>, exporter: Arc<Exporter>) -> Arc<Self> {
        Arc::new(Self { inner, exporter })
    }
}

impl Service for Traced {
    fn profile(&self) -> Arc<Profile> {
        self.inner.profile()
    }

    fn call(self: Arc<Self>, call: Call, mut context: Context) -> ReplyFuture {
        let parent = context.notices.trace();
        if parent.as_ref().is_some_and(|parent| !parent.is_sampled()) {
            // Whoever began the trace does not record it.
            return Arc::clone(&self.inner).call(call, context);
        }
        let span = parent.as_ref().map_or_else(TraceContext::root, TraceContext::child);
        tracing::Span::current().record("trace", span.trace());
        let notices = Arc::new(Spanned {
            inner: Arc::clone(&context.notices),
            exporter: Arc::clone(&self.exporter),
            span: span.clone(),
            steps: AtomicUsize::new(0),
        });
        context.notices = Arc::clone(&notices) as Arc<dyn Notices>;
        let mut recording = Recording {
            exporter: Arc::clone(&self.exporter),
            notices,
            span: Some((span, parent)),
            begun: Timestamp::now(),
            method: call.method(),
            revision: call.client.revision,
            tool: tool_of(&call),
            origin: context.origin,
        };
        let inner = Arc::clone(&self.inner).call(call, context);
        Box::pin(async move {
            let reply = inner.await;
            recording.end(Some(&reply));
            reply
        })
    }

    fn events(&self) -> broadcast::Receiver<Change> {
        self.inner.events()
    }

    fn needs(&self, method: Method, params: &Map<String, Value>) -> Rights {
        self.inner.needs(method, params)
    }

    fn reads_only(&self, method: Method, params: &Map<String, Value>) -> bool {
        self.inner.reads_only(method, params)
    }

    fn mirrored(&self, tool: &str) -> Arc<[MirroredArgument]> {
        self.inner.mirrored(tool)
    }
}

/// The tool that is called, where it is one of ours: any other name is the client's word.
fn tool_of(call: &Call) -> Option<&'static str> {
    if call.method() != Method::ToolsCall {
        return None;
    }
    call.params().get("name").and_then(Value::as_str).and_then(ToolName::parse).map(ToolName::as_str)
}

/// Notices of a call that is a span. Its steps are told as they end: those of a task do after its call.
struct Spanned {
    inner: Arc<dyn Notices>,
    exporter: Arc<Exporter>,
    span: TraceContext,
    /// How many have ended.
    steps: AtomicUsize,
}

impl Notices for Spanned {
    fn notify(&self, notice: Notice) {
        self.inner.notify(notice);
    }

    fn release_connection(&self) {
        self.inner.release_connection();
    }

    fn choose_pattern(&self, pattern: &Arc<Pattern>) {
        self.inner.choose_pattern(pattern);
    }

    fn end_step(&self, step: &StepReceipt, trace: Option<&TraceContext>) {
        self.inner.end_step(step, trace);
        let Some(trace) = trace else { return };
        if self.steps.fetch_add(1, Ordering::Relaxed) >= STEPS_MAX {
            return;
        }
        let ended = Timestamp::now();
        let has_failed = !matches!(step.outcome.as_str(), "ok" | "skipped");
        self.exporter.tell(Span {
            context: trace.clone(),
            parent: Some(self.span.clone()),
            is_parent_remote: false,
            name: format!("step {}", step.id),
            kind: Kind::Internal,
            begun: before(ended, step.elapsed),
            ended,
            attributes: vec![
                ("tmws.step.id", Told::from(step.id.as_str())),
                ("tmws.step.outcome", Told::from(step.outcome.as_str())),
                ("tmws.step.bytes", Told::Count(step.bytes)),
            ],
            failure: has_failed.then(|| step.outcome.clone()),
        });
    }

    fn trace(&self) -> Option<TraceContext> {
        Some(self.span.clone())
    }

    fn chosen_pattern(&self) -> Option<Arc<Pattern>> {
        self.inner.chosen_pattern()
    }
}

fn before(at: Timestamp, elapsed: Duration) -> Timestamp {
    SignedDuration::try_from(elapsed).ok().and_then(|elapsed| at.checked_sub(elapsed).ok()).unwrap_or(at)
}

/// A call on its way. Dropped, it ended without an answer.
struct Recording {
    exporter: Arc<Exporter>,
    notices: Arc<Spanned>,
    /// Its span and the parent of that, until told.
    span: Option<(TraceContext, Option<TraceContext>)>,
    begun: Timestamp,
    method: Method,
    revision: Revision,
    tool: Option<&'static str>,
    origin: Origin,
}

impl Recording {
    fn end(&mut self, reply: Option<&Reply>) {
        let Some((context, parent)) = self.span.take() else { return };
        let (method, tool) = (self.method.as_str(), self.tool);
        let failure = match reply {
            None => Some(UNANSWERED),
            Some(reply) => failure_of(self.revision, reply).map(|failure| failure.code),
        };
        // Names as OpenTelemetry's conventions for MCP have them (status: development).
        let mut attributes = vec![
            ("mcp.method.name", Told::from(method)),
            ("mcp.protocol.version", Told::from(self.revision.as_str())),
            ("network.transport", Told::from(if self.origin.peer.is_some() { "tcp" } else { "pipe" })),
            ("tmws.transport", Told::from(self.origin.transport.as_str())),
        ];
        if matches!(self.origin.transport, Transport::Http | Transport::Sse) {
            attributes.push(("network.protocol.name", Told::from("http")));
        }
        if let Some(tool) = tool {
            attributes.push(("gen_ai.operation.name", Told::from("execute_tool")));
            attributes.push(("gen_ai.tool.name", Told::from(tool)));
        }
        if let Some(pattern) = self.notices.chosen_pattern() {
            attributes.push(("tmws.pattern.name", Told::from(pattern.name.as_str())));
            attributes.push(("tmws.pattern.version", Told::Text(pattern.version.to_string())));
            attributes.push(("tmws.pattern.type", Told::from(pattern.kind.as_str())));
        }
        if let Some(cache) = reply.and_then(cache_of) {
            attributes.push(("tmws.cache", Told::from(cache)));
        }
        if let Some(code) = failure {
            attributes.push(("error.type", Told::from(code)));
        }
        self.exporter.tell(Span {
            context,
            is_parent_remote: true,
            parent,
            name: tool.map_or_else(|| method.to_owned(), |tool| format!("{method} {tool}")),
            kind: Kind::Server,
            begun: self.begun,
            ended: Timestamp::now(),
            attributes,
            failure: failure.map(str::to_owned),
        });
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.end(None);
    }
}

/// What the receipt says of the cache.
fn cache_of(reply: &Reply) -> Option<&str> {
    match reply {
        Reply::Result(result) => result.get("_meta")?.get("tmws/receipt")?.get("cache")?.as_str(),
        _ => None,
    }
}
