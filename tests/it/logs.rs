//! The log of the real binary, line by line: which call a line belongs to, and what is never in one.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::Stdio,
};

use serde_json::{Value, json};

use crate::support::scratch::Scratch;

/// Nowhere but in what a client sent.
const MARK: &str = "ochre-kestrel-1618";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

/// Tells when it runs: nothing else that is sure to log within a call.
const OLD: &str = "\
apiVersion: tmws/v1
kind: Pattern
name: test.old
version: 1.0.0
type: infrastructure
deprecated: {reason: it was a test, since: 1.0.0}
description: Says back what it is given. For tests only.
triggers:
  phrases: [echo to me]
  examples:
    match: [please echo to me now, echo to me, 'do echo to me']
    no_match: [say it again, repeat that, an echoing hall]
  priority: 10
  auto: read-only
inputs: {type: object, additionalProperties: false, required: [mark], properties: {mark: {type: string}}}
limits: {timeout: 10s, max_steps: 2, max_bytes: 1MiB}
steps:
  - {id: said, uses: data.template, with: {template: '{{mark}}', values: {mark: '${ .inputs.mark }'}}}
output:
  schema: {type: object, required: [said], properties: {said: {type: string}}}
  value: '${ {said: .steps.said} }'
  budget: {tokens: 120, shrink: [{truncate: said, keep: 40}], overflow: handle}
annotations: {readOnlyHint: true}
tests:
  - {name: it says it, inputs: {mark: a}, expect: {jq: '.said == \"a\"', max_tokens: 120}}
  - {name: it says nothing else, inputs: {mark: b}, expect: {jq: '.said == \"b\"', max_tokens: 120}}
";

/// What `tmws stdio` logs while it runs the pattern once.
fn logged(settings: &[&str]) -> String {
    let scratch = Scratch::new();
    let folder = scratch.path("home/.config/tmws/patterns");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("test.old.yaml"), OLD).unwrap();
    let mut arguments = vec!["stdio"];
    for setting in settings {
        arguments.extend(["--setting", setting]);
    }
    let mut command = scratch.command(&arguments);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let call = json!({"jsonrpc": "2.0", "id": "call-7", "method": "tools/call", "params": {
        "name": "execute_pattern",
        "arguments": {"pattern": "test.old", "input": {"mark": MARK}},
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
            "traceparent": format!("00-{TRACE}-00f067aa0ba902b7-01"),
        },
    }});
    // Whoever closes its input first has little time left for the answer.
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "{call}").unwrap();
    let mut answer = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut answer).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert!(answer.contains(MARK) && !answer.contains("\"isError\":true"), "{answer}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn a_line_within_a_call_names_the_call() {
    let text = logged(&["log=debug", "log_format=json"]);
    let lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    for line in &lines {
        let members: Vec<&str> = line.as_object().unwrap().keys().map(String::as_str).collect();
        assert!(members.starts_with(&["time", "level", "target", "message"]), "{line}");
    }
    let old = lines.iter().find(|line| line["message"] == "a deprecated pattern ran").expect(&text);
    assert_eq!(old["level"], "INFO");
    assert_eq!(
        old["call"],
        json!({"connection": 0, "request": "\"call-7\"", "method": "tools/call", "pattern": "test.old", "trace": TRACE})
    );
    assert!(!text.contains(MARK), "{text}");

    let text = logged(&["log=info"]);
    let old = text.lines().find(|line| line.contains("a deprecated pattern ran")).expect(&text);
    for part in [
        "call{",
        "connection=0",
        "request=\"\\\"call-7\\\"\"",
        "method=\"tools/call\"",
        "pattern=\"test.old\"",
        TRACE,
    ] {
        assert!(old.contains(part), "{part}: {old}");
    }
    assert!(!text.contains(MARK), "{text}");
}

#[test]
fn without_a_log_nothing_is_written() {
    assert_eq!(logged(&["log=off", "log_format=json"]), "");
}
