//! Puts the parts of one process together, for the local user. Nothing here opens or reads anything: each part does
//! when it is first needed.

use std::{
    path::Path,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    config::{Config, DatabaseUrl},
    engine::{
        Clock, Engine, EngineSettings, LibraryHandle, RootSources, Workspace, Workspaces, project_of,
        resolve_root,
    },
    scope::{ProjectId, Scope},
    store::{LazyStore, SharedStore, SqliteOptions},
    tool::{Folders, Parts, PatternSource, Payload, Shelf, TmwsService},
};

/// The principal of whoever runs the binary.
pub const LOCAL_PRINCIPAL: &str = "local";

/// The clock on the wall.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// Where the local user works, found out at the first use.
struct Place {
    workspace: Workspace,
    project: ProjectId,
}

type LazyPlace = LazyLock<Place, Box<dyn FnOnce() -> Place + Send>>;

struct LocalWorkspaces(Arc<LazyPlace>);

impl Workspaces for LocalWorkspaces {
    fn workspace(&self, _: &Scope) -> Workspace {
        self.0.workspace.clone()
    }
}

/// The parts of a process that serves one local user.
pub struct Local {
    /// Runs patterns.
    pub engine: Arc<Engine>,
    /// The patterns.
    pub shelf: Arc<Shelf>,
    /// Where their files are.
    pub folders: Arc<Folders>,
    /// Memories, sessions and results.
    pub store: SharedStore,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Longest that a call may take.
    pub call_deadline: Duration,
    /// Whether somebody set that, rather than leaving the default.
    pub call_deadline_is_set: bool,
    place: Arc<LazyPlace>,
    agent: String,
    payload: Payload,
}

impl Local {
    /// The parts that `config` describes.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let DatabaseUrl::Sqlite(path) = &config.database;
        let options = SqliteOptions { limits: config.store, ..SqliteOptions::new(path) };
        let store: SharedStore = Arc::new(LazyStore::new(options));
        let (root, home, given) = (config.root.clone(), config.home.clone(), !config.is_default("root"));
        let place: Arc<LazyPlace> =
            Arc::new(LazyLock::new(Box::new(move || find_place(&root, given, home.as_deref()))));
        let rooted = Arc::clone(&place);
        let folders = Arc::new(Folders {
            user: config.pattern_folders.clone(),
            project: config.repository_pattern_folders.clone(),
            root: Box::new(move || match &rooted.workspace {
                Workspace::Root(root) => Some(root.clone()),
                Workspace::None { .. } => None,
            }),
            trust: config.user_folder.as_ref().map(|folder| folder.join("trust.json")),
            library: Mutex::default(),
        });
        let shelf = Shelf::new(Arc::clone(&folders) as Arc<dyn PatternSource>);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let engine = Arc::new(Engine::new(
            Arc::clone(&shelf) as LibraryHandle,
            SharedStore::clone(&store),
            Arc::new(LocalWorkspaces(Arc::clone(&place))),
            Arc::clone(&clock),
            EngineSettings::default(),
        ));
        Self {
            engine,
            shelf,
            folders,
            store,
            clock,
            call_deadline: config.connection.call_deadline,
            call_deadline_is_set: !config.is_default("limits.call_deadline"),
            place,
            agent: config.agent.clone(),
            payload: config.payload,
        }
    }

    /// What serves MCP calls with these parts.
    #[must_use]
    pub fn service(&self) -> Arc<TmwsService> {
        TmwsService::new(Parts {
            engine: Arc::clone(&self.engine),
            shelf: Arc::clone(&self.shelf),
            store: SharedStore::clone(&self.store),
            clock: Arc::clone(&self.clock),
            payload: self.payload,
        })
    }

    /// The folder that file and git steps work on. The first call looks at the disk.
    #[must_use]
    pub fn workspace(&self) -> &Workspace {
        &self.place.workspace
    }

    /// The project that memories belong to. The first call looks at the disk.
    #[must_use]
    pub fn project(&self) -> &ProjectId {
        &self.place.project
    }

    /// The project, to be found out later on another thread.
    pub fn project_later(&self) -> impl FnOnce() -> ProjectId + Send + 'static {
        let place = Arc::clone(&self.place);
        move || place.project.clone()
    }

    /// Whose calls a pattern's own tests are: nobody's, so that they come out the same everywhere.
    #[must_use]
    pub fn test_scope() -> Scope {
        Scope::mint(ProjectId::personal(), LOCAL_PRINCIPAL, "default", None)
    }

    /// The local user's scope, without a session. The first call looks at the disk.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope::mint(self.project().clone(), LOCAL_PRINCIPAL, &self.agent, None)
    }
}

/// The folder to work on and its project. A root that was not `given` is the working directory. What is no workspace has
/// no project of its own.
fn find_place(root: &Path, given: bool, home: Option<&Path>) -> Place {
    let sources = RootSources {
        tmws_root: given.then_some(root),
        cwd: (!given).then_some(root),
        home,
        ..RootSources::default()
    };
    let workspace = resolve_root(&sources);
    let project = match &workspace {
        Workspace::Root(root) => project_of(root, home),
        Workspace::None { .. } => ProjectId::personal(),
    };
    Place { workspace, project }
}
