//! Tasks: the two designs, each from its offer to its end, and what they must not have of each other.

use super::*;
use crate::revision::Era;

const EXTENDED: &str = r#""_meta":{"progressToken":"p","io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{"elicitation":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}}"#;
const RELATED: &str = "io.modelcontextprotocol/related-task";

fn task(id: &str, state: TaskState) -> Task {
    Task {
        id: id.to_owned(),
        state,
        message: Some("on its way".to_owned()),
        created_ms: 1_800_000_000_000,
        updated_ms: 1_800_000_000_500,
        ttl: Some(Duration::from_mins(1)),
        poll_interval: Some(Duration::from_millis(250)),
    }
}

fn made(id: &str) -> Reply {
    Reply::Task(Box::new(task(id, TaskState::Working)))
}

fn changed(era: Era, task: Task) -> ServerEvent {
    ServerEvent::TaskChanged { era, task: Arc::new(task) }
}

fn result(is_error: bool) -> Map<String, Value> {
    let value = json!({"content": [{"type": "text", "text": "x"}], "isError": is_error});
    value.as_object().unwrap().clone()
}

fn progress(value: f64) -> Notice {
    Notice::Progress { progress: value, total: None, message: None }
}

impl Peer {
    fn tell(&mut self, event: &ServerEvent) {
        self.connection.handle_event(self.now, event);
        self.drain();
    }

    fn notify(&mut self, call: CallId, notice: Notice) {
        self.connection.handle_notice(self.now, call, notice);
        self.drain();
    }

    /// Asks under the design of 2026-07-28.
    fn ask(&mut self, id: u32, method: &str, params: &str) {
        self.say(&format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}{}{EXTENDED}}}}}"#,
            if params.is_empty() { "" } else { "," }
        ));
    }

    /// Asks under the design of 2025-11-25.
    fn want(&mut self, id: u32, method: &str, params: &Value) {
        self.say(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string());
    }

    /// A session of 2025-11-25 whose call `1`, with the token `p`, became task `t`.
    #[track_caller]
    fn with_task() -> (Self, CallId) {
        let mut peer = Self::in_session("2025-11-25", &json!({"elicitation": {}}));
        peer.want(
            1,
            "tools/call",
            &json!({"name": "slow", "task": {"ttl": 60_000}, "_meta": {"progressToken": "p"}}),
        );
        let call = peer.last_call();
        peer.reply(call, made("t"));
        let answer = peer.take_one();
        assert_eq!(
            answer["result"],
            json!({"task": {"taskId": "t", "status": "working", "statusMessage": "on its way",
                "createdAt": "2027-01-15T08:00:00Z", "lastUpdatedAt": "2027-01-15T08:00:00.5Z",
                "ttl": 60_000, "pollInterval": 250}})
        );
        (peer, call)
    }
}

#[test]
fn a_legacy_client_that_wants_a_task_gets_one_and_hears_of_it_until_its_end() {
    let (mut peer, call) = Peer::with_task();
    let wanted = TaskOffer::Wanted { ttl: Some(Duration::from_mins(1)) };
    assert_eq!(peer.calls.last().unwrap().task, Some(wanted));

    peer.notify(call, progress(1.0));
    peer.notify(call, progress(1.0));
    let told = peer.take_one();
    assert_eq!(told["method"], "notifications/progress");
    assert_eq!(
        told["params"],
        json!({"progressToken": "p", "progress": 1, "_meta": {RELATED: {"taskId": "t"}}})
    );
    // The token is taken for as long as the task lives.
    peer.want(2, "tools/call", &json!({"name": "t", "_meta": {"progressToken": "p"}}));
    assert_eq!(peer.take_one()["error"]["code"], -32602);

    peer.tell(&changed(Era::Legacy, task("t", TaskState::InputRequired(vec![form("f")]))));
    let told = peer.take_one();
    assert_eq!(
        (&told["method"], &told["params"]["status"]),
        (&json!("notifications/tasks/status"), &json!("input_required"))
    );
    assert!(told["params"].get("inputRequests").is_none() && told["params"].get("_meta").is_none(), "{told}");

    // Tasks of another session, of another design.
    peer.tell(&changed(Era::Legacy, task("other", TaskState::Working)));
    peer.tell(&changed(Era::Modern, task("t", TaskState::Working)));
    assert!(peer.take().is_empty());

    peer.tell(&changed(Era::Legacy, task("t", TaskState::Completed(result(true)))));
    assert_eq!(peer.take_one()["params"]["status"], "failed");
    peer.notify(call, progress(2.0));
    peer.tell(&changed(Era::Legacy, task("t", TaskState::Cancelled)));
    assert!(peer.take().is_empty());
}

#[test]
fn a_question_of_a_legacy_task_is_taken_back_when_the_task_has_ended() {
    let (mut peer, _) = Peer::with_task();
    peer.want(7, "tasks/result", &json!({"taskId": "t"}));
    peer.reply(peer.last_call(), Reply::InputRequired { requests: vec![form("f")], state: None });
    let ask = peer.take_one();
    let calls = peer.calls.len();
    // News that may be older than the question, and news of another task.
    peer.tell(&changed(Era::Legacy, task("t", TaskState::Working)));
    peer.tell(&changed(Era::Legacy, task("other", TaskState::Cancelled)));
    assert_eq!(
        (peer.take_one()["method"].as_str(), peer.calls.len()),
        (Some("notifications/tasks/status"), calls)
    );

    peer.tell(&changed(Era::Legacy, task("t", TaskState::Completed(result(false)))));
    let told = peer.take();
    let methods: Vec<_> = told.iter().map(|message| message["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["notifications/tasks/status", "notifications/cancelled"]);
    assert_eq!(
        told[1]["params"],
        json!({"requestId": ask["id"], "reason": "the task has ended", "_meta": {RELATED: {"taskId": "t"}}})
    );
    // An answer that crosses it is nothing.
    peer.say(&json!({"jsonrpc": "2.0", "id": ask["id"], "result": {"action": "decline"}}).to_string());
    let again = peer.calls.last().unwrap();
    assert_eq!((peer.calls.len(), again.method()), (calls + 1, Method::TasksResult));
    assert!(again.answers.as_ref().unwrap().responses.is_empty());
    peer.reply(peer.last_call(), Reply::Result(result(false)));
    assert_eq!(peer.take_one()["id"], 7);
}

#[test]
fn a_legacy_client_reads_lists_and_stops_tasks_in_flat_shapes() {
    let (mut peer, _) = Peer::with_task();
    for method in ["tasks/get", "tasks/cancel"] {
        peer.want(3, method, &json!({"taskId": "t"}));
        let completed = task("t", TaskState::Completed(result(false)));
        peer.reply(peer.last_call(), Reply::Task(Box::new(completed)));
        let read = peer.take_one();
        let members: Vec<&String> = read["result"].as_object().unwrap().keys().collect();
        assert_eq!(
            members,
            ["taskId", "status", "statusMessage", "createdAt", "lastUpdatedAt", "ttl", "pollInterval"],
            "{method}"
        );
        assert_eq!(read["result"]["status"], "completed");
    }
    let limits = ConnectionLimits { page_items: 2, ..ConnectionLimits::default() };
    let mut peer = Peer::in_session_with(limits, "2025-11-25", &json!({}));
    let all: Vec<Task> = ["a", "b", "c"].map(|id| task(id, TaskState::Working)).into();
    peer.want(4, "tasks/list", &json!({}));
    peer.reply(peer.last_call(), Reply::Tasks(all.clone()));
    let first = peer.take_one();
    assert_eq!(first["result"]["tasks"].as_array().unwrap().len(), 2);
    peer.want(5, "tasks/list", &json!({"cursor": first["result"]["nextCursor"]}));
    peer.reply(peer.last_call(), Reply::Tasks(all));
    let last = peer.take_one();
    assert_eq!(last["result"]["tasks"][0]["taskId"], "c");
    assert!(last["result"].get("nextCursor").is_none());
    peer.want(6, "tools/list", &json!({"cursor": first["result"]["nextCursor"]}));
    assert_eq!(peer.take_one()["error"]["code"], -32602);
}

#[test]
fn the_result_of_a_legacy_task_asks_first_and_says_whose_it_is() {
    let (mut peer, _) = Peer::with_task();
    peer.want(7, "tasks/result", &json!({"taskId": "t"}));
    peer.reply(peer.last_call(), Reply::InputRequired { requests: vec![form("f")], state: None });
    let ask = peer.take_one();
    assert_eq!(ask["method"], "elicitation/create");
    assert_eq!(ask["params"]["_meta"], json!({RELATED: {"taskId": "t"}}));
    peer.say(&json!({"jsonrpc": "2.0", "id": ask["id"], "result": {"action": "decline"}}).to_string());
    let again = peer.calls.last().unwrap();
    assert_eq!(
        (again.method(), &again.answers.as_ref().unwrap().responses["f"]),
        (Method::TasksResult, &json!({"action": "decline"}))
    );
    peer.reply(peer.last_call(), Reply::Result(result(true)));
    let answer = peer.take_one();
    assert_eq!((&answer["id"], &answer["result"]["isError"]), (&json!(7), &json!(true)));
    assert_eq!(answer["result"]["_meta"], json!({RELATED: {"taskId": "t"}}));
    // What is no result of the call that it was is our bug.
    peer.want(8, "tasks/result", &json!({"taskId": "t"}));
    peer.reply(peer.last_call(), Reply::Result(json!({"contents": []}).as_object().unwrap().clone()));
    assert_eq!(peer.take_one()["error"]["code"], -32603);
    for (error, code) in [
        (CallError::InvalidParams("no such task".to_owned()), -32602),
        (CallError::Internal, -32603),
        (CallError::ResourceNotFound { uri: "test://a".to_owned() }, -32002),
    ] {
        peer.want(9, "tasks/result", &json!({"taskId": "t"}));
        peer.reply(peer.last_call(), Reply::Error(error));
        assert_eq!(peer.take_one()["error"]["code"], code);
    }
}

#[test]
fn waiting_for_tasks_takes_none_of_the_room_for_calls_and_is_bounded_itself() {
    let limits = ConnectionLimits { inflight_requests_max: 2, ..ConnectionLimits::default() };
    let mut peer = Peer::in_session_with(limits, "2025-11-25", &json!({"elicitation": {}}));
    for id in 1..=2 {
        peer.want(id, "tasks/result", &json!({"taskId": "t"}));
    }
    assert_eq!((peer.calls.len(), peer.connection.waiting()), (2, 2));
    assert!(peer.connection.accepts_input());
    peer.want(3, "tasks/result", &json!({"taskId": "t"}));
    let refused = peer.take_one();
    assert_eq!(refused["error"]["code"], 429);
    assert_eq!(refused["error"]["data"], json!({"retryAfterMs": 1000}));
    peer.say(&call("4", "a"));
    peer.say(&call("5", "b"));
    assert!(!peer.connection.accepts_input());
    assert_eq!(peer.calls.len(), 4);
    // They outlive the deadline of calls, and have one of their own.
    peer.advance(Duration::from_mins(1));
    assert_eq!(peer.take().len(), 2);
    peer.say(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#);
    peer.advance(Duration::from_mins(30));
    let given_up = peer.take_one();
    assert_eq!((&given_up["id"], &given_up["error"]["code"]), (&json!(2), &json!(-32603)));
    assert_eq!((peer.connection.waiting(), peer.connection.poll_timeout()), (0, None));
}

#[test]
fn a_call_that_wants_a_task_is_stopped_by_no_cancellation_and_ends_with_a_task_or_an_error() {
    let mut peer = Peer::in_session("2025-11-25", &json!({}));
    let endings = [
        (made("t"), None),
        (Reply::Result(result(false)), Some(-32603)),
        (Reply::Result(result(true)), Some(-32602)),
        (Reply::Tasks(Vec::new()), Some(-32603)),
        (Reply::Error(CallError::TaskSupport("echo never becomes a task".to_owned())), Some(-32601)),
        (Reply::Error(CallError::MissingCapability(Map::new())), Some(-32602)),
    ];
    for (id, (reply, code)) in (1..).zip(endings) {
        peer.want(id, "tools/call", &json!({"name": "t", "task": {}}));
        assert_eq!(peer.calls.last().unwrap().task, Some(TaskOffer::Wanted { ttl: None }));
        peer.say(&format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id}}}}}"#
        ));
        peer.reply(peer.last_call(), reply);
        let answer = peer.take_one();
        assert_eq!(answer["error"]["code"].as_i64(), code, "{answer}");
    }
    assert!(peer.stopped.is_empty());
    peer.want(9, "tools/call", &json!({"name": "t", "task": {}}));
    peer.advance(Duration::from_secs(31));
    assert_eq!(peer.take_one()["error"]["code"], -32603);
    // Without a wish there is no task.
    peer.say(&call("10", "t"));
    peer.reply(peer.last_call(), made("t"));
    assert_eq!(peer.take_one()["error"]["code"], -32603);
}

#[test]
fn only_the_two_revisions_with_tasks_offer_any() {
    for revision in ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"] {
        let extended = json!({"extensions": {"io.modelcontextprotocol/tasks": {}}, "tasks": {}});
        let mut peer = Peer::in_session(revision, &extended);
        peer.say(&call("1", "t"));
        assert_eq!(peer.calls.last().unwrap().task, None, "{revision}");
        peer.want(2, "tools/call", &json!({"name": "t", "task": {"ttl": 1}}));
        assert_eq!(peer.calls.last().unwrap().task.is_some(), revision == "2025-11-25");
    }
    let mut peer = Peer::new();
    peer.say(&modern_call("1", r#","task":{"ttl":1}"#));
    assert_eq!(peer.calls.last().unwrap().task, None);
    let mut without = Peer::in_session("2025-11-25", &json!({}));
    let capabilities = Capabilities { tasks: false, ..profile().capabilities };
    without.connection.profile = Arc::new(Profile { capabilities, ..profile() });
    without.want(1, "tools/call", &json!({"name": "t", "task": {}}));
    assert_eq!(without.calls.last().unwrap().task, None);
    without.ask(2, "tools/call", r#""name":"t""#);
    assert_eq!(without.calls.last().unwrap().task, None);
    without.ask(3, "tasks/get", r#""taskId":"t""#);
    assert_eq!(without.take_one()["error"]["code"], -32601);
}

#[test]
fn a_modern_call_becomes_a_task_where_the_request_declares_the_extension() {
    let mut peer = Peer::new();
    peer.ask(1, "tools/call", r#""name":"t""#);
    assert_eq!(peer.calls.last().unwrap().task, Some(TaskOffer::Allowed));
    let call = peer.last_call();
    peer.notify(call, progress(1.0));
    assert_eq!(peer.take_one()["method"], "notifications/progress");
    peer.reply(call, made("t"));
    let mut answer = peer.take_one();
    answer["result"].as_object_mut().unwrap().shift_remove("_meta").expect("who answered");
    assert_eq!(
        answer["result"],
        json!({"resultType": "task", "taskId": "t", "status": "working", "statusMessage": "on its way",
            "createdAt": "2027-01-15T08:00:00Z", "lastUpdatedAt": "2027-01-15T08:00:00.5Z",
            "ttlMs": 60_000, "pollIntervalMs": 250})
    );
    // Nothing is told beside it, and there is nothing to cancel.
    peer.notify(call, progress(2.0));
    peer.say(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#);
    assert!(peer.take().is_empty() && peer.stopped.is_empty());
    // It may end as any call does, or ask first.
    peer.ask(2, "tools/call", r#""name":"t""#);
    peer.reply(peer.last_call(), text("done"));
    assert_eq!(peer.take_one()["result"]["resultType"], "complete");
    peer.ask(3, "tools/call", r#""name":"t""#);
    peer.reply(peer.last_call(), Reply::InputRequired { requests: vec![form("f")], state: None });
    assert_eq!(peer.take_one()["result"]["resultType"], "input_required");
    // Where it is not declared, a task is our bug.
    peer.say(&modern_call("4", ""));
    peer.reply(peer.last_call(), made("t"));
    assert_eq!(peer.take_one()["error"]["code"], -32603);
    peer.say(&modern_call("5", ""));
    peer.reply(peer.last_call(), Reply::Error(CallError::TaskSupport("only as a task".to_owned())));
    let refused = peer.take_one();
    assert_eq!(
        refused["error"],
        json!({"code": -32021, "message": "only as a task",
            "data": {"requiredCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}}}})
    );
}

#[test]
fn a_modern_task_holds_what_its_status_calls_for() {
    let mut peer = Peer::new();
    let states = [
        (TaskState::Working, "working", None),
        (TaskState::InputRequired(vec![form("f")]), "input_required", Some("inputRequests")),
        (TaskState::Completed(result(true)), "completed", Some("result")),
        (TaskState::Failed(CallError::InvalidParams("no".to_owned())), "failed", Some("error")),
        (TaskState::Cancelled, "cancelled", None),
    ];
    for (state, status, member) in states {
        peer.ask(1, "tasks/get", r#""taskId":"t""#);
        peer.reply(peer.last_call(), Reply::Task(Box::new(task("t", state))));
        let read = peer.take_one();
        let read = &read["result"];
        assert_eq!((&read["resultType"], &read["status"]), (&json!("complete"), &json!(status)));
        for other in ["inputRequests", "result", "error"] {
            assert_eq!(read.get(other).is_some(), member == Some(other), "{read}");
        }
        match status {
            "input_required" => {
                assert_eq!(read["inputRequests"]["f"]["method"], "elicitation/create");
            }
            "completed" => {
                assert_eq!(
                    (&read["result"]["resultType"], &read["result"]["isError"]),
                    (&json!("complete"), &json!(true))
                );
                assert_eq!(read["result"]["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "n");
            }
            "failed" => assert_eq!(read["error"], json!({"code": -32602, "message": "no"})),
            _ => {}
        }
    }
    let for_ever = Task { ttl: None, poll_interval: None, ..task("t", TaskState::Working) };
    peer.ask(2, "tasks/get", r#""taskId":"t""#);
    peer.reply(peer.last_call(), Reply::Task(Box::new(for_ever)));
    let read = peer.take_one();
    assert_eq!(read["result"]["ttlMs"], Value::Null);
    assert!(read["result"].get("pollIntervalMs").is_none());
    // What this client cannot answer it is not asked.
    let url = Ask {
        method: Method::ElicitationCreate,
        params: json!({"mode": "url", "message": "m", "url": "https://example.org/"})
            .as_object()
            .unwrap()
            .clone(),
        is_optional: false,
    };
    let asks = TaskState::InputRequired(vec![form("f"), ("u".to_owned(), url)]);
    peer.ask(3, "tasks/get", r#""taskId":"t""#);
    peer.reply(peer.last_call(), Reply::Task(Box::new(task("t", asks))));
    let read = peer.take_one();
    let keys: Vec<&String> = read["result"]["inputRequests"].as_object().unwrap().keys().collect();
    assert_eq!(keys, ["f"]);
}

#[test]
fn updates_and_stops_of_a_modern_task_are_acknowledged() {
    let mut peer = Peer::new();
    peer.ask(
        1,
        "tasks/update",
        r#""taskId":"t","inputResponses":{"f":{"action":"accept","content":{"a":null,"b":"x"}},"unknown":{"any":1}}"#,
    );
    let answers = peer.calls.last().unwrap().answers.clone().unwrap();
    assert_eq!(Value::Object(answers.responses), json!({"f": {"action": "accept", "content": {"b": "x"}}}));
    peer.reply(peer.last_call(), Reply::Result(Map::new()));
    let acknowledged = peer.take_one();
    peer.ask(1, "tasks/cancel", r#""taskId":"t""#);
    peer.reply(peer.last_call(), Reply::Task(Box::new(task("t", TaskState::Working))));
    assert_eq!(peer.take_one(), acknowledged);
    let members: Vec<&String> = acknowledged["result"].as_object().unwrap().keys().collect();
    assert_eq!(members, ["resultType", "_meta"]);
    for wrong in [
        r#""taskId":"t""#,
        r#""taskId":"t","inputResponses":null"#,
        r#""taskId":"t","inputResponses":{"f":4}"#,
    ] {
        peer.ask(2, "tasks/update", wrong);
        assert_eq!(peer.take_one()["error"]["code"], -32602, "{wrong}");
    }
    for gone in ["tasks/result", "tasks/list"] {
        peer.ask(3, gone, r#""taskId":"t""#);
        assert_eq!(peer.take_one()["error"]["code"], -32601, "{gone}");
    }
    let mut legacy = Peer::in_session("2025-11-25", &json!({}));
    legacy.want(1, "tasks/update", &json!({"taskId": "t", "inputResponses": {}}));
    assert_eq!(legacy.take_one()["error"]["code"], -32601);
}

#[test]
fn nothing_of_the_extension_is_served_to_a_request_that_does_not_declare_it() {
    let mut peer = Peer::new();
    let requests = [
        ("tasks/get", r#""taskId":"t""#),
        ("tasks/update", r#""taskId":"t","inputResponses":{}"#),
        ("tasks/cancel", r#""taskId":"t""#),
        ("subscriptions/listen", r#""notifications":{"taskIds":["t"]}"#),
    ];
    for (method, params) in requests {
        peer.say(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params},{CLAIM}}}}}"#));
        let refused = peer.take_one();
        assert_eq!(refused["error"]["code"], -32021, "{method}");
        assert_eq!(
            refused["error"]["data"],
            json!({"requiredCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}}})
        );
    }
    assert!(peer.calls.is_empty());
}

#[test]
fn a_stream_hears_of_the_modern_tasks_that_it_named() {
    let mut peer = Peer::new();
    peer.ask(
        1,
        "subscriptions/listen",
        r#""notifications":{"taskIds":["t","u","t"],"toolsListChanged":true}"#,
    );
    let acknowledged = peer.take_one();
    assert_eq!(
        acknowledged["params"]["notifications"],
        json!({"toolsListChanged": true, "taskIds": ["t", "u"]})
    );
    peer.tell(&changed(Era::Modern, task("u", TaskState::Completed(result(false)))));
    let told = peer.take_one();
    assert_eq!(told["method"], "notifications/tasks");
    assert_eq!(told["params"]["_meta"], json!({"io.modelcontextprotocol/subscriptionId": 1}));
    assert_eq!(told["params"]["result"]["resultType"], "complete");
    assert!(told["params"].get("resultType").is_none());
    peer.tell(&changed(Era::Modern, task("t", TaskState::InputRequired(vec![form("f")]))));
    assert_eq!(peer.take_one()["params"]["inputRequests"]["f"]["method"], "elicitation/create");
    peer.tell(&changed(Era::Legacy, task("t", TaskState::Working)));
    peer.tell(&changed(Era::Modern, task("v", TaskState::Working)));
    assert!(peer.take().is_empty());

    let limits = ConnectionLimits { subscriptions_max: 2, ..ConnectionLimits::default() };
    let mut peer = Peer::with(limits, BatchAnswers::Array);
    peer.ask(1, "subscriptions/listen", r#""notifications":{"taskIds":["t","u","v"]}"#);
    assert_eq!(peer.take_one()["error"]["code"], -32603);
}
