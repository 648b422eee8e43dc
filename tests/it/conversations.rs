//! Plays every file of `fixtures/conversations` against the protocol core.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};

use proptest::prelude::*;
use serde_json::{Value, json};
use tmws::{protocol::ServerEvent, revision::Revision, schema::Gate};

use crate::support::{
    catalogue::object,
    conversation::{Action, Conversation, Header, Step, load, parse_rules},
    player::{play, play_freely, sendable},
};

/// Longer frames are spread over lines in a snapshot.
const LINE_MAX: usize = 240;
/// Fewer files than this and some went missing.
const CONVERSATIONS_MIN: usize = 750;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/conversations")
}

fn conversations() -> Vec<Conversation> {
    match load(&folder()) {
        Ok(conversations) => conversations,
        Err(faults) => panic!("{} conversations cannot be read:\n  {}", faults.len(), faults.join("\n  ")),
    }
}

/// One play without a session, or one for each revision of the header.
fn plays(conversation: &Conversation) -> Vec<Option<Revision>> {
    let sessions = &conversation.header.sessions;
    if sessions.is_empty() { vec![None] } else { sessions.iter().copied().map(Some).collect() }
}

fn title(conversation: &Conversation, session: Option<Revision>) -> String {
    match session {
        Some(revision) if conversation.header.sessions.len() > 1 => {
            format!("{} {revision}", conversation.name)
        }
        _ => conversation.name.clone(),
    }
}

#[test]
fn every_conversation_goes_as_written() {
    let conversations = conversations();
    assert!(conversations.len() >= CONVERSATIONS_MIN, "only {} conversations", conversations.len());
    let gate = Arc::new(Gate::new());
    let mut report = String::new();
    let (mut count, mut failed) = (0, 0);
    for conversation in &conversations {
        for session in plays(conversation) {
            count += 1;
            if let Some(fault) = play(conversation, session, &gate).fault {
                failed += 1;
                let _ = writeln!(report, "  {}.txt:{fault}", title(conversation, session));
            }
        }
    }
    assert!(failed == 0, "{failed} of {count} plays differ:\n{report}");
}

#[test]
fn every_rule_cited_is_written_down_and_every_rule_is_shown() {
    let text = std::fs::read_to_string(folder().join("RULES.md")).expect("the rules are part of the project");
    let rules = parse_rules(&text).unwrap_or_else(|fault| panic!("RULES.md:{fault}"));
    let mut report = String::new();
    let mut shown = BTreeSet::new();
    for conversation in conversations() {
        for id in conversation.header.rules {
            if !rules.contains(&id) {
                let _ =
                    writeln!(report, "  {}.txt cites {id}, which RULES.md does not hold", conversation.name);
            }
            shown.insert(id);
        }
    }
    for id in rules.difference(&shown) {
        let _ = writeln!(report, "  {id} is shown by no conversation");
    }
    assert!(report.is_empty(), "the rules and the conversations differ:\n{report}");
}

#[test]
fn the_server_side_of_marked_conversations_equals_its_snapshot() {
    let gate = Arc::new(Gate::new());
    let marked: Vec<_> =
        conversations().into_iter().filter(|conversation| conversation.header.snapshot).collect();
    assert!(!marked.is_empty(), "no conversation is marked");
    for conversation in &marked {
        let mut text = String::new();
        for session in plays(conversation) {
            let played = play(conversation, session, &gate);
            if let Some(revision) = session {
                let _ = writeln!(text, "# {revision}");
            }
            for frame in played.frames {
                let line = frame.to_string();
                let shown = if line.len() > LINE_MAX { format!("{frame:#}") } else { line };
                let _ = writeln!(text, "{shown}");
            }
        }
        insta::assert_snapshot!(conversation.name.replace('/', "__"), text);
    }
}

/// What the client says in a mixture; `Cancel` and `Reply` name an earlier line by its place.
#[derive(Clone, Debug)]
enum Turn {
    Line(prop::sample::Index),
    Cancel(prop::sample::Index),
    Reply(prop::sample::Index),
    Event,
    Wait(u32),
}

fn turn() -> impl Strategy<Value = Turn> {
    prop_oneof![
        12 => any::<prop::sample::Index>().prop_map(Turn::Line),
        2 => any::<prop::sample::Index>().prop_map(Turn::Cancel),
        2 => any::<prop::sample::Index>().prop_map(Turn::Reply),
        1 => Just(Turn::Event),
        1 => (1u32..400).prop_map(Turn::Wait),
    ]
}

/// The requests in `lines` get the ids 1000, 1001, … so that each can be told apart; the rest stays as it is.
fn mixture(turns: &[Turn], lines: &[String]) -> (Vec<Step>, Vec<u64>, Vec<u64>) {
    let (mut steps, mut requests, mut cancelled) = (Vec::new(), Vec::new(), Vec::new());
    let mut push = |action| steps.push(Step { line: 0, action });
    for turn in turns {
        match turn {
            Turn::Line(index) => {
                let line = index.get(lines);
                let mut message = serde_json::from_str::<Value>(line).unwrap_or_default();
                let is_request = message["id"].is_string() || message["id"].is_number();
                if !(is_request && message["method"].is_string()) {
                    // Messages of other shapes may be met with silence; without an id they claim none.
                    push(Action::Send(line.replace("\"id\"", "\"di\"")));
                    continue;
                }
                let id = 1000 + requests.len() as u64;
                message["id"] = json!(id);
                requests.push(id);
                push(Action::Send(message.to_string()));
            }
            Turn::Cancel(index) if !requests.is_empty() => {
                let id = *index.get(&requests);
                cancelled.push(id);
                push(Action::Send(
                    json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}})
                        .to_string(),
                ));
            }
            Turn::Reply(index) if !requests.is_empty() => {
                push(Action::ReplyIfHeld(index.get(&requests).to_string()));
            }
            Turn::Event => push(Action::Event(ServerEvent::ToolsChanged)),
            Turn::Wait(seconds) => push(Action::Advance(Duration::from_secs(u64::from(*seconds)))),
            Turn::Cancel(_) | Turn::Reply(_) => {}
        }
    }
    (steps, requests, cancelled)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_is_mixed_each_request_is_answered_once_or_was_cancelled(
        turns in proptest::collection::vec(turn(), 1..80),
        session in proptest::option::of(proptest::sample::select(Revision::LEGACY.to_vec())),
        inflight in 1usize..8,
        declares in any::<bool>(),
    ) {
        static LINES: OnceLock<(Arc<Gate>, Vec<String>)> = OnceLock::new();
        let (gate, lines) = LINES.get_or_init(|| {
            let gate = Arc::new(Gate::new());
            let lines = conversations()
                .iter()
                .filter(|conversation| !conversation.header.our_fault)
                .flat_map(|conversation| sendable(conversation, &gate))
                .filter(|line| line.len() < 4096)
                .collect();
            (gate, lines)
        });
        let (steps, requests, cancelled) = mixture(&turns, lines);
        let mut header = Header::plain();
        header.limits.inflight_requests_max = inflight;
        "tasks".clone_into(&mut header.profile);
        if declares {
            header.capabilities = object(json!({"roots": {}, "sampling": {}, "elicitation": {}}));
        }
        let conversation = Conversation { name: "mixture".to_owned(), header, steps };
        let unanswered = play_freely(&conversation, session, gate).map_err(TestCaseError::fail)?;
        for id in requests {
            let missing = unanswered.contains(&id.to_string());
            prop_assert!(!missing || cancelled.contains(&id), "request {id} was never answered");
        }
    }
}
