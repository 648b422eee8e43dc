//! A WebSocket to the live server.

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use tokio::{sync::mpsc, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest as _,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use super::{Happening, Link, Order, Remote, Teller, http::is_the_transports_own};
use crate::dial::{DIAL_MAX, Stream};

type Socket = WebSocketStream<Box<dyn Stream>>;

impl Link {
    /// Opens a WebSocket at `path` with what of the recorded headers is the client's own.
    pub(in crate::replay) fn dial(
        remote: Remote,
        path: String,
        headers: Vec<(String, String)>,
        teller: Teller,
    ) -> Self {
        let (orders, ordered) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let how = match open(&remote, &path, &headers).await {
                Ok((socket, subprotocol)) => {
                    teller.tell(Happening::Accepted { subprotocol });
                    converse(socket, ordered, &teller).await
                }
                Err(reason) => reason,
            };
            teller.tell(Happening::Ended { how });
        });
        Self { orders, program: None, task: task.abort_handle() }
    }
}

async fn open(
    remote: &Remote,
    path: &str,
    headers: &[(String, String)],
) -> Result<(Socket, Option<String>), String> {
    let target = &remote.target;
    let scheme = if target.tls { "wss" } else { "ws" };
    let request = format!("{scheme}://{}{path}", target.authority).into_client_request();
    let mut request = request.map_err(|error| format!("the address cannot be used: {error}"))?;
    for (name, value) in headers {
        let lower = name.to_ascii_lowercase();
        let is_handshake = lower.starts_with("sec-websocket-") && lower != "sec-websocket-protocol";
        if is_handshake || is_the_transports_own(&lower, value) {
            continue;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(lower), HeaderValue::try_from(value)) {
            request.headers_mut().append(name, value);
        }
    }
    if let Some(authorization) = &target.authorization {
        request.headers_mut().insert(AUTHORIZATION, authorization.clone());
    }
    let stream = remote
        .dialer
        .dial(&target.host, target.port)
        .await
        .map_err(|error| format!("it cannot be reached: {error}"))?;
    let upgraded = timeout(DIAL_MAX, client_async(request, stream)).await;
    match upgraded.map_err(|_| "it did not answer the WebSocket handshake".to_owned())? {
        Ok((socket, response)) => {
            let chosen = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
            Ok((socket, chosen.and_then(|name| name.to_str().ok()).map(str::to_owned)))
        }
        Err(Error::Http(response)) => {
            Err(format!("it refused the WebSocket with status {}", response.status()))
        }
        Err(error) => Err(format!("no WebSocket came about: {error}")),
    }
}

/// Until the end of the connection; how it ended.
async fn converse(mut socket: Socket, mut orders: mpsc::UnboundedReceiver<Order>, teller: &Teller) -> String {
    loop {
        tokio::select! {
            order = orders.recv() => {
                let sent = match order {
                    Some(Order::Frame(bytes)) => socket.send(Message::text(String::from_utf8_lossy(&bytes).into_owned())).await,
                    Some(Order::Close { code, reason }) => {
                        let frame = code.filter(|code| !matches!(code, 1004..=1006 | 1015));
                        let frame = frame.map(|code| CloseFrame { code: CloseCode::from(code), reason: reason.into() });
                        socket.close(frame).await
                    }
                    None => return "it was left".to_owned(),
                };
                if let Err(error) = sent {
                    return format!("the WebSocket broke: {error}");
                }
            }
            received = socket.next() => match received {
                Some(Ok(Message::Text(text))) => {
                    teller.tell(Happening::frame(None, text.as_bytes()));
                }
                Some(Ok(Message::Binary(bytes))) => {
                    let text = format!("a binary message of {} bytes", bytes.len());
                    teller.tell(Happening::frame(None, text.as_bytes()));
                }
                Some(Ok(Message::Close(frame))) => {
                    // The close that answers it is written by going on to the end.
                    while socket.next().await.is_some_and(|received| received.is_ok()) {}
                    return match frame {
                        Some(frame) => format!("it closed with {} {:?}", u16::from(frame.code), frame.reason.as_str()),
                        None => "it closed without a code".to_owned(),
                    };
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(error)) => return format!("the WebSocket broke: {error}"),
                None => return "it closed".to_owned(),
            },
        }
    }
}
