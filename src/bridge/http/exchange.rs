//! Requests and their connections: reused while they are fresh, one exchange at a time on each.

use std::{cell::RefCell, rc::Rc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response,
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};

use crate::bridge::{
    AGENT_HEADER,
    dial::{DIAL_MAX, Dialer},
    refusal::{self, DialError},
    target::Target,
};

/// A connection that was idle for so long is not used again: the server may be closing it just now.
const IDLE_MAX: Duration = Duration::from_secs(4);
/// Idle connections kept.
const IDLE_COUNT_MAX: usize = 4;
/// Read buffer of one connection.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// A connection.
pub(in crate::bridge) type Sender = SendRequest<Full<Bytes>>;

/// Why there is no response.
pub(super) enum Failed {
    /// Nothing left this machine: the request may be sent later.
    Unsent(String),
    /// The server may have seen it.
    InFlight(String),
}

/// What all requests of a bridge have in common.
pub(super) struct Shared {
    pub(super) target: Rc<Target>,
    pub(super) dialer: Rc<Dialer>,
    pub(super) frame_bytes_max: usize,
    idle: RefCell<Vec<(Instant, Sender)>>,
    /// `Mcp-Session-Id`, where the server gave one.
    pub(super) session: RefCell<Option<HeaderValue>>,
    /// The legacy revision in force.
    pub(super) revision: RefCell<Option<HeaderValue>>,
}

/// Headers that a message brings.
#[derive(Clone, Default)]
pub(super) struct Routing {
    /// `MCP-Protocol-Version`, `Mcp-Method`, `Mcp-Name` of a message of 2026-07-28; empty for a legacy one.
    modern: Vec<(HeaderName, HeaderValue)>,
}

impl Routing {
    /// The mirrored headers of 2026-07-28.
    pub(super) fn modern(version: &str, method: &str, subject: Option<&str>) -> Self {
        let mut modern = Vec::with_capacity(3);
        let mut put = |name, value: &str| {
            if let Ok(value) = HeaderValue::try_from(value) {
                modern.push((HeaderName::from_static(name), value));
            }
        };
        put("mcp-protocol-version", version);
        put("mcp-method", method);
        if let Some(subject) = subject {
            put("mcp-name", &header_text(subject));
        }
        Self { modern }
    }

    pub(super) const fn is_modern(&self) -> bool {
        !self.modern.is_empty()
    }
}

/// `text` as a header carries it: as it is, or as Base64 between sentinels where it could not be read back otherwise.
pub(crate) fn header_text(text: &str) -> String {
    let is_visible = text.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    let is_trimmed = !text.starts_with(' ') && !text.ends_with(' ');
    let looks_encoded = text.starts_with("=?base64?") && text.ends_with("?=");
    if is_visible && is_trimmed && !looks_encoded {
        text.to_owned()
    } else {
        format!("=?base64?{}?=", STANDARD.encode(text))
    }
}

impl Shared {
    pub(super) fn new(target: Rc<Target>, dialer: Rc<Dialer>, frame_bytes_max: usize) -> Self {
        Self {
            target,
            dialer,
            frame_bytes_max,
            idle: RefCell::default(),
            session: RefCell::default(),
            revision: RefCell::default(),
        }
    }

    /// The session is left, to open another.
    pub(super) fn leave(&self) {
        *self.session.borrow_mut() = None;
        *self.revision.borrow_mut() = None;
    }

    /// The session was opened in `revision`.
    pub(super) fn negotiated(&self, revision: &str) {
        *self.revision.borrow_mut() = HeaderValue::try_from(revision).ok();
    }

    /// The session that a message goes under now.
    pub(super) fn session_for(&self, routing: &Routing) -> Option<HeaderValue> {
        if routing.is_modern() { None } else { self.session.borrow().clone() }
    }

    pub(super) fn request(&self, method: Method, routing: &Routing, body: Bytes) -> Request<Full<Bytes>> {
        let has_body = !body.is_empty();
        let is_get = method == Method::GET;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        // What cannot be a path is answered by the server; the address was read by the same parser.
        *request.uri_mut() = self.target.path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        let mut put = |name: HeaderName, value: Option<HeaderValue>| {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        };
        put(HOST, HeaderValue::try_from(&self.target.authority).ok());
        put(AUTHORIZATION, self.target.authorization.clone());
        put(HeaderName::from_static(AGENT_HEADER), self.target.agent.clone());
        let accept = if is_get { "text/event-stream" } else { "application/json, text/event-stream" };
        put(ACCEPT, Some(HeaderValue::from_static(accept)));
        if has_body {
            put(CONTENT_TYPE, Some(HeaderValue::from_static("application/json")));
        }
        if routing.is_modern() {
            for (name, value) in &routing.modern {
                put(name.clone(), Some(value.clone()));
            }
        } else {
            put(HeaderName::from_static("mcp-session-id"), self.session.borrow().clone());
            put(HeaderName::from_static("mcp-protocol-version"), self.revision.borrow().clone());
        }
        request
    }

    /// Sends `request` on an idle connection or a new one. The connection comes back with the response, to be given to
    /// [`Shared::keep`] once the body has been read to its end.
    pub(super) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Sender), Failed> {
        loop {
            let kept = self.take_idle();
            let is_new = kept.is_none();
            let mut sender = match kept {
                Some(sender) => sender,
                None => open(&self.dialer, &self.target)
                    .await
                    .map_err(|error| Failed::Unsent(error.to_string()))?,
            };
            if let Err(error) = sender.ready().await {
                if is_new {
                    return Err(Failed::Unsent(error.to_string()));
                }
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, sender)),
                Err(mut error) => match error.take_message() {
                    Some(_) if is_new => return Err(Failed::Unsent(error.into_error().to_string())),
                    // The idle connection had been closed before anything was written.
                    Some(unsent) => request = unsent,
                    None => {
                        let error = error.into_error();
                        return Err(Failed::InFlight(if error.is_parse() && !self.target.tls {
                            refusal::of_no_http("https")
                        } else {
                            error.to_string()
                        }));
                    }
                },
            }
        }
    }

    /// Takes back a connection whose exchange is over.
    pub(super) fn keep(&self, sender: Sender) {
        let mut idle = self.idle.borrow_mut();
        if !sender.is_closed() && idle.len() < IDLE_COUNT_MAX {
            idle.push((Instant::now(), sender));
        }
    }

    fn take_idle(&self) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|(since, sender)| since.elapsed() < IDLE_MAX && !sender.is_closed());
        idle.pop().map(|(_, sender)| sender)
    }
}

/// A new connection.
pub(in crate::bridge) async fn open(dialer: &Dialer, target: &Target) -> Result<Sender, DialError> {
    let stream = dialer.dial(&target.host, target.port).await?;
    let handshake = http1::Builder::new().max_buf_size(BUFFER_BYTES_MAX).handshake(TokioIo::new(stream));
    let (sender, connection) = timeout(DIAL_MAX, handshake)
        .await
        .map_err(|_| DialError::passing("it did not answer in time"))?
        .map_err(|error| DialError::passing(error.to_string()))?;
    tokio::task::spawn_local(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended early");
        }
    });
    Ok(sender)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_header_cannot_carry_is_encoded() {
        let table = [
            ("execute_pattern", "execute_pattern"),
            ("", ""),
            ("a b", "a b"),
            (" a", "=?base64?IGE=?="),
            ("a ", "=?base64?YSA=?="),
            ("ä", "=?base64?w6Q=?="),
            ("a\nb", "=?base64?YQpi?="),
            ("=?base64?eA==?=", "=?base64?PT9iYXNlNjQ/ZUE9PT89?="),
            ("=?base64?open", "=?base64?open"),
        ];
        for (text, header) in table {
            assert_eq!(header_text(text), header, "{text}");
        }
    }
}
