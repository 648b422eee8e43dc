//! What a query says beside its trigger and its inputs. A word that nobody takes may be what matters most ("project health
//! *insurance*", "recent commits *of Linus*"), so that only words which hold a question together, and those that say what
//! the pattern does anyway, may be left over.

use std::collections::HashSet;

use super::{
    closed,
    extract::Filled,
    score::stem,
    trigger::{Word, words},
    value,
};
use crate::pattern::Pattern;

/// Words of a pattern, as stems.
#[derive(Debug, Default)]
pub(super) struct Vocabulary {
    /// Of its name and phrases.
    own: HashSet<String>,
    /// Of its description: what it does anyway.
    about: HashSet<String>,
}

impl Vocabulary {
    pub(super) fn of(pattern: &Pattern) -> Self {
        let stems = |text: &str| words(text).into_iter().map(|word| stem(&word.text)).collect::<Vec<_>>();
        let mut own: HashSet<String> = stems(&pattern.name).into_iter().collect();
        own.extend(pattern.triggers.phrases.iter().flat_map(|phrase| stems(phrase)));
        Self { own, about: stems(&pattern.description).into_iter().collect() }
    }
}

/// The first word of `query` that would be lost.
pub(super) fn beside<'q>(query: &'q str, filled: &Filled, vocabulary: &Vocabulary) -> Option<&'q str> {
    let words = words(query);
    let mut clause = Clause::default();
    let mut narrows = false;
    for (at, word) in words.iter().enumerate() {
        if at == 0 || ends(query, words[at - 1].end, word.start) {
            clause = Clause::of(query, &words[at..], filled);
            narrows = false;
        }
        if clause.is_apart || filled.is_taken(word.start, word.end) {
            narrows = false;
            continue;
        }
        // "My changes to it": to what? But "20 of them".
        let is_after = at > 0 && closed::restricts(&words[at - 1].text);
        let counts = at > 1 && filled.is_used(words[at - 2].start, words[at - 2].end);
        let is_alone = words.get(at + 1).is_none_or(|next| closed::is_closed(&next.text));
        if closed::points(&word.text) && is_after && is_alone && !counts {
            return Some(&query[word.start..word.end]);
        }
        let next = words.get(at + 1).map(|next| next.text.as_str());
        let before = at.checked_sub(1).map(|before| &words[before]);
        // "What changed *your mind*", "what changed *us*?" ask of something else.
        let is_object = closed::is_object(&word.text)
            && is_alone
            && before.is_some_and(|before| filled.is_literal(before.start, before.end));
        if is_object
            || before.is_some_and(|before| {
                closed::is_owned(&before.text, &word.text) || closed::is_month(&before.text, &word.text)
            })
            || closed::ranks(&word.text, next)
        {
            return Some(&query[word.start..word.end]);
        }
        if closed::restricts(&word.text) {
            narrows = true;
        } else if closed::is_closed(&word.text) && !closed::is_determiner(&word.text) {
            narrows = false;
        }
        if closed::says_nothing(&word.text) || closed::is_whole(&word.text) || belongs(&words, at, filled) {
            continue;
        }
        let stem = stem(&word.text);
        let is_known = vocabulary.own.contains(&stem)
            || !narrows && (vocabulary.about.contains(&stem) || closed::is_answer(&word.text));
        if !is_known || closed::is_closed(&word.text) {
            return Some(&query[word.start..word.end]);
        }
    }
    None
}

/// Whether a word only goes with an input beside it: "the *last* 14d", "the tests *folder*", "the main *branch*".
fn belongs(words: &[Word], at: usize, filled: &Filled) -> bool {
    const BEFORE: &[&str] = &["last", "past", "previous"];
    const AFTER: &[&str] = &[
        "branch",
        "commit",
        "dir",
        "directory",
        "file",
        "folder",
        "revision",
        "subdirectory",
        "subfolder",
        "tag",
    ];
    let is_input = |word: Option<&Word>| word.is_some_and(|word| filled.is_used(word.start, word.end));
    let text = words[at].text.as_str();
    BEFORE.contains(&text) && is_input(words.get(at + 1))
        || AFTER.contains(&text) && at > 0 && is_input(words.get(at - 1))
}

/// Whether a clause ends between two words.
fn ends(query: &str, from: usize, upto: usize) -> bool {
    let gap = &query[from..upto];
    gap.contains(['?', '!', ';', ',', '\n', '—'])
        || [". ", ": ", " - ", " – "].iter().any(|end| gap.contains(end))
}

/// A part of a query up to the next sign.
#[derive(Default)]
struct Clause {
    /// It is a greeting, or tells of the one who asks, and has neither trigger nor input.
    is_apart: bool,
}

impl Clause {
    /// The clause that begins with `rest`.
    fn of(query: &str, rest: &[Word], filled: &Filled) -> Self {
        const GREETINGS: &[&str] =
            &["good", "hello", "hey", "hi", "no", "ok", "okay", "sorry", "thank", "thanks", "well", "yes"];
        const TELLERS: &[&str] = &["i", "we"];
        /// After "I" or "we".
        const TELLING: &[&str] =
            &["am", "are", "been", "had", "have", "just", "m", "re", "ve", "was", "were"];
        let length = (1..rest.len()).find(|at| ends(query, rest[at - 1].end, rest[*at].start));
        let clause = &rest[..length.unwrap_or(rest.len())];
        let word = |at: usize| clause.get(at).map_or("", |word| word.text.as_str());
        let begins = GREETINGS.contains(&word(0)) && clause.len() <= 3
            || TELLERS.contains(&word(0)) && TELLING.contains(&word(1));
        let stands_alone = !clause.iter().any(|word| filled.is_taken(word.start, word.end));
        let says =
            |span: &(usize, usize)| clause.iter().any(|word| span.0 <= word.start && word.end <= span.1);
        Self { is_apart: begins && stands_alone && !value::quoted(query).iter().any(says) }
    }
}
