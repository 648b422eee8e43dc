//! A line that many callers share: their calls are on the way at once, each answer goes to whoever asked.

use std::{collections::HashMap, net::SocketAddr, path::Path, process::Stdio};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStdin, ChildStdout},
    sync::{mpsc, oneshot},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use super::{Answer, client, instance, within};

enum Duplex {
    Socket(Box<WebSocketStream<TcpStream>>),
    Pipe(Box<Pipe>),
}

struct Pipe {
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    /// Ended with it.
    _process: Child,
}

struct Asked {
    params: Value,
    answer: oneshot::Sender<Value>,
}

/// A connection; it ends with its last clone.
#[derive(Clone)]
pub(super) struct Line(mpsc::UnboundedSender<Asked>);

impl Line {
    /// A WebSocket of `ada`.
    pub(super) async fn socket(target: SocketAddr, project: &str) -> Self {
        let stream = TcpStream::connect(target).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let socket = client::open_socket(stream, target, "ada", project).await.unwrap();
        Self::new(Duplex::Socket(Box::new(socket)))
    }

    /// `tmws stdio` in `workspace`, with a home of its own and this database.
    pub(super) fn stdio(workspace: &Path, home: &Path, database_url: &str) -> Self {
        let mut process = instance::command(workspace, home)
            .arg("stdio")
            .env("TMWS_DATABASE_URL", database_url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = process.stdin.take().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap()).lines();
        Self::new(Duplex::Pipe(Box::new(Pipe { stdin, stdout, _process: process })))
    }

    fn new(mut duplex: Duplex) -> Self {
        let (sender, mut asked) = mpsc::unbounded_channel::<Asked>();
        tokio::spawn(async move {
            let mut waiting: HashMap<i64, oneshot::Sender<Value>> = HashMap::new();
            let mut id = 0;
            loop {
                tokio::select! {
                    asked = asked.recv() => {
                        let Some(Asked { params, answer }) = asked else { return };
                        id += 1;
                        waiting.insert(id, answer);
                        let message = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
                        duplex.send(message.to_string()).await;
                    }
                    text = duplex.next() => {
                        // Whoever still waits learns of the end by the end of its channel.
                        let Some(text) = text else { return };
                        let frame: Value = serde_json::from_str(&text).unwrap();
                        if let Some(answer) = frame["id"].as_i64().and_then(|id| waiting.remove(&id)) {
                            let _ = answer.send(frame);
                        }
                    }
                }
            }
        });
        Self(sender)
    }

    /// Calls a tool.
    ///
    /// # Errors
    /// It failed, or the line ended: what was said.
    pub(super) async fn call(&self, tool: &str, arguments: &Value) -> Result<Answer, String> {
        let params = json!({"name": tool, "arguments": arguments, "_meta": client::envelope()});
        let (answer, answered) = oneshot::channel();
        self.0.send(Asked { params, answer }).map_err(|_| "the line has ended".to_owned())?;
        let frame = within("an answer", answered).await.map_err(|_| "the line ended".to_owned())?;
        Answer::read(&frame, 0)?.well()
    }
}

impl Duplex {
    async fn send(&mut self, text: String) {
        // An end is seen by whoever reads.
        match self {
            Self::Socket(socket) => drop(socket.send(Message::text(text)).await),
            Self::Pipe(pipe) => drop(pipe.stdin.write_all(format!("{text}\n").as_bytes()).await),
        }
    }

    async fn next(&mut self) -> Option<String> {
        match self {
            Self::Socket(socket) => loop {
                match socket.next().await? {
                    Ok(Message::Text(text)) => return Some(text.as_str().to_owned()),
                    Ok(Message::Ping(_) | Message::Pong(_)) => {}
                    Ok(_) | Err(_) => return None,
                }
            },
            Self::Pipe(pipe) => pipe.stdout.next_line().await.ok().flatten(),
        }
    }
}
