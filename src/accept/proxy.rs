//! A TCP proxy on loopback, between a server and whoever speaks to it: what is wrong with a network can be had at will.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::task::AbortOnDropHandle;

use super::scenario::Broken;

/// Bytes that are read at once, and pieces that are under way in one direction.
const PIECE: usize = 16 << 10;
const PIECES_MAX: usize = 256;
/// What came from a server that has gone is handed on within this.
const LINGER: Duration = Duration::from_secs(1);

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To the server.
    There,
    /// From it.
    Back,
}

/// Changes a piece that passes.
pub type Edit = Arc<dyn Fn(Way, &mut Vec<u8>) + Send + Sync>;

/// How much later a piece passes than it otherwise would; what comes after it on its connection waits, too.
pub type Hold = Arc<dyn Fn(Way, &[u8]) -> Duration + Send + Sync>;

/// What happens to what passes.
#[derive(Clone, Default)]
struct Weather {
    delay: Duration,
    is_frozen: bool,
    is_closed: bool,
    /// Connections of an earlier one are ended.
    cuts: u64,
    edit: Option<Edit>,
    hold: Option<Hold>,
}

#[derive(Default)]
struct Counted {
    open: AtomicUsize,
    accepted: AtomicUsize,
    bytes: AtomicU64,
}

/// A running proxy. Dropped, it is closed, and its connections with it.
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    counted: Arc<Counted>,
    _accepting: AbortOnDropHandle<()>,
}

impl Proxy {
    /// One before the server at `to`, at a port of its own.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(to: SocketAddr) -> Result<Self, Broken> {
        let broken = |error: io::Error| Broken::new("starting a proxy", "a port", error);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(broken)?;
        let address = listener.local_addr().map_err(broken)?;
        let weather = watch::Sender::new(Weather::default());
        let counted = Arc::<Counted>::default();
        let accepting = tokio::spawn(accept(listener, to, weather.clone(), Arc::clone(&counted)));
        Ok(Self { address, weather, counted, _accepting: AbortOnDropHandle::new(accepting) })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on everything passes so much later, in each direction.
    pub fn delay(&self, by: Duration) {
        self.weather.send_modify(|weather| weather.delay = by);
    }

    /// Nothing passes, and everything stays open; `false` lets what waited go on.
    pub fn freeze(&self, is_frozen: bool) {
        self.weather.send_modify(|weather| weather.is_frozen = is_frozen);
    }

    /// Ends every connection at once. New ones are taken.
    pub fn cut(&self) {
        self.weather.send_modify(|weather| weather.cuts += 1);
    }

    /// Ends every connection, and new ones as they come; `false` takes them again.
    pub fn close(&self, is_closed: bool) {
        self.weather.send_modify(|weather| {
            weather.is_closed = is_closed;
            weather.cuts += u64::from(is_closed);
        });
    }

    /// Changes every piece that passes from now on; `None` changes nothing.
    pub fn edit(&self, edit: Option<Edit>) {
        self.weather.send_modify(|weather| weather.edit = edit);
    }

    /// Holds single pieces back from now on; `None` holds none.
    pub fn hold(&self, hold: Option<Hold>) {
        self.weather.send_modify(|weather| weather.hold = hold);
    }

    /// Connections that are open now.
    #[must_use]
    pub fn open(&self) -> usize {
        self.counted.open.load(Ordering::Relaxed)
    }

    /// Connections that were taken.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.counted.accepted.load(Ordering::Relaxed)
    }

    /// Bytes that passed, in both directions.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.counted.bytes.load(Ordering::Relaxed)
    }
}

async fn accept(
    listener: TcpListener,
    to: SocketAddr,
    weather: watch::Sender<Weather>,
    counted: Arc<Counted>,
) {
    // Dropped with this task: no connection outlives the proxy.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            taken = listener.accept() => {
                let Ok((client, _)) = taken else { continue };
                counted.accepted.fetch_add(1, Ordering::Relaxed);
                let (weather, counted) = (weather.subscribe(), Arc::clone(&counted));
                connections.spawn(async move {
                    counted.open.fetch_add(1, Ordering::Relaxed);
                    serve(client, to, weather, &counted).await;
                    counted.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(client: TcpStream, to: SocketAddr, mut weather: watch::Receiver<Weather>, counted: &Counted) {
    let (cuts, is_closed) = {
        let now = weather.borrow_and_update();
        (now.cuts, now.is_closed)
    };
    if is_closed {
        return;
    }
    let Ok(server) = TcpStream::connect(to).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let gone = Notify::new();
    let there = async {
        if pump(Way::There, from_client, to_server, weather.clone(), counted).await.is_err() {
            gone.notify_one();
        }
    };
    // A client that reads nothing would keep a connection whose server has gone, and never learn of it.
    let back = async {
        tokio::select! {
            _ = pump(Way::Back, from_server, to_client, weather.clone(), counted) => {}
            () = async { gone.notified().await; sleep(LINGER).await } => {}
        }
    };
    let both = async { tokio::join!(there, back) };
    let mut until = weather.clone();
    tokio::select! {
        _ = both => {}
        _ = until.wait_for(|weather| weather.cuts != cuts) => {}
    }
}

/// Whoever was written to takes nothing any more.
struct Gone;

/// Hands on what comes, each piece when it is due.
async fn pump(
    way: Way,
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut weather: watch::Receiver<Weather>,
    counted: &Counted,
) -> Result<(), Gone> {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let delays = weather.clone();
    let reading = async move {
        loop {
            let mut piece = vec![0; PIECE];
            let Ok(length @ 1..) = from.read(&mut piece).await else { return Ok(()) };
            piece.truncate(length);
            let (edit, hold) = {
                let now = delays.borrow();
                (now.edit.clone(), now.hold.clone())
            };
            if let Some(edit) = edit {
                edit(way, &mut piece);
            }
            let held = hold.map_or(Duration::ZERO, |hold| hold(way, &piece));
            let due = Instant::now() + delays.borrow().delay + held;
            if sender.send((due, piece)).await.is_err() {
                return Ok(());
            }
        }
    };
    let writing = async move {
        while let Some((due, piece)) = pieces.recv().await {
            sleep_until(due).await;
            if weather.wait_for(|weather| !weather.is_frozen).await.is_err()
                || to.write_all(&piece).await.is_err()
            {
                return Err(Gone);
            }
            counted.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        // The end of one side is told to the other; the way back stays open.
        let _ = to.shutdown().await;
        Ok(())
    };
    tokio::try_join!(reading, writing).map(|_| ())
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(20);

    /// A proxy before a server that says back what it hears.
    async fn before_an_echo() -> (Proxy, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        let proxy = Proxy::start(address).await.unwrap();
        let client = TcpStream::connect(proxy.address()).await.unwrap();
        (proxy, client)
    }

    async fn say(client: &mut TcpStream, what: &[u8]) -> Vec<u8> {
        client.write_all(what).await.unwrap();
        let mut heard = vec![0; what.len()];
        timeout(LONG, client.read_exact(&mut heard)).await.expect("an echo").unwrap();
        heard
    }

    #[tokio::test]
    async fn what_is_said_passes_late_or_changed_as_told() {
        let (proxy, mut client) = before_an_echo().await;
        assert_eq!(say(&mut client, b"ship").await, b"ship");
        proxy.delay(SOON);
        let begun = Instant::now();
        assert_eq!(say(&mut client, b"late").await, b"late");
        assert!(begun.elapsed() >= SOON * 2, "{:?}", begun.elapsed());
        proxy.delay(Duration::ZERO);
        proxy.edit(Some(Arc::new(|way, piece: &mut Vec<u8>| {
            if way == Way::Back {
                piece.make_ascii_uppercase();
            }
        })));
        assert_eq!(say(&mut client, b"loud").await, b"LOUD");
        proxy.hold(Some(Arc::new(|_, piece| if piece == b"held" { SOON } else { Duration::ZERO })));
        let begun = Instant::now();
        assert_eq!(say(&mut client, b"held").await, b"HELD");
        assert!((SOON..SOON * 20).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        assert_eq!((proxy.accepted(), proxy.open()), (1, 1));
        assert_eq!(proxy.bytes(), 32);
    }

    #[tokio::test]
    async fn what_is_frozen_goes_on_and_what_is_cut_does_not() {
        let (proxy, mut client) = before_an_echo().await;
        assert_eq!(say(&mut client, b"ship").await, b"ship");
        proxy.freeze(true);
        client.write_all(b"wait").await.unwrap();
        let mut heard = [0; 4];
        assert!(timeout(SOON, client.read_exact(&mut heard)).await.is_err(), "it passed");
        proxy.freeze(false);
        timeout(LONG, client.read_exact(&mut heard)).await.expect("it goes on").unwrap();
        assert_eq!(&heard, b"wait");
        proxy.cut();
        let ended = timeout(LONG, client.read(&mut heard)).await.expect("an end");
        assert!(matches!(ended, Ok(0) | Err(_)));
        let mut again = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(say(&mut again, b"ship").await, b"ship");
        proxy.close(true);
        let mut refused = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(matches!(timeout(LONG, refused.read(&mut heard)).await.expect("an end"), Ok(0) | Err(_)));
        drop(proxy);
    }

    #[tokio::test]
    async fn a_client_that_reads_nothing_learns_that_its_server_has_gone() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let proxy = Proxy::start(listener.local_addr().unwrap()).await.unwrap();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let much = vec![0; 1 << 20];
        while timeout(SOON, server.write_all(&much)).await.is_ok() {}
        drop(server);
        let learning = async { while client.write_all(&much).await.is_ok() {} };
        timeout(LONG, learning).await.expect("an end");
    }
}
