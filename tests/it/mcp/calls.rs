//! What `mcp.call` and `mcp.tools` give, refuse and remember.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use tmws::{
    engine::{
        ErrorKind,
        steps::{
            StepContext,
            mcp::{Reach, Standing, WorkingFolder},
        },
    },
    pattern::Permissions,
};

use super::support::{Bench, is_running, run};

#[tokio::test]
async fn a_tool_is_called_and_its_answer_is_data() {
    let bench = Bench::new(&["good"]);
    let answer = bench.echo("good", "Grüße").await.unwrap();
    assert_eq!(answer, json!({"text": "Grüße", "is_error": false, "truncated": false}));
    let failed = bench.call("good", "ask", json!({"question": "fail"})).await.unwrap();
    assert_eq!(failed, json!({"text": "it went wrong", "is_error": true, "truncated": false}));
    let whole = bench.echo("good", "{\"a\": [1]}").await.unwrap();
    assert_eq!(whole["json"], json!({"a": [1]}));
    let told = bench.call("good", "where", json!({})).await.unwrap();
    assert_eq!(told["content"], json!([{"type": "image", "mimeType": "image/png", "bytes": 3}]));
    assert_eq!(bench.started().len(), 1, "one connection serves all calls");
    bench.end().await;
}

#[tokio::test]
async fn a_server_is_given_a_scrubbed_environment_and_a_folder_that_is_not_the_projects() {
    let bench = Bench::new(&["good"]);
    let told = bench.call("good", "where", json!({})).await.unwrap()["json"].clone();
    assert_eq!(told["cwd"], bench.folder.path.join("home").to_str().unwrap());
    assert_eq!(told["secret"], "hunter2");
    for name in told["environment"].as_array().unwrap() {
        let name = name.as_str().unwrap();
        assert!(!name.starts_with("CARGO") && !name.starts_with("TMWS"), "{name} was passed on");
    }
    assert!(!format!("{:?}", bench.outside).contains("hunter2"));
    bench.end().await;

    let bench = Bench::with(&["good", "asks-once"], |setting| {
        if let Reach::Command { folder, passed_on, .. } = &mut setting.reach {
            *folder = WorkingFolder::Project;
            passed_on.push("CARGO_PKG_NAME".to_owned());
        }
    });
    let told = bench.call("good", "where", json!({})).await.unwrap()["json"].clone();
    assert_eq!(told["cwd"], bench.folder.path.to_str().unwrap());
    assert!(told["environment"].as_array().unwrap().contains(&json!("CARGO_PKG_NAME")));
    let replies = bench.echo("asks-once", "x").await.unwrap()["json"].clone();
    assert_eq!(
        replies,
        json!({"roots/list": "result", "sampling/createMessage": -32601, "elicitation/create": -32601, "ping": "result"})
    );
    bench.end().await;
}

#[tokio::test]
async fn who_may_not_call_is_refused_before_anything_starts() {
    let bench = Bench::with(&["good"], |setting| setting.projects = Some(vec!["web".to_owned()]));
    let call = |tool: &str| json!({"server": "good", "tool": tool, "arguments": {}});
    let permitted = |mcp: &[&str], write: &[&str]| {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        StepContext {
            permissions: Arc::new(Permissions {
                mcp: list(mcp),
                mcp_write: list(write),
                ..Permissions::default()
            }),
            scope: tmws::scope::Scope::mint(
                tmws::scope::ProjectId::parse("web").unwrap(),
                "ada",
                "default",
                None,
            ),
            ..bench.context()
        }
    };
    for (context, with, part) in [
        (bench.context(), call("echo"), "no server `good` is configured for this project"),
        (permitted(&["*"], &[]), json!({"server": "other", "tool": "x"}), "no server `other`"),
        (permitted(&["*"], &[]), call("unknown"), "not among the tools that the user pinned"),
        (permitted(&["*"], &[]), call("act"), "not said to read only"),
        (permitted(&["good/ask", "other/*"], &[]), call("echo"), "add `mcp: [good/echo]`"),
        (permitted(&[], &["good/ask"]), call("act"), "add `mcp.write: [good/act]`"),
    ] {
        let error = run("mcp.call", &context, with).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Denied, "{error:?}");
        assert!(error.message.contains(part), "{} lacks {part}", error.message);
    }
    assert_eq!(bench.started(), Vec::<u32>::new());
    let tools = run("mcp.tools", &permitted(&["good/*"], &[]), json!({})).await.unwrap();
    assert_eq!(
        tools,
        json!({"n": 3, "tools": [
            {"server": "good", "tool": "ask", "reads": true, "query": "question"},
            {"server": "good", "tool": "echo", "reads": true},
            {"server": "good", "tool": "where", "reads": true},
        ]})
    );
    assert_eq!(run("mcp.tools", &bench.context(), json!({})).await.unwrap()["n"], 0, "another project");
    assert_eq!(run("mcp.tools", &permitted(&[], &["good/act"]), json!({})).await.unwrap()["n"], 1);
    assert_eq!(bench.started(), Vec::<u32>::new(), "listing starts nothing");
    let acted = run("mcp.call", &permitted(&[], &["good/act"]), call("act")).await.unwrap();
    assert_eq!(acted["text"], "done");
    bench.end().await;
}

#[tokio::test]
async fn arguments_that_do_not_fit_are_never_sent() {
    let bench = Bench::new(&["good"]);
    for arguments in [json!({}), json!({"text": 5}), json!({"text": "x", "more": 1})] {
        let error = bench.call("good", "echo", arguments).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidInput);
        assert!(error.message.contains("good/echo: the arguments do not fit"), "{}", error.message);
    }
    bench.end().await;
}

#[tokio::test]
async fn what_is_not_as_it_was_pinned_is_refused_with_both_hashes() {
    let bench = Bench::new(&["rug-pull", "changed", "changes"]);
    let pinned = super::support::tools()["echo"].pin.to_string();
    for server in ["rug-pull", "changed"] {
        let error = bench.echo(server, "x").await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Denied);
        let survey = bench.outside.mcp.survey(server, &bench.context().scope).await.unwrap();
        let echo = survey.iter().find(|tool| tool.name == "echo").unwrap();
        assert!(matches!(echo.standing, Standing::Differs(_)));
        let now = echo.pin.unwrap().to_string();
        for part in [&pinned, &now, &format!("tmws tools {server}")] {
            assert!(error.message.contains(part.as_str()), "{} lacks {part}", error.message);
        }
        // Its other tools are what they were.
        assert_eq!(bench.call(server, "ask", json!({"question": "x"})).await.unwrap()["is_error"], false);
    }
    // It says so itself, in the middle of a session.
    assert_eq!(bench.echo("changes", "x").await.unwrap()["text"], "before");
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match bench.echo("changes", "x").await {
            Err(error) => break assert_eq!(error.kind, ErrorKind::Denied),
            Ok(_) => assert!(Instant::now() < until, "its word that it changed was not heard"),
        }
    }
    bench.end().await;
}

#[tokio::test]
async fn revisions_old_and_new_are_spoken() {
    let bench = Bench::new(&["old", "modern"]);
    for server in ["old", "modern"] {
        assert_eq!(bench.echo(server, "x").await.unwrap()["text"], "x", "{server}");
    }
    // The second start goes the way that was found.
    bench.end().await;
}

#[tokio::test]
async fn one_flight_starts_a_server_and_nobody_else_s_is_shared() {
    let bench = Bench::with(&["good"], |setting| setting.processes = 2);
    let with = || json!({"server": "good", "tool": "where"});
    let callers = [("web", "ada"), ("web", "ada"), ("web", "ben")];
    let told = futures_util::future::join_all(
        callers.map(|(project, principal)| bench.call_as(project, principal, with())),
    )
    .await;
    let pids: Vec<_> =
        told.iter().map(|told| told.as_ref().unwrap()["json"]["pid"].as_u64().unwrap()).collect();
    assert_eq!(pids[0], pids[1], "the same principal and project share one");
    assert_ne!(pids[0], pids[2], "two principals never do");
    assert_eq!(bench.started().len(), 2);
    // A third takes the place of the one that nobody used for the longest.
    let third = bench.call_as("api", "ada", with()).await.unwrap();
    assert!(!pids.contains(&third["json"]["pid"].as_u64().unwrap()));
    let until = Instant::now() + Duration::from_secs(10);
    while bench.started().iter().filter(|pid| is_running(**pid)).count() > 2 {
        assert!(Instant::now() < until, "more than two at once");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bench.end().await;
}

#[tokio::test]
async fn a_full_house_that_is_busy_says_so() {
    let bench = Bench::with(&["slow"], |setting| setting.processes = 1);
    let with = || json!({"server": "slow", "tool": "echo", "arguments": {"text": "x"}});
    let (first, second) = tokio::join!(bench.call_as("web", "ada", with()), async {
        // In its place by now: the first is polled first.
        bench.call_as("web", "ben", with()).await
    });
    assert!(first.is_ok(), "{first:?}");
    assert_eq!(second.unwrap_err().kind, ErrorKind::Busy);
    bench.end().await;
}

#[tokio::test]
async fn an_idle_server_ends_and_is_started_again() {
    let bench = Bench::with(&["good"], |setting| setting.idle = Duration::from_millis(50));
    bench.echo("good", "x").await.unwrap();
    let first = bench.started();
    super::support::assert_gone(&first).await;
    assert_eq!(bench.outside.mcp.open_connections(), 0);
    bench.echo("good", "x").await.unwrap();
    assert_eq!(bench.started().len(), 2);
    bench.end().await;
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "a figure for whoever runs it with --nocapture")]
async fn what_a_call_costs_beside_the_same_child_called_directly() {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        process::{Command, Stdio},
    };
    const CALLS: u32 = 300;
    let bench = Bench::new(&["good"]);
    bench.echo("good", "warm").await.unwrap();
    let begun = Instant::now();
    for _ in 0..CALLS {
        bench.echo("good", "x").await.unwrap();
    }
    let through = begun.elapsed();
    bench.end().await;

    let mut child = Command::new("python3")
        .args(["-S", super::support::script().to_str().unwrap(), "good"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut line = String::new();
    let mut call = |id: u32| {
        let frame = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call",
            "params": {"name": "echo", "arguments": {"text": "x"}}});
        input.write_all(format!("{frame}\n").as_bytes()).unwrap();
        line.clear();
        output.read_line(&mut line).unwrap();
        serde_json::from_str::<serde_json::Value>(&line).unwrap()["result"]["content"][0]["text"].clone()
    };
    assert_eq!(call(0), "x");
    let begun = Instant::now();
    for id in 1..=CALLS {
        assert_eq!(call(id), "x");
    }
    let direct = begun.elapsed();
    child.kill().unwrap();
    child.wait().unwrap();
    let ratio = through.as_secs_f64() / direct.as_secs_f64();
    let each = |all: Duration| all / CALLS;
    println!("mcp.call {:?} a call, the child itself {:?}: {ratio:.2} times", each(through), each(direct));
    // A child that does nothing answers within microseconds: what is bounded is what a call adds.
    assert!(each(through) < Duration::from_millis(20), "a call takes {:?}", each(through));
}
