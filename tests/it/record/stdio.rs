//! In place of a stdio server.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::fd::AsFd as _,
    process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio},
    thread,
    time::Instant,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use proptest::{prelude::*, test_runner::Config};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{OFlags, fcntl_setfl},
    process::{Pid, Signal, kill_process},
};
use serde_json::{Value, json};
use tmws::transcript::{Direction, Entry};

use super::{PATIENCE, events, recording, said};
use crate::support::scratch::Scratch;

const TMWS: &str = env!("CARGO_BIN_EXE_tmws");

/// `tmws record <flags> -- <server>`, into the folder `recordings`.
fn recorder(place: &Scratch, flags: &[&str], server: &[&str]) -> Command {
    let folder = place.path("recordings");
    let mut command = place.command(&["record", "--dir"]);
    command.arg(folder).args(flags).arg("--").args(server);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Says all of `input`, in chunks, and returns how it ended.
fn converse(mut command: Command, chunks: Vec<Vec<u8>>) -> Output {
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let writer = thread::spawn(move || {
        for chunk in chunks {
            // A server that has ended does not read.
            if input.write_all(&chunk).is_err() {
                return;
            }
        }
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}

/// The lines of one side as bytes.
fn bytes(entries: &[&Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        match (&entry.raw, &entry.encoding) {
            (Some(text), None) => bytes.extend_from_slice(text.as_bytes()),
            (Some(text), Some(_)) => bytes.extend_from_slice(&STANDARD.decode(text).unwrap()),
            other => panic!("a frame: {other:?}"),
        }
        if !entry.unfinished {
            bytes.push(b'\n');
        }
    }
    bytes
}

struct Running {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().unwrap();
        Self { input: child.stdin.take(), output: BufReader::new(child.stdout.take().unwrap()), child }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn code(&mut self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(begun.elapsed() < PATIENCE, "the recorder does not end");
            thread::yield_now();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_running(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
}

fn initialize() -> String {
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "ada's", "version": "1.2"}}})
    .to_string()
}

#[test]
fn a_conversation_is_written_down_as_the_format_has_it() {
    let place = Scratch::new();
    let mut host = Running::start(recorder(&place, &["--variant", "basic"], &[TMWS, "stdio"]));
    let mut frames = Vec::new();
    for (frame, is_answered) in [
        (initialize(), true),
        (json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string(), false),
        (json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string(), true),
        (
            json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params":
                {"name": "find_patterns", "arguments": {"query": "what changed"}}})
            .to_string(),
            true,
        ),
    ] {
        host.input.as_mut().unwrap().write_all(format!("{frame}\n").as_bytes()).unwrap();
        frames.push((Direction::C2s, frame));
        if is_answered {
            frames.push((Direction::S2c, host.line()));
        }
    }
    drop(host.input.take());
    assert_eq!(host.code(), Some(0));

    let (file, transcript) = recording(&place.path("recordings"));
    let header = &transcript.header;
    assert_eq!(
        (header.client.as_str(), header.version.as_str(), header.variant.as_str()),
        ("ada's", "1.2", "basic")
    );
    assert!(file.file_name().unwrap().to_str().unwrap().starts_with("ada-s-1.2-stdio-"), "{file:?}");
    let spoken: Vec<_> = transcript
        .entries
        .iter()
        .filter(|entry| entry.dir != Direction::Event)
        .map(|entry| (entry.dir, entry.raw.clone().unwrap()))
        .collect();
    assert_eq!(spoken, frames);
    assert_eq!(events(&transcript), ["start", "stdin-eof"]);
    assert_eq!(transcript.entries[0].argv.as_deref(), Some(&["stdio".to_owned()][..]));

    // Line by line: members and their order are those of every other recording of the format.
    let text = fs::read_to_string(&file).unwrap();
    let mut earlier = 0.0;
    for (index, line) in text.lines().enumerate() {
        let value: Value = serde_json::from_str(line).unwrap();
        let members: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        let expected: &[&str] = match (index, value["dir"].as_str()) {
            (0, _) => &["type", "format", "client", "version", "transport", "variant", "server", "recorded"],
            (1, _) => &["n", "t", "dir", "event", "argv"],
            (_, Some("event")) => &["n", "t", "dir", "event"],
            _ => &["n", "t", "dir", "raw"],
        };
        assert_eq!(members, expected, "{line}");
        if index > 0 {
            assert_eq!(value["n"], index);
            assert!(value["t"].as_f64().unwrap() >= earlier, "{line}");
            earlier = value["t"].as_f64().unwrap();
        }
    }
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&fs::metadata(&file).unwrap()) & 0o777, 0o600);
}

proptest! {
    #![proptest_config(Config { cases: 24, ..Config::default() })]

    #[test]
    fn bytes_pass_unchanged_both_ways(
        chunks in prop::collection::vec(
            prop::collection::vec(
                prop_oneof![3 => Just(b'\n'), 10 => b' '..=b'~', 2 => 0x80_u8..=0xff, 1 => Just(0_u8)],
                0..3000,
            ),
            0..12,
        )
    ) {
        let place = Scratch::new();
        let input = chunks.concat();
        let output = converse(recorder(&place, &[], &["cat"]), chunks);
        prop_assert!(output.status.success());
        prop_assert!(output.stdout == input, "{} bytes became {}", input.len(), output.stdout.len());
        let (_, transcript) = recording(&place.path("recordings"));
        for side in [Direction::C2s, Direction::S2c] {
            prop_assert!(bytes(&said(&transcript, side)) == input, "{side:?}");
        }
    }
}

#[test]
fn large_frames_pass_whole_and_are_written_whole() {
    let place = Scratch::new();
    let frame = format!("{{\"a\":\"{}\"}}", "x".repeat(4 << 20));
    let chunk = format!("{frame}\n").into_bytes();
    let output = converse(recorder(&place, &[], &["cat"]), vec![chunk.clone(), chunk.clone(), chunk.clone()]);
    assert!(output.stdout == chunk.repeat(3), "{} bytes", output.stdout.len());
    let (_, transcript) = recording(&place.path("recordings"));
    for side in [Direction::C2s, Direction::S2c] {
        let frames = said(&transcript, side);
        assert_eq!(frames.len(), 3);
        assert!(frames.iter().all(|entry| entry.raw.as_deref() == Some(&frame) && entry.cut.is_none()));
    }
}

#[test]
fn whoever_does_not_read_stops_whoever_writes() {
    // With `cat` between, and nobody reading what it says, both directions must stand still.
    for server in [&["cat"][..], &["sleep", "1000"]] {
        let place = Scratch::new();
        let mut host = Running::start(recorder(&place, &[], server));
        let mut input = host.input.take().unwrap();
        fcntl_setfl(&input, OFlags::NONBLOCK).unwrap();
        let line = [b'x'; 4095].into_iter().chain([b'\n']).collect::<Vec<_>>();
        let mut taken = 0;
        loop {
            let mut fds = [PollFd::from_borrowed_fd(input.as_fd(), PollFlags::OUT)];
            let second = Timespec { tv_sec: 1, tv_nsec: 0 };
            if poll(&mut fds, Some(&second)).unwrap() == 0 {
                break;
            }
            taken += input.write(&line).unwrap();
            assert!(taken < 8 << 20, "{server:?}: nothing stops the writer");
        }
        let status = fs::read_to_string(format!("/proc/{}/status", host.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        let peak_kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(peak_kib < 64 << 10, "{server:?}: {line}");
    }
}

#[test]
fn a_server_that_dies_within_a_line_leaves_a_whole_recording() {
    let place = Scratch::new();
    let server = ["sh", "-c", r#"read x; printf '{"id":0}\n{"half":'; exit 7"#];
    let mut host = Running::start(recorder(&place, &[], &server));
    host.input.as_mut().unwrap().write_all(b"{}\n").unwrap();
    let mut rest = String::new();
    host.output.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "{\"id\":0}\n{\"half\":");
    assert_eq!(host.code(), Some(7));
    let (_, transcript) = recording(&place.path("recordings"));
    let last = said(&transcript, Direction::S2c)[1];
    assert_eq!((last.raw.as_deref(), last.unfinished), (Some("{\"half\":"), true));
    assert_eq!(events(&transcript), ["start", "exit"]);
    assert_eq!(transcript.entries.last().unwrap().code, Some(7));
}

#[test]
fn the_servers_code_is_ours() {
    for (script, code) in [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137)] {
        let place = Scratch::new();
        let output = converse(recorder(&place, &[], &["sh", "-c", script]), Vec::new());
        assert_eq!(output.status.code(), Some(code), "{script}");
    }
    let place = Scratch::new();
    let output = converse(recorder(&place, &[], &["no-such-program"]), Vec::new());
    assert_eq!(output.status.code(), Some(127));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.contains("`no-such-program` could not be started: No such file"), "{told}");
    assert_eq!(output.stdout, b"");
}

#[test]
fn a_signal_reaches_the_server_which_decides() {
    let place = Scratch::new();
    let script = "trap 'echo bye; exit 5' TERM; echo up; while :; do read x; done";
    let mut host = Running::start(recorder(&place, &[], &["sh", "-c", script]));
    assert_eq!(host.line(), "up");
    host.signal(Signal::TERM);
    assert_eq!(host.line(), "bye");
    assert_eq!(host.code(), Some(5));
    let (_, transcript) = recording(&place.path("recordings"));
    assert_eq!(events(&transcript), ["start", "signal SIGTERM"]);
}

#[test]
fn a_server_never_outlives_its_recorder() {
    let place = Scratch::new();
    // It heeds neither the end of its input nor a polite signal.
    let script = "trap '' TERM HUP; echo $$; read x; echo read; while :; do sleep 1000; done";
    let mut host = Running::start(recorder(&place, &[], &["sh", "-c", script]));
    let pid = host.line();
    host.input.as_mut().unwrap().write_all(b"{}\n").unwrap();
    assert_eq!(host.line(), "read", "what came before is written down by now");
    assert!(is_running(&pid));
    host.signal(Signal::KILL);
    let begun = Instant::now();
    while is_running(&pid) {
        assert!(begun.elapsed() < PATIENCE, "the server runs on");
        thread::yield_now();
    }
    // What was seen so far is a transcript.
    recording(&place.path("recordings"));
}

#[test]
fn a_client_that_vanishes_ends_the_server() {
    let place = Scratch::new();
    let mut host = Running::start(recorder(&place, &[], &[TMWS, "stdio"]));
    let input = host.input.as_mut().unwrap();
    input.write_all(format!("{}\n", initialize()).as_bytes()).unwrap();
    assert!(host.line().contains("serverInfo"));
    let ids = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
    host.input.as_mut().unwrap().write_all(format!("{ids}\n").as_bytes()).unwrap();
    // Both ends at once, with an answer on its way that nobody takes.
    let Running { child, input, output } = &mut host;
    drop(input.take());
    let (nothing, _) = std::io::pipe().unwrap();
    *output = BufReader::new(ChildStdout::from(std::os::fd::OwnedFd::from(nothing)));
    let _ = child;
    assert!(host.code().is_some());
    recording(&place.path("recordings"));
}

#[test]
fn a_host_notices_that_the_server_reads_no_more() {
    let place = Scratch::new();
    let script = "exec 0<&-; echo closed; sleep 1000";
    let mut host = Running::start(recorder(&place, &[], &["sh", "-c", script]));
    assert_eq!(host.line(), "closed");
    let begun = Instant::now();
    while host.input.as_mut().unwrap().write_all(b"{}\n").is_ok() {
        assert!(begun.elapsed() < PATIENCE, "the host writes for nobody");
    }
}

#[test]
fn stderr_is_the_servers_and_stdout_holds_its_bytes_alone() {
    let place = Scratch::new();
    let output = converse(recorder(&place, &[], &["sh", "-c", "echo out; echo err >&2"]), Vec::new());
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
}

#[test]
fn a_file_that_cannot_be_written_breaks_nothing() {
    let place = Scratch::new();
    let mut command = place.command(&["record", "--out", "/dev/null/a.jsonl", "--", "cat"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = converse(command, vec![b"{}\n".to_vec()]);
    assert!(output.status.success());
    assert_eq!(output.stdout, b"{}\n");
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.contains("the conversation goes on without") && told.contains("/dev/null/a.jsonl"),
        "{told}"
    );
}

#[test]
fn planted_secrets_are_in_no_recording() {
    let place = Scratch::new();
    let secret = "planted-5ecret-0123456789";
    let (token, variable) = (format!("--token={secret}"), format!("API_KEY={secret}"));
    let (header, address) =
        (format!("Authorization: Bearer {secret}"), format!("http://u:{secret}@h/?token={secret}"));
    let flags = ["--redact", "customer-[0-9]+", "--replace", "/home/ada=/home/user"];
    let server = ["sh", "-c", "cat", &token, "--password", secret, &variable, "--header", &header, &address];
    let mut command = recorder(&place, &flags, &server);
    command.env("PLANTED_TOKEN", secret);
    let body = b"{\"a\":\"customer-17 in /home/ada/x\"}\n".to_vec();
    let output = converse(command, vec![body.clone()]);
    assert_eq!(output.stdout, body, "what passes is unchanged");
    let (file, transcript) = recording(&place.path("recordings"));
    let text = fs::read_to_string(file).unwrap();
    for gone in [secret, "customer-17", "/home/ada"] {
        assert!(!text.contains(gone), "{gone}: {text}");
    }
    let frame = said(&transcript, Direction::C2s)[0];
    assert_eq!(frame.raw.as_deref(), Some(r#"{"a":"<redacted> in /home/user/x"}"#));
}

#[test]
fn an_expression_that_is_none_is_refused() {
    let place = Scratch::new();
    for (flags, expected) in
        [(["--redact", "("], "is no expression: unclosed group"), (["--replace", "x"], "takes TEXT=WITH")]
    {
        let output = converse(recorder(&place, &flags, &["cat"]), Vec::new());
        assert_eq!(output.status.code(), Some(2));
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn a_file_that_may_not_grow_ends_the_recording_and_not_the_conversation() {
    let place = Scratch::new();
    let inner = recorder(&place, &[], &["cat"]);
    let mut command = place.command(&[]);
    let envs: Vec<_> =
        command.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
    let folder = command.get_current_dir().map(ToOwned::to_owned);
    command = Command::new("sh");
    command.args(["-c", "ulimit -f 1; exec \"$@\"", "sh"]).arg(inner.get_program()).args(inner.get_args());
    for (name, value) in envs {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    if let Some(folder) = folder {
        command.current_dir(folder);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let said = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}\n".repeat(50).into_bytes();
    let lines = said.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let output = converse(command, lines);
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert_eq!(output.stdout, said);
    assert!(told.contains("the recording ends here"), "{told}");
    // What is there is whole.
    recording(&place.path("recordings"));
}
