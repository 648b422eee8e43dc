//! `sql.*`: reads databases that the configuration names.
//!
//! | step | output |
//! |---|---|
//! | `sql.query` | `{source, columns, types, rows: [[…]], n, truncated, cut?}` |
//! | `sql.describe` | `{source, kind, tables: […], n, total, truncated, queries: […], sources: […]}` |
//!
//! `source` may be left out where the project has one only. `sql.query` runs either `query`, which is a text of the
//! pattern (never an expression; the loader sees to it) with values in the list `params`, or the query of the
//! configuration called `name`, with values by name. Values are bound, never put into a text: null, truth values,
//! numbers and texts as they are, lists and objects as JSON (PostgreSQL: lists also as arrays).
//!
//! **Reading only.** A query is prepared alone, then run as the inner part of a `SELECT`: what is no query, is more than
//! one statement, or writes in a `WITH`, is no valid inner part. SQLite files are opened read-only with `query_only`;
//! PostgreSQL runs it in a `READ ONLY` transaction that is always rolled back. What such a transaction does not stop are
//! functions that reach beyond it (`dblink`, `pg_read_file`, `lo_export`, `pg_terminate_backend`): a database is to be
//! read by a role without the rights to these.
//!
//! **Bounds.** Rows, bytes of a cell and of the whole, time, and queries of one source at once: further ones wait for as
//! long as a query may take, and are then told that it is busy. A query that is over its time, which begins when it does, or
//! whose caller has gone, is ended in the database.
//!
//! **Cells.** Numbers are numbers as long as nothing is lost, else texts (`numeric` always); times are RFC 3339 in UTC, or
//! without a zone where they have none; bytes are base64; JSON and arrays are JSON; all else is its database's own text.
//! `types` names each column's type.

mod bind;
mod describe;
mod fault;
mod postgres;
mod spec;
mod sqlite;
mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OnceCell, Semaphore};

use super::{ENDS_EARLY, StepContext, StepError, StepOutput, arguments::Arguments};
use crate::{
    engine::ErrorKind,
    nearest,
    resilience::{BackendKind, GuardSettings, Pauses},
    scope::ProjectId,
};
use fault::Fault;

pub use spec::{
    Address, NamedQuery, ROWS_DEFAULT, ROWS_MAX, Secret, SourceSpec, TIMEOUT_DEFAULT, TIMEOUT_MAX,
};

use table::Limits;

/// Queries of one source at once; further ones wait for a place of its guard.
const AT_ONCE: usize = BackendKind::Source.settings().at_once;
/// Whoever leaves a query after so long leaves a database that does not answer, whatever a query may take.
const PATIENCE_MAX: Duration = Duration::from_secs(10);
/// Values of one query.
const PARAMS_MAX: usize = 64;
/// Longest text of a query.
const SQL_BYTES_MAX: usize = 64 << 10;

/// Reads a variable of the environment.
pub type Variable = fn(&str) -> Option<OsString>;

/// The databases, by name. Nothing is opened before the first query.
#[derive(Debug, Default)]
pub struct Sources {
    sources: BTreeMap<String, Arc<Source>>,
    local: bool,
}

/// One database.
#[derive(Debug)]
struct Source {
    spec: SourceSpec,
    variable: Variable,
    /// For what goes on when its caller has left its place.
    turns: Arc<Semaphore>,
    opened: OnceCell<Database>,
    /// Why the last try to reach it failed.
    ailing: Mutex<Option<String>>,
}

#[derive(Debug)]
enum Database {
    Sqlite(sqlite::File),
    Postgres(Box<postgres::Server>),
}

impl Sources {
    /// The databases of `specs`; `local`: for one local user, who may read what names no project. `variable` reads the
    /// environment for those that have their address there.
    #[must_use]
    pub fn new(specs: impl IntoIterator<Item = SourceSpec>, local: bool, variable: Variable) -> Self {
        let source = |mut spec: SourceSpec| {
            spec.queries.sort_by(|one, other| one.name.cmp(&other.name));
            let name = spec.name.clone();
            let source = Source {
                spec,
                variable,
                turns: Arc::new(Semaphore::new(AT_ONCE)),
                opened: OnceCell::new(),
                ailing: Mutex::default(),
            };
            (name, Arc::new(source))
        };
        Self { sources: specs.into_iter().map(source).collect(), local }
    }

    /// Ends what is open.
    pub async fn close(&self) {
        for source in self.sources.values() {
            source.turns.close();
            if let Some(Database::Postgres(server)) = source.opened.get() {
                server.close().await;
            }
        }
    }

    /// Databases that calls of `project` may read and that could not be reached last time, each with the reason.
    pub fn ailing(&self, project: &ProjectId) -> impl Iterator<Item = (&str, String)> {
        self.offered(project).filter_map(|source| {
            let ailing = source.ailing.lock().unwrap_or_else(PoisonError::into_inner).clone();
            Some((source.spec.name.as_str(), ailing?))
        })
    }

    /// Whether calls of `project` may read the database `name`.
    #[must_use]
    pub fn offers(&self, project: &ProjectId, name: &str) -> bool {
        self.offered(project).any(|source| source.spec.name == name)
    }

    /// A digest of all that the configuration says of the databases that calls of `project` may read: an answer that was
    /// kept under another one says nothing of these.
    #[must_use]
    pub fn mark(&self, project: &ProjectId) -> [u8; 32] {
        let mut digest = Sha256::new();
        let mut note = |text: &[u8]| {
            digest.update((text.len() as u64).to_le_bytes());
            digest.update(text);
        };
        for Source { spec, variable, .. } in self.offered(project).map(AsRef::as_ref) {
            note(spec.name.as_bytes());
            match &spec.address {
                Address::Sqlite(path) => note(path.as_os_str().as_encoded_bytes()),
                Address::Postgres(url) => note(url.expose().as_bytes()),
                Address::Variable(name) => {
                    note(variable(name).unwrap_or_default().as_encoded_bytes());
                }
            }
            note(&spec.rows.to_le_bytes());
            for NamedQuery { name, description: _, sql, params } in &spec.queries {
                note(name.as_bytes());
                note(sql.as_bytes());
                note(params.join(",").as_bytes());
            }
            // Where the queries of one end and the next one begins.
            note(&[]);
        }
        digest.finalize().into()
    }

    fn offered(&self, project: &ProjectId) -> impl Iterator<Item = &Arc<Source>> {
        self.sources.values().filter(move |source| source.spec.is_offered(project, self.local))
    }

    /// The source that a step means. One that is not offered is not told apart from one that is not there.
    fn choose(&self, ctx: &StepContext, args: Arguments<'_>) -> Result<Arc<Source>, StepError> {
        let permitted = |source: &&Arc<Source>| {
            ctx.permissions.sql.iter().any(|name| name == "*" || *name == source.spec.name)
        };
        let offered: Vec<&Arc<Source>> =
            self.offered(ctx.scope.project()).filter(|source| permitted(source)).collect();
        let names = || offered.iter().map(|source| source.spec.name.as_str()).collect::<Vec<_>>().join(", ");
        if offered.is_empty() {
            return Err(StepError::new(
                ErrorKind::Denied,
                "no database is offered to this project and pattern; the user can name one under [sources.NAME] in \
                 tmws.toml",
            ));
        }
        match args.text_or_none("source")? {
            Some(name) => {
                let known = offered.iter().find(|source| source.spec.name == name);
                known.map(|source| Arc::clone(source)).ok_or_else(|| {
                    let hint = nearest::hint(name, offered.iter().map(|source| source.spec.name.as_str()));
                    args.refuse(
                        "source",
                        format!("no such database is offered here{hint}; there are: {}", names()),
                    )
                })
            }
            None if offered.len() == 1 => Ok(Arc::clone(offered[0])),
            None => Err(args.refuse("source", format!("name one of: {}", names()))),
        }
    }
}

impl Source {
    /// The database, its address read at the first use.
    async fn database(&self) -> Result<&Database, StepError> {
        self.opened.get_or_try_init(|| async { self.open().await }).await
    }

    async fn open(&self) -> Result<Database, StepError> {
        let name = &self.spec.name;
        let wrong =
            |what: String| StepError::new(ErrorKind::ProgramFailed, format!("database {name}: {what}"));
        let address = match &self.spec.address {
            Address::Variable(variable) => {
                let value = (self.variable)(variable).ok_or_else(|| {
                    wrong(format!("the environment has no {variable}, which its `url_env` names"))
                })?;
                let text = value.to_str().map(str::trim).unwrap_or_default();
                Address::parse(text).map_err(|fault| wrong(format!("{variable} {fault}")))?
            }
            address => address.clone(),
        };
        match address {
            Address::Sqlite(path) => Ok(Database::Sqlite(sqlite::File::new(path))),
            Address::Postgres(url) => {
                let password = match &self.spec.password_file {
                    None => None,
                    Some(path) => {
                        let read = tokio::fs::read_to_string(path).await;
                        let text = read
                            .map_err(|error| wrong(format!("its password file cannot be read: {error}")))?;
                        Some(Secret::new(text.trim_end_matches(['\r', '\n'])))
                    }
                };
                let server = postgres::Server::new(&url, password.as_ref()).map_err(wrong)?;
                Ok(Database::Postgres(Box::new(server)))
            }
            Address::Variable(_) => Err(wrong("its variable names another variable".to_owned())),
        }
    }

    /// Asks it what `ask` asks, behind its guard; again, where the connection breaks: it was only read. Notes how that
    /// went, and says whose failure it is. At most `rows` rows.
    async fn ask<F>(
        &self,
        ctx: &StepContext,
        rows: usize,
        ask: impl Fn(Limits) -> F,
    ) -> Result<Value, StepError>
    where
        F: Future<Output = Result<Value, Fault>>,
    {
        let timeout = self.spec.timeout;
        let kind = BackendKind::Source;
        // A query may take that long: who leaves sooner says nothing of the database.
        let settings = GuardSettings { patience: timeout.min(PATIENCE_MAX), ..kind.settings() };
        let guard = ctx.outside.backends.guard_with(kind, &self.spec.name, settings);
        let last = ctx.deadline.checked_sub(ENDS_EARLY).unwrap_or(ctx.deadline);
        let mut pauses = Pauses::of_a_read();
        let mut deadline = None;
        loop {
            let entry = guard.enter(deadline.unwrap_or_else(|| last.min(Instant::now() + timeout))).await?;
            let begun = Instant::now();
            // Its time begins with its place: what others take is not the database's.
            let deadline = *deadline.get_or_insert_with(|| last.min(begun + timeout));
            let limits = Limits::new(rows, ctx.bytes_max, deadline);
            let result = ask(limits).await;
            let ailing = match &result {
                Err(Fault::Unreachable(reason) | Fault::Lost(reason)) => Some(reason.clone()),
                Err(Fault::Silent) => Some("it did not answer in time".to_owned()),
                _ => None,
            };
            let is_lost = matches!(result, Err(Fault::Lost(_)));
            match &result {
                Err(Fault::Unreachable(why) | Fault::Lost(why)) => {
                    entry.fail(None, why);
                }
                // It should have ended the query itself, and had time to.
                Err(Fault::Silent) if begun.elapsed() >= kind.settings().patience.min(timeout) => {
                    entry.time_out("it did not answer in time");
                }
                Err(Fault::Silent) => {
                    entry.give_up();
                }
                // Waiting for others says nothing of the database.
                Err(Fault::Busy) => entry.dismiss(),
                _ => entry.succeed(),
            }
            *self.ailing.lock().unwrap_or_else(PoisonError::into_inner) = ailing;
            if !is_lost || !pauses.wait(&guard, Duration::ZERO, deadline).await {
                return result.map_err(|fault| fault.told(&self.spec.name, timeout));
            }
        }
    }
}

/// Makes an SQLite file at `path` of the statements `sql`, for a test of a pattern.
///
/// # Errors
/// What SQLite says of them.
pub async fn make_sqlite(path: &std::path::Path, sql: &str) -> Result<(), String> {
    sqlite::make(path, sql).await.map_err(|error| error.to_string())
}

/// Runs the step `uses`.
pub(super) async fn run(
    uses: &str,
    ctx: &StepContext,
    with: &Map<String, Value>,
) -> Result<StepOutput, StepError> {
    let args = Arguments::new(uses, with);
    let value = match uses {
        "sql.query" => query(ctx, args).await?,
        "sql.describe" => describe(ctx, args).await?,
        _ => return Err(super::unknown_step(uses)),
    };
    Ok(StepOutput::of(value))
}

async fn query(ctx: &StepContext, args: Arguments<'_>) -> Result<Value, StepError> {
    let source = ctx.outside.sql.choose(ctx, args)?;
    let (sql, params) = match (args.text_or_none("query")?, args.text_or_none("name")?) {
        (Some(sql), None) => (sql.to_owned(), positional(args)?),
        (None, Some(name)) => named(&source.spec, name, args)?,
        _ => return Err(args.refuse("query", "give either a query or the name of one of the configuration")),
    };
    if sql.len() > SQL_BYTES_MAX || sql.contains('\0') {
        return Err(args.refuse("query", "must have at most 64 KiB and no NUL"));
    }
    if params.len() > PARAMS_MAX {
        return Err(args.refuse("params", format!("at most {PARAMS_MAX} values")));
    }
    let rows = args.count_or_none("rows", 1, ROWS_MAX)?.unwrap_or(source.spec.rows).min(source.spec.rows);
    let database = source.database().await?;
    let ask = async |limits| {
        let result = match database {
            Database::Sqlite(file) => file.query(&source.turns, &sql, &params, limits).await,
            Database::Postgres(server) => server.query(&source.turns, &sql, &params, limits).await,
        };
        result.map(table::Table::into_value)
    };
    let mut value = source.ask(ctx, rows, |limits| Box::pin(ask(limits))).await?;
    value["source"] = json!(source.spec.name);
    Ok(value)
}

fn positional(args: Arguments<'_>) -> Result<Vec<Value>, StepError> {
    match args.value("params") {
        None => Ok(Vec::new()),
        Some(Value::Array(params)) => Ok(params.clone()),
        Some(_) => Err(args.wrong("params", "a list, in the order of the query's values")),
    }
}

/// The query of the configuration called `name`, and its values in order.
fn named(spec: &SourceSpec, name: &str, args: Arguments<'_>) -> Result<(String, Vec<Value>), StepError> {
    let query = spec.queries.iter().find(|query| query.name == name).ok_or_else(|| {
        let known: Vec<&str> = spec.queries.iter().map(|query| query.name.as_str()).collect();
        let there = match known.as_slice() {
            [] => "it has none".to_owned(),
            names => format!("it has: {}", names.join(", ")),
        };
        let hint = nearest::hint(name, known);
        args.refuse("name", format!("database {} has no such query{hint}; {there}", spec.name))
    })?;
    let wanted = || match query.params.as_slice() {
        [] => format!("{name} takes no values"),
        names => format!("{name} takes {}", names.join(", ")),
    };
    let given = match args.value("params") {
        None => Map::new(),
        Some(Value::Object(given)) => given.clone(),
        Some(_) => return Err(args.wrong("params", "an object with the query's values by name")),
    };
    if let Some(unknown) = given.keys().find(|name| !query.params.contains(name)) {
        let shown: String = unknown.chars().filter(|c| !c.is_control()).take(64).collect();
        return Err(args.refuse("params", format!("no value is called `{shown}`: {}", wanted())));
    }
    let values = query.params.iter().map(|name| given.get(name).cloned());
    let values: Option<Vec<Value>> = values.collect();
    let values = values.ok_or_else(|| args.refuse("params", format!("a value is missing: {}", wanted())))?;
    Ok((query.sql.clone(), values))
}

async fn describe(ctx: &StepContext, args: Arguments<'_>) -> Result<Value, StepError> {
    let glob = describe::Filter::read(args)?;
    let source = ctx.outside.sql.choose(ctx, args)?;
    let database = source.database().await?;
    let kind = match database {
        Database::Sqlite(_) => "sqlite",
        Database::Postgres(_) => "postgres",
    };
    let ask = async |limits| {
        let result = match database {
            Database::Sqlite(file) => file.describe(&source.turns, &glob, limits).await,
            Database::Postgres(server) => server.describe(&source.turns, &glob, limits).await,
        };
        result.map(describe::Schema::into_value)
    };
    let mut value = source.ask(ctx, ROWS_MAX, |limits| Box::pin(ask(limits))).await?;
    value["source"] = json!(source.spec.name);
    value["kind"] = json!(kind);
    let query = |query: &NamedQuery| json!({"name": query.name, "description": query.description, "params": query.params});
    value["queries"] = source.spec.queries.iter().map(query).collect();
    Ok(value)
}
