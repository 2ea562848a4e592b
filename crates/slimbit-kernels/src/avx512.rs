//! AVX-512 with VNNI: `vpdpbusd` adds four products of an unsigned code and a signed weight to each
//! of 16 sums, exactly.
//!
//! Dense convolutions read their codes in place: an input row has its border, so a window is a few
//! runs of consecutive bytes. Everything ends in the same [`rescale`]. Operators that 512 bits do
//! not make faster are those of AVX2, which every such CPU has.

mod dense;
mod depthwise;
mod elementwise;
mod rescale;
mod tile;

use crate::conv::{ConvKernel, ConvWeights};
use crate::{Isa, Kernels, avx2};
use std::arch::x86_64::*;
use std::hint::black_box;

pub(crate) static KERNELS: Kernels = Kernels {
    isa: Isa::Avx512Vnni,
    pack_conv,
    add: elementwise::add,
    table: elementwise::table,
    max_pool: avx2::KERNELS.max_pool,
    sum_pool: avx2::KERNELS.sum_pool,
    global_sum: avx2::KERNELS.global_sum,
    probe,
};

fn pack_conv(packable: &ConvWeights<'_>) -> Box<dyn ConvKernel> {
    depthwise::pack(packable).unwrap_or_else(|| dense::pack(packable))
}

/// 64 weights, as `vpdpbusd` reads them: four to a lane.
#[derive(Clone)]
#[repr(C, align(64))]
struct Block([i8; 64]);

/// The first `n` of 64 bytes; all for more.
fn first(n: usize) -> __mmask64 {
    u64::MAX >> (64 - n.clamp(1, 64))
}

/// `vpdpbusd` alone, see [`Probe`](crate::peak::Probe).
///
/// # Safety
/// The CPU has the level.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn probe(steps: u32) -> u64 {
    const ACCUMULATORS: usize = 24;
    let mut acc = black_box([_mm512_set1_epi32(5); ACCUMULATORS]);
    let (codes, weights) = black_box((_mm512_set1_epi8(3), _mm512_set1_epi8(7)));
    for _ in 0..steps {
        // A plain loop: `map` would call a closure for each, through memory, because it is compiled
        // without the level and the closure with it.
        for acc in &mut acc {
            *acc = _mm512_dpbusd_epi32(*acc, codes, weights);
        }
    }
    black_box(acc);
    u64::from(steps) * (ACCUMULATORS * 64) as u64
}
