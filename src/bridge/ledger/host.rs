//! What the host sends.

use super::{Ledger, PENDING_MAX, Pending, Purpose, Verdict};
use crate::{
    bridge::message::{self, Kind, Message},
    wire::RequestId,
};

impl Ledger {
    /// Takes note of a frame of the host's. Errors that the bridge gives itself go to `answers`.
    pub(in crate::bridge) fn host_sent(&mut self, frame: &[u8], answers: &mut Vec<Vec<u8>>) -> Verdict {
        let messages = Message::read_all(frame);
        if let [one] = &messages[..]
            && let Kind::Response { id, .. } = one.kind()
        {
            return self.answer_of_host(frame, one, &id);
        }
        for message in &messages {
            match message.kind_from_host() {
                Kind::Request { id, method } => {
                    if self.pending.len() >= PENDING_MAX {
                        answers.push(message::error(
                            &id,
                            "too many requests are waiting for an answer: call again later",
                        ));
                        return Verdict::Drop;
                    }
                    let purpose = Purpose::of(&method, message, frame);
                    self.pending.entry(id).or_insert(Pending { purpose, is_sent: true, until: None });
                }
                Kind::Notification { method } => match &*method {
                    "notifications/initialized" => {
                        if let Some(session) = &mut self.session {
                            session.is_ready = true;
                        }
                    }
                    "notifications/cancelled" => {
                        let Some(id) = message.params().request_id() else { continue };
                        if self.withdraw(&id) {
                            return Verdict::Drop;
                        }
                        // No answer is due any more; one that crosses the cancellation is dropped.
                        self.pending.remove(&id);
                    }
                    _ => {}
                },
                Kind::Response { .. } | Kind::Unattributed | Kind::Other => {}
            }
        }
        Verdict::Pass
    }

    /// An answer goes to the connection that asked, under the id that it used.
    fn answer_of_host(&mut self, frame: &[u8], message: &Message<'_>, id: &RequestId) -> Verdict {
        match self.asked.remove(id) {
            Some(None) => Verdict::Pass,
            Some(Some(token)) => match message.id_place(frame) {
                Some(place) => {
                    Verdict::Replace([&frame[..place.start], token.as_bytes(), &frame[place.end..]].concat())
                }
                None => Verdict::Drop,
            },
            None => {
                self.stale.remove(id);
                Verdict::Drop
            }
        }
    }
}
