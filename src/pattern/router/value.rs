//! What a stretch of a query is worth as a value: a quoted text whole, a word whole or not at all, and no word that only
//! holds the question together.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use super::{closed, place, trigger::words};

type Span = (usize, usize);

/// Signs that may follow a value within its word: "main?", "`clip`.", "fits()".
const CLOSING: &str = "?!.,;:)(]}>\"'`’”»…/";
/// Signs that may stand right before a value.
const OPENING: &str = "([{<\"'`‘“„«#,;:=";

/// A time at the end of a text, with the words that lead to it.
static TIME_AT_END: LazyLock<Regex> = LazyLock::new(|| {
    let regex = format!(r"(?i)[\s,]*\b(?:{TIME}|since (?:the )?[\w./-]+(?: \w+)?)\s*$");
    Regex::new(&regex).expect("a constant regex (tested)")
});

/// A time at the beginning of a text, with the word that leads from it to what the text is about.
static TIME_AT_START: LazyLock<Regex> = LazyLock::new(|| {
    let regex = format!(r"(?i)^(?:{TIME})\s*,?\s+(?:about|concerning|for|of|on|regarding|to)\s+");
    Regex::new(&regex).expect("a constant regex (tested)")
});

const TIME: &str = concat!(
    r"(?:(?:since|in|over|during|within|for|from|of|until|till|on|before|after) )?(?:the )?(?:",
    r"(?:last |past |previous )?(?:today|tonight|yesterday|this (?:morning|afternoon|evening))",
    r"|(?:last|past|previous|this) (?:\w+ )?(?:hours?|nights?|days?|weeks?|weekends?|months?|quarters?|years?|sprints?)",
    r"|(?:last |this )?(?:mon|tues|wednes|thurs|fri|satur|sun)day",
    r"|(?:last|past|previous) \d+ ?(?:h|d|w)",
    r"|\d{4}-\d{2}(?:-\d{2})?)",
    r"|(?:in|until|till|before|after) (?:(?:early|late|mid) )?",
    r"(?:january|february|march|april|may|june|july|august|september|october|november|december|(?:19|20)\d\d)(?: \d{4})?",
);

/// What narrows a subject by a property of the notes about it: "ports *tagged ci*".
static PROPERTY: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"(?i)[\s,]+(?:(?:and )?(?:that (?:is|are|was|were) )?(?:tagged|labell?ed)|(?:with|under) (?:the )?(?:tags?|labels?))(?: (?:as|with|by))?[\s:]+\S.*$")
        .expect("a constant regex (tested)")
});

/// Whether what stands at `start` is not the end of something longer.
pub(super) fn begins_a_word(query: &str, start: usize) -> bool {
    let before = query[..start].chars().next_back();
    before.is_none_or(|char| char.is_whitespace() || OPENING.contains(char))
}

/// What stands in quotation marks.
pub(super) fn quoted(query: &str) -> Vec<Span> {
    let mut found = Vec::new();
    for (open, close) in
        [('"', '"'), ('`', '`'), ('“', '”'), ('„', '“'), ('«', '»'), ('‘', '’'), ('\'', '\'')]
    {
        let mut rest = 0;
        while let Some(start) = query[rest..].find(open).map(|at| rest + at) {
            let inside = start + open.len_utf8();
            // An apostrophe stands within a word, a quotation mark before one.
            let opens = open != '\'' || !query[..start].ends_with(char::is_alphanumeric);
            let Some(end) = query[inside..].find(close).map(|at| inside + at).filter(|_| opens) else {
                rest = inside;
                continue;
            };
            found.push((inside, end));
            rest = end + close.len_utf8();
        }
    }
    found
}

/// The value that `span` of `query` stands for, as a span; `None` where it is none.
pub(super) fn of(query: &str, span: Span, property: &Value) -> Option<Span> {
    // A sentence's end is not part of what it names.
    let text = query[span.0..span.1].trim_end_matches(['?', '!', ',', ';', ' ']);
    let lead = text.len() - text.trim_start().len();
    let (start, end) = (span.0 + lead, span.0 + text.len());
    let opens_at = |(inside, _): &Span| *inside == start || query[start..*inside].chars().count() == 1;
    let quotation = quoted(query).into_iter().filter(|(inside, _)| *inside >= start).find(opens_at);
    if let Some((inside, close)) = quotation {
        // One that ends before the value does is a part of it.
        if close + 1 >= end || query[close..end].chars().count() <= 1 {
            return (inside < close).then_some((inside, close));
        }
    }
    let is_whole = query[end..]
        .split(char::is_whitespace)
        .next()
        .unwrap_or_default()
        .chars()
        .all(|char| CLOSING.contains(char))
        && begins_a_word(query, start);
    if !is_whole {
        return None;
    }
    let has = |key: &&str| property.get(key).is_some();
    if property["format"] == "path" {
        // A folder is the same without its last slash.
        return Some((start, start + query[start..end].trim_end_matches('/').len().max(1)));
    }
    if property["type"] != "string" || ["enum", "const", "format"].iter().any(has) {
        return Some((start, end));
    }
    if property.get("pattern").is_some() {
        return words(&query[start..end]).iter().any(names).then_some((start, end));
    }
    let (start, end) = topic(query, (start, end));
    (names_something(&query[start..end]) && !is_kind(query, (start, end))).then_some((start, end))
}

/// Whether a stretch says of what kind something is, and not which: "all occurrences of the *word*".
fn is_kind(query: &str, (start, end): Span) -> bool {
    let before = words(&query[..start]);
    before.last().is_some_and(|word| closed::is_determiner(&word.text))
        && closed::is_kind(&query[start..end].to_lowercase())
}

/// A stretch of words with the quotation marks at its ends; a quotation alone without them.
pub(super) fn stretched(query: &str, (start, end): Span) -> Span {
    let quotations = quoted(query);
    let begun = quotations.iter().find(|(inside, close)| *inside <= start && start < *close);
    match begun {
        Some((inside, close)) if end <= *close => (*inside, *close),
        Some((inside, _)) => {
            let mark = query[..*inside].chars().next_back().map_or(0, char::len_utf8);
            (inside - mark, end)
        }
        None => {
            let mark =
                quotations.iter().find(|(_, close)| *close == end).and_then(|_| query[end..].chars().next());
            (start, end + mark.map_or(0, char::len_utf8))
        }
    }
}

/// Whether a stretch is a quotation, or names something.
pub(super) fn is_said(query: &str, (start, end): Span) -> bool {
    start < end && (quoted(query).contains(&(start, end)) || names_something(&query[start..end]))
}

/// Whether `text` has a word that is no time and of no closed class.
pub(super) fn names_something(text: &str) -> bool {
    let is_time = place::span(text).is_some()
        || TIME_AT_END.find(text).is_some_and(|found| !words(&text[..found.start()]).iter().any(names));
    !is_time && words(text).iter().any(names)
}

fn names(word: &super::trigger::Word) -> bool {
    !closed::is_closed(&word.text)
}

/// A text in words without what leads to it, politeness at its end, and a time at its end, which others may take.
pub(super) fn topic(query: &str, (mut start, mut end): Span) -> Span {
    const LEADING: &[&str] = &["about", "concerning", "on", "of", "regarding"];
    let all = words(&query[start..end]);
    let from = start;
    for word in &all {
        if !LEADING.contains(&word.text.as_str()) || from + word.end >= end {
            break;
        }
        start = all.iter().find(|next| next.start > word.end).map_or(start, |next| from + next.start);
    }
    for word in all.iter().rev() {
        // "about you" is a subject, "thank you" is none.
        let is_thanked = word.text == "you" && query[..from + word.start].trim_end().ends_with("thank");
        if !(is_thanked || closed::is_polite(&word.text)) || from + word.start <= start {
            break;
        }
        end = from + word.start;
    }
    if let Some(property) = PROPERTY.find(&query[start..end]).filter(|found| found.start() > 0) {
        end = start + property.start();
    }
    if let Some(time) = TIME_AT_END.find(&query[start..end])
        && time.start() > 0
    {
        end = start + time.start();
    }
    if let Some(time) = TIME_AT_START.find(&query[start..end]) {
        start += time.end();
    }
    (start, start + query[start..end].trim_end_matches([',', ';', ' ', '-', '–']).len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What `text`, found in `query`, is worth for an input in words, or in `form`.
    fn worth<'q>(query: &'q str, text: &str, property: &Value) -> Option<&'q str> {
        let start = query.find(text).expect(query);
        of(query, (start, start + text.len()), property).map(|(start, end)| &query[start..end])
    }

    #[test]
    fn words_that_name_nothing_are_no_values() {
        let (text, revision) =
            (json!({"type": "string"}), json!({"type": "string", "pattern": "^[A-Za-z0-9]"}));
        for word in ["the", "Monday", "again", "they", "in", "it", "everything", "with", "March", "yesterday"]
        {
            let query = format!("take {word} or so");
            assert_eq!(worth(&query, word, &text), None, "{word}");
            assert_eq!(worth(&query, word, &revision), None, "{word}");
            let query = format!("take `{word}` or so");
            assert_eq!(worth(&query, word, &text), Some(word), "{word}");
        }
        for word in ["main", "orders", "TideTable", "v1.2", "new", "8080"] {
            assert_eq!(worth(&format!("take {word} or so"), word, &text), Some(word), "{word}");
        }
        let one_of = json!({"type": "string", "enum": ["all", "none"]});
        assert_eq!(worth("take all of it", "all", &one_of), Some("all"));
    }

    #[test]
    fn a_quotation_is_taken_whole() {
        let text = json!({"type": "string"});
        for (query, part, expected) in [
            ("code for \"hello world\"", "hello", "hello world"),
            ("code for `fn main()`, please", "fn", "fn main()"),
            ("code for 'a b'?", "'a b'?", "a b"),
            ("about “the end” of it", "the", "the end"),
            ("about \"what is up?\"", "\"what is up", "what is up?"),
            ("about \"flaky\" tests", "\"flaky\" tests", "\"flaky\" tests"),
        ] {
            assert_eq!(worth(query, part, &text), Some(expected), "{query}");
        }
    }

    #[test]
    fn a_kind_is_no_value_and_a_thing_is() {
        let text = json!({"type": "string"});
        assert_eq!(worth("occurrences of the word", "word", &text), None);
        assert_eq!(worth("uses of this function, please", "function", &text), None);
        assert_eq!(worth("uses of the parser", "parser", &text), Some("parser"));
        assert_eq!(worth("uses of function", "function", &text), Some("function"));
    }

    #[test]
    fn a_stretch_has_whole_quotations() {
        for (query, words, expected) in [
            ("recall \"the end\"", "end", "the end"),
            ("where is `it` used", "it` used", "`it` used"),
            ("recall the \"flaky tests\"", "flaky tests", "flaky tests"),
            ("recall tests of \"a b\"", "tests of \"a b", "tests of \"a b\""),
            ("recall ports", "ports", "ports"),
        ] {
            let start = query.find(words).expect(query);
            let (start, end) = stretched(query, (start, start + words.len()));
            assert_eq!(&query[start..end], expected, "{query}");
            assert!(is_said(query, (start, end)), "{query}");
        }
    }

    #[test]
    fn a_piece_of_a_word_is_no_value() {
        let text = json!({"type": "string"});
        for (query, part) in [
            ("outline of src/engine", "src/"),
            ("callers of Router's clip", "Router"),
            ("references to Vec<u8>", "Vec"),
            ("the log /var/log/app.log", "var/log/app.log"),
            ("the log ../app.log", "app.log"),
            ("about v1.2", "v1"),
            ("uses of café", "caf"),
        ] {
            assert_eq!(worth(query, part, &text), None, "{query}");
        }
        let path = json!({"type": "string", "format": "path"});
        assert_eq!(worth("outline of src/engine/, please", "src/engine/", &path), Some("src/engine"));
        assert_eq!(worth("callers of clip()", "clip", &text), Some("clip"));
    }

    #[test]
    fn a_subject_ends_before_politeness_and_time() {
        let text = json!({"type": "string"});
        for (subject, expected) in [
            ("regarding retries", Some("retries")),
            ("the parser, please", Some("the parser")),
            ("our decision on ports, thanks", Some("our decision on ports")),
            ("the port, thank you", Some("the port")),
            ("ports last week", Some("ports")),
            ("ports since Monday", Some("ports")),
            ("yesterday about ports", Some("ports")),
            ("in March on naming", Some("naming")),
            ("last week, regarding the port", Some("the port")),
            ("ports tagged ci", Some("ports")),
            ("the port with the tag ci", Some("the port")),
            ("tagged unions", Some("tagged unions")),
            ("Monday meetings", Some("Monday meetings")),
            ("the port in March", Some("the port")),
            ("the retention of 14d", Some("the retention of 14d")),
            ("the last release", Some("the last release")),
            ("word", Some("word")),
            ("last week", None),
            ("yesterday", None),
            ("it", None),
        ] {
            assert_eq!(worth(&format!("recall {subject}"), subject, &text), expected, "{subject}");
        }
    }
}
