//! Puts the parts of one process together. Nothing here opens or reads anything: each part does when it is first needed.
//!
//! [`Local`] is for one local user (stdio and the command line), [`Shared`] for many principals and projects at once.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, LazyLock, Mutex, Once, OnceLock},
    time::Duration,
};

use jiff::Timestamp;

use crate::{
    cache::{SecondLayer, redis::Redis},
    config::{Config, DatabaseUrl, EmbeddingModel, ProjectSetting},
    embedding::Embeddings,
    engine::{
        Allowed, Caller, Clock, Engine, EngineSettings, LibraryHandle, Outside, RootSources, Workspace,
        Workspaces,
        llm::Models,
        project_of, resolve_root,
        steps::{
            http::Http,
            mcp::{Admits, Servers},
            sql::Sources,
        },
    },
    limits::TaskLimits,
    pattern::host::HostRule,
    resilience::{BackendKind, Backends},
    scope::{ProjectId, Scope},
    store::{LazyStore, PostgresOptions, SharedStore, SqliteOptions, StoreOptions},
    tool::{FindRoot, Folders, Parts, PatternSource, Payload, Promotion, Shelf, TmwsService},
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

/// Where this process works, found out at the first use.
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

/// The parts that serve calls, whoever makes them.
struct Serving {
    engine: Arc<Engine>,
    shelf: Arc<Shelf>,
    store: SharedStore,
    redis: Option<Arc<Redis>>,
    embeddings: Arc<Embeddings>,
    clock: Arc<dyn Clock>,
}

impl Serving {
    fn new(
        config: &Config,
        folders: &Arc<Folders>,
        workspaces: Arc<dyn Workspaces>,
        store: fn(StoreOptions) -> LazyStore,
        outside: Outside,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let embeddings = embeddings(config);
        let store = store(options_with(config, Arc::clone(&embeddings))).known_to(&outside.backends);
        let redis = second_layer(config, &outside.backends);
        let outside = Outside { embeddings: Some(Arc::clone(&embeddings)), redis: redis.clone(), ..outside };
        let store: SharedStore = Arc::new(store);
        let shelf = Shelf::new(Arc::clone(folders) as Arc<dyn PatternSource>);
        let engine = Engine::new(
            Arc::clone(&shelf) as LibraryHandle,
            SharedStore::clone(&store),
            workspaces,
            Arc::clone(&clock),
            EngineSettings {
                call_deadline: config.connection.call_deadline,
                handle_ttl: config.store.handle_ttl,
                ..EngineSettings::default()
            },
        );
        let second = redis.clone().map(|redis| redis as Arc<dyn SecondLayer>);
        let engine = engine.with_outside(Arc::new(outside)).with_cache(config.cache, second);
        let engine = Arc::new(engine);
        Self { engine, shelf, store, redis, embeddings, clock }
    }
}

/// The layer of the cache that instances share, as `config` says. Nothing is opened yet.
fn second_layer(config: &Config, backends: &Backends) -> Option<Arc<Redis>> {
    let url = config.redis.clone()?;
    Some(Arc::new(Redis::new(url, config.cache, backends.breaker(BackendKind::Redis, "cache"))))
}

/// What makes the vectors of memories, as `config` says. Nothing is read yet.
fn embeddings(config: &Config) -> Arc<Embeddings> {
    match &config.embedding_model {
        EmbeddingModel::Builtin => Embeddings::builtin(),
        EmbeddingModel::None => Embeddings::none(),
        EmbeddingModel::Folder(folder) => Embeddings::folder(folder),
    }
}

/// Where memories are kept, and how, as `config` says.
pub(crate) fn store_options(config: &Config) -> StoreOptions {
    options_with(config, embeddings(config))
}

fn options_with(config: &Config, embeddings: Arc<Embeddings>) -> StoreOptions {
    let limits = config.store;
    match &config.database {
        DatabaseUrl::Sqlite(path) => SqliteOptions { limits, embeddings, ..SqliteOptions::new(path) }.into(),
        DatabaseUrl::Postgres(url) => {
            let connections_max = u32::try_from(config.database_connections).unwrap_or(u32::MAX);
            PostgresOptions { limits, embeddings, connections_max, ..PostgresOptions::new(url) }.into()
        }
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
    /// What makes the vectors of memories.
    pub embeddings: Arc<Embeddings>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Longest that a call may take.
    pub call_deadline: Duration,
    /// Whether somebody set that, rather than leaving the default.
    pub call_deadline_is_set: bool,
    place: Arc<LazyPlace>,
    agent: String,
    payload: Payload,
    tasks: TaskLimits,
}

impl Local {
    /// The parts that `config` describes.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self::at(config, Arc::new(SystemClock))
    }

    /// The same by another clock.
    #[must_use]
    pub fn at(config: &Config, clock: Arc<dyn Clock>) -> Self {
        let place = own_place(config);
        let rooted = Arc::clone(&place);
        let folders = Arc::new(Folders {
            project: config.repository_pattern_folders.clone(),
            trust: config.user_folder.as_ref().map(|folder| folder.join("trust.json")),
            ..user_folders(
                config,
                Box::new(move || match &rooted.workspace {
                    Workspace::Root(root) => Some(root.clone()),
                    Workspace::None { .. } => None,
                }),
            )
        });
        let workspaces: Arc<dyn Workspaces> = Arc::new(LocalWorkspaces(Arc::clone(&place)));
        let servers = own_servers(config, Arc::clone(&workspaces));
        let Serving { engine, shelf, store, embeddings, clock, .. } =
            Serving::new(config, &folders, workspaces, LazyStore::new, outside(config, servers, true), clock);
        Self {
            engine,
            shelf,
            folders,
            store,
            embeddings,
            clock,
            call_deadline: config.connection.call_deadline,
            call_deadline_is_set: !config.is_default("limits.call_deadline"),
            place,
            agent: config.agent.clone(),
            payload: config.payload,
            tasks: task_limits(config),
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
            tasks: self.tasks,
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
        Scope::mint(ProjectId::parse("test").expect("a project's name"), LOCAL_PRINCIPAL, "default", None)
    }

    /// The local user's scope, without a session. The first call looks at the disk.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope::mint(self.project().clone(), LOCAL_PRINCIPAL, &self.agent, None)
    }

    /// What the local user may run on the command line. The first call looks at the disk.
    #[must_use]
    pub fn allowed(&self) -> Allowed {
        self.engine.allowed(&self.scope(), Caller::Trusted)
    }

    /// What a model of the local user may run. The first call looks at the disk.
    #[must_use]
    pub fn allowed_to_a_model(&self) -> Allowed {
        self.engine.allowed(&self.scope(), Caller::Model)
    }
}

/// The parts of a process that serves many principals in many projects.
///
/// **Patterns** are those of the binary and of the serving user's own folders, the same for everybody. A repository's
/// own patterns are not loaded, not even those of the folder that the server was started in: they are that
/// repository's word, and must not reach another project.
///
/// **Workspaces**: a project that the configuration gives a root works on it; the project of the folder that the
/// server was started in works on that one; all others, `personal` among them, have none and offer no pattern that
/// needs one.
pub struct Shared {
    /// Runs patterns.
    pub engine: Arc<Engine>,
    /// The patterns.
    pub shelf: Arc<Shelf>,
    /// Memories, sessions and results.
    pub store: SharedStore,
    /// The layer of the cache that instances share, where there is one.
    pub redis: Option<Arc<Redis>>,
    /// Serves MCP calls.
    pub service: Arc<TmwsService>,
    place: Arc<LazyPlace>,
}

impl Shared {
    /// The parts that `config` describes, with the roots of `projects` as configured: not canonical, perhaps not there.
    #[must_use]
    pub fn new(config: &Config, projects: impl IntoIterator<Item = (ProjectId, Option<PathBuf>)>) -> Self {
        let place = own_place(config);
        let workspaces = ProjectWorkspaces {
            roots: projects.into_iter().map(|(id, root)| (id, ConfiguredRoot::new(root))).collect(),
            home: config.home.clone(),
            own: Arc::clone(&place),
        };
        let folders = Arc::new(user_folders(config, Box::new(|| None)));
        let workspaces: Arc<dyn Workspaces> = Arc::new(workspaces);
        let servers = shared_servers(config, Arc::clone(&workspaces));
        let outside = outside(config, servers, false);
        let clock = Arc::new(SystemClock);
        let Serving { engine, shelf, store, redis, clock, .. } =
            Serving::new(config, &folders, workspaces, LazyStore::discreet, outside, clock);
        let service = TmwsService::new(Parts {
            engine: Arc::clone(&engine),
            shelf: Arc::clone(&shelf),
            store: SharedStore::clone(&store),
            clock,
            payload: config.payload,
            tasks: task_limits(config),
        });
        Self { engine, shelf, store, redis, service, place }
    }

    /// The project of the folder that the server was started in. The first call looks at the disk.
    #[must_use]
    pub fn own_project(&self) -> &ProjectId {
        &self.place.project
    }
}

/// The ways out of the process that `config` describes; `local`: for one local user. Nothing is opened.
fn outside(config: &Config, mcp: Servers, local: bool) -> Outside {
    // The settings were read by the same rule.
    let private = config.private_hosts.iter().filter_map(|host| HostRule::parse(host).ok()).collect();
    let backends = Arc::<Backends>::default();
    Outside {
        http: Http::new(private),
        llm: Models::new(config.llm.clone()).known_to(&backends),
        mcp,
        sql: databases(config, local),
        backends,
        ..Outside::default()
    }
}

/// The databases of `config`, their projects by id.
fn databases(config: &Config, local: bool) -> Sources {
    let specs = config.sources.iter().cloned().map(|mut spec| {
        for project in spec.projects.iter_mut().flatten() {
            *project = project_called(config, project, local);
        }
        spec
    });
    Sources::new(specs, local, |name| std::env::var_os(name))
}

/// The project that the configuration calls `name`, by its id or its alias there. On the machine of one user that is the
/// project of its root, as in [`is_project`].
fn project_called(config: &Config, name: &ProjectId, local: bool) -> ProjectId {
    let is_named =
        |project: &&ProjectSetting| project.id == *name || project.alias.as_deref() == Some(name.as_str());
    let home = config.home.as_deref();
    config.projects.iter().find(is_named).map_or_else(
        || name.clone(),
        |project| {
            let root = if local { configured_root_of(project, home) } else { None };
            root.map_or_else(|| project.id.clone(), |root| project_of(&root, home))
        },
    )
}

/// The other MCP servers for one local user, who configured them: without `projects` every project may call them.
fn own_servers(config: &Config, workspaces: Arc<dyn Workspaces>) -> Servers {
    let projects = config.projects.clone();
    let home = config.home.clone();
    let admits: Admits = Box::new(move |setting, scope| match &setting.projects {
        None => true,
        Some(names) => names.iter().any(|name| is_project(name, scope.project(), &projects, home.as_deref())),
    });
    Servers::new(config.servers.iter().cloned(), admits, workspaces, config.home.clone())
}

/// The other MCP servers for many principals: only for the projects that they were given to.
fn shared_servers(config: &Config, workspaces: Arc<dyn Workspaces>) -> Servers {
    let projects = config.projects.clone();
    let admits: Admits = Box::new(move |setting, scope| {
        let of = |name: &str| projects.iter().find(|project| project.alias.as_deref() == Some(name));
        setting.projects.iter().flatten().any(|name| {
            name == "*"
                || name == scope.project().as_str()
                || of(name).is_some_and(|project| project.id == *scope.project())
        })
    });
    Servers::new(config.servers.iter().cloned(), admits, workspaces, config.home.clone())
}

/// Whether `name` means `project` on the machine of one user: its id, or what `[projects]` calls its root.
fn is_project(name: &str, project: &ProjectId, projects: &[ProjectSetting], home: Option<&Path>) -> bool {
    if name == "*" || name == project.as_str() {
        return true;
    }
    let named =
        projects.iter().find(|known| known.id.as_str() == name || known.alias.as_deref() == Some(name));
    let root = named.and_then(|named| configured_root_of(named, home));
    root.is_some_and(|root| project_of(&root, home) == *project)
}

fn configured_root_of(project: &ProjectSetting, home: Option<&Path>) -> Option<PathBuf> {
    match configured_root(project.root.as_deref()?, home) {
        Workspace::Root(root) => Some(root),
        Workspace::None { .. } => None,
    }
}

/// The limits of tasks; how long one may run is the same for whoever waits for it.
const fn task_limits(config: &Config) -> TaskLimits {
    TaskLimits { deadline: config.connection.task_deadline, ..config.tasks }
}

/// A root of the configuration; canonical once it was there.
struct ConfiguredRoot {
    given: Option<PathBuf>,
    found: OnceLock<PathBuf>,
    warned: Once,
}

impl ConfiguredRoot {
    fn new(given: Option<PathBuf>) -> Self {
        Self { given, found: OnceLock::new(), warned: Once::new() }
    }

    fn workspace(&self, project: &ProjectId, home: Option<&Path>) -> Workspace {
        let Some(given) = &self.given else { return no_root(project) };
        if let Some(root) = self.found.get() {
            return Workspace::Root(root.clone());
        }
        match configured_root(given, home) {
            Workspace::Root(root) => Workspace::Root(self.found.get_or_init(|| root).clone()),
            // The reason names the path, which is the server's own business.
            Workspace::None { reason } => {
                self.warned.call_once(|| {
                    tracing::warn!(%project, reason, "the root of a project cannot be used");
                });
                Workspace::None {
                    reason: format!(
                        "the root that the server's configuration gives project {project} cannot be used now; \
                         the server's log says why"
                    ),
                }
            }
        }
    }
}

/// The workspaces of a server, by project.
struct ProjectWorkspaces {
    roots: BTreeMap<ProjectId, ConfiguredRoot>,
    home: Option<PathBuf>,
    own: Arc<LazyPlace>,
}

impl Workspaces for ProjectWorkspaces {
    fn workspace(&self, scope: &Scope) -> Workspace {
        let project = scope.project();
        // One project per principal: no folder can be theirs.
        if *project == ProjectId::personal() {
            return Workspace::None {
                reason:
                    "project personal has no folder; connect to a project's own path, /p/<project>/ws or \
                         /p/<project>/mcp"
                        .to_owned(),
            };
        }
        match self.roots.get(project) {
            Some(root) => root.workspace(project, self.home.as_deref()),
            None if self.own.project == *project => self.own.workspace.clone(),
            None => no_root(project),
        }
    }
}

fn configured_root(given: &Path, home: Option<&Path>) -> Workspace {
    resolve_root(&RootSources { configured: Some(given), home, ..RootSources::default() })
}

/// The projects of `config` whose roots cannot be used as they are, each with the reason.
pub fn unusable_roots(config: &Config) -> impl Iterator<Item = (&ProjectId, String)> {
    config.projects.iter().filter_map(|project| {
        match configured_root(project.root.as_deref()?, config.home.as_deref()) {
            Workspace::Root(_) => None,
            Workspace::None { reason } => Some((&project.id, reason)),
        }
    })
}

fn no_root(project: &ProjectId) -> Workspace {
    Workspace::None {
        reason: format!(
            "project {project} has no root on this server; whoever runs the server can give it one under \
             [projects] in tmws.toml, and start it again"
        ),
    }
}

/// The pattern folders of the user who runs the process, and no repository's.
fn user_folders(config: &Config, root: FindRoot) -> Folders {
    Folders {
        user: config.pattern_folders.clone(),
        project: Vec::new(),
        root,
        trust: None,
        promotion: Promotion { names: config.promote.clone(), place: config.place_of("promote") },
        library: Mutex::default(),
    }
}

fn own_place(config: &Config) -> Arc<LazyPlace> {
    let (root, home, given) = (config.root.clone(), config.home.clone(), !config.is_default("root"));
    Arc::new(LazyLock::new(Box::new(move || find_place(&root, given, home.as_deref()))))
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
