//! The built-in patterns that read files and repositories: their own tests, and what they cost.

use std::sync::Arc;

use tmws::{
    engine::testing::run_tests,
    pattern::{BUILTINS, Mode, Origin, library::Library, loader::load, router::Route},
    scope::{ProjectId, Scope},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patterns_over_files_and_repositories_pass_their_own_tests() {
    let scope = Scope::mint(ProjectId::parse("test").unwrap(), "local", "default", None);
    let mut failures = Vec::new();
    for name in
        ["repo.digest", "code.find", "todo.sweep", "session.primer", "db.describe", "db.ask", "tmws.stats"]
    {
        let file = format!("{name}.yaml");
        let (_, text) = BUILTINS.iter().find(|(known, _)| *known == file).unwrap();
        let pattern = match load(&file, text, Origin::BuiltIn) {
            Ok(loaded) => Arc::new(Arc::unwrap_or_clone(loaded.pattern)),
            Err(errors) => {
                failures.push(format!("{name}: {errors:#?}"));
                continue;
            }
        };
        assert!(
            pattern.triggers.match_examples.len() >= 3 && pattern.triggers.no_match_examples.len() >= 3,
            "{name}"
        );
        for outcome in run_tests(&pattern, &scope, None).await {
            if let Some(failure) = outcome.failure {
                failures.push(format!("{name}, {}: {failure}", outcome.name));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn queries_reach_the_patterns_over_files_and_repositories_with_their_inputs() {
    let library = Library::built_in();
    assert!(library.report().errors.is_empty(), "{:#?}", library.report().errors);
    for (query, name, input) in [
        ("what changed in the last 14d?", "repo.digest", r#"{"since":"14d"}"#),
        ("catch me up", "repo.digest", "{}"),
        ("where is TideTable defined?", "code.find", r#"{"text":"TideTable"}"#),
        ("grep the code for listening", "code.find", r#"{"text":"listening"}"#),
        ("list todos", "todo.sweep", "{}"),
        ("where were we?", "session.primer", "{}"),
        ("describe table orders", "db.describe", r#"{"tables":"orders"}"#),
        ("run the query open_orders", "db.ask", r#"{"name":"open_orders"}"#),
        ("tmws stats", "tmws.stats", "{}"),
    ] {
        match library.route(query, Mode::Balanced) {
            Route::Run { pattern, inputs: found, .. } => {
                assert_eq!(
                    (pattern.name.as_str(), serde_json::to_string(&found).unwrap().as_str()),
                    (name, input)
                );
            }
            other @ Route::Candidates(_) => panic!("{query}: {other:?}"),
        }
    }
}
