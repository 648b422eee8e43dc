//! Who gets into a shared server: the real binary, its token, its tokens file, and its end.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    ops::Deref,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Output, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::scratch::Scratch;

/// A wait that is longer than this is a failure.
const PATIENCE: Duration = Duration::from_secs(20);

/// A home of its own.
struct Desk(Scratch);

impl Deref for Desk {
    type Target = Scratch;

    fn deref(&self) -> &Scratch {
        &self.0
    }
}

impl Desk {
    fn new() -> Self {
        Self(Scratch::new())
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// A command that must succeed; its stdout without the line's end.
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// A command that must fail; its code and what it says.
    fn failed(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    fn token_file(&self) -> PathBuf {
        self.path("home/.local/share/tmws/token")
    }

    fn serve(&self, arguments: &[&str]) -> Server {
        let mut all = vec!["serve", "--listen", "127.0.0.1:0"];
        all.extend(arguments);
        let mut child = self.command(&all).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut server = Server { child, lines, told: String::new(), address: ([127, 0, 0, 1], 0).into() };
        let line = server.line("listening");
        let address = line.split("address=").nth(1).unwrap().split_whitespace().next().unwrap();
        server.address = address.parse().unwrap();
        server
    }
}

/// A running server.
struct Server {
    child: Child,
    lines: Receiver<String>,
    told: String,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// The next line of the log that holds `text`.
    fn line(&mut self, text: &str) -> String {
        loop {
            let line = self
                .lines
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("no line with `{text}` after:\n{}", self.told));
            self.told.push_str(&line);
            self.told.push('\n');
            if line.contains(text) {
                return line;
            }
        }
    }

    /// The status that a request gets.
    fn status(&self, path: &str, headers: &str) -> u16 {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let host = self.address;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\nConnection: close\r\n{headers}\r\n"
        )
        .unwrap();
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line).unwrap();
        line.split(' ').nth(1).unwrap_or_else(|| panic!("no status: {line}")).parse().unwrap()
    }

    /// Whether a token opens `path`, and with which refusal it does not. What is answered inside is another matter.
    fn lets_in(&self, path: &str, token: &str) -> Result<(), u16> {
        match self.status(path, &format!("Authorization: Bearer {token}\r\n")) {
            refused @ (401 | 403) => Err(refused),
            _ => Ok(()),
        }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end; its code.
    fn end(mut self) -> Option<i32> {
        let begun = Instant::now();
        let status = self.child.wait().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(5), "took {:?}", begun.elapsed());
        self.told.extend(self.lines.try_iter());
        status.code()
    }
}

#[test]
fn the_first_start_makes_a_token_and_the_next_ones_keep_it() {
    let desk = Desk::new();
    let mut server = desk.serve(&[]);
    server.line("clients need the token of this file");
    let token = fs::read_to_string(desk.token_file()).unwrap();
    let token = token.trim_end();
    assert!(token.starts_with("tmws_") && token.len() == 48, "{} bytes", token.len());
    assert_eq!(fs::metadata(desk.token_file()).unwrap().permissions().mode() & 0o777, 0o600);
    for path in ["/mcp", "/p/personal/mcp", "/p/anything/mcp"] {
        assert_eq!(server.status(path, ""), 401, "{path}");
        assert_eq!(server.lets_in(path, &token.replace("tmws", "tmvs")), Err(401), "{path}");
        assert_eq!(server.lets_in(path, token), Ok(()), "{path}");
    }
    assert_eq!(
        server.status(&format!("/mcp?token={token}&access_token={token}"), ""),
        401,
        "tokens are never in URLs"
    );
    assert!(!server.told.contains(token), "the token is in the log");
    assert!(server.told.contains(desk.token_file().to_str().unwrap()));
    server.signal(Signal::TERM);
    assert_eq!(server.end(), Some(0));
    let server = desk.serve(&[]);
    assert_eq!(server.lets_in("/mcp", token), Ok(()));
}

#[test]
fn a_token_that_others_can_read_is_refused_with_the_remedy() {
    let desk = Desk::new();
    drop(desk.serve(&[]));
    fs::set_permissions(desk.token_file(), fs::Permissions::from_mode(0o644)).unwrap();
    let (code, told) = desk.failed(&["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(code, 78, "{told}");
    assert!(told.contains("is open to other users (mode 644): remove it"), "{told}");
    let doctor = desk.run(&["doctor", "--no-probe"]);
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("is open to other users"));
}

#[test]
fn without_authentication_it_is_for_this_machine_alone() {
    let desk = Desk::new();
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
        let (code, told) = desk.failed(&["serve", "--no-auth", "--listen", address]);
        assert_eq!(code, 78, "{told}");
        assert!(told.starts_with("tmws: failed to serve: without authentication only loopback"), "{told}");
        assert!(told.contains("hint: leave `--no-auth` out"), "{told}");
    }
    let mut server = desk.serve(&["--no-auth"]);
    server.line("clients need no token");
    assert!(!matches!(server.status("/mcp", ""), 401 | 403));
    assert!(!desk.token_file().exists());
}

#[test]
fn tokens_come_and_go_while_it_runs() {
    let desk = Desk::new();
    let file = desk.path("tokens.toml");
    let file = file.to_str().unwrap();
    let (code, told) = desk.failed(&["serve", "--tokens-file", file]);
    assert_eq!(code, 78, "{told}");
    assert!(told.contains("`tmws token new --principal NAME` makes it"), "{told}");

    let config = desk.path("home/.config/tmws");
    fs::create_dir_all(&config).unwrap();
    fs::write(
        config.join("tmws.toml"),
        format!("tokens_file = \"{file}\"\n[projects.p_web]\nalias = \"web\"\n"),
    )
    .unwrap();
    let ada = desk.done(&[
        "token",
        "new",
        "--principal",
        "ada",
        "--project",
        "web=write",
        "--scope",
        "memory:write",
    ]);
    let mut server = desk.serve(&[]);
    assert_eq!(server.lets_in("/p/web/mcp", &ada), Ok(()));
    assert_eq!(server.lets_in("/p/p_web/mcp", &ada), Ok(()));
    assert_eq!(server.lets_in("/mcp", &ada), Err(403));
    assert_eq!(server.lets_in("/p/nowhere/mcp", &ada), Err(403));
    assert!(!desk.token_file().exists());

    let bob = desk.done(&["token", "new", "--principal", "bob", "--agent", "ci", "--expires", "1d"]);
    server.line("the tokens were read again");
    assert_eq!(server.lets_in("/mcp", &bob), Ok(()));

    let good = fs::read_to_string(file).unwrap();
    fs::write(file, "[[token]]\nsha265 = 1\n").unwrap();
    let line = server.line("the tokens cannot be read again");
    assert!(line.contains("tokens.toml:2: unknown key `sha265`; did you mean `sha256`?"), "{line}");
    assert_eq!(server.lets_in("/mcp", &bob), Ok(()), "what was read before is still good");
    fs::write(file, good).unwrap();
    server.line("the tokens were read again");

    let gone = desk.done(&["token", "revoke", "bob"]);
    assert!(gone.contains("bob  ci  personal=write  pattern:run memory:read  until "), "{gone}");
    server.line("the tokens were read again");
    assert_eq!(server.lets_in("/mcp", &bob), Err(401));
    assert_eq!(server.lets_in("/p/web/mcp", &ada), Ok(()));

    server.signal(Signal::HUP);
    let line = server.line("the tokens were read again");
    assert!(line.contains("tokens=1 came=0 gone=0"), "{line}");
    for secret in [&ada, &bob] {
        assert!(
            !server.told.contains(secret.as_str())
                && !fs::read_to_string(file).unwrap().contains(secret.as_str())
        );
    }
    server.signal(Signal::INT);
    assert_eq!(server.end(), Some(0));
}

#[test]
fn tokens_are_listed_for_people_and_for_machines() {
    let desk = Desk::new();
    let file = desk.path("tokens.toml");
    let file = file.to_str().unwrap();
    let (code, told) = desk.failed(&["token", "list"]);
    assert_eq!(code, 78);
    assert!(told.contains("hint: set `tokens_file`"), "{told}");
    let new: Value = serde_json::from_str(&desk.done(&[
        "--json",
        "token",
        "--tokens-file",
        file,
        "new",
        "--principal",
        "ada",
        "--project",
        "*=read",
        "--scope",
        "admin",
        "--expires",
        "2030-01-01",
    ]))
    .unwrap();
    let list: Value =
        serde_json::from_str(&desk.done(&["--json", "token", "list", "--tokens-file", file])).unwrap();
    assert_eq!(
        list,
        serde_json::json!([{
            "hash": new["hash"], "principal": "ada", "agent": null, "projects": {"*": "read"}, "scopes": ["admin"],
            "expires": "2030-01-01T00:00:00Z",
        }])
    );
    for (arguments, expected) in [
        (vec!["token", "new", "--principal", "two words"], "a principal is named by"),
        (vec!["token", "new", "--principal", "bob", "--scope", "root"], "unknown scope `root`; there are"),
        (vec!["token", "new", "--principal", "bob", "--expires", "soon"], "`expires` is a date"),
        (vec!["token", "new", "--principal", "bob", "--expires", "2020-01-01"], "is over already"),
        (vec!["token", "revoke", "bob"], "no token is of a principal of that name"),
    ] {
        let mut all = arguments.clone();
        all.extend(["--tokens-file", file]);
        let (code, told) = desk.failed(&all);
        assert_eq!(code, 2, "{arguments:?}: {told}");
        assert!(told.contains(expected), "{arguments:?}: {told}");
    }
    let new = desk.run(&["token", "new", "--principal", "bob", "--project", "wbe", "--tokens-file", file]);
    let told = String::from_utf8(new.stderr).unwrap();
    assert!(new.status.success() && told.contains("no project is configured as `wbe`"), "{told}");
    desk.done(&["token", "revoke", "bob", "--tokens-file", file]);
    let doctor = desk.command(&["doctor", "--no-probe"]).env("TMWS_TOKENS_FILE", file).output().unwrap();
    let doctor = String::from_utf8(doctor.stdout).unwrap();
    assert!(doctor.contains(&format!("1 token in {file}")), "{doctor}");
}

#[test]
fn an_address_that_is_taken_is_said_so() {
    let desk = Desk::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, told) = desk.failed(&["serve", "--no-auth", "--listen", &address]);
    assert_eq!(code, 69, "{told}");
    assert!(told.starts_with(&format!("tmws: failed to serve: cannot listen on {address}: ")), "{told}");
    assert!(told.contains("hint: another server may listen there"), "{told}");
}

#[test]
fn a_certificate_is_checked_before_anybody_is_served() {
    let desk = Desk::new();
    let fixture = |name: &str| format!("{}/fixtures/tls/{name}", env!("CARGO_MANIFEST_DIR"));
    let (certificate, key) = (fixture("cert.pem"), fixture("key.pem"));
    let absent = desk.path("absent.pem");
    let absent = absent.to_str().unwrap();
    for (certificate, key, expected) in [
        (absent, key.as_str(), format!("no TLS: {absent} cannot be read")),
        (key.as_str(), key.as_str(), format!("no TLS: {key} holds no certificate")),
        (certificate.as_str(), certificate.as_str(), format!("no TLS: {certificate} holds no private key")),
    ] {
        let listen = "127.0.0.1:0";
        let (code, told) =
            desk.failed(&["serve", "--listen", listen, "--tls-cert", certificate, "--tls-key", key]);
        assert_eq!(code, 78, "{told}");
        assert!(told.contains(&expected), "{told}");
        assert!(!told.contains("PRIVATE KEY-----\nM"), "{told}");
        let (set_certificate, set_key) = (format!("tls_cert={certificate}"), format!("tls_key={key}"));
        let doctor = ["doctor", "--no-probe", "--setting", &set_certificate, "--setting", &set_key];
        let told = String::from_utf8(desk.run(&doctor).stdout).unwrap();
        assert!(told.contains(expected.trim_start_matches("no TLS: ")), "{told}");
    }
    let mut server = desk.serve(&["--tls-cert", &certificate, "--tls-key", &key]);
    assert!(server.told.contains("tls=true"), "{}", server.told);
    server.line("clients need the token");
    // Whoever does not speak TLS is told nothing.
    let mut plain = TcpStream::connect(server.address).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[test]
fn it_ends_in_time_whatever_is_connected() {
    let desk = Desk::new();
    let server = desk.serve(&["--no-auth"]);
    let mut silent = TcpStream::connect(server.address).unwrap();
    let mut half = TcpStream::connect(server.address).unwrap();
    half.write_all(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{").unwrap();
    assert_eq!(server.status("/healthz", ""), 200, "it serves meanwhile");
    server.signal(Signal::TERM);
    assert_eq!(server.end(), Some(0));
    silent.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap_or(0), 0);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let desk = Desk::new();
    let mut server = desk.serve(&["--no-auth", "--setting", "limits.shutdown=1h"]);
    let mut half = TcpStream::connect(server.address).unwrap();
    half.write_all(b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{").unwrap();
    assert_eq!(server.status("/healthz", ""), 200);
    server.signal(Signal::TERM);
    server.line("ending: calls in flight may still answer");
    server.signal(Signal::TERM);
    assert_eq!(server.end(), Some(0));
}

#[test]
fn a_project_whose_root_is_not_there_is_told_before_anybody_asks() {
    let desk = Desk::new();
    let config = desk.path("tmws.toml");
    let missing = desk.path("missing");
    fs::write(&config, format!("[projects.web]\nroot = \"{}\"\n", missing.display())).unwrap();
    let config = config.to_str().unwrap();
    let expected = format!("{} ([projects] in tmws.toml) cannot be used", missing.display());
    let told = String::from_utf8(desk.run(&["doctor", "--no-probe", "--config", config]).stdout).unwrap();
    assert!(told.contains(&expected) && told.contains("warn  projects"), "{told}");
    let line = desk.serve(&["--no-auth", "--config", config]).line("the root of a project");
    assert!(line.contains("project=web") && line.contains(&expected), "{line}");
}
