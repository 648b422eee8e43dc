//! `tmws pattern`: make, list, show, check, test and trust patterns.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{Value, json};

use super::{Failure, Output, arguments, draft::Draft, scaffold};
use crate::{
    compose::Local,
    embedding,
    engine::{
        Patterns as _,
        testing::{TestOutcome, run_tests},
    },
    exit::Exit,
    pattern::{
        Effect, Mode, Origin, Pattern,
        library::SourceFile,
        lint::{absent_files, lint, read_files},
        loader::{LoadError, hash, load},
        router::Among,
        trust::question,
    },
};

/// How long a command waits for the embedding table: a load that takes longer is none.
const EMBEDDING_WAIT: Duration = Duration::from_secs(5);

/// A pattern to test, and the folder of its file where that is known.
type Subject = (Arc<Pattern>, Option<PathBuf>);

/// Runs one pattern command.
///
/// # Errors
/// The failure, with exit code.
pub(super) async fn run(
    command: arguments::Pattern,
    local: &Local,
    output: &mut Output,
) -> Result<Exit, Failure> {
    match command {
        arguments::Pattern::List { query } => list(query.as_deref(), local, output).await,
        arguments::Pattern::Show { name } => show(&name, local, output).await,
        arguments::Pattern::New { name, kind, project } => scaffold::run(&name, kind, project, local, output),
        arguments::Pattern::Explain { query, mode } => explain(&query, mode.into(), local, output).await,
        arguments::Pattern::Lint { paths } => check(&paths, local, output),
        arguments::Pattern::Test { names } => test(&names, local, output).await,
        arguments::Pattern::Trust { names } => trust(&names, local, output),
    }
}

async fn list(query: Option<&str>, local: &Local, output: &mut Output) -> Result<Exit, Failure> {
    ready(local, "list patterns").await?;
    let mut patterns = match query.map(str::trim).filter(|query| !query.is_empty()) {
        Some(query) => {
            embedding::ready(EMBEDDING_WAIT).await;
            local.shelf.ranked(query)
        }
        None => local.shelf.all(),
    };
    patterns.sort_by_key(|pattern| pattern.deprecated.is_some());
    if output.is_json() {
        let patterns: Vec<Value> = patterns.iter().map(|pattern| describe(pattern)).collect();
        output.json(&json!({"patterns": patterns, "faults": *local.shelf.faults()}))?;
        return Ok(Exit::Ok);
    }
    let rows: Vec<[String; 4]> = patterns
        .iter()
        .map(|pattern| {
            [
                pattern.name.clone(),
                version(pattern),
                effect(pattern).to_owned(),
                match &pattern.deprecated {
                    Some(deprecated) => deprecated.to_string(),
                    None => first_sentence(&pattern.description).to_owned(),
                },
            ]
        })
        .collect();
    output.table(&rows)?;
    for fault in local.shelf.faults().iter() {
        super::output::tell(&format!("not loaded: {fault}"));
    }
    Ok(Exit::Ok)
}

/// As a model's query: what writes or executes is not there.
async fn explain(query: &str, mode: Mode, local: &Local, output: &mut Output) -> Result<Exit, Failure> {
    ready(local, "explain a question").await?;
    embedding::ready(EMBEDDING_WAIT).await;
    let allowed = local.allowed_to_a_model();
    let among =
        Among { admits: &|pattern| allowed.admits(pattern), has_path: &|_, path| allowed.has_path(path) };
    let explained = local.shelf.explain(query, mode, among);
    let explanation = explained
        .ok_or_else(|| Failure::new(Exit::Failed, "explain a question", "the patterns are not loaded"))?;
    if output.is_json() {
        output.json(&explanation.to_json())?;
    } else {
        for line in explanation.to_text().lines() {
            output.line(line)?;
        }
    }
    Ok(Exit::Ok)
}

async fn show(name: &str, local: &Local, output: &mut Output) -> Result<Exit, Failure> {
    let action = format!("show {name}");
    ready(local, &action).await?;
    let pattern = local
        .engine
        .named(name, &local.allowed())
        .map_err(|error| Failure::of_engine(action, &error).with_hint(hint_for(name, local)))?;
    if output.is_json() {
        let mut value = describe(&pattern);
        value["inputs"] = pattern.inputs.clone();
        value["source"] = json!(&*pattern.source);
        output.json(&value)?;
    } else {
        output.verbatim(&pattern.source)?;
    }
    Ok(Exit::Ok)
}

/// Where to look for the pattern `name`, which is not to be found.
pub(super) fn hint_for(name: &str, local: &Local) -> String {
    let name = name.split('@').next().unwrap_or_default();
    let read = local.folders.read();
    let broken = read.files.iter().find(|file| {
        matches!(file.origin, Origin::User(_))
            && scaffold::is_named(&file.text, name)
            && load(&file.file, &file.text, file.origin.clone()).is_err()
    });
    if let Some(broken) = broken {
        return format!(
            "your file {0} has this name and cannot be loaded; `tmws pattern lint {0}` says why",
            broken.file
        );
    }
    if local.folders.read_project().files.iter().any(|file| scaffold::is_named(&file.text, name)) {
        return format!(
            "this repository has it, and it runs once `tmws pattern lint` finds no error and `tmws pattern trust {name}` \
             was said"
        );
    }
    "`tmws pattern list` prints all names and which files wait for trust".to_owned()
}

fn check(paths: &[PathBuf], local: &Local, output: &mut Output) -> Result<Exit, Failure> {
    let mut files = Vec::new();
    let mut unreadable = Vec::new();
    if paths.is_empty() {
        let read = local.folders.read();
        (files, unreadable) = (read.files, read.faults);
        unreadable.extend(read.unreadable.iter().map(ToString::to_string));
    }
    for path in paths {
        let origin = Origin::User(path.parent().unwrap_or(path).to_owned());
        match read_files(path, &origin) {
            Ok((read, faults)) => {
                files.extend(read);
                unreadable.extend(faults.iter().map(ToString::to_string));
            }
            Err(error) => unreadable.push(format!("{}: {error}", path.display())),
        }
    }
    let mut findings = lint(&files);
    findings.warnings.extend(absent_files(&files));
    let failed = !unreadable.is_empty() || !findings.errors.is_empty();
    if output.is_json() {
        output.json(&json!({
            "files": findings.files, "unreadable": unreadable,
            "errors": findings.errors.iter().map(fault_json).collect::<Vec<_>>(),
            "warnings": findings.warnings.iter().map(fault_json).collect::<Vec<_>>(),
        }))?;
    } else {
        for fault in &unreadable {
            output.line(&format!("error: {fault}"))?;
        }
        for error in &findings.errors {
            output.line(&format!("error: {error}"))?;
        }
        for warning in &findings.warnings {
            output.line(&format!("warning: {warning}"))?;
        }
        output.line(&format!(
            "files: {}, errors: {}, warnings: {}",
            findings.files,
            findings.errors.len() + unreadable.len(),
            findings.warnings.len()
        ))?;
    }
    Ok(if failed { Exit::Failed } else { Exit::Ok })
}

fn fault_json(fault: &LoadError) -> Value {
    json!({
        "file": fault.file, "line": fault.line, "column": fault.column,
        "message": fault.message, "hint": fault.hint,
    })
}

async fn test(names: &[String], local: &Local, output: &mut Output) -> Result<Exit, Failure> {
    ready(local, "test patterns").await?;
    let mut subjects: Vec<Subject> = Vec::new();
    let (paths, names): (Vec<&String>, Vec<&String>) = names.iter().partition(|name| is_path(name));
    for path in &paths {
        subjects.extend(from_file(Path::new(path))?);
    }
    if paths.is_empty() && names.is_empty() {
        subjects.extend(local.shelf.all().into_iter().map(|pattern| (pattern, None)));
    }
    for name in names {
        let pattern = local.engine.named(name, &local.allowed()).map_err(|error| {
            Failure::of_engine(format!("test {name}"), &error).with_hint(hint_for(name, local))
        })?;
        subjects.push((pattern, None));
    }
    // A pattern does not know its file; its text does.
    let folders: BTreeMap<String, PathBuf> = local
        .folders
        .read()
        .files
        .iter()
        .filter_map(|file| Some((hash(&file.text), folder_of(&file.file)?)))
        .collect();
    let mut ended: Vec<(String, TestOutcome)> = Vec::new();
    let mut untested = Vec::new();
    for (pattern, folder) in &subjects {
        let folder = folder.as_ref().or_else(|| folders.get(&pattern.hash));
        let outcomes = run_tests(pattern, &Local::test_scope(), folder.map(PathBuf::as_path)).await;
        if outcomes.is_empty() {
            untested.push(pattern.name.clone());
        }
        ended.extend(outcomes.into_iter().map(|outcome| (pattern.name.clone(), outcome)));
    }
    show_tests(&ended, &untested, output)
}

/// No name of a pattern has a separator, and none ends like a file.
fn is_path(name: &str) -> bool {
    let path = Path::new(name);
    path.components().count() > 1
        || path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

fn from_file(path: &Path) -> Result<Vec<Subject>, Failure> {
    let action = || format!("test {}", path.display());
    let folder = folder_of(&path.to_string_lossy());
    let origin = Origin::User(folder.clone().unwrap_or_default());
    let (files, unreadable) = read_files(path, &origin).map_err(|error| Failure::of_io(action(), &error))?;
    if let Some(fault) = unreadable.first() {
        return Err(Failure::new(Exit::Failed, action(), fault.to_string()));
    }
    files
        .into_iter()
        .map(|SourceFile { file, text, origin }| {
            let loaded = load(&file, &text, origin).map_err(|errors| {
                let first = errors.first().map_or_else(String::new, ToString::to_string);
                Failure::new(Exit::Failed, action(), first)
                    .with_hint("`tmws pattern lint` prints everything wrong")
            })?;
            Ok((loaded.pattern, folder_of(&file)))
        })
        .collect()
}

fn folder_of(file: &str) -> Option<PathBuf> {
    Path::new(file)
        .parent()
        .map(|folder| if folder == Path::new("") { PathBuf::from(".") } else { folder.to_owned() })
}

fn show_tests(
    ended: &[(String, TestOutcome)],
    untested: &[String],
    output: &mut Output,
) -> Result<Exit, Failure> {
    let failures = ended.iter().filter(|(_, outcome)| outcome.failure.is_some()).count();
    let ms = |outcome: &TestOutcome| outcome.elapsed.as_micros() as f64 / 1000.0;
    if output.is_json() {
        let tests: Vec<Value> = ended
            .iter()
            .map(|(pattern, outcome)| {
                json!({
                    "pattern": pattern, "test": outcome.name, "passed": outcome.failure.is_none(),
                    "failure": outcome.failure, "tokens": outcome.tokens, "ms": ms(outcome),
                })
            })
            .collect();
        output.json(&json!({"tests": tests, "failures": failures, "untested": untested}))?;
    } else {
        let rows: Vec<[String; 5]> = ended
            .iter()
            .map(|(pattern, outcome)| {
                [
                    if outcome.failure.is_some() { "FAIL" } else { "ok" }.to_owned(),
                    pattern.clone(),
                    format!("{:.1} ms", ms(outcome)),
                    outcome.tokens.map_or_else(String::new, |tokens| format!("{tokens} tokens")),
                    match &outcome.failure {
                        Some(failure) => format!("{}: {failure}", outcome.name),
                        None => outcome.name.clone(),
                    },
                ]
            })
            .collect();
        output.table(&rows)?;
        for pattern in untested {
            output.line(&format!("--    {pattern} has no tests"))?;
        }
        output.line(&format!("tests: {}, failures: {failures}", ended.len()))?;
    }
    Ok(if failures == 0 { Exit::Ok } else { Exit::Failed })
}

fn trust(names: &[String], local: &Local, output: &mut Output) -> Result<Exit, Failure> {
    const ACTION: &str = "trust patterns";
    let (Some(root), Some(path)) = (local.folders.canonical_root(), &local.folders.trust) else {
        return Err(Failure::new(
            Exit::Failed,
            ACTION,
            "there is no workspace, or no folder for the user's configuration",
        )
        .with_hint("run it in a project's folder, with HOME set"));
    };
    let mut trust = local.folders.read_trust().map_err(|fault| Failure::new(Exit::Config, ACTION, fault))?;
    let mut left: Vec<&String> = names.iter().collect();
    let mut told = Vec::new();
    let mut broken = Vec::new();
    for SourceFile { file, text, .. } in local.folders.read_project().files {
        let shown = match question(&root, &file, &text) {
            Ok(shown) => shown,
            Err(error) => {
                super::output::tell(&format!("not loaded: {error}"));
                broken.push(file);
                continue;
            }
        };
        let wanted = names.contains(&shown.name);
        left.retain(|name| **name != shown.name);
        if wanted {
            trust
                .pin_file(&root, &file, &text, &shown)
                .map_err(|error| Failure::new(Exit::Failed, ACTION, error.to_string()))?;
        }
        let trusted = trust.allows(&root, &file, &text);
        told.push((shown, trusted, file));
    }
    if let Some(unknown) = left.first() {
        // What a file that cannot be read calls its pattern is not known; its own name mostly says so.
        let is_its =
            |file: &&String| Path::new(file).file_stem().is_some_and(|stem| stem == unknown.as_str());
        if let Some(file) = broken.iter().find(is_its) {
            let why = format!("{file} cannot be loaded, so that nobody can tell what `{unknown}` would run");
            return Err(Failure::new(Exit::Failed, ACTION, why)
                .with_hint("mend it where the line above says, then look at it again"));
        }
        return Err(Failure::new(Exit::Usage, ACTION, format!("this repository has no pattern `{unknown}`"))
            .with_hint("`tmws pattern trust` shows those that it has"));
    }
    if !names.is_empty() {
        write_trust(path, &trust.to_text()).map_err(|error| Failure::of_io(ACTION, &error))?;
    }
    if output.is_json() {
        let patterns: Vec<Value> = told
            .iter()
            .map(|(shown, trusted, file)| {
                json!({
                    "name": shown.name, "file": file, "hash": shown.hash, "permissions": shown.permissions,
                    "trusted": trusted,
                })
            })
            .collect();
        output.json(&json!({"root": root.display().to_string(), "patterns": patterns}))?;
        return Ok(Exit::Ok);
    }
    if told.is_empty() {
        output.line("this repository has no patterns")?;
    }
    let rows: Vec<[String; 3]> = told
        .iter()
        .map(|(shown, trusted, _)| {
            let state = if *trusted { "trusted" } else { "not trusted" };
            [shown.name.clone(), state.to_owned(), shown.permissions.join("; ")]
        })
        .collect();
    output.table(&rows)?;
    Ok(Exit::Ok)
}

fn write_trust(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let draft = Draft::beside(path)?;
    draft.file().write_all(text.as_bytes())?;
    draft.publish(path)
}

async fn ready(local: &Local, action: &str) -> Result<(), Failure> {
    local.shelf.ready().await.map_err(|error| Failure::of_engine(action, &error))
}

fn describe(pattern: &Pattern) -> Value {
    let mut value = json!({
        "name": pattern.name, "version": version(pattern), "effect": effect(pattern),
        "description": pattern.description, "hash": pattern.hash, "origin": origin(&pattern.origin).0,
    });
    if let Some(deprecated) = &pattern.deprecated {
        value["deprecated"] = json!({
            "replaced_by": deprecated.replaced_by, "reason": deprecated.reason, "since": deprecated.since,
        });
    }
    if let Some(path) = origin(&pattern.origin).1 {
        value["file"] = json!(path);
    }
    value
}

fn version(pattern: &Pattern) -> String {
    let version = pattern.version;
    format!("{}.{}.{}", version.major, version.minor, version.patch)
}

const fn effect(pattern: &Pattern) -> &'static str {
    match pattern.effect {
        Effect::ReadOnly => "reads",
        Effect::Writes => "writes",
        Effect::Executes => "executes",
    }
}

fn origin(origin: &Origin) -> (&'static str, Option<String>) {
    match origin {
        Origin::BuiltIn => ("built-in", None),
        Origin::User(path) => ("user", Some(path.display().to_string())),
        Origin::Project(path) => ("project", Some(path.display().to_string())),
    }
}

fn first_sentence(text: &str) -> &str {
    text.split(". ").next().unwrap_or_default().trim_end_matches('.')
}
