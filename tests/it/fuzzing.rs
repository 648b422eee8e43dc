//! The bodies of the fuzz targets (`fuzz/`, run by `scripts/fuzz`) on bytes made here: each still compiles, and holds on
//! broken built-in patterns, on fragments of jq put together, and on arguments of every kind for every step.

#[path = "../../fuzz/bodies.rs"]
mod bodies;

use proptest::{collection::vec, prelude::*, sample::select};
use serde_json::{Value, json};
use tmws::pattern::{BUILTINS, STEPS};

/// Parts of jq programs, the dangerous ones among them.
const FRAGMENTS: &[&str] = &[
    ".",
    ".a",
    "[.[]]",
    "| ",
    ", ",
    "map(.)",
    "sort_by(.a)",
    "\"x\"",
    "\"x\" * 9",
    "+ .",
    "[., .]",
    "..",
    "recurse",
    "combinations",
    "limit(3; .)",
    "reduce .[] as $x (0; . + $x)",
    "foreach .[] as $x (0; . + $x)",
    "test(\"a*\")",
    "split(\",\")",
    "join(\",\")",
    "implode",
    "explode",
    "tojson",
    "fromjson?",
    "paths",
    "group_by(.)",
    "unique",
    "if . then 1 else 2 end",
    "(",
    ")",
    "[",
    "]",
    "{a: .}",
    "try error",
    "as $x",
    "$x",
    "1e999",
    "-",
    "/ 0",
    "%",
    "@base64",
    "ascii",
    "ltrimstr(\"a\")",
    "range(9)",
    "env",
    "input",
    "def f: f; f",
    "until(false; .)",
    "while(true; .)",
    "repeat(.)",
    "getpath([\"a\"])",
    "to_entries",
    "transpose",
    "flatten",
    "indices(\"a\")",
    "splits(\"a\")",
    "ascii_downcase",
    "tostring",
    "length",
    "add",
    "any",
    "all",
    "min_by(.)",
];

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        select(vec![
            "",
            "src",
            "../outside.txt",
            "link",
            "/etc/passwd",
            "-x",
            "--upload-pack=x",
            "a\0b",
            "\n",
            "${ .x }",
            "**/*",
            "(a+)+$",
            "HEAD",
            "http://127.0.0.1/",
            "SELECT 1",
            "{{ x }}",
            "{% for i in range(10) %}x{% endfor %}",
            "9999999999d",
            "7d",
        ])
        .prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec(("[a-z]{1,6}", inner), 0..6).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn broken_pattern_files_are_refused_at_a_place(
        file in 0..BUILTINS.len(),
        edits in vec((any::<prop::sample::Index>(), 0..40_usize, "[ \\-\\[\\]{}:,.'\"$|a-z0-9\n#&*!%@`é]{0,12}"), 1..6),
    ) {
        let mut text: Vec<char> = BUILTINS[file].1.chars().collect();
        for (at, cut, put) in edits {
            let at = at.index(text.len().max(1)).min(text.len());
            let end = (at + cut).min(text.len());
            text.splice(at..end, put.chars());
        }
        bodies::loader(text.into_iter().collect::<String>().as_bytes());
    }

    #[test]
    fn expressions_end_in_time_and_within_their_bytes(
        parts in vec(select(FRAGMENTS), 1..12),
        input in json_value(),
    ) {
        bodies::expression(format!("{}\n{input}", parts.join(" ")).as_bytes());
    }

    #[test]
    fn every_step_answers_any_arguments_with_a_value_or_a_typed_error(
        step in 0..STEPS.len(),
        values in vec(json_value(), 8),
    ) {
        let row = &STEPS[step];
        let names = row.required.iter().chain(row.optional).filter(|name| !["root", "repo"].contains(*name));
        let with: serde_json::Map<String, Value> =
            names.zip(values).map(|(name, value)| ((*name).to_owned(), value)).collect();
        let Some(place) = STEPS
            .iter()
            .filter(|row| !tmws::engine::steps::BLOCKS.contains(&row.uses))
            .position(|other| other.uses == row.uses)
        else {
            return Ok(());
        };
        let mut data = vec![u8::try_from(place).expect("fewer than 256 steps")];
        data.extend(Value::Object(with).to_string().into_bytes());
        bodies::steps(&data);
    }
}
