//! Finds the repository of a granted root by hand and decides whether git may be started on it.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::config::{self, Setting};
use crate::engine::{ErrorKind, steps::StepError};

/// Largest `.git`, `commondir` or `gitdir` file, in bytes.
const POINTER_BYTES_MAX: u64 = 8 << 10;
/// Largest configuration file, in bytes.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// A repository that git may be started on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repository {
    /// The granted root: the work tree, or a bare repository.
    pub(super) root: PathBuf,
    /// Of this work tree.
    pub(super) git_dir: PathBuf,
    /// Shared by all work trees.
    pub(super) common_dir: PathBuf,
    /// It has no work tree.
    pub(super) bare: bool,
    /// History was cut off when it was cloned.
    pub(super) shallow: bool,
}

/// Where the parts of a repository lie; all paths are canonical.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) git_dir: PathBuf,
    /// Shared by all work trees of the repository.
    pub(crate) common_dir: PathBuf,
    bare: bool,
}

/// Why there is no usable repository at a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoLayout {
    /// No `.git`, and not bare.
    Absent,
    /// `.git` is there and leads nowhere.
    Broken,
    /// `.git` leads to a repository elsewhere that does not know this work tree.
    Foreign,
}

/// The layout of the repository whose work tree (or bare repository) is the canonical folder `root`. Runs nothing.
///
/// A `.git` that leads out of `root` is followed only where the other side names this work tree: the `gitdir` file of a
/// linked work tree, or `core.worktree` of a submodule. Otherwise any folder could claim to be any repository.
pub(crate) fn layout(root: &Path) -> Result<Layout, NoLayout> {
    let link = root.join(".git");
    let metadata = match link.symlink_metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return if is_repository(root) {
                Ok(Layout { git_dir: root.to_owned(), common_dir: root.to_owned(), bare: true })
            } else {
                Err(NoLayout::Absent)
            };
        }
        Err(_) => return Err(NoLayout::Broken),
    };
    let git_dir = if metadata.is_file() {
        let text = read_small(&link, POINTER_BYTES_MAX).map_err(|_| NoLayout::Broken)?;
        let path = text.strip_prefix(b"gitdir:").and_then(pointed).ok_or(NoLayout::Broken)?;
        root.join(path).canonicalize().map_err(|_| NoLayout::Broken)?
    } else {
        link.canonicalize().map_err(|_| NoLayout::Broken)?
    };
    if !git_dir.join("HEAD").symlink_metadata().is_ok_and(|metadata| !metadata.is_dir()) {
        return Err(NoLayout::Broken);
    }
    let common_dir = match read_small(&git_dir.join("commondir"), POINTER_BYTES_MAX) {
        Ok(text) => {
            let path = pointed(&text).ok_or(NoLayout::Broken)?;
            git_dir.join(path).canonicalize().map_err(|_| NoLayout::Broken)?
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => git_dir.clone(),
        Err(_) => return Err(NoLayout::Broken),
    };
    let layout = Layout { git_dir, common_dir, bare: false };
    let inside = layout.git_dir.starts_with(root) && layout.common_dir.starts_with(root);
    if inside || layout.names(root, &link) { Ok(layout) } else { Err(NoLayout::Foreign) }
}

impl Layout {
    /// Whether the repository itself says that `root`, whose pointer is `link`, is one of its work trees.
    fn names(&self, root: &Path, link: &Path) -> bool {
        if self.git_dir == self.common_dir {
            let Ok(settings) = settings(&self.git_dir.join("config")) else { return false };
            return worktree(&settings, &self.git_dir).is_some_and(|path| path == root);
        }
        self.git_dir.parent() == Some(&self.common_dir.join("worktrees"))
            && read_small(&self.git_dir.join("gitdir"), POINTER_BYTES_MAX)
                .ok()
                .and_then(|text| self.git_dir.join(pointed(&text)?).canonicalize().ok())
                .zip(link.canonicalize().ok())
                .is_some_and(|(named, link)| named == link)
    }
}

/// The repository at the granted `root`, if git may be started on it.
///
/// # Errors
/// `not_found`; `denied` with the setting that would run something, or whose folder it is, and what to do.
pub(super) fn repository(root: &Path) -> Result<Repository, StepError> {
    let here = root.display();
    let layout = layout(root).map_err(|why| match why {
        NoLayout::Absent => {
            let above = root.ancestors().skip(1).find(|folder| folder.join(".git").exists());
            let advice = above.map_or_else(
                || "run `git init`, or set TMWS_ROOT to a folder that has one".to_owned(),
                |folder| format!("set TMWS_ROOT to {} which has one", folder.display()),
            );
            StepError::new(ErrorKind::NotFound, format!("no git repository at {here}; {advice}"))
        }
        NoLayout::Broken => StepError::new(
            ErrorKind::NotFound,
            format!("the .git of {here} leads to no repository; `git status` there says more"),
        ),
        NoLayout::Foreign => StepError::new(
            ErrorKind::Denied,
            format!(
                "the .git of {here} leads to a repository outside it that does not list it as a work tree; if it is \
                 one, run `git worktree repair` in the main work tree"
            ),
        ),
    })?;
    owned(root, &layout)?;
    let mut bare = layout.bare;
    let linked = layout.git_dir != layout.common_dir;
    for path in [layout.common_dir.join("config"), layout.git_dir.join("config.worktree")] {
        let settings = match settings(&path) {
            Ok(settings) => settings,
            Err(Unread::Absent) => continue,
            Err(Unread::Odd(why)) => return Err(denied(&path, &why)),
        };
        for setting in &settings {
            if let Some(why) = config::refusal(setting) {
                return Err(denied(&path, &format!("sets {}: {why}", shown(&setting.name))));
            }
            if setting.name == "core.bare" && !linked {
                bare = layout.bare || config::is_true(setting.value.as_deref());
            }
        }
        if !linked
            && settings.iter().any(|setting| setting.name == "core.worktree")
            && worktree(&settings, &layout.git_dir).is_none_or(|path| path != root)
        {
            return Err(denied(&path, "sets core.worktree to another folder"));
        }
    }
    let shallow = layout.common_dir.join("shallow").exists();
    Ok(Repository {
        root: root.to_owned(),
        git_dir: layout.git_dir,
        common_dir: layout.common_dir,
        bare,
        shallow,
    })
}

fn denied(path: &Path, why: &str) -> StepError {
    StepError::new(
        ErrorKind::Denied,
        format!(
            "git is not started on this repository: {} {why}; look at the setting, and remove it from the repository's \
             own configuration if it may go (your own ~/.gitconfig is not read here)",
            path.display()
        ),
    )
}

/// A name for an answer: no control characters, not long.
fn shown(name: &str) -> String {
    name.chars().filter(|character| !character.is_control()).take(100).collect()
}

/// git refuses a repository of another user, because its settings are that user's; started with an explicit folder it
/// would not, so it is done here.
fn owned(root: &Path, layout: &Layout) -> Result<(), StepError> {
    let own = rustix::process::geteuid().as_raw();
    let link = root.join(".git");
    for path in [root, link.as_path(), &layout.git_dir, &layout.common_dir] {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        if metadata.uid() != own {
            return Err(StepError::new(
                ErrorKind::Denied,
                format!(
                    "{} belongs to another user (uid {}, not {own}), whose git settings are not followed; run tmws as \
                     its owner, or change the owner",
                    path.display(),
                    metadata.uid()
                ),
            ));
        }
    }
    Ok(())
}

fn is_repository(folder: &Path) -> bool {
    folder.join("HEAD").is_file() && folder.join("objects").is_dir() && folder.join("refs").is_dir()
}

/// The path in a pointer file.
fn pointed(text: &[u8]) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let text = text.trim_ascii();
    (!text.is_empty() && !text.contains(&0)).then(|| PathBuf::from(std::ffi::OsStr::from_bytes(text)))
}

/// The work tree that the last `core.worktree` names, canonical.
fn worktree(settings: &[Setting], git_dir: &Path) -> Option<PathBuf> {
    let setting = settings.iter().rev().find(|setting| setting.name == "core.worktree")?;
    git_dir.join(setting.value.as_deref()?).canonicalize().ok()
}

enum Unread {
    Absent,
    Odd(String),
}

fn settings(path: &Path) -> Result<Vec<Setting>, Unread> {
    let bytes = read_small(path, CONFIG_BYTES_MAX).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Unread::Absent,
        kind => Unread::Odd(format!("cannot be read ({kind})")),
    })?;
    config::parse(&bytes).map_err(|line| Unread::Odd(format!("is not git configuration in line {}", line.0)))
}

/// The content of a small regular file; nothing else is opened, a pipe does not block.
pub(super) fn read_small(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    if !path.symlink_metadata()?.is_file() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NOCTTY;
    let file = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(bytes) }
}
