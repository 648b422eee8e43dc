//! From a query in words to a pattern: one pass over all triggers; only a unique match of highest priority runs.

mod extract;
mod score;
mod trigger;

use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value};

use super::{Auto, Effect, Mode, Pattern, PatternKind};
use extract::{Filled, Forms};
use score::Ranking;

pub(crate) use trigger::{Matcher, TriggerIndex};

/// Candidates offered at most.
pub const CANDIDATES_MAX: usize = 3;
/// Bytes of a query that are looked at.
const QUERY_BYTES_MAX: usize = 4 << 10;

/// What a query means.
#[derive(Clone, Debug)]
pub enum Route {
    /// One pattern, uniquely.
    Run {
        /// The pattern.
        pattern: Arc<Pattern>,
        /// Inputs that the query filled; they fit the pattern's schema.
        inputs: Map<String, Value>,
        /// `phrase` or `regex`.
        by: &'static str,
    },
    /// None uniquely: at most [`CANDIDATES_MAX`], best first.
    Candidates(Vec<RouteCandidate>),
}

/// A pattern that the query may mean.
#[derive(Clone, Debug)]
pub struct RouteCandidate {
    /// The pattern.
    pub pattern: Arc<Pattern>,
    /// Inputs that the query filled.
    pub inputs: Map<String, Value>,
    /// Required inputs that are still empty.
    pub missing: Vec<String>,
}

/// Routes queries among a fixed set of patterns. Deterministic; makes its indexes when first asked.
#[derive(Debug, Default)]
pub struct Router {
    patterns: Vec<Arc<Pattern>>,
    triggers: TriggerIndex,
    forms: Vec<OnceLock<Forms>>,
    ranking: OnceLock<Ranking>,
}

impl Router {
    /// A router among `patterns`.
    #[must_use]
    pub fn new(patterns: Vec<Arc<Pattern>>) -> Self {
        let triggers = TriggerIndex::new(&patterns);
        let forms = patterns.iter().map(|_| OnceLock::new()).collect();
        Self { patterns, triggers, forms, ranking: OnceLock::new() }
    }

    /// Finds the pattern that `query` means.
    ///
    /// A pattern that writes or executes is never found; `fast` looks among infrastructure patterns only.
    #[must_use]
    pub fn route(&self, query: &str, mode: Mode) -> Route {
        self.route_among(query, mode, &|_| true)
    }

    /// As [`Router::route`], as if the patterns that `admits` refuses were not there.
    #[must_use]
    pub fn route_among(&self, query: &str, mode: Mode, admits: &dyn Fn(&Pattern) -> bool) -> Route {
        let query = clip(query.trim());
        let allowed = |pattern: &Pattern| {
            admits(pattern)
                && pattern.effect == Effect::ReadOnly
                && (mode != Mode::Fast || pattern.kind == PatternKind::Infrastructure)
        };
        let matched: Vec<_> = self
            .triggers
            .find(query)
            .into_iter()
            .filter(|(index, _)| allowed(&self.patterns[*index]))
            .collect();
        let runnable =
            matched.iter().filter(|(index, _)| self.patterns[*index].triggers.auto == Auto::ReadOnly);
        let priority = |index: usize| self.patterns[index].triggers.priority;
        let highest = runnable.clone().map(|(index, _)| priority(*index)).max();
        let mut best = runnable.filter(|(index, _)| Some(priority(*index)) == highest);
        if let (Some(&(index, by)), None) = (best.next(), best.next()) {
            let pattern = &self.patterns[index];
            let forms = self.forms(index);
            let filled = Filled::from_query(pattern, forms, query);
            if filled.is_complete(pattern, forms, query) {
                return Route::Run { pattern: pattern.clone(), inputs: filled.inputs, by };
            }
        }
        let scores = self.ranking().scores(query);
        let mut order: Vec<usize> = (0..self.patterns.len())
            .filter(|index| allowed(&self.patterns[*index]))
            .filter(|index| scores[*index] > 0.0 || matched.iter().any(|(known, _)| known == index))
            .collect();
        let is_match = |index: usize| matched.iter().any(|(known, _)| *known == index);
        order.sort_by(|a, b| {
            (is_match(*b).cmp(&is_match(*a)))
                .then(scores[*b].total_cmp(&scores[*a]))
                .then(priority(*b).cmp(&priority(*a)))
                .then_with(|| self.patterns[*a].name.cmp(&self.patterns[*b].name))
        });
        let candidates = order.into_iter().take(CANDIDATES_MAX).map(|index| {
            let pattern = &self.patterns[index];
            let filled = Filled::from_query(pattern, self.forms(index), query);
            let missing = filled.missing(pattern);
            RouteCandidate { pattern: pattern.clone(), inputs: filled.inputs, missing }
        });
        Route::Candidates(candidates.collect())
    }

    /// Patterns ordered by how well they fit `query`, best first; those that do not fit at all are left out.
    #[must_use]
    pub fn ranked(&self, query: &str) -> Vec<Arc<Pattern>> {
        let query = clip(query.trim());
        let mut scores = self.ranking().scores(query);
        for (index, _) in self.triggers.find(query) {
            scores[index] += 10.0;
        }
        let mut order: Vec<usize> = (0..self.patterns.len()).filter(|index| scores[*index] > 0.0).collect();
        order.sort_by(|a, b| {
            scores[*b]
                .total_cmp(&scores[*a])
                .then_with(|| self.patterns[*a].name.cmp(&self.patterns[*b].name))
        });
        order.into_iter().map(|index| self.patterns[index].clone()).collect()
    }

    fn forms(&self, index: usize) -> &Forms {
        self.forms[index].get_or_init(|| Forms::of(&self.patterns[index]))
    }

    fn ranking(&self) -> &Ranking {
        self.ranking.get_or_init(|| Ranking::new(&self.patterns))
    }
}

fn clip(query: &str) -> &str {
    let mut end = query.len().min(QUERY_BYTES_MAX);
    while !query.is_char_boundary(end) {
        end -= 1;
    }
    &query[..end]
}
