//! Which server holds which key, looked up again while somebody uses them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use backon::BackoffBuilder as _;
use redis::{Cmd, Value, cmd, from_redis_value};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    ANSWER_MAX, CONNECT_MAX,
    link::{Link, Node, PAUSES, Ways},
    news::News,
    trouble::Trouble,
    url::{Kind, Place, RedisUrl},
};

/// Slots of a cluster: <https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>
const SLOTS: u16 = 16_384;
/// Between looks at who is there, while all is well.
const LOOK: Duration = Duration::from_secs(1);
/// After a sign that something changed.
const SOON: Duration = Duration::from_millis(50);

/// That all failed to tell so often in a row is told of in the log.
const VAIN_MAX: u32 = 3;

/// Slots, the first and the last, and who holds them.
type Range = (u16, u16, Arc<Node>);

/// How far the first attempt has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tried {
    /// Calls wait for it.
    #[default]
    Not,
    /// It takes longer than calls wait.
    Long,
    /// Everybody who may know was asked, and every server that was found was tried.
    All,
}

/// Whose turn it is to be asked: that of each who is known, once, and then from the first again.
#[derive(Default)]
struct Turns {
    had: Vec<Place>,
}

impl Turns {
    /// The next of `known`, who may be others each time; `None` ends a round.
    fn next<'a>(&mut self, mut known: impl Iterator<Item = &'a Place>) -> Option<Place> {
        let next = known.find(|place| !self.had.contains(place)).cloned();
        match &next {
            Some(place) => self.had.push(place.clone()),
            None => self.had.clear(),
        }
        next
    }

    /// `place` had its turn.
    fn pass(&mut self, place: Place) {
        if !self.had.contains(&place) {
            self.had.push(place);
        }
    }
}

/// Who was asked in the last round, and why in vain, where it was.
pub(super) type AskedOnes = Vec<(Place, Option<Trouble>)>;

/// The servers of now.
#[derive(Default)]
pub(super) struct Map {
    ranges: Vec<Range>,
    /// Why there is none, where there is none.
    trouble: Option<Trouble>,
}

impl Map {
    /// Who holds what lies in `slot`.
    pub(super) fn node(&self, slot: u16) -> Option<&Arc<Node>> {
        self.ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&slot)).map(|(.., node)| node)
    }

    /// Each server once.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        let mut seen: Vec<&Arc<Node>> = Vec::with_capacity(self.ranges.len());
        for (.., node) in &self.ranges {
            if !seen.iter().any(|known| Arc::ptr_eq(known, node)) {
                seen.push(node);
            }
        }
        seen.into_iter()
    }

    /// What is wrong with the first that something is wrong with.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        if self.ranges.is_empty() {
            return Some(self.trouble.unwrap_or(Trouble::Silent));
        }
        let lost = self.nodes().find(|node| !node.is_live());
        let lost = lost.map(|node| node.refusing().or(node.trouble()).unwrap_or(Trouble::Unreachable));
        let gap = (!covers_all(self.ranges.iter().map(|(first, last, _)| (*first, *last))))
            .then_some(Trouble::ClusterDown);
        lost.or(gap).or_else(|| self.nodes().find_map(|node| node.refusing()))
    }
}

/// Whether each slot is in one of `ranges`.
fn covers_all(ranges: impl Iterator<Item = (u16, u16)>) -> bool {
    let mut ranges: Vec<(u16, u16)> = ranges.collect();
    ranges.sort_unstable();
    let covered =
        ranges.iter().try_fold(0, |next, (first, last)| (*first <= next).then_some(next.max(last + 1)));
    covered == Some(SLOTS)
}

/// The slot of a key whose hash tag is `tag`: CRC-16/XMODEM.
pub(super) fn slot(tag: &[u8]) -> u16 {
    let sum = tag.iter().fold(0_u16, |sum, byte| {
        (0..8).fold(sum ^ (u16::from(*byte) << 8), |sum, _| (sum << 1) ^ (0x1021 * (sum >> 15)))
    });
    sum % SLOTS
}

/// Finds the servers and keeps connections to them.
pub(super) struct Keeper {
    url: RedisUrl,
    ways: Arc<Ways>,
    news: Arc<News>,
    map: Arc<RwLock<Arc<Map>>>,
    tried: watch::Sender<Tried>,
    /// For those who want to know whom this asked.
    told: Arc<Mutex<AskedOnes>>,
    kept: BTreeMap<Place, (Arc<Node>, AbortOnDropHandle<()>)>,
    /// Who was asked last.
    asked: Option<(Place, Link)>,
    turns: Turns,
    /// The log was told of an outage of a server that holds nothing any more.
    is_outage_told: bool,
    /// Likewise that some slots belong to nobody.
    is_gap_told: bool,
}

impl Keeper {
    pub(super) fn new(
        url: RedisUrl,
        news: Arc<News>,
        map: Arc<RwLock<Arc<Map>>>,
        tried: watch::Sender<Tried>,
        told: Arc<Mutex<AskedOnes>>,
    ) -> Self {
        let ways = Arc::new(Ways::new(&url));
        Self {
            url,
            ways,
            news,
            map,
            tried,
            told,
            kept: BTreeMap::new(),
            asked: None,
            turns: Turns::default(),
            is_outage_told: false,
            is_gap_told: false,
        }
    }

    /// Does so until it is dropped.
    pub(super) async fn keep(mut self) {
        self.ways.prepare().await;
        let mut pauses = PAUSES.build();
        let mut vain = 0_u32;
        loop {
            let tried = self.tried.clone();
            let is_well = {
                let mut looking = std::pin::pin!(self.look(&mut vain));
                // No call waits for all who may know.
                if let Ok(is_well) = timeout(CONNECT_MAX, &mut looking).await {
                    is_well
                } else {
                    tried.send_if_modified(|tried| {
                        let is_first = *tried == Tried::Not;
                        *tried = (*tried).max(Tried::Long);
                        is_first
                    });
                    looking.await
                }
            };
            self.tried.send_replace(Tried::All);
            if self.url.kind == Kind::Single {
                // Its connections keep themselves.
                return std::future::pending().await;
            }
            let is_misled = is_well && {
                tokio::select! {
                    () = self.news.changed.notified() => sleep(SOON).await,
                    () = sleep(LOOK) => {}
                }
                self.news.was_misled()
            };
            if is_well && !is_misled {
                pauses = PAUSES.build();
                self.turns = Turns::default();
            } else {
                // Another may know more.
                if let Some((place, _)) = self.asked.take() {
                    self.turns.pass(place);
                }
                self.news.was_misled();
                sleep(pauses.next().unwrap_or(LOOK)).await;
            }
        }
    }

    /// Looks once who is there; whether all is well. `vain` counts how often nobody told.
    async fn look(&mut self, vain: &mut u32) -> bool {
        match self.find().await {
            Ok(ranges) => {
                if *vain >= VAIN_MAX {
                    tracing::info!("it is known again which servers of Redis hold the cache");
                }
                *vain = 0;
                self.use_only(ranges).await
            }
            Err(trouble) => {
                *vain = vain.saturating_add(1);
                if *vain == VAIN_MAX {
                    tracing::warn!(reason = %trouble, "nobody tells which servers of Redis hold the cache");
                }
                let mut map = self.map.write().unwrap_or_else(PoisonError::into_inner);
                // Those known before may still be there.
                if map.ranges.is_empty() {
                    *map = Arc::new(Map { ranges: Vec::new(), trouble: Some(trouble) });
                }
                false
            }
        }
    }

    /// Keeps connections to these, and to no others; whether all stand, and hold all there is, and are masters.
    async fn use_only(&mut self, found: Vec<(u16, u16, Place)>) -> bool {
        let is_left = |place: &Place| !found.iter().any(|(.., known)| known == place);
        let left: Vec<_> = self.kept.extract_if(.., |place, _| is_left(place)).collect();
        self.is_outage_told |= left.iter().any(|(_, (node, _))| node.is_told_of());
        // Each of them has one successor.
        let mut lost = left.iter().filter(|(_, (node, _))| node.was_live()).count();
        drop(left);
        for (.., place) in &found {
            if !self.kept.contains_key(place) {
                let node = Node::new(place.clone(), self.url.kind == Kind::Cluster, lost > 0);
                lost = lost.saturating_sub(1);
                let keeping = Arc::clone(&node).keep(Arc::clone(&self.ways), Arc::clone(&self.news));
                let keeping = AbortOnDropHandle::new(tokio::spawn(keeping));
                self.kept.insert(place.clone(), (node, keeping));
            }
        }
        for (node, _) in self.kept.values() {
            node.tried().await;
        }
        let ranges: Vec<_> = found
            .into_iter()
            .filter_map(|(first, last, place)| Some((first, last, Arc::clone(&self.kept.get(&place)?.0))))
            .collect();
        let has_gap = !covers_all(ranges.iter().map(|(first, last, _)| (*first, *last)));
        // A replica was the master when whoever told learnt of it; others may know who is now.
        let is_used = |node: &Node| node.is_live() && node.refusing() != Some(Trouble::ReadOnly);
        let is_well = !has_gap && ranges.iter().all(|(.., node)| is_used(node));
        self.tell_of_gap(has_gap);
        let is_same = {
            let old = self.map.read().unwrap_or_else(PoisonError::into_inner);
            let alike = |(a, b): (&Range, &Range)| (a.0, a.1) == (b.0, b.1) && Arc::ptr_eq(&a.2, &b.2);
            old.ranges.len() == ranges.len() && old.ranges.iter().zip(&ranges).all(alike)
        };
        if !is_same {
            if self.url.kind != Kind::Single {
                let servers = self.servers();
                tracing::info!(servers, "these servers of Redis hold the cache now");
            }
            let map = Arc::new(Map { ranges, trouble: Some(Trouble::ClusterDown) });
            *self.map.write().unwrap_or_else(PoisonError::into_inner) = map;
            // A server that is left tells no more of what it held.
            self.news.everything();
        }
        if is_well && std::mem::take(&mut self.is_outage_told) {
            let servers = self.servers();
            tracing::info!(servers, "the Redis of the cache works again: others took over from the lost");
        }
        is_well
    }

    /// Tells the log once when some slots belong to no server, and once when all do.
    fn tell_of_gap(&mut self, has_gap: bool) {
        if has_gap == std::mem::replace(&mut self.is_gap_told, has_gap) {
            return;
        }
        let servers = self.servers();
        if has_gap {
            tracing::warn!(
                servers,
                "no server of the cluster holds some keys of the cache; calls go on without them"
            );
        } else {
            tracing::info!(servers, "the servers of the cluster hold all keys of the cache again");
        }
    }

    /// Those of now, for the log.
    fn servers(&self) -> String {
        self.kept.keys().map(ToString::to_string).collect::<Vec<_>>().join(",")
    }

    /// Who holds which slots. Asks whoever told last, or where that one does not, each who may know, in turn.
    async fn find(&mut self) -> Result<Vec<(u16, u16, Place)>, Trouble> {
        if self.url.kind == Kind::Single {
            return Ok(vec![(0, SLOTS - 1, self.url.places[0].clone())]);
        }
        if let Some((place, link)) = self.asked.take()
            && let Ok(found) = self.told_by(&place, &link).await
        {
            self.asked = Some((place, link));
            return Ok(found);
        }
        let is_sentinel = self.url.kind != Kind::Cluster;
        let mut round: AskedOnes = Vec::new();
        loop {
            // Sentinels hold nothing.
            let known = self.kept.keys().filter(|_| !is_sentinel);
            let Some(place) = self.turns.next(self.url.places.iter().chain(known)) else {
                // The last round may have ended with the last one.
                if round.is_empty() {
                    continue;
                }
                let troubles = round.iter().filter_map(|(_, trouble)| *trouble);
                let trouble = Trouble::most_telling(troubles).unwrap_or(Trouble::Unreachable);
                *self.told.lock().unwrap_or_else(PoisonError::into_inner) = round;
                return Err(trouble);
            };
            let question = is_sentinel.then(|| self.question());
            let asking = timeout(CONNECT_MAX, self.ways.ask(&place, question.as_ref())).await;
            let told = match asking.unwrap_or(Err(Trouble::Silent)) {
                Ok(link) => self.told_by(&place, &link).await.map(|found| (found, link)),
                Err(trouble) => Err(self.ways.explained(&place, trouble).await),
            };
            round.push((place.clone(), told.as_ref().err().copied()));
            if let Ok((found, link)) = told {
                self.asked = Some((place, link));
                *self.told.lock().unwrap_or_else(PoisonError::into_inner) = round;
                return Ok(found);
            }
        }
    }

    /// What those who may know are asked.
    fn question(&self) -> Cmd {
        if let Kind::Sentinel(master) = &self.url.kind {
            cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master).to_owned()
        } else {
            cmd("CLUSTER").arg("SLOTS").to_owned()
        }
    }

    /// What `place` says of it.
    async fn told_by(&self, place: &Place, link: &Link) -> Result<Vec<(u16, u16, Place)>, Trouble> {
        let mut connection = link.connection.clone();
        let answer = timeout(ANSWER_MAX, self.question().query_async::<Value>(&mut connection)).await;
        let answer = answer
            .map_err(|_| Trouble::Silent)?
            .map_err(|error| Trouble::of(&error).unwrap_or(Trouble::Strange))?;
        if matches!(self.url.kind, Kind::Sentinel(_)) {
            let found: Option<(String, u16)> = from_redis_value(answer).map_err(|_| Trouble::Strange)?;
            let (host, port) = found.ok_or(Trouble::NoMaster)?;
            return Ok(vec![(0, SLOTS - 1, Place { host, port })]);
        }
        let ranges = read_slots(&answer, place).ok_or(Trouble::Strange)?;
        if ranges.is_empty() { Err(Trouble::ClusterDown) } else { Ok(ranges) }
    }
}

/// The masters of an answer to `CLUSTER SLOTS`, given by `asked`.
fn read_slots(answer: &Value, asked: &Place) -> Option<Vec<(u16, u16, Place)>> {
    let Value::Array(ranges) = answer else { return None };
    let read = |range: &Value| {
        let Value::Array(range) = range else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = range.as_slice() else {
            return None;
        };
        let [host, Value::Int(port), ..] = master.as_slice() else { return None };
        let host = match host {
            Value::BulkString(host) => String::from_utf8(host.clone()).ok()?,
            Value::SimpleString(host) => host.clone(),
            _ => String::new(),
        };
        // A server that does not know its own name means the one that it was asked by.
        let host = if host.is_empty() { asked.host.clone() } else { host };
        let slots = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
        Some((slots.0, slots.1, Place { host, port: u16::try_from(*port).ok()? }))
    };
    ranges.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        // `CLUSTER KEYSLOT` of a Redis.
        for (tag, expected) in [("123456789", 12_739), ("foo", 12_182), ("bar", 5061), ("", 0)] {
            assert_eq!(slot(tag.as_bytes()), expected, "{tag}");
        }
    }

    #[test]
    fn each_who_is_known_is_asked_once_a_round() {
        let place = |port| Place { host: "h".to_owned(), port };
        let all = |count| (0..count).map(place).collect::<Vec<_>>();
        for count in 1..6 {
            let (mut turns, known) = (Turns::default(), all(count));
            for _ in 0..3 {
                let round: Vec<Place> = std::iter::from_fn(|| turns.next(known.iter())).collect();
                assert_eq!(round, known);
            }
        }
        // A seed may be one of the servers, and which there are changes between two turns.
        let (mut turns, known) = (Turns::default(), all(3));
        let seed = place(1);
        let seeded = || std::iter::once(&seed).chain(&known);
        assert_eq!(turns.next(seeded()), Some(place(1)));
        assert_eq!(turns.next(seeded()), Some(place(0)));
        assert_eq!(turns.next(all(4).iter()), Some(place(2)));
        assert_eq!(turns.next(all(4).iter()), Some(place(3)));
        assert_eq!(turns.next(seeded()), None);
        assert_eq!(turns.next(seeded()), Some(place(1)));
    }

    #[test]
    fn slots_that_belong_to_nobody_are_noticed() {
        for (ranges, expected) in [
            (vec![(0, 16_383)], true),
            (vec![(8192, 16_383), (0, 8191)], true),
            (vec![(0, 9000), (8000, 16_383), (3, 5)], true),
            (vec![], false),
            (vec![(1, 16_383)], false),
            (vec![(0, 16_382)], false),
            (vec![(0, 5460), (10_923, 16_383)], false),
        ] {
            assert_eq!(covers_all(ranges.iter().copied()), expected, "{ranges:?}");
        }
    }

    #[test]
    fn a_server_without_a_name_is_the_one_that_was_asked() {
        let asked = Place { host: "asked".to_owned(), port: 1 };
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let range = |first, last, host: Value, port| {
            Value::Array(vec![
                Value::Int(first),
                Value::Int(last),
                Value::Array(vec![host, Value::Int(port), bulk("id"), Value::Map(Vec::new())]),
                Value::Array(vec![bulk("replica"), Value::Int(9), bulk("id")]),
            ])
        };
        let answer = Value::Array(vec![range(0, 99, Value::Nil, 7), range(100, 16_383, bulk("h"), 8)]);
        let place = |host: &str, port| Place { host: host.to_owned(), port };
        assert_eq!(
            read_slots(&answer, &asked),
            Some(vec![(0, 99, place("asked", 7)), (100, 16_383, place("h", 8))])
        );
        assert_eq!(read_slots(&Value::Array(vec![Value::Int(1)]), &asked), None);
        assert_eq!(read_slots(&Value::Nil, &asked), None);
    }
}
