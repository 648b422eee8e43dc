//! A proxy that hands each connection to the next instance that takes it, so that no session sticks; or each request to
//! the instance that its `Mcp-Session-Id` says, as proxies do that hash a header.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A head that is longer is no head.
const HEAD_MAX: usize = 64 * 1024;

/// A running proxy, ended when dropped.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    backends: Arc<Backends>,
    accepting: JoinHandle<()>,
}

struct Backends {
    is_sticky: bool,
    addresses: Mutex<Vec<SocketAddr>>,
    next: AtomicUsize,
    /// Connections that each of them took.
    taken: Vec<AtomicUsize>,
    /// Where the requests of each session went.
    sessions: Mutex<BTreeMap<String, BTreeSet<usize>>>,
}

impl Proxy {
    pub(super) async fn start(addresses: Vec<SocketAddr>) -> Self {
        Self::begin(addresses, false).await
    }

    /// One that keeps the requests of a session together.
    pub(super) async fn sticky(addresses: Vec<SocketAddr>) -> Self {
        Self::begin(addresses, true).await
    }

    async fn begin(addresses: Vec<SocketAddr>, is_sticky: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let taken = addresses.iter().map(|_| AtomicUsize::new(0)).collect();
        let backends = Arc::new(Backends {
            is_sticky,
            addresses: Mutex::new(addresses),
            next: AtomicUsize::new(0),
            taken,
            sessions: Mutex::default(),
        });
        let accepting = tokio::spawn({
            let backends = Arc::clone(&backends);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    let backends = Arc::clone(&backends);
                    tokio::spawn(async move { backends.serve(client).await });
                }
            }
        });
        Self { address, backends, accepting }
    }

    /// Instance `number` is at `address` from now on.
    pub(super) fn moved(&self, number: usize, address: SocketAddr) {
        self.backends.addresses.lock().unwrap_or_else(PoisonError::into_inner)[number] = address;
    }

    /// Connections that each instance took.
    pub(super) fn taken(&self) -> Vec<usize> {
        self.backends.taken.iter().map(|taken| taken.load(Ordering::Relaxed)).collect()
    }

    /// Where the requests of each session went so far, where sessions stick.
    pub(super) fn sessions(&self) -> BTreeMap<String, BTreeSet<usize>> {
        self.backends.sessions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Backends {
    /// Where nobody takes the connection, it is closed without a word.
    async fn serve(&self, mut client: TcpStream) {
        let (mut begun, mut session) = (Vec::new(), None);
        if self.is_sticky {
            let Some(head) = read_head(&mut client).await else { return };
            (begun, session) = head;
        }
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let first = match &session {
            Some(session) => {
                let mut hasher = DefaultHasher::new();
                session.hash(&mut hasher);
                (hasher.finish() % addresses.len() as u64) as usize
            }
            None => self.next.fetch_add(1, Ordering::Relaxed),
        };
        for number in (0..addresses.len()).map(|n| (first + n) % addresses.len()) {
            let Ok(mut instance) = TcpStream::connect(addresses[number]).await else { continue };
            self.taken[number].fetch_add(1, Ordering::Relaxed);
            if let Some(session) = session {
                let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
                sessions.entry(session).or_default().insert(number);
            }
            let _ = (client.set_nodelay(true), instance.set_nodelay(true));
            if instance.write_all(&begun).await.is_ok() {
                // However it ends, both sides see that it did.
                let _ = copy_bidirectional(&mut client, &mut instance).await;
            }
            return;
        }
    }
}

/// What a client has sent, up to the end of a head at least, and the session that it names. The connection is to end with
/// the answer: the next request may belong to another session.
async fn read_head(client: &mut TcpStream) -> Option<(Vec<u8>, Option<String>)> {
    const END: &[u8] = b"\r\n\r\n";
    let mut begun = Vec::new();
    let end = loop {
        if client.read_buf(&mut begun).await.ok()? == 0 || begun.len() > HEAD_MAX {
            return None;
        }
        if let Some(end) = begun.windows(END.len()).position(|bytes| bytes == END) {
            break end;
        }
    };
    let head = std::str::from_utf8(&begun[..end]).ok()?;
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let session = fields.find(|(name, _)| name.eq_ignore_ascii_case("mcp-session-id"));
    let session = session.map(|(_, value)| value.trim().to_owned());
    begun.splice(end..end, *b"\r\nconnection: close");
    Some((begun, session))
}
