//! `git.*` steps on real repositories: what they answer, and what a repository cannot make them run.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails the test")]

use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
    time::Instant,
};

use serde_json::{Value, json};
use tmws::engine::{ErrorKind, steps::git as git_steps};

use crate::steps_support::{Folder, git, with_root};

/// A repository with two commits, the second a rename and a change.
fn two_commits() -> Folder {
    let folder = Folder::repository();
    folder.write("a.txt", "one\ntwo\n").write("b c.txt", "x\n").commit("first: files");
    fs::rename(folder.path.join("a.txt"), folder.path.join("d.txt")).unwrap();
    folder.write("b c.txt", "x\ny\n").commit("second: a rename\n\nWith a body.");
    folder
}

fn error(answer: Result<Value, tmws::engine::steps::StepError>) -> (ErrorKind, String) {
    let error = answer.unwrap_err();
    (error.kind, error.message)
}

#[tokio::test]
async fn status_tells_branch_head_and_changes() {
    let folder = two_commits();
    let head = folder.git(&["rev-parse", "HEAD"]);
    let status = folder.git_step("git.status", json!({})).await.unwrap();
    assert_eq!((&status["branch"], &status["head"], &status["n"]), (&json!("main"), &json!(head), &json!(0)));
    let clean = status["dirty_hash"].clone();
    folder.write("d.txt", "changed\n").write("new/x.txt", "1").write("staged.txt", "s");
    folder.git(&["add", "staged.txt"]);
    folder.git(&["mv", "b c.txt", "é.txt"]);
    let status = folder.git_step("git.status", json!({})).await.unwrap();
    assert_eq!(
        status["changed"],
        json!([
            {"path": "d.txt", "state": "modified", "code": ".M"},
            {"path": "staged.txt", "state": "added", "code": "A."},
            {"path": "é.txt", "state": "renamed", "code": "R.", "from": "b c.txt"},
            {"path": "new/x.txt", "state": "untracked", "code": "??"},
        ])
    );
    assert_eq!(
        (&status["n"], &status["staged"], &status["unstaged"], &status["untracked"], &status["conflicts"]),
        (&json!(4), &json!(2), &json!(1), &json!(1), &json!(0))
    );
    let dirty = status["dirty_hash"].clone();
    assert_ne!(clean, dirty);
    let again = folder.git_step("git.status", json!({})).await.unwrap();
    assert_eq!(again["dirty_hash"], dirty);
    // A second edit of a file that is changed already, even of the same length.
    folder.write("d.txt", "CHANGED\n");
    let edited = folder.git_step("git.status", json!({})).await.unwrap();
    assert_ne!(edited["dirty_hash"], dirty);
}

#[tokio::test]
async fn status_counts_commits_ahead_and_behind_and_conflicts() {
    let origin = two_commits();
    let folder = Folder::new();
    git(&folder.path, &["clone", "-q", origin.path.to_str().unwrap(), "."]);
    origin.write("d.txt", "theirs\n").commit("theirs");
    folder.write("d.txt", "ours\n").commit("ours");
    folder.write("e.txt", "more\n").commit("ours too");
    folder.git(&["fetch", "-q"]);
    let status = folder.git_step("git.status", json!({})).await.unwrap();
    assert_eq!(
        (&status["upstream"], &status["ahead"], &status["behind"]),
        (&json!("origin/main"), &json!(2), &json!(1))
    );
    let merged = std::process::Command::new("git")
        .current_dir(&folder.path)
        .args(["-c", "user.name=A", "-c", "user.email=a@b", "merge", "-q", "origin/main"])
        .output()
        .unwrap();
    assert!(!merged.status.success());
    let status = folder.git_step("git.status", json!({})).await.unwrap();
    assert_eq!(status["conflicts"], 1);
    assert_eq!(status["changed"][0], json!({"path": "d.txt", "state": "conflict", "code": "UU"}));
    let diff = folder.git_step("git.diff", json!({"patch": true})).await.unwrap();
    assert_eq!(diff["files"][0]["path"], "d.txt");
}

#[tokio::test]
async fn log_gives_lines_ready_to_print_and_sums() {
    let folder = two_commits();
    let log = folder.git_step("git.log", json!({"since": "14d", "stat": true})).await.unwrap();
    let hash = folder.git(&["rev-parse", "HEAD"]);
    assert_eq!(log["n"], 2);
    assert_eq!(
        log["commits"][0],
        json!({
            "hash": hash, "short": hash[..8], "date": "2026-02-20T10:00:00Z", "author": "Ada", "subject": "second: a rename",
            "line": format!("{} 02-20 +1 second: a rename", &hash[..8]), "add": 1, "del": 0, "files": 2,
        })
    );
    assert_eq!(log["authors"], json!([{"name": "Ada", "n": 2}]));
    assert_eq!(log["top_files"][0], json!({"path": "b c.txt", "n": 2, "add": 2, "del": 0}));
    assert_eq!(log["truncated"], false);
    let none = folder.git_step("git.log", json!({"since": "7d"})).await.unwrap();
    assert_eq!((&none["n"], &none["commits"]), (&json!(0), &json!([])));
    let one = folder.git_step("git.log", json!({"max": 1})).await.unwrap();
    assert_eq!((&one["n"], &one["truncated"]), (&json!(1), &json!(true)));
    let path = folder.git_step("git.log", json!({"path": "d.txt"})).await.unwrap();
    assert_eq!(path["n"], 1);
    let until = folder.git_step("git.log", json!({"until": "2026-02-19"})).await.unwrap();
    assert_eq!(until["n"], 0);
}

#[tokio::test]
async fn subjects_and_paths_with_odd_characters_keep_their_places() {
    let folder = Folder::repository();
    folder.write("new\nline \u{1}.txt", "1\n").write("\u{1}x", "2\n").commit("odd \u{1}\t subject");
    folder.git(&["mv", "\u{1}x", "\u{1}y"]);
    folder.commit("moved");
    let log = folder.git_step("git.log", json!({"stat": true})).await.unwrap();
    assert_eq!(
        (&log["n"], &log["commits"][0]["files"], &log["commits"][1]["add"]),
        (&json!(2), &json!(1), &json!(2))
    );
    assert_eq!(log["commits"][1]["subject"], "odd \u{1}\t subject");
}

#[tokio::test]
async fn show_and_diff_compare_and_withhold_credentials() {
    let folder = two_commits();
    folder.write(".env", "TOKEN=canary-7f3a\n").write("d.txt", "one\n2\n").commit("third");
    let show = folder.git_step("git.show", json!({"rev": "HEAD", "patch": true})).await.unwrap();
    assert_eq!((&show["subject"], &show["n"], &show["parents"]), (&json!("third"), &json!(2), &json!(1)));
    assert_eq!(
        show["patch"],
        json!([{"path": ".env", "withheld": true}, {"path": "d.txt", "text": "@@ -1,2 +1,2 @@\n one\n-two\n+2"}])
    );
    let show = folder.git_step("git.show", json!({"rev": "HEAD~1"})).await.unwrap();
    assert_eq!(show["body"], "With a body.");
    assert_eq!(
        show["files"],
        json!([
            {"path": "b c.txt", "state": "modified", "add": 1, "del": 0},
            {"path": "d.txt", "state": "renamed", "add": 0, "del": 0, "from": "a.txt"},
        ])
    );
    let diff = folder.git_step("git.diff", json!({"from": "HEAD~2", "to": "HEAD"})).await.unwrap();
    assert_eq!((&diff["n"], &diff["add"], &diff["del"]), (&json!(3), &json!(3), &json!(1)));
    assert!(!diff.to_string().contains("canary"));

    folder.write("d.txt", "three\n").write("bin", b"\0\x01");
    folder.git(&["add", "bin"]);
    let work = folder.git_step("git.diff", json!({"patch": true, "context": 0})).await.unwrap();
    assert_eq!(work["files"], json!([{"path": "d.txt", "state": "modified", "add": 1, "del": 2}]));
    let staged = folder.git_step("git.diff", json!({"staged": true})).await.unwrap();
    assert_eq!(
        staged["files"],
        json!([{"path": "bin", "state": "added", "add": 0, "del": 0, "binary": true}])
    );
    let base = folder
        .git_step("git.diff", json!({"from": "HEAD~2", "to": "HEAD", "merge_base": true}))
        .await
        .unwrap();
    assert_eq!(base["n"], 3);
}

#[tokio::test]
async fn blame_tells_who_changed_which_lines() {
    let folder = two_commits();
    folder.write("b c.txt", "x\ny\nz\n");
    let blame = folder.git_step("git.blame", json!({"path": "b c.txt"})).await.unwrap();
    assert_eq!(blame["n"], 3);
    assert_eq!(blame["authors"], json!([{"name": "Ada", "n": 2}, {"name": "(not committed)", "n": 1}]));
    assert_eq!(blame["ranges"][0]["subject"], "first: files");
    assert_eq!(blame["ranges"][2]["author"], "(not committed)");
    let lines = folder.git_step("git.blame", json!({"path": "b c.txt", "lines": [1, 3]})).await.unwrap();
    let ranges: Vec<_> =
        lines["ranges"].as_array().unwrap().iter().map(|range| range["from"].clone()).collect();
    assert_eq!(ranges, [json!(1), json!(3)]);
    let range =
        folder.git_step("git.blame", json!({"path": "b c.txt", "from_line": 2, "to_line": 2})).await.unwrap();
    assert_eq!(range["n"], 1);
    let (kind, _) = error(folder.git_step("git.blame", json!({"path": "b c.txt", "lines": [9]})).await);
    assert_eq!(kind, ErrorKind::InvalidInput);
    let (kind, _) = error(folder.git_step("git.blame", json!({"path": "none"})).await);
    assert_eq!(kind, ErrorKind::NotFound);
    let (kind, _) = error(folder.git_step("git.blame", json!({"path": ".env"})).await);
    assert_eq!(kind, ErrorKind::Denied);
}

#[tokio::test]
async fn empty_detached_bare_and_shallow_repositories_are_answered() {
    let empty = Folder::repository();
    let status = empty.git_step("git.status", json!({})).await.unwrap();
    assert_eq!((&status["branch"], &status["head"]), (&json!("main"), &Value::Null));
    assert_eq!(empty.git_step("git.log", json!({"stat": true})).await.unwrap()["n"], 0);
    assert_eq!(error(empty.git_step("git.show", json!({"rev": "HEAD"})).await).0, ErrorKind::NotFound);

    let full = two_commits();
    full.git(&["checkout", "-q", "HEAD~1"]);
    let status = full.git_step("git.status", json!({})).await.unwrap();
    assert_eq!(status["branch"], "(detached)");

    let bare = Folder::new();
    git(&bare.path, &["clone", "-q", "--bare", full.path.to_str().unwrap(), "."]);
    let (kind, message) = error(bare.git_step("git.status", json!({})).await);
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(message.contains("bare"), "{message}");
    assert_eq!(bare.git_step("git.log", json!({})).await.unwrap()["n"], 1);
    assert_eq!(bare.git_step("git.blame", json!({"path": "a.txt"})).await.unwrap()["n"], 2);

    full.git(&["checkout", "-q", "main"]);
    let shallow = Folder::new();
    let url = format!("file://{}", full.path.display());
    git(&shallow.path, &["clone", "-q", "--depth", "1", &url, "."]);
    let log = shallow.git_step("git.log", json!({"stat": true})).await.unwrap();
    assert_eq!((&log["n"], &log["shallow"]), (&json!(1), &json!(true)));
}

#[tokio::test]
async fn a_missing_repository_says_where_and_what_to_do() {
    let folder = Folder::new();
    let (kind, message) = error(folder.git_step("git.status", json!({})).await);
    assert_eq!(kind, ErrorKind::NotFound);
    assert!(message.contains(&format!("no git repository at {}; ", folder.path.display())), "{message}");
    let outer = Folder::repository();
    outer.write("sub/x", "1");
    let mut context = outer.context();
    context.roots.insert("root".to_owned(), outer.path.join("sub"));
    let answer = git_steps::run("git.log", &context, &with_root("repo", json!({}))).await.unwrap_err();
    assert_eq!(answer.kind, ErrorKind::NotFound);
    assert!(
        answer.message.contains(&format!("set TMWS_ROOT to {}", outer.path.display())),
        "{}",
        answer.message
    );
}

#[tokio::test]
async fn arguments_are_never_options_ranges_or_outside_paths() {
    let folder = two_commits();
    for rev in ["--output=canary", "-p", "HEAD..HEAD~1", "HEAD:d.txt", "@{u", "nope", "$(touch canary)"] {
        let (kind, _) = error(folder.git_step("git.show", json!({"rev": rev})).await);
        assert!(matches!(kind, ErrorKind::InvalidInput | ErrorKind::NotFound), "{rev}");
    }
    for path in ["/etc/passwd", "../x", "a\0b"] {
        for uses in ["git.log", "git.diff", "git.blame"] {
            assert_eq!(
                error(folder.git_step(uses, json!({"path": path})).await).0,
                ErrorKind::Denied,
                "{path}"
            );
        }
    }
    for since in ["--all", "yesterday", "14 days ago", "-1d"] {
        let (kind, _) = error(folder.git_step("git.log", json!({"since": since})).await);
        assert_eq!(kind, ErrorKind::InvalidInput, "{since}");
    }
    // Paths are taken literally: neither a magic word nor a glob nor an option.
    for path in [":(top)d.txt", "*.txt", "--all", "-p"] {
        for uses in ["git.log", "git.diff"] {
            let (kind, message) = error(folder.git_step(uses, json!({"path": path})).await);
            assert_eq!(kind, ErrorKind::NotFound, "{path}");
            assert!(message.contains("neither in the work tree nor in the history"), "{message}");
        }
    }
    // What is gone is known still, and what is there may have no commit.
    fs::remove_file(folder.path.join("d.txt")).unwrap();
    folder.write("new.txt", "new");
    for path in ["d.txt", "new.txt"] {
        let log = folder.git_step("git.log", json!({"path": path, "since": "1h"})).await.unwrap();
        assert_eq!(log["n"], 0, "{path}");
    }
    assert_eq!(error(folder.git_step("git.log", json!({"repo": "/"})).await).0, ErrorKind::Denied);
    assert!(!folder.path.join("canary").exists());
}

/// A program that leaves a trace outside the repository when it is run.
struct Canary {
    folder: Folder,
}

impl Canary {
    fn new() -> Self {
        let folder = Folder::new();
        let script = format!("#!/bin/sh\necho \"$0 $@\" >> '{}'\ncat\n", folder.path.join("ran").display());
        folder.write("program", script);
        let program = folder.path.join("program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder }
    }

    fn program(&self) -> String {
        self.folder.path.join("program").display().to_string()
    }

    fn ran(&self) -> Option<String> {
        fs::read_to_string(self.folder.path.join("ran")).ok()
    }
}

const READING: &[(&str, &str)] = &[
    ("git.status", "{}"),
    ("git.log", r#"{"stat": true}"#),
    ("git.diff", r#"{"patch": true}"#),
    ("git.diff", r#"{"staged": true, "patch": true}"#),
    ("git.show", r#"{"rev": "HEAD", "patch": true}"#),
    ("git.blame", r#"{"path": "d.txt"}"#),
];

#[tokio::test]
async fn programs_named_by_a_repository_never_run_and_the_answers_stay_right() {
    let settings: &[(&str, &[(&str, &str)])] = &[
        ("fsmonitor", &[("core.fsmonitor", "@")]),
        ("hooks path", &[("core.hooksPath", "@hooks")]),
        ("external diff", &[("diff.external", "@")]),
        ("diff driver", &[("diff.x.command", "@")]),
        ("textconv", &[("diff.x.textconv", "@"), ("diff.x.cachetextconv", "true")]),
        ("pager", &[("core.pager", "@"), ("pager.log", "@"), ("pager.status", "@"), ("pager.diff", "@")]),
        (
            "ssh",
            &[("core.sshCommand", "@"), ("remote.origin.url", "ssh://example.org/x"), ("core.gitProxy", "@")],
        ),
        ("gpg", &[("gpg.program", "@"), ("log.showSignature", "true"), ("gpg.ssh.program", "@")]),
        (
            "alias",
            &[("alias.log", "!@"), ("alias.status", "!@"), ("alias.diff", "!@"), ("alias.blame", "!@")],
        ),
        (
            "promisor",
            &[
                ("extensions.partialClone", "origin"),
                ("remote.origin.promisor", "true"),
                ("remote.origin.url", "ext::@"),
                ("remote.origin.uploadpack", "@"),
                ("protocol.ext.allow", "always"),
            ],
        ),
        ("asking", &[("core.askPass", "@"), ("credential.helper", "!@"), ("core.editor", "@")]),
        (
            "submodules",
            &[("submodule.recurse", "true"), ("status.submoduleSummary", "true"), ("diff.submodule", "log")],
        ),
        ("alternates", &[("core.alternateRefsCommand", "@"), ("uploadpack.packObjectsHook", "@")]),
        (
            "output",
            &[
                ("log.diffMerges", "on"),
                ("diff.noprefix", "true"),
                ("color.ui", "always"),
                ("diff.orderFile", "/x"),
            ],
        ),
    ];
    let plain = two_commits();
    plain.write("d.txt", "edited\n").write(".gitattributes", "* diff=x filter=y\n");
    let mut expected = Vec::new();
    for (uses, with) in READING {
        expected.push(comparable(plain.git_step(uses, serde_json::from_str(with).unwrap()).await.unwrap()));
    }
    for (name, settings) in settings {
        let canary = Canary::new();
        let folder = two_commits();
        folder.write("d.txt", "edited\n").write(".gitattributes", "* diff=x filter=y\n");
        for hook in ["post-index-change", "post-checkout", "reference-transaction", "fsmonitor-watchman"] {
            for hooks in [folder.path.join(".git/hooks"), canary.folder.path.join("programhooks")] {
                fs::create_dir_all(&hooks).unwrap();
                fs::copy(canary.program(), hooks.join(hook)).unwrap();
            }
        }
        for (key, value) in *settings {
            folder.git(&["config", key, &value.replace('@', &canary.program())]);
        }
        for ((uses, with), expected) in READING.iter().zip(&expected) {
            let answer = folder.git_step(uses, serde_json::from_str(with).unwrap()).await;
            let answer = answer.unwrap_or_else(|error| panic!("{name}, {uses}: {}", error.message));
            assert_eq!(&comparable(answer), expected, "{name}, {uses}");
            assert_eq!(canary.ran(), None, "{name}, {uses}");
        }
    }
}

/// An answer without what depends on the time of a file.
fn comparable(mut answer: Value) -> Value {
    answer.as_object_mut().unwrap().remove("dirty_hash");
    answer
}

#[tokio::test]
async fn repositories_that_run_or_include_on_reading_are_denied_with_the_reason() {
    for (settings, reason) in [
        ("[filter \"y\"]\n\tclean = @\n", "sets filter.y.clean: it runs a program"),
        ("[filter \"y\"]\n\tsmudge = @\n", "sets filter.y.smudge"),
        ("[filter.y]\n\tProcess = @\n", "sets filter.y.process"),
        ("[include]\n\tpath = @\n", "sets include.path: it includes other configuration"),
        ("[includeIf \"gitdir:/\"]\n\tpath = @\n", "sets includeif.gitdir:/.path"),
        ("[hook \"x\"]\n\tcommand = @\n\tevent = post-index-change\n", "sets hook.x.command"),
        ("[core]\n\tworktree = /\n", "sets core.worktree to another folder"),
        ("[extensions]\n\tsurprise = 1\n", "sets extensions.surprise"),
        ("[core\n", "is not git configuration in line"),
    ] {
        for file in ["config", "config.worktree"] {
            let canary = Canary::new();
            let folder = two_commits();
            folder.write("d.txt", "edited\n").write(".gitattributes", "* filter=y\n");
            let path = folder.path.join(".git").join(file);
            let before = fs::read_to_string(&path).unwrap_or_default();
            fs::write(&path, before + &settings.replace('@', &canary.program())).unwrap();
            for (uses, with) in READING {
                let (kind, message) = error(folder.git_step(uses, serde_json::from_str(with).unwrap()).await);
                assert_eq!(kind, ErrorKind::Denied, "{settings}");
                assert!(message.contains(reason) && message.contains("remove it"), "{message}");
                assert_eq!(canary.ran(), None, "{settings}, {uses}");
            }
        }
    }
}

#[tokio::test]
async fn objects_that_are_missing_are_never_fetched() {
    let canary = Canary::new();
    let folder = two_commits();
    for (key, value) in [
        ("extensions.partialClone", "origin"),
        ("remote.origin.promisor", "true"),
        ("remote.origin.url", &format!("ext::{}", canary.program())),
        ("remote.origin.uploadpack", &canary.program()),
        ("protocol.ext.allow", "always"),
        ("core.repositoryFormatVersion", "1"),
    ] {
        folder.git(&["config", key, value]);
    }
    let blob = folder.git(&["rev-parse", "HEAD:b c.txt"]);
    fs::remove_file(folder.path.join(".git/objects").join(&blob[..2]).join(&blob[2..])).unwrap();
    let (kind, message) = error(folder.git_step("git.show", json!({"rev": "HEAD", "patch": true})).await);
    assert_eq!(kind, ErrorKind::Denied, "{message}");
    assert!(message.contains("partial clone"), "{message}");
    assert_eq!(canary.ran(), None);
}

#[tokio::test]
async fn reading_writes_nothing() {
    let folder = two_commits();
    // Equal content with another time: git would refresh the index if it might.
    folder.write("d.txt", "one\ntwo\n");
    let file = fs::File::options().write(true).open(folder.path.join("d.txt")).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_hours(300_000)).unwrap();
    let index = || fs::read(folder.path.join(".git/index")).unwrap();
    let before = index();
    for (uses, with) in READING {
        folder.git_step(uses, serde_json::from_str(with).unwrap()).await.unwrap();
    }
    assert_eq!(index(), before);
}

#[tokio::test]
async fn work_trees_and_submodules_are_followed_only_where_the_repository_lists_them() {
    let main = two_commits();
    let place = Folder::new();
    let linked = place.path.join("linked");
    main.git(&["worktree", "add", "-q", linked.to_str().unwrap(), "-b", "side"]);
    let at = |path: &Path| {
        let mut context = place.context();
        context.roots.insert("root".to_owned(), path.to_owned());
        async move { git_steps::run("git.status", &context, &with_root("repo", json!({}))).await }
    };
    assert_eq!(at(&linked).await.unwrap().value["branch"], "side");

    // Another folder with the same pointer: the repository does not know it.
    let thief = place.path.join("thief");
    fs::create_dir(&thief).unwrap();
    fs::copy(linked.join(".git"), thief.join(".git")).unwrap();
    assert_eq!(at(&thief).await.unwrap_err().kind, ErrorKind::Denied);
    fs::write(thief.join(".git"), format!("gitdir: {}\n", main.path.join(".git").display())).unwrap();
    let denied = at(&thief).await.unwrap_err();
    assert_eq!(denied.kind, ErrorKind::Denied);
    assert!(denied.message.contains("does not list it"), "{}", denied.message);

    // A .git that is a symlink to a foreign repository, and one whose commondir leads there.
    let link = place.path.join("link");
    fs::create_dir(&link).unwrap();
    symlink(main.path.join(".git"), link.join(".git")).unwrap();
    assert_eq!(at(&link).await.unwrap_err().kind, ErrorKind::Denied);
    let common = place.path.join("common");
    fs::create_dir_all(common.join(".git")).unwrap();
    fs::write(common.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
    fs::write(common.join(".git/commondir"), main.path.join(".git").display().to_string()).unwrap();
    assert_eq!(at(&common).await.unwrap_err().kind, ErrorKind::Denied);
    let broken = place.path.join("broken");
    fs::create_dir(&broken).unwrap();
    fs::write(broken.join(".git"), "gitdir: /nowhere\n").unwrap();
    assert_eq!(at(&broken).await.unwrap_err().kind, ErrorKind::NotFound);
    rustix::fs::mkfifoat(rustix::fs::CWD, place.path.join("fifo"), 0o600.into()).unwrap();
    fs::remove_file(broken.join(".git")).unwrap();
    fs::rename(place.path.join("fifo"), broken.join(".git")).unwrap();
    let started = Instant::now();
    assert_eq!(at(&broken).await.unwrap_err().kind, ErrorKind::NotFound);
    assert!(started.elapsed().as_secs() < 5);

    // A submodule has its repository above it, which names it by core.worktree.
    let outer = Folder::repository();
    outer.commit("outer");
    let url = main.path.to_str().unwrap();
    outer.git(&["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", url, "sub"]);
    assert_eq!(at(&outer.path.join("sub")).await.unwrap().value["branch"], "main");
    // The outer repository is read without going into it, or looking at it.
    assert_eq!(at(&outer.path).await.unwrap().value["changed"][0]["path"], ".gitmodules");
}

#[tokio::test]
async fn a_repository_of_another_user_is_denied() {
    let folder = two_commits();
    // Only the superuser can give a folder away; for others there is nothing to set up.
    if chown(folder.path.join(".git"), Some(54_321), None).is_err() {
        return;
    }
    let (kind, message) = error(folder.git_step("git.status", json!({})).await);
    assert_eq!(kind, ErrorKind::Denied);
    assert!(message.contains("belongs to another user (uid 54321"), "{message}");
}

#[tokio::test]
async fn cancelling_and_deadlines_end_a_step() {
    let folder = two_commits();
    let context = folder.context();
    context.cancel.cancel();
    let with = with_root("repo", json!({}));
    assert_eq!(git_steps::run("git.log", &context, &with).await.unwrap_err().kind, ErrorKind::Cancelled);
    let mut context = folder.context();
    context.deadline = Instant::now();
    assert_eq!(git_steps::run("git.log", &context, &with).await.unwrap_err().kind, ErrorKind::Deadline);
}
