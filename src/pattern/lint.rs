//! Everything wrong with pattern files, and what could be better.

use std::{fs, io, path::Path, sync::LazyLock};

use regex::Regex;

use super::{
    Auto, Origin, Pattern, Template,
    library::{Library, SourceFile, tool_name},
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
    let mut loaded_files: Vec<Loaded> = Vec::new();
    for file in files {
        match load(&file.file, &file.text, file.origin.clone()) {
            Ok(loaded) => {
                findings.warnings.extend(warnings(&loaded));
                findings.errors.extend(unprepared(&loaded));
                // Trust is about running; a check looks at every file.
                as_user.push(SourceFile { origin: Origin::User(Path::new("").to_owned()), ..file.clone() });
                loaded_files.push(loaded);
            }
            Err(errors) => findings.errors.extend(errors),
        }
    }
    let library = Library::load(&as_user, &Trust::default());
    findings.errors.extend(library.report().errors.iter().cloned());
    for loaded in &loaded_files {
        findings.warnings.extend(beside_others(loaded, &library));
    }
    findings.errors.sort();
    findings.errors.dedup();
    findings.warnings.sort();
    findings
}

/// What tests name and is not there: fixtures, memories, servers and databases beside their files.
#[must_use]
pub fn absent_files(files: &[SourceFile]) -> Vec<LoadError> {
    let mut absent = Vec::new();
    for file in files {
        let Ok(loaded) = load(&file.file, &file.text, file.origin.clone()) else { continue };
        let folder = Path::new(&file.file).parent().unwrap_or(Path::new(""));
        for (index, test) in loaded.pattern.tests.iter().enumerate() {
            let of_test =
                [("fixture", &test.fixture), ("memories", &test.memories), ("servers", &test.servers)];
            let named = of_test.into_iter().filter_map(|(key, name)| Some((key.to_owned(), name.as_ref()?)));
            let sources =
                test.sources.iter().map(|source| (format!("sources/{}", source.name), &source.file));
            for (key, name) in named.chain(sources).filter(|(_, name)| !folder.join(name).exists()) {
                let message =
                    format!("`{name:.200}` is not there; it is looked for beside the pattern's file");
                absent.push(loaded.error(&format!("/tests/{index}/{key}"), message, None));
            }
        }
    }
    absent
}

/// What shows only beside the other patterns.
fn beside_others(loaded: &Loaded, library: &Library) -> Vec<LoadError> {
    let pattern = &loaded.pattern;
    let mut warnings = Vec::new();
    let replacement = pattern.deprecated.as_ref().and_then(|deprecated| deprecated.replaced_by.as_deref());
    if let Some(name) = replacement {
        match library.resolve(name) {
            Err(error) => {
                warnings.push(loaded.error("/deprecated/replaced_by", error.to_string(), None));
            }
            Ok(next) if next.deprecated.is_some() => warnings.push(
                loaded.error(
                    "/deprecated/replaced_by",
                    format!("`{name}` is deprecated itself"),
                    next.deprecated
                        .as_ref()
                        .and_then(|next| next.replaced_by.as_ref())
                        .map(|last| format!("say {last}")),
                ),
            ),
            Ok(_) => {}
        }
    }
    let tool = tool_name(&pattern.name);
    let twin =
        library.all().into_iter().find(|other| other.name != pattern.name && tool_name(&other.name) == tool);
    if let Some(twin) = twin {
        warnings.push(loaded.error(
            "/name",
            format!(
                "as a tool this would be `{tool}`, and so would `{}`: only one can be promoted",
                twin.name
            ),
            None,
        ));
    }
    warnings
}

/// Where the text has what looks like a password or a key: line and column, from 1. Never the text itself.
fn secrets(text: &str) -> Vec<(usize, usize)> {
    /// Beginnings that only keys have, and addresses with a password.
    static LOOKS: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(
            r"(?x) \b(?:sk-[A-Za-z0-9_-]{20,} | gh[pousr]_[A-Za-z0-9]{30,} | github_pat_[A-Za-z0-9_]{30,}
            | glpat-[A-Za-z0-9_-]{20,} | xox[abprs]-[A-Za-z0-9-]{10,} | AKIA[0-9A-Z]{16} | AIza[0-9A-Za-z_-]{35})
            | -----BEGIN\ [A-Z\ ]*PRIVATE\ KEY | [a-z]+://[^/\s:@$'\x22]+:[^/\s@$'\x22]+@",
        )
        .expect("a regex that a test compiles")
    });
    text.lines()
        .enumerate()
        .filter_map(|(index, line)| {
            let found = LOOKS.find(line)?;
            Some((index + 1, line[..found.start()].chars().count() + 1))
        })
        .collect()
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
    for (line, column) in secrets(&pattern.source) {
        warnings.push(LoadError {
            file: loaded.file.clone(),
            line,
            column,
            message: "this looks like a key or a password; everybody who reads the pattern has it".to_owned(),
            hint: Some("keep it in the configuration, and name that here".to_owned()),
        });
    }
    let mut warn = |pointer: &str, message: String| warnings.push(loaded.error(pointer, message, None));
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
    let permissions = &pattern.permissions;
    for (granted, family, pointer) in [
        (!permissions.exec.is_empty(), "exec.", "/permissions/exec"),
        (!permissions.http.is_empty(), "http.", "/permissions/http"),
        (!permissions.sql.is_empty(), "sql.", "/permissions/sql"),
        (!permissions.mcp.is_empty(), "mcp.", "/permissions/mcp"),
        (!permissions.mcp_write.is_empty(), "mcp.", "/permissions/mcp.write"),
        (permissions.llm, "llm.", "/permissions/llm"),
    ] {
        if granted && !used.iter().any(|uses| uses.starts_with(family)) {
            unused.push((pointer, format!("no step uses {family}*")));
        }
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
    fn what_only_a_run_would_refuse_is_refused_with_its_place() {
        let step = |uses: &str, with: &str| {
            let text = PLAIN
                .replace("git: [log]", "fs.read: ['${ .bind.root }'], http: [a.example]")
                .replace("memory: [read, write]", "llm: true")
                .replace("data.merge, with: {items: []}", &format!("{uses}, with: {with}"));
            lint(&[file(&text)]).errors
        };
        for (uses, with, scalar, message) in [
            (
                "fs.read",
                "{root: '${ .bind.root }', path: a, limit: abc, tail: true}",
                "abc",
                "`limit` of fs.read must be a whole number from 1 to 20000",
            ),
            (
                "fs.read",
                "{root: '${ .bind.root }', path: a, tail: 5}",
                "5}",
                "`tail` of fs.read must be true or false",
            ),
            (
                "http.get",
                "{url: 'https://a.example/', max_bytes: lots}",
                "lots",
                "`max_bytes` of http.get must be a whole number from 1 to 16777216",
            ),
            (
                "fs.grep",
                "{root: '${ .bind.root }', pattern: a, limit: -1}",
                "-1",
                "`limit` of fs.grep must be a whole number from 1 to 2000",
            ),
            (
                "fs.grep",
                "{root: '${ .bind.root }', pattern: '(?=x)'}",
                "'(?=x)'",
                "`pattern` of fs.grep: not a linear-time regex (no look-around, no back-references)",
            ),
            (
                "data.dedupe",
                "{items: [], by: '${ if (.inputs.n | test(\"(?=a)\")) then \"a\" else \"b\" end }'}",
                "'${ if",
                "`test`: not a linear-time regex (no look-around, no back-references)",
            ),
        ] {
            let errors = step(uses, with);
            let told: Vec<_> = errors.iter().map(|error| (error.line, error.message.as_str())).collect();
            assert!(matches!(told[..], [(13, said)] if said.contains(message)), "{errors:?}");
            let before = format!("  - {{id: a, uses: {uses}, with: ");
            assert_eq!(errors[0].column, before.len() + with.find(scalar).unwrap() + 1, "{errors:?}");
        }
        let errors = step(
            "fs.grep",
            "{root: '${ .bind.root }', pattern: '(?=x)', literal: true, limit: '${ .inputs.n }'}",
        );
        assert_eq!(errors, []);
    }

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
    fn what_shows_only_beside_others_is_a_warning_and_a_key_is_never_repeated() {
        let text = format!(
            "{PLAIN}deprecated: {{replaced_by: a.c}}\ntests:\n  - {{name: ghp_{0}, expect: {{jq: 'true'}}}}\n",
            "a1".repeat(18)
        );
        let twin = SourceFile { file: "q.yaml".to_owned(), ..file(&PLAIN.replace("name: a.b", "name: a-b")) };
        let twin = SourceFile { text: twin.text.replace("name: a-b", "name: a.b-c"), ..twin };
        let other = SourceFile {
            text: twin.text.replace("name: a.b-c", "name: a.b.c"),
            file: "r.yaml".to_owned(),
            ..twin.clone()
        };
        let findings = lint(&[file(&text), twin, other]);
        let texts: Vec<String> = findings.warnings.iter().map(ToString::to_string).collect();
        let said = |text: &str| texts.iter().any(|told| told.contains(text));
        assert!(said("p.yaml:15:27: there is no pattern `a.c`: did you mean"), "{texts:?}");
        assert!(said("q.yaml:3:7: as a tool this would be `a_b_c`, and so would `a.b.c`"), "{texts:?}");
        assert!(said("p.yaml:17:12: this looks like a key or a password"), "{texts:?}");
        assert!(!said("ghp_"), "{texts:?}");
    }

    #[test]
    fn what_tests_name_and_is_not_there_is_said_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("there.jsonl"), "").unwrap();
        let text = format!(
            "{PLAIN}tests:\n  - {{name: one, fixture: nowhere, memories: there.jsonl, sources: {{shop: gone.sql}}, \
             expect: {{jq: 'true'}}}}\n"
        );
        let path = folder.path().join("p.yaml").to_string_lossy().into_owned();
        let absent = absent_files(&[SourceFile { file: path, ..file(&text) }]);
        let told: Vec<_> = absent.iter().map(|fault| (fault.line, fault.column, &*fault.message)).collect();
        let said = |name: &str| format!("`{name}` is not there; it is looked for beside the pattern's file");
        assert_eq!(told, [(16, 26, &*said("nowhere")), (16, 74, &*said("gone.sql"))]);
    }

    #[test]
    fn errors_of_all_files_are_found_those_between_files_too() {
        let other = SourceFile { file: "q.yaml".to_owned(), ..file(PLAIN) };
        let broken = SourceFile { file: "r.yaml".to_owned(), ..file("name: x\n") };
        let findings = lint(&[file(PLAIN), other, broken]);
        assert_eq!(findings.files, 3);
        let texts: Vec<String> = findings.errors.iter().map(ToString::to_string).collect();
        assert!(
            texts.iter().any(
                |text| text.contains("q.yaml:3:7: the name `a.b` is taken by p.yaml in the same version")
            ),
            "{texts:?}"
        );
        assert!(texts.iter().any(|text| text.contains("r.yaml:1:1: `steps` is missing")), "{texts:?}");
    }
}
