//! The weight gradient of many channels: one product over all pixels of all images.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::dense::SLACK;
use super::gather::{ROW_SLACK, Runs};
use super::geometry::{Correlation, Sizes};
use crate::ops::register_tile::{DotProducts, LEFT, RIGHT};

/// Pixels per slice of the sum, at least: adding a slice to the total must cost little beside it.
const SLICE_PIXELS: usize = 512;
/// Slices at most, and so threads that can work at once.
const MAX_SLICES: usize = 16;
/// Floats along a row, about: few enough for several rows in the first-level cache, many enough
/// that summing up the lanes at its end is cheap.
const ROW_FLOATS: usize = 512;
/// Floats of right-hand rows that are used together.
const BLOCK_FLOATS: usize = 1 << 12;
/// Floats per step of gathering, and what a step costs beside an output channel's multiply-adds.
const COPY_FLOATS: usize = 8;
const COPY_COST: usize = 6;

/// The sum of `part(input, output gradient)` over slices of the images, which threads work on side by
/// side and which are added in order. The slices depend on shapes alone.
pub(super) fn sum_over_slices(
    sizes: &Sizes,
    input: &[f32],
    output_gradient: &[f32],
    part: impl Fn(&[f32], &[f32]) -> Vec<f32> + Sync,
) -> Vec<f32> {
    let images = sizes.images;
    let input_image = sizes.in_channels * sizes.in_plane();
    let output_image = sizes.out_channels * sizes.out_plane();
    let count = (images * sizes.out_plane() / SLICE_PIXELS)
        .min(images)
        .clamp(1, MAX_SLICES);
    let parts = (0..count)
        .into_par_iter()
        .map(|i| {
            let (first, end) = (i * images / count, (i + 1) * images / count);
            part(
                &input[first * input_image..end * input_image],
                &output_gradient[first * output_image..end * output_image],
            )
        })
        .collect();
    sum_in_order(parts)
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
    offsets.resize(depth.next_multiple_of(RIGHT), offsets[depth - 1]);
    sum_over_slices(sizes, input, output_gradient, |input, gradient| {
        Arch::new().dispatch(Slice {
            plan,
            sizes,
            offsets: &offsets,
            depth,
            input,
            gradient,
        })
    })
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
        let per_group = sizes.out_per_group();
        let in_group = sizes.in_per_group() * sizes.in_plane();
        let out_group = per_group * sizes.out_plane();
        let staged_image = sizes.in_per_group() * plan.staging.plane();
        let total = input.len() / (in_group * sizes.groups);
        let layout = Layout::new::<S>(plan, sizes, total);

        let mut staged = vec![0.0; layout.batch * staged_image + SLACK];
        let mut left = vec![0.0; layout.blocks * layout.parts * LEFT * layout.span];
        let mut columns = vec![0.0; layout.block_rows * (layout.span + ROW_SLACK)];
        let mut sum = vec![0.0; sizes.out_channels * depth];
        for group in 0..sizes.groups {
            let group_sum = &mut sum[group * per_group * depth..(group + 1) * per_group * depth];
            for first in (0..total).step_by(layout.batch) {
                let images = layout.batch.min(total - first);
                for image in 0..images {
                    let from = ((first + image) * sizes.groups + group) * in_group;
                    plan.staging.stage(
                        &input[from..from + in_group],
                        &mut staged[image * staged_image..(image + 1) * staged_image],
                    );
                    let from = ((first + image) * sizes.groups + group) * out_group;
                    layout.spread(&gradient[from..from + out_group], image, &mut left);
                }
                if images < layout.batch {
                    layout.clear(images, &mut left);
                }
                for (block, offsets) in offsets.chunks(layout.block_rows).enumerate() {
                    let (right, starts) = if layout.gathered {
                        let row_len = layout.span + ROW_SLACK;
                        let runs = Runs {
                            size: sizes.output,
                            pitch: plan.staging.pitch,
                            image: staged_image,
                        };
                        let pixels = 0..images * sizes.out_plane();
                        runs.gather(&staged, offsets, pixels, &mut columns, row_len);
                        (&columns, Starts::Rows(row_len))
                    } else {
                        (&staged, Starts::Offsets(offsets))
                    };
                    for out_block in 0..layout.blocks {
                        let left = &left[out_block * layout.parts * LEFT * layout.span..];
                        for triple in 0..offsets.len() / RIGHT {
                            let tile = simd.vectorize(DotProducts {
                                left,
                                left_row: layout.span,
                                left_image: LEFT * layout.span,
                                right,
                                right_image: staged_image,
                                offsets: starts.triple(triple),
                                span: layout.span,
                                images: if layout.gathered { 1 } else { images },
                            });
                            let rows = LEFT.min(per_group - out_block * LEFT);
                            let column = block * layout.block_rows + triple * RIGHT;
                            let columns = RIGHT.min(depth - column);
                            for (row, dots) in tile.iter().enumerate().take(rows) {
                                let at = (out_block * LEFT + row) * depth + column;
                                for (t, v) in group_sum[at..at + columns].iter_mut().zip(dots) {
                                    *t += v;
                                }
                            }
                        }
                    }
                }
            }
        }
        sum
    }
}

/// Where the rows of the right-hand matrix start.
enum Starts<'a> {
    /// In the staged images.
    Offsets(&'a [usize]),
    /// In gathered rows of this length.
    Rows(usize),
}

impl Starts<'_> {
    #[inline(always)]
    fn triple(&self, triple: usize) -> [usize; RIGHT] {
        std::array::from_fn(|v| match self {
            Self::Offsets(offsets) => offsets[triple * RIGHT + v],
            Self::Rows(length) => (triple * RIGHT + v) * length,
        })
    }
}

/// How a batch of images becomes the rows of the two matrices.
///
/// In place, a row is an image's plane in padded coordinates, gaps and all, once per image; the
/// output gradient is spread out likewise, with zeros in the gaps. Gathered, a row is all pixels of
/// the batch without gaps, at the price of copying them.
struct Layout {
    gathered: bool,
    /// Images that are summed at a time.
    batch: usize,
    /// Parts of a row: the images, or one.
    parts: usize,
    /// Floats of a part, a whole number of vectors.
    span: usize,
    /// Blocks of [`LEFT`] output channels.
    blocks: usize,
    /// Right-hand rows that are used together while they are in the first-level cache.
    block_rows: usize,
    output: [usize; 2],
    pitch: usize,
}

impl Layout {
    fn new<S: Simd>(plan: &Correlation, sizes: &Sizes, images: usize) -> Self {
        let pitch = plan.staging.pitch;
        let [height, width] = sizes.output;
        let (plane, lanes) = (height * width, S::F32_LANES);
        let in_place = ((height - 1) * pitch + width).next_multiple_of(lanes);
        // Per row and image: a vector step serves all output channels, a gathered one costs a copy.
        let channels = sizes.out_per_group();
        let steps = height * width.div_ceil(COPY_FLOATS) * COPY_COST;
        let gathered = plane * channels + steps * lanes < in_place * channels;
        let row = if gathered { plane } else { in_place };
        let batches = ((images * row + ROW_FLOATS / 2) / ROW_FLOATS).clamp(1, images.max(1));
        let batch = images.div_ceil(batches).max(1);
        let (parts, span) = if gathered {
            (1, (batch * plane).next_multiple_of(lanes))
        } else {
            (batch, in_place)
        };
        let rows = if gathered {
            BLOCK_FLOATS / span
        } else {
            BLOCK_FLOATS / (batch * plan.staging.plane()) * sizes.taps()
        };
        Self {
            gathered,
            batch,
            parts,
            span,
            blocks: channels.div_ceil(LEFT),
            block_rows: rows.max(1).next_multiple_of(RIGHT),
            output: sizes.output,
            pitch,
        }
    }

    /// Copies an image's output gradient to its place in `[blocks][parts][LEFT][span]`.
    fn spread(&self, channels: &[f32], image: usize, left: &mut [f32]) {
        let [height, width] = self.output;
        for (channel, values) in channels.chunks_exact(height * width).enumerate() {
            let part = if self.gathered { 0 } else { image };
            let row = (channel / LEFT * self.parts + part) * LEFT + channel % LEFT;
            let row = &mut left[row * self.span..(row + 1) * self.span];
            if self.gathered {
                row[image * values.len()..(image + 1) * values.len()].copy_from_slice(values);
            } else {
                spread_rows(values, self.output, self.pitch, row);
            }
        }
    }

    /// Zeroes what an earlier, larger batch left behind the last image.
    fn clear(&self, images: usize, left: &mut [f32]) {
        if self.gathered {
            let pixels = images * self.output[0] * self.output[1];
            for row in left.chunks_exact_mut(self.span) {
                row[pixels..].fill(0.0);
            }
        }
    }
}

/// Copies a plane with its rows `pitch` floats apart; the floats between are left as they are.
pub(super) fn spread_rows(plane: &[f32], [_, width]: [usize; 2], pitch: usize, spread: &mut [f32]) {
    for (row, source) in plane.chunks_exact(width).enumerate() {
        spread[row * pitch..row * pitch + width].copy_from_slice(source);
    }
}
