//! What opening a file would do to its schema, without a trace of having looked.

use std::{
    fs::{self, Metadata},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use super::{
    SqliteOptions,
    fault::classify,
    open::{self, Found, SCHEMA_VERSION},
};
use crate::store::{MigrationPlan, MigrationStep, StoreError};

/// Tries to copy a file that somebody writes to.
const COPY_TRIES: usize = 5;

/// What a migration does, for people, and how many rows that concerns.
struct Effect {
    version: i64,
    told: &'static str,
    rows: Option<&'static str>,
}

/// One for each migration; `NULL` rows: it only makes what is empty.
const EFFECTS: &[Effect] = &[
    Effect { version: 1, told: "makes the tables of memories, sessions and results", rows: None },
    Effect { version: 2, told: "adds the table of tasks", rows: None },
    Effect {
        version: 3,
        told: "adds the tables of vectors, recalls and ended sessions; each memory gets its vector in the background \
               afterwards",
        rows: None,
    },
];

/// What there is, and what opening it would make of it.
pub(in crate::store) async fn plan(options: &SqliteOptions) -> Result<MigrationPlan, StoreError> {
    let path = &options.path;
    let nothing = MigrationPlan { found: None, wanted: SCHEMA_VERSION, steps: Vec::new(), memories: 0 };
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && metadata.len() == 0 && !has_log(path) => return Ok(nothing),
        Ok(metadata) if metadata.is_file() && metadata.len() < open::HEADER_BYTES && !has_log(path) => {
            return Err(StoreError::Corrupt { place: path.as_path().into() });
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(nothing),
        Err(error) => {
            let reason = format!("{} cannot be read: {error}", path.display());
            return Err(StoreError::Unavailable { reason });
        }
    }
    let mut looking = Looking::at(options).await?;
    let plan = look(&mut looking.connection, path).await;
    // A failure to close loses nothing: it only read.
    let _ = looking.connection.close().await;
    plan
}

async fn look(connection: &mut SqliteConnection, path: &Path) -> Result<MigrationPlan, StoreError> {
    let Found::Ours(found) = open::identify(connection, path).await? else {
        return Ok(MigrationPlan { found: None, wanted: SCHEMA_VERSION, steps: Vec::new(), memories: 0 });
    };
    let told = |error| classify(path, &error);
    let memories: i64 =
        sqlx::query_scalar("SELECT count(*) FROM memory").fetch_one(&mut *connection).await.map_err(told)?;
    let mut steps = Vec::new();
    for (version, name) in open::migration_names().into_iter().filter(|(version, _)| *version > found) {
        let known = EFFECTS.iter().find(|effect| effect.version == version);
        let rows: i64 = match known.and_then(|effect| effect.rows) {
            Some(count) => sqlx::query_scalar(count).fetch_one(&mut *connection).await.map_err(told)?,
            None => 0,
        };
        let effect = known.map_or("changes the schema", |effect| effect.told);
        steps.push(MigrationStep { version, name, effect, rows: unsigned(rows) });
    }
    Ok(MigrationPlan { found: Some(found), wanted: SCHEMA_VERSION, steps, memories: unsigned(memories) })
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

fn side(path: &Path, suffix: &str) -> PathBuf {
    let mut side = path.as_os_str().to_owned();
    side.push(suffix);
    side.into()
}

/// Whether there is anything in the write-ahead log.
pub(super) fn has_log(path: &Path) -> bool {
    fs::metadata(side(path, "-wal")).is_ok_and(|metadata| metadata.len() > 0)
}

/// How a file of ours is read as if it could never change: no lock is taken, no file made.
pub(super) fn immutable(options: &SqliteOptions) -> SqliteConnectOptions {
    open::connect_options(options).read_only(true).immutable(true)
}

/// A connection that leaves no trace.
struct Looking {
    connection: SqliteConnection,
    /// Where a copy lies; goes when the looking ends.
    _copy: Option<PrivateFolder>,
}

impl Looking {
    /// Without a log the file is all there is. With one, reading it in place would take locks in a file beside it and
    /// might make that file anew: a copy is looked at.
    async fn at(options: &SqliteOptions) -> Result<Self, StoreError> {
        let told = |error| classify(&options.path, &error);
        if !has_log(&options.path) {
            let connection = immutable(options).connect().await.map_err(told)?;
            return Ok(Self { connection, _copy: None });
        }
        let path = options.path.clone();
        let copy = open::run_blocking(move || {
            copied(&path).map_err(|error| {
                let reason = format!("{} cannot be read: {error}", path.display());
                StoreError::Unavailable { reason }
            })
        })
        .await?;
        let Some(copy) = copy else {
            // Somebody writes all the time, so that its side files are there and in use.
            let connection = open::connect_options(options).read_only(true).connect().await.map_err(told)?;
            return Ok(Self { connection, _copy: None });
        };
        let of_copy = SqliteOptions { path: copy.0.join("store.db"), ..options.clone() };
        let connection = open::connect_options(&of_copy).connect().await.map_err(told)?;
        Ok(Self { connection, _copy: Some(copy) })
    }
}

/// A copy of the file and its log as they were at one time; `None` where they never stood still.
fn copied(path: &Path) -> io::Result<Option<PrivateFolder>> {
    let log = side(path, "-wal");
    let folder = PrivateFolder::new()?;
    let state = || -> io::Result<_> {
        Ok((stamp(&fs::metadata(path)?)?, fs::metadata(&log).and_then(|m| stamp(&m)).ok()))
    };
    for _ in 0..COPY_TRIES {
        let before = state()?;
        fs::copy(path, folder.0.join("store.db"))?;
        if before.1.is_some() {
            fs::copy(&log, folder.0.join("store.db-wal"))?;
        }
        if state()? == before {
            return Ok(Some(folder));
        }
    }
    Ok(None)
}

fn stamp(metadata: &Metadata) -> io::Result<(u64, SystemTime)> {
    Ok((metadata.len(), metadata.modified()?))
}

/// A folder of this user alone among the temporary ones.
struct PrivateFolder(PathBuf);

impl PrivateFolder {
    fn new() -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let path = std::env::temp_dir().join(format!("tmws-{}", crate::hex::hex(&random)));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        // What stays is in a folder for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_says_what_it_does() {
        let named: Vec<i64> = open::migration_names().into_iter().map(|(version, _)| version).collect();
        assert!(named.iter().all(|version| EFFECTS.iter().any(|effect| effect.version == *version)));
    }
}
