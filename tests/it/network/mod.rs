//! The network bindings from outside: an in-process server on a free loopback port, raw clients in front of it.

mod compliance;
pub(crate) mod dashboard;
mod dialect;
mod dialect_engine;
mod dialect_transcripts;
mod health;
mod http;
mod http_client;
mod http_edges;
mod http_tokens;
mod legacy;
mod probe;
mod smoke;
mod sse;
mod tasks;
mod websocket;
mod withdrawn;
mod ws_client;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tmws::{
    access::Access,
    admission::Governed,
    audit::Audit,
    limits::{ConnectionLimits, NetworkLimits},
    metrics::Metrics,
    protocol::Now,
    schema::Gate,
    session::Hub,
    store::SharedStore,
    tool::Service,
    transport::{
        Health, Host, Keys,
        http::{Listener, serve},
    },
};
use tokio::{net::TcpListener, runtime::Handle, task::JoinHandle};
use tokio_util::sync::CancellationToken;

pub(crate) use http_client::{Answer, Event, Http};
pub(crate) use probe::{Probe, Seen};
pub(crate) use ws_client::Ws;

/// A wait that is longer than this is a failure: nothing here takes seconds on a healthy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How a server is set up.
pub(crate) struct Setup {
    pub(crate) connection_limits: ConnectionLimits,
    pub(crate) network_limits: NetworkLimits,
    pub(crate) access: Access,
    pub(crate) keys: Keys,
    /// Where ends of sessions are noted.
    pub(crate) ended: Option<SharedStore>,
    pub(crate) clock: fn() -> Now,
    pub(crate) serves_sse: bool,
    pub(crate) serves_dialect: bool,
    pub(crate) hosts: Vec<String>,
    pub(crate) origins: Vec<String>,
    pub(crate) tls: Option<tokio_rustls::TlsAcceptor>,
    pub(crate) health: Health,
    pub(crate) audit: Option<Arc<Audit>>,
    /// Whether admission control stands in front of the service.
    pub(crate) governs: bool,
    /// Who serves the calls instead of the probe.
    pub(crate) service: Option<Arc<dyn Service>>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            connection_limits: ConnectionLimits::default(),
            network_limits: NetworkLimits::default(),
            access: Access::open("local"),
            keys: Keys::given([7; 32]),
            ended: None,
            clock: now,
            serves_sse: true,
            serves_dialect: false,
            hosts: Vec::new(),
            origins: Vec::new(),
            tls: None,
            health: Health::default(),
            audit: None,
            governs: false,
            service: None,
        }
    }
}

/// A running server with the scripted service, or another one, behind it.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) host: Arc<Host>,
    pub(crate) probe: Arc<Probe>,
    serving: JoinHandle<std::io::Result<()>>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    pub(crate) async fn with(setup: Setup) -> Self {
        let probe = Probe::new();
        let metrics = Arc::new(Metrics::default());
        let mut service = setup.service.unwrap_or_else(|| Arc::clone(&probe) as Arc<dyn Service>);
        if setup.governs {
            service = Governed::new(
                service,
                &setup.network_limits,
                &setup.connection_limits,
                Arc::clone(&metrics),
                setup.audit.clone(),
            );
        }
        let host = Arc::new(Host {
            service,
            gate: Arc::new(Gate::new()),
            access: Arc::new(setup.access),
            hub: Arc::new(Hub::default()),
            metrics,
            health: setup.health,
            audit: setup.audit,
            connection_limits: setup.connection_limits,
            network_limits: setup.network_limits,
            clock: setup.clock,
            stopping: CancellationToken::new(),
            cut_off: CancellationToken::new(),
            runtime: Handle::current(),
            keys: setup.keys,
            ended: setup.ended,
            next_connection: AtomicU64::new(1),
        });
        let tcp = TcpListener::bind((IpAddr::V4(Ipv4Addr::LOCALHOST), 0)).await.unwrap();
        let address = tcp.local_addr().unwrap();
        let listener = Listener {
            tcp,
            tls: setup.tls,
            hosts: setup.hosts,
            origins: setup.origins,
            serves_sse: setup.serves_sse,
            serves_dialect: setup.serves_dialect,
        };
        tokio::spawn({
            let host = Arc::clone(&host);
            async move {
                let changes = host.service.events();
                host.hub.run(changes).await;
            }
        });
        let serving = tokio::spawn(serve(Arc::clone(&host), listener));
        Self { address, host, probe, serving }
    }

    /// Asks the server to end gracefully.
    pub(crate) fn stop(&self) {
        self.host.stopping.cancel();
        self.host.hub.wake_all();
    }

    /// Ends what the grace was for.
    pub(crate) fn cut_off(&self) {
        self.host.cut_off.cancel();
        self.host.hub.wake_all();
    }

    /// Waits until every connection has ended.
    pub(crate) async fn ended(self) {
        within("the server's end", self.serving).await.unwrap().unwrap();
    }

    /// A raw HTTP client on a connection of its own.
    pub(crate) async fn http(&self) -> Http {
        Http::connect(self.address).await
    }

    /// A WebSocket that offers subprotocol `mcp` at `/ws`.
    pub(crate) async fn ws(&self) -> Ws {
        Ws::connect(self.address, "/ws").await
    }
}

/// Awaits `what`, which must not take long.
pub(crate) async fn within<T>(what: &str, waited: impl Future<Output = T>) -> T {
    let Ok(value) = tokio::time::timeout(PATIENCE, waited).await else {
        panic!("{what}: nothing came within {PATIENCE:?}");
    };
    value
}

#[expect(clippy::disallowed_methods, reason = "the edge where time comes in")]
fn now() -> Now {
    let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    Now { monotonic: Instant::now(), unix_ms }
}
