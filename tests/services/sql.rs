//! `sql.*` on PostgreSQL.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use sqlx::PgConnection;
use tmws::{
    engine::{
        ErrorKind, NobodyToAsk, Outside,
        steps::{
            self, StepContext, StepError,
            sql::{Address, SourceSpec, Sources},
        },
    },
    pattern::{Permissions, StepRow},
    scope::{ProjectId, Scope},
    store::{SqliteOptions, SqliteStore},
};
use tokio_util::sync::CancellationToken;

use super::postgres::{Database, run};

const SHOP: &str = "
CREATE TYPE mood AS ENUM ('calm', 'stormy');
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, since date, mood mood DEFAULT 'calm');
CREATE TABLE orders (
  id bigserial PRIMARY KEY, customer int NOT NULL REFERENCES customers (id), total numeric(12, 2),
  placed timestamptz NOT NULL DEFAULT now(), tags text[], extra jsonb
);
CREATE SCHEMA back;
CREATE TABLE back.notes (a int, b int, PRIMARY KEY (b, a));
CREATE VIEW open_orders AS SELECT id FROM orders;
INSERT INTO customers VALUES (1, 'Ada Quill', '2020-01-02', 'stormy'), (2, 'Ben Osei', NULL, 'calm');
INSERT INTO orders (customer, total, placed, tags, extra) VALUES
  (1, 12.50, '2026-02-01T08:00:00+02:00', '{rope,\"a b\"}', '{\"a\": [1, null]}'), (2, NULL, '2026-02-03Z', NULL, NULL);
ANALYZE customers;
";

struct Bench {
    database: Database,
    _folder: tempfile::TempDir,
    ctx: StepContext,
}

impl Bench {
    async fn new() -> Self {
        let database = Database::new(SHOP).await;
        let url = database.url();
        Self::at(database, &url, None).await
    }

    async fn at(database: Database, url: &str, password: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(SqliteOptions::new(folder.path().join("store.db"))).await.unwrap();
        let mut spec = SourceSpec::new("app", Address::parse(url).unwrap());
        spec.timeout = Duration::from_mins(1);
        if let Some(password) = password {
            let path = folder.path().join("password");
            std::fs::write(&path, format!("{password}\n")).unwrap();
            spec.password_file = Some(path);
        }
        let ctx = StepContext {
            scope: Scope::mint(ProjectId::personal(), "local", "default", None),
            store: Arc::new(store),
            listener: None,
            roots: BTreeMap::new(),
            permissions: Arc::new(Permissions { sql: vec!["app".to_owned()], ..Permissions::default() }),
            outside: Arc::new(Outside { sql: Sources::new([spec], true, |_| None), ..Outside::default() }),
            asker: Arc::new(NobodyToAsk),
            id: "step".to_owned(),
            now: "2026-03-01T12:00:00Z".parse().unwrap(),
            deadline: Instant::now() + Duration::from_mins(2),
            cancel: CancellationToken::new(),
            bytes_max: 8 << 20,
        };
        Self { database, _folder: folder, ctx }
    }

    async fn run(&self, uses: &str, with: Value) -> Result<Value, StepError> {
        let Value::Object(with) = with else { panic!("an object") };
        let row = StepRow::find(uses).unwrap();
        steps::run(row, &self.ctx, &with).await.map(|output| output.value)
    }

    async fn ask(&self, sql: &str, params: Value) -> Result<Value, StepError> {
        self.run("sql.query", json!({"query": sql, "params": params})).await
    }

    async fn row(&self, sql: &str, params: Value) -> Value {
        self.ask(sql, params).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))["rows"][0].take()
    }

    async fn refused(&self, sql: &str) -> StepError {
        self.ask(sql, json!([])).await.expect_err(sql)
    }
}

#[tokio::test]
async fn every_type_comes_without_loss() {
    let bench = Bench::new().await;
    for (expression, value) in [
        ("1::int2", json!(1)),
        ("-7", json!(-7)),
        ("9007199254740993", json!(9_007_199_254_740_993_i64)),
        ("1.5::float4", json!(1.5)),
        ("0.1::float8", json!(0.1)),
        ("'NaN'::float8", json!("NaN")),
        ("12345678901234567890.123456789::numeric", json!("12345678901234567890.123456789")),
        ("true", json!(true)),
        ("false", json!(false)),
        ("NULL::int", Value::Null),
        ("'a''b'", json!("a'b")),
        ("'2026-03-01T14:00:00.25+02'::timestamptz", json!("2026-03-01T12:00:00.25Z")),
        ("'2026-03-01T14:00:00'::timestamp", json!("2026-03-01T14:00:00")),
        ("'infinity'::timestamptz", json!("infinity")),
        ("'2026-03-01'::date", json!("2026-03-01")),
        ("'1 day 2 hours'::interval", json!("P1DT2H")),
        ("'\\x00ff'::bytea", json!("AP8=")),
        ("'{\"b\": 1, \"a\": [true, null]}'::json", json!({"b": 1, "a": [true, null]})),
        ("'{\"a\": 1}'::jsonb", json!({"a": 1})),
        ("ARRAY[1, NULL, 3]", json!([1, null, 3])),
        ("ARRAY['a b', 'c']", json!(["a b", "c"])),
        ("ARRAY[0.10, 12345678901234567890.5]", json!(["0.10", "12345678901234567890.5"])),
        ("ARRAY[[1, 2], [3, 4]]", json!([[1, 2], [3, 4]])),
        ("'6f8f5771-5090-da26-3245-3988d9a1501b'::uuid", json!("6f8f5771-5090-da26-3245-3988d9a1501b")),
        ("'stormy'::mood", json!("stormy")),
        ("int4range(1, 5)", json!("[1,5)")),
        ("ROW(1, 'x')", json!({"f1": 1, "f2": "x"})),
        ("'127.0.0.1'::inet", json!("127.0.0.1/32")),
        ("point(1, 2)", json!("(1,2)")),
        ("'[1,2]'::text COLLATE \"C\"", json!("[1,2]")),
    ] {
        assert_eq!(
            bench.row(&format!("SELECT {expression}"), json!([])).await,
            json!([value]),
            "{expression}"
        );
    }
    let named =
        bench.ask("SELECT 1 AS a, 2 AS a, 'x'::mood AS m FROM (SELECT 1) q WHERE false", json!([])).await;
    let error = named.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidInput, "{error:?}");
    let named = bench.ask("SELECT 1 AS a, 2.5 AS a, 'calm'::mood AS m", json!([])).await.unwrap();
    assert_eq!(
        (&named["columns"], &named["types"]),
        (&json!(["a", "a", "m"]), &json!(["integer", "numeric", "mood"]))
    );
    let ordered =
        bench.ask("SELECT i FROM generate_series(1, 5) i ORDER BY i DESC; ", json!([])).await.unwrap();
    assert_eq!(ordered["rows"], json!([[5], [4], [3], [2], [1]]));
}

#[tokio::test]
async fn values_arrive_as_the_type_of_their_place() {
    let bench = Bench::new().await;
    for (kind, given, back) in [
        ("int2", json!(7), json!(7)),
        ("int4", json!("-8"), json!(-8)),
        ("int8", json!(9_007_199_254_740_993_i64), json!(9_007_199_254_740_993_i64)),
        ("float8", json!(0.1), json!(0.1)),
        ("float4", json!(2), json!(2.0)),
        ("numeric", json!("-12345678901234567890.0001"), json!("-12345678901234567890.0001")),
        ("numeric", json!(1e-7), json!("0.0000001")),
        ("numeric", json!("0.00"), json!("0.00")),
        ("bool", json!(true), json!(true)),
        ("text", json!("it's $1; --"), json!("it's $1; --")),
        ("text", json!({"a": [1]}), json!("{\"a\":[1]}")),
        ("varchar", json!("é"), json!("é")),
        ("json", json!({"a": [1, null]}), json!({"a": [1, null]})),
        ("jsonb", json!("text"), json!("text")),
        ("date", json!("1999-12-31"), json!("1999-12-31")),
        ("timestamp", json!("2026-03-01T12:00:00.5"), json!("2026-03-01T12:00:00.5")),
        ("timestamptz", json!("2026-03-01T14:00:00+02:00"), json!("2026-03-01T12:00:00Z")),
        (
            "uuid",
            json!("6F8F5771-5090-DA26-3245-3988D9A1501B"),
            json!("6f8f5771-5090-da26-3245-3988d9a1501b"),
        ),
        ("mood", json!("stormy"), json!("stormy")),
        ("int4[]", json!([1, null, 3]), json!([1, null, 3])),
        ("text[]", json!([]), json!([])),
        ("text[]", json!(["a\"b", "{}"]), json!(["a\"b", "{}"])),
        ("int4", Value::Null, Value::Null),
        ("mood", Value::Null, Value::Null),
    ] {
        let row = bench.row(&format!("SELECT $1::{kind}"), json!([given])).await;
        assert_eq!(row, json!([back]), "{kind}");
    }
    assert_eq!(
        bench.row("SELECT name FROM customers WHERE since > $1", json!(["2019-01-01"])).await,
        json!(["Ada Quill"])
    );
    assert_eq!(
        bench.row("SELECT name FROM customers WHERE id = ANY($1)", json!([[2]])).await,
        json!(["Ben Osei"])
    );

    for (sql, params, told) in [
        ("SELECT $1::int4", json!([]), "places for 1 values, and 0 were given"),
        ("SELECT $1::int4", json!([1, 2]), "places for 1 values, and 2 were given"),
        ("SELECT $1::int4", json!(["x"]), "value 1 of the query must be a whole number"),
        ("SELECT $1::int2", json!([70_000]), "a smaller whole number"),
        ("SELECT $1::text", json!(["a\0b"]), "a text without NUL"),
        ("SELECT $1::date", json!(["yesterday"]), "a date, as in"),
        ("SELECT $1::interval", json!(["1 day"]), "write $1::text::interval"),
        ("SELECT $1::mood", json!(["wild"]), "\"wild\" (SQLSTATE 22P02)"),
        (
            "SELECT name::int FROM customers",
            json!([]),
            "a value does not fit where the query uses it (SQLSTATE 22P02)",
        ),
    ] {
        let error = bench.ask(sql, params).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidInput, "{sql}: {error:?}");
        assert!(error.message.contains(told), "{sql}: {}", error.message);
        assert!(!error.message.contains("Ada"), "{}", error.message);
    }
    assert_eq!(bench.row("SELECT $1::text::interval", json!(["1 day"])).await, json!(["P1D"]));
    // What is in a value stays a value.
    let hostile = json!(["x'; DROP TABLE customers; --"]);
    assert_eq!(bench.ask("SELECT 1 FROM customers WHERE name = $1", hostile).await.unwrap()["n"], 0);
    assert_eq!(bench.ask("SELECT 1\0", json!([])).await.unwrap_err().kind, ErrorKind::InvalidInput);
}

#[tokio::test]
async fn nothing_writes_locks_or_leaves_its_transaction() {
    let bench = Bench::new().await;
    run(
        &mut bench.database.connect().await,
        "CREATE FUNCTION sneaky() RETURNS int LANGUAGE sql VOLATILE AS $$ INSERT INTO back.notes VALUES (1, 1) RETURNING 1 $$",
    )
    .await;
    for sql in [
        "INSERT INTO customers VALUES (9, 'x')",
        "INSERT INTO customers VALUES (9, 'x') RETURNING id",
        "WITH x AS (INSERT INTO customers VALUES (9, 'x') RETURNING id) SELECT id FROM x",
        "WITH x AS (DELETE FROM orders RETURNING id) SELECT id FROM x",
        "UPDATE customers SET name = 'x' RETURNING id",
        "DELETE FROM orders RETURNING id",
        "MERGE INTO customers c USING orders o ON false WHEN NOT MATCHED THEN INSERT VALUES (9, 'x') RETURNING c.id",
        "SELECT * INTO copied FROM customers",
        "CREATE TABLE t (a int)",
        "CREATE TABLE t AS SELECT 1",
        "CREATE TEMP TABLE t AS SELECT 1",
        "DROP TABLE orders",
        "TRUNCATE orders",
        "SELECT id FROM customers FOR UPDATE",
        "SELECT id FROM customers FOR SHARE",
        "SELECT nextval('orders_id_seq')",
        "SELECT setval('orders_id_seq', 99)",
        "SELECT sneaky()",
        "SELECT lo_create(0)",
        "SELECT set_config('transaction_read_only', 'off', true)",
        "SELECT set_config('transaction_read_only', 'off', false)",
        "SET TRANSACTION READ WRITE",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "COMMIT",
        "COMMIT; DELETE FROM orders",
        "ROLLBACK",
        "BEGIN READ WRITE",
        "SELECT 1; SELECT 2",
        "SELECT 1; COMMIT; DELETE FROM orders; SELECT 2",
        "SELECT 1) AS q(a); COMMIT; DELETE FROM orders; SELECT * FROM (SELECT 1",
        "SELECT 1) UNION (SELECT 2",
        "COPY customers TO STDOUT",
        "COPY customers TO PROGRAM 'cat'",
        "COPY customers TO '/tmp/tmws-must-not-be'",
        "DO $$ BEGIN DELETE FROM orders; END $$",
        "CALL nothing()",
        "LISTEN a",
        "NOTIFY a",
        "LOCK TABLE orders",
        "VACUUM",
        "EXPLAIN ANALYZE DELETE FROM orders",
        "PREPARE p AS DELETE FROM orders",
        "DECLARE c CURSOR FOR SELECT 1",
        "SHOW all",
        "SELECT",
        "",
        " ; ",
        "SELECT $1",
        "SELECT id FROM nowhere",
    ] {
        let error = bench.refused(sql).await;
        let kinds = [ErrorKind::Denied, ErrorKind::InvalidInput];
        assert!(kinds.contains(&error.kind), "{sql}: {error:?}");
    }
    for sql in
        ["DELETE FROM orders RETURNING id", "SELECT nextval('orders_id_seq')", "SELECT sneaky()", "COMMIT"]
    {
        assert_eq!(bench.refused(sql).await.kind, ErrorKind::Denied, "{sql}");
    }
    let sum = "SELECT (SELECT count(*) FROM customers) * 100 + (SELECT count(*) FROM orders) * 10 \
               + (SELECT count(*) FROM back.notes) + 0 * length($1)";
    assert_eq!(bench.database.value(sum).await, 220);
    assert_eq!(
        bench.database.value("SELECT count(*) FROM pg_class WHERE relname IN ('t', 'copied', $1)").await,
        0
    );
    assert!(!std::path::Path::new("/tmp/tmws-must-not-be").exists());

    // What a session would keep is gone with the query.
    bench
        .row(
            "SELECT set_config('statement_timeout', '0', false), set_config('work_mem', '1GB', false)",
            json!([]),
        )
        .await;
    assert_eq!(bench.row("SELECT current_setting('work_mem') <> '1GB'", json!([])).await, json!([true]));
    bench.row("SELECT pg_advisory_lock(7)", json!([])).await;
    let locks = "SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database \
                 WHERE l.locktype = 'advisory' AND d.datname = $1";
    assert_eq!(bench.database.value(locks).await, 0);
    // What was refused left no connection behind in a transaction.
    let idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND state LIKE 'idle in%'";
    assert_eq!(bench.database.value(idle).await, 0);
}

#[tokio::test]
async fn a_query_ends_on_the_server_with_its_time_and_with_its_caller() {
    let mut bench = Bench::new().await;
    bench.ctx.deadline = Instant::now() + Duration::from_millis(400);
    let error = bench.refused("SELECT pg_sleep(300)").await;
    assert_eq!(error.kind, ErrorKind::Deadline, "{error:?}");
    wait_for(&bench.database, "active", "pg_sleep", 0).await;

    bench.ctx.deadline = Instant::now() + Duration::from_mins(5);
    // The time of the session is no way out.
    let own = "SELECT pg_sleep(200), set_config('statement_timeout', '0', true)";
    for endless in [own, "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT 1 FROM n) SELECT count(*) FROM n"]
    {
        {
            let mut asked = std::pin::pin!(bench.ask(endless, json!([])));
            tokio::select! {
                answer = &mut asked => panic!("it ended: {answer:?}"),
                () = wait_for(&bench.database, "active", "tmws_asked", 1) => {}
            }
        }
        wait_for(&bench.database, "active", "tmws_asked", 0).await;
    }
    assert_eq!(bench.row("SELECT 1", json!([])).await, json!([1]));
}

/// Waits until `count` backends of ours are in `state` with such a query.
async fn wait_for(database: &Database, state: &str, part: &str, count: i64) {
    let waited = async {
        while database.backends(state, part).await != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited).await.expect("what is waited for");
}

#[tokio::test]
async fn rows_and_cells_are_bounded_before_they_travel() {
    let mut bench = Bench::new().await;
    let many = bench.ask("SELECT generate_series(1, 1000000000)", json!([])).await.unwrap();
    assert_eq!((&many["n"], &many["truncated"]), (&json!(200), &json!(true)));

    let large = bench
        .ask(
            "SELECT repeat('é', 50000000) AS text, decode(repeat('00', 100000), 'hex') AS bytes, \
             to_json(repeat('x', 100000)) AS json",
            json!([]),
        )
        .await
        .unwrap();
    assert_eq!(large["cut"], 3);
    assert!(large.to_string().len() < 80_000);
    let error = bench.refused("SELECT repeat('x', 2000000000)").await;
    assert!(matches!(error.kind, ErrorKind::LimitExceeded), "{error:?}");

    bench.ctx.bytes_max = 4_000;
    let wide = bench.ask("SELECT repeat('x', 500) FROM generate_series(1, 100000)", json!([])).await.unwrap();
    assert_eq!(wide["truncated"], true);
    assert!(wide.to_string().len() < 4_000);
    wait_for(&bench.database, "active", "generate_series", 0).await;
    assert_eq!(bench.row("SELECT 1", json!([])).await, json!([1]));
}

#[tokio::test]
async fn a_wrong_password_is_told_without_it_and_a_file_may_hold_the_right_one() {
    let database = Database::new(SHOP).await;
    let role = format!("reader_{}", database.name);
    run(
        &mut database.connect().await,
        &format!("CREATE ROLE {role} LOGIN PASSWORD 'open sesame'; GRANT SELECT ON customers TO {role}"),
    )
    .await;
    let wrong = database.url_as(&role, "hunter2");
    let bench = Bench::at(database, &wrong, None).await;
    for uses in ["sql.query", "sql.describe"] {
        let with = if uses == "sql.query" { json!({"query": "SELECT 1"}) } else { json!({}) };
        let error = bench.run(uses, with).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::ProgramFailed);
        assert!(
            error.message.contains("password authentication failed") && error.message.contains("28P01"),
            "{error:?}"
        );
        assert!(!error.message.contains("hunter2"), "{}", error.message);
    }
    assert_eq!(bench.ctx.outside.sql.ailing(&ProjectId::personal()).count(), 1);

    let (_, rest) = wrong.split_once('@').unwrap();
    let bench = Bench::at(bench.database, &format!("postgres://{role}@{rest}"), Some("open sesame")).await;
    assert_eq!(bench.row("SELECT count(*) FROM customers", json!([])).await, json!([2]));
    let denied = bench.refused("SELECT * FROM orders").await;
    assert_eq!(denied.kind, ErrorKind::Denied);
    assert!(denied.message.contains("permission denied for table orders"), "{}", denied.message);
    let seen = bench.run("sql.describe", json!({})).await.unwrap();
    assert_eq!(seen["tables"].as_array().unwrap().len(), 1, "what may not be read is not shown: {seen}");
}

#[tokio::test]
async fn tables_columns_and_keys_are_told() {
    let bench = Bench::new().await;
    let all = bench.run("sql.describe", json!({})).await.unwrap();
    let names: Vec<&str> =
        all["tables"].as_array().unwrap().iter().map(|table| table["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["customers", "open_orders", "orders", "back.notes"]);
    assert_eq!(all["kind"], "postgres");
    let orders = &all["tables"][2];
    assert_eq!(
        orders["foreign"],
        json!([{"columns": ["customer"], "table": "customers", "references": ["id"]}])
    );
    assert_eq!(orders["columns"][2], json!({"name": "total", "type": "numeric(12,2)"}));
    assert_eq!((&all["tables"][0]["rows"], orders.get("rows")), (&json!("~2"), None));
    assert_eq!(all["tables"][3]["primary"], json!(["b", "a"]));
    assert_eq!(all["tables"][1]["kind"], "view");
    let some = bench.run("sql.describe", json!({"tables": ["back.*", "cust*"]})).await.unwrap();
    assert_eq!((&some["n"], &some["total"]), (&json!(2), &json!(2)));
    assert_eq!(bench.run("sql.describe", json!({"tables": "x' OR true --"})).await.unwrap()["n"], 0);
}

#[tokio::test]
async fn few_connections_are_opened_and_all_are_closed_at_the_end() {
    let bench = Arc::new(Bench::new().await);
    let asked: Vec<_> = (0..24)
        .map(|_| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { bench.row("SELECT 1 FROM pg_sleep(0.02)", json!([])).await })
        })
        .collect();
    for answer in asked {
        assert_eq!(answer.await.unwrap(), json!([1]));
    }
    let open = bench.database.backends("%", "").await;
    assert!((1..=4).contains(&open), "{open}");
    bench.ctx.outside.close().await;
    wait_for(&bench.database, "%", "", 0).await;
    let closed = bench.refused("SELECT 1").await;
    assert_eq!(closed.kind, ErrorKind::ProgramFailed);
}

#[tokio::test]
async fn a_server_that_goes_away_is_told_and_found_again() {
    let bench = Bench::new().await;
    bench.row("SELECT 1", json!([])).await;
    let ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                 WHERE datname = $1 AND application_name = 'tmws'";
    assert_eq!(bench.database.value(ended).await, 1);
    wait_for(&bench.database, "%", "", 0).await;
    // The pool finds the dead connection out by itself, or the first query does.
    let first = bench.ask("SELECT 1", json!([])).await;
    if let Err(error) = first {
        assert_eq!(error.kind, ErrorKind::ProgramFailed, "{error:?}");
    }
    assert_eq!(bench.row("SELECT 1", json!([])).await, json!([1]));
    assert_eq!(bench.ctx.outside.sql.ailing(&ProjectId::personal()).count(), 0);
}

#[tokio::test]
async fn the_server_of_the_tests_has_vectors() {
    let database = Database::new(
        "CREATE EXTENSION vector; CREATE TABLE v (at vector(3)); INSERT INTO v VALUES ('[1,2,3]')",
    )
    .await;
    let url = database.url();
    let bench = Bench::at(database, &url, None).await;
    let near = bench.ask("SELECT at, at <-> '[1,2,4]' AS far FROM v ORDER BY far", json!([])).await.unwrap();
    assert_eq!(
        (&near["rows"], &near["types"]),
        (&json!([["[1,2,3]", 1.0]]), &json!(["vector", "double precision"]))
    );
    let mut connection: PgConnection = bench.database.connect().await;
    let version: String = sqlx::query_scalar("SELECT extversion FROM pg_extension WHERE extname = 'vector'")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert!(!version.is_empty());
}
