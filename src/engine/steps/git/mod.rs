//! `git.*`: reads a repository by the installed `git`, which can run nothing else.
//!
//! A repository is data from somewhere, and its own configuration can name programs. So: the repository is found by hand
//! at the granted root (never above it), its configuration is read without following or running anything (`config`), and
//! what would run on mere reading (filters, includes, unknown extensions) is answered `denied` with the reason. Everything
//! else that could run (hooks, fsmonitor, external diff, textconv, pager, ssh, gpg, lazy fetches) is overridden, and the
//! environment is scrubbed (`program`). One process a step, in its own group, which ends with the step.

mod blame;
mod commits;
mod config;
mod diff;
pub(crate) mod discover;
pub(in crate::engine) mod head;
mod history;
mod known;
mod program;
mod status;

use std::ffi::OsString;

use serde_json::{Map, Value};

use self::{blame::Blame, diff::Diff, history::Log, history::Show};
use super::{StepContext, StepError, StepOutput, arguments::Arguments, fs};
use crate::engine::ErrorKind;

/// Most text of all patches of one answer, in bytes.
const PATCHES_BYTES_MAX: usize = 256 << 10;
/// Longest revision taken, in bytes.
const REVISION_BYTES_MAX: usize = 250;

/// Runs the step called `uses` with its evaluated `with`.
///
/// | step | value |
/// |---|---|
/// | `git.status` | `{branch, head, short, upstream?, upstream_gone?, ahead, behind, n, staged, unstaged, untracked, conflicts, changed: [{path, state, code, from?}], dirty_hash, shallow, truncated}`; `branch` is `(detached)` on a detached head, `head` null before the first commit |
/// | `git.log` | `{n, commits: [{hash, short, date, author, subject, line, add, del, files, merge?}], authors: [{name, n}], top_files: [{path, n, add, del}], shallow, truncated}`; `add`, `del`, `files`, `top_files` with `stat` only; `line` is `short MM-DD +add/-del subject` |
/// | `git.diff` | `{n, add, del, files: [{path, state, add, del, from?, binary?}], patch?: [{path, text, truncated?, withheld?}], truncated}` |
/// | `git.show` | `{hash, short, date, author, subject, body, parents, add, del, n, files, patch?, truncated}` |
/// | `git.blame` | `{path, n, authors: [{name, n}], ranges: [{from, to, short, date, at, age, author, subject}], truncated}`; `age` is `3d`, `5w` since `at`; lines that are not committed have author `(not committed)` and no date |
///
/// Dates are commit dates in UTC, RFC 3339; merges count as commits and change no lines.
///
/// # Errors
/// `not_found`, `denied`, `program_failed`, `invalid_input`, `deadline`, `cancelled`, `limit_exceeded`.
pub async fn run(
    uses: &str,
    context: &StepContext,
    with: &Map<String, Value>,
) -> Result<StepOutput, StepError> {
    let arguments = Arguments::new(uses, with);
    let root = arguments.granted("repo", context)?;
    let repository = fs::blocking(move || discover::repository(&root));
    match uses {
        "git.status" => status::run(repository.await?, context).await,
        "git.log" => {
            let log = Log::read(&arguments, context)?;
            log.run(&repository.await?, context).await
        }
        "git.diff" => {
            let diff = Diff::read(&arguments)?;
            diff.run(&repository.await?, context).await
        }
        "git.show" => {
            let show = Show::read(&arguments)?;
            show.run(&repository.await?, context).await
        }
        "git.blame" => {
            let blame = Blame::read(&arguments)?;
            blame.run(&repository.await?, context).await
        }
        _ => Err(StepError::new(ErrorKind::Internal, format!("{uses} is not a step of family git"))),
    }
}

/// A revision that can be nothing else: a branch, tag or hash with `~`, `^`, `@{…}`. No range, no path in a tree, no
/// option.
fn revision<'a>(arguments: &Arguments<'_>, name: &str, text: &'a str) -> Result<&'a str, StepError> {
    let first =
        text.chars().next().is_some_and(|first| first.is_alphanumeric() || first == '@' || first == '_');
    let rest =
        text.chars().all(|character| character.is_alphanumeric() || "._/-~^@{}+#=".contains(character));
    if first && rest && !text.contains("..") && text.len() <= REVISION_BYTES_MAX {
        Ok(text)
    } else {
        Err(arguments
            .refuse(name, "not a revision; give a branch, a tag or a commit such as main, v1.2 or HEAD~3"))
    }
}

/// `--` and the path, if one is given. git takes it literally (`--literal-pathspecs`).
fn path_arguments(arguments: &Arguments<'_>) -> Result<Vec<OsString>, StepError> {
    let mut list = vec!["--".into()];
    if let Some(path) = arguments.text_or_none("path")? {
        let path = fs::relative(path)?;
        if !path.as_os_str().is_empty() {
            list.push(path.into_os_string());
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_revision_is_neither_option_nor_range_nor_path() {
        let with = Map::new();
        let arguments = Arguments::new("git.show", &with);
        for good in ["main", "HEAD", "HEAD~3", "v1.2.0", "feature/x-y", "a1b2c3d4", "main@{1}", "@", "HEAD^2"]
        {
            assert!(revision(&arguments, "rev", good).is_ok(), "{good}");
        }
        for bad in
            ["-n1", "--output=x", "a..b", "a...b", "HEAD:.env", "^main", ":/fix", "a b", "a\0b", "a\nb", ""]
        {
            assert!(revision(&arguments, "rev", bad).is_err(), "{bad:?}");
        }
        let Value::Object(with) = json!({"path": "-x"}) else { unreachable!("an object") };
        let arguments = Arguments::new("git.log", &with);
        assert_eq!(path_arguments(&arguments).unwrap(), ["--", "-x"]);
    }
}
