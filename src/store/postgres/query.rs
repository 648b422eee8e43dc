//! Reads of memories. Each is one statement, or a few in a transaction that sees one state of the store.

use jiff::Timestamp;
use sqlx::{AssertSqlSafe, Row as _};

use super::{
    Shared, lexeme,
    memory::{audiences, locks},
    row::{bind_filter, bind_live, columns, content, count, filtered, is_vain, live, memory},
};
use crate::{
    scope::Scope,
    store::{
        EmbeddingProgress, Hit, Hits, Memory, MemoryFilter, Order, StoreError, StoreStats, id, rules, terms,
        view::View,
    },
};

/// Most tags that statistics name.
const TAGS_TOLD_MAX: i64 = 20;
/// Latest candidates that are compared with a new memory.
const SIMILAR_CANDIDATES: i64 = 20;
/// Most similar memories told.
const SIMILAR_MAX: usize = 3;
/// From how much likeness on a memory is told as similar.
const SIMILAR_LIKENESS_MIN: f64 = 0.5;

/// Memories by filter.
pub(super) async fn list(
    shared: &Shared,
    scope: &Scope,
    filter: MemoryFilter,
    now: Timestamp,
) -> Result<Hits, StoreError> {
    let (view, filter) = (View::of(scope), rules::normal_filter(filter));
    if is_vain(&filter) {
        return Ok(Hits::default());
    }
    let order = match filter.order {
        Order::Newest => "seq DESC",
        Order::Oldest => "seq",
        Order::Important => "importance DESC, seq DESC",
    };
    // Tags and kinds stand in the index of words, too.
    let marks = lexeme::marks(&view.readers(), &filter);
    let marked = if marks.is_some() {
        "m.seq IN (SELECT t.seq FROM tmws.memory_text t WHERE t.words @@ $9::tsquery)"
    } else {
        "$9::text IS NULL"
    };
    let found = format!("FROM tmws.memory m WHERE {} AND {marked}", filtered!());
    let sql = format!(
        "WITH page AS (SELECT m.* {found} ORDER BY {order} LIMIT $10 OFFSET $11) \
         SELECT counted.total, {} FROM (SELECT count(*) AS total {found}) counted LEFT JOIN page m ON true \
         ORDER BY {order}",
        columns!(),
    );
    let mut tx = shared.database.read(&view).await?;
    let rows = bind_filter(sqlx::query(AssertSqlSafe(sql)), &view, &filter, now)
        .bind(marks)
        .bind(count(filter.limit))
        .bind(count(filter.offset))
        .fetch_all(&mut *tx)
        .await;
    let read = || -> Result<Hits, sqlx::Error> {
        let mut hits = Hits::default();
        for row in &rows? {
            hits.total = u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0);
            if row.try_get::<Option<String>, _>(1)?.is_some() {
                hits.hits.push(Hit { memory: memory(row, 1)?, score: 1.0 });
            }
        }
        Ok(hits)
    };
    read().map_err(|error| shared.database.told(error))
}

/// Live memories with nearly the same words as `memory`, likest first.
pub(super) async fn similar(
    shared: &Shared,
    view: &View,
    memory: &Memory,
    now: Timestamp,
) -> Result<Vec<String>, StoreError> {
    let Some(words) = lexeme::similar_terms(&memory.content) else { return Ok(Vec::new()) };
    let query = sqlx::query(concat!(
        "SELECT m.id, m.content FROM tmws.memory_text t JOIN tmws.memory m ON m.seq = t.seq \
         WHERE t.words @@ $3::tsquery AND m.id <> $4 AND m.superseded_by IS NULL AND ",
        live!(),
        " ORDER BY t.seq DESC LIMIT $5"
    ));
    let mut tx = shared.database.read(view).await?;
    let rows = bind_live(query, view, now)
        .bind(lexeme::within(&view.readers(), &[], None, Some(&words)))
        .bind(&memory.id)
        .bind(SIMILAR_CANDIDATES)
        .fetch_all(&mut *tx)
        .await;
    let read = || -> Result<Vec<(String, String)>, sqlx::Error> {
        rows?.iter().map(|row| Ok((row.try_get(0)?, content(row, 1)?))).collect()
    };
    let candidates = read().map_err(|error| shared.database.told(error))?;
    let words = terms::word_set(&memory.content);
    let mut similar: Vec<(f64, String)> = candidates
        .into_iter()
        .map(|(id, content)| (terms::likeness(&words, &terms::word_set(&content)), id))
        .filter(|(likeness, _)| *likeness >= SIMILAR_LIKENESS_MIN)
        .collect();
    similar.sort_by(|one, other| other.0.total_cmp(&one.0));
    Ok(similar.into_iter().take(SIMILAR_MAX).map(|(_, id)| id).collect())
}

/// One memory, also a superseded one.
pub(super) async fn get(
    shared: &Shared,
    scope: &Scope,
    id: &str,
    now: Timestamp,
) -> Result<Option<Memory>, StoreError> {
    if !id::is_memory_id(id) {
        return Ok(None);
    }
    let view = View::of(scope);
    let query = sqlx::query(concat!(
        "SELECT ",
        columns!(),
        " FROM tmws.memory m WHERE m.id = $3 AND ",
        live!(),
        " ORDER BY m.realm = $4 DESC, m.seq LIMIT 1"
    ));
    let mut tx = shared.database.read(&view).await?;
    let row = bind_live(query, &view, now).bind(id).bind(&view.realm).fetch_optional(&mut *tx).await;
    row.and_then(|row| row.map(|row| memory(&row, 0)).transpose())
        .map_err(|error| shared.database.told(error))
}

/// The ids that end in `ending`, of two memories at most. No index holds their ends: what the view sees is read through.
pub(super) async fn ids_ending(
    shared: &Shared,
    scope: &Scope,
    ending: &str,
    now: Timestamp,
) -> Result<Vec<String>, StoreError> {
    if !id::is_short_id(ending) {
        return Ok(Vec::new());
    }
    let view = View::of(scope);
    let query = sqlx::query(concat!(
        "SELECT DISTINCT m.id FROM tmws.memory m WHERE right(m.id, length($3)) = $3 AND ",
        live!(),
        " ORDER BY m.id LIMIT 2"
    ));
    let mut tx = shared.database.read(&view).await?;
    let rows = bind_live(query, &view, now).bind(ending).fetch_all(&mut *tx).await;
    rows.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect())
        .map_err(|error| shared.database.told(error))
}

/// Counts of what the view sees.
pub(super) async fn stats(shared: &Shared, scope: &Scope, now: Timestamp) -> Result<StoreStats, StoreError> {
    let view = View::of(scope);
    // Names are compared by their bytes, as the other store does.
    let query = sqlx::query(concat!(
        "WITH seen AS MATERIALIZED (SELECT m.kind, m.tags, m.superseded_by IS NULL AS is_live FROM tmws.memory m WHERE ",
        live!(),
        "), tag AS (SELECT tag COLLATE \"C\" AS name, count(*) AS many FROM seen, unnest(tags) tag WHERE is_live \
         GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT $3), \
         kind AS (SELECT kind COLLATE \"C\" AS name, count(*) AS many FROM seen WHERE is_live GROUP BY 1) \
         SELECT 0 AS what, '' AS name, count(*) AS many FROM seen WHERE is_live \
         UNION ALL SELECT 1, '', count(*) FROM seen WHERE NOT is_live \
         UNION ALL SELECT 2, name, many FROM tag UNION ALL SELECT 3, name, many FROM kind"
    ));
    let mut tx = shared.database.read(&view).await?;
    let rows = bind_live(query, &view, now).bind(TAGS_TOLD_MAX).fetch_all(&mut *tx).await;
    let read = || -> Result<StoreStats, sqlx::Error> {
        let mut stats = StoreStats::default();
        for row in rows? {
            let many = u64::try_from(row.try_get::<i64, _>(2)?).unwrap_or(0);
            let name: String = row.try_get(1)?;
            match row.try_get::<i32, _>(0)? {
                0 => stats.memories = many,
                1 => stats.superseded = many,
                2 => stats.tags.push((name, many)),
                _ => stats.kinds.push((name, many)),
            }
        }
        for counts in [&mut stats.tags, &mut stats.kinds] {
            counts.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        }
        Ok(stats)
    };
    read().map_err(|error| shared.database.told(error))
}

/// A page of everything the view sees, in the order in which it was stored.
///
/// Transactions commit in another order than they draw numbers. So a page is read under the locks that writes take
/// before they draw ([`super::memory`]), shared with other readers: what was drawn in these audiences is committed then,
/// and what is drawn later is larger than anything in the page. It waits for writes of these audiences that are under
/// way, and they wait for this one page.
pub(super) async fn export(
    shared: &Shared,
    scope: &Scope,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Memory>, StoreError> {
    let view = View::of(scope);
    let unknown = || StoreError::Invalid {
        field: "after",
        message: "names no memory of this scope; start the export anew".to_owned(),
    };
    if after.is_some_and(|id| !id::is_memory_id(id)) {
        return Err(unknown());
    }
    // A lock is waited for before the statement that reads begins, so that this sees what was waited for.
    let mut tx = shared.database.read_stepwise(&view).await?;
    let page = async {
        sqlx::query("SELECT pg_advisory_xact_lock_shared(key) FROM unnest($1::int8[]) key")
            .bind(locks(audiences(&view)))
            .execute(&mut *tx)
            .await?;
        let after: Option<i64> = match after {
            None => Some(0),
            Some(id) => {
                let query = "SELECT seq FROM tmws.memory WHERE id = $2 AND reader = ANY ($1) \
                             UNION ALL SELECT seq FROM tmws.tombstone WHERE id = $2 AND reader = ANY ($1) \
                             ORDER BY 1 DESC LIMIT 1";
                sqlx::query_scalar(query).bind(view.readers()).bind(id).fetch_optional(&mut *tx).await?
            }
        };
        let Some(after) = after else { return Ok(None) };
        let rows = sqlx::query(concat!(
            "SELECT ",
            columns!(),
            " FROM tmws.memory m WHERE m.seq > $2 AND m.reader = ANY ($1) ORDER BY m.seq LIMIT $3"
        ))
        .bind(view.readers())
        .bind(after)
        .bind(count(limit))
        .fetch_all(&mut *tx)
        .await?;
        rows.iter().map(|row| memory(row, 0)).collect::<Result<_, sqlx::Error>>().map(Some)
    };
    page.await.map_err(|error| shared.database.told(error))?.ok_or_else(unknown)
}

/// How far the store's memories have vectors of the current model.
pub(super) async fn embedding(shared: &Shared) -> Result<EmbeddingProgress, StoreError> {
    let model = shared.options.embeddings.identity().await.ok();
    let mut tx = shared.database.read(super::transaction::Wall::Whole).await?;
    let (name, dimension, hash) = model.as_ref().map_or((String::new(), 0, String::new()), |model| {
        (model.name.to_string(), count(model.dimension), model.hash.to_string())
    });
    let counts: Result<(i64, i64), sqlx::Error> = sqlx::query_as(
        "SELECT (SELECT count(*) FROM tmws.memory_vector v JOIN tmws.embedding_model e ON e.id = v.model \
         WHERE e.name = $1 AND e.dimension = $2 AND e.hash = $3), (SELECT count(*) FROM tmws.memory)",
    )
    .bind(name)
    .bind(dimension)
    .bind(hash)
    .fetch_one(&mut *tx)
    .await;
    let (embedded, memories) = counts.map_err(|error| shared.database.told(error))?;
    Ok(EmbeddingProgress {
        model,
        embedded: u64::try_from(embedded).unwrap_or(0),
        memories: u64::try_from(memories).unwrap_or(0),
    })
}
