//! A server that hangs for a while: it is left alone, others are as quick as ever, and it is used again once it behaves.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use serde_json::json;
use tmws::{
    engine::{
        ErrorKind,
        steps::{StepContext, mcp::Reach},
    },
    resilience::{BackendKind, BreakerState, Standing, accounted},
};

use super::support::{Bench, run};

/// A backstop: everything that is waited for happens long before.
const PATIENCE: Duration = Duration::from_mins(1);

impl Bench {
    fn mood(&self) -> PathBuf {
        self.pids.with_extension("mood")
    }

    fn standing(&self, server: &str) -> Standing {
        let standings = self.outside.backends.standings(Instant::now());
        let mut of = standings.into_iter().filter(|of| of.backend.kind == BackendKind::Server);
        of.find(|of| *of.backend.name == *server).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_left_alone_and_used_again_once_it_behaves() {
    let bench = Bench::with(&["moody", "good"], |setting| setting.timeout = Duration::from_secs(2));
    assert_eq!(bench.echo("moody", "x").await.unwrap()["text"], "x");
    assert_eq!(bench.echo("good", "x").await.unwrap()["text"], "x");
    std::fs::write(bench.mood(), "").unwrap();

    let calls = (0..6).map(|_| bench.echo("moody", "x"));
    let others = async {
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            let begun = Instant::now();
            assert_eq!(bench.echo("good", "y").await.unwrap()["text"], "y");
            slowest = slowest.max(begun.elapsed());
        }
        slowest
    };
    let (failed, slowest) = tokio::join!(futures_util::future::join_all(calls), others);
    for error in failed.into_iter().map(Result::unwrap_err) {
        assert!(matches!(error.kind, ErrorKind::Deadline | ErrorKind::ProgramFailed), "{error:?}");
    }
    assert!(slowest < Duration::from_secs(2), "the other server took {slowest:?} beside it");
    let standing = bench.standing("moody");
    assert!(standing.opened >= 1 && standing.failures >= 5, "{standing:?}");
    assert_eq!(bench.standing("good").failures, 0);

    let begun = Instant::now();
    let mut refused = None;
    while refused.is_none() && begun.elapsed() < PATIENCE {
        let (result, notes) = accounted(bench.echo("moody", "x")).await;
        let error = result.unwrap_err();
        refused = notes.contains(&"server moody: open".to_owned()).then_some(error);
    }
    let error = refused.expect("it is left alone");
    assert_eq!(error.kind, ErrorKind::ProgramFailed);
    assert!(error.retry_after.is_some_and(|pause| pause <= Duration::from_secs(1)), "{error:?}");
    assert!(error.message.contains("left alone"), "{}", error.message);
    let scope = bench.context().scope;
    assert!(bench.outside.degraded(&scope).iter().any(|text| text.starts_with("server moody: ")));

    std::fs::remove_file(bench.mood()).unwrap();
    let begun = Instant::now();
    loop {
        match bench.echo("moody", "again").await {
            Ok(answer) => break assert_eq!(answer["text"], "again"),
            Err(error) => {
                assert!(begun.elapsed() < PATIENCE, "{error:?}");
                tokio::time::sleep(error.retry_after.unwrap_or_default()).await;
            }
        }
    }
    assert_eq!(bench.standing("moody").breaker, BreakerState::Closed);
    assert_eq!(bench.outside.degraded(&scope), Vec::<String>::new());
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_gives_a_server_up_says_that_it_is_slow() {
    let brief = Duration::from_millis(100);
    let call = async |bench: &Bench, server: &str| {
        let context = StepContext { deadline: Instant::now() + brief, ..bench.context() };
        let with = json!({"server": server, "tool": "echo", "arguments": {"text": "x"}});
        let (result, notes) = accounted(run("mcp.call", &context, with)).await;
        assert_eq!(result.unwrap_err().kind, ErrorKind::Deadline);
        assert_eq!(notes, [format!("server {server}: slow")]);
        assert_eq!(bench.standing(server).failures, 0, "it had little time");
    };
    let bench = Bench::new(&["moody"]);
    assert_eq!(bench.echo("moody", "x").await.unwrap()["text"], "x");
    std::fs::write(bench.mood(), "").unwrap();
    call(&bench, "moody").await;
    std::fs::remove_file(bench.mood()).unwrap();
    bench.end().await;
    let bench = Bench::with(&["stuck"], |setting| {
        let Reach::Command { argv, .. } = &mut setting.reach else { unreachable!("a program") };
        *argv = ["python3", "-S", "-c", "import time; time.sleep(1000)"].map(str::to_owned).to_vec();
    });
    // Whoever has it started, and who waits for that.
    tokio::join!(call(&bench, "stuck"), call(&bench, "stuck"));
    bench.outside.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_at_its_start_is_told_of_like_any_other_that_fails() {
    let bench = Bench::with(&["stuck"], |setting| {
        let Reach::Command { argv, .. } = &mut setting.reach else { unreachable!("a program") };
        *argv = ["python3", "-S", "-c", "import time; time.sleep(1000)"].map(str::to_owned).to_vec();
        setting.start = Duration::from_millis(300);
    });
    let (first, notes) = accounted(bench.echo("stuck", "x")).await;
    assert!(first.unwrap_err().message.contains("was not ready within"));
    assert_eq!(notes, ["server stuck: failed"]);
    let standing = bench.standing("stuck");
    assert!(standing.is_ailing && standing.failures == 1, "{standing:?}");
    let (second, notes) = accounted(bench.echo("stuck", "x")).await;
    let error = second.unwrap_err();
    assert!(error.message.contains("tried again in") && error.retry_after.is_some(), "{error:?}");
    assert_eq!(notes, ["server stuck: left alone"]);
    assert_eq!(bench.standing("stuck").refused, 1, "it was turned away");
    assert_eq!(bench.outside.degraded(&bench.context().scope), ["server stuck: left alone"]);
    // Asked as soon as it may be, it is left alone by its breaker in the end.
    let begun = Instant::now();
    while bench.standing("stuck").opened == 0 {
        assert!(begun.elapsed() < PATIENCE, "{:?}", bench.standing("stuck"));
        let error = bench.echo("stuck", "x").await.unwrap_err();
        tokio::time::sleep(error.retry_after.unwrap_or_default()).await;
    }
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_is_slow_counts_once_however_many_wait_for_it() {
    let bench = Bench::with(&["good"], |setting| {
        let Reach::Command { argv, .. } = &mut setting.reach else { unreachable!("a program") };
        let own = argv.join(" ");
        *argv = ["sh", "-c", &format!("sleep 5; exec {own}")].map(str::to_owned).to_vec();
        setting.start = PATIENCE;
    });
    let context = StepContext { deadline: Instant::now() + Duration::from_secs(3), ..bench.context() };
    let with = json!({"server": "good", "tool": "echo", "arguments": {"text": "x"}});
    let calls = (0..8).map(|_| run("mcp.call", &context, with.clone()));
    for error in futures_util::future::join_all(calls).await.into_iter().map(Result::unwrap_err) {
        assert!(error.kind == ErrorKind::Deadline && error.message.contains("still starting"), "{error:?}");
    }
    let standing = bench.standing("good");
    assert_eq!((standing.failures, standing.opened, standing.breaker), (1, 0, BreakerState::Closed));
    // It went on without them.
    assert_eq!(bench.echo("good", "y").await.unwrap()["text"], "y");
    assert_eq!(bench.started().len(), 1);
    bench.end().await;
}
