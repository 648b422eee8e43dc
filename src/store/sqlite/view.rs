//! What a scope may see, as bound values, and memories from rows.

use jiff::Timestamp;
use sqlx::{
    Row as _, Sqlite,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};

use crate::store::{Memory, view};

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
fn time(microseconds: i64) -> Result<Timestamp, sqlx::Error> {
    Timestamp::from_microsecond(microseconds).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

pub(super) fn undecodable(column: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("column {column} holds what no TMWS wrote").into())
}

/// The memory in the columns from `first` on.
pub(super) fn memory(row: &SqliteRow, first: usize) -> Result<Memory, sqlx::Error> {
    let tags: String = row.try_get(first + 3)?;
    Ok(Memory {
        id: row.try_get(first)?,
        project: row.try_get(first + 1)?,
        content: row.try_get(first + 2)?,
        tags: serde_json::from_str(&tags).map_err(|_| undecodable("tags"))?,
        importance: row.try_get(first + 4)?,
        kind: row.try_get(first + 5)?,
        visibility: view::visibility(row.try_get(first + 6)?).ok_or_else(|| undecodable("visibility"))?,
        trust: view::trust(row.try_get(first + 7)?).ok_or_else(|| undecodable("trust"))?,
        principal: row.try_get(first + 8)?,
        agent: row.try_get(first + 9)?,
        session: row.try_get(first + 10)?,
        supersedes: row.try_get(first + 11)?,
        superseded_by: row.try_get(first + 12)?,
        created: time(row.try_get(first + 13)?)?,
        updated: time(row.try_get(first + 14)?)?,
        recalled: row.try_get::<Option<i64>, _>(first + 16)?.map(time).transpose()?,
        expires: row.try_get::<Option<i64>, _>(first + 15)?.map(time).transpose()?,
    })
}

/// Tags as the JSON array that is stored.
pub(super) fn tags_text(tags: &[String]) -> Result<String, sqlx::Error> {
    serde_json::to_string(tags).map_err(|error| sqlx::Error::Encode(Box::new(error)))
}
