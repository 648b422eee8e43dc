//! Words of a text: what the index holds beside the text itself, and what a query looks for.

use std::collections::BTreeSet;

/// Terms of one query; what comes after them is left out.
const QUERY_TERMS_MAX: usize = 32;
/// Shortest term that is also looked for as the beginning of a word.
const PREFIX_CHARS_MIN: usize = 3;

/// Words by which similar texts are looked for.
const SIMILAR_WORDS: usize = 4;
/// English words that nearly every text has; sorted.
const COMMON: &[&str] = &[
    "a", "about", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be", "been", "but", "by",
    "can", "could", "did", "do", "does", "for", "from", "had", "has", "have", "he", "her", "his", "how", "i",
    "if", "in", "into", "is", "it", "its", "me", "my", "no", "not", "of", "on", "or", "our", "she", "should",
    "so", "some", "than", "that", "the", "their", "them", "then", "there", "these", "they", "this", "to",
    "was", "we", "were", "what", "when", "where", "which", "who", "why", "will", "with", "would", "you",
    "your",
];

/// Scripts that are written without spaces, where pairs of letters stand for words.
const fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{0E00}'..='\u{0EFF}' | '\u{1000}'..='\u{109F}' | '\u{1780}'..='\u{17FF}'
        | '\u{3040}'..='\u{30FF}' | '\u{31F0}'..='\u{31FF}' | '\u{3400}'..='\u{4DBF}'
        | '\u{4E00}'..='\u{9FFF}' | '\u{AC00}'..='\u{D7AF}' | '\u{F900}'..='\u{FAFF}'
        | '\u{FF66}'..='\u{FF9F}' | '\u{20000}'..='\u{3FFFF}')
}

/// Maximal runs of letters and digits.
fn runs(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|run| !run.is_empty())
}

/// Splits a run where spaced and unspaced scripts meet.
fn scripts(run: &str) -> Vec<(&str, bool)> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut kind = None;
    for (at, c) in run.char_indices() {
        let unspaced = is_unspaced(c);
        if let Some(before) = kind
            && before != unspaced
        {
            parts.push((&run[start..at], before));
            start = at;
        }
        kind = Some(unspaced);
    }
    if let Some(kind) = kind {
        parts.push((&run[start..], kind));
    }
    parts
}

/// The parts of an identifier: `parseHTTPFrame2` is `parse`, `HTTP`, `Frame`, `2`.
fn identifier_parts(word: &str) -> Vec<&str> {
    let chars: Vec<(usize, char)> = word.char_indices().collect();
    let mut parts = Vec::new();
    let mut start = 0;
    for at in 1..chars.len() {
        let (before, here) = (chars[at - 1].1, chars[at].1);
        let next_is_lower = chars.get(at + 1).is_some_and(|(_, next)| next.is_lowercase());
        let boundary = (before.is_lowercase() && here.is_uppercase())
            || (before.is_uppercase() && here.is_uppercase() && next_is_lower)
            || before.is_numeric() != here.is_numeric();
        if boundary {
            parts.push(&word[start..chars[at].0]);
            start = chars[at].0;
        }
    }
    parts.push(&word[start..]);
    parts
}

/// Pairs of neighbouring letters, and the last letter alone.
fn pairs(word: &str) -> Vec<String> {
    let chars: Vec<char> = word.chars().collect();
    let mut pairs: Vec<String> = chars.windows(2).map(|pair| pair.iter().collect()).collect();
    pairs.extend(chars.last().map(ToString::to_string));
    pairs
}

/// What the index holds beside `text`: the parts of its identifiers, the pairs of its unspaced scripts.
pub(super) fn index_words(text: &str) -> String {
    let mut words = BTreeSet::new();
    for run in runs(text) {
        let scripts = scripts(run);
        let mixed = scripts.len() > 1;
        for (part, unspaced) in scripts {
            if unspaced {
                words.extend(pairs(part));
                continue;
            }
            let identifier = identifier_parts(part);
            if mixed || identifier.len() > 1 {
                words.extend(identifier.into_iter().map(str::to_lowercase));
                words.insert(part.to_lowercase());
            }
        }
    }
    words.into_iter().collect::<Vec<_>>().join(" ")
}

/// A query for SQLite's FTS5 that looks for any of `text`'s words, or `None` where it has none.
pub(super) fn fts_query(text: &str) -> Option<String> {
    joined(fts_terms(text).into_iter())
}

/// Its terms. Every term is a quoted string of letters and digits, so nothing in `text` is ever read as syntax. Words that nearly
/// every English text has are left out unless there are no others.
pub(super) fn fts_terms(text: &str) -> Vec<String> {
    telling_terms(text).iter().map(|term| format!("\"{term}\"")).collect()
}

/// The terms of a query without the words that nearly every English text has, unless there are no others.
pub(super) fn telling_terms(text: &str) -> Vec<String> {
    let terms = query_terms(text).into_iter().map(|(term, _)| term);
    let (common, telling): (Vec<String>, Vec<String>) = terms.partition(|term| is_common(term));
    if telling.is_empty() { common } else { telling }
}

/// The single words that a query asks for.
pub(super) fn telling_words(text: &str) -> Vec<String> {
    telling_terms(text).into_iter().filter(|term| !term.contains(' ')).collect()
}

/// The share of `words` that a memory holds which matched at least one of them, above 0 to 1.
pub(super) fn coverage(words: &[String], content: &str, tags: &[String]) -> f64 {
    let mut missing: Vec<&str> = words.iter().map(String::as_str).collect();
    let texts = std::iter::once(content).chain(tags.iter().map(String::as_str));
    for (is_tag, run) in texts.enumerate().flat_map(|(nth, text)| runs(text).map(move |run| (nth > 0, run))) {
        if missing.is_empty() {
            break;
        }
        for (part, unspaced) in scripts(run) {
            let mut holds = |held: &str| missing.retain(|word| !is_form_of(word, held));
            if unspaced {
                for pair in pairs(part) {
                    holds(&pair);
                }
                continue;
            }
            holds(&part.to_lowercase());
            if !is_tag {
                let identifier = identifier_parts(part);
                identifier
                    .iter()
                    .filter(|_| identifier.len() > 1)
                    .for_each(|word| holds(&word.to_lowercase()));
            }
        }
    }
    let found = words.len() - missing.len();
    // The index knows more forms of a word than we do, so none found means one.
    found.max(1) as f64 / words.len().max(1) as f64
}

/// Whether two words are probably forms of one: they differ in their endings only, or one begins the other.
fn is_form_of(word: &str, other: &str) -> bool {
    let alike = word.chars().zip(other.chars()).take_while(|(a, b)| a == b).count();
    let (one, two) = (word.chars().count(), other.chars().count());
    word == other || (alike >= PREFIX_CHARS_MIN && (alike == one || alike + 3 >= one.max(two)))
}

/// The same for words that begin with one of `text`'s longer words.
pub(super) fn fts_prefix_terms(text: &str) -> Vec<String> {
    prefix_terms(text).iter().map(|term| format!("\"{term}\"*")).collect()
}

/// The terms of a query that may be beginnings of words.
pub(super) fn prefix_terms(text: &str) -> Vec<String> {
    query_terms(text).into_iter().filter(|(_, prefix)| *prefix).map(|(term, _)| term).collect()
}

/// The few words of `text` that say most about it.
pub(super) fn longest_words(text: &str) -> Vec<String> {
    let mut words: Vec<String> = word_set(text).into_iter().filter(|word| !is_common(word)).collect();
    words.sort_by_key(|word| std::cmp::Reverse(word.len()));
    words.truncate(SIMILAR_WORDS);
    words
}

/// A query for texts that share at least two of the few words of `text` that say most about it, the longest ones (for
/// a text with a single word, that one).
pub(super) fn fts_similar_query(text: &str) -> Option<String> {
    let words = longest_words(text);
    let mut pairs = Vec::new();
    for (at, one) in words.iter().enumerate() {
        pairs.extend(words[at + 1..].iter().map(|other| format!("(\"{one}\" AND \"{other}\")")));
    }
    if pairs.is_empty() {
        pairs.extend(words.iter().map(|word| format!("\"{word}\"")));
    }
    joined(pairs.into_iter())
}

fn joined(terms: impl Iterator<Item = String>) -> Option<String> {
    let query = terms.collect::<Vec<_>>().join(" OR ");
    (!query.is_empty()).then_some(query)
}

fn is_common(term: &str) -> bool {
    COMMON.binary_search(&term).is_ok()
}

/// The terms of a query, and whether each may be the beginning of a longer word.
fn query_terms(text: &str) -> Vec<(String, bool)> {
    let mut terms: Vec<(String, bool)> = Vec::new();
    let mut add = |term: String, prefix: bool| {
        if terms.len() < QUERY_TERMS_MAX && !terms.iter().any(|(known, _)| *known == term) {
            terms.push((term, prefix));
        }
    };
    for chunk in text.split_whitespace() {
        let in_chunk: Vec<&str> = runs(chunk).collect();
        if in_chunk.len() > 1 && in_chunk.len() <= 8 {
            add(in_chunk.join(" ").to_lowercase(), false);
        }
        for run in in_chunk {
            for (part, unspaced) in scripts(run) {
                if unspaced {
                    let pairs = pairs(part);
                    let count = pairs.len();
                    // The last letter alone matters only where there is no pair.
                    for pair in pairs.into_iter().take(if count > 1 { count - 1 } else { 1 }) {
                        add(pair, count == 1);
                    }
                    continue;
                }
                add(part.to_lowercase(), part.chars().count() >= PREFIX_CHARS_MIN);
                let identifier = identifier_parts(part);
                if identifier.len() > 1 {
                    for word in identifier.into_iter().filter(|word| word.chars().count() > 1) {
                        add(word.to_lowercase(), false);
                    }
                }
            }
        }
    }
    terms
}

/// The set of `text`'s words, to compare texts with.
pub(super) fn word_set(text: &str) -> BTreeSet<String> {
    runs(text)
        .flat_map(scripts)
        .flat_map(|(part, unspaced)| if unspaced { pairs(part) } else { vec![part.to_lowercase()] })
        .collect()
}

/// Shared words over all words, 0 to 1.
pub(super) fn likeness(one: &BTreeSet<String>, other: &BTreeSet<String>) -> f64 {
    let shared = one.intersection(other).count();
    let all = one.len() + other.len() - shared;
    if all == 0 { 0.0 } else { shared as f64 / all as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_indexed_by_their_parts() {
        for (text, words) in [
            ("plain words only", ""),
            ("call parseFrame", "frame parse parseframe"),
            ("HTTPServer2", "2 http httpserver2 server"),
            ("snake_case", ""),
            ("日本語", "日本 本語 語"),
            ("API設計", "api 計 設計"),
        ] {
            assert_eq!(index_words(text), words, "{text}");
        }
    }

    #[test]
    fn a_query_is_quoted_terms_joined_by_or() {
        for (text, query) in [
            ("", None),
            (" \t -- \"*\" ()", None),
            ("the", Some(r#""the""#)),
            ("the Parser of", Some(r#""parser""#)),
            (r#"" OR x NEAR(*)"#, Some(r#""x" OR "near""#)),
            ("a-b", Some(r#""a b" OR "b""#)),
            ("日本語", Some(r#""日本" OR "本語""#)),
            ("語", Some(r#""語""#)),
        ] {
            assert_eq!(fts_query(text).as_deref(), query, "{text}");
        }
        assert_eq!(fts_prefix_terms("語 pars of"), [r#""語"*"#, r#""pars"*"#]);
        assert_eq!(fts_similar_query("one").as_deref(), Some(r#""one""#));
        assert_eq!(fts_similar_query("the one three").as_deref(), Some(r#"("three" AND "one")"#));
        assert!(COMMON.is_sorted());
    }

    #[test]
    fn a_query_has_a_bounded_number_of_terms() {
        let text = (0..1_000).map(|n| format!("word{n}")).collect::<Vec<_>>().join(" ");
        let query = fts_query(&text).unwrap();
        assert!(query.matches(" OR ").count() < QUERY_TERMS_MAX, "{query}");
    }

    #[test]
    fn coverage_is_the_share_of_words_that_a_memory_holds() {
        for (query, content, expected) in [
            ("port", "The default port is 7337", 1.0),
            ("which ports do servers use", "the server listens on a port", 2.0 / 3.0),
            ("alpha beta gamma delta", "alpha", 0.25),
            ("recall memory", "memoryRecall", 1.0),
            ("wholly other words", "nothing", 1.0 / 3.0),
            ("日本語", "日本", 0.5),
            ("", "nothing", 1.0),
        ] {
            let share = coverage(&telling_words(query), content, &[]);
            assert!((share - expected).abs() < 1e-9, "{query}: {share}");
        }
        assert!((coverage(&telling_words("storage"), "SQLite", &["storage".to_owned()]) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn likeness_is_shared_words_over_all_words() {
        let of = |a, b| likeness(&word_set(a), &word_set(b));
        assert!((of("use tokio here", "Use Tokio here!") - 1.0).abs() < 1e-9);
        assert!((of("a b c", "a b d") - 0.5).abs() < 1e-9);
        assert!(of("", "").abs() < 1e-9);
    }

    proptest::proptest! {
        #[test]
        fn a_query_never_holds_anything_but_letters_digits_quotes_and_or(text in ".{0,80}") {
            for query in [fts_terms(&text), fts_prefix_terms(&text)] {
                for part in &query {
                    let inner = part.strip_suffix('*').unwrap_or(part);
                    let inner = inner.strip_prefix('"').and_then(|i| i.strip_suffix('"')).unwrap();
                    // Lower case can bring combining marks, never syntax.
                    proptest::prop_assert!(!inner.contains(['"', '*', ':', '(', ')']));
                }
            }
            let _ = index_words(&text);
        }
    }
}
