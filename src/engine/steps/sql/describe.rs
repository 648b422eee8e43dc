//! What a database holds: tables, columns, keys.
//!
//! `tables: [{name, kind: table | view, rows?, columns: [{name, type, required?, default?}], primary?: [name],
//! foreign?: [{columns, table, references?}]}]`, by name. `rows` is a text: `12` was counted, `~1200` is the database's own
//! estimate, `>10000` is where counting stopped.

use globset::{Glob, GlobSet, GlobSetBuilder};
use serde_json::{Map, Value, json};
use sqlx::{AssertSqlSafe, PgConnection, Row as _, SqliteConnection, postgres::types::Oid};

use super::fault::{Fault, Stage, of_postgres, of_sqlite};
use crate::engine::steps::{StepError, arguments::Arguments, data_clip};

/// Tables of an answer unless a step says otherwise, and at most.
const TABLES_DEFAULT: usize = 50;
const TABLES_MAX: usize = 500;
/// Names of tables looked at.
const NAMES_MAX: i64 = 10_000;
/// Columns of one table that are told.
const COLUMNS_MAX: u16 = 400;
/// Rows counted at most.
const COUNTED_MAX: i64 = 10_000;
/// Longest default that is told, in characters.
const DEFAULT_CHARS_MAX: usize = 80;

/// Which tables are wanted.
pub(super) struct Filter {
    globs: Option<GlobSet>,
    limit: usize,
}

impl Filter {
    /// Reads `tables` and `limit`.
    pub(super) fn read(args: Arguments<'_>) -> Result<Self, StepError> {
        let limit = args.count("limit", TABLES_DEFAULT, 1, TABLES_MAX)?;
        let Some(texts) = args.texts("tables")?.filter(|texts| texts.iter().any(|text| !text.is_empty()))
        else {
            return Ok(Self { globs: None, limit });
        };
        let mut globs = GlobSetBuilder::new();
        for text in texts.iter().filter(|text| !text.is_empty()) {
            globs.add(Glob::new(text).map_err(|error| args.refuse("tables", error.kind()))?);
        }
        let globs = globs.build().map_err(|error| args.refuse("tables", error.kind()))?;
        Ok(Self { globs: Some(globs), limit })
    }

    fn wants(&self, names: &[&str]) -> bool {
        self.globs.as_ref().is_none_or(|globs| names.iter().any(|name| globs.is_match(name)))
    }
}

/// What was found.
pub(super) struct Schema {
    tables: Vec<Value>,
    total: usize,
}

impl Schema {
    /// As the step gives it.
    pub(super) fn into_value(self) -> Value {
        json!({
            "n": self.tables.len(), "total": self.total, "truncated": self.tables.len() < self.total,
            "tables": self.tables,
        })
    }
}

fn column(name: &str, kind: &str, required: bool, default: Option<&str>) -> Value {
    let mut column = json!({"name": name, "type": kind});
    if required {
        column["required"] = json!(true);
    }
    if let Some(default) = default {
        column["default"] = json!(data_clip(default, DEFAULT_CHARS_MAX));
    }
    column
}

/// Of an SQLite file.
pub(super) async fn sqlite(connection: &mut SqliteConnection, filter: &Filter) -> Result<Schema, Fault> {
    let told = |error: sqlx::Error| of_sqlite(&error, Stage::Alone);
    let names: Vec<(String, String)> = sqlx::query_as(
        "SELECT name, type FROM pragma_table_list WHERE schema = 'main' AND type <> 'shadow' \
         AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name LIMIT ?1",
    )
    .bind(NAMES_MAX)
    .fetch_all(&mut *connection)
    .await
    .map_err(told)?;
    let wanted: Vec<_> = names.into_iter().filter(|(name, _)| filter.wants(&[name.as_str()])).collect();
    let total = wanted.len();
    let mut tables = Vec::new();
    for (name, kind) in wanted.into_iter().take(filter.limit) {
        tables.push(sqlite_table(connection, &name, &kind).await?);
    }
    Ok(Schema { tables, total })
}

async fn sqlite_table(connection: &mut SqliteConnection, name: &str, kind: &str) -> Result<Value, Fault> {
    let is_view = kind == "view";
    let mut table = json!({"name": name, "kind": if is_view { "view" } else { "table" }, "columns": []});
    let columns = sqlx::query(
        "SELECT name, type, \"notnull\", dflt_value, pk FROM pragma_table_xinfo(?1) WHERE hidden <> 1 ORDER BY cid \
         LIMIT ?2",
    )
    .bind(name)
    .bind(i64::from(COLUMNS_MAX))
    .fetch_all(&mut *connection)
    .await;
    let columns = match columns.map_err(|error| of_sqlite(&error, Stage::Alone)) {
        Ok(columns) => columns,
        // A view of what is no longer there.
        Err(Fault::Wrong(_)) => {
            table["broken"] = json!(true);
            return Ok(table);
        }
        Err(fault) => return Err(fault),
    };
    let told = |error: sqlx::Error| of_sqlite(&error, Stage::Alone);
    let mut primary: Vec<(i64, String)> = Vec::new();
    let mut shown = Vec::with_capacity(columns.len());
    for row in columns {
        let (name, kind): (String, String) = (row.try_get(0).map_err(told)?, row.try_get(1).map_err(told)?);
        let required: bool = row.try_get::<i64, _>(2).map_err(told)? != 0;
        let default: Option<String> = row.try_get(3).map_err(told)?;
        let key: i64 = row.try_get(4).map_err(told)?;
        if key > 0 {
            primary.push((key, name.clone()));
        }
        shown.push(column(&name, &kind.to_lowercase(), required, default.as_deref()));
    }
    table["columns"] = Value::Array(shown);
    primary.sort();
    if !primary.is_empty() {
        table["primary"] = primary.into_iter().map(|(_, name)| name).collect();
    }
    if is_view {
        return Ok(table);
    }
    let keys: Vec<(i64, String, String, Option<String>)> = sqlx::query_as(
        "SELECT id, \"table\", \"from\", \"to\" FROM pragma_foreign_key_list(?1) ORDER BY id DESC, seq",
    )
    .bind(name)
    .fetch_all(&mut *connection)
    .await
    .map_err(told)?;
    let mut foreign: Vec<(i64, Value)> = Vec::new();
    for (id, to, from, references) in keys {
        if foreign.last().is_none_or(|(last, _)| *last != id) {
            foreign.push((id, json!({"columns": [], "table": to})));
        }
        let Some((_, key)) = foreign.last_mut() else { continue };
        if let Some(columns) = key["columns"].as_array_mut() {
            columns.push(json!(from));
        }
        if let (Some(column), Value::Object(key)) = (references, key) {
            let list = key.entry("references").or_insert_with(|| json!([]));
            list.as_array_mut().into_iter().for_each(|list| list.push(json!(column)));
        }
    }
    if !foreign.is_empty() {
        table["foreign"] = foreign.into_iter().map(|(_, key)| key).collect();
    }
    if let Some(rows) = sqlite_rows(connection, name).await? {
        table["rows"] = json!(rows);
    }
    Ok(table)
}

/// How many rows: counted as far as that is quick, then as the database estimates. `None` where it cannot be read.
async fn sqlite_rows(connection: &mut SqliteConnection, name: &str) -> Result<Option<String>, Fault> {
    let quoted = name.replace('"', "\"\"");
    let count = format!("SELECT count(*) FROM (SELECT 1 FROM \"{quoted}\" LIMIT {})", COUNTED_MAX + 1);
    let counted: i64 = match sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&mut *connection).await {
        Ok(counted) => counted,
        // A virtual table whose module is not there.
        Err(error) => {
            return match of_sqlite(&error, Stage::Alone) {
                Fault::Wrong(_) => Ok(None),
                fault => Err(fault),
            };
        }
    };
    if counted <= COUNTED_MAX {
        return Ok(Some(counted.to_string()));
    }
    let stat: Result<Option<String>, _> = sqlx::query_scalar(
        "SELECT stat FROM sqlite_stat1 WHERE tbl = ?1 AND stat IS NOT NULL ORDER BY idx LIMIT 1",
    )
    .bind(name)
    .fetch_optional(&mut *connection)
    .await;
    let estimate = stat.ok().flatten().and_then(|stat| stat.split(' ').next()?.parse::<u64>().ok());
    Ok(Some(estimate.map_or_else(|| format!(">{COUNTED_MAX}"), |rows| format!("~{rows}"))))
}

/// Of a PostgreSQL database: what the role may read.
pub(super) async fn postgres(connection: &mut PgConnection, filter: &Filter) -> Result<Schema, Fault> {
    let told = |error: sqlx::Error| of_postgres(&error, Stage::Alone, &[]);
    let names: Vec<(Oid, String, String)> = sqlx::query_as(
        "SELECT c.oid, n.nspname::text, c.relname::text FROM pg_catalog.pg_class c \
         JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT c.relispartition \
         AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%' \
         AND has_schema_privilege(n.oid, 'USAGE') AND has_any_column_privilege(c.oid, 'SELECT') \
         ORDER BY n.nspname <> 'public', n.nspname COLLATE \"C\", c.relname COLLATE \"C\" LIMIT $1",
    )
    .bind(NAMES_MAX)
    .fetch_all(&mut *connection)
    .await
    .map_err(told)?;
    let wanted: Vec<_> = names
        .into_iter()
        .filter(|(_, schema, name)| filter.wants(&[name.as_str(), &format!("{schema}.{name}")]))
        .collect();
    let chosen: Vec<Oid> = wanted.iter().take(filter.limit).map(|(oid, ..)| *oid).collect();
    let found: Vec<(Oid, String)> =
        sqlx::query_as(POSTGRES_TABLES).bind(&chosen).fetch_all(&mut *connection).await.map_err(told)?;
    let mut tables = Vec::with_capacity(chosen.len());
    for oid in &chosen {
        let text = found.iter().find(|(other, _)| other == oid).map(|(_, text)| text.as_str());
        let Some(Value::Object(raw)) = text.and_then(|text| serde_json::from_str(text).ok()) else {
            continue;
        };
        tables.push(postgres_table(&raw));
    }
    Ok(Schema { tables, total: wanted.len() })
}

fn postgres_table(raw: &Map<String, Value>) -> Value {
    let text = |name: &str| raw.get(name).and_then(Value::as_str).unwrap_or_default();
    let name = match text("schema") {
        "public" => text("name").to_owned(),
        schema => format!("{schema}.{}", text("name")),
    };
    let kind = if matches!(text("kind"), "v" | "m") { "view" } else { "table" };
    let columns =
        raw.get("columns").and_then(Value::as_array).into_iter().flatten().take(usize::from(COLUMNS_MAX));
    let columns: Vec<Value> = columns
        .map(|raw| {
            let member = |name: &str| raw.get(name).and_then(Value::as_str);
            let required = raw.get("required").and_then(Value::as_bool).unwrap_or(false);
            column(
                member("name").unwrap_or_default(),
                member("type").unwrap_or_default(),
                required,
                member("default"),
            )
        })
        .collect();
    let mut table = json!({"name": name, "kind": kind, "columns": columns});
    for key in ["primary", "foreign"] {
        if let Some(value) = raw.get(key).filter(|value| !value.is_null()) {
            table[key] = value.clone();
        }
    }
    // Negative: never analysed.
    if let Some(rows) = raw.get("rows").and_then(Value::as_f64).filter(|rows| *rows >= 0.0 && kind == "table")
    {
        table["rows"] = json!(format!("~{rows}"));
    }
    table
}

const POSTGRES_TABLES: &str = "
SELECT c.oid, json_build_object(
  'schema', n.nspname, 'name', c.relname, 'kind', c.relkind, 'rows', c.reltuples,
  'columns', (
    SELECT coalesce(json_agg(json_build_object(
      'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), 'required', a.attnotnull,
      'default', pg_get_expr(d.adbin, d.adrelid)
    ) ORDER BY a.attnum), '[]')
    FROM pg_catalog.pg_attribute a LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  ),
  'primary', (
    SELECT json_agg(a.attname ORDER BY k.at)
    FROM pg_catalog.pg_constraint p CROSS JOIN LATERAL unnest(p.conkey) WITH ORDINALITY k(attnum, at)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = p.conrelid AND a.attnum = k.attnum
    WHERE p.conrelid = c.oid AND p.contype = 'p'
  ),
  'foreign', (
    SELECT json_agg(json_build_object(
      'columns', (
        SELECT json_agg(a.attname ORDER BY k.at) FROM unnest(f.conkey) WITH ORDINALITY k(attnum, at)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = k.attnum
      ),
      'table', f.confrelid::regclass::text,
      'references', (
        SELECT json_agg(a.attname ORDER BY k.at) FROM unnest(f.confkey) WITH ORDINALITY k(attnum, at)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = f.confrelid AND a.attnum = k.attnum
      )
    ) ORDER BY f.conname COLLATE \"C\")
    FROM pg_catalog.pg_constraint f WHERE f.conrelid = c.oid AND f.contype = 'f'
  )
)::text
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY($1)";
