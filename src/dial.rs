//! Connections to servers: TCP, and TLS where the address says so.

use std::{io, net::Ipv4Addr, net::Ipv6Addr, sync::Arc, time::Duration};

use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

/// A connection must stand within so long.
pub(crate) const DIAL_MAX: Duration = Duration::from_secs(10);

/// A connection to the server as bytes.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Dials one server.
pub(crate) struct Dialer {
    tls: Option<TlsConnector>,
}

impl Dialer {
    /// Reads the machine's root certificates, where TLS is spoken.
    pub(crate) fn new(tls: bool) -> io::Result<Self> {
        if !tls {
            return Ok(Self { tls: None });
        }
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "a root certificate could not be read");
        }
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(io::Error::other(
                "no root certificate was found on this machine; SSL_CERT_FILE names a file of them",
            ));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: Some(Arc::new(config).into()) })
    }

    /// Connects to that host, an address without brackets or a name.
    pub(crate) async fn dial(&self, host: &str, port: u16) -> io::Result<Box<dyn Stream>> {
        let dialled = async {
            let tcp = connect(host, port).await?;
            // Without it every call that leaves in two writes waits for the server's acknowledgement.
            tcp.set_nodelay(true)?;
            Ok(match &self.tls {
                None => Box::new(tcp) as Box<dyn Stream>,
                Some(tls) => {
                    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
                    Box::new(tls.connect(name, tcp).await?)
                }
            })
        };
        tokio::time::timeout(DIAL_MAX, dialled).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// An address needs no resolver, and neither does `localhost` (RFC 6761, 6.3): resolving costs a thread.
async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    if host.eq_ignore_ascii_case("localhost") {
        return match TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await {
            Ok(stream) => Ok(stream),
            Err(error) => TcpStream::connect((Ipv6Addr::LOCALHOST, port)).await.map_err(|_| error),
        };
    }
    TcpStream::connect((host, port)).await
}

/// `text` with its `%XX`; what is none stays as it is.
pub(crate) fn percent_decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        if let (b'%', Some(high), Some(low)) = (first, digit(0), digit(1)) {
            bytes.push((high * 16 + low) as u8);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
