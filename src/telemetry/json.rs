//! Lines of the log as JSON objects: `time`, `level`, `target`, `message`, `fields`, and `call`, which says within which
//! call it was written.

use std::{fmt, io::Write};

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

/// Longest line: what a pipe takes at once, so that no line is cut in two.
const LINE_BYTES_MAX: usize = 4_096;
/// Longest text of a field, in bytes.
const TEXT_BYTES_MAX: usize = 1_024;

/// Writes them.
pub(super) struct Lines<W>(W);

impl<W, O: Write> Lines<W>
where
    W: Fn() -> O + 'static,
{
    pub(super) const fn new(writer: W) -> Self {
        Self(writer)
    }
}

/// Fields of a span or an event.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        let end = value.floor_char_boundary(TEXT_BYTES_MAX);
        self.put(field, value[..end].into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, json!(value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.record_str(field, &value.to_string());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

impl<S, W, O> Layer<S> for Lines<W>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: Fn() -> O + 'static,
    O: Write,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(fields) = span.extensions_mut().get_mut::<Fields>() {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut line = Map::new();
        let metadata = event.metadata();
        line.insert("time".to_owned(), json!(format!("{:.6}", Timestamp::now())));
        line.insert("level".to_owned(), metadata.level().as_str().into());
        line.insert("target".to_owned(), metadata.target().into());
        let mut fields = Fields::default();
        event.record(&mut fields);
        if let Some(message) = fields.0.shift_remove("message") {
            line.insert("message".to_owned(), message);
        }
        let whole = line.clone();
        if !fields.0.is_empty() {
            line.insert("fields".to_owned(), fields.0.into());
        }
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(Fields(of)) = span.extensions().get::<Fields>() {
                // The innermost of a name is the one that is meant.
                line.entry(span.name()).or_insert_with(|| Value::Object(of.clone()));
            }
        }
        let mut text = Value::Object(line).to_string();
        if text.len() >= LINE_BYTES_MAX {
            let mut cut = whole;
            cut.insert("cut".to_owned(), true.into());
            text = Value::Object(cut).to_string();
        }
        text.push('\n');
        // A log that nobody reads keeps nobody from working.
        let _ = (self.0)().write_all(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{error_span, field::Empty, info, warn};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_an_object_and_says_within_which_call() {
        let kept = Kept::default();
        let writer = kept.clone();
        let subscriber = tracing_subscriber::registry().with(Lines::new(move || writer.clone()));
        tracing::subscriber::with_default(subscriber, || {
            info!(count = 3, is_new = true, share = 0.5, name = "a\"b\n", "began");
            let span = error_span!("call", connection = 7_u64, pattern = Empty);
            span.record("pattern", "repo.digest");
            let _entered = span.enter();
            warn!(error = %"no", "failed");
            warn!(long = "x".repeat(2 * TEXT_BYTES_MAX), "long");
            warn!(
                a = "x".repeat(TEXT_BYTES_MAX),
                b = "x".repeat(TEXT_BYTES_MAX),
                c = "x".repeat(TEXT_BYTES_MAX),
                d = "x".repeat(TEXT_BYTES_MAX),
                "too long"
            );
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(text.lines().all(|line| line.len() < LINE_BYTES_MAX));
        let [began, failed, long, cut] = &lines[..] else { panic!("{text}") };
        assert_eq!((&began["level"], &began["message"]), (&json!("INFO"), &json!("began")));
        assert_eq!(began["fields"], json!({"count": 3, "is_new": true, "share": 0.5, "name": "a\"b\n"}));
        assert!(began.get("call").is_none());
        assert!(began["time"].as_str().unwrap().parse::<Timestamp>().is_ok(), "{began}");
        assert_eq!(failed["call"], json!({"connection": 7, "pattern": "repo.digest"}));
        assert_eq!(failed["fields"], json!({"error": "no"}));
        assert_eq!(long["fields"]["long"].as_str().unwrap().len(), TEXT_BYTES_MAX);
        assert_eq!(
            (&cut["message"], &cut["cut"], cut.get("fields")),
            (&json!("too long"), &json!(true), None)
        );
    }
}
