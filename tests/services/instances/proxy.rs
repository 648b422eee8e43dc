//! A proxy that hands each connection to the next instance that takes it, and nothing else: no session sticks.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

/// A running proxy, ended when dropped.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    backends: Arc<Backends>,
    accepting: JoinHandle<()>,
}

struct Backends {
    addresses: Mutex<Vec<SocketAddr>>,
    next: AtomicUsize,
    /// Connections that each of them took.
    taken: Vec<AtomicUsize>,
}

impl Proxy {
    pub(super) async fn start(addresses: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let taken = addresses.iter().map(|_| AtomicUsize::new(0)).collect();
        let backends =
            Arc::new(Backends { addresses: Mutex::new(addresses), next: AtomicUsize::new(0), taken });
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
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Backends {
    /// Where nobody takes the connection, it is closed without a word.
    async fn serve(&self, mut client: TcpStream) {
        let addresses = self.addresses.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        for number in (0..addresses.len()).map(|n| (first + n) % addresses.len()) {
            let Ok(mut instance) = TcpStream::connect(addresses[number]).await else { continue };
            self.taken[number].fetch_add(1, Ordering::Relaxed);
            let _ = (client.set_nodelay(true), instance.set_nodelay(true));
            // However it ends, both sides see that it did.
            let _ = copy_bidirectional(&mut client, &mut instance).await;
            return;
        }
    }
}
