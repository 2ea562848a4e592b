//! Walking a `[batch, channels, positions…]` tensor channel by channel.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::host::zeros;

/// Values that are summed side by side. A constant, so that sums do not depend on the CPU.
pub(super) const LANES: usize = 16;
/// Floats that one task of an elementwise pass handles, about.
const CHUNK_FLOATS: usize = 1 << 15;
/// Floats that are summed in `f32` before the sum continues in `f64`.
const FLUSH_FLOATS: usize = 1 << 10;

/// `outer` images of `channels` planes of `inner` values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Map {
    pub(super) outer: usize,
    pub(super) channels: usize,
    pub(super) inner: usize,
}

impl Map {
    pub(super) fn new(shape: &[usize]) -> Self {
        assert!(
            shape.len() >= 2,
            "expected [batch, channels, ...], got {shape:?}"
        );
        Self {
            outer: shape[0],
            channels: shape[1],
            inner: shape[2..].iter().product(),
        }
    }

    /// `f(x, y, coefficients of the channel)` for every value of two maps of one shape.
    pub(super) fn zip<const K: usize>(
        &self,
        x: &[f32],
        y: &[f32],
        coefficients: &[[f32; K]],
        f: impl Fn(f32, f32, [f32; K]) -> f32 + Copy + Sync,
    ) -> Vec<f32> {
        let mut out = zeros(x.len());
        let image = (self.channels * self.inner).max(1);
        let chunk = (CHUNK_FLOATS / image).max(1) * image;
        out.par_chunks_mut(chunk)
            .zip(x.par_chunks(chunk).zip(y.par_chunks(chunk)))
            .for_each(|(out, (x, y))| {
                Arch::new().dispatch(ZipChannels {
                    inner: self.inner,
                    x,
                    y,
                    coefficients,
                    out,
                    f,
                });
            });
        out
    }

    /// A result per channel. `f` sees channels in blocks: one by one in maps of planes, [`LANES`]
    /// at a time where a channel's values lie too far apart to be read one by one.
    pub(super) fn per_channel<R: Send>(&self, f: impl Fn(Block) -> [R; LANES] + Sync) -> Vec<R> {
        let size = if self.inner == 1 { LANES } else { 1 };
        let blocks: Vec<[R; LANES]> = (0..self.channels.div_ceil(size))
            .into_par_iter()
            .map(|block| {
                let first = block * size;
                f(Block {
                    map: *self,
                    first,
                    size: size.min(self.channels - first),
                })
            })
            .collect();
        let used = blocks
            .into_iter()
            .flat_map(|block| block.into_iter().take(size));
        used.take(self.channels).collect()
    }
}

/// Consecutive channels.
#[derive(Clone, Copy)]
pub(super) struct Block {
    map: Map,
    pub(super) first: usize,
    pub(super) size: usize,
}

impl Block {
    /// The sums over all positions of the quantities `f(index in the block, x, y)`, per channel.
    pub(super) fn sums<const K: usize>(
        self,
        x: &[f32],
        y: &[f32],
        f: impl Fn(usize, f32, f32) -> [f32; K] + Copy,
    ) -> [[f64; K]; LANES] {
        if self.map.inner == 1 {
            Arch::new().dispatch(RowSums {
                block: self,
                x,
                y,
                f,
            })
        } else {
            let mut sums = [[0.0; K]; LANES];
            sums[0] = Arch::new().dispatch(PlaneSums {
                block: self,
                x,
                y,
                f,
            });
            sums
        }
    }
}

struct ZipChannels<'a, const K: usize, F> {
    inner: usize,
    x: &'a [f32],
    y: &'a [f32],
    coefficients: &'a [[f32; K]],
    out: &'a mut [f32],
    f: F,
}

impl<const K: usize, F: Fn(f32, f32, [f32; K]) -> f32> WithSimd for ZipChannels<'_, K, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        let Self {
            inner,
            x,
            y,
            coefficients,
            out,
            f,
        } = self;
        if inner == 1 {
            let channels = coefficients.len();
            let rows = out.chunks_exact_mut(channels).zip(x.chunks_exact(channels));
            for ((out, x), y) in rows.zip(y.chunks_exact(channels)) {
                for (((out, &x), &y), &c) in out.iter_mut().zip(x).zip(y).zip(coefficients) {
                    *out = f(x, y, c);
                }
            }
            return;
        }
        let inner = inner.max(1);
        let planes = out.chunks_exact_mut(inner).zip(x.chunks_exact(inner));
        let channels = coefficients.iter().cycle();
        for (((out, x), y), &c) in planes.zip(y.chunks_exact(inner)).zip(channels) {
            for ((out, &x), &y) in out.iter_mut().zip(x).zip(y) {
                *out = f(x, y, c);
            }
        }
    }
}

/// Sums over the planes of one channel.
struct PlaneSums<'a, F> {
    block: Block,
    x: &'a [f32],
    y: &'a [f32],
    f: F,
}

impl<const K: usize, F: Fn(usize, f32, f32) -> [f32; K]> WithSimd for PlaneSums<'_, F> {
    type Output = [f64; K];

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> [f64; K] {
        let Self { block, x, y, f } = self;
        let Map {
            channels, inner, ..
        } = block.map;
        let mut totals = [0.0; K];
        let mut sums = [[0.0f32; LANES]; K];
        let mut pending = 0;
        let inner = inner.max(1);
        let planes = x.chunks_exact(inner).zip(y.chunks_exact(inner));
        for (x, y) in planes.skip(block.first).step_by(channels) {
            let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
            for (x, y) in x.iter().zip(y) {
                for lane in 0..LANES {
                    let terms = f(0, x[lane], y[lane]);
                    for k in 0..K {
                        sums[k][lane] += terms[k];
                    }
                }
            }
            for (lane, (&x, &y)) in x_rest.iter().zip(y_rest).enumerate() {
                let terms = f(0, x, y);
                for k in 0..K {
                    sums[k][lane] += terms[k];
                }
            }
            pending += inner;
            if pending >= FLUSH_FLOATS {
                flush(&mut sums, &mut totals);
                pending = 0;
            }
        }
        flush(&mut sums, &mut totals);
        totals
    }
}

/// Moves lane sums to the totals.
#[inline(always)]
fn flush<const K: usize>(sums: &mut [[f32; LANES]; K], totals: &mut [f64; K]) {
    for (total, lanes) in totals.iter_mut().zip(sums) {
        for lane in lanes {
            *total += f64::from(*lane);
            *lane = 0.0;
        }
    }
}

/// Sums over the images of up to [`LANES`] channels with one value each.
struct RowSums<'a, F> {
    block: Block,
    x: &'a [f32],
    y: &'a [f32],
    f: F,
}

impl<const K: usize, F: Fn(usize, f32, f32) -> [f32; K]> WithSimd for RowSums<'_, F> {
    type Output = [[f64; K]; LANES];

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> Self::Output {
        let Self {
            block: Block { map, first, size },
            x,
            y,
            f,
        } = self;
        let mut totals = [[0.0; LANES]; K];
        for (x, y) in x
            .chunks_exact(map.channels)
            .zip(y.chunks_exact(map.channels))
        {
            let pairs = x[first..first + size].iter().zip(&y[first..first + size]);
            for (lane, (&x, &y)) in pairs.enumerate() {
                let terms = f(lane, x, y);
                for k in 0..K {
                    totals[k][lane] += f64::from(terms[k]);
                }
            }
        }
        std::array::from_fn(|lane| std::array::from_fn(|k| totals[k][lane]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_and_coefficients_belong_to_their_channel() {
        for (channels, inner) in [(3, 1), (37, 1), (3, 5), (2, 40)] {
            let map = Map::new(&[4, channels, inner]);
            let x: Vec<f32> = (0..4 * channels * inner).map(|v| (v % 11) as f32).collect();
            let twice = map.zip(&x, &x, &vec![[1.0]; channels], |x, y, [c]| c * (x + y));
            let sums = map.per_channel(|block| {
                let sums = block.sums(&x, &twice, |lane, x, y| [x, y, (block.first + lane) as f32]);
                sums.map(|sums| sums.map(|sum| sum as usize))
            });
            assert_eq!(sums.len(), channels);
            for (channel, sums) in sums.into_iter().enumerate() {
                let own = (0..4).flat_map(|image| {
                    let first = (image * channels + channel) * inner;
                    x[first..first + inner].iter().map(|&v| v as usize)
                });
                let own: usize = own.sum();
                assert_eq!(sums, [own, 2 * own, channel * 4 * inner]);
            }
        }
    }
}
