//! `exec.run` on real programs: which argv they get, what they see, and what is left of them.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tmws::{
    engine::{
        ErrorKind,
        steps::{StepContext, StepError, exec},
    },
    pattern::Permissions,
};

use crate::steps_support::{Folder, with_root};

/// A folder with a Makefile; `make TARGET` is what most of these tests run.
fn place(makefile: &str) -> Folder {
    let folder = Folder::new();
    folder.write("Makefile", makefile);
    folder
}

fn context(folder: &Folder, templates: &[(&str, &[&str])]) -> StepContext {
    let exec: BTreeMap<String, Vec<String>> = templates
        .iter()
        .map(|(name, argv)| ((*name).to_owned(), argv.iter().map(|word| (*word).to_owned()).collect()))
        .collect();
    StepContext { permissions: Arc::new(Permissions { exec, ..Permissions::default() }), ..folder.context() }
}

async fn run(context: &StepContext, with: Value) -> Result<Value, (ErrorKind, String)> {
    let output = exec::run("exec.run", context, &with_root("root", with)).await;
    output.map(|output| output.value).map_err(|StepError { kind, message, .. }| (kind, message))
}

const PRINT: &[&str] = &["printf", "<%s>", "{word}", "{more?}"];

#[tokio::test]
async fn an_exit_code_is_data_and_streams_are_apart_or_together() {
    let folder = place("good:\n\t@echo out; echo err >&2\nbad:\n\t@exit 7\ndead:\n\t@kill -9 $$PPID\n");
    let context = context(&folder, &[("make", &["make", "-s", "{target}"])]);
    let mut answer = run(&context, json!({"command": "make", "args": {"target": "good"}})).await.unwrap();
    assert!(answer["ms"].as_u64().unwrap() < 30_000);
    answer.as_object_mut().unwrap().shift_remove("ms");
    assert_eq!(
        answer,
        json!({"exit": 0, "ok": true, "stdout": "out\n", "stderr": "err\n", "truncated": false})
    );
    let answer =
        run(&context, json!({"command": "make", "args": {"target": "good"}, "merge": true})).await.unwrap();
    assert_eq!((&answer["output"], &answer["stdout"]), (&json!("out\nerr\n"), &json!(null)));
    let answer = run(&context, json!({"command": "make", "args": {"target": "bad"}})).await.unwrap();
    assert_eq!((&answer["exit"], &answer["ok"]), (&json!(2), &json!(false)));
    let answer = run(&context, json!({"command": "make", "args": {"target": "dead"}})).await.unwrap();
    assert_eq!((&answer["exit"], &answer["signal"], &answer["ok"]), (&json!(null), &json!(9), &json!(false)));
}

#[tokio::test]
async fn an_argument_is_one_word_whatever_it_holds() {
    let folder = place("");
    let context = context(&folder, &[("print", PRINT)]);
    for word in
        ["a b", ";ls", "$(id)", "`id`", "|cat", "a\nb", "*", "~", "\"'\\", "x=y", "é", "a;b&&c||d>e<f"]
    {
        let answer = run(&context, json!({"command": "print", "args": {"word": word}})).await.unwrap();
        assert_eq!(answer["stdout"], format!("<{word}>"), "{word:?}");
    }
    let answer = run(&context, json!({"command": "print", "args": {"word": 7, "more": true}})).await.unwrap();
    assert_eq!(answer["stdout"], "<7><true>");
    let answer =
        run(&context, json!({"command": "print", "args": {"word": "a", "more": null}})).await.unwrap();
    assert_eq!(answer["stdout"], "<a>");
}

#[tokio::test]
async fn arguments_that_do_not_fit_are_refused() {
    let folder = place("");
    let context = context(&folder, &[("print", PRINT)]);
    for (args, part) in [
        (json!({"word": "-n"}), "would be an option"),
        (json!({"word": "--upload-pack=x"}), "would be an option"),
        (json!({"word": "a", "more": "-"}), "would be an option"),
        (json!({"word": "a\0b"}), "NUL"),
        (json!({"word": "x".repeat(5000)}), "longer than"),
        (json!({"word": ["a", "b"]}), "one word"),
        (json!({"word": {"a": 1}}), "one word"),
        (json!({"word": ""}), "missing"),
        (json!({"word": null}), "missing"),
        (json!({}), "missing"),
        (json!({"word": "a", "other": "b"}), "no place"),
        (json!(["a"]), "by name"),
    ] {
        let (kind, message) = run(&context, json!({"command": "print", "args": args})).await.unwrap_err();
        assert_eq!(kind, ErrorKind::InvalidInput, "{args}: {message}");
        assert!(message.contains(part), "{args}: {message}");
    }
}

#[tokio::test]
async fn a_path_argument_stays_below_the_root() {
    let folder = place("");
    folder.write("in/a.txt", "content").write("-x", "option");
    std::os::unix::fs::symlink("/etc", folder.path.join("out")).unwrap();
    let context = context(&folder, &[("cat", &["cat", "{file:path}"])]);
    for file in ["in/a.txt", "./in/a.txt"] {
        let answer = run(&context, json!({"command": "cat", "args": {"file": file}})).await.unwrap();
        assert_eq!(answer["stdout"], "content");
    }
    for (file, kind) in [
        ("../x", ErrorKind::Denied),
        ("/etc/passwd", ErrorKind::Denied),
        ("in/../../x", ErrorKind::Denied),
        ("out/passwd", ErrorKind::Denied),
        ("gone", ErrorKind::NotFound),
        ("-x", ErrorKind::InvalidInput),
    ] {
        let (found, message) =
            run(&context, json!({"command": "cat", "args": {"file": file}})).await.unwrap_err();
        assert_eq!(found, kind, "{file}: {message}");
    }
}

#[tokio::test]
async fn only_programs_of_the_permissions_run_and_none_of_the_workspace() {
    let folder = place("");
    let own = folder.path.join("tool");
    fs::write(&own, "#!/bin/sh\ntouch canary\n").unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o755)).unwrap();
    let elsewhere = Folder::new();
    let link = elsewhere.path.join("tool");
    std::os::unix::fs::symlink(&own, &link).unwrap();
    let (own, link) = (own.to_str().unwrap(), link.to_str().unwrap());
    let context = context(
        &folder,
        &[
            ("own", &[own]),
            ("link", &[link]),
            ("relative", &["./tool"]),
            ("bare", &["tool"]),
            ("missing", &["no-such-program-anywhere"]),
            ("gone", &["/nowhere/program"]),
            ("folder", &["/usr"]),
            ("shell", &["sh", "-c", "{text}"]),
            ("empty", &[]),
        ],
    );
    for (command, kind, part) in [
        ("own", ErrorKind::Denied, "inside the workspace"),
        ("link", ErrorKind::Denied, "inside the workspace"),
        ("relative", ErrorKind::Denied, "none of the workspace"),
        ("bare", ErrorKind::ProgramFailed, "`tool` was not found"),
        ("missing", ErrorKind::ProgramFailed, "`no-such-program-anywhere` was not found"),
        ("gone", ErrorKind::ProgramFailed, "not there"),
        ("folder", ErrorKind::ProgramFailed, "not there"),
        ("shell", ErrorKind::Denied, "program text"),
        ("empty", ErrorKind::Denied, "names a program"),
        ("unknown", ErrorKind::Denied, "has no `unknown`"),
    ] {
        let (found, message) = run(&context, json!({"command": command})).await.unwrap_err();
        assert_eq!(found, kind, "{command}: {message}");
        assert!(message.contains(part), "{command}: {message}");
    }
    assert!(!folder.path.join("canary").exists());
    let other = elsewhere.path.to_str().unwrap();
    let (kind, _) = run(&context, json!({"command": "own", "root": other})).await.unwrap_err();
    assert_eq!(kind, ErrorKind::Denied, "a root that was not granted");
}

#[tokio::test]
async fn the_environment_is_what_the_tables_say() {
    let folder = place("");
    let context = context(&folder, &[("env", &["/usr/bin/printenv"])]);
    let answer = run(&context, json!({"command": "env"})).await.unwrap();
    let text = answer["stdout"].as_str().unwrap();
    for line in text.lines() {
        let Some((name, value)) = line.split_once('=') else { panic!("{line}") };
        // By this what it leaves running is found.
        if name == "CHILD_OF_TMWS" {
            continue;
        }
        let set = exec::SET.iter().find(|(known, _)| *known == name);
        assert!(name == "PATH" || exec::PASSED.contains(&name) || set.is_some(), "{name}");
        if let Some((_, set)) = set {
            assert_eq!(value, *set);
        }
        if name == "PATH" {
            assert!(value.split(':').all(|folder| Path::new(folder).is_absolute()), "{value}");
        }
    }
    for (name, _) in exec::SET {
        assert!(text.contains(&format!("{name}=")), "{name}");
    }
}

#[tokio::test]
async fn output_is_cut_and_what_is_no_text_is_said() {
    let folder = place("");
    folder.write("long", "0123456789abcde\n".repeat(10_000)).write("odd", b"caf\xe9\n");
    let context = context(&folder, &[("cat", &["cat", "{file:path}"])]);
    let with = json!({"command": "cat", "args": {"file": "long"}, "max_bytes": 4096});
    let answer = run(&context, with).await.unwrap();
    let text = answer["stdout"].as_str().unwrap();
    assert!(
        text.len() < 4200 && text.starts_with("0123456789abcde\n") && text.ends_with("abcde\n"),
        "{text}"
    );
    assert_eq!((&answer["truncated"], &answer["ok"]), (&json!(true), &json!(true)));
    assert!(answer["left_out"].as_u64().unwrap() > 155_000);
    let answer = run(&context, json!({"command": "cat", "args": {"file": "odd"}})).await.unwrap();
    assert_eq!((&answer["stdout"], &answer["lossy"]), (&json!("caf\u{fffd}\n"), &json!(true)));
}

#[tokio::test]
async fn what_does_not_end_is_ended_and_said_in_time() {
    let folder = place("wait:\n\t@sleep 600 & sleep 600\n");
    let context = StepContext {
        deadline: std::time::Instant::now() + Duration::from_millis(400),
        ..context(&folder, &[("make", &["make", "-s", "wait"])])
    };
    let (kind, message) = run(&context, json!({"command": "make"})).await.unwrap_err();
    assert_eq!(kind, ErrorKind::Deadline, "{message}");
    assert!(std::time::Instant::now() < context.deadline + Duration::from_secs(10));
    assert!(message.starts_with("make: "), "{message}");
}
