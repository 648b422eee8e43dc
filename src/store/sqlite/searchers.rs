//! The connections that search.
//!
//! A search asks the file half a dozen times, each time for what it was told before. Through a pool, every one of these
//! is handed to the thread of a connection and back, which takes as long as the answer; here a search is one piece of
//! work, on one thread, with a connection of its own.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, Transaction};
use tokio::{sync::Semaphore, task::spawn_blocking};

use super::{
    SqliteOptions,
    fault::{classify_search, closed},
};
use crate::store::StoreError;

/// KiB of pages that a connection keeps at most, as they are read: a search in a large store looks at a thousand rows.
const CACHE_KIB: u32 = 32 << 10;
/// Statements that a connection keeps prepared: all that a search may need.
const STATEMENTS_MAX: usize = 32;

/// Steps of SQLite's machine between two looks whether anybody still waits: some microseconds.
const STEPS_UNSEEN: i32 = 4_096;

/// Connections, made when they are needed, one for each search that goes on.
pub(super) struct Searchers {
    path: PathBuf,
    busy_timeout: Duration,
    idle: Mutex<Vec<Connection>>,
    /// One permit for each that may search; closed with the store.
    searching: Arc<Semaphore>,
    most: u32,
}

/// Tells a search that its caller went away.
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Searchers {
    /// At most so many as `most` at once. Nothing is opened.
    pub(super) fn new(options: &SqliteOptions, most: u32) -> Self {
        Self {
            path: options.path.clone(),
            busy_timeout: options.limits.busy_timeout,
            idle: Mutex::default(),
            searching: Arc::new(Semaphore::new(most as usize)),
            most,
        }
    }

    /// Does `search` on a thread that may block, in one transaction: all of its statements see one state of the store.
    pub(super) async fn search<T: Send + 'static>(
        self: &Arc<Self>,
        search: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let permit = Arc::clone(&self.searching).acquire_owned().await.map_err(|_| closed())?;
        let is_given_up = Arc::<AtomicBool>::default();
        let _given_up = GivenUp(Arc::clone(&is_given_up));
        let searchers = Arc::clone(self);
        let searching = spawn_blocking(move || {
            let _permit = permit;
            let searched = searchers.connection().and_then(|mut connection| {
                let look = move || is_given_up.load(Ordering::Relaxed);
                connection.progress_handler(STEPS_UNSEEN, Some(look))?;
                let searched = connection.transaction().and_then(|transaction| search(&transaction));
                // Whoever has it next is not told of it.
                connection.progress_handler(0, None::<fn() -> bool>)?;
                if !searchers.searching.is_closed() {
                    searchers.idle().push(connection);
                }
                searched
            });
            searched.map_err(|error| classify_search(&searchers.path, &error))
        });
        searching.await.map_err(|error| StoreError::Internal(Box::new(error)))?
    }

    /// Waits for those that search, and lets no more begin.
    pub(super) async fn close(&self) {
        // An error means that it is closed already.
        let all = self.searching.acquire_many(self.most).await;
        self.searching.close();
        drop(all);
        self.idle().clear();
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connection(&self) -> rusqlite::Result<Connection> {
        if let Some(connection) = self.idle().pop() {
            return Ok(connection);
        }
        // Which has to be able to write the index of the write-ahead log, and nothing else.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(self.busy_timeout)?;
        connection.execute_batch(&format!(
            "PRAGMA query_only = ON; PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY; \
             PRAGMA cache_size = -{CACHE_KIB}"
        ))?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        Ok(connection)
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::mpsc};

    use super::*;

    fn searchers(folder: &Path, most: u32) -> Arc<Searchers> {
        let path = folder.join("store.db");
        Connection::open(&path).unwrap().pragma_update(None, "journal_mode", "WAL").unwrap();
        Arc::new(Searchers::new(&SqliteOptions::new(path), most))
    }

    fn one(file: &Connection) -> rusqlite::Result<i64> {
        file.query_row("SELECT 1", (), |row| row.get(0))
    }

    #[tokio::test]
    async fn a_search_that_nobody_waits_for_any_more_ends_and_the_next_is_not_disturbed() {
        let folder = tempfile::tempdir().unwrap();
        let searchers = searchers(folder.path(), 1);
        let (begun, is_begun) = tokio::sync::oneshot::channel();
        let (ended, is_ended) = mpsc::channel();
        let endless = searchers.search(move |file| {
            let _ = begun.send(());
            let endless =
                "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n) SELECT count(*) FROM n";
            let counted: rusqlite::Result<i64> = file.query_row(endless, (), |row| row.get(0));
            let _ = ended.send(counted.as_ref().err().and_then(rusqlite::Error::sqlite_error_code));
            counted
        });
        tokio::select! {
            _ = endless => panic!("it has no end"),
            begun = is_begun => begun.unwrap(),
        }
        // The only place is free once it has ended.
        assert_eq!(searchers.search(|file| one(file)).await.unwrap(), 1);
        assert_eq!(is_ended.recv().unwrap(), Some(rusqlite::ErrorCode::OperationInterrupted));
    }

    #[tokio::test]
    async fn a_connection_serves_one_search_after_the_other_and_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let searchers = searchers(folder.path(), 2);
        for _ in 0..3 {
            assert_eq!(searchers.search(|file| one(file)).await.unwrap(), 1);
        }
        assert_eq!(searchers.idle().len(), 1);
        let written = searchers.search(|file| file.execute("CREATE TABLE t (n)", ())).await;
        assert!(matches!(written, Err(StoreError::ReadOnly { .. })), "{written:?}");
    }

    #[tokio::test]
    async fn once_it_is_closed_nothing_is_open_and_nobody_searches() {
        let folder = tempfile::tempdir().unwrap();
        let searchers = searchers(folder.path(), 2);
        assert_eq!(searchers.search(|file| one(file)).await.unwrap(), 1);
        searchers.close().await;
        searchers.close().await;
        assert!(searchers.idle().is_empty());
        let late = searchers.search(|file| one(file)).await;
        assert!(matches!(late, Err(StoreError::Unavailable { .. })), "{late:?}");
    }

    #[tokio::test]
    async fn a_file_that_is_not_there_or_none_of_sqlite_is_an_error_that_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| Arc::new(Searchers::new(&SqliteOptions::new(folder.path().join(name)), 1));
        let missing = at("missing.db").search(|file| one(file)).await;
        assert!(matches!(missing, Err(StoreError::Unavailable { .. })), "{missing:?}");
        std::fs::write(
            folder.path().join("text.db"),
            "a text that is no database, and long enough ".repeat(40),
        )
        .unwrap();
        let asked = |file: &Transaction<'_>| {
            file.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get::<_, i64>(0))
        };
        let text = at("text.db").search(asked).await;
        assert!(matches!(text, Err(StoreError::Corrupt { .. })), "{text:?}");
    }
}
