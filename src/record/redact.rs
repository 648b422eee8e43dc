//! What never reaches a recording.
//!
//! | where | what | what is written |
//! |---|---|---|
//! | headers | `Authorization`, `Proxy-Authorization`, `Cookie`, `Set-Cookie`, any name that says token, secret, password, key, credential, signature | `<redacted>` |
//! | headers | `Mcp-Session-Id` | `session-1`, `session-2`, … one for each value |
//! | headers | `Sec-WebSocket-Protocol` entries that carry a token | `tmws.token.redacted` |
//! | URLs (paths, `Origin`, `Referer`, `Location`, arguments) | userinfo | `redacted@` |
//! | URLs | query parameters whose name says token, key, code, signature …; those that say session | `redacted`; `session-1` … |
//! | arguments of the command | the value of an option, variable, header or member of JSON whose name says so | `<redacted>` |
//! | headers, paths, arguments | words in the form of a known kind of token (`sk-`, `ghp_`, `tmws_`, JWT …) | `<redacted>` |
//! | bodies | the session ids and tokens that stood in headers, the secrets that stood in arguments | as there |
//! | environment | everything: it is not written | |
//!
//! The rest of a body is the user's data and stays, but for what the user names: expressions, and texts with what is to
//! stand in their place.

use std::{borrow::Cow, sync::LazyLock};

use regex::{Captures, Regex};

use crate::transcript::REDACTED;

/// The same where brackets may not stand: in URLs and names of subprotocols.
const REDACTED_WORD: &str = "redacted";
/// A secret of fewer bytes is not looked for in bodies: it may be an ordinary word.
const LEARNED_BYTES_MIN: usize = 16;
/// Distinct secrets remembered. Beyond it session ids share one placeholder.
const LEARNED_MAX: usize = 1024;

/// Parts of names that say: secret.
const SECRET_PARTS: &[&str] = &[
    "token",
    "secret",
    "passwd",
    "password",
    "passphrase",
    "api_key",
    "apikey",
    "credential",
    "authorization",
    "cookie",
    "signature",
    "bearer",
    "jwt",
];
/// Whole names that say so.
const SECRET_NAMES: &[&str] = &["auth", "x_auth", "sig", "key", "code", "pwd", "pass", "pat"];
/// Names that end in `key` and are none.
const HARMLESS_KEYS: &[&str] = &["sec_websocket_key", "idempotency_key"];

static USERINFO: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"([A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s"'<>@]*@"#).expect("a constant that a test compiles")
});
static PARAMETER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"([?&;#])([A-Za-z0-9_.~%\[\]-]+)=([^&;#\s"'<>]+)"#).expect("a constant that a test compiles")
});
static JSON_MEMBER: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"("([^"\\]+)"\s*:\s*")((?:[^"\\]|\\.)*)""#).expect("a constant that a test compiles")
});
static TOKEN_SHAPE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(concat!(
        r"\b(?:sk-[A-Za-z0-9_-]{16,}|gh[opsur]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}|glpat-[A-Za-z0-9_-]{16,}",
        r"|xox[abprs]-[A-Za-z0-9-]{10,}|npm_[A-Za-z0-9]{20,}|pypi-[A-Za-z0-9_-]{20,}|AKIA[A-Z0-9]{12,}|AIza[A-Za-z0-9_-]{30,}",
        r"|tmws_[A-Za-z0-9_-]{16,}|eyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*)"
    ))
    .expect("a constant that a test compiles")
});

/// What the user wants written otherwise.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Matches are replaced by `<redacted>`, wherever they stand.
    pub patterns: Vec<Regex>,
    /// Texts, and what stands in their place: a folder of this machine, for instance.
    pub replacements: Vec<(String, String)>,
}

/// Takes the secrets out of one recording.
#[derive(Debug, Default)]
pub(super) struct Redactor {
    rules: Rules,
    sessions: Vec<String>,
    tokens: Vec<String>,
}

impl Redactor {
    pub(super) fn new(rules: Rules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// The value of a header.
    pub(super) fn header(&mut self, name: &str, value: &str) -> String {
        match name.to_ascii_lowercase().as_str() {
            "authorization" | "proxy-authorization" => {
                self.learn(value.split_once(' ').map_or(value, |(_, token)| token.trim()));
                REDACTED.to_owned()
            }
            "mcp-session-id" => self.session(value),
            "sec-websocket-protocol" => {
                let entries: Vec<_> = value.split(',').map(|entry| self.subprotocol(entry)).collect();
                entries.join(", ")
            }
            _ if is_secret(name) => REDACTED.to_owned(),
            _ => self.address(value),
        }
    }

    /// A name of a subprotocol; one that carries a token keeps what comes before it.
    pub(super) fn subprotocol(&mut self, entry: &str) -> String {
        let entry = entry.trim();
        let lower = entry.to_ascii_lowercase();
        for mark in ["token.", "bearer.", "authorization.", "secret.", "key."] {
            if let Some(at) = lower.find(mark) {
                let end = at + mark.len();
                self.learn(&entry[end..]);
                return format!("{}{REDACTED_WORD}", &entry[..end]);
            }
        }
        self.address(entry)
    }

    /// A path with its query, a URL, or a text with URLs in it.
    pub(super) fn address(&mut self, text: &str) -> String {
        let text = USERINFO.replace_all(text, "${1}redacted@");
        let mut written = String::with_capacity(text.len());
        let mut end = 0;
        for found in PARAMETER.captures_iter(&text) {
            let (Some(name), Some(value)) = (found.get(2), found.get(3)) else { continue };
            let plain = normal(name.as_str());
            let instead =
                if matches!(plain.as_str(), "session" | "sessionid" | "session_id" | "mcp_session_id") {
                    self.session(value.as_str())
                } else if is_secret(name.as_str()) {
                    self.learn(value.as_str());
                    REDACTED_WORD.to_owned()
                } else {
                    continue;
                };
            written.push_str(&text[end..value.start()]);
            written.push_str(&instead);
            end = value.end();
        }
        written.push_str(&text[end..]);
        let shaped = TOKEN_SHAPE.replace_all(&written, REDACTED);
        self.body(&shaped).into_owned()
    }

    /// Arguments of a command.
    pub(super) fn arguments(&mut self, arguments: &[String]) -> Vec<String> {
        let mut hides_next = false;
        let mut written = Vec::with_capacity(arguments.len());
        for argument in arguments {
            // What looks like an option may be a secret all the same, and what comes after it, too: the name before it
            // may have been a switch.
            let is_hidden = std::mem::replace(
                &mut hides_next,
                argument.starts_with('-') && !argument.contains('=') && is_secret(argument),
            );
            if is_hidden {
                self.learn(argument);
                written.push(REDACTED.to_owned());
                continue;
            }
            written.push(self.argument(argument));
        }
        written
    }

    fn argument(&mut self, argument: &str) -> String {
        if argument.trim_start().starts_with(['{', '[']) {
            let hidden = JSON_MEMBER.replace_all(argument, |found: &Captures<'_>| {
                if is_secret(&found[2]) {
                    self.learn(&found[3]);
                    format!("{}{REDACTED}\"", &found[1])
                } else {
                    found[0].to_owned()
                }
            });
            return self.address(&hidden);
        }
        // `--name=value`, `NAME=value`; what has a `/` before its `=` is an address.
        if let Some((name, value)) = argument.split_once('=')
            && !name.contains(['/', '?', ' '])
        {
            return if is_secret(name) {
                self.learn(value);
                format!("{name}={REDACTED}")
            } else {
                format!("{name}={}", self.argument(value))
            };
        }
        // `Name: value`, as options for headers take it.
        if let Some((name, value)) = argument.split_once(':')
            && !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !value.starts_with("//")
        {
            let gap = &value[..value.len() - value.trim_start().len()];
            return format!("{name}:{gap}{}", self.header(name, value.trim()));
        }
        self.address(argument)
    }

    /// A body or frame: only what was learnt to be secret, and what the user named.
    pub(super) fn body<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        let learnt =
            self.sessions.iter().enumerate().filter(|(_, session)| session.len() >= LEARNED_BYTES_MIN);
        for (index, session) in learnt {
            replace(&mut text, session, || placeholder(index));
        }
        for token in &self.tokens {
            replace(&mut text, token, || REDACTED.to_owned());
        }
        for (from, to) in &self.rules.replacements {
            replace(&mut text, from, || to.clone());
        }
        for pattern in &self.rules.patterns {
            if let Cow::Owned(replaced) = pattern.replace_all(&text, regex::NoExpand(REDACTED)) {
                text = Cow::Owned(replaced);
            }
        }
        text
    }

    /// The placeholder of a session id: the same for the same id, so that who belongs together is still seen.
    fn session(&mut self, id: &str) -> String {
        let known = self.sessions.iter().position(|known| known == id);
        let index = known.unwrap_or_else(|| {
            if self.sessions.len() < LEARNED_MAX {
                self.sessions.push(id.to_owned());
            }
            self.sessions.len() - 1
        });
        placeholder(index)
    }

    fn learn(&mut self, token: &str) {
        let is_new = token.len() >= LEARNED_BYTES_MIN && !self.tokens.iter().any(|known| known == token);
        if is_new && self.tokens.len() < LEARNED_MAX {
            self.tokens.push(token.to_owned());
        }
    }
}

fn placeholder(index: usize) -> String {
    format!("session-{}", index + 1)
}

fn replace(text: &mut Cow<'_, str>, from: &str, to: impl FnOnce() -> String) {
    if !from.is_empty() && text.contains(from) {
        *text = Cow::Owned(text.replace(from, &to()));
    }
}

fn normal(name: &str) -> String {
    name.trim_start_matches('-').to_ascii_lowercase().replace(['-', '.'], "_")
}

/// Whether a header, option, variable or parameter of this name holds a secret.
fn is_secret(name: &str) -> bool {
    let name = normal(name);
    SECRET_PARTS.iter().any(|part| name.contains(part))
        || SECRET_NAMES.contains(&name.as_str())
        || name.ends_with("_key") && !HARMLESS_KEYS.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "hunter2hunter2hunter2";

    #[test]
    fn headers_lose_their_secrets_and_nothing_else() {
        let table = [
            ("Authorization", format!("Bearer {TOKEN}"), "<redacted>"),
            ("authorization", TOKEN.to_owned(), "<redacted>"),
            ("Proxy-Authorization", format!("Basic {TOKEN}"), "<redacted>"),
            ("Cookie", format!("a={TOKEN}"), "<redacted>"),
            ("set-cookie", format!("a={TOKEN}; Path=/"), "<redacted>"),
            ("X-Api-Key", TOKEN.to_owned(), "<redacted>"),
            ("x-functions-key", TOKEN.to_owned(), "<redacted>"),
            ("X-Csrf-Token", TOKEN.to_owned(), "<redacted>"),
            ("Sec-WebSocket-Protocol", format!("mcp, tmws.token.{TOKEN}"), "mcp, tmws.token.redacted"),
            ("Origin", format!("http://x:{TOKEN}@h:1"), "http://redacted@h:1"),
            ("Referer", format!("http://h/?access_token={TOKEN}&a=b"), "http://h/?access_token=redacted&a=b"),
            ("X-Odd", "ghp_0123456789abcdefghij".to_owned(), "<redacted>"),
            ("Sec-WebSocket-Key", "d+O13mgoxnTspw8Go1iuQA==".to_owned(), "d+O13mgoxnTspw8Go1iuQA=="),
            ("MCP-Protocol-Version", "2025-11-25".to_owned(), "2025-11-25"),
            ("User-Agent", "python-httpx/0.28.1".to_owned(), "python-httpx/0.28.1"),
            (
                "Accept",
                "application/json, text/event-stream".to_owned(),
                "application/json, text/event-stream",
            ),
        ];
        for (name, value, expected) in table {
            assert_eq!(Redactor::default().header(name, &value), expected, "{name}: {value}");
        }
    }

    #[test]
    fn a_session_id_keeps_its_identity_and_not_its_value() {
        let mut redactor = Redactor::default();
        let (one, other) = ("0123456789abcdef0123", "fedcba98765432100123");
        assert_eq!(redactor.header("mcp-session-id", one), "session-1");
        assert_eq!(redactor.header("Mcp-Session-Id", other), "session-2");
        assert_eq!(redactor.address(&format!("/messages?sessionId={one}")), "/messages?sessionId=session-1");
        assert_eq!(redactor.body(&format!("it is {other}")), "it is session-2");
    }

    #[test]
    fn a_token_of_a_header_is_taken_out_of_bodies_too() {
        let mut redactor = Redactor::default();
        redactor.header("Authorization", &format!("Bearer {TOKEN}"));
        assert_eq!(redactor.body(&format!("[{TOKEN}]")), "[<redacted>]");
        redactor.header("Authorization", "Bearer word");
        assert_eq!(redactor.body("a word"), "a word");
    }

    #[test]
    fn addresses_lose_userinfo_and_parameters_that_name_a_secret() {
        let table = [
            ("/mcp?api_key=abc&page=2", "/mcp?api_key=redacted&page=2"),
            ("/ws?agent_id=a&token=abc", "/ws?agent_id=a&token=redacted"),
            ("/callback?code=abc&state=x", "/callback?code=redacted&state=x"),
            ("wss://u:p@h/ws", "wss://redacted@h/ws"),
            ("/p/p_0123/mcp", "/p/p_0123/mcp"),
            ("/mcp?cursor=abc", "/mcp?cursor=abc"),
        ];
        for (text, expected) in table {
            assert_eq!(Redactor::default().address(text), expected, "{text}");
        }
    }

    #[test]
    fn arguments_lose_what_their_names_call_secret() {
        let table: &[(&[&str], &[&str])] = &[
            (&["--token", TOKEN, "-v"], &["--token", "<redacted>", "-v"]),
            (&["--api-key=abc"], &["--api-key=<redacted>"]),
            (&["-e", "GITHUB_TOKEN=abc"], &["-e", "GITHUB_TOKEN=<redacted>"]),
            (&["--env=DB_PASSWORD=abc"], &["--env=DB_PASSWORD=<redacted>"]),
            (&["--header", "Authorization: Bearer abc"], &["--header", "Authorization: <redacted>"]),
            (&["--header", "Authorization:Bearer abc"], &["--header", "Authorization:<redacted>"]),
            (&["postgres://u:p@h/db?sslkey=x"], &["postgres://redacted@h/db?sslkey=x"]),
            (&["http://h/mcp?token=abc"], &["http://h/mcp?token=redacted"]),
            (&["run", "sk-0123456789abcdef0123"], &["run", "<redacted>"]),
            (&["--port=80", "C:/x", "a:b"], &["--port=80", "C:/x", "a:b"]),
            (&["--no-token-auth", "--password", "abc"], &["--no-token-auth", "<redacted>", "<redacted>"]),
            (
                &["--config", r#"{"a": "b", "apiKey": "x\"y", "in":[{"token":""}]}"#],
                &["--config", r#"{"a": "b", "apiKey": "<redacted>", "in":[{"token":"<redacted>"}]}"#],
            ),
        ];
        for (arguments, expected) in table {
            let arguments: Vec<String> = arguments.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(Redactor::default().arguments(&arguments), *expected);
        }
    }

    #[test]
    fn secrets_of_arguments_are_looked_for_in_bodies_too() {
        for arguments in [vec!["--api-key".to_owned(), TOKEN.to_owned()], vec![format!("API_KEY={TOKEN}")]] {
            let mut redactor = Redactor::default();
            redactor.arguments(&arguments);
            assert_eq!(redactor.body(&format!("bad key {TOKEN}")), "bad key <redacted>");
        }
    }

    #[test]
    fn what_the_user_names_is_taken_out_everywhere() {
        let rules = Rules {
            patterns: vec![Regex::new("customer-[0-9]+").unwrap()],
            replacements: vec![("/home/ada".to_owned(), "/home/user".to_owned())],
        };
        let mut redactor = Redactor::new(rules);
        let body = redactor.body(r#"{"a":"customer-12","b":"/home/ada/x"}"#);
        assert_eq!(body, r#"{"a":"<redacted>","b":"/home/user/x"}"#);
        assert_eq!(redactor.address("/customer-12"), "/<redacted>");
        assert_eq!(redactor.arguments(&["/home/ada/x".to_owned()]), ["/home/user/x"]);
        assert_eq!(redactor.header("x-a", "customer-1"), "<redacted>");
    }
}
