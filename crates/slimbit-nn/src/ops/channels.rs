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

/// Quantities that are summed over the positions of a block's channels.
///
/// They are written in vectors, because the compiler does not make any of several quantities and a
/// choice between values: scalar code took three times as long. Products and sums are rounded one by
/// one, so that the bits do not depend on the vectors' length.
pub(super) trait Terms<const K: usize>: Copy {
    /// Of values `x` and `y`, whose coefficients are those of the block's lanes from `lane` on.
    fn of<S: Simd>(self, simd: S, lane: usize, x: S::f32s, y: S::f32s) -> [S::f32s; K];
}

/// The coefficients of as many lanes as a vector has, from `lane` on.
#[inline(always)]
pub(super) fn lanes<S: Simd>(coefficients: &[f32; LANES], lane: usize) -> S::f32s {
    S::as_simd_f32s(&coefficients[lane..]).0[0]
}

/// The terms of [`LANES`] values side by side.
#[inline(always)]
fn terms_of<S: Simd, const K: usize>(
    simd: S,
    terms: impl Terms<K>,
    [x, y]: [&[f32; LANES]; 2],
) -> [[f32; LANES]; K] {
    let mut found = [[0.0; LANES]; K];
    let ((x, _), (y, _)) = (S::as_simd_f32s(x), S::as_simd_f32s(y));
    for (v, (x, y)) in x.iter().zip(y).enumerate() {
        let vectors = terms.of(simd, v * S::F32_LANES, *x, *y);
        for (found, vector) in found.iter_mut().zip(vectors) {
            S::as_mut_simd_f32s(found).0[v] = vector;
        }
    }
    found
}

/// Consecutive channels.
#[derive(Clone, Copy)]
pub(super) struct Block {
    map: Map,
    first: usize,
    size: usize,
}

impl Block {
    /// The sums of `terms` over all positions, per channel. In maps of planes, where a block is one
    /// channel, all lanes have the coefficients of that.
    pub(super) fn sums<const K: usize>(
        self,
        x: &[f32],
        y: &[f32],
        terms: impl Terms<K>,
    ) -> [[f64; K]; LANES] {
        if self.map.inner == 1 {
            Arch::new().dispatch(RowSums {
                block: self,
                x,
                y,
                terms,
            })
        } else {
            let mut sums = [[0.0; K]; LANES];
            sums[0] = Arch::new().dispatch(PlaneSums {
                block: self,
                x,
                y,
                terms,
            });
            sums
        }
    }

    /// Of results per lane, the first for all lanes in maps of planes.
    pub(super) fn spread(self, results: [f32; LANES]) -> [f32; LANES] {
        match self.map.inner {
            1 => results,
            _ => [results[0]; LANES],
        }
    }

    /// A coefficient for each lane, from those of all channels.
    pub(super) fn coefficients(self, of_channels: &[f32]) -> [f32; LANES] {
        std::array::from_fn(|lane| match self.map.inner {
            1 => of_channels.get(self.first + lane).copied().unwrap_or(0.0),
            _ => of_channels[self.first],
        })
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
struct PlaneSums<'a, T, const K: usize> {
    block: Block,
    x: &'a [f32],
    y: &'a [f32],
    terms: T,
}

impl<const K: usize, T: Terms<K>> WithSimd for PlaneSums<'_, T, K> {
    type Output = [f64; K];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> [f64; K] {
        let Self { block, x, y, terms } = self;
        let Map {
            channels, inner, ..
        } = block.map;
        let vectors = LANES / S::F32_LANES;
        let mut totals = [0.0; K];
        // Vectors beyond those that make up the lanes are never touched.
        let mut sums = [[simd.splat_f32s(0.0); LANES]; K];
        let mut pending = 0;
        let inner = inner.max(1);
        let planes = x.chunks_exact(inner).zip(y.chunks_exact(inner));
        for (x, y) in planes.skip(block.first).step_by(channels) {
            let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
            for (x, y) in x.iter().zip(y) {
                let ((x, _), (y, _)) = (S::as_simd_f32s(x), S::as_simd_f32s(y));
                for v in 0..vectors {
                    let found = terms.of(simd, v * S::F32_LANES, x[v], y[v]);
                    for k in 0..K {
                        sums[k][v] = simd.add_f32s(sums[k][v], found[k]);
                    }
                }
            }
            if !x_rest.is_empty() {
                let mut rest = [[0.0; LANES]; 2];
                rest[0][..x_rest.len()].copy_from_slice(x_rest);
                rest[1][..y_rest.len()].copy_from_slice(y_rest);
                let mut found = terms_of(simd, terms, [&rest[0], &rest[1]]);
                for (sums, found) in sums.iter_mut().zip(&mut found) {
                    found[x_rest.len()..].fill(0.0);
                    for (sum, more) in sums.iter_mut().zip(S::as_simd_f32s(found).0) {
                        *sum = simd.add_f32s(*sum, *more);
                    }
                }
            }
            pending += inner;
            if pending >= FLUSH_FLOATS {
                flush(simd, &mut sums, &mut totals);
                pending = 0;
            }
        }
        flush(simd, &mut sums, &mut totals);
        totals
    }
}

/// Moves lane sums to the totals.
#[inline(always)]
fn flush<S: Simd, const K: usize>(
    simd: S,
    sums: &mut [[S::f32s; LANES]; K],
    totals: &mut [f64; K],
) {
    for (total, sums) in totals.iter_mut().zip(sums) {
        let mut lanes = [0.0_f32; LANES];
        let vectors = S::as_mut_simd_f32s(&mut lanes).0;
        for (vector, sum) in vectors.iter_mut().zip(sums) {
            *vector = *sum;
            *sum = simd.splat_f32s(0.0);
        }
        for lane in lanes {
            *total += f64::from(lane);
        }
    }
}

/// Sums over the images of up to [`LANES`] channels with one value each.
struct RowSums<'a, T, const K: usize> {
    block: Block,
    x: &'a [f32],
    y: &'a [f32],
    terms: T,
}

impl<const K: usize, T: Terms<K>> WithSimd for RowSums<'_, T, K> {
    type Output = [[f64; K]; LANES];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Self::Output {
        let Self {
            block: Block { map, first, size },
            x,
            y,
            terms,
        } = self;
        let mut totals = [[0.0; LANES]; K];
        let rows = x.chunks_exact(map.channels);
        for (x, y) in rows.zip(y.chunks_exact(map.channels)) {
            let mut row = [[0.0; LANES]; 2];
            row[0][..size].copy_from_slice(&x[first..first + size]);
            row[1][..size].copy_from_slice(&y[first..first + size]);
            let found = terms_of(simd, terms, [&row[0], &row[1]]);
            for (totals, found) in totals.iter_mut().zip(&found) {
                for (total, &found) in totals.iter_mut().zip(found) {
                    *total += f64::from(found);
                }
            }
        }
        std::array::from_fn(|lane| std::array::from_fn(|k| totals[k][lane]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both values, and a coefficient.
    #[derive(Clone, Copy)]
    struct Both([f32; LANES]);

    impl Terms<3> for Both {
        #[inline(always)]
        fn of<S: Simd>(self, _simd: S, lane: usize, x: S::f32s, y: S::f32s) -> [S::f32s; 3] {
            [x, y, lanes::<S>(&self.0, lane)]
        }
    }

    #[test]
    fn sums_and_coefficients_belong_to_their_channel() {
        for (channels, inner) in [(3, 1), (37, 1), (3, 5), (2, 40)] {
            let map = Map::new(&[4, channels, inner]);
            let x: Vec<f32> = (0..4 * channels * inner).map(|v| (v % 11) as f32).collect();
            let twice = map.zip(&x, &x, &vec![[1.0]; channels], |x, y, [c]| c * (x + y));
            let numbers: Vec<f32> = (0..channels).map(|channel| channel as f32).collect();
            let sums = map.per_channel(|block| {
                let sums = block.sums(&x, &twice, Both(block.coefficients(&numbers)));
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
