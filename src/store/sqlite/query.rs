//! Reads: each is one statement, and so sees one state of the store.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;
use sqlx::Row as _;

use super::{
    Readers,
    view::{Bound, View, columns, live, memory, tags_text, visible},
};
use crate::store::{Hit, Hits, Memory, MemoryFilter, Order, StoreStats, id, terms};

/// Most tags that statistics name.
const TAGS_TOLD_MAX: usize = 20;
/// Latest candidates that are compared with a new memory.
const SIMILAR_CANDIDATES: i64 = 20;
/// Latest memories with its words of which those are taken, whosever they are.
const SIMILAR_LOOKED: i64 = 64;
/// Most similar memories told.
const SIMILAR_MAX: usize = 3;
/// From how much likeness on a memory is told as similar.
const SIMILAR_LIKENESS_MIN: f64 = 0.5;

/// What a filter asks for: parameters ?8 to ?13.
macro_rules! filtered {
    // Of few memories: each is asked for its tags.
    () => {
        $crate::store::sqlite::query::filtered!(
            " AND (?8 IS NULL OR NOT EXISTS (SELECT 1 FROM json_each(?8) wanted WHERE NOT EXISTS \
             (SELECT 1 FROM memory_tag t WHERE t.seq = m.seq AND t.tag = wanted.value)))"
        )
    };
    // Of all of them: the tags are asked for their memories.
    (all) => {
        $crate::store::sqlite::query::filtered!(
            " AND (?8 IS NULL OR m.seq IN (SELECT t.seq FROM json_each(?8) wanted CROSS JOIN memory_tag t \
             ON t.tag = wanted.value GROUP BY t.seq HAVING count(*) = json_array_length(?8)))"
        )
    };
    ($tags:literal) => {
        concat!(
            $crate::store::sqlite::view::live!(),
            $tags,
            " AND (?9 IS NULL OR m.kind = ?9) AND (?10 IS NULL OR m.importance >= ?10) \
             AND (?11 IS NULL OR m.created >= ?11) AND (?12 IS NULL OR m.created < ?12) \
             AND (?13 OR m.superseded_by IS NULL)"
        )
    };
}

pub(super) use filtered;

/// A page of what the filter lets through, with the count of all of it: one row at least, its memory null where there is
/// none.
macro_rules! listed {
    ($order:literal) => {
        concat!(
            "WITH found AS MATERIALIZED (SELECT m.seq AS at, m.importance AS weight FROM memory m WHERE ",
            filtered!(all),
            ") SELECT counted.total, ",
            columns!(),
            " FROM (SELECT count(*) AS total FROM found) counted \
             LEFT JOIN (SELECT at, weight FROM found ORDER BY ",
            $order,
            " LIMIT ?14 OFFSET ?15) page LEFT JOIN memory m ON m.seq = page.at ORDER BY ",
            $order
        )
    };
}

/// Binds ?8 to ?13.
pub(super) fn bind_filter<'q>(query: Bound<'q>, filter: &MemoryFilter) -> Result<Bound<'q>, sqlx::Error> {
    let tags = (!filter.tags.is_empty()).then(|| tags_text(&filter.tags)).transpose()?;
    Ok(query
        .bind(tags)
        .bind(filter.kind.clone())
        .bind(filter.importance_min)
        .bind(filter.since.map(Timestamp::as_microsecond))
        .bind(filter.until.map(Timestamp::as_microsecond))
        .bind(filter.superseded))
}

/// Memories by filter.
pub(super) async fn list(
    pool: &Readers,
    view: &View,
    filter: &MemoryFilter,
    now: Timestamp,
) -> Result<Hits, sqlx::Error> {
    let query = sqlx::query(match filter.order {
        Order::Newest => listed!("at DESC"),
        Order::Oldest => listed!("at"),
        Order::Important => listed!("weight DESC, at DESC"),
    });
    let query = bind_filter(view.bind(query, now), filter)?
        .bind(i64::try_from(filter.limit).unwrap_or(i64::MAX))
        .bind(i64::try_from(filter.offset).unwrap_or(i64::MAX));
    let mut hits = Hits::default();
    let rows = query.fetch_all(&mut *pool.get().await?).await?;
    for row in rows {
        hits.total = u64::try_from(row.try_get::<i64, _>(0)?).unwrap_or(0);
        if row.try_get::<Option<String>, _>(1)?.is_some() {
            hits.hits.push(Hit { memory: memory(&row, 1)?, score: 1.0 });
        }
    }
    Ok(hits)
}

/// A full-text query for `terms` in the texts of the rows that the view may see.
pub(super) fn within(view: &View, terms: &str) -> String {
    format!("{} AND {{content tags words}} : ({terms})", view.fts())
}

/// Live memories with nearly the same words as `memory`, likest first.
pub(super) async fn similar(
    pool: &Readers,
    view: &View,
    memory: &Memory,
    now: Timestamp,
) -> Result<Vec<String>, sqlx::Error> {
    let Some(terms) = terms::fts_similar_query(&memory.content) else { return Ok(Vec::new()) };
    let words = terms::word_set(&memory.content);
    let mut similar = Vec::new();
    // Whose the latest are with these words is asked of the few of them. The index knows it, too, but only at many times the
    // cost: it is asked where those few are mostly of others.
    let anybody = format!("{{content tags words}} : ({terms})");
    for (matching, most) in [(anybody, SIMILAR_LOOKED), (within(view, &terms), i64::MAX)] {
        let query = sqlx::query(concat!(
            "WITH latest AS MATERIALIZED \
             (SELECT rowid AS seq FROM memory_fts WHERE memory_fts MATCH ?9 ORDER BY rowid DESC LIMIT ?11) \
             SELECT counted.latest, found.id, found.content FROM (SELECT count(*) AS latest FROM latest) counted \
             LEFT JOIN (SELECT m.seq, m.id, m.content FROM latest CROSS JOIN memory m ON m.seq = latest.seq \
             WHERE m.id <> ?8 AND m.superseded_by IS NULL AND ",
            live!(),
            " ORDER BY latest.seq DESC LIMIT ?10) found ORDER BY found.seq DESC"
        ));
        let rows = view
            .bind(query, now)
            .bind(&memory.id)
            .bind(matching)
            .bind(SIMILAR_CANDIDATES)
            .bind(most)
            .fetch_all(&mut *pool.get().await?)
            .await?;
        let (mut latest, mut found) = (0, 0);
        similar.clear();
        for row in rows {
            latest = row.try_get::<i64, _>(0)?;
            let (Some(id), Some(content)) = (row.try_get(1)?, row.try_get::<Option<&str>, _>(2)?) else {
                continue;
            };
            found += 1;
            let likeness = terms::likeness(&words, &terms::word_set(content));
            if likeness >= SIMILAR_LIKENESS_MIN {
                similar.push((likeness, id));
            }
        }
        if latest < most || found == SIMILAR_CANDIDATES {
            break;
        }
    }
    similar.sort_by(|one, other| other.0.total_cmp(&one.0));
    Ok(similar.into_iter().take(SIMILAR_MAX).map(|(_, id)| id).collect())
}

/// One memory, also a superseded one.
pub(super) async fn get(
    pool: &Readers,
    view: &View,
    id: &str,
    now: Timestamp,
) -> Result<Option<Memory>, sqlx::Error> {
    let query = sqlx::query(concat!(
        "SELECT ",
        columns!(),
        " FROM memory m WHERE m.id = ?8 AND ",
        live!(),
        " ORDER BY m.realm = ?1 DESC, m.seq LIMIT 1"
    ));
    let row = view.bind(query, now).bind(id).fetch_optional(&mut *pool.get().await?).await?;
    row.map(|row| memory(&row, 0)).transpose()
}

/// The ids that end in `ending`, of two memories at most. No index holds their ends: what the view sees is read through.
pub(super) async fn ids_ending(
    pool: &Readers,
    view: &View,
    ending: &str,
    now: Timestamp,
) -> Result<Vec<String>, sqlx::Error> {
    if !id::is_short_id(ending) {
        return Ok(Vec::new());
    }
    let query = sqlx::query(concat!(
        "SELECT DISTINCT m.id FROM memory m WHERE substr(m.id, -length(?8)) = ?8 AND ",
        live!(),
        " ORDER BY m.id LIMIT 2"
    ));
    let rows = view.bind(query, now).bind(ending).fetch_all(&mut *pool.get().await?).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// Counts of what the view sees.
///
/// The tags come as one text a kind, from the rows that are read anyway: `memory_tag` would be asked once a memory, and
/// its answers sorted. Of equal lists of tags one is read.
pub(super) async fn stats(pool: &Readers, view: &View, now: Timestamp) -> Result<StoreStats, sqlx::Error> {
    // One text of all rows: sorting them by kind, or handing them over one by one, takes longer than all the rest. Kinds and
    // JSON have no tabs and line breaks of their own.
    let query = sqlx::query(concat!(
        "SELECT group_concat(m.kind || char(9) || (m.superseded_by IS NULL) || char(9) || m.tags, char(10)) \
         FROM memory m WHERE ",
        live!()
    ));
    let row = view.bind(query, now).fetch_one(&mut *pool.get().await?).await?;
    let all: Option<&str> = row.try_get(0)?;
    let mut stats = StoreStats::default();
    let (mut kinds, mut lists) = (HashMap::<&str, u64>::new(), HashMap::<&str, u64>::new());
    for line in all.into_iter().flat_map(str::lines) {
        let mut parts = line.splitn(3, '\t');
        let (Some(kind), Some(is_live), Some(list)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        if is_live != "1" {
            stats.superseded += 1;
            continue;
        }
        stats.memories += 1;
        *kinds.entry(kind).or_default() += 1;
        *lists.entry(list).or_default() += 1;
    }
    stats.kinds = kinds.into_iter().map(|(kind, count)| (kind.to_owned(), count)).collect();
    let mut tags: HashMap<String, u64> = HashMap::new();
    for (list, count) in lists {
        // A list that no TMWS wrote is `doctor`'s to find; the others still count.
        let Ok(list) = serde_json::from_str::<BTreeSet<String>>(list) else { continue };
        for tag in list {
            *tags.entry(tag).or_default() += count;
        }
    }
    stats.tags = tags.into_iter().collect();
    for counts in [&mut stats.tags, &mut stats.kinds] {
        counts.sort_unstable_by(|(one, n), (other, m)| m.cmp(n).then_with(|| one.cmp(other)));
    }
    stats.tags.truncate(TAGS_TOLD_MAX);
    Ok(stats)
}

/// A page of everything the view sees, in the order in which it was stored; `None` where `after` is not among it.
pub(super) async fn export(
    pool: &Readers,
    view: &View,
    after: Option<&str>,
    limit: usize,
) -> Result<Option<Vec<Memory>>, sqlx::Error> {
    // ?7 is not used: an export holds expired memories too, with their expiry.
    let any_time = Timestamp::UNIX_EPOCH;
    let after = match after {
        None => 0,
        Some(id) => {
            let query = sqlx::query(concat!(
                "SELECT m.seq, m.realm FROM memory m WHERE m.id = ?8 AND ?7 IS NOT NULL AND ",
                visible!(),
                " UNION ALL SELECT m.seq, m.realm FROM tombstone m WHERE m.id = ?8 AND ",
                visible!(),
                " ORDER BY 1 DESC LIMIT 1"
            ));
            match view.bind(query, any_time).bind(id).fetch_optional(&mut *pool.get().await?).await? {
                Some(row) => row.try_get::<i64, _>(0)?,
                None => return Ok(None),
            }
        }
    };
    let query = sqlx::query(concat!(
        "SELECT ",
        columns!(),
        " FROM memory m WHERE ?7 IS NOT NULL AND m.seq > ?8 AND ",
        visible!(),
        " ORDER BY m.seq LIMIT ?9"
    ));
    let rows = view
        .bind(query, any_time)
        .bind(after)
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(&mut *pool.get().await?)
        .await?;
    rows.iter().map(|row| memory(row, 0)).collect::<Result<_, _>>().map(Some)
}

/// Those of `ids` that the view sees and that were last recalled before `since`, as the store numbers them.
pub(super) async fn recalled_before(
    pool: &Readers,
    view: &View,
    ids: &[String],
    since: Timestamp,
    now: Timestamp,
) -> Result<Vec<i64>, sqlx::Error> {
    let query = sqlx::query(concat!(
        "SELECT m.seq FROM json_each(?8) c CROSS JOIN memory m ON m.id = c.value \
         LEFT JOIN recall r ON r.seq = m.seq WHERE (r.at IS NULL OR r.at < ?9) AND ",
        live!()
    ));
    let query = view.bind(query, now).bind(tags_text(ids)?).bind(since.as_microsecond());
    query.fetch_all(&mut *pool.get().await?).await?.iter().map(|row| row.try_get(0)).collect()
}

/// When the first of the memories of the view's audiences expires after `now`, up to `until`.
pub(super) async fn next_expiry(
    pool: &Readers,
    view: &View,
    now: Timestamp,
    until: Timestamp,
) -> Result<Option<Timestamp>, sqlx::Error> {
    // By the index of expiries, which holds few rows, and not by that of audiences (`+`).
    let first: Option<i64> = sqlx::query_scalar(
        "SELECT m.expires FROM memory m WHERE m.expires > ?4 AND m.expires <= ?5 \
         AND +m.audience IN (?1, ?2, ?3) ORDER BY m.expires LIMIT 1",
    )
    .bind(&view.realm)
    .bind(&view.personal)
    .bind(&view.shared)
    .bind(now.as_microsecond())
    .bind(until.as_microsecond())
    .fetch_optional(&mut *pool.get().await?)
    .await?;
    Ok(first.and_then(|first| Timestamp::from_microsecond(first).ok()))
}
