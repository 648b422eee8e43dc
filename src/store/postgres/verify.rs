//! Reading a whole database and telling what is wrong with it, and what a newer schema would do to it.
//!
//! Pages and indexes are the server's own to check (`pg_amcheck`); this reads what they hold.

use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, Row as _, postgres::PgRow};

use super::{
    PostgresOptions,
    fault::{Fault, classify, unavailable},
    lexeme,
    open::{self, CONNECT_MAX},
    row::{columns, memory},
    schema,
};
use crate::store::{
    Flaw, Memory, MigrationPlan, MigrationStep, Place, StoreError, Verification, Visibility, Watch, id,
    rules::content_hash,
    upkeep::Findings,
    view::{audience, reader, realm},
};

/// Memories read at once.
const PAGE_ROWS: i64 = 500;

/// What each migration does, for people, and how many rows that concerns where it reads any: version, name, effect, query.
const EFFECTS: &[(i64, &str, &str, Option<&str>)] =
    &[(1, "memory", "makes the schema `tmws`: memories, vectors, sessions, results and tasks", None)];

/// A check that is one query: each row of its first column is a finding.
const QUESTIONS: &[(&str, Flaw, &str)] = &[
    (
        "index",
        Flaw::IndexOutOfStep,
        "SELECT m.id || ' is not in it' FROM tmws.memory m LEFT JOIN tmws.memory_text t USING (seq) WHERE t.seq IS NULL",
    ),
    (
        "readers",
        Flaw::WrongScope,
        "SELECT m.id FROM tmws.memory m JOIN tmws.memory_text t USING (seq) WHERE t.reader <> m.reader \
         UNION SELECT m.id FROM tmws.memory m JOIN tmws.memory_vector v USING (seq) WHERE v.reader <> m.reader",
    ),
    (
        "vectors",
        Flaw::BadVector,
        "SELECT 'of row ' || v.seq FROM tmws.memory_vector v JOIN tmws.embedding_model e ON e.id = v.model \
         WHERE array_length(v.embedding::float4[], 1) <> e.dimension",
    ),
    (
        "tombstones",
        Flaw::ForgottenAlive,
        "SELECT m.id FROM tmws.tombstone t JOIN tmws.memory m ON m.realm = t.realm AND m.id = t.id",
    ),
    (
        "generations",
        Flaw::BadGeneration,
        "SELECT 'audience ' || a.audience FROM (SELECT DISTINCT audience FROM tmws.memory) a \
         LEFT JOIN tmws.generation g USING (audience) WHERE coalesce(g.value, 0) < 1",
    ),
    (
        "meta",
        Flaw::UndecodableRow,
        "SELECT 'meta ' || key FROM tmws.meta WHERE key = 'state_key' AND octet_length(value) <> 32",
    ),
    (
        "sessions",
        Flaw::UndecodableRow,
        "SELECT 'session ' || seq FROM tmws.session WHERE octet_length(handle_hash) <> 32",
    ),
    (
        "results",
        Flaw::UndecodableRow,
        "SELECT 'result ' || seq FROM tmws.result WHERE octet_length(handle_hash) <> 32",
    ),
];

/// Checks the database.
pub(in crate::store) async fn verify(
    options: &PostgresOptions,
    watch: &mut dyn Watch,
) -> Result<Verification, StoreError> {
    let (mut connection, place) = connect(options).await?;
    let checked = check(&mut connection, &place, Findings::new(watch)).await;
    // A failure to close loses nothing: it only read.
    let _ = connection.close().await;
    checked.map_err(|fault| fault.told(|error| classify(&place, error)))
}

/// What opening the database would do to its schema.
pub(in crate::store) async fn migration(options: &PostgresOptions) -> Result<MigrationPlan, StoreError> {
    let (mut connection, place) = connect(options).await?;
    let plan = plan(&mut connection, &place).await;
    // As above.
    let _ = connection.close().await;
    plan.map_err(|fault| fault.told(|error| classify(&place, error)))
}

/// A connection that cannot write and reads the rows of everyone.
async fn connect(options: &PostgresOptions) -> Result<(PgConnection, Place), StoreError> {
    let given = open::given(&options.url)?;
    let place = open::place(&given);
    let given = given.application_name("tmws").disable_statement_logging().options([
        ("default_transaction_read_only", "on"),
        ("tmws.whole", "on"),
        ("client_min_messages", "warning"),
    ]);
    let connection = tokio::time::timeout(CONNECT_MAX, given.connect())
        .await
        .map_err(|_| unavailable(&place, "does not answer; check its address, and that the server runs"))?
        .map_err(|error| Fault::from(error).told(|error| classify(&place, error)))?;
    Ok((connection, place))
}

async fn plan(connection: &mut PgConnection, place: &Place) -> Result<MigrationPlan, Fault> {
    let found = schema::version(connection, place).await?;
    let mut plan = MigrationPlan { found: None, wanted: schema::VERSION, steps: Vec::new(), memories: 0 };
    if found == 0 {
        return Ok(plan);
    }
    plan.found = Some(found);
    plan.memories = count(connection, "SELECT count(*) FROM tmws.memory").await?;
    for version in found + 1..=schema::VERSION {
        let known = EFFECTS.iter().find(|(of, ..)| *of == version);
        let (name, effect, query) = known
            .map_or(("change", "changes the schema", None), |(_, name, effect, rows)| {
                (*name, *effect, *rows)
            });
        let rows = match query {
            Some(query) => count(connection, query).await?,
            None => 0,
        };
        plan.steps.push(MigrationStep { version, name, effect, rows });
    }
    Ok(plan)
}

async fn count(connection: &mut PgConnection, query: &'static str) -> Result<u64, sqlx::Error> {
    let count: i64 = sqlx::query_scalar(query).fetch_one(connection).await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

async fn check(
    connection: &mut PgConnection,
    place: &Place,
    mut findings: Findings<'_>,
) -> Result<Verification, Fault> {
    findings.progress("schema", 0, None);
    match schema::version(connection, place).await {
        Ok(0) => {
            findings.note("the database has no schema `tmws`: nothing was stored yet");
            return Ok(findings.verification);
        }
        Ok(version) => findings.verification.schema = Some(version),
        Err(Fault::Refused(StoreError::NewerVersion { found, known, .. })) => {
            findings.add(Flaw::NewerSchema, format!("version {found}; this tmws knows {known}"));
            return Ok(findings.verification);
        }
        Err(Fault::Refused(StoreError::Corrupt { .. })) => {
            findings.add(Flaw::ForeignStore, "its schema `tmws` has no version");
            return Ok(findings.verification);
        }
        Err(error) => return Err(error),
    }
    for (stage, flaw, query) in QUESTIONS {
        findings.progress(stage, 0, None);
        let places: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe((*query).to_owned())).fetch_all(&mut *connection).await?;
        for place in places {
            findings.add(*flaw, place);
        }
    }
    let total = count(connection, "SELECT count(*) FROM tmws.memory").await?;
    let mut after = i64::MIN;
    while let Some(last) = page(connection, after, &mut findings).await? {
        findings.progress("memories", findings.verification.memories, Some(total));
        after = last;
    }
    Ok(findings.verification)
}

/// Checks the memories after row `after`, and gives the last one's row.
async fn page(
    connection: &mut PgConnection,
    after: i64,
    findings: &mut Findings<'_>,
) -> Result<Option<i64>, sqlx::Error> {
    // Memories and their words as they are at one time.
    let mut transaction = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let rows = sqlx::query(concat!(
        "SELECT m.seq, m.realm, m.reader, m.audience, m.content_hash, ",
        columns!(),
        " FROM tmws.memory m WHERE m.seq > $1 ORDER BY m.seq LIMIT $2"
    ))
    .bind(after)
    .bind(PAGE_ROWS)
    .fetch_all(&mut *transaction)
    .await?;
    let (mut numbers, mut words, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
    let mut last = None;
    for row in &rows {
        let number: i64 = row.try_get(0)?;
        last = Some(number);
        findings.verification.memories += 1;
        match memory(row, 5) {
            Ok(memory) => {
                for (flaw, place) in flaws_of(row, &memory)? {
                    findings.add(flaw, place);
                }
                let (vector, length) = lexeme::vector(&memory, &reader(&memory));
                numbers.push(number);
                words.push(vector);
                lengths.push(length);
            }
            Err(_) => findings.add(Flaw::UndecodableRow, format!("memory in row {number}")),
        }
    }
    let differing: Vec<String> = sqlx::query_scalar(
        "SELECT m.id || ' is in it with other words' FROM unnest($1::int8[], $2::text[], $3::int4[]) \
         AS g (seq, words, length) JOIN tmws.memory_text t USING (seq) JOIN tmws.memory m USING (seq) \
         WHERE t.words <> g.words::tsvector OR t.length <> g.length",
    )
    .bind(numbers)
    .bind(words)
    .bind(lengths)
    .fetch_all(&mut *transaction)
    .await?;
    for place in differing {
        findings.add(Flaw::IndexOutOfStep, place);
    }
    transaction.commit().await?;
    Ok(last)
}

fn flaws_of(row: &PgRow, memory: &Memory) -> Result<Vec<(Flaw, String)>, sqlx::Error> {
    let text = |at: usize| row.try_get::<String, _>(at);
    let mut flaws = Vec::new();
    let mut undecodable = |what: &str| flaws.push((Flaw::UndecodableRow, format!("{}: {what}", memory.id)));
    if !id::is_memory_id(&memory.id) {
        undecodable("its id");
    }
    if memory.kind.trim().is_empty() {
        undecodable("its kind");
    }
    if memory.visibility == Visibility::Session && memory.session.is_none() {
        undecodable("its session");
    }
    if !memory.tags.is_sorted_by(|one, next| one < next) {
        flaws.push((Flaw::TagsOutOfStep, memory.id.clone()));
    }
    if row.try_get::<Vec<u8>, _>(4)? != content_hash(&memory.content) {
        flaws.push((Flaw::ContentChanged, memory.id.clone()));
    }
    let fits = text(1)? == realm(&memory.project, &memory.principal)
        && text(2)? == reader(memory)
        && text(3)? == audience(&memory.project, &memory.principal, memory.visibility);
    if !fits {
        flaws.push((Flaw::WrongScope, memory.id.clone()));
    }
    Ok(flaws)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_says_what_it_does() {
        let told: Vec<i64> = EFFECTS.iter().map(|(version, ..)| *version).collect();
        assert_eq!(told, (1..=schema::VERSION).collect::<Vec<_>>());
    }
}
