//! Newline-delimited framing (stdio): bytes in however they arrive, lines out.

/// One line cut by [`LineDecoder`].
#[derive(Debug, PartialEq, Eq)]
pub enum Line {
    /// A complete line without its terminator; one trailing `\r` is stripped. Never blank.
    Frame(Vec<u8>),
    /// A line longer than the limit. It was dropped as it came; reading goes on at the next newline.
    TooLong {
        /// Bytes of the line up to its newline.
        size_bytes: usize,
    },
}

/// An emptied buffer keeps at most so much: one long line must not cost its memory for ever.
const KEPT_BYTES: usize = 64 << 10;

/// Cuts a byte stream at `\n`. Holds at most one line of `line_bytes_max` bytes plus what one read brought.
#[derive(Debug)]
pub struct LineDecoder {
    buffer: Vec<u8>,
    /// Up to here the buffer is known to hold no newline.
    scanned: usize,
    /// Where the next line begins; bytes before are consumed.
    start: usize,
    line_bytes_max: usize,
    /// Bytes of the overlong line dropped so far, while inside one.
    dropping: Option<usize>,
}

impl LineDecoder {
    /// A decoder that accepts lines of at most `line_bytes_max` bytes.
    #[must_use]
    pub const fn new(line_bytes_max: usize) -> Self {
        Self { buffer: Vec::new(), scanned: 0, start: 0, line_bytes_max, dropping: None }
    }

    /// Adds bytes as they were read.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.scanned -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete line, if there is one. Call until `None` after each [`LineDecoder::push`].
    pub fn next_line(&mut self) -> Option<Line> {
        loop {
            let Some(offset) = self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n') else {
                self.scanned = self.buffer.len();
                self.drop_overlong();
                if self.start == self.buffer.len() {
                    self.buffer.clear();
                    self.buffer.shrink_to(KEPT_BYTES);
                    self.start = 0;
                    self.scanned = 0;
                }
                return None;
            };
            let end = self.scanned + offset;
            let line = self.take(end);
            self.start = end + 1;
            self.scanned = end + 1;
            if let Some(line) = line {
                return Some(line);
            }
        }
    }

    /// What remains at the end of the stream: a last line without newline.
    pub fn finish(&mut self) -> Option<Line> {
        let end = self.buffer.len();
        let line = self.take(end);
        self.start = end;
        self.scanned = end;
        line
    }

    fn take(&mut self, end: usize) -> Option<Line> {
        let line = &self.buffer[self.start..end];
        if let Some(dropped) = self.dropping.take() {
            return Some(Line::TooLong { size_bytes: dropped + line.len() });
        }
        let size_bytes = line.len();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > self.line_bytes_max {
            return Some(Line::TooLong { size_bytes });
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        Some(Line::Frame(line.to_vec()))
    }

    fn drop_overlong(&mut self) {
        let pending = self.buffer.len() - self.start;
        // One byte more for a `\r` that the newline may still follow.
        if self.dropping.is_some() || pending > self.line_bytes_max + 1 {
            self.dropping = Some(self.dropping.unwrap_or(0) + pending);
            self.buffer.clear();
            self.start = 0;
            self.scanned = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(chunks: &[&[u8]], limit: usize) -> Vec<Line> {
        let mut decoder = LineDecoder::new(limit);
        let mut lines = Vec::new();
        for chunk in chunks {
            decoder.push(chunk);
            lines.extend(std::iter::from_fn(|| decoder.next_line()));
        }
        lines.extend(decoder.finish());
        lines
    }

    #[test]
    fn lines_are_cut_stripped_and_bounded() {
        let frame = |text: &str| Line::Frame(text.as_bytes().to_vec());
        assert_eq!(decode(&[b"a\r\n\n  \nb"], 8), [frame("a"), frame("b")]);
        assert_eq!(
            decode(&[b"12345678\n123456789\nok\n"], 8),
            [frame("12345678"), Line::TooLong { size_bytes: 9 }, frame("ok")]
        );
        assert_eq!(decode(&[b"12345678\r", b"\n"], 8), [frame("12345678")]);
    }

    proptest! {
        #[test]
        fn the_same_lines_come_out_however_the_bytes_are_split(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), Just(b'x'), any::<u8>()], 0..200),
            cuts in proptest::collection::vec(0usize..200, 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            prop_assert_eq!(decode(&chunks, 16), decode(&[&bytes], 16));
        }
    }
}
