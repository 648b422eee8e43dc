//! What runs together and what does not, and patterns that want too much: each is contained, by name.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::{
    prelude::{Just, Strategy, any, prop},
    test_runner::{Config, TestRunner},
};
use serde_json::{Map, Value, json};
use tmws::{
    engine::{ErrorKind, ExecuteRequest, testing::run_budgets, tokens},
    pattern::{BUILTINS, Mode, Origin, Pattern, loader::load},
};
use tokio_util::sync::CancellationToken;

use super::support::{Act, Bench, around, request, scope_of, value};

/// A pattern of type memory with these members.
fn made(name: &str, limits: &str, steps: &str, value: &str) -> Arc<Pattern> {
    let text = format!(
        "apiVersion: tmws/v1\nkind: Pattern\nname: {name}\nversion: 1.0.0\ntype: memory\n\
         description: A pattern of a test, made in it.\n\
         inputs: {{type: object, properties: {{many: {{type: array}}}}}}\npermissions: {{memory: [read]}}\nlimits: {limits}\nsteps:\n{steps}\n\
         output:\n  schema: {{type: object}}\n  value: '{value}'\n  budget: {{tokens: 300, overflow: cut}}\n"
    );
    load(name, &text, Origin::BuiltIn).unwrap_or_else(|errors| panic!("{errors:?}\n{text}")).pattern
}

const LIMITS: &str = "{timeout: 20s, max_steps: 40, max_bytes: 1MiB}";

fn spawn(
    bench: &Bench,
    name: &str,
) -> tokio::task::JoinHandle<Result<tmws::engine::Execution, tmws::engine::EngineError>> {
    let (engine, scope, request) = (Arc::clone(&bench.engine), bench.scope.clone(), request(name, json!({})));
    tokio::spawn(async move { engine.execute(&scope, request, around(&CancellationToken::new())).await })
}

#[tokio::test]
async fn a_step_waits_for_what_it_reads_and_for_nothing_else() {
    let steps = "  - {id: first, uses: memory.search, with: {query: first}}\n\
                 \x20 - {id: free, uses: memory.search, with: {query: free}}\n\
                 \x20 - {id: then, uses: memory.search, with: {query: '${ \"then\" + (.steps.first.n | tostring) }'}}";
    let bench = Bench::with(vec![made("t.order", LIMITS, steps, "${ {n: .steps.then.n} }")]).await;
    bench.store.next([Act::Wait, Act::Wait, Act::Wait]);
    let running = spawn(&bench, "t.order");
    let mut begun = [bench.store.searched().await, bench.store.searched().await];
    begun.sort();
    assert_eq!(begun, ["first", "free"]);
    assert_eq!(bench.store.searched_count().await, 0, "what reads another's value waits for it");
    bench.store.release(2);
    assert_eq!(bench.store.searched().await, "then0");
    bench.store.release(1);
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_loop_runs_as_many_items_at_once_as_it_says_and_its_steps_are_counted_together() {
    let steps = "  - id: each\n    uses: control.foreach\n    with:\n      items: [a, b, c, d, e, f, g]\n      concurrency: 3\n\
                 \x20     steps:\n        - {id: found, uses: memory.search, with: {query: '${ .item }'}}\n\
                 \x20       - {id: never, uses: memory.search, if: '${ .item == \"z\" }', with: {query: z}}";
    let bench = Bench::with(vec![made("t.each", LIMITS, steps, "${ {n: .steps.each.n} }")]).await;
    bench.store.next((0..7).map(|_| Act::Wait));
    let running = spawn(&bench, "t.each");
    for expected in ["a", "b", "c"] {
        assert_eq!(bench.store.searched().await, expected);
    }
    for expected in ["d", "e", "f", "g"] {
        assert_eq!(bench.store.searched_count().await, 0, "no fourth before one has ended");
        bench.store.release(1);
        assert_eq!(bench.store.searched().await, expected);
    }
    bench.store.release(3);
    let execution = running.await.unwrap().unwrap();
    assert_eq!(value(&execution)["n"], 7);
    let mut told: Vec<_> = execution
        .receipt
        .steps
        .iter()
        .map(|step| (step.id.as_str(), step.n, step.outcome.as_str()))
        .collect();
    told.sort_unstable();
    assert_eq!(told, [("each", 1, "ok"), ("each.found", 7, "ok"), ("each.never", 7, "skipped")]);
}

#[tokio::test]
async fn branches_of_one_parallel_step_run_at_the_same_time() {
    let steps = "  - id: both\n    uses: control.parallel\n    with:\n      steps:\n\
                 \x20       - {id: left, uses: memory.search, with: {query: left}}\n\
                 \x20       - {id: right, uses: memory.search, with: {query: right}}";
    let bench = Bench::with(vec![made("t.both", LIMITS, steps, "${ {n: .steps.both.left.n} }")]).await;
    bench.store.next([Act::Wait, Act::Wait]);
    let running = spawn(&bench, "t.both");
    let mut both = [bench.store.searched().await, bench.store.searched().await];
    both.sort();
    assert_eq!(both, ["left", "right"]);
    bench.store.release(2);
    running.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_wants_too_much_is_contained_by_name() {
    let jq = |filter: &str| {
        format!(
            "  - {{id: a, uses: data.jq, with: {{input: [1, 2, 3, 4, 5, 6, 7, 8, 9], filter: '{filter}'}}}}"
        )
    };
    let template = |text: &str| {
        format!("  - {{id: a, uses: data.template, with: {{template: '{text}', values: {{x: xxxxxxxx}}}}}}")
    };
    let each = |inner: &str| {
        format!(
            "  - id: a\n    uses: control.foreach\n    with:\n      items: '${{ .inputs.many }}'\n      concurrency: 4\n      steps:\n        - {inner}"
        )
    };
    let small = "{timeout: 5s, max_steps: 40, max_bytes: 64KiB}";
    let rows: Vec<(&str, String, &[&str])> = vec![
        (
            "filter: everything with everything",
            jq(
                "[.[] as $a | .[] as $b | .[] as $c | .[] as $d | .[] as $e | .[] as $f | .[] as $g | .[] as $h | 1] | length",
            ),
            &["limit_exceeded", "deadline", "pattern_fault"],
        ),
        (
            "filter: strings that double",
            jq("reduce (.[], .[], .[], .[]) as $i (\"xxxxxxxx\"; . + .) | length"),
            &["limit_exceeded", "deadline", "pattern_fault"],
        ),
        (
            "filter: arrays that double",
            jq("reduce (.[], .[], .[], .[]) as $i ([1]; . + .) | length"),
            &["limit_exceeded", "deadline", "pattern_fault"],
        ),
        (
            "filter: an output too large",
            jq("[.[] as $a | .[] as $b | .[] as $c | .[] as $d | .[] as $e | [$a, $b, $c, $d, $e]]"),
            &["limit_exceeded", "deadline"],
        ),
        (
            "template: loops in loops",
            template("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}"),
            &["pattern_fault"],
        ),
        ("template: a text repeated", template("{{ x * 1000000000 }}"), &["pattern_fault"]),
        (
            "template: an output too large",
            template("{% for a in range(9999) %}{{ x }}{% endfor %}"),
            &["limit_exceeded"],
        ),
        ("loop: too many steps", each("{id: b, uses: data.merge, with: {items: []}}"), &["limit_exceeded"]),
        (
            "loop: too many bytes",
            each(
                "{id: b, uses: data.template, with: {template: '{% for i in range(400) %}0123456789{% endfor %}'}}",
            ),
            &["limit_exceeded"],
        ),
    ];
    let many = json!({"many": vec![1; 60]});
    for (what, steps, codes) in rows {
        let bench = Bench::with(vec![made("t.bomb", small, &steps, "${ {a: .steps.a} }")]).await;
        let begun = Instant::now();
        let error = bench.run("t.bomb", many.clone()).await.expect_err(what);
        assert!(codes.contains(&error.kind.code()), "{what}: {error:?}");
        assert!(error.part.as_deref().is_some_and(|part| part.starts_with('a')), "{what}: {error:?}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}: {:?}", begun.elapsed());
    }
}

#[test]
fn steps_that_wait_for_each_other_are_refused_at_load_at_every_depth() {
    let cycle = "- {id: a, uses: data.merge, needs: [b], with: {items: []}}\nX- {id: b, uses: data.merge, with: {items: ['${ .steps.a }']}}";
    let own = "- {id: a, uses: data.merge, needs: [a], with: {items: []}}";
    for (steps, said) in [
        (format!("  {}", cycle.replace('X', "  ")), "a → b → a"),
        (format!("  {own}"), "waits for itself"),
        (
            format!(
                "  - id: out\n    uses: control.parallel\n    with:\n      steps:\n        {}",
                cycle.replace('X', "        ")
            ),
            "a → b → a",
        ),
    ] {
        let text = format!(
            "apiVersion: tmws/v1\nkind: Pattern\nname: a.b\nversion: 1.0.0\ntype: infrastructure\n\
             description: Steps that never begin.\nsteps:\n{steps}\noutput: {{value: '${{ {{}} }}'}}\n"
        );
        let errors = load("p.yaml", &text, Origin::BuiltIn).expect_err("a cycle");
        let line = errors[0].line;
        assert!(errors.iter().any(|error| error.message.contains(said)), "{errors:?}");
        assert_eq!(line, text.lines().position(|line| line.contains("id: a")).unwrap() + 1, "{errors:?}");
    }
}

#[test]
fn a_fault_inside_a_block_of_steps_is_told_at_its_own_line_and_column() {
    let text = "apiVersion: tmws/v1
kind: Pattern
name: a.b
version: 1.0.0
type: infrastructure
description: Faults at every depth.
steps:
  - id: out
    uses: control.foreach
    with:
      items: [1]
      steps:
        - id: in
          uses: control.switch
          with:
            cases:
              - when: ${ .item > 0 }
                steps:
                  - {id: a, uses: data.merge, with: {itmes: []}}
                  - {id: b, uses: data.jq, with: {filter: 'def f: .; f'}}
                  - {id: c, uses: data.merge, with: {items: ['${ .steps.nobody }']}}
                  - {id: d, uses: data.mrge, with: {items: []}}
                  - {id: e, uses: data.template, with: {template: '{{ x'}}
output: {value: '${ {} }'}
";
    let errors = load("p.yaml", text, Origin::BuiltIn).expect_err("five faults");
    let places: Vec<(usize, usize)> = errors.iter().map(|error| (error.line, error.column)).collect();
    let column = |line: usize, word: &str| text.lines().nth(line - 1).unwrap().find(word).unwrap() + 1;
    for (line, word) in [(19, "itmes"), (20, "'def"), (21, "'${"), (22, "data.mrge"), (23, "'{{")] {
        assert!(places.contains(&(line, column(line, word))), "{line} {word}: {errors:?}");
    }
    let hints: Vec<&str> = errors.iter().filter_map(|error| error.hint.as_deref()).collect();
    for near in ["`items`", "`data.merge`"] {
        assert!(hints.iter().any(|hint| hint.contains(near)), "{near}: {hints:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_built_in_pattern_keeps_its_budget_in_every_mode() {
    let mut failures = Vec::new();
    for (file, text) in BUILTINS {
        let pattern = load(file, text, Origin::BuiltIn).unwrap_or_else(|errors| panic!("{errors:?}")).pattern;
        for mode in [Mode::Fast, Mode::Balanced, Mode::Comprehensive] {
            for outcome in run_budgets(&pattern, mode, &scope_of("test"), None).await {
                let failure =
                    outcome.failure.map(|failure| format!("{file}, {mode:?}, {}: {failure}", outcome.name));
                failures.extend(failure);
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Anything that an output can be, a few hundred nodes at most.
fn outputs() -> impl Strategy<Value = Value> {
    let leaf = proptest::prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,300}".prop_map(Value::from),
        "(the |port |7337 |änderung |漢字|🎉|\\\\|\"){0,120}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 200, 12, |inner| {
        proptest::prop_oneof![
            prop::collection::vec(inner.clone(), 0..12).prop_map(Value::from),
            prop::collection::vec(("[a-z]{1,12}", inner), 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

#[test]
fn whatever_a_pattern_gives_the_answer_is_within_its_budget_or_the_error_says_budget() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let patterns: Vec<Arc<Pattern>> = [12, 40, 120, 500]
        .into_iter()
        .map(|budget| {
            let text = format!(
                "apiVersion: tmws/v1\nkind: Pattern\nname: t.b{budget}\nversion: 1.0.0\ntype: infrastructure\n\
                 description: Gives what it is given.\ninputs: {{type: object, properties: {{value: {{}}}}}}\n\
                 steps: [{{id: a, uses: data.merge, with: {{items: []}}}}]\n\
                 output:\n  schema: {{}}\n  value: '${{ .inputs.value }}'\n\
                 \x20 budget: {{tokens: {budget}, overflow: handle}}\n"
            );
            load("b.yaml", &text, Origin::BuiltIn).unwrap_or_else(|errors| panic!("{errors:?}")).pattern
        })
        .collect();
    let bench = runtime.block_on(Bench::with(patterns));
    let exact = |text: &str| {
        runtime.block_on(tokens::count_exactly(text, tokio::time::Instant::now() + Duration::from_mins(2)))
    };
    assert!(!exact("").estimated);
    let strategy = (
        outputs(),
        prop::sample::select(vec![12_usize, 40, 120, 500]),
        prop::sample::select(vec![(Mode::Fast, 1), (Mode::Balanced, 2), (Mode::Comprehensive, 4)]),
    );
    let mut runner = TestRunner::new(Config { cases: 96, failure_persistence: None, ..Config::default() });
    runner
        .run(&strategy, |(value, budget, (mode, halves))| {
            let request =
                ExecuteRequest { mode, ..request(&format!("t.b{budget}"), json!({"value": value})) };
            match runtime.block_on(bench.call(request)) {
                Ok(execution) => {
                    let counted = exact(&execution.text);
                    assert!(counted.count <= budget * halves / 2, "{counted:?}: {}", execution.text);
                    assert_eq!(execution.receipt.tokens_out, counted.count);
                    assert!(!execution.receipt.tokens_estimated);
                }
                Err(error) => assert_eq!(error.kind, ErrorKind::Budget, "{error:?}"),
            }
            Ok(())
        })
        .unwrap();
}
