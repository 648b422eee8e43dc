//! What one line of a log says: when, how bad, what.

use std::borrow::Cow;

use serde_json::Value;

use super::{Level, Message};

/// A line, read.
pub(super) struct Read<'a> {
    pub(super) time: Option<Cow<'a, str>>,
    pub(super) level: Option<Level>,
    /// What is said, without the time; with the level where it stands in the text.
    pub(super) message: Message<'a>,
    /// A stack, where a structured line has one.
    pub(super) stack: Option<String>,
}

/// Reads `line`.
pub(super) fn read(line: &str) -> Read<'_> {
    if line.starts_with('{')
        && line.ends_with('}')
        && let Some(read) = json(line)
    {
        return read;
    }
    if let Some(read) = logfmt(line) {
        return read;
    }
    // syslog's priority: the level is its remainder by eight.
    let priority = line.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    let (priority, line) = match priority.and_then(|(n, rest)| Some((n.parse::<u8>().ok()?, rest))) {
        Some((n, rest)) if n < 192 => (Some(n % 8), rest),
        _ => (None, line),
    };
    if let Some(read) = klog(line) {
        return read;
    }
    let (time, rest) = time(line);
    let level = match priority {
        Some(0..=2) => Some(Level::Fatal),
        Some(3) => Some(Level::Error),
        Some(4) => Some(Level::Warn),
        Some(5..=6) => Some(Level::Info),
        Some(_) => Some(Level::Debug),
        None => level(rest),
    };
    Read { time: time.map(Cow::Borrowed), level, message: rest.into(), stack: None }
}

fn json(line: &str) -> Option<Read<'_>> {
    let value: Value = serde_json::from_str(line).ok()?;
    let members = value.as_object()?;
    let text = |names: &[&str]| names.iter().find_map(|name| members.get(*name)).and_then(Value::as_str);
    let level = ["level", "severity", "lvl", "log.level", "levelname", "loglevel", "@level"]
        .iter()
        .find_map(|name| members.get(*name));
    let level = match level {
        Some(Value::String(word)) => Level::of(word),
        // bunyan and pino.
        Some(Value::Number(number)) => number.as_u64().map(|number| match number {
            60.. => Level::Fatal,
            50.. => Level::Error,
            40.. => Level::Warn,
            30.. => Level::Info,
            20.. => Level::Debug,
            _ => Level::Trace,
        }),
        _ => None,
    };
    let fields = value.pointer("/fields/message").and_then(Value::as_str);
    let said = text(&["msg", "message", "@message", "event", "textPayload", "log"]).or(fields);
    let error = ["err", "error", "exception", "exc_info"].iter().find_map(|name| members.get(*name));
    let inner = |name: &str| error.and_then(|error| error.get(name)).and_then(Value::as_str);
    let cause = error.and_then(Value::as_str).or(inner("message"));
    if level.is_none() && said.is_none() {
        return None;
    }
    let mut message = String::new();
    if let Some(target) = text(&["target", "logger", "name", "component"]) {
        message.push_str(target);
        message.push_str(": ");
    }
    message.push_str(said.unwrap_or_default());
    if let Some(cause) = cause.filter(|cause| !cause.contains('\n') && Some(*cause) != said) {
        message.push_str(": ");
        message.push_str(cause);
    }
    let time = ["time", "timestamp", "ts", "@timestamp", "datetime", "eventTime", "date"]
        .iter()
        .find_map(|name| members.get(*name));
    let time = match time {
        Some(Value::String(time)) => Some(time.clone()),
        Some(Value::Number(number)) => number.as_f64().and_then(epoch),
        _ => None,
    };
    let stack =
        inner("stack").or(text(&["stack", "stack_trace", "exc_info", "exception"])).map(str::to_owned);
    Some(Read { time: time.map(Cow::Owned), level, message: message.into(), stack })
}

/// Seconds or milliseconds since 1970 as a time.
fn epoch(number: f64) -> Option<String> {
    let seconds = if number > 1e14 {
        number / 1e6
    } else if number > 1e11 {
        number / 1e3
    } else {
        number
    };
    #[expect(clippy::cast_possible_truncation, reason = "whole seconds are wanted; out of range is none")]
    jiff::Timestamp::from_second(seconds as i64).ok().map(|time| time.to_string())
}

/// `time=… level=error msg="…"`, in any order.
fn logfmt(line: &str) -> Option<Read<'_>> {
    let at = line.find("level=").filter(|at| *at == 0 || line.as_bytes()[at - 1] == b' ')?;
    let message = line.find("msg=").filter(|at| *at == 0 || line.as_bytes()[at - 1] == b' ')?;
    let value = |at: usize| {
        let rest = &line[at..];
        match rest.strip_prefix('"') {
            Some(quoted) => {
                let mut escaped = false;
                let end = quoted.bytes().position(|byte| {
                    let ends = byte == b'"' && !escaped;
                    escaped = byte == b'\\' && !escaped;
                    ends
                });
                &quoted[..end.unwrap_or(quoted.len())]
            }
            None => rest.split(' ').next().unwrap_or(rest),
        }
    };
    let level = Level::of(value(at + "level=".len()));
    let time = ["time=", "ts=", "t="].iter().find_map(|key| {
        let at = line.find(key).filter(|at| *at == 0 || line.as_bytes()[at - 1] == b' ')?;
        Some(value(at + key.len()))
    });
    let message = value(message + "msg=".len());
    let message =
        if message.contains("\\\"") { message.replace("\\\"", "\"").into() } else { message.into() };
    Some(Read { time: time.map(Cow::Borrowed), level, message, stack: None })
}

/// `E0102 03:04:05.000000 …`: klog and glog.
fn klog(line: &str) -> Option<Read<'_>> {
    let bytes = line.as_bytes();
    let level = match bytes.first()? {
        b'F' => Level::Fatal,
        b'E' => Level::Error,
        b'W' => Level::Warn,
        b'I' => Level::Info,
        _ => return None,
    };
    let fits = bytes.len() > 21
        && fits("0000 00:00:00.", &bytes[1..15])
        && bytes[15..21].iter().all(u8::is_ascii_digit);
    fits.then(|| Read {
        time: Some(line[1..21].into()),
        level: Some(level),
        message: line[21..].trim_start().into(),
        stack: None,
    })
}

/// Whether `bytes` begins with `form`, in which a `0` stands for a digit.
fn fits(form: &str, bytes: &[u8]) -> bool {
    bytes.len() >= form.len()
        && form
            .bytes()
            .zip(bytes)
            .all(|(form, byte)| if form == b'0' { byte.is_ascii_digit() } else { form == *byte })
}

/// The time that a line begins with, and the rest of it.
fn time(line: &str) -> (Option<&str>, &str) {
    let trimmed = line.trim_start();
    let (inner, bracket) = match trimmed.strip_prefix('[') {
        Some(inner) => (inner, true),
        None => (trimmed, false),
    };
    let bytes = inner.as_bytes();
    let length = if ["0000-00-00T00:00:00", "0000-00-00 00:00:00", "0000/00/00 00:00:00"]
        .iter()
        .any(|form| fits(form, bytes))
    {
        19
    } else if fits("00:00:00", bytes) && !bracket {
        8
    } else if bytes.len() > 15
        && bytes[..3].iter().all(u8::is_ascii_alphabetic)
        && month(&bytes[..3])
        && fits("00:00:00", &bytes[7..])
    {
        15
    } else {
        return (None, line);
    };
    let mut end = length;
    let mut rest = bytes[end..].iter().peekable();
    // Fractions and the offset.
    if matches!(rest.peek(), Some(b'.' | b',')) {
        end += 1 + bytes[end + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    }
    match bytes.get(end) {
        Some(b'Z') => end += 1,
        Some(b'+' | b'-') if bytes.get(end + 1).is_some_and(u8::is_ascii_digit) => {
            end += 1 + bytes[end + 1..]
                .iter()
                .take_while(|byte| byte.is_ascii_digit() || **byte == b':')
                .count();
        }
        _ => {}
    }
    let (time, rest) = inner.split_at(end);
    let rest = rest.strip_prefix(" UTC").unwrap_or(rest);
    let rest = if bracket { rest.strip_prefix(']').unwrap_or(rest) } else { rest };
    (Some(time), rest.trim_start_matches([' ', '\t', ':', '|']).trim_end())
}

/// `Nov 22, 2026 10:52:26 PM harbour.Main run`: the time.
pub(super) fn java_time(line: &str) -> Option<&str> {
    let bytes = line.as_bytes();
    if bytes.len() < 24 || !month(&bytes[..3]) || bytes[3] != b' ' {
        return None;
    }
    let end = line.find(" AM ").or_else(|| line.find(" PM "))? + 3;
    (end <= 26 && line[..end].contains(", 20")).then(|| &line[..end])
}

fn month(name: &[u8]) -> bool {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    MONTHS.as_bytes().chunks(3).any(|month| month == name)
}

/// How bad a text is, by its first words, or by what ends them with a colon.
fn level(text: &str) -> Option<Level> {
    for (prefix, level) in [
        ("##[error]", Level::Error),
        ("##[warning]", Level::Warn),
        ("::error", Level::Error),
        ("::warning", Level::Warn),
        ("##[debug]", Level::Debug),
        ("npm ERR!", Level::Error),
        ("npm error", Level::Error),
        ("npm warn", Level::Warn),
        ("npm WARN", Level::Warn),
        ("Traceback (most recent call last)", Level::Error),
        ("Exception in thread", Level::Error),
        ("Unhandled", Level::Error),
        ("Uncaught", Level::Error),
        ("panic: ", Level::Fatal),
        ("make: *** ", Level::Error),
        ("Segmentation fault", Level::Fatal),
    ] {
        if text.starts_with(prefix) {
            return Some(level);
        }
    }
    if text.starts_with("thread '") && text.contains("' panicked at ") || text.contains(") panicked at ") {
        return Some(Level::Fatal);
    }
    let mut words = 0;
    for token in text.split([' ', '\t', '|']).take(16) {
        if token.is_empty() {
            continue;
        }
        words += 1;
        let bare = token.trim_matches(['[', ']', '(', ')', ':', '<', '>', ',', '-', '*', '"', '=']);
        let colon = token.ends_with(':');
        // A word in capitals or brackets anywhere near the beginning, in any case where a colon ends it or it is first.
        let strong = bare.len() > 2 && bare.bytes().all(|byte| byte.is_ascii_uppercase())
            || token.starts_with('[') && token.contains(']')
            || colon
            || words == 1
                && bare.len() == token.len()
                && text.len() > token.len()
                && bare != "log"
                && bare != "note";
        if strong && words <= 8 {
            let code = bare.split(['[', ']']).next().unwrap_or(bare);
            if let Some(level) = Level::of(bare).or_else(|| Level::of(code).filter(|_| colon)) {
                return Some(level);
            }
        }
        if colon && (bare.ends_with("Error") || bare.ends_with("Exception")) && bare.len() > 5 {
            return Some(Level::Error);
        }
    }
    access(text)
}

/// By the status in a line of an access log: `"GET / HTTP/1.1" 503 12`.
fn access(text: &str) -> Option<Level> {
    let at = text.find(" HTTP/")?;
    let rest = text[at..].split_once("\" ")?.1;
    match rest.as_bytes() {
        [b'5', b'0'..=b'9', b'0'..=b'9', b' ', ..] => Some(Level::Error),
        [b'4', b'0'..=b'9', b'0'..=b'9', b' ', ..] => Some(Level::Warn),
        [b'1'..=b'3', b'0'..=b'9', b'0'..=b'9', b' ', ..] => Some(Level::Info),
        _ => None,
    }
}
