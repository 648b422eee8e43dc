//! One server: its connections, made anew as long as somebody wants them.
//!
//! There are two to each. What changes is told on one of its own, by the server that it concerns; commands go over the
//! other, which is told to be left out of its own changes (`CLIENT TRACKING … REDIRECT … NOLOOP`): who puts an entry
//! keeps what it has. Commands are sent only while both stand, so that nothing is read of whose change nobody would
//! hear; when one is lost, or doubtful, both are made anew, and all that was read before is in doubt.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use redis::{
    AsyncConnectionConfig, Cmd, ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo,
    aio::MultiplexedConnection, cmd,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    sync::{Notify, OnceCell},
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    ANSWER_MAX, CONNECT_MAX, PREFIX,
    news::News,
    trouble::Trouble,
    url::{Place, RedisUrl},
};
use crate::dial::Dialer;

/// A connection on which nothing came for so long is asked whether it still stands.
const PULSE: Duration = Duration::from_secs(1);
/// Where somebody has to change something first.
const LASTING_PAUSE: Duration = Duration::from_secs(5);
/// How often it is tried whether the address of a replica leads to a master by now.
const ELSEWHERE: Duration = Duration::from_secs(5);
/// What is written to learn whether writes are taken: a key that is never there, and only where it is there.
const PROBE: &str = "tmws:probe";

/// The record of a TLS handshake that is cut off: who speaks TLS answers with an alert (RFC 8446, 5.1 and 6).
const BROKEN_HELLO: [u8; 10] = [0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0];
/// What the record of an alert begins with.
const TLS_ALERT: u8 = 0x15;

/// Pauses between attempts to connect: doubled each time, each longer by up to itself.
pub(super) const PAUSES: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(50))
    .with_max_delay(Duration::from_millis(500))
    .with_jitter()
    .without_max_times();

/// How servers are reached, whichever.
pub(super) struct Ways {
    tls: bool,
    /// Roots are read at the first use.
    dialer: OnceCell<Dialer>,
    /// Who logs in.
    login: RedisConnectionInfo,
}

/// A connection and what drives it; closed when dropped.
pub(super) struct Link {
    pub(super) connection: MultiplexedConnection,
    _driver: AbortOnDropHandle<()>,
}

impl Ways {
    pub(super) fn new(url: &RedisUrl) -> Self {
        let mut login = anonymous().set_db(i64::from(url.database));
        if let Some(user) = &url.user {
            login = login.set_username(user);
        }
        if let Some(password) = &url.password {
            login = login.set_password(password);
        }
        Self { tls: url.tls, dialer: OnceCell::new(), login }
    }

    /// A connection for single questions. Sentinels are asked theirs without a login first: they seldom want one, and then
    /// the same. Whether they do they say when they are greeted, or asked.
    pub(super) async fn ask(&self, place: &Place, of_sentinel: Option<&Cmd>) -> Result<Link, Trouble> {
        if let Some(question) = of_sentinel {
            match self.ask_unknown(place, question).await {
                Err(Trouble::LoginRefused | Trouble::Forbidden) => {}
                answered => return answered,
            }
        }
        let login = self.login.clone().set_db(0);
        let asking = self.connect(place, &login, AsyncConnectionConfig::new()).await;
        asking.map_err(|trouble| match trouble {
            Trouble::LoginRefused if of_sentinel.is_some() => Trouble::SentinelRefused,
            trouble => trouble,
        })
    }

    /// The same without a login, where `question` is answered so.
    async fn ask_unknown(&self, place: &Place, question: &Cmd) -> Result<Link, Trouble> {
        let link = self.connect(place, &anonymous(), AsyncConnectionConfig::new()).await?;
        let mut connection = link.connection.clone();
        let answer = timeout(ANSWER_MAX, question.query_async::<redis::Value>(&mut connection)).await;
        // What else it says, it says again when it is asked in earnest.
        match answer.map_err(|_| Trouble::Silent)?.map_err(|error| Trouble::of(&error)) {
            Err(Some(refused @ (Trouble::LoginRefused | Trouble::Forbidden))) => Err(refused),
            _ => Ok(link),
        }
    }

    /// Reads the machine's root certificates, where TLS is spoken: that takes longer than connecting may.
    pub(super) async fn prepare(&self) {
        let tls = self.tls;
        let reading = || async move {
            let read = tokio::task::spawn_blocking(move || Dialer::new(tls)).await;
            read.unwrap_or_else(|_| Err(std::io::Error::other("the reading of root certificates failed")))
        };
        // What is wrong shows when somebody connects.
        let _ = self.dialer.get_or_try_init(reading).await;
    }

    /// Why no connection to `place` stands: `trouble`, or more, where the first byte of another answer tells it. A Redis that
    /// waits for TLS says nothing to whoever does not speak it, and one that does not speak it waits for the end of a line.
    pub(super) async fn explained(&self, place: &Place, trouble: Trouble) -> Trouble {
        let question = match trouble {
            Trouble::Silent | Trouble::Unreachable | Trouble::Untrusted if self.tls => b"PING\r\n".as_slice(),
            Trouble::Unreachable if !self.tls => &BROKEN_HELLO,
            _ => return trouble,
        };
        let answer = async {
            let mut stream = Dialer::new(false)?.dial(&place.host, place.port).await?;
            stream.write_all(question).await?;
            stream.read_u8().await
        };
        match timeout(ANSWER_MAX, answer).await {
            Ok(Ok(b'+' | b'-')) if self.tls => Trouble::SpeaksNoTls,
            Ok(Ok(TLS_ALERT)) if !self.tls => Trouble::SpeaksTls,
            _ => trouble,
        }
    }

    async fn connect(
        &self,
        place: &Place,
        login: &RedisConnectionInfo,
        config: AsyncConnectionConfig,
    ) -> Result<Link, Trouble> {
        let connected = async {
            let dialer = self.dialer.get_or_try_init(async || Dialer::new(self.tls)).await;
            let dialer = dialer.map_err(|error| Trouble::of_dialling(&error))?;
            let stream = dialer.dial(&place.host, place.port).await;
            let stream = stream.map_err(|error| Trouble::of_dialling(&error))?;
            // Whoever waits for an answer knows for how long.
            let config = config.set_response_timeout(None);
            let (connection, driver) = MultiplexedConnection::new_with_config(login, stream, config)
                .await
                .map_err(|error| Trouble::of(&error).unwrap_or(Trouble::Strange))?;
            Ok(Link { connection, _driver: AbortOnDropHandle::new(tokio::spawn(driver)) })
        };
        timeout(CONNECT_MAX, connected).await.unwrap_or(Err(Trouble::Silent))
    }
}

fn anonymous() -> RedisConnectionInfo {
    // Names of libraries are of no use here, and need rights.
    RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name()
}

/// One server that holds entries.
pub(super) struct Node {
    pub(super) place: Place,
    live: Mutex<Option<Live>>,
    trouble: Mutex<Option<Trouble>>,
    /// The first attempt is over.
    tried: (AtomicBool, Notify),
    /// Connections made so far.
    number: AtomicU64,
    /// It took over from one that was lost: its first connection is one made anew.
    is_successor: bool,
    /// What the log was told, until it is over.
    logged: Mutex<Option<Trouble>>,
    /// It holds some of the slots of a cluster.
    is_of_cluster: bool,
    /// Why it takes no writes, where it takes none, and the hash tag of a key that it holds.
    refusing: Mutex<Option<(Trouble, String)>>,
}

/// A connection that commands go over, while changes are told.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) connection: MultiplexedConnection,
    /// Which of the server's connections it is.
    number: u64,
    /// It, or that on which changes are told, is lost or doubtful.
    lost: Arc<Notify>,
}

/// Both connections to one server.
struct Pair {
    listening: Link,
    commands: Link,
    lost: Arc<Notify>,
}

impl Node {
    pub(super) fn new(place: Place, is_of_cluster: bool, is_successor: bool) -> Arc<Self> {
        Arc::new(Self {
            place,
            is_of_cluster,
            is_successor,
            logged: Mutex::default(),
            refusing: Mutex::default(),
            live: Mutex::default(),
            trouble: Mutex::default(),
            tried: (AtomicBool::new(false), Notify::new()),
            number: AtomicU64::new(0),
        })
    }

    /// What commands go over now.
    pub(super) fn live(&self) -> Option<Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn is_live(&self) -> bool {
        self.live.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Why it cannot be used, where it cannot.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why it takes no writes, where it takes none. What it holds is read all the same.
    pub(super) fn refusing(&self) -> Option<Trouble> {
        self.lock_refusing().as_ref().map(|(trouble, _)| *trouble)
    }

    /// It refused a write of a key with this hash tag. That is so until a write that changes nothing is taken, which is
    /// tried every second.
    pub(super) fn refuse(&self, trouble: Trouble, tag: &str) {
        let before = self.lock_refusing().replace((trouble, tag.to_owned()));
        if before.is_none_or(|(known, _)| known != trouble) {
            let server = self.place.to_string();
            tracing::warn!(server, reason = %trouble, "a Redis of the cache takes no writes; it is read all the same");
        }
    }

    fn take_writes(&self) {
        if self.lock_refusing().take().is_some() {
            let server = self.place.to_string();
            tracing::info!(server, "a Redis of the cache takes writes again");
        }
    }

    fn lock_refusing(&self) -> std::sync::MutexGuard<'_, Option<(Trouble, String)>> {
        self.refusing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns whether writes are taken over `connection`. Which keys are its own in a cluster is known once it refused one.
    async fn probe(&self, connection: &mut MultiplexedConnection) -> Option<Trouble> {
        let tag = match &*self.lock_refusing() {
            Some((_, tag)) => tag.clone(),
            None if self.is_of_cluster => return None,
            None => String::new(),
        };
        let mut write = cmd("SET");
        write.arg(format!("{PROBE}:{{{tag}}}")).arg("").arg("XX").arg("PX").arg(1);
        let answer = timeout(ANSWER_MAX, write.exec_async(connection)).await;
        match answer {
            Ok(Ok(())) => self.take_writes(),
            Ok(Err(error)) => match Trouble::of(&error) {
                Some(trouble) if trouble.refuses_writes() => {
                    self.refuse(trouble, &tag);
                    return Some(trouble);
                }
                // The keys are another's now, and so are their writes.
                Some(Trouble::Clustered) => self.take_writes(),
                // Whether it takes writes is not known, and stays as it was.
                _ => {}
            },
            Err(_) => {}
        }
        None
    }

    /// `live` does not answer as it should: nobody uses it any more, and another is made.
    pub(super) fn doubt(&self, live: &Live, trouble: Trouble) {
        let mut current = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| current.number == live.number) {
            *current = None;
            self.set_trouble(Some(trouble));
            live.lost.notify_one();
        }
    }

    /// Whether it was ever connected.
    pub(super) fn was_live(&self) -> bool {
        self.number.load(Ordering::Relaxed) > 0
    }

    /// Whether the log was told of an outage that is not over.
    pub(super) fn is_told_of(&self) -> bool {
        self.refusing().is_some() || self.lock_logged().is_some()
    }

    fn lock_logged(&self) -> std::sync::MutexGuard<'_, Option<Trouble>> {
        self.logged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the log of what is wrong: when it begins, and when it turns into what somebody has to mend.
    fn tell_of(&self, trouble: Trouble) {
        let mut logged = self.lock_logged();
        if logged.is_none_or(|known| known != trouble && trouble.is_lasting()) {
            let server = self.place.to_string();
            tracing::warn!(server, reason = %trouble, "a Redis of the cache cannot be used; calls go on without it");
            *logged = Some(trouble);
        }
    }

    /// Waits until the first attempt to connect is over.
    pub(super) async fn tried(&self) {
        loop {
            let told = self.tried.1.notified();
            if self.tried.0.load(Ordering::Acquire) {
                return;
            }
            told.await;
        }
    }

    fn set_trouble(&self, trouble: Option<Trouble>) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    /// Keeps its connections until it is dropped.
    pub(super) async fn keep(self: Arc<Self>, ways: Arc<Ways>, news: Arc<News>) {
        let mut pauses = PAUSES.build();
        loop {
            let begun = Instant::now();
            let made = timeout(CONNECT_MAX, self.pair(&ways, &news)).await.unwrap_or(Err(Trouble::Silent));
            let pause = match made {
                Ok(pair) => {
                    let number = self.number.fetch_add(1, Ordering::Relaxed);
                    // What was kept meanwhile may have changed unheard.
                    news.everything();
                    news.connected(number > 0 || self.is_successor);
                    let (connection, lost) = (pair.commands.connection.clone(), Arc::clone(&pair.lost));
                    *self.live.lock().unwrap_or_else(PoisonError::into_inner) =
                        Some(Live { connection, number, lost });
                    self.set_trouble(None);
                    self.have_tried();
                    if self.lock_logged().take().is_some() {
                        let server = self.place.to_string();
                        tracing::info!(server, "a Redis of the cache works again");
                    }
                    let lost = self.listen(pair, &ways).await;
                    *self.live.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    // A doubt has said more.
                    let trouble = self.trouble().or(lost);
                    self.set_trouble(trouble);
                    // That it takes no writes was told.
                    if let Some(trouble) = trouble.filter(|trouble| !trouble.refuses_writes()) {
                        self.tell_of(trouble);
                    }
                    news.everything();
                    news.changed.notify_one();
                    if begun.elapsed() > PULSE {
                        pauses = PAUSES.build();
                    }
                    pauses.next()
                }
                Err(trouble) => {
                    let trouble = ways.explained(&self.place, trouble).await;
                    self.set_trouble(Some(trouble));
                    self.have_tried();
                    self.tell_of(trouble);
                    news.changed.notify_one();
                    if trouble.is_lasting() { Some(LASTING_PAUSE) } else { pauses.next() }
                }
            };
            sleep(pause.unwrap_or(LASTING_PAUSE)).await;
        }
    }

    fn have_tried(&self) {
        self.tried.0.store(true, Ordering::Release);
        self.tried.1.notify_waiters();
    }

    async fn pair(&self, ways: &Ways, news: &Arc<News>) -> Result<Pair, Trouble> {
        let lost = Arc::new(Notify::new());
        let (told, is_lost) = (Arc::clone(news), Arc::clone(&lost));
        // Runs where the connection is read: nothing waits between the message and those who are told.
        let push = move |push: PushInfo| -> Result<(), ()> {
            match push.kind {
                PushKind::Invalidate => told.invalidated(&push.data),
                PushKind::Disconnection => is_lost.notify_one(),
                _ => {}
            }
            Ok(())
        };
        let listening = AsyncConnectionConfig::new().set_push_sender(push);
        let (listening, commands) = tokio::try_join!(
            ways.connect(&self.place, &ways.login, listening),
            ways.connect(&self.place, &ways.login, AsyncConnectionConfig::new()),
        )?;
        let strange = |error: redis::RedisError| Trouble::of(&error).unwrap_or(Trouble::Strange);
        let mut asked = listening.connection.clone();
        let mut tracked = commands.connection.clone();
        let (client, mut written) = (cmd("CLIENT").arg("ID").to_owned(), commands.connection.clone());
        // Whether it takes writes is known before anybody is told that it works.
        let (id, _) = tokio::join!(client.query_async::<u64>(&mut asked), self.probe(&mut written));
        let id = id.map_err(strange)?;
        let mut tracking = cmd("CLIENT");
        tracking.arg("TRACKING").arg("ON").arg("REDIRECT").arg(id);
        tracking.arg("BCAST").arg("PREFIX").arg(PREFIX).arg("NOLOOP");
        tracking.exec_async(&mut tracked).await.map_err(strange)?;
        Ok(Pair { listening, commands, lost })
    }

    /// Holds both connections until one is lost, or does not answer; which. `None`: the same address leads to a server that
    /// takes writes, other than this one.
    async fn listen(&self, pair: Pair, ways: &Ways) -> Option<Trouble> {
        let mut asked = [pair.listening.connection.clone(), pair.commands.connection.clone()];
        let mut looked = Instant::now();
        loop {
            tokio::select! {
                () = pair.lost.notified() => return Some(Trouble::Unreachable),
                () = sleep(PULSE) => {}
            }
            for connection in &mut asked {
                match timeout(CONNECT_MAX, cmd("PING").query_async::<redis::Value>(connection)).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => match Trouble::of(&error) {
                        Some(trouble) if trouble.ends_connection() => return Some(trouble),
                        // One that takes no writes says so here, too.
                        Some(trouble) if trouble.refuses_writes() && !self.is_of_cluster => {
                            self.refuse(trouble, "");
                        }
                        // It answers.
                        _ => {}
                    },
                    Err(_) => return Some(Trouble::Silent),
                }
            }
            if self.refusing().is_none() {
                continue;
            }
            let found = self.probe(&mut asked[1]).await;
            // What stands before several servers may lead to another one by now.
            if found == Some(Trouble::ReadOnly) && looked.elapsed() >= ELSEWHERE {
                looked = Instant::now();
                if let Ok(other) = ways.connect(&self.place, &ways.login, AsyncConnectionConfig::new()).await
                    && self.probe(&mut other.connection.clone()).await.is_none()
                    && self.refusing().is_none()
                {
                    return None;
                }
            }
        }
    }
}
