//! The whole of TMWS below the tools (transport, driver, core, gate) with two trivial tools behind it, so that the cost
//! of a call without any work can be measured: on stdin and stdout (`cargo bench --bench stdio`), or with
//! `--listen 127.0.0.1:PORT` on the network (`benches/network`). The tools are named as those of the loops compared with:
//! `echo` says its `text` back, `search_memory` says 2 KB.

use std::{
    future::ready,
    io,
    os::fd::AsFd,
    sync::{Arc, LazyLock},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value, json};
use tmws::{
    access::Access,
    limits::{ConnectionLimits, NetworkLimits, ShutdownLimits},
    protocol::{
        BatchAnswers, CacheHint, CacheScope, Call, CallError, Capabilities, Connection, Now, Profile, Reply,
        Signer,
    },
    schema::Gate,
    scope::{ProjectId, Rights},
    session::{Driver, Identity, Mailbox},
    tool::{Change, ConnectionId, Context, ReplyFuture, Service},
    transport::{
        Host, Keys,
        http::{self, Listener},
        stdio,
    },
    wire::Method,
};
use tokio::{net::TcpListener, runtime::Builder, sync::broadcast};

/// What `search_memory` answers.
const SEARCHED_BYTES: usize = 2_048;

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
    Arc::new([
        json!({"name": "echo", "description": "Says it back.", "inputSchema": {"type": "object"}}),
        json!({"name": "search_memory", "description": "Says 2 KB.", "inputSchema": {"type": "object"}}),
    ])
});

static SEARCHED: LazyLock<String> = LazyLock::new(|| {
    let mut text =
        r#"{"id":"m_0001","score":0.9,"text":"Releases are cut on Fridays"},"#.repeat(SEARCHED_BYTES);
    text.truncate(SEARCHED_BYTES);
    text
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
                let params = call.params();
                let text = if params.get("name").and_then(Value::as_str) == Some("search_memory") {
                    Some(Value::String(SEARCHED.clone()))
                } else {
                    params.get("arguments").and_then(|arguments| arguments.get("text")).cloned()
                };
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
    let mut arguments = std::env::args().skip(1);
    let service: Arc<dyn Service> = Arc::new(Echo { events: broadcast::channel(1).0 });
    match arguments.next().as_deref() {
        Some("--listen") => {
            let address = arguments.next().ok_or_else(|| io::Error::other("--listen wants ADDRESS:PORT"))?;
            let runtime = Builder::new_multi_thread().enable_all().build()?;
            runtime.block_on(listen(service, &address))
        }
        _ => serve_stdio(service),
    }
}

async fn listen(service: Arc<dyn Service>, address: &str) -> io::Result<()> {
    let host = Arc::new(Host {
        // A load is what is wanted here.
        network_limits: NetworkLimits { calls_per_second: 0, ..NetworkLimits::default() },
        ..Host::new(service, Access::open("local"), Keys::given([0; 32]), now)
    });
    let listener = Listener {
        tcp: TcpListener::bind(address).await?,
        tls: None,
        hosts: Vec::new(),
        origins: Vec::new(),
        serves_sse: true,
        serves_dialect: true,
    };
    http::serve(host, listener).await
}

fn serve_stdio(service: Arc<dyn Service>) -> io::Result<()> {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let (waker, wakened) = stdio::waker()?;
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
