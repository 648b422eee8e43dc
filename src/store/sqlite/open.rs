//! Opening the file: whose it is, making it, bringing it to the newest schema.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::{
    ConnectOptions as _, Connection as _, Row as _, SqlSafeStr as _, SqliteConnection,
    migrate::{Migration, MigrationType, Migrator},
    sqlite::{SqliteConnectOptions, SqliteSynchronous},
};
use tokio::time::Instant;

use super::{
    SqliteOptions,
    fault::{classify, unavailable},
};
use crate::store::StoreError;

/// `PRAGMA application_id` of our files: "TMWS".
const APPLICATION_ID: i64 = 0x544D_5753;
/// `PRAGMA user_version` that this binary writes and knows.
pub(super) const SCHEMA_VERSION: i64 = 3;
/// Statements kept prepared per connection; more than there are.
const STATEMENTS_MAX: usize = 64;
/// Bytes of the smallest page, and so of the smallest database.
pub(super) const HEADER_BYTES: u64 = 512;
/// Pause between two tries while another process makes or migrates the file.
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// The migrations, oldest first: version, name, SQL. A released one never changes.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "memory", include_str!("../migrations/sqlite/0001_memory.sql")),
    (2, "task", include_str!("../migrations/sqlite/0002_task.sql")),
    (3, "vector", include_str!("../migrations/sqlite/0003_vector.sql")),
];

fn migrator() -> Migrator {
    let migrations = MIGRATIONS.iter().map(|(version, name, sql)| {
        Migration::new(*version, (*name).into(), MigrationType::Simple, (*sql).into_sql_str(), false)
    });
    Migrator::with_migrations(migrations.collect())
}

/// Version and name of each migration, oldest first.
pub(super) fn migration_names() -> Vec<(i64, &'static str)> {
    MIGRATIONS.iter().map(|(version, name, _)| (*version, *name)).collect()
}

/// Which file it is, to notice that it was moved or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileIdentity {
    device: u64,
    inode: u64,
}

impl FileIdentity {
    /// The file at `path` now; `None` where there is none.
    pub(super) fn of(path: &Path) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = fs::metadata(path).ok()?;
        Some(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// Whose file it is.
pub(super) enum Found {
    /// Empty: to be made ours.
    Empty,
    /// Ours, with this schema version.
    Ours(i64),
}

/// Prepares the file for use and returns a connection that writes.
///
/// Folders are made with mode 0700, the file with 0600. A file that is not ours, damaged or newer stays as it is. Other
/// processes may do the same at the same time; whatever lock they hold is waited for, `busy_timeout` long.
pub(super) async fn open(options: &SqliteOptions) -> Result<SqliteConnection, StoreError> {
    let path = options.path.clone();
    run_blocking(move || make_file(&path)).await?;
    let deadline = Instant::now() + options.limits.busy_timeout;
    loop {
        match open_once(options).await {
            Err(StoreError::Locked) if Instant::now() < deadline => tokio::time::sleep(RETRY_PAUSE).await,
            result => return result,
        }
    }
}

async fn open_once(options: &SqliteOptions) -> Result<SqliteConnection, StoreError> {
    let path = &options.path;
    let told = |error| classify(path, &error);
    // Reading first, without the right to write: a foreign file is not even recovered or checkpointed.
    let found = match connect_options(options).read_only(true).connect().await {
        Ok(mut reader) => {
            let found = identify(&mut reader, path).await;
            // A failure to close loses nothing: it only read.
            let _ = reader.close().await;
            match found {
                Err(StoreError::ReadOnly { .. } | StoreError::Unavailable { .. }) => None,
                found => Some(found?),
            }
        }
        // A write-ahead log in a state that only a writer may read: looked at again below.
        Err(sqlx::Error::Database(_)) => None,
        Err(error) => return Err(told(error)),
    };
    let mut writer = connect_writer(options).await?;
    let found = match found {
        Some(found) => found,
        None => identify(&mut writer, path).await?,
    };
    let mode: String =
        sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut writer).await.map_err(told)?;
    if mode != "wal" {
        sqlx::query("PRAGMA journal_mode = WAL").execute(&mut writer).await.map_err(told)?;
    }
    if !matches!(found, Found::Ours(SCHEMA_VERSION)) {
        migrate(&mut writer, path).await?;
    }
    Ok(writer)
}

/// A connection that writes to an existing, prepared file.
pub(super) async fn connect_writer(options: &SqliteOptions) -> Result<SqliteConnection, StoreError> {
    let told = |error| classify(&options.path, &error);
    let mut writer = connect_options(options).connect().await.map_err(told)?;
    if let Some(bytes) = options.file_bytes_max {
        let page: i64 = sqlx::query_scalar("PRAGMA page_size").fetch_one(&mut writer).await.map_err(told)?;
        let pages = i64::try_from(bytes).unwrap_or(i64::MAX) / page.max(1);
        let limit = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
        sqlx::query(limit).execute(&mut writer).await.map_err(told)?;
    }
    Ok(writer)
}

/// How every connection is opened: never making a file, durable, erasing what is deleted.
pub(super) fn connect_options(options: &SqliteOptions) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(&options.path)
        .create_if_missing(false)
        .busy_timeout(options.limits.busy_timeout)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .pragma("secure_delete", "ON")
        .pragma("trusted_schema", "OFF")
        // Nothing of a store in a folder that other accounts reach.
        .pragma("temp_store", "MEMORY")
        // At most so many KiB of pages a connection, as they are read.
        .pragma("cache_size", "-8192")
        .statement_cache_capacity(STATEMENTS_MAX)
        .disable_statement_logging()
}

/// Whose file it is, without a change to it.
pub(super) async fn identify(connection: &mut SqliteConnection, path: &Path) -> Result<Found, StoreError> {
    let row = sqlx::query(
        "SELECT (SELECT application_id FROM pragma_application_id), (SELECT user_version FROM pragma_user_version), \
         (SELECT count(*) FROM sqlite_schema)",
    )
    .fetch_one(connection)
    .await
    .map_err(|error| classify(path, &error))?;
    let read = |at: usize| row.try_get::<i64, _>(at).map_err(|error| classify(path, &error));
    let (application, version, objects) = (read(0)?, read(1)?, read(2)?);
    match application {
        APPLICATION_ID if version > SCHEMA_VERSION => {
            Err(StoreError::NewerVersion { place: path.into(), found: version, known: SCHEMA_VERSION })
        }
        APPLICATION_ID => Ok(Found::Ours(version)),
        0 if version == 0 && objects == 0 => Ok(Found::Empty),
        _ => Err(StoreError::Corrupt { place: path.into() }),
    }
}

/// Brings the file to the newest schema in one transaction, unless another process did so meanwhile.
async fn migrate(writer: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let told = |error| classify(path, &error);
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await.map_err(told)?;
    if !matches!(identify(&mut transaction, path).await?, Found::Ours(SCHEMA_VERSION)) {
        migrator()
            .run_direct(None, &mut *transaction, false)
            .await
            .map_err(|error| classify(path, &sqlx::Error::from(error)))?;
    }
    transaction.commit().await.map_err(told)
}

/// Makes the folders and an empty file where there is none.
fn make_file(path: &Path) -> Result<(), StoreError> {
    match fs::metadata(path) {
        // SQLite would take the few bytes of a shorter file for an empty database.
        Ok(metadata) if metadata.is_file() && (1..HEADER_BYTES).contains(&metadata.len()) => {
            return Err(StoreError::Corrupt { place: path.into() });
        }
        Ok(metadata) if metadata.is_file() => {
            free_side_files(path, &metadata);
            return Ok(());
        }
        Ok(metadata) if metadata.is_dir() => {
            return Err(unavailable(path, "is a folder; name a file with TMWS_DATABASE_URL"));
        }
        Ok(_) => return Err(unavailable(path, "is no regular file; name another with TMWS_DATABASE_URL")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(make_error(path, &error)),
    }
    let folder = path.parent().map_or_else(|| PathBuf::from("/"), Path::to_path_buf);
    make_folders(&folder).map_err(|error| make_error(path, &error))?;
    match make_empty(path) {
        // Another process was quicker; its file does as well.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result.map_err(|error| make_error(path, &error)),
    }
}

/// Makes the log and its index writable where the file is: a process that found all of it read-only left them so.
///
/// Where that fails, opening says that the store is read-only.
fn free_side_files(path: &Path, metadata: &fs::Metadata) {
    use rustix::fs::{Access, access};
    if access(path, Access::WRITE_OK).is_err() {
        return;
    }
    for suffix in ["-wal", "-shm"] {
        let mut side = path.as_os_str().to_owned();
        side.push(suffix);
        if access(&side, Access::EXISTS).is_ok() && access(&side, Access::WRITE_OK).is_err() {
            let _ = fs::set_permissions(&side, metadata.permissions());
        }
    }
}

fn make_folders(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if folder.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Makes an empty file that only the user may read, without ever opening it: closing a descriptor of our own would
/// drop the locks that another connection of this process holds on the same file.
#[cfg(target_os = "linux")]
fn make_empty(path: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    mknodat(CWD, path, FileType::RegularFile, Mode::RUSR | Mode::WUSR, 0).map_err(io::Error::from)
}

/// The same where files are only made by opening them.
#[cfg(not(target_os = "linux"))]
fn make_empty(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(drop)
}

fn make_error(path: &Path, error: &io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            StoreError::ReadOnly { place: path.into() }
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            StoreError::DiskFull { place: path.into() }
        }
        io::ErrorKind::NotADirectory => unavailable(
            path,
            "cannot be made: a part of its path is no folder; name another with TMWS_DATABASE_URL",
        ),
        _ => StoreError::Unavailable { reason: format!("{} cannot be made: {error}", path.display()) },
    }
}

/// Runs `work`, which may block, away from the tasks of the runtime.
pub(super) async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(StoreError::Internal(Box::new(error))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `.cargo/config.toml` says so; a build that does not read it is slower where several read at the same time.
    #[tokio::test]
    async fn sqlite_is_built_without_a_lock_over_all_connections() {
        let mut memory = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        let options: Vec<String> =
            sqlx::query_scalar("PRAGMA compile_options").fetch_all(&mut memory).await.unwrap();
        assert!(options.iter().all(|option| option != "ENABLE_MEMORY_MANAGEMENT"), "{options:?}");
    }
}
