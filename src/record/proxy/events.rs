//! Event streams, read as they pass (WHATWG HTML, 9.2).

use crate::record::sink::FRAME_BYTES_MAX;

/// One event as a recording has it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// `message` where it names none.
    pub(super) name: String,
    pub(super) id: Option<String>,
    pub(super) data: Vec<u8>,
    /// Bytes of data that are not kept.
    pub(super) cut: u64,
}

/// Cuts a stream into events.
#[derive(Debug, Default)]
pub(super) struct EventTap {
    line: Vec<u8>,
    line_cut: u64,
    after_return: bool,
    name: String,
    id: Option<String>,
    data: Option<Vec<u8>>,
    cut: u64,
}

impl EventTap {
    /// The events that end in `bytes`. Comments, and events that hold neither data nor an id, are none.
    pub(super) fn feed(&mut self, bytes: &[u8], mut put: impl FnMut(Event)) {
        let mut start = 0;
        for (at, byte) in bytes.iter().enumerate() {
            let follows_return = std::mem::take(&mut self.after_return);
            match byte {
                b'\n' if follows_return => start = at + 1,
                b'\n' | b'\r' => {
                    self.keep(&bytes[start..at]);
                    start = at + 1;
                    self.after_return = *byte == b'\r';
                    if let Some(event) = self.line() {
                        put(event);
                    }
                }
                _ => {}
            }
        }
        self.keep(&bytes[start..]);
    }

    fn keep(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(FRAME_BYTES_MAX - self.line.len());
        self.line.extend_from_slice(&bytes[..kept]);
        self.line_cut += (bytes.len() - kept) as u64;
    }

    fn line(&mut self) -> Option<Event> {
        let line = std::mem::take(&mut self.line);
        self.cut += std::mem::take(&mut self.line_cut);
        if line.is_empty() {
            let (data, id) = (self.data.take(), self.id.take());
            let (name, cut) = (std::mem::take(&mut self.name), std::mem::take(&mut self.cut));
            if data.is_none() && id.is_none() {
                return None;
            }
            let name = if name.is_empty() { "message".to_owned() } else { name };
            return Some(Event { name, id, data: data.unwrap_or_default(), cut });
        }
        let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
        let value = line.get(colon + 1..).unwrap_or_default();
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match &line[..colon] {
            b"event" => self.name = String::from_utf8_lossy(value).into_owned(),
            b"id" => self.id = Some(String::from_utf8_lossy(value).into_owned()),
            b"data" => match &mut self.data {
                None => self.data = Some(value.to_vec()),
                Some(data) if data.len() + value.len() < FRAME_BYTES_MAX => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                Some(_) => self.cut += value.len() as u64 + 1,
            },
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_out_however_the_bytes_are_split() {
        let stream = b": hello\n\nretry: 5\n\nid: 1\ndata:\n\nevent: endpoint\r\ndata: /m?a=b\r\n\r\ndata: a\rdata: b\r\rid: 7\ndata: {}\n\ndata: rest";
        let expected = [
            ("message", Some("1"), ""),
            ("endpoint", None, "/m?a=b"),
            ("message", None, "a\nb"),
            ("message", Some("7"), "{}"),
        ];
        for size in [1, 2, 7, stream.len()] {
            let (mut tap, mut events) = (EventTap::default(), Vec::new());
            for chunk in stream.chunks(size) {
                tap.feed(chunk, |event| events.push(event));
            }
            let seen: Vec<_> = events
                .iter()
                .map(|event| {
                    (event.name.as_str(), event.id.as_deref(), std::str::from_utf8(&event.data).unwrap())
                })
                .collect();
            assert_eq!(seen, expected, "{size}");
        }
    }
}
