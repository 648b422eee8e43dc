//! What a question gets that runs nothing: candidates, and memories that it may be about, each within a budget.

use serde_json::{Value, json};
use tmws::{
    engine::{CANDIDATES_TOKENS, ExecuteRequest, MEMORIES_TOKENS, Outcome, Target, tokens},
    pattern::{
        Mode,
        library::Library,
        router::{Among, Route},
    },
    scope::{ProjectId, Rights, Scope},
    store::{NewMemory, Store as _, StoreError, Trust, Visibility},
};
use tokio::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use super::support::{Act, Bench, NOW, around, request};
use crate::routing_labels::{has_path, questions};

fn ask(query: &str) -> ExecuteRequest {
    ExecuteRequest { target: Target::Query(query.to_owned()), ..request("", json!({})) }
}

async fn count(text: &str) -> usize {
    let tokens = tokens::count_exactly(text, Instant::now() + Duration::from_mins(1)).await;
    assert!(!tokens.estimated);
    tokens.count
}

async fn remember(bench: &Bench, content: &str) -> String {
    let new = NewMemory { content: content.to_owned(), ..NewMemory::default() };
    bench.store.remember(&bench.scope, new, NOW.parse().unwrap()).await.unwrap().memory.id
}

/// The answer to a question that runs nothing.
async fn offered(bench: &Bench, query: &str) -> Value {
    let execution = bench.call(ask(query)).await.unwrap();
    assert!(matches!(execution.outcome, Outcome::Candidates { .. }), "{query}: {}", execution.text);
    serde_json::from_str(&execution.text).unwrap()
}

fn validator() -> jsonschema::Validator {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/tool/execute_pattern/v2.output.json");
    let schema: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    jsonschema::draft202012::new(&schema).unwrap()
}

#[tokio::test]
async fn candidates_of_every_labelled_question_and_of_odd_ones_are_three_in_under_80_tokens() {
    let bench = Bench::of_built_ins().await;
    let validator = validator();
    let library = Library::built_in();
    let among = Among { has_path: &|_, path| has_path(path), ..Among::ALL };
    let mut longest = (0, String::new());
    let odd = [
        "zeta 1",
        "你好",
        "?",
        "",
        " ",
        "who wrote Faust?",
        "hello",
        "exchange rates of today",
        "\u{0}",
        "🦀🦀",
    ];
    let long = format!("{} ?", "supercalifragilistic ".repeat(300));
    for query in questions().into_iter().chain(odd.map(str::to_owned)).chain([long]) {
        // What runs is not of interest here.
        if matches!(library.route_among(&query, Mode::Balanced, among), Route::Run { .. }) {
            continue;
        }
        let answer = offered(&bench, &query).await;
        assert_eq!(answer["candidates"].as_array().unwrap().len(), 3, "{query:?}: {answer}");
        assert!(validator.is_valid(&answer), "{answer}");
        let text = answer.to_string();
        longest = longest.max((count(&text).await, text));
    }
    assert!(longest.0 > 40 && longest.0 <= CANDIDATES_TOKENS && CANDIDATES_TOKENS < 80, "{longest:?}");
}

#[tokio::test]
async fn memories_that_a_question_may_be_about_come_with_the_candidates_within_their_budget() {
    let bench = Bench::of_built_ins().await;
    let id = remember(&bench, "The staging server is called kestrel and restarts at night").await;
    for number in 0..6 {
        remember(&bench, &format!("kestrel note {number}: {}", "a long story about kestrel. ".repeat(40)))
            .await;
    }
    let answer = offered(&bench, "is kestrel the staging server that restarts at night?").await;
    assert!(validator().is_valid(&answer), "{answer}");
    assert_eq!(answer["memories"][0]["id"], id);
    assert_eq!(answer["project"], "work");
    let memories = json!({"memories": answer["memories"], "project": answer["project"]}).to_string();
    assert!(count(&memories).await <= MEMORIES_TOKENS, "{memories}");
    assert!((1..=3).contains(&answer["memories"].as_array().unwrap().len()));
    let unrelated = offered(&bench, "how do I bake bread?").await;
    assert_eq!(unrelated.get("memories"), None, "{unrelated}");
}

#[tokio::test]
async fn a_memory_of_another_project_or_from_outside_says_so() {
    let bench = Bench::of_built_ins().await;
    let own = remember(&bench, "The kestrel server is the one for staging").await;
    let elsewhere = Scope::mint(ProjectId::parse("other").unwrap(), bench.scope.principal(), "default", None);
    let new = |content: &str| NewMemory { content: content.to_owned(), ..NewMemory::default() };
    let shared = NewMemory {
        visibility: Visibility::Shared,
        trust: Trust::External,
        ..new("The kestrel server is the staging one")
    };
    bench.store.remember(&elsewhere, shared, NOW.parse().unwrap()).await.unwrap();
    let hidden = new("The kestrel server for staging is hidden");
    bench.store.remember(&elsewhere, hidden, NOW.parse().unwrap()).await.unwrap();

    let answer = offered(&bench, "is kestrel the server for staging?").await;
    assert!(validator().is_valid(&answer), "{answer}");
    let memories = answer["memories"].as_array().unwrap();
    assert_eq!(memories.len(), 2, "{answer}");
    for memory in memories {
        let labels = (memory.get("project"), memory.get("trust"));
        if memory["id"] == own {
            assert_eq!(labels, (None, None), "{memory}");
        } else {
            assert_eq!(labels, (Some(&json!("other")), Some(&json!("external"))), "{memory}");
        }
    }
}

#[tokio::test]
async fn without_the_right_or_the_store_there_are_candidates_alone() {
    let bench = Bench::of_built_ins().await;
    remember(&bench, "The staging server is called kestrel").await;
    let query = "is kestrel the staging server?";
    assert!(offered(&bench, query).await.get("memories").is_some());
    for act in [Act::Fail(StoreError::Locked), Act::Stall] {
        bench.store.next([act]);
        let answer = offered(&bench, query).await;
        assert_eq!(answer.get("memories"), None, "{answer}");
        assert!(answer["candidates"].is_array());
    }
    let _ = bench.store.searched_count().await;
    let poor = bench.scope.with_rights(Rights::PATTERN_RUN);
    let execution = bench.engine.execute(&poor, ask(query), around(&CancellationToken::new())).await.unwrap();
    let answer: Value = serde_json::from_str(&execution.text).unwrap();
    assert_eq!(answer.get("memories"), None, "{answer}");
    assert_eq!(bench.store.searched_count().await, 0, "who may not read is not looked up for");
    assert!(!execution.text.contains("memory."), "nor offered patterns that read: {}", execution.text);
}

#[tokio::test]
async fn modes_choose_types_for_questions() {
    let bench = Bench::of_built_ins().await;
    let names = async |query: &str, mode| -> Vec<String> {
        let execution = bench.call(ExecuteRequest { mode, ..ask(query) }).await.unwrap();
        match execution.outcome {
            Outcome::Candidates { candidates } => candidates.into_iter().map(|one| one.name).collect(),
            _ => vec![format!("ran {}", execution.receipt.pattern.unwrap())],
        }
    };
    let question = "what did we decide about the port?";
    for mode in [Mode::Balanced, Mode::Comprehensive] {
        assert_eq!(names(question, mode).await, ["ran memory.recall@1.0.0"]);
    }
    let library = Library::built_in();
    let fast = names(question, Mode::Fast).await;
    assert!(!fast.is_empty());
    for name in fast {
        let pattern = library.named(&name).unwrap();
        assert_eq!(pattern.kind, tmws::pattern::PatternKind::Infrastructure, "{name}");
    }
    let by_name = ExecuteRequest { mode: Mode::Fast, ..request("memory.recall", json!({"query": "port"})) };
    assert!(bench.call(by_name).await.is_ok(), "an explicit pattern runs in every mode");
}

#[tokio::test]
async fn a_path_that_a_question_says_runs_only_where_it_is_there() {
    let bench = Bench::of_built_ins().await;
    let root = bench.folder.path().join("work");
    std::fs::create_dir(root.join("main")).unwrap();
    std::fs::write(root.join("main/a.rs"), "// TODO: say so\n").unwrap();
    std::fs::create_dir(root.join("my folder")).unwrap();
    for question in
        ["list todos in develop", "list todos in origin/main", "list todos in ../work", "list todos in CI"]
    {
        let answer = offered(&bench, question).await;
        assert_eq!(answer["candidates"][0]["name"], "todo.sweep", "{question}: {answer}");
    }
    for (question, notes) in [("list todos in main", 1), ("list todos in `my folder`", 0)] {
        let execution = bench.call(ask(question)).await.unwrap();
        assert_eq!(super::support::value(&execution)["n"], notes, "{question}");
    }
    // What the caller says itself takes the place of what the words say.
    let mut request = ask("list todos in develop");
    request.input.insert("path".to_owned(), json!("main"));
    let execution = bench.call(request).await.unwrap();
    assert_eq!(super::support::value(&execution)["n"], 1);
}
