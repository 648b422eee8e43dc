//! Clients of the run: raw frames over WebSocket and Streamable HTTP. Each remembers its last frames, for the report of
//! what did not hold.

mod http;
mod socket;
mod target;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};

pub use self::target::Target;
use self::{http::Http, socket::Socket};
use super::scenario::{Broken, Frame};

/// An answer that takes longer is none.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Frames that a client remembers, and bytes of each.
const FRAMES_MAX: usize = 24;
const FRAME_BYTES_MAX: usize = 2_048;

/// The revision without sessions.
pub const MODERN: &str = "2026-07-28";
/// The revisions with a handshake, oldest first.
pub const LEGACY: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"];

/// What frames go over.
enum Link {
    Socket(Socket),
    Http(Http),
}

/// One client, on one connection.
pub struct Client {
    /// What the report calls it.
    pub name: String,
    revision: &'static str,
    link: Link,
    begun: Instant,
    frames: VecDeque<Frame>,
    /// Frames that came while another one was waited for.
    waiting: VecDeque<Value>,
    next_id: i64,
}

/// What a tool answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Called {
    /// The server says that the call failed.
    pub is_error: bool,
    /// The JSON of its text; the text itself where it is none.
    pub body: Value,
    /// `_meta["tmws/receipt"]`.
    pub receipt: Value,
    /// From sending to the whole answer.
    pub elapsed: Duration,
}

impl Called {
    /// `hit`, `miss` or `off`.
    #[must_use]
    pub fn cache(&self) -> &str {
        self.receipt["cache"].as_str().unwrap_or_default()
    }

    /// The code of an error answer.
    #[must_use]
    pub fn code(&self) -> &str {
        self.body["error"].as_str().unwrap_or_default()
    }
}

impl Client {
    /// A client over WebSocket that speaks `revision`; a legacy one has shaken hands.
    ///
    /// # Errors
    /// It was refused, or nobody answered.
    pub async fn socket(name: &str, target: &Target, revision: &'static str) -> Result<Self, Broken> {
        let socket = Socket::connect(target).await?;
        Self::opened(name, revision, Link::Socket(socket), json!({})).await
    }

    /// The same, with what the client can do: `{"elicitation": {}}`.
    ///
    /// # Errors
    /// As [`Client::socket`].
    pub async fn able(
        name: &str,
        target: &Target,
        revision: &'static str,
        capabilities: Value,
    ) -> Result<Self, Broken> {
        let socket = Socket::connect(target).await?;
        Self::opened(name, revision, Link::Socket(socket), capabilities).await
    }

    /// A connection over WebSocket on which nothing was said.
    ///
    /// # Errors
    /// As [`Client::socket`].
    pub async fn silent(name: &str, target: &Target) -> Result<Self, Broken> {
        Ok(Self::new(name, MODERN, Link::Socket(Socket::connect(target).await?)))
    }

    /// A client of `revision` that has said nothing yet, over what the target names.
    ///
    /// # Errors
    /// As [`Client::socket`].
    pub async fn bare(name: &str, target: &Target, revision: &'static str) -> Result<Self, Broken> {
        let link = if target.is_http {
            Link::Http(Http::new(target, revision))
        } else {
            Link::Socket(Socket::connect(target).await?)
        };
        Ok(Self::new(name, revision, link))
    }

    /// A client over Streamable HTTP.
    ///
    /// # Errors
    /// As [`Client::socket`].
    pub async fn http(name: &str, target: &Target, revision: &'static str) -> Result<Self, Broken> {
        let http = Http::new(target, revision);
        Self::opened(name, revision, Link::Http(http), json!({})).await
    }

    fn new(name: &str, revision: &'static str, link: Link) -> Self {
        Self {
            name: name.to_owned(),
            revision,
            link,
            begun: Instant::now(),
            frames: VecDeque::new(),
            waiting: VecDeque::new(),
            next_id: 0,
        }
    }

    async fn opened(
        name: &str,
        revision: &'static str,
        link: Link,
        capabilities: Value,
    ) -> Result<Self, Broken> {
        let mut client = Self::new(name, revision, link);
        if revision != MODERN {
            let params = json!({"protocolVersion": revision, "capabilities": capabilities,
                "clientInfo": {"name": "tmws-accept", "version": env!("CARGO_PKG_VERSION")}});
            let answer = client.ask("initialize", params).await?;
            let agreed = &answer["result"]["protocolVersion"];
            if agreed != revision {
                return Err(client.broken("initialize", format!("protocolVersion {revision}"), &answer));
            }
            client.say(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await?;
        }
        Ok(client)
    }

    /// The revision it speaks.
    #[must_use]
    pub const fn revision(&self) -> &'static str {
        self.revision
    }

    /// The session of a legacy client over HTTP.
    #[must_use]
    pub fn session(&self) -> Option<&str> {
        match &self.link {
            Link::Http(http) => http.session.as_deref(),
            Link::Socket(_) => None,
        }
    }

    /// Asks, and waits for the answer: the whole frame. What else comes meanwhile is kept for [`Client::next`].
    ///
    /// # Errors
    /// There is no answer in time, or the connection ended.
    pub async fn ask(&mut self, method: &str, params: Value) -> Result<Value, Broken> {
        let id = self.post(method, params).await?;
        self.answer(&json!(id)).await
    }

    /// Asks without waiting: the request's id. Over WebSocket alone several may be open at once.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn post(&mut self, method: &str, params: Value) -> Result<i64, Broken> {
        self.next_id += 1;
        let id = self.next_id;
        let request = self.request(&json!(id), method, params);
        self.say(request).await?;
        Ok(id)
    }

    /// A request as this client writes it.
    #[must_use]
    pub fn request(&self, id: &Value, method: &str, mut params: Value) -> Value {
        if self.revision == MODERN {
            if params.is_null() {
                params = json!({});
            }
            if let Some(params) = params.as_object_mut() {
                let meta = params.entry("_meta").or_insert_with(|| Value::Object(Map::new()));
                meta["io.modelcontextprotocol/protocolVersion"] = json!(MODERN);
                if meta["io.modelcontextprotocol/clientCapabilities"].is_null() {
                    meta["io.modelcontextprotocol/clientCapabilities"] = json!({});
                }
            }
        }
        json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
    }

    /// The answer to the request `id`, which was sent.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub async fn answer(&mut self, id: &Value) -> Result<Value, Broken> {
        let is_it = |frame: &Value| frame["id"] == *id && frame.get("method").is_none();
        if let Some(place) = self.waiting.iter().position(is_it) {
            return Ok(self.waiting.remove(place).unwrap_or_default());
        }
        let until = Instant::now() + PATIENCE;
        loop {
            let frame = self.receive(until).await?;
            let Some(frame) = frame else {
                return Err(self.broken("waiting for an answer", format!("an answer to {id}"), &Value::Null));
            };
            if is_it(&frame) {
                return Ok(frame);
            }
            self.waiting.push_back(frame);
        }
    }

    /// The next frame that is no awaited answer; `None` where none comes in `within`.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn next(&mut self, within: Duration) -> Result<Option<Value>, Broken> {
        if let Some(frame) = self.waiting.pop_front() {
            return Ok(Some(frame));
        }
        self.receive(Instant::now() + within).await
    }

    /// Calls a tool.
    ///
    /// # Errors
    /// There is no answer, or one without a result of a tool.
    pub async fn call(&mut self, tool: &str, arguments: Value) -> Result<Called, Broken> {
        let begun = Instant::now();
        let frame = self.ask("tools/call", json!({"name": tool, "arguments": arguments})).await?;
        self.called(&frame, begun.elapsed())
    }

    /// Runs a pattern by its name.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn run(&mut self, pattern: &str, input: Value) -> Result<Called, Broken> {
        self.call("execute_pattern", json!({"pattern": pattern, "input": input})).await
    }

    /// What the frame of an answer says of a call.
    ///
    /// # Errors
    /// It has no result of a tool.
    pub fn called(&self, frame: &Value, elapsed: Duration) -> Result<Called, Broken> {
        let result = &frame["result"];
        let Some(text) = result["content"][0]["text"].as_str() else {
            return Err(self.broken("calling a tool", "a result with a text", frame));
        };
        Ok(Called {
            is_error: result["isError"] == true,
            body: serde_json::from_str(text).unwrap_or_else(|_| text.into()),
            receipt: result["_meta"]["tmws/receipt"].clone(),
            elapsed,
        })
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn say(&mut self, message: Value) -> Result<(), Broken> {
        self.send(&message.to_string()).await
    }

    /// Sends a text as it is.
    ///
    /// # Errors
    /// As [`Client::say`].
    pub async fn send(&mut self, text: &str) -> Result<(), Broken> {
        self.note(true, text);
        let sent = match &mut self.link {
            Link::Socket(socket) => socket.send(text).await,
            Link::Http(http) => http.send(text).await,
        };
        sent.map_err(|mut broken| {
            broken.frames = self.frames();
            broken
        })
    }

    /// Whatever comes next, a close included.
    async fn receive(&mut self, until: Instant) -> Result<Option<Value>, Broken> {
        let received = match &mut self.link {
            Link::Socket(socket) => socket.receive(until).await,
            Link::Http(http) => Ok(http.receive()),
        };
        match received {
            Ok(None) => Ok(None),
            Ok(Some(text)) => {
                self.note(false, &text);
                serde_json::from_str(&text)
                    .map(Some)
                    .map_err(|_| self.broken("reading a frame", "JSON", &Value::from(text)))
            }
            Err(mut broken) => {
                broken.frames = self.frames();
                Err(broken)
            }
        }
    }

    /// The code of the close that comes next over a WebSocket; `None` where none comes in `within`, and 0 for an end
    /// without one. What comes before is noted.
    pub async fn closed(&mut self, within: Duration) -> Option<u16> {
        let Link::Socket(socket) = &mut self.link else { return None };
        socket.closed(Instant::now() + within).await
    }

    /// What broke, with this client's last frames.
    #[must_use]
    pub fn broken(&self, what: &str, expected: impl Into<String>, seen: &Value) -> Broken {
        Broken { frames: self.frames(), ..Broken::new(format!("{}: {what}", self.name), expected, seen) }
    }

    /// What a tool answered, where it is no error: it was asked for by `what`.
    ///
    /// # Errors
    /// It is one.
    pub fn well(&self, what: &str, called: Called) -> Result<Called, Broken> {
        if called.is_error { Err(self.broken(what, "an answer", &called.body)) } else { Ok(called) }
    }

    /// Its last frames.
    #[must_use]
    pub fn frames(&self) -> Vec<Frame> {
        self.frames.iter().cloned().collect()
    }

    fn note(&mut self, is_sent: bool, text: &str) {
        if self.frames.len() == FRAMES_MAX {
            self.frames.pop_front();
        }
        let text = if text.len() <= FRAME_BYTES_MAX {
            text.to_owned()
        } else {
            format!("{}… ({} bytes)", &text[..text.floor_char_boundary(FRAME_BYTES_MAX)], text.len())
        };
        self.frames.push_back(Frame { at: self.begun.elapsed(), client: self.name.clone(), is_sent, text });
    }
}
