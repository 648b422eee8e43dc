//! What the server says, judged as it comes.

use serde_json::{Value, json};

use super::{
    message::{self, Kind},
    player::Player,
    rules::Rule,
    script::{Act, header, subject},
};
use crate::{
    revision::{Era, Revision},
    schema::check_server_message,
    wire::Method,
};

impl Player<'_> {
    /// One message of the server; over HTTP it came in the response of `step`, unless the player asked for that by itself.
    pub(super) fn hear(&mut self, lane: usize, step: Option<usize>, message: Value) {
        // What it is told of under.
        let at = step.unwrap_or(self.now);
        match message::kind(&message) {
            Kind::Answer { id: Some(id) } => {
                let id = id.clone();
                self.answer(lane, step, &id, message);
            }
            Kind::Answer { id: None } => {
                self.lanes[lane].strays += 1;
                let revision = self.revision_of(lane);
                self.judge(at, revision, None, &message);
                self.unasked.push(message);
            }
            Kind::Request { id, method } => {
                let (id, method) = (id.clone(), method.to_owned());
                self.asked(lane, at, id, &method, message);
            }
            Kind::Notification { method } => {
                let is_progress = method == "notifications/progress";
                if let Some(about) = subject(&message) {
                    let now = self.now;
                    let (count, last) = self.lanes[lane].notices.entry(about).or_default();
                    if *count == 0 || *last != now {
                        (*count, *last) = (*count + 1, now);
                    }
                }
                if is_progress {
                    self.progress(lane, step, message);
                } else {
                    let revision = self.revision_of(lane);
                    self.judge(at, revision, None, &message);
                    self.unasked.push(message);
                }
            }
            Kind::Other => {}
        }
    }

    /// The revision of what belongs to no request.
    fn revision_of(&self, lane: usize) -> Revision {
        let lane = &self.lanes[lane];
        lane.revision.or(lane.claimed).unwrap_or(Revision::LATEST_LEGACY)
    }

    /// The revision that a request was sent under.
    pub(super) fn revision_of_request(&self, asked: usize, answer: &Value) -> Revision {
        let asked = &self.script.asked[asked];
        if let Some(claim) = message::claim(&asked.message) {
            return Revision::parse(claim).unwrap_or(Revision::V2026_07_28);
        }
        if asked.method == "initialize" {
            let negotiated = answer["result"]["protocolVersion"].as_str().and_then(Revision::parse);
            return negotiated.unwrap_or(Revision::LATEST_LEGACY);
        }
        self.lanes[asked.lane].revision.unwrap_or(Revision::LATEST_LEGACY)
    }

    fn judge(&mut self, at: usize, revision: Revision, asked: Option<Method>, message: &Value) {
        if let Err(violation) = check_server_message(revision, asked, message) {
            self.find(at, Rule::Schema, "", violation.to_string(), Some(message));
        }
    }

    fn answer(&mut self, lane: usize, stream: Option<usize>, id: &Value, answer: Value) {
        let sent = self.lanes[lane].sent.get(&id.to_string()).cloned().unwrap_or_default();
        // The newest, as in the recording: an id that is still in use is refused, one that was cancelled comes again.
        let open = sent.iter().rev().copied().find(|asked| self.got[*asked].answers.is_empty());
        let Some(asked) = open.or_else(|| sent.last().copied()) else {
            let text = format!("an answer to request {id} came, and there is none");
            self.find(stream.unwrap_or(self.now), Rule::Once, "/id", text, Some(&answer));
            return;
        };
        let step = self.script.asked[asked].step;
        let method = &self.script.asked[asked].method;
        if self.is_astray(lane, stream, step) {
            let text =
                format!("the answer to request {id} ({method}) came in the response of another request");
            self.find(step, Rule::Stream, "", text, Some(&answer));
        }
        let revision = self.revision_of_request(asked, &answer);
        let known = Method::parse(method);
        let is_initialize = method == "initialize";
        if open.is_none() {
            let count = self.got[asked].answers.len() + 1;
            let text = format!("request {id} ({method}) has {count} answers");
            self.find(step, Rule::Once, "", text, Some(&answer));
        } else if let Some(recorded) = &self.script.asked[asked].answer {
            self.handles.learn(recorded, &answer);
        }
        if is_initialize && answer.get("result").is_some() {
            self.lanes[lane].revision = Some(revision);
        }
        // A result of a method that nobody knows cannot be judged; an error can.
        if known.is_some() || answer.get("error").is_some() {
            self.judge(step, revision, known, &answer);
        }
        self.got[asked].answers.push(answer);
    }

    /// Whether what belongs to the request of `step` came in the response `stream`, where it must not: over Streamable
    /// HTTP it comes in the response of its own request, or in one that resumes that.
    fn is_astray(&self, lane: usize, stream: Option<usize>, step: usize) -> bool {
        if !self.speaks_http() || self.lanes[lane].is_http_sse() || stream == Some(step) {
            return false;
        }
        let resumes = |stream: usize| {
            matches!(&self.script.steps[stream].act, Act::Fetch(exchange)
                if header(&exchange.headers, "last-event-id").is_some())
        };
        !stream.is_some_and(resumes)
    }

    fn progress(&mut self, lane: usize, stream: Option<usize>, message: Value) {
        let token = &message["params"]["progressToken"];
        let Some(asked) = self.lanes[lane].tokens.get(&token.to_string()).copied() else {
            let text = format!("progress came for token {token}, which no request brought");
            self.find(
                stream.unwrap_or(self.now),
                Rule::Progress,
                "/params/progressToken",
                text,
                Some(&message),
            );
            return;
        };
        let step = self.script.asked[asked].step;
        let revision = self.revision_of_request(asked, &Value::Null);
        self.judge(step, revision, None, &message);
        if self.is_astray(lane, stream, step) {
            let text = format!("progress for token {token} came in the response of another request");
            self.find(step, Rule::Stream, "", text, Some(&message));
        }
        let got = &self.got[asked];
        // A task goes on reporting after the answer that named it.
        let is_over = got.answers.iter().any(|answer| {
            let result = &answer["result"];
            result.get("task").is_none() && result["resultType"] != "task"
        });
        let now = message["params"]["progress"].as_f64().unwrap_or_default();
        let (furthest, is_first) = (got.furthest, got.progress.is_empty());
        if is_over {
            let text = format!("progress came after request {} was answered", self.script.asked[asked].id);
            self.find(step, Rule::Progress, "", text, Some(&message));
        } else if !is_first && now < furthest {
            let text = format!("progress went back from {furthest} to {now}");
            self.find(step, Rule::Progress, "/params/progress", text, Some(&message));
        }
        let got = &mut self.got[asked];
        got.furthest = now;
        got.progress.push(message);
    }

    /// A request of the server: judged, and answered as the recording answers it.
    fn asked(&mut self, lane: usize, at: usize, id: Value, method: &str, message: Value) {
        let revision = self.revision_of(lane);
        self.judge(at, revision, None, &message);
        let state = &self.lanes[lane];
        let wrong = if revision.era() == Era::Modern && state.revision.is_none() {
            Some(format!("it asked for {method}, and a server of {revision} sends no requests"))
        } else if state.server_ids.contains(&id) {
            Some(format!("it used id {id} for two requests of its own"))
        } else {
            needed(method).filter(|capability| state.capabilities.get(*capability).is_none()).map(
                |capability| format!("it asked for {method}, and the client did not declare `{capability}`"),
            )
        };
        if let Some(text) = wrong {
            self.find(at, Rule::Requests, "", text, Some(&message));
        }
        self.lanes[lane].server_ids.push(id.clone());
        self.unasked.push(message);
        let now = self.script.steps[self.now].line;
        let script = self.script;
        let recorded = script.replies.iter().enumerate().find(|(index, reply)| {
            reply.lane == lane && reply.method == method && !self.lanes[lane].replied.contains(index)
        });
        if let Some((index, reply)) = recorded {
            self.lanes[lane].replied.push(index);
            let mut answer = reply.message.clone();
            answer["id"] = id;
            self.reply(lane, answer, reply.http.as_ref());
        } else if method == "ping" {
            self.note(now, "the server's ping was answered, as every client does".to_owned());
            self.reply(lane, json!({"jsonrpc": "2.0", "id": id, "result": {}}), None);
        } else {
            self.note(
                now,
                format!(
                    "the server asked for {method}, which the recording does not answer: refused with -32601"
                ),
            );
            let error = json!({"code": -32601, "message": "the recording has no answer to this"});
            self.reply(lane, json!({"jsonrpc": "2.0", "id": id, "error": error}), None);
        }
    }
}

/// The capability that a client must have declared to be asked for this.
fn needed(method: &str) -> Option<&'static str> {
    match method {
        "roots/list" => Some("roots"),
        "sampling/createMessage" => Some("sampling"),
        "elicitation/create" => Some("elicitation"),
        _ => None,
    }
}
