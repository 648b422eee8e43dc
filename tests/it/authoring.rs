//! Patterns as their authors and users meet them: tools of their own, versions, deprecation, files that change.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tmws::{
    compose::Local,
    config::{ConfigError, Sources, load},
    engine::Patterns as _,
    protocol::{Call, Notice, Reply, ServerEvent},
    revision::Revision,
    schema::Gate,
    scope::{Rights, Scope},
    tool::{Change, Context, Folders, Notices, PatternSource, Promotion, Service as _, Shelf, TmwsService},
    wire::Method,
};
use tokio::{sync::broadcast, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::support::calls;

struct Deaf;

impl Notices for Deaf {
    fn notify(&self, _: Notice) {}
}

fn pattern(name: &str, version: &str, said: &str, more: &str) -> String {
    format!(
        "apiVersion: tmws/v1\nkind: Pattern\nname: {name}\nversion: {version}\ntype: infrastructure\n\
         description: Says what it is told. For tests.\n\
         inputs:\n  type: object\n  additionalProperties: false\n  required: [word]\n\
         \x20 properties:\n    word: {{type: string, minLength: 2, x-from-query: true, description: What to say}}\n\
         steps:\n  - {{id: a, uses: data.template, with: {{template: '{said} {{{{ w }}}}', values: {{w: '${{ .inputs.word }}'}}}}}}\n\
         output:\n  schema: {{type: object}}\n  value: '${{ {{said: .steps.a}} }}'\n  budget: {{tokens: 100}}\n{more}"
    )
}

/// A process of one local user, with what its `tmws.toml` and its pattern files say.
struct Desk {
    _folder: TempDir,
    service: Arc<TmwsService>,
    local: Local,
    gate: Gate,
}

impl Desk {
    fn new(settings: &str, patterns: &[(&str, String)]) -> Self {
        Self::try_new(settings, patterns).unwrap()
    }

    fn try_new(settings: &str, patterns: &[(&str, String)]) -> Result<Self, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("config/tmws/patterns");
        fs::create_dir_all(&own).unwrap();
        for (file, text) in patterns {
            fs::write(own.join(file), text).unwrap();
        }
        fs::write(folder.path().join("config/tmws/tmws.toml"), settings).unwrap();
        let workspace = folder.path().join("workspace");
        fs::create_dir(&workspace).unwrap();
        let path = |name: &str| folder.path().join(name).into_os_string();
        let environment = BTreeMap::from([
            ("HOME".to_owned(), path("home")),
            ("XDG_CONFIG_HOME".to_owned(), path("config")),
            ("XDG_DATA_HOME".to_owned(), path("data")),
        ]);
        let config = load(&Sources { environment, working_directory: workspace, ..Sources::default() })?;
        let local = Local::new(&config);
        Ok(Self { service: local.service(), local, _folder: folder, gate: Gate::new() })
    }

    async fn ask_as(&self, scope: &Scope, revision: Revision, method: Method, params: Value) -> Reply {
        let call: Call = calls::admitted(self.gate, revision, method, params);
        let context = Context {
            connection: tmws::tool::ConnectionId(1),
            origin: tmws::tool::Origin::default(),
            scope: scope.clone(),
            notices: Arc::new(Deaf),
            cancel: CancellationToken::new(),
            deadline: Instant::now() + Duration::from_secs(20),
        };
        Arc::clone(&self.service).call(call, context).await
    }

    async fn tools_of(&self, rights: Rights) -> Vec<Value> {
        let scope = self.local.scope().with_rights(rights);
        match self.ask_as(&scope, Revision::V2025_11_25, Method::ToolsList, json!({})).await {
            Reply::List(tools) => tools.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    async fn names_of(&self, rights: Rights) -> Vec<String> {
        self.tools_of(rights).await.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
    }

    /// The answer of a tool, whether it failed, its `_meta`.
    async fn tool(&self, rights: Rights, name: &str, arguments: Value) -> (Value, bool, Value) {
        let scope = self.local.scope().with_rights(rights);
        let params = json!({"name": name, "arguments": arguments});
        let reply = self.ask_as(&scope, Revision::V2025_11_25, Method::ToolsCall, params).await;
        let Reply::Result(result) = reply else { panic!("{reply:?}") };
        let text = result["content"][0]["text"].as_str().unwrap();
        let failed = result.get("isError").is_some_and(|flag| flag == true);
        (serde_json::from_str(text).unwrap(), failed, result.get("_meta").cloned().unwrap_or_default())
    }
}

const PROMOTE: &str =
    "# mine\npromote = [\"test.say\", \"memory.remember\", \"no.such\", \"memory.recall\"]\n";

fn say() -> Vec<(&'static str, String)> {
    vec![("say.yaml", pattern("test.say", "1.0.0", "hello", ""))]
}

#[tokio::test]
async fn promoted_patterns_come_after_our_own_tools_in_the_order_configured() {
    let desk = Desk::new(PROMOTE, &say());
    let tools = desk.tools_of(Rights::ALL).await;
    let names: Vec<&str> = tools.iter().filter_map(|tool| tool["name"].as_str()).collect();
    let own = ["execute_pattern", "find_patterns", "get_result", "remember"];
    assert_eq!(names[..4], own);
    assert_eq!(names[4..], ["test_say", "memory_remember", "memory_recall"]);
    assert_eq!(
        tools[4],
        json!({
            "name": "test_say",
            "description": "Says what it is told. For tests.",
            "inputSchema": {
                "type": "object", "additionalProperties": false, "required": ["word"],
                "properties": {"word": {"type": "string", "minLength": 2, "description": "What to say"}},
            },
            "annotations": {"readOnlyHint": true, "openWorldHint": false},
            "execution": {"taskSupport": "optional"},
        })
    );
    assert_eq!(tools[5]["annotations"]["readOnlyHint"], false);
    // The same list again, whoever asks, and our own part of it as without any.
    assert_eq!(desk.tools_of(Rights::ALL).await, tools);
    assert_eq!(Desk::new("", &say()).tools_of(Rights::ALL).await, tools[..4]);
    // What is not there is said where people look, with its line.
    let faults = desk.local.shelf.faults();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].contains("tmws.toml:2: promote: there is no pattern `no.such`"), "{faults:?}");
}

#[tokio::test]
async fn a_promoted_pattern_takes_its_inputs_as_arguments() {
    let desk = Desk::new(PROMOTE, &say());
    let (answer, failed, meta) = desk.tool(Rights::ALL, "test_say", json!({"word": "you"})).await;
    assert_eq!((&answer["said"], failed), (&json!("hello you"), false));
    assert_eq!(meta["tmws/receipt"]["pattern"], "test.say@1.0.0");
    assert!(answer["etag"].is_string());
    for (arguments, part, said) in [
        (json!({}), "word", "word"),
        (json!({"word": "x"}), "word", "shorter"),
        (json!({"word": "you", "wrod": 1}), "wrod", "wrod"),
    ] {
        let (answer, failed, _) = desk.tool(Rights::ALL, "test_say", arguments.clone()).await;
        assert!(failed);
        assert_eq!(answer["error"], "invalid_input", "{arguments}: {answer}");
        assert!(
            answer.to_string().contains(part) && answer.to_string().contains(said),
            "{arguments}: {answer}"
        );
    }
    let (stored, failed, _) =
        desk.tool(Rights::ALL, "memory_remember", json!({"content": "The port is 7337."})).await;
    assert!(!failed && stored["id"].is_string(), "{stored}");
    let (found, ..) = desk.tool(Rights::ALL, "memory_recall", json!({"query": "port"})).await;
    assert_eq!(found["total"], 1, "{found}");
    let scope = desk.local.scope();
    let reply = desk
        .ask_as(
            &scope,
            Revision::V2025_11_25,
            Method::ToolsCall,
            json!({"name": "test_sya", "arguments": {}}),
        )
        .await;
    assert!(format!("{reply:?}").contains("did you mean `test_say`"), "{reply:?}");
}

#[tokio::test]
async fn the_payload_is_the_one_set_as_far_as_the_revision_has_it() {
    for (payload, text, structured) in
        [("text", true, false), ("structured", false, true), ("both", true, true)]
    {
        let desk = Desk::new(&format!("payload = \"{payload}\"\npromote = [\"test.say\"]\n"), &say());
        for revision in Revision::ALL {
            let has = revision >= Revision::V2025_06_18;
            for params in [
                json!({"name": "test_say", "arguments": {"word": "you"}}),
                json!({"name": "execute_pattern", "arguments": {"pattern": "test.say", "input": {"word": "you"}}}),
            ] {
                let reply = desk.ask_as(&desk.local.scope(), revision, Method::ToolsCall, params).await;
                let Reply::Result(result) = reply else { panic!("{reply:?}") };
                let blocks = result["content"].as_array().unwrap().len();
                assert_eq!(
                    result.contains_key("structuredContent"),
                    structured && has,
                    "{payload} {revision:?}"
                );
                assert_eq!(blocks, usize::from(text || !has), "{payload} {revision:?}");
                if let Some(value) = result.get("structuredContent") {
                    assert_eq!(value["said"], "hello you");
                }
            }
        }
    }
}

#[tokio::test]
async fn nobody_is_shown_or_given_a_tool_that_they_may_not_run() {
    let execute = "apiVersion: tmws/v1\nkind: Pattern\nname: test.build\nversion: 1.0.0\ntype: infrastructure\n\
        description: Runs a program. For tests.\nbind: {root: {from: workspace.root}}\n\
        permissions: {exec: {it: [echo]}}\nsteps: [{id: a, uses: exec.run, with: {command: it, root: '${ .bind.root }'}}]\n\
        output: {schema: {type: object}, value: '${ {a: .steps.a} }', budget: {tokens: 100}}\n";
    let mut files = say();
    files.push(("build.yaml", execute.to_owned()));
    let desk = Desk::new(
        "promote = [\"test.say\", \"memory.remember\", \"memory.recall\", \"test.build\"]\n",
        &files,
    );
    assert_eq!(desk.names_of(Rights::ALL).await.len(), 8, "{:?}", desk.local.shelf.faults());
    let (run, execute) = (Rights::PATTERN_RUN, Rights::PATTERN_EXECUTE);
    let (read, write) = (Rights::MEMORY_READ, Rights::MEMORY_WRITE);
    for (rights, expected) in [
        (Rights::NONE, &[][..]),
        (run, &["test_say"]),
        (run.with(read), &["test_say", "memory_recall"]),
        (write, &["memory_remember"]),
        (execute, &["test_build"]),
        (run.with(read).with(write), &["test_say", "memory_remember", "memory_recall"]),
    ] {
        let names = desk.names_of(rights).await;
        let promoted: Vec<&str> = names
            .iter()
            .map(String::as_str)
            .filter(|name| !["execute_pattern", "find_patterns", "get_result", "remember"].contains(name))
            .collect();
        assert_eq!(promoted, expected, "{rights}");
    }
    for (rights, tool, missing) in [
        (run.with(read).with(write), "test_build", "pattern:execute"),
        (run.with(execute), "memory_remember", "memory:write"),
        (read.with(write), "test_say", "pattern:run"),
        (run, "memory_recall", "memory:read"),
    ] {
        let (answer, failed, _) =
            desk.tool(rights, tool, json!({"word": "you", "content": "x", "query": "x"})).await;
        assert!(failed, "{tool}");
        assert_eq!(answer["error"], "denied", "{tool}: {answer}");
        assert!(answer["message"].as_str().unwrap().contains(missing), "{tool}: {answer}");
        // Over HTTP the same is a status, told before anything begins.
        let params = json!({"name": tool});
        let needed = desk.service.needs(Method::ToolsCall, params.as_object().unwrap());
        assert!(!rights.include(needed), "{tool}: {needed}");
    }
    // Effects stay out of execute_pattern, promoted or not.
    let (answer, failed, _) = desk
        .tool(
            Rights::ALL,
            "execute_pattern",
            json!({"pattern": "memory.remember", "input": {"content": "x"}}),
        )
        .await;
    assert_eq!((failed, &answer["error"]), (true, &json!("denied")));
}

#[test]
fn promotions_that_cannot_stand_together_are_told_with_their_line() {
    for (settings, said) in [
        ("promote = [\"a.b\", \"a-b\"]", "tmws.toml:2: `a.b` and `a-b` would both be the tool `a_b`"),
        ("promote = [\"get.result\"]", "tmws.toml:2: `get.result` would be the tool `get_result`"),
        ("promote = [\"A\"]", "tmws.toml:2: `A` is no name of a pattern"),
        ("promote = \"a.b\"", "tmws.toml:2: `promote` must be a list"),
    ] {
        let error = Desk::try_new(&format!("# mine\n{settings}\n"), &[]).err().unwrap().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[tokio::test]
async fn versions_stand_side_by_side_and_what_is_deprecated_says_so_in_its_receipt() {
    let deprecated = "deprecated: {replaced_by: test.say@2, reason: the new one is kinder, since: 1.1.0}\n";
    let desk = Desk::new(
        "promote = [\"test.say@1\"]\n",
        &[
            ("old.yaml", pattern("test.say", "1.1.0", "hello", deprecated)),
            ("new.yaml", pattern("test.say", "2.0.0", "dear", "")),
        ],
    );
    let run = async |name: &str| {
        desk.tool(Rights::ALL, "execute_pattern", json!({"pattern": name, "input": {"word": "you"}})).await
    };
    for (name, said, version) in [
        ("test.say", "dear you", "test.say@2.0.0"),
        ("test.say@2", "dear you", "test.say@2.0.0"),
        ("test.say@1", "hello you", "test.say@1.1.0"),
        ("test.say@1.1", "hello you", "test.say@1.1.0"),
    ] {
        let (answer, _, meta) = run(name).await;
        let receipt = &meta["tmws/receipt"];
        assert_eq!((&answer["said"], &receipt["pattern"]), (&json!(said), &json!(version)), "{name}");
        let note = receipt.get("deprecated").and_then(Value::as_str);
        let expected = "deprecated since 1.1.0, use test.say@2: the new one is kinder";
        assert_eq!(note, version.contains("@1").then_some(expected), "{name}");
    }
    let (answer, failed, _) = run("test.say@3").await;
    assert!(failed);
    assert!(answer["message"].as_str().unwrap().contains("version 2.0.0, 1.1.0, not \"3\""), "{answer}");
    // A pin of the configuration holds, and its tool says what it is.
    let tools = desk.tools_of(Rights::ALL).await;
    assert!(tools[4]["description"].as_str().unwrap().starts_with("(deprecated since 1.1.0, use test.say@2"));
    let (answer, ..) = desk.tool(Rights::ALL, "test_say", json!({"word": "you"})).await;
    assert_eq!(answer["said"], "hello you");
}

#[tokio::test]
async fn a_deprecated_pattern_is_found_last_and_marked() {
    let desk = Desk::new(
        "",
        &[
            ("a.yaml", pattern("a.say", "1.0.0", "hello", "deprecated: {replaced_by: test.say}\n")),
            ("say.yaml", pattern("test.say", "1.0.0", "hello", "")),
        ],
    );
    for query in ["says what it is told", ""] {
        let (found, ..) = desk.tool(Rights::ALL, "find_patterns", json!({"query": query, "limit": 50})).await;
        let last = found["patterns"].as_array().unwrap().last().unwrap();
        assert_eq!(last["name"], "a.say", "{query}: {found}");
        assert_eq!(last["description"], "(deprecated, use test.say) Says what it is told", "{query}");
    }
}

/// Folders with a shelf that looks often, somebody who listens, and what they heard.
struct Watched {
    folder: TempDir,
    shelf: Arc<Shelf>,
    events: broadcast::Receiver<Change>,
}

impl Watched {
    async fn new(promoted: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("patterns")).unwrap();
        Self::over(folder, promoted).await
    }

    async fn over(folder: TempDir, promoted: &[&str]) -> Self {
        let folders = Folders {
            user: vec![folder.path().join("patterns")],
            project: Vec::new(),
            root: Box::new(|| None),
            trust: None,
            promotion: Promotion {
                names: promoted.iter().map(|name| (*name).to_owned()).collect(),
                place: "here".to_owned(),
            },
            library: std::sync::Mutex::default(),
        };
        let source = Arc::new(folders) as Arc<dyn PatternSource>;
        let shelf = Shelf::looking_again_after(Duration::from_millis(10), source);
        let (sender, events) = broadcast::channel(1024);
        shelf.announce_to(sender);
        shelf.ready().await.unwrap();
        Self { folder, shelf, events }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("patterns").join(name)
    }

    /// Waits until somebody is told of a change after which `holds`.
    async fn told(&mut self, what: &str, holds: impl Fn(&Shelf) -> bool) {
        let waiting = async {
            while !holds(&self.shelf) {
                match self.events.recv().await {
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(error) => panic!("{what}: {error}"),
                }
            }
        };
        timeout(Duration::from_mins(1), waiting).await.unwrap_or_else(|_| panic!("{what} was never told"));
    }

    fn version(shelf: &Shelf) -> Option<u32> {
        Some(shelf.named("test.say")?.version.minor)
    }
}

fn say_in(version: u32) -> String {
    pattern("test.say", &format!("1.{version}.0"), "hello", "")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_listens_is_told_of_every_kind_of_change_without_asking() {
    let mut desk = Watched::new(&["test.say"]).await;
    assert_eq!(desk.shelf.promoted().len(), 0);
    fs::write(desk.path("say.yaml"), say_in(1)).unwrap();
    desk.told("a new file", |shelf| Watched::version(shelf) == Some(1)).await;
    assert_eq!(desk.shelf.promoted().len(), 1, "and is a tool from then on");
    // As editors do it: another file takes its place.
    fs::write(desk.path("say.yaml~"), say_in(2)).unwrap();
    fs::rename(desk.path("say.yaml~"), desk.path("say.yaml")).unwrap();
    desk.told("a file put in the place of another", |shelf| Watched::version(shelf) == Some(2)).await;
    fs::remove_dir_all(desk.path("")).unwrap();
    desk.told("a folder that is gone", |shelf| Watched::version(shelf).is_none()).await;
    fs::create_dir(desk.path("")).unwrap();
    fs::write(desk.path("say.yaml"), say_in(3)).unwrap();
    desk.told("a folder made again", |shelf| Watched::version(shelf) == Some(3)).await;
    let told: Vec<ServerEvent> =
        std::iter::from_fn(|| desk.events.try_recv().ok()).map(|change| change.event).collect();
    assert!(told.iter().all(|event| !matches!(event, ServerEvent::ResourceUpdated { .. })), "{told:?}");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_are_followed_and_followed_anew() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    for (name, version) in [("one", 1), ("two", 2)] {
        fs::create_dir(folder.path().join(name)).unwrap();
        fs::write(folder.path().join(name).join("say.yaml"), say_in(version)).unwrap();
    }
    symlink(folder.path().join("one"), folder.path().join("patterns")).unwrap();
    let mut desk = Watched::over(folder, &[]).await;
    assert_eq!(Watched::version(&desk.shelf), Some(1));
    fs::write(desk.folder.path().join("one/say.yaml"), say_in(4)).unwrap();
    desk.told("a file behind a linked folder", |shelf| Watched::version(shelf) == Some(4)).await;
    fs::remove_file(desk.folder.path().join("patterns")).unwrap();
    symlink(desk.folder.path().join("two"), desk.folder.path().join("patterns")).unwrap();
    desk.told("a link that leads elsewhere", |shelf| Watched::version(shelf) == Some(2)).await;
    fs::write(desk.folder.path().join("target"), say_in(5)).unwrap();
    fs::remove_file(desk.path("say.yaml")).unwrap();
    symlink(desk.folder.path().join("target"), desk.path("say.yaml")).unwrap();
    desk.told("a file that is a link", |shelf| Watched::version(shelf) == Some(5)).await;
    fs::write(desk.folder.path().join("target"), say_in(6)).unwrap();
    desk.told("the file that a link leads to", |shelf| Watched::version(shelf) == Some(6)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_edit_keeps_the_last_good_version_and_says_so() {
    let mut desk = Watched::new(&[]).await;
    fs::write(desk.path("say.yaml"), say_in(1)).unwrap();
    desk.told("a new file", |shelf| Watched::version(shelf) == Some(1)).await;
    fs::write(desk.path("say.yaml"), say_in(2).replace("steps:", "stpes:")).unwrap();
    fs::write(desk.path("other.yaml"), pattern("test.other", "1.0.0", "x", "")).unwrap();
    desk.told("another new file", |shelf| shelf.named("test.other").is_some()).await;
    assert_eq!(Watched::version(&desk.shelf), Some(1), "runs on as it was");
    let faults = desk.shelf.faults();
    assert!(
        faults.iter().any(|fault| fault.contains("stpes") && fault.contains("did you mean `steps`")),
        "{faults:?}"
    );
    assert!(faults.iter().any(|fault| fault.ends_with("its last good version runs on")), "{faults:?}");
    fs::write(desk.path("say.yaml"), say_in(3)).unwrap();
    desk.told("the mended file", |shelf| Watched::version(shelf) == Some(3)).await;
    assert_eq!(*desk.shelf.faults(), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_changes_is_told_as_few() {
    const EDITS: u32 = 300;
    let mut desk = Watched::new(&[]).await;
    for version in 1..=EDITS {
        fs::write(desk.path("say.yaml"), say_in(version)).unwrap();
    }
    let mut told = 0;
    let waiting = async {
        while Watched::version(&desk.shelf) != Some(EDITS) {
            told += usize::from(desk.events.recv().await.unwrap().event == ServerEvent::ToolsChanged);
        }
    };
    timeout(Duration::from_mins(1), waiting).await.unwrap();
    assert!(told <= EDITS as usize / 20, "{told} times for {EDITS} edits");
}
