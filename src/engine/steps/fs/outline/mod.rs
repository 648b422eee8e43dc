//! `fs.outline`: what source files define, without bodies.

mod language;
mod mask;
mod symbols;

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use globset::GlobMatcher;
use serde_json::{Value, json};

use self::symbols::symbols;
use super::{
    glob::matcher,
    root::{Bounds, Found, Root, is_binary, relative, shown},
    secret,
    walk::{Flow, Walk, Walked},
};
use crate::engine::{
    ErrorKind,
    steps::{StepContext, StepError, StepOutput, arguments::Arguments},
};

/// Larger files are skipped, and said to be.
const FILE_BYTES_MAX: usize = 2 << 20;

/// Deeper symbols are never asked for one by one.
const DEPTH_MAX: usize = 64;

/// `fs.outline`, arguments checked.
pub(super) struct Outline {
    root: PathBuf,
    path: PathBuf,
    glob: Option<GlobMatcher>,
    limit: usize,
    per_file: usize,
    depth: usize,
}

#[derive(Default)]
struct Outlined {
    files: Vec<Value>,
    files_n: usize,
    n: usize,
    shown: usize,
    bytes: u64,
    produced: usize,
    skipped: usize,
    cut: bool,
}

impl Outline {
    /// Reads the arguments.
    pub(super) fn read(arguments: &Arguments<'_>, context: &StepContext) -> Result<Self, StepError> {
        Ok(Self {
            root: arguments.granted("root", context)?,
            path: relative(arguments.text_or_none("path")?.unwrap_or_default())?,
            glob: arguments.text_or_none("glob")?.map(|glob| matcher(arguments, "glob", glob)).transpose()?,
            limit: arguments.count("limit", 400, 1, 5000)?,
            per_file: arguments.count("max_per_file", 200, 1, 2000)?,
            depth: arguments.count("depth", DEPTH_MAX, 0, DEPTH_MAX)?,
        })
    }

    /// Outlines a file, or the files below a folder. `n` counts every symbol met; `files` shows as many as the limits
    /// and `depth` allow, and names every file, those with none left to show, too.
    pub(super) fn run(&self, bounds: &Bounds, bytes_max: usize) -> Result<StepOutput, StepError> {
        let root = Root::open(&self.root)?;
        let mut outlined = Outlined::default();
        let mut walked = Walked::default();
        let found = if self.path.as_os_str().is_empty() { Found::Directory } else { root.find(&self.path)? };
        if let Found::File { file, metadata } = found {
            if metadata.len() > FILE_BYTES_MAX as u64 {
                return Err(StepError::new(
                    ErrorKind::LimitExceeded,
                    format!("{} is larger than {} MiB", shown(&self.path), FILE_BYTES_MAX >> 20),
                ));
            }
            let mut bytes = Vec::new();
            file.take(FILE_BYTES_MAX as u64)
                .read_to_end(&mut bytes)
                .map_err(|error| root.failed(&self.path, &error))?;
            if !self.file(&self.path, &bytes, bytes_max, &mut outlined) {
                return Err(StepError::new(
                    ErrorKind::InvalidInput,
                    format!(
                        "{} has no outline: known are Rust, Python, JavaScript, TypeScript, Go, C, C++, Java, Kotlin, C#, \
                         Ruby, shell, SQL and Markdown; read it with fs.read",
                        shown(&self.path)
                    ),
                ));
            }
        } else {
            let walk = Walk { root: &root, bounds, hidden: false };
            let mut buffer = Vec::new();
            walked = walk.visit(&self.path, &mut |met| {
                let known = language::Language::of(met.path).is_some_and(|language| {
                    // Of a whole folder, what it is written in is wanted, not what is written about it.
                    language != language::Language::Markdown || self.glob.is_some()
                });
                if !known
                    || self.glob.as_ref().is_some_and(|glob| !glob.is_match(met.path))
                    || secret::reason(met.path).is_some()
                {
                    return Ok(Flow::On);
                }
                if bounds.used_up()? {
                    return Ok(Flow::Stop);
                }
                match met.entry().read(FILE_BYTES_MAX, &mut buffer) {
                    Ok((bytes, true)) => {
                        self.file(met.path, bytes, bytes_max, &mut outlined);
                    }
                    Ok((_, false)) | Err(_) => outlined.skipped += 1,
                }
                Ok(Flow::On)
            })?;
        }
        let value = json!({
            "n": outlined.n,
            "files_n": outlined.files_n,
            "files": outlined.files,
            "skipped": outlined.skipped + walked.unreadable,
            "truncated": outlined.cut || walked.cut,
        });
        Ok(StepOutput { value, bytes: outlined.bytes })
    }

    /// Adds a file; `false` where its language is not known.
    fn file(&self, path: &Path, bytes: &[u8], bytes_max: usize, outlined: &mut Outlined) -> bool {
        if is_binary(bytes) || secret::is_private_key(bytes) {
            outlined.skipped += 1;
            return true;
        }
        let text = String::from_utf8_lossy(bytes);
        let Some((language, found)) = symbols(path, &text) else { return false };
        outlined.bytes += bytes.len() as u64;
        outlined.files_n += 1;
        outlined.n += found.len();
        let room = self.per_file.min(self.limit.saturating_sub(outlined.shown));
        let wanted: Vec<_> = found.iter().filter(|symbol| symbol.depth <= self.depth).collect();
        let cut = wanted.len() > room;
        outlined.cut |= cut;
        if found.is_empty() && !self.path.as_os_str().is_empty() && self.path != path {
            return true;
        }
        let symbols: Vec<Value> = wanted
            .iter()
            .take(room)
            .map(|symbol| {
                json!({
                    "line": symbol.line, "depth": symbol.depth, "name": symbol.name, "signature": symbol.signature,
                })
            })
            .collect();
        outlined.shown += symbols.len();
        let value = json!({
            "path": shown(path),
            "language": language.word(),
            "lines": text.lines().count(),
            "bytes": bytes.len(),
            "n": found.len(),
            "symbols": symbols,
            "cut": cut,
        });
        let size = value.to_string().len();
        if outlined.produced + size > bytes_max {
            outlined.cut = true;
        } else {
            outlined.produced += size;
            outlined.files.push(value);
        }
        true
    }
}

#[cfg(test)]
mod tests;
