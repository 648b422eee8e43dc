//! An earlier run, and how this one differs.

use std::{collections::HashMap, fmt::Write as _, fs, path::Path};

use jiff::Timestamp;
use serde_json::Value;

use super::{
    metrics,
    text::{BEGUN, number, with_unit},
};
use crate::accept::{
    AcceptError, Run,
    scenario::{Better, FigureRow},
};

/// Within so much two runs are the same: noise.
const NOISE: f64 = 0.1;

/// `metrics.json` of an earlier run.
#[derive(Clone, Debug)]
pub struct Previous {
    told: Value,
    figures: HashMap<(String, String), f64>,
    verdicts: HashMap<String, String>,
}

/// How a figure differs from an earlier one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Difference {
    /// In words, with the earlier value.
    pub(super) text: String,
    /// `better`, `worse`, or `same` within noise.
    pub(super) way: &'static str,
}

impl Previous {
    /// Reads it.
    ///
    /// # Errors
    /// It cannot be read, or is no `metrics.json`.
    pub fn read(path: &Path) -> Result<Self, AcceptError> {
        let wrong = |why: String| AcceptError::Option(format!("--previous {}: {why}", path.display()));
        let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let told: Value = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if let Some(fault) = metrics::faults(&told).into_iter().next() {
            return Err(wrong(format!("it is no metrics.json of a run: {fault}")));
        }
        Ok(Self::of(told))
    }

    pub(super) fn of(told: Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (mut figures, mut verdicts) = (HashMap::new(), HashMap::new());
        for scenario in told["scenarios"].as_array().into_iter().flatten() {
            let id = text(&scenario["id"]);
            for figure in scenario["figures"].as_array().into_iter().flatten() {
                if let Some(value) = figure["value"].as_f64() {
                    figures.insert((id.clone(), text(&figure["name"])), value);
                }
            }
            verdicts.insert(id, text(&scenario["verdict"]));
        }
        Self { told, figures, verdicts }
    }

    /// What the earlier run was, and what makes it another kind of run.
    pub(super) fn said(&self, run: &Run) -> String {
        let of = |name: &str| self.told[name].as_str().unwrap_or_default().to_owned();
        let begun = of("begun");
        let begun = begun.parse().map_or(begun, |begun: Timestamp| begun.strftime(BEGUN).to_string());
        let mut said = format!("Compared with the run of {begun}, which said {}.", of("decision"));
        let mut differs = Vec::new();
        if of("profile") != run.profile.name() {
            differs.push(format!("its profile was {}", of("profile")));
        }
        if self.told["seed"] != run.seed {
            differs.push(format!("its seed was {}", self.told["seed"]));
        }
        for (name, value) in &run.environment {
            let before = self.told["environment"][name].as_str();
            if !name.starts_with("load") && before.is_some_and(|before| before != value) {
                differs.push(format!("its {name} was {}", before.unwrap_or_default()));
            }
        }
        if !differs.is_empty() {
            let _ = write!(said, " It was another kind of run: {}.", differs.join("; "));
        }
        said
    }

    /// How the scenario ended then.
    pub(super) fn verdict(&self, id: &str) -> Option<&str> {
        self.verdicts.get(id).map(String::as_str)
    }

    /// How `value` differs; `None` where it was not measured both times.
    pub(super) fn difference(&self, id: &str, figure: &FigureRow, value: f64) -> Option<Difference> {
        let before = *self.figures.get(&(id.to_owned(), figure.name.to_owned()))?;
        if !value.is_finite() {
            return None;
        }
        let change = value - before;
        let is_noise = change.abs() <= before.abs() * NOISE;
        let way = match figure.better {
            _ if is_noise => "same",
            Better::Less if change < 0.0 => "better",
            Better::More if change > 0.0 => "better",
            Better::Less | Better::More => "worse",
        };
        let share = if before == 0.0 || change == 0.0 {
            String::new()
        } else {
            format!(", {}{} %", if change > 0.0 { "+" } else { "" }, number(100.0 * change / before.abs()))
        };
        Some(Difference { text: format!("was {}{share}", with_unit(before, figure.unit)), way })
    }
}
