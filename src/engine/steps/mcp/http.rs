//! Servers that are there already, over Streamable HTTP: rmcp's transport on a client that follows nothing, asks no
//! proxy and takes no more than a cap.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::Arc,
    time::Duration,
};

use reqwest::{
    Client,
    header::{HeaderName, HeaderValue},
    redirect::Policy,
};
use rmcp::transport::{
    StreamableHttpClientTransport, common::client_side_sse::NeverRetry,
    streamable_http_client::StreamableHttpClientTransportConfig,
};
use rustls::{ClientConfig, RootCertStore};

use super::{pipe::LINE_BYTES_MAX, setting::Hidden};

/// The connection must stand after so long.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Posts at once.
const POSTS_MAX: usize = 16;
/// Of what is not MCP so much is read, to tell an old server from a broken one.
const ERROR_BYTES_MAX: usize = 4 << 10;

/// A way to the server at `url`. Nothing is sent yet.
///
/// # Errors
/// What of the settings cannot be used: names only, never values.
pub(super) fn transport(
    url: &str,
    headers: &BTreeMap<String, Hidden>,
    token_variable: Option<&str>,
) -> io::Result<StreamableHttpClientTransport<Client>> {
    let mut client = Client::builder()
        .redirect(Policy::none())
        .no_proxy()
        .referer(false)
        .connect_timeout(CONNECT_MAX)
        .user_agent(concat!("tmws/", env!("CARGO_PKG_VERSION")));
    // Certificates take a while to read; without TLS nobody looks at them.
    client = client.tls_backend_preconfigured(tls(url.starts_with("https:"))?);
    // The error may quote what it was made of.
    let client = client.build().map_err(|_| io::Error::other("no HTTP client could be made"))?;
    let mut given = HashMap::new();
    for (name, value) in headers {
        let header = HeaderName::try_from(name.as_str())
            .map_err(|_| io::Error::other(format!("`{name}` cannot be the name of a header")))?;
        let mut value = HeaderValue::try_from(value.expose())
            .map_err(|_| io::Error::other(format!("the value of header `{name}` cannot be sent")))?;
        value.set_sensitive(true);
        given.insert(header, value);
    }
    let mut config = StreamableHttpClientTransportConfig::with_uri(url)
        .custom_headers(given)
        .max_concurrent_requests(POSTS_MAX)
        .max_sse_event_size(LINE_BYTES_MAX)
        .max_json_response_size(LINE_BYTES_MAX)
        .max_error_response_size(ERROR_BYTES_MAX)
        // A new session is a new connection here: it lists its tools again.
        .reinit_on_expired_session(false);
    config.retry_config = Arc::new(NeverRetry::default());
    if let Some(variable) = token_variable {
        let token = std::env::var_os(variable).and_then(|token| token.into_string().ok());
        let token = token.filter(|token| HeaderValue::try_from(token.as_str()).is_ok()).ok_or_else(|| {
            io::Error::other(format!(
                "the variable {variable}, which is to hold its token, is not set or no token"
            ))
        })?;
        config = config.auth_header(token);
    }
    Ok(StreamableHttpClientTransport::with_client(client, config))
}

fn tls(is_used: bool) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    if is_used {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(io::Error::other(
                "no root certificate was found on this machine; SSL_CERT_FILE names a file of them",
            ));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
