//! Files that are never seen half written.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

/// A file that becomes visible under its name only when it is whole.
pub(super) struct Draft {
    path: PathBuf,
    file: File,
    published: bool,
}

impl Draft {
    /// A draft in the folder of `target`, for the user's eyes only.
    ///
    /// # Errors
    /// The folder is not there or not writable.
    pub(super) fn beside(target: &Path) -> io::Result<Self> {
        let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mut draft = std::ffi::OsString::from(".");
        draft.push(name);
        draft.push(format!(".{}.part", std::process::id()));
        let path = target.with_file_name(draft);
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        {
            // Memories are private to the user.
            use std::os::unix::fs::OpenOptionsExt as _;
            options.mode(0o600);
        }
        Ok(Self { file: options.open(&path)?, path, published: false })
    }

    /// What is written to.
    pub(super) const fn file(&self) -> &File {
        &self.file
    }

    /// Where it lies meanwhile.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Puts the draft at `target`, whole and on the disk, where nothing is yet.
    ///
    /// # Errors
    /// `AlreadyExists`: something is there; it stays as it is. Or the disk is full.
    pub(super) fn publish_new(self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        match fs::hard_link(&self.path, target) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(error),
            // A file system without links: the name is taken first, then given to the draft.
            Err(_) => {
                OpenOptions::new().write(true).create_new(true).open(target)?;
                return self.publish(target);
            }
        }
        drop(self);
        sync_folder(target)
    }

    /// Puts the draft in the place of `target`, whole and on the disk.
    ///
    /// # Errors
    /// The disk is full, or `target` is a folder.
    pub(super) fn publish(mut self, target: &Path) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, target)?;
        self.published = true;
        sync_folder(target)
    }
}

/// Makes sure that a name which was given survives the end of the machine.
fn sync_folder(target: &Path) -> io::Result<()> {
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
    match File::open(folder.unwrap_or_else(|| Path::new("."))) {
        Ok(folder) => folder.sync_all(),
        // A folder that may be written to but not read.
        Err(_) => Ok(()),
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published {
            // The export failed already; a draft left behind is the lesser evil.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_draft_that_is_not_published_leaves_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("out.jsonl");
        drop(Draft::beside(&target).expect("a draft"));
        assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 0);
        let draft = Draft::beside(&target).expect("a draft");
        (draft.file()).write_all(b"x").expect("written");
        draft.publish(&target).expect("published");
        assert_eq!(fs::read_to_string(&target).expect("there"), "x");
    }

    #[test]
    fn a_new_file_never_takes_anothers_place() {
        let folder = tempfile::tempdir().expect("a folder");
        let target = folder.path().join("copy.db");
        for (text, expected) in [("one", Ok(())), ("two", Err(io::ErrorKind::AlreadyExists))] {
            let draft = Draft::beside(&target).expect("a draft");
            (draft.file()).write_all(text.as_bytes()).expect("written");
            assert_eq!(draft.publish_new(&target).map_err(|error| error.kind()), expected);
        }
        assert_eq!(fs::read_to_string(&target).expect("there"), "one");
        assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 1);
    }
}
