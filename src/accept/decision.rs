//! GO, GO WITH WARNINGS, or NO-GO.

use std::fmt;

use super::{
    Profile,
    scenario::{Level, Result, Verdict},
    table,
};

/// Scenarios that must pass.
pub const PASSED_MIN: usize = 43;
/// From so many on there is no warning for their number.
pub const PASSED_WELL: usize = 45;

/// The decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Trust it.
    Go,
    /// Trust it, and look at what is yellow.
    GoWithWarnings,
    /// Do not.
    NoGo,
    /// Of a run that decides nothing (the quick profile, some scenarios, another server): all that ran passed.
    Pass,
    /// Of such a run: something that ran did not pass, or it was interrupted.
    Fail,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Go => "GO",
            Self::GoWithWarnings => "GO WITH WARNINGS",
            Self::NoGo => "NO-GO",
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
        })
    }
}

/// What a run was asked for, and whether it got to its end.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// How much was done.
    pub profile: Profile,
    /// Every scenario of the table was asked for, of a deployment of the run's own.
    pub is_whole: bool,
    /// Scenarios that were asked for.
    pub scenarios: usize,
    /// It was ended before all of them had.
    pub is_interrupted: bool,
}

/// The decision and why.
#[derive(Clone, Debug)]
pub struct Decided {
    /// What is decided.
    pub decision: Decision,
    /// In sentences, the weightiest first.
    pub reasons: Vec<String>,
    /// Something was waived: the decision is about part of the deployment.
    pub is_partial: bool,
    /// Scenarios that passed, those with a warning included.
    pub passed: usize,
    /// Scenarios that passed with a figure past its target.
    pub warned: usize,
}

/// How much a reason weighs, the weightiest first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Weight {
    Number,
    Vital,
    Critical,
    Failed,
    Interrupted,
    Warned,
    Waived,
}

impl Decided {
    /// Of all results of a run.
    #[must_use]
    pub fn of(results: &[Result], asked: Asked) -> Self {
        let passed = results.iter().filter(|result| result.is_passed()).count();
        let warned = results.iter().filter(|result| result.verdict == Verdict::Warned).count();
        let waived = results.iter().filter(|result| result.verdict == Verdict::Waived).count();
        let failed: Vec<&Result> = results.iter().filter(|result| result.verdict.is_failure()).collect();
        let mut reasons: Vec<(Weight, String)> = failed.iter().map(|result| reason(result)).collect();
        let is_no_go = reasons.iter().any(|(weight, _)| *weight <= Weight::Critical);
        if warned > 0 {
            reasons.push((Weight::Warned, format!("{warned} passed with a figure past its target")));
        }
        if waived > 0 {
            reasons.push((
                Weight::Waived,
                format!("{waived} did not run: what they need was waived, or they do not apply"),
            ));
        }
        if asked.is_interrupted {
            let text =
                format!("the run was interrupted after {} of {} scenarios", results.len(), asked.scenarios);
            reasons.push((Weight::Interrupted, text));
        }
        let decides = asked.profile == Profile::Full && asked.is_whole;
        // How many passed is known at the end alone; a failure that decides is one at any time.
        let decision = if !decides || (asked.is_interrupted && !is_no_go) {
            if failed.is_empty() && passed > 0 && !asked.is_interrupted {
                Decision::Pass
            } else {
                Decision::Fail
            }
        } else if is_no_go || passed < PASSED_MIN {
            if passed < PASSED_MIN && !asked.is_interrupted {
                let text = format!("{passed} of {} passed; {PASSED_MIN} must", table::SCENARIOS.len());
                reasons.push((Weight::Number, text));
            }
            Decision::NoGo
        } else if passed < PASSED_WELL || warned > 0 {
            Decision::GoWithWarnings
        } else {
            Decision::Go
        };
        if passed == 0 && failed.is_empty() && !asked.is_interrupted {
            reasons.push((Weight::Number, "nothing ran: this proves nothing".to_owned()));
        }
        if reasons.is_empty() {
            reasons.push((Weight::Number, format!("{passed} of {} passed", asked.scenarios)));
        }
        reasons.sort_by_key(|(weight, _)| *weight);
        let reasons = reasons.into_iter().map(|(_, text)| text).collect();
        Self { decision, reasons, is_partial: waived > 0, passed, warned }
    }

    /// The exit code: 0 or 1. With `is_strict` warnings are 1.
    #[must_use]
    pub const fn exit_code(&self, is_strict: bool) -> u8 {
        match self.decision {
            Decision::Go => 0,
            Decision::Pass => (is_strict && self.warned > 0) as u8,
            Decision::GoWithWarnings => is_strict as u8,
            Decision::NoGo | Decision::Fail => 1,
        }
    }
}

/// Why `result`, a failure, counts against the decision.
fn reason(result: &Result) -> (Weight, String) {
    let row = result.row;
    let failed =
        if result.verdict == Verdict::Missing { "could not run: what it needs is missing" } else { "failed" };
    let critical = result.seen.figures.iter().find_map(|(name, value)| {
        let figure = row.figure(name)?;
        (figure.level(*value) == Level::Critical).then_some((figure, *value))
    });
    match critical {
        _ if row.is_vital => (Weight::Vital, format!("{} {}: {failed}; it must not fail", row.id, row.title)),
        Some((figure, value)) if value.is_nan() => {
            (Weight::Critical, format!("{} {}: {} could not be measured", row.id, row.title, figure.name))
        }
        Some((figure, value)) => {
            let value = super::report::with_unit(value, figure.unit);
            (
                Weight::Critical,
                format!("{} {}: {} is {value}, past what is critical", row.id, row.title, figure.name),
            )
        }
        None => (Weight::Failed, format!("{} {}: {failed}", row.id, row.title)),
    }
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
