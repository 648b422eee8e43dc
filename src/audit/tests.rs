use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
    path::Path,
    time::Instant,
};

use serde_json::{Value, json};

use super::*;
use crate::{
    revision::Revision,
    schema::{Admitted, Gate},
    scope::{ProjectId, Scope},
    tool::{ConnectionId, Origin},
    wire::{Envelope, Frame, Method, parse_frame},
};

const PATIENCE: Duration = Duration::from_secs(20);

fn admitted(method: Method, params: &Value) -> Arc<Admitted> {
    let frame = json!({"jsonrpc": "2.0", "id": 1, "method": method.as_str(), "params": params}).to_string();
    match parse_frame(frame.as_bytes()) {
        Ok(Frame::Single(Envelope::Request(request))) => {
            Arc::new(Gate::new().admit_request(Revision::V2025_06_18, method, request).unwrap())
        }
        other => panic!("no request: {other:?}"),
    }
}

fn call(method: Method, params: &Value, outcome: Outcome) -> CallLine {
    CallLine {
        at: "2026-07-28T10:00:00.1234Z".parse().unwrap(),
        scope: Scope::mint(ProjectId::personal(), "ada", "editor", Some("s3cret-session")),
        connection: ConnectionId(7),
        origin: Origin {
            peer: Some([192, 0, 2, 7].into()),
            has_token: true,
            is_stateless: false,
            ..Origin::default()
        },
        request: admitted(method, params),
        outcome,
        elapsed: Duration::from_micros(1_500),
    }
}

fn digester() -> Digester {
    Digester::derived(&[7; 32])
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Waits until `holds`, which another thread brings about.
fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        thread::yield_now();
    }
}

#[test]
fn a_line_tells_who_did_what_and_holds_no_argument() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/audit.jsonl");
    let audit = Audit::start(path.clone(), digester()).unwrap();
    let params = json!({"name": "execute_pattern", "arguments": {"pattern": "memory.search", "input": {"query": "s3cret"}}});
    audit.admit().unwrap().fill(call(Method::ToolsCall, &params, Outcome::Failed("denied")));
    let read = json!({"uri": "memory://s3cret"});
    audit.admit().unwrap().fill(call(Method::ResourcesRead, &read, Outcome::Ok));
    let odd = json!({"name": "s3cret {\"x\": 1}\n"});
    audit.admit().unwrap().fill(call(Method::ToolsCall, &odd, Outcome::Cancelled));
    audit.refused([203, 0, 113, 9].into(), "unknown-token");
    drop(audit.admit().unwrap());
    audit.close();
    let found = lines(&path);
    assert_eq!(found.len(), 4);
    let first = &found[0];
    assert_eq!(first["time"], "2026-07-28T10:00:00.123Z");
    let told = json!({
        "event": "call", "principal": "ada", "agent": "editor", "project": "personal", "connection": 7,
        "peer": "192.0.2.7", "method": "tools/call", "tool": "execute_pattern", "pattern": "memory.search",
        "outcome": "denied", "ms": 1.5,
    });
    for (key, value) in told.as_object().unwrap() {
        assert_eq!(&first[key], value, "{key}");
    }
    assert_eq!(first["arguments"].as_str().unwrap().len(), 64);
    assert_eq!(first["session"].as_str().unwrap().len(), 16);
    assert_eq!((&found[1]["uri_kind"], &found[1]["outcome"]), (&json!("memory"), &json!("ok")));
    assert_eq!(found[2].get("tool"), None);
    assert_eq!(found[2]["outcome"], "cancelled");
    assert_eq!((&found[3]["event"], &found[3]["reason"]), (&json!("refused"), &json!("unknown-token")));
    assert!(!fs::read_to_string(&path).unwrap().contains("s3cret"));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
    assert_eq!((audit.written(), audit.waiting()), (4, 0));
}

#[test]
fn what_was_written_stays_and_an_unfinished_line_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    fs::write(&path, "{\"time\":1}\n{\"ti").unwrap();
    let audit = Audit::start(path.clone(), digester()).unwrap();
    audit.refused([203, 0, 113, 9].into(), "no-token");
    audit.close();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("{\"time\":1}\n{\"ti\n{\"time\":\""), "{text}");
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600, "it was readable by others");
}

#[test]
fn a_symbolic_link_is_not_followed_and_calls_are_refused_until_it_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let (path, elsewhere) = (folder.path().join("audit.jsonl"), folder.path().join("elsewhere"));
    fs::write(&elsewhere, "precious").unwrap();
    symlink(&elsewhere, &path).unwrap();
    let audit = Audit::start(path.clone(), digester()).unwrap();
    let refused = audit.admit().err().unwrap();
    assert!(matches!(refused, Unlogged::Failing { .. }), "{refused}");
    assert!(!refused.to_string().contains("elsewhere"), "{refused}");
    assert!(audit.check().is_err());
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "precious");
    fs::remove_file(&path).unwrap();
    audit.reopen();
    until("it is written again", || audit.check().is_ok());
    audit.admit().unwrap().fill(call(Method::ToolsCall, &json!({"name": "remember"}), Outcome::Ok));
    audit.close();
    assert_eq!(lines(&path).len(), 1);
}

#[test]
fn a_log_that_was_moved_away_is_opened_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (path, old) = (folder.path().join("audit.jsonl"), folder.path().join("audit.jsonl.1"));
    let audit = Audit::start(path.clone(), digester()).unwrap();
    audit.refused([203, 0, 113, 9].into(), "no-token");
    until("the first line is written", || audit.written() == 1);
    fs::rename(&path, &old).unwrap();
    audit.reopen();
    until("it is there again", || path.exists());
    audit.refused([203, 0, 113, 9].into(), "unknown-token");
    until("the second line is written", || audit.written() == 2);
    // Without being told, too.
    fs::remove_file(&path).unwrap();
    audit.refused([203, 0, 113, 9].into(), "project");
    until("it is found missing", || path.exists());
    audit.close();
    assert_eq!(lines(&old).len(), 1);
    assert!(lines(&path).iter().all(|line| line["reason"] == "project"));
}

#[test]
fn a_full_log_takes_no_call_and_events_leave_room_for_calls() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let audit = Audit::start(path.clone(), digester()).unwrap();
    let mut places: Vec<Place> = (0..EVENT_LINES_MAX).map(|_| audit.admit().unwrap()).collect();
    audit.refused([203, 0, 113, 9].into(), "no-token");
    assert_eq!(audit.left_out(), 1);
    places.extend((EVENT_LINES_MAX..LINES_MAX).map(|_| audit.admit().unwrap()));
    assert_eq!(audit.admit().err(), Some(Unlogged::Full));
    assert_eq!(audit.check(), Err(Unlogged::Full));
    drop(places);
    assert_eq!(audit.check(), Ok(()));
    audit.refused([203, 0, 113, 9].into(), "no-token");
    audit.close();
    let found = lines(&path);
    assert!(found.iter().any(|line| line["event"] == "events_left_out" && line["count"] == 1), "{found:?}");
}

#[test]
fn large_arguments_weigh_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let audit = Audit::start(path.clone(), digester()).unwrap();
    // Nothing is written while the queue is held.
    let held = audit.shared.lock();
    let params = json!({"name": "remember", "arguments": {"content": "x".repeat(64 * BYTES_PER_LINE)}});
    let place = audit.admit().unwrap();
    let line = call(Method::ToolsCall, &params, Outcome::Ok);
    let filled = thread::spawn(move || place.fill(line));
    until("its weight is counted", || audit.waiting() > 64);
    drop(held);
    filled.join().unwrap();
    until("it is written", || audit.waiting() == 0);
    audit.close();
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.len() < 1_000, "{text}");
}

#[test]
fn a_file_that_is_none_or_is_shared_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    fs::create_dir(&path).unwrap();
    let audit = Audit::start(path.clone(), digester()).unwrap();
    assert!(audit.admit().is_err());
    let other = folder.path().join("other");
    fs::write(&other, "").unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
    let linked = folder.path().join("linked");
    fs::hard_link(&other, &linked).unwrap();
    let audit = Audit::start(linked, digester()).unwrap();
    assert!(audit.admit().is_err());
}
