//! Whether a number in a message is the status of an HTTP answer.
//!
//! A number of three digits is one only where the text says so next to it: after a request (`"GET /x HTTP/1.1" 502`,
//! `GET /x -> 502`), after the protocol (`HTTP/1.1 502`), after the word itself (`status=502`, `status code: 502`), or
//! before the reason that belongs to it (`502 Bad Gateway`). Any other (`350 ms`, `job 412`) differs each time.

/// So many bytes before a number are looked at, and so many of its words.
const BEFORE_BYTES: usize = 300;
const WORDS_BETWEEN_MAX: usize = 4;

const METHODS: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];
/// What may stand between a request and its status.
const BETWEEN: [&str; 16] = [
    "",
    "-",
    "->",
    "=>",
    "→",
    "a",
    "answered",
    "code",
    "completed",
    "failed",
    "gave",
    "got",
    "replied",
    "responded",
    "returned",
    "with",
];
/// What ends with the status.
const NAMES: [&str; 6] = ["status", "status_code", "status-code", "statuscode", "http", "httpstatus"];
/// Reasons of the statuses that say that something failed.
const REASONS: [(&str, &str); 20] = [
    ("400", "bad request"),
    ("401", "unauthorized"),
    ("403", "forbidden"),
    ("404", "not found"),
    ("405", "method not allowed"),
    ("406", "not acceptable"),
    ("408", "request timeout"),
    ("409", "conflict"),
    ("410", "gone"),
    ("413", "payload too large"),
    ("413", "request entity too large"),
    ("415", "unsupported media type"),
    ("422", "unprocessable"),
    ("429", "too many requests"),
    ("500", "internal server error"),
    ("501", "not implemented"),
    ("502", "bad gateway"),
    ("503", "service unavailable"),
    ("504", "gateway time"),
    ("505", "http version not supported"),
];

/// Whether the number with which `text[at..]` begins is the status of an answer that says that something failed.
pub(super) fn is_status(text: &str, at: usize) -> bool {
    let (before, rest) = text.split_at(at);
    let bytes = rest.as_bytes();
    let digits = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let alone =
        !matches!(
            bytes[digits..],
            [b'.' | b',' | b'-' | b':' | b'/', next, ..] if next.is_ascii_digit()
        ) && bytes.get(digits).is_none_or(|byte| !byte.is_ascii_alphanumeric() && !b"_%".contains(byte));
    digits == 3 && matches!(bytes[0], b'4' | b'5') && alone && (said_before(before) || said_after(rest))
}

fn said_after(rest: &str) -> bool {
    let (number, after) = rest.split_at(3);
    let after = after.trim_start_matches([' ', ':', '-', '(', '"', '\'']);
    REASONS.iter().any(|(status, reason)| {
        *status == number && after.get(..reason.len()).is_some_and(|said| said.eq_ignore_ascii_case(reason))
    })
}

fn said_before(before: &str) -> bool {
    // A part of a path, a version or a name is none.
    if !before.ends_with([' ', '=', ':', '"', '\'', '(', '[']) {
        return false;
    }
    let mut start = before.len().saturating_sub(BEFORE_BYTES);
    while !before.is_char_boundary(start) {
        start += 1;
    }
    let before = &before[start..];
    // An access log has a quoted request after the time, also where it was none: `[…] "\x16\x03" 400`.
    if let Some((quoted, "")) = before.trim_end_matches(' ').rsplit_once('"')
        && let Some((outside, _)) = quoted.rsplit_once('"')
        && outside.trim_end().ends_with(']')
    {
        return true;
    }
    let sign = |char: char| "\"'`=:,;[](){}".contains(char);
    // `status=502`: names and values stand apart, wherever a sign joins them.
    let mut words = before.rsplit([' ', '=']).map(|word| word.trim_matches(sign));
    let mut between = 0;
    while let Some(word) = words.next() {
        let lower = word.to_ascii_lowercase();
        if is_name(&lower) || lower.starts_with("http/") {
            return true;
        }
        if BETWEEN.contains(&lower.as_str()) {
            between += 1;
            if between > WORDS_BETWEEN_MAX {
                return false;
            }
            continue;
        }
        let target = word.starts_with('/') || word.contains("://");
        return target
            && (between > 0 && word.contains("://")
                || words.find(|word| !word.is_empty()).is_some_and(|word| METHODS.contains(&word)));
    }
    false
}

/// `status`, `http_status`, `response.status_code`, `"statusCode":`
fn is_name(word: &str) -> bool {
    let last = word.rsplit(['"', '{', ',']).find(|part| !part.is_empty()).unwrap_or(word);
    let last = last.rsplit('.').next().unwrap_or(last).trim_end_matches([':', '"']);
    NAMES.contains(&last) || last.ends_with("_status") || last.ends_with("_status_code")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first number of three digits that is a status.
    fn status(text: &str) -> Option<&str> {
        (0..text.len())
            .filter(|at| text.is_char_boundary(*at))
            .filter(|at| *at == 0 || !text.as_bytes()[at - 1].is_ascii_alphanumeric())
            .find(|at| text.as_bytes()[*at].is_ascii_digit() && is_status(text, *at))
            .map(|at| &text[at..at + 3])
    }

    #[test]
    fn a_status_is_what_the_text_says_is_one() {
        for text in [
            r#"1.2.3.4 - - [02/Jan/2026:03:04:05 +0000] "GET /a/450 HTTP/1.1" 502 433 "-" "curl/8.450""#,
            r#"1.2.3.4 - - [02/Jan/2026:03:04:05 +0000] "\x16\x03\x01" 502 157"#,
            "GET /api/ships 502 450.1 ms - 512",
            "POST /api/ships -> 502 in 450 ms",
            "POST /api/ships returned 502",
            r#""PUT /a" responded with status 502"#,
            "fetching https://a.example/x failed with 502",
            "HTTP/1.1 502 after 450 ms",
            "upstream answered HTTP/2 502",
            "status=502 ms=450",
            "http_status: 502, took 450",
            r#"{"statusCode":502,"ms":450}"#,
            r#"{"status": 502}"#,
            "request failed with status code 502 (attempt 450)",
            "upstream: 502 Bad Gateway",
        ] {
            assert_eq!(status(text), Some("502"), "{text}");
        }
        for text in [
            "upstream timed out after 450 ms",
            "job 450 failed",
            "read 450 of 512 rows",
            "450 errors",
            "returned 450 rows",
            "queue grew 450 -> 512",
            "opened /var/lib/harbour 450 times",
            "exit code 450",
            "GET /x took 450 ms",
            "status=4502",
            "status=450.5",
            "status 450ms",
            "status=450-512",
            "502 Not Found",
        ] {
            assert_eq!(status(text), None, "{text}");
        }
    }
}
