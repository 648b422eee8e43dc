//! Asking the client: `input_required` in the modern era, requests of ours in the legacy one.

use serde_json::{Map, Value, json};

use super::{
    About, Answers, Ask, CallId, Client, Connection, Now,
    connection::BACKSTOP,
    fit,
    inflight::{InFlight, OpenAsk, Stage},
    replies::{Outcome, missing_capability},
    rules::{self, Situation},
    signer::{REQUEST_STATE_BYTES_MAX, State},
    tasks,
};
use crate::{
    revision::{Era, Revision},
    schema::Sealed,
    wire::{Method, RequestId, Response, RpcError},
};

/// Most rounds of asking for one legacy call: a service that never has enough must end.
const ROUNDS_MAX: u32 = 16;
/// Longest text of a client's error that is repeated.
const CLIENT_MESSAGE_CHARS_MAX: usize = 200;

/// The client capability that an ask needs, as far as `declared` lacks it.
///
/// `elicitation: {}` means forms; URL mode must be declared by name and exists from 2025-11-25.
fn lacking(revision: Revision, declared: &Map<String, Value>, ask: &Ask) -> Option<Value> {
    let member = |name: &str| declared.get(name).and_then(Value::as_object);
    match ask.method {
        Method::RootsList => member("roots").is_none().then(|| json!({"roots": {}})),
        Method::SamplingCreateMessage => match member("sampling") {
            None if ask.params.contains_key("tools") => Some(json!({"sampling": {"tools": {}}})),
            None => Some(json!({"sampling": {}})),
            Some(sampling)
                if revision >= Revision::V2025_11_25
                    && ask.params.contains_key("tools")
                    && !sampling.contains_key("tools") =>
            {
                Some(json!({"sampling": {"tools": {}}}))
            }
            Some(_) => None,
        },
        Method::ElicitationCreate => {
            let by_url = ask.params.get("mode").and_then(Value::as_str) == Some("url");
            let elicitation = member("elicitation").filter(|_| Method::ElicitationCreate.exists_in(revision));
            let understands = elicitation.is_some_and(|modes| {
                if by_url {
                    modes.contains_key("url")
                } else {
                    modes.contains_key("form") || !modes.contains_key("url")
                }
            });
            let mode = if by_url { "url" } else { "form" };
            (!understands).then(|| json!({"elicitation": {mode: {}}}))
        }
        // Nothing that can be asked: the gate says so.
        _ => None,
    }
}

impl Client {
    /// The capability that the client would have to declare to be asked `ask`, as an object of capabilities; `None` where
    /// it can be asked.
    #[must_use]
    pub fn lacks(&self, ask: &Ask) -> Option<Value> {
        lacking(self.revision, &self.capabilities, ask)
    }
}

/// Adds the members of `more` to `all`, objects within objects.
fn merge(all: &mut Map<String, Value>, more: Value) {
    let Value::Object(more) = more else { return };
    for (key, value) in more {
        match all.get_mut(&key) {
            Some(Value::Object(inner)) => merge(inner, value),
            Some(_) | None => {
                all.insert(key, value);
            }
        }
    }
}

/// Leaves out what the client did not declare to understand and may be left out.
fn fit_to_capabilities(declared: &Map<String, Value>, ask: &mut Ask) {
    let has_context = declared.get("sampling").is_some_and(|sampling| sampling.get("context").is_some());
    if ask.method == Method::SamplingCreateMessage && !has_context {
        ask.params.shift_remove("includeContext");
    }
}

/// Asks as they stand in `inputRequests`.
pub(super) struct Shown {
    /// The requests, by key.
    pub(super) requests: Map<String, Value>,
    /// Their methods, by key.
    pub(super) asked: Map<String, Value>,
    /// What the client would have to declare for those that were left out.
    pub(super) required: Map<String, Value>,
}

impl Connection {
    /// The service needs something of the client before it can go on.
    pub(super) fn input_required(
        &mut self,
        now: Now,
        call: InFlight,
        requests: Vec<(String, Ask)>,
        state: Option<Value>,
    ) {
        if !rules::may_ask(call.method()) || (requests.is_empty() && state.is_none()) {
            self.bug(
                "ask withheld, there is nothing to ask or nobody to be asked",
                vec![("method", call.method().as_str().to_owned())],
            );
            return self.answer_internal(Some(call.revision()), call.id(), call.slot);
        }
        match call.revision().era() {
            Era::Modern => self.require_input(now, &call, requests, state),
            Era::Legacy => self.ask_client(now, call, requests, state),
        }
    }

    /// Modern era: the asks travel in the result, the client comes back with the answers.
    fn require_input(
        &mut self,
        now: Now,
        call: &InFlight,
        requests: Vec<(String, Ask)>,
        state: Option<Value>,
    ) {
        let (revision, method) = (call.revision(), call.method());
        let wants = !requests.is_empty();
        let Some(Shown { requests: shown, asked, required }) =
            self.show_asks(revision, &call.client.capabilities, requests)
        else {
            return self.answer_internal(Some(revision), call.id(), call.slot);
        };
        if wants && shown.is_empty() {
            let outcome = missing_capability(call, required);
            return self.finish(call, outcome);
        }
        let expires = now.unix_ms.saturating_add(self.limits.request_state_ttl.as_millis() as u64);
        let state =
            self.signer.state(revision, method, call.request.params(), expires, State { asked, state });
        if state.len() > REQUEST_STATE_BYTES_MAX {
            self.bug("ask withheld, its state is too large", vec![("size_bytes", state.len().to_string())]);
            return self.answer_internal(Some(revision), call.id(), call.slot);
        }
        let mut result = Map::new();
        result.insert("resultType".to_owned(), json!("input_required"));
        if !shown.is_empty() {
            result.insert("inputRequests".to_owned(), Value::Object(shown));
        }
        result.insert("requestState".to_owned(), json!(state));
        self.answer_result(revision, method, call.id(), call.slot, result);
    }

    /// Modern era: asks fitted to what the client declared; those that it cannot answer are left out. `None` where one is
    /// wrong, which is our bug and logged.
    pub(super) fn show_asks(
        &mut self,
        revision: Revision,
        declared: &Map<String, Value>,
        requests: Vec<(String, Ask)>,
    ) -> Option<Shown> {
        let (mut shown, mut asked, mut required) = (Map::new(), Map::new(), Map::new());
        for (key, mut ask) in requests {
            if let Some(lacking) = lacking(revision, declared, &ask) {
                merge(&mut required, lacking);
                continue;
            }
            fit_to_capabilities(declared, &mut ask);
            let fitted = fit::ask(revision, ask.method, &mut ask.params);
            let checked = self.gate.check_input_request(revision, ask.method, &ask.params);
            if let (Err(_), _) | (_, Err(_)) = (&fitted, &checked) {
                let violation = checked.err().map_or_else(String::new, |violation| violation.to_string());
                self.bug("ask withheld, it does not fit its schema", vec![("violation", violation)]);
                return None;
            }
            asked.insert(key.clone(), json!(ask.method.as_str()));
            let mut request = json!({"method": ask.method.as_str()});
            if !ask.params.is_empty() {
                request["params"] = Value::Object(ask.params);
            }
            shown.insert(key, request);
        }
        Some(Shown { requests: shown, asked, required })
    }

    /// Legacy era: the asks are requests of ours, the same call is dispatched again with the answers.
    fn ask_client(
        &mut self,
        now: Now,
        mut call: InFlight,
        requests: Vec<(String, Ask)>,
        state: Option<Value>,
    ) {
        call.rounds += 1;
        if call.rounds > ROUNDS_MAX {
            let reason = format!("asked the client more than {ROUNDS_MAX} times and was stopped");
            let outcome = call.failure("limit_exceeded", reason);
            return self.finish(&call, outcome);
        }
        if requests.is_empty() {
            return self.dispatch_again(now, call, Map::new(), state);
        }
        if self.is_eof || self.inflight.asking() >= self.limits.inflight_requests_max {
            let reason = if self.is_eof {
                "the client cannot be asked any more: the connection ends"
            } else {
                "too many requests wait for the client already: answer those first, then call again"
            };
            let outcome = call.failure("busy", reason.to_owned());
            return self.finish(&call, outcome);
        }
        let mut asks = Vec::with_capacity(requests.len());
        for (key, ask) in requests {
            let is_optional = ask.is_optional;
            match self.prepare_ask(now, &call, ask) {
                Ok((method, id, frame)) => asks.push((OpenAsk { id, key, method, is_optional }, frame)),
                Err(outcome) => return self.finish(&call, outcome),
            }
        }
        let (open, frames): (Vec<OpenAsk>, Vec<Sealed>) = asks.into_iter().unzip();
        let ids: Vec<RequestId> = open.iter().map(|ask| ask.id.clone()).collect();
        call.stage = Stage::Asking { open, responses: Map::new(), state };
        call.deadline = now.monotonic + self.limits.ask_deadline;
        let about = About::Request { id: call.id().clone(), is_answer: false };
        let name = self.inflight.insert(call);
        for (id, frame) in ids.into_iter().zip(frames) {
            self.inflight.open_ask(id.clone(), name);
            self.send_unasked(frame, about.clone(), Some(id));
        }
    }

    /// Seals one request of ours, or says how the call ends because it cannot be made.
    fn prepare_ask(
        &mut self,
        now: Now,
        call: &InFlight,
        mut ask: Ask,
    ) -> Result<(Method, RequestId, Sealed), Outcome> {
        let revision = call.revision();
        if let Some(Value::Object(required)) = lacking(revision, &call.client.capabilities, &ask) {
            return Err(missing_capability(call, required));
        }
        if let Err(reason) = fit::ask(revision, ask.method, &mut ask.params) {
            let reason = format!("the client cannot be asked this: {reason}");
            return Err(match call.failure("denied", reason) {
                Outcome::Error(error) => Outcome::Error(RpcError {
                    code: rules::code(Situation::MissingCapability, Some(revision)),
                    ..error
                }),
                result @ Outcome::Result(_) => result,
            });
        }
        fit_to_capabilities(&call.client.capabilities, &mut ask);
        self.next_ask += 1;
        if ask.method == Method::ElicitationCreate
            && revision == Revision::V2025_11_25
            && ask.params.get("mode").and_then(Value::as_str) == Some("url")
        {
            // The one revision where a URL elicitation has an id of the server's.
            let id = self.signer.elicitation_id(now.unix_ms, self.next_ask);
            ask.params.entry("elicitationId").or_insert_with(|| json!(id));
        }
        if let Some(task) = tasks::related(call) {
            tasks::relate(&mut ask.params, task);
        }
        let id = RequestId::from_integer(self.next_ask);
        match self.gate.seal_request(revision, ask.method, &id, ask.params) {
            Ok(frame) if frame.as_bytes().len() <= self.limits.frame_out_bytes_max => {
                Ok((ask.method, id, frame))
            }
            Ok(frame) => {
                let (size_bytes, limit) = (frame.as_bytes().len(), self.limits.frame_out_bytes_max);
                let reason = format!(
                    "would ask the client with {size_bytes} bytes, more than the {limit} that one message may have"
                );
                Err(call.failure("limit_exceeded", reason))
            }
            Err(violation) => {
                self.bug(
                    "ask withheld, it does not fit its schema",
                    vec![("violation", violation.to_string())],
                );
                Err(Outcome::Error(RpcError::new(
                    rules::code(Situation::Internal, Some(revision)),
                    "internal error: the server's log has the details",
                )))
            }
        }
    }

    /// The client answered one of our requests.
    pub(super) fn answered(&mut self, now: Now, name: CallId, id: &RequestId, response: Response) {
        let Some(call) = self.inflight.get_mut(name) else { return };
        let revision = call.revision();
        let Stage::Asking { open, .. } = &mut call.stage else { return };
        let Some(index) = open.iter().position(|ask| ask.id == *id) else { return };
        let OpenAsk { key, method, is_optional, .. } = open.remove(index);
        let done = open.is_empty();
        self.inflight.close_ask(id);
        let refusal = |error: &Value| {
            let message = error.get("message").and_then(Value::as_str).unwrap_or_default();
            let message: String = message.chars().take(CLIENT_MESSAGE_CHARS_MAX).collect();
            format!("the client answered {} with an error: {message}", method.as_str())
        };
        let admitted = match self.gate.admit_answer(revision, method, response) {
            Ok(Err(error)) if is_optional => Ok(Ok(Value::String(refusal(&error)))),
            admitted => admitted,
        };
        match admitted {
            Ok(Ok(result)) => {
                let Some(call) = self.inflight.get_mut(name) else { return };
                if let Stage::Asking { responses, .. } = &mut call.stage {
                    responses.insert(key, result);
                }
                if done && let Some(mut call) = self.inflight.remove(name) {
                    let stage = std::mem::replace(&mut call.stage, Stage::Running);
                    if let Stage::Asking { responses, state, .. } = stage {
                        self.dispatch_again(now, call, responses, state);
                    }
                }
            }
            Ok(Err(error)) => {
                self.fail_asker(name, &refusal(&error));
            }
            Err(violation) => {
                self.warn(
                    "answer of the client refused, it does not fit its schema",
                    vec![("violation", violation.to_string())],
                );
                self.fail_asker(name, &format!("the client's answer to {} is {violation}", method.as_str()));
            }
        }
        self.resume(now);
    }

    pub(super) fn dispatch_again(
        &mut self,
        now: Now,
        mut call: InFlight,
        responses: Map<String, Value>,
        state: Option<Value>,
    ) {
        call.stage = Stage::Running;
        call.is_retry = true;
        call.deadline = now.monotonic + self.deadline_of(call.method()) + BACKSTOP;
        self.dispatch(call, Some(Answers { responses, state }));
    }

    /// Ends every call that waits for the client.
    pub(super) fn fail_asking(&mut self, reason: &str) {
        for name in self.inflight.names() {
            if self.inflight.get(name).is_some_and(|call| matches!(call.stage, Stage::Asking { .. })) {
                self.fail_asker(name, reason);
            }
        }
    }

    /// Ends a call that waits for the client, and takes its other asks back.
    pub(super) fn fail_asker(&mut self, name: CallId, reason: &str) {
        let Some(call) = self.inflight.remove(name) else { return };
        if let Stage::Asking { open, .. } = &call.stage {
            self.withdraw(&call, open, reason);
        }
        let outcome = call.failure("program_failed", reason.to_owned());
        self.finish(&call, outcome);
    }

    /// Tells the client that asks need no answer any more; those not sent yet are never sent.
    pub(super) fn withdraw(&mut self, call: &InFlight, open: &[OpenAsk], reason: &str) {
        for ask in open {
            let held_before = self.held.len();
            self.held.retain(|held| held.ask.as_ref() != Some(&ask.id));
            if self.held.len() < held_before || self.is_eof {
                continue;
            }
            let mut params = Map::new();
            params.insert("requestId".to_owned(), ask.id.to_value());
            params.insert("reason".to_owned(), json!(reason));
            if let Some(task) = tasks::related(call) {
                tasks::relate(&mut params, task);
            }
            if let Some(frame) =
                self.seal_notification(call.revision(), Method::NotificationsCancelled, params)
            {
                let about = About::Request { id: call.id().clone(), is_answer: false };
                self.send(frame, about, None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ask_needs_its_capability() {
        let object = |value: Value| value.as_object().unwrap().clone();
        let ask = |method, params: Value| Ask { method, params: object(params), is_optional: false };
        let roots = || ask(Method::RootsList, json!({}));
        let sampling = || ask(Method::SamplingCreateMessage, json!({}));
        let tools = || ask(Method::SamplingCreateMessage, json!({"tools": []}));
        let form = || ask(Method::ElicitationCreate, json!({"message": "m"}));
        let url = || ask(Method::ElicitationCreate, json!({"mode": "url"}));
        let (c, d) = (Revision::V2025_06_18, Revision::V2025_11_25);
        let table = [
            (d, json!({}), roots(), Some(json!({"roots": {}}))),
            (d, json!({"roots": {}}), roots(), None),
            (d, json!({}), sampling(), Some(json!({"sampling": {}}))),
            (d, json!({"sampling": {}}), sampling(), None),
            (d, json!({"sampling": {}}), tools(), Some(json!({"sampling": {"tools": {}}}))),
            (d, json!({"sampling": {"tools": {}}}), tools(), None),
            (c, json!({"sampling": {}}), tools(), None),
            (d, json!({}), form(), Some(json!({"elicitation": {"form": {}}}))),
            (d, json!({"elicitation": {}}), form(), None),
            (d, json!({"elicitation": {"form": {"applyDefaults": true}}}), form(), None),
            (d, json!({"elicitation": {"url": {}}}), form(), Some(json!({"elicitation": {"form": {}}}))),
            (d, json!({"elicitation": {}}), url(), Some(json!({"elicitation": {"url": {}}}))),
            (d, json!({"elicitation": {"url": {}}}), url(), None),
            (
                Revision::V2025_03_26,
                json!({"elicitation": {}}),
                form(),
                Some(json!({"elicitation": {"form": {}}})),
            ),
        ];
        for (revision, declared, ask, expected) in table {
            assert_eq!(lacking(revision, &object(declared.clone()), &ask), expected, "{declared} {ask:?}");
        }
    }

    #[test]
    fn required_capabilities_merge_into_one_object() {
        let mut all = Map::new();
        for more in
            [json!({"elicitation": {"form": {}}}), json!({"elicitation": {"url": {}}}), json!({"roots": {}})]
        {
            merge(&mut all, more);
        }
        assert_eq!(Value::Object(all), json!({"elicitation": {"form": {}, "url": {}}, "roots": {}}));
    }
}
