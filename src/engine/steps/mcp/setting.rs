//! What the user's configuration says about a server: `[servers.NAME]`.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use super::{pin::Pin, scripted::Script};

/// Text that is never printed: a variable of a child's environment, a header.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(String);

impl Hidden {
    /// Hides `text`.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, to be used.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// Where a child works.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkingFolder {
    /// In the user's home: it is told nothing of the project.
    Home,
    /// In the root of the caller's project, which it is also told when it asks for roots.
    Project,
    /// In this folder, absolute.
    Fixed(PathBuf),
}

/// How a server is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It is started, and spoken to on its stdin and stdout.
    Command {
        /// Program and arguments; never empty, never a shell's.
        argv: Vec<String>,
        /// Variables given to it.
        environment: BTreeMap<String, Hidden>,
        /// Names of our own variables that are passed on.
        passed_on: Vec<String>,
        /// Where it works.
        folder: WorkingFolder,
    },
    /// It is there already, and speaks Streamable HTTP.
    Url {
        /// `https://…`, or `http://…`.
        url: String,
        /// Sent with each request.
        headers: BTreeMap<String, Hidden>,
        /// Name of our own variable that holds the bearer token.
        token_variable: Option<String>,
    },
    /// It is in this process, for patterns' own tests.
    Scripted(Script),
}

/// A tool that the user pinned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolSetting {
    /// What it must still be.
    pub pin: Pin,
    /// The user's word that it only reads.
    pub reads: bool,
    /// The argument that takes a question in words, where it has one: for `mcp.fanout`.
    pub query: Option<String>,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSetting {
    /// How it is reached.
    pub reach: Reach,
    /// Projects whose calls may use it, by id or alias; `*` is every one. `None` where nothing is said.
    pub projects: Option<Vec<String>>,
    /// It ends when nobody called for so long.
    pub idle: Duration,
    /// Longest that one call may take.
    pub timeout: Duration,
    /// Longest that its start may take, until it has listed its tools.
    pub start: Duration,
    /// Connections at once, one for each principal and project.
    pub processes: usize,
    /// Tools that may be called, by name.
    pub tools: BTreeMap<String, ToolSetting>,
}

impl ServerSetting {
    /// Bounds and default of `idle`.
    pub const IDLE: (Duration, Duration, Duration) =
        (Duration::from_secs(1), Duration::from_mins(5), Duration::from_hours(24));
    /// Bounds and default of `timeout`.
    pub const TIMEOUT: (Duration, Duration, Duration) =
        (Duration::from_millis(10), Duration::from_secs(20), Duration::from_mins(30));
    /// Bounds and default of `start`.
    pub const START: (Duration, Duration, Duration) =
        (Duration::from_millis(100), Duration::from_secs(30), Duration::from_mins(5));
    /// Bounds and default of `processes`.
    pub const PROCESSES: (usize, usize, usize) = (1, 4, 64);

    /// A server with defaults and no tools.
    #[must_use]
    pub const fn new(reach: Reach) -> Self {
        Self {
            reach,
            projects: None,
            idle: Self::IDLE.1,
            timeout: Self::TIMEOUT.1,
            start: Self::START.1,
            processes: Self::PROCESSES.1,
            tools: BTreeMap::new(),
        }
    }
}
