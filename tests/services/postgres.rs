//! A database for each test, on the server that TMWS_TEST_POSTGRES_URL names.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// A database of its own. Dropped with the server it lies on.
pub(crate) struct Database {
    server: String,
    pub(crate) name: String,
}

impl Database {
    /// A new one, holding what the statements `sql` make.
    pub(crate) async fn new(sql: &str) -> Self {
        let (server, name) = (server(), next_name());
        let mut admin =
            PgConnection::connect(&server).await.expect("TMWS_TEST_POSTGRES_URL names a server that runs");
        run(&mut admin, &format!("CREATE DATABASE {name}")).await;
        let database = Self { server, name };
        run(&mut database.connect().await, sql).await;
        database
    }

    /// A copy of the database `template`, to which nobody is connected.
    pub(crate) async fn copied(template: &str) -> Self {
        let database = Self { server: server(), name: next_name() };
        let mut admin = PgConnection::connect(&database.server).await.unwrap();
        run(&mut admin, &format!("CREATE DATABASE {} TEMPLATE {template}", database.name)).await;
        admin.close().await.unwrap();
        database
    }

    /// Its address.
    pub(crate) fn url(&self) -> String {
        let (base, _) = self.server.rsplit_once('/').expect("a database in the address");
        format!("{base}/{}", self.name)
    }

    /// Its address for another role.
    pub(crate) fn url_as(&self, role: &str, password: &str) -> String {
        let url = self.url();
        let (_, rest) = url.split_once('@').expect("a role in the address");
        format!("postgres://{role}:{password}@{rest}")
    }

    /// A connection of the server's administrator.
    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.url()).await.unwrap()
    }

    /// The only value of a query.
    pub(crate) async fn value(&self, sql: &str) -> i64 {
        let sql = AssertSqlSafe(sql.to_owned());
        sqlx::query_scalar(sql).bind(&self.name).fetch_one(&mut self.connect().await).await.unwrap()
    }

    /// Waits until nobody is connected to it.
    pub(crate) async fn wait_until_unused(&self) {
        let mut admin = PgConnection::connect(&self.server).await.unwrap();
        let waited = async {
            while sqlx::query_scalar::<_, i64>("SELECT count(*) FROM pg_stat_activity WHERE datname = $1")
                .bind(&self.name)
                .fetch_one(&mut admin)
                .await
                .unwrap()
                > 0
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waited).await.expect("everybody leaves");
    }

    /// Backends of ours in this database whose last query has `part` in it and that are in `state`.
    pub(crate) async fn backends(&self, state: &str, part: &str) -> i64 {
        self.value(&format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND application_name = 'tmws' \
             AND state LIKE '{state}' AND query LIKE '%{part}%'"
        ))
        .await
    }
}

fn next_name() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("tmws_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn server() -> String {
    let url = std::env::vars().find(|(name, _)| name == "TMWS_TEST_POSTGRES_URL").map(|(_, url)| url);
    url.expect("no TMWS_TEST_POSTGRES_URL: run `scripts/postgres cargo test --test services`")
}

pub(crate) async fn run(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(connection)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}
