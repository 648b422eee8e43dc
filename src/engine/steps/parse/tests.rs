use std::fmt::Write as _;

use serde_json::json;

use super::*;

#[test]
fn wrong_arguments_are_named() {
    let run = |with: Value| {
        let Value::Object(with) = with else { unreachable!("an object") };
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(run(Arguments::new("data.parse", &with)))
            .map_err(|error| error.message)
    };
    for (with, expected) in [
        (json!({"text": "", "format": "xml"}), "`format` of data.parse must be test, build or log"),
        (
            json!({"text": "", "format": "build", "tool": "javac"}),
            "`tool` of data.parse must be rustc, cc, tsc, mypy, ruff, go, eslint, python, maven",
        ),
        (
            json!({"text": "", "format": "log", "tool": "x"}),
            "`tool` of data.parse: a log has no tool; leave it out",
        ),
        (json!({"text": 1, "format": "log"}), "`text` of data.parse must be a text"),
    ] {
        assert_eq!(run(with).unwrap_err(), expected);
    }
    let nothing = run(json!({"text": "", "format": "test"})).unwrap();
    assert_eq!((&nothing["tool"], &nothing["ok"]), (&Value::Null, &Value::Null));
}

/// Every recorded output says what `fixtures/outputs/gold.json` holds of it.
#[test]
fn recorded_outputs_say_what_is_known_of_them() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/outputs");
    let gold: Value = serde_json::from_slice(&std::fs::read(root.join("gold.json")).unwrap()).unwrap();
    let mut told = std::collections::BTreeSet::new();
    let mut wrong = String::new();
    for row in gold.as_array().unwrap() {
        let file = row["file"].as_str().unwrap();
        told.insert(file.to_owned());
        let text = String::from_utf8_lossy(&std::fs::read(root.join(file)).unwrap()).into_owned();
        let format = match row["format"].as_str().unwrap() {
            "test" => Format::Test,
            "build" => Format::Build,
            _ => Format::Log,
        };
        // Neither line ends of Windows nor a cut in colours changes what is read.
        for text in [text.clone(), text.replace('\n', "\r\n")] {
            let facts = facts(&parse(&text, format, None, 100));
            if facts != row["facts"] {
                let _ = writeln!(wrong, "{file}:\n  {facts}\nis not\n  {}", row["facts"]);
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    for folder in
        std::fs::read_dir(&root).unwrap().filter_map(Result::ok).filter(|entry| entry.path().is_dir())
    {
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let path = file.unwrap().path();
            let name = path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            assert!(told.contains(&name), "{name} has no row in gold.json");
        }
    }
}

/// What a person would note of an output: counts; of each item one line.
fn facts(value: &Value) -> Value {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let place = |item: &Value| match (&item["file"], &item["line"]) {
        (Value::Null, _) => String::new(),
        (file, Value::Null) => format!(" @ {}", text(file)),
        (file, line) => format!(" @ {}:{line}", text(file)),
    };
    let first = |text: String| text.lines().next().unwrap_or_default().to_owned();
    let mut facts = Map::new();
    for (name, value) in value.as_object().unwrap() {
        let lines = |line: &dyn Fn(&Value) -> String| {
            value.as_array().unwrap().iter().map(|item| Value::from(line(item))).collect()
        };
        let fact: Value = match name.as_str() {
            "failures" => lines(&|item| {
                format!("{}{} | {}", text(&item["name"]), place(item), first(text(&item["message"])))
            }),
            "diagnostics" => lines(&|item| {
                format!(
                    "{} {}x {}{} | {}",
                    text(&item["level"]),
                    item["n"],
                    text(&item["code"]),
                    place(item),
                    first(text(&item["message"]))
                )
            }),
            "clusters" => lines(&|item| {
                format!(
                    "{} {}x {}-{} {}",
                    text(&item["level"]),
                    item["n"],
                    item["first"],
                    item["last"],
                    text(&item["template"])
                ) + &item["where"].as_str().map(|place| format!(" @ {place}")).unwrap_or_default()
            }),
            // What changes with each run is not asked about.
            "duration_ms" | "from" | "to" | "failures_n" | "diagnostics_n" | "clusters_n" => continue,
            _ => value.clone(),
        };
        facts.insert(name.clone(), fact);
    }
    Value::Object(facts)
}

/// Pieces of what tools print: what a parser looks for, and what may surround it.
const PIECES: &[&str] = &[
    "test result: FAILED. 1 passed; 99999999999999999999 failed; ",
    "running 3 tests\n",
    "---- a stdout ----\n",
    "test a ... ",
    "FAILED\n",
    "thread 'a' panicked at src/é.rs:1:2:\n",
    "thread 'x' panicked at 'é', a:1:1\n",
    "failures:\n",
    "    ",
    "\n",
    "\n\n",
    "error[E0308]: m\n",
    " --> a.rs:1:2\n",
    "error: could not compile `a` (lib test)\n",
    "warning: ",
    "a.c:3:5: error: m [-Wx]\n",
    "{\"reason\":\"compiler-message\",\"level\":\"error\",\"spans\":[",
    "}\n",
    "a.ts(1,2): error TS1: m\n",
    "error TS",
    "=== FAILURES ===\n",
    "____ test_a ____\n",
    "E  é\n",
    "a.py:1: X\n",
    "= short test summary info =\n",
    "FAILED a.py::b[é] - m\n",
    "1 failed in 0.1s\n",
    "Ran 3 tests in 0.1s\n",
    "FAIL: a (b.c)\n",
    "  File \"a.py\", line 3, in f\n",
    "FAIL a.test.js\n",
    "  ● a › b\n",
    "Tests: 1 failed, 2 total\n",
    " RUN  v1\n",
    " FAIL  a > b\n",
    "⎯⎯⎯ Failed Tests 1 ⎯⎯⎯\n",
    " ❯ a.ts:1:2\n",
    "  1 failing\n",
    "  1) a\n",
    "       b:\n",
    "TAP version 13\n",
    "not ok 1 - a\n",
    "  ---\n",
    "  error: |-\n",
    "  ...\n",
    "ℹ fail 1\n",
    "✖ failing tests:\n",
    "✖ a (1ms)\n",
    "test at a:1:2\n",
    "--- FAIL: TestA (0.00s)\n",
    "FAIL\ta\t0.1s\n",
    "panic: x\n",
    "goroutine 1 [running]:\n",
    "\ta.go:1 +0x1\n",
    "=== RUN   A\n",
    "# pkg\n",
    "{\"Action\":\"output\",\"Package\":\"a\",\"Test\":\"T\",\"Output\":\"x\\n\"}\n",
    "Nextest run ID x\n",
    "        FAIL [   0.1s] a b\n",
    "  Summary [ 0.1s] 1 tests run: 1 failed\n",
    "2026-01-02T03:04:05.1234567Z ",
    "a\tb\t2026-01-02T03:04:05.1234567Z ",
    "\u{1b}[31m",
    "\u{1b}]0;t\u{7}",
    "\u{1b}",
    "\r",
    "\r\n",
    "\u{8}",
    "\0",
    "é",
    "日本",
    "\u{feff}",
    "Traceback (most recent call last):\n",
    "ValueError: x\n",
    "Jan  2 03:04:05 ",
    "Nov 22, 2026 10:52:26 PM a\n",
    "<13>",
    "E0102 03:04:05.000000 ",
    "{\"level\":50,\"msg\":\"a\",\"time\":1e300}\n",
    "time=x level=error msg=\"a\\\"",
    "[02/Jan/2026:03:04:05 +0000] ",
    "\"GET / HTTP/1.1\" 500 1\n",
    "/a/b/c",
    "'",
    "\"",
    "0x",
    "deadbeef1",
    "1.2.3.4:5",
    "123e4567-e89b-12d3-a456-426614174000",
    "Caused by: ",
    "\tat a.B(C.java:1)\n",
];

mod nothing_in_a_text_makes_it_panic {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn pieces_of_outputs_in_any_order(
            pieces in proptest::collection::vec(
                prop_oneof![8 => proptest::sample::select(PIECES).prop_map(str::to_owned), 1 => "\\PC{0,12}", 1 => "[0-9: .-]{0,20}"],
                0..60,
            ),
            limit in 1_usize..20,
        ) {
            let text = pieces.concat();
            for format in [Format::Test, Format::Build, Format::Log] {
                let value = parse(&text, format, None, limit);
                let list = ["failures", "diagnostics", "clusters"].iter().find_map(|name| value[*name].as_array()).unwrap();
                prop_assert!(list.len() <= limit);
                for tool in test::TOOLS {
                    parse(&text, Format::Test, Some(tool), limit);
                }
                for tool in build::TOOLS {
                    parse(&text, Format::Build, Some(tool), limit);
                }
            }
        }
    }
}

/// Megabytes of anything take time in proportion to their size: no text is read more than a few times.
#[test]
fn large_texts_are_read_in_bounded_time() {
    const SIZE: usize = 2 << 20;
    // What a reading quadratic in anything could not do; what it takes is a few seconds without optimisation.
    const BACKSTOP: std::time::Duration = std::time::Duration::from_mins(2);
    let mixed = PIECES.concat().repeat((10 << 20) / PIECES.concat().len());
    for format in [Format::Test, Format::Build, Format::Log] {
        let begun = std::time::Instant::now();
        parse(&mixed, format, None, 50);
        assert!(begun.elapsed() < BACKSTOP, "{:?} for 10 MiB of everything", begun.elapsed());
    }
    let distinct = (0..60_000).fold(String::new(), |mut text, n| {
        let _ = write!(text, "---- t{n} stdout ----\ntest t{n} ... FAILED\n");
        text
    });
    let begun = std::time::Instant::now();
    parse(&distinct, Format::Test, None, 50);
    assert!(begun.elapsed() < BACKSTOP, "{:?}", begun.elapsed());
    let repeated = |text: &str| text.repeat(SIZE / text.len() + 1);
    for text in [
        repeated("test a ... FAILED\n"),
        repeated("---- a stdout ----\nthread 'a' panicked at a.rs:1:2:\nx\n"),
        repeated("a.c:3:5: error: m 1 [-Wx]\n"),
        repeated("ERROR a 'b' \"c /d/e/f 1.2.3.4 \u{1b}[1m"),
        repeated("--- FAIL: TestA/b (0.00s)\n    a.go:1: x\n"),
        repeated("  ● a › b\n\n    m\n      at a (b.js:1:2)\n"),
        repeated("Traceback (most recent call last):\n  File \"a\", line 1\n"),
        repeated("\n"),
        repeated("x"),
        repeated("' "),
        repeated("=== a ===\n"),
    ] {
        for format in [Format::Test, Format::Build, Format::Log] {
            let begun = std::time::Instant::now();
            parse(&text, format, None, 50);
            assert!(begun.elapsed() < BACKSTOP, "{:?} for {}", begun.elapsed(), &text[..20]);
        }
    }
}
