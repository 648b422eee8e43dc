//! The composition root of a stdio server: parts, service, connection, transport; and the graceful end.

use std::{
    io,
    os::fd::AsFd,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::{Builder, Runtime},
    signal::unix::{SignalKind, signal},
    sync::broadcast::error::RecvError,
};
use tracing::{debug, error};

use super::{BLOCKING_KEEP_ALIVE, BLOCKING_THREADS_MAX, oversight::with_spans};
use crate::{
    compose::{LOCAL_PRINCIPAL, Local},
    config::Config,
    engine::Outside,
    exit::Exit,
    limits::ShutdownLimits,
    otlp::Exporter,
    protocol::{BatchAnswers, Connection, Signer},
    schema::Gate,
    scope::Rights,
    session::{Driver, Identity, Mailbox},
    tool::{ConnectionId, Service},
    transport::{
        Host,
        stdio::{self, Ended, Stop},
    },
};

/// Threads for calls that are not ready at once. The connection's own thread is not among them.
const WORKER_THREADS: usize = 2;
/// Calls that became tasks are cancelled, and marked so, within so long. Where there are none, it takes no time.
const TASKS_END: Duration = Duration::from_millis(100);
/// Tasks of the runtime that are still there at the end get so long, and as long again is left for the process to be taken down: the
/// loop ends by so much earlier.
const RUNTIME_END: Duration = Duration::from_millis(50);

/// Serves MCP on stdin and stdout until the end of input or a signal.
///
/// Nothing is opened, read or listed on the way to the first answer.
#[must_use]
#[expect(clippy::needless_pass_by_value, reason = "the command line hands everything over")]
pub fn stdio(config: Config) -> Exit {
    match try_stdio(&config) {
        Ok(ended) => {
            debug!(?ended, "the connection ended");
            Exit::Ok
        }
        Err(error) => {
            error!(%error, "stdin or stdout cannot be used");
            Exit::Software
        }
    }
}

fn try_stdio(config: &Config) -> io::Result<Ended> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_keep_alive(BLOCKING_KEEP_ALIVE)
        .thread_name("tmws")
        .enable_all()
        .build()?;
    let entered = runtime.enter();
    let (waker, wakened) = stdio::waker()?;
    let mailbox = Mailbox::new(waker);
    let signals = watch_signals(&runtime, &mailbox)?;

    let local = Local::new(config);
    let engine = Arc::clone(&local.engine);
    let tmws = local.service();
    let tasks = Arc::clone(tmws.tasks());
    let exporter = Exporter::start(&config.otlp, None, runtime.handle());
    let service = with_spans(tmws, exporter.as_ref());
    forward_events(&runtime, &*service, &mailbox);
    let key = config.state_key.as_ref().map_or_else(crate::random::key, |key| Ok(*key.expose()))?;
    let connection = Connection::new(
        service.profile(),
        Arc::new(Gate::new()),
        config.connection,
        Signer::new(key).for_audience(LOCAL_PRINCIPAL),
        BatchAnswers::Array,
    );
    let identity = Identity::new(
        local.project_later(),
        LOCAL_PRINCIPAL,
        &config.agent,
        &Host::random_name(),
        Rights::ALL,
    );
    let mut driver = Driver::new(
        ConnectionId(0),
        connection,
        service,
        identity,
        runtime.handle().clone(),
        mailbox,
        config.connection.call_deadline,
    );
    let (input, output) = (io::stdin(), io::stdout());
    let binding = stdio::Binding {
        input: input.as_fd(),
        output: output.as_fd(),
        wakened: &wakened,
        limits: &config.connection,
        shutdown: &ShutdownLimits {
            drain: config.shutdown.drain,
            exit: config.shutdown.exit.saturating_sub(RUNTIME_END * 2 + TASKS_END + Outside::CLOSE_MAX),
        },
    };
    let stop = || match signals.load(Ordering::Acquire) {
        0 => Stop::No,
        1 => Stop::Drain,
        _ => Stop::Cut,
    };
    let ended = binding.run(&mut driver, super::now, stop);
    drop(driver);
    drop(entered);
    runtime.block_on(tasks.close(TASKS_END));
    runtime.block_on(engine.close());
    if let Some(exporter) = exporter {
        runtime.block_on(exporter.close());
    }
    runtime.shutdown_timeout(RUNTIME_END);
    ended
}

/// Counts the signals that ask for the end: the first lets calls drain, the second cuts them off, each waking the loop;
/// a third ends the process at once, should the loop be stuck.
fn watch_signals(runtime: &Runtime, mailbox: &Arc<Mailbox>) -> io::Result<Arc<AtomicU32>> {
    let count = Arc::new(AtomicU32::new(0));
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()] {
        let mut signals = signal(kind)?;
        let (count, mailbox) = (Arc::clone(&count), Arc::clone(mailbox));
        runtime.spawn(async move {
            while signals.recv().await.is_some() {
                if count.fetch_add(1, Ordering::AcqRel) >= 2 {
                    std::process::exit(i32::from(Exit::Ok.code()));
                }
                mailbox.wake();
            }
        });
    }
    Ok(count)
}

/// Changes of patterns and memories reach the connection's subscribers.
fn forward_events(runtime: &Runtime, service: &dyn Service, mailbox: &Arc<Mailbox>) {
    let mut events = service.events();
    let mailbox = Arc::clone(mailbox);
    runtime.spawn(async move {
        loop {
            match events.recv().await {
                Ok(change) => mailbox.put_event(change.event),
                Err(RecvError::Lagged(missed)) => {
                    debug!(missed, "change notices came too fast and were dropped");
                }
                Err(RecvError::Closed) => return,
            }
        }
    });
}
