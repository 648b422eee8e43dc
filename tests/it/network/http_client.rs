//! HTTP/1.1 as a client writes it, with nothing added: one connection, requests one by one or at once.

use std::{collections::VecDeque, net::SocketAddr};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    HeaderMap, Request, StatusCode,
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use super::within;

/// A client with one connection.
pub(crate) struct Http {
    sender: SendRequest<Full<Bytes>>,
    address: SocketAddr,
}

/// An answer whose head has come.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    text: String,
    events: VecDeque<Event>,
}

/// One event of a stream; a comment has neither data nor id.
#[expect(clippy::struct_field_names, reason = "the field is called so in the format")]
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) event: Option<String>,
    pub(crate) id: Option<String>,
    pub(crate) retry: Option<u64>,
    pub(crate) data: Option<String>,
    pub(crate) comment: Option<String>,
}

impl Event {
    /// The message in it.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(self.data.as_deref().unwrap_or_default()).expect("a JSON message")
    }
}

impl Http {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender, address }
    }

    /// Sends a request; `Host` is added where `headers` have none.
    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request = request.header("host", self.address.to_string());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.into())).unwrap();
        within("the connection", self.sender.ready()).await.unwrap();
        let response = within("an answer", self.sender.send_request(request)).await.unwrap();
        let (head, body) = response.into_parts();
        Answer {
            status: head.status,
            headers: head.headers,
            body,
            text: String::new(),
            events: VecDeque::new(),
        }
    }

    /// POSTs a JSON message to `/mcp` as SDKs do, with more headers.
    pub(crate) async fn post(&mut self, message: &Value, headers: &[(&str, &str)]) -> Answer {
        self.post_to("/mcp", message, headers).await
    }

    /// The same to another path.
    pub(crate) async fn post_to(&mut self, path: &str, message: &Value, headers: &[(&str, &str)]) -> Answer {
        let mut all =
            vec![("content-type", "application/json"), ("accept", "application/json, text/event-stream")];
        all.extend_from_slice(headers);
        self.send("POST", path, &all, message.to_string()).await
    }
}

impl Answer {
    /// A header as text; empty where it is absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The whole body as text.
    pub(crate) async fn text(mut self) -> String {
        let rest = within("the body", self.body.collect()).await.unwrap().to_bytes();
        self.text.push_str(std::str::from_utf8(&rest).unwrap());
        self.text
    }

    /// The whole body as JSON.
    pub(crate) async fn json(self) -> Value {
        let text = self.text().await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The next event or comment of a stream; `None` at its end.
    pub(crate) async fn event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let frame = within("an event", self.body.frame()).await?;
            let Ok(data) = frame.expect("the stream goes on").into_data() else { continue };
            self.text.push_str(std::str::from_utf8(&data).unwrap());
            while let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                self.events.push_back(parse(&block));
            }
        }
    }

    /// The next event that is no comment.
    pub(crate) async fn message(&mut self) -> Option<Event> {
        loop {
            let event = self.event().await?;
            if event.comment.is_none() {
                return Some(event);
            }
        }
    }
}

fn parse(block: &str) -> Event {
    let mut event = Event::default();
    for line in block.lines() {
        if let Some(comment) = line.strip_prefix(':') {
            event.comment = Some(comment.trim().to_owned());
            continue;
        }
        let Some((field, value)) = line.split_once(':') else { continue };
        let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
        match field {
            "event" => event.event = Some(value),
            "id" => event.id = Some(value),
            "retry" => event.retry = value.parse().ok(),
            "data" => event.data = Some(value),
            other => panic!("an unknown field: {other}"),
        }
    }
    event
}
