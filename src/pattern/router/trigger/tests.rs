use proptest::prelude::*;

use super::*;
use crate::pattern::{Origin, loader::load};

/// Patterns with generated triggers: like those of files, without all the rest.
fn patterns(triggers: &[(Vec<String>, Vec<String>)]) -> Vec<Arc<Pattern>> {
    const FILE: &str = "apiVersion: tmws/v1\nkind: Pattern\nname: a.b\nversion: 1.0.0\ntype: infrastructure\n\
        description: A pattern for tests.\nsteps:\n  - {id: a, uses: data.merge, with: {items: [{a: 1}]}}\n\
        output:\n  value: ${ .steps.a }\n";
    let loaded = load("a.yaml", FILE, Origin::BuiltIn).expect("a pattern").pattern;
    let each = triggers.iter().map(|(phrases, regexes)| {
        let mut pattern = Pattern::clone(&loaded);
        pattern.triggers.phrases.clone_from(phrases);
        pattern.triggers.regexes = regexes.iter().map(|regex| TriggerRegex::checked(regex)).collect();
        Arc::new(pattern)
    });
    each.collect()
}

/// One by one, with the crate that the loader checks regexes with.
fn plainly(patterns: &[Arc<Pattern>], query: &str) -> Vec<(usize, &'static str)> {
    let query_words = words(query);
    let each = patterns.iter().enumerate().filter_map(|(number, pattern)| {
        let triggers = &pattern.triggers;
        if triggers.phrases.iter().any(|phrase| Matcher::phrase(&query_words, phrase).is_some()) {
            return Some((number, "phrase"));
        }
        let is_match = |regex: &TriggerRegex| regex::Regex::new(regex.as_str()).unwrap().is_match(query);
        triggers.regexes.iter().any(is_match).then_some((number, "regex"))
    });
    each.collect()
}

/// Few words, so that triggers and queries meet; some whose case folds in odd ways.
fn word() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "what",
        "changed",
        "show",
        "list",
        "todo",
        "kiss",
        "Straße",
        "STRASSE",
        "ſhow",
        "İstanbul",
        "ΣΊΣΥΦΟΣ",
        "変更",
        "a",
        "is",
        "in",
        "src",
        "12d",
        "don't",
        "Kelvin",
        "\u{212a}elvin",
        "été",
        "x_y",
        "\u{e9}t\u{e9}",
    ])
    .prop_map(str::to_owned)
}

fn part() -> impl Strategy<Value = String> {
    prop_oneof![
        5 => word(),
        1 => (word(), word()).prop_map(|(a, b)| format!("(?:{a}|{b})")),
        1 => (word(), word(), word()).prop_map(|(a, b, c)| format!("(?:{a} {b}|{c})")),
        1 => (word(), word()).prop_map(|(a, b)| format!("(?:{a}.{{0,4}}{b}|.{b})")),
        1 => word().prop_map(|word| format!("(?:{word})?")),
        1 => word().prop_map(|word| format!("({word})+")),
        1 => word().prop_map(|word| format!("(?:{word}){{2,3}}")),
        1 => word().prop_map(|word| format!("(?:{word}|)")),
        1 => Just(r"\d+[hdw]".to_owned()),
        1 => Just("[a-f]".to_owned()),
        1 => Just("[sk]".to_owned()),
        1 => Just(".{0,20}".to_owned()),
        1 => Just(r"\s*".to_owned()),
        1 => Just(r"\w+".to_owned()),
    ]
}

fn regex() -> impl Strategy<Value = String> {
    let glue = prop::sample::select(vec!["", " ", r"\b", r"\b.{0,9}\b", r"\s+"]);
    let head = prop::sample::select(vec!["", "(?i)", "(?i)", r"(?i)\b", "^", "(?s)", "(?x)", "(?i-u:a)?"]);
    (head, prop::collection::vec((part(), glue), 1..5)).prop_map(|(head, parts)| {
        let body: String = parts.into_iter().map(|(part, glue)| part + glue).collect();
        format!("{head}{body}")
    })
}

fn query() -> impl Strategy<Value = String> {
    let case = |(word, case): (String, u8)| match case {
        0 => word.to_uppercase(),
        1 => word.to_lowercase(),
        _ => word,
    };
    let glue = prop::sample::select(vec![" ", " ", " ", "", ", ", "-", "\n"]);
    prop::collection::vec(((word(), 0_u8..4).prop_map(case), glue), 0..9)
        .prop_map(|words| words.into_iter().map(|(word, glue)| word + glue).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_index_finds_what_matching_one_by_one_finds(
        triggers in prop::collection::vec(
            (prop::collection::vec(prop::collection::vec(word(), 1..4).prop_map(|words| words.join(" ")), 0..3),
             prop::collection::vec(regex(), 0..3)),
            1..24,
        ),
        queries in prop::collection::vec(query(), 1..12),
    ) {
        let patterns = patterns(&triggers);
        let index = TriggerIndex::new(&patterns);
        for query in &queries {
            prop_assert_eq!(index.find(query), plainly(&patterns, query), "{:?}", query);
        }
    }
}

#[test]
fn what_is_never_named_is_never_compiled() {
    let triggers: Vec<_> = (0..2_000)
        .map(|number| {
            (
                vec![format!("phrase number{number}x")],
                vec![format!(r"(?i)\bregex number{number}x\b.{{0,20}}\bend\b")],
            )
        })
        .collect();
    let patterns = patterns(&triggers);
    let index = TriggerIndex::new(&patterns);
    assert_eq!(index.find("please phrase number7x"), [(7, "phrase")]);
    assert_eq!(index.find("Regex Number1999X and the end"), [(1_999, "regex")]);
    let literals = &index.index.get().expect("it was asked").regexes;
    assert!(literals.always.is_empty());
    assert_eq!(literals.worth_trying("regex number12x, the end").len(), 1);
    assert_eq!(literals.worth_trying("regex number12x").len(), 0, "a group is missing");
}
