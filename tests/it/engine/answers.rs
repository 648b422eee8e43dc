//! What comes back: within its budget, named, shared, or refused with a reason.

use std::sync::Arc;

use serde_json::{Value, json};
use tmws::{
    engine::{Caller, ErrorKind, ExecuteRequest, Outcome, ResultQuery, Target},
    pattern::Mode,
    scope::{ProjectId, Rights, Scope},
    store::NewMemory,
    store::Store as _,
};
use tokio_util::sync::CancellationToken;

use super::support::{Act, Bench, Keeps, NOW, around, built_in, etag, request, scope_of, soon, value};

fn lines(n: usize) -> Value {
    (0..n).map(|i| json!(format!("line {i} says a few words"))).collect()
}

#[tokio::test]
async fn an_answer_that_holds_still_is_unchanged() {
    let bench = Bench::new(&["large"]).await;
    let first = bench.run("test.large", json!({"items": lines(3)})).await.unwrap();
    let again =
        ExecuteRequest { unless: Some(etag(&first)), ..request("test.large", json!({"items": lines(3)})) };
    let unchanged = bench.call(again.clone()).await.unwrap();
    assert_eq!(unchanged.outcome, Outcome::Unchanged { etag: etag(&first) });
    assert!(unchanged.receipt.tokens_out <= 27 || unchanged.receipt.tokens_estimated, "{}", unchanged.text);
    assert!(unchanged.text.len() < 60, "{}", unchanged.text);

    let changed = ExecuteRequest { input: request("", json!({"items": lines(4)})).input, ..again.clone() };
    assert!(matches!(bench.call(changed).await.unwrap().outcome, Outcome::Output { .. }));
    let wider = ExecuteRequest { mode: Mode::Comprehensive, ..again };
    assert!(
        matches!(bench.call(wider).await.unwrap().outcome, Outcome::Output { .. }),
        "another budget, another text"
    );
}

#[tokio::test]
async fn the_budget_holds_exactly_in_every_mode() {
    let bench = Bench::new(&["large"]).await;
    for (mode, budget) in [(Mode::Fast, 100), (Mode::Balanced, 200), (Mode::Comprehensive, 400)] {
        let request = ExecuteRequest { mode, ..request("test.large", json!({"items": lines(300)})) };
        let execution = bench.call(request).await.unwrap();
        let receipt = &execution.receipt;
        assert!(
            !receipt.tokens_estimated && receipt.tokens_out <= budget,
            "{mode:?}: {}",
            receipt.tokens_out
        );
        assert_eq!(execution.text, value(&execution).to_string());
        assert_eq!(value(&execution)["more"]["dropped"], json!(["extra"]));
    }
}

#[tokio::test]
async fn what_was_left_out_is_behind_its_handle() {
    let bench = Bench::new(&["large"]).await;
    let execution = bench.run("test.large", json!({"items": lines(300)})).await.unwrap();
    let Outcome::Output { handle: Some(handle), value, .. } = &execution.outcome else {
        panic!("{}", execution.text)
    };
    assert_eq!(&value["more"]["handle"], handle);
    let query = ResultQuery {
        handle: handle.clone(),
        select: Some("$.lines".to_owned()),
        offset: 290,
        limit: Some(2),
    };
    let page = bench.engine.get_result(&bench.scope, &query, soon()).await.unwrap();
    assert_eq!(
        page.text,
        r#"{"value":["line 290 says a few words","line 291 says a few words"],"total":300,"next":292}"#
    );
    assert_eq!(page.receipt.pattern.as_deref(), Some("test.large@1.0.0"));

    let whole = ResultQuery { handle: handle.clone(), ..ResultQuery::default() };
    assert!(bench.engine.get_result(&bench.scope, &whole, soon()).await.unwrap().receipt.tokens_out <= 2_000);

    for (scope, handle) in
        [(scope_of("p2"), handle.as_str()), (bench.scope.clone(), "r_AAAAAAAAAAAAAAAAAAAAAA")]
    {
        let query = ResultQuery { handle: handle.to_owned(), ..ResultQuery::default() };
        let error = bench.engine.get_result(&scope, &query, soon()).await.unwrap_err();
        assert_eq!(
            (error.kind, error.message.as_str()),
            (ErrorKind::UnknownHandle, "unknown or expired handle; run the pattern again for a new one")
        );
    }
}

#[tokio::test]
async fn an_answer_is_given_even_where_the_rest_cannot_be_kept() {
    let bench = Bench::new(&["large"]).await;
    for keeps in [Keeps::Not, Keeps::Never] {
        *bench.store.keeps.lock().unwrap() = keeps;
        let execution = bench.run("test.large", json!({"items": lines(300)})).await.unwrap();
        assert_eq!(value(&execution)["more"]["handle"], Value::Null);
        assert!(matches!(execution.outcome, Outcome::Output { handle: None, .. }));
    }
}

#[tokio::test]
async fn patterns_are_found_by_name_and_pin() {
    let bench = Bench::new(&["strict", "control"]).await;
    for name in ["test.strict", "test.strict@2", "test.strict@2.1", "test.strict@2.1.3"] {
        let execution = bench.run(name, json!({})).await.unwrap();
        assert_eq!(execution.receipt.pattern.as_deref(), Some("test.strict@2.1.3"), "{name}");
        assert_eq!(execution.receipt.matched_by, "name");
    }
    let cases = [
        (
            "test.strct",
            r#"there is no pattern "test.strct"; did you mean test.strict? find_patterns lists them all"#,
        ),
        ("nothing.like", r#"there is no pattern "nothing.like"; find_patterns lists them"#),
        (
            "test.strict@1",
            r#"test.strict is here in version 2.1.3, not "1"; name it without a version, or with @2"#,
        ),
        (
            "test.strict@x",
            r#"test.strict is here in version 2.1.3, not "x"; name it without a version, or with @2"#,
        ),
    ];
    for (name, message) in cases {
        let error = bench.run(name, json!({})).await.unwrap_err();
        assert_eq!((error.kind, error.message.as_str()), (ErrorKind::UnknownPattern, message));
    }
}

#[tokio::test]
async fn inputs_are_refused_before_anything_runs() {
    let bench = Bench::new(&["strict"]).await;
    let error = bench.run("test.strict", json!({"qery": "x"})).await.unwrap_err();
    assert_eq!(
        (error.kind, error.message.as_str(), error.part.as_deref()),
        (ErrorKind::InvalidInput, "unknown input `qery`; did you mean `query`?", Some("qery"))
    );
    assert_eq!(bench.store.searched_count().await, 0);
}

#[tokio::test]
async fn a_model_is_shown_the_way_to_what_writes() {
    let bench = Bench::with(vec![built_in("memory.remember"), built_in("memory.forget")]).await;
    let error = bench.run("memory.remember", json!({"content": "x"})).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.message.contains("the tool `remember`"), "{}", error.message);
    let error = bench.run("memory.forget", json!({"ids": ["m"]})).await.unwrap_err();
    assert!(error.message.contains("`tmws run memory.forget`"), "{}", error.message);

    let trusted = ExecuteRequest {
        caller: Caller::Trusted,
        ..request("memory.remember", json!({"content": "the port is 7337", "tags": ["Config"]}))
    };
    let execution = bench.call(trusted).await.unwrap();
    let stored = value(&execution);
    assert!(stored["id"].as_str().unwrap().starts_with("m_"), "{stored}");
    assert_eq!(stored["project"], "work");
    assert_eq!(stored.get("etag"), None, "what writes is never asked for again");
}

#[tokio::test]
async fn a_faulty_pattern_says_where_it_is_wrong() {
    let bench = Bench::new(&["faulty"]).await;
    let error = bench.run("test.faulty", json!({})).await.unwrap_err();
    assert_eq!((error.kind, error.part.as_deref()), (ErrorKind::PatternFault, Some("output")));
    assert!(error.message.contains("breaks its own schema at `/n`"), "{}", error.message);
    let error = bench.run("test.faulty", json!({"how": "jq"})).await.unwrap_err();
    assert_eq!((error.kind, error.part.as_deref()), (ErrorKind::PatternFault, Some("output")));
    assert!(error.message.contains("broken on purpose"), "{}", error.message);
}

#[tokio::test]
async fn the_server_binds_what_the_model_cannot_choose() {
    let bench = Bench::new(&["rooted"]).await;
    std::fs::write(bench.folder.path().join("work/a.txt"), "a").unwrap();
    let output = bench.output("test.rooted", json!({})).await;
    assert_eq!(output["bind"], json!({"project": "p1", "agent": "default", "now": NOW}));
    assert_eq!((&output["n"], &output["files"]), (&json!(1), &json!(["a.txt"])));

    let homeless = Bench::homeless(&["rooted"]);
    let error = homeless
        .execute(&bench.scope, request("test.rooted", json!({})), around(&CancellationToken::new()))
        .await
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.message.contains("the root is your home folder") && error.message.contains("TMWS_ROOT"));
}

#[tokio::test]
async fn calls_of_different_scopes_never_share_a_run() {
    let bench = Bench::new(&["strict"]).await;
    let mint = |project, principal, agent, session| {
        Scope::mint(ProjectId::parse(project).unwrap(), principal, agent, session)
    };
    let one = mint("p1", "ada", "default", Some("s"));
    let scopes = [
        one.clone(),
        mint("p2", "ada", "default", Some("s")),
        mint("p1", "bob", "default", Some("s")),
        mint("p1", "ada", "critic", Some("s")),
        mint("p1", "ada", "default", Some("t")),
        mint("p1", "ada", "default", None),
        one.with_rights(Rights::ALL.without(Rights::ADMIN)),
    ];
    bench.store.next(scopes.iter().map(|_| Act::Wait));
    let calls: Vec<_> = [&one]
        .into_iter()
        .chain(&scopes)
        .map(|scope| {
            let (engine, scope) = (Arc::clone(&bench.engine), scope.clone());
            let request = request("test.strict", json!({"query": "a"}));
            tokio::spawn(async move {
                engine.execute(&scope, request, around(&CancellationToken::new())).await.unwrap()
            })
        })
        .collect();
    for _ in &scopes {
        assert_eq!(bench.store.searched().await, "a");
    }
    bench.store.release(scopes.len());
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(bench.store.searched_count().await, 0, "equal scopes share one run");
}

#[tokio::test]
async fn equal_calls_at_the_same_time_run_once_unless_fresh() {
    let bench = Bench::new(&["strict"]).await;
    bench.store.next([Act::Wait, Act::Wait, Act::Wait, Act::Wait]);
    let call = |scope: &str, query: &str, fresh: bool| {
        let (engine, scope) = (Arc::clone(&bench.engine), scope_of(scope));
        let request = ExecuteRequest { fresh, ..request("test.strict", json!({"query": query})) };
        tokio::spawn(async move {
            engine.execute(&scope, request, around(&CancellationToken::new())).await.unwrap()
        })
    };
    let calls = [
        call("p1", "a", false),
        call("p1", "a", false),
        call("p1", "a", true),
        call("p1", "b", false),
        call("p2", "a", false),
    ];
    let mut reached = Vec::new();
    for _ in 0..4 {
        reached.push(bench.store.searched().await);
    }
    reached.sort();
    assert_eq!(reached, ["a", "a", "a", "b"], "one for both equal ones, one fresh, one of another project");
    bench.store.release(4);
    let mut texts = Vec::new();
    for call in calls {
        texts.push(call.await.unwrap().text);
    }
    assert_eq!(texts[0], texts[1]);
    assert_eq!(bench.store.searched_count().await, 0);
}

#[tokio::test]
async fn who_waits_goes_on_when_the_one_that_ran_is_cancelled() {
    let bench = Bench::new(&["strict"]).await;
    bench.store.next([Act::Stall]);
    let (leader, follower) = (CancellationToken::new(), CancellationToken::new());
    let call = |cancel: &CancellationToken| {
        let (engine, scope, cancel) = (Arc::clone(&bench.engine), bench.scope.clone(), cancel.clone());
        tokio::spawn(async move {
            engine.execute(&scope, request("test.strict", json!({})), around(&cancel)).await
        })
    };
    let first = call(&leader);
    bench.store.searched().await;
    let second = call(&follower);
    tokio::task::yield_now().await;
    leader.cancel();
    assert_eq!(first.await.unwrap().unwrap_err().kind, ErrorKind::Cancelled);
    assert!(second.await.unwrap().is_ok());
}

#[tokio::test]
async fn projects_do_not_see_each_other() {
    let bench = Bench::with(vec![built_in("memory.recall")]).await;
    let new = NewMemory { content: "the secret port is 7337".to_owned(), ..NewMemory::default() };
    bench.store.remember(&bench.scope, new, NOW.parse().unwrap()).await.unwrap();
    let own = bench.output("memory.recall", json!({"query": "secret port"})).await;
    assert_eq!(own["total"], 1);
    let other = bench
        .engine
        .execute(
            &scope_of("p2"),
            request("memory.recall", json!({"query": "secret port"})),
            around(&CancellationToken::new()),
        )
        .await
        .unwrap();
    assert_eq!(value(&other)["total"], 0);
}

#[tokio::test]
async fn a_session_is_opened_used_and_closed() {
    let bench = Bench::with(vec![
        built_in("session.open"),
        built_in("session.close"),
        super::support::pattern("strict"),
    ])
    .await;
    let open =
        || async { bench.output("session.open", json!({})).await["session"].as_str().unwrap().to_owned() };
    let (one, two) = tokio::join!(open(), open());
    assert_ne!(one, two, "opening is never shared");

    let within = |session: &str| ExecuteRequest {
        session: Some(session.to_owned()),
        ..request("test.strict", json!({}))
    };
    bench.call(within(&one)).await.unwrap();
    let close = ExecuteRequest { session: Some(one.clone()), ..request("session.close", json!({})) };
    assert_eq!(value(&bench.call(close).await.unwrap())["closed"], true);
    for session in [one.as_str(), "s_AAAAAAAAAAAAAAAAAAAAAA"] {
        assert_eq!(bench.call(within(session)).await.unwrap_err().kind, ErrorKind::UnknownHandle);
    }
}

#[tokio::test]
async fn a_query_runs_one_pattern_or_offers_at_most_three() {
    let bench = Bench::new(&["large", "control", "strict", "careful", "faulty"]).await;
    let ask =
        |query: &str| ExecuteRequest { target: Target::Query(query.to_owned()), ..request("", json!({})) };
    let execution = bench.call(ask("many lines please")).await.unwrap();
    assert_eq!((execution.receipt.matched_by, &value(&execution)["word"]), ("phrase", &json!("line")));

    let execution = bench.call(ask("something else")).await.unwrap();
    let Outcome::Candidates { candidates } = &execution.outcome else { panic!("{}", execution.text) };
    assert_eq!(candidates.len(), 3);
    assert_eq!(
        execution.text,
        json!({
            "matched": null,
            "candidates": [
                {"name": "test.careful", "description": "A search that may fail, and an answer without it.", "inputs": []},
                {"name": "test.control", "description": "Every control step.", "inputs": []},
                {"name": "test.faulty", "description": "An output that breaks its own schema, or an expression that fails.", "inputs": []},
            ],
        })
        .to_string()
    );
}

#[tokio::test]
async fn patterns_that_write_are_not_found_by_a_model() {
    let bench = Bench::with(vec![built_in("memory.remember"), built_in("memory.recall")]).await;
    let names = async |caller| {
        let (found, total) = bench.engine.find(None, &bench.engine.allowed(&bench.scope, caller), 10).await;
        (found.into_iter().map(|found| found.name).collect::<Vec<_>>(), total)
    };
    assert_eq!(names(Caller::Model).await, (vec!["memory.recall".to_owned()], 1));
    assert_eq!(names(Caller::Trusted).await.1, 2);
}
