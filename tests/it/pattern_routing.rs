//! Which query runs which pattern, as data.

use std::{fs, path::Path};

use serde_json::Value;
use tmws::pattern::{
    Mode, Origin,
    library::Library,
    lint::{lint, read_files},
    router::Route,
    trust::Trust,
};

fn fixtures() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/routing")
}

/// The library of the routing fixtures. The built-in patterns are there too: with names and words of their own, they may
/// only come in as further candidates.
fn library() -> Library {
    let (files, unreadable) =
        read_files(&fixtures().join("patterns"), &Origin::User("fixtures".into())).expect("fixtures");
    assert_eq!(unreadable, []);
    Library::load(&files, &Trust::default())
}

fn describe(route: &Route) -> String {
    match route {
        Route::Run { pattern, inputs, by } => {
            format!("run {by} {} {}", pattern.name, Value::Object(inputs.clone()))
        }
        Route::Candidates(candidates) => {
            let mut words = vec!["ask".to_owned()];
            for candidate in candidates {
                words.push(candidate.pattern.name.clone());
                words.push(Value::Object(candidate.inputs.clone()).to_string());
                words.extend(candidate.missing.iter().map(|name| format!("!{name}")));
            }
            words.join(" ")
        }
    }
}

#[test]
fn queries_route_as_the_table_says() {
    let library = library();
    let own = library.report().errors.iter().filter(|error| error.file.contains("fixtures")).count();
    assert_eq!(own, 0, "{:?}", library.report().errors);
    let table = fs::read_to_string(fixtures().join("queries.tsv")).unwrap();
    let mut wrong = Vec::new();
    for row in table.lines().filter(|row| !row.starts_with('#')) {
        let [mode, query, expected] = row.split('\t').collect::<Vec<_>>()[..] else {
            panic!("three columns: {row}")
        };
        let mode = match mode {
            "fast" => Mode::Fast,
            "comprehensive" => Mode::Comprehensive,
            _ => Mode::Balanced,
        };
        let found = describe(&library.route(query, mode));
        // Candidates that the table does not name are further ones, by words.
        if !found.starts_with(expected) {
            wrong.push(format!("{query}\n  expected {expected}\n  got      {found}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn candidates_are_three_and_the_same_each_time() {
    let library = library();
    for query in [
        "commits code memory notes file repository",
        "list decisions",
        "find todo comments by owner",
        "zeta 1",
        "",
        "你好",
    ] {
        let Route::Candidates(candidates) = library.route(query, Mode::Balanced) else {
            panic!("{query} ran")
        };
        assert_eq!(candidates.len(), 3, "{query}");
        let again = library.route(query, Mode::Balanced);
        assert_eq!(describe(&Route::Candidates(candidates)), describe(&again));
    }
    let names: Vec<String> = library
        .find(Some("find todo comments by owner"), 2)
        .iter()
        .map(|pattern| pattern.name.clone())
        .collect();
    assert_eq!(names[0], "todo.sweep");
    assert_eq!(names.len(), 2);
}

#[test]
fn fixtures_and_built_in_patterns_lint_without_errors() {
    for folder in ["fixtures/routing/patterns", "fixtures/patterns/valid", "src/pattern/builtin"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let (files, unreadable) = read_files(&folder, &Origin::User("files".into())).unwrap();
        assert!(!files.is_empty() && unreadable.is_empty());
        for file in files {
            // One by one: together, files of one name would be an error.
            let findings = lint(std::slice::from_ref(&file));
            assert_eq!(findings.errors, [], "{}", file.file);
        }
    }
}
