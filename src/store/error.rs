//! What can go wrong in a store, told apart by what to do about it.

use std::path::{Path, PathBuf};

use super::sqlite::repeated;

/// Why a store call failed. The `Display` text is safe for a client: no path beyond the store's own, no SQL, no data.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the lock.
    #[error("the store is locked by another process; try again, or end the process that holds it")]
    Locked,
    /// The file or its folder may not be written.
    #[error("the store {path} is read-only; make it writable, or name another with TMWS_DATABASE_URL")]
    ReadOnly {
        /// The database file.
        path: PathBuf,
    },
    /// The file is no database, or a damaged one. It is left untouched.
    #[error(
        "the store {path} is damaged or no TMWS store; it was left untouched: restore it, or move it away"
    )]
    Corrupt {
        /// The database file.
        path: PathBuf,
    },
    /// A newer TMWS wrote it. It is left untouched.
    #[error(
        "the store {path} has schema version {found}, this binary knows {known}; it was left untouched: use a newer tmws"
    )]
    NewerVersion {
        /// The database file.
        path: PathBuf,
        /// Version found.
        found: i64,
        /// Newest version this binary knows.
        known: i64,
    },
    /// No space left.
    #[error(
        "no space left on the disk of the store {path}; nothing was written: free some space and try again"
    )]
    DiskFull {
        /// The database file.
        path: PathBuf,
    },
    /// The store cannot be opened or reached.
    #[error("the store is not available: {reason}")]
    Unavailable {
        /// What to look at, without secrets.
        reason: String,
    },
    /// The value offends a limit or rule; `field` says which.
    #[error("{field}: {message}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What is wrong and what is allowed.
        message: String,
    },
    /// Unknown, expired and foreign handles answer the same.
    #[error("unknown or expired handle")]
    UnknownHandle,
    /// A bug, or a database error of no known kind; the source goes to the log only.
    #[error("the store failed unexpectedly; the server's log has the details")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    /// The same without the folder of the database file at `path`, for those whose machine it is not.
    pub(super) fn without_folder(&self, path: &Path) -> Self {
        let name = PathBuf::from(path.file_name().unwrap_or_default());
        match repeated(self) {
            Self::ReadOnly { .. } => Self::ReadOnly { path: name },
            Self::Corrupt { .. } => Self::Corrupt { path: name },
            Self::NewerVersion { found, known, .. } => Self::NewerVersion { path: name, found, known },
            Self::DiskFull { .. } => Self::DiskFull { path: name },
            Self::Unavailable { reason } => {
                let shown = reason.replace(&path.display().to_string(), &name.display().to_string());
                Self::Unavailable { reason: shown }
            }
            error @ (Self::Locked | Self::Invalid { .. } | Self::UnknownHandle | Self::Internal(_)) => error,
        }
    }
}
