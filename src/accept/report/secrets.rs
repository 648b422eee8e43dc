//! Nothing that opens anything may stand in a report.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

use crate::accept::{Run, scenario::Frame};

const GONE: &str = "[secret]";

/// What looks like a secret wherever it stands, and what stands there instead.
static LOOKS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        // Userinfo of addresses.
        (r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s@\x22'<>]*@", "${1}[secret]@"),
        // Tokens of this program and of the run's people.
        (r"\btmws_(?:accept_[a-z0-9]+_)?[A-Za-z0-9-]{24,}", GONE),
        // Headers.
        (r"(?i)((?:bearer|basic)\s+)[A-Za-z0-9._~+/=-]{8,}", "${1}[secret]"),
        // Members and parameters that say what they are.
        (
            r"(?i)((?:password|passwd|secret|api[_-]?key|access[_-]?token|state[_-]?key)[\x22']?\s*[:=]\s*[\x22']?)[^\x22'\s,;&}]{4,}",
            "${1}[secret]",
        ),
    ]
    .into_iter()
    .map(|(pattern, instead)| (Regex::new(pattern).expect("a pattern of this file"), instead))
    .collect()
});

/// `text` without what looks like a secret.
#[must_use]
pub fn without_secrets(text: &str) -> String {
    Secrets::default().hidden(text)
}

/// What must not be told: whatever looks like it, and these texts.
#[derive(Clone, Default)]
pub struct Secrets(Vec<String>);

impl Secrets {
    /// With texts that are secrets, whatever they look like. Of addresses their password counts.
    pub fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut known: Vec<String> = texts
            .into_iter()
            .filter_map(|text| match text.split_once("://") {
                Some((_, rest)) => {
                    let (user, _) = rest.split('/').next()?.rsplit_once('@')?;
                    Some(user.split_once(':').map_or(user, |(_, password)| password).to_owned())
                }
                None => Some(text.to_owned()),
            })
            .filter(|text| !text.is_empty())
            .collect();
        // A secret may hold another one.
        known.sort_by_key(|text| std::cmp::Reverse(text.len()));
        Self(known)
    }

    /// `text` without them.
    #[must_use]
    pub fn hidden(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.0 {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), GONE);
            }
        }
        for (look, instead) in LOOKS.iter() {
            if look.is_match(&text) {
                text = look.replace_all(&text, *instead).into_owned();
            }
        }
        text
    }

    /// Takes them out of everything that a run tells.
    pub(super) fn hide(&self, run: &mut Run) {
        let hide = |text: &mut String| *text = self.hidden(text);
        run.decided.reasons.iter_mut().for_each(hide);
        for (_, value) in run.environment.iter_mut().chain(&mut run.settings) {
            hide(value);
        }
        for result in &mut run.results {
            result.why.iter_mut().for_each(hide);
            let seen = &mut result.seen;
            for check in &mut seen.checks {
                [&mut check.what, &mut check.expected, &mut check.seen].into_iter().for_each(hide);
            }
            seen.evidence.iter_mut().for_each(hide);
            for Frame { text, client, .. } in &mut seen.frames {
                hide(text);
                hide(client);
            }
            for series in &mut seen.series {
                hide(&mut series.name);
                series.marks.iter_mut().for_each(|(_, text)| hide(text));
            }
            seen.distributions.iter_mut().for_each(|distribution| hide(&mut distribution.name));
            seen.data.iter_mut().for_each(|(_, value)| self.hide_in(value));
        }
    }

    fn hide_in(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.hidden(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.hide_in(item)),
            Value::Object(members) => {
                *members = std::mem::take(members)
                    .into_iter()
                    .map(|(name, mut member)| {
                        self.hide_in(&mut member);
                        (self.hidden(&name), member)
                    })
                    .collect();
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accept::stage::AGENTS;

    #[test]
    fn what_opens_something_is_not_told() {
        let given =
            Secrets::new(["s3cr3t-of-the-target", "postgres://me:pass%20word@db/x", "redis://plain:6379"]);
        let token = AGENTS[0].token();
        for (text, wanted) in [
            (format!("authorization: Bearer {token}"), "authorization: Bearer [secret]".to_owned()),
            (format!("it said {token}, twice"), "it said [secret], twice".to_owned()),
            (
                "postgres://postgres:hunter2@127.0.0.1:5/x".to_owned(),
                "postgres://[secret]@127.0.0.1:5/x".to_owned(),
            ),
            ("wrong: pass%20word".to_owned(), "wrong: [secret]".to_owned()),
            ("the s3cr3t-of-the-target".to_owned(), "the [secret]".to_owned()),
            (r#"{"password":"abcdef","n":1}"#.to_owned(), r#"{"password":"[secret]","n":1}"#.to_owned()),
            ("redis://plain:6379 stays".to_owned(), "redis://plain:6379 stays".to_owned()),
            ("database tmws_accept_123_m1_0".to_owned(), "database tmws_accept_123_m1_0".to_owned()),
        ] {
            assert_eq!(given.hidden(&text), wanted);
        }
    }
}
