//! This very program as the server to play against, with a store and settings of its own.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Child,
    time::timeout,
};

use super::{
    ReplayError,
    live::{Program, Tail},
};
use crate::hex::hex;

/// It listens within so long.
const START_MAX: Duration = Duration::from_secs(20);
/// It is gone so long after SIGTERM, or is killed.
const END_MAX: Duration = Duration::from_secs(10);
/// What says on stderr where it listens.
const LISTENING: &str = "listening address=";

/// A temporary folder of our own, gone with the value.
pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let path = std::env::temp_dir().join(format!("tmws-replay-{}", hex(&random)));
        std::fs::create_dir(&path)?;
        Ok(Self(path.canonicalize()?))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "the temporary folder of a replay is left behind");
        }
    }
}

/// The command line of this program, and an environment in which it finds nothing of the user's.
pub(super) fn command(
    program: &Path,
    scratch: &Scratch,
    arguments: &[&str],
) -> (Vec<OsString>, Vec<(OsString, OsString)>) {
    let mut command = vec![program.as_os_str().to_owned()];
    command.extend(arguments.iter().map(OsString::from));
    let mut store = OsString::from("sqlite:");
    store.push(scratch.path().join("store.db"));
    command.extend(["--database-url".into(), store]);
    let home = scratch.path().as_os_str();
    let places = ["HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME"];
    let environment = places.into_iter().map(|name| (name.into(), home.to_owned())).collect();
    (command, environment)
}

/// A shared server of our own on a free port.
pub(super) struct Served {
    program: Program,
    child: Child,
    /// `127.0.0.1:PORT`.
    pub(super) address: String,
}

impl Served {
    pub(super) async fn start(program: &Path, scratch: &Scratch) -> Result<Self, ReplayError> {
        let (command, environment) =
            self::command(program, scratch, &["serve", "--listen", "127.0.0.1:0", "--no-auth"]);
        let (program, mut child) = Program::start(&command, &environment, None).map_err(ReplayError::Own)?;
        let errors =
            child.stderr.take().ok_or_else(|| ReplayError::Own(io::Error::other("it has no stderr")))?;
        let mut lines = BufReader::new(errors).lines();
        let listening = async {
            let mut last = String::new();
            while let Some(line) = lines.next_line().await? {
                if let Some((_, rest)) = line.split_once(LISTENING) {
                    return Ok(rest.split_whitespace().next().unwrap_or_default().to_owned());
                }
                last = line;
            }
            Err(io::Error::other(format!("it ended before it listened: {last}")))
        };
        let address = timeout(START_MAX, listening)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(ReplayError::Own)?;
        // Nobody may stop it by not reading what it logs.
        tokio::spawn(async move {
            let tail = Tail::default();
            while let Ok(Some(line)) = lines.next_line().await {
                tail.push(line.as_bytes());
            }
        });
        Ok(Self { program, child, address })
    }

    /// Ends it gracefully, and by force where it does not.
    pub(super) async fn stop(mut self) {
        self.program.signal("SIGTERM");
        if timeout(END_MAX, self.child.wait()).await.is_err() {
            tracing::warn!("our own server did not end by itself");
        }
    }
}
