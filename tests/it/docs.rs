//! The parts of the documents that the code knows better: between `<!-- generated: NAME -->` and `<!-- /generated -->`.
//!
//! `scripts/docs` writes them; without it these tests say which part differs.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;
use tmws::{
    config::{Kind, SETTINGS, SettingRow, Sources, load, show_bytes, show_duration},
    engine::ErrorKind,
    exit::Exit,
    pattern::{Origin, Pattern, library::Library, library::SourceFile, lint::lint},
    revision::Revision,
    tool::ToolName,
};

/// Set by `scripts/docs`.
const WRITE: &str = "TMWS_WRITE_DOCS";

/// A generated part: its name in the document, and what makes it.
type Part = (&'static str, fn() -> String);

const README: &[Part] = &[
    ("revisions", revisions),
    ("tools", tools),
    ("patterns", patterns),
    ("settings", settings),
    ("limits", limits),
    ("error codes", error_codes),
    ("exit codes", exit_codes),
];

fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(&head.iter().map(|&cell| cell.to_owned()).collect::<Vec<_>>());
    text.extend(["|", &"---|".repeat(head.len()), "\n"]);
    text.extend(rows.into_iter().map(|cells| {
        let cells: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
        line(&cells)
    }));
    text
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn revisions() -> String {
    let names: Vec<&str> = Revision::ALL.into_iter().map(Revision::as_str).collect();
    let (last, others) = names.split_last().unwrap();
    format!("{} and {last}\n", others.join(", "))
}

fn tools() -> String {
    let rows = ToolName::ALL.into_iter().map(|tool| {
        let definition = tool.definition();
        let takes: Vec<String> = definition.input_schema["properties"]
            .as_object()
            .unwrap()
            .keys()
            .map(|name| code(name))
            .collect();
        vec![code(tool.as_str()), takes.join(", "), definition.description.unwrap().into_owned()]
    });
    table(&["tool", "takes", "what the model reads"], rows)
}

/// Inputs with the required ones in bold.
fn inputs(pattern: &Pattern) -> String {
    let required = pattern.inputs["required"].as_array().cloned().unwrap_or_default();
    let Some(properties) = pattern.inputs["properties"].as_object() else { return String::new() };
    let names = properties.keys().map(|name| {
        if required.contains(&Value::from(name.as_str())) {
            format!("**{}**", code(name))
        } else {
            code(name)
        }
    });
    names.collect::<Vec<_>>().join(", ")
}

fn patterns() -> String {
    let rows = Library::built_in().all().into_iter().map(|pattern| {
        let sentence = pattern.description.split_once(". ").map_or(&*pattern.description, |(first, _)| first);
        vec![code(&pattern.name), inputs(&pattern), sentence.trim_end_matches('.').to_owned()]
    });
    table(&["pattern", "inputs", "does"], rows)
}

fn is_limit(row: &SettingRow) -> bool {
    matches!(row.kind, Kind::Duration(..) | Kind::Bytes(..) | Kind::Count(..))
}

fn settings() -> String {
    let rows = SETTINGS
        .iter()
        .filter(|row| !is_limit(row))
        .map(|row| vec![code(row.key), code(row.variable), row.summary.to_owned()]);
    table(&["in `tmws.toml`", "variable", "meaning"], rows)
}

fn limits() -> String {
    let sources = Sources {
        environment: [("HOME".to_owned(), "/home/ada".into())].into(),
        working_directory: "/home/ada/project".into(),
        ..Sources::default()
    };
    let config = load(&sources).unwrap();
    let rows = SETTINGS.iter().filter(|row| is_limit(row)).map(|row| {
        let (min, max) = match &row.kind {
            Kind::Duration(_, min, max) => (show_duration(*min), show_duration(*max)),
            Kind::Bytes(_, min, max) => (show_bytes(*min), show_bytes(*max)),
            Kind::Count(_, min, max) => (min.to_string(), max.to_string()),
            Kind::Flag(..) | Kind::Text(..) | Kind::Path(..) | Kind::Paths(..) | Kind::Texts(..) => {
                unreachable!("filtered above")
            }
        };
        vec![code(row.key), row.show(&config), format!("{min} to {max}"), row.summary.to_owned()]
    });
    table(&["in `tmws.toml`", "default", "range", "meaning"], rows)
}

fn error_codes() -> String {
    let rows = ErrorKind::ALL.iter().map(|kind| {
        vec![
            code(kind.code()),
            kind.meaning().trim_end_matches('.').to_owned(),
            Exit::from(*kind).code().to_string(),
        ]
    });
    table(&["code", "meaning", "exit code of `tmws run`"], rows)
}

fn exit_codes() -> String {
    table(
        &["code", "meaning"],
        Exit::ALL.iter().map(|exit| vec![exit.code().to_string(), exit.meaning().to_owned()]),
    )
}

/// `document` with each of `parts` filled in anew.
fn filled(document: &str, parts: &[Part]) -> String {
    let mut text = document.to_owned();
    for (name, make) in parts {
        let open = format!("<!-- generated: {name} -->\n");
        let start = text.find(&open).unwrap_or_else(|| panic!("no part `{}`", open.trim_end())) + open.len();
        let length =
            text[start..].find("<!-- /generated -->").unwrap_or_else(|| panic!("`{name}` has no end"));
        text.replace_range(start..start + length, &make());
    }
    text
}

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn generated_parts_of_the_readme_say_what_the_code_says() {
    let found = read("README.md");
    let wanted = filled(&found, README);
    let marks = found.matches("<!-- generated: ").count();
    assert_eq!(marks, README.len(), "README.md has a generated part that nothing generates");
    if std::env::var_os(WRITE).is_some() {
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"), wanted).unwrap();
        return;
    }
    let differs = found.lines().zip(wanted.lines()).position(|(found, wanted)| found != wanted);
    if let Some(line) = differs.or((found != wanted).then_some(wanted.lines().count())) {
        panic!(
            "README.md:{}: a generated part is not what the code says; run scripts/docs\n  found:  {}\n  wanted: {}",
            line + 1,
            found.lines().nth(line).unwrap_or(""),
            wanted.lines().nth(line).unwrap_or("")
        );
    }
}

#[test]
fn the_code_map_names_every_module_in_the_order_of_lib_rs() {
    let map = read("ARCHITECTURE.md");
    let rows =
        map.split("\n| module |").nth(1).unwrap().lines().skip(2).take_while(|line| line.starts_with('|'));
    let mut named: Vec<String> = Vec::new();
    for row in rows {
        let cell = row.split('|').nth(1).unwrap();
        named.extend(cell.split('`').skip(1).step_by(2).map(str::to_owned));
    }
    let modules: Vec<String> = read("src/lib.rs")
        .lines()
        .filter_map(|line| Some(line.strip_prefix("pub mod ")?.trim_end_matches(';').to_owned()))
        .chain(["main".to_owned()])
        .collect();
    assert_eq!(named, modules, "the code map of ARCHITECTURE.md (left) and src/lib.rs (right)");
}

#[test]
fn documents_name_only_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut missing = BTreeSet::new();
    for document in
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "compat/README.md", "compat/conformance/README.md"]
    {
        let text = read(document);
        let folder = root.join(document).parent().unwrap().to_owned();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link);
        let quoted = text.split('`').skip(1).step_by(2).filter(|word| {
            ["src/", "schemas/", "fixtures/", "tests/", "compat/", "benches/", "scripts/"]
                .iter()
                .any(|folder| word.starts_with(folder))
                && !word.contains(['<', '*', ' '])
        });
        let linked = links
            .map(|link| link.split('#').next().unwrap_or_default())
            .filter(|link| !link.contains(':'))
            .map(|link| (link, folder.join(link)));
        for (name, path) in linked.chain(quoted.map(|name| (name, root.join(name)))) {
            if !path.exists() {
                missing.insert(format!("{document}: {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "not there: {missing:?}");
}

#[test]
fn the_pattern_of_the_readme_is_without_fault() {
    let readme = read("README.md");
    let text = readme.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let file = SourceFile {
        file: "docs.drafts.yaml".to_owned(),
        text: text.to_owned(),
        origin: Origin::Project("/project".into()),
    };
    let findings = lint(&[file]);
    assert_eq!((findings.errors, findings.warnings), (Vec::new(), Vec::new()));
}
