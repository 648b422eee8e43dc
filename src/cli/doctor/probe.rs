//! Launches this very binary as a host would, opens a conversation in both eras and times it.
//!
//! No tool is called and nothing is stored. Whatever is on stdout besides frames fails the probe.

use std::{
    ffi::OsString,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::Command,
    time::timeout,
};

use crate::revision::Revision;

/// Longest wait for one answer, and for the end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longest line taken, in bytes.
const LINE_BYTES_MAX: u64 = 4 << 20;

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Probed {
    /// From launching to the first answer.
    pub(super) first_answer: Duration,
    /// From the end of input to the end of the process.
    pub(super) exit: Duration,
    /// Tools listed.
    pub(super) tools: usize,
    /// Bytes of all answers.
    pub(super) bytes: usize,
}

/// How the server is launched: the program, its arguments, variables on top of our own.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
}

/// Runs the conversation.
///
/// # Errors
/// What went wrong, as a fragment; `stdout` begins those that break the wire.
pub(super) async fn probe(launch: &Launch) -> Result<Probed, String> {
    let started = Instant::now();
    let mut child = Command::new(&launch.program)
        .args(&launch.arguments)
        .arg("stdio")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot be launched: {error}"))?;
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err("cannot be launched: no pipes".to_owned());
    };
    let mut stdout = BufReader::new(stdout);
    let mut bytes = 0;
    let mut first_answer = None;
    let mut tools = 0;
    for (id, request) in conversation().into_iter().enumerate() {
        let method = request["method"].as_str().unwrap_or_default().to_owned();
        let mut line = request.to_string();
        line.push('\n');
        stdin
            .write_all(line.as_bytes())
            .await
            .map_err(|error| format!("stdin closed at {method}: {error}"))?;
        if request.get("id").is_none() {
            continue;
        }
        let (answer, length) = timeout(PATIENCE, answer(&mut stdout, id as u64))
            .await
            .map_err(|_| format!("no answer to {method} within {} s", PATIENCE.as_secs()))??;
        bytes += length;
        first_answer.get_or_insert_with(|| started.elapsed());
        if let Some(listed) = answer.get("tools").and_then(Value::as_array) {
            tools = listed.len();
        }
    }
    let ended = Instant::now();
    drop(stdin);
    let mut rest = String::new();
    let status = timeout(PATIENCE, async {
        // Nothing may follow the last answer.
        stdout.take(LINE_BYTES_MAX).read_to_string(&mut rest).await.map_err(|error| error.to_string())?;
        child.wait().await.map_err(|error| error.to_string())
    })
    .await
    .map_err(|_| format!("still running {} s after the end of input", PATIENCE.as_secs()))??;
    if !rest.trim().is_empty() {
        return Err("stdout holds more than the answers".to_owned());
    }
    if !status.success() {
        return Err(format!("ended with {status}"));
    }
    Ok(Probed { first_answer: first_answer.unwrap_or_default(), exit: ended.elapsed(), tools, bytes })
}

/// One frame of stdout, which must answer `id` with a result.
async fn answer(stdout: &mut (impl AsyncBufRead + Unpin), id: u64) -> Result<(Value, usize), String> {
    let mut line = Vec::new();
    stdout
        .take(LINE_BYTES_MAX)
        .read_until(b'\n', &mut line)
        .await
        .map_err(|error| format!("stdout cannot be read: {error}"))?;
    if line.is_empty() {
        return Err("stdout ended before the answer".to_owned());
    }
    let frame: Value =
        serde_json::from_slice(&line).map_err(|_| "stdout holds a line that is no frame".to_owned())?;
    if frame["jsonrpc"] != "2.0" || frame["id"] != id {
        return Err("stdout holds a frame that answers nothing asked".to_owned());
    }
    if let Some(error) = frame.get("error") {
        return Err(format!("answered with error {}", error["code"]));
    }
    match frame.get("result") {
        Some(result) => Ok((result.clone(), line.len())),
        None => Err("stdout holds an answer without result".to_owned()),
    }
}

/// Both eras on one pipe, as dual-era hosts do; ids count from 0 with each message, notifications included.
fn conversation() -> [Value; 5] {
    let claim = json!({"_meta": {
        "io.modelcontextprotocol/protocolVersion": Revision::V2026_07_28.as_str(),
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "tmws-doctor", "version": env!("CARGO_PKG_VERSION")},
    }});
    [
        json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
            "protocolVersion": Revision::LATEST_LEGACY.as_str(), "capabilities": {},
            "clientInfo": {"name": "tmws-doctor", "version": env!("CARGO_PKG_VERSION")},
        }}),
        json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
        json!({"jsonrpc": "2.0", "id": 2, "method": "server/discover", "params": claim}),
        json!({"jsonrpc": "2.0", "id": 3, "method": "tools/list"}),
        json!({"jsonrpc": "2.0", "id": 4, "method": "tools/list", "params": claim}),
    ]
}
