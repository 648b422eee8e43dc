//! Memories as rows, and rows as memories.

use jiff::Timestamp;
use sqlx::{
    PgConnection, Postgres, Row as _,
    postgres::{PgArguments, PgRow},
    query::Query,
};

use super::lexeme;
use crate::store::{
    Memory, MemoryFilter,
    rules::content_hash,
    view::{self, View, audience, realm, trust_text, visibility_text},
};

/// A query with its bound values.
pub(super) type Bound<'q> = Query<'q, Postgres, PgArguments>;

/// The columns of a [`Memory`] of `tmws.memory` as `m`, in the order that [`memory`] reads them in.
macro_rules! columns {
    () => {
        "m.id, m.project, m.content, m.tags, m.importance, m.kind, m.visibility, m.trust, m.principal, m.agent, \
         m.session, m.supersedes, m.superseded_by, m.created, m.updated, m.recalled, m.expires"
    };
}

/// The rows of `tmws.memory` as `m` that a scope sees, not expired: parameters $1 and $2, bound by [`bind_live`].
macro_rules! live {
    () => {
        "m.reader = ANY ($1) AND (m.expires IS NULL OR m.expires > $2)"
    };
}

/// The same as far as a filter wants them: parameters $1 to $8, bound by [`bind_filter`].
macro_rules! filtered {
    () => {
        concat!(
            $crate::store::postgres::row::live!(),
            " AND ($3::text[] IS NULL OR m.tags @> $3) AND ($4::text IS NULL OR m.kind = $4) \
             AND ($5::float8 IS NULL OR m.importance >= $5) AND ($6::int8 IS NULL OR m.created >= $6) \
             AND ($7::int8 IS NULL OR m.created < $7) AND ($8 OR m.superseded_by IS NULL)"
        )
    };
}

pub(super) use {columns, filtered, live};

/// The same as [`filtered`], of which only what `filter` asks for is written out: a plan that is kept for whatever values
/// reads no column for the sake of a condition that is always true. Parameters as bound by [`bind_filter`].
pub(super) fn wanted(filter: &MemoryFilter) -> String {
    let parts = [
        (!filter.tags.is_empty(), " AND m.tags @> $3"),
        (filter.kind.is_some(), " AND m.kind = $4"),
        (filter.importance_min.is_some(), " AND m.importance >= $5"),
        (filter.since.is_some(), " AND m.created >= $6"),
        (filter.until.is_some(), " AND m.created < $7"),
        (!filter.superseded, " AND m.superseded_by IS NULL"),
    ];
    let asked = parts.into_iter().filter(|(is_asked, _)| *is_asked).map(|(_, part)| part);
    std::iter::once(live!()).chain(asked).collect()
}

/// Binds $1 and $2.
pub(super) fn bind_live<'q>(query: Bound<'q>, view: &View, now: Timestamp) -> Bound<'q> {
    query.bind(view.readers()).bind(now.as_microsecond())
}

/// Binds $1 to $8.
pub(super) fn bind_filter<'q>(
    query: Bound<'q>,
    view: &View,
    filter: &MemoryFilter,
    now: Timestamp,
) -> Bound<'q> {
    bind_live(query, view, now)
        .bind((!filter.tags.is_empty()).then(|| filter.tags.clone()))
        .bind(filter.kind.clone())
        .bind(filter.importance_min)
        .bind(filter.since.map(Timestamp::as_microsecond))
        .bind(filter.until.map(Timestamp::as_microsecond))
        .bind(filter.superseded)
}

/// Whether nothing can have what `filter` asks for: NUL stands in no tag and no kind, and no statement takes it.
pub(super) fn is_vain(filter: &MemoryFilter) -> bool {
    filter.tags.iter().chain(&filter.kind).any(|text| text.contains('\0'))
}

pub(super) fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// What stands for NUL, which `text` does not hold: names come from outside, and one may have it.
const ESCAPE: char = '\u{10FFFF}';

/// A name as it is stored.
pub(super) fn stored_name(name: &str) -> String {
    if !name.contains(['\0', ESCAPE]) {
        return name.to_owned();
    }
    name.replace(ESCAPE, "\u{10FFFF}1").replace('\0', "\u{10FFFF}0")
}

fn name(stored: String) -> String {
    if !stored.contains(ESCAPE) {
        return stored;
    }
    stored.replace("\u{10FFFF}0", "\0").replace("\u{10FFFF}1", "\u{10FFFF}")
}

/// Microseconds as a time.
pub(super) fn time(microseconds: i64) -> Result<Timestamp, sqlx::Error> {
    Timestamp::from_microsecond(microseconds).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

fn undecodable(column: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("column {column} holds what no TMWS wrote").into())
}

/// The content in column `at`.
pub(super) fn content(row: &PgRow, at: usize) -> Result<String, sqlx::Error> {
    String::from_utf8(row.try_get(at)?).map_err(|_| undecodable("content"))
}

/// The memory in the columns from `first` on.
pub(super) fn memory(row: &PgRow, first: usize) -> Result<Memory, sqlx::Error> {
    let optional = |at: usize| row.try_get::<Option<i64>, _>(first + at)?.map(time).transpose();
    Ok(Memory {
        id: row.try_get(first)?,
        project: row.try_get(first + 1)?,
        content: content(row, first + 2)?,
        tags: row.try_get(first + 3)?,
        importance: row.try_get(first + 4)?,
        kind: row.try_get(first + 5)?,
        visibility: view::visibility(row.try_get(first + 6)?).ok_or_else(|| undecodable("visibility"))?,
        trust: view::trust(row.try_get(first + 7)?).ok_or_else(|| undecodable("trust"))?,
        principal: name(row.try_get(first + 8)?),
        agent: name(row.try_get(first + 9)?),
        session: row.try_get::<Option<String>, _>(first + 10)?.map(name),
        supersedes: row.try_get(first + 11)?,
        superseded_by: row.try_get(first + 12)?,
        created: time(row.try_get(first + 13)?)?,
        updated: time(row.try_get(first + 14)?)?,
        recalled: optional(15)?,
        expires: optional(16)?,
    })
}

/// Vectors of the memories that are stored, as one array, and of which model.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    /// The model's row.
    pub(super) model: i32,
    pub(super) dimension: usize,
    /// One memory's after the other's.
    pub(super) all: Vec<f32>,
}

impl Numbers {
    pub(super) fn new(model: i32, dimension: usize, vectors: &[Vec<f32>]) -> Self {
        Self { model, dimension, all: vectors.concat() }
    }
}

/// Tags in one text; none of them has a control character.
const TAG_END: &str = "\u{1f}";

/// Stores memories, their words and vectors, in their order. Gives the ids of those that are new: one that is there
/// already in its realm is passed over, whoever sees it. Vectors are one a memory, or none at all.
pub(super) async fn insert(
    transaction: &mut PgConnection,
    memories: &[&Memory],
    vectors: Option<Numbers>,
) -> Result<Vec<String>, sqlx::Error> {
    let readers: Vec<String> = memories.iter().map(|memory| view::reader(memory)).collect();
    let (words, lengths): (Vec<String>, Vec<i32>) =
        memories.iter().zip(&readers).map(|(memory, reader)| lexeme::vector(memory, reader)).unzip();
    let each = |of: fn(&Memory) -> String| memories.iter().map(|memory| of(memory)).collect::<Vec<String>>();
    let maybe =
        |of: fn(&Memory) -> Option<String>| memories.iter().map(|memory| of(memory)).collect::<Vec<_>>();
    let times = |of: fn(&Memory) -> Timestamp| {
        memories.iter().map(|memory| of(memory).as_microsecond()).collect::<Vec<i64>>()
    };
    let maybe_times = |of: fn(&Memory) -> Option<Timestamp>| {
        memories.iter().map(|memory| of(memory).map(Timestamp::as_microsecond)).collect::<Vec<_>>()
    };
    let (model, dimension, numbers) = vectors.map_or((None, 0, Vec::new()), |vectors| {
        (Some(vectors.model), count(vectors.dimension), vectors.all)
    });
    sqlx::query_scalar(
        "WITH given AS MATERIALIZED (SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], \
         $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::float8[], $11::text[], $12::text[], \
         $13::text[], $14::text[], $15::int8[], $16::int8[], $17::int8[], $18::int8[], $19::bytea[], $20::text[], \
         $21::bytea[], $22::text[], $23::int4[]) WITH ORDINALITY AS g (realm, id, reader, audience, project, \
         visibility, principal, agent, session, importance, kind, trust, supersedes, superseded_by, created, updated, \
         recalled, expires, content_hash, tags, content, words, length, nth)), \
         stored AS (INSERT INTO tmws.memory (realm, id, reader, audience, project, visibility, principal, agent, \
         session, importance, kind, trust, supersedes, superseded_by, created, updated, recalled, expires, \
         content_hash, tags, content) \
         SELECT realm, id, reader, audience, project, visibility, principal, agent, session, importance, kind, trust, \
         supersedes, superseded_by, created, updated, recalled, expires, content_hash, \
         string_to_array(tags, E'\\x1f'), content FROM given ORDER BY nth \
         ON CONFLICT (realm, id) DO NOTHING RETURNING seq, realm, id, reader), \
         worded AS (INSERT INTO tmws.memory_text (seq, reader, words, length) \
         SELECT s.seq, s.reader, g.words::tsvector, g.length FROM stored s JOIN given g USING (realm, id)), \
         placed AS (INSERT INTO tmws.memory_vector (seq, model, reader, embedding) \
         SELECT s.seq, $24, s.reader, ($25::float4[])[(g.nth - 1) * $26 + 1 : g.nth * $26]::vector \
         FROM stored s JOIN given g USING (realm, id) \
         WHERE EXISTS (SELECT 1 FROM tmws.embedding_model e WHERE e.id = $24)) \
         SELECT id FROM stored",
    )
    .bind(each(|memory| realm(&memory.project, &memory.principal)))
    .bind(each(|memory| memory.id.clone()))
    .bind(&readers)
    .bind(each(|memory| audience(&memory.project, &memory.principal, memory.visibility)))
    .bind(each(|memory| memory.project.clone()))
    .bind(each(|memory| visibility_text(memory.visibility).to_owned()))
    .bind(each(|memory| stored_name(&memory.principal)))
    .bind(each(|memory| stored_name(&memory.agent)))
    .bind(maybe(|memory| memory.session.as_deref().map(stored_name)))
    .bind(memories.iter().map(|memory| memory.importance).collect::<Vec<f64>>())
    .bind(each(|memory| memory.kind.clone()))
    .bind(each(|memory| trust_text(memory.trust).to_owned()))
    .bind(maybe(|memory| memory.supersedes.clone()))
    .bind(maybe(|memory| memory.superseded_by.clone()))
    .bind(times(|memory| memory.created))
    .bind(times(|memory| memory.updated))
    .bind(maybe_times(|memory| memory.recalled))
    .bind(maybe_times(|memory| memory.expires))
    .bind(memories.iter().map(|memory| content_hash(&memory.content)).collect::<Vec<_>>())
    .bind(each(|memory| memory.tags.join(TAG_END)))
    .bind(memories.iter().map(|memory| memory.content.clone().into_bytes()).collect::<Vec<_>>())
    .bind(words)
    .bind(lengths)
    .bind(model)
    .bind(numbers)
    .bind(dimension)
    .fetch_all(transaction)
    .await
}

/// Writes everything of a memory that can change, and its words.
pub(super) async fn update(
    transaction: &mut PgConnection,
    seq: i64,
    memory: &Memory,
) -> Result<(), sqlx::Error> {
    let (words, length) = lexeme::vector(memory, &view::reader(memory));
    sqlx::query(
        "WITH worded AS (UPDATE tmws.memory_text SET words = $2::tsvector, length = $3 WHERE seq = $1) \
         UPDATE tmws.memory SET tags = $4, importance = $5, kind = $6, supersedes = $7, updated = $8, expires = $9 \
         WHERE seq = $1",
    )
    .bind(seq)
    .bind(words)
    .bind(length)
    .bind(&memory.tags)
    .bind(memory.importance)
    .bind(&memory.kind)
    .bind(&memory.supersedes)
    .bind(memory.updated.as_microsecond())
    .bind(memory.expires.map(Timestamp::as_microsecond))
    .execute(transaction)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_any_character_comes_back() {
        for text in ["ann", "", "a\0b", "\u{10FFFF}", "\u{10FFFF}0\0\u{10FFFF}1"] {
            let stored = stored_name(text);
            assert!(!stored.contains('\0'), "{stored:?}");
            assert_eq!(name(stored), text);
        }
    }
}
