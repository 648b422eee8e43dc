//! `data.*`: pure work on values.
//!
//! | step | output |
//! |---|---|
//! | `data.jq` | what `filter` gives for `input` (where it is left out: the same root that expressions see) |
//! | `data.template` | text: `template` (minijinja: `{{ a.b }}`, `{% if %}`, `{% for %}`, filters) with the members of `values` |
//! | `data.merge` | one object; members of later items win; items that are null are left out |
//! | `data.group` | `[{key, n, items}]`, most items first, then by first appearance; `limit` cuts the `items` of each |
//! | `data.dedupe` | the items without repetitions (equal wholly, or in the member `by`), first ones stay |
//! | `data.rank` | the items ordered by the member `by`, largest first (`order: asc` smallest first), at most `limit` |
//! | `data.truncate` | an array: its first `keep` items, texts in it cut to `chars`; a text: its first `chars` characters |
//! | `data.parse` | what a test runner, a compiler or a log says: [`parse`](super::parse) |
//!
//! `by` is a member's name, or a path such as `author.name`. A missing member counts as null, which sorts lowest.
//! Templates are bounded in work, bytes and time, and load nothing: see [`crate::pattern::jinja`].

use std::{
    cmp::Ordering,
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use serde_json::{Map, Value, json};

use super::{StepContext, StepError, StepOutput, arguments::Arguments};
use crate::{
    engine::{
        ErrorKind,
        etag::canonical,
        run::{INLINE, INLINE_BYTES_MAX},
    },
    pattern::{Expression, ExpressionError, jinja},
};

/// Filters kept compiled. They come from pattern files, so there are few.
const FILTERS_MAX: usize = 512;
const COUNT_MAX: usize = 1_000_000;

/// Runs the step `uses`.
pub(super) async fn run(
    uses: &str,
    ctx: &StepContext,
    with: &Map<String, Value>,
) -> Result<StepOutput, StepError> {
    let args = Arguments::new(uses, with);
    let value = match uses {
        "data.jq" => jq(ctx, args).await?,
        "data.template" => template(ctx, args).await?,
        "data.merge" => merge(args)?,
        "data.group" => group(args)?,
        "data.dedupe" => dedupe(args)?,
        "data.rank" => rank(args)?,
        "data.truncate" => truncate(args)?,
        "data.parse" => super::parse::run(args).await?,
        _ => return Err(super::unknown_step(uses)),
    };
    Ok(StepOutput::of(value))
}

/// Evaluates on the caller's thread where that is quick, else on one of its own.
async fn jq(ctx: &StepContext, args: Arguments<'_>) -> Result<Value, StepError> {
    let filter = compiled(args.text("filter")?)?;
    let input = args.value("input").unwrap_or(&Value::Null);
    if super::json_bytes(input) <= INLINE_BYTES_MAX {
        match filter.evaluate(input, (Instant::now() + INLINE).min(ctx.deadline), ctx.bytes_max) {
            Err(ExpressionError::Deadline) => {}
            evaluated => return Ok(evaluated?),
        }
    }
    let (input, deadline, bytes_max) = (input.clone(), ctx.deadline, ctx.bytes_max);
    super::fs::blocking(move || Ok(filter.evaluate(&input, deadline, bytes_max)?)).await
}

fn compiled(source: &str) -> Result<Arc<Expression>, StepError> {
    static FILTERS: Mutex<Option<HashMap<String, Arc<Expression>>>> = Mutex::new(None);
    let lock = || FILTERS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(filter) = lock().as_ref().and_then(|filters| filters.get(source)) {
        return Ok(Arc::clone(filter));
    }
    let filter = Arc::new(Expression::compile(source)?);
    let mut filters = lock();
    let filters = filters.get_or_insert_default();
    if filters.len() >= FILTERS_MAX {
        filters.clear();
    }
    filters.insert(source.to_owned(), Arc::clone(&filter));
    Ok(filter)
}

impl From<ExpressionError> for StepError {
    fn from(error: ExpressionError) -> Self {
        let kind = match &error {
            ExpressionError::Refused(_) | ExpressionError::Failed(_) => ErrorKind::PatternFault,
            ExpressionError::Deadline => ErrorKind::Deadline,
            ExpressionError::TooLarge(_) => ErrorKind::LimitExceeded,
        };
        Self::new(kind, error.to_string())
    }
}

/// Renders on the caller's thread what is small, anything else on one of its own.
async fn template(ctx: &StepContext, args: Arguments<'_>) -> Result<Value, StepError> {
    /// Template and values of so many bytes are quick, whatever they do.
    const SMALL: usize = 4 << 10;
    let template = args.text("template")?;
    let values = args.value("values").unwrap_or(&Value::Null);
    let (deadline, bytes_max) = (ctx.deadline, ctx.bytes_max);
    let loops = template.contains("{%") || template.contains('|');
    if !loops && template.len() + super::json_bytes(values) <= SMALL {
        return Ok(Value::String(jinja::render(template, values, deadline, bytes_max)?));
    }
    let (template, values) = (template.to_owned(), values.clone());
    super::fs::blocking(move || Ok(Value::String(jinja::render(&template, &values, deadline, bytes_max)?)))
        .await
}

fn merge(args: Arguments<'_>) -> Result<Value, StepError> {
    let mut merged = Map::new();
    for item in args.list("items")? {
        match item {
            Value::Object(members) => {
                merged.extend(members.iter().map(|(name, value)| (name.clone(), value.clone())));
            }
            Value::Null => {}
            _ => return Err(args.wrong("items", "a list of objects")),
        }
    }
    Ok(Value::Object(merged))
}

fn group(args: Arguments<'_>) -> Result<Value, StepError> {
    let by = args.text("by")?;
    let limit = args.count_or_none("limit", 0, COUNT_MAX)?.unwrap_or(usize::MAX);
    let mut groups: Vec<(&Value, Vec<&Value>)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for item in args.list("items")? {
        let key = member(item, by).unwrap_or(&Value::Null);
        let place = *places.entry(canonical(key)).or_insert_with(|| {
            groups.push((key, Vec::new()));
            groups.len() - 1
        });
        groups[place].1.push(item);
    }
    groups.sort_by_key(|(_, items)| std::cmp::Reverse(items.len()));
    Ok(groups
        .into_iter()
        .map(|(key, mut items)| {
            let n = items.len();
            items.truncate(limit);
            json!({"key": key, "n": n, "items": items})
        })
        .collect())
}

fn dedupe(args: Arguments<'_>) -> Result<Value, StepError> {
    let by = args.text_or_none("by")?;
    let mut seen = std::collections::HashSet::new();
    Ok(args
        .list("items")?
        .iter()
        .filter(|item| {
            let key = by.map_or(Some(*item), |by| member(item, by)).unwrap_or(&Value::Null);
            seen.insert(canonical(key))
        })
        .cloned()
        .collect())
}

fn rank(args: Arguments<'_>) -> Result<Value, StepError> {
    let by = args.text("by")?;
    let limit = args.count_or_none("limit", 0, COUNT_MAX)?.unwrap_or(usize::MAX);
    let descending = match args.text_or_none("order")? {
        None | Some("desc") => true,
        Some("asc") => false,
        Some(_) => return Err(args.wrong("order", "asc or desc")),
    };
    let mut items: Vec<(&Value, &Value)> =
        args.list("items")?.iter().map(|item| (member(item, by).unwrap_or(&Value::Null), item)).collect();
    items.sort_by(|(a, _), (b, _)| {
        let order = compare(a, b);
        if descending { order.reverse() } else { order }
    });
    Ok(items.into_iter().take(limit).map(|(_, item)| item.clone()).collect())
}

/// As jq orders values: null, booleans, numbers, texts, then all else, which stays as it was.
fn compare(a: &Value, b: &Value) -> Ordering {
    let kind = |value: &Value| match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) | Value::Object(_) => 4,
    };
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Number(a), Value::Number(b)) => {
            a.as_f64().unwrap_or(0.0).total_cmp(&b.as_f64().unwrap_or(0.0))
        }
        (Value::String(a), Value::String(b)) => a.cmp(b),
        _ => kind(a).cmp(&kind(b)),
    }
}

fn truncate(args: Arguments<'_>) -> Result<Value, StepError> {
    let keep = args.count_or_none("keep", 0, COUNT_MAX)?;
    let chars = args.count_or_none("chars", 0, COUNT_MAX)?;
    let cut = |text: &str| chars.map_or_else(|| text.to_owned(), |chars| clip(text, chars));
    match args.required("items")? {
        Value::String(text) => Ok(Value::String(cut(text))),
        Value::Array(items) => Ok(items
            .iter()
            .take(keep.unwrap_or(usize::MAX))
            .map(|item| item.as_str().map_or_else(|| item.clone(), |text| Value::String(cut(text))))
            .collect()),
        _ => Err(args.wrong("items", "a list or a text")),
    }
}

/// The first `chars` characters; the last of them is `…` where something was cut.
pub(in crate::engine) fn clip(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        None => text.to_owned(),
        Some(_) if chars == 0 => String::new(),
        Some(_) => text.chars().take(chars - 1).chain(['…']).collect(),
    }
}

/// The member at `path` (`name`, `a.b`) of `value`.
fn member<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, name| value.get(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(run: fn(Arguments<'_>) -> Result<Value, StepError>, with: Value) -> Result<Value, String> {
        let Value::Object(with) = with else { unreachable!("an object") };
        run(Arguments::new("data.x", &with)).map_err(|error| error.message)
    }

    #[test]
    fn pure_steps_do_what_their_row_says() {
        let commits = json!([
            {"a": {"n": "ann"}, "add": 3}, {"a": {"n": "bob"}, "add": 10}, {"a": {"n": "ann"}, "add": 1}, {"add": 2},
        ]);
        #[expect(clippy::type_complexity, reason = "a table")]
        let cases: Vec<(fn(Arguments<'_>) -> Result<Value, StepError>, Value, Value)> = vec![
            (merge, json!({"items": [{"a": 1, "b": 2}, null, {"b": 3}]}), json!({"a": 1, "b": 3})),
            (
                group,
                json!({"items": commits, "by": "a.n", "limit": 1}),
                json!([
                    {"key": "ann", "n": 2, "items": [{"a": {"n": "ann"}, "add": 3}]},
                    {"key": "bob", "n": 1, "items": [{"a": {"n": "bob"}, "add": 10}]},
                    {"key": null, "n": 1, "items": [{"add": 2}]},
                ]),
            ),
            (
                dedupe,
                json!({"items": [{"x": 1, "y": 2}, {"y": 2, "x": 1}, 3, 3.0, 3]}),
                json!([{"x": 1, "y": 2}, 3, 3.0]),
            ),
            (dedupe, json!({"items": [{"x": 1, "y": 2}, {"x": 1}], "by": "x"}), json!([{"x": 1, "y": 2}])),
            (
                rank,
                json!({"items": [{"s": 1}, {"s": 10}, {}, {"s": "a"}], "by": "s", "limit": 3}),
                json!([{"s": "a"}, {"s": 10}, {"s": 1}]),
            ),
            (
                rank,
                json!({"items": [{"s": 2}, {"s": 1}, {"s": 2, "second": true}], "by": "s", "order": "asc"}),
                json!([{"s": 1}, {"s": 2}, {"s": 2, "second": true}]),
            ),
            (truncate, json!({"items": ["abcdef", 1, 2], "keep": 2, "chars": 3}), json!(["ab…", 1])),
            (truncate, json!({"items": "héllo", "chars": 5}), json!("héllo")),
            (truncate, json!({"items": "héllo", "chars": 2}), json!("h…")),
        ];
        for (run, with, expected) in cases {
            assert_eq!(step(run, with.clone()), Ok(expected), "{with}");
        }
    }

    #[test]
    fn wrong_arguments_are_named() {
        assert_eq!(
            step(merge, json!({"items": [1]})).unwrap_err(),
            "`items` of data.x must be a list of objects"
        );
        assert_eq!(
            step(rank, json!({"items": []})).unwrap_err(),
            "`by` of data.x must be a text that is not blank"
        );
        assert_eq!(
            step(rank, json!({"items": [], "by": "a", "order": "up"})).unwrap_err(),
            "`order` of data.x must be asc or desc"
        );
        assert_eq!(
            step(truncate, json!({"items": [], "keep": -1})).unwrap_err(),
            "`keep` of data.x must be a whole number from 0 to 1000000"
        );
    }
}
