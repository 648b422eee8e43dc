//! With the server that it is made for.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::Receiver,
};

use super::{Bridge, INITIALIZE, INITIALIZED, PATIENCE, lines};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// `tmws serve` with a home of its own.
struct Served {
    child: Child,
    address: SocketAddr,
    _log: Receiver<String>,
}

impl Served {
    fn start(home: &Path, listen: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_tmws"))
            .args(["serve", "--listen", listen])
            .current_dir(home)
            .env_clear()
            .env("HOME", home)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = lines(child.stderr.take().unwrap());
        let address = loop {
            let line = log.recv_timeout(PATIENCE).expect("the server says where it listens");
            if let Some((_, rest)) = line.split_once("listening address=") {
                break rest.split_whitespace().next().unwrap().parse().unwrap();
            }
        };
        Self { child, address, _log: log }
    }

    fn stop(mut self) -> SocketAddr {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
        self.address
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn place() -> TempDir {
    let place = tempfile::tempdir().unwrap();
    std::fs::create_dir(place.path().join("workspace")).unwrap();
    place
}

/// A bridge in the server's home, where the local token is.
fn bridge(home: &Path, scheme: &str, address: SocketAddr) -> Bridge {
    Bridge::with(&[&format!("{scheme}://{address}")], |command| {
        command.env("HOME", home).current_dir(home.join("workspace"));
    })
}

impl Bridge {
    fn ask(&mut self, frame: &str) -> Value {
        self.send(frame);
        let id = serde_json::from_str::<Value>(frame).unwrap()["id"].clone();
        loop {
            let answer = self.receive();
            if answer["id"] == id {
                return answer;
            }
        }
    }

    fn tool(&mut self, id: u32, name: &str, arguments: &Value) -> Value {
        let params = json!({"name": name, "arguments": arguments});
        let answer = self
            .ask(&json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}).to_string());
        let text = answer["result"]["content"][0]["text"].as_str();
        serde_json::from_str(text.unwrap_or_else(|| panic!("{answer}"))).unwrap()
    }

    fn recalled(&mut self, id: u32) -> Value {
        self.tool(id, "execute_pattern", &json!({"pattern": "memory.recall", "input": {"query": "cat"}}))["total"].clone()
    }
}

#[test]
fn a_session_outlives_the_servers_restart() {
    for scheme in ["ws", "http"] {
        let place = place();
        let served = Served::start(place.path(), "127.0.0.1:0");
        let mut bridge = bridge(place.path(), scheme, served.address);
        assert_eq!(bridge.ask(INITIALIZE)["result"]["protocolVersion"], "2025-11-25", "{scheme}");
        bridge.send(INITIALIZED);
        let tools = bridge.ask(r#"{"jsonrpc":"2.0","id":"l","method":"tools/list"}"#);
        assert_eq!(tools["result"]["tools"].as_array().unwrap().len(), 4, "{scheme}: {tools}");
        bridge.tool(1, "remember", &json!({"content": "The cat is grey"}));
        assert_eq!(bridge.recalled(2), 1);
        let address = served.stop();
        let served = Served::start(place.path(), &address.to_string());
        // The level is the session's: it can only be set in one that stands.
        let level = r#"{"jsonrpc":"2.0","id":3,"method":"logging/setLevel","params":{"level":"error"}}"#;
        assert_eq!(bridge.ask(level)["result"], json!({}), "{scheme}");
        assert_eq!(bridge.recalled(4), 1, "nothing was written twice");
        let (rest, took) = bridge.end();
        assert!(rest.is_empty() && took.as_millis() < 900, "{scheme}: {rest:?} {took:?}");
        served.stop();
    }
}

#[test]
fn stateless_requests_need_no_session() {
    let claim = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}});
    for scheme in ["ws", "http"] {
        let place = place();
        let served = Served::start(place.path(), "127.0.0.1:0");
        let mut bridge = bridge(place.path(), scheme, served.address);
        let mut ask = |id: Value, method: &str, mut params: Value| {
            params["_meta"] = claim.clone();
            bridge.ask(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string())
        };
        let discovered = ask(json!("d"), "server/discover", json!({}));
        assert_eq!(
            discovered["result"]["supportedVersions"],
            json!(["2026-07-28"]),
            "{scheme}: {discovered}"
        );
        let stored = ask(
            json!(-1),
            "tools/call",
            json!({"name": "remember", "arguments": {"content": "The cat is grey"}}),
        );
        assert_eq!(stored["result"]["resultType"], "complete", "{scheme}: {stored}");
        let unknown = ask(json!(2), "tools/none", json!({}));
        assert_eq!(unknown["error"]["code"], -32601, "{scheme}: {unknown}");
        let (rest, _) = bridge.end();
        assert!(rest.is_empty(), "{scheme}: {rest:?}");
    }
}
