//! Which triggers a query matches. Behind [`TriggerIndex`], so that the way of finding can change.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use regex::{RegexSet, RegexSetBuilder};

use crate::pattern::{Pattern, Triggers};

/// Regexes of one set: larger ones grow too slowly to build.
const SET_REGEXES: usize = 128;
/// With so few, one by one is as quick and needs no set to be built.
const SINGLE_REGEXES: usize = 64;
const SET_BYTES_MAX: usize = 64 << 20;

/// A word of a text and where it stands.
pub(super) struct Word {
    pub(super) text: String,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// The words of `text`, in lower case: runs of letters, digits and `_`.
pub(super) fn words(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut start = None;
    for (at, char) in text.char_indices().chain([(text.len(), ' ')]) {
        match (char.is_alphanumeric() || char == '_', start) {
            (true, None) => start = Some(at),
            (false, Some(begun)) => {
                words.push(Word { text: text[begun..at].to_lowercase(), start: begun, end: at });
                start = None;
            }
            _ => {}
        }
    }
    words
}

/// One pattern's triggers against one query.
pub(crate) struct Matcher;

impl Matcher {
    /// Whether a phrase or a regex of `triggers` matches `query`.
    pub(crate) fn matches(triggers: &Triggers, query: &str) -> bool {
        let query_words = words(query);
        triggers.phrases.iter().any(|phrase| Self::phrase(&query_words, phrase).is_some())
            || triggers.regexes.iter().any(|regex| regex.is_match(query))
    }

    /// Where `phrase` stands among the words of a query.
    pub(super) fn phrase(query: &[Word], phrase: &str) -> Option<(usize, usize)> {
        let phrase = words(phrase);
        if phrase.is_empty() {
            return None;
        }
        query
            .windows(phrase.len())
            .find(|window| window.iter().zip(&phrase).all(|(word, wanted)| word.text == wanted.text))
            .map(|window| (window[0].start, window[window.len() - 1].end))
    }
}

struct Phrase {
    words: Vec<String>,
    pattern: usize,
}

/// The triggers of all patterns.
#[derive(Default)]
pub(crate) struct TriggerIndex {
    /// By first word.
    phrases: HashMap<String, Vec<Phrase>>,
    regexes: Vec<(regex::Regex, usize)>,
    /// Made when first asked.
    sets: OnceLock<Vec<Option<RegexSet>>>,
}

impl std::fmt::Debug for TriggerIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TriggerIndex").field("regexes", &self.regexes.len()).finish_non_exhaustive()
    }
}

impl TriggerIndex {
    /// Of `patterns`, which it will call by their places.
    pub(crate) fn new(patterns: &[Arc<Pattern>]) -> Self {
        let mut index = Self::default();
        for (number, pattern) in patterns.iter().enumerate() {
            for phrase in &pattern.triggers.phrases {
                let words: Vec<String> = words(phrase).into_iter().map(|word| word.text).collect();
                if let Some(first) = words.first().cloned() {
                    index.phrases.entry(first).or_default().push(Phrase { words, pattern: number });
                }
            }
            index.regexes.extend(pattern.triggers.regexes.iter().map(|regex| (regex.clone(), number)));
        }
        index
    }

    /// The patterns that `query` matches, in order, each with `phrase` or `regex`.
    pub(crate) fn find(&self, query: &str) -> Vec<(usize, &'static str)> {
        let mut found: Vec<(usize, &'static str)> = Vec::new();
        let query_words = words(query);
        for (at, word) in query_words.iter().enumerate() {
            for phrase in self.phrases.get(&word.text).into_iter().flatten() {
                let rest = &query_words[at..];
                let fits = phrase.words.len() <= rest.len()
                    && phrase.words.iter().zip(rest).all(|(wanted, word)| *wanted == word.text);
                if fits && !found.iter().any(|(known, _)| *known == phrase.pattern) {
                    found.push((phrase.pattern, "phrase"));
                }
            }
        }
        for regex in self.matching_regexes(query) {
            let pattern = self.regexes[regex].1;
            if !found.iter().any(|(known, _)| *known == pattern) {
                found.push((pattern, "regex"));
            }
        }
        found.sort_unstable();
        found
    }

    fn matching_regexes(&self, query: &str) -> Vec<usize> {
        if self.regexes.len() <= SINGLE_REGEXES {
            let each = self.regexes.iter().enumerate().filter(|(_, (regex, _))| regex.is_match(query));
            return each.map(|(index, _)| index).collect();
        }
        let sets = self.sets.get_or_init(|| {
            let build = |chunk: &[(regex::Regex, usize)]| {
                RegexSetBuilder::new(chunk.iter().map(|(regex, _)| regex.as_str()))
                    .size_limit(SET_BYTES_MAX)
                    .dfa_size_limit(SET_BYTES_MAX)
                    .build()
                    .ok()
            };
            self.regexes.chunks(SET_REGEXES).map(build).collect()
        });
        let mut matching = Vec::new();
        for (number, (set, chunk)) in sets.iter().zip(self.regexes.chunks(SET_REGEXES)).enumerate() {
            let base = number * SET_REGEXES;
            if let Some(set) = set {
                matching.extend(set.matches(query).iter().map(|index| base + index));
            } else {
                // Too large together: one by one.
                let each = chunk.iter().enumerate().filter(|(_, (regex, _))| regex.is_match(query));
                matching.extend(each.map(|(index, _)| base + index));
            }
        }
        matching
    }
}
