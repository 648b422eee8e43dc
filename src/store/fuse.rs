//! Two orders made one: what was found by words and what was found by meaning, by reciprocal rank (Cormack, Clarke and
//! Büttcher, SIGIR 2009). The same for every store; no store is touched here.

use std::collections::HashMap;

use super::{MemoryFilter, Retrieval};

/// How much the first ranks stand out: less, and they do more. The paper's 60 is for orders of which each is as good; here
/// what comes first by one of them is often right, and what is in the middle of both seldom (`docs/search.md`).
const RANK_OFFSET: f64 = 3.0;
/// Least number of memories of each order that are fused.
const DEPTH_MIN: usize = 50;
/// So many times what is wanted is fused.
const DEPTH_PAGES: usize = 3;
/// Matches by words are counted up to here, or as far as the order is fused.
const COUNTED_MAX: usize = 200;
/// What is found beside words has to be so near in proportion to the nearest. Less fills answers with what nobody asked
/// for, and finds no more among the first five.
const NEAR_SHARE: f32 = 0.5;
/// The first of the fused order that are read and ordered anew. More finds no more among the first five.
const WEIGHED: usize = 20;

/// How far each order is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Depth {
    /// Memories found by words, best first; as many are counted.
    pub(super) lexical: usize,
    /// Memories found by meaning, nearest first.
    pub(super) vector: usize,
    /// The same of either: beyond it, an order need not be exact.
    pub(super) fused: usize,
}

impl Depth {
    /// For the page that `filter` wants.
    pub(super) fn of(by: Retrieval, filter: &MemoryFilter) -> Self {
        let wanted = filter.offset.saturating_add(filter.limit).saturating_mul(DEPTH_PAGES);
        let fused = wanted.max(DEPTH_MIN);
        Self {
            lexical: if by == Retrieval::Vector { 0 } else { fused.max(COUNTED_MAX) },
            vector: if by == Retrieval::Lexical { 0 } else { fused },
            fused,
        }
    }
}

/// A memory found by meaning.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Near {
    /// The number that the store orders memories by.
    pub(super) seq: i64,
    /// Cosine similarity to the query, at least the model's floor.
    pub(super) cosine: f32,
}

/// A memory in the fused order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fused {
    /// The number that the store orders memories by.
    pub(super) seq: i64,
    /// Its place among those found by words, from 0.
    pub(super) lexical: Option<usize>,
    /// Its cosine similarity, where it was found by meaning.
    pub(super) cosine: Option<f32>,
    /// What its rank by words counts.
    words: f64,
    /// What its rank by meaning counts.
    meaning: f64,
}

impl Fused {
    fn weight(&self) -> f64 {
        self.words + self.meaning
    }
}

/// Those of `vector`, nearest first, that are near enough in proportion to the nearest to stand beside what was found by
/// words.
pub(super) fn comparable(vector: &[Near]) -> &[Near] {
    let least = vector.first().map_or(0.0, |nearest| nearest.cosine * NEAR_SHARE);
    &vector[..vector.partition_point(|near| near.cosine >= least)]
}

/// Both orders as one, best first: by the sum of the reciprocals of the ranks, then by the rank by words, then newest
/// first. Each order has a memory once at most. Its length is how many there are to page through.
///
/// A rank by meaning counts `trust` times as much as one by words: as much as the model deserves it.
///
/// What was found by words has the weight that ordered it (BM25, of whichever sign: the first is the best). Its rank
/// counts in proportion to the best one's, for a memory that shares a common word with the query comes soon, too, where
/// nothing better is there.
pub(super) fn fuse(lexical: &[(i64, f64)], vector: &[Near], trust: f64) -> Vec<Fused> {
    let share = |rank: usize| 1.0 / (RANK_OFFSET + 1.0 + rank as f64);
    let best = lexical.first().map_or(0.0, |(_, weight)| *weight);
    let mut fused: Vec<Fused> = lexical
        .iter()
        .enumerate()
        .map(|(rank, &(seq, weight))| {
            let words = proportion(weight, best) * share(rank);
            Fused { seq, lexical: Some(rank), cosine: None, words, meaning: 0.0 }
        })
        .collect();
    let places: HashMap<i64, usize> =
        lexical.iter().enumerate().map(|(rank, &(seq, _))| (seq, rank)).collect();
    for (rank, &Near { seq, cosine }) in vector.iter().enumerate() {
        let meaning = trust * share(rank);
        if let Some(&place) = places.get(&seq) {
            fused[place].cosine = Some(cosine);
            fused[place].meaning = meaning;
        } else {
            fused.push(Fused { seq, lexical: None, cosine: Some(cosine), words: 0.0, meaning });
        }
    }
    sort(&mut fused);
    fused
}

fn sort(fused: &mut [Fused]) {
    let place = |fused: &Fused| fused.lexical.unwrap_or(usize::MAX);
    fused.sort_by(|one, other| {
        (other.weight().total_cmp(&one.weight()))
            .then(place(one).cmp(&place(other)))
            .then(other.seq.cmp(&one.seq))
    });
}

/// Those of `fused` that a store reads for the page that `filter` wants: it, and what [`weigh`] orders anew where that may
/// be part of it.
pub(super) fn read_for<'a>(fused: &'a [Fused], filter: &MemoryFilter) -> &'a [Fused] {
    let end = filter.offset.saturating_add(filter.limit);
    if filter.offset >= WEIGHED || !is_of_both(fused) {
        return page(fused, filter);
    }
    &fused[..end.max(WEIGHED).min(fused.len())]
}

/// Orders the first of `fused` anew: a rank by words counts by the share of the query's words that the memory `holds`, too.
/// BM25 alone takes a memory with one rare word for as good as one with most of them. What was found in one way only keeps
/// its order.
pub(super) fn weigh(fused: &mut [Fused], holds: impl Fn(i64) -> f64) {
    if !is_of_both(fused) {
        return;
    }
    let first = fused.len().min(WEIGHED);
    let first = &mut fused[..first];
    for fused in first.iter_mut().filter(|fused| fused.lexical.is_some()) {
        fused.words *= holds(fused.seq);
    }
    sort(first);
}

fn is_of_both(fused: &[Fused]) -> bool {
    fused.iter().any(|fused| fused.lexical.is_some()) && fused.iter().any(|fused| fused.cosine.is_some())
}

/// How good a weight is beside the best one, 0 to 1.
pub(super) fn proportion(weight: f64, best: f64) -> f64 {
    let share = weight / best;
    // Where all have a word, its weight may be 0.
    if share.is_finite() { share.clamp(0.0, 1.0) } else { 1.0 }
}

/// The page of `fused` that `filter` wants.
pub(super) fn page<'a>(fused: &'a [Fused], filter: &MemoryFilter) -> &'a [Fused] {
    let from = filter.offset.min(fused.len());
    &fused[from..filter.offset.saturating_add(filter.limit).min(fused.len())]
}

/// The scores of a page: for each hit the larger of its share of the query's words and its cosine, 0 to 1, and never
/// more than the one before it.
pub(super) fn scores(page: impl IntoIterator<Item = (Option<f64>, Option<f32>)>) -> Vec<f64> {
    let mut least = 1.0_f64;
    let score = |(share, cosine): (Option<f64>, Option<f32>)| {
        least = least.min(share.unwrap_or(0.0).max(cosine.map_or(0.0, f64::from)).max(0.0));
        least
    };
    page.into_iter().map(score).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn near(seqs: &[i64]) -> Vec<Near> {
        seqs.iter().map(|&seq| Near { seq, cosine: 0.5 }).collect()
    }

    /// Found by words, each as well as the others.
    fn alike(seqs: &[i64]) -> Vec<(i64, f64)> {
        seqs.iter().map(|&seq| (seq, 2.5)).collect()
    }

    fn order(lexical: &[i64], vector: &[i64]) -> Vec<i64> {
        fuse(&alike(lexical), &near(vector), 1.0).into_iter().map(|fused| fused.seq).collect()
    }

    #[test]
    fn what_both_find_comes_before_what_one_finds() {
        for (lexical, vector, expected) in [
            (vec![], vec![], vec![]),
            (vec![3, 1, 2], vec![], vec![3, 1, 2]),
            (vec![], vec![3, 1, 2], vec![3, 1, 2]),
            (vec![1, 2], vec![3, 2], vec![2, 1, 3]),
            // As good by both: the order by words says.
            (vec![1, 2], vec![2, 1], vec![1, 2]),
            (vec![1], vec![9], vec![1, 9]),
            (vec![5, 6, 7, 8], vec![8, 4], vec![8, 5, 6, 4, 7]),
        ] {
            assert_eq!(order(&lexical, &vector), expected, "{lexical:?} and {vector:?}");
        }
    }

    #[test]
    fn a_rank_by_words_counts_as_much_as_its_weight_says() {
        for sign in [1.0, -1.0] {
            let fused = fuse(&[(1, sign * 8.0), (2, sign)], &near(&[3, 2]), 1.0);
            assert_eq!(fused.iter().map(|fused| fused.seq).collect::<Vec<_>>(), [1, 3, 2]);
        }
        assert_eq!(order(&[1, 2], &[3, 2]), [2, 1, 3]);
        for (weight, best, expected) in
            [(0.0, 0.0, 1.0), (1.0, 4.0, 0.25), (-1.0, -4.0, 0.25), (9.0, 3.0, 1.0)]
        {
            assert!((proportion(weight, best) - expected).abs() < 1e-9, "{weight} beside {best}");
        }
    }

    #[test]
    fn a_rank_by_meaning_counts_as_much_as_the_model_is_trusted() {
        for (trust, expected) in [(0.3, [1, 2, 3, 4]), (1.0, [1, 3, 2, 4]), (2.0, [3, 4, 1, 2])] {
            let fused = fuse(&alike(&[1, 2]), &near(&[3, 4]), trust);
            assert_eq!(fused.iter().map(|fused| fused.seq).collect::<Vec<_>>(), expected, "{trust}");
        }
    }

    #[test]
    fn the_first_are_ordered_anew_by_the_share_of_words_that_they_hold() {
        let seqs = |fused: &[Fused]| fused.iter().map(|fused| fused.seq).collect::<Vec<_>>();
        let holds = |seq| if seq == 1 { 0.25 } else { 1.0 };
        let mut fused = fuse(&alike(&[1, 2]), &near(&[3]), 1.0);
        assert_eq!(seqs(&fused), [1, 3, 2]);
        weigh(&mut fused, holds);
        assert_eq!(seqs(&fused), [3, 2, 1]);
        // Found in one way only.
        let mut fused = fuse(&alike(&[1, 2]), &[], 1.0);
        weigh(&mut fused, holds);
        assert_eq!(seqs(&fused), [1, 2]);
        // Beyond the first ones nothing moves.
        let all: Vec<i64> = (0..60).collect();
        let mut fused = fuse(&alike(&all), &near(&[5]), 1.0);
        let before = seqs(&fused);
        weigh(&mut fused, |seq| 1.0 / (1.0 + seq as f64));
        assert_eq!(seqs(&fused)[WEIGHED..], before[WEIGHED..]);
        let filter = |limit, offset| MemoryFilter { limit, offset, ..MemoryFilter::default() };
        for (limit, offset, expected) in
            [(5, 0, 0..20), (30, 0, 0..30), (5, 18, 0..23), (5, 20, 20..25), (5, 70, 60..60)]
        {
            assert_eq!(read_for(&fused, &filter(limit, offset)), &fused[expected], "{limit} from {offset}");
        }
        let alone = fuse(&alike(&all), &[], 1.0);
        assert_eq!(read_for(&alone, &filter(5, 2)), &alone[2..7]);
    }

    #[test]
    fn each_order_is_looked_at_deep_enough_for_the_page() {
        let filter = |limit, offset| MemoryFilter { limit, offset, ..MemoryFilter::default() };
        for (by, limit, offset, lexical, vector, fused) in [
            (Retrieval::Hybrid, 5, 0, 200, 50, 50),
            (Retrieval::Hybrid, 100, 0, 300, 300, 300),
            (Retrieval::Hybrid, 100, 400, 1_500, 1_500, 1_500),
            (Retrieval::Lexical, 5, 0, 200, 0, 50),
            (Retrieval::Vector, 5, 0, 0, 50, 50),
            (Retrieval::Hybrid, usize::MAX, 7, usize::MAX, usize::MAX, usize::MAX),
        ] {
            assert_eq!(Depth::of(by, &filter(limit, offset)), Depth { lexical, vector, fused });
        }
    }

    #[test]
    fn what_is_far_in_proportion_to_the_nearest_does_not_stand_beside_words() {
        let near = |cosines: &[f32]| -> Vec<Near> {
            (0..).zip(cosines).map(|(seq, &cosine)| Near { seq, cosine }).collect()
        };
        for (cosines, expected) in
            [(vec![], 0), (vec![0.3], 1), (vec![0.8, 0.6, 0.3, 0.2], 2), (vec![0.4, 0.3, 0.21], 3)]
        {
            assert_eq!(comparable(&near(&cosines)).len(), expected, "{cosines:?}");
        }
    }

    #[test]
    fn a_page_beyond_the_end_is_empty() {
        let fused = fuse(&alike(&[1, 2, 3]), &[], 1.0);
        for (limit, offset, expected) in
            [(2, 0, 2), (2, 2, 1), (2, 3, 0), (2, 9, 0), (0, 1, 0), (usize::MAX, 1, 2)]
        {
            let filter = MemoryFilter { limit, offset, ..MemoryFilter::default() };
            assert_eq!(page(&fused, &filter).len(), expected, "{limit} from {offset}");
        }
    }

    #[test]
    fn a_score_is_the_larger_of_both_and_falls() {
        let made = scores([
            (Some(0.5), Some(0.75)),
            (Some(1.0), None),
            (None, Some(-0.5)),
            (Some(0.9), Some(0.1)),
            (None, None),
        ]);
        assert_eq!(made, [0.75, 0.75, 0.0, 0.0, 0.0]);
        assert_eq!(scores([(Some(7.0), None)]), [1.0]);
    }

    proptest! {
        #[test]
        fn fusing_loses_nothing_adds_nothing_and_keeps_each_order_of_what_it_alone_found(
            lexical in prop::collection::hash_set(0..60_i64, 0..40),
            vector in prop::collection::hash_set(0..60_i64, 0..40),
        ) {
            let (lexical, vector): (Vec<i64>, Vec<i64>) =
                (lexical.into_iter().collect(), vector.into_iter().collect());
            let fused = fuse(&alike(&lexical), &near(&vector), 0.7);
            let mut all: Vec<i64> = lexical.iter().chain(&vector).copied().collect();
            all.sort_unstable();
            all.dedup();
            let mut found: Vec<i64> = fused.iter().map(|fused| fused.seq).collect();
            prop_assert!(fused.is_sorted_by(|one, two| one.weight() >= two.weight()));
            for (one, other) in [(&lexical, &vector), (&vector, &lexical)] {
                let alone = |seq: &&i64| one.contains(seq) && !other.contains(seq);
                let kept: Vec<&i64> = found.iter().filter(alone).collect();
                prop_assert_eq!(kept, one.iter().filter(alone).collect::<Vec<_>>());
            }
            for fused in &fused {
                prop_assert_eq!(fused.lexical, lexical.iter().position(|seq| *seq == fused.seq));
                prop_assert_eq!(fused.cosine.is_some(), vector.contains(&fused.seq));
            }
            found.sort_unstable();
            prop_assert_eq!(found, all);
        }

        #[test]
        fn pages_put_together_are_the_whole(count in 0..50_i64, limit in 1..9_usize) {
            let seqs: Vec<i64> = (0..count).collect();
            let fused = fuse(&alike(&seqs), &[], 1.0);
            let mut whole = Vec::new();
            for offset in (0..60).step_by(limit) {
                let filter = MemoryFilter { limit, offset, ..MemoryFilter::default() };
                whole.extend_from_slice(page(&fused, &filter));
            }
            prop_assert_eq!(whole, fused);
        }
    }
}
