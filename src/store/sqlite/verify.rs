//! Reading a whole file and telling what is wrong with it.

use std::{
    collections::BTreeSet,
    fs, io,
    path::Path,
    time::{Duration, Instant},
};

use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqliteConnection, sqlite::SqliteRow};

use super::{
    SqliteOptions,
    backup::connect_reader,
    fault::{classify, is_damage, is_no_database},
    open::{self, Found, HEADER_BYTES},
    view::{audience, realm, undecodable},
};
use crate::store::{Flaw, StoreError, Verification, Watch, id, rules::content_hash, upkeep::Findings, view};

/// Lines that the database's own check writes at most.
const PAGE_FINDINGS_MAX: u32 = 100;
/// Memories read at once.
const PAGE_ROWS: i64 = 500;
/// So long writers wait at most for the comparison of the index with the texts: less than `busy_timeout`.
const COMPARISON_MAX: Duration = Duration::from_secs(2);
/// Steps of the database's machine between two looks at the clock.
const STEPS_PER_LOOK: i32 = 10_000;

/// Tables, and the version that made each.
const TABLES: &[(&str, i64)] = &[
    ("meta", 1),
    ("generation", 1),
    ("memory", 1),
    ("memory_tag", 1),
    ("tombstone", 1),
    ("memory_fts", 1),
    ("session", 1),
    ("result", 1),
    ("task", 2),
    ("model", 3),
    ("vector", 3),
    ("recall", 3),
    ("ended_session", 3),
];

/// A check that is one query: each row of its first column is a finding.
struct Question {
    table: &'static str,
    flaw: Flaw,
    query: &'static str,
}

const QUESTIONS: &[Question] = &[
    Question {
        table: "memory_fts",
        flaw: Flaw::IndexOutOfStep,
        query: "SELECT m.id || ' is not in it' FROM memory m LEFT JOIN memory_fts_docsize d ON d.id = m.seq \
                WHERE d.id IS NULL",
    },
    Question {
        table: "memory_fts",
        flaw: Flaw::IndexOutOfStep,
        query: "SELECT 'row ' || d.id || ' of no memory is in it' FROM memory_fts_docsize d \
                LEFT JOIN memory m ON m.seq = d.id WHERE m.seq IS NULL",
    },
    Question {
        table: "tombstone",
        flaw: Flaw::ForgottenAlive,
        query: "SELECT m.id FROM tombstone t JOIN memory m ON m.realm = t.realm AND m.id = t.id",
    },
    Question {
        table: "generation",
        flaw: Flaw::BadGeneration,
        query: "SELECT 'audience ' || a.audience FROM (SELECT DISTINCT audience FROM memory) a \
                LEFT JOIN generation g ON g.audience = a.audience WHERE coalesce(g.value, 0) < 1",
    },
    Question {
        table: "meta",
        flaw: Flaw::UndecodableRow,
        query: "SELECT 'meta ' || key FROM meta WHERE key = 'state_key' AND length(value) <> 32",
    },
    Question {
        table: "vector",
        flaw: Flaw::BadVector,
        query: "SELECT 'of row ' || v.seq FROM vector v LEFT JOIN model m ON m.id = v.model \
                WHERE m.id IS NULL OR length(v.small) <> m.dimension OR length(v.exact) <> 4 * m.dimension",
    },
    Question {
        table: "session",
        flaw: Flaw::UndecodableRow,
        query: "SELECT 'session ' || rowid FROM session WHERE length(handle_hash) <> 32 OR NOT json_valid(scratch)",
    },
    Question {
        table: "result",
        flaw: Flaw::UndecodableRow,
        query: "SELECT 'result ' || seq FROM result WHERE length(handle_hash) <> 32 OR NOT json_valid(value)",
    },
    Question {
        table: "task",
        flaw: Flaw::UndecodableRow,
        query: "SELECT 'task ' || seq FROM task WHERE NOT json_valid(body)",
    },
];

/// Checks the file at the path of `options`.
pub(in crate::store) async fn verify(
    options: &SqliteOptions,
    thorough: bool,
    watch: &mut dyn Watch,
) -> Result<Verification, StoreError> {
    let path = &options.path;
    let mut findings = Findings::new(watch);
    let unreadable = |reason: String| StoreError::Unavailable { reason };
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            return Err(unreadable(format!("{} is no file", path.display())));
        }
        Ok(metadata) if (1..HEADER_BYTES).contains(&metadata.len()) => {
            findings.add(Flaw::NoDatabase, format!("only {} bytes", metadata.len()));
            return Ok(findings.verification);
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(unreadable(format!("{} is not there: nothing was stored yet", path.display())));
        }
        Err(error) => return Err(unreadable(format!("{} cannot be read: {error}", path.display()))),
    }
    let mut reader = match connect_reader(options).await {
        Ok(reader) => reader,
        Err(error) => {
            let (flaw, place) = beginning_flaw(&error).ok_or_else(|| classify(path, &error))?;
            findings.add(flaw, place);
            return Ok(findings.verification);
        }
    };
    let outcome =
        Check { reader: &mut reader, options, findings, tables: BTreeSet::new() }.run(thorough).await;
    // A failure to close loses nothing: it only read.
    let _ = reader.close().await;
    outcome
}

struct Check<'a> {
    reader: &'a mut SqliteConnection,
    options: &'a SqliteOptions,
    findings: Findings<'a>,
    tables: BTreeSet<String>,
}

impl Check<'_> {
    async fn run(mut self, thorough: bool) -> Result<Verification, StoreError> {
        let path = self.options.path.as_path();
        self.findings.progress("schema", 0, None);
        let version = match identify(self.reader, path).await {
            Ok(Identified::Version(version)) => version,
            Ok(Identified::Empty) => {
                self.findings.note("the file is empty: nothing was stored yet");
                return Ok(self.findings.verification);
            }
            Ok(Identified::Flaw(flaw, place)) => {
                self.findings.add(flaw, place);
                return Ok(self.findings.verification);
            }
            Err(error) => return Err(error),
        };
        self.findings.verification.schema = Some(version);
        self.pages().await?;
        if !self.find_tables(version).await? {
            return Ok(self.findings.verification);
        }
        self.references().await?;
        for question in QUESTIONS {
            self.ask(question).await?;
        }
        self.memories().await?;
        self.index(thorough).await?;
        Ok(self.findings.verification)
    }

    /// Passes an error on, unless it is the damage that is looked for.
    fn damaged(&mut self, place: &str, error: &sqlx::Error) -> Result<(), StoreError> {
        if is_damage(error) {
            self.findings.add(Flaw::DamagedPages, format!("{place} cannot be read to its end"));
            return Ok(());
        }
        if matches!(error, sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) {
            self.findings.add(Flaw::UndecodableRow, place);
            return Ok(());
        }
        Err(classify(&self.options.path, error))
    }

    async fn pages(&mut self) -> Result<(), StoreError> {
        self.findings.progress("pages", 0, None);
        let pragma = sqlx::AssertSqlSafe(format!("PRAGMA integrity_check({PAGE_FINDINGS_MAX})"));
        match sqlx::query_scalar::<_, String>(pragma).fetch_all(&mut *self.reader).await {
            Ok(lines) => {
                for line in lines.iter().filter(|line| *line != "ok").flat_map(|line| line.lines()) {
                    let flaw = if line.contains("FTS5") || line.contains("inverted index") {
                        Flaw::IndexOutOfStep
                    } else {
                        Flaw::DamagedPages
                    };
                    self.findings.add(flaw, line);
                }
                Ok(())
            }
            Err(error) => self.damaged("the file", &error),
        }
    }

    /// Whether the memories are there at all.
    async fn find_tables(&mut self, version: i64) -> Result<bool, StoreError> {
        let names = sqlx::query_scalar::<_, String>("SELECT name FROM sqlite_schema WHERE type = 'table'")
            .fetch_all(&mut *self.reader)
            .await;
        match names {
            Ok(names) => self.tables = names.into_iter().collect(),
            Err(error) => {
                self.damaged("the schema", &error)?;
                return Ok(false);
            }
        }
        for (table, since) in TABLES {
            if *since <= version && !self.tables.contains(*table) {
                self.findings.add(Flaw::MissingTable, *table);
            }
        }
        Ok(self.tables.contains("memory"))
    }

    async fn references(&mut self) -> Result<(), StoreError> {
        self.findings.progress("references", 0, None);
        match sqlx::query("PRAGMA foreign_key_check").fetch_all(&mut *self.reader).await {
            Ok(rows) => {
                for row in rows {
                    let table: String = row.try_get(0).unwrap_or_default();
                    let place = match row.try_get::<Option<i64>, _>(1) {
                        Ok(Some(number)) => format!("{table}, row {number}"),
                        _ => table,
                    };
                    self.findings.add(Flaw::BrokenReference, place);
                }
                Ok(())
            }
            Err(error) => self.damaged("references", &error),
        }
    }

    async fn ask(&mut self, question: &Question) -> Result<(), StoreError> {
        if !self.tables.contains(question.table) {
            return Ok(());
        }
        self.findings.progress(question.table, 0, None);
        match sqlx::query_scalar::<_, String>(question.query).fetch_all(&mut *self.reader).await {
            Ok(places) => {
                for place in places {
                    self.findings.add(question.flaw, place);
                }
                Ok(())
            }
            Err(error) => self.damaged(question.table, &error),
        }
    }

    async fn memories(&mut self) -> Result<(), StoreError> {
        let total =
            sqlx::query_scalar::<_, i64>("SELECT count(*) FROM memory").fetch_one(&mut *self.reader).await;
        let total = total.ok().and_then(|count| u64::try_from(count).ok());
        let mut after = i64::MIN;
        loop {
            self.findings.progress("memories", self.findings.verification.memories, total);
            // One statement sees one state, so that a memory and its tags belong together.
            let rows = sqlx::query(
                "SELECT m.seq, m.realm, m.id, m.audience, m.project, m.visibility, m.principal, m.agent, m.session, \
                 m.kind, m.content_hash, m.tags, m.content, m.created, m.updated, m.expires, \
                 (SELECT json_group_array(tag) FROM (SELECT tag FROM memory_tag t WHERE t.seq = m.seq ORDER BY tag)) \
                 FROM memory m WHERE m.seq > ?1 ORDER BY m.seq LIMIT ?2",
            )
            .bind(after)
            .bind(PAGE_ROWS)
            .fetch_all(&mut *self.reader)
            .await;
            let rows = match rows {
                Ok(rows) if rows.is_empty() => return Ok(()),
                Ok(rows) => rows,
                Err(error) => {
                    let place = if after == i64::MIN {
                        "memory".to_owned()
                    } else {
                        format!("memory after row {after}")
                    };
                    return self.damaged(&place, &error);
                }
            };
            for row in &rows {
                after = row.try_get(0).map_err(|error| classify(&self.options.path, &error))?;
                self.findings.verification.memories += 1;
                for (flaw, place) in flaws_of(row, after) {
                    self.findings.add(flaw, place);
                }
            }
        }
    }

    /// Compares the index with the texts, word for word, on a connection that could write: the database wants its lock.
    async fn index(&mut self, thorough: bool) -> Result<(), StoreError> {
        if !self.tables.contains("memory_fts") || !self.findings.verification.is_whole() {
            return Ok(());
        }
        self.findings.progress("index", 0, None);
        let skipped = |why: &str| format!("the index was not compared with the texts word for word: {why}");
        let writable = rustix::fs::access(&self.options.path, rustix::fs::Access::WRITE_OK).is_ok();
        let Some(mut writer) =
            (if writable { open::connect_options(self.options).connect().await.ok() } else { None })
        else {
            self.findings
                .note(skipped("the file cannot be written; check a copy of it (`tmws memory backup`)"));
            return Ok(());
        };
        let compared = compare(&mut writer, thorough).await;
        // A failure to close loses nothing: nothing was written.
        let _ = writer.close().await;
        match compared {
            Ok(Compared::Equal) => {}
            Ok(Compared::TooLong) => self.findings.note(skipped(
                "it would have held up writers for longer than 2 s; use --thorough, or check a copy (`tmws memory backup`)",
            )),
            Err(error) if is_damage(&error) => {
                self.findings.add(Flaw::IndexOutOfStep, "a word that is in one is not in the other");
            }
            Err(error) => match classify(&self.options.path, &error) {
                StoreError::Locked | StoreError::ReadOnly { .. } | StoreError::Unavailable { .. } => {
                    self.findings.note(skipped("another process holds the store; try again"));
                }
                other => return Err(other),
            },
        }
        Ok(())
    }
}

/// What an error at the first look at a file says of it.
fn beginning_flaw(error: &sqlx::Error) -> Option<(Flaw, &'static str)> {
    if is_no_database(error) {
        Some((Flaw::NoDatabase, "the header of the file"))
    } else if is_damage(error) {
        Some((Flaw::DamagedPages, "the schema cannot be read"))
    } else {
        None
    }
}

enum Identified {
    Version(i64),
    Empty,
    Flaw(Flaw, String),
}

async fn identify(reader: &mut SqliteConnection, path: &Path) -> Result<Identified, StoreError> {
    // What the file is told apart by below, before `identify` folds it into one error.
    if let Err(error) = sqlx::query("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *reader).await {
        return match beginning_flaw(&error) {
            Some((flaw, place)) => Ok(Identified::Flaw(flaw, place.to_owned())),
            None => Err(classify(path, &error)),
        };
    }
    match open::identify(reader, path).await {
        Ok(Found::Ours(version)) => Ok(Identified::Version(version)),
        Ok(Found::Empty) => Ok(Identified::Empty),
        Err(StoreError::NewerVersion { found, known, .. }) => {
            Ok(Identified::Flaw(Flaw::NewerSchema, format!("version {found}; this tmws knows {known}")))
        }
        Err(StoreError::Corrupt { .. }) => {
            Ok(Identified::Flaw(Flaw::ForeignStore, "its application id is another".to_owned()))
        }
        Err(error) => Err(error),
    }
}

enum Compared {
    Equal,
    TooLong,
}

async fn compare(writer: &mut SqliteConnection, thorough: bool) -> Result<Compared, sqlx::Error> {
    let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
    if !thorough {
        let began = Instant::now();
        transaction
            .lock_handle()
            .await?
            .set_progress_handler(STEPS_PER_LOOK, move || began.elapsed() < COMPARISON_MAX);
    }
    let compared = sqlx::query("INSERT INTO memory_fts (memory_fts, rank) VALUES ('integrity-check', 1)")
        .execute(&mut *transaction)
        .await;
    transaction.lock_handle().await?.remove_progress_handler();
    // Nothing was written: an error here changes nothing about what was found.
    let _ = transaction.rollback().await;
    match compared {
        Ok(_) => Ok(Compared::Equal),
        Err(sqlx::Error::Database(error)) if error.code().is_some_and(|code| code == "9") => {
            Ok(Compared::TooLong)
        }
        Err(error) => Err(error),
    }
}

/// What is wrong with one memory. Where a column cannot be read, nothing else of it is said.
fn flaws_of(row: &SqliteRow, seq: i64) -> Vec<(Flaw, String)> {
    match read_flaws(row) {
        Ok(flaws) => flaws,
        Err(error) => {
            let column = match &error {
                sqlx::Error::ColumnDecode { index, .. } => {
                    index.parse().ok().and_then(|at: usize| COLUMNS.get(at)).copied().unwrap_or("a column")
                }
                _ => "visibility",
            };
            vec![(Flaw::UndecodableRow, format!("memory in row {seq}: {column}"))]
        }
    }
}

const COLUMNS: &[&str] = &[
    "seq",
    "realm",
    "id",
    "audience",
    "project",
    "visibility",
    "principal",
    "agent",
    "session",
    "kind",
    "content_hash",
    "tags",
    "content",
    "created",
    "updated",
    "expires",
    "tags",
];

fn read_flaws(row: &SqliteRow) -> Result<Vec<(Flaw, String)>, sqlx::Error> {
    let text = |at: usize| row.try_get::<String, _>(at);
    let (realm_found, id, audience_found, project) = (text(1)?, text(2)?, text(3)?, text(4)?);
    let visibility = view::visibility(&text(5)?).ok_or_else(|| undecodable("visibility"))?;
    let (principal, _agent, session) = (text(6)?, text(7)?, row.try_get::<Option<String>, _>(8)?);
    let kind = text(9)?;
    let hash: Vec<u8> = row.try_get(10)?;
    let (tags, content) = (text(11)?, text(12)?);
    let times = [row.try_get::<Option<i64>, _>(13)?, row.try_get(14)?, row.try_get(15)?];
    let searched = text(16)?;

    let mut flaws = Vec::new();
    let mut undecodable = |what: &str| flaws.push((Flaw::UndecodableRow, format!("{id}: {what}")));
    if !id::is_memory_id(&id) {
        undecodable("its id");
    }
    if times.into_iter().flatten().any(|time| jiff::Timestamp::from_microsecond(time).is_err()) {
        undecodable("a time");
    }
    if kind.trim().is_empty() {
        undecodable("its kind");
    }
    if visibility == crate::store::Visibility::Session && session.is_none() {
        undecodable("its session");
    }
    match (serde_json::from_str::<Vec<String>>(&tags), serde_json::from_str::<Vec<String>>(&searched)) {
        (Ok(shown), Ok(searched)) if shown != searched => flaws.push((Flaw::TagsOutOfStep, id.clone())),
        (Ok(_), _) => {}
        (Err(_), _) => undecodable("its tags"),
    }
    if content_hash(&content) != hash {
        flaws.push((Flaw::ContentChanged, id.clone()));
    }
    if realm(&project, &principal) != realm_found
        || audience(&project, &principal, visibility) != audience_found
    {
        flaws.push((Flaw::WrongScope, id.clone()));
    }
    Ok(flaws)
}
