//! What reads of a scope depend on, found out without a statement where nothing was written.
//!
//! The index of the write-ahead log (`…-shm`) begins with a head that every commit changes, whoever makes it: a count of
//! transactions, the log's length, checksums (SQLite's documentation, "WAL-mode file format", 2.1). It is written before
//! a commit returns, into memory that all processes on the file share. So a mark that was read under a head holds while
//! the head is the same; a head that changed for another reason (a checkpoint) only costs a statement.

use std::{
    collections::HashMap,
    fs::File,
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{Readers, view::View};
use crate::{scope::Scope, store::Mark};

/// Bytes of the head, without its copy.
const HEAD_BYTES: usize = 48;
/// Scopes whose marks are kept; beyond that all are read anew.
const SCOPES_MAX: usize = 4_096;

type Head = [u8; HEAD_BYTES];

/// The marks of one store.
pub(super) struct Marks {
    index: PathBuf,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    file: Option<Arc<File>>,
    marks: HashMap<Scope, (Head, Mark)>,
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
        let head = {
            let mut kept = self.lock();
            let head = kept.head(&self.index);
            if let Some((seen, mark)) = kept.marks.get(scope)
                && Some(*seen) == head
            {
                return Ok(*mark);
            }
            head
        };
        let mark = read(readers, &View::of(scope)).await?;
        let Some(head) = head else { return Ok(mark) };
        let mut kept = self.lock();
        if kept.marks.len() >= SCOPES_MAX {
            kept.marks.clear();
        }
        kept.marks.insert(scope.clone(), (head, mark));
        Ok(mark)
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
            self.marks.clear();
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
