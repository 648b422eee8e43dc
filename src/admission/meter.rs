//! What is counted of calls.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::{
    engine::ErrorKind,
    metrics::{Durations, Layer, Metrics, RecentError},
    pattern::{Pattern, PatternKind},
    protocol::{CallError, Reply},
    revision::{Era, Revision},
    wire::Method,
};

/// The methods that reach a service.
const SERVED: [Method; 13] = [
    Method::ToolsList,
    Method::ToolsCall,
    Method::PromptsList,
    Method::PromptsGet,
    Method::ResourcesList,
    Method::ResourcesTemplatesList,
    Method::ResourcesRead,
    Method::CompletionComplete,
    Method::TasksGet,
    Method::TasksResult,
    Method::TasksList,
    Method::TasksUpdate,
    Method::TasksCancel,
];
/// Longest text of a failed tool that is looked at for its code; ours are short.
const FAILURE_BYTES_MAX: usize = 16 << 10;
/// The code of a tool's failure that is none of ours.
const OTHER: &str = "other";

/// The handles of figures that each call touches: nothing is looked up or locked on the way.
pub(super) struct Meter {
    metrics: Arc<Metrics>,
    calls: [Durations; SERVED.len()],
    patterns: [Durations; PatternKind::ALL.len()],
}

/// An error by its code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    layer: Layer,
    pub(crate) code: &'static str,
}

impl Meter {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            calls: SERVED.map(|method| metrics.calls_of(method.as_str())),
            patterns: PatternKind::ALL.map(|kind| metrics.patterns_of(kind.as_str())),
            metrics,
        }
    }

    /// A call has come to its answer, with the pattern that it ran. Its failure, if it is one.
    pub(super) fn ended(
        &self,
        method: Method,
        revision: Revision,
        reply: &Reply,
        pattern: Option<&Pattern>,
        elapsed: Duration,
    ) -> Option<Failure> {
        if let Some(index) = SERVED.iter().position(|served| *served == method) {
            self.calls[index].observe(elapsed);
        }
        if let Some(index) =
            PatternKind::ALL.iter().position(|of| Some(*of) == pattern.map(|pattern| pattern.kind))
        {
            self.patterns[index].observe(elapsed);
        }
        let failure = failure_of(revision, reply)?;
        self.failed(failure, method, pattern);
        Some(failure)
    }

    /// A call ended with a failure, perhaps without its service.
    pub(super) fn failed(&self, failure: Failure, method: Method, pattern: Option<&Pattern>) {
        self.metrics.note_error(RecentError {
            at: Timestamp::now(),
            layer: failure.layer,
            code: failure.code,
            method: method.as_str(),
            pattern: pattern.map(|pattern| pattern.name.as_str().into()),
        });
    }

    pub(super) fn rate_limited(&self) {
        self.metrics.rate_limited();
    }
}

/// The failure that a reply tells.
pub(crate) fn failure_of(revision: Revision, reply: &Reply) -> Option<Failure> {
    let protocol = |code| Some(Failure { layer: Layer::Protocol, code });
    match reply {
        Reply::Result(result) if result.get("isError") == Some(&Value::Bool(true)) => {
            Some(Failure { layer: Layer::Tool, code: tool_code(result) })
        }
        Reply::Result(_)
        | Reply::List(_)
        | Reply::InputRequired { .. }
        | Reply::Task(_)
        | Reply::Tasks(_) => None,
        Reply::Error(error) => match (error, revision.era()) {
            (CallError::InvalidParams(_), _)
            | (CallError::ResourceNotFound { .. }, Era::Modern)
            | (CallError::MissingCapability(_), Era::Legacy) => protocol("-32602"),
            (CallError::ResourceNotFound { .. }, Era::Legacy) => protocol("-32002"),
            (CallError::MissingCapability(_) | CallError::TaskSupport(_), Era::Modern) => protocol("-32021"),
            (CallError::Busy { .. }, _) => protocol("429"),
            (CallError::TaskSupport(_), Era::Legacy) => protocol("-32601"),
            (CallError::HeaderMismatch(_), _) => protocol("-32020"),
            (CallError::Lost(_) | CallError::Internal, _) => protocol("-32603"),
        },
    }
}

/// The code in the one text block of a failed tool.
fn tool_code(result: &Map<String, Value>) -> &'static str {
    let text = result.get("content").and_then(|content| content.get(0)).and_then(|block| block.get("text"));
    let body: Option<Value> = text
        .and_then(Value::as_str)
        .filter(|text| text.len() <= FAILURE_BYTES_MAX)
        .and_then(|text| serde_json::from_str(text).ok());
    let code = body.as_ref().and_then(|body| body.get("error")).and_then(Value::as_str);
    code.and_then(|code| ErrorKind::ALL.iter().map(|kind| kind.code()).find(|of| *of == code))
        .unwrap_or(OTHER)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pattern::library::Library;

    fn result(value: Value) -> Reply {
        match value {
            Value::Object(map) => Reply::Result(map),
            other => panic!("no object: {other}"),
        }
    }

    #[test]
    fn every_failure_has_its_code() {
        let busy = CallError::Busy { retry_after: Duration::ZERO, message: String::new() };
        let gone = || CallError::ResourceNotFound { uri: String::new() };
        let tool = |text: &str| result(json!({"isError": true, "content": [{"type": "text", "text": text}]}));
        let (legacy, modern) = (Revision::V2025_06_18, Revision::V2026_07_28);
        let cases = [
            (legacy, Reply::Error(CallError::Internal), Some("-32603")),
            (legacy, Reply::Error(busy), Some("429")),
            (legacy, Reply::Error(gone()), Some("-32002")),
            (modern, Reply::Error(gone()), Some("-32602")),
            (modern, Reply::Error(CallError::MissingCapability(Map::new())), Some("-32021")),
            (legacy, tool(r#"{"error":"denied","message":"no"}"#), Some("denied")),
            (legacy, tool(r#"{"error":"made up by somebody"}"#), Some("other")),
            (legacy, tool("plain words"), Some("other")),
            (legacy, result(json!({"content": []})), None),
        ];
        for (revision, reply, code) in cases {
            assert_eq!(failure_of(revision, &reply).map(|failure| failure.code), code, "{reply:?}");
        }
    }

    #[test]
    fn a_pattern_is_timed_by_its_type_whether_it_succeeds_or_not() {
        let metrics = Arc::new(Metrics::default());
        let meter = Meter::new(Arc::clone(&metrics));
        let patterns = Library::built_in().all();
        let memory = patterns.iter().find(|pattern| pattern.kind == PatternKind::Memory).map(Arc::as_ref);
        for reply in [json!({"content": []}), json!({"content": [], "isError": true})] {
            let (method, revision) = (Method::ToolsCall, Revision::V2025_06_18);
            meter.ended(method, revision, &result(reply.clone()), memory, Duration::from_millis(2));
        }
        let recent = metrics.recent_errors();
        assert_eq!((recent.len(), recent[0].code), (1, OTHER), "only what failed is kept");
        assert_eq!(recent[0].pattern.as_deref(), memory.map(|pattern| pattern.name.as_str()));
        let text = metrics.text();
        assert!(text.contains("tmws_pattern_duration_seconds_count{type=\"memory\"} 2\n"), "{text}");
        assert!(text.contains("tmws_pattern_duration_seconds_count{type=\"hybrid\"} 0\n"), "{text}");
        assert!(
            text.contains("tmws_call_duration_seconds_bucket{le=\"0.0025\",method=\"tools/call\"} 2\n"),
            "{text}"
        );
    }
}
