//! What may go wrong with a query, told apart by what to do about it. No text holds a password or other rows' data.

use std::time::Duration;

use sqlx::error::DatabaseError;

use crate::engine::{
    ErrorKind,
    steps::{StepError, data_clip},
};

/// Longest message of a database that is handed on, in characters.
const MESSAGE_CHARS_MAX: usize = 300;
/// What is run.
pub(super) const ONE_QUERY: &str =
    "only a single query that reads is run: SELECT, WITH … SELECT, VALUES, without anything that writes";

/// What stops a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The database cannot be reached or read: why.
    Unreachable(String),
    /// The connection broke: why.
    Lost(String),
    /// It did not answer in time: neither to what it was asked, nor by ending it.
    Silent,
    /// The query or its values are wrong: how.
    Wrong(String),
    /// It would do more than read, or its role may not: what.
    Refused(String),
    /// Too many queries at once.
    Busy,
    /// It took longer than it may.
    Late,
    /// It needs more memory than it may.
    TooLarge,
}

impl Fault {
    /// As the step says it of the database `name`, whose queries may take `limit`.
    pub(super) fn told(self, name: &str, limit: Duration) -> StepError {
        let (kind, what) = match self {
            Self::Unreachable(why) | Self::Lost(why) => (ErrorKind::ProgramFailed, why),
            Self::Silent => (
                ErrorKind::Deadline,
                "it did not answer in time; check that it runs, and ask again in a moment".to_owned(),
            ),
            Self::Wrong(how) => (ErrorKind::InvalidInput, how),
            Self::Refused(what) => (ErrorKind::Denied, what),
            Self::Busy => {
                (ErrorKind::Busy, "other queries of it did not end in time; ask again later".to_owned())
            }
            Self::Late => (
                ErrorKind::Deadline,
                format!(
                    "the query took longer than it may (`timeout` of the source is {limit:?}; the pattern and the call \
                     have limits of their own) and was stopped"
                ),
            ),
            Self::TooLarge => {
                (ErrorKind::LimitExceeded, "the query needs more memory than it may; ask for less".to_owned())
            }
        };
        StepError::new(kind, format!("database {name}: {what}"))
    }
}

/// How far a query had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Reaching the database.
    Connecting,
    /// Preparing it as it was written.
    Alone,
    /// As the inner part of ours.
    Within,
}

fn clipped(message: &str) -> String {
    let line = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    data_clip(&line, MESSAGE_CHARS_MAX)
}

/// What an error of SQLite means: <https://sqlite.org/rescode.html>
pub(super) fn of_sqlite(error: &sqlx::Error, stage: Stage) -> Fault {
    let unreachable = |why: &str| Fault::Unreachable(why.to_owned());
    let database = match error {
        sqlx::Error::Database(database) => database,
        sqlx::Error::Protocol(_) => {
            return Fault::Wrong("values are written as ?, ?1, ?2 or $1, $2".to_owned());
        }
        sqlx::Error::WorkerCrashed => return unreachable("reading it failed unexpectedly"),
        _ => return unreachable("it cannot be read"),
    };
    let message = database.message();
    match database.code().and_then(|code| code.parse::<u32>().ok()).unwrap_or(0) & 0xff {
        // The text is a statement by itself, and no query.
        1 if stage == Stage::Within
            && (message.contains("syntax error") || message.contains("incomplete input")) =>
        {
            Fault::Refused(ONE_QUERY.to_owned())
        }
        1 | 19 | 20 | 25 => Fault::Wrong(clipped(message)),
        3 | 8 | 23 => Fault::Refused(format!("{ONE_QUERY} ({})", clipped(message))),
        5 | 6 => unreachable("another process has locked it; ask again in a moment"),
        7 | 18 => Fault::TooLarge,
        9 => Fault::Late,
        11 | 26 => unreachable("the file is damaged, or no SQLite database"),
        14 => {
            unreachable("the file cannot be opened: check `url`, and that the file is there and may be read")
        }
        code => Fault::Unreachable(format!("it cannot be read (SQLite result code {code})")),
    }
}

/// What an error of PostgreSQL means, by its SQLSTATE. `params` are the texts of the query's values: these may be told.
pub(super) fn of_postgres(error: &sqlx::Error, stage: Stage, params: &[&str]) -> Fault {
    match error {
        sqlx::Error::Database(database) => of_state(&**database, stage, params),
        sqlx::Error::PoolTimedOut => Fault::Unreachable("the server accepts no connection now".to_owned()),
        sqlx::Error::PoolClosed => Fault::Unreachable("it was closed; start tmws again".to_owned()),
        sqlx::Error::Io(error) => Fault::Lost(format!("the connection failed: {error}")),
        sqlx::Error::Tls(_) => Fault::Unreachable(
            "the server and this client agree on no TLS: check `sslmode` and `sslrootcert` of its address"
                .to_owned(),
        ),
        _ => Fault::Unreachable("the server answered something unexpected".to_owned()),
    }
}

fn of_state(error: &dyn DatabaseError, stage: Stage, params: &[&str]) -> Fault {
    let code = error.code().unwrap_or_default().into_owned();
    let message = || clipped(error.message());
    if stage == Stage::Connecting {
        // `password authentication failed for user "x"`, `database "x" does not exist`: never the password.
        return Fault::Unreachable(format!("the server refuses the connection: {} ({code})", message()));
    }
    match (&*code, code.get(..2).unwrap_or_default()) {
        ("57014", _) => Fault::Late,
        ("55P03", _) => Fault::Unreachable("a lock was not free in time; ask again in a moment".to_owned()),
        ("42501", _) => Fault::Refused(format!("its role may not: {}", message())),
        ("42601", _) if stage == Stage::Within => Fault::Refused(ONE_QUERY.to_owned()),
        (_, "42") => Fault::Wrong(message()),
        ("0A000", _) | (_, "25" | "2D" | "38") => Fault::Refused(format!("{ONE_QUERY} ({})", message())),
        ("53200", _) | (_, "54") => Fault::TooLarge,
        (_, "08" | "53" | "57" | "58") => Fault::Unreachable(format!("the server gave up (SQLSTATE {code})")),
        // These quote data.
        (_, "22" | "21" | "23") => {
            let text = error.message();
            let quoted = text.find('"').zip(text.rfind('"')).map(|(from, to)| &text[from..=to]);
            let own = quoted.is_none_or(|quoted| params.contains(&quoted.trim_matches('"')));
            if own {
                Fault::Wrong(format!("{} (SQLSTATE {code})", message()))
            } else {
                Fault::Wrong(format!("a value does not fit where the query uses it (SQLSTATE {code})"))
            }
        }
        _ => Fault::Wrong(format!("the query failed (SQLSTATE {code})")),
    }
}
