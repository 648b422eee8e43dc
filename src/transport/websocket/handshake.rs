//! The opening handshake, on a request that hyper has read (RFC 6455, section 4.2).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    header::{
        ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT,
        SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::transport::http::Body;

/// The version of the protocol that RFC 6455 defines.
const VERSION: &str = "13";
/// Bytes of a key, decoded.
const KEY_BYTES: usize = 16;
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const UPGRADE_TOKEN: HeaderValue = HeaderValue::from_static("Upgrade");

/// Why a handshake goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// 405
    #[error("a WebSocket is opened with GET")]
    Method,
    /// 426
    #[error(
        "this is a WebSocket endpoint: send `Connection: Upgrade` and `Upgrade: websocket` (MCP over HTTP is at /mcp)"
    )]
    NoUpgrade,
    /// 426
    #[error("only version 13 of WebSocket is spoken here: send `Sec-WebSocket-Version: 13`")]
    Version,
    /// 400
    #[error("a handshake has one `Sec-WebSocket-Key`: 16 random bytes in base64 (24 characters)")]
    Key,
    /// 400
    #[error("a WebSocket is opened over HTTP/1.1, by a request without body")]
    Shape,
    /// 503
    #[error("the server is stopping: connect again in a moment")]
    Stopping,
}

impl HandshakeError {
    const fn status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoUpgrade | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::Key | Self::Shape => StatusCode::BAD_REQUEST,
            Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The answer, with a text for whoever reads it.
    #[must_use]
    pub fn response(self) -> Response<Body> {
        let mut response = Response::new(Body::Full(format!("{self}\n").into()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        match self {
            Self::Method => {
                headers.insert(ALLOW, HeaderValue::from_static("GET"));
            }
            Self::NoUpgrade | Self::Version => {
                headers.insert(UPGRADE, WEBSOCKET);
                headers.insert(CONNECTION, UPGRADE_TOKEN);
                headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
            }
            Self::Stopping => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::Key | Self::Shape => {}
        }
        response
    }
}

/// A handshake that was found good.
#[derive(Debug)]
pub struct Handshake {
    accept: String,
    subprotocol: Option<&'static str>,
}

impl Handshake {
    /// Checks the request. `subprotocol` is selected exactly when the client offers it; no other ever is. Extensions are
    /// not answered, which declines them.
    ///
    /// # Errors
    /// [`HandshakeError`], by the first rule that the request offends.
    pub fn check<B: http_body::Body>(
        request: &Request<B>,
        subprotocol: &'static str,
    ) -> Result<Self, HandshakeError> {
        if request.method() != Method::GET {
            return Err(HandshakeError::Method);
        }
        if request.version() != Version::HTTP_11 || !request.body().is_end_stream() {
            return Err(HandshakeError::Shape);
        }
        let headers = request.headers();
        if !lists(headers, &CONNECTION, "upgrade") || !lists(headers, &UPGRADE, "websocket") {
            return Err(HandshakeError::NoUpgrade);
        }
        if single(headers, &SEC_WEBSOCKET_VERSION) != Some(VERSION) {
            return Err(HandshakeError::Version);
        }
        let key = single(headers, &SEC_WEBSOCKET_KEY).ok_or(HandshakeError::Key)?;
        let is_good = STANDARD.decode(key).is_ok_and(|bytes| bytes.len() == KEY_BYTES);
        if !is_good {
            return Err(HandshakeError::Key);
        }
        // Names of subprotocols are compared exactly (RFC 6455, section 4.2.2).
        let is_offered = tokens(headers, &SEC_WEBSOCKET_PROTOCOL).any(|name| name == subprotocol);
        Ok(Self { accept: derive_accept_key(key.as_bytes()), subprotocol: is_offered.then_some(subprotocol) })
    }

    /// 101.
    #[must_use]
    pub fn response(self) -> Response<Body> {
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, UPGRADE_TOKEN);
        headers.insert(UPGRADE, WEBSOCKET);
        if let Ok(accept) = HeaderValue::try_from(self.accept) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(name) = self.subprotocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
        }
        response
    }
}

/// The entries of a list header, over all its lines.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
}

fn lists(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|entry| entry.eq_ignore_ascii_case(token))
}

/// The value of a header that must stand there once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut lines = headers.get_all(name).iter();
    let line = lines.next()?.to_str().ok()?.trim();
    lines.next().is_none().then_some(line)
}
