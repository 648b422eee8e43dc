//! What a scope may see, as bound values, and memories from rows.

use jiff::Timestamp;
use sha2::{Digest, Sha256};
use sqlx::{
    Row as _, Sqlite,
    query::Query,
    sqlite::{SqliteArguments, SqliteRow},
};

use crate::{
    hex::hex,
    scope::Scope,
    store::{Memory, Trust, Visibility},
};

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
         m.session, m.supersedes, m.superseded_by, m.created, m.updated, m.expires"
    };
}

pub(super) use {columns, live, visible};

/// A query with its bound values.
pub(super) type Bound<'q> = Query<'q, Sqlite, SqliteArguments>;

/// A scope as the values that rows are compared with.
#[derive(Clone, Debug)]
pub(super) struct View {
    /// Audience of the project's rows; also the realm in which its ids are unique.
    pub(super) realm: String,
    /// Audience of the principal's project `personal`.
    pub(super) personal: String,
    /// Audience of the principal's shared rows.
    pub(super) shared: String,
    pub(super) project: String,
    pub(super) principal: String,
    pub(super) agent: String,
    pub(super) session: Option<String>,
}

impl View {
    pub(super) fn of(scope: &Scope) -> Self {
        Self {
            realm: realm(scope.project().as_str(), scope.principal()),
            personal: realm("personal", scope.principal()),
            shared: tagged('s', scope.principal()),
            project: scope.project().as_str().to_owned(),
            principal: scope.principal().to_owned(),
            agent: scope.agent().to_owned(),
            session: scope.session().map(str::to_owned),
        }
    }

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

    /// The rows of this scope, as a part of a full-text query.
    pub(super) fn fts(&self) -> String {
        format!("audience : (\"{}\" OR \"{}\" OR \"{}\")", self.realm, self.personal, self.shared)
    }
}

/// Where the ids of `project`'s memories are unique; `personal` is one per principal.
pub(super) fn realm(project: &str, principal: &str) -> String {
    if project == "personal" { tagged('u', principal) } else { tagged('p', project) }
}

/// Who may read a row at most.
pub(super) fn audience(project: &str, principal: &str, visibility: Visibility) -> String {
    match visibility {
        Visibility::Shared => tagged('s', principal),
        Visibility::Session | Visibility::Agent | Visibility::Project => realm(project, principal),
    }
}

/// A letter and 128 bits of a hash: one word for the index, whatever the name is made of.
fn tagged(kind: char, name: &str) -> String {
    format!("{kind}{}", hex(&Sha256::digest(name.as_bytes())[..16]))
}

pub(super) const fn visibility_text(visibility: Visibility) -> &'static str {
    match visibility {
        Visibility::Session => "session",
        Visibility::Agent => "agent",
        Visibility::Project => "project",
        Visibility::Shared => "shared",
    }
}

pub(super) fn visibility(text: &str) -> Result<Visibility, sqlx::Error> {
    match text {
        "session" => Ok(Visibility::Session),
        "agent" => Ok(Visibility::Agent),
        "project" => Ok(Visibility::Project),
        "shared" => Ok(Visibility::Shared),
        _ => Err(undecodable("visibility")),
    }
}

pub(super) const fn trust_text(trust: Trust) -> &'static str {
    match trust {
        Trust::User => "user",
        Trust::Agent => "agent",
        Trust::External => "external",
    }
}

/// Microseconds as a time.
fn time(microseconds: i64) -> Result<Timestamp, sqlx::Error> {
    Timestamp::from_microsecond(microseconds).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

fn undecodable(column: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("column {column} holds what no TMWS wrote").into())
}

/// The memory in the columns from `first` on.
pub(super) fn memory(row: &SqliteRow, first: usize) -> Result<Memory, sqlx::Error> {
    let tags: String = row.try_get(first + 3)?;
    let trust: String = row.try_get(first + 7)?;
    Ok(Memory {
        id: row.try_get(first)?,
        project: row.try_get(first + 1)?,
        content: row.try_get(first + 2)?,
        tags: serde_json::from_str(&tags).map_err(|_| undecodable("tags"))?,
        importance: row.try_get(first + 4)?,
        kind: row.try_get(first + 5)?,
        visibility: visibility(row.try_get(first + 6)?)?,
        trust: match trust.as_str() {
            "user" => Trust::User,
            "agent" => Trust::Agent,
            "external" => Trust::External,
            _ => return Err(undecodable("trust")),
        },
        principal: row.try_get(first + 8)?,
        agent: row.try_get(first + 9)?,
        session: row.try_get(first + 10)?,
        supersedes: row.try_get(first + 11)?,
        superseded_by: row.try_get(first + 12)?,
        created: time(row.try_get(first + 13)?)?,
        updated: time(row.try_get(first + 14)?)?,
        expires: row.try_get::<Option<i64>, _>(first + 15)?.map(time).transpose()?,
    })
}

/// Tags as the JSON array that is stored.
pub(super) fn tags_text(tags: &[String]) -> Result<String, sqlx::Error> {
    serde_json::to_string(tags).map_err(|error| sqlx::Error::Encode(Box::new(error)))
}
