//! Lines out of bytes that were passed on already.

use super::sink::{FRAME_BYTES_MAX, Sink, new};
use crate::transcript::{Direction, Entry};

/// An emptied buffer keeps at most so much.
const KEPT_BYTES: usize = 64 << 10;

/// One direction of a stream of lines.
pub(super) struct LineTap {
    direction: Direction,
    /// The line so far.
    line: Vec<u8>,
    /// Bytes of it that are not kept.
    cut: u64,
    line_bytes_max: usize,
}

impl LineTap {
    pub(super) const fn new(direction: Direction) -> Self {
        Self { direction, line: Vec::new(), cut: 0, line_bytes_max: FRAME_BYTES_MAX }
    }

    /// Notes the lines that end in `bytes`. A carriage return before a newline belongs to the line's end; an empty line
    /// is a line.
    pub(super) fn feed(&mut self, mut bytes: &[u8], sink: &mut Sink) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.keep(&bytes[..end]);
            bytes = &bytes[end + 1..];
            if self.cut == 0 && self.line.last() == Some(&b'\r') {
                self.line.pop();
            }
            self.put(sink, false);
        }
        self.keep(bytes);
    }

    /// No more bytes will come: what is left is a line without its end.
    pub(super) fn finish(&mut self, sink: &mut Sink) {
        if !self.line.is_empty() || self.cut > 0 {
            self.put(sink, true);
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(self.line_bytes_max - self.line.len());
        self.line.extend_from_slice(&bytes[..kept]);
        self.cut += (bytes.len() - kept) as u64;
    }

    fn put(&mut self, sink: &mut Sink, unfinished: bool) {
        let cut = std::mem::take(&mut self.cut);
        let entry = Entry { cut: (cut > 0).then_some(cut), unfinished, ..new(self.direction) };
        sink.note_bytes(entry, &self.line);
        self.line.clear();
        self.line.shrink_to(KEPT_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        record::Options,
        transcript::{Transcript, Transport},
    };

    fn recorded(chunks: &[&[u8]], line_bytes_max: usize) -> Vec<Entry> {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("a.jsonl");
        let mut sink =
            Sink::new(Options { out: Some(out.clone()), ..Options::default() }, Transport::Stdio, "s");
        let mut tap = LineTap { line_bytes_max, ..LineTap::new(Direction::C2s) };
        for chunk in chunks {
            tap.feed(chunk, &mut sink);
        }
        tap.finish(&mut sink);
        drop(sink);
        Transcript::parse(&std::fs::read_to_string(out).unwrap()).unwrap().entries
    }

    #[test]
    fn lines_come_out_however_the_bytes_are_split() {
        let text = b"{}\r\n\n\xff\xfe\n{\"a\":\"\xc3\xa4\"}\nrest";
        let split: Vec<&[u8]> = text.chunks(1).collect();
        for chunks in [vec![&text[..]], split] {
            let entries = recorded(&chunks, 1000);
            let seen: Vec<_> = entries
                .iter()
                .map(|entry| (entry.raw.as_deref(), entry.encoding.as_deref(), entry.unfinished))
                .collect();
            assert_eq!(
                seen,
                [
                    (Some("{}"), None, false),
                    (Some(""), None, false),
                    (Some("//4="), Some("base64"), false),
                    (Some("{\"a\":\"ä\"}"), None, false),
                    (Some("rest"), None, true),
                ]
            );
        }
    }

    #[test]
    fn a_line_beyond_the_bound_is_cut_and_says_so() {
        let entries = recorded(&[b"0123456789\nab\n"], 4);
        assert_eq!((entries[0].raw.as_deref(), entries[0].cut), (Some("0123"), Some(6)));
        assert_eq!((entries[1].raw.as_deref(), entries[1].cut), (Some("ab"), None));
    }
}
