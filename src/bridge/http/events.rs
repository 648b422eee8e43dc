//! `text/event-stream`, cut into events (WHATWG HTML, 9.2).

use std::time::Duration;

/// One event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) id: Option<String>,
    pub(crate) data: Vec<u8>,
    /// How long the server wants to be left alone after this stream.
    pub(super) retry: Option<Duration>,
    pub(crate) name: Option<String>,
}

impl Event {
    /// The message that it carries: names other than `message` are somebody else's.
    pub(crate) fn message(&self) -> Option<&[u8]> {
        let is_message = self.name.as_deref().is_none_or(|name| name.is_empty() || name == "message");
        (is_message && !self.data.is_empty()).then_some(&self.data[..])
    }
}

/// An event was longer than it may be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

pub(crate) struct EventDecoder {
    buffer: Vec<u8>,
    /// Up to here the buffer holds no newline.
    scanned: usize,
    /// Up to here it is consumed.
    start: usize,
    event: Event,
    has_data: bool,
    event_bytes_max: usize,
}

impl EventDecoder {
    pub(crate) fn new(event_bytes_max: usize) -> Self {
        Self {
            buffer: Vec::new(),
            scanned: 0,
            start: 0,
            event: Event::default(),
            has_data: false,
            event_bytes_max,
        }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.scanned -= self.start;
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole event.
    pub(crate) fn next(&mut self) -> Result<Option<Event>, TooLong> {
        while let Some(offset) = self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n') {
            let end = self.scanned + offset;
            let line = &self.buffer[self.start..end];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            self.start = end + 1;
            self.scanned = end + 1;
            if line.is_empty() {
                self.has_data = false;
                let event = std::mem::take(&mut self.event);
                if event != Event::default() {
                    return Ok(Some(event));
                }
                continue;
            }
            let colon = line.iter().position(|byte| *byte == b':').unwrap_or(line.len());
            let value = line.get(colon + 1..).unwrap_or_default();
            let value = value.strip_prefix(b" ").unwrap_or(value);
            let text = || String::from_utf8_lossy(value).into_owned();
            match &line[..colon] {
                b"data" => {
                    if self.has_data {
                        self.event.data.push(b'\n');
                    }
                    self.has_data = true;
                    self.event.data.extend_from_slice(value);
                }
                b"id" if !value.contains(&0) => self.event.id = Some(text()),
                b"event" => self.event.name = Some(text()),
                b"retry" => self.event.retry = text().parse().ok().map(Duration::from_millis),
                _ => {}
            }
            if self.event.data.len() > self.event_bytes_max {
                return Err(TooLong);
            }
        }
        self.scanned = self.buffer.len();
        if self.buffer.len() - self.start > self.event_bytes_max + 16 {
            return Err(TooLong);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(chunks: &[&[u8]]) -> Vec<(Option<String>, Option<String>)> {
        let mut decoder = EventDecoder::new(64);
        let mut events = Vec::new();
        for chunk in chunks {
            decoder.push(chunk);
            while let Some(event) = decoder.next().unwrap() {
                let text = event.message().map(|data| String::from_utf8(data.to_vec()).unwrap());
                events.push((event.id, text));
            }
        }
        events
    }

    #[test]
    fn events_come_out_however_the_bytes_are_split() {
        let stream = b": hello\n\nid: 1\ndata:\n\nevent: message\r\nid: 2\r\ndata: {}\r\n\r\nevent: other\ndata: x\n\ndata: a\ndata: b\n\n";
        let some = |text: &str| Some(text.to_owned());
        let expected = [(some("1"), None), (some("2"), some("{}")), (None, None), (None, some("a\nb"))];
        assert_eq!(decode(&[stream]), expected);
        let bytes: Vec<&[u8]> = stream.chunks(1).collect();
        assert_eq!(decode(&bytes), expected);
    }

    #[test]
    fn an_event_that_is_too_long_is_an_error() {
        let mut decoder = EventDecoder::new(4);
        decoder.push(b"data: 123\ndata: 456\n");
        assert_eq!(decoder.next(), Err(TooLong));
        let mut decoder = EventDecoder::new(4);
        decoder.push(&[b'x'; 64]);
        assert_eq!(decoder.next(), Err(TooLong));
    }
}
