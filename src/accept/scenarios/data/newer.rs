//! D7: stores with a schema that this program does not know yet.

use serde_json::json;

use super::{
    probe::{self, code, remember, setup},
    sql::{Lite, Session, bytes_beside, fingerprint},
};
use crate::accept::{
    client::{Client, MODERN, Target},
    scenario::{Broken, Seen},
    stage::{AGENTS, Postgres, Stage, Where},
};

/// A version that no release will have soon.
const VERSION: i64 = 4_711;

/// D7: a file and a database with data, as a much newer release might leave them.
pub(super) async fn run(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let home = stage.folder("d7-home")?;

    let file = probe::store_file(stage, "d7")?;
    fill(stage, Where::At(file.clone())).await?;
    let mut lite = Lite::write(&file).await?;
    lite.run(&format!(
        "CREATE TABLE aura (memory INTEGER, glow REAL); INSERT INTO aura VALUES (1, 0.5); PRAGMA user_version = {VERSION}; \
         PRAGMA wal_checkpoint(TRUNCATE)"
    ))
    .await?;
    lite.close().await;
    let before = bytes_beside(&file)?;
    refused(stage, seen, "SQLite", Where::At(file.clone()), &home, &probe::file_url(&file)).await?;
    let after = bytes_beside(&file)?;
    let own = |files: &[(String, String)]| {
        files.iter().filter(|(name, _)| !is_side(name)).cloned().collect::<Vec<_>>()
    };
    seen.equal("SQLite: the file of the store, byte for byte", &own(&before), &own(&after));
    // Whoever reads a file with a write-ahead log makes an empty one beside it, and may not remove it without the right to
    // write.
    let log = std::fs::metadata(file.with_extension("db-wal")).map_or(0, |metadata| metadata.len());
    seen.equal("SQLite: bytes written to its log", &0, &log);

    let postgres = stage.postgres().await?;
    let database = postgres.database(&stage.name("d7")).await?;
    fill(stage, Where::Database(database.url.clone())).await?;
    let mut session = Session::open(&database.url).await?;
    session
        .run(&format!(
            "CREATE TABLE tmws.aura (memory bigint, glow real); INSERT INTO tmws.aura VALUES (1, 0.5); \
             INSERT INTO tmws.schema_version (version) VALUES ({VERSION})"
        ))
        .await?;
    session.close().await;
    let before = fingerprint(&database.url).await?;
    refused(stage, seen, "PostgreSQL", Where::Database(database.url.clone()), &home, &database.url).await?;
    let after = fingerprint(&database.url).await?;
    seen.check(
        "PostgreSQL: tables that hold something",
        before.iter().filter(|(_, print)| !print.starts_with("0 ")).count() >= 5,
        "memories, words, vectors, versions and more",
        format!("{} tables", before.len()),
    );
    seen.equal("PostgreSQL: every table, row for row", &before, &after);
    Postgres::drop(postgres, &database).await
}

/// Whether SQLite makes such a file beside its own to read it.
fn is_side(name: &str) -> bool {
    name.ends_with("-wal") || name.ends_with("-shm")
}

/// Stores some memories through a server, and ends it.
async fn fill(stage: &Stage, store: Where) -> Result<(), Broken> {
    let mut instance = stage.start(setup(store)).await?;
    let mut client = probe::client(&instance, "ada", "alpha").await?;
    for number in 0..5 {
        remember(
            &mut client,
            json!({"content": format!("memory {number} of an older time"), "tags": ["kept"]}),
        )
        .await?;
    }
    instance.end().await.map(drop)
}

/// A server on the store, and the program by hand, refuse it and say why.
async fn refused(
    stage: &Stage,
    seen: &mut Seen,
    name: &str,
    store: Where,
    home: &std::path::Path,
    url: &str,
) -> Result<(), Broken> {
    let mut instance = stage.start(setup(store)).await?;
    let mut client = Client::socket("ada", &Target::of(&instance, AGENTS[0], "alpha"), MODERN).await?;
    let asked = [
        ("remember", json!({"content": "must not be stored"})),
        ("memory.recall", json!({"query": "older time"})),
        ("memory.by-tag", json!({"tag": "kept"})),
        ("probe.forget", json!({"ids": ["m_7ZZZZZZZZZZZZZZZZZZZZZZZZZ"]})),
        ("session.open", json!({})),
    ];
    for (nth, (tool, arguments)) in asked.into_iter().enumerate() {
        let called = probe::call(&mut client, tool, arguments).await?;
        let text = called.body["message"].as_str().unwrap_or_default();
        // The first one is told which versions; after some failures nobody asks the store for a while, and the rest is told
        // that.
        let says = nth > 0 || (text.contains(&VERSION.to_string()) && text.contains("newer tmws"));
        seen.check(
            format!("{name}: {tool}"),
            code(&called) == "store_unavailable" && says,
            format!("store_unavailable, with version {VERSION} and what to do"),
            called.body.to_string(),
        );
    }
    let called = client.call("find_patterns", json!({"query": "memories"})).await?;
    seen.check(
        format!("{name}: a call that needs no store"),
        !called.is_error,
        "an answer",
        called.body.to_string(),
    );
    instance.end().await?;

    for arguments in [
        &["migrate"][..],
        &["migrate", "--dry-run"],
        &["memory", "search", "older"],
        &["memory", "add", "must not be stored"],
    ] {
        let (status, said) = probe::command(stage, home, url, arguments).await?;
        seen.check(
            format!("{name}: tmws {}", arguments.join(" ")),
            status.code() == Some(69) && said.contains(&VERSION.to_string()) && said.contains("newer tmws"),
            format!("exit code 69, version {VERSION} and what to do"),
            format!("{status}: {}", said.trim()),
        );
    }
    let (status, said) = probe::command(stage, home, url, &["memory", "verify", "--json"]).await?;
    let told = probe::json_in(&said);
    seen.check(
        format!("{name}: tmws memory verify"),
        !status.success() && said.contains(&VERSION.to_string()),
        "it tells the newer schema",
        if told.is_null() { said } else { told.to_string() },
    );
    Ok(())
}
