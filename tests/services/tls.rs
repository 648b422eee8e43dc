//! TLS before a server that has none: it takes PostgreSQL's request for it, and passes on what comes inside.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// What a client sends that wants TLS: <https://www.postgresql.org/docs/current/protocol-message-formats.html>
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

fn acceptor() -> TlsAcceptor {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/tls");
    let certificates = CertificateDer::pem_file_iter(format!("{folder}/cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(format!("{folder}/key.pem")).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates.map(Result::unwrap).collect(), key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// The port of `address` where it listens for connections to `server`, and how many were encrypted.
pub(crate) async fn in_front_of(server: String, address: &str) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (acceptor, handshakes) = (acceptor(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&handshakes);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (acceptor, server, count) = (acceptor.clone(), server.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                let mut request = [0; SSL_REQUEST.len()];
                // Whoever wants no TLS is turned away.
                if client.read_exact(&mut request).await.is_err() || request != SSL_REQUEST {
                    return;
                }
                client.write_all(b"S").await.unwrap();
                let Ok(mut client) = acceptor.accept(client).await else { return };
                count.fetch_add(1, Ordering::SeqCst);
                let mut server = TcpStream::connect(server).await.unwrap();
                // Either end may close as it likes.
                let _ = copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (port, handshakes)
}
