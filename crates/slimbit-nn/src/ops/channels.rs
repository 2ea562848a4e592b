//! Walking a `[batch, channels, positions…]` tensor channel by channel.

use pulp::Arch;
use rayon::prelude::*;

/// Values that are summed side by side. A constant, so that sums do not depend on the CPU.
pub(super) const LANES: usize = 16;
/// Floats that one task of an elementwise pass handles, about.
const CHUNK_FLOATS: usize = 1 << 15;

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

    /// The planes of one channel, image by image.
    pub(super) fn planes<'a>(
        &self,
        x: &'a [f32],
        channel: usize,
    ) -> impl Iterator<Item = &'a [f32]> + use<'a> {
        x.chunks_exact(self.inner.max(1))
            .skip(channel)
            .step_by(self.channels)
    }

    /// Channels `first..first + lanes` of every image of a map with one value per plane.
    #[inline(always)]
    pub(super) fn rows(&self, x: &[f32], first: usize, lanes: usize, mut f: impl FnMut(&[f32])) {
        for image in x.chunks_exact(self.channels) {
            f(&image[first..first + lanes]);
        }
    }

    /// [`rows`](Self::rows) of two maps of one shape.
    #[inline(always)]
    pub(super) fn row_pairs(
        &self,
        x: &[f32],
        y: &[f32],
        first: usize,
        lanes: usize,
        mut f: impl FnMut(&[f32], &[f32]),
    ) {
        for (x, y) in x
            .chunks_exact(self.channels)
            .zip(y.chunks_exact(self.channels))
        {
            f(&x[first..first + lanes], &y[first..first + lanes]);
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
        let mut out = vec![0.0; x.len()];
        let image = (self.channels * self.inner).max(1);
        let chunk = (CHUNK_FLOATS / image).max(1) * image;
        let inner = self.inner.max(1);
        out.par_chunks_mut(chunk)
            .zip(x.par_chunks(chunk).zip(y.par_chunks(chunk)))
            .for_each(|(out, (x, y))| {
                Arch::new().dispatch(|| {
                    let planes = out.chunks_exact_mut(inner).zip(x.chunks_exact(inner));
                    let channels = coefficients.iter().cycle();
                    for (((out, x), y), &c) in planes.zip(y.chunks_exact(inner)).zip(channels) {
                        for ((out, &x), &y) in out.iter_mut().zip(x).zip(y) {
                            *out = f(x, y, c);
                        }
                    }
                });
            });
        out
    }

    /// A result per channel: `by_plane` for maps, and `by_lanes`, which sees `LANES` channels from
    /// `first` at a time, where a channel's values are too far apart to be read one by one.
    pub(super) fn per_channel<R: Send>(
        &self,
        by_plane: impl Fn(usize) -> R + Sync,
        by_lanes: impl Fn(usize, usize) -> [R; LANES] + Sync,
    ) -> Vec<R> {
        if self.inner != 1 {
            return (0..self.channels)
                .into_par_iter()
                .map(|channel| Arch::new().dispatch(|| by_plane(channel)))
                .collect();
        }
        let blocks: Vec<[R; LANES]> = (0..self.channels.div_ceil(LANES))
            .into_par_iter()
            .map(|block| {
                let first = block * LANES;
                let lanes = LANES.min(self.channels - first);
                Arch::new().dispatch(|| by_lanes(first, lanes))
            })
            .collect();
        blocks.into_iter().flatten().take(self.channels).collect()
    }
}
