//! The answer to a query that runs nothing: at most three patterns to choose from, within [`CANDIDATES_TOKENS`], and
//! memories that the query may be about, within a budget of their own.

use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout_at};

use super::{
    Candidate, Engine, Execution, Outcome, Receipt,
    steps::data_clip,
    tokens::{self, Measure},
};
use crate::{
    resilience,
    scope::{Rights, Scope},
    store::{MemoryFilter, MemoryQuery, Trust},
};

/// o200k_base tokens of the answer without its memories, at most.
pub const CANDIDATES_TOKENS: usize = 79;
/// o200k_base tokens of the memories, at most.
pub const MEMORIES_TOKENS: usize = 120;
/// Memories at most.
const MEMORIES_MAX: usize = 3;
/// Characters of a memory's text, at most.
const MEMORY_CHARS: usize = 120;
/// How well a memory must fit the query, 0 to 1: two thirds of what a question finds that nothing answers lies below, and
/// few of the right ones (`docs/search.md`).
const MEMORY_SCORE_MIN: f64 = 0.5;
/// How long the answer waits for the store: what it has is welcome, not needed.
const MEMORIES_WAIT: Duration = Duration::from_millis(400);
/// How long the answer waits for the vocabulary: once a process.
const VOCABULARY_WAIT: Duration = Duration::from_secs(10);
/// Words of a description, at most.
const DESCRIPTION_WORDS: usize = 16;

impl Engine {
    /// The answer that offers `candidates` for `query`.
    pub(super) async fn offer(
        &self,
        scope: &Scope,
        project: String,
        query: &str,
        mut candidates: Vec<Candidate>,
        begun: Instant,
        deadline: Instant,
    ) -> Execution {
        let measure = measure(&candidates, deadline).await;
        let mut text = offered(&mut candidates, measure);
        let (memories, bytes_seen) = self.related(scope, &project, query, measure, deadline).await;
        if !memories.is_empty() {
            text["memories"] = Value::Array(memories);
            text["project"] = json!(project);
        }
        let text = text.to_string();
        let tokens = tokens::count(&text);
        Execution {
            outcome: Outcome::Candidates { candidates },
            receipt: Receipt {
                tokens_out: tokens.count,
                tokens_estimated: tokens.estimated,
                bytes_seen,
                cache: "off",
                matched_by: "none",
                elapsed: begun.elapsed(),
                ..Receipt::default()
            },
            text,
        }
    }

    /// Memories that `query` may be about, `{id, text, project?, trust?}`, best first, as many as fit; and their bytes in
    /// the store. `project` where a memory is not this project's own, `trust` where it came from outside. None where the
    /// caller may not read memories or the store does not answer soon.
    async fn related(
        &self,
        scope: &Scope,
        project: &str,
        query: &str,
        measure: Measure,
        deadline: Instant,
    ) -> (Vec<Value>, u64) {
        if Rights::MEMORY_READ.without(scope.rights()) != Rights::NONE {
            return (Vec::new(), 0);
        }
        let filter = MemoryFilter { limit: MEMORIES_MAX, ..MemoryFilter::default() };
        let query = MemoryQuery { text: query.to_owned(), filter, ..MemoryQuery::default() };
        let until = deadline.min(Instant::now() + MEMORIES_WAIT);
        let found = timeout_at(
            until,
            resilience::until(until.into_std(), self.store().search(scope, query, self.now())),
        )
        .await;
        let Ok(Ok(found)) = found else { return (Vec::new(), 0) };
        let bytes = found.hits.iter().map(|hit| hit.memory.content.len() as u64).sum();
        let mut memories: Vec<Value> = found
            .hits
            .iter()
            .filter(|hit| hit.score >= MEMORY_SCORE_MIN)
            .map(|hit| {
                let line = hit.memory.content.split_whitespace().collect::<Vec<_>>().join(" ");
                let mut shown = json!({"id": hit.memory.id, "text": data_clip(&line, MEMORY_CHARS)});
                if hit.memory.project != scope.project().as_str() {
                    shown["project"] = json!(hit.memory.project);
                }
                if hit.memory.trust == Trust::External {
                    shown["trust"] = json!(hit.memory.trust);
                }
                shown
            })
            .collect();
        let fits = |memories: &[Value]| {
            measure.fits(&json!({"memories": memories, "project": project}).to_string(), MEMORIES_TOKENS)
        };
        while !memories.is_empty() && !fits(&memories) {
            memories.pop();
        }
        (memories, bytes)
    }
}

async fn measure(candidates: &[Candidate], deadline: Instant) -> Measure {
    let longest = shown(candidates, DESCRIPTION_WORDS).to_string();
    Measure::choose(&longest, CANDIDATES_TOKENS, deadline.min(Instant::now() + VOCABULARY_WAIT)).await
}

/// The answer with descriptions as long as fit; with fewer candidates where even names are too long.
fn offered(candidates: &mut Vec<Candidate>, measure: Measure) -> Value {
    loop {
        let fitting = (0..=DESCRIPTION_WORDS)
            .rev()
            .map(|words| shown(candidates, words))
            .find(|answer| measure.fits(&answer.to_string(), CANDIDATES_TOKENS));
        if let Some(answer) = fitting {
            return answer;
        }
        // Without the vocabulary names may seem longer than they are: one stays in any case.
        if candidates.len() <= 1 {
            return shown(candidates, 0);
        }
        candidates.pop();
    }
}

/// Candidates with the inputs that are missing, and so many words of their descriptions.
fn shown(candidates: &[Candidate], words: usize) -> Value {
    let each = candidates.iter().map(|candidate| {
        let all: Vec<&str> = candidate.description.split_whitespace().collect();
        let mut description = all[..all.len().min(words)].join(" ");
        if words > 0 && all.len() > words {
            description.push('…');
        }
        let missing: Vec<String> = candidate.missing.iter().map(|name| format!("{name}*")).collect();
        let mut shown = Map::new();
        shown.insert("name".to_owned(), json!(candidate.name));
        shown.insert("description".to_owned(), json!(description));
        shown.insert("inputs".to_owned(), json!(missing));
        Value::Object(shown)
    });
    json!({"matched": null, "candidates": each.collect::<Vec<_>>()})
}
