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
use sqlx::{AssertSqlSafe, PgConnection, Row as _, postgres::PgRow};

use super::{
    Shared,
    beside::{self, Beside},
    lexeme::{self, RANK_OF_ONE, Term, WEIGHTS},
    memory::{audiences, generation},
    open::CONNECT_MAX,
    row::{Bound, bind_filter, bind_live, columns, count, is_vain, live, memory, wanted},
    vectors::{self, Nearest},
};
use crate::{
    embedding::{EmbeddingError, WORDS_ALONE},
    resilience,
    scope::Scope,
    store::{
        Hit, Hits, Memory, MemoryFilter, MemoryQuery, Retrieval, StoreError,
        fuse::{self, Depth},
        reembed::{LATEST, VectorTable as _},
        rules, terms,
        view::View,
    },
};

/// Memories with a word are counted up to here.
const COUNTED_MAX: u64 = 2_000;
/// So many matches are all ranked, and counted exactly,
const ALL_MAX: u64 = 400;
/// and whatever matches in a scope that has no more memories.
const SMALL_MAX: u64 = 1_000;
/// Of more than those, so many are ranked of the rarest words,
const CANDIDATES: u64 = 300;
/// and of these and of frequent words together so many at most.
const TOGETHER: u64 = 600;
/// Frequent words that have so many matches are each looked for together with any that is more frequent.
const LED_BY: u64 = 1_500;
/// Where frequent words are all there is, the newest matches are ranked.
const NEWEST: u64 = 600;
/// Frequent words that are looked for together, the rarest of them.
const FREQUENT_MAX: usize = 8;
/// A statement has places for so many words and phrases more than it needs at most: few statements serve all searches, and
/// each connection knows them soon.
const WORD_PLACES: usize = 4;
const PHRASE_PLACES: usize = 2;
/// Pages that are looked at to know which share of a store a scope sees.
const SAMPLED: u64 = 64;
/// The joins of a search are of a few rows with the index of the rows they belong to. Where a table has just grown, the
/// planner does not know that yet.
const PLAN: &str =
    "SET LOCAL enable_seqscan TO off; SET LOCAL enable_hashjoin TO off; SET LOCAL enable_mergejoin TO off";
/// How long counts of a large store are held to be true. How rare a word is shifts slowly there.
const COUNTS_KEPT: Duration = Duration::from_mins(10);
/// How many counts are remembered.
const COUNTS_MAX: usize = 16_384;

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
    /// They are so large a part of the store that to look whose a match is takes less than to have the index tell it.
    is_most: bool,
    /// One a term; [`COUNTED_MAX`] + 1 stands for any more.
    terms: Vec<u64>,
}

/// What is remembered of readers beside queries: all their memories, and which share of the store that is, of 1,000.
const MEMORIES: &str = "";
const SHARE: &str = "@";
/// From which share on they are most of the store.
const MOST: u64 = 500;

/// What a count of a query by `readers` is remembered by.
fn counted_by(readers: &[String], query: &str) -> String {
    format!("{} {query}", readers.join(","))
}

/// Counts what the view sees, and its memories that have each of `words`.
async fn counts(
    tx: &mut PgConnection,
    shared: &Shared,
    readers: &[String],
    words: &[Term],
) -> Result<Counts, sqlx::Error> {
    let get = |query: &str| shared.frequencies.get(&counted_by(readers, query));
    let known: Vec<Option<u64>> = words.iter().map(|term| get(&term.query)).collect();
    let (memories, share) = (get(MEMORIES), get(SHARE));
    let unknown: Vec<&Term> =
        words.iter().zip(&known).filter(|(_, known)| known.is_none()).map(|(term, _)| term).collect();
    if let (Some(memories), Some(share), true) = (memories, share, unknown.is_empty()) {
        let terms = known.into_iter().flatten().collect();
        return Ok(Counts { memories, is_most: share >= MOST, terms });
    }
    let most = COUNTED_MAX + 1;
    let sql = format!(
        "SELECT CASE WHEN $2 THEN (SELECT count(*) FROM \
         (SELECT FROM tmws.memory m WHERE m.reader = ANY ($1) LIMIT {most}) counted) END, \
         (SELECT greatest(reltuples, 0)::int8 FROM pg_catalog.pg_class WHERE oid = 'tmws.memory'::regclass), \
         CASE WHEN $2 THEN (SELECT count(*) FILTER (WHERE t.reader = ANY ($1)) * 1000 / greatest(count(*), 1) \
         FROM tmws.memory_text t TABLESAMPLE SYSTEM (least(100, {SAMPLED} * 100 \
         / greatest(pg_relation_size('tmws.memory_text') / 8192.0, 1))) REPEATABLE (1)) END, \
         ARRAY (SELECT (SELECT count(*) FROM (SELECT FROM tmws.memory_text t WHERE t.words @@ asked.query::tsquery \
         AND t.reader = ANY ($1) LIMIT {most}) counted) \
         FROM unnest($3::text[]) WITH ORDINALITY asked (query, nth) ORDER BY asked.nth)",
    );
    let is_most = share.is_some_and(|share| share >= MOST);
    let queries: Vec<String> = unknown
        .iter()
        .map(|term| lexeme::within(if is_most { &[] } else { readers }, &[], None, Some(&term.query)))
        .collect();
    let is_unknown = memories.is_none() || share.is_none();
    let row =
        sqlx::query(AssertSqlSafe(sql)).bind(readers).bind(is_unknown).bind(queries).fetch_one(tx).await?;
    let number = |number: i64| u64::try_from(number).unwrap_or(0);
    let maybe = |at: usize| row.try_get::<Option<i64>, _>(at).map(|found| found.map(number));
    let seen = maybe(0)?.or(memories).unwrap_or(0);
    let all = maybe(1)?.unwrap_or(0);
    let share = maybe(2)?.or(share).unwrap_or(0);
    let memories =
        memories.unwrap_or(if seen > COUNTED_MAX { (all * share / 1_000).max(seen) } else { seen });
    let fresh: Vec<u64> = row.try_get::<Vec<i64>, _>(3)?.into_iter().map(number).collect();
    if memories > COUNTED_MAX {
        // Not that nothing has a word: to count that takes little, and where it is so now nothing is ranked.
        let some = unknown.iter().zip(&fresh).filter(|(_, count)| **count > 0);
        let terms = some.map(|(term, count)| (term.query.as_str(), *count));
        let of_all = [(MEMORIES, memories), (SHARE, share)].into_iter().filter(|_| is_unknown);
        shared
            .frequencies
            .put(terms.chain(of_all).map(|(query, count)| (counted_by(readers, query), count)).collect());
    }
    let mut fresh = fresh.into_iter();
    let terms = known.into_iter().map(|known| known.or_else(|| fresh.next()).unwrap_or(0)).collect();
    Ok(Counts { memories, is_most: share >= MOST, terms })
}

/// Which matches are ranked.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Candidates {
    All,
    /// The newest ones.
    Newest,
    /// Those of a query.
    Some(String),
}

impl Candidates {
    /// From few to all of them: first the most that are about as many as may be ranked, if words went together by chance.
    fn of(words: &[Term], counts: &Counts) -> Vec<Self> {
        let mut order: Vec<(u64, &str)> =
            counts.terms.iter().copied().zip(words.iter().map(|term| term.query.as_str())).collect();
        order.retain(|(count, _)| *count > 0);
        order.sort_by_key(|(count, _)| *count);
        let matches: u64 = order.iter().map(|(count, _)| count).sum();
        if matches <= ALL_MAX || counts.memories <= SMALL_MAX {
            return vec![Self::All];
        }
        let up_to = |most: u64, order: &[(u64, &str)]| {
            let mut sum = 0;
            order
                .iter()
                .take_while(|(count, _)| {
                    sum += count;
                    sum <= most
                })
                .count()
        };
        let (rare, frequent) = order.split_at(up_to(CANDIDATES, &order));
        let frequent = &frequent[..frequent.len().min(FREQUENT_MAX)];
        let memories = counts.memories.max(1) as f64;
        let shares: Vec<f64> = frequent.iter().map(|(count, _)| *count as f64 / memories).collect();
        let of_rare = rare.iter().map(|(count, _)| *count as f64 / memories).sum::<f64>();
        let names: Vec<&str> = frequent.iter().map(|(_, term)| *term).collect();
        let mut steps: Vec<(f64, Self)> = Vec::new();
        let mut step = |share: f64, frequent: Vec<String>| {
            let queries = rare.iter().map(|(_, term)| (*term).to_owned()).chain(frequent);
            steps.extend(lexeme::any(queries).map(|query| ((of_rare + share) * memories, Self::Some(query))));
        };
        let with_others = |at: usize, size: usize| {
            let any = lexeme::any(together(&names[at + 1..], size))?;
            Some(format!("{} & {any}", names[at]))
        };
        if names.len() < 2 {
            step(0.0, Vec::new());
        } else {
            if names.len() > 2 {
                step(shares[0] * share_together(&shares[1..], 2), with_others(0, 2).into_iter().collect());
            }
            // Each of the less frequent ones with any that is more so: to look through the matches of few is quicker than
            // through those of all.
            let fewer = up_to(LED_BY, frequent).clamp(1, names.len() - 1);
            for leaders in [1, fewer] {
                let share = (0..leaders).map(|at| shares[at] * share_together(&shares[at + 1..], 1)).sum();
                step(share, (0..leaders).filter_map(|at| with_others(at, 1)).collect());
            }
        }
        steps.dedup_by(|wider, before| wider.1 == before.1);
        let first = steps.iter().rposition(|(many, _)| *many <= TOGETHER as f64).unwrap_or(0);
        let some = steps.into_iter().skip(first).map(|(_, step)| step);
        some.chain([Self::Newest, Self::All]).collect()
    }
}

/// The share of memories that have `size` of the words that `shares` of them have, if those went together by chance; of
/// rare ones, about.
fn share_together(shares: &[f64], size: usize) -> f64 {
    if size == 0 {
        return 1.0;
    }
    let each = |(at, share): (usize, &f64)| share * share_together(&shares[at + 1..], size - 1);
    shares.iter().enumerate().map(each).sum()
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
        let rarity = |count: u64| {
            let count = (count as f64).min(memories);
            ((memories - count + 0.5) / (count + 0.5)).ln_1p()
        };
        let of_kind = |is_phrase: bool, places: usize| {
            let mut of_kind: Vec<(Option<&str>, f64)> = words
                .iter()
                .zip(&counts.terms)
                .filter(|(term, _)| term.is_phrase == is_phrase)
                .map(|(term, count)| (Some(term.query.as_str()), rarity(*count) * (K1 + 1.0)))
                .collect();
            of_kind.resize(of_kind.len().next_multiple_of(places), (None, 0.0));
            of_kind
        };
        let (single, phrases) = (of_kind(false, WORD_PLACES), of_kind(true, PHRASE_PLACES));
        // A place that is left is null, and nothing is looked at for it: functions of null are not called.
        let (mut ranks, mut weights) = (String::new(), String::from("0"));
        for nth in 0..single.len() + phrases.len() {
            let at = 11 + 2 * nth;
            let _ = if nth < single.len() {
                write!(
                    ranks,
                    ", coalesce(ts_rank({WEIGHTS}, t.words, (SELECT ${at}::tsquery)), 0)::float8 AS r{nth}"
                )
            } else {
                write!(
                    ranks,
                    ", CASE WHEN t.words @@ (SELECT ${at}::tsquery) THEN {RANK_OF_ONE} ELSE 0 END::float8 AS r{nth}"
                )
            };
            let _ = write!(weights, " + ${}::float8 * f.r{nth} / (f.r{nth} + f.norm)", at + 1);
        }
        let cut = match candidates {
            Candidates::All => String::new(),
            Candidates::Newest => format!(" ORDER BY t.seq DESC LIMIT {NEWEST}"),
            Candidates::Some(_) => format!(" LIMIT {TOGETHER}"),
        };
        // In order before they are joined, so that no more are joined than are wanted. A sub-select reads a query once, not
        // once a row.
        let sql = format!(
            "WITH found AS MATERIALIZED (SELECT t.seq, t.length::float8 AS length{ranks} FROM tmws.memory_text t \
             WHERE t.words @@ (SELECT $9::tsquery) AND t.reader = ANY ($1){cut}), \
             normed AS (SELECT f.*, {} + {} * f.length / a.mean AS norm FROM found f, \
             (SELECT greatest(avg(length), 1)::float8 AS mean FROM found) a OFFSET 0), \
             ranked AS (SELECT f.seq, {weights} AS weight FROM normed f ORDER BY 2 DESC, 1 DESC) \
             SELECT r.seq, r.weight FROM ranked r JOIN tmws.memory m ON m.seq = r.seq WHERE {} \
             ORDER BY r.weight DESC, r.seq DESC LIMIT $10",
            RANK_OF_ONE * K1 * (1.0 - B),
            RANK_OF_ONE * K1 * B,
            wanted(self.filter),
        );
        let Self { view, filter, now, .. } = self;
        let within = match candidates {
            Candidates::Some(query) => self.within(query, counts.is_most),
            Candidates::All | Candidates::Newest => self.within(&any_of(words), counts.is_most),
        };
        let mut query =
            bind_filter(sqlx::query(AssertSqlSafe(sql)), view, filter, *now).bind(within).bind(count(depth));
        for (term, rarity) in single.into_iter().chain(phrases) {
            query = query.bind(term.map(str::to_owned)).bind(rarity);
        }
        query.fetch_all(tx).await?.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    /// `query` as the index is asked; `by_anybody`: without whose the matches are, for a statement that looks itself.
    fn within(&self, query: &str, by_anybody: bool) -> String {
        let readers = if by_anybody { Vec::new() } else { self.view.readers() };
        lexeme::within(&readers, &self.filter.tags, self.filter.kind.as_deref(), Some(query))
    }

    /// Whether so many memories have one of the words. What is superseded or expired counts, too, where nothing else is
    /// left out: to look at each would take longer than the search.
    fn are_known_to_be(&self, most: usize, counts: &Counts) -> bool {
        !self.is_narrow() && counts.terms.iter().any(|count| *count >= most as u64)
    }

    /// How many memories have any of the words, up to `most`.
    async fn count(
        &self,
        tx: &mut PgConnection,
        words: &[Term],
        counts: &Counts,
        most: usize,
    ) -> Result<usize, sqlx::Error> {
        if self.are_known_to_be(most, counts) {
            return Ok(most);
        }
        let within = self.within(&any_of(words), false);
        let query = if self.is_narrow() {
            let sql = format!(
                "SELECT count(*) FROM (SELECT FROM tmws.memory_text t JOIN tmws.memory m ON m.seq = t.seq \
                 WHERE t.words @@ $9::tsquery AND {} LIMIT $10) counted",
                wanted(self.filter)
            );
            bind_filter(sqlx::query(AssertSqlSafe(sql)), self.view, self.filter, self.now)
                .bind(within)
                .bind(count(most))
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
        // As of this transaction: a word without memories is counted each time.
        if counts.terms.iter().all(|count| *count == 0) {
            return Ok(Ranked::default());
        }
        for candidates in Candidates::of(words, counts) {
            // All of them are ranked as deep as they are counted, where that is not known anyway.
            if candidates == Candidates::All && !self.are_known_to_be(depth, counts) {
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
    let _turn = match &shared.turns {
        Some(turns) => {
            Some(turns.wait(&view, CONNECT_MAX).await.map_err(|error| shared.database.told(error))?)
        }
        None => None,
    };
    // What is counted and remembered is large.
    let seen = shared.frequencies.get(&counted_by(&view.readers(), MEMORIES));
    let plan = if seen.is_some() {
        format!("{PLAN}; {}", vectors::plan(depth.vector, shared.scans_iteratively))
    } else {
        PLAN.to_owned()
    };
    let near = vector.map(|(model, vector)| vectors::Search {
        model,
        vector,
        view: &view,
        filter: &filter,
        now,
        floor: shared.options.embeddings.floor(),
        depth: depth.vector,
        scans_iteratively: shared.scans_iteratively,
        is_planned: seen.is_some(),
    });
    let beside = match (&near, seen) {
        (Some(near), Some(seen)) if depth.lexical > 0 => Beside::of(shared, near, &plan, seen),
        _ => None,
    };
    let asked = Asked { by, view: &view, filter: &filter, now };
    let words = async {
        let mut tx = shared.database.read_planned(&view, &plan).await?;
        let found = asked.words(&mut tx, shared, &text, &words, depth).await;
        Ok((tx, found.map_err(|error| shared.database.told(error))?))
    };
    let ((mut tx, found), beside) = beside::both(words, beside).await?;
    asked
        .fused(&mut tx, shared, &text, found, near.as_ref(), beside)
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
            if error != EmbeddingError::Off {
                resilience::note(WORDS_ALONE);
            }
            return Ok(None);
        }
    };
    // Zeros: the model knows none of the words.
    let Some(vector) =
        made.vectors.into_iter().next().filter(|vector| vector.iter().any(|number| *number != 0.0))
    else {
        return Ok(None);
    };
    let row = shared.models.find(shared, &made.identity).await?;
    if row.is_none() && shared.newest().await? > 0 {
        resilience::note(WORDS_ALONE);
    }
    Ok(row.map(|row| (row, vector)))
}

impl Asked<'_> {
    /// What is found by words, and how many memories the scope has.
    async fn words(
        &self,
        tx: &mut PgConnection,
        shared: &Shared,
        text: &str,
        words: &[Term],
        depth: Depth,
    ) -> Result<(Ranked, u64), sqlx::Error> {
        let readers = self.view.readers();
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
        Ok((ranked, counted.memories))
    }

    /// The page of what was found by words and what is near, which was found `beside` or is found here.
    async fn fused(
        &self,
        tx: &mut PgConnection,
        shared: &Shared,
        text: &str,
        (ranked, memories): (Ranked, u64),
        search: Option<&vectors::Search<'_>>,
        beside: Option<Nearest>,
    ) -> Result<Hits, sqlx::Error> {
        let Self { view, filter, .. } = self;
        let readers = view.readers();
        let bare = search.and_then(|search| {
            shared.models.unsure_after().map(|after| Bare {
                model: search.model,
                after,
                whole_at: shared.models.whole_at(search.model, &readers),
            })
        });
        let mut beside = beside.filter(|beside| beside.generation.is_some());
        let (mut fused, Read { mut memories, whole_at, .. }) = loop {
            let told = beside.as_ref().and_then(|beside| beside.generation);
            let near = match (beside.take(), search) {
                (Some(beside), _) => beside.near,
                (None, Some(search)) => search.nearest(tx, memories).await?.near,
                (None, None) => Vec::new(),
            };
            let near = if self.by == Retrieval::Hybrid { fuse::comparable(&near) } else { &near };
            let fused = fuse::fuse(&ranked.order, near, shared.options.embeddings.trust());
            let wanted = fuse::read_for(&fused, filter).iter().map(|fused| fused.seq).collect();
            let read = self.fetch(tx, wanted, bare, told.is_some()).await?;
            // A write came between the two halves: what is near is found as this transaction sees it.
            if told.is_none() || told == read.generation {
                break (fused, read);
            }
        };
        match (bare, whole_at) {
            (Some(Bare { model, .. }), Some(generation)) => {
                shared.models.note_whole(model, &readers, generation);
            }
            (Some(_), None) => shared.models.miss(),
            (None, _) => {}
        }
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

    /// Memories by their numbers, and what `bare` asks; the generation where `tells` so.
    async fn fetch(
        &self,
        tx: &mut PgConnection,
        seqs: Vec<i64>,
        bare: Option<Bare>,
        tells: bool,
    ) -> Result<Read, sqlx::Error> {
        let is_bare = bare.is_some();
        // Nothing comes after the last number.
        let bare = bare.unwrap_or(Bare { model: 0, after: i64::MAX, whole_at: None });
        let mut read = Read::default();
        let mut state = |row: &PgRow| -> Result<(), sqlx::Error> {
            read.whole_at = row.try_get(0)?;
            read.generation = row.try_get(1)?;
            Ok(())
        };
        let mut rows = Vec::new();
        if !seqs.is_empty() {
            let query = sqlx::query(AssertSqlSafe(format!(
                concat!(
                    "SELECT {}, {}, m.seq, ",
                    columns!(),
                    " FROM tmws.memory m WHERE m.seq = ANY ($3) AND ",
                    live!()
                ),
                whole_at(4),
                generation(6),
            )));
            let query = bind_live(query, self.view, self.now).bind(seqs);
            rows = bare.bind(query, self.view).fetch_all(&mut *tx).await?;
        }
        if let Some(row) = rows.first() {
            state(row)?;
        } else if is_bare || tells {
            let asked = format!("SELECT {}, {}", whole_at(1), generation(3));
            let asked = bare.bind(sqlx::query(AssertSqlSafe(asked)), self.view);
            state(&asked.fetch_one(tx).await?)?;
        }
        let memories = rows.iter().map(|row| Ok((row.try_get(2)?, memory(row, 3)?)));
        read.memories = memories.collect::<Result<_, sqlx::Error>>()?;
        Ok(read)
    }
}

/// What the end of a search reads.
#[derive(Default)]
struct Read {
    memories: HashMap<i64, Memory>,
    /// The generation at which none of the latest memories of the scope is without a vector, where that is asked and so.
    whole_at: Option<i64>,
    /// The generation of the scope's audiences, where that is asked.
    generation: Option<i64>,
}

/// What tells memories without a vector that nobody here knows of.
#[derive(Clone, Copy, Debug)]
struct Bare {
    /// The model's row.
    model: i32,
    /// Up to this number they are known.
    after: i64,
    /// The generation at which the scope was last seen to have none. Whatever is stored changes it.
    whole_at: Option<i64>,
}

impl Bare {
    /// Binds what [`whole_at`] needs.
    fn bind<'q>(self, query: Bound<'q>, view: &View) -> Bound<'q> {
        let audiences = audiences(view).map(str::to_owned);
        query.bind(self.after).bind(self.model).bind(audiences.to_vec()).bind(self.whole_at)
    }
}

/// The generation of the audiences in the second place after `at`, where none of the latest memories that the scope sees
/// after the number in the place `at` is without a vector of the model in the next place; null where one is. Nothing is
/// looked through where the generation is the one in the last place.
fn whole_at(at: usize) -> String {
    let [model, audiences, known] = [at + 1, at + 2, at + 3];
    let generation = generation(audiences);
    format!(
        "CASE WHEN {generation} IS NOT DISTINCT FROM ${known} THEN ${known} WHEN NOT EXISTS (SELECT FROM (SELECT seq \
         FROM tmws.memory WHERE seq > ${at} ORDER BY seq DESC LIMIT {LATEST}) latest WHERE NOT EXISTS (SELECT \
         FROM tmws.memory_vector v WHERE v.seq = latest.seq AND v.model = ${model})) THEN {generation} END"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(memories: u64, counts: &[u64]) -> Vec<Candidates> {
        let words: Vec<Term> =
            (0..counts.len()).map(|nth| Term { query: format!("'w{nth}'"), is_phrase: false }).collect();
        Candidates::of(&words, &Counts { memories, is_most: true, terms: counts.to_vec() })
    }

    #[test]
    fn many_matches_are_narrowed_to_those_of_rare_words_and_of_several_frequent_ones() {
        let some = |query: &str| Candidates::Some(query.to_owned());
        for counts in [&[0][..], &[400], &[100, 300], &[0, 1, 2, 3]] {
            assert_eq!(steps(3_000, counts), [Candidates::All], "{counts:?}");
        }
        assert_eq!(steps(1_000, &[900, 800]), [Candidates::All]);
        assert_eq!(steps(3_000, &[2_001]), [Candidates::Newest, Candidates::All]);
        assert_eq!(
            steps(3_000, &[900, 200, 2_001]),
            [some("('w1' | 'w0' & ('w2'))"), Candidates::Newest, Candidates::All]
        );
        let of_three = [
            some("('w1' & ('w0' & 'w3'))"),
            some("('w1' & ('w0' | 'w3'))"),
            some("('w1' & ('w0' | 'w3') | 'w0' & ('w3'))"),
            Candidates::Newest,
            Candidates::All,
        ];
        // So many of few have two of the words that one with all three is looked for first.
        assert_eq!(steps(3_000, &[2_001, 500, 0, 2_001]), [&of_three[..2], &of_three[3..]].concat());
        assert_eq!(steps(3_000, &[900, 500, 0, 2_001]), of_three[1..]);
        assert_eq!(steps(100_000, &[900, 500, 0, 2_001]), of_three[2..]);
    }

    #[test]
    fn a_long_text_makes_no_long_query() {
        let Candidates::Some(query) = &steps(3_000, &[2_001; 200])[0] else { panic!("several together") };
        assert_eq!(query.matches('|').count(), 20);
    }
}
