//! The gate against tables of frames (`fixtures/frames`), and against frames that went wrong.

#![expect(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tmws::{
    revision::Revision,
    schema::{Definition, Gate, Sealed, Violation, verdict},
    wire::{Envelope, ErrorCode, Frame, METHODS, Method, RequestId, RpcError, parse_frame},
};

/// One row of a fixture file.
struct Row {
    revision: Revision,
    title: String,
    /// Which way through the gate: `request`, `notification`, `sent notification`, `result`, `created task`, `error`,
    /// `sent request`, `answer`, `ask` or `input response`.
    way: String,
    method: Option<Method>,
    frame: Value,
    /// In invalid rows: where a fault is expected.
    path: Option<String>,
}

fn rows(kind: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    for revision in Revision::ALL {
        let folder =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/frames").join(kind).join(revision.as_str());
        let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for file in files {
            let table: Vec<Value> = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
            rows.extend(table.into_iter().map(|row| Row {
                revision,
                title: row["title"].as_str().unwrap().to_owned(),
                way: row["as"].as_str().unwrap().to_owned(),
                method: row.get("method").map(|name| Method::parse(name.as_str().unwrap()).unwrap()),
                frame: row["frame"].clone(),
                path: row.get("path").map(|path| path.as_str().unwrap().to_owned()),
            }));
        }
    }
    rows
}

fn params(frame: &Value) -> Option<Map<String, Value>> {
    frame.get("params").and_then(Value::as_object).cloned()
}

fn id(frame: &Value) -> Option<RequestId> {
    frame.get("id").and_then(|id| RequestId::from_token(&id.to_string()))
}

fn error_code(frame: &Value) -> Option<ErrorCode> {
    [
        ErrorCode::ParseError,
        ErrorCode::InvalidRequest,
        ErrorCode::MethodNotFound,
        ErrorCode::InvalidParams,
        ErrorCode::InternalError,
        ErrorCode::ResourceNotFoundLegacy,
        ErrorCode::UrlElicitationRequired,
        ErrorCode::HeaderMismatch,
        ErrorCode::MissingRequiredClientCapability,
        ErrorCode::UnsupportedProtocolVersion,
    ]
    .into_iter()
    .find(|code| frame.pointer("/error/code") == Some(&json!(code.code())))
}

/// Sends the row's frame its way: what was sealed, or `None` for what was admitted.
fn pass(gate: Gate, row: &Row) -> Result<Option<Sealed>, Violation> {
    let Row { revision, frame, .. } = row;
    let revision = *revision;
    let method = row.method.unwrap_or(Method::Ping);
    let envelope = || match parse_frame(frame.to_string().as_bytes()) {
        Ok(Frame::Single(envelope)) => Some(envelope),
        _ => None,
    };
    match row.way.as_str() {
        "request" => match envelope() {
            Some(Envelope::Request(request)) => {
                let token = request.id.token().to_owned();
                match gate.admit_request(revision, method, request) {
                    Ok(admitted) => {
                        assert_eq!((admitted.id().token(), admitted.method()), (token.as_str(), method));
                        assert_eq!(admitted.revision(), revision);
                        Ok(None)
                    }
                    Err((id, violation)) => {
                        assert_eq!(id.token(), token);
                        Err(violation)
                    }
                }
            }
            _ => Ok(None),
        },
        "notification" => match envelope() {
            Some(Envelope::Notification(notification)) => {
                gate.admit_notification(revision, method, notification).map(|_| None)
            }
            _ => Ok(None),
        },
        "answer" => match envelope() {
            Some(Envelope::Response(response)) => gate.admit_answer(revision, method, response).map(|_| None),
            _ => Ok(None),
        },
        "input response" => gate.admit_input_response(revision, method, frame.clone()).map(|_| None),
        "ask" => {
            gate.check_input_request(revision, method, &params(frame).unwrap_or_default()).map(|()| None)
        }
        "sent notification" => gate.seal_notification(revision, method, params(frame)).map(Some),
        "sent request" => match id(frame) {
            Some(id) => gate.seal_request(revision, method, &id, params(frame).unwrap_or_default()).map(Some),
            None => Ok(None),
        },
        "result" => match id(frame) {
            Some(id) => gate.seal_result(revision, method, &id, &frame["result"]).map(Some),
            None => Ok(None),
        },
        "created task" => match id(frame) {
            Some(id) => gate.seal_created_task(revision, &id, &frame["result"]).map(Some),
            None => Ok(None),
        },
        "error" => match error_code(frame) {
            Some(code) => {
                let mut error = RpcError::new(code, frame["error"]["message"].as_str().unwrap_or_default());
                error.data = frame["error"].get("data").cloned();
                gate.seal_error(Some(revision), id(frame).as_ref(), &error).map(Some)
            }
            None => Ok(None),
        },
        other => panic!("no way through the gate is called {other:?}"),
    }
}

#[test]
fn every_valid_frame_passes_and_what_is_sealed_is_the_frame_on_one_line() {
    for row in rows("valid") {
        let place = format!("{} {}: {}", row.revision, row.way, row.title);
        let passed = pass(Gate::new(), &row).unwrap_or_else(|violation| panic!("{place}: {violation}"));
        if let Some(sealed) = passed {
            assert!(!sealed.as_bytes().contains(&b'\n'), "{place}");
            assert_eq!(sealed.len(), sealed.as_bytes().len());
            let written: Value = serde_json::from_slice(sealed.as_bytes()).unwrap();
            assert_eq!(written, row.frame, "{place}");
            let order: Vec<&String> = written.as_object().unwrap().keys().collect();
            assert!(order.iter().map(|key| rank(key)).is_sorted(), "{place}: {order:?}");
        }
    }
}

fn rank(key: &str) -> Option<usize> {
    ["jsonrpc", "id", "method", "params", "result", "error"].iter().position(|known| *known == key)
}

#[test]
fn every_invalid_frame_is_refused_at_the_path_it_states() {
    for row in rows("invalid") {
        let place = format!("{} {}: {}", row.revision, row.way, row.title);
        let violation = pass(Gate::new(), &row).expect_err(&place);
        let path = row.path.as_deref().unwrap();
        let paths: Vec<&str> = violation.faults.iter().map(|fault| fault.instance_path.as_str()).collect();
        assert!(paths.contains(&path), "{place}: expected {path:?}, found {violation}");
        assert!(paths.is_sorted(), "{violation}");
        assert!(violation.definition.starts_with(row.revision.as_str()));
    }
}

#[test]
fn the_tables_cover_every_method_of_every_revision_both_ways() {
    for kind in ["valid", "invalid"] {
        let rows = rows(kind);
        for revision in Revision::ALL {
            let of_revision: Vec<&Row> = rows.iter().filter(|row| row.revision == revision).collect();
            assert!(of_revision.len() >= 15, "{kind} {revision}");
            let seen: BTreeSet<Method> = of_revision.iter().filter_map(|row| row.method).collect();
            for method in METHODS.iter().filter(|row| row.revisions[revision.index()]) {
                assert!(seen.contains(&method.method), "no {kind} {} in {revision}", method.name);
            }
        }
    }
}

#[test]
fn what_a_violation_says() {
    let mut text = String::new();
    for row in rows("invalid") {
        if row.revision == Revision::V2025_11_25 || row.revision == Revision::V2026_07_28 {
            writeln!(text, "{}\n    {}", row.title, pass(Gate::new(), &row).unwrap_err()).unwrap();
        }
    }
    insta::assert_snapshot!(text);
}

#[test]
fn a_violation_never_quotes_a_value() {
    let secret = "hunter2";
    for row in rows("valid") {
        for frame in with_every_leaf_replaced(&row.frame, &json!({ "x": secret })) {
            let row = Row { frame, title: String::new(), way: row.way.clone(), path: None, ..row };
            if let Err(violation) = pass(Gate::new(), &row) {
                assert!(!violation.to_string().contains(secret), "{violation}");
            }
        }
    }
}

/// Copies of `value`, each with another leaf replaced.
fn with_every_leaf_replaced(value: &Value, by: &Value) -> Vec<Value> {
    pointers(value)
        .into_iter()
        .filter(|pointer| !matches!(value.pointer(pointer), Some(Value::Object(_) | Value::Array(_))))
        .filter_map(|pointer| {
            let mut copy = value.clone();
            *copy.pointer_mut(&pointer)? = by.clone();
            Some(copy)
        })
        .collect()
}

fn pointers(value: &Value) -> Vec<String> {
    fn walk(value: &Value, here: &str, found: &mut Vec<String>) {
        found.push(here.to_owned());
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    walk(member, &format!("{here}/{}", name.replace('~', "~0").replace('/', "~1")), found);
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    walk(item, &format!("{here}/{index}"), found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(value, "", &mut found);
    found
}

#[test]
fn an_id_is_echoed_token_by_token() {
    for token in ["123456789012345678901234567890", "1.0", "-0", "1E2", r#""\u0061""#, r#""""#] {
        let id = RequestId::from_token(token).unwrap();
        let sealed = Gate::new()
            .seal_result(Revision::V2025_11_25, Method::ToolsCall, &id, &json!({"content": []}))
            .unwrap();
        let expected = format!(r#"{{"jsonrpc":"2.0","id":{token},"result":{{"content":[]}}}}"#);
        assert_eq!(String::from_utf8(sealed.into_bytes()).unwrap(), expected);
        let sealed =
            Gate::new().seal_error(None, Some(&id), &RpcError::new(ErrorCode::InvalidParams, "no")).unwrap();
        let expected =
            format!(r#"{{"jsonrpc":"2.0","id":{token},"error":{{"code":-32602,"message":"no"}}}}"#);
        assert_eq!(String::from_utf8(sealed.into_bytes()).unwrap(), expected);
    }
}

#[test]
fn every_integer_is_an_id_however_it_is_written() {
    for token in ["0", "-7", "1.0", "1e2", "18446744073709551617", "1e399", "-1e399"] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":{token},"method":"ping"}}"#);
        let Ok(Frame::Single(Envelope::Request(request))) = parse_frame(text.as_bytes()) else {
            panic!("{text}")
        };
        let admitted = Gate::new().admit_request(Revision::V2024_11_05, Method::Ping, request).unwrap();
        assert_eq!(admitted.id().token(), token);
        assert!(admitted.params().is_empty());
    }
}

#[test]
fn an_error_without_id_goes_out_where_the_revision_knows_it() {
    let error = RpcError::new(ErrorCode::ParseError, "not JSON");
    let goes = |revision| Gate::new().seal_error(revision, None, &error).is_ok();
    assert!(goes(None));
    let known: Vec<bool> = Revision::ALL.into_iter().map(|revision| goes(Some(revision))).collect();
    assert_eq!(known, [false, false, false, true, true]);
}

#[test]
fn a_message_goes_only_the_way_it_is_meant_to() {
    let gate = Gate::new();
    let id = RequestId::from_integer(1);
    for revision in Revision::ALL {
        assert!(gate.seal_request(revision, Method::ToolsList, &id, Map::new()).is_err());
        assert!(gate.seal_notification(revision, Method::NotificationsInitialized, None).is_err());
        assert!(gate.seal_result(revision, Method::RootsList, &id, &json!({"roots": []})).is_err());
        assert!(gate.check_input_request(revision, Method::ToolsList, &Map::new()).is_err());
        let text = r#"{"jsonrpc":"2.0","id":1,"method":"roots/list","params":{}}"#;
        let Ok(Frame::Single(Envelope::Request(request))) = parse_frame(text.as_bytes()) else { panic!() };
        assert!(gate.admit_request(revision, Method::RootsList, request).is_err());
    }
    // What travelled as a request before travels inside results now.
    assert!(gate.seal_request(Revision::V2026_07_28, Method::RootsList, &id, Map::new()).is_err());
    assert!(gate.check_input_request(Revision::V2025_11_25, Method::RootsList, &Map::new()).is_err());
}

#[test]
fn a_batch_is_the_array_of_its_answers() {
    let gate = Gate::new();
    let answers: Vec<Sealed> = [1, 2]
        .into_iter()
        .map(|number| {
            let id = RequestId::from_integer(number);
            gate.seal_result(Revision::V2025_03_26, Method::Ping, &id, &json!({})).unwrap()
        })
        .collect();
    insta::assert_snapshot!(
        String::from_utf8(gate.seal_batch(&answers).into_bytes()).unwrap(),
        @r#"[{"jsonrpc":"2.0","id":1,"result":{}},{"jsonrpc":"2.0","id":2,"result":{}}]"#
    );
}

#[test]
fn nulls_of_official_clients_are_gone_from_what_is_admitted() {
    let gate = Gate::new();
    let answer = |result: Value| {
        let text = json!({"jsonrpc": "2.0", "id": 1, "result": result}).to_string();
        let Ok(Frame::Single(Envelope::Response(response))) = parse_frame(text.as_bytes()) else { panic!() };
        gate.admit_answer(Revision::V2025_11_25, Method::ElicitationCreate, response).unwrap().unwrap()
    };
    assert_eq!(
        answer(json!({"action": "accept", "content": {"a": null, "b": "x"}})),
        json!({"action": "accept", "content": {"b": "x"}})
    );
    assert_eq!(answer(json!({"action": "decline", "content": null})), json!({"action": "decline"}));
    assert_eq!(answer(json!({"action": "cancel", "content": {"a": "x"}})), json!({"action": "cancel"}));
}

/// Any JSON of a few levels, biased towards what breaks a check.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        "[a-z/~]{0,4}|\\PC{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec(("[a-zA-Z_/~]{0,9}|content|roots|action|messages|_meta", inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn no_frame_makes_the_gate_panic(
        choice in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(),
        graft in any_json(),
        other in any::<prop::sample::Index>(),
    ) {
        thread_local!(static ROWS: Vec<Row> = rows("valid"));
        ROWS.with(|rows| {
            let row = choice.get(rows);
            let mut frame = row.frame.clone();
            let places = pointers(&frame);
            *frame.pointer_mut(place.get::<String>(&places)).unwrap() = graft;
            for (revision, method) in [(row.revision, row.method), (other.get(rows).revision, other.get(rows).method)] {
                // A frame that passes may be written otherwise than it was (a message name that was replaced), so only
                // the verdict is asked for here; the exact text is the subject of the tables.
                offer_everywhere(revision, method.unwrap_or(Method::Ping), &frame);
            }
        });
    }
}

/// Sends a frame every way there is; only a panic can fail.
fn offer_everywhere(revision: Revision, method: Method, frame: &Value) {
    let gate = Gate::new();
    let id = RequestId::from_integer(1);
    match parse_frame(frame.to_string().as_bytes()) {
        Ok(Frame::Single(Envelope::Request(request))) => drop(gate.admit_request(revision, method, request)),
        Ok(Frame::Single(Envelope::Notification(notification))) => {
            drop(gate.admit_notification(revision, method, notification));
        }
        Ok(Frame::Single(Envelope::Response(response))) => {
            drop(gate.admit_answer(revision, method, response));
        }
        _ => {}
    }
    drop(gate.admit_input_response(revision, method, frame.clone()));
    drop(gate.seal_result(revision, method, &id, frame.get("result").unwrap_or(frame)));
    drop(gate.seal_notification(revision, method, params(frame)));
    drop(gate.seal_request(revision, method, &id, params(frame).unwrap_or_default()));
    drop(gate.check_input_request(revision, method, &params(frame).unwrap_or_default()));
    for definition in [
        Definition::Message(method),
        Definition::Response(method),
        Definition::Result(method),
        Definition::Ask(method),
        Definition::InputRequired,
    ] {
        drop(verdict(revision, definition, frame));
    }
}
