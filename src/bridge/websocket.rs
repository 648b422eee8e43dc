//! The WebSocket side: one text frame per message.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt as _, Sink as _, Stream as _};
use hyper::{
    StatusCode,
    header::{AUTHORIZATION, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL},
};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        Error, Message, Utf8Bytes,
        client::IntoClientRequest as _,
        error::ProtocolError,
        protocol::{CloseFrame, Role, WebSocketConfig, frame::coding::CloseCode},
    },
};

use super::{
    AGENT_HEADER,
    counted::Counted,
    dial::{DIAL_MAX, Dialer},
    refusal::{self, DialError},
    target::Target,
};

const READ_BUFFER_BYTES: usize = 4 << 10;
const WRITE_BUFFER_BYTES: usize = 8 << 10;
/// A message from this size on, either way, leaves a buffer of its size behind, which is given back.
const BYTES_KEPT: usize = 16 << 10;
/// Beyond so many unsent bytes nothing more is taken from the host.
const UNSENT_BYTES_MAX: usize = 256 << 10;
/// A connection that has been silent for so long is pinged, and given up after as long again.
const PING_AFTER: Duration = Duration::from_secs(30);
/// The server's answer to our close is waited for so long.
const CLOSE_MAX: Duration = Duration::from_millis(100);

/// Why a message was not taken.
pub(super) struct NotTaken {
    pub(super) why: String,
    /// The message, where nothing of it can have left.
    pub(super) unsent: Option<Vec<u8>>,
}

/// An open WebSocket.
pub(super) struct Socket {
    stream: WebSocketStream<Counted>,
    /// Bytes handed over since everything had been written last.
    unsent: usize,
    /// The last message, or our ping after it.
    quiet_since: Instant,
    is_pinged: bool,
    /// Why the server closed, once it said so.
    closed: Option<String>,
    /// A lower bound of the bytes that messages so far were read from: where it is all that came, nothing is held.
    used: u64,
    holds_much: bool,
    /// The end of the conversation has begun.
    is_closing: bool,
}

impl Socket {
    /// Connects and upgrades. A message of the server's may have `message_bytes_max`.
    pub(super) async fn open(
        dialer: &Dialer,
        target: &Target,
        message_bytes_max: usize,
    ) -> Result<Self, DialError> {
        let stream = Counted::new(dialer.dial(&target.host, target.port).await?);
        let scheme = if target.tls { "wss" } else { "ws" };
        let mut request = format!("{scheme}://{}{}", target.authority, target.path)
            .into_client_request()
            .map_err(|error| refused(&error))?;
        let headers = request.headers_mut();
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static("mcp"));
        if let Some(authorization) = &target.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        if let Some(agent) = &target.agent {
            headers.insert(HeaderName::from_static(AGENT_HEADER), agent.clone());
        }
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_message_size(Some(message_bytes_max))
            .max_frame_size(Some(message_bytes_max));
        let upgrade = client_async_with_config(request, stream, Some(config));
        let (stream, _) = timeout(DIAL_MAX, upgrade)
            .await
            .map_err(|_| DialError::passing("it did not answer the WebSocket handshake"))?
            .map_err(|error| match error {
                Error::Http(response) => {
                    let body = response.body().as_deref().unwrap_or_default();
                    let (status, headers) = (response.status(), response.headers());
                    let text = refusal::of_status(status, headers, body, target.token_origin);
                    // It ends, has no room, or stands behind a proxy that finds none: soon there may be one.
                    let is_passing = matches!(
                        status,
                        StatusCode::BAD_GATEWAY
                            | StatusCode::SERVICE_UNAVAILABLE
                            | StatusCode::GATEWAY_TIMEOUT
                    );
                    if is_passing { DialError::passing(text) } else { DialError::refused(text) }
                }
                Error::Protocol(ProtocolError::HttparseError(_)) if !target.tls => {
                    DialError::refused(refusal::of_no_http("wss"))
                }
                other => refused(&other),
            })?;
        Ok(Self {
            stream,
            unsent: 0,
            quiet_since: Instant::now(),
            is_pinged: false,
            closed: None,
            used: 0,
            holds_much: false,
            is_closing: false,
        })
    }

    /// Whether more may be sent.
    pub(super) const fn has_room(&self) -> bool {
        self.unsent < UNSENT_BYTES_MAX
    }

    /// Whether all that was sent has been written.
    pub(super) const fn is_flushed(&self) -> bool {
        self.unsent == 0
    }

    /// Hands one message over; [`Socket::next`] writes it.
    ///
    /// # Errors
    /// The connection is over.
    pub(super) fn send(&mut self, frame: Vec<u8>) -> Result<(), NotTaken> {
        if self.is_closing {
            let why = self.closed.take().unwrap_or_else(|| "the server closed it".to_owned());
            return Err(NotTaken { why, unsent: Some(frame) });
        }
        let Ok(text) = String::from_utf8(frame) else {
            tracing::warn!("the host sent a line that is not UTF-8; no WebSocket can carry it");
            return Ok(());
        };
        self.unsent += text.len();
        self.holds_much |= text.len() >= BYTES_KEPT;
        self.start(Message::text(text)).map_err(|why| NotTaken { why, unsent: None })
    }

    fn start(&mut self, message: Message) -> Result<(), String> {
        self.unsent += 1;
        Pin::new(&mut self.stream).start_send(message).map_err(|error| error.to_string())
    }

    /// Writes what waits and reads the next message. Losing the future loses nothing.
    ///
    /// # Errors
    /// Why the connection is over.
    pub(super) async fn next(&mut self) -> Result<Utf8Bytes, String> {
        loop {
            let due = self.quiet_since + PING_AFTER;
            match timeout_at(due, std::future::poll_fn(|context| self.poll(context))).await {
                Err(_) if self.is_pinged => return Err("nothing was heard from it for a minute".to_owned()),
                Err(_) => {
                    self.start(Message::Ping(Vec::new().into()))?;
                    self.is_pinged = true;
                    self.quiet_since = Instant::now();
                }
                Ok(Some(Ok(message))) => {
                    self.quiet_since = Instant::now();
                    self.is_pinged = false;
                    self.count(&message);
                    match message {
                        Message::Text(text) => return Ok(text),
                        Message::Binary(_) => {
                            tracing::warn!("the server sent a binary message; it was dropped");
                        }
                        Message::Close(frame) => self.closed = Some(reason(frame.as_ref())),
                        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
                    }
                }
                Ok(None | Some(Err(Error::ConnectionClosed | Error::AlreadyClosed))) => {
                    return Err(self.closed.take().unwrap_or_else(|| "the server closed it".to_owned()));
                }
                Ok(Some(Err(error))) => {
                    return Err(self.closed.take().unwrap_or_else(|| error.to_string()));
                }
            }
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Message, Error>>> {
        if self.unsent > 0 {
            match Pin::new(&mut self.stream).poll_flush(context) {
                Poll::Ready(Ok(())) => self.unsent = 0,
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                Poll::Pending => {}
            }
        }
        let next = Pin::new(&mut self.stream).poll_next(context);
        if next.is_pending() && self.let_go(context) {
            return Pin::new(&mut self.stream).poll_next(context);
        }
        next
    }

    /// A message was used up. Its header is counted as if it had come in one frame, with the shortest length: never more
    /// than it was.
    fn count(&mut self, message: &Message) {
        self.is_closing |= message.is_close();
        let header = match message.len() {
            0..126 => 2,
            126..65_536 => 4,
            _ => 10,
        };
        self.used += header + message.len() as u64;
        self.holds_much |= message.len() >= BYTES_KEPT;
    }

    /// After a large message tungstenite keeps buffers of its size; a new state starts with small ones. That is only
    /// done where nothing of it is needed: between messages, without a byte of the next one, and with nothing to write.
    /// Whether it was done; then the connection must be polled again.
    fn let_go(&mut self, context: &mut Context<'_>) -> bool {
        let is_between = self.unsent == 0 && !self.is_closing && self.stream.get_ref().given() == self.used;
        if !self.holds_much
            || !is_between
            || !matches!(Pin::new(&mut self.stream).poll_flush(context), Poll::Ready(Ok(())))
        {
            return false;
        }
        let config = *self.stream.get_config();
        let fresh = WebSocketStream::from_raw_socket(Counted::default(), Role::Client, Some(config));
        // There is nothing to wait for: no handshake comes first.
        let Some(mut fresh) = fresh.now_or_never() else { return false };
        std::mem::swap(fresh.get_mut(), self.stream.get_mut());
        self.stream = fresh;
        self.holds_much = false;
        true
    }

    /// Says goodbye.
    pub(super) async fn close(mut self) {
        self.is_closing = true;
        let goodbye = async {
            let frame = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
            if self.stream.close(Some(frame)).await.is_ok() {
                loop {
                    match std::future::poll_fn(|context| self.poll(context)).await {
                        Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                        Some(Ok(_)) => {}
                    }
                }
            }
        };
        // Best effort: the end of the TCP connection says the same.
        let _ = timeout(CLOSE_MAX, goodbye).await;
    }
}

fn refused(error: &Error) -> DialError {
    DialError::passing(format!("the WebSocket handshake failed: {error}"))
}

fn reason(frame: Option<&CloseFrame>) -> String {
    match frame {
        Some(frame) if frame.reason.is_empty() => format!("the server closed it ({})", u16::from(frame.code)),
        Some(frame) => format!("the server closed it ({}: {})", u16::from(frame.code), frame.reason),
        None => "the server closed it".to_owned(),
    }
}
