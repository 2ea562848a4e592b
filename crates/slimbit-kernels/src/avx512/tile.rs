//! Multiply-accumulate on a register tile: some pixels by up to 64 channels.
//!
//! 24 of the 32 registers are sums, so that no `vpdpbusd` waits for the one before it on the same
//! sum, and each weight and code that is loaded serves several. There is a function for every
//! number of pixels: tiles differ by at most one pixel and none is padded.

use crate::{ConvGeometry, Map};
use std::arch::x86_64::*;

use super::Block;

/// Channels of a register of sums.
pub(super) const LANES: usize = 16;

/// Vectors of the widest panel.
pub(super) const MAX_VECTORS: usize = 4;

/// Registers of sums.
pub(super) const SUMS: usize = 24;

/// Where the codes of a window are, in runs of consecutive bytes.
#[derive(Clone, Copy)]
pub(super) struct Runs {
    rows: usize,
    row_step: usize,
    per_row: usize,
    step: usize,
    /// Groups of four codes per run. The last may reach up to three bytes beyond the run, which the
    /// slack allows; their weights are 0.
    fours: usize,
}

impl Runs {
    /// A run per tap, or per row of the kernel for `joined`.
    pub(super) fn new(geometry: &ConvGeometry, input: &Map<'_>, joined: bool) -> Runs {
        let [rows, cols] = geometry.kernel;
        let inputs = geometry.group_inputs();
        let (per_row, len) = if joined {
            (1, cols * inputs)
        } else {
            (cols, inputs)
        };
        Runs {
            rows,
            row_step: geometry.dilation[0] * input.row_stride,
            per_row,
            step: geometry.dilation[1] * input.pixel_stride,
            fours: len.div_ceil(4),
        }
    }
}

/// The first code of the window of each pixel.
pub(super) type Windows = [*const u8; SUMS];

/// What a tile leaves behind: `[pixel][vector]`, without gaps.
#[repr(C, align(64))]
pub(super) struct Sums(pub(super) [[i32; LANES]; SUMS]);

/// Sums of products of the windows of a tile with a panel of weights, `[four codes][vector]`.
/// `ahead` is what to fetch into the cache meanwhile: a line for each four codes.
///
/// # Safety
/// The CPU has the level. All runs of the windows and three more bytes are readable, the panel holds
/// a block for each four codes and vector.
pub(super) type Accumulate = unsafe fn(&Windows, &Runs, *const Block, ahead: *const u8, &mut Sums);

macro_rules! tiles {
    ($vectors:literal: $($pixels:literal)*) => { &[$(accumulate::<$pixels, $vectors>),*] };
}

/// By the vectors of the panel less one, by the pixels of the tile less one. 16 pixels of one vector
/// are enough: their codes keep the loads as busy as 24 would.
pub(super) const TILES: [&[Accumulate]; MAX_VECTORS] = [
    tiles!(1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16),
    tiles!(2: 1 2 3 4 5 6 7 8 9 10 11 12),
    tiles!(3: 1 2 3 4 5 6 7 8),
    tiles!(4: 1 2 3 4 5 6),
];

/// `P` pixels by `V` vectors of 16 channels.
///
/// # Safety
/// As [`Accumulate`].
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn accumulate<const P: usize, const V: usize>(
    windows: &Windows,
    runs: &Runs,
    panel: *const Block,
    mut ahead: *const u8,
    sums: &mut Sums,
) {
    let windows: [*const u8; P] = std::array::from_fn(|pixel| windows[pixel]);
    let mut acc = [[_mm512_setzero_si512(); V]; P];
    let mut weights = panel.cast::<__m512i>();
    for row in 0..runs.rows {
        for run in 0..runs.per_row {
            let start = row * runs.row_step + run * runs.step;
            let mut four = 0;
            // The pointers of 16 pixels do not fit the registers: one that is loaded serves four
            // steps.
            while V == 1 && four + 4 <= runs.fours {
                // SAFETY: these fours are within the run, and the panel has blocks for them.
                unsafe {
                    step::<P, V, 4>(&mut acc, &windows, start + 4 * four, weights);
                    weights = weights.add(4);
                }
                four += 4;
            }
            while four < runs.fours {
                // SAFETY: as above.
                unsafe {
                    step::<P, V, 1>(&mut acc, &windows, start + 4 * four, weights);
                    weights = weights.add(V);
                }
                if V == MAX_VECTORS {
                    _mm_prefetch::<_MM_HINT_T1>(ahead.cast());
                    ahead = ahead.wrapping_add(size_of::<Block>());
                }
                four += 1;
            }
        }
    }
    let sums = sums.0.as_mut_ptr().cast::<[__m512i; V]>();
    for pixel in 0..P {
        // SAFETY: `P · V` is at most `SUMS`, and a register holds `LANES` sums.
        unsafe { sums.add(pixel).write(acc[pixel]) };
    }
}

/// `N` fours of every pixel.
///
/// # Safety
/// The CPU has the level; `4·N` bytes are readable at `offset` from each window, `V·N` registers at
/// `weights`.
#[target_feature(enable = "avx512f,avx512vnni")]
#[inline]
unsafe fn step<const P: usize, const V: usize, const N: usize>(
    acc: &mut [[__m512i; V]; P],
    windows: &[*const u8; P],
    offset: usize,
    weights: *const __m512i,
) {
    // SAFETY: the caller vouches for the weights.
    let weights: [[__m512i; V]; N] = unsafe { weights.cast::<[[__m512i; V]; N]>().read() };
    for pixel in 0..P {
        for four in 0..N {
            // SAFETY: the caller vouches for the codes.
            let codes = unsafe { windows[pixel].add(offset + 4 * four).cast::<i32>() };
            // SAFETY: as above.
            let codes = _mm512_set1_epi32(unsafe { codes.read_unaligned() });
            for vector in 0..V {
                acc[pixel][vector] =
                    _mm512_dpbusd_epi32(acc[pixel][vector], codes, weights[four][vector]);
            }
        }
    }
}
