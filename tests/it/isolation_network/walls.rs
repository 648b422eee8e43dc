//! Fifty sessions at once, with equal ids and equal tokens, in two eras over two transports: what one says reaches those
//! who share its project, and nobody else.

use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::Barrier;

use super::{
    askers::{Asker, WAYS, Who},
    process::{PRINCIPALS, Served, token},
};
use crate::network::{Http, Ws};

const SESSIONS: usize = 50;
const ROUNDS: usize = 4;

/// Every principal in each of its projects over every way, over and over.
fn everybody() -> Vec<Who> {
    let homes: Vec<(usize, &'static str)> = PRINCIPALS
        .iter()
        .enumerate()
        .flat_map(|(principal, (_, projects))| {
            projects.iter().chain(&["personal"]).map(move |project| (principal, *project))
        })
        .collect();
    (0..SESSIONS)
        .map(|number| {
            let (principal, project) = homes[(number / WAYS.len()) % homes.len()];
            Who { number, way: WAYS[number % WAYS.len()], principal, project }
        })
        .collect()
}

/// What one session minted.
struct Minted {
    who: Who,
    session: Value,
    result: Value,
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_sessions_share_a_server_and_none_sees_behind_a_wall() {
    let served = Served::launch(true, &["limits.calls_per_second=0"]);
    let everybody = everybody();
    let askers =
        join_all(everybody.iter().map(|who| Asker::open(served.address, *who, everybody.clone()))).await;

    // All at the same time: store, then look for everything that there is.
    let together = Arc::new(Barrier::new(SESSIONS));
    let stored = askers.into_iter().map(|mut asker| {
        let together = Arc::clone(&together);
        tokio::spawn(async move {
            together.wait().await;
            let who = asker.who;
            let content =
                format!("Everybody keeps a secret, and {} is that of number {}", who.mark(), who.number);
            let id = asker.call("remember", json!({"content": content})).await["id"].clone();
            for _ in 0..ROUNDS {
                asker.say_back().await;
            }
            together.wait().await;
            asker.recall_everything().await;
            let read = asker
                .request("resources/read", json!({"uri": format!("memory://{}", id.as_str().unwrap())}))
                .await;
            assert!(
                read["result"]["contents"][0]["text"].as_str().unwrap().contains(&who.mark()),
                "{who:?}: {read}"
            );
            let session =
                asker.call("execute_pattern", json!({"pattern": "session.open"})).await["session"].clone();
            let result = asker.keep_a_result().await;
            (asker, Minted { who, session, result }, id)
        })
    });
    let (mut askers, mut minted, mut ids) = (Vec::new(), Vec::new(), Vec::new());
    for joined in join_all(stored).await {
        let (asker, one, id) = joined.unwrap();
        askers.push(asker);
        minted.push(one);
        ids.push(id);
    }

    // Then everybody tries what the others were given.
    let (minted, ids) = (Arc::new(minted), Arc::new(ids));
    let tried = askers.into_iter().map(|mut asker| {
        let (minted, ids) = (Arc::clone(&minted), Arc::clone(&ids));
        tokio::spawn(async move {
            asker.try_all(&minted, &ids).await;
            asker.close().await;
        })
    });
    for joined in join_all(tried).await {
        joined.unwrap();
    }
    served.end();
}

impl Asker {
    /// Its own words come back, whatever the others say under the same id at the same time.
    async fn say_back(&mut self) {
        let mark = self.who.mark();
        let said =
            self.call("execute_pattern", json!({"pattern": "test.echo", "input": {"mark": mark}})).await;
        assert_eq!(said["said"], mark, "{:?}", self.who);
    }

    /// Finds its own; what else it finds was looked at as it came.
    async fn recall_everything(&mut self) {
        for query in ["everybody keeps a secret".to_owned(), self.who.mark()] {
            let input = json!({"query": query});
            let found =
                self.call("execute_pattern", json!({"pattern": "memory.recall", "input": input})).await;
            let hits = found["hits"].as_array().unwrap_or_else(|| panic!("{:?}: {found}", self.who));
            assert!(!hits.is_empty(), "{:?}: {found}", self.who);
            if query == self.who.mark() {
                let own = |hit: &Value| hit["text"].as_str().is_some_and(|text| text.contains(&query));
                assert!(hits.iter().any(own), "{:?} did not find its own: {found}", self.who);
            }
        }
    }

    /// An answer that is too long: the rest is kept under a handle.
    async fn keep_a_result(&mut self) -> Value {
        let lines: Vec<String> =
            (0..80).map(|n| format!("{} says line {n} of many", self.who.mark())).collect();
        let arguments = json!({"pattern": "test.echo", "input": {"mark": self.who.mark(), "lines": lines}});
        let shrunk = self.call("execute_pattern", arguments).await;
        let handle = shrunk["more"]["handle"].clone();
        assert!(handle.is_string(), "{:?}: {shrunk}", self.who);
        handle
    }

    /// Handles open to those of the same principal in the same project, memories to those who may read them; to all
    /// others they are as unknown as if they had never been.
    async fn try_all(&mut self, minted: &[Minted], ids: &[Value]) {
        let result = |handle: &Value| json!({"handle": handle, "select": "$.lines", "limit": 1});
        let session = |handle: &Value, mark: &str| json!({"pattern": "test.echo", "input": {"mark": mark}, "session": handle});
        let mark = self.who.mark();
        let (_, unknown_result) = self.tool("get_result", result(&json!("r_AAAAAAAAAAAAAAAAAAAAAA"))).await;
        let (_, unknown_session) =
            self.tool("execute_pattern", session(&json!("s_AAAAAAAAAAAAAAAAAAAAAA"), &mark)).await;
        let unknown_memory =
            self.request("resources/read", json!({"uri": "memory://m_00000000000000000000000000"})).await;
        for (one, id) in minted.iter().zip(ids) {
            let own = one.who.home() == self.who.home();
            let (failed, answer) = self.tool("get_result", result(&one.result)).await;
            assert_eq!(failed, !own, "{:?} with a result of {:?}: {answer}", self.who, one.who);
            assert!(own || answer == unknown_result, "{answer} and {unknown_result}");
            let (failed, answer) = self.tool("execute_pattern", session(&one.session, &mark)).await;
            assert_eq!(failed, !own, "{:?} with a session of {:?}: {answer}", self.who, one.who);
            assert!(own || answer == unknown_session, "{answer} and {unknown_session}");
            let uri = format!("memory://{}", id.as_str().unwrap());
            let read = self.request("resources/read", json!({"uri": uri})).await;
            if self.may_read(one.who) {
                let text = read["result"]["contents"][0]["text"].as_str();
                assert!(text.is_some_and(|text| text.contains(&one.who.mark())), "{:?}: {read}", self.who);
            } else {
                let known_by =
                    |answer: &Value| (answer["error"]["code"].clone(), answer["error"]["message"].clone());
                assert!(read["error"].is_object(), "{:?} read a memory of {:?}: {read}", self.who, one.who);
                assert_eq!(
                    known_by(&read).1.as_str().unwrap().replace(&uri, "URI"),
                    known_by(&unknown_memory)
                        .1
                        .as_str()
                        .unwrap()
                        .replace("memory://m_00000000000000000000000000", "URI"),
                );
                assert_eq!(known_by(&read).0, known_by(&unknown_memory).0);
            }
        }
        assert_eq!(self.everybody().len(), minted.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_enters_without_a_token_or_into_the_project_of_another() {
    let served = Served::launch(true, &[]);
    let ben = token(1);
    for (token, path, status) in [
        (None, "/mcp", 401),
        (None, "/p/alpha/mcp", 401),
        (Some("tmws_for_tests_only_nobody_0123456789abcdef"), "/mcp", 401),
        (Some(ben.as_str()), "/p/beta/mcp", 403),
        (Some(ben.as_str()), "/p/gamma/mcp", 403),
    ] {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let headers: Vec<(&'static str, &str)> =
            bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
        let mut http = Http::connect(served.address).await;
        let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
        let answer = http.post_to(path, &ping, &headers).await;
        assert_eq!(answer.status, status, "{token:?} at {path}");
        let path = path.replace("mcp", "ws");
        match Ws::connect_with(served.address, &path, &headers).await {
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => {
                assert_eq!(answer.status(), status, "{token:?} at {path}");
            }
            Err(error) => panic!("{token:?} at {path}: {error}"),
            Ok(_) => panic!("{token:?} was let in at {path}"),
        }
    }
    served.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_id_of_http_is_good_for_its_principal_in_its_project_only() {
    let served = Served::launch(true, &[]);
    let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}}});
    let ping = json!({"jsonrpc": "2.0", "id": 2, "method": "ping"});
    let (ada, ben) = (format!("Bearer {}", token(0)), format!("Bearer {}", token(1)));
    let mut http = Http::connect(served.address).await;
    let answer = http.post_to("/p/alpha/mcp", &initialize, &[("authorization", &ada)]).await;
    assert_eq!(answer.status, 200);
    let session = answer.header("mcp-session-id").to_owned();
    drop(answer.text().await);
    for (bearer, path, status) in [
        (&ada, "/p/alpha/mcp", 200),
        (&ben, "/p/alpha/mcp", 404),
        (&ada, "/p/beta/mcp", 404),
        (&ada, "/mcp", 404),
        (&ada, "/p/alpha/mcp", 200),
    ] {
        let headers = [("authorization", bearer.as_str()), ("mcp-session-id", session.as_str())];
        let answer = http.post_to(path, &ping, &headers).await;
        assert_eq!(answer.status, status, "{path}");
        drop(answer.text().await);
    }
    served.end();
}
