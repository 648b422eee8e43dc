//! The sessions in memory, and the ids that are good for nothing any more.
//!
//! An id that is signed by our key and not expired brings its session back on every instance, without log level,
//! subscriptions and streams. That a session was deleted is noted in the store, which is asked for an id that is not in
//! memory, and for no other. Where the store does not say so in time, the id opens an empty session of its principal once
//! more; so it does where another instance still has the session in memory, until that leaves it.

use std::{
    collections::HashMap,
    hash::BuildHasher as _,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{
    knock::Tended as _,
    session::Session,
    session_id::{Nonce, SessionId, noted_as},
};
use crate::{access::Entrant, limits::NetworkLimits, transport::Host, transport::http::server::Site};

const SHARDS: usize = 16;
/// Deleted sessions that are remembered; beyond it the one that expires first is forgotten.
const DELETED_MAX: usize = 16_384;
/// Time-outs are looked after this often, or more often where they are short.
const ROUND_MAX: Duration = Duration::from_secs(1);
const ROUND_MIN: Duration = Duration::from_millis(10);
/// How long a DELETE waits until the other instances may know.
const NOTED_MAX: Duration = Duration::from_secs(2);
/// How long a session that is not in memory waits for the word that it was deleted.
const ASKED_MAX: Duration = Duration::from_millis(500);

type Shard = RwLock<HashMap<Box<str>, Arc<Session>>>;

/// All sessions of a listener.
#[derive(Default)]
pub(in crate::transport::http) struct Sessions {
    hasher: std::hash::RandomState,
    shards: [Shard; SHARDS],
    count: AtomicUsize,
    next_victims: AtomicUsize,
    deleted: Mutex<HashMap<Nonce, u64>>,
    has_keeper: AtomicBool,
}

/// What the memory knows of an id.
pub(super) enum Known {
    /// Its session.
    Session(Arc<Session>),
    /// It has one, but not for this client, or not any more.
    Refused,
    /// Nothing: the id itself may tell.
    Absent,
}

/// No session can be opened: all that are in memory are in use.
pub(super) struct Full;

impl Sessions {
    /// Looks for the session of an id in memory.
    pub(super) fn known(&self, host: &Host, entrant: &Entrant, id: &str) -> Known {
        let known = self.shard(id).read().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        let Some(session) = known else { return Known::Absent };
        if !session.belongs_to(entrant) {
            return Known::Refused;
        }
        if session.is_expired((host.clock)().unix_ms) {
            session.delete();
            self.remove(id, &session);
            return Known::Refused;
        }
        Known::Session(session)
    }

    /// The session that an id tells of; `None` for every id that is not good for `entrant`.
    pub(super) async fn restore(
        &self,
        host: &Arc<Host>,
        entrant: &Entrant,
        id: &str,
    ) -> Result<Option<Arc<Session>>, Full> {
        let signer = host.signer_for(entrant).await;
        let Some(read) = SessionId::read(&signer, id) else { return Ok(None) };
        if read.is_expired((host.clock)().unix_ms) || self.is_deleted(&read.nonce) {
            return Ok(None);
        }
        if was_deleted_elsewhere(host, entrant, &read).await {
            self.note_deleted(read.nonce, read.expires_unix_s);
        }
        // Also here, meanwhile.
        if self.is_deleted(&read.nonce) {
            return Ok(None);
        }
        let session = Session::restore(host, entrant, signer, &read);
        self.insert(host, id, session).map(Some)
    }

    /// Takes a session into memory; where the id has one already, that one counts.
    pub(super) fn insert(&self, host: &Host, id: &str, session: Arc<Session>) -> Result<Arc<Session>, Full> {
        if self.count.load(Ordering::Relaxed) >= host.network_limits.http_sessions_max && !self.make_room() {
            host.metrics.refused("too-many-sessions");
            return Err(Full);
        }
        let mut shard = self.shard(id).write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = shard.get(id) {
            return Ok(Arc::clone(known));
        }
        shard.insert(id.into(), Arc::clone(&session));
        self.count.fetch_add(1, Ordering::Relaxed);
        Ok(session)
    }

    /// Ends a session for good, and waits until the other instances may know, for a bounded time.
    pub(super) async fn delete(&self, host: &Arc<Host>, entrant: &Entrant, id: &str, session: &Arc<Session>) {
        self.note_deleted(session.nonce, session.expires_unix_s());
        session.delete();
        self.remove(id, session);
        let Some(store) = host.ended.clone() else { return };
        let (scope, name, now) = (host.scope_of(entrant), noted_as(&session.nonce), now(host));
        let Ok(expires) =
            i64::try_from(session.expires_unix_s()).map_or(Ok(Timestamp::MAX), Timestamp::from_second)
        else {
            return;
        };
        // Whether the client waits for its answer or not.
        let noting = host.runtime.spawn(async move {
            if let Err(error) = store.end_session(&scope, &name, expires, now).await {
                warn!(%error, "other instances do not learn that a session of HTTP was deleted");
            }
        });
        // It goes on.
        let _ = timeout(NOTED_MAX, noting).await;
    }

    fn is_deleted(&self, nonce: &Nonce) -> bool {
        self.deleted.lock().unwrap_or_else(PoisonError::into_inner).contains_key(nonce)
    }

    fn note_deleted(&self, nonce: Nonce, expires_unix_s: u64) {
        let mut deleted = self.deleted.lock().unwrap_or_else(PoisonError::into_inner);
        if deleted.len() >= DELETED_MAX
            && let Some(first) = deleted.iter().min_by_key(|(_, expires)| **expires).map(|(nonce, _)| *nonce)
        {
            deleted.remove(&first);
        }
        deleted.insert(nonce, expires_unix_s);
    }

    /// Forgets a session that is over; its id may have another one already.
    pub(super) fn remove(&self, id: &str, session: &Arc<Session>) {
        let mut shard = self.shard(id).write().unwrap_or_else(PoisonError::into_inner);
        if shard.get(id).is_some_and(|known| Arc::ptr_eq(known, session)) {
            shard.remove(id);
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Has somebody look after what has to happen at its time, as long as there are sessions.
    pub(super) fn keep(site: &Arc<Site>) {
        let has_keeper = &site.sessions.has_keeper;
        if has_keeper.load(Ordering::Relaxed) || has_keeper.swap(true, Ordering::AcqRel) {
            return;
        }
        let (site, host) = (Arc::downgrade(site), Arc::clone(&site.host));
        let round = round(&host);
        let runtime = host.runtime.clone();
        runtime.spawn(async move {
            let (mut stops, mut cuts_off) = (false, false);
            loop {
                tokio::select! {
                    () = tokio::time::sleep(round) => {}
                    () = host.stopping.cancelled(), if !stops => stops = true,
                    () = host.cut_off.cancelled(), if !cuts_off => cuts_off = true,
                }
                let Some(site) = site.upgrade() else { return };
                let sessions = &site.sessions;
                sessions.sweep(&host);
                if sessions.count.load(Ordering::Acquire) == 0 {
                    sessions.has_keeper.store(false, Ordering::Release);
                    // A session that came meanwhile found a keeper and must not be left with none.
                    let is_needed = sessions.count.load(Ordering::Acquire) > 0;
                    if !is_needed || sessions.has_keeper.swap(true, Ordering::AcqRel) {
                        return;
                    }
                }
            }
        });
    }

    /// Tends every session, and puts those out of memory that nobody uses.
    fn sweep(&self, host: &Host) {
        let now = (host.clock)();
        let idle_max = host.network_limits.http_session_idle;
        for shard in &self.shards {
            let sessions: Vec<(Box<str>, Arc<Session>)> = shard
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .map(|(id, session)| (id.clone(), Arc::clone(session)))
                .collect();
            for (id, session) in sessions {
                session.tend();
                if session.is_expired(now.unix_ms) {
                    session.delete();
                }
                let is_stale = session
                    .idle_since()
                    .is_some_and(|used| now.monotonic.saturating_duration_since(used) >= idle_max);
                if session.over().is_some() || (is_stale && session.evict()) {
                    self.remove(&id, &session);
                }
            }
        }
        let now_unix_s = now.unix_ms / 1000;
        self.deleted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|_, expires| *expires > now_unix_s);
    }

    /// Puts the session out of memory that was idle for longest, of the first shard that has one.
    fn make_room(&self) -> bool {
        for _ in 0..SHARDS {
            let index = self.next_victims.fetch_add(1, Ordering::Relaxed) % SHARDS;
            let oldest = self.shards[index]
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .filter_map(|(id, session)| Some((session.idle_since()?, id.clone(), Arc::clone(session))))
                .min_by_key(|(used, ..)| *used);
            if let Some((_, id, session)) = oldest
                && session.evict()
            {
                self.remove(&id, &session);
                return true;
            }
        }
        false
    }

    fn shard(&self, id: &str) -> &Shard {
        &self.shards[self.hasher.hash_one(id) as usize % SHARDS]
    }
}

/// Whether the store says so.
async fn was_deleted_elsewhere(host: &Host, entrant: &Entrant, id: &SessionId) -> bool {
    let Some(store) = &host.ended else { return false };
    let (scope, name) = (host.scope_of(entrant), noted_as(&id.nonce));
    match timeout(ASKED_MAX, store.is_session_ended(&scope, &name, now(host))).await {
        Ok(Ok(is_ended)) => is_ended,
        Ok(Err(error)) => {
            debug!(%error, "whether a session was deleted elsewhere is not known");
            false
        }
        Err(_) => {
            debug!("whether a session was deleted elsewhere was not told in time");
            false
        }
    }
}

fn now(host: &Host) -> Timestamp {
    let now = i64::try_from((host.clock)().unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    now.unwrap_or(Timestamp::MAX)
}

/// How often sessions are looked after: often enough for the shortest of their time-outs.
fn round(host: &Host) -> Duration {
    let NetworkLimits { http_session_idle, .. } = host.network_limits;
    let limits = &host.connection_limits;
    let shortest = http_session_idle.min(limits.call_deadline).min(limits.ask_deadline);
    (shortest / 4).clamp(ROUND_MIN, ROUND_MAX)
}
