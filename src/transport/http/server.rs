//! Accepts connections and hands their requests to the router.

use std::{
    convert::Infallible, future::poll_fn, io, net::SocketAddr, pin::pin, sync::Arc, task::Poll,
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::{guard::Guard, legacy::Sessions, router, sse::Streams};
use crate::{
    metrics::Transport,
    transport::{
        Host, Io,
        io::{Line, Phase, Place},
    },
};

/// After an accept that failed because something has run out, the next is tried so much later.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// A connection without a request is closed after one to two of these.
const IDLE: Duration = Duration::from_mins(3);
/// When all must be over, answers that say so may still leave for so long.
const LAST_WORDS: Duration = Duration::from_millis(250);
/// Largest head of a request, and most that is read of a body at once.
const BUFFER_MAX: usize = 64 << 10;
/// So many clients at once are told that there is no room; more are closed without a word.
const TURNED_AWAY_MAX: usize = 64;
/// And so long each may take to hear it.
const TURNED_AWAY_WAIT: Duration = Duration::from_secs(1);
const TOO_MANY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: 47\r\nconnection: close\r\n\r\nthis server has all the connections it may have";

/// A bound listener and what its connections get.
pub struct Listener {
    /// Where connections come from.
    pub tcp: TcpListener,
    /// Encrypts, where a certificate was given.
    pub tls: Option<TlsAcceptor>,
    /// Hosts allowed beside the address itself.
    pub hosts: Vec<String>,
    /// Origins allowed beside our own.
    pub origins: Vec<String>,
    /// Whether HTTP+SSE of 2024-11-05 is served.
    pub serves_sse: bool,
    /// Whether the old dialect of TMWS is served.
    pub serves_dialect: bool,
}

/// What every request of one listener sees.
pub(super) struct Site {
    pub(super) host: Arc<Host>,
    pub(super) guard: Guard,
    pub(super) is_tls: bool,
    pub(super) serves_sse: bool,
    pub(super) serves_dialect: bool,
    pub(super) sessions: Sessions,
    pub(super) streams: Streams,
}

/// Serves until [`Host::stopping`]; returns when every connection has ended, those that were upgraded included, at the
/// latest a moment after [`Host::cut_off`].
///
/// # Errors
/// The listener's address cannot be told.
pub async fn serve(host: Arc<Host>, listener: Listener) -> io::Result<()> {
    let Listener { tcp, tls, hosts, origins, serves_sse, serves_dialect } = listener;
    let listening = tcp.local_addr()?;
    let site = Arc::new(Site {
        host: Arc::clone(&host),
        guard: Guard { hosts, origins, listening },
        is_tls: tls.is_some(),
        serves_sse,
        serves_dialect,
        sessions: Sessions::default(),
        streams: Streams::default(),
    });
    let places = Arc::new(Semaphore::new(host.network_limits.connections_max));
    let turned_away = Arc::new(Semaphore::new(TURNED_AWAY_MAX));
    let connections = TaskTracker::new();
    let mut stopping = pin!(host.stopping.cancelled());
    loop {
        let accepted = tokio::select! {
            accepted = tcp.accept() => accepted,
            () = stopping.as_mut() => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_the_clients(&error) => continue,
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                tokio::select! {
                    () = sleep(ACCEPT_AGAIN) => continue,
                    () = stopping.as_mut() => break,
                }
            }
        };
        let Ok(permit) = Arc::clone(&places).try_acquire_owned() else {
            host.metrics.refused("too-many-connections");
            if tls.is_none()
                && let Ok(permit) = Arc::clone(&turned_away).try_acquire_owned()
            {
                tokio::spawn(async move {
                    let _ = timeout(TURNED_AWAY_WAIT, turn_away(stream)).await;
                    drop(permit);
                });
            }
            continue;
        };
        let place =
            Place { permit, tracked: connections.token(), counted: host.metrics.connection(Transport::Http) };
        tokio::spawn(connect(Arc::clone(&site), stream, peer, listening, tls.clone(), place));
    }
    drop(tcp);
    connections.close();
    tokio::select! {
        () = connections.wait() => {}
        () = async {
            host.cut_off.cancelled().await;
            sleep(2 * LAST_WORDS).await;
        } => debug!(left = connections.len(), "connections were cut off"),
    }
    Ok(())
}

/// Whether an accept failed because of the one connection, and the next may be tried at once.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

/// Says that there is no room, and waits until that was heard: closing over unread bytes would take it back.
async fn turn_away(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(TOO_MANY).await?;
    stream.shutdown().await?;
    let mut scrap = [0; 1 << 10];
    while stream.read(&mut scrap).await? > 0 {}
    Ok(())
}

async fn connect(
    site: Arc<Site>,
    stream: TcpStream,
    peer: SocketAddr,
    listening: SocketAddr,
    tls: Option<TlsAcceptor>,
    place: Place,
) {
    // Where all addresses are listened on, the one that the client reached is ours beyond doubt.
    let local = if listening.ip().is_unspecified() { stream.local_addr() } else { Ok(listening) };
    let Ok(local) = local else { return };
    // Without it every answer that leaves in two writes waits 40 ms for the client's acknowledgement.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let line = Line::new();
    let limits = site.host.network_limits;
    let io = match tls {
        None => Io::plain(stream, Arc::clone(&line), limits.write_stall, place),
        Some(tls) => {
            let handshake = Box::pin(timeout(limits.header_timeout, tls.accept(stream)));
            let accepted = tokio::select! {
                accepted = handshake => accepted,
                () = site.host.stopping.cancelled() => return,
            };
            match accepted {
                Ok(Ok(stream)) => Io::tls(stream, Arc::clone(&line), limits.write_stall, place),
                Ok(Err(error)) => return debug!(%error, "a TLS handshake failed"),
                Err(_) => {
                    site.host.metrics.refused("tls-too-slow");
                    return;
                }
            }
        }
    };
    converse(site, router::Ends { peer: peer.ip(), local: local.ip() }, line, io).await;
}

/// Whether a connection ended because its client took nothing of what was sent.
fn is_stalled(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    source.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
}

/// What ends a connection from our side.
enum Stage {
    Open,
    /// No further request.
    Closing,
    /// Last words, until this.
    Over,
}

async fn converse(site: Arc<Site>, ends: router::Ends, line: Arc<Line>, io: Io) {
    let host = Arc::clone(&site.host);
    let header_timeout = host.network_limits.header_timeout;
    let service = service_fn({
        let line = Arc::clone(&line);
        move |request| {
            let (site, line) = (Arc::clone(&site), Arc::clone(&line));
            async move {
                line.begin();
                let response = router::answer(&site, ends, &line, request).await;
                if !matches!(response.body(), super::Body::Events(_)) {
                    line.end();
                }
                Ok::<_, Infallible>(response)
            }
        }
    });
    let connection = http1::Builder::new()
        // Time-outs are kept here: hyper's own counts the time between requests as part of the next head.
        .header_read_timeout(None)
        .max_buf_size(BUFFER_MAX)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let mut stopping = pin!(host.stopping.cancelled());
    let mut cut_off = pin!(host.cut_off.cancelled());
    let mut timer = pin!(sleep(header_timeout));
    let mut stage = Stage::Open;
    // Whether the timer measures a head; otherwise the time without a request.
    let mut measures_head = true;
    let mut served = 0;
    let ended = poll_fn(|context| {
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                return Poll::Ready(ended.err());
            }
            match stage {
                Stage::Open if stopping.as_mut().poll(context).is_ready() => {
                    stage = Stage::Closing;
                    connection.as_mut().graceful_shutdown();
                    continue;
                }
                Stage::Closing if cut_off.as_mut().poll(context).is_ready() => {
                    stage = Stage::Over;
                    timer.as_mut().reset(Instant::now() + LAST_WORDS);
                }
                Stage::Open | Stage::Closing | Stage::Over => {}
            }
            if matches!(stage, Stage::Over) {
                return if timer.as_mut().poll(context).is_ready() {
                    Poll::Ready(None)
                } else {
                    Poll::Pending
                };
            }
            let is_head = line.phase() == Phase::Head;
            if is_head != measures_head {
                measures_head = is_head;
                served = line.served();
                timer.as_mut().reset(Instant::now() + if is_head { header_timeout } else { IDLE });
            }
            if timer.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            if measures_head {
                host.metrics.refused("head-too-slow");
                return Poll::Ready(None);
            }
            if line.phase() == Phase::Idle && line.served() == served {
                stage = Stage::Closing;
                connection.as_mut().graceful_shutdown();
            }
            served = line.served();
            timer.as_mut().reset(Instant::now() + IDLE);
        }
    })
    .await;
    if let Some(error) = ended {
        if is_stalled(&error) {
            host.metrics.refused("slow-reader");
        }
        debug!(%error, "a connection ended early");
    }
}
