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
use tokio::time::Instant;

use super::{EngineError, ErrorKind, tokens::Measure};

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
/// `invalid_input` for a path that is none; `budget` for one item that is too large alone.
pub(super) async fn page(
    whole: &Value,
    query: &ResultQuery,
    budget: usize,
    deadline: Instant,
) -> Result<Value, EngineError> {
    let selected = match &query.select {
        Some(path) => select(whole, path)?,
        None => whole.clone(),
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
/// Alternatives (`,`) in one path: each list of them multiplies what was found so far.
const ALTERNATIVES_MAX: usize = 16;

/// One node where the path can only name one, else all nodes as an array.
fn select(whole: &Value, path: &str) -> Result<Value, EngineError> {
    if path.matches("..").count() > DESCENTS_MAX || path.matches(',').count() > ALTERNATIVES_MAX {
        return Err(refused(
            ErrorKind::InvalidInput,
            format!(
                "`select` has more than {DESCENTS_MAX} `..` or {ALTERNATIVES_MAX} `,`: name the members on the way, \
                 as in $.log[0:20]"
            ),
            "select",
        ));
    }
    let parsed = JsonPath::parse(path).map_err(|error| {
        refused(
            ErrorKind::InvalidInput,
            format!("`select` is no JSONPath: {error}; an example is $.log[0:20]"),
            "select",
        )
    })?;
    let nodes = parsed.query(whole).all();
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
    EngineError { kind, message, part: Some(part.to_owned()), retry_after: None }
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
        page(whole, &query, 200, Instant::now() + Duration::from_mins(2)).await
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
