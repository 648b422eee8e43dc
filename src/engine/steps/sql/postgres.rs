//! PostgreSQL servers: a few connections each, opened when needed, closed when idle.

use std::{
    collections::HashMap,
    fmt,
    fmt::Write as _,
    str::FromStr as _,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use futures_util::TryStreamExt as _;
use serde_json::{Value, json};
use sqlx::{
    AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _, Either, Executor as _, PgConnection,
    PgPool, Postgres, Row as _, SqlSafeStr as _, Statement as _,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions, PgStatement, types::Oid},
};
use tokio::{sync::Semaphore, time::timeout_at};

use super::{
    AT_ONCE, Secret,
    bind::bound,
    describe::{Filter, Schema},
    fault::{Fault, ONE_QUERY, Stage, of_postgres},
    sqlite::{check_count, turn, without_end},
    table::{CELL_BYTES_MAX, Limits, Table, clipped},
};

/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// A connection that nobody used for so long is closed.
const IDLE_MAX: Duration = Duration::from_mins(1);
/// No connection lives longer.
const LIFE_MAX: Duration = Duration::from_mins(30);
/// So long after its deadline the server itself has ended a query.
const GRACE: Duration = Duration::from_millis(500);
/// Longest that ending a query may take.
const CANCEL_MAX: Duration = Duration::from_secs(5);

/// A server.
pub(super) struct Server {
    options: PgConnectOptions,
    pool: OnceLock<PgPool>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

impl Server {
    /// The server at `url`, with `password` where that is not in it.
    ///
    /// # Errors
    /// The address is none; without any of its text.
    pub(super) fn new(url: &Secret, password: Option<&Secret>) -> Result<Self, String> {
        let mut options = PgConnectOptions::from_str(url.expose())
            .map_err(|_| "its address is no valid postgres:// URL".to_owned())?;
        if let Some(password) = password {
            options = options.password(password.expose());
        }
        let options =
            options.application_name("tmws").statement_cache_capacity(16).disable_statement_logging();
        Ok(Self { options, pool: OnceLock::new() })
    }

    /// Ends its connections.
    pub(super) async fn close(&self) {
        if let Some(pool) = self.pool.get() {
            // What is still on loan ends by its own time.
            let _ = tokio::time::timeout(CANCEL_MAX, pool.close()).await;
        }
    }

    /// Runs `sql`.
    pub(super) async fn query(
        &self,
        turns: &Arc<Semaphore>,
        sql: &str,
        params: &[Value],
        limits: Limits,
    ) -> Result<Table, Fault> {
        let _turn = turn(turns, limits.deadline).await?;
        let mut lease = self.lease(limits).await?;
        let work = query(lease.connection(), without_end(sql), params, limits);
        // The server itself should have ended it by then.
        let result = timeout_at((limits.deadline + GRACE).into(), work).await.unwrap_or(Err(Fault::Silent));
        lease.end(result).await
    }

    /// Tells tables and keys.
    pub(super) async fn describe(
        &self,
        turns: &Arc<Semaphore>,
        filter: &Filter,
        limits: Limits,
    ) -> Result<Schema, Fault> {
        let _turn = turn(turns, limits.deadline).await?;
        let mut lease = self.lease(limits).await?;
        let work = super::describe::postgres(lease.connection(), filter);
        let result = timeout_at((limits.deadline + GRACE).into(), work).await.unwrap_or(Err(Fault::Silent));
        lease.end(result.map(|schema| (schema, true))).await
    }

    fn pool(&self) -> &PgPool {
        self.pool.get_or_init(|| {
            PgPoolOptions::new()
                .min_connections(0)
                .max_connections(AT_ONCE as u32)
                .acquire_timeout(CONNECT_MAX)
                .idle_timeout(IDLE_MAX)
                .max_lifetime(LIFE_MAX)
                .connect_lazy_with(self.options.clone())
        })
    }

    /// A connection within a transaction that only reads, whose statements end in time by themselves.
    async fn lease(&self, limits: Limits) -> Result<Lease, Fault> {
        let told = |error: sqlx::Error| of_postgres(&error, Stage::Connecting, &[]);
        let acquire = timeout_at(limits.deadline.into(), self.pool().acquire());
        let connection = acquire.await.map_err(|_| Fault::Silent)?.map_err(told)?;
        let mut lease = Lease { connection: Some(connection), backend: None, options: self.options.clone() };
        let left = limits.deadline.saturating_duration_since(Instant::now()).as_millis().max(1);
        // The snapshot that the last statement takes makes the mode of the transaction final.
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = {left}; \
             SET LOCAL lock_timeout = {left}; SET LOCAL idle_in_transaction_session_timeout = {}; \
             SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL IntervalStyle = 'iso_8601'; \
             SET LOCAL bytea_output = 'hex'; SELECT pg_backend_pid()::text",
            left + CANCEL_MAX.as_millis(),
        );
        let first = sqlx::raw_sql(AssertSqlSafe(begin)).fetch_one(lease.connection());
        let row = timeout_at((limits.deadline + GRACE).into(), first)
            .await
            .map_err(|_| Fault::Silent)?
            .map_err(|error| of_postgres(&error, Stage::Within, &[]))?;
        let backend: String = row.try_get(0).map_err(told)?;
        lease.backend = backend.parse().ok();
        Ok(lease)
    }
}

/// A connection in use. Dropped with its query still running, it has the server end that, and is closed.
struct Lease {
    connection: Option<PoolConnection<Postgres>>,
    /// The server's process that runs its queries.
    backend: Option<i32>,
    options: PgConnectOptions,
}

impl Lease {
    fn connection(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("it is taken when the lease ends")
    }

    /// Ends the transaction and gives the connection back as it was; where `result` says that rows may still come, it is
    /// closed instead.
    async fn end<T>(mut self, result: Result<(T, bool), Fault>) -> Result<T, Fault> {
        let is_whole = match &result {
            Ok((_, is_whole)) => *is_whole,
            Err(Fault::Late | Fault::Silent | Fault::Lost(_) | Fault::Unreachable(_)) => false,
            Err(_) => true,
        };
        if is_whole {
            let cleaned = async {
                let connection = self.connection();
                // What the session itself would keep of a query: locks by its functions, and its statement.
                let end = sqlx::raw_sql("ROLLBACK; SELECT pg_advisory_unlock_all()");
                end.execute(&mut *connection).await?;
                connection.clear_cached_statements().await
            };
            let cleaned = tokio::time::timeout(CANCEL_MAX, cleaned).await;
            if matches!(cleaned, Ok(Ok(()))) {
                self.backend = None;
                drop(self.connection.take());
            }
        }
        result.map(|(value, _)| value)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let (backend, options) = (self.backend, self.options.clone());
        // Held until its query has ended, so that the server's process is not yet another's.
        let end = async move {
            let connection = connection.detach();
            if let Some(backend) = backend
                && let Ok(mut other) = options.connect().await
            {
                let cancel = sqlx::query("SELECT pg_cancel_backend($1)").bind(backend);
                if let Err(error) = cancel.execute(&mut other).await {
                    tracing::debug!(%error, "a query could not be cancelled; its own time ends it");
                }
                let _ = other.close().await;
            }
            let _ = connection.close_hard().await;
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { tokio::time::timeout(CANCEL_MAX, end).await });
        }
    }
}

/// Prepares `sql` as it is, then runs it as the inner part of a query that gives every cell as a text of bounded length.
/// The second value says whether all of it has arrived.
async fn query(
    connection: &mut PgConnection,
    sql: &str,
    params: &[Value],
    limits: Limits,
) -> Result<(Table, bool), Fault> {
    let own: Vec<&str> = params.iter().filter_map(Value::as_str).collect();
    let told = |stage| move |error: sqlx::Error| of_postgres(&error, stage, &own);
    let prepared = (&mut *connection).prepare(AssertSqlSafe(sql.to_owned()).into_sql_str()).await;
    let statement: PgStatement = prepared.map_err(told.clone()(Stage::Alone))?;
    if statement.columns().is_empty() {
        return Err(Fault::Refused(ONE_QUERY.to_owned()));
    }
    let wanted = match statement.parameters() {
        Some(Either::Left(types)) => types.to_vec(),
        _ => Vec::new(),
    };
    check_count(wanted.len(), params.len())?;
    let columns = shown_columns(connection, &statement).await.map_err(told.clone()(Stage::Alone))?;
    let names = statement.columns().iter().map(|column| column.name().to_owned()).collect();
    let mut table = Table::new(limits, names, columns.iter().map(|column| column.name.clone()).collect());
    let mut query = sqlx::query(AssertSqlSafe(within(sql, &columns, limits.rows + 1))).persistent(false);
    for (index, (value, wanted)) in params.iter().zip(&wanted).enumerate() {
        query = query.bind(bound(index, value, wanted)?);
    }
    let mut rows = query.fetch(connection);
    while let Some(row) = rows.try_next().await.map_err(told.clone()(Stage::Within))? {
        let (mut cells, mut cut) = (Vec::with_capacity(columns.len()), 0);
        for (index, column) in columns.iter().enumerate() {
            let text: Option<&str> = row.try_get(index).map_err(told.clone()(Stage::Within))?;
            let (cell, is_cut) = text.map_or((Value::Null, false), |text| column.form.read(text));
            cells.push(cell);
            cut += usize::from(is_cut);
        }
        if !table.push(cells, cut) {
            // The row that was one too many is the last; more come only where the bytes were too many.
            let is_whole = table.is_full();
            return Ok((table, is_whole));
        }
    }
    Ok((table, true))
}

/// A column as it is asked for and read.
struct Shown {
    /// Its type, as PostgreSQL names it.
    name: String,
    form: Form,
}

/// How a value travels and what becomes of its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Text,
    Whole,
    Fraction,
    Flag,
    Time,
    Bytes,
    Json,
    /// An array of numbers that JSON's would lose digits of.
    Numerics,
}

impl Form {
    /// By the type's number (`pg_type.dat`) and category.
    fn of(oid: u32, category: &str) -> Self {
        match oid {
            16 => Self::Flag,
            17 => Self::Bytes,
            20 | 21 | 23 | 26 => Self::Whole,
            700 | 701 => Self::Fraction,
            1114 | 1184 => Self::Time,
            114 | 3802 | 2249 => Self::Json,
            1231 => Self::Numerics,
            _ if category == "A" || category == "C" => Self::Json,
            _ => Self::Text,
        }
    }

    /// The expression that gives column `name` as a text of at most [`CELL_BYTES_MAX`] characters and one.
    fn asked(self, name: &str) -> String {
        let characters = CELL_BYTES_MAX + 1;
        match self {
            Self::Text | Self::Whole | Self::Fraction | Self::Flag => {
                format!("left({name}::text, {characters})")
            }
            Self::Time => format!("to_json({name}) #>> '{{}}'"),
            Self::Bytes => {
                format!("encode(substring({name} from 1 for {}), 'base64')", CELL_BYTES_MAX / 4 * 3 + 1)
            }
            Self::Json => format!("left(to_json({name})::text, {characters})"),
            Self::Numerics => format!("left(to_json({name}::text[])::text, {characters})"),
        }
    }

    /// The value of a text, and whether something of it is missing.
    fn read(self, text: &str) -> (Value, bool) {
        let as_text = || {
            let (text, is_cut) = clipped(text);
            (json!(text), is_cut)
        };
        match self {
            Self::Text => as_text(),
            Self::Flag => (json!(text == "true"), false),
            Self::Whole => text.parse::<i64>().map_or_else(|_| as_text(), |whole| (json!(whole), false)),
            Self::Fraction => match text.parse::<f64>() {
                Ok(number) if number.is_finite() => (json!(number), false),
                _ => as_text(),
            },
            Self::Time => match text.strip_suffix("+00:00") {
                Some(time) => (json!(format!("{time}Z")), false),
                None => as_text(),
            },
            Self::Bytes => {
                let mut text: String = text.chars().filter(|c| !c.is_ascii_whitespace()).collect();
                let is_cut = text.len() > CELL_BYTES_MAX;
                text.truncate(CELL_BYTES_MAX);
                (json!(text), is_cut)
            }
            Self::Json | Self::Numerics => match serde_json::from_str(text) {
                Ok(value) if text.len() <= CELL_BYTES_MAX => (value, false),
                _ => as_text(),
            },
        }
    }
}

async fn shown_columns(
    connection: &mut PgConnection,
    statement: &PgStatement,
) -> Result<Vec<Shown>, sqlx::Error> {
    let oids: Vec<Oid> =
        statement.columns().iter().map(|column| column.type_info().oid().unwrap_or_default()).collect();
    let rows = sqlx::query(
        "SELECT oid, format_type(oid, NULL), typcategory::text FROM pg_catalog.pg_type WHERE oid = ANY($1)",
    )
    .bind(&oids)
    .fetch_all(connection)
    .await?;
    let mut known: HashMap<Oid, (String, String)> = HashMap::new();
    for row in rows {
        known.insert(row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?));
    }
    let shown = |oid: &Oid| {
        let (name, category) =
            known.get(oid).cloned().unwrap_or_else(|| ("unknown".to_owned(), String::new()));
        Shown { form: Form::of(oid.0, &category), name }
    };
    Ok(oids.iter().map(shown).collect())
}

/// `sql` within a query of ours. It is valid by itself, so that it cannot reach out of the parentheses; a comment at its
/// end ends with its line.
fn within(sql: &str, columns: &[Shown], rows: usize) -> String {
    let (mut asked, mut names) = (String::new(), String::new());
    for (index, column) in columns.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        let name = format!("c{index}");
        let _ = write!(asked, "{separator}{}", column.form.asked(&name));
        let _ = write!(names, "{separator}{name}");
    }
    format!("SELECT {asked} FROM (\n{sql}\n) AS tmws_asked({names}) LIMIT {rows}")
}
