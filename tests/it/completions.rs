//! Completions: what there is, and what is said where the store cannot be asked.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, sqlite::SqliteConnectOptions};
use tmws::{
    protocol::{CallError, Reply},
    wire::Method,
};

use crate::tools::{Bench, ECHO, result};

/// A backstop: everything that is waited for happens long before.
const PATIENCE: Duration = Duration::from_mins(1);
/// Who types is answered within 2 s; the machine may be busy.
const SOON: Duration = Duration::from_secs(4);

async fn complete(bench: &Bench, reference: Value, name: &str, value: &str) -> Reply {
    let params = json!({"ref": reference, "argument": {"name": name, "value": value}});
    bench.ask(Method::CompletionComplete, params).await
}

fn template(uri: &str) -> Value {
    json!({"type": "ref/resource", "uri": uri})
}

fn values(reply: Reply) -> Value {
    result(reply)["completion"]["values"].clone()
}

#[tokio::test]
async fn completions_begin_with_what_begins_so() {
    let bench = Bench::new();
    bench.tool("remember", json!({"content": "One.", "tags": ["alpha", "beta"]})).await;
    let complete =
        async |reference: Value, name: &str, value: &str| complete(&bench, reference, name, value).await;
    let prompt = json!({"type": "ref/prompt", "name": "test.echo"});
    assert_eq!(values(complete(prompt.clone(), "word", "h").await), json!(["hello", "hallo"]));
    assert_eq!(values(complete(prompt.clone(), "word", "LO").await), json!(["hello", "hallo"]));
    assert_eq!(values(complete(template("pattern://{name}"), "name", "test.e").await), json!(["test.echo"]));
    assert_eq!(values(complete(template("memory://{id}"), "id", "m_").await).as_array().unwrap().len(), 1);
    assert_eq!(values(complete(template("result://{handle}"), "handle", "r_").await), json!([]));
    for (reference, name) in [
        (prompt, "nothing"),
        (json!({"type": "ref/prompt", "name": "no.such"}), "word"),
        (template("file:///{path}"), "path"),
    ] {
        assert!(matches!(complete(reference, name, "").await, Reply::Error(CallError::InvalidParams(_))));
    }
}

#[tokio::test]
async fn where_the_store_is_silent_they_are_what_the_pattern_names_or_an_error_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db");
    // Whoever has the file says nothing, and lets nobody else in.
    let mut other =
        SqliteConnectOptions::new().filename(&path).create_if_missing(true).connect().await.unwrap();
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut other).await.unwrap();
    let tagged = |examples: &str| {
        ECHO.replace(
            "times: {type: integer, minimum: 1, maximum: 9}",
            &format!("times: {{}}\n    tag: {{type: string{examples}}}"),
        )
        .replace("arguments: [word, times]", "arguments: [word, tag]")
    };
    let url = format!("sqlite:{}", path.display());
    let bench = Bench::with(&[("TMWS_DATABASE_URL", &url)])
        .with_pattern("test.named.yaml", &tagged(", examples: [release, port]").replace("echo", "named"))
        .with_pattern("test.tagged.yaml", &tagged("").replace("echo", "tagged"));
    let prompt = |name: &str| json!({"type": "ref/prompt", "name": name});
    for (reference, name) in [(template("memory://{id}"), "id"), (prompt("test.tagged"), "tag")] {
        let begun = Instant::now();
        let reply = complete(&bench, reference, name, "").await;
        let elapsed = begun.elapsed();
        let Reply::Error(CallError::Busy { retry_after, message }) = reply else { panic!("{reply:?}") };
        assert!(message.contains("store_unavailable"), "{message}");
        assert!(!retry_after.is_zero() && elapsed < SOON, "{retry_after:?}, {elapsed:?}");
    }
    assert_eq!(values(complete(&bench, prompt("test.named"), "tag", "").await), json!(["release", "port"]));
    assert_eq!(values(complete(&bench, prompt("test.named"), "word", "ha").await), json!(["hallo"]));

    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    let begun = Instant::now();
    while bench.tool("remember", json!({"content": "One.", "tags": ["alpha"]})).await.1 {
        assert!(begun.elapsed() < PATIENCE, "the store is not found again");
    }
    assert_eq!(values(complete(&bench, prompt("test.tagged"), "tag", "").await), json!(["alpha"]));
    assert_eq!(values(complete(&bench, prompt("test.named"), "tag", "").await), json!(["alpha"]));
}
