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
    AsyncConnectionConfig, ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo,
    aio::MultiplexedConnection, cmd,
};
use tokio::{
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

    /// A connection for single questions. Sentinels are asked without a login first: they seldom want one, and then the
    /// same.
    pub(super) async fn ask(&self, place: &Place, is_sentinel: bool) -> Result<Link, Trouble> {
        if is_sentinel {
            let link = self.connect(place, &anonymous(), AsyncConnectionConfig::new()).await?;
            let mut connection = link.connection.clone();
            let answer = timeout(ANSWER_MAX, cmd("PING").query_async::<redis::Value>(&mut connection)).await;
            match answer.map_err(|_| Trouble::Silent)? {
                Ok(_) => return Ok(link),
                Err(error) if Trouble::of(&error) != Some(Trouble::LoginRefused) => {
                    return Err(Trouble::of(&error).unwrap_or(Trouble::Strange));
                }
                Err(_) => {}
            }
        }
        let login = self.login.clone().set_db(0);
        self.connect(place, &login, AsyncConnectionConfig::new()).await
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
    pub(super) fn new(place: Place) -> Arc<Self> {
        Arc::new(Self {
            place,
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

    /// `live` does not answer as it should: nobody uses it any more, and another is made.
    pub(super) fn doubt(&self, live: &Live, trouble: Trouble) {
        let mut current = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| current.number == live.number) {
            *current = None;
            self.set_trouble(Some(trouble));
            live.lost.notify_one();
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
        // What the log was told, until it is over.
        let mut logged: Option<Trouble> = None;
        let server = self.place.to_string();
        loop {
            let begun = Instant::now();
            let made = timeout(CONNECT_MAX, self.pair(&ways, &news)).await.unwrap_or(Err(Trouble::Silent));
            let pause = match made {
                Ok(pair) => {
                    let number = self.number.fetch_add(1, Ordering::Relaxed);
                    // What was kept meanwhile may have changed unheard.
                    news.everything();
                    news.connected(number > 0);
                    let (connection, lost) = (pair.commands.connection.clone(), Arc::clone(&pair.lost));
                    *self.live.lock().unwrap_or_else(PoisonError::into_inner) =
                        Some(Live { connection, number, lost });
                    self.set_trouble(None);
                    self.have_tried();
                    if logged.take().is_some() {
                        tracing::info!(server, "a Redis of the cache works again");
                    }
                    let trouble = self.listen(pair).await;
                    *self.live.lock().unwrap_or_else(PoisonError::into_inner) = None;
                    // A doubt has said more.
                    if self.trouble().is_none() {
                        self.set_trouble(Some(trouble));
                    }
                    tell_of(&server, self.trouble().unwrap_or(trouble), &mut logged);
                    news.everything();
                    news.changed.notify_one();
                    if begun.elapsed() > PULSE {
                        pauses = PAUSES.build();
                    }
                    pauses.next()
                }
                Err(trouble) => {
                    self.set_trouble(Some(trouble));
                    self.have_tried();
                    tell_of(&server, trouble, &mut logged);
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
        let id: u64 = cmd("CLIENT").arg("ID").query_async(&mut asked).await.map_err(strange)?;
        let mut tracked = commands.connection.clone();
        let mut tracking = cmd("CLIENT");
        tracking.arg("TRACKING").arg("ON").arg("REDIRECT").arg(id);
        tracking.arg("BCAST").arg("PREFIX").arg(PREFIX).arg("NOLOOP");
        tracking.exec_async(&mut tracked).await.map_err(strange)?;
        Ok(Pair { listening, commands, lost })
    }

    /// Holds both connections until one is lost, or does not answer; which.
    async fn listen(&self, pair: Pair) -> Trouble {
        let mut asked = [pair.listening.connection.clone(), pair.commands.connection.clone()];
        loop {
            tokio::select! {
                () = pair.lost.notified() => return Trouble::Unreachable,
                () = sleep(PULSE) => {}
            }
            for connection in &mut asked {
                match timeout(CONNECT_MAX, cmd("PING").query_async::<redis::Value>(connection)).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => match Trouble::of(&error) {
                        Some(trouble) if trouble.ends_connection() => return trouble,
                        // It answers.
                        _ => {}
                    },
                    Err(_) => return Trouble::Silent,
                }
            }
        }
    }
}

/// Tells the log of what is wrong with a server: when it begins, and when it turns into what somebody has to mend.
fn tell_of(server: &str, trouble: Trouble, logged: &mut Option<Trouble>) {
    if logged.is_none_or(|known| known != trouble && trouble.is_lasting()) {
        tracing::warn!(server, reason = %trouble, "a Redis of the cache cannot be used; calls go on without it");
        *logged = Some(trouble);
    }
}
