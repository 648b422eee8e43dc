//! `compat/expected-failures.toml`: what does not go as recorded, and why that is right. Strict: what is not listed
//! fails, and what is listed and does not happen fails too.

use std::{collections::BTreeSet, fs};

use serde::Deserialize;
use tmws::replay::{Report, Rule};

use crate::trials::root;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    expected: Vec<Entry>,
}

/// One rule that is broken at some steps of one transcript.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// `<client>-<version>/<revision>/<scenario>`.
    pub(crate) transcript: String,
    rule: String,
    /// Lines of the transcript.
    lines: Vec<usize>,
    reason: String,
}

/// Every entry.
pub(crate) fn entries() -> Vec<Entry> {
    let text = fs::read_to_string(root().join("expected-failures.toml")).unwrap();
    toml::from_str::<File>(&text).unwrap().expected
}

/// What is wrong with the entries by themselves.
pub(crate) fn faults(entries: &[Entry], names: &[String]) -> Vec<String> {
    let mut faults = Vec::new();
    for entry in entries {
        if !names.contains(&entry.transcript) {
            faults.push(format!("there is no transcript {}", entry.transcript));
        }
        if Rule::parse(&entry.rule).is_none() {
            faults.push(format!("{}: there is no rule `{}`", entry.transcript, entry.rule));
        }
        if entry.reason.split_whitespace().count() < 4 || entry.lines.is_empty() {
            faults.push(format!("{}: {} needs lines and a reason", entry.transcript, entry.rule));
        }
    }
    faults
}

/// How the findings of one transcript are not those that are expected.
pub(crate) fn judge(name: &str, report: &Report, entries: &[Entry]) -> Vec<String> {
    let mut expected: BTreeSet<(usize, &str)> = entries
        .iter()
        .filter(|entry| entry.transcript == name)
        .flat_map(|entry| entry.lines.iter().map(|line| (*line, entry.rule.as_str())))
        .collect();
    let listed = expected.clone();
    let mut faults = Vec::new();
    for (step, finding) in report.findings() {
        let key = (step.line, finding.rule.name());
        expected.remove(&key);
        if !listed.contains(&key) {
            faults.push(format!("line {} breaks `{}`: {}", key.0, key.1, finding.text));
        }
    }
    let stale = expected.into_iter();
    faults
        .extend(stale.map(|(line, rule)| format!("line {line} is expected to break `{rule}`, and does not")));
    faults
}
