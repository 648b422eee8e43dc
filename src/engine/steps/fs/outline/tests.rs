use std::{fmt::Write as _, path::Path};

use super::symbols::symbols;

fn outline(name: &str, text: &str) -> String {
    let (_, found) = symbols(Path::new(name), text).unwrap();
    let mut out = String::new();
    for symbol in found {
        writeln!(out, "{}{} {}", "  ".repeat(symbol.depth), symbol.line, symbol.signature).unwrap();
    }
    out
}

/// Each folder of `fixtures/outlines` has sources; beside each the outline that is right, read by a person.
#[test]
fn sources_of_many_languages_have_the_outlines_noted_beside_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/outlines");
    let mut n = 0;
    for entry in std::fs::read_dir(&root).unwrap().filter_map(Result::ok) {
        let path = entry.path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(".outline") || name == "README.md" {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let expected = std::fs::read_to_string(root.join(format!("{name}.outline"))).unwrap();
        assert_eq!(outline(&name, &text), expected, "{name}");
        n += 1;
    }
    assert!(n >= 10, "{n} sources");
}

/// What the compiler says of this package's own sources is what the scan finds: every function of this crate's parser.
#[test]
fn every_item_of_this_packages_own_sources_is_found() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![source];
    let (mut files, mut missed) = (0, Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().filter_map(Result::ok) {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            if path.extension().is_none_or(|ending| ending != "rs") {
                continue;
            }
            files += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            let (_, found) = symbols(&path, &text).unwrap();
            let bare = found.iter().find(|symbol| !symbol.signature.contains(&symbol.name));
            assert!(bare.is_none(), "{}: {bare:?}", path.display());
            // rustfmt has it that items of a file begin at the margin, and nothing else that looks like one does.
            let mut within = false;
            for (index, line) in text.lines().enumerate() {
                let words = line
                    .trim_start_matches("pub ")
                    .trim_start_matches("pub(super) ")
                    .trim_start_matches("pub(crate) ");
                let item = [
                    "fn ",
                    "struct ",
                    "enum ",
                    "trait ",
                    "impl ",
                    "impl<",
                    "const fn ",
                    "async fn ",
                    "static ",
                    "mod ",
                ]
                .iter()
                .any(|word| words.starts_with(word));
                within |= line.contains("macro_rules!") || line.contains("r#\"") || line.contains("\"\\");
                if item && !within && !found.iter().any(|symbol| symbol.line == index + 1) {
                    missed.push(format!("{}:{}: {line}", path.display(), index + 1));
                }
                within &= !(line == "}" || line.ends_with("\"#;") || line.ends_with("\";"));
            }
        }
    }
    assert!(files > 100, "{files}");
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}

mod no_text_makes_it_panic {
    use proptest::prelude::*;

    use super::*;

    const PIECES: &[&str] = &[
        "fn a(",
        ") {",
        "}\n",
        "{",
        "\"",
        "'",
        "`",
        "${",
        "/*",
        "*/",
        "//",
        "r#\"",
        "\"#",
        "\n",
        "  ",
        "class A",
        "def b(",
        ":",
        "\"\"\"",
        "'''",
        "/",
        "\\",
        "impl X for Y",
        "func (s *S) F()",
        "type A = ",
        ";",
        "=>",
        "const f = (",
        "é",
        "日",
        "#define A(",
        "create table a (",
        "# ",
        "```",
        "function a()",
        "\r\n",
        "<",
        ">",
    ];

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn pieces_of_sources_in_any_order(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..60)) {
            let text = pieces.concat();
            for ending in ["rs", "py", "ts", "go", "c", "h", "java", "rb", "sh", "sql", "md"] {
                symbols(Path::new(&format!("a.{ending}")), &text);
            }
        }
    }
}

/// Long signatures, what never closes, and characters of several bytes wherever a bound may fall.
#[test]
fn no_text_breaks_the_scan() {
    let names = [
        "a.rs", "a.py", "a.js", "a.ts", "a.go", "a.c", "a.hpp", "a.java", "a.kt", "a.cs", "a.rb", "a.sh",
        "a.sql", "a.md",
    ];
    let heads = [
        "fn f(",
        "def f(",
        "function f(",
        "func f(",
        "int f(",
        "class A(",
        "create table t(",
        "f() {",
        "# f",
    ];
    let tails = [
        "é",
        "𝄞",
        "\\",
        "/*é",
        "`${é",
        "\"é",
        "'é",
        "r#\"é",
        "/[é",
        "\"\"\"é",
        "({é",
        "}",
        "<<é\n",
        "\r\n\u{0}é",
    ];
    for name in names {
        for head in heads {
            for tail in tails {
                for shift in 0..4 {
                    let text = format!("{head}{}{}", " ".repeat(shift), tail.repeat(1_900 / tail.len()));
                    let (_, found) = symbols(Path::new(name), &text).unwrap();
                    assert!(
                        found.iter().all(|symbol| symbol.line <= text.lines().count()),
                        "{name}: {head}{tail}"
                    );
                }
            }
        }
    }
}
