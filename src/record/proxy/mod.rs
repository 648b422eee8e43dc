//! In front of a server on the network.
//!
//! One thread, so that what is passed on and noted in one go comes in one order. `http` passes requests and responses on,
//! `websocket` what has been upgraded; `heads`, `events` and `frames` read what passes.

mod events;
mod frames;
mod heads;
mod http;
mod websocket;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use hyper::{
    HeaderMap, Uri,
    header::{HOST, HeaderValue, ORIGIN},
};
use tokio::{
    net::TcpListener,
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};
use tracing::{debug, info, warn};

use super::sink::{Options, Sink, outlive_a_full_file};
use crate::{
    dial::Dialer,
    transcript::{Entry, Transport},
};

/// Why nothing is recorded. Never quotes what stands before the `@` of an address.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// `--listen` is no address.
    #[error("`{0}` is no address and port to listen on, as in 127.0.0.1:0")]
    Listen(String),
    /// Whoever reaches the recorder reaches the server.
    #[error(
        "{0} is not on loopback: the recorder lets everybody in who reaches it, under the server's own name"
    )]
    NotLoopback(IpAddr),
    /// `--to` is no address.
    #[error("`--to` takes the ws://, wss://, http:// or https:// address of a server")]
    Address,
    /// There is a secret in it.
    #[error("`--to` takes no user and password: the client sends them to the recorder, which passes them on")]
    Userinfo,
    /// The port is taken, or a thing that every process has is missing.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The server.
struct Upstream {
    tls: bool,
    host: String,
    port: u16,
    /// As the `Host` header has it.
    authority: HeaderValue,
    /// As `Origin` has it.
    origin: HeaderValue,
}

impl Upstream {
    fn parse(url: &str) -> Result<(Self, String), ProxyError> {
        let uri: Uri = url.parse().map_err(|_| ProxyError::Address)?;
        let tls = match uri.scheme_str() {
            Some("ws" | "http") => false,
            Some("wss" | "https") => true,
            _ => return Err(ProxyError::Address),
        };
        let authority = uri.authority().ok_or(ProxyError::Address)?;
        if authority.as_str().contains('@') {
            return Err(ProxyError::Userinfo);
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(ProxyError::Address);
        }
        let origin = format!("{}://{authority}", if tls { "https" } else { "http" });
        let value = |text: &str| HeaderValue::try_from(text).map_err(|_| ProxyError::Address);
        let upstream = Self {
            tls,
            host,
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            authority: value(authority.as_str())?,
            origin: value(&origin)?,
        };
        Ok((upstream, uri.path().to_owned()))
    }
}

/// What all connections share.
struct Site {
    upstream: Upstream,
    dialer: Dialer,
    listening: SocketAddr,
    options: Options,
    /// The server's name in headers of recordings.
    server: String,
    /// All of a run's HTTP.
    http: Conversation,
}

/// One recording, and which request came last.
#[derive(Clone)]
struct Conversation(Arc<Mutex<(Sink, u64)>>);

impl Conversation {
    fn new(sink: Sink) -> Self {
        Self(Arc::new(Mutex::new((sink, 0))))
    }

    fn lock(&self) -> MutexGuard<'_, (Sink, u64)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a request, which is the last one from now on.
    fn request(&self, entry: Entry, body: Option<&[u8]>) -> u64 {
        let mut inner = self.lock();
        inner.1 = match body {
            Some(body) => inner.0.note_bytes(entry, body),
            None => inner.0.note(entry),
        };
        inner.1
    }

    /// Notes what belongs to a request, and says so unless that one came last.
    fn of(&self, request: u64, entry: Entry, body: Option<&[u8]>) {
        let mut inner = self.lock();
        let entry = Entry { of: (request != inner.1).then_some(request), ..entry };
        match body {
            Some(body) => inner.0.note_bytes(entry, body),
            None => inner.0.note(entry),
        };
    }
}

impl Site {
    /// Whether a request names the recorder: anybody else's page must not get into the server through it.
    fn is_ours(&self, headers: &HeaderMap) -> bool {
        let mut hosts = headers.get_all(HOST).iter();
        match (hosts.next().and_then(|host| host.to_str().ok()), hosts.next()) {
            (Some(host), None) => self.names().any(|name| host.eq_ignore_ascii_case(&name)),
            _ => false,
        }
    }

    fn names(&self) -> impl Iterator<Item = String> {
        let port = self.listening.port();
        let bare = (port == 80).then(|| self.listening.ip().to_string());
        let names = [
            self.listening.to_string(),
            format!("localhost:{port}"),
            format!("127.0.0.1:{port}"),
            format!("[::1]:{port}"),
        ];
        names.into_iter().chain(bare)
    }

    /// Gives a request the server's name, and its own pages the server's origin.
    fn rename(&self, headers: &mut HeaderMap) {
        headers.insert(HOST, self.upstream.authority.clone());
        let is_own = headers
            .get(ORIGIN)
            .and_then(|origin| origin.to_str().ok())
            .and_then(|origin| origin.strip_prefix("http://"))
            .is_some_and(|origin| self.names().any(|name| origin.eq_ignore_ascii_case(&name)));
        if is_own {
            headers.insert(ORIGIN, self.upstream.origin.clone());
        }
    }
}

/// Listens on `listen` (an address on loopback with its port) and records what passes between its clients and the server
/// at `to`, until SIGINT or SIGTERM.
///
/// # Errors
/// Why nothing is recorded.
pub fn proxy(listen: &str, to: &str, options: Options) -> Result<(), ProxyError> {
    let address: SocketAddr = listen
        .strip_prefix("localhost:")
        .map_or_else(|| listen.to_owned(), |port| format!("127.0.0.1:{port}"))
        .parse()
        .map_err(|_| ProxyError::Listen(listen.to_owned()))?;
    if !address.ip().is_loopback() {
        return Err(ProxyError::NotLoopback(address.ip()));
    }
    let (upstream, path) = Upstream::parse(to)?;
    let runtime = Builder::new_current_thread().max_blocking_threads(1).enable_all().build()?;
    let ended = runtime.block_on(async {
        outlive_a_full_file()?;
        let listener = TcpListener::bind(address).await?;
        let listening = listener.local_addr()?;
        let server = to.split(['?', '#']).next().unwrap_or_default().to_owned();
        let site = Arc::new(Site {
            dialer: Dialer::new(upstream.tls)?,
            http: Conversation::new(Sink::new(options.clone(), Transport::Http, &server)),
            upstream,
            listening,
            options,
            server,
        });
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        info!(address = %listening, path, to = site.server, "recording whoever connects here");
        tokio::select! {
            () = accept(&listener, &site) => {}
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    });
    runtime.shutdown_background();
    ended
}

async fn accept(listener: &TcpListener, site: &Arc<Site>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Without it every answer that leaves in two writes waits for the client's acknowledgement.
                if let Err(error) = stream.set_nodelay(true) {
                    debug!(%error, "a connection ended at once");
                    continue;
                }
                tokio::spawn(http::serve(Arc::clone(site), stream));
            }
            Err(error) => {
                warn!(%error, "a connection could not be accepted");
                // Out of descriptors, most likely: some come back when connections end.
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_address_is_read() {
        for (url, tls, host, port, authority, path) in [
            ("http://h", false, "h", 80, "h", "/"),
            ("wss://h:9/ws", true, "h", 9, "h:9", "/ws"),
            ("https://[::1]/mcp?a=b", true, "::1", 443, "[::1]", "/mcp"),
        ] {
            let (upstream, found) = Upstream::parse(url).unwrap();
            assert_eq!((upstream.tls, upstream.host.as_str(), upstream.port), (tls, host, port), "{url}");
            assert_eq!((upstream.authority.to_str().unwrap(), found.as_str()), (authority, path), "{url}");
        }
        for url in ["ftp://h", "h:1", "/mcp", "http://u:Secret@h"] {
            let error = Upstream::parse(url).err().expect(url).to_string();
            assert!(!error.contains("Secret"), "{error}");
        }
    }
}
