//! One pass over a tensor, in parallel and with the CPU's widest vectors.

use pulp::Arch;
use rayon::prelude::*;

/// Floats per task.
const CHUNK: usize = 1 << 15;

/// `f(x)` for every value.
pub(super) fn map(x: &[f32], f: impl Fn(f32) -> f32 + Copy + Sync) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(CHUNK)
        .zip(x.par_chunks(CHUNK))
        .for_each(|(out, x)| {
            Arch::new().dispatch(|| {
                for (out, &x) in out.iter_mut().zip(x) {
                    *out = f(x);
                }
            });
        });
    out
}

/// `f(x, y)` for every pair of values.
pub(super) fn zip(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32 + Copy + Sync) -> Vec<f32> {
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(CHUNK)
        .zip(x.par_chunks(CHUNK).zip(y.par_chunks(CHUNK)))
        .for_each(|(out, (x, y))| {
            Arch::new().dispatch(|| {
                for (out, (&x, &y)) in out.iter_mut().zip(x.iter().zip(y)) {
                    *out = f(x, y);
                }
            });
        });
    out
}

/// Smallest and largest value, each chunk in 16 lanes; NaN is passed over.
pub(super) fn min_max(x: &[f32]) -> (f32, f32) {
    const LANES: usize = 16;
    const EMPTY: (f32, f32) = (f32::INFINITY, f32::NEG_INFINITY);
    let join = |a: (f32, f32), b: (f32, f32)| (a.0.min(b.0), a.1.max(b.1));
    x.par_chunks(CHUNK)
        .map(|x| {
            Arch::new().dispatch(|| {
                let (mut low, mut high) = ([EMPTY.0; LANES], [EMPTY.1; LANES]);
                let (blocks, rest) = x.as_chunks::<LANES>();
                let mut take = |values: &[f32]| {
                    for ((low, high), &v) in low.iter_mut().zip(&mut high).zip(values) {
                        *low = if v < *low { v } else { *low };
                        *high = if v > *high { v } else { *high };
                    }
                };
                for block in blocks {
                    take(block);
                }
                take(rest);
                low.into_iter().zip(high).fold(EMPTY, join)
            })
        })
        .collect::<Vec<_>>()
        .into_iter()
        .fold(EMPTY, join)
}
