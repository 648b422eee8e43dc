//! `tmws stdio` as a host launches it: pipes, sockets, files, ends, floods, neighbours.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{fs::PermissionsExt, net::UnixStream, process::ExitStatusExt},
    },
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// A scratch folder with a workspace and a store path in it.
struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("workspace")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self) -> Command {
        self.tmws(&["stdio"])
    }

    /// `tmws` in the workspace, with nothing of whoever runs the tests.
    fn tmws(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tmws"));
        command
            .args(arguments)
            .current_dir(self.path("workspace"))
            .env("TMWS_DATABASE_URL", format!("sqlite:{}", self.path("store.db").display()))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("XDG_DATA_HOME", self.path("data"))
            .env_remove("TMWS_ROOT")
            .env_remove("CLAUDE_PROJECT_DIR");
        command
    }
}

/// A running server on two pipes.
struct Host {
    child: Child,
    input: Option<std::process::ChildStdin>,
    output: BufReader<std::process::ChildStdout>,
}

impl Host {
    fn launch(place: &Place) -> Self {
        let mut child = place
            .command()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        Self { input: child.stdin.take(), output: BufReader::new(child.stdout.take().unwrap()), child }
    }

    fn open(place: &Place) -> Self {
        let mut host = Self::launch(place);
        host.send(INITIALIZE);
        assert_eq!(host.receive()["result"]["protocolVersion"], "2025-11-25");
        host.send(INITIALIZED);
        host
    }

    fn send(&mut self, line: &str) {
        self.input.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn receive(&mut self) -> Value {
        let mut line = String::new();
        assert!(self.output.read_line(&mut line).unwrap() > 0, "the server closed stdout");
        serde_json::from_str(&line).unwrap()
    }

    fn call(&mut self, id: u32, tool: &str, arguments: &Value) -> Value {
        self.send(&call(id, tool, arguments));
        let answer = self.receive();
        assert_eq!(answer["id"], id);
        answer["result"].clone()
    }

    /// Closes stdin and waits for the end; what came on stdout, and how long the end took.
    fn end(mut self) -> (Vec<Value>, Duration) {
        let begun = Instant::now();
        drop(self.input.take());
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        assert!(self.child.wait().unwrap().success());
        (rest.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), begun.elapsed())
    }
}

fn call(id: u32, tool: &str, arguments: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}).to_string()
}

fn text(result: &Value) -> Value {
    serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap()
}

#[test]
fn the_handshake_and_the_lists_touch_neither_store_nor_folders() {
    let place = Place::new();
    let mut host = Host::open(&place);
    host.send(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
    assert_eq!(host.receive()["result"]["tools"].as_array().unwrap().len(), 4);
    host.end();
    for name in ["store.db", "config", "data"] {
        assert!(!place.path(name).exists(), "{name} was made before anything needed it");
    }
}

#[test]
fn a_memory_survives_a_restart() {
    let place = Place::new();
    let mut host = Host::open(&place);
    let stored = text(&host.call(1, "remember", &json!({"content": "The cat is called Schrödinger"})));
    host.end();
    let mut host = Host::open(&place);
    let recalled = text(&host.call(
        1,
        "execute_pattern",
        &json!({"pattern": "memory.recall", "input": {"query": "cat"}}),
    ));
    let (short, whole) = (recalled["hits"][0]["id"].as_str().unwrap(), stored["id"].as_str().unwrap());
    assert!(whole.ends_with(short), "{recalled}");
    // It stands for the whole, also where it leads to the memory itself.
    let params = json!({"uri": format!("memory://{short}")});
    host.send(&json!({"jsonrpc": "2.0", "id": 2, "method": "resources/read", "params": params}).to_string());
    let read = host.receive();
    assert!(read.to_string().contains(whole), "{read}");
    host.end();
}

#[test]
fn two_clients_on_one_store_at_the_same_time_both_work() {
    let place = Place::new();
    // Both are launched before either has made the store.
    let mut hosts = [Host::open(&place), Host::open(&place)];
    for (index, host) in hosts.iter_mut().enumerate() {
        for number in 0..20 {
            host.send(&call(
                number,
                "remember",
                &json!({"content": format!("fact {number} of client {index}")}),
            ));
        }
    }
    for host in &mut hosts {
        for _ in 0..20 {
            let answer = host.receive();
            assert_eq!(answer["result"].get("isError"), None, "{answer}");
        }
    }
    // Now all that either wrote is there for both.
    for host in &mut hosts {
        let recall = json!({"pattern": "memory.recall", "input": {"query": "fact 7"}});
        assert_eq!(text(&host.call(99, "execute_pattern", &recall))["total"], 40);
    }
    for host in hosts {
        host.end();
    }
}

#[test]
fn what_was_asked_before_the_end_of_input_is_answered() {
    let place = Place::new();
    let mut host = Host::launch(&place);
    let mut burst = vec![INITIALIZE.to_owned(), INITIALIZED.to_owned()];
    burst.extend((1..=200).map(|id| {
        call(id, "execute_pattern", &json!({"pattern": "memory.recall", "input": {"query": "x"}}))
    }));
    // The last line has no newline.
    host.input.as_mut().unwrap().write_all(burst.join("\n").as_bytes()).unwrap();
    let (answers, took) = host.end();
    let mut ids: Vec<u64> = answers.iter().map(|answer| answer["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..=200).collect::<Vec<_>>());
    assert!(took < Duration::from_secs(30), "{took:?}");
}

#[test]
fn a_call_that_does_not_end_is_cut_off_within_a_second_of_the_end_of_input() {
    let place = Place::new();
    let mut host = Host::open(&place);
    host.call(1, "remember", &json!({"content": "makes the store"}));
    let lock = lock_store(&place.path("store.db"));
    host.send(&call(2, "remember", &json!({"content": "waits for the lock"})));
    let (_, took) = host.end();
    assert!(took < Duration::from_millis(1_300), "took {took:?}");
    drop(lock);
}

#[test]
fn as_many_calls_as_may_be_in_flight_do_not_hide_the_end_of_input() {
    const CALLS: u32 = 200;
    let place = Place::new();
    let mut host = Host::open(&place);
    host.call(1, "remember", &json!({"content": "makes the store"}));
    let lock = lock_store(&place.path("store.db"));
    for id in 2..CALLS {
        host.send(&call(id, "remember", &json!({"content": format!("waits for the lock {id}")})));
    }
    let (answers, took) = host.end();
    assert!(took < Duration::from_secs(2), "took {took:?}");
    let mut ids: Vec<u64> = answers.iter().map(|answer| answer["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (2..u64::from(CALLS)).collect::<Vec<_>>());
    drop(lock);
}

#[test]
fn a_client_that_stops_reading_and_then_leaves_does_not_keep_it() {
    let place = Place::new();
    let Host { mut child, input, output } = Host::open(&place);
    let input = input.unwrap();
    rustix::io::ioctl_fionbio(&input, true).unwrap();
    let line = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"tools/list\"}\n";
    loop {
        while (&input).write(line).is_ok() {}
        wait_until_asleep(child.id());
        if (&input).write(line).is_err() {
            break;
        }
    }
    let begun = Instant::now();
    drop(input);
    assert!(child.wait().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(2), "took {:?}", begun.elapsed());
    drop(output);
}

#[test]
fn a_host_that_never_reads_stderr_does_not_stop_it() {
    let place = Place::new();
    let mut child =
        place.command().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut host =
        Host { input: child.stdin.take(), output: BufReader::new(child.stdout.take().unwrap()), child };
    host.send(&INITIALIZE.replace("2025-11-25", "2024-11-05"));
    assert_eq!(host.receive()["result"]["protocolVersion"], "2024-11-05");
    for _ in 0..3_000 {
        // Not answered in this revision, but logged.
        host.send("no JSON");
    }
    host.send(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#);
    assert_eq!(host.receive()["id"], 1);
    host.end();
}

/// Holds the write lock of a SQLite file until dropped.
fn lock_store(path: &Path) -> (tokio::runtime::Runtime, sqlx::SqliteConnection) {
    use sqlx::{Connection, Executor};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let connection = runtime.block_on(async {
        let mut connection =
            sqlx::SqliteConnection::connect(&format!("sqlite:{}", path.display())).await.unwrap();
        connection.execute("BEGIN IMMEDIATE").await.unwrap();
        connection
    });
    (runtime, connection)
}

#[test]
fn signals_end_it_cleanly() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let place = Place::new();
        let mut host = Host::open(&place);
        kill_process(Pid::from_child(&host.child), signal).unwrap();
        let begun = Instant::now();
        let status = host.child.wait().unwrap();
        assert!(status.success(), "{signal:?}: {status} {:?}", status.signal());
        assert!(begun.elapsed() < Duration::from_millis(1_300));
    }
}

#[test]
fn impatient_signals_leave_no_child_behind() {
    for count in 1..=2 {
        let place = Place::new();
        let pid_file = stick_git(&place);
        let mut child = place
            .command()
            .env("PATH", place.path("bin"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut host =
            Host { input: child.stdin.take(), output: BufReader::new(child.stdout.take().unwrap()), child };
        host.send(INITIALIZE);
        host.receive();
        host.send(&call(1, "execute_pattern", &json!({"pattern": "repo.digest"})));
        let git = pid_of_git(&pid_file);
        for earlier in 0..count {
            if earlier > 0 {
                wait_until_asleep(host.child.id());
            }
            kill_process(Pid::from_child(&host.child), Signal::TERM).unwrap();
        }
        assert!(host.child.wait().unwrap().success());
        assert_gone(&git);
    }
}

#[test]
fn an_interrupted_run_by_hand_leaves_no_child_behind() {
    for signal in [Signal::INT, Signal::TERM] {
        let place = Place::new();
        let pid_file = stick_git(&place);
        let mut child = place
            .tmws(&["run", "repo.digest"])
            .env("PATH", place.path("bin"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let git = pid_of_git(&pid_file);
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(1), "{signal:?}");
        assert_gone(&git);
    }
}

/// Makes the workspace a repository, and puts a `git` that never ends into `bin`; the file that will hold its pid.
fn stick_git(place: &Place) -> std::path::PathBuf {
    for arguments in [
        &["init", "-q"][..],
        &["-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "--allow-empty", "-m", "first"],
    ] {
        let git = Command::new("git").args(arguments).current_dir(place.path("workspace")).status();
        assert!(git.unwrap().success());
    }
    let pid_file = place.path("pid");
    let script = format!(
        "#!/bin/sh\necho $$ > '{0}.part'\n/bin/mv '{0}.part' '{0}'\nexec /bin/sleep 600\n",
        pid_file.display()
    );
    fs::create_dir(place.path("bin")).unwrap();
    fs::write(place.path("bin/git"), script).unwrap();
    fs::set_permissions(place.path("bin/git"), fs::Permissions::from_mode(0o755)).unwrap();
    pid_file
}

fn pid_of_git(pid_file: &Path) -> String {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        assert!(Instant::now() < deadline, "git was never run");
        match fs::read_to_string(pid_file) {
            Ok(pid) => return pid.trim().to_owned(),
            Err(_) => std::thread::park_timeout(Duration::from_millis(5)),
        }
    }
}

/// It was killed, or it would be there for ten minutes; the system takes a moment to be done with it.
fn assert_gone(pid: &str) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") {
            return;
        }
        assert!(Instant::now() < deadline, "{stat}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

#[test]
fn a_reader_that_stops_cannot_make_memory_grow_and_loses_nothing() {
    const FLOOD: u32 = 60_000;
    let place = Place::new();
    let mut host = Host::open(&place);
    let mut input = host.input.take().unwrap();
    let writer = std::thread::spawn(move || {
        for id in 1..=FLOOD {
            if input
                .write_all(
                    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"tools/list\"}}\n").as_bytes(),
                )
                .is_err()
            {
                return;
            }
        }
    });
    // The server stops reading once its answers are not taken: the flood gets stuck in the pipe.
    wait_until_asleep(host.child.id());
    // The flood is some hundred megabytes of answers; the program itself, unoptimized, is most of what is left.
    assert!(rss_mib(host.child.id()) < 48.0, "{} MiB", rss_mib(host.child.id()));
    for id in 1..=FLOOD {
        assert_eq!(host.receive()["id"], id);
    }
    writer.join().unwrap();
    host.end();
}

/// Waits until the process uses no more CPU: it sleeps in `poll`.
fn wait_until_asleep(pid: u32) {
    let ticks = || fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut before = ticks();
    let mut quiet = 0;
    while quiet < 20 {
        assert!(Instant::now() < deadline, "the server never came to rest");
        std::thread::park_timeout(Duration::from_millis(5));
        let now = ticks();
        quiet = if now == before { quiet + 1 } else { 0 };
        before = now;
    }
}

fn rss_mib(pid: u32) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

#[test]
fn a_reader_that_leaves_ends_it() {
    let place = Place::new();
    let Host { mut child, mut input, output } = Host::open(&place);
    drop(output);
    input.as_mut().unwrap().write_all(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n").unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn it_works_on_a_socket_pair_and_leaves_its_flags_alone() {
    let place = Place::new();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let end: OwnedFd = theirs.into();
    let mut child =
        place.command().stdin(end.try_clone().unwrap()).stdout(end.try_clone().unwrap()).spawn().unwrap();
    let mut reader = BufReader::new(ours.try_clone().unwrap());
    let mut line = String::new();
    (&ours).write_all(format!("{INITIALIZE}\n").as_bytes()).unwrap();
    reader.read_line(&mut line).unwrap();
    assert!(line.contains("2025-11-25"), "{line}");
    let flags = rustix::fs::fcntl_getfl(&end).unwrap();
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
    drop(end);
    ours.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn it_works_on_files() {
    let place = Place::new();
    fs::write(
        place.path("in.jsonl"),
        format!("{INITIALIZE}\n{INITIALIZED}\n{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}}"),
    )
    .unwrap();
    let status = place
        .command()
        .stdin(File::open(place.path("in.jsonl")).unwrap())
        .stdout(File::create(place.path("out.jsonl")).unwrap())
        .status()
        .unwrap();
    assert!(status.success());
    let out = fs::read_to_string(place.path("out.jsonl")).unwrap();
    let ids: Vec<Value> =
        out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].clone()).collect();
    assert_eq!(ids, [json!(0), json!(1)]);
}

#[test]
fn both_eras_share_one_stream() {
    let place = Place::new();
    let mut host = Host::launch(&place);
    let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
    host.send(&format!(r#"{{"jsonrpc":"2.0","id":"probe","method":"server/discover","params":{{{meta}}}}}"#));
    host.send(INITIALIZE);
    assert_eq!(host.receive()["result"]["supportedVersions"], json!(["2026-07-28"]));
    assert_eq!(host.receive()["result"]["protocolVersion"], "2025-11-25");
    host.send(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{{meta}}}}}"#));
    assert_eq!(host.receive()["result"]["resultType"], "complete");
    host.send(r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
    assert_eq!(host.receive()["result"].get("resultType"), None);
    host.end();
}

#[test]
fn a_home_that_is_no_folder_has_no_settings_and_stops_nothing() {
    let place = Place::new();
    fs::write(place.path("config"), "").unwrap();
    Host::open(&place).end();
}

#[test]
fn the_first_answer_comes_without_a_store_that_could_be_opened() {
    let place = Place::new();
    fs::create_dir(place.path("store.db")).unwrap();
    let mut host = Host::open(&place);
    let result = host.call(1, "remember", &json!({"content": "x"}));
    assert_eq!(result["isError"], true);
    assert_eq!(text(&result)["error"], "store_unavailable");
    let digest = host.call(2, "find_patterns", &json!({"query": "what changed"}));
    assert_eq!(digest.get("isError"), None);
    host.end();
}

#[test]
fn an_idle_client_is_told_that_patterns_changed() {
    let place = Place::new();
    let mut host = Host::open(&place);
    host.call(1, "find_patterns", &json!({}));
    let folder = place.path("config/tmws/patterns");
    fs::create_dir_all(&folder).unwrap();
    let late = "apiVersion: tmws/v1\nkind: Pattern\nname: test.late\nversion: 1.0.0\ntype: infrastructure\n\
        description: Comes while a client is connected.\nsteps: [{id: a, uses: data.merge, with: {items: []}}]\n\
        output: {value: '${ .steps.a }'}\n";
    fs::write(folder.join("late.yaml"), late).unwrap();
    // Nothing is asked: the client hears of it by itself.
    let mut told: Vec<String> =
        (0..3).map(|_| host.receive()["method"].as_str().unwrap_or_default().to_owned()).collect();
    told.sort();
    assert_eq!(
        told,
        ["prompts", "resources", "tools"].map(|list| format!("notifications/{list}/list_changed"))
    );
    let found = text(&host.call(2, "execute_pattern", &json!({"pattern": "test.late"})));
    assert!(found.get("error").is_none(), "{found}");
    host.end();
}
