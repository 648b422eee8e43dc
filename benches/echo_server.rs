//! The whole of `tmws stdio` below the tools (transport, driver, core, gate) with one trivial tool behind it, so that
//! the cost of a call without any work can be measured: `cargo bench --bench stdio`.

use std::{
    future::ready,
    io,
    os::fd::AsFd,
    sync::{Arc, LazyLock},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value, json};
use tmws::{
    limits::{ConnectionLimits, ShutdownLimits},
    protocol::{
        BatchAnswers, CacheHint, CacheScope, Call, CallError, Capabilities, Connection, Now, Profile, Reply,
        Signer,
    },
    schema::Gate,
    scope::{ProjectId, Rights},
    session::{Driver, Identity, Mailbox},
    tool::{Change, ConnectionId, Context, ReplyFuture, Service},
    transport::stdio,
    wire::Method,
};
use tokio::sync::broadcast;

struct Echo {
    events: broadcast::Sender<Change>,
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => unreachable!("literals below are objects"),
    }
}

static TOOLS: LazyLock<Arc<[Value]>> = LazyLock::new(|| {
    Arc::new([json!({"name": "echo", "description": "Says it back.", "inputSchema": {"type": "object"}})])
});

impl Service for Echo {
    fn profile(&self) -> Arc<Profile> {
        let uncached = CacheHint { ttl_ms: 0, scope: CacheScope::Private };
        Arc::new(Profile {
            server_info: object(json!({"name": "echo", "version": "1"})),
            instructions: None,
            capabilities: Capabilities { tools: Some(false), ..Capabilities::default() },
            list_cache: uncached,
            read_cache: uncached,
        })
    }

    fn call(self: Arc<Self>, call: Call, _: Context) -> ReplyFuture {
        let reply = match call.method() {
            Method::ToolsList => Reply::List(Arc::clone(&TOOLS)),
            Method::ToolsCall => {
                let text =
                    call.params().get("arguments").and_then(|arguments| arguments.get("text")).cloned();
                Reply::Result(object(
                    json!({"content": [{"type": "text", "text": text.unwrap_or_default()}]}),
                ))
            }
            _ => Reply::Error(CallError::Internal),
        };
        Box::pin(ready(reply))
    }

    fn events(&self) -> broadcast::Receiver<Change> {
        self.events.subscribe()
    }
}

#[expect(clippy::disallowed_methods, reason = "the edge where time comes in")]
fn now() -> Now {
    let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    Now { monotonic: Instant::now(), unix_ms }
}

fn main() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (waker, wakened) = stdio::waker()?;
    let service: Arc<dyn Service> = Arc::new(Echo { events: broadcast::channel(1).0 });
    let limits = ConnectionLimits::default();
    let connection = Connection::new(
        service.profile(),
        Arc::new(Gate::new()),
        limits,
        Signer::new([0; 32]),
        BatchAnswers::Array,
    );
    let identity = Identity::new(ProjectId::personal, "local", "bench", "bench", Rights::ALL);
    let mut driver = Driver::new(
        ConnectionId(0),
        connection,
        service,
        identity,
        runtime.handle().clone(),
        Mailbox::new(waker),
        limits.call_deadline,
    );
    let (input, output) = (io::stdin(), io::stdout());
    let binding = stdio::Binding {
        input: input.as_fd(),
        output: output.as_fd(),
        wakened: &wakened,
        limits: &limits,
        shutdown: &ShutdownLimits::default(),
    };
    binding.run(&mut driver, now, || stdio::Stop::No).map(|_| ())
}
