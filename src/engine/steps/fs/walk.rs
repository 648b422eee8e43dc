//! Walks a granted root: every folder and file is opened through the capability, git-ignored ones are left out, symlinks
//! are not followed, and the order is that of the names' bytes.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    sync::Arc,
};

use cap_std::fs::{Dir, Metadata};
use ignore::gitignore::{Gitignore, GitignoreBuilder};

use super::{
    root::{Bounds, Root, read_capped, read_listed},
    secret,
};
use crate::engine::steps::StepError;

/// Deepest folder entered.
const DEPTH_MAX: usize = 64;
/// Most entries looked at in one walk.
const ENTRIES_MAX: usize = 500_000;
/// Largest `.gitignore` honoured, in bytes.
const IGNORE_BYTES_MAX: usize = 1 << 20;

/// A regular file met on the way.
pub(super) struct Met<'a> {
    /// Relative to the root.
    pub(super) path: &'a Path,
    parent: &'a Arc<Dir>,
    name: &'a OsStr,
}

impl Met<'_> {
    /// What the folder says of it.
    pub(super) fn metadata(&self) -> std::io::Result<Metadata> {
        self.parent.symlink_metadata(self.name)
    }

    /// The file, to be read later or elsewhere.
    pub(super) fn entry(&self) -> Entry {
        Entry { path: self.path.to_owned(), parent: Arc::clone(self.parent), name: self.name.to_owned() }
    }
}

/// A regular file that was met. Holds its folder open.
pub(super) struct Entry {
    /// Relative to the root.
    pub(super) path: PathBuf,
    parent: Arc<Dir>,
    name: OsString,
}

impl Entry {
    /// Up to `bytes_max` bytes of it, read into `buffer`, and whether that was all.
    pub(super) fn read<'b>(
        &self,
        bytes_max: usize,
        buffer: &'b mut Vec<u8>,
    ) -> std::io::Result<(&'b [u8], bool)> {
        read_listed(&self.parent, &self.name, bytes_max, buffer)
    }
}

/// What a visitor wants next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// The next file.
    On,
    /// No more.
    Stop,
}

/// How a walk is done.
pub(super) struct Walk<'a> {
    pub(super) root: &'a Root,
    pub(super) bounds: &'a Bounds,
    /// Enters hidden folders and meets hidden files.
    pub(super) hidden: bool,
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Walked {
    /// Not everything was met: time, number of entries or depth ran out, or the visitor stopped.
    pub(super) cut: bool,
    /// Folders that could not be read.
    pub(super) unreadable: usize,
}

struct State<'a> {
    walked: Walked,
    entries: usize,
    ignores: Vec<Gitignore>,
    visit: &'a mut dyn FnMut(&Met<'_>) -> Result<Flow, StepError>,
}

impl Walk<'_> {
    /// Visits the files beneath the folder `start` in order.
    pub(super) fn visit(
        &self,
        start: &Path,
        visit: &mut dyn FnMut(&Met<'_>) -> Result<Flow, StepError>,
    ) -> Result<Walked, StepError> {
        let mut state = State { walked: Walked::default(), entries: 0, ignores: Vec::new(), visit };
        // Rules of the folders above `start` hold beneath it, too.
        state.ignores.extend(rules(self.root.dir(), Path::new(".git/info/exclude"), Path::new("")));
        let mut above = PathBuf::new();
        for name in start {
            state.ignores.extend(rules(self.root.dir(), &above.join(".gitignore"), &above));
            above.push(name);
        }
        if start.as_os_str().is_empty() {
            self.folder(self.root.dir(), start, 0, &mut state)?;
        } else {
            let dir = self.root.dir().open_dir(start).map_err(|error| self.root.failed(start, &error))?;
            self.folder(&Arc::new(dir), start, 0, &mut state)?;
        }
        Ok(state.walked)
    }

    fn folder(
        &self,
        dir: &Arc<Dir>,
        path: &Path,
        depth: usize,
        state: &mut State<'_>,
    ) -> Result<Flow, StepError> {
        let Ok(entries) = dir.entries() else {
            state.walked.unreadable += 1;
            return Ok(Flow::On);
        };
        let mut names: Vec<(OsString, bool)> = Vec::new();
        let mut has_rules = false;
        for entry in entries {
            state.entries += 1;
            if state.entries > ENTRIES_MAX || (state.entries.is_multiple_of(256) && self.bounds.used_up()?) {
                state.walked.cut = true;
                return Ok(Flow::Stop);
            }
            let Ok(entry) = entry else {
                state.walked.unreadable += 1;
                continue;
            };
            let Ok(kind) = entry.file_type() else { continue };
            let name = entry.file_name();
            has_rules |= name == ".gitignore";
            // Symlinks, pipes, sockets and devices are not met at all.
            if kind.is_dir() || kind.is_file() {
                names.push((name, kind.is_dir()));
            }
        }
        names.sort_unstable();
        let own = has_rules.then(|| rules(dir, Path::new(".gitignore"), path)).flatten();
        let pushed = own.is_some();
        state.ignores.extend(own);
        let flow = self.entries(dir, path, depth, &names, state);
        if pushed {
            state.ignores.pop();
        }
        flow
    }

    fn entries(
        &self,
        dir: &Arc<Dir>,
        path: &Path,
        depth: usize,
        names: &[(OsString, bool)],
        state: &mut State<'_>,
    ) -> Result<Flow, StepError> {
        for (name, is_dir) in names {
            if !self.hidden && name.as_encoded_bytes().first() == Some(&b'.') {
                continue;
            }
            let child = path.join(name);
            if *is_dir && secret::reason(Path::new(name)).is_some()
                || ignored(&state.ignores, &child, *is_dir)
            {
                continue;
            }
            if *is_dir {
                if depth == DEPTH_MAX || self.bounds.used_up()? {
                    state.walked.cut = true;
                    return Ok(if depth == DEPTH_MAX { Flow::On } else { Flow::Stop });
                }
                // Opened beneath its parent: were it swapped for a symlink meanwhile, this fails or stays beneath it.
                let Ok(below) = dir.open_dir(name) else {
                    state.walked.unreadable += 1;
                    continue;
                };
                if self.folder(&Arc::new(below), &child, depth + 1, state)? == Flow::Stop {
                    return Ok(Flow::Stop);
                }
            } else if (state.visit)(&Met { path: &child, parent: dir, name })? == Flow::Stop {
                state.walked.cut = true;
                return Ok(Flow::Stop);
            }
        }
        Ok(Flow::On)
    }
}

/// The innermost rule that speaks of `path` decides, as in git.
fn ignored(ignores: &[Gitignore], path: &Path, is_dir: bool) -> bool {
    for rules in ignores.iter().rev() {
        let matched = rules.matched(path, is_dir);
        if !matched.is_none() {
            return matched.is_ignore();
        }
    }
    false
}

/// The ignore rules in the file at `path` beneath `dir`, for the folder `folder`.
fn rules(dir: &Dir, path: &Path, folder: &Path) -> Option<Gitignore> {
    let (bytes, whole) = read_capped(dir, path, IGNORE_BYTES_MAX).ok()?;
    if !whole {
        return None;
    }
    let mut builder = GitignoreBuilder::new(folder);
    for line in String::from_utf8_lossy(&bytes).trim_start_matches('\u{feff}').lines() {
        // A line that is no glob is left out, as git does; the others hold.
        let _ = builder.add_line(None, line);
    }
    builder.build().ok().filter(|rules| !rules.is_empty())
}
