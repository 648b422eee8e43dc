//! What reads of a scope depend on, found out without a statement where nothing was written.
//!
//! The index of the write-ahead log (`…-shm`) begins with a head that every commit changes, whoever makes it: a count of
//! transactions, the log's length, checksums (SQLite's documentation, "WAL-mode file format", 2.1). It is written before
//! a commit returns, into memory that all processes on the file share. So what was read under a head holds while the head
//! is the same; a head that changed for another reason (a checkpoint) only costs a statement. So it is with marks, and with
//! whether a result is there.

use std::{
    collections::HashMap,
    fs::File,
    hash::Hash,
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;

use super::{
    Readers,
    handle::{self, Bound},
    view::View,
};
use crate::{scope::Scope, store::Mark};

/// Bytes of the head, without its copy.
const HEAD_BYTES: usize = 48;
/// Scopes whose marks are kept, and results that were seen; beyond that all are read anew.
const SEEN_MAX: usize = 4_096;

type Head = [u8; HEAD_BYTES];

/// What was read of one store, and holds until something is committed.
pub(super) struct Marks {
    index: PathBuf,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    file: Option<Arc<File>>,
    marks: Seen<Scope, Mark>,
    /// Until when each result is there.
    results: Seen<Bound, Timestamp>,
}

/// What was read, each under the head of then.
struct Seen<K, V>(HashMap<K, (Head, V)>);

impl<K, V> Default for Seen<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash, V: Copy> Seen<K, V> {
    /// What was read of `key`, where it still holds.
    fn get(&self, key: &K, head: Head) -> Option<V> {
        self.0.get(key).filter(|(seen, _)| *seen == head).map(|(_, value)| *value)
    }

    fn put(&mut self, key: K, head: Head, value: V) {
        if self.0.len() >= SEEN_MAX {
            self.0.clear();
        }
        self.0.insert(key, (head, value));
    }
}

impl Marks {
    /// Those of the store at `path`. Nothing is opened.
    pub(super) fn new(path: &Path) -> Self {
        let mut index = path.as_os_str().to_owned();
        index.push("-shm");
        Self { index: index.into(), kept: Mutex::default() }
    }

    /// The mark of `scope` now.
    pub(super) async fn get(&self, readers: &Readers, scope: &Scope) -> Result<Mark, sqlx::Error> {
        // The head first: what is committed between it and the statement is then looked for once more.
        let (head, known) = self.known(|kept, head| kept.marks.get(scope, head));
        if let Some(mark) = known {
            return Ok(mark);
        }
        let mark = read(readers, &View::of(scope)).await?;
        if let Some(head) = head {
            self.lock().marks.put(scope.clone(), head, mark);
        }
        Ok(mark)
    }

    /// Whether there is a result behind a handle at `now`.
    pub(super) async fn has_result(
        &self,
        readers: &Readers,
        bound: Bound,
        now: Timestamp,
    ) -> Result<bool, sqlx::Error> {
        let (head, known) = self.known(|kept, head| kept.results.get(&bound, head));
        let known = match known {
            Some(expires) => Some(expires),
            None => handle::result_expires(readers, &bound, now).await?.inspect(|expires| {
                if let Some(head) = head {
                    self.lock().results.put(bound, head, *expires);
                }
            }),
        };
        Ok(known.is_some_and(|expires| expires > now))
    }

    /// The head now, and what `look` finds under it.
    fn known<V>(&self, look: impl FnOnce(&Kept, Head) -> Option<V>) -> (Option<Head>, Option<V>) {
        let mut kept = self.lock();
        let head = kept.head(&self.index);
        (head, head.and_then(|head| look(&kept, head)))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// The head now; `None` where there is no log, or it cannot be read.
    fn head(&mut self, index: &Path) -> Option<Head> {
        // Once the last connection has closed, the file is gone, and the next one makes another.
        if self.file.as_ref().is_none_or(|file| file.metadata().is_ok_and(|found| found.nlink() == 0)) {
            self.file = open(index).ok();
            self.marks.0.clear();
            self.results.0.clear();
        }
        let mut head = [0; HEAD_BYTES];
        self.file.as_ref()?.read_exact_at(&mut head, 0).ok()?;
        Some(head)
    }
}

/// Opens an index for as long as there is one.
///
/// SQLite's locks on a file belong to the process and end when *any* descriptor of that file is closed. So a descriptor
/// is shared by all stores of the process and kept until nobody can have locks on its file: until it is deleted.
fn open(index: &Path) -> io::Result<Arc<File>> {
    static OPENED: Mutex<Vec<Arc<File>>> = Mutex::new(Vec::new());
    let same = |one: &std::fs::Metadata, other: &std::fs::Metadata| {
        (one.dev(), one.ino()) == (other.dev(), other.ino())
    };
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    opened.retain(|file| file.metadata().map_or(true, |found| found.nlink() > 0));
    let wanted = std::fs::metadata(index)?;
    let known = opened.iter().find(|file| file.metadata().is_ok_and(|found| same(&found, &wanted)));
    if let Some(known) = known {
        return Ok(Arc::clone(known));
    }
    let file = Arc::new(File::open(index)?);
    opened.push(Arc::clone(&file));
    Ok(file)
}

async fn read(pool: &Readers, view: &View) -> Result<Mark, sqlx::Error> {
    let (generation, has_session): (i64, bool) = sqlx::query_as(
        "SELECT (SELECT coalesce(sum(value), 0) FROM generation WHERE audience IN (?1, ?2, ?3)), \
         EXISTS (SELECT 1 FROM memory INDEXED BY memory_by_session \
         WHERE visibility = 'session' AND audience = ?1 AND session = ?5 AND principal = ?4)",
    )
    .bind(&view.realm)
    .bind(&view.personal)
    .bind(&view.shared)
    .bind(&view.principal)
    .bind(&view.session)
    .fetch_one(&mut *pool.get().await?)
    .await?;
    Ok(Mark { generation: generation.cast_unsigned(), has_session })
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use serde_json::json;

    use super::super::{READERS_MAX, SqliteOptions, SqliteStore};
    use crate::{
        scope::{ProjectId, Scope},
        store::{Store as _, StoredResult},
    };

    #[tokio::test]
    async fn what_was_read_since_the_last_commit_takes_no_statement() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(SqliteOptions::new(folder.path().join("m.db"))).await.unwrap();
        let ann = Scope::mint(ProjectId::parse("a").unwrap(), "ann", "default", None);
        let now = "2026-03-01T12:00:00Z".parse().unwrap();
        let result = StoredResult { pattern: "p".to_owned(), value: json!([1]) };
        let handle = store.put_result(&ann, result, now).await.unwrap();
        let mark = store.mark(&ann).await.unwrap();
        assert!(store.has_result(&ann, &handle, now).await.unwrap());
        {
            let mut readers = Vec::new();
            for _ in 0..READERS_MAX {
                readers.push(store.readers.get().await.unwrap());
            }
            // There is no connection left that a statement could go to.
            let has_result = store.has_result(&ann, &handle, now).now_or_never();
            assert!(has_result.is_some_and(Result::unwrap));
            assert_eq!(store.mark(&ann).now_or_never().map(Result::unwrap), Some(mark));
            let other = StoredResult { pattern: "p".to_owned(), value: json!([2]) };
            store.put_result(&ann, other, now).await.unwrap();
            assert!(store.has_result(&ann, &handle, now).now_or_never().is_none(), "something was committed");
        }
        assert!(store.has_result(&ann, &handle, now).await.unwrap());
    }
}
