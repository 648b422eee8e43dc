//! The connection: made, lost, made again, and the session opened anew on it.

use std::{rc::Rc, time::Duration};

use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::{Dialled, Dialling, Link, Phase, Relay};
use crate::bridge::{
    back_off,
    dial::Dialer,
    http,
    refusal::DialError,
    target::{Target, Transport},
    websocket::Socket,
};

/// The server must answer the `initialize` that opens a session anew within so long.
const REPLAY_MAX: Duration = Duration::from_secs(10);
/// A session that is refused so often right after it was opened anew is given up.
const GONE_MAX: u32 = 3;

impl Relay {
    /// The server does not know the session: it is opened anew, and what was refused is sent then for the first time.
    pub(super) fn session_gone(&mut self, refused: Option<Vec<u8>>) {
        let was_up = matches!(self.phase, Phase::Up);
        self.why = format!("{} no longer knows the session", self.target);
        self.gone += u32::from(was_up);
        if self.gone > GONE_MAX {
            let mut answers = Vec::new();
            for frame in refused.into_iter().chain(self.take_queue()) {
                self.ledger.refuse(&frame, &self.why, &mut answers);
            }
            self.answer(answers);
            return;
        }
        self.wait_again(refused);
        if was_up {
            self.replay();
        }
    }

    /// Sends what was refused for a session that has been left, once another one is open: before all that waits for it.
    pub(super) fn send_again(&mut self, refused: Vec<u8>) {
        if matches!(self.phase, Phase::Up) {
            self.send(refused);
        } else {
            let mut answers = Vec::new();
            self.ledger.wait_first(refused, Instant::now(), &mut answers, &self.why);
            self.answer(answers);
        }
    }

    /// Keeps what was not sent, in its order, for the time when it can be.
    pub(super) fn wait_again(&mut self, first: Option<Vec<u8>>) {
        let mut answers = Vec::new();
        let frames: Vec<Vec<u8>> = first.into_iter().chain(self.take_queue()).collect();
        // They came before those that wait already: each goes to the front, the last one first.
        for frame in frames.into_iter().rev() {
            self.ledger.wait_first(frame, Instant::now(), &mut answers, &self.why);
        }
        self.answer(answers);
    }

    fn take_queue(&mut self) -> Vec<Vec<u8>> {
        match &mut self.link {
            Link::WebSocket(_) => Vec::new(),
            Link::Http(http) => http.take_queue(),
        }
    }

    pub(super) fn connected(&mut self, dialled: Dialled) {
        match (dialled, &mut self.link) {
            (Dialled::WebSocket(socket), Link::WebSocket(link)) => *link = Some(socket),
            (Dialled::Http(connection), Link::Http(http)) => http.adopt(connection),
            _ => {}
        }
        debug!(server = %self.target, attempt = self.attempt, "connected");
        self.replay();
    }

    /// Opens the host's session on the connection, where it has one.
    fn replay(&mut self) {
        let mut answers = Vec::new();
        self.ledger.forget_asked(&mut answers);
        self.answer(answers);
        match self.ledger.replay_initialize() {
            Some(frame) => {
                if let Link::Http(http) = &mut self.link {
                    http.leave_session();
                }
                self.phase = Phase::Replaying { until: Instant::now() + REPLAY_MAX };
                self.send(frame);
            }
            None => self.up(),
        }
    }

    /// Goes on where the last connection ended.
    pub(super) fn up(&mut self) {
        self.phase = Phase::Up;
        for frame in self.ledger.replay_rest() {
            self.send(frame);
        }
        while matches!(self.phase, Phase::Up)
            && let Some(frame) = self.ledger.next_waiting()
        {
            self.pass_on(frame);
        }
    }

    pub(super) fn not_connected(&mut self, error: &DialError) {
        self.why = format!("cannot connect to {}: {error}", self.target);
        if self.attempt == 0 {
            warn!(server = %self.target, %error, "cannot connect; trying on");
        } else {
            debug!(server = %self.target, %error, attempt = self.attempt, "cannot connect; trying on");
        }
        if error.is_refusal {
            let mut answers = Vec::new();
            self.ledger.expire(None, &self.why, &mut answers);
            self.answer(answers);
        }
        self.down();
    }

    /// The connection, or the attempt to open the session on it, has failed.
    pub(super) fn lost(&mut self, why: &str) {
        self.lost_with(why, None);
    }

    /// The same, found while `unsent` was to be sent: it is sent on the next connection.
    pub(super) fn lost_with(&mut self, why: &str, unsent: Option<Vec<u8>>) {
        warn!(server = %self.target, why, "the connection was lost; connecting again");
        self.why = format!("the connection to {} was lost ({why})", self.target);
        self.wait_again(unsent);
        match &mut self.link {
            Link::WebSocket(socket) => *socket = None,
            Link::Http(http) => http.abort(),
        }
        let mut answers = Vec::new();
        self.ledger.lose(Instant::now(), &self.why, &mut answers);
        self.answer(answers);
        self.down();
    }

    pub(super) fn down(&mut self) {
        self.attempt = self.attempt.saturating_add(1);
        self.phase = Phase::Down(dial(&self.target, &self.dialer, self.frame_bytes_max, self.attempt));
    }
}

/// The next connection, when its time has come.
pub(super) fn dial(
    target: &Rc<Target>,
    dialer: &Rc<Dialer>,
    frame_bytes_max: usize,
    attempt: u32,
) -> Dialling {
    let (target, dialer) = (Rc::clone(target), Rc::clone(dialer));
    Box::pin(async move {
        sleep(back_off(attempt)).await;
        match target.transport {
            Transport::WebSocket => Socket::open(&dialer, &target, frame_bytes_max)
                .await
                .map(|socket| Dialled::WebSocket(Box::new(socket))),
            Transport::Http => http::open(&dialer, &target).await.map(Dialled::Http),
        }
    })
}
