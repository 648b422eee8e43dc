//! A WebSocket: two byte streams after the handshake, passed on as they come and read as frames.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http_body_util::{BodyExt as _, Empty, Full, Limited};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{
        CONNECTION, CONTENT_LENGTH, HeaderValue, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
    },
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tracing::{debug, warn};

use super::{
    Site,
    frames::{FrameTap, Message},
    heads::{Fields, Heads},
    http::{Passing, UNTOLD, end_to_end, recorded, send, told},
};
use crate::{
    record::sink::{Sink, new},
    transcript::{Direction, Entry, Http, Transport},
};

const READ_BYTES: usize = 16 << 10;
/// After one end has gone the other is waited for so long.
const GOODBYE_MAX: Duration = Duration::from_secs(5);
/// Of the body of a refusal so much is passed on.
const REFUSAL_BYTES_MAX: usize = 1 << 20;

pub(super) fn is_asked_for(request: &Request<Incoming>) -> bool {
    request
        .headers()
        .get(UPGRADE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
}

/// Opens one at the server for the client, with a recording of its own.
pub(super) async fn open(
    site: Arc<Site>,
    fields: Fields,
    mut request: Request<Incoming>,
) -> Response<Passing> {
    let mut sink = Sink::new(site.options.clone(), Transport::Ws, &site.server);
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let handshake = Entry {
        ws: Some("handshake".to_owned()),
        path: Some(sink.redactor().address(path)),
        headers: Some(recorded(&fields, sink.redactor(), &[])),
        ..new(Direction::C2s)
    };
    sink.note(handshake);
    let client = hyper::upgrade::on(&mut request);
    let (mut head, _) = request.into_parts();
    end_to_end(&mut head.headers);
    site.rename(&mut head.headers);
    // What is compressed could not be read.
    head.headers.remove(SEC_WEBSOCKET_EXTENSIONS);
    head.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let (mut response, heads) = match send(&site, Request::from_parts(head, Empty::<Bytes>::new())).await {
        Ok(answered) => answered,
        Err(why) => {
            warn!(server = site.server, error = why, "the server did not answer");
            let event = Some("no-response".to_owned());
            sink.note(Entry { event, reason: Some(why.clone()), ..new(Direction::Event) });
            let text = format!("tmws record: {} did not answer: {why}\n", site.server);
            return told(StatusCode::BAD_GATEWAY, text);
        }
    };
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return refused(sink, response, &heads).await;
    }
    let subprotocol = response.headers().get(SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok());
    let subprotocol = subprotocol.map(|name| sink.redactor().subprotocol(name));
    sink.note(Entry { ws: Some("accept".to_owned()), subprotocol, ..new(Direction::S2c) });
    let server = hyper::upgrade::on(&mut response);
    tokio::spawn(converse(sink, client, server));
    let (mut head, _) = response.into_parts();
    end_to_end(&mut head.headers);
    head.headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    Response::from_parts(head, Passing::Own(Full::default()))
}

/// The server's answer that is no consent.
async fn refused(mut sink: Sink, response: Response<Incoming>, heads: &Heads) -> Response<Passing> {
    let fields = heads.fields(response.headers());
    let (mut head, body) = response.into_parts();
    let body = Limited::new(body, REFUSAL_BYTES_MAX).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let headers = recorded(&fields, sink.redactor(), UNTOLD);
    let headers = (!headers.is_empty()).then_some(headers);
    let http = Http { method: None, path: None, status: Some(head.status.as_u16()), headers };
    let entry = Entry { http: Some(http), ..new(Direction::S2c) };
    if body.is_empty() {
        sink.note(entry)
    } else {
        sink.note_bytes(entry, &body)
    };
    end_to_end(&mut head.headers);
    // What was too long is left out, and its length with it.
    head.headers.remove(CONTENT_LENGTH);
    Response::from_parts(head, Passing::Own(Full::new(body)))
}

/// What both directions write to.
struct Talk {
    sink: Sink,
    /// Somebody has said goodbye.
    is_closed: bool,
}

impl Talk {
    fn note(&mut self, by: Direction, message: Message) {
        let entry = |kind: &str| Entry { ws: Some(kind.to_owned()), ..new(by) };
        match message {
            Message::Text(bytes, cut) => {
                // A frame of the server without a kind is text.
                let ws = (by == Direction::C2s).then(|| "text".to_owned());
                let cut = (cut > 0).then_some(cut);
                self.sink.note_bytes(Entry { ws, cut, ..new(by) }, &bytes);
            }
            Message::Binary(bytes, cut) => {
                let cut = (cut > 0).then_some(cut);
                self.sink.note(Entry { raw: Some(STANDARD.encode(bytes)), cut, ..entry("binary") });
            }
            Message::Ping(bytes) => {
                self.sink.note_bytes(entry("ping"), &bytes);
            }
            Message::Pong(bytes) => {
                self.sink.note_bytes(entry("pong"), &bytes);
            }
            Message::Close(code, reason) => self.close(by, code, reason),
        }
    }

    /// Who says goodbye second only answers.
    fn close(&mut self, by: Direction, code: u16, reason: String) {
        if std::mem::replace(&mut self.is_closed, true) {
            return;
        }
        let event = if by == Direction::C2s { "ws-close" } else { "ws-closed-by-server" };
        let (event, code) = (Some(event.to_owned()), Some(code));
        self.sink.note(Entry { event, code, reason: Some(reason), ..new(Direction::Event) });
    }
}

async fn converse(sink: Sink, client: OnUpgrade, server: OnUpgrade) {
    let (client, server) = match tokio::try_join!(client, server) {
        Ok(both) => both,
        Err(error) => return debug!(%error, "a WebSocket ended before it began"),
    };
    let (client_reads, client_writes) = tokio::io::split(TokioIo::new(client));
    let (server_reads, server_writes) = tokio::io::split(TokioIo::new(server));
    let talk = Mutex::new(Talk { sink, is_closed: false });
    let mut to_server = std::pin::pin!(pass(client_reads, server_writes, Direction::C2s, &talk));
    let mut to_client = std::pin::pin!(pass(server_reads, client_writes, Direction::S2c, &talk));
    let (by, ended) = tokio::select! {
        ended = &mut to_server => (Direction::C2s, ended),
        ended = &mut to_client => (Direction::S2c, ended),
    };
    if let Err(error) = ended {
        debug!(%error, "a WebSocket was cut off");
    }
    locked(&talk).close(by, 1006, String::new());
    let rest = async {
        match by {
            Direction::C2s => to_client.await,
            Direction::S2c | Direction::Event => to_server.await,
        }
    };
    // How that ends says nothing more.
    let _ = tokio::time::timeout(GOODBYE_MAX, rest).await;
}

fn locked(talk: &Mutex<Talk>) -> std::sync::MutexGuard<'_, Talk> {
    talk.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Passes bytes on until they end, and the end too.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    by: Direction,
    talk: &Mutex<Talk>,
) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    let mut tap = FrameTap::default();
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            // Noted as soon as it is written, without a pause in between: before any answer to it.
            let written = to.write(rest).await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            let mut talk = locked(talk);
            tap.feed(&rest[..written], |message| talk.note(by, message));
            rest = &rest[written..];
        }
        to.flush().await?;
    }
}
