//! Patterns as tasks, with the real service: over stdio, HTTP and WebSocket, under both designs.
//!
//! A pattern runs for as long as a test wants: it asks git for the status of a repository whose `info/exclude` is a named
//! pipe, and git waits until somebody opens that to write.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::{Pid, Signal, kill_process},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tmws::{
    access::{Access, Projects},
    compose::Shared,
    config::{Config, Sources, load},
    limits::NetworkLimits,
    protocol::{Call, CallError, Notice, Reply, Task, TaskOffer, TaskState},
    revision::Revision,
    schema::Gate,
    scope::{ProjectId, Rights, Scope},
    tool::{ConnectionId, Context, Notices, Origin, Service},
    wire::Method,
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    network::{Answer, Http, Server, Setup, Ws, within},
    support::calls,
};

const OLD: Revision = Revision::V2025_11_25;
const NEW: Revision = Revision::V2026_07_28;
const WANTED: Option<TaskOffer> = Some(TaskOffer::Wanted { ttl: None });

/// A pattern that asks for the status; `timeout` says whether it may outlive a call.
fn pattern(name: &str, timeout: &str) -> String {
    format!(
        "\
apiVersion: tmws/v1
kind: Pattern
name: {name}
version: 1.0.0
type: infrastructure
description: Tells the branch. For tests only.
triggers:
  phrases: [tell the branch of {name}]
  examples:
    match: [tell the branch of {name}, please tell the branch of {name}, tell the branch of {name} now]
    no_match: [one thing, two things, three things]
  priority: 10
  auto: read-only
inputs: {{type: object, additionalProperties: false, properties: {{n: {{type: integer}}}}}}
bind: {{root: {{from: workspace.root}}}}
permissions: {{git: [status]}}
limits: {{timeout: {timeout}, max_steps: 2, max_bytes: 1MiB}}
steps:
  - {{id: status, uses: git.status, with: {{repo: '${{ .bind.root }}'}}}}
output:
  schema: {{type: object, required: [branch], properties: {{branch: {{type: string}}}}}}
  value: '${{ {{branch: .steps.status.branch}} }}'
  budget: {{tokens: 120}}
annotations: {{readOnlyHint: true}}
tests:
  - {{name: none, inputs: {{}}, expect: {{error: denied}}}}
"
    )
}

/// A repository with a gate, a user with two patterns.
struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        let patterns = place.path("config/tmws/patterns");
        fs::create_dir_all(&patterns).unwrap();
        fs::write(patterns.join("test.long.yaml"), pattern("test.long", "10m")).unwrap();
        fs::write(patterns.join("test.short.yaml"), pattern("test.short", "20s")).unwrap();
        fs::create_dir(place.path("workspace")).unwrap();
        let made = Command::new("git")
            .args(["init", "-q", "-b", "main"])
            .current_dir(place.path("workspace"))
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .status();
        assert!(made.unwrap().success());
        fs::create_dir_all(place.gate().parent().unwrap()).unwrap();
        let _ = fs::remove_file(place.gate());
        mknodat(CWD, place.gate(), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn gate(&self) -> PathBuf {
        self.path("workspace/.git/info/exclude")
    }

    /// Whoever comes from now on waits again.
    fn shut(&self) {
        mknodat(CWD, self.gate(), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }

    /// Waits until a run has come to the gate, and lets it, and every later one, through.
    async fn open(&self) {
        let (tell, told) = oneshot::channel();
        let gate = self.gate();
        // Not on the runtime, which would wait for it at its end.
        std::thread::spawn(move || {
            // As long as this is open nobody waits; once the gate is gone nobody can.
            let _writer = OpenOptions::new().write(true).open(&gate).unwrap();
            fs::remove_file(gate).unwrap();
            let _ = tell.send(());
        });
        within("a run at the gate", told).await.unwrap();
    }

    fn config(&self, variables: &[(&str, &str)]) -> Config {
        let mut environment: BTreeMap<String, _> = [
            ("HOME".to_owned(), self.path("home").into_os_string()),
            ("XDG_CONFIG_HOME".to_owned(), self.path("config").into_os_string()),
            ("XDG_DATA_HOME".to_owned(), self.path("data").into_os_string()),
        ]
        .into();
        environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())));
        let sources = Sources { environment, working_directory: self.path("home"), ..Sources::default() };
        load(&sources).unwrap()
    }

    /// The parts of a server whose project alpha is the repository.
    fn shared(&self, variables: &[(&str, &str)]) -> Shared {
        let alpha = (ProjectId::parse("alpha").unwrap(), Some(self.path("workspace")));
        Shared::new(&self.config(variables), [alpha])
    }
}

struct Deaf;

impl Notices for Deaf {
    fn notify(&self, _: Notice) {}
}

fn scope(principal: &str, project: &str) -> Scope {
    Scope::mint(ProjectId::parse(project).unwrap(), principal, "default", None)
}

fn context(scope: &Scope, deadline: Duration) -> Context {
    Context {
        connection: ConnectionId(1),
        origin: Origin::default(),
        scope: scope.clone(),
        notices: Arc::new(Deaf),
        cancel: CancellationToken::new(),
        deadline: Instant::now() + deadline,
    }
}

fn run(revision: Revision, pattern: &str, task: Option<TaskOffer>) -> Call {
    let params = json!({"name": "execute_pattern", "arguments": {"pattern": pattern}});
    Call { task, ..calls::admitted(Gate::new(), revision, Method::ToolsCall, params) }
}

/// A call as `scope`, for half a minute at most.
async fn ask(shared: &Shared, scope: &Scope, call: Call) -> Reply {
    let context = context(scope, Duration::from_secs(30));
    within("a reply", Arc::clone(&shared.service).call(call, context)).await
}

async fn about(shared: &Shared, scope: &Scope, revision: Revision, method: Method, id: &str) -> Reply {
    let params = if method == Method::TasksList { json!({}) } else { json!({"taskId": id}) };
    ask(shared, scope, calls::admitted(Gate::new(), revision, method, params)).await
}

fn task(reply: Reply) -> Task {
    match reply {
        Reply::Task(task) => *task,
        other => panic!("no task: {other:?}"),
    }
}

/// The answer of a tool, and whether it failed.
fn told(reply: Reply) -> (Value, bool) {
    let Reply::Result(result) = reply else { panic!("{reply:?}") };
    let failed = result.get("isError") == Some(&Value::Bool(true));
    (serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap(), failed)
}

/// Waits until no task runs.
async fn idle(shared: &Shared) {
    within("the end of all work", async {
        while shared.service.tasks().figures().running > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_pattern_runs_as_a_task_where_the_client_wants_one() {
    let place = Place::new();
    let shared = place.shared(&[]);
    let ann = scope("ann", "alpha");
    for pattern in ["test.long", "test.short"] {
        if !place.gate().exists() {
            place.shut();
        }
        let made = task(ask(&shared, &ann, run(OLD, pattern, WANTED)).await);
        assert_eq!(made.state, TaskState::Working);
        assert_eq!(
            task(about(&shared, &ann, OLD, Method::TasksGet, &made.id).await).state,
            TaskState::Working
        );
        place.open().await;
        let (answer, failed) = told(about(&shared, &ann, OLD, Method::TasksResult, &made.id).await);
        assert_eq!((answer["branch"].as_str(), failed), (Some("main"), false));
    }
    let Reply::Tasks(all) = about(&shared, &ann, OLD, Method::TasksList, "").await else { panic!("no list") };
    assert_eq!(all.len(), 2);
    assert!(all[0].created_ms >= all[1].created_ms, "newest first");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_server_decides_only_a_pattern_that_declares_it_outlives_its_call() {
    let place = Place::new();
    let shared = place.shared(&[("TMWS_LIMITS_TASK_AFTER", "0s")]);
    let ann = scope("ann", "alpha");
    let made = task(ask(&shared, &ann, run(NEW, "test.long", Some(TaskOffer::Allowed))).await);
    assert_eq!(task(about(&shared, &ann, NEW, Method::TasksGet, &made.id).await).state, TaskState::Working);
    let short = ask(&shared, &ann, run(NEW, "test.short", Some(TaskOffer::Allowed)));
    let (short, ()) = tokio::join!(short, place.open());
    assert_eq!(told(short).0["branch"], "main");
    idle(&shared).await;
    let ended = task(about(&shared, &ann, NEW, Method::TasksGet, &made.id).await);
    let TaskState::Completed(result) = ended.state else { panic!("{ended:?}") };
    assert_eq!(told(Reply::Result(result)).0["branch"], "main");
    assert_eq!(shared.service.tasks().figures().begun, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_call_ends_at_its_deadline_and_says_that_a_task_would_not() {
    let place = Place::new();
    let shared = place.shared(&[("TMWS_LIMITS_CALL_DEADLINE", "21s")]);
    let ann = scope("ann", "alpha");
    for (pattern, is_advised) in [("test.long", true), ("test.short", false)] {
        let context = context(&ann, Duration::from_millis(50));
        let reply = Arc::clone(&shared.service).call(run(OLD, pattern, None), context);
        let (answer, failed) = told(within("a reply", reply).await);
        assert_eq!((answer["error"].as_str(), failed), (Some("deadline"), true), "{answer}");
        let message = answer["message"].as_str().unwrap();
        assert_eq!(message.contains("runs it as a task"), is_advised, "{message}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_unknown_to_all_but_its_owner() {
    let place = Place::new();
    let shared = place.shared(&[]);
    let ann = scope("ann", "alpha");
    let made = task(ask(&shared, &ann, run(OLD, "test.long", WANTED)).await);
    let unknown = about(&shared, &ann, OLD, Method::TasksGet, "t_AAAAAAAAAAAAAAAAAAAAAA").await;
    assert!(matches!(unknown, Reply::Error(CallError::InvalidParams(_))));
    for (who, revision, methods) in [
        (scope("bob", "alpha"), OLD, &[Method::TasksGet, Method::TasksResult, Method::TasksCancel][..]),
        (scope("ann", "beta"), OLD, &[Method::TasksGet, Method::TasksResult, Method::TasksCancel]),
        (scope("ann", "personal"), OLD, &[Method::TasksGet]),
        (ann.clone(), NEW, &[Method::TasksGet, Method::TasksCancel]),
    ] {
        for method in methods {
            assert_eq!(about(&shared, &who, revision, *method, &made.id).await, unknown, "{method:?}");
        }
    }
    for who in [scope("bob", "alpha"), scope("ann", "beta")] {
        assert_eq!(about(&shared, &who, OLD, Method::TasksList, "").await, Reply::Tasks(Vec::new()));
    }
    let powerless = ann.with_rights(Rights::MEMORY_READ);
    let refused = about(&shared, &powerless, OLD, Method::TasksGet, &made.id).await;
    assert!(matches!(&refused, Reply::Error(CallError::InvalidParams(why)) if why.contains("denied")));
    assert_eq!(task(about(&shared, &ann, OLD, Method::TasksGet, &made.id).await).state, TaskState::Working);
    shared.service.tasks().close(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_task_ends_its_program_and_a_full_house_refuses() {
    let place = Place::new();
    let shared = place.shared(&[("TMWS_LIMITS_TASKS_PER_PRINCIPAL", "1"), ("TMWS_LIMITS_TASKS", "2")]);
    let (ann, bob) = (scope("ann", "alpha"), scope("bob", "alpha"));
    let made = task(ask(&shared, &ann, run(OLD, "test.long", WANTED)).await);
    let refused = ask(&shared, &ann, run(OLD, "test.long", WANTED)).await;
    assert!(matches!(refused, Reply::Error(CallError::Busy { .. })), "{refused:?}");
    let other = task(ask(&shared, &bob, run(OLD, "test.long", WANTED)).await);
    let refused = ask(&shared, &scope("eve", "alpha"), run(OLD, "test.long", WANTED)).await;
    assert!(matches!(refused, Reply::Error(CallError::Busy { .. })), "{refused:?}");
    for (who, id) in [(&ann, &made.id), (&bob, &other.id)] {
        let before = task(about(&shared, who, OLD, Method::TasksGet, id).await);
        assert_eq!(before.state, TaskState::Working);
        let waiting = about(&shared, who, OLD, Method::TasksResult, id);
        let (result, cancelled) = tokio::join!(waiting, about(&shared, who, OLD, Method::TasksCancel, id));
        assert!(matches!(cancelled, Reply::Task(_)), "{cancelled:?} {result:?}");
        assert_eq!(task(cancelled).state, TaskState::Cancelled);
        assert!(matches!(result, Reply::Error(CallError::InvalidParams(_))), "{result:?}");
        let again = about(&shared, who, OLD, Method::TasksCancel, id).await;
        assert!(matches!(again, Reply::Error(CallError::InvalidParams(_))), "{again:?}");
    }
    // What they ran is gone: both places are free again.
    idle(&shared).await;
    let made = task(ask(&shared, &ann, run(OLD, "test.long", WANTED)).await);
    assert_eq!(made.state, TaskState::Working);
    assert_eq!(shared.service.tasks().figures().refused, 2);
    shared.service.tasks().close(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shares_a_run_is_not_ended_by_another_s_leaving() {
    let place = Place::new();
    let shared = place.shared(&[]);
    let ann = scope("ann", "alpha");
    // The call leads, the task waits for the same; then the call leaves.
    let around = context(&ann, Duration::from_secs(30));
    let leader = tokio::spawn(Arc::clone(&shared.service).call(run(OLD, "test.long", None), around.clone()));
    within("the leader", async {
        while shared.engine.shared_runs().0 < 1 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let made = task(ask(&shared, &ann, run(OLD, "test.long", WANTED)).await);
    around.cancel.cancel();
    within("the leader's end", leader).await.unwrap();
    assert_eq!(task(about(&shared, &ann, OLD, Method::TasksGet, &made.id).await).state, TaskState::Working);
    // Now the task leads, a call waits; then the task is cancelled.
    let waiting = tokio::spawn(
        Arc::clone(&shared.service).call(run(OLD, "test.long", None), context(&ann, Duration::from_secs(30))),
    );
    task(about(&shared, &ann, OLD, Method::TasksCancel, &made.id).await);
    idle(&shared).await;
    place.open().await;
    assert_eq!(told(within("the call", waiting).await.unwrap()).0["branch"], "main");
}

#[tokio::test]
async fn a_tool_that_is_never_a_task_says_so() {
    let place = Place::new();
    let shared = place.shared(&[]);
    let ann = scope("ann", "alpha");
    for tool in ["find_patterns", "get_result", "remember"] {
        let params = json!({"name": tool, "arguments": {"handle": "r_x", "content": "x"}});
        let call = Call { task: WANTED, ..calls::admitted(Gate::new(), OLD, Method::ToolsCall, params) };
        let reply = ask(&shared, &ann, call).await;
        assert!(matches!(reply, Reply::Error(CallError::TaskSupport(_))), "{tool}: {reply:?}");
    }
    let params = json!({"name": "execute_pattern", "arguments": {"pattern": 1}});
    let call = Call { task: WANTED, ..calls::admitted(Gate::new(), OLD, Method::ToolsCall, params) };
    assert_eq!(told(ask(&shared, &ann, call).await).0["error"], "invalid_input");
    assert_eq!(shared.service.tasks().figures().begun, 0);
}

/// A server on the network whose project alpha is the repository.
async fn served(shared: &Shared, network_limits: NetworkLimits) -> Server {
    let mut projects = Projects::default();
    projects.add(ProjectId::parse("alpha").unwrap(), None);
    let access = Access::open_with("ann", projects);
    let service = Some(Arc::clone(&shared.service) as Arc<dyn Service>);
    Server::with(Setup { access, governs: true, network_limits, service, ..Setup::default() }).await
}

/// A request of 2026-07-28 that declares the extension, with its headers.
fn modern(method: &str, name: &str, mut params: Value) -> (Value, Vec<(&'static str, String)>) {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"extensions": {"io.modelcontextprotocol/tasks": {}}},
    });
    let headers = vec![
        ("mcp-protocol-version", "2026-07-28".to_owned()),
        ("mcp-method", method.to_owned()),
        ("mcp-name", name.to_owned()),
    ];
    (json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}), headers)
}

async fn posted(server: &Server, method: &str, name: &str, params: Value) -> Value {
    let (message, headers) = modern(method, name, params);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    // Each on a connection of its own.
    let answer = Http::connect(server.address).await.post_to("/p/alpha/mcp", &message, &headers).await;
    let status = answer.status;
    let body = answer.json().await;
    assert_eq!(status, 200, "{body}");
    body["result"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_2026_07_28_is_polled_on_other_connections() {
    let place = Place::new();
    let shared = place.shared(&[("TMWS_LIMITS_TASK_AFTER", "0s")]);
    let server = served(&shared, NetworkLimits::default()).await;
    let call = json!({"name": "execute_pattern", "arguments": {"pattern": "test.long"}});
    let made = posted(&server, "tools/call", "execute_pattern", call).await;
    assert_eq!((&made["resultType"], &made["status"]), (&json!("task"), &json!("working")), "{made}");
    assert_eq!((made["ttlMs"].as_u64(), made["pollIntervalMs"].as_u64()), (Some(3_600_000), Some(1_000)));
    let id = made["taskId"].as_str().unwrap();
    let read = posted(&server, "tasks/get", id, json!({"taskId": id})).await;
    assert_eq!((&read["resultType"], &read["status"]), (&json!("complete"), &json!("working")), "{read}");
    let updated = posted(
        &server,
        "tasks/update",
        id,
        json!({"taskId": id, "inputResponses": {"x": {"action": "decline"}}}),
    );
    assert_eq!(updated.await["resultType"], "complete");
    place.open().await;
    idle(&shared).await;
    let read = posted(&server, "tasks/get", id, json!({"taskId": id})).await;
    assert_eq!(read["status"], "completed", "{read}");
    assert!(read["result"]["content"][0]["text"].as_str().unwrap().contains("main"), "{read}");
    let acknowledged = posted(&server, "tasks/cancel", id, json!({"taskId": id})).await;
    assert_eq!(acknowledged["resultType"], "complete", "also where it has ended");
    assert_eq!(posted(&server, "tasks/get", id, json!({"taskId": id})).await["status"], "completed");
    server.stop();
    server.ended().await;
}

fn initialize() -> Value {
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}})
}

#[expect(clippy::needless_pass_by_value, reason = "arguments are written where the call is")]
fn request(id: i64, method: &str, params: Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

/// A WebSocket whose session of 2025-11-25 stands.
async fn socket(server: &Server) -> Ws {
    let mut ws = Ws::connect(server.address, "/p/alpha/ws").await;
    ws.send(&initialize()).await;
    let opened = ws.receive().await;
    assert!(opened["result"]["capabilities"]["tasks"]["requests"]["tools"]["call"].is_object(), "{opened}");
    ws.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    ws
}

async fn answered(ws: &mut Ws, id: i64) -> Value {
    loop {
        let message = ws.receive().await;
        if message["id"] == id {
            return message;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_survives_a_reconnect_and_who_waits_for_it_takes_no_turn() {
    let place = Place::new();
    let shared = place.shared(&[]);
    // One call at a time, in all.
    let server = served(&shared, NetworkLimits { inflight_total_max: 1, ..NetworkLimits::default() }).await;
    let mut ws = socket(&server).await;
    let call =
        json!({"name": "execute_pattern", "arguments": {"pattern": "test.long"}, "task": {"ttl": 60_000}});
    ws.send(&request(1, "tools/call", call)).await;
    let made = answered(&mut ws, 1).await["result"]["task"].clone();
    assert_eq!((&made["status"], made["ttl"].as_u64()), (&json!("working"), Some(60_000)), "{made}");
    let id = made["taskId"].clone();
    drop(ws);

    let mut ws = socket(&server).await;
    ws.send(&request(1, "tasks/result", json!({"taskId": id}))).await;
    ws.send(&request(2, "tasks/get", json!({"taskId": id}))).await;
    let read = ws.receive().await;
    assert_eq!((read["id"].as_i64(), &read["result"]["status"]), (Some(2), &json!("working")), "{read}");
    place.open().await;
    let result = answered(&mut ws, 1).await["result"].clone();
    assert!(result["content"][0]["text"].as_str().unwrap().contains("main"), "{result}");
    assert_eq!(result["_meta"]["io.modelcontextprotocol/related-task"]["taskId"], id, "{result}");
    ws.send(&request(3, "tasks/list", json!({}))).await;
    assert_eq!(answered(&mut ws, 3).await["result"]["tasks"][0]["status"], "completed");
    drop(ws);
    server.stop();
    server.ended().await;
}

/// The answer to request `id`, as JSON or at the end of an event stream.
async fn message(mut answer: Answer, id: i64) -> Value {
    if answer.header("content-type") != "text/event-stream" {
        return answer.json().await;
    }
    let mut seen = Vec::new();
    loop {
        let Some(event) = answer.message().await else { panic!("the stream ended: {seen:?}") };
        seen.push(event.clone());
        if event.data.as_deref().is_some_and(|data| !data.is_empty()) && event.json()["id"] == id {
            return event.json();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_an_http_session_is_waited_for_on_an_event_stream() {
    let place = Place::new();
    let shared = place.shared(&[]);
    let server =
        served(&shared, NetworkLimits { keep_alive: Duration::from_millis(20), ..NetworkLimits::default() })
            .await;
    let mut http = Http::connect(server.address).await;
    let opened = http.post_to("/p/alpha/mcp", &initialize(), &[]).await;
    let session = opened.header("mcp-session-id").to_owned();
    opened.text().await;
    let headers = [("mcp-session-id", session.as_str()), ("mcp-protocol-version", "2025-11-25")];
    let call = json!({"name": "execute_pattern", "arguments": {"pattern": "test.long"}, "task": {}});
    let made =
        message(http.post_to("/p/alpha/mcp", &request(1, "tools/call", call), &headers).await, 1).await;
    let id = made["result"]["task"]["taskId"].clone();
    assert!(id.is_string(), "{made}");
    let waits = request(2, "tasks/result", json!({"taskId": id}));
    let mut answer = http.post_to("/p/alpha/mcp", &waits, &headers).await;
    assert_eq!(answer.header("content-type"), "text/event-stream");
    // It is kept open for as long as the task runs.
    loop {
        let event = answer.event().await.unwrap();
        if event.comment.is_some() {
            break;
        }
    }
    place.open().await;
    let result = message(answer, 2).await;
    assert!(result["result"]["content"][0]["text"].as_str().unwrap().contains("main"), "{result}");
    server.stop();
    server.ended().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stops_tells_who_waits_for_a_task() {
    let place = Place::new();
    let shared = place.shared(&[]);
    let server = served(&shared, NetworkLimits::default()).await;
    let mut ws = socket(&server).await;
    let call = json!({"name": "execute_pattern", "arguments": {"pattern": "test.long"}, "task": {}});
    ws.send(&request(1, "tools/call", call)).await;
    let id = answered(&mut ws, 1).await["result"]["task"]["taskId"].clone();
    ws.send(&request(2, "tasks/result", json!({"taskId": id}))).await;
    // Answered after it has come, and before it is answered.
    ws.send(&request(3, "ping", json!({}))).await;
    answered(&mut ws, 3).await;
    server.stop();
    let (stopped, ()) = tokio::join!(answered(&mut ws, 2), shared.service.tasks().stop());
    assert_eq!(stopped["error"]["code"], -32602, "{stopped}");
    assert!(stopped["error"]["message"].as_str().unwrap().contains("the server stopped"), "{stopped}");
    shared.service.tasks().close(Duration::from_secs(10)).await;
    server.ended().await;
}

/// The program in the workspace of `place`, with the store there.
fn tmws(place: &Place) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tmws"));
    command
        .current_dir(place.path("workspace"))
        .env("HOME", place.path("home"))
        .env("XDG_CONFIG_HOME", place.path("config"))
        .env("XDG_DATA_HOME", place.path("data"))
        .env("TMWS_DATABASE_URL", format!("sqlite:{}", place.path("store.db").display()))
        .env_remove("TMWS_ROOT")
        .env_remove("CLAUDE_PROJECT_DIR");
    command
}

/// `tmws serve` whose project alpha is the repository.
struct Served {
    child: Child,
    address: SocketAddr,
}

impl Served {
    fn open(place: &Place) -> Self {
        let project = format!("[projects.alpha]\nroot = '{}'\n", place.path("workspace").display());
        fs::write(place.path("config/tmws/tmws.toml"), project).unwrap();
        let mut child = tmws(place)
            .args(["serve", "--listen", "127.0.0.1:0", "--no-auth"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "the server does not listen");
            if let Some((_, rest)) = line.split_once("address=") {
                break rest.split_whitespace().next().unwrap().parse().unwrap();
            }
        };
        // What it says later is nobody's concern, but must not block it.
        std::thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        Self { child, address }
    }

    async fn socket(&self) -> Ws {
        let mut ws = Ws::connect(self.address, "/p/alpha/ws").await;
        ws.send(&initialize()).await;
        answered(&mut ws, 0).await;
        ws.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        ws
    }

    /// Whether it runs a program now.
    fn has_program(&self) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap().flatten();
        let mut children =
            threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
        children.any(|children| !children.trim().is_empty())
    }

    /// Sends a signal, and waits for the end.
    fn end(mut self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let status = self.child.wait().unwrap();
        assert_eq!(status.success(), signal == Signal::TERM, "{status}");
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Begins a task as request `id`: its id.
async fn begun(ws: &mut Ws, id: i64) -> Value {
    let call = json!({"name": "execute_pattern", "arguments": {"pattern": "test.long"}, "task": {}});
    ws.send(&request(id, "tools/call", call)).await;
    let made = answered(ws, id).await["result"]["task"]["taskId"].clone();
    assert!(made.is_string());
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn what_became_of_tasks_is_read_after_a_shared_server_stopped_or_was_lost() {
    for (signal, status, why) in [
        (Signal::TERM, "cancelled", "the server stopped before it ended"),
        (Signal::KILL, "failed", "the server that ran it ended before it did"),
    ] {
        let place = Place::new();
        let served = Served::open(&place);
        let mut ws = served.socket().await;
        let ended = begun(&mut ws, 1).await;
        place.open().await;
        ws.send(&request(2, "tasks/result", json!({"taskId": ended}))).await;
        let first = answered(&mut ws, 2).await;
        place.shut();
        let running = begun(&mut ws, 3).await;
        within("the program of the run", async {
            while !served.has_program() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        served.end(signal);
        if signal == Signal::KILL {
            // Nobody was left to end the program of its run.
            place.open().await;
            lose_leases(&place).await;
        }

        let served = Served::open(&place);
        let mut ws = served.socket().await;
        ws.send(&request(1, "tasks/result", json!({"taskId": ended}))).await;
        assert_eq!(answered(&mut ws, 1).await["result"]["content"], first["result"]["content"]);
        ws.send(&request(2, "tasks/get", json!({"taskId": running}))).await;
        let read = answered(&mut ws, 2).await["result"].clone();
        assert_eq!(read["status"], status, "{read}");
        assert!(read["statusMessage"].as_str().unwrap().contains(why), "{read}");
        ws.send(&request(3, "tasks/result", json!({"taskId": running}))).await;
        let result = answered(&mut ws, 3).await;
        assert!(result["error"]["message"].as_str().unwrap().contains(why), "{result}");
        drop(ws);
        served.end(Signal::TERM);
    }
}

/// As if the time had passed after which a lost server's tasks count as lost.
async fn lose_leases(place: &Place) {
    use sqlx::{Connection as _, Executor as _};
    let url = format!("sqlite:{}", place.path("store.db").display());
    let mut store = sqlx::SqliteConnection::connect(&url).await.unwrap();
    store.execute("UPDATE task SET lease = 0 WHERE is_final = 0").await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_ends_at_its_own_deadline() {
    let place = Place::new();
    let shared = place.shared(&[("TMWS_LIMITS_TASK_DEADLINE", "100ms")]);
    let ann = scope("ann", "alpha");
    let made = task(ask(&shared, &ann, run(OLD, "test.long", WANTED)).await);
    let (answer, failed) = told(about(&shared, &ann, OLD, Method::TasksResult, &made.id).await);
    assert_eq!((answer["error"].as_str(), failed), (Some("deadline"), true), "{answer}");
    idle(&shared).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_task_may_run_none_is_offered() {
    for limit in ["TMWS_LIMITS_TASKS", "TMWS_LIMITS_TASKS_PER_PRINCIPAL"] {
        let place = Place::new();
        let shared = place.shared(&[(limit, "0")]);
        let server = served(&shared, NetworkLimits::default()).await;
        let mut ws = Ws::connect(server.address, "/p/alpha/ws").await;
        ws.send(&initialize()).await;
        let opened = ws.receive().await;
        assert_eq!(opened["result"]["capabilities"].get("tasks"), None, "{opened}");
        ws.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        ws.send(&request(1, "tools/list", json!({}))).await;
        let tools = answered(&mut ws, 1).await["result"]["tools"].clone();
        assert!(tools.as_array().unwrap().iter().all(|tool| tool.get("execution").is_none()), "{tools}");
        // A wish for a task is none then, in either design.
        let call = json!({"name": "execute_pattern", "arguments": {"pattern": "test.long"}, "task": {}});
        ws.send(&request(2, "tools/call", call.clone())).await;
        place.open().await;
        let answer = answered(&mut ws, 2).await;
        assert!(answer["result"]["content"][0]["text"].as_str().unwrap().contains("main"), "{answer}");
        let called = posted(&server, "tools/call", "execute_pattern", call).await;
        assert_eq!(called["resultType"], "complete", "{called}");
        drop(ws);
        server.stop();
        server.ended().await;
    }
}

/// `tmws stdio` on two pipes.
struct Host {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Host {
    fn open(place: &Place) -> Self {
        let mut child = tmws(place)
            .arg("stdio")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut host = Self { child, input, output };
        host.send(&initialize());
        host.answer(0);
        host.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        host
    }

    fn send(&mut self, message: &Value) {
        writeln!(self.input.as_mut().unwrap(), "{message}").unwrap();
    }

    fn answer(&mut self, id: i64) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "the server closed stdout");
            let message: Value = serde_json::from_str(&line).unwrap();
            if message["id"] == id {
                return message;
            }
        }
    }

    fn begin(&mut self) -> Value {
        let call = json!({"name": "execute_pattern", "arguments": {"pattern": "test.long"}, "task": {}});
        self.send(&request(1, "tools/call", call));
        let id = self.answer(1)["result"]["task"]["taskId"].clone();
        assert!(id.is_string());
        id
    }

    /// Closes stdin; how long the end took.
    fn end(mut self) -> Duration {
        let begun = Instant::now();
        drop(self.input.take());
        assert!(self.child.wait().unwrap().success());
        begun.elapsed()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// How the task stands, as another process tells.
fn read_by_another(place: &Place, id: &Value) -> (Value, Value) {
    let mut host = Host::open(place);
    host.send(&request(2, "tasks/get", json!({"taskId": id})));
    let read = host.answer(2)["result"].clone();
    host.send(&request(3, "tasks/result", json!({"taskId": id})));
    let result = host.answer(3);
    host.end();
    (read, result)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_ended_is_read_after_a_restart() {
    let place = Place::new();
    let mut host = Host::open(&place);
    let id = host.begin();
    host.send(&request(2, "tasks/result", json!({"taskId": id})));
    // The answer to what came after it comes before its own.
    host.send(&request(3, "ping", json!({})));
    host.answer(3);
    place.open().await;
    let first = host.answer(2);
    assert!(first["result"]["content"][0]["text"].as_str().unwrap().contains("main"), "{first}");
    host.end();
    let (read, result) = read_by_another(&place, &id);
    assert_eq!(read["status"], "completed");
    assert_eq!(result["result"]["content"], first["result"]["content"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_runs_at_the_end_of_input_is_cancelled_and_marked() {
    let place = Place::new();
    let mut host = Host::open(&place);
    let id = host.begin();
    let took = host.end();
    assert!(took < Duration::from_secs(5), "{took:?}");
    let (read, result) = read_by_another(&place, &id);
    assert_eq!(read["status"], "cancelled", "{read}");
    assert!(read["statusMessage"].as_str().unwrap().contains("the server stopped"), "{read}");
    assert_eq!(result["error"]["code"], -32602, "{result}");
}
