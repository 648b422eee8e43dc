//! The server's side of one replay as text: what varies from run to run is taken out, and nothing else.
//!
//! | taken out | because |
//! |---|---|
//! | the version in `serverInfo` | it is that of the package |
//! | over HTTP what came for requests that the client cancelled or left | cancellation and request are on connections of their own: which is first is chance |
//! | the session id | it is random; that there is one is told |
//! | task ids, request states, cursors, and the times of tasks | they are made anew each time |
//! | the order of messages that answer nothing | they may overtake answers |
//!
//! Results of lists are long and the same in every transcript of a revision: they stand once, in
//! `compat/transcripts/lists/<revision>` (of our own server in `own-lists`), and each transcript that gets one names it.
//! That it is the same is tested. What our own tools say otherwise at each run stands in `own`.

use std::fmt::Write as _;

use serde_json::{Value, json};
use tmws::{
    replay::{Report, RequestReport},
    revision::Revision,
    transcript::Transport,
};

/// Methods whose results are the same for every client of a revision.
const LISTS: &[&str] = &["tools/list", "prompts/list", "resources/list", "resources/templates/list"];

/// Members that the server makes up, or that tell when.
const MADE_UP: &[&str] = &["taskId", "requestState", "nextCursor", "createdAt", "lastUpdatedAt"];

/// What the server said.
pub(crate) struct Normal {
    pub(crate) text: String,
    /// Results of lists.
    pub(crate) lists: Vec<List>,
}

/// The result of a list.
pub(crate) struct List {
    /// The revision that it was listed under.
    pub(crate) revision: String,
    /// The method, as a file is called.
    pub(crate) name: String,
    pub(crate) text: String,
}

/// The server's side of `report`; `folder` holds the results of lists. What a client written by hand does over HTTP is
/// never left to chance.
pub(crate) fn normal(report: &Report, transport: Transport, folder: &str, is_by_hand: bool) -> Normal {
    let (mut text, mut lists) = (String::new(), Vec::new());
    let mut negotiated = String::new();
    for step in &report.steps {
        let is_let_go = step.requests.iter().any(|request| request.is_let_go);
        let is_chance = transport == Transport::Http && is_let_go && !is_by_hand;
        write!(text, "{}: {}", step.line, step.sent).unwrap();
        if let Some(head) = step.head.as_ref().filter(|_| !is_chance) {
            let session = head.session.as_ref().map(|_| ", with a session id");
            let kind = head.content_type.as_deref().unwrap_or("no content");
            write!(text, " → {} {kind}{}", head.status, session.unwrap_or_default()).unwrap();
        }
        text.push('\n');
        if is_chance {
            text.push_str("  (cancelled or left)\n");
            continue;
        }
        for request in &step.requests {
            let answered = request.answers.first().map(|answer| &answer["result"]["protocolVersion"]);
            if let Some(Value::String(revision)) = answered {
                negotiated.clone_from(revision);
            }
            of_request(request, &negotiated, folder, &mut text, &mut lists);
        }
    }
    let mut unasked: Vec<String> = report.unasked.iter().map(line).collect();
    unasked.sort();
    for message in unasked {
        writeln!(text, "unasked: {message}").unwrap();
    }
    for note in &report.notes {
        writeln!(text, "note {}: {}", note.line, note.text).unwrap();
    }
    Normal { text, lists }
}

fn of_request(
    request: &RequestReport,
    negotiated: &str,
    folder: &str,
    text: &mut String,
    lists: &mut Vec<List>,
) {
    for progress in &request.progress {
        writeln!(text, "  {}", line(&progress["params"])).unwrap();
    }
    for answer in &request.answers {
        let mut answer = answer.clone();
        if let Some(result) = answer.get_mut("result") {
            without_version(result);
            if LISTS.contains(&request.method.as_str()) {
                let is_modern = result.get("resultType").is_some();
                let revision = if is_modern { Revision::V2026_07_28.as_str() } else { negotiated }.to_owned();
                let name = request.method.replace('/', "-");
                let list = List { revision, name, text: format!("{result:#}") };
                *result = json!(format!("as in {folder}/{}/{}", list.revision, list.name));
                lists.push(list);
            }
        }
        writeln!(text, "  {}", line(&answer)).unwrap();
    }
    if request.answers.is_empty() {
        text.push_str("  (no answer)\n");
    }
}

/// `serverInfo.version`, wherever it stands.
fn without_version(result: &mut Value) {
    let places = ["/serverInfo/version", "/_meta/io.modelcontextprotocol~1serverInfo/version"];
    for place in places {
        if let Some(version) = result.pointer_mut(place) {
            *version = "[version]".into();
        }
    }
}

fn line(message: &Value) -> String {
    let mut message = message.clone();
    without_made_up(&mut message);
    message.to_string()
}

/// Members whose values are made anew each time, wherever they stand.
fn without_made_up(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                if value.is_string() && MADE_UP.contains(&name.as_str()) {
                    *value = format!("[{name}]").into();
                } else {
                    without_made_up(value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(without_made_up),
        _ => {}
    }
}
