//! Which triggers a query matches: one scan for what the regexes need, one walk over its words for the phrases.

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
};

use aho_corasick::AhoCorasick;

use super::{
    literal::{Group, folded, requirements},
    positions::{Classes, Program, Text, Writer},
    recent::Recent,
};
use crate::pattern::{Pattern, TriggerRegex, Triggers, trigger::CompiledRegex};

/// Half of the compiled regexes that are kept (about 14 KiB each, and ten times that for texts beyond ASCII): those that
/// say what stands where in a query that matched, and the few that nothing less decides.
const COMPILED_HALF: usize = 64;
/// Words of a phrase that are found by their hash; longer phrases are compared one by one.
const PHRASE_WORDS_MAX: usize = 32;

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
        Self::by(triggers, query).is_some()
    }

    /// As [`Matcher::matches`], and by which.
    pub(crate) fn by(triggers: &Triggers, query: &str) -> Option<&'static str> {
        let query_words = words(query);
        if triggers.phrases.iter().any(|phrase| Self::phrase(&query_words, phrase).is_some()) {
            return Some("phrase");
        }
        triggers.regexes.iter().any(|regex| regex.compile_for(query).is_match(query)).then_some("regex")
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

/// The triggers of all patterns.
#[derive(Debug, Default)]
pub(crate) struct TriggerIndex {
    patterns: Vec<Arc<Pattern>>,
    /// Made when first asked.
    index: OnceLock<Index>,
    compiled: Recent<CompiledRegex, COMPILED_HALF>,
}

impl TriggerIndex {
    /// Of `patterns`, which it will call by their places.
    pub(crate) fn new(patterns: &[Arc<Pattern>]) -> Self {
        Self { patterns: patterns.to_vec(), ..Self::default() }
    }

    /// The patterns that `query` matches, in order, each with `phrase` or `regex`.
    pub(crate) fn find(&self, query: &str) -> Vec<(usize, &'static str)> {
        let index = self.index.get_or_init(|| Index::new(&self.patterns));
        let mut found: Vec<(usize, &'static str)> = Vec::new();
        let query_words = words(query);
        for pattern in index.phrases.find(&query_words) {
            // A hash may be that of other words.
            let phrases = &self.patterns[pattern].triggers.phrases;
            let is_known = found.iter().any(|(known, _)| *known == pattern);
            if !is_known && phrases.iter().any(|phrase| Matcher::phrase(&query_words, phrase).is_some()) {
                found.push((pattern, "phrase"));
            }
        }
        let numbers = index.regexes.worth_trying(query);
        let mut text = index.text(query, numbers.len());
        for number in numbers {
            let pattern = index.owners[number].0 as usize;
            if found.iter().any(|(known, _)| *known == pattern) {
                continue;
            }
            if self.is_match(index, number, query, &mut text) {
                found.push((pattern, "regex"));
            }
        }
        found.sort_unstable();
        found
    }

    /// The regexes of a pattern, compiled for `query`.
    pub(super) fn regexes(&self, pattern: usize, query: &str) -> Vec<Arc<CompiledRegex>> {
        let index = self.index.get_or_init(|| Index::new(&self.patterns));
        let regexes = index.numbers(pattern).zip(&self.patterns[pattern].triggers.regexes);
        regexes.map(|(number, regex)| self.compiled(number, regex, query)).collect()
    }

    /// As [`TriggerIndex::regexes`], but only those that match; the others are not compiled for it.
    pub(super) fn matching_regexes(&self, pattern: usize, query: &str) -> Vec<Arc<CompiledRegex>> {
        let index = self.index.get_or_init(|| Index::new(&self.patterns));
        let numbers = index.numbers(pattern);
        let mut text = index.text(query, numbers.len());
        let regexes = numbers.zip(&self.patterns[pattern].triggers.regexes);
        regexes
            .filter(|(number, _)| self.is_match(index, *number, query, &mut text))
            .map(|(number, regex)| self.compiled(number, regex, query))
            .collect()
    }

    /// Whether the regex matches `query`, which is `text` unless that is too long: compiled only where it must be.
    fn is_match(&self, index: &Index, number: usize, query: &str, text: &mut Option<Text<'_>>) -> bool {
        if let (Some(text), Some(program)) = (text, &index.programs[number]) {
            return text.is_match(program);
        }
        let (pattern, place) = index.owners[number];
        let regex = &self.patterns[pattern as usize].triggers.regexes[place as usize];
        self.compiled(number, regex, query).is_match(query)
    }

    fn compiled(&self, number: usize, regex: &TriggerRegex, query: &str) -> Arc<CompiledRegex> {
        let key = number * 2 + usize::from(regex.is_plain_for(query));
        self.compiled.get(key, || regex.compile_for(query))
    }
}

/// What finds triggers quickly.
#[derive(Debug)]
struct Index {
    phrases: Phrases,
    regexes: Literals,
    /// Per regex, in the order of patterns: its pattern, and its place there.
    owners: Vec<(u32, u32)>,
    /// Per regex what decides it without compiling it; `None` where it has to be compiled.
    programs: Vec<Option<Program>>,
    /// Of the programs.
    classes: Classes,
}

impl Index {
    fn new(patterns: &[Arc<Pattern>]) -> Self {
        let owners = patterns.iter().enumerate().flat_map(|(pattern, known)| {
            (0..known.triggers.regexes.len()).map(move |place| (pattern as u32, place as u32))
        });
        let mut writer = Writer::default();
        let mut programs = Vec::new();
        let needs = patterns.iter().flat_map(|pattern| &pattern.triggers.regexes).map(|regex| {
            let parsed = regex_syntax::parse(regex.as_str()).ok();
            programs.push(parsed.as_ref().and_then(|hir| writer.program(hir)));
            parsed.map_or_else(Vec::new, |hir| requirements(&hir))
        });
        let regexes = Literals::new(needs);
        programs.shrink_to_fit();
        Self {
            phrases: Phrases::new(patterns),
            regexes,
            owners: owners.collect(),
            programs,
            classes: writer.finish(),
        }
    }

    /// The regexes of a pattern.
    fn numbers(&self, pattern: usize) -> Range<usize> {
        let before = |pattern| self.owners.partition_point(|(owner, _)| (*owner as usize) < pattern);
        before(pattern)..before(pattern + 1)
    }

    /// `query` for `regexes` programs; `None` where there are none, or where it is too long for them.
    fn text(&self, query: &str, regexes: usize) -> Option<Text<'_>> {
        (regexes > 0).then(|| Text::new(&self.classes, query)).flatten()
    }
}

/// Phrases by the hash of their words.
#[derive(Debug, Default)]
struct Phrases {
    /// (hash, pattern), ordered.
    hashes: Vec<(u64, u32)>,
    /// Bit `hash % bits`: there may be such a hash. Most runs of words are none of a phrase, and end here.
    maybe: Vec<u64>,
    /// Bit n: there are phrases of n words.
    lengths: u64,
    /// Patterns with phrases that are too long to be hashed.
    long: Vec<u32>,
}

/// FNV-1a over the bytes of words, each ended by a byte that no text has.
fn hash(seed: u64, word: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    step(word.bytes().fold(seed, step), 0xff)
}

const SEED: u64 = 0xcbf2_9ce4_8422_2325;

impl Phrases {
    fn new(patterns: &[Arc<Pattern>]) -> Self {
        let mut made = Self::default();
        for (number, pattern) in patterns.iter().enumerate() {
            for phrase in &pattern.triggers.phrases {
                let words = words(phrase);
                match words.len() {
                    0 => {}
                    count if count <= PHRASE_WORDS_MAX => {
                        made.lengths |= 1 << count;
                        let hash = words.iter().fold(SEED, |seed, word| hash(seed, &word.text));
                        made.hashes.push((hash, number as u32));
                    }
                    _ => made.long.push(number as u32),
                }
            }
        }
        made.hashes.sort_unstable();
        made.hashes.dedup();
        made.hashes.shrink_to_fit();
        made.maybe = vec![0; (made.hashes.len() / 8).next_power_of_two()];
        for (hash, _) in &made.hashes {
            let word = *hash as usize / 64 % made.maybe.len();
            made.maybe[word] |= 1 << (hash % 64);
        }
        made
    }

    /// Patterns that may have a phrase among `query`, maybe more than once.
    fn find(&self, query: &[Word]) -> Vec<usize> {
        let mut found: Vec<usize> = self.long.iter().map(|pattern| *pattern as usize).collect();
        let longest = 63_usize.saturating_sub(self.lengths.leading_zeros() as usize);
        for start in 0..query.len() {
            let mut seed = SEED;
            for (length, word) in (1..=longest).zip(&query[start..]) {
                seed = hash(seed, &word.text);
                let maybe = self.maybe[seed as usize / 64 % self.maybe.len()] & (1 << (seed % 64));
                if self.lengths & (1 << length) == 0 || maybe == 0 {
                    continue;
                }
                let first = self.hashes.partition_point(|(hash, _)| *hash < seed);
                let same = self.hashes[first..].iter().take_while(|(hash, _)| *hash == seed);
                found.extend(same.map(|(_, pattern)| *pattern as usize));
            }
        }
        found
    }
}

/// Regexes by what a text must contain for them to match.
#[derive(Debug)]
struct Literals {
    scan: Option<AhoCorasick>,
    count: usize,
    /// Per literal the regexes whose rarest group it belongs to.
    wanted: Vec<Box<[u32]>>,
    /// Per regex its other groups, as literals: one of each must be there too.
    others: Vec<Box<[Box<[u32]>]>>,
    /// Regexes of which nothing is known.
    always: Vec<u32>,
}

impl Literals {
    /// From what each regex needs.
    fn new(regexes: impl Iterator<Item = Vec<Group>>) -> Self {
        let mut numbers: std::collections::HashMap<String, u32> = std::collections::HashMap::new();
        let mut uses: Vec<u32> = Vec::new();
        let mut each: Vec<Vec<Box<[u32]>>> = Vec::new();
        for groups in regexes {
            let groups = groups.into_iter().map(|group| {
                let group = group.into_iter().map(|literal| {
                    let next = numbers.len() as u32;
                    let number = *numbers.entry(literal).or_insert(next);
                    if number == next {
                        uses.push(0);
                    }
                    uses[number as usize] += 1;
                    number
                });
                group.collect()
            });
            each.push(groups.collect());
        }
        let mut wanted: Vec<Vec<u32>> = vec![Vec::new(); numbers.len()];
        let mut always = Vec::new();
        let mut others = Vec::with_capacity(each.len());
        for (regex, mut groups) in each.into_iter().enumerate() {
            let cost = |group: &[u32]| -> u32 { group.iter().map(|literal| uses[*literal as usize]).sum() };
            let rarest = (0..groups.len()).min_by_key(|place| cost(&groups[*place]));
            match rarest {
                Some(rarest) => {
                    for literal in groups.swap_remove(rarest) {
                        wanted[literal as usize].push(regex as u32);
                    }
                }
                None => always.push(regex as u32),
            }
            others.push(groups.into_boxed_slice());
        }
        let literals = numbers.len();
        let mut texts: Vec<(String, u32)> = numbers.into_iter().collect();
        texts.sort_unstable_by_key(|(_, number)| *number);
        let scan =
            (literals > 0).then(|| AhoCorasick::new(texts.iter().map(|(text, _)| text)).ok()).flatten();
        if scan.is_none() {
            // Without the scan each regex is tried.
            always = (0..others.len() as u32).collect();
        }
        Self {
            scan,
            count: literals,
            wanted: wanted.into_iter().map(Vec::into_boxed_slice).collect(),
            others,
            always,
        }
    }

    /// Regexes that may match `query`, each once, in order.
    fn worth_trying(&self, query: &str) -> Vec<usize> {
        let mut found = self.always.clone();
        if let Some(scan) = &self.scan {
            let mut bits = vec![0_u64; self.count.div_ceil(64)];
            let mut seen: Vec<u32> = Vec::new();
            for hit in scan.find_overlapping_iter(&folded(query)) {
                let literal = hit.pattern().as_usize();
                if bits[literal / 64] & (1 << (literal % 64)) == 0 {
                    bits[literal / 64] |= 1 << (literal % 64);
                    seen.push(literal as u32);
                }
            }
            let is_seen = |literal: u32| bits[literal as usize / 64] & (1 << (literal % 64)) != 0;
            for literal in seen {
                found.extend(self.wanted[literal as usize].iter().copied().filter(|regex| {
                    let others = &self.others[*regex as usize];
                    others.iter().all(|group| group.iter().any(|literal| is_seen(*literal)))
                }));
            }
        }
        found.sort_unstable();
        found.dedup();
        found.into_iter().map(|regex| regex as usize).collect()
    }
}

#[cfg(test)]
mod tests;
