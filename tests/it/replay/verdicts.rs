//! Small servers that do one thing wrong: each gets its own verdict.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tmws::{
    replay::{Against, Options, Pipes, Report, play},
    transcript::Transcript,
};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

use super::{Pen, findings};

/// Nothing here takes so long on a healthy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// For servers that never answer: what is tested is that the wait ends.
const SHORT: Duration = Duration::from_millis(300);

/// What a server says to one message; `None` is its end.
type Script = fn(&Value) -> Option<Vec<String>>;

fn options(timeout: Duration) -> Options {
    Options { timeout, is_exact: false }
}

/// A server on pipes.
fn server(script: Script) -> Against {
    Against::Pipes(Box::new(move || {
        let (client, server) = tokio::io::duplex(1 << 16);
        let (reader, mut writer) = tokio::io::split(server);
        tokio::spawn(async move {
            let mut lines = BufReader::new(reader).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let message: Value = serde_json::from_str(&line).unwrap();
                let Some(said) = script(&message) else { break };
                for line in said {
                    writer.write_all(format!("{line}\n").as_bytes()).await.unwrap();
                }
            }
            let _ = writer.shutdown().await;
        });
        let (output, input) = tokio::io::split(client);
        let pipes: Pipes = (Box::new(output), Box::new(input));
        Ok(pipes)
    }))
}

async fn against(script: Script, transcript: &Transcript, timeout: Duration) -> Report {
    play(transcript, &mut server(script), &options(timeout)).await.unwrap()
}

fn result(id: &Value, result: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string()
}

/// What a server says that does all well.
fn well(message: &Value) -> Vec<String> {
    let id = &message["id"];
    let said = match message["method"].as_str() {
        Some("initialize") => {
            json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "s", "version": "1"}})
        }
        Some("tools/list") => json!({"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}),
        Some("tools/call") => json!({"content": [{"type": "text", "text": "hello"}]}),
        _ => return Vec::new(),
    };
    vec![result(id, &said)]
}

fn is_call(message: &Value) -> bool {
    message["method"] == "tools/call"
}

/// `initialize`, `tools/list`, then a call of `echo` with a progress token; the end of input.
fn conversation() -> Transcript {
    let call = json!({"name": "echo", "arguments": {}, "_meta": {"progressToken": "p"}});
    Pen::opened()
        .asks(1, "tools/list", json!({}), json!({"tools": [{"name": "echo", "inputSchema": {}}]}))
        .asks(2, "tools/call", call, json!({"content": [{"type": "text", "text": "hi"}], "isError": false}))
        .event("stdin-eof")
        .done()
}

fn progress(value: f64) -> String {
    json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": "p", "progress": value}})
        .to_string()
}

#[tokio::test]
async fn a_server_that_does_all_well_breaks_no_rule() {
    let report = against(|message| Some(well(message)), &conversation(), PATIENCE).await;
    assert_eq!(findings(&report), "");
    assert!(report.is_ok());
    assert!(report.steps.iter().all(|step| step.was_played));
    assert!(report.to_text(false).contains("ok: 6 steps, 3 requests, 3 answers"), "{}", report.to_text(true));
}

#[tokio::test]
async fn each_misbehaviour_has_its_own_verdict() {
    let table: Vec<(&str, Script, &str)> = vec![
        (
            "two answers",
            |message| {
                let mut said = well(message);
                if is_call(message) {
                    said.extend(well(message));
                }
                Some(said)
            },
            "8 once: request 2 (tools/call) has 2 answers",
        ),
        (
            "an answer that nobody asked for",
            |message| {
                let mut said = well(message);
                if is_call(message) {
                    said.insert(0, result(&json!(99), &json!({})));
                }
                Some(said)
            },
            "8 once: an answer to request 99 came, and there is none",
        ),
        (
            "another kind",
            |message| {
                let error = json!({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32603, "message": "oops"}});
                Some(if is_call(message) { vec![error.to_string()] } else { well(message) })
            },
            "8 kind: a result was recorded, and error -32603 came: \"oops\"",
        ),
        (
            "a failure",
            |message| {
                let failed = json!({"content": [{"type": "text", "text": "no"}], "isError": true});
                Some(if is_call(message) { vec![result(&message["id"], &failed)] } else { well(message) })
            },
            "8 kind: a success was recorded, and a failure (`isError`) came: \"no\"",
        ),
        (
            "an invalid result",
            |message| {
                let wrong = json!({"content": [{"type": "text"}]});
                Some(if is_call(message) { vec![result(&message["id"], &wrong)] } else { well(message) })
            },
            "8 schema: not a valid 2025-11-25 tools/call response: /result/content/0",
        ),
        (
            "text between frames",
            |message| {
                let mut said = well(message);
                if is_call(message) {
                    said.insert(0, "Server is running...".to_owned());
                }
                Some(said)
            },
            "8 json-rpc: it said what is no JSON",
        ),
        (
            "no JSON-RPC",
            |message| {
                let mut said = well(message);
                if is_call(message) {
                    said.insert(0, json!({"id": 2, "result": {}}).to_string());
                }
                Some(said)
            },
            "8 json-rpc: it said what is no JSON-RPC 2.0 message",
        ),
        (
            "a result and an error",
            |message| {
                let mut both: Value =
                    serde_json::from_str(&well(message).pop().unwrap_or("{}".to_owned())).unwrap();
                both["error"] = json!({"code": -32603, "message": "x"});
                Some(if is_call(message) { vec![both.to_string()] } else { well(message) })
            },
            "8 json-rpc: it answered with a result and an error in one",
        ),
        (
            "a batch where there are none",
            |message| {
                let said = well(message).join(",");
                Some(if is_call(message) { vec![format!("[{said}]")] } else { well(message) })
            },
            "8 json-rpc: it said a batch, which 2025-03-26 alone knows, and 2025-11-25 was negotiated",
        ),
        (
            "progress that goes back",
            |message| {
                let mut said = well(message);
                if is_call(message) {
                    said.splice(0..0, [progress(2.0), progress(1.0)]);
                }
                Some(said)
            },
            "8 progress: progress went back from 2 to 1",
        ),
        (
            "progress after the end",
            |message| {
                let mut said = well(message);
                if is_call(message) {
                    said.push(progress(1.0));
                }
                Some(said)
            },
            "8 progress: progress came after request 2 was answered",
        ),
        (
            "a request that the client did not declare",
            |message| {
                let ask = json!({"jsonrpc": "2.0", "id": "s", "method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}});
                let mut said = well(message);
                if is_call(message) {
                    said.insert(0, ask.to_string());
                }
                Some(said)
            },
            "8 requests: it asked for sampling/createMessage, and the client did not declare `sampling`",
        ),
        (
            "an older revision",
            |message| {
                let said = well(message).into_iter().map(|said| said.replace("2025-11-25", "2025-06-18"));
                Some(said.collect())
            },
            "3 revision: 2025-11-25 was recorded, and 2025-06-18 came",
        ),
        (
            "no such tool",
            |message| Some(well(message).into_iter().map(|said| said.replace("echo", "other")).collect()),
            "6 listed: \"echo\" is not listed",
        ),
        (
            "an early end",
            |message| (!is_call(message)).then(|| well(message)),
            "8 answered: request 2 (tools/call) has no answer: it closed its output",
        ),
    ];
    for (name, script, expected) in table {
        let report = against(script, &conversation(), PATIENCE).await;
        let findings = findings(&report);
        assert!(findings.starts_with(expected), "{name}: {findings}");
        assert!(report.to_text(false).contains("FAIL line"), "{name}: {}", report.to_text(false));
        assert_eq!(report.to_json()["ok"], false, "{name}");
    }
}

#[tokio::test]
async fn an_answer_that_never_comes_is_waited_for_once_and_told() {
    let script: Script = |message| Some(if is_call(message) { Vec::new() } else { well(message) });
    let begun = Instant::now();
    let report = against(script, &conversation(), SHORT).await;
    assert_eq!(
        findings(&report),
        "8 answered: request 2 (tools/call) has no answer: nothing came within 0.3 s\n"
    );
    assert!(begun.elapsed() < PATIENCE);
    assert!(report.steps.last().unwrap().was_played, "the end of input is played all the same");
}

#[tokio::test]
async fn a_late_answer_is_told_as_missing_and_not_as_a_second_one() {
    let script: Script = |message| match message["method"].as_str() {
        Some("tools/list") => Some(Vec::new()),
        Some("tools/call") => Some([well(&json!({"id": 1, "method": "tools/list"})), well(message)].concat()),
        _ => Some(well(message)),
    };
    let report = against(script, &conversation(), SHORT).await;
    assert_eq!(
        findings(&report),
        "6 answered: request 1 (tools/list) has no answer: nothing came within 0.3 s\n"
    );
}

#[tokio::test]
async fn waits_in_vain_end_the_replay() {
    let report = against(|_| Some(Vec::new()), &conversation(), Duration::from_millis(50)).await;
    assert_eq!(findings(&report).lines().count(), 3, "{}", findings(&report));
    assert!(
        report.notes.iter().any(|note| note.text.starts_with("nothing more was sent")),
        "{:?}",
        report.notes
    );
}

/// A client that answers what it is asked, under ids that the recording has and the live server has not.
fn asking() -> Transcript {
    Pen::opened()
        .hears(json!({"jsonrpc": "2.0", "id": "srv-1", "method": "roots/list"}))
        .says(json!({"jsonrpc": "2.0", "id": "srv-1", "result": {"roots": [{"uri": "file:///a"}]}}))
        .asks(1, "tools/list", json!({}), json!({"tools": []}))
        .event("stdin-eof")
        .done()
}

#[tokio::test]
async fn requests_of_the_server_are_answered_as_recorded_under_its_own_ids() {
    let report = against(
        |message| {
            let said = match (message["method"].as_str(), message["id"].as_str()) {
                (Some("tools/list"), _) => vec![
                    json!({"jsonrpc": "2.0", "id": "mine", "method": "roots/list"}).to_string(),
                    json!({"jsonrpc": "2.0", "id": "more", "method": "roots/list"}).to_string(),
                    json!({"jsonrpc": "2.0", "id": "alive", "method": "ping"}).to_string(),
                ],
                (None, Some("mine")) => {
                    assert_eq!(message["result"]["roots"][0]["uri"], "file:///a", "{message}");
                    Vec::new()
                }
                (None, Some("more")) => {
                    assert_eq!(message["error"]["code"], -32601, "{message}");
                    Vec::new()
                }
                // All of them have been answered by now.
                (None, Some("alive")) => vec![result(&json!(1), &json!({"tools": []}))],
                _ => well(message),
            };
            Some(said)
        },
        &asking(),
        PATIENCE,
    )
    .await;
    assert_eq!(findings(&report), "");
    let notes: Vec<&str> = report.notes.iter().map(|note| note.text.as_str()).collect();
    assert_eq!(
        notes,
        [
            "the server asked for roots/list, which the recording does not answer: refused with -32601",
            "the server's ping was answered, as every client does",
        ]
    );
}

#[tokio::test]
async fn an_answer_that_nobody_asks_for_is_left_out_and_told() {
    let report = against(|message| Some(well(message)), &asking(), PATIENCE).await;
    assert_eq!(findings(&report), "");
    assert_eq!(report.notes[0].text, "left out: the answer to roots/list: the server did not ask");
    assert_eq!(report.notes[0].line, 7);
}

#[tokio::test]
async fn a_rule_that_is_allowed_is_told_as_a_note() {
    let script: Script =
        |message| Some(well(message).into_iter().map(|said| said.replace("echo", "x")).collect());
    let mut report = against(script, &conversation(), PATIENCE).await;
    report.allow(&[tmws::replay::Rule::Listed]);
    assert!(report.is_ok());
    assert_eq!(report.notes[0].text, "allowed: listed: \"echo\" is not listed");
}

/// The server tells that its tools have changed, so often in a row, before it answers.
fn changed(times: usize) -> Transcript {
    let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
    let pen = (0..times).fold(Pen::opened(), |pen, _| pen.hears(changed.clone()));
    pen.asks(1, "tools/list", json!({}), json!({"tools": []})).event("stdin-eof").done()
}

#[tokio::test]
async fn how_many_changes_come_in_a_row_is_the_servers_affair() {
    let once: Script = |message| {
        let mut said = well(message);
        if message["method"] == "notifications/initialized" {
            said.push(json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}).to_string());
        }
        Some(said)
    };
    for times in [1, 4] {
        assert_eq!(findings(&against(once, &changed(times), PATIENCE).await), "");
    }
    let never: Script = |message| Some(well(message));
    let report = against(never, &changed(2), SHORT).await;
    assert_eq!(findings(&report).lines().count(), 1, "{}", findings(&report));
    assert!(
        findings(&report)
            .contains("events: before this the client had seen notifications/tools/list_changed")
    );
}
