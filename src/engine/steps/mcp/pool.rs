//! The servers of a process and what is open of them.
//!
//! There is one connection for each server, principal and project. None is ever shared between two principals or two
//! projects: a server may keep what it was told (a session, a cache, a working folder), and would carry it across the
//! wall between them. Agents and sessions of one project share, as they share its memories.
//!
//! A connection is opened by the first call that needs it; whoever comes meanwhile waits for the same one. It is opened
//! in a task of its own: a server that takes longer to start than its first caller can wait is there for the second.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    child::{Launch, Process},
    connection::{Connection, Fault, Greeting, Parts, Taken, Tools, not_started},
    http,
    pipe::{Fate, Heard, Pipe},
    setting::{Reach, ServerSetting, WorkingFolder},
};
use crate::{
    engine::{ErrorKind, Outside, Workspace, Workspaces, steps::StepError},
    scope::Scope,
};

/// Connections in all.
const CONNECTIONS_MAX: usize = 64;
/// After a server failed it is left alone for so long, doubled with each further failure,
const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// up to this.
const BACKOFF_MAX: Duration = Duration::from_mins(1);
/// Everything is ended after so long, one way or another.
const CLOSE_MAX: Duration = Outside::CLOSE_MAX;

/// Whether a call in this scope may use a server.
pub type Admits = Box<dyn Fn(&ServerSetting, &Scope) -> bool + Send + Sync>;

/// Where the workspace of a scope is.
type FindRoot = Box<dyn Fn(&Scope) -> Option<PathBuf> + Send + Sync>;

/// The servers, by name.
#[derive(Default)]
pub struct Servers {
    settings: BTreeMap<String, Arc<ServerSetting>>,
    admits: Option<Admits>,
    find_root: Option<FindRoot>,
    home: Option<PathBuf>,
    pool: Arc<Pool>,
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Servers").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Whose a connection is.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    server: String,
    project: String,
    principal: String,
}

#[derive(Default)]
struct Pool {
    slots: Mutex<HashMap<Key, Arc<Slot>>>,
    closed: CancellationToken,
}

/// One connection, or its absence. Its lock is held while it is opened.
#[derive(Default)]
struct Slot {
    state: Arc<tokio::sync::Mutex<State>>,
    /// The open connection, for those who must not wait for the lock.
    open: Mutex<Weak<Connection>>,
}

#[derive(Default)]
struct State {
    connection: Option<Arc<Connection>>,
    /// Failures in a row.
    failures: u32,
    /// Why the last one was, and until when nobody tries again.
    failed: Option<(String, Instant)>,
    greeting: Option<Greeting>,
}

impl State {
    /// Nobody tries again for a while, the longer the more often it failed; how long.
    fn wait(&mut self, why: String) -> Duration {
        let factor = 1_u32 << self.failures.saturating_sub(1).min(16);
        let pause = BACKOFF_MIN.saturating_mul(factor).min(BACKOFF_MAX);
        self.failed = Some((why, Instant::now() + pause));
        pause
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) struct Unconnected {
    pub(super) error: StepError,
    pub(super) how: How,
}

/// What that says of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// It was tried, and is not tried again for so long.
    Failed(Duration),
    /// It was not tried, and is not for so long, since it failed before.
    LeftAlone(Duration),
    /// It is being started for somebody else, who tells how that went.
    Starting,
    /// It did not start in its caller's time.
    Late,
    /// Nothing: it was not tried.
    Unsaid,
}

impl From<StepError> for Unconnected {
    fn from(error: StepError) -> Self {
        Self { error, how: How::Unsaid }
    }
}

impl Servers {
    /// The servers of the configuration. `home` is where those work that have nothing to do with a project. Nothing is
    /// started.
    #[must_use]
    pub fn new(
        settings: impl IntoIterator<Item = (String, ServerSetting)>,
        admits: Admits,
        workspaces: Arc<dyn Workspaces>,
        home: Option<PathBuf>,
    ) -> Self {
        let find_root: FindRoot = Box::new(move |scope| match workspaces.workspace(scope) {
            Workspace::Root(root) => Some(root),
            Workspace::None { .. } => None,
        });
        Self {
            settings: settings.into_iter().map(|(name, setting)| (name, Arc::new(setting))).collect(),
            admits: Some(admits),
            find_root: Some(find_root),
            home,
            pool: Arc::default(),
        }
    }

    /// Those that a call in `scope` may use.
    pub(super) fn of<'a>(&'a self, scope: &'a Scope) -> impl Iterator<Item = (&'a str, &'a ServerSetting)> {
        self.settings
            .iter()
            .filter(|(_, setting)| self.admits.as_ref().is_some_and(|admits| admits(setting, scope)))
            .map(|(name, setting)| (name.as_str(), &**setting))
    }

    /// Whether a call in `scope` may use the server `name`.
    #[must_use]
    pub fn offers(&self, scope: &Scope, name: &str) -> bool {
        self.of(scope).any(|(own, _)| own == name)
    }

    /// All of them, by name.
    pub fn settings(&self) -> impl Iterator<Item = (&str, &ServerSetting)> {
        self.settings.iter().map(|(name, setting)| (name.as_str(), &**setting))
    }

    /// Connections that are open.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        let slots = self.pool.slots();
        slots.values().filter(|slot| slot.connection().is_some_and(|open| !open.is_over())).count()
    }

    /// The connection of `scope` with `server`, opened if need be.
    ///
    /// # Errors
    /// `program_failed`, `deadline`, `busy`, `denied`.
    pub(super) async fn connect(
        &self,
        server: &str,
        scope: &Scope,
        deadline: Instant,
    ) -> Result<Taken, Unconnected> {
        let failed = |kind, message: String| StepError::new(kind, format!("server {server}: {message}"));
        let setting = self
            .settings
            .get(server)
            .ok_or_else(|| StepError::new(ErrorKind::Denied, format!("no server {server} is configured")))?;
        if self.pool.closed.is_cancelled() {
            return Err(failed(ErrorKind::ProgramFailed, "tmws is ending".to_owned()).into());
        }
        let key = Key {
            server: server.to_owned(),
            project: scope.project().to_string(),
            principal: scope.principal().to_owned(),
        };
        let slot = self.pool.slot(&key, setting.processes).map_err(|why| failed(ErrorKind::Busy, why))?;
        // The common case waits for nobody.
        if let Some(taken) = slot.connection().as_ref().and_then(Connection::take) {
            return Ok(taken);
        }
        let late = || {
            let why = "it is still starting; it goes on without this call, so ask again".to_owned();
            failed(ErrorKind::Deadline, why)
        };
        let state = tokio::time::timeout_at(deadline, Arc::clone(&slot.state).lock_owned());
        let mut state = state.await.map_err(|_| Unconnected { error: late(), how: How::Starting })?;
        if let Some(taken) = state.connection.as_ref().and_then(Connection::take) {
            return Ok(taken);
        }
        state.connection = None;
        if let Some((why, until)) = &state.failed
            && *until > Instant::now()
        {
            let rest = *until - Instant::now();
            let told = format!(
                "{why}; after {} failures it is tried again in {} ms",
                state.failures,
                rest.as_millis()
            );
            let error = failed(ErrorKind::ProgramFailed, told).again_after(Some(rest));
            return Err(Unconnected { error, how: How::LeftAlone(rest) });
        }
        let root = match &setting.reach {
            Reach::Command { folder: WorkingFolder::Project, .. } => {
                let root = self.find_root.as_ref().and_then(|find| find(scope));
                Some(root.ok_or_else(|| {
                    let why = "it works in the project's root, and this project has none here".to_owned();
                    failed(ErrorKind::Denied, why)
                })?)
            }
            Reach::Command { .. } | Reach::Url { .. } | Reach::Scripted(_) => None,
        };
        let opening = Opening {
            name: server.to_owned(),
            setting: Arc::clone(setting),
            root,
            home: self.home.clone().filter(|home| home.is_dir()).unwrap_or_else(|| PathBuf::from("/")),
        };
        let (pool, slot) = (Arc::clone(&self.pool), Arc::clone(&slot));
        let task = tokio::spawn(async move {
            let opened = tokio::select! {
                biased;
                () = pool.closed.cancelled() => Err(Fault::Failed("tmws is ending".to_owned())),
                opened = opening.open(&mut state.greeting) => opened,
            };
            match opened {
                Ok(connection) => {
                    let connection = Arc::new(connection);
                    state.failed = None;
                    state.connection = Some(Arc::clone(&connection));
                    slot.set(&connection);
                    let taken = connection.take();
                    let idle = opening.setting.idle;
                    tokio::spawn(watch(connection, idle, Arc::downgrade(&pool), key));
                    taken.ok_or_else(|| (Fault::Failed("it ended at once".to_owned()), Duration::ZERO))
                }
                Err(fault) => {
                    state.failures = state.failures.saturating_add(1);
                    let pause = state.wait(fault.to_string());
                    Err((fault, pause))
                }
            }
        });
        match tokio::time::timeout_at(deadline, task).await {
            Ok(Ok(opened)) => opened.map_err(|(fault, pause)| {
                let error = failed(ErrorKind::ProgramFailed, fault.to_string());
                Unconnected { error, how: How::Failed(pause) }
            }),
            Ok(Err(_)) => Err(failed(ErrorKind::ProgramFailed, "its start broke off".to_owned()).into()),
            Err(_) => Err(Unconnected { error: late(), how: How::Late }),
        }
    }

    /// A call went well: what failed before is forgotten.
    pub(super) fn served(&self, server: &str, scope: &Scope) {
        let key = Key {
            server: server.to_owned(),
            project: scope.project().to_string(),
            principal: scope.principal().to_owned(),
        };
        let slot = self.pool.slots().get(&key).cloned();
        if let Some(slot) = slot
            && let Ok(mut state) = slot.state.try_lock()
        {
            state.failures = 0;
        }
    }

    /// What `server` lists now, whoever may use it.
    ///
    /// # Errors
    /// As a call of one of its tools.
    pub(super) async fn listing(&self, server: &str, scope: &Scope) -> Result<Tools, StepError> {
        let limit = self.settings.get(server).map_or(ServerSetting::START.1, |setting| setting.start * 2);
        let deadline = Instant::now() + limit;
        let taken = self.connect(server, scope, deadline).await.map_err(|unconnected| unconnected.error)?;
        taken
            .tools(deadline, limit)
            .await
            .map_err(|fault| StepError::new(ErrorKind::ProgramFailed, format!("server {server}: {fault}")))
    }

    /// Ends every server that was started, and starts no other.
    pub async fn close(&self) {
        self.pool.closed.cancel();
        let slots: Vec<_> = self.pool.slots().drain().map(|(_, slot)| slot).collect();
        let ending = slots.into_iter().map(|slot| async move {
            if let Some(connection) = slot.state.lock().await.connection.take() {
                connection.end().await;
            }
        });
        let _ = timeout(CLOSE_MAX, join_all(ending)).await;
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // Whoever starts a server now gives up; what runs ends with its connection.
        self.pool.closed.cancel();
    }
}

impl Pool {
    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot of `key`, made if there is room: else in place of one that nobody uses, the longest first.
    fn slot(&self, key: &Key, processes: usize) -> Result<Arc<Slot>, String> {
        let mut slots = self.slots();
        if let Some(slot) = slots.get(key) {
            return Ok(Arc::clone(slot));
        }
        let of_server = slots.keys().filter(|other| other.server == key.server).count();
        let full = of_server >= processes;
        if full || slots.len() >= CONNECTIONS_MAX {
            let idle = slots
                .iter()
                .filter(|(other, _)| !full || other.server == key.server)
                .filter_map(|(other, slot)| Some((slot.idle_since()?, other.clone())))
                .min_by_key(|(since, _)| *since);
            let Some((_, other)) = idle else {
                return Err(format!(
                    "{of_server} of it are in use for other principals and projects; ask again later"
                ));
            };
            if let Some(slot) = slots.remove(&other)
                && let Some(connection) = slot.connection()
            {
                connection.retire();
            }
        }
        let slot = Arc::new(Slot::default());
        slots.insert(key.clone(), Arc::clone(&slot));
        Ok(slot)
    }
}

impl Slot {
    fn connection(&self) -> Option<Arc<Connection>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).upgrade()
    }

    fn set(&self, connection: &Arc<Connection>) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(connection);
    }

    /// Since when nobody has used it; `None` while somebody does, or opens it.
    fn idle_since(&self) -> Option<Instant> {
        let state = self.state.try_lock().ok()?;
        match &state.connection {
            Some(connection) if !connection.is_over() => connection.idle_since(),
            // Long enough for anybody.
            Some(_) | None => {
                Some(Instant::now().checked_sub(Duration::from_hours(1)).unwrap_or_else(Instant::now))
            }
        }
    }
}

/// Ends a connection when nobody has used it for `idle`, or when its server has.
async fn watch(connection: Arc<Connection>, idle: Duration, pool: Weak<Pool>, key: Key) {
    let mut next = Instant::now() + idle;
    loop {
        tokio::select! {
            () = connection.over() => break,
            () = sleep_until(next) => match connection.retire_idle(idle) {
                Some(later) => next = later,
                None => break,
            },
        }
    }
    let broke = connection.has_broken();
    connection.end().await;
    let Some(pool) = pool.upgrade() else { return };
    let slot = pool.slots().get(&key).cloned();
    let Some(slot) = slot else { return };
    let mut state = slot.state.lock().await;
    if state.connection.as_ref().is_some_and(|own| Arc::ptr_eq(own, &connection)) {
        state.connection = None;
    }
    if broke {
        let why = connection.told().unwrap_or("it closed the connection").to_owned();
        tracing::info!(server = key.server, why, "a server broke off; the next call starts it again");
        // The first time may be chance, and is made good at once.
        if state.failures > 0 {
            state.wait(why);
        }
        state.failures = state.failures.saturating_add(1);
    }
    // A slot is kept for what is known of its server.
    let is_empty = state.connection.is_none() && state.failures == 0;
    drop(state);
    if is_empty {
        let mut slots = pool.slots();
        // Held by the table and by us: nobody is about to use it.
        if slots.get(&key).is_some_and(|own| Arc::ptr_eq(own, &slot) && Arc::strong_count(own) == 2) {
            slots.remove(&key);
        }
    }
}

/// What a connection is opened with.
struct Opening {
    name: String,
    setting: Arc<ServerSetting>,
    root: Option<PathBuf>,
    home: PathBuf,
}

impl Opening {
    /// Opens it, within its time. A server that refuses the old greeting is greeted the new way from then on.
    async fn open(&self, greeting: &mut Option<Greeting>) -> Result<Connection, Fault> {
        let limit = self.setting.start;
        let opening = async {
            if let Some(known) = *greeting {
                return self.greet(known).await;
            }
            let (opened, by) = match self.greet(Greeting::Legacy).await {
                Err(Fault::Refused(_)) => (self.greet(Greeting::Modern).await, Greeting::Modern),
                other => (other, Greeting::Legacy),
            };
            if opened.is_ok() {
                *greeting = Some(by);
            }
            opened
        };
        timeout(limit, opening)
            .await
            .unwrap_or_else(|_| Err(Fault::Failed(format!("it was not ready within {limit:?}"))))
    }

    async fn greet(&self, greeting: Greeting) -> Result<Connection, Fault> {
        let (fate, heard) = (Arc::<Fate>::default(), Arc::<Heard>::default());
        match &self.setting.reach {
            Reach::Command { argv, environment, passed_on, folder } => {
                let folder: &Path = match folder {
                    WorkingFolder::Home => &self.home,
                    WorkingFolder::Project => self.root.as_deref().unwrap_or(&self.home),
                    WorkingFolder::Fixed(folder) => folder,
                };
                let launch = Launch { name: &self.name, argv, environment, passed_on, folder };
                let program = argv.first().map_or("", String::as_str);
                let (process, input, output) = Process::start(&launch, Arc::clone(&fate))
                    .map_err(|error| not_started(program, &error))?;
                let transport =
                    Pipe::new(input, output, self.root.clone(), Arc::clone(&fate), Arc::clone(&heard));
                let root = self.root.clone();
                Connection::open(Parts { transport, process: Some(process), root, fate, heard }, greeting)
                    .await
            }
            Reach::Scripted(script) => {
                let (output, input) = tokio::io::split(script.start());
                let transport = Pipe::new(input, output, None, Arc::clone(&fate), Arc::clone(&heard));
                Connection::open(Parts { transport, process: None, root: None, fate, heard }, greeting).await
            }
            Reach::Url { url, headers, token_variable } => {
                let transport = http::transport(url, headers, token_variable.as_deref())
                    .map_err(|error| Fault::Failed(error.to_string()))?;
                Connection::open(Parts { transport, process: None, root: None, fate, heard }, greeting).await
            }
        }
    }
}
