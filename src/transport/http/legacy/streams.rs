//! The event streams of one session: which request answers where, what was said, and what may be said again.
//!
//! One log holds the events of all streams in the order in which they came about. Whoever reads a stream has a cursor
//! into it; a client that comes back names the last event that it got. The log is bounded: what was read goes first,
//! then what nobody is there to read; a reader that lags behind the bound is sent away.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    task::Waker,
};

use bytes::Bytes;
use tokio::sync::oneshot;
use tracing::debug;

use crate::{
    access::Principal,
    protocol::{About, Outgoing},
    schema::Sealed,
    scope::Rights,
    transport::http::events,
    wire::RequestId,
};

/// The stream for what belongs to no request: the one that a plain GET opens.
pub(super) const SESSION: u64 = 0;
/// What readers have not taken yet may exceed the bound of the log by this factor before they are sent away.
const LAG: usize = 2;

/// What becomes of a POST that was not answered at once.
#[derive(Debug)]
pub(super) enum First {
    /// Its answer, before anything else was said: one JSON message.
    Answer(Sealed),
    /// Something else comes first: an event stream.
    Events,
    /// It was cancelled, and nothing will be said.
    Cancelled,
}

/// What a reader gets.
#[derive(Debug)]
pub(super) enum Read {
    /// Events.
    Events(Bytes),
    /// Nothing yet.
    Later,
    /// The stream goes on, but not on this response: the client is to come again.
    Leave,
    /// The reader did not keep up.
    Lagged,
    /// Nothing more.
    End,
}

/// Why a stream cannot be resumed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CannotResume;

struct Event {
    stream: u64,
    position: u64,
    bytes: Bytes,
}

struct Reader {
    /// Tells a reader from the one that took its place.
    generation: u64,
    waker: Option<Waker>,
    /// Who reads: the tokens of one principal may share a session, and each ends by itself.
    principal: Arc<Principal>,
}

struct Stream {
    ids: Vec<RequestId>,
    /// Tells the POST how to answer, until it has.
    first: Option<oneshot::Sender<First>>,
    /// What the caller was allowed: whoever resumes must be allowed as much.
    rights: Rights,
    /// Named by the priming event.
    start: u64,
    /// The next position to be read.
    cursor: u64,
    reader: Option<Reader>,
    /// Events in the log.
    kept: usize,
    is_complete: bool,
    is_leaving: bool,
    has_lagged: bool,
}

/// All streams of a session.
pub(super) struct Streams {
    /// Tells the ids of events from those of the same session in another memory.
    epoch: u32,
    events_max: usize,
    bytes_max: usize,
    next_stream: u64,
    next_position: u64,
    next_generation: u64,
    all: HashMap<u64, Stream>,
    open: HashMap<RequestId, u64>,
    log: VecDeque<Event>,
    log_bytes: usize,
}

impl Streams {
    /// No stream but the session's own. `epoch` is random.
    pub(super) fn new(epoch: u32, events_max: usize, bytes_max: usize) -> Self {
        let mut streams = Self {
            epoch,
            events_max,
            bytes_max,
            next_stream: SESSION,
            next_position: 0,
            next_generation: 0,
            all: HashMap::new(),
            open: HashMap::new(),
            log: VecDeque::new(),
            log_bytes: 0,
        };
        streams.open(Vec::new(), None, Rights::NONE);
        streams
    }

    /// A stream for requests that a POST brought. `first` is told how the POST is to be answered; without it the answer
    /// is an event stream already.
    pub(super) fn open(
        &mut self,
        ids: Vec<RequestId>,
        first: Option<oneshot::Sender<First>>,
        rights: Rights,
    ) -> u64 {
        let number = self.next_stream;
        self.next_stream += 1;
        let start = self.position();
        for id in &ids {
            self.open.insert(id.clone(), number);
        }
        let stream = Stream {
            ids,
            first,
            rights,
            start,
            cursor: start + 1,
            reader: None,
            kept: 0,
            is_complete: false,
            is_leaving: false,
            has_lagged: false,
        };
        self.all.insert(number, stream);
        number
    }

    /// Brings a frame to the stream that it belongs to.
    pub(super) fn put(&mut self, outgoing: Outgoing) {
        match outgoing.about {
            About::Session => self.push_change(&outgoing.frame),
            About::Frame => debug!("a refusal came after its POST was answered"),
            About::Request { id, is_answer } => {
                if let Some(&number) = self.open.get(&id) {
                    self.put_to(number, outgoing.frame, is_answer);
                } else {
                    debug!("nobody waits for a message about a request");
                }
            }
        }
    }

    /// Brings a frame to a stream. The answer completes it.
    pub(super) fn put_to(&mut self, number: u64, frame: Sealed, is_answer: bool) {
        let Some(stream) = self.all.get_mut(&number) else { return };
        if let Some(first) = stream.first.take() {
            if is_answer {
                let _ = first.send(First::Answer(frame));
                return self.forget(number);
            }
            if first.send(First::Events).is_err() {
                // A client that left before it got an id of an event has nothing to come back with.
                return self.forget(number);
            }
        }
        self.push(number, &frame);
        if is_answer {
            self.complete(number);
        }
    }

    /// Ends the wait of a POST: from now on it is answered by events. False where it was told otherwise already.
    pub(super) fn begin_events(&mut self, number: u64) -> bool {
        self.all.get_mut(&number).is_some_and(|stream| stream.first.take().is_some())
    }

    /// Says no more on a stream.
    pub(super) fn complete(&mut self, number: u64) {
        let Some(stream) = self.all.get_mut(&number) else { return };
        for id in std::mem::take(&mut stream.ids) {
            self.open.remove(&id);
        }
        stream.is_complete = true;
        if let Some(first) = stream.first.take() {
            let _ = first.send(First::Cancelled);
            self.forget(number);
        } else {
            wake(stream);
            self.tidy(number);
        }
    }

    /// Completes the streams all of whose requests have ended without an answer.
    pub(super) fn complete_cancelled(&mut self, is_pending: impl Fn(&RequestId) -> bool) {
        let cancelled: Vec<u64> = self
            .all
            .iter()
            .filter(|(number, stream)| {
                **number != SESSION && !stream.is_complete && !stream.ids.iter().any(&is_pending)
            })
            .map(|(number, _)| *number)
            .collect();
        for number in cancelled {
            self.complete(number);
        }
    }

    /// Completes everything.
    pub(super) fn complete_all(&mut self) {
        let all: Vec<u64> = self.all.keys().copied().collect();
        for number in all {
            self.complete(number);
        }
    }

    /// Sends away whoever waits for the answer to a request; the stream goes on and may be resumed.
    pub(super) fn leave_early(&mut self, id: &RequestId) {
        let Some(number) = self.open.get(id).copied() else { return };
        let Some(stream) = self.all.get_mut(&number) else { return };
        stream.is_leaving = true;
        wake(stream);
        if let Some(first) = stream.first.take()
            && first.send(First::Events).is_err()
        {
            self.forget(number);
        }
    }

    /// A reader for a stream, in the place of the one that it has. The id is that of the priming event.
    pub(super) fn attach(&mut self, number: u64, principal: &Arc<Principal>) -> Option<(u64, String)> {
        let epoch = self.epoch;
        let stream = self.all.get_mut(&number)?;
        wake(stream);
        self.next_generation += 1;
        let (generation, principal) = (self.next_generation, Arc::clone(principal));
        stream.reader = Some(Reader { generation, waker: None, principal });
        Some((self.next_generation, event_id(epoch, number, stream.start)))
    }

    /// Whether somebody reads a stream.
    pub(super) fn is_read(&self, number: u64) -> bool {
        self.all.get(&number).is_some_and(|stream| stream.reader.is_some())
    }

    /// Sets a stream back to behind the event with this id: the stream to attach to.
    pub(super) fn resume(&mut self, last_event: &str, rights: Rights) -> Result<u64, CannotResume> {
        let (epoch, number, position) = read_event_id(last_event).ok_or(CannotResume)?;
        let stream = self.all.get_mut(&number).ok_or(CannotResume)?;
        if epoch != self.epoch {
            // The session's own stream has no beginning: a client of another memory goes on with what comes.
            return if number == SESSION { Ok(SESSION) } else { Err(CannotResume) };
        }
        if position >= self.next_position || position < stream.start || !rights.include(stream.rights) {
            return Err(CannotResume);
        }
        stream.cursor = position + 1;
        stream.has_lagged = false;
        stream.is_leaving = false;
        Ok(number)
    }

    /// The next events of a stream for its reader.
    pub(super) fn read(&mut self, number: u64, generation: u64, waker: &Waker) -> Read {
        let Some(stream) = self.all.get_mut(&number) else { return Read::End };
        let cursor = stream.cursor;
        let Some(reader) = stream.reader.as_mut().filter(|reader| reader.generation == generation) else {
            return Read::End;
        };
        if stream.has_lagged {
            stream.reader = None;
            return Read::Lagged;
        }
        let mut unread =
            self.log.iter().filter(|event| event.stream == number && event.position >= cursor).peekable();
        if let Some(first) = unread.next() {
            stream.cursor = first.position + 1;
            if unread.peek().is_none() {
                return Read::Events(first.bytes.clone());
            }
            let mut all = first.bytes.to_vec();
            for event in unread {
                stream.cursor = event.position + 1;
                all.extend_from_slice(&event.bytes);
            }
            return Read::Events(all.into());
        }
        if stream.is_complete {
            stream.reader = None;
            self.tidy(number);
            return Read::End;
        }
        if std::mem::take(&mut stream.is_leaving) {
            stream.reader = None;
            return Read::Leave;
        }
        match &mut reader.waker {
            Some(known) => known.clone_from(waker),
            None => reader.waker = Some(waker.clone()),
        }
        Read::Later
    }

    /// A reader has gone.
    pub(super) fn detach(&mut self, number: u64, generation: u64) {
        if let Some(stream) = self.all.get_mut(&number)
            && stream.reader.as_ref().is_some_and(|reader| reader.generation == generation)
        {
            stream.reader = None;
            self.tidy(number);
        }
    }

    /// Sends away whoever reads with a token that was withdrawn. Their streams go on, for another token.
    pub(super) fn dismiss_revoked(&mut self) {
        let mut dismissed = Vec::new();
        for (number, stream) in &mut self.all {
            if stream.reader.as_ref().is_some_and(|reader| reader.principal.is_revoked()) {
                wake(stream);
                stream.reader = None;
                dismissed.push(*number);
            }
        }
        for number in dismissed {
            self.tidy(number);
        }
    }

    /// The requests that wait for their answers.
    pub(super) fn open_requests(&self) -> Vec<RequestId> {
        self.open.keys().cloned().collect()
    }

    /// Whether nobody waits or reads.
    pub(super) fn is_quiet(&self) -> bool {
        self.all
            .values()
            .all(|stream| stream.reader.is_none() && (stream.is_complete || stream.ids.is_empty()))
    }

    /// Whether so much is unread that advisory messages had better not come about.
    pub(super) fn is_congested(&self) -> bool {
        let is_full = self.log.len() * 2 > self.events_max || self.log_bytes * 2 > self.bytes_max;
        is_full && self.log.iter().filter(|event| self.is_unread(event)).count() * 4 > self.log.len() * 3
    }

    fn is_unread(&self, event: &Event) -> bool {
        self.all
            .get(&event.stream)
            .is_some_and(|stream| stream.reader.is_some() && stream.cursor <= event.position)
    }

    /// A change for the session. While nobody listens, the same change is kept once.
    fn push_change(&mut self, frame: &Sealed) {
        let Some(stream) = self.all.get(&SESSION).filter(|stream| !stream.is_complete) else { return };
        let (cursor, text) = (stream.cursor, frame.as_bytes());
        let is_known = stream.reader.is_none()
            && self.log.iter().any(|event| {
                event.stream == SESSION
                    && event.position >= cursor
                    && event.bytes.strip_suffix(b"\n\n").is_some_and(|event| event.ends_with(text))
            });
        if !is_known {
            self.push(SESSION, frame);
        }
    }

    fn push(&mut self, number: u64, frame: &Sealed) {
        let position = self.position();
        let bytes = events::message(Some(&event_id(self.epoch, number, position)), frame);
        self.log_bytes += bytes.len();
        self.log.push_back(Event { stream: number, position, bytes });
        if let Some(stream) = self.all.get_mut(&number) {
            stream.kept += 1;
            wake(stream);
        }
        self.keep_to_bounds();
    }

    fn position(&mut self) -> u64 {
        let position = self.next_position;
        self.next_position += 1;
        position
    }

    /// Drops the oldest events; the newest stays, whatever its size.
    fn keep_to_bounds(&mut self) {
        while self.exceeds(1) && self.log.len() > 1 {
            let all_but_newest = self.log.len() - 1;
            let expendable = self.log.iter().take(all_but_newest).position(|event| !self.is_unread(event));
            let index = match expendable {
                Some(index) => index,
                None if self.exceeds(LAG) => 0,
                None => return,
            };
            let Some(event) = self.log.remove(index) else { return };
            self.log_bytes -= event.bytes.len();
            if let Some(stream) = self.all.get_mut(&event.stream) {
                stream.kept -= 1;
                if stream.reader.is_some() && stream.cursor <= event.position {
                    stream.has_lagged = true;
                    wake(stream);
                }
            }
            self.tidy(event.stream);
        }
    }

    fn exceeds(&self, factor: usize) -> bool {
        self.log.len() > self.events_max.saturating_mul(factor)
            || self.log_bytes > self.bytes_max.saturating_mul(factor)
    }

    /// Forgets a stream of which nothing is left.
    fn tidy(&mut self, number: u64) {
        if self
            .all
            .get(&number)
            .is_some_and(|stream| stream.is_complete && stream.kept == 0 && stream.reader.is_none())
        {
            self.all.remove(&number);
        }
    }

    /// Forgets a stream that nobody will ask for.
    fn forget(&mut self, number: u64) {
        if let Some(stream) = self.all.remove(&number) {
            for id in stream.ids {
                self.open.remove(&id);
            }
        }
    }
}

fn wake(stream: &mut Stream) {
    if let Some(waker) = stream.reader.as_mut().and_then(|reader| reader.waker.take()) {
        waker.wake();
    }
}

fn event_id(epoch: u32, stream: u64, position: u64) -> String {
    format!("{epoch:08x}-{stream:x}-{position:x}")
}

fn read_event_id(text: &str) -> Option<(u32, u64, u64)> {
    let mut parts = text.split('-');
    let epoch = u32::from_str_radix(parts.next()?, 16).ok()?;
    let stream = u64::from_str_radix(parts.next()?, 16).ok()?;
    let position = u64::from_str_radix(parts.next()?, 16).ok()?;
    parts.next().is_none().then_some((epoch, stream, position))
}

#[cfg(test)]
#[path = "streams_tests.rs"]
mod tests;
