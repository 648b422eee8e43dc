//! Sessions over every transport and era that look at everything that reaches them.

use std::net::SocketAddr;

use regex::Regex;
use serde_json::{Value, json};

use super::process::{PRINCIPALS, token};
use crate::network::{Http, Ws};

/// Everybody's progress token.
const PROGRESS_TOKEN: &str = "the same for all";

/// How a session is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    WsLegacy,
    WsModern,
    HttpLegacy,
    HttpModern,
}

pub(super) const WAYS: [Way; 4] = [Way::WsLegacy, Way::WsModern, Way::HttpLegacy, Way::HttpModern];

impl Way {
    fn is_modern(self) -> bool {
        matches!(self, Self::WsModern | Self::HttpModern)
    }
}

enum Wire {
    Ws(Box<Ws>),
    Http { http: Http, session: Option<String> },
}

/// Who a session is: its number is in its mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) number: usize,
    pub(super) way: Way,
    pub(super) principal: usize,
    pub(super) project: &'static str,
}

impl Who {
    /// Whether the memories of `self` may be read by `reader`: those of its project, and those of a principal's
    /// `personal` wherever that principal works.
    fn is_read_by(self, reader: Self) -> bool {
        if self.project == "personal" {
            self.principal == reader.principal
        } else {
            self.project == reader.project
        }
    }

    /// What names it in everything that it says.
    pub(super) fn mark(self) -> String {
        format!("mark{:03}x", self.number)
    }

    /// Principal and project: what handles are bound to.
    pub(super) fn home(self) -> (usize, &'static str) {
        (self.principal, self.project)
    }
}

/// One session.
pub(super) struct Asker {
    pub(super) who: Who,
    everybody: Vec<Who>,
    marks: Regex,
    wire: Wire,
    id: u64,
}

impl Asker {
    pub(super) async fn open(address: SocketAddr, who: Who, everybody: Vec<Who>) -> Self {
        let bearer = format!("Bearer {}", token(who.principal));
        let wire = match who.way {
            Way::WsLegacy | Way::WsModern => {
                let headers = [("sec-websocket-protocol", "mcp"), ("authorization", bearer.as_str())];
                let path = format!("/p/{}/ws", who.project);
                Wire::Ws(Box::new(Ws::connect_with(address, &path, &headers).await.expect("a WebSocket")))
            }
            Way::HttpLegacy | Way::HttpModern => {
                Wire::Http { http: Http::connect(address).await, session: None }
            }
        };
        let marks = Regex::new("mark([0-9]{3})x").unwrap();
        let mut asker = Self { who, everybody, marks, wire, id: 0 };
        if !who.way.is_modern() {
            let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "it", "version": "1"}});
            let answer = asker.request("initialize", params).await;
            assert_eq!(answer["result"]["protocolVersion"], "2025-11-25", "{who:?}: {answer}");
            asker.notify("notifications/initialized").await;
        }
        asker
    }

    /// A tool's answer: whether it failed, and what it says.
    pub(super) async fn tool(&mut self, name: &str, arguments: Value) -> (bool, Value) {
        let answer = self.request("tools/call", json!({"name": name, "arguments": arguments})).await;
        let result = &answer["result"];
        let text =
            result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{:?}: {answer}", self.who));
        let scope = &result["_meta"]["tmws/scope"];
        if !scope.is_null() {
            assert_eq!(scope["principal"], PRINCIPALS[self.who.principal].0, "{:?}: {answer}", self.who);
            assert_eq!(scope["project"], self.who.project, "{:?}: {answer}", self.who);
        }
        (result["isError"] == true, serde_json::from_str(text).expect("JSON in the text"))
    }

    /// The same, which must not fail.
    pub(super) async fn call(&mut self, name: &str, arguments: Value) -> Value {
        let (failed, answer) = self.tool(name, arguments).await;
        assert!(!failed, "{:?}, {name}: {answer}", self.who);
        answer
    }

    /// Asks, and looks at everything that comes until the answer. Ids are the same in every session.
    pub(super) async fn request(&mut self, method: &str, mut params: Value) -> Value {
        self.id += 1;
        let modern = self.who.way.is_modern();
        let name = ["name", "uri"].iter().find_map(|key| params[key].as_str().map(str::to_owned));
        params["_meta"] = if modern {
            json!({
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
                "progressToken": PROGRESS_TOKEN,
            })
        } else {
            json!({"progressToken": PROGRESS_TOKEN})
        };
        let message = json!({"jsonrpc": "2.0", "id": self.id, "method": method, "params": params});
        match &mut self.wire {
            Wire::Ws(ws) => {
                ws.send(&message).await;
                loop {
                    let Wire::Ws(ws) = &mut self.wire else { unreachable!("it stays what it is") };
                    let frame = ws.receive().await;
                    if self.look(&frame) {
                        return frame;
                    }
                }
            }
            Wire::Http { .. } => self.post(&message, method, name.as_deref()).await.expect("an answer"),
        }
    }

    async fn notify(&mut self, method: &str) {
        let message = json!({"jsonrpc": "2.0", "method": method});
        match &mut self.wire {
            Wire::Ws(ws) => ws.send(&message).await,
            Wire::Http { .. } => assert!(self.post(&message, method, None).await.is_none()),
        }
    }

    async fn post(&mut self, message: &Value, method: &str, name: Option<&str>) -> Option<Value> {
        let Wire::Http { http, session } = &mut self.wire else { unreachable!("only HTTP posts") };
        let bearer = format!("Bearer {}", token(self.who.principal));
        let known = session.clone();
        let mut headers = vec![("authorization", bearer.as_str())];
        if self.who.way.is_modern() {
            headers.extend([("mcp-protocol-version", "2026-07-28"), ("mcp-method", method)]);
            headers.extend(name.map(|name| ("mcp-name", name)));
        } else if let Some(session) = &known {
            headers.extend([("mcp-session-id", session.as_str()), ("mcp-protocol-version", "2025-11-25")]);
        }
        let mut answer = http.post_to(&format!("/p/{}/mcp", self.who.project), message, &headers).await;
        if let Some(minted) = answer.headers.get("mcp-session-id") {
            assert!(!self.who.way.is_modern(), "no sessions in 2026-07-28");
            *session = Some(minted.to_str().unwrap().to_owned());
        }
        if message.get("id").is_none() {
            assert_eq!(answer.status, 202);
            return None;
        }
        let status = answer.status;
        if status != 200 {
            let text = answer.text().await;
            panic!("{:?}, {method}: {status} {text}", self.who);
        }
        if answer.header("content-type").starts_with("application/json") {
            let frame = answer.json().await;
            assert!(self.look(&frame), "{:?}: {frame}", self.who);
            return Some(frame);
        }
        while let Some(event) = answer.message().await {
            if event.data.as_deref().is_none_or(str::is_empty) {
                continue;
            }
            let frame = event.json();
            if self.look(&frame) {
                return Some(frame);
            }
        }
        None
    }

    /// Whether this is the answer waited for. Nothing in it may belong to somebody behind a wall.
    fn look(&self, frame: &Value) -> bool {
        let text = frame.to_string();
        for found in self.marks.captures_iter(&text) {
            let owner = self.everybody[found[1].parse::<usize>().unwrap()];
            assert!(owner.is_read_by(self.who), "{:?} saw something of {owner:?}: {text}", self.who);
        }
        if frame["method"] == "notifications/progress" {
            assert_eq!(frame["params"]["progressToken"], PROGRESS_TOKEN);
        }
        let answers = frame.get("method").is_none();
        if answers {
            assert_eq!(frame["id"], self.id, "{:?} got an answer that it did not ask for: {text}", self.who);
        }
        answers
    }

    /// Whose memories it may read.
    pub(super) fn may_read(&self, owner: Who) -> bool {
        owner.is_read_by(self.who)
    }

    /// Who there is.
    pub(super) fn everybody(&self) -> &[Who] {
        &self.everybody
    }

    /// Leaves.
    pub(super) async fn close(self) {
        match self.wire {
            Wire::Ws(mut ws) => {
                let _ = ws.stream.close(None).await;
            }
            Wire::Http { mut http, session } => {
                if let Some(session) = session {
                    let bearer = format!("Bearer {}", token(self.who.principal));
                    let headers = [("authorization", bearer.as_str()), ("mcp-session-id", session.as_str())];
                    let answer =
                        http.send("DELETE", &format!("/p/{}/mcp", self.who.project), &headers, "").await;
                    assert!(answer.status.is_success(), "{}", answer.status);
                }
            }
        }
    }
}
