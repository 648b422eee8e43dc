//! The built-in patterns' own tests.

use std::{collections::BTreeSet, path::Path};

use tmws::{
    engine::testing::run_tests,
    pattern::{BUILTINS, Origin, loader::load},
};

use super::support::scope_of;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_built_in_pattern_passes_its_own_tests() {
    let mut failures = Vec::new();
    for (file, text) in BUILTINS {
        let pattern = match load(file, text, Origin::BuiltIn) {
            Ok(loaded) => loaded.pattern,
            Err(errors) => {
                failures.extend(errors.iter().map(ToString::to_string));
                continue;
            }
        };
        assert_eq!(*file, format!("{}.yaml", pattern.name));
        assert!(pattern.tests.len() >= 2, "{file}");
        assert!(pattern.triggers.match_examples.len() >= 3, "{file}");
        assert!(pattern.triggers.no_match_examples.len() >= 3, "{file}");
        for outcome in run_tests(&pattern, &scope_of("test"), None).await {
            if let Some(failure) = outcome.failure {
                failures.push(format!("{file}, {}: {failure}", outcome.name));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
#[test]
fn every_file_of_the_folder_is_built_in() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/pattern/builtin");
    let files: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let known: BTreeSet<String> = BUILTINS.iter().map(|(file, _)| (*file).to_owned()).collect();
    assert_eq!(files, known);
}
