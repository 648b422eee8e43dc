//! `exec.run`: runs a program of the pattern's permissions.
//!
//! | step | value |
//! |---|---|
//! | `exec.run` | `{exit, signal?, ok, stdout, stderr, truncated, left_out?, lossy?, ms}`; with `merge` `output` instead of `stdout` and `stderr`: both in the order that they were written |
//!
//! An exit code is data: `ok` is whether it is 0; `exit` is null where a signal ended the program. Of each stream the
//! beginning and the end are kept, `max_bytes` together (default 256 KiB): `left_out` counts the other bytes. `lossy` says
//! that some bytes were no UTF-8.
//!
//! There is no shell: the argv is the template's, word by word, each argument one word that begins with no `-`. The
//! program is looked for in the absolute folders of PATH outside the workspace; it runs in the bound root, in a session of
//! its own, with the environment of [`PASSED`] and [`SET`] and without standard input.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

use super::{
    ENDS_EARLY, StepContext, StepError, StepOutput,
    arguments::Arguments,
    fs::root::{self, Root},
    process::{self, Fault, Keep, Program},
};
use crate::{
    engine::ErrorKind,
    pattern::argv::{self, Slot, Word},
};

/// Longest argument, in bytes.
const ARGUMENT_BYTES_MAX: usize = 4 << 10;
/// Bytes kept of each stream unless said, and at most.
const KEPT_BYTES: usize = 256 << 10;
const KEPT_BYTES_MAX: usize = 4 << 20;
/// A program that writes more than this is ended.
const WRITTEN_BYTES_MAX: u64 = 256 << 20;

/// Variables that a program sees as this process has them: where tools keep their things, and how text is written.
pub const PASSED: &[&str] = &[
    "ANDROID_HOME",
    "CARGO_HOME",
    "CONDA_PREFIX",
    "GOCACHE",
    "GOMODCACHE",
    "GOPATH",
    "GOROOT",
    "GRADLE_USER_HOME",
    "HOME",
    "JAVA_HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "LOGNAME",
    "NODE_PATH",
    "NVM_DIR",
    "PNPM_HOME",
    "PYENV_ROOT",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "SDKROOT",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "TZ",
    "USER",
    "VIRTUAL_ENV",
    "VOLTA_HOME",
    "XDG_CACHE_HOME",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
];

/// Variables that a program sees with these values: it writes plain text and asks nobody.
pub const SET: &[(&str, &str)] = &[
    ("CI", "1"),
    ("GIT_PAGER", "cat"),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("NO_COLOR", "1"),
    ("PAGER", "cat"),
    ("TERM", "dumb"),
];

/// Runs the step `uses`.
///
/// # Errors
/// `denied` for a command that the permissions do not name, a program inside the workspace or a path outside it;
/// `invalid_input` for arguments that do not fit the template; `program_failed` where the program is missing or cannot be
/// started; `limit_exceeded` where it floods; `deadline`; `cancelled`. Nothing of it runs by then.
pub async fn run(
    uses: &str,
    context: &StepContext,
    with: &Map<String, Value>,
) -> Result<StepOutput, StepError> {
    let args = Arguments::new(uses, with);
    let command = args.text("command")?;
    let template = context.permissions.exec.get(command).ok_or_else(|| {
        StepError::new(ErrorKind::Denied, format!("the pattern's permissions.exec has no `{command:.40}`"))
    })?;
    let root = args.granted("root", context)?;
    let merged = args.flag("merge")?;
    let kept_max = args.count("max_bytes", KEPT_BYTES, 1 << 10, KEPT_BYTES_MAX)?.min(context.bytes_max);
    let given = match args.value("args") {
        None => &Map::new(),
        Some(Value::Object(given)) => given,
        Some(_) => return Err(args.wrong("args", "arguments by name")),
    };
    // The loader refuses such templates; a pattern can come to be in other ways.
    if let Some((_, fault)) = argv::faults(template).first() {
        return Err(StepError::new(ErrorKind::Denied, format!("permissions.exec.{command}: {fault}")));
    }
    let arguments = words(command, template, given, &root)?;
    let name = template.first().map_or("", String::as_str);
    let folders = process::search_path(&root);
    let program = located(name, &folders, &root)?;
    let deadline = context.deadline.checked_sub(ENDS_EARLY).unwrap_or(context.deadline);
    let program = Program {
        path: &program,
        arguments: &arguments,
        environment: &environment(&folders),
        folder: &root,
        guest: true,
        merged,
        out: Keep::Ends(kept_max),
        err: Keep::Ends(kept_max),
        written_max: WRITTEN_BYTES_MAX,
        deadline,
    };
    let ended = process::run(&program, &context.cancel).await.map_err(|fault| failed(name, &fault))?;
    Ok(output(ended, merged))
}

/// The words of `template` after the program, filled in.
fn words(
    command: &str,
    template: &[String],
    given: &Map<String, Value>,
    root: &Path,
) -> Result<Vec<OsString>, StepError> {
    let refuse = |name: &str, why: &str| {
        StepError::new(ErrorKind::InvalidInput, format!("argument `{name:.40}` of {command} {why}"))
    };
    for name in given.keys() {
        if !argv::slots(template).any(|slot| slot.name == name) {
            return Err(refuse(name, "has no place in the template"));
        }
    }
    let mut words = Vec::with_capacity(template.len());
    for word in template.iter().skip(1) {
        let slot = match Word::of(word) {
            Word::Literal(text) => {
                words.push(text.into());
                continue;
            }
            Word::Slot(slot) => slot,
        };
        let text = match given.get(slot.name) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
            Some(Value::Array(_) | Value::Object(_)) => {
                return Err(refuse(slot.name, "must be one text or number: it becomes one word"));
            }
        };
        if text.is_empty() {
            if slot.optional {
                continue;
            }
            return Err(refuse(slot.name, "is missing"));
        }
        if text.starts_with('-') {
            return Err(refuse(slot.name, "begins with `-`: it would be an option"));
        }
        if text.contains('\0') {
            return Err(refuse(slot.name, "contains a NUL character"));
        }
        if text.len() > ARGUMENT_BYTES_MAX {
            return Err(refuse(slot.name, &format!("is longer than {ARGUMENT_BYTES_MAX} bytes")));
        }
        if let Slot { path: true, .. } = slot {
            // Fails where it is not there, or where a link leads out.
            Root::open(root)?.locate(&root::relative(&text)?)?;
        }
        words.push(text.into());
    }
    Ok(words)
}

/// The program `name`, outside `root`.
fn located(name: &str, folders: &[PathBuf], root: &Path) -> Result<PathBuf, StepError> {
    let missing = |place: &str| {
        StepError::new(
            ErrorKind::ProgramFailed,
            format!("the program `{name}` {place}; install it, or start tmws with a PATH that has it"),
        )
    };
    let program = if name.starts_with('/') {
        let path = PathBuf::from(name);
        if !process::is_executable(&path) {
            return Err(missing("is not there, or not executable"));
        }
        path
    } else {
        process::find(OsStr::new(name), folders)
            .ok_or_else(|| missing("was not found in PATH outside the workspace"))?
    };
    if process::lies_below(&program, root) {
        return Err(StepError::new(
            ErrorKind::Denied,
            format!("the program `{name}` lies inside the workspace and is not run"),
        ));
    }
    Ok(program)
}

/// The whole environment of a program.
fn environment(folders: &[PathBuf]) -> Vec<(OsString, OsString)> {
    // A folder with a separator in its name came from no PATH.
    let path = std::env::join_paths(folders).unwrap_or_default();
    let mut environment: BTreeMap<OsString, OsString> =
        PASSED.iter().filter_map(|name| Some((name.into(), std::env::var_os(name)?))).collect();
    environment.extend(SET.iter().map(|(name, value)| (name.into(), value.into())));
    environment.insert("PATH".into(), path);
    environment.into_iter().collect()
}

fn failed(name: &str, fault: &Fault) -> StepError {
    let (kind, advice) = match fault {
        Fault::Start(_) | Fault::Read(_) => (ErrorKind::ProgramFailed, ""),
        Fault::Flood(_) => (ErrorKind::LimitExceeded, " and was ended; have it write less"),
        Fault::Deadline => {
            (ErrorKind::Deadline, " and was ended; ask for less, or allow more time (limits.timeout)")
        }
        Fault::Cancelled => (ErrorKind::Cancelled, ""),
    };
    StepError::new(kind, format!("{name}: {fault}{advice}"))
}

fn output(ended: process::Ended, merged: bool) -> StepOutput {
    let (code, signal) = (ended.code(), ended.signal());
    let bytes = ended.out.total + ended.err.total;
    let (out, err) = (ended.out.text(), ended.err.text());
    let left_out = out.left_out + err.left_out;
    let mut value = Map::new();
    value.insert("exit".to_owned(), code.into());
    if let Some(signal) = signal {
        value.insert("signal".to_owned(), signal.into());
    }
    value.insert("ok".to_owned(), (code == Some(0)).into());
    if merged {
        value.insert("output".to_owned(), out.content.into());
    } else {
        value.insert("stdout".to_owned(), out.content.into());
        value.insert("stderr".to_owned(), err.content.into());
    }
    value.insert("truncated".to_owned(), (left_out > 0).into());
    if left_out > 0 {
        value.insert("left_out".to_owned(), left_out.into());
    }
    if out.lossy || err.lossy {
        value.insert("lossy".to_owned(), true.into());
    }
    value.insert("ms".to_owned(), (ended.elapsed.as_millis() as u64).into());
    StepOutput { value: Value::Object(value), bytes }
}
