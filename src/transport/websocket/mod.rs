//! MCP over WebSocket: one JSON-RPC message per text frame (no specification has it; what clients of both SDKs expect).
//!
//! The stack knows nothing of MCP: [`Handshake`] answers the request, [`Socket`] turns bytes into messages and closes with
//! the code that a breach calls for, [`KeepAlive`] says when to ping. On it one task per connection runs the core.
//!
//! The old dialect of TMWS travels the same way, on a path of its own (`transport::dialect`).
//!
//! Opening: subprotocol `mcp` is selected exactly when offered. Framing: text only, one message each, fragments and
//! interleaved control frames as RFC 6455 has them, no extensions. Cancelling: as on stdio; whoever leaves cancels all.
//!
//! | close | when |
//! |---|---|
//! | 1001 | the server stops (after the answers of what ran), or nothing was heard for too long |
//! | 1002 | the peer broke the WebSocket protocol |
//! | 1003 | a binary message |
//! | 1007 | a text message that is not UTF-8 |
//! | 1008 | the token was withdrawn |
//! | 1009 | a message beyond the frame limit |
//! | 1011 | our fault |

mod handshake;
mod keep_alive;
mod session;
mod socket;

use std::sync::Arc;

use hyper::{Response, body::Incoming as RequestBody};
use hyper_util::rt::TokioIo;
use tracing::debug;

pub use handshake::{Handshake, HandshakeError};
pub use keep_alive::{KeepAlive, Quiet};
pub use socket::{CloseCode, Ended, Incoming, Socket};

use super::{Host, Io, http::Body};
use crate::access::Entrant;

/// What is spoken on a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// MCP, every revision.
    Mcp,
    /// What TMWS spoke before.
    Dialect,
}

impl Language {
    /// The subprotocol that names it: the one that SDKs offer, or one of our own.
    const fn subprotocol(self) -> &'static str {
        match self {
            Self::Mcp => "mcp",
            Self::Dialect => "tmws-dialect-1",
        }
    }
}

/// Answers the handshake, and serves the connection that comes of it.
///
/// Host, Origin and the token were checked before.
pub fn upgrade(
    host: Arc<Host>,
    entrant: Entrant,
    request: hyper::Request<RequestBody>,
    language: Language,
) -> Response<Body> {
    let checked = match Handshake::check(&request, language.subprotocol()) {
        Ok(_) if host.stopping.is_cancelled() => Err(HandshakeError::Stopping),
        checked => checked,
    };
    let handshake = match checked {
        Ok(handshake) => handshake,
        Err(error) => {
            host.metrics.refused("websocket-handshake");
            return error.response();
        }
    };
    let upgrading = hyper::upgrade::on(request);
    let runtime = host.runtime.clone();
    runtime.spawn(async move {
        let message_bytes_max = host.connection_limits.frame_in_bytes_max;
        if let Some(socket) = take_over(upgrading, message_bytes_max).await {
            session::serve(host, entrant, socket, language).await;
        }
    });
    handshake.response()
}

async fn take_over(upgrading: hyper::upgrade::OnUpgrade, message_bytes_max: usize) -> Option<Socket<Io>> {
    let upgraded = match upgrading.await {
        Ok(upgraded) => upgraded,
        Err(error) => {
            debug!(%error, "a client left during its handshake");
            return None;
        }
    };
    let parts = upgraded.downcast::<TokioIo<Io>>().ok();
    debug_assert!(parts.is_some(), "the listener hands its connections to hyper as `TokioIo<Io>`");
    let parts = parts?;
    Some(Socket::new(parts.io.into_inner(), parts.read_buf.into(), message_bytes_max))
}
