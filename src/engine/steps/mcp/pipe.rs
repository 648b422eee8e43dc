//! What a server on stdin and stdout says, taken apart before rmcp's client sees it.
//!
//! rmcp is given answers to what it asked and nothing else, each decoded by the request that it answers. What a server
//! asks is answered here, what it tells is counted, and a server that says too much is dropped: no line, no queue and
//! no number of requests grows with what it sends.

use std::{
    collections::HashMap,
    future::Future,
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rmcp::{
    RoleClient,
    model::{
        ClientJsonRpcMessage, ClientRequest, CustomResult, DiscoverResult, InitializeResult, JsonRpcMessage,
        RequestId, ServerJsonRpcMessage, ServerResult,
    },
    transport::Transport,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    sync::mpsc,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Longest line taken from a server, in bytes.
pub(super) const LINE_BYTES_MAX: usize = 4 << 20;
/// Between two requests of ours a server may send so many of its own,
const REQUESTS_MAX: u64 = 200;
/// so many notifications,
const NOTIFICATIONS_MAX: u64 = 20_000;
/// so many lines that are no message,
const JUNK_LINES_MAX: u64 = 1_000;
/// in all so many bytes,
const JUNK_BYTES_MAX: u64 = 1 << 20;
/// and so many answers to what nobody asked, late ones among them.
const STRAY_MAX: u64 = 200;
/// Deepest nesting of a message; serde_json's own limit.
const DEPTH: &str = "recursion limit exceeded";
const READ_BYTES: usize = 64 << 10;
/// Frames waiting, each way.
const QUEUE: usize = 16;

/// Why a connection ended, as far as this side knows: said once.
#[derive(Debug, Default)]
pub(super) struct Fate(OnceLock<String>);

impl Fate {
    /// Says it, unless something was said already.
    pub(super) fn decide(&self, why: impl FnOnce() -> String) {
        let _ = self.0.set(why());
    }

    /// What was said.
    pub(super) fn told(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }
}

/// What is known of the other side.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Lines of any kind.
    pub(super) lines: AtomicU64,
    /// It said that its tools have changed.
    pub(super) has_changed: AtomicBool,
    /// Nothing more will be heard: cancelled when its output ends, or when it is dropped for what it said.
    pub(super) over: CancellationToken,
    /// rmcp has read all of it.
    pub(super) drained: CancellationToken,
    requests: AtomicU64,
    notifications: AtomicU64,
    junk_lines: AtomicU64,
    junk_bytes: AtomicU64,
    stray: AtomicU64,
}

impl Heard {
    fn begin_anew(&self) {
        for count in [&self.requests, &self.notifications, &self.junk_lines, &self.junk_bytes, &self.stray] {
            count.store(0, Ordering::Relaxed);
        }
    }
}

fn passes(count: &AtomicU64, more: u64, max: u64) -> bool {
    count.fetch_add(more, Ordering::Relaxed) + more > max
}

/// How the answer to a request is decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Initialize,
    Discover,
    Other,
}

/// Requests without an answer, by id as text: some servers send a number back as a text.
type Pending = Arc<Mutex<HashMap<String, Asked>>>;

/// rmcp's end of the conversation.
pub(super) struct Pipe {
    outgoing: Option<mpsc::Sender<Vec<u8>>>,
    incoming: mpsc::Receiver<ServerJsonRpcMessage>,
    pending: Pending,
    heard: Arc<Heard>,
    reader: JoinHandle<()>,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.reader.abort();
        self.heard.drained.cancel();
    }
}

impl Pipe {
    /// A conversation over `output` and `input` of a server, which is told `root` where it asks for roots.
    pub(super) fn new(
        input: impl AsyncWrite + Send + Unpin + 'static,
        output: impl AsyncRead + Send + Unpin + 'static,
        root: Option<PathBuf>,
        fate: Arc<Fate>,
        heard: Arc<Heard>,
    ) -> Self {
        let (outgoing, to_write) = mpsc::channel(QUEUE);
        let (answers, incoming) = mpsc::channel(QUEUE);
        let pending = Pending::default();
        tokio::spawn(write(input, to_write));
        let reader = Reader {
            pending: Arc::clone(&pending),
            heard: Arc::clone(&heard),
            // Weak: the server's stdin ends when rmcp lets go of it, whatever the server still says.
            replies: outgoing.downgrade(),
            answers,
            root,
        };
        let over = heard.over.clone();
        let reader = tokio::spawn(async move {
            let _over = over.drop_guard();
            if let Err(why) = reader.read(output).await {
                fate.decide(|| why);
            }
        });
        Self { outgoing: Some(outgoing), incoming, pending, heard, reader }
    }
}

fn id_text(id: &RequestId) -> String {
    match id {
        RequestId::Number(number) => number.to_string(),
        RequestId::String(text) => text.to_string(),
    }
}

impl Transport<RoleClient> for Pipe {
    type Error = io::Error;

    fn send(
        &mut self,
        message: ClientJsonRpcMessage,
    ) -> impl Future<Output = io::Result<()>> + Send + 'static {
        if let JsonRpcMessage::Request(request) = &message {
            let asked = match &request.request {
                ClientRequest::InitializeRequest(_) => Asked::Initialize,
                ClientRequest::DiscoverRequest(_) => Asked::Discover,
                _ => Asked::Other,
            };
            self.heard.begin_anew();
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            pending.insert(id_text(&request.id), asked);
        }
        if let JsonRpcMessage::Notification(notification) = &message
            && let rmcp::model::ClientNotification::CancelledNotification(cancelled) =
                &notification.notification
            && let Some(id) = &cancelled.params.request_id
        {
            self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&id_text(id));
        }
        let outgoing = self.outgoing.clone();
        async move {
            let mut frame = serde_json::to_vec(&message)?;
            frame.push(b'\n');
            let outgoing = outgoing.ok_or(io::ErrorKind::NotConnected)?;
            outgoing.send(frame).await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
        }
    }

    async fn receive(&mut self) -> Option<ServerJsonRpcMessage> {
        self.incoming.recv().await
    }

    async fn close(&mut self) -> io::Result<()> {
        self.outgoing = None;
        Ok(())
    }
}

/// Writes frames; the server's stdin ends with the last of those who may write.
async fn write(mut input: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Vec<u8>>) {
    while let Some(frame) = frames.recv().await {
        if input.write_all(&frame).await.is_err() || input.flush().await.is_err() {
            return;
        }
    }
}

/// The end of a conversation, with the reason.
type Verdict = Result<(), String>;

struct Reader {
    pending: Pending,
    heard: Arc<Heard>,
    replies: mpsc::WeakSender<Vec<u8>>,
    answers: mpsc::Sender<ServerJsonRpcMessage>,
    root: Option<PathBuf>,
}

impl Reader {
    async fn read(&self, mut output: impl AsyncRead + Unpin) -> Verdict {
        let mut line = Vec::new();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let count = match output.read(&mut buffer).await {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) => return Err(format!("its output cannot be read: {error}")),
            };
            let mut rest = &buffer[..count];
            while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
                line.extend_from_slice(&rest[..at]);
                rest = &rest[at + 1..];
                self.line(&line).await?;
                line.clear();
                line.shrink_to(READ_BYTES);
            }
            line.extend_from_slice(rest);
            if line.len() > LINE_BYTES_MAX {
                return Err(format!("it wrote a line of more than {} MiB", LINE_BYTES_MAX >> 20));
            }
        }
    }

    async fn line(&self, line: &[u8]) -> Verdict {
        let line = line.trim_ascii();
        if line.is_empty() {
            return Ok(());
        }
        self.heard.lines.fetch_add(1, Ordering::Relaxed);
        match serde_json::from_slice(line) {
            Ok(Value::Array(batch)) => {
                for message in batch {
                    self.message(message).await?;
                }
                Ok(())
            }
            Ok(message) => self.message(message).await,
            Err(error) if error.to_string().starts_with(DEPTH) => {
                Err("it wrote JSON that is nested too deep".to_owned())
            }
            Err(_) => self.junk(line.len()),
        }
    }

    fn junk(&self, bytes: usize) -> Verdict {
        let heard = &self.heard;
        let many = passes(&heard.junk_lines, 1, JUNK_LINES_MAX);
        if passes(&heard.junk_bytes, bytes as u64, JUNK_BYTES_MAX) || many {
            return Err("it wrote too much to stdout that is no MCP message".to_owned());
        }
        Ok(())
    }

    async fn message(&self, mut message: Value) -> Verdict {
        let bytes = message.as_object().map_or(64, |members| 16 * members.len());
        let Some(members) = message.as_object_mut() else { return self.junk(bytes) };
        let id = members.get("id").filter(|id| id.is_i64() || id.is_u64() || id.is_string()).cloned();
        let method = members.get("method").and_then(Value::as_str);
        match (method, id) {
            (Some(method), Some(id)) => {
                if passes(&self.heard.requests, 1, REQUESTS_MAX) {
                    return Err("it asks this client without end".to_owned());
                }
                let reply = self.reply(method, &id);
                self.send(&reply)
            }
            (Some(method), None) => {
                if method == "notifications/tools/list_changed" {
                    self.heard.has_changed.store(true, Ordering::Release);
                }
                if passes(&self.heard.notifications, 1, NOTIFICATIONS_MAX) {
                    return Err("it sends notifications without end".to_owned());
                }
                Ok(())
            }
            (None, Some(id)) => {
                let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
                let asked = self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                let (Some(asked), Ok(number)) = (asked, id.parse()) else {
                    if passes(&self.heard.stray, 1, STRAY_MAX) {
                        return Err("it answers what nobody asked without end".to_owned());
                    }
                    return Ok(());
                };
                let answer = answer(asked, RequestId::Number(number), members);
                // An error means that rmcp has left; so will whoever waits for it.
                let _ = self.answers.send(answer).await;
                Ok(())
            }
            (None, None) => self.junk(bytes),
        }
    }

    /// What a server that asks this client is told: there is no model, no user and, unless it was configured, no root
    /// here for it.
    fn reply(&self, method: &str, id: &Value) -> Value {
        match (method, &self.root) {
            ("ping", _) => json!({"jsonrpc": "2.0", "id": id, "result": {}}),
            ("roots/list", Some(root)) => {
                let uri = format!("file://{}", encoded(&root.to_string_lossy()));
                json!({"jsonrpc": "2.0", "id": id, "result": {"roots": [{"uri": uri}]}})
            }
            _ => json!({
                "jsonrpc": "2.0", "id": id,
                "error": {"code": -32601, "message": "this client calls tools and offers nothing else"}
            }),
        }
    }

    fn send(&self, reply: &Value) -> Verdict {
        let Some(replies) = self.replies.upgrade() else { return Ok(()) };
        let mut frame = reply.to_string().into_bytes();
        frame.push(b'\n');
        match replies.try_send(frame) {
            Err(mpsc::error::TrySendError::Full(_)) => {
                Err("it asks, and does not read the answers".to_owned())
            }
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }
}

/// An answer for rmcp: typed where rmcp itself asked, else the result as it came.
fn answer(asked: Asked, id: RequestId, members: &mut serde_json::Map<String, Value>) -> ServerJsonRpcMessage {
    if let Some(error) = members.remove("error") {
        let code = error.get("code").and_then(Value::as_i64).and_then(|code| i32::try_from(code).ok());
        let message = error.get("message").and_then(Value::as_str).unwrap_or_default().to_owned();
        let code = rmcp::model::ErrorCode(code.unwrap_or(-32603));
        let data = error.get("data").cloned();
        return ServerJsonRpcMessage::error(rmcp::model::ErrorData::new(code, message, data), Some(id));
    }
    let result = members.remove("result").unwrap_or_default();
    let typed = match asked {
        Asked::Initialize => {
            serde_json::from_value::<InitializeResult>(result).ok().map(ServerResult::InitializeResult)
        }
        Asked::Discover => {
            serde_json::from_value::<DiscoverResult>(result).ok().map(ServerResult::DiscoverResult)
        }
        Asked::Other => Some(ServerResult::CustomResult(CustomResult(result))),
    };
    // What is no such result ends the handshake as one that rmcp did not ask for.
    let typed = typed.unwrap_or_else(|| ServerResult::CustomResult(CustomResult(Value::Null)));
    ServerJsonRpcMessage::response(typed, id)
}

/// A path as part of a URI.
fn encoded(path: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}
