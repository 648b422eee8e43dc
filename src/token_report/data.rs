//! The task set, the transcripts of other arms and what their servers define, as read from the folder.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use regex::Regex;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Arm, Conversation, Definitions, Exchange};

/// Format of a transcript, in its first line.
const FORMAT: &str = "tmws-tokens/1";

/// What a task takes in the shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Size {
    /// Below 2,000 tokens.
    Small,
    /// Between.
    Medium,
    /// From 5,000 tokens on.
    Large,
}

impl Size {
    /// The size of a task that takes `tokens` in the shell.
    #[must_use]
    pub const fn of(tokens: usize) -> Self {
        match tokens {
            0..2_000 => Self::Small,
            2_000..5_000 => Self::Medium,
            _ => Self::Large,
        }
    }

    /// As written in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
        }
    }
}

/// What a task is expected to beat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Class {
    /// A shell.
    S,
    /// MCP servers.
    M,
    /// Neither: near a skilled user of a shell.
    N,
}

impl Class {
    /// As written in the file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::S => "S",
            Self::M => "M",
            Self::N => "N",
        }
    }
}

/// Where a task is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostKind {
    /// A host with a shell.
    #[default]
    Shell,
    /// One without: the shell's figures are for the size alone.
    None,
}

/// One task of `tasks.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Names it, and its transcripts.
    pub id: String,
    /// What is asked.
    pub question: String,
    /// As declared; the shell's figure must agree.
    pub size: Size,
    /// What it should beat.
    pub class: Class,
    /// Where it is asked.
    #[serde(default)]
    pub host: HostKind,
    /// Why it is expected to cost more than in the shell.
    pub loses: Option<String>,
    /// Name of the workspace's folder.
    pub name: String,
    /// A git bundle.
    pub repo: Option<String>,
    /// A folder of uncommitted work.
    pub overlay: Option<String>,
    /// Memories, JSON Lines.
    pub memories: Option<String>,
    /// Files that are put below `ci/`.
    #[serde(default)]
    pub files: Vec<String>,
    /// Regexes; the texts of an arm must match each.
    pub facts: Vec<String>,
    /// Further ones that the reference servers have no tool for, such as who wrote a line: asked of the shell and of us.
    #[serde(default)]
    pub strict: Vec<String>,
    /// Recipe of [`Arm::Servers`]; empty where there is nothing to compare.
    #[serde(default)]
    pub a: Vec<String>,
    /// Recipe of [`Arm::ServersWithGrep`], where it differs.
    pub a_plus: Option<Vec<String>>,
    /// Recipe of [`Arm::Shell`].
    pub c: Vec<String>,
    /// Recipe of [`Arm::Tmws`].
    pub b: Vec<String>,
    /// Recipe of [`Arm::Promoted`]; where absent it says what [`Arm::Tmws`] says, with its own definitions.
    pub b_promoted: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct TaskFile {
    task: Vec<Task>,
}

#[derive(Deserialize)]
struct DefinitionsFile {
    arms: BTreeMap<String, Vec<String>>,
    servers: BTreeMap<String, ServerEntry>,
}

#[derive(Deserialize)]
struct ServerEntry {
    instructions: String,
    tools: Vec<Value>,
}

#[derive(Deserialize)]
struct Header {
    format: String,
    arm: String,
    task: String,
}

#[derive(Deserialize)]
struct Line {
    call: Value,
    result: Value,
    ms: f64,
}

/// All of the folder.
pub(super) struct Data {
    folder: PathBuf,
    pub(super) tasks: Vec<Task>,
    pub(super) definitions: BTreeMap<Arm, Definitions>,
}

impl Data {
    /// Reads tasks and definitions.
    pub(super) fn read(folder: &Path) -> Result<Self, String> {
        let path = folder.join("tasks.toml");
        let TaskFile { task: tasks } = toml::from_str(&read(&path)?).map_err(|error| at(&path, error))?;
        for task in &tasks {
            for fact in task.facts.iter().chain(&task.strict) {
                Regex::new(fact).map_err(|error| at(&path, format!("{}: {error}", task.id)))?;
            }
        }
        let path = folder.join("transcripts/definitions.json");
        let file: DefinitionsFile = serde_json::from_str(&read(&path)?).map_err(|error| at(&path, error))?;
        let mut definitions = BTreeMap::from([(Arm::Shell, Definitions::default())]);
        for arm in [Arm::Servers, Arm::ServersWithGrep] {
            let mut all = Definitions::default();
            for name in file.arms.get(arm.name()).into_iter().flatten() {
                let entry = file.servers.get(name).ok_or_else(|| at(&path, format!("no server {name}")))?;
                all.tools.extend(entry.tools.iter().cloned());
                all.instructions.extend((!entry.instructions.is_empty()).then(|| entry.instructions.clone()));
            }
            definitions.insert(arm, all);
        }
        Ok(Self { folder: folder.to_owned(), tasks, definitions })
    }

    /// Where a file that a task names is.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// What the arms that are not ours said. Where the grep tool changes nothing, its arm is the one without.
    pub(super) fn recorded(&self, task: &Task) -> Result<BTreeMap<Arm, Conversation>, String> {
        let mut found = BTreeMap::new();
        for (arm, recorded) in [
            (Arm::Servers, Arm::Servers),
            (Arm::ServersWithGrep, if task.a_plus.is_some() { Arm::ServersWithGrep } else { Arm::Servers }),
            (Arm::Shell, Arm::Shell),
        ] {
            // What a task leaves to the host's own tools says nothing about other servers.
            if arm == Arm::Shell || !task.a.is_empty() {
                found.insert(arm, self.transcript(task, recorded)?);
            }
        }
        Ok(found)
    }

    fn transcript(&self, task: &Task, arm: Arm) -> Result<Conversation, String> {
        let path = self.folder.join("transcripts").join(arm.name()).join(format!("{}.jsonl", task.id));
        let text = read(&path)?;
        let mut lines = text.lines();
        let header: Header =
            serde_json::from_str(lines.next().unwrap_or_default()).map_err(|error| at(&path, error))?;
        if (header.format.as_str(), header.arm.as_str(), header.task.as_str())
            != (FORMAT, arm.name(), &*task.id)
        {
            return Err(at(&path, "its first line names another format, arm or task"));
        }
        let read = |line: &str| {
            let Line { call, result, ms } = serde_json::from_str(line).map_err(|error| at(&path, error))?;
            Ok(exchange(&call, &result, ms))
        };
        Ok(Conversation { exchanges: lines.map(read).collect::<Result<_, String>>()? })
    }
}

/// A call and its result as a model sees them.
pub(super) fn exchange(call: &Value, result: &Value, ms: f64) -> Exchange {
    let blocks = result["content"].as_array().into_iter().flatten();
    let texts: Vec<&str> = blocks.filter_map(|block| block["text"].as_str()).collect();
    Exchange {
        call: json!({"name": call["name"], "arguments": call["arguments"]}).to_string(),
        content: texts.join("\n"),
        structured: result.get("structuredContent").map(ToString::to_string),
        ms,
    }
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| at(path, error))
}

fn at(path: &Path, error: impl std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}
