//! The service called as the core calls it, with the real engine and store: calls in, replies out.

use std::{
    collections::BTreeMap,
    fs,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tmws::{
    compose::Local,
    config::{Sources, load},
    protocol::{Call, CallError, Notice, Reply, ServerEvent},
    revision::Revision,
    schema::Gate,
    scope::{ProjectId, Scope},
    tool::{Context, Notices, SCHEMAS, Service as _, TmwsService},
    wire::Method,
};
use tokio_util::sync::CancellationToken;

use crate::support::calls;

/// A pattern that needs no store and no workspace, and shrinks when it is given much.
pub(crate) const ECHO: &str = "\
apiVersion: tmws/v1
kind: Pattern
name: test.echo
version: 1.2.3
type: infrastructure
description: Echoes what it is given. For tests only.
triggers:
  phrases: [echo to me]
  examples:
    match: [please echo to me now, echo to me, 'do echo to me']
    no_match: [say it again, repeat that, an echoing hall]
  priority: 10
  auto: read-only
inputs:
  type: object
  additionalProperties: false
  required: [word]
  properties:
    word: {type: string, minLength: 1, default: hello, description: What to say, enum: [hello, hallo, world]}
    lines: {type: array, items: {type: string}}
    times: {type: integer, minimum: 1, maximum: 9}
limits: {timeout: 5s, max_steps: 2, max_bytes: 1MiB}
steps:
  - {id: said, uses: data.template, with: {template: '{{word}}!', values: {word: '${ .inputs.word }'}}}
output:
  schema: {type: object, required: [said], properties: {said: {type: string}, lines: {type: array}, times: {}}}
  value: '${ {said: .steps.said, lines: (.inputs.lines // []), times: .inputs.times} }'
  budget: {tokens: 120, shrink: [{truncate: lines, keep: 3}], overflow: handle}
annotations: {readOnlyHint: true}
prompt: {title: Say something, arguments: [word, times]}
tests:
  - {name: it says it, inputs: {word: world}, expect: {jq: '.said == \"world!\"', max_tokens: 120}}
";

#[derive(Default)]
struct Heard(Mutex<Vec<Notice>>);

impl Notices for Heard {
    fn notify(&self, notice: Notice) {
        self.0.lock().unwrap().push(notice);
    }
}

pub(crate) struct Bench {
    folder: TempDir,
    service: Arc<TmwsService>,
    gate: Gate,
    scope: Scope,
    heard: Arc<Heard>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    pub(crate) fn with(variables: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let patterns = folder.path().join("config/tmws/patterns");
        fs::create_dir_all(&patterns).unwrap();
        fs::write(patterns.join("test.echo.yaml"), ECHO).unwrap();
        let workspace = folder.path().join("workspace");
        fs::create_dir(&workspace).unwrap();
        let path = |name: &str| folder.path().join(name).into_os_string();
        let mut environment: BTreeMap<String, _> = [
            ("HOME".to_owned(), path("home")),
            ("XDG_CONFIG_HOME".to_owned(), path("config")),
            ("XDG_DATA_HOME".to_owned(), path("data")),
        ]
        .into();
        environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())));
        let sources = Sources { environment, working_directory: workspace, ..Sources::default() };
        let local = Local::new(&load(&sources).unwrap());
        Self {
            service: local.service(),
            scope: local.scope(),
            folder,
            gate: Gate::new(),
            heard: Arc::default(),
        }
    }

    /// The same with another pattern of the user's.
    pub(crate) fn with_pattern(self, file: &str, text: &str) -> Self {
        fs::write(self.folder.path().join("config/tmws/patterns").join(file), text).unwrap();
        self
    }

    fn call(&self, revision: Revision, method: Method, params: Value) -> Call {
        calls::admitted(self.gate, revision, method, params)
    }

    fn context(&self, scope: &Scope) -> Context {
        Context {
            connection: tmws::tool::ConnectionId(1),
            origin: tmws::tool::Origin::default(),
            scope: scope.clone(),
            notices: Arc::clone(&self.heard) as Arc<dyn Notices>,
            cancel: CancellationToken::new(),
            deadline: Instant::now() + Duration::from_secs(20),
        }
    }

    async fn ask_as(&self, scope: &Scope, revision: Revision, method: Method, params: Value) -> Reply {
        Arc::clone(&self.service).call(self.call(revision, method, params), self.context(scope)).await
    }

    pub(crate) async fn ask(&self, method: Method, params: Value) -> Reply {
        self.ask_as(&self.scope, Revision::V2025_11_25, method, params).await
    }

    /// Calls a tool; its answer, whether it failed, and its `_meta`.
    pub(crate) async fn tool(&self, name: &str, arguments: Value) -> (Value, bool, Value) {
        told(self.ask(Method::ToolsCall, json!({"name": name, "arguments": arguments})).await)
    }

    async fn list(&self, method: Method) -> Vec<Value> {
        match self.ask(method, json!({})).await {
            Reply::List(items) => items.to_vec(),
            other => panic!("{other:?}"),
        }
    }
}

fn told(reply: Reply) -> (Value, bool, Value) {
    let Reply::Result(result) = reply else { panic!("{reply:?}") };
    let text = result["content"][0]["text"].as_str().unwrap();
    let failed = result.get("isError").is_some_and(|flag| flag == true);
    (serde_json::from_str(text).unwrap(), failed, result.get("_meta").cloned().unwrap_or_default())
}

pub(crate) fn result(reply: Reply) -> Value {
    let Reply::Result(result) = reply else { panic!("{reply:?}") };
    Value::Object(result)
}

fn schema(tool: &str, direction: &str) -> jsonschema::Validator {
    let (.., text) = SCHEMAS.iter().find(|(name, _, kind, _)| (*name, *kind) == (tool, direction)).unwrap();
    jsonschema::validator_for(&serde_json::from_str(text).unwrap()).unwrap()
}

#[tokio::test]
async fn the_four_tools_are_listed_in_a_fixed_order() {
    let bench = Bench::new();
    insta::assert_json_snapshot!("tools", bench.list(Method::ToolsList).await);
}

#[test]
fn what_needs_nothing_is_ready_at_the_first_poll() {
    let bench = Bench::new();
    let waker = std::task::Waker::noop();
    for method in [Method::ToolsList, Method::ResourcesTemplatesList] {
        let call = bench.call(Revision::V2025_11_25, method, json!({}));
        let mut reply = Arc::clone(&bench.service).call(call, bench.context(&bench.scope));
        assert!(reply.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_ready(), "{method:?}");
    }
}

#[tokio::test]
async fn lists_touch_no_store() {
    let bench = Bench::new();
    for method in
        [Method::ToolsList, Method::PromptsList, Method::ResourcesList, Method::ResourcesTemplatesList]
    {
        bench.list(method).await;
    }
    bench.tool("find_patterns", json!({})).await;
    bench.tool("execute_pattern", json!({"pattern": "test.echo"})).await;
    assert!(!bench.folder.path().join("data").exists());
}

/// Calls that are answered in every shape that the tools have.
pub(crate) async fn calls_of_every_shape(bench: &Bench) -> Vec<(&'static str, Value)> {
    let many: Vec<String> = (0..80).map(|n| format!("line {n} says a few words")).collect();
    let shrunk =
        bench.tool("execute_pattern", json!({"pattern": "test.echo", "input": {"lines": many}})).await.0;
    let handle = shrunk["more"]["handle"].clone();
    let etag = bench.tool("execute_pattern", json!({"pattern": "test.echo"})).await.0["etag"].clone();
    let id = bench.tool("remember", json!({"content": "The port is 7337."})).await.0["id"].clone();
    vec![
        ("execute_pattern", json!({"pattern": "test.echo", "input": {"word": "world"}})),
        ("execute_pattern", json!({"pattern": "test.echo@1"})),
        ("execute_pattern", json!({"pattern": "test.echo", "unless": etag})),
        ("execute_pattern", json!({"pattern": "test.echo", "input": {"lines": many}})),
        ("execute_pattern", json!({"query": "please echo to me"})),
        ("execute_pattern", json!({"query": "zzz qqq xxx"})),
        ("execute_pattern", json!({"pattern": "no.such"})),
        ("find_patterns", json!({})),
        ("find_patterns", json!({"query": "echo", "limit": 1})),
        ("get_result", json!({"handle": handle})),
        ("get_result", json!({"handle": handle, "select": "$.lines", "offset": 10, "limit": 2})),
        ("get_result", json!({"handle": handle, "select": "$.said"})),
        ("get_result", json!({"handle": "r_none"})),
        ("remember", json!({"content": "The port is 7337."})),
        (
            "remember",
            json!({"content": "The port is 7400.", "tags": ["net"], "importance": 1, "supersedes": id}),
        ),
        ("remember", json!({"content": " "})),
    ]
}

#[tokio::test]
async fn every_answer_fits_its_versioned_schema() {
    let bench = Bench::new();
    for (tool, arguments) in calls_of_every_shape(&bench).await {
        let (answer, failed, meta) = bench.tool(tool, arguments.clone()).await;
        let shown = format!("{tool} {arguments}: {answer}");
        if let Some(error) = schema(tool, "output").iter_errors(&answer).next() {
            panic!("{shown}: {error}");
        }
        assert_eq!(failed, answer.get("error").is_some(), "{shown}");
        assert_eq!(answer.get("unchanged").is_some(), arguments.get("unless").is_some(), "{shown}");
        if tool != "find_patterns" {
            assert_eq!(meta["tmws/scope"]["principal"], "local", "{shown}");
        }
    }
}

/// Arguments, and what is said about them; `None`: they fit.
pub(crate) fn arguments() -> Vec<(&'static str, Value, Option<&'static str>)> {
    let long = "x".repeat(2_001);
    vec![
        ("execute_pattern", json!({"pattern": "test.echo"}), None),
        (
            "execute_pattern",
            json!({"pattern": "test.echo", "query": null, "input": null, "mode": null, "fresh": null}),
            None,
        ),
        ("execute_pattern", json!({"query": "echo to me", "mode": "fast", "fresh": true, "input": {}}), None),
        (
            "execute_pattern",
            json!({}),
            Some("give `pattern` (a name that find_patterns lists) or `query` (a question in words)"),
        ),
        (
            "execute_pattern",
            json!({"pattern": "a", "query": "b"}),
            Some("give either `pattern` or `query`, not both"),
        ),
        (
            "execute_pattern",
            json!({"patern": "a"}),
            Some(
                "unknown argument `patern`; did you mean `pattern`? (known: pattern, query, input, mode, session, unless, fresh)",
            ),
        ),
        ("execute_pattern", json!({"pattern": 3}), Some("`pattern` must be a string, not a number")),
        ("execute_pattern", json!({"pattern": ""}), Some("`pattern` must not be empty")),
        ("execute_pattern", json!({"query": "  "}), Some("`query` must not be blank")),
        ("execute_pattern", json!({"query": long}), Some("`query` has more than 2000 characters")),
        (
            "execute_pattern",
            json!({"pattern": "a", "input": "x"}),
            Some("`input` must be an object, not a string"),
        ),
        (
            "execute_pattern",
            json!({"pattern": "a", "mode": "slow"}),
            Some("`mode` must be fast, balanced or comprehensive"),
        ),
        (
            "execute_pattern",
            json!({"pattern": "a", "fresh": "yes"}),
            Some("`fresh` must be true or false, not a string"),
        ),
        ("execute_pattern", json!({"pattern": "a", "session": ""}), Some("`session` must not be empty")),
        ("find_patterns", json!({}), None),
        ("find_patterns", json!({"query": "", "limit": 50}), None),
        ("find_patterns", json!({"limit": 2.0}), None),
        ("find_patterns", json!({"limit": 0}), Some("`limit` must be a whole number from 1 to 50")),
        ("find_patterns", json!({"limit": 1.5}), Some("`limit` must be a whole number from 1 to 50")),
        ("get_result", json!({}), Some("`handle` is required")),
        (
            "get_result",
            json!({"handle": "r_x", "offset": -1}),
            Some("`offset` must be a whole number from 0 to 2147483647"),
        ),
        (
            "get_result",
            json!({"handle": "r_x", "limit": "5"}),
            Some("`limit` must be a whole number from 1 to 100000"),
        ),
        ("remember", json!({"content": "x", "tags": ["a"], "importance": 0.5}), None),
        ("remember", json!({"content": "\n"}), Some("`content` must not be blank")),
        (
            "remember",
            json!({"content": "x", "tags": "a"}),
            Some("`tags` must be a list of strings, not a string"),
        ),
        (
            "remember",
            json!({"content": "x", "tags": [""]}),
            Some("`tags` must hold strings only, none of them empty"),
        ),
        (
            "remember",
            json!({"content": "x", "importance": 2}),
            Some("`importance` must be a number from 0 to 1"),
        ),
        (
            "remember",
            json!({"content": "x", "importence": 1}),
            Some(
                "unknown argument `importence`; did you mean `importance`? (known: content, tags, importance, supersedes)",
            ),
        ),
    ]
}

#[tokio::test]
async fn arguments_that_do_not_fit_are_told_as_the_revision_wants() {
    let bench = Bench::new();
    for (tool, arguments, expected) in arguments() {
        let Some(expected) = expected else { continue };
        for revision in Revision::ALL {
            let params = json!({"name": tool, "arguments": arguments});
            let reply = bench.ask_as(&bench.scope, revision, Method::ToolsCall, params).await;
            if revision <= Revision::V2025_06_18 {
                assert_eq!(reply, Reply::Error(CallError::InvalidParams(expected.to_owned())), "{revision}");
            } else {
                let (answer, failed, _) = told(reply);
                assert!(failed);
                assert_eq!(answer["error"], "invalid_input", "{revision}");
                assert_eq!(answer["message"], expected, "{revision}");
            }
        }
    }
}

#[tokio::test]
async fn code_and_versioned_schema_agree_on_arguments() {
    let bench = Bench::new();
    for (tool, arguments, expected) in arguments() {
        assert_eq!(schema(tool, "input").is_valid(&arguments), expected.is_none(), "{tool} {arguments}");
        if expected.is_none() {
            let (answer, failed, _) = bench.tool(tool, arguments.clone()).await;
            assert!(!failed, "{tool} {arguments}: {answer}");
        }
    }
}

#[tokio::test]
async fn an_unknown_tool_is_a_protocol_error_with_the_nearest_name() {
    let bench = Bench::new();
    let reply = bench.ask(Method::ToolsCall, json!({"name": "execute_patern"})).await;
    let expected = "unknown tool `execute_patern`; did you mean `execute_pattern`?";
    assert_eq!(reply, Reply::Error(CallError::InvalidParams(expected.to_owned())));
}

#[tokio::test]
async fn failures_are_codes_with_what_to_do() {
    let bench = Bench::new();
    let mut told = Vec::new();
    for arguments in [
        json!({"pattern": "test.eco"}),
        json!({"pattern": "test.echo@2"}),
        json!({"pattern": "test.echo", "input": {"wrod": "x"}}),
        json!({"pattern": "test.echo", "input": {"times": 10}}),
        json!({"pattern": "test.echo", "session": "s_none"}),
        json!({"pattern": "memory.remember", "input": {"content": "x"}}),
    ] {
        let (answer, failed, _) = bench.tool("execute_pattern", arguments.clone()).await;
        assert!(failed, "{arguments}");
        told.push((arguments, answer));
    }
    insta::assert_json_snapshot!("failures", told);
}

#[tokio::test]
async fn the_payload_is_what_the_setting_says_where_the_revision_can() {
    for (payload, revision, text, structured) in [
        ("text", Revision::V2026_07_28, true, false),
        ("structured", Revision::V2026_07_28, false, true),
        ("structured", Revision::V2025_06_18, false, true),
        ("structured", Revision::V2025_03_26, true, false),
        ("both", Revision::V2025_11_25, true, true),
        ("both", Revision::V2024_11_05, true, false),
    ] {
        let bench = Bench::with(&[("TMWS_PAYLOAD", payload)]);
        let params = json!({"name": "execute_pattern", "arguments": {"pattern": "test.echo"}});
        let answer = result(bench.ask_as(&bench.scope, revision, Method::ToolsCall, params).await);
        let blocks = answer["content"].as_array().unwrap();
        assert_eq!(
            (blocks.len(), answer.get("structuredContent").is_some()),
            (usize::from(text), structured),
            "{payload} {revision}"
        );
        if text && structured {
            let parsed: Value = serde_json::from_str(blocks[0]["text"].as_str().unwrap()).unwrap();
            assert_eq!(parsed, answer["structuredContent"]);
        }
    }
}

#[tokio::test]
async fn the_receipt_tells_what_ran_and_the_scope_whose_it_was() {
    let bench = Bench::new();
    let (_, _, meta) = bench.tool("execute_pattern", json!({"pattern": "test.echo"})).await;
    let receipt = &meta["tmws/receipt"];
    assert_eq!(receipt["pattern"], "test.echo@1.2.3");
    assert_eq!(receipt["matched_by"], "name");
    assert!(receipt["tokens_out"].as_u64().unwrap() > 0);
    assert_eq!(receipt["steps"][0]["id"], "said");
    assert_eq!(meta["tmws/scope"]["project"], bench.scope.project().as_str());
    assert!(!meta.to_string().contains("session"), "a session key is nobody's business");
}

#[tokio::test]
async fn progress_is_told_only_where_it_is_wanted() {
    let bench = Bench::new();
    let arguments = json!({"name": "execute_pattern", "arguments": {"pattern": "test.echo"}});
    bench.ask(Method::ToolsCall, arguments.clone()).await;
    assert_eq!(*bench.heard.0.lock().unwrap(), []);
    let mut wanted = arguments;
    wanted["_meta"] = json!({"progressToken": "p"});
    bench.ask(Method::ToolsCall, wanted).await;
    let heard = bench.heard.0.lock().unwrap();
    assert!(
        matches!(heard.last(), Some(Notice::Progress { progress, total: Some(total), .. }) if (progress - total).abs() < 1e-9),
        "{heard:?}"
    );
}

#[tokio::test]
async fn patterns_that_write_are_never_listed_offered_or_run() {
    let bench = Bench::new();
    let listed = bench.list(Method::ResourcesList).await;
    assert!(listed.iter().any(|resource| resource["uri"] == "pattern://test.echo"));
    assert!(!listed.iter().any(|resource| resource["uri"] == "pattern://memory.remember"));
    let found = bench.tool("find_patterns", json!({"query": "remember this decision", "limit": 50})).await.0;
    assert!(!found.to_string().contains("memory.remember\""), "{found}");
    let reply = bench.ask(Method::ResourcesRead, json!({"uri": "pattern://memory.remember"})).await;
    assert!(matches!(reply, Reply::Error(CallError::ResourceNotFound { .. })));
}

#[tokio::test]
async fn resources_are_read_by_their_uri() {
    let bench = Bench::new();
    let read = async |uri: String| bench.ask(Method::ResourcesRead, json!({"uri": uri})).await;
    let pattern = result(read("pattern://test.echo".to_owned()).await);
    assert_eq!(pattern["contents"][0]["text"], ECHO);
    assert_eq!(pattern["contents"][0]["mimeType"], "application/yaml");

    let id = bench.tool("remember", json!({"content": "Releases are signed.", "tags": ["Release"]})).await.0
        ["id"]
        .clone();
    let uri = format!("memory://{}", id.as_str().unwrap());
    let memory = result(read(uri.clone()).await);
    let memory: Value = serde_json::from_str(memory["contents"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!((&memory["content"], &memory["tags"]), (&json!("Releases are signed."), &json!(["release"])));

    let lines: Vec<String> = (0..80).map(|n| format!("line {n} says a few words")).collect();
    let shrunk =
        bench.tool("execute_pattern", json!({"pattern": "test.echo", "input": {"lines": lines}})).await.0;
    let handle = format!("result://{}", shrunk["more"]["handle"].as_str().unwrap());
    let whole = result(read(handle.clone()).await);
    let whole: Value = serde_json::from_str(whole["contents"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(whole["lines"].as_array().unwrap().len(), 80);

    // Unknown and foreign ones cannot be told apart.
    let stranger = Scope::mint(ProjectId::parse("another").unwrap(), "local", "default", None);
    for uri in [uri, handle] {
        let foreign =
            bench.ask_as(&stranger, Revision::V2025_11_25, Method::ResourcesRead, json!({"uri": uri})).await;
        assert_eq!(foreign, Reply::Error(CallError::ResourceNotFound { uri }));
    }
    for uri in ["memory://m_none", "result://r_none", "pattern://no.such", "file:///etc/passwd", "pattern://"]
    {
        let expected = Reply::Error(CallError::ResourceNotFound { uri: uri.to_owned() });
        assert_eq!(read(uri.to_owned()).await, expected);
    }
}

#[tokio::test]
async fn prompts_are_the_patterns_that_declare_one() {
    let bench = Bench::new();
    let prompts = bench.list(Method::PromptsList).await;
    let echo = prompts.iter().find(|prompt| prompt["name"] == "test.echo").unwrap();
    insta::assert_json_snapshot!("prompt", echo);
    let params = json!({"name": "test.echo", "arguments": {"word": "world", "times": "3"}});
    let got = result(bench.ask(Method::PromptsGet, params).await);
    assert_eq!(got["messages"][0]["role"], "user");
    let text = got["messages"][0]["content"]["text"].as_str().unwrap();
    assert!(
        text.starts_with("Say something (answered by the pattern test.echo):\n{\"said\":\"world!\""),
        "{text}"
    );
    assert!(text.contains("\"times\":3"), "{text}");
}

#[tokio::test]
async fn a_prompt_asked_for_wrongly_is_a_protocol_error() {
    let bench = Bench::new();
    for (params, expected) in [
        (json!({"name": "test.ecco"}), "unknown prompt `test.ecco`; did you mean `test.echo`?"),
        (
            json!({"name": "test.echo", "arguments": {"wrod": "x"}}),
            "unknown argument `wrod`; did you mean `word`?",
        ),
    ] {
        let reply = bench.ask(Method::PromptsGet, params).await;
        assert_eq!(reply, Reply::Error(CallError::InvalidParams(expected.to_owned())));
    }
}

#[tokio::test]
async fn a_memory_that_changes_is_announced() {
    let bench = Bench::new();
    let mut events = bench.service.events();
    let id = bench.tool("remember", json!({"content": "Old."})).await.0["id"].as_str().unwrap().to_owned();
    assert_eq!(
        events.try_recv().unwrap().event,
        ServerEvent::ResourceUpdated { uri: format!("memory://{id}") }
    );
    bench.tool("remember", json!({"content": "New.", "supersedes": id})).await;
    let told: Vec<ServerEvent> =
        std::iter::from_fn(|| events.try_recv().ok()).map(|change| change.event).collect();
    assert!(told.contains(&ServerEvent::ResourceUpdated { uri: format!("memory://{id}") }), "{told:?}");
}

#[test]
fn the_server_says_what_it_is() {
    let bench = Bench::new();
    let profile = bench.service.profile();
    assert!(profile.instructions.as_ref().unwrap().chars().count() <= 512);
    let mut info = profile.server_info.clone();
    assert_eq!(info.insert("version".to_owned(), "[version]".into()), Some(env!("CARGO_PKG_VERSION").into()));
    insta::assert_json_snapshot!("server_info", info);
}

/// Loads what it is told to, and counts.
struct Scripted {
    texts: Mutex<Vec<String>>,
}

impl tmws::tool::PatternSource for Scripted {
    fn load(&self) -> tmws::tool::Loaded {
        let text = self.texts.lock().unwrap().last().cloned().unwrap();
        let file = tmws::pattern::library::SourceFile {
            file: "test.echo.yaml".to_owned(),
            text,
            origin: tmws::pattern::Origin::User("test".into()),
        };
        let library = tmws::pattern::library::Library::load(&[file], &tmws::pattern::trust::Trust::default());
        tmws::tool::Loaded {
            patterns: Arc::new(tmws::tool::Shelved::of(library)),
            promoted: Arc::from([]),
            faults: Arc::from([]),
        }
    }

    fn fingerprint(&self) -> u64 {
        self.texts.lock().unwrap().len() as u64
    }
}

#[tokio::test]
async fn patterns_that_changed_are_announced_and_used() {
    let source = Arc::new(Scripted { texts: Mutex::new(vec![ECHO.to_owned()]) });
    let given = Arc::clone(&source) as Arc<dyn tmws::tool::PatternSource>;
    let shelf = tmws::tool::Shelf::looking_again_after(Duration::ZERO, given);
    let (sender, mut events) = tokio::sync::broadcast::channel(8);
    shelf.announce_to(sender);
    shelf.ready().await.unwrap();
    shelf.refresh().await.unwrap();
    assert!(events.try_recv().is_err(), "the first load is no change");

    source.texts.lock().unwrap().push(ECHO.replace("1.2.3", "1.3.0"));
    shelf.refresh().await.unwrap();
    let told: Vec<ServerEvent> =
        std::iter::from_fn(|| events.try_recv().ok()).map(|change| change.event).collect();
    assert_eq!(told, [ServerEvent::ToolsChanged, ServerEvent::PromptsChanged, ServerEvent::ResourcesChanged]);
    let version =
        shelf.readable().await.unwrap().iter().find(|pattern| pattern.name == "test.echo").unwrap().version;
    assert_eq!((version.major, version.minor), (1, 3));
}
