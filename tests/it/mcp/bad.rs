//! Servers that lie, flood, die and hang: each a typed error, and everything else goes on.

use std::time::{Duration, Instant};

use tmws::engine::ErrorKind;

use super::support::{Bench, assert_gone};

const FAILED: Option<ErrorKind> = Some(ErrorKind::ProgramFailed);

/// Mode, the error of `echo` (none where it answers after all), and what the error says.
const CASES: &[(&str, Option<ErrorKind>, &str)] = &[
    ("rug-pull", Some(ErrorKind::Denied), "is not what was pinned"),
    ("wrong-id", Some(ErrorKind::Deadline), "did not answer within"),
    ("twice", None, ""),
    ("never", Some(ErrorKind::Deadline), "did not answer within"),
    ("junk", FAILED, "no MCP message"),
    ("one-line", FAILED, "a line of more than"),
    ("chatty", None, ""),
    ("dies", FAILED, "exit status: 7"),
    ("half", FAILED, "exit status: 0"),
    ("deep", FAILED, "nested too deep"),
    ("asks", FAILED, "ask"),
    ("asks-once", None, ""),
    ("notifies", FAILED, "notifications without end"),
    ("huge", None, ""),
    ("no-content", FAILED, "no content"),
    ("input", FAILED, "wants input"),
    ("dies-at-start", FAILED, "exit status: 3"),
    ("exits-at-once", FAILED, "exit status: 0"),
    ("floods-at-start", FAILED, "a line of more than"),
    ("hangs", FAILED, "not ready within"),
    ("endless-list", FAILED, "does not end"),
    ("stubborn", None, ""),
    ("family", None, ""),
    ("loud", None, ""),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_bad_server_is_a_typed_error_and_nothing_is_left_of_it() {
    for (mode, expected, part) in CASES {
        let bench = Bench::with(&[mode, "good"], |setting| {
            setting.timeout = Duration::from_secs(3);
            setting.start = Duration::from_secs(4);
        });
        let begun = Instant::now();
        let answer = bench.echo(mode, "hello").await;
        match (answer, expected) {
            (Ok(answer), None) => assert_eq!(answer["is_error"], false, "{mode}"),
            (Err(error), Some(kind)) => {
                assert_eq!(error.kind, *kind, "{mode}: {}", error.message);
                assert!(error.message.contains(part), "{mode}: {}", error.message);
                assert!(!error.message.contains("hunter2"), "{mode}: {}", error.message);
            }
            (answer, _) => panic!("{mode}: {answer:?}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "{mode} took {:?}", begun.elapsed());
        assert_eq!(bench.echo("good", "x").await.unwrap()["text"], "x", "{mode}: the other server");
        bench.end().await;
    }
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_cut_and_one_that_does_not_fit_its_schema_refused() {
    let bench = Bench::new(&["huge", "lies"]);
    let answer = bench.echo("huge", "x").await.unwrap();
    assert_eq!(answer["truncated"], true);
    assert!(answer["text"].as_str().unwrap().len() <= 1 << 20);
    let error = bench.call("lies", "where", serde_json::json!({})).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::ProgramFailed);
    assert!(error.message.contains("its own outputSchema"), "{}", error.message);
    bench.end().await;
}

#[tokio::test]
async fn a_server_that_died_is_started_again_and_one_that_keeps_dying_is_left_alone_for_a_while() {
    let bench = Bench::new(&["dies", "dies-at-start"]);
    for _ in 0..2 {
        let error = bench.echo("dies", "x").await.unwrap_err();
        assert!(error.message.contains("exit status: 7"), "{}", error.message);
        assert_gone(&bench.started()).await;
    }
    assert_eq!(bench.started().len(), 2, "started again at once");
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let error = bench.echo("dies", "x").await.unwrap_err();
        if error.message.contains("tried again in") {
            break;
        }
        assert!(Instant::now() < until, "it is started without end");
    }
    let error = bench.echo("dies-at-start", "x").await.unwrap_err();
    assert!(error.message.contains("exit status: 3"), "{}", error.message);
    let started = bench.started().len();
    let error = bench.echo("dies-at-start", "x").await.unwrap_err();
    assert!(error.message.contains("tried again in"), "{}", error.message);
    assert_eq!(bench.started().len(), started, "nobody was started");
    bench.end().await;
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_leaves_the_server_usable() {
    let bench = Bench::new(&["slow"]);
    bench.echo("slow", "x").await.unwrap();
    let dropped = tokio::time::timeout(Duration::from_millis(20), bench.echo("slow", "given up")).await;
    assert!(dropped.is_err());
    assert_eq!(bench.echo("slow", "next").await.unwrap()["text"], "next");
    assert_eq!(bench.started().len(), 1);
    bench.end().await;
}
