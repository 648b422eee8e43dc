//! Redis: a given server on which the run keeps keys of its own projects, or servers of its own.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use ::redis::{Client, FromRedisValue};
use rustix::process::Signal;

use super::{
    Ledger,
    postgres::free_port,
    process::{Held, Program},
};
use crate::accept::scenario::Broken;

/// A server starts within this.
const START_MAX: Duration = Duration::from_secs(20);
/// Between two looks at whether it answers.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A server.
pub struct Redis {
    url: String,
    own: Option<Own>,
}

struct Own {
    program: PathBuf,
    folder: PathBuf,
    port: u16,
    lines: Vec<String>,
    running: Option<Held>,
    ledger: Arc<Ledger>,
}

impl Redis {
    pub(super) fn given(url: &str) -> Self {
        Self { url: url.to_owned(), own: None }
    }

    pub(super) async fn start(
        programs: &Path,
        folder: &Path,
        lines: &[&str],
        ledger: &Arc<Ledger>,
    ) -> Result<Self, Broken> {
        let own = Own {
            program: programs.join("redis-server"),
            folder: folder.to_owned(),
            port: 0,
            lines: lines.iter().map(|&line| line.to_owned()).collect(),
            running: None,
            ledger: Arc::clone(ledger),
        };
        let mut server = Self { url: String::new(), own: Some(own) };
        server.resume().await?;
        Ok(server)
    }

    /// Its address.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its port, of a server of the run's own.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.own.as_ref().map(|own| own.port)
    }

    /// Ends it at once.
    ///
    /// # Errors
    /// It is not the run's own, or does not end.
    pub async fn kill(&mut self) -> Result<(), Broken> {
        let Some(mut running) = self.own.as_mut().and_then(|own| own.running.take()) else {
            return Err(Broken::new("ending Redis", "a server of the run's own", "it is not"));
        };
        running.end(Signal::KILL, START_MAX).await.map(drop)
    }

    /// Stops it where it is: it accepts, and never answers. `false` lets it go on.
    pub fn freeze(&self, is_frozen: bool) {
        if let Some(running) = self.own.as_ref().and_then(|own| own.running.as_ref()) {
            running.signal(if is_frozen { Signal::STOP } else { Signal::CONT });
        }
    }

    /// Starts it again at its address, empty, and waits until it answers.
    ///
    /// # Errors
    /// It does not.
    pub async fn resume(&mut self) -> Result<(), Broken> {
        let Some(own) = self.own.as_mut() else {
            return Err(Broken::new("starting Redis", "a server of the run's own", "it is not"));
        };
        let is_first = own.port == 0;
        let begun = Instant::now();
        loop {
            if own.port == 0 {
                own.port = free_port()?;
            }
            let mut running = own.launch()?;
            self.url = format!("redis://127.0.0.1:{}", own.port);
            while begun.elapsed() < START_MAX {
                if running.has_ended().is_some() {
                    break;
                }
                if ask::<String>(&self.url, &["PING"]).await.is_ok() {
                    own.running = Some(running);
                    return Ok(());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            if begun.elapsed() >= START_MAX {
                return Err(Broken::new("starting Redis", "it answers PING", running.log().text()));
            }
            if is_first {
                own.port = 0;
            }
        }
    }

    /// The keys of projects whose names begin with `prefix`.
    ///
    /// # Errors
    /// The server's.
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>, Broken> {
        self.scan(&format!("tmws:1:{{{prefix}*")).await
    }

    async fn scan(&self, pattern: &str) -> Result<Vec<String>, Broken> {
        let mut all = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            let (next, keys): (String, Vec<String>) =
                self.ask(&["SCAN", &cursor, "MATCH", pattern, "COUNT", "1000"]).await?;
            all.extend(keys);
            if next == "0" {
                return Ok(all);
            }
            cursor = next;
        }
    }

    /// Removes the answers of projects whose names begin with `prefix`.
    ///
    /// # Errors
    /// The server's.
    pub async fn forget(&self, prefix: &str) -> Result<(), Broken> {
        self.unlink(&self.keys(prefix).await?).await
    }

    /// Removes everything of such projects, also what the servers agree by: what a server that is not the run's own would
    /// keep.
    ///
    /// # Errors
    /// The server's.
    pub(super) async fn clear(&self, prefix: &str) -> Result<(), Broken> {
        self.unlink(&self.scan(&format!("tmws:*{{{prefix}*")).await?).await
    }

    async fn unlink(&self, keys: &[String]) -> Result<(), Broken> {
        for keys in keys.chunks(1_000) {
            let words: Vec<&str> = std::iter::once("UNLINK").chain(keys.iter().map(String::as_str)).collect();
            self.ask::<u64>(&words).await?;
        }
        Ok(())
    }

    /// Whether it is the run's own, and may be stopped and killed.
    #[must_use]
    pub const fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// The answer to a command, words apart.
    ///
    /// # Errors
    /// The server's.
    pub async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> Result<T, Broken> {
        let answered = ask(&self.url, words).await;
        answered.map_err(|error| Broken::new(format!("asking Redis {}", words.join(" ")), "an answer", error))
    }
}

impl Own {
    fn launch(&self) -> Result<Held, Broken> {
        let mut lines = vec![
            format!("port {}", self.port),
            "bind 127.0.0.1".to_owned(),
            format!("dir {}", self.folder.display()),
            "save \"\"".to_owned(),
            "appendonly no".to_owned(),
        ];
        lines.extend(self.lines.iter().cloned());
        let file = self.folder.join("redis.conf");
        std::fs::write(&file, lines.join("\n") + "\n")
            .map_err(|error| Broken::new("configuring Redis", "a file", error))?;
        let mut server = Program::of_server(&self.program, false);
        server.command().arg(&file);
        server.start("Redis", &self.ledger)
    }
}

async fn ask<T: FromRedisValue>(url: &str, words: &[&str]) -> Result<T, ::redis::RedisError> {
    let client = Client::open(url)?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    let mut command = ::redis::cmd(words.first().copied().unwrap_or("PING"));
    for word in words.iter().skip(1) {
        command.arg(*word);
    }
    command.query_async(&mut connection).await
}
