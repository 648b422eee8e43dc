//! One WebSocket as messages in and bytes out: tungstenite's state machine between our own read and our own queue.
//!
//! tungstenite reads frames, puts fragments together, checks UTF-8, answers pings and closes. What is to be sent is kept
//! here and not in its buffer: nothing is copied twice or checked again, a burst leaves in one write, what waits can be
//! counted, and no buffer keeps the size of its largest message.

use std::{
    future::poll_fn,
    io::{self, Read, Write},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::{
    Error, Message, Utf8Bytes,
    error::ProtocolError,
    protocol::{
        CloseFrame, Role, WebSocketConfig, WebSocketContext,
        frame::{
            FrameHeader,
            coding::{Data, OpCode},
        },
    },
};
use tracing::debug;

pub use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

/// Read at once; also what an idle connection holds.
const READ_BYTES: usize = 4 << 10;
/// A message from this size on leaves a buffer of its size behind, which is given back.
const READ_BYTES_KEPT: usize = 16 << 10;
/// Room for what is to be sent that is kept between bursts.
const SEND_BYTES_KEPT: usize = 64 << 10;
/// Taken from a peer after the close, at most, so that it gets to read why.
const LINGER_BYTES_MAX: usize = 16 << 20;

/// What has come.
#[derive(Debug)]
pub enum Incoming {
    /// A text message, whole.
    Text(Utf8Bytes),
    /// A binary message, whole.
    Binary(Bytes),
    /// A ping, answered already, or a pong.
    Control,
}

/// Why nothing more will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The peer closed, or answered our close.
    Closed,
    /// The peer broke a rule; the close frame that says so is queued.
    Failed(CloseCode),
    /// The peer is gone without a word.
    Gone,
}

/// The server's end of a WebSocket.
pub struct Socket<S> {
    io: S,
    context: WebSocketContext,
    /// Frames to be sent, those of tungstenite among them.
    queue: Vec<u8>,
    /// Bytes of `queue` that are written already.
    written: usize,
    /// Frames queued since it was empty.
    frames: usize,
    /// Written, but maybe held back by encryption.
    is_unflushed: bool,
    /// Bytes have come since [`Socket::take_heard`].
    heard: bool,
    /// tungstenite's state is of no use any more.
    is_failed: bool,
    /// Bytes that tungstenite was given, and a lower bound of those that it has used up: where they are equal, it holds
    /// none, and its buffer can be let go.
    given: u64,
    used: u64,
    holds_much: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// A WebSocket on `io` after the handshake; `read` are bytes that came with it. A message may have
    /// `message_bytes_max` bytes.
    #[must_use]
    pub fn new(io: S, read: Vec<u8>, message_bytes_max: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(message_bytes_max))
            .max_frame_size(Some(message_bytes_max));
        let given = read.len() as u64;
        let context = if read.is_empty() {
            WebSocketContext::new(Role::Server, Some(config))
        } else {
            WebSocketContext::from_partially_read(read, Role::Server, Some(config))
        };
        Self {
            io,
            context,
            queue: Vec::new(),
            written: 0,
            frames: 0,
            is_unflushed: false,
            heard: false,
            is_failed: false,
            given,
            used: 0,
            holds_much: false,
        }
    }

    /// The next message. On a breach of the protocol the close frame with the code for it is queued.
    pub fn poll_incoming(&mut self, context: &mut Context<'_>) -> Poll<Result<Incoming, Ended>> {
        if self.is_failed {
            return Poll::Ready(Err(Ended::Gone));
        }
        let given = self.given;
        let mut wire = Wire { io: &mut self.io, context, queue: &mut self.queue, given: &mut self.given };
        let message = self.context.read(&mut wire);
        self.heard |= self.given != given;
        let error = match message {
            Ok(Message::Text(text)) => {
                self.count(text.len());
                return Poll::Ready(Ok(Incoming::Text(text)));
            }
            Ok(Message::Binary(bytes)) => {
                self.count(bytes.len());
                return Poll::Ready(Ok(Incoming::Binary(bytes)));
            }
            Ok(Message::Ping(bytes) | Message::Pong(bytes)) => {
                self.count(bytes.len());
                return Poll::Ready(Ok(Incoming::Control));
            }
            Ok(Message::Close(_)) => {
                // The answer to it moves to the queue; that this ends the connection is no news.
                let _ = self.context.flush(&mut Queue(&mut self.queue));
                return Poll::Ready(Err(Ended::Closed));
            }
            // Never given out by reading.
            Ok(Message::Frame(_)) => return Poll::Ready(Ok(Incoming::Control)),
            Err(error) => error,
        };
        let (code, reason) = match &error {
            Error::Io(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.let_go();
                return Poll::Pending;
            }
            Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
                return Poll::Ready(Err(Ended::Gone));
            }
            Error::Protocol(_) => (CloseCode::Protocol, error.to_string()),
            Error::Utf8(_) => (CloseCode::Invalid, "a text message is not UTF-8".to_owned()),
            Error::Capacity(_) => (
                CloseCode::Size,
                format!(
                    "a message may have {} bytes",
                    self.context.get_config().max_message_size.unwrap_or_default()
                ),
            ),
            _ => {
                debug!(%error, "a WebSocket ended");
                return Poll::Ready(Err(Ended::Gone));
            }
        };
        self.fail(code, &reason);
        Poll::Ready(Err(Ended::Failed(code)))
    }

    /// Sends what is queued, and pushes it out.
    ///
    /// # Errors
    /// The peer is gone.
    pub fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.queue.len() {
            let count = ready!(Pin::new(&mut self.io).poll_write(context, &self.queue[self.written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += count;
            self.is_unflushed = true;
        }
        if self.is_unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(context))?;
            self.is_unflushed = false;
        }
        self.queue.clear();
        if self.queue.capacity() > SEND_BYTES_KEPT {
            self.queue = Vec::new();
        }
        self.written = 0;
        self.frames = 0;
        Poll::Ready(Ok(()))
    }

    /// Queues a text message. After a close it is dropped.
    pub fn queue_text(&mut self, text: &[u8]) {
        self.queue_data(Data::Text, text);
    }

    /// Queues a binary message. After a close it is dropped.
    pub fn queue_binary(&mut self, bytes: &[u8]) {
        self.queue_data(Data::Binary, bytes);
    }

    fn queue_data(&mut self, kind: Data, payload: &[u8]) {
        if self.is_failed || !self.context.can_write() {
            return;
        }
        // What is written already makes room, where that is worth the move.
        if self.written > self.queue.len() / 2 && self.written > SEND_BYTES_KEPT {
            self.queue.drain(..self.written);
            self.written = 0;
        }
        let header = FrameHeader { opcode: OpCode::Data(kind), ..FrameHeader::default() };
        self.queue.reserve(header.len(payload.len() as u64) + payload.len());
        let formatted = header.format(payload.len() as u64, &mut self.queue);
        debug_assert!(formatted.is_ok(), "a vector takes what it is given");
        self.queue.extend_from_slice(payload);
        self.frames += 1;
    }

    /// Queues a ping.
    pub fn queue_ping(&mut self) {
        let _ = self.context.write(&mut Queue(&mut self.queue), Message::Ping(Bytes::new()));
    }

    /// Queues the close; nothing can be queued after it.
    pub fn close(&mut self, code: CloseCode, reason: &str) {
        let frame = CloseFrame { code, reason: Utf8Bytes::from(bounded(reason)) };
        let _ = self.context.close(&mut Queue(&mut self.queue), Some(frame));
    }

    /// The same because of something that the peer did: it is not listened to any more.
    pub fn fail(&mut self, code: CloseCode, reason: &str) {
        self.close(code, reason);
        self.is_failed = true;
    }

    /// Bytes that wait to be sent.
    #[must_use]
    pub const fn unsent_bytes(&self) -> usize {
        self.queue.len() - self.written
    }

    /// Messages queued since the queue was empty.
    #[must_use]
    pub const fn unsent_frames(&self) -> usize {
        self.frames
    }

    /// Whether bytes have come since this was asked last.
    pub const fn take_heard(&mut self) -> bool {
        std::mem::replace(&mut self.heard, false)
    }

    /// Lets go of what only a busy connection needs.
    pub fn rest(&mut self) {
        if self.queue.is_empty() {
            self.queue = Vec::new();
        }
    }

    /// Sends what is queued, waits for the peer's close where ours came first, and takes the connection down; all of it
    /// within `limit`.
    pub async fn finish(&mut self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.finish_orderly()).await;
    }

    async fn finish_orderly(&mut self) -> io::Result<()> {
        poll_fn(|context| self.poll_send(context)).await?;
        while poll_fn(|context| self.poll_incoming(context)).await.is_ok() {}
        poll_fn(|context| self.poll_send(context)).await?;
        poll_fn(|context| Pin::new(&mut self.io).poll_shutdown(context)).await?;
        // Bytes left unread would make the system reset the connection, and the reset overtake what we said last.
        let mut bytes = [0; READ_BYTES];
        let mut taken = 0;
        while taken < LINGER_BYTES_MAX {
            let mut buffer = ReadBuf::new(&mut bytes);
            poll_fn(|context| Pin::new(&mut self.io).poll_read(context, &mut buffer)).await?;
            if buffer.filled().is_empty() {
                break;
            }
            taken += buffer.filled().len();
        }
        Ok(())
    }

    /// A message of `payload` bytes was used up. Its header is counted as if it had come in one frame, with the shortest
    /// length: never more than it was.
    const fn count(&mut self, payload: usize) {
        let header = match payload {
            0..126 => 6,
            126..65_536 => 8,
            _ => 14,
        };
        self.used += header + payload as u64;
        if payload >= READ_BYTES_KEPT {
            self.holds_much = true;
        }
    }

    /// After a large message tungstenite keeps a buffer of its size; a new state starts with a small one. That is only
    /// done where nothing of it is needed: between messages, without a byte of the next one.
    fn let_go(&mut self) {
        if self.holds_much && self.given == self.used && self.context.can_write() {
            let config = *self.context.get_config();
            self.context = WebSocketContext::new(Role::Server, Some(config));
            self.holds_much = false;
        }
    }
}

/// A reason fits a close frame: 123 bytes.
fn bounded(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(123)]
}

/// What tungstenite reads from and writes to: the connection, and the queue.
struct Wire<'a, 'c, S> {
    io: &'a mut S,
    context: &'a mut Context<'c>,
    queue: &'a mut Vec<u8>,
    given: &'a mut u64,
}

impl<S: AsyncRead + Unpin> Read for Wire<'_, '_, S> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(bytes);
        match Pin::new(&mut *self.io).poll_read(self.context, &mut buffer) {
            Poll::Ready(result) => {
                result?;
                let count = buffer.filled().len();
                *self.given += count as u64;
                Ok(count)
            }
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl<S> Write for Wire<'_, '_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.queue.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The queue alone.
struct Queue<'a>(&'a mut Vec<u8>);

impl Read for Queue<'_> {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl Write for Queue<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
