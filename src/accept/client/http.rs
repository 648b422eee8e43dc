//! Frames over Streamable HTTP: each message a POST, what comes back a body or a stream of events.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request,
    client::conn::http1::{SendRequest, handshake},
    header::CONTENT_TYPE,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::time::timeout;

use super::{MODERN, Target};
use crate::{accept::scenario::Broken, dial::Dialer};

/// Beyond it an answer does not come.
const ANSWER_MAX: Duration = Duration::from_mins(1);

pub(super) struct Http {
    target: Target,
    revision: &'static str,
    link: Option<SendRequest<Full<Bytes>>>,
    pub(super) session: Option<String>,
    come: VecDeque<String>,
}

impl Http {
    pub(super) fn new(target: &Target, revision: &'static str) -> Self {
        Self { target: target.clone(), revision, link: None, session: None, come: VecDeque::new() }
    }

    /// Posts a message; what comes back waits for [`Http::receive`].
    pub(super) async fn send(&mut self, text: &str) -> Result<(), Broken> {
        let broken = |seen: &dyn std::fmt::Display| Broken::new("posting a message", "an answer", seen);
        let message: Value = serde_json::from_str(text).unwrap_or_default();
        let mut request = Request::post(&self.target.http_path)
            .header("host", self.target.authority())
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream");
        if let Some(token) = &self.target.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if self.revision == MODERN {
            request = request.header("mcp-protocol-version", MODERN);
            if let Some(method) = message["method"].as_str() {
                request = request.header("mcp-method", method);
            }
            let named = ["name", "uri", "taskId"].iter().find_map(|name| message["params"][*name].as_str());
            if let Some(name) = named {
                request = request.header("mcp-name", name);
            }
        } else if let Some(session) = &self.session {
            request = request.header("mcp-protocol-version", self.revision).header("mcp-session-id", session);
        }
        for (name, value) in &self.target.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::from(text.to_owned())).map_err(|error| broken(&error))?;
        // A server may close between two requests; what is not ready any more is dialled anew.
        if let Some(link) = &mut self.link
            && link.ready().await.is_err()
        {
            self.link = None;
        }
        if self.link.is_none() {
            let dialer = Dialer::new(self.target.is_tls).map_err(|error| broken(&error))?;
            let stream =
                dialer.dial(&self.target.host, self.target.port).await.map_err(|error| broken(&error))?;
            let (sender, connection) =
                handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
            tokio::spawn(connection);
            self.link = Some(sender);
        }
        let Some(link) = &mut self.link else { return Err(broken(&"no connection")) };
        let exchange = async {
            let answer = link.send_request(request).await.map_err(|error| broken(&error))?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await.map_err(|error| broken(&error))?.to_bytes();
            Ok((head, String::from_utf8_lossy(&body).into_owned()))
        };
        let (head, body) = timeout(ANSWER_MAX, exchange).await.map_err(|_| broken(&"nothing in time"))??;
        if let Some(session) = head.headers.get("mcp-session-id").and_then(|value| value.to_str().ok()) {
            self.session = Some(session.to_owned());
        }
        let is_stream = head
            .headers
            .get(CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(|kind| kind.starts_with("text/event-stream"));
        if is_stream {
            let data = body.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim);
            self.come.extend(data.filter(|data| !data.is_empty()).map(str::to_owned));
        } else if !body.is_empty() && serde_json::from_str::<Value>(&body).is_ok() {
            self.come.push_back(body);
        } else if !head.status.is_success() {
            return Err(broken(&format!("{} {body}", head.status)));
        }
        Ok(())
    }

    /// What came; nothing else does.
    pub(super) fn receive(&mut self) -> Option<String> {
        self.come.pop_front()
    }
}
