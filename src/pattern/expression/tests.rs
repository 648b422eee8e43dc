use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{function::ALLOWED, *};

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

fn evaluate(source: &str, root: &Value) -> Result<Value, ExpressionError> {
    Expression::compile(source)?.evaluate(root, soon(), 1 << 20)
}

fn root() -> Value {
    json!({
        "inputs": {"since": "14d", "n": 3},
        "bind": {"root": "/w"},
        "steps": {
            "log": {"n": 2, "commits": [
                {"subject": "fix: b", "author": "zoe", "line": "b2", "add": 5},
                {"subject": "feat: a", "author": "abe", "line": "a1", "add": 7}
            ]},
            "status": {"branch": "main", "changed": []},
            "gone": null,
            "failed": {"error": {"code": "busy", "message": "try again"}}
        },
        "query": "what changed",
        "session": {}
    })
}

#[test]
fn expressions_give_what_jq_gives() {
    let table = [
        (".inputs.since", json!("14d")),
        ("{b: .steps.status.branch, a: .steps.log.n}", json!({"b": "main", "a": 2})),
        (".steps.gone.hits // []", json!([])),
        ("[.steps.log.commits[].subject] | .[0:20] | join(\" \")", json!("fix: b feat: a")),
        (".steps.log.n > 0", json!(true)),
        (".steps.log.commits | map(.add) | add", json!(12)),
        ("[.steps.log.commits[] | \"\\(.author): \\(.add)\"]", json!(["zoe: 5", "abe: 7"])),
        (
            ".steps.log.commits | group_by(.author) | map({a: .[0].author, n: length})",
            json!([{"a": "abe", "n": 1}, {"a": "zoe", "n": 1}]),
        ),
        (".steps.log.commits | sort_by(-.add)[0].line", json!("a1")),
        (".steps.log.commits as $all | $all | length", json!(2)),
        ("reduce .steps.log.commits[] as {$add} (0; . + $add)", json!(12)),
        ("if .inputs.n > 2 then \"many\" else \"few\" end", json!("many")),
        (".inputs.since | capture(\"(?<n>[0-9]+)(?<unit>[dhw])\")", json!({"n": "14", "unit": "d"})),
        ("\"a-b-c\" | split(\"-\") | map(ascii_upcase)", json!(["A", "B", "C"])),
        (".steps.log | to_entries | map(.key)", json!(["n", "commits"])),
        (".steps.status | with_entries(select(.key == \"branch\"))", json!({"branch": "main"})),
        ("try (.inputs.since | error(\"no\")) catch .", json!("no")),
        (".inputs.since[0:2]", json!("14")),
        ("[.steps.log.commits[].add] | [min, max, length, (sort | .[0])]", json!([5, 7, 2, 5])),
        ("7 / 2, 6 / 2 | [.] | first", Value::Null),
        ("[7 / 2, 6 / 2, 7 % 3, -(3)]", json!([3.5, 3, 1, -3])),
        ("[[1, [2]], 3] | flatten", json!([1, 2, 3])),
        ("[3, 1, 2] | sort | reverse", json!([3, 2, 1])),
        ("{a: {b: 1}} * {a: {c: 2}}", json!({"a": {"b": 1, "c": 2}})),
        ("[1, 2, 3] - [2]", json!([1, 3])),
        ("{a: 1} | .b = 2 | .a |= . + 1 | del(.b)", json!({"a": 2})),
        ("\"x1y22\" | [scan(\"[0-9]+\")]", json!(["1", "22"])),
        ("\"a.b\" | gsub(\"\\\\.\"; \"-\")", json!("a-b")),
        ("[limit(2; .steps.log.commits[].line)]", json!(["b2", "a1"])),
        ("any(.steps.log.commits[]; .add > 6)", json!(true)),
        (".steps.log.commits | map(has(\"add\")) | all", json!(true)),
        ("[1, null, 2] | map(values) | tojson", json!("[1,null,2]".replace("null,", ""))),
        ("\"{\\\"a\\\":[1]}\" | fromjson | .a[0]", json!(1)),
        ("[\"b\", \"a\", \"b\"] | unique", json!(["a", "b"])),
        ("[\"aXbX\" | indices(\"X\")] | .[0]", json!([1, 3])),
        ("[[1, 2], [3]] | transpose", json!([[1, 3], [2, null]])),
        ("[.steps.log.commits[] | {line, author}] | .[0]", json!({"line": "b2", "author": "zoe"})),
        ("empty", Value::Null),
        (".inputs | keys", json!(["n", "since"])),
        ("\"é\" | length, utf8bytelength | [.] | first(.[])", Value::Null),
        (".steps.failed.error.code? // \"none\"", json!("busy")),
        ("9223372036854775807 + 1", json!(9_223_372_036_854_775_808_u64 as f64)),
        ("[.query | test(\"CHANGED\"), test(\"(?i)CHANGED\")]", json!([false, true])),
    ];
    for (source, expected) in table {
        let result = evaluate(source, &root());
        if expected.is_null() && source.contains(", ") && source.contains("first") {
            assert!(result.is_err(), "{source}: {result:?}");
        } else {
            assert_eq!(result, Ok(expected), "{source}");
        }
    }
}

#[test]
fn members_keep_the_order_they_were_written_in() {
    let value = evaluate("{z: 1, a: 2, m: {y: 1, b: 2}}", &root()).unwrap();
    assert_eq!(value.to_string(), r#"{"z":1,"a":2,"m":{"y":1,"b":2}}"#);
}

#[test]
fn what_is_not_allowed_is_refused_at_load_with_a_reason() {
    let table = [
        ("def f: f; f", "`def` is not allowed"),
        ("..", "`..` is not allowed"),
        ("[..]", "`..` is not allowed"),
        ("recurse", "loops without a bound"),
        ("recurse(.a)", "loops without a bound"),
        ("[range(1e9)]", "loops without a bound"),
        ("range(0; 10; 0)", "loops without a bound"),
        ("repeat(1)", "loops without a bound"),
        ("0 | until(false; .)", "loops without a bound"),
        ("[while(true; .)]", "loops without a bound"),
        ("walk(.)", "loops without a bound"),
        ("env", "do not see the environment"),
        ("env.HOME", "do not see the environment"),
        ("$ENV.HOME", "do not see the environment"),
        ("input", "no input stream"),
        ("[inputs]", "no input stream"),
        ("now", "do not see the clock"),
        ("debug", "no side effects"),
        ("stderr", "no side effects"),
        ("halt", "no side effects"),
        ("halt_error(1)", "no side effects"),
        ("import \"a\" as a; .", "expressions stand alone"),
        ("include \"a\"; .", "expressions stand alone"),
        ("\"x\" * 1000000000", "multiplying a string"),
        ("1000000000 * \"x\"", "multiplying a string"),
        ("\"x\" as $s | $s * .inputs.n", "multiplying a string"),
        ("\"x\" | . * 1000000000", "multiplying a string"),
        (".inputs.n as $n | \"x\" | . * $n", "multiplying a string"),
        ("1e12 * (\"x\")", "multiplying a string"),
        ("(.query | tostring) * 3", "multiplying a string"),
        (".query + \"x\" | . * 3", "multiplying a string"),
        ("[\"a\"] | join(\"x\") * 3", "multiplying a string"),
        ("\"ab\"[0:1] * 3", "multiplying a string"),
        ("(if .query then \"x\" else 1 end) * 3", "multiplying a string"),
        ("(.query // \"x\") * 3", "multiplying a string"),
        ("reduce .inputs.n as $n (\"x\"; . * $n)", "multiplying a string"),
        ("(reduce .inputs.n as $n (\"x\"; . + \"y\")) * 3", "multiplying a string"),
        (".query *= \"x\"", "multiplying a string"),
        ("first(\"x\", 1) * 3", "multiplying a string"),
        ("@sh \"a\"", "`@sh` is not available"),
        (".inputs | @base64", "`@base64` is not available"),
        ("label $out | 1, break $out", "`label` and `break` are not allowed"),
        ("$x", "there is no variable `$x`"),
        ("$__loc__", "there is no variable"),
        ("lenght", "did you mean `length`"),
        ("map(1; 2)", "`map` takes 1 arguments, not 2"),
        ("reduce .a[] as $x (0)", "`reduce` takes (start; update)"),
        (".a |", "expected term, found the end at character 5"),
        (".a & .b", "expected a token, found `& .b` at character 4"),
        ("", "expected term"),
        (".a }", "at character 4"),
        ("\"\\(", "expected"),
        ("1e999", "too large"),
        ("path(.a)", "paths as values"),
        ("get_search_list", "environment"),
    ];
    for (source, reason) in table {
        match Expression::compile(source) {
            Err(ExpressionError::Refused(message)) => {
                assert!(message.contains(reason), "{source}: {message}");
            }
            other => panic!("{source}: {other:?}"),
        }
    }
}

#[test]
fn hostile_sources_are_refused_without_exhausting_the_stack() {
    for source in [
        "(".repeat(8000),
        "[".repeat(250) + &"]".repeat(250),
        "-".repeat(8000) + "1",
        "try ".repeat(2000) + "1",
        ". as $x|".repeat(900) + "1",
        "1|".repeat(4000) + "1",
        "1,".repeat(4000) + "1",
        "1+".repeat(4000) + "1",
        ".a".repeat(4000),
        ".[0]".repeat(2000),
        "\"\\(".repeat(2000),
        "if 1 then ".repeat(500),
        "{".repeat(30) + &"}".repeat(30),
        "reduce ".repeat(900),
        "#\\\n".repeat(2000),
        "é".repeat(4000),
        "\u{0}".to_owned(),
        "x".repeat(9000),
    ] {
        let _ = Expression::compile(&source);
    }
}

#[test]
fn an_expression_at_the_limits_of_depth_runs_on_a_small_stack() {
    let deep = |open: &str, inner: &str, close: &str, n: usize| open.repeat(n) + inner + &close.repeat(n);
    let mut compiled = 0;
    for source in [
        deep("[", "1", "]", 31),
        deep("(1 | ", "1", ")", 31),
        "1 | ".repeat(90) + "1",
        "1 + ".repeat(90) + "1",
        "1, ".repeat(90) + "1",
        "-".repeat(90) + "1",
        ". as $x | ".repeat(90) + "1",
        format!(
            "{{{}z: 1}}",
            (0..90).map(|n| format!("a{n}: [.inputs.n]")).fold(String::new(), |a, b| a + &b + ", ")
        ),
        deep("map(", ".", ")", 31),
        deep("if true then ", "1", " else 2 end", 90),
        deep("first(", "1", ")", 31),
    ] {
        let Ok(expression) = Expression::compile(&source) else { continue };
        compiled += 1;
        let _ = expression.evaluate(&root(), soon(), 1 << 20);
    }
    assert!(compiled >= 8, "{compiled}");
}

#[test]
fn evaluation_stops_at_its_deadline() {
    // 3,000^3 rounds: hours, were it not stopped.
    let items: Vec<u32> = (0..3_000).collect();
    let root = json!({"inputs": {"items": items}});
    for source in [
        "[.inputs.items[] as $a | .inputs.items[] as $b | .inputs.items[] as $c | select($a + $b + $c < 0)] | length",
        "reduce (.inputs.items[] as $a | .inputs.items[] as $b | .inputs.items[]) as $c (0; try error(\"x\") catch 1)",
        "[.inputs.items[] as $a | .inputs.items[] as $b | .inputs.items[]? | try error(.) catch empty]",
        "any(.inputs.items[] as $a | .inputs.items[] as $b | .inputs.items[]; . < 0)",
        "isempty(.inputs.items[] as $a | .inputs.items[] as $b | .inputs.items[] | select(. < 0))",
    ] {
        let started = Instant::now();
        let result = Expression::compile(source).unwrap().evaluate(
            &root,
            started + Duration::from_millis(50),
            1 << 20,
        );
        assert_eq!(result, Err(ExpressionError::Deadline), "{source}");
        assert!(started.elapsed() < Duration::from_secs(5), "{source}: {:?}", started.elapsed());
    }
}

#[test]
fn evaluation_stops_at_its_output_and_work_limits() {
    let items: Vec<u32> = (0..2_000).collect();
    let root = json!({"inputs": {"items": items, "text": "x".repeat(10_000)}});
    let large = Expression::compile("[.inputs.items[] as $a | .inputs.text]").unwrap();
    assert_eq!(large.evaluate(&root, soon(), 100_000), Err(ExpressionError::TooLarge(100_000)));
    // Doubling: small to write, endless in memory.
    let doubling = "reduce .inputs.items[] as $x (\"x\"; . + .)";
    assert!(matches!(evaluate(doubling, &root), Err(ExpressionError::TooLarge(_))));
    let arrays = "reduce .inputs.items[] as $x ([1]; . + .)";
    assert!(matches!(evaluate(arrays, &root), Err(ExpressionError::TooLarge(_))));
    // Shared parts: cheap in memory, endless as text.
    let shared = "reduce .inputs.items[0:60][] as $x ([1]; [., .]) | tojson | length";
    assert!(matches!(evaluate(shared, &root), Err(ExpressionError::TooLarge(_))));
    let printed = "reduce .inputs.items[0:60][] as $x ([1]; [., .])";
    assert!(matches!(evaluate(printed, &root), Err(ExpressionError::TooLarge(_))));
    let nested = "reduce .inputs.items[] as $x (null; [.])";
    assert!(
        matches!(evaluate(nested, &root), Err(ExpressionError::Failed(message)) if message.contains("deeper"))
    );
    let named = "reduce .inputs.items[] as $x (null; {a: .})";
    assert!(
        matches!(evaluate(named, &root), Err(ExpressionError::Failed(message)) if message.contains("deeper"))
    );
}

#[test]
fn no_spelling_multiplies_a_string() {
    let root = json!({"inputs": {
        "text": "x", "n": 1_000_000_000_000_u64, "pair": ["x", 1e12], "of": {"a": "x", "b": 1e12}, "many": [1e6, 1e6, 1e6],
    }});
    for source in [
        ".inputs.text * .inputs.n",
        ".inputs.n * .inputs.text",
        ".inputs.n as $n | .inputs.text | . * $n",
        ".inputs.pair | .[0] * .[1]",
        ".inputs.of | .a * .b",
        ".inputs.of | .a *= 1e12",
        ".inputs.of as {$a, $b} | $a * $b",
        ".inputs.text as $s | $s * 1e12",
        "(.inputs.text | ltrimstr(\"y\")) * 1e12",
        "(.inputs.pair | first) * (.inputs.pair | last)",
        "[.inputs.pair[0] | . * (1e6, 1e12)]",
        "reduce .inputs.many[] as $n (.inputs.text; . * $n)",
        "foreach .inputs.many[] as $n (.inputs.text; . * $n)",
        ".inputs.pair | map(. * 1e12)",
        "{(.inputs.text * 1e12): 1}",
        ".inputs.of | with_entries(.key * 1e12)",
        "try (.inputs.text * 1e12) catch error(.)",
        "\"\\(.inputs.text * 1e12)\"",
        "[.inputs.text] * 1e12",
        ".inputs.text * 0",
        ".inputs.text * -1",
        ".inputs.text * null",
        ".inputs.text * .inputs.text",
    ] {
        match evaluate(source, &root) {
            Err(ExpressionError::Failed(why)) => {
                assert!(
                    why.contains("cannot be multiplied") || why.contains("is not defined"),
                    "{source}: {why}"
                );
            }
            other => panic!("{source}: {other:?}"),
        }
    }
    assert_eq!(evaluate(".inputs.many | .[0] * .[1]", &root), Ok(json!(1_000_000_000_000_u64)));
}

#[test]
fn a_regex_on_a_long_text_stops_at_the_deadline() {
    let root = json!({"inputs": {"text": "ab".repeat(450_000)}});
    for source in [
        // Sixteen thousand states, all of them reached.
        ".inputs.text | test(\"(?:[ab]{1,90}){1,90}c\")",
        ".inputs.text | [capture(\"(?<x>(?:[ab]{1,90}){1,90})c\")]",
        ".inputs.text | [scan(\"(?:[ab]{1,90}){1,90}c\")]",
        ".inputs.text | sub(\"(?:[ab]{1,90}){1,90}c\"; \"\")",
        ".inputs.text | gsub(\"(?:[ab]{1,90}){1,90}c\"; \"\")",
        // Short searches without end: each find looks through the rest.
        ".inputs.text | [scan(\"a(?:.*c)?\")] | length",
        ".inputs.text | gsub(\"a(?:.*c)?\"; \"\")",
    ] {
        let expression = Expression::compile(source).unwrap();
        expression.prepare().unwrap();
        let started = Instant::now();
        let result = expression.evaluate(&root, started + Duration::from_millis(300), 1 << 20);
        let elapsed = started.elapsed();
        assert_eq!(result, Err(ExpressionError::Deadline), "{source}");
        assert!(elapsed < Duration::from_secs(4), "{source}: {elapsed:?}");
    }
}

#[test]
fn a_regex_on_a_long_text_gives_what_it_gives_on_a_short_one() {
    let root = json!({"inputs": {"text": "Größe 12, ".repeat(20_000)}});
    for (source, expected) in [
        (".inputs.text | test(\"(?i)GRÖSSE\")", json!(false)),
        (".inputs.text | capture(\"(?<word>\\\\w+) (?<n>\\\\d+)\")", json!({"word": "Größe", "n": "12"})),
        ("[.inputs.text | scan(\"\\\\bGröße\\\\b\")] | length", json!(20_000)),
        (".inputs.text | [scan(\"(ö)(ß)\")] | [length, .[19999]]", json!([20_000, ["ö", "ß"]])),
        (".inputs.text | gsub(\" \\\\d+, \"; \"\") | length", json!(100_000)),
        (".inputs.text | sub(\"Größe\"; \"\") | length", json!(199_995)),
    ] {
        assert_eq!(evaluate(source, &root), Ok(expected), "{source}");
    }
}

#[test]
fn comparing_shared_deep_values_stops_at_the_deadline() {
    let root = json!({"inputs": {"items": (0..60).collect::<Vec<u32>>()}});
    let source = "(reduce .inputs.items[] as $x ([1]; [., .])) as $a \
                  | (reduce .inputs.items[] as $x ([1]; [., .])) as $b | $a == $b";
    let started = Instant::now();
    let result =
        Expression::compile(source).unwrap().evaluate(&root, started + Duration::from_millis(50), 1 << 20);
    assert_eq!(result, Err(ExpressionError::Deadline));
}

#[test]
fn several_results_and_failures_are_errors_that_name_kinds_not_values() {
    let root = json!({"inputs": {"secret": "hunter2", "list": [1], "ahead": "(?=x)"}});
    for (source, message) in [
        (".inputs.list[], 1", "several results"),
        (".inputs.secret | .[0].a", "a string cannot be indexed with a number"),
        (".inputs.secret + 1", "a string + a number is not defined"),
        (".inputs.list | keys | .[0].x.y", "a number has no member \"x\""),
        (".inputs.secret | .[]", "a string has no items"),
        ("1 / 0", "division by zero"),
        (".inputs.secret * 3", "strings cannot be multiplied"),
        (".inputs.secret | fromjson", "not JSON"),
        (".inputs.secret | tonumber", "not a number"),
        (".inputs.ahead as $ahead | .inputs.secret | test($ahead)", "no look-around"),
        ("error({a: 1})", "failed with an object"),
    ] {
        match evaluate(source, &root) {
            Err(ExpressionError::Failed(text)) => {
                assert!(text.contains(message), "{source}: {text}");
                assert!(!text.contains("hunter2"), "{source}: {text}");
            }
            other => panic!("{source}: {other:?}"),
        }
    }
}

#[test]
fn mentioned_steps_are_known_without_running() {
    let table: &[(&str, &[&str])] = &[
        (".steps.log.n > 0", &["log"]),
        (".steps[\"log\"].n + .steps.\"other-step\".n", &["log", "other-step"]),
        ("{a: .steps.a, b: [.steps.b[] | .steps.inner]}", &["a", "b"]),
        (".steps.a as $a | .inputs.x | map(.steps.no) | $a, .", &["a"]),
        ("if .steps.c then .steps.d else empty end", &["c", "d"]),
        ("\"text \\(.steps.e.x)\"", &["e"]),
        (".inputs.since", &[]),
        (". | .steps.f", &["f"]),
        ("[limit(1; .steps.g[])] + (.steps.h // [])", &["g", "h"]),
    ];
    for (source, steps) in table {
        assert_eq!(Expression::compile(source).unwrap().mentioned_steps(), *steps, "{source}");
    }
    assert!(Expression::compile(". | keys").unwrap().reads().whole);
    assert!(!Expression::compile(".steps.a | keys").unwrap().reads().whole);
}

#[test]
fn templates_fill_whole_scalars_and_leave_the_rest() {
    let template = json!({"repo": "${ .bind.root }", "max": 200, "list": ["a", "${ .inputs.n }"], "text": "costs $5 {x}"});
    let template = Template::compile(&template).unwrap();
    let filled = template.evaluate(&root(), soon(), 1 << 20).unwrap();
    assert_eq!(filled, json!({"repo": "/w", "max": 200, "list": ["a", 3], "text": "costs $5 {x}"}));
    assert_eq!(template.expressions().len(), 2);
    let (pointer, error) = Template::compile(&json!({"a": [1, {"b/c": "${ def }"}]})).unwrap_err();
    assert_eq!(pointer, "/a/1/b~1c");
    assert!(matches!(error, ExpressionError::Refused(_)));
    let twice = Template::compile(&json!(["${ .query }", "${ .query }"])).unwrap();
    assert_eq!(twice.evaluate(&root(), soon(), 20), Err(ExpressionError::TooLarge(20)));
}

#[test]
fn every_allowed_function_is_compiled_in() {
    for (name, arguments) in ALLOWED {
        let arguments = vec!["."; *arguments].join("; ");
        let call = if arguments.is_empty() { (*name).to_owned() } else { format!("{name}({arguments})") };
        let expression = Expression::compile(&call).unwrap();
        assert_eq!(expression.prepare(), Ok(()), "{call}");
        for input in [json!(null), json!(1), json!("a"), json!([1, "a", null]), json!({"a": [1]})] {
            let _ = expression.evaluate(&input, soon(), 1 << 16);
        }
    }
}

fn source() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just(".".to_owned()),
        Just(".a".to_owned()),
        Just(".a.b[0]".to_owned()),
        Just(".[]".to_owned()),
        Just(".[]?".to_owned()),
        Just(".[1:-1]".to_owned()),
        Just(".[\"a\"]".to_owned()),
        Just("\"x\\(.)y\"".to_owned()),
        Just("null".to_owned()),
        Just("$v".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<f64>().prop_map(|n| n.to_string()),
        proptest::sample::select(ALLOWED).prop_map(|(name, _)| name.to_owned()),
    ];
    leaf.prop_recursive(5, 48, 4, |inner| {
        let two = (inner.clone(), inner.clone());
        let operators = proptest::sample::select(vec![
            "|", ",", "+", "-", "*", "/", "%", "==", "<", "and", "or", "//", "=", "|=", "+=", "//=",
        ]);
        prop_oneof![
            (two.clone(), operators).prop_map(|((l, r), op)| format!("({l} {op} {r})")),
            two.clone().prop_map(|(l, r)| format!("({l} as $v | {r})")),
            two.clone().prop_map(|(l, r)| format!("({l} as [$v, {{$w}}] | {r})")),
            two.clone().prop_map(|(k, v)| format!("{{a: {k}, (\"b\"): {v}}}")),
            two.clone().prop_map(|(l, r)| format!("(try {l} catch {r})")),
            two.clone().prop_map(|(l, r)| format!("(reduce {l} as $v (0; {r}))")),
            two.clone().prop_map(|(l, r)| format!("(foreach {l} as $v (null; {r}; [.]))")),
            (two, inner.clone()).prop_map(|((a, b), c)| format!("(if {a} then {b} else {c} end)")),
            inner.clone().prop_map(|x| format!("[{x}]")),
            inner.clone().prop_map(|x| format!("(-{x})")),
            inner.clone().prop_map(|x| format!("({x})?")),
            inner.clone().prop_map(|x| format!("(.[{x}])")),
            (proptest::sample::select(ALLOWED), proptest::collection::vec(inner, 2)).prop_map(
                |((name, count), arguments)| match count {
                    0 => (*name).to_owned(),
                    count => format!("{name}({})", arguments[..count].join("; ")),
                }
            ),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_expression_panics_or_runs_past_its_deadline(source in source()) {
        let Ok(expression) = Expression::compile(&source) else { return Ok(()) };
        prop_assert_eq!(expression.prepare(), Ok(()), "{}", source);
        let root = json!({"a": {"b": [1, "two", null, [3, {"c": 4.5}]]}, "b": [[2], [1, 3]], "c": "text \u{e9}"});
        let started = Instant::now();
        let _ = expression.evaluate(&root, started + Duration::from_millis(100), 1 << 16);
        prop_assert!(started.elapsed() < Duration::from_secs(4), "{}", source);
    }

    #[test]
    fn no_text_panics_the_parser(source in "[ -~\\n\u{e9}]{0,60}") {
        let _ = Expression::compile(&source);
    }

    #[test]
    fn no_soup_of_tokens_panics(words in proptest::collection::vec(proptest::sample::select(vec![
        "(", ")", "[", "]", "{", "}", "|", ",", ".", "..", ".a", "$x", "as", "if", "then", "else", "end", "reduce", "try",
        "catch", "def", "label", "\"", "\\(", "@json", "-", "1", "1e", "?", "//", ":", ";", "map", "import", "#",
    ]), 0..40)) {
        let _ = Expression::compile(&words.join(" "));
        let _ = Expression::compile(&words.concat());
    }
}
