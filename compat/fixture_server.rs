//! The fixture server: the whole of TMWS below its tools (transports, driver, core, gate) with `compat/fixture` behind
//! it. The official conformance suite and the recorded conversations of real clients are run against it.
//!
//! ```text
//! cargo run --release --example fixture_server -- --listen 127.0.0.1:0
//! cargo run --release --example fixture_server -- --stdio
//! ```
//!
//! With `--listen` it serves Streamable HTTP at `/mcp`, WebSocket at `/ws` and HTTP+SSE at `/sse`, without
//! authentication, and says on stderr where. SIGTERM and SIGINT end it, on stdio the end of input too.

#[path = "fixture/mod.rs"]
mod fixture;

use std::{
    io,
    net::SocketAddr,
    os::fd::AsFd,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tmws::{
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

use fixture::Fixture;

const USAGE: &str = "usage: fixture_server --listen 127.0.0.1:PORT | --stdio";
/// Whoever reaches the server is this principal.
const PRINCIPAL: &str = "local";
/// Tasks that are still there at the end get so long.
const RUNTIME_END: Duration = Duration::from_millis(50);

#[expect(clippy::print_stderr, reason = "the command line of an example")]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let served = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--stdio"] => serve_stdio(),
        ["--listen", address] => serve_network(address),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(64);
        }
    };
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fixture_server: {error}");
            ExitCode::FAILURE
        }
    }
}

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

fn serve_network(address: &str) -> io::Result<()> {
    let address: SocketAddr = address.parse().map_err(|_| io::Error::other(USAGE))?;
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
        Arc::new(Host::new(Fixture::new(), Access::open(PRINCIPAL), Keys::given(tmws::random::key()?), now));
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

fn serve_stdio() -> io::Result<()> {
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
        Signer::new(tmws::random::key()?).for_audience(PRINCIPAL),
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
