//! Text that stands for other text in a conversation: `${…}`.

use std::collections::BTreeMap;

use serde_json::Value;
use tmws::revision::Revision;

use super::{catalogue, conversation::Header, matcher::Captures};

/// What `${NAME}` stands for while one conversation is played.
pub(crate) struct Texts<'a> {
    lets: &'a BTreeMap<String, String>,
    builtins: BTreeMap<&'static str, String>,
    /// What was captured from frames so far.
    pub(crate) captures: Captures,
}

impl<'a> Texts<'a> {
    /// The names of the header and the built-in ones; `session` is the revision of this play.
    pub(crate) fn new(header: &'a Header, session: Option<Revision>) -> Self {
        let capabilities = Value::Object(header.capabilities.clone());
        let builtins = BTreeMap::from([
            (
                "claim",
                format!(
                    r#""_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{capabilities}}}"#
                ),
            ),
            (
                "served",
                r#""resultType":"complete","_meta":{"io.modelcontextprotocol/serverInfo":${server}}"#
                    .to_owned(),
            ),
            ("server", catalogue::server_info().to_string()),
            ("listed", r#""ttlMs":60000,"cacheScope":"private""#.to_owned()),
            ("read", r#""ttlMs":5000,"cacheScope":"public""#.to_owned()),
            ("revision", session.map_or_else(String::new, |revision| revision.to_string())),
        ]);
        Self { lets: &header.lets, builtins, captures: Captures::new() }
    }

    /// The JSON that a line holds once everything is replaced.
    pub(crate) fn json(&self, text: &str) -> Result<Value, String> {
        let text = self.expand(text)?;
        serde_json::from_str(&text).map_err(|error| format!("the line is no JSON ({error}): {text}"))
    }

    /// Replaces every `${…}`.
    pub(crate) fn expand(&self, text: &str) -> Result<String, String> {
        self.expand_below(text, 8)
    }

    fn expand_below(&self, text: &str, depth: usize) -> Result<String, String> {
        if depth == 0 {
            return Err(format!("${{…}} stands for itself in {text}"));
        }
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("${") {
            out.push_str(&rest[..start]);
            let inside = &rest[start + 2..];
            // At least one character stands between the braces, so that `${3*}}` repeats a brace.
            let digits = inside.len() - inside.trim_start_matches(|digit: char| digit.is_ascii_digit()).len();
            let repeated = digits > 0 && inside[digits..].starts_with('*');
            let from = if repeated { digits + 2 } else { 1 };
            let end = inside.get(from..).and_then(|tail| tail.find('}')).map(|end| end + from);
            let end = end.ok_or_else(|| format!("a `${{` is not closed in {text}"))?;
            if repeated {
                let count: usize = inside[..digits].parse().map_err(|error| format!("{text}: {error}"))?;
                let text = &inside[digits + 1..end];
                let text = match text.strip_prefix('@') {
                    Some(name) => self.expand_below(self.meaning(name)?, depth - 1)?,
                    None => text.to_owned(),
                };
                out.push_str(&text.repeat(count));
            } else {
                out.push_str(&self.expand_below(self.meaning(&inside[..end])?, depth - 1)?);
            }
            rest = &inside[end + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }

    /// What `${name}` stands for.
    fn meaning(&self, name: &str) -> Result<&str, String> {
        self.captures
            .get(name)
            .or_else(|| self.lets.get(name))
            .or_else(|| self.builtins.get(name))
            .map(String::as_str)
            .ok_or_else(|| format!("nothing is called ${{{name}}}"))
    }
}
