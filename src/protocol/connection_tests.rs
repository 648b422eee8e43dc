//! Whole exchanges with one connection: what was decided in several modules shows here.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};

use super::super::*;
use crate::{
    limits::ConnectionLimits,
    revision::Revision,
    schema::Gate,
    wire::{Direction, ErrorCode, Gate as MethodGate, Kind, METHODS, Method, RequestId},
};

const CLAIM: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{}}}"#;

/// A connection with a clock that stands still until told.
struct Peer {
    connection: Connection,
    now: Now,
    sent: Vec<Value>,
    calls: Vec<Call>,
    stopped: Vec<CallId>,
}

fn profile() -> Profile {
    let object = |value: Value| value.as_object().unwrap().clone();
    Profile {
        server_info: object(json!({"name": "n", "version": "1", "title": "T", "description": "d"})),
        instructions: Some("say please".to_owned()),
        capabilities: Capabilities {
            tools: Some(true),
            prompts: Some(false),
            resources: Some(ResourcesCapability { subscribe: true, list_changed: false }),
            completions: true,
            logging: true,
            tasks: true,
            extensions: Map::new(),
            experimental: Map::new(),
        },
        list_cache: CacheHint { ttl_ms: 60_000, scope: CacheScope::Private },
        read_cache: CacheHint { ttl_ms: 0, scope: CacheScope::Private },
    }
}

impl Peer {
    fn with(limits: ConnectionLimits, answers: BatchAnswers) -> Self {
        let connection = Connection::new(
            Arc::new(profile()),
            Arc::new(Gate::new()),
            limits,
            Signer::new([1; 32]),
            answers,
        );
        let now = Now { monotonic: Instant::now(), unix_ms: 1_800_000_000_000 };
        Self { connection, now, sent: Vec::new(), calls: Vec::new(), stopped: Vec::new() }
    }

    fn new() -> Self {
        Self::with(ConnectionLimits::default(), BatchAnswers::Array)
    }

    /// A peer with a session of `revision` whose client declared `capabilities`.
    fn in_session(revision: &str, capabilities: &Value) -> Self {
        Self::in_session_with(ConnectionLimits::default(), revision, capabilities)
    }

    fn in_session_with(limits: ConnectionLimits, revision: &str, capabilities: &Value) -> Self {
        let mut peer = Self::with(limits, BatchAnswers::Array);
        peer.open(revision, capabilities);
        peer.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        peer.sent.clear();
        peer
    }

    fn open(&mut self, revision: &str, capabilities: &Value) {
        let params = json!({"protocolVersion": revision, "capabilities": capabilities,
            "clientInfo": {"name": "c", "version": "1"}});
        self.say(
            &json!({"jsonrpc": "2.0", "id": "open", "method": "initialize", "params": params}).to_string(),
        );
    }

    fn say(&mut self, frame: &str) {
        self.connection.handle_frame(self.now, frame.as_bytes());
        self.drain();
    }

    fn reply(&mut self, call: CallId, reply: Reply) {
        self.connection.handle_reply(self.now, call, reply);
        self.drain();
    }

    fn advance(&mut self, by: Duration) {
        self.now.monotonic += by;
        self.now.unix_ms += by.as_millis() as u64;
        self.connection.handle_timeout(self.now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.connection.poll_output() {
            match output {
                Output::Send(frame) => self.sent.push(serde_json::from_slice(frame.as_bytes()).unwrap()),
                Output::Dispatch(call) => self.calls.push(call),
                Output::Cancel(call) => self.stopped.push(call),
            }
        }
    }

    #[track_caller]
    fn last_call(&self) -> CallId {
        self.calls.last().expect("a call was dispatched").id
    }

    /// What was sent since the last look.
    fn take(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.sent)
    }

    #[track_caller]
    fn take_one(&mut self) -> Value {
        let sent = self.take();
        assert_eq!(sent.len(), 1, "{sent:?}");
        sent.into_iter().next().unwrap()
    }
}

fn text(words: &str) -> Reply {
    Reply::Result(json!({"content": [{"type": "text", "text": words}]}).as_object().unwrap().clone())
}

fn call(id: &str, name: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{name}"}}}}"#)
}

fn modern_call(id: &str, more: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"t",{CLAIM}{more}}}}}"#)
}

fn form(key: &str) -> (String, Ask) {
    let params = json!({"message": "m", "requestedSchema": {"type": "object", "properties": {"a": {"type": "string"}}}});
    let params = params.as_object().unwrap().clone();
    (key.to_owned(), Ask { method: Method::ElicitationCreate, params, is_optional: false })
}

#[test]
fn a_session_and_modern_requests_live_on_one_connection() {
    let mut peer = Peer::new();
    peer.say(&format!(r#"{{"jsonrpc":"2.0","id":0,"method":"server/discover","params":{{{CLAIM}}}}}"#));
    let discovered = peer.take_one();
    assert_eq!(discovered["result"]["supportedVersions"], json!(["2026-07-28"]));
    assert_eq!(discovered["result"]["_meta"]["io.modelcontextprotocol/serverInfo"]["title"], "T");
    peer.open("2025-06-18", &json!({}));
    peer.say(&call("1", "t"));
    peer.say(&modern_call("2", ""));
    let initialized = peer.take_one();
    assert_eq!(initialized["result"]["protocolVersion"], "2025-06-18");
    assert_eq!(initialized["result"]["serverInfo"], json!({"name": "n", "version": "1", "title": "T"}));
    let revisions: Vec<Revision> = peer.calls.iter().map(|call| call.client.revision).collect();
    assert_eq!(revisions, [Revision::V2025_06_18, Revision::V2026_07_28]);
    let calls: Vec<CallId> = peer.calls.iter().map(|call| call.id).collect();
    for id in calls {
        peer.reply(id, text("x"));
    }
    let sent = peer.take();
    assert_eq!(
        sent[0],
        json!({"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": "x"}]}})
    );
    assert_eq!(sent[1]["result"]["resultType"], "complete");
}

#[test]
fn a_frame_that_is_no_message_never_answers_for_a_request_in_flight() {
    let mut peer = Peer::in_session("2025-11-25", &json!({}));
    peer.say(&call("1", "t"));
    peer.say(r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":"m"}}"#);
    let refused = peer.take_one();
    assert_eq!((refused.get("id"), &refused["error"]["code"]), (None, &json!(-32600)));
    peer.reply(peer.last_call(), text("x"));
    assert_eq!(peer.take_one()["id"], 1);
}

#[test]
fn what_finds_no_room_waits_in_order_and_is_answered() {
    let limits = ConnectionLimits { inflight_requests_max: 2, ..ConnectionLimits::default() };
    let mut peer = Peer::in_session_with(limits, "2025-03-26", &json!({}));
    let batch: Vec<String> = (1..=4).map(|id| call(&id.to_string(), "t")).collect();
    peer.say(&format!("[{}]", batch.join(",")));
    assert_eq!((peer.calls.len(), peer.connection.accepts_input()), (2, false));
    // What frees room is never kept waiting.
    peer.say(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#);
    assert_eq!((peer.stopped.len(), peer.calls.len()), (1, 3));
    for index in 1..4 {
        peer.reply(peer.calls[index].id, text("x"));
    }
    let answers = peer.take_one();
    let ids: Vec<&Value> = answers.as_array().unwrap().iter().map(|answer| &answer["id"]).collect();
    assert_eq!(ids, [2, 3, 4]);
    assert!(peer.connection.accepts_input());
}

#[test]
fn what_is_answered_here_waits_for_no_room() {
    let limits = ConnectionLimits { inflight_requests_max: 1, ..ConnectionLimits::default() };
    let mut peer = Peer::in_session_with(limits, "2025-11-25", &json!({}));
    peer.say(&call("1", "t"));
    peer.say(&call("2", "t"));
    assert_eq!((peer.calls.len(), peer.connection.accepts_input()), (1, false));
    let ping = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
    for (text, needs_none) in [
        (ping("3"), true),
        // It has the id of one that waits, or runs: it comes after that.
        (ping("2"), false),
        (ping("1"), false),
        (call("4", "ping"), false),
        (r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}"#.to_owned(), true),
        (
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":9}}"#.to_owned(),
            false,
        ),
        (r#"{"jsonrpc":"2.0","id":7,"result":{}}"#.to_owned(), true),
        (format!("[{}]", ping("5")), false),
        ("ping".to_owned(), false),
    ] {
        assert_eq!(peer.connection.text_needs_no_room(&text), needs_none, "{text}");
    }
    peer.say(&ping("3"));
    assert_eq!(peer.take_one(), json!({"jsonrpc": "2.0", "id": 3, "result": {}}));
    assert_eq!(peer.calls.len(), 1);
    peer.reply(peer.last_call(), text("x"));
    assert_eq!((peer.take_one()["id"].clone(), peer.calls.len()), (json!(1), 2));
}

#[test]
fn a_batch_too_large_for_one_array_comes_in_several() {
    let limits = ConnectionLimits { frame_out_bytes_max: 400, ..ConnectionLimits::default() };
    let mut peer = Peer::in_session_with(limits, "2025-03-26", &json!({}));
    let batch: Vec<String> = (1..=3).map(|id| call(&id.to_string(), "t")).collect();
    peer.say(&format!("[{}]", batch.join(",")));
    for index in 0..3 {
        peer.reply(peer.calls[index].id, text(&"x".repeat(100)));
    }
    let sent = peer.take();
    let sizes: Vec<usize> = sent.iter().map(|array| array.as_array().unwrap().len()).collect();
    assert_eq!(sizes, [2, 1]);
    assert!(sent.iter().all(|array| array.to_string().len() <= 400));
}

#[test]
fn a_result_beyond_the_limit_becomes_an_error_that_says_so() {
    let limits = ConnectionLimits { frame_out_bytes_max: 600, ..ConnectionLimits::default() };
    let mut peer = Peer::in_session_with(limits, "2025-11-25", &json!({}));
    peer.say(&call("1", "t"));
    peer.reply(peer.last_call(), text(&"x".repeat(1000)));
    let answer = peer.take_one();
    assert_eq!(answer["result"]["isError"], true);
    assert!(answer["result"]["content"][0]["text"].as_str().unwrap().contains("600"), "{answer}");
    peer.say(r#"{"jsonrpc":"2.0","id":2,"method":"prompts/get","params":{"name":"p"}}"#);
    let big = json!({"messages": [{"role": "user", "content": {"type": "text", "text": "x".repeat(1000)}}]});
    peer.reply(peer.last_call(), Reply::Result(big.as_object().unwrap().clone()));
    assert_eq!(peer.take_one()["error"]["code"], -32603);
}

#[test]
fn nothing_that_a_client_sends_makes_an_answer_outgrow_the_limit() {
    let limits = ConnectionLimits { frame_out_bytes_max: 2_000, ..ConnectionLimits::default() };
    let mut peer = Peer::in_session_with(limits, "2025-11-25", &json!({}));
    let long = "é".repeat(4000);
    let claim = format!(
        r#""_meta":{{"io.modelcontextprotocol/protocolVersion":"{long}","io.modelcontextprotocol/clientCapabilities":{{}}}}"#
    );
    peer.say(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{{claim}}}}}"#));
    peer.say(&format!(r#"{{"jsonrpc":"2.0","id":2,"method":"{long}"}}"#));
    peer.say(&format!(r#"{{"jsonrpc":"2.0","id":3,"method":"resources/read","params":{{"uri":"{long}"}}}}"#));
    peer.reply(peer.last_call(), Reply::Error(CallError::ResourceNotFound { uri: long.clone() }));
    peer.say(&format!(r#"{{"jsonrpc":"2.0","id":"{long}","method":"ping"}}"#));
    peer.say(&format!(r#"{{"jsonrpc":"2.0","id":"{long}","method":7}}"#));
    peer.say(&format!(r#"{{"jsonrpc":"2.0","{long}":4,"{long}":4,"id":6,"method":"ping"}}"#));
    let sent = peer.take();
    let codes: Vec<i64> = sent.iter().map(|answer| answer["error"]["code"].as_i64().unwrap()).collect();
    assert_eq!(codes, [-32022, -32601, -32002, -32600, -32600, -32600]);
    assert!(sent.iter().all(|answer| answer.to_string().len() <= 2_000), "{sent:?}");
}

#[test]
fn a_page_shrinks_until_it_fits_a_frame_and_loses_nothing() {
    let limits = ConnectionLimits { frame_out_bytes_max: 900, ..ConnectionLimits::default() };
    let mut peer = Peer::in_session_with(limits, "2025-11-25", &json!({}));
    let tools: Arc<[Value]> = (0..40)
        .map(|n| json!({"name": format!("tool_{n}"), "inputSchema": {"type": "object"}}))
        .collect::<Vec<_>>()
        .into();
    let mut seen = Vec::new();
    let mut params = json!({});
    loop {
        peer.say(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params}).to_string());
        peer.reply(peer.last_call(), Reply::List(Arc::clone(&tools)));
        let page = peer.take_one();
        assert!(page.to_string().len() <= 900);
        seen.extend(page["result"]["tools"].as_array().unwrap().clone());
        match page["result"].get("nextCursor") {
            Some(cursor) => params = json!({"cursor": cursor}),
            None => break,
        }
    }
    assert_eq!(seen, tools.to_vec());
}

#[test]
fn a_call_that_outlives_its_deadline_is_stopped_and_answered_once() {
    let mut peer = Peer::in_session("2025-11-25", &json!({}));
    peer.say(&call("1", "slow"));
    peer.advance(Duration::from_millis(30_900));
    assert!(peer.take().is_empty());
    assert_eq!(peer.connection.poll_timeout(), Some(peer.now.monotonic + Duration::from_millis(100)));
    peer.advance(Duration::from_millis(100));
    assert_eq!(peer.take_one()["result"]["isError"], true);
    assert_eq!(peer.stopped, [peer.last_call()]);
    peer.reply(peer.last_call(), text("too late"));
    assert!(peer.take().is_empty());
    assert_eq!(peer.connection.poll_timeout(), None);
}

#[test]
fn a_legacy_client_is_asked_by_requests_and_the_call_runs_again_with_its_answers() {
    let mut peer = Peer::in_session("2025-11-25", &json!({"elicitation": {}, "roots": {}}));
    peer.say(&call("7", "t"));
    let roots = ("r".to_owned(), Ask { method: Method::RootsList, params: Map::new(), is_optional: false });
    let requests = vec![form("f"), roots];
    peer.reply(peer.last_call(), Reply::InputRequired { requests, state: Some(json!(5)) });
    let asks = peer.take();
    assert_eq!(
        (&asks[0]["method"], &asks[1]["method"]),
        (&json!("elicitation/create"), &json!("roots/list"))
    );
    peer.say(&json!({"jsonrpc": "2.0", "id": asks[1]["id"], "result": {"roots": []}}).to_string());
    assert_eq!(peer.calls.len(), 1);
    peer.say(&json!({"jsonrpc": "2.0", "id": asks[0]["id"], "result": {"action": "decline"}}).to_string());
    let again = peer.calls.last().unwrap();
    let answers = again.answers.as_ref().unwrap();
    assert_eq!((&answers.responses["f"], &answers.state), (&json!({"action": "decline"}), &Some(json!(5))));
    peer.reply(peer.last_call(), text("done"));
    assert_eq!(peer.take_one()["id"], 7);
    // An answer that comes twice is ignored.
    peer.say(&json!({"jsonrpc": "2.0", "id": asks[0]["id"], "result": {"action": "decline"}}).to_string());
    assert!(peer.take().is_empty());
}

#[test]
fn cancelling_while_the_client_is_asked_takes_the_asks_back() {
    let mut peer = Peer::in_session("2025-11-25", &json!({"elicitation": {}}));
    peer.say(&call("7", "t"));
    peer.reply(peer.last_call(), Reply::InputRequired { requests: vec![form("f")], state: None });
    let ask = peer.take_one();
    peer.say(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#);
    let withdrawn = peer.take_one();
    assert_eq!(
        (&withdrawn["method"], &withdrawn["params"]["requestId"]),
        (&json!("notifications/cancelled"), &ask["id"])
    );
    assert!(peer.stopped.is_empty());
    assert_eq!(peer.connection.inflight(), 0);
}

#[test]
fn a_call_whose_client_does_not_answer_fails_in_words() {
    let table: &[(&str, Option<Value>)] = &[
        ("in time", None),
        ("with an error: no", Some(json!({"error": {"code": -1, "message": "no"}}))),
        ("not a valid", Some(json!({"result": {"action": 1}}))),
    ];
    for (words, answer) in table {
        let mut peer = Peer::in_session("2025-11-25", &json!({"elicitation": {}}));
        peer.say(&call("7", "t"));
        peer.reply(peer.last_call(), Reply::InputRequired { requests: vec![form("f")], state: None });
        let ask = peer.take_one();
        match answer {
            Some(answer) => {
                let mut message = json!({"jsonrpc": "2.0", "id": ask["id"]});
                message.as_object_mut().unwrap().extend(answer.as_object().unwrap().clone());
                peer.say(&message.to_string());
            }
            None => peer.advance(Duration::from_mins(5)),
        }
        let failed = peer.take().pop().unwrap();
        assert_eq!((&failed["id"], &failed["result"]["isError"]), (&json!(7), &json!(true)), "{words}");
        assert!(failed["result"]["content"][0]["text"].as_str().unwrap().contains(words), "{failed}");
    }
}

#[test]
fn what_is_ours_to_send_waits_for_initialized() {
    let mut peer = Peer::new();
    peer.open("2025-11-25", &json!({"elicitation": {}}));
    peer.say(&call("7", "t"));
    peer.take();
    peer.reply(peer.last_call(), Reply::InputRequired { requests: vec![form("f")], state: None });
    for _ in 0..3 {
        peer.connection.handle_event(peer.now, &ServerEvent::ToolsChanged);
    }
    peer.drain();
    assert!(peer.take().is_empty());
    peer.say(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
    let methods: Vec<Value> = peer.take().into_iter().map(|mut frame| frame["method"].take()).collect();
    assert_eq!(methods, ["elicitation/create", "notifications/tools/list_changed"]);
}

#[test]
fn a_modern_client_comes_back_with_answers_and_an_untouched_state() {
    let mut peer = Peer::new();
    peer.say(&modern_call("1", ""));
    peer.reply(
        peer.last_call(),
        Reply::InputRequired { requests: vec![form("f")], state: Some(json!({"n": 1})) },
    );
    let asked = peer.take_one();
    assert_eq!(asked["result"]["resultType"], "input_required");
    assert_eq!(asked["result"]["inputRequests"]["f"]["method"], "elicitation/create");
    let state = asked["result"]["requestState"].as_str().unwrap().to_owned();

    let more = format!(
        r#","requestState":"{state}","inputResponses":{{"f":{{"action":"decline"}},"x":{{"roots":[]}}}}"#
    );
    peer.say(&modern_call("2", &more));
    let answers = peer.calls.last().unwrap().answers.clone().unwrap();
    assert_eq!(Value::Object(answers.responses), json!({"f": {"action": "decline"}}));
    assert_eq!(answers.state, Some(json!({"n": 1})));

    let calls = peer.calls.len();
    let tampered = format!(r#","requestState":"A{state}""#);
    peer.say(&modern_call("3", &tampered));
    peer.say(&modern_call("4", &more).replace(r#""name":"t""#, r#""name":"u""#));
    peer.say(&modern_call("5", &more).replace(r#"{"action":"decline"}"#, "12345"));
    peer.now.unix_ms += 600_001;
    peer.say(&modern_call("6", &more));
    let refused = peer.take();
    assert_eq!(refused.len(), 4);
    assert!(refused.iter().all(|answer| answer["error"]["code"] == -32602), "{refused:?}");
    assert!(refused[3]["error"]["message"].as_str().unwrap().contains("expired"));
    assert_eq!(peer.calls.len(), calls);
}

#[test]
fn only_what_a_modern_client_declared_is_asked_of_it() {
    let mut peer = Peer::new();
    peer.say(&modern_call("1", ""));
    let roots =
        || ("r".to_owned(), Ask { method: Method::RootsList, params: Map::new(), is_optional: false });
    peer.reply(peer.last_call(), Reply::InputRequired { requests: vec![form("f"), roots()], state: None });
    let asked = peer.take_one();
    let keys: Vec<&String> = asked["result"]["inputRequests"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["f"]);
    peer.say(&modern_call("2", ""));
    peer.reply(peer.last_call(), Reply::InputRequired { requests: vec![roots()], state: None });
    let refused = peer.take_one();
    assert_eq!(refused["error"]["code"], -32021);
    assert_eq!(refused["error"]["data"], json!({"requiredCapabilities": {"roots": {}}}));
}

#[test]
fn streams_are_acknowledged_served_and_ended() {
    let mut peer = Peer::new();
    let listen = |id: &str, filter: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"subscriptions/listen","params":{{"notifications":{filter},{CLAIM}}}}}"#
        )
    };
    peer.say(&listen("\"a\"", r#"{"toolsListChanged":true,"promptsListChanged":true}"#));
    peer.say(&listen("2", r#"{"toolsListChanged":true,"resourceSubscriptions":["test://a"]}"#));
    peer.say(&listen("18446744073709551617", "{}"));
    let sent = peer.take();
    let key = "io.modelcontextprotocol/subscriptionId";
    assert_eq!(sent[0]["params"], json!({"_meta": {key: "a"}, "notifications": {"toolsListChanged": true}}));
    assert_eq!(sent[1]["params"]["notifications"]["resourceSubscriptions"], json!(["test://a"]));
    assert_eq!(sent[2]["error"]["code"], -32602);
    peer.connection.handle_event(peer.now, &ServerEvent::ToolsChanged);
    peer.connection.handle_event(peer.now, &ServerEvent::ResourceUpdated { uri: "test://a".to_owned() });
    peer.drain();
    let ids: Vec<Value> =
        peer.take().into_iter().map(|frame| frame["params"]["_meta"][key].clone()).collect();
    assert_eq!(ids, [json!("a"), json!(2), json!(2)]);
    peer.say(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"a"}}"#);
    peer.connection.handle_eof(peer.now);
    peer.drain();
    let ended = peer.take_one();
    assert_eq!((&ended["id"], &ended["result"]["_meta"][key]), (&json!(2), &json!(2)));
    assert!(peer.connection.is_drained());
}

#[test]
fn the_end_of_input_lets_calls_finish_and_the_drain_deadline_does_not() {
    let mut peer = Peer::in_session("2025-11-25", &json!({}));
    peer.say(&call("1", "a"));
    peer.say(&call("2", "b"));
    peer.connection.handle_eof(peer.now);
    peer.drain();
    assert!(!peer.connection.is_drained() && !peer.connection.accepts_input());
    peer.reply(peer.calls[0].id, text("x"));
    assert_eq!(peer.take_one()["id"], 1);
    peer.connection.handle_drain_deadline(peer.now);
    peer.drain();
    assert_eq!(peer.take_one()["result"]["isError"], true);
    assert_eq!(peer.stopped, [peer.calls[1].id]);
    assert!(peer.connection.is_drained());
}

#[test]
fn a_call_that_is_stopped_says_whether_something_may_have_been_changed() {
    let message = |answer: &Value| answer["result"]["content"][0]["text"].as_str().unwrap().to_owned();
    for is_end in [true, false] {
        let mut peer = Peer::in_session("2025-11-25", &json!({}));
        peer.say(&call("1", "writes"));
        peer.say(&call("2", "reads"));
        peer.connection.set_reads_only(peer.calls[1].id);
        if is_end {
            peer.connection.handle_drain_deadline(peer.now);
        } else {
            peer.now.monotonic = peer.connection.poll_timeout().unwrap();
            peer.connection.handle_timeout(peer.now);
        }
        peer.drain();
        let answers = peer.take();
        let (writes, reads) = (message(&answers[0]), message(&answers[1]));
        assert!(writes.contains("may or may not be changed; look before you call it again"), "{writes}");
        let advice = if is_end { "call again after a reconnect" } else { "ask for less, or try again" };
        assert!(reads.contains(advice) && !reads.contains("may or may not"), "{reads}");
    }
}

#[test]
fn what_comes_after_the_last_moment_is_said_not_to_have_begun() {
    let mut peer = Peer::in_session("2025-11-25", &json!({}));
    peer.connection.handle_drain_deadline(peer.now);
    peer.say(&call("1", "writes"));
    let answer = peer.take_one().to_string();
    assert!(answer.contains("was not begun") && !answer.contains("may or may not"), "{answer}");
    assert!(peer.calls.is_empty());
}

#[test]
fn progress_increases_and_logs_keep_to_their_level() {
    let mut peer = Peer::in_session("2025-03-26", &json!({}));
    peer.say(
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","_meta":{"progressToken":0}}}"#,
    );
    peer.say(
        r#"{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"t","_meta":{"progressToken":0}}}"#,
    );
    assert_eq!(peer.take_one()["error"]["code"], -32602);
    peer.say(r#"{"jsonrpc":"2.0","id":3,"method":"logging/setLevel","params":{"level":"error"}}"#);
    assert_eq!(peer.take_one()["result"], json!({}));
    let call = peer.last_call();
    for progress in [1.0, 1.0, 0.5, f64::NAN, 2.5] {
        let message = Some("m".to_owned());
        peer.connection.handle_notice(
            peer.now,
            call,
            Notice::Progress { progress, total: Some(3.0), message },
        );
    }
    for level in LogLevel::ALL {
        let notice = Notice::Log { level, logger: None, data: json!(level.as_str()) };
        peer.connection.handle_notice(peer.now, call, notice);
    }
    peer.drain();
    let sent = peer.take();
    assert_eq!(sent[0]["params"], json!({"progressToken": 0, "progress": 1, "total": 3, "message": "m"}));
    assert_eq!(sent[1]["params"]["progress"], 2.5);
    let levels: Vec<&Value> = sent[2..].iter().map(|frame| &frame["params"]["level"]).collect();
    assert_eq!(levels, ["error", "critical", "alert", "emergency"]);
    peer.reply(call, text("x"));
    peer.connection.handle_notice(
        peer.now,
        call,
        Notice::Progress { progress: 9.0, total: None, message: None },
    );
    peer.drain();
    assert_eq!(peer.take_one()["id"], 1);
}

#[test]
fn a_result_that_breaks_its_schema_is_withheld_and_logged() {
    let mut peer = Peer::in_session("2025-11-25", &json!({}));
    peer.say(&call("1", "t"));
    peer.reply(peer.last_call(), Reply::Result(Map::new()));
    assert_eq!(peer.take_one()["error"]["code"], -32603);
    let logged = peer.connection.poll_diagnostic().unwrap();
    assert_eq!(logged.severity, Severity::Error);
}

#[test]
fn a_busy_service_says_when_to_come_again() {
    let busy = || CallError::Busy { retry_after: Duration::from_millis(250), message: "later".to_owned() };
    let mut peer = Peer::in_session("2024-11-05", &json!({}));
    peer.say(r#"{"jsonrpc":"2.0","id":1,"method":"resources/list"}"#);
    peer.reply(peer.last_call(), Reply::Error(busy()));
    let error = json!({"code": 429, "message": "later", "data": {"retryAfterMs": 250}});
    assert_eq!(peer.sent[0], json!({"jsonrpc": "2.0", "id": 1, "error": error}));
    let mut peer = Peer::new();
    peer.say(&modern_call("2", ""));
    peer.reply(peer.last_call(), Reply::Error(busy()));
    assert_eq!(peer.sent[0]["error"], error);
}

#[test]
fn refusals_are_counted_by_rule() {
    let mut peer = Peer::in_session("2025-11-25", &json!({}));
    assert!(!peer.connection.has_refused());
    peer.say("no json");
    peer.say("[]");
    peer.say(r#"{"jsonrpc":"2.0","id":1,"method":"nope"}"#);
    peer.say(r#"{"jsonrpc":"2.0","id":2,"method":"nope"}"#);
    peer.say(r#"{"jsonrpc":"2.0","id":3,"method":"tools/call","params":{}}"#);
    assert!(peer.connection.has_refused());
    let refusals: Vec<_> = peer.connection.take_refusals().collect();
    assert_eq!(refusals, [("not-json", 1), ("not-a-message", 1), ("unknown-method", 2), ("bad-params", 1)]);
    assert!(!peer.connection.has_refused());
    assert_eq!(peer.connection.take_refusals().count(), 0);
}

/// The code of the answer to a bare request for `method`, if it is an error.
fn code_of(peer: &mut Peer, method: &str, params: &str) -> Option<i64> {
    peer.sent.clear();
    peer.say(&format!(r#"{{"jsonrpc":"2.0","id":"q","method":"{method}","params":{{{params}}}}}"#));
    let code = peer.take().first().and_then(|answer| answer["error"]["code"].as_i64());
    peer.say(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"q"}}"#);
    code
}

#[test]
fn every_method_is_known_exactly_in_its_revisions_and_states() {
    for row in METHODS {
        let is_request = row.kind == Kind::Request && row.direction != Direction::ToClient;
        let exists = |revision| is_request && row.method.exists_in(revision);
        let in_some = Revision::ALL.into_iter().any(exists);
        let before = match row.method {
            Method::Ping => None,
            _ if in_some => Some(-32602),
            _ => Some(-32601),
        };
        assert_eq!(code_of(&mut Peer::new(), row.name, ""), before, "{} before initialize", row.name);
        for revision in Revision::LEGACY {
            let code = code_of(&mut Peer::in_session(revision.as_str(), &json!({})), row.name, "");
            assert_eq!(code != Some(-32601), exists(revision), "{} under {revision}: {code:?}", row.name);
        }
        // The era of a connection is never pinned: a claim is served the same before and after a handshake.
        for mut peer in [Peer::new(), Peer::in_session("2025-06-18", &json!({}))] {
            let code = code_of(&mut peer, row.name, CLAIM);
            let known = exists(Revision::V2026_07_28);
            assert_eq!(code != Some(-32601), known, "{} with a claim: {code:?}", row.name);
        }
    }
}

#[test]
fn a_server_that_offers_nothing_knows_only_what_nothing_gates() {
    for row in METHODS.iter().filter(|row| row.kind == Kind::Request && row.gate != MethodGate::Free) {
        let bare = Profile { capabilities: Capabilities::default(), ..profile() };
        for revision in Revision::ALL.into_iter().filter(|revision| row.method.exists_in(*revision)) {
            let mut peer = Peer::new();
            peer.connection = Connection::new(
                Arc::new(bare.clone()),
                Arc::new(Gate::new()),
                ConnectionLimits::default(),
                Signer::new([1; 32]),
                BatchAnswers::Array,
            );
            let is_modern = revision == Revision::V2026_07_28;
            if !is_modern {
                peer.open(revision.as_str(), &json!({}));
            }
            let code = code_of(&mut peer, row.name, if is_modern { CLAIM } else { "" });
            assert_eq!(code, Some(-32601), "{} under {revision}", row.name);
        }
    }
}

#[test]
fn subscriptions_are_bounded_in_number_and_size() {
    let limits = ConnectionLimits { subscriptions_max: 2, ..ConnectionLimits::default() };
    let mut peer = Peer::in_session_with(limits, "2025-11-25", &json!({}));
    let mut subscribe = |uri: &str| {
        peer.say(
            &json!({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": {"uri": uri}})
                .to_string(),
        );
        peer.take_one()["error"]["code"].as_i64()
    };
    let long = format!("test://{}", "x".repeat(9_000));
    let answers: Vec<Option<i64>> =
        ["test://a", "test://a", &long, "test://b", "test://c"].map(&mut subscribe).into();
    assert_eq!(answers, [None, None, Some(-32602), None, Some(-32603)]);
    let mut listen = |uris: Value| {
        let frame = format!(
            r#"{{"jsonrpc":"2.0","id":2,"method":"subscriptions/listen","params":{{"notifications":{{"resourceSubscriptions":{uris}}},{CLAIM}}}}}"#
        );
        peer.connection = Connection::new(
            Arc::new(profile()),
            Arc::new(Gate::new()),
            limits,
            Signer::new([1; 32]),
            BatchAnswers::Array,
        );
        peer.say(&frame);
        peer.take_one()["error"]["code"].as_i64()
    };
    assert_eq!(listen(json!(["test://a", "test://b", "test://a"])), None);
    assert_eq!(listen(json!(["test://a", "test://b", "test://c"])), Some(-32603));
    assert_eq!(listen(json!([long])), Some(-32602));
    // A hundred thousand of them are counted no further than the limit.
    let many: Vec<String> = (0..100_000).map(|n| format!("test://{n}")).collect();
    assert_eq!(listen(json!(many)), Some(-32603));
}

#[test]
fn a_session_opened_elsewhere_goes_on_here() {
    let mut peer = Peer::new();
    let client = Client { revision: Revision::V2025_06_18, info: None, capabilities: Map::new() };
    peer.connection = Connection::new(
        Arc::new(profile()),
        Arc::new(Gate::new()),
        ConnectionLimits::default(),
        Signer::new([1; 32]),
        BatchAnswers::Array,
    )
    .with_session(client, 0);
    peer.say(&call("1", "t"));
    peer.reply(peer.last_call(), text("x"));
    assert_eq!(peer.take_one()["result"], json!({"content": [{"type": "text", "text": "x"}]}));
    peer.connection.handle_event(peer.now, &ServerEvent::ToolsChanged);
    peer.drain();
    assert_eq!(peer.take_one()["method"], "notifications/tools/list_changed");
    peer.open("2025-06-18", &json!({}));
    assert_eq!(peer.take_one()["error"]["code"], -32600);
}

#[test]
fn each_frame_says_which_request_it_belongs_to() {
    let mut peer = Peer::in_session("2025-11-25", &json!({}));
    let about = |peer: &mut Peer, frame: &str| {
        peer.connection.handle_frame(peer.now, frame.as_bytes());
        let mut all = Vec::new();
        while let Some(output) = peer.connection.poll_output() {
            match output {
                Output::Send(sent) => all.push((sent.about, sent.error)),
                Output::Dispatch(call) => peer.calls.push(call),
                Output::Cancel(_) => {}
            }
        }
        all
    };
    let id = RequestId::from_integer(1);
    assert!(about(&mut peer, &call("1", "t")).is_empty());
    assert!(peer.connection.is_in_flight(&id));
    // A second use of an id in flight answers the frame, not the request.
    assert_eq!(about(&mut peer, &call("1", "t")), [(About::Frame, Some(ErrorCode::InvalidRequest))]);
    assert_eq!(about(&mut peer, "{"), [(About::Frame, Some(ErrorCode::ParseError))]);
    let answer = |id: i64| About::Request { id: RequestId::from_integer(id), is_answer: true };
    let ping = about(&mut peer, r#"{"jsonrpc":"2.0","id":2,"method":"ping"}"#);
    assert_eq!(ping, [(answer(2), None)]);
    let unknown = about(&mut peer, r#"{"jsonrpc":"2.0","id":3,"method":"nope"}"#);
    assert_eq!(unknown, [(answer(3), Some(ErrorCode::MethodNotFound))]);
    peer.connection.handle_event(peer.now, &ServerEvent::ToolsChanged);
    assert_eq!(about(&mut peer, "[]")[0].0, About::Session);
    // A closed stream cancels as the notification does.
    peer.connection.handle_cancel(peer.now, &id);
    assert!(!peer.connection.is_in_flight(&id));
    assert!(matches!(peer.connection.poll_output(), Some(Output::Cancel(call)) if call == peer.last_call()));
}

proptest::proptest! {
    #[test]
    fn whatever_arrives_nothing_panics_and_no_id_is_answered_twice(
        frames in proptest::collection::vec(proptest::sample::select(FRAGMENTS), 1..24),
    ) {
        let mut peer = Peer::new();
        for (index, fragment) in frames.iter().enumerate() {
            let frame = fragment.replace("ID", &index.to_string()).replace("CLAIM", CLAIM);
            peer.say(&frame);
            if index % 3 == 0 {
                let calls: Vec<CallId> = peer.calls.drain(..).map(|call| call.id).collect();
                for id in calls {
                    peer.reply(id, text("x"));
                }
            }
        }
        peer.connection.handle_eof(peer.now);
        peer.connection.handle_drain_deadline(peer.now);
        peer.drain();
        proptest::prop_assert!(peer.connection.is_drained());
        let mut ids: Vec<String> = peer
            .take()
            .iter()
            .flat_map(|frame| frame.as_array().cloned().unwrap_or_else(|| vec![frame.clone()]))
            .filter(|frame| frame.get("method").is_none())
            .filter_map(|frame| frame.get("id").map(Value::to_string))
            .collect();
        let all = ids.len();
        ids.sort_unstable();
        ids.dedup();
        proptest::prop_assert_eq!(ids.len(), all);
    }
}

const FRAGMENTS: &[&str] = &[
    r#"{"jsonrpc":"2.0","id":ID,"method":"initialize","params":{"protocolVersion":"2025-03-26","capabilities":{"roots":{}},"clientInfo":{"name":"c","version":"1"}}}"#,
    r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
    r#"{"jsonrpc":"2.0","id":ID,"method":"tools/call","params":{"name":"t"}}"#,
    r#"{"jsonrpc":"2.0","id":ID,"method":"tools/call","params":{"name":"t",CLAIM}}"#,
    r#"{"jsonrpc":"2.0","id":ID,"method":"subscriptions/listen","params":{"notifications":{},CLAIM}}"#,
    r#"[{"jsonrpc":"2.0","id":ID,"method":"ping"},{"jsonrpc":"2.0","id":"ID","method":"tools/list"}]"#,
    r#"[{"jsonrpc":"2.0","id":ID,"method":"nope"},{"jsonrpc":"2.0","id":1,"result":{}},7,{"id":"xID"}]"#,
    r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":2}}"#,
    r#"{"jsonrpc":"2.0","id":ID,"method":7}"#,
    r#"{"jsonrpc":"2.0","id":ID,"result":{}}"#,
    r#"{"jsonrpc":"2.0","id":ID"#,
    "[]",
    "\u{feff}",
];

#[path = "tasks_tests.rs"]
mod tasks;
