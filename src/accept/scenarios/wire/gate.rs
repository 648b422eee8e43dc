//! A page that comes when the run lets it come: what patterns wait for, so that a call is under way for as long as it is
//! wanted to be, and that tells who waits and who has gone.

use std::{io, net::Ipv4Addr, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use crate::accept::scenario::Broken;

/// Longest head of a request.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// How many are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    came: usize,
    left: usize,
}

/// The page.
pub(super) struct Gate {
    pub(super) port: u16,
    count: watch::Receiver<Count>,
    open: watch::Sender<bool>,
    serving: tokio::task::JoinHandle<()>,
}

impl Gate {
    /// Shut.
    pub(super) async fn shut() -> Result<Self, Broken> {
        let broken = |error: io::Error| Broken::new("listening for pages", "a port", error);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(broken)?;
        let port = listener.local_addr().map_err(broken)?.port();
        let (open, is_open) = watch::channel(false);
        let (counting, count) = watch::channel(Count::default());
        let serving = tokio::spawn(async move {
            let mut waiting = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                waiting.spawn(wait(stream, is_open.clone(), counting.clone()));
            }
        });
        Ok(Self { port, count, open, serving })
    }

    /// The pattern `accept.wait`: it answers when the page has come.
    pub(super) fn pattern(&self) -> (String, String) {
        let text = WAIT.replace("PORT", &self.port.to_string());
        ("accept.wait.yaml".to_owned(), text)
    }

    /// What lets the server read the page.
    pub(super) fn setting(&self) -> (&'static str, String) {
        ("http.private_hosts", format!("127.0.0.1:{}", self.port))
    }

    /// Waits until so many have asked for the page since the begin.
    pub(super) async fn came(&mut self, number: usize, within: Duration) -> Result<(), Broken> {
        self.counted(within, &format!("{number} calls that wait"), |count| count.came >= number).await
    }

    /// Waits until so many have gone without having got it.
    pub(super) async fn left(&mut self, number: usize, within: Duration) -> Result<(), Broken> {
        self.counted(within, &format!("{number} calls that were given up"), |count| count.left >= number)
            .await
    }

    async fn counted(
        &mut self,
        within: Duration,
        expected: &str,
        is_enough: impl Fn(&Count) -> bool,
    ) -> Result<(), Broken> {
        if timeout(within, self.count.wait_for(is_enough)).await.is_ok_and(|counted| counted.is_ok()) {
            return Ok(());
        }
        let count = *self.count.borrow();
        Err(Broken::new(
            "watching what calls wait for",
            format!("{expected}, within {within:?}"),
            format!("{} came, {} of them left", count.came, count.left),
        ))
    }

    /// Lets the page come, to those who wait and to all after them.
    pub(super) fn open(&self) {
        self.open.send_replace(true);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn wait(mut stream: TcpStream, mut is_open: watch::Receiver<bool>, count: watch::Sender<Count>) {
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read_buf(&mut head).await {
            Ok(read) if read > 0 && head.len() <= HEAD_BYTES_MAX => {}
            _ => return,
        }
    }
    count.send_modify(|count| count.came += 1);
    let mut more = [0; 64];
    tokio::select! {
        () = async { drop(is_open.wait_for(|is_open| *is_open).await) } => {
            let page = "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 4\r\nconnection: close\r\n\r\ncame";
            let _ = stream.write_all(page.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
        // Nothing more is asked on it: it is the end.
        _ = stream.read(&mut more) => count.send_modify(|count| count.left += 1),
    }
}

const WAIT: &str = r#"apiVersion: tmws/v1
kind: Pattern
name: accept.wait
version: 1.0.0
type: infrastructure
description: Wait for a page. For the acceptance run only.
inputs:
  type: object
  additionalProperties: false
  required: [mark]
  properties: {mark: {type: string}}
permissions: {http: ['127.0.0.1:PORT']}
limits: {timeout: 25s, max_steps: 2, max_bytes: 64KiB}
steps:
  - {id: page, uses: http.get, with: {url: '${ "http://127.0.0.1:PORT/" + .inputs.mark }'}, timeout: 25s}
output:
  schema: {type: object, required: [mark, page], properties: {mark: {type: string}, page: {type: string}}}
  value: '${ {mark: .inputs.mark, page: .steps.page.text} }'
  budget: {tokens: 200}
annotations: {readOnlyHint: true, openWorldHint: true}
"#;
