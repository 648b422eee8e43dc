//! `fs.*` steps on real folders: what they give, and what they never give.

use std::{fs, os::unix::fs::symlink, time::Instant};

use proptest::prelude::*;
use serde_json::{Value, json};
use tmws::engine::{ErrorKind, steps::fs as fs_steps};

use crate::steps_support::{Folder, with_root};

const CANARY: &str = "canary-7f3a";

#[tokio::test]
async fn lines_are_read_with_offset_and_limit() {
    let folder = Folder::new();
    folder.write("a.txt", "one\ntwo\r\nthree\nfour\n");
    let read = |with: Value| folder.fs("fs.read", with);
    assert_eq!(
        read(json!({"path": "a.txt"})).await.unwrap(),
        json!({"path": "a.txt", "from": 1, "to": 4, "bytes": 20, "text": "one\ntwo\r\nthree\nfour", "truncated": false})
    );
    assert_eq!(
        read(json!({"path": "./a.txt", "offset": 2, "limit": 1})).await.unwrap(),
        json!({"path": "a.txt", "from": 2, "to": 2, "bytes": 20, "text": "two", "truncated": true, "next": 3})
    );
    assert_eq!(
        read(json!({"path": "a.txt", "offset": 4, "limit": 1})).await.unwrap(),
        json!({"path": "a.txt", "from": 4, "to": 4, "bytes": 20, "text": "four", "truncated": false})
    );
    assert_eq!(read(json!({"path": "a.txt", "offset": 9})).await.unwrap()["text"], "");
    assert_eq!(read(json!({"path": "b.txt"})).await.unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(read(json!({"path": "."})).await.unwrap_err().kind, ErrorKind::InvalidInput);
}

#[tokio::test]
async fn binary_lossy_and_long_files_say_what_they_are() {
    let folder = Folder::new();
    folder.write("b.bin", b"ab\0cd").write("l.txt", b"caf\xe9\n").write("long.txt", "x".repeat(3 << 20));
    folder.write("empty", "");
    let read = |path: &'static str| folder.fs("fs.read", json!({"path": path}));
    let binary = read("b.bin").await.unwrap();
    assert_eq!((&binary["binary"], &binary["text"]), (&json!(true), &json!("")));
    let lossy = read("l.txt").await.unwrap();
    assert_eq!((&lossy["lossy"], &lossy["text"]), (&json!(true), &json!("caf\u{fffd}")));
    let long = read("long.txt").await.unwrap();
    assert_eq!((&long["truncated"], long["text"].as_str().unwrap().len()), (&json!(true), 512 << 10));
    let empty = read("empty").await.unwrap();
    assert_eq!((&empty["text"], &empty["truncated"]), (&json!(""), &json!(false)));
    let mut context = folder.context();
    context.bytes_max = 10;
    let small =
        fs_steps::run("fs.read", &context, &with_root("root", json!({"path": "long.txt"}))).await.unwrap();
    assert_eq!(small.value["text"], "xxxxxxxxxx");
}

#[tokio::test]
async fn an_outline_names_every_file_even_where_its_symbols_no_longer_fit() {
    let folder = Folder::new();
    folder.write("a.py", "class A:\n    def one(self):\n        pass\n\ndef two():\n    pass\n");
    folder.write("b.py", "def three():\n    pass\n");
    let names = |outline: &Value| -> Vec<(String, Vec<String>)> {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let symbols =
            |file: &Value| file["symbols"].as_array().unwrap().iter().map(|one| text(&one["name"])).collect();
        outline["files"].as_array().unwrap().iter().map(|file| (text(&file["path"]), symbols(file))).collect()
    };
    let expected = |a: &[&str], b: &[&str]| {
        [("a.py", a), ("b.py", b)]
            .map(|(path, names)| {
                (path.to_owned(), names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>())
            })
            .to_vec()
    };
    let outline = folder.fs("fs.outline", json!({"depth": 0})).await.unwrap();
    assert_eq!(names(&outline), expected(&["A", "two"], &["three"]));
    assert_eq!((&outline["n"], &outline["truncated"]), (&json!(4), &json!(false)));
    let outline = folder.fs("fs.outline", json!({"limit": 1})).await.unwrap();
    assert_eq!(names(&outline), expected(&["A"], &[]));
    assert_eq!((&outline["files_n"], &outline["truncated"]), (&json!(2), &json!(true)));
}

#[tokio::test]
async fn a_root_that_was_not_granted_is_denied() {
    let folder = Folder::new();
    for root in ["/", "/etc", "", "other", ".."] {
        let error = folder.fs("fs.glob", json!({"root": root, "pattern": "*"})).await.unwrap_err();
        let expected = if root.is_empty() { ErrorKind::InvalidInput } else { ErrorKind::Denied };
        assert_eq!(error.kind, expected, "{root}");
    }
}

#[tokio::test]
async fn nothing_outside_the_root_is_reached_by_path_or_symlink() {
    let outside = Folder::new();
    outside.write("secret.txt", CANARY).write("d/secret.txt", CANARY);
    let folder = Folder::new();
    folder.write("in/a.txt", "inside\n");
    symlink(outside.path.join("secret.txt"), folder.path.join("link.txt")).unwrap();
    symlink(&outside.path, folder.path.join("link")).unwrap();
    symlink("../..", folder.path.join("in/up")).unwrap();
    symlink("a.txt", folder.path.join("in/same.txt")).unwrap();
    let name = outside.path.file_name().unwrap().to_string_lossy().into_owned();
    for path in [
        "link.txt".to_owned(),
        "link/secret.txt".to_owned(),
        format!("in/up/{name}/secret.txt"),
        format!("../{name}/secret.txt"),
        outside.path.join("secret.txt").display().to_string(),
        format!("in/../../{name}/secret.txt"),
        "link/missing/secret.txt".to_owned(),
    ] {
        for uses in ["fs.read", "fs.stat"] {
            let error = folder.fs(uses, json!({"path": path})).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Denied, "{uses} {path}: {}", error.message);
        }
        for uses in ["fs.grep", "fs.tree"] {
            let error = folder.fs(uses, json!({"path": path, "pattern": "."})).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Denied, "{uses} {path}: {}", error.message);
        }
    }
    assert_eq!(folder.fs("fs.read", json!({"path": "in/same.txt"})).await.unwrap()["text"], "inside");
    let files = folder.fs("fs.glob", json!({"pattern": "**", "hidden": true})).await.unwrap();
    assert_eq!(files["files"], json!(["in/a.txt"]));
    assert_eq!(folder.fs("fs.grep", json!({"pattern": CANARY})).await.unwrap()["n"], 0);
}

#[tokio::test]
async fn pipes_and_devices_are_refused_and_never_waited_for() {
    let folder = Folder::new();
    folder.write("a.txt", "x\n");
    for name in ["pipe", ".gitignore", "sub/.gitignore"] {
        folder.write("sub/b.txt", "x\n");
        rustix::fs::mkfifoat(rustix::fs::CWD, folder.path.join(name), 0o600.into()).unwrap();
    }
    let started = Instant::now();
    let error = folder.fs("fs.read", json!({"path": "pipe"})).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    assert_eq!(folder.fs("fs.stat", json!({"path": "pipe"})).await.unwrap()["kind"], "other");
    let found = folder.fs("fs.grep", json!({"pattern": "x"})).await.unwrap();
    assert_eq!(found["n"], 2);
    assert!(started.elapsed().as_secs() < 10);
}

#[tokio::test]
async fn files_of_credentials_are_closed_also_behind_a_symlink() {
    let folder = Folder::new();
    folder
        .write(".env", CANARY)
        .write("deploy.pem", CANARY)
        .write(".git/config", CANARY)
        .write("notes.txt", format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{CANARY}\n"))
        .write("ok.txt", "fine\n");
    symlink(".env", folder.path.join("plain.txt")).unwrap();
    symlink(".git", folder.path.join("internals")).unwrap();
    for path in
        [".env", "deploy.pem", ".git/config", "notes.txt", "plain.txt", "internals/config", ".GIT/config"]
    {
        let error = folder.fs("fs.read", json!({"path": path})).await.unwrap_err();
        assert!(matches!(error.kind, ErrorKind::Denied | ErrorKind::NotFound), "{path}");
        assert!(!error.message.contains(CANARY));
    }
    let found = folder.fs("fs.grep", json!({"pattern": CANARY})).await.unwrap();
    assert_eq!((&found["n"], &found["skipped"]["secret"]), (&json!(0), &json!(2)));
    let error = folder.fs("fs.grep", json!({"pattern": CANARY, "path": ".env"})).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
    let error = folder.fs("fs.grep", json!({"pattern": CANARY, "path": ".git"})).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied);
}

#[tokio::test]
async fn globs_honour_gitignore_and_come_in_order() {
    let folder = Folder::new();
    folder
        .write(".gitignore", "target/\n*.log\n!keep.log\n/only-top.txt\n")
        .write("src/.gitignore", "gen_*\n")
        .write(".git/info/exclude", "private\n");
    for path in [
        "b.rs",
        "a.rs",
        "src/z.rs",
        "src/gen_a.rs",
        "src/deep/m.rs",
        "target/x.rs",
        "a.log",
        "keep.log",
        "only-top.txt",
        "src/only-top.txt",
        "private/p.rs",
        ".hidden/h.rs",
        "\u{e9}.rs",
    ] {
        folder.write(path, "x");
    }
    let glob = |with: Value| folder.fs("fs.glob", with);
    assert_eq!(
        glob(json!({"pattern": "*.rs"})).await.unwrap(),
        json!({"n": 5, "files": ["a.rs", "b.rs", "src/deep/m.rs", "src/z.rs", "\u{e9}.rs"], "unreadable": 0, "truncated": false})
    );
    assert_eq!(
        glob(json!({"pattern": "/*.rs"})).await.unwrap()["files"],
        json!(["a.rs", "b.rs", "\u{e9}.rs"])
    );
    assert_eq!(
        glob(json!({"pattern": "src/**/*.rs"})).await.unwrap()["files"],
        json!(["src/deep/m.rs", "src/z.rs"])
    );
    assert_eq!(
        glob(json!({"pattern": "*.{log,txt}"})).await.unwrap()["files"],
        json!(["keep.log", "src/only-top.txt"])
    );
    assert_eq!(
        glob(json!({"pattern": "h.rs", "hidden": true})).await.unwrap()["files"],
        json!([".hidden/h.rs"])
    );
    let first = glob(json!({"pattern": "*.rs", "limit": 2})).await.unwrap();
    assert_eq!(
        (&first["n"], &first["files"], &first["truncated"]),
        (&json!(5), &json!(["a.rs", "b.rs"]), &json!(true))
    );
    assert_eq!(glob(json!({"pattern": "a{"})).await.unwrap_err().kind, ErrorKind::InvalidInput);
}

#[tokio::test]
async fn grep_finds_lines_with_symbols_and_context() {
    let folder = Folder::new();
    folder
        .write(
            "src/lib.rs",
            "mod a;\n\nimpl Gate {\n    pub fn admit(&self) {\n        check(-32022);\n    }\n}\n",
        )
        .write("docs/errors.md", "# Errors\n\n## Codes\nThe code -32022 is new.\n")
        .write("b.bin", b"-32022\0")
        .write("big.txt", "-32022\n".repeat(1 << 20));
    let found =
        folder.fs("fs.grep", json!({"pattern": "-32022", "literal": true, "context": 1})).await.unwrap();
    insta::assert_json_snapshot!(found, @r###"
    {
      "n": 2,
      "files_n": 2,
      "files": [
        {
          "path": "docs/errors.md",
          "n": 1,
          "hits": [
            {
              "line": 4,
              "text": "The code -32022 is new.",
              "symbol": "## Codes",
              "before": [
                "## Codes"
              ],
              "after": []
            }
          ]
        },
        {
          "path": "src/lib.rs",
          "n": 1,
          "hits": [
            {
              "line": 5,
              "text": "check(-32022);",
              "symbol": "pub fn admit(&self)",
              "before": [
                "pub fn admit(&self) {"
              ],
              "after": [
                "}"
              ]
            }
          ]
        }
      ],
      "searched": 3,
      "skipped": {
        "binary": 1,
        "large": 1
      },
      "truncated": false
    }
    "###);
}

#[tokio::test]
async fn grep_gives_texts_and_what_defines_first() {
    let folder = Folder::new();
    let long = "x".repeat(300);
    folder
        .write("a.rs", "use berth;\nimpl Dock {\n    pub(crate) fn berth_all_ships_of_the_harbour_by_their_size(&self) {\n        berth();\n    }\n}\nfn berth() {}\n")
        .write("b.py", format!("berth = 1  # {long}\nclass  berth: pass\n"))
        .write("src/d.rs", "berth.moor();\n")
        .write("a.md", "a berth, not a fnberth\n");
    let found = folder
        .fs("fs.grep", json!({"pattern": "berth", "literal": true, "word": true, "lines": true}))
        .await
        .unwrap();
    let cut = "x".repeat(120 - "berth = 1  # ".len());
    assert_eq!(
        found["files"],
        json!([
            {"path": "a.rs", "n": 3, "hits": [
                "7: fn berth() {}",
                "1: use berth;",
                "4: berth(); [fn berth_all_ships_of_the_harbour_by_their_size]",
            ]},
            {"path": "b.py", "n": 2, "hits": ["2: class  berth: pass", format!("1: berth = 1  # {cut}")]},
            {"path": "src/d.rs", "n": 1, "hits": ["1: berth.moor();"]},
            {"path": "a.md", "n": 1, "hits": ["1: a berth, not a fnberth"]},
        ])
    );
}

#[tokio::test]
async fn grep_is_by_line_and_bounded() {
    let folder = Folder::new();
    folder.write("a.txt", "foo\nbar\nFoo bar\nfoobar\n\nend").write("sub/b.txt", "foo\n");
    let grep = |with: Value| folder.fs("fs.grep", with);
    for (with, n) in [
        (json!({"pattern": "foo"}), 3),
        (json!({"pattern": "foo", "ignore_case": true}), 4),
        (json!({"pattern": "foo", "word": true}), 2),
        (json!({"pattern": r"foo\s+bar"}), 0),
        (json!({"pattern": r"foo\s+bar", "ignore_case": true}), 1),
        (json!({"pattern": "^bar$"}), 1),
        (json!({"pattern": "o.b"}), 2),
        (json!({"pattern": "o.b", "literal": true}), 0),
        (json!({"pattern": "end$"}), 1),
        (json!({"pattern": "^$"}), 1),
        (json!({"pattern": "foo", "path": "sub"}), 1),
        (json!({"pattern": "foo", "path": "sub/b.txt"}), 1),
        (json!({"pattern": "foo", "glob": "sub/*"}), 1),
        (json!({"pattern": "(?s).*"}), 7),
    ] {
        let found = grep(with.clone()).await.unwrap();
        assert_eq!(found["n"], n, "{with}: {found}");
    }
    let found = grep(json!({"pattern": "foo", "limit": 1})).await.unwrap();
    assert_eq!((&found["n"], &found["truncated"]), (&json!(3), &json!(true)));
    assert_eq!(found["files"].as_array().unwrap().len(), 1);
    let found = grep(json!({"pattern": "o", "max_per_file": 1})).await.unwrap();
    assert_eq!(found["files"][0]["hits"].as_array().unwrap().len(), 1);
    for pattern in ["(?=x)", r"(a)\1", "(", "a{1000}{1000}", "", &"x".repeat(2000)] {
        let error = grep(json!({"pattern": pattern})).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidInput, "{pattern}");
    }
}

/// Many files are read by several threads, one by one only where there are few.
#[tokio::test]
async fn grep_of_many_files_gives_the_first_hits_in_order_however_they_were_read() {
    let folder = Folder::new();
    for file in 0..400 {
        folder.write(&format!("d{}/f{:03}.txt", file / 100, file), "hit\nmiss\n".repeat(file % 4));
    }
    let all: usize = (0..400).map(|file| file % 4).sum();
    for limit in [1, 7, 90, 2_000] {
        let first = folder.fs("fs.grep", json!({"pattern": "^hit$", "limit": limit})).await.unwrap();
        assert_eq!(
            (&first["n"], &first["files_n"], &first["searched"]),
            (&json!(all), &json!(300), &json!(400))
        );
        assert_eq!(first["truncated"], limit < all);
        let files = first["files"].as_array().unwrap();
        let hits: usize = files.iter().map(|file| file["hits"].as_array().unwrap().len()).sum();
        assert_eq!(hits, limit.min(all));
        let paths: Vec<&str> = files.iter().map(|file| file["path"].as_str().unwrap()).collect();
        let expected: Vec<String> = (0..400)
            .filter(|file| file % 4 > 0)
            .map(|file| format!("d{}/f{file:03}.txt", file / 100))
            .collect();
        assert_eq!(paths, expected[..paths.len()]);
        for _ in 0..5 {
            let again = folder.fs("fs.grep", json!({"pattern": "^hit$", "limit": limit})).await.unwrap();
            assert_eq!(again, first);
        }
    }
}

#[tokio::test]
async fn what_time_or_bytes_cut_off_is_said_and_cancelling_ends_it() {
    let folder = Folder::new();
    for index in 0..600 {
        folder.write(&format!("d{}/f{index}.txt", index % 7), "needle\n");
    }
    let with = with_root("root", json!({"pattern": "needle", "limit": 2000}));
    let mut context = folder.context();
    context.deadline = Instant::now();
    let output = fs_steps::run("fs.grep", &context, &with).await.unwrap();
    assert_eq!(output.value["truncated"], true);
    assert!(output.value["n"].as_u64().unwrap() < 600);

    let mut context = folder.context();
    context.bytes_max = 1000;
    let output = fs_steps::run("fs.grep", &context, &with).await.unwrap();
    assert_eq!((&output.value["n"], &output.value["truncated"]), (&json!(600), &json!(true)));
    assert!(output.value["files"].to_string().len() < 1100);

    let context = folder.context();
    context.cancel.cancel();
    assert_eq!(fs_steps::run("fs.grep", &context, &with).await.unwrap_err().kind, ErrorKind::Cancelled);
}

#[tokio::test]
async fn a_tree_counts_files_per_folder() {
    let folder = Folder::new();
    for path in ["README.md", "src/a.rs", "src/b/c.rs", "src/b/d/e.rs", "docs/x.md", "target/y"] {
        folder.write(path, "x");
    }
    folder.write(".gitignore", "target\n");
    assert_eq!(
        folder.fs("fs.tree", json!({})).await.unwrap(),
        json!({
            "path": "", "n": 5,
            "folders": [{"path": "docs", "n": 1}, {"path": "src", "n": 3}, {"path": "src/b", "n": 2}],
            "files": ["README.md"], "unreadable": 0, "truncated": false,
        })
    );
    let below = folder.fs("fs.tree", json!({"path": "src", "depth": 1, "limit": 1})).await.unwrap();
    assert_eq!((&below["folders"], &below["files"]), (&json!([{"path": "b", "n": 2}]), &json!(["a.rs"])));
    assert_eq!(
        folder.fs("fs.tree", json!({"path": "README.md"})).await.unwrap_err().kind,
        ErrorKind::InvalidInput
    );
}

#[tokio::test]
async fn stat_tells_kind_and_absence() {
    let folder = Folder::new();
    folder.write("a.txt", "1234");
    let stat = folder.fs("fs.stat", json!({"path": "a.txt"})).await.unwrap();
    assert_eq!((&stat["exists"], &stat["kind"], &stat["bytes"]), (&json!(true), &json!("file"), &json!(4)));
    assert!(stat["modified"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
    assert_eq!(
        folder.fs("fs.stat", json!({"path": "b/c"})).await.unwrap(),
        json!({"path": "b/c", "exists": false})
    );
    assert_eq!(folder.fs("fs.stat", json!({"path": "."})).await.unwrap()["kind"], "folder");
}

#[tokio::test]
async fn names_that_are_not_text_are_shown_as_far_as_possible() {
    use std::os::unix::ffi::OsStrExt;
    let folder = Folder::new();
    fs::write(folder.path.join(std::ffi::OsStr::from_bytes(b"caf\xe9.rs")), "x").unwrap();
    let files = folder.fs("fs.glob", json!({"pattern": "*.rs"})).await.unwrap();
    assert_eq!(files["files"], json!(["caf\u{fffd}.rs"]));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// However a path is put together, what lies outside the root is never answered.
    #[test]
    fn no_path_escapes(path in r"(/|\./|\.\./|//|in/|up/|link/|link\.txt|d/|secret\.txt|a\.txt|\.|%2e%2e/|\\|\x00| ){0,8}") {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let parent = Folder::new();
        parent.write("secret.txt", CANARY).write("d/secret.txt", CANARY).write("a.txt", CANARY);
        parent.write("root/in/a.txt", "inside\n");
        let root = parent.path.join("root");
        symlink("../secret.txt", root.join("link.txt")).unwrap();
        symlink("..", root.join("link")).unwrap();
        symlink("../..", root.join("in/up")).unwrap();
        let mut context = parent.context();
        context.roots.insert("root".to_owned(), root);
        for uses in ["fs.read", "fs.stat", "fs.grep", "fs.tree", "fs.glob"] {
            let with = match uses {
                "fs.grep" => json!({"path": path, "pattern": CANARY}),
                "fs.glob" => json!({"pattern": format!("{path}*")}),
                _ => json!({"path": path}),
            };
            let answer = runtime.block_on(fs_steps::run(uses, &context, &with_root("root", with)));
            match answer {
                Ok(output) => {
                    let text = output.value.to_string();
                    prop_assert!(!text.contains(CANARY) && !text.contains("secret.txt\"]"), "{} {:?}: {}", uses, path, text);
                    if uses == "fs.grep" {
                        prop_assert_eq!(&output.value["n"], &json!(0));
                    }
                }
                Err(error) => prop_assert!(!error.message.contains(CANARY)),
            }
        }
    }
}
