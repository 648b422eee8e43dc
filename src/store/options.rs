//! Which store, and how it is opened.

use std::{path::PathBuf, sync::Arc};

use super::{PostgresOptions, PostgresStore, SqliteOptions, SqliteStore, Store, StoreError};

/// Where memories are kept.
#[derive(Clone, Debug)]
pub enum StoreOptions {
    /// In a file.
    Sqlite(SqliteOptions),
    /// On a server.
    Postgres(PostgresOptions),
}

impl StoreOptions {
    /// Opens it, making or migrating what there is.
    ///
    /// # Errors
    /// As [`SqliteStore::open`] and [`PostgresStore::open`].
    pub async fn open(&self) -> Result<Arc<dyn Store>, StoreError> {
        Ok(match self {
            Self::Sqlite(options) => Arc::new(SqliteStore::open(options.clone()).await?),
            Self::Postgres(options) => PostgresStore::open(options.clone()).await?,
        })
    }

    /// The file, where there is one.
    pub(super) fn path(&self) -> Option<&PathBuf> {
        match self {
            Self::Sqlite(options) => Some(&options.path),
            Self::Postgres(_) => None,
        }
    }
}

impl From<SqliteOptions> for StoreOptions {
    fn from(options: SqliteOptions) -> Self {
        Self::Sqlite(options)
    }
}

impl From<PostgresOptions> for StoreOptions {
    fn from(options: PostgresOptions) -> Self {
        Self::Postgres(options)
    }
}
