//! Databases as their administrator sees them: connections that stay, and files that are read.

use std::path::Path;

use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, Row as _, SqliteConnection,
    sqlite::SqliteConnectOptions,
};

use crate::{
    accept::{scenario::Broken, stage},
    hex::hex,
};

/// Letters of a statement that a report shows.
const SHOWN_MAX: usize = 160;

fn broken(sql: &str, error: &dyn std::fmt::Display) -> Broken {
    let shown: String =
        sql.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SHOWN_MAX).collect();
    Broken::new(shown, "an answer of the database", error)
}

/// A connection to a PostgreSQL database, in which a transaction may stay open.
pub(super) struct Session {
    connection: PgConnection,
}

impl Session {
    /// Connects as whoever `url` names.
    pub(super) async fn open(url: &str) -> Result<Self, Broken> {
        let connection = stage::connect(url).await.map_err(|error| broken("connecting", &error))?;
        Ok(Self { connection })
    }

    /// Runs statements.
    pub(super) async fn run(&mut self, sql: &str) -> Result<(), Broken> {
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut self.connection).await;
        done.map(drop).map_err(|error| broken(sql, &error))
    }

    /// The rows of a query, each as a JSON object.
    pub(super) async fn rows(&mut self, sql: &str) -> Result<Vec<Value>, Broken> {
        let query = format!("SELECT row_to_json(asked)::text FROM ({sql}) asked");
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(query))
            .fetch_all(&mut self.connection)
            .await
            .map_err(|error| broken(sql, &error))?;
        Ok(rows.iter().map(|row| serde_json::from_str(row).unwrap_or_default()).collect())
    }

    /// The first column of the first row, a number.
    pub(super) async fn count(&mut self, sql: &str) -> Result<i64, Broken> {
        let query = format!("SELECT ({sql})::int8");
        let found: Option<i64> = sqlx::query_scalar(AssertSqlSafe(query))
            .fetch_one(&mut self.connection)
            .await
            .map_err(|error| broken(sql, &error))?;
        Ok(found.unwrap_or(0))
    }

    /// Ends it.
    pub(super) async fn close(self) {
        // The server notices the end of it either way.
        let _ = self.connection.close().await;
    }
}

/// Every row of every table of the schema `tmws`, as one hash a table.
pub(super) async fn fingerprint(url: &str) -> Result<Vec<(String, String)>, Broken> {
    let mut session = Session::open(url).await?;
    let tables = session
        .rows(
            "SELECT c.relname AS name FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n \
             ON n.oid = c.relnamespace WHERE n.nspname = 'tmws' AND c.relkind = 'r' ORDER BY 1",
        )
        .await?;
    let mut prints = Vec::new();
    for table in tables {
        let name = table["name"].as_str().unwrap_or_default().to_owned();
        let rows = session
            .rows(&format!(
                "SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, '|' ORDER BY t::text)), '') AS print \
                 FROM tmws.{name} t"
            ))
            .await?;
        let print = rows.first().and_then(|row| row["print"].as_str()).unwrap_or_default().to_owned();
        prints.push((name, print));
    }
    session.close().await;
    Ok(prints)
}

/// A SQLite file.
pub(super) struct Lite {
    connection: SqliteConnection,
}

impl Lite {
    /// Opens it to read; beside a server that writes to it.
    pub(super) async fn read(path: &Path) -> Result<Self, Broken> {
        Self::open(SqliteConnectOptions::new().filename(path).read_only(true)).await
    }

    /// Opens it to write, and makes it where there is none.
    pub(super) async fn write(path: &Path) -> Result<Self, Broken> {
        Self::open(SqliteConnectOptions::new().filename(path).create_if_missing(true)).await
    }

    async fn open(options: SqliteConnectOptions) -> Result<Self, Broken> {
        let opened = options.disable_statement_logging().connect().await;
        let connection = opened.map_err(|error| broken("opening the file", &error))?;
        Ok(Self { connection })
    }

    /// The connection itself.
    pub(super) const fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    /// Runs statements.
    pub(super) async fn run(&mut self, sql: &str) -> Result<(), Broken> {
        let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut self.connection).await;
        done.map(drop).map_err(|error| broken(sql, &error))
    }

    /// The first column of the first row, a number.
    pub(super) async fn count(&mut self, sql: &str) -> Result<i64, Broken> {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
            .fetch_one(&mut self.connection)
            .await
            .map_err(|error| broken(sql, &error))
    }

    /// The first column of all rows, texts.
    pub(super) async fn texts(&mut self, sql: &str) -> Result<Vec<String>, Broken> {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
            .fetch_all(&mut self.connection)
            .await
            .map_err(|error| broken(sql, &error))
    }

    /// A text and bytes of all rows.
    pub(super) async fn blobs(&mut self, sql: &str) -> Result<Vec<(String, Vec<u8>)>, Broken> {
        let rows = sqlx::query(AssertSqlSafe(sql.to_owned()))
            .fetch_all(&mut self.connection)
            .await
            .map_err(|error| broken(sql, &error))?;
        let read = |row: &sqlx::sqlite::SqliteRow| Ok((row.try_get(0)?, row.try_get(1)?));
        rows.iter().map(read).collect::<Result<_, sqlx::Error>>().map_err(|error| broken(sql, &error))
    }

    /// The columns of a table that hold something of their own.
    pub(super) async fn columns(&mut self, table: &str) -> Result<Vec<String>, Broken> {
        self.texts(&format!("SELECT name FROM pragma_table_info('{table}') ORDER BY cid")).await
    }

    /// The tables that hold data, without those that SQLite keeps for an index of words or for itself.
    pub(super) async fn tables(&mut self) -> Result<Vec<String>, Broken> {
        self.texts(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'memory_fts%' \
             AND name NOT LIKE 'sqlite_%' AND name NOT LIKE '_sqlx_%' ORDER BY name",
        )
        .await
    }

    /// All rows of `columns` of a table as texts, in order.
    pub(super) async fn dump(&mut self, table: &str, columns: &[String]) -> Result<Vec<String>, Broken> {
        let quoted: Vec<String> = columns.iter().map(|column| format!("quote(\"{column}\")")).collect();
        self.texts(&format!("SELECT {} FROM \"{table}\" ORDER BY 1", quoted.join(" || '|' || "))).await
    }

    /// Ends it.
    pub(super) async fn close(self) {
        // What was written is committed.
        let _ = self.connection.close().await;
    }
}

/// Every file beside a store, with a hash of its bytes.
pub(super) fn bytes_beside(path: &Path) -> Result<Vec<(String, String)>, Broken> {
    let folder = path.parent().unwrap_or(path);
    let failed = |error: std::io::Error| Broken::new("reading the files of a store", "their bytes", error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if entry.file_type().map_err(failed)?.is_file() {
            let bytes = std::fs::read(entry.path()).map_err(failed)?;
            files.push((entry.file_name().to_string_lossy().into_owned(), hex(&Sha256::digest(bytes))));
        }
    }
    files.sort();
    Ok(files)
}
