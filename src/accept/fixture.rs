//! The fixture server: the whole of TMWS below its tools (transports, driver, core, gate) with `compat/fixture` behind
//! it, a service with every feature of MCP once. It is in the program so that recorded clients can be played against
//! exactly what is installed.

// Shared with tests and examples by path: what it makes visible is for them.
#[path = "../../compat/fixture/mod.rs"]
#[allow(unreachable_pub, clippy::redundant_pub_crate, reason = "it is written as part of a binary")]
mod service;

use std::{
    io,
    net::SocketAddr,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    access::Access,
    limits::{ConnectionLimits, ShutdownLimits},
    protocol::{BatchAnswers, Connection, Now, Signer},
    revision::Era,
    schema::Gate,
    scope::{ProjectId, Rights},
    session::{Driver, Hub, Identity, Mailbox},
    tool::{ConnectionId, Service},
    transport::{
        Host, Keys,
        http::{self, Listener},
        stdio,
    },
};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use service::Fixture;

/// Whoever reaches the server is this principal.
const PRINCIPAL: &str = "local";
/// Tasks that are still there at the end get so long.
const RUNTIME_END: Duration = Duration::from_millis(50);

#[expect(clippy::disallowed_methods, reason = "the edge where time comes in")]
fn now() -> Now {
    let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    Now { monotonic: Instant::now(), unix_ms }
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

/// One message for each signal that asks for the end.
fn signals() -> io::Result<mpsc::UnboundedReceiver<()>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let (mut signal, sender) = (signal(kind)?, sender.clone());
        tokio::spawn(async move { while signal.recv().await.is_some() && sender.send(()).is_ok() {} });
    }
    Ok(receiver)
}

/// Serves Streamable HTTP at `/mcp`, WebSocket at `/ws` and HTTP+SSE at `/sse`, without authentication, until SIGTERM or
/// SIGINT; says on stderr where.
///
/// # Errors
/// The address is not of this machine alone, or cannot be listened on.
pub fn serve_network(address: SocketAddr) -> io::Result<()> {
    if !address.ip().is_loopback() {
        return Err(io::Error::other("it knows no authentication and listens on loopback only"));
    }
    let runtime = runtime()?;
    let served = runtime.block_on(listen(address));
    runtime.shutdown_timeout(RUNTIME_END);
    served
}

#[expect(clippy::print_stderr, reason = "whoever started it waits for this line")]
async fn listen(address: SocketAddr) -> io::Result<()> {
    let mut signals = signals()?;
    let host =
        Arc::new(Host::new(Fixture::new(), Access::open(PRINCIPAL), Keys::given(crate::random::key()?), now));
    let tcp = TcpListener::bind(address).await?;
    let address = tcp.local_addr()?;
    let listener = Listener {
        tcp,
        tls: None,
        hosts: Vec::new(),
        origins: Vec::new(),
        serves_sse: true,
        serves_dialect: false,
    };
    tokio::spawn({
        let host = Arc::clone(&host);
        async move { host.hub.run(host.service.events()).await }
    });
    tokio::spawn({
        let host = Arc::clone(&host);
        // The first signal lets calls answer, for a while; the second cuts them off.
        async move {
            let _ = signals.recv().await;
            host.stopping.cancel();
            host.hub.wake_all();
            let _ = tokio::time::timeout(host.network_limits.shutdown, signals.recv()).await;
            host.cut_off.cancel();
            host.hub.wake_all();
        }
    });
    eprintln!("listening on http://{address}/mcp");
    http::serve(host, listener).await
}

/// Serves stdin and stdout, until the end of input or a signal.
///
/// # Errors
/// They cannot be read or written.
pub fn serve_stdio() -> io::Result<()> {
    let runtime = runtime()?;
    let entered = runtime.enter();
    let service = Fixture::new();
    let (waker, wakened) = stdio::waker()?;
    let mailbox = Mailbox::new(waker);
    let limits = ConnectionLimits::default();
    let identity =
        Identity::known(ProjectId::personal(), PRINCIPAL, "fixture", &Host::random_name(), Rights::ALL);
    let connection = Connection::new(
        service.profile(),
        Arc::new(Gate::new()),
        limits,
        Signer::new(crate::random::key()?).for_audience(PRINCIPAL),
        BatchAnswers::Array,
    );
    let hub = Arc::new(Hub::default());
    let _membership = hub.join(ConnectionId(0), identity.scope(Era::Legacy), Arc::clone(&mailbox));
    let changes = service.events();
    runtime.spawn(async move { hub.run(changes).await });
    let stops = Arc::new(AtomicU32::new(0));
    let mut signals = signals()?;
    runtime.spawn({
        let (stops, mailbox) = (Arc::clone(&stops), Arc::clone(&mailbox));
        async move {
            while signals.recv().await.is_some() {
                stops.fetch_add(1, Ordering::AcqRel);
                mailbox.wake();
            }
        }
    });
    let mut driver = Driver::new(
        ConnectionId(0),
        connection,
        service,
        identity,
        runtime.handle().clone(),
        mailbox,
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
    let ended = binding.run(&mut driver, now, || match stops.load(Ordering::Acquire) {
        0 => stdio::Stop::No,
        1 => stdio::Stop::Drain,
        _ => stdio::Stop::Cut,
    });
    drop(driver);
    drop(entered);
    runtime.shutdown_timeout(RUNTIME_END);
    ended.map(|_| ())
}
