//! D6: files of every released schema, with data, brought to the newest.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sqlx::{
    SqlSafeStr as _,
    migrate::{Migration, MigrationType, Migrator},
};

use super::{
    probe::{self, command, file_url, json_in, remember, setup},
    sql::{Lite, bytes_beside},
};
use crate::accept::{
    client::{Client, Target},
    load::Dice,
    scenario::{Broken, Seen},
    stage::{AGENTS, Stage, Where},
};

/// The released migrations of a file, oldest first.
const RELEASED: [(i64, &str, &str); 3] = [
    (1, "memory", include_str!("../../../store/migrations/sqlite/0001_memory.sql")),
    (2, "task", include_str!("../../../store/migrations/sqlite/0002_task.sql")),
    (3, "vector", include_str!("../../../store/migrations/sqlite/0003_vector.sql")),
];
/// Memories get their vectors, in the background, within this.
const VECTORS_MAX: Duration = Duration::from_secs(20);
/// Tables whose rows every file has to have, as far as its schema has the table.
const FILLED: [&str; 7] = ["generation", "memory", "memory_tag", "result", "session", "task", "tombstone"];

/// The rows of tables, by table.
type Rows = BTreeMap<String, Vec<String>>;

/// D6: for each released schema a file is made by its own migrations and filled with what a server of today stores, as far
/// as that schema has a place for it; then it is looked at, migrated, compared, checked, and used.
pub(super) async fn run(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let reference = probe::store_file(stage, "d6-reference")?;
    let kept = fill(stage, &reference).await?;
    for (version, ..) in RELEASED {
        let file = probe::store_file(stage, &format!("d6-{version}"))?;
        let before = make(&file, &reference, version).await?;
        for table in FILLED {
            let rows = before.get(table).map(Vec::len);
            if rows == Some(0) {
                seen.check(format!("schema {version}: data in the table {table}"), false, "rows", "none");
            }
        }
        migrated(stage, seen, &file, version, before, &kept).await?;
    }
    seen.note(format!(
        "schemas 1 to {} of SQLite files; PostgreSQL databases have had one schema so far, which has nothing before it",
        RELEASED.len()
    ));
    Ok(())
}

/// What a server of today can be asked for afterwards.
struct Kept {
    session: String,
    handle: Option<String>,
    texts: Vec<(String, String)>,
}

/// Has a server store everything that it stores.
async fn fill(stage: &Stage, file: &Path) -> Result<Kept, Broken> {
    let mut instance = stage.start(setup(Where::At(file.to_owned()))).await?;
    let target = Target::of(&instance, AGENTS[0], "alpha");
    let mut client = Client::socket("ada", &target, "2025-11-25").await?;
    let mut dice = Dice::new(stage.seed, 6);
    let mut texts = Vec::new();
    for number in 0..stage.profile.pick(40, 400) {
        let content = format!("{} no {number}", probe::text(&mut dice, number));
        let tags: Vec<String> = (0..number % 4).map(|tag| format!("tag {tag}")).collect();
        let id = remember(
            &mut client,
            json!({"content": content, "tags": tags, "importance": (number % 11) as f64 / 10.0}),
        )
        .await?;
        texts.push((id, content));
    }
    let odd = [
        json!({"content": "Grüße aus Łódź, 北京 and 🛳: 'quotes', \"more\", \\ and %_", "tags": ["ünïcode"], "visibility": "shared"}),
        json!({"content": "for my agent alone", "visibility": "agent", "kind": "decision", "trust": "user"}),
        json!({"content": "for a while", "expires": "30d", "trust": "external"}),
        json!({"content": "readSomeFile in src/store_two.rs calls HTTPServer2", "kind": "fact"}),
    ];
    for memory in odd {
        probe::well(&mut client, "memory.remember", memory).await?;
    }
    let (first, _) = texts.remove(0);
    remember(&mut client, json!({"content": "it replaces the first one", "supersedes": first})).await?;
    let (forgotten, _) = texts.remove(0);
    probe::well(&mut client, "memory.forget", json!({"ids": [forgotten]})).await?;
    let long = "a long story about ships and tides. ".repeat(120);
    for number in 0..12 {
        remember(&mut client, json!({"content": format!("story {number}: {long}"), "tags": ["story"]}))
            .await?;
    }
    let found = client.run("memory.lookup", json!({"query": "story ships tides", "k": 12})).await?;
    let handle = found.body["more"]["handle"].as_str().map(str::to_owned);
    let opened = probe::well(&mut client, "session.open", json!({})).await?;
    let session = opened["session"].as_str().unwrap_or_default().to_owned();
    let params = json!({"name": "execute_pattern", "arguments": {"pattern": "memory.by-tag", "input": {"tag": "story"}},
        "task": {"ttl": 3_600_000}});
    client.ask("tools/call", params).await?;
    // The task ends by itself; its row says so then.
    let begun = Instant::now();
    let mut reader = Lite::read(file).await?;
    while reader.count("SELECT count(*) FROM task WHERE is_final = 1").await? == 0
        && begun.elapsed() < VECTORS_MAX
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    reader.close().await;
    instance.end().await?;
    Ok(Kept { session, handle, texts })
}

/// Makes a file with the schema `version` and, of what `reference` holds, all that it has a place for. Its rows.
async fn make(file: &Path, reference: &Path, version: i64) -> Result<Rows, Broken> {
    let mut lite = Lite::write(file).await?;
    lite.run("PRAGMA journal_mode = WAL").await?;
    let migrations = RELEASED.iter().filter(|(of, ..)| *of <= version).map(|(of, name, sql)| {
        Migration::new(*of, (*name).into(), MigrationType::Simple, (*sql).into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
        .run_direct(None, lite.connection(), false)
        .await
        .map_err(|error| Broken::new(format!("making a file of schema {version}"), "a file", error))?;
    lite.run(&format!("ATTACH '{}' AS newest", reference.display())).await?;
    for table in ordered(lite.tables().await?) {
        let columns = lite.columns(&table).await?;
        let names = columns.iter().map(|column| format!("\"{column}\"")).collect::<Vec<_>>().join(", ");
        lite.run(&format!("INSERT INTO main.\"{table}\" ({names}) SELECT {names} FROM newest.\"{table}\""))
            .await?;
    }
    lite.run("DETACH newest; PRAGMA wal_checkpoint(TRUNCATE)").await?;
    let rows = all(&mut lite, None).await?;
    lite.close().await;
    Ok(rows)
}

/// What others refer to comes first.
fn ordered(mut tables: Vec<String>) -> Vec<String> {
    tables.sort_by_key(|table| !matches!(table.as_str(), "memory" | "model"));
    tables
}

/// All rows of `of`, or of every table with all columns. Columns are told in front.
async fn all(lite: &mut Lite, of: Option<&BTreeMap<String, Vec<String>>>) -> Result<Rows, Broken> {
    let mut rows = Rows::new();
    for table in lite.tables().await? {
        let columns = match of {
            Some(of) => match of.get(&table) {
                Some(columns) => columns.clone(),
                None => continue,
            },
            None => lite.columns(&table).await?,
        };
        rows.insert(table.clone(), lite.dump(&table, &columns).await?);
    }
    Ok(rows)
}

/// The columns of every table.
async fn columns(lite: &mut Lite) -> Result<BTreeMap<String, Vec<String>>, Broken> {
    let mut columns = BTreeMap::new();
    for table in lite.tables().await? {
        columns.insert(table.clone(), lite.columns(&table).await?);
    }
    Ok(columns)
}

/// Looks at the file, migrates it, and compares.
async fn migrated(
    stage: &Stage,
    seen: &mut Seen,
    file: &Path,
    version: i64,
    before: Rows,
    kept: &Kept,
) -> Result<(), Broken> {
    let newest = RELEASED[RELEASED.len() - 1].0;
    let home = stage.folder("d6-home")?;
    let url = file_url(file);
    let mut lite = Lite::read(file).await?;
    let had = columns(&mut lite).await?;
    lite.close().await;

    let bytes = bytes_beside(file)?;
    let (status, said) = command(stage, &home, &url, &["migrate", "--dry-run", "--json"]).await?;
    let plan = json_in(&said);
    let steps = plan["steps"].as_array().map_or(0, Vec::len);
    seen.check(
        format!("schema {version}: tmws migrate --dry-run"),
        status.success() && plan["found"] == version && plan["wanted"] == newest && i64::try_from(steps) == Ok(newest - version),
        format!("found {version}, wanted {newest}, {} steps (a newer schema than this scenario knows needs a row in it)", newest - version),
        if plan.is_null() { said } else { plan.to_string() },
    );
    seen.equal(
        format!("schema {version}: the file after the dry run, byte for byte"),
        &bytes,
        &bytes_beside(file)?,
    );

    let (status, said) = command(stage, &home, &url, &["migrate", "--json"]).await?;
    let done = json_in(&said);
    seen.check(
        format!("schema {version}: tmws migrate"),
        status.success() && done["migrated"] == (version < newest),
        "it says that it did",
        if done.is_null() { said } else { done.to_string() },
    );
    let mut lite = Lite::read(file).await?;
    let reached = lite.count("SELECT user_version FROM pragma_user_version").await?;
    seen.equal(format!("schema {version}: the version afterwards"), &newest, &reached);
    let after = all(&mut lite, Some(&had)).await?;
    lite.close().await;
    let count = before.values().map(Vec::len).sum::<usize>();
    for (table, rows) in &before {
        let found = after.get(table);
        // Which models there are, and which vectors, may grow; what was there stays.
        let is_kept = found.is_some_and(|found| match table.as_str() {
            "model" | "vector" => rows.iter().all(|row| found.contains(row)),
            _ => found == rows,
        });
        if !is_kept {
            let other = found.map(|found| found.iter().filter(|row| !rows.contains(row)).count());
            seen.check(
                format!("schema {version}: the rows of {table}"),
                false,
                format!("{} rows as they were", rows.len()),
                format!("{:?} rows, {other:?} of them different", found.map(Vec::len)),
            );
        }
    }
    seen.check(
        format!("schema {version}: rows compared before and after"),
        count > 100,
        "more than 100",
        format!("{count} in {} tables", before.len()),
    );
    probe::verify(stage, &home, &url, seen, &format!("the file that had schema {version}")).await?;
    used(stage, seen, file, version, kept).await
}

/// A server works with the migrated file, and what was opened before is open.
async fn used(stage: &Stage, seen: &mut Seen, file: &Path, version: i64, kept: &Kept) -> Result<(), Broken> {
    let mut instance = stage.start(setup(Where::At(file.to_owned()))).await?;
    let mut client = probe::client(&instance, "ada", "alpha").await?;
    let mut different = Vec::new();
    for (id, text) in kept.texts.iter().step_by(7) {
        let memory = probe::well(&mut client, "probe.get", json!({"id": id})).await?;
        if memory["text"] != text.as_str() {
            different.push(id.clone());
        }
    }
    seen.equal(
        format!("schema {version}: memories that a server tells differently"),
        &Vec::<String>::new(),
        &different,
    );
    let (id, text) = kept.texts.last().cloned().unwrap_or_default();
    let number = text.rsplit(' ').next().unwrap_or_default().to_owned();
    let found =
        probe::well(&mut client, "probe.search", json!({"query": format!("no {number} {text}"), "k": 3}))
            .await?;
    seen.check(
        format!("schema {version}: a memory is found by its words"),
        found["ids"][0] == id.as_str(),
        id,
        found.to_string(),
    );
    let arguments =
        json!({"pattern": "memory.by-tag", "input": {"tag": "story", "k": 1}, "session": kept.session});
    let called = client.call("execute_pattern", arguments).await?;
    seen.check(
        format!("schema {version}: a session that was open before"),
        !called.is_error,
        "it is open",
        called.body.to_string(),
    );
    match &kept.handle {
        Some(handle) => {
            let called = client.call("get_result", json!({"handle": handle})).await?;
            seen.check(
                format!("schema {version}: a result that was kept before"),
                !called.is_error,
                "it is there",
                called.body.to_string().chars().take(300).collect::<String>(),
            );
        }
        None => seen.check("a result behind a handle", false, "a handle", Value::Null.to_string()),
    }
    let begun = Instant::now();
    let mut lite = Lite::read(file).await?;
    let bare = "SELECT count(*) FROM memory m WHERE NOT EXISTS (SELECT 1 FROM vector v WHERE v.seq = m.seq)";
    let mut left = lite.count(bare).await?;
    while left > 0 && begun.elapsed() < VECTORS_MAX {
        tokio::time::sleep(Duration::from_millis(50)).await;
        left = lite.count(bare).await?;
    }
    lite.close().await;
    seen.equal(format!("schema {version}: memories without a vector, soon after"), &0, &left);
    instance.end().await.map(drop)
}
