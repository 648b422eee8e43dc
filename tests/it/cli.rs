//! The command line as people and scripts use it: the real binary, its output, its exit codes, its manners.

use std::{
    fs,
    io::Write as _,
    ops::Deref,
    process::{Command, Output, Stdio},
};

use serde_json::{Value, json};

use crate::support::scratch::Scratch;

/// A home, a workspace and a store of their own.
struct Desk(Scratch);

impl Deref for Desk {
    type Target = Scratch;

    fn deref(&self) -> &Scratch {
        &self.0
    }
}

struct Told {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Told {
    fn json(&self) -> Value {
        assert_eq!(self.stdout.lines().count(), 1, "one line for machines: {}", self.stdout);
        serde_json::from_str(&self.stdout).unwrap()
    }
}

impl Desk {
    fn new() -> Self {
        Self(Scratch::new())
    }

    fn run(&self, arguments: &[&str]) -> Told {
        told(self.command(arguments).output().unwrap())
    }

    fn run_with(&self, arguments: &[&str], stdin: &str) -> Told {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
        told(child.wait_with_output().unwrap())
    }

    fn add(&self, content: &str) -> String {
        let told = self.run(&["memory", "add", content, "--json"]);
        assert_eq!(told.code, 0, "{}", told.stderr);
        told.json()["id"].as_str().unwrap().to_owned()
    }
}

fn told(output: Output) -> Told {
    Told {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

#[test]
fn what_is_wrong_is_told_on_stderr_with_a_hint_and_a_code() {
    let desk = Desk::new();
    fs::write(desk.path("broken.toml"), "agent = \"a\"\npaylod = \"text\"\n").unwrap();
    let broken = desk.path("broken.toml");
    let broken = broken.to_str().unwrap();
    let misspelt = format!(
        "tmws: failed to read the configuration: {broken}:2: unknown key `paylod`; did you mean `payload`?"
    );
    for (arguments, code, expected) in [
        (vec!["rnu"], 2, "tmws: failed to read the command line: unrecognized subcommand 'rnu'"),
        (
            vec!["run"],
            2,
            "tmws: failed to read the command line: the following required arguments were not provided: <TARGET>",
        ),
        (
            vec!["run", "x", "--mode", "slow"],
            2,
            "tmws: failed to read the command line: invalid value 'slow' for '--mode <MODE>'",
        ),
        (vec!["run", "test.none"], 2, "tmws: failed to run test.none: there is no pattern \"test.none\""),
        (
            vec!["run", "memory.recall", "--set", "query"],
            2,
            "tmws: failed to read the command line: `--set` takes KEY=VALUE",
        ),
        (
            vec!["run", "memory.recall", "--input", "[1]"],
            2,
            "tmws: failed to read the inputs: not a JSON object",
        ),
        (vec!["--config", broken, "memory", "search"], 78, &misspelt),
        (
            vec!["--setting", "limits.call_deadline=10", "stdio"],
            78,
            "tmws: failed to read the configuration: --setting limits.call_deadline: `10` is no duration",
        ),
        (
            vec!["--setting", "nothing", "memory", "search"],
            2,
            "tmws: failed to read the command line: `--setting` takes KEY=VALUE",
        ),
        (
            vec!["record"],
            2,
            "tmws: failed to read the command line: the following required arguments were not provided: <CMD>...\n\
             hint: usage: tmws record [OPTIONS] -- <CMD>..., or tmws record [OPTIONS] --listen <ADDRESS:PORT> --to <URL>\n",
        ),
        (
            vec!["record", "--to", "http://127.0.0.1:1"],
            2,
            "tmws: failed to read the command line: the following required arguments were not provided: --listen <ADDRESS:PORT>\n",
        ),
        (vec!["schema", "show", "nothing"], 2, "tmws: failed to show a schema: there is no schema `nothing`"),
        (
            vec!["memory", "import", "/nowhere.jsonl"],
            1,
            "tmws: failed to import /nowhere.jsonl: No such file or directory",
        ),
        (
            vec!["memory", "export", "/nowhere/x.jsonl"],
            1,
            "tmws: failed to export to /nowhere/x.jsonl: No such file or directory",
        ),
        (
            vec!["--database-url", "sqlite:/dev/null/x.db", "memory", "search"],
            69,
            "tmws: failed to search memories: ",
        ),
    ] {
        let told = desk.run(&arguments);
        assert_eq!(told.code, code, "{arguments:?}: {}", told.stderr);
        assert!(told.stderr.starts_with(expected), "{arguments:?}: {}", told.stderr);
        assert_eq!(told.stdout, "", "{arguments:?}");
    }
}

#[test]
fn help_fits_a_screen_and_explains_on_demand() {
    let desk = Desk::new();
    let short = desk.run(&["-h"]);
    assert_eq!((short.code, short.stderr.as_str()), (0, ""));
    assert!(short.stdout.lines().count() <= 25, "{}", short.stdout);
    assert!(short.stdout.lines().all(|line| line.chars().count() <= 100), "{}", short.stdout);
    let long = desk.run(&["--help"]);
    assert!(long.stdout.contains("Exit codes") && long.stdout.contains("TMWS_ROOT"), "{}", long.stdout);
    let record = desk.run(&["record", "--help"]).stdout;
    assert!(record.contains("takes the server's place") && record.contains("Examples:"), "{record}");
    for command in ["stdio", "run", "pattern", "memory", "schema", "doctor", "replay"] {
        let told = desk.run(&[command, "-h"]);
        assert_eq!(told.code, 0, "{command}");
        assert!(told.stdout.lines().count() <= 24, "{}", told.stdout);
    }
}

#[test]
fn the_documented_exit_codes_are_those_of_the_table() {
    let long = Desk::new().run(&["--help"]).stdout.replace('\n', " ");
    for exit in tmws::exit::Exit::ALL {
        assert!(long.contains(&format!("{} ", exit.code())), "{exit}");
    }
}

#[test]
fn the_version_is_told_to_people_and_machines() {
    let desk = Desk::new();
    let expected = concat!("tmws ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(desk.run(&["--version"]).stdout, expected);
    assert_eq!(desk.run(&["-V"]).stdout, expected);
    let version = desk.run(&["--version", "--json"]).json();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(version["revisions"].as_array().unwrap().len(), 5);
}

#[test]
fn memories_are_added_found_replaced_and_forgotten() {
    let desk = Desk::new();
    let added =
        desk.run(&["memory", "add", "Releases are cut on Fridays", "--tag", "release", "-t", "Process"]);
    assert_eq!((added.code, added.stderr.as_str()), (0, ""));
    let id = added.stdout.split_whitespace().next().unwrap().to_owned();
    let again = desk.run(&["memory", "add", "Releases are cut on Fridays", "--json"]).json();
    assert_eq!((&again["id"], &again["duplicate"]), (&json!(id), &json!(true)));

    let found = desk.run(&["memory", "search", "when", "are", "releases"]);
    let day = found.stdout.split_whitespace().nth(1).unwrap();
    assert_eq!(found.stdout, format!("{id}  {day}  note  process,release  Releases are cut on Fridays\n"));
    let found = desk.run(&["memory", "search", "--tag", "release", "--json"]).json();
    assert_eq!((&found["total"], &found["hits"][0]["trust"]), (&json!(1), &json!("user")));
    assert_eq!(desk.run(&["memory", "search", "nonsense"]).stdout, "nothing found\n");

    let newer =
        desk.run(&["memory", "add", "Releases are cut on Mondays", "--supersedes", &id, "--json"]).json();
    let found = desk.run(&["memory", "search", "releases", "--json"]).json();
    assert_eq!((&found["total"], &found["hits"][0]["id"]), (&json!(1), &newer["id"]));

    // An id may be given by its end, as answers show it.
    let short = |id: &str| id[id.len() - 6..].to_owned();
    let newest = desk
        .run(&[
            "memory",
            "add",
            "Releases are cut on Tuesdays",
            "--supersedes",
            &short(newer["id"].as_str().unwrap()),
            "--json",
        ])
        .json();
    let found = desk.run(&["memory", "search", "releases", "--json"]).json();
    assert_eq!((&found["total"], &found["hits"][0]["id"]), (&json!(1), &newest["id"]));
    let newest = newest["id"].as_str().unwrap();
    assert_eq!(desk.run(&["memory", "forget", &short(newest)]).stdout, format!("{newest}  forgotten\n"));
    let gone = desk.run(&["memory", "forget", &id, "m_none"]);
    assert_eq!(
        (gone.code, gone.stdout),
        (1, format!("{id}  forgotten\nm_none    unknown\n").replace("m_none    ", "m_none  "))
    );
}

#[test]
fn the_end_of_more_than_one_id_names_none() {
    let desk = Desk::new();
    let ids = [desk.add("One."), desk.add("Two.")];
    let mut lines = desk.run(&["memory", "export"]).stdout;
    let twins = ids.clone().map(|id| format!("{}ZZZZZZ", &id[..id.len() - 6]));
    for (id, twin) in ids.iter().zip(&twins) {
        lines = lines.replace(id, twin);
    }
    assert_eq!(desk.run(&["memory", "forget", &ids[0], &ids[1]]).code, 0);
    let came = desk.run_with(&["memory", "import", "-"], &lines);
    assert_eq!(came.code, 0, "{}", came.stderr);
    let asked = desk.run(&["memory", "forget", "ZZZZZZ"]);
    assert_eq!(asked.code, 2, "{}", asked.stderr);
    let initialize = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;
    let read = r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"memory://ZZZZZZ"}}"#;
    let ready = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let served = desk.run_with(&["stdio"], &format!("{initialize}\n{ready}\n{read}\n")).stdout;
    let answer: Value = serde_json::from_str(served.lines().last().unwrap()).unwrap();
    assert_eq!(answer["error"]["code"], -32602, "{answer}");
    for told in [&asked.stderr, answer["error"]["message"].as_str().unwrap()] {
        assert!(told.contains("more than one") && twins.iter().all(|twin| told.contains(twin)), "{told}");
    }
    assert_eq!(desk.run(&["memory", "search", "--json"]).json()["total"], 2);
}

#[test]
fn content_may_come_from_stdin() {
    let desk = Desk::new();
    assert_eq!(desk.run_with(&["memory", "add", "-"], "Two\nlines\n").code, 0);
    let found = desk.run(&["memory", "search", "lines", "--json"]).json();
    assert_eq!(found["hits"][0]["content"], "Two\nlines");
}

#[test]
fn what_is_exported_is_imported_elsewhere_unchanged() {
    let (desk, other) = (Desk::new(), Desk::new());
    for content in ["One.", "Two.", "Three."] {
        desk.add(content);
    }
    let lines = desk.run(&["memory", "export"]).stdout;
    assert_eq!(lines.lines().count(), 3);
    let file = desk.path("memories.jsonl");
    let told = desk.run(&["memory", "export", file.to_str().unwrap()]);
    assert_eq!((told.code, told.stdout), (0, format!("3 memories in {}\n", file.display())));
    assert_eq!(fs::read_to_string(&file).unwrap(), lines);
    assert_eq!(
        fs::read_dir(desk.path(""))
            .unwrap()
            .filter(|entry| { entry.as_ref().unwrap().file_name().to_string_lossy().ends_with(".part") })
            .count(),
        0
    );

    // Into the same project again: nothing new. Another workspace is another project.
    let again = desk.run(&["memory", "import", file.to_str().unwrap(), "--json"]).json();
    assert_eq!(again, json!({"imported": 0, "skipped": 3, "conflicts": []}));
    let refused = other.run_with(&["memory", "import", "-"], &lines);
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("belongs to another project") && refused.stderr.contains("--adopt"),
        "{}",
        refused.stderr
    );
    assert_eq!(other.run(&["memory", "search"]).stdout, "nothing found\n");
    let adopted = other.run_with(&["memory", "import", "-", "--adopt", "--json"], &lines);
    assert_eq!(adopted.json()["imported"], 3, "{}", adopted.stderr);
    assert_eq!(other.run(&["memory", "search", "two", "--json"]).json()["hits"][0]["content"], "Two.");
}

#[test]
fn a_broken_import_names_its_line_and_imports_nothing() {
    let desk = Desk::new();
    desk.add("One.");
    let line = desk.run(&["memory", "export"]).stdout;
    desk.run(&["memory", "forget", &desk.add("One.")]);
    let told = desk.run_with(&["memory", "import", "-"], &format!("{line}\n{{\"id\": 3}}\n"));
    assert_eq!((told.code, told.stdout.as_str()), (2, ""));
    assert!(told.stderr.starts_with("tmws: failed to import stdin: line 3: "), "{}", told.stderr);
    assert_eq!(desk.run(&["memory", "search"]).stdout, "nothing found\n");
}

#[test]
fn a_reader_that_leaves_early_is_no_failure() {
    let desk = Desk::new();
    let mut child = desk
        .command(&["schema", "show", "2026-07-28/tools"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stderr.as_slice()), (Some(0), b"".as_slice()));
}

#[test]
fn data_cannot_move_the_terminal() {
    let desk = Desk::new();
    desk.add("red \u{1b}[31malert\u{7} \u{202e}backwards");
    let found = desk.run(&["memory", "search", "alert"]).stdout;
    assert!(!found.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{found:?}");
}

#[test]
fn every_schema_listed_is_shown() {
    let desk = Desk::new();
    let names = desk.run(&["schema", "list", "--json"]).json();
    let names: Vec<&str> = names.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(desk.run(&["schema", "list"]).stdout.lines().collect::<Vec<_>>(), names);
    for name in ["config/v1", "tool/remember/v1.input", "mcp/2025-06-18/tools"] {
        assert!(names.contains(&name), "{name}");
        let shown = desk.run(&["schema", "show", name]);
        assert_eq!(shown.code, 0, "{name}");
        serde_json::from_str::<Value>(&shown.stdout).unwrap();
    }
    // Words that only one name holds are enough.
    assert_eq!(
        desk.run(&["schema", "show", "2025-06-18", "tools", "--json"]).json()["$id"],
        "tmws:/mcp/2025-06-18/tools.json"
    );
    assert!(desk.run(&["schema", "show", "tools"]).stderr.contains("fits 5 schemas"));
}

#[test]
fn doctor_tells_each_setting_with_its_origin_and_changes_nothing() {
    let desk = Desk::new();
    fs::create_dir_all(desk.path("home/.config/tmws")).unwrap();
    let databases = "[sources.app]\nurl = \"postgres://reader:hunter2@127.0.0.1:1/app\"\n\
                     [sources.notes]\nurl = \"sqlite:/srv/notes.db\"\nprojects = [\"web\"]\n";
    let file = format!("[limits]\npage_items = 7\n{databases}");
    fs::write(desk.path("home/.config/tmws/tmws.toml"), file).unwrap();
    let told = told(
        desk.command(&["doctor", "--json", "--no-probe", "--agent", "reviewer"])
            .env("TMWS_LIMITS_CALL_DEADLINE", "10s")
            .env("TMWS_AGNET", "x")
            .output()
            .unwrap(),
    );
    assert_eq!(told.code, 0, "{}{}", told.stdout, told.stderr);
    let report = told.json();
    let setting = |key: &str| {
        let found = report["settings"].as_array().unwrap().iter().find(|row| row["key"] == key).unwrap();
        (found["value"].clone(), found["origin"].as_str().unwrap().to_owned())
    };
    assert_eq!(setting("agent"), (json!("reviewer"), "--agent".to_owned()));
    assert_eq!(setting("limits.call_deadline"), (json!("10s"), "TMWS_LIMITS_CALL_DEADLINE".to_owned()));
    assert!(setting("limits.page_items").1.ends_with("tmws.toml:2"), "{}", setting("limits.page_items").1);
    assert_eq!(setting("limits.frame_in"), (json!("4MiB"), "default".to_owned()));
    let check = |subject: &str| {
        let found =
            report["checks"].as_array().unwrap().iter().find(|row| row["subject"] == subject).unwrap();
        (found["verdict"].as_str().unwrap().to_owned(), found["detail"].as_str().unwrap().to_owned())
    };
    assert_eq!(check("configuration").0, "warn");
    assert_eq!(
        check("databases").1,
        "app (postgres) for every project here, none of `serve` (`projects` would name some); notes (sqlite) for web"
    );
    assert!(!told.stdout.contains("hunter2"), "{}", told.stdout);
    assert!(check("store").1.ends_with("will be made at its first use"), "{}", check("store").1);
    assert!(!desk.path("home/.local").exists(), "doctor made something");
    desk.add("One.");
    assert!(
        desk.run(&["doctor", "--no-probe"]).stdout.contains("memories of this project: 1, superseded: 0")
    );
}

#[test]
fn doctor_fails_where_something_does_not_work() {
    let desk = Desk::new();
    let file = desk.path("not-a-store.db");
    fs::write(&file, "no database, but long enough to look at: ".repeat(40)).unwrap();
    let url = format!("sqlite:{}", file.display());
    let told = desk.run(&["doctor", "--no-probe", "--database-url", &url]);
    assert_eq!(told.code, 1);
    assert!(
        told.stdout.lines().any(|line| line.starts_with("fail") && line.contains("left untouched")),
        "{}",
        told.stdout
    );
    let told = desk.run(&["doctor", "--no-probe", "--setting", "limits.frame_in=4"]);
    assert_eq!(told.code, 1);
    assert!(told.stdout.contains("fail  configuration"), "{}", told.stdout);
}

/// A pattern without store or workspace, called `name`.
fn pattern(name: &str, said: &str) -> String {
    format!(
        "\
apiVersion: tmws/v1
kind: Pattern
name: {name}
version: 1.2.3
type: infrastructure
description: Says something. For tests only.
triggers:
  phrases: [say something nice]
  examples:
    match: [please say something nice, say something nice, 'now say something nice']
    no_match: [be quiet, say it, something nicer]
  priority: 10
  auto: read-only
inputs:
  type: object
  additionalProperties: false
  properties:
    word: {{type: string, default: hello, description: What to say}}
    times: {{type: integer, minimum: 1, maximum: 9, description: How often}}
    also: {{type: array, items: {{type: string}}, description: What else}}
limits: {{timeout: 5s, max_steps: 2, max_bytes: 1MiB}}
steps:
  - {{id: said, uses: data.template, with: {{template: '{{{{word}}}}!', values: {{word: '${{ .inputs.word }}'}}}}}}
output:
  schema: {{type: object, required: [said], properties: {{said: {{type: string}}, times: {{}}, also: {{}}}}}}
  value: '${{ {{said: .steps.said, times: .inputs.times, also: .inputs.also}} }}'
  budget: {{tokens: 120, overflow: handle}}
annotations: {{readOnlyHint: true}}
tests:
  - {{name: it speaks, inputs: {{word: world}}, expect: {{jq: '.said == \"{said}\"', max_tokens: 120}}}}
"
    )
}

impl Desk {
    fn with_pattern(self, folder: &str, name: &str, said: &str) -> Self {
        let folder = self.path(folder);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{name}.yaml")), pattern(name, said)).unwrap();
        self
    }

    fn with_user_pattern(self) -> Self {
        self.with_pattern("home/.config/tmws/patterns", "test.say", "world!")
    }
}

#[test]
fn a_pattern_runs_by_name_with_inputs_of_every_kind() {
    let desk = Desk::new().with_user_pattern();
    for (arguments, said, times, also) in [
        (vec![], "hello!", Value::Null, Value::Null),
        (vec!["--set", "word=14", "--set", "times=3"], "14!", json!(3), Value::Null),
        (vec!["--set", "also=a, b"], "hello!", Value::Null, json!(["a", "b"])),
        (vec!["--input", r#"{"word": "a", "times": 1}"#, "--set", "times=2"], "a!", json!(2), Value::Null),
    ] {
        let told = desk.run(&[vec!["run", "test.say", "--json"], arguments.clone()].concat());
        assert_eq!(told.code, 0, "{}", told.stderr);
        let answer = told.json();
        assert_eq!(answer["outcome"], "output");
        let output = &answer["output"];
        assert_eq!(
            (&output["said"], &output["times"], &output["also"]),
            (&json!(said), &times, &also),
            "{arguments:?}"
        );
        assert_eq!(answer["receipt"]["pattern"], "test.say@1.2.3");
    }
    let stdin = desk.run_with(&["run", "test.say@1", "--input", "-", "--json"], r#"{"word": "stdin"}"#);
    assert_eq!(stdin.json()["output"]["said"], "stdin!");
}

#[test]
fn a_question_runs_what_fits_alone_and_offers_the_rest() {
    let desk = Desk::new().with_user_pattern();
    let told = desk.run(&["run", "please say something nice"]);
    assert_eq!((told.code, told.stderr.as_str()), (0, ""));
    let answer: Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(answer["said"], "hello!");
    let told = desk.run(&["run", "what is remembered about a subject of interest", "--json"]);
    assert_eq!(told.code, 1, "{}", told.stdout);
    assert_eq!(told.json()["outcome"], "candidates");
    // Words that say nothing are offered what helps most people.
    let told = desk.run(&["run", "--query", "?!"]);
    assert_eq!((told.code, told.stdout.lines().count()), (1, 4), "{}", told.stdout);
    assert!(
        told.stdout.starts_with("no pattern fits this question alone; the nearest are:\n"),
        "{}",
        told.stdout
    );
}

#[test]
fn a_question_is_explained_to_people_and_machines() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("workspace/src")).unwrap();
    let runs = desk.run(&["pattern", "explain", "what changed in src since 3d?"]);
    assert_eq!((runs.code, runs.stderr.as_str()), (0, ""));
    let asks = desk.run(&["pattern", "explain", "don't tell me what changed in the last week"]);
    let fast = desk.run(&["pattern", "explain", "--mode", "fast", "what did we decide about ports?"]);
    let told = desk.run(&["pattern", "explain", "remember that we list todos", "--json"]).json();
    assert_eq!(told["verdict"]["runs"], Value::Null);
    assert_eq!(told["verdict"]["why"], "effectful");
    let names = |of: &str| -> Vec<String> {
        let each = told[of].as_array().unwrap().iter();
        each.map(|one| one.get("pattern").or_else(|| one.get("name")).unwrap().as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("matches"), ["todo.sweep", "todo.sweep", "memory.remember"]);
    assert_eq!(told["matches"][2]["barred"], "it writes or runs programs");
    assert_eq!(told["matches"][2]["matched"], "remember that");
    assert_eq!(names("candidates")[0], "todo.sweep");
    assert!(!names("candidates").iter().any(|name| name == "memory.remember"), "{told}");
    assert!(told["candidates"][0]["embedding"].is_number(), "{told}");
    // Scores move with every pattern that is added; what decides does not.
    let decided = |told: &Told| -> String {
        told.stdout
            .lines()
            .filter(|line| !line.starts_with("beyond") && !line.starts_with("candidate"))
            .collect::<Vec<_>>()
            .join("\n")
    };
    insta::assert_snapshot!(
        "explained",
        format!("{}\n\n{}\n\n{}", decided(&runs), decided(&asks), decided(&fast))
    );
}

#[test]
fn what_did_not_change_is_said_to_be_unchanged() {
    let desk = Desk::new().with_user_pattern();
    let first = desk.run(&["run", "test.say", "--json"]).json();
    let etag = first["output"]["etag"].as_str().unwrap();
    assert_eq!(desk.run(&["run", "test.say", "--unless", etag]).stdout, "unchanged\n");
    assert_eq!(desk.run(&["run", "test.say", "--unless", "other", "--json"]).json()["outcome"], "output");
}

#[test]
fn a_failed_run_is_told_to_people_and_machines() {
    let desk = Desk::new().with_user_pattern();
    let told = desk.run(&["run", "test.say", "--set", "times=10", "--json"]);
    assert_eq!(told.code, 2);
    assert_eq!((&told.json()["error"], &told.json()["part"]), (&json!("invalid_input"), &json!("times")));
    assert!(
        told.stderr.starts_with("tmws: failed to run test.say: input `times`: 10 is greater"),
        "{}",
        told.stderr
    );
    let told =
        desk.run(&["run", "memory.recall", "--set", "query=x", "--database-url", "sqlite:/dev/null/x"]);
    assert_eq!(told.code, 69, "{}", told.stderr);
}

#[test]
fn effectful_patterns_run_by_hand() {
    let desk = Desk::new();
    let told =
        desk.run(&["run", "memory.remember", "--set", "content=By hand.", "--set", "tags=a,b", "--json"]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    assert_eq!(desk.run(&["memory", "search", "--tag", "b", "--json"]).json()["total"], 1);
}

#[test]
fn patterns_are_listed_shown_and_tested() {
    let desk = Desk::new().with_user_pattern();
    let listed = desk.run(&["pattern", "list", "--json"]).json();
    let find = |name: &str| {
        listed["patterns"].as_array().unwrap().iter().find(|row| row["name"] == name).cloned().unwrap()
    };
    assert_eq!((&find("test.say")["origin"], &find("test.say")["effect"]), (&json!("user"), &json!("reads")));
    assert_eq!(
        (&find("memory.remember")["origin"], &find("memory.remember")["effect"]),
        (&json!("built-in"), &json!("writes"))
    );
    assert_eq!(desk.run(&["pattern", "show", "test.say"]).stdout, pattern("test.say", "world!"));
    let tested = desk.run(&["pattern", "test", "test.say"]);
    assert_eq!(tested.code, 0, "{}", tested.stdout);
    assert!(tested.stdout.ends_with("tests: 1, failures: 0\n"), "{}", tested.stdout);

    let desk = desk.with_pattern("drafts", "test.wrong", "nobody!");
    let file = desk.path("drafts/test.wrong.yaml");
    let tested = desk.run(&["pattern", "test", file.to_str().unwrap(), "--json"]);
    assert_eq!((tested.code, &tested.json()["failures"]), (1, &json!(1)));
}

#[test]
fn a_pattern_file_is_checked_with_file_line_and_column() {
    let desk = Desk::new().with_user_pattern();
    let clean = desk.run(&["pattern", "lint"]);
    assert_eq!((clean.code, clean.stdout.as_str()), (0, "files: 1, errors: 0, warnings: 0\n"));
    let file = desk.path("home/.config/tmws/patterns/test.say.yaml");
    fs::write(&file, pattern("test.say", "x").replace("version: 1.2.3", "version: 1.2.3\nverison: 2.0.0"))
        .unwrap();
    let told = desk.run(&["pattern", "lint"]);
    assert_eq!(told.code, 1);
    assert!(told.stdout.starts_with(&format!("error: {}:5:1: ", file.display())), "{}", told.stdout);
    let listed = desk.run(&["pattern", "list"]);
    assert!(
        listed.stderr.contains("not loaded: ") && !listed.stdout.contains("test.say"),
        "{}",
        listed.stderr
    );
    assert_eq!(desk.run(&["pattern", "lint", "/nowhere.yaml"]).code, 1);
    fs::write(
        &file,
        pattern("test.say", "x").replace("name: it speaks", "name: it speaks, fixture: nowhere"),
    )
    .unwrap();
    let warned = desk.run(&["pattern", "lint"]);
    assert!(warned.stdout.contains("`nowhere` is not there"), "{}", warned.stdout);
}

#[test]
fn a_repositorys_patterns_run_only_as_they_were_trusted() {
    let desk = Desk::new().with_pattern("workspace/.tmws/patterns", "test.team", "world!");
    let run = || desk.run(&["run", "test.team", "--json"]);
    let refused = run();
    assert_eq!(refused.code, 2, "runs without trust");
    for told in [
        &refused,
        &desk.run(&["pattern", "show", "test.team@1"]),
        &desk.run(&["pattern", "test", "test.team"]),
    ] {
        assert!(told.stderr.contains("`tmws pattern trust test.team`"), "{}", told.stderr);
    }
    assert!(desk.run(&["run", "test.tea"]).stderr.contains("`tmws pattern list` prints all names"));
    let shown = desk.run(&["pattern", "trust"]);
    assert_eq!(shown.stdout, "test.team  not trusted  touches nothing outside the call\n");
    assert_eq!(desk.run(&["pattern", "trust", "test.tea"]).code, 2);
    assert_eq!(
        desk.run(&["pattern", "trust", "test.team"]).stdout,
        "test.team  trusted  touches nothing outside the call\n"
    );
    assert_eq!(run().json()["output"]["said"], "hello!");
    // Another content is another pattern.
    let desk = desk.with_pattern("workspace/.tmws/patterns", "test.team", "changed!");
    assert_eq!(desk.run(&["run", "test.team"]).code, 2);
    assert!(desk.run(&["pattern", "list"]).stderr.contains("changed since it was trusted"));
    assert!(!desk.path("workspace/.tmws/trust.json").exists());
    // What cannot be read is not trusted, and not called absent.
    fs::write(desk.path("workspace/.tmws/patterns/test.team.yaml"), "name: test.team\n").unwrap();
    let refused = desk.run(&["pattern", "trust", "test.team"]);
    assert_eq!(refused.code, 1, "{}", refused.stdout);
    assert!(
        refused.stderr.contains("test.team.yaml cannot be loaded, so that nobody can tell"),
        "{}",
        refused.stderr
    );
}

#[test]
fn a_folder_within_a_repository_belongs_to_its_project() {
    let desk = Desk::new();
    let git = Command::new("git")
        .args(["init", "-q"])
        .arg(desk.path("workspace"))
        .env("HOME", desk.path("home"))
        .status();
    assert!(git.unwrap().success());
    fs::create_dir_all(desk.path("workspace/src/deep")).unwrap();
    let project = |folder: &str, root: Option<&str>| {
        let mut command = desk.command(&["doctor", "--no-probe", "--json"]);
        command.current_dir(desk.path(folder));
        if let Some(root) = root {
            command.env("TMWS_ROOT", desk.path(root));
        }
        let report = told(command.output().unwrap()).json();
        let found = report["checks"]
            .as_array()
            .unwrap()
            .iter()
            .find(|row| row["subject"] == "workspace")
            .cloned()
            .unwrap();
        (found["data"]["project"].clone(), found["data"]["root"].as_str().map(str::to_owned))
    };
    let top = desk.path("workspace").canonicalize().unwrap();
    let whole = project("workspace", None);
    assert_eq!(whole.1.as_deref(), top.to_str());
    // From within, the working directory stands for the whole; a root that was named stays what it is.
    assert_eq!(project("workspace/src/deep", None), whole);
    let named = project("workspace", Some("workspace/src"));
    assert_eq!((named.0, named.1.as_deref()), (whole.0, top.join("src").to_str()));
    fs::create_dir_all(desk.path("home")).unwrap();
    assert_eq!(project("home", None), (json!("personal"), None));
}

#[test]
fn doctor_probes_a_server_like_this_one() {
    let desk = Desk::new();
    let report = desk.run(&["doctor", "--json"]);
    assert_eq!(report.code, 0, "{}", report.stdout);
    let report = report.json();
    let probed = report["checks"].as_array().unwrap().iter().find(|row| row["subject"] == "stdio").unwrap();
    assert_eq!((&probed["verdict"], &probed["data"]["tools"]), (&json!("ok"), &json!(4)), "{probed}");
    assert!(probed["data"]["cold_start_ms"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_pattern_file_that_cannot_be_read_keeps_no_other_from_it() {
    let desk = Desk::new();
    let folder = desk.path("patterns");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("good.yaml"), include_str!("../../src/pattern/builtin/session.open.yaml")).unwrap();
    fs::write(folder.join("bad.yaml"), b"name: \xff\xfe").unwrap();
    let folder = folder.to_str().unwrap();

    let told = desk.run(&["pattern", "list", "--patterns", folder]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    assert_eq!(told.stderr, format!("not loaded: {folder}/bad.yaml: is no UTF-8 text; save it as UTF-8\n"));
    let told = desk.run(&["pattern", "show", "session.open", "--json", "--patterns", folder]);
    assert_eq!(told.json()["origin"], "user", "{}", told.stderr);

    let told = desk.run(&["pattern", "lint", folder]);
    assert_eq!(told.code, 1);
    assert!(told.stdout.contains("bad.yaml: is no UTF-8 text"), "{}", told.stdout);
    assert!(told.stdout.contains("files: 1, errors: 1"), "{}", told.stdout);
}

#[test]
fn a_folder_that_is_no_workspace_is_told_once_with_what_to_do() {
    let desk = Desk::new();
    let told = desk.run(&["run", "todo.sweep", "--root", "/"]);
    assert_eq!(told.code, 1);
    assert_eq!(told.stderr.matches("set TMWS_ROOT").count(), 1, "{}", told.stderr);
}

#[test]
fn a_new_pattern_is_clean_tested_and_never_takes_anothers_place() {
    let desk = Desk::new();
    for kind in ["infrastructure", "memory", "hybrid"] {
        let name = format!("my.{kind}");
        let told = desk.run(&["pattern", "new", &name, "--type", kind]);
        assert_eq!(told.code, 0, "{}", told.stderr);
        let file = desk.path(&format!("home/.config/tmws/patterns/{name}.yaml"));
        let text = fs::read_to_string(&file).unwrap();
        let first = text.lines().next().unwrap();
        let schema = first.strip_prefix("# yaml-language-server: $schema=./").unwrap();
        assert!(file.with_file_name(schema).is_file(), "{first}");
        let tested = desk.run(&["pattern", "test", &name]);
        assert_eq!((tested.code, tested.stdout.ends_with("failures: 0\n")), (0, true), "{}", tested.stdout);
        let again = desk.run(&["pattern", "new", &name]);
        assert_eq!(again.code, 1, "{}", again.stderr);
        assert!(again.stderr.contains("is there already, and nothing is overwritten"), "{}", again.stderr);
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
    let clean = desk.run(&["pattern", "lint"]);
    assert_eq!((clean.code, clean.stdout.as_str()), (0, "files: 3, errors: 0, warnings: 0\n"));
    for wrong in ["My.own", "../own", "a b", ""] {
        assert_eq!(desk.run(&["pattern", "new", wrong]).code, 2, "{wrong}");
    }
    let made = desk.run(&["pattern", "new", "team.files", "--project", "--json"]).json();
    assert_eq!((&made["needs_trust"], &made["shadows_built_in"]), (&json!(true), &json!(false)));
    assert!(desk.path("workspace/.tmws/patterns/team.files.yaml").is_file());
    assert_eq!(desk.run(&["pattern", "test", "team.files"]).code, 2, "runs without trust");
    assert_eq!(desk.run(&["pattern", "trust", "team.files"]).code, 0);
    assert_eq!(desk.run(&["pattern", "test", "team.files"]).code, 0);
}

#[test]
fn a_name_whose_file_is_broken_is_told_with_the_file() {
    let desk = Desk::new().with_pattern("home/.config/tmws/patterns", "test.say", "world!");
    let file = desk.path("home/.config/tmws/patterns/test.say.yaml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("kind: Pattern", "kind: Patern")).unwrap();
    let told = desk.run(&["run", "test.say"]);
    assert_eq!(told.code, 2, "{}", told.stderr);
    assert!(told.stderr.contains("test.say.yaml has this name and cannot be loaded"), "{}", told.stderr);
    assert!(told.stderr.contains("tmws pattern lint "), "{}", told.stderr);
}

#[test]
fn a_new_pattern_of_a_built_ins_name_says_from_when_it_goes_before_it() {
    let desk = Desk::new();
    let told = desk.run(&["pattern", "new", "repo.digest", "--project"]);
    assert!(told.stdout.contains("is not used once this file is trusted;"), "{}", told.stdout);
    let told = Desk::new().run(&["pattern", "new", "repo.digest"]);
    assert!(told.stdout.contains("is not used from now on;"), "{}", told.stdout);
}

#[test]
fn doctor_tells_what_promoted_patterns_cost_and_which_are_missing() {
    let desk = Desk::new().with_user_pattern();
    let promoted = |names: &str| {
        let report =
            desk.run(&["doctor", "--no-probe", "--json", "--setting", &format!("promote={names}")]).json();
        report["checks"].as_array().unwrap().iter().find(|row| row["subject"] == "promoted").cloned().unwrap()
    };
    let good = promoted("test.say,repo.digest");
    assert_eq!(good["verdict"], "ok", "{good}");
    let tokens = good["data"]["tokens"].as_u64().unwrap();
    assert!((50..400).contains(&tokens), "{good}");
    assert!(good["data"]["tools"]["repo_digest"].as_u64().is_some_and(|tokens| tokens > 20), "{good}");
    let missing = promoted("test.say,no.such");
    assert_eq!(missing["verdict"], "warn", "{missing}");
    let told = desk.run(&["doctor", "--no-probe", "--setting", "promote=no.such"]).stdout;
    assert!(told.contains("promote: there is no pattern `no.such`"), "{told}");
    assert!(told.contains("0 of 1 tools, 0 tokens\n"), "{told}");
    let told = desk.run(&["doctor", "--no-probe", "--setting", "promote=a.b,a-b"]);
    assert!(told.stdout.contains("would both be the tool `a_b`"), "{}", told.stdout);
}
