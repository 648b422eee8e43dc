//! The built-in patterns' own tests.

use std::{collections::BTreeSet, path::Path};

use tmws::{
    engine::testing::run_tests,
    pattern::{Auto, BUILTINS, Origin, TestSpec, loader::load},
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

/// The library as the design names it.
const LIBRARY: [&str; 24] = [
    "build.digest",
    "build.run",
    "code.find",
    "code.outline",
    "db.ask",
    "db.describe",
    "diff.review",
    "log.digest",
    "mcp.fanout",
    "memory.by-tag",
    "memory.forget",
    "memory.handoff",
    "memory.recall",
    "memory.remember",
    "memory.timeline",
    "project.health",
    "repo.digest",
    "session.close",
    "session.open",
    "session.primer",
    "test.digest",
    "test.run",
    "tmws.stats",
    "todo.sweep",
];
/// What answers from its own process alone, where a fixture would pin nothing.
const OF_ITSELF: [&str; 3] = ["session.open", "session.close", "tmws.stats"];
/// What changes or executes something; a question never runs it.
const EFFECTFUL: [&str; 5] = ["build.run", "memory.forget", "memory.handoff", "memory.remember", "test.run"];

#[test]
fn the_library_is_whole_and_each_pattern_pins_what_its_answer_tells() {
    let loaded: Vec<_> = BUILTINS
        .iter()
        .map(|(file, text)| {
            load(file, text, Origin::BuiltIn).unwrap_or_else(|errors| panic!("{errors:?}")).pattern
        })
        .collect();
    let known: BTreeSet<&str> = loaded.iter().map(|pattern| pattern.name.as_str()).collect();
    for name in LIBRARY {
        assert!(known.contains(name), "{name} is not built in");
    }
    for pattern in &loaded {
        let name = pattern.name.as_str();
        let triggers = &pattern.triggers;
        assert!(triggers.match_examples.len() >= 3, "{name}: examples that match");
        assert!(triggers.no_match_examples.len() >= 3, "{name}: examples that do not");
        let pinned = |test: &TestSpec| {
            test.fixture.is_some()
                || test.memories.is_some()
                || test.servers.is_some()
                || !test.sources.is_empty()
        };
        assert!(
            pattern.tests.iter().any(|test| {
                (pinned(test) || OF_ITSELF.contains(&name))
                    && test.expect_jq.is_some()
                    && test.expect_max_tokens.is_some()
            }),
            "{name}: no test holds facts and tokens of an answer about a fixture"
        );
        assert!(
            pattern
                .tests
                .iter()
                .filter_map(|test| test.expect_max_tokens)
                .all(|most| most <= pattern.output.budget_tokens),
            "{name}: a test allows more than the budget"
        );
        if EFFECTFUL.contains(&name) {
            assert_eq!(triggers.auto, Auto::Never, "{name} would be run by a question");
        }
    }
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
