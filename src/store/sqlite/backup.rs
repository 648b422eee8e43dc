//! A copy of the file while it is in use.

use std::path::Path;

use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

use super::{
    SqliteOptions,
    fault::{classify, is_out_of_space},
    migration::{has_log, immutable},
    open::{self, Found},
};
use crate::store::{CopyError, StoreError};

/// Writes what the file holds now into the empty file at `target`: one snapshot, defragmented, with the same schema.
pub(in crate::store) async fn copy_into(options: &SqliteOptions, target: &Path) -> Result<(), CopyError> {
    let told = |error| classify(&options.path, &error);
    let mut connection = connect_reader(options).await.map_err(told)?;
    let outcome = copy(&mut connection, options, target).await;
    // A failure to close loses nothing: it only read.
    let _ = connection.close().await;
    outcome
}

/// A connection that reads, also where the folder may not be written to.
pub(super) async fn connect_reader(options: &SqliteOptions) -> Result<SqliteConnection, sqlx::Error> {
    let mut connection = match open::connect_options(options).read_only(true).connect().await {
        Ok(connection) => connection,
        Err(error) => return connect_still(options).await.ok_or(error),
    };
    // The first read is what makes or opens the side files.
    match sqlx::query("SELECT count(*) FROM sqlite_schema").fetch_one(&mut connection).await {
        Ok(_) => Ok(connection),
        Err(error) => match classify(&options.path, &error) {
            StoreError::ReadOnly { .. } | StoreError::Unavailable { .. } => {
                connect_still(options).await.ok_or(error)
            }
            // Whoever asks gets it from the first query of their own.
            _ => Ok(connection),
        },
    }
}

/// The same where nothing can be made beside the file: as it stands, if there is no log that belongs to it.
async fn connect_still(options: &SqliteOptions) -> Option<SqliteConnection> {
    if has_log(&options.path) { None } else { immutable(options).connect().await.ok() }
}

async fn copy(
    connection: &mut SqliteConnection,
    options: &SqliteOptions,
    target: &Path,
) -> Result<(), CopyError> {
    let Found::Ours(_) = open::identify(connection, &options.path).await? else {
        let reason = format!("{} is empty; there is nothing to copy", options.path.display());
        return Err(StoreError::Unavailable { reason }.into());
    };
    let name = target.to_str().ok_or_else(|| CopyError::Unwritable {
        reason: "its path is no valid UTF-8; name another".to_owned(),
    })?;
    sqlx::query("VACUUM INTO ?1").bind(name).execute(connection).await.map_err(|error| match &error {
        sqlx::Error::Database(database) if is_out_of_space(&**database) => CopyError::NoSpace,
        error => match classify(&options.path, error) {
            // The store is only read: it is the copy that cannot be written.
            StoreError::ReadOnly { .. } | StoreError::Unavailable { .. } => {
                CopyError::Unwritable { reason: "an I/O error; check that its folder is writable".to_owned() }
            }
            other => CopyError::Store(other),
        },
    })?;
    Ok(())
}
