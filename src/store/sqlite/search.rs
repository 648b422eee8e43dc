//! Searches: by words in the full-text index, by meaning in the vectors, and the two orders made one.
//!
//! A search is one read transaction on one thread ([`super::searchers`]): all of its statements see one state of the
//! store. What the indexes give are candidates in an order; one statement says which of them the scope may see and the
//! filter lets through, and further candidates are asked about until there are enough.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;
use rusqlite::Connection;

use super::{
    fault::Fault,
    index::{ERROR_MAX, Ranked, Scanned, Small},
    query::{filtered, within},
    vector::{Model, Recent, Table},
    view::{View, columns, memory},
};
use crate::{
    embedding::{EmbeddingError, Vectors, WORDS_ALONE},
    resilience,
    store::{
        Hit, Hits, Memory, MemoryFilter, MemoryQuery, Retrieval, StoreError,
        fuse::{self, Depth, Near},
        reembed::Reembedding,
        terms,
    },
};

/// Matches by words in the whole file up to which BM25 is computed of each.
const EXACT_MATCHES: usize = 300;
/// Memories with common words that are compared at most, the latest with each word.
const COMPARED: usize = 8_000;
/// The same of one word at least.
const COMPARED_OF_WORD: usize = 500;
/// One in so many candidates may be somebody else's, until the index is asked whose they are.
const OTHERS_SHARE: usize = 4;
/// What BM25 takes a repeated word for, and how far it levels lengths; as in FTS5.
const BM25_K1: f64 = 1.2;
const BM25_B: f64 = 0.75;
/// Candidates by meaning beyond those of the page that are compared exactly.
const RERANKED: usize = 14;
/// In a store of so many vectors all candidates are.
const RERANKED_ALL: usize = 4_096;
/// Candidates by meaning that are asked about beyond the wanted ones, of which some may not be seen.
const SPARE: usize = 8;
/// A memory found by words.
#[derive(Clone, Copy, Debug)]
struct Match {
    seq: i64,
    /// Larger is better.
    weight: f64,
}

/// Memories that `query` finds, best first.
pub(super) async fn search(
    table: &Arc<Table>,
    reembedding: &Reembedding,
    view: &View,
    query: MemoryQuery,
    now: Timestamp,
) -> Result<Hits, Fault> {
    if terms::fts_query(&query.text).is_none() {
        return Ok(Hits::default());
    }
    let vectors = if query.by == Retrieval::Lexical { None } else { embedded(table, &query).await? };
    let turn = table.turn(view).await?;
    let unsure_after = if vectors.is_some() { reembedding.unsure_after() } else { None };
    let search = Search { table: Arc::clone(table), view: view.clone(), query, now };
    let searched = table.searchers.search(move |file| {
        let _turn = turn;
        search.run(file, vectors, unsure_after)
    });
    let Searched { hits, has_no_vectors, recent } = searched.await?;
    if has_no_vectors {
        resilience::note(WORDS_ALONE);
    }
    match recent {
        Some(Recent::Bare) => reembedding.miss(),
        Some(Recent::Settled(newest)) => reembedding.settle(newest),
        None => {}
    }
    Ok(hits)
}

/// What is searched for, and where.
struct Search {
    table: Arc<Table>,
    view: View,
    query: MemoryQuery,
    now: Timestamp,
}

/// What a search found.
struct Searched {
    hits: Hits,
    /// There are memories, and no vector of the model.
    has_no_vectors: bool,
    recent: Option<Recent>,
}

impl Search {
    fn run(
        &self,
        file: &Connection,
        vectors: Option<Vectors>,
        unsure_after: Option<i64>,
    ) -> rusqlite::Result<Searched> {
        let Self { table, view, query, now } = self;
        let depth = Depth::of(query.by, &query.filter);
        let asked = Asked { view, filter: &query.filter, now: *now };
        let mut passes = Passes::new(asked);
        let mut searched = Searched { hits: Hits::default(), has_no_vectors: false, recent: None };
        let mut looked = None;
        if let Some(Vectors { identity, vectors, .. }) = vectors
            && let Some(vector) = vectors.into_iter().next()
        {
            if let Some((model, recent)) = Model::searched(file, &identity, unsure_after)? {
                searched.recent = recent;
                looked = Some(Looked::at(file, asked, table, model, vector)?);
            } else {
                searched.has_no_vectors = has_memories(file)?;
            }
        }
        if let Some(looked) = &mut looked {
            passes.want(looked.candidates.next(0, depth.vector.saturating_add(SPARE)));
        }
        let lexical = match depth.lexical {
            0 => Vec::new(),
            _ => by_words(file, &mut passes, &query.text, depth)?,
        };
        let near = match looked {
            None => Vec::new(),
            Some(looked) => looked.by_meaning(file, &mut passes, table, depth.vector)?,
        };
        searched.hits = self.fused(file, &lexical, &near)?;
        Ok(searched)
    }

    /// The page of the two orders made one.
    fn fused(&self, file: &Connection, lexical: &[Match], near: &[Near]) -> rusqlite::Result<Hits> {
        let Self { table, query, .. } = self;
        let order: Vec<(i64, f64)> = lexical.iter().map(|found| (found.seq, found.weight)).collect();
        let near = if query.by == Retrieval::Hybrid { fuse::comparable(near) } else { near };
        let mut fused = fuse::fuse(&order, near, table.shared.options.embeddings.trust());
        let wanted: Vec<i64> = fuse::read_for(&fused, &query.filter).iter().map(|fused| fused.seq).collect();
        let mut memories = read(file, &wanted)?;
        let words = terms::telling_words(&query.text);
        let held = |memory: &Memory| terms::coverage(&words, &memory.content, &memory.tags);
        fuse::weigh(&mut fused, |seq| memories.get(&seq).map_or(0.0, held));
        let page = fuse::page(&fused, &query.filter);

        // The size of BM25 says nothing: where half of a small store has a word it is next to 0, and what else is in the
        // file moves it. It orders what was found and sets it in proportion to the best; how much of what was asked a
        // memory holds gives the scale.
        let best = lexical.first().map_or(0.0, |best| best.weight);
        let mut hits = Hits { total: fused.len() as u64, ..Hits::default() };
        let mut scores = Vec::new();
        for fused in page {
            let Some(memory) = memories.remove(&fused.seq) else { continue };
            let share =
                fused.lexical.map(|place| fuse::proportion(lexical[place].weight, best) * held(&memory));
            scores.push((share, fused.cosine));
            hits.hits.push(Hit { memory, score: 0.0 });
        }
        for (hit, score) in hits.hits.iter_mut().zip(fuse::scores(scores)) {
            hit.score = score;
        }
        Ok(hits)
    }
}

fn has_memories(file: &Connection) -> rusqlite::Result<bool> {
    file.prepare_cached("SELECT EXISTS (SELECT 1 FROM memory)")?.query_row((), |row| row.get(0))
}

/// The vector of the query. `None` where there is none and words do as well.
async fn embedded(table: &Table, query: &MemoryQuery) -> Result<Option<Vectors>, Fault> {
    match table.shared.options.embeddings.embed(vec![query.text.clone()]).await {
        Ok(vectors) => Ok(Some(vectors)),
        Err(error) if query.by == Retrieval::Vector => {
            Err(Fault::Refused(StoreError::Unavailable { reason: error.to_string() }))
        }
        Err(error) => {
            tracing::debug!(%error, "a search goes by words alone");
            if error != EmbeddingError::Off {
                resilience::note(WORDS_ALONE);
            }
            Ok(None)
        }
    }
}

/// Whose search it is, and what narrows it.
#[derive(Clone, Copy)]
struct Asked<'a> {
    view: &'a View,
    filter: &'a MemoryFilter,
    now: Timestamp,
}

/// What is known of who may be seen: no memory is asked about twice.
struct Passes<'a> {
    asked: Asked<'a>,
    /// Of those asked about, the bytes of the content; `None` of one that may not be seen or does not pass the filter.
    known: HashMap<i64, Option<f64>>,
    /// To be asked about with the next ones.
    open: HashSet<i64>,
}

impl<'a> Passes<'a> {
    fn new(asked: Asked<'a>) -> Self {
        Self { asked, known: HashMap::new(), open: HashSet::new() }
    }

    /// Has the next question be about these, too.
    fn want(&mut self, candidates: &[(f32, i64)]) {
        let unknown = candidates.iter().map(|(_, seq)| *seq).filter(|seq| !self.known.contains_key(seq));
        self.open.extend(unknown);
    }

    /// Asks about those of `candidates` that are not known.
    fn ask(&mut self, file: &Connection, candidates: &[(f32, i64)]) -> Result<(), rusqlite::Error> {
        if candidates.iter().all(|(_, seq)| self.known.contains_key(seq)) {
            return Ok(());
        }
        self.want(candidates);
        let mut seqs: Vec<i64> = self.open.drain().collect();
        // Neighbours in the file one after the other.
        seqs.sort_unstable();
        let allowed = self.asked.allowed(file, &seqs)?;
        self.known.extend(seqs.into_iter().map(|seq| (seq, allowed.get(&seq).copied())));
        Ok(())
    }

    /// The bytes of the content of one that was asked about, where it passes.
    fn bytes(&self, seq: i64) -> Option<f64> {
        self.known.get(&seq).copied().flatten()
    }
}

impl Asked<'_> {
    /// Those of `seqs` that may be seen and pass the filter, with the bytes of their contents.
    fn allowed(self, file: &Connection, seqs: &[i64]) -> rusqlite::Result<HashMap<i64, f64>> {
        if seqs.is_empty() {
            return Ok(HashMap::new());
        }
        let mut allowed = file.prepare_cached(concat!(
            "SELECT m.seq, octet_length(m.content) FROM json_each(?14) c CROSS JOIN memory m ON m.seq = c.value WHERE ",
            filtered!()
        ))?;
        self.view.bind_search(&mut allowed, self.filter, self.now)?;
        allowed.raw_bind_parameter(14, listed(seqs))?;
        let mut rows = allowed.raw_query();
        let mut found = HashMap::with_capacity(seqs.len());
        while let Some(row) = rows.next()? {
            found.insert(row.get(0)?, row.get(1)?);
        }
        Ok(found)
    }
}

/// Numbers as a JSON array.
pub(super) fn listed(seqs: &[i64]) -> String {
    let numbers: Vec<String> = seqs.iter().map(i64::to_string).collect();
    format!("[{}]", numbers.join(","))
}

/// Memories with any of the words of `text`, best first; where there are none, any with a word that begins like one.
fn by_words(
    file: &Connection,
    passes: &mut Passes<'_>,
    text: &str,
    depth: Depth,
) -> Result<Vec<Match>, rusqlite::Error> {
    for terms in [terms::fts_terms(text), terms::fts_prefix_terms(text)] {
        let found = with_terms(file, passes, &terms, depth)?;
        if !found.is_empty() {
            return Ok(found);
        }
    }
    Ok(Vec::new())
}

fn with_terms(
    file: &Connection,
    passes: &mut Passes<'_>,
    terms: &[String],
    depth: Depth,
) -> Result<Vec<Match>, rusqlite::Error> {
    if terms.is_empty() {
        return Ok(Vec::new());
    }
    let asked = passes.asked;
    let latest = Latest::of(file, asked, terms, Whose::Any)?;
    if latest.is_all && latest.candidates.len() <= EXACT_MATCHES {
        if latest.candidates.len() == 0 {
            return Ok(Vec::new());
        }
        let any = format!("{{content tags words}} : ({})", terms.join(" OR "));
        return exact(file, asked, any, depth.lexical);
    }
    // Who may see a memory is asked of the few that are read. The index knows it, too, at ten times the cost: only where
    // many of the memories with these words are of others.
    let any_audience = compared(file, passes, latest, depth, Whose::Any)?;
    let (found, is_all) = if let Some(compared) = any_audience {
        compared
    } else {
        let latest = Latest::of(file, asked, terms, Whose::Own)?;
        compared(file, passes, latest, depth, Whose::Own)?.unwrap_or_default()
    };
    let wanted = asked.filter.offset.saturating_add(asked.filter.limit);
    if is_all || found.len() >= wanted {
        return Ok(found);
    }
    // A filter that lets next to nothing of it through: then there is next to nothing to compute BM25 of.
    exact(file, asked, within(asked.view, &terms.join(" OR ")), depth.lexical)
}

/// Memories that match, by BM25 as SQLite computes it.
fn exact(
    file: &Connection,
    asked: Asked<'_>,
    matching: String,
    depth: usize,
) -> Result<Vec<Match>, rusqlite::Error> {
    // CROSS JOIN keeps the order: every match is looked up, never every memory matched.
    let mut matches = file.prepare_cached(concat!(
        "SELECT m.seq, bm25(memory_fts, 1.0, 2.0, 0.5, 0.0) AS weight \
         FROM memory_fts CROSS JOIN memory m ON m.seq = memory_fts.rowid WHERE memory_fts MATCH ?14 AND ",
        filtered!(),
        " ORDER BY weight, m.seq DESC LIMIT ?15"
    ))?;
    asked.view.bind_search(&mut matches, asked.filter, asked.now)?;
    matches.raw_bind_parameter(14, matching)?;
    matches.raw_bind_parameter(15, i64::try_from(depth).unwrap_or(i64::MAX))?;
    let mut rows = matches.raw_query();
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        // BM25 comes negative, the best one least.
        found.push(Match { seq: row.get(0)?, weight: -row.get::<_, f64>(1)? });
    }
    Ok(found)
}

/// Among whose memories the latest with a word are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Any,
    Own,
}

/// The latest memories with each of some words.
struct Latest {
    /// How much its words say of each.
    candidates: Ranked,
    /// Whether there were no more.
    is_all: bool,
}

impl Latest {
    fn of(
        file: &Connection,
        asked: Asked<'_>,
        terms: &[String],
        whose: Whose,
    ) -> Result<Self, rusqlite::Error> {
        let most = (COMPARED / terms.len()).max(COMPARED_OF_WORD);
        let most_asked = i64::try_from(most).unwrap_or(i64::MAX);
        let newest: i64 = file
            .prepare_cached("SELECT coalesce(max(seq), 0) FROM memory")?
            .query_row((), |row| row.get(0))?;
        let mut latest = file.prepare_cached(
            "SELECT rowid FROM memory_fts WHERE memory_fts MATCH ?1 ORDER BY rowid DESC LIMIT ?2",
        )?;
        let mut is_all = true;
        let mut weights: Vec<(i64, f32)> = Vec::new();
        for term in terms {
            let matching = match whose {
                Whose::Any => format!("{{content tags words}} : ({term})"),
                Whose::Own => within(asked.view, term),
            };
            let found = latest.query_map((matching, most_asked), |row| row.get(0))?;
            let seqs = found.collect::<rusqlite::Result<Vec<i64>>>()?;
            // Of a word with more than were read it is taken that the others have it as often.
            let read_from = if seqs.len() == most { seqs.iter().copied().min().unwrap_or(0) } else { 0 };
            is_all &= seqs.len() < most;
            let rarity = rarity(seqs.len(), newest - read_from, newest);
            weights.extend(seqs.into_iter().map(|seq| (seq, rarity)));
        }
        weights.sort_by_key(|(seq, _)| *seq);
        let mut candidates: Vec<(f32, i64)> = Vec::with_capacity(weights.len());
        for (seq, weight) in weights {
            match candidates.last_mut() {
                Some((sum, last)) if *last == seq => *sum += weight,
                _ => candidates.push((weight, seq)),
            }
        }
        Ok(Self { candidates: Ranked::new(candidates), is_all })
    }
}

/// The same where words are common: the latest memories with each word, by BM25 without counting how often a memory has
/// a word. Whether there were no more to compare. `None` where too many of them may not be seen.
fn compared(
    file: &Connection,
    passes: &mut Passes<'_>,
    latest: Latest,
    depth: Depth,
    whose: Whose,
) -> Result<Option<(Vec<Match>, bool)>, rusqlite::Error> {
    let Latest { mut candidates, is_all } = latest;
    // As many as are looked at as a rule: one question for all of them.
    passes.want(candidates.next(0, first_step(depth.lexical)));
    let looked_max = if whose == Whose::Any { depth.fused.saturating_mul(OTHERS_SHARE) } else { usize::MAX };
    let close = passing(file, passes, &mut candidates, (0, depth.fused), looked_max)?;
    if whose == Whose::Any && close.looked - close.found.len() > close.looked / OTHERS_SHARE {
        return Ok(None);
    }
    let mut found = close.found;
    let mean = found.iter().map(|found| found.bytes).sum::<f64>() / found.len().max(1) as f64;
    for found in &mut found {
        let length = 1.0 - BM25_B + BM25_B * found.bytes / mean.max(1.0);
        found.weight *= (BM25_K1 + 1.0) / (1.0 + BM25_K1 * length);
    }
    found.sort_by(|one, two| two.weight.total_cmp(&one.weight).then(two.seq.cmp(&one.seq)));
    // The others are counted, and come after those.
    let left = depth.lexical.saturating_sub(found.len());
    if close.looked < candidates.len() && left > 0 {
        found.extend(passing(file, passes, &mut candidates, (close.looked, left), usize::MAX)?.found);
    }
    let found = found.into_iter().map(|found| Match { seq: found.seq, weight: found.weight }).collect();
    Ok(Some((found, is_all)))
}

/// How much a word says that `with` of the last `among` memories have, of `all`.
fn rarity(with: usize, among: i64, all: i64) -> f32 {
    let (among, all) = (among.max(1) as f64, all.max(1) as f64);
    let with = (with as f64 * all / among).min(all);
    ((all - with + 0.5) / (with + 0.5)).ln_1p() as f32
}

/// A candidate that passed.
#[derive(Clone, Copy, Debug)]
struct Passed {
    seq: i64,
    weight: f64,
    /// Bytes of its content.
    bytes: f64,
}

/// What became of candidates.
struct Passing {
    /// Best first, at most as many as wanted.
    found: Vec<Passed>,
    /// Those of the first ones that were not let through.
    refused: Vec<i64>,
    /// How far the candidates were looked at.
    looked: usize,
}

/// How many candidates are looked at first where so many are wanted.
const fn first_step(wanted: usize) -> usize {
    wanted.saturating_add(wanted / 8)
}

/// The best of `candidates` after the first `from` that may be seen and pass the filter, at most so many as `wanted`.
/// At most about `looked_max` of them are looked at.
fn passing(
    file: &Connection,
    passes: &mut Passes<'_>,
    candidates: &mut Ranked,
    (from, wanted): (usize, usize),
    looked_max: usize,
) -> Result<Passing, rusqlite::Error> {
    let mut passing = Passing { found: Vec::new(), refused: Vec::new(), looked: from };
    let mut known = HashSet::new();
    let mut step = first_step(wanted);
    while passing.looked < candidates.len().min(looked_max) && passing.found.len() < wanted {
        let next = candidates.next(passing.looked, step);
        passes.ask(file, next)?;
        for &(weight, seq) in next {
            if passing.found.len() == wanted {
                break;
            }
            passing.looked += 1;
            if !known.insert(seq) {
                continue;
            }
            let weight = f64::from(weight);
            match passes.bytes(seq) {
                Some(bytes) => passing.found.push(Passed { seq, weight, bytes }),
                None if passing.refused.len() < step => passing.refused.push(seq),
                None => {}
            }
        }
        step = step.saturating_mul(2);
    }
    Ok(passing)
}

/// Vectors that may be near to a query.
struct Looked {
    model: Model,
    query: Vec<f32>,
    small: Small,
    scanned: Scanned,
    floor: f32,
    candidates: Ranked,
}

impl Looked {
    /// Looks through what `asked` may see.
    fn at(
        file: &Connection,
        asked: Asked<'_>,
        table: &Table,
        model: Model,
        query: Vec<f32>,
    ) -> rusqlite::Result<Self> {
        let floor = table.shared.options.embeddings.floor();
        let scanned = table.scanned(file, model, &asked.view.audiences())?;
        let small = Small::of(&query);
        let candidates = scanned.near(&small, floor, false);
        Ok(Self { model, query, small, scanned, floor, candidates })
    }

    /// The `depth` memories whose vectors are nearest to that of the query, at least as near as the model's floor.
    fn by_meaning(
        mut self,
        file: &Connection,
        passes: &mut Passes<'_>,
        table: &Table,
        depth: usize,
    ) -> Result<Vec<Near>, rusqlite::Error> {
        let floor = self.floor;
        let wanted = depth.saturating_add(SPARE);
        let mut close = passing(file, passes, &mut self.candidates, (0, wanted), usize::MAX)?;
        let shown = passes.asked.filter.offset.saturating_add(passes.asked.filter.limit);
        if !self.candidates.is_all && close.found.len() < shown {
            self.candidates = self.scanned.near(&self.small, floor, true);
            close = passing(file, passes, &mut self.candidates, (0, wanted), usize::MAX)?;
        }
        forget_gone(file, table, &close.refused)?;
        // What comes late in the order, and surely belongs there, need not be exact.
        let exactly =
            if self.scanned.vectors <= RERANKED_ALL { wanted } else { shown.saturating_add(RERANKED) };
        let (first, rest): (Vec<_>, Vec<_>) = (0..)
            .zip(&close.found)
            .map(|(place, found)| (place, found.weight as f32, found.seq))
            .partition(|(place, cosine, _)| *place < exactly || *cosine < floor + ERROR_MAX);
        let seqs: Vec<i64> = first.iter().map(|(_, _, seq)| *seq).collect();
        let mut near = self.model.cosines(file, &self.query, &seqs)?;
        near.extend(rest.iter().map(|&(_, cosine, seq)| (cosine, seq)));
        let mut near = Ranked::new(near);
        let near = near.next(0, depth).iter().filter(|(cosine, _)| *cosine >= floor);
        Ok(near.map(|&(cosine, seq)| Near { seq, cosine }).collect())
    }
}

/// Lets the index forget those of `refused` that are not in the file any more.
fn forget_gone(file: &Connection, table: &Table, refused: &[i64]) -> Result<(), rusqlite::Error> {
    if refused.is_empty() {
        return Ok(());
    }
    // What is beyond the last number came after this state of the store.
    let mut gone = file.prepare_cached(
        "SELECT c.value FROM json_each(?1) c WHERE NOT EXISTS (SELECT 1 FROM memory WHERE seq = c.value) \
         AND c.value <= (SELECT seq FROM sqlite_sequence WHERE name = 'memory')",
    )?;
    let gone =
        gone.query_map([listed(refused)], |row| row.get(0))?.collect::<rusqlite::Result<Vec<i64>>>()?;
    if !gone.is_empty() {
        table.index.remove(&gone);
    }
    Ok(())
}

fn read(file: &Connection, seqs: &[i64]) -> rusqlite::Result<HashMap<i64, Memory>> {
    if seqs.is_empty() {
        return Ok(HashMap::new());
    }
    let mut memories = file.prepare_cached(concat!(
        "SELECT m.seq, ",
        columns!(),
        " FROM json_each(?1) c CROSS JOIN memory m ON m.seq = c.value"
    ))?;
    memories.query_map([listed(seqs)], |row| Ok((row.get(0)?, memory(row, 1)?)))?.collect()
}
