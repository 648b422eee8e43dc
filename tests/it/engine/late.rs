//! Calls whose work is too much for their time: each is answered at its deadline, and its thread is free soon after.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use tmws::{
    engine::{ErrorKind, Surroundings},
    pattern::{Origin, Pattern, loader::load},
};
use tokio_util::sync::CancellationToken;

use super::support::{Act, Bench, around, request, value};

/// Sixteen thousand states, all of them reached by a text of `a` and `b`.
const NASTY: &str = "(?:[ab]{1,90}){1,90}c";
const DEADLINE: Duration = Duration::from_millis(300);
/// What a busy machine may add.
const SLACK: Duration = Duration::from_secs(3);

fn made(name: &str, steps: &str, output: &str) -> Arc<Pattern> {
    let (kind, needs) = if steps.contains("memory.") {
        ("memory", "permissions: {memory: [read]}")
    } else {
        (
            "infrastructure",
            "bind: {root: {from: workspace.root}}\npermissions: {fs.read: ['${ .bind.root }']}",
        )
    };
    let text = format!(
        "apiVersion: tmws/v1\nkind: Pattern\nname: {name}\nversion: 1.0.0\ntype: {kind}\n\
         description: A pattern of a test, made in it.\n\
         inputs: {{type: object, properties: {{text: {{type: string, pattern: '^[ab]'}}}}}}\n\
         {needs}\n\
         limits: {{timeout: 20s, max_steps: 40, max_bytes: 8MiB}}\nsteps:\n{steps}\n\
         output:\n  schema: {{type: object}}\n  value: '{output}'\n  budget: {{tokens: 300, overflow: cut}}\n"
    );
    load(name, &text, Origin::BuiltIn).unwrap_or_else(|errors| panic!("{errors:?}\n{text}")).pattern
}

/// A runtime with one thread for what blocks: whoever holds it is found out.
fn alone() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn a_call_is_answered_at_its_deadline_whatever_a_regex_does() {
    let quick = "  - {id: a, uses: data.truncate, with: {items: [1]}}";
    let jq = |filter: &str| {
        format!("  - {{id: a, uses: data.jq, with: {{input: '${{ .inputs.text }}', filter: '{filter}'}}}}")
    };
    let grep = |with: &str| {
        format!(
            "  - {{id: a, uses: fs.grep, with: {{root: '${{ .bind.root }}', pattern: '{NASTY}', {with}}}}}"
        )
    };
    let found = "${ {found: .steps.a.n, cut: .steps.a.truncated} }";
    let rows = [
        ("t.output", quick.to_owned(), format!("${{ {{found: (.inputs.text | test(\"{NASTY}\"))}} }}")),
        (
            "t.with",
            format!(
                "  - {{id: a, uses: data.truncate, with: {{items: '${{ [.inputs.text | test(\"{NASTY}\")] }}'}}}}"
            ),
            "${ {n: 1} }".to_owned(),
        ),
        (
            "t.if",
            format!(
                "  - {{id: a, uses: data.truncate, if: '${{ .inputs.text | test(\"{NASTY}\") }}', with: {{items: [1]}}}}"
            ),
            "${ {n: 1} }".to_owned(),
        ),
        ("t.jq", jq(&format!("test(\"{NASTY}\")")), "${ {found: .steps.a} }".to_owned()),
        ("t.groups", jq(&format!("capture(\"(?<x>{NASTY})\")")), "${ {found: .steps.a} }".to_owned()),
        ("t.scan", jq(&format!("[scan(\"{NASTY}\")]")), "${ {found: .steps.a} }".to_owned()),
        ("t.gsub", jq(&format!("gsub(\"{NASTY}\"; \"\")")), "${ {found: .steps.a} }".to_owned()),
        // Each find looks through the rest of the text.
        ("t.rests", jq("[scan(\"a(?:.*c)?\")] | length"), "${ {found: .steps.a} }".to_owned()),
        ("t.folder", grep("lines: true"), found.to_owned()),
        ("t.file", grep("path: long.txt"), found.to_owned()),
    ];
    for (name, steps, output) in rows {
        let runtime = alone();
        runtime.block_on(async {
            let bench = Bench::with(vec![made(name, &steps, &output)]).await;
            let text = "ab".repeat(450_000);
            std::fs::write(bench.folder.path().join("work/long.txt"), &text).unwrap();
            let cancel = CancellationToken::new();
            let begun = Instant::now();
            let surroundings = Surroundings { deadline: begun + DEADLINE, ..around(&cancel) };
            let answer =
                bench.engine.execute(&bench.scope, request(name, json!({"text": text})), surroundings).await;
            let elapsed = begun.elapsed();
            assert!(elapsed < DEADLINE + SLACK, "{name}: {elapsed:?}");
            match answer {
                // A search through files gives what it found so far, and says so.
                Ok(execution) if output == found => {
                    let found = value(&execution);
                    assert_eq!((&found["found"], &found["cut"]), (&json!(0), &json!(true)), "{name}");
                }
                Ok(execution) => panic!("{name}: {}", execution.text),
                Err(error) => assert_eq!(error.kind, ErrorKind::Deadline, "{name}: {error:?}"),
            }
            let free =
                tokio::time::timeout(Duration::from_secs(10), tokio::task::spawn_blocking(|| ())).await;
            assert!(free.is_ok(), "{name}: its thread is still held");
        });
    }
}

#[test]
fn a_line_of_a_megabyte_holds_no_step_up() {
    let steps = [
        ("fs.read", "{root: '${ .bind.root }', path: long.log}"),
        ("fs.glob", "{root: '${ .bind.root }', pattern: '**/*'}"),
        ("fs.tree", "{root: '${ .bind.root }'}"),
        ("fs.outline", "{root: '${ .bind.root }'}"),
        ("fs.grep", "{root: '${ .bind.root }', pattern: 'zz|((a|b|ab)*c{1,200})', lines: true}"),
        ("data.parse", "{format: log, text: '${ .inputs.text }'}"),
        ("data.parse", "{format: test, text: '${ .inputs.text }'}"),
        ("data.parse", "{format: build, text: '${ .inputs.text }'}"),
        (
            "data.template",
            "{template: '{% for c in t %}{{ t | upper }}{% endfor %}', values: {t: '${ .inputs.text }'}}",
        ),
        ("data.truncate", "{items: '${ .inputs.text }', chars: 9}"),
    ];
    let line = "ab/cd:12:3: 'x' \\\"y\\\" = [ok] (File ".repeat(30_000);
    for (uses, with) in steps {
        let runtime = alone();
        runtime.block_on(async {
            let steps = format!("  - {{id: a, uses: {uses}, on_error: continue, with: {with}}}");
            let bench = Bench::with(vec![made("t.line", &steps, "${ {n: 1} }")]).await;
            for name in ["long.log", "long.py", "long.js", "long.md", "long.rs"] {
                std::fs::write(bench.folder.path().join("work").join(name), &line).unwrap();
            }
            let cancel = CancellationToken::new();
            let begun = Instant::now();
            let surroundings = Surroundings { deadline: begun + DEADLINE, ..around(&cancel) };
            let input = json!({"text": line});
            let answer = bench.engine.execute(&bench.scope, request("t.line", input), surroundings).await;
            let elapsed = begun.elapsed();
            assert!(elapsed < DEADLINE + SLACK, "{uses}: {elapsed:?}");
            if let Err(error) = answer {
                assert_eq!(error.kind, ErrorKind::Deadline, "{uses}: {error:?}");
            }
            let free =
                tokio::time::timeout(Duration::from_secs(10), tokio::task::spawn_blocking(|| ())).await;
            assert!(free.is_ok(), "{uses}: its thread is still held");
        });
    }
}

#[tokio::test]
async fn long_inputs_are_held_against_their_schema() {
    let bench = Bench::with(vec![made(
        "t.input",
        "  - {id: a, uses: data.truncate, with: {items: [1]}}",
        "${ {n: 1} }",
    )])
    .await;
    let error = bench.run("t.input", json!({"text": "c".repeat(100_000)})).await.unwrap_err();
    assert_eq!((error.kind, error.part.as_deref()), (ErrorKind::InvalidInput, Some("text")));
    let output = bench.output("t.input", json!({"text": "a".repeat(100_000)})).await;
    assert_eq!(output["n"], 1);
}

#[tokio::test]
async fn what_failed_is_told_in_the_order_of_the_file() {
    let steps = "  - {id: slow, uses: memory.search, timeout: 50ms, on_error: continue, with: {query: slow}}\n\
                 \x20 - {id: quick, uses: control.assert, on_error: continue, with: {that: false, message: no}}\n\
                 \x20 - id: each\n    uses: control.foreach\n    with:\n      items: [2, 1]\n      steps:\n\
                 \x20       - {id: of, uses: control.assert, on_error: continue, with: {that: false, message: no}}\n\
                 \x20 - {id: last, uses: control.assert, on_error: continue, with: {that: false, message: no}}";
    let pattern = made("t.partial", steps, "${ {n: 1} }");
    let bench = Bench::with(vec![pattern]).await;
    bench.store.next([Act::Stall]);
    let execution = bench.run("t.partial", json!({"text": "a"})).await.unwrap();
    let partial = value(&execution)["partial"].as_object().unwrap();
    assert_eq!(partial.keys().collect::<Vec<_>>(), ["slow", "quick", "each.of", "last"]);
    assert_eq!((&partial["slow"], &partial["each.of"]), (&json!("deadline"), &json!("assertion_failed")));
}
