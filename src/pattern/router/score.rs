//! A small lexical score (BM25 over names, phrases and descriptions): orders candidates, never runs one.

use std::{collections::HashMap, sync::Arc};

use super::trigger::words;
use crate::pattern::Pattern;

const K1: f64 = 1.2;
const B: f64 = 0.75;
const NAME_WEIGHT: f64 = 3.0;
const PHRASE_WEIGHT: f64 = 2.0;

const STOP_WORDS: &[&str] = &[
    "a", "about", "all", "an", "and", "any", "are", "as", "at", "be", "been", "but", "by", "can", "could",
    "did", "do", "does", "for", "from", "get", "give", "has", "have", "how", "i", "in", "into", "is", "it",
    "its", "me", "my", "no", "not", "of", "on", "or", "our", "out", "please", "s", "show", "so", "t", "tell",
    "that", "the", "their", "them", "then", "there", "these", "this", "to", "up", "us", "use", "was", "we",
    "were", "what", "when", "where", "which", "who", "why", "will", "with", "you", "your",
];

/// Documents ready to be scored.
#[derive(Debug)]
pub(super) struct Ranking {
    documents: Vec<(HashMap<String, f64>, f64)>,
    documents_with: HashMap<String, usize>,
    mean_length: f64,
}

fn terms(text: &str) -> impl Iterator<Item = String> {
    words(text)
        .into_iter()
        .filter(|word| !STOP_WORDS.contains(&word.text.as_str()))
        .map(|word| stem(&word.text))
}

/// Cuts the commonest English endings, so that "commits" finds "commit".
fn stem(word: &str) -> String {
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
        let mut documents = Vec::new();
        let mut documents_with: HashMap<String, usize> = HashMap::new();
        for pattern in patterns {
            let mut weights: HashMap<String, f64> = HashMap::new();
            let mut add = |text: &str, weight: f64| {
                for term in terms(text) {
                    *weights.entry(term).or_default() += weight;
                }
            };
            add(&pattern.name.replace(['.', '-'], " "), NAME_WEIGHT);
            pattern.triggers.phrases.iter().for_each(|phrase| add(phrase, PHRASE_WEIGHT));
            add(&pattern.description, 1.0);
            for term in weights.keys() {
                *documents_with.entry(term.clone()).or_default() += 1;
            }
            let length = weights.values().sum();
            documents.push((weights, length));
        }
        let total: f64 = documents.iter().map(|(_, length)| length).sum();
        let mean_length = (total / documents.len().max(1) as f64).max(1.0);
        Self { documents, documents_with, mean_length }
    }

    /// One score a pattern, 0 where nothing fits.
    pub(super) fn scores(&self, query: &str) -> Vec<f64> {
        let mut query: Vec<String> = terms(query).collect();
        query.sort_unstable();
        query.dedup();
        let count = self.documents.len() as f64;
        self.documents
            .iter()
            .map(|(weights, length)| {
                let each = query.iter().filter_map(|term| {
                    let weight = weights.get(term)?;
                    let with = self.documents_with.get(term).copied().unwrap_or(0) as f64;
                    let rarity = ((count - with + 0.5) / (with + 0.5)).ln_1p();
                    let norm = K1 * (1.0 - B + B * length / self.mean_length);
                    Some(rarity * weight * (K1 + 1.0) / (weight + norm))
                });
                each.sum()
            })
            .collect()
    }
}
