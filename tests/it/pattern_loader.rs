//! Pattern files: what loads, and what is refused where and why.

use std::path::Path;

use proptest::prelude::*;
use tmws::pattern::{
    BUILTINS, Effect, Origin, PatternKind,
    lint::read_files,
    loader::{LoadError, load},
};

fn files(folder: &str) -> Vec<(String, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/patterns").join(folder);
    let mut files: Vec<_> = read_files(&folder, &Origin::User("patterns".into()))
        .expect("readable fixtures")
        .0
        .into_iter()
        .map(|file| (file.file.rsplit('/').next().unwrap_or_default().to_owned(), file.text))
        .collect();
    files.sort();
    files
}

fn lines(errors: &[LoadError]) -> String {
    errors.iter().map(|error| ["\n  ".to_owned(), error.to_string()].concat()).collect()
}

#[test]
fn every_valid_file_loads() {
    let files = files("valid");
    assert!(files.len() >= 4);
    for (file, text) in files {
        if let Err(errors) = load(&file, &text, Origin::User("patterns".into())) {
            panic!("{file}:{}", lines(&errors));
        }
    }
}

#[test]
fn every_built_in_loads_and_is_named_as_its_file() {
    for (file, text) in BUILTINS {
        match load(file, text, Origin::BuiltIn) {
            Ok(loaded) => assert_eq!(format!("{}.yaml", loaded.pattern.name), *file),
            Err(errors) => panic!("{file}:{}", lines(&errors)),
        }
    }
}

#[test]
fn the_example_of_the_design_means_what_it_says() {
    let (file, text) = files("valid").into_iter().find(|(file, _)| file == "repo.digest.yaml").unwrap();
    let pattern = load(&file, &text, Origin::BuiltIn).unwrap().pattern;
    assert_eq!(pattern.kind, PatternKind::Hybrid);
    assert_eq!(pattern.effect, Effect::ReadOnly);
    assert_eq!(pattern.permissions.fs_read, ["root"]);
    assert_eq!(pattern.permissions.git, ["status", "log"]);
    assert_eq!(pattern.limits.timeout.as_millis(), 400);
    assert_eq!(pattern.limits.max_bytes, 2 << 20);
    assert_eq!(pattern.steps[2].needs, ["log"]);
    assert_eq!(pattern.output.shrink.len(), 2);
    assert_eq!(pattern.hash.len(), 64);
}

#[test]
fn every_invalid_file_is_refused_where_and_why_it_says() {
    let files = files("invalid");
    assert!(files.len() >= 40, "{}", files.len());
    let mut wrong = Vec::new();
    for (file, text) in files {
        let expected =
            text.lines().next().unwrap().strip_prefix("# ").expect("a first line `# line:column: message`");
        let (place, message) = expected.split_once(": ").expect("line:column: message");
        match load(&file, &text, Origin::User("patterns".into())) {
            Ok(_) => wrong.push(format!("{file} loads; expected {expected}")),
            Err(errors) => {
                let found = errors.iter().any(|error| {
                    format!("{}:{}", error.line, error.column) == place && error.to_string().contains(message)
                });
                if !found {
                    wrong.push(format!("expected {expected}, got{}", lines(&errors)));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happens to a file on its way, loading it answers.
    #[test]
    fn no_damaged_file_panics_the_loader(
        file in 0_usize..8,
        cuts in proptest::collection::vec((0_usize..3_000, 0_usize..40, ".{0,6}"), 1..4),
        swap in (0_usize..60, 0_usize..60),
    ) {
        let files = [files("valid"), files("invalid")].concat();
        let mut text = files[file * 7 % files.len()].1.clone();
        for (at, length, insert) in cuts {
            let chars: Vec<char> = text.chars().collect();
            let at = at % (chars.len() + 1);
            let end = (at + length).min(chars.len());
            text = chars[..at].iter().chain(insert.chars().collect::<Vec<_>>().iter()).chain(&chars[end..]).collect();
        }
        let mut lines: Vec<&str> = text.lines().collect();
        if !lines.is_empty() {
            let count = lines.len();
            lines.swap(swap.0 % count, swap.1 % count);
        }
        let _ = load("damaged.yaml", &lines.join("\n"), Origin::BuiltIn);
    }
}
