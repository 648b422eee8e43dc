//! `git.log` and `git.show`: commits, in one call of git each.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
};

use serde_json::{Value, json};

use super::{
    PATCHES_BYTES_MAX,
    commits::{Commit, FORMAT, FORMAT_SHORT, Records, clip, date, short},
    discover::Repository,
    known, path_arguments, program, revision,
};
use crate::engine::{
    ErrorKind, relative,
    steps::{StepContext, StepError, StepOutput, arguments::Arguments, fs},
};

/// Most output of git, in bytes.
const STDOUT_BYTES_MAX: usize = 16 << 20;
/// Most files listed: of a log as the most changed, of a commit in order.
const FILES_MAX: usize = 200;
const TOP_FILES_MAX: usize = 20;
/// Longest subject within `line`, in characters.
const SUBJECT_CHARS_MAX: usize = 72;

/// What every reading of commits says to git.
pub(super) const DIFF_ARGUMENTS: &[&str] = &[
    "-z",
    "--no-color",
    "--no-ext-diff",
    "--no-textconv",
    "--ignore-submodules=all",
    "--find-renames",
    "--src-prefix=a/",
    "--dst-prefix=b/",
];

/// `git.log`, arguments checked.
pub(super) struct Log {
    arguments: Vec<OsString>,
    max: usize,
    stat: bool,
}

impl Log {
    /// Reads the arguments. `since` and `until` are resolved against the time of the run.
    pub(super) fn read(arguments: &Arguments<'_>, context: &StepContext) -> Result<Self, StepError> {
        let max = arguments.count("max", 200, 1, 2000)?;
        let stat = arguments.flag("stat")?;
        let mut list: Vec<OsString> = vec!["log".into(), FORMAT_SHORT.into()];
        list.extend(DIFF_ARGUMENTS.iter().map(OsString::from));
        list.push("--diff-merges=off".into());
        list.push("--encoding=UTF-8".into());
        // One more tells whether there are more.
        list.push(format!("--max-count={}", max + 1).into());
        if stat {
            list.push("--numstat".into());
        }
        for (name, flag) in [("since", "--max-age"), ("until", "--min-age")] {
            if let Some(text) = arguments.text_or_none(name)? {
                let instant = relative::instant_before(text, context.now).ok_or_else(|| {
                    arguments
                        .refuse(name, "use 12h, 14d, 2w, a date such as 2026-02-01 or an instant in RFC 3339")
                })?;
                list.push(format!("{flag}={}", instant.as_second().max(0)).into());
            }
        }
        list.extend(path_arguments(arguments)?);
        Ok(Self { arguments: list, max, stat })
    }

    /// Runs the step. A repository without a commit has an empty log.
    pub(super) async fn run(
        self,
        repository: &Repository,
        context: &StepContext,
    ) -> Result<StepOutput, StepError> {
        let answer = match program::run(repository, &self.arguments, STDOUT_BYTES_MAX, context).await {
            Ok(answer) => answer,
            Err(error) if error.message == program::NO_COMMIT => program::Answer::default(),
            Err(error) => return Err(error),
        };
        if answer.stdout.is_empty() {
            known::check(&self.arguments, repository, context).await?;
        }
        let shallow = repository.shallow;
        fs::blocking(move || Ok(self.output(&answer, shallow))).await
    }

    fn output(&self, answer: &program::Answer, shallow: bool) -> StepOutput {
        let mut records = Records::new(&answer.stdout, answer.cut);
        let mut commits: Vec<Commit> = Vec::new();
        let mut more = answer.cut;
        while let Some(commit) = records.commit() {
            if commits.len() == self.max {
                more = true;
                break;
            }
            commits.push(commit);
        }
        let mut value = json!({
            "n": commits.len(),
            "commits": commits.iter().map(|commit| self.shown(commit)).collect::<Vec<_>>(),
            "authors": authors(commits.iter().map(|commit| (commit.author.as_str(), 1))),
        });
        if self.stat {
            value["top_files"] = top_files(&commits).into();
        }
        value["shallow"] = shallow.into();
        value["truncated"] = more.into();
        StepOutput { value, bytes: answer.stdout.len() as u64 }
    }

    fn shown(&self, commit: &Commit) -> Value {
        let date = date(commit.seconds);
        let day = date.get(5..10).unwrap_or_default();
        let subject = clip(&commit.subject, SUBJECT_CHARS_MAX);
        let short = short(&commit.hash);
        let (add, del) = commit.changes.totals();
        let mut value = json!({
            "hash": commit.hash,
            "short": short,
            "date": date,
            "author": commit.author,
            "subject": commit.subject,
        });
        value["line"] = if self.stat {
            format!("{short} {day} {} {subject}", lines(add, del)).into()
        } else {
            format!("{short} {day} {subject}").into()
        };
        if self.stat {
            value["add"] = add.into();
            value["del"] = del.into();
            value["files"] = commit.changes.files.len().into();
        }
        if commit.parents > 1 {
            value["merge"] = true.into();
        }
        value
    }
}

/// `[{name, n}]`, largest first.
pub(super) fn authors<'a>(names: impl Iterator<Item = (&'a str, usize)>) -> Vec<Value> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, n) in names {
        *counts.entry(name).or_default() += n;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|&(_, n)| std::cmp::Reverse(n));
    counts.into_iter().map(|(name, n)| json!({"name": name, "n": n})).collect()
}

/// The files that most commits changed, then those with most lines.
fn top_files(commits: &[Commit]) -> Vec<Value> {
    let mut counts: HashMap<&str, (usize, u64, u64)> = HashMap::new();
    for file in commits.iter().flat_map(|commit| &commit.changes.files) {
        let entry = counts.entry(&file.path).or_default();
        *entry = (entry.0 + 1, entry.1 + file.add, entry.2 + file.del);
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|&(path, (n, add, del))| (std::cmp::Reverse((n, add + del)), path));
    counts
        .into_iter()
        .take(TOP_FILES_MAX)
        .map(|(path, (n, add, del))| json!({"path": path, "n": n, "add": add, "del": del}))
        .collect()
}

/// `git.show`, arguments checked.
pub(super) struct Show {
    arguments: Vec<OsString>,
    patch: bool,
}

impl Show {
    /// Reads the arguments.
    pub(super) fn read(arguments: &Arguments<'_>) -> Result<Self, StepError> {
        let patch = arguments.flag("patch")?;
        let mut list: Vec<OsString> = vec!["log".into(), FORMAT.into()];
        list.extend(DIFF_ARGUMENTS.iter().map(OsString::from));
        for flag in [
            "--max-count=1",
            "--no-walk",
            "--diff-merges=first-parent",
            "--encoding=UTF-8",
            "--raw",
            "--numstat",
        ] {
            list.push(flag.into());
        }
        if patch {
            list.extend(["--patch".into(), "--unified=3".into()]);
        }
        list.push("--end-of-options".into());
        list.push(revision(arguments, "rev", arguments.text("rev")?)?.into());
        list.extend(path_arguments(arguments)?);
        Ok(Self { arguments: list, patch })
    }

    /// Runs the step. A merge is compared with its first parent.
    pub(super) async fn run(
        self,
        repository: &Repository,
        context: &StepContext,
    ) -> Result<StepOutput, StepError> {
        let answer = program::run(repository, &self.arguments, STDOUT_BYTES_MAX, context).await?;
        let bytes_max = context.bytes_max.min(PATCHES_BYTES_MAX);
        fs::blocking(move || self.output(&answer, bytes_max)).await
    }

    fn output(&self, answer: &program::Answer, bytes_max: usize) -> Result<StepOutput, StepError> {
        let Some(commit) = Records::new(&answer.stdout, answer.cut).commit() else {
            return Err(StepError::new(
                ErrorKind::NotFound,
                "the revision is no commit, or it does not touch the path",
            ));
        };
        let (add, del) = commit.changes.totals();
        let files = commit.changes.files.len();
        let mut value = json!({
            "hash": commit.hash,
            "short": short(&commit.hash),
            "date": date(commit.seconds),
            "author": commit.author,
            "subject": commit.subject,
            "body": commit.body,
            "parents": commit.parents,
            "add": add,
            "del": del,
            "n": files,
            "files": commit.changes.shown(FILES_MAX),
        });
        let mut cut = answer.cut || files > FILES_MAX;
        if self.patch {
            let (patch, patch_cut) = commit.changes.patches(bytes_max);
            value["patch"] = patch.into();
            cut |= patch_cut;
        }
        value["truncated"] = cut.into();
        Ok(StepOutput { value, bytes: answer.stdout.len() as u64 })
    }
}
/// Lines added and deleted, the shorter where one of them is none: `+3/-1`, `+3`, `-1`, `+0`.
fn lines(add: u64, del: u64) -> String {
    match (add, del) {
        (_, 0) => format!("+{add}"),
        (0, _) => format!("-{del}"),
        (_, _) => format!("+{add}/-{del}"),
    }
}
