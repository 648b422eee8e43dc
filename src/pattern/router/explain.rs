//! Why a query runs what it runs, for people.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Among, CANDIDATES_MAX, Matcher, Router, Why, clip, is_open, trigger::words};
use crate::pattern::{Auto, Effect, Mode, Pattern, PatternKind};

/// All that decided about a query.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// As it was looked at.
    pub query: String,
    /// Every trigger that matches, also of patterns that may not run.
    pub matches: Vec<ExplainedMatch>,
    /// What it came to.
    pub verdict: Explained,
    /// Candidates in their order, the first [`CANDIDATES_MAX`] of which are offered where nothing runs.
    pub candidates: Vec<ExplainedCandidate>,
}

/// One trigger that matches.
#[derive(Clone, Debug)]
pub struct ExplainedMatch {
    /// Whose it is.
    pub pattern: Arc<Pattern>,
    /// `phrase` or `regex`.
    pub by: &'static str,
    /// As written in the file.
    pub trigger: String,
    /// Bytes of the query that it matches.
    pub span: (usize, usize),
    /// Why its pattern cannot be run by this query, if it cannot.
    pub barred: Option<&'static str>,
}

/// What a query came to.
#[derive(Clone, Debug)]
pub enum Explained {
    /// It runs the pattern with these inputs.
    Runs(Arc<Pattern>, Vec<ExplainedInput>),
    /// It runs nothing; the pattern that it would have run, if there is a single one, with what it would have got.
    Asks(Why, Option<(Arc<Pattern>, Vec<ExplainedInput>)>),
}

/// An input that the query filled.
#[derive(Clone, Debug)]
pub struct ExplainedInput {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Value,
    /// `group` of a regex, `path`, `span` of time, `form` of a word, or `rest` of the query.
    pub how: &'static str,
    /// Bytes of the query that it was taken from.
    pub span: (usize, usize),
}

/// A candidate with its scores.
#[derive(Clone, Debug)]
pub struct ExplainedCandidate {
    /// The pattern.
    pub pattern: Arc<Pattern>,
    /// One of its triggers matches: it comes before those that only score.
    pub matches: bool,
    /// BM25 over names, phrases and descriptions.
    pub lexical: f64,
    /// Nearness of vectors; `None` where the embedding table could not be read.
    pub embedding: Option<f32>,
    /// Reciprocal ranks of both, added.
    pub fused: f64,
    /// Required inputs that the query does not fill.
    pub missing: Vec<String>,
}

impl Why {
    /// A code for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoMatch => "no_match",
            Self::Competing(_) => "competing",
            Self::Effectful(_) => "effectful",
            Self::Missing(_) => "missing",
            Self::Unfit => "unfit",
            Self::Absent(_) => "absent",
            Self::Ignored(_) => "ignored",
            Self::Negated(_) => "negated",
            Self::Mentioned(_) => "mentioned",
            Self::Deed(_) => "deed",
        }
    }
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoMatch => write!(f, "no trigger of a pattern that a query may run matches"),
            Self::Competing(names) => {
                write!(f, "{} match, and none of them before the others", names.join(", "))
            }
            Self::Effectful(name) => write!(f, "{name}, which writes or runs programs, matches as well"),
            Self::Missing(inputs) => {
                write!(f, "the query does not say {}, which is required", inputs.join(", "))
            }
            Self::Unfit => write!(f, "a value that the query says does not fit the pattern's inputs"),
            Self::Absent(path) => write!(f, "the query says \"{path}\", and the workspace has no such path"),
            Self::Ignored(part) => write!(f, "the query says \"{part}\", which no input takes"),
            Self::Negated(word) => write!(f, "the query says \"{word}\" before the trigger"),
            Self::Mentioned(part) => {
                write!(f, "the query speaks of words (\"{part}\"), not of what they stand for")
            }
            Self::Deed(verb) => {
                write!(f, "the query tells somebody to {verb}; a pattern that reads does not do that")
            }
        }
    }
}

impl Router {
    /// Why `query` runs what it runs among the patterns and paths that `among` lets in.
    #[must_use]
    pub fn explain(&self, query: &str, mode: Mode, among: Among<'_>) -> Explanation {
        let query = clip(query.trim());
        let decision = self.decide(query, mode, among);
        let open = |pattern: &Pattern| is_open(pattern, mode) && (among.admits)(pattern);
        let candidates = self.offers(query, &decision, &open).into_iter().map(|ranked| ExplainedCandidate {
            pattern: self.patterns[ranked.index].clone(),
            matches: decision.matched.iter().any(|(index, _)| *index == ranked.index),
            lexical: ranked.lexical,
            embedding: ranked.embedding,
            fused: ranked.fused,
            missing: self.filled(ranked.index, query).missing(&self.patterns[ranked.index]),
        });
        let candidates = candidates.take(CANDIDATES_MAX * 2).collect();
        let best = decision.best.map(|(index, _, filled)| {
            let inputs = filled.sources.iter().map(|(name, how, span)| ExplainedInput {
                name: name.clone(),
                value: filled.inputs[name].clone(),
                how,
                span: *span,
            });
            (self.patterns[index].clone(), inputs.collect())
        });
        let verdict = match (decision.why, best) {
            (None, Some((pattern, inputs))) => Explained::Runs(pattern, inputs),
            (why, best) => Explained::Asks(why.unwrap_or(Why::NoMatch), best),
        };
        Explanation {
            query: query.to_owned(),
            matches: self.matches(query, mode, among.admits),
            verdict,
            candidates,
        }
    }

    fn matches(&self, query: &str, mode: Mode, admits: &dyn Fn(&Pattern) -> bool) -> Vec<ExplainedMatch> {
        let query_words = words(query);
        let mut found = Vec::new();
        for (index, _) in self.triggers.find(query) {
            let pattern = &self.patterns[index];
            let barred = if pattern.effect != Effect::ReadOnly {
                Some("it writes or runs programs")
            } else if mode == Mode::Fast && pattern.kind != PatternKind::Infrastructure {
                Some("mode fast is for infrastructure patterns")
            } else if !admits(pattern) {
                Some("the caller may not run it here")
            } else if pattern.triggers.auto == Auto::Never {
                Some("its triggers say auto: never")
            } else {
                None
            };
            let mut add = |by, trigger: &str, span| {
                let trigger = trigger.to_owned();
                found.push(ExplainedMatch { pattern: pattern.clone(), by, trigger, span, barred });
            };
            for phrase in &pattern.triggers.phrases {
                if let Some(span) = Matcher::phrase(&query_words, phrase) {
                    add("phrase", phrase, span);
                }
            }
            for (regex, compiled) in pattern.triggers.regexes.iter().zip(self.triggers.regexes(index, query))
            {
                if let Some(matched) = compiled.captures(query) {
                    add("regex", regex.as_str(), matched.whole);
                }
            }
        }
        found.sort_by_key(|matched| std::cmp::Reverse(matched.pattern.triggers.priority));
        found
    }
}

impl Explanation {
    fn part(&self, (start, end): (usize, usize)) -> &str {
        self.query.get(start..end).unwrap_or_default()
    }

    /// As a value, for programs.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let inputs = |inputs: &[ExplainedInput]| -> Vec<Value> {
            let each = inputs.iter().map(|input| {
                json!({"name": input.name, "value": input.value, "how": input.how,
                    "from": self.part(input.span), "span": [input.span.0, input.span.1]})
            });
            each.collect()
        };
        let verdict = match &self.verdict {
            Explained::Runs(pattern, filled) => json!({"runs": pattern.name, "inputs": inputs(filled)}),
            Explained::Asks(why, best) => {
                let mut verdict = json!({"runs": null, "why": why.code(), "message": why.to_string()});
                if let Some((pattern, filled)) = best {
                    verdict["instead_of"] = json!({"pattern": pattern.name, "inputs": inputs(filled)});
                }
                verdict
            }
        };
        let matches: Vec<Value> = self.matches.iter().map(|matched| {
            json!({"pattern": matched.pattern.name, "priority": matched.pattern.triggers.priority, "by": matched.by,
                "trigger": matched.trigger, "matched": self.part(matched.span),
                "span": [matched.span.0, matched.span.1], "barred": matched.barred})
        }).collect();
        let candidates: Vec<Value> = self.candidates.iter().map(|candidate| {
            json!({"name": candidate.pattern.name, "matches": candidate.matches,
                "lexical": rounded(candidate.lexical), "embedding": candidate.embedding.map(|near| rounded(near.into())),
                "fused": rounded(candidate.fused), "missing": candidate.missing})
        }).collect();
        json!({"query": self.query, "matches": matches, "verdict": verdict, "candidates": candidates})
    }

    /// As lines, for people.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut lines = vec![format!("query      {}", self.query)];
        let listed = |lines: &mut Vec<String>, inputs: &[ExplainedInput]| {
            for input in inputs {
                lines.push(format!(
                    "  input    {} = {} ({} \"{}\")",
                    input.name,
                    input.value,
                    input.how,
                    self.part(input.span)
                ));
            }
        };
        match &self.verdict {
            Explained::Runs(pattern, inputs) => {
                lines.push(format!("runs       {}", pattern.name));
                listed(&mut lines, inputs);
            }
            Explained::Asks(why, best) => {
                lines.push(format!("runs       nothing: {why}"));
                if let Some((pattern, inputs)) = best {
                    lines.push(format!("  would be {}", pattern.name));
                    listed(&mut lines, inputs);
                }
            }
        }
        for matched in &self.matches {
            let barred = matched.barred.map_or_else(String::new, |reason| format!("; not run: {reason}"));
            lines.push(format!(
                "matches    {} (priority {}) by the {} {} at \"{}\"{barred}",
                matched.pattern.name,
                matched.pattern.triggers.priority,
                matched.by,
                matched.trigger,
                self.part(matched.span),
            ));
        }
        for (place, candidate) in self.candidates.iter().enumerate() {
            let near = candidate.embedding.map_or_else(|| "none".to_owned(), |near| format!("{near:.2}"));
            let missing = if candidate.missing.is_empty() {
                String::new()
            } else {
                format!("; needs {}", candidate.missing.join(", "))
            };
            lines.push(format!(
                "{:<10} {}: words {:.2}, vectors {near}, together {:.3}{}{missing}",
                if place < CANDIDATES_MAX { "candidate" } else { "beyond" },
                candidate.pattern.name,
                candidate.lexical,
                candidate.fused,
                if candidate.matches { ", matches" } else { "" },
            ));
        }
        lines.join("\n")
    }
}

fn rounded(number: f64) -> f64 {
    (number * 1e4).round() / 1e4
}
