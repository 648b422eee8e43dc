//! SQLite files. Each query has a connection of its own, which ends with it.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::TryStreamExt as _;
use serde_json::{Value, json};
use sqlx::{
    AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _, Either, Executor as _, Row as _,
    SqlSafeStr as _, Sqlite, SqliteConnection, Statement as _, TypeInfo as _, ValueRef as _,
    query::Query,
    sqlite::{SqliteArguments, SqliteConnectOptions, SqliteRow, SqliteValueRef},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout_at,
};

use super::{
    describe::{Filter, Schema},
    fault::{Fault, ONE_QUERY, Stage, of_sqlite},
    table::{CELL_BYTES_MAX, Limits, Table, clipped},
};

/// Steps of SQLite's machine between two looks at the clock.
const STEPS: i32 = 1_000;
/// So long a query that is over its time may take to notice.
const GRACE: Duration = Duration::from_millis(250);
/// Memory that all of SQLite may take in this process, in bytes. It holds for the store too, which needs a hundredth.
const HEAP_BYTES_MAX: usize = 256 << 20;

/// A file.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
}

/// A connection that can do nothing but read, and stops with whoever asked.
pub(super) struct Reader {
    connection: SqliteConnection,
    stop: Arc<AtomicBool>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl File {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Runs `sql`.
    pub(super) async fn query(
        &self,
        turns: &Arc<Semaphore>,
        sql: &str,
        params: &[Value],
        limits: Limits,
    ) -> Result<Table, Fault> {
        let work = async {
            let mut reader = self.open(turns, limits).await?;
            reader.query(sql, params, limits).await
        };
        timeout_at((limits.deadline + GRACE).into(), work).await.unwrap_or(Err(Fault::Late))
    }

    /// Tells tables and keys.
    pub(super) async fn describe(
        &self,
        turns: &Arc<Semaphore>,
        filter: &Filter,
        limits: Limits,
    ) -> Result<Schema, Fault> {
        let work = async {
            let mut reader = self.open(turns, limits).await?;
            super::describe::sqlite(&mut reader.connection, filter).await
        };
        timeout_at((limits.deadline + GRACE).into(), work).await.unwrap_or(Err(Fault::Late))
    }

    async fn open(&self, turns: &Arc<Semaphore>, limits: Limits) -> Result<Reader, Fault> {
        let turn = turn(turns, limits.deadline).await?;
        let options = SqliteConnectOptions::new()
            .filename(&self.path)
            .read_only(true)
            .create_if_missing(false)
            .busy_timeout(limits.deadline.saturating_duration_since(Instant::now()))
            .pragma("query_only", "ON")
            .pragma("trusted_schema", "OFF")
            .pragma("cell_size_check", "ON")
            .pragma("temp_store", "MEMORY")
            .pragma("hard_heap_limit", HEAP_BYTES_MAX.to_string())
            // Large cells do not pile up on the way.
            .row_buffer_size(1)
            .statement_cache_capacity(0)
            .disable_statement_logging();
        let told = |error: sqlx::Error| of_sqlite(&error, Stage::Connecting);
        let mut connection = options.connect().await.map_err(told)?;
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, deadline) = (Arc::clone(&stop), limits.deadline);
        connection.lock_handle().await.map_err(told)?.set_progress_handler(STEPS, move || {
            // The turn is over when SQLite is done with the connection, not when its answer is no longer wanted.
            let _held = &turn;
            !stopped.load(Ordering::Relaxed) && Instant::now() < deadline
        });
        let mut reader = Reader { connection, stop };
        let encoding: String =
            sqlx::query_scalar("PRAGMA encoding").fetch_one(&mut reader.connection).await.map_err(told)?;
        if encoding != "UTF-8" {
            return Err(Fault::Unreachable(format!("its texts are {encoding}; only UTF-8 is read")));
        }
        Ok(reader)
    }
}

/// Makes a file at `path` of the statements `sql`.
pub(super) async fn make(path: &Path, sql: &str) -> Result<(), sqlx::Error> {
    let options =
        SqliteConnectOptions::new().filename(path).create_if_missing(true).disable_statement_logging();
    let mut connection = options.connect().await?;
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await?;
    connection.close().await
}

/// A turn for one query.
pub(super) async fn turn(turns: &Arc<Semaphore>, deadline: Instant) -> Result<OwnedSemaphorePermit, Fault> {
    match timeout_at(deadline.into(), Arc::clone(turns).acquire_owned()).await {
        Ok(Ok(turn)) => Ok(turn),
        Ok(Err(_)) => Err(Fault::Unreachable("it was closed; start tmws again".to_owned())),
        Err(_) => Err(Fault::Busy),
    }
}

/// `sql` without what may stand at the end of a statement.
pub(super) fn without_end(sql: &str) -> &str {
    sql.trim_end_matches(|c: char| c == ';' || c.is_whitespace())
}

impl Reader {
    /// Prepares `sql` as it is, which shows that its parentheses are balanced and so that it cannot reach out of those
    /// that are put around it; then runs it within them, where only a query has a place.
    async fn query(&mut self, sql: &str, params: &[Value], limits: Limits) -> Result<Table, Fault> {
        let sql = without_end(sql);
        let prepared = (&mut self.connection).prepare(AssertSqlSafe(sql.to_owned()).into_sql_str()).await;
        let statement = prepared.map_err(|error| of_sqlite(&error, Stage::Alone))?;
        let columns: Vec<String> =
            statement.columns().iter().map(|column| column.name().to_owned()).collect();
        let types =
            statement.columns().iter().map(|column| column.type_info().name().to_lowercase()).collect();
        if columns.is_empty() {
            return Err(Fault::Refused(ONE_QUERY.to_owned()));
        }
        if let Some(Either::Right(wanted)) = statement.parameters() {
            check_count(wanted, params.len())?;
            // SQLite takes `$0` for a name; the driver would look for a value before the first.
            if wanted > 0 && sql.contains("$0") {
                return Err(Fault::Wrong(
                    "values are counted from $1; a text with `$0` in it goes into a value".to_owned(),
                ));
            }
        }
        let within = format!("SELECT * FROM (\n{sql}\n) LIMIT {}", limits.rows + 1);
        let mut query = sqlx::query(AssertSqlSafe(within)).persistent(false);
        for (index, value) in params.iter().enumerate() {
            query = bind(query, index, value)?;
        }
        let mut table = Table::new(limits, columns, types);
        let mut rows = query.fetch(&mut self.connection);
        while let Some(row) = rows.try_next().await.map_err(|error| of_sqlite(&error, Stage::Within))? {
            let (cells, cut) = read(&row, &mut table.types)?;
            if !table.push(cells, cut) {
                return Ok(table);
            }
        }
        drop(rows);
        // Where its thread died, the rows ended early.
        self.connection.ping().await.map_err(|error| of_sqlite(&error, Stage::Within))?;
        Ok(table)
    }
}

/// That as many values are given as the query has places.
pub(super) fn check_count(wanted: usize, given: usize) -> Result<(), Fault> {
    if wanted == given {
        return Ok(());
    }
    Err(Fault::Wrong(format!("the query has places for {wanted} values, and {given} were given")))
}

fn bind<'q>(
    query: Query<'q, Sqlite, SqliteArguments>,
    index: usize,
    value: &Value,
) -> Result<Query<'q, Sqlite, SqliteArguments>, Fault> {
    Ok(match value {
        Value::Null => query.bind(None::<i64>),
        Value::Bool(flag) => query.bind(*flag),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => query.bind(whole),
            (None, Some(fraction)) if !number.is_u64() => query.bind(fraction),
            _ => return Err(Fault::Wrong(format!("value {} is larger than a number may be", index + 1))),
        },
        Value::String(text) => query.bind(text.clone()),
        Value::Array(_) | Value::Object(_) => query.bind(value.to_string()),
    })
}

/// The cells of a row, and how many were cut. A column whose type was not declared has that of its first value.
fn read(row: &SqliteRow, types: &mut [String]) -> Result<(Vec<Value>, usize), Fault> {
    let mut cut = 0;
    let mut cells = Vec::with_capacity(types.len());
    for (index, named) in types.iter_mut().enumerate() {
        let raw = row.try_get_raw(index).map_err(|error| of_sqlite(&error, Stage::Within))?;
        if raw.is_null() {
            cells.push(Value::Null);
            continue;
        }
        let kind = raw.type_info().name().to_lowercase();
        let (cell, is_cut) = cell(&kind, raw)?;
        cells.push(cell);
        cut += usize::from(is_cut);
        if named == "null" {
            *named = kind;
        }
    }
    Ok((cells, cut))
}

fn decoded<'r, T: sqlx::Decode<'r, Sqlite>>(raw: SqliteValueRef<'r>) -> Result<T, Fault> {
    T::decode(raw).map_err(|_| Fault::Unreachable("a value of it cannot be read".to_owned()))
}

fn cell(kind: &str, raw: SqliteValueRef<'_>) -> Result<(Value, bool), Fault> {
    Ok(match kind {
        "integer" => (json!(decoded::<i64>(raw)?), false),
        "real" => {
            let number = decoded::<f64>(raw)?;
            (if number.is_finite() { json!(number) } else { json!(number.to_string()) }, false)
        }
        "text" => {
            let bytes = decoded::<&[u8]>(raw)?;
            // A character more than is kept: what is longer is cut.
            let part = &bytes[..bytes.len().min(CELL_BYTES_MAX + 4)];
            let (text, is_cut) = clipped(&String::from_utf8_lossy(part));
            (json!(text), is_cut || part.len() < bytes.len())
        }
        _ => {
            let bytes = decoded::<&[u8]>(raw)?;
            let part = &bytes[..bytes.len().min(CELL_BYTES_MAX / 4 * 3)];
            (json!(STANDARD.encode(part)), part.len() < bytes.len())
        }
    })
}
