//! What a run started and made, in a file: whoever comes after it can clear away what it left.
//!
//! The file lies in a folder of the run's own beneath the system's folder for temporary files, open to nobody else
//! (addresses of databases hold passwords). A line is a JSON object; what was ended or removed has a line that says so.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};

use super::{postgres, redis::Redis};

const FOLDER: &str = "tmws-accept-";
const FILE: &str = "ledger.jsonl";

/// A line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
enum Entry {
    /// The run itself.
    Run { pid: i32, begun: u64 },
    /// A process, by its number and when it was begun, in ticks since the machine was.
    Process { pid: i32, begun: u64 },
    /// It ended.
    Ended { pid: i32 },
    /// A database on a server that the run does not own.
    Database { server: String, name: String },
    /// What the program makes beside a database: a role, which is the whole server's.
    Role { server: String, name: String },
    /// It is gone.
    Dropped { name: String },
    /// Keys on a Redis server that the run does not own: of projects whose names begin so.
    Keys { server: String, prefix: String },
}

/// What a run started and made.
pub struct Ledger {
    /// In all names of the run: no other run has it, neither in this process nor in another.
    mark: String,
    folder: PathBuf,
    file: Mutex<File>,
}

impl Ledger {
    /// A new one.
    ///
    /// # Errors
    /// No folder can be made.
    pub(super) fn open() -> io::Result<Self> {
        let me = Pid::as_raw(Some(rustix::process::getpid()));
        let mark = format!("{me}_{:08x}", rand()?);
        let folder = std::env::temp_dir().join(format!("{FOLDER}{mark}"));
        // PostgreSQL runs as somebody else, beneath it: others may pass, and read nothing.
        fs::DirBuilder::new().mode(0o711).create(&folder)?;
        let file = OpenOptions::new().create_new(true).append(true).mode(0o600).open(folder.join(FILE))?;
        let ledger = Self { mark, folder, file: Mutex::new(file) };
        ledger.note(&Entry::Run { pid: me, begun: begun(me).unwrap_or(0) });
        Ok(ledger)
    }

    /// What tells its names from those of all other runs.
    pub(super) fn mark(&self) -> &str {
        &self.mark
    }

    /// The run's folder.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn started(&self, pid: Pid) {
        let pid = Pid::as_raw(Some(pid));
        self.note(&Entry::Process { pid, begun: begun(pid).unwrap_or(0) });
    }

    pub(super) fn ended(&self, pid: Pid) {
        self.note(&Entry::Ended { pid: Pid::as_raw(Some(pid)) });
    }

    /// Noted before it is made.
    pub(super) fn makes_database(&self, server: &str, name: &str) {
        self.note(&Entry::Database { server: server.to_owned(), name: name.to_owned() });
    }

    /// Noted before anything of the program has seen its database.
    pub(super) fn makes_role(&self, server: &str, name: &str) {
        self.note(&Entry::Role { server: server.to_owned(), name: name.to_owned() });
    }

    pub(super) fn dropped(&self, name: &str) {
        self.note(&Entry::Dropped { name: name.to_owned() });
    }

    /// Noted before there are any.
    pub(super) fn makes_keys(&self, server: &str, prefix: &str) {
        self.note(&Entry::Keys { server: server.to_owned(), prefix: prefix.to_owned() });
    }

    fn note(&self, entry: &Entry) {
        let Ok(mut line) = serde_json::to_string(entry) else { return };
        line.push('\n');
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(line.as_bytes()) {
            tracing::warn!(%error, "what this run starts cannot be noted");
        }
    }

    /// Ends and removes what this run has left.
    pub(super) async fn clear(&self) {
        clear(&self.folder).await;
    }

    /// Ends and removes what runs have left that are no more.
    pub(super) async fn clear_others(&self) {
        let Ok(entries) = fs::read_dir(std::env::temp_dir()) else { return };
        for folder in entries.flatten().map(|entry| entry.path()) {
            let is_one = folder
                .file_name()
                .and_then(|name| name.to_str())
                .is_some_and(|name| name.starts_with(FOLDER));
            if !is_one || folder == self.folder {
                continue;
            }
            let owner = read(&folder).into_iter().find_map(|entry| match entry {
                Entry::Run { pid, begun } => Some((pid, begun)),
                _ => None,
            });
            // A number may have gone to another process: the time tells them apart.
            let lives = owner.is_some_and(|(pid, at)| begun(pid).is_some_and(|begun| begun == at));
            // One that has no line yet has just begun, or could not write.
            if owner.is_some() && !lives {
                tracing::info!(folder = %folder.display(), "clearing away what an earlier run left");
                clear(&folder).await;
            }
        }
    }
}

fn rand() -> io::Result<u32> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(u32::from_ne_bytes(bytes))
}

fn read(folder: &Path) -> Vec<Entry> {
    let text = fs::read_to_string(folder.join(FILE)).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

async fn clear(folder: &Path) {
    let entries = read(folder);
    // First whoever could make more of the rest.
    for entry in &entries {
        if let Entry::Process { pid, begun: at } = entry
            && *at != 0
            && begun(*pid) == Some(*at)
            && let Some(pid) = Pid::from_raw(*pid)
        {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    let mut is_left = false;
    for entry in &entries {
        match entry {
            Entry::Database { server, name } => {
                let is_gone = entries
                    .iter()
                    .any(|entry| matches!(entry, Entry::Dropped { name: gone } if gone == name));
                if !is_gone && let Err(error) = postgres::drop_database(server, name).await {
                    tracing::warn!(database = name, %error, "a database of the run could not be removed");
                    is_left = true;
                }
            }
            // Behind the database whose it is: until that is gone, something depends on it.
            Entry::Role { server, name } => {
                if let Err(error) = postgres::drop_role(server, name).await {
                    tracing::warn!(role = name, %error, "a role of a database of the run could not be removed");
                    is_left = true;
                }
            }
            Entry::Keys { server, prefix } => {
                if let Err(error) = Redis::given(server).clear(prefix).await {
                    tracing::warn!(%error, "keys of the run are left in Redis until they end by themselves");
                }
            }
            Entry::Process { .. } | Entry::Run { .. } | Entry::Ended { .. } | Entry::Dropped { .. } => {}
        }
    }
    // What is left is tried again by the next run.
    if is_left {
        return;
    }
    if let Err(error) = fs::remove_dir_all(folder) {
        tracing::warn!(folder = %folder.display(), %error, "a folder of the run could not be removed");
    }
}

/// When a process was begun, in ticks since the machine was; `None` where there is none of this number.
fn begun(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?;
    if state == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_run_that_lives_is_left_alone_also_in_the_same_process() {
        let (one, other) = (Ledger::open().unwrap(), Ledger::open().unwrap());
        assert_ne!(one.mark(), other.mark());
        other.started(rustix::process::getpid());
        one.clear_others().await;
        assert!(other.folder().join(FILE).is_file());
        one.clear().await;
        assert!(!one.folder().exists() && other.folder().join(FILE).is_file());
        other.ended(rustix::process::getpid());
        fs::remove_dir_all(other.folder()).unwrap();
    }
}
