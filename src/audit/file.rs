//! The log's file: opened safely, appended to, opened anew where it was moved away.

use std::{
    fs::{DirBuilder, File, Metadata, OpenOptions, Permissions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use rustix::fs::OFlags;

/// Only its owner reads and writes it.
const MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;
const OTHERS: u32 = 0o077;

/// An open log.
pub(super) struct LogFile {
    file: File,
    /// Device and inode.
    identity: (u64, u64),
    /// The line that an earlier process or a full disk left unfinished is ended first.
    begins_unfinished: bool,
}

/// The key in the file at `path`; where there is none, it is made with one from `make`.
///
/// # Errors
/// It cannot be read or made, is no key, or is not ours alone.
pub(super) fn key(path: &Path, make: impl Fn() -> io::Result<[u8; 32]>) -> io::Result<[u8; 32]> {
    make_folder(path)?;
    let mut file = match options().create_new(true).write(true).open(path) {
        Ok(mut file) => {
            let key = make()?;
            file.write_all(&key)?;
            file.sync_all()?;
            return Ok(key);
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options().read(true).open(path)?,
        Err(error) => return Err(error),
    };
    check_ours(&file)?;
    let mut key = [0; 32];
    file.read_exact(&mut key)?;
    Ok(key)
}

fn make_folder(path: &Path) -> io::Result<()> {
    match path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder),
        None => Ok(()),
    }
}

/// Symbolic links are not followed, a pipe does not block.
fn options() -> OpenOptions {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mut options = OpenOptions::new();
    options.mode(MODE).custom_flags(flags.bits().cast_signed());
    options
}

/// A regular file of this user, under one name, which nobody else may read from now on.
fn check_ours(file: &File) -> io::Result<Metadata> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() || metadata.nlink() > 1 {
        return Err(io::Error::other("it belongs to another user, or has another name too"));
    }
    if metadata.mode() & OTHERS != 0 {
        file.set_permissions(Permissions::from_mode(MODE))?;
    }
    Ok(metadata)
}

impl LogFile {
    /// Opens the log at `path`, or makes it with its folder.
    ///
    /// # Errors
    /// It cannot be opened, is no regular file, or is another user's; symbolic links are not followed.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        make_folder(path)?;
        let mut file = options().read(true).append(true).create(true).open(path)?;
        let metadata = check_ours(&file)?;
        let mut last = [b'\n'];
        if metadata.len() > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        Ok(Self { file, identity: (metadata.dev(), metadata.ino()), begins_unfinished: last != [b'\n'] })
    }

    /// Whether `path` still names this file.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        path.symlink_metadata().is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity)
    }

    /// Appends some of `bytes`; how many.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.begins_unfinished {
            self.file.write_all(b"\n")?;
            self.begins_unfinished = false;
        }
        match self.file.write(bytes)? {
            0 => Err(io::ErrorKind::WriteZero.into()),
            count => Ok(count),
        }
    }

    /// Waits until the disk has it.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}
