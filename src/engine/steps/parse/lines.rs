//! Lines as a person saw them: without escapes, with what a carriage return overwrote gone, without the prefixes of CI.

use std::borrow::Cow;

/// Longest line kept, in bytes; the rest of it is passed over.
const LINE_BYTES_MAX: usize = 16 << 10;
/// Most lines read; of more, the last ones are.
const LINES_MAX: usize = 500_000;

/// The lines of a text.
pub(super) struct Lines<'a> {
    /// In order.
    pub(super) all: Vec<Cow<'a, str>>,
    /// So many lines at the beginning were left out.
    pub(super) skipped: usize,
}

impl<'a> Lines<'a> {
    /// The lines of `text` without the prefixes of CI.
    pub(super) fn of(text: &'a str) -> Self {
        Self::with(text, |line| after_time(line).unwrap_or(line))
    }

    /// The lines of `text`, times at their beginning kept.
    pub(super) fn with_times(text: &'a str) -> Self {
        Self::with(text, |line| line)
    }

    fn with(text: &'a str, then: fn(&str) -> &str) -> Self {
        let n = text.bytes().filter(|&byte| byte == b'\n').count() + 1;
        let skipped = n.saturating_sub(LINES_MAX);
        let mut all: Vec<Cow<'a, str>> = Vec::with_capacity(n - skipped);
        all.extend(text.trim_start_matches('\u{feff}').split('\n').skip(skipped).map(|line| {
            match clean(line) {
                Cow::Borrowed(line) => Cow::Borrowed(then(without_job(line))),
                Cow::Owned(line) => Cow::Owned(then(without_job(&line)).to_owned()),
            }
        }));
        // A text that ends with a newline ends with its last line.
        if all.last().is_some_and(|line| line.is_empty()) {
            all.pop();
        }
        Self { all, skipped }
    }
}

/// `line` without what only a terminal is told.
pub(super) fn clean(line: &str) -> Cow<'_, str> {
    let line = head(line, LINE_BYTES_MAX);
    let line = line.trim_end_matches('\r');
    let Some(at) = line.bytes().position(|byte| matches!(byte, 0x1b | b'\r' | 0x08 | 0)) else {
        return Cow::Borrowed(line);
    };
    let mut text = String::with_capacity(line.len());
    text.push_str(&line[..at]);
    let mut chars = line[at..].chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\u{1b}' => match chars.next() {
                // A control sequence ends with a letter or one of `@[\]^_{|}~` and backtick.
                Some('[') => {
                    for char in chars.by_ref() {
                        if ('\u{40}'..='\u{7e}').contains(&char) {
                            break;
                        }
                    }
                }
                // A string for the terminal (a title, a link) ends with BEL or ESC \.
                Some(']' | 'P' | '_' | '^') => {
                    while let Some(char) = chars.next() {
                        if char == '\u{7}' {
                            break;
                        }
                        if char == '\u{1b}' {
                            chars.next_if_eq(&'\\');
                            break;
                        }
                    }
                }
                Some('(' | ')') => {
                    chars.next();
                }
                _ => {}
            },
            '\r' => text.clear(),
            '\u{8}' => {
                text.pop();
            }
            '\0' => {}
            char => text.push(char),
        }
    }
    Cow::Owned(text)
}

/// At most `bytes_max` bytes of `text`, whole characters.
pub(super) fn head(text: &str, bytes_max: usize) -> &str {
    if text.len() <= bytes_max {
        return text;
    }
    &text[..text.floor_char_boundary(bytes_max)]
}

/// `line` without the job and the step that `gh run view --log` puts before the time.
fn without_job(line: &str) -> &str {
    match line.splitn(3, '\t').nth(2) {
        Some(rest) if after_time(rest.trim_start_matches('\u{feff}')).is_some() => {
            rest.trim_start_matches('\u{feff}')
        }
        _ => line,
    }
}

/// What follows `2026-01-02T03:04:05.1234567Z `, the form that only CI writes: seven decimals, or nine (`docker logs -t`).
pub(super) fn after_time(line: &str) -> Option<&str> {
    const FORMS: [&[u8]; 2] = [b"0000-00-00T00:00:00.0000000Z", b"0000-00-00T00:00:00.000000000Z"];
    let bytes = line.as_bytes();
    let form = FORMS.iter().find(|form| {
        bytes.len() >= form.len()
            && form.iter().zip(bytes).all(|(form, byte)| match form {
                b'0' => byte.is_ascii_digit(),
                _ => form == byte,
            })
    })?;
    let rest = &line[form.len()..];
    Some(rest.strip_prefix(' ').unwrap_or(rest))
}

/// `path:line`, `path:line:column`: where a text names a place in a file at its beginning.
pub(super) fn place(text: &str) -> Option<(&str, u64, Option<u64>, &str)> {
    // A drive letter is no end of a path.
    let skip = usize::from(
        text.as_bytes().get(1) == Some(&b':')
            && text.as_bytes().first().is_some_and(u8::is_ascii_alphabetic)
            && matches!(text.as_bytes().get(2), Some(b'\\' | b'/')),
    ) * 2;
    let colon = text.get(skip..)?.find(':')? + skip;
    let (path, rest) = (&text[..colon], &text[colon + 1..]);
    let (line, rest) = number(rest)?;
    if path.is_empty() || path.trim() != path {
        return None;
    }
    let (column, rest) = match rest.strip_prefix(':').and_then(number) {
        Some((column, rest)) => (Some(column), rest),
        None => (None, rest),
    };
    Some((path, line, column, rest))
}

/// The number that `text` begins with, and the rest.
pub(super) fn number(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    (1..=9).contains(&digits).then(|| (text[..digits].parse().unwrap_or(0), &text[digits..]))
}

/// `1.5s`, `12ms`, `0.03 s`, `1m 2s`, `2.5`: milliseconds, a bare number counting as seconds.
pub(super) fn milliseconds(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    let mut total = 0.0_f64;
    let mut any = false;
    while !rest.is_empty() {
        let length = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        if length == 0 || length > 12 {
            break;
        }
        let value: f64 = rest[..length].parse().ok()?;
        rest = rest[length..].trim_start();
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let factor = match &rest[..letters] {
            "ms" => 1.0,
            "" | "s" | "sec" | "second" | "seconds" => 1000.0,
            "m" | "min" => 60_000.0,
            "h" => 3_600_000.0,
            "us" => 0.001,
            _ => break,
        };
        total += value * factor;
        any = true;
        rest = rest[letters..].trim_start();
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative; saturates")]
    any.then(|| total.round() as u64)
}
