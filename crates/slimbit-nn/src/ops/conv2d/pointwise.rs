//! 1 x 1 kernels at stride 1: matrix products between channels, which read the maps where they lie.
//!
//! Nothing is staged: there is no border and no tap but one. What networks of such layers wait for is
//! memory, so each map is read once for the products, not once to be copied and once more.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::geometry::{Conv, Sizes};
use super::weight_gradient::sum_over_slices;
use crate::ops::host::{grow, zeros};
use crate::ops::register_tile::{
    DEPTH, DotProducts, LEFT, PackedProducts, RIGHT, ROWS, panels_together, tile_width,
};

/// Pixels that one task handles, at least.
const TASK_PIXELS: usize = 512;
/// Pixels along a row of the weight gradient: seven rows fit a first-level cache of 32 KiB.
const ROW_PIXELS: usize = 1024;
/// Pixels of a plane from which its rows are used without a copy.
const IN_PLACE_PIXELS: usize = 256;
/// Rows of the input that meet four rows of the output gradient while those are in the cache.
const BLOCK_ROWS: usize = 4 * RIGHT;

/// Whether a convolution is of this kind.
pub(super) fn applies(sizes: &Sizes, conv: &Conv) -> bool {
    sizes.taps() == 1 && conv.stride == [1; 2] && conv.padding == [0; 4] && sizes.groups == 1
}

/// `target[n][m] = sum_k weight(m, k) * source[n][k]` at every pixel, for `depth` channels `k` of
/// the source and `rows` channels `m` of the target.
pub(super) fn correlate(
    source: &[f32],
    pixels: usize,
    [depth, rows]: [usize; 2],
    weight: impl Fn(usize, usize) -> f32,
) -> Vec<f32> {
    let images = source.len() / (depth * pixels).max(1);
    let weights = pack_weights(rows, depth, weight);
    let chunk = (TASK_PIXELS / pixels.max(1)).clamp(1, (images / 16).max(1));
    let mut target = zeros(images * rows * pixels);
    target
        .par_chunks_mut((chunk * rows * pixels).max(1))
        .zip(source.par_chunks((chunk * depth * pixels).max(1)))
        .for_each_init(Scratch::default, |scratch, (target, source)| {
            Arch::new().dispatch(Task {
                source,
                target,
                weights: &weights,
                pixels,
                channels: [depth, rows],
                scratch,
            });
        });
    target
}

/// `[blocks of ROWS][depth]`, missing rows zero.
fn pack_weights(
    rows: usize,
    depth: usize,
    weight: impl Fn(usize, usize) -> f32,
) -> Vec<[f32; ROWS]> {
    let entry = |first: usize, k: usize| {
        std::array::from_fn(|row| match first + row {
            m if m < rows => weight(m, k),
            _ => 0.0,
        })
    };
    (0..rows)
        .step_by(ROWS)
        .flat_map(|first| (0..depth).map(move |k| (first, k)))
        .map(|(first, k)| entry(first, k))
        .collect()
}

/// Consecutive pixels of one image, and where they go.
#[derive(Clone, Copy)]
struct Run {
    image: usize,
    pixel: usize,
    to: usize,
    length: usize,
}

/// Cuts pixels `first..end`, counted through images of `pixels`, at every image and wherever their
/// place is a multiple of `part`.
fn runs(first: usize, end: usize, pixels: usize, part: usize) -> impl Iterator<Item = Run> {
    let mut at = first;
    std::iter::from_fn(move || {
        let (image, pixel, to) = (at / pixels, at % pixels, at - first);
        let length = (pixels - pixel).min(part - to % part).min(end - at);
        at += length;
        (length > 0).then_some(Run {
            image,
            pixel,
            to,
            length,
        })
    })
}

/// Buffers that tasks hand on, grown as needed.
#[derive(Default)]
struct Scratch {
    runs: Vec<Run>,
    /// `[panels][depths][tile width]`.
    panels: Vec<f32>,
    /// `[rows][pixels of the strip]`.
    strip: Vec<f32>,
}

/// Some images through all products.
struct Task<'a> {
    source: &'a [f32],
    target: &'a mut [f32],
    weights: &'a [[f32; ROWS]],
    pixels: usize,
    /// Of the source and of the target.
    channels: [usize; 2],
    scratch: &'a mut Scratch,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            source,
            target,
            weights,
            pixels,
            channels: [depth, rows],
            scratch,
        } = self;
        let Scratch {
            runs: cut,
            panels,
            strip,
        } = scratch;
        let width = tile_width::<S>();
        let blocks = rows.div_ceil(ROWS);
        let per_strip = panels_together(depth, width, rows, width) * width;
        let total = source.len() / depth;
        for first in (0..total).step_by(per_strip) {
            let end = total.min(first + per_strip);
            let count = (end - first).div_ceil(width);
            grow(panels, count * depth.min(DEPTH) * width);
            grow(strip, blocks * ROWS * count * width);
            cut.clear();
            cut.extend(runs(first, end, pixels, width));
            for start in (0..depth).step_by(DEPTH) {
                let depths = start..depth.min(start + DEPTH);
                for k in depths.clone() {
                    for run in &*cut {
                        let from = (run.image * depth + k) * pixels + run.pixel;
                        let panel = run.to / width * depths.len() + k - start;
                        let to = panel * width + run.to % width;
                        // The common length is a constant, and so a few vector moves.
                        if run.length == width {
                            panels[to..to + width].copy_from_slice(&source[from..from + width]);
                        } else {
                            panels[to..to + run.length]
                                .copy_from_slice(&source[from..from + run.length]);
                        }
                    }
                }
                let products = PackedProducts {
                    weights,
                    all_depths: depth,
                    depths,
                    panels,
                    count,
                    row: width,
                    out: strip,
                };
                products.multiply(simd);
            }
            for (row, values) in strip.chunks_exact(count * width).take(rows).enumerate() {
                for run in runs(first, end, pixels, usize::MAX) {
                    let to = (run.image * rows + row) * pixels + run.pixel;
                    target[to..to + run.length]
                        .copy_from_slice(&values[run.to..run.to + run.length]);
                }
            }
        }
    }
}

/// `[out, in]`: the products of the output's gradient and the input, summed over all pixels.
pub(super) fn weight_gradient(sizes: &Sizes, input: &[f32], gradient: &[f32]) -> Vec<f32> {
    sum_over_slices(sizes, input, gradient, |input, gradient| {
        Arch::new().dispatch(Slice {
            sizes,
            input,
            gradient,
        })
    })
}

/// The part of the sum over some images.
struct Slice<'a> {
    sizes: &'a Sizes,
    input: &'a [f32],
    gradient: &'a [f32],
}

impl WithSimd for Slice<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Self {
            sizes,
            input,
            gradient,
        } = self;
        let (pixels, lanes) = (sizes.in_plane(), S::F32_LANES);
        let [ins, outs] = [sizes.in_channels, sizes.out_channels];
        let mut sum = vec![0.0; outs * ins];
        if pixels >= IN_PLACE_PIXELS && pixels.is_multiple_of(lanes) && outs.is_multiple_of(LEFT) {
            let images = input.chunks_exact(ins * pixels);
            for (input, gradient) in images.zip(gradient.chunks_exact(outs * pixels)) {
                for first in (0..pixels).step_by(ROW_PIXELS) {
                    let rows = Rows {
                        left: &gradient[first..],
                        right: &input[first..],
                        pitch: pixels,
                        span: ROW_PIXELS.min(pixels - first),
                    };
                    rows.add_products(simd, [ins, outs], &mut sum);
                }
            }
            return sum;
        }
        let total = input.len() / ins;
        let row = ROW_PIXELS.min(total).next_multiple_of(lanes);
        // Rows whose distance is a power of two share the sets of the caches.
        let pitch = row + 2 * lanes;
        let mut left = vec![0.0; outs.next_multiple_of(LEFT) * pitch];
        let mut right = vec![0.0; ins * pitch];
        for first in (0..total).step_by(row) {
            let end = total.min(first + row);
            for (source, channels, rows) in [(gradient, outs, &mut left), (input, ins, &mut right)]
            {
                for (channel, row) in rows.chunks_exact_mut(pitch).take(channels).enumerate() {
                    for run in runs(first, end, pixels, usize::MAX) {
                        let from = (run.image * channels + channel) * pixels + run.pixel;
                        row[run.to..run.to + run.length]
                            .copy_from_slice(&source[from..from + run.length]);
                    }
                    row[end - first..].fill(0.0);
                }
            }
            let rows = Rows {
                left: &left,
                right: &right,
                pitch,
                span: (end - first).next_multiple_of(lanes),
            };
            rows.add_products(simd, [ins, outs], &mut sum);
        }
        sum
    }
}

/// Rows of pixels, a channel each, of the output's gradient and of the input.
struct Rows<'a> {
    left: &'a [f32],
    right: &'a [f32],
    /// Floats from a row to the next.
    pitch: usize,
    /// Floats of a row: a whole number of vectors.
    span: usize,
}

impl Rows<'_> {
    /// Adds the dot products of all pairs to `[outs][ins]`.
    #[inline(always)]
    fn add_products<S: Simd>(&self, simd: S, [ins, outs]: [usize; 2], sum: &mut [f32]) {
        for block in (0..ins).step_by(BLOCK_ROWS) {
            for out in (0..outs).step_by(LEFT) {
                for first in (block..ins.min(block + BLOCK_ROWS)).step_by(RIGHT) {
                    let tile = simd.vectorize(DotProducts {
                        left: &self.left[out * self.pitch..],
                        left_row: self.pitch,
                        left_image: 0,
                        right: self.right,
                        right_image: 0,
                        // A missing row is the last one once more.
                        offsets: std::array::from_fn(|v| (first + v).min(ins - 1) * self.pitch),
                        span: self.span,
                        images: 1,
                    });
                    let columns = RIGHT.min(ins - first);
                    for (row, dots) in tile.iter().enumerate().take(outs - out) {
                        let at = (out + row) * ins + first;
                        for (t, v) in sum[at..at + columns].iter_mut().zip(dots) {
                            *t += v;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_end_at_images_and_parts() {
        let found = |first, end, part| -> Vec<[usize; 4]> {
            runs(first, end, 5, part)
                .map(|run| [run.image, run.pixel, run.to, run.length])
                .collect()
        };
        assert_eq!(
            found(3, 12, usize::MAX),
            [[0, 3, 0, 2], [1, 0, 2, 5], [2, 0, 7, 2]]
        );
        assert_eq!(
            found(5, 12, 3),
            [[1, 0, 0, 3], [1, 3, 3, 2], [2, 0, 5, 1], [2, 1, 6, 1]]
        );
        assert!(found(4, 4, 3).is_empty());
    }
}
