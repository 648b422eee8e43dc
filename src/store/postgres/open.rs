//! Opening a database: what server it is, its schema, the role that the second wall stands before, the pool.

use std::{borrow::Cow, net::IpAddr, str::FromStr as _, sync::Arc, time::Duration};

use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, Row as _,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::{
    PostgresFacts, PostgresOptions, Shared,
    fault::{Fault, classify, unavailable, unsuitable},
    listen::Listening,
    schema, search,
    transaction::Database,
    vectors,
};
use crate::{
    processors,
    store::{Place, StoreError, id, turns::Turns, waits::Waits},
};

/// Longest wait for a connection, new or from the pool.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Longest that one statement may take.
const STATEMENT_MAX: Duration = Duration::from_secs(30);
/// A connection that nobody used for so long is closed.
const IDLE_MAX: Duration = Duration::from_mins(5);
/// No connection lives longer.
const LIFE_MAX: Duration = Duration::from_hours(1);
/// One that was idle for so long is looked at before it is used again.
const FRESH: Duration = Duration::from_millis(500);
/// The oldest server: PostgreSQL 15.
const SERVER_MIN: i32 = 15_00_00;
/// The oldest pgvector.
const VECTOR_MIN: (u32, u32) = (0, 7);
/// The first pgvector whose index scans go on until enough rows pass the filter.
const VECTOR_ITERATIVE: (u32, u32) = (0, 8);

/// What stands at the other end.
struct Server {
    version: i32,
    /// `None` where the extension is missing.
    vector: Option<String>,
    /// Schema that it lies in.
    vector_schema: Option<String>,
    /// The role is exempt from row-level security.
    is_exempt: bool,
    database: u32,
    is_lazy: bool,
}

/// How the role in the address connects, and where that leads.
fn address(options: &PostgresOptions) -> Result<(PgConnectOptions, Place), StoreError> {
    let given = given(&options.url)?;
    let place = place(&given);
    let owner = given.application_name("tmws").disable_statement_logging().options([
        ("statement_timeout", STATEMENT_MAX.as_millis().to_string()),
        ("lock_timeout", options.limits.busy_timeout.as_millis().to_string()),
        ("idle_in_transaction_session_timeout", STATEMENT_MAX.as_millis().to_string()),
        ("client_min_messages", "warning".to_owned()),
    ]);
    Ok((owner, place))
}

async fn connect(options: &PgConnectOptions, place: &Place) -> Result<PgConnection, StoreError> {
    tokio::time::timeout(CONNECT_MAX, options.connect())
        .await
        .map_err(|_| unavailable(place, "does not answer; check its address, and that the server runs"))?
        .map_err(|error| Fault::from(error).told(|error| classify(place, error)))
}

/// What stands at the other end, changing nothing.
pub(super) async fn inspect(options: &PostgresOptions) -> Result<PostgresFacts, StoreError> {
    let (owner, place) = address(options)?;
    let mut connection = connect(&owner, &place).await?;
    let found = facts(&mut connection, &place).await;
    let _ = connection.close().await;
    found.map_err(|fault| fault.told(|error| classify(&place, error)))
}

async fn facts(connection: &mut PgConnection, place: &Place) -> Result<PostgresFacts, Fault> {
    let server = identify(connection).await?;
    check_server(&server, place)?;
    let (version, is_encrypted, may_make_roles): (String, bool, bool) = sqlx::query_as(
        "SELECT current_setting('server_version'), \
         coalesce((SELECT ssl FROM pg_catalog.pg_stat_ssl WHERE pid = pg_backend_pid()), false), \
         (SELECT rolsuper OR rolcreaterole FROM pg_catalog.pg_roles WHERE rolname = current_user)",
    )
    .fetch_one(&mut *connection)
    .await?;
    let schema = schema::version(connection, place).await?;
    let is_walled =
        !server.is_exempt || may_make_roles || (schema > 0 && is_granted(connection, &role(&server)).await?);
    Ok(PostgresFacts {
        place: place.clone(),
        server: version,
        vector: server.vector,
        schema,
        schema_known: schema::VERSION,
        is_encrypted,
        is_walled,
    })
}

/// Opens the database, bringing it to the newest schema.
pub(super) async fn open(options: PostgresOptions) -> Result<Shared, StoreError> {
    let (owner, place) = address(&options)?;
    let mut connection = connect(&owner, &place).await?;
    let prepared = prepare(&mut connection, &place).await;
    let _ = connection.close().await;
    let (server, role) = prepared.map_err(|fault| fault.told(|error| classify(&place, error)))?;
    let scans_iteratively =
        server.vector.as_deref().and_then(numbers).is_some_and(|version| version >= VECTOR_ITERATIVE);

    let schema = server.vector_schema.as_deref().unwrap_or("public");
    let mut settings = vec![
        ("search_path", format!("tmws, \"{}\"", schema.replace('"', "\"\""))),
        // Which index serves best depends on what is asked for: how rare a word is, how many rows a scope sees.
        ("plan_cache_mode", "force_custom_plan".to_owned()),
        ("jit", "off".to_owned()),
    ];
    if scans_iteratively {
        // Without it a filter that leaves out most rows silently gets fewer than there are.
        settings.push(("hnsw.iterative_scan", "strict_order".to_owned()));
    }
    if server.is_lazy {
        // What is acknowledged is on the disk.
        settings.push(("synchronous_commit", "on".to_owned()));
    }
    let owner = owner.options(settings);
    let walled = role.map_or_else(|| owner.clone(), |role| owner.clone().options([("role", role)]));
    let pool = PgPoolOptions::new()
        .min_connections(0)
        .max_connections(options.connections_max.max(1))
        .acquire_timeout(CONNECT_MAX)
        .idle_timeout(IDLE_MAX)
        .max_lifetime(LIFE_MAX)
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for > FRESH {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(walled);
    // A server elsewhere has processors of its own. Of one here, as many wait for it as it works for.
    let turns = is_near(&owner).then(|| Turns::new(processors::count() * 2));
    let database = Arc::new(Database { pool, waits: Waits::default(), place });
    let listening = Listening::new(owner.clone());
    Ok(Shared {
        database,
        options,
        owner,
        scans_iteratively,
        ids: id::IdMint::default(),
        models: vectors::Models::default(),
        frequencies: search::Frequencies::default(),
        turns,
        listening,
        marks: super::mark::Marks::default(),
        results: Arc::default(),
        recalled: Arc::default(),
    })
}

/// The address as it was given.
pub(super) fn given(url: &str) -> Result<PgConnectOptions, StoreError> {
    PgConnectOptions::from_str(url).map_err(|_| StoreError::Unavailable {
        reason:
            "TMWS_DATABASE_URL is no valid address: postgres://USER:PASSWORD@HOST:PORT/DATABASE, special \
                 characters written as %XX"
                .to_owned(),
    })
}

/// Whether the server runs on this machine.
fn is_near(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    options.get_socket().is_some()
        || host.starts_with('/')
        || host == "localhost"
        || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// Where that is, without user and password.
pub(super) fn place(options: &PgConnectOptions) -> Place {
    let host = options
        .get_socket()
        .map_or_else(|| options.get_host().to_owned(), |socket| socket.display().to_string());
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    Place::Server(format!("postgres://{host}:{}/{database}", options.get_port()).into())
}

/// Looks who is there, brings the schema to the newest version, and finds the role to work as: `None` where that is the
/// one that logged in.
async fn prepare(connection: &mut PgConnection, place: &Place) -> Result<(Server, Option<String>), Fault> {
    check_server(&identify(connection).await?, place)?;
    if schema::version(connection, place).await? != schema::VERSION {
        schema::migrate(connection, place).await?;
    }
    let server = identify(connection).await?;
    check_server(&server, place)?;
    let role = if server.is_exempt { walled_role(connection, &server, place).await } else { None };
    Ok((server, role))
}

async fn identify(connection: &mut PgConnection) -> Result<Server, sqlx::Error> {
    let row = sqlx::query(
        "SELECT current_setting('server_version_num')::int, e.extversion, n.nspname::text, \
         r.rolsuper OR r.rolbypassrls, d.oid::bigint, current_setting('synchronous_commit') = 'off' \
         FROM pg_catalog.pg_roles r JOIN pg_catalog.pg_database d ON d.datname = current_database() \
         LEFT JOIN pg_catalog.pg_extension e ON e.extname = 'vector' \
         LEFT JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE r.rolname = current_user",
    )
    .fetch_one(connection)
    .await?;
    Ok(Server {
        version: row.try_get(0)?,
        vector: row.try_get(1)?,
        vector_schema: row.try_get(2)?,
        is_exempt: row.try_get(3)?,
        database: u32::try_from(row.try_get::<i64, _>(4)?).unwrap_or(0),
        is_lazy: row.try_get(5)?,
    })
}

fn check_server(server: &Server, place: &Place) -> Result<(), StoreError> {
    if server.version < SERVER_MIN {
        let found = server.version / 10_000;
        return Err(unsuitable(
            place,
            format!("the server is PostgreSQL {found}, and {} or newer is needed", SERVER_MIN / 10_000),
        ));
    }
    if let Some(vector) = &server.vector
        && numbers(vector).is_none_or(|version| version < VECTOR_MIN)
    {
        return Err(unsuitable(
            place,
            format!(
                "its extension pgvector is {vector}, and 0.7 or newer is needed: install a newer one on the server, \
                 then have an administrator run ALTER EXTENSION vector UPDATE in this database"
            ),
        ));
    }
    Ok(())
}

/// The first two numbers of a version.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// A role of this database that row-level security holds for, made where it is not there: the one that logged in is
/// exempt. `None`, and a warning, where it may not be made.
async fn walled_role(connection: &mut PgConnection, server: &Server, place: &Place) -> Option<String> {
    let role = role(server);
    let mut tries = 0;
    loop {
        match grant(connection, &role).await {
            Ok(()) => return Some(role),
            // Another process makes it just now.
            Err(error) if tries < 8 && is_race(&error) => tries += 1,
            Err(error) => {
                tracing::warn!(
                    %place, %error,
                    "row-level security does not hold for the role that logs in, and no other may be used: its wall does \
                     not stand; let tmws log in as a role that is no superuser and has no BYPASSRLS"
                );
                return None;
            }
        }
    }
}

fn role(server: &Server) -> String {
    format!("tmws_{}", server.database)
}

/// Whether `role` is one that row-level security holds for, that this login may take, and that may use every table.
async fn is_granted(connection: &mut PgConnection, role: &str) -> Result<bool, sqlx::Error> {
    let granted: Option<bool> = sqlx::query_scalar(
        "SELECT NOT r.rolsuper AND NOT r.rolbypassrls AND pg_has_role(r.oid, \
         CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END) \
         AND has_schema_privilege(r.oid, 'tmws', 'USAGE') AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         CROSS JOIN unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS may \
         WHERE n.nspname = 'tmws' AND c.relkind = 'r' AND NOT has_table_privilege(r.oid, c.oid, may)) \
         FROM pg_catalog.pg_roles r WHERE r.rolname = $1",
    )
    .bind(role)
    .fetch_optional(connection)
    .await?;
    Ok(granted.unwrap_or(false))
}

fn is_race(error: &sqlx::Error) -> bool {
    // Exists meanwhile (42710, 23505), or its row was changed at the same time (XX000).
    let code = error.as_database_error().and_then(|error| error.code().map(Cow::into_owned));
    matches!(code.as_deref(), Some("42710" | "23505" | "XX000" | "40001" | "40P01"))
}

async fn grant(connection: &mut PgConnection, role: &str) -> Result<(), sqlx::Error> {
    let exists: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = $1)")
            .bind(role)
            .fetch_one(&mut *connection)
            .await?;
    if !exists {
        let make = format!("CREATE ROLE {role} NOLOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE NOCREATEDB");
        sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut *connection).await?;
    }
    if is_granted(connection, role).await? {
        return Ok(());
    }
    let grant = format!(
        "BEGIN; SELECT pg_advisory_xact_lock({}); GRANT {role} TO CURRENT_USER; GRANT USAGE ON SCHEMA tmws TO {role}; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tmws TO {role}; COMMIT",
        schema::LOCK
    );
    let granted = sqlx::raw_sql(AssertSqlSafe(grant)).execute(&mut *connection).await;
    if granted.is_err() {
        let _ = sqlx::raw_sql("ROLLBACK").execute(connection).await;
    }
    granted.map(|_| ())
}
