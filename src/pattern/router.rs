//! From a query in words to a pattern: one pass over all triggers; only a unique match of highest priority runs.

mod closed;
mod explain;
mod extract;
mod glossary;
mod intent;
mod literal;
mod place;
mod positions;
mod recent;
mod said;
mod score;
mod trigger;
mod value;

use std::sync::{Arc, OnceLock};

use serde_json::{Map, Value};

use super::{Auto, Effect, Mode, Pattern, PatternKind};
pub use explain::{Explained, ExplainedCandidate, ExplainedInput, ExplainedMatch, Explanation};
use extract::{Filled, Forms};
use recent::Recent;
use score::{Ranked, Ranking};

pub(crate) use trigger::{Matcher, TriggerIndex};

/// Candidates offered at most.
pub const CANDIDATES_MAX: usize = 3;
/// Bytes of a query that are looked at.
const QUERY_BYTES_MAX: usize = 4 << 10;
/// Patterns of lower priority that are asked whether they are meant too.
const BESIDE_MAX: usize = 8;
/// Half of the patterns whose inputs' schemas are kept compiled.
const FORMS_HALF: usize = 64;
/// What is offered where a query fits fewer than [`CANDIDATES_MAX`] patterns: what helps with most questions first.
const GENERAL: &[&str] = &[
    "session.primer",
    "memory.recall",
    "repo.digest",
    "code.find",
    "code.outline",
    "todo.sweep",
    "diff.review",
];

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

/// What there is for a query.
#[derive(Clone, Copy)]
pub struct Among<'a> {
    /// Which patterns there are.
    pub admits: &'a dyn Fn(&Pattern) -> bool,
    /// Whether the second, which a query says for the input called like the first, is a path in the workspace. Asked last,
    /// of what would run: "in main" may be a folder or a branch, and only the disk tells.
    pub has_path: &'a dyn Fn(&str, &str) -> bool,
}

impl Among<'static> {
    /// All patterns and all paths.
    pub const ALL: Self = Self { admits: &|_| true, has_path: &|_, _| true };
}

/// Why a query runs nothing by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// No trigger matches, of patterns that a query may run.
    NoMatch,
    /// These match with the same, highest priority, or in different places of the query.
    Competing(Vec<String>),
    /// A pattern that writes or executes matches as well, with no lower priority or no later in the query.
    Effectful(String),
    /// These required inputs are empty.
    Missing(Vec<String>),
    /// The query says a value that does not fit.
    Unfit,
    /// The query says a path that is not there.
    Absent(String),
    /// The query says a time, a place or a word that no input takes.
    Ignored(String),
    /// The query says not to.
    Negated(String),
    /// The query speaks of the words, not of what they stand for.
    Mentioned(String),
    /// The query tells somebody to do something.
    Deed(String),
}

/// Routes queries among a fixed set of patterns. Deterministic, but for the order of candidates, which may be a better
/// one once [`crate::embedding`] has been read. Makes its indexes when first asked.
#[derive(Debug, Default)]
pub struct Router {
    patterns: Vec<Arc<Pattern>>,
    triggers: TriggerIndex,
    forms: Recent<Forms, FORMS_HALF>,
    ranking: OnceLock<Ranking>,
    /// All patterns, [`GENERAL`] ones first, then by name.
    general: OnceLock<Vec<usize>>,
}

/// A run that was found, or why there is none.
struct Decision {
    /// Patterns that match and may be offered, with what matched.
    matched: Vec<(usize, &'static str)>,
    /// The one that runs, or would but for the reason.
    best: Option<(usize, &'static str, Filled)>,
    why: Option<Why>,
}

impl Router {
    /// A router among `patterns`.
    #[must_use]
    pub fn new(patterns: Vec<Arc<Pattern>>) -> Self {
        let triggers = TriggerIndex::new(&patterns);
        Self {
            patterns,
            triggers,
            forms: Recent::default(),
            ranking: OnceLock::new(),
            general: OnceLock::new(),
        }
    }

    /// Finds the pattern that `query` means.
    ///
    /// A pattern that writes or executes is never found; `fast` looks among infrastructure patterns only.
    #[must_use]
    pub fn route(&self, query: &str, mode: Mode) -> Route {
        self.route_among(query, mode, Among::ALL)
    }

    /// As [`Router::route`], as if the patterns and the paths that `among` refuses were not there.
    #[must_use]
    pub fn route_among(&self, query: &str, mode: Mode, among: Among<'_>) -> Route {
        let query = clip(query.trim());
        let mut decision = self.decide(query, mode, among);
        if decision.why.is_none()
            && let Some((index, by, filled)) = decision.best.take()
        {
            return Route::Run { pattern: self.patterns[index].clone(), inputs: filled.inputs, by };
        }
        let order =
            self.offers(query, &decision, &|pattern| is_open(pattern, mode) && (among.admits)(pattern));
        let candidates =
            order.into_iter().take(CANDIDATES_MAX).map(|ranked| self.candidate_at(ranked.index, query));
        Route::Candidates(candidates.collect())
    }

    /// `pattern` as a candidate for `query`, where a query in `mode` may come to it.
    #[must_use]
    pub fn candidate(&self, pattern: &Pattern, query: &str, mode: Mode) -> Option<RouteCandidate> {
        let index = self.patterns.iter().position(|known| known.hash == pattern.hash)?;
        is_open(pattern, mode).then(|| self.candidate_at(index, clip(query.trim())))
    }

    fn candidate_at(&self, index: usize, query: &str) -> RouteCandidate {
        let pattern = &self.patterns[index];
        let filled = self.filled(index, query);
        let missing = filled.missing(pattern);
        RouteCandidate { pattern: pattern.clone(), inputs: filled.inputs, missing }
    }

    /// Patterns with a trigger that matches `query`, each with `phrase` or `regex`; also those that may not run.
    #[must_use]
    pub fn matching(&self, query: &str) -> Vec<(Arc<Pattern>, &'static str)> {
        let found = self.triggers.find(clip(query.trim()));
        found.into_iter().map(|(index, by)| (self.patterns[index].clone(), by)).collect()
    }

    /// The triggers that `query` matches, and whether one of them runs.
    fn decide(&self, query: &str, mode: Mode, among: Among<'_>) -> Decision {
        let all = self.triggers.find(query);
        let priority = |index: usize| self.patterns[index].triggers.priority;
        let matched: Vec<_> = all
            .iter()
            .copied()
            .filter(|(index, _)| {
                is_open(&self.patterns[*index], mode) && (among.admits)(&self.patterns[*index])
            })
            .collect();
        let mut runnable: Vec<_> = matched
            .iter()
            .copied()
            .filter(|(index, _)| self.patterns[*index].triggers.auto == Auto::ReadOnly)
            .collect();
        let Some(highest) = runnable.iter().map(|(index, _)| priority(*index)).max() else {
            return Decision { matched, best: None, why: Some(Why::NoMatch) };
        };
        runnable.retain(|(index, _)| priority(*index) == highest);
        let &[(index, by)] = &runnable[..] else {
            let names = runnable.iter().map(|(index, _)| self.patterns[*index].name.clone()).collect();
            return Decision { matched, best: None, why: Some(Why::Competing(names)) };
        };
        let filled = self.filled(index, query);
        // "Note that where were we …": what begins earlier is what is asked.
        let effectful = all.iter().map(|(index, _)| *index).find(|other| {
            let is_first = || self.filled(*other, query).begins() <= filled.begins();
            self.patterns[*other].effect != Effect::ReadOnly && (priority(*other) >= highest || is_first())
        });
        // "What did we decide about ports, and what changed?" asks twice.
        let mut others = matched.iter().map(|(other, _)| *other).filter(|other| *other != index);
        let beside = || {
            let other = others
                .by_ref()
                .take(BESIDE_MAX)
                .find(|other| filled.is_beside(&self.filled(*other, query)))?;
            Some(Why::Competing(vec![self.patterns[index].name.clone(), self.patterns[other].name.clone()]))
        };
        let why = match effectful {
            Some(other) => Some(Why::Effectful(self.patterns[other].name.clone())),
            None => intent::objection(query, &filled)
                .or_else(|| filled.obstacle(&self.patterns[index], &self.forms(index), query))
                .or_else(beside)
                .or_else(|| filled.absent(&self.patterns[index], among.has_path).map(Why::Absent)),
        };
        Decision { matched, best: Some((index, by, filled)), why }
    }

    /// What may be offered, best first: what matches, then by rank.
    fn order(&self, query: &str, decision: &Decision, open: &dyn Fn(&Pattern) -> bool) -> Vec<Ranked> {
        let place = |index: usize| match &decision.best {
            Some((best, ..)) if *best == index => 0,
            _ if decision.matched.iter().any(|(known, _)| *known == index) => 1,
            _ => 2,
        };
        let mut order = self.ranking().ranked(query, decision.matched.iter().map(|(index, _)| *index));
        order.retain(|ranked| open(&self.patterns[ranked.index]));
        order.sort_by(|a, b| {
            (place(a.index).cmp(&place(b.index)))
                .then(b.fused.total_cmp(&a.fused))
                .then_with(|| self.patterns[a.index].name.cmp(&self.patterns[b.index].name))
        });
        order
    }

    /// As [`Router::order`], with enough patterns that do not fit to make [`CANDIDATES_MAX`].
    fn offers(&self, query: &str, decision: &Decision, open: &dyn Fn(&Pattern) -> bool) -> Vec<Ranked> {
        let mut order = self.order(query, decision, open);
        let lacking = CANDIDATES_MAX.saturating_sub(order.len());
        if lacking > 0 {
            let known: Vec<usize> = order.iter().map(|ranked| ranked.index).collect();
            let general = self.general.get_or_init(|| {
                let mut all: Vec<usize> = (0..self.patterns.len()).collect();
                let place = |name: &str| GENERAL.iter().position(|general| *general == name);
                all.sort_by_cached_key(|index| {
                    let name = self.patterns[*index].name.as_str();
                    (place(name).unwrap_or(GENERAL.len()), name.to_owned())
                });
                all
            });
            let others =
                general.iter().filter(|index| !known.contains(index) && open(&self.patterns[**index]));
            order.extend(others.take(lacking).map(|index| Ranked::unfit(*index)));
        }
        order
    }

    /// Patterns ordered by how well they fit `query`, best first; those that do not fit at all are left out.
    #[must_use]
    pub fn ranked(&self, query: &str) -> Vec<Arc<Pattern>> {
        let query = clip(query.trim());
        let decision = Decision { matched: self.triggers.find(query), best: None, why: None };
        let order = self.order(query, &decision, &|_| true);
        order.into_iter().map(|ranked| self.patterns[ranked.index].clone()).collect()
    }

    fn filled(&self, index: usize, query: &str) -> Filled {
        Filled::from_query(
            &self.patterns[index],
            &self.forms(index),
            &self.triggers.matching_regexes(index, query),
            query,
        )
    }

    fn forms(&self, index: usize) -> Arc<Forms> {
        self.forms.get(index, || Forms::of(&self.patterns[index]))
    }

    fn ranking(&self) -> &Ranking {
        self.ranking.get_or_init(|| Ranking::new(&self.patterns))
    }
}

/// Whether a query in `mode` may come to `pattern` at all.
fn is_open(pattern: &Pattern, mode: Mode) -> bool {
    pattern.effect == Effect::ReadOnly && (mode != Mode::Fast || pattern.kind == PatternKind::Infrastructure)
}

fn clip(query: &str) -> &str {
    &query[..query.floor_char_boundary(QUERY_BYTES_MAX)]
}
