//! POST of 2026-07-28: stateless, one request a connection of the core.
//!
//! What is answered at once is JSON. The event stream begins with the first notification, or when the call was silent for
//! so long that something in between might take the connection for dead: by then no status can be wrong any more. The
//! client's leaving is its cancellation, whether it waits for the head or reads the stream.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::Frame as BodyFrame;
use hyper::{StatusCode, header::RETRY_AFTER};
use serde_json::Value;
use tokio::{
    sync::broadcast,
    time::{Instant, Sleep, sleep_until},
};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{
    Response, body, events,
    headers::{check_mirrored, check_routing, trace_of},
    post::{Posted, unsupported},
    server::Site,
};
use crate::{
    access::{Entrant, Principal},
    protocol::{About, BatchAnswers, Call, CallError, Claim, Outgoing, Profile, Reply},
    revision::Era,
    session::{Membership, Wake},
    tool::{Change, Context as CallContext, MirroredArgument, ReplyFuture, Service},
    transport::{Host, Seat},
    wire::{Envelope, ErrorCode, Frame, Method, Request, RequestId, RpcError},
};

/// The status that an error travels with; all others are in the answer alone. Clients take an unexplained 400 for a
/// server of the older revisions, so what the envelope is not to blame for is 200.
const STATUSES: &[(ErrorCode, StatusCode)] = &[
    (ErrorCode::ParseError, StatusCode::BAD_REQUEST),
    (ErrorCode::InvalidRequest, StatusCode::BAD_REQUEST),
    (ErrorCode::MethodNotFound, StatusCode::NOT_FOUND),
    (ErrorCode::HeaderMismatch, StatusCode::BAD_REQUEST),
    (ErrorCode::MissingRequiredClientCapability, StatusCode::BAD_REQUEST),
    (ErrorCode::UnsupportedProtocolVersion, StatusCode::BAD_REQUEST),
    (ErrorCode::TooManyRequests, StatusCode::TOO_MANY_REQUESTS),
];

fn status(claim: Claim, error: Option<ErrorCode>) -> StatusCode {
    match error {
        None => StatusCode::OK,
        // The envelope itself is wrong.
        Some(ErrorCode::InvalidParams) if claim == Claim::Malformed => StatusCode::BAD_REQUEST,
        Some(code) => {
            STATUSES.iter().find(|(of, _)| *of == code).map_or(StatusCode::OK, |(_, status)| *status)
        }
    }
}

/// Answers a request that claims to be modern.
pub(super) async fn post(site: &Arc<Site>, entrant: &Entrant, posted: Posted) -> Response {
    let Posted { head, frame } = posted;
    let Ok(Frame::Single(Envelope::Request(request))) = &frame else {
        // The era decision sends nothing else here.
        return body::empty(StatusCode::BAD_REQUEST);
    };
    let claim = Claim::of_message(&request.message);
    if let Err(error) = compare(claim, &head.headers, request) {
        if error.code == ErrorCode::HeaderMismatch {
            site.host.metrics.refused("header-mismatch");
        }
        return body::refusal(site, StatusCode::BAD_REQUEST, Some(&request.id), &error);
    }
    let host = &site.host;
    let service = mirrored(host, &head.headers, request);
    let (id, listens) = (request.id.clone(), request.method == Method::SubscriptionsListen.as_str());
    let bell = Arc::new(Bell::default());
    let signer = host.signer_for(entrant).await;
    let mut seat =
        host.seat_with(service, entrant, "", signer, BatchAnswers::Array, None, Ring(Arc::clone(&bell)));
    let membership = listens.then(|| {
        let scope = seat.driver.identity().scope(Era::Modern);
        host.hub.join(seat.id, scope, Arc::clone(&seat.mailbox))
    });
    seat.driver.set_stateless();
    seat.driver.set_trace(trace_of(&head.headers));
    seat.driver.parsed_frame((host.clock)(), frame);
    let mut exchange = Exchange {
        host: Arc::clone(host),
        principal: Arc::clone(&entrant.principal),
        seat,
        bell,
        id,
        membership,
        stop: None,
        timer: None,
        is_answered: false,
    };
    let first = poll_fn(|context| exchange.poll(context)).await;
    let begins = match first {
        Step::Frames(mut frames) => match frames.first() {
            Some(first) if exchange.is_answered && frames.len() == 1 => {
                let status = status(claim, first.error);
                return match frames.pop() {
                    Some(only) => answer(status, only),
                    None => body::empty(status),
                };
            }
            _ => encoded(&frames),
        },
        Step::Silence => events::KEEP_ALIVE,
    };
    body::events(Box::pin(Stream { begins: Some(begins), exchange }))
}

fn answer(status: StatusCode, outgoing: Outgoing) -> Response {
    let pause = (status == StatusCode::TOO_MANY_REQUESTS).then(|| body::retry_after(&outgoing.frame));
    let mut response = body::json(status, outgoing.frame);
    if let Some(pause) = pause {
        response.headers_mut().insert(RETRY_AFTER, pause);
    }
    response
}

/// The headers against the body, and what the core would take for a handshake.
fn compare(claim: Claim, headers: &hyper::HeaderMap, request: &Request) -> Result<(), RpcError> {
    // An envelope that is incomplete or ill-typed comes before the headers, one of another version after them.
    if claim != Claim::Malformed {
        check_routing(headers, request).map_err(|reason| RpcError::new(ErrorCode::HeaderMismatch, reason))?;
    }
    if request.method != Method::Initialize.as_str() {
        return Ok(());
    }
    // A stream of messages would open a session here; a stateless request cannot.
    let member = |key: &str| request.params()?.get("_meta")?.get(key);
    match claim {
        Claim::Absent | Claim::Valid => Ok(()),
        Claim::Malformed => Err(RpcError::new(
            ErrorCode::InvalidParams,
            "invalid params: /params/_meta is incomplete or ill-typed; it is not needed for a handshake",
        )),
        Claim::Unsupported => {
            let requested = member("io.modelcontextprotocol/protocolVersion").and_then(Value::as_str);
            Err(unsupported(requested.unwrap_or_default()))
        }
    }
}

/// The service, or what stands in its place where a header disagrees with the argument that it repeats: that is judged
/// after the params and before the call.
fn mirrored(host: &Host, headers: &hyper::HeaderMap, request: &Request) -> Arc<dyn Service> {
    let service = Arc::clone(&host.service);
    if request.method != Method::ToolsCall.as_str() {
        return service;
    }
    let params = request.params();
    let tool = params.and_then(|params| params.get("name")).and_then(Value::as_str).unwrap_or_default();
    let arguments = params.and_then(|params| params.get("arguments")).and_then(Value::as_object);
    match check_mirrored(headers, &service.mirrored(tool), arguments) {
        Ok(()) => service,
        Err(reason) => {
            host.metrics.refused("header-mismatch");
            Arc::new(Disagreeing { service, reason })
        }
    }
}

/// Answers every call with the one disagreement.
struct Disagreeing {
    service: Arc<dyn Service>,
    reason: String,
}

impl Service for Disagreeing {
    fn profile(&self) -> Arc<Profile> {
        self.service.profile()
    }

    fn call(self: Arc<Self>, _: Call, _: CallContext) -> ReplyFuture {
        Box::pin(std::future::ready(Reply::Error(CallError::HeaderMismatch(self.reason.clone()))))
    }

    fn events(&self) -> broadcast::Receiver<Change> {
        self.service.events()
    }

    fn mirrored(&self, tool: &str) -> Arc<[MirroredArgument]> {
        self.service.mirrored(tool)
    }
}

/// Wakes whoever polls the exchange: hyper's task, before the head and after.
#[derive(Default)]
struct Bell(AtomicWaker);

struct Ring(Arc<Bell>);

impl Wake for Ring {
    fn wake(&self) {
        self.0.0.wake();
    }
}

/// What an exchange has to say.
enum Step {
    Frames(Vec<Outgoing>),
    /// Nothing for so long that a comment is due.
    Silence,
}

/// One request on its way to its answer. Dropping it is the client's leaving.
struct Exchange {
    host: Arc<Host>,
    principal: Arc<Principal>,
    seat: Seat,
    bell: Arc<Bell>,
    id: RequestId,
    /// It is a listen.
    membership: Option<Membership>,
    /// Done when the server is to end, and then when that must be over.
    stop: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    timer: Option<Pin<Box<Sleep>>>,
    is_answered: bool,
}

impl Exchange {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Step> {
        if let Some(frames) = self.take() {
            return Poll::Ready(Step::Frames(frames));
        }
        self.bell.0.register(context.waker());
        self.seat.driver.mail((self.host.clock)());
        self.poll_end(context);
        loop {
            if let Some(frames) = self.take() {
                self.timer = None;
                return Poll::Ready(Step::Frames(frames));
            }
            let keep_alive = self.host.network_limits.keep_alive;
            let next_timeout = self.seat.driver.next_timeout();
            let timer = self.timer.get_or_insert_with(|| {
                let silence = Instant::now() + keep_alive;
                Box::pin(sleep_until(next_timeout.map_or(silence, |next| silence.min(next.into()))))
            });
            ready!(timer.as_mut().poll(context));
            self.timer = None;
            let now = (self.host.clock)();
            if next_timeout.is_none_or(|next| next > now.monotonic) {
                return Poll::Ready(Step::Silence);
            }
            self.seat.driver.timeout(now);
        }
    }

    /// Looks whether it must come to its end: the server stops, or the client may no longer listen.
    fn poll_end(&mut self, context: &mut Context<'_>) {
        if self.membership.is_some() && self.principal.is_revoked() {
            self.seat.driver.eof((self.host.clock)());
        }
        let stop = self.stop.get_or_insert_with(|| Box::pin(self.host.stopping.clone().cancelled_owned()));
        if stop.as_mut().poll(context).is_pending() {
            return;
        }
        let now = (self.host.clock)();
        if !self.host.cut_off.is_cancelled() {
            self.seat.driver.eof(now);
            let mut cut_off = Box::pin(self.host.cut_off.clone().cancelled_owned());
            let is_pending = cut_off.as_mut().poll(context).is_pending();
            self.stop = Some(cut_off);
            if is_pending {
                return;
            }
        }
        self.seat.driver.drain_deadline(now);
    }

    /// The frames that are ready, if any.
    fn take(&mut self) -> Option<Vec<Outgoing>> {
        let frames: Vec<Outgoing> = self.seat.driver.take_outgoing().collect();
        if frames.is_empty() {
            return None;
        }
        self.is_answered |= frames.iter().any(|outgoing| match &outgoing.about {
            About::Frame => true,
            About::Request { is_answer, .. } => *is_answer,
            About::Session => false,
        });
        Some(frames)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.is_answered {
            self.seat.driver.cancel((self.host.clock)(), &self.id);
        }
    }
}

fn encoded(frames: &[Outgoing]) -> Bytes {
    match frames {
        [one] => events::message(None, one),
        several => {
            several.iter().flat_map(|outgoing| events::message(None, outgoing)).collect::<Vec<u8>>().into()
        }
    }
}

/// The body of an answer that is a stream.
struct Stream {
    begins: Option<Bytes>,
    exchange: Exchange,
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if let Some(begins) = this.begins.take() {
            return Poll::Ready(Some(Ok(BodyFrame::data(begins))));
        }
        if this.exchange.is_answered {
            return Poll::Ready(None);
        }
        let bytes = match ready!(this.exchange.poll(context)) {
            Step::Frames(frames) => encoded(&frames),
            Step::Silence => events::KEEP_ALIVE,
        };
        Poll::Ready(Some(Ok(BodyFrame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_the_status_of_its_code_and_of_where_it_arose() {
        let table = [
            (Claim::Valid, None, 200),
            (Claim::Malformed, Some(ErrorCode::InvalidParams), 400),
            (Claim::Valid, Some(ErrorCode::InvalidParams), 200),
            (Claim::Valid, Some(ErrorCode::InternalError), 200),
            (Claim::Valid, Some(ErrorCode::InvalidRequest), 400),
            (Claim::Valid, Some(ErrorCode::MethodNotFound), 404),
            (Claim::Valid, Some(ErrorCode::HeaderMismatch), 400),
            (Claim::Valid, Some(ErrorCode::MissingRequiredClientCapability), 400),
            (Claim::Valid, Some(ErrorCode::TooManyRequests), 429),
            (Claim::Unsupported, Some(ErrorCode::UnsupportedProtocolVersion), 400),
        ];
        for (claim, error, expected) in table {
            assert_eq!(status(claim, error).as_u16(), expected, "{claim:?} {error:?}");
        }
    }
}
