//! Heads as they were sent: names in their case and order, which HTTP's meaning has no use for and hyper does not keep.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use hyper::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A head is looked for in so many bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// Names and values.
pub(super) type Fields = Vec<(String, String)>;

/// The head that came last on a connection.
#[derive(Clone, Default)]
pub(super) struct Heads(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    bytes: Vec<u8>,
    /// The head is whole; what comes now is a body.
    is_whole: bool,
}

impl Heads {
    fn push(&self, bytes: &[u8]) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.is_whole || seen.bytes.len() >= HEAD_BYTES_MAX {
            return;
        }
        let from = seen.bytes.len().saturating_sub(3);
        seen.bytes.extend_from_slice(bytes);
        if let Some(end) = seen.bytes[from..].windows(4).position(|four| four == b"\r\n\r\n") {
            seen.bytes.truncate(from + end + 2);
            // What the server says in between is not its answer.
            if seen.bytes.starts_with(b"HTTP/1.1 1") && !seen.bytes.starts_with(b"HTTP/1.1 101") {
                seen.bytes.clear();
            } else {
                seen.is_whole = true;
            }
        }
    }

    /// What comes next is a head.
    pub(super) fn expect(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Seen::default();
    }

    /// The head's fields, as sent; in lower case where that cannot be told.
    pub(super) fn fields(&self, headers: &HeaderMap) -> Fields {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&seen.bytes);
        let fields: Fields = text
            .split("\r\n")
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let is_this = seen.is_whole
            && fields.len() == headers.len()
            && fields.iter().all(|(name, _)| headers.contains_key(name));
        if is_this {
            return fields;
        }
        let text =
            |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
    }
}

/// A connection whose heads are looked at as they are read.
pub(super) struct Watched<S> {
    pub(super) io: S,
    pub(super) heads: Heads,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(context, buffer);
        if matches!(polled, Poll::Ready(Ok(()))) {
            self.heads.push(&buffer.filled()[before..]);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
