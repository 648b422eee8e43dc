//! What admission control costs a call that is ready at once: the service alone against the same behind it, interleaved.
//!
//! `cargo bench --bench admission`: the median of several rounds, in nanoseconds per call.

#![allow(clippy::print_stdout, reason = "the report")]

use std::{
    hint::black_box,
    pin::Pin,
    sync::Arc,
    task::{Poll, Waker},
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};
use tmws::{
    admission::Governed,
    audit::{Audit, Digester},
    limits::{ConnectionLimits, NetworkLimits},
    metrics::Metrics,
    protocol::{CacheHint, CacheScope, Call, CallId, Capabilities, Client, Notice, Profile, Reply},
    revision::Revision,
    schema::{Admitted, Gate},
    scope::{ProjectId, Scope},
    tool::{Change, ConnectionId, Context, Notices, Origin, ReplyFuture, Service},
    wire::{Envelope, Frame, Method, parse_frame},
};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

const ROUNDS: usize = 31;
const CALLS: usize = 5_000;

/// Answers at once, with next to no work of its own.
struct Echo(broadcast::Sender<Change>);

struct Deaf;

impl Notices for Deaf {
    fn notify(&self, _: Notice) {}
}

impl Service for Echo {
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

    fn call(self: Arc<Self>, _: Call, _: Context) -> ReplyFuture {
        Box::pin(std::future::ready(Reply::Result(Map::new())))
    }

    fn events(&self) -> broadcast::Receiver<Change> {
        self.0.subscribe()
    }
}

struct Given {
    request: Arc<Admitted>,
    client: Arc<Client>,
    scope: Scope,
    notices: Arc<dyn Notices>,
    cancel: CancellationToken,
    deadline: Instant,
}

impl Given {
    fn run(&self, service: &Arc<dyn Service>) {
        let call = Call {
            id: CallId(1),
            request: Arc::clone(&self.request),
            client: Arc::clone(&self.client),
            wants_progress: false,
            log_level: None,
            answers: None,
            task: None,
        };
        let context = Context {
            connection: ConnectionId(1),
            origin: Origin { has_token: true, ..Origin::default() },
            scope: self.scope.clone(),
            notices: Arc::clone(&self.notices),
            cancel: self.cancel.clone(),
            deadline: self.deadline,
        };
        let mut future = Arc::clone(service).call(call, context);
        match Pin::as_mut(&mut future).poll(&mut std::task::Context::from_waker(Waker::noop())) {
            Poll::Ready(reply) => drop(black_box(reply)),
            Poll::Pending => println!("not ready"),
        }
    }
}

fn request() -> Arc<Admitted> {
    let params = json!({"name": "echo", "arguments": {"text": "x".repeat(64)}});
    let frame = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}).to_string();
    let Ok(Frame::Single(Envelope::Request(request))) = parse_frame(frame.as_bytes()) else {
        unreachable!("a request: {frame}")
    };
    let admitted = Gate::new().admit_request(Revision::V2025_06_18, Method::ToolsCall, request);
    Arc::new(admitted.expect("it fits its schema"))
}

fn median(mut rounds: Vec<f64>) -> f64 {
    rounds.sort_unstable_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

fn main() {
    let given = Given {
        request: request(),
        client: Arc::new(Client {
            revision: Revision::V2025_06_18,
            info: None,
            capabilities: Map::<String, Value>::new(),
        }),
        scope: Scope::mint(ProjectId::personal(), "bench", "default", None),
        notices: Arc::new(Deaf),
        cancel: CancellationToken::new(),
        deadline: Instant::now() + Duration::from_hours(1),
    };
    let plain: Arc<dyn Service> = Arc::new(Echo(broadcast::channel(1).0));
    let governed = |calls_per_second, audit| -> Arc<dyn Service> {
        let network = NetworkLimits { calls_per_second, calls_burst: 1 << 30, ..NetworkLimits::default() };
        let metrics = Arc::new(Metrics::default());
        Governed::new(Arc::clone(&plain), &network, &ConnectionLimits::default(), metrics, audit)
    };
    let path = std::env::temp_dir().join(format!("tmws-bench-{}.jsonl", std::process::id()));
    let digester = Digester::with_key(&[0; 32]);
    let audit = Audit::start(path.clone(), digester).expect("a thread for the audit log");
    let services = [
        ("the service alone", Arc::clone(&plain)),
        ("limits and figures, no rate", governed(0, None)),
        ("with a rate", governed(1_000_000_000, None)),
        ("with a rate and the audit log", governed(1_000_000_000, Some(Arc::clone(&audit)))),
    ];
    let mut rounds: Vec<Vec<f64>> = services.iter().map(|_| Vec::new()).collect();
    for _ in 0..ROUNDS {
        for ((_, service), rounds) in services.iter().zip(&mut rounds) {
            // The log is to have room for a round, as it has where calls take longer than this one.
            while audit.waiting() > 0 {
                std::thread::yield_now();
            }
            let calls = CALLS;
            let begun = Instant::now();
            for _ in 0..calls {
                given.run(service);
            }
            rounds.push(begun.elapsed().as_secs_f64() * 1e9 / calls as f64);
        }
    }
    for ((name, _), rounds) in services.iter().zip(rounds) {
        println!("{name:32} {:8.0} ns", median(rounds));
    }
    audit.close();
    if let Err(error) = std::fs::remove_file(&path) {
        println!("{}: {error}", path.display());
    }
}
