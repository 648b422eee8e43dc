//! POST to `/mcp`: reads the body once, decides the era, hands over.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::{
    StatusCode,
    body::Incoming,
    header::{CONNECTION, HeaderValue},
    http::request::Parts,
};
use serde_json::{Map, json};
use tokio::time::{Instant, timeout};

use super::{
    Request, Response, body, discovery,
    era::{Kind, Route, Said, route},
    headers, legacy, modern,
    server::Site,
};
use crate::{
    access::{Entrant, Refused},
    revision::Revision,
    scope::Rights,
    transport::{host::INSUFFICIENT_SCOPE, io::Line},
    wire::{Envelope, ErrorCode, Frame, FrameError, Method, RequestId, RpcError, parse_frame},
};

/// A whole body may take so many times as long as the longest pause in it.
const PAUSES_MAX: u32 = 6;

/// A POST whose body was read and parsed.
pub(super) struct Posted {
    /// Method, path, headers.
    pub(super) head: Parts,
    /// The body as a frame.
    pub(super) frame: Result<Frame, FrameError>,
}

/// Answers a POST.
pub(super) async fn post(
    site: &Arc<Site>,
    entrant: &Entrant,
    line: &Arc<Line>,
    request: Request,
) -> Response {
    if let Err((status, rule, reason)) = declared(&request) {
        line.linger();
        site.host.metrics.refused(rule);
        return body::refuse(site, true, status, reason);
    }
    let (head, body) = request.into_parts();
    let limit = site.host.connection_limits.frame_in_bytes_max;
    let bytes = match read(body, limit, site.host.network_limits.body_timeout).await {
        Ok(bytes) => bytes,
        Err(fault) => {
            line.linger();
            return unread(site, fault, limit);
        }
    };
    let frame = match parse_frame(&bytes) {
        Ok(frame) => frame,
        Err(error) => {
            site.host.metrics.refused("not-json");
            return refuse(site, None, ErrorCode::ParseError, error.to_string());
        }
    };
    drop(bytes);
    if entrant.principal.is_revoked() {
        return withdrawn(site, entrant, &head);
    }
    let id = match &frame {
        Frame::Single(Envelope::Request(request)) => Some(&request.id),
        Frame::Single(Envelope::Invalid { id, .. }) => id.as_ref(),
        Frame::Single(Envelope::Notification(_) | Envelope::Response(_)) | Frame::Batch(_) => None,
    };
    let kind = Kind::of(&frame);
    let route = route(kind, Said::by(&head.headers));
    match route {
        Route::Modern | Route::Legacy => {
            let needed = needs(site, &frame);
            if !entrant.rights.include(needed) {
                return insufficient(site, entrant, &head, &frame, needed);
            }
            let posted = Posted { head, frame: Ok(frame) };
            if route == Route::Legacy {
                legacy::post(site, entrant, posted).await
            } else {
                Box::pin(modern::post(site, entrant, posted)).await
            }
        }
        Route::Drop => body::empty(StatusCode::ACCEPTED),
        Route::Mismatch => refuse(
            site,
            id,
            ErrorCode::HeaderMismatch,
            "the header MCP-Protocol-Version names 2026-07-28, which has no `initialize`: leave the header out, or send `server/discover` with its `_meta`",
        ),
        Route::NoEnvelope => refuse(
            site,
            id,
            ErrorCode::InvalidParams,
            "invalid params: the header MCP-Protocol-Version names 2026-07-28, but /params/_meta lacks io.modelcontextprotocol/protocolVersion and io.modelcontextprotocol/clientCapabilities",
        ),
        Route::Unsupported => {
            let requested = match headers::text(&head.headers, &headers::PROTOCOL_VERSION) {
                headers::Text::Plain(version) => version,
                headers::Text::Absent | headers::Text::Unreadable => "",
            };
            body::refusal(site, StatusCode::BAD_REQUEST, id, &unsupported(requested))
        }
        Route::NotAMessage => {
            let reason = match &frame {
                Frame::Single(Envelope::Invalid { reason, .. }) => reason.as_str(),
                Frame::Single(_) => "2026-07-28 takes no responses: answers travel in `inputResponses`",
                Frame::Batch(_) => "2026-07-28 has no batches: send one message per POST",
            };
            refuse(
                site,
                id,
                ErrorCode::InvalidRequest,
                format!("not a JSON-RPC message of this revision: {reason}"),
            )
        }
    }
}

/// -32022 with what it must carry.
pub(super) fn unsupported(requested: &str) -> RpcError {
    let supported: Vec<&str> = Revision::MODERN.iter().map(|revision| revision.as_str()).collect();
    let message = format!(
        "this protocol version is not served without a handshake: use {}, or open a session with `initialize`",
        supported.join(" or ")
    );
    RpcError::new(ErrorCode::UnsupportedProtocolVersion, message)
        .with_data(json!({"supported": supported, "requested": requested}))
}

fn refuse(site: &Site, id: Option<&RequestId>, code: ErrorCode, reason: impl Into<String>) -> Response {
    body::refusal(site, StatusCode::BAD_REQUEST, id, &RpcError::new(code, reason))
}

/// Whether the headers declare what a POST must: status, rule and reason where not.
fn declared(request: &Request) -> Result<(), (StatusCode, &'static str, &'static str)> {
    let headers = request.headers();
    if !headers::is_json(headers) {
        return Err((
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "content-type",
            "the body of a POST is JSON: send `Content-Type: application/json`",
        ));
    }
    if !headers::accepts(headers, "application", "json") || !headers::accepts(headers, "text", "event-stream")
    {
        return Err((
            StatusCode::NOT_ACCEPTABLE,
            "accept",
            "an answer is JSON or an event stream: send `Accept: application/json, text/event-stream`",
        ));
    }
    Ok(())
}

/// What the requests of a frame need their caller to be allowed.
fn needs(site: &Site, frame: &Frame) -> Rights {
    let of = |envelope: &Envelope| match envelope {
        Envelope::Request(request) => {
            Method::parse(&request.method).map_or(Rights::NONE, |method| match request.params() {
                Some(params) => site.host.service.needs(method, params),
                None => site.host.service.needs(method, &Map::new()),
            })
        }
        Envelope::Notification(_) | Envelope::Response(_) | Envelope::Invalid { .. } => Rights::NONE,
    };
    match frame {
        Frame::Single(envelope) => of(envelope),
        Frame::Batch(envelopes) => envelopes.iter().fold(Rights::NONE, |all, one| all.with(of(one))),
    }
}

fn insufficient(site: &Site, entrant: &Entrant, head: &Parts, frame: &Frame, needed: Rights) -> Response {
    let (id, method) = match frame {
        Frame::Single(Envelope::Request(request)) => (Some(&request.id), Method::parse(&request.method)),
        Frame::Single(_) | Frame::Batch(_) => (None, None),
    };
    let (principal, project) = (&entrant.principal, Some(&entrant.project));
    site.host.forbid(entrant.peer, principal, INSUFFICIENT_SCOPE, project, method);
    let lacking = needed.without(entrant.rights);
    let reason = format!("this token lacks the scope `{lacking}` in this project: ask for one that has it");
    let error = RpcError::new(ErrorCode::InvalidRequest, reason);
    let mut response = body::refusal(site, StatusCode::FORBIDDEN, id, &error);
    discovery::insufficient(&mut response, site, &head.headers, head.uri.path(), needed);
    response
}

/// The token was good when the request began, and is no longer: nothing of it may run.
pub(super) fn withdrawn(site: &Site, entrant: &Entrant, head: &Parts) -> Response {
    site.host.turn_away(entrant.peer, Refused::UnknownToken);
    discovery::unauthorized(site, &head.headers, head.uri.path(), true, Refused::UnknownToken)
}

/// Why a body was not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    TooLarge,
    TooSlow,
    Broken,
}

/// The whole body, at most `limit` bytes; without a copy where it came in one piece.
pub(super) async fn read(mut body: Incoming, limit: usize, pause: Duration) -> Result<Bytes, Unread> {
    if body.size_hint().lower() > limit as u64 {
        return Err(Unread::TooLarge);
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let mut deadline = None;
    while !body.is_end_stream() {
        let wait = match deadline {
            None => pause,
            Some(deadline) => pause.min(deadline - Instant::now()),
        };
        let frame = match timeout(wait, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(None) => break,
            Ok(Some(Err(_))) => return Err(Unread::Broken),
            Err(_) => return Err(Unread::TooSlow),
        };
        let Ok(data) = frame.into_data() else { continue };
        if first.len() + rest.len() + data.len() > limit {
            return Err(Unread::TooLarge);
        }
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            rest.extend_from_slice(&first);
            first = Bytes::new();
            rest.extend_from_slice(&data);
        }
        if deadline.is_none() && !body.is_end_stream() {
            deadline = Some(Instant::now() + pause * PAUSES_MAX);
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// The answer to a body that was not read; the connection cannot go on after it.
fn unread(site: &Site, fault: Unread, limit: usize) -> Response {
    let (status, rule, reason) = match fault {
        Unread::TooLarge => (
            StatusCode::PAYLOAD_TOO_LARGE,
            "body-too-large",
            format!("the body has more than the {limit} bytes that one message may have: send less at once"),
        ),
        Unread::TooSlow => (
            StatusCode::REQUEST_TIMEOUT,
            "body-too-slow",
            "the body did not come in time: send it again".to_owned(),
        ),
        Unread::Broken => (StatusCode::BAD_REQUEST, "body-broken", "the body ended early".to_owned()),
    };
    site.host.metrics.refused(rule);
    let mut response = body::refuse(site, true, status, &reason);
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
