//! The command itself: against this program over each transport, and against programs that do not want to end.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tmws::transcript::{Transcript, Transport};

use super::Pen;
use crate::support::scratch::Scratch;

const PATIENCE: Duration = Duration::from_secs(30);

struct Told {
    code: i32,
    stdout: String,
    stderr: String,
}

fn told(command: &mut Command) -> Told {
    let output = command.stdin(Stdio::null()).output().unwrap();
    Told {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn written(desk: &Scratch, name: &str, transcript: &Transcript) -> PathBuf {
    let path = desk.path(name);
    fs::write(&path, transcript.to_text().unwrap()).unwrap();
    path
}

fn replay(desk: &Scratch, arguments: &[&str]) -> Told {
    told(&mut desk.command(&[&["replay"], arguments].concat()))
}

/// A session is opened and closed by its handle: the recorded one would close nothing.
fn with_a_handle() -> Pen {
    let handle = "s_AAAAAAAAAAAAAAAAAAAAAA";
    let call = |pattern: &str, input: Value| json!({"name": "execute_pattern", "arguments": {"pattern": pattern, "input": input}});
    let said =
        |value: Value| json!({"content": [{"type": "text", "text": value.to_string()}], "isError": false});
    Pen::opened()
        .asks(1, "tools/call", call("session.open", json!({})), said(json!({"session": handle})))
        .asks(
            2,
            "tools/call",
            call("session.close", json!({"session": handle})),
            said(json!({"closed": true})),
        )
}

#[test]
fn this_program_is_played_against_over_each_transport_with_handles_of_its_own() {
    let desk = Scratch::new();
    for transport in [Transport::Stdio, Transport::Ws, Transport::Http] {
        let transcript = with_a_handle().event("stdin-eof").over(transport).done();
        let path = written(&desk, "handle.jsonl", &transcript);
        let told = replay(&desk, &[path.to_str().unwrap(), "--json"]);
        assert_eq!(told.code, 0, "{transport}: {}{}", told.stdout, told.stderr);
        assert_eq!(told.stdout.lines().count(), 1);
        let value: Value = serde_json::from_str(&told.stdout).unwrap();
        assert_eq!(value["ok"], true);
        assert_eq!(value["transcripts"][0]["counts"]["answers"], 3);
        let answered = |request: &Value| request["answers"][0]["result"]["content"][0]["text"].clone();
        let steps = value["transcripts"][0]["steps"].as_array().unwrap();
        let closed = steps.iter().flat_map(|step| step["requests"].as_array().unwrap());
        let closed = closed.filter(|request| request["id"] == 2).map(answered).next().unwrap();
        assert!(closed.as_str().unwrap().contains("\"closed\":true"), "{transport}: {closed}");
    }
    assert!(!desk.path("home/.local").exists(), "the user's own store is not touched");
}

/// A client of 2024-11-05 over HTTP+SSE: its messages go where the server says, the answers come on the first stream.
#[test]
fn http_and_sse_is_played_at_the_endpoint_that_the_live_server_names() {
    let desk = Scratch::new();
    let endpoint = "/messages?session=0123456789abcdef0123456789abcdef";
    let json = json!({"Content-Type": "application/json"});
    let post = |message: Value| json!({"dir": "c2s", "http": {"method": "POST", "path": endpoint, "headers": json}, "raw": message.to_string()});
    let accepted = json!({"dir": "s2c", "http": {"status": 202}});
    let said = |message: Value| json!({"dir": "s2c", "sse": "message", "raw": message.to_string()});
    let client = json!({"name": "t", "version": "1"});
    let entries = [
        json!({"dir": "c2s", "http": {"method": "GET", "path": "/sse", "headers": {"Accept": "text/event-stream"}}}),
        json!({"dir": "s2c", "http": {"status": 200, "headers": {"Content-Type": "text/event-stream"}}}),
        json!({"dir": "s2c", "sse": "endpoint", "raw": endpoint}),
        post(
            json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": client}}),
        ),
        accepted.clone(),
        said(
            json!({"jsonrpc": "2.0", "id": 0, "result": {"protocolVersion": "2024-11-05", "capabilities": {"tools": {}}, "serverInfo": client}}),
        ),
        post(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})),
        accepted.clone(),
        post(json!({"jsonrpc": "2.0", "id": 1, "method": "ping"})),
        accepted,
        said(json!({"jsonrpc": "2.0", "id": 1, "result": {}})),
        json!({"dir": "event", "event": "get-stream-closed"}),
    ];
    let mut text = String::from(
        "{\"type\":\"header\",\"format\":\"mcp-rec/1\",\"client\":\"t\",\"version\":\"1\",\"transport\":\"http\",\"variant\":\"sse\",\"recorded\":\"2026-11-22T10:55:10Z\"}\n",
    );
    for (mut entry, n) in entries.into_iter().zip(1..) {
        entry["n"] = json!(n);
        entry["t"] = json!(0);
        text.extend([entry.to_string().as_str(), "\n"]);
    }
    fs::write(desk.path("sse.jsonl"), text).unwrap();
    let told = replay(&desk, &[desk.path("sse.jsonl").to_str().unwrap(), "--timeout", "20"]);
    assert_eq!(told.code, 0, "{}{}", told.stdout, told.stderr);
    assert!(told.stdout.contains("2 requests, 2 answers"), "{}", told.stdout);
}

#[test]
fn what_only_http_has_is_left_out_on_stdio_and_told() {
    let desk = Scratch::new();
    let path =
        concat!(env!("CARGO_MANIFEST_DIR"), "/compat/transcripts/ts-sdk-1.12.3/2025-03-26/http-rich.jsonl");
    let against = format!("'{}' stdio", env!("CARGO_BIN_EXE_tmws"));
    let told = replay(&desk, &[path, "--against", &against, "--allow", "listed", "--allow", "kind"]);
    assert_eq!(told.code, 0, "{}{}", told.stdout, told.stderr);
    for note in
        ["left out: GET /mcp is HTTP's own", "left out: DELETE /mcp is HTTP's own", "allowed: listed: "]
    {
        assert!(told.stdout.contains(note), "{note}: {}", told.stdout);
    }
}

#[test]
fn a_broken_rule_is_printed_with_what_came_and_exits_with_1() {
    let desk = Scratch::new();
    let transcript = Pen::opened()
        .asks(1, "tools/list", json!({}), json!({"tools": [{"name": "nobody", "inputSchema": {}}]}))
        .event("stdin-eof")
        .done();
    let path = written(&desk, "list.jsonl", &transcript);
    let path = path.to_str().unwrap();
    let told = replay(&desk, &[path]);
    assert_eq!(told.code, 1, "{}", told.stderr);
    for part in
        ["FAIL line 6: tools/list (id 1)", "listed at /result/tools: \"nobody\" is not listed", "1 × listed"]
    {
        assert!(told.stdout.contains(part), "{part}: {}", told.stdout);
    }
    assert_eq!(replay(&desk, &[path, "--allow", "listed"]).code, 0);
    let own = format!("'{}' stdio", env!("CARGO_BIN_EXE_tmws"));
    assert_eq!(replay(&desk, &[path, "--against", &own]).code, 1);
}

#[test]
fn the_rules_are_explained() {
    let desk = Scratch::new();
    let told = replay(&desk, &["--explain"]);
    assert_eq!(told.code, 0);
    for rule in tmws::replay::Rule::ALL {
        assert!(told.stdout.contains(rule.text()), "{}", rule.name());
    }
}

#[test]
fn what_cannot_be_played_is_told_with_a_hint_and_exits_with_2() {
    let desk = Scratch::new();
    fs::write(desk.path("bad.jsonl"), "{\"type\":\"header\"}\n").unwrap();
    let good = written(&desk, "good.jsonl", &Pen::opened().event("stdin-eof").done());
    let (bad, good) = (desk.path("bad.jsonl"), good.to_str().unwrap().to_owned());
    let bad = bad.to_str().unwrap();
    let empty = desk.path("nothing-here");
    fs::create_dir(&empty).unwrap();
    let empty = empty.to_str().unwrap();
    let table: [(&[&str], &str); 9] = [
        (&[&good, empty], "nothing-here: no file in this folder ends in"),
        (&[&good, "--against", ""], "`--against` is empty"),
        (&[&good, "--against", "python 'server.py"], "has a quote that is not closed"),
        (&[&good, "--timeout", "soon"], "usage: tmws replay "),
        (&[bad], "line 1 is no line of a transcript"),
        (&["nowhere.jsonl"], "failed to read nowhere.jsonl"),
        (&[&good, "--allow", "nothing"], "there is no rule `nothing`"),
        (&[&good, "--against", "ftp://x"], "`ftp://` is not understood"),
        (&[], "--explain|<PATH>"),
    ];
    for (arguments, expected) in table {
        let told = replay(&desk, arguments);
        assert_eq!(told.code, 2, "{arguments:?}: {}", told.stdout);
        let parts = expected.split('|');
        assert!(parts.into_iter().any(|part| told.stderr.contains(part)), "{arguments:?}: {}", told.stderr);
        assert!(told.stderr.contains("hint: ") || arguments == ["nowhere.jsonl"], "{}", told.stderr);
    }
    let told = replay(&desk, &[&good, "--against", "no-such-program-anywhere"]);
    assert_eq!(told.code, 1);
    assert!(told.stdout.contains("connect: it could not be started"), "{}", told.stdout);
}

#[test]
fn a_recording_in_which_nothing_was_done_says_so() {
    let desk = Scratch::new();
    let whole = Pen::opened().done().to_text().unwrap();
    fs::write(desk.path("header.jsonl"), format!("{}\n", whole.lines().next().unwrap())).unwrap();
    let told = replay(&desk, &[desk.path("header.jsonl").to_str().unwrap()]);
    assert_eq!(told.code, 0, "{}", told.stderr);
    assert!(told.stdout.contains("note line 1: nothing was played"), "{}", told.stdout);
}

/// Whether the process is there and no zombie.
fn is_alive(pid: &str) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    status.is_ok_and(|status| !status.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

#[test]
fn a_server_that_does_not_end_is_killed_with_all_that_it_started() {
    let desk = Scratch::new();
    let script = "#!/bin/sh\ntrap '' TERM INT\nsleep 600 &\necho $$ $! > pids\nread -r line\necho '{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}'\nwhile :; do read -r line || sleep 600; done\n";
    fs::write(desk.path("stubborn.sh"), script).unwrap();
    let transcript = Pen::new().asks(1, "ping", json!({}), json!({})).event("signal SIGTERM").done();
    let path = written(&desk, "end.jsonl", &transcript);
    let against = format!("sh '{}'", desk.path("stubborn.sh").display());
    let begun = Instant::now();
    let told = replay(&desk, &[path.to_str().unwrap(), "--timeout", "1", "--against", &against]);
    assert_eq!(told.code, 1, "{}{}", told.stdout, told.stderr);
    assert!(
        told.stdout.contains("ended: it was still there after 1 s, and has been killed"),
        "{}",
        told.stdout
    );
    let pids = fs::read_to_string(desk.path("workspace/pids")).unwrap();
    for pid in pids.split_whitespace() {
        while is_alive(pid) {
            assert!(begun.elapsed() < PATIENCE, "{pid} is still there");
            std::thread::yield_now();
        }
    }
}

/// Plays `transcript` against a shell script.
fn against_script(desk: &Scratch, script: &str, transcript: &Transcript) -> Told {
    fs::write(desk.path("server.sh"), script).unwrap();
    let path = written(desk, "played.jsonl", transcript);
    let against = format!("sh '{}'", desk.path("server.sh").display());
    replay(desk, &[path.to_str().unwrap(), "--timeout", "5", "--against", &against])
}

#[test]
fn a_server_that_was_recorded_to_need_a_signal_after_the_end_of_input_gets_it() {
    let answer = "read -r line\necho '{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}'\n";
    let stays = format!("{answer}while :; do read -r line || sleep 0.05; done\n");
    let transcript = || Pen::new().asks(1, "ping", json!({}), json!({})).event("stdin-eof");
    for script in [&stays, answer] {
        let told = against_script(&Scratch::new(), script, &transcript().event("signal SIGTERM").done());
        assert_eq!(told.code, 0, "{script}: {}{}", told.stdout, told.stderr);
        assert!(!told.stdout.contains("note"), "{}", told.stdout);
    }
    let desk = Scratch::new();
    let path = written(&desk, "alone.jsonl", &transcript().done());
    fs::write(desk.path("stays.sh"), stays).unwrap();
    let against = format!("sh '{}'", desk.path("stays.sh").display());
    let told = replay(&desk, &[path.to_str().unwrap(), "--timeout", "1", "--against", &against]);
    assert!(told.stdout.contains("ended: it was still there"), "{}", told.stdout);
}

#[test]
fn bytes_that_are_no_text_are_said_as_they_were() {
    let desk = Scratch::new();
    let transcript = Pen::new().says_bytes("//4=").asks(1, "ping", json!({}), json!({})).done();
    let script = "read -r odd\nprintf '%s' \"$odd\" > got\nread -r line\necho '{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}'\n";
    let told = against_script(&desk, script, &transcript);
    assert_eq!(told.code, 0, "{}{}", told.stdout, told.stderr);
    assert_eq!(fs::read(desk.path("workspace/got")).unwrap(), [0xff, 0xfe]);
}

#[test]
fn frames_that_are_not_utf_8_break_a_rule() {
    let transcript = Pen::new().asks(1, "ping", json!({}), json!({})).done();
    let script = "read -r line\nprintf '{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{\"a\":\"\\377\"}}\\n'\n";
    let told = against_script(&Scratch::new(), script, &transcript);
    assert_eq!(told.code, 1, "{}{}", told.stdout, told.stderr);
    assert!(told.stdout.contains("json-rpc: it said bytes that are not UTF-8"), "{}", told.stdout);
}

#[test]
fn what_tmws_record_writes_is_played_again() {
    let desk = Scratch::new();
    let out = desk.path("recorded.jsonl");
    let mut child = desk
        .command(&["record", "--out", out.to_str().unwrap(), "--", env!("CARGO_BIN_EXE_tmws"), "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let spoken = with_a_handle().done();
    for entry in spoken.entries.iter().filter(|entry| entry.dir == tmws::transcript::Direction::C2s) {
        use std::io::Write as _;
        writeln!(input, "{}", entry.raw.as_deref().unwrap()).unwrap();
    }
    drop(input);
    assert!(child.wait_with_output().unwrap().status.success());
    let transcript = Transcript::validate(&fs::read_to_string(&out).unwrap()).unwrap();
    assert!(transcript.entries.len() >= 7, "{transcript:?}");
    let told = replay(&desk, &[out.to_str().unwrap()]);
    assert_eq!(told.code, 0, "{}{}", told.stdout, told.stderr);
}
