//! Looking after a store by hand: whether it is whole, a copy of it, the version of its schema.
//!
//! All of it works where a [`Store`](super::Store) cannot be opened any more, and none of it repairs: a repair that is
//! wrong destroys what a person could still have saved.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{StoreError, StoreOptions, postgres, sqlite};
use crate::limits::StoreLimits;

/// Findings of one flaw that are told one by one; further ones are counted.
pub const FINDINGS_TOLD_MAX: u64 = 20;

macro_rules! flaws {
    ($($(#[$doc:meta])* $flaw:ident $code:literal $meaning:literal $advice:literal;)*) => {
        /// What can be wrong with a store.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Flaw { $($(#[$doc])* $flaw,)* }

        impl Flaw {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$flaw,)*];

            /// Its name for machines; never changes.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$flaw => $code,)* }
            }

            /// What it is, in words.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$flaw => $meaning,)* }
            }

            /// What to do about it.
            #[must_use]
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$flaw => $advice,)* }
            }
        }
    };
}

flaws! {
    /// The file has no database's header, or an unreadable one.
    NoDatabase "no_database" "the file is no database, or its beginning is damaged"
        "restore a backup; keep this file until you have";
    /// A database, but of another program.
    ForeignStore "foreign_store" "the database is none of tmws"
        "name another store with TMWS_DATABASE_URL";
    /// A newer TMWS wrote it.
    NewerSchema "newer_schema" "a newer tmws wrote it, so that this one cannot check it"
        "use the newer tmws";
    /// A table is not there.
    MissingTable "missing_table" "a table is missing"
        "restore a backup; what is still readable can be saved with `tmws memory export FILE`";
    /// The database's own check of its pages and indexes.
    DamagedPages "damaged_pages" "pages or indexes of the file are damaged"
        "check the disk, save what is readable with `tmws memory export FILE`, then restore a backup, or import that file into a new store";
    /// A row names one that is not there.
    BrokenReference "broken_reference" "a row belongs to a memory that is not there"
        "export the memories and import them into a new store";
    /// The index of words and the memories differ.
    IndexOutOfStep "index_out_of_step" "the index of words differs from the memories, so that searches miss some"
        "export the memories and import them into a new store, which indexes them anew";
    /// A row that cannot be read as what it should be.
    UndecodableRow "undecodable_row" "a row holds what no tmws writes"
        "another program changed the store: restore a backup, or forget the memories named";
    /// The content is not the one that was stored.
    ContentChanged "content_changed" "the content is not what was stored: its hash differs"
        "compare the memory with a backup; forget it and store it anew";
    /// The tags of the memory and those that filters use differ.
    TagsOutOfStep "tags_out_of_step" "the tags shown and the tags searched differ"
        "export the memories and import them into a new store";
    /// Who may read it does not follow from where it belongs.
    WrongScope "wrong_scope" "who may read the memory does not follow from its project and principal"
        "another program changed the store: others may have read it; restore a backup, or forget the memory";
    /// A vector of the wrong length, or of no model.
    BadVector "bad_vector" "a vector does not fit its model"
        "nothing is lost: searches by meaning miss the memory until it is embedded anew";
    /// A memory that was forgotten is there.
    ForgottenAlive "forgotten_alive" "a memory that was forgotten is there again"
        "forget it once more";
    /// Caches cannot notice writes.
    BadGeneration "bad_generation" "writes were not noted, so that cached answers may be old"
        "restart every tmws on this store; the next write counts anew";
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What kind of thing.
    pub flaw: Flaw,
    /// Where: an id, a table, a place in the file. Never content.
    pub place: String,
}

/// Who follows a check.
pub trait Watch: Send {
    /// `done` of `total` things of this stage are done; `total` is unknown where it is `None`.
    fn progress(&mut self, stage: &'static str, done: u64, total: Option<u64>) {
        let _ = (stage, done, total);
    }

    /// Something is wrong. At most [`FINDINGS_TOLD_MAX`] times for each flaw.
    fn finding(&mut self, finding: &Finding);
}

/// What came out of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verification {
    /// Version of the schema; `None` where there is none to be read.
    pub schema: Option<i64>,
    /// Memories read, whoever's they are.
    pub memories: u64,
    /// How often each flaw was found.
    pub flaws: BTreeMap<Flaw, u64>,
    /// What was not looked at, and why.
    pub notes: Vec<String>,
}

impl Verification {
    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.flaws.is_empty()
    }
}

/// Findings on their way to who watches.
pub(super) struct Findings<'a> {
    pub(super) verification: Verification,
    watch: &'a mut dyn Watch,
}

impl<'a> Findings<'a> {
    pub(super) fn new(watch: &'a mut dyn Watch) -> Self {
        Self { verification: Verification::default(), watch }
    }

    pub(super) fn add(&mut self, flaw: Flaw, place: impl Into<String>) {
        let count = self.verification.flaws.entry(flaw).or_default();
        *count += 1;
        if *count <= FINDINGS_TOLD_MAX {
            self.watch.finding(&Finding { flaw, place: place.into() });
        }
    }

    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.verification.notes.push(note.into());
    }

    pub(super) fn progress(&mut self, stage: &'static str, done: u64, total: Option<u64>) {
        self.watch.progress(stage, done, total);
    }
}

/// One step from a schema to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationStep {
    /// The version that it leads to.
    pub version: i64,
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub effect: &'static str,
    /// Rows that it reads or writes.
    pub rows: u64,
}

/// What there is, and what opening it will make of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationPlan {
    /// Version found; `None` where there is no store yet.
    pub found: Option<i64>,
    /// Version that this program writes.
    pub wanted: i64,
    /// What is to be done, in order.
    pub steps: Vec<MigrationStep>,
    /// Memories in the store.
    pub memories: u64,
}

impl MigrationPlan {
    /// Whether there is something to be done, and something to lose by it.
    #[must_use]
    pub fn advises_backup(&self) -> bool {
        !self.steps.is_empty() && self.memories > 0
    }
}

/// Why there is no copy. None is left half made.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No space where the copy goes.
    #[error("no space left for the copy; nothing was written")]
    NoSpace,
    /// The copy cannot be written.
    #[error("the copy cannot be written: {reason}")]
    Unwritable {
        /// What to look at.
        reason: String,
    },
    /// Servers have tools of their own.
    #[error("a PostgreSQL database is copied by PostgreSQL's own tools")]
    NoFile,
}

impl StoreOptions {
    /// Reads everything and tells what is wrong, whoever's it is. Changes nothing; an older schema is checked as it is.
    ///
    /// Others may use the store meanwhile. Comparing the index of words with the texts makes their writes wait; it is
    /// given up after a moment unless `thorough`.
    ///
    /// # Errors
    /// There is nothing that could be checked: no file, no right to read it, no server. Damage is a finding.
    pub async fn verify(&self, thorough: bool, watch: &mut dyn Watch) -> Result<Verification, StoreError> {
        match self {
            Self::Sqlite(options) => sqlite::verify(options, thorough, watch).await,
            Self::Postgres(options) => postgres::verify(options, watch).await,
        }
    }

    /// Writes a copy of the store's present state into the empty file at `path`, while others go on reading and writing.
    ///
    /// # Errors
    /// What is at `path` is then of no use.
    pub async fn copy_into(&self, path: &Path) -> Result<(), CopyError> {
        match self {
            Self::Sqlite(options) => sqlite::copy_into(options, path).await,
            Self::Postgres(_) => Err(CopyError::NoFile),
        }
    }

    /// What opening the store would do to its schema. Looks without leaving a trace: no file is made or changed.
    ///
    /// Not for a process that has the store open: looking at its file would drop that process's locks.
    ///
    /// # Errors
    /// As [`StoreOptions::open`]; a newer schema is [`StoreError::NewerVersion`].
    pub async fn migration(&self) -> Result<MigrationPlan, StoreError> {
        match self {
            Self::Sqlite(options) => sqlite::migration(options).await,
            Self::Postgres(options) => postgres::migration(options).await,
        }
    }

    /// The limits of what is stored.
    #[must_use]
    pub const fn limits(&self) -> &StoreLimits {
        match self {
            Self::Sqlite(options) => &options.limits,
            Self::Postgres(options) => &options.limits,
        }
    }

    /// The file, where the store is one.
    #[must_use]
    pub fn file(&self) -> Option<PathBuf> {
        self.path().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flaw_has_a_name_of_its_own() {
        let mut codes: Vec<&str> = Flaw::ALL.iter().map(|flaw| flaw.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Flaw::ALL.len());
        assert!(Flaw::ALL.iter().all(|flaw| !flaw.advice().is_empty() && !flaw.meaning().is_empty()));
    }
}
