//! The whole program: what becomes of its servers when it ends, what they cost it, and how a person pins their tools.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::support::{assert_gone, is_running, script, tools};
use crate::support::scratch::Scratch;

const PATTERN: &str = "\
apiVersion: tmws/v1
kind: Pattern
name: test.call
version: 1.0.0
type: infrastructure
description: Calls a tool of another server. For tests only.
triggers:
  phrases: [call the tool of the other server]
  examples:
    match: [call the tool of the other server, please call the tool of the other server, call the tool of the other server now]
    no_match: [one thing, two things, three things]
  priority: 10
  auto: read-only
inputs:
  type: object
  additionalProperties: false
  required: [server]
  properties: {server: {type: string}, tool: {type: string, default: echo}, arguments: {type: object, default: {text: hello}}}
permissions: {mcp: ['*']}
limits: {timeout: 25s, max_steps: 4, max_bytes: 4MiB}
steps:
  - {id: called, uses: mcp.call, with: {server: '${ .inputs.server }', tool: '${ .inputs.tool }', arguments: '${ .inputs.arguments }'}}
output:
  schema: {type: object, required: [text], properties: {text: {type: string}}}
  value: '${ {text: (.steps.called.text // \"\")[:100]} }'
  budget: {tokens: 120}
annotations: {readOnlyHint: true}
tests:
  - {name: none, inputs: {server: none}, expect: {error: denied}}
";

/// A home with one server for each mode, all tools pinned, and the pattern.
fn place(modes: &[&str]) -> Scratch {
    let scratch = Scratch::new();
    let folder = scratch.path("home/.config/tmws");
    fs::create_dir_all(folder.join("patterns")).unwrap();
    fs::write(folder.join("patterns/test.call.yaml"), PATTERN).unwrap();
    let mut text = String::new();
    for mode in modes {
        let script = script().display().to_string();
        write!(
            text,
            "[servers.{mode}]\ncommand = [\"python3\", \"-S\", \"{script}\", {mode:?}]\n\
             env = {{ PIDS = \"{}\", SECRET = \"hunter2\" }}\ntimeout = \"5s\"\n",
            scratch.path("pids").display()
        )
        .unwrap();
        for (name, tool) in tools() {
            writeln!(text, "tools.{name} = {{ schema = \"{}\", reads = {} }}", tool.pin, tool.reads).unwrap();
        }
    }
    fs::write(folder.join("tmws.toml"), text).unwrap();
    scratch
}

fn pids(scratch: &Scratch) -> Vec<u32> {
    let text = fs::read_to_string(scratch.path("pids")).unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// `tmws stdio`, greeted.
struct Host {
    child: Child,
    output: BufReader<ChildStdout>,
    id: u32,
}

impl Host {
    fn start(scratch: &Scratch) -> Self {
        let mut command = scratch.command(&["stdio"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut host = Self { child, output, id: 0 };
        host.ask(
            "initialize",
            &json!({"protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"}}),
        );
        host.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        host
    }

    fn say(&mut self, message: &Value) {
        let input = self.child.stdin.as_mut().unwrap();
        input.write_all(format!("{message}\n").as_bytes()).unwrap();
    }

    fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.id += 1;
        let id = self.id;
        self.say(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}));
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "it ended");
            let message: Value = serde_json::from_str(&line).unwrap();
            if message["id"] == id {
                return message["result"].clone();
            }
        }
    }

    /// Calls `echo` of a server: the text of the answer.
    fn echo(&mut self, server: &str) -> String {
        let arguments = json!({"pattern": "test.call", "input": {"server": server}});
        let result = self.ask("tools/call", &json!({"name": "execute_pattern", "arguments": arguments}));
        result["content"][0]["text"].as_str().unwrap().to_owned()
    }

    /// Waits for its end, which must come soon.
    fn ended(mut self) -> Duration {
        let begun = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(20), "it does not end");
            std::thread::sleep(Duration::from_millis(2));
        }
        begun.elapsed()
    }
}

#[tokio::test]
async fn no_server_is_left_whichever_way_the_program_ends() {
    // What hears the end of its input, and what obeys nothing and has a child of its own.
    for (modes, how) in [
        (&["good", "family", "strays"][..], "eof"),
        (&["family", "strays"], "term"),
        (&["good", "slow"], "kill"),
    ] {
        let scratch = place(modes);
        let mut host = Host::start(&scratch);
        for mode in modes {
            assert!(host.echo(mode).contains("hello"), "{mode}");
        }
        let started = pids(&scratch);
        assert!(started.len() >= modes.len() && started.iter().all(|pid| is_running(*pid)), "{started:?}");
        match how {
            "eof" => drop(host.child.stdin.take()),
            "term" => kill_process(Pid::from_child(&host.child), Signal::TERM).unwrap(),
            _ => kill_process(Pid::from_child(&host.child), Signal::KILL).unwrap(),
        }
        let took = host.ended();
        assert!(took < Duration::from_secs(5), "{how}: {took:?}");
        assert_gone(&started).await;
    }
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "a figure for whoever runs it with --nocapture")]
async fn floods_cost_no_memory_and_leave_the_server_serving() {
    let modes = ["good", "junk", "one-line", "floods-at-start", "notifies", "asks", "loud", "huge", "deep"];
    let scratch = place(&modes);
    let mut host = Host::start(&scratch);
    host.echo("good");
    let peak = |host: &Host| {
        let status = fs::read_to_string(format!("/proc/{}/status", host.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let before = peak(&host);
    for mode in &modes[1..] {
        let answer = host.echo(mode);
        assert!(!answer.contains("hunter2"), "{answer}");
    }
    let grown = peak(&host) - before;
    println!("the floods took {grown} KiB beside {before} KiB");
    assert!(grown < 96 << 10, "{grown} KiB more");
    assert!(host.echo("good").contains("hello"));
    let started = pids(&scratch);
    drop(host.child.stdin.take());
    host.ended();
    assert_gone(&started).await;
}

#[tokio::test]
async fn a_run_on_the_command_line_leaves_nobody_behind() {
    for mode in ["family", "strays"] {
        let scratch = place(&[mode]);
        let run =
            scratch.command(&["run", "test.call", "--set", &format!("server={mode}")]).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        assert!(String::from_utf8_lossy(&run.stdout).contains("hello"));
        let started = pids(&scratch);
        assert_eq!(started.len(), 2);
        assert_gone(&started).await;
    }
}

fn out(mut command: Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// Writes the configuration anew.
fn configure(scratch: &Scratch, text: &str) {
    let folder = scratch.path("home/.config/tmws");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("tmws.toml"), text).unwrap();
}

#[test]
fn what_tools_prints_is_what_pins_them() {
    let scratch = Scratch::new();
    let own =
        format!("[servers.docs]\ncommand = [\"python3\", \"-S\", \"{}\", \"good\"]\n", script().display());
    configure(&scratch, &own);
    let (code, printed, errors) = out(scratch.command(&["tools"]));
    assert_eq!(code, Some(0), "{errors}");
    assert!(printed.contains("new  docs/echo") && printed.contains("says it reads only"), "{printed}");
    let paste = printed.split_once("\n\n").unwrap().1;
    configure(&scratch, &format!("{own}{paste}"));
    let (code, printed, _) = out(scratch.command(&["tools", "docs"]));
    assert_eq!(code, Some(0));
    assert!(printed.contains("pinned  docs/echo") && !printed.contains("schema ="), "{printed}");
    let (code, printed, _) = out(scratch.command(&["doctor", "--no-probe"]));
    assert!(printed.contains("1 configured, 4 tools pinned"), "{printed}");
    assert_eq!(code, Some(0));
    // The server has become another one.
    configure(&scratch, &format!("{}{paste}", own.replace("\"good\"", "\"rug-pull\"")));
    let (code, printed, _) = out(scratch.command(&["tools"]));
    assert_eq!(code, Some(1));
    assert!(printed.contains("docs/echo is not what was pinned"), "{printed}");
    let (code, printed, _) = out(scratch.command(&["tools", "--json"]));
    let listed: Value = serde_json::from_str(&printed).unwrap();
    let standing: Vec<_> = listed["tools"].as_array().unwrap().iter().map(|tool| &tool["standing"]).collect();
    assert_eq!((code, standing.iter().filter(|word| **word == "differs").count()), (Some(1), 1));
    let (code, _, errors) = out(scratch.command(&["tools", "doc"]));
    assert_eq!(code, Some(2));
    assert!(errors.contains("did you mean `docs`?"), "{errors}");
}

/// `tmws serve` with a home of its own.
struct Served {
    child: Child,
    url: String,
}

impl Served {
    fn start(home: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tmws"))
            .args(["serve", "--listen", "127.0.0.1:0"])
            .args(more)
            .current_dir(home)
            .env_clear()
            .env("HOME", home)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).unwrap(), 0, "the server says where it listens");
            if let Some((_, rest)) = line.split_once("listening address=") {
                break rest.split_whitespace().next().unwrap().to_owned();
            }
        };
        // Its log is read to the end, so that it never waits for it.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, url: format!("http://{address}/mcp") }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_server_on_the_network_is_called_with_its_own_token_and_no_other() {
    let scratch = place(&[]);
    let home = tempfile::tempdir().unwrap();
    let served = Served::start(home.path(), &[]);
    let token = fs::read_to_string(home.path().join(".local/share/tmws/token")).unwrap_or_else(|_| {
        let files = fs::read_dir(home.path().join(".local/share/tmws")).unwrap();
        panic!("no token among {:?}", files.map(|file| file.unwrap().file_name()).collect::<Vec<_>>())
    });
    let own = format!("[servers.other]\nurl = \"{}\"\n", served.url);
    configure(&scratch, &own);
    let (code, _, errors) = out(scratch.command(&["tools"]));
    assert_eq!(code, Some(1));
    assert!(errors.contains("it wants a token; `token_env`"), "{errors}");
    let own = format!("{own}token_env = \"OTHER_TOKEN\"\n");
    configure(&scratch, &own);
    let (_, _, errors) = out(scratch.command(&["tools"]));
    assert!(errors.contains("OTHER_TOKEN"), "{errors}");
    let with_token = |arguments: &[&str]| {
        let mut command = scratch.command(arguments);
        // A proxy that the environment names is not asked.
        command.env("OTHER_TOKEN", token.trim()).env("http_proxy", "http://127.0.0.1:9");
        out(command)
    };
    let (code, printed, errors) = with_token(&["tools"]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(!format!("{printed}{errors}").contains(token.trim()));
    let paste = printed.split_once("\n\n").unwrap().1;
    configure(&scratch, &format!("{own}{}", paste.replace("schema =", "reads = true\nschema =")));
    let input = json!({"server": "other", "tool": "find_patterns", "arguments": {"query": "what changed"}});
    let (code, printed, errors) = with_token(&["run", "test.call", "--input", &input.to_string()]);
    assert_eq!(code, Some(0), "{errors}");
    assert!(printed.contains("patterns"), "{printed}");
    drop(served);
    let (code, _, errors) = with_token(&["run", "test.call", "--input", &input.to_string()]);
    assert_eq!(code, Some(1));
    assert!(errors.contains("cannot be reached"), "{errors}");
}

#[test]
fn a_server_on_the_network_that_redirects_or_floods_is_not_followed() {
    use std::net::TcpListener;
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let location = format!("http://{}/mcp", elsewhere.local_addr().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            while reader.read_line(&mut line).is_ok_and(|count| count > 2) {
                line.clear();
            }
            let head = if number == 0 {
                format!(
                    "HTTP/1.1 307 Temporary Redirect\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
                )
            } else {
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[".to_owned()
            };
            if stream.write_all(head.as_bytes()).is_ok() && number > 0 {
                while stream.write_all(&[b'1'; 8192]).is_ok() {}
            }
        }
    });
    let scratch = place(&[]);
    configure(
        &scratch,
        &format!("[servers.other]\nurl = \"{url}\"\nheaders = {{ X-Key = \"hunter2\" }}\nstart = \"10s\"\n"),
    );
    for _ in 0..2 {
        let (code, _, errors) = out(scratch.command(&["tools"]));
        assert_eq!(code, Some(1));
        assert!(errors.contains("server other: it"), "{errors}");
        assert!(!errors.contains("hunter2"), "{errors}");
    }
    assert!(elsewhere.accept().is_err(), "the redirect was followed");
}

#[test]
fn a_server_that_says_back_what_it_was_sent_puts_no_token_into_answer_or_log() {
    use std::net::TcpListener;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/mcp", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut told = String::new();
            while reader.read_line(&mut told).is_ok_and(|count| count > 2) {}
            let said = json!({"error": told}).to_string();
            let status =
                ["401 Unauthorized", "403 Forbidden", "500 Internal Server Error", "200 OK"][number % 4];
            let length = said.len();
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
            );
            let _ = stream.write_all(format!("{head}{said}").as_bytes());
        }
    });
    let scratch = place(&[]);
    configure(
        &scratch,
        &format!(
            "[servers.other]\nurl = \"{url}\"\nheaders = {{ X-Key = \"hunter2\" }}\ntoken_env = \"OTHER_TOKEN\"\nstart = \"10s\"\n"
        ),
    );
    for log in ["trace", "error,rmcp=trace"] {
        for _ in 0..4 {
            let mut command = scratch.command(&["tools"]);
            command.env("OTHER_TOKEN", "swordfish").env("TMWS_LOG", log);
            let (code, printed, errors) = out(command);
            assert_eq!(code, Some(1), "{errors}");
            let told = format!("{printed}{errors}");
            assert!(!told.contains("hunter2") && !told.contains("swordfish"), "{told}");
        }
    }
}
