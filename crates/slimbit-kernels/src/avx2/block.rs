//! Blocks of weights: what a tile multiplies four bytes of every pixel with.

use std::arch::x86_64::*;
use std::ops::Range;

/// Four consecutive inputs of 16 channels: `[16 lanes][4 inputs]`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Block(pub(super) [i8; 64]);

impl Block {
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn from_halves(halves: [__m256i; 2]) -> Block {
        let mut block = Block([0; 64]);
        // SAFETY: a block is two registers, aligned for them.
        unsafe { block.0.as_mut_ptr().cast::<[__m256i; 2]>().write(halves) };
        block
    }

    /// Lanes 0 to 7, and 8 to 15.
    #[target_feature(enable = "avx2")]
    #[inline]
    pub(super) fn halves(&self) -> [__m256i; 2] {
        // SAFETY: a block is two registers, aligned for them.
        unsafe { self.0.as_ptr().cast::<[__m256i; 2]>().read() }
    }
}

/// The weights of 16 channels, by lane: `per_tap` blocks for each tap's `inputs` channels, the last
/// filled up with 0.
pub(super) struct Panel<'a> {
    pub(super) lanes: [&'a [i8]; 16],
    pub(super) inputs: usize,
    pub(super) per_tap: usize,
}

impl Panel<'_> {
    /// Puts some of the blocks into `blocks`, in place of what was there.
    #[target_feature(enable = "avx2")]
    pub(super) fn cut(&self, mut wanted: Range<usize>, blocks: &mut Vec<Block>) {
        blocks.clear();
        // Where taps are whole blocks, a channel is one run of them.
        while self.inputs == 4 * self.per_tap && wanted.len() >= 8 {
            let low = self.eight(0, wanted.start);
            let high = self.eight(8, wanted.start);
            let both = low.into_iter().zip(high);
            blocks.extend(both.map(|(low, high)| Block::from_halves([low, high])));
            wanted.start += 8;
        }
        blocks.extend(wanted.map(|block| self.one(block)));
    }

    /// Eight lanes of eight blocks: a transposition of 8×8 groups of four bytes. Rows are read in
    /// whole vectors, because they are often a power of two apart and share few lines of the cache.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn eight(&self, lane: usize, block: usize) -> [__m256i; 8] {
        let mut rows = [_mm256_setzero_si256(); 8];
        for (row, weights) in rows.iter_mut().zip(&self.lanes[lane..]) {
            let weights = &weights[4 * block..][..32];
            // SAFETY: 32 bytes are read from a slice of 32.
            *row = unsafe { _mm256_loadu_si256(weights.as_ptr().cast()) };
        }
        let [a, b, c, d, e, f, g, h] = rows;
        let [a, b] = [_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)];
        let [c, d] = [_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d)];
        let [e, f] = [_mm256_unpacklo_epi32(e, f), _mm256_unpackhi_epi32(e, f)];
        let [g, h] = [_mm256_unpacklo_epi32(g, h), _mm256_unpackhi_epi32(g, h)];
        let [a, c] = [_mm256_unpacklo_epi64(a, c), _mm256_unpackhi_epi64(a, c)];
        let [b, d] = [_mm256_unpacklo_epi64(b, d), _mm256_unpackhi_epi64(b, d)];
        let [e, g] = [_mm256_unpacklo_epi64(e, g), _mm256_unpackhi_epi64(e, g)];
        let [f, h] = [_mm256_unpacklo_epi64(f, h), _mm256_unpackhi_epi64(f, h)];
        let low = [(a, e), (c, g), (b, f), (d, h)];
        let mut columns = [_mm256_setzero_si256(); 8];
        for (column, (first, second)) in low.into_iter().enumerate() {
            columns[column] = _mm256_permute2x128_si256::<0x20>(first, second);
            columns[column + 4] = _mm256_permute2x128_si256::<0x31>(first, second);
        }
        columns
    }

    fn one(&self, block: usize) -> Block {
        let skip = block % self.per_tap * 4;
        let start = block / self.per_tap * self.inputs + skip;
        let present = start..start + (self.inputs - skip).min(4);
        let mut weights = Block([0; 64]);
        for (lane, to) in self.lanes.iter().zip(weights.0.as_chunks_mut::<4>().0) {
            to[..present.len()].copy_from_slice(&lane[present.clone()]);
        }
        weights
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_hold_four_inputs_of_every_lane() {
        if !is_x86_feature_detected!("avx2") {
            return;
        }
        let taps = 3;
        for inputs in [1usize, 3, 4, 6, 12, 32, 36] {
            let channels: Vec<Vec<i8>> = (0..16)
                .map(|lane| (0..taps * inputs).map(|i| (lane * 7 + i) as i8).collect())
                .collect();
            let per_tap = inputs.div_ceil(4);
            let panel = Panel {
                lanes: std::array::from_fn(|lane| &*channels[lane]),
                inputs,
                per_tap,
            };
            let mut blocks = vec![Block([1; 64])];
            // SAFETY: the CPU has AVX2.
            unsafe { panel.cut(1..taps * per_tap, &mut blocks) };
            assert_eq!(blocks.len(), taps * per_tap - 1);
            for (index, block) in (1..).zip(&blocks) {
                let (tap, first) = (index / per_tap, index % per_tap * 4);
                for (place, &weight) in block.0.iter().enumerate() {
                    let (lane, input) = (place / 4, first + place % 4);
                    let own = &channels[lane][tap * inputs..][..inputs];
                    assert_eq!(weight, own.get(input).copied().unwrap_or(0));
                }
            }
        }
    }
}
