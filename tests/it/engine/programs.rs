//! `test.run` and `build.run` on small projects, with the real tools; and who may not run them.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};
use tmws::{
    engine::{Caller, EngineError, ErrorKind, ExecuteRequest},
    pattern::{Effect, Mode, library::Library, router::Route},
};

use super::support::{Bench, built_in, request, value};

/// A bench whose workspace holds `files`.
async fn project(files: &[(&str, &str)]) -> Bench {
    let bench = Bench::with(vec![built_in("test.run"), built_in("build.run")]).await;
    for (name, text) in files {
        let path: PathBuf = bench.folder.path().join("work").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    bench
}

async fn run(bench: &Bench, name: &str, input: Value) -> Result<Value, EngineError> {
    let request = ExecuteRequest { caller: Caller::Trusted, ..request(name, input) };
    bench.call(request).await.map(|execution| value(&execution).clone())
}

const CARGO: &[(&str, &str)] = &[
    ("Cargo.toml", "[package]\nname = \"tide\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[workspace]\n"),
    (
        "src/lib.rs",
        "pub fn depth(metres: u32) -> u32 {\n    let unused = 1;\n    metres + 1\n}\n\n#[test]\nfn rises() {\n    assert_eq!(depth(1), 2);\n}\n\n#[test]\nfn falls() {\n    assert_eq!(depth(3), 3, \"low water\");\n}\n",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cargo_project_is_tested_and_built() {
    let bench = project(CARGO).await;
    let tested = run(&bench, "test.run", json!({})).await.unwrap();
    assert_eq!(
        (&tested["tool"], &tested["ok"], &tested["exit"], &tested["passed"], &tested["failed"]),
        (&json!("cargo"), &json!(false), &json!(101), &json!(1), &json!(1)),
        "{tested}"
    );
    let failure = &tested["failures"][0];
    assert_eq!(
        (&failure["name"], &failure["file"], &failure["line"]),
        (&json!("falls"), &json!("src/lib.rs"), &json!(13)),
        "{tested}"
    );
    assert!(failure.to_string().contains("low water"), "{tested}");
    let some = run(&bench, "test.run", json!({"filter": "rises"})).await.unwrap();
    assert_eq!(
        (&some["ok"], &some["passed"], &some["failed"]),
        (&json!(true), &json!(1), &json!(0)),
        "{some}"
    );
    let built = run(&bench, "build.run", json!({})).await.unwrap();
    assert_eq!(
        (&built["tool"], &built["ok"], &built["errors"], &built["warnings"]),
        (&json!("cargo"), &json!(true), &json!(0), &json!(1)),
        "{built}"
    );
    assert!(
        built["diagnostics"][0]["file"] == "src/lib.rs" && built["diagnostics"][0]["line"] == 2,
        "{built}"
    );
    fs::write(bench.folder.path().join("work/src/lib.rs"), "pub fn depth() -> u32 {\n    \"deep\"\n}\n")
        .unwrap();
    let built = run(&bench, "build.run", json!({})).await.unwrap();
    assert_eq!((&built["ok"], &built["errors"]), (&json!(false), &json!(1)), "{built}");
    assert_eq!(built["diagnostics"][0]["code"], "E0308", "{built}");
    // Tests that do not build have failed, and say why.
    let tested = run(&bench, "test.run", json!({})).await.unwrap();
    assert_eq!((&tested["ok"], &tested["exit"]), (&json!(false), &json!(101)), "{tested}");
    assert!(tested.to_string().contains("mismatched types"), "{tested}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_python_project_is_tested() {
    let tests = "import unittest\n\n\nclass Tide(unittest.TestCase):\n    def test_rises(self):\n        self.assertEqual(1 + 1, 2)\n\n    def test_falls(self):\n        self.assertEqual(3, 4, 'low water')\n";
    let bench = project(&[("tests/test_tide.py", tests)]).await;
    let tested = run(&bench, "test.run", json!({})).await.unwrap();
    assert_eq!(
        (&tested["tool"], &tested["ok"], &tested["exit"], &tested["failed"]),
        (&json!("unittest"), &json!(false), &json!(1), &json!(1)),
        "{tested}"
    );
    assert!(tested["failures"][0].to_string().contains("low water"), "{tested}");
    let some = run(&bench, "test.run", json!({"filter": "rises"})).await.unwrap();
    assert_eq!((&some["ok"], &some["failed"]), (&json!(true), &json!(0)), "{some}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tests_of_python_are_found_at_the_root_too() {
    let test = |name: &str| {
        format!(
            "import unittest\n\n\nclass {name}(unittest.TestCase):\n    def test_{name}(self):\n        self.assertEqual(1 + 1, 2)\n"
        )
    };
    let (rises, falls) = (test("rises"), test("falls"));
    for (files, passed) in [
        (vec![("test_tide.py", rises.as_str())], 1),
        (vec![("test_tide.py", &rises), ("tests/__init__.py", ""), ("tests/test_ebb.py", &falls)], 2),
        (vec![("setup.py", "import unittest\n"), ("tests/test_ebb.py", &falls)], 1),
    ] {
        let bench = project(&files).await;
        let tested = run(&bench, "test.run", json!({})).await.unwrap();
        assert_eq!(
            (&tested["tool"], &tested["ok"], &tested["passed"], &tested["failed"]),
            (&json!("unittest"), &json!(true), &json!(passed), &json!(0)),
            "{files:?}: {tested}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_makefile_is_enough_and_output_that_nobody_knows_is_shown() {
    let makefile = "all:\n\t@echo linking harbour\n\t@exit 4\n\ntest:\n\t@echo all is well\n";
    let bench = project(&[("Makefile", makefile)]).await;
    let tested = run(&bench, "test.run", json!({})).await.unwrap();
    assert_eq!(
        tested,
        json!({"tool": "make", "ok": true, "exit": 0, "failures": [], "tail": ["all is well"]})
    );
    let built = run(&bench, "build.run", json!({})).await.unwrap();
    assert_eq!(
        (&built["ok"], &built["exit"], &built["tail"][0]),
        (&json!(false), &json!(2), &json!("linking harbour")),
        "{built}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tool_of_several_can_be_chosen_and_one_that_is_missing_is_named() {
    let mut files = CARGO.to_vec();
    files.push(("Makefile", "test:\n\t@echo ok\n"));
    let bench = project(&files).await;
    let tested = run(&bench, "test.run", json!({"tool": "make"})).await.unwrap();
    assert_eq!((&tested["tool"], &tested["others"]), (&json!("make"), &json!(["cargo"])), "{tested}");
    let error = run(&bench, "test.run", json!({"tool": "make", "filter": "x"})).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidInput, "{error}");
    let bench = project(&[(
        "package.json",
        "{\"scripts\": {\"test\": \"echo \\\"Error: no test specified\\\" && exit 1\"}}",
    )])
    .await;
    let error = run(&bench, "test.run", json!({})).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
}

#[tokio::test]
async fn a_model_neither_runs_them_by_name_nor_by_a_query() {
    let bench = project(CARGO).await;
    for name in ["test.run", "build.run"] {
        assert_eq!(built_in(name).effect, Effect::Executes);
        let error = bench.run(name, json!({})).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    }
    assert!(!bench.folder.path().join("work/target").exists());
    let library = Library::built_in();
    for query in ["run the tests", "run the build", "execute the tests", "compile the project", "test.run"] {
        for mode in [Mode::Fast, Mode::Balanced, Mode::Comprehensive] {
            match library.route(query, mode) {
                Route::Candidates(_) => {}
                other @ Route::Run { .. } => panic!("{query}: {other:?}"),
            }
        }
    }
}
