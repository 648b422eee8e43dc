//! The store by hand: checked, backed up, migrated, moved. The real binary on real files.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    ops::Deref,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};
use sqlx::{ConnectOptions as _, Connection as _, sqlite::SqliteConnectOptions};

use crate::support::scratch::Scratch;

/// A home, a workspace and a store at a known path.
struct Desk {
    scratch: Scratch,
    /// `none` where the memory of a process is measured: reading a model is no matter of what it does.
    embedding_model: Option<&'static str>,
}

impl Deref for Desk {
    type Target = Scratch;

    fn deref(&self) -> &Scratch {
        &self.scratch
    }
}

struct Told {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Told {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {} {}", self.stdout, self.stderr))
    }
}

fn told(output: Output) -> Told {
    Told {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Desk {
    fn new() -> Self {
        Self { scratch: Scratch::new(), embedding_model: None }
    }

    fn store(&self) -> PathBuf {
        self.path("store/tmws.db")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.scratch.command(arguments);
        command.env("TMWS_DATABASE_URL", format!("sqlite:{}", self.store().display()));
        if let Some(model) = self.embedding_model {
            command.env("TMWS_EMBEDDING_MODEL", model);
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Told {
        told(self.command(arguments).output().unwrap())
    }

    fn run_with(&self, arguments: &[&str], stdin: &[u8]) -> Told {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        told(child.wait_with_output().unwrap())
    }

    /// A store with memories of every sort.
    fn filled() -> Self {
        let desk = Self::new();
        let add = |arguments: &[&str]| {
            let told = desk.run(&[&["memory", "add", "--json"], arguments].concat());
            assert_eq!(told.code, 0, "{}", told.stderr);
            told.json()["id"].as_str().unwrap().to_owned()
        };
        let old = add(&["Releases are cut on Fridays", "-t", "release", "-t", "process"]);
        add(&["Releases are cut on Mondays", "--supersedes", &old]);
        add(&["The API speaks JSON", "--kind", "fact", "--importance", "0.9"]);
        desk
    }

    fn sql(&self, statements: &str) {
        let statements = statements.to_owned();
        let path = self.store();
        runtime().block_on(async move {
            let mut connection =
                SqliteConnectOptions::new().filename(path).foreign_keys(false).connect().await.unwrap();
            sqlx::raw_sql(sqlx::AssertSqlSafe(statements)).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        });
    }

    /// Codes of what is wrong, with how often.
    fn findings(&self) -> BTreeMap<String, u64> {
        let told = self.run(&["memory", "verify", "--json"]);
        let report = told.json();
        let findings: BTreeMap<String, u64> = report["findings"]
            .as_array()
            .unwrap()
            .iter()
            .map(|finding| {
                assert!(!finding["advice"].as_str().unwrap().is_empty());
                (finding["code"].as_str().unwrap().to_owned(), finding["count"].as_u64().unwrap())
            })
            .collect();
        assert_eq!(report["whole"], findings.is_empty());
        assert_eq!(told.code, i32::from(!findings.is_empty()), "{}{}", told.stdout, told.stderr);
        findings
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Every file below `folder` with its bytes.
fn bytes_of(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(&path).unwrap()))
        .collect()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

#[test]
fn a_whole_store_has_nothing_wrong() {
    let desk = Desk::filled();
    let told = desk.run(&["memory", "verify", "--json"]).json();
    assert_eq!(told["memories"], 3);
    assert_eq!((&told["whole"], &told["notes"]), (&json!(true), &json!([])));
    let told = desk.run(&["memory", "verify", "--progress"]);
    assert_eq!(told.code, 0);
    assert!(told.stdout.contains("nothing is wrong"), "{}", told.stdout);
    assert!(told.stderr.ends_with("checked 3 memories\n"), "{}", told.stderr);
}

#[test]
fn what_another_program_changed_is_named() {
    for (change, expected) in [
        ("UPDATE memory SET content = 'The API speaks XML' WHERE kind = 'fact'", "content_changed"),
        ("UPDATE memory SET project = 'other' WHERE kind = 'fact'", "wrong_scope"),
        ("UPDATE memory SET audience = 'p0' WHERE kind = 'fact'", "wrong_scope"),
        ("DELETE FROM memory_tag WHERE tag = 'process'", "tags_out_of_step"),
        ("INSERT INTO memory_tag VALUES (999, 'stray')", "broken_reference"),
        ("UPDATE memory SET id = 'x' WHERE kind = 'fact'", "undecodable_row"),
        ("UPDATE memory SET tags = '{' WHERE kind = 'fact'", "undecodable_row"),
        ("UPDATE memory SET content = CAST(x'ff' AS TEXT) WHERE kind = 'fact'", "undecodable_row"),
        ("UPDATE memory SET expires = 9223372036854775807 WHERE kind = 'fact'", "undecodable_row"),
        ("UPDATE memory SET visibility = 'session' WHERE kind = 'fact'", "undecodable_row"),
        ("DELETE FROM memory_fts_docsize WHERE id = 1", "index_out_of_step"),
        (
            "INSERT INTO memory_fts (memory_fts, rowid, content, tags, words, audience) \
             SELECT 'delete', seq, content, tags, words, audience FROM memory WHERE seq = 1; \
             INSERT INTO memory_fts (rowid, content, tags, words, audience) VALUES (1, 'other', '', '', '')",
            "index_out_of_step",
        ),
        (
            "INSERT INTO tombstone SELECT 99, realm, id, audience, visibility, principal, agent, session, 1, 'x' \
             FROM memory WHERE kind = 'fact'",
            "forgotten_alive",
        ),
        ("DELETE FROM generation", "bad_generation"),
        ("INSERT INTO meta VALUES ('state_key', x'00')", "undecodable_row"),
        ("INSERT INTO session VALUES (x'00', 'p', 'x', 1, 1, '{}')", "undecodable_row"),
        ("DROP TABLE task", "missing_table"),
        (
            "DROP INDEX memory_by_id; PRAGMA writable_schema = ON; DELETE FROM sqlite_schema WHERE name = 'memory_by_hash'",
            "damaged_pages",
        ),
    ] {
        let desk = Desk::filled();
        desk.sql(change);
        let findings = desk.findings();
        assert!(findings.contains_key(expected), "{change}: {findings:?}");
    }
}

#[test]
fn a_damaged_file_gives_named_findings_and_is_left_alone() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage, &str); 5] = [
        ("its header", |bytes| bytes[..16].fill(b'x'), "no_database"),
        ("all but its beginning", |bytes| bytes.truncate(100), "no_database"),
        ("its middle", |bytes| bytes[4096..40_960].fill(0xa5), "damaged_pages"),
        ("its end", |bytes| bytes.truncate(24_576), "damaged_pages"),
        ("whose it is", |bytes| bytes[68..72].fill(1), "foreign_store"),
    ];
    for (what, damage, expected) in damages {
        let desk = Desk::filled();
        let mut bytes = fs::read(desk.store()).unwrap();
        damage(&mut bytes);
        fs::write(desk.store(), &bytes).unwrap();
        let findings = desk.findings();
        assert!(findings.contains_key(expected), "{what}: {findings:?}");
        assert_eq!(fs::read(desk.store()).unwrap(), bytes, "{what}");
        let told = desk.run(&["memory", "verify"]);
        assert!(told.stdout.contains("to do: "), "{}", told.stdout);
    }
}

#[test]
fn what_cannot_be_looked_at_is_no_finding() {
    let desk = Desk::new();
    let told = desk.run(&["memory", "verify"]);
    assert_eq!(told.code, 69);
    assert!(told.stderr.contains("is not there: nothing was stored yet"), "{}", told.stderr);
    assert!(!desk.store().exists());
}

#[test]
fn a_backup_is_a_whole_store_of_its_own() {
    let desk = Desk::filled();
    let file = desk.path("copy.db");
    let told = desk.run(&["memory", "backup", file.to_str().unwrap(), "--json"]);
    assert_eq!(told.json()["memories"], 3, "{}", told.stderr);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let url = format!("sqlite:{}", file.display());
    let exports = [desk.run(&["memory", "export"]), desk.run(&["memory", "export", "--database-url", &url])];
    assert_eq!(exports[0].stdout, exports[1].stdout);

    // Never over anything, and nothing half made.
    let before = fs::read(&file).unwrap();
    let again = desk.run(&["memory", "backup", file.to_str().unwrap()]);
    assert_eq!(again.code, 2);
    assert!(again.stderr.contains("exists already"), "{}", again.stderr);
    assert_eq!(fs::read(&file).unwrap(), before);
    let nowhere = desk.run(&["memory", "backup", "/nowhere/copy.db"]);
    assert_eq!(nowhere.code, 1, "{}", nowhere.stderr);
    let left = fs::read_dir(desk.path("")).unwrap();
    assert!(left.into_iter().all(|entry| !entry.unwrap().file_name().to_string_lossy().ends_with(".part")));
}

#[test]
fn a_backup_is_made_while_others_write() {
    let desk = Desk::filled();
    let lines = exported(&desk, 4_000, 20);
    let mut writing = desk
        .command(&["memory", "import", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    writing.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    for n in 0..3 {
        let file = desk.path(&format!("copy{n}.db"));
        let told = desk.run(&["memory", "backup", file.to_str().unwrap(), "--json"]);
        assert_eq!(told.code, 0, "{}", told.stderr);
        // Transactions are whole: 3 memories and some times 500.
        assert_eq!((told.json()["memories"].as_u64().unwrap() - 3) % 500, 0);
    }
    assert!(writing.wait().unwrap().success());
}

#[test]
fn a_damaged_store_gives_no_backup() {
    let desk = Desk::filled();
    desk.sql("UPDATE memory SET content = 'The API speaks XML' WHERE kind = 'fact'");
    let told = desk.run(&["memory", "backup", desk.path("copy.db").to_str().unwrap()]);
    assert_eq!(told.code, 1);
    assert!(told.stderr.contains("the copy is not whole"), "{}", told.stderr);
    assert!(!desk.path("copy.db").exists());
}

#[test]
fn a_full_disk_gives_no_backup_and_says_so() {
    let desk = Desk::filled();
    fs::create_dir(desk.path("small")).unwrap();
    let namespaces = if rustix::process::geteuid().is_root() { "-m" } else { "-Urm" };
    let mounted = |then: &str| {
        let mut shell = desk.command(&[]);
        let program = shell.get_program().to_owned();
        let mut unshare = Command::new("unshare");
        unshare.args([namespaces, "sh", "-c"]);
        unshare.arg(format!("mount -t tmpfs -o size=64k tmpfs \"$0\" && {then}"));
        unshare.arg(desk.path("small")).arg(program).current_dir(desk.path("workspace"));
        unshare.env("TMWS_DATABASE_URL", format!("sqlite:{}", desk.store().display()));
        shell.stdin(Stdio::null());
        unshare
    };
    let possible = mounted("true").stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !possible {
        return; // Not allowed to mount here.
    }
    let told = told(
        mounted("\"$1\" memory backup \"$0/copy.db\"; code=$?; ls -A \"$0\"; exit $code").output().unwrap(),
    );
    assert_eq!((told.code, told.stdout.as_str()), (1, ""), "{}", told.stderr);
    assert!(told.stderr.contains("no space left for the copy; nothing was written"), "{}", told.stderr);
}

/// `count` memories as `desk` would export them.
fn exported(desk: &Desk, count: usize, words: usize) -> String {
    let line = desk.run(&["memory", "export"]).stdout.lines().last().unwrap().to_owned();
    let memory: Value = serde_json::from_str(&line).unwrap();
    let mut lines = String::new();
    for n in 0..count {
        let mut memory = memory.clone();
        memory["id"] = format!("m_0{n:0>25}").into();
        memory["content"] = format!("Number {n}: {}", "words of a memory ".repeat(words)).into();
        writeln!(lines, "{memory}").unwrap();
    }
    lines
}

#[test]
fn every_fault_of_a_file_is_named_before_anything_is_stored() {
    let desk = Desk::filled();
    let mut lines: Vec<String> = exported(&desk, 1_200, 20).lines().map(str::to_owned).collect();
    lines[1] = "{\"id\": 3}".to_owned();
    lines[700] = lines[700].replace("\"importance\":0.9", "\"importance\":7");
    lines[1_100] = "x".to_owned();
    let before = desk.run(&["memory", "export"]).stdout;
    let told = desk.run_with(&["memory", "import", "-"], lines.join("\n").as_bytes());
    assert_eq!(told.code, 2);
    for expected in
        ["line 2: invalid type", "line 701: importance: must be from 0 to 1", "line 1101: expected value"]
    {
        assert!(told.stderr.contains(expected), "{expected} in {}", told.stderr);
    }
    assert_eq!(desk.run(&["memory", "export"]).stdout, before);
}

#[test]
fn what_ends_early_stays_and_goes_on() {
    let desk = Desk::filled();
    // The file on a disk with room for some of it: the writer's own limit stands for a full one.
    let lines = exported(&desk, 3_000, 20);
    let file = desk.path("many.jsonl");
    fs::write(&file, &lines).unwrap();
    let mut child = desk
        .command(&["memory", "import", file.to_str().unwrap(), "--progress"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while stderr.read_line(&mut line).unwrap() > 0 && !line.contains("imported 500 of 3000") {
        line.clear();
    }
    let pid = rustix::process::Pid::from_child(&child);
    // It may have ended by itself.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut stderr, &mut rest).unwrap();
    if !child.wait().unwrap().success() {
        assert!(rest.contains("interrupted") && rest.contains("run it again to go on"), "{rest}");
    }
    let kept = desk.run(&["memory", "export"]).stdout.lines().count() as u64 - 3;
    assert!(kept >= 500 && kept.is_multiple_of(500), "{kept}");
    let told = desk.run(&["memory", "import", file.to_str().unwrap(), "--json"]);
    assert_eq!(
        told.json(),
        json!({"imported": 3_000 - kept, "skipped": kept, "conflicts": []}),
        "{}",
        told.stderr
    );
    let all = desk.run(&["memory", "export"]).stdout;
    assert_eq!(all.lines().skip(3).collect::<Vec<_>>(), lines.lines().collect::<Vec<_>>());
}

/// Peak resident memory of `tmws` with these arguments, in KiB.
fn peak(desk: &Desk, arguments: &[&str]) -> u64 {
    let mut child = desk.command(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let (mut peak, mut line) = (0, Vec::new());
    loop {
        if let Ok(text) = fs::read_to_string(&status) {
            let highest = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let highest = highest.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok());
            peak = peak.max(highest.unwrap_or(0));
        }
        line.clear();
        if out.read_until(b'\n', &mut line).unwrap() == 0 {
            break;
        }
    }
    assert!(child.wait().unwrap().success());
    peak
}

#[test]
fn the_size_of_a_file_costs_no_memory() {
    let desk = Desk { embedding_model: Some("none"), ..Desk::filled() };
    let mut peaks = Vec::new();
    for count in [1_500, 15_000] {
        let file = desk.path(&format!("{count}.jsonl"));
        fs::write(&file, exported(&desk, count, 160)).unwrap();
        let import = {
            let mut command = desk.command(&["memory", "import", file.to_str().unwrap()]);
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            usage(child)
        };
        let export = peak(&desk, &["memory", "export"]);
        peaks.push((import, export));
    }
    let [(import, export), (import_more, export_more)] = peaks[..] else { unreachable!() };
    // Ten times the lines, 40 MB more: what is read a page at a time grows with the caches of the database alone, 8 MiB for
    // each connection that is used.
    assert!(import_more < import + 20_000, "import: {import} KiB, then {import_more} KiB");
    assert!(export_more < export + 36_000, "export: {export} KiB, then {export_more} KiB");
    assert!(fs::metadata(desk.path("15000.jsonl")).unwrap().len() > 40_000_000);
}

/// Peak resident memory of a child that says nothing, in KiB, as far as it was seen while it ran.
fn usage(mut child: std::process::Child) -> u64 {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        if let Ok(text) = fs::read_to_string(&status) {
            let highest = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let highest = highest.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok());
            peak = peak.max(highest.unwrap_or(0));
        }
        std::thread::yield_now();
    }
    assert!(child.wait().unwrap().success());
    peak
}

#[test]
fn the_graph_of_another_server_is_taken_once() {
    let desk = Desk::new();
    let file = fixture("memories/server-memory.jsonl");
    let import = ["memory", "import", "--from", "server-memory", file.to_str().unwrap(), "--json"];
    assert_eq!(desk.run(&import).json(), json!({"imported": 9, "skipped": 0, "conflicts": []}));
    let first = desk.run(&["memory", "export"]).stdout;
    let memories: Vec<Value> = first.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let texts: Vec<String> = memories
        .iter()
        .map(|memory| {
            assert_eq!((&memory["kind"], &memory["trust"]), (&json!("fact"), &json!("external")));
            assert_eq!(memory["agent"], "server-memory");
            let tags: Vec<&str> =
                memory["tags"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            format!("{:?} {}", memory["content"].as_str().unwrap(), tags.join(","))
        })
        .collect();
    insta::assert_snapshot!(texts.join("\n"), @r#"
    "Ada Lindqvist owns the release process" ada lindqvist,person
    "Ada Lindqvist: Prefers reviews before noon" ada lindqvist,person
    "Ada Lindqvist: Speaks Swedish: \"lagom är bäst\"" ada lindqvist,person
    "billing-api: Retries failed webhooks five times, then parks them in the table `webhook_dead`" billing-api,service
    "billing-api: Deployed to Fly.io\nfrom the branch `stable`" billing-api,service
    "billing-api: Its on-call rota changes on Tuesdays" billing-api,service
    "Q3 audit (event)" event,q3 audit
    "Ada Lindqvist maintains billing-api" ada lindqvist,billing-api,relation
    "billing-api is_in_scope_of Q3 audit" billing-api,q3 audit,relation
    "#);

    // Again, and where one was forgotten and another replaced meanwhile.
    assert_eq!(desk.run(&import).json(), json!({"imported": 0, "skipped": 9, "conflicts": []}));
    let id = |at: usize| memories[at]["id"].as_str().unwrap().to_owned();
    assert_eq!(desk.run(&["memory", "forget", &id(1)]).code, 0);
    assert_eq!(desk.run(&["memory", "add", "Somebody else owns it", "--supersedes", &id(0)]).code, 0);
    let again = desk.run(&import);
    assert_eq!(again.json(), json!({"imported": 0, "skipped": 8, "conflicts": [id(1)]}));
    assert_eq!(desk.findings(), BTreeMap::new());

    // What was stored by hand before is not stored twice.
    let other = Desk::new();
    other.run(&["memory", "add", "Ada Lindqvist   owns the release process"]);
    assert_eq!(other.run(&import).json(), json!({"imported": 8, "skipped": 1, "conflicts": []}));
}

#[test]
fn a_broken_graph_is_named_line_by_line() {
    let desk = Desk::new();
    let graph =
        b"{\"type\":\"entity\",\"name\":\"Ada\",\"entityType\":\"person\",\"observations\":[\"x\"]}\n\
        {\"type\":\"opinion\"}\n\n{\"type\":\"relation\",\"from\":\"a\"}\n{";
    let told = desk.run_with(&["memory", "import", "--from", "server-memory", "-"], graph);
    assert_eq!(told.code, 2);
    for expected in [
        "line 2: unknown type `opinion`",
        "line 4: missing field `to`",
        "line 5: EOF",
        "nothing was imported",
    ] {
        assert!(told.stderr.contains(expected), "{expected} in {}", told.stderr);
    }
    assert_eq!(desk.run(&["memory", "search"]).stdout, "nothing found\n");
}

/// The stores as each released schema left them, by version.
fn released() -> Vec<(i64, PathBuf)> {
    let mut stores: Vec<(i64, PathBuf)> = fs::read_dir(fixture("stores"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?;
            Some((name.strip_prefix("schema-")?.strip_suffix(".db")?.parse().ok()?, path))
        })
        .collect();
    stores.sort();
    stores
}

#[test]
fn a_dry_run_tells_every_step_and_touches_nothing() {
    for (version, path) in released() {
        let desk = Desk::new();
        fs::create_dir(desk.path("store")).unwrap();
        fs::copy(&path, desk.store()).unwrap();
        fs::set_permissions(desk.store(), fs::Permissions::from_mode(0o400)).unwrap();
        fs::set_permissions(desk.path("store"), fs::Permissions::from_mode(0o500)).unwrap();
        let before = bytes_of(&desk.path("store"));
        let plan = desk.run(&["migrate", "--dry-run", "--json"]).json();
        assert_eq!(bytes_of(&desk.path("store")), before);
        fs::set_permissions(desk.path("store"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(desk.store(), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!((plan["found"].as_i64(), &plan["migrated"]), (Some(version), &json!(false)));
        let wanted = plan["wanted"].as_i64().unwrap();
        let steps: Vec<i64> =
            plan["steps"].as_array().unwrap().iter().map(|step| step["version"].as_i64().unwrap()).collect();
        assert_eq!(steps, (version + 1..=wanted).collect::<Vec<_>>());
        assert_eq!(plan["backup_advised"], version < wanted && plan["memories"].as_u64() > Some(0));

        // An old store is checked as it is, and as it becomes.
        assert_eq!(desk.findings(), BTreeMap::new());
        let done = desk.run(&["migrate"]);
        assert_eq!(done.code, 0, "{}", done.stderr);
        let again = desk.run(&["migrate", "--json"]).json();
        assert_eq!((&again["found"], &again["steps"]), (&plan["wanted"], &json!([])));
        assert_eq!(again["memories"], plan["memories"]);
        assert_eq!(desk.findings(), BTreeMap::new());
    }
}

#[test]
fn a_dry_run_sees_what_only_the_log_holds_and_touches_nothing() {
    let desk = Desk::filled();
    let (held, path) = (desk.path("held"), desk.store());
    fs::create_dir(&held).unwrap();
    // The store as a process that was killed leaves it: file and log, without the log's index.
    runtime().block_on(async {
        let mut connection = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
        sqlx::raw_sql(
            "PRAGMA wal_autocheckpoint = 0; DELETE FROM memory_tag; DELETE FROM memory WHERE seq = 1",
        )
        .execute(&mut connection)
        .await
        .unwrap();
        for suffix in ["", "-wal"] {
            let name = format!("tmws.db{suffix}");
            fs::copy(desk.path("store").join(&name), held.join(&name)).unwrap();
        }
        connection.close().await.unwrap();
    });
    let before = bytes_of(&held);
    assert_eq!(before.len(), 2);
    let url = format!("sqlite:{}", held.join("tmws.db").display());
    let plan = desk.run(&["migrate", "--dry-run", "--json", "--database-url", &url]).json();
    assert_eq!((&plan["memories"], &plan["steps"]), (&json!(2), &json!([])));
    assert_eq!(bytes_of(&held), before);
}

#[test]
fn a_newer_schema_is_refused_untouched() {
    let desk = Desk::filled();
    desk.sql("PRAGMA user_version = 99; PRAGMA journal_mode = DELETE");
    let before = bytes_of(&desk.path("store"));
    for arguments in [
        &["migrate"][..],
        &["migrate", "--dry-run"],
        &["memory", "search"],
        &["memory", "backup", "copy.db"],
        &["memory", "import", "--from", "server-memory", "-"],
    ] {
        let told = desk.run_with(
            arguments,
            b"{\"type\":\"relation\",\"from\":\"a\",\"to\":\"b\",\"relationType\":\"c\"}",
        );
        assert_eq!(told.code, 69, "{arguments:?}: {}", told.stderr);
        assert!(told.stderr.contains("schema version 99"), "{}", told.stderr);
        assert_eq!(bytes_of(&desk.path("store")), before, "{arguments:?}");
    }
    assert!(desk.findings().contains_key("newer_schema"));
    assert_eq!(bytes_of(&desk.path("store")), before);
}

#[test]
fn there_is_nothing_to_migrate_where_nothing_was_stored() {
    let desk = Desk::new();
    for arguments in [&["migrate", "--dry-run"][..], &["migrate"]] {
        let told = desk.run(arguments);
        assert_eq!(told.code, 0, "{}", told.stderr);
        assert!(told.stdout.contains("no store yet"), "{}", told.stdout);
    }
    assert!(!desk.store().exists());
}
