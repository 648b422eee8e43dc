//! The loop: frames from one side to the other, and the connection made again whenever it is lost.

mod connection;
mod frames;

use std::{io, pin::Pin, rc::Rc, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Instant, sleep, sleep_until},
};
use tokio_tungstenite::tungstenite::Utf8Bytes;
use tracing::debug;

use super::{
    dial::Dialer,
    host::{Gone, Input, Output},
    http::{self, Http},
    ledger::Ledger,
    plan::Plan,
    refusal::DialError,
    target::{Target, Transport},
    websocket::Socket,
};
use crate::{exit::Exit, limits::ShutdownLimits};
use connection::dial;

/// What is left to say at the end gets so long before `shutdown.exit`.
const END_RESERVE: Duration = Duration::from_millis(150);

type Dialling = Pin<Box<dyn Future<Output = Result<Dialled, DialError>>>>;

enum Dialled {
    WebSocket(Box<Socket>),
    Http(http::Sender),
}

/// The server's side.
enum Link {
    WebSocket(Option<Box<Socket>>),
    Http(Http),
}

enum Phase {
    /// No connection: the next attempt is under way, or waits for its time.
    Down(Dialling),
    /// The session is being opened anew.
    Replaying {
        until: Instant,
    },
    Up,
}

/// What woke the loop.
enum Woken {
    Signal,
    Text(Result<Utf8Bytes, String>),
    Http(http::Event),
    Dialled(Result<Dialled, DialError>),
    Input(io::Result<()>),
    HungUp(io::Result<()>),
    Flushed(io::Result<Result<(), Gone>>),
    Time,
}

pub(in crate::bridge) struct Relay {
    target: Rc<Target>,
    dialer: Rc<Dialer>,
    frame_bytes_max: usize,
    shutdown: ShutdownLimits,
    input: Input,
    output: Output,
    ledger: Ledger,
    link: Link,
    phase: Phase,
    /// Attempts since the server was heard last.
    attempt: u32,
    /// Sessions opened anew since the server was heard last.
    gone: u32,
    /// Why there is no connection, as requests are told.
    why: String,
    signals: [Signal; 3],
    /// The host has closed its end: what it left is taken in without regard to room.
    hung_up: bool,
    /// Since when the end is near.
    ending: Option<Instant>,
    /// Nothing is waited for any more.
    is_cut: bool,
}

impl Relay {
    pub(in crate::bridge) fn new(target: Rc<Target>, dialer: Rc<Dialer>, plan: &Plan) -> io::Result<Self> {
        let frame_bytes_max = plan.frame_bytes_max;
        let link = match target.transport {
            Transport::WebSocket => Link::WebSocket(None),
            Transport::Http => Link::Http(Http::new(Rc::clone(&target), Rc::clone(&dialer), frame_bytes_max)),
        };
        let phase = Phase::Down(dial(&target, &dialer, frame_bytes_max, 0));
        Ok(Self {
            frame_bytes_max,
            shutdown: plan.shutdown(),
            input: Input::new(frame_bytes_max)?,
            output: Output::new()?,
            ledger: Ledger::default(),
            link,
            phase,
            attempt: 0,
            gone: 0,
            why: format!("no connection to {target} stands yet"),
            signals: [
                signal(SignalKind::terminate())?,
                signal(SignalKind::interrupt())?,
                signal(SignalKind::hangup())?,
            ],
            hung_up: false,
            ending: None,
            is_cut: false,
            target,
            dialer,
        })
    }

    /// Relays until the end of input, a signal, or the end of stdout.
    pub(in crate::bridge) async fn run(mut self) -> io::Result<Exit> {
        let exit = loop {
            while self.takes_input() {
                match self.input.line() {
                    Some(line) => self.host_sent(line),
                    None => break,
                }
            }
            let now = Instant::now();
            if self.input.is_at_end() && self.takes_input() {
                self.ending.get_or_insert(now);
            }
            self.keep_time(now);
            if let Some(exit) = self.ended(now) {
                break exit;
            }
            let woken = self.wait().await;
            if let Some(exit) = self.wake(woken)? {
                break exit;
            }
        };
        self.finish().await;
        Ok(exit)
    }

    /// Whether lines of the host's are taken.
    fn takes_input(&self) -> bool {
        if self.ending.is_some() && !self.input.is_at_end() {
            // A signal has ended it.
            return false;
        }
        let has_room = match (&self.phase, &self.link) {
            (Phase::Up, Link::WebSocket(Some(socket))) => socket.has_room(),
            (Phase::Up, Link::Http(http)) => http.has_room(),
            _ => true,
        };
        self.hung_up || has_room && !self.output.is_full()
    }

    async fn wait(&mut self) -> Woken {
        let takes_input = self.takes_input();
        let due = self.next_timeout();
        let Self { signals, link, phase, input, output, hung_up, .. } = self;
        let [terminate, interrupt, hang_up] = signals;
        let has_room = !output.is_full();
        // What leaves for the host comes last: all that is there already leaves in one write.
        tokio::select! {
            biased;
            _ = terminate.recv() => Woken::Signal,
            _ = interrupt.recv() => Woken::Signal,
            _ = hang_up.recv() => Woken::Signal,
            woken = from_server(link), if has_room => woken,
            dialled = dialled(phase) => Woken::Dialled(dialled),
            woken = from_input(input, takes_input), if !input.is_at_end() && (takes_input || !*hung_up) => woken,
            flushed = output.flush(), if !output.is_empty() => Woken::Flushed(flushed),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Woken::Time,
        }
    }

    fn wake(&mut self, woken: Woken) -> io::Result<Option<Exit>> {
        match woken {
            Woken::Signal if self.ending.is_some() => self.is_cut = true,
            Woken::Signal => self.ending = Some(Instant::now()),
            Woken::Text(Ok(text)) => return Ok(self.server_sent(text.as_bytes())),
            Woken::Text(Err(why)) => self.lost(&why),
            Woken::Http(event) => return Ok(self.http_told(event)),
            Woken::Dialled(Ok(dialled)) => self.connected(dialled),
            Woken::Dialled(Err(error)) => self.not_connected(&error),
            Woken::Input(filled) => filled?,
            Woken::HungUp(hung_up) => {
                hung_up?;
                self.hung_up = true;
            }
            Woken::Flushed(flushed) => {
                if let Err(Gone) = flushed? {
                    debug!("nobody reads stdout any more");
                    return Ok(Some(Exit::Ok));
                }
            }
            Woken::Time => {}
        }
        Ok(None)
    }

    fn next_timeout(&self) -> Option<Instant> {
        let replay = match self.phase {
            Phase::Replaying { until } => Some(until),
            Phase::Down(_) | Phase::Up => None,
        };
        let end = self.ending.map(|since| since + self.drain());
        [replay, end, self.ledger.next_timeout()].into_iter().flatten().min()
    }

    /// Calls in flight may still answer for so long after the end of input.
    fn drain(&self) -> Duration {
        self.shutdown.drain.min(self.shutdown.exit.saturating_sub(END_RESERVE))
    }

    fn keep_time(&mut self, now: Instant) {
        if self.ledger.next_timeout().is_some_and(|due| due <= now) {
            let mut answers = Vec::new();
            self.ledger.expire(Some(now), &self.why, &mut answers);
            self.answer(answers);
        }
        if matches!(self.phase, Phase::Replaying { until } if until <= now) {
            self.lost("it did not open the session anew in time");
        }
    }

    fn ended(&mut self, now: Instant) -> Option<Exit> {
        let since = self.ending?;
        let is_done = self.ledger.is_idle() && self.output.is_empty() && self.is_sent();
        if is_done || self.is_cut || since + self.drain() <= now {
            let mut answers = Vec::new();
            self.ledger.expire(None, &self.why, &mut answers);
            let why = format!(
                "the bridge to {} ended before this request was answered. It may or may not have been carried out",
                self.target
            );
            self.ledger.fail_all(&why, &mut answers);
            self.answer(answers);
            return Some(Exit::Ok);
        }
        None
    }

    /// Whether what the host sent last has left, answers and notifications included.
    fn is_sent(&self) -> bool {
        match &self.link {
            Link::WebSocket(Some(socket)) => socket.is_flushed(),
            Link::WebSocket(None) => true,
            Link::Http(http) => http.is_idle(),
        }
    }

    /// Says what is left to say, and goodbye.
    async fn finish(self) {
        let Self { mut output, link, .. } = self;
        if !output.is_empty() {
            tokio::select! {
                _ = output.flush() => {}
                () = sleep(END_RESERVE / 3) => {}
            }
        }
        match link {
            Link::WebSocket(Some(socket)) => socket.close().await,
            Link::WebSocket(None) => {}
            Link::Http(http) => http.close().await,
        }
    }
}

async fn dialled(phase: &mut Phase) -> Result<Dialled, DialError> {
    match phase {
        Phase::Down(dialling) => dialling.await,
        Phase::Replaying { .. } | Phase::Up => std::future::pending().await,
    }
}

/// Bytes of the host's; where none are taken, its leaving is still noticed.
async fn from_input(input: &mut Input, takes: bool) -> Woken {
    if takes { Woken::Input(input.fill().await) } else { Woken::HungUp(input.hung_up().await) }
}

async fn from_server(link: &mut Link) -> Woken {
    match link {
        Link::WebSocket(Some(socket)) => Woken::Text(socket.next().await),
        Link::WebSocket(None) => std::future::pending().await,
        Link::Http(http) => Woken::Http(http.next().await),
    }
}
