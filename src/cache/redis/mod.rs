//! The second layer: Redis, alone, behind Sentinel, or a cluster.
//!
//! Entries lie under `tmws:1:{<project>}:<digest>`; those of a project lie together, also in a cluster. Nothing is opened
//! before the first use, and from then on a task keeps connections to every server that holds entries. A call never waits
//! for a connection to be made but once, at the first use; and a server that once leaves a question unanswered is not
//! asked again until a new connection to it stands. So a Redis that is gone, or hangs, costs those who wait at that
//! moment, and nobody after.

mod link;
mod news;
mod nodes;
mod scripts;
mod trial;
mod trouble;
mod url;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use redis::{Cmd, ErrorKind, FromRedisValue, ServerErrorKind, cmd};
use tokio::{
    sync::{broadcast::Receiver, watch},
    time::timeout_at,
};
use tokio_util::task::AbortOnDropHandle;

use self::{
    link::{Live, Node},
    news::News,
    nodes::{AskedOnes, Keeper, Map, Tried, slot},
    scripts::Procedure,
    trouble::Trouble,
    url::{Kind, Place},
};
use super::{CacheLimits, Invalidation, Key, Lease, SecondLayer, Told};
use crate::{
    cache::REDIS_NOTE,
    hex::hex,
    resilience::{self, Breaker, Permit},
};

pub use url::RedisUrl;

/// What keys of entries begin with.
const PREFIX: &str = "tmws:1:";
/// Both connections to a server must stand within so long.
const CONNECT_MAX: Duration = Duration::from_millis(300);
/// An answer comes within so long.
const ANSWER_MAX: Duration = Duration::from_millis(100);
/// Who waited so long in vain has learnt that the server does not answer; who gives it less learns nothing.
const ENOUGH: Duration = Duration::from_millis(75);
/// For so long after its end a lease that nobody else took still lets its holder put.
const LEASE_KEPT: Duration = Duration::from_mins(1);
/// For so long after there was no room for an entry that is told of, unless another one is kept before.
const FULL_FOR: Duration = Duration::from_secs(30);
/// For so long a refusal is told of, unless a command is answered before.
const REFUSED_FOR: Duration = Duration::from_mins(5);
/// No more often than this the log says that commands are refused.
const LOG_AGAIN: Duration = Duration::from_mins(1);
/// What was refused is over when nothing was for so long.
const CALM: Duration = Duration::from_secs(1);

/// What was done since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedisFigures {
    /// Commands sent.
    pub commands: u64,
    /// Of these, those that failed, unanswered ones included.
    pub failures: u64,
    /// Of these, those that were not answered in time, or that nobody waited for any more.
    pub timeouts: u64,
    /// Commands that were not sent: no connection stood.
    pub skipped: u64,
    /// How long commands were waited for, in all.
    pub waited: Duration,
    /// Connections made to a server that had been connected before, or to one that took over from such a one.
    pub reconnects: u64,
    /// Entries that servers told of as changed by others.
    pub invalidations: u64,
    /// Servers that hold entries.
    pub nodes: u64,
    /// Of these, those that are connected and tell what changes.
    pub connected: u64,
    /// Of these, those that take no writes.
    pub refusing: u64,
}

/// What was answered of one operation; a failure that the server tells of is an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// Answers.
    pub count: u64,
    /// How long they took, from the command being sent, together.
    pub waited: Duration,
}

/// What the cache does with its second layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Get,
    Put,
    Lease,
    GiveBack,
}

impl Operation {
    /// The labels, in the order of the variants.
    const LABELS: [&str; 4] = ["get", "put", "lease", "give_back"];

    const fn writes(self) -> bool {
        !matches!(self, Self::Get)
    }
}

#[derive(Default)]
struct Counts {
    commands: AtomicU64,
    failures: AtomicU64,
    timeouts: AtomicU64,
    skipped: AtomicU64,
    waited_us: AtomicU64,
    /// Answers by operation, and their microseconds.
    answered: [(AtomicU64, AtomicU64); Operation::LABELS.len()],
}

/// Answers in Redis.
pub struct Redis {
    url: RedisUrl,
    value_bytes_max: usize,
    breaker: Arc<Breaker>,
    news: Arc<News>,
    map: Arc<RwLock<Arc<Map>>>,
    tried: watch::Sender<Tried>,
    asked: Arc<Mutex<AskedOnes>>,
    keeper: Mutex<Keeping>,
    is_started: AtomicBool,
    said: Mutex<Said>,
    counts: Counts,
}

/// What a server refused a command for.
#[derive(Debug)]
struct Refused {
    trouble: Trouble,
    operation: Operation,
    node: Weak<Node>,
    /// Which servers there were; with others it is over.
    map: Weak<Map>,
    at: Instant,
}

/// What commands say of servers that answer. What connections say is theirs to tell.
#[derive(Debug, Default)]
struct Said {
    /// What the last one was refused for, which that was, and when.
    refused: Option<Refused>,
    /// When there was no room for an entry.
    full: Option<Instant>,
    /// When anything was refused last, and when the log was told; until that is over.
    logged: Option<(Instant, Instant)>,
}

impl Said {
    fn refuse(
        &mut self,
        trouble: Trouble,
        operation: Operation,
        (node, map): (&Arc<Node>, &Arc<Map>),
        now: Instant,
    ) {
        if trouble == Trouble::Full {
            self.full = Some(now);
        } else {
            let (node, map) = (Arc::downgrade(node), Arc::downgrade(map));
            self.refused = Some(Refused { trouble, operation, node, map, at: now });
        }
        let told = match self.logged {
            Some((_, told)) if now.saturating_duration_since(told) < LOG_AGAIN => told,
            _ => {
                tracing::warn!(reason = %trouble, "Redis refuses commands of the cache");
                now
            }
        };
        self.logged = Some((now, told));
    }

    /// That reads are answered says nothing of writes, nor the other way round, nor one server anything of another.
    fn answer(&mut self, operation: Operation, node: &Arc<Node>, now: Instant) {
        self.refused.take_if(|refused| {
            // A server that knows no cluster around it serves nothing.
            let is_alike = refused.operation == operation || refused.trouble == Trouble::ClusterDown;
            is_alike && std::ptr::eq(refused.node.as_ptr(), Arc::as_ptr(node))
        });
        let Some((last, _)) = self.logged else { return };
        if self.trouble(now).is_none() && now.saturating_duration_since(last) >= CALM {
            self.logged = None;
            tracing::info!("Redis takes the commands of the cache again");
        }
    }

    /// What is told of at `now`.
    fn trouble(&self, now: Instant) -> Option<Trouble> {
        let is_since = |at: Instant, long: Duration| now.saturating_duration_since(at) < long;
        let refused = self.refused.as_ref();
        let refused =
            refused.filter(|refused| is_since(refused.at, REFUSED_FOR) && refused.map.strong_count() > 0);
        refused
            .map(|refused| refused.trouble)
            .or_else(|| self.full.filter(|at| is_since(*at, FULL_FOR)).map(|_| Trouble::Full))
    }
}

enum Keeping {
    Unused,
    /// Ends when dropped.
    Kept(#[expect(dead_code, reason = "holds the task")] AbortOnDropHandle<()>),
    Closed,
}

/// A command that is out. Whoever gives up drops it, and so does a time that is over.
struct Asked<'a> {
    redis: &'a Redis,
    node: Arc<Node>,
    live: Live,
    /// Until there is an answer.
    permit: Option<Permit<'a>>,
    sent: tokio::time::Instant,
}

impl<'a> Asked<'a> {
    fn answered(&mut self, operation: Operation) -> Permit<'a> {
        self.redis.waited(self.sent);
        let (count, waited_us) = &self.redis.counts.answered[operation as usize];
        count.fetch_add(1, Ordering::Relaxed);
        waited_us.fetch_add(self.sent.elapsed().as_micros() as u64, Ordering::Relaxed);
        self.permit.take().expect("an answer comes once")
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let Some(permit) = self.permit.take() else { return };
        self.redis.waited(self.sent);
        self.redis.counts.timeouts.fetch_add(1, Ordering::Relaxed);
        self.redis.counts.failures.fetch_add(1, Ordering::Relaxed);
        note("slow");
        if self.sent.elapsed() >= ENOUGH {
            self.redis.blame(permit, &self.node);
            self.node.doubt(&self.live, Trouble::Silent);
        }
    }
}

/// What came of a command.
enum Outcome<T> {
    Answer(T),
    /// The server does not know the script.
    NoScript,
    Failed,
}

impl Redis {
    /// The Redis at `url`. Nothing is opened yet.
    #[must_use]
    pub fn new(url: RedisUrl, limits: CacheLimits, breaker: Arc<Breaker>) -> Self {
        Self {
            url,
            value_bytes_max: limits.value_bytes_max,
            breaker,
            news: Arc::new(News::new()),
            map: Arc::default(),
            tried: watch::Sender::default(),
            asked: Arc::default(),
            keeper: Mutex::new(Keeping::Unused),
            is_started: AtomicBool::new(false),
            said: Mutex::default(),
            counts: Counts::default(),
        }
    }

    /// What it did.
    #[must_use]
    pub fn figures(&self) -> RedisFigures {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (invalidations, reconnects) = self.news.counts();
        let map = self.map();
        RedisFigures {
            commands: of(&self.counts.commands),
            failures: of(&self.counts.failures),
            timeouts: of(&self.counts.timeouts),
            skipped: of(&self.counts.skipped),
            waited: Duration::from_micros(of(&self.counts.waited_us)),
            reconnects,
            invalidations,
            nodes: map.nodes().count() as u64,
            connected: map.nodes().filter(|node| node.is_live()).count() as u64,
            refusing: map.nodes().filter(|node| node.refusing().is_some()).count() as u64,
        }
    }

    /// What was answered, by operation.
    #[must_use]
    pub fn answered(&self) -> [(&'static str, Answered); 4] {
        let mut counts = self.counts.answered.iter();
        Operation::LABELS.map(|operation| {
            let answered = counts.next().map(|(count, waited_us)| Answered {
                count: count.load(Ordering::Relaxed),
                waited: Duration::from_micros(waited_us.load(Ordering::Relaxed)),
            });
            (operation, answered.unwrap_or_default())
        })
    }

    /// Connects now, as the first use would, without waiting. In a runtime.
    pub fn begin(&self) {
        self.start();
    }

    /// Connects now, as the first use would, and waits until every server was tried; how it stands then.
    pub async fn look(&self) -> Told {
        self.start();
        let mut tried = self.tried.subscribe();
        // The sender is ours.
        let _ = tried.wait_for(|tried| *tried == Tried::All).await;
        self.told()
    }

    /// Who was asked in the last round which servers hold entries, each in turn until one told; and why in vain, where it
    /// was. Empty where nobody has to be asked.
    #[must_use]
    pub fn asked(&self) -> Vec<(String, Option<String>)> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let told = |(place, trouble): &(Place, Option<Trouble>)| {
            (place.to_string(), trouble.map(|trouble| trouble.to_string()))
        };
        asked.iter().map(told).collect()
    }

    fn map(&self) -> Arc<Map> {
        Arc::clone(&self.map.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins to keep connections, where nobody has, unless it is closed.
    fn start(&self) {
        if self.is_started.load(Ordering::Acquire) {
            return;
        }
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*keeper, Keeping::Unused) {
            let keeping = Keeper::new(
                self.url.clone(),
                Arc::clone(&self.news),
                Arc::clone(&self.map),
                self.tried.clone(),
                Arc::clone(&self.asked),
            );
            *keeper = Keeping::Kept(AbortOnDropHandle::new(tokio::spawn(keeping.keep())));
        }
        self.is_started.store(true, Ordering::Release);
    }

    /// The server of `key`, as soon as the first attempt to reach it is over.
    async fn node(&self, key: &Key, until: tokio::time::Instant) -> Option<Arc<Node>> {
        self.start();
        if *self.tried.borrow() == Tried::Not {
            let mut tried = self.tried.subscribe();
            let _ = timeout_at(until, tried.wait_for(|tried| *tried != Tried::Not)).await.ok()?;
        }
        self.map().node(slot(key.project().as_str().as_bytes())).cloned()
    }

    /// Sends `command` to the server of `key`.
    async fn run<T: FromRedisValue>(
        &self,
        operation: Operation,
        key: &Key,
        command: &Cmd,
        within: Duration,
    ) -> Outcome<T> {
        let began = tokio::time::Instant::now();
        let Ok(permit) = self.breaker.admit(Instant::now()) else { return self.skip("open") };
        let node = self.node(key, began + within.min(CONNECT_MAX)).await;
        let Some((node, live)) = node.and_then(|node| node.live().map(|live| (node, live))) else {
            // Others may work; then the breaker is none of this one's.
            if !self.map().nodes().any(|node| node.is_live()) {
                permit.fail(Instant::now(), None);
            }
            return self.skip("open");
        };
        if operation.writes() && node.refusing().is_some() {
            return self.skip("refused");
        }
        let (map, sent) = (self.map(), tokio::time::Instant::now());
        let patience = within.saturating_sub(sent - began).min(ANSWER_MAX);
        let mut connection = live.connection.clone();
        self.counts.commands.fetch_add(1, Ordering::Relaxed);
        let mut asked = Asked { redis: self, node, live, permit: Some(permit), sent };
        let answer = timeout_at(sent + patience, command.query_async::<T>(&mut connection)).await;
        // Unanswered it ends as what was asked in vain.
        let Ok(answer) = answer else { return Outcome::Failed };
        let permit = asked.answered(operation);
        match answer {
            Ok(answer) => {
                permit.succeed();
                self.said().answer(operation, &asked.node, Instant::now());
                Outcome::Answer(answer)
            }
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                permit.succeed();
                Outcome::NoScript
            }
            Err(error) => {
                let trouble = Trouble::of(&error);
                self.fail(permit, trouble, operation, key, (&asked.node, &map));
                // Behind a name that leads to masters alone, it is one no more.
                let is_left =
                    |trouble: Trouble| trouble == Trouble::ReadOnly && self.url.kind != Kind::Single;
                if let Some(trouble) = trouble
                    && (trouble.ends_connection() || is_left(trouble))
                {
                    asked.node.doubt(&asked.live, trouble);
                }
                Outcome::Failed
            }
        }
    }

    fn skip<T>(&self, how: &str) -> Outcome<T> {
        note(how);
        self.counts.skipped.fetch_add(1, Ordering::Relaxed);
        Outcome::Failed
    }

    fn waited(&self, since: tokio::time::Instant) {
        self.counts.waited_us.fetch_add(since.elapsed().as_micros() as u64, Ordering::Relaxed);
    }

    /// A server failed: where others work, that is no reason to ask none of them.
    fn blame(&self, permit: Permit<'_>, node: &Arc<Node>) {
        if self.map().nodes().any(|other| other.is_live() && !Arc::ptr_eq(other, node)) {
            drop(permit);
        } else {
            permit.fail(Instant::now(), None);
        }
    }

    /// Takes note of an error that the server answered.
    fn fail(
        &self,
        permit: Permit<'_>,
        trouble: Option<Trouble>,
        operation: Operation,
        key: &Key,
        (node, map): (&Arc<Node>, &Arc<Map>),
    ) {
        self.counts.failures.fetch_add(1, Ordering::Relaxed);
        note(match trouble {
            Some(Trouble::Full) => "full",
            Some(trouble) if trouble.refuses_writes() => "refused",
            _ => "failed",
        });
        match trouble {
            // It concerns this command alone, or what is there to do with it; the server works.
            None => permit.succeed(),
            Some(Trouble::Full) => {
                permit.succeed();
                self.said().refuse(Trouble::Full, operation, (node, map), Instant::now());
            }
            Some(trouble) if trouble.refuses_writes() => {
                permit.succeed();
                node.refuse(trouble, key.project().as_str());
                self.news.changed.notify_one();
            }
            // Some keys only, and it passes.
            Some(trouble @ (Trouble::Clustered | Trouble::ClusterDown)) => {
                drop(permit);
                let is_cluster = self.url.kind == Kind::Cluster;
                let trouble = if is_cluster { Trouble::ClusterDown } else { trouble };
                self.said().refuse(trouble, operation, (node, map), Instant::now());
                self.news.mislead();
            }
            Some(trouble) => {
                self.blame(permit, node);
                if !trouble.ends_connection() {
                    self.said().refuse(trouble, operation, (node, map), Instant::now());
                }
                self.news.changed.notify_one();
            }
        }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a script, by its hash where the server knows it.
    async fn procedure(
        &self,
        procedure: Procedure,
        key: &Key,
        keys: &[&str],
        arguments: &[&[u8]],
        within: Duration,
    ) -> Option<u64> {
        let (began, operation) = (Instant::now(), procedure.operation());
        let mut outcome = self.run(operation, key, &procedure.command(false, keys, arguments), within).await;
        if matches!(outcome, Outcome::NoScript) {
            let rest = within.saturating_sub(began.elapsed());
            outcome = self.run(operation, key, &procedure.command(true, keys, arguments), rest).await;
        }
        match outcome {
            Outcome::Answer(number) => Some(number),
            Outcome::NoScript | Outcome::Failed => None,
        }
    }
}

#[async_trait]
impl SecondLayer for Redis {
    async fn get(&self, key: &Key, within: Duration) -> Option<Vec<u8>> {
        // What others put there may be longer than anything of ours, and is not to be taken in.
        let mut command = cmd("GETRANGE");
        command.arg(entry_key(key)).arg(0).arg(self.value_bytes_max);
        match self.run::<Vec<u8>>(Operation::Get, key, &command, within).await {
            Outcome::Answer(bytes) if !bytes.is_empty() && bytes.len() <= self.value_bytes_max => Some(bytes),
            _ => None,
        }
    }

    async fn put(
        &self,
        key: &Key,
        bytes: Vec<u8>,
        ttl: Duration,
        lease: Option<u64>,
        within: Duration,
    ) -> bool {
        let life = milliseconds(ttl);
        if bytes.is_empty() || bytes.len() > self.value_bytes_max || life == 0 {
            return false;
        }
        let entry = entry_key(key);
        let is_kept = if let Some(lease) = lease {
            let (number, life) = (lease.to_string(), life.to_string());
            let arguments = [number.as_bytes(), &bytes, life.as_bytes()];
            let keys = [lease_key(key), entry];
            let keys = keys.each_ref().map(String::as_str);
            self.procedure(Procedure::Put, key, &keys, &arguments, within).await == Some(1)
        } else {
            let mut command = cmd("SET");
            command.arg(entry).arg(bytes).arg("PX").arg(life);
            matches!(self.run::<()>(Operation::Put, key, &command, within).await, Outcome::Answer(()))
        };
        if is_kept {
            self.said().full = None;
        }
        is_kept
    }

    async fn lease(&self, key: &Key, length: Duration, within: Duration) -> Lease {
        let (length, kept) = (milliseconds(length).to_string(), milliseconds(LEASE_KEPT).to_string());
        let arguments = [length.as_bytes(), kept.as_bytes()];
        match self.procedure(Procedure::Take, key, &[&lease_key(key)], &arguments, within).await {
            Some(0) => Lease::Held,
            Some(number) => Lease::Taken(number),
            None => Lease::Unavailable,
        }
    }

    async fn give_back(&self, key: &Key, lease: u64, within: Duration) {
        let number = lease.to_string();
        let arguments = [number.as_bytes()];
        // Where it cannot be given back, it ends by itself.
        let _ = self.procedure(Procedure::GiveBack, key, &[&lease_key(key)], &arguments, within).await;
    }

    fn invalidations(&self) -> Receiver<Invalidation> {
        self.news.subscribe()
    }

    fn told(&self) -> Told {
        if *self.tried.borrow() == Tried::Not {
            return Told::Unused;
        }
        match self.map().trouble().or_else(|| self.said().trouble(Instant::now())) {
            None => Told::Well,
            Some(trouble) => Told::Ailing(trouble.to_string()),
        }
    }

    async fn close(&self) {
        {
            let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
            *keeper = Keeping::Closed;
        }
        self.is_started.store(true, Ordering::Release);
        *self.map.write().unwrap_or_else(PoisonError::into_inner) = Arc::default();
        self.tried.send_replace(Tried::All);
        self.news.everything();
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Tells the call that is served how Redis failed it.
fn note(how: &str) {
    resilience::note(format!("{REDIS_NOTE}{how}"));
}

/// Where an entry lies. The project is the key's hash tag.
fn entry_key(key: &Key) -> String {
    format!("{PREFIX}{{{}}}:{}", key.project(), hex(key.digest()))
}

/// Beside it; not under the prefix whose changes are told.
fn lease_key(key: &Key) -> String {
    format!("tmws:lease:1:{{{}}}:{}", key.project(), hex(key.digest()))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(LIFE_MAX_MS)
}

/// Ten years: sums with the time stay exact in a script's numbers.
const LIFE_MAX_MS: u64 = 10 * 366 * 24 * 60 * 60 * 1000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_told_of_until_it_is_over_or_nobody_knows_any_more() {
        let (mut said, now) = (Said::default(), Instant::now());
        let place = |port| Place { host: "h".to_owned(), port };
        let [node, other] = [1, 2].map(|port| Node::new(place(port), true, false));
        let map: Arc<Map> = Arc::default();
        said.refuse(Trouble::Full, Operation::Put, (&node, &map), now);
        assert_eq!(said.trouble(now + FULL_FOR / 2), Some(Trouble::Full));
        said.answer(Operation::Get, &node, now);
        assert_eq!(said.trouble(now), Some(Trouble::Full), "a full Redis answers");
        assert_eq!(said.trouble(now + FULL_FOR), None);
        said.refuse(Trouble::Forbidden, Operation::Put, (&node, &map), now);
        assert_eq!(said.trouble(now + FULL_FOR), Some(Trouble::Forbidden));
        assert_eq!(said.trouble(now + REFUSED_FOR), None);
        said.answer(Operation::Get, &node, now + FULL_FOR);
        assert_eq!(said.trouble(now + FULL_FOR), Some(Trouble::Forbidden), "who may read may not write");
        said.answer(Operation::Put, &node, now + FULL_FOR);
        assert_eq!(said.trouble(now + FULL_FOR), None);
        assert!(said.logged.is_none(), "the log is told of the next one");
        let now = now + FULL_FOR;
        said.refuse(Trouble::ClusterDown, Operation::Get, (&node, &map), now);
        said.answer(Operation::Get, &other, now);
        assert_eq!(said.trouble(now), Some(Trouble::ClusterDown), "another server answers for itself");
        said.answer(Operation::Put, &node, now);
        assert_eq!(said.trouble(now), None, "it serves again");
        said.refuse(Trouble::ClusterDown, Operation::Get, (&node, &map), now);
        drop(map);
        assert_eq!(said.trouble(now), None, "others hold the keys now");
        said.answer(Operation::Get, &other, now + CALM);
        assert!(said.logged.is_none(), "the log is told of its end");
    }
}
