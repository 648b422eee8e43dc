//! PostgreSQL: a given server on which the run makes databases of its own, or a server of its own.

use std::{
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::chown,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::{Signal, geteuid};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};

use super::{
    Ledger,
    process::{Held, NOBODY, Program},
};
use crate::accept::scenario::Broken;

/// A server starts, or starts again after a kill, within this.
const START_MAX: Duration = Duration::from_mins(1);
/// Between two looks at whether it accepts connections.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A server.
pub struct Postgres {
    /// Of its administrator, with a database.
    url: String,
    own: Option<Own>,
    ledger: Arc<Ledger>,
}

/// What is known of a server of the run's own.
struct Own {
    programs: PathBuf,
    folder: PathBuf,
    settings: &'static [&'static str],
    port: u16,
    running: Option<Held>,
}

/// A database of the run's own.
#[derive(Clone, Debug)]
pub struct Database {
    /// With whoever may do everything in it.
    pub url: String,
    /// Its name.
    pub name: String,
}

impl Postgres {
    /// The server at `url`, where the run makes databases and drops them.
    ///
    /// # Errors
    /// It cannot be reached, or has no pgvector.
    pub(super) async fn given(url: &str, ledger: &Arc<Ledger>) -> Result<Self, Broken> {
        let server = Self { url: url.to_owned(), own: None, ledger: Arc::clone(ledger) };
        server.has_vector().await?;
        Ok(server)
    }

    /// Without pgvector it is as good as none.
    async fn has_vector(&self) -> Result<(), Broken> {
        let found =
            self.value("SELECT default_version FROM pg_available_extensions WHERE name = 'vector'").await?;
        if found.is_some() {
            return Ok(());
        }
        Err(Broken::new(
            "asking PostgreSQL for pgvector",
            "the extension vector",
            "it is not installed; install it, give the folder or the address of another server (`tmws accept --help`), \
             or waive it with --without",
        )
        .missing())
    }

    /// A new, empty server with the programs in `programs`, which keeps its data in `folder`. `settings`: `NAME=VALUE`, over
    /// those that it has else.
    ///
    /// # Errors
    /// It does not start, or has no pgvector.
    pub(super) async fn start(
        programs: &Path,
        folder: &Path,
        settings: &'static [&'static str],
        ledger: &Arc<Ledger>,
    ) -> Result<Self, Broken> {
        let broken =
            |error: &dyn std::fmt::Display| Broken::new("preparing PostgreSQL", "a folder of its own", error);
        let data = folder.join("data");
        std::fs::create_dir(&data).map_err(|error| broken(&error))?;
        if geteuid().is_root() {
            for path in [folder, &data] {
                chown(path, Some(NOBODY), Some(NOBODY)).map_err(|error| broken(&error))?;
            }
        }
        let mut initdb = Program::of_server(&programs.join("initdb"), true);
        initdb
            .command()
            .args(["-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--auth=trust", "--no-sync", "-D"])
            .arg(&data)
            .current_dir(folder);
        let (status, said) = initdb.run("initdb", START_MAX).await?;
        if !status.success() {
            return Err(Broken::new("running initdb", "exit 0", format!("{status}: {said}")));
        }
        let own = Own {
            programs: programs.to_owned(),
            folder: folder.to_owned(),
            settings,
            port: 0,
            running: None,
        };
        let mut server = Self { url: String::new(), own: Some(own), ledger: Arc::clone(ledger) };
        server.resume().await?;
        server.has_vector().await?;
        Ok(server)
    }

    /// The address of its administrator.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Ends it at once, as a power cut of its process would.
    ///
    /// # Errors
    /// It is not the run's own, or does not end.
    pub async fn kill(&mut self) -> Result<(), Broken> {
        self.end(Signal::KILL).await
    }

    /// Ends it: connections are closed, open transactions rolled back.
    ///
    /// # Errors
    /// As [`Postgres::kill`].
    pub async fn stop(&mut self) -> Result<(), Broken> {
        self.end(Signal::INT).await
    }

    async fn end(&mut self, signal: Signal) -> Result<(), Broken> {
        let Some(mut running) = self.own.as_mut().and_then(|own| own.running.take()) else {
            return Err(Broken::new("ending PostgreSQL", "a server of the run's own", "it is not"));
        };
        running.end(signal, START_MAX).await.map(drop)
    }

    /// Starts it again at its address, and waits until it accepts connections.
    ///
    /// # Errors
    /// It does not.
    pub async fn resume(&mut self) -> Result<(), Broken> {
        let Some(own) = self.own.as_mut() else {
            return Err(Broken::new("starting PostgreSQL", "a server of the run's own", "it is not"));
        };
        let begun = Instant::now();
        // Another process may have taken the port; backends of a killed server hold its memory until they have noticed.
        loop {
            if own.port == 0 {
                own.port = free_port()?;
            }
            self.url = format!("postgres://postgres@127.0.0.1:{}/postgres", own.port);
            let is_first = !own.folder.join("data/postmaster.opts").exists();
            let mut running = own.launch(&self.ledger)?;
            while begun.elapsed() < START_MAX {
                if running.has_ended().is_some() {
                    break;
                }
                if let Ok(connection) = connect(&self.url).await {
                    let _ = connection.close().await;
                    own.running = Some(running);
                    return Ok(());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            if begun.elapsed() >= START_MAX {
                let log = running.log().text();
                return Err(Broken::new("starting PostgreSQL", "it accepts connections", log));
            }
            if is_first {
                own.port = 0;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// A new, empty database.
    ///
    /// # Errors
    /// It cannot be made.
    pub async fn database(&self, name: &str) -> Result<Database, Broken> {
        if self.own.is_none() {
            self.ledger.makes_database(&self.url, name);
        }
        self.run(&format!("CREATE DATABASE {name}")).await?;
        if self.own.is_none() {
            let number = format!("SELECT oid FROM pg_catalog.pg_database WHERE datname = '{name}'");
            if let Some(number) = self.value(&number).await? {
                self.ledger.makes_role(&self.url, &format!("tmws_{number}"));
            }
        }
        Ok(Database { url: beside(&self.url, name), name: name.to_owned() })
    }

    /// Removes a database, whoever is connected to it.
    ///
    /// # Errors
    /// It cannot be removed.
    pub async fn drop(&self, database: &Database) -> Result<(), Broken> {
        let dropped = drop_database(&self.url, &database.name).await;
        dropped.map_err(|error| Broken::new("removing a database of the run", "it is gone", error))?;
        self.ledger.dropped(&database.name);
        Ok(())
    }

    /// The first column of the first row, of the server's own database.
    ///
    /// # Errors
    /// The server's.
    pub async fn value(&self, sql: &str) -> Result<Option<String>, Broken> {
        value(&self.url, sql).await
    }

    async fn run(&self, sql: &str) -> Result<(), Broken> {
        run(&self.url, sql).await.map_err(|error| Broken::new(sql, "it is done", error))
    }
}

impl Database {
    /// The database at `url`.
    pub(super) fn at(url: &str) -> Self {
        let name = url.split('?').next().and_then(|url| url.rsplit('/').next()).unwrap_or_default();
        Self { url: url.to_owned(), name: name.to_owned() }
    }

    /// The first column of the first row, as text.
    ///
    /// # Errors
    /// The server's.
    pub async fn value(&self, sql: &str) -> Result<Option<String>, Broken> {
        value(&self.url, sql).await
    }

    /// Runs statements.
    ///
    /// # Errors
    /// The server's.
    pub async fn run(&self, sql: &str) -> Result<(), Broken> {
        run(&self.url, sql).await.map_err(|error| Broken::new(sql, "it is done", error))
    }
}

impl Own {
    fn launch(&self, ledger: &Arc<Ledger>) -> Result<Held, Broken> {
        let mut server = Program::of_server(&self.programs.join("postgres"), true);
        server
            .command()
            .arg("-D")
            .arg(self.folder.join("data"))
            .args(["-p", &self.port.to_string()])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="])
            .args(["-c", "fsync=on", "-c", "synchronous_commit=on", "-c", "shared_buffers=256MB"])
            .args(["-c", "max_connections=100"])
            .args(self.settings.iter().flat_map(|setting| ["-c", setting]))
            .current_dir(&self.folder);
        server.start("PostgreSQL", ledger)
    }
}

/// The address of another database on the server of `url`.
fn beside(url: &str, name: &str) -> String {
    let (address, query) = url.split_once('?').map_or((url, ""), |(address, query)| (address, query));
    let base = match address.split_once("://").map(|(_, rest)| rest.contains('/')) {
        Some(true) => address.rsplit_once('/').map_or(address, |(base, _)| base),
        _ => address,
    };
    if query.is_empty() { format!("{base}/{name}") } else { format!("{base}/{name}?{query}") }
}

/// Removes a database, whoever is connected to it.
pub(super) async fn drop_database(server: &str, name: &str) -> Result<(), sqlx::Error> {
    run(server, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await
}

/// Connects as whoever `url` names. What the run itself asks may take long, and nobody is told of its statements.
///
/// # Errors
/// There is no such server, or it lets nobody in.
pub(in crate::accept) async fn connect(url: &str) -> Result<PgConnection, sqlx::Error> {
    url.parse::<PgConnectOptions>()?.disable_statement_logging().connect().await
}

/// Removes a role that the program made for a database which is gone.
pub(super) async fn drop_role(server: &str, name: &str) -> Result<(), sqlx::Error> {
    // Who may make no roles may not ask for the end of one either, also of none.
    let mut connection = connect(server).await?;
    let is_there: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)")
            .bind(name)
            .fetch_one(&mut connection)
            .await?;
    connection.close().await?;
    if is_there { run(server, &format!("DROP ROLE IF EXISTS {name}")).await } else { Ok(()) }
}

async fn run(url: &str, sql: &str) -> Result<(), sqlx::Error> {
    let mut connection = connect(url).await?;
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await?;
    connection.close().await
}

async fn value(url: &str, sql: &str) -> Result<Option<String>, Broken> {
    let asked = async {
        let mut connection = connect(url).await?;
        let found: Option<Option<String>> =
            sqlx::query_scalar(AssertSqlSafe(format!("SELECT ({sql})::text")))
                .fetch_optional(&mut connection)
                .await?;
        connection.close().await?;
        Ok(found.flatten())
    };
    asked.await.map_err(|error: sqlx::Error| Broken::new(sql, "an answer", error))
}

/// A port that was free just now.
pub(super) fn free_port() -> Result<u16, Broken> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    bound
        .map(|address| address.port())
        .map_err(|error| Broken::new("looking for a port", "a free one", error))
}
