//! AVX2 without dot-product instructions.
//!
//! Accumulators of 16 channels live in two registers in *lane order* ([`LANES`]): what
//! `vpunpck{l,h}wd` makes of 16 channels, and what `vpackssdw` puts back into their natural order.
//! Every kernel ends in the same [`rescale`](rescale::Rescale16).

mod block;
mod dense;
mod depthwise;
mod elementwise;
mod pool;
mod rescale;
mod saturation;
mod tile;

use crate::conv::{ConvKernel, ConvWeights};
use crate::{Isa, Kernels, peak};
use std::arch::x86_64::*;

pub(crate) static KERNELS: Kernels = Kernels {
    isa: Isa::Avx2,
    pack_conv,
    add: elementwise::add,
    table: elementwise::table,
    max_pool: pool::max_pool,
    sum_pool: pool::sum_pool,
    global_sum: pool::global_sum,
    probe: peak::avx2,
};

/// The channel, among 16, that each lane of a pair of accumulators holds.
const LANES: [usize; 16] = [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15];

fn pack_conv(packable: &ConvWeights<'_>) -> Box<dyn ConvKernel> {
    depthwise::pack(packable).unwrap_or_else(|| dense::pack(packable))
}

/// Stores the first `n` of 16 bytes.
///
/// # Safety
/// `n` bytes are writable at `out`.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn store_first(codes: __m128i, out: *mut u8, n: usize) {
    // SAFETY: the caller vouches for `n` bytes.
    unsafe {
        if n >= 16 {
            _mm_storeu_si128(out.cast(), codes);
        } else {
            store_few(codes, out, n);
        }
    }
}

/// # Safety
/// As [`store_first`], with `n < 16`.
#[target_feature(enable = "avx2")]
#[cold]
#[inline(never)]
unsafe fn store_few(codes: __m128i, out: *mut u8, n: usize) {
    let mut bytes = [0u8; 16];
    // SAFETY: the array is 16 bytes; the caller vouches for `n` bytes at `out`.
    unsafe {
        _mm_storeu_si128(bytes.as_mut_ptr().cast(), codes);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), out, n);
    }
}

/// 16 codes as 16-bit numbers.
///
/// # Safety
/// 16 bytes are readable at `codes`.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn widen16(codes: *const u8) -> __m256i {
    // SAFETY: the caller vouches for 16 bytes.
    _mm256_cvtepu8_epi16(unsafe { _mm_loadu_si128(codes.cast()) })
}
