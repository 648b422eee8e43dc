//! What a scope may see, as bound values, and memories from rows.

use jiff::Timestamp;
use sqlx::{
    Column as _, Row as _, Sqlite,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};

use crate::store::{Memory, MemoryFilter, view};

pub(super) use crate::store::view::{View, audience, realm, trust_text, visibility_text};

/// The rows that a scope may see, of `memory` (or `tombstone`) as `m`: parameters ?1 to ?6, bound by [`View::bind`].
macro_rules! visible {
    () => {
        "m.audience IN (?1, ?2, ?3) AND (m.visibility IN ('project', 'shared') \
         OR (m.visibility = 'agent' AND m.principal = ?4 AND m.agent = ?5) \
         OR (m.visibility = 'session' AND m.audience = ?1 AND m.principal = ?4 AND m.session = ?6))"
    };
}

/// The same, not expired at ?7.
macro_rules! live {
    () => {
        concat!($crate::store::sqlite::view::visible!(), " AND (m.expires IS NULL OR m.expires > ?7)")
    };
}

/// The columns of a [`Memory`], in the order that [`memory`] reads them in.
macro_rules! columns {
    () => {
        "m.id, m.project, m.content, m.tags, m.importance, m.kind, m.visibility, m.trust, m.principal, m.agent, \
         m.session, m.supersedes, m.superseded_by, m.created, m.updated, m.expires, \
         (SELECT at FROM recall WHERE recall.seq = m.seq)"
    };
}

pub(super) use {columns, live, visible};

/// A query with its bound values.
pub(super) type Bound<'q> = Query<'q, Sqlite, SqliteArguments>;

impl View {
    /// Binds ?1 to ?7.
    pub(super) fn bind<'q>(&self, query: Bound<'q>, now: Timestamp) -> Bound<'q> {
        query
            .bind(self.realm.clone())
            .bind(self.personal.clone())
            .bind(self.shared.clone())
            .bind(self.principal.clone())
            .bind(self.agent.clone())
            .bind(self.session.clone())
            .bind(now.as_microsecond())
    }

    /// The same of a search's own connection, and ?8 to ?13 from `filter`.
    pub(super) fn bind_search(
        &self,
        statement: &mut rusqlite::Statement<'_>,
        filter: &MemoryFilter,
        now: Timestamp,
    ) -> rusqlite::Result<()> {
        let tags = (!filter.tags.is_empty()).then(|| tags_text(&filter.tags)).transpose();
        let tags = tags.map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        let values: [&dyn rusqlite::ToSql; 13] = [
            &self.realm,
            &self.personal,
            &self.shared,
            &self.principal,
            &self.agent,
            &self.session,
            &now.as_microsecond(),
            &tags,
            &filter.kind,
            &filter.importance_min,
            &filter.since.map(Timestamp::as_microsecond),
            &filter.until.map(Timestamp::as_microsecond),
            &filter.superseded,
        ];
        (1..).zip(values).try_for_each(|(place, value)| statement.raw_bind_parameter(place, value))
    }

    /// Whose rows this scope may see any of, each once.
    pub(super) fn audiences(&self) -> Vec<&str> {
        let mut audiences = vec![self.realm.as_str(), &self.personal, &self.shared];
        audiences.dedup();
        audiences
    }

    /// The rows of this scope, as a part of a full-text query.
    pub(super) fn fts(&self) -> String {
        format!("audience : (\"{}\" OR \"{}\" OR \"{}\")", self.realm, self.personal, self.shared)
    }
}

/// Microseconds as a time.
pub(super) fn time(microseconds: i64) -> Result<Timestamp, sqlx::Error> {
    Timestamp::from_microsecond(microseconds).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

pub(super) fn undecodable(column: &str) -> sqlx::Error {
    sqlx::Error::Decode(strange(column))
}

/// Why a value cannot be read.
fn strange(column: &str) -> Box<dyn std::error::Error + Send + Sync> {
    format!("column {column} holds what no TMWS wrote").into()
}

/// A row, whoever read it.
pub(super) trait Columns {
    type Error;
    fn text(&self, at: usize) -> Result<String, Self::Error>;
    fn maybe_text(&self, at: usize) -> Result<Option<String>, Self::Error>;
    fn real(&self, at: usize) -> Result<f64, Self::Error>;
    fn maybe_integer(&self, at: usize) -> Result<Option<i64>, Self::Error>;
    /// A value that no TMWS wrote.
    fn undecodable(&self, at: usize) -> Self::Error;
}

impl Columns for SqliteRow {
    type Error = sqlx::Error;

    fn text(&self, at: usize) -> Result<String, sqlx::Error> {
        self.try_get(at)
    }

    fn maybe_text(&self, at: usize) -> Result<Option<String>, sqlx::Error> {
        self.try_get(at)
    }

    fn real(&self, at: usize) -> Result<f64, sqlx::Error> {
        self.try_get(at)
    }

    fn maybe_integer(&self, at: usize) -> Result<Option<i64>, sqlx::Error> {
        self.try_get(at)
    }

    fn undecodable(&self, at: usize) -> sqlx::Error {
        undecodable(self.column(at).name())
    }
}

impl Columns for rusqlite::Row<'_> {
    type Error = rusqlite::Error;

    fn text(&self, at: usize) -> rusqlite::Result<String> {
        self.get(at)
    }

    fn maybe_text(&self, at: usize) -> rusqlite::Result<Option<String>> {
        self.get(at)
    }

    fn real(&self, at: usize) -> rusqlite::Result<f64> {
        self.get(at)
    }

    fn maybe_integer(&self, at: usize) -> rusqlite::Result<Option<i64>> {
        self.get(at)
    }

    fn undecodable(&self, at: usize) -> rusqlite::Error {
        let column = self.as_ref().column_name(at).unwrap_or_default();
        rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Null, strange(column))
    }
}

/// The memory in the columns from `first` on.
pub(super) fn memory<R: Columns>(row: &R, first: usize) -> Result<Memory, R::Error> {
    let text = |nth: usize| row.text(first + nth);
    let maybe_text = |nth: usize| row.maybe_text(first + nth);
    let undecodable = |nth: usize| row.undecodable(first + nth);
    let maybe_time = |nth: usize| -> Result<Option<Timestamp>, R::Error> {
        let time = row.maybe_integer(first + nth)?.map(Timestamp::from_microsecond).transpose();
        time.map_err(|_| undecodable(nth))
    };
    let time = |nth: usize| maybe_time(nth)?.ok_or_else(|| undecodable(nth));
    Ok(Memory {
        id: text(0)?,
        project: text(1)?,
        content: text(2)?,
        tags: serde_json::from_str(&text(3)?).map_err(|_| undecodable(3))?,
        importance: row.real(first + 4)?,
        kind: text(5)?,
        visibility: view::visibility(&text(6)?).ok_or_else(|| undecodable(6))?,
        trust: view::trust(&text(7)?).ok_or_else(|| undecodable(7))?,
        principal: text(8)?,
        agent: text(9)?,
        session: maybe_text(10)?,
        supersedes: maybe_text(11)?,
        superseded_by: maybe_text(12)?,
        created: time(13)?,
        updated: time(14)?,
        recalled: maybe_time(16)?,
        expires: maybe_time(15)?,
    })
}

/// Tags as the JSON array that is stored.
pub(super) fn tags_text(tags: &[String]) -> Result<String, sqlx::Error> {
    serde_json::to_string(tags).map_err(|error| sqlx::Error::Encode(Box::new(error)))
}
