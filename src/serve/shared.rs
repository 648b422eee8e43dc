//! `tmws serve`: one process for many clients.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use jiff::Timestamp;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Handle},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    BLOCKING_KEEP_ALIVE, BLOCKING_THREADS_MAX,
    oversight::{Oversight, oversee},
    signals::{Hangups, Signals},
};
use crate::{
    access::{Access, Projects, TokenSource, TokensError},
    compose::{LOCAL_PRINCIPAL, Shared, unusable_roots},
    config::Config,
    exit::Exit,
    metrics::KnownFamily,
    schema::Gate,
    scope::ProjectId,
    session::Hub,
    store::SharedStore,
    transport::{
        Host, Keys, TlsError,
        http::{self, Listener},
        tls_acceptor,
    },
};

/// The store may take so long to close.
const CLOSE_MAX: Duration = Duration::from_millis(250);
/// Calls that became tasks were told to end before; what is left of them gets so long.
const TASKS_END: Duration = Duration::from_millis(250);
/// Tasks of the runtime that are still there at the end get so long.
const RUNTIME_END: Duration = Duration::from_millis(100);
/// Descriptors for all that is no connection: the store, logs, git.
const DESCRIPTORS_OF_OUR_OWN: u64 = 256;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// `--no-auth` where others could come.
    #[error("without authentication only loopback addresses are served, and {listen} is none")]
    OpenToOthers {
        /// Where to listen.
        listen: SocketAddr,
    },
    /// There is no place for the token.
    #[error("no place for a token: neither XDG_DATA_HOME nor HOME is set")]
    NoPlace,
    /// The tokens cannot be used.
    #[error(transparent)]
    Tokens(#[from] TokensError),
    /// The certificate or its key cannot be used.
    #[error("no TLS: {0}")]
    Tls(#[from] TlsError),
    /// The address cannot be listened on.
    #[error("cannot listen on {listen}: {source}")]
    Address {
        /// Where to listen.
        listen: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The system refuses what every process needs.
    #[error("the system: {0}")]
    System(#[from] io::Error),
}

impl ServeError {
    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> Option<&'static str> {
        match self {
            Self::OpenToOthers { .. } => {
                Some("leave `--no-auth` out: clients then need a token; or listen on 127.0.0.1")
            }
            Self::NoPlace => Some("set TMWS_TOKENS_FILE, and make a token with `tmws token new`"),
            Self::Address { .. } => {
                Some("another server may listen there: choose one with `--listen ADDRESS:PORT`")
            }
            Self::Tokens(_) | Self::Tls(_) | Self::System(_) => None,
        }
    }
}

impl From<&ServeError> for Exit {
    fn from(error: &ServeError) -> Self {
        match error {
            ServeError::OpenToOthers { .. }
            | ServeError::NoPlace
            | ServeError::Tokens(_)
            | ServeError::Tls(_) => Self::Config,
            ServeError::Address { .. } => Self::Unavailable,
            ServeError::System(_) => Self::Software,
        }
    }
}

/// Serves MCP on the network until a signal: the first lets calls answer, for [`shutdown`] at most; the second ends them.
///
/// [`shutdown`]: crate::limits::NetworkLimits::shutdown
///
/// # Errors
/// [`ServeError`]; nobody was served then.
pub fn shared(config: &Config) -> Result<(), ServeError> {
    if config.no_auth && !config.listen.ip().to_canonical().is_loopback() {
        return Err(ServeError::OpenToOthers { listen: config.listen });
    }
    raise_descriptors(config);
    let runtime = Builder::new_multi_thread()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_keep_alive(BLOCKING_KEEP_ALIVE)
        .thread_name("tmws")
        .enable_all()
        .build()?;
    let served = runtime.block_on(serve(config, runtime.handle().clone()));
    runtime.shutdown_timeout(RUNTIME_END);
    served
}

async fn serve(config: &Config, runtime: Handle) -> Result<(), ServeError> {
    let parts =
        Shared::new(config, config.projects.iter().map(|project| (project.id.clone(), project.root.clone())));
    let access = Arc::new(open_door(config, projects(config, Some(parts.own_project())))?);
    let tls = acceptor(config)?;
    let signals = Signals::watch()?;
    let hangups = Hangups::watch()?;
    let Oversight { service, metrics, audit, health, exporter } = oversee(config, &parts, &access)?;
    let host = Arc::new(Host {
        access,
        health,
        audit,
        gate: Arc::new(Gate::new()),
        hub: Arc::new(Hub::default()),
        metrics,
        connection_limits: config.connection,
        network_limits: config.network,
        clock: super::now,
        stopping: CancellationToken::new(),
        cut_off: CancellationToken::new(),
        runtime,
        keys: config
            .state_key
            .as_ref()
            .map_or_else(|| Keys::of(SharedStore::clone(&parts.store)), |key| Keys::given(*key.expose())),
        ended: Some(SharedStore::clone(&parts.store)),
        next_connection: AtomicU64::new(1),
        service,
    });
    let of_address = |source| ServeError::Address { listen: config.listen, source };
    let tcp = TcpListener::bind(config.listen).await.map_err(of_address)?;
    let address = tcp.local_addr().map_err(of_address)?;
    announce(config, address, tls.is_some());
    let listener = Listener {
        tcp,
        tls,
        hosts: config.allowed_hosts.clone(),
        origins: config.allowed_origins.clone(),
        serves_sse: config.legacy_sse.is_served_on(address),
        serves_dialect: config.old_dialect,
    };
    tokio::spawn({
        let host = Arc::clone(&host);
        async move {
            let changes = host.service.events();
            host.hub.run(changes).await;
        }
    });
    tokio::spawn({
        let (tasks, stopping) = (Arc::clone(parts.service.tasks()), host.stopping.clone());
        async move {
            // Whoever waits for the end of one is answered while connections are still there.
            stopping.cancelled().await;
            tasks.stop().await;
        }
    });
    tokio::spawn(signals.end(Arc::clone(&host)));
    tokio::spawn(hangups.refresh_tokens(Arc::clone(&host)));
    let served = http::serve(Arc::clone(&host), listener).await;
    if let Some(audit) = &host.audit {
        audit.close();
    }
    parts.service.tasks().close(TASKS_END).await;
    parts.engine.close().await;
    parts.store.close(CLOSE_MAX).await;
    if let Some(exporter) = exporter {
        exporter.close().await;
    }
    info!("ended");
    served.map_err(of_address)
}

/// The figures that a server of this configuration tells at `/metrics`, for the documents. Must be called within a runtime.
///
/// # Errors
/// As of [`shared`].
pub fn known_figures(config: &Config) -> Result<Vec<KnownFamily>, ServeError> {
    let access = Arc::new(Access::open(LOCAL_PRINCIPAL));
    let Oversight { metrics, audit, .. } = oversee(config, &Shared::new(config, []), &access)?;
    let known = metrics.known();
    if let Some(audit) = audit {
        audit.close();
    }
    Ok(known)
}

/// The projects that tokens and paths may name: those of the configuration, and that of the folder that the server
/// was started in.
#[must_use]
pub fn projects(config: &Config, own: Option<&ProjectId>) -> Projects {
    let mut projects = Projects::default();
    for project in &config.projects {
        projects.add(project.id.clone(), project.alias.as_deref());
    }
    if let Some(own) = own {
        projects.add(own.clone(), None);
    }
    projects
}

/// Where the tokens are that `config` asks for; none without authentication.
///
/// # Errors
/// [`ServeError::NoPlace`].
pub fn token_source(config: &Config) -> Result<Option<TokenSource>, ServeError> {
    Ok(match (&config.tokens_file, &config.data_folder) {
        _ if config.no_auth => None,
        (Some(file), _) => Some(TokenSource::File(file.clone())),
        (None, Some(data_folder)) => {
            Some(TokenSource::Local { data_folder: data_folder.clone(), principal: LOCAL_PRINCIPAL.into() })
        }
        (None, None) => return Err(ServeError::NoPlace),
    })
}

fn open_door(config: &Config, projects: Projects) -> Result<Access, ServeError> {
    Ok(match token_source(config)? {
        None => Access::open_with(LOCAL_PRINCIPAL, projects),
        Some(source) => Access::with_tokens(source, projects, Timestamp::now)?,
    })
}

fn acceptor(config: &Config) -> Result<Option<TlsAcceptor>, ServeError> {
    let (Some(certificate), Some(key)) = (&config.tls_cert, &config.tls_key) else { return Ok(None) };
    Ok(Some(tls_acceptor(certificate, key)?))
}

/// Says where it listens and how clients get in; never the token.
fn announce(config: &Config, address: SocketAddr, encrypted: bool) {
    info!(%address, tls = encrypted, "listening");
    if !encrypted && address.ip().to_canonical().is_loopback() {
        info!("join it from a host with `tmws connect ws://{address}`, or point one at http://{address}/mcp");
    }
    if config.old_dialect {
        warn!("the old dialect is served at /ws/mcp: move its clients to MCP, which is at /ws and /mcp");
    }
    match token_source(config).ok().flatten().map(|source| (source.path(), source)) {
        None => warn!("clients need no token: whoever reaches this address is the local user"),
        Some((path, TokenSource::Local { .. })) => {
            info!(file = %path.display(), "clients need the token of this file; `tmws connect` reads it itself");
        }
        Some((path, TokenSource::File(_))) => {
            info!(file = %path.display(), "clients need a token of this file; `tmws token new` makes one");
        }
    }
    if !address.ip().to_canonical().is_loopback() && !encrypted {
        warn!(
            "tokens and memories cross the network readable by everybody on the way: set tls_cert and tls_key, or put a proxy in front"
        );
    }
    for (project, reason) in unusable_roots(config) {
        warn!(%project, reason, "the root of a project cannot be used: it has no file and git steps");
    }
    if address.ip().is_unspecified() && config.allowed_hosts.is_empty() {
        warn!("clients reach this server by no name that it answers to: set allowed_hosts");
    }
}

/// Every connection is a descriptor, and the usual soft limit is 1,024.
fn raise_descriptors(config: &Config) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    let got = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        Err(error) => {
            debug!(%error, "the limit of open files stays as it is");
            current
        }
    };
    let wanted = config.network.connections_max as u64 + DESCRIPTORS_OF_OUR_OWN;
    if got.is_some_and(|got| got < wanted) {
        warn!(
            allowed = got,
            wanted,
            "the system allows fewer open files than `limits.connections` needs: raise it (ulimit -Hn, LimitNOFILE)"
        );
    }
}
