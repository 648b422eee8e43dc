//! Pages of a result that was kept behind a handle.
//!
//! `select` (JSONPath, RFC 9535) comes first, then `offset` and `limit`: over the items of an array, else over the
//! characters of a text (a text itself, or the JSON of anything else). The answer has a budget of its own:
//!
//! - `{value, total, next?}` for an array: as many items as fit; `next` is the offset to go on with;
//! - `{value}` for anything else that fits whole;
//! - `{text, total, next?}` for the rest: characters.

use serde_json::{Map, Value, json};
use serde_json_path::JsonPath;
use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout_at},
};

use super::{EngineError, ErrorKind, steps::json_bytes, tokens::Measure};

/// Which part of a result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResultQuery {
    /// `r_…`
    pub handle: String,
    /// A JSONPath; the whole result where absent.
    pub select: Option<String>,
    /// Items or characters to skip.
    pub offset: usize,
    /// Items or characters at most.
    pub limit: Option<usize>,
}

/// The page of `whole` that `query` asks for, within `budget` tokens.
///
/// # Errors
/// `invalid_input` for a path that is none or may take without end; `limit_exceeded` for one that names too much;
/// `budget` for one item that is too large alone; `deadline`.
pub(super) async fn page(
    whole: Value,
    query: &ResultQuery,
    budget: usize,
    deadline: Instant,
) -> Result<Value, EngineError> {
    let selected = match query.select.clone() {
        // Looking at all of a large result takes a while: elsewhere than where calls are answered.
        Some(path) => timeout_at(deadline, spawn_blocking(move || select(&whole, &path)))
            .await
            .map_err(|_| {
                refused(ErrorKind::Deadline, "`select` took too long: name less".to_owned(), "select")
            })?
            .unwrap_or_else(|_| {
                Err(refused(ErrorKind::Internal, "`select` ended unexpectedly".to_owned(), "select"))
            })?,
        None => whole,
    };
    // Pages are long: the vocabulary is needed unless the page is tiny.
    let measure = Measure::choose(&selected.to_string(), budget, deadline).await;
    let fits = |page: &Value| measure.fits(&page.to_string(), budget);
    match &selected {
        Value::Array(items) => {
            let rest = items.get(query.offset..).unwrap_or_default();
            let most = rest.len().min(query.limit.unwrap_or(usize::MAX));
            let page = |n: usize| shown("value", json!(rest[..n]), items.len(), query.offset, n);
            largest(most, |n| fits(&page(n))).filter(|n| *n > 0 || most == 0).map(page).ok_or_else(|| {
                refused(
                    ErrorKind::Budget,
                    format!(
                        "item {0} alone has more than {budget} tokens: name it in `select`, as in $[{0}], and page through its text",
                        query.offset
                    ),
                    "select",
                )
            })
        }
        other => {
            let whole = json!({"value": other});
            if query.offset == 0 && query.limit.is_none() && fits(&whole) {
                return Ok(whole);
            }
            let text = other.as_str().map_or_else(|| other.to_string(), str::to_owned);
            let chars: Vec<char> = text.chars().collect();
            let rest = chars.get(query.offset..).unwrap_or_default();
            let most = rest.len().min(query.limit.unwrap_or(usize::MAX));
            let page = |n: usize| {
                shown("text", json!(rest[..n].iter().collect::<String>()), chars.len(), query.offset, n)
            };
            largest(most, |n| fits(&page(n))).map(page).ok_or_else(|| {
                refused(ErrorKind::Budget, "the budget of results is too small".to_owned(), "limit")
            })
        }
    }
}

fn shown(name: &str, part: Value, total: usize, offset: usize, n: usize) -> Value {
    let mut page = Map::from_iter([(name.to_owned(), part), ("total".to_owned(), json!(total))]);
    let next = offset.saturating_add(n);
    if next < total {
        page.insert("next".to_owned(), json!(next));
    }
    Value::Object(page)
}

/// The largest number up to `most` that fits; `None` where not even zero does.
fn largest(most: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
    if fits(most) {
        return Some(most);
    }
    if !fits(0) {
        return None;
    }
    let (mut low, mut high) = (0, most);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) { low = middle } else { high = middle }
    }
    Some(low)
}

/// Descents (`..`) of one path: each may visit everything below every node found so far.
const DESCENTS_MAX: usize = 2;
/// Alternatives (`,`) of one path, those of its lists multiplied: so often may it name the same node.
const ALTERNATIVES_MAX: usize = 20;
/// Filters (`?`) of one path: one within another is looked at for all that the other looks at, and again.
const FILTERS_MAX: usize = 2;
/// What a descent may come by, in nodes, each as often as it has others around it.
const VISITS_MAX: usize = 1 << 20;
/// What is selected, in bytes of JSON: more than a result has only where parts are named over and over.
const SELECTED_BYTES_MAX: usize = 4 << 20;

/// What a path may cost, by its text.
#[derive(Debug, PartialEq, Eq)]
struct Cost {
    descents: usize,
    alternatives: usize,
    filters: usize,
    /// A regex repeats something a number of times: it is made anew for every item, as large as that number.
    has_counted_regex: bool,
    /// A filter looks at the whole result again, for every item.
    is_absolute_within: bool,
}

impl Cost {
    fn of(path: &str) -> Self {
        let has_regex = path.contains("match") || path.contains("search");
        let mut cost = Self {
            descents: 0,
            alternatives: 1,
            filters: 0,
            has_counted_regex: has_regex && path.contains('{'),
            is_absolute_within: false,
        };
        // Commas of each bracket that is open; those of parentheses divide arguments.
        let mut open: Vec<(u8, usize)> = Vec::new();
        let mut quote = None;
        let bytes = path.as_bytes();
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if let Some(mark) = quote {
                match byte {
                    b'\\' => at += 1,
                    byte if byte == mark => quote = None,
                    _ => {}
                }
                at += 1;
                continue;
            }
            match byte {
                b'\'' | b'"' => quote = Some(byte),
                b'.' if bytes.get(at + 1) == Some(&b'.') => {
                    cost.descents += 1;
                    at += 1;
                }
                b'?' => cost.filters += 1,
                b'$' => cost.is_absolute_within |= !open.is_empty(),
                b'[' | b'(' => open.push((byte, 0)),
                b',' => {
                    if let Some((b'[', commas)) = open.last_mut() {
                        *commas += 1;
                    }
                }
                b']' | b')' => {
                    if let Some((_, commas)) = open.pop() {
                        cost.alternatives = cost.alternatives.saturating_mul(commas + 1);
                    }
                }
                _ => {}
            }
            at += 1;
        }
        cost
    }

    const fn is_too_much(&self) -> bool {
        self.descents > DESCENTS_MAX
            || self.alternatives > ALTERNATIVES_MAX
            || self.filters > FILTERS_MAX
            || self.has_counted_regex
            || self.is_absolute_within
    }
}

/// Nodes of `value`, each as often as it has others around it, counted up to `max`.
fn visits(value: &Value, depth: usize, max: usize) -> usize {
    let mut sum = depth;
    let mut add = |inner: &Value| {
        if sum < max {
            sum += visits(inner, depth + 1, max - sum);
        }
    };
    match value {
        Value::Array(items) => items.iter().for_each(&mut add),
        Value::Object(members) => members.values().for_each(&mut add),
        _ => {}
    }
    sum
}

/// One node where the path can only name one, else all nodes as an array.
fn select(whole: &Value, path: &str) -> Result<Value, EngineError> {
    let cost = Cost::of(path);
    if cost.is_too_much() {
        return Err(refused(
            ErrorKind::InvalidInput,
            format!(
                "`select` has more than {DESCENTS_MAX} `..`, {ALTERNATIVES_MAX} alternatives or {FILTERS_MAX} filters, a \
                 `$` within a filter, or a regex with a number of repetitions: name the members on the way, as in \
                 $.log[0:20], and look at `@` in filters"
            ),
            "select",
        ));
    }
    let too_much = |why: &str| {
        let message =
            format!("`select` names too much: {why}; name the members on the way, as in $.log[0:20]");
        refused(ErrorKind::LimitExceeded, message, "select")
    };
    if cost.descents > 0 && visits(whole, 0, VISITS_MAX) >= VISITS_MAX {
        return Err(too_much("the result is too large and too deep for `..`"));
    }
    let parsed = JsonPath::parse(path).map_err(|error| {
        refused(
            ErrorKind::InvalidInput,
            format!("`select` is no JSONPath: {error}; an example is $.log[0:20]"),
            "select",
        )
    })?;
    let nodes = parsed.query(whole).all();
    let mut rest = SELECTED_BYTES_MAX;
    for node in &nodes {
        rest = rest.checked_sub(json_bytes(node)).ok_or_else(|| too_much("its parts overlap"))?;
    }
    let several = path.contains(['*', '?', ':', ',']) || path.contains("..");
    match (several, nodes.as_slice()) {
        (false, [node]) => Ok((*node).clone()),
        (false, []) => {
            let names: Vec<&str> = whole
                .as_object()
                .into_iter()
                .flat_map(|members| members.keys().map(String::as_str))
                .take(20)
                .collect();
            Err(refused(
                ErrorKind::NotFound,
                format!("`select` names nothing in this result; its members are: {}", names.join(", ")),
                "select",
            ))
        }
        (_, nodes) => Ok(nodes.iter().map(|node| (*node).clone()).collect()),
    }
}

fn refused(kind: ErrorKind, message: String, part: &str) -> EngineError {
    EngineError { kind, message, part: Some(part.to_owned()), retry_after: None, receipt: None }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::engine::tokens;

    async fn paged(
        whole: &Value,
        select: Option<&str>,
        offset: usize,
        limit: Option<usize>,
    ) -> Result<Value, EngineError> {
        let query =
            ResultQuery { handle: "r_x".to_owned(), select: select.map(str::to_owned), offset, limit };
        page(whole.clone(), &query, 200, Instant::now() + Duration::from_mins(2)).await
    }

    #[tokio::test]
    async fn a_result_is_selected_and_paged() {
        let whole = json!({"log": ["a", "b", "c"], "branch": "main", "files": [{"p": "x", "n": 1}, {"p": "y", "n": 2}]});
        let cases = [
            (Some("$.branch"), 0, None, json!({"value": "main"})),
            (Some("$.log"), 0, None, json!({"value": ["a", "b", "c"], "total": 3})),
            (Some("$.log"), 1, Some(1), json!({"value": ["b"], "total": 3, "next": 2})),
            (Some("$.log"), 9, None, json!({"value": [], "total": 3})),
            (Some("$.files[*].p"), 0, None, json!({"value": ["x", "y"], "total": 2})),
            (Some("$.files[?@.n > 5]"), 0, None, json!({"value": [], "total": 0})),
            (Some("$.files[1].p"), 0, None, json!({"value": "y"})),
            (Some("$.branch"), 1, Some(2), json!({"text": "ai", "total": 4, "next": 3})),
            (None, 0, None, json!({"value": whole})),
        ];
        for (select, offset, limit, expected) in cases {
            assert_eq!(paged(&whole, select, offset, limit).await.unwrap(), expected, "{select:?}");
        }
        let error = paged(&whole, Some("$.nope"), 0, None).await.unwrap_err();
        assert_eq!(
            error.message,
            "`select` names nothing in this result; its members are: log, branch, files"
        );
        let explosive = format!("$.files[{}0]", "0,".repeat(20));
        for path in ["log", "$..*..*..*", explosive.as_str()] {
            let error = paged(&whole, Some(path), 0, None).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidInput, "{path}");
        }
    }

    #[tokio::test]
    async fn a_path_that_would_take_without_end_is_refused_and_one_that_does_not_is_answered() {
        // As much as is kept of a result, flat and deep.
        let flat: Value = (0..30_000).map(|n| json!({"a": [n, {"b": 1}], "$..,": 1})).collect();
        let chain = (0..120).fold(json!(1), |inner, _| json!([inner]));
        let deep: Value = (0..4_000).map(|_| chain.clone()).collect();
        let lists = format!("$[*]{}", "[0,0]".repeat(16));
        for (whole, path, kind) in [
            (&flat, "$[?$..zzz]", ErrorKind::InvalidInput),
            (&flat, "$..[?@.a == $[0].a]", ErrorKind::InvalidInput),
            (&flat, "$[?count($[*]) == 1]", ErrorKind::InvalidInput),
            (&deep, &lists, ErrorKind::InvalidInput),
            (&deep, &format!("${}{}", "[?@".repeat(3), "]".repeat(3)), ErrorKind::InvalidInput),
            (&flat, r"$[?search(@.a, '\\w{200}x')]", ErrorKind::InvalidInput),
            (&deep, "$..*", ErrorKind::LimitExceeded),
            (&deep, "$..[?@..*]", ErrorKind::LimitExceeded),
            (&flat, "$[*,*,*,*,*,*,*,*,*,*,*,*]", ErrorKind::LimitExceeded),
        ] {
            let begun = std::time::Instant::now();
            let error = paged(whole, Some(path), 0, None).await.unwrap_err();
            assert_eq!(error.kind, kind, "{path}: {}", error.message);
            assert!(begun.elapsed() < Duration::from_secs(20), "{path}: {:?}", begun.elapsed());
        }
        for (path, total) in
            [("$[*]['$..,']", 30_000), ("$..b", 30_000), ("$[?@.a[0] < 5 && length(@.a) == 2]", 5)]
        {
            assert_eq!(paged(&flat, Some(path), 0, None).await.unwrap()["total"], total, "{path}");
        }
    }

    #[test]
    fn a_path_is_judged_by_what_is_outside_quotes() {
        for (path, descents, alternatives, is_absolute_within) in [
            ("$", 0, 1, false),
            ("$..a[?@..b]", 2, 1, false),
            ("$['..', \"a,$'\\\"..\"][1,2,3]", 0, 6, false),
            ("$[?match(@.a, 'x,y')]", 0, 1, false),
            ("$[?@.a == $.b]", 0, 1, true),
        ] {
            let cost = Cost::of(path);
            assert_eq!((cost.descents, cost.alternatives), (descents, alternatives), "{path}");
            assert_eq!(cost.is_absolute_within, is_absolute_within, "{path}");
        }
    }

    #[tokio::test]
    async fn pages_keep_the_budget_and_lead_to_the_end() {
        let whole: Value = (0..500).map(|i| json!(format!("line {i} of a long log"))).collect();
        let (mut offset, mut seen) = (0, 0);
        loop {
            let page = paged(&whole, None, offset, None).await.unwrap();
            let tokens = tokens::count_exactly(&page.to_string(), Instant::now()).await;
            assert!(tokens.count <= 200, "{tokens:?}");
            seen += page["value"].as_array().unwrap().len();
            match page.get("next") {
                Some(next) => offset = next.as_u64().unwrap() as usize,
                None => break,
            }
        }
        assert_eq!(seen, 500);
    }

    #[tokio::test]
    async fn an_item_that_is_too_large_alone_says_how_to_reach_it() {
        let whole = json!([{"text": "word ".repeat(2_000)}]);
        let error = paged(&whole, None, 0, None).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Budget);
        let page = paged(&whole, Some("$[0].text"), 0, None).await.unwrap();
        assert_eq!(page["total"], 10_000);
        assert!(page["next"].as_u64().unwrap() > 500);
    }
}
