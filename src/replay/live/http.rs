//! One request of HTTP, on a connection of its own.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue},
};
use hyper_util::rt::TokioIo;
use tokio::{task::AbortHandle, time::timeout};

use super::{Happening, Remote, Teller};
use crate::{
    bridge::http::events::{Event, EventDecoder},
    dial::DIAL_MAX,
    replay::script::{Head, bare_type},
    transcript::REDACTED,
};

/// Largest body or event that is read.
const BODY_BYTES_MAX: usize = 64 << 20;

/// Headers that belong to a connection and not to what the client says on it.
const TRANSPORTS_OWN: &[&str] = &[
    "host",
    "content-length",
    "connection",
    "accept-encoding",
    "transfer-encoding",
    "upgrade",
    "keep-alive",
    "expect",
    "te",
    "trailer",
    "authorization",
    "proxy-authorization",
];

/// Whether the header with this lower-case name is not the client's own, or was a secret.
pub(super) fn is_the_transports_own(name: &str, value: &str) -> bool {
    TRANSPORTS_OWN.contains(&name) || value == REDACTED
}

/// What is asked.
#[derive(Debug)]
pub(in crate::replay) struct Call {
    /// The step that it belongs to; none where the player asks by itself.
    pub(in crate::replay) step: Option<usize>,
    pub(in crate::replay) method: String,
    pub(in crate::replay) path: String,
    pub(in crate::replay) headers: Vec<(String, String)>,
    pub(in crate::replay) body: Option<Vec<u8>>,
}

impl Call {
    /// Stands where no request can be.
    pub(in crate::replay) const fn nothing() -> Self {
        Self { step: None, method: String::new(), path: String::new(), headers: Vec::new(), body: None }
    }

    /// Sends it. Leaving its stream is aborting it.
    pub(in crate::replay) fn send(self, remote: Remote, teller: Teller) -> AbortHandle {
        let task = tokio::spawn(async move {
            let step = self.step;
            let error = self.exchange(&remote, &teller).await.err();
            teller.tell(Happening::Over { step, error });
        });
        task.abort_handle()
    }

    async fn exchange(self, remote: &Remote, teller: &Teller) -> Result<(), String> {
        let step = self.step;
        let target = &remote.target;
        let stream = remote
            .dialer
            .dial(&target.host, target.port)
            .await
            .map_err(|error| format!("it cannot be reached: {error}"))?;
        let handshake = timeout(DIAL_MAX, http1::handshake(TokioIo::new(stream))).await;
        let (mut sender, connection) = handshake
            .map_err(|_| "it did not answer in time".to_owned())?
            .map_err(|error| error.to_string())?;
        let request = self.request(&target.authority, target.authorization.as_ref())?;
        // Both end together: who leaves the stream closes the connection.
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let is_stream = tell_head(step, &response, teller);
            if is_stream {
                events(step, response.into_body(), teller).await
            } else {
                body(step, response.into_body(), teller).await
            }
        };
        tokio::pin!(exchange);
        tokio::select! {
            ended = &mut exchange => ended,
            _ = connection => exchange.await,
        }
    }

    fn request(
        self,
        authority: &str,
        authorization: Option<&HeaderValue>,
    ) -> Result<Request<Full<Bytes>>, String> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::try_from(authority).map_err(|error| error.to_string())?);
        for (name, value) in &self.headers {
            let lower = name.to_ascii_lowercase();
            if is_the_transports_own(&lower, value) {
                continue;
            }
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(lower), HeaderValue::try_from(value)) {
                headers.append(name, value);
            }
        }
        if let Some(authorization) = authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let body = Full::new(Bytes::from(self.body.unwrap_or_default()));
        let request = Request::builder().method(self.method.as_str()).uri(self.path.as_str()).body(body);
        let mut request = request.map_err(|error| format!("it cannot be asked for: {error}"))?;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

/// Tells of the head; whether an event stream follows.
fn tell_head(step: Option<usize>, response: &Response<Incoming>, teller: &Teller) -> bool {
    let text = |name: HeaderName| {
        let value = response.headers().get(name)?;
        value.to_str().ok().map(str::to_owned)
    };
    let content_type = text(CONTENT_TYPE).as_deref().map(bare_type);
    let is_stream = content_type.as_deref() == Some("text/event-stream");
    let session = text(HeaderName::from_static("mcp-session-id"));
    let head = Head { status: response.status().as_u16(), content_type, session };
    teller.tell(Happening::Head { step, head });
    is_stream
}

async fn events(step: Option<usize>, mut body: Incoming, teller: &Teller) -> Result<(), String> {
    let mut decoder = EventDecoder::new(BODY_BYTES_MAX);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("the stream broke: {error}"))?;
        let Ok(data) = frame.into_data() else { continue };
        decoder.push(&data);
        while let Some(event) = decoder.next().map_err(|_| "an event is too long".to_owned())? {
            tell_event(step, &event, teller);
        }
    }
    Ok(())
}

fn tell_event(step: Option<usize>, event: &Event, teller: &Teller) {
    if event.name.as_deref() == Some("endpoint") {
        let path = String::from_utf8_lossy(&event.data).trim().to_owned();
        teller.tell(Happening::Endpoint { path });
    } else if let Some(data) = event.message() {
        teller.tell(Happening::frame(step, data));
    }
}

async fn body(step: Option<usize>, mut body: Incoming, teller: &Teller) -> Result<(), String> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| format!("the body broke: {error}"))?;
        if let Ok(data) = frame.into_data() {
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > BODY_BYTES_MAX {
            return Err("the body is too long".to_owned());
        }
    }
    let frame = Happening::frame(step, &bytes);
    let Happening::Frame { text, .. } = &frame else { return Ok(()) };
    // What is no message is the business of whoever put HTTP there: an error page, metadata.
    let is_message = serde_json::from_str::<serde_json::Value>(text)
        .is_ok_and(|value| value.is_array() || value.get("jsonrpc").is_some());
    if is_message {
        teller.tell(frame);
    }
    Ok(())
}
