//! TLS from PEM files.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio_rustls::TlsAcceptor;

/// Why TLS cannot be offered. Never holds anything of the key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no certificate in the file.
    #[error("{} holds no certificate in PEM form (`-----BEGIN CERTIFICATE-----`)", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// There is no private key in the file.
    #[error("{} holds no private key in PEM form without a passphrase (`-----BEGIN PRIVATE KEY-----`)", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not belong together, or are of a kind that is not served.
    #[error("{} and {} cannot be used together: {reason}", certificate.display(), key.display())]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// Encrypts with the certificate chain in `cert_pem` (ours first) and the private key in `key_pem`. Both are read now.
///
/// # Errors
/// Which file is wrong, and what about it.
pub fn tls_acceptor(cert_pem: &Path, key_pem: &Path) -> Result<TlsAcceptor, TlsError> {
    let read =
        |path: &Path| fs::read(path).map_err(|source| TlsError::Unreadable { path: path.to_owned(), source });
    let no_certificate = || TlsError::NoCertificate { path: cert_pem.to_owned() };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(cert_pem)?)
        .collect::<Result<_, _>>()
        .map_err(|_| no_certificate())?;
    if chain.is_empty() {
        return Err(no_certificate());
    }
    let key = PrivateKeyDer::from_pem_slice(&read(key_pem)?)
        .map_err(|_| TlsError::NoKey { path: key_pem.to_owned() })?;
    let unusable = |error: rustls::Error| TlsError::Unusable {
        certificate: cert_pem.to_owned(),
        key: key_pem.to_owned(),
        reason: match error {
            rustls::Error::InconsistentKeys(_) => "the key does not match the certificate".to_owned(),
            other => other.to_string(),
        },
    };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
