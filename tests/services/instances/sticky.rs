//! Instances behind a proxy that keeps the requests of a session together: what an instance asks its client is answered at
//! that instance.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc};

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Client, Proxy, Service, serving, within};

const REVISION: &str = "2025-06-18";
const SESSIONS: usize = 12;

/// Two questions; the second quotes the answer to the first.
const ASKS: &str = "\
apiVersion: tmws/v1
kind: Pattern
name: test.twice
version: 1.0.0
type: memory
description: Asks twice. For tests only.
inputs: {type: object, additionalProperties: false, properties: {}}
permissions: {}
limits: {timeout: 60s, max_steps: 4, max_bytes: 1MiB}
steps:
  - {id: name, uses: control.ask, with: {message: Name?, schema: {type: object, properties: {name: {type: string}}, required: [name]}}}
  - id: sure
    uses: control.ask
    with:
      message: '${ \"really \\(.steps.name.content.name)?\" }'
      schema: {type: object, properties: {sure: {type: boolean}}, required: [sure]}
output:
  schema: {type: object}
  value: '${ {name: .steps.name.content.name, sure: .steps.sure.content.sure} }'
  budget: {tokens: 400}
";

/// A session of a client that may be asked.
struct Session {
    http: reqwest::Client,
    id: String,
}

impl Session {
    async fn open(proxy: SocketAddr) -> Self {
        // Once a process; there is no TLS here, but the client wants one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut session = Self { http: reqwest::Client::new(), id: String::new() };
        let params = json!({"protocolVersion": REVISION, "capabilities": {"elicitation": {}},
            "clientInfo": {"name": "test", "version": "1"}});
        let hello = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        let answer = session.post(proxy, &hello).await;
        assert_eq!(answer.status(), StatusCode::OK);
        session.id = answer.headers()["mcp-session-id"].to_str().unwrap().to_owned();
        drop(answer.text().await);
        let done =
            session.post(proxy, &json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        assert_eq!(done.status(), StatusCode::ACCEPTED);
        session
    }

    async fn post(&self, target: SocketAddr, message: &Value) -> Response {
        let mut request = self
            .http
            .post(format!("http://{target}/p/alpha/mcp"))
            .bearer_auth(serving::token("ada"))
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .body(message.to_string());
        if !self.id.is_empty() {
            request = request.header("mcp-session-id", &self.id).header("mcp-protocol-version", REVISION);
        }
        within("an answer", request.send()).await.unwrap()
    }

    /// Accepts what was asked.
    async fn accept(&self, target: SocketAddr, question: &Value, content: Value) -> StatusCode {
        let result = json!({"action": "accept", "content": content});
        let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": result});
        self.post(target, &answer).await.status()
    }
}

/// The messages of an event stream.
struct Messages {
    stream: Response,
    read: String,
}

impl Messages {
    async fn next(&mut self) -> Value {
        loop {
            if let Some((event, rest)) = self.read.split_once("\n\n") {
                let data = event.lines().find_map(|line| line.strip_prefix("data:")).map(str::trim);
                let message = data.and_then(|data| serde_json::from_str(data).ok());
                self.read = rest.to_owned();
                match message {
                    Some(message) => return message,
                    None => continue,
                }
            }
            let chunk = within("more of the stream", self.stream.chunk()).await.unwrap();
            self.read += std::str::from_utf8(&chunk.expect("the stream goes on")).unwrap();
        }
    }
}

/// One call with its two questions; `elsewhere`: an instance that did not ask.
async fn converse(proxy: SocketAddr, name: String, elsewhere: impl Fn(&str) -> SocketAddr) -> Session {
    let session = Session::open(proxy).await;
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": "execute_pattern", "arguments": {"pattern": "test.twice"}}});
    let mut messages = Messages { stream: session.post(proxy, &call).await, read: String::new() };
    assert_eq!(messages.stream.status(), StatusCode::OK);
    let first = messages.next().await;
    assert_eq!(
        (&first["method"], &first["params"]["message"]),
        (&json!("elicitation/create"), &json!("Name?"))
    );
    // Without the proxy's help it would go astray.
    session.accept(elsewhere(&session.id), &first, json!({"name": "nobody"})).await;
    assert_eq!(session.accept(proxy, &first, json!({"name": name})).await, StatusCode::ACCEPTED);
    let second = messages.next().await;
    assert_eq!(second["params"]["message"], format!("really {name}?"), "{second}");
    assert_eq!(session.accept(proxy, &second, json!({"sure": true})).await, StatusCode::ACCEPTED);
    let last = messages.next().await;
    let text = last["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{last}"));
    let body: Value = serde_json::from_str(text).unwrap();
    assert_eq!((&body["name"], &body["sure"]), (&json!(name), &json!(true)), "{body}");
    session
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_instance_asks_is_answered_through_a_proxy_that_keeps_sessions_together() {
    let service = Service::new(None).await;
    service.add_pattern("test.twice", ASKS);
    let mut instances = service.three().await;
    let addresses: Vec<SocketAddr> = instances.iter().map(|instance| instance.address).collect();
    let proxy = Arc::new(Proxy::sticky(addresses.clone()).await);
    let mut calls = JoinSet::new();
    for number in 0..SESSIONS {
        let (proxy, addresses) = (Arc::clone(&proxy), addresses.clone());
        calls.spawn(async move {
            let elsewhere = |session: &str| {
                let own = *proxy.sessions()[session].first().unwrap();
                addresses[(own + 1) % addresses.len()]
            };
            converse(proxy.address, format!("ship {number}"), elsewhere).await
        });
    }
    let mut sessions = Vec::new();
    while let Some(session) = within("a call's end", calls.join_next()).await {
        sessions.push(session.unwrap());
    }
    let went = proxy.sessions();
    assert_eq!(went.len(), SESSIONS);
    assert!(went.values().all(|numbers| numbers.len() == 1), "{went:?}");
    let used: BTreeSet<usize> = went.values().flatten().copied().collect();
    assert!(used.len() > 1, "all went to one instance: {went:?}");

    // The instance of some is gone: these go on elsewhere, and are asked there.
    let gone = *used.first().unwrap();
    instances[gone].kill().await;
    for session in &sessions {
        let mut client = Client::of_session(proxy.address, "ada", &session.id);
        let said = client.run("test.echo", json!({"mark": "still here"})).await.unwrap();
        assert_eq!(said.body["said"], "still here");
        let moved = &proxy.sessions()[&session.id];
        assert_eq!(moved.len(), 1 + usize::from(went[&session.id].contains(&gone)), "{moved:?}");
    }
    println!("{SESSIONS} sessions at {} instances; connections by instance {:?}", used.len(), proxy.taken());
}
