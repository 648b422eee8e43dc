//! A client that connects again: where its connection ends before anything of an answer came, it asks once more, over
//! another connection. It never asks twice on its own account: half an answer, or one that says no, is an end, 503 too. Only
//! where no WebSocket was opened for it, which is before any call, it tries again.

use std::{net::SocketAddr, time::Instant};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request,
    client::conn::http1::{SendRequest, handshake},
    header::CONTENT_TYPE,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _},
};

use super::{Answer, PATIENCE, serving, within};

const LEGACY: &str = "2025-06-18";
const MODERN: &str = "2026-07-28";

/// How a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// 2026-07-28, each request on its own.
    Modern,
    /// A session of 2025-06-18.
    Legacy,
    /// 2026-07-28 over a WebSocket.
    Socket,
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failed {
    /// Nothing of one came: whoever connects again may ask again.
    Silent(String),
    /// What came says no, or is not whole: the status first.
    Final(String),
}

enum Link {
    Http(SendRequest<Full<Bytes>>),
    Socket(Box<WebSocketStream<TcpStream>>),
}

/// One client, with one connection at a time.
pub(super) struct Client {
    pub(super) target: SocketAddr,
    way: Way,
    principal: &'static str,
    project: &'static str,
    link: Option<Link>,
    /// `Mcp-Session-Id`, of a legacy client.
    pub(super) session: Option<String>,
    id: i64,
    /// Connections that ended before an answer.
    pub(super) lost: usize,
}

impl Client {
    pub(super) fn new(target: SocketAddr, way: Way, principal: &'static str, project: &'static str) -> Self {
        Self { target, way, principal, project, link: None, session: None, id: 0, lost: 0 }
    }

    /// A client of a session that another one opened.
    pub(super) fn of_session(target: SocketAddr, principal: &'static str, session: &str) -> Self {
        let session = Some(session.to_owned());
        Self { session, ..Self::new(target, Way::Legacy, principal, "alpha") }
    }

    /// Leaves its connection; the next call makes another one.
    pub(super) fn leave(&mut self) {
        self.link = None;
    }

    /// Calls a tool until there is an answer.
    ///
    /// # Errors
    /// It was refused, or failed: what was said.
    pub(super) async fn call(&mut self, tool: &str, arguments: &Value) -> Result<Answer, String> {
        let params = json!({"name": tool, "arguments": arguments});
        let begun = Instant::now();
        let mut repeats = 0;
        loop {
            match self.ask("tools/call", params.clone()).await {
                Ok(frame) => return Answer::read(&frame, repeats)?.well(),
                Err(Failed::Silent(_)) if begun.elapsed() < PATIENCE => {
                    self.link = None;
                    self.lost += 1;
                    repeats += 1;
                    tokio::task::yield_now().await;
                }
                Err(Failed::Silent(why) | Failed::Final(why)) => return Err(why),
            }
        }
    }

    /// The same of a read-only pattern.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub(super) async fn run(&mut self, pattern: &str, input: Value) -> Result<Answer, String> {
        self.call("execute_pattern", &json!({"pattern": pattern, "input": input})).await
    }

    /// Asks once, and gives the JSON-RPC answer.
    pub(super) async fn ask(&mut self, method: &str, params: Value) -> Result<Value, Failed> {
        if self.way == Way::Legacy && self.session.is_none() {
            let opening = json!({"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}});
            self.exchange(Some("initialize"), opening).await?;
            self.exchange(None, Value::Null).await?;
        }
        self.exchange(Some(method), params).await
    }

    /// A request, or `notifications/initialized`, of which nothing comes back.
    async fn exchange(&mut self, method: Option<&str>, mut params: Value) -> Result<Value, Failed> {
        self.id += 1;
        let name = params["name"].as_str().map(str::to_owned);
        if self.way != Way::Legacy {
            params["_meta"] = envelope();
        }
        let message = match method {
            Some(method) => json!({"jsonrpc": "2.0", "id": self.id, "method": method, "params": params}),
            None => json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
        };
        if self.link.is_none() {
            self.link = Some(self.connect().await?);
        }
        match self.link.as_mut().expect("it was made") {
            Link::Socket(socket) => over_socket(socket, &message, self.id).await,
            Link::Http(_) => self.post(method, name.as_deref(), &message).await,
        }
    }

    async fn connect(&self) -> Result<Link, Failed> {
        let silent = |error: &dyn std::fmt::Display| Failed::Silent(format!("no connection: {error}"));
        let stream = TcpStream::connect(self.target).await.map_err(|error| silent(&error))?;
        stream.set_nodelay(true).map_err(|error| silent(&error))?;
        if self.way == Way::Socket {
            return Ok(Link::Socket(Box::new(
                open_socket(stream, self.target, self.principal, self.project).await?,
            )));
        }
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| silent(&error))?;
        tokio::spawn(connection);
        Ok(Link::Http(sender))
    }

    async fn post(
        &mut self,
        method: Option<&str>,
        name: Option<&str>,
        message: &Value,
    ) -> Result<Value, Failed> {
        let mut request = Request::post(format!("/p/{}/mcp", self.project))
            .header("host", self.target.to_string())
            .header("authorization", bearer(self.principal))
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream");
        if self.way == Way::Modern {
            request = request
                .header("mcp-protocol-version", MODERN)
                .header("mcp-method", method.unwrap_or_default());
            if let Some(name) = name {
                request = request.header("mcp-name", name);
            }
        } else if let Some(session) = &self.session {
            request = request.header("mcp-protocol-version", LEGACY).header("mcp-session-id", session);
        }
        let (status, headers, text) =
            self.send(request.body(Full::from(message.to_string())).unwrap()).await?;
        if let Some(session) = headers.get("mcp-session-id") {
            self.session = Some(session.to_str().unwrap().to_owned());
        }
        if status == 202 && method.is_none() {
            return Ok(Value::Null);
        }
        if status != 200 {
            return Err(Failed::Final(format!("{status} {text}")));
        }
        let is_json = headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
        let frames = if is_json { vec![text.as_str()] } else { data_of(&text) };
        let frames = frames.iter().filter_map(|frame| serde_json::from_str::<Value>(frame).ok());
        let answer = frames.into_iter().find(|frame| frame["id"] == self.id);
        answer.ok_or_else(|| Failed::Final(format!("200 without an answer: {text}")))
    }

    /// DELETEs its session: the status.
    pub(super) async fn delete(&mut self) -> u16 {
        let request = Request::delete(format!("/p/{}/mcp", self.project))
            .header("host", self.target.to_string())
            .header("authorization", bearer(self.principal))
            .header("mcp-session-id", self.session.as_deref().expect("a session"));
        if self.link.is_none() {
            self.link = Some(self.connect().await.expect("a connection"));
        }
        self.send(request.body(Full::default()).unwrap()).await.expect("an answer").0
    }

    async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<(u16, hyper::HeaderMap, String), Failed> {
        let Some(Link::Http(sender)) = &mut self.link else { unreachable!("only HTTP posts") };
        let silent = |error: hyper::Error| Failed::Silent(format!("no answer: {error}"));
        within("the connection", sender.ready()).await.map_err(silent)?;
        let answer = within("an answer", sender.send_request(request)).await.map_err(silent)?;
        let (head, body) = answer.into_parts();
        let status = head.status.as_u16();
        // From here on it is half an answer.
        let body = within("the rest of an answer", body.collect()).await;
        let body = body.map_err(|error| Failed::Final(format!("{status} cut off: {error}")))?.to_bytes();
        let text = String::from_utf8(body.to_vec()).map_err(|error| Failed::Final(error.to_string()))?;
        Ok((status, head.headers, text))
    }
}

/// A WebSocket of `principal` in `project`, on a connection that is there.
pub(super) async fn open_socket(
    stream: TcpStream,
    target: SocketAddr,
    principal: &str,
    project: &str,
) -> Result<WebSocketStream<TcpStream>, Failed> {
    let mut request = format!("ws://{target}/p/{project}/ws").into_client_request().unwrap();
    for (name, value) in [("sec-websocket-protocol", "mcp"), ("authorization", &bearer(principal))] {
        request.headers_mut().append(name, value.parse().unwrap());
    }
    match within("the handshake", client_async(request, stream)).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(answer)) if answer.status() != 503 => Err(Failed::Final(answer.status().to_string())),
        Err(error) => Err(Failed::Silent(format!("no WebSocket: {error}"))),
    }
}

async fn over_socket(
    socket: &mut WebSocketStream<TcpStream>,
    message: &Value,
    id: i64,
) -> Result<Value, Failed> {
    let silent = |error: Error| Failed::Silent(format!("no answer: {error}"));
    socket.send(Message::text(message.to_string())).await.map_err(silent)?;
    loop {
        match within("an answer", socket.next()).await {
            Some(Ok(Message::Text(text))) => {
                let frame: Value =
                    serde_json::from_str(&text).map_err(|error| Failed::Final(error.to_string()))?;
                if frame["id"] == id {
                    return Ok(frame);
                }
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Ok(other)) => return Err(Failed::Silent(format!("closed: {other}"))),
            Some(Err(error)) => return Err(silent(error)),
            None => return Err(Failed::Silent("the end".to_owned())),
        }
    }
}

/// `_meta` of every request of 2026-07-28.
pub(super) fn envelope() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
    })
}

fn bearer(principal: &str) -> String {
    format!("Bearer {}", serving::token(principal))
}

/// What the events of a stream hold.
fn data_of(stream: &str) -> Vec<&str> {
    stream.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim).collect()
}
