//! Requests without an answer: those that wait for a connection, and those whose connection is gone.

use tokio::time::Instant;

use super::{Ledger, Purpose, WAIT_MAX, WAITING_MAX, Waiting, requests};
use crate::{
    bridge::message::{self, Kind, Message},
    wire::RequestId,
};

impl Ledger {
    /// Forgets a request that waits for a connection, because the host cancelled it.
    pub(super) fn withdraw(&mut self, id: &RequestId) -> bool {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| waiting.requests != [id.clone()]);
        let withdrawn = self.waiting.len() < before;
        if withdrawn {
            self.pending.remove(id);
        }
        withdrawn
    }

    /// Keeps `frame` for the next connection. What is no request waits only in the company of one.
    pub(in crate::bridge) fn wait(
        &mut self,
        frame: Vec<u8>,
        now: Instant,
        answers: &mut Vec<Vec<u8>>,
        why: &str,
    ) {
        if let Some(waiting) = self.keep(frame, now, answers, why) {
            self.waiting.push_back(waiting);
        }
    }

    /// The same, before all that waits already.
    pub(in crate::bridge) fn wait_first(
        &mut self,
        frame: Vec<u8>,
        now: Instant,
        answers: &mut Vec<Vec<u8>>,
        why: &str,
    ) {
        if let Some(waiting) = self.keep(frame, now, answers, why) {
            self.waiting.push_front(waiting);
        }
    }

    fn keep(
        &mut self,
        frame: Vec<u8>,
        now: Instant,
        answers: &mut Vec<Vec<u8>>,
        why: &str,
    ) -> Option<Waiting> {
        let messages = Message::read_all(&frame);
        if messages.iter().any(|message| self.is_own(message)) {
            // It is said again in any case.
            return None;
        }
        let requests = requests(&messages);
        let mut until = now + WAIT_MAX;
        for id in &requests {
            let Some(pending) = self.pending.get_mut(id) else { continue };
            pending.is_sent = false;
            // However often no connection takes it: it waits no longer than that.
            if !matches!(pending.purpose, Purpose::Listen { .. }) {
                until = until.min(*pending.until.get_or_insert(until));
            }
        }
        if self.waiting.len() < WAITING_MAX {
            return Some(Waiting { frame, requests, until });
        }
        for id in requests {
            self.fail(
                &id,
                &format!("{why}; {WAITING_MAX} requests wait for it already: call again later"),
                answers,
            );
        }
        None
    }

    /// Whether the bridge made the message itself, for a connection that is gone.
    fn is_own(&self, message: &Message<'_>) -> bool {
        match message.kind() {
            Kind::Request { id, .. } => self.own.contains_key(&id),
            Kind::Notification { method } => {
                method == "notifications/initialized"
                    && self.session.as_ref().is_some_and(|session| session.is_ready)
            }
            Kind::Response { .. } | Kind::Unattributed | Kind::Other => false,
        }
    }

    /// The next frame that waits; it leaves now.
    pub(in crate::bridge) fn next_waiting(&mut self) -> Option<Vec<u8>> {
        let waiting = self.waiting.pop_front()?;
        for id in &waiting.requests {
            if let Some(pending) = self.pending.get_mut(id) {
                pending.is_sent = true;
            }
        }
        Some(waiting.frame)
    }

    /// When the first of those that wait has waited long enough.
    pub(in crate::bridge) fn next_timeout(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.until).min()
    }

    /// Answers what has waited until `now`, or all that waits.
    pub(in crate::bridge) fn expire(&mut self, now: Option<Instant>, why: &str, answers: &mut Vec<Vec<u8>>) {
        for waiting in std::mem::take(&mut self.waiting) {
            if now.is_some_and(|now| waiting.until > now) {
                self.waiting.push_back(waiting);
                continue;
            }
            for id in &waiting.requests {
                self.fail(id, &format!("{why}. This request was not sent"), answers);
            }
        }
    }

    /// Answers the requests in `frame`, which will not be sent.
    pub(in crate::bridge) fn refuse(&mut self, frame: &[u8], why: &str, answers: &mut Vec<Vec<u8>>) {
        for id in requests(&Message::read_all(frame)) {
            self.fail(&id, &format!("{why}. This request was not carried out"), answers);
        }
    }

    /// Nothing more will come for `requests`: those that have no answer get one.
    pub(in crate::bridge) fn unanswered(
        &mut self,
        requests: &[RequestId],
        why: &str,
        answers: &mut Vec<Vec<u8>>,
    ) {
        for id in requests {
            self.fail(id, why, answers);
        }
    }

    pub(super) fn fail(&mut self, id: &RequestId, why: &str, answers: &mut Vec<Vec<u8>>) {
        // The table has the id as the host wrote it first.
        if let Some((id, _)) = self.pending.remove_entry(id) {
            answers.push(message::error(&id, why));
        }
    }

    /// The connection is gone: answers what was in flight there, and takes back what the server had asked.
    pub(in crate::bridge) fn lose(&mut self, now: Instant, why: &str, answers: &mut Vec<Vec<u8>>) {
        let lost: Vec<RequestId> =
            self.pending.iter().filter(|(_, pending)| pending.is_sent).map(|(id, _)| id.clone()).collect();
        for id in lost {
            if let Some(Purpose::Listen { frame, .. }) = self.pending.get(&id).map(|pending| &pending.purpose)
            {
                let frame = frame.clone();
                self.wait(frame, now, answers, why);
                continue;
            }
            self.fail(
                &id,
                &format!(
                    "{why} while this request was in flight. It may or may not have been carried out; it was not sent \
                     again: whether to call again is up to you"
                ),
                answers,
            );
        }
        self.forget_asked(answers);
    }

    /// Answers everything: the bridge ends.
    pub(in crate::bridge) fn fail_all(&mut self, why: &str, answers: &mut Vec<Vec<u8>>) {
        self.waiting.clear();
        let all: Vec<RequestId> = self.pending.keys().cloned().collect();
        for id in all {
            self.fail(&id, why, answers);
        }
    }
}
