//! Kernels into the transformed domain, and their gradients back.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::products::{packed_position, panel_width};
use super::transforms::{KERNEL, Kernel, KernelAdjoint, POSITIONS, SIDE, map_square};

/// Elements of a kernel.
const TAPS: usize = KERNEL * KERNEL;

/// Transformed kernels as the products read them: `[panels][POSITIONS][depth][panel width]`, a gap
/// between positions.
///
/// `kernel` gives the elements of the kernel between a channel that is summed over (the depth) and
/// one across the panels.
pub(super) fn pack<'a>(
    depth: usize,
    across: usize,
    kernel: impl Fn(usize, usize) -> &'a [f32] + Copy + Sync,
) -> Vec<f32> {
    let width = Arch::new().dispatch(PanelWidth);
    let panel = POSITIONS * packed_position(depth, width);
    let mut packed = vec![0.0; across.div_ceil(width) * panel];
    packed
        .par_chunks_mut(panel)
        .enumerate()
        .for_each(|(index, panel)| {
            Arch::new().dispatch(Panel {
                depth,
                across: index * width..across.min((index + 1) * width),
                kernel,
                panel,
            });
        });
    packed
}

struct PanelWidth;

impl WithSimd for PanelWidth {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) -> usize {
        panel_width::<S>()
    }
}

struct Panel<'a, F> {
    depth: usize,
    across: std::ops::Range<usize>,
    kernel: F,
    panel: &'a mut [f32],
}

impl<'k, F: Fn(usize, usize) -> &'k [f32]> WithSimd for Panel<'_, F> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            depth,
            across,
            kernel,
            panel,
        } = self;
        let (lanes, width) = (S::F32_LANES, panel_width::<S>());
        let length = packed_position(depth, width);
        let mut taps = [[0.0; MOST_LANES]; TAPS];
        for channel in 0..depth {
            for first in (0..across.len()).step_by(lanes) {
                for lane in 0..lanes.min(across.len() - first) {
                    let kernel = kernel(channel, across.start + first + lane);
                    for (taps, &value) in taps.iter_mut().zip(kernel) {
                        taps[lane] = value;
                    }
                }
                let zero = simd.splat_f32s(0.0);
                let mut square = [[zero; KERNEL]; KERNEL];
                for (tap, values) in taps.iter().enumerate() {
                    square[tap / KERNEL][tap % KERNEL] = S::as_simd_f32s(&values[..lanes]).0[0];
                }
                let square = map_square::<S, Kernel, KERNEL, SIDE>(simd, square);
                for (position, value) in square.as_flattened().iter().enumerate() {
                    let at = position * length + channel * width + first;
                    S::as_mut_simd_f32s(&mut panel[at..at + lanes]).0[0] = *value;
                }
            }
        }
    }
}

/// More lanes than any instruction set has.
const MOST_LANES: usize = 64;

/// `[out][in][3][3]` from sums of products `[POSITIONS][in][pitch]`, positions `position` floats apart.
pub(super) fn gradient(
    sums: &[f32],
    [ins, outs]: [usize; 2],
    (position, pitch): (usize, usize),
) -> Vec<f32> {
    let mut gradient = vec![0.0; outs * ins * TAPS];
    let block = Arch::new().dispatch(PanelWidth);
    gradient
        .par_chunks_mut(block * ins * TAPS)
        .enumerate()
        .for_each(|(index, gradient)| {
            Arch::new().dispatch(GradientBlock {
                sums,
                ins,
                position,
                pitch,
                first: index * block,
                gradient,
            });
        });
    gradient
}

/// The gradients of consecutive output channels.
struct GradientBlock<'a> {
    sums: &'a [f32],
    ins: usize,
    position: usize,
    pitch: usize,
    first: usize,
    gradient: &'a mut [f32],
}

impl WithSimd for GradientBlock<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            sums,
            ins,
            position,
            pitch,
            first,
            gradient,
        } = self;
        let lanes = S::F32_LANES;
        let mut taps = [[0.0; MOST_LANES]; TAPS];
        for (block, gradient) in gradient.chunks_mut(lanes * ins * TAPS).enumerate() {
            let column = first + block * lanes;
            for channel in 0..ins {
                let mut square = [[simd.splat_f32s(0.0); SIDE]; SIDE];
                for at in 0..POSITIONS {
                    let from = at * position + channel * pitch + column;
                    square[at / SIDE][at % SIDE] = S::as_simd_f32s(&sums[from..from + lanes]).0[0];
                }
                let square = map_square::<S, KernelAdjoint, SIDE, KERNEL>(simd, square);
                for (taps, value) in taps.iter_mut().zip(square.as_flattened()) {
                    S::as_mut_simd_f32s(&mut taps[..lanes]).0[0] = *value;
                }
                for (lane, out) in gradient.chunks_exact_mut(ins * TAPS).enumerate() {
                    for (tap, out) in out[channel * TAPS..][..TAPS].iter_mut().enumerate() {
                        *out = taps[tap][lane];
                    }
                }
            }
        }
    }
}
