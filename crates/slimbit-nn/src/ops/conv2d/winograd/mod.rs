//! 3 x 3 convolution at stride 1 by Winograd's minimal filtering F(4 x 4, 3 x 3): 36 products per
//! pair of channels and tile of 16 outputs, where the direct sum has 144.
//!
//! Maps are cut into tiles, each is transformed, and each of the 36 positions of a tile becomes a
//! matrix product over channels, forwards as well as backwards. Blocks of a few tiles go through all
//! of that at once, so that the transformed map never exists as a whole. Both gradients are the exact
//! adjoints of the forward pass and share the transformed gradient of the output.
//!
//! Rounding errors are a few times those of direct sums: about 1e-6 of the output's magnitude.

mod kernels;
mod products;
mod rows;
mod tiles;
mod transforms;

use std::cell::Cell;
use std::marker::PhantomData;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use self::products::{GAP, KernelProducts, TileProducts};
use self::rows::{CHANNELS, Rows};
use self::tiles::{Cut, Products, ToInput, ToOutput, Transform, product_position, working};
use self::transforms::{Input, KERNEL, Linear, OUTPUTS, OutputAdjoint, POSITIONS, SIDE};
use super::geometry::{Conv, Sizes};
use super::weight_gradient::sum_in_order;
use crate::ops::host::{grow, zeros};

/// Products that are worth a task of their own.
const TASK_PRODUCTS: usize = 1 << 21;
/// Parts of the kernel's gradient that are summed apart, at most, and floats of all of them.
const MAX_PARTS: usize = 16;
const PART_FLOATS: usize = 1 << 23;
/// Channels on either side, and rows or columns of the output, from which tiles pay.
const LEAST_CHANNELS: usize = 16;
const LEAST_SIDE: usize = 3;

/// Whether tiles are the faster way for a convolution.
pub(super) fn pays(sizes: &Sizes, conv: &Conv) -> bool {
    sizes.kernel == [KERNEL; 2]
        && conv.stride == [1; 2]
        && conv.dilation == [1; 2]
        && sizes.groups == 1
        && sizes.in_channels.min(sizes.out_channels) >= LEAST_CHANNELS
        && sizes.output[0].min(sizes.output[1]) >= LEAST_SIDE
}

/// Where everything lies.
struct Plan {
    cut: Cut,
    /// Input and output channels.
    channels: [usize; 2],
    input: Rows,
    output: Rows,
    /// Floats from a pixel to the next of the input and of the output.
    pitch: [usize; 2],
}

impl Plan {
    fn new(sizes: &Sizes, conv: &Conv) -> Self {
        let cut = Cut::new(sizes.output);
        let [down, across] = cut.tiles;
        let channels = [sizes.in_channels, sizes.out_channels];
        let lanes = Arch::new().dispatch(Lanes).max(CHANNELS);
        let pitch = channels.map(|channels| {
            let pitch = channels.next_multiple_of(lanes);
            // Pixels whose distance is a power of two share the sets of the caches.
            if pitch.is_multiple_of(128) {
                pitch + 16
            } else {
                pitch
            }
        });
        let origin = [conv.padding[0], conv.padding[1]];
        let overlap = SIDE - OUTPUTS;
        let input_rows = [down * OUTPUTS + overlap, across + 1];
        let output_rows = [down * OUTPUTS, across];
        Self {
            cut,
            channels,
            input: Rows::new(sizes.input, channels[0], origin, input_rows, pitch[0]),
            output: Rows::new(sizes.output, channels[1], [0; 2], output_rows, pitch[1]),
            pitch,
        }
    }

    /// Positions that one task multiplies at least.
    fn positions_per_task(&self, images: usize) -> usize {
        let products = self.cut.tiles_of(images) * self.channels[0] * self.channels[1];
        (TASK_PRODUCTS / products.max(1)).clamp(1, POSITIONS)
    }
}

struct Lanes;

impl WithSimd for Lanes {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> usize {
        S::F32_LANES
    }
}

/// `[images, out, rows, columns]` from the input and the kernels `[out, in, 3, 3]`.
pub(super) fn forward(sizes: &Sizes, conv: &Conv, input: &[f32], kernels: &[f32]) -> Vec<f32> {
    let plan = Plan::new(sizes, conv);
    let [ins, outs] = plan.channels;
    let kernel = |channel: usize, out: usize| taps(kernels, out * ins + channel);
    let packed = kernels::pack(ins, outs, kernel);
    let block = plan.cut.images_per_block();
    let mut output = zeros(sizes.images * plan.output.planes());
    output
        .par_chunks_mut(block * plan.output.planes())
        .zip(input.par_chunks(block * plan.input.planes()))
        .for_each_init(Memory::take, |memory, (output, input)| {
            let images = input.len() / plan.input.planes();
            memory.transform_input(&plan, input);
            memory.products(&plan, Side::Input, images, &packed);
            memory.write_output(&plan, output);
        });
    output
}

/// The gradient of the input, if wanted, and that of the kernels, if wanted, from the output's.
pub(super) fn gradients(
    sizes: &Sizes,
    conv: &Conv,
    [input, kernels, gradient]: [&[f32]; 3],
    [wants_input, wants_kernels]: [bool; 2],
) -> [Vec<f32>; 2] {
    let plan = Plan::new(sizes, conv);
    let [ins, outs] = plan.channels;
    let packed = if wants_input {
        kernels::pack(outs, ins, |out, channel| taps(kernels, out * ins + channel))
    } else {
        vec![]
    };
    let sum_position = ins * plan.pitch[1] + GAP;
    let blocks = sizes.images.div_ceil(plan.cut.images_per_block());
    let parts = (PART_FLOATS / (POSITIONS * sum_position)).clamp(1, MAX_PARTS);
    let block = plan.cut.images_per_block();
    let part = blocks.div_ceil(parts) * block;
    let parts = sizes.images.div_ceil(part);

    let mut input_gradient = zeros(if wants_input { input.len() } else { 0 });
    let mut targets: Vec<&mut [f32]> = input_gradient
        .chunks_mut(part * plan.input.planes())
        .collect();
    targets.resize_with(parts, Default::default);
    let sums: Vec<Vec<f32>> = targets
        .into_par_iter()
        .zip(input.par_chunks(part * plan.input.planes()))
        .zip(gradient.par_chunks(part * plan.output.planes()))
        .map_init(
            Memory::default,
            |memory, ((mut target, input), gradient)| {
                let mut sum = vec![
                    0.0;
                    if wants_kernels {
                        POSITIONS * sum_position
                    } else {
                        0
                    }
                ];
                for (input, gradient) in input
                    .chunks(block * plan.input.planes())
                    .zip(gradient.chunks(block * plan.output.planes()))
                {
                    let images = input.len() / plan.input.planes();
                    memory.transform_gradient(&plan, gradient);
                    if wants_kernels {
                        memory.transform_input(&plan, input);
                        memory.add_kernel_products(&plan, images, &mut sum);
                    }
                    if wants_input {
                        memory.products(&plan, Side::Output, images, &packed);
                        let (now, rest) = target.split_at_mut(input.len());
                        memory.write_input(&plan, now);
                        target = rest;
                    }
                }
                sum
            },
        )
        .collect();
    let kernel_gradient = if wants_kernels {
        let sum = sum_in_order(sums);
        kernels::gradient(&sum, plan.channels, (sum_position, plan.pitch[1]))
    } else {
        vec![]
    };
    [input_gradient, kernel_gradient]
}

/// The elements of one kernel.
fn taps(kernels: &[f32], index: usize) -> &[f32] {
    &kernels[index * KERNEL * KERNEL..(index + 1) * KERNEL * KERNEL]
}

/// What is multiplied with the kernels.
#[derive(Clone, Copy)]
enum Side {
    Input,
    Output,
}

/// Buffers that the blocks of one plan hand on, grown as needed.
#[derive(Default)]
struct Memory {
    /// Transformed tiles of the input and of the output's gradient.
    tiles: [Vec<f32>; 2],
    products: Vec<f32>,
    /// Rows of the input, of the output, and of the input's gradient, whose border is not zero.
    working: [Vec<f32>; 3],
}

/// What products and tiles were last kept in by a thread: fresh memory costs more than the
/// transforms of a small map.
type Spare = ([Vec<f32>; 2], Vec<f32>);

thread_local! {
    static SPARE: Cell<Spare> = const { Cell::new(([vec![], vec![]], vec![])) };
}

impl Drop for Memory {
    fn drop(&mut self) {
        let spare = (
            std::mem::take(&mut self.tiles),
            std::mem::take(&mut self.products),
        );
        // A thread that is ending has no more use for it.
        let _ = SPARE.try_with(|kept| kept.set(spare));
    }
}

impl Memory {
    /// The buffers that this thread used last, if no other block of its own holds them. The borders
    /// of working memory must be zero, so that is made anew.
    fn take() -> Self {
        let (tiles, products) = SPARE.take();
        Self {
            tiles,
            products,
            working: Default::default(),
        }
    }

    fn transform_input(&mut self, plan: &Plan, planes: &[f32]) {
        let buffers = (&mut self.tiles[0], &mut self.working[0]);
        transform::<Input, SIDE>(plan.cut, &plan.input, plan.pitch[0], planes, buffers);
    }

    fn transform_gradient(&mut self, plan: &Plan, planes: &[f32]) {
        let buffers = (&mut self.tiles[1], &mut self.working[1]);
        transform::<OutputAdjoint, OUTPUTS>(plan.cut, &plan.output, plan.pitch[1], planes, buffers);
    }

    /// Multiplies the tiles of one side with the kernels, for the other side.
    fn products(&mut self, plan: &Plan, side: Side, images: usize, kernel: &[f32]) {
        let ([ins, outs], pitch) = (plan.channels, plan.pitch);
        let (from, to, channels) = match side {
            Side::Input => (0, 1, [ins, outs]),
            Side::Output => (1, 0, [outs, ins]),
        };
        let tiles = plan.cut.view(&self.tiles[from], images, pitch[from]);
        let length = product_position(plan.cut, images, pitch[to]);
        grow(&mut self.products, POSITIONS * length);
        self.products[..POSITIONS * length]
            .par_chunks_exact_mut(length)
            .with_min_len(plan.positions_per_task(images))
            .enumerate()
            .for_each(|(position, out)| {
                Arch::new().dispatch(TileProducts {
                    tiles,
                    position,
                    channels,
                    kernel,
                    out,
                    pitch: pitch[to],
                });
            });
    }

    /// Adds the products of the input's and the gradient's tiles to `[POSITIONS][in][pitch]`.
    fn add_kernel_products(&self, plan: &Plan, images: usize, sum: &mut [f32]) {
        let [input, gradient] = &self.tiles;
        let left = plan.cut.view(input, images, plan.pitch[0]);
        let right = plan.cut.view(gradient, images, plan.pitch[1]);
        let position = sum.len() / POSITIONS;
        sum.par_chunks_exact_mut(position)
            .with_min_len(plan.positions_per_task(images))
            .enumerate()
            .for_each(|(position, sum)| {
                Arch::new().dispatch(KernelProducts {
                    left,
                    right,
                    position,
                    channels: plan.channels,
                    sum,
                });
            });
    }

    fn write_output(&mut self, plan: &Plan, planes: &mut [f32]) {
        let (cut, rows, pitch) = (plan.cut, &plan.output, plan.pitch[1]);
        let products = &self.products;
        each_group(
            cut,
            rows,
            planes,
            &mut self.working[1],
            |tile, images, planes, working| {
                let products = products_of(cut, products, images, pitch, tile);
                Arch::new().dispatch(ToOutput {
                    cut,
                    rows,
                    products,
                    planes,
                    working,
                });
            },
        );
    }

    fn write_input(&mut self, plan: &Plan, planes: &mut [f32]) {
        let (cut, rows, pitch) = (plan.cut, &plan.input, plan.pitch[0]);
        let products = &self.products;
        each_group(
            cut,
            rows,
            planes,
            &mut self.working[2],
            |tile, images, planes, working| {
                let products = products_of(cut, products, images, pitch, tile);
                Arch::new().dispatch(ToInput {
                    cut,
                    rows,
                    products,
                    planes,
                    working,
                });
            },
        );
    }
}

fn products_of(cut: Cut, values: &[f32], images: usize, pitch: usize, tile: usize) -> Products<'_> {
    Products {
        values,
        position: product_position(cut, images, pitch),
        pitch,
        tile,
    }
}

fn transform<L: Linear<N, SIDE>, const N: usize>(
    cut: Cut,
    rows: &Rows,
    pitch: usize,
    planes: &[f32],
    (tiles, memory): (&mut Vec<f32>, &mut Vec<f32>),
) {
    let group_planes = cut.images_per_group * rows.planes();
    let groups = planes.len().div_ceil(group_planes);
    grow(tiles, groups * cut.group(pitch));
    grow(memory, groups * working(rows));
    tiles
        .par_chunks_exact_mut(cut.group(pitch))
        .zip(planes.par_chunks(group_planes))
        .zip(memory.par_chunks_exact_mut(working(rows)))
        .for_each(|((group, planes), working)| {
            Arch::new().dispatch(Transform::<L, N> {
                cut,
                rows,
                pitch,
                planes,
                working,
                group,
                by: PhantomData,
            });
        });
}

/// Calls `f(first tile, images, planes of the group, working memory)` for every group of a block.
fn each_group(
    cut: Cut,
    rows: &Rows,
    planes: &mut [f32],
    memory: &mut Vec<f32>,
    f: impl Fn(usize, usize, &mut [f32], &mut [f32]) + Sync,
) {
    let images = planes.len() / rows.planes();
    grow(
        memory,
        images.div_ceil(cut.images_per_group) * working(rows),
    );
    planes
        .par_chunks_mut(cut.images_per_group * rows.planes())
        .zip(memory.par_chunks_exact_mut(working(rows)))
        .enumerate()
        .for_each(|(group, (planes, working))| {
            let tile = cut.tiles_of(group * cut.images_per_group);
            f(tile, images, planes, working);
        });
}
