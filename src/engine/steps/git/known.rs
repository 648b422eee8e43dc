//! Whether a path means anything here: an empty answer about one that does not would pass for "nothing changed".

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use super::{discover::Repository, program};
use crate::engine::{
    ErrorKind,
    steps::{StepContext, StepError, fs},
};

/// Most output of git, in bytes: one commit's name.
const STDOUT_BYTES_MAX: usize = 1 << 10;

/// Checks the path that `arguments` end with, if they name one (`--`, PATH), where what git said of it was nothing.
///
/// # Errors
/// `not_found` where it is neither in the work tree nor in a commit that HEAD comes from.
pub(super) async fn check(
    arguments: &[OsString],
    repository: &Repository,
    context: &StepContext,
) -> Result<(), StepError> {
    let [.., dashes, path] = arguments else { return Ok(()) };
    if dashes != "--" || in_work_tree(repository.root.clone(), PathBuf::from(path)).await? {
        return Ok(());
    }
    let log = ["log", "--max-count=1", "--format=%H", "--end-of-options", "HEAD", "--"].map(OsString::from);
    let log: Vec<OsString> = log.into_iter().chain([path.clone()]).collect();
    let is_empty = match program::run(repository, &log, STDOUT_BYTES_MAX, context).await {
        Ok(answer) => answer.stdout.is_empty(),
        // No commit has no paths.
        Err(error) if error.kind == ErrorKind::NotFound || error.message == program::NO_COMMIT => true,
        Err(error) => return Err(error),
    };
    if is_empty { Err(unknown(path)) } else { Ok(()) }
}

async fn in_work_tree(root: PathBuf, path: PathBuf) -> Result<bool, StepError> {
    fs::blocking(move || Ok(fs::has_path(&root, &path))).await
}

fn unknown(path: &OsStr) -> StepError {
    let shown = fs::shown(Path::new(path));
    StepError::new(
        ErrorKind::NotFound,
        format!(
            "{shown} is neither in the work tree nor in the history of HEAD; give the path of a file or folder, \
             not a branch or a tag"
        ),
    )
}
