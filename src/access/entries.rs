//! What a tokens file says: strict, every fault with its line. The file holds hashes, never tokens.
//!
//! ```toml
//! [[token]]
//! sha256 = "…"                              # of the token, 64 hexadecimal digits
//! principal = "ada"                         # who; the wall between one person and the next
//! agent = "reviewer"                        # optional: fixes the agent
//! projects = { web = "write", "*" = "read" }  # id or alias, `*` is every project; absent: `personal` alone
//! scopes = ["pattern:run", "memory:read"]   # absent: these two
//! expires = 2027-01-01T00:00:00Z            # optional
//! ```
//!
//! A list of projects, `["api", "web=write"]`, opens those without a level for reading.

use std::fmt;

use jiff::{Timestamp, civil::Date, tz::TimeZone};
use toml::de::{DeString, DeTable, DeValue};

use super::{
    Projects,
    grant::{Grants, Level},
};
use crate::{
    hex::hex,
    nearest,
    scope::{AGENT_NAME, Rights, is_agent_name},
};

/// Most tokens of one file.
const TOKENS_MAX: usize = 4_096;
/// Longest name of a principal, in bytes.
const NAME_BYTES_MAX: usize = 64;

const KEYS: [&str; 6] = ["sha256", "principal", "agent", "projects", "scopes", "expires"];

/// What a token without `scopes` may do: nothing that changes anything.
pub const DEFAULT_RIGHTS: Rights = Rights::PATTERN_RUN.with(Rights::MEMORY_READ);

/// What is wrong or doubtful, and on which line (from 1). Never quotes what could be a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Line, from 1.
    pub line: usize,
    /// What it is and what would be right, a lower-case fragment.
    pub message: String,
}

/// One token as the file says it.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenEntry {
    /// SHA-256 of the token.
    pub hash: [u8; 32],
    /// Who.
    pub principal: Box<str>,
    /// The agent, where the token fixes it.
    pub agent: Option<Box<str>>,
    /// Where, and how far.
    pub grants: Grants,
    /// What, at most.
    pub rights: Rights,
    /// Until when.
    pub expires: Option<Timestamp>,
}

impl TokenEntry {
    /// The first digits of the hash: enough to tell tokens apart, nothing to guess one by.
    #[must_use]
    pub fn short_hash(&self) -> String {
        hex(&self.hash[..6])
    }

    /// Whether it is over at `now`.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

impl fmt::Debug for TokenEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { principal, agent, grants, rights, expires, .. } = self;
        f.debug_struct("TokenEntry")
            .field("hash", &format_args!("{}…", self.short_hash()))
            .field("principal", principal)
            .field("agent", agent)
            .field("grants", grants)
            .field("rights", rights)
            .field("expires", expires)
            .finish()
    }
}

/// A file that holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Its tokens with their lines, in its order.
    pub entries: Vec<(usize, TokenEntry)>,
    /// What it may not have meant.
    pub warnings: Vec<Fault>,
}

/// Reads a tokens file; names of projects are resolved by `projects`.
///
/// # Errors
/// Everything that is wrong with it, by line.
pub fn read(text: &str, projects: &Projects) -> Result<Tokens, Vec<Fault>> {
    let document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            // The parser's own words name what it expected, never what it found.
            let message = format!("not TOML: {}", shown(error.message()));
            return Err(vec![Fault { line, message }]);
        }
    };
    let mut reader = Reader { text, projects, tokens: Tokens::default(), faults: Vec::new() };
    for (key, value) in document.get_ref() {
        match (&**key.get_ref(), value.get_ref()) {
            ("token", DeValue::Array(items)) => {
                for item in items {
                    reader.entry(item.span().start, item.get_ref());
                }
            }
            ("token", _) => {
                reader.fault(key.span().start, "tokens are written `[[token]]`, in double brackets");
            }
            (other, _) => {
                let message = format!("unknown key `{}`{}", shown(other), nearest::hint(other, ["token"]));
                reader.fault(key.span().start, message);
            }
        }
    }
    reader.finish()
}

struct Reader<'a> {
    text: &'a str,
    projects: &'a Projects,
    tokens: Tokens,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn fault(&mut self, offset: usize, message: impl Into<String>) {
        self.faults.push(Fault { line: line_of(self.text, offset), message: message.into() });
    }

    fn warn(&mut self, line: usize, message: impl Into<String>) {
        self.tokens.warnings.push(Fault { line, message: message.into() });
    }

    fn finish(mut self) -> Result<Tokens, Vec<Fault>> {
        if self.tokens.entries.len() > TOKENS_MAX {
            let (line, _) = self.tokens.entries[TOKENS_MAX];
            self.faults.push(Fault { line, message: format!("more than {TOKENS_MAX} tokens") });
        }
        let mut seen = std::collections::HashMap::new();
        for (line, entry) in &self.tokens.entries {
            if let Some(first) = seen.insert(entry.hash, *line) {
                let message = format!("the token of line {first} once more: each token stands here once");
                self.faults.push(Fault { line: *line, message });
            }
        }
        if self.faults.is_empty() {
            return Ok(self.tokens);
        }
        self.faults.sort_by_key(|fault| fault.line);
        Err(self.faults)
    }

    fn entry(&mut self, offset: usize, value: &DeValue<'_>) {
        let DeValue::Table(table) = value else {
            return self.fault(offset, "a token is a table with `sha256` and `principal`");
        };
        let before = self.faults.len();
        // The table's own place, where the parser does not tell it, is that of its first key.
        let offset = table.keys().map(|key| key.span().start).min().unwrap_or(offset).max(offset);
        let (mut hash, mut principal, mut agent, mut expires) = (None, None, None, None);
        let (mut grants, mut rights) = (Grants::personal(), DEFAULT_RIGHTS);
        for (key, value) in table {
            let at = key.span().start;
            let outcome = match (&**key.get_ref(), value.get_ref()) {
                ("sha256", DeValue::String(text)) => parse_hash(text).map(|found| hash = Some(found)),
                ("sha256", _) => Err("`sha256` must be text".to_owned()),
                ("principal", DeValue::String(text)) => {
                    parse_principal(text).map(|name| principal = Some(name))
                }
                ("principal", _) => Err("`principal` must be text".to_owned()),
                ("agent", DeValue::String(text)) => parse_agent(text).map(|name| agent = Some(name)),
                ("agent", _) => Err("`agent` must be text".to_owned()),
                ("projects", value) => self.grants(at, value).map(|found| grants = found),
                ("scopes", value) => parse_scopes(value).map(|found| rights = found),
                ("expires", DeValue::Datetime(at)) => {
                    parse_expires(&at.to_string()).map(|at| expires = Some(at))
                }
                ("expires", DeValue::String(at)) => parse_expires(at).map(|at| expires = Some(at)),
                ("expires", _) => Err(EXPIRES.to_owned()),
                (other, _) => Err(format!("unknown key `{}`{}", shown(other), nearest::hint(other, KEYS))),
            };
            if let Err(message) = outcome {
                self.fault(at, message);
            }
        }
        if self.faults.len() > before {
            return;
        }
        let line = line_of(self.text, offset);
        match (hash, principal) {
            (Some(hash), Some(principal)) => {
                if rights.include(Rights::MEMORY_WRITE) && !grants.can_write() {
                    self.warn(
                        line,
                        "the token has the scope `memory:write`, and no project that it may write to",
                    );
                }
                self.tokens
                    .entries
                    .push((line, TokenEntry { hash, principal, agent, grants, rights, expires }));
            }
            (None, _) => self.fault(
                offset,
                "`sha256` is missing: the SHA-256 of the token, as `tmws token new` writes it",
            ),
            (_, None) => self.fault(offset, "`principal` is missing: whom the token stands for"),
        }
    }

    fn grants(&mut self, offset: usize, value: &DeValue<'_>) -> Result<Grants, String> {
        const FORM: &str = "`projects` is a table such as `{ web = \"write\", \"*\" = \"read\" }`, or a list such as `[\"api\", \"web=write\"]`";
        let mut grants = Grants::none();
        match value {
            DeValue::Array(items) => {
                for item in items {
                    let DeValue::String(text) = item.get_ref() else { return Err(FORM.to_owned()) };
                    self.grant(offset, &mut grants, text)?;
                }
            }
            DeValue::Table(table) => {
                for (name, level) in table {
                    let DeValue::String(level) = level.get_ref() else { return Err(FORM.to_owned()) };
                    self.grant(offset, &mut grants, &format!("{}={level}", name.get_ref()))?;
                }
            }
            _ => return Err(FORM.to_owned()),
        }
        Ok(grants)
    }

    /// One project: `NAME`, `NAME=read` or `NAME=write`.
    fn grant(&mut self, offset: usize, grants: &mut Grants, text: &str) -> Result<(), String> {
        let name = grants.add(text, self.projects)?;
        if !self.projects.knows(name) {
            let line = line_of(self.text, offset);
            let names = self.projects.names();
            self.warn(
                line,
                format!("no project is configured as `{}`{}", shown(name), nearest::hint(name, names)),
            );
        }
        Ok(())
    }
}

const EXPIRES: &str =
    "`expires` is a date or a time with its zone, such as 2027-01-01 or 2027-01-01T08:00:00+01:00";

/// Reads the time after which a token is over: a date (its first moment, UTC), or a time with its zone.
///
/// # Errors
/// What would be right.
pub fn parse_expires(text: &str) -> Result<Timestamp, String> {
    let of_date = |date: Date| date.to_zoned(TimeZone::UTC).map(|zoned| zoned.timestamp());
    match text.parse::<Timestamp>() {
        Ok(at) => Ok(at),
        Err(_) if text.len() == "2027-01-01".len() => {
            text.parse::<Date>().and_then(of_date).map_err(|_| EXPIRES.to_owned())
        }
        Err(_) => Err(EXPIRES.to_owned()),
    }
}

/// Reads the name of a principal: that of an agent, or an address of mail.
///
/// # Errors
/// What would be right.
pub fn parse_principal(text: &str) -> Result<Box<str>, String> {
    let is_name = !text.is_empty()
        && text.len() <= NAME_BYTES_MAX
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.:@+".contains(&byte));
    if is_name {
        return Ok(text.into());
    }
    Err(format!(
        "a principal is named by 1 to {NAME_BYTES_MAX} letters, digits, `_`, `-`, `.`, `:`, `@` or `+`"
    ))
}

/// Reads the name of an agent, as settings and headers give it too.
///
/// # Errors
/// What would be right.
pub fn parse_agent(text: &str) -> Result<Box<str>, String> {
    if is_agent_name(text) {
        return Ok(text.into());
    }
    Err(format!("an agent is named by {AGENT_NAME}"))
}

/// Reads one scope.
///
/// # Errors
/// Which ones there are.
pub fn parse_scope(text: &str) -> Result<Rights, String> {
    Rights::parse(text).ok_or_else(|| {
        let names = Rights::NAMED.map(|(_, name)| name);
        match nearest::nearest(text, names) {
            Some(near) => format!("unknown scope `{}`; did you mean `{near}`?", shown(text)),
            None => format!("unknown scope `{}`; there are {}", shown(text), names.join(", ")),
        }
    })
}

fn parse_scopes(value: &DeValue<'_>) -> Result<Rights, String> {
    let DeValue::Array(items) = value else { return Err("`scopes` must be a list".to_owned()) };
    items.iter().try_fold(Rights::NONE, |rights, item| match item.get_ref() {
        DeValue::String(text) => Ok(rights.with(parse_scope(text)?)),
        _ => Err("`scopes` must be a list of texts".to_owned()),
    })
}

fn parse_hash(text: &DeString<'_>) -> Result<[u8; 32], String> {
    if text.starts_with("tmws_") {
        return Err("this is a token, not its SHA-256: withdraw it, since others may have read it, and make one with \
            `tmws token new`"
            .to_owned());
    }
    unhex(text).ok_or_else(|| "`sha256` must be 64 hexadecimal digits".to_owned())
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
    }
    Some(bytes)
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
}

fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(64).collect()
}

/// How `level` and a name are written where a level belongs to a project.
pub(super) fn levels() -> [&'static str; 2] {
    Level::ALL.map(Level::as_str)
}
