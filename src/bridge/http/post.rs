//! One message posted, and what comes back for it: JSON, an event stream, or a status.

use std::{cell::Cell, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::{
    Method, Response, StatusCode,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{
    Ending, Report,
    events::EventDecoder,
    exchange::{Failed, Routing, Sender, Shared},
};
use crate::{
    bridge::{
        back_off, message,
        message::{Kind, Message},
        refusal,
    },
    resilience::retry_after,
    wire::RequestId,
};

/// A refusal's body is read so far.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// A stream that ends is asked for again after so long, where the server does not say.
const RESUME_AFTER: Duration = Duration::from_millis(100);
/// A server that wants to be left alone for longer is asked after so long.
const RESUME_AFTER_MAX: Duration = Duration::from_secs(30);
/// Resumed in a row without a message in between.
const RESUMED_MAX: u32 = 20;
/// A request that a server has no place for now is asked again after at least so long.
const AGAIN_AFTER_MIN: Duration = Duration::from_millis(100);
/// For so long in all.
const AGAIN_MAX: Duration = Duration::from_secs(10);
/// What requests were told before, so that the answer stays the caller's.
const IN_FLIGHT: &str = "while this request was in flight. It may or may not have been carried out; it was not sent again: whether to call again is up to you";

/// A message about to be posted.
pub(super) struct Post {
    /// Requests in it: none, one, or those of a batch.
    requests: Vec<RequestId>,
    method: String,
    routing: Routing,
    /// No message could be read in it: the server says so without an id.
    is_unreadable: bool,
}

impl Post {
    pub(super) fn of(frame: &[u8]) -> Self {
        let messages = Message::read_all(frame);
        let mut post = Self {
            requests: Vec::new(),
            method: String::new(),
            routing: Routing::default(),
            is_unreadable: messages.is_empty(),
        };
        for message in &messages {
            match message.kind_from_host() {
                Kind::Request { id, method } => {
                    if messages.len() == 1 {
                        let params = message.params();
                        if let Some(version) = params.claim() {
                            post.routing =
                                Routing::modern(&version, &method, params.subject(&method).as_deref());
                        }
                    }
                    post.method = method.into_owned();
                    post.requests.push(id);
                }
                Kind::Notification { method } => post.method = method.into_owned(),
                Kind::Response { .. } | Kind::Unattributed | Kind::Other => {}
            }
        }
        post
    }

    pub(super) fn requests(&self) -> &[RequestId] {
        &self.requests
    }

    pub(super) const fn is_request(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Whether what comes after it depends on its end: on stdio such messages take effect in their order.
    pub(super) fn is_barrier(&self) -> bool {
        let in_order = [
            "initialize",
            "notifications/initialized",
            "logging/setLevel",
            "resources/subscribe",
            "resources/unsubscribe",
        ];
        !self.routing.is_modern() && in_order.contains(&self.method.as_str())
    }

    pub(super) fn opens_listener(&self) -> bool {
        self.requests.is_empty() && self.method == "notifications/initialized"
    }

    pub(super) fn modern_request(&self) -> Option<RequestId> {
        if self.routing.is_modern() { self.requests.first().cloned() } else { None }
    }

    /// Posts it and reports all that comes back.
    ///
    /// A 503 with `Retry-After` says that nothing was carried out and when to ask again, which is done for a while;
    /// meanwhile `pausing` is set.
    pub(super) async fn run(
        self,
        shared: &Shared,
        frame: Bytes,
        pausing: &Cell<bool>,
        reporter: &mpsc::Sender<Report>,
    ) -> Ending {
        let until = Instant::now() + AGAIN_MAX;
        loop {
            let session = shared.session_for(&self.routing);
            match self.once(shared, frame.clone(), until, reporter).await {
                Told::Ending(ending) => return ending,
                Told::Later(pause) => {
                    pausing.set(true);
                    sleep(pause).await;
                    // A session that was left meanwhile cannot take it any more, and without one it is refused for good.
                    if self.method != "initialize" && session != shared.session_for(&self.routing) {
                        return Ending::SessionGone { message: Some(frame), session };
                    }
                    pausing.set(false);
                }
            }
        }
    }

    async fn once(
        &self,
        shared: &Shared,
        frame: Bytes,
        until: Instant,
        reporter: &mpsc::Sender<Report>,
    ) -> Told {
        let session = shared.session_for(&self.routing);
        let request = shared.request(Method::POST, &self.routing, frame.clone());
        let (response, sender) = match shared.send(request).await {
            Ok(answered) => answered,
            Err(Failed::Unsent(why)) => return Told::Ending(Ending::Unsent { message: Some(frame), why }),
            Err(Failed::InFlight(why)) => {
                self.fail(
                    &format!("the connection to {} was lost ({why}) {IN_FLIGHT}", shared.target),
                    reporter,
                )
                .await;
                return Told::Ending(Ending::Done);
            }
        };
        let status = response.status();
        if status == StatusCode::NOT_FOUND && session.is_some() {
            return Told::Ending(Ending::SessionGone { message: Some(frame), session });
        }
        if self.method == "initialize"
            && let Some(id) = response.headers().get(HeaderName::from_static("mcp-session-id"))
        {
            *shared.session.borrow_mut() = Some(id.clone());
        }
        if let Some(pause) =
            pause(&response).filter(|pause| *pause < until.saturating_duration_since(Instant::now()))
        {
            tracing::warn!(server = %shared.target, ?pause, "the server has no place for a message now; it is sent again");
            return Told::Later(pause);
        }
        if !status.is_success() {
            self.refused(shared, response, reporter).await;
        } else if is_event_stream(&response) {
            match self.stream(shared, response, sender, reporter).await {
                Ok(()) => {}
                // A subscription changes nothing: it is made again.
                Err(broken) if self.is_listen() => {
                    return Told::Ending(Ending::Unsent { message: Some(frame), why: broken.why });
                }
                Err(Broken { why, open }) => {
                    let why = format!("the stream of {} was lost ({why}) {IN_FLIGHT}", shared.target);
                    fail(&open, &why, reporter).await;
                }
            }
        } else {
            self.answered(shared, response, sender, reporter).await;
        }
        Told::Ending(Ending::Done)
    }

    /// Answers every request of it in the server's stead.
    async fn fail(&self, why: &str, reporter: &mpsc::Sender<Report>) {
        fail(&self.requests, why, reporter).await;
    }

    async fn answered(
        &self,
        shared: &Shared,
        response: Response<Incoming>,
        sender: Sender,
        reporter: &mpsc::Sender<Report>,
    ) {
        match Limited::new(response.into_body(), shared.frame_bytes_max).collect().await {
            Ok(body) => {
                shared.keep(sender);
                let frame = body.to_bytes();
                if frame.iter().all(u8::is_ascii_whitespace) {
                    self.fail(&format!("{} gave no answer to this request", shared.target), reporter).await;
                } else {
                    // In one report: the host may use the ids again as soon as it has the answer.
                    let _ = reporter.send(Report::Frame { frame, ends: self.requests.clone() }).await;
                }
            }
            Err(error) => {
                self.fail(
                    &format!("the answer of {} broke off ({error}) {IN_FLIGHT}", shared.target),
                    reporter,
                )
                .await;
            }
        }
    }

    async fn refused(&self, shared: &Shared, response: Response<Incoming>, reporter: &mpsc::Sender<Report>) {
        let (head, body) = response.into_parts();
        let body =
            Limited::new(body, REFUSAL_BYTES_MAX).collect().await.map(http_body_util::Collected::to_bytes);
        let body = body.unwrap_or_default();
        let said: Option<Refusal<'_>> = serde_json::from_slice(&body).ok();
        let why = refusal::of_status(head.status, &head.headers, &body, shared.target.token_origin);
        if self.is_unreadable && said.is_some() {
            report(reporter, body.clone()).await;
        } else if self.requests.is_empty() {
            tracing::warn!(server = %shared.target, why, "a notification or an answer was refused");
        }
        for id in &self.requests {
            let frame = match &said {
                Some(Refusal { error, .. }) => message::with_id(id, error),
                None => message::error(id, &format!("{} refused this request: {why}", shared.target)),
            };
            report(reporter, frame.into()).await;
        }
    }

    fn is_listen(&self) -> bool {
        self.routing.is_modern() && self.method == "subscriptions/listen"
    }

    /// Reads an event stream, and what continues it where the server has broken it off.
    async fn stream(
        &self,
        shared: &Shared,
        response: Response<Incoming>,
        sender: Sender,
        reporter: &mpsc::Sender<Report>,
    ) -> Result<(), Broken> {
        let mut position = Position::new(self.requests.clone());
        let mut read = read(shared, response, sender, &mut position, reporter).await;
        let mut resumed = 0;
        while let (false, false, Some(last)) =
            (position.open.is_empty(), self.routing.is_modern(), position.last.clone())
        {
            resumed = if position.has_moved { 0 } else { resumed + 1 };
            position.has_moved = false;
            if resumed > RESUMED_MAX {
                break;
            }
            sleep(position.pause()).await;
            let Ok((response, sender)) = get(shared, Some(&last)).await else { break };
            if !response.status().is_success() || !is_event_stream(&response) {
                break;
            }
            read = self::read(shared, response, sender, &mut position, reporter).await;
        }
        if position.open.is_empty() {
            return Ok(());
        }
        Err(Broken { why: read.err().unwrap_or_else(|| "it ended early".to_owned()), open: position.open })
    }
}

/// What came of posting a message once.
enum Told {
    Ending(Ending),
    /// Nothing: it was refused, and may be posted again after so long.
    Later(Duration),
}

/// After how long a server that has no place now wants to be asked again, where it says so.
fn pause(response: &Response<Incoming>) -> Option<Duration> {
    if response.status() != StatusCode::SERVICE_UNAVAILABLE {
        return None;
    }
    Some(retry_after(response.headers(), Timestamp::now())?.max(AGAIN_AFTER_MIN))
}

/// A stream that ended before all was said.
struct Broken {
    why: String,
    /// Requests without an answer.
    open: Vec<RequestId>,
}

async fn fail(requests: &[RequestId], why: &str, reporter: &mpsc::Sender<Report>) {
    for id in requests {
        report(reporter, message::error(id, why).into()).await;
    }
}

/// The stream of what belongs to no request, for as long as the server has one.
pub(super) async fn listen(shared: &Shared, reporter: &mpsc::Sender<Report>) -> Ending {
    let mut position = Position::new(Vec::new());
    let mut attempt = 0;
    loop {
        let session = shared.session.borrow().clone();
        let (response, sender) = match get(shared, position.last.clone().as_deref()).await {
            Ok(answered) => answered,
            Err(Failed::Unsent(why)) => return Ending::Unsent { message: None, why },
            Err(Failed::InFlight(why)) => {
                tracing::debug!(why, "the server's own stream could not be opened");
                attempt += 1;
                sleep(back_off(attempt)).await;
                continue;
            }
        };
        match response.status() {
            StatusCode::NOT_FOUND if session.is_some() => {
                return Ending::SessionGone { message: None, session };
            }
            status if status.is_success() && is_event_stream(&response) => {
                position.has_moved = false;
                let _ = read(shared, response, sender, &mut position, reporter).await;
                attempt = if position.has_moved { 0 } else { attempt + 1 };
                sleep(position.pause().max(back_off(attempt))).await;
            }
            status if status.is_server_error() || status == StatusCode::CONFLICT => {
                attempt += 1;
                sleep(back_off(attempt)).await;
            }
            // 405: this server has none.
            status => {
                tracing::debug!(%status, "the server offers no stream of its own");
                return Ending::Done;
            }
        }
    }
}

async fn get(shared: &Shared, last: Option<&str>) -> Result<(Response<Incoming>, Sender), Failed> {
    let mut request = shared.request(Method::GET, &Routing::default(), Bytes::new());
    if let Some(last) = last.and_then(|last| HeaderValue::try_from(last).ok()) {
        request.headers_mut().insert(HeaderName::from_static("last-event-id"), last);
    }
    shared.send(request).await
}

/// Where a stream has got to.
struct Position {
    last: Option<String>,
    retry: Option<Duration>,
    /// Requests without an answer.
    open: Vec<RequestId>,
    /// Something came since the stream was opened last.
    has_moved: bool,
}

impl Position {
    const fn new(open: Vec<RequestId>) -> Self {
        Self { last: None, retry: None, open, has_moved: false }
    }

    fn pause(&self) -> Duration {
        self.retry.unwrap_or(RESUME_AFTER).min(RESUME_AFTER_MAX)
    }
}

/// Reads a stream to its end.
async fn read(
    shared: &Shared,
    response: Response<Incoming>,
    sender: Sender,
    position: &mut Position,
    reporter: &mpsc::Sender<Report>,
) -> Result<(), String> {
    let mut body = response.into_body();
    let mut decoder = EventDecoder::new(shared.frame_bytes_max);
    while let Some(part) = body.frame().await {
        let part = part.map_err(|error| error.to_string())?;
        let Ok(bytes) = part.into_data() else { continue };
        decoder.push(&bytes);
        while let Some(event) =
            decoder.next().map_err(|_| "an event is longer than the limit of a frame".to_owned())?
        {
            position.has_moved = true;
            if let Some(frame) = event.message() {
                // Whether the stream has said all decides whether it is resumed.
                if let Some(Kind::Response { id, .. }) = Message::read(frame).map(|message| message.kind()) {
                    position.open.retain(|open| *open != id);
                }
                report(reporter, Bytes::copy_from_slice(frame)).await;
            }
            position.last = event.id.or(position.last.take());
            position.retry = event.retry.or(position.retry);
        }
    }
    shared.keep(sender);
    Ok(())
}

async fn report(reporter: &mpsc::Sender<Report>, frame: Bytes) {
    // Nobody takes reports any more: the bridge has ended.
    let _ = reporter.send(Report::Frame { frame, ends: Vec::new() }).await;
}

fn is_event_stream(response: &Response<Incoming>) -> bool {
    let value = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.is_some_and(|value| value.trim_start().to_ascii_lowercase().starts_with("text/event-stream"))
}

/// A JSON-RPC error as a refusal's body.
#[derive(Deserialize)]
struct Refusal<'a> {
    #[serde(borrow)]
    #[expect(dead_code, reason = "its presence is what tells a JSON-RPC message")]
    jsonrpc: &'a RawValue,
    error: Value,
}
