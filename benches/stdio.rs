//! `tmws stdio` against a bare loop that parses each frame and answers a fixed result, in one run, interleaved.
//!
//! `cargo build --release --example echo_server`, then
//! `cargo bench --bench stdio -- --ceiling PATH [--rounds N] [--echo target/release/examples/echo_server]`: PATH is a
//! program that speaks MCP over stdio when given the argument `stdio`. The trivial call is `tools/call echo`, of the
//! ceiling and of our own stack with one trivial tool. Only the ratios mean anything; they are taken within a round, and
//! the median is printed.

#![allow(clippy::print_stdout, reason = "the report")]

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"1"}}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const DEPTH: usize = 64;
const SEQUENTIAL_CALLS: usize = 10_000;
const DEEP_CALLS: usize = 64_000;

/// What is asked of a server over and over; `ID` is filled in.
struct Call {
    name: &'static str,
    line: &'static str,
}

const ECHO: Call = Call {
    name: "tools/call echo",
    line: r#"{"jsonrpc":"2.0","id":ID,"method":"tools/call","params":{"name":"echo","arguments":{"text":"the quick brown fox"}}}"#,
};
const PING: Call = Call { name: "ping", line: r#"{"jsonrpc":"2.0","id":ID,"method":"ping"}"# };
const FIND: Call = Call {
    name: "tools/call find_patterns",
    line: r#"{"jsonrpc":"2.0","id":ID,"method":"tools/call","params":{"name":"find_patterns","arguments":{"limit":1}}}"#,
};

struct Server {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    start: Duration,
}

impl Server {
    fn launch(program: &str) -> Self {
        let begun = Instant::now();
        let mut child = Command::new(program)
            .arg("stdio")
            .env("TMWS_DATABASE_URL", "sqlite:/nonexistent/never-opened.db")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let (input, output) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut server =
            Self { child, input, output: BufReader::with_capacity(1 << 16, output), start: Duration::ZERO };
        server.send(INITIALIZE);
        let first = server.line();
        server.start = begun.elapsed();
        assert!(first.contains("\"result\""), "{program}: {first}");
        server.send(INITIALIZED);
        server
    }

    fn send(&mut self, line: &str) {
        self.input.write_all(format!("{line}\n").as_bytes()).expect("the server reads");
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the server writes");
        line
    }

    /// One call at a time; the sorted latencies.
    fn sequential(&mut self, call: &Call) -> Vec<Duration> {
        let mut taken = Vec::with_capacity(SEQUENTIAL_CALLS);
        for id in 1..=SEQUENTIAL_CALLS {
            let frame = call.line.replace("ID", &id.to_string());
            let begun = Instant::now();
            self.send(&frame);
            let answer = self.line();
            taken.push(begun.elapsed());
            assert!(answer.contains("\"result\""), "{answer}");
        }
        taken.sort_unstable();
        taken
    }

    /// [`DEPTH`] calls in flight, sent as bursts; server CPU per call.
    fn deep(&mut self, call: &Call) -> (Duration, f64) {
        let before = self.cpu();
        let begun = Instant::now();
        for burst in 0..DEEP_CALLS / DEPTH {
            let mut frames = String::new();
            for slot in 0..DEPTH {
                frames.push_str(&call.line.replace("ID", &(burst * DEPTH + slot + 1).to_string()));
                frames.push('\n');
            }
            self.input.write_all(frames.as_bytes()).expect("the server reads");
            for _ in 0..DEPTH {
                let answer = self.line();
                assert!(answer.contains("\"result\""), "{answer}");
            }
        }
        let rate = DEEP_CALLS as f64 / begun.elapsed().as_secs_f64();
        (self.cpu().saturating_sub(before) / DEEP_CALLS as u32, rate)
    }

    /// CPU time of all threads so far, from the scheduler (ns).
    fn cpu(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("the server lives");
        let nanos = tasks
            .filter_map(|task| fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
            .filter_map(|stat| stat.split(' ').next()?.parse::<u64>().ok())
            .sum();
        Duration::from_nanos(nanos)
    }

    fn rss_mib(&self) -> f64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the server lives");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("Linux tells");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).expect("a number") / 1024.0
    }

    fn end(mut self) -> Duration {
        let begun = Instant::now();
        drop(self.input);
        self.child.wait().expect("the server ends");
        begun.elapsed()
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| {
        arguments
            .iter()
            .position(|argument| argument == name)
            .and_then(|index| arguments.get(index + 1))
            .cloned()
    };
    let Some(ceiling) = value("--ceiling") else {
        println!("give --ceiling PATH: a bare stdio loop to compare with");
        return;
    };
    let rounds: usize = value("--rounds").and_then(|text| text.parse().ok()).unwrap_or(9);
    let ours = env!("CARGO_BIN_EXE_tmws");

    let mut starts = Vec::new();
    let (mut floor, mut own) = (Vec::new(), Vec::new());
    for _ in 0..rounds * 3 {
        let (a, b) = (Server::launch(&ceiling), Server::launch(ours));
        floor.push(micros(a.start) / 1e3);
        own.push(micros(b.start) / 1e3);
        starts.push(b.start.as_secs_f64() / a.start.as_secs_f64());
        a.end();
        b.end();
    }
    println!("start-up: {:.2} ms, ceiling {:.2} ms, ratio {:.2}", median(own), median(floor), median(starts));

    let server = Server::launch(ours);
    println!("idle RSS after the handshake: {:.1} MiB", server.rss_mib());
    println!("end after EOF: {:.1} ms", server.end().as_secs_f64() * 1e3);

    let echo_server = value("--echo");
    let trivial = echo_server.as_deref().map(|program| (program, ECHO));
    for (program, call) in trivial.into_iter().chain([(ours, PING), (ours, FIND)]) {
        let (mut p50, mut p99, mut ratio) = (Vec::new(), Vec::new(), Vec::new());
        let (mut cpu, mut rate, mut cpu_floor) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let (mut a, mut b) = (Server::launch(&ceiling), Server::launch(program));
            let (low, high) = (a.sequential(&ECHO), b.sequential(&call));
            p50.push(micros(high[high.len() / 2]));
            p99.push(micros(high[high.len() * 99 / 100]));
            ratio.push(micros(high[high.len() / 2]) / micros(low[low.len() / 2]));
            let (per_call, per_second) = b.deep(&call);
            cpu.push(micros(per_call));
            rate.push(per_second);
            cpu_floor.push(micros(a.deep(&ECHO).0));
            a.end();
            b.end();
        }
        println!(
            "{}: sequential p50 {:.1} µs, p99 {:.1} µs, {:.2} times the ceiling's p50; {DEPTH} deep: {:.2} µs CPU a call (ceiling {:.2}), {:.0} calls/s",
            call.name,
            median(p50),
            median(p99),
            median(ratio),
            median(cpu),
            median(cpu_floor),
            median(rate),
        );
    }
}
