//! `git.diff`: what differs between two trees, the index and the work tree.

use std::ffi::OsString;

use serde_json::json;

use super::{
    PATCHES_BYTES_MAX, commits::Records, discover::Repository, history::DIFF_ARGUMENTS, known,
    path_arguments, program, revision,
};
use crate::engine::{
    ErrorKind,
    steps::{StepContext, StepError, StepOutput, arguments::Arguments, fs},
};

/// Most output of git, in bytes.
const STDOUT_BYTES_MAX: usize = 16 << 20;
/// Most files listed.
const FILES_MAX: usize = 300;

/// `git.diff`, arguments checked.
pub(super) struct Diff {
    arguments: Vec<OsString>,
    patch: bool,
    needs_work_tree: bool,
}

impl Diff {
    /// Reads the arguments. Without any, the work tree is compared with the index; with `staged`, the index with HEAD (or
    /// `from`); with `from`, the work tree with it; with `from` and `to`, the two. `merge_base` compares with the common
    /// ancestor instead of `from`.
    pub(super) fn read(arguments: &Arguments<'_>) -> Result<Self, StepError> {
        let patch = arguments.flag("patch")?;
        let staged = arguments.flag("staged")?;
        let context = arguments.count("context", 3, 0, 20)?;
        let (from, to) = (arguments.text_or_none("from")?, arguments.text_or_none("to")?);
        if to.is_some() && (from.is_none() || staged) {
            return Err(arguments.refuse("to", "needs `from`, and no `staged`"));
        }
        let mut list: Vec<OsString> = vec!["diff".into()];
        list.extend(DIFF_ARGUMENTS.iter().map(OsString::from));
        list.extend(["--raw".into(), "--numstat".into()]);
        if patch {
            list.push("--patch".into());
        }
        list.push(format!("--unified={context}").into());
        if staged {
            list.push("--cached".into());
        }
        if arguments.flag("merge_base")? {
            if from.is_none() {
                return Err(arguments.refuse("merge_base", "needs `from`"));
            }
            list.push("--merge-base".into());
        }
        list.push("--end-of-options".into());
        for (name, text) in [("from", from), ("to", to)] {
            if let Some(text) = text {
                list.push(revision(arguments, name, text)?.into());
            }
        }
        list.extend(path_arguments(arguments)?);
        Ok(Self { arguments: list, patch, needs_work_tree: to.is_none() })
    }

    /// Runs the step.
    pub(super) async fn run(
        self,
        repository: &Repository,
        context: &StepContext,
    ) -> Result<StepOutput, StepError> {
        if repository.bare && self.needs_work_tree {
            return Err(StepError::new(
                ErrorKind::NotFound,
                format!(
                    "{} is a bare repository: it has no work tree; give `from` and `to`",
                    repository.root.display()
                ),
            ));
        }
        let answer = program::run(repository, &self.arguments, STDOUT_BYTES_MAX, context).await?;
        if answer.stdout.is_empty() {
            known::check(&self.arguments, repository, context).await?;
        }
        let bytes_max = context.bytes_max.min(PATCHES_BYTES_MAX);
        fs::blocking(move || Ok(self.output(&answer, bytes_max))).await
    }

    fn output(&self, answer: &program::Answer, bytes_max: usize) -> StepOutput {
        let changes = Records::new(&answer.stdout, answer.cut).changes();
        let (add, del) = changes.totals();
        let n = changes.files.len();
        let mut value = json!({"n": n, "add": add, "del": del, "files": changes.shown(FILES_MAX)});
        let mut cut = answer.cut || n > FILES_MAX;
        if self.patch {
            let (patch, patch_cut) = changes.patches(bytes_max);
            value["patch"] = patch.into();
            cut |= patch_cut;
        }
        value["truncated"] = cut.into();
        StepOutput { value, bytes: answer.stdout.len() as u64 }
    }
}
