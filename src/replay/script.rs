//! A transcript as what its client did, each step with what the client had seen before it.
//!
//! A *lane* is one conversation with the server: a process, a WebSocket, a session of HTTP. Requests of HTTP without a
//! session share lane 0.

#![expect(clippy::similar_names, reason = "lines and lanes are what it is about")]

use std::collections::HashMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};

use super::message::{self, Kind};
use crate::transcript::{Direction, Entry, Http, Transcript, Transport};

/// All that the client of a transcript did.
#[derive(Debug, Default)]
pub(super) struct Script {
    pub(super) steps: Vec<Step>,
    /// How many conversations there are.
    pub(super) lanes: usize,
    pub(super) asked: Vec<Asked>,
    /// Answers of the client to requests of the server.
    pub(super) replies: Vec<Reply>,
    /// What was seen after the last step of each group.
    pub(super) last: Vec<Cause>,
    /// The path that messages were posted to.
    pub(super) endpoint: Option<String>,
    /// The paths that HTTP+SSE told, by lane.
    pub(super) endpoints: Vec<(usize, String)>,
}

/// One thing that the client did.
#[derive(Debug)]
pub(super) struct Step {
    /// Line of the transcript, counted from 1.
    pub(super) line: usize,
    pub(super) lane: usize,
    pub(super) act: Act,
    /// What the client had seen before, and not before an earlier step.
    pub(super) after: Vec<Cause>,
}

/// What it was.
#[derive(Debug)]
pub(super) enum Act {
    /// A process is started, a WebSocket opened.
    Open { path: Option<String>, headers: Vec<(String, String)>, subprotocol: Option<String> },
    /// A frame or the body of a POST.
    Send { text: String, messages: Vec<Value>, asks: Vec<usize>, http: Option<Exchange> },
    /// A frame or body that is not UTF-8.
    SendBytes { bytes: Vec<u8>, http: Option<Exchange> },
    /// What the recording does not have whole, and why.
    LeftOut(&'static str),
    /// A request of HTTP without a message.
    Fetch(Exchange),
    /// The stream of that step's response is left.
    Leave { step: usize },
    /// Standard input is closed.
    CloseInput,
    /// The process gets a signal.
    Signal(String),
    /// The WebSocket is closed.
    Close { code: Option<u16>, reason: String },
}

/// A request of HTTP and the head of what answered it.
#[derive(Clone, Debug, Default)]
pub(super) struct Exchange {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) head: Option<Head>,
}

/// Of the head of a response what counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The status.
    pub status: u16,
    /// `Content-Type` without parameters.
    pub content_type: Option<String>,
    /// `Mcp-Session-Id`.
    pub session: Option<String>,
}

/// A request of the client.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) step: usize,
    pub(super) lane: usize,
    pub(super) message: Value,
    pub(super) id: Value,
    pub(super) method: String,
    /// The answer of the recording, unless the client had left before.
    pub(super) answer: Option<Value>,
    /// Cancelled or left by the client: may be answered or not.
    pub(super) is_let_go: bool,
}

/// An answer of the client.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) line: usize,
    pub(super) lane: usize,
    /// The method that the server had asked for.
    pub(super) method: String,
    pub(super) message: Value,
    pub(super) http: Option<Exchange>,
}

/// Something that the client had seen.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cause {
    /// The answer to a request.
    Answer(usize),
    /// The lane's WebSocket was accepted.
    Accepted(usize),
    /// The head of a response that answers no request.
    Head(usize),
    /// The endpoint of HTTP+SSE was told.
    Endpoint(usize),
    /// So many errors without id.
    Stray { lane: usize, count: usize },
    /// So many notifications of this method about this.
    Notice { lane: usize, method: String, subject: String, count: usize },
}

/// Notifications that a client acts upon. Progress and logs are not among them: how many come is the server's affair.
const EVENTFUL: &[&str] = &[
    "notifications/subscriptions/acknowledged",
    "notifications/resources/updated",
    "notifications/resources/list_changed",
    "notifications/tools/list_changed",
    "notifications/prompts/list_changed",
    "notifications/elicitation/complete",
];

/// What an eventful notification is about; `None` for one that nobody waits for.
pub(super) fn subject(message: &Value) -> Option<(String, String)> {
    let Kind::Notification { method } = message::kind(message) else { return None };
    if !EVENTFUL.contains(&method) {
        return None;
    }
    let params = message.get("params");
    let subject = ["uri", "elicitationId"].iter().find_map(|member| params?.get(member)?.as_str());
    let stream = params
        .and_then(|params| params.get("_meta")?.get("io.modelcontextprotocol/subscriptionId"))
        .map(Value::to_string);
    Some((method.to_owned(), format!("{}{}", subject.unwrap_or_default(), stream.unwrap_or_default())))
}

/// The type of a body without parameters, in lower case.
pub(super) fn bare_type(value: &str) -> String {
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

impl Act {
    /// What a person calls it.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Open { path: Some(path), .. } => format!("WebSocket at {path}"),
            Self::Open { path: None, .. } => "the server is started".to_owned(),
            Self::Send { messages, .. } if messages.is_empty() => "text that is no JSON".to_owned(),
            Self::Send { messages, .. } => {
                messages.iter().map(message::summary).collect::<Vec<_>>().join(", ")
            }
            Self::SendBytes { .. } => "bytes that are no text".to_owned(),
            Self::LeftOut(_) => "something that is not in the recording whole".to_owned(),
            Self::Fetch(exchange) => format!("{} {}", exchange.method, exchange.path),
            Self::Leave { .. } => "the client leaves the stream".to_owned(),
            Self::CloseInput => "end of input".to_owned(),
            Self::Signal(name) => name.clone(),
            Self::Close { .. } => "the client closes the WebSocket".to_owned(),
        }
    }
}

impl Script {
    /// The endpoint of HTTP+SSE that was told on `lane`.
    pub(super) fn endpoint_of(&self, lane: usize) -> Option<&str> {
        self.endpoints.iter().find(|(of, _)| *of == lane).map(|(_, path)| path.as_str())
    }

    /// Reads a transcript as a script.
    pub(super) fn of(transcript: &Transcript) -> Self {
        let mut writer = Writer { transport: transcript.header.transport, ..Writer::new() };
        for (index, entry) in transcript.entries.iter().enumerate() {
            let before = index.checked_sub(1).and_then(|before| transcript.entries.get(before));
            // The header is line 1.
            writer.entry(index + 2, entry, before);
        }
        writer.finish()
    }
}

struct Writer {
    script: Script,
    transport: Transport,
    /// What was seen since the last step, by connection.
    seen: HashMap<u64, Vec<Cause>>,
    /// The lane of each connection.
    current: HashMap<u64, usize>,
    by_session: HashMap<String, usize>,
    by_path: HashMap<String, usize>,
    /// Steps with an exchange that has no head yet, and their numbers.
    headless: Vec<(u64, usize)>,
    /// Replies of the client over HTTP whose responses have not come yet.
    headless_replies: Vec<u64>,
    /// Streams that are open: number, step.
    streams: Vec<(u64, usize)>,
    /// Requests of the server: lane, id, method.
    server_requests: Vec<(usize, Value, String)>,
    strays: HashMap<usize, usize>,
    notices: HashMap<(usize, String, String), usize>,
    /// The request that the last answer was for.
    last_answered: Option<usize>,
}

impl Writer {
    fn new() -> Self {
        Self {
            script: Script::default(),
            transport: Transport::Stdio,
            seen: HashMap::new(),
            current: HashMap::new(),
            by_session: HashMap::new(),
            by_path: HashMap::new(),
            headless: Vec::new(),
            headless_replies: Vec::new(),
            streams: Vec::new(),
            server_requests: Vec::new(),
            strays: HashMap::new(),
            notices: HashMap::new(),
            last_answered: None,
        }
    }

    /// Connections of HTTP are no conversations: all of them are one group.
    fn group(&self, entry: &Entry) -> u64 {
        if self.transport == Transport::Http { 0 } else { entry.conn.unwrap_or(1) }
    }

    fn new_lane(&mut self) -> usize {
        self.script.lanes += 1;
        self.script.lanes - 1
    }

    /// The lane of a connection; where nothing said that it was opened, it is opened now.
    fn lane(&mut self, line: usize, group: u64) -> usize {
        if let Some(lane) = self.current.get(&group) {
            return *lane;
        }
        let lane = self.new_lane();
        self.current.insert(group, lane);
        if self.transport != Transport::Http {
            let act = Act::Open { path: None, headers: Vec::new(), subprotocol: None };
            self.step(line, group, lane, act);
        }
        lane
    }

    fn step(&mut self, line: usize, group: u64, lane: usize, act: Act) -> usize {
        let after = self.seen.remove(&group).unwrap_or_default();
        self.script.steps.push(Step { line, lane, act, after });
        self.script.steps.len() - 1
    }

    fn saw(&mut self, group: u64, cause: Cause) {
        self.seen.entry(group).or_default().push(cause);
    }

    fn entry(&mut self, line: usize, entry: &Entry, before: Option<&Entry>) {
        let group = self.group(entry);
        match entry.dir {
            Direction::C2s => self.of_client(line, group, entry),
            Direction::S2c => self.of_server(line, group, entry),
            Direction::Event => self.event(line, group, entry, before),
        }
    }

    fn of_client(&mut self, line: usize, group: u64, entry: &Entry) {
        match (entry.ws.as_deref(), &entry.http) {
            (Some("handshake"), _) => {
                let lane = self.new_lane();
                self.current.insert(group, lane);
                let headers = headers(entry.headers.as_ref());
                self.step(
                    line,
                    group,
                    lane,
                    Act::Open { path: entry.path.clone(), headers, subprotocol: None },
                );
            }
            // Kept alive by whoever plays it.
            (Some("ping" | "pong" | "binary"), _) => {}
            (_, Some(http)) => self.request(line, group, entry, http),
            (_, None) => {
                let lane = self.lane(line, group);
                self.send(line, group, lane, entry, None);
            }
        }
    }

    /// A request of HTTP.
    fn request(&mut self, line: usize, group: u64, entry: &Entry, http: &Http) {
        let exchange = Exchange {
            method: http.method.clone().unwrap_or_default(),
            path: http.path.clone().unwrap_or_default(),
            headers: headers(http.headers.as_ref()),
            head: None,
        };
        let session = header(&exchange.headers, "mcp-session-id").map(str::to_owned);
        let opens = entry.raw.as_deref().is_some_and(|raw| {
            serde_json::from_str::<Value>(raw).is_ok_and(|message| message["method"] == "initialize")
        });
        let lane = match (session, self.by_path.get(&exchange.path)) {
            (_, Some(lane)) => *lane,
            (Some(session), None) => match self.by_session.get(&session) {
                Some(lane) => *lane,
                None => self.lane(line, group),
            },
            (None, None) if opens => {
                self.lane(line, group);
                self.new_lane()
            }
            (None, None) => self.lane(line, group),
        };
        let is_message = exchange.method == "POST" && entry.raw.is_some();
        if is_message && self.script.endpoint.is_none() && !self.by_path.contains_key(&exchange.path) {
            self.script.endpoint = Some(exchange.path.split('?').next().unwrap_or_default().to_owned());
        }
        if is_message {
            self.send(line, group, lane, entry, Some(exchange));
        } else {
            let step = self.step(line, group, lane, Act::Fetch(exchange));
            self.headless.push((entry.n, step));
        }
    }

    /// A frame, or the body of a POST.
    fn send(&mut self, line: usize, group: u64, lane: usize, entry: &Entry, http: Option<Exchange>) {
        let text = entry.raw.clone().unwrap_or_default();
        if entry.cut.is_some() || entry.unfinished {
            let why = if entry.unfinished {
                "the client broke it off"
            } else {
                "it was too long for the recording"
            };
            let step = self.step(line, group, lane, Act::LeftOut(why));
            if http.is_some() {
                self.headless.push((entry.n, step));
            }
            return;
        }
        if entry.encoding.as_deref() == Some("base64")
            && let Ok(bytes) = STANDARD.decode(&text)
        {
            let has_http = http.is_some();
            let step = self.step(line, group, lane, Act::SendBytes { bytes, http });
            if has_http {
                self.headless.push((entry.n, step));
            }
            return;
        }
        let messages = serde_json::from_str(&text).map(message::messages).unwrap_or_default();
        if let [only] = messages.as_slice()
            && let Kind::Answer { id: Some(id) } = message::kind(only)
            && let Some((_, _, method)) =
                self.server_requests.iter().find(|(of, asked, _)| *of == lane && asked == id)
        {
            let reply = Reply { line, lane, method: method.clone(), message: only.clone(), http };
            if reply.http.is_some() {
                self.headless_replies.push(entry.n);
            }
            self.script.replies.push(reply);
            return;
        }
        for cancelled in messages.iter().filter(|message| message["method"] == "notifications/cancelled") {
            let id = &cancelled["params"]["requestId"];
            let asked =
                self.script.asked.iter_mut().rev().find(|asked| asked.lane == lane && asked.id == *id);
            if let Some(asked) = asked {
                asked.is_let_go |= asked.answer.is_none();
            }
        }
        let has_http = http.is_some();
        let act = Act::Send { text, messages: messages.clone(), asks: Vec::new(), http };
        let step = self.step(line, group, lane, act);
        let mut asked_here = Vec::new();
        for message in messages {
            if let Kind::Request { id, method } = message::kind(&message) {
                let (id, method) = (id.clone(), method.to_owned());
                asked_here.push(self.script.asked.len());
                self.script.asked.push(Asked {
                    step,
                    lane,
                    message,
                    id,
                    method,
                    answer: None,
                    is_let_go: false,
                });
            }
        }
        if let Act::Send { asks, .. } = &mut self.script.steps[step].act {
            *asks = asked_here;
        }
        if has_http {
            self.headless.push((entry.n, step));
        }
    }

    fn of_server(&mut self, line: usize, group: u64, entry: &Entry) {
        if entry.ws.as_deref() == Some("accept") {
            let lane = self.lane(line, group);
            let opened = self.script.steps.iter_mut().rev().find(|step| step.lane == lane);
            if let Some(Step { act: Act::Open { subprotocol, .. }, .. }) = opened {
                subprotocol.clone_from(&entry.subprotocol);
            }
            self.saw(group, Cause::Accepted(lane));
            return;
        }
        let mut stream = None;
        if let Some(http) = &entry.http {
            stream = self.head(group, entry, http);
        } else if let Some(of) = entry.of {
            stream = self.streams.iter().find(|(n, _)| *n == of).map(|(_, step)| *step);
        }
        if entry.sse.as_deref() == Some("endpoint") {
            let step = stream.or_else(|| self.streams.last().map(|(_, step)| *step));
            if let (Some(step), Some(path)) = (step, entry.raw.clone()) {
                let lane = self.new_lane();
                self.script.steps[step].lane = lane;
                self.by_path.insert(path.clone(), lane);
                self.script.endpoints.push((lane, path));
                self.saw(group, Cause::Endpoint(lane));
            }
            return;
        }
        let Some(Ok(frame)) = entry.raw.as_deref().map(serde_json::from_str::<Value>) else { return };
        for message in message::messages(frame) {
            self.message(line, group, stream, message);
        }
    }

    /// Finds out which request this head answers; its step where that carries messages.
    fn head(&mut self, group: u64, entry: &Entry, http: &Http) -> Option<usize> {
        let all = headers(http.headers.as_ref());
        let head = Head {
            status: http.status.unwrap_or_default(),
            content_type: header(&all, "content-type").map(bare_type),
            session: header(&all, "mcp-session-id").map(str::to_owned),
        };
        let place = self.headless_of(entry, &head)?;
        let (n, step) = self.headless.remove(place);
        if let Some(session) = &head.session {
            self.by_session.entry(session.clone()).or_insert(self.script.steps[step].lane);
        }
        if head.content_type.as_deref() == Some("text/event-stream") {
            self.streams.push((n, step));
        }
        let act = &mut self.script.steps[step].act;
        let (Act::Send { http: Some(exchange), .. }
        | Act::SendBytes { http: Some(exchange), .. }
        | Act::Fetch(exchange)) = act
        else {
            return None;
        };
        exchange.head = Some(head);
        let answers_a_request =
            matches!(&self.script.steps[step].act, Act::Send { asks, .. } if !asks.is_empty());
        if !answers_a_request {
            self.saw(group, Cause::Head(step));
        }
        Some(step)
    }

    /// Place in `headless` of the request that `head` answers: as recorded, else by the id in its body, else the oldest
    /// that such a head fits.
    fn headless_of(&mut self, entry: &Entry, head: &Head) -> Option<usize> {
        if let Some(of) = entry.of {
            if let Some(place) = self.headless_replies.iter().position(|n| *n == of) {
                self.headless_replies.remove(place);
                return None;
            }
            return self.headless.iter().position(|(n, _)| *n == of);
        }
        let body: Option<Value> = entry.raw.as_deref().and_then(|raw| serde_json::from_str(raw).ok());
        let answered = body.as_ref().and_then(|body| body.get("id")).filter(|id| !id.is_null());
        let fits = |step: usize| match &self.script.steps[step].act {
            Act::Send { asks, messages, .. } => {
                let is_one_of = |id: &Value| asks.iter().any(|ask| self.script.asked[*ask].id == *id);
                match (answered, head.status) {
                    (Some(id), _) => is_one_of(id),
                    (None, 202) => asks.is_empty(),
                    (None, 204) => false,
                    (None, _) if head.session.is_some() => {
                        messages.iter().any(|message| message["method"] == "initialize")
                    }
                    (None, 200..=299) => !asks.is_empty(),
                    (None, _) => true,
                }
            }
            Act::Fetch(exchange) => match head.status {
                204 => exchange.method != "GET",
                405 => true,
                200..=299 => answered.is_none() && head.session.is_none() && head.status != 202,
                _ => answered.is_none(),
            },
            _ => false,
        };
        let place = self.headless.iter().position(|(_, step)| fits(*step));
        if place.is_none() && head.status == 202 && !self.headless_replies.is_empty() {
            self.headless_replies.remove(0);
            return None;
        }
        place.or_else(|| (!self.headless.is_empty()).then_some(0))
    }

    /// One message of the server.
    fn message(&mut self, line: usize, group: u64, stream: Option<usize>, message: Value) {
        let lane_of_stream = stream.map(|step| self.script.steps[step].lane);
        match message::kind(&message) {
            Kind::Answer { id: Some(id) } => {
                let is_http = self.transport == Transport::Http;
                let lane = self.current.get(&group).copied();
                let of_stream = |asked: &Asked| stream.is_none_or(|step| asked.step == step);
                let open = |asked: &Asked| asked.id == *id && asked.answer.is_none();
                let asked = &self.script.asked;
                let found = if is_http {
                    let exactly = asked.iter().position(|asked| open(asked) && of_stream(asked));
                    exactly.or_else(|| asked.iter().rposition(open))
                } else {
                    asked.iter().rposition(|asked| open(asked) && Some(asked.lane) == lane)
                };
                let Some(found) = found else { return };
                self.script.asked[found].answer = Some(message);
                self.last_answered = Some(found);
                self.saw(group, Cause::Answer(found));
            }
            Kind::Answer { id: None } => {
                let lane = lane_of_stream.unwrap_or_else(|| self.lane(line, group));
                let count = self.strays.entry(lane).or_default();
                *count += 1;
                let count = *count;
                self.saw(group, Cause::Stray { lane, count });
            }
            Kind::Request { id, method } => {
                let asked = (id.clone(), method.to_owned());
                let lane = match lane_of_stream {
                    Some(lane) => lane,
                    // The stream that opened last: requests of the server come on the one of the GET.
                    None if self.transport == Transport::Http => {
                        let stream = self.streams.last().map(|(_, step)| self.script.steps[*step].lane);
                        stream.unwrap_or_else(|| self.lane(line, group))
                    }
                    None => self.lane(line, group),
                };
                self.server_requests.push((lane, asked.0, asked.1));
            }
            Kind::Notification { .. } => {
                let Some((method, subject)) = subject(&message) else { return };
                let lane = match lane_of_stream {
                    Some(lane) => lane,
                    None if self.transport == Transport::Http => {
                        let stream = self.streams.last().map(|(_, step)| self.script.steps[*step].lane);
                        stream.unwrap_or_else(|| self.lane(line, group))
                    }
                    None => self.lane(line, group),
                };
                let key = (lane, method.clone(), subject.clone());
                let count = self.notices.get(&key).copied().unwrap_or_default();
                // How many come in a row is the server's affair.
                let before = Cause::Notice { lane, method: method.clone(), subject: subject.clone(), count };
                if self.seen.get(&group).is_some_and(|seen| seen.contains(&before)) {
                    return;
                }
                self.notices.insert(key, count + 1);
                self.saw(group, Cause::Notice { lane, method, subject, count: count + 1 });
            }
            Kind::Other => {}
        }
    }

    fn event(&mut self, line: usize, group: u64, entry: &Entry, before: Option<&Entry>) {
        let event = entry.event.as_deref().unwrap_or_default();
        match event {
            "start" => {
                let lane = self.new_lane();
                self.current.insert(group, lane);
                let act = Act::Open { path: None, headers: Vec::new(), subprotocol: None };
                self.step(line, group, lane, act);
            }
            "stdin-eof" => {
                let lane = self.lane(line, group);
                self.step(line, group, lane, Act::CloseInput);
            }
            "ws-close" => {
                let lane = self.lane(line, group);
                let reason = entry.reason.clone().unwrap_or_default();
                self.step(line, group, lane, Act::Close { code: entry.code, reason });
            }
            "get-stream-closed" => {
                let is_get = |step: usize| matches!(self.script.steps[step].act, Act::Fetch(_));
                let place = match entry.of {
                    Some(of) => self.streams.iter().position(|(n, _)| *n == of),
                    None => self.streams.iter().position(|(_, step)| is_get(*step)),
                };
                self.leave(line, group, place);
            }
            "client-closed-stream" => self.client_left(line, group, entry, before),
            _ => {
                if let Some(signal) = event.strip_prefix("signal ") {
                    let lane = self.lane(line, group);
                    self.step(line, group, lane, Act::Signal(signal.to_owned()));
                }
            }
        }
    }

    /// The client left the stream of a POST. A recorder notices that when it writes: an answer directly before was never
    /// seen.
    fn client_left(&mut self, line: usize, group: u64, entry: &Entry, before: Option<&Entry>) {
        let unseen = before
            .filter(|before| before.dir == Direction::S2c && before.sse.is_some())
            .and(self.last_answered)
            .filter(|asked| self.seen.get(&group).is_some_and(|seen| seen.contains(&Cause::Answer(*asked))));
        if let Some(unseen) = unseen {
            self.script.asked[unseen].answer = None;
            self.script.asked[unseen].is_let_go = true;
            if let Some(seen) = self.seen.get_mut(&group) {
                seen.retain(|cause| *cause != Cause::Answer(unseen));
            }
        }
        let step_of = |asked: usize| self.script.asked[asked].step;
        let place = match (entry.of, unseen) {
            (Some(of), _) => self.streams.iter().position(|(n, _)| *n == of),
            (None, Some(unseen)) => self.streams.iter().position(|(_, step)| *step == step_of(unseen)),
            (None, None) => self.streams.iter().position(|(_, step)| {
                self.script.asked.iter().any(|asked| asked.step == *step && asked.answer.is_none())
            }),
        };
        if let Some(place) = place {
            let step = self.streams[place].1;
            for asked in self.script.asked.iter_mut().filter(|asked| asked.step == step) {
                asked.is_let_go |= asked.answer.is_none();
            }
        }
        self.leave(line, group, place);
    }

    fn leave(&mut self, line: usize, group: u64, place: Option<usize>) {
        if let Some(place) = place {
            let (_, step) = self.streams.remove(place);
            let lane = self.script.steps[step].lane;
            self.step(line, group, lane, Act::Leave { step });
        }
    }

    fn finish(mut self) -> Script {
        // What nobody answered before the client was gone is not owed.
        for asked in &mut self.script.asked {
            asked.is_let_go |= asked.answer.is_none();
        }
        let mut groups: Vec<u64> = self.seen.keys().copied().collect();
        groups.sort_unstable();
        self.script.last =
            groups.into_iter().flat_map(|group| self.seen.remove(&group).unwrap_or_default()).collect();
        self.script.lanes = self.script.lanes.max(1);
        self.script
    }
}

/// Headers as pairs.
fn headers(headers: Option<&Map<String, Value>>) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for (name, value) in headers.into_iter().flatten() {
        match value {
            Value::Array(values) => {
                pairs.extend(
                    values.iter().filter_map(Value::as_str).map(|value| (name.clone(), value.to_owned())),
                );
            }
            value => pairs.extend(value.as_str().map(|value| (name.clone(), value.to_owned()))),
        }
    }
    pairs
}

/// The first header of this name, whatever its case.
pub(super) fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// The script of a recording of `compat/transcripts`.
    fn script(name: &str) -> Script {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("compat/transcripts");
        let text = fs::read_to_string(folder.join(format!("{name}.jsonl"))).unwrap();
        Script::of(&Transcript::validate(&text).unwrap())
    }

    #[test]
    fn a_process_a_websocket_and_a_session_are_a_lane_each() {
        let table = [
            ("py-mcp-1.10.1/2025-06-18/stdio-rich", 1),
            ("ts-client-2.0.0/2026-07-28/stdio-basic", 2),
            ("py-mcp-1.30.0/2025-11-25/ws-rich", 1),
            // Without a session, and the two that it opens.
            ("mcp-remote-0.15.1/2025-11-25/http-basic", 3),
            ("py-mcp-2.0.0/2026-07-28/http-rich", 1),
        ];
        for (name, lanes) in table {
            assert_eq!(script(name).lanes, lanes, "{name}");
        }
    }

    #[test]
    fn every_head_finds_its_request() {
        for name in [
            "mcp-remote-0.15.1/2025-11-25/http-basic",
            "ts-sdk-1.12.3/2025-03-26/http-rich",
            "py-mcp-1.30.0/2025-11-25/http-rich",
        ] {
            for step in script(name).steps {
                let (Act::Send { http: Some(exchange), .. }
                | Act::SendBytes { http: Some(exchange), .. }
                | Act::Fetch(exchange)) = &step.act
                else {
                    continue;
                };
                let head =
                    exchange.head.as_ref().unwrap_or_else(|| panic!("{name}, line {}: no head", step.line));
                let is_request = matches!(&step.act, Act::Send { asks, .. } if !asks.is_empty());
                assert!(!(is_request && head.status == 202), "{name}, line {}", step.line);
                assert_eq!(exchange.method == "DELETE", head.status == 204, "{name}, line {}", step.line);
            }
        }
    }

    #[test]
    fn a_step_waits_for_what_was_seen_before_it_and_not_for_what_came_later() {
        let script = script("py-mcp-1.10.1/2025-06-18/stdio-rich");
        // Start, initialize, initialized, tools/list: the last two went out together.
        assert_eq!(script.steps[2].after, [Cause::Answer(0)]);
        assert_eq!(script.steps[3].after, []);
        assert_eq!(script.steps[4].after, [Cause::Answer(1)]);
        let replies: Vec<&str> = script.replies.iter().map(|reply| reply.method.as_str()).collect();
        assert_eq!(replies, ["ping", "roots/list"]);
    }

    #[test]
    fn an_answer_that_the_client_did_not_stay_for_is_not_owed() {
        for (name, id) in
            [("py-mcp-1.30.0/2025-11-25/http-rich", 13), ("py-mcp-2.0.0/2026-07-28/http-rich", 11)]
        {
            let script = script(name);
            let asked = script.asked.iter().find(|asked| asked.id == id).unwrap();
            assert!(asked.is_let_go && asked.answer.is_none(), "{name}");
            assert!(
                matches!(script.steps.last().unwrap().act, Act::Leave { step } if step == asked.step),
                "{name}"
            );
        }
    }
}
