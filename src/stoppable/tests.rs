use std::convert::Infallible;

use proptest::prelude::*;

use super::*;

const TEXT: Reading = Reading { ignore_case: false, lines: false, bytes: false, size_max: 1 << 20 };

fn always() -> impl FnMut() -> Result<(), Infallible> {
    || Ok(())
}

/// The same regex, which hands nothing over.
fn walking(source: &str, reading: Reading) -> Option<Stoppable> {
    Stoppable::new(source, reading).ok().map(|regex| Stoppable { whole_max: 0, ..regex })
}

fn all(regex: &Stoppable, text: &str) -> Vec<Groups> {
    let mut found = Vec::new();
    let Ok(()) = regex.each(&mut Scratch::default(), text, &mut always(), |groups| {
        found.push(groups);
        true
    });
    found
}

fn expected(source: &str, text: &str) -> Vec<Groups> {
    let regex = regex::Regex::new(source).unwrap();
    regex
        .captures_iter(text)
        .map(|found| found.iter().map(|group| group.map(|group| group.range())).collect())
        .collect()
}

#[test]
fn it_finds_what_the_crate_finds() {
    for (source, text) in [
        ("", "aéb"),
        ("x*", "axxéb"),
        ("a|ab", "abab"),
        ("(a)|(b)", "ab-ba"),
        (r"(?P<w>\w+)\s*=\s*(.*?)$", "größe = 12"),
        (r"(?m)^(\w+)$", "a\nbb\n\nc"),
        (r"\bé\b", "é xéx é"),
        (r"(a*)*?b", "aaab"),
        (r"(a+|b+)??c", "aabbc"),
        (r"\z", "ab"),
        (r"(?:)|a", "aa"),
        (r"[^a]", "日本a語"),
        (r"(?i)STRASSE|straße", "Straße STRASSE"),
    ] {
        for regex in [Stoppable::new(source, TEXT).unwrap(), walking(source, TEXT).unwrap()] {
            assert_eq!(all(&regex, text), expected(source, text), "{source} in {text:?}");
        }
    }
}

#[test]
fn a_search_ends_when_it_is_told_to() {
    // Sixteen thousand states, each of them reached at every byte.
    let regex = Stoppable::new("(?:[ab]{1,90}){1,90}c", TEXT).unwrap();
    let text = "ab".repeat(450_000);
    let mut looks = 0;
    let ended = regex.find(&mut Scratch::default(), text.as_bytes(), 0..text.len(), &mut || {
        looks += 1;
        if looks < 3 { Ok(()) } else { Err("enough") }
    });
    assert_eq!((ended, looks), (Err("enough"), 3));
}

#[test]
fn what_does_not_compile_or_would_need_too_much_is_refused() {
    let refused = |source: &str| Stoppable::new(source, TEXT).err();
    assert!(matches!(refused("(?=x)"), Some(Unfit::Syntax(why)) if why.contains("look-around")));
    assert!(matches!(refused("(a"), Some(Unfit::Syntax(why)) if why.contains("unclosed group")));
    assert_eq!(refused(r"(?:\w{1,100}){1,100}"), Some(Unfit::TooLarge));
    assert_eq!(refused(&"(a)".repeat(2_000)), Some(Unfit::Groups));
}

fn source() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("a".to_owned()),
        Just("b".to_owned()),
        Just("é".to_owned()),
        Just(".".to_owned()),
        Just("[ab]".to_owned()),
        Just("[^a]".to_owned()),
        Just(r"\w".to_owned()),
        Just(r"\b".to_owned()),
        Just(r"\B".to_owned()),
        Just("^".to_owned()),
        Just("$".to_owned()),
        Just("(?m:^)".to_owned()),
        Just("(?m:$)".to_owned()),
        Just("(?:)".to_owned()),
        Just(r"\n".to_owned()),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let count = proptest::sample::select(vec!["*", "+", "?", "*?", "+?", "??", "{2}", "{1,3}", "{0,2}?"]);
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}{b}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("(?:{a}|{b})")),
            inner.clone().prop_map(|a| format!("({a})")),
            (inner, count).prop_map(|(a, count)| format!("(?:{a}){count}")),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn walking_finds_what_the_crate_finds(source in source(), text in "[abé\\n ]{0,24}") {
        let walking = walking(&source, TEXT).unwrap();
        prop_assert_eq!(all(&walking, &text), expected(&source, &text), "{} in {:?}", source, text);
    }

    #[test]
    fn walking_in_a_range_of_any_bytes_finds_what_the_crate_finds(
        source in source(),
        text in proptest::collection::vec(proptest::sample::select(b"ab\n\xc3\xa9\xff".to_vec()), 0..24),
        from in 0_usize..24,
        upto in 0_usize..24,
    ) {
        let reading = Reading { lines: true, bytes: true, ..TEXT };
        let (whole, walking) = (Stoppable::new(&source, reading).unwrap(), walking(&source, reading).unwrap());
        let upto = upto.min(text.len());
        let range = from.min(upto)..upto;
        let find = |regex: &Stoppable| regex.find(&mut Scratch::default(), &text, range.clone(), &mut always());
        prop_assert_eq!(find(&walking), find(&whole), "{} in {:?}", source, text);
    }
}
