//! Places and spans of time as people write them.

use std::sync::LazyLock;

use regex::Regex;

/// A word after a preposition, up to what may follow a place.
static PLACE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"(?i)\b(?:in|under|below|inside|within|beneath)\s+(?:(?P<the>the|my|our|this|that)\s+)?",
        r"(?:[`'\x22](?P<quoted>[^`'\x22\n]*\s[^`'\x22\n]*)[`'\x22]|[`'\x22]?(?P<word>[\p{L}\d_.-]*[\p{L}\d_-])[`'\x22]?)",
        r"(?P<noun>\s+(?:folder|directory|dir|subfolder|subdirectory|module|crate|package)\b)?",
        r"(?P<rest>\s+(?:since|for|by|with|and|or|of|from|during|over|please|only)\b|\s*[?!.,;:]|\s*$)?",
    ))
    .expect("a constant regex (tested)")
});

/// After "in": the whole, a manner, or nothing in particular.
const NEUTRAL: &[&str] = &[
    "a",
    "an",
    "advance",
    "all",
    "any",
    "brief",
    "case",
    "code",
    "codebase",
    "depth",
    "detail",
    "details",
    "effect",
    "english",
    "fact",
    "files",
    "full",
    "general",
    "git",
    "here",
    "it",
    "memory",
    "my",
    "one",
    "order",
    "our",
    "particular",
    "place",
    "practice",
    "principle",
    "project",
    "repo",
    "repository",
    "short",
    "some",
    "sources",
    "summary",
    "that",
    "the",
    "them",
    "there",
    "these",
    "this",
    "those",
    "total",
    "tree",
    "turn",
    "use",
    "way",
    "what",
    "which",
    "words",
    "workspace",
    "your",
];

/// After "in": no folder, and yet it narrows the question.
const NO_FOLDER: &[&str] = &[
    "april",
    "august",
    "autumn",
    "c",
    "december",
    "fall",
    "february",
    "french",
    "german",
    "go",
    "january",
    "java",
    "javascript",
    "july",
    "june",
    "march",
    "may",
    "november",
    "october",
    "parallel",
    "prod",
    "production",
    "python",
    "ruby",
    "rust",
    "september",
    "spanish",
    "spring",
    "staging",
    "summer",
    "typescript",
    "winter",
];

/// A word that says where.
pub(super) struct Place {
    /// Its bytes.
    pub(super) span: (usize, usize),
    /// It can only be a folder or a file.
    pub(super) is_certain: bool,
}

/// The places that `query` names without a slash: "in src", "in the engine folder".
pub(super) fn places(query: &str) -> Vec<Place> {
    let found = PLACE.captures_iter(query).filter_map(|found| {
        // "in `my folder`"
        if let Some(quoted) = found.name("quoted") {
            return Some(Place { span: (quoted.start(), quoted.end()), is_certain: true });
        }
        let word = found.name("word")?;
        let lower = word.as_str().to_lowercase();
        let has_noun = found.name("noun").is_some();
        // "in the engine" may be anything, "in the engine folder" is a place; "in which language" is none.
        let ends = has_noun || found.name("rest").is_some() && found.name("the").is_none();
        if !ends || (NEUTRAL.contains(&lower.as_str()) && !has_noun) {
            return None;
        }
        let is_number = lower.chars().all(|char| char.is_ascii_digit());
        // "in Hungary"
        let is_name = !has_noun && is_name(word.as_str());
        let is_certain = !NO_FOLDER.contains(&lower.as_str()) && !is_number && !is_name;
        Some(Place { span: (word.start(), word.end()), is_certain })
    });
    found.collect()
}

/// Whether a word is written as a name is.
fn is_name(word: &str) -> bool {
    word.starts_with(char::is_uppercase) && word.chars().skip(1).all(char::is_lowercase)
}

static AMOUNT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)^(?:(?P<number>\d{1,4}) ?|(?P<word>[a-z]+(?: of)?) )?(?P<unit>h|hrs?|hours?|d|days?|nights?|w|wks?|weeks?|weekends?|sprints?|months?|quarters?|years?|today|yesterday)$")
        .expect("a constant regex (tested)")
});

/// `text` as a number of hours, days or weeks (`36h`, `14d`, `2w`) that reaches at least as far back; `None` where that
/// depends on today's date, or is no such span.
pub(super) fn span(text: &str) -> Option<String> {
    const NUMBERS: &[&str] =
        &["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];
    let found = AMOUNT.captures(text.trim())?;
    let word = found.name("word").map(|word| word.as_str().to_lowercase());
    let number = match (found.name("number"), word.as_deref()) {
        (Some(number), _) => number.as_str().parse().ok()?,
        (None, Some("a" | "an" | "last" | "past" | "previous" | "this")) => 1,
        (None, Some("couple of" | "couple")) => 2,
        (None, Some(word)) => NUMBERS.iter().position(|known| *known == word)? as u32 + 1,
        (None, None) => 0,
    };
    let unit = found.name("unit")?.as_str().to_lowercase();
    let (times, unit) = match (unit.as_str(), number) {
        ("today", _) => return Some("24h".to_owned()),
        ("yesterday", _) => return Some("2d".to_owned()),
        (_, 0) => return None,
        ("h" | "hr" | "hrs" | "hour" | "hours", _) => (1, 'h'),
        ("d" | "day" | "days" | "night" | "nights", _) => (1, 'd'),
        ("w" | "wk" | "wks" | "week" | "weeks", _) => (1, 'w'),
        ("month" | "months", _) => (31, 'd'),
        ("quarter" | "quarters", _) => (92, 'd'),
        ("year" | "years", _) => (366, 'd'),
        // A weekend or a sprint has no fixed length.
        _ => return None,
    };
    let number = number * times;
    (number <= 9_999).then(|| format!("{number}{unit}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_reach_as_far_back_as_they_say() {
        for (text, expected) in [
            ("14d", Some("14d")),
            ("24 hours", Some("24h")),
            ("last week", Some("1w")),
            ("two weeks", Some("2w")),
            ("a month", Some("31d")),
            ("couple of days", Some("2d")),
            ("yesterday", Some("2d")),
            ("today", Some("24h")),
            ("since monday", None),
            ("this sprint", None),
            ("few days", None),
            ("5 minutes", None),
            ("9999 years", None),
        ] {
            assert_eq!(span(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_word_after_in_is_a_place_unless_it_says_nothing() {
        for (query, expected) in [
            ("list todos in src", Some(("src", true))),
            ("list todos in the code", None),
            ("list todos in the engine folder", Some(("engine", true))),
            ("what changed in rust", Some(("rust", false))),
            ("what changed in 2024?", Some(("2024", false))),
            ("what changed in Hungary?", Some(("Hungary", false))),
            ("what changed in the Makefile folder?", Some(("Makefile", true))),
            ("in which language", None),
            ("what changed in `my folder`", Some(("my folder", true))),
            ("todos under benches and tests", Some(("benches", true))),
        ] {
            let found = places(query);
            let shown = found.first().map(|place| (&query[place.span.0..place.span.1], place.is_certain));
            assert_eq!(shown, expected, "{query}");
        }
    }
}
