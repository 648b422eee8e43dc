//! The service in front of the service: limits, turns, figures and the audit log, without a transport.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};
use tmws::{
    admission::Governed,
    audit::{Audit, Digester},
    limits::{ConnectionLimits, NetworkLimits},
    metrics::Metrics,
    protocol::{
        CacheHint, CacheScope, Call, CallError, CallId, Capabilities, Client, Notice, Profile, Reply,
    },
    revision::Revision,
    schema::Gate,
    scope::{ProjectId, Scope},
    tool::{Change, ConnectionId, Context, Notices, Origin, ReplyFuture, Service},
    wire::{Envelope, Frame, Method, parse_frame},
};
use tokio::sync::{broadcast, oneshot};
use tokio_util::sync::CancellationToken;

/// A service whose tools: `now` answers at once, `fail` fails, `never` never ends, all others wait for their release.
struct Scripted {
    changes: broadcast::Sender<Change>,
    begun: AtomicUsize,
    waiting: Mutex<BTreeMap<String, oneshot::Sender<()>>>,
}

struct Deaf;

impl Notices for Deaf {
    fn notify(&self, _: Notice) {}
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("no object: {other}"),
    }
}

fn text(text: &str) -> Reply {
    Reply::Result(object(json!({"content": [{"type": "text", "text": text}]})))
}

impl Service for Scripted {
    fn profile(&self) -> Arc<Profile> {
        let hint = CacheHint { ttl_ms: 0, scope: CacheScope::Private };
        Arc::new(Profile {
            server_info: Map::new(),
            instructions: None,
            capabilities: Capabilities::default(),
            list_cache: hint,
            read_cache: hint,
        })
    }

    fn call(self: Arc<Self>, call: Call, context: Context) -> ReplyFuture {
        self.begun.fetch_add(1, Ordering::SeqCst);
        let name = call.params().get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        match name.as_str() {
            "" => Box::pin(std::future::ready(Reply::List(Arc::new([])))),
            "now" => Box::pin(std::future::ready(text("now"))),
            "fail" => Box::pin(std::future::ready(Reply::Result(object(json!({
                "isError": true,
                "content": [{"type": "text", "text": "{\"error\":\"denied\",\"message\":\"no\"}"}],
            }))))),
            "never" => Box::pin(async move {
                context.cancel.cancelled().await;
                Reply::Error(CallError::Internal)
            }),
            _ => {
                let (release, released) = oneshot::channel();
                self.waiting.lock().unwrap().insert(name.clone(), release);
                Box::pin(async move {
                    let _ = released.await;
                    text(&name)
                })
            }
        }
    }

    fn events(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }
}

struct Bench {
    inner: Arc<Scripted>,
    governed: Arc<Governed>,
    metrics: Arc<Metrics>,
}

fn limits() -> NetworkLimits {
    NetworkLimits { calls_per_second: 0, ..NetworkLimits::default() }
}

impl Bench {
    fn new(network: NetworkLimits) -> Self {
        Self::with(network, None)
    }

    fn with(network: NetworkLimits, audit: Option<Arc<Audit>>) -> Self {
        let inner = Arc::new(Scripted {
            changes: broadcast::channel(1).0,
            begun: AtomicUsize::new(0),
            waiting: Mutex::default(),
        });
        let metrics = Arc::new(Metrics::default());
        let governed = Governed::new(
            Arc::clone(&inner) as Arc<dyn Service>,
            &network,
            &ConnectionLimits::default(),
            Arc::clone(&metrics),
            audit,
        );
        Self { inner, governed, metrics }
    }

    fn call(&self, method: Method, params: &Value, context: Context) -> ReplyFuture {
        Arc::clone(&self.governed).call(call(method, params), context)
    }

    fn tool(&self, name: &str, context: Context) -> ReplyFuture {
        self.call(Method::ToolsCall, &json!({"name": name}), context)
    }

    fn release(&self, name: &str) {
        self.inner.waiting.lock().unwrap().remove(name).expect("it has begun").send(()).unwrap();
    }

    fn begun(&self) -> usize {
        self.inner.begun.load(Ordering::SeqCst)
    }

    fn figure(&self, name: &str) -> String {
        let text = self.metrics.text();
        let line =
            text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        line.map(|line| line[name.len() + 1..].to_owned()).unwrap_or_default()
    }
}

fn call(method: Method, params: &Value) -> Call {
    let frame = json!({"jsonrpc": "2.0", "id": 1, "method": method.as_str(), "params": params}).to_string();
    let Ok(Frame::Single(Envelope::Request(request))) = parse_frame(frame.as_bytes()) else {
        panic!("no request: {frame}");
    };
    let revision = Revision::V2025_06_18;
    Call {
        id: CallId(1),
        request: Arc::new(Gate::new().admit_request(revision, method, request).unwrap()),
        client: Arc::new(Client { revision, info: None, capabilities: Map::new() }),
        wants_progress: false,
        log_level: None,
        answers: None,
        task: None,
    }
}

fn context(connection: u64) -> Context {
    Context {
        connection: ConnectionId(connection),
        origin: Origin::default(),
        scope: Scope::mint(ProjectId::personal(), "ada", "default", None),
        notices: Arc::new(Deaf),
        cancel: CancellationToken::new(),
        deadline: Instant::now() + Duration::from_secs(20),
    }
}

fn poll(future: &mut ReplyFuture) -> Option<Reply> {
    match Pin::as_mut(future).poll(&mut std::task::Context::from_waker(Waker::noop())) {
        Poll::Ready(reply) => Some(reply),
        Poll::Pending => None,
    }
}

/// The object in the text of a failed tool.
fn failure(reply: &Reply) -> Value {
    let Reply::Result(result) = reply else { panic!("no result: {reply:?}") };
    assert_eq!(result["isError"], true, "{result:?}");
    serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap()
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn what_is_ready_at_once_is_ready_at_once() {
    let bench = Bench::new(NetworkLimits::default());
    assert_eq!(poll(&mut bench.tool("now", context(1))), Some(text("now")));
    assert!(poll(&mut bench.call(Method::ToolsList, &json!({}), context(1))).is_some());
    assert_eq!(bench.figure("tmws_calls_in_flight"), "0.0");
    assert_eq!(bench.figure("tmws_call_duration_seconds_count{method=\"tools/call\"}"), "1");
    assert_eq!(bench.figure("tmws_call_duration_seconds_count{method=\"prompts/get\"}"), "0");
}

#[tokio::test]
async fn too_many_calls_a_second_are_told_to_wait() {
    let bench = Bench::new(NetworkLimits { calls_per_second: 1, calls_burst: 2, ..limits() });
    assert!(poll(&mut bench.tool("now", context(1))).is_some());
    assert!(poll(&mut bench.call(Method::ToolsList, &json!({}), context(1))).is_some());
    let mut held_back = bench.tool("now", context(1));
    assert!(poll(&mut held_back).is_none(), "who asks on at once gains nothing by it");
    let refused = failure(&held_back.await);
    assert_eq!(refused["error"], "busy");
    let pause = refused["retry_after_ms"].as_u64().unwrap();
    assert!((1..=1_000).contains(&pause), "{refused}");
    match bench.call(Method::ToolsList, &json!({}), context(1)).await {
        Reply::Error(CallError::Busy { retry_after, message }) => {
            assert!(retry_after <= Duration::from_secs(1) && message.contains("slow down"));
        }
        other => panic!("not refused: {other:?}"),
    }
    assert!(poll(&mut bench.tool("now", context(2))).is_some_and(|reply| reply == text("now")));
    assert_eq!(bench.begun(), 3);
    assert_eq!(bench.figure("tmws_rate_limited_total"), "2");
    assert_eq!(bench.figure("tmws_call_errors_total{layer=\"tool\",code=\"busy\"}"), "1");
    assert_eq!(bench.figure("tmws_call_errors_total{layer=\"protocol\",code=\"429\"}"), "1");
    // One that is given up is not waited with.
    let given_up = context(1);
    given_up.cancel.cancel();
    assert!(poll(&mut bench.tool("now", given_up)).is_some());
}

#[tokio::test]
async fn a_token_has_one_rate_on_all_its_connections_and_stateless_clients_one_per_address() {
    let one = NetworkLimits { calls_per_second: 1, calls_burst: 1, ..limits() };
    let passes = |bench: &Bench, connection, origin| {
        let context = Context { origin, ..context(connection) };
        poll(&mut bench.tool("now", context)) == Some(text("now"))
    };
    let bench = Bench::new(one);
    let token = Origin { has_token: true, ..Origin::default() };
    assert!(passes(&bench, 1, token));
    assert!(!passes(&bench, 2, token), "the same principal on another connection");
    let bench = Bench::new(one);
    let from =
        |last| Origin { peer: Some([127, 0, 0, last].into()), is_stateless: true, ..Origin::default() };
    assert!(passes(&bench, 1, from(1)));
    assert!(!passes(&bench, 2, from(1)), "each request is a connection of its own");
    assert!(passes(&bench, 3, from(2)));
}

#[tokio::test]
async fn a_greedy_connection_delays_another_by_no_more_than_one_turn() {
    let bench = Bench::new(NetworkLimits { inflight_total_max: 1, ..limits() });
    let mut first = bench.tool("first", context(1));
    assert!(poll(&mut first).is_none());
    let mut greedy: Vec<_> = (0..64).map(|n| bench.tool(&format!("greedy {n}"), context(1))).collect();
    let mut single = bench.tool("single", context(2));
    assert!(greedy.iter_mut().all(|call| poll(call).is_none()) && poll(&mut single).is_none());
    assert_eq!(bench.begun(), 1);
    assert_eq!(bench.figure("tmws_calls_in_flight"), "1.0");
    assert_eq!(bench.figure("tmws_calls_waiting"), "65.0");
    let refused = failure(&poll(&mut bench.tool("one too many", context(1))).unwrap());
    assert_eq!(refused["error"], "busy");
    bench.release("first");
    assert!(poll(&mut first).is_some());
    assert!(poll(&mut greedy[0]).is_none(), "it runs");
    assert_eq!(bench.begun(), 2);
    bench.release("greedy 0");
    assert!(poll(&mut greedy[0]).is_some());
    assert!(poll(&mut single).is_none(), "it runs");
    bench.release("single");
    assert_eq!(poll(&mut single), Some(text("single")));
    drop(greedy);
    assert_eq!(
        (bench.figure("tmws_calls_in_flight"), bench.figure("tmws_calls_waiting")),
        ("0.0".into(), "0.0".into())
    );
}

#[tokio::test]
async fn who_waits_may_be_cancelled_or_runs_out_of_time() {
    let bench = Bench::new(NetworkLimits { inflight_total_max: 1, ..limits() });
    let mut first = bench.tool("first", context(1));
    assert!(poll(&mut first).is_none());
    let given_up = context(2);
    let cancel = given_up.cancel.clone();
    let mut cancelled = bench.tool("cancelled", given_up);
    assert!(poll(&mut cancelled).is_none());
    cancel.cancel();
    assert_eq!(poll(&mut cancelled), Some(Reply::Error(CallError::Internal)));
    let late = Context { deadline: Instant::now() + Duration::from_millis(20), ..context(3) };
    let refused = failure(&bench.tool("late", late).await);
    assert_eq!((&refused["error"], &refused["retry_after_ms"]), (&json!("busy"), &json!(1_000)));
    let late = Context { deadline: Instant::now() + Duration::from_millis(20), ..context(3) };
    let reply = bench.call(Method::ResourcesList, &json!({}), late).await;
    assert!(matches!(reply, Reply::Error(CallError::Busy { .. })), "{reply:?}");
    assert_eq!(bench.figure("tmws_calls_waiting"), "0.0");
    assert_eq!(bench.begun(), 1, "none of them reached the service");
    bench.release("first");
    assert!(poll(&mut first).is_some());
    assert_eq!(poll(&mut bench.tool("now", context(4))), Some(text("now")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_end_are_cancelled_or_dropped_at_random_lose_no_place() {
    let bench = Arc::new(Bench::new(NetworkLimits { inflight_total_max: 2, ..limits() }));
    let callers: Vec<_> = (0..8_u64)
        .map(|connection| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move {
                for round in 0..200_u64 {
                    let context = context(connection);
                    let cancel = context.cancel.clone();
                    match (connection + round) % 3 {
                        0 => drop(bench.tool("now", context).await),
                        1 => {
                            let (call, ()) = tokio::join!(bench.tool("never", context), async {
                                tokio::task::yield_now().await;
                                cancel.cancel();
                            });
                            drop(call);
                        }
                        _ => {
                            let mut call = bench.tool("never", context);
                            drop(poll(&mut call));
                        }
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        tokio::time::timeout(Duration::from_mins(1), caller).await.expect("nobody waits for ever").unwrap();
    }
    assert_eq!(
        (bench.figure("tmws_calls_in_flight"), bench.figure("tmws_calls_waiting")),
        ("0.0".into(), "0.0".into())
    );
}

#[tokio::test]
async fn what_reads_or_changes_something_is_written_down_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let audit = Audit::start(path.clone(), Digester::derived(&[1; 32])).unwrap();
    let bench = Bench::with(NetworkLimits { inflight_total_max: 1, ..limits() }, Some(Arc::clone(&audit)));
    let tool = |name: &str, secret: &str| json!({"name": name, "arguments": {"x": secret}});
    let ask = |params: &Value| bench.call(Method::ToolsCall, params, context(1));
    poll(&mut ask(&tool("now", "s3cret"))).unwrap();
    poll(&mut ask(&tool("fail", "s3cret"))).unwrap();
    poll(&mut bench.call(Method::ToolsList, &json!({}), context(1))).unwrap();
    poll(&mut bench.call(Method::ResourcesRead, &json!({"uri": "memory://s3cret"}), context(1))).unwrap();
    let running = context(1);
    let cancel = running.cancel.clone();
    let mut never = bench.call(Method::ToolsCall, &tool("never", "other"), running);
    assert!(poll(&mut never).is_none());
    let late = Context { deadline: Instant::now(), ..context(2) };
    assert_eq!(failure(&bench.tool("late", late).await)["error"], "busy");
    cancel.cancel();
    assert!(poll(&mut never).is_some());
    // Dropped before its end, as after a panic.
    drop(bench.tool("never", context(1)));
    audit.close();
    let found: Vec<(String, String)> = lines(&path)
        .iter()
        .map(|line| {
            let name = line.get("tool").or(line.get("uri_kind")).and_then(Value::as_str).unwrap_or("?");
            (name.to_owned(), line["outcome"].as_str().unwrap().to_owned())
        })
        .collect();
    let expected = [
        ("now", "ok"),
        ("fail", "denied"),
        ("memory", "ok"),
        ("late", "busy"),
        ("never", "cancelled"),
        ("never", "-32603"),
    ];
    assert_eq!(found, expected.map(|(name, outcome)| (name.to_owned(), outcome.to_owned())));
    let all = lines(&path);
    assert_eq!(all[0]["arguments"], all[1]["arguments"], "equal arguments have equal digests");
    assert_ne!(all[0]["arguments"], all[4]["arguments"]);
    assert!(!fs::read_to_string(&path).unwrap().contains("s3cret"));
    assert_eq!(bench.figure("tmws_audit_lines_total"), "6.0");
    assert_eq!(bench.figure("tmws_audit_up"), "1.0");
}

#[test]
fn without_its_log_no_call_runs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    fs::create_dir(&path).unwrap();
    let audit = Audit::start(path, Digester::derived(&[1; 32])).unwrap();
    let bench = Bench::with(limits(), Some(audit));
    let refused = failure(&poll(&mut bench.tool("now", context(1))).unwrap());
    assert_eq!(refused["error"], "busy");
    assert!(refused["message"].as_str().unwrap().contains("audit log cannot be written"), "{refused}");
    let read = poll(&mut bench.call(Method::ResourcesRead, &json!({"uri": "memory://x"}), context(1)));
    assert!(matches!(read, Some(Reply::Error(CallError::Busy { .. }))), "{read:?}");
    assert_eq!(bench.begun(), 0);
    assert!(
        poll(&mut bench.call(Method::ToolsList, &json!({}), context(1))).is_some(),
        "lists are not logged"
    );
    assert_eq!(bench.begun(), 1);
    assert_eq!(bench.figure("tmws_audit_up"), "0.0");
}
