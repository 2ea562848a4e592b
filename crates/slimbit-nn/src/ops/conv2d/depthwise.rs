//! One channel to one channel: short sums over staged planes, limited by loads.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::dense::SLACK;
use super::geometry::{Correlation, Sizes};
use super::weight_gradient::{spread_rows, sum_over_slices};
use crate::ops::host::zeros;
use crate::ops::register_tile::store;

/// Vectors of outputs that are summed side by side.
const SIDE_BY_SIDE: usize = 4;
/// Kernel elements whose gradients are summed side by side.
const TAPS: usize = 9;

/// `target[n][c] = sum_tap weights[c][tap] * source[n][c]` at every grid position.
///
/// `source` is `[images, channels, rows, columns]`, `weights` is `[channels, taps]`.
pub(super) fn correlate(
    plan: &Correlation,
    source: &[f32],
    weights: &[f32],
    images: usize,
    channels: usize,
) -> Vec<f32> {
    let target_plane = plan.target[0] * plan.target[1];
    let mut target = zeros(images * channels * target_plane);
    if target.is_empty() || source.is_empty() {
        return target;
    }
    let source_image = source.len() / images;
    target
        .par_chunks_mut(channels * target_plane)
        .zip(source.par_chunks(source_image))
        .for_each(|(target, source)| {
            Arch::new().dispatch(Image {
                plan,
                source,
                weights,
                channels,
                target,
            });
        });
    target
}

struct Image<'a> {
    plan: &'a Correlation,
    source: &'a [f32],
    weights: &'a [f32],
    channels: usize,
    target: &'a mut [f32],
}

impl WithSimd for Image<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            plan,
            source,
            weights,
            channels,
            target,
        } = self;
        let lanes = SIDE_BY_SIDE * S::F32_LANES;
        let pitch = plan.staging.pitch;
        let mut staged = vec![0.0; plan.staging.plane() + SLACK.max(lanes)];
        let mut strip = Vec::new();
        let planes = source.chunks_exact(source.len() / channels);
        let targets = target.chunks_exact_mut(plan.target[0] * plan.target[1]);
        let weights = weights.chunks_exact(weights.len() / channels);
        for ((source, target), weights) in planes.zip(targets).zip(weights) {
            let plane = plan.staging.plane();
            plan.staging.stage(source, &mut staged[..plane]);
            for grid in &plan.grids {
                let span = (grid.size[0] - 1) * pitch + grid.size[1];
                strip.resize(strip.len().max(span.next_multiple_of(lanes)), 0.0);
                for at in (0..span).step_by(lanes) {
                    let mut sums = [simd.splat_f32s(0.0); SIDE_BY_SIDE];
                    for tap in &grid.taps {
                        let weight = simd.splat_f32s(weights[tap.index]);
                        let from = at + tap.offset;
                        let (x, _) = S::as_simd_f32s(&staged[from..from + lanes]);
                        for v in 0..SIDE_BY_SIDE {
                            sums[v] = simd.mul_add_e_f32s(weight, x[v], sums[v]);
                        }
                    }
                    store::<S>(&sums, &mut strip[at..]);
                }
                for row in 0..grid.size[0] {
                    let values = &strip[row * pitch..][..grid.size[1]];
                    let start = (grid.origin[0] + row * grid.step[0]) * plan.target[1];
                    let target = &mut target[start + grid.origin[1]..];
                    if grid.step[1] == 1 {
                        target[..values.len()].copy_from_slice(values);
                    } else {
                        for (t, v) in target.iter_mut().step_by(grid.step[1]).zip(values) {
                            *t = *v;
                        }
                    }
                }
            }
        }
    }
}

/// `[channels, taps]` from the input and the output gradient.
pub(super) fn weight_gradient(
    plan: &Correlation,
    sizes: &Sizes,
    input: &[f32],
    output_gradient: &[f32],
) -> Vec<f32> {
    sum_over_slices(sizes, input, output_gradient, |input, gradient| {
        Arch::new().dispatch(Slice {
            plan,
            sizes,
            input,
            gradient,
        })
    })
}

struct Slice<'a> {
    plan: &'a Correlation,
    sizes: &'a Sizes,
    input: &'a [f32],
    gradient: &'a [f32],
}

impl WithSimd for Slice<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Self {
            plan,
            sizes,
            input,
            gradient,
        } = self;
        let taps = sizes.taps();
        let pitch = plan.staging.pitch;
        let mut offsets: Vec<usize> = plan.grids[0].taps.iter().map(|tap| tap.offset).collect();
        offsets.resize(taps.next_multiple_of(TAPS), offsets[taps - 1]);
        let span = (sizes.output[0] - 1) * pitch + sizes.output[1];
        let span = span.next_multiple_of(S::F32_LANES);
        let mut staged = vec![0.0; plan.staging.plane() + SLACK];
        let mut spread = vec![0.0; span];
        let mut sum = vec![0.0; sizes.out_channels * taps];
        let planes = input.chunks_exact(sizes.in_plane());
        let gradients = gradient.chunks_exact(sizes.out_plane());
        for (index, (input, gradient)) in planes.zip(gradients).enumerate() {
            let plane = plan.staging.plane();
            plan.staging.stage(input, &mut staged[..plane]);
            spread_rows(gradient, sizes.output, pitch, &mut spread);
            let (rows, _) = S::as_simd_f32s(&spread);
            let channel = index % sizes.in_channels;
            let sum = &mut sum[channel * taps..(channel + 1) * taps];
            for (sum, offsets) in sum.chunks_mut(TAPS).zip(offsets.chunks_exact(TAPS)) {
                let x: [&[S::f32s]; TAPS] = std::array::from_fn(|tap| {
                    let from = offsets[tap];
                    &S::as_simd_f32s(&staged[from..from + span]).0[..rows.len()]
                });
                let mut dots = [simd.splat_f32s(0.0); TAPS];
                for (step, &g) in rows.iter().enumerate() {
                    for tap in 0..TAPS {
                        dots[tap] = simd.mul_add_e_f32s(g, x[tap][step], dots[tap]);
                    }
                }
                for (sum, dot) in sum.iter_mut().zip(dots) {
                    *sum += simd.reduce_sum_f32s(dot);
                }
            }
        }
        sum
    }
}
