//! Search by words, by meaning or both.
//!
//! **By words** memories are ranked as BM25 does it. `ts_rank` alone knows no rarity of words, so how many memories have
//! a word is counted, up to a bound, and its rank weighed by that. What all matches of a frequent word would cost is
//! more than a search may: then candidates are the matches of the rarer words, and of several of the frequent ones
//! together; fewer together, and at last all matches, only where those are too few. Of what is ranked, only as much as
//! the order needs is joined with its memories. Counts of a large store are remembered for a moment.

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::{
    Shared,
    lexeme::{self, RANK_OF_ONE, Term, WEIGHTS},
    row::{bind_filter, bind_live, columns, count, filtered, is_vain, live, memory},
    vectors,
};
use crate::{
    scope::Scope,
    store::{
        Hit, Hits, Memory, MemoryFilter, MemoryQuery, Retrieval, StoreError,
        fuse::{self, Depth, Near},
        rules, terms,
        view::View,
    },
};

/// Memories with a word are counted up to here.
const COUNTED_MAX: u64 = 2_000;
/// So many matches are all ranked, and counted exactly.
const ALL_MAX: u64 = 1_000;
/// Of more than those, so many are ranked, about: of the rarer words, and of frequent ones together.
const CANDIDATES: u64 = 600;
/// Of words that go together more often than by chance, so many are ranked.
const TOGETHER: u64 = 2 * CANDIDATES;
/// Where frequent words are all there is, the newest matches are ranked.
const NEWEST: u64 = 1_500;
/// Frequent words that candidates have together at most.
const TOGETHER_MAX: usize = 3;
/// Frequent words that are looked for together, the rarest of them.
const FREQUENT_MAX: usize = 8;
/// The joins of a search are of a few rows with the index of the rows they belong to. Where a table has just grown, the
/// planner does not know that yet.
const PLAN: &str =
    "SET LOCAL enable_seqscan TO off; SET LOCAL enable_hashjoin TO off; SET LOCAL enable_mergejoin TO off";
/// How long counts of a large store are held to be true.
const COUNTS_KEPT: Duration = Duration::from_mins(1);
/// How many counts are remembered.
const COUNTS_MAX: usize = 4_096;

/// Parameters of BM25.
const K1: f64 = 1.2;
const B: f64 = 0.75;

/// How many memories of some readers have a word.
#[derive(Default)]
pub(super) struct Frequencies {
    counts: Mutex<HashMap<String, (Instant, u64)>>,
}

impl Frequencies {
    fn get(&self, key: &str) -> Option<u64> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.get(key).filter(|(since, _)| since.elapsed() < COUNTS_KEPT).map(|(_, count)| *count)
    }

    fn put(&self, counted: Vec<(String, u64)>) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() + counted.len() > COUNTS_MAX {
            counts.clear();
        }
        let now = Instant::now();
        counts.extend(counted.into_iter().map(|(key, count)| (key, (now, count))));
    }
}

/// Memories of a scope, and how many of them have which words.
struct Counts {
    memories: u64,
    /// One a term; [`COUNTED_MAX`] + 1 stands for any more.
    terms: Vec<u64>,
}

/// Counts what the view sees, and its memories that have each of `words`.
async fn counts(
    tx: &mut PgConnection,
    shared: &Shared,
    readers: &[String],
    words: &[Term],
) -> Result<Counts, sqlx::Error> {
    let whose = readers.join(",");
    let key = |query: &str| format!("{whose} {query}");
    let known: Vec<Option<u64>> =
        words.iter().map(|term| shared.frequencies.get(&key(&term.query))).collect();
    let memories = shared.frequencies.get(&key(""));
    let unknown: Vec<&Term> =
        words.iter().zip(&known).filter(|(_, known)| known.is_none()).map(|(term, _)| term).collect();
    let mut fresh = (0_u64, Vec::new());
    if memories.is_none() || !unknown.is_empty() {
        let most = COUNTED_MAX + 1;
        let each: Vec<String> = (0..unknown.len())
            .map(|nth| {
                format!(
                    ", (SELECT count(*) FROM (SELECT FROM tmws.memory_text t WHERE t.words @@ ${}::tsquery LIMIT \
                     {most}) counted)",
                    nth + 2
                )
            })
            .collect();
        let sql = format!(
            "SELECT (SELECT count(*) FROM (SELECT FROM tmws.memory m WHERE m.reader = ANY ($1) LIMIT {most}) counted), \
             (SELECT greatest(reltuples, 0)::int8 FROM pg_catalog.pg_class WHERE oid = 'tmws.memory'::regclass){}",
            each.concat()
        );
        let mut query = sqlx::query(AssertSqlSafe(sql)).bind(readers);
        for term in &unknown {
            query = query.bind(lexeme::within(readers, &[], None, Some(&term.query)));
        }
        let row = query.fetch_one(tx).await?;
        let number = |at: usize| row.try_get::<i64, _>(at).map(|number| u64::try_from(number).unwrap_or(0));
        let seen = number(0)?;
        fresh.0 = if seen > COUNTED_MAX { number(1)?.max(seen) } else { seen };
        for (nth, term) in unknown.iter().enumerate() {
            fresh.1.push((key(&term.query), number(nth + 2)?));
        }
    }
    let mut counted = fresh.1.iter().map(|(_, count)| *count);
    let terms = known.into_iter().map(|known| known.or_else(|| counted.next()).unwrap_or(0)).collect();
    let memories = memories.unwrap_or(fresh.0);
    if memories > COUNTED_MAX {
        fresh.1.push((key(""), memories));
        shared.frequencies.put(fresh.1);
    }
    Ok(Counts { memories, terms })
}

/// Which matches are ranked.
#[derive(Debug, PartialEq, Eq)]
enum Candidates {
    All,
    /// The newest ones.
    Newest,
    /// Those of a query.
    Some(String),
}

impl Candidates {
    /// From few to all of them.
    fn of(words: &[Term], counts: &Counts) -> Vec<Self> {
        let mut order: Vec<(u64, &Term)> = counts.terms.iter().copied().zip(words).collect();
        order.retain(|(count, _)| *count > 0);
        order.sort_by_key(|(count, _)| *count);
        if order.iter().map(|(count, _)| count).sum::<u64>() <= ALL_MAX {
            return vec![Self::All];
        }
        let mut sum = 0;
        let rare = order
            .iter()
            .take_while(|(count, _)| {
                sum += count;
                sum <= CANDIDATES
            })
            .count();
        let (rare, frequent) = order.split_at(rare);
        let rare: Vec<String> = rare.iter().map(|(_, term)| term.query.clone()).collect();
        let frequent: Vec<&str> =
            frequent.iter().take(FREQUENT_MAX).map(|(_, term)| term.query.as_str()).collect();
        // First what has the rarest of them: to look through the matches of one is quicker than through those of all.
        let mut steps: Vec<Self> = Vec::new();
        let mut step = |frequent: Vec<String>| {
            steps.extend(lexeme::any(rare.iter().cloned().chain(frequent)).map(Self::Some));
        };
        if let Some((rarest, others)) = frequent.split_first().filter(|(_, others)| !others.is_empty()) {
            for size in (1..TOGETHER_MAX.min(frequent.len())).rev() {
                step(
                    lexeme::any(together(others, size))
                        .map(|any| format!("{rarest} & {any}"))
                        .into_iter()
                        .collect(),
                );
            }
            if others.len() > 1 {
                step(together(&frequent, 2));
            }
        } else {
            step(Vec::new());
        }
        steps.extend([Self::Newest, Self::All]);
        steps
    }
}

/// Queries for `size` of `words` together, each choice of them.
fn together(words: &[&str], size: usize) -> Vec<String> {
    if size == 0 {
        return vec![String::new()];
    }
    let mut all = Vec::new();
    for (at, first) in words.iter().enumerate() {
        for rest in together(&words[at + 1..], size - 1) {
            all.push(if rest.is_empty() { (*first).to_owned() } else { format!("{first} & {rest}") });
        }
    }
    all
}

/// What is asked of memories, whatever the words.
struct Asked<'s> {
    by: Retrieval,
    view: &'s View,
    filter: &'s MemoryFilter,
    now: Timestamp,
}

/// Memories found by words.
#[derive(Default)]
struct Ranked {
    /// Best first, with their weights.
    order: Vec<(i64, f64)>,
    /// How many there are to page through.
    total: usize,
}

impl Asked<'_> {
    /// Whether the filter leaves out more than what is superseded or expired.
    const fn is_narrow(&self) -> bool {
        let MemoryFilter { tags, kind, importance_min, since, until, .. } = self.filter;
        !tags.is_empty() || kind.is_some() || importance_min.is_some() || since.is_some() || until.is_some()
    }

    /// Ranks `candidates` by `words`, best first.
    async fn rank(
        &self,
        tx: &mut PgConnection,
        words: &[Term],
        counts: &Counts,
        candidates: &Candidates,
        depth: usize,
    ) -> Result<Vec<(i64, f64)>, sqlx::Error> {
        let memories = counts.memories as f64;
        let rarities = counts.terms.iter().map(|count| {
            let count = (*count as f64).min(memories);
            ((memories - count + 0.5) / (count + 0.5)).ln_1p()
        });
        let (mut ranks, mut weights) = (String::new(), String::from("0"));
        for (nth, term) in words.iter().enumerate() {
            let at = 11 + 2 * nth;
            let _ = if term.is_phrase {
                write!(ranks, ", CASE WHEN t.words @@ ${at}::tsquery THEN 1.0 ELSE 0.0 END::float8 AS r{nth}")
            } else {
                write!(
                    ranks,
                    ", ts_rank({WEIGHTS}, t.words, ${at}::tsquery)::float8 / {RANK_OF_ONE} AS r{nth}"
                )
            };
            let _ = write!(
                weights,
                " + ${}::float8 * f.r{nth} * {} / (f.r{nth} + {K1} * ({} + {B} * f.length / a.mean))",
                at + 1,
                K1 + 1.0,
                1.0 - B,
            );
        }
        let cut = match candidates {
            Candidates::All => String::new(),
            Candidates::Newest => format!(" ORDER BY t.seq DESC LIMIT {NEWEST}"),
            Candidates::Some(_) => format!(" LIMIT {TOGETHER}"),
        };
        // In order before they are joined, so that no more are joined than are wanted.
        let sql = format!(
            "WITH found AS MATERIALIZED (SELECT t.seq, t.length::float8 AS length{ranks} FROM tmws.memory_text t \
             WHERE t.words @@ $9::tsquery{cut}), \
             ranked AS (SELECT f.seq, {weights} AS weight FROM found f, \
             (SELECT greatest(avg(length), 1)::float8 AS mean FROM found) a ORDER BY 2 DESC, 1 DESC) \
             SELECT r.seq, r.weight FROM ranked r JOIN tmws.memory m ON m.seq = r.seq WHERE {} \
             ORDER BY r.weight DESC, r.seq DESC LIMIT $10",
            filtered!(),
        );
        let Self { view, filter, now, .. } = self;
        let within = match candidates {
            Candidates::Some(query) => self.within(query),
            Candidates::All | Candidates::Newest => self.within(&any_of(words)),
        };
        let mut query =
            bind_filter(sqlx::query(AssertSqlSafe(sql)), view, filter, *now).bind(within).bind(count(depth));
        for (term, rarity) in words.iter().zip(rarities) {
            query = query.bind(&term.query).bind(rarity);
        }
        query.fetch_all(tx).await?.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    fn within(&self, query: &str) -> String {
        lexeme::within(&self.view.readers(), &self.filter.tags, self.filter.kind.as_deref(), Some(query))
    }

    /// How many memories have any of the words, up to `most`.
    async fn count(
        &self,
        tx: &mut PgConnection,
        words: &[Term],
        counts: &Counts,
        most: usize,
    ) -> Result<usize, sqlx::Error> {
        // What is superseded or expired counts, too, where nothing else is left out: to look at each would take longer
        // than the search.
        if !self.is_narrow() && counts.terms.iter().any(|count| *count >= most as u64) {
            return Ok(most);
        }
        let within = self.within(&any_of(words));
        let query = if self.is_narrow() {
            let query = sqlx::query(concat!(
                "SELECT count(*) FROM (SELECT FROM tmws.memory_text t JOIN tmws.memory m ON m.seq = t.seq \
                 WHERE t.words @@ $9::tsquery AND ",
                filtered!(),
                " LIMIT $10) counted"
            ));
            bind_filter(query, self.view, self.filter, self.now).bind(within).bind(count(most))
        } else {
            sqlx::query(
                "SELECT count(*) FROM (SELECT FROM tmws.memory_text t WHERE t.words @@ $1::tsquery LIMIT $2) counted",
            )
            .bind(within)
            .bind(count(most))
        };
        let many: i64 = query.fetch_one(tx).await?.try_get(0)?;
        Ok(usize::try_from(many).unwrap_or(0))
    }

    /// Memories with any of the words, best first: all of them up to `depth`, of more than are all ranked only `wanted`.
    async fn by_words(
        &self,
        tx: &mut PgConnection,
        words: &[Term],
        counts: &Counts,
        wanted: usize,
        depth: usize,
    ) -> Result<Ranked, sqlx::Error> {
        for candidates in Candidates::of(words, counts) {
            if candidates == Candidates::All {
                break;
            }
            let order = self.rank(tx, words, counts, &candidates, wanted).await?;
            if order.len() >= wanted {
                let total = self.count(tx, words, counts, depth).await?;
                return Ok(Ranked { order, total });
            }
        }
        let order = self.rank(tx, words, counts, &Candidates::All, depth).await?;
        let total = order.len();
        Ok(Ranked { order, total })
    }
}

/// Any of the words.
fn any_of(words: &[Term]) -> String {
    lexeme::any(words.iter().map(|term| term.query.clone())).unwrap_or_default()
}

/// Memories for a search, best first.
pub(super) async fn search(
    shared: &Shared,
    scope: &Scope,
    query: MemoryQuery,
    now: Timestamp,
) -> Result<Hits, StoreError> {
    let MemoryQuery { text, by, filter } = query;
    let (view, filter) = (View::of(scope), rules::normal_filter(filter));
    let words = lexeme::terms(&text);
    if is_vain(&filter) || words.is_empty() {
        return Ok(Hits::default());
    }
    let depth = Depth::of(by, &filter);
    // Before a connection is taken: reading a model may take a while.
    let vector = if depth.vector == 0 { None } else { meaning(shared, by, &text).await? };
    let mut tx = shared.database.read_planned(&view, PLAN).await?;
    let asked = Asked { by, view: &view, filter: &filter, now };
    asked
        .search(&mut tx, shared, &text, &words, vector, depth)
        .await
        .map_err(|error| shared.database.told(error))
}

/// The vector of a text and its model's row. `None` where there is none and words do as well.
async fn meaning(shared: &Shared, by: Retrieval, text: &str) -> Result<Option<(i32, Vec<f32>)>, StoreError> {
    let made = match shared.options.embeddings.embed(vec![text.to_owned()]).await {
        Ok(made) => made,
        Err(error) if by == Retrieval::Vector => {
            return Err(StoreError::Unavailable { reason: error.to_string() });
        }
        Err(error) => {
            tracing::debug!(%error, "a search goes by words alone");
            return Ok(None);
        }
    };
    // Zeros: the model knows none of the words.
    let Some(vector) =
        made.vectors.into_iter().next().filter(|vector| vector.iter().any(|number| *number != 0.0))
    else {
        return Ok(None);
    };
    Ok(shared.models.find(shared, &made.identity).await?.map(|row| (row, vector)))
}

impl Asked<'_> {
    async fn search(
        &self,
        tx: &mut PgConnection,
        shared: &Shared,
        text: &str,
        words: &[Term],
        vector: Option<(i32, Vec<f32>)>,
        depth: Depth,
    ) -> Result<Hits, sqlx::Error> {
        let Self { view, filter, now, .. } = self;
        let readers = view.readers();
        let counted = counts(tx, shared, &readers, if depth.lexical > 0 { words } else { &[] }).await?;
        let mut ranked = Ranked::default();
        if depth.lexical > 0 {
            ranked = self.by_words(tx, words, &counted, depth.fused, depth.lexical).await?;
            let beginnings = lexeme::prefix_terms(text);
            if ranked.order.is_empty() && !beginnings.is_empty() {
                let counted = counts(tx, shared, &readers, &beginnings).await?;
                ranked = self.by_words(tx, &beginnings, &counted, depth.fused, depth.lexical).await?;
            }
        }
        let near: Vec<Near> = match vector {
            Some((model, vector)) => {
                let floor = shared.options.embeddings.floor();
                vectors::Search {
                    model,
                    vector,
                    view,
                    filter,
                    now: *now,
                    floor,
                    depth: depth.vector,
                    scans_iteratively: shared.scans_iteratively,
                }
                .nearest(tx, counted.memories)
                .await?
            }
            None => Vec::new(),
        };
        let near = if self.by == Retrieval::Hybrid { fuse::comparable(&near) } else { &near };
        let mut fused = fuse::fuse(&ranked.order, near, shared.options.embeddings.trust());
        let wanted = fuse::read_for(&fused, filter).iter().map(|fused| fused.seq).collect();
        let mut memories = self.fetch(tx, wanted).await?;
        let asked_words = terms::telling_words(text);
        let held = |memory: &Memory| terms::coverage(&asked_words, &memory.content, &memory.tags);
        fuse::weigh(&mut fused, |seq| memories.get(&seq).map_or(0.0, held));
        let page = fuse::page(&fused, filter);
        let best = ranked.order.first().map_or(0.0, |(_, weight)| *weight);
        let (mut found, mut scores) = (Vec::new(), Vec::new());
        for fused in page {
            let Some(memory) = memories.remove(&fused.seq) else { continue };
            let share =
                fused.lexical.map(|place| fuse::proportion(ranked.order[place].1, best) * held(&memory));
            scores.push((share, fused.cosine));
            found.push(memory);
        }
        let scores = fuse::scores(scores);
        let hits = found.into_iter().zip(scores).map(|(memory, score)| Hit { memory, score }).collect();
        // Matches that were not ranked are there to page through, too.
        let total = fused.len().max(ranked.total);
        Ok(Hits { hits, total: total as u64 })
    }

    async fn fetch(
        &self,
        tx: &mut PgConnection,
        seqs: Vec<i64>,
    ) -> Result<HashMap<i64, Memory>, sqlx::Error> {
        if seqs.is_empty() {
            return Ok(HashMap::new());
        }
        let query = sqlx::query(concat!(
            "SELECT m.seq, ",
            columns!(),
            " FROM tmws.memory m WHERE m.seq = ANY ($3) AND ",
            live!()
        ));
        let rows = bind_live(query, self.view, self.now).bind(seqs).fetch_all(tx).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, memory(row, 1)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(counts: &[u64]) -> Vec<Candidates> {
        let words: Vec<Term> =
            (0..counts.len()).map(|nth| Term { query: format!("'w{nth}'"), is_phrase: false }).collect();
        Candidates::of(&words, &Counts { memories: 100_000, terms: counts.to_vec() })
    }

    #[test]
    fn many_matches_are_narrowed_to_those_of_rare_words_and_of_several_frequent_ones() {
        let some = |query: &str| Candidates::Some(query.to_owned());
        for counts in [&[0][..], &[1_000], &[300, 700], &[0, 1, 2, 3]] {
            assert_eq!(steps(counts), [Candidates::All], "{counts:?}");
        }
        assert_eq!(steps(&[2_001]), [Candidates::Newest, Candidates::All]);
        assert_eq!(
            steps(&[900, 500, 2_001]),
            [some("('w1' | 'w0' & ('w2'))"), Candidates::Newest, Candidates::All]
        );
        assert_eq!(
            steps(&[2_001, 900, 0, 2_001]),
            [
                some("('w1' & ('w0' & 'w3'))"),
                some("('w1' & ('w0' | 'w3'))"),
                some("('w1' & 'w0' | 'w1' & 'w3' | 'w0' & 'w3')"),
                Candidates::Newest,
                Candidates::All
            ]
        );
    }

    #[test]
    fn a_long_text_makes_no_long_query() {
        let Candidates::Some(query) = &steps(&[2_001; 200])[0] else { panic!("several together") };
        assert_eq!(query.matches('|').count(), 20);
    }
}
