//! What scenarios act on: servers of this program, of PostgreSQL and of Redis, all of the run's own, all on loopback,
//! all gone afterwards.
//!
//! Everything that a run starts or makes stands in its [`Ledger`] first: whatever ends a run, also SIGKILL, the next one
//! clears away what it left.

mod instance;
mod ledger;
mod postgres;
mod process;
mod redis;
mod sabotage;
mod versions;

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

pub(super) use self::postgres::connect;
use self::sabotage::AtWork;
pub use self::{
    instance::{ADMIN, AGENTS, Instance, Person, Setup, Where},
    ledger::Ledger,
    postgres::{Database, Postgres},
    process::{Held, Program},
    redis::Redis,
    sabotage::{ByHand, Sabotage, Spoil},
};
use super::{Profile, client::Target, scenario::Broken};

/// Where what a run needs is found.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// This program.
    pub tmws: PathBuf,
    /// `PATH`.
    pub path: OsString,
    /// A PostgreSQL server on which the run may make databases of its own.
    pub postgres_url: Option<String>,
    /// The folder of `initdb` and `postgres`, where they are not on `PATH`.
    pub postgres_bin: Option<PathBuf>,
    /// A Redis server on which the run may keep keys of its own.
    pub redis_url: Option<String>,
    /// The folder of `redis-server`, where it is not on `PATH`.
    pub redis_bin: Option<PathBuf>,
}

/// What scenarios act on.
pub struct Stage {
    /// How much is done.
    pub profile: Profile,
    /// The same seed draws the same questions.
    pub seed: u64,
    /// Cancelled when the run is to end.
    pub cancel: CancellationToken,
    /// The server of somebody else that scenarios act on instead of ours.
    pub target: Option<Target>,
    given: Given,
    ledger: Arc<Ledger>,
    postgres: OnceCell<Arc<Postgres>>,
    redis: OnceCell<Arc<Redis>>,
    made: AtomicU64,
    /// The scenario that runs.
    scenario: Mutex<&'static str>,
    sabotage: AtWork,
}

impl Stage {
    /// An empty one. What earlier runs left is cleared away first.
    ///
    /// # Errors
    /// No folder for what the run keeps can be made.
    pub async fn new(
        given: Given,
        profile: Profile,
        seed: u64,
        cancel: CancellationToken,
    ) -> std::io::Result<Self> {
        let ledger = Arc::new(Ledger::open()?);
        ledger.clear_others().await;
        Ok(Self {
            profile,
            seed,
            cancel,
            target: None,
            given,
            ledger,
            postgres: OnceCell::new(),
            redis: OnceCell::new(),
            made: AtomicU64::new(0),
            scenario: Mutex::new(""),
            sabotage: AtWork::default(),
        })
    }

    /// From now on, everything is done for this scenario.
    pub fn begins(&self, scenario: &'static str) {
        *self.scenario.lock().unwrap_or_else(PoisonError::into_inner) = scenario;
    }

    /// What is made wrong in the scenario that runs.
    fn sabotage(&self) -> Option<&AtWork> {
        let scenario = *self.scenario.lock().unwrap_or_else(PoisonError::into_inner);
        Some(&self.sabotage).filter(|sabotage| sabotage.is_of(scenario))
    }

    /// A name that nothing else of this run has, and no other run: `tmws_accept_…`.
    pub fn name(&self, of: &str) -> String {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        format!("{}{of}_{number}", self.prefix())
    }

    /// Before all names of this run, and of no other.
    fn prefix(&self) -> String {
        format!("tmws_accept_{}_", self.ledger.mark())
    }

    /// An empty folder of the run's own.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn folder(&self, of: &str) -> Result<PathBuf, Broken> {
        let folder = self.ledger.folder().join(self.name(of));
        std::fs::create_dir_all(&folder)
            .map_err(|error| Broken::new(format!("making {}", folder.display()), "a folder", error))?;
        Ok(folder)
    }

    /// The PostgreSQL server: the given one, else one of the run's own, started when it is first asked for.
    ///
    /// # Errors
    /// There is none, or it does not start.
    pub async fn postgres(&self) -> Result<&Arc<Postgres>, Broken> {
        self.postgres
            .get_or_try_init(|| async {
                match &self.given.postgres_url {
                    Some(url) => {
                        Postgres::given(url, &self.ledger).await.map(Arc::new).map_err(Broken::missing)
                    }
                    None => self.own_postgres().await.map(Arc::new),
                }
            })
            .await
    }

    /// A PostgreSQL server that may be stopped and killed; its data survives both.
    ///
    /// # Errors
    /// Its programs are not found, or it does not start.
    pub async fn own_postgres(&self) -> Result<Postgres, Broken> {
        let programs = self.programs("postgres", self.given.postgres_bin.as_deref())?;
        let settings = self.sabotage().map_or(&[][..], AtWork::postgres_settings);
        Postgres::start(&programs, &self.folder("postgres")?, settings, &self.ledger).await
    }

    /// The Redis server: the given one, else one of the run's own, started when it is first asked for.
    ///
    /// # Errors
    /// There is none, or it does not start.
    pub async fn redis(&self) -> Result<&Arc<Redis>, Broken> {
        self.redis
            .get_or_try_init(|| async {
                match &self.given.redis_url {
                    Some(url) => {
                        let server = Redis::given(url);
                        server.ask::<String>(&["PING"]).await.map_err(Broken::missing)?;
                        self.ledger.makes_keys(url, &self.prefix());
                        Ok(Arc::new(server))
                    }
                    None => self.own_redis(&[]).await.map(Arc::new),
                }
            })
            .await
    }

    /// A Redis server that may be stopped and killed, with lines of its configuration.
    ///
    /// # Errors
    /// Its program is not found, or it does not start.
    pub async fn own_redis(&self, lines: &[&str]) -> Result<Redis, Broken> {
        let programs = self.programs("redis-server", self.given.redis_bin.as_deref())?;
        let lines = [lines, self.sabotage().map_or(&[], AtWork::redis_lines)].concat();
        Redis::start(&programs, &self.folder("redis")?, &lines, &self.ledger).await
    }

    /// Starts a server of this program, and waits until it listens.
    ///
    /// # Errors
    /// It does not; with the end of its log.
    pub async fn start(&self, mut setup: Setup) -> Result<Instance, Broken> {
        let Some(sabotage) = self.sabotage() else { return Instance::start(self, setup).await };
        let number = sabotage.number();
        sabotage.prepare(self, &mut setup, number).await?;
        let mut instance = Instance::start(self, setup).await?;
        sabotage.spoil(&mut instance, number).await?;
        Ok(instance)
    }

    /// Where clients find a server that was not started by [`Stage::start`].
    ///
    /// # Errors
    /// Something was to be put between, and could not.
    pub async fn way(&self, address: SocketAddr) -> Result<SocketAddr, Broken> {
        match self.sabotage() {
            Some(sabotage) => sabotage.way(address).await,
            None => Ok(address),
        }
    }

    /// Told of each command that was run by hand on the store at `store`.
    ///
    /// # Errors
    /// The store was to be spoilt, and could not.
    pub fn ran(&self, store: &str, arguments: &[&str]) -> Result<(), Broken> {
        self.sabotage().map_or(Ok(()), |sabotage| sabotage.after(store, arguments))
    }

    /// This program, to be run with a home of its own.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.given.tmws
    }

    /// `PATH`, as the run was given it.
    #[must_use]
    pub fn path(&self) -> &OsString {
        &self.given.path
    }

    /// Where what is started and made is noted.
    #[must_use]
    pub const fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// The folder that holds the program `name`.
    fn programs(&self, name: &str, bin: Option<&Path>) -> Result<PathBuf, Broken> {
        let on_path = std::env::split_paths(&self.given.path);
        // Debian keeps the servers of each version apart, and off PATH.
        let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let debian = debian.map(|version| version.path().join("bin"));
        bin.map(Path::to_owned)
            .into_iter()
            .chain(on_path)
            .chain(debian)
            .find(|folder| folder.join(name).is_file())
            .ok_or_else(|| {
                Broken::new(
                    format!("looking for {name}"),
                    format!("{name} on PATH"),
                    "it is not there; install it, give the folder or the address of a server (`tmws accept --help`), \
                     or waive it with --without",
                )
                .missing()
            })
    }

    /// `count` names of projects that nothing else of this run has, and no other run. They are kept until its end.
    pub fn projects(&self, of: &str, count: usize) -> &'static [&'static str] {
        let names: Vec<&'static str> = (0..count).map(|_| &*self.name(of).leak()).collect();
        names.leak()
    }

    /// A port that was free just now.
    ///
    /// # Errors
    /// There is none.
    pub fn free_port(&self) -> Result<u16, Broken> {
        postgres::free_port()
    }

    /// Ends and removes everything.
    pub async fn close(&self) {
        self.ledger.clear().await;
    }
}
