//! What instances share, and one of them: the real binary, ended with the test.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use super::{PATIENCE, serving, within};
use crate::{
    postgres::Database,
    store_contract::{fresh, walled_options},
};

/// Who there is, and where each may write beside `personal`.
const PRINCIPALS: [(&str, &[&str]); 2] = [("ada", &["alpha", "beta"]), ("ben", &["alpha"])];
/// An instance must have ended within this after SIGTERM.
pub(super) const END_MAX: Duration = Duration::from_secs(5);
/// What is said where a test fails: the end of each log.
const TOLD_BYTES: usize = 4_000;

/// What all instances of a service share.
pub(super) struct Service {
    folder: TempDir,
    pub(super) database: Database,
    environment: Vec<(&'static str, String)>,
}

impl Service {
    /// On a database of its own, with a Redis where there is one.
    pub(super) async fn new(redis_url: Option<&str>) -> Self {
        let database = fresh().await;
        let folder = tempfile::tempdir().unwrap();
        let user = folder.path().join("config/tmws");
        fs::create_dir_all(user.join("patterns")).unwrap();
        fs::write(user.join("patterns/test.echo.yaml"), serving::ECHO).unwrap();
        let workspace = folder.path().join("workspace");
        fs::create_dir(&workspace).unwrap();
        fs::write(workspace.join("berth.rs"), "/// TODO: name the ship\nfn moor() {}\n").unwrap();
        let root = workspace.to_str().unwrap();
        fs::write(user.join("tmws.toml"), format!("[projects.alpha]\nroot = \"{root}\"\n[projects.beta]\n"))
            .unwrap();
        serving::write_tokens(&folder.path().join("tokens.toml"), &PRINCIPALS);
        let mut environment = vec![
            ("TMWS_DATABASE_URL", walled_options(&database).await.url),
            ("TMWS_STATE_KEY", "the same for all instances of this test".to_owned()),
            ("TMWS_TOKENS_FILE", folder.path().join("tokens.toml").display().to_string()),
            ("XDG_CONFIG_HOME", folder.path().join("config").display().to_string()),
        ];
        environment.extend(redis_url.map(|url| ("TMWS_REDIS_URL", url.to_owned())));
        Self { folder, database, environment }
    }

    /// Adds a pattern that all instances started afterwards have.
    pub(super) fn add_pattern(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(format!("config/tmws/patterns/{name}.yaml")), text).unwrap();
    }

    /// A variable of its instances, from the next start on.
    pub(super) fn set(&mut self, name: &'static str, value: String) {
        self.environment.retain(|(known, _)| *known != name);
        self.environment.push((name, value));
    }

    /// Starts its instance `number`, on a free port.
    pub(super) async fn start(&self, number: usize) -> Instance {
        let home = self.folder.path().join(format!("instance-{number}"));
        fs::create_dir_all(&home).unwrap();
        let launch = Launch {
            workspace: self.folder.path().join("workspace"),
            home,
            environment: self.environment.clone(),
        };
        match Instance::launch(&launch, 0).await {
            Ok((child, said, address)) => Instance { number, launch, child, said, address },
            Err(said) => panic!("instance {number} does not listen:\n{said}"),
        }
    }

    /// Starts three of them at once.
    pub(super) async fn three(&self) -> Vec<Instance> {
        let (a, b, c) = tokio::join!(self.start(0), self.start(1), self.start(2));
        vec![a, b, c]
    }
}

/// How an instance is started.
struct Launch {
    workspace: PathBuf,
    home: PathBuf,
    environment: Vec<(&'static str, String)>,
}

/// A running instance.
pub(super) struct Instance {
    number: usize,
    launch: Launch,
    child: Child,
    said: Arc<Mutex<String>>,
    pub(super) address: SocketAddr,
}

impl Instance {
    /// The process, its log and its address; the log of one that does not listen.
    async fn launch(launch: &Launch, port: u16) -> Result<(Child, Arc<Mutex<String>>, SocketAddr), String> {
        let mut child = command(&launch.workspace, &launch.home)
            .args(["serve", "--listen", &format!("127.0.0.1:{port}")])
            .args(["--setting", "limits.calls_per_second=0", "--setting", "limits.database_connections=6"])
            .envs(launch.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = Arc::new(Mutex::new(String::new()));
        let address = within("an address", async {
            while let Some(line) = lines.next_line().await.unwrap() {
                note(&said, &line);
                if let Some(address) = serving::address_in(&line) {
                    return Some(address);
                }
            }
            None
        })
        .await;
        let Some(address) = address else {
            return Err(said.lock().unwrap_or_else(PoisonError::into_inner).clone());
        };
        // Nobody may keep it from saying more.
        tokio::spawn({
            let said = Arc::clone(&said);
            async move {
                while let Ok(Some(line)) = lines.next_line().await {
                    note(&said, &line);
                }
            }
        });
        Ok((child, said, address))
    }

    /// Ends it gracefully, and says how long that took.
    pub(super) async fn terminate(&mut self) -> Duration {
        let begun = Instant::now();
        self.signal(Signal::TERM);
        let status = within("the end of an instance", self.child.wait()).await.unwrap();
        let took = begun.elapsed();
        assert!(status.success(), "instance {}: {status}", self.number);
        took
    }

    /// Ends it at once.
    pub(super) async fn kill(&mut self) {
        self.signal(Signal::KILL);
        within("the end of an instance", self.child.wait()).await.unwrap();
    }

    /// Starts it again at its port; at another one where somebody took that meanwhile.
    pub(super) async fn restart(&mut self) {
        let begun = Instant::now();
        let mut port = self.address.port();
        loop {
            match Self::launch(&self.launch, port).await {
                Ok((child, said, address)) => {
                    (self.child, self.said, self.address) = (child, said, address);
                    return;
                }
                Err(said) => {
                    assert!(begun.elapsed() < PATIENCE, "instance {} does not listen:\n{said}", self.number);
                    port = 0;
                }
            }
        }
    }

    /// What it has logged.
    pub(super) fn said(&self) -> String {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a path answers the administrator.
    pub(super) async fn page(&self, path: &str) -> String {
        // Once a process; there is no TLS here, but the client wants one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let request = reqwest::Client::new().get(format!("http://{}{path}", self.address));
        let asked = async { request.bearer_auth(serving::ADMIN_TOKEN).send().await?.text().await };
        within("a page", asked).await.unwrap()
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        kill_process(pid.expect("it runs"), signal).unwrap();
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            let end: String = said.chars().skip(said.chars().count().saturating_sub(TOLD_BYTES)).collect();
            eprintln!("--- instance {} said:\n{end}", self.number);
        }
    }
}

/// `tmws` in `workspace`, with nothing of the environment but `PATH`; ended with what holds it.
pub(super) fn command(workspace: &Path, home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tmws"));
    command
        .current_dir(workspace)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("XDG_DATA_HOME", home.join("data"))
        .kill_on_drop(true);
    command
}

fn note(said: &Mutex<String>, line: &str) {
    let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
    said.push_str(line);
    said.push('\n');
}
