//! `git.status`: branch, upstream and changed files, in one call of git.

use std::path::Path;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{
    commits::{Records, short, state},
    discover::Repository,
    program,
};
use crate::engine::{
    ErrorKind,
    steps::{StepContext, StepError, StepOutput, fs},
};
use crate::hex::hex;

/// Most output of git, in bytes.
const STDOUT_BYTES_MAX: usize = 32 << 20;
/// Most files listed.
const FILES_MAX: usize = 200;

#[derive(Default)]
struct Status {
    branch: String,
    head: Option<String>,
    upstream: Option<String>,
    ahead: u64,
    behind: u64,
    gone: bool,
    files: Vec<File>,
    untracked: usize,
    staged: usize,
    unstaged: usize,
    conflicts: usize,
}

struct File {
    code: String,
    path: String,
    from: Option<String>,
}

/// Runs the step.
pub(super) async fn run(repository: Repository, context: &StepContext) -> Result<StepOutput, StepError> {
    if repository.bare {
        return Err(StepError::new(
            ErrorKind::NotFound,
            format!("{} is a bare repository: it has no work tree to look at", repository.root.display()),
        ));
    }
    let arguments = [
        "status",
        "--porcelain=v2",
        "--branch",
        "-z",
        "--untracked-files=all",
        "--ignore-submodules=all",
        "--ahead-behind",
        "--renames",
    ]
    .map(Into::into);
    let answer = program::run(&repository, &arguments, STDOUT_BYTES_MAX, context).await?;
    if answer.cut {
        return Err(StepError::new(
            ErrorKind::LimitExceeded,
            "too many changed files; add generated folders to .gitignore",
        ));
    }
    fs::blocking(move || Ok(output(&repository, &answer.stdout))).await
}

fn output(repository: &Repository, stdout: &[u8]) -> StepOutput {
    let status = parse(stdout);
    let changed: Vec<Value> = status.files.iter().take(FILES_MAX).map(File::shown).collect();
    let n = status.files.len();
    let mut value = Map::new();
    value.insert("branch".into(), status.branch.as_str().into());
    value.insert("head".into(), status.head.clone().into());
    value.insert("short".into(), status.head.as_deref().map(short).into());
    if let Some(upstream) = &status.upstream {
        value.insert("upstream".into(), upstream.as_str().into());
        if status.gone {
            value.insert("upstream_gone".into(), true.into());
        }
    }
    value.insert("ahead".into(), status.ahead.into());
    value.insert("behind".into(), status.behind.into());
    value.insert("n".into(), n.into());
    for (name, count) in [
        ("staged", status.staged),
        ("unstaged", status.unstaged),
        ("untracked", status.untracked),
        ("conflicts", status.conflicts),
    ] {
        value.insert(name.into(), count.into());
    }
    value.insert("changed".into(), changed.into());
    value.insert("dirty_hash".into(), dirty_hash(&repository.root, stdout, &status.files).into());
    value.insert("shallow".into(), repository.shallow.into());
    value.insert("truncated".into(), (n > FILES_MAX).into());
    StepOutput { value: value.into(), bytes: stdout.len() as u64 }
}

impl File {
    fn shown(&self) -> Value {
        let code = self.code.as_bytes();
        let letter = match code {
            b"??" => b'?',
            [b'U', _] | [_, b'U'] | b"AA" | b"DD" => b'U',
            [_, b'D'] | [b'D', _] => b'D',
            [index, _] if *index != b'.' => *index,
            [_, tree] => *tree,
            _ => b'M',
        };
        let mut value = json!({"path": self.path, "state": state(letter), "code": self.code});
        if let Some(from) = &self.from {
            value["from"] = from.as_str().into();
        }
        value
    }
}

/// Names the state of the work tree: the records of git, which carry the hashes of what is staged, and size and times of
/// every changed file, so that a second edit of a changed file counts.
fn dirty_hash(root: &Path, stdout: &[u8], files: &[File]) -> String {
    use std::os::unix::fs::MetadataExt;
    let mut hash = Sha256::new();
    for record in stdout.split(|&byte| byte == 0).filter(|record| !record.starts_with(b"# ")) {
        hash.update(record);
        hash.update([0]);
    }
    for file in files {
        if let Ok(metadata) = root.join(&file.path).symlink_metadata() {
            for number in [
                metadata.size().cast_signed(),
                metadata.mtime(),
                metadata.mtime_nsec(),
                metadata.ctime(),
                metadata.ctime_nsec(),
            ] {
                hash.update(number.to_le_bytes());
            }
        }
        hash.update([1]);
    }
    hex(&hash.finalize()[..8])
}

fn parse(stdout: &[u8]) -> Status {
    let mut status = Status::default();
    let mut records = Records::new(stdout, false);
    while let Some(record) = records.next_record() {
        let record = String::from_utf8_lossy(record);
        let Some((kind, rest)) = record.split_once(' ') else { continue };
        match kind {
            "#" => status.header(rest),
            "1" => status.file(rest, 8, None),
            "2" => {
                let from = records.next_record().map(|path| String::from_utf8_lossy(path).into_owned());
                status.file(rest, 9, from);
            }
            "u" => {
                status.conflicts += 1;
                status.push(rest, 10, None);
            }
            "?" => {
                status.untracked += 1;
                status.files.push(File { code: "??".to_owned(), path: rest.to_owned(), from: None });
            }
            _ => {}
        }
    }
    status
}

impl Status {
    fn header(&mut self, text: &str) {
        let Some((name, value)) = text.split_once(' ') else { return };
        match name {
            "branch.oid" => self.head = Some(value.to_owned()).filter(|oid| oid != "(initial)"),
            "branch.head" => value.clone_into(&mut self.branch),
            "branch.upstream" => {
                self.upstream = Some(value.to_owned());
                self.gone = true;
            }
            "branch.ab" => {
                self.gone = false;
                let mut counts = value
                    .split(' ')
                    .map(|count| count.get(1..).and_then(|count| count.parse().ok()).unwrap_or(0));
                self.ahead = counts.next().unwrap_or(0);
                self.behind = counts.next().unwrap_or(0);
            }
            _ => {}
        }
    }

    fn file(&mut self, rest: &str, fields: usize, from: Option<String>) {
        let code = rest.as_bytes();
        self.staged += usize::from(code.first().is_some_and(|&code| code != b'.'));
        self.unstaged += usize::from(code.get(1).is_some_and(|&code| code != b'.'));
        self.push(rest, fields, from);
    }

    /// A record whose path is its `fields`th field.
    fn push(&mut self, rest: &str, fields: usize, from: Option<String>) {
        let mut parts = rest.splitn(fields, ' ');
        let code = parts.next().unwrap_or_default().to_owned();
        if let Some(path) = parts.nth(fields - 2) {
            self.files.push(File { code, path: path.to_owned(), from });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_branch_without_its_upstream_says_that_it_is_gone() {
        let status = parse(b"# branch.oid abc\0# branch.head x\0# branch.upstream origin/x\0? a b\0");
        assert!(status.gone && status.upstream.as_deref() == Some("origin/x"));
        assert_eq!((status.untracked, status.files[0].path.as_str()), (1, "a b"));
        let status = parse(b"# branch.upstream origin/x\0# branch.ab +2 -3\0");
        assert_eq!((status.gone, status.ahead, status.behind), (false, 2, 3));
    }

    proptest! {
        #[test]
        fn nothing_that_a_program_prints_can_panic(text in r"((# |1 |2 |u |\? |branch\.ab |branch\.oid |[.MADRU]{1,2} |\+1|é| |x)?\x00?){0,40}") {
            for file in parse(text.as_bytes()).files {
                let _ = file.shown();
            }
        }
    }
}
