//! Bodies of answers.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::{
    StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER},
};

use super::{Response, server::Site};
use crate::{
    schema::{Gate, Sealed},
    transport::io::Line,
    wire::{ErrorCode, RequestId, RpcError},
};

/// After how long a request that found no place is worth another try.
const RETRY_AFTER_S: u16 = 1;

/// A stream of events. Dropping it is how hyper says that the client has gone.
pub type Events = Pin<Box<dyn http_body::Body<Data = Bytes, Error = Infallible> + Send>>;

/// The body of an answer.
pub enum Body {
    /// Nothing.
    Empty,
    /// All of it at once.
    Full(Bytes),
    /// An event stream.
    Events(Events),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        match this {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Self::Empty;
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Self::Events(events) => events.as_mut().poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Events(events) => events.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Events(events) => events.size_hint(),
        }
    }
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::Empty);
    *response.status_mut() = status;
    response
}

/// An answer that is one JSON-RPC message.
pub(super) fn json(status: StatusCode, frame: Sealed) -> Response {
    let mut response = Response::new(Body::Full(frame.into_bytes().into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// An answer for people: why a request went no further.
pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Response {
    let mut text = text.into();
    text.push('\n');
    let mut response = Response::new(Body::Full(text.into_bytes().into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Tells nginx and its kin not to hold back events.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// An answer that is a stream of events.
pub(super) fn events(events: Events) -> Response {
    let mut response = Response::new(Body::Events(events));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

/// `Retry-After` of an error that says in its data after how many milliseconds it is worth trying again: whole seconds.
pub(super) fn retry_after(frame: &Sealed) -> HeaderValue {
    let message: Option<serde_json::Value> = serde_json::from_slice(frame.as_bytes()).ok();
    let pause = message.as_ref().and_then(|message| message.pointer("/error/data/retryAfterMs")?.as_u64());
    HeaderValue::from(pause.unwrap_or_default().div_ceil(1_000).max(1))
}

/// Refuses a POST in a way that its client shows: as an error response, with the id where it is known.
pub(super) fn refusal(site: &Site, status: StatusCode, id: Option<&RequestId>, error: &RpcError) -> Response {
    // As in the core: an id that leaves no room in a frame is not repeated.
    let id_bytes_max = site.host.connection_limits.frame_out_bytes_max / 2;
    let id = id.filter(|id| id.token().len() <= id_bytes_max);
    match site.host.gate.seal_error(None, id, error) {
        Ok(frame) => json(status, frame),
        // Without a revision every code may go without an id, so that nothing leads here.
        Err(_) => text(status, error.message.as_str()),
    }
}

/// 503: nothing of the request was carried out, and soon it will be. What tells so is a JSON-RPC error and `Retry-After`.
pub(super) fn unavailable(gate: Gate, reason: &str) -> Response {
    let error = RpcError::new(ErrorCode::InternalError, reason)
        .with_data(serde_json::json!({"retryAfterMs": u64::from(RETRY_AFTER_S) * 1_000}));
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let mut response = match gate.seal_error(None, None, &error) {
        Ok(frame) => json(status, frame),
        // Without a revision every code may go without an id, so that nothing leads here.
        Err(_) => text(status, reason),
    };
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
    response
}

/// Refuses a request before its body was looked at: a POST as an error response without id, others in words.
pub(super) fn refuse(site: &Site, is_post: bool, status: StatusCode, reason: &str) -> Response {
    if is_post {
        refusal(site, status, None, &RpcError::new(ErrorCode::InvalidRequest, reason))
    } else {
        text(status, reason)
    }
}

/// An event stream whose end is the end of its request.
pub(super) struct Tracked {
    pub(super) events: Events,
    pub(super) line: Arc<Line>,
}

impl http_body::Body for Tracked {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.get_mut().events.as_mut().poll_frame(context)
    }
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.line.end();
    }
}
