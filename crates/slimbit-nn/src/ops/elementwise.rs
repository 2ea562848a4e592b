//! One pass over a tensor, in parallel and with the CPU's widest vectors.
//!
//! The loops sit in [`WithSimd`] implementations rather than closures: those are certain to be
//! inlined into, and so compiled for, the vector context.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::host::zeros;

/// Floats per task.
const CHUNK: usize = 1 << 15;
/// Values that are compared side by side.
const MIN_MAX_LANES: usize = 32;

/// `f(x)` for every value. What `f` uses it should own (`move`): a loop that reads through a reference
/// does not become vector code, because the results could lie there.
pub(super) fn map(x: &[f32], f: impl Fn(f32) -> f32 + Copy + Sync) -> Vec<f32> {
    zip(x, x, move |x, _| f(x))
}

/// `f(x, y)` for every pair of values.
pub(super) fn zip(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32 + Copy + Sync) -> Vec<f32> {
    let mut out = zeros(x.len());
    out.par_chunks_mut(CHUNK)
        .zip(x.par_chunks(CHUNK).zip(y.par_chunks(CHUNK)))
        .for_each(|(out, (x, y))| Arch::new().dispatch(Zip { x, y, out, f }));
    out
}

struct Zip<'a, F> {
    x: &'a [f32],
    y: &'a [f32],
    out: &'a mut [f32],
    f: F,
}

impl<F: Fn(f32, f32) -> f32> WithSimd for Zip<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        for (out, (&x, &y)) in self.out.iter_mut().zip(self.x.iter().zip(self.y)) {
            *out = (self.f)(x, y);
        }
    }
}

/// Smallest and largest value; NaN is passed over.
pub(super) fn min_max(x: &[f32]) -> (f32, f32) {
    let chunks: Vec<_> = x
        .par_chunks(CHUNK)
        .map(|x| Arch::new().dispatch(MinMax { x }))
        .collect();
    chunks.into_iter().fold(MinMax::EMPTY, MinMax::join)
}

/// [`min_max`] of one chunk.
pub(super) struct MinMax<'a> {
    pub(super) x: &'a [f32],
}

impl MinMax<'_> {
    const EMPTY: (f32, f32) = (f32::INFINITY, f32::NEG_INFINITY);

    fn join(a: (f32, f32), b: (f32, f32)) -> (f32, f32) {
        (a.0.min(b.0), a.1.max(b.1))
    }
}

impl WithSimd for MinMax<'_> {
    type Output = (f32, f32);

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> Self::Output {
        let (mut low, mut high) = (
            [Self::EMPTY.0; MIN_MAX_LANES],
            [Self::EMPTY.1; MIN_MAX_LANES],
        );
        let (blocks, rest) = self.x.as_chunks::<MIN_MAX_LANES>();
        for block in blocks {
            for lane in 0..MIN_MAX_LANES {
                let v = block[lane];
                low[lane] = if v < low[lane] { v } else { low[lane] };
                high[lane] = if v > high[lane] { v } else { high[lane] };
            }
        }
        let lanes = low.into_iter().zip(high).fold(Self::EMPTY, Self::join);
        rest.iter().fold(lanes, |all, &v| Self::join(all, (v, v)))
    }
}
