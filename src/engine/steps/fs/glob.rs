//! `fs.glob` and `fs.tree`: which files there are.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use globset::{GlobBuilder, GlobMatcher};
use serde_json::{Value, json};

use super::{
    root::{Bounds, Found, Root, relative, shown},
    walk::{Flow, Walk},
};
use crate::engine::{
    ErrorKind,
    steps::{StepContext, StepError, StepOutput, arguments::Arguments},
};

/// Longest glob taken, in bytes.
const GLOB_BYTES_MAX: usize = 1000;

/// A glob over paths relative to the root. Without a slash it means any depth, as in a `.gitignore`; `*` stays within
/// one folder, `**` does not.
pub(super) fn matcher(arguments: &Arguments<'_>, name: &str, glob: &str) -> Result<GlobMatcher, StepError> {
    if glob.len() > GLOB_BYTES_MAX {
        return Err(arguments.refuse(name, format!("longer than {GLOB_BYTES_MAX} bytes")));
    }
    let anchored = glob.strip_prefix('/').or_else(|| glob.strip_prefix("./")).unwrap_or(glob);
    let anywhere = format!("**/{anchored}");
    let source = if glob.contains('/') { anchored } else { &anywhere };
    GlobBuilder::new(source)
        .literal_separator(true)
        .empty_alternates(true)
        .build()
        .map(|glob| glob.compile_matcher())
        .map_err(|error| arguments.refuse(name, format!("not a glob: {}", error.kind())))
}

/// `fs.glob`, arguments checked.
pub(super) struct Listing {
    root: PathBuf,
    glob: GlobMatcher,
    limit: usize,
    hidden: bool,
}

impl Listing {
    /// Reads the arguments.
    pub(super) fn read(arguments: &Arguments<'_>, context: &StepContext) -> Result<Self, StepError> {
        Ok(Self {
            root: arguments.granted("root", context)?,
            glob: matcher(arguments, "pattern", arguments.text("pattern")?)?,
            limit: arguments.count("limit", 200, 1, 10_000)?,
            hidden: arguments.flag("hidden")?,
        })
    }

    /// Lists the files. `n` counts every match met, `files` shows the first ones.
    pub(super) fn run(&self, bounds: &Bounds, bytes_max: usize) -> Result<StepOutput, StepError> {
        let root = Root::open(&self.root)?;
        let (mut n, mut bytes, mut cut) = (0_usize, 0_usize, false);
        let mut files: Vec<String> = Vec::new();
        let walk = Walk { root: &root, bounds, hidden: self.hidden };
        let walked = walk.visit(Path::new(""), &mut |met| {
            if self.glob.is_match(met.path) {
                n += 1;
                let path = shown(met.path);
                if files.len() < self.limit && bytes + path.len() + 3 <= bytes_max {
                    bytes += path.len() + 3;
                    files.push(path);
                } else {
                    cut = true;
                }
            }
            Ok(Flow::On)
        })?;
        let value = json!({
            "n": n, "files": files, "unreadable": walked.unreadable, "truncated": cut || walked.cut,
        });
        Ok(StepOutput { value, bytes: bytes as u64 })
    }
}

/// `fs.tree`, arguments checked.
pub(super) struct Tree {
    root: PathBuf,
    path: PathBuf,
    depth: usize,
    limit: usize,
}

impl Tree {
    /// Reads the arguments.
    pub(super) fn read(arguments: &Arguments<'_>, context: &StepContext) -> Result<Self, StepError> {
        Ok(Self {
            root: arguments.granted("root", context)?,
            path: relative(arguments.text_or_none("path")?.unwrap_or_default())?,
            depth: arguments.count("depth", 2, 1, 16)?,
            limit: arguments.count("limit", 100, 1, 5000)?,
        })
    }

    /// Counts the files beneath each folder down to `depth`; `files` are those that lie in the folder itself.
    pub(super) fn run(&self, bounds: &Bounds, bytes_max: usize) -> Result<StepOutput, StepError> {
        let root = Root::open(&self.root)?;
        if !self.path.as_os_str().is_empty() && matches!(root.find(&self.path)?, Found::File { .. }) {
            return Err(StepError::new(
                ErrorKind::InvalidInput,
                format!("{} is a file; fs.tree lists a folder", shown(&self.path)),
            ));
        }
        let mut n = 0_usize;
        let mut all_folders: BTreeMap<PathBuf, usize> = BTreeMap::new();
        let mut all_files: Vec<String> = Vec::new();
        let walk = Walk { root: &root, bounds, hidden: false };
        let walked = walk.visit(&self.path, &mut |met| {
            n += 1;
            let inside = met.path.strip_prefix(&self.path).unwrap_or(met.path);
            let parents: Vec<_> = inside.parent().into_iter().flat_map(Path::components).collect();
            if parents.is_empty() {
                all_files.push(shown(inside));
            }
            let mut folder = PathBuf::new();
            for parent in parents.iter().take(self.depth) {
                folder.push(parent);
                *all_folders.entry(folder.clone()).or_default() += 1;
            }
            Ok(Flow::On)
        })?;
        let (folders_n, files_n) = (all_folders.len(), all_files.len());
        let mut bytes_left = bytes_max;
        let mut fits = |text: &str| {
            let size = text.len() + 24;
            bytes_left.checked_sub(size).is_some_and(|left| {
                bytes_left = left;
                true
            })
        };
        let folders: Vec<Value> = all_folders
            .into_iter()
            .map(|(path, n)| (shown(&path), n))
            .take_while(|(path, _)| fits(path))
            .take(self.limit)
            .map(|(path, n)| json!({"path": path, "n": n}))
            .collect();
        let files: Vec<String> =
            all_files.into_iter().take_while(|path| fits(path)).take(self.limit).collect();
        let cut = walked.cut || folders.len() < folders_n || files.len() < files_n;
        let value = json!({
            "path": shown(&self.path), "n": n, "folders": folders, "files": files,
            "unreadable": walked.unreadable, "truncated": cut,
        });
        Ok(StepOutput { bytes: (bytes_max - bytes_left) as u64, value })
    }
}
