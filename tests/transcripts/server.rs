//! The fixture service behind the real transports, in this process.

use std::{
    io::{self, PipeReader, PipeWriter},
    net::Ipv4Addr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tmws::{
    access::Access,
    limits::{ConnectionLimits, ShutdownLimits},
    protocol::{BatchAnswers, Connection, Now, Signer},
    replay::{Against, Pipes},
    revision::Era,
    schema::Gate,
    scope::{ProjectId, Rights},
    session::{Driver, Hub, Identity, Mailbox},
    tool::{ConnectionId, Service},
    transcript::Transport,
    transport::{
        Host, Keys,
        http::{self, Listener},
        stdio,
    },
};
use tokio::{
    net::{TcpListener, unix::pipe},
    runtime::{Builder, Handle, Runtime},
};
use tokio_util::sync::CancellationToken;

use crate::fixture::Fixture;

const PRINCIPAL: &str = "local";
/// Tasks that are still there at the end get so long.
const RUNTIME_END: Duration = Duration::from_secs(5);

#[expect(clippy::disallowed_methods, reason = "the edge where time comes in")]
fn now() -> Now {
    let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    Now { monotonic: Instant::now(), unix_ms }
}

/// Runs `job` beside a server of its own, reached as `transport` reaches one.
pub(crate) fn beside<T>(transport: Transport, job: impl AsyncFnOnce(&mut Against) -> T) -> T {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let stopping = CancellationToken::new();
    let done = runtime.block_on(async {
        let mut against = match transport {
            Transport::Stdio => on_pipes(runtime.handle().clone()),
            Transport::Ws => {
                Against::Url { url: format!("ws://{}/ws", listen(&stopping).await), token: None }
            }
            Transport::Http => {
                Against::Url { url: format!("http://{}/mcp", listen(&stopping).await), token: None }
            }
        };
        job(&mut against).await
    });
    stopping.cancel();
    end(runtime);
    done
}

fn end(runtime: Runtime) {
    runtime.shutdown_timeout(RUNTIME_END);
}

async fn listen(stopping: &CancellationToken) -> String {
    let host = Arc::new(Host {
        stopping: stopping.clone(),
        cut_off: stopping.child_token(),
        ..Host::new(Fixture::new(), Access::open(PRINCIPAL), Keys::given([7; 32]), now)
    });
    let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = tcp.local_addr().unwrap().to_string();
    let (hosts, origins) = (Vec::new(), Vec::new());
    let listener = Listener { tcp, tls: None, hosts, origins, serves_sse: true, serves_dialect: false };
    tokio::spawn({
        let host = Arc::clone(&host);
        async move { host.hub.run(host.service.events()).await }
    });
    tokio::spawn(http::serve(host, listener));
    address
}

/// Each conversation has a server on pipes of its own, as each launch of a host has.
fn on_pipes(runtime: Handle) -> Against {
    Against::Pipes(Box::new(move || {
        let (input, to_server) = io::pipe()?;
        let (from_server, output) = io::pipe()?;
        let runtime = runtime.clone();
        std::thread::spawn(move || serve(&runtime, &input, &output).unwrap());
        let reader = pipe::Receiver::from_owned_fd(OwnedFd::from(from_server))?;
        let writer = pipe::Sender::from_owned_fd(OwnedFd::from(to_server))?;
        let pipes: Pipes = (Box::new(reader), Box::new(writer));
        Ok(pipes)
    }))
}

/// One stdio server, until the end of its input.
fn serve(runtime: &Handle, input: &PipeReader, output: &PipeWriter) -> io::Result<()> {
    let _entered = runtime.enter();
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
        Signer::new([7; 32]).for_audience(PRINCIPAL),
        BatchAnswers::Array,
    );
    let hub = Arc::new(Hub::default());
    let _membership = hub.join(ConnectionId(0), identity.scope(Era::Legacy), Arc::clone(&mailbox));
    let changes = service.events();
    let announcing = runtime.spawn(async move { hub.run(changes).await });
    let mut driver = Driver::new(
        ConnectionId(0),
        connection,
        service,
        identity,
        runtime.clone(),
        mailbox,
        limits.call_deadline,
    );
    let binding = stdio::Binding {
        input: input.as_fd(),
        output: output.as_fd(),
        wakened: &wakened,
        limits: &limits,
        shutdown: &ShutdownLimits::default(),
    };
    let ended = binding.run(&mut driver, now, || stdio::Stop::No);
    announcing.abort();
    ended.map(|_| ())
}
