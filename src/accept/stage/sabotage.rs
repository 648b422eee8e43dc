//! What is made wrong on purpose with all that a scenario starts. A scenario that stays green then cannot fail.

use std::{
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Mutex as Turn;

use super::{Database, Instance, Program, Setup, Stage, Where};
use crate::accept::{proxy::Proxy, scenario::Broken};

/// The tables of a store are made within this.
const MADE_MAX: Duration = Duration::from_mins(1);

/// Spoils what a proxy passes. Beside it the number of the server behind it, or before it, in the order in which the run
/// started those that the sabotage is done to: from 0.
pub type Spoil = fn(&Arc<Proxy>, usize);

/// Spoils a store: its address, and the arguments of the command that was run on it.
pub type ByHand = fn(&str, &[&str]) -> io::Result<()>;

/// What is made wrong. The program under test is not touched: only what it is told, and what stands around it.
#[derive(Clone, Debug, Default)]
pub struct Sabotage {
    /// The scenario that it is done to: to all of them where it is left out.
    pub scenario: Option<&'static str>,
    /// How a server is set up.
    pub setup: Option<fn(&mut Setup, usize)>,
    /// Between a server and its clients.
    pub clients: Option<Spoil>,
    /// Between a server that is none of this program and its clients.
    pub others: Option<Spoil>,
    /// Between a server and Redis. A cluster stays as it is: its nodes send clients to one another past any proxy.
    pub redis: Option<Spoil>,
    /// Between a server and its database.
    pub database: Option<Spoil>,
    /// Run in the database of each server before that starts, with the tables made: so it may meet what it made itself.
    pub sql: Option<&'static str>,
    /// What becomes of a store behind each command of the program that a scenario runs on it by hand.
    pub by_hand: Option<ByHand>,
    /// Settings of every PostgreSQL that is started, over those that it has else: `NAME=VALUE`.
    pub postgres_settings: &'static [&'static str],
    /// Lines of the configuration of every Redis that is started, behind a scenario's own.
    pub redis_lines: &'static [&'static str],
    /// Makes of the folder of the task set, and of an empty folder of the run's own, the folder that is measured instead.
    pub task_set: Option<fn(&Path, &Path) -> io::Result<PathBuf>>,
}

/// A sabotage at work: the proxies that it put between.
#[derive(Default)]
pub(super) struct AtWork {
    what: Sabotage,
    /// Servers that it was done to.
    started: AtomicUsize,
    proxies: Mutex<Vec<Arc<Proxy>>>,
    /// Of servers that start at once on one database, one after the other spoils it.
    turn: Turn<()>,
}

impl AtWork {
    pub(super) fn new(what: Sabotage) -> Self {
        Self { what, ..Self::default() }
    }

    pub(super) fn is_of(&self, scenario: &str) -> bool {
        self.what.scenario.is_none_or(|only| only == scenario)
    }

    pub(super) const fn redis_lines(&self) -> &'static [&'static str] {
        self.what.redis_lines
    }

    pub(super) const fn postgres_settings(&self) -> &'static [&'static str] {
        self.what.postgres_settings
    }

    /// Of a server that is about to start: how many it was done to before.
    pub(super) fn number(&self) -> usize {
        self.started.fetch_add(1, Ordering::Relaxed)
    }

    /// What a server that is about to start is told, and what it finds in its database.
    pub(super) async fn prepare(
        &self,
        stage: &Stage,
        setup: &mut Setup,
        number: usize,
    ) -> Result<(), Broken> {
        if let Some(change) = self.what.setup {
            change(setup, number);
        }
        if let (Some(sql), Where::Database(url)) = (self.what.sql, &setup.store) {
            let _turn = self.turn.lock().await;
            make_tables(stage, url).await?;
            Database::at(url).run(sql).await?;
        }
        if let (Some(spoil), Some(url)) = (self.what.redis, &mut setup.redis)
            && !url.contains("+cluster://")
        {
            *url = self.rerouted(url, spoil, number).await?;
        }
        if let (Some(spoil), Where::Database(url)) = (self.what.database, &mut setup.store) {
            *url = self.rerouted(url, spoil, number).await?;
        }
        Ok(())
    }

    /// What becomes of a server that has started.
    pub(super) async fn spoil(&self, instance: &mut Instance, number: usize) -> Result<(), Broken> {
        if let Some(spoil) = self.what.clients {
            instance.address = self.between(instance.address, spoil, number).await?;
        }
        Ok(())
    }

    /// What becomes of a store behind a command that was run on it by hand.
    pub(super) fn after(&self, store: &str, arguments: &[&str]) -> Result<(), Broken> {
        let Some(spoil) = self.what.by_hand else { return Ok(()) };
        spoil(store, arguments).map_err(|error| Broken::new("spoiling a store", "it is changed", error))
    }

    /// Where clients find the server at `address`, which is none of this program.
    pub(super) async fn way(&self, address: SocketAddr) -> Result<SocketAddr, Broken> {
        let Some(spoil) = self.what.others else { return Ok(address) };
        self.between(address, spoil, self.number()).await
    }

    async fn between(&self, address: SocketAddr, spoil: Spoil, number: usize) -> Result<SocketAddr, Broken> {
        let proxy = Arc::new(Proxy::start(address).await?);
        spoil(&proxy, number);
        let address = proxy.address();
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner).push(proxy);
        Ok(address)
    }

    /// `url`, whose server is an address with a port, through a proxy.
    async fn rerouted(&self, url: &str, spoil: Spoil, number: usize) -> Result<String, Broken> {
        let unknown =
            || Broken::new("putting a proxy before a server", "a URL with an address and a port", url);
        let (_, rest) = url.split_once("://").ok_or_else(unknown)?;
        let place = rest.split(['/', '?']).next().unwrap_or(rest);
        let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
        let proxy = self.between(place.parse().map_err(|_| unknown())?, spoil, number).await?;
        Ok(url.replacen(place, &proxy.to_string(), 1))
    }
}

/// Has the program make the tables of the store at `url`: a server makes them when it first needs them.
async fn make_tables(stage: &Stage, url: &str) -> Result<(), Broken> {
    let home = stage.folder("sabotage")?;
    let mut program = Program::new(stage.program(), stage.path(), false);
    program
        .command()
        .args(["memory", "search", "nothing"])
        .current_dir(&home)
        .env("HOME", &home)
        .env("TMWS_DATABASE_URL", url);
    // Where it fails there are tables, or what is run next says that there are none.
    program.run("tmws memory search", MADE_MAX).await.map(drop)
}

impl Stage {
    /// Everything that is started from now on is sabotaged.
    #[must_use]
    pub fn sabotaged(mut self, sabotage: Sabotage) -> Self {
        self.sabotage = AtWork::new(sabotage);
        self
    }

    /// The folder that is read as the task set, which lies in `found`.
    ///
    /// # Errors
    /// Another one was to be read, and cannot be made.
    pub fn task_set(&self, found: PathBuf) -> Result<PathBuf, Broken> {
        let Some(change) = self.sabotage().and_then(|sabotage| sabotage.what.task_set) else {
            return Ok(found);
        };
        let changed = change(&found, &self.folder("task_set")?);
        changed.map_err(|error| Broken::new("changing the task set", "a folder", error))
    }
}
