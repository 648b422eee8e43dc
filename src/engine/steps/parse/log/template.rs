//! What a line says, without what differs each time.

use super::status::is_status;

/// Longest template, in bytes.
const TEMPLATE_BYTES_MAX: usize = 300;

/// `text` with numbers, hexadecimal, UUIDs, addresses, times, paths and quoted values replaced. Linear.
pub(super) fn template(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(TEMPLATE_BYTES_MAX + 64));
    let mut rest = text;
    let mut before = ' ';
    while let Some(first) = rest.chars().next() {
        if out.len() >= TEMPLATE_BYTES_MAX {
            out.push('…');
            break;
        }
        let boundary = !before.is_alphanumeric() && before != '_';
        let (length, mask) = if first.is_ascii_digit() && boundary && is_status(text, text.len() - rest.len())
        {
            // What an answer came to is what matters of it.
            (3, None)
        } else {
            masked(rest, first, before, boundary)
        };
        match mask {
            Some(mask) => out.push_str(mask),
            None => out.push_str(&rest[..length]),
        }
        before = rest[..length].chars().next_back().unwrap_or(' ');
        rest = &rest[length..];
    }
    out
}

/// So many bytes of `rest` stand together, and what stands for them.
fn masked(rest: &str, first: char, before: char, boundary: bool) -> (usize, Option<&'static str>) {
    let bytes = rest.as_bytes();
    match first {
        '"' | '\'' | '`' if boundary => {
            // A quoted value ends on the same line and soon; an apostrophe within a word begins none.
            let end = bytes.iter().skip(1).take(400).position(|byte| *byte == first as u8);
            match end {
                Some(end) => (end + 2, Some("<q>")),
                None => (1, None),
            }
        }
        '/' if boundary && before != '<' => {
            let length = path_length(bytes);
            let has_folders = bytes[..length].iter().filter(|byte| **byte == b'/').nth(1).is_some();
            if has_folders && length > 3 { (length, Some("<path>")) } else { (length.max(1), None) }
        }
        '[' if bytes.len() > 22 && bytes[3] == b'/' && bytes[7] == b'/' && bytes[1].is_ascii_digit() => {
            match bytes.iter().take(40).position(|byte| *byte == b']') {
                Some(end) => (end + 1, Some("[<time>]")),
                None => (1, None),
            }
        }
        first if first.is_ascii_alphanumeric() && boundary => word(rest),
        first if first.is_ascii_digit() => (digits(bytes), Some("<n>")),
        first if first.is_alphanumeric() || first == '_' => (word_length(rest).max(first.len_utf8()), None),
        first => (first.len_utf8(), None),
    }
}

fn digits(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| byte.is_ascii_digit()).count()
}

/// Letters up to the next digit, or to the end of the word.
fn word_length(rest: &str) -> usize {
    rest.char_indices()
        .find(|(_, char)| !(char.is_alphabetic() || *char == '_'))
        .map_or(rest.len(), |(at, _)| at)
}

fn path_length(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .position(|byte| byte.is_ascii_whitespace() || b"\"'`,;:)(<>[]{}|".contains(byte))
        .unwrap_or(bytes.len())
}

/// A word that begins here: masked as a whole where it is an id, an address or a number.
fn word(rest: &str) -> (usize, Option<&'static str>) {
    let bytes = rest.as_bytes();
    let length = bytes
        .iter()
        .take(200)
        .position(|byte| !(byte.is_ascii_alphanumeric() || b"-.:_".contains(byte)))
        .unwrap_or(bytes.len().min(200));
    let run = bytes[..length].trim_ascii_end();
    let run = &run[..run.len() - run.iter().rev().take_while(|byte| b".:-_".contains(byte)).count()];
    if is_uuid(run) {
        return (36, Some("<uuid>"));
    }
    if let Some(length) = address(run) {
        return (length, Some("<ip>"));
    }
    let whole =
        bytes.iter().take(200).position(|byte| !byte.is_ascii_alphanumeric()).unwrap_or(bytes.len().min(200));
    let alone = &bytes[..whole];
    let after_zero = alone.strip_prefix(b"0x");
    if after_zero.is_some_and(|hex| !hex.is_empty() && hex.iter().all(u8::is_ascii_hexdigit)) {
        return (whole, Some("<hex>"));
    }
    let hex = alone.len() >= 7
        && alone.iter().all(u8::is_ascii_hexdigit)
        && alone.iter().any(u8::is_ascii_digit)
        && alone.iter().any(u8::is_ascii_alphabetic);
    if hex {
        return (whole, Some("<hex>"));
    }
    // A short one stands beside others that have no letter.
    let short = (4..7).contains(&alone.len())
        && alone.iter().all(u8::is_ascii_hexdigit)
        && alone.iter().any(u8::is_ascii_digit)
        && alone.iter().any(u8::is_ascii_alphabetic);
    if short {
        return (whole, Some("<n>"));
    }
    // A long run of letters and digits mixed is an id.
    let mixed = alone.len() >= 16
        && alone.iter().filter(|byte| byte.is_ascii_digit()).count() >= 3
        && alone.iter().any(u8::is_ascii_alphabetic);
    if mixed {
        return (whole, Some("<id>"));
    }
    if bytes[0].is_ascii_digit() {
        let length = digits(bytes);
        let fraction = match &bytes[length..] {
            [b'.', rest @ ..] if rest.first().is_some_and(u8::is_ascii_digit) => 1 + digits(rest),
            _ => 0,
        };
        return (length + fraction, Some("<n>"));
    }
    (word_length(rest).max(1), None)
}

fn is_uuid(run: &[u8]) -> bool {
    run.len() == 36
        && run.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// An IPv4 address, with its port.
fn address(run: &[u8]) -> Option<usize> {
    let mut at = 0;
    for part in 0..4 {
        let n = digits(&run[at..]);
        if !(1..=3).contains(&n) {
            return None;
        }
        at += n;
        if part < 3 {
            if run.get(at) != Some(&b'.') {
                return None;
            }
            at += 1;
        }
    }
    if run.get(at) == Some(&b':') {
        let port = digits(&run[at + 1..]);
        if port > 0 {
            at += 1 + port;
        }
    }
    Some(at)
}
