//! What the bridge remembers: who waits for an answer, what a new connection must be told again. No I/O.

mod host;
mod replay;
mod server;
#[cfg(test)]
mod tests;
mod waiting;

use std::{
    collections::{HashMap, HashSet, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::message::{Kind, Message};
use crate::{protocol::error_may_lack_id, revision::Revision, wire::RequestId};

/// Requests that may wait for a connection.
const WAITING_MAX: usize = 64;
/// They wait for so long.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Requests without an answer, more than any server works on at once.
const PENDING_MAX: usize = 4_096;
/// Subscriptions that are made again.
const SUBSCRIPTIONS_MAX: usize = 1_024;

/// A request of the host's that has no answer yet.
struct Pending {
    purpose: Purpose,
    /// Whether it has left the bridge; else it waits for a connection.
    is_sent: bool,
    /// Until when it may wait for one, from when it had to for the first time.
    until: Option<Instant>,
}

/// What an answer means to the bridge.
enum Purpose {
    Initialize {
        params: String,
    },
    SetLevel {
        params: String,
    },
    Subscribe {
        uri: String,
        params: String,
    },
    Unsubscribe {
        uri: String,
    },
    /// Ends only with its connection: nobody waits for its answer, and it is made again on the next one.
    Listen {
        frame: Vec<u8>,
        is_acknowledged: bool,
    },
    Other,
}

/// The legacy session as the host knows it.
struct Session {
    /// `params` of its `initialize`.
    params: String,
    revision: String,
    /// Whether the host has said `initialized`.
    is_ready: bool,
    /// `params` of the last `logging/setLevel`.
    level: Option<String>,
    /// `params` of `resources/subscribe`, by URI.
    subscriptions: HashMap<String, String>,
}

/// A frame that no connection has taken yet.
struct Waiting {
    frame: Vec<u8>,
    requests: Vec<RequestId>,
    until: Instant,
}

/// What becomes of a frame.
pub(in crate::bridge) enum Verdict {
    Pass,
    /// Another frame goes in its place.
    Replace(Vec<u8>),
    Drop,
}

/// What an answer to one of the bridge's own requests says.
pub(in crate::bridge) enum Replayed {
    /// `initialize` was answered with the revision that the host knows.
    Session { revision: String },
    /// With another one.
    OtherRevision { was: String, is: String },
    /// Not at all.
    Refused,
}

/// What a frame of the server's is.
pub(in crate::bridge) struct Seen {
    pub(in crate::bridge) verdict: Verdict,
    pub(in crate::bridge) replayed: Option<Replayed>,
    /// A legacy session was opened by the host in this revision.
    pub(in crate::bridge) negotiated: Option<String>,
}

#[derive(Default)]
pub(in crate::bridge) struct Ledger {
    pending: HashMap<RequestId, Pending>,
    waiting: VecDeque<Waiting>,
    session: Option<Session>,
    /// Requests of the server's that the host has not answered: the id shown to the host, and the server's own token
    /// where it is another.
    asked: HashMap<RequestId, Option<Box<str>>>,
    /// Requests of connections that are gone, which the host may still answer.
    stale: HashSet<RequestId>,
    /// The bridge's own requests: `true` for `initialize`.
    own: HashMap<RequestId, bool>,
    made: u64,
}

impl Ledger {
    /// Whether the host's revision knows errors that name no request.
    pub(in crate::bridge) fn takes_error_without_id(&self) -> bool {
        error_may_lack_id(self.session.as_ref().and_then(|session| Revision::parse(&session.revision)))
    }

    /// Whether nobody waits for an answer.
    pub(in crate::bridge) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
            && self.pending.values().all(|pending| matches!(pending.purpose, Purpose::Listen { .. }))
    }
}

impl Purpose {
    fn of(method: &str, message: &Message<'_>, frame: &[u8]) -> Self {
        let params = || message.raw_params().unwrap_or("{}").to_owned();
        let uri = || message.params().uri().map(std::borrow::Cow::into_owned);
        match method {
            "initialize" => Self::Initialize { params: params() },
            "logging/setLevel" => Self::SetLevel { params: params() },
            "resources/subscribe" => {
                uri().map_or(Self::Other, |uri| Self::Subscribe { uri, params: params() })
            }
            "resources/unsubscribe" => uri().map_or(Self::Other, |uri| Self::Unsubscribe { uri }),
            "subscriptions/listen" => Self::Listen { frame: frame.to_vec(), is_acknowledged: false },
            _ => Self::Other,
        }
    }
}

/// Ids of the requests among `messages`.
fn requests(messages: &[Message<'_>]) -> Vec<RequestId> {
    messages
        .iter()
        .filter_map(|message| match message.kind() {
            Kind::Request { id, .. } => Some(id),
            _ => None,
        })
        .collect()
}
