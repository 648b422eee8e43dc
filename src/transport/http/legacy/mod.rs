//! Sessions of 2025-03-26 to 2025-11-25 (and of 2024-11-05, for clients that negotiate it here): POST, GET, DELETE.
//!
//! ```text
//! mod         what HTTP demands: methods, headers, statuses
//!   ├ posted      whose answers a POST waits for
//!   ├ sessions    id → session: in memory, else restored from the id
//!   │   └ session_id    what an id holds, and that it is ours
//!   └ session     one driver behind a lock; answers, waits
//!       ├ streams     what belongs on which event stream; what is kept to be said again
//!       ├ reading     the body of an event stream
//!       └ knock       a late answer → a short task → the session
//! ```
//!
//! A client that goes away cancels nothing: its calls go on, and what they say is kept for a while, for the client to
//! come back with `Last-Event-ID`. That, too, is only known on the instance that serves the session.

mod knock;
mod posted;
mod reading;
mod session;
mod session_id;
mod sessions;
mod streams;

use std::sync::Arc;

use hyper::{
    Method, StatusCode,
    header::{ACCEPT, ALLOW, HeaderName, HeaderValue},
    http::request::Parts,
};

pub(super) use sessions::Sessions;

use self::{
    posted::Message,
    session::{Over, Session, Taken},
    sessions::{Full, Known},
};
use super::{
    Request, Response, body,
    guard::only,
    headers,
    post::{Posted, withdrawn},
    server::Site,
};
use crate::{
    access::Entrant,
    wire::{ErrorCode, RequestId, RpcError},
};

const SESSION_ID: HeaderName = HeaderName::from_static("mcp-session-id");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Said of every id that is not good here, whatever the reason.
const NO_SUCH_SESSION: &str = "no such session, or not any more: send `initialize` without Mcp-Session-Id";
/// A proxy that keeps a session at its instance may have read the other one.
const SEVERAL_IDS: &str = "Mcp-Session-Id and Last-Event-ID must be given once";
const NO_ID: &str = "neither a session nor the metadata of 2026-07-28: send `initialize` first and its Mcp-Session-Id \
                     from then on, or put `io.modelcontextprotocol/protocolVersion` and \
                     `io.modelcontextprotocol/clientCapabilities` into `params._meta`";

/// A POST without the metadata of 2026-07-28.
pub(super) async fn post(site: &Arc<Site>, entrant: &Entrant, posted: Posted) -> Response {
    let host = &site.host;
    let refuse = |id: Option<&RequestId>, code, reason: String| {
        body::refusal(site, StatusCode::BAD_REQUEST, id, &RpcError::new(code, reason))
    };
    let frame = match posted.frame {
        Ok(frame) => frame,
        Err(fault) => return refuse(None, ErrorCode::ParseError, fault.to_string()),
    };
    let message = match Message::new(frame) {
        Ok(message) => Message { trace: headers::trace_of(&posted.head.headers), ..message },
        Err(reason) => return refuse(None, ErrorCode::InvalidRequest, reason.to_owned()),
    };
    let Ok(id) = only(&posted.head.headers, &SESSION_ID) else {
        let id = message.ids.first().filter(|_| !message.is_batch());
        return refuse(id, ErrorCode::InvalidRequest, SEVERAL_IDS.to_owned());
    };
    let Some(id) = id else {
        return if message.is_initialize {
            Box::pin(open(site, entrant, message)).await
        } else if let Some(reason) = message.invalid_reason() {
            let reason = format!("not a JSON-RPC message: {reason}");
            refuse(message.ids.first(), ErrorCode::InvalidRequest, reason)
        } else {
            host.metrics.refused("no-session");
            let id = message.ids.first().filter(|_| !message.is_batch());
            refuse(id, ErrorCode::InvalidParams, NO_ID.to_owned())
        };
    };
    let Ok(id) = id.to_str() else { return no_such_session(site) };
    converse(site, entrant, &posted.head, id, message).await
}

/// GET and DELETE.
pub(super) async fn other(site: &Arc<Site>, entrant: &Entrant, request: Request) -> Response {
    let given = request.headers();
    let is_get = request.method() == Method::GET;
    if !is_get && request.method() != Method::DELETE {
        return not_allowed("GET, POST, DELETE");
    }
    if is_get && !(given.contains_key(ACCEPT) && headers::accepts(given, "text", "event-stream")) {
        return body::text(StatusCode::NOT_ACCEPTABLE, "a GET is answered with text/event-stream: accept it");
    }
    let (Ok(id), Ok(last_event)) = (only(given, &SESSION_ID), only(given, &LAST_EVENT_ID)) else {
        return body::refuse(site, false, StatusCode::BAD_REQUEST, SEVERAL_IDS);
    };
    let Some(id) = id else {
        site.host.metrics.refused("no-session");
        return body::refusal(
            site,
            StatusCode::BAD_REQUEST,
            None,
            &RpcError::new(ErrorCode::InvalidParams, NO_ID),
        );
    };
    let Ok(id) = id.to_str() else { return no_such_session(site) };
    loop {
        let session = match find(site, entrant, id).await {
            Ok(session) => session,
            Err(refusal) => return refusal,
        };
        if !is_get {
            Box::pin(site.sessions.delete(&site.host, entrant, id, &session)).await;
            return body::empty(StatusCode::NO_CONTENT);
        }
        let last_event = last_event.map(|id| id.to_str().unwrap_or_default());
        match session.listen(entrant, last_event) {
            Ok(response) => return response,
            Err(Over::Deleted) => return no_such_session(site),
            Err(Over::Evicted) => site.sessions.remove(id, &session),
        }
    }
}

/// Opens a session.
async fn open(site: &Arc<Site>, entrant: &Entrant, message: Message) -> Response {
    let host = &site.host;
    let signer = host.signer_for(entrant).await;
    let (mut response, opened) = Session::open(host, entrant, &signer, message);
    let Some((session, id)) = opened else { return response };
    let Ok(header) = HeaderValue::from_str(&id) else {
        return body::empty(StatusCode::INTERNAL_SERVER_ERROR);
    };
    if let Err(Full) = site.sessions.insert(host, &id, session) {
        return full(site);
    }
    Sessions::keep(site);
    response.headers_mut().insert(SESSION_ID, header);
    response
}

/// Hands a message to its session.
async fn converse(site: &Arc<Site>, entrant: &Entrant, head: &Parts, id: &str, message: Message) -> Response {
    let mut message = Some(message);
    loop {
        let session = match find(site, entrant, id).await {
            Ok(session) => session,
            Err(refusal) => return refusal,
        };
        let room = match session.take_in(entrant, &mut message) {
            Taken::Answered(response) => return response,
            Taken::Waits { stream, first, ids } => {
                return Box::pin(session.wait(entrant, stream, first, &ids)).await;
            }
            Taken::Over(Over::Deleted) => return no_such_session(site),
            Taken::Over(Over::Evicted) => {
                site.sessions.remove(id, &session);
                if entrant.principal.is_revoked() {
                    return withdrawn(site, entrant, head);
                }
                continue;
            }
            Taken::Full(room) => room,
        };
        room.await;
        if entrant.principal.is_revoked() {
            return withdrawn(site, entrant, head);
        }
    }
}

/// The session of an id; the answer where there is none.
async fn find(site: &Arc<Site>, entrant: &Entrant, id: &str) -> Result<Arc<Session>, Response> {
    match site.sessions.known(&site.host, entrant, id) {
        Known::Session(session) => return Ok(session),
        Known::Refused => return Err(no_such_session(site)),
        Known::Absent => {}
    }
    // Rare, and too large to be carried along by every POST.
    match Box::pin(site.sessions.restore(&site.host, entrant, id)).await {
        Ok(Some(session)) => {
            Sessions::keep(site);
            Ok(session)
        }
        Ok(None) => Err(no_such_session(site)),
        Err(Full) => Err(full(site)),
    }
}

fn no_such_session(site: &Site) -> Response {
    site.host.metrics.refused("unknown-session");
    let error = RpcError::new(ErrorCode::InvalidRequest, NO_SUCH_SESSION);
    body::refusal(site, StatusCode::NOT_FOUND, None, &error)
}

fn full(site: &Site) -> Response {
    body::unavailable(*site.host.gate, "too many sessions are open here: try again in a moment")
}

fn not_allowed(allowed: &'static str) -> Response {
    let mut response = body::empty(StatusCode::METHOD_NOT_ALLOWED);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
    response
}
