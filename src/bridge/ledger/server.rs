//! What the server sends.

use std::collections::{HashMap, hash_map::Entry};

use super::{Ledger, Purpose, SUBSCRIPTIONS_MAX, Seen, Session, Verdict};
use crate::{
    bridge::message::{Kind, Message},
    wire::RequestId,
};

impl Ledger {
    /// Takes note of a frame of the server's.
    pub(in crate::bridge) fn server_sent(&mut self, frame: &[u8]) -> Seen {
        let pass = |verdict| Seen { verdict, replayed: None, negotiated: None };
        let messages = Message::read_all(frame);
        let [message] = &messages[..] else {
            // Answers to a batch travel together; each still counts.
            let mut answered = 0;
            for message in &messages {
                if let Kind::Response { id, .. } = message.kind() {
                    answered += usize::from(self.pending.remove(&id).is_some());
                }
            }
            return pass(if answered > 0 { Verdict::Pass } else { Verdict::Drop });
        };
        match message.kind() {
            Kind::Response { id, succeeded } => {
                if let Some(is_initialize) = self.own.remove(&id) {
                    if !succeeded {
                        tracing::warn!("the server refused part of what a new connection must be told again");
                    }
                    let replayed = is_initialize.then(|| self.replayed(message));
                    return Seen { verdict: Verdict::Drop, replayed, negotiated: None };
                }
                let Some(pending) = self.pending.remove(&id) else {
                    tracing::debug!("an answer to nothing was dropped");
                    return pass(Verdict::Drop);
                };
                let negotiated = if succeeded { self.learn(pending.purpose, message) } else { None };
                Seen { verdict: Verdict::Pass, replayed: None, negotiated }
            }
            Kind::Request { id, .. } => pass(self.ask(frame, message, id)),
            Kind::Notification { method } if &*method == "notifications/cancelled" => {
                pass(self.cancelled_by_server(message))
            }
            Kind::Notification { method } if &*method == "notifications/subscriptions/acknowledged" => {
                pass(self.acknowledged(message))
            }
            Kind::Unattributed if !self.takes_error_without_id() => {
                tracing::warn!("the server refused a frame; this revision has no error without an id");
                pass(Verdict::Drop)
            }
            Kind::Notification { .. } | Kind::Unattributed => pass(Verdict::Pass),
            Kind::Other => {
                tracing::warn!(bytes = frame.len(), "the server sent what is no message; it was dropped");
                pass(Verdict::Drop)
            }
        }
    }

    /// A request of the server's: under its own id, unless the host may still answer an older one with that id.
    fn ask(&mut self, frame: &[u8], message: &Message<'_>, id: RequestId) -> Verdict {
        if !self.stale.contains(&id) {
            self.asked.insert(id, None);
            return Verdict::Pass;
        }
        let Some(place) = message.id_place(frame) else { return Verdict::Drop };
        let shown = self.own_id();
        let replaced = [&frame[..place.start], shown.token().as_bytes(), &frame[place.end..]].concat();
        self.asked.insert(shown, Some(id.token().into()));
        Verdict::Replace(replaced)
    }

    /// A subscription stands. The host is told the first time only, not when it was made again.
    fn acknowledged(&mut self, message: &Message<'_>) -> Verdict {
        let subscription = message.params().subscription().and_then(|id| self.pending.get_mut(&id));
        match subscription.map(|pending| &mut pending.purpose) {
            Some(Purpose::Listen { is_acknowledged, .. }) => {
                if std::mem::replace(is_acknowledged, true) {
                    Verdict::Drop
                } else {
                    Verdict::Pass
                }
            }
            _ => Verdict::Pass,
        }
    }

    /// The server takes a request back, under the id that the host knows.
    fn cancelled_by_server(&mut self, message: &Message<'_>) -> Verdict {
        let Some(id) = message.params().request_id() else { return Verdict::Pass };
        let shown = self.asked.iter().find_map(|(shown, token)| {
            let is_it = token.as_deref().and_then(RequestId::from_token).is_some_and(|own| own == id);
            is_it.then(|| shown.clone())
        });
        match shown {
            None => {
                self.asked.remove(&id);
                Verdict::Pass
            }
            Some(shown) => {
                self.asked.remove(&shown);
                Verdict::Replace(
                    format!(
                        r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{}}}}}"#,
                        shown.token()
                    )
                    .into_bytes(),
                )
            }
        }
    }

    /// Keeps what the next connection must be told; the revision, where a session was opened.
    fn learn(&mut self, purpose: Purpose, message: &Message<'_>) -> Option<String> {
        match (purpose, &mut self.session) {
            (Purpose::Initialize { params }, session) => {
                let revision = message.negotiated()?.into_owned();
                *session = Some(Session {
                    params,
                    revision: revision.clone(),
                    is_ready: false,
                    level: None,
                    subscriptions: HashMap::new(),
                });
                return Some(revision);
            }
            (Purpose::SetLevel { params }, Some(session)) => session.level = Some(params),
            (Purpose::Subscribe { uri, params }, Some(session)) => {
                let room = session.subscriptions.len() < SUBSCRIPTIONS_MAX;
                match session.subscriptions.entry(uri) {
                    Entry::Occupied(mut entry) => {
                        entry.insert(params);
                    }
                    Entry::Vacant(entry) if room => {
                        entry.insert(params);
                    }
                    Entry::Vacant(_) => {
                        tracing::warn!("too many subscriptions: a new connection will lack some");
                    }
                }
            }
            (Purpose::Unsubscribe { uri }, Some(session)) => {
                session.subscriptions.remove(&uri);
            }
            _ => {}
        }
        None
    }
}
