//! The old dialect on a whole `tmws serve`: nothing crosses between those who speak it, nor between them and MCP.

use futures_util::future::join_all;
use serde_json::{Value, json};
use tmws::schema::dialect::{DialectMethod, verdict};

use super::process::{PRINCIPALS, Served, token};
use crate::network::{Http, Ws};

const ROUNDS: usize = 5;

/// Who one client is; its mark is in all that it stores.
#[derive(Clone, Copy, Debug)]
struct Who {
    number: usize,
    principal: usize,
    project: &'static str,
}

impl Who {
    fn mark(self) -> String {
        format!("mark{:03}x", self.number)
    }

    fn is_read_by(self, reader: Self) -> bool {
        match self.project {
            "personal" => self.principal == reader.principal,
            project => project == reader.project,
        }
    }
}

struct Client {
    who: Who,
    everybody: Vec<Who>,
    ws: Ws,
    session: String,
}

impl Client {
    async fn open(served: &Served, who: Who, everybody: Vec<Who>) -> Self {
        // All call themselves the same.
        let path = match who.project {
            "personal" => "/ws/mcp?agent_id=same".to_owned(),
            project => format!("/p/{project}/ws/mcp?agent_id=same"),
        };
        let bearer = format!("Bearer {}", token(who.principal));
        let mut ws = Ws::connect_with(served.address, &path, &[("authorization", &bearer)]).await.unwrap();
        let welcome = ws.receive().await;
        verdict(None, &welcome).unwrap();
        let session = welcome["params"]["session_id"].as_str().unwrap().to_owned();
        Self { who, everybody, ws, session }
    }

    /// The answer, which holds nothing of anybody behind a wall. Ids are the same in every connection.
    async fn ask(&mut self, id: usize, method: &str, params: Value) -> Value {
        self.ws.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
        let answer = self.ws.receive().await;
        assert_eq!(answer["id"], id, "{:?}: {answer}", self.who);
        verdict(DialectMethod::parse(method), &answer)
            .unwrap_or_else(|violation| panic!("{violation}: {answer}"));
        let text = answer.to_string();
        for owner in self.everybody.iter().filter(|owner| !owner.is_read_by(self.who)) {
            assert!(!text.contains(&owner.mark()), "{:?} saw something of {owner:?}: {text}", self.who);
        }
        answer
    }

    async fn live(mut self) -> Self {
        let mark = self.who.mark();
        for round in 0..ROUNDS {
            let content = format!("Everybody keeps a secret, and {mark} is that of round {round}");
            let method = ["store_memory", "memory/store"][round % 2];
            let stored = self.ask(3 * round, method, json!({"content": content, "tags": [mark]})).await;
            assert_eq!(stored["result"]["success"], true, "{stored}");
            let found = self
                .ask(
                    3 * round + 1,
                    "memory/search",
                    json!({"query": "everybody keeps a secret", "limit": 100}),
                )
                .await;
            assert!(found["result"]["count"].as_u64().is_some_and(|count| count > 0), "{found}");
            let own = json!({"query": "secret", "tags": [mark], "session_id": self.session});
            let own = self.ask(3 * round + 2, "memory/search", own).await;
            assert_eq!(own["result"]["total"], round + 1, "{own}");
        }
        self
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_the_old_dialect_see_what_their_project_and_principal_may() {
    let served = Served::launch(true, &["old_dialect=true", "limits.calls_per_second=0"]);
    let homes = PRINCIPALS.iter().enumerate().flat_map(|(principal, (_, projects))| {
        projects.iter().chain(&["personal"]).map(move |project| (principal, *project))
    });
    let everybody: Vec<Who> = homes
        .flat_map(|home| [home, home])
        .enumerate()
        .map(|(number, (principal, project))| Who { number, principal, project })
        .collect();
    let clients = join_all(everybody.iter().map(|who| Client::open(&served, *who, everybody.clone()))).await;
    let lived = join_all(clients.into_iter().map(|client| tokio::spawn(client.live()))).await;
    let mut clients: Vec<Client> = lived.into_iter().map(Result::unwrap).collect();

    // What one stored in the dialect is there for MCP, in its project alone.
    let recall = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": "execute_pattern",
        "arguments": {"pattern": "memory.lookup", "input": {"query": "secret", "tags": [everybody[0].mark()]}},
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}},
    }});
    let bearer = format!("Bearer {}", token(everybody[0].principal));
    for (project, total) in [(everybody[0].project, ROUNDS), ("personal", 0)] {
        let headers = [
            ("authorization", bearer.as_str()),
            ("mcp-protocol-version", "2026-07-28"),
            ("mcp-method", "tools/call"),
            ("mcp-name", "execute_pattern"),
        ];
        let path = format!("/p/{project}/mcp");
        let answer = Http::connect(served.address).await.post_to(&path, &recall, &headers).await.json().await;
        let text: Value =
            serde_json::from_str(answer["result"]["content"][0]["text"].as_str().unwrap()).unwrap();
        assert_eq!(text["total"], total, "{project}: {text}");
    }
    // Nobody's session is anybody else's.
    let sessions: Vec<String> = clients.iter().map(|client| client.session.clone()).collect();
    for (at, client) in clients.iter_mut().enumerate() {
        let foreign = &sessions[(at + 1) % sessions.len()];
        let answer = client.ask(99, "memory/search", json!({"query": "x", "session_id": foreign})).await;
        assert_eq!(answer["error"]["code"], -32602, "{answer}");
    }
    served.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_speaks_the_old_dialect_to_a_server_that_was_not_told_to() {
    let served = Served::launch(false, &[]);
    let mut http = Http::connect(served.address).await;
    assert_eq!(http.send("GET", "/ws/mcp?agent_id=a", &[], "").await.status, 404);
    served.end();
}
