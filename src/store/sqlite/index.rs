//! The vectors of a store in memory, one byte a number: what a search by meaning looks through. Whatever is found here
//! is a candidate only; the file says what it is and who may see it.
//!
//! Kept per audience, loaded when a search first needs it, at most so many bytes in all: beyond that, the audience that
//! was searched the longest ago goes, and is loaded again when it is needed.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use simsimd::SpatialSimilarity as _;

use super::signs::{BLOCK, Differing, Signs};

/// Vectors that are copied at most where one is added or taken out while a search reads them.
const CHUNK_VECTORS: usize = 4 * BLOCK;
/// Bytes of a vector beside its numbers and their signs.
const VECTOR_BYTES: usize = 12;
/// From so many vectors on, only those are compared whose signs differ least from those of what is looked for.
const SCREENED_VECTORS: usize = 8_192;
/// One of so many is compared then, and so many at least.
const SCREENED_SHARE: usize = 32;
const SCREENED_LEAST: usize = 2_000;
/// Most by which a similarity of bytes differs from the exact one, for vectors of length 1: four times what was
/// measured on the table in the binary.
pub(super) const ERROR_MAX: f32 = 0.02;

/// A vector with one byte a number.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Small {
    /// What a byte is to be multiplied with; 0 where all numbers are.
    pub(super) scale: f32,
    pub(super) numbers: Vec<i8>,
}

impl Small {
    pub(super) fn of(exact: &[f32]) -> Self {
        let largest = exact.iter().fold(0.0_f32, |largest, number| largest.max(number.abs()));
        if largest == 0.0 || exact.iter().any(|number| !number.is_finite()) {
            return Self { scale: 0.0, numbers: vec![0; exact.len()] };
        }
        let scale = largest / 127.0;
        // From -127 to 127 by the choice of the scale.
        Self { scale, numbers: exact.iter().map(|number| (number / scale).round() as i8).collect() }
    }
}

/// A vector as it comes from the file.
#[derive(Debug)]
pub(super) struct Entry {
    /// In which order it was stored.
    pub(super) change: i64,
    pub(super) seq: i64,
    pub(super) small: Small,
}

/// What was read of an audience.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    pub(super) audience: &'a str,
    /// What came after this change; everything where `None`.
    pub(super) since: Option<i64>,
    pub(super) entries: &'a [Entry],
    /// There was nothing later.
    pub(super) upto: i64,
}

#[derive(Clone, Debug, Default)]
struct Chunk {
    /// 0 where the memory is gone.
    seqs: Vec<i64>,
    scales: Vec<f32>,
    numbers: Vec<i8>,
    /// Of a full chunk.
    signs: Signs,
}

/// What is known of one audience.
#[derive(Debug, Default)]
struct Audience {
    chunks: Vec<Arc<Chunk>>,
    vectors: usize,
    gone: usize,
    /// The last change that is part of it.
    known: i64,
    used: u64,
}

#[derive(Debug, Default)]
struct State {
    /// Whose vectors these are, by its number in the file.
    model: i64,
    dimension: usize,
    audiences: HashMap<String, Audience>,
    clock: u64,
}

/// The vectors of one model.
#[derive(Debug)]
pub(super) struct Index {
    state: Mutex<State>,
    bytes_max: usize,
}

/// What a search looks through: as it was when it was asked for, whatever is added meanwhile.
#[derive(Clone, Debug, Default)]
pub(super) struct Scanned {
    chunks: Vec<Arc<Chunk>>,
    dimension: usize,
    /// How many there are.
    pub(super) vectors: usize,
}

impl Index {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { state: Mutex::default(), bytes_max }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing between the changes of a state can panic halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state for vectors of `model`; those of another are let go.
    fn state_of(&self, model: i64, dimension: usize) -> MutexGuard<'_, State> {
        let mut state = self.state();
        if state.model != model || state.dimension != dimension {
            *state = State { model, dimension, ..State::default() };
        }
        state
    }

    /// For each of `audiences`, the last change that is known; `None` where it is to be loaded.
    pub(super) fn known(&self, model: i64, dimension: usize, audiences: &[&str]) -> Vec<Option<i64>> {
        let state = self.state_of(model, dimension);
        audiences.iter().map(|name| state.audiences.get(*name).map(|audience| audience.known)).collect()
    }

    /// Takes what was stored for one of `audiences` up to the change `upto`: all of it, or what came after the change
    /// `since`, where that is part of what is known. Of what nobody uses so much is let go that there is room.
    pub(super) fn take(&self, model: i64, dimension: usize, audiences: &[&str], taken: &Taken<'_>) {
        let mut state = self.state_of(model, dimension);
        state.clock += 1;
        let clock = state.clock;
        match taken.since {
            None => {
                state.audiences.insert(taken.audience.to_owned(), Audience::default());
            }
            Some(since) => {
                if state.audiences.get(taken.audience).is_none_or(|audience| audience.known < since) {
                    return;
                }
            }
        }
        if let Some(audience) = state.audiences.get_mut(taken.audience) {
            audience.used = clock;
            for entry in taken.entries {
                // Somebody else may have brought the same.
                if entry.change > audience.known && entry.small.numbers.len() == dimension {
                    audience.push(entry);
                }
            }
            audience.known = audience.known.max(taken.upto);
        }
        state.make_room(self.bytes_max, audiences);
    }

    /// What is known of `audiences`, to be searched; `None` where something up to the change `newest` is not known.
    pub(super) fn scanned(
        &self,
        model: i64,
        dimension: usize,
        audiences: &[&str],
        newest: i64,
    ) -> Option<Scanned> {
        let mut state = self.state_of(model, dimension);
        state.clock += 1;
        let clock = state.clock;
        let mut scanned = Scanned { dimension, ..Scanned::default() };
        for name in audiences {
            let audience = state.audiences.get_mut(*name).filter(|audience| audience.known >= newest)?;
            audience.used = clock;
            scanned.vectors += audience.vectors;
            scanned.chunks.extend(audience.chunks.iter().cloned());
        }
        Some(scanned)
    }

    /// Takes out memories that are not in the file any more.
    pub(super) fn remove(&self, seqs: &[i64]) {
        let seqs: HashSet<i64> = seqs.iter().copied().collect();
        let mut state = self.state();
        for audience in state.audiences.values_mut() {
            audience.remove(&seqs);
        }
        // Half of it gone: loaded anew it takes half as much.
        state.audiences.retain(|_, audience| audience.gone * 2 <= audience.vectors);
    }
}

impl State {
    fn bytes(&self) -> usize {
        let bytes = self.dimension + self.dimension.div_ceil(8) + VECTOR_BYTES;
        self.audiences.values().map(|audience| audience.vectors * bytes).sum()
    }

    /// Lets go of what was used the longest ago; what is `wanted` now stays, however much it is.
    fn make_room(&mut self, bytes_max: usize, wanted: &[&str]) {
        while self.bytes() > bytes_max {
            let oldest = self
                .audiences
                .iter()
                .filter(|(name, audience)| audience.vectors > 0 && !wanted.contains(&name.as_str()))
                .min_by_key(|(_, audience)| audience.used)
                .map(|(name, _)| name.clone());
            let Some(oldest) = oldest else { return };
            self.audiences.remove(&oldest);
        }
    }
}

impl Audience {
    fn push(&mut self, entry: &Entry) {
        if self.chunks.last().is_none_or(|chunk| chunk.seqs.len() >= CHUNK_VECTORS) {
            self.chunks.push(Arc::default());
        }
        if let Some(chunk) = self.chunks.last_mut().map(Arc::make_mut) {
            chunk.seqs.push(entry.seq);
            chunk.scales.push(entry.small.scale);
            chunk.numbers.extend_from_slice(&entry.small.numbers);
            if chunk.seqs.len() == CHUNK_VECTORS {
                chunk.signs = Signs::of(&chunk.numbers, entry.small.numbers.len());
            }
            self.vectors += 1;
        }
    }

    fn remove(&mut self, seqs: &HashSet<i64>) {
        for chunk in &mut self.chunks {
            if chunk.seqs.iter().any(|seq| seqs.contains(seq)) {
                for seq in &mut Arc::make_mut(chunk).seqs {
                    if seqs.contains(seq) {
                        *seq = 0;
                        self.gone += 1;
                    }
                }
            }
        }
    }
}

impl Scanned {
    /// All whose similarity to `query` is at least `floor`, but for the error of the bytes. Of many vectors, only a share
    /// that is likely to have the nearest is looked at, unless `is_thorough`.
    pub(super) fn near(&self, query: &Small, floor: f32, is_thorough: bool) -> Ranked {
        if self.dimension == 0 || query.numbers.len() != self.dimension || query.scale == 0.0 {
            return Ranked::new(Vec::new());
        }
        let is_screened = !is_thorough && self.vectors >= SCREENED_VECTORS;
        let screened = if is_screened { self.screened(query) } else { None };
        let is_all = screened.is_none();
        // Compared first and chosen then: a processor that need not guess what is chosen has several vectors on their way.
        let mut all: Vec<(f32, i64)> = Vec::new();
        let places = screened.unwrap_or_else(|| self.places().collect());
        all.extend(places.into_iter().map(|(nth, at)| {
            let (chunk, at) = (&self.chunks[nth as usize], at as usize);
            let numbers = &chunk.numbers[at * self.dimension..(at + 1) * self.dimension];
            let product = i8::dot(numbers, &query.numbers).unwrap_or(0.0) as f32;
            (product * chunk.scales[at] * query.scale, chunk.seqs[at])
        }));
        all.retain(|(weight, seq)| *weight >= floor - ERROR_MAX && *seq != 0);
        Ranked { is_all, ..Ranked::new(all) }
    }

    /// Where all vectors are: the chunk, and the place in it.
    fn places(&self) -> impl Iterator<Item = (u32, u32)> {
        let chunks = self.chunks.iter().enumerate();
        chunks.flat_map(|(nth, chunk)| (0..chunk.seqs.len()).map(move |at| (nth as u32, at as u32)))
    }

    /// Where those vectors are that differ from `query` in the fewest signs, and the last ones that came. `None` where that
    /// cannot be counted.
    fn screened(&self, query: &Small) -> Option<Vec<(u32, u32)>> {
        let mut differing = Differing::from(&query.numbers)?;
        let (full, rest): (Vec<_>, Vec<_>) =
            (0_u32..).zip(&self.chunks).partition(|(_, chunk)| chunk.signs.vectors(self.dimension) > 0);
        for (_, chunk) in &full {
            differing.count(&chunk.signs);
        }
        let wanted = (self.vectors / SCREENED_SHARE).max(SCREENED_LEAST);
        let least = differing.least(wanted).into_iter();
        let least = least.map(|place| (full[place / CHUNK_VECTORS].0, (place % CHUNK_VECTORS) as u32));
        let rest =
            rest.into_iter().flat_map(|(nth, chunk)| (0..chunk.seqs.len()).map(move |at| (nth, at as u32)));
        Some(least.chain(rest).collect())
    }
}

/// Candidates of which the best come first, as far as somebody looks.
#[derive(Debug)]
pub(super) struct Ranked {
    all: Vec<(f32, i64)>,
    sorted: usize,
    /// Whether nothing was left out that may be as good.
    pub(super) is_all: bool,
}

impl Ranked {
    /// By weight, then newest first.
    pub(super) fn new(all: Vec<(f32, i64)>) -> Self {
        Self { all, sorted: 0, is_all: true }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The next `count` of them after the first `from`.
    pub(super) fn next(&mut self, from: usize, count: usize) -> &[(f32, i64)] {
        let upto = from.saturating_add(count).min(self.all.len());
        if self.sorted < upto {
            let order = |one: &(f32, i64), two: &(f32, i64)| -> Ordering {
                two.0.total_cmp(&one.0).then(two.1.cmp(&one.1))
            };
            let rest = &mut self.all[self.sorted..];
            let wanted = upto - self.sorted;
            if wanted < rest.len() {
                rest.select_nth_unstable_by(wanted, order);
            }
            rest[..wanted].sort_unstable_by(order);
            self.sorted = upto;
        }
        &self.all[from.min(upto)..upto]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn unit(numbers: &[f32]) -> Vec<f32> {
        let length = numbers.iter().map(|n| n * n).sum::<f32>().sqrt();
        numbers.iter().map(|n| n / length).collect()
    }

    fn entries(range: std::ops::Range<i64>) -> Vec<Entry> {
        range
            .map(|n| {
                let angle = n as f32 / 1_000.0;
                let small = Small::of(&[angle.cos(), angle.sin(), 0.0, 0.0]);
                Entry { change: n, seq: n, small }
            })
            .collect()
    }

    fn take(index: &Index, name: &str, since: Option<i64>, range: std::ops::Range<i64>) {
        let taken = Taken { audience: name, since, upto: range.end - 1, entries: &entries(range) };
        index.take(1, 4, &[name], &taken);
    }

    fn found(index: &Index, audiences: &[&str]) -> Vec<i64> {
        let mut ranked =
            index.scanned(1, 4, audiences, 0).unwrap().near(&Small::of(&[1.0, 0.0, 0.0, 0.0]), 0.0, false);
        ranked.next(0, usize::MAX).iter().map(|(_, seq)| *seq).collect()
    }

    #[test]
    fn what_is_taken_twice_is_there_once() {
        let index = Index::new(1 << 20);
        assert_eq!(index.known(1, 4, &["a"]), [None]);
        take(&index, "a", None, 1..4);
        take(&index, "a", Some(1), 2..6);
        take(&index, "a", Some(0), 1..3);
        // What would leave a gap, or nothing before it, is not taken.
        take(&index, "a", Some(6), 7..8);
        take(&index, "b", Some(0), 1..3);
        assert_eq!(index.known(1, 4, &["a", "b"]), [Some(5), None]);
        assert_eq!(found(&index, &["a"]), [1, 2, 3, 4, 5]);
        assert!(index.scanned(1, 4, &["a"], 5).is_some());
        assert!(index.scanned(1, 4, &["a"], 6).is_none());
        assert!(index.scanned(1, 4, &["a", "b"], 0).is_none());
    }

    #[test]
    fn a_search_sees_what_was_there_when_it_began() {
        let index = Index::new(1 << 20);
        take(&index, "a", None, 1..3);
        let before = index.scanned(1, 4, &["a"], 2).unwrap();
        take(&index, "a", Some(2), 3..5);
        index.remove(&[1]);
        let mut ranked = before.near(&Small::of(&[1.0, 0.0, 0.0, 0.0]), 0.0, false);
        assert_eq!(ranked.next(0, 9).len(), 2);
        assert_eq!(found(&index, &["a"]), [2, 3, 4]);
    }

    #[test]
    fn another_model_lets_go_of_what_was_known() {
        let index = Index::new(1 << 20);
        take(&index, "a", None, 1..3);
        assert_eq!(index.known(2, 4, &["a"]), [None]);
        assert_eq!(index.known(1, 4, &["a"]), [None]);
    }

    #[test]
    fn beyond_the_bytes_the_audience_used_the_longest_ago_goes() {
        let index = Index::new(2 * 10 * (4 + 1 + VECTOR_BYTES));
        for name in ["a", "b"] {
            take(&index, name, None, 1..11);
        }
        index.scanned(1, 4, &["a"], 10).unwrap();
        take(&index, "c", None, 1..3);
        assert_eq!(index.known(1, 4, &["a", "b", "c"]), [Some(10), None, Some(2)]);
        // One that is larger than all bytes is kept while it is the last one used.
        take(&index, "d", None, 1..101);
        assert_eq!(index.known(1, 4, &["a", "c", "d"]), [None, None, Some(100)]);
    }

    #[test]
    fn many_chunks_are_searched_and_half_of_them_gone_are_loaded_anew() {
        let index = Index::new(1 << 30);
        take(&index, "a", None, 1..1_400);
        assert_eq!(found(&index, &["a"]).len(), 1_399);
        index.remove(&(1..600).collect::<Vec<_>>());
        assert_eq!(found(&index, &["a"]).len(), 800);
        index.remove(&(600..800).collect::<Vec<_>>());
        assert_eq!(index.known(1, 4, &["a"]), [None]);
    }

    #[test]
    fn of_many_vectors_the_nearest_are_looked_at() {
        let index = Index::new(1 << 30);
        let many = i64::try_from(SCREENED_VECTORS).unwrap() + 100;
        let mut entries = entries(1..many);
        for entry in &mut entries {
            // Spread over all directions by a multiplier of a linear congruential generator.
            let mut state = entry.seq as u64;
            let numbers: Vec<f32> = (0..64)
                .map(|_| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 40) as f32 / (1 << 23) as f32 - 1.0
                })
                .collect();
            entry.small = Small::of(&unit(&numbers));
        }
        let query = entries[4_711].small.clone();
        index.take(1, 64, &["a"], &Taken { audience: "a", since: None, entries: &entries, upto: many });
        let scanned = index.scanned(1, 64, &["a"], 0).unwrap();
        let (mut some, mut all) = (scanned.near(&query, 0.2, false), scanned.near(&query, 0.2, true));
        assert!(!some.is_all && all.is_all);
        assert!(some.len() < all.len());
        assert_eq!(some.next(0, 10), all.next(0, 10));
        assert_eq!(some.next(0, 1)[0].1, 4_712);
    }

    #[test]
    fn numbers_that_are_none_are_like_nothing() {
        for odd in [[f32::NAN, 1.0, 0.0, 0.0], [f32::INFINITY, 1.0, 0.0, 0.0], [0.0; 4]] {
            let small = Small::of(&odd);
            assert_eq!(small, Small { scale: 0.0, numbers: vec![0; 4] });
            let index = Index::new(1 << 20);
            take(&index, "a", None, 1..3);
            assert_eq!(index.scanned(1, 4, &["a"], 0).unwrap().near(&small, 0.1, false).len(), 0);
        }
    }

    proptest! {
        #[test]
        fn a_similarity_of_bytes_is_nearly_the_exact_one(
            pair in prop::collection::vec((-1.0_f32..1.0, -1.0_f32..1.0), 256..=256)
        ) {
            let (one, two): (Vec<f32>, Vec<f32>) = pair.into_iter().unzip();
            prop_assume!(one.iter().chain(&two).any(|n| n.abs() > 0.1));
            let (one, two) = (unit(&one), unit(&two));
            let exact: f32 = one.iter().zip(&two).map(|(a, b)| a * b).sum();
            let index = Index::new(1 << 20);
            let entries = [Entry { change: 1, seq: 1, small: Small::of(&one) }];
            index.take(1, 256, &["a"], &Taken { audience: "a", since: None, entries: &entries, upto: 1 });
            let mut ranked = index.scanned(1, 256, &["a"], 1).unwrap().near(&Small::of(&two), -2.0, false);
            prop_assert!((ranked.next(0, 1)[0].0 - exact).abs() < ERROR_MAX);
        }

        #[test]
        fn candidates_come_in_one_order_however_far_one_looks(
            weights in prop::collection::vec(0..20_u8, 0..60), step in 1..20_usize
        ) {
            let all: Vec<(f32, i64)> =
                (0..).zip(&weights).map(|(seq, weight)| (f32::from(*weight), seq)).collect();
            let mut sorted = all.clone();
            sorted.sort_by(|one, two| two.0.total_cmp(&one.0).then(two.1.cmp(&one.1)));
            let mut ranked = Ranked::new(all);
            let mut got = Vec::new();
            for from in (0..80).step_by(step) {
                got.extend_from_slice(ranked.next(from, step));
            }
            prop_assert_eq!(got, sorted);
        }
    }
}
