//! The old dialect in front of the real engine and store: what each method does with good and bad params, and that
//! nothing crosses between agents, principals and projects.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};
use tempfile::TempDir;
use tmws::{
    access::{Access, NewToken, Projects, TokenSource, add_token},
    compose::Shared,
    config::{Sources, load},
    limits::NetworkLimits,
    schema::dialect::{DialectMethod, verdict},
    scope::ProjectId,
    tool::Service,
};

use super::{Server, Setup, Ws, dialect::open};

const PATH: &str = "/ws/mcp?agent_id=ws-test-1";

/// A server with the service of `tmws serve` behind it.
pub(super) struct Desk {
    pub(super) server: Server,
    folder: TempDir,
}

impl Desk {
    pub(super) async fn open(setup: Setup) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(path("own")).unwrap();
        let environment: BTreeMap<String, _> = [
            ("HOME".to_owned(), path("home").into_os_string()),
            ("XDG_CONFIG_HOME".to_owned(), path("config").into_os_string()),
            ("XDG_DATA_HOME".to_owned(), path("data").into_os_string()),
        ]
        .into();
        let sources = Sources { environment, working_directory: path("own"), ..Sources::default() };
        let config = load(&sources).unwrap();
        let projects = ["alpha", "beta"].map(|name| (ProjectId::parse(name).unwrap(), None));
        let service = Arc::clone(&Shared::new(&config, projects).service) as Arc<dyn Service>;
        let setup = Setup { serves_dialect: true, service: Some(service), governs: true, ..setup };
        Self { server: Server::with(setup).await, folder }
    }
}

/// One connection of the dialect, which counts its ids.
struct Client {
    ws: Ws,
    session: String,
    id: u64,
}

impl Client {
    async fn open(server: &Server, path: &str, headers: &[(&'static str, &str)]) -> Self {
        let (ws, session) = open(server, path, headers).await;
        Self { ws, session, id: 0 }
    }

    /// The answer to one request: valid, and with its id.
    async fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.id += 1;
        let id = format!("req-{}", self.id);
        self.ws.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
        let answer = self.ws.receive().await;
        assert_eq!(answer["id"], id, "{answer}");
        verdict(DialectMethod::parse(method), &answer)
            .unwrap_or_else(|violation| panic!("{method} {params}\n{violation}: {answer}"));
        answer
    }

    async fn store(&mut self, content: &str) -> String {
        let stored = self.ask("memory/store", &json!({"content": content})).await;
        stored["result"]["memory_id"].as_str().unwrap_or_else(|| panic!("{stored}")).to_owned()
    }

    async fn contents(&mut self, query: &str) -> Vec<String> {
        let found = self.ask("memory/search", &json!({"query": query, "limit": 50})).await;
        let memories = found["result"]["memories"].as_array().unwrap_or_else(|| panic!("{found}"));
        memories.iter().map(|memory| memory["content"].as_str().unwrap().to_owned()).collect()
    }
}

/// Whether `found` has all that `wanted` has; text beginning with `~` need only be part of what stands there.
fn fits(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| found.get(key).is_some_and(|found| fits(found, wanted)))
        }
        (Value::Array(found), Value::Array(wanted)) => {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(found, wanted)| fits(found, wanted))
        }
        (Value::String(found), Value::String(wanted)) => match wanted.strip_prefix('~') {
            Some(part) => found.contains(part),
            None => found == wanted,
        },
        (found, wanted) => found == wanted,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_method_does_what_it_says_and_says_what_is_wrong() {
    let desk = Desk::open(Setup::default()).await;
    let mut client = Client::open(&desk.server, PATH, &[]).await;
    let own = client.session.clone();
    let bad = |message: &str| json!({"error": {"code": -32602, "message": message}});
    let failed = |code: i64, error: &str| json!({"error": {"code": code, "data": {"error": error}}});
    let gone = |message: &str| json!({"error": {"code": -32601, "message": message}});
    let memory = json!({"content": "The default port is 7337.", "importance": 0.5, "tags": ["port"]});
    // In this order: what is stored is found.
    let table: Vec<(&str, Value, Value)> = vec![
        (
            "store_memory",
            json!({"content": "Test memory content", "importance": 0.5, "tags": ["test"]}),
            json!({"result": {"success": true, "project": "personal"}}),
        ),
        (
            "memory/store",
            json!({"content": "The default port is 7337.", "tags": ["Port"], "metadata": {}, "session_id": own}),
            json!({"result": {"success": true, "memory_id": "~m_"}}),
        ),
        (
            "memory/store",
            json!({"content": "The default port is 7337.", "importance": null}),
            json!({"result": {"success": true, "duplicate": true}}),
        ),
        ("memory/store", json!({}), bad("~/params lacks `content`")),
        ("memory/store", json!({"content": "  "}), bad("~/params/content")),
        ("memory/store", json!({"content": "x", "importance": 1.5}), bad("~/params/importance")),
        (
            "memory/store",
            json!({"content": "x", "access_level": "private"}),
            bad("~/params/access_level is not known here"),
        ),
        ("memory/store", json!({"content": "x", "metadata": {"a": 1}}), bad("~/params/metadata")),
        ("memory/store", json!({"content": "x", "session_id": "s_other"}), bad("~/params/session_id")),
        ("memory/store", json!({"content": "x".repeat(70_000)}), failed(-32602, "invalid_input")),
        (
            "memory/search",
            json!({"query": "default port", "limit": 5}),
            json!({"result": {"success": true, "count": 1, "total": 1, "memories": [memory]}}),
        ),
        (
            "memory/search",
            json!({"query": "memory", "tags": ["test"], "min_importance": 0.2, "session_id": own}),
            json!({"result": {"count": 1, "memories": [{"content": "Test memory content", "created_at": "~T"}]}}),
        ),
        (
            "memory/search",
            json!({"query": "memory", "min_importance": 0.9}),
            json!({"result": {"memories": [], "total": 0}}),
        ),
        ("memory/search", json!({"query": "zebra"}), json!({"result": {"count": 0, "total": 0}})),
        ("memory/search", json!({"limit": 5}), bad("~/params lacks `query`")),
        ("memory/search", json!({"query": "x", "limit": 0}), bad("~/params/limit")),
        ("memory/search", json!({"query": "x", "include_shared": true}), bad("~/params/include_shared")),
        (
            "execute_pattern",
            json!({"pattern": "memory.recall", "input": {"query": "default port"}}),
            json!({"result": {"success": true, "pattern_name": "memory.recall", "cache_hit": false, "result": {"total": 1}}}),
        ),
        (
            "execute_pattern",
            json!({"query": "what do you remember about the default port?", "execution_mode": "balanced", "use_cache": false, "context": {}, "session_id": own}),
            json!({"result": {"success": true, "pattern_name": "memory.recall", "pattern_version": "1.0.0"}}),
        ),
        (
            "execute_pattern",
            json!({"query": "execute tool test", "execution_mode": "balanced", "use_cache": true}),
            json!({"result": {"success": false, "error": "~pattern", "cache_hit": false}}),
        ),
        ("execute_pattern", json!({}), bad("~`pattern`")),
        ("execute_pattern", json!({"query": "x", "pattern": "memory.recall"}), bad("~not both")),
        ("execute_pattern", json!({"query": "x", "execution_mode": "turbo"}), bad("~/params/execution_mode")),
        (
            "execute_pattern",
            json!({"pattern": "memory.remember", "input": {"content": "x"}}),
            failed(-32602, "denied"),
        ),
        ("execute_pattern", json!({"pattern": "no.such"}), failed(-32602, "unknown_pattern")),
        (
            "execute_pattern",
            json!({"pattern": "memory.recall", "input": {"q": 1}}),
            failed(-32602, "invalid_input"),
        ),
        (
            "execute_pattern",
            json!({"pattern": "memory.recall", "input": {"query": "x"}, "session_id": "s_AAAAAAAAAAAAAAAAAAAAAA"}),
            failed(-32602, "unknown_handle"),
        ),
        (
            "tools/list",
            json!({}),
            json!({"result": {"tools": [
            {"name": "execute_pattern"}, {"name": "find_patterns"}, {"name": "get_result"}, {"name": "remember"}]}}),
        ),
        ("tools/list", json!({"cursor": "x"}), bad("~cursor")),
        (
            "tools/call",
            json!({"name": "remember", "arguments": {"content": "By the tool"}}),
            json!({"result": {"content": [{"type": "text", "text": "~\"id\":\"m_"}]}}),
        ),
        (
            "tools/call",
            json!({"name": "get_result", "arguments": {"handle": "r_AAAAAAAAAAAAAAAAAAAAAA"}}),
            json!({"result": {"isError": true, "content": [{"text": "~unknown_handle"}]}}),
        ),
        ("tools/call", json!({"name": "remember", "arguments": {}}), bad("~content")),
        ("tools/call", json!({"name": "rember", "arguments": {}}), bad("~did you mean `remember`?")),
        (
            "tools/call",
            json!({"name": "store_memory", "arguments": {"content": "x"}}),
            bad("~the tool `remember`"),
        ),
        ("tools/call", json!({"arguments": {}}), bad("~/params lacks `name`")),
        ("ping", json!({}), json!({"result": {}})),
        ("task/create", json!({"title": "x"}), gone("~`tasks/get`")),
        ("task/list", json!({}), gone("~`memory/store`")),
        ("initialize", json!({"protocolVersion": "1.0"}), gone("~/ws (WebSocket) or /mcp (HTTP)")),
        ("resources/list", json!({}), gone("~/mcp")),
        ("workflow/execute", json!({}), gone("~`execute_pattern`")),
        ("memory/serach", json!({}), gone("~did you mean `memory/search`?")),
        ("echo", json!({}), gone("~there are execute_pattern")),
    ];
    let mut asked: Vec<&str> = Vec::new();
    for (method, params, wanted) in &table {
        let answer = client.ask(method, params).await;
        assert!(fits(&answer, wanted), "{method} {params}\nfound:  {answer}\nwanted: {wanted}");
        asked.push(method);
    }
    for method in DialectMethod::ALL {
        assert!(asked.contains(&method.as_str()), "{} is not in the table", method.as_str());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_measured_and_flags_are_true() {
    let desk = Desk::open(Setup::default()).await;
    let mut client = Client::open(&desk.server, PATH, &[]).await;
    for number in 0..30 {
        client
            .store(&format!("Note {number} on ports: {}", "a sentence of some length about it. ".repeat(20)))
            .await;
    }
    let (mut times, mut tokens) = (Vec::new(), Vec::new());
    for k in [1, 10] {
        let params = json!({"pattern": "memory.recall", "input": {"query": "ports", "k": k}});
        let result = client.ask("execute_pattern", &params).await["result"].take();
        times.push(result["execution_time_ms"].as_f64().unwrap());
        tokens.push(result["tokens_used"].as_u64().unwrap());
    }
    assert!(times.iter().all(|time| *time > 0.0), "{times:?}");
    assert!(tokens[0] < tokens[1], "{tokens:?}");
    // What does not fit the budget is said to be left out, and can be had.
    let found = client.ask("memory/search", &json!({"query": "ports", "limit": 100})).await["result"].take();
    let (count, total) = (found["count"].as_u64().unwrap(), found["total"].as_u64().unwrap());
    assert!(0 < count && count < total && total == 30, "{count} of {total}");
    assert_eq!(found["memories"].as_array().unwrap().len() as u64, count);
    let handle = found["more"]["handle"].as_str().unwrap();
    let rest = json!({"name": "get_result", "arguments": {"handle": handle, "select": "$.memories[29].id"}});
    let rest = client.ask("tools/call", &rest).await;
    assert!(rest["result"]["content"][0]["text"].as_str().unwrap().contains("m_"), "{rest}");
    let similarities: Vec<f64> = found["memories"]
        .as_array()
        .unwrap()
        .iter()
        .map(|memory| memory["similarity"].as_f64().unwrap())
        .collect();
    assert!(similarities.is_sorted_by(|a, b| a >= b), "{similarities:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_is_refused_with_a_time_to_come_again() {
    let limits = NetworkLimits { calls_per_second: 1, calls_burst: 2, ..NetworkLimits::default() };
    let desk = Desk::open(Setup { network_limits: limits, ..Setup::default() }).await;
    let mut client = Client::open(&desk.server, PATH, &[]).await;
    let mut refused = Vec::new();
    for _ in 0..6 {
        refused.push(client.ask("memory/search", &json!({"query": "x"})).await["error"].take());
    }
    let busy = refused.iter().find(|error| !error.is_null()).expect("a refusal");
    assert_eq!((&busy["code"], &busy["data"]["error"]), (&json!(429), &json!("busy")));
    assert!(busy["data"]["retryAfterMs"].is_u64(), "{busy}");
}

/// Tokens: principal, projects, scopes.
const TOKENS: [(&str, &[&str], &[&str]); 3] = [
    (
        "ada",
        &["personal=write", "alpha=write", "beta=write"],
        &["pattern:run", "memory:read", "memory:write"],
    ),
    ("ben", &["personal=write", "alpha=write"], &["pattern:run", "memory:read", "memory:write"]),
    ("cyd", &["alpha=read"], &["pattern:run"]),
];

async fn with_tokens() -> (Desk, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tokens.toml");
    let mut projects = Projects::default();
    for name in ["alpha", "beta"] {
        projects.add(ProjectId::parse(name).unwrap(), None);
    }
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let bearers = TOKENS
        .iter()
        .map(|(principal, opens, scopes)| {
            let new = NewToken {
                principal: (*principal).to_owned(),
                projects: owned(opens),
                scopes: owned(scopes),
                ..NewToken::default()
            };
            format!("Bearer {}", add_token(&file, &new, &projects).unwrap().0)
        })
        .collect();
    let access =
        Access::with_tokens(TokenSource::File(file), projects, || jiff::Timestamp::UNIX_EPOCH).unwrap();
    (Desk::open(Setup { access, ..Setup::default() }).await, bearers)
}

#[tokio::test(flavor = "multi_thread")]
async fn principals_and_projects_are_walls_and_agents_are_not() {
    let (desk, bearers) = with_tokens().await;
    let server = &desk.server;
    let headers = |who: usize| [("authorization", bearers[who].as_str())];
    // Principal, path, who they are; what each stores.
    let everybody = [
        (0, "/ws/mcp?agent_id=one", "ada personal"),
        (0, "/p/alpha/ws/mcp?agent_id=one", "ada alpha one"),
        (0, "/p/alpha/ws/mcp?agent_id=two", "ada alpha two"),
        (0, "/p/beta/ws/mcp?agent_id=one", "ada beta"),
        (1, "/ws/mcp?agent_id=one", "ben personal"),
        (1, "/p/alpha/ws/mcp?agent_id=one", "ben alpha"),
    ];
    let mut clients = Vec::new();
    for (who, path, name) in everybody {
        let mut client = Client::open(server, path, &headers(who)).await;
        client.store(&format!("everybody keeps a secret: {name}")).await;
        clients.push(client);
    }
    // Projects are shared by those whom their tokens let in; what is personal follows its principal.
    let sees = [
        ["ada personal"].as_slice(),
        &["ada personal", "ada alpha one", "ada alpha two", "ben alpha"],
        &["ada personal", "ada alpha one", "ada alpha two", "ben alpha"],
        &["ada personal", "ada beta"],
        &["ben personal"],
        &["ben personal", "ada alpha one", "ada alpha two", "ben alpha"],
    ];
    for ((client, (.., name)), sees) in clients.iter_mut().zip(everybody).zip(sees) {
        let mut found: Vec<String> = client
            .contents("everybody keeps a secret")
            .await
            .iter()
            .map(|content| content.trim_start_matches("everybody keeps a secret: ").to_owned())
            .collect();
        found.sort();
        let mut wanted = sees.to_vec();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{name}");
    }
    // A session id opens nothing to anybody else, and a handle nothing but to its own.
    let foreign = clients[0].session.clone();
    for client in &mut clients[1..] {
        let answer = client.ask("memory/store", &json!({"content": "x", "session_id": foreign})).await;
        assert_eq!(answer["error"]["code"], -32602, "{answer}");
        let run = json!({"pattern": "memory.recall", "input": {"query": "x"}, "session_id": foreign});
        let answer = client.ask("execute_pattern", &run).await;
        assert_eq!(answer["error"]["data"]["error"], "unknown_handle", "{answer}");
    }
    // An agent's name gives no rights and no project.
    for (who, path, status) in [
        (None, "/ws/mcp?agent_id=ada", 401),
        (Some(1), "/p/beta/ws/mcp?agent_id=ada", 403),
        (Some(2), "/ws/mcp?agent_id=ada", 403),
    ] {
        let headers: Vec<_> = who.into_iter().flat_map(headers).collect();
        match Ws::connect_with(server.address, path, &headers).await {
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => {
                assert_eq!(answer.status(), status, "{path}");
            }
            other => panic!("{path}: {:?}", other.map(|_| "it was let in")),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_token_may_not_do_is_denied() {
    let (desk, bearers) = with_tokens().await;
    let mut client =
        Client::open(&desk.server, "/p/alpha/ws/mcp?agent_id=ada", &[("authorization", &bearers[2])]).await;
    for (method, params) in [
        ("store_memory", json!({"content": "x"})),
        ("memory/store", json!({"content": "x"})),
        ("memory/search", json!({"query": "x"})),
        ("execute_pattern", json!({"pattern": "memory.recall", "input": {"query": "x"}})),
    ] {
        let answer = client.ask(method, &params).await;
        assert_eq!(answer["error"]["code"], -32602, "{method}: {answer}");
        assert_eq!(answer["error"]["data"]["error"], "denied", "{method}: {answer}");
    }
    let answer = client.ask("tools/call", &json!({"name": "remember", "arguments": {"content": "x"}})).await;
    assert_eq!(answer["result"]["isError"], true, "{answer}");
    let listed = client.ask("tools/list", &json!({})).await;
    assert!(listed["result"]["tools"].is_array());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_is_an_error_and_never_a_success() {
    let desk = Desk::open(Setup::default()).await;
    // Where the store should be there is a folder.
    std::fs::create_dir_all(desk.folder.path().join("data/tmws/tmws.db")).unwrap();
    let mut client = Client::open(&desk.server, PATH, &[]).await;
    for (method, params) in
        [("store_memory", json!({"content": "x"})), ("memory/search", json!({"query": "x"}))]
    {
        let answer = client.ask(method, &params).await;
        assert_eq!(answer["error"]["code"], -32603, "{method}: {answer}");
        assert_eq!(answer["error"]["data"]["error"], "store_unavailable", "{method}: {answer}");
        assert!(!answer.to_string().contains(desk.folder.path().to_str().unwrap()), "{answer}");
    }
}
