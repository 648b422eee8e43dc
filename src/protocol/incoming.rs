//! Frames in: messages told apart, batches opened, each request routed to its era.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    About, BatchAnswers, Client, Connection, Now,
    batch::{Refusal, Slot, refusals},
    inflight::Holder,
    meta::{self, EnvelopeFault},
    rules::{self, Claim, Route, Situation},
};
use crate::{
    revision::Revision,
    wire::{
        Envelope, Frame, FrameError, Method, Notification, Request, RequestId, Response, RpcError,
        parse_frame,
    },
};

/// Longest text of a client that is repeated in a message.
const REPEATED_CHARS_MAX: usize = 128;
const NOT_A_MESSAGE: &str = "not a JSON-RPC message of this revision";

impl Connection {
    /// One frame arrived. Its size was checked by whoever cut it.
    pub fn handle_frame(&mut self, now: Now, bytes: &[u8]) {
        self.handle_parsed_frame(now, parse_frame(bytes));
    }

    /// One frame arrived that the binding parsed itself, to look at it first (HTTP compares it with the headers).
    pub fn handle_parsed_frame(&mut self, now: Now, frame: Result<Frame, FrameError>) {
        match frame {
            Ok(Frame::Single(envelope)) => self.take_in(now, envelope, None),
            Ok(Frame::Batch(elements)) => self.take_in_batch(now, elements),
            Err(error) => self.refuse_frame(Situation::NotJson, error.to_string()),
        }
    }

    /// A frame of `size_bytes` arrived, longer than allowed, and was skipped.
    pub fn handle_oversized_frame(&mut self, _now: Now, size_bytes: usize) {
        let limit_bytes = self.limits.frame_in_bytes_max;
        let error = FrameError::TooLarge { size_bytes, limit_bytes };
        self.refuse_frame(Situation::NotJson, error.to_string());
    }

    /// Takes up what had to wait for room.
    pub(super) fn resume(&mut self, now: Now) {
        while self.has_room() {
            let Some((envelope, slot)) = self.backlog.pop_front() else { return };
            self.process(now, envelope, slot);
        }
    }

    /// Whether a message need not wait until there is room for another request: it makes some, it belongs to a call that
    /// has some, or it is a request that is answered here and now. One about an id, or with the id, of a request that the
    /// core has not seen yet comes after that.
    #[must_use]
    pub fn needs_no_room(&self, envelope: &Envelope) -> bool {
        match envelope {
            Envelope::Request(request) => {
                matches!(rules::client_request(&request.method), Some(Method::Ping | Method::ServerDiscover))
                    && !self.is_pending(&request.id)
            }
            Envelope::Notification(notification) => {
                notification.method == Method::NotificationsCancelled.as_str()
                    && notification.request_id.as_ref().is_some_and(|id| self.is_pending(id))
            }
            Envelope::Response(_) => true,
            Envelope::Invalid { .. } => false,
        }
    }

    /// The same of the text of one frame.
    #[must_use]
    pub fn text_needs_no_room(&self, text: &str) -> bool {
        // Most that waits is a call, and need not be parsed twice.
        let may = !text.contains("\"method\"")
            || ["cancelled", "ping", "discover"].iter().any(|part| text.contains(part));
        may && matches!(
            parse_frame(text.as_bytes()),
            Ok(Frame::Single(envelope)) if self.needs_no_room(&envelope)
        )
    }

    /// Processes a message, or queues it behind what waits for room. What can free room, or takes none, never waits.
    fn take_in(&mut self, now: Now, envelope: Envelope, slot: Option<Slot>) {
        let waits = match &envelope {
            Envelope::Request(_) => {
                (!self.backlog.is_empty() || !self.has_room()) && !self.needs_no_room(&envelope)
            }
            Envelope::Notification(notification) => {
                let cancels = notification.request_id.as_ref().is_some_and(|id| {
                    self.inflight.holder(id).is_some() || self.waiting_request(id).is_some()
                });
                !self.backlog.is_empty() && !cancels
            }
            Envelope::Response(_) | Envelope::Invalid { .. } => false,
        };
        if waits {
            self.backlog.push_back((envelope, slot));
        } else {
            self.process(now, envelope, slot);
        }
    }

    fn process(&mut self, now: Now, envelope: Envelope, slot: Option<Slot>) {
        match envelope {
            Envelope::Request(request) => self.request(now, request, slot),
            Envelope::Notification(notification) => self.notification(now, notification),
            Envelope::Response(response) => self.response(now, response),
            Envelope::Invalid { id, reason } => self.invalid(id, &reason, slot),
        }
    }

    /// A JSON text that is no message: answered with its id where it has one that is free.
    fn invalid(&mut self, id: Option<RequestId>, reason: &str, slot: Option<Slot>) {
        match id {
            // The answer to this id belongs to the request in flight.
            Some(id) if self.inflight.holder(&id).is_none() && !self.is_too_long_to_echo(&id) => {
                let revision = self.session_revision();
                self.refuse(
                    revision,
                    &id,
                    slot,
                    Situation::NotAMessage,
                    format!("{NOT_A_MESSAGE}: {reason}"),
                );
            }
            Some(_) | None => {
                self.refuse_frame(Situation::NotAMessage, format!("{NOT_A_MESSAGE}: {reason}"));
                self.answer(slot, None);
            }
        }
    }

    /// Whether an answer with this id could not keep to the size of a frame.
    fn is_too_long_to_echo(&self, id: &RequestId) -> bool {
        id.token().len() > self.limits.frame_out_bytes_max / 2
    }

    /// Answers without an id, or stays silent where the revision's schema has no such answer.
    fn refuse_frame(&mut self, situation: Situation, reason: String) {
        self.count_refusal(situation);
        let revision = self.session_revision();
        if rules::error_may_lack_id(revision) {
            let error = RpcError::new(rules::code(situation, revision), reason);
            if let Some(frame) = self.seal_error(revision, None, &error) {
                self.send(frame, About::Frame, Some(error.code));
            }
        } else {
            self.warn("frame ignored, this revision has no error without an id", vec![("reason", reason)]);
        }
    }

    fn take_in_batch(&mut self, now: Now, elements: Vec<Envelope>) {
        if !rules::has_batches(self.session_revision()) {
            let reason =
                "an array of messages is only legal in a 2025-03-26 session: send one message per frame";
            self.refuse_frame(Situation::NotAMessage, reason.to_owned());
            return;
        }
        if elements.is_empty() {
            self.refuse_frame(Situation::NotAMessage, "a batch must hold at least one message".to_owned());
            return;
        }
        let answered = |element: &Envelope| match element {
            Envelope::Request(_) => true,
            Envelope::Invalid { id, .. } => id.is_some(),
            Envelope::Notification(_) | Envelope::Response(_) => false,
        };
        let places = elements.iter().filter(|element| answered(element)).count();
        let mut slots = match self.batch_answers {
            BatchAnswers::Array => self.batches.open(places),
            BatchAnswers::Frames => Vec::new(),
        }
        .into_iter();
        let refusals = refusals(&elements);
        for (element, refusal) in elements.into_iter().zip(refusals) {
            let slot = if answered(&element) { slots.next() } else { None };
            self.take_in_element(now, element, refusal.as_ref(), slot);
        }
    }

    fn take_in_element(
        &mut self,
        now: Now,
        element: Envelope,
        refusal: Option<&Refusal>,
        slot: Option<Slot>,
    ) {
        let Envelope::Request(request) = element else {
            match refusal {
                Some(_) => {
                    self.warn(
                        "part of a batch ignored, requests and responses must not be mixed",
                        Vec::new(),
                    );
                }
                None => self.take_in(now, element, slot),
            }
            return;
        };
        let reason = match refusal {
            Some(Refusal::Mixed) => "a batch holds either requests and notifications, or responses",
            Some(Refusal::SameId) => "another request of this batch has the same id",
            None if request.method == Method::Initialize.as_str() => {
                "`initialize` must not be part of a batch"
            }
            None if meta::claims_modern(&request.message) => {
                "2026-07-28 has no batches: send one message per frame"
            }
            None => return self.take_in(now, Envelope::Request(request), slot),
        };
        let revision = self.session_revision();
        self.refuse(revision, &request.id, slot, Situation::NotAMessage, reason.to_owned());
    }

    /// The era decision for one request.
    fn request(&mut self, now: Now, request: Request, slot: Option<Slot>) {
        let envelope = meta::envelope_of(&request.message);
        let claim = Claim::of(envelope.as_ref());
        let session_revision = self.session_revision();
        let revision = match claim {
            Claim::Absent => session_revision,
            Claim::Malformed | Claim::Unsupported | Claim::Valid => Some(Revision::V2026_07_28),
        };
        if self.inflight.holder(&request.id).is_some() {
            let reason = "a request with this id is still in flight: use a fresh id";
            return self.refuse(revision, &request.id, slot, Situation::IdInUse, reason.to_owned());
        }
        if self.is_too_long_to_echo(&request.id) {
            let reason = format!("{NOT_A_MESSAGE}: the id is too long to be repeated in an answer");
            self.refuse_frame(Situation::NotAMessage, reason);
            return self.answer(slot, None);
        }
        let method = rules::client_request(&request.method);
        match rules::route(claim, rules::class(method), session_revision.is_some()) {
            Route::Modern => match envelope {
                Some(Ok(envelope)) => {
                    let client = Client {
                        revision: envelope.revision,
                        info: envelope.client_info.cloned(),
                        capabilities: envelope.client_capabilities.clone(),
                    };
                    let log_level = envelope.log_level;
                    self.admit(now, client.revision, method, request, Arc::new(client), log_level, slot);
                }
                Some(Err(EnvelopeFault::Unsupported { requested })) => {
                    let supported: Vec<&str> =
                        Revision::MODERN.iter().map(|revision| revision.as_str()).collect();
                    let message = format!(
                        "{:?} is not served without a handshake: use {}, or open a session with `initialize`",
                        beginning(&requested),
                        supported.join(" or ")
                    );
                    let error = RpcError::new(rules::code(Situation::UnsupportedVersion, revision), message)
                        .with_data(json!({"supported": supported, "requested": requested}));
                    self.count_refusal(Situation::UnsupportedVersion);
                    self.answer_error(revision, &request.id, slot, &error);
                }
                Some(Err(EnvelopeFault::Malformed(reason))) => {
                    self.refuse(
                        revision,
                        &request.id,
                        slot,
                        Situation::BadParams,
                        format!("invalid params: {reason}"),
                    );
                }
                None => self.refuse(revision, &request.id, slot, Situation::NoSession, no_session()),
            },
            Route::Handshake => self.initialize(request, slot),
            Route::AlreadyInitialized => {
                let reason = "this connection has a session already: `initialize` comes once";
                self.refuse(
                    session_revision,
                    &request.id,
                    slot,
                    Situation::AlreadyInitialized,
                    reason.to_owned(),
                );
            }
            Route::Pong => self.ping(request, slot),
            Route::Unknown => self.unknown_method(session_revision, &request, slot),
            Route::NoSession => self.refuse(None, &request.id, slot, Situation::NoSession, no_session()),
            Route::Session => {
                let Some(session) = &self.session else { return };
                let (revision, client) = (session.revision, Arc::clone(&session.client));
                self.admit(now, revision, method, request, client, None, slot);
            }
        }
    }

    pub(super) fn unknown_method(
        &mut self,
        revision: Option<Revision>,
        request: &Request,
        slot: Option<Slot>,
    ) {
        let revision_text = revision.map_or(String::new(), |revision| format!(" in {revision}"));
        let name = beginning(&request.method);
        let reason = format!("no method {name:?}{revision_text} here");
        self.refuse(revision, &request.id, slot, Situation::UnknownMethod, reason);
    }

    fn notification(&mut self, now: Now, notification: Notification) {
        let Some(method) = Method::parse(&notification.method) else { return };
        let revision = self.session_revision();
        match method {
            Method::NotificationsCancelled => {
                // Either era's id, whatever the notification says of itself.
                let revision = revision.unwrap_or(Revision::V2026_07_28);
                let cancelled = self.gate.admit_notification(revision, method, notification);
                match cancelled {
                    Ok(notification) => {
                        if let Some(id) = notification.request_id() {
                            self.handle_cancel(now, id);
                        }
                    }
                    Err(violation) => {
                        self.warn(
                            "notification ignored, it does not fit its schema",
                            vec![("violation", violation.to_string())],
                        );
                    }
                }
            }
            Method::NotificationsInitialized if !meta::claims_modern(&notification.message) => {
                if let Some(session) = &mut self.session {
                    session.initialized = true;
                    self.release_held();
                }
            }
            // Roots and progress of the client are of no use here; a request without id is never executed.
            _ => {}
        }
    }

    pub(super) fn cancel(&mut self, holder: Holder) {
        match holder {
            Holder::Call(call) => self.cancel_call(call),
            Holder::Listen(listen) => self.cancel_listen(listen),
        }
    }

    fn response(&mut self, now: Now, response: Response) {
        let asker = response.id.as_ref().and_then(|id| self.inflight.asker(id));
        match (asker, response.id.clone()) {
            (Some(call), Some(id)) => self.answered(now, call, &id, response),
            _ => self.warn("response ignored, no request of ours waits for it", Vec::new()),
        }
    }
}

/// The first characters of what a client sent, to be repeated in a message.
pub(super) fn beginning(text: &str) -> String {
    match text.char_indices().nth(REPEATED_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn no_session() -> String {
    "neither a session nor the metadata of 2026-07-28: send `initialize` first, or put \
     `io.modelcontextprotocol/protocolVersion` and `io.modelcontextprotocol/clientCapabilities` into `params._meta`"
        .to_owned()
}

/// The value under `key`, where it is a string.
pub(super) fn text<'a>(members: &'a serde_json::Map<String, Value>, key: &str) -> Option<&'a str> {
    members.get(key).and_then(Value::as_str)
}
