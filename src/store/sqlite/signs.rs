//! Which of many vectors differ from one in the fewest signs.
//!
//! The signs of 256 vectors lie side by side, those of one number in one word: so the differences of all of them are
//! counted at once, a bit of every count at a time, without an instruction that not every processor has. The counts are
//! kept that way as well, and whoever is among the least is found from their highest bits down.

/// Vectors whose signs lie side by side.
pub(super) const BLOCK: usize = 256;

/// One bit for each vector of a block.
type Bits = [u64; BLOCK / 64];

/// Bits of a count of differing signs, the lowest first; vectors are shorter than the numbers that this can count.
const PLANES_MAX: usize = 16;

/// The signs of whole blocks of vectors.
#[derive(Clone, Debug, Default)]
pub(super) struct Signs(Vec<Bits>);

impl Signs {
    /// Those of vectors of so many numbers as `dimension`, one after the other. Of vectors beyond the last whole block
    /// nothing is kept.
    pub(super) fn of(numbers: &[i8], dimension: usize) -> Self {
        let mut signs = Vec::new();
        for block in numbers.chunks_exact(dimension.max(1) * BLOCK) {
            let from = signs.len();
            signs.resize(from + dimension, Bits::default());
            for (place, vector) in block.chunks_exact(dimension).enumerate() {
                for (bits, number) in signs[from..].iter_mut().zip(vector) {
                    bits[place / 64] |= u64::from(*number < 0) << (place % 64);
                }
            }
        }
        Self(signs)
    }

    /// How many vectors these are of.
    pub(super) fn vectors(&self, dimension: usize) -> usize {
        self.0.len() / dimension.max(1) * BLOCK
    }
}

/// How many signs vectors differ in.
#[derive(Debug)]
pub(super) struct Differing {
    /// For each number, every bit the sign that it is compared with.
    query: Vec<u64>,
    /// Bits of one count.
    planes: usize,
    /// Of each block, the counts.
    counts: Vec<Bits>,
}

impl Differing {
    /// From a vector of these numbers; `None` where they are too many to be counted.
    pub(super) fn from(query: &[i8]) -> Option<Self> {
        let query: Vec<u64> = query.iter().map(|number| if *number < 0 { u64::MAX } else { 0 }).collect();
        let planes = (usize::BITS - query.len().leading_zeros()) as usize;
        (planes > 0 && planes <= PLANES_MAX).then_some(Self { query, planes, counts: Vec::new() })
    }

    /// Counts those of further vectors.
    pub(super) fn count(&mut self, signs: &Signs) {
        for block in signs.0.chunks_exact(self.query.len()) {
            let counts = self.counted(block);
            self.counts.extend_from_slice(&counts[..self.planes]);
        }
    }

    /// The counts of one block. Carry-save adders (Harley and Seal; Muła, Kurz and Lemire, "Faster Population Counts Using
    /// AVX2 Instructions", 2018, section 3.3): seven of them take in eight words.
    fn counted(&self, block: &[Bits]) -> [Bits; PLANES_MAX] {
        let mut counts = [[0; BLOCK / 64]; PLANES_MAX];
        let (eights, rest) = block.as_chunks::<8>();
        let (query_eights, query_rest) = self.query.as_chunks::<8>();
        for (words, query) in eights.iter().zip(query_eights) {
            let word = |nth: usize| differing(words[nth], query[nth]);
            let (ones, two_a) = added(counts[0], word(0), word(1));
            let (ones, two_b) = added(ones, word(2), word(3));
            let (twos, four_a) = added(counts[1], two_a, two_b);
            let (ones, two_a) = added(ones, word(4), word(5));
            let (ones, two_b) = added(ones, word(6), word(7));
            let (twos, four_b) = added(twos, two_a, two_b);
            let (fours, eight) = added(counts[2], four_a, four_b);
            (counts[0], counts[1], counts[2]) = (ones, twos, fours);
            carry(&mut counts[3..self.planes.max(3)], eight);
        }
        for (word, query) in rest.iter().zip(query_rest) {
            carry(&mut counts[..self.planes], differing(*word, *query));
        }
        counts
    }

    /// The places of the `wanted` vectors that differ in the fewest signs, and of all that differ in no more than the last
    /// of these; in order.
    pub(super) fn least(&self, wanted: usize) -> Vec<usize> {
        let blocks: Vec<&[Bits]> = self.counts.chunks_exact(self.planes).collect();
        // Those that may be the last one wanted, and those that differ in fewer signs than it.
        let mut last = vec![[u64::MAX; BLOCK / 64]; blocks.len()];
        let mut fewer = vec![Bits::default(); blocks.len()];
        let mut wanted = wanted.min(blocks.len() * BLOCK);
        for plane in (0..self.planes).rev() {
            let low = |(last, block): (&Bits, &&[Bits])| -> usize {
                last.iter().zip(&block[plane]).map(|(last, high)| (last & !high).count_ones() as usize).sum()
            };
            let many: usize = last.iter().zip(&blocks).map(low).sum();
            let is_low = many >= wanted;
            if !is_low {
                wanted -= many;
            }
            for ((last, fewer), block) in last.iter_mut().zip(&mut fewer).zip(&blocks) {
                for ((last, fewer), high) in last.iter_mut().zip(fewer).zip(block[plane]) {
                    if is_low {
                        *last &= !high;
                    } else {
                        *fewer |= *last & !high;
                        *last &= high;
                    }
                }
            }
        }
        let mut places = Vec::new();
        let words = last.as_flattened().iter().zip(fewer.as_flattened());
        for (at, (last, fewer)) in words.enumerate() {
            let mut chosen = last | fewer;
            while chosen != 0 {
                places.push(at * 64 + chosen.trailing_zeros() as usize);
                chosen &= chosen - 1;
            }
        }
        places
    }
}

/// Where the bits are not those of `query`. (Loops over the words of [`Bits`] become one instruction or two; an iterator or
/// a closure for each became a call.)
#[inline]
fn differing(mut bits: Bits, query: u64) -> Bits {
    for bits in &mut bits {
        *bits ^= query;
    }
    bits
}

/// The sums of three bits each, and what is carried.
#[inline]
fn added(one: Bits, two: Bits, three: Bits) -> (Bits, Bits) {
    let mut sums = ([0; BLOCK / 64], [0; BLOCK / 64]);
    for at in 0..BLOCK / 64 {
        let differ = one[at] ^ two[at];
        sums.0[at] = differ ^ three[at];
        sums.1[at] = one[at] & two[at] | differ & three[at];
    }
    sums
}

/// Adds a bit to counts, from their first plane on.
#[inline]
fn carry(planes: &mut [Bits], mut bits: Bits) {
    for plane in planes {
        for at in 0..BLOCK / 64 {
            (plane[at], bits[at]) = (plane[at] ^ bits[at], plane[at] & bits[at]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_least_are_those_that_counting_one_by_one_finds(
            dimension in 1..70_usize, blocks in 0..4_usize, seed: u64, wanted in 0..1_100_usize
        ) {
            let mut state = seed | 1;
            let mut number = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                i8::from_le_bytes([state.to_le_bytes()[3]])
            };
            let query: Vec<i8> = (0..dimension).map(|_| number()).collect();
            let numbers: Vec<i8> = (0..blocks * BLOCK * dimension).map(|_| number()).collect();
            let signs = Signs::of(&numbers, dimension);
            prop_assert_eq!(signs.vectors(dimension), blocks * BLOCK);
            let mut differing = Differing::from(&query).unwrap();
            differing.count(&signs);
            let counts: Vec<usize> = numbers
                .chunks_exact(dimension)
                .map(|vector| vector.iter().zip(&query).filter(|(one, two)| (**one < 0) != (**two < 0)).count())
                .collect();
            let mut sorted = counts.clone();
            sorted.sort_unstable();
            let most = sorted.get(wanted.clamp(1, sorted.len().max(1)) - 1);
            let expected: Vec<usize> =
                (0..counts.len()).filter(|place| most.is_some_and(|most| counts[*place] <= *most)).collect();
            prop_assert_eq!(differing.least(wanted.max(1)), expected);
        }
    }

    #[test]
    fn what_no_count_fits_is_not_counted() {
        assert!(Differing::from(&[]).is_none());
        assert!(Differing::from(&vec![0; 65_535]).is_some());
        assert!(Differing::from(&vec![0; 65_536]).is_none());
    }
}
