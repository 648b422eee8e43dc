//! Texts as lexemes: what goes into a `tsvector` and what is asked of it.
//!
//! Words are cut, folded and stemmed here, as SQLite's FTS5 does it (`porter unicode61 remove_diacritics 2`), not by the
//! server: its parser follows the locale of the database and reads paths and addresses as single words, and it strips
//! diacritics by an extension only. So a search finds the same in both stores, on every server.
//!
//! Lexemes that begin with a sign are no words but say whose a memory is, its tags and its kind, so that the index
//! narrows by them too. Words hold letters and digits alone, so nothing that is looked for can ever be read as syntax.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use super::stem::stem;
use crate::{
    hex::hex,
    store::{Memory, MemoryFilter, terms},
};

/// Longest lexeme, in bytes; a `tsvector` takes 2,046.
const LEXEME_BYTES_MAX: usize = 255;
/// Words of one text that are indexed. A `tsvector` counts no further, and ends at a megabyte.
const WORDS_MAX: usize = 16_000;
/// The whole of a `tsvector`, in bytes as it is written here.
const VECTOR_BYTES_MAX: usize = 512 * 1024;

/// Small letters and what they are without diacritics, as FTS5 has it.
const PLAIN: &[(char, &str)] = &[
    ('a', "àáâãäåāăąǎǟǻȁȃȧḁạảấầẩẫậắằẳẵặ"),
    ('b', "ḃḅḇ"),
    ('c', "çćĉċčḉ"),
    ('d', "ďḋḍḏḑḓ"),
    ('e', "èéêëēĕėęěȅȇȩḕḗḙḛḝẹẻẽếềểễệ"),
    ('f', "ḟ"),
    ('g', "ĝğġģǧǵḡ"),
    ('h', "ĥȟḣḥḧḩḫẖ"),
    ('i', "ìíîïĩīĭįǐȉȋḭḯỉị"),
    ('j', "ĵǰ"),
    ('k', "ķǩḱḳḵ"),
    ('l', "ĺļľḷḹḻḽ"),
    ('m', "ḿṁṃ"),
    ('n', "ñńņňǹṅṇṉṋ"),
    ('o', "òóôõöōŏőơǒǫǭȍȏȫȭȯȱṍṏṑṓọỏốồổỗộớờởỡợ"),
    ('p', "ṕṗ"),
    ('r', "ŕŗřȑȓṙṛṝṟ"),
    ('s', "śŝşšſșṡṣṥṧṩẛ"),
    ('t', "ţťțṫṭṯṱẗ"),
    ('u', "ùúûüũūŭůűųưǔǖǘǚǜȕȗṳṵṷṹṻụủứừửữự"),
    ('v', "ṽṿ"),
    ('w', "ŵẁẃẅẇẉẘ"),
    ('x', "ẋẍ"),
    ('y', "ýÿŷȳẏẙỳỵỷỹ"),
    ('z', "źżžẑẓẕ"),
    ('σ', "ς"),
];

/// How much a word counts by where it stands. `ts_rank` takes the weights as an array, from D to A.
#[derive(Clone, Copy)]
enum Place {
    Tag,
    Content,
    Part,
}

/// The weights of the places, D to A: a word of a tag counts twice, a part of an identifier half.
pub(super) const WEIGHTS: &str = "'{0, 0.25, 0.5, 1}'::real[]";
/// What `ts_rank` with [`WEIGHTS`] gives for a word that stands once in the content: half of 6 / π².
pub(super) const RANK_OF_ONE: f64 = 0.303_963_550_927_013_3;

impl Place {
    const fn label(self) -> char {
        match self {
            Self::Tag => 'A',
            Self::Content => 'B',
            Self::Part => 'C',
        }
    }
}

const fn is_mark(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36F}')
}

/// `c` in lower case without diacritics.
fn fold(c: char) -> impl Iterator<Item = char> {
    c.to_lowercase().filter(|c| !is_mark(*c)).map(|c| {
        if c.is_ascii() {
            return c;
        }
        PLAIN.iter().find(|(_, marked)| marked.contains(c)).map_or(c, |(plain, _)| *plain)
    })
}

/// The lexemes of `text`, in its order.
fn lexemes(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric() && !is_mark(c)).filter_map(|run| {
        let mut word: String = run.chars().flat_map(fold).collect();
        word.truncate(word.floor_char_boundary(LEXEME_BYTES_MAX));
        (!word.is_empty()).then(|| stem(&word))
    })
}

/// Text as its terms are looked for: without the marks at which a word would be cut.
pub(super) fn plain(text: &str) -> String {
    text.chars().filter(|c| !is_mark(*c)).collect()
}

/// A lexeme that is no word.
fn marker(sign: char, name: &str) -> String {
    format!("{sign}{}", hex(&Sha256::digest(name.as_bytes())[..8]))
}

fn reader_marker(reader: &str) -> String {
    format!("@{reader}")
}

/// A memory's words as a `tsvector`, and how many they are.
pub(super) fn vector(memory: &Memory, reader: &str) -> (String, i32) {
    let mut written = format!("'{}' '{}'", reader_marker(reader), marker('=', &memory.kind));
    for tag in &memory.tags {
        let _ = write!(written, " '{}'", marker('#', tag));
    }
    let mut position = 0_usize;
    let mut count = 0;
    let mut add = |text: &str, place: Place| {
        // One position stays free: nothing reads on from one text into the next.
        position += 1;
        for lexeme in lexemes(text) {
            if count == WORDS_MAX || written.len() > VECTOR_BYTES_MAX {
                return;
            }
            count += 1;
            position += 1;
            let _ = write!(written, " '{lexeme}':{position}{}", place.label());
        }
    };
    for tag in &memory.tags {
        add(tag, Place::Tag);
    }
    add(&memory.content, Place::Content);
    add(&terms::index_words(&memory.content), Place::Part);
    (written, i32::try_from(count).unwrap_or(i32::MAX))
}

/// One thing that is looked for: a word, the beginning of one, or words that follow each other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Term {
    /// As a `tsquery`.
    pub(super) query: String,
    /// It is more than one word.
    pub(super) is_phrase: bool,
}

impl Term {
    fn new(text: &str, suffix: &str) -> Option<Self> {
        let words: Vec<String> = lexemes(text).map(|lexeme| format!("'{lexeme}'{suffix}")).collect();
        match words.len() {
            0 => None,
            1 => Some(Self { query: words.concat(), is_phrase: false }),
            _ => Some(Self { query: format!("({})", words.join(" <-> ")), is_phrase: true }),
        }
    }
}

/// What a search for `text` looks for: any of these.
pub(super) fn terms(text: &str) -> Vec<Term> {
    unique(terms::telling_terms(&plain(text)).iter().filter_map(|term| Term::new(term, "")))
}

/// What it looks for where nothing has those: words that begin so.
pub(super) fn prefix_terms(text: &str) -> Vec<Term> {
    unique(terms::prefix_terms(&plain(text)).iter().filter_map(|term| Term::new(term, ":*")))
}

/// What texts like `text` have: any of these.
pub(super) fn similar_terms(text: &str) -> Option<String> {
    let words = unique(terms::longest_words(&plain(text)).iter().filter_map(|word| Term::new(word, "")));
    let mut pairs: Vec<String> = Vec::new();
    for (at, one) in words.iter().enumerate() {
        pairs.extend(words[at + 1..].iter().map(|other| format!("({} & {})", one.query, other.query)));
    }
    if pairs.is_empty() {
        pairs.extend(words.iter().map(|word| word.query.clone()));
    }
    any(pairs)
}

fn unique(terms: impl Iterator<Item = Term>) -> Vec<Term> {
    let mut seen = std::collections::HashSet::new();
    terms.filter(|term| seen.insert(term.clone())).collect()
}

/// A `tsquery` for any of `queries`.
pub(super) fn any(queries: impl IntoIterator<Item = String>) -> Option<String> {
    let queries: Vec<String> = queries.into_iter().collect();
    (!queries.is_empty()).then(|| format!("({})", queries.join(" | ")))
}

/// `query`, or everything, among the memories of `readers` (of anybody where none is named) that have all of `tags` and
/// are of `kind`.
pub(super) fn within(readers: &[String], tags: &[String], kind: Option<&str>, query: Option<&str>) -> String {
    let mut parts: Vec<String> =
        any(readers.iter().map(|reader| format!("'{}'", reader_marker(reader)))).into_iter().collect();
    parts.extend(tags.iter().map(|tag| format!("'{}'", marker('#', tag))));
    parts.extend(kind.map(|kind| format!("'{}'", marker('=', kind))));
    parts.extend(query.map(str::to_owned));
    parts.join(" & ")
}

/// The memories of `readers` that have the tags and the kind of `filter`; `None` where it names neither.
pub(super) fn marks(readers: &[String], filter: &MemoryFilter) -> Option<String> {
    (!filter.tags.is_empty() || filter.kind.is_some())
        .then(|| within(readers, &filter.tags, filter.kind.as_deref(), None))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sqlx::{Connection as _, SqliteConnection};

    use super::*;

    /// What SQLite's index holds of `text`.
    async fn tokens(sqlite: &mut SqliteConnection, text: &str) -> BTreeSet<String> {
        sqlx::query("DELETE FROM t").execute(&mut *sqlite).await.unwrap();
        sqlx::query("INSERT INTO t VALUES (?1)").bind(text).execute(&mut *sqlite).await.unwrap();
        sqlx::query_scalar("SELECT DISTINCT term FROM v")
            .fetch_all(sqlite)
            .await
            .unwrap()
            .into_iter()
            .collect()
    }

    async fn sqlite() -> SqliteConnection {
        let mut sqlite = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        for sql in [
            "CREATE VIRTUAL TABLE t USING fts5 (x, tokenize = 'porter unicode61 remove_diacritics 2')",
            "CREATE VIRTUAL TABLE v USING fts5vocab (t, 'row')",
        ] {
            sqlx::query(sql).execute(&mut sqlite).await.unwrap();
        }
        sqlite
    }

    /// Words of this project's own texts: thousands, of all forms.
    const TEXTS: [&str; 3] = [
        include_str!("../../../ARCHITECTURE.md"),
        include_str!("../../../README.md"),
        include_str!("../mod.rs"),
    ];

    #[tokio::test]
    async fn lexemes_are_those_of_the_other_store() {
        let mut sqlite = sqlite().await;
        let special = [
            "Überlänge: café und naïve Größe, ŁÓDŹ, Ýmir, ĳ",
            "日本語の設計メモ",
            "cafe\u{301}s e\u{308}",
            "conditional rationalization vietnamization hopefulness electricity triplicate allowance effective",
            "ΑΘΗΝΑΣ ά ς Привет Ёлка",
            "flies dies mules denied died agreed owned humbled sized meeting stating siezing itemization",
            "parseHTTPFrame2 blue_green_switch src/wire/frame.rs 1e5 0x1F v1.2.3 don't",
        ];
        for text in TEXTS.into_iter().chain(special) {
            let ours: BTreeSet<String> = lexemes(text).collect();
            assert_eq!(ours, tokens(&mut sqlite, text).await);
        }
    }

    #[test]
    fn a_query_is_quoted_lexemes() {
        let queries = |terms: Vec<Term>| terms.into_iter().map(|term| term.query).collect::<Vec<_>>();
        for (text, expected) in [
            ("", vec![]),
            (" \t -- \"*\" ()", vec![]),
            ("the Parsers of", vec!["'parser'"]),
            ("a-b", vec!["('a' <-> 'b')", "'b'"]),
            ("') | 'x:*", vec!["('x')"]),
            ("Größe cafe\u{301}", vec!["'groß'", "'cafe'"]),
            ("日本語", vec!["'日本'", "'本語'"]),
        ] {
            let found = queries(terms(text));
            let expected: Vec<String> =
                expected.into_iter().map(|query| query.replace("('x')", "'x'")).collect();
            assert_eq!(found, expected, "{text}");
        }
        assert_eq!(queries(prefix_terms("語 pars of")), ["'語':*", "'par':*"]);
        assert_eq!(similar_terms("the one three").as_deref(), Some("(('three' & 'on'))"));
    }

    proptest::proptest! {
        #[test]
        fn nothing_in_a_text_is_syntax(text in ".{0,80}") {
            let queries = terms(&text).into_iter().chain(prefix_terms(&text)).map(|term| term.query);
            for query in queries.chain(similar_terms(&text)) {
                let bare: String = query.split('\'').step_by(2).collect();
                proptest::prop_assert!(bare.chars().all(|c| "()&|<->:* ".contains(c)), "{}", query);
                let quoted: String = query.split('\'').skip(1).step_by(2).collect();
                proptest::prop_assert!(!quoted.contains(['\\', ' ', '@', '#', '=']), "{}", query);
            }
        }
    }
}
