//! A client that speaks any revision over WebSocket, and answers what it is asked.

use serde_json::{Map, Value, json};
use tmws::revision::{Era, Revision};

use crate::network::{Server, Ws};

/// Most rounds of asking: the fixtures need two.
const ROUNDS_MAX: usize = 4;

/// A connection, after the handshake where the revision has one.
pub(super) struct Peer {
    ws: Ws,
    pub(super) revision: Revision,
    capabilities: Value,
    next_id: u64,
}

/// What came of one request.
pub(super) struct Exchange {
    /// The whole response.
    pub(super) response: Value,
    /// Notifications that came before it.
    pub(super) told: Vec<Value>,
    /// What was asked in between: method and params.
    pub(super) asked: Vec<Value>,
}

impl Exchange {
    pub(super) fn result(&self) -> &Value {
        self.response.get("result").unwrap_or_else(|| panic!("no result: {}", self.response))
    }

    /// The code of an error; 0 where it is none.
    pub(super) fn code(&self) -> i32 {
        let code = self.response["error"]["code"].as_i64().unwrap_or_default();
        code.try_into().unwrap()
    }

    /// The text of the first block.
    pub(super) fn text(&self) -> &str {
        let text = self.result()["content"][0]["text"].as_str();
        text.unwrap_or_else(|| panic!("no text: {}", self.response))
    }
}

/// Everything that a client can declare.
pub(super) fn all_capabilities() -> Value {
    json!({
        "sampling": {},
        "elicitation": {},
        "roots": {"listChanged": true},
        "extensions": {"io.modelcontextprotocol/tasks": {}},
    })
}

impl Peer {
    pub(super) async fn new(server: &Server, revision: Revision) -> Self {
        Self::declaring(server, revision, all_capabilities()).await
    }

    pub(super) async fn declaring(server: &Server, revision: Revision, capabilities: Value) -> Self {
        let mut peer = Self { ws: server.ws().await, revision, capabilities, next_id: 0 };
        if revision.era() == Era::Legacy {
            let params = json!({
                "protocolVersion": revision.as_str(),
                "capabilities": peer.capabilities.clone(),
                "clientInfo": {"name": "peer", "version": "1"},
            });
            let greeting = peer.request("initialize", params).await;
            assert_eq!(greeting.result()["protocolVersion"], revision.as_str());
            peer.ws.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        }
        peer
    }

    /// Calls a tool.
    pub(super) async fn call(&mut self, tool: &str, arguments: Value) -> Exchange {
        self.request("tools/call", json!({"name": tool, "arguments": arguments})).await
    }

    /// Sends a request and answers what is asked until its response comes.
    pub(super) async fn request(&mut self, method: &str, params: Value) -> Exchange {
        let mut exchange = Exchange { response: Value::Null, told: Vec::new(), asked: Vec::new() };
        let mut sent = params.clone();
        for _ in 0..ROUNDS_MAX {
            let id = self.send(method, sent).await;
            exchange.response = self.response(id, &mut exchange).await;
            let result = &exchange.response["result"];
            if result["resultType"] != "input_required" {
                return exchange;
            }
            let questions = result["inputRequests"].as_object().cloned().unwrap_or_default();
            let answers: Map<String, Value> =
                questions.iter().map(|(key, question)| (key.clone(), answer(question))).collect();
            exchange.asked.extend(questions.into_iter().map(|(_, question)| question));
            sent = params.clone();
            sent["inputResponses"] = Value::Object(answers);
            sent["requestState"] = result["requestState"].clone();
        }
        panic!("{method} asks without end: {}", exchange.response);
    }

    /// Sends a request, and nothing more.
    pub(super) async fn send(&mut self, method: &str, mut params: Value) -> u64 {
        self.next_id += 1;
        if self.revision.era() == Era::Modern {
            let meta = &mut params["_meta"];
            meta["io.modelcontextprotocol/protocolVersion"] = json!(self.revision.as_str());
            meta["io.modelcontextprotocol/clientCapabilities"] = self.capabilities.clone();
        }
        let request = json!({"jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params});
        self.ws.send(&request).await;
        self.next_id
    }

    /// The next message.
    pub(super) async fn receive(&mut self) -> Value {
        self.ws.receive().await
    }

    async fn response(&mut self, id: u64, exchange: &mut Exchange) -> Value {
        loop {
            let message = self.ws.receive().await;
            match (message.get("method"), message.get("id")) {
                (Some(_), Some(asking)) => {
                    assert_eq!(self.revision.era(), Era::Legacy, "a request of the server's: {message}");
                    let result = answer(&message);
                    let response = json!({"jsonrpc": "2.0", "id": asking, "result": result});
                    self.ws.send(&response).await;
                    exchange.asked.push(json!({"method": message["method"], "params": message["params"]}));
                }
                (Some(_), None) => exchange.told.push(message),
                (None, answered) => {
                    assert_eq!(answered, Some(&json!(id)), "another's answer: {message}");
                    return message;
                }
            }
        }
    }
}

/// What a willing user or model says to a question.
pub(super) fn answer(question: &Value) -> Value {
    match question["method"].as_str().unwrap() {
        "roots/list" => json!({"roots": [{"uri": "file:///home/user/project", "name": "project"}]}),
        "sampling/createMessage" => json!({
            "role": "assistant",
            "content": {"type": "text", "text": "Paris"},
            "model": "m",
        }),
        "elicitation/create" => {
            let properties = question["params"]["requestedSchema"]["properties"].as_object().unwrap();
            let content: Map<String, Value> =
                properties.iter().map(|(name, schema)| (name.clone(), choose(schema))).collect();
            json!({"action": "accept", "content": content})
        }
        other => panic!("asked for {other}"),
    }
}

fn choose(schema: &Value) -> Value {
    if let Some(default) = schema.get("default") {
        return default.clone();
    }
    let first = |schema: &Value| {
        let listed = schema["enum"].get(0).cloned();
        listed.or_else(|| Some(schema["oneOf"].get(0).or_else(|| schema["anyOf"].get(0))?["const"].clone()))
    };
    match schema["type"].as_str() {
        Some("boolean") => json!(true),
        Some("integer" | "number") => json!(1),
        Some("array") => json!([first(&schema["items"]).unwrap()]),
        _ => first(schema).unwrap_or_else(|| json!("Alice")),
    }
}
