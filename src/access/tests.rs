//! Tables: what a tokens file may say, whom a token stands for, where it leads, and what a changed file does.

use std::{fs, net::Ipv4Addr, os::unix::fs::PermissionsExt as _, path::PathBuf};

use hyper::header::{AUTHORIZATION, HeaderValue};
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::*;

fn projects() -> Projects {
    let mut projects = Projects::default();
    projects.add(ProjectId::parse("p_web").unwrap(), Some("web"));
    projects.add(ProjectId::parse("api").unwrap(), None);
    projects
}

fn hash(token: &str) -> String {
    crate::hex::hex(&Sha256::digest(token.as_bytes()))
}

fn entry(token: &str, principal: &str, more: &str) -> String {
    format!("[[token]]\nsha256 = \"{}\"\nprincipal = \"{principal}\"\n{more}\n", hash(token))
}

fn now() -> Timestamp {
    "2027-01-01T00:00:00Z".parse().unwrap()
}

/// A tokens file, and the door that reads it.
struct Desk {
    folder: TempDir,
}

impl Desk {
    fn new(text: &str) -> Self {
        let desk = Self { folder: tempfile::tempdir().unwrap() };
        desk.write(text);
        desk
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("tokens.toml")
    }

    fn write(&self, text: &str) {
        fs::write(self.path(), text).unwrap();
    }

    fn open(&self) -> Result<Access, TokensError> {
        Access::with_tokens(TokenSource::File(self.path()), projects(), now)
    }
}

fn bearer(access: &Access, token: &str) -> Result<Arc<Principal>, Refused> {
    let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
    access.authenticate(&[(AUTHORIZATION, value)].into_iter().collect())
}

fn enter(access: &Access, token: &str, project: Option<&str>) -> Result<Entrant, Refused> {
    access.enter(&bearer(access, token)?, project, None, Ipv4Addr::LOCALHOST.into())
}

#[test]
fn every_fault_of_a_tokens_file_has_its_line_and_its_remedy() {
    let good = format!("[[token]]\nsha256 = \"{}\"\nprincipal = \"ada\"\n", hash("a"));
    let with = |more: &str| format!("{good}{more}\n");
    for (text, line, expected) in [
        (with("color = \"red\""), 4, "unknown key `color`"),
        (with("scope = [\"admin\"]"), 4, "unknown key `scope`; did you mean `scopes`?"),
        (with("scopes = [\"pattern:runn\"]"), 4, "unknown scope `pattern:runn`; did you mean `pattern:run`?"),
        (
            with("scopes = [\"all\"]"),
            4,
            "unknown scope `all`; there are pattern:run, pattern:execute, memory:read, memory:write, admin",
        ),
        (with("scopes = \"admin\""), 4, "`scopes` must be a list"),
        (with("projects = \"web\""), 4, "`projects` is a table such as"),
        (with("projects = { web = true }"), 4, "`projects` is a table such as"),
        (
            with("projects = { web = \"wirte\" }"),
            4,
            "a project is open to `read` or `write`; did you mean `write`?",
        ),
        (with("projects = { web = \"read\", p_web = \"write\" }"), 4, "the project `p_web` stands twice"),
        (with("projects = [\"*\", \"*=write\"]"), 4, "`*` stands twice"),
        (with("projects = [\"a/b\"]"), 4, "a project is an id or an alias"),
        (with("expires = 2027-01-01T00:00:00"), 4, "`expires` is a date or a time with its zone"),
        (with("expires = \"soon\""), 4, "`expires` is a date or a time with its zone"),
        (with("expires = 7"), 4, "`expires` is a date or a time with its zone"),
        (with("agent = \"two words\""), 4, "an agent is named by"),
        (with(&good), 5, "the token of line 2 once more"),
        (
            "[[token]]\nsha256 = \"abc\"\nprincipal = \"ada\"".to_owned(),
            2,
            "`sha256` must be 64 hexadecimal digits",
        ),
        (
            "[[token]]\nprincipal = \"ada\"\nsha256 = \"tmws_hunter2hunter2\"".to_owned(),
            3,
            "this is a token, not its SHA-256: withdraw it",
        ),
        ("[[token]]\nsha256 = tmws_hunter2\nprincipal = \"ada\"".to_owned(), 2, "not TOML: "),
        ("[[token]]\nprincipal = \"ada\"".to_owned(), 2, "`sha256` is missing"),
        (format!("[[token]]\nsha256 = \"{}\"", hash("a")), 2, "`principal` is missing"),
        ("[token]\nprincipal = \"ada\"".to_owned(), 1, "tokens are written `[[token]]`"),
        ("[[tokens]]\nprincipal = \"ada\"".to_owned(), 1, "unknown key `tokens`; did you mean `token`?"),
    ] {
        let faults = read(&text, &projects()).expect_err(&text);
        assert_eq!(faults.len(), 1, "{text}: {faults:?}");
        assert!(faults[0].message.starts_with(expected), "{text}: {faults:?}");
        assert_eq!(faults[0].line, line, "{text}: {faults:?}");
        assert!(!faults[0].message.contains("hunter2"), "{faults:?}");
    }
    let both = read("[[token]]\nsha256 = 1\nprincipal = 2\n", &projects()).unwrap_err();
    assert_eq!(both.iter().map(|fault| fault.line).collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn what_a_file_may_not_mean_is_a_warning_with_its_line() {
    let text = entry("a", "ada", "projects = { wbe = \"read\" }\nscopes = [\"memory:write\"]");
    let tokens = read(&text, &projects()).unwrap();
    let told: Vec<_> =
        tokens.warnings.iter().map(|warning| (warning.line, warning.message.as_str())).collect();
    assert_eq!(
        told,
        [
            (4, "no project is configured as `wbe`; did you mean `web`?"),
            (2, "the token has the scope `memory:write`, and no project that it may write to"),
        ]
    );
}

#[test]
fn a_token_stands_for_what_its_entry_says_and_by_default_for_little() {
    let desk = Desk::new(&format!(
        "{}{}",
        entry("plain", "ada", ""),
        entry(
            "full",
            "bob",
            "agent = \"ci\"\nprojects = [\"*=write\"]\nscopes = [\"pattern:run\", \"pattern:execute\", \"memory:read\", \"memory:write\", \"admin\"]"
        ),
    ));
    let access = desk.open().unwrap();
    let plain = bearer(&access, "plain").unwrap();
    assert_eq!((&*plain.name, plain.agent.as_deref(), plain.has_token), ("ada", None, true));
    assert_eq!(plain.rights.to_string(), "pattern:run memory:read");
    let full = bearer(&access, "full").unwrap();
    assert_eq!((&*full.name, full.agent.as_deref(), full.rights), ("bob", Some("ci"), Rights::ALL));
    for unknown in ["plai", "plainn", "PLAIN", &hash("plain")] {
        assert_eq!(bearer(&access, unknown).unwrap_err(), Refused::UnknownToken);
    }
    assert_eq!(access.authenticate(&HeaderMap::new()).unwrap_err(), Refused::NoToken);
}

#[test]
fn a_project_opens_as_far_as_the_token_says_and_no_answer_tells_what_there_is() {
    let all = "scopes = [\"pattern:run\", \"pattern:execute\", \"memory:read\", \"memory:write\"]";
    let desk = Desk::new(&format!(
        "{}{}{}",
        entry("own", "ada", all),
        entry("two", "ada", &format!("projects = {{ web = \"read\", api = \"write\" }}\n{all}")),
        entry("every", "ada", &format!("projects = {{ api = \"read\", \"*\" = \"write\" }}\n{all}")),
    ));
    let access = desk.open().unwrap();
    let (read, write) = (Rights::PATTERN_RUN.with(Rights::MEMORY_READ), Rights::ALL.without(Rights::ADMIN));
    for (token, project, expected) in [
        ("own", None, Some(("personal", write))),
        ("own", Some("personal"), Some(("personal", write))),
        ("own", Some("web"), None),
        ("own", Some("nowhere"), None),
        ("two", None, None),
        ("two", Some("web"), Some(("p_web", read))),
        ("two", Some("p_web"), Some(("p_web", read))),
        ("two", Some("api"), Some(("api", write))),
        ("two", Some("nowhere"), None),
        ("two", Some("../api"), None),
        ("every", None, Some(("personal", write))),
        ("every", Some("api"), Some(("api", read))),
        ("every", Some("web"), Some(("p_web", write))),
        ("every", Some("p_0"), Some(("p_0", write))),
        ("every", Some("a b"), None),
        ("every", Some(""), None),
    ] {
        let entered = enter(&access, token, project);
        match expected {
            Some((id, rights)) => {
                let entrant = entered.unwrap();
                assert_eq!((entrant.project.as_str(), entrant.rights), (id, rights), "{token} {project:?}");
            }
            None => assert_eq!(entered.unwrap_err(), Refused::Project, "{token} {project:?}"),
        }
    }
}

#[test]
fn the_agent_is_the_tokens_else_what_the_client_says_else_default() {
    let desk = Desk::new(&format!("{}{}", entry("free", "ada", ""), entry("fixed", "ada", "agent = \"ci\"")));
    let access = desk.open().unwrap();
    for (token, said, expected) in [
        ("free", None, "default"),
        ("free", Some("reviewer"), "reviewer"),
        ("free", Some("no\nname"), "default"),
        ("fixed", None, "ci"),
        ("fixed", Some("reviewer"), "ci"),
    ] {
        let principal = bearer(&access, token).unwrap();
        let entrant = access.enter(&principal, None, said, Ipv4Addr::LOCALHOST.into()).unwrap();
        assert_eq!(&*entrant.agent, expected);
    }
}

#[test]
fn a_changed_file_lets_in_and_withdraws_and_keeps_whoever_did_not_change() {
    let (kept, gone) = (entry("kept", "ada", ""), entry("gone", "bob", ""));
    let changed = |scopes: &str| entry("changed", "eve", &format!("scopes = [{scopes}]"));
    let desk = Desk::new(&format!("{kept}{gone}{}", changed("\"pattern:run\"")));
    let access = desk.open().unwrap();
    let before = ["kept", "gone", "changed"].map(|token| bearer(&access, token).unwrap());
    assert!(!access.refresh(false));
    assert!(!access.refresh(true), "read again, nothing changed");

    desk.write(&format!("{}{kept}{}", entry("new", "ann", ""), changed("")));
    assert!(access.refresh(false), "somebody must be told");
    assert_eq!(before.each_ref().map(|principal| principal.is_revoked()), [false, true, true]);
    assert!(Arc::ptr_eq(&before[0], &bearer(&access, "kept").unwrap()));
    assert_eq!(bearer(&access, "gone").unwrap_err(), Refused::UnknownToken);
    assert_eq!(bearer(&access, "changed").unwrap().rights, Rights::NONE);
    assert_eq!(&*bearer(&access, "new").unwrap().name, "ann");
    assert!(!access.refresh(false), "told once");
}

#[test]
fn a_broken_file_changes_nothing_and_is_told_until_it_is_mended() {
    let desk = Desk::new(&entry("a", "ada", ""));
    let access = desk.open().unwrap();
    let ada = bearer(&access, "a").unwrap();
    for broken in ["nonsense", "[[token]]\nprincipal = \"ada\"", "", "gone"] {
        if broken == "gone" {
            fs::remove_file(desk.path()).unwrap();
        } else {
            desk.write(broken);
        }
        let woken = access.refresh(false);
        if broken.is_empty() {
            // No token at all is a file as any other: everybody is out.
            assert!(woken && access.degraded().is_none());
            assert!(ada.is_revoked());
            continue;
        }
        assert!(!woken, "{broken}");
        let told = access.degraded().unwrap();
        assert!(told.starts_with("their file is"), "{told}");
        assert!(!told.contains("tokens.toml"), "anybody may ask how the server is: {told}");
    }
    desk.write(&entry("a", "ada", ""));
    fs::set_permissions(desk.path(), fs::Permissions::from_mode(0o602)).unwrap();
    assert!(!access.refresh(false));
    assert_eq!(access.degraded(), Some("their file can be written by everybody"));
    fs::set_permissions(desk.path(), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(!access.refresh(false));
    assert_eq!(access.degraded(), None);
    assert!(bearer(&access, "a").is_ok());
}

#[test]
fn a_token_is_over_when_its_time_has_come() {
    let desk = Desk::new(&format!(
        "{}{}{}",
        entry("before", "ada", "expires = 2026-12-31"),
        entry("at", "ada", "expires = 2027-01-01T01:00:00+01:00"),
        entry("after", "ada", "expires = \"2027-01-01T00:00:01Z\""),
    ));
    let access = desk.open().unwrap();
    for (token, good) in [("before", false), ("at", false), ("after", true)] {
        assert_eq!(bearer(&access, token).is_ok(), good, "{token}");
    }
    assert!(access.refresh(false), "whoever came in before is told");
    assert!(!access.refresh(false));
}

#[test]
fn a_file_that_cannot_be_used_is_no_door() {
    let desk = Desk::new("");
    fs::remove_file(desk.path()).unwrap();
    let told = |access: Result<Access, TokensError>| access.err().unwrap().to_string();
    assert!(told(desk.open()).contains("`tmws token new --principal NAME` makes it"));
    fs::create_dir(desk.path()).unwrap();
    assert!(told(desk.open()).ends_with("cannot be read: not a regular file"));
    fs::remove_dir(desk.path()).unwrap();
    desk.write("[[token]]\nsha256 = 1\nprincipal = 2\n");
    let told = told(desk.open());
    assert!(
        told.contains("tokens.toml:2: `sha256`") && told.contains("tokens.toml:3: `principal`"),
        "{told}"
    );
}

#[test]
fn the_local_token_opens_everything_and_a_new_one_takes_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let source = || TokenSource::Local { data_folder: folder.path().to_owned(), principal: "local".into() };
    let access = Access::with_tokens(source(), projects(), now).unwrap();
    let token = local_token(folder.path()).unwrap().unwrap();
    let entrant = enter(&access, &token, Some("p_elsewhere")).unwrap();
    assert_eq!((&*entrant.principal.name, entrant.rights), ("local", Rights::ALL));
    assert!(!format!("{entrant:?}").contains(&token));

    fs::remove_file(local_token_path(folder.path())).unwrap();
    assert!(!access.refresh(false));
    assert!(access.degraded().is_some());
    assert!(bearer(&access, &token).is_ok());
    let again = local_token_or_new(folder.path()).unwrap();
    assert!(access.refresh(false));
    assert!(entrant.principal.is_revoked());
    assert!(bearer(&access, &token).is_err() && bearer(&access, &again).is_ok());
}

#[test]
fn an_agent_of_a_token_is_named_as_settings_and_headers_name_it() {
    for (name, good) in [("planner:1", true), ("a@b", false), ("a+b", false), ("", false), ("a b", false)] {
        let desk = Desk::new(&entry("a", "ada@example", &format!("agent = \"{name}\"")));
        assert_eq!(desk.open().is_ok(), good, "{name}");
        assert_eq!(crate::scope::is_agent_name(name), good, "{name}");
    }
}

#[test]
fn without_tokens_everybody_is_the_local_user() {
    let access = Access::open_with("local", projects());
    let anybody = access.authenticate(&HeaderMap::new()).unwrap();
    let entrant = access.enter(&anybody, Some("web"), None, Ipv4Addr::LOCALHOST.into()).unwrap();
    assert_eq!((entrant.project.as_str(), entrant.rights, anybody.has_token), ("p_web", Rights::ALL, false));
    assert!(!access.refresh(true));
}

#[test]
fn a_token_entry_is_printed_without_its_whole_hash() {
    let tokens = read(&entry("a", "ada", ""), &projects()).unwrap();
    let printed = format!("{tokens:?}");
    assert!(!printed.contains(&hash("a")), "{printed}");
}
