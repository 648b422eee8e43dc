//! A connection that counts what was read from it after the head of the first response.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::dial::Stream;

/// What ends a head.
const BLANK_LINE: &[u8; 4] = b"\r\n\r\n";

/// A connection, and how much has come on it. By default there is none.
#[derive(Default)]
pub(super) struct Counted {
    io: Option<Box<dyn Stream>>,
    /// Bytes of [`BLANK_LINE`] that came last; all of them once the head has ended.
    matched: usize,
    given: u64,
}

impl Counted {
    pub(super) fn new(io: Box<dyn Stream>) -> Self {
        Self { io: Some(io), ..Self::default() }
    }

    /// Bytes after the head.
    pub(super) const fn given(&self) -> u64 {
        self.given
    }

    fn count(&mut self, bytes: &[u8]) {
        for (at, byte) in bytes.iter().enumerate() {
            if self.matched == BLANK_LINE.len() {
                self.given += (bytes.len() - at) as u64;
                return;
            }
            self.matched = match byte {
                byte if *byte == BLANK_LINE[self.matched] => self.matched + 1,
                b'\r' => 1,
                _ => 0,
            };
        }
    }

    fn io(&mut self) -> io::Result<Pin<&mut Box<dyn Stream>>> {
        self.io.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = self.io()?.poll_read(context, buffer);
        self.count(&buffer.filled()[before..]);
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.io()?.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_after_the_head_is_counted_however_it_is_split() {
        let stream = b"HTTP/1.1 101\r\na: b\r\r\n\r\n12345\r\n\r\n";
        for part in 1..stream.len() {
            let mut counted = Counted::default();
            for bytes in stream.chunks(part) {
                counted.count(bytes);
            }
            assert_eq!(counted.given(), 9, "in parts of {part}");
        }
    }
}
