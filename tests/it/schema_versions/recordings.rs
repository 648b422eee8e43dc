//! Instances as they occur: settings and patterns of the source tree, calls of the tools, frames of real clients.
//!
//! What is collected for a schema that is still pending becomes its recorded instances (`fixtures/schemas`); once they are
//! released they stay, and a later version is held against them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::{Value, json};
use tmws::{
    pattern::yaml,
    revision::Revision,
    schema::{Definition, ErrorShape, verdict},
    wire::{Kind, Method},
};

use super::families::{files, read, root};
use crate::{acceptance, network::dashboard, tools};

/// Taken at most of each definition of MCP, of each source: more of the same shape prove nothing.
const OF_EACH_MAX: usize = 6;
/// Longest recorded frame, in bytes.
const FRAME_MAX: usize = 4_000;

/// By family; in a fixed order.
pub(crate) async fn collect() -> BTreeMap<String, Vec<Value>> {
    let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    found.insert("acceptance".to_owned(), acceptance::instances());
    found.insert("config".to_owned(), settings());
    found.insert("pattern".to_owned(), patterns());
    found.insert("dashboard".to_owned(), dashboard::instances().await);
    let bench = tools::Bench::new();
    let mut calls = tools::calls_of_every_shape(&bench).await;
    calls.extend(
        tools::arguments()
            .into_iter()
            .filter(|(.., fault)| fault.is_none())
            .map(|(tool, input, _)| (tool, input)),
    );
    for (tool, arguments) in calls {
        let (answer, ..) = bench.tool(tool, arguments.clone()).await;
        // One answer of every shape says that its arguments are wrong.
        if answer["error"] != "invalid_input" {
            found.entry(format!("tool/{tool}.input")).or_default().push(arguments);
        }
        found.entry(format!("tool/{tool}.output")).or_default().push(answer);
    }
    let mut frames = Frames::default();
    let transcripts = files(&root().join("compat/transcripts"), "jsonl");
    for path in &transcripts {
        frames.transcript(path);
    }
    frames.tables();
    found.extend(frames.found);
    if root().join("schemas/transcript/v1.json").exists() {
        found.insert("transcript".to_owned(), lines_of_every_shape(&transcripts));
    }
    found
}

/// The settings files of the tests, and every block of settings in the README.
fn settings() -> Vec<Value> {
    let mut texts: Vec<String> = files(&root().join("fixtures/config/valid"), "toml")
        .iter()
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    texts.extend(readme.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()));
    texts.iter().map(|text| toml::from_str(text).unwrap()).collect()
}

fn patterns() -> Vec<Value> {
    [
        "src/pattern/builtin",
        "fixtures/patterns/valid",
        "fixtures/patterns/engine",
        "fixtures/routing/patterns",
    ]
    .iter()
    .flat_map(|folder| files(&root().join(folder), "yaml"))
    .map(|path| {
        yaml::parse(&fs::read_to_string(&path).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .value
    })
    .collect()
}

/// Of the lines of the transcripts those with members that no line before had.
fn lines_of_every_shape(transcripts: &[std::path::PathBuf]) -> Vec<Value> {
    fn shape(line: &Value) -> String {
        let Some(members) = line.as_object() else { return String::new() };
        let inner = |value: &Value| match value {
            Value::Object(members) => members.keys().cloned().collect::<Vec<_>>().join(" "),
            Value::String(_) => "text".to_owned(),
            other => other.to_string(),
        };
        let told = ["type", "dir", "event", "ws", "transport"];
        members
            .iter()
            .map(|(name, value)| {
                if told.contains(&name.as_str()) {
                    format!("{name}={value}")
                } else {
                    format!("{name}:{}", if value.is_object() { inner(value) } else { String::new() })
                }
            })
            .collect::<Vec<_>>()
            .join(" ")
    }
    let mut seen = BTreeSet::new();
    let mut lines = Vec::new();
    for path in transcripts {
        for line in fs::read_to_string(path).unwrap().lines().filter(|line| line.len() < FRAME_MAX) {
            let line: Value = serde_json::from_str(line).unwrap();
            if seen.insert(shape(&line)) {
                lines.push(line);
            }
        }
    }
    lines
}

/// Frames by the definition that they fit; a frame that fits none was wrong when it was recorded and is no promise.
#[derive(Default)]
struct Frames {
    found: BTreeMap<String, Vec<Value>>,
    seen: BTreeSet<String>,
    counts: BTreeMap<String, usize>,
}

impl Frames {
    fn take(&mut self, revision: Revision, definition: Definition, frame: &Value) {
        if !definition.exists_in(revision) || frame.to_string().len() > FRAME_MAX {
            return;
        }
        let id = definition.id(revision);
        let count = self.counts.entry(id.clone()).or_default();
        if *count < OF_EACH_MAX
            && verdict(revision, definition, frame).is_ok()
            && self.seen.insert(format!("{id} {}", without_ids(frame)))
        {
            *count += 1;
            let (document, name) = id.trim_start_matches("tmws:/").split_once(".json#/$defs/").unwrap();
            let line = json!({"definition": name, "instance": frame});
            self.found.entry(document.to_owned()).or_default().push(line);
        }
    }

    /// The frames that the tables of the gate hold valid.
    fn tables(&mut self) {
        self.counts.clear();
        for revision in Revision::ALL {
            for path in files(&root().join("fixtures/frames/valid").join(revision.as_str()), "json") {
                for row in read(&path).as_array().unwrap() {
                    let method = row.get("method").and_then(Value::as_str).and_then(Method::parse);
                    let frame = &row["frame"];
                    let definition = match (row["as"].as_str().unwrap(), method) {
                        ("error", _) => Definition::Error(shape_of(revision, frame)),
                        ("answer", _) if frame.get("error").is_some() => {
                            Definition::Error(shape_of(revision, frame))
                        }
                        ("input response", Some(method)) => Definition::Result(method),
                        ("ask", Some(method)) => Definition::Ask(method),
                        ("answer" | "result", Some(method)) => response(method, frame),
                        (_, Some(method)) => Definition::Message(method),
                        (way, None) => panic!("{way} without a method in {}", path.display()),
                    };
                    self.take(revision, definition, frame);
                }
            }
        }
    }

    /// What a real client and a server said, under the revision that they had agreed on.
    fn transcript(&mut self, path: &Path) {
        let mut revision = None;
        let mut opening = None;
        let mut asked: BTreeMap<String, Method> = BTreeMap::new();
        for line in fs::read_to_string(path).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let sent = line["dir"].as_str().unwrap_or_default().to_owned();
            let Some(Ok(frame)) = line["raw"].as_str().map(serde_json::from_str::<Value>) else { continue };
            let frames = if let Value::Array(batch) = frame { batch } else { vec![frame] };
            for frame in frames {
                if frame["method"] == "initialize" {
                    opening = Some(frame.clone());
                }
                self.frame(&sent, &frame, &mut revision, &mut asked);
                // What a session's first request fits is known with the answer to it.
                if let (Some(revision), Some(opening)) = (revision, opening.take_if(|_| revision.is_some())) {
                    self.take(revision, Definition::Message(Method::Initialize), &opening);
                }
            }
        }
    }

    fn frame(
        &mut self,
        sent: &str,
        frame: &Value,
        revision: &mut Option<Revision>,
        asked: &mut BTreeMap<String, Method>,
    ) {
        let claimed = frame
            .pointer("/params/_meta/io.modelcontextprotocol~1protocolVersion")
            .or_else(|| frame.pointer("/result/protocolVersion"));
        if let Some(agreed) = claimed.and_then(Value::as_str).and_then(Revision::parse) {
            *revision = Some(agreed);
        }
        let Some(revision) = *revision else {
            // The first request of a session: what it asks for is known with the answer.
            if let Some(method) = frame["method"].as_str().and_then(Method::parse) {
                asked.insert(format!("{sent} {}", frame["id"]), method);
            }
            return;
        };
        let definition = if let Some(name) = frame["method"].as_str() {
            let Some(method) = Method::parse(name) else { return };
            asked.insert(format!("{sent} {}", frame["id"]), method);
            Definition::Message(method)
        } else if frame.get("error").is_some() {
            Definition::Error(shape_of(revision, frame))
        } else {
            let other = if sent == "c2s" { "s2c" } else { "c2s" };
            let Some(&method) = asked.get(&format!("{other} {}", frame["id"])) else { return };
            response(method, frame)
        };
        self.take(revision, definition, frame);
    }
}

fn response(method: Method, frame: &Value) -> Definition {
    if frame.pointer("/result/resultType").is_some_and(|kind| kind == "input_required") {
        Definition::InputRequiredResponse
    } else if matches!(method.row().kind, Kind::Notification) {
        Definition::Message(method)
    } else {
        Definition::Response(method)
    }
}

fn shape_of(revision: Revision, frame: &Value) -> ErrorShape {
    ErrorShape::of(revision, frame.pointer("/error/code").and_then(Value::as_i64).unwrap_or_default())
}

fn without_ids(frame: &Value) -> String {
    let mut frame = frame.clone();
    if let Some(members) = frame.as_object_mut() {
        members.shift_remove("id");
    }
    frame.to_string()
}
