//! Source text with the content of comments and strings blanked, so that what is left of braces and words counts.

use super::language::Language;

/// `text` byte for byte, in which comments are spaces and strings keep their quotes only. Newlines stay.
pub(super) fn mask(text: &str, language: Language) -> Vec<u8> {
    let mut masker = Masker { bytes: text.as_bytes(), out: text.as_bytes().to_vec(), at: 0, language };
    masker.run();
    masker.out
}

struct Masker<'a> {
    bytes: &'a [u8],
    out: Vec<u8>,
    at: usize,
    language: Language,
}

impl Masker<'_> {
    fn run(&mut self) {
        use Language::{C, Go, Java, Python, Ruby, Rust, Script, Shell, Sql};
        // Braces opened within `${ … }` of templates; where they close, the template goes on.
        let mut templates: Vec<usize> = Vec::new();
        let mut depth = 0_usize;
        // The last byte that is no white space: tells a division from a regex, and a word from a quote.
        let mut last = b'\n';
        while let Some(&byte) = self.bytes.get(self.at) {
            let next = self.bytes.get(self.at + 1).copied().unwrap_or(0);
            let slashes = matches!(self.language, Rust | Script | Go | C | Java);
            let hashes = matches!(self.language, Python | Ruby | Shell);
            match byte {
                b'/' if slashes && next == b'/' => self.line_comment(),
                b'/' if slashes && next == b'*' => self.block_comment(),
                b'#' if hashes
                    && (self.language != Language::Shell
                        || self.at == 0
                        || self.bytes[self.at - 1].is_ascii_whitespace()) =>
                {
                    self.line_comment();
                }
                b'-' if self.language == Sql && next == b'-' => self.line_comment(),
                b'/' if self.language == Sql && next == b'*' => self.block_comment(),
                b'/' if self.language == Script && self.begins_regex(last) => {
                    self.regex();
                    last = b'/';
                    continue;
                }
                b'"' | b'\'' if self.language == Python => self.python_string(byte),
                b'r' | b'b'
                    if self.language == Rust && !is_word(last, self.at, self.bytes) && self.raw_string() => {}
                b'\'' if self.language == Rust => self.rust_quote(),
                b'\'' if matches!(self.language, Go | C | Java) => {
                    // A digit separator of C++ is no quote.
                    if self.language == C
                        && self.at > 0
                        && self.bytes[self.at - 1].is_ascii_hexdigit()
                        && next.is_ascii_hexdigit()
                    {
                        self.at += 1;
                    } else {
                        self.string(b'\'', false);
                    }
                }
                b'"' | b'\'' => self.string(byte, matches!(self.language, Rust | Shell | Sql | Ruby)),
                b'`' if self.language == Go => self.until(b'`'),
                b'`' if self.language == Script => {
                    self.at += 1;
                    if self.template() {
                        templates.push(depth);
                    }
                }
                b'{' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' => {
                    if templates.last() == Some(&depth) {
                        // Back in the template: the brace is text.
                        self.out[self.at] = b' ';
                        self.at += 1;
                        templates.pop();
                        if self.template() {
                            templates.push(depth);
                        }
                    } else {
                        depth = depth.saturating_sub(1);
                        self.at += 1;
                    }
                }
                _ => self.at += 1,
            }
            if !byte.is_ascii_whitespace() {
                last = byte;
            }
        }
    }

    fn blank(&mut self, from: usize, to: usize) {
        let to = to.min(self.out.len());
        for byte in &mut self.out[from.min(to)..to] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }

    fn line_comment(&mut self) {
        let end = self.bytes[self.at..]
            .iter()
            .position(|&byte| byte == b'\n')
            .map_or(self.bytes.len(), |at| self.at + at);
        self.blank(self.at, end);
        self.at = end;
    }

    fn block_comment(&mut self) {
        let start = self.at;
        let nested = self.language == Language::Rust;
        let mut depth = 0_usize;
        while self.at < self.bytes.len() {
            match &self.bytes[self.at..] {
                [b'/', b'*', ..] if nested || depth == 0 => {
                    depth += 1;
                    self.at += 2;
                }
                [b'*', b'/', ..] => {
                    self.at += 2;
                    depth -= 1;
                    if depth == 0 {
                        break;
                    }
                }
                _ => self.at += 1,
            }
        }
        self.blank(start, self.at);
    }

    /// A string with escapes; one that may not span lines ends with its line.
    fn string(&mut self, quote: u8, lines: bool) {
        let start = self.at + 1;
        self.at = start;
        while let Some(&byte) = self.bytes.get(self.at) {
            match byte {
                b'\\' if self.language != Language::Sql => self.at += 1,
                b'\n' if !lines => break,
                byte if byte == quote => break,
                _ => {}
            }
            self.at += 1;
        }
        self.blank(start, self.at);
        if self.bytes.get(self.at).is_some_and(|&byte| byte == quote) {
            self.at += 1;
        }
    }

    fn until(&mut self, quote: u8) {
        let start = self.at + 1;
        let end = self.bytes[start..]
            .iter()
            .position(|&byte| byte == quote)
            .map_or(self.bytes.len(), |at| start + at);
        self.blank(start, end);
        self.at = end + 1;
    }

    fn python_string(&mut self, quote: u8) {
        let triple = [quote; 3];
        if !self.bytes[self.at..].starts_with(&triple) {
            self.string(quote, false);
            return;
        }
        let start = self.at + 3;
        self.at = start;
        while self.at < self.bytes.len() {
            if self.bytes[self.at] == b'\\' {
                self.at += 2;
            } else if self.bytes[self.at..].starts_with(&triple) {
                break;
            } else {
                self.at += 1;
            }
        }
        self.blank(start, self.at);
        self.at += 3;
    }

    /// `r"…"`, `r#"…"#`, `br"…"`; `false` where there is none.
    fn raw_string(&mut self) -> bool {
        let mut at = self.at;
        if self.bytes[at] == b'b' {
            at += 1;
        }
        if self.bytes.get(at) != Some(&b'r') {
            self.at += 1;
            return true;
        }
        at += 1;
        let hashes = self.bytes[at..].iter().take_while(|&&byte| byte == b'#').count();
        at += hashes;
        if self.bytes.get(at) != Some(&b'"') {
            self.at += 1;
            return true;
        }
        let start = at + 1;
        at = start;
        while at < self.bytes.len() {
            let ends = self.bytes[at] == b'"'
                && self.bytes[at + 1..].iter().take(hashes).filter(|&&byte| byte == b'#').count() == hashes;
            if ends {
                break;
            }
            at += 1;
        }
        self.blank(start, at);
        self.at = (at + 1 + hashes).min(self.bytes.len());
        true
    }

    /// A character, or a lifetime.
    fn rust_quote(&mut self) {
        match &self.bytes[self.at + 1..] {
            [b'\\', ..] => self.string(b'\'', false),
            [first, rest @ ..] => {
                // One character, of up to four bytes, and a quote.
                let length = match first {
                    0x00..=0x7f => 0,
                    0xf0.. => 3,
                    0xe0.. => 2,
                    _ => 1,
                };
                if rest.get(length) == Some(&b'\'') {
                    self.blank(self.at + 1, self.at + 2 + length);
                    self.at += 3 + length;
                } else {
                    self.at += 1;
                }
            }
            [] => self.at += 1,
        }
    }

    /// The text of a template up to its end, or to `${`: then `true`.
    fn template(&mut self) -> bool {
        let start = self.at;
        while let Some(&byte) = self.bytes.get(self.at) {
            match byte {
                b'\\' => self.at += 1,
                b'`' => {
                    self.blank(start, self.at);
                    self.at += 1;
                    return false;
                }
                b'$' if self.bytes.get(self.at + 1) == Some(&b'{') => {
                    self.blank(start, self.at + 2);
                    self.at += 2;
                    return true;
                }
                _ => {}
            }
            self.at += 1;
        }
        self.blank(start, self.at);
        false
    }

    /// Whether a slash after `last` begins a regex.
    fn begins_regex(&self, last: u8) -> bool {
        if b"(,=:[!&|?{};+-*%~^<>\n".contains(&last) {
            return true;
        }
        let before = self.bytes[..self.at].trim_ascii_end();
        [&b"return"[..], b"typeof", b"case", b"in", b"of"].iter().any(|word| {
            before.ends_with(word)
                && !before[..before.len() - word.len()]
                    .last()
                    .is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        })
    }

    fn regex(&mut self) {
        let start = self.at + 1;
        self.at = start;
        let mut class = false;
        while let Some(&byte) = self.bytes.get(self.at) {
            match byte {
                b'\\' => self.at += 1,
                b'[' => class = true,
                b']' => class = false,
                b'\n' => break,
                b'/' if !class => break,
                _ => {}
            }
            self.at += 1;
        }
        self.blank(start, self.at);
        self.at += 1;
    }
}

/// Whether the byte at `at` goes on with a word.
fn is_word(last: u8, at: usize, bytes: &[u8]) -> bool {
    let adjacent = at > 0 && !bytes[at - 1].is_ascii_whitespace();
    adjacent && (last.is_ascii_alphanumeric() || last == b'_')
}
