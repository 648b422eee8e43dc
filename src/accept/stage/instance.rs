//! A server of this program: `tmws serve` with settings, tokens and patterns of a scenario's own.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};
use sha2::{Digest as _, Sha256};

use super::{Held, Program, Stage};
use crate::{accept::scenario::Broken, hex::hex};

/// A server listens, and ends, within this.
const START_MAX: Duration = Duration::from_secs(30);

/// Somebody who may work at an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Person {
    /// Its name.
    pub name: &'static str,
    /// Where they may write, beside `personal`.
    pub projects: &'static [&'static str],
    /// Has the scope `admin`, and reads only.
    pub is_admin: bool,
}

impl Person {
    /// Their token: of no worth outside of the run.
    #[must_use]
    pub fn token(self) -> String {
        format!("tmws_accept_{}_0123456789abcdef0123456789", self.name)
    }
}

/// Who looks after the server: reads its metrics, and nothing of anybody's.
pub const ADMIN: Person = Person { name: "warden", projects: &[], is_admin: true };
/// Projects that every server has.
const PROJECTS: [&str; 2] = ["alpha", "beta"];
/// Agents that share the project `alpha`; `ada` has `beta` as well.
pub const AGENTS: [Person; 2] = [
    Person { name: "ada", projects: &["alpha", "beta"], is_admin: false },
    Person { name: "ben", projects: &["alpha"], is_admin: false },
];

/// Where a server keeps memories.
#[derive(Clone, Debug, Default)]
pub enum Where {
    /// In a file of its own.
    #[default]
    File,
    /// In this file.
    At(PathBuf),
    /// In a database.
    Database(String),
}

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where memories are kept.
    pub store: Where,
    /// The address of Redis, where there is one. Servers that share it share no `alpha` and no `beta`, but projects that
    /// [`Stage::projects`] names.
    pub redis: Option<String>,
    /// `--setting NAME=VALUE`.
    pub settings: Vec<(&'static str, String)>,
    /// Beyond what every server gets.
    pub environment: Vec<(&'static str, String)>,
    /// Who has a token.
    pub people: Vec<Person>,
    /// File name and text of patterns.
    pub patterns: Vec<(String, String)>,
    /// Relative path and text of files in the workspace of the project `alpha`.
    pub files: Vec<(String, String)>,
    /// Servers that share it accept one another's sessions.
    pub state_key: Option<String>,
    /// Without a limit of calls a second, which would be what a load measures.
    pub is_unlimited: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            store: Where::File,
            redis: None,
            settings: Vec::new(),
            environment: Vec::new(),
            people: [vec![ADMIN], AGENTS.to_vec()].concat(),
            patterns: Vec::new(),
            files: vec![
                ("README.md".to_owned(), "# Harbour\n\nShips, berths and tides.\n".to_owned()),
                ("src/berth.rs".to_owned(), "/// TODO: name the ship\npub fn moor() {}\n".to_owned()),
            ],
            state_key: None,
            is_unlimited: true,
        }
    }
}

/// A running server. Dropped, it is killed.
pub struct Instance {
    /// Where clients find it.
    pub address: SocketAddr,
    /// Its workspace, of the project `alpha`.
    pub workspace: PathBuf,
    /// Its home: settings, tokens, data.
    pub home: PathBuf,
    /// Where it listens.
    listens: SocketAddr,
    setup: Setup,
    program: PathBuf,
    path: std::ffi::OsString,
    ledger: std::sync::Arc<super::Ledger>,
    held: Held,
}

impl Instance {
    pub(super) async fn start(stage: &Stage, setup: Setup) -> Result<Self, Broken> {
        let home = stage.folder("instance")?;
        let workspace = home.join("workspace");
        // What a Redis holds is told apart by the ids of projects: those of this server are its own there.
        let ids = match setup.redis {
            Some(_) => PROJECTS.map(|name| stage.name(name)),
            None => PROJECTS.map(str::to_owned),
        };
        let prepared = prepare(&home, &workspace, &setup, &ids);
        prepared.map_err(|error| Broken::new("preparing a server", "its files", error))?;
        let program = stage.program().to_owned();
        let path = stage.path().clone();
        let ledger = std::sync::Arc::clone(stage.ledger());
        let launch =
            Launch { program: &program, path: &path, home: &home, workspace: &workspace, setup: &setup };
        let (held, address) = launch.launch(&ledger, 0).await?;
        Ok(Self { address, listens: address, workspace, home, setup, program, path, ledger, held })
    }

    /// Starts it again as it was, at its address: after it was ended.
    ///
    /// # Errors
    /// It does not listen.
    pub async fn restart(&mut self) -> Result<(), Broken> {
        let launch = Launch {
            program: &self.program,
            path: &self.path,
            home: &self.home,
            workspace: &self.workspace,
            setup: &self.setup,
        };
        let begun = Instant::now();
        loop {
            match launch.launch(&self.ledger, self.listens.port()).await {
                Ok((held, _)) => {
                    self.held = held;
                    return Ok(());
                }
                Err(broken) if begun.elapsed() > START_MAX => return Err(broken),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// The process's number.
    #[must_use]
    pub const fn pid(&self) -> Pid {
        self.held.pid()
    }

    /// What it wrote to its log.
    #[must_use]
    pub fn log(&self) -> String {
        self.held.log().text()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.held.has_ended().is_none()
    }

    /// Sends its process a signal.
    pub fn signal(&self, signal: Signal) {
        self.held.signal(signal);
    }

    /// Ends it gracefully; how long that took.
    ///
    /// # Errors
    /// It does not end, or not well.
    pub async fn end(&mut self) -> Result<Duration, Broken> {
        let (status, took) = self.held.end(Signal::TERM, START_MAX).await?;
        if status.success() {
            return Ok(took);
        }
        Err(Broken::new("ending a server", "exit 0", format!("{status}; its log:\n{}", tail(&self.log()))))
    }

    /// Ends it at once.
    ///
    /// # Errors
    /// It does not end.
    pub async fn kill(&mut self) -> Result<(), Broken> {
        self.held.end(Signal::KILL, START_MAX).await.map(drop)
    }

    /// Its resident memory, in bytes.
    #[must_use]
    pub fn resident(&self) -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.pid().as_raw_nonzero())).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().split(' ').next()?.parse::<u64>().ok()? * 1024)
    }

    /// How much processor time it has used.
    #[must_use]
    pub fn processor_time(&self) -> Option<Duration> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid().as_raw_nonzero())).ok()?;
        let (_, rest) = text.rsplit_once(')')?;
        let mut fields = rest.split_whitespace().skip(11);
        let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
        let a_second = rustix::param::clock_ticks_per_second();
        Some(Duration::from_millis(ticks * 1000 / a_second.max(1)))
    }

    /// How many descriptors it has open.
    #[must_use]
    pub fn descriptors(&self) -> Option<usize> {
        Some(fs::read_dir(format!("/proc/{}/fd", self.pid().as_raw_nonzero())).ok()?.count())
    }
}

/// The last lines of a log.
#[must_use]
pub(super) fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

struct Launch<'a> {
    program: &'a Path,
    path: &'a std::ffi::OsStr,
    home: &'a Path,
    workspace: &'a Path,
    setup: &'a Setup,
}

impl Launch<'_> {
    async fn launch(
        &self,
        ledger: &std::sync::Arc<super::Ledger>,
        port: u16,
    ) -> Result<(Held, SocketAddr), Broken> {
        let Setup { store, redis, settings, environment, state_key, is_unlimited, .. } = self.setup;
        let mut program = Program::new(self.program, self.path, false);
        let command = program.command();
        command
            .arg("serve")
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .current_dir(self.workspace)
            .env("HOME", self.home)
            .env("XDG_DATA_HOME", self.home.join("data"))
            .env("XDG_CONFIG_HOME", self.home.join("config"))
            .env("TMWS_TOKENS_FILE", self.home.join("tokens.toml"))
            .env(
                "TMWS_STATE_KEY",
                state_key.as_deref().unwrap_or("a key of the acceptance run, for nobody else"),
            );
        match store {
            Where::File => {
                command.env("TMWS_DATABASE_URL", format!("sqlite:{}", self.home.join("tmws.db").display()));
            }
            Where::At(path) => {
                command.env("TMWS_DATABASE_URL", format!("sqlite:{}", path.display()));
            }
            Where::Database(url) => {
                command.env("TMWS_DATABASE_URL", url);
            }
        }
        if let Some(redis) = redis {
            command.env("TMWS_REDIS_URL", redis);
        }
        if *is_unlimited {
            command.args(["--setting", "limits.calls_per_second=0"]);
        }
        for (name, value) in settings {
            command.args(["--setting", &format!("{name}={value}")]);
        }
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let held = program.start("a server of this program", ledger)?;
        let listening = tokio::time::timeout(START_MAX, held.log().find(address_in)).await;
        match listening {
            Ok(Some(address)) => Ok((held, address)),
            Ok(None) => Err(Broken::new("starting a server", "it listens", tail(&held.log().text()))),
            Err(_) => Err(Broken::new(
                "starting a server",
                format!("it listens within {START_MAX:?}"),
                tail(&held.log().text()),
            )),
        }
    }
}

/// `ids`: of [`PROJECTS`].
fn prepare(home: &Path, workspace: &Path, setup: &Setup, ids: &[String; 2]) -> std::io::Result<()> {
    let user = home.join("config/tmws");
    fs::create_dir_all(user.join("patterns"))?;
    for (name, text) in &setup.patterns {
        fs::write(user.join("patterns").join(name), text)?;
    }
    for (name, text) in &setup.files {
        let path = workspace.join(name);
        fs::create_dir_all(path.parent().unwrap_or(workspace))?;
        fs::write(path, text)?;
    }
    fs::create_dir_all(workspace)?;
    let root = workspace.to_str().unwrap_or_default();
    let mut projects: Vec<&str> = setup.people.iter().flat_map(|person| person.projects).copied().collect();
    projects.extend(PROJECTS);
    projects.sort_unstable();
    projects.dedup();
    let mut config = String::new();
    for project in projects {
        let own = PROJECTS.iter().zip(ids).find(|(name, _)| **name == project);
        let id = own.map_or(project, |(_, id)| id);
        let _ = writeln!(config, "[projects.{id:?}]");
        if id != project {
            let _ = writeln!(config, "alias = {project:?}");
        }
        if project == "alpha" {
            let _ = writeln!(config, "root = {root:?}");
        }
    }
    fs::write(user.join("tmws.toml"), config)?;
    let mut tokens = String::new();
    for person in &setup.people {
        let hash = hex(&Sha256::digest(person.token()));
        let right = if person.is_admin { "read" } else { "write" };
        let projects: Vec<String> =
            person.projects.iter().chain(&["personal"]).map(|name| format!("{name} = \"{right}\"")).collect();
        let scopes = if person.is_admin {
            r#"["admin"]"#
        } else {
            r#"["pattern:run", "memory:read", "memory:write"]"#
        };
        let _ = writeln!(
            tokens,
            "[[token]]\nsha256 = \"{hash}\"\nprincipal = \"{}\"\nprojects = {{ {} }}\nscopes = {scopes}\n",
            person.name,
            projects.join(", ")
        );
    }
    let file = home.join("tokens.toml");
    fs::write(&file, tokens)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600))
}

/// The address in a line of the log, where it says one.
fn address_in(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("address=")?;
    let end = rest.find(|c: char| !(c.is_ascii_digit() || ".:".contains(c))).unwrap_or(rest.len());
    rest[..end].parse().ok()
}
