//! Everything wrong with pattern files, and what could be better.

use std::{fs, io, path::Path};

use super::{
    Auto, Origin, Pattern, Template,
    library::{Library, SourceFile},
    loader::{LoadError, Loaded, load},
    trust::Trust,
};

/// Longest description that hosts show whole, in characters.
const DESCRIPTION_CHARS_MAX: usize = 1024;
/// Budgets above this crowd out the conversation.
const BUDGET_TOKENS_MAX: usize = 2_000;
/// Examples of each kind that show what a trigger means.
const EXAMPLES_MIN: usize = 3;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Files looked at.
    pub files: usize,
    /// What keeps files from loading, ordered by file and place.
    pub errors: Vec<LoadError>,
    /// What could be better.
    pub warnings: Vec<LoadError>,
}

/// A pattern file that cannot be read, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {reason}")]
pub struct Unreadable {
    /// As [`SourceFile::file`].
    pub file: String,
    /// Why, and what to do.
    pub reason: String,
}

/// Reads the pattern files (`*.yaml`, `*.yml`) at `path`: one, or those of a folder, by name. A file that cannot be read
/// does not keep the others from it.
///
/// # Errors
/// Nothing is there, or a folder cannot be listed.
pub fn read_files(path: &Path, origin: &Origin) -> io::Result<(Vec<SourceFile>, Vec<Unreadable>)> {
    let mut paths = Vec::new();
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
                && path.is_file()
            {
                paths.push(path);
            }
        }
        paths.sort();
    } else {
        fs::metadata(path)?;
        paths.push(path.to_owned());
    }
    let (mut files, mut unreadable) = (Vec::new(), Vec::new());
    for path in paths {
        let file = path.to_string_lossy().into_owned();
        match read_text(&path) {
            Ok(text) => files.push(SourceFile { file, text, origin: origin.clone() }),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                unreadable.push(Unreadable { file, reason: "is no UTF-8 text; save it as UTF-8".to_owned() });
            }
            Err(error) => unreadable.push(Unreadable { file, reason: format!("cannot be read: {error}") }),
        }
    }
    Ok((files, unreadable))
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    // One byte more than a pattern may have, so that the loader says that it is too large.
    let limit = super::yaml::YAML_BYTES_MAX as u64 + 1;
    io::Read::read_to_string(&mut io::Read::take(fs::File::open(path)?, limit), &mut text)?;
    Ok(text)
}

/// Checks `files`, each by itself and beside the built-in patterns and each other.
#[must_use]
pub fn lint(files: &[SourceFile]) -> Findings {
    let mut findings = Findings { files: files.len(), ..Findings::default() };
    let mut as_user = Vec::new();
    for file in files {
        match load(&file.file, &file.text, file.origin.clone()) {
            Ok(loaded) => {
                findings.warnings.extend(warnings(&loaded));
                findings.errors.extend(unprepared(&loaded));
                // Trust is about running; a check looks at every file.
                as_user.push(SourceFile { origin: Origin::User(Path::new("").to_owned()), ..file.clone() });
            }
            Err(errors) => findings.errors.extend(errors),
        }
    }
    findings.errors.extend(Library::load(&as_user, &Trust::default()).report().errors.iter().cloned());
    findings.errors.sort();
    findings.errors.dedup();
    findings.warnings.sort();
    findings
}

/// Expressions that the check at load let through and the compiler does not: a bug of this program, said here.
fn unprepared(loaded: &Loaded) -> Vec<LoadError> {
    fn all<'p>(steps: &'p [super::StepSpec], found: &mut Vec<&'p Template>) {
        for step in steps {
            found.push(&step.with);
            step.children.iter().for_each(|steps| all(steps, found));
        }
    }
    fn conditions<'p>(steps: &'p [super::StepSpec], found: &mut Vec<&'p std::sync::Arc<super::Expression>>) {
        for step in steps {
            found.extend(&step.condition);
            step.children.iter().for_each(|steps| conditions(steps, found));
        }
    }
    let mut templates = vec![&loaded.pattern.output.value];
    all(&loaded.pattern.steps, &mut templates);
    let mut expressions: Vec<_> = templates.into_iter().flat_map(Template::expressions).collect();
    conditions(&loaded.pattern.steps, &mut expressions);
    expressions
        .into_iter()
        .filter_map(|expression| expression.prepare().err())
        .map(|error| loaded.error("", error.to_string(), None))
        .collect()
}

fn warnings(loaded: &Loaded) -> Vec<LoadError> {
    let pattern: &Pattern = &loaded.pattern;
    let mut warnings = Vec::new();
    let mut warn = |pointer: &str, message: String| warnings.push(loaded.error(pointer, message, None));
    let characters = pattern.description.chars().count();
    if characters > DESCRIPTION_CHARS_MAX {
        warn(
            "/description",
            format!(
                "the description has {characters} characters; hosts may cut it at {DESCRIPTION_CHARS_MAX}"
            ),
        );
    }
    if pattern.tests.is_empty() {
        warn("", "the pattern has no tests".to_owned());
    }
    let triggered = !pattern.triggers.phrases.is_empty() || !pattern.triggers.regexes.is_empty();
    for (name, examples) in
        [("match", &pattern.triggers.match_examples), ("no_match", &pattern.triggers.no_match_examples)]
    {
        if triggered && examples.len() < EXAMPLES_MIN {
            warn(
                "/triggers",
                format!(
                    "{} examples of `{name}`; {EXAMPLES_MIN} show what the triggers mean",
                    examples.len()
                ),
            );
        }
    }
    if pattern.output.budget_tokens > BUDGET_TOKENS_MAX {
        warn(
            "/output/budget/tokens",
            format!("a budget of more than {BUDGET_TOKENS_MAX} tokens crowds out the conversation"),
        );
    }
    if pattern.output.schema.as_object().is_none_or(serde_json::Map::is_empty) {
        warn("/output", "the output has no schema".to_owned());
    }
    if pattern.inputs.get("additionalProperties").is_none() {
        warn("/inputs", "say `additionalProperties: false`, so that a misspelt input is an error".to_owned());
    }
    for (name, property) in pattern.inputs["properties"].as_object().into_iter().flatten() {
        if property.get("description").is_none() {
            warn(&format!("/inputs/properties/{name}"), format!("the input `{name}` has no description"));
        }
    }
    if pattern.triggers.auto == Auto::Never && triggered && pattern.effect == super::Effect::ReadOnly {
        warn("/triggers", "triggers without `auto: read-only` only offer the pattern".to_owned());
    }
    for (pointer, message) in unused_permissions(pattern) {
        warn(pointer, message);
    }
    for name in unused_binds(pattern, &loaded.pattern.source) {
        warn(&format!("/bind/{name}"), format!("nothing reads .bind.{name}"));
    }
    warnings
}

fn unused_permissions(pattern: &Pattern) -> Vec<(&'static str, String)> {
    fn all<'p>(steps: &'p [super::StepSpec], found: &mut Vec<&'p str>) {
        for step in steps {
            found.push(step.uses.uses);
            step.children.iter().for_each(|steps| all(steps, found));
        }
    }
    let mut used = Vec::new();
    all(&pattern.steps, &mut used);
    let mut unused = Vec::new();
    for command in &pattern.permissions.git {
        if !used.contains(&format!("git.{command}").as_str()) {
            unused.push(("/permissions/git", format!("no step uses git.{command}")));
        }
    }
    if !pattern.permissions.fs_read.is_empty() && !used.iter().any(|uses| uses.starts_with("fs.")) {
        // The example of the documentation grants a root to git steps; that is harmless and said once.
        if !used.iter().any(|uses| uses.starts_with("git.")) {
            unused.push(("/permissions", "no step reads files".to_owned()));
        }
    }
    let writes =
        |uses: &&str| super::StepRow::find(uses).is_some_and(|row| row.effect == super::Effect::Writes);
    if pattern.permissions.memory_write && !used.iter().any(writes) {
        unused.push(("/permissions/memory", "no step writes memories".to_owned()));
    }
    if pattern.permissions.memory_read
        && !used.iter().any(|uses| uses.starts_with("memory.") && !writes(uses))
    {
        unused.push(("/permissions/memory", "no step reads memories".to_owned()));
    }
    unused
}

fn unused_binds<'p>(pattern: &'p Pattern, source: &str) -> Vec<&'p str> {
    let names = pattern.binds.iter().map(|(name, _)| name.as_str());
    names.filter(|name| !source.contains(&format!(".bind.{name}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> SourceFile {
        SourceFile { file: "p.yaml".to_owned(), text: text.to_owned(), origin: Origin::Project("/w".into()) }
    }

    const PLAIN: &str = "apiVersion: tmws/v1\nkind: Pattern\nname: a.b\nversion: 1.0.0\ntype: infrastructure\n\
        description: Merges nothing, for tests of the linter.\n\
        triggers:\n  phrases: [merge nothing]\n\
        inputs: {type: object, properties: {n: {type: integer}}}\n\
        bind: {root: {from: workspace.root}}\n\
        permissions: {git: [log], memory: [read, write]}\n\
        steps:\n  - {id: a, uses: data.merge, with: {items: []}}\n\
        output: {value: \"${ .steps.a }\", budget: {tokens: 3000}}\n";

    #[test]
    fn what_could_be_better_is_said_with_its_place() {
        let findings = lint(&[file(PLAIN)]);
        assert_eq!(findings.errors, []);
        let texts: Vec<String> = findings.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "p.yaml:1:1: the pattern has no tests",
                "p.yaml:8:3: 0 examples of `match`; 3 show what the triggers mean",
                "p.yaml:8:3: 0 examples of `no_match`; 3 show what the triggers mean",
                "p.yaml:8:3: triggers without `auto: read-only` only offer the pattern",
                "p.yaml:9:9: say `additionalProperties: false`, so that a misspelt input is an error",
                "p.yaml:9:40: the input `n` has no description",
                "p.yaml:10:14: nothing reads .bind.root",
                "p.yaml:11:20: no step uses git.log",
                "p.yaml:11:35: no step reads memories",
                "p.yaml:11:35: no step writes memories",
                "p.yaml:14:9: the output has no schema",
                "p.yaml:14:51: a budget of more than 2000 tokens crowds out the conversation",
            ]
        );
    }

    #[test]
    fn errors_of_all_files_are_found_those_between_files_too() {
        let other = SourceFile { file: "q.yaml".to_owned(), ..file(PLAIN) };
        let broken = SourceFile { file: "r.yaml".to_owned(), ..file("name: x\n") };
        let findings = lint(&[file(PLAIN), other, broken]);
        assert_eq!(findings.files, 3);
        let texts: Vec<String> = findings.errors.iter().map(ToString::to_string).collect();
        assert!(
            texts.iter().any(|text| text.contains("q.yaml:3:7: the name `a.b` is taken by p.yaml")),
            "{texts:?}"
        );
        assert!(texts.iter().any(|text| text.contains("r.yaml:1:1: `steps` is missing")), "{texts:?}");
    }
}
