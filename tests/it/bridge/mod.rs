//! `tmws connect` between a host on pipes and a scripted server: what passes, what is replayed, how it ends.

mod http;
mod shared;
mod websocket;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Nothing here takes so long on a healthy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

/// A running bridge and the host's ends of its pipes.
struct Bridge {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    log: Receiver<String>,
    _place: TempDir,
}

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

impl Bridge {
    fn start(arguments: &[&str]) -> Self {
        Self::with(arguments, |_| {})
    }

    fn with(arguments: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        let mut bridge = Self::with_pipes(arguments, |command| {
            change(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        });
        bridge.input = bridge.child.stdin.take();
        bridge
    }

    /// With stdin and stdout as `change` sets them.
    fn with_pipes(arguments: &[&str], change: impl FnOnce(&mut Command)) -> Self {
        let place = tempfile::tempdir().unwrap();
        std::fs::create_dir(place.path().join("workspace")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tmws"));
        command
            .arg("connect")
            .args(arguments)
            .current_dir(place.path().join("workspace"))
            .env_clear()
            .env("HOME", place.path().join("home"))
            .env("TMWS_AGENT", "tester")
            .stderr(Stdio::piped());
        change(&mut command);
        let mut child = command.spawn().unwrap();
        let (output, errors) = (child.stdout.take(), child.stderr.take().unwrap());
        let output = output.map_or_else(|| channel().1, lines);
        Self { input: None, lines: output, log: lines(errors), child, _place: place }
    }

    fn send(&mut self, line: &str) {
        self.input.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    fn receive_text(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a frame on stdout")
    }

    fn receive(&self) -> Value {
        let line = self.receive_text();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"))
    }

    /// The next frame is an error with this id, spelled like this; its message.
    fn receive_error(&self, id: &str) -> String {
        let line = self.receive_text();
        assert!(line.starts_with(&format!(r#"{{"jsonrpc":"2.0","id":{id},"error""#)), "{id}: {line}");
        let frame: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(frame["error"]["code"], -32603, "{line}");
        frame["error"]["message"].as_str().unwrap().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "the bridge does not end");
            std::thread::yield_now();
        }
    }

    /// Closes stdin; what was still said, and how long the end took.
    fn end(mut self) -> (Vec<Value>, Duration) {
        let begun = Instant::now();
        drop(self.input.take());
        let status = self.wait();
        let took = begun.elapsed();
        assert!(status.success(), "{status}: {:?}", self.log.try_iter().collect::<Vec<_>>());
        (self.lines.iter().map(|line| serde_json::from_str(&line).unwrap()).collect(), took)
    }

    /// Resident memory, in KiB.
    fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        drop(self.input.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A listener on a free port.
fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let begun = Instant::now();
    loop {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            return stream;
        }
        assert!(begun.elapsed() < PATIENCE, "nobody connects");
        std::thread::yield_now();
    }
}

fn initialize_answer(id: &Value, revision: &str) -> String {
    json!({"jsonrpc": "2.0", "id": id, "result": {"protocolVersion": revision, "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}}).to_string()
}

fn empty_answer(id: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": id, "result": {}}).to_string()
}

fn call(id: &str, name: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":{name:?}}}}}"#)
}
