use std::path::Path;

use super::*;
use crate::pattern::trust;

fn pattern(name: &str, version: &str, phrase: &str, extra: &str) -> String {
    format!(
        "apiVersion: tmws/v1\nkind: Pattern\nname: {name}\nversion: {version}\ntype: infrastructure\n\
         description: A pattern for tests, called {name}.\n\
         triggers:\n  phrases: [\"{phrase}\"]\n  examples: {{match: [\"please {phrase} now\"]}}\n  auto: read-only\n{extra}\
         steps:\n  - {{id: a, uses: data.merge, with: {{items: [{{a: 1}}]}}}}\n\
         output:\n  value: ${{ .steps.a }}\n"
    )
}

fn user(file: &str, text: String) -> SourceFile {
    SourceFile { file: file.to_owned(), text, origin: Origin::User("/u".into()) }
}

fn project(file: &str, text: String) -> SourceFile {
    SourceFile { file: file.to_owned(), text, origin: Origin::Project("/w".into()) }
}

fn trusting(files: &[&SourceFile]) -> Trust {
    let mut trust = Trust::default();
    for file in files {
        let root = Path::new("/w");
        let shown = trust::question(root, &file.file, &file.text).unwrap();
        trust.pin_file(root, &file.file, &file.text, &shown).unwrap();
    }
    trust
}

#[test]
fn built_in_patterns_do_not_collide() {
    // As files of a user, so that nothing is skipped; the names shadow their own built-in versions.
    let files: Vec<SourceFile> =
        BUILTINS.iter().map(|(file, text)| user(&format!("u/{file}"), (*text).to_owned())).collect();
    let library = Library::load(&files, &Trust::default());
    assert_eq!(library.report().errors, []);
    assert_eq!(library.all().len(), BUILTINS.len());
    let built_in = Library::built_in();
    assert_eq!(built_in.report().errors, []);
    assert_eq!(built_in.all().len(), BUILTINS.len());
}

#[test]
fn a_later_scope_shadows_an_earlier_one_and_removal_brings_it_back() {
    let ours = user("u.yaml", pattern("session.open", "9.0.0", "make it so", ""));
    let theirs = project("p.yaml", pattern("session.open", "10.0.0", "make it so", ""));
    let trust = trusting(&[&theirs]);
    let library = Library::load(&[ours.clone(), theirs], &trust);
    assert_eq!(library.named("session.open").unwrap().version.major, 10);
    assert_eq!(library.report().shadowed.len(), 2);
    let library = library.reload(&[ours], &trust);
    assert_eq!(library.named("session.open").unwrap().version.major, 9);
    assert!(library.report().changed);
    let library = library.reload(&[], &trust);
    assert_eq!(library.named("session.open").unwrap().version.major, 1);
    assert!(!library.reload(&[], &trust).report().changed);
}

#[test]
fn names_may_be_pinned_to_the_beginning_of_a_version() {
    let library = Library::load(&[user("u.yaml", pattern("a.b", "1.2.3", "do it", ""))], &Trust::default());
    for name in ["a.b", "a.b@1", "a.b@1.2", "a.b@1.2.3"] {
        assert_eq!(library.resolve(name).unwrap().name, "a.b", "{name}");
    }
    for name in ["a.b@2", "a.b@1.3", "a.b@1.2.3.4", "a.b@", "a.b@x", "a.b@01.2.4"] {
        assert!(matches!(library.resolve(name), Err(ResolveError::Version { .. })), "{name}");
    }
    let error = library.resolve("a.c").unwrap_err();
    assert_eq!(error.to_string(), "there is no pattern `a.c`: did you mean `a.b`?");
}

#[test]
fn several_versions_of_one_name_stand_side_by_side_and_a_pin_picks_one() {
    let files = [
        user("old.yaml", pattern("a.b", "1.4.0", "do it", "")),
        user("new.yaml", pattern("a.b", "2.0.1", "do it", "")),
        user("older.yaml", pattern("a.b", "1.2.0", "do it", "")),
        user("own.yaml", pattern("session.open", "9.0.0", "open it", "")),
    ];
    let library = Library::load(&files, &Trust::default());
    assert_eq!(library.report().errors, []);
    let versions = |name| -> Vec<String> {
        library.versions(name).iter().map(|pattern| pattern.version.to_string()).collect()
    };
    assert_eq!(versions("a.b"), ["2.0.1", "1.4.0", "1.2.0"]);
    assert_eq!(versions("session.open"), ["9.0.0", "1.0.0"], "what is shadowed can still be pinned");
    for (name, version) in [("a.b", "2.0.1"), ("a.b@2", "2.0.1"), ("a.b@1", "1.4.0"), ("a.b@1.2", "1.2.0")] {
        assert_eq!(library.resolve(name).unwrap().version.to_string(), version, "{name}");
    }
    assert_eq!(
        library.resolve("a.b@3").unwrap_err().to_string(),
        "the pattern `a.b` is here in version 2.0.1, 1.4.0, 1.2.0, not 3"
    );
    // Lists and queries know the one that the bare name means.
    assert_eq!(library.all().iter().filter(|pattern| pattern.name == "a.b").count(), 1);
    assert!(
        matches!(library.route("do it", Mode::Balanced), Route::Run { pattern, .. } if pattern.version.major == 2)
    );
}

#[test]
fn a_deprecated_pattern_comes_last_and_gives_way_to_what_replaces_it() {
    let deprecated = |replaced_by: &str| {
        let text = pattern("a.old", "1.0.0", "fetch the moon", "  priority: 90\n");
        format!("{text}deprecated: {{replaced_by: {replaced_by}, reason: it is slow., since: 1.0.0}}\n")
    };
    let new = user("new.yaml", pattern("a.new", "1.0.0", "fetch the moon", ""));
    let load = |files: &[SourceFile]| Library::load(files, &Trust::default());
    let run = |library: &Library| match library.route("fetch the moon", Mode::Balanced) {
        Route::Run { pattern, .. } => pattern.name.clone(),
        Route::Candidates(_) => "candidates".to_owned(),
    };
    let both = load(&[user("old.yaml", deprecated("a.new")), new.clone()]);
    assert_eq!(both.report().errors, []);
    assert_eq!(run(&both), "a.new");
    let ranked: Vec<String> =
        both.ranked("fetch the moon").iter().map(|pattern| pattern.name.clone()).collect();
    assert_eq!(ranked.last().map(String::as_str), Some("a.old"));
    let old = both.named("a.old").unwrap();
    assert_eq!(old.deprecated.as_ref().unwrap().to_string(), "deprecated since 1.0.0, use a.new: it is slow");
    // Where only the deprecated one has the words, what replaces it is offered before all others.
    let other = user("other.yaml", pattern("a.another", "1.0.0", "look at the sun and fetch it", ""));
    let renamed = user("new.yaml", pattern("a.new", "1.0.0", "bring a star", ""));
    let library = load(&[user("old.yaml", deprecated("a.new")), renamed.clone(), other]);
    match library.route("fetch the moon", Mode::Balanced) {
        Route::Candidates(offered) => {
            let names: Vec<&str> = offered.iter().map(|candidate| candidate.pattern.name.as_str()).collect();
            assert_eq!(names.first(), Some(&"a.new"), "{names:?}");
            assert!(!names.contains(&"a.old"), "{names:?}");
        }
        Route::Run { pattern, .. } => panic!("{} ran, of whose triggers none matches", pattern.name),
    }
    // Where the replacement is not there, it does its work.
    assert_eq!(run(&load(&[user("old.yaml", deprecated("a.gone"))])), "a.old");
    let itself = load(&[user("old.yaml", deprecated("a.old"))]);
    assert!(itself.report().errors[0].message.contains("cannot replace itself"));
}

#[test]
fn a_reload_that_fails_keeps_the_last_good_version_and_says_so() {
    let good = user("u.yaml", pattern("a.b", "1.0.0", "do it", ""));
    let library = Library::load(std::slice::from_ref(&good), &Trust::default());
    let broken = user("u.yaml", good.text.replace("steps:", "stops:"));
    let library = library.reload(std::slice::from_ref(&broken), &Trust::default());
    assert_eq!(library.report().kept, ["u.yaml"]);
    assert!(library.report().errors.iter().any(|error| error.to_string().contains("did you mean `steps`?")));
    assert_eq!(library.named("a.b").unwrap().version.major, 1);
    assert!(!library.report().changed);
    // It is kept for as long as the file stays broken, and no longer.
    let library = library.reload(&[broken], &Trust::default());
    assert!(library.named("a.b").is_some());
    let fixed = user("u.yaml", pattern("a.b", "2.0.0", "do it", ""));
    let library = library.reload(&[fixed], &Trust::default());
    assert_eq!(library.named("a.b").unwrap().version.major, 2);
    assert!(library.report().kept.is_empty());
    assert!(library.reload(&[], &Trust::default()).named("a.b").is_none());
}

#[test]
fn two_files_of_one_scope_with_one_name_are_an_error_and_the_first_stays() {
    let files = [
        user("a.yaml", pattern("a.b", "1.0.0", "do it", "")),
        user("b.yaml", pattern("a.b", "1.0.0", "do that", "")),
    ];
    let library = Library::load(&files, &Trust::default());
    assert_eq!(library.named("a.b").unwrap().triggers.phrases, ["do it"]);
    let errors = &library.report().errors;
    assert_eq!(errors.len(), 1);
    assert_eq!(
        errors[0].to_string(),
        "b.yaml:3:7: the name `a.b` is taken by a.yaml in the same version (rename one of them, or give it another version)"
    );
}

#[test]
fn triggers_that_match_one_example_collide_unless_priorities_differ() {
    let one = user("a.yaml", pattern("a.one", "1.0.0", "do it", ""));
    let two = user("b.yaml", pattern("a.two", "1.0.0", "do it", ""));
    let library = Library::load(&[one.clone(), two], &Trust::default());
    let errors = &library.report().errors;
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(
        errors[0].to_string().starts_with("b.yaml:9:22: this example also matches a trigger of `a.one`"),
        "{}",
        errors[0]
    );
    assert!(library.named("a.one").is_some());
    assert!(library.named("a.two").is_none());
    let two = user("b.yaml", pattern("a.two", "1.0.0", "do it", "  priority: 70\n"));
    let library = Library::load(&[one, two], &Trust::default());
    assert_eq!(library.report().errors, []);
    match library.route("do it", Mode::Balanced) {
        Route::Run { pattern, by, .. } => assert_eq!((pattern.name.as_str(), by), ("a.two", "phrase")),
        Route::Candidates(other) => panic!("{other:?}"),
    }
}

#[test]
fn a_project_pattern_runs_only_as_it_was_trusted() {
    let file = project("p.yaml", pattern("p.q", "1.0.0", "do it", ""));
    let library = Library::load(std::slice::from_ref(&file), &Trust::default());
    assert!(library.named("p.q").is_none());
    assert!(library.ranked("do it").iter().all(|pattern| pattern.name != "p.q"));
    assert_eq!(library.report().untrusted.len(), 1);
    assert!(!library.report().untrusted[0].changed);

    let trust = trusting(&[&file]);
    assert!(Library::load(std::slice::from_ref(&file), &trust).named("p.q").is_some());

    let changed = SourceFile { text: file.text.replace("called", "named"), ..file.clone() };
    let library = Library::load(&[changed], &trust);
    assert!(library.named("p.q").is_none());
    assert!(library.report().untrusted[0].changed);

    let elsewhere = SourceFile { origin: Origin::Project("/other".into()), ..file.clone() };
    assert!(Library::load(&[elsewhere], &trust).named("p.q").is_none());

    // An untrusted file shadows nothing and breaks nothing, whatever it says.
    let hostile = project("h.yaml", pattern("session.open", "2.0.0", "do it", ""));
    let garbage = project("g.yaml", "}{".to_owned());
    let library = Library::load(&[hostile, garbage], &trust);
    assert_eq!(library.named("session.open").unwrap().version.major, 1);
    assert_eq!(library.report().errors, []);
    assert_eq!(library.report().untrusted.len(), 2);
}

#[test]
fn trust_is_written_and_read_back_and_changed_files_are_not_pinned() {
    let file = project("p.yaml", pattern("p.q", "1.0.0", "do it", ""));
    let root = Path::new("/w");
    let mut trust = trusting(&[&file]);
    let text = trust.to_text();
    assert_eq!(Trust::parse(&text).unwrap(), trust);
    assert_eq!(Trust::parse("").unwrap(), Trust::default());
    for broken in ["{", "[]", "{\"version\": 2}", "{\"version\": 1}", "{\"version\": 1, \"trusted\": [{}]}"] {
        assert!(matches!(Trust::parse(broken), Err(trust::TrustError::Format(_))), "{broken}");
    }
    let shown = trust::question(root, "p.yaml", &file.text).unwrap();
    assert_eq!(shown.permissions, ["touches nothing outside the call"]);
    let swapped = file.text.replace("called", "named");
    assert_eq!(trust.pin_file(root, "p.yaml", &swapped, &shown), Err(trust::TrustError::Changed));
    // Pinned permissions that are not what the content grants do not hold.
    let tampered = Trust::parse(&text.replace("touches nothing outside the call", "reads memories")).unwrap();
    assert!(!tampered.allows(root, "p.yaml", &file.text));
    assert!(trust.forget(root, "p.yaml"));
    assert!(!trust.forget(root, "p.yaml"));
}

#[test]
fn promoted_names_must_be_free() {
    let files = [
        user("a.yaml", pattern("a.b-c", "1.0.0", "do it", "")),
        user("b.yaml", pattern("a.b.c", "1.0.0", "do that", "")),
    ];
    let library = Library::load(&files, &Trust::default());
    let promote = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        library.promote(&names, &["session_open"])
    };
    assert_eq!(promote(&["a.b-c"]).0[0].0, "a_b_c");
    let (promoted, errors) = promote(&["a.b-c", "a.b.c", "session.open", "no.such"]);
    assert_eq!(promoted.len(), 1);
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "the pattern `a.b.c` cannot be promoted: the pattern `a.b-c` is already the tool `a_b_c`",
            "the pattern `session.open` cannot be promoted: a tool of the server is already the tool `session_open`",
            "there is no pattern `no.such`",
        ]
    );
}
