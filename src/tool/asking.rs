//! Asking the client of a call: once, in every era.
//!
//! A task waits for its answers. A call that is no task ends with [`Reply::InputRequired`] and comes again: towards
//! 2026-07-28 by the client's retry, towards older revisions by the core, which asks in between. What was answered in
//! earlier rounds travels in the reply's state.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::tasks::{NotAsked, Worker};
use crate::{
    engine::{Answer, Asker, EngineError, ErrorKind, NotAnswered, Question},
    hex::hex,
    protocol::{Ask, Call, CallError, Client, Reply},
    revision::{Era, Revision},
    wire::Method,
};

/// Rounds of one call at most.
const ROUNDS_MAX: u64 = 16;
/// Answers that one call may carry along, in bytes of JSON: the state travels in base64, signed, in 64 KiB.
const STATE_BYTES_MAX: usize = 32 << 10;

/// Asks the client of one call.
pub(super) struct ClientAsker {
    client: Arc<Client>,
    worker: Option<Worker>,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    /// Rounds before this one.
    rounds: u64,
    /// What was answered, by key.
    answered: Map<String, Value>,
    /// What is to be asked after this run.
    open: Vec<Open>,
    /// What the client would have to declare, and the error that says so.
    missing: Option<(Map<String, Value>, String)>,
}

struct Open {
    key: String,
    ask: Ask,
    /// Tells this question from another under the same key.
    mark: String,
}

impl ClientAsker {
    /// Asks the client of `call`, which may have answered in earlier rounds.
    pub(super) fn new(call: &Call, worker: Option<Worker>) -> Self {
        let mut book = Book::default();
        if let Some(answers) = &call.answers
            && let Some(Value::Object(state)) = &answers.state
        {
            book.rounds = state.get("rounds").and_then(Value::as_u64).unwrap_or(0);
            if let Some(Value::Object(answered)) = state.get("answered") {
                book.answered.clone_from(answered);
            }
            for (key, mark) in state.get("asked").and_then(Value::as_object).into_iter().flatten() {
                if let Some(result) = answers.responses.get(key) {
                    book.answered.insert(key.clone(), json!({"mark": mark, "result": essence(result)}));
                }
            }
        }
        Self { client: Arc::clone(&call.client), worker, book: Mutex::new(book) }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reply of a call whose run was suspended.
    ///
    /// # Errors
    /// `limit_exceeded`: too many rounds, or too much to carry along.
    pub(super) fn reply(&self) -> Result<Reply, EngineError> {
        let mut book = self.book();
        let open = std::mem::take(&mut book.open);
        if book.rounds >= ROUNDS_MAX {
            return Err(too_much(format!(
                "the client was asked {ROUNDS_MAX} times for one call, which is as often as may be"
            )));
        }
        let asked: Map<String, Value> =
            open.iter().map(|open| (open.key.clone(), json!(open.mark))).collect();
        let state = json!({"rounds": book.rounds + 1, "answered": book.answered, "asked": asked});
        if state.to_string().len() > STATE_BYTES_MAX {
            return Err(too_much(format!(
                "the answers so far have more than {} KiB, and a call carries no more along",
                STATE_BYTES_MAX >> 10
            )));
        }
        let requests = open.into_iter().map(|open| (open.key, open.ask)).collect();
        Ok(Reply::InputRequired { requests, state: Some(state) })
    }

    /// The reply of a call that failed with `error` because the client of the modern era lacks a capability.
    pub(super) fn missing_capability(&self, error: &EngineError) -> Option<Reply> {
        let book = self.book();
        let (required, reason) = book.missing.as_ref()?;
        let is_why = error.kind == ErrorKind::Denied && error.message.ends_with(reason.as_str());
        (is_why && self.client.revision.era() == Era::Modern)
            .then(|| Reply::Error(CallError::MissingCapability(required.clone())))
    }

    /// What an earlier round, or an earlier question of the task, brought.
    fn at_hand(&self, key: &str, mark: &str) -> Option<Value> {
        let book = self.book();
        let entry = book.answered.get(key)?;
        (entry.get("mark")? == mark).then(|| entry.get("result").cloned()).flatten()
    }

    fn record(&self, key: &str, ask: Ask, mark: String) {
        let mut book = self.book();
        if !book.open.iter().any(|open| open.key == key) {
            book.open.push(Open { key: key.to_owned(), ask, mark });
        }
    }
}

#[async_trait]
impl Asker for ClientAsker {
    async fn ask(&self, key: &str, question: Question) -> Result<Answer, NotAnswered> {
        let ask = ask_of(&question);
        if let Some(Value::Object(required)) = self.client.lacks(&ask) {
            let reason = unable(self.client.revision, &question);
            self.book().missing = Some((required, reason.clone()));
            return Err(NotAnswered::Unable(reason));
        }
        let mark = mark(&question);
        if let Some(result) = self.at_hand(key, &mark) {
            return answer(&question, &result);
        }
        if let Some(worker) = self.worker.as_ref().filter(|worker| worker.waits()) {
            match worker.ask(vec![(key.to_owned(), ask.clone())]).await {
                Ok(answers) => {
                    let result = answers.get(key).map(essence).unwrap_or_default();
                    return answer(&question, &result);
                }
                Err(NotAsked::Ended) => return Err(NotAnswered::Failed("the task has ended".to_owned())),
                // There was no room for a task: then as any call.
                Err(NotAsked::Plain) => {}
            }
        }
        self.record(key, ask, mark);
        Err(NotAnswered::Later)
    }

    fn completes(&self) -> bool {
        let any = Question::Completion { system: None, prompt: String::new(), max_tokens: 1 };
        self.client.lacks(&ask_of(&any)).is_none()
    }
}

/// The request that asks `question`, in the newest shape.
fn ask_of(question: &Question) -> Ask {
    let (method, params) = match question {
        Question::Form { message, schema } => (
            Method::ElicitationCreate,
            json!({"mode": "form", "message": message, "requestedSchema": schema}),
        ),
        Question::Completion { system, prompt, max_tokens } => {
            let mut params = json!({
                "messages": [{"role": "user", "content": {"type": "text", "text": prompt}}],
                "maxTokens": max_tokens,
            });
            if let Some(system) = system {
                params["systemPrompt"] = json!(system);
            }
            (Method::SamplingCreateMessage, params)
        }
    };
    let Value::Object(params) = params else { unreachable!("made an object above") };
    Ask { method, params, is_optional: true }
}

/// Tells a form from another one under the same key: what the user agreed to is what is acted on. A prompt may differ
/// between rounds in what it quotes; its completion holds.
fn mark(question: &Question) -> String {
    match question {
        Question::Form { message, schema } => {
            let digest = Sha256::digest(format!("{message}\0{schema}").as_bytes());
            hex(&digest[..12])
        }
        Question::Completion { .. } => "completion".to_owned(),
    }
}

/// What is kept of a client's result.
fn essence(result: &Value) -> Value {
    let kept = ["action", "content", "model"];
    match result {
        // Why an older client did not answer.
        Value::String(_) => result.clone(),
        Value::Object(members) => members
            .iter()
            .filter(|(name, _)| kept.contains(&name.as_str()))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect::<Map<_, _>>()
            .into(),
        _ => Value::Null,
    }
}

fn answer(question: &Question, result: &Value) -> Result<Answer, NotAnswered> {
    if let Value::String(refusal) = result {
        return Err(NotAnswered::Failed(refusal.clone()));
    }
    match question {
        Question::Form { .. } => match result.get("action").and_then(Value::as_str) {
            Some("accept") => {
                let mut content =
                    result.get("content").and_then(Value::as_object).cloned().unwrap_or_default();
                // Some clients send null for what was left empty.
                content.retain(|_, value| !value.is_null());
                Ok(Answer::Accepted(content))
            }
            Some("decline") => Ok(Answer::Declined),
            Some("cancel") => Ok(Answer::Dismissed),
            _ => Err(NotAnswered::Failed("the client's answer to a form has no action".to_owned())),
        },
        Question::Completion { .. } => {
            let text = texts(result.get("content"));
            if text.is_empty() {
                return Err(NotAnswered::Failed(
                    "the client's language model answered without a text".to_owned(),
                ));
            }
            let model = result.get("model").and_then(Value::as_str).unwrap_or_default();
            Ok(Answer::Completed { text, model: model.chars().take(100).collect() })
        }
    }
}

/// The texts of one block or several.
fn texts(content: Option<&Value>) -> String {
    let text = |block: &Value| match block.get("type").and_then(Value::as_str) {
        Some("text") => block.get("text").and_then(Value::as_str).map(str::to_owned),
        _ => None,
    };
    match content {
        Some(Value::Array(blocks)) => blocks.iter().filter_map(text).collect(),
        Some(block) => text(block).unwrap_or_default(),
        None => String::new(),
    }
}

/// Why a client of `revision` cannot be asked.
fn unable(revision: Revision, question: &Question) -> String {
    let revision = revision.as_str();
    match question {
        Question::Form { .. } => format!(
            "this client cannot ask its user: it speaks {revision} without the capability `elicitation` (forms, \
             from 2025-06-18 on); use a client that has it, or run the pattern with `tmws run` in a terminal"
        ),
        Question::Completion { .. } => format!(
            "this client has no language model to ask: it speaks {revision} without the capability `sampling`; \
             use a client that has it, or configure llm.url and llm.model"
        ),
    }
}

fn too_much(message: String) -> EngineError {
    EngineError { kind: ErrorKind::LimitExceeded, message, part: None, retry_after: None, receipt: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form() -> Question {
        Question::Form { message: "which?".to_owned(), schema: json!({"type": "object"}) }
    }

    fn completion() -> Question {
        Question::Completion { system: Some("s".to_owned()), prompt: "p".to_owned(), max_tokens: 9 }
    }

    #[test]
    fn answers_are_read_in_every_shape_that_clients_send() {
        let Value::Object(content) = json!({"a": 1}) else { unreachable!("an object") };
        for (question, result, expected) in [
            (
                form(),
                json!({"action": "accept", "content": {"a": 1, "b": null}}),
                Some(Answer::Accepted(content)),
            ),
            (form(), json!({"action": "accept"}), Some(Answer::Accepted(Map::new()))),
            (form(), json!({"action": "decline", "content": null}), Some(Answer::Declined)),
            (form(), json!({"action": "cancel"}), Some(Answer::Dismissed)),
            (form(), json!({"action": "maybe"}), None),
            (form(), json!(null), None),
            (
                completion(),
                json!({"role": "assistant", "model": "m", "content": {"type": "text", "text": "yes"}}),
                Some(Answer::Completed { text: "yes".to_owned(), model: "m".to_owned() }),
            ),
            (
                completion(),
                json!({"model": "m", "content": [{"type": "text", "text": "y"}, {"type": "image"}, {"type": "text", "text": "es"}]}),
                Some(Answer::Completed { text: "yes".to_owned(), model: "m".to_owned() }),
            ),
            (completion(), json!({"model": "m", "content": {"type": "image"}}), None),
            (completion(), json!({"action": "accept"}), None),
            (completion(), json!("the client answered with an error"), None),
        ] {
            assert_eq!(answer(&question, &essence(&result)).ok(), expected, "{result}");
        }
    }

    #[test]
    fn another_question_under_the_same_key_is_asked_anew() {
        let other = Question::Form { message: "which now?".to_owned(), schema: json!({"type": "object"}) };
        assert_ne!(mark(&form()), mark(&other));
        assert_eq!(mark(&form()), mark(&form()));
    }
}
