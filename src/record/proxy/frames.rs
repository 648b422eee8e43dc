//! WebSocket frames, read as they pass (RFC 6455, section 5). Nothing is checked: whoever reads the frames does that.

use crate::record::sink::FRAME_BYTES_MAX;

/// What went by.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// A whole message; so many bytes of it are not kept.
    Text(Vec<u8>, u64),
    Binary(Vec<u8>, u64),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// Code and reason; 1005 where there was none.
    Close(u16, String),
}

const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// One direction of a WebSocket.
#[derive(Default)]
pub(super) struct FrameTap {
    /// The header so far.
    header: Vec<u8>,
    frame: Option<Frame>,
    /// Of the message so far: its kind, the bytes kept, how many are not.
    kind: u8,
    message: Vec<u8>,
    cut: u64,
    /// Of a control frame, which may come between the frames of a message.
    control: Vec<u8>,
}

struct Frame {
    is_final: bool,
    opcode: u8,
    mask: Option<[u8; 4]>,
    left: u64,
    /// Bytes of the payload that have gone by.
    gone: usize,
}

impl FrameTap {
    /// The messages that end in `bytes`.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut put: impl FnMut(Message)) {
        loop {
            if self.frame.is_none() {
                let Some((first, rest)) = bytes.split_first() else { return };
                self.header.push(*first);
                bytes = rest;
                self.frame = Frame::read(&self.header);
                if self.frame.is_none() {
                    continue;
                }
                self.header.clear();
            }
            let Some(frame) = &mut self.frame else { continue };
            let count = usize::try_from(frame.left).unwrap_or(usize::MAX).min(bytes.len());
            let (payload, rest) = bytes.split_at(count);
            bytes = rest;
            if frame.opcode < CLOSE && frame.opcode != 0 && frame.gone == 0 {
                self.kind = frame.opcode;
            }
            let kept = if frame.opcode < CLOSE { &mut self.message } else { &mut self.control };
            let room = FRAME_BYTES_MAX - kept.len();
            let mask = frame.mask;
            let gone = frame.gone;
            kept.extend(
                payload
                    .iter()
                    .take(room)
                    .enumerate()
                    .map(|(at, byte)| mask.map_or(*byte, |mask| byte ^ mask[(gone + at) % 4])),
            );
            self.cut += payload.len().saturating_sub(room) as u64;
            frame.gone += count;
            frame.left -= count as u64;
            if frame.left > 0 {
                return;
            }
            if let Some(Frame { is_final, opcode, .. }) = self.frame.take()
                && let Some(message) = self.end(is_final, opcode)
            {
                put(message);
            }
        }
    }

    fn end(&mut self, is_final: bool, opcode: u8) -> Option<Message> {
        match opcode {
            CLOSE => {
                let control = std::mem::take(&mut self.control);
                let (code, reason) = control.split_at_checked(2).unwrap_or_default();
                let code = <[u8; 2]>::try_from(code).map_or(1005, u16::from_be_bytes);
                Some(Message::Close(code, String::from_utf8_lossy(reason).into_owned()))
            }
            PING => Some(Message::Ping(std::mem::take(&mut self.control))),
            PONG => Some(Message::Pong(std::mem::take(&mut self.control))),
            _ if opcode > CLOSE => {
                self.control.clear();
                None
            }
            _ if !is_final => None,
            _ => {
                let (message, cut) = (std::mem::take(&mut self.message), std::mem::take(&mut self.cut));
                match self.kind {
                    TEXT => Some(Message::Text(message, cut)),
                    BINARY => Some(Message::Binary(message, cut)),
                    _ => None,
                }
            }
        }
    }
}

impl Frame {
    /// The frame of a header, once it is whole.
    fn read(header: &[u8]) -> Option<Self> {
        let (&first, &second) = (header.first()?, header.get(1)?);
        let (length_bytes, mask_bytes) = (
            match second & 0x7f {
                126 => 2,
                127 => 8,
                _ => 0,
            },
            if second & 0x80 == 0 { 0 } else { 4 },
        );
        let rest = header.get(2..2 + length_bytes + mask_bytes)?;
        let (length, mask) = rest.split_at(length_bytes);
        let left = if length.is_empty() {
            u64::from(second & 0x7f)
        } else {
            length.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        };
        let mask = mask.try_into().ok();
        Some(Self { is_final: first & 0x80 != 0, opcode: first & 0x0f, mask, left, gone: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        let bit = if mask.is_some() { 0x80 } else { 0 };
        match payload.len() {
            length @ 0..126 => bytes.push(bit + length as u8),
            length @ 126..65_536 => {
                bytes.push(bit + 126);
                bytes.extend((length as u16).to_be_bytes());
            }
            length => {
                bytes.push(bit + 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        bytes.extend(mask.unwrap_or_default().iter().take(if mask.is_some() { 4 } else { 0 }));
        let masked = payload.iter().enumerate().map(|(at, byte)| byte ^ mask.unwrap_or_default()[at % 4]);
        bytes.extend(masked);
        bytes
    }

    #[test]
    fn messages_come_out_however_the_bytes_are_split() {
        let large = vec![b'x'; 70_000];
        let mask = Some([1, 2, 3, 4]);
        let stream = [
            frame(0x81, mask, b"{}"),
            frame(0x01, mask, b"ab"),
            frame(0x89, mask, b"p"),
            frame(0x00, None, b""),
            frame(0x80, mask, b"cd"),
            frame(0x82, None, &large),
            frame(0x8a, None, b""),
            frame(0x81, None, &large[..200]),
            frame(0x88, mask, b"\x03\xe8bye"),
            frame(0x88, None, b""),
        ]
        .concat();
        let expected = [
            Message::Text(b"{}".to_vec(), 0),
            Message::Ping(b"p".to_vec()),
            Message::Text(b"abcd".to_vec(), 0),
            Message::Binary(large.clone(), 0),
            Message::Pong(Vec::new()),
            Message::Text(large[..200].to_vec(), 0),
            Message::Close(1000, "bye".to_owned()),
            Message::Close(1005, String::new()),
        ];
        for size in [1, 3, 1000, stream.len()] {
            let (mut tap, mut messages) = (FrameTap::default(), Vec::new());
            for chunk in stream.chunks(size) {
                tap.feed(chunk, |message| messages.push(message));
            }
            assert!(messages == expected, "{size}");
        }
    }
}
