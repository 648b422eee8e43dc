//! One service, several principals, projects, agents and sessions: nothing of one can be named, read, listed, heard of
//! or told apart from nothing by another.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tempfile::TempDir;
use tmws::{
    compose::{Local, Shared},
    config::{Config, Sources, load},
    engine::{Caller, ExecuteRequest, Outcome, Surroundings, Target, Unobserved},
    limits::ConnectionLimits,
    pattern::{
        Mode, Pattern,
        library::SourceFile,
        trust::{Trust, question},
    },
    protocol::{BatchAnswers, Call, CallError, Connection, Notice, Now, Reply, ServerEvent, Signer},
    revision::{Era, Revision},
    schema::Gate,
    scope::{ProjectId, Rights, Scope},
    session::{Driver, Identity, Mailbox, Wake},
    store::StoredResult,
    tool::{Change, ConnectionId, Context, Notices, Origin, Service},
    wire::Method,
};
use tokio_util::sync::CancellationToken;

use crate::support::calls;

const LEGACY: Revision = Revision::V2025_11_25;
const MODERN: Revision = Revision::V2026_07_28;
/// Well-formed names of nothing.
const NO_SESSION: &str = "s_AAAAAAAAAAAAAAAAAAAAAA";
const NO_RESULT: &str = "r_AAAAAAAAAAAAAAAAAAAAAA";
const NO_MEMORY: &str = "m_00000000000000000000000000";

struct Deaf;

impl Notices for Deaf {
    fn notify(&self, _: Notice) {}
}

/// A pattern of the user's folder.
fn pattern(name: &str, head: &str, steps: &str, value: &str) -> String {
    format!(
        "\
apiVersion: tmws/v1
kind: Pattern
name: {name}
version: 1.0.0
description: For tests of isolation only.
{head}
limits: {{timeout: 5s, max_steps: 4, max_bytes: 1MiB}}
steps: {steps}
output:
  schema: {{type: object}}
  value: '{value}'
  budget: {{tokens: 200, shrink: [{{truncate: lines, keep: 1}}], overflow: handle}}
annotations: {{readOnlyHint: true}}
tests:
  - {{name: none, inputs: {{}}, expect: {{max_tokens: 200}}}}
"
    )
}

fn triggers(phrase: &str, priority: u32) -> String {
    format!(
        "triggers:
  phrases: [{phrase}]
  examples: {{match: [{phrase}, please {phrase}, {phrase} now], no_match: [one thing, two things, three things]}}
  priority: {priority}
  auto: read-only"
    )
}

fn patterns() -> Vec<(&'static str, String)> {
    let inputs = "inputs: {type: object, additionalProperties: false, properties: {id: {type: string}, lines: {type: array}}}";
    let bind = "bind: {root: {from: workspace.root}}\npermissions: {fs.read: ['${ .bind.root }']}";
    vec![
        (
            "test.plain",
            pattern(
                "test.plain",
                &format!(
                    "type: infrastructure\n{}\n{inputs}\nprompt: {{title: Plain}}",
                    triggers("ponder the hedgehog", 10)
                ),
                "[{id: said, uses: data.merge, with: {items: [{said: 1}]}}]",
                "${ .steps.said + {lines: (.inputs.lines // [])} }",
            ),
        ),
        (
            "test.file",
            pattern(
                "test.file",
                &format!(
                    "type: infrastructure\n{}\ninputs: {{type: object}}\n{bind}\nprompt: {{title: File}}",
                    triggers("ponder the hedgehog", 20)
                ),
                "[{id: marker, uses: fs.read, with: {root: '${ .bind.root }', path: marker.txt}}]",
                "${ {text: (.steps.marker | tostring), lines: []} }",
            ),
        ),
        (
            "test.get",
            pattern(
                "test.get",
                &format!(
                    "type: memory\n{}\n{inputs}\npermissions: {{memory: [read]}}",
                    triggers("ponder the heron", 20)
                ),
                "[{id: one, uses: memory.get, with: {id: '${ .inputs.id }'}}]",
                "${ {text: .steps.one.text, lines: []} }",
            ),
        ),
    ]
}

/// The server's parts, with the projects alpha and beta (which have roots), gamma (which has none) and the server's own.
struct Bench {
    _folder: TempDir,
    shared: Shared,
    config: Config,
    gate: Gate,
}

/// Whose call, as told in tables: principal, project, agent, legacy session.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Who(&'static str, &'static str, &'static str, &'static str);

impl Who {
    fn identity(self, rights: Rights) -> Identity {
        let Self(principal, project, agent, session) = self;
        Identity::known(ProjectId::parse(project).unwrap(), principal, agent, session, rights)
    }

    fn scope(self, era: Era) -> Scope {
        self.identity(Rights::ALL).scope(era)
    }
}

const ADA: Who = Who("ada", "alpha", "default", "one");

/// Everybody but [`ADA`]: each differs in one thing, the last in all.
const OTHERS: [Who; 6] = [
    Who("ada", "beta", "default", "one"),
    Who("bob", "alpha", "default", "one"),
    Who("ada", "alpha", "critic", "one"),
    Who("ada", "alpha", "default", "two"),
    Who("ada", "personal", "default", "one"),
    Who("bob", "personal", "critic", "two"),
];

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let own_patterns = path("config/tmws/patterns");
        fs::create_dir_all(&own_patterns).unwrap();
        for (name, text) in patterns() {
            fs::write(own_patterns.join(format!("{name}.yaml")), text).unwrap();
        }
        for project in ["alpha", "beta", "own"] {
            let repository = path(project).join(".tmws/patterns");
            fs::create_dir_all(&repository).unwrap();
            fs::write(path(project).join("marker.txt"), format!("marker of {project}\n")).unwrap();
            let (_, text) = &patterns()[0];
            let name = format!("repository.{project}");
            let text = text.replace("test.plain", &name).replace("the hedgehog", "the badger");
            fs::write(repository.join("own.yaml"), text).unwrap();
        }
        let environment: BTreeMap<String, _> = [
            ("HOME".to_owned(), path("home").into_os_string()),
            ("XDG_CONFIG_HOME".to_owned(), path("config").into_os_string()),
            ("XDG_DATA_HOME".to_owned(), path("data").into_os_string()),
        ]
        .into();
        let sources = Sources { environment, working_directory: path("own"), ..Sources::default() };
        let config = load(&sources).unwrap();
        let root = |name: &str, root: Option<PathBuf>| (ProjectId::parse(name).unwrap(), root);
        let projects = [
            root("alpha", Some(path("alpha"))),
            root("beta", Some(path("beta"))),
            root("gamma", None),
            root("lost", Some(path("no-such-folder"))),
            root("personal", Some(path("alpha"))),
        ];
        Self { shared: Shared::new(&config, projects), config, gate: Gate::new(), _folder: folder }
    }

    fn call(&self, revision: Revision, method: Method, params: Value) -> Call {
        calls::admitted(self.gate, revision, method, params)
    }

    async fn ask(&self, scope: &Scope, revision: Revision, method: Method, params: Value) -> Reply {
        let context = Context {
            connection: ConnectionId(1),
            scope: scope.clone(),
            origin: Origin::default(),
            notices: Arc::new(Deaf),
            cancel: CancellationToken::new(),
            deadline: Instant::now() + Duration::from_secs(20),
        };
        Arc::clone(&self.shared.service).call(self.call(revision, method, params), context).await
    }

    async fn tool(&self, scope: &Scope, name: &str, arguments: Value) -> Value {
        told(&self.ask(scope, LEGACY, Method::ToolsCall, json!({"name": name, "arguments": arguments})).await)
    }

    async fn run(&self, scope: &Scope, pattern: &str, input: Value) -> Value {
        self.tool(scope, "execute_pattern", json!({"pattern": pattern, "input": input})).await
    }

    async fn list(&self, scope: &Scope, method: Method, key: &str) -> Vec<String> {
        match self.ask(scope, LEGACY, method, json!({})).await {
            Reply::List(items) => items.iter().map(|item| item[key].as_str().unwrap().to_owned()).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// Runs a pattern that writes, as a promoted tool would.
    async fn write(&self, scope: &Scope, session: Option<&str>, pattern: &str, input: Value) -> Value {
        let Value::Object(input) = input else { panic!("inputs are an object") };
        let request = ExecuteRequest {
            target: Target::Pattern(pattern.to_owned()),
            input,
            mode: Mode::Balanced,
            session: session.map(str::to_owned),
            unless: None,
            fresh: false,
            caller: Caller::Trusted,
        };
        let around = Surroundings {
            observer: &Unobserved,
            asker: std::sync::Arc::new(tmws::engine::NobodyToAsk),
            cancel: CancellationToken::new(),
            deadline: Instant::now() + Duration::from_secs(20),
            task_deadline: None,
        };
        self.shared.shelf.ready().await.unwrap();
        assert_eq!(*self.shared.shelf.faults(), [] as [String; 0]);
        match self.shared.engine.execute(scope, request, around).await {
            Ok(execution) => match execution.outcome {
                Outcome::Output { value, .. } => Arc::unwrap_or_clone(value),
                other => panic!("{other:?}"),
            },
            Err(error) => json!({"error": error.kind.code(), "message": error.message, "part": error.part}),
        }
    }

    async fn remember(
        &self,
        scope: &Scope,
        session: Option<&str>,
        visibility: &str,
        content: &str,
    ) -> String {
        let input =
            json!({"content": content, "visibility": visibility, "tags": [format!("tag-{visibility}")]});
        let stored = self.write(scope, session, "memory.remember", input).await;
        stored["id"].as_str().unwrap_or_else(|| panic!("{stored}")).to_owned()
    }

    async fn can_read(&self, scope: &Scope, id: &str) -> bool {
        let uri = format!("memory://{id}");
        match self.ask(scope, LEGACY, Method::ResourcesRead, json!({"uri": uri})).await {
            Reply::Result(_) => true,
            Reply::Error(CallError::ResourceNotFound { .. }) => false,
            other => panic!("{other:?}"),
        }
    }

    /// A kept result that is more than its page.
    async fn result(&self, scope: &Scope) -> String {
        let lines: Vec<String> = (0..200).map(|n| format!("line {n} says a few words")).collect();
        let shrunk = self.run(scope, "test.plain", json!({"lines": lines})).await;
        shrunk["more"]["handle"].as_str().unwrap_or_else(|| panic!("{shrunk}")).to_owned()
    }

    async fn session(&self, scope: &Scope) -> String {
        let opened = self.run(scope, "session.open", json!({})).await;
        opened["session"].as_str().unwrap_or_else(|| panic!("{opened}")).to_owned()
    }
}

fn told(reply: &Reply) -> Value {
    let Reply::Result(result) = reply else { panic!("{reply:?}") };
    serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap()
}

/// What is said, byte for byte, but for the caller's own receipt and scope, and the name that it gave itself.
fn said(reply: &Reply, name: &str) -> String {
    let shown = match reply {
        Reply::Result(result) => {
            let mut result = result.clone();
            result.remove("_meta");
            Value::Object(result).to_string()
        }
        other => format!("{other:?}"),
    };
    shown.replace(name, "NAME")
}

/// Every request that names a session, a result or a memory; `NAME` stands for it.
fn ways(kind: &str) -> Vec<(Method, Value)> {
    let tool =
        |name: &str, arguments: Value| (Method::ToolsCall, json!({"name": name, "arguments": arguments}));
    let read = |uri: &str| (Method::ResourcesRead, json!({"uri": uri}));
    match kind {
        "session" => vec![
            tool("execute_pattern", json!({"pattern": "test.plain", "session": "NAME"})),
            tool(
                "execute_pattern",
                json!({"pattern": "memory.recall", "input": {"query": "x"}, "session": "NAME"}),
            ),
            tool("execute_pattern", json!({"query": "please ponder the heron", "session": "NAME"})),
            tool("execute_pattern", json!({"pattern": "session.open", "session": "NAME"})),
            tool("execute_pattern", json!({"pattern": "session.close", "session": "NAME"})),
            tool("execute_pattern", json!({"pattern": "session.close", "input": {"session": "NAME"}})),
        ],
        "result" => vec![
            tool("get_result", json!({"handle": "NAME"})),
            tool("get_result", json!({"handle": "NAME", "select": "$.lines", "offset": 3, "limit": 1})),
            tool("execute_pattern", json!({"pattern": "test.plain", "session": "NAME"})),
            read("result://NAME"),
        ],
        "memory" => vec![
            tool("execute_pattern", json!({"pattern": "test.get", "input": {"id": "NAME"}})),
            tool("execute_pattern", json!({"pattern": "memory.recall", "input": {"query": "NAME"}})),
            read("memory://NAME"),
            (
                Method::CompletionComplete,
                json!({"ref": {"type": "ref/resource", "uri": "memory://{id}"}, "argument": {"name": "id", "value": "NAME"}}),
            ),
            tool("remember", json!({"content": "something newer", "supersedes": "NAME"})),
        ],
        other => panic!("no kind {other}"),
    }
}

fn named(params: &Value, name: &str) -> Value {
    serde_json::from_str(&params.to_string().replace("NAME", name)).unwrap()
}

#[tokio::test]
async fn what_is_another_s_is_answered_as_what_is_not_there() {
    let bench = Bench::new();
    let ada = ADA.scope(Era::Legacy);
    let long_ago = Timestamp::now() - SignedDuration::from_hours(100);
    let stale =
        StoredResult { pattern: "test.plain@1.0.0".to_owned(), value: json!({"lines": [1, 2, 3, 4]}) };
    let names = [
        ("session", NO_SESSION, bench.session(&ada).await),
        ("session", NO_SESSION, bench.shared.store.open_session(&ada, long_ago).await.unwrap()),
        ("result", NO_RESULT, bench.result(&ada).await),
        ("result", NO_RESULT, bench.shared.store.put_result(&ada, stale, long_ago).await.unwrap()),
        ("memory", NO_MEMORY, bench.remember(&ada, None, "agent", "Ada's own.").await),
    ];
    let expired = [&names[1].2, &names[3].2];
    for (kind, unknown, foreign) in &names {
        for (method, params) in ways(kind) {
            for revision in [Revision::V2024_11_05, LEGACY, MODERN] {
                for who in OTHERS {
                    // An agent and a session are no wall for handles, a session is none for what an agent sees.
                    let is_own =
                        who.0 == "ada" && who.1 == "alpha" && (*kind != "memory" || who.2 == "default");
                    if is_own && !expired.contains(&foreign) {
                        continue;
                    }
                    let scope = who.scope(revision.era());
                    let answers = [foreign.as_str(), unknown].map(|name| (name, named(&params, name)));
                    let mut texts = Vec::new();
                    for (name, params) in answers {
                        texts.push(said(&bench.ask(&scope, revision, method, params).await, name));
                    }
                    assert_eq!(texts[0], texts[1], "{who:?} {revision} {} {params}", method.as_str());
                    assert!(!texts[0].contains("Ada"), "{}", texts[0]);
                }
            }
        }
    }
    // The table would prove nothing if the names led nowhere for their owner either.
    for (kind, unknown, own) in names.iter().filter(|(_, _, name)| !expired.contains(&name)) {
        for (method, params) in ways(kind) {
            if params.to_string().contains("memory.recall") && *kind == "memory"
                || *kind == "result" && params.to_string().contains("session")
            {
                continue;
            }
            let own = said(&bench.ask(&ada, LEGACY, method, named(&params, own)).await, own);
            let nothing = said(&bench.ask(&ada, LEGACY, method, named(&params, unknown)).await, unknown);
            assert_ne!(own, nothing, "{kind} {} {params}", method.as_str());
            // Closed by its owner in this very loop: the last way finds nothing any more.
            if params.to_string().contains("session.close") {
                break;
            }
        }
    }
}

#[tokio::test]
async fn only_the_owner_closes_a_session() {
    let bench = Bench::new();
    let ada = ADA.scope(Era::Modern);
    let session = bench.session(&ada).await;
    for who in [OTHERS[0], OTHERS[1], OTHERS[4], OTHERS[5]] {
        let closed = bench.run(&who.scope(Era::Modern), "session.close", json!({"session": session})).await;
        assert_eq!(closed["closed"], false, "{who:?}");
    }
    assert_eq!(bench.run(&ada, "session.close", json!({"session": session})).await["closed"], true);
}

/// Who sees a memory of [`ADA`]'s with this visibility, of all others.
fn sees(who: Who, visibility: &str) -> bool {
    let Who(principal, project, agent, session) = who;
    match visibility {
        "project" => project == "alpha",
        "agent" => (principal, project, agent) == ("ada", "alpha", "default"),
        "session" => (principal, project, session) == ("ada", "alpha", "one"),
        "shared" => principal == "ada",
        other => panic!("no visibility {other}"),
    }
}

fn changes(events: &mut tokio::sync::broadcast::Receiver<Change>) -> Vec<Change> {
    std::iter::from_fn(|| events.try_recv().ok()).collect()
}

#[tokio::test]
async fn who_may_read_a_memory_hears_of_it_and_nobody_else_does_either() {
    let bench = Bench::new();
    let ada = ADA.scope(Era::Legacy);
    for visibility in ["project", "agent", "session", "shared"] {
        let mut events = bench.shared.service.events();
        let id = bench.remember(&ada, None, visibility, &format!("marker-{visibility}")).await;
        let stored = changes(&mut events);
        let everybody: Vec<Who> = OTHERS.into_iter().chain([ADA]).collect();
        for who in &everybody {
            let scope = who.scope(Era::Legacy);
            let expected = sees(*who, visibility);
            assert_eq!(bench.can_read(&scope, &id).await, expected, "{who:?} reads {visibility}");
            let found =
                bench.run(&scope, "memory.recall", json!({"query": format!("marker-{visibility}")})).await;
            let shown = found.to_string().contains(short(&id));
            assert_eq!(shown, expected, "{who:?} finds {visibility}: {found}");
            let reference = json!({"type": "ref/resource", "uri": "memory://{id}"});
            let params = json!({"ref": reference, "argument": {"name": "id", "value": ""}});
            let completed = bench.ask(&scope, LEGACY, Method::CompletionComplete, params).await;
            assert_eq!(format!("{completed:?}").contains(&id), expected, "{who:?} completes {visibility}");
        }
        bench.write(&ada, None, "memory.forget", json!({"ids": [id]})).await;
        let forgotten = changes(&mut events);
        for told in [stored, forgotten] {
            let [Change { audience, event }] = &told[..] else { panic!("{told:?}") };
            assert_eq!(*event, ServerEvent::ResourceUpdated { uri: format!("memory://{id}") });
            for who in &everybody {
                let listener = who.scope(Era::Legacy);
                assert_eq!(
                    audience.includes(&listener),
                    sees(*who, visibility),
                    "{who:?} hears {visibility}"
                );
                let blind = who.identity(Rights::ALL.without(Rights::MEMORY_READ)).scope(Era::Legacy);
                assert!(!audience.includes(&blind), "{who:?} may not read");
            }
        }
    }
}

#[tokio::test]
async fn what_is_personal_is_seen_and_heard_of_by_its_principal_alone() {
    let bench = Bench::new();
    let mut events = bench.shared.service.events();
    let home = Who("ada", "personal", "default", "one").scope(Era::Modern);
    let id = bench.tool(&home, "remember", json!({"content": "Ada likes tabs."})).await["id"].clone();
    let id = id.as_str().unwrap();
    // The same from a project of hers: still personal.
    bench.write(&ADA.scope(Era::Legacy), None, "memory.forget", json!({"ids": [id, NO_MEMORY]})).await;
    let told = changes(&mut events);
    assert_eq!(told.len(), 2, "{told:?}");
    for Change { audience, .. } in told {
        for who in OTHERS {
            assert_eq!(audience.includes(&who.scope(Era::Legacy)), who.0 == "ada", "{who:?}");
        }
    }
}

#[tokio::test]
async fn what_is_replaced_is_told_to_those_who_saw_it() {
    let bench = Bench::new();
    let ada = ADA.scope(Era::Legacy);
    let old = bench.remember(&ada, None, "agent", "The port is 1.").await;
    let mut events = bench.shared.service.events();
    let new = bench.tool(&ada, "remember", json!({"content": "The port is 2.", "supersedes": old})).await;
    let critic = OTHERS[2].scope(Era::Legacy);
    let heard: Vec<(ServerEvent, bool)> = changes(&mut events)
        .into_iter()
        .map(|Change { audience, event }| (event, audience.includes(&critic)))
        .collect();
    let uri = |id: &Value| ServerEvent::ResourceUpdated { uri: format!("memory://{}", id.as_str().unwrap()) };
    assert_eq!(heard, [(uri(&new["id"]), true), (uri(&json!(old)), false)], "{new}");
}

#[tokio::test]
async fn an_explicit_session_overrides_that_of_the_connection_and_without_one_there_is_none() {
    let bench = Bench::new();
    let (legacy, modern) = (ADA.scope(Era::Legacy), ADA.scope(Era::Modern));
    let session = bench.session(&modern).await;
    let inside = bench.remember(&modern, Some(&session), "session", "marker of the handle").await;
    let implicit = bench.remember(&legacy, None, "session", "marker of the connection").await;
    let refused = bench
        .write(&modern, None, "memory.remember", json!({"content": "nowhere", "visibility": "session"}))
        .await;
    assert_eq!(refused["error"], "invalid_input", "{refused}");

    let other = Who("ada", "alpha", "default", "two").scope(Era::Legacy);
    for (scope, handle, expected) in [
        (&legacy, None, Some(&implicit)),
        (&legacy, Some(&session), Some(&inside)),
        (&modern, None, None),
        (&modern, Some(&session), Some(&inside)),
        (&other, None, None),
        (&other, Some(&session), Some(&inside)),
    ] {
        let mut arguments = json!({"pattern": "memory.recall", "input": {"query": "marker"}});
        if let Some(handle) = handle {
            arguments["session"] = json!(handle);
        }
        let found = bench.tool(scope, "execute_pattern", arguments).await.to_string();
        for id in [&inside, &implicit] {
            assert_eq!(found.contains(short(id)), expected == Some(id), "{scope:?} {handle:?}: {found}");
        }
    }
}

/// The end of an id, by which answers name it.
fn short(id: &str) -> &str {
    &id[id.len() - 6..]
}

/// The patterns of this bench that each right, and a root, make available.
fn available(rights: Rights, has_root: bool) -> Vec<&'static str> {
    [
        ("build.digest", Rights::NONE, true),
        ("code.find", Rights::NONE, true),
        ("code.outline", Rights::NONE, true),
        ("db.ask", Rights::NONE, false),
        ("db.describe", Rights::NONE, false),
        ("diff.review", Rights::MEMORY_READ, true),
        ("log.digest", Rights::NONE, true),
        ("mcp.fanout", Rights::NONE, false),
        ("memory.by-tag", Rights::MEMORY_READ, false),
        ("memory.lookup", Rights::MEMORY_READ, false),
        ("memory.recall", Rights::MEMORY_READ, false),
        ("memory.timeline", Rights::MEMORY_READ, false),
        ("project.health", Rights::MEMORY_READ, true),
        ("repo.digest", Rights::MEMORY_READ, true),
        ("session.close", Rights::NONE, false),
        ("session.open", Rights::NONE, false),
        ("session.primer", Rights::MEMORY_READ, true),
        ("test.digest", Rights::NONE, true),
        ("test.file", Rights::NONE, true),
        ("test.get", Rights::MEMORY_READ, false),
        ("test.plain", Rights::NONE, false),
        ("tmws.stats", Rights::NONE, false),
        ("todo.sweep", Rights::NONE, true),
    ]
    .into_iter()
    .filter(|(_, needs, on_root)| rights.include(Rights::PATTERN_RUN.with(*needs)) && (has_root || !on_root))
    .map(|(name, ..)| name)
    .collect()
}

const PROMPTS: [&str; 6] =
    ["memory.recall", "memory.timeline", "repo.digest", "session.primer", "test.file", "test.plain"];

#[tokio::test]
async fn a_pattern_that_the_caller_may_not_run_is_nowhere_to_be_seen() {
    let bench = Bench::new();
    let (run, read, write) = (Rights::PATTERN_RUN, Rights::MEMORY_READ, Rights::MEMORY_WRITE);
    for rights in [Rights::NONE, read.with(write), run, run.with(read), run.with(write), Rights::ALL] {
        for (project, has_root) in
            [("alpha", true), ("gamma", false), ("elsewhere", false), ("personal", false), ("lost", false)]
        {
            let who = Who("ada", project, "default", "one");
            let scope = who.identity(rights).scope(Era::Legacy);
            let expected = available(rights, has_root);
            let shown = format!("{rights} in {project}");
            assert_eq!(
                bench.list(&scope, Method::ResourcesList, "name").await,
                expected,
                "resources with {shown}"
            );
            let prompts: Vec<&str> = expected.iter().copied().filter(|name| PROMPTS.contains(name)).collect();
            assert_eq!(
                bench.list(&scope, Method::PromptsList, "name").await,
                prompts,
                "prompts with {shown}"
            );
            let names = |value: &Value, key: &str| -> Vec<String> {
                let items = value[key].as_array().unwrap_or_else(|| panic!("{value}"));
                items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
            };
            let all = bench.tool(&scope, "find_patterns", json!({"limit": 50})).await;
            assert_eq!(names(&all, "patterns"), expected, "{shown}");
            let reference = json!({"type": "ref/resource", "uri": "pattern://{name}"});
            let params = json!({"ref": reference, "argument": {"name": "name", "value": ""}});
            let Reply::Result(completed) =
                bench.ask(&scope, LEGACY, Method::CompletionComplete, params).await
            else {
                panic!("no completion with {shown}");
            };
            assert_eq!(completed["completion"]["values"], json!(expected), "{shown}");

            let everything = "hedgehogs, repository, memories, files, sessions, comments, isolation";
            let ranked = bench.tool(&scope, "find_patterns", json!({"query": everything, "limit": 50})).await;
            let offered = if rights.include(run) {
                let offered = bench.tool(&scope, "execute_pattern", json!({"query": everything})).await;
                names(&offered, "candidates")
            } else {
                Vec::new()
            };
            for name in names(&ranked, "patterns").iter().chain(&offered) {
                assert!(expected.contains(&name.as_str()), "{name} with {shown}");
            }
            for name in available(Rights::ALL, true) {
                let params = json!({"uri": format!("pattern://{name}")});
                let read = bench.ask(&scope, LEGACY, Method::ResourcesRead, params).await;
                assert_eq!(matches!(read, Reply::Result(_)), expected.contains(&name), "{name} with {shown}");
                // A near miss of a name is no way to learn the name either.
                let missed = bench.run(&scope, &format!("{name}x"), json!({})).await.to_string();
                let hint = format!("did you mean {name}?");
                assert!(!missed.contains(&hint) || expected.contains(&name), "{missed} with {shown}");
            }
        }
    }
}

#[tokio::test]
async fn what_is_named_without_the_right_is_denied_with_the_scope_that_is_missing() {
    let bench = Bench::new();
    let ada = ADA.scope(Era::Legacy);
    let (memory, result) = (bench.remember(&ada, None, "project", "x").await, bench.result(&ada).await);
    let (run, read) = (Rights::PATTERN_RUN, Rights::MEMORY_READ);
    let tool =
        |name: &str, arguments: Value| (Method::ToolsCall, json!({"name": name, "arguments": arguments}));
    let complete = json!({"ref": {"type": "ref/resource", "uri": "memory://{id}"}, "argument": {"name": "id", "value": ""}});
    let rows = [
        (Rights::NONE, tool("execute_pattern", json!({"pattern": "test.plain"})), "pattern:run"),
        (Rights::NONE, tool("execute_pattern", json!({"pattern": "no.such"})), "pattern:run"),
        (Rights::NONE, tool("execute_pattern", json!({"query": "ponder the hedgehog"})), "pattern:run"),
        (Rights::NONE, tool("get_result", json!({"handle": result})), "pattern:run"),
        (Rights::NONE, tool("get_result", json!({"handle": NO_RESULT})), "pattern:run"),
        (run.with(read), tool("remember", json!({"content": "x"})), "memory:write"),
        (
            run,
            tool("execute_pattern", json!({"pattern": "memory.recall", "input": {"query": "x"}})),
            "memory:read",
        ),
        (
            run,
            tool("execute_pattern", json!({"pattern": "test.get", "input": {"id": memory}})),
            "memory:read",
        ),
        (read, (Method::PromptsGet, json!({"name": "test.plain"})), "pattern:run"),
        (
            run,
            (Method::PromptsGet, json!({"name": "memory.recall", "arguments": {"query": "x"}})),
            "memory:read",
        ),
        (run, (Method::ResourcesRead, json!({"uri": format!("memory://{memory}")})), "memory:read"),
        (run, (Method::ResourcesRead, json!({"uri": format!("memory://{NO_MEMORY}")})), "memory:read"),
        (read, (Method::ResourcesRead, json!({"uri": format!("result://{result}")})), "pattern:run"),
        (run, (Method::CompletionComplete, complete), "memory:read"),
    ];
    for (rights, (method, params), missing) in rows {
        for revision in [Revision::V2024_11_05, LEGACY, MODERN] {
            let scope = ADA.identity(rights).scope(revision.era());
            let reply = bench.ask(&scope, revision, method, params.clone()).await;
            let message = if method == Method::ToolsCall {
                let Reply::Result(result) = &reply else { panic!("{reply:?}") };
                assert_eq!(result["isError"], true, "{params}");
                let answer = told(&reply);
                assert_eq!(answer["error"], "denied", "{params}: {answer}");
                answer["message"].as_str().unwrap().to_owned()
            } else {
                let Reply::Error(CallError::InvalidParams(message)) = reply else {
                    panic!("{} {params}: {reply:?}", method.as_str())
                };
                message
            };
            assert!(message.contains(&format!("`{missing}`")), "{} {params}: {message}", method.as_str());
            // With the right it goes well, or fails for another reason.
            let granted = rights.with(Rights::parse(missing).unwrap());
            let scope = ADA.identity(granted).scope(revision.era());
            let reply = format!("{:?}", bench.ask(&scope, revision, method, params.clone()).await);
            assert!(!reply.contains("which this token does not grant"), "{params}: {reply}");
        }
    }
}

#[tokio::test]
async fn remember_needs_the_right_to_write_and_no_other() {
    let bench = Bench::new();
    let writer = ADA.identity(Rights::MEMORY_WRITE).scope(Era::Legacy);
    assert_eq!(bench.list(&writer, Method::ToolsList, "name").await, ["find_patterns", "remember"]);
    let stored = bench.tool(&writer, "remember", json!({"content": "Only written."})).await;
    assert!(bench.can_read(&ADA.scope(Era::Legacy), stored["id"].as_str().unwrap()).await, "{stored}");
}

#[tokio::test]
async fn a_repository_s_own_patterns_are_its_local_user_s_alone() {
    let bench = Bench::new();
    // Even where that user trusts them, as it does over stdio in the same folder.
    let local = Local::new(&bench.config);
    let root = local.folders.canonical_root().unwrap();
    let mut trust = Trust::default();
    for SourceFile { file, text, .. } in local.folders.read_project().files {
        trust.pin_file(&root, &file, &text, &question(&root, &file, &text).unwrap()).unwrap();
    }
    fs::write(local.folders.trust.as_ref().unwrap(), trust.to_text()).unwrap();
    let is_own = |pattern: &Arc<Pattern>| pattern.name == "repository.own";
    assert!(local.shelf.readable().await.unwrap().iter().any(is_own), "{:?}", local.shelf.faults());
    assert!(!bench.shared.shelf.readable().await.unwrap().iter().any(is_own));
    let own = Identity::known(bench.shared.own_project().clone(), "ada", "default", "one", Rights::ALL);
    let answer = bench.run(&own.scope(Era::Legacy), "repository.own", json!({})).await;
    assert_eq!(answer["error"], "unknown_pattern", "{answer}");
}

#[tokio::test]
async fn each_project_has_its_own_folder_or_none() {
    let bench = Bench::new();
    let own = bench.shared.own_project().as_str().to_owned();
    for (project, marker) in [
        ("alpha", Ok("marker of alpha")),
        ("beta", Ok("marker of beta")),
        (own.as_str(), Ok("marker of own")),
        ("gamma", Err("project gamma has no root on this server")),
        ("elsewhere", Err("project elsewhere has no root on this server")),
        ("personal", Err("project personal has no folder")),
        ("lost", Err("cannot be used now")),
    ] {
        let project = ProjectId::parse(project).unwrap();
        let scope = Identity::known(project.clone(), "ada", "default", "one", Rights::ALL).scope(Era::Modern);
        let by_name = bench.run(&scope, "test.file", json!({})).await;
        let by_query =
            bench.tool(&scope, "execute_pattern", json!({"query": "please ponder the hedgehog"})).await;
        match marker {
            Ok(marker) => {
                assert!(by_name["text"].as_str().unwrap().contains(marker), "{project}: {by_name}");
                assert!(by_query["text"].as_str().unwrap().contains(marker), "{project}: {by_query}");
            }
            Err(reason) => {
                assert_eq!(by_name["error"], "denied", "{project}: {by_name}");
                let message = by_name["message"].as_str().unwrap();
                assert!(message.contains(reason) && !message.contains("no-such-folder"), "{message}");
                // The pattern of higher priority that wants a folder is as if it were not there.
                assert_eq!(by_query["said"], 1, "{project}: {by_query}");
            }
        }
    }
}

/// One connection of `who`, whose lists have pages of two.
fn connected(bench: &Bench, runtime: &tokio::runtime::Handle, who: Who, signer: &Signer) -> Driver {
    struct Asleep;
    impl Wake for Asleep {
        fn wake(&self) {}
    }
    let service: Arc<dyn Service> = Arc::clone(&bench.shared.service) as Arc<dyn Service>;
    let limits = ConnectionLimits { page_items: 2, ..ConnectionLimits::default() };
    let signer = signer.for_audience(&format!("{}\n{}", who.0, who.1));
    let connection =
        Connection::new(service.profile(), Arc::new(Gate::new()), limits, signer, BatchAnswers::Frames);
    let (identity, mailbox) = (who.identity(Rights::ALL), Mailbox::new(Asleep));
    Driver::new(
        ConnectionId(1),
        connection,
        service,
        identity,
        runtime.clone(),
        mailbox,
        limits.call_deadline,
    )
}

#[tokio::test]
async fn a_cursor_of_another_s_turns_no_page() {
    let bench = Bench::new();
    let runtime = tokio::runtime::Handle::current();
    let signer = Signer::new([7; 32]);
    let page = |driver: &mut Driver, cursor: Option<&str>| -> Value {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": MODERN.as_str(),
            "io.modelcontextprotocol/clientCapabilities": {},
        });
        let mut request =
            json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}});
        if let Some(cursor) = cursor {
            request["params"]["cursor"] = json!(cursor);
        }
        let now = Now { monotonic: Instant::now(), unix_ms: 0 };
        driver.frame(now, request.to_string().as_bytes());
        let frames: Vec<_> = driver.take_outgoing().collect();
        let [frame] = &frames[..] else { panic!("{frames:?}") };
        serde_json::from_slice(frame.as_bytes()).unwrap()
    };
    let mut ada = connected(&bench, &runtime, ADA, &signer);
    let first = page(&mut ada, None);
    let cursor = first["result"]["nextCursor"].as_str().unwrap_or_else(|| panic!("{first}")).to_owned();
    let again = page(&mut connected(&bench, &runtime, ADA, &signer), Some(&cursor));
    assert_eq!(again["result"]["tools"].as_array().unwrap().len(), 2, "good on each of her connections");
    for who in [OTHERS[0], OTHERS[1], OTHERS[4], OTHERS[5]] {
        let mut other = connected(&bench, &runtime, who, &signer);
        let foreign = page(&mut other, Some(&cursor));
        assert_eq!(foreign["error"]["code"], -32602, "{who:?}: {foreign}");
        assert_eq!(foreign, page(&mut other, Some("AAAAAAAA")), "{who:?}");
    }
}

#[tokio::test]
async fn equal_outputs_have_equal_etags_but_an_etag_tells_nothing_of_others() {
    let bench = Bench::new();
    let etag = |project: &'static str, principal: &'static str| {
        let scope = Who(principal, project, "default", "one").scope(Era::Modern);
        let bench = &bench;
        async move { bench.run(&scope, "test.file", json!({})).await["etag"].as_str().unwrap().to_owned() }
    };
    let alpha = etag("alpha", "ada").await;
    assert_eq!(etag("alpha", "bob").await, alpha);
    let beta = Who("ada", "beta", "default", "one").scope(Era::Modern);
    let arguments = json!({"pattern": "test.file", "unless": alpha});
    let answer = bench.tool(&beta, "execute_pattern", arguments).await;
    assert!(answer["text"].as_str().unwrap().contains("marker of beta"), "{answer}");
}

#[tokio::test]
async fn figures_are_of_one_s_own_calls_in_the_project_alone() {
    let bench = Bench::new();
    let ada = ADA.scope(Era::Legacy);
    let own = |scope: &Scope| {
        let (bench, scope) = (&bench, scope.clone());
        async move { bench.run(&scope, "tmws.stats", json!({})).await }
    };
    bench.run(&ada, "test.plain", json!({})).await;
    bench.run(&ada, "test.get", json!({"id": "m_none"})).await;
    let told = own(&ada).await;
    assert_eq!((&told["calls"], &told["failed"]["not_found"]), (&json!(2), &json!(1)), "{told}");
    assert!(told["ms"]["p99"].as_f64().unwrap() > 0.0, "{told}");
    for other in [OTHERS[0], OTHERS[1], OTHERS[4], OTHERS[5]] {
        let told = own(&other.scope(Era::Legacy)).await;
        assert_eq!(told["calls"], 0, "{other:?}: {told}");
        assert!(told.get("patterns").is_none() && told.get("since").is_none(), "{told}");
    }
    // The same principal's other agents and sessions count with it, and so does having asked.
    let told = own(&OTHERS[2].scope(Era::Legacy)).await;
    assert_eq!(told["calls"], 3, "{told}");
}
