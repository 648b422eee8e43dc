//! Patterns that ask: forms, and the client's own language model, frame by frame over stdio in every revision.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tmws::{
    pattern::{Origin, loader::load},
    revision::Revision,
};

const MODERN: &str = "2026-07-28";
const WITH_FORMS: [&str; 2] = ["2025-06-18", "2025-11-25"];

/// A pattern of type memory without memories: `steps`, and what it answers.
fn pattern(name: &str, permissions: &str, steps: &str, value: &str) -> String {
    format!(
        "\
apiVersion: tmws/v1
kind: Pattern
name: {name}
version: 1.0.0
type: {kind}
description: Asks. For tests only.
inputs: {{type: object, additionalProperties: false, properties: {{}}}}
permissions: {permissions}
limits: {{timeout: 20s, max_steps: 40, max_bytes: 1MiB}}
steps:
{steps}
output:
  schema: {{type: object}}
  value: '{value}'
  budget: {{tokens: 400}}
",
        kind = if permissions.contains("llm") { "infrastructure" } else { "memory" },
    )
}

const CHOICE: &str = "
  - id: choice
    uses: control.ask
    with:
      message: Which port?
      schema:
        type: object
        properties:
          port: {type: string, title: Port, oneOf: [{const: '80', title: plain}, {const: '443', title: encrypted}]}
          sure: {type: boolean, default: false}
          share: {type: number, minimum: 0, maximum: 1}
        required: [port]
";

/// Two rounds: the second question quotes the answer to the first.
const TWICE: &str = "
  - {id: name, uses: control.ask, with: {message: Name?, schema: {type: object, properties: {name: {type: string}}, required: [name]}}}
  - id: sure
    uses: control.ask
    with:
      message: '${ \"really \\(.steps.name.content.name)?\" }'
      schema: {type: object, properties: {sure: {type: boolean}}, required: [sure]}
";

/// Three questions at once, from places in a loop.
const LOOP: &str = "
  - id: each
    uses: control.foreach
    with:
      items: [a, b, c]
      concurrency: 3
      steps:
        - id: keep
          uses: control.ask
          with:
            message: '${ \"keep \\(.item)?\" }'
            schema: {type: object, properties: {keep: {type: boolean}}, required: [keep]}
";

const COMPLETE: &str =
    "  - {id: said, uses: llm.complete, with: {prompt: Say yes., system: Be brief., max_tokens: 9}}\n";

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let patterns = folder.path().join("config/tmws/patterns");
        fs::create_dir_all(&patterns).unwrap();
        fs::create_dir(folder.path().join("workspace")).unwrap();
        for (name, permissions, steps, value) in [
            ("test.choice", "{}", CHOICE, "${ {choice: .steps.choice} }"),
            (
                "test.twice",
                "{}",
                TWICE,
                "${ {name: .steps.name.content.name, sure: .steps.sure.content.sure} }",
            ),
            ("test.loop", "{}", LOOP, "${ {kept: [.steps.each.results[].content.keep]} }"),
            ("test.complete", "{llm: true}", COMPLETE, "${ {said: .steps.said} }"),
        ] {
            let text = pattern(name, permissions, steps, value);
            load(name, &text, Origin::BuiltIn).unwrap_or_else(|errors| panic!("{errors:?}"));
            fs::write(patterns.join(format!("{name}.yaml")), text).unwrap();
        }
        Self { folder }
    }

    fn launch(&self, settings: &[(&str, &str)]) -> Peer {
        let folder = self.folder.path();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tmws"))
            .arg("stdio")
            .current_dir(folder.join("workspace"))
            .env("TMWS_DATABASE_URL", format!("sqlite:{}", folder.join("store.db").display()))
            .env("XDG_CONFIG_HOME", folder.join("config"))
            .env("XDG_DATA_HOME", folder.join("data"))
            .env_remove("TMWS_ROOT")
            .env_remove("CLAUDE_PROJECT_DIR")
            .envs(settings.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        Peer { child, input, output, next: 0 }
    }
}

/// A client that shows each frame.
struct Peer {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    next: u64,
}

impl Peer {
    fn send(&mut self, frame: &Value) {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{frame}").unwrap();
        input.flush().unwrap();
    }

    fn receive(&mut self) -> Value {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn initialize(&mut self, revision: &str, capabilities: &Value) {
        self.send(&json!({"jsonrpc": "2.0", "id": "init", "method": "initialize", "params": {
            "protocolVersion": revision, "capabilities": capabilities, "clientInfo": {"name": "t", "version": "1"},
        }}));
        assert_eq!(self.receive()["result"]["protocolVersion"], revision);
        self.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
    }

    /// A legacy call; its answer may take any number of questions first.
    fn call(&mut self, pattern: &str) -> u64 {
        self.execute(&json!({"pattern": pattern}))
    }

    fn execute(&mut self, arguments: &Value) -> u64 {
        self.next += 1;
        self.send(&json!({"jsonrpc": "2.0", "id": self.next, "method": "tools/call", "params": {
            "name": "execute_pattern", "arguments": arguments,
        }}));
        self.next
    }

    /// A modern call, with what was brought of earlier rounds; its result.
    fn modern(&mut self, arguments: &Value, capabilities: &Value, brought: Option<(Value, Value)>) -> Value {
        self.next += 1;
        let mut params = json!({"name": "execute_pattern", "arguments": arguments, "_meta": {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": capabilities,
        }});
        if let Some((responses, state)) = brought {
            params["inputResponses"] = responses;
            params["requestState"] = state;
        }
        self.send(&json!({"jsonrpc": "2.0", "id": self.next, "method": "tools/call", "params": params}));
        let answer = self.receive();
        assert_eq!(answer["id"], self.next);
        answer
    }

    fn reply(&mut self, request: &Value, result: &Value) {
        self.send(&json!({"jsonrpc": "2.0", "id": request["id"], "result": result}));
    }

    /// Closes stdin, as a host does.
    fn end(mut self) {
        drop(self.input.take());
        assert!(self.child.wait().unwrap().success());
    }
}

/// The output that a tool's result holds.
fn output(answer: &Value) -> Value {
    let text = answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"));
    serde_json::from_str(text).unwrap()
}

fn accept(content: &Value) -> Value {
    json!({"action": "accept", "content": content})
}

#[test]
fn a_form_is_shown_and_its_answer_is_data_in_the_legacy_era() {
    let place = Place::new();
    for revision in WITH_FORMS {
        let mut peer = place.launch(&[]);
        peer.initialize(revision, &json!({"elicitation": {}}));
        let id = peer.call("test.choice");
        let asked = peer.receive();
        assert_eq!(asked["method"], "elicitation/create", "{revision}");
        assert_eq!(asked["params"]["message"], "Which port?");
        let port = &asked["params"]["requestedSchema"]["properties"]["port"];
        if revision == "2025-06-18" {
            assert_eq!(port["enum"], json!(["80", "443"]), "{port}");
            assert_eq!(port["enumNames"], json!(["plain", "encrypted"]));
        } else {
            assert_eq!(port["oneOf"][1], json!({"const": "443", "title": "encrypted"}));
        }
        peer.reply(&asked, &accept(&json!({"port": "443", "share": 0.5})));
        let answer = peer.receive();
        assert_eq!(answer["id"], id);
        let content = json!({"port": "443", "share": 0.5});
        assert_eq!(output(&answer)["choice"], json!({"action": "accept", "content": content}), "{revision}");
        // What is no answer fails the call, as any failure is told.
        peer.call("test.choice");
        let asked = peer.receive();
        peer.reply(&asked, &json!({"bogus": 1}));
        let failed = peer.receive();
        let text = failed["result"]["content"][0]["text"].as_str().unwrap();
        let told: Value = serde_json::from_str(text).unwrap();
        assert_eq!(
            (&failed["result"]["isError"], &told["error"]),
            (&json!(true), &json!("program_failed")),
            "{failed}"
        );
        assert!(told["message"].is_string(), "{failed}");
        for action in ["decline", "cancel"] {
            peer.call("test.choice");
            let asked = peer.receive();
            peer.reply(&asked, &json!({"action": action}));
            assert_eq!(output(&peer.receive())["choice"], json!({"action": action}), "{revision}");
        }
        peer.end();
    }
}

#[test]
fn a_form_travels_in_the_result_of_the_modern_era() {
    let place = Place::new();
    let mut peer = place.launch(&[]);
    let forms = json!({"elicitation": {"form": {}}});
    let arguments = json!({"pattern": "test.choice"});
    let asked = peer.modern(&arguments, &forms, None);
    let result = &asked["result"];
    assert_eq!(result["resultType"], "input_required", "{asked}");
    assert_eq!(result["inputRequests"]["choice"]["method"], "elicitation/create");
    let answers = json!({"choice": accept(&json!({"port": "80", "sure": true}))});
    let answer = peer.modern(&arguments, &forms, Some((answers.clone(), result["requestState"].clone())));
    assert_eq!(answer["result"]["resultType"], "complete");
    assert_eq!(output(&answer)["choice"]["content"], json!({"port": "80", "sure": true}));
    // Not answered: asked once more. With other arguments, or another's state: refused.
    let again = peer.modern(&arguments, &forms, Some((json!({}), result["requestState"].clone())));
    assert_eq!(again["result"]["inputRequests"]["choice"]["method"], "elicitation/create");
    let other = json!({"pattern": "test.twice"});
    let refused = peer.modern(&other, &forms, Some((answers.clone(), result["requestState"].clone())));
    assert_eq!(refused["error"]["code"], -32602, "{refused}");
    let forged = peer.modern(&arguments, &forms, Some((answers, json!("e30"))));
    assert_eq!(forged["error"]["code"], -32602);
    peer.end();
}

#[test]
fn earlier_answers_are_there_in_later_rounds() {
    let place = Place::new();
    for revision in WITH_FORMS {
        let mut peer = place.launch(&[]);
        peer.initialize(revision, &json!({"elicitation": {}}));
        peer.call("test.twice");
        let first = peer.receive();
        assert_eq!(first["params"]["message"], "Name?");
        peer.reply(&first, &accept(&json!({"name": "Ada"})));
        let second = peer.receive();
        assert_eq!(second["params"]["message"], "really Ada?");
        peer.reply(&second, &accept(&json!({"sure": true})));
        let answer = output(&peer.receive());
        assert_eq!((&answer["name"], &answer["sure"]), (&json!("Ada"), &json!(true)), "{revision}");
        peer.end();
    }
    let mut peer = place.launch(&[]);
    let (forms, arguments) = (json!({"elicitation": {}}), json!({"pattern": "test.twice"}));
    let first = peer.modern(&arguments, &forms, None);
    let brought = (json!({"name": accept(&json!({"name": "Ada"}))}), first["result"]["requestState"].clone());
    let second = peer.modern(&arguments, &forms, Some(brought));
    assert_eq!(second["result"]["inputRequests"]["sure"]["params"]["message"], "really Ada?", "{second}");
    let brought =
        (json!({"sure": accept(&json!({"sure": false}))}), second["result"]["requestState"].clone());
    let answer = output(&peer.modern(&arguments, &forms, Some(brought)));
    assert_eq!((&answer["name"], &answer["sure"]), (&json!("Ada"), &json!(false)));
    peer.end();
}

#[test]
fn questions_of_a_loop_come_together_under_keys_of_their_own() {
    let place = Place::new();
    let mut peer = place.launch(&[]);
    peer.initialize("2025-11-25", &json!({"elicitation": {}}));
    peer.call("test.loop");
    let asked: Vec<Value> = (0..3).map(|_| peer.receive()).collect();
    for request in asked.iter().rev() {
        let keep = request["params"]["message"] != "keep b?";
        peer.reply(request, &accept(&json!({"keep": keep})));
    }
    assert_eq!(output(&peer.receive())["kept"], json!([true, false, true]));
    peer.end();

    let mut peer = place.launch(&[]);
    let (forms, arguments) = (json!({"elicitation": {}}), json!({"pattern": "test.loop"}));
    let first = peer.modern(&arguments, &forms, None);
    let keys: Vec<&String> = first["result"]["inputRequests"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["each[0].keep", "each[1].keep", "each[2].keep"]);
    // Some answers now, the rest in the next round.
    let brought = json!({"each[2].keep": accept(&json!({"keep": false}))});
    let second = peer.modern(&arguments, &forms, Some((brought, first["result"]["requestState"].clone())));
    let keys: Vec<&String> = second["result"]["inputRequests"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["each[0].keep", "each[1].keep"]);
    let yes = accept(&json!({"keep": true}));
    let brought = json!({"each[0].keep": yes, "each[1].keep": yes});
    let answer = peer.modern(&arguments, &forms, Some((brought, second["result"]["requestState"].clone())));
    assert_eq!(output(&answer)["kept"], json!([true, true, false]));
    peer.end();
}

#[test]
fn a_client_that_cannot_be_asked_is_told_what_it_lacks() {
    let place = Place::new();
    let rows = [
        ("2024-11-05", json!({})),
        ("2024-11-05", json!({"elicitation": {}})),
        ("2025-03-26", json!({"elicitation": {}})),
        ("2025-06-18", json!({})),
        ("2025-11-25", json!({"elicitation": {"url": {}}})),
    ];
    for (revision, capabilities) in rows {
        let mut peer = place.launch(&[]);
        peer.initialize(revision, &capabilities);
        for (pattern, capability) in [("test.choice", "`elicitation`"), ("test.complete", "`sampling`")] {
            peer.call(pattern);
            let answer = peer.receive();
            assert_eq!(answer["result"]["isError"], true, "{revision}: {answer}");
            let error = output(&answer);
            assert_eq!(error["error"], "denied", "{revision}: {error}");
            assert!(error["message"].as_str().unwrap().contains(capability), "{error}");
        }
        peer.end();
    }
    let mut peer = place.launch(&[]);
    let answer = peer.modern(&json!({"pattern": "test.choice"}), &json!({}), None);
    assert_eq!(answer["error"]["code"], -32021, "{answer}");
    assert_eq!(answer["error"]["data"]["requiredCapabilities"], json!({"elicitation": {"form": {}}}));
    peer.end();
}

#[test]
fn an_answer_that_does_not_fit_its_form_is_an_error_that_says_so() {
    let place = Place::new();
    let mut peer = place.launch(&[]);
    peer.initialize("2025-11-25", &json!({"elicitation": {}}));
    for content in [
        json!({}),
        json!({"port": "22"}),
        json!({"port": 443}),
        json!({"port": "443", "share": 2}),
        json!({"port": "443", "sure": "yes"}),
        json!({"port": "443", "canary": "s3cret"}),
    ] {
        peer.call("test.choice");
        let asked = peer.receive();
        peer.reply(&asked, &accept(&content));
        let answer = peer.receive();
        assert_eq!(answer["result"]["isError"], true, "{answer}");
        let error = output(&answer);
        assert_eq!(error["error"], "program_failed");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("does not fit the form"), "{message}");
        assert!(!message.contains("s3cret") && !message.contains("\"22\""), "{message}");
        assert_eq!(error["part"], "choice");
    }
    peer.end();
}

#[test]
fn the_clients_model_completes_in_every_revision() {
    let place = Place::new();
    for revision in Revision::ALL.map(Revision::as_str) {
        let mut peer = place.launch(&[]);
        let sampling = json!({"sampling": {}});
        let said = json!({"role": "assistant", "model": "m-1", "content": {"type": "text", "text": "yes"}});
        let answer = if revision == MODERN {
            let arguments = json!({"pattern": "test.complete"});
            let asked = peer.modern(&arguments, &sampling, None);
            let request = &asked["result"]["inputRequests"]["said"];
            assert_eq!(request["method"], "sampling/createMessage", "{asked}");
            assert_eq!(request["params"]["systemPrompt"], "Be brief.");
            let brought = (json!({"said": said}), asked["result"]["requestState"].clone());
            peer.modern(&arguments, &sampling, Some(brought))
        } else {
            peer.initialize(revision, &sampling);
            peer.call("test.complete");
            let asked = peer.receive();
            assert_eq!(asked["method"], "sampling/createMessage", "{revision}");
            assert_eq!(asked["params"]["maxTokens"], 9);
            peer.reply(&asked, &said);
            peer.receive()
        };
        assert_eq!(output(&answer)["said"], json!({"text": "yes", "model": "m-1"}), "{revision}");
        let receipt = &answer["result"]["_meta"]["tmws/receipt"];
        assert_eq!(receipt["llm"][0]["model"], "m-1", "{receipt}");
        assert_eq!(receipt["llm"][0]["outcome"], "ok");
        peer.end();
    }
}

#[test]
fn the_clients_model_chooses_a_pattern_where_that_is_configured() {
    let place = Place::new();
    let question = json!({"query": "zwei drei vier"});
    let say =
        |text: &str| json!({"role": "assistant", "model": "m-1", "content": {"type": "text", "text": text}});
    let forms = json!({"sampling": {}, "elicitation": {}});
    for revision in Revision::ALL.map(Revision::as_str) {
        let mut peer = place.launch(&[("TMWS_LLM_FALLBACK", "client")]);
        let (asked, answer) = if revision == MODERN {
            let asked = peer.modern(&question, &forms, None);
            let request = asked["result"]["inputRequests"]["@pattern"].clone();
            let brought =
                json!({"@pattern": say(r#"{"pattern": "memory.timeline", "input": {"query": "ports"}}"#)});
            let state = asked["result"]["requestState"].clone();
            (request, peer.modern(&question, &forms, Some((brought, state))))
        } else {
            peer.initialize(revision, &forms);
            peer.execute(&question);
            let asked = peer.receive();
            peer.reply(&asked, &say(r#"{"pattern": "memory.timeline", "input": {"query": "ports"}}"#));
            (asked, peer.receive())
        };
        let prompt =
            asked["params"]["messages"][0]["content"]["text"].as_str().unwrap_or_else(|| panic!("{asked}"));
        assert!(prompt.contains("memory.timeline") && !prompt.contains("memory.remember"), "{prompt}");
        let receipt = &answer["result"]["_meta"]["tmws/receipt"];
        assert_eq!(receipt["matched_by"], "llm", "{revision}: {answer}");
        assert_eq!(receipt["pattern"].as_str().unwrap().split('@').next(), Some("memory.timeline"));
        assert_eq!(receipt["llm"][0]["model"], "m-1");
        peer.end();
    }
    // Whatever else it says: candidates, as without it.
    let mut peer = place.launch(&[("TMWS_LLM_FALLBACK", "client")]);
    peer.initialize("2025-11-25", &forms);
    for text in [
        r#"{"pattern": "memory.remember", "input": {"content": "pwned"}}"#,
        r#"{"pattern": "memory.timeline", "input": {"query": "x", "nope": 1}}"#,
        r#"{"pattern": "no.such"}"#,
        r#"{"pattern": null}"#,
        "memory.timeline, of course",
    ] {
        peer.execute(&question);
        let asked = peer.receive();
        peer.reply(&asked, &say(text));
        let answer = peer.receive();
        assert_eq!(output(&answer)["matched"], Value::Null, "{text}: {answer}");
        assert!(output(&answer)["candidates"].is_array(), "{text}");
    }
    // An older client that refuses, with an error, is no reason to fail.
    peer.execute(&question);
    let asked = peer.receive();
    peer.send(
        &json!({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -1, "message": "the user said no"}}),
    );
    assert_eq!(output(&peer.receive())["matched"], Value::Null);
    peer.call("test.complete");
    let asked = peer.receive();
    peer.send(
        &json!({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -1, "message": "the user said no"}}),
    );
    let error = output(&peer.receive());
    assert_eq!(error["error"], "program_failed");
    assert!(error["message"].as_str().unwrap().ends_with("the user said no"), "{error}");
    peer.end();
    // Off, or without the capability: nobody is asked.
    for (fallback, capabilities) in [("off", &forms), ("client", &json!({}))] {
        let mut peer = place.launch(&[("TMWS_LLM_FALLBACK", fallback)]);
        peer.initialize("2025-11-25", capabilities);
        peer.execute(&question);
        assert_eq!(output(&peer.receive())["matched"], Value::Null);
        peer.end();
    }
}

#[test]
fn a_task_waits_for_its_answers() {
    let place = Place::new();
    let mut peer = place.launch(&[]);
    peer.initialize("2025-11-25", &json!({"elicitation": {}}));
    peer.next += 1;
    peer.send(&json!({"jsonrpc": "2.0", "id": peer.next, "method": "tools/call", "params": {
        "name": "execute_pattern", "arguments": {"pattern": "test.twice"}, "task": {},
    }}));
    let made = peer.receive();
    let task = made["result"]["task"]["taskId"].clone();
    peer.send(&json!({"jsonrpc": "2.0", "id": "wait", "method": "tasks/result", "params": {"taskId": task}}));
    let mut answered = 0;
    let answer = loop {
        let frame = peer.receive();
        match frame["method"].as_str() {
            Some("elicitation/create") => {
                answered += 1;
                let first = frame["params"]["message"] == "Name?";
                let content = if first { json!({"name": "Ada"}) } else { json!({"sure": true}) };
                peer.reply(&frame, &accept(&content));
            }
            Some(_) => {}
            None => break frame,
        }
    };
    assert_eq!((answered, &answer["id"]), (2, &json!("wait")), "{answer}");
    assert_eq!(output(&answer)["name"], "Ada");
    peer.end();
}

#[test]
fn what_writes_comes_after_every_question() {
    let store = "{id: keep, uses: memory.store, with: {content: x}";
    let ask = "{id: sure, uses: control.ask, with: {message: m, schema: {type: object, properties: {a: {type: boolean}}}}}";
    let rows = [
        (format!("  - {ask}\n  - {store}, needs: [sure]}}\n"), None),
        (format!("  - {ask}\n  - {store}, if: '${{ .steps.sure.action == \"accept\" }}'}}\n"), None),
        (
            format!("  - {ask}\n  - {{id: mid, uses: data.merge, with: {{items: []}}, needs: [sure]}}\n  - {store}, needs: [mid]}}\n"),
            None,
        ),
        (format!("  - {ask}\n  - {store}}}\n"), Some("may run before `sure` is answered")),
        (
            format!("  - {store}}}\n  - {}\n", ask.replace("}}}}}", "}}}}, needs: [keep]}")),
            Some("may run before `sure` is answered"),
        ),
        (
            format!("  - id: each\n    uses: control.foreach\n    with:\n      items: [1]\n      steps:\n        - {ask}\n        - {store}, needs: [sure]}}\n"),
            Some("asks and writes"),
        ),
        (
            "  - {id: said, uses: llm.complete, with: {prompt: x}}\n  - {id: keep, uses: memory.store, with: {content: x}}\n".to_owned(),
            Some("may run before `said` is answered"),
        ),
    ];
    for (steps, expected) in rows {
        let llm = steps.contains("llm.complete");
        let permissions = if llm { "{memory: [write], llm: true}" } else { "{memory: [write]}" };
        let text = pattern("test.order", permissions, &steps, "${ {} }")
            .replace("type: infrastructure", "type: hybrid");
        let errors = load("test.order", &text, Origin::BuiltIn).err().unwrap_or_default();
        let told = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        match expected {
            None => assert!(errors.is_empty(), "{steps}\n{told}"),
            Some(expected) => assert!(told.contains(expected), "{steps}\n{told}"),
        }
    }
}

#[test]
fn a_form_that_no_client_can_show_is_refused_in_the_file() {
    let steps = "  - {id: a, uses: control.ask, with: {message: m, schema: {type: object, properties: {a: {type: array}}}}}\n";
    let errors =
        load("test.form", &pattern("test.form", "{}", steps, "${ {} }"), Origin::BuiltIn).unwrap_err();
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].line, 11);
    assert!(errors[0].message.contains("a string, an integer, a number or a boolean"), "{}", errors[0]);
}
