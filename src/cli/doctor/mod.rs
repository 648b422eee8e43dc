//! `tmws doctor`: what a host would find here, each setting with its origin, and what to do about what is wrong.

mod checks;
mod door;
mod probe;

use std::{ffi::OsString, path::PathBuf};

use serde_json::{Value, json};

use super::{Failure, Output, arguments};
use crate::{
    config::{Config, ConfigError},
    exit::Exit,
};

/// How one check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// As it should be.
    Good,
    /// Works, with something to know.
    Warning,
    /// Does not work.
    Bad,
}

impl Verdict {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "ok",
            Self::Warning => "warn",
            Self::Bad => "fail",
        }
    }
}

/// One line of the report.
struct Finding {
    subject: &'static str,
    verdict: Verdict,
    detail: String,
    /// Figures and lists for machines.
    data: Value,
}

impl Finding {
    fn new(subject: &'static str, verdict: Verdict, detail: impl Into<String>) -> Self {
        Self { subject, verdict, detail: detail.into(), data: Value::Null }
    }

    fn with(mut self, data: Value) -> Self {
        self.data = data;
        self
    }
}

/// How the probe launches a server like the one asked about.
pub(super) struct Itself {
    /// This binary.
    pub(super) program: Option<PathBuf>,
    /// The settings given as flags, to be given again.
    pub(super) flags: Vec<OsString>,
}

/// Checks everything and prints the report.
///
/// # Errors
/// Stdout is closed or full; what is wrong here is in the report, and the exit code says so.
pub(super) async fn run(
    arguments: &arguments::Doctor,
    config: Result<&Config, &ConfigError>,
    itself: &Itself,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let mut findings =
        vec![Finding::new("version", Verdict::Good, concat!("tmws ", env!("CARGO_PKG_VERSION")))];
    match config {
        Ok(config) => {
            findings.push(checks::configuration(config));
            findings.extend(checks::parts(config).await);
            findings.extend(checks::redis(config).await);
            findings.push(door::door(config));
            findings.extend(door::projects_with_roots(config));
            findings.extend(door::servers(config));
            findings.extend(checks::databases(config));
            findings.extend(checks::models(config));
        }
        Err(error) => findings.push(Finding::new("configuration", Verdict::Bad, error.to_string())),
    }
    findings.push(checks::git().await);
    findings.push(checks::schemas());
    if arguments.no_probe {
        findings.push(Finding::new("stdio", Verdict::Warning, "not probed"));
    } else {
        findings.push(checks::stdio(itself).await);
    }
    let bad = findings.iter().any(|finding| finding.verdict == Verdict::Bad);
    if output.is_json() {
        output.json(&as_json(&findings, config.ok(), bad))?;
    } else {
        let rows: Vec<[String; 3]> = findings
            .iter()
            .map(|finding| {
                [finding.verdict.as_str().to_owned(), finding.subject.to_owned(), finding.detail.clone()]
            })
            .collect();
        output.table(&rows)?;
        if let Ok(config) = config {
            output.line("")?;
            let rows: Vec<[String; 3]> = config
                .describe()
                .map(|(row, value, origin)| [row.key.to_owned(), value, origin.to_string()])
                .collect();
            output.table(&rows)?;
        }
    }
    Ok(if bad { Exit::Failed } else { Exit::Ok })
}

fn as_json(findings: &[Finding], config: Option<&Config>, bad: bool) -> Value {
    let checks: Vec<Value> = findings
        .iter()
        .map(|finding| {
            let mut value = json!({
                "subject": finding.subject, "verdict": finding.verdict.as_str(), "detail": finding.detail,
            });
            if !finding.data.is_null() {
                value["data"] = finding.data.clone();
            }
            value
        })
        .collect();
    let settings: Vec<Value> = config
        .into_iter()
        .flat_map(Config::describe)
        .map(|(row, value, origin)| json!({"key": row.key, "value": value, "origin": origin.to_string()}))
        .collect();
    json!({
        "ok": !bad, "version": env!("CARGO_PKG_VERSION"), "checks": checks, "settings": settings,
    })
}
