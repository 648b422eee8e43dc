//! The live server: processes, pipes, WebSockets and requests of HTTP, all telling what happens through one channel.

mod http;
mod process;
mod websocket;

use std::sync::Arc;

use tokio::{sync::mpsc, task::AbortHandle};

use super::script::Head;
use crate::{bridge::target::Target, dial::Dialer};

pub(super) use http::Call;
pub use process::Pipes;
pub(super) use process::{Program, Tail};

/// What a lane tells.
#[derive(Debug)]
pub(super) enum Happening {
    /// A frame, or the body of a response, or the data of an event.
    Frame { step: Option<usize>, text: String, is_utf8: bool },
    /// HTTP+SSE: where messages go.
    Endpoint { path: String },
    /// A response begins.
    Head { step: Option<usize>, head: Head },
    /// A response has ended, or never came.
    Over { step: Option<usize>, error: Option<String> },
    /// The WebSocket stands.
    Accepted { subprotocol: Option<String> },
    /// The connection is over; nothing comes after it.
    Ended { how: String },
}

impl Happening {
    /// A frame of these bytes.
    fn frame(step: Option<usize>, bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let is_utf8 = matches!(text, std::borrow::Cow::Borrowed(_));
        Self::Frame { step, text: text.into_owned(), is_utf8 }
    }
}

/// Where a lane tells it.
#[derive(Clone, Debug)]
pub(super) struct Teller {
    pub(super) lane: usize,
    pub(super) sender: mpsc::UnboundedSender<(usize, Happening)>,
}

impl Teller {
    pub(super) fn tell(&self, happening: Happening) {
        // Whoever listened has seen enough.
        let _ = self.sender.send((self.lane, happening));
    }
}

/// A server on the network.
#[derive(Clone)]
pub(super) struct Remote {
    pub(super) target: Arc<Target>,
    pub(super) dialer: Arc<Dialer>,
}

/// What the player asks of a connection that carries frames.
#[derive(Debug)]
enum Order {
    Frame(Vec<u8>),
    /// The end of what the client says.
    Close {
        code: Option<u16>,
        reason: String,
    },
}

/// A connection that carries frames: a process, pipes or a WebSocket.
pub(super) struct Link {
    orders: mpsc::UnboundedSender<Order>,
    program: Option<Program>,
    task: AbortHandle,
}

impl Link {
    pub(super) fn send(&self, frame: impl Into<Vec<u8>>) {
        // What it would have been sent to has ended, and that is told elsewhere.
        let _ = self.orders.send(Order::Frame(frame.into()));
    }

    /// Closes standard input, or the WebSocket.
    pub(super) fn close(&self, code: Option<u16>, reason: String) {
        let _ = self.orders.send(Order::Close { code, reason });
    }

    /// Whether there is, or was, a process.
    pub(super) const fn is_program(&self) -> bool {
        self.program.is_some()
    }

    /// Sends a signal; whether there is a process for it.
    pub(super) fn signal(&self, name: &str) -> bool {
        self.program.as_ref().is_some_and(|program| program.signal(name))
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}
