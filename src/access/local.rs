//! The token that a server without a tokens file makes for itself, in one well-known place of the user's data folder.
//!
//! Whoever may read that file is the local user; so it is made readable by nobody else, and refused where it is not.

use std::{
    fmt::Write as _,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rustix::fs::OFlags;

/// Longest token taken, in bytes.
pub(super) const TOKEN_BYTES_MAX: usize = 512;
/// Shortest token taken, in bytes.
const TOKEN_BYTES_MIN: usize = 16;
/// What tokens of ours begin with, so that they are found where they were left by mistake.
const PREFIX: &str = "tmws_";

/// Why the local token cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LocalTokenError {
    /// The file or its folder cannot be read or written.
    #[error("the token file {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A link, a folder, a device.
    #[error("the token file {} is no regular file: remove it, and `tmws serve` makes a new one", path.display())]
    NotAFile {
        /// What is there.
        path: PathBuf,
    },
    /// Somebody else put it there.
    #[error("the token file {} belongs to another user: remove it, and `tmws serve` makes a new one", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Others may read it, or write it.
    #[error(
        "the token file {} is open to other users (mode {mode:03o}): remove it, and `tmws serve` makes a new one; \
        `chmod 600` keeps the token, if nobody else has read it",
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It holds something else.
    #[error("the token file {} holds no token: remove it, and `tmws serve` makes a new one", path.display())]
    NoToken {
        /// The file.
        path: PathBuf,
    },
}

/// Where the local token is kept in the user's data folder.
#[must_use]
pub fn local_token_path(data_folder: &Path) -> PathBuf {
    data_folder.join("token")
}

/// The local token, where there is one. It is a secret: never log it, never put it into an argument of a program.
///
/// # Errors
/// [`LocalTokenError`]: it is there and cannot be trusted, or cannot be read.
pub fn local_token(data_folder: &Path) -> Result<Option<String>, LocalTokenError> {
    let path = local_token_path(data_folder);
    let failed = |source| LocalTokenError::Io { path: path.clone(), source };
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits().cast_signed();
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(LocalTokenError::NotAFile { path });
        }
        Err(error) => return Err(failed(error)),
    };
    // Of the open file: what the path names may change at any time.
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(LocalTokenError::NotAFile { path });
    }
    if metadata.uid() != rustix::process::geteuid().as_raw() {
        return Err(LocalTokenError::Foreign { path });
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(LocalTokenError::Exposed { path, mode });
    }
    let mut bytes = Vec::new();
    file.take(TOKEN_BYTES_MAX as u64 + 2).read_to_end(&mut bytes).map_err(failed)?;
    let text = String::from_utf8(bytes).unwrap_or_default();
    let token = text.trim_ascii_end();
    let valid = (TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len())
        && token.bytes().all(|byte| byte.is_ascii_graphic());
    if valid { Ok(Some(token.to_owned())) } else { Err(LocalTokenError::NoToken { path }) }
}

/// The local token; where there is none, a new one is made and kept, readable by this user alone. Two processes that
/// start at once end with the same token.
///
/// # Errors
/// As [`local_token`].
pub fn local_token_or_new(data_folder: &Path) -> Result<String, LocalTokenError> {
    if let Some(token) = local_token(data_folder)? {
        return Ok(token);
    }
    let path = local_token_path(data_folder);
    let failed = |source| LocalTokenError::Io { path: path.clone(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(data_folder).map_err(failed)?;
    let token = new_token().map_err(failed)?;
    match write_new(&path, format!("{token}\n").as_bytes()) {
        Ok(()) => Ok(token),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            // Somebody was faster; whatever is there now is checked as any other.
            local_token(data_folder)?.ok_or_else(|| failed(error))
        }
        Err(error) => Err(failed(error)),
    }
}

/// A new token: 256 random bits.
///
/// # Errors
/// The system has no randomness.
pub fn new_token() -> io::Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
}

/// Writes a file that is not there yet, whole or not at all, for this user alone. Links are not followed.
///
/// # Errors
/// `AlreadyExists` where something is at `path`.
pub(super) fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let draft = draft(path, content, |_| Ok(()))?;
    // Unlike a rename, a link never replaces what is there.
    let linked = fs::hard_link(&draft, path);
    let outcome = match linked {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied) =>
        {
            // A file system without links.
            if fs::symlink_metadata(path).is_ok() {
                Err(io::ErrorKind::AlreadyExists.into())
            } else {
                fs::rename(&draft, path)
            }
        }
        outcome => outcome,
    };
    // Gone already after a rename.
    let _ = fs::remove_file(&draft);
    outcome.and_then(|()| sync_folder(path))
}

/// Replaces a file whole or not at all; the new one is for this user alone unless `open_up` says more.
///
/// # Errors
/// The folder cannot be written.
pub(super) fn replace(
    path: &Path,
    content: &[u8],
    open_up: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let draft = draft(path, content, open_up)?;
    if let Err(error) = fs::rename(&draft, path) {
        let _ = fs::remove_file(&draft);
        return Err(error);
    }
    sync_folder(path)
}

/// A file beside `path` with this content, on the disk.
fn draft(path: &Path, content: &[u8], open_up: impl FnOnce(&File) -> io::Result<()>) -> io::Result<PathBuf> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let mut name = String::from(".");
    name.push_str(&path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy());
    for byte in random {
        let _ = write!(name, ".{byte:02x}");
    }
    let draft = path.with_file_name(name);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    let written = file
        .set_permissions(fs::Permissions::from_mode(0o600))
        .and_then(|()| file.write_all(content))
        .and_then(|()| open_up(&file))
        .and_then(|()| file.sync_all());
    if let Err(error) = written {
        let _ = fs::remove_file(&draft);
        return Err(error);
    }
    Ok(draft)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_token_is_made_once_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        assert!(local_token(&data).unwrap().is_none());
        let token = local_token_or_new(&data).unwrap();
        assert_eq!((token.len(), token.starts_with("tmws_")), (48, true));
        assert_eq!(local_token_or_new(&data).unwrap(), token);
        assert_eq!(local_token(&data).unwrap(), Some(token));
        assert_eq!(fs::metadata(local_token_path(&data)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_dir(&data).unwrap().count(), 1, "a draft is left");
    }

    #[test]
    fn starts_at_once_end_with_the_same_token() {
        let folder = tempfile::tempdir().unwrap();
        let starts: Vec<_> = (0..8)
            .map(|_| {
                let data = folder.path().to_owned();
                std::thread::spawn(move || local_token_or_new(&data).unwrap())
            })
            .collect();
        let mut tokens: Vec<String> = starts.into_iter().map(|start| start.join().unwrap()).collect();
        tokens.dedup();
        assert_eq!(tokens.len(), 1);
        assert_eq!(local_token(folder.path()).unwrap(), tokens.pop());
    }

    #[test]
    fn what_cannot_be_trusted_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = local_token_path(folder.path());
        let refused = || {
            let error = local_token(folder.path()).unwrap_err();
            assert_eq!(local_token_or_new(folder.path()).unwrap_err().to_string(), error.to_string());
            assert!(error.to_string().contains("remove it"), "{error}");
            assert!(!error.to_string().contains("tmws_secret"), "{error}");
            error
        };
        write_new(&path, b"tmws_secret_secret_secret\n").unwrap();
        for mode in [0o640, 0o604, 0o620] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(refused(), LocalTokenError::Exposed { mode: found, .. } if found == mode));
        }
        for content in ["", "short", "two words of some length", &"x".repeat(513)] {
            replace(&path, content.as_bytes(), |_| Ok(())).unwrap();
            assert!(matches!(refused(), LocalTokenError::NoToken { .. }), "{content}");
        }
        fs::remove_file(&path).unwrap();
        symlink(folder.path().join("elsewhere"), &path).unwrap();
        assert!(matches!(refused(), LocalTokenError::NotAFile { .. }));
        assert!(!folder.path().join("elsewhere").exists());
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(refused(), LocalTokenError::NotAFile { .. }));
    }
}
