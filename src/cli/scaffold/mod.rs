//! `tmws pattern new`: a file to start from, which is valid, clean and tested as it is.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use regex::Regex;
use serde_json::json;

use super::{Failure, Output, arguments};
use crate::{
    compose::Local,
    exit::Exit,
    pattern::{
        Origin, PatternKind,
        library::{Library, SourceFile},
        lint::lint,
        loader::PATTERN_SCHEMA,
        trust::Trust,
    },
};

const SKELETON: &str = include_str!("pattern.yaml");
/// Beside the patterns, where a relative path finds it on every machine. Folders of patterns hold YAML files; this is none.
const SCHEMA_FILE: &str = "pattern-v1.schema.json";
/// Names of patterns, as their schema has them.
const NAME: &str = r"^[a-z][a-z0-9]*(\.[a-z0-9-]+)*$";

/// What is different from type to type.
struct Parts {
    description: &'static str,
    inputs: &'static str,
    bind: &'static str,
    permissions: &'static str,
    steps: &'static str,
    required: &'static str,
    properties: &'static str,
    value: &'static str,
    list: &'static str,
    tests: &'static str,
    /// A test reads this folder.
    has_fixture: bool,
}

const FIND_FILES: &str = "  - id: found
    uses: fs.glob
    with: {root: '${ .bind.root }', pattern: '${ .inputs.glob }', limit: 20}
";

const GLOB: &str = "    glob: {type: string, maxLength: 200, default: '*.txt', description: Which files}
";

const fn parts(kind: PatternKind) -> Parts {
    const BIND: &str = "# Filled in by the server, invisible to the model.
bind:
  root: {from: workspace.root}
";
    match kind {
        PatternKind::Infrastructure => Parts {
            description: "Count and name the files of this workspace that match a glob. Use to see what is there before reading.",
            inputs: GLOB,
            bind: BIND,
            permissions: "{fs.read: ['${ .bind.root }']}",
            steps: FIND_FILES,
            required: "[n, files]",
            properties: "      n: {type: integer}
      files: {type: array, items: {type: string}}
",
            value: "${ {n: .steps.found.n, files: .steps.found.files} }",
            list: "files",
            tests: "  - name: finds the text files of its fixture
    fixture: fixtures/@NAME@
    expect: {jq: '.n == 2 and .files[0] == \"first.txt\"', max_tokens: 100}
",
            has_fixture: true,
        },
        PatternKind::Memory => Parts {
            description: "Recall the decisions of this project that hold some words. Use before deciding anew.",
            inputs: "    words: {type: string, minLength: 1, maxLength: 200, default: decision, description: What to look for}
",
            bind: "",
            permissions: "{memory: [read]}",
            steps: "  - id: found
    uses: memory.search
    with: {query: '${ .inputs.words }', k: 5}
",
            required: "[n, hits]",
            properties: "      n: {type: integer}
      hits: {type: array, items: {type: string}}
",
            value: "${ {n: .steps.found.total, hits: [.steps.found.hits[].text]} }",
            list: "hits",
            tests: "  - name: nothing remembered is an empty answer
    expect: {jq: '.n == 0 and .hits == []', max_tokens: 60}
",
            has_fixture: false,
        },
        PatternKind::Hybrid => Parts {
            description: "Name the files of this workspace that match a glob, with what is remembered about them. Use before changing them.",
            inputs: GLOB,
            bind: BIND,
            permissions: "{fs.read: ['${ .bind.root }'], memory: [read]}",
            steps: "  - id: found
    uses: fs.glob
    with: {root: '${ .bind.root }', pattern: '${ .inputs.glob }', limit: 20}
  # Needs `found`, because it reads .steps.found; where it fails the answer goes on without it.
  - id: known
    uses: memory.search
    if: ${ .steps.found.n > 0 }
    with: {query: '${ .steps.found.files | join(\" \") }', k: 3}
    on_error: continue
",
            required: "[n, files]",
            properties: "      n: {type: integer}
      files: {type: array, items: {type: string}}
      known: {type: array, items: {type: string}}
",
            value: "${ {n: .steps.found.n, files: .steps.found.files, known: [(.steps.known.hits // [])[].text]} }",
            list: "files",
            tests: "  - name: finds the text files of its fixture, and remembers nothing of them
    fixture: fixtures/@NAME@
    expect: {jq: '.n == 2 and .known == []', max_tokens: 100}
",
            has_fixture: true,
        },
    }
}

/// What the pattern `name` starts as; without triggers where `triggered` is false.
fn text(name: &str, kind: PatternKind, triggered: bool) -> String {
    let parts = parts(kind);
    let words = name.replace(['.', '-'], " ");
    let triggers = if triggered {
        format!(
            "# What a query must say to find it. Examples run as tests; none may match another pattern's triggers.
triggers:
  phrases: [{words}]
  examples:
    match: [{words}, please show {words}, {words} now]
    no_match: [rename the variable, write a poem about rain, is it late]
  priority: 50
  # A unique match of a query runs it; `never` only offers it.
  auto: read-only"
        )
    } else {
        "# Nothing routes a query here yet: add `triggers` with phrases, examples and `auto: read-only`."
            .to_owned()
    };
    [
        ("@TRIGGERS@", triggers.as_str()),
        ("@TYPE@", kind.as_str()),
        ("@DESCRIPTION@", parts.description),
        ("@INPUTS@\n", parts.inputs),
        ("@BIND@\n", parts.bind),
        ("@PERMISSIONS@", parts.permissions),
        ("@STEPS@\n", parts.steps),
        ("@REQUIRED@", parts.required),
        ("@PROPERTIES@\n", parts.properties),
        ("@VALUE@", parts.value),
        ("@LIST@", parts.list),
        ("@TESTS@\n", parts.tests),
        ("@SCHEMA@", SCHEMA_FILE),
        ("@NAME@", name),
    ]
    .into_iter()
    .fold(SKELETON.to_owned(), |text, (mark, part)| text.replace(mark, part))
}

/// The same, with triggers where they can be told from those of the patterns in `others`.
fn fitting(name: &str, kind: PatternKind, others: &[SourceFile]) -> String {
    let triggered = text(name, kind, true);
    let file = SourceFile {
        file: format!("{name}.yaml"),
        text: triggered.clone(),
        origin: Origin::User(PathBuf::new()),
    };
    let alone = lint(std::slice::from_ref(&file)).errors.is_empty();
    let mut all: Vec<SourceFile> = others.to_vec();
    all.push(file);
    let faults = |files: &[SourceFile]| Library::load(files, &Trust::default()).report().errors.len();
    if alone && faults(&all) == faults(others) { triggered } else { text(name, kind, false) }
}

/// Writes a new pattern.
///
/// # Errors
/// The name is none, the file is there already, or the folder cannot be written.
pub(super) fn run(
    name: &str,
    kind: arguments::Kind,
    in_project: bool,
    local: &Local,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let action = format!("make the pattern {name:.80}");
    let known = Regex::new(NAME).is_ok_and(|regex| regex.is_match(name));
    if !known || name.len() > 100 {
        return Err(Failure::new(Exit::Usage, action, "this is no name of a pattern").with_hint(
            "a name is words of small letters and digits with dots between them, such as repo.digest",
        ));
    }
    let folder = folder(in_project, local)
        .map_err(|(cause, hint)| Failure::new(Exit::Failed, action.as_str(), cause).with_hint(hint))?;
    let file = folder.join(format!("{name}.yaml"));
    let parts = parts(kind.into());
    let read = local.folders.read().files;
    if let Some(taken) = read.iter().find(|other| is_named(&other.text, name)) {
        return Err(taken_by(&action, &taken.file));
    }
    let text = fitting(name, kind.into(), &read);
    fs::create_dir_all(&folder).map_err(|error| Failure::of_io(action.as_str(), &error))?;
    write_new(&file, &text).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => taken_by(&action, &file.display().to_string()),
        _ => Failure::of_io(action.as_str(), &error),
    })?;
    let schema = folder.join(SCHEMA_FILE);
    let rest = || -> io::Result<()> {
        // Ours, and the same for every pattern of the folder: a newer release brings a newer one.
        if fs::read_to_string(&schema).ok().as_deref() != Some(PATTERN_SCHEMA) {
            fs::write(&schema, PATTERN_SCHEMA)?;
        }
        if parts.has_fixture {
            let fixture = folder.join("fixtures").join(name);
            fs::create_dir_all(&fixture)?;
            for (file, text) in [("first.txt", "one\n"), ("second.txt", "two\n")] {
                fs::write(fixture.join(file), text)?;
            }
        }
        Ok(())
    };
    rest().map_err(|error| Failure::of_io(action.as_str(), &error))?;
    let shadows = Library::built_in().named(name).is_some();
    if output.is_json() {
        output.json(&json!({
            "name": name, "file": file.display().to_string(), "schema": schema.display().to_string(),
            "shadows_built_in": shadows, "needs_trust": in_project,
        }))?;
        return Ok(Exit::Ok);
    }
    output.line(&format!("made {}", file.display()))?;
    output.line(&format!(
        "     its first line names {}: editors with a YAML language server use it offline",
        schema.display()
    ))?;
    if shadows {
        let when = if in_project { "once this file is trusted" } else { "from now on" };
        output.line(&format!(
            "     the built-in pattern of this name is not used {when}; name@VERSION still finds it"
        ))?;
    }
    if in_project {
        output
            .line(&format!("next: tmws pattern lint, tmws pattern trust {name}, tmws pattern test {name}"))?;
    } else {
        output.line(&format!("next: tmws pattern lint, tmws pattern test {name}, tmws run {name}"))?;
    }
    Ok(Exit::Ok)
}

fn taken_by(action: &str, file: &str) -> Failure {
    Failure::new(Exit::Failed, action, format!("{file} is there already, and nothing is overwritten"))
        .with_hint("choose another name, or edit that file")
}

/// Whether a file's text says that it is the pattern `name`, loadable or not.
pub(super) fn is_named(text: &str, name: &str) -> bool {
    text.lines().any(|line| line.strip_prefix("name:").is_some_and(|rest| rest.trim() == name))
}

fn folder(in_project: bool, local: &Local) -> Result<PathBuf, (&'static str, &'static str)> {
    if in_project {
        let root = local
            .folders
            .canonical_root()
            .ok_or(("there is no workspace here", "run it in a project's folder, or leave out --project"))?;
        return Ok(root.join(".tmws").join("patterns"));
    }
    local.folders.user.first().cloned().ok_or((
        "there is no folder for the user's configuration",
        "set HOME or XDG_CONFIG_HOME, or use --project",
    ))
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{engine::testing::run_tests, pattern::loader::load};

    #[tokio::test]
    async fn what_is_made_is_clean_and_its_own_tests_pass() {
        for kind in PatternKind::ALL {
            let folder = tempfile::tempdir().unwrap();
            let fixture = folder.path().join("fixtures/my.own-files");
            fs::create_dir_all(&fixture).unwrap();
            fs::write(fixture.join("first.txt"), "one\n").unwrap();
            fs::write(fixture.join("second.txt"), "two\n").unwrap();
            let file = folder.path().join("my.own-files.yaml").to_string_lossy().into_owned();
            let text = fitting("my.own-files", kind, &[]);
            assert!(text.contains("auto: read-only"), "{text}");
            assert!(!text.contains('@') || !text.contains("@T"), "a mark is left: {text}");
            let origin = Origin::User(folder.path().to_owned());
            let findings =
                lint(&[SourceFile { file: file.clone(), text: text.clone(), origin: origin.clone() }]);
            assert_eq!((findings.errors, findings.warnings), (Vec::new(), Vec::new()), "{text}");
            let pattern = load(&file, &text, origin).unwrap().pattern;
            let ended = run_tests(&pattern, &Local::test_scope(), Some(folder.path())).await;
            assert_eq!(ended.len(), 1);
            for outcome in ended {
                assert_eq!(outcome.failure, None, "{}", kind.as_str());
            }
        }
    }

    #[test]
    fn triggers_that_would_collide_are_left_to_the_author() {
        let other = SourceFile {
            file: "other.yaml".to_owned(),
            text: text("my.files", PatternKind::Memory, true).replace("name: my.files", "name: other"),
            origin: Origin::User(PathBuf::new()),
        };
        let made = fitting("my.files", PatternKind::Memory, &[other]);
        assert!(!made.contains("phrases:"), "{made}");
        assert_eq!(
            lint(&[SourceFile {
                file: "f.yaml".to_owned(),
                text: made,
                origin: Origin::User(PathBuf::new())
            }])
            .warnings,
            []
        );
    }
}
