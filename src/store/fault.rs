//! What stops a call of a store, before it is known how its caller is told.

use super::StoreError;

/// What stops a call: the store's own rule, or the database.
#[derive(Debug)]
pub(super) enum Fault {
    /// A rule: the call is refused, nothing else is harmed.
    Refused(StoreError),
    /// The database failed.
    Database(sqlx::Error),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl Fault {
    /// As the caller of the store sees it, who is told of the database's failures by `classify`.
    pub(super) fn told(self, classify: impl FnOnce(&sqlx::Error) -> StoreError) -> StoreError {
        match self {
            Self::Refused(error) => error,
            Self::Database(error) => classify(&error),
        }
    }
}
