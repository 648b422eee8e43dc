//! Frames over WebSocket.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::timeout;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _, http::HeaderName},
};

use super::Target;
use crate::{
    accept::scenario::Broken,
    dial::{Dialer, Stream},
};

/// A connection stands within this.
const OPEN_MAX: Duration = Duration::from_secs(15);

pub(super) struct Socket {
    stream: WebSocketStream<Box<dyn Stream>>,
    /// The code of the close that came.
    closed: Option<u16>,
}

impl Socket {
    /// Connects. What the server refuses says its status.
    pub(super) async fn connect(target: &Target) -> Result<Self, Broken> {
        let broken = |seen: &dyn std::fmt::Display| {
            Broken::new(format!("opening a WebSocket to {}", target.authority()), "101", seen)
        };
        let opening = async {
            let dialer = Dialer::new(target.is_tls).map_err(|error| broken(&error))?;
            let stream = dialer.dial(&target.host, target.port).await.map_err(|error| broken(&error))?;
            let scheme = if target.is_tls { "wss" } else { "ws" };
            let url = format!("{scheme}://{}{}", target.authority(), target.socket_path);
            let mut request = url.into_client_request().map_err(|error| broken(&error))?;
            let mut headers = vec![("sec-websocket-protocol".to_owned(), "mcp".to_owned())];
            headers.extend(
                target.token.as_ref().map(|token| ("authorization".to_owned(), format!("Bearer {token}"))),
            );
            headers.extend(target.headers.iter().cloned());
            for (name, value) in headers {
                let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| broken(&error))?;
                request.headers_mut().insert(name, value.parse().map_err(|error| broken(&error))?);
            }
            match client_async(request, stream).await {
                Ok((stream, _)) => Ok(Self { stream, closed: None }),
                Err(Error::Http(answer)) => Err(broken(&answer.status())),
                Err(error) => Err(broken(&error)),
            }
        };
        timeout(OPEN_MAX, opening).await.unwrap_or_else(|_| Err(broken(&format!("nothing in {OPEN_MAX:?}"))))
    }

    pub(super) async fn send(&mut self, text: &str) -> Result<(), Broken> {
        let sent = self.stream.send(Message::text(text)).await;
        sent.map_err(|error| Broken::new("sending a frame", "it is taken", error))
    }

    /// The next text; `None` where none comes until then.
    pub(super) async fn receive(&mut self, until: Instant) -> Result<Option<String>, Broken> {
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(message) = timeout(left, self.stream.next()).await else { return Ok(None) };
            let broken =
                |seen: &dyn std::fmt::Display| Err(Broken::new("waiting for a frame", "a frame", seen));
            match message {
                Some(Ok(Message::Text(text))) => return Ok(Some(text.to_string())),
                Some(Ok(Message::Close(close))) => {
                    let code = close.as_ref().map_or(1005, |close| close.code.into());
                    self.closed = Some(code);
                    return broken(&format!("the server closed with {code}"));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return broken(&error),
                None => return broken(&"the end of the connection"),
            }
        }
    }

    /// The code of the close that came or comes; 0 for an end without one.
    pub(super) async fn closed(&mut self, until: Instant) -> Option<u16> {
        loop {
            if let Some(code) = self.closed {
                return Some(code);
            }
            match self.receive(until).await {
                Ok(None) => return None,
                Err(_) if self.closed.is_none() => return Some(0),
                Ok(Some(_)) | Err(_) => {}
            }
        }
    }
}
