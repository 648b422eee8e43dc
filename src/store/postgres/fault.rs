//! Errors of the server and the connection, told apart by what to do about them. No text holds SQL, data, a role's
//! name or a password; the place is `postgres://HOST:PORT/DATABASE`.

use std::io;

use sqlx::error::DatabaseError;

pub(super) use crate::store::fault::Fault;
use crate::store::{Place, StoreError};

/// Whether the transaction was ended because of others (a serialization failure, a deadlock), and may do the second time.
pub(super) fn is_transient(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if matches!(state(&**error).as_str(), "40001" | "40P01"))
}

fn state(error: &dyn DatabaseError) -> String {
    error.code().unwrap_or_default().into_owned()
}

/// Whether the connection is gone, so that another one may do.
pub(super) fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(error) => {
            let state = state(&**error);
            state.starts_with("08") || matches!(state.as_str(), "57P01" | "57P02" | "57P03" | "25P03")
        }
        _ => false,
    }
}

/// The typed error for `error`. What it does not say goes to the log.
pub(super) fn classify(place: &Place, error: &sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Database(database) => of_state(place, &**database, error),
        sqlx::Error::PoolTimedOut => {
            unavailable(place, "gives no connection in time; check that the server runs, and try again")
        }
        sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => closed(),
        // How a handshake that fails arrives.
        sqlx::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => no_tls(place, error),
        sqlx::Error::Io(error) => {
            unavailable(place, &format!("cannot be reached ({}); check that the server runs", io_text(error)))
        }
        sqlx::Error::Tls(error) => no_tls(place, error),
        sqlx::Error::Configuration(error) => {
            tracing::warn!(%place, %error, "the address cannot be used");
            unsuitable(
                place,
                "something in TMWS_DATABASE_URL does not fit: check `sslcert`, `sslkey` and `sslrootcert`",
            )
        }
        sqlx::Error::Protocol(_) => unavailable(place, "lost the connection; try again"),
        _ => internal(place, error),
    }
}

fn no_tls(place: &Place, error: &impl std::fmt::Display) -> StoreError {
    tracing::warn!(%place, %error, "no TLS with the server");
    unavailable(
        place,
        "agrees on no TLS, or its certificate is not the expected one; check `sslmode` and `sslrootcert` of \
         TMWS_DATABASE_URL",
    )
}

fn of_state(place: &Place, database: &dyn DatabaseError, error: &sqlx::Error) -> StoreError {
    let state = state(database);
    let say = |what: &str| unavailable(place, what);
    match (&*state, state.get(..2).unwrap_or_default()) {
        ("55P03", _) => StoreError::Locked,
        ("40001" | "40P01", _) => say("has too many writes of the same rows at once; try again"),
        ("57014", _) => say("took too long; try again, or ask for less"),
        ("25P03" | "57P01" | "57P02" | "57P03", _) | (_, "08") => {
            say("ended the connection: it restarts, or whoever runs it ended it; try again in a moment")
        }
        ("53300" | "53400", _) => {
            say("has no connection left; raise its `max_connections`, or lower limits.database_connections")
        }
        ("53100", _) => StoreError::DiskFull { place: place.clone() },
        ("53200", _) => say("is out of memory; try again, or ask for less"),
        ("25006", _) => StoreError::ReadOnly { place: place.clone() },
        ("3D000", _) => unsuitable(place, "there is no such database; make it, or correct TMWS_DATABASE_URL"),
        (_, "28") => StoreError::LoginRefused {
            place: place.clone(),
            reason: "it refuses the role or its password; correct TMWS_DATABASE_URL (or ~/.pgpass), or pg_hba.conf of \
                     the server"
                .to_owned(),
        },
        ("42501", _) => {
            tracing::error!(%place, error = database.message(), "the role may not");
            unsuitable(
                place,
                "the role in TMWS_DATABASE_URL may not do what is needed; let it own the schema tmws, or grant it \
                 USAGE on it and SELECT, INSERT, UPDATE and DELETE on its tables",
            )
        }
        // Damaged pages and indexes, and a schema that somebody changed.
        ("42P01" | "42703" | "42883" | "3F000", _) | (_, "XX") if state != "XX000" => {
            tracing::error!(%place, %state, error = database.message(), "the store is damaged");
            StoreError::Corrupt { place: place.clone() }
        }
        (_, "58") => say("cannot read or write its files; look at its log"),
        _ => internal(place, error),
    }
}

fn io_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::UnexpectedEof => {
            "the connection was lost".to_owned()
        }
        io::ErrorKind::BrokenPipe => "the connection was lost".to_owned(),
        io::ErrorKind::TimedOut => "it did not answer in time".to_owned(),
        io::ErrorKind::NotFound => "not found".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    }
}

/// The store was closed, or is being closed.
pub(super) fn closed() -> StoreError {
    StoreError::Unavailable { reason: "it was closed; start tmws again".to_owned() }
}

/// The database cannot be used now, and what to do.
pub(super) fn unavailable(place: &Place, what: &str) -> StoreError {
    StoreError::Unavailable { reason: format!("{place} {what}") }
}

/// The database cannot be used as it is, and what to do.
pub(super) fn unsuitable(place: &Place, reason: impl Into<String>) -> StoreError {
    StoreError::Unsuitable { place: place.clone(), reason: reason.into() }
}

fn internal(place: &Place, error: &sqlx::Error) -> StoreError {
    tracing::error!(%place, %error, "the store failed unexpectedly");
    StoreError::Internal(error.to_string().into())
}
