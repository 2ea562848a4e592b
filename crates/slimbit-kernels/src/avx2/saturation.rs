//! Which sums of `vpmaddubsw` fit 16 bits, proven from the weights.
//!
//! The instruction adds two products of a code and a weight, and saturates. With codes of at most
//! 255, a sum of products stays in 16 bits, in any order of addition, as long as its positive
//! weights add up to at most [`LIMIT`], and its negative ones too. So blocks of weights may be
//! added up in 16 bits, without the `vpmaddwd` that widens, as long as every lane keeps to that:
//! the more blocks per *span*, the fewer instructions. Which blocks share a span is free, because a
//! sum has no order, and a block beyond the limit by itself is the sum of two that are not.

use std::cmp::Reverse;

/// The greatest sum of the weights of one sign in a lane: 255 · 128 = 32640 < 2¹⁵.
const LIMIT: u8 = 128;

/// Spans are `1 << level` blocks, for levels below this.
pub(super) const LEVELS: usize = 6;

/// Candidates looked at for a partner, from either end: more find few more pairs.
const CANDIDATES: usize = 24;

/// Four consecutive inputs of 16 channels: `[16 lanes][4 inputs]`.
#[derive(Clone)]
#[repr(C, align(64))]
pub(super) struct Block(pub(super) [i8; 64]);

/// Blocks in the order in which they are to be added: spans one after the other, the longest first.
#[derive(Default)]
pub(super) struct Arrangement {
    pub(super) blocks: Vec<Block>,
    /// For each block the index of the given block whose inputs it takes.
    pub(super) sources: Vec<u16>,
    /// The number of spans of `1 << level` blocks, by level.
    pub(super) spans: [usize; LEVELS],
}

impl Arrangement {
    /// Arranges the blocks of a sum: at most 2¹⁶.
    #[target_feature(enable = "avx2")]
    pub(super) fn new(given: Vec<Block>) -> Arrangement {
        let mut sources: Vec<u16> = (0..=u16::MAX).take(given.len()).collect();
        let mut blocks = given;
        let mut spans = Vec::with_capacity(2 * blocks.len());
        for index in 0..blocks.len() {
            let mut span = Span::new(&blocks[index], index);
            if span.greatest > LIMIT {
                let rest = cut(&mut blocks[index]);
                blocks.push(rest);
                sources.push(sources[index]);
                spans.push(Span::new(&blocks[blocks.len() - 1], blocks.len() - 1));
                span = Span::new(&blocks[index], index);
            }
            spans.push(span);
        }
        // `next[block]` is the block after it in the same span.
        let mut next = vec![usize::MAX; blocks.len()];
        let mut levels: [Vec<Span>; LEVELS] = Default::default();
        for level in 0..LEVELS {
            if level + 1 == LEVELS {
                levels[level] = std::mem::take(&mut spans);
            } else {
                (spans, levels[level]) = join(spans, &mut next);
            }
        }
        let mut arrangement = Arrangement::default();
        for (level, spans) in levels.iter().enumerate().rev() {
            arrangement.spans[level] = spans.len();
            for span in spans {
                let mut block = span.first;
                for _ in 0..1 << level {
                    arrangement.blocks.push(blocks[block].clone());
                    arrangement.sources.push(sources[block]);
                    block = next[block];
                }
            }
        }
        arrangement
    }
}

/// Takes what exceeds [`LIMIT`] out of the lanes of a block, as a block of its own.
fn cut(block: &mut Block) -> Block {
    let mut rest = Block([0; 64]);
    let (lanes, _) = block.0.as_chunks_mut::<2>();
    let (rests, _) = rest.0.as_chunks_mut::<2>();
    for (lane, rest) in lanes.iter_mut().zip(rests) {
        for sign in [1, -1] {
            let of_sign = |w: i8| (sign * i16::from(w)).max(0);
            let mut excess = of_sign(lane[0]) + of_sign(lane[1]) - i16::from(LIMIT);
            for (w, rest) in lane.iter_mut().zip(rest.iter_mut()) {
                let taken = excess.clamp(0, of_sign(*w));
                *w = (i16::from(*w) - sign * taken) as i8;
                *rest += (sign * taken) as i8;
                excess -= taken;
            }
        }
    }
    rest
}

/// Joins spans by twos where every lane allows it; returns the pairs, and what found no partner.
///
/// Greedy: the span with the least room left goes first, and takes the one with the next least room
/// that fits.
#[target_feature(enable = "avx2")]
fn join(mut spans: Vec<Span>, next: &mut [usize]) -> (Vec<Span>, Vec<Span>) {
    spans.sort_by_key(|span| Reverse(span.greatest));
    let (mut pairs, mut alone) = (Vec::with_capacity(spans.len() / 2), Vec::new());
    let mut taken = vec![false; spans.len()];
    let mut end = spans.len();
    for index in 0..spans.len() {
        if taken[index] {
            continue;
        }
        taken[index] = true;
        while end > index + 1 && taken[end - 1] {
            end -= 1;
        }
        let partner = partner(&spans, &taken, index, end);
        match partner {
            Some(partner) => {
                taken[partner] = true;
                let (span, other) = (&spans[index], &spans[partner]);
                next[span.last] = other.first;
                pairs.push(span.joined(other));
            }
            None => alone.push(spans[index].clone()),
        }
    }
    (pairs, alone)
}

/// Of the spans after `index` and before `end` that are not taken, the first that fits, or else the
/// last.
#[target_feature(enable = "avx2")]
#[inline]
fn partner(spans: &[Span], taken: &[bool], index: usize, end: usize) -> Option<usize> {
    let mut open = (index + 1..end).filter(|&other| !taken[other]);
    for from_end in [false, true] {
        for _ in 0..CANDIDATES {
            let other = if from_end {
                open.next_back()
            } else {
                open.next()
            }?;
            if !spans[index].reach.exceeds(&spans[other].reach) {
                return Some(other);
            }
        }
    }
    None
}

/// Blocks that are added in 16 bits, as a linked list.
#[derive(Clone)]
struct Span {
    reach: Reach,
    greatest: u8,
    first: usize,
    last: usize,
}

impl Span {
    #[target_feature(enable = "avx2")]
    #[inline]
    fn new(block: &Block, index: usize) -> Span {
        let reach = Reach::of(block);
        Span {
            greatest: reach.greatest(),
            reach,
            first: index,
            last: index,
        }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn joined(&self, other: &Span) -> Span {
        let mut reach = self.reach.clone();
        for (sum, more) in reach.0.iter_mut().zip(&other.reach.0) {
            *sum = sum.saturating_add(*more);
        }
        Span {
            greatest: reach.greatest(),
            reach,
            first: self.first,
            last: other.last,
        }
    }
}

/// The sums of the positive and of the negative weights of each of 32 lanes, saturating.
#[derive(Clone)]
struct Reach([u8; 64]);

impl Reach {
    #[target_feature(enable = "avx2")]
    #[inline]
    fn of(block: &Block) -> Reach {
        let mut reach = [0; 64];
        for lane in 0..32 {
            let [a, b] = [2 * lane, 2 * lane + 1].map(|i| i16::from(block.0[i]));
            reach[lane] = (a.max(0) + b.max(0)).min(255) as u8;
            reach[32 + lane] = (-(a.min(0) + b.min(0))).min(255) as u8;
        }
        Reach(reach)
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn greatest(&self) -> u8 {
        self.0.iter().fold(0, |a, &b| a.max(b))
    }

    /// Whether some lane of the sum of both is beyond the limit.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn exceeds(&self, other: &Reach) -> bool {
        let sums = self.0.iter().zip(&other.0);
        sums.fold(0, |greatest: u8, (a, &b)| greatest.max(a.saturating_add(b))) > LIMIT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An arrangement and the checks that it must pass; `None` without AVX2.
    fn arranged(blocks: &[Block]) -> Option<Arrangement> {
        if !is_x86_feature_detected!("avx2") {
            return None;
        }
        // SAFETY: the CPU has AVX2.
        let arrangement = unsafe { Arrangement::new(blocks.to_vec()) };
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
            for _ in 0..arrangement.spans[level] {
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
        Some(arrangement)
    }

    #[test]
    fn spans_are_as_long_as_the_limit_allows() {
        for (a, b, blocks, spans) in [
            (64, 64, 3, [3, 0, 0, 0, 0, 0]),
            (-64, -64, 3, [3, 0, 0, 0, 0, 0]),
            (64, 65, 4, [4, 0, 1, 0, 0, 0]),
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
            if let Some(arrangement) = arranged(&vec![block; blocks]) {
                assert_eq!(arrangement.spans, spans, "{a} {b}");
            }
        }
    }

    #[test]
    fn a_heavy_block_finds_a_light_one() {
        let lanes =
            |heavy: usize| Block(std::array::from_fn(|i| if i / 2 == heavy { 60 } else { 4 }));
        if let Some(arrangement) = arranged(&[lanes(0), lanes(0), lanes(1), lanes(1)]) {
            assert_eq!(arrangement.spans, [0, 2, 0, 0, 0, 0]);
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
