//! What there is, where not all of it is there.

use std::fs;

use serde_json::{Value, json};

use crate::accept::{
    client::{Client, MODERN, Target},
    scenario::{Broken, Seen},
    stage::{AGENTS, Setup, Stage, Where},
    workload,
};

/// E5: a hybrid whose memories cannot be had answers with what git knows, one whose repository cannot be read with what
/// is remembered, both marked; a question that no pattern answers gets patterns to choose from, and memories.
pub(super) async fn marked(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    without_store(stage, seen).await?;
    let mut instance = stage.start(workload::setup()).await?;
    workload::repository(stage, &instance).await?;
    let target = Target::of(&instance, AGENTS[0], "alpha");
    workload::remember(stage, &target, 24).await?;
    let mut client = Client::socket("ada", &target, MODERN).await?;
    let whole = client.run("session.primer", json!({})).await?;
    seen.check(
        "a hybrid of which everything works is whole",
        !whole.is_error && whole.body.get("partial").is_none() && whole.body["branch"] == "main",
        "branch main, and no `partial`",
        whole.body.to_string(),
    );
    let decisions = whole.body["decisions"].as_array().map_or(0, Vec::len);
    seen.check("it has decisions", decisions > 0, "some", whole.body.to_string());
    nothing_matches(seen, &mut client).await?;

    // The other branch: the repository is there, and cannot be read.
    let head = instance.workspace.join(".git/HEAD");
    fs::write(&head, "no reference at all\n")
        .map_err(|error| Broken::new("breaking the repository of the run", "its HEAD is changed", error))?;
    let broken = client.call("execute_pattern", json!({"pattern": "session.primer", "fresh": true})).await?;
    let partial = broken.body["partial"].as_object().cloned().unwrap_or_default();
    seen.check(
        "a hybrid whose repository cannot be read is marked as partial, step by step",
        !broken.is_error && partial.contains_key("status") && partial.contains_key("log"),
        "`partial` with status and log",
        broken.body.to_string(),
    );
    seen.equal(
        "it has the decisions all the same",
        &decisions,
        &broken.body["decisions"].as_array().map_or(0, Vec::len),
    );
    instance.end().await?;
    Ok(())
}

/// A server whose store cannot be opened.
async fn without_store(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let file = stage.folder("wrecked")?.join("tmws.db");
    fs::write(&file, "this is no database, and was never one. ".repeat(400))
        .map_err(|error| Broken::new("wrecking a store of the run", "a file", error))?;
    let mut instance = stage.start(Setup { store: Where::At(file), ..workload::setup() }).await?;
    workload::repository(stage, &instance).await?;
    let target = Target::of(&instance, AGENTS[0], "alpha");
    let mut client = Client::socket("ada", &target, MODERN).await?;
    let arguments = json!({"pattern": "repo.digest", "input": {"since": "30d"}});
    let called = client.call("execute_pattern", arguments.clone()).await?;
    let commits = called.body["commits"].as_u64().unwrap_or(0);
    seen.check(
        "a hybrid without its memories has what git knows",
        !called.is_error && commits > 5 && called.body["branch"] == "main",
        "branch and commits",
        called.body.to_string(),
    );
    seen.check(
        "the branch that failed is marked, with its code",
        called.body["partial"]["decisions"] == "store_unavailable",
        "partial: {decisions: store_unavailable}",
        called.body["partial"].to_string(),
    );
    let degraded = called.receipt["degraded"].to_string();
    seen.check(
        "the receipt says what was in trouble",
        degraded.contains("store"),
        "`degraded` with the store",
        called.receipt.to_string(),
    );
    let again = client.call("execute_pattern", arguments).await?;
    seen.check(
        "a partial answer is kept by no cache",
        again.cache() != "hit" && again.body.get("partial").is_some(),
        "computed again, and marked again",
        format!("cache {}, {}", again.cache(), again.body["partial"]),
    );
    let recalled = client.run("memory.recall", json!({"query": "berth"})).await?;
    seen.check(
        "a pattern of which nothing is left says so",
        recalled.is_error && recalled.code() == "store_unavailable",
        "store_unavailable",
        recalled.body.to_string(),
    );
    if seen.checks.iter().any(|check| !check.held) {
        seen.frames.extend(client.frames());
    }
    instance.end().await?;
    Ok(())
}

/// Questions that no pattern answers.
async fn nothing_matches(seen: &mut Seen, client: &mut Client) -> Result<(), Broken> {
    let fact = "The pilot of the Kestrel paints the lantern of the north quay in yellow";
    let stored = client.call("remember", json!({"content": fact})).await?;
    let id = stored.body["id"].as_str().unwrap_or_default().to_owned();
    let asked = json!({"query": "who paints the lantern of the north quay in yellow"});
    let called = client.call("execute_pattern", asked).await?;
    seen.check(
        "a question that nothing matches is no error, and runs nothing",
        !called.is_error && called.body.get("matched") == Some(&Value::Null),
        "matched: null",
        called.body.to_string(),
    );
    let candidates = called.body["candidates"].as_array().cloned().unwrap_or_default();
    let is_whole = |candidate: &Value| {
        candidate["name"].is_string()
            && candidate["description"].is_string()
            && !candidate["inputs"].is_null()
    };
    seen.check(
        "patterns to choose from are handed back",
        (1..=3).contains(&candidates.len()) && candidates.iter().all(is_whole),
        "one to three, each with name, description and inputs",
        called.body["candidates"].to_string(),
    );
    let memories = called.body["memories"].as_array().cloned().unwrap_or_default();
    seen.check(
        "the memory that the question is about is handed back",
        !id.is_empty() && memories.iter().any(|memory| memory["id"] == *id),
        format!("{id} among the memories"),
        called.body["memories"].to_string(),
    );
    // What was offered can be run as offered.
    let name = candidates.first().and_then(|candidate| candidate["name"].as_str()).unwrap_or_default();
    let offered = client.run(name, json!({})).await?;
    seen.check(
        "what is offered is known by its name",
        offered.code() != "unknown_pattern" && !name.is_empty(),
        "an answer, or what it wants",
        offered.body.to_string(),
    );
    Ok(())
}
