//! Reads a conversation file; the format is that of `fixtures/conversations/README.md`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Duration,
};

use serde_json::{Map, Value};
use tmws::{
    limits::ConnectionLimits,
    protocol::ServerEvent,
    revision::{Era, Revision},
};

use super::catalogue::{object, profile};

/// One file.
#[derive(Debug)]
pub(crate) struct Conversation {
    /// Path below `fixtures/conversations`, without extension, with `/`.
    pub(crate) name: String,
    pub(crate) header: Header,
    pub(crate) steps: Vec<Step>,
}

/// The header lines.
#[derive(Debug)]
pub(crate) struct Header {
    /// Ids of the rules that are shown, as they stand in `RULES.md`.
    pub(crate) rules: Vec<String>,
    pub(crate) profile: String,
    pub(crate) limits: ConnectionLimits,
    /// Revisions to open a session of, one play each; empty for a new connection.
    pub(crate) sessions: Vec<Revision>,
    pub(crate) capabilities: Map<String, Value>,
    /// Answers to a batch come as single frames.
    pub(crate) batches_as_frames: bool,
    /// Methods whose calls the service keeps until `! reply`.
    pub(crate) hold: Vec<String>,
    /// The service breaks its contract: the core must say so in its diagnostics.
    pub(crate) our_fault: bool,
    /// Whether the server's side is kept as a snapshot.
    pub(crate) snapshot: bool,
    pub(crate) lets: BTreeMap<String, String>,
}

/// One line of the conversation (or one group, for `<any-order`).
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) line: usize,
    pub(crate) action: Action,
}

/// What a line says.
#[derive(Debug)]
pub(crate) enum Action {
    Send(String),
    SendPart(String),
    SendBytes(Vec<u8>),
    Reply {
        id: String,
        outcome: Outcome,
    },
    /// Ends the call with an internal error where one was held; not written in files.
    ReplyIfHeld(String),
    Notice {
        id: String,
        text: String,
    },
    Event(ServerEvent),
    /// A task of that design changed; the text is expanded when played.
    TaskChanged {
        era: Era,
        text: String,
    },
    Advance(Duration),
    Eof,
    DrainDeadline,
    Expect(String),
    ExpectRaw(String),
    Maybe(String),
    AnyOrder(Vec<(usize, String)>),
    Silence,
    Dispatched {
        method: String,
        subject: Option<String>,
    },
    Undispatched,
    Cancelled(String),
    Drained(bool),
    Accepting(bool),
}

/// How `! reply` ends a call; texts are expanded when played.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Result(String),
    List(String),
    Ask(String),
    Task(String),
    Tasks(String),
    InvalidParams(String),
    NotFound(String),
    MissingCapability(String),
    TaskSupport(String),
    Internal,
}

impl Action {
    /// Whether the line is something that happens to the core, as opposed to what is expected of it.
    pub(crate) fn is_input(&self) -> bool {
        matches!(
            self,
            Self::Send(_)
                | Self::SendPart(_)
                | Self::SendBytes(_)
                | Self::Reply { .. }
                | Self::ReplyIfHeld(_)
                | Self::Notice { .. }
                | Self::Event(_)
                | Self::TaskChanged { .. }
                | Self::Advance(_)
                | Self::Eof
                | Self::DrainDeadline
        )
    }
}

/// Reads one file.
///
/// # Errors
/// `LINE: what is wrong there`.
pub(crate) fn parse(name: &str, text: &str) -> Result<Conversation, String> {
    let mut header = Header::plain();
    let mut steps: Vec<Step> = Vec::new();
    let mut group: Option<(usize, Vec<(usize, String)>)> = None;
    if !text.starts_with("# ") {
        return Err("1: the first line says which rule the file shows, after `# `".to_owned());
    }
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let fault = |what: String| format!("{number}: {what}");
        // What the client sends keeps its white space.
        let line = if line.starts_with('>') { line } else { line.trim_end() };
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some((_, lines)) = &mut group {
            if line == "<end" {
                let (start, lines) = group.take().expect("inside a group");
                steps.push(Step { line: start, action: Action::AnyOrder(lines) });
            } else if let Some(json) = line.strip_prefix("< ") {
                lines.push((number, json.to_owned()));
            } else {
                return Err(fault(format!("only `<` lines stand in any order, not {line:?}")));
            }
            continue;
        }
        if line == "<any-order" {
            group = Some((number, Vec::new()));
            continue;
        }
        if let Some(action) = action(line).map_err(fault)? {
            steps.push(Step { line: number, action });
            continue;
        }
        if !steps.is_empty() {
            return Err(fault(format!("not a line of a conversation: {line:?}")));
        }
        header_line(&mut header, line).map_err(fault)?;
    }
    if let Some((start, _)) = group {
        return Err(format!("{start}: the group has no `<end`"));
    }
    if header.rules.is_empty() {
        return Err("1: no `rule:` line".to_owned());
    }
    match steps.last() {
        None => return Err("1: nothing happens in this file".to_owned()),
        Some(step) if step.action.is_input() => {
            return Err(format!("{}: nothing is expected after the last input", step.line));
        }
        Some(_) => {}
    }
    Ok(Conversation { name: name.to_owned(), header, steps })
}

impl Header {
    /// The header of a file that says nothing.
    pub(crate) fn plain() -> Self {
        Self {
            rules: Vec::new(),
            profile: "full".to_owned(),
            limits: ConnectionLimits::default(),
            sessions: Vec::new(),
            capabilities: Map::new(),
            batches_as_frames: false,
            hold: Vec::new(),
            our_fault: false,
            snapshot: false,
            lets: BTreeMap::new(),
        }
    }
}

fn header_line(header: &mut Header, line: &str) -> Result<(), String> {
    let (key, value) = line.split_once(": ").ok_or_else(|| format!("not a header line: {line:?}"))?;
    match key {
        "rule" => {
            for id in value.split(", ") {
                if !is_rule_id(id) {
                    return Err(format!("no rule id: {id:?}"));
                }
                if header.rules.iter().any(|known| known == id) {
                    return Err(format!("rule {id:?} is cited twice"));
                }
                header.rules.push(id.to_owned());
            }
        }
        "profile" => {
            profile(value).ok_or_else(|| format!("no profile {value:?}"))?;
            value.clone_into(&mut header.profile);
        }
        "limits" => {
            for setting in value.split_whitespace() {
                set_limit(&mut header.limits, setting)?;
            }
        }
        "session" if value == "legacy" => header.sessions = Revision::LEGACY.to_vec(),
        "session" => {
            for word in value.split_whitespace() {
                let revision = Revision::LEGACY
                    .into_iter()
                    .find(|revision| revision.as_str() == word)
                    .ok_or_else(|| format!("no legacy revision {word:?}"))?;
                header.sessions.push(revision);
            }
        }
        "capabilities" => {
            let value: Value =
                serde_json::from_str(value).map_err(|error| format!("capabilities are no JSON: {error}"))?;
            header.capabilities = object(value);
        }
        "hold" => header.hold = value.split_whitespace().map(str::to_owned).collect(),
        "batches" if value == "frames" => header.batches_as_frames = true,
        "our-fault" if value == "yes" => header.our_fault = true,
        "snapshot" if value == "yes" => header.snapshot = true,
        _ => match key.strip_prefix("let ") {
            Some(name) => {
                header.lets.insert(name.to_owned(), value.to_owned());
            }
            None => return Err(format!("no header line {line:?}")),
        },
    }
    Ok(())
}

fn set_limit(limits: &mut ConnectionLimits, setting: &str) -> Result<(), String> {
    let (key, value) = setting.split_once('=').ok_or_else(|| format!("not a limit: {setting:?}"))?;
    let count = || value.parse::<usize>().map_err(|error| format!("{setting:?}: {error}"));
    match key {
        "frame_in" => limits.frame_in_bytes_max = count()?,
        "frame_out" => limits.frame_out_bytes_max = count()?,
        "inflight" => limits.inflight_requests_max = count()?,
        "subscriptions" => limits.subscriptions_max = count()?,
        "page" => limits.page_items = count()?,
        "call_deadline" => limits.call_deadline = duration(value)?,
        "task_deadline" => limits.task_deadline = duration(value)?,
        "ask_deadline" => limits.ask_deadline = duration(value)?,
        "state_ttl" => limits.request_state_ttl = duration(value)?,
        _ => return Err(format!("no limit {key:?}")),
    }
    Ok(())
}

fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, Duration::from_millis(1)),
        None => {
            (text.strip_suffix('s').ok_or_else(|| format!("{text:?} has no unit"))?, Duration::from_secs(1))
        }
    };
    let count: u32 = number.parse().map_err(|error| format!("{text:?}: {error}"))?;
    Ok(unit * count)
}

fn action(line: &str) -> Result<Option<Action>, String> {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    let action = match word {
        ">" => Action::Send(rest.to_owned()),
        ">part" => Action::SendPart(rest.to_owned()),
        ">hex" => {
            let bytes = rest.split_whitespace().map(|byte| u8::from_str_radix(byte, 16));
            Action::SendBytes(bytes.collect::<Result<_, _>>().map_err(|error| format!("{rest:?}: {error}"))?)
        }
        "<" => Action::Expect(rest.to_owned()),
        "<raw" => Action::ExpectRaw(rest.to_owned()),
        "<maybe" => Action::Maybe(rest.to_owned()),
        "<none" if rest.is_empty() => Action::Silence,
        "!" => happening(rest)?,
        "=" => state(rest)?,
        _ if word.starts_with(['<', '>', '!', '=']) => return Err(format!("no directive {word:?}")),
        _ => return Ok(None),
    };
    Ok(Some(action))
}

fn happening(text: &str) -> Result<Action, String> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    Ok(match word {
        "reply" => {
            let (id, rest) = rest.split_once(' ').ok_or("`! reply ID KIND …`")?;
            let (kind, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            let outcome = match kind {
                "result" => Outcome::Result(rest.to_owned()),
                "list" => Outcome::List(rest.to_owned()),
                "ask" => Outcome::Ask(rest.to_owned()),
                "task" => Outcome::Task(rest.to_owned()),
                "tasks" => Outcome::Tasks(rest.to_owned()),
                "error" => match rest.split_once(' ').unwrap_or((rest, "")) {
                    ("invalid-params", text) => Outcome::InvalidParams(text.to_owned()),
                    ("not-found", uri) => Outcome::NotFound(uri.to_owned()),
                    ("missing-capability", json) => Outcome::MissingCapability(json.to_owned()),
                    ("task-support", text) => Outcome::TaskSupport(text.to_owned()),
                    ("internal", "") => Outcome::Internal,
                    _ => return Err(format!("no error {rest:?}")),
                },
                _ => return Err(format!("no outcome {kind:?}")),
            };
            Action::Reply { id: id.to_owned(), outcome }
        }
        "notice" => {
            let (id, text) = rest.split_once(' ').ok_or("`! notice ID JSON`")?;
            Action::Notice { id: id.to_owned(), text: text.to_owned() }
        }
        "event" if rest.starts_with("task_changed ") => {
            let mut words = rest.splitn(3, ' ').skip(1);
            let era = match words.next() {
                Some("legacy") => Era::Legacy,
                Some("modern") => Era::Modern,
                other => return Err(format!("no design of tasks {other:?}")),
            };
            let text = words.next().ok_or("`! event task_changed DESIGN JSON`")?;
            Action::TaskChanged { era, text: text.to_owned() }
        }
        "event" => Action::Event(match rest.split_once(' ').unwrap_or((rest, "")) {
            ("tools_changed", "") => ServerEvent::ToolsChanged,
            ("prompts_changed", "") => ServerEvent::PromptsChanged,
            ("resources_changed", "") => ServerEvent::ResourcesChanged,
            ("resource_updated", uri) if !uri.is_empty() => {
                ServerEvent::ResourceUpdated { uri: uri.to_owned() }
            }
            _ => return Err(format!("no event {rest:?}")),
        }),
        "advance" => Action::Advance(duration(rest)?),
        "eof" => Action::Eof,
        "drain-deadline" => Action::DrainDeadline,
        _ => return Err(format!("no directive `! {word}`")),
    })
}

fn state(text: &str) -> Result<Action, String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    Ok(match words[..] {
        ["dispatched", method] => Action::Dispatched { method: method.to_owned(), subject: None },
        ["dispatched", method, subject] => {
            Action::Dispatched { method: method.to_owned(), subject: Some(subject.to_owned()) }
        }
        ["undispatched"] => Action::Undispatched,
        ["cancelled", id] => Action::Cancelled(id.to_owned()),
        ["drained"] => Action::Drained(true),
        ["not-drained"] => Action::Drained(false),
        ["accepting"] => Action::Accepting(true),
        ["paused"] => Action::Accepting(false),
        _ => return Err(format!("no directive `= {text}`")),
    })
}

/// `topic.what-it-says`: two words or groups of words of lower-case letters, digits and hyphens.
fn is_rule_id(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    text.split_once('.').is_some_and(|(topic, rule)| is_part(topic) && is_part(rule))
}

/// The ids that the text of `RULES.md` defines: each on a list item of its own, `- \`id\`: RULE [SOURCE]`.
///
/// # Errors
/// `LINE: what is wrong there`.
pub(crate) fn parse_rules(text: &str) -> Result<BTreeSet<String>, String> {
    let mut ids = BTreeSet::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((index, line)) = lines.next() {
        let fault = |what: String| format!("{}: {what}", index + 1);
        let Some(item) = line.strip_prefix("- ") else { continue };
        let (id, says) = item
            .strip_prefix('`')
            .and_then(|item| item.split_once("`: "))
            .filter(|(id, _)| is_rule_id(id))
            .ok_or_else(|| fault(format!("no rule: {line:?}")))?;
        let mut says = says.to_owned();
        while let Some((_, more)) = lines.next_if(|(_, line)| line.starts_with("  ")) {
            says.push_str(&more[1..]);
        }
        if !says.rsplit_once(" [").is_some_and(|(rule, source)| !rule.is_empty() && source.ends_with(']')) {
            return Err(fault(format!("rule {id:?} does not say what it rests on")));
        }
        if !ids.insert(id.to_owned()) {
            return Err(fault(format!("rule {id:?} stands here twice")));
        }
    }
    Ok(ids)
}

/// Every conversation below `folder`, by path.
///
/// # Errors
/// One line for each file that cannot be read, with its path.
pub(crate) fn load(folder: &Path) -> Result<Vec<Conversation>, Vec<String>> {
    let mut paths = Vec::new();
    let mut faults = Vec::new();
    for topic in sorted(folder) {
        if topic.is_dir() {
            let files = sorted(&topic);
            if files.is_empty() {
                faults.push(format!("{}: the folder is empty", topic.display()));
            }
            paths.extend(files);
        } else if topic.file_name().is_none_or(|name| name != "README.md" && name != "RULES.md") {
            faults.push(format!("{}: stands outside of a topic", topic.display()));
        }
    }
    let mut conversations = Vec::new();
    for path in paths {
        let name = path.strip_prefix(folder).expect("a path below the folder").with_extension("");
        let name = name.to_string_lossy().replace('\\', "/");
        if path.extension().is_none_or(|extension| extension != "txt") {
            faults.push(format!("{}: is no .txt file", path.display()));
            continue;
        }
        match std::fs::read_to_string(&path)
            .map_err(|error| format!("0: {error}"))
            .and_then(|text| parse(&name, &text))
        {
            Ok(conversation) => conversations.push(conversation),
            Err(fault) => faults.push(format!("{name}.txt:{fault}")),
        }
    }
    if faults.is_empty() { Ok(conversations) } else { Err(faults) }
}

fn sorted(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).expect("the folder of conversations is part of the project");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_conversation_is_refused() {
        let table = [
            ("", "first line"),
            ("# t\n< {}", "rule"),
            ("# t\nrule: section 2.7\n<none", "no rule id"),
            ("# t\nrule: a.b, a.b\n<none", "twice"),
            ("# t\nrule: a.b\n", "nothing happens"),
            ("# t\nrule: a.b\n> {}\n", "nothing is expected"),
            ("# t\nrule: a.b\n>> {}\n<none", "no directive"),
            ("# t\nrule: a.b\n! dance\n<none", "no directive"),
            ("# t\nrule: a.b\n= odd\n<none", "no directive"),
            ("# t\nrule: a.b\n<any-order\n< {}", "<end"),
            ("# t\nrule: a.b\nprofile: huge\n<none", "no profile"),
            ("# t\nrule: a.b\nlimits: page=many\n<none", "invalid digit"),
            ("# t\nrule: a.b\nsession: 2026-07-28\n<none", "no legacy revision"),
            ("# t\nrule: a.b\n<none\nrule: a.c", "not a line"),
        ];
        for (text, expected) in table {
            let fault = parse("t", text).unwrap_err();
            assert!(fault.contains(expected), "{text:?}: {fault}");
        }
    }

    #[test]
    fn rules_are_read_from_their_list() {
        let text = "# Rules\n\n- `a.b`: It holds\n  on two lines. [ours]\n\n## More\n\n- `a.c-2`: It too. [2025-11-25 schema]\n";
        let ids = parse_rules(text).expect("two rules");
        assert_eq!(ids.into_iter().collect::<Vec<_>>(), ["a.b", "a.c-2"]);
        for (text, expected) in [
            ("- words", "no rule"),
            ("- `A.b`: It holds. [ours]", "no rule"),
            ("- `a.b`: It holds.", "rests on"),
            ("- `a.b`: It holds. [ours]\n- `a.b`: Again. [ours]", "twice"),
        ] {
            let fault = parse_rules(text).unwrap_err();
            assert!(fault.contains(expected), "{text:?}: {fault}");
        }
    }
}
