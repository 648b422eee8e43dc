//! Whose fault it is that somebody waits, on the real binary and real servers: waiting for one's turn is no failure of a
//! database; one that says nothing is left alone also where nobody waits for it long.

#![expect(clippy::float_cmp, reason = "what is counted is whole")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::net::{TcpListener, TcpStream};

use crate::{
    postgres::Database,
    program::{Program, Socket, pattern},
    server::Server,
};

/// The machine may be busy.
const PROMPT: Duration = Duration::from_secs(2);

/// A source of the project `personal`.
fn source(url: &str, timeout: &str) -> String {
    format!("[sources.shop]\nurl = \"{url}\"\nprojects = [\"personal\"]\ntimeout = \"{timeout}\"\n")
}

/// Asks the source for `n` in so many seconds.
fn slow() -> (&'static str, String) {
    let body = "type: infrastructure\n\
        inputs: {type: object, additionalProperties: false, required: [n, seconds], \
        properties: {n: {type: integer}, seconds: {type: number}}}\n\
        permissions: {sql: ['*']}\nlimits: {timeout: 20s, max_steps: 2, max_bytes: 1MiB}\n\
        steps:\n  - {id: asked, uses: sql.query, with: {query: 'SELECT $1::int, pg_sleep($2::float8)::text', \
        params: ['${ .inputs.n }', '${ .inputs.seconds }']}}\n\
        output:\n  schema: {type: object, required: [n], properties: {n: {type: integer}}}\n  \
        value: '${ {n: .steps.asked.rows[0][0]} }'\n  budget: {tokens: 120}\n";
    ("test.slow", pattern("test.slow", body))
}

const SHOP: &str = "kind=\"source\",name=\"shop\"";
const STORE: &str = "kind=\"database\",name=\"store\"";

fn closed(backend: &str) -> String {
    format!("{backend},state=\"closed\"")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_whose_queries_are_slow_is_not_blamed_for_those_that_wait_for_a_turn() {
    let database = Database::new("").await;
    let program = Program::serve(&source(&database.url(), "3s"), &[slow()], &[]);
    let mut sockets = [Socket::open(&program).await, Socket::open(&program).await];
    assert_eq!(sockets[0].ran("test.slow", json!({"n": 0, "seconds": 0})).await.body()["n"], 0);
    let mut calls = Vec::new();
    for n in 1..=24 {
        let socket = n % 2;
        calls.push((socket, sockets[socket].run("test.slow", json!({"n": n, "seconds": 2.4})).await));
    }
    let (mut answered, mut busy) = (0, 0);
    for (socket, call) in calls {
        let answer = sockets[socket].answer(call).await;
        if answer.is_error() {
            let body = answer.body();
            assert_eq!(body["error"], "busy", "{answer:?}");
            assert!(body["retry_after_ms"].as_u64().is_some_and(|pause| pause > 0), "{body}");
            // The time-out of the source, and no more.
            assert!(answer.receipt()["ms"].as_f64().is_some_and(|ms| ms < 5_000.0), "{answer:?}");
            busy += 1;
        } else {
            answered += 1;
        }
    }
    // Four have a place at once; four more find one in time, and all the time that a query is given.
    assert_eq!((answered, busy), (8, 16));
    assert_eq!(program.figure("tmws_backend_failures_total", SHOP).await, 0.0);
    assert_eq!(program.figure("tmws_breaker_opened_total", SHOP).await, 0.0);
    assert_eq!(program.figure("tmws_breaker_state", &closed(SHOP)).await, 1.0);
    let after = sockets[1].ran("test.slow", json!({"n": 99, "seconds": 0})).await;
    assert!(!after.is_error() && after.took < PROMPT, "{after:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_hangs_is_blamed_by_those_that_have_a_place_and_found_again() {
    let server = Server::start().await;
    let program = Program::serve(&source(&server.url(), "2s"), &[slow()], &[]);
    let mut socket = Socket::open(&program).await;
    assert_eq!(socket.ran("test.slow", json!({"n": 0, "seconds": 0})).await.body()["n"], 0);
    server.freeze();
    let mut calls = Vec::new();
    for n in 1..=12 {
        calls.push(socket.run("test.slow", json!({"n": n, "seconds": 0})).await);
    }
    program.until("tmws_breaker_opened_total", SHOP, 1.0).await;
    for call in calls {
        let answer = socket.answer(call).await;
        assert!(answer.is_error(), "{answer:?}");
        let code = answer.body()["error"].clone();
        assert!(["deadline", "busy", "program_failed"].iter().any(|known| code == *known), "{answer:?}");
    }
    server.thaw();
    let begun = Instant::now();
    while socket.ran("test.slow", json!({"n": 7, "seconds": 0})).await.is_error() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it is not found again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(program.figure("tmws_breaker_state", &closed(SHOP)).await, 1.0);
}

// --- The store ---

/// Says back what it is given: needs no memory, but what is much is kept behind a handle.
fn large() -> (&'static str, String) {
    let body = "type: infrastructure\n\
        inputs: {type: object, additionalProperties: false, required: [n, lines], \
        properties: {n: {type: integer}, lines: {type: array, items: {type: string}}}}\n\
        limits: {timeout: 10s, max_steps: 2, max_bytes: 1MiB}\n\
        steps:\n  - {id: said, uses: data.template, with: {template: 'said', values: {}}}\n\
        output:\n  schema: {type: object, required: [n], properties: {n: {type: integer}, lines: {type: array}}}\n  \
        value: '${ {n: .inputs.n, lines: .inputs.lines} }'\n  \
        budget: {tokens: 120, shrink: [{truncate: lines, keep: 3}], overflow: handle}\n";
    ("test.large", pattern("test.large", body))
}

/// Asks the memories and waits a moment for them only.
fn hasty() -> (&'static str, String) {
    let body = "type: memory\n\
        inputs: {type: object, additionalProperties: false, required: [tag], properties: {tag: {type: string}}}\n\
        permissions: {memory: [read]}\nlimits: {timeout: 5s, max_steps: 3, max_bytes: 1MiB}\n\
        steps:\n  - {id: found, uses: memory.list, timeout: 400ms, on_error: continue, with: {tags: ['${ .inputs.tag }'], k: 3}}\n  \
        - {id: said, uses: data.template, with: {template: 'looked', values: {}}}\n\
        output:\n  schema: {type: object, required: [said], properties: {said: {type: string}}}\n  \
        value: '${ {said: .steps.said} }'\n  budget: {tokens: 120}\n";
    ("test.hasty", pattern("test.hasty", body))
}

/// Times that the log warns of the store.
fn warnings(program: &Program) -> Vec<String> {
    let log = program.log();
    log.lines().filter(|line| line.contains("WARN")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_store_is_left_alone_also_where_nobody_waits_for_it_long() {
    let server = Server::start().await;
    let url = server.url();
    let program = Program::serve("", &[large(), hasty()], &[("TMWS_DATABASE_URL", &url)]);
    let mut socket = Socket::open(&program).await;
    let lines: Vec<String> = (0..200).map(|n| format!("this is line {n}")).collect();
    let input = |name: &str, n: usize| -> Value {
        if name == "test.large" { json!({"n": n, "lines": lines}) } else { json!({"tag": format!("tag{n}")}) }
    };
    for name in ["test.large", "test.hasty"] {
        let well = socket.ran(name, input(name, 0)).await;
        assert!(!well.is_error() && well.degraded() == "null", "{well:?}");
    }
    for (round, name) in ["test.large", "test.hasty"].into_iter().enumerate() {
        let opened = program.figure("tmws_breaker_opened_total", STORE).await;
        let warned = warnings(&program).len();
        server.freeze();
        let mut asked = 0;
        while program.figure("tmws_breaker_opened_total", STORE).await == opened {
            asked += 1;
            assert!(asked < 15, "{name}: it is never left alone");
            let answer = socket.ran(name, input(name, round * 100 + asked)).await;
            assert!(!answer.is_error(), "{answer:?}");
            assert!(answer.degraded().contains("database store: "), "{name}: {answer:?}");
        }
        // Now each is answered at once, but for the one that is let through to see.
        let mut quick = 0;
        for n in 0..20 {
            let answer = socket.ran(name, input(name, round * 100 + 50 + n)).await;
            assert!(!answer.is_error() && answer.degraded().contains("database store: "), "{answer:?}");
            quick += usize::from(answer.took < Duration::from_millis(300));
        }
        assert!(quick >= 10, "{name}: {quick} of 20 at once");
        let told = warnings(&program).len() - warned;
        assert!(told <= 2, "{name}: told {told} times: {:#?}", warnings(&program));

        server.thaw();
        let begun = Instant::now();
        loop {
            let answer = socket.ran(name, input(name, round * 100 + 99)).await;
            if answer.degraded() == "null" {
                break;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{name}: it is not found again: {answer:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        program.until("tmws_breaker_state", &closed(STORE), 1.0).await;
    }
    let log = program.log();
    assert!(log.contains("a backend works again") && log.contains("results are kept again"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_takes_longer_to_open_than_anybody_waits_is_there_for_the_next() {
    let database = Database::new("").await;
    let url = database.url();
    let (before, behind) = url.split_once('@').unwrap();
    let (server, name) = behind.split_once('/').unwrap();
    let server = server.to_owned();
    // Connections are made, and nothing is heard on them for a while.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow = format!("{before}@{}/{name}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut here, _)) = listener.accept().await {
            let server = server.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(2_400)).await;
                let mut there = TcpStream::connect(server).await?;
                tokio::io::copy_bidirectional(&mut here, &mut there).await
            });
        }
    });
    let program = Program::serve("", &[], &[("TMWS_DATABASE_URL", &slow)]);
    let mut socket = Socket::open(&program).await;
    let begun = Instant::now();
    loop {
        // It waits for two seconds.
        let answer = socket.ran("memory.recall", json!({"query": "what was decided"})).await;
        if !answer.is_error() {
            break;
        }
        assert_eq!(answer.body()["error"], "store_unavailable", "{answer:?}");
        assert!(begun.elapsed() < Duration::from_secs(15), "it is never open: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_says_in_its_receipt_what_was_met_until_then() {
    let mut server = Server::start().await;
    let url = server.url();
    let program = Program::serve("", &[], &[("TMWS_DATABASE_URL", &url)]);
    let mut socket = Socket::open(&program).await;
    let question = |n: i64| json!({"query": format!("what was decided about number {n}")});
    let well = socket.ran("memory.recall", question(0)).await;
    assert!(!well.is_error(), "{well:?}");
    server.end(crate::server::End::Kill);
    let mut told = Vec::new();
    for n in 1..=8 {
        let failed = socket.ran("memory.recall", question(n)).await;
        let (body, receipt) = (failed.body(), failed.receipt());
        assert_eq!(body["error"], "store_unavailable", "{failed:?}");
        for member in ["pattern", "hash", "type", "matched_by", "cache"] {
            let wanted = if member == "cache" { &json!("off") } else { &well.receipt()[member] };
            assert_eq!(&receipt[member], wanted, "{member}: {failed:?}");
        }
        assert!(receipt["ms"].as_f64().is_some_and(|ms| ms > 0.0), "{failed:?}");
        assert!(receipt["tokens_out"].as_u64().is_some_and(|tokens| tokens > 0), "{failed:?}");
        let steps = receipt["steps"].as_array().unwrap();
        assert!(steps.iter().any(|step| step["outcome"] == "store_unavailable"), "{failed:?}");
        told.push(failed.degraded());
    }
    assert!(told.iter().all(|told| told.contains("database store: ")), "{told:?}");
    assert!(told.iter().any(|told| told.contains("database store: open")), "{told:?}");
    let handle = json!({"name": "get_result", "arguments": {"handle": "r_0123456789abcdef0123456789abcdef"}});
    let handle = socket.send("tools/call", &handle).await;
    let failed = socket.answer(handle).await;
    assert!(failed.is_error() && failed.receipt()["matched_by"] == "handle", "{failed:?}");
    server.resume().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waits_for_a_connection_of_the_store_are_counted_with_their_time() {
    let server = Server::start().await;
    let url = server.url();
    let settings = [("TMWS_DATABASE_URL", url.as_str()), ("TMWS_LIMITS_DATABASE_CONNECTIONS", "2")];
    let program = Program::serve("", &[hasty()], &settings);
    let mut socket = Socket::open(&program).await;
    assert!(!socket.ran("test.hasty", json!({"tag": "a"})).await.is_error());
    let figures = async || {
        let page = program.page("/metrics").await;
        let of = |name: &str| crate::program::figure(&page, name, "");
        (of("tmws_store_connection_waits_total"), of("tmws_store_connection_waited_seconds_total"))
    };
    let (waits, waited) = figures().await;
    // Nobody reads while somebody alters the table: whoever has a connection keeps it, and the others wait for one.
    let mut other = PgConnection::connect(&url).await.unwrap();
    other.execute("BEGIN; LOCK TABLE tmws.memory IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let mut calls = Vec::new();
    for n in 0..10 {
        calls.push(socket.run("memory.by-tag", json!({"tag": format!("tag{n}")})).await);
    }
    let held = Duration::from_millis(700);
    tokio::time::sleep(held).await;
    other.execute("ROLLBACK").await.unwrap();
    for call in calls {
        socket.answer(call).await;
    }
    let (later, longer) = figures().await;
    // At least those behind the ones that had a connection each.
    assert!(later >= waits + 4.0, "{waits} waits before, {later} after");
    assert!(longer >= waited + 4.0 * held.as_secs_f64() * 0.5, "{waited} s before, {longer} s after");
}
