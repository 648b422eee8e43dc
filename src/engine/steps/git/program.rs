//! Starts the installed `git` so that nothing in a repository can make it run, fetch, page or ask anything.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Instant,
};

use tokio_util::sync::CancellationToken;

use super::discover::Repository;
use crate::engine::{
    ErrorKind,
    steps::{
        ENDS_EARLY, StepContext, StepError,
        process::{self, Fault, Keep, Program},
    },
};

/// Most text of git's own complaints that is kept, in bytes.
const STDERR_BYTES_MAX: usize = 16 << 10;

/// The whole environment, besides `PATH`. No setting of the user or the system is read: answers depend on the repository
/// alone.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("GIT_ALLOW_PROTOCOL", ""),
    ("GIT_ASKPASS", "false"),
    ("GIT_ATTR_NOSYSTEM", "1"),
    ("GIT_CONFIG_GLOBAL", "/dev/null"),
    ("GIT_CONFIG_NOSYSTEM", "1"),
    ("GIT_CONFIG_SYSTEM", "/dev/null"),
    ("GIT_EDITOR", "false"),
    ("GIT_NO_LAZY_FETCH", "1"),
    ("GIT_OPTIONAL_LOCKS", "0"),
    ("GIT_PAGER", "cat"),
    ("GIT_SSH_COMMAND", "false"),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("HOME", "/dev/null"),
    ("LC_ALL", "C"),
    ("SSH_ASKPASS", "false"),
    ("TZ", "UTC"),
    ("XDG_CONFIG_HOME", "/dev/null"),
];

/// Settings laid over the repository's own: whatever could start a program, read a file elsewhere or change the form of
/// the output.
const OVERRIDES: &[&str] = &[
    "blame.ignoreRevsFile=",
    "color.ui=false",
    "core.alternateRefsCommand=",
    "core.askPass=false",
    "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null",
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.pager=cat",
    "core.sshCommand=false",
    "core.untrackedCache=false",
    "credential.helper=",
    "diff.autoRefreshIndex=false",
    "diff.external=",
    "diff.interHunkContext=0",
    "diff.mnemonicPrefix=false",
    "diff.noprefix=false",
    "diff.orderFile=/dev/null",
    "diff.relative=false",
    "diff.submodule=short",
    "diff.suppressBlankEmpty=false",
    "gc.auto=0",
    "gpg.program=false",
    "gpg.ssh.program=false",
    "gpg.x509.program=false",
    "log.showRoot=true",
    "log.showSignature=false",
    "mailmap.file=/dev/null",
    "maintenance.auto=false",
    "protocol.allow=never",
    "status.submoduleSummary=false",
    "submodule.recurse=false",
];

/// What git answered.
#[derive(Default)]
pub(super) struct Answer {
    /// At most as many bytes as asked for.
    pub(super) stdout: Vec<u8>,
    /// `stdout` was longer; git was ended early.
    pub(super) cut: bool,
}

/// The first `git` in an absolute folder of the search path `path`.
fn find(path: &OsStr) -> Option<PathBuf> {
    let folders: Vec<PathBuf> = std::env::split_paths(path).filter(|folder| folder.is_absolute()).collect();
    process::find(OsStr::new("git"), &folders)
}

/// The installed git, looked up once. The search path is the process's own and no setting of ours.
fn installed() -> Option<&'static Path> {
    static PROGRAM: OnceLock<Option<PathBuf>> = OnceLock::new();
    PROGRAM.get_or_init(|| find(&std::env::var_os("PATH")?)).as_deref()
}

/// Runs `git <arguments>` on `repository` and returns at most `stdout_max` bytes of its output.
///
/// # Errors
/// `program_failed` where git is not installed or fails, `denied` where it misses objects that it would have to fetch,
/// `not_found` for an unknown revision or path, `deadline`, `cancelled`. Git and what it started are gone by then.
pub(super) async fn run(
    repository: &Repository,
    arguments: &[OsString],
    stdout_max: usize,
    context: &StepContext,
) -> Result<Answer, StepError> {
    run_program(installed(), repository, arguments, stdout_max, context.deadline, &context.cancel).await
}

async fn run_program(
    program: Option<&Path>,
    repository: &Repository,
    arguments: &[OsString],
    stdout_max: usize,
    deadline: Instant,
    cancel: &CancellationToken,
) -> Result<Answer, StepError> {
    let Some(program) = program else {
        return Err(StepError::new(
            ErrorKind::ProgramFailed,
            "the program `git` was not found in PATH; install git, or start tmws with a PATH that has it",
        ));
    };
    if program.starts_with(&repository.root) {
        return Err(StepError::new(
            ErrorKind::Denied,
            "the first `git` in PATH lies inside the workspace and is not run; put the real one first",
        ));
    }
    let mut words: Vec<OsString> =
        ["--no-pager", "--literal-pathspecs", "--no-optional-locks"].map(OsString::from).into();
    for setting in OVERRIDES {
        words.extend(["-c".into(), setting.into()]);
    }
    words.push(joined("--git-dir=", &repository.git_dir));
    if !repository.bare {
        words.push(joined("--work-tree=", &repository.root));
    }
    words.extend_from_slice(arguments);
    let path = program.parent().unwrap_or(Path::new("/usr/bin"));
    let environment: Vec<(OsString, OsString)> = ENVIRONMENT
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .chain([("PATH".into(), path.into())])
        .collect();
    let ended = process::run(
        &Program {
            path: program,
            arguments: &words,
            environment: &environment,
            folder: &repository.root,
            guest: false,
            merged: false,
            out: Keep::Only(stdout_max),
            err: Keep::Head(STDERR_BYTES_MAX),
            written_max: u64::MAX,
            deadline: deadline.checked_sub(ENDS_EARLY).unwrap_or(deadline),
        },
        cancel,
    )
    .await
    .map_err(|fault| unfinished(program, &fault))?;
    let (success, code) = (ended.success(), ended.code());
    let cut = ended.out.is_cut();
    if cut || success {
        Ok(Answer { stdout: ended.out.into_head(), cut })
    } else {
        Err(failure(&ended.err.into_head(), code))
    }
}

/// The error of a git that gave no answer.
fn unfinished(program: &Path, fault: &Fault) -> StepError {
    match fault {
        Fault::Start(kind) => StepError::new(
            ErrorKind::ProgramFailed,
            format!("{} could not be started: {kind}", program.display()),
        ),
        Fault::Cancelled => StepError::new(ErrorKind::Cancelled, "cancelled by the caller"),
        Fault::Deadline => StepError::new(
            ErrorKind::Deadline,
            "git took longer than the step may; ask for less (a path, a shorter time), or allow more time",
        ),
        Fault::Read(_) | Fault::Flood(_) => StepError::new(ErrorKind::ProgramFailed, format!("git: {fault}")),
    }
}

fn joined(flag: &str, path: &Path) -> OsString {
    let mut joined = OsString::from(flag);
    joined.push(path);
    joined
}

/// What git's complaint means, by its words (`LC_ALL=C`).
const COMPLAINTS: &[(&str, ErrorKind, &str)] = &[
    (
        "lazy fetching disabled",
        ErrorKind::Denied,
        "the repository is a partial clone and lacks objects that git would have to fetch; run the git command once yourself",
    ),
    (
        "promisor",
        ErrorKind::Denied,
        "the repository is a partial clone and lacks objects that git would have to fetch; run the git command once yourself",
    ),
    ("does not have any commits yet", ErrorKind::NotFound, NO_COMMIT),
    ("ambiguous argument 'HEAD'", ErrorKind::NotFound, NO_COMMIT),
    ("bad revision 'HEAD'", ErrorKind::NotFound, NO_COMMIT),
    ("no such path", ErrorKind::NotFound, "git knows no such file at that revision"),
    ("unknown revision", ErrorKind::NotFound, NO_REVISION),
    ("ambiguous argument", ErrorKind::NotFound, NO_REVISION),
    ("bad revision", ErrorKind::NotFound, NO_REVISION),
    ("bad object", ErrorKind::NotFound, NO_REVISION),
    ("no merge base", ErrorKind::NotFound, "the two revisions have no common ancestor"),
    ("has only", ErrorKind::InvalidInput, "the file has fewer lines than asked for"),
    (
        "unknown repository extension",
        ErrorKind::Denied,
        "the installed git does not know this repository's format; update git",
    ),
    (
        "Expected git repo version",
        ErrorKind::Denied,
        "the installed git does not know this repository's format; update git",
    ),
];

/// The answer for a repository without a commit.
pub(super) const NO_COMMIT: &str = "the repository has no commit yet";
const NO_REVISION: &str = "git knows no such revision (branch, tag or commit)";

fn failure(stderr: &[u8], code: Option<i32>) -> StepError {
    let text = String::from_utf8_lossy(stderr);
    if let Some((_, kind, message)) = COMPLAINTS.iter().find(|(words, _, _)| text.contains(words)) {
        return StepError::new(*kind, *message);
    }
    let line = text
        .lines()
        .find(|line| line.starts_with("fatal:") || line.starts_with("error:"))
        .unwrap_or_default();
    let line: String = line.chars().filter(|character| !character.is_control()).take(200).collect();
    let code = code.map_or_else(|| "a signal".to_owned(), |code| format!("exit code {code}"));
    StepError::new(ErrorKind::ProgramFailed, format!("git failed ({code}) {line}").trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

    use rustix::process::Pid;

    use super::*;

    fn here(root: &Path) -> Repository {
        Repository {
            root: root.to_owned(),
            git_dir: root.join(".git"),
            common_dir: root.join(".git"),
            bare: false,
            shallow: false,
        }
    }

    fn program(folder: &Path, text: &str) -> PathBuf {
        let path = folder.join("git");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    async fn ended(
        program: Option<&Path>,
        root: &Path,
        time: Duration,
        stdout_max: usize,
    ) -> Result<Answer, StepError> {
        let (deadline, cancel) = (Instant::now() + time, CancellationToken::new());
        run_program(program, &here(root), &["log".into()], stdout_max, deadline, &cancel).await
    }

    #[test]
    fn git_is_looked_for_in_absolute_folders_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = |text: &str| find(OsStr::new(text));
        assert_eq!(path(&format!(".::{}", folder.path().display())), None);
        let git = program(folder.path(), "#!/bin/sh\n");
        assert_eq!(path(&format!(".:/nowhere:{}", folder.path().display())), Some(git.clone()));
        fs::set_permissions(&git, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(path(&folder.path().display().to_string()), None);
    }

    #[tokio::test]
    async fn a_missing_git_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = ended(None, folder.path(), Duration::from_secs(9), 100).await.err().unwrap();
        assert_eq!(error.kind, ErrorKind::ProgramFailed);
        assert!(error.message.contains("`git` was not found"), "{}", error.message);
    }

    #[tokio::test]
    async fn a_git_inside_the_workspace_is_not_run() {
        let folder = tempfile::tempdir().unwrap();
        let git = program(folder.path(), "#!/bin/sh\ntouch canary\n");
        let error = ended(Some(&git), folder.path(), Duration::from_secs(9), 100).await.err().unwrap();
        assert_eq!(error.kind, ErrorKind::Denied);
        assert!(!folder.path().join("canary").exists());
    }

    #[tokio::test]
    async fn git_and_its_children_end_with_the_deadline() {
        let (bin, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        // The child keeps the pipe open and would outlive its parent.
        let git = program(bin.path(), "#!/bin/sh\n/bin/sleep 600 &\necho $! > child\nwait\n");
        let started = Instant::now();
        let error = ended(Some(&git), root.path(), Duration::from_millis(400), 100).await.err().unwrap();
        assert_eq!(error.kind, ErrorKind::Deadline);
        assert!(started.elapsed() < Duration::from_secs(5));
        let child = fs::read_to_string(root.path().join("child")).unwrap();
        let child = Pid::from_raw(child.trim().parse().unwrap()).unwrap();
        // Killed; at most still waiting for init to collect it.
        let state =
            || fs::read_to_string(format!("/proc/{}/stat", child.as_raw_nonzero())).unwrap_or_default();
        while rustix::process::test_kill_process(child).is_ok() && !state().contains(") Z ") {
            assert!(started.elapsed() < Duration::from_secs(20), "the child lives: {}", state());
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn output_beyond_the_cap_is_cut_and_git_ended() {
        let (bin, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        // It complains more than is kept, too.
        let text = "#!/bin/sh\nwhile :; do echo 0123456789; echo 0123456789012345678901234567890123456789 >&2; done\n";
        let git = program(bin.path(), text);
        let answer = ended(Some(&git), root.path(), Duration::from_secs(20), 40_000).await.unwrap();
        assert!(answer.cut);
        assert_eq!(answer.stdout.len(), 40_000);
    }

    #[tokio::test]
    async fn the_environment_is_only_what_is_listed() {
        let (bin, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let git = program(bin.path(), "#!/bin/sh\n/usr/bin/env\n");
        let answer = ended(Some(&git), root.path(), Duration::from_secs(20), 100_000).await.unwrap();
        let text = String::from_utf8(answer.stdout).unwrap();
        let mut names: Vec<&str> = text.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
        names.sort_unstable();
        names.retain(|name| !["PATH", "PWD", "OLDPWD", "SHLVL", "_"].contains(name));
        assert_eq!(names, ENVIRONMENT.iter().map(|(name, _)| *name).collect::<Vec<_>>());
    }

    #[test]
    fn complaints_become_codes_and_the_rest_is_short() {
        for (stderr, kind) in [
            ("fatal: your current branch 'main' does not have any commits yet", ErrorKind::NotFound),
            ("fatal: ambiguous argument 'nope': unknown revision or path", ErrorKind::NotFound),
            ("warning: lazy fetching disabled; some objects may not be available", ErrorKind::Denied),
            ("fatal: file a has only 2 lines", ErrorKind::InvalidInput),
            ("fatal: something\u{1b}[31m else", ErrorKind::ProgramFailed),
        ] {
            let error = failure(stderr.as_bytes(), Some(128));
            assert_eq!(error.kind, kind, "{stderr}");
            assert!(!error.message.contains('\u{1b}'));
        }
    }
}
