//! The last errors, for whoever looks after the server: which, when, of what; never a word of what was asked or answered.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;

use super::Layer;

/// So many are kept.
pub const RECENT_MAX: usize = 50;

/// One call that ended with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentError {
    /// When.
    pub at: Timestamp,
    /// Who tells of it.
    pub layer: Layer,
    /// Its code.
    pub code: &'static str,
    /// The method that was called.
    pub method: &'static str,
    /// The pattern that ran, where one did: its name in the library.
    pub pattern: Option<Box<str>>,
}

/// The newest of them.
#[derive(Default)]
pub(super) struct Recent(Mutex<VecDeque<RecentError>>);

impl Recent {
    pub(super) fn push(&self, error: RecentError) {
        let mut errors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if errors.len() == RECENT_MAX {
            errors.pop_front();
        }
        errors.push_back(error);
    }

    /// The newest first.
    pub(super) fn list(&self) -> Vec<RecentError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_come_first() {
        let recent = Recent::default();
        let last = i64::try_from(RECENT_MAX).expect("a small number");
        for second in 0..=last {
            let at = Timestamp::from_second(second).expect("a time");
            recent.push(RecentError {
                at,
                layer: Layer::Tool,
                code: "busy",
                method: "tools/call",
                pattern: None,
            });
        }
        let kept: Vec<i64> = recent.list().iter().map(|error| error.at.as_second()).collect();
        assert_eq!(kept, (1..=last).rev().collect::<Vec<_>>());
    }
}
