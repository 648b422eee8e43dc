//! What was written and acknowledged in a project, and whether an answer shows it.
//!
//! Each writer counts up: its n-th memory says so and has the writer's tag. `memory.by-tag` counts the memories of each tag,
//! so one answer shows how far every writer had come, and the newest memory of one of them besides. Each of these is held
//! against what was acknowledged before the question was asked: one check.

use std::{
    array,
    sync::atomic::{AtomicU64, Ordering},
};

use serde_json::Value;
use tokio::sync::Semaphore;

/// `memory.by-tag` counts no more tags than 16.
pub(super) const WRITERS: usize = 10;
/// A write is due for so many answers.
const ANSWERS_PER_WRITE: u64 = 20;

/// How far each writer of a project has come.
pub(super) type Counts = [u64; WRITERS];

/// What is known of a project.
pub(super) struct Project {
    pub(super) name: &'static str,
    begun: [AtomicU64; WRITERS],
    acknowledged: [AtomicU64; WRITERS],
    /// Writes that are due.
    pub(super) due: Semaphore,
    answers: AtomicU64,
}

/// What an answer was worth.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) checks: u64,
    /// What it should have shown and did not.
    pub(super) stale: Vec<String>,
    /// What nobody had written.
    pub(super) unheard: Vec<String>,
}

impl Project {
    pub(super) fn new(name: &'static str) -> Self {
        Self {
            name,
            begun: array::from_fn(|_| AtomicU64::new(0)),
            acknowledged: array::from_fn(|_| AtomicU64::new(0)),
            due: Semaphore::new(WRITERS),
            answers: AtomicU64::new(0),
        }
    }

    pub(super) fn tag(writer: usize) -> String {
        format!("w{writer}")
    }

    /// The text of a writer's `n`-th memory.
    pub(super) fn text(&self, writer: usize, n: u64) -> String {
        format!("{} counts {n} in {}", Self::tag(writer), self.name)
    }

    pub(super) fn begins(&self, writer: usize, n: u64) {
        self.begun[writer].store(n, Ordering::SeqCst);
    }

    pub(super) fn acknowledges(&self, writer: usize, n: u64) {
        self.acknowledged[writer].store(n, Ordering::SeqCst);
    }

    pub(super) fn acknowledged(&self) -> Counts {
        array::from_fn(|writer| self.acknowledged[writer].load(Ordering::SeqCst))
    }

    pub(super) fn begun(&self) -> Counts {
        array::from_fn(|writer| self.begun[writer].load(Ordering::SeqCst))
    }

    /// Counts an answer; now and then a write is due for it.
    pub(super) fn answered(&self) {
        if (self.answers.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(ANSWERS_PER_WRITE) {
            self.due.add_permits(1);
        }
    }

    /// What the answer `body` to a question about the writer `asked` is worth. It shows what was acknowledged `before` it
    /// was asked for, or more; never more than had begun `after`.
    pub(super) fn judge(&self, asked: usize, before: &Counts, after: &Counts, body: &Value) -> Judged {
        let mut judged = Judged::default();
        let mut hold = |what: &str, writer: usize, told: u64| {
            judged.checks += 1;
            if told < before[writer] {
                judged.stale.push(format!("{what} of writer {writer}: {told}, not {}", before[writer]));
            }
            if told > after[writer] {
                judged.unheard.push(format!("{what} of writer {writer}: {told}, of {} begun", after[writer]));
            }
        };
        for writer in 0..WRITERS {
            hold("the count", writer, body["tags"][Self::tag(writer)].as_u64().unwrap_or_default());
        }
        let newest = body["memories"][0].as_str().unwrap_or_default();
        let number = newest.split_once(" counts ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        hold("the newest", asked, number.unwrap_or_default());
        if !newest.is_empty() && !newest.contains(self.name) {
            judged.unheard.push(format!("of another project: {newest}"));
        }
        judged
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_that_lags_behind_or_runs_ahead_is_seen() {
        let project = Project::new("harbour");
        let (mut before, mut after) = ([0; WRITERS], [0; WRITERS]);
        (before[0], after[0], before[1], after[1]) = (3, 5, 1, 1);
        let body = |first: u64, second: u64, newest: u64| json!({"tags": {"w0": first, "w1": second}, "memories": [format!("2026-01-01 note: w0 counts {newest} in harbour m_1")]});
        let judged = |body: &Value| {
            let judged = project.judge(0, &before, &after, body);
            assert_eq!(judged.checks, WRITERS as u64 + 1);
            (judged.stale.len(), judged.unheard.len())
        };
        assert_eq!(judged(&body(3, 1, 3)), (0, 0));
        assert_eq!(judged(&body(5, 1, 4)), (0, 0));
        assert_eq!(judged(&body(2, 1, 3)), (1, 0));
        assert_eq!(judged(&body(2, 0, 2)), (3, 0));
        assert_eq!(judged(&body(6, 2, 3)), (0, 2));
        assert_eq!(judged(&json!({"tags": {}, "memories": []})), (3, 0));
        let foreign = json!({"tags": {"w0": 3, "w1": 1}, "memories": ["w0 counts 3 in a village"]});
        assert_eq!(judged(&foreign), (0, 1));
    }
}
