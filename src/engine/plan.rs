//! The steps of a pattern as a graph, checked once.

use std::collections::{HashMap, HashSet};

use crate::pattern::{Pattern, StepSpec};

/// A block of steps in waves: the steps of a wave need only those of earlier ones. Runs do not wait for whole waves
/// (a step starts as soon as what it needs has ended); waves show the shape, and that there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Ids, in file order within a wave.
    pub waves: Vec<Vec<String>>,
    /// Steps in all, those inside `control.*` counted once.
    pub steps: usize,
}

/// Why steps cannot be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Two steps of one name.
    #[error("step `{0}` is there twice")]
    Twice(String),
    /// Needs what is not there.
    #[error("step `{id}` needs `{needs}`, which is no step before or beside it")]
    Unknown {
        /// The step.
        id: String,
        /// What it needs.
        needs: String,
    },
    /// Steps wait for each other.
    #[error("steps {0} wait for each other")]
    Cycle(String),
    /// More than allowed.
    #[error("{steps} steps, allowed are {max} (limits.max_steps)")]
    TooMany {
        /// How many there are.
        steps: usize,
        /// How many may be.
        max: usize,
    },
}

impl Plan {
    /// The plan of `pattern`.
    ///
    /// # Errors
    /// See [`PlanError`].
    pub fn of(pattern: &Pattern) -> Result<Self, PlanError> {
        let steps = count(&pattern.steps);
        if steps > pattern.limits.max_steps {
            return Err(PlanError::TooMany { steps, max: pattern.limits.max_steps });
        }
        let mut seen = HashSet::new();
        check_block(&pattern.steps, &mut seen)?;
        Ok(Self { waves: waves(&pattern.steps)?, steps })
    }
}

fn count(steps: &[StepSpec]) -> usize {
    steps.iter().map(|step| 1 + step.children.iter().map(|block| count(block)).sum::<usize>()).sum()
}

/// `around`: ids of the blocks that this one stands in.
fn check_block<'a>(steps: &'a [StepSpec], around: &mut HashSet<&'a str>) -> Result<(), PlanError> {
    let mut own = HashSet::new();
    for step in steps {
        if !own.insert(step.id.as_str()) || around.contains(step.id.as_str()) {
            return Err(PlanError::Twice(step.id.clone()));
        }
    }
    for step in steps {
        for needs in &step.needs {
            if !own.contains(needs.as_str()) && !around.contains(needs.as_str()) {
                return Err(PlanError::Unknown { id: step.id.clone(), needs: needs.clone() });
            }
        }
    }
    waves(steps)?;
    around.extend(&own);
    for block in steps.iter().flat_map(|step| &step.children) {
        check_block(block, around)?;
    }
    for id in own {
        around.remove(id);
    }
    Ok(())
}

/// Waves by Kahn's method; what is needed from outside the block is there already.
fn waves(steps: &[StepSpec]) -> Result<Vec<Vec<String>>, PlanError> {
    let ids: HashMap<&str, usize> =
        steps.iter().enumerate().map(|(index, step)| (step.id.as_str(), index)).collect();
    let needs: Vec<HashSet<usize>> = steps
        .iter()
        .map(|step| step.needs.iter().filter_map(|id| ids.get(id.as_str()).copied()).collect())
        .collect();
    let mut done: HashSet<usize> = HashSet::new();
    let mut waves = Vec::new();
    while done.len() < steps.len() {
        let wave: Vec<usize> = (0..steps.len())
            .filter(|index| !done.contains(index) && needs[*index].is_subset(&done))
            .collect();
        if wave.is_empty() {
            let stuck: Vec<String> = steps
                .iter()
                .enumerate()
                .filter(|(index, _)| !done.contains(index))
                .map(|(_, step)| format!("`{}`", step.id))
                .collect();
            return Err(PlanError::Cycle(stuck.join(", ")));
        }
        waves.push(wave.iter().map(|index| steps[*index].id.clone()).collect());
        done.extend(wave);
    }
    Ok(waves)
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::pattern::{OnError, StepRow, Template};

    fn step(id: &str, needs: &[&str], children: Vec<Vec<StepSpec>>) -> StepSpec {
        StepSpec {
            id: id.to_owned(),
            uses: StepRow::find("data.merge").unwrap(),
            with: Template::from(Map::new()),
            needs: needs.iter().map(|id| (*id).to_owned()).collect(),
            condition: None,
            timeout: None,
            on_error: OnError::Abort,
            children,
        }
    }

    #[test]
    fn waves_follow_needs() {
        let cases: Vec<(Vec<StepSpec>, Result<&str, &str>)> = vec![
            (vec![], Ok("")),
            (vec![step("a", &[], vec![]), step("b", &[], vec![])], Ok("a b")),
            (
                vec![
                    step("d", &["b", "c"], vec![]),
                    step("b", &["a"], vec![]),
                    step("c", &["a"], vec![]),
                    step("a", &[], vec![]),
                ],
                Ok("a | b c | d"),
            ),
            (
                vec![step("a", &["b"], vec![]), step("b", &["a"], vec![])],
                Err("steps `a`, `b` wait for each other"),
            ),
            (vec![step("a", &["a"], vec![])], Err("steps `a` wait for each other")),
            (vec![step("a", &[], vec![]), step("a", &[], vec![])], Err("step `a` is there twice")),
            (
                vec![step("a", &["z"], vec![])],
                Err("step `a` needs `z`, which is no step before or beside it"),
            ),
            (
                vec![step("a", &[], vec![]), step("l", &["a"], vec![vec![step("x", &["a"], vec![])]])],
                Ok("a | l"),
            ),
            (vec![step("l", &[], vec![vec![step("l", &[], vec![])]])], Err("step `l` is there twice")),
            (
                vec![step("l", &[], vec![vec![step("x", &[], vec![])]]), step("b", &["x"], vec![])],
                Err("step `b` needs `x`, which is no step before or beside it"),
            ),
        ];
        for (steps, expected) in cases {
            let got = check_block(&steps, &mut HashSet::new()).and_then(|()| waves(&steps));
            let got =
                got.map(|waves| waves.iter().map(|wave| wave.join(" ")).collect::<Vec<_>>().join(" | "));
            assert_eq!(
                got.map_err(|error| error.to_string()),
                expected.map(str::to_owned).map_err(str::to_owned)
            );
        }
    }

    #[test]
    fn loops_are_counted_once() {
        let steps = vec![
            step("a", &[], vec![]),
            step("l", &[], vec![vec![step("x", &[], vec![]), step("y", &[], vec![])]]),
        ];
        assert_eq!(count(&steps), 4);
    }
}
