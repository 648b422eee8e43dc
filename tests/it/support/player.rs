//! Plays one conversation against the protocol core, as a driver without socket, clock or thread would.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Map, Value};
use tmws::{
    protocol::{
        Ask, BatchAnswers, Call, CallError, CallId, Connection, LogLevel, Notice, Now, Output, Reply,
        ServerEvent, Severity, Signer, Task, TaskOffer, TaskState,
    },
    revision::Revision,
    schema::Gate,
    wire::{Line, LineDecoder, Method},
};

use super::{
    catalogue::{self, object},
    conversation::{Action, Conversation, Outcome, Step},
    matcher::matches,
    promises::{Promises, parse},
    service::{self, Answer},
    texts::Texts,
};

/// When every play begins: the first second of 2026.
const BEGINNING_UNIX_MS: u64 = 1_767_225_600_000;

/// How a play ended.
pub(crate) struct Played {
    /// Every frame of the server after the session was opened, in order.
    pub(crate) frames: Vec<Value>,
    /// `LINE: what differed`; the play stopped there.
    pub(crate) fault: Option<String>,
}

/// Plays the conversation once; `session` is the revision of the session to open first, if any.
pub(crate) fn play(conversation: &Conversation, session: Option<Revision>, gate: &Arc<Gate>) -> Played {
    let mut player = Player::new(conversation, session, gate);
    let fault = player.run(session).err();
    Played { frames: player.seen, fault }
}

/// The lines that a client sends in the conversation, as far as they need nothing that was captured.
pub(crate) fn sendable(conversation: &Conversation, gate: &Arc<Gate>) -> Vec<String> {
    let player = Player::new(conversation, None, gate);
    let texts = conversation.steps.iter().filter_map(|step| match &step.action {
        Action::Send(text) => player.texts.expand(text).ok(),
        _ => None,
    });
    texts.collect()
}

/// Plays inputs that no expectation belongs to, then ends the stream: what must hold whatever comes, holds.
///
/// # Errors
/// What did not hold.
pub(crate) fn play_freely(
    conversation: &Conversation,
    session: Option<Revision>,
    gate: &Arc<Gate>,
) -> Result<Vec<String>, String> {
    let mut player = Player::new(conversation, session, gate);
    if let Some(revision) = session {
        player.open(revision)?;
    }
    let ending =
        [Action::Eof, Action::DrainDeadline, Action::Drained(true)].map(|action| Step { line: 0, action });
    for step in conversation.steps.iter().chain(&ending) {
        player.step(step)?;
    }
    match player.bugs.first() {
        Some(bug) => Err(format!("the core reported a bug of ours: {bug}")),
        None => Ok(player.promises.unanswered()),
    }
}

struct Player<'a> {
    conversation: &'a Conversation,
    core: Connection,
    lines: LineDecoder,
    start: Instant,
    now: Instant,
    /// What the client sent while the core accepted nothing.
    waiting: VecDeque<Line>,
    /// Frames of the server that no line consumed yet.
    frames: VecDeque<String>,
    /// The frame that the last `<` consumed.
    last: String,
    seen: Vec<Value>,
    /// Id token of the request to the last call that was held for it; a late reply goes there too.
    called: HashMap<String, CallId>,
    /// And back, for stops.
    tokens: HashMap<CallId, String>,
    stopped: Vec<String>,
    dispatched: VecDeque<(String, String)>,
    promises: Promises,
    /// What the core itself called a bug.
    bugs: Vec<String>,
    texts: Texts<'a>,
}

impl<'a> Player<'a> {
    fn new(conversation: &'a Conversation, session: Option<Revision>, gate: &Arc<Gate>) -> Self {
        let header = &conversation.header;
        let profile = catalogue::profile(&header.profile).expect("checked when the file was read");
        let now = Instant::now();
        let core = Connection::new(
            Arc::new(profile),
            Arc::clone(gate),
            header.limits,
            Signer::new([7; 32]),
            if header.batches_as_frames { BatchAnswers::Frames } else { BatchAnswers::Array },
        );
        Self {
            conversation,
            core,
            lines: LineDecoder::new(header.limits.frame_in_bytes_max),
            start: now,
            now,
            waiting: VecDeque::new(),
            frames: VecDeque::new(),
            last: String::new(),
            seen: Vec::new(),
            called: HashMap::new(),
            tokens: HashMap::new(),
            stopped: Vec::new(),
            dispatched: VecDeque::new(),
            promises: Promises::new(header.limits.frame_out_bytes_max),
            bugs: Vec::new(),
            texts: Texts::new(header, session),
        }
    }

    fn run(&mut self, session: Option<Revision>) -> Result<(), String> {
        if let Some(revision) = session {
            self.open(revision).map_err(|fault| format!("session: {fault}"))?;
        }
        let mut after_expectation = true;
        for step in &self.conversation.steps {
            let at = |fault: String| format!("{}: {fault}", step.line);
            if step.action.is_input() && after_expectation {
                self.nothing_left().map_err(at)?;
                self.dispatched.clear();
            }
            after_expectation = !step.action.is_input();
            self.step(step).map_err(at)?;
        }
        self.nothing_left().map_err(|fault| format!("end: {fault}"))?;
        match (self.conversation.header.our_fault, self.bugs.first()) {
            (false, Some(bug)) => Err(format!("end: the core reported a bug of ours: {bug}")),
            (true, None) => Err("end: the core reported no bug of ours".to_owned()),
            _ => Ok(()),
        }
    }

    fn open(&mut self, revision: Revision) -> Result<(), String> {
        let capabilities = Value::Object(self.conversation.header.capabilities.clone());
        let initialize = format!(
            r#"{{"jsonrpc":"2.0","id":"open","method":"initialize","params":{{"protocolVersion":"{revision}","capabilities":{capabilities},"clientInfo":{{"name":"conversation","version":"1"}}}}}}"#
        );
        self.receive(initialize.as_bytes())?;
        self.expect(&format!(
            r#"{{"jsonrpc":"2.0","id":"open","result":{{"protocolVersion":"{revision}","...":"..."}}}}"#
        ))?;
        self.receive(br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#)?;
        self.seen.clear();
        self.nothing_left()
    }

    /// The time as the core gets it; the calendar begins with the second of 2026.
    fn clock(&self) -> Now {
        let elapsed = u64::try_from((self.now - self.start).as_millis()).expect("a play is short");
        Now { monotonic: self.now, unix_ms: BEGINNING_UNIX_MS + elapsed }
    }

    fn nothing_left(&mut self) -> Result<(), String> {
        if let Some(frame) = self.frames.front() {
            return Err(format!("the server also sent {frame}"));
        }
        match self.stopped.first() {
            Some(token) => Err(format!("the call of request {token} was also stopped")),
            None => Ok(()),
        }
    }

    fn step(&mut self, step: &Step) -> Result<(), String> {
        match &step.action {
            Action::Send(text) => {
                let text = self.texts.expand(text)?;
                self.receive(text.as_bytes())
            }
            Action::SendPart(text) => {
                let text = self.texts.expand(text)?;
                self.lines.push(text.as_bytes());
                Ok(())
            }
            Action::SendBytes(bytes) => self.receive(bytes),
            Action::Reply { id, outcome } => {
                let call = self.call(id)?;
                let reply = self.reply(outcome)?;
                self.core.handle_reply(self.clock(), call, reply);
                self.settle()
            }
            Action::ReplyIfHeld(id) => {
                if let Ok(call) = self.call(id) {
                    self.core.handle_reply(self.clock(), call, Reply::Error(CallError::Internal));
                }
                self.settle()
            }
            Action::Notice { id, text } => {
                let call = self.call(id)?;
                let notice = notice(&self.texts.json(text)?)?;
                self.core.handle_notice(self.clock(), call, notice);
                self.settle()
            }
            Action::Event(event) => {
                self.core.handle_event(self.clock(), event);
                self.settle()
            }
            Action::TaskChanged { era, text } => {
                let task = Arc::new(task(&self.texts.json(text)?)?);
                self.core.handle_event(self.clock(), &ServerEvent::TaskChanged { era: *era, task });
                self.settle()
            }
            Action::Advance(duration) => self.advance(*duration),
            Action::Eof => {
                if let Some(line) = self.lines.finish() {
                    self.waiting.push_back(line);
                }
                self.settle()?;
                self.core.handle_eof(self.clock());
                self.settle()
            }
            Action::DrainDeadline => {
                self.core.handle_drain_deadline(self.clock());
                self.settle()
            }
            Action::Expect(text) => self.expect(text),
            Action::ExpectRaw(text) => {
                let text = self.texts.expand(text)?;
                if self.last.contains(&text) {
                    return Ok(());
                }
                Err(format!("the frame does not hold {text} verbatim: {}", self.last))
            }
            Action::Maybe(text) => {
                let Some(frame) = self.frames.front() else { return Ok(()) };
                let got = parse(frame)?;
                if matches(&self.texts.json(text)?, &got, &mut self.texts.captures.clone()).is_ok() {
                    self.expect(text)?;
                }
                Ok(())
            }
            Action::AnyOrder(lines) => self.any_order(lines),
            Action::Silence => match self.frames.front() {
                Some(frame) => Err(format!("nothing was expected, the server sent {frame}")),
                None => Ok(()),
            },
            Action::Dispatched { method, subject } => match self.dispatched.pop_front() {
                Some((got, about))
                    if got == *method && subject.as_ref().is_none_or(|subject| *subject == about) =>
                {
                    Ok(())
                }
                Some((got, about)) => Err(format!("{got} {about} was dispatched, not {method}")),
                None => Err(format!("{method} was not dispatched")),
            },
            Action::Undispatched => match self.dispatched.front() {
                Some((method, about)) => Err(format!("{method} {about} was dispatched")),
                None => Ok(()),
            },
            Action::Cancelled(id) => {
                match self.stopped.iter().position(|token| token == id) {
                    Some(index) => self.stopped.remove(index),
                    None => return Err(format!("the call of request {id} was not stopped")),
                };
                Ok(())
            }
            Action::Drained(drained) => {
                if self.core.is_drained() == *drained {
                    return Ok(());
                }
                Err(format!("the connection is {}drained", if *drained { "not " } else { "" }))
            }
            Action::Accepting(accepting) => {
                if self.core.accepts_input() == *accepting {
                    return Ok(());
                }
                Err(format!("input is {}", if *accepting { "not accepted" } else { "accepted" }))
            }
        }
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.lines.push(bytes);
        self.lines.push(b"\n");
        while let Some(line) = self.lines.next_line() {
            self.waiting.push_back(line);
        }
        self.settle()
    }

    /// Does what a driver does after each input: takes all output, lets the service answer, goes on reading.
    fn settle(&mut self) -> Result<(), String> {
        loop {
            while let Some(diagnostic) = self.core.poll_diagnostic() {
                if diagnostic.severity == Severity::Error {
                    self.bugs.push(format!("{} {:?}", diagnostic.message, diagnostic.fields));
                }
            }
            while let Some(output) = self.core.poll_output() {
                match output {
                    Output::Send(outgoing) => {
                        self.seen.push(self.promises.check(&outgoing)?);
                        let text = std::str::from_utf8(outgoing.frame.as_bytes());
                        self.frames.push_back(text.expect("just checked").to_owned());
                    }
                    Output::Cancel(call) => {
                        let token = self.tokens.get(&call).cloned().unwrap_or_default();
                        self.stopped.push(token);
                    }
                    Output::Dispatch(call) => self.serve(&call),
                }
            }
            if !self.core.accepts_input() {
                return Ok(());
            }
            match self.waiting.pop_front() {
                Some(Line::Frame(bytes)) => {
                    self.promises.note(&bytes);
                    self.core.handle_frame(self.clock(), &bytes);
                }
                Some(Line::TooLong { size_bytes }) => {
                    self.core.handle_oversized_frame(self.clock(), size_bytes);
                }
                None => return Ok(()),
            }
        }
    }

    fn serve(&mut self, call: &Call) {
        let token = call.request.id().token().to_owned();
        self.dispatched.push_back((call.method().as_str().to_owned(), service::subject(call).to_owned()));
        self.tokens.insert(call.id, token.clone());
        let held = self.conversation.header.hold.iter().any(|method| method == call.method().as_str());
        // A call that wants a task ends with one, which the conversation makes.
        let wants_task = matches!(call.task, Some(TaskOffer::Wanted { .. }));
        match if held || wants_task { Answer::Held } else { service::answer(call) } {
            Answer::Now(notices, reply) => {
                for notice in notices {
                    self.core.handle_notice(self.clock(), call.id, notice);
                }
                self.core.handle_reply(self.clock(), call.id, reply);
            }
            Answer::Held => {
                self.called.insert(token, call.id);
            }
        }
    }

    fn expect(&mut self, text: &str) -> Result<(), String> {
        let expected = self.texts.json(text)?;
        let Some(frame) = self.frames.pop_front() else {
            return Err(format!("the server sent nothing; expected was {expected}"));
        };
        self.last = frame;
        matches(&expected, &parse(&self.last)?, &mut self.texts.captures)
            .map_err(|fault| format!("{fault}\n      expected {expected}\n      got      {}", self.last))
    }

    fn any_order(&mut self, lines: &[(usize, String)]) -> Result<(), String> {
        let mut open: Vec<(usize, Value)> = Vec::new();
        for (line, text) in lines {
            open.push((*line, self.texts.json(text)?));
        }
        while !open.is_empty() {
            let Some(frame) = self.frames.pop_front() else {
                return Err(format!("the server sent nothing; line {} was still expected", open[0].0));
            };
            let got = parse(&frame)?;
            let mut faults = Vec::new();
            let found = open.iter().position(|(line, expected)| {
                let mut captures = self.texts.captures.clone();
                match matches(expected, &got, &mut captures) {
                    Ok(()) => {
                        self.texts.captures = captures;
                        true
                    }
                    Err(fault) => {
                        faults.push(format!("line {line} {fault}"));
                        false
                    }
                }
            });
            match found {
                Some(index) => open.remove(index),
                None => return Err(format!("no line fits {frame}\n      {}", faults.join("\n      "))),
            };
            self.last = frame;
        }
        Ok(())
    }

    fn advance(&mut self, duration: Duration) -> Result<(), String> {
        let target = self.now + duration;
        // Each timer fires once; a core that names the same instant for ever is a fault, not a hang.
        for _ in 0..10_000 {
            match self.core.poll_timeout() {
                Some(at) if at <= target => {
                    self.now = self.now.max(at);
                    self.core.handle_timeout(self.clock());
                    self.settle()?;
                }
                _ => {
                    self.now = target;
                    self.core.handle_timeout(self.clock());
                    return self.settle();
                }
            }
        }
        Err("the same timer fires again and again".to_owned())
    }

    fn call(&self, id: &str) -> Result<CallId, String> {
        self.called.get(id).copied().ok_or_else(|| format!("no call of request {id} was ever held"))
    }

    fn reply(&self, outcome: &Outcome) -> Result<Reply, String> {
        let members = |text: &str| match self.texts.json(text)? {
            Value::Object(members) => Ok(members),
            other => Err(format!("an object was meant: {other}")),
        };
        Ok(match outcome {
            Outcome::Result(text) => Reply::Result(members(text)?),
            Outcome::List(text) => match self.texts.json(text)? {
                Value::Array(items) => Reply::List(items.into()),
                other => return Err(format!("an array was meant: {other}")),
            },
            Outcome::Ask(text) => input_required(&members(text)?)?,
            Outcome::Task(text) => Reply::Task(Box::new(task(&self.texts.json(text)?)?)),
            Outcome::Tasks(text) => match self.texts.json(text)? {
                Value::Array(items) => Reply::Tasks(items.iter().map(task).collect::<Result<_, _>>()?),
                other => return Err(format!("an array was meant: {other}")),
            },
            Outcome::InvalidParams(text) => Reply::Error(CallError::InvalidParams(text.clone())),
            Outcome::NotFound(uri) => Reply::Error(CallError::ResourceNotFound { uri: uri.clone() }),
            Outcome::MissingCapability(text) => Reply::Error(CallError::MissingCapability(members(text)?)),
            Outcome::TaskSupport(text) => Reply::Error(CallError::TaskSupport(text.clone())),
            Outcome::Internal => Reply::Error(CallError::Internal),
        })
    }
}

fn input_required(members: &Map<String, Value>) -> Result<Reply, String> {
    let requests = asks(members.get("requests"))?;
    Ok(Reply::InputRequired { requests, state: members.get("state").cloned() })
}

fn asks(all: Option<&Value>) -> Result<Vec<(String, Ask)>, String> {
    let mut requests = Vec::new();
    for (key, ask) in all.and_then(Value::as_object).into_iter().flatten() {
        let method = ask["method"].as_str().and_then(Method::parse).ok_or("an ask needs a method")?;
        let params = ask.get("params").cloned().map_or_else(Map::new, object);
        requests.push((key.clone(), Ask { method, params, is_optional: false }));
    }
    Ok(requests)
}

/// A task as the service knows it; it was made and last changed with the calendar's beginning.
fn task(value: &Value) -> Result<Task, String> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let span = |key: &str| value.get(key).and_then(Value::as_u64).map(Duration::from_millis);
    let state = match text("state").unwrap_or_default().as_str() {
        "working" => TaskState::Working,
        "input_required" => TaskState::InputRequired(asks(value.get("requests"))?),
        "completed" => TaskState::Completed(value.get("result").cloned().map_or_else(Map::new, object)),
        "failed" => TaskState::Failed(CallError::InvalidParams(text("reason").unwrap_or_default())),
        "cancelled" => TaskState::Cancelled,
        other => return Err(format!("no state of a task {other:?}")),
    };
    Ok(Task {
        id: text("id").ok_or("a task needs an id")?,
        state,
        message: text("message"),
        created_ms: BEGINNING_UNIX_MS,
        updated_ms: BEGINNING_UNIX_MS,
        ttl: span("ttl"),
        poll_interval: span("poll"),
    })
}

fn notice(value: &Value) -> Result<Notice, String> {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    if let Some(progress) = value.get("progress").and_then(Value::as_f64) {
        let total = value.get("total").and_then(Value::as_f64);
        return Ok(Notice::Progress { progress, total, message: text("message") });
    }
    let level =
        text("level").and_then(|level| LogLevel::parse(&level)).ok_or("neither progress nor level")?;
    Ok(Notice::Log { level, logger: text("logger"), data: value.get("data").cloned().unwrap_or_default() })
}
