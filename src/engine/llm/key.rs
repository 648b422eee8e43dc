//! The provider's key: never printed, never kept longer than the request that it is for.

use std::{
    fmt, fs, io,
    io::Read as _,
    path::{Path, PathBuf},
};

/// Longest key, in bytes.
const BYTES_MAX: u64 = 4 << 10;

/// Where the key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A file whose first line is the key.
    File(PathBuf),
    /// A variable of the environment.
    Variable(String),
}

/// A key. There is no way to print it.
pub(super) struct Key(String);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl Key {
    /// The key, for the header.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }

    /// Reads it, anew each time: keys are replaced while servers run.
    ///
    /// # Errors
    /// Why there is none, without a word of what was read.
    pub(super) fn read(source: &KeySource) -> Result<Self, String> {
        let text = match source {
            KeySource::File(path) => {
                read_file(path).map_err(|error| format!("{}: {error}", path.display()))?
            }
            KeySource::Variable(name) => std::env::var_os(name)
                .ok_or_else(|| format!("the variable {name} is not set"))?
                .into_string()
                .map_err(|_| format!("the variable {name} is not UTF-8"))?,
        };
        let key = text.lines().next().unwrap_or_default().trim();
        if key.is_empty() {
            return Err("it is empty".to_owned());
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("it has characters that no key has".to_owned());
        }
        Ok(Self(key.to_owned()))
    }
}

fn read_file(path: &Path) -> io::Result<String> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    let mut text = String::new();
    fs::File::open(path)?.take(BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "larger than 4 KiB"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_the_first_line_and_is_never_printed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let source = KeySource::File(path.clone());
        fs::write(&path, "  sk-canary-1 \nnote\n").unwrap();
        let key = Key::read(&source).unwrap();
        assert_eq!(key.expose(), "sk-canary-1");
        assert_eq!(format!("{key:?}"), "[secret]");
        for text in ["", "\n", "sk canary", "sk-\u{e9}canary", &"k".repeat(5_000)] {
            fs::write(&path, text).unwrap();
            let error = Key::read(&source).unwrap_err();
            assert!(!error.contains("canary") && !error.contains("kkk"), "{error}");
        }
        fs::remove_file(&path).unwrap();
        assert!(Key::read(&source).is_err());
        assert!(Key::read(&KeySource::Variable("TMWS_NO_SUCH_VARIABLE".to_owned())).is_err());
    }
}
