//! How the process ends: one table, the same on the command line, in the docs and in tests.

use std::{fmt, process::ExitCode};

use crate::{engine::ErrorKind, store::StoreError};

macro_rules! exits {
    ($($(#[$doc:meta])* $exit:ident $code:literal $meaning:literal;)*) => {
        /// An exit code. The numbers follow `sysexits.h` where it has a word for it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Exit { $($(#[$doc])* $exit,)* }

        impl Exit {
            /// All codes, smallest first.
            pub const ALL: &[Self] = &[$(Self::$exit,)*];

            /// The number that the shell sees.
            #[must_use]
            pub const fn code(self) -> u8 {
                match self { $(Self::$exit => $code,)* }
            }

            /// What it means, for `--help` and the docs.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$exit => $meaning,)* }
            }
        }
    };
}

exits! {
    /// Done as asked; also when whoever read our output closed it early.
    Ok 0 "done as asked";
    /// A check, a test or a pattern said no: the answer is a failure, the program works.
    Failed 1 "a check, a test, a pattern or a bridge failed";
    /// The command line or an input is wrong.
    Usage 2 "the command line or an input is wrong";
    /// The store cannot be reached or used, or the address to listen on is taken (`EX_UNAVAILABLE`).
    Unavailable 69 "the store or the address to listen on cannot be used";
    /// Our bug (`EX_SOFTWARE`).
    Software 70 "a bug in tmws";
    /// The configuration is wrong (`EX_CONFIG`).
    Config 78 "the configuration is wrong";
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.code(), self.meaning())
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl From<ErrorKind> for Exit {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::UnknownPattern | ErrorKind::InvalidInput | ErrorKind::UnknownHandle => Self::Usage,
            ErrorKind::PatternFault
            | ErrorKind::Budget
            | ErrorKind::Deadline
            | ErrorKind::Denied
            | ErrorKind::Busy
            | ErrorKind::NotFound
            | ErrorKind::LimitExceeded
            | ErrorKind::AssertionFailed
            | ErrorKind::ProgramFailed
            | ErrorKind::Cancelled => Self::Failed,
            ErrorKind::StoreUnavailable => Self::Unavailable,
            ErrorKind::Internal => Self::Software,
        }
    }
}

impl From<&StoreError> for Exit {
    fn from(error: &StoreError) -> Self {
        match error {
            StoreError::Locked
            | StoreError::Busy
            | StoreError::ReadOnly { .. }
            | StoreError::Corrupt { .. }
            | StoreError::NewerVersion { .. }
            | StoreError::Unsuitable { .. }
            | StoreError::LoginRefused { .. }
            | StoreError::DiskFull { .. }
            | StoreError::Unavailable { .. } => Self::Unavailable,
            StoreError::Invalid { .. } | StoreError::UnknownHandle => Self::Usage,
            StoreError::Internal(_) => Self::Software,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_ascending() {
        let codes: Vec<u8> = Exit::ALL.iter().map(|exit| exit.code()).collect();
        assert_eq!(codes, [0, 1, 2, 69, 70, 78]);
    }

    #[test]
    fn no_failed_execution_exits_with_zero() {
        for kind in ErrorKind::ALL {
            assert_ne!(Exit::from(*kind), Exit::Ok, "{kind:?}");
        }
    }
}
