//! Settings: every source, every fault, and who may set what.

use std::{collections::BTreeMap, ffi::OsString, fs, path::Path, path::PathBuf};

use tmws::{
    config::{Config, ConfigError, DatabaseUrl, Origin, SETTINGS, Sources, load},
    tool::Payload,
};

fn fixtures(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/config").join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

fn sources(environment: &[(&str, &str)]) -> Sources {
    let mut variables: BTreeMap<String, OsString> =
        [("HOME".to_owned(), OsString::from("/home/nobody-here"))].into();
    variables.extend(environment.iter().map(|(name, value)| ((*name).to_owned(), OsString::from(value))));
    Sources {
        environment: variables,
        working_directory: PathBuf::from("/work-dir-not-there"),
        ..Sources::default()
    }
}

fn load_file(path: &Path) -> Result<Config, ConfigError> {
    load(&Sources { file: Some(path.to_owned()), ..sources(&[]) })
}

fn described(config: &Config, key: &str) -> (String, Origin) {
    let (_, value, origin) = config.describe().find(|(row, ..)| row.key == key).unwrap();
    (value, origin.clone())
}

fn schema() -> jsonschema::Validator {
    let text = include_str!("../../schemas/config/v1.json");
    jsonschema::validator_for(&serde_json::from_str(text).unwrap()).unwrap()
}

fn as_json(path: &Path) -> Option<serde_json::Value> {
    toml::from_str(&fs::read_to_string(path).unwrap()).ok()
}

#[test]
fn valid_files_load_and_fit_the_schema() {
    let schema = schema();
    for path in fixtures("valid") {
        load_file(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let value = as_json(&path).unwrap();
        assert!(schema.is_valid(&value), "{}", path.display());
    }
}

#[test]
fn each_fault_names_file_line_and_remedy() {
    for path in fixtures("invalid") {
        let text = fs::read_to_string(&path).unwrap();
        let expected = text.lines().next().unwrap().strip_prefix("# expect ").unwrap();
        let (line, fault) = expected.split_once(": ").unwrap();
        let error = load_file(&path).expect_err(&path.display().to_string());
        assert_eq!(error.place, format!("{}:{line}", path.display()));
        assert!(error.fault.starts_with(fault), "{}: {error}", path.display());
        assert!(!error.to_string().contains("hunter2"), "a secret in: {error}");
    }
}

#[test]
fn the_schema_refuses_what_the_loader_refuses() {
    let schema = schema();
    // Ranges of durations and sizes, log filters, and names that differ are beyond the schema.
    let beyond = [
        "out-of-range",
        "log",
        "not-toml",
        "project-twice",
        "server-out-of-range",
        "server-plain-out-of-range",
    ];
    for path in fixtures("invalid") {
        let stem = path.file_stem().unwrap().to_str().unwrap();
        if !beyond.contains(&stem) {
            assert!(!schema.is_valid(&as_json(&path).unwrap()), "{stem}");
        }
    }
}

#[test]
fn the_schema_names_every_setting_and_no_other() {
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../schemas/config/v1.json")).unwrap();
    let mut named = Vec::new();
    // What has names of its own is no setting.
    let settings = |key: &str| !matches!(key, "projects" | "sources" | "servers");
    for (key, value) in schema["properties"].as_object().unwrap().iter().filter(|(key, _)| settings(key)) {
        match value.get("properties") {
            Some(inner) => {
                for (name, value) in inner.as_object().unwrap() {
                    named.push((format!("{key}.{name}"), value["description"].as_str().unwrap()));
                }
            }
            None => named.push((key.clone(), value["description"].as_str().unwrap())),
        }
    }
    let known: Vec<_> = SETTINGS.iter().map(|row| (row.key.to_owned(), row.summary)).collect();
    assert_eq!(named, known);
}

#[test]
fn every_default_reads_back_as_itself() {
    let config = load(&sources(&[])).unwrap();
    for (row, value, origin) in config.describe() {
        assert_eq!(*origin, Origin::Default, "{}", row.key);
        if matches!(row.key, "state_key" | "patterns" | "tokens_file" | "tls_cert" | "tls_key") {
            continue;
        }
        let again = load(&sources(&[(row.variable, &value)])).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(described(&again, row.key).0, value);
    }
    assert_eq!(config.database, DatabaseUrl::Sqlite("/home/nobody-here/.local/share/tmws/tmws.db".into()));
    assert_eq!(config.pattern_folders, [PathBuf::from("/home/nobody-here/.config/tmws/patterns")]);
}

#[test]
fn flags_beat_the_environment_which_beats_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tmws.toml");
    fs::write(&file, "payload = \"structured\"\nagent = \"file\"\n[limits]\npage_items = 7\n").unwrap();
    let mut from = sources(&[("TMWS_AGENT", "environment"), ("TMWS_LIMITS_PAGE_ITEMS", "8")]);
    from.file = Some(file.clone());
    from.flags = vec![("--set limits.page_items".to_owned(), "limits.page_items".to_owned(), "9".into())];
    let config = load(&from).unwrap();
    assert_eq!(config.payload, Payload::Structured);
    assert_eq!(described(&config, "payload").1, Origin::User { path: file, line: 1 });
    assert_eq!(
        described(&config, "agent"),
        ("environment".to_owned(), Origin::Environment("TMWS_AGENT".to_owned()))
    );
    assert_eq!(config.connection.page_items, 9);
    assert_eq!(described(&config, "limits.page_items").1.to_string(), "--set limits.page_items");
}

#[test]
fn the_workspace_is_flag_then_variable_then_host_then_working_directory() {
    let root = |environment: &[(&str, &str)], flag: Option<&str>| {
        let mut from = sources(environment);
        from.flags =
            flag.map(|value| ("--root".to_owned(), "root".to_owned(), value.into())).into_iter().collect();
        load(&from).unwrap().root
    };
    let all = [("TMWS_ROOT", "/a"), ("CLAUDE_PROJECT_DIR", "/b")];
    assert_eq!(root(&all, Some("/c")), Path::new("/c"));
    assert_eq!(root(&all, Some("sub")), Path::new("/work-dir-not-there/sub"));
    assert_eq!(root(&all, None), Path::new("/a"));
    assert_eq!(root(&all[1..], None), Path::new("/b"));
    assert_eq!(root(&[], None), Path::new("/work-dir-not-there"));
}

#[test]
fn faults_of_the_environment_and_of_flags_name_the_variable_or_flag() {
    for (name, value, expected) in [
        (
            "TMWS_LIMITS_FRAME_IN",
            "4",
            "TMWS_LIMITS_FRAME_IN: `4` is no size; write a whole number and B, KiB, MiB or GiB, as in `4MiB`",
        ),
        ("TMWS_LIMITS_PAGE_ITEMS", "0", "TMWS_LIMITS_PAGE_ITEMS: 0 is out of range: 1 to 10000"),
        (
            "TMWS_DATABASE_URL",
            "mysql://u:hunter2@h/db",
            "TMWS_DATABASE_URL: it is `sqlite:PATH`, without parameters, or `postgres://USER:PASSWORD@HOST/DATABASE`",
        ),
        (
            "TMWS_STATE_KEY",
            "hunter2",
            "TMWS_STATE_KEY: a key has at least 32 bytes; make one with `openssl rand -hex 32`",
        ),
    ] {
        assert_eq!(load(&sources(&[(name, value)])).unwrap_err().to_string(), expected);
    }
    let mut from = sources(&[]);
    from.flags = vec![("--set".to_owned(), "limits.framein".to_owned(), "1MiB".into())];
    assert_eq!(
        load(&from).unwrap_err().to_string(),
        "--set: unknown key `limits.framein`; did you mean `limits.frame_in`?"
    );
}

#[test]
fn lists_and_switches_are_plain_text_in_the_environment() {
    let config = load(&sources(&[
        ("TMWS_NO_AUTH", "1"),
        ("TMWS_ALLOWED_HOSTS", "tmws.example, ::1"),
        ("TMWS_AUDIT_FILE", "off"),
        ("TMWS_TOKENS_FILE", "tokens.toml"),
    ]))
    .unwrap();
    assert!(config.no_auth);
    assert_eq!(config.allowed_hosts, ["tmws.example", "::1"]);
    assert_eq!(config.audit_file, None);
    assert_eq!(config.tokens_file, Some(PathBuf::from("/work-dir-not-there/tokens.toml")));
    let default = load(&sources(&[])).unwrap();
    assert_eq!(default.audit_file, Some(PathBuf::from("/home/nobody-here/.local/share/tmws/audit.jsonl")));
}

#[test]
fn a_misspelt_variable_is_a_warning_with_the_nearest_one() {
    let config = load(&sources(&[("TMWS_AGNET", "x"), ("TMWSX", "y")])).unwrap();
    assert_eq!(config.warnings, ["TMWS_AGNET is no setting and was ignored; did you mean `TMWS_AGENT`?"]);
}

#[test]
fn a_named_file_must_exist_and_the_usual_one_need_not() {
    assert!(load(&sources(&[])).is_ok());
    let error = load_file(Path::new("/nowhere/tmws.toml")).unwrap_err();
    assert!(error.to_string().starts_with("/nowhere/tmws.toml: cannot be read: "), "{error}");
}

#[test]
fn without_a_home_the_store_must_be_named() {
    let mut from = sources(&[]);
    from.environment.clear();
    assert!(load(&from).unwrap_err().fault.contains("set TMWS_DATABASE_URL=sqlite:"));
    from.environment.insert("TMWS_DATABASE_URL".to_owned(), "sqlite:/x/y.db".into());
    assert_eq!(load(&from).unwrap().database, DatabaseUrl::Sqlite("/x/y.db".into()));
}

/// Loads with `text` as the repository's own file.
fn load_in_repository(text: &str, environment: &[(&str, &str)]) -> (tempfile::TempDir, Config) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join(".tmws.toml"), text).unwrap();
    let from = Sources { working_directory: folder.path().to_owned(), ..sources(environment) };
    let config = load(&from).unwrap();
    (folder, config)
}

#[test]
fn a_repository_lowers_limits_and_names_pattern_folders() {
    let (folder, config) =
        load_in_repository("patterns = [\"tools/patterns\"]\n[limits]\ncall_deadline = \"5s\"\n", &[]);
    assert_eq!(config.warnings, [""; 0]);
    assert_eq!(config.repository_pattern_folders, [folder.path().join("tools/patterns")]);
    assert_eq!(described(&config, "limits.call_deadline").0, "5s");
    assert!(described(&config, "limits.call_deadline").1.to_string().ends_with(".tmws.toml:3 (repository)"));
}

#[test]
fn a_repository_that_wants_more_is_ignored_whole_with_a_warning() {
    for (text, expected) in [
        (
            "limits.call_deadline = \"5s\"\nlimits.frame_in = \"8MiB\"",
            ":2 (file ignored): `limits.frame_in` can only be lowered by a repository; it is 4MiB",
        ),
        ("agent = \"admin\"", ":1 (file ignored): `agent` can only be set by the user, not by a repository"),
        (
            "database_url = \"sqlite:/tmp/x\"",
            ":1 (file ignored): `database_url` can only be set by the user, not by a repository",
        ),
        (
            "patterns = [\"../elsewhere\"]",
            ":1 (file ignored): `patterns` of a repository must stay inside it",
        ),
        ("patterns = [\"/etc\"]", ":1 (file ignored): `patterns` of a repository must stay inside it"),
        ("nonsense", ":1 (file ignored): not TOML"),
        (
            "limits.calls_per_second = 0",
            ":1 (file ignored): `limits.calls_per_second` can only be set by the user, not by a repository",
        ),
        ("no_auth = true", ":1 (file ignored): `no_auth` can only be set by the user, not by a repository"),
        (
            "allowed_origins = [\"https://evil.example\"]",
            ":1 (file ignored): `allowed_origins` can only be set by the user, not by a repository",
        ),
        (
            "[projects.web]\nroot = \"/\"",
            ":1 (file ignored): `projects` can only be set by the user, not by a repository",
        ),
    ] {
        let (_folder, config) = load_in_repository(text, &[]);
        assert_eq!(config.warnings.len(), 1, "{text}");
        assert!(config.warnings[0].contains(expected), "{:?}", config.warnings);
        assert_eq!(described(&config, "limits.call_deadline"), ("30s".to_owned(), Origin::Default), "{text}");
        assert!(config.repository_pattern_folders.is_empty());
    }
}

#[test]
fn the_users_environment_beats_what_a_repository_lowered() {
    let (_folder, config) =
        load_in_repository("limits.call_deadline = \"5s\"", &[("TMWS_LIMITS_CALL_DEADLINE", "20s")]);
    assert_eq!(described(&config, "limits.call_deadline").0, "20s");
}

#[test]
fn a_home_directory_is_no_repository() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tmws.toml"), "limits.call_deadline = \"5s\"").unwrap();
    let home = folder.path().to_str().unwrap();
    let from = Sources { working_directory: folder.path().to_owned(), ..sources(&[("HOME", home)]) };
    assert_eq!(described(&load(&from).unwrap(), "limits.call_deadline").0, "30s");
}

#[test]
fn secrets_are_described_as_secrets() {
    let key = "0123456789abcdef0123456789abcdef";
    let config = load(&sources(&[("TMWS_STATE_KEY", key)])).unwrap();
    assert_eq!(described(&config, "state_key").0, "[secret]");
    assert!(!format!("{config:?}").contains(key));
}
