//! What can go wrong in a store, told apart by what to do about it.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where a store lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In this file.
    File(PathBuf),
    /// On this server: `postgres://HOST:PORT/DATABASE`, never with a user or a password.
    Server(Arc<str>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Server(address) => f.write_str(address),
        }
    }
}

impl From<&Path> for Place {
    fn from(path: &Path) -> Self {
        Self::File(path.to_path_buf())
    }
}

impl From<PathBuf> for Place {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

/// Why a store call failed. The `Display` text is safe for a client: no path beyond the store's own, no
/// password, no SQL, no data.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the lock.
    #[error("the store is locked by another process; try again, or end the process that holds it")]
    Locked,
    /// The file or its folder may not be written.
    #[error("the store {place} is read-only; make it writable, or name another with TMWS_DATABASE_URL")]
    ReadOnly {
        /// Where it lies.
        place: Place,
    },
    /// The file is no database, or a damaged one. It is left untouched.
    #[error(
        "the store {place} is damaged or no TMWS store; it was left untouched: restore it, or move it away"
    )]
    Corrupt {
        /// Where it lies.
        place: Place,
    },
    /// A newer TMWS wrote it. It is left untouched.
    #[error(
        "the store {place} has schema version {found}, this binary knows {known}; it was left untouched: use a newer tmws"
    )]
    NewerVersion {
        /// Where it lies.
        place: Place,
        /// Version found.
        found: i64,
        /// Newest version this binary knows.
        known: i64,
    },
    /// It can never be used as it is: too old, or something is missing that it needs.
    #[error("the store {place} cannot be used: {reason}")]
    Unsuitable {
        /// Where it lies.
        place: Place,
        /// What is missing, and what to do.
        reason: String,
    },
    /// The server refuses who logs in.
    #[error("the store {place} cannot be used: {reason}")]
    LoginRefused {
        /// Where it lies.
        place: Place,
        /// What to do.
        reason: String,
    },
    /// No space left.
    #[error(
        "no space left on the disk of the store {place}; nothing was written: free some space and try again"
    )]
    DiskFull {
        /// Where it lies.
        place: Place,
    },
    /// The store cannot be opened or reached.
    #[error("the store is not available: {reason}")]
    Unavailable {
        /// What to look at, without secrets.
        reason: String,
    },
    /// More calls than may wait for it.
    #[error("too many calls wait for the store; try again in a moment")]
    Busy,
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
        let file = path.file_name().unwrap_or_default();
        let name = || Place::File(file.into());
        match self.repeated() {
            Self::ReadOnly { .. } => Self::ReadOnly { place: name() },
            Self::Corrupt { .. } => Self::Corrupt { place: name() },
            Self::NewerVersion { found, known, .. } => Self::NewerVersion { place: name(), found, known },
            Self::DiskFull { .. } => Self::DiskFull { place: name() },
            Self::Unsuitable { reason, .. } => Self::Unsuitable { place: name(), reason },
            Self::LoginRefused { reason, .. } => Self::LoginRefused { place: name(), reason },
            Self::Unavailable { reason } => {
                let shown =
                    reason.replace(&path.display().to_string(), &Path::new(file).display().to_string());
                Self::Unavailable { reason: shown }
            }
            error @ (Self::Locked
            | Self::Busy
            | Self::Invalid { .. }
            | Self::UnknownHandle
            | Self::Internal(_)) => error,
        }
    }

    /// The same error for another caller.
    pub(super) fn repeated(&self) -> Self {
        match self {
            Self::Locked => Self::Locked,
            Self::Busy => Self::Busy,
            Self::ReadOnly { place } => Self::ReadOnly { place: place.clone() },
            Self::Corrupt { place } => Self::Corrupt { place: place.clone() },
            Self::NewerVersion { place, found, known } => {
                Self::NewerVersion { place: place.clone(), found: *found, known: *known }
            }
            Self::Unsuitable { place, reason } => {
                Self::Unsuitable { place: place.clone(), reason: reason.clone() }
            }
            Self::LoginRefused { place, reason } => {
                Self::LoginRefused { place: place.clone(), reason: reason.clone() }
            }
            Self::DiskFull { place } => Self::DiskFull { place: place.clone() },
            Self::Unavailable { reason } => Self::Unavailable { reason: reason.clone() },
            Self::Invalid { field, message } => Self::Invalid { field, message: message.clone() },
            Self::UnknownHandle => Self::UnknownHandle,
            Self::Internal(source) => Self::Internal(source.to_string().into()),
        }
    }
}
