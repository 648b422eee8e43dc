//! A granted directory as a capability: nothing outside it can be opened, whatever a path or a symlink says.

use std::{
    ffi::OsStr,
    io::{self, Read},
    path::{Component, Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use cap_std::{
    ambient_authority,
    fs::{Dir, File, Metadata, OpenOptions, OpenOptionsExt},
};
use memchr::memchr;
use rustix::fs::{FileType, Mode, OFlags, fstat, openat};
use tokio_util::sync::CancellationToken;

use super::secret;
use crate::engine::{
    ErrorKind,
    steps::{StepContext, StepError},
};

/// Longest path taken, in bytes.
const PATH_BYTES_MAX: usize = 4096;

/// How long before its deadline a step that can answer in part stops.
const MARGIN_MAX: Duration = Duration::from_millis(25);

/// A granted root, opened.
pub(in crate::engine::steps) struct Root {
    dir: Arc<Dir>,
    shown: PathBuf,
}

/// When to stop, checked between units of work.
#[derive(Clone)]
pub(in crate::engine::steps) struct Bounds {
    cancel: CancellationToken,
    soft: Instant,
}

impl Bounds {
    /// The bounds of `context`. What can be answered in part ends a little before the deadline, so that the part arrives.
    pub(in crate::engine::steps) fn of(context: &StepContext) -> Self {
        let remaining = context.deadline.saturating_duration_since(Instant::now());
        let soft = context.deadline.checked_sub((remaining / 8).min(MARGIN_MAX)).unwrap_or(context.deadline);
        Self { cancel: context.cancel.clone(), soft }
    }

    /// Whether the time is used up.
    ///
    /// # Errors
    /// `cancelled`, once the run is.
    pub(in crate::engine::steps) fn used_up(&self) -> Result<bool, StepError> {
        if self.cancel.is_cancelled() {
            return Err(StepError::new(ErrorKind::Cancelled, "cancelled by the caller"));
        }
        Ok(Instant::now() >= self.soft)
    }
}

/// A path as given by a pattern: relative, without `..`.
pub(in crate::engine::steps) fn relative(path: &str) -> Result<PathBuf, StepError> {
    let denied = |why: &str| {
        Err(StepError::new(
            ErrorKind::Denied,
            format!("path {path:?} {why}; give a path relative to the root, such as src/main.rs"),
        ))
    };
    if path.len() > PATH_BYTES_MAX {
        return Err(StepError::new(
            ErrorKind::InvalidInput,
            format!("a path of {} bytes is longer than {PATH_BYTES_MAX} bytes", path.len()),
        ));
    }
    if path.contains('\0') {
        return denied("contains a NUL character");
    }
    let mut clean = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir => return denied("contains `..`"),
            Component::RootDir | Component::Prefix(_) => return denied("is absolute"),
        }
    }
    Ok(clean)
}

/// A path as shown to a model.
pub(in crate::engine::steps) fn shown(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// What stands at a path.
pub(super) enum Found {
    /// A regular file, opened; `path` has its symlinks resolved.
    File { file: File, metadata: Metadata },
    /// A directory.
    Directory,
}

impl Root {
    /// Opens the directory `path`, which must be one that was granted.
    pub(in crate::engine::steps) fn open(path: &Path) -> Result<Self, StepError> {
        let dir = Dir::open_ambient_dir(path, ambient_authority()).map_err(|error| {
            StepError::new(
                ErrorKind::NotFound,
                format!(
                    "the root {} cannot be opened: {}; check the workspace root (TMWS_ROOT)",
                    path.display(),
                    error.kind()
                ),
            )
        })?;
        Ok(Self { dir: Arc::new(dir), shown: path.to_owned() })
    }

    /// The directory itself.
    pub(super) const fn dir(&self) -> &Arc<Dir> {
        &self.dir
    }

    /// `path` with its symlinks resolved, relative to the root, and what stands there.
    pub(in crate::engine::steps) fn locate(&self, path: &Path) -> Result<(PathBuf, Metadata), StepError> {
        if path.as_os_str().is_empty() {
            let metadata = self.dir.dir_metadata().map_err(|error| self.failed(path, &error))?;
            return Ok((PathBuf::new(), metadata));
        }
        let real = self.dir.canonicalize(path).map_err(|error| self.failed(path, &error))?;
        let metadata = self.dir.symlink_metadata(&real).map_err(|error| self.failed(path, &error))?;
        Ok((real, metadata))
    }

    /// Opens what stands at `path`, unless its content is closed.
    pub(super) fn find(&self, path: &Path) -> Result<Found, StepError> {
        let (real, metadata) = self.locate(path)?;
        for candidate in [path, real.as_path()] {
            if let Some(reason) = secret::reason(candidate) {
                return Err(StepError::new(
                    ErrorKind::Denied,
                    format!("{} is not shown: {reason}", shown(path)),
                ));
            }
        }
        if metadata.is_dir() {
            return Ok(Found::Directory);
        }
        if !metadata.is_file() {
            return Err(StepError::new(
                ErrorKind::Denied,
                format!("{} is neither a file nor a folder (a pipe, socket or device)", shown(path)),
            ));
        }
        let file = open_regular(&self.dir, &real).map_err(|error| self.failed(path, &error))?;
        let metadata = file.metadata().map_err(|error| self.failed(path, &error))?;
        Ok(Found::File { file, metadata })
    }

    /// The error for `path`. The operating system's text is not passed on: only its kind.
    pub(super) fn failed(&self, path: &Path, error: &io::Error) -> StepError {
        let path = shown(path);
        let root = self.shown.display();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                StepError::new(ErrorKind::NotFound, format!("there is no {path} in {root}"))
            }
            // The capability answers a path that would leave the root with this kind, too.
            io::ErrorKind::PermissionDenied => StepError::new(
                ErrorKind::Denied,
                format!("{path} may not be read: it leads outside {root}, or the system forbids it"),
            ),
            kind => StepError::new(ErrorKind::Denied, format!("{path} in {root} cannot be read: {kind}")),
        }
    }
}

/// Opens `path` beneath `dir` only if it is a regular file. Neither a FIFO nor a device can block or be triggered: the
/// open does not wait, and what was opened is looked at again.
pub(super) fn open_regular(dir: &Dir, path: &Path) -> io::Result<File> {
    if !dir.symlink_metadata(path)?.is_file() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let mut options = OpenOptions::new();
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW;
    options.read(true).custom_flags(flags.bits().cast_signed());
    let file = dir.open_with(path, &options)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(file)
}

/// As [`open_regular`], of a name in `dir`'s own listing that is a regular file's; also its size in bytes. A search opens
/// thousands of them: a name alone, not followed, needs no resolving to stay where it is.
fn open_listed(dir: &Dir, name: &OsStr) -> io::Result<(std::fs::File, u64)> {
    if name.as_encoded_bytes().contains(&b'/') || name == ".." {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = openat(dir, name, flags, Mode::empty())?;
    let found = fstat(&file)?;
    if !FileType::from_raw_mode(found.st_mode).is_file() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok((file.into(), u64::try_from(found.st_size).unwrap_or_default()))
}

/// Up to `bytes_max` bytes of the regular file at `path`, and whether that was all.
pub(super) fn read_capped(dir: &Dir, path: &Path, bytes_max: usize) -> io::Result<(Vec<u8>, bool)> {
    let file = open_regular(dir, path)?;
    let size = file.metadata()?.len();
    let mut bytes = Vec::new();
    file.take(bytes_max as u64).read_to_end(&mut bytes)?;
    Ok((bytes, size <= bytes_max as u64))
}

/// As [`read_capped`], of a name in `dir`'s own listing that is a regular file's: it need not be looked at before it is
/// opened. What is read stands at the beginning of `buffer`, which only grows.
pub(super) fn read_listed<'b>(
    dir: &Dir,
    name: &OsStr,
    bytes_max: usize,
    buffer: &'b mut Vec<u8>,
) -> io::Result<(&'b [u8], bool)> {
    let (mut file, size) = open_listed(dir, name)?;
    let wanted = usize::try_from(size).unwrap_or(usize::MAX).min(bytes_max);
    if buffer.len() < wanted {
        buffer.resize(wanted, 0);
    }
    let mut filled = 0;
    while filled < wanted {
        match file.read(&mut buffer[filled..wanted]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok((&buffer[..filled], size <= bytes_max as u64))
}

/// Whether `head`, the beginning of a file, is that of a binary file: it holds a NUL byte, as git has it.
pub(super) fn is_binary(head: &[u8]) -> bool {
    memchr(0, &head[..head.len().min(8000)]).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_the_root_are_denied_by_their_text() {
        for path in ["/etc/passwd", "../x", "a/../../x", "a/..", "x\0y", "//x"] {
            assert_eq!(relative(path).unwrap_err().kind, ErrorKind::Denied, "{path:?}");
        }
        assert_eq!(relative("./a//b/./c").unwrap(), Path::new("a/b/c"));
        assert_eq!(relative("").unwrap(), Path::new(""));
        assert_eq!(relative(&"x".repeat(5000)).unwrap_err().kind, ErrorKind::InvalidInput);
    }
}
