//! Correlation of many channels: an implicit matrix product over staged images.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::gather::{ROW_SLACK, Runs};
use super::geometry::{Correlation, Grid};
use crate::ops::host::{grow, zeros};
use crate::ops::register_tile::{
    DEPTH, OuterProducts, PackedProducts, ROWS, panels_together, tile_width,
};

/// Floats of staged images that one task holds at a time: about a quarter of a 512 KiB
/// second-level cache.
const STAGED_FLOATS: usize = 1 << 15;
/// Cycles that a depth takes: multiplying one tile, and gathering one panel.
const TILE_CYCLES: usize = 6;
const GATHER_CYCLES: usize = 8;
/// Floats that a vector access may touch beyond the last one it needs.
pub(super) const SLACK: usize = 64;

/// Channels on both sides of a grouped correlation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Channels {
    pub(super) groups: usize,
    pub(super) source_per_group: usize,
    pub(super) target_per_group: usize,
}

/// `target[n][m] = sum_{c, tap} weight(group, m, c, tap) * source[n][c]` at every grid position.
///
/// `source` is `[images, channels, rows, columns]`; `weight` takes the target and source channel
/// within the group and the index of the kernel element.
pub(super) fn correlate(
    plan: &Correlation,
    channels: Channels,
    source: &[f32],
    images: usize,
    weight: impl Fn(usize, usize, usize, usize) -> f32,
) -> Vec<f32> {
    let operands: Vec<Vec<Operand>> = (0..channels.groups)
        .map(|group| {
            let pack = |grid| Operand::new(plan, grid, channels, |m, c, k| weight(group, m, c, k));
            plan.grids.iter().map(pack).collect()
        })
        .collect();
    let target_image =
        channels.groups * channels.target_per_group * plan.target[0] * plan.target[1];
    let source_image = source.len() / images.max(1);
    let mut target = zeros(images * target_image);
    if target.is_empty() || source_image == 0 {
        return target;
    }
    let chunk = images_per_task(plan, channels, images);
    target
        .par_chunks_mut(chunk * target_image)
        .zip(source.par_chunks(chunk * source_image))
        .for_each_init(Scratch::default, |scratch, (target, source)| {
            let operands = &operands;
            Arch::new().dispatch(Task {
                plan,
                channels,
                operands,
                source,
                target,
                scratch,
            });
        });
    target
}

/// Images whose staged planes fit the cache, but enough tasks to keep many threads busy.
fn images_per_task(plan: &Correlation, channels: Channels, images: usize) -> usize {
    let staged = channels.source_per_group * plan.staging.plane();
    (STAGED_FLOATS / staged.max(1)).min(images / 16).max(1)
}

/// The weights of one group and grid in the order that the inner loop reads them.
struct Operand {
    /// `[blocks of ROWS target channels][depth]`, missing channels zero.
    weights: Vec<[f32; ROWS]>,
    /// Where the row of each depth starts in a staged image.
    offsets: Vec<usize>,
}

impl Operand {
    fn new(
        plan: &Correlation,
        grid: &Grid,
        channels: Channels,
        weight: impl Fn(usize, usize, usize) -> f32,
    ) -> Self {
        let plane = plan.staging.plane();
        let depth = || {
            (0..channels.source_per_group)
                .flat_map(|channel| grid.taps.iter().map(move |tap| (channel, tap)))
        };
        let offsets = depth()
            .map(|(channel, tap)| channel * plane + tap.offset)
            .collect();
        let weights = (0..channels.target_per_group.div_ceil(ROWS))
            .flat_map(|block| depth().map(move |(channel, tap)| (block * ROWS, channel, tap.index)))
            .map(|(first, channel, tap)| {
                std::array::from_fn(|row| {
                    let target = first + row;
                    if target < channels.target_per_group {
                        weight(target, channel, tap)
                    } else {
                        0.0
                    }
                })
            })
            .collect();
        Self { weights, offsets }
    }
}

/// Some images through the whole correlation.
struct Task<'a> {
    plan: &'a Correlation,
    channels: Channels,
    operands: &'a [Vec<Operand>],
    source: &'a [f32],
    target: &'a mut [f32],
    scratch: &'a mut Scratch,
}

/// Buffers that tasks of one plan hand on, grown as needed.
#[derive(Default)]
struct Scratch {
    /// Staged images; the padding of one task is that of the next.
    staged: Vec<f32>,
    /// `[panels][depth][tile width and slack]`.
    gathered: Vec<f32>,
    /// `[output channels][positions]`.
    strip: Vec<f32>,
}

impl WithSimd for Task<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            plan,
            channels,
            operands,
            source,
            target,
            scratch,
        } = self;
        let Scratch {
            staged,
            gathered,
            strip,
        } = scratch;
        let [height, width] = plan.target;
        let target_image = channels.groups * channels.target_per_group * height * width;
        let images = target.len() / target_image;
        let source_image = source.len() / images;
        let source_group = source_image / channels.groups;
        let staged_image = channels.source_per_group * plan.staging.plane();
        grow(staged, images * staged_image + SLACK);
        for group in 0..channels.groups {
            for image in 0..images {
                let from = image * source_image + group * source_group;
                plan.staging.stage(
                    &source[from..from + source_group],
                    &mut staged[image * staged_image..(image + 1) * staged_image],
                );
            }
            for (grid, operand) in plan.grids.iter().zip(&operands[group]) {
                let mut view = TargetView {
                    grid,
                    target,
                    image_len: target_image,
                    first_channel: group * channels.target_per_group,
                    channels: channels.target_per_group,
                    size: plan.target,
                };
                let pitch = plan.staging.pitch;
                let pixels = images * grid.size[0] * grid.size[1];
                let span = (grid.size[0] - 1) * pitch + grid.size[1];
                let lanes = tile_width::<S>();
                // Reading in place computes the padding between rows too; gathering does not, but
                // copies each operand once per strip.
                let per_panel = channels.target_per_group.div_ceil(ROWS) * TILE_CYCLES;
                let in_place = images * span.div_ceil(lanes) * per_panel;
                let by_gathering = pixels.div_ceil(lanes) * (per_panel + GATHER_CYCLES);
                if in_place <= by_gathering {
                    for image in 0..images {
                        let staged = &staged[image * staged_image..];
                        read_in_place(simd, operand, staged, span, strip, |m, strip| {
                            view.write_rows(image, m, pitch, strip);
                        });
                    }
                } else {
                    let runs = Runs {
                        size: grid.size,
                        pitch,
                        image: staged_image,
                    };
                    let write = |m, first, strip: &[f32]| view.write_pixels(m, first, strip);
                    let buffers = (&mut *gathered, &mut *strip);
                    gather(simd, operand, staged, (runs, pixels), buffers, write);
                }
            }
        }
    }
}

/// One image's grid in padded coordinates, straight from the staged planes.
#[inline(always)]
fn read_in_place<S: Simd>(
    simd: S,
    operand: &Operand,
    staged: &[f32],
    span: usize,
    strip: &mut Vec<f32>,
    mut write: impl FnMut(usize, &[f32]),
) {
    let lanes = tile_width::<S>();
    let panels = span.div_ceil(lanes);
    let length = panels * lanes;
    grow(strip, ROWS * length);
    for (block, weights) in operand
        .weights
        .chunks_exact(operand.offsets.len())
        .enumerate()
    {
        simd.vectorize(OuterProducts {
            weights,
            source: staged,
            offsets: &operand.offsets,
            panels,
            panel_stride: lanes,
            out: strip,
            out_row: length,
            add: false,
        });
        for (row, values) in strip.chunks_exact(length).take(ROWS).enumerate() {
            write(block * ROWS + row, values);
        }
    }
}

/// Consecutive pixels of consecutive images, gathered into columns first.
#[inline(always)]
fn gather<S: Simd>(
    simd: S,
    operand: &Operand,
    staged: &[f32],
    (runs, pixels): (Runs, usize),
    (gathered, strip): (&mut Vec<f32>, &mut Vec<f32>),
    mut write: impl FnMut(usize, usize, &[f32]),
) {
    let lanes = tile_width::<S>();
    let depth = operand.offsets.len();
    let rows = operand.weights.len() / depth * ROWS;
    let row = lanes + ROW_SLACK;
    let per_strip = panels_together(depth, row, rows, lanes) * lanes;
    for first in (0..pixels).step_by(per_strip) {
        let count = per_strip.min(pixels - first);
        let panels = count.div_ceil(lanes);
        grow(gathered, panels * depth.min(DEPTH) * row);
        grow(strip, rows * panels * lanes);
        for start in (0..depth).step_by(DEPTH) {
            let depths = start..depth.min(start + DEPTH);
            let columns = gathered.chunks_exact_mut(depths.len() * row);
            for (panel, columns) in columns.take(panels).enumerate() {
                let from = first + panel * lanes;
                let until = (from + lanes).min(first + count);
                let offsets = &operand.offsets[depths.clone()];
                runs.gather(staged, offsets, from..until, columns, row);
            }
            let products = PackedProducts {
                weights: &operand.weights,
                all_depths: depth,
                depths,
                panels: gathered,
                count: panels,
                row,
                out: strip,
            };
            products.multiply(simd);
        }
        for (m, values) in strip.chunks_exact(panels * lanes).take(rows).enumerate() {
            write(m, first, &values[..count]);
        }
    }
}

/// One group's channels of the target, addressed by grid position.
struct TargetView<'a> {
    grid: &'a Grid,
    target: &'a mut [f32],
    image_len: usize,
    first_channel: usize,
    channels: usize,
    size: [usize; 2],
}

impl TargetView<'_> {
    /// Writes a channel of one image whose rows lie `pitch` floats apart.
    fn write_rows(&mut self, image: usize, channel: usize, pitch: usize, values: &[f32]) {
        if channel >= self.channels {
            return;
        }
        for row in 0..self.grid.size[0] {
            self.write_run(
                image,
                channel,
                row,
                0,
                &values[row * pitch..][..self.grid.size[1]],
            );
        }
    }

    /// Writes consecutive pixels, counted through the images, of a channel.
    fn write_pixels(&mut self, channel: usize, first: usize, values: &[f32]) {
        if channel >= self.channels {
            return;
        }
        let [mut rows, mut width] = self.grid.size;
        if self.grid.size == self.size {
            (rows, width) = (1, rows * width);
        }
        let mut done = 0;
        while done < values.len() {
            let (row, column) = ((first + done) / width, (first + done) % width);
            let length = (width - column).min(values.len() - done);
            let run = &values[done..done + length];
            self.write_run(row / rows, channel, row % rows, column, run);
            done += length;
        }
    }

    fn write_run(
        &mut self,
        image: usize,
        channel: usize,
        row: usize,
        column: usize,
        values: &[f32],
    ) {
        let [height, width] = self.size;
        let plane = image * self.image_len + (self.first_channel + channel) * height * width;
        let row = self.grid.origin[0] + row * self.grid.step[0];
        let step = self.grid.step[1];
        let start = plane + row * width + self.grid.origin[1] + column * step;
        if step == 1 {
            self.target[start..start + values.len()].copy_from_slice(values);
        } else {
            for (t, v) in self.target[start..].iter_mut().step_by(step).zip(values) {
                *t = *v;
            }
        }
    }
}
