//! Whom a scenario of this letter speaks with: a server of ours, or the target of the run, which may be anybody's.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::gate::Gate;
use crate::accept::{
    client::{Client, Target},
    scenario::{Broken, Seen},
    stage::{AGENTS, Instance, Setup, Stage},
};

/// Something that should come at once comes within this.
pub(super) const SOON: Duration = Duration::from_secs(10);

/// The pattern `accept.echo`: says back what it is given, in three steps.
pub(super) const ECHO: &str = "\
apiVersion: tmws/v1
kind: Pattern
name: accept.echo
version: 1.0.0
type: infrastructure
description: Say back what is given. For the acceptance run only.
inputs:
  type: object
  additionalProperties: false
  required: [mark]
  properties:
    mark: {type: string}
    lines: {type: array, items: {type: string}}
limits: {timeout: 10s, max_steps: 6, max_bytes: 1MiB}
steps:
  - {id: one, uses: data.template, with: {template: '{{mark}}', values: {mark: '${ .inputs.mark }'}}}
  - {id: two, uses: data.template, with: {template: '{{mark}}', values: {mark: '${ .steps.one }'}}}
  - {id: said, uses: data.template, with: {template: '{{mark}}', values: {mark: '${ .steps.two }'}}}
output:
  schema: {type: object, required: [said], properties: {said: {type: string}, lines: {type: array}}}
  value: '${ {said: .steps.said, lines: (.inputs.lines // [])} }'
  budget: {tokens: 160, shrink: [{truncate: lines, keep: 3}], overflow: handle}
annotations: {readOnlyHint: true}
";

/// The pattern `accept.ask`: asks the user a name, and greets it.
pub(super) const ASK: &str = "\
apiVersion: tmws/v1
kind: Pattern
name: accept.ask
version: 1.0.0
type: memory
description: Ask for a name. For the acceptance run only.
inputs: {type: object, additionalProperties: false, properties: {}}
limits: {timeout: 20s, max_steps: 4, max_bytes: 64KiB}
steps:
  - id: asked
    uses: control.ask
    with:
      message: What is the name of the ship?
      schema: {type: object, properties: {name: {type: string}}, required: [name]}
output:
  schema: {type: object, required: [action], properties: {action: {type: string}, name: {type: string}}}
  value: '${ {action: .steps.asked.action, name: (.steps.asked.content.name // \"\")} }'
  budget: {tokens: 100}
";

/// A server of ours with what these scenarios call.
pub(super) fn setup(gate: Option<&Gate>) -> Setup {
    let mut setup = Setup::default();
    setup.patterns.push(("accept.echo.yaml".to_owned(), ECHO.to_owned()));
    setup.patterns.push(("accept.ask.yaml".to_owned(), ASK.to_owned()));
    if let Some(gate) = gate {
        setup.patterns.push(gate.pattern());
        setup.settings.push(gate.setting());
    }
    setup
}

/// Whom it speaks with.
pub(super) struct Peer {
    pub(super) target: Target,
    /// Ours; held, so that it lives as long as the scenario.
    ours: Option<Instance>,
}

impl Peer {
    /// The target of the run, else a server of ours.
    pub(super) async fn of(stage: &Stage, gate: Option<&Gate>) -> Result<Self, Broken> {
        if let Some(target) = &stage.target {
            return Ok(Self { target: target.clone(), ours: None });
        }
        let instance = stage.start(setup(gate)).await?;
        Ok(Self { target: Target::of(&instance, AGENTS[0], "alpha"), ours: Some(instance) })
    }

    /// Whether it is a server of ours: then everything is known of it, and nothing is forgiven.
    pub(super) const fn is_ours(&self) -> bool {
        self.ours.is_some()
    }

    /// Ends ours.
    pub(super) async fn end(self) -> Result<(), Broken> {
        match self.ours {
            Some(mut instance) => instance.end().await.map(drop),
            None => Ok(()),
        }
    }
}

/// What a server said to `initialize`.
pub(super) struct Greeting {
    /// The revision that it offers; empty where it refused.
    pub(super) agreed: String,
    pub(super) frame: Value,
}

/// Shakes hands, whatever comes of it.
pub(super) async fn greet(client: &mut Client, capabilities: Value) -> Result<Greeting, Broken> {
    let params = json!({"protocolVersion": client.revision(), "capabilities": capabilities,
        "clientInfo": {"name": "tmws-accept", "version": env!("CARGO_PKG_VERSION")}});
    let frame = client.ask("initialize", params).await?;
    let agreed = frame["result"]["protocolVersion"].as_str().unwrap_or_default().to_owned();
    if agreed == client.revision() {
        client.say(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await?;
    }
    Ok(Greeting { agreed, frame })
}

/// A tool that may be called without harm, and what it is called with.
pub(super) struct Harmless {
    pub(super) name: String,
    pub(super) arguments: Value,
    /// What its answer must hold.
    pub(super) says: Option<String>,
}

impl Harmless {
    /// Ours: what it says back is `mark`.
    pub(super) fn ours(mark: &str) -> Self {
        Self {
            name: "execute_pattern".to_owned(),
            arguments: json!({"pattern": "accept.echo", "input": {"mark": mark}}),
            says: Some(mark.to_owned()),
        }
    }

    /// Of the tools that a server lists: one that echoes, else one that says of itself that it only reads.
    pub(super) fn among(tools: &[Value], mark: &str) -> Option<Self> {
        const NAMES: [&str; 7] = ["echo", "say", "add", "sum", "greet", "hello", "ping"];
        let name = |tool: &Value| tool["name"].as_str().unwrap_or_default().to_lowercase();
        let named = NAMES.iter().find_map(|known| {
            tools.iter().find(|tool| name(tool).split(['-', '_', '.']).any(|word| word == *known))
        });
        let tool = named.or_else(|| {
            let reads = |tool: &&Value| tool["annotations"]["readOnlyHint"] == true;
            tools.iter().filter(reads).min_by_key(|tool| required(tool).len())
        })?;
        let mut arguments = Map::new();
        for needed in required(tool) {
            let value = match tool["inputSchema"]["properties"][&needed]["type"].as_str() {
                Some("number" | "integer") => json!(1),
                Some("boolean") => json!(true),
                Some("array") => json!([]),
                Some("object") => json!({}),
                _ => json!(mark),
            };
            arguments.insert(needed, value);
        }
        let echoes = name(tool).contains("echo") && arguments.values().any(|value| value == mark);
        Some(Self {
            name: tool["name"].as_str()?.to_owned(),
            arguments: Value::Object(arguments),
            says: echoes.then(|| mark.to_owned()),
        })
    }

    /// The params of its call; with a progress token where one is given.
    pub(super) fn params(&self, token: Option<&str>) -> Value {
        let mut params = json!({"name": self.name, "arguments": self.arguments});
        if let Some(token) = token {
            params["_meta"] = json!({"progressToken": token});
        }
        params
    }

    /// Whether `answer` is what it must be; else what is wrong.
    pub(super) fn judge(&self, answer: &Value) -> Result<(), String> {
        let Some(content) = answer["result"]["content"].as_array() else {
            return Err(answer.to_string());
        };
        match &self.says {
            Some(said) if !content.iter().any(|block| block.to_string().contains(said.as_str())) => {
                Err(format!("`{said}` is not in {answer}"))
            }
            _ => Ok(()),
        }
    }
}

fn required(tool: &Value) -> Vec<String> {
    let names = tool["inputSchema"]["required"].as_array();
    names.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// The tools of the first page; nothing where the answer has none.
pub(super) fn tools(answer: &Value) -> Vec<Value> {
    answer["result"]["tools"].as_array().cloned().unwrap_or_default()
}

/// Notes whether an answer is the error `code`.
pub(super) fn refused(seen: &mut Seen, what: &str, code: i64, answer: &Value) {
    seen.check(what, answer["error"]["code"] == code, format!("error {code}"), answer.to_string());
}
