//! Plays a script: sends each step when all that caused it has happened, and notes what the server says.

#![expect(clippy::similar_names, reason = "lines and lanes are what it is about")]

use std::{collections::HashMap, time::Duration};

use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    task::AbortHandle,
    time::{Instant, timeout_at},
};

use super::{
    Against, Options,
    handles::Handles,
    live::{Call, Happening, Link, Remote, Teller},
    message::{self, Kind, clip},
    report::{Finding, Note},
    rules::Rule,
    script::{Act, Cause, Exchange, Head, Script},
};
use crate::revision::Revision;

/// After so many waits in vain nothing more is sent: what follows would only repeat it.
const WAITS_IN_VAIN_MAX: usize = 3;

/// How the live server is spoken to.
pub(super) enum Way<'a> {
    /// Frames, on stdin and stdout.
    Lines(&'a mut Against),
    /// Frames, on WebSockets.
    Sockets(Remote),
    /// HTTP.
    Requests(Remote),
}

/// One live conversation.
#[derive(Default)]
pub(super) struct Lane {
    pub(super) link: Option<Link>,
    is_open: bool,
    is_accepted: bool,
    /// How it ended, once it has.
    ended: Option<String>,
    /// The client has ended it.
    is_closing: bool,
    /// The revision that `initialize` negotiated.
    pub(super) revision: Option<Revision>,
    /// The last one that a request named by itself.
    pub(super) claimed: Option<Revision>,
    /// What the client declared.
    pub(super) capabilities: Value,
    pub(super) strays: usize,
    /// By method and subject: how often after one step or another, and after which it was last.
    pub(super) notices: HashMap<(String, String), (usize, usize)>,
    /// Ids of requests of the server.
    pub(super) server_ids: Vec<Value>,
    session: Option<String>,
    pub(super) endpoint: Option<String>,
    /// Requests in the order in which they were sent, by id.
    pub(super) sent: HashMap<String, Vec<usize>>,
    /// Requests by progress token.
    pub(super) tokens: HashMap<String, usize>,
    /// Replies of the recording that were given, by their index.
    pub(super) replied: Vec<usize>,
}

/// What came for one request.
#[derive(Clone, Debug, Default)]
pub(super) struct Got {
    pub(super) was_sent: bool,
    pub(super) answers: Vec<Value>,
    pub(super) progress: Vec<Value>,
    pub(super) furthest: f64,
    /// It was said already that no answer came.
    is_told: bool,
}

/// What came of one step.
#[derive(Default)]
pub(super) struct Outcome {
    pub(super) was_played: bool,
    pub(super) head: Option<Head>,
    /// The response has ended, and why early.
    #[expect(clippy::option_option, reason = "whether it is over, and whether something went wrong")]
    pub(super) over: Option<Option<String>>,
    pub(super) findings: Vec<Finding>,
    stream: Option<AbortHandle>,
}

pub(super) struct Player<'a> {
    pub(super) script: &'a Script,
    pub(super) options: &'a Options,
    way: Way<'a>,
    pub(super) lanes: Vec<Lane>,
    pub(super) got: Vec<Got>,
    pub(super) outcomes: Vec<Outcome>,
    pub(super) handles: Handles,
    pub(super) notes: Vec<Note>,
    pub(super) unasked: Vec<Value>,
    sender: mpsc::UnboundedSender<(usize, Happening)>,
    happenings: mpsc::UnboundedReceiver<(usize, Happening)>,
    /// The step that was played last.
    pub(super) now: usize,
    waits_in_vain: usize,
    /// Streams and answers that the player itself asked for.
    own_calls: Vec<AbortHandle>,
}

impl Lane {
    /// Whether it is a session of HTTP+SSE: all that the server says comes on one stream.
    pub(super) const fn is_http_sse(&self) -> bool {
        self.endpoint.is_some()
    }
}

impl<'a> Player<'a> {
    pub(super) fn new(script: &'a Script, way: Way<'a>, options: &'a Options) -> Self {
        let (sender, happenings) = mpsc::unbounded_channel();
        Self {
            script,
            options,
            way,
            lanes: (0..script.lanes).map(|_| Lane::default()).collect(),
            got: vec![Got::default(); script.asked.len()],
            outcomes: script.steps.iter().map(|_| Outcome::default()).collect(),
            handles: Handles::default(),
            notes: Vec::new(),
            unasked: Vec::new(),
            sender,
            happenings,
            now: 0,
            waits_in_vain: 0,
            own_calls: Vec::new(),
        }
    }

    /// Plays all of it, and ends every conversation.
    pub(super) async fn run(&mut self) {
        for index in 0..self.script.steps.len() {
            let step = &self.script.steps[index];
            for cause in &step.after {
                self.wait(cause, index).await;
            }
            if self.waits_in_vain >= WAITS_IN_VAIN_MAX {
                self.note(
                    step.line,
                    format!("nothing more was sent: {WAITS_IN_VAIN_MAX} waits were in vain"),
                );
                break;
            }
            self.now = index;
            self.play(index).await;
        }
        let last = self.script.steps.len().saturating_sub(1);
        if self.waits_in_vain < WAITS_IN_VAIN_MAX {
            for cause in &self.script.last {
                self.wait(cause, last).await;
            }
        }
        self.end(last).await;
    }

    pub(super) fn note(&mut self, line: usize, text: String) {
        self.notes.push(Note { line, text });
    }

    pub(super) fn find(&mut self, step: usize, rule: Rule, at: &str, text: String, came: Option<&Value>) {
        let Some(outcome) = self.outcomes.get_mut(step) else { return };
        outcome.findings.push(Finding { rule, at: at.to_owned(), text, came: came.cloned() });
    }

    pub(super) const fn speaks_http(&self) -> bool {
        matches!(self.way, Way::Requests(_))
    }

    fn teller(&self, lane: usize) -> Teller {
        Teller { lane, sender: self.sender.clone() }
    }

    /// Waits until `cause` has happened here too. What never comes is told of as a finding.
    async fn wait(&mut self, cause: &Cause, step: usize) {
        let deadline = Instant::now() + self.options.timeout;
        loop {
            // What is there already comes first: the end of a connection follows what was said on it.
            while let Ok((lane, happening)) = self.happenings.try_recv() {
                self.happen(lane, happening);
            }
            if self.has_happened(cause) {
                return;
            }
            if let Some(why) = self.cannot_happen(cause) {
                self.tell_missing(cause, step, &why);
                return;
            }
            match timeout_at(deadline, self.happenings.recv()).await {
                Ok(Some((lane, happening))) => self.happen(lane, happening),
                Ok(None) => return,
                Err(_) => {
                    self.waits_in_vain += 1;
                    let why = format!("nothing came within {}", seconds(self.options.timeout));
                    self.tell_missing(cause, step, &why);
                    return;
                }
            }
        }
    }

    fn has_happened(&self, cause: &Cause) -> bool {
        match cause {
            Cause::Answer(asked) => {
                let got = &self.got[*asked];
                // What was not sent, or was told of, is not waited for.
                !got.was_sent || got.is_told || !got.answers.is_empty()
            }
            Cause::Accepted(lane) => {
                let lane = &self.lanes[*lane];
                !matches!(self.way, Way::Sockets(_)) || lane.is_accepted || !lane.is_open
            }
            Cause::Head(step) => {
                let outcome = &self.outcomes[*step];
                outcome.stream.is_none() || outcome.head.is_some() || outcome.over.is_some()
            }
            Cause::Endpoint(lane) => !self.speaks_http() || self.lanes[*lane].endpoint.is_some(),
            Cause::Stray { lane, count } => self.lanes[*lane].strays >= *count,
            Cause::Notice { lane, method, subject, count } => {
                let key = (method.clone(), subject.clone());
                self.lanes[*lane].notices.get(&key).is_some_and(|(seen, _)| seen >= count)
            }
        }
    }

    /// Why `cause` can happen no more.
    fn cannot_happen(&self, cause: &Cause) -> Option<String> {
        let lane = match cause {
            Cause::Answer(asked) => {
                let asked = &self.script.asked[*asked];
                let outcome = &self.outcomes[asked.step];
                let status = outcome.head.as_ref().map(|head| format!(" (status {})", head.status));
                let has_streams = self.has_other_streams(asked.lane, asked.step);
                match &outcome.over {
                    Some(Some(error)) => return Some(format!("the request failed: {error}")),
                    Some(None) if !has_streams => {
                        let status = status.unwrap_or_default();
                        return Some(format!("the response{status} ended without it"));
                    }
                    _ => asked.lane,
                }
            }
            Cause::Head(_) => return None,
            Cause::Accepted(lane)
            | Cause::Endpoint(lane)
            | Cause::Stray { lane, .. }
            | Cause::Notice { lane, .. } => *lane,
        };
        self.lanes[lane].ended.clone()
    }

    /// Whether an answer may still come on another stream of the lane.
    fn has_other_streams(&self, lane: usize, step: usize) -> bool {
        let of_lane = |index: usize| self.script.steps[index].lane == lane && index != step;
        self.outcomes.iter().enumerate().any(|(index, outcome)| {
            let is_get =
                matches!(&self.script.steps[index].act, Act::Fetch(exchange) if exchange.method == "GET");
            of_lane(index) && is_get && outcome.stream.is_some() && outcome.over.is_none()
        })
    }

    fn tell_missing(&mut self, cause: &Cause, step: usize, why: &str) {
        match cause {
            Cause::Answer(asked) => {
                self.got[*asked].is_told = true;
                let asked = &self.script.asked[*asked];
                let text = format!("request {} ({}) has no answer: {why}", asked.id, asked.method);
                self.find(asked.step, Rule::Answered, "", text, None);
            }
            Cause::Accepted(lane) => {
                self.lanes[*lane].is_open = false;
                self.find(step, Rule::Connect, "", format!("the WebSocket was not accepted: {why}"), None);
            }
            Cause::Head(of) => {
                let text = format!("there is no response: {why}");
                self.find(*of, Rule::Answered, "", text, None);
            }
            Cause::Endpoint(_) => {
                self.find(step, Rule::Events, "", format!("no endpoint was told: {why}"), None);
            }
            Cause::Stray { .. } => {
                self.find(step, Rule::Answered, "", format!("no error without id came: {why}"), None);
            }
            Cause::Notice { method, .. } => {
                let text = format!("before this the client had seen {method}: {why}");
                self.find(step, Rule::Events, "", text, None);
            }
        }
    }

    fn happen(&mut self, lane: usize, happening: Happening) {
        match happening {
            Happening::Frame { step, text, is_utf8 } => {
                if !is_utf8 {
                    let at = step.unwrap_or(self.now);
                    self.find(at, Rule::JsonRpc, "", "it said bytes that are not UTF-8".to_owned(), None);
                }
                self.frame(lane, step, &text);
            }
            Happening::Endpoint { path } => {
                let known = self.script.endpoint_of(lane);
                if let Some(recorded) = known {
                    self.handles.learn_text(recorded, &path);
                }
                self.lanes[lane].endpoint = Some(local_part(&path));
            }
            Happening::Head { step, head } => {
                if let Some(session) = &head.session {
                    self.lanes[lane].session.get_or_insert_with(|| session.clone());
                }
                if let Some(outcome) = step.and_then(|step| self.outcomes.get_mut(step)) {
                    outcome.head = Some(head);
                }
            }
            Happening::Over { step, error } => {
                if let Some(outcome) = step.and_then(|step| self.outcomes.get_mut(step)) {
                    outcome.over = Some(error);
                }
            }
            Happening::Accepted { subprotocol } => {
                self.lanes[lane].is_accepted = true;
                let opened = self
                    .script
                    .steps
                    .iter()
                    .position(|step| step.lane == lane && matches!(step.act, Act::Open { .. }));
                if let Some(step) = opened
                    && let Act::Open { subprotocol: Some(recorded), .. } = &self.script.steps[step].act
                    && subprotocol.as_ref() != Some(recorded)
                {
                    let came = subprotocol.map_or_else(|| "none".to_owned(), |name| format!("`{name}`"));
                    let text = format!("subprotocol `{recorded}` was recorded, and {came} came");
                    self.find(step, Rule::Connect, "", text, None);
                }
            }
            Happening::Ended { how } => self.lanes[lane].ended = Some(how),
        }
    }

    async fn play(&mut self, index: usize) {
        let step = &self.script.steps[index];
        let (lane, written_at) = (step.lane, step.line);
        match &step.act {
            Act::Open { path, headers, .. } => self.open(index, lane, path.as_deref(), headers),
            Act::Send { text, messages, asks, http } => {
                self.send(index, lane, text, messages, asks, http.as_ref());
            }
            Act::SendBytes { bytes, http } => match (&self.way, http) {
                (Way::Requests(_), Some(exchange)) => {
                    let call = self.call(Some(index), lane, exchange, Some(bytes.clone()), None);
                    self.request(Some(index), lane, call);
                }
                (Way::Lines(_), None) if !bytes.contains(&b'\n') => {
                    self.outcomes[index].was_played = true;
                    if let Some(link) = &self.lanes[lane].link {
                        link.send(bytes.clone());
                    }
                }
                _ => self.note(written_at, "left out: it is no text, and cannot be said here".to_owned()),
            },
            Act::LeftOut(why) => self.note(written_at, format!("left out: {why}")),
            Act::Fetch(exchange) => match &self.way {
                Way::Requests(_) => {
                    let call = self.call(Some(index), lane, exchange, None, None);
                    self.request(Some(index), lane, call);
                }
                _ => self.note(
                    written_at,
                    format!("left out: {} {} is HTTP's own", exchange.method, exchange.path),
                ),
            },
            Act::Leave { step } => self.leave(written_at, lane, *step),
            Act::CloseInput if self.is_signalled_after(index) => {
                self.outcomes[index].was_played = true;
                self.lanes[lane].is_closing = true;
                if let Some(link) = &self.lanes[lane].link {
                    link.close(None, String::new());
                }
            }
            Act::CloseInput => self.close(index, lane, Some(1000), String::new()).await,
            Act::Close { code, reason } => self.close(index, lane, *code, reason.clone()).await,
            Act::Signal(name) => {
                let signalled = self.lanes[lane]
                    .link
                    .as_ref()
                    .is_some_and(|link| link.signal(&format!("SIG{}", name.trim_start_matches("SIG"))));
                if signalled {
                    self.outcomes[index].was_played = true;
                    self.lanes[lane].is_closing = true;
                    self.see_the_end(index, lane).await;
                } else if self.is_going(lane) {
                    // The end of its input was enough, which is all the better.
                    self.outcomes[index].was_played = true;
                    self.see_the_end(index, lane).await;
                } else {
                    self.note(
                        written_at,
                        format!("instead of {name} the connection is closed: there is no process to signal"),
                    );
                    self.close(index, lane, Some(1000), String::new()).await;
                }
            }
        }
    }

    /// Whether the recorded server needed a signal after the end of its input.
    fn is_signalled_after(&self, index: usize) -> bool {
        let lane = self.script.steps[index].lane;
        let mut after = self.script.steps[index + 1..].iter().filter(|step| step.lane == lane);
        matches!(self.way, Way::Lines(_)) && after.any(|step| matches!(step.act, Act::Signal(_)))
    }

    /// Whether the server of `lane` is a program whose input has ended.
    fn is_going(&self, lane: usize) -> bool {
        let lane = &self.lanes[lane];
        lane.is_closing && lane.link.as_ref().is_some_and(Link::is_program)
    }

    fn open(&mut self, index: usize, lane: usize, path: Option<&str>, headers: &[(String, String)]) {
        self.lanes[lane].is_open = true;
        if let Some(outcome) = self.outcomes.get_mut(index) {
            outcome.was_played = true;
        }
        let teller = self.teller(lane);
        let link = match &mut self.way {
            Way::Lines(against) => against.link(teller),
            Way::Sockets(remote) => {
                let own = remote.target.path.as_str();
                let path = if own == "/" { path.unwrap_or("/ws") } else { own }.to_owned();
                let mut headers = headers.to_vec();
                if headers.is_empty() {
                    headers.push(("Sec-WebSocket-Protocol".to_owned(), "mcp".to_owned()));
                }
                Ok(Link::dial(remote.clone(), path, headers, teller))
            }
            Way::Requests(_) => return,
        };
        match link {
            Ok(link) => self.lanes[lane].link = Some(link),
            Err(error) => {
                self.lanes[lane].ended = Some(format!("it could not be started: {error}"));
                self.find(index, Rule::Connect, "", format!("it could not be started: {error}"), None);
            }
        }
    }

    fn send(
        &mut self,
        index: usize,
        lane: usize,
        text: &str,
        messages: &[Value],
        asks: &[usize],
        http: Option<&Exchange>,
    ) {
        let speaks_http = self.speaks_http();
        if !speaks_http && !self.lanes[lane].is_open {
            self.open(index, lane, None, &[]);
        }
        if let Some(how) = self.lanes[lane].ended.clone() {
            if self.lanes[lane].is_closing || self.lanes[lane].server_ids.contains(&Value::Null) {
                return;
            }
            // Once is enough: a marker that no id can be.
            self.lanes[lane].server_ids.push(Value::Null);
            self.find(index, Rule::Answered, "", format!("nothing can be sent any more: {how}"), None);
            return;
        }
        for asked in asks {
            let asked_of = &self.script.asked[*asked];
            self.got[*asked].was_sent = true;
            let lane = &mut self.lanes[lane];
            lane.sent.entry(asked_of.id.to_string()).or_default().push(*asked);
            if let Some(token) = message::progress_token(&asked_of.message) {
                lane.tokens.insert(token.to_string(), *asked);
            }
            if let Some(claim) = message::claim(&asked_of.message) {
                lane.claimed = Some(Revision::parse(claim).unwrap_or(Revision::V2026_07_28));
            }
            if asked_of.method == "initialize" {
                lane.capabilities = asked_of.message["params"]["capabilities"].clone();
            }
        }
        let body = self.with_handles(text, !speaks_http);
        self.outcomes[index].was_played = true;
        if speaks_http {
            let call = match http {
                Some(exchange) => self.call(Some(index), lane, exchange, Some(body.into_bytes()), None),
                None => self.made_up(Some(index), lane, messages.first(), body),
            };
            self.request(Some(index), lane, call);
            let initialized = messages.iter().any(|message| message["method"] == "notifications/initialized");
            if http.is_none() && initialized {
                self.listen(lane);
            }
        } else if let Some(link) = &self.lanes[lane].link {
            link.send(body);
        }
    }

    /// The text of a frame with made-up names replaced; as it was recorded where there are none. `is_line`: it must not
    /// hold a newline.
    fn with_handles(&self, text: &str, is_line: bool) -> String {
        let Ok(mut value) = serde_json::from_str::<Value>(text) else { return text.to_owned() };
        if self.handles.apply(&mut value) || (is_line && text.contains(['\n', '\r'])) {
            value.to_string()
        } else {
            text.to_owned()
        }
    }

    /// A recorded request of HTTP as it is sent now.
    fn call(
        &self,
        step: Option<usize>,
        lane: usize,
        exchange: &Exchange,
        body: Option<Vec<u8>>,
        session: Option<&str>,
    ) -> Call {
        let Way::Requests(remote) = &self.way else { return Call::nothing() };
        let state = &self.lanes[lane];
        let session = session.or(state.session.as_deref());
        let mut headers = Vec::with_capacity(exchange.headers.len());
        for (name, value) in &exchange.headers {
            let value = match name.to_ascii_lowercase().as_str() {
                "mcp-session-id" => match session {
                    Some(session) => session.to_owned(),
                    None => continue,
                },
                "mcp-protocol-version" => match (Revision::parse(value), state.revision) {
                    (Some(Revision::V2026_07_28), _) | (_, None) => value.clone(),
                    (_, Some(live)) => live.to_string(),
                },
                _ => self.handles.apply_text(value),
            };
            headers.push((name.clone(), value));
        }
        let (bare, query) = exchange
            .path
            .split_once('?')
            .map_or((exchange.path.as_str(), None), |(bare, query)| (bare, Some(query)));
        let own = remote.target.path.as_str();
        let path = if let (Some(endpoint), "POST") = (&state.endpoint, exchange.method.as_str()) {
            endpoint.clone()
        } else if self.script.endpoint.as_deref() == Some(bare) && own != "/" {
            match query {
                Some(query) if !own.contains('?') => format!("{own}?{query}"),
                _ => own.to_owned(),
            }
        } else {
            self.handles.apply_text(&exchange.path)
        };
        Call { step, method: exchange.method.clone(), path, headers, body }
    }

    /// A request of HTTP for a message that was recorded on another transport: as official clients send it.
    fn made_up(&self, step: Option<usize>, lane: usize, message: Option<&Value>, body: String) -> Call {
        let Way::Requests(remote) = &self.way else { return Call::nothing() };
        let state = &self.lanes[lane];
        let mut headers = vec![
            ("Accept".to_owned(), "application/json, text/event-stream".to_owned()),
            ("Content-Type".to_owned(), "application/json".to_owned()),
        ];
        let mut put = |name: &str, value: &str| headers.push((name.to_owned(), value.to_owned()));
        let method = message.and_then(|message| message["method"].as_str()).unwrap_or_default();
        if let Some(claim) = message.and_then(message::claim) {
            put("MCP-Protocol-Version", claim);
            put("Mcp-Method", method);
            let subject = match method {
                "tools/call" | "prompts/get" => "name",
                "resources/read" => "uri",
                "tasks/get" | "tasks/update" | "tasks/cancel" => "taskId",
                _ => "",
            };
            if let Some(name) = message.and_then(|message| message["params"][subject].as_str()) {
                put("Mcp-Name", &crate::bridge::http::header_text(&self.handles.apply_text(name)));
            }
        } else if method != "initialize" {
            if let Some(session) = &state.session {
                put("Mcp-Session-Id", session);
            }
            if let Some(revision) = state.revision.filter(|revision| *revision >= Revision::V2025_06_18) {
                put("MCP-Protocol-Version", revision.as_str());
            }
        }
        let path = if remote.target.path == "/" { "/mcp" } else { remote.target.path.as_str() }.to_owned();
        Call { step, method: "POST".to_owned(), path, headers, body: Some(body.into_bytes()) }
    }

    /// Opens the stream that official clients of Streamable HTTP open, for what the server asks and tells.
    fn listen(&mut self, lane: usize) {
        let mut call = self.made_up(None, lane, None, String::new());
        "GET".clone_into(&mut call.method);
        call.body = None;
        call.headers.retain(|(name, _)| name != "Content-Type" && name != "Accept");
        call.headers.push(("Accept".to_owned(), "text/event-stream".to_owned()));
        self.request(None, lane, call);
    }

    fn request(&mut self, step: Option<usize>, lane: usize, call: Call) {
        let Way::Requests(remote) = &self.way else { return };
        let stream = call.send(remote.clone(), self.teller(lane));
        match step.and_then(|step| self.outcomes.get_mut(step)) {
            Some(outcome) => {
                outcome.was_played = true;
                outcome.stream = Some(stream);
            }
            None => self.own_calls.push(stream),
        }
    }

    /// Answers a request of the server.
    pub(super) fn reply(&mut self, lane: usize, mut answer: Value, http: Option<&Exchange>) {
        if self.lanes[lane].is_closing {
            return;
        }
        self.handles.apply(&mut answer);
        let body = answer.to_string();
        match &self.way {
            Way::Requests(_) => {
                let call = match http {
                    Some(exchange) => self.call(None, lane, exchange, Some(body.into_bytes()), None),
                    None => self.made_up(None, lane, None, body),
                };
                self.request(None, lane, call);
            }
            _ => {
                if let Some(link) = &self.lanes[lane].link {
                    link.send(body);
                }
            }
        }
    }

    /// The client leaves the response of `step`: over HTTP the stream is closed, elsewhere its request is cancelled.
    fn leave(&mut self, line: usize, lane: usize, step: usize) {
        let now = self.now;
        self.outcomes[now].was_played = true;
        if let Some(stream) = self.outcomes[step].stream.take() {
            stream.abort();
            return;
        }
        let Act::Send { asks, .. } = &self.script.steps[step].act else {
            self.note(line, "left out: there is no such stream here".to_owned());
            return;
        };
        for asked in asks {
            let id = self.script.asked[*asked].id.clone();
            self.note(
                line,
                format!("instead of leaving its stream, request {id} is cancelled by a notification"),
            );
            let mut cancel =
                json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}});
            if let Some(claim) = message::claim(&self.script.asked[*asked].message) {
                cancel["params"]["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": claim});
            }
            if let Some(link) = &self.lanes[lane].link {
                link.send(cancel.to_string());
            }
        }
    }

    async fn close(&mut self, index: usize, lane: usize, code: Option<u16>, reason: String) {
        self.outcomes[index].was_played = true;
        self.lanes[lane].is_closing = true;
        if let Some(link) = &self.lanes[lane].link {
            link.close(code, reason);
        }
        if self.speaks_http() {
            self.leave_all(lane);
        }
        self.see_the_end(index, lane).await;
    }

    /// Leaves every stream of a lane.
    fn leave_all(&mut self, lane: usize) {
        for (outcome, step) in self.outcomes.iter_mut().zip(&self.script.steps) {
            if step.lane == lane
                && let Some(stream) = outcome.stream.take()
            {
                stream.abort();
            }
        }
    }

    /// Hears a conversation out that the client has ended.
    async fn see_the_end(&mut self, index: usize, lane: usize) {
        if self.lanes[lane].link.is_none() {
            return;
        }
        let deadline = Instant::now() + self.options.timeout;
        while self.lanes[lane].ended.is_none() {
            let Ok(Some((lane, happening))) = timeout_at(deadline, self.happenings.recv()).await else {
                let text = format!(
                    "it was still there after {}, and has been killed",
                    seconds(self.options.timeout)
                );
                self.find(index, Rule::Ended, "", text, None);
                break;
            };
            self.happen(lane, happening);
        }
        self.lanes[lane].link = None;
        self.lanes[lane].ended.get_or_insert_with(|| "the client has ended it".to_owned());
    }

    /// Ends what the recording left open.
    async fn end(&mut self, last: usize) {
        // A response that has brought its answer ends, too: what else it brings is one too much.
        let deadline = Instant::now() + self.options.timeout;
        for index in 0..self.script.steps.len() {
            let Act::Send { asks, .. } = &self.script.steps[index].act else { continue };
            let owes = asks.iter().any(|asked| !self.got[*asked].answers.is_empty());
            let is_open = |player: &Self| {
                let outcome = &player.outcomes[index];
                outcome.stream.is_some() && outcome.over.is_none()
            };
            while owes && is_open(self) {
                let Ok(Some((lane, happening))) = timeout_at(deadline, self.happenings.recv()).await else {
                    let text = "the response did not end after its answer".to_owned();
                    self.find(index, Rule::Ended, "", text, None);
                    break;
                };
                self.happen(lane, happening);
            }
        }
        for lane in 0..self.lanes.len() {
            if self.lanes[lane].link.is_some() && self.lanes[lane].ended.is_none() {
                self.lanes[lane].is_closing = true;
                if let Some(link) = &self.lanes[lane].link {
                    link.close(Some(1000), String::new());
                }
                self.see_the_end(last, lane).await;
            }
            self.leave_all(lane);
        }
        for call in self.own_calls.drain(..) {
            call.abort();
        }
        while let Ok((lane, happening)) = self.happenings.try_recv() {
            self.happen(lane, happening);
        }
        self.tell_what_is_owed();
    }

    /// Requests that were sent, are owed an answer, and have none that anybody waited for.
    fn tell_what_is_owed(&mut self) {
        for index in 0..self.script.asked.len() {
            let (asked, got) = (&self.script.asked[index], &self.got[index]);
            if got.was_sent && asked.answer.is_some() && got.answers.is_empty() && !got.is_told {
                let text = format!("request {} ({}) has no answer", asked.id, asked.method);
                self.find(asked.step, Rule::Answered, "", text, None);
            }
        }
        for (index, reply) in self.script.replies.iter().enumerate() {
            if !self.lanes[reply.lane].replied.contains(&index) {
                let text = format!("left out: the answer to {}: the server did not ask", reply.method);
                self.notes.push(Note { line: reply.line, text });
            }
        }
    }

    /// One frame of the server.
    fn frame(&mut self, lane: usize, step: Option<usize>, text: &str) {
        let value: Value = match serde_json::from_str(text) {
            Ok(value) => value,
            Err(error) => {
                let text = format!("it said what is no JSON ({error}): {:?}", clip(text, 120));
                self.find(step.unwrap_or(self.now), Rule::JsonRpc, "", text, None);
                return;
            }
        };
        let at = step.unwrap_or(self.now);
        let revision = self.lanes[lane].revision;
        if value.is_array() && revision != Some(Revision::V2025_03_26) {
            let revision = revision.map_or_else(|| "nothing".to_owned(), |revision| revision.to_string());
            let text =
                format!("it said a batch, which 2025-03-26 alone knows, and {revision} was negotiated");
            self.find(at, Rule::JsonRpc, "", text, None);
        }
        for message in message::messages(value) {
            if message["jsonrpc"] != "2.0" || message::kind(&message) == Kind::Other {
                let text = "it said what is no JSON-RPC 2.0 message".to_owned();
                self.find(at, Rule::JsonRpc, "", text, Some(&message));
                continue;
            }
            if message.get("result").is_some() && message.get("error").is_some() {
                let text = "it answered with a result and an error in one".to_owned();
                self.find(at, Rule::JsonRpc, "", text, Some(&message));
            }
            self.hear(lane, step, message);
        }
    }
}

/// `30 s`, `0.5 s`.
fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}

/// The path of an endpoint, whether it was told as a path or as a whole address.
fn local_part(endpoint: &str) -> String {
    let parsed = endpoint.parse::<hyper::Uri>().ok();
    let path = parsed.as_ref().and_then(hyper::Uri::path_and_query).map(ToString::to_string);
    path.unwrap_or_else(|| endpoint.to_owned())
}
