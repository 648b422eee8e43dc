//! The Streamable HTTP side: one POST per message, in both eras.

pub(crate) mod events;
mod exchange;
mod post;

use std::{
    cell::Cell,
    collections::{HashMap, VecDeque},
    rc::Rc,
    time::Duration,
};

use bytes::Bytes;
use hyper::{Method, header::HeaderValue};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, spawn_local},
    time::timeout,
};

pub(crate) use exchange::header_text;
pub(super) use exchange::{Sender, open};

use super::{
    dial::Dialer,
    message::{Kind, Message},
    target::Target,
};
use crate::wire::RequestId;
use exchange::{Routing, Shared};
use post::Post;

/// Requests under way at once: as many as a server of ours works on for one session.
const RUNNING_MAX: usize = 64;
/// Messages that wait for one of these to end; beyond it nothing is taken from the host.
const QUEUE_MAX: usize = 64;
/// Messages read from the server and not yet taken.
const EVENTS_MAX: usize = 16;
/// The session's end is told for so long.
const DELETE_MAX: Duration = Duration::from_millis(100);

/// What comes of the server's side.
pub(super) enum Event {
    /// A message. With it all has come that comes for the requests in `ends`.
    Frame { frame: Bytes, ends: Vec<RequestId> },
    /// The server cannot be reached; this message, if it was one, has not been sent.
    Down { unsent: Option<Vec<u8>>, why: String },
    /// The server does not know the session any more, and has refused this message for it.
    SessionGone { refused: Option<Vec<u8>> },
    /// This message went out under a session that has been left since, and was refused for it.
    Late { refused: Vec<u8> },
}

/// What tasks report.
enum Report {
    Frame { frame: Bytes, ends: Vec<RequestId> },
    Ended { ticket: u64, ending: Ending },
}

/// How a POST or the GET stream ended.
enum Ending {
    /// All is said.
    Done,
    /// Nothing was sent.
    Unsent { message: Option<Bytes>, why: String },
    /// 404 for the session that it was sent under.
    SessionGone { message: Option<Bytes>, session: Option<HeaderValue> },
}

/// A POST under way.
struct Running {
    frame: Bytes,
    is_request: bool,
    /// Nothing else may be sent before its end: what comes after depends on it.
    is_barrier: bool,
    opens_listener: bool,
    /// The modern request that it carries: closing its stream cancels it.
    modern: Option<RequestId>,
    /// The requests that it carries.
    requests: Vec<RequestId>,
    /// The server had no place for it: it is posted again after a while.
    pausing: Rc<Cell<bool>>,
    task: AbortHandle,
}

pub(super) struct Http {
    shared: Rc<Shared>,
    reports: mpsc::Receiver<Report>,
    reporter: mpsc::Sender<Report>,
    queue: VecDeque<Bytes>,
    running: HashMap<u64, Running>,
    /// The task of the GET stream.
    listener: Option<(u64, AbortHandle)>,
    next_ticket: u64,
}

impl Http {
    pub(super) fn new(target: Rc<Target>, dialer: Rc<Dialer>, frame_bytes_max: usize) -> Self {
        let (reporter, reports) = mpsc::channel(EVENTS_MAX);
        Self {
            shared: Rc::new(Shared::new(target, dialer, frame_bytes_max)),
            reports,
            reporter,
            queue: VecDeque::new(),
            running: HashMap::new(),
            listener: None,
            next_ticket: 0,
        }
    }

    /// Takes a connection that stands.
    pub(super) fn adopt(&self, connection: Sender) {
        self.shared.keep(connection);
    }

    /// Whether more may be sent.
    pub(super) fn has_room(&self) -> bool {
        self.queue.len() < QUEUE_MAX
    }

    /// Whether all that was sent has left, requests aside.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.running.values().all(|running| running.is_request)
    }

    /// Gives up whatever is under way.
    pub(super) fn abort(&mut self) {
        for (_, running) in self.running.drain() {
            running.task.abort();
        }
    }

    /// A session was opened in `revision`.
    pub(super) fn negotiated(&self, revision: &str) {
        self.shared.negotiated(revision);
    }

    /// Sends one message as soon as those before it allow.
    pub(super) fn send(&mut self, frame: Vec<u8>) {
        if let Some(id) = cancelled(&frame) {
            let before = self.queue.len();
            self.queue.retain(|queued| Post::of(queued).requests() != [id.clone()]);
            if self.queue.len() < before {
                return;
            }
        }
        self.queue.push_back(frame.into());
        self.pump();
    }

    /// What no server has taken yet: messages that wait to be posted again, then those that wait for the first time.
    pub(super) fn take_queue(&mut self) -> Vec<Vec<u8>> {
        let mut paused: Vec<_> = self.running.extract_if(|_, running| running.pausing.get()).collect();
        paused.sort_unstable_by_key(|(ticket, _)| *ticket);
        let paused = paused.into_iter().map(|(_, running)| {
            running.task.abort();
            running.frame
        });
        paused.chain(self.queue.drain(..)).map(Vec::from).collect()
    }

    /// Leaves the session, to open another: the server is told, if it can be.
    pub(super) fn leave_session(&mut self) {
        if let Some((_, listener)) = self.listener.take() {
            listener.abort();
        }
        if let Some(request) = self.delete() {
            let shared = Rc::clone(&self.shared);
            spawn_local(async move {
                let _ = timeout(DELETE_MAX, shared.send(request)).await;
            });
        }
        self.shared.leave();
    }

    fn delete(&self) -> Option<hyper::Request<http_body_util::Full<Bytes>>> {
        let has_session = self.shared.session.borrow().is_some();
        has_session.then(|| self.shared.request(Method::DELETE, &Routing::default(), Bytes::new()))
    }

    /// The next thing that comes of the server's side. Losing the future loses nothing.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            // The bridge holds a sender: the channel never closes.
            let Some(report) = self.reports.recv().await else { std::future::pending().await };
            match report {
                Report::Frame { frame, ends } => return Event::Frame { frame, ends },
                Report::Ended { ticket, ending } => {
                    if let Some(event) = self.ended(ticket, ending) {
                        return event;
                    }
                }
            }
        }
    }

    fn ended(&mut self, ticket: u64, ending: Ending) -> Option<Event> {
        let running = self.running.remove(&ticket);
        if self.listener.as_ref().is_some_and(|(listener, _)| *listener == ticket) {
            self.listener = None;
        } else if running.is_none() {
            // Given up in the meantime.
            return None;
        }
        match ending {
            Ending::Done => {
                if running.is_some_and(|running| running.opens_listener) {
                    self.listen();
                }
                self.pump();
                None
            }
            Ending::Unsent { message, why } => Some(Event::Down { unsent: message.map(Vec::from), why }),
            Ending::SessionGone { message, session } if session == *self.shared.session.borrow() => {
                Some(Event::SessionGone { refused: message.map(Vec::from) })
            }
            Ending::SessionGone { message, .. } => {
                self.pump();
                message.map(|message| Event::Late { refused: message.into() })
            }
        }
    }

    /// Starts what may start.
    fn pump(&mut self) {
        while !self.running.values().any(|running| running.is_barrier) {
            let is_full = self.running.values().filter(|running| running.is_request).count() >= RUNNING_MAX;
            // Answers and notifications go past requests that wait for a place: such a place may hang on them.
            let place = self.queue.iter().position(|frame| !is_full || !Post::of(frame).is_request());
            let Some(frame) = place.and_then(|place| self.queue.remove(place)) else { return };
            self.start(frame);
        }
    }

    fn start(&mut self, frame: Bytes) {
        if let Some(id) = cancelled(&frame) {
            let running = self.running.iter().find(|(_, running)| {
                running.modern.as_ref() == Some(&id)
                    || (running.pausing.get() && running.requests == [id.clone()])
            });
            if let Some(ticket) = running.map(|(ticket, _)| *ticket) {
                // In 2026-07-28 the closed stream is the cancellation; what the server has refused it knows nothing of.
                if let Some(running) = self.running.remove(&ticket) {
                    running.task.abort();
                }
                return;
            }
        }
        let post = Post::of(&frame);
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        let (is_request, is_barrier) = (post.is_request(), post.is_barrier());
        let (opens_listener, modern) = (post.opens_listener(), post.modern_request());
        let (requests, pausing) = (post.requests().to_vec(), Rc::new(Cell::new(false)));
        let (shared, reporter, is_pausing) =
            (Rc::clone(&self.shared), self.reporter.clone(), Rc::clone(&pausing));
        let posted = frame.clone();
        let task = spawn_local(async move {
            let ending = post.run(&shared, posted, &is_pausing, &reporter).await;
            // The bridge itself holds the other end.
            let _ = reporter.send(Report::Ended { ticket, ending }).await;
        });
        let task = task.abort_handle();
        self.running.insert(
            ticket,
            Running { frame, is_request, is_barrier, opens_listener, modern, requests, pausing, task },
        );
    }

    /// Opens the stream on which the server sends what belongs to no request.
    fn listen(&mut self) {
        self.next_ticket += 1;
        let ticket = self.next_ticket;
        let (shared, reporter) = (Rc::clone(&self.shared), self.reporter.clone());
        let task = spawn_local(async move {
            let ending = post::listen(&shared, &reporter).await;
            let _ = reporter.send(Report::Ended { ticket, ending }).await;
        });
        if let Some((_, before)) = self.listener.replace((ticket, task.abort_handle())) {
            before.abort();
        }
    }

    /// Closes every stream and tells the server that the session is over.
    pub(super) async fn close(mut self) {
        self.abort();
        if let Some((_, listener)) = self.listener.take() {
            listener.abort();
        }
        if let Some(request) = self.delete() {
            // Best effort: an abandoned session ends by itself.
            let _ = timeout(DELETE_MAX, self.shared.send(request)).await;
        }
    }
}

/// The request that a cancellation names.
fn cancelled(frame: &[u8]) -> Option<RequestId> {
    let message = Message::read(frame)?;
    match message.kind() {
        Kind::Notification { method } if method == "notifications/cancelled" => message.params().request_id(),
        _ => None,
    }
}
