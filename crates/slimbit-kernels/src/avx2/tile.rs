//! Multiply-accumulate on a tile: up to [`MAX_ROWS`] pixels by 16 channels.

use super::LANES;
use std::arch::x86_64::*;

/// Pixels of the largest tile: 12 accumulators, two registers of weights, one of codes and one of
/// products are all 16.
pub(super) const MAX_ROWS: usize = 6;

/// Four consecutive inputs of 16 channels.
#[derive(Clone)]
#[repr(C, align(64))]
pub(super) struct Block([i8; 64]);

/// How products are formed, exactly.
pub(super) trait Product: Send + Sync + 'static {
    /// A gathered code.
    type Code: Copy + Default;

    const NAME: &'static str;

    /// Pixels of a full tile, at most [`MAX_ROWS`].
    const ROWS: usize;

    /// Lays out `weight(channel, input)` of 16 channels and 4 inputs.
    fn block(weight: impl Fn(usize, usize) -> i8) -> Block;

    /// Copies 16 codes.
    ///
    /// # Safety
    /// The CPU has AVX2; 16 bytes are readable at `from` and 16 codes writable at `to`.
    unsafe fn copy16(from: *const u8, to: *mut Self::Code);

    /// `acc[row][channel] += Σ codes[row][k] · weights[k][channel]` over `blocks` blocks.
    ///
    /// `run` is the number of blocks whose sums fit 16 bits.
    ///
    /// # Safety
    /// The CPU has AVX2; `4·blocks` codes are readable at each of `rows`, and `blocks` blocks at
    /// `weights`.
    unsafe fn accumulate<const R: usize>(
        acc: &mut [[__m256i; 2]; R],
        rows: [*const Self::Code; R],
        weights: *const Block,
        blocks: usize,
        run: usize,
    );
}

/// Codes and weights widened to 16 bits: `vpmaddwd` is exact for any 8-bit weights.
///
/// A block is `[2 pairs of inputs][16 lanes][2]`.
pub(super) struct Exact16;

impl Product for Exact16 {
    type Code = i16;

    const NAME: &'static str = "dense16";

    /// Six measured slower than four: the multiplier's ports are the limit, not the loads of
    /// weights.
    const ROWS: usize = 4;

    fn block(weight: impl Fn(usize, usize) -> i8) -> Block {
        Block(std::array::from_fn(|i| {
            weight(LANES[i / 2 % 16], i / 32 * 2 + i % 2)
        }))
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn copy16(from: *const u8, to: *mut i16) {
        // SAFETY: the caller vouches for 16 codes on both sides.
        unsafe { _mm256_storeu_si256(to.cast(), super::widen16(from)) };
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn accumulate<const R: usize>(
        acc: &mut [[__m256i; 2]; R],
        rows: [*const i16; R],
        weights: *const Block,
        blocks: usize,
        _run: usize,
    ) {
        let weights = weights.cast::<__m128i>();
        for pair in 0..2 * blocks {
            // SAFETY: a block is four halves of 16 bytes, two to a pair; the caller vouches for
            // `blocks` blocks.
            let w = unsafe { [0, 1].map(|half| _mm_load_si128(weights.add(2 * pair + half))) };
            let w = w.map(|half| _mm256_cvtepi8_epi16(half));
            for row in 0..R {
                // SAFETY: the caller vouches for `4·blocks` codes, which are `2·blocks` pairs.
                let codes = unsafe { rows[row].add(2 * pair).cast::<i32>().read_unaligned() };
                let codes = _mm256_set1_epi32(codes);
                for half in 0..2 {
                    let products = _mm256_madd_epi16(codes, w[half]);
                    acc[row][half] = _mm256_add_epi32(acc[row][half], products);
                }
            }
        }
    }
}

/// Bytes, for weights so small that sums of a `run` of blocks are proven to fit 16 bits:
/// `vpmaddubsw` never saturates then, and does twice the work of `vpmaddwd`.
///
/// A block is `[16 lanes][4 inputs]`.
pub(super) struct Small8;

impl Product for Small8 {
    type Code = u8;

    const NAME: &'static str = "dense8";

    const ROWS: usize = MAX_ROWS;

    fn block(weight: impl Fn(usize, usize) -> i8) -> Block {
        Block(std::array::from_fn(|i| weight(LANES[i / 4], i % 4)))
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn copy16(from: *const u8, to: *mut u8) {
        // SAFETY: the caller vouches for 16 codes on both sides.
        unsafe { _mm_storeu_si128(to.cast(), _mm_loadu_si128(from.cast())) };
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn accumulate<const R: usize>(
        acc: &mut [[__m256i; 2]; R],
        rows: [*const u8; R],
        weights: *const Block,
        blocks: usize,
        run: usize,
    ) {
        let weights = weights.cast::<__m256i>();
        let ones = _mm256_set1_epi16(1);
        let mut start = 0;
        while start < blocks {
            let end = blocks.min(start + run);
            let mut sums = [[_mm256_setzero_si256(); 2]; R];
            for block in start..end {
                // SAFETY: a block is two halves of 32 bytes; the caller vouches for `blocks`
                // blocks.
                let w =
                    unsafe { [0, 1].map(|half| _mm256_load_si256(weights.add(2 * block + half))) };
                for row in 0..R {
                    // SAFETY: the caller vouches for `4·blocks` codes.
                    let codes = unsafe { rows[row].add(4 * block).cast::<i32>().read_unaligned() };
                    let codes = _mm256_set1_epi32(codes);
                    for half in 0..2 {
                        let products = _mm256_maddubs_epi16(codes, w[half]);
                        sums[row][half] = _mm256_add_epi16(sums[row][half], products);
                    }
                }
            }
            for row in 0..R {
                for half in 0..2 {
                    let widened = _mm256_madd_epi16(sums[row][half], ones);
                    acc[row][half] = _mm256_add_epi32(acc[row][half], widened);
                }
            }
            start = end;
        }
    }
}
