//! How each scenario of `tmws accept` is seen to fail: what is made wrong, and what of the scenario must then be red.
//!
//! What is made wrong stands around the program under test, which is the one that users get: settings, a proxy, a trigger
//! in its database, a recording with another answer.

pub(crate) mod cache;
pub(crate) mod data;
pub(crate) mod failure;
pub(crate) mod many;
pub(crate) mod speed;
pub(crate) mod spoil;
pub(crate) mod wire;

use tmws::accept::stage::Sabotage;

/// A scenario, and how it is made to fail.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    /// The scenario.
    pub(crate) id: &'static str,
    /// What is made wrong, for the page of documentation.
    pub(crate) how: &'static str,
    /// Names of its figures, and beginnings of what it checks or does, that must be red by it. All of them.
    pub(crate) red: &'static [&'static str],
    /// It needs the machine for itself: what it is red by is held against what was measured without the sabotage.
    pub(crate) is_alone: bool,
    /// Itself: done to all that its scenario starts, and to nothing that another starts, so that no other turns red by it.
    pub(crate) sabotage: Sabotage,
}

/// All of them, in the order of the table of scenarios.
pub(crate) fn rows() -> Vec<Row> {
    let mut rows =
        [many::rows(), wire::rows(), data::rows(), cache::rows(), speed::rows(), failure::rows()].concat();
    for row in &mut rows {
        row.sabotage.scenario = Some(row.id);
    }
    rows
}
