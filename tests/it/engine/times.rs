//! The time of a run, which its pattern declares: it begins with the call, and nothing waits beyond it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, sqlite::SqliteConnectOptions};
use tmws::{
    cache::CacheLimits,
    engine::{ErrorKind, Execution, Outcome, tokens},
    pattern::{Origin, Pattern, loader::load},
    store::{LazyStore, SqliteOptions},
};
use tokio_util::sync::CancellationToken;

use super::support::{Act, Bench, Keeps, around, request, value};

/// What the pattern may take.
const TIME: Duration = Duration::from_millis(300);
/// What comes after the run may take so long.
const AFTER: Duration = Duration::from_millis(250);
/// What a busy machine may add, once in so many tries: less than one wait of those that are part of the run's time.
const SLACK: Duration = Duration::from_millis(300);
const TRIES: usize = 4;

/// A pattern that searches, may take `time`, and is kept.
fn searching(time: Duration) -> Arc<Pattern> {
    let text = format!(
        "apiVersion: tmws/v1\nkind: Pattern\nname: t.brief\nversion: 1.0.0\ntype: memory\n\
         description: Searches, for a test.\ninputs: {{type: object, properties: {{items: {{type: array}}}}}}\n\
         permissions: {{memory: [read]}}\nlimits: {{timeout: {}ms, max_steps: 2, max_bytes: 1MiB}}\n\
         steps: [{{id: found, uses: memory.search, with: {{query: harbour}}}}]\n\
         output:\n  schema: {{type: object}}\n  \
         value: '${{ {{n: .steps.found.n, items: .inputs.items}} }}'\n  \
         budget: {{tokens: 100, overflow: handle}}\ncache: {{ttl: 60s, scope: principal}}\n",
        time.as_millis()
    );
    load("brief.yaml", &text, Origin::BuiltIn).unwrap_or_else(|errors| panic!("{errors:?}\n{text}")).pattern
}

/// What its answer cannot hold.
fn long() -> Value {
    json!({"items": (0..400).map(|n| format!("item {n}")).collect::<Vec<_>>()})
}

fn handle(execution: &Execution) -> Option<&str> {
    match &execution.outcome {
        Outcome::Output { handle, .. } => handle.as_deref(),
        other => panic!("no output: {other:?}"),
    }
}

/// A call whose search gets no answer.
async fn late(bench: &Bench, input: Value) {
    bench.store.next([Act::Stall]);
    let error = bench.run("t.brief", input).await.unwrap_err();
    assert_eq!((error.kind, error.part.as_deref()), (ErrorKind::Deadline, Some("found")), "{error:?}");
    assert!(error.message.contains("limits.timeout"), "{}", error.message);
}

/// An answer with a handle: made within its time, however busy the machine is.
async fn made(bench: &Bench) -> Execution {
    loop {
        if let Ok(made) = bench.run("t.brief", long()).await
            && handle(&made).is_some()
        {
            return made;
        }
    }
}

/// How long the quickest of some tries took.
async fn soonest(mut try_it: impl AsyncFnMut()) -> Duration {
    let mut soonest = Duration::MAX;
    for _ in 0..TRIES {
        let begun = Instant::now();
        try_it().await;
        soonest = soonest.min(begun.elapsed());
    }
    soonest
}

#[tokio::test]
async fn the_time_of_a_run_begins_with_its_call() {
    let bench = Bench::with(vec![searching(TIME)]).await;
    bench.store.is_mark_silent.store(true, Ordering::SeqCst);
    let elapsed = soonest(async || late(&bench, json!({})).await).await;
    assert!((TIME..TIME + SLACK).contains(&elapsed), "{elapsed:?}");
}

#[tokio::test]
async fn a_look_at_what_is_kept_is_part_of_that_time() {
    let bench = Bench::with(vec![searching(TIME)]).await.keeping(CacheLimits::default());
    let ask = async || bench.run("t.brief", long()).await;
    let made = made(&bench).await;
    assert_eq!(handle(&ask().await.unwrap()), handle(&made), "it is kept, and its rest is there");
    bench.store.are_results_silent.store(true, Ordering::SeqCst);
    let elapsed = soonest(async || late(&bench, long()).await).await;
    assert!((TIME..TIME + SLACK).contains(&elapsed), "{elapsed:?}");
}

#[tokio::test]
async fn what_comes_after_a_run_takes_a_moment_more_at_most() {
    let bench = Bench::with(vec![searching(TIME)]).await;
    // The vocabulary is read once a process.
    tokens::count_exactly("", tokio::time::Instant::now() + Duration::from_mins(1)).await;
    *bench.store.keeps.lock().unwrap() = Keeps::Never;
    let elapsed = soonest(async || {
        let execution = bench.run("t.brief", long()).await.unwrap();
        assert_eq!((handle(&execution), &value(&execution)["more"]["handle"]), (None, &Value::Null));
    })
    .await;
    assert!(elapsed < TIME + AFTER + SLACK, "{elapsed:?}");
}

#[tokio::test]
async fn who_waits_and_has_time_left_does_not_get_the_error_of_one_whose_time_is_over() {
    let time = Duration::from_secs(2);
    let bench = Bench::with(vec![searching(time)]).await;
    bench.store.next([Act::Stall]);
    let call = || {
        let (engine, scope) = (Arc::clone(&bench.engine), bench.scope.clone());
        tokio::spawn(async move {
            engine.execute(&scope, request("t.brief", json!({})), around(&CancellationToken::new())).await
        })
    };
    let first = call();
    bench.store.searched().await;
    // Time passes.
    tokio::time::sleep(time / 2).await;
    let second = call();
    assert_eq!(first.await.unwrap().unwrap_err().kind, ErrorKind::Deadline);
    assert_eq!(value(&second.await.unwrap().unwrap())["n"], 0);
    assert_eq!(bench.engine.shared_runs(), (2, 0));
}

#[tokio::test]
async fn an_answer_says_that_the_store_did_not_say_whether_the_rest_of_a_kept_one_is_there() {
    let bench = Bench::with(vec![searching(Duration::from_secs(5))]).await.keeping(CacheLimits::default());
    let first = made(&bench).await;
    let path = bench.folder.path().join("locked.db");
    let mut other =
        SqliteConnectOptions::new().filename(&path).create_if_missing(true).connect().await.unwrap();
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut other).await.unwrap();
    *bench.store.results.lock().unwrap() = Some(Arc::new(LazyStore::new(SqliteOptions::new(&path))));
    let ran = bench.run("t.brief", long()).await.unwrap();
    assert_eq!((ran.receipt.cache, handle(&ran) == handle(&first)), ("miss", false));
    assert_eq!(ran.receipt.degraded, ["database store: slow"]);
}
