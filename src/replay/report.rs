//! What came of a replay: for people, and for machines.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Value, json};

use super::{message::clip, rules::Rule, script::Head};

/// Longest JSON text that is shown to a person.
const SHOWN_CHARACTERS_MAX: usize = 400;

/// What came of one transcript.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was played, and against what.
    pub title: String,
    /// Each thing that the client did, in order.
    pub steps: Vec<StepReport>,
    /// What was left out or done otherwise, and why that is no fault.
    pub notes: Vec<Note>,
    /// Messages of the server that belong to no request, as they came.
    pub unasked: Vec<Value>,
}

/// A remark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Line of the transcript.
    pub line: usize,
    /// What.
    pub text: String,
}

/// One thing that the client did, and what came of it.
#[derive(Clone, Debug, Default)]
pub struct StepReport {
    /// Line of the transcript.
    pub line: usize,
    /// In words.
    pub sent: String,
    /// Whether it was done at all.
    pub was_played: bool,
    /// The head of the response, where HTTP was spoken.
    pub head: Option<Head>,
    /// Each request in it.
    pub requests: Vec<RequestReport>,
    /// Rules that were broken.
    pub findings: Vec<Finding>,
}

/// One request, and what came of it.
#[derive(Clone, Debug, Default)]
pub struct RequestReport {
    /// The id, as the client has it.
    pub id: Value,
    /// The method.
    pub method: String,
    /// The recorded answer.
    pub recorded: Option<Value>,
    /// Whether the client cancelled or left it.
    pub is_let_go: bool,
    /// Live answers: one, mostly.
    pub answers: Vec<Value>,
    /// Progress that came for it.
    pub progress: Vec<Value>,
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// Which.
    pub rule: Rule,
    /// Place in the message, where there is one: a JSON pointer.
    pub at: String,
    /// How.
    pub text: String,
    /// What came.
    pub came: Option<Value>,
}

impl Report {
    /// Every finding, in the order of the steps.
    pub fn findings(&self) -> impl Iterator<Item = (&StepReport, &Finding)> {
        self.steps.iter().flat_map(|step| step.findings.iter().map(move |finding| (step, finding)))
    }

    /// Whether no rule was broken.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.findings().next().is_none()
    }

    /// Takes away what broke `rules`, and says so.
    pub fn allow(&mut self, rules: &[Rule]) {
        for step in &mut self.steps {
            let (allowed, rest): (Vec<_>, Vec<_>) =
                std::mem::take(&mut step.findings).into_iter().partition(|found| rules.contains(&found.rule));
            step.findings = rest;
            self.notes.extend(allowed.into_iter().map(|found| Note {
                line: step.line,
                text: format!("allowed: {}: {}", found.rule.name(), found.text),
            }));
        }
        self.notes.sort_by_key(|note| note.line);
    }

    /// Steps, requests, answers.
    fn counts(&self) -> Counts {
        let requests = || self.steps.iter().flat_map(|step| &step.requests);
        let mut broken: BTreeMap<&'static str, usize> = BTreeMap::new();
        for (_, finding) in self.findings() {
            *broken.entry(finding.rule.name()).or_default() += 1;
        }
        Counts {
            steps: self.steps.len(),
            unplayed: self.steps.iter().filter(|step| !step.was_played).count(),
            requests: requests().count(),
            answers: requests().map(|request| request.answers.len()).sum(),
            let_go: requests().filter(|request| request.is_let_go).count(),
            broken,
        }
    }

    /// For people: the steps with findings (all of them if `is_verbose`), the notes, the counts.
    #[must_use]
    pub fn to_text(&self, is_verbose: bool) -> String {
        let mut text = format!("{}\n", self.title);
        for step in &self.steps {
            if !is_verbose && step.findings.is_empty() {
                continue;
            }
            let mark = match (step.findings.is_empty(), step.was_played) {
                (true, true) => "ok  ",
                (true, false) => "--  ",
                (false, _) => "FAIL",
            };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {mark} line {}: {}", step.line, step.sent);
            for finding in &step.findings {
                let at = if finding.at.is_empty() { String::new() } else { format!(" at {}", finding.at) };
                let _ = writeln!(text, "       {}{at}: {}", finding.rule.name(), finding.text);
            }
            step.diff(&mut text);
        }
        for note in &self.notes {
            let _ = writeln!(text, "  note line {}: {}", note.line, note.text);
        }
        let counts = self.counts();
        let _ = write!(
            text,
            "  {}: {} steps, {} requests, {} answers",
            if counts.broken.is_empty() { "ok" } else { "FAILED" },
            counts.steps,
            counts.requests,
            counts.answers
        );
        for (count, what) in [(counts.let_go, "cancelled or left"), (counts.unplayed, "steps not played")] {
            if count > 0 {
                let _ = write!(text, ", {count} {what}");
            }
        }
        for (rule, count) in &counts.broken {
            let _ = write!(text, ", {count} × {rule}");
        }
        text.push('\n');
        text
    }

    /// For machines.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let counts = self.counts();
        let steps: Vec<Value> = self.steps.iter().map(StepReport::to_json).collect();
        let notes: Vec<Value> =
            self.notes.iter().map(|note| json!({"line": note.line, "text": note.text})).collect();
        json!({
            "title": self.title,
            "ok": self.is_ok(),
            "counts": {
                "steps": counts.steps, "unplayed": counts.unplayed, "requests": counts.requests,
                "answers": counts.answers, "let_go": counts.let_go, "broken": counts.broken,
            },
            "steps": steps,
            "notes": notes,
            "unasked": self.unasked,
        })
    }
}

struct Counts {
    steps: usize,
    unplayed: usize,
    requests: usize,
    answers: usize,
    let_go: usize,
    broken: BTreeMap<&'static str, usize>,
}

impl StepReport {
    /// What was recorded and what came, where they differ in more than words can tell.
    fn diff(&self, text: &mut String) {
        let tells = |finding: &Finding| !matches!(finding.rule, Rule::Connect | Rule::Ended | Rule::Revision);
        if !self.findings.iter().any(tells) {
            return;
        }
        for request in &self.requests {
            if let Some(recorded) = &request.recorded {
                let _ = writeln!(text, "       - {}", shown(recorded));
            }
            for answer in &request.answers {
                let _ = writeln!(text, "       + {}", shown(answer));
            }
        }
        for came in self.findings.iter().filter_map(|finding| finding.came.as_ref()) {
            let is_an_answer = self.requests.iter().any(|request| request.answers.contains(came));
            if !is_an_answer {
                let _ = writeln!(text, "       + {}", shown(came));
            }
        }
    }

    fn to_json(&self) -> Value {
        let requests: Vec<Value> = self
            .requests
            .iter()
            .map(|request| {
                json!({
                    "id": request.id, "method": request.method, "recorded": request.recorded,
                    "let_go": request.is_let_go, "answers": request.answers, "progress": request.progress,
                })
            })
            .collect();
        let findings: Vec<Value> = self
            .findings
            .iter()
            .map(|finding| {
                json!({"rule": finding.rule.name(), "at": finding.at, "text": finding.text, "came": finding.came})
            })
            .collect();
        let head =
            self.head.as_ref().map(|head| json!({"status": head.status, "content_type": head.content_type}));
        json!({
            "line": self.line, "sent": self.sent, "played": self.was_played, "http": head,
            "requests": requests, "findings": findings,
        })
    }
}

/// A message without what every message has.
fn shown(message: &Value) -> String {
    let mut message = message.clone();
    if let Some(members) = message.as_object_mut() {
        members.shift_remove("jsonrpc");
    }
    clip(&message.to_string(), SHOWN_CHARACTERS_MAX)
}
