//! Which sums of `vpmaddubsw` fit 16 bits, proven from the weights.
//!
//! The instruction adds two products of a code and a weight, and saturates. With codes of at most
//! 255, a sum of products stays in 16 bits, in any order of addition, as long as its positive
//! weights add up to at most [`LIMIT`], and its negative ones too. So blocks of weights may be
//! added up in 16 bits, without the `vpmaddwd` that widens, as long as every lane keeps to that:
//! the more blocks per *span*, the fewer instructions. Which blocks share a span is free, because a
//! sum has no order, and a block beyond the limit by itself is the sum of two that are not.
//!
//! All of a network's weights pass through here before its first result, so that it has to be quick:
//! a lane's sums are bytes, and whether two spans fit is a handful of instructions.

use super::block::Block;
use std::arch::x86_64::*;
use std::ops::Range;

/// The greatest sum of the weights of one sign in a lane: 255 · 128 = 32640 < 2¹⁵.
const LIMIT: u8 = 128;

/// Spans are `1 << level` blocks, for levels below this.
pub(super) const LEVELS: usize = 6;

/// Candidates looked at for a partner, from either end, by the level of the span: more find few more
/// pairs, and pairs of pairs gain little.
const CANDIDATES: [usize; LEVELS] = [12, 4, 4, 4, 4, 4];

/// The most blocks of a sum.
pub(super) const MOST: usize = 512;

/// Blocks in the order in which they are to be added, one sum behind the other.
#[derive(Default)]
pub(super) struct Arrangement {
    pub(super) blocks: Vec<Block>,
    /// For each block the index, within its sum, of the given block whose inputs it takes.
    pub(super) sources: Vec<u16>,
}

impl Arrangement {
    /// Room for so many blocks. All of them may be cut in two, and to grow would mean to copy; memory
    /// that is never touched costs nothing.
    pub(super) fn with_capacity(blocks: usize) -> Arrangement {
        Arrangement {
            blocks: Vec::with_capacity(2 * blocks),
            sources: Vec::with_capacity(2 * blocks),
        }
    }
}

/// Arranges the blocks of one sum after the other, in memory that it keeps.
#[derive(Default)]
pub(super) struct Arranger {
    /// The blocks of the sum; what is cut off comes behind those that were given.
    pub(super) blocks: Vec<Block>,
    /// For each of them the given block.
    sources: Vec<u16>,
    /// For each of them the one after it in the same span.
    next: Vec<u16>,
    spans: Vec<Span>,
    /// Parallel to the spans.
    reaches: Vec<Reach>,
    /// The spans of a level, those with the least room left first.
    order: Vec<u16>,
    /// By level, the spans that found no partner.
    alone: [Vec<u16>; LEVELS],
}

/// Blocks that are added in 16 bits, as a linked list.
#[derive(Clone, Copy)]
struct Span {
    first: u16,
    last: u16,
    /// The greatest sum of any lane.
    greatest: u8,
}

impl Arranger {
    /// Puts [`blocks`](Arranger::blocks), at most [`MOST`], behind what was arranged before: spans
    /// one after the other, the longest first. Returns the number of spans of `1 << level` blocks,
    /// by level.
    #[target_feature(enable = "avx2")]
    pub(super) fn arrange(&mut self, to: &mut Arrangement) -> [u16; LEVELS] {
        assert!(self.blocks.len() <= MOST);
        self.start();
        let mut level_spans = 0..self.spans.len();
        for level in 0..LEVELS {
            self.alone[level].clear();
            if level + 1 == LEVELS {
                let rest = level_spans.clone().map(|span| span as u16);
                self.alone[level].extend(rest);
            } else {
                level_spans = self.join(level_spans, level);
            }
        }
        for (level, spans) in self.alone.iter().enumerate().rev() {
            for &span in spans {
                let mut block = usize::from(self.spans[usize::from(span)].first);
                for _ in 0..1 << level {
                    to.blocks.push(self.blocks[block]);
                    to.sources.push(self.sources[block]);
                    block = usize::from(self.next[block]);
                }
            }
        }
        std::array::from_fn(|level| self.alone[level].len() as u16)
    }

    /// A span for each block, after those beyond the limit are cut in two.
    #[target_feature(enable = "avx2")]
    fn start(&mut self) {
        let given = self.blocks.len();
        self.sources.clear();
        self.sources.extend(0..given as u16);
        self.spans.clear();
        self.reaches.clear();
        for index in 0..given {
            let mut reach = Reach::of(&self.blocks[index]);
            if reach.greatest() > LIMIT {
                let [block, rest] = cut(&self.blocks[index]);
                reach = Reach::of(&block);
                self.blocks[index] = block;
                self.blocks.push(rest);
                self.sources.push(index as u16);
            }
            self.push(index, index, reach);
        }
        for index in given..self.blocks.len() {
            self.push(index, index, Reach::of(&self.blocks[index]));
        }
        // Only blocks that have one are asked for their next.
        self.next.resize(self.blocks.len(), 0);
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn push(&mut self, first: usize, last: usize, reach: Reach) {
        self.spans.push(Span {
            first: first as u16,
            last: last as u16,
            greatest: reach.greatest(),
        });
        self.reaches.push(reach);
    }

    /// Joins the spans of a level by twos where every lane allows it; returns the pairs.
    ///
    /// Greedy: the span with the least room left goes first, and takes the one with the next least
    /// room that fits.
    #[target_feature(enable = "avx2")]
    fn join(&mut self, spans: Range<usize>, level: usize) -> Range<usize> {
        let pairs = self.spans.len();
        self.sort(&spans);
        let mut open = Open::new(spans.len());
        while let Some(position) = open.pop() {
            let span = usize::from(self.order[position]);
            let Some(partner) = self.partner(&open, self.reaches[span], CANDIDATES[level]) else {
                self.alone[level].push(span as u16);
                continue;
            };
            open.remove(partner);
            let other = usize::from(self.order[partner]);
            let [own, others] = [self.spans[span], self.spans[other]];
            self.next[usize::from(own.last)] = others.first;
            let reach = self.reaches[span].plus(self.reaches[other]);
            self.push(own.first.into(), others.last.into(), reach);
        }
        pairs..self.spans.len()
    }

    /// Orders spans by their greatest sum, by counting.
    fn sort(&mut self, spans: &Range<usize>) {
        let mut starts = [0u16; LIMIT as usize + 1];
        for span in &self.spans[spans.clone()] {
            starts[usize::from(LIMIT - span.greatest)] += 1;
        }
        let mut start = 0;
        for count in &mut starts {
            start += std::mem::replace(count, start);
        }
        self.order.clear();
        self.order.resize(spans.len(), 0);
        for (index, span) in spans.clone().zip(&self.spans[spans.clone()]) {
            let place = &mut starts[usize::from(LIMIT - span.greatest)];
            self.order[usize::from(*place)] = index as u16;
            *place += 1;
        }
    }

    /// Of the open positions the first that fits, or else the last.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn partner(&self, open: &Open, reach: Reach, candidates: usize) -> Option<usize> {
        let fits = |position: usize| {
            let span = usize::from(self.order[position]);
            reach.fits(self.reaches[span])
        };
        let mut left = candidates;
        for word in open.within.clone() {
            let mut bits = open.words[word];
            while bits != 0 && left > 0 {
                let position = 64 * word + bits.trailing_zeros() as usize;
                if fits(position) {
                    return Some(position);
                }
                bits &= bits - 1;
                left -= 1;
            }
        }
        if left > 0 {
            return None;
        }
        left = candidates;
        for word in open.within.clone().rev() {
            let mut bits = open.words[word];
            while bits != 0 && left > 0 {
                let position = 64 * word + bits.ilog2() as usize;
                if fits(position) {
                    return Some(position);
                }
                bits ^= 1 << bits.ilog2();
                left -= 1;
            }
        }
        None
    }
}

/// The positions in the order of a level whose spans have no partner yet.
struct Open {
    /// As many bits as there can be spans: all blocks of a sum, each cut in two.
    words: [u64; 2 * MOST / 64],
    /// The words that may have bits.
    within: Range<usize>,
}

impl Open {
    fn new(count: usize) -> Open {
        let mut words = [0; 2 * MOST / 64];
        words[..count / 64].fill(u64::MAX);
        if !count.is_multiple_of(64) {
            words[count / 64] = (1 << (count % 64)) - 1;
        }
        Open {
            words,
            within: 0..count.div_ceil(64),
        }
    }

    /// Takes the first position out.
    fn pop(&mut self) -> Option<usize> {
        while self.words[self.within.clone()].first() == Some(&0) {
            self.within.start += 1;
        }
        let word = self.within.clone().next()?;
        let position = 64 * word + self.words[word].trailing_zeros() as usize;
        self.remove(position);
        Some(position)
    }

    fn remove(&mut self, position: usize) {
        self.words[position / 64] &= !(1 << (position % 64));
    }
}

/// The two blocks, both within [`LIMIT`], that add up to one that is not.
///
/// Only pairs of the same sign are beyond it. Half of such a pair goes into the second block, which
/// is 0 elsewhere, so that both have room for others.
#[target_feature(enable = "avx2")]
fn cut(block: &Block) -> [Block; 2] {
    let mut halves = block.halves();
    let mut rests = halves;
    for (half, rest) in halves.iter_mut().zip(&mut rests) {
        let sums = _mm256_maddubs_epi16(_mm256_set1_epi8(1), *half);
        let beyond = _mm256_cmpgt_epi16(_mm256_abs_epi16(sums), _mm256_set1_epi16(LIMIT.into()));
        // The first weight of a pair rounded down and the second up, so that no half is beyond.
        let (first, second) = (
            _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(*half)),
            _mm256_srai_epi16::<8>(*half),
        );
        let first = _mm256_srai_epi16::<1>(first);
        let second = _mm256_srai_epi16::<1>(_mm256_add_epi16(second, _mm256_set1_epi16(1)));
        let both = _mm256_blendv_epi8(
            _mm256_slli_epi16::<8>(second),
            first,
            _mm256_set1_epi16(0xff),
        );
        *rest = _mm256_and_si256(both, beyond);
        *half = _mm256_sub_epi8(*half, *rest);
    }
    [halves, rests].map(|halves| Block::from_halves(halves))
}

/// The sums of the positive and of the negative weights of each of 32 lanes, saturating: two
/// registers of bytes, in some order of the lanes.
#[derive(Clone, Copy)]
struct Reach([__m256i; 2]);

impl Reach {
    #[target_feature(enable = "avx2")]
    #[inline]
    fn of(block: &Block) -> Reach {
        let [low, high] = block.halves();
        let zero = _mm256_setzero_si256();
        let pairs = |weights| _mm256_maddubs_epi16(weights, _mm256_set1_epi8(1));
        // As unsigned bytes, which 128 fits too.
        let positive = |weights| pairs(_mm256_max_epi8(weights, zero));
        let negative = |weights| pairs(_mm256_sub_epi8(zero, _mm256_min_epi8(weights, zero)));
        Reach([
            _mm256_packus_epi16(positive(low), positive(high)),
            _mm256_packus_epi16(negative(low), negative(high)),
        ])
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn plus(self, other: Reach) -> Reach {
        Reach([0, 1].map(|sign| _mm256_adds_epu8(self.0[sign], other.0[sign])))
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn greatest(self) -> u8 {
        let either = _mm256_max_epu8(self.0[0], self.0[1]);
        let (low, high) = (
            _mm256_castsi256_si128(either),
            _mm256_extracti128_si256::<1>(either),
        );
        let lanes = _mm_max_epu8(low, high);
        let lanes = _mm_max_epu8(lanes, _mm_srli_epi16::<8>(lanes));
        // The least of what is left to 255; the odd bytes do not count.
        let left = _mm_andnot_si128(lanes, _mm_set1_epi16(0xff));
        255 - _mm_cvtsi128_si32(_mm_minpos_epu16(left)) as u8
    }

    /// Whether every lane of the sum of both is within the limit.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn fits(self, other: Reach) -> bool {
        let Reach([positive, negative]) = self.plus(other);
        let limit = _mm256_set1_epi8(LIMIT.cast_signed());
        let beyond = _mm256_subs_epu8(_mm256_max_epu8(positive, negative), limit);
        _mm256_testz_si256(beyond, beyond) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An arrangement and the checks that it must pass; `None` without AVX2.
    fn arranged(blocks: &[Block]) -> Option<[u16; LEVELS]> {
        if !is_x86_feature_detected!("avx2") {
            return None;
        }
        let mut spans = [0; LEVELS];
        let mut arranger = Arranger::default();
        let mut arrangement = Arrangement::default();
        // What an earlier sum leaves behind must not matter.
        for sum in [&blocks[blocks.len() / 2..], blocks] {
            (arrangement.blocks, arrangement.sources) = (Vec::new(), Vec::new());
            arranger.blocks = sum.to_vec();
            // SAFETY: the CPU has AVX2.
            spans = unsafe { arranger.arrange(&mut arrangement) };
        }
        let mut sums = vec![[0i32; 64]; blocks.len()];
        for (block, &source) in arrangement.blocks.iter().zip(&arrangement.sources) {
            for (sum, &w) in sums[usize::from(source)].iter_mut().zip(&block.0) {
                *sum += i32::from(w);
            }
        }
        for (sum, block) in sums.iter().zip(blocks) {
            assert_eq!(*sum, block.0.map(i32::from));
        }
        let mut start = 0;
        for level in (0..LEVELS).rev() {
            for _ in 0..spans[level] {
                let span = &arrangement.blocks[start..][..1 << level];
                start += span.len();
                for lane in 0..32 {
                    let weights = span.iter().flat_map(|block| &block.0[2 * lane..][..2]);
                    let weights = weights.map(|&w| 255 * i32::from(w));
                    let (lo, hi) =
                        weights.fold((0, 0), |(lo, hi), w| (lo + w.min(0), hi + w.max(0)));
                    assert!(lo >= i16::MIN.into() && hi <= i16::MAX.into(), "{lo} {hi}");
                }
            }
        }
        assert_eq!(start, arrangement.blocks.len());
        Some(spans)
    }

    #[test]
    fn spans_are_as_long_as_the_limit_allows() {
        for (a, b, blocks, spans) in [
            (64, 64, 3, [3, 0, 0, 0, 0, 0]),
            (-64, -64, 3, [3, 0, 0, 0, 0, 0]),
            (64, 65, 4, [4, 2, 0, 0, 0, 0]),
            (-128, -128, 2, [4, 0, 0, 0, 0, 0]),
            (127, 127, 1, [2, 0, 0, 0, 0, 0]),
            (127, -128, 1, [1, 0, 0, 0, 0, 0]),
            (32, 32, 5, [1, 2, 0, 0, 0, 0]),
            (33, 32, 2, [2, 0, 0, 0, 0, 0]),
            (8, -8, 32, [0, 0, 0, 0, 2, 0]),
            (8, 8, 17, [1, 0, 0, 2, 0, 0]),
            (1, 1, 70, [0, 1, 1, 0, 0, 2]),
        ] {
            let block = Block(std::array::from_fn(|i| if i % 2 == 0 { a } else { b }));
            if let Some(found) = arranged(&vec![block; blocks]) {
                assert_eq!(found, spans, "{a} {b}");
            }
        }
    }

    #[test]
    fn a_heavy_block_finds_a_light_one() {
        let lanes =
            |heavy: usize| Block(std::array::from_fn(|i| if i / 2 == heavy { 60 } else { 4 }));
        if let Some(found) = arranged(&[lanes(0), lanes(0), lanes(1), lanes(1)]) {
            assert_eq!(found, [0, 2, 0, 0, 0, 0]);
        }
    }

    #[test]
    fn noise_is_arranged_without_loss() {
        let mut state = 1u64;
        for reach in [128, 100, 60, 20, 5] {
            let blocks: Vec<Block> = (0..100)
                .map(|_| {
                    Block(std::array::from_fn(|_| {
                        state = state.wrapping_mul(6364136223846793005).wrapping_add(1);
                        ((state >> 33) as i64 % (2 * reach) - reach) as i8
                    }))
                })
                .collect();
            arranged(&blocks);
        }
    }
}
