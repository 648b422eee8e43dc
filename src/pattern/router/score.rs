//! The order of candidates: BM25 over names, phrases, descriptions and examples, and nearness of vectors, fused by reciprocal
//! rank. Orders candidates, never runs one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
};

use super::{glossary, trigger::words};
use crate::{
    embedding::{self, Embedder},
    nearest::nearest,
    pattern::Pattern,
};

const K1: f64 = 1.2;
const B: f64 = 0.75;
const NAME_WEIGHT: f64 = 3.0;
const PHRASE_WEIGHT: f64 = 2.0;
const EXAMPLE_WEIGHT: f64 = 0.5;
/// Of reciprocal rank fusion: how little the first ranks differ.
const FUSION: f64 = 10.0;
/// Vectors that are no nearer than this are of unrelated texts.
const NEARNESS_MIN: f32 = 0.15;
/// Places of the order by vectors that count.
const NEAREST_MAX: usize = 32;
/// Examples of a pattern that get a vector.
const EXAMPLES_MAX: usize = 6;
/// Shorter words are not taken for slips of the pen.
const SLIP_CHARS_MIN: usize = 5;

const STOP_WORDS: &[&str] = &[
    "a", "about", "all", "an", "and", "any", "are", "as", "at", "be", "been", "but", "by", "can", "could",
    "did", "do", "does", "don", "for", "from", "get", "give", "has", "have", "how", "i", "in", "into", "is",
    "it", "its", "me", "my", "no", "not", "of", "on", "or", "our", "out", "please", "s", "show", "so", "t",
    "tell", "that", "the", "their", "them", "then", "there", "these", "this", "to", "up", "us", "use", "was",
    "we", "were", "what", "when", "where", "which", "who", "why", "will", "with", "you", "your",
];

/// Patterns ready to be scored.
#[derive(Debug)]
pub(super) struct Ranking {
    patterns: Vec<Arc<Pattern>>,
    /// Per term, the patterns that have it and with what weight.
    postings: HashMap<String, Vec<(u32, f32)>>,
    lengths: Vec<f32>,
    mean_length: f64,
    /// Made when the embedder is there.
    vectors: OnceLock<Vectors>,
}

/// A pattern's place in an order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ranked {
    pub(super) index: usize,
    /// BM25; 0 where no word fits.
    pub(super) lexical: f64,
    /// Of the nearest of its vectors, -1 to 1; `None` without an embedder.
    pub(super) embedding: Option<f32>,
    /// What orders.
    pub(super) fused: f64,
}

impl Ranked {
    /// A pattern that does not fit at all.
    pub(super) const fn unfit(index: usize) -> Self {
        Self { index, lexical: 0.0, embedding: None, fused: 0.0 }
    }
}

fn terms(text: &str) -> impl Iterator<Item = String> {
    words(text)
        .into_iter()
        .filter(|word| !STOP_WORDS.contains(&word.text.as_str()))
        .map(|word| stem(&word.text))
}

/// Cuts the commonest English endings, so that "commits" finds "commit".
pub(super) fn stem(word: &str) -> String {
    for (ending, rest_min) in [("ing", 4), ("ed", 4), ("ies", 3), ("es", 4), ("s", 3), ("e", 4)] {
        if let Some(rest) = word.strip_suffix(ending)
            && rest.chars().count() >= rest_min
            && !rest.ends_with('s')
        {
            return rest.to_owned();
        }
    }
    word.to_owned()
}

impl Ranking {
    pub(super) fn new(patterns: &[Arc<Pattern>]) -> Self {
        let mut postings: HashMap<String, Vec<(u32, f32)>> = HashMap::new();
        let mut lengths = Vec::with_capacity(patterns.len());
        for (number, pattern) in patterns.iter().enumerate() {
            let mut weights: BTreeMap<String, f64> = BTreeMap::new();
            let mut add = |text: &str, weight: f64| {
                for term in terms(text) {
                    *weights.entry(term).or_default() += weight;
                }
            };
            add(&pattern.name.replace(['.', '-'], " "), NAME_WEIGHT);
            pattern.triggers.phrases.iter().for_each(|phrase| add(phrase, PHRASE_WEIGHT));
            add(&pattern.description, 1.0);
            pattern.triggers.match_examples.iter().for_each(|example| add(example, EXAMPLE_WEIGHT));
            lengths.push(weights.values().sum::<f64>() as f32);
            for (term, weight) in weights {
                postings.entry(term).or_default().push((number as u32, weight as f32));
            }
        }
        let total: f64 = lengths.iter().copied().map(f64::from).sum();
        let mean_length = (total / lengths.len().max(1) as f64).max(1.0);
        Self { patterns: patterns.to_vec(), postings, lengths, mean_length, vectors: OnceLock::new() }
    }

    /// Patterns that fit `query` at all and those of `matched`, best first.
    pub(super) fn ranked(&self, query: &str, matched: impl Iterator<Item = usize>) -> Vec<Ranked> {
        let (terms, text) = self.understood(query);
        let mut all: BTreeMap<usize, Ranked> = BTreeMap::new();
        let none = Ranked::unfit;
        for index in matched {
            all.insert(index, none(index));
        }
        for (rank, (index, score)) in self.lexical(&terms).into_iter().enumerate() {
            let ranked = all.entry(index).or_insert_with(|| none(index));
            ranked.lexical = score;
            ranked.fused += 1.0 / (FUSION + 1.0 + rank as f64);
        }
        // Signs alone mean nothing.
        if let Some(embedder) = embedding::loaded().filter(|_| !words(query).is_empty()) {
            let vectors = self.vectors.get_or_init(|| Vectors::new(&self.patterns, embedder));
            let nearness = vectors.nearness(&embedder.embed(&text));
            let mut order: Vec<(usize, f32)> =
                nearness.iter().copied().enumerate().filter(|(_, near)| *near >= NEARNESS_MIN).collect();
            order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            for (rank, (index, _)) in order.into_iter().take(NEAREST_MAX).enumerate() {
                let ranked = all.entry(index).or_insert_with(|| none(index));
                ranked.fused += 1.0 / (FUSION + 1.0 + rank as f64);
            }
            for (index, ranked) in &mut all {
                ranked.embedding = Some(nearness[*index]);
            }
        }
        let mut order: Vec<Ranked> = all.into_values().collect();
        order.sort_by(|a, b| b.fused.total_cmp(&a.fused).then(a.index.cmp(&b.index)));
        order
    }

    /// The terms of `query`, and its text, with words of other languages in English and slips of the pen mended.
    fn understood(&self, query: &str) -> (Vec<String>, String) {
        let mut known: Vec<String> = Vec::new();
        let mut text = query.to_owned();
        for word in words(query) {
            if STOP_WORDS.contains(&word.text.as_str()) {
                continue;
            }
            let term = stem(&word.text);
            if self.postings.contains_key(&term) {
                known.push(term);
                continue;
            }
            let english = glossary::english(&word.text);
            for meaning in &english {
                text.push(' ');
                text.push_str(meaning);
                known.extend(terms(meaning));
            }
            if english.is_empty() && term.chars().count() >= SLIP_CHARS_MIN {
                // Few begin with another letter, and comparing takes time; of equally near ones the first by name.
                let (first, length) = (term.chars().next(), term.len());
                let near = |same: bool| {
                    let terms = self.postings.keys().map(String::as_str).filter(|known| {
                        known.len().abs_diff(length) <= 1 + usize::from(same)
                            && (known.chars().next() == first) == same
                    });
                    let mut terms: Vec<&str> = terms.collect();
                    terms.sort_unstable();
                    nearest(&term, terms)
                };
                if let Some(near) = near(true).or_else(|| near(false)) {
                    text.push(' ');
                    text.push_str(near);
                    known.push(near.to_owned());
                }
            }
        }
        known.sort_unstable();
        known.dedup();
        (known, text)
    }

    /// Patterns that have a term, best first.
    fn lexical(&self, terms: &[String]) -> Vec<(usize, f64)> {
        let count = self.patterns.len() as f64;
        let mut scores: BTreeMap<usize, f64> = BTreeMap::new();
        for postings in terms.iter().filter_map(|term| self.postings.get(term)) {
            let with = postings.len() as f64;
            let rarity = ((count - with + 0.5) / (with + 0.5)).ln_1p();
            for (index, weight) in postings {
                let (index, weight) = (*index as usize, f64::from(*weight));
                let norm = K1 * (1.0 - B + B * f64::from(self.lengths[index]) / self.mean_length);
                *scores.entry(index).or_default() += rarity * weight * (K1 + 1.0) / (weight + norm);
            }
        }
        let mut order: Vec<(usize, f64)> = scores.into_iter().collect();
        order.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        order
    }
}

/// Vectors of patterns, in bytes: several a pattern, one after the other.
#[derive(Debug)]
struct Vectors {
    numbers: Vec<i8>,
    /// Per vector its pattern.
    owners: Vec<u32>,
    patterns: usize,
}

/// What 1 is as a byte.
const SCALE: f32 = 127.0;

impl Vectors {
    fn new(patterns: &[Arc<Pattern>], embedder: &Embedder) -> Self {
        let mut made = Self { numbers: Vec::new(), owners: Vec::new(), patterns: patterns.len() };
        for (number, pattern) in patterns.iter().enumerate() {
            let about = format!("{} {}", pattern.name.replace(['.', '-'], " "), pattern.description);
            let phrases = pattern.triggers.phrases.join(", ");
            let examples = pattern.triggers.match_examples.iter().take(EXAMPLES_MAX);
            for text in [&about, &phrases].into_iter().chain(examples).filter(|text| !text.is_empty()) {
                made.numbers.extend(embedder.embed(text).iter().map(|number| (number * SCALE).round() as i8));
                made.owners.push(number as u32);
            }
        }
        made.numbers.shrink_to_fit();
        made
    }

    /// Per pattern how near its nearest vector is.
    fn nearness(&self, query: &[f32]) -> Vec<f32> {
        let query: Vec<i32> = query.iter().map(|number| (number * SCALE).round() as i32).collect();
        let mut nearest = vec![-1.0_f32; self.patterns];
        for (vector, owner) in self.numbers.chunks_exact(query.len().max(1)).zip(&self.owners) {
            let dot: i32 = vector.iter().zip(&query).map(|(a, b)| i32::from(*a) * b).sum();
            let near = &mut nearest[*owner as usize];
            *near = near.max(dot as f32 / (SCALE * SCALE));
        }
        nearest
    }
}
