//! What a scenario is: its row in the table, what a run of it saw, and what that means.

use std::time::Duration;

use serde_json::Value;

/// What a scenario speaks for, and whom to call first where it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    /// How fast, how much, how evenly.
    Performance,
    /// Who may see and do what.
    Security,
    /// What is kept, and that it stays what it was.
    Data,
    /// What clients and servers say to one another.
    Protocol,
}

impl Area {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Performance, Self::Security, Self::Data, Self::Protocol];

    /// As reports write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Performance => "performance",
            Self::Security => "security",
            Self::Data => "data",
            Self::Protocol => "protocol",
        }
    }

    /// Whom to call first where a scenario of this area fails.
    #[must_use]
    pub const fn call_first(self) -> &'static str {
        match self {
            Self::Performance => {
                "whoever runs the machine: capacity, limits and neighbours first, then the release"
            }
            Self::Security => {
                "whoever answers for access: take the server from the network until this is explained"
            }
            Self::Data => "whoever runs the database: stop writers and take a backup before anything else",
            Self::Protocol => {
                "whoever maintains the clients and this release: a client's frames are in the report"
            }
        }
    }
}

/// What a scenario cannot do without. Where it is missing the scenario fails, unless it was waived aloud.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A PostgreSQL server with pgvector.
    Postgres,
    /// A PostgreSQL server of the run's own, which may be killed.
    OwnPostgres,
    /// A Redis server.
    Redis,
    /// Redis servers of the run's own, which may be killed.
    OwnRedis,
}

impl Need {
    /// As reports write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Postgres => "PostgreSQL",
            Self::OwnPostgres => "PostgreSQL (its own)",
            Self::Redis => "Redis",
            Self::OwnRedis => "Redis (its own)",
        }
    }
}

/// Which way a figure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// Less is better: the figure is below its thresholds.
    Less,
    /// More is better: the figure is above them.
    More,
}

/// A figure of a scenario and its thresholds.
#[derive(Clone, Copy, Debug)]
pub struct FigureRow {
    /// As reports and `metrics.json` name it, in snake case.
    pub name: &'static str,
    /// `ms`, `%`, `calls/s`, `x` (a ratio), `s`, `MB`, or nothing for a count.
    pub unit: &'static str,
    /// Which way it is better.
    pub better: Better,
    /// Past it a figure is a warning; `None` of one that is only printed.
    pub target: Option<f64>,
    /// Past it the decision is NO-GO.
    pub critical: Option<f64>,
}

/// A scenario as the table has it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// `M1` to `E5`.
    pub id: &'static str,
    /// What it is called.
    pub title: &'static str,
    /// What it does, in a sentence.
    pub what: &'static str,
    /// What it speaks for.
    pub area: Area,
    /// What it cannot do without.
    pub needs: &'static [Need],
    /// What it measures.
    pub figures: &'static [FigureRow],
    /// Any failure of it is NO-GO.
    pub is_vital: bool,
    /// It applies to any MCP server, not only to this one.
    pub is_of_any_server: bool,
    /// Runs in the full profile alone.
    pub is_full_only: bool,
    /// About how long it takes, in seconds: in the quick and in the full profile.
    pub seconds: (u32, u32),
}

impl Row {
    /// The figure called `name`.
    #[must_use]
    pub fn figure(&self, name: &str) -> Option<&'static FigureRow> {
        self.figures.iter().find(|figure| figure.name == name)
    }

    /// The same, held against [`FigureRow::slackened`] figures. It is kept until the process ends.
    #[must_use]
    pub fn slackened(&'static self, slack: u32) -> &'static Self {
        if slack <= 1 {
            return self;
        }
        let figures: Vec<FigureRow> = self.figures.iter().map(|figure| figure.slackened(slack)).collect();
        Box::leak(Box::new(Self { figures: figures.leak(), ..*self }))
    }
}

/// How good a figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Printed only, or within its target.
    Good,
    /// Within its target, or within what is critical, by less than a tenth.
    Near,
    /// Between target and critical.
    Warning,
    /// Past critical.
    Critical,
}

impl FigureRow {
    /// The same, where what tells how fast it goes may be `slack` times worse: times, rates, and how times compare. What is
    /// counted, kept or lost is what it is.
    #[must_use]
    pub fn slackened(self, slack: u32) -> Self {
        let by = match (self.unit, self.better) {
            ("ms" | "s" | "x", Better::Less) => f64::from(slack),
            ("calls/s", Better::More) => 1.0 / f64::from(slack),
            _ => 1.0,
        };
        Self { target: self.target.map(|it| it * by), critical: self.critical.map(|it| it * by), ..self }
    }

    /// How good `value` is. A value at a threshold has met it.
    #[must_use]
    pub fn level(&self, value: f64) -> Level {
        let is_past = |threshold: f64| match self.better {
            Better::Less => value > threshold,
            Better::More => value < threshold,
        };
        // A figure that is no number was not measured.
        if value.is_nan() || self.critical.is_some_and(is_past) {
            return Level::Critical;
        }
        if self.target.is_some_and(is_past) {
            return Level::Warning;
        }
        // All of all is as good as can be.
        if self.unit == "%" && self.better == Better::More && value >= 100.0 {
            return Level::Good;
        }
        let is_near = self.target.or(self.critical).is_some_and(|threshold| {
            let from = (value - threshold).abs();
            from > 0.0 && from < threshold.abs() * 0.1
        });
        if is_near { Level::Near } else { Level::Good }
    }
}

/// Something that had to hold.
#[derive(Clone, Debug)]
pub struct Check {
    /// What was done or looked at.
    pub what: String,
    /// What it should have given.
    pub expected: String,
    /// What it gave.
    pub seen: String,
    /// Whether it did.
    pub held: bool,
}

/// Times of calls of one kind.
#[derive(Clone, Debug, Default)]
pub struct Distribution {
    /// What was called: `matching`, `infrastructure`, `memory`, `hybrid`, or another name.
    pub name: String,
    /// Since the scenario's begin, and how long the call took.
    pub calls: Vec<(Duration, Duration)>,
}

/// Something over time.
#[derive(Clone, Debug, Default)]
pub struct Series {
    /// What it is.
    pub name: String,
    /// As of a figure.
    pub unit: &'static str,
    /// Since the scenario's begin.
    pub points: Vec<(Duration, f64)>,
    /// What happened when.
    pub marks: Vec<(Duration, String)>,
}

/// A frame that a client of the run sent or received.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Since the client connected.
    pub at: Duration,
    /// Whose.
    pub client: String,
    /// The run sent it.
    pub is_sent: bool,
    /// At most some kilobytes of it.
    pub text: String,
}

/// What a run of a scenario saw.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Name, as in the row, and value.
    pub figures: Vec<(&'static str, f64)>,
    /// What had to hold.
    pub checks: Vec<Check>,
    /// In sentences.
    pub evidence: Vec<String>,
    /// Why what the scenario is about does not apply to this server, where it does not.
    pub excuse: Option<String>,
    /// Times of calls.
    pub distributions: Vec<Distribution>,
    /// Curves over time.
    pub series: Vec<Series>,
    /// Around what did not hold.
    pub frames: Vec<Frame>,
    /// More for `metrics.json`, as it is.
    pub data: Vec<(&'static str, Value)>,
}

impl Seen {
    /// Notes a figure of the scenario's row.
    pub fn figure(&mut self, name: &'static str, value: f64) {
        self.figures.push((name, value));
    }

    /// Notes what had to hold, and whether it did.
    pub fn check(
        &mut self,
        what: impl Into<String>,
        held: bool,
        expected: impl Into<String>,
        seen: impl Into<String>,
    ) {
        self.checks.push(Check { what: what.into(), expected: expected.into(), seen: seen.into(), held });
    }

    /// Notes that two values had to be equal.
    pub fn equal<T: PartialEq + std::fmt::Debug>(&mut self, what: impl Into<String>, expected: &T, seen: &T) {
        self.check(what, expected == seen, format!("{expected:?}"), format!("{seen:?}"));
    }

    /// Notes that the server does not have what the scenario is about, which others need not have: it has not passed then.
    pub fn does_not_apply(&mut self, why: impl Into<String>) {
        self.excuse = Some(why.into());
    }

    /// Notes something that a reader should know.
    pub fn note(&mut self, text: impl Into<String>) {
        self.evidence.push(text.into());
    }
}

/// Why a scenario could not be run to its end: as good as a check that did not hold.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{what}: expected {expected}, seen {seen}")]
pub struct Broken {
    /// What was done.
    pub what: String,
    /// What it should have given.
    pub expected: String,
    /// What it gave.
    pub seen: String,
    /// The frames around it.
    pub frames: Vec<Frame>,
    /// Not the scenario broke: what it needs is not there.
    pub is_missing: bool,
}

impl Broken {
    /// `what` was done and should have given `expected`.
    pub fn new(what: impl Into<String>, expected: impl Into<String>, seen: impl std::fmt::Display) -> Self {
        Self {
            what: what.into(),
            expected: expected.into(),
            seen: seen.to_string(),
            frames: Vec::new(),
            is_missing: false,
        }
    }

    /// The same, because what the scenario needs is not there.
    #[must_use]
    pub fn missing(self) -> Self {
        Self { is_missing: true, ..self }
    }
}

/// How a scenario ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// All checks held, no figure is past what is critical.
    Passed,
    /// The same, and a figure is past its target.
    Warned,
    /// A check did not hold, a figure is past critical or missing, or it broke off.
    Failed,
    /// What it needs is not there. Counts as failed.
    Missing,
    /// What it needs was waived aloud, or it does not apply here.
    Waived,
}

impl Verdict {
    /// As reports and `metrics.json` write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Warned => "warned",
            Self::Failed => "failed",
            Self::Missing => "missing",
            Self::Waived => "waived",
        }
    }

    /// Whether it counts against the decision.
    #[must_use]
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::Missing)
    }
}

/// A scenario that was run.
#[derive(Clone, Debug)]
pub struct Result {
    /// Which.
    pub row: &'static Row,
    /// How it ended.
    pub verdict: Verdict,
    /// What was seen.
    pub seen: Seen,
    /// Why it broke off, what was missing or waived.
    pub why: Option<String>,
    /// How long it took.
    pub elapsed: Duration,
}

impl Result {
    /// What `seen` means for `row`.
    #[must_use]
    pub fn of(row: &'static Row, mut seen: Seen, elapsed: Duration) -> Self {
        let mut verdict = Verdict::Passed;
        let mut why = None;
        for figure in row.figures {
            let Some((_, value)) = seen.figures.iter().find(|(name, _)| *name == figure.name) else {
                verdict = Verdict::Failed;
                why = Some(format!("the figure {} was not measured", figure.name));
                continue;
            };
            match figure.level(*value) {
                Level::Critical => verdict = Verdict::Failed,
                Level::Warning if verdict == Verdict::Passed => verdict = Verdict::Warned,
                Level::Warning | Level::Near | Level::Good => {}
            }
        }
        // A scenario without anything that can fail proves nothing.
        if seen.checks.iter().any(|check| !check.held) || (seen.checks.is_empty() && row.figures.is_empty()) {
            verdict = Verdict::Failed;
        }
        // What was found wrong on the way stays wrong.
        if let (Some(excuse), false) = (seen.excuse.take(), verdict == Verdict::Failed) {
            (verdict, why) = (Verdict::Waived, Some(excuse));
        }
        Self { row, verdict, seen, why, elapsed }
    }

    /// One that broke off.
    #[must_use]
    pub fn broken(row: &'static Row, mut seen: Seen, broken: Broken, elapsed: Duration) -> Self {
        let why = broken.to_string();
        let verdict = if broken.is_missing { Verdict::Missing } else { Verdict::Failed };
        seen.check(broken.what, false, broken.expected, broken.seen);
        seen.frames.extend(broken.frames);
        Self { row, verdict, seen, why: Some(why), elapsed }
    }

    /// Whether it counts as passed.
    #[must_use]
    pub const fn is_passed(&self) -> bool {
        matches!(self.verdict, Verdict::Passed | Verdict::Warned)
    }
}
