//! The steps on real SQLite files; on a real PostgreSQL server in `tests/services`.

use std::path::PathBuf;

use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    engine::{NobodyToAsk, Outside},
    pattern::Permissions,
    scope::Scope,
    store::{SqliteOptions, SqliteStore},
};

const SHOP: &str = include_str!("../../../../fixtures/db/shop.sql");

/// A folder with a database, and the context of a step that may read it.
struct Bench {
    folder: tempfile::TempDir,
    ctx: StepContext,
}

impl Bench {
    async fn new(sql: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        make_sqlite(&path, sql).await.unwrap();
        let mut spec = SourceSpec::new("app", Address::Sqlite(path));
        spec.queries = vec![NamedQuery {
            name: "orders_of".to_owned(),
            description: "orders of a customer".to_owned(),
            sql: "SELECT id, total FROM orders WHERE customer = ?1 ORDER BY id;".to_owned(),
            params: vec!["customer".to_owned()],
        }];
        Self::with(folder, vec![spec]).await
    }

    async fn with(folder: tempfile::TempDir, specs: Vec<SourceSpec>) -> Self {
        let store = SqliteStore::open(SqliteOptions::new(folder.path().join("store.db"))).await.unwrap();
        let sql =
            Sources::new(specs, true, |name| (name == "APP_URL").then(|| "sqlite:/nowhere/app.db".into()));
        let ctx = StepContext {
            scope: Scope::mint(ProjectId::personal(), "local", "default", None),
            store: Arc::new(store),
            listener: None,
            roots: BTreeMap::new(),
            permissions: Arc::new(Permissions { sql: vec!["*".to_owned()], ..Permissions::default() }),
            outside: Arc::new(Outside { sql, ..Outside::default() }),
            asker: Arc::new(NobodyToAsk),
            id: "step".to_owned(),
            now: "2026-03-01T12:00:00Z".parse().unwrap(),
            deadline: Instant::now() + Duration::from_secs(20),
            cancel: CancellationToken::new(),
            bytes_max: 8 << 20,
        };
        Self { folder, ctx }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("app.db")
    }

    async fn run(&self, uses: &str, with: Value) -> Result<Value, StepError> {
        let Value::Object(with) = with else { panic!("an object") };
        run(uses, &self.ctx, &with).await.map(|output| output.value)
    }

    async fn ask(&self, sql: &str, params: Value) -> Result<Value, StepError> {
        self.run("sql.query", json!({"source": "app", "query": sql, "params": params})).await
    }

    async fn refused(&self, sql: &str) -> StepError {
        self.ask(sql, json!([])).await.expect_err(sql)
    }
}

#[tokio::test]
async fn rows_come_with_columns_types_and_values_as_they_are() {
    let bench = Bench::new(SHOP).await;
    let value = bench
        .ask(
            "SELECT 1 AS whole, 2.5 AS part, 'a' AS word, NULL AS void, x'00ff' AS raw, ?1 AS one, ?2 AS list, \
             9007199254740993 AS large, ?3 AS flag",
            json!(["it's \"x\"", [1, {"a": 2}], true]),
        )
        .await
        .unwrap();
    assert_eq!(
        value["rows"],
        json!([[1, 2.5, "a", null, "AP8=", "it's \"x\"", "[1,{\"a\":2}]", 9_007_199_254_740_993_i64, 1]])
    );
    assert_eq!(value["columns"][0], "whole");
    assert_eq!(
        value["types"],
        json!(["integer", "real", "text", "null", "blob", "text", "text", "integer", "integer"])
    );
    assert_eq!(
        (&value["n"], &value["truncated"], &value["source"]),
        (&json!(1), &json!(false), &json!("app"))
    );

    let ordered = bench.ask("SELECT name FROM customers ORDER BY name DESC; ", json!([])).await.unwrap();
    let names: Vec<&str> =
        ordered["rows"].as_array().unwrap().iter().map(|row| row[0].as_str().unwrap()).collect();
    let mut sorted = names.clone();
    sorted.sort_unstable_by(|one, other| other.cmp(one));
    assert_eq!(names, sorted);
    assert_eq!(bench.ask("VALUES (1), (2) -- so many", json!([])).await.unwrap()["n"], 2);
    assert_eq!(
        bench.ask("WITH n(i) AS (VALUES (7)) SELECT i FROM n", json!([])).await.unwrap()["rows"],
        json!([[7]])
    );
}

#[tokio::test]
async fn nothing_writes_attaches_or_is_more_than_one_query() {
    let bench = Bench::new(SHOP).await;
    let before = std::fs::read(bench.path()).unwrap();
    let other = bench.folder.path().join("other.db");
    let copy = bench.folder.path().join("copy.db");
    for sql in [
        "INSERT INTO customers (name, city) VALUES ('x', 'y')",
        "INSERT INTO customers (name, city) VALUES ('x', 'y') RETURNING id",
        "WITH x AS (SELECT 1) INSERT INTO customers (name, city) SELECT 'x', 'y' FROM x RETURNING id",
        "UPDATE customers SET name = 'x' RETURNING name",
        "DELETE FROM orders RETURNING id",
        "REPLACE INTO customers (id, name, city) VALUES (1, 'x', 'y')",
        "CREATE TABLE t (a)",
        "CREATE TEMP TABLE t AS SELECT 1",
        "DROP TABLE orders",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA query_only = OFF",
        "PRAGMA user_version = 7",
        "PRAGMA writable_schema = ON",
        "PRAGMA hard_heap_limit = 0",
        "PRAGMA user_version",
        &format!("ATTACH '{}' AS other", other.display()),
        &format!("VACUUM INTO '{}'", copy.display()),
        "VACUUM",
        "REINDEX",
        "ANALYZE",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT a",
        "DETACH main",
        "EXPLAIN SELECT 1",
        "SELECT 1; DELETE FROM orders",
        "SELECT 1; SELECT 2",
        "SELECT 1; PRAGMA query_only = OFF; DELETE FROM orders; SELECT 2",
        "SELECT 1) ; DELETE FROM orders; SELECT (1",
        &format!("SELECT 1; SELECT 2); ATTACH '{}' AS other; SELECT (3", other.display()),
        "SELECT 1) UNION SELECT (2",
        "SELECT 1 /* open",
        "SELECT load_extension('x')",
        "SELECT writefile('x', 'y')",
        "SELECT 1 FROM pragma_journal_mode('DELETE')",
        "SELECT * FROM nowhere",
        "SELEKT 1",
        ";",
        "-- nothing",
    ] {
        let error = bench.refused(sql).await;
        let kinds = [ErrorKind::Denied, ErrorKind::InvalidInput];
        assert!(kinds.contains(&error.kind), "{sql}: {error:?}");
        assert!(error.message.starts_with("database app: ") || sql == ";", "{sql}: {}", error.message);
    }
    assert_eq!(bench.refused("DELETE FROM orders RETURNING id").await.kind, ErrorKind::Denied);
    assert_eq!(bench.refused("SELECT 1; SELECT 2").await.kind, ErrorKind::Denied);
    assert_eq!(bench.refused("SELECT * FROM nowhere").await.message, "database app: no such table: nowhere");
    assert!(!other.exists() && !copy.exists());
    assert_eq!(std::fs::read(bench.path()).unwrap(), before);
}

#[tokio::test]
async fn an_endless_query_is_stopped_by_its_time_and_by_its_caller() {
    const ENDLESS: &str =
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let mut bench = Bench::new(SHOP).await;
    let source = Arc::clone(&bench.ctx.outside.sql.sources["app"]);
    let all_free = || source.turns.available_permits() == AT_ONCE;

    bench.ctx.deadline = Instant::now() + Duration::from_millis(200);
    let error = bench.refused(ENDLESS).await;
    assert_eq!(error.kind, ErrorKind::Deadline, "{error:?}");
    wait_until(all_free).await;

    bench.ctx.deadline = Instant::now() + Duration::from_mins(10);
    {
        let mut asked = std::pin::pin!(bench.ask(ENDLESS, json!([])));
        tokio::select! {
            answer = &mut asked => panic!("it ended: {answer:?}"),
            () = wait_until(|| source.turns.available_permits() == AT_ONCE - 1) => {}
        }
    }
    // The turn is given back by SQLite itself, once it has stopped.
    wait_until(all_free).await;
    assert_eq!(bench.ask("SELECT 1", json!([])).await.unwrap()["n"], 1);
}

/// Waits until `holds`; a test that waits for ever is ended by its backstop.
async fn wait_until(holds: impl Fn() -> bool) {
    let waited = async {
        while !holds() {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waited).await.expect("what is waited for");
}

#[tokio::test]
async fn rows_cells_and_memory_are_bounded() {
    const MANY: &str = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
    let mut bench = Bench::new(SHOP).await;
    let value = bench.ask(MANY, json!([])).await.unwrap();
    assert_eq!((&value["n"], &value["truncated"]), (&json!(spec::ROWS_DEFAULT), &json!(true)));
    let few = json!({"source": "app", "query": MANY, "rows": 3});
    assert_eq!(bench.run("sql.query", few).await.unwrap()["rows"], json!([[1], [2], [3]]));

    let value =
        bench.ask("SELECT hex(zeroblob(20000)) AS text, zeroblob(20000) AS bytes", json!([])).await.unwrap();
    assert_eq!(value["cut"], 2);
    assert!(value["rows"][0][0].as_str().unwrap().ends_with('…'));
    assert!(value.to_string().len() < 3 * table::CELL_BYTES_MAX);

    for large in [
        "SELECT hex(zeroblob(400000000))",
        "SELECT zeroblob(2000000000)",
        "SELECT randomblob(900000000)",
        "WITH RECURSIVE n(i, t) AS (SELECT 1, 'x' UNION ALL SELECT i + 1, t || t FROM n) SELECT length(t) FROM n LIMIT 60",
    ] {
        let error = bench.refused(large).await;
        assert_eq!(error.kind, ErrorKind::LimitExceeded, "{large}: {error:?}");
    }

    bench.ctx.bytes_max = 4_000;
    let value = bench.ask("SELECT hex(zeroblob(200)) FROM customers, orders", json!([])).await.unwrap();
    assert_eq!(value["truncated"], true);
    assert!(value.to_string().len() < 4_000, "{}", value.to_string().len());
}

#[tokio::test]
async fn values_are_bound_and_counted_and_never_become_text() {
    let bench = Bench::new(SHOP).await;
    let by_name = "SELECT id FROM customers WHERE name = ?1";
    let hostile = "x' OR 1=1; DROP TABLE customers; --";
    assert_eq!(bench.ask(by_name, json!([hostile])).await.unwrap()["n"], 0);
    assert_eq!(bench.ask(by_name, json!(["nul\0inside"])).await.unwrap()["n"], 0);
    for (sql, params, told) in [
        (by_name, json!([]), "places for 1 values, and 0 were given"),
        (by_name, json!([1, 2]), "places for 1 values, and 2 were given"),
        ("SELECT ?3", json!([1]), "places for 3 values"),
        ("SELECT ?", json!([u64::MAX]), "value 1 is larger"),
        ("SELECT :name", json!(["x"]), "values are written as"),
        ("SELECT ?", json!("x"), "`params` of sql.query must be a list"),
    ] {
        let error = bench.ask(sql, params).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidInput, "{sql}");
        assert!(error.message.contains(told), "{sql}: {}", error.message);
    }
    let nul = bench.refused("SELECT 1\0; SELECT 2").await;
    assert_eq!(nul.kind, ErrorKind::InvalidInput);
    assert_eq!(bench.ask("SELECT $0", json!([1])).await.unwrap_err().kind, ErrorKind::InvalidInput);
    assert_eq!(bench.ask("SELECT '$0'", json!([])).await.unwrap()["rows"], json!([["$0"]]));
    assert_eq!(bench.ask("SELECT $1", json!([1])).await.unwrap()["rows"], json!([[1]]));
}

#[tokio::test]
async fn named_queries_take_values_by_name() {
    let bench = Bench::new(SHOP).await;
    let ask = |params: Value| bench.run("sql.query", json!({"name": "orders_of", "params": params}));
    let value = ask(json!({"customer": 1})).await.unwrap();
    assert!(value["n"].as_u64().unwrap() > 0);
    for (params, told) in [
        (json!({}), "a value is missing: orders_of takes customer"),
        (json!({"customer": 1, "limit\n": 2}), "no value is called `limit`: orders_of takes customer"),
        (json!([1]), "must be an object"),
    ] {
        let error = ask(params).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidInput);
        assert!(error.message.contains(told), "{}", error.message);
    }
    let unknown = bench.run("sql.query", json!({"name": "orders_off"})).await.unwrap_err();
    assert!(unknown.message.contains("did you mean `orders_of`"), "{}", unknown.message);
    let both = bench.run("sql.query", json!({"name": "orders_of", "query": "SELECT 1"})).await.unwrap_err();
    assert_eq!(both.kind, ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_database_of_another_project_is_like_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("app.db");
    make_sqlite(&path, SHOP).await.unwrap();
    let secret = SourceSpec {
        projects: Some(vec![ProjectId::parse("other").unwrap()]),
        ..SourceSpec::new("secret", Address::Sqlite(path.clone()))
    };
    let mut bench = Bench::with(
        folder,
        vec![
            secret,
            SourceSpec::new("app", Address::Sqlite(path.clone())),
            SourceSpec::new("web", Address::Sqlite(path)),
        ],
    )
    .await;
    let told = |source: &str| {
        let with = json!({"source": source, "query": "SELECT 1"});
        let bench = &bench;
        async move { bench.run("sql.query", with).await.unwrap_err().message }
    };
    let (foreign, unknown) = (told("secret").await, told("nosuch").await);
    assert_eq!(foreign, unknown);
    assert!(foreign.ends_with("there are: app, web"), "{foreign}");
    let which = bench.run("sql.query", json!({"query": "SELECT 1"})).await.unwrap_err();
    assert!(which.message.contains("name one of: app, web"), "{}", which.message);

    bench.ctx.permissions = Arc::new(Permissions { sql: vec!["web".to_owned()], ..Permissions::default() });
    assert!(bench.run("sql.query", json!({"query": "SELECT 1"})).await.is_ok());
    assert!(bench.run("sql.query", json!({"source": "app", "query": "SELECT 1"})).await.is_err());
    bench.ctx.permissions = Arc::default();
    let none = bench.run("sql.describe", json!({})).await.unwrap_err();
    assert_eq!(none.kind, ErrorKind::Denied);
}

#[tokio::test]
async fn what_cannot_be_reached_says_so_and_is_noted() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("junk.db"),
        "no database at all, but long enough to look at".repeat(40),
    )
    .unwrap();
    let file = |name: &str| Address::Sqlite(folder.path().join(name));
    let specs = vec![
        SourceSpec::new("absent", file("absent.db")),
        SourceSpec::new("junk", file("junk.db")),
        SourceSpec::new("named", Address::Variable("APP_URL".to_owned())),
        SourceSpec::new("unnamed", Address::Variable("NO_SUCH_URL".to_owned())),
        SourceSpec {
            password_file: Some(folder.path().join("password")),
            ..SourceSpec::new("locked", Address::parse("postgres://reader@127.0.0.1:1/app").unwrap())
        },
        SourceSpec::new("refused", Address::parse("postgres://reader:hunter2@127.0.0.1:1/app").unwrap()),
    ];
    let bench = Bench::with(folder, specs).await;
    for name in ["absent", "junk", "named", "unnamed", "locked", "refused"] {
        for with in [json!({"source": name, "query": "SELECT 1"}), json!({"source": name})] {
            let uses = if with.get("query").is_some() { "sql.query" } else { "sql.describe" };
            let error = bench.run(uses, with).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::ProgramFailed, "{name}: {error:?}");
            assert!(error.message.starts_with(&format!("database {name}: ")), "{}", error.message);
            assert!(!error.message.contains("hunter2"));
        }
    }
    assert!(!bench.folder.path().join("absent.db").exists(), "reading makes no file");
    let ailing: Vec<&str> =
        bench.ctx.outside.sql.ailing(&ProjectId::personal()).map(|(name, _)| name).collect();
    assert_eq!(ailing, ["absent", "junk", "named", "refused"]);
    assert!(!format!("{:?}", bench.ctx.outside).contains("hunter2"));
    bench.ctx.outside.close().await;
    let closed = bench.run("sql.query", json!({"source": "absent", "query": "SELECT 1"})).await.unwrap_err();
    assert!(closed.message.contains("closed"), "{}", closed.message);
}

#[tokio::test]
async fn tables_columns_and_keys_are_told_in_order() {
    let bench = Bench::new(SHOP).await;
    let all = bench.run("sql.describe", json!({})).await.unwrap();
    assert_eq!((&all["kind"], &all["truncated"]), (&json!("sqlite"), &json!(false)));
    let names: Vec<&str> =
        all["tables"].as_array().unwrap().iter().map(|table| table["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["customers", "items", "order", "order_totals", "orders"]);
    assert_eq!(all["queries"][0]["params"], json!(["customer"]));
    let orders = &all["tables"][4];
    assert_eq!(orders["primary"], json!(["id"]));
    assert_eq!(
        orders["foreign"],
        json!([{"columns": ["customer"], "table": "customers", "references": ["id"]}])
    );
    assert_eq!(orders["columns"][1], json!({"name": "customer", "type": "integer", "required": true}));
    assert_eq!(orders["rows"], "6");
    assert_eq!(all["tables"][1]["primary"], json!(["order_id", "line"]));
    assert_eq!(all["tables"][3]["kind"], "view");
    assert!(all["tables"][3].get("rows").is_none());

    let some = bench.run("sql.describe", json!({"tables": ["order*"], "limit": 2})).await.unwrap();
    assert_eq!((&some["n"], &some["total"], &some["truncated"]), (&json!(2), &json!(3), &json!(true)));
    for bad in [json!({"tables": "["}), json!({"limit": 0}), json!({"tables": 7})] {
        assert_eq!(bench.run("sql.describe", bad).await.unwrap_err().kind, ErrorKind::InvalidInput);
    }
    let hostile = json!({"tables": "orders\"; DROP TABLE orders; --"});
    assert_eq!(bench.run("sql.describe", hostile).await.unwrap()["n"], 0);
}

#[tokio::test]
async fn a_source_that_never_answers_is_left_alone_however_short_its_time_is() {
    let silent = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = format!("postgres://reader@{}/shop", silent.local_addr().unwrap());
    for (its_time, callers, opens) in [(150, 20_000, true), (20_000, 150, false)] {
        let mut spec = SourceSpec::new("still", Address::parse(&address).unwrap());
        spec.timeout = Duration::from_millis(its_time);
        let mut bench = Bench::with(tempfile::tempdir().unwrap(), vec![spec]).await;
        for _ in 0..BackendKind::Source.settings().breaker.failures {
            bench.ctx.deadline = Instant::now() + Duration::from_millis(callers);
            let error =
                bench.run("sql.query", json!({"source": "still", "query": "SELECT 1"})).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Deadline, "{error:?}");
        }
        let standings = bench.ctx.outside.backends.standings(Instant::now());
        assert_eq!(standings[0].opened, u64::from(opens), "{standings:?}");
    }
}

#[test]
fn what_the_configuration_says_of_a_source_has_a_mark_of_its_own() {
    let harbour = ProjectId::parse("harbour").unwrap();
    let query = |sql: &str| NamedQuery {
        name: "ships".to_owned(),
        description: String::new(),
        sql: sql.to_owned(),
        params: Vec::new(),
    };
    let spec = |path: &str, sql: &str| SourceSpec {
        queries: vec![query(sql)],
        projects: Some(vec![harbour.clone()]),
        ..SourceSpec::new("app", Address::Sqlite(path.into()))
    };
    let mark = |spec: SourceSpec| Sources::new([spec], false, |_| None).mark(&harbour);
    let plain = || spec("/a/app.db", "SELECT 1");
    assert_eq!(mark(plain()), mark(plain()));
    let others = [
        spec("/b/app.db", "SELECT 1"),
        spec("/a/app.db", "SELECT 2"),
        SourceSpec { projects: Some(Vec::new()), ..plain() },
        SourceSpec { rows: 7, ..plain() },
        SourceSpec { name: "other".to_owned(), ..plain() },
    ];
    let mut marks: Vec<[u8; 32]> = others.into_iter().chain([plain()]).map(mark).collect();
    marks.sort_unstable();
    marks.dedup();
    assert_eq!(marks.len(), 6);
    // A variable is what it says now.
    let variable = |value: super::Variable| {
        let spec = SourceSpec::new("app", Address::Variable("APP_URL".to_owned()));
        Sources::new([spec], true, value).mark(&harbour)
    };
    assert_ne!(variable(|_| Some("sqlite:/a".into())), variable(|_| Some("sqlite:/b".into())));
}
