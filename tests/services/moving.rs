//! Memories move between the two stores and come out as they went in; what looks after a file looks after a database.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use serde_json::{Value, json};
use tmws::{
    scope::Scope,
    store::{
        Memory, MemoryChange, NewMemory, PostgresStore, SqliteOptions, SqliteStore, Store, Trust, Visibility,
    },
};

use crate::{
    postgres::{Database, run},
    store::contract::{at, note, scope},
    store_contract::{PASSWORD, walled, walled_options},
};

fn ann() -> Scope {
    scope("a", "ann").with_session("s_1")
}

/// Memories of every sort, as one principal stored them.
async fn fill(store: &dyn Store) {
    let ann = ann();
    let remember =
        async |new: NewMemory, second: i64| store.remember(&ann, new, at(second)).await.unwrap().memory.id;
    let old = remember(note("Releases are cut on Fridays"), 1).await;
    remember(NewMemory { supersedes: Some(old), ..note("Releases are cut on Mondays") }, 2).await;
    for (n, visibility) in [Visibility::Session, Visibility::Agent, Visibility::Project, Visibility::Shared]
        .into_iter()
        .enumerate()
    {
        let new = NewMemory {
            tags: vec!["Zwölf".to_owned(), "b c".to_owned(), format!("n{n}")],
            importance: Some(0.1 + 0.2 * f64::from(u8::try_from(n).unwrap())),
            kind: Some("fact".to_owned()),
            visibility,
            trust: [Trust::User, Trust::Agent, Trust::External][n % 3],
            expires: Some("2999-01-01T00:00:00.123456Z".parse::<Timestamp>().unwrap()),
            ..note(&format!("Text {n}:\r\n\ttabs, \u{1f980}, \"quotes\", \u{0} and \\u0000"))
        };
        remember(new, 3).await;
    }
    let changed = remember(note("Changed later"), 4).await;
    let change = MemoryChange { importance: Some(1.0), ..MemoryChange::default() };
    store.update(&ann, &changed, change, at(5)).await.unwrap();
    store.recalled(&ann, &[changed], at(8)).await.unwrap();
    let gone = remember(note("Forgotten"), 6).await;
    store.forget(&ann, &[gone], at(7)).await.unwrap();
}

async fn exported(store: &dyn Store) -> Vec<Memory> {
    store.export(&ann(), None, 1_000).await.unwrap()
}

#[tokio::test]
async fn what_moves_to_the_other_store_and_back_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = async |name: &str| {
        let store = SqliteStore::open(SqliteOptions::new(folder.path().join(name))).await.unwrap();
        Arc::new(store) as Arc<dyn Store>
    };
    let (_one, server) = walled().await;
    let (_two, other_server) = walled().await;
    for (from, over, back) in [
        (file("1.db").await, server, file("2.db").await),
        (other_server, file("3.db").await, walled().await.1),
    ] {
        fill(&*from).await;
        let first = exported(&*from).await;
        assert_eq!(first.len(), 7);
        let recalled: Vec<Option<Timestamp>> = first.iter().map(|memory| memory.recalled).collect();
        assert_eq!(recalled, [None, None, None, None, None, None, Some(at(8))]);
        let mut moved = first.clone();
        for store in [&over, &back] {
            let report = store.import(&ann(), moved.clone(), at(9)).await.unwrap();
            assert_eq!((report.imported, report.skipped), (7, 0));
            moved = exported(&**store).await;
            assert_eq!(moved, first);
            // Again: nothing new.
            let again = store.import(&ann(), moved.clone(), at(9)).await.unwrap();
            assert_eq!((again.imported, again.skipped), (0, 7));
        }
        for store in [from, over, back] {
            store.close(Duration::from_secs(5)).await;
        }
    }
}

// --- By hand ---

struct Desk {
    folder: tempfile::TempDir,
    url: String,
}

impl Desk {
    fn new(url: String) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), url }
    }

    /// Exit code, stdout and stderr.
    fn run(&self, url: &str, arguments: &[&str], stdin: &str) -> (i32, String, String) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tmws"))
            .args(arguments)
            .current_dir(self.folder.path())
            .env_clear()
            .env("HOME", self.folder.path())
            .env("TMWS_DATABASE_URL", url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // One that needs no input may have ended.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let (_, out, err) = self.run(&self.url, &[arguments, &["--json"]].concat(), "");
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out} {err}"))
    }

    fn findings(&self) -> Vec<String> {
        let report = self.json(&["memory", "verify"]);
        let findings = report["findings"].as_array().unwrap();
        findings.iter().map(|finding| finding["code"].as_str().unwrap().to_owned()).collect()
    }
}

async fn desk() -> (Database, Desk) {
    let (database, store) = walled().await;
    store.close(Duration::from_secs(5)).await;
    let url = walled_options(&database).await.url;
    (database, Desk::new(url))
}

#[tokio::test]
async fn exports_move_by_hand_in_both_directions() {
    let (_database, desk) = desk().await;
    let lite = format!("sqlite:{}", desk.folder.path().join("a.db").display());
    let graph =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/memories/server-memory.jsonl"));
    let import = ["memory", "import", "--from", "server-memory", "-", "--json"];
    for _ in 0..2 {
        let (code, told, errors) = desk.run(&desk.url, &import, graph.as_ref().unwrap());
        assert_eq!(code, 0, "{told}{errors}");
    }
    let (_, lines, errors) = desk.run(&desk.url, &["memory", "export"], "");
    assert_eq!(lines.lines().count(), 9, "{errors}");
    let (code, told, errors) = desk.run(&lite, &["memory", "import", "-", "--json"], &lines);
    assert_eq!((code, told.trim()), (0, r#"{"imported":9,"skipped":0,"conflicts":[]}"#), "{errors}");
    assert_eq!(desk.run(&lite, &["memory", "export"], "").1, lines);
    let (_, told, _) = desk.run(&desk.url, &["memory", "import", "-", "--json"], &lines);
    assert_eq!(told.trim(), r#"{"imported":0,"skipped":9,"conflicts":[]}"#);
}

#[tokio::test]
async fn a_whole_database_has_nothing_wrong_and_what_was_changed_is_named() {
    let mut checked = 0;
    for (change, expected) in [
        ("SELECT 1", None),
        ("UPDATE tmws.memory SET content = 'x'::bytea WHERE kind = 'fact'", Some("content_changed")),
        ("UPDATE tmws.memory SET content = '\\xff'::bytea WHERE kind = 'fact'", Some("undecodable_row")),
        ("UPDATE tmws.memory SET project = 'other' WHERE kind = 'fact'", Some("wrong_scope")),
        ("UPDATE tmws.memory_text SET words = ''", Some("index_out_of_step")),
        ("DELETE FROM tmws.memory_text", Some("index_out_of_step")),
        ("DELETE FROM tmws.generation", Some("bad_generation")),
        (
            "INSERT INTO tmws.tombstone SELECT seq, realm, id, reader, 1, 'x' FROM tmws.memory WHERE kind = 'fact'",
            Some("forgotten_alive"),
        ),
        ("INSERT INTO tmws.schema_version (version) VALUES (99)", Some("newer_schema")),
    ] {
        let (database, store) = walled().await;
        fill(&*store).await;
        store.close(Duration::from_secs(5)).await;
        run(&mut database.connect().await, change).await;
        let desk = Desk::new(walled_options(&database).await.url);
        let findings = desk.findings();
        match expected {
            None => assert!(findings.is_empty(), "{findings:?}"),
            Some(code) => assert!(findings.iter().any(|found| found == code), "{change}: {findings:?}"),
        }
        checked += 1;
    }
    assert_eq!(checked, 9);
}

#[tokio::test]
async fn a_migration_is_told_without_being_made_and_a_newer_one_refused() {
    // Nothing there: told, not made.
    let empty = Database::new("SELECT 1").await;
    let desk = Desk::new(empty.url());
    for arguments in [&["migrate", "--dry-run"][..], &["migrate"]] {
        assert_eq!(desk.json(arguments)["found"], Value::Null);
    }
    assert_eq!(empty.value("SELECT count(*) FROM pg_namespace WHERE nspname = 'tmws' AND $1 <> ''").await, 0);

    let (database, store) = walled().await;
    fill(&*store).await;
    store.close(Duration::from_secs(5)).await;
    let desk = Desk::new(walled_options(&database).await.url);
    let plan = desk.json(&["migrate", "--dry-run"]);
    assert_eq!((&plan["found"], &plan["steps"], &plan["memories"]), (&plan["wanted"], &json!([]), &json!(7)));
    run(&mut database.connect().await, "INSERT INTO tmws.schema_version (version) VALUES (99)").await;
    for arguments in [&["migrate", "--dry-run"][..], &["migrate"], &["memory", "search"]] {
        let (code, _, errors) = desk.run(&desk.url, arguments, "");
        assert_eq!(code, 69);
        assert!(errors.contains("schema version 99") && !errors.contains(PASSWORD), "{errors}");
    }
}

#[tokio::test]
async fn a_backup_is_made_by_the_servers_own_tools_as_told() {
    let (database, store) = walled().await;
    fill(&*store).await;
    store.close(Duration::from_secs(5)).await;
    let options = walled_options(&database).await;
    let desk = Desk::new(options.url.clone());
    let file = desk.folder.path().join("it's a copy");
    let (code, _, errors) = desk.run(&desk.url, &["memory", "backup", file.to_str().unwrap()], "");
    assert_eq!(code, 2, "{errors}");
    assert!(!errors.contains(PASSWORD), "{errors}");
    let told = errors.lines().find_map(|line| line.strip_prefix("hint: ")).unwrap();
    let command = told.split("; pg_restore").next().unwrap();

    // As the role that row-level security walls in: everything is in it all the same.
    let variable = |wanted: &str| std::env::vars().find(|(name, _)| name == wanted).map(|(_, value)| value);
    let tools = [variable("TMWS_TEST_POSTGRES_BIN"), variable("PATH")]
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(":");
    let mut dump = Command::new("sh");
    dump.arg("-c").arg(command).env("PATH", &tools).env("TMWS_DATABASE_URL", &options.url);
    assert!(dump.status().unwrap().success());
    let other = Database::new("SELECT 1").await;
    let mut restore = Command::new("sh");
    restore
        .args(["-c", "pg_restore --exit-on-error --no-owner --dbname \"$0\" \"$1\"", &other.url()])
        .arg(&file);
    assert!(restore.env("PATH", &tools).status().unwrap().success());
    let ours = PostgresStore::open(options).await.unwrap();
    let theirs = PostgresStore::open(tmws::store::PostgresOptions::new(other.url())).await.unwrap();
    assert_eq!(exported(&*theirs).await, exported(&*ours).await);
    for store in [ours, theirs] {
        store.close(Duration::from_secs(5)).await;
    }
}
