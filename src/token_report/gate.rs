//! What the figures must be, and in what they are not.

use serde_json::{Value, json};

use super::{Arm, Report, Size};

/// The gate: median saving against A+, and against the shell where a task should beat it, in percent.
const MEDIAN_MIN: f64 = 40.0;
/// The gate: no small task costs more than so much over A+, nor over the shell where there is one, in percent.
pub(super) const SMALL_EXCESS_MAX: f64 = 10.0;
/// The goal: median saving against A+, in percent.
const GOAL: f64 = 70.0;
/// The four tools together, in tokens.
const SURFACE_MAX: usize = 350;
/// The session that the gate is about.
pub(super) const GATE_SESSION: usize = 5;

/// What the gate asks for and does not get.
#[derive(Clone, Debug)]
pub struct Miss {
    /// In what.
    pub kind: MissKind,
    /// With its figures, for people.
    pub text: String,
}

impl Miss {
    const fn new(kind: MissKind, text: String) -> Self {
        Self { kind, text }
    }

    /// For machines.
    pub(super) fn to_json(&self) -> Value {
        json!({"kind": self.kind.name(), "text": self.text})
    }
}

/// In what the gate is missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissKind {
    /// The median saving against MCP servers is too little.
    Median,
    /// A small task costs too much more than with MCP servers, or nothing can be compared with them.
    Servers,
    /// Too little is saved against a shell, which has no definitions to pay for.
    Shell,
    /// An arm lacks a fact that its task asks for.
    Fact,
    /// A task is not of the size that it declares.
    Size,
    /// The tools take too much.
    Surface,
}

impl MissKind {
    /// As in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Median => "median",
            Self::Servers => "servers",
            Self::Shell => "shell",
            Self::Fact => "fact",
            Self::Size => "size",
            Self::Surface => "surface",
        }
    }

    fn against(theirs: Arm) -> Self {
        if theirs == Arm::Shell { Self::Shell } else { Self::Servers }
    }
}

impl Report {
    /// The small task that costs most over `theirs` at the gate's session, and how much more in percent.
    #[must_use]
    pub fn worst_small(&self, theirs: Arm) -> Option<(&str, f64)> {
        self.rows
            .iter()
            .filter(|row| row.size == Size::Small)
            .filter_map(|row| Some((&*row.id, row.excess(theirs, GATE_SESSION)?)))
            .max_by(|(_, one), (_, other)| one.total_cmp(other))
    }

    /// What the gate asks for and does not get; empty where it is passed.
    #[must_use]
    pub fn failures(&self) -> Vec<Miss> {
        let mut failures = Vec::new();
        for (theirs, only_s, what) in [
            (Arm::ServersWithGrep, false, "against A+"),
            (Arm::Shell, true, "against C on the tasks that should beat a shell"),
        ] {
            let miss = |text| Miss::new(MissKind::against(theirs), text);
            match self.aggregate(Arm::Tmws, theirs, GATE_SESSION, only_s) {
                Some(found) if found.median >= MEDIAN_MIN => {}
                Some(found) => {
                    let text = format!(
                        "the median saving {what} is {:.0} %, wanted are {MEDIAN_MIN} %",
                        found.median
                    );
                    let kind = if theirs == Arm::Shell { MissKind::Shell } else { MissKind::Median };
                    failures.push(Miss::new(kind, text));
                }
                None => failures.push(miss(format!("nothing can be compared {what}"))),
            }
        }
        for row in &self.rows {
            for (arm, figures) in &row.figures {
                // A shell that lacks a fact would take its task out of the comparison unseen.
                if arm.is_ours() || *arm == Arm::Shell {
                    failures.extend(figures.missing.iter().map(|fact| {
                        let text = format!("{}: arm {} lost the fact `{fact}`", row.id, arm.label());
                        Miss::new(MissKind::Fact, text)
                    }));
                }
            }
            if row.declared != row.size {
                let (declared, is) = (row.declared.name(), row.size.name());
                let text = format!("{}: declared {declared}, in the shell it is {is}", row.id);
                failures.push(Miss::new(MissKind::Size, text));
            }
            if row.size != Size::Small {
                continue;
            }
            for (theirs, than) in [(Arm::ServersWithGrep, "with A+"), (Arm::Shell, "in the shell")] {
                let excess = row.excess(theirs, GATE_SESSION).unwrap_or(0.0);
                if excess > SMALL_EXCESS_MAX {
                    let text = format!(
                        "{}: a small task costs {excess:.0} % more than {than}, allowed are {SMALL_EXCESS_MAX} %",
                        row.id
                    );
                    failures.push(Miss::new(MissKind::against(theirs), text));
                }
            }
        }
        if self.surface > SURFACE_MAX {
            let text = format!("the four tools take {} tokens, allowed are {SURFACE_MAX}", self.surface);
            failures.push(Miss::new(MissKind::Surface, text));
        }
        failures
    }

    /// Whether the goal beyond the gate is reached.
    #[must_use]
    pub fn reaches_goal(&self) -> bool {
        self.aggregate(Arm::Tmws, Arm::ServersWithGrep, GATE_SESSION, false)
            .is_some_and(|found| found.median >= GOAL)
    }
}
