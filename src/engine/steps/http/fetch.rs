//! One request to one host: its addresses, the connection, the answer.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{
    Request,
    client::conn::http1,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use reqwest::Url;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::{
    Http,
    address::{Reach, reach},
    host_of,
};
use crate::{
    engine::{
        ErrorKind,
        steps::{StepError, span},
    },
    pattern::host::normal,
    resilience::retry_after,
};

/// A connection, with its encryption, must stand within so long.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// One of several addresses is given so long.
const ADDRESS_MAX: Duration = Duration::from_secs(4);
/// The head of the answer must have come within so long.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// Longest time without a byte of content.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Addresses of one host that are tried.
const ADDRESSES_TRIED: usize = 4;
/// Head of an answer, in bytes and lines.
const HEAD_BYTES_MAX: usize = 64 << 10;
const HEAD_LINES_MAX: usize = 128;
/// Longest content type and the like that is passed on, in characters.
const HEADER_CHARS_MAX: usize = 120;

/// An answer.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) url: Url,
    pub(super) status: u16,
    pub(super) content_type: Option<String>,
    /// How the content is packed, where it is.
    pub(super) encoding: Option<String>,
    /// Where a redirect leads; then there is no content.
    pub(super) location: Option<HeaderValue>,
    pub(super) body: Vec<u8>,
    /// There was more.
    pub(super) truncated: bool,
    /// It asks to be asked again after so long.
    pub(super) retry_after: Option<Duration>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Asks for `url`, and takes at most `bytes_max` bytes of content. Follows nothing. `is_connected` becomes whether the host
/// was reached.
pub(super) async fn fetch(
    http: &Http,
    url: Url,
    accept: &str,
    bytes_max: usize,
    is_connected: &mut bool,
) -> Result<Fetched, StepError> {
    let failed = |what: &str| StepError::new(ErrorKind::ProgramFailed, format!("{} {what}", host_of(&url)));
    let stream = timeout(CONNECT_MAX, connect(http, &url))
        .await
        .map_err(|_| failed("could not be reached within 10 s"))??;
    *is_connected = true;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEAD_LINES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|_| failed("could not be asked"))?;
    // Ends with this function, however that ends.
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = request(&url, accept).map_err(|()| failed("cannot be asked for that URL"))?;
    let response = timeout(HEAD_MAX, sender.send_request(request))
        .await
        .map_err(|_| failed("gave no answer within 10 s"))?
        .map_err(|error| failed(complaint(&error)))?;
    let (head, mut content) = response.into_parts();
    let mut fetched = Fetched {
        status: head.status.as_u16(),
        content_type: shown(&head.headers, header::CONTENT_TYPE),
        encoding: shown(&head.headers, header::CONTENT_ENCODING).filter(|text| text != "identity"),
        location: None,
        body: Vec::new(),
        truncated: false,
        retry_after: retry_after(&head.headers, Timestamp::now()),
        url: url.clone(),
    };
    if matches!(fetched.status, 301 | 302 | 303 | 307 | 308)
        && let Some(location) = head.headers.get(header::LOCATION)
    {
        fetched.location = Some(location.clone());
        return Ok(fetched);
    }
    loop {
        let frame = timeout(SILENCE_MAX, content.frame())
            .await
            .map_err(|_| failed("stopped in the middle of its answer"))?;
        let Some(frame) = frame else { return Ok(fetched) };
        let frame = frame.map_err(|error| failed(complaint(&error)))?;
        let Some(data) = frame.data_ref() else { continue };
        let room = bytes_max - fetched.body.len();
        fetched.body.extend_from_slice(&data[..data.len().min(room)]);
        if data.len() > room {
            fetched.truncated = true;
            return Ok(fetched);
        }
    }
}

/// A connection to one of the host's addresses, after all of them were looked at.
async fn connect(http: &Http, url: &Url) -> Result<Box<dyn Stream>, StepError> {
    let failed = |what: String| StepError::new(ErrorKind::ProgramFailed, format!("{} {what}", host_of(url)));
    let addresses = addresses(http, url).await?;
    let port = url.port_or_known_default().unwrap_or(80);
    let mut last = io::ErrorKind::NotConnected;
    let mut connected = None;
    for address in addresses.iter().take(ADDRESSES_TRIED) {
        match timeout(ADDRESS_MAX, TcpStream::connect(SocketAddr::new(*address, port))).await {
            Ok(Ok(stream)) => {
                connected = Some(stream);
                break;
            }
            Ok(Err(error)) => last = error.kind(),
            Err(_) => last = io::ErrorKind::TimedOut,
        }
    }
    let stream = connected.ok_or_else(|| failed(format!("cannot be reached: {last}")))?;
    if url.scheme() == "http" {
        return Ok(Box::new(stream));
    }
    let name = normal(url.host_str().unwrap_or_default());
    let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(name).map_err(|_| failed("has no name that TLS knows".to_owned()))?;
    let tls = http.tls().await.map_err(|error| failed(format!("cannot be reached by TLS: {error}")))?;
    let stream = TlsConnector::from(tls)
        .connect(name, stream)
        .await
        .map_err(|error| failed(format!("cannot be trusted by TLS: {error}")))?;
    Ok(Box::new(stream))
}

/// The addresses of the host of `url`, each of which may be reached.
async fn addresses(http: &Http, url: &Url) -> Result<Vec<IpAddr>, StepError> {
    let named = host_of(url);
    let host = normal(url.host_str().unwrap_or_default());
    // A name may be an address with a last dot.
    let literal = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let mut addresses = match literal {
        Ok(address) => vec![address],
        Err(_) => http.names.addresses(&host).await.map_err(|_| {
            StepError::new(ErrorKind::ProgramFailed, format!("{named} has no address that could be found"))
        })?,
    };
    addresses.dedup();
    if addresses.is_empty() {
        return Err(StepError::new(ErrorKind::ProgramFailed, format!("{named} has no address")));
    }
    for address in &addresses {
        let (what, advice) = match reach(*address) {
            Reach::Public => continue,
            Reach::Private(_) if http.allows_private(url) => continue,
            Reach::Private(what) => (what, "; the user's setting http.private_hosts may name it"),
            Reach::Never(what) => (what, ""),
        };
        return Err(StepError::new(
            ErrorKind::Denied,
            format!("{named} is at {address}, {what}, which http.get does not reach{advice}"),
        ));
    }
    Ok(addresses)
}

fn request(url: &Url, accept: &str) -> Result<Request<Empty<Bytes>>, ()> {
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let request = match span::current() {
        None => Request::get(target),
        Some(span) => Request::get(target).header("traceparent", span.to_string()),
    };
    request
        .header(header::HOST, host_of(url))
        .header(header::USER_AGENT, concat!("tmws/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, accept)
        .header(header::ACCEPT_ENCODING, "identity")
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(drop)
}

/// A header as it may be shown.
fn shown(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let text = String::from_utf8_lossy(headers.get(name)?.as_bytes()).into_owned();
    Some(text.chars().filter(|char| !char.is_control()).take(HEADER_CHARS_MAX).collect())
}

fn complaint(error: &hyper::Error) -> &'static str {
    if error.is_incomplete_message() {
        "closed the connection before its answer was whole"
    } else if error.is_parse_too_large() {
        "answered with a head that is too large"
    } else if error.is_parse() {
        "answered with something that is not HTTP"
    } else {
        "broke the connection off"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{engine::steps::traced, trace::TraceContext};

    #[tokio::test]
    async fn a_request_says_whose_it_is_where_there_is_a_trace() {
        let url = Url::parse("http://docs.example/page?q=1").expect("an address");
        let span = TraceContext::root();
        let traced = traced(Some(span.clone()), async { request(&url, "*/*") }).await.expect("a request");
        assert_eq!(traced.headers()["traceparent"], span.to_string());
        let plain = request(&url, "*/*").expect("a request");
        assert!(!plain.headers().contains_key("traceparent"));
        assert_eq!(plain.uri(), "/page?q=1");
    }
}
