//! `mcp.*`: calls tools of other MCP servers, which the user's configuration names and whose tools the user pinned.
//!
//! | step | value |
//! |---|---|
//! | `mcp.call` | `{text?, json?, content?: [{type, …}], is_error, truncated}`; `text` is all its text, `json` its structured content, else the text where that is a JSON object or list; `content` tells of what is neither, without its bytes |
//! | `mcp.tools` | `{n, tools: [{server, tool, reads, query?}]}`: what this pattern may call in this project; starts nothing |
//!
//! A tool that says that it failed is data (`is_error`). A tool is called only as long as it is what was pinned
//! ([`Pin`]), with arguments that fit its schema. Nothing of the caller goes to a server but the arguments: no token, no
//! name. What a server writes to its stderr goes to the log, never to the caller.

mod child;
mod connection;
mod http;
mod pin;
mod pipe;
mod pool;
mod scripted;
mod setting;

pub use pin::Pin;
pub use pool::{Admits, Servers};
pub use scripted::Script;
pub use setting::{Hidden, Reach, ServerSetting, ToolSetting, WorkingFolder};

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{ENDS_EARLY, StepContext, StepError, StepOutput, arguments::Arguments, json_bytes};
use crate::{
    engine::{ErrorKind, inputs},
    pattern::Permissions,
    resilience::{BackendKind, Entry},
    scope::Scope,
};
use connection::{Fault, Listed};
use pool::{How, Unconnected};

/// Most text and JSON of one answer, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Parts of an answer that are told of.
const PARTS_MAX: usize = 100;

/// Runs the step `uses`.
///
/// # Errors
/// `denied` for what is not configured, not pinned, not what was pinned or not among the permissions; `invalid_input`,
/// `program_failed`, `deadline`, `busy`, `cancelled`.
pub async fn run(
    uses: &str,
    context: &StepContext,
    with: &Map<String, Value>,
) -> Result<StepOutput, StepError> {
    let arguments = Arguments::new(uses, with);
    match uses {
        "mcp.call" => {
            tokio::select! {
                biased;
                () = context.cancel.cancelled() => {
                    Err(StepError::new(ErrorKind::Cancelled, format!("{uses}: the run was cancelled")))
                }
                called = call(&arguments, context) => called,
            }
        }
        "mcp.tools" => tools(&arguments, context),
        _ => Err(super::unknown_step(uses)),
    }
}

fn tools(arguments: &Arguments<'_>, context: &StepContext) -> Result<StepOutput, StepError> {
    let only = arguments.text_or_none("server")?;
    let mut tools = Vec::new();
    for (server, setting) in context.outside.mcp.of(&context.scope) {
        if only.is_some_and(|only| only != server) {
            continue;
        }
        for (tool, pinned) in &setting.tools {
            if !grants(&context.permissions, server, tool, pinned.reads) {
                continue;
            }
            let mut entry = json!({"server": server, "tool": tool, "reads": pinned.reads});
            if let Some(query) = &pinned.query {
                entry["query"] = json!(query);
            }
            tools.push(entry);
        }
    }
    Ok(StepOutput::of(json!({"n": tools.len(), "tools": tools})))
}

/// Whether a pattern with these permissions may call a tool.
fn grants(permissions: &Permissions, server: &str, tool: &str, reads: bool) -> bool {
    let names = |granted: &String| match granted.split_once('/') {
        None => granted == "*",
        Some((of, "*")) => of == server,
        Some((of, one)) => of == server && one == tool,
    };
    (reads && permissions.mcp.iter().any(names))
        || permissions.mcp_write.iter().any(|granted| granted.split_once('/') == Some((server, tool)))
}

async fn call(arguments: &Arguments<'_>, context: &StepContext) -> Result<StepOutput, StepError> {
    let (server, tool) = (arguments.text("server")?, arguments.text("tool")?);
    let given = match arguments.value("arguments") {
        None => Map::new(),
        Some(Value::Object(given)) => given.clone(),
        Some(_) => return Err(arguments.wrong("arguments", "an object")),
    };
    let denied = |message: String| StepError::new(ErrorKind::Denied, message);
    let shown = format!("{}/{}", name_of(server), name_of(tool));
    let servers = &context.outside.mcp;
    let setting = servers.of(&context.scope).find(|(name, _)| *name == server).map(|(_, setting)| setting);
    let Some(setting) = setting else {
        return Err(denied(format!(
            "no server `{}` is configured for this project; the user's tmws.toml names servers in [servers.NAME], and \
             in its `projects` whose calls may use them",
            name_of(server)
        )));
    };
    let Some(pinned) = setting.tools.get(tool) else {
        return Err(denied(format!(
            "{shown} is not among the tools that the user pinned; `tmws tools {server}` prints what to add to tmws.toml"
        )));
    };
    if !grants(&context.permissions, server, tool, pinned.reads) {
        let word = if pinned.reads { "mcp" } else { "mcp.write" };
        let why = if pinned.reads { "" } else { ", which is not said to read only" };
        return Err(denied(format!(
            "the permissions of this pattern do not name {shown}{why}; add `{word}: [{shown}]`"
        )));
    }

    let end = Instant::from_std(context.deadline).checked_sub(ENDS_EARLY).unwrap_or_else(Instant::now);
    let told = |fault: Fault| {
        let kind =
            if matches!(fault, Fault::Late(_)) { ErrorKind::Deadline } else { ErrorKind::ProgramFailed };
        StepError::new(kind, format!("{shown}: {fault}"))
    };
    let guard = context.outside.backends.guard(BackendKind::Server, server);
    let entry = guard.enter(end.into_std()).await?;
    let connection = match servers.connect(server, &context.scope, end).await {
        Ok(connection) => connection,
        Err(Unconnected { error, how }) => {
            match how {
                How::Failed(pause) => {
                    guard.leave_alone(pause, &error.message);
                    entry.fail(None, &error.message);
                }
                How::LeftAlone(rest) => entry.turn_away(rest, &error.message),
                How::Starting => entry.give_up_waiting(),
                How::Late => {
                    entry.give_up();
                }
                How::Unsaid => entry.dismiss(),
            }
            return Err(error);
        }
    };
    let limit = setting.timeout.min(end.saturating_duration_since(Instant::now()));
    let deadline = Instant::now() + limit;
    let entry = Asked { entry, is_its_time: limit == setting.timeout };
    let tools = match connection.tools(deadline, limit).await {
        Ok(tools) => tools,
        Err(fault) => {
            entry.failed(&fault);
            return Err(told(fault));
        }
    };
    let listed = tools.get(tool).ok_or_else(|| {
        denied(format!("{shown} was pinned and is not there any more; `tmws tools {server}` shows what is"))
    })?;
    if listed.pin != pinned.pin {
        return Err(denied(format!(
            "{shown} is not what was pinned: pinned is {}, it is now {}; `tmws tools {server}` shows it as it is, and \
             what to write if it is to be trusted",
            pinned.pin, listed.pin
        )));
    }
    let wanted = Value::Object(given);
    listed
        .check(&wanted)
        .map_err(|why| StepError::new(ErrorKind::InvalidInput, format!("{shown}: {why}")))?;
    let Value::Object(given) = wanted else { unreachable!("made an object above") };
    let result = match connection.call(tool, given, deadline, limit).await {
        Ok(result) => result,
        Err(fault) => {
            entry.failed(&fault);
            return Err(told(fault));
        }
    };
    entry.succeeded();
    let bytes = json_bytes(&result) as u64;
    let value = shape(result, listed, context.bytes_max.min(ANSWER_BYTES_MAX)).map_err(told)?;
    servers.served(server, &context.scope);
    Ok(StepOutput { value, bytes })
}

/// What is asked of a server, for its guard.
struct Asked<'a> {
    entry: Entry<'a>,
    /// Whether it has all the time that the user gives it, rather than what its caller has left.
    is_its_time: bool,
}

impl Asked<'_> {
    fn succeeded(self) {
        self.entry.succeed();
    }

    fn failed(self, fault: &Fault) {
        match fault {
            Fault::Late(_) if !self.is_its_time => {
                self.entry.give_up();
            }
            Fault::Late(_) => {
                self.entry.time_out(&fault.to_string());
            }
            Fault::Failed(_) => {
                self.entry.fail(None, &fault.to_string());
            }
            Fault::Refused(_) => self.entry.succeed(),
        }
    }
}

/// A name as an error may show it.
fn name_of(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(80).collect()
}

/// The value of `mcp.call`, of at most about `bytes_max` bytes.
fn shape(mut result: Value, listed: &Listed, bytes_max: usize) -> Result<Value, Fault> {
    let is_error = result.get("isError").is_some_and(|flag| *flag == true);
    let structured = result.get_mut("structuredContent").map(Value::take).filter(|value| !value.is_null());
    let parts = match result.get_mut("content").map(Value::take) {
        Some(Value::Array(parts)) => parts,
        None | Some(Value::Null) if structured.is_some() => Vec::new(),
        _ => return Err(Fault::Failed("its result has no content".to_owned())),
    };
    if let (Some(schema), Some(value), false) = (&listed.output, &structured, is_error)
        && !inputs::schema(schema).is_ok_and(|schema| schema.is_valid(value))
    {
        return Err(Fault::Failed("its structured content does not fit its own outputSchema".to_owned()));
    }
    let mut truncated = parts.len() > PARTS_MAX;
    let mut text = String::new();
    let mut content = Vec::new();
    for part in parts.iter().take(PARTS_MAX) {
        let of = |name: &str| part.get(name).and_then(Value::as_str);
        let words = match of("type") {
            Some("text") => of("text"),
            Some("resource") => part["resource"].get("text").and_then(Value::as_str),
            _ => None,
        };
        match words {
            Some(words) => {
                if !text.is_empty() {
                    text.push('\n');
                }
                let rest = bytes_max.saturating_sub(text.len());
                truncated |= words.len() > rest;
                text.push_str(&words[..words.floor_char_boundary(rest)]);
            }
            None => content.push(other(part)),
        }
    }
    let single = parts.len() == 1 && !truncated;
    let json = structured.or_else(|| {
        let begins = single && text.trim_start().starts_with(['{', '[']);
        begins.then(|| serde_json::from_str(&text).ok()).flatten()
    });
    let json = json.filter(|json| {
        let fits = json_bytes(json) <= bytes_max;
        truncated |= !fits;
        fits
    });
    let mut value = Map::new();
    if !text.is_empty() {
        value.insert("text".to_owned(), text.into());
    }
    if let Some(json) = json {
        value.insert("json".to_owned(), json);
    }
    if !content.is_empty() {
        value.insert("content".to_owned(), content.into());
    }
    value.insert("is_error".to_owned(), is_error.into());
    value.insert("truncated".to_owned(), truncated.into());
    Ok(Value::Object(value))
}

/// Tells of a part that is no text, without its bytes.
fn other(part: &Value) -> Value {
    let mut told = Map::new();
    let inner = part.get("resource").unwrap_or(part);
    for (name, from) in [
        ("type", part),
        ("mimeType", inner),
        ("uri", inner),
        ("name", part),
        ("title", part),
        ("description", part),
    ] {
        if let Some(text) = from.get(name).and_then(Value::as_str) {
            let text: String = text.chars().take(400).collect();
            told.insert(name.to_owned(), text.into());
        }
    }
    if let Some(data) = inner.get("data").or_else(|| inner.get("blob")).and_then(Value::as_str) {
        told.insert("bytes".to_owned(), (data.len() / 4 * 3).into());
    }
    Value::Object(told)
}

/// How a tool stands to its pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Not pinned.
    New,
    /// As pinned.
    Same,
    /// Not as pinned.
    Differs(Pin),
    /// Pinned, and not there.
    Gone(Pin),
}

/// A tool as a person looks at it before pinning.
#[derive(Clone, Debug, PartialEq)]
pub struct Surveyed {
    /// Its name.
    pub name: String,
    /// What it is now; `None` where it is gone.
    pub pin: Option<Pin>,
    /// What was pinned.
    pub standing: Standing,
    /// The server's words.
    pub description: String,
    /// Names of its arguments, the required ones first.
    pub arguments: Vec<String>,
    /// The server's own word that it only reads.
    pub read_only_hint: bool,
}

impl Servers {
    /// Starts `server` and lists its tools beside the pins, whoever may use it: for the user who configured it.
    ///
    /// # Errors
    /// `program_failed`, `deadline`, `denied`.
    pub async fn survey(&self, server: &str, scope: &Scope) -> Result<Vec<Surveyed>, StepError> {
        let listed = self.listing(server, scope).await?;
        let pins = self.settings().find(|(name, _)| *name == server).map(|(_, setting)| &setting.tools);
        let names: BTreeSet<&String> =
            listed.keys().chain(pins.into_iter().flat_map(std::collections::BTreeMap::keys)).collect();
        Ok(names
            .into_iter()
            .filter_map(|name| {
                let pinned = pins.and_then(|pins| pins.get(name)).map(|tool| tool.pin);
                let tool = listed.get(name);
                let standing = match (tool, pinned) {
                    (None, None) => return None,
                    (None, Some(pin)) => Standing::Gone(pin),
                    (Some(_), None) => Standing::New,
                    (Some(tool), Some(pin)) if tool.pin == pin => Standing::Same,
                    (Some(_), Some(pin)) => Standing::Differs(pin),
                };
                Some(Surveyed {
                    name: name.clone(),
                    pin: tool.map(|tool| tool.pin),
                    standing,
                    description: tool.map(|tool| tool.description.clone()).unwrap_or_default(),
                    arguments: tool.map(|tool| argument_names(&tool.input)).unwrap_or_default(),
                    read_only_hint: tool.is_some_and(|tool| tool.read_only_hint),
                })
            })
            .collect())
    }
}

fn argument_names(schema: &Value) -> Vec<String> {
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut names: Vec<String> =
        schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
    names.sort_by_key(|name| !required.contains(&name.as_str()));
    names
}
