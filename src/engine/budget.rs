//! Brings an output within its token budget and says what was left out.
//!
//! The text of an answer is one compact JSON object: the members of the output, and beside them its **envelope**:
//!
//! - `etag`: names the output (read-only patterns); hand it back as `unless`;
//! - `partial`: `{<step>: <error code>}` where steps failed and the pattern went on;
//! - `project`: whose memories these are (patterns that touch memory);
//! - `more`: what was left out: `{dropped: [field], cut: {field: "12 of 40"}, handle}`. `handle` opens the whole output
//!   (`get_result`); null where it could not be kept, absent where the pattern keeps none.
//!
//! An output that is no object, or has a member of such a name, stands under `value` instead. Everything is counted.
//!
//! Order: whole; the `shrink` steps as declared, one after the other, until it fits. Where the last of them cuts a
//! field, the field keeps as much as fits: `keep` says down to where a step may cut. Then lists and texts anywhere are
//! cut to the largest common length that fits. Required fields never go. What cannot be brought within the budget even so is the
//! error `budget`, which names the handle.

use std::{borrow::Cow, sync::Arc};

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{
    EngineError, ErrorKind,
    steps::data_clip as clip,
    tokens::{self, Measure, Tokens},
};
use crate::pattern::Shrink;

/// Tokens that a handle may take in the place of `null`: one for each of its 24 characters, its quotes, and what it splits.
const HANDLE_TOKENS_MAX: usize = 28;

/// What stands beside an output.
#[derive(Clone, Debug, Default)]
pub(super) struct Envelope {
    /// Absent for patterns that write.
    pub(super) etag: Option<String>,
    /// Step and error code.
    pub(super) partial: Vec<(String, String)>,
    /// Whose memories.
    pub(super) project: Option<String>,
}

/// An answer within its budget.
#[derive(Debug)]
pub(super) struct Fitted {
    /// As in `text`.
    pub(super) value: Value,
    /// Compact JSON.
    pub(super) text: String,
    /// Tokens of `text`.
    pub(super) tokens: Tokens,
    /// Opens the whole output.
    pub(super) handle: Option<String>,
    /// The output as shrunk, without envelope: what the pattern's schema is held against.
    pub(super) output: Value,
}

/// Keeps a whole output behind a handle; `None` where that is not possible now.
pub(super) trait Keep: Send + Sync {
    /// Keeps it.
    fn keep(&self, output: &Value) -> impl Future<Output = Option<String>> + Send;
}

/// Brings `output` within `budget` tokens. Waits for the vocabulary at most until `deadline`.
///
/// # Errors
/// `budget`.
pub(super) async fn fit(
    output: Value,
    steps: &[Shrink],
    budget: usize,
    envelope: &Envelope,
    keep: Option<&impl Keep>,
    deadline: Instant,
) -> Result<Fitted, EngineError> {
    let text = compose(&output, envelope, None).to_string();
    let measure = Measure::choose(&text, budget, deadline).await;
    if measure.fits(&text, budget) {
        return Ok(Fitted {
            value: compose(&output, envelope, None),
            tokens: tokens::count(&text),
            text,
            handle: None,
            output,
        });
    }
    // Counting a large text over and over takes milliseconds: off the thread that serves others.
    let is_large = text.len() >= 16 << 10;
    let shrinking = Arc::new(Shrinking {
        whole: output,
        steps: steps.to_vec(),
        budget,
        measure,
        envelope: envelope.clone(),
    });
    let shrunk = |rest| {
        let shrinking = Arc::clone(&shrinking);
        async move {
            if !is_large {
                return shrinking.shrink(rest);
            }
            tokio::task::spawn_blocking(move || shrinking.shrink(rest)).await.unwrap_or_else(|error| {
                tracing::error!(%error, "shrinking an output failed");
                Err(Unfit::Panicked)
            })
        }
    };
    let (shrunk, handle) = match keep {
        None => (shrunk(Rest::Dropped).await, None),
        // Shrinking needs no handle, only room for one: meanwhile the whole is written down.
        Some(keep) => match tokio::join!(keep.keep(&shrinking.whole), shrunk(Rest::Kept)) {
            (Some(handle), shrunk) => (shrunk, Some(handle)),
            (None, _) => (shrunk(Rest::Lost).await, None),
        },
    };
    shrunk
        .map(|shrunk| shrunk.with(handle.clone()))
        .map_err(|unfit| shrinking.failed(unfit, handle.as_deref()))
}

/// Where the whole output is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// Nowhere: the pattern keeps none.
    Dropped,
    /// Nowhere, although it should be: the store did not take it.
    Lost,
    /// Behind a handle.
    Kept,
}

/// What fits; the handle stands in it as null.
struct Shrunk {
    value: Value,
    output: Value,
}

impl Shrunk {
    fn with(mut self, handle: Option<String>) -> Fitted {
        if let Some(handle) = &handle {
            self.value["more"]["handle"] = json!(handle);
        }
        let text = self.value.to_string();
        Fitted { tokens: tokens::count(&text), value: self.value, text, handle, output: self.output }
    }
}

/// Why there is no answer.
#[derive(Clone, Copy)]
enum Unfit {
    TooLarge,
    Panicked,
}

struct Shrinking {
    whole: Value,
    steps: Vec<Shrink>,
    budget: usize,
    measure: Measure,
    envelope: Envelope,
}

impl Shrinking {
    fn failed(&self, unfit: Unfit, handle: Option<&str>) -> EngineError {
        let (kind, message) = match unfit {
            Unfit::Panicked => (
                ErrorKind::Internal,
                "the answer could not be shrunk; the server's log has the details".to_owned(),
            ),
            Unfit::TooLarge => {
                let tokens = tokens::count(&self.whole.to_string()).count;
                let rest = match handle {
                    Some(handle) => format!("the whole answer is kept: get_result with handle {handle}"),
                    None => "ask for less, or with mode comprehensive".to_owned(),
                };
                (
                    ErrorKind::Budget,
                    format!(
                        "the answer of {tokens} tokens cannot be brought within its budget of {}; {rest}",
                        self.budget
                    ),
                )
            }
        };
        EngineError { kind, message, part: None, retry_after: None, receipt: None }
    }

    fn shrink(&self, rest: Rest) -> Result<Shrunk, Unfit> {
        let mut output = Cow::Borrowed(&self.whole);
        for step in &self.steps {
            let cut = applied(step, &output);
            if let Some(shrunk) = self.fitted(&cut, rest) {
                return Ok(self.most(step, &output, rest).unwrap_or(shrunk));
            }
            output = Cow::Owned(cut);
        }
        // Longest lists first: a common cap leaves the short ones whole. Then texts, down to nothing.
        let (items, chars) = longest(&output);
        let items_left = 1;
        self.largest(&output, rest, items, |cap| (cap, usize::MAX), 1)
            .or_else(|| self.largest(&output, rest, chars, |cap| (items_left, cap), 16))
            .or_else(|| self.largest(&output, rest, 16, |cap| (0, cap), 0))
            .ok_or(Unfit::TooLarge)
    }

    /// The answer in which the cutting `step`, which makes `before` fit, cuts as little as it must.
    fn most(&self, step: &Shrink, before: &Value, rest: Rest) -> Option<Shrunk> {
        let Shrink::Truncate { field, keep } = step else { return None };
        let most = match before.get(field)? {
            Value::Array(items) => items.len(),
            Value::String(text) => text.chars().count(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => return None,
        };
        largest_at(*keep, most, |keep| {
            self.fitted(&applied(&Shrink::Truncate { field: field.clone(), keep }, before), rest)
        })
    }

    /// The answer with the largest cap from `least` to `most` that fits.
    fn largest(
        &self,
        output: &Value,
        rest: Rest,
        most: usize,
        caps: impl Fn(usize) -> (usize, usize),
        least: usize,
    ) -> Option<Shrunk> {
        largest_at(least, most, |cap| {
            let (items, chars) = caps(cap);
            self.fitted(&capped(output, items, chars), rest)
        })
    }

    fn fitted(&self, output: &Value, rest: Rest) -> Option<Shrunk> {
        let value = compose(output, &self.envelope, Some(self.more(output, rest)));
        // Handles are random, and so are their tokens: counted at their worst, what fits is the same each time.
        let room = if rest == Rest::Kept { HANDLE_TOKENS_MAX } else { 0 };
        let fits = self.measure.fits(&value.to_string(), self.budget.saturating_sub(room));
        fits.then(|| Shrunk { value, output: output.clone() })
    }

    fn more(&self, output: &Value, rest: Rest) -> Value {
        let mut more = Map::new();
        match (&self.whole, output) {
            (Value::Object(whole), Value::Object(left)) => {
                let dropped: Vec<&String> = whole.keys().filter(|name| !left.contains_key(*name)).collect();
                let cut: Map<String, Value> = left
                    .iter()
                    .filter_map(|(name, left)| Some((name.clone(), cut(whole.get(name)?, left)?)))
                    .collect();
                if !dropped.is_empty() {
                    more.insert("dropped".to_owned(), json!(dropped));
                }
                if !cut.is_empty() {
                    more.insert("cut".to_owned(), Value::Object(cut));
                }
            }
            (whole, left) => {
                if let Some(cut) = cut(whole, left) {
                    more.insert("cut".to_owned(), cut);
                }
            }
        }
        if rest != Rest::Dropped {
            more.insert("handle".to_owned(), Value::Null);
        }
        Value::Object(more)
    }
}

/// What `at` gives for the largest number from `least` to `most` for which it gives anything; tried by halves.
fn largest_at(least: usize, most: usize, at: impl Fn(usize) -> Option<Shrunk>) -> Option<Shrunk> {
    let (mut low, mut high) = (least, most.max(least));
    let mut best = at(low)?;
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if let Some(shrunk) = at(middle) {
            (low, best) = (middle, shrunk);
        } else {
            high = middle - 1;
        }
    }
    Some(best)
}

/// How much of `whole` is left; `None` where all is.
fn cut(whole: &Value, left: &Value) -> Option<Value> {
    if whole == left {
        return None;
    }
    Some(Value::String(match (whole, left) {
        (Value::Array(whole), Value::Array(left)) if whole.len() != left.len() => {
            format!("{} of {}", left.len(), whole.len())
        }
        (Value::String(whole), Value::String(left)) => {
            format!("{} of {} chars", left.chars().count(), whole.chars().count())
        }
        _ => "shortened".to_owned(),
    }))
}

/// `output` after `step`; what goes is not copied.
fn applied(step: &Shrink, output: &Value) -> Value {
    let Value::Object(members) = output else { return output.clone() };
    let (field, keep) = match step {
        Shrink::Drop { field } => (field, None),
        Shrink::Truncate { field, keep } => (field, Some(*keep)),
    };
    let left = members.iter().filter_map(|(name, member)| {
        let member = match (keep, member) {
            _ if name != field => member.clone(),
            (None, _) => return None,
            (Some(keep), Value::Array(items)) => Value::Array(items[..keep.min(items.len())].to_vec()),
            (Some(keep), Value::String(text)) => Value::String(clip(text, keep)),
            (Some(_), member) => member.clone(),
        };
        Some((name.clone(), member))
    });
    Value::Object(left.collect())
}

/// Lists cut to `items`, texts to `chars`, everywhere.
fn capped(value: &Value, items: usize, chars: usize) -> Value {
    match value {
        Value::Array(all) => all.iter().take(items).map(|item| capped(item, items, chars)).collect(),
        Value::Object(members) => Value::Object(
            members.iter().map(|(name, member)| (name.clone(), capped(member, items, chars))).collect(),
        ),
        Value::String(text) => Value::String(clip(text, chars)),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// Length of the longest list and of the longest text.
fn longest(value: &Value) -> (usize, usize) {
    let inner = |values: &mut dyn Iterator<Item = &Value>| {
        values.map(longest).fold((0, 0), |(a, b), (c, d)| (a.max(c), b.max(d)))
    };
    match value {
        Value::Array(items) => {
            let (most, chars) = inner(&mut items.iter());
            (most.max(items.len()), chars)
        }
        Value::Object(members) => inner(&mut members.values()),
        Value::String(text) => (0, text.chars().count()),
        Value::Null | Value::Bool(_) | Value::Number(_) => (0, 0),
    }
}

fn compose(output: &Value, envelope: &Envelope, more: Option<Value>) -> Value {
    const NAMES: [&str; 4] = ["etag", "partial", "project", "more"];
    let mut members = match output {
        Value::Object(members) if !NAMES.iter().any(|name| members.contains_key(*name)) => members.clone(),
        other => Map::from_iter([("value".to_owned(), other.clone())]),
    };
    if !envelope.partial.is_empty() {
        let partial: Map<String, Value> =
            envelope.partial.iter().map(|(step, code)| (step.clone(), json!(code))).collect();
        members.insert("partial".to_owned(), Value::Object(partial));
    }
    if let Some(project) = &envelope.project {
        members.insert("project".to_owned(), json!(project));
    }
    if let Some(more) = more {
        members.insert("more".to_owned(), more);
    }
    if let Some(etag) = &envelope.etag {
        members.insert("etag".to_owned(), json!(etag));
    }
    Value::Object(members)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Handle(Option<&'static str>);

    impl Keep for Handle {
        async fn keep(&self, _: &Value) -> Option<String> {
            self.0.map(str::to_owned)
        }
    }

    async fn fitted(
        output: Value,
        shrink: &[Shrink],
        budget: usize,
        keep: Option<&Handle>,
    ) -> Result<Fitted, EngineError> {
        let deadline = Instant::now() + Duration::from_mins(2);
        tokens::count_exactly("", deadline).await;
        let envelope = Envelope { etag: Some("abcd1234".to_owned()), ..Envelope::default() };
        fit(output, shrink, budget, &envelope, keep, deadline).await
    }

    fn log(n: usize) -> Value {
        json!({
            "branch": "main",
            "log": (0..n).map(|i| format!("commit {i} changes a file")).collect::<Vec<_>>(),
            "decisions": ["use jq for expressions", "keep the store embedded"],
        })
    }

    fn drop(field: &str) -> Shrink {
        Shrink::Drop { field: field.to_owned() }
    }

    fn truncate(field: &str, keep: usize) -> Shrink {
        Shrink::Truncate { field: field.to_owned(), keep }
    }

    #[tokio::test]
    async fn what_fits_is_left_alone() {
        let fitted = fitted(log(2), &[drop("log")], 200, None).await.unwrap();
        assert_eq!(fitted.value["log"].as_array().unwrap().len(), 2);
        assert_eq!(fitted.value.get("more"), None);
        assert_eq!(fitted.text, fitted.value.to_string());
        assert!(fitted.tokens.count <= 200 && !fitted.tokens.estimated);
    }

    #[tokio::test]
    async fn declared_steps_apply_in_order_and_only_as_far_as_needed() {
        let steps = [drop("decisions"), truncate("branch", 2), truncate("log", 3), truncate("log", 1)];
        let fitted = fitted(log(40), &steps, 120, Some(&Handle(Some("r_x")))).await.unwrap();
        let left = fitted.value["log"].as_array().unwrap().len();
        assert_eq!(
            fitted.value["more"],
            json!({
                "dropped": ["decisions"], "cut": {"branch": "2 of 4 chars", "log": format!("{left} of 40")},
                "handle": "r_x",
            })
        );
        assert!(fitted.tokens.count <= 120, "{:?}", fitted.tokens);
    }

    #[tokio::test]
    async fn a_cut_keeps_as_much_as_fits_and_more_of_it_in_a_larger_budget() {
        let mut before = 3;
        for budget in [120, 240, 400] {
            let fitted = fitted(log(100), &[truncate("log", 3)], budget, None).await.unwrap();
            let left = fitted.value["log"].as_array().unwrap().len();
            assert!(left > before, "{budget}: {left}");
            assert!(
                fitted.tokens.count <= budget && fitted.tokens.count + 20 > budget,
                "{:?}",
                fitted.tokens
            );
            before = left;
        }
    }

    #[tokio::test]
    async fn what_is_still_too_long_is_cut_to_the_largest_length_that_fits() {
        for budget in [60, 90, 150, 300] {
            let fitted = fitted(log(100), &[], budget, Some(&Handle(None))).await.unwrap();
            assert!(fitted.tokens.count <= budget, "{budget}: {:?}", fitted.tokens);
            assert!(fitted.tokens.count + 20 > budget, "{budget} is used: {:?}", fitted.tokens);
            assert_eq!(fitted.value["more"]["handle"], Value::Null, "not kept, and said so");
        }
    }

    #[tokio::test]
    async fn a_long_text_is_cut_too_and_without_handles_none_is_named() {
        let fitted = fitted(json!({"text": "word ".repeat(5_000)}), &[], 100, None).await.unwrap();
        assert!(fitted.tokens.count <= 100 && fitted.tokens.count > 80, "{:?}", fitted.tokens);
        let more = fitted.value["more"].as_object().unwrap();
        assert!(more["cut"]["text"].as_str().unwrap().ends_with(" of 25000 chars"), "{more:?}");
        assert!(!more.contains_key("handle"));
    }

    #[tokio::test]
    async fn what_cannot_fit_is_an_error_that_names_the_handle() {
        let members: Map<String, Value> = (0..200).map(|i| (format!("member_{i}"), json!(i))).collect();
        let error = fitted(Value::Object(members), &[], 50, Some(&Handle(Some("r_x")))).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Budget);
        assert!(error.message.contains("r_x") && error.message.contains("50"), "{}", error.message);
    }

    #[test]
    fn an_output_that_is_no_object_or_clashes_stands_under_value() {
        let envelope =
            Envelope { etag: Some("e".to_owned()), project: Some("p".to_owned()), ..Envelope::default() };
        assert_eq!(compose(&json!([1]), &envelope, None), json!({"value": [1], "project": "p", "etag": "e"}));
        assert_eq!(
            compose(&json!({"etag": 1}), &envelope, None),
            json!({"value": {"etag": 1}, "project": "p", "etag": "e"})
        );
    }
}
