//! The weight gradient of many channels: one product over all pixels of all images.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::dense::SLACK;
use super::geometry::{Correlation, Sizes};
use crate::ops::register_tile::{ROWS, VECTORS, dot_products};

/// Pixels per slice of the sum, at least: adding a slice to the total must cost little beside it.
const SLICE_PIXELS: usize = 256;
/// Slices at most, and so threads that can work at once.
const MAX_SLICES: usize = 16;
/// Floats of staged images that a slice holds at a time.
const STAGED_FLOATS: usize = 1 << 16;

/// Ranges of images that are summed apart and then added in order. They depend on shapes alone.
pub(super) fn slices(images: usize, pixels: usize) -> Vec<std::ops::Range<usize>> {
    let count = (images * pixels / SLICE_PIXELS)
        .min(images)
        .clamp(1, MAX_SLICES);
    (0..count)
        .map(|i| i * images / count..(i + 1) * images / count)
        .collect()
}

/// Adds `parts` in order.
pub(super) fn sum_in_order(parts: Vec<Vec<f32>>) -> Vec<f32> {
    let mut parts = parts.into_iter();
    let mut total = parts.next().unwrap_or_default();
    for part in parts {
        for (t, p) in total.iter_mut().zip(part) {
            *t += p;
        }
    }
    total
}

/// `[out, in / groups, kernel rows, kernel columns]` from the input and the output gradient.
pub(super) fn weight_gradient(
    plan: &Correlation,
    sizes: &Sizes,
    input: &[f32],
    output_gradient: &[f32],
) -> Vec<f32> {
    let plane = plan.staging.plane();
    let taps = &plan.grids[0].taps;
    let mut offsets: Vec<usize> = (0..sizes.in_per_group())
        .flat_map(|channel| taps.iter().map(move |tap| channel * plane + tap.offset))
        .collect();
    let depth = offsets.len();
    offsets.resize(depth.next_multiple_of(VECTORS), offsets[depth - 1]);
    let parts = slices(sizes.images, sizes.out_plane())
        .into_par_iter()
        .map(|images| {
            let input_image = sizes.in_channels * sizes.in_plane();
            let output_image = sizes.out_channels * sizes.out_plane();
            Arch::new().dispatch(Slice {
                plan,
                sizes,
                offsets: &offsets,
                depth,
                input: &input[images.start * input_image..images.end * input_image],
                gradient: &output_gradient[images.start * output_image..images.end * output_image],
            })
        })
        .collect();
    sum_in_order(parts)
}

/// The part of the sum over some images.
struct Slice<'a> {
    plan: &'a Correlation,
    sizes: &'a Sizes,
    offsets: &'a [usize],
    depth: usize,
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
            offsets,
            depth,
            input,
            gradient,
        } = self;
        let [height, width] = sizes.output;
        let pitch = plan.staging.pitch;
        let span = ((height - 1) * pitch + width).next_multiple_of(S::F32_LANES);
        let per_group = sizes.out_per_group();
        let padded_channels = per_group.next_multiple_of(ROWS);
        let staged_image = sizes.in_per_group() * plan.staging.plane();
        let gradient_image = padded_channels * span;
        let input_image = sizes.in_channels * sizes.in_plane();
        let output_image = sizes.out_channels * sizes.out_plane();
        let total = input.len() / input_image;
        let batch = (STAGED_FLOATS / staged_image.max(gradient_image)).clamp(1, total.max(1));

        let mut staged = vec![0.0; batch * staged_image + SLACK];
        let mut spread = vec![0.0; batch * gradient_image];
        let mut sum = vec![0.0; sizes.out_channels * depth];
        for group in 0..sizes.groups {
            let group_sum = &mut sum[group * per_group * depth..(group + 1) * per_group * depth];
            for first in (0..total).step_by(batch) {
                let images = batch.min(total - first);
                for image in 0..images {
                    let channels = sizes.in_per_group() * sizes.in_plane();
                    let from = (first + image) * input_image + group * channels;
                    plan.staging.stage(
                        &input[from..from + channels],
                        &mut staged[image * staged_image..(image + 1) * staged_image],
                    );
                    let channels = per_group * sizes.out_plane();
                    let from = (first + image) * output_image + group * channels;
                    spread_rows(
                        &gradient[from..from + channels],
                        sizes.output,
                        pitch,
                        span,
                        &mut spread[image * gradient_image..(image + 1) * gradient_image],
                    );
                }
                for block in (0..per_group).step_by(ROWS) {
                    for (triple, offsets) in offsets.chunks_exact(VECTORS).enumerate() {
                        let mut tile = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
                        for image in 0..images {
                            let rows = &spread[image * gradient_image + block * span..];
                            let image = &staged[image * staged_image..];
                            dot_products(
                                simd,
                                std::array::from_fn(|row| &rows[row * span..(row + 1) * span]),
                                std::array::from_fn(|v| &image[offsets[v]..offsets[v] + span]),
                                &mut tile,
                            );
                        }
                        let rows = ROWS.min(per_group - block);
                        let columns = VECTORS.min(depth - triple * VECTORS);
                        for (row, vectors) in tile.iter().enumerate().take(rows) {
                            let at = (block + row) * depth + triple * VECTORS;
                            for (t, v) in group_sum[at..at + columns].iter_mut().zip(vectors) {
                                *t += simd.reduce_sum_f32s(*v);
                            }
                        }
                    }
                }
            }
        }
        sum
    }
}

/// Copies each channel with its rows `pitch` floats apart; the floats between stay zero.
pub(super) fn spread_rows(
    channels: &[f32],
    [height, width]: [usize; 2],
    pitch: usize,
    span: usize,
    spread: &mut [f32],
) {
    for (source, target) in channels
        .chunks_exact(height * width)
        .zip(spread.chunks_exact_mut(span))
    {
        for (row, source) in source.chunks_exact(width).enumerate() {
            target[row * pitch..row * pitch + width].copy_from_slice(source);
        }
    }
}
