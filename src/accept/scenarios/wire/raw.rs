//! A connection as bytes: handshakes that are not as they should be, frames that break the rules of WebSocket, and clients
//! that do not read.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf, split},
    time::timeout,
};

use crate::{
    accept::{client::Target, scenario::Broken},
    dial::{Dialer, Stream},
};

/// An answer to a handshake comes within this.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// What follows an answer comes within this.
const REST_WAIT: Duration = Duration::from_millis(50);
const HEAD_BYTES_MAX: usize = 64 << 10;
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// What a server said to a request.
#[derive(Clone, Debug, Default)]
pub(super) struct Head {
    pub(super) status: u16,
    /// Lines of its head, as they came.
    pub(super) lines: Vec<String>,
}

impl Head {
    /// The value of a header.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.lines.iter().find_map(|line| {
            let (known, value) = line.split_once(':')?;
            known.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// A connection.
pub(super) struct Raw {
    reading: ReadHalf<Box<dyn Stream>>,
    writing: WriteHalf<Box<dyn Stream>>,
    come: Vec<u8>,
}

impl Raw {
    /// Connects, and says nothing.
    pub(super) async fn connect(target: &Target) -> Result<Self, Broken> {
        let broken = |error: io::Error| {
            Broken::new(format!("connecting to {}", target.authority()), "a connection", error)
        };
        let dialer = Dialer::new(target.is_tls).map_err(broken)?;
        let stream = dialer.dial(&target.host, target.port).await.map_err(broken)?;
        let (reading, writing) = split(stream);
        Ok(Self { reading, writing, come: Vec::new() })
    }

    /// Opens a WebSocket as a client does.
    pub(super) async fn open(target: &Target) -> Result<Self, Broken> {
        let mut raw = Self::connect(target).await?;
        let head = raw.request(&upgrade(target, &[])).await?;
        if head.status == 101 {
            return Ok(raw);
        }
        Err(Broken::new("opening a WebSocket", "101", head.status))
    }

    /// Sends the bytes of a request: the head of its answer.
    pub(super) async fn request(&mut self, bytes: &[u8]) -> Result<Head, Broken> {
        let broken = |seen: &dyn std::fmt::Display| Broken::new("asking over HTTP", "an answer", seen);
        let exchange = async {
            self.writing.write_all(bytes).await?;
            loop {
                if let Some(end) = self.come.windows(4).position(|window| window == b"\r\n\r\n") {
                    let head = String::from_utf8_lossy(&self.come[..end]).into_owned();
                    self.come.drain(..end + 4);
                    return Ok(head);
                }
                if self.come.len() > HEAD_BYTES_MAX || self.reading.read_buf(&mut self.come).await? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                }
            }
        };
        let head = match timeout(ANSWER_MAX, exchange).await {
            Ok(Ok(head)) => head,
            Ok(Err(error)) => return Err(broken(&error)),
            Err(_) => return Err(broken(&"nothing in time")),
        };
        let mut lines = head.lines().map(str::to_owned);
        let status = lines.next().unwrap_or_default();
        let status = status.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        Ok(Head { status, lines: lines.collect() })
    }

    /// Writes bytes.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.writing.write_all(bytes).await
    }

    /// The code of the close that comes within this time; 0 for an end without one, `None` where it stays open.
    pub(super) async fn closed(&mut self, within: Duration) -> Option<u16> {
        timeout(within, async {
            loop {
                while let Some((opcode, payload, length)) = first_frame(&self.come) {
                    if opcode == 0x8 {
                        return payload.first_chunk::<2>().map_or(1005, |code| u16::from_be_bytes(*code));
                    }
                    self.come.drain(..length);
                }
                match self.reading.read_buf(&mut self.come).await {
                    Ok(read) if read > 0 => {}
                    _ => return 0,
                }
            }
        })
        .await
        .ok()
    }

    /// What follows the head, as far as it comes at once.
    pub(super) async fn rest(&mut self) -> String {
        let reading = async {
            while self.come.len() < HEAD_BYTES_MAX
                && self.reading.read_buf(&mut self.come).await.is_ok_and(|read| read > 0)
            {}
        };
        // A connection that is kept alive stays open: what was said in error would have come by then.
        let _ = timeout(REST_WAIT, reading).await;
        String::from_utf8_lossy(&self.come).into_owned()
    }
}

/// Opcode and payload of the first frame of a server, and how long it is in all.
fn first_frame(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (first, second) = (*bytes.first()?, *bytes.get(1)?);
    let (begin, length): (usize, usize) = match second & 0x7f {
        126 => (4, u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize),
        127 => (10, u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?) as usize),
        short => (2, short as usize),
    };
    let end = begin.checked_add(length)?;
    Some((first & 0x0f, bytes.get(begin..end)?, end))
}

/// A frame of a client; its first byte is flags and opcode. The mask is all zeros, which is one.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | length as u8),
        length @ 126..=0xffff => {
            bytes.push(0x80 | 0x7e);
            bytes.extend((length as u16).to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 0x7f);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// The request that opens a WebSocket. A header of `changed` stands instead of the usual one; without a value, instead
/// of it there is none.
pub(super) fn upgrade(target: &Target, changed: &[(&str, Option<&str>)]) -> Vec<u8> {
    let mut headers = vec![
        ("Host", target.authority()),
        ("Connection", "Upgrade".to_owned()),
        ("Upgrade", "websocket".to_owned()),
        ("Sec-WebSocket-Version", "13".to_owned()),
        ("Sec-WebSocket-Key", KEY.to_owned()),
        ("Sec-WebSocket-Protocol", "mcp".to_owned()),
    ];
    headers.extend(target.token.as_ref().map(|token| ("Authorization", format!("Bearer {token}"))));
    request("GET", &target.socket_path, headers, changed, "")
}

/// A POST of Streamable HTTP.
pub(super) fn post(target: &Target, changed: &[(&str, Option<&str>)], body: &str) -> Vec<u8> {
    let mut headers = vec![
        ("Host", target.authority()),
        ("Content-Type", "application/json".to_owned()),
        ("Accept", "application/json, text/event-stream".to_owned()),
        ("Content-Length", body.len().to_string()),
    ];
    headers.extend(target.token.as_ref().map(|token| ("Authorization", format!("Bearer {token}"))));
    request("POST", &target.http_path, headers, changed, body)
}

fn request(
    method: &str,
    path: &str,
    mut headers: Vec<(&str, String)>,
    changed: &[(&str, Option<&str>)],
    body: &str,
) -> Vec<u8> {
    headers.retain(|(name, _)| !changed.iter().any(|(other, _)| other.eq_ignore_ascii_case(name)));
    let changed = changed.iter().filter_map(|(name, value)| Some((*name, (*value)?.to_owned())));
    let mut text = format!("{method} {path} HTTP/1.1\r\n");
    for (name, value) in headers.into_iter().chain(changed) {
        text.push_str(name);
        text.push_str(": ");
        text.push_str(&value);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_are_read_as_they_were_written() {
        for length in [0, 1, 125, 126, 127, 0xffff, 0x1_0000] {
            let payload = vec![b'x'; length];
            let mut bytes = frame(0x81, &payload);
            // A server's frame is the same without a mask.
            bytes[1] &= 0x7f;
            let mask = bytes.len() - length - 4;
            bytes.drain(mask..mask + 4);
            assert_eq!(first_frame(&bytes), Some((0x01, payload.as_slice(), bytes.len())), "{length}");
            assert_eq!(first_frame(&bytes[..bytes.len() - 1]), None, "{length}");
        }
    }
}
