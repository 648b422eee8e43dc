//! The parts of the documents that the code knows better: between `<!-- generated: NAME -->` and `<!-- /generated -->`.
//!
//! `scripts/docs` writes them; without it these tests say which part differs.

use std::{collections::BTreeSet, fs, path::Path, sync::LazyLock};

use serde_json::Value;
use tmws::{
    accept::{
        scenario::{Area, Better, FigureRow},
        table::SCENARIOS,
    },
    compose::Local,
    config::{Kind, SETTINGS, SettingRow, Sources, load, show_bytes, show_duration},
    engine::{ErrorKind, testing::run_tests},
    exit::Exit,
    metrics::FamilyKind,
    pattern::{
        Expression, Family, Origin, Pattern, STEPS, StepRow,
        library::{Library, SourceFile},
        lint::{absent_files, lint},
        loader,
    },
    revision::Revision,
    token_report::{self, Report},
    tool::ToolName,
};

use crate::sabotage;

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
    ("tokens", || token_report::summary(&REPORT)),
    ("tokens by task", || token_report::tasks(&REPORT, 5)),
    ("example docs.drafts", || example("docs.drafts")),
];

/// Of `docs/patterns.md`.
const PATTERNS: &[Part] = &[
    ("keys", || keys("")),
    ("keys of steps", || keys("steps")),
    ("keys of tests", || keys("tests")),
    ("permissions", permissions),
    ("steps", steps),
    ("values", values),
    ("functions", functions),
    ("example notes.page", || example("notes.page")),
    ("example lines.count", || example("lines.count")),
    ("example wiki.status", || example("wiki.status")),
    ("example release.note", || example("release.note")),
];

/// Of `docs/outside.md`.
const OUTSIDE: &[Part] = &[
    ("sources", || section("sources")),
    ("queries", || section("sources/queries")),
    ("servers", || section("servers")),
    ("tools", || section("servers/tools")),
    ("models", models),
];

/// Of `docs/acceptance.md`.
const ACCEPTANCE: &[Part] = &[("scenarios", scenarios), ("areas", areas), ("sabotages", sabotages)];

/// Of `docs/monitoring.md`.
const MONITORING: &[Part] = &[("figures", figures)];

/// Where the examples of the documents lie, with what their tests want.
const EXAMPLES: &str = "docs/examples";

/// Of `compat/tokens/README.md`.
const TOKENS: &[Part] = &[("token report", || token_report::markdown(&REPORT, 5))];

/// Measured once for both documents.
static REPORT: LazyLock<Report> = LazyLock::new(|| {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("compat/tokens");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(token_report::measure(&data)).unwrap()
});

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

fn schema(name: &str) -> Value {
    serde_json::from_str(&read(name)).unwrap()
}

/// What a schema says of a member, as one sentence or two.
fn said(schema: &Value) -> String {
    let parts: Vec<&str> = ["title", "description"].iter().filter_map(|key| schema[key].as_str()).collect();
    // Outside of code Markdown would take these for marks of its own.
    let joined = parts.join(": ");
    let pieces = joined.trim_end_matches('.').split('`').enumerate().map(|(index, piece)| {
        let is_code = index % 2 == 1;
        if is_code { piece.to_owned() } else { piece.replace('<', "&lt;").replace('*', "\\*") }
    });
    let mut text = pieces.collect::<Vec<_>>().join("`");
    let choices = schema["enum"].as_array().or_else(|| schema["items"]["enum"].as_array());
    if let Some(choices) = choices {
        let choices: Vec<String> = choices.iter().filter_map(Value::as_str).map(code).collect();
        text = format!("{text}; one of {}", choices.join(", "));
    }
    text
}

/// `schema`, or the definition that it refers to.
fn resolved<'a>(schema: &'a Value, document: &'a Value) -> &'a Value {
    match schema["$ref"].as_str().and_then(|place| place.strip_prefix('#')) {
        Some(place) => document.pointer(place).unwrap(),
        None => schema,
    }
}

/// Rows of the members of `object`, and of theirs: key, required ones in bold, and what it is.
fn rows_of(object: &Value, document: &Value, at: &str, leave_out: &[&str], rows: &mut Vec<Vec<String>>) {
    let required = object["required"].as_array().cloned().unwrap_or_default();
    for (name, member) in object["properties"].as_object().into_iter().flatten() {
        if leave_out.contains(&name.as_str()) {
            continue;
        }
        let inner = resolved(member, document);
        let text = if said(member).is_empty() { said(inner) } else { said(member) };
        let key = code(&format!("{at}{name}"));
        let key = if required.contains(&Value::from(name.as_str())) { format!("**{key}**") } else { key };
        if !text.is_empty() {
            rows.push(vec![key, text]);
        }
        rows_of(inner, document, &format!("{at}{name}."), &[], rows);
        rows_of(resolved(&inner["items"], document), document, &format!("{at}{name}[]."), leave_out, rows);
        let each = resolved(&inner["additionalProperties"], document);
        rows_of(each, document, &format!("{at}{name}.NAME."), leave_out, rows);
    }
}

/// The keys of a pattern file, or of one step or test in it.
fn keys(of: &str) -> String {
    let document = schema("schemas/pattern/v1.json");
    let (object, leave_out): (_, &[&str]) = match of {
        "steps" => (&document["$defs"]["step"], &["retry"]),
        "tests" => (&document["$defs"]["test"], &[]),
        _ => (&document, &["permissions", "steps", "tests"]),
    };
    let mut rows = Vec::new();
    rows_of(object, &document, "", leave_out, &mut rows);
    if of.is_empty() {
        for (name, text) in [
            ("permissions", "What the steps may touch: see [permissions](#permissions)"),
            ("steps", "What is done: see [steps](#steps)"),
            ("tests", "The pattern's own tests: see [tests](#tests)"),
        ] {
            let key = if name == "steps" { format!("**{}**", code(name)) } else { code(name) };
            rows.push(vec![key, text.to_owned()]);
        }
    }
    table(&["key", "is"], rows)
}

fn permissions() -> String {
    let document = schema("schemas/pattern/v1.json");
    let mut rows = Vec::new();
    rows_of(&document["$defs"]["permissions"], &document, "", &[], &mut rows);
    table(&["permission", "is for"], rows)
}

/// The permission that a step needs.
fn needs(row: &StepRow) -> &'static str {
    match row.family {
        Family::Memory => "`memory`",
        Family::Fs => "`fs.read`",
        Family::Git => "`git`",
        Family::Exec => "`exec`",
        Family::Http => "`http`",
        Family::Sql => "`sql`",
        Family::Mcp => "`mcp`",
        Family::Llm => "`llm`",
        Family::Server | Family::Data | Family::Control | Family::Session => "",
    }
}

fn steps() -> String {
    let rows = STEPS.iter().map(|row| {
        let required = row.required.iter().map(|name| format!("**{}**", code(name)));
        let optional = row.optional.iter().map(|name| code(name));
        let takes: Vec<String> = required.chain(optional).collect();
        vec![code(row.uses), row.summary.to_owned(), takes.join(", "), needs(row).to_owned()]
    });
    table(&["step", "does", "takes", "permission"], rows)
}

/// What each step gives, as the documentation of its code says.
fn values() -> String {
    let mut told: std::collections::BTreeMap<String, String> = std::collections::BTreeMap::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine/steps")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            for line in fs::read_to_string(&path).unwrap().lines() {
                let row = line.strip_prefix("//!").or_else(|| line.strip_prefix("///"));
                let Some((name, gives)) =
                    row.and_then(|row| row.trim().strip_prefix("| `")?.split_once("` | "))
                else {
                    continue;
                };
                if STEPS.iter().any(|step| step.uses == name) {
                    let gives = gives.trim_end_matches('|').trim();
                    let gives = gives.split_once("[`parse`](super::parse)").map_or(gives, |(said, _)| said);
                    let gives = gives.trim_end_matches([' ', ':']).replace("\\|", "|");
                    assert_eq!(told.insert(name.to_owned(), gives), None, "{name} is documented twice");
                }
            }
        }
    }
    let rows = STEPS.iter().map(|step| {
        let gives =
            told.get(step.uses).unwrap_or_else(|| panic!("what {} gives is not documented", step.uses));
        vec![code(step.uses), gives.clone()]
    });
    table(&["step", "gives"], rows)
}

fn functions() -> String {
    let mut names: Vec<String> = Vec::new();
    for (name, _) in Expression::functions() {
        let name = code(name);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    format!("{}\n", names.join(", "))
}

/// An example's file, as a block.
fn example(name: &str) -> String {
    format!("```yaml\n{}```\n", read(&format!("{EXAMPLES}/{name}.yaml")))
}

/// The keys of a table of the user's file, one entry of it.
fn section(path: &str) -> String {
    let document = schema("schemas/config/v1.json");
    let mut object = &document;
    for name in path.split('/') {
        object = &object["properties"][name]["additionalProperties"];
    }
    let rows = object["properties"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, member)| vec![code(name), said(member).trim_end_matches('.').to_owned()]);
    table(&["key", "is"], rows)
}

fn models() -> String {
    let rows = SETTINGS
        .iter()
        .filter(|row| row.key.starts_with("llm."))
        .map(|row| vec![code(row.key), row.summary.to_owned()]);
    table(&["setting", "meaning"], rows)
}

/// The figures of a server that has all that there can be.
fn figures() -> String {
    let folder = tempfile::tempdir().unwrap();
    let sources = Sources {
        environment: [("HOME".to_owned(), folder.path().into())].into(),
        working_directory: folder.path().into(),
        flags: [("telemetry.otlp", "http://127.0.0.1:1"), ("redis_url", "redis://127.0.0.1:1")]
            .map(|(key, value)| ("--setting".to_owned(), key.to_owned(), value.into()))
            .into(),
        ..Sources::default()
    };
    let config = load(&sources).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut known = runtime.block_on(async { tmws::serve::known_figures(&config).unwrap() });
    known.sort_by(|a, b| a.name.cmp(&b.name));
    let rows = known.into_iter().map(|family| {
        let (name, kind) = match family.kind {
            FamilyKind::Counter => (format!("{}_total", family.name), "counter"),
            FamilyKind::Info => (format!("{}_info", family.name), "gauge"),
            FamilyKind::Gauge => (family.name, "gauge"),
            FamilyKind::Histogram => (family.name, "histogram"),
        };
        vec![code(&name), kind.to_owned(), family.help.to_owned()]
    });
    table(&["figure", "kind", "says"], rows)
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

/// The scenarios of `tmws accept`, with their figures and thresholds.
fn scenarios() -> String {
    let threshold = |figure: &FigureRow| {
        let sign = match figure.better {
            Better::Less => "≤",
            Better::More => "≥",
        };
        let unit = if figure.unit.is_empty() { String::new() } else { format!(" {}", figure.unit) };
        match (figure.target, figure.critical) {
            (Some(target), Some(critical)) if (target - critical).abs() > 0.0 => {
                format!("`{}` {sign} {target} / {critical}{unit}", figure.name)
            }
            (Some(target), _) => format!("`{}` {sign} {target}{unit}", figure.name),
            _ => format!("`{}`, printed", figure.name),
        }
    };
    let rows = SCENARIOS.iter().map(|row| {
        let figures: Vec<String> = row.figures.iter().map(threshold).collect();
        let mut needs: Vec<&str> = row.needs.iter().map(|need| need.name()).collect();
        needs.extend(row.is_vital.then_some("vital"));
        needs.extend(row.is_of_any_server.then_some("any server"));
        needs.extend(row.is_full_only.then_some("full only"));
        let said = format!("{}: {}", row.title, row.what);
        vec![row.id.to_owned(), said, row.area.name().to_owned(), figures.join("; "), needs.join(", ")]
    });
    table(&["id", "scenario", "area", "figures: target / critical", "needs"], rows)
}

/// Whom to call first.
fn areas() -> String {
    let rows = Area::ALL.iter().map(|area| vec![area.name().to_owned(), area.call_first().to_owned()]);
    table(&["area", "call first"], rows)
}

/// What each scenario is made to fail by.
fn sabotages() -> String {
    let rows = sabotage::rows().into_iter().map(|row| {
        let scenario = SCENARIOS.iter().find(|scenario| scenario.id == row.id).unwrap();
        let said = |&red: &&str| if scenario.figure(red).is_some() { code(red) } else { red.to_owned() };
        let red: Vec<String> = row.red.iter().map(said).collect();
        vec![row.id.to_owned(), row.how.to_owned(), red.join("; ")]
    });
    table(&["id", "what is made wrong", "what is red by it"], rows)
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

/// Of `docs/routing.md`.
const ROUTING: &[Part] = &[("routing", crate::routing_labels::table)];

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

#[test]
fn generated_parts_of_the_readme_say_what_the_code_says() {
    check("README.md", README);
}

#[test]
fn generated_parts_of_the_handbook_of_patterns_say_what_the_code_says() {
    check("docs/patterns.md", PATTERNS);
}

#[test]
fn generated_parts_about_the_outside_say_what_the_code_says() {
    check("docs/outside.md", OUTSIDE);
}

#[test]
fn generated_table_of_scenarios_is_the_one_that_runs() {
    check("docs/acceptance.md", ACCEPTANCE);
}

#[test]
fn generated_table_of_figures_names_what_a_server_tells() {
    check("docs/monitoring.md", MONITORING);
}

#[test]
fn generated_table_of_labelled_questions_is_the_measured_one() {
    check("docs/routing.md", ROUTING);
}

fn check(document: &str, parts: &[Part]) {
    let found = read(document);
    let wanted = filled(&found, parts);
    let marks = found.matches("<!-- generated: ").count();
    assert_eq!(marks, parts.len(), "{document} has a generated part that nothing generates");
    if std::env::var_os(WRITE).is_some() {
        fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join(document), wanted).unwrap();
        return;
    }
    let differs = found.lines().zip(wanted.lines()).position(|(found, wanted)| found != wanted);
    if let Some(line) = differs.or((found != wanted).then_some(wanted.lines().count())) {
        panic!(
            "{document}:{}: a generated part is not what the code says; run scripts/docs\n  found:  {}\n  wanted: {}",
            line + 1,
            found.lines().nth(line).unwrap_or(""),
            wanted.lines().nth(line).unwrap_or("")
        );
    }
}

#[test]
fn generated_parts_of_the_token_report_say_what_was_measured() {
    check("compat/tokens/README.md", TOKENS);
}

#[test]
fn the_token_report_passes_its_gate() {
    let missed: Vec<String> = REPORT.failures().into_iter().map(|miss| miss.text).collect();
    assert!(missed.is_empty(), "{missed:#?}");
}

/// Figures of savings stand in generated parts alone.
#[test]
fn no_share_of_tokens_is_typed_by_hand() {
    let share = regex::Regex::new(r"\d\s?(?:%|per ?cent)").unwrap();
    for name in ["README.md", "compat/tokens/README.md"] {
        let text = read(name);
        let written =
            text.split("<!-- generated: ").map(|part| match part.split_once("<!-- /generated -->") {
                Some((_, after)) => after,
                None => part,
            });
        for line in written.flat_map(str::lines).filter(|line| line.contains("token")) {
            assert!(!share.is_match(line), "{name}: {line}");
        }
    }
}

#[test]
fn the_changelog_counts_the_built_in_patterns() {
    let count = format!("\n- {} built-in patterns:", Library::built_in().all().len());
    assert!(read("CHANGELOG.md").contains(&count), "CHANGELOG.md does not say {count:?}");
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
        .filter_map(|line| {
            Some(
                line.strip_prefix("pub ")
                    .unwrap_or(line)
                    .strip_prefix("mod ")?
                    .trim_end_matches(';')
                    .to_owned(),
            )
        })
        .chain(["main".to_owned()])
        .collect();
    assert_eq!(named, modules, "the code map of ARCHITECTURE.md (left) and src/lib.rs (right)");
}

#[test]
fn documents_name_only_files_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut missing = BTreeSet::new();
    for document in [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "docs/acceptance.md",
        "docs/memory.md",
        "docs/outside.md",
        "docs/patterns.md",
        "docs/routing.md",
        "compat/README.md",
        "compat/conformance/README.md",
        "compat/tokens/README.md",
    ] {
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

/// The blocks of `document` in `language`, each with its line.
fn blocks(document: &str, language: &str) -> Vec<(usize, String)> {
    let text = read(document);
    let open = format!("```{language}\n");
    text.match_indices(&open)
        .map(|(at, _)| {
            let block = text[at + open.len()..].split("```").next().unwrap().to_owned();
            (text[..at].lines().count() + 2, block)
        })
        .collect()
}

/// Documents for users. Each block of YAML in them is a pattern, each of TOML a `tmws.toml`.
const FOR_USERS: &[&str] =
    &["README.md", "docs/memory.md", "docs/outside.md", "docs/patterns.md", "docs/routing.md"];

#[tokio::test]
async fn each_example_of_a_pattern_is_without_fault_and_passes_its_tests() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(EXAMPLES);
    let mut files: Vec<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    let texts: BTreeSet<String> = files.iter().map(|name| read(&format!("{EXAMPLES}/{name}"))).collect();
    for document in FOR_USERS {
        for (line, block) in blocks(document, "yaml") {
            assert!(texts.contains(&block), "{document}:{line}: this is no file of {EXAMPLES}");
        }
    }
    let origin = Origin::User(folder.clone());
    for name in files {
        let (file, text) =
            (folder.join(&name).to_string_lossy().into_owned(), read(&format!("{EXAMPLES}/{name}")));
        let source = SourceFile { file: file.clone(), text: text.clone(), origin: origin.clone() };
        let findings = lint(std::slice::from_ref(&source));
        assert_eq!((findings.errors, findings.warnings), (Vec::new(), Vec::new()), "{name}");
        assert_eq!(absent_files(&[source]), [], "{name}");
        let pattern = loader::load(&file, &text, origin.clone()).unwrap().pattern;
        let ended = run_tests(&pattern, &Local::test_scope(), Some(&folder)).await;
        assert!(!ended.is_empty(), "{name} has no tests");
        for outcome in ended {
            assert_eq!(outcome.failure, None, "{name}: {}", outcome.name);
        }
    }
}

#[test]
fn each_example_of_a_configuration_is_one() {
    let folder = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for document in FOR_USERS {
        for (line, block) in blocks(document, "toml") {
            let file = folder.path().join(format!("{seen}.toml"));
            fs::write(&file, block).unwrap();
            let sources = Sources {
                environment: [("HOME".to_owned(), "/home/ada".into())].into(),
                working_directory: folder.path().to_owned(),
                file: Some(file),
                ..Sources::default()
            };
            if let Err(error) = load(&sources) {
                panic!("{document}:{line}: {error}");
            }
            seen += 1;
        }
    }
    assert!(seen > 0);
}
