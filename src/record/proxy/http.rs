//! Requests and responses, streaming both ways.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1 as client,
    header::{
        ACCEPT_ENCODING, CONNECTION, CONTENT_TYPE, EXPECT, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
    server::conn::http1 as server,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value};
use tokio::net::TcpStream;
use tracing::{debug, warn};

use super::{
    Conversation, Site,
    events::EventTap,
    heads::{Fields, Heads, Watched},
    websocket,
};
use crate::{
    dial::DIAL_MAX,
    record::{
        redact::Redactor,
        sink::{FRAME_BYTES_MAX, new},
    },
    transcript::{Direction, Entry, Http},
};

/// Buffer of a connection.
const BUFFER_BYTES_MAX: usize = 64 << 10;
/// What belongs to one connection, not to what is said on it (RFC 9110, 7.6.1).
static HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];
/// Of a response, what its connection and its clock add to what the server says.
pub(super) const UNTOLD: &[&str] =
    &["connection", "content-length", "date", "keep-alive", "transfer-encoding"];

/// Serves one connection.
pub(super) async fn serve(site: Arc<Site>, stream: TcpStream) {
    let heads = Heads::default();
    let io = TokioIo::new(Watched { io: stream, heads: heads.clone() });
    let service = service_fn(move |request| {
        let (site, heads) = (Arc::clone(&site), heads.clone());
        async move { Ok::<_, std::convert::Infallible>(answer(site, heads, request).await) }
    });
    let connection =
        server::Builder::new().max_buf_size(BUFFER_BYTES_MAX).serve_connection(io, service).with_upgrades();
    if let Err(error) = connection.await {
        debug!(%error, "a connection ended early");
    }
}

async fn answer(site: Arc<Site>, heads: Heads, request: Request<Incoming>) -> Response<Passing> {
    if !site.is_ours(request.headers()) {
        let text = "the Host of this request is not this recorder's: use the address that it listens on\n";
        return told(StatusCode::FORBIDDEN, text.to_owned());
    }
    let fields = heads.fields(request.headers());
    if websocket::is_asked_for(&request) {
        return websocket::open(site, fields, request).await;
    }
    let (mut head, body) = request.into_parts();
    let exchange = Arc::new(Exchange::new(
        &site.http,
        &head.method,
        head.uri.path_and_query().map_or("/", |path| path.as_str()),
        &fields,
    ));
    heads.expect();
    let body = Sending { exchange: Arc::clone(&exchange), heads, body };
    body.look();
    end_to_end(&mut head.headers);
    site.rename(&mut head.headers);
    let request = Request::from_parts(head, body);
    match send(&site, request).await {
        Ok((response, heads)) => {
            let fields = heads.fields(response.headers());
            let (mut head, body) = response.into_parts();
            let passing = Receiving::new(exchange, head.status, &fields, &head.headers, body);
            end_to_end(&mut head.headers);
            Response::from_parts(head, Passing::Server(passing))
        }
        Err(why) => unreachable(&site, &exchange, &why),
    }
}

fn unreachable(site: &Site, exchange: &Exchange, why: &str) -> Response<Passing> {
    warn!(server = site.server, error = why, "the server did not answer");
    let reason = Some(why.to_owned());
    let event = Some("no-response".to_owned());
    exchange.note(Entry { event, reason, ..new(Direction::Event) }, None);
    told(StatusCode::BAD_GATEWAY, format!("tmws record: {} did not answer: {why}\n", site.server))
}

/// An answer of our own.
pub(super) fn told(status: StatusCode, text: String) -> Response<Passing> {
    let mut response = Response::new(Passing::Own(Full::new(text.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Sends a request on a connection of its own.
///
/// # Errors
/// Why there is no response.
pub(super) async fn send<B>(
    site: &Site,
    mut request: Request<B>,
) -> Result<(Response<Incoming>, Heads), String>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // The server gets a path, whatever form the client wrote.
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).parse();
    *request.uri_mut() = path.map_err(|_| "its path cannot be passed on".to_owned())?;
    *request.version_mut() = hyper::Version::HTTP_11;
    let text = |error: hyper::Error| {
        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
        format!("{error}{}", source.unwrap_or_default())
    };
    let stream = site.dialer.dial(&site.upstream.host, site.upstream.port).await;
    let io = stream.map_err(|error| error.to_string())?;
    let heads = Heads::default();
    let io = TokioIo::new(Watched { io, heads: heads.clone() });
    let handshake = client::Builder::new().max_buf_size(BUFFER_BYTES_MAX).handshake(io);
    let (mut sender, connection) =
        tokio::time::timeout(DIAL_MAX, handshake).await.map_err(|error| error.to_string())?.map_err(text)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            debug!(%error, "a connection to the server ended early");
        }
    });
    let response = sender.send_request(request).await.map_err(text)?;
    Ok((response, heads))
}

/// Takes out what is meant for the recorder, and what would keep it from reading the answer.
pub(super) fn end_to_end(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named).chain(&[ACCEPT_ENCODING, EXPECT]) {
        headers.remove(name);
    }
}

/// Headers as a recording has them; several of one name as a list.
pub(super) fn recorded(fields: &Fields, redactor: &mut Redactor, leave_out: &[&str]) -> Map<String, Value> {
    let mut headers = Map::new();
    for (name, value) in fields {
        if leave_out.iter().any(|left_out| name.eq_ignore_ascii_case(left_out)) {
            continue;
        }
        let value = Value::from(redactor.header(name, value));
        match headers.get_mut(name) {
            None => {
                headers.insert(name.clone(), value);
            }
            Some(Value::Array(list)) => list.push(value),
            Some(one) => *one = vec![one.take(), value].into(),
        }
    }
    headers
}

/// A request, noted once its body has come, and at the latest before anything of its response is.
struct Exchange {
    conversation: Conversation,
    method: Method,
    request: Mutex<Told>,
}

struct Told {
    /// Until it is noted.
    entry: Option<Entry>,
    body: Vec<u8>,
    cut: u64,
    n: u64,
}

impl Exchange {
    fn new(conversation: &Conversation, method: &Method, path: &str, fields: &Fields) -> Self {
        let (path, headers) = {
            let mut inner = conversation.lock();
            let redactor = inner.0.redactor();
            (redactor.address(path), recorded(fields, redactor, &["host"]))
        };
        let http =
            Http { method: Some(method.to_string()), path: Some(path), status: None, headers: Some(headers) };
        let entry = Some(Entry { http: Some(http), ..new(Direction::C2s) });
        Self {
            conversation: conversation.clone(),
            method: method.clone(),
            request: Mutex::new(Told { entry, body: Vec::new(), cut: 0, n: 0 }),
        }
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.request.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, bytes: &[u8]) {
        let mut told = self.told();
        let Told { body, cut, .. } = &mut *told;
        keep(body, cut, bytes);
    }

    /// Notes the request, if that is not done yet.
    fn request(&self, unfinished: bool) -> u64 {
        let mut told = self.told();
        if let Some(entry) = told.entry.take() {
            let body = std::mem::take(&mut told.body);
            let cut = (told.cut > 0).then_some(told.cut);
            let body = (!body.is_empty()).then_some(&body[..]);
            told.n = self.conversation.request(Entry { cut, unfinished, ..entry }, body);
        }
        told.n
    }

    /// Notes what belongs to it.
    fn note(&self, entry: Entry, body: Option<&[u8]>) {
        self.conversation.of(self.request(true), entry, body);
    }
}

fn keep(body: &mut Vec<u8>, cut: &mut u64, bytes: &[u8]) {
    let kept = bytes.len().min(FRAME_BYTES_MAX - body.len());
    body.extend_from_slice(&bytes[..kept]);
    *cut += (bytes.len() - kept) as u64;
}

/// The body of a request on its way to the server.
struct Sending {
    exchange: Arc<Exchange>,
    heads: Heads,
    body: Incoming,
}

impl Sending {
    /// Notes the request once its body is whole: before its last bytes leave.
    fn look(&self) {
        if self.body.is_end_stream() {
            self.exchange.request(false);
            self.heads.expect();
        }
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.exchange.keep(data);
                }
                self.look();
            }
            Poll::Ready(None) => {
                self.exchange.request(false);
                self.heads.expect();
            }
            Poll::Ready(Some(Err(_))) => {
                self.exchange.request(true);
            }
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a response on its way to the client.
pub(super) enum Passing {
    Own(Full<Bytes>),
    Server(Receiving),
}

impl Body for Passing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Own(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Self::Server(body) => body.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Server(body) => body.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Server(body) => body.body.size_hint(),
        }
    }
}

/// What the server says, noted as it passes: events one by one, all else as a whole.
pub(super) struct Receiving {
    exchange: Arc<Exchange>,
    body: Incoming,
    kind: Kind,
    has_ended: bool,
}

enum Kind {
    Events {
        tap: EventTap,
        /// An answer has come: that the stream ends then is no news.
        is_answered: bool,
    },
    Whole {
        head: Option<Http>,
        bytes: Vec<u8>,
        cut: u64,
    },
}

impl Receiving {
    fn new(
        exchange: Arc<Exchange>,
        status: StatusCode,
        fields: &Fields,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Self {
        exchange.request(true);
        let told = recorded(fields, exchange.conversation.lock().0.redactor(), UNTOLD);
        let told = (!told.is_empty()).then_some(told);
        let head = Http { method: None, path: None, status: Some(status.as_u16()), headers: told };
        let is_stream = headers
            .get(CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .is_some_and(|kind| kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream"));
        let kind = if is_stream {
            exchange.note(Entry { http: Some(head), ..new(Direction::S2c) }, None);
            Kind::Events { tap: EventTap::default(), is_answered: false }
        } else {
            Kind::Whole { head: Some(head), bytes: Vec::new(), cut: 0 }
        };
        let mut receiving = Self { exchange, body, kind, has_ended: false };
        if receiving.body.is_end_stream() {
            receiving.end(false);
        }
        receiving
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.keep(data);
                }
                // Whoever takes the last frame may not ask for more.
                if self.body.is_end_stream() {
                    self.end(false);
                }
            }
            Poll::Ready(None) => self.end(false),
            Poll::Ready(Some(Err(_))) => self.end(true),
            Poll::Pending => {}
        }
        polled
    }

    fn keep(&mut self, data: &[u8]) {
        match &mut self.kind {
            Kind::Whole { bytes, cut, .. } => keep(bytes, cut, data),
            Kind::Events { tap, is_answered } => tap.feed(data, |event| {
                let is_endpoint = event.name == "endpoint";
                *is_answered |= is_answer(&event.data);
                let data = if is_endpoint {
                    let text = String::from_utf8_lossy(&event.data).into_owned();
                    self.exchange.conversation.lock().0.redactor().address(&text).into_bytes()
                } else {
                    event.data
                };
                let cut = (event.cut > 0).then_some(event.cut);
                let entry = Entry { sse: Some(event.name), sse_id: event.id, cut, ..new(Direction::S2c) };
                self.exchange.note(entry, Some(&data));
            }),
        }
    }

    /// The server has said all that it will say.
    fn end(&mut self, unfinished: bool) {
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        match &mut self.kind {
            Kind::Whole { head, bytes, cut } => {
                let bytes = std::mem::take(bytes);
                let cut = (*cut > 0).then_some(*cut);
                let entry = Entry { http: head.take(), cut, unfinished, ..new(Direction::S2c) };
                self.exchange.note(entry, (!bytes.is_empty()).then_some(&bytes[..]));
            }
            Kind::Events { is_answered, .. } => {
                if !*is_answered {
                    let event = Some("stream-end".to_owned());
                    self.exchange.note(Entry { event, unfinished, ..new(Direction::Event) }, None);
                }
            }
        }
    }
}

fn is_answer(data: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Frame<'a> {
        #[serde(borrow)]
        result: Option<&'a serde_json::value::RawValue>,
        #[serde(borrow)]
        error: Option<&'a serde_json::value::RawValue>,
    }
    serde_json::from_slice(data).is_ok_and(|frame: Frame<'_>| frame.result.is_some() || frame.error.is_some())
}

impl Drop for Receiving {
    /// The client has left before the end.
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        match &self.kind {
            Kind::Whole { .. } => self.end(true),
            Kind::Events { .. } => {
                let is_get = self.exchange.method == Method::GET;
                let event = if is_get { "get-stream-closed" } else { "client-closed-stream" };
                self.exchange.note(Entry { event: Some(event.to_owned()), ..new(Direction::Event) }, None);
            }
        }
    }
}
