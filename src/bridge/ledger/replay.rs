//! What a new connection is told again, under ids of the bridge's own.

use super::{Ledger, PENDING_MAX, Replayed};
use crate::{
    bridge::message::{self, Message},
    wire::RequestId,
};

impl Ledger {
    pub(super) fn own_id(&mut self) -> RequestId {
        loop {
            self.made += 1;
            let id =
                RequestId::from_token(&format!("\"tmws-connect-{}\"", self.made)).expect("a JSON string");
            if !self.pending.contains_key(&id) && !self.asked.contains_key(&id) && !self.stale.contains(&id) {
                return id;
            }
        }
    }

    pub(super) fn replayed(&self, message: &Message<'_>) -> Replayed {
        match (message.negotiated(), &self.session) {
            (Some(is), Some(session)) if is == session.revision => {
                Replayed::Session { revision: is.into_owned() }
            }
            (Some(is), Some(session)) => {
                Replayed::OtherRevision { was: session.revision.clone(), is: is.into_owned() }
            }
            _ => Replayed::Refused,
        }
    }

    /// Opens the host's session anew; `None` where it has none.
    pub(in crate::bridge) fn replay_initialize(&mut self) -> Option<Vec<u8>> {
        self.own.clear();
        self.session.as_ref()?;
        let id = self.own_id();
        let session = self.session.as_ref()?;
        let frame = message::request(&id, "initialize", Some(&session.params));
        self.own.insert(id, true);
        Some(frame)
    }

    /// What brings the new session to where the old one was.
    pub(in crate::bridge) fn replay_rest(&mut self) -> Vec<Vec<u8>> {
        let Some(session) = self.session.as_ref().filter(|session| session.is_ready) else {
            return Vec::new();
        };
        let mut calls = Vec::new();
        calls.extend(session.level.clone().map(|params| ("logging/setLevel", params)));
        calls.extend(session.subscriptions.values().cloned().map(|params| ("resources/subscribe", params)));
        let mut frames = vec![br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.to_vec()];
        for (method, params) in calls {
            let id = self.own_id();
            frames.push(message::request(&id, method, Some(&params)));
            self.own.insert(id, false);
        }
        frames
    }

    /// What the server asked under the session that is gone needs no answer any more.
    pub(in crate::bridge) fn forget_asked(&mut self, answers: &mut Vec<Vec<u8>>) {
        self.own.clear();
        for (id, _) in self.asked.drain() {
            answers.push(
                format!(
                    r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{},"reason":"the connection to the server was lost"}}}}"#,
                    id.token()
                )
                .into_bytes(),
            );
            if self.stale.len() < PENDING_MAX {
                self.stale.insert(id);
            }
        }
    }
}
