//! Settings: defaults < `tmws.toml` < `TMWS_*` environment < flags, each value with its origin.
//!
//! Reading them is cheap enough to come before the first answer: the environment and at most one small file that
//! exists. A repository's own file may only lower limits and name pattern folders inside the repository; whatever is
//! wrong with it is a warning, never a reason not to start.

mod file;
mod load;
mod projects;
mod secret;
mod sections;
mod servers;
mod settings;
mod sources;
mod table;
mod units;

pub use load::{Sources, load};
pub use projects::ProjectSetting;
pub use secret::StateKey;
pub use settings::{Kind, SettingRow};
pub use table::SETTINGS;
pub use units::{parse_bytes, parse_duration, show_bytes, show_duration};

use std::{fmt, net::SocketAddr, path::PathBuf};

use crate::{
    cache::{CacheLimits, redis::RedisUrl},
    engine::{
        llm::LlmSettings,
        steps::{mcp::ServerSetting, sql::SourceSpec},
    },
    limits::{ConnectionLimits, NetworkLimits, ShutdownLimits, StoreLimits, TaskLimits},
    otlp::OtlpSettings,
    telemetry::LogFormat,
    tool::Payload,
};

/// What makes the vectors of memories.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum EmbeddingModel {
    /// The table in the binary: `builtin`.
    #[default]
    Builtin,
    /// Nothing: memories are found by words alone: `none`.
    None,
    /// The model in a folder. Not looked at yet.
    Folder(PathBuf),
}

impl fmt::Display for EmbeddingModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Builtin => f.write_str("builtin"),
            Self::None => f.write_str("none"),
            Self::Folder(folder) => folder.display().fmt(f),
        }
    }
}

/// Everything that can be set, ready to use. Nothing in it was opened or checked against the disk.
#[derive(Clone, Debug)]
pub struct Config {
    /// Workspace root as given: not canonical, perhaps not there.
    pub root: PathBuf,
    /// Name of the agent, unauthenticated.
    pub agent: String,
    /// Where memories are kept.
    pub database: DatabaseUrl,
    /// Connections to a PostgreSQL store at once.
    pub database_connections: usize,
    /// The shared layer of the cache.
    pub redis: Option<RedisUrl>,
    /// Limits of the cache.
    pub cache: CacheLimits,
    /// What makes the vectors of memories.
    pub embedding_model: EmbeddingModel,
    /// Pattern folders of the user: the one beside the user's `tmws.toml`, then those of `patterns`.
    pub pattern_folders: Vec<PathBuf>,
    /// Pattern folders that the repository's own file names, inside the root. They need trust.
    pub repository_pattern_folders: Vec<PathBuf>,
    /// Signs cursors and request states; made anew for each process where absent.
    pub state_key: Option<StateKey>,
    /// Log filter: a level, or `target=level` pairs.
    pub log: String,
    /// How lines of the log are written.
    pub log_format: LogFormat,
    /// The collector of OpenTelemetry.
    pub otlp: OtlpSettings,
    /// How results travel.
    pub payload: Payload,
    /// Patterns that are tools of their own, each perhaps with a pin.
    pub promote: Vec<String>,
    /// Limits of one connection.
    pub connection: ConnectionLimits,
    /// Limits of a server on the network.
    pub network: NetworkLimits,
    /// Where `serve` listens.
    pub listen: SocketAddr,
    /// Whether `serve` lets everybody in as the local user; only on loopback.
    pub no_auth: bool,
    /// The tokens that `serve` accepts; where absent, one of its own in the data folder.
    pub tokens_file: Option<PathBuf>,
    /// Hosts that `serve` answers to beside the address it listens on, without port.
    pub allowed_hosts: Vec<String>,
    /// Hosts that `http.get` may reach though their addresses are private; each a [`crate::pattern::host::HostRule`].
    pub private_hosts: Vec<String>,
    /// Origins of web pages that may speak to `serve` beside its own, as browsers spell them.
    pub allowed_origins: Vec<String>,
    /// Certificate chain of `serve` (PEM); with it connections are encrypted. Never without a key.
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM).
    pub tls_key: Option<PathBuf>,
    /// Whether `serve` has the HTTP+SSE transport of 2024-11-05.
    pub legacy_sse: LegacySse,
    /// Whether `serve` speaks the dialect that TMWS had before it spoke MCP.
    pub old_dialect: bool,
    /// Where `serve` writes who did what; nowhere where absent.
    pub audit_file: Option<PathBuf>,
    /// Projects that clients of `serve` reach by id or alias, from the user's own file.
    pub projects: Vec<ProjectSetting>,
    /// Databases that patterns may read, from the user's own file.
    pub sources: Vec<SourceSpec>,
    /// Other MCP servers, by name, from the user's own file.
    pub servers: Vec<(String, ServerSetting)>,
    /// Limits of the store.
    pub store: StoreLimits,
    /// Limits of tasks.
    pub tasks: TaskLimits,
    /// Language models.
    pub llm: LlmSettings,
    /// How the process ends.
    pub shutdown: ShutdownLimits,
    /// Folder of the user's configuration, where there is one.
    pub user_folder: Option<PathBuf>,
    /// Folder of the user's data (store, trust), where there is one.
    pub data_folder: Option<PathBuf>,
    /// The user's home, where known: no workspace.
    pub home: Option<PathBuf>,
    /// What was ignored and why, for `doctor` and the log.
    pub warnings: Vec<String>,
    /// Per row of [`SETTINGS`].
    origins: Vec<Origin>,
}

impl Config {
    /// Whether nobody set `key`, which is one of [`SETTINGS`].
    #[must_use]
    pub fn is_default(&self, key: &str) -> bool {
        self.origin(key).is_none_or(|origin| *origin == Origin::Default)
    }

    /// Where the value of `key` was set, as shown to people; `default` where nobody did.
    #[must_use]
    pub fn place_of(&self, key: &str) -> String {
        self.origin(key).unwrap_or(&Origin::Default).to_string()
    }

    /// Where the value of `key` came from.
    fn origin(&self, key: &str) -> Option<&Origin> {
        SETTINGS.iter().zip(&self.origins).find(|(row, _)| row.key == key).map(|(_, origin)| origin)
    }

    /// Each setting with its value as text (secrets hidden) and where it came from.
    pub fn describe(&self) -> impl Iterator<Item = (&'static SettingRow, String, &Origin)> {
        SETTINGS.iter().zip(&self.origins).map(|(row, origin)| (row, row.show(self), origin))
    }
}

/// Where the store is.
#[derive(Clone, PartialEq, Eq)]
pub enum DatabaseUrl {
    /// An SQLite file.
    Sqlite(PathBuf),
    /// A PostgreSQL database; the whole address, password and all, which is never shown.
    Postgres(String),
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(_) => f.write_str("postgres://[secret]"),
        }
    }
}

/// Whether the HTTP+SSE transport of 2024-11-05 is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegacySse {
    /// On loopback only.
    Auto,
    /// Wherever it listens.
    On,
    /// Nowhere.
    Off,
}

impl LegacySse {
    /// All of them, with their names.
    pub const ALL: [(&'static str, Self); 3] = [("auto", Self::Auto), ("on", Self::On), ("off", Self::Off)];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::On => "on",
            Self::Off => "off",
        }
    }

    /// Whether it is served by a server that listens on `address`.
    #[must_use]
    pub fn is_served_on(self, address: SocketAddr) -> bool {
        match self {
            Self::Auto => address.ip().to_canonical().is_loopback(),
            Self::On => true,
            Self::Off => false,
        }
    }
}

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// The user's file.
    User {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// The repository's own file.
    Repository {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
    },
    /// A variable of the environment.
    Environment(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::User { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Repository { path, line } => write!(f, "{}:{line} (repository)", path.display()),
            Self::Environment(variable) => f.write_str(variable),
            Self::Flag(flag) => f.write_str(flag),
        }
    }
}

/// Why there is no configuration: the place, the fault, what would be right. Never quotes a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {fault}")]
pub struct ConfigError {
    /// `file:line`, the variable or the flag.
    pub place: String,
    /// What is wrong and what is allowed, a lower-case fragment.
    pub fault: String,
}
