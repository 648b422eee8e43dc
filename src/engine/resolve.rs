//! From a name or a query to a pattern.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use serde_json::{Map, Value, json};

use super::{
    Allowed, Candidate, Engine, EngineError, ErrorKind, ExecuteRequest, Target, service::Chosen,
    steps::data_clip,
};
use crate::{
    embedding,
    nearest::nearest,
    pattern::{
        Effect, Mode, Pattern,
        library::{Library, pins},
        router::{Among, Explanation, Route},
    },
};

/// Candidates offered at most.
const CANDIDATES_MAX: usize = 3;
const DESCRIPTION_CHARS: usize = 120;
/// How long the first query that needs candidates waits for the embedding table. Reading it takes some tens of
/// milliseconds, once a process; without the wait the same question would get another order the second time.
const EMBEDDING_WAIT: Duration = Duration::from_millis(250);

/// The patterns that may run now, and how words find one: what is untrusted or failed to load is not there.
pub trait Patterns: Send + Sync {
    /// The pattern called `name`.
    fn named(&self, name: &str) -> Option<Arc<Pattern>>;

    /// Every version of the pattern `name`: first the one that the bare name means.
    fn versions(&self, name: &str) -> Vec<Arc<Pattern>> {
        self.named(name).into_iter().collect()
    }

    /// All of them, ordered by name.
    fn all(&self) -> Vec<Arc<Pattern>>;

    /// Finds the pattern that `query` means, as if those and the paths that `among` refuses were not there.
    fn route(&self, query: &str, mode: Mode, among: Among<'_>) -> Routed;

    /// All patterns ordered by how well they fit `query`, best first; those that do not fit at all are left out.
    fn ranked(&self, query: &str) -> Vec<Arc<Pattern>>;

    /// Why `query` runs what it runs; `None` where these patterns are not routed by a library.
    fn explain(&self, query: &str, mode: Mode, among: Among<'_>) -> Option<Explanation> {
        let _ = (query, mode, among);
        None
    }
}

/// What a query means.
#[derive(Clone, Debug)]
pub enum Routed {
    /// One pattern, uniquely.
    Match {
        /// The pattern.
        pattern: Arc<Pattern>,
        /// Inputs that the query filled.
        input: Map<String, Value>,
        /// `phrase` or `regex`.
        by: &'static str,
    },
    /// None uniquely; best first, each with the inputs that the query filled.
    Candidates(Vec<(Arc<Pattern>, Map<String, Value>)>),
}

/// The library as the engine holds it.
pub type LibraryHandle = Arc<dyn Patterns>;

/// The library in use: a value that is replaced whole when files change. Calls that run go on with what they began with.
#[derive(Debug)]
pub struct LiveLibrary {
    current: RwLock<Arc<Library>>,
}

impl LiveLibrary {
    /// Starts with `library`.
    #[must_use]
    pub fn new(library: Library) -> Self {
        Self { current: RwLock::new(Arc::new(library)) }
    }

    /// The library as it is now.
    #[must_use]
    pub fn current(&self) -> Arc<Library> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts `library` in the place of the one before.
    pub fn replace(&self, library: Library) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(library);
    }
}

impl Patterns for LiveLibrary {
    fn named(&self, name: &str) -> Option<Arc<Pattern>> {
        self.current().named(name)
    }

    fn versions(&self, name: &str) -> Vec<Arc<Pattern>> {
        self.current().versions(name).to_vec()
    }

    fn all(&self) -> Vec<Arc<Pattern>> {
        self.current().all()
    }

    fn route(&self, query: &str, mode: Mode, among: Among<'_>) -> Routed {
        match self.current().route_among(query, mode, among) {
            Route::Run { pattern, inputs, by } => Routed::Match { pattern, input: inputs, by },
            Route::Candidates(candidates) => Routed::Candidates(
                candidates.into_iter().map(|candidate| (candidate.pattern, candidate.inputs)).collect(),
            ),
        }
    }

    fn ranked(&self, query: &str) -> Vec<Arc<Pattern>> {
        self.current().ranked(query)
    }

    fn explain(&self, query: &str, mode: Mode, among: Among<'_>) -> Option<Explanation> {
        Some(self.current().explain(query, mode, among))
    }
}

/// What a target came to.
pub(super) enum Resolved {
    Chosen(Chosen),
    /// For this query.
    Candidates(String, Vec<Candidate>),
    /// A question comes first.
    Suspended,
}

impl Engine {
    pub(super) async fn resolve(
        &self,
        request: &ExecuteRequest,
        allowed: &Allowed,
    ) -> Result<Resolved, EngineError> {
        match &request.target {
            Target::Pattern(name) => Ok(Resolved::Chosen(Chosen {
                pattern: self.named(name, allowed)?,
                input: request.input.clone(),
                query: None,
                matched_by: "name",
            })),
            Target::Query(query) => Ok(self.routed(query, request, allowed).await),
        }
    }

    /// The pattern called `name`, pinned (`repo.digest@1`, `@1.2`, `@1.2.3`) or not.
    ///
    /// # Errors
    /// `unknown_pattern`, which names the nearest one that may be run.
    pub fn named(&self, name: &str, allowed: &Allowed) -> Result<Arc<Pattern>, EngineError> {
        let (base, pin) = match name.split_once('@') {
            Some((base, pin)) => (base, Some(pin)),
            None => (name, None),
        };
        let unknown = |message: String| EngineError {
            kind: ErrorKind::UnknownPattern,
            message,
            part: Some("pattern".to_owned()),
            retry_after: None,
            receipt: None,
        };
        let Some(pattern) = self.library.named(base) else {
            let all = self.library.all();
            let names: Vec<&str> = all
                .iter()
                .filter(|pattern| allowed.admits(pattern))
                .map(|pattern| pattern.name.as_str())
                .collect();
            let hint = nearest(base, names).map_or_else(
                || "find_patterns lists them".to_owned(),
                |near| format!("did you mean {near}? find_patterns lists them all"),
            );
            return Err(unknown(format!("there is no pattern {:?}; {hint}", data_clip(base, 80))));
        };
        let Some(pin) = pin else { return Ok(pattern) };
        let versions = self.library.versions(base);
        versions.iter().find(|pattern| pins(pin, pattern.version)).cloned().ok_or_else(|| {
            let listed: Vec<String> = versions.iter().map(|pattern| pattern.version.to_string()).collect();
            unknown(format!(
                "{base} is here in version {}, not {:?}; name it without a version, or with @{}",
                listed.join(", "),
                data_clip(pin, 40),
                pattern.version.major
            ))
        })
    }

    async fn routed(&self, query: &str, request: &ExecuteRequest, allowed: &Allowed) -> Resolved {
        let route = || {
            let among = Among {
                admits: &|pattern| allowed.admits(pattern),
                // What is said explicitly takes the place of what the words say.
                has_path: &|input, path| request.input.contains_key(input) || allowed.has_path(path),
            };
            self.library.route(query, request.mode, among)
        };
        let mut routed = route();
        if matches!(routed, Routed::Candidates(_)) && embedding::loaded().is_none() {
            embedding::ready(EMBEDDING_WAIT).await;
            routed = route();
        }
        match routed {
            Routed::Match { pattern, input, by } if pattern.effect == Effect::ReadOnly => {
                // What the caller says explicitly wins over what its words were taken to mean.
                let mut merged = input;
                merged.extend(request.input.clone());
                Resolved::Chosen(Chosen {
                    pattern,
                    input: merged,
                    query: Some(query.to_owned()),
                    matched_by: by,
                })
            }
            Routed::Match { pattern, input, .. } => {
                Resolved::Candidates(query.to_owned(), vec![candidate(&pattern, &input, &request.input)])
            }
            Routed::Candidates(candidates) => Resolved::Candidates(
                query.to_owned(),
                candidates
                    .iter()
                    .filter(|(pattern, _)| allowed.admits(pattern))
                    .take(CANDIDATES_MAX)
                    .map(|(pattern, input)| candidate(pattern, input, &request.input))
                    .collect(),
            ),
        }
    }

    /// The patterns that are `allowed`, best first for `query` (by name where there is none), at most `limit`; and
    /// how many there are.
    pub async fn find(
        &self,
        query: Option<&str>,
        allowed: &Allowed,
        limit: usize,
    ) -> (Vec<Candidate>, usize) {
        let patterns = match query.map(str::trim).filter(|query| !query.is_empty()) {
            Some(query) => {
                embedding::ready(EMBEDDING_WAIT).await;
                self.library.ranked(query)
            }
            None => self.library.all(),
        };
        let mut found: Vec<_> = patterns.iter().filter(|pattern| allowed.admits(pattern)).collect();
        found.sort_by_key(|pattern| pattern.deprecated.is_some());
        let total = found.len();
        found.truncate(limit);
        (found.into_iter().map(|pattern| candidate(pattern, &Map::new(), &Map::new())).collect(), total)
    }
}

/// The text of `find_patterns`: `{patterns: [{name, description, inputs}], total?}`; an input with `*` is required.
#[must_use]
pub fn found_text(found: &[Candidate], total: usize) -> String {
    let patterns: Vec<Value> = found.iter().map(shown).collect();
    let mut text = json!({"patterns": patterns});
    if total > found.len() {
        text["total"] = json!(total);
    }
    text.to_string()
}

fn shown(candidate: &Candidate) -> Value {
    let inputs: Vec<String> = candidate
        .inputs
        .iter()
        .map(|name| if candidate.missing.contains(name) { format!("{name}*") } else { name.clone() })
        .collect();
    json!({"name": candidate.name, "description": candidate.description, "inputs": inputs})
}

fn candidate(pattern: &Pattern, filled: &Map<String, Value>, given: &Map<String, Value>) -> Candidate {
    let names = |member: &str| -> Vec<String> {
        match pattern.inputs.get(member) {
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            Some(Value::Object(properties)) => properties.keys().cloned().collect(),
            _ => Vec::new(),
        }
    };
    let first_sentence = pattern.description.split(". ").next().unwrap_or_default();
    let first_sentence = match pattern.deprecated.as_ref().map(|deprecated| &deprecated.replaced_by) {
        Some(Some(name)) => format!("(deprecated, use {name}) {first_sentence}"),
        Some(None) => format!("(deprecated) {first_sentence}"),
        None => first_sentence.to_owned(),
    };
    Candidate {
        name: pattern.name.clone(),
        description: data_clip(first_sentence.trim(), DESCRIPTION_CHARS),
        missing: names("required")
            .into_iter()
            .filter(|name| !filled.contains_key(name) && !given.contains_key(name))
            .collect(),
        inputs: names("properties"),
    }
}
