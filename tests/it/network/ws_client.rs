//! A WebSocket client that shows everything.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest as _},
};

use super::within;

/// An open WebSocket.
pub(crate) struct Ws {
    pub(crate) stream: WebSocketStream<TcpStream>,
}

impl Ws {
    /// Offers subprotocol `mcp`.
    pub(crate) async fn connect(address: SocketAddr, path: &str) -> Self {
        Self::connect_with(address, path, &[("sec-websocket-protocol", "mcp")]).await.expect("a WebSocket")
    }

    /// With these headers beside those of the handshake.
    ///
    /// # Errors
    /// The server refused: [`Error::Http`] has its answer.
    pub(crate) async fn connect_with(
        address: SocketAddr,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Result<Self, Error> {
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        let tcp = TcpStream::connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let (stream, _) = within("the handshake", client_async(request, tcp)).await?;
        Ok(Self { stream })
    }

    pub(crate) async fn send(&mut self, message: &Value) {
        self.stream.send(Message::text(message.to_string())).await.unwrap();
    }

    /// The next WebSocket message of any kind; `None` once it is closed.
    pub(crate) async fn next(&mut self) -> Option<Result<Message, Error>> {
        within("a message", self.stream.next()).await
    }

    /// The next JSON message.
    pub(crate) async fn receive(&mut self) -> Value {
        loop {
            match self.next().await.expect("it is open").expect("a message") {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("no text: {other:?}"),
            }
        }
    }

    /// The code and reason that the server closes with.
    pub(crate) async fn closed(&mut self) -> Option<(u16, String)> {
        loop {
            match self.next().await {
                Some(Ok(Message::Close(frame))) => {
                    return frame.map(|frame| (frame.code.into(), frame.reason.to_string()));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }
}
