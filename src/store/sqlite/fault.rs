//! Database errors, told apart by what to do about them.

use std::path::Path;

use crate::store::StoreError;
pub(super) use crate::store::fault::Fault;

// Primary result codes (the low byte of an extended one): https://sqlite.org/rescode.html
const PERM: u32 = 3;
const BUSY: u32 = 5;
const LOCKED: u32 = 6;
const READONLY: u32 = 8;
const IOERR: u32 = 10;
const CORRUPT: u32 = 11;
const FULL: u32 = 13;
const CANTOPEN: u32 = 14;
const NOTADB: u32 = 26;
/// The index of the write-ahead log could not be made larger.
const IOERR_SHMSIZE: u32 = IOERR | 19 << 8;

/// The typed error for `error`. Its text never holds SQL or data; what it does not say goes to the log.
pub(super) fn classify(path: &Path, error: &sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Database(database) => {
            classify_code(path, code(&**database)).unwrap_or_else(|| internal(error))
        }
        sqlx::Error::Migrate(migrate) => match &**migrate {
            sqlx::migrate::MigrateError::Execute(inner)
            | sqlx::migrate::MigrateError::ExecuteMigration(inner, _) => classify(path, inner),
            sqlx::migrate::MigrateError::VersionMismatch(_) | sqlx::migrate::MigrateError::Dirty(_) => {
                StoreError::Corrupt { place: path.into() }
            }
            _ => internal(error),
        },
        sqlx::Error::PoolTimedOut => unavailable(path, "is busy; try again in a moment"),
        sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => closed(),
        sqlx::Error::Io(_) => unavailable(path, "cannot be opened; check that its path is valid UTF-8"),
        _ => internal(error),
    }
}

/// The same of a search's own connection.
pub(super) fn classify_search(path: &Path, error: &rusqlite::Error) -> StoreError {
    let code = error.sqlite_error().map_or(0, |error| error.extended_code.cast_unsigned());
    classify_code(path, code).unwrap_or_else(|| internal(error))
}

/// The typed error for an extended result code; `None` for one that should not be.
fn classify_code(path: &Path, code: u32) -> Option<StoreError> {
    Some(match code & 0xff {
        BUSY | LOCKED => StoreError::Locked,
        READONLY | PERM => StoreError::ReadOnly { place: path.into() },
        CORRUPT | NOTADB => StoreError::Corrupt { place: path.into() },
        FULL => StoreError::DiskFull { place: path.into() },
        IOERR if code == IOERR_SHMSIZE => StoreError::DiskFull { place: path.into() },
        CANTOPEN if is_read_only(path) => StoreError::ReadOnly { place: path.into() },
        CANTOPEN => unavailable(path, "cannot be opened; check that it and its folder exist and are yours"),
        IOERR => unavailable(path, "cannot be read or written (I/O error); check the disk, then try again"),
        _ => return None,
    })
}

fn code(error: &dyn sqlx::error::DatabaseError) -> u32 {
    error.code().and_then(|code| code.parse::<u32>().ok()).unwrap_or(0)
}

fn primary_code(error: &dyn sqlx::error::DatabaseError) -> u32 {
    code(error) & 0xff
}

/// Whether a disk is full.
pub(super) fn is_out_of_space(error: &dyn sqlx::error::DatabaseError) -> bool {
    primary_code(error) == FULL || code(error) == IOERR_SHMSIZE
}

/// Whether the file itself is damaged.
pub(super) fn is_damage(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(database) if matches!(primary_code(&**database), CORRUPT | NOTADB))
}

/// Whether the file is no database at all.
pub(super) fn is_no_database(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(database) if primary_code(&**database) == NOTADB)
}

/// Whether another process holds the lock.
pub(super) fn is_busy(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(database) if matches!(primary_code(&**database), BUSY | LOCKED))
}

/// The store was closed, or is being closed.
pub(super) fn closed() -> StoreError {
    StoreError::Unavailable { reason: "it was closed; start tmws again".to_owned() }
}

/// The file at `path` cannot be used, and what to do.
pub(super) fn unavailable(path: &Path, what: &str) -> StoreError {
    StoreError::Unavailable { reason: format!("{} {what}", path.display()) }
}

fn internal(error: &dyn std::error::Error) -> StoreError {
    tracing::error!(%error, "the store failed unexpectedly");
    StoreError::Internal(error.to_string().into())
}

/// Whether the file, or its folder (which gets the write-ahead log), may not be written by this process.
fn is_read_only(path: &Path) -> bool {
    use rustix::fs::{Access, access};
    let file_exists = path.exists();
    let folder_denied = path
        .parent()
        .is_some_and(|folder| folder.is_dir() && access(folder, Access::WRITE_OK | Access::EXEC_OK).is_err());
    folder_denied
        || (file_exists && access(path, Access::READ_OK).is_ok() && access(path, Access::WRITE_OK).is_err())
}
