//! `tmws accept`: 47 scenarios against a real deployment, one report, one decision.
//!
//! Each scenario drives the real program through real connections, and sees of it what any client or operator would:
//! frames, metrics, `/readyz`, the process's resources, the database. Everything that it starts or makes is its own, lies
//! on loopback, and is gone afterwards ([`stage::Ledger`]).

pub mod client;
pub mod decision;
mod environment;
pub mod fixture;
pub mod load;
pub mod metrics;
pub mod proxy;
pub mod report;
pub mod runner;
pub mod scenario;
mod scenarios;
pub mod stage;
pub mod table;
pub mod until;
pub mod workload;

use std::path::PathBuf;

pub use self::runner::{Run, run};
use self::{
    scenario::Need,
    stage::{Given, Sabotage},
};

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Under three minutes; decides nothing.
    Quick,
    /// Under thirty minutes; decides.
    Full,
}

impl Profile {
    /// As written on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Full => "full",
        }
    }

    /// `quick` in the quick profile, `full` in the full one.
    #[must_use]
    pub fn pick<T>(self, quick: T, full: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much is done.
    pub profile: Profile,
    /// Ids, or beginnings of ids with `*`; everything where empty.
    pub only: Vec<String>,
    /// What need not be there.
    pub without: Vec<Need>,
    /// What is drawn from: the same one draws the same.
    pub seed: u64,
    /// How many times worse times and rates may be than the table says.
    pub slack: u32,
    /// Where the report goes.
    pub report: PathBuf,
    /// `metrics.json` of an earlier run, to show the difference.
    pub previous: Option<PathBuf>,
    /// Another server instead of ours: its URL, and its token.
    pub target: Option<(String, Option<String>)>,
    /// Where what it needs is found.
    pub given: Given,
    /// What is made wrong on purpose: of tests, which see that a scenario fails.
    pub sabotage: Sabotage,
}

/// Why there is no run.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// A wrong option.
    #[error("{0}")]
    Option(String),
    /// A file or folder of the run's own.
    #[error("{what}: {source}")]
    File {
        /// What was done.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// What would be written does not fit its schema: a bug.
    #[error("metrics.json would not fit its schema: {0}")]
    Unfit(String),
}
