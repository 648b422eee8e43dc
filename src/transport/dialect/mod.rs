//! The dialect that TMWS had before it spoke MCP, for clients that still speak it. Off unless it is switched on.
//!
//! A client opens a WebSocket at `/ws/mcp?agent_id=NAME`; the server speaks first (`welcome`, with a session id); then
//! JSON-RPC methods are called directly, without a handshake. `schemas/dialect/v1.json` is the whole of it.
//!
//! This is a translator, nothing more: it stands between the socket and the driver of the connection, whose core has an
//! MCP session of 2024-11-05. Scope, rights, admission, limits, deadlines, cancelling and that each request is answered
//! once are theirs.
//!
//! ```text
//! text ─ wire::parse_frame ─ schema::dialect::admit ─ requests ─► Driver (tools/call, tools/list, ping)
//! text ◄ schema::dialect::seal_… ─────────────────── answers ◄── Outgoing
//! ```
//!
//! | method | is |
//! |---|---|
//! | `execute_pattern` | the tool of that name |
//! | `store_memory`, `memory/store` | the tool `remember` |
//! | `memory/search` | the pattern `memory.lookup` |
//! | `tools/list`, `tools/call`, `ping` | as in MCP 2024-11-05 |
//!
//! Any other method is answered with what replaces it ([`replaced`]). Nothing but answers comes unasked after the welcome:
//! clients of the dialect take the next frame for their answer.

mod agent;
mod answers;
mod replaced;
mod requests;

use std::collections::HashMap;

use serde_json::{Map, Value, json};
use tracing::error;

pub(super) use agent::agent;

use super::Host;
use crate::{
    access::Entrant,
    protocol::{About, Client, Now, Outgoing},
    revision::Revision,
    schema::{
        Sealed, Violation,
        dialect::{self, DialectMethod},
    },
    session::Driver,
    wire::{Envelope, ErrorCode, Frame, Request, RequestId, RpcError, parse_frame},
};

/// What the core speaks beneath: the oldest revision, which says the least by itself.
const BENEATH: Revision = Revision::V2024_11_05;
/// Longest text of a client that is repeated in a message.
const REPEATED_CHARS_MAX: usize = 64;

/// The translator of one connection.
pub(super) struct Dialect {
    /// The `session_id` of the welcome; also names the session of the connection's scope.
    session: Box<str>,
    /// What the requests in flight asked for.
    asked: HashMap<RequestId, DialectMethod>,
    /// No answer is longer.
    frame_out_bytes_max: usize,
}

/// A refusal of a frame: the rule that it offends, and what is said of it.
struct Refusal {
    rule: &'static str,
    code: ErrorCode,
    message: String,
}

impl Refusal {
    const fn new(rule: &'static str, code: ErrorCode, message: String) -> Self {
        Self { rule, code, message }
    }
}

impl Dialect {
    /// The translator of a new connection, with a session that nobody can guess.
    pub(super) fn open(host: &Host) -> Self {
        Self {
            session: format!("s_{}", Host::random_name()).into(),
            asked: HashMap::new(),
            frame_out_bytes_max: host.connection_limits.frame_out_bytes_max,
        }
    }

    /// Names the connection's session.
    pub(super) fn session(&self) -> &str {
        &self.session
    }

    /// Who the core takes the client for.
    pub(super) fn client() -> Client {
        Client { revision: BENEATH, info: None, capabilities: Map::new() }
    }

    /// The first frame of the connection.
    pub(super) fn welcome(&self, host: &Host, entrant: &Entrant) -> Option<Sealed> {
        let mut params = Map::new();
        params.insert("session_id".to_owned(), self.session().into());
        params.insert("agent_id".to_owned(), (*entrant.agent).into());
        if let Some(version) = host.service.profile().server_info.get("version") {
            params.insert("server_version".to_owned(), version.clone());
        }
        let message = "This is the old dialect of TMWS. MCP is spoken at /ws and /mcp.";
        params.insert("message".to_owned(), message.into());
        sealed(host, dialect::seal_welcome(params))
    }

    /// One message of the client: handed to the driver, or answered here.
    pub(super) fn take(&mut self, host: &Host, driver: &mut Driver, now: Now, text: &[u8]) -> Option<Sealed> {
        match parse_frame(text) {
            Ok(Frame::Single(Envelope::Request(request))) => self.request(host, driver, now, request),
            Ok(Frame::Single(Envelope::Notification(notification))) => {
                // Of all that a client may tell, only this means anything here; the core judges it.
                let cancelled = notification.request_id.clone();
                driver.parsed_frame(now, Ok(Frame::Single(Envelope::Notification(notification))));
                if let Some(id) = cancelled.filter(|id| !driver.connection().is_pending(id)) {
                    self.asked.remove(&id);
                }
                None
            }
            // Nothing was asked.
            Ok(Frame::Single(Envelope::Response(_))) => None,
            Ok(Frame::Single(Envelope::Invalid { id, reason })) => {
                // The answer to an id in flight belongs to the request that has it.
                let id = id.filter(|id| !driver.connection().is_pending(id));
                let message = format!("not a JSON-RPC request: {reason}");
                self.refuse(
                    host,
                    id.as_ref(),
                    Refusal::new("not-a-message", ErrorCode::InvalidRequest, message),
                )
            }
            Ok(Frame::Batch(_)) => {
                let message = "an array of messages is not understood here: send one message per frame";
                self.refuse(
                    host,
                    None,
                    Refusal::new("not-a-message", ErrorCode::InvalidRequest, message.to_owned()),
                )
            }
            Err(error) => {
                self.refuse(host, None, Refusal::new("not-json", ErrorCode::ParseError, error.to_string()))
            }
        }
    }

    fn request(&mut self, host: &Host, driver: &mut Driver, now: Now, request: Request) -> Option<Sealed> {
        let Request { id, method, mut message } = request;
        if self.is_too_long(&id) {
            let message = "the id is too long to be repeated in an answer".to_owned();
            let refusal = Refusal::new("not-a-message", ErrorCode::InvalidRequest, message);
            return self.refuse(host, None, refusal);
        }
        if driver.connection().is_pending(&id) {
            let message = "a request with this id is still in flight: use a fresh id".to_owned();
            let refusal = Refusal::new("id-in-use", ErrorCode::InvalidRequest, message);
            return self.refuse(host, Some(&id), refusal);
        }
        let Some(method) = DialectMethod::parse(&method) else {
            let refusal =
                Refusal::new("unknown-method", ErrorCode::MethodNotFound, replaced::method(&method));
            return self.refuse(host, Some(&id), refusal);
        };
        let params = message.get_mut("params").map(Value::take);
        let admitted = match dialect::admit(method, id, params) {
            Ok(admitted) => admitted,
            Err((id, violation)) => {
                let message = format!("invalid params: {violation}");
                let refusal = Refusal::new("bad-params", ErrorCode::InvalidParams, message);
                return self.refuse(host, Some(&id), refusal);
            }
        };
        let (id, method, params) = admitted.into_parts();
        match requests::translate(method, params, &self.session) {
            Ok((core_method, params)) => {
                let message = json!({
                    "jsonrpc": "2.0", "id": id.to_value(), "method": core_method.as_str(), "params": params,
                });
                self.asked.insert(id.clone(), method);
                let request = Request { id, method: core_method.as_str().to_owned(), message };
                driver.parsed_frame(now, Ok(Frame::Single(Envelope::Request(request))));
                None
            }
            Err(message) => {
                let refusal = Refusal::new("bad-params", ErrorCode::InvalidParams, message);
                self.refuse(host, Some(&id), refusal)
            }
        }
    }

    /// A frame of the core, for the client; `None` for what clients of the dialect do not know.
    pub(super) fn give(&mut self, host: &Host, outgoing: &Outgoing) -> Option<Sealed> {
        let About::Request { id, is_answer: true } = &outgoing.about else {
            // The core refused a frame that was judged before it came there.
            if outgoing.error.is_some() {
                error!("the core refused a request that the dialect had translated");
            }
            return None;
        };
        let Some(method) = self.asked.remove(id) else {
            // A second refusal of one id: every request is in `asked` until it is answered.
            error!("an answer to a request that nobody made was dropped");
            return None;
        };
        if self.asked.is_empty() {
            // A burst is over.
            self.asked = HashMap::new();
        }
        let translated = serde_json::from_slice(outgoing.frame.as_bytes())
            .ok()
            .and_then(|message| answers::translate(method, message));
        let answer = match translated {
            Some(Ok(result)) => sealed(host, dialect::seal_result(method, id, &result)),
            Some(Err(error)) => sealed(host, dialect::seal_error(Some(id), &error)),
            None => {
                error!(method = method.as_str(), "an answer could not be said in the dialect");
                None
            }
        };
        // Whatever went wrong with us, the request gets its answer.
        answer.or_else(|| {
            let error = RpcError::new(
                ErrorCode::InternalError,
                "internal error: this was not your fault, and the server's log has the details",
            );
            sealed(host, dialect::seal_error(Some(id), &error))
        })
    }

    /// Whether an answer with this id could not keep to the size of a frame.
    fn is_too_long(&self, id: &RequestId) -> bool {
        id.token().len() > self.frame_out_bytes_max / 2
    }

    fn refuse(&self, host: &Host, id: Option<&RequestId>, refusal: Refusal) -> Option<Sealed> {
        host.metrics.refused(refusal.rule);
        let id = id.filter(|id| !self.is_too_long(id));
        sealed(host, dialect::seal_error(id, &RpcError::new(refusal.code, refusal.message)))
    }
}

/// What was sealed; that it does not fit its definition is our bug, and in the log.
fn sealed(host: &Host, sealed: Result<Sealed, Violation>) -> Option<Sealed> {
    sealed
        .inspect_err(|violation| {
            host.metrics.schema_violation();
            error!(%violation, "a frame of the dialect was withheld");
        })
        .ok()
}

/// The first characters of what a client sent, fit to be repeated.
fn beginning(text: &str) -> String {
    let shown: String = text.chars().filter(|c| !c.is_control()).take(REPEATED_CHARS_MAX).collect();
    if shown.len() < text.len() { format!("{shown}…") } else { shown }
}
