//! How steps run: together, under deadlines, with errors as data.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tmws::{
    embedding::Embeddings,
    engine::{ErrorKind, Observer, Outside, Surroundings},
    resilience::accounted,
    store::{LazyStore, MemoryQuery, SqliteOptions, Store as _, StoreError},
};
use tokio_util::sync::CancellationToken;

use super::support::{Act, Bench, around, request, value};

#[tokio::test]
async fn steps_that_need_nothing_of_each_other_run_at_the_same_time() {
    let bench = Bench::new(&["together"]).await;
    bench.store.next([Act::Wait, Act::Wait]);
    let (engine, scope) = (Arc::clone(&bench.engine), bench.scope.clone());
    let running = tokio::spawn(async move {
        engine.execute(&scope, request("test.together", json!({})), around(&CancellationToken::new())).await
    });
    let mut both = [bench.store.searched().await, bench.store.searched().await];
    both.sort();
    assert_eq!(both, ["alpha", "beta"], "both were reached before either was let go on");
    bench.store.release(2);
    let execution = running.await.unwrap().unwrap();
    assert_eq!(value(&execution)["a"], 0);
    let steps: Vec<_> =
        execution.receipt.steps.iter().map(|step| (step.id.as_str(), step.outcome.as_str())).collect();
    assert_eq!(steps.last(), Some(&("sum", "ok")));
    assert_eq!(steps.len(), 3);
}

#[tokio::test]
async fn control_steps_give_what_their_module_says() {
    let bench = Bench::new(&["control"]).await;
    let cases = [
        (
            json!({}),
            json!({
                "both": {"left": "left", "right": "left then right"},
                "each": {"n": 3, "total": 3, "results": ["0 hello ann", "1 hello bob", "2 hello cyd"]},
                "chosen": "tiny",
                "never": null,
                "sure": true,
            }),
        ),
        (
            json!({"size": "large", "names": ["x", "y"], "limit": 1}),
            json!({
                "both": {"left": "left", "right": "left then right"},
                "each": {"n": 1, "total": 2, "results": ["0 hello x"]},
                "chosen": "huge",
                "never": null,
                "sure": true,
            }),
        ),
        (
            json!({"size": "other", "names": []}),
            json!({
                "both": {"left": "left", "right": "left then right"},
                "each": {"n": 0, "total": 0, "results": []},
                "chosen": "middling",
                "never": null,
                "sure": true,
            }),
        ),
    ];
    for (input, expected) in cases {
        let mut output = bench.output("test.control", input.clone()).await;
        output.as_object_mut().unwrap().remove("etag");
        assert_eq!(output, expected, "{input}");
    }
    let error = bench.run("test.control", json!({"size": "none"})).await.unwrap_err();
    assert_eq!(
        (error.kind, error.message.as_str(), error.part.as_deref()),
        (ErrorKind::InvalidInput, "a size is needed", Some("sure"))
    );
}

#[tokio::test]
async fn loops_count_against_max_steps() {
    let bench = Bench::new(&["control"]).await;
    let names: Vec<String> = (0..30).map(|i| format!("n{i}")).collect();
    let error = bench.run("test.control", json!({"names": names})).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::LimitExceeded);
    assert!(error.message.contains("limits.max_steps"), "{}", error.message);
}

#[tokio::test]
async fn what_steps_give_counts_against_max_bytes() {
    let bench = Bench::new(&["large"]).await;
    let items: Vec<String> = (0..20).map(|_| "x".repeat(60_000)).collect();
    let error = bench.run("test.large", json!({"items": items})).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::LimitExceeded, "{}", error.message);
}

#[tokio::test]
async fn a_step_past_its_time_is_data_where_the_pattern_goes_on() {
    let bench = Bench::storeless(&["careful"]);
    bench.store.next([Act::Stall]);
    let execution = bench.run("test.careful", json!({})).await.unwrap();
    let mut output = value(&execution).clone();
    output.as_object_mut().unwrap().remove("etag");
    assert_eq!(
        output,
        json!({
            "words": "about ports", "code": "deadline", "n": null,
            "partial": {"found": "deadline"}, "project": "work",
        })
    );
    let found = execution.receipt.steps.iter().find(|step| step.id == "found").unwrap();
    assert_eq!(found.outcome, "deadline");
    assert!(found.elapsed >= Duration::from_millis(200));
}

#[tokio::test]
async fn a_run_past_its_time_ends_with_deadline_and_names_the_step() {
    let bench = Bench::storeless(&["strict"]);
    bench.store.next([Act::Stall]);
    let begun = tokio::time::Instant::now();
    let error = bench.run("test.strict", json!({})).await.unwrap_err();
    assert_eq!((error.kind, error.part.as_deref()), (ErrorKind::Deadline, Some("found")));
    assert!(error.message.contains("limits.timeout"), "{}", error.message);
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn the_callers_deadline_holds_where_it_is_earlier() {
    let bench = Bench::storeless(&["strict"]);
    bench.store.next([Act::Stall]);
    let begun = tokio::time::Instant::now();
    let mut surroundings = around(&CancellationToken::new());
    surroundings.deadline = begun.into_std() + Duration::from_millis(50);
    let error = bench
        .engine
        .execute(&bench.scope, request("test.strict", json!({})), surroundings)
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Deadline);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn cancelling_reaches_every_step() {
    let bench = Bench::storeless(&["together"]);
    bench.store.next([Act::Stall, Act::Stall]);
    let cancel = CancellationToken::new();
    let running = {
        let (engine, scope, cancel) = (Arc::clone(&bench.engine), bench.scope.clone(), cancel.clone());
        tokio::spawn(async move {
            engine.execute(&scope, request("test.together", json!({})), around(&cancel)).await
        })
    };
    bench.store.searched().await;
    bench.store.searched().await;
    cancel.cancel();
    assert_eq!(running.await.unwrap().unwrap_err().kind, ErrorKind::Cancelled);
}

#[tokio::test]
async fn a_read_is_tried_again_as_often_as_declared() {
    let bench = Bench::new(&["again"]).await;
    bench.store.next([Act::Fail(StoreError::Locked), Act::Fail(StoreError::Locked)]);
    assert_eq!(bench.output("test.again", json!({})).await["n"], 0);

    bench.store.next((0..3).map(|_| Act::Fail(StoreError::Locked)));
    let error = bench.run("test.again", json!({})).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::StoreUnavailable);
    assert_eq!(bench.store.searched_count().await, 6);
}

#[tokio::test]
async fn a_panic_in_a_step_is_that_steps_error() {
    let bench = Bench::new(&["strict", "careful"]).await;
    bench.store.next([Act::Panic]);
    let error = bench.run("test.strict", json!({})).await.unwrap_err();
    assert_eq!((error.kind, error.part.as_deref()), (ErrorKind::Internal, Some("found")));
    assert!(!error.message.contains("as told"), "the panic's text stays in the log: {}", error.message);

    bench.store.next([Act::Panic]);
    let output = bench.output("test.careful", json!({})).await;
    assert_eq!(output["partial"], json!({"found": "internal"}));
    assert_eq!(bench.output("test.strict", json!({})).await["n"], 0, "and the engine goes on");
}

#[tokio::test]
async fn a_store_that_is_away_ends_what_needs_it_and_nothing_else() {
    let bench = Bench::storeless(&["strict", "control"]);
    let error = bench.run("test.strict", json!({})).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::StoreUnavailable);
    assert!(error.retry_after.is_some());
    assert_eq!(bench.output("test.control", json!({})).await["chosen"], "tiny");
}

#[tokio::test]
async fn a_search_without_vectors_goes_by_words_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let embeddings = Embeddings::folder(folder.path().join("no model"));
    let options = SqliteOptions::new(folder.path().join("store.db"));
    let store = LazyStore::new(SqliteOptions { embeddings: Arc::clone(&embeddings), ..options });
    let scope = super::support::scope_of("p1");
    let query = || MemoryQuery { text: "words".to_owned(), ..MemoryQuery::default() };
    let now = "2026-03-01T12:00:00Z".parse().unwrap();
    let (found, notes) = accounted(store.search(&scope, query(), now)).await;
    assert_eq!((found.unwrap().total, notes), (0, vec!["embeddings: words alone".to_owned()]));
    let outside = Outside { embeddings: Some(embeddings), ..Outside::default() };
    assert_eq!(outside.degraded(&scope), ["embeddings: words alone"]);
}

#[tokio::test]
async fn an_answer_says_what_it_had_to_do_without() {
    let bench = Bench::lost(&["strict", "careful", "control"]);
    for _ in 0..3 {
        let execution = bench.run("test.careful", json!({})).await.unwrap();
        assert_eq!(value(&execution)["partial"], json!({"found": "store_unavailable"}));
        let degraded = &execution.receipt.degraded;
        assert!(!degraded.is_empty(), "{degraded:?}");
        assert!(degraded.iter().all(|text| text.starts_with("database store: ")), "{degraded:?}");
    }
    let error = bench.run("test.strict", json!({})).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::StoreUnavailable);
    assert!(error.retry_after.is_some());
    let execution = bench.run("test.control", json!({})).await.unwrap();
    assert_eq!(execution.receipt.degraded, Vec::<String>::new(), "what needs no memory met nothing");
}

#[tokio::test]
async fn progress_is_told_step_by_step() {
    struct Steps(std::sync::Mutex<Vec<(usize, usize, String)>>);
    impl Observer for Steps {
        fn progress(&self, done: usize, total: usize, step: &str) {
            self.0.lock().unwrap().push((done, total, step.to_owned()));
        }
    }
    let bench = Bench::new(&["together"]).await;
    let steps = Steps(std::sync::Mutex::default());
    let surroundings = Surroundings { observer: &steps, ..around(&CancellationToken::new()) };
    bench.engine.execute(&bench.scope, request("test.together", json!({})), surroundings).await.unwrap();
    let told = steps.0.into_inner().unwrap();
    assert_eq!(
        told.iter().map(|(done, total, _)| (*done, *total)).collect::<Vec<_>>(),
        [(1, 3), (2, 3), (3, 3)]
    );
    assert_eq!(told[2].2, "sum");
}

#[tokio::test]
async fn a_run_can_be_handed_to_another_thread() {
    fn sendable<T: Send>(value: T) -> T {
        value
    }
    let bench = Bench::new(&["control"]).await;
    let cancel = CancellationToken::new();
    let run = bench.engine.execute(&bench.scope, request("test.control", json!({})), around(&cancel));
    let execution = sendable(run).await.unwrap();
    assert_ne!(value(&execution), &Value::Null);
}
