//! Dense and grouped convolutions, 1×1 and linear among them.
//!
//! Weights are cut into panels of up to 64 channels. A panel passes over all pixels while it stays
//! in the second-level cache, and sums never leave the registers before they are complete.

use super::rescale::{FULL, Form, Rescale16, SHIFTED, UPPER, to_bytes};
use super::tile::{LANES, MAX_VECTORS, Runs, SUMS, Sums, TILES};
use super::{Block, first};
use crate::conv::{ConvKernel, ConvWeights, Output, Part};
use crate::{ConvGeometry, Map};
use slimbit_num::Clip;
use std::arch::x86_64::*;

/// Codes of a run that is worth joining with its neighbours although it is not a multiple of four: the
/// colours of an image, not the channels of a layer.
const SHORT_RUN: usize = 16;

pub(super) fn pack(packable: &ConvWeights<'_>) -> Box<dyn ConvKernel> {
    let geometry = &packable.geometry;
    let inputs = geometry.group_inputs();
    let by_row = inputs * geometry.kernel[1];
    let pays = !inputs.is_multiple_of(4) && inputs < SHORT_RUN && by_row > inputs;
    let channels = (0..geometry.out_channels)
        .map(|channel| (packable.requant[channel], packable.accumulator(channel)));
    let form = Form::of(channels, packable.clip);
    let outputs = geometry.group_outputs();
    let vectors = (0..geometry.groups)
        .flat_map(|group| (0..outputs.div_ceil(LANES)).map(move |vector| (group, vector)));
    let rescale = |(group, vector): (usize, usize)| {
        Rescale16::new(form, |lane| {
            let channel = group * outputs + vector * LANES + lane;
            let present = vector * LANES + lane < outputs;
            present.then(|| (packable.requant[channel], packable.accumulator(channel)))
        })
    };
    Box::new(Dense {
        by_tap: pack_runs(packable, inputs),
        by_row: (pays && may_join(geometry)).then(|| pack_runs(packable, by_row)),
        rescale: vectors.map(rescale).collect(),
        form,
        clip: packable.clip,
    })
}

/// Whether the taps of a row of the kernel follow one another in memory, if pixels do.
fn may_join(geometry: &ConvGeometry) -> bool {
    geometry.groups == 1 && geometry.dilation[1] == 1
}

/// `[group][panel][run][four inputs][vector]` with runs of `run` inputs, each filled up to a
/// multiple of four with zeros.
fn pack_runs(packable: &ConvWeights<'_>, run: usize) -> Vec<Block> {
    let geometry = &packable.geometry;
    let (outputs, taps) = (geometry.group_outputs(), geometry.taps());
    let fours = taps / run * run.div_ceil(4);
    let vectors = outputs.div_ceil(LANES);
    let mut blocks = Vec::with_capacity(geometry.groups * vectors * fours);
    for group in 0..geometry.groups {
        for panel in (0..vectors).step_by(MAX_VECTORS) {
            for start in (0..taps).step_by(run) {
                for four in (0..run).step_by(4) {
                    for vector in panel..vectors.min(panel + MAX_VECTORS) {
                        blocks.push(Block(std::array::from_fn(|i| {
                            let (channel, input) = (vector * LANES + i / 4, four + i % 4);
                            if channel < outputs && input < run {
                                packable.channel(group * outputs + channel)[start + input]
                            } else {
                                0
                            }
                        })));
                    }
                }
            }
        }
    }
    blocks
}

struct Dense {
    by_tap: Vec<Block>,
    /// A second packing for maps without gaps between their pixels, where runs join but are no
    /// multiple of four.
    by_row: Option<Vec<Block>>,
    /// `[group][vector]`.
    rescale: Vec<Rescale16>,
    form: Form,
    clip: Clip,
}

/// One panel of a convolution.
struct Panel<'a> {
    weights: &'a [Block],
    /// The line after the weights, where those of the next panel begin.
    next: *const u8,
    rescale: &'a [Rescale16],
    group: usize,
    /// The first channel.
    channel: usize,
    /// The number of channels.
    channels: usize,
}

impl Dense {
    fn panel<'a>(
        &'a self,
        geometry: &ConvGeometry,
        weights: &'a [Block],
        index: usize,
    ) -> Panel<'a> {
        let outputs = geometry.group_outputs();
        let vectors = outputs.div_ceil(LANES);
        let panels = vectors.div_ceil(MAX_VECTORS);
        let (group, panel) = (index / panels, index % panels);
        let fours = weights.len() / self.rescale.len();
        let start = group * vectors + panel * MAX_VECTORS;
        let end = group * vectors + vectors.min((panel + 1) * MAX_VECTORS);
        let first = panel * MAX_VECTORS * LANES;
        let weights = &weights[start * fours..end * fours];
        Panel {
            weights,
            next: weights.as_ptr_range().end.cast(),
            rescale: &self.rescale[start..end],
            group,
            channel: group * outputs + first,
            channels: (outputs - first).min(MAX_VECTORS * LANES),
        }
    }

    /// # Safety
    /// As [`ConvKernel::run`], with `F` for the form.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn sweep<const F: u8>(
        &self,
        geometry: &ConvGeometry,
        part: &Part,
        input: &Map<'_>,
        output: Output<'_>,
    ) {
        let adjoining = may_join(geometry) && input.pixel_stride == geometry.in_channels;
        let (weights, runs) = match &self.by_row {
            Some(by_row) if adjoining => (by_row, Runs::new(geometry, input, true)),
            _ => {
                let joined = adjoining && geometry.in_channels.is_multiple_of(4);
                (&self.by_tap, Runs::new(geometry, input, joined))
            }
        };
        let mut sums = Sums([[0; LANES]; SUMS]);
        let pixels = part.rows.len() * geometry.out_cols;
        for index in part.panels.clone() {
            let panel = self.panel(geometry, weights, index);
            let vectors = panel.rescale.len();
            let tiles = pixels.div_ceil(TILES[vectors - 1].len());
            let window = panel.group * geometry.group_inputs();
            for tile in 0..tiles {
                let start = pixels * tile / tiles;
                let count = pixels * (tile + 1) / tiles - start;
                let mut windows = [input.data.as_ptr(); SUMS];
                let mut places = [(0, 0); SUMS];
                let mut row = part.rows.start + start / geometry.out_cols;
                let mut col = start % geometry.out_cols;
                for (pointer, place) in windows.iter_mut().zip(&mut places).take(count) {
                    let offset = row * geometry.stride[0] * input.row_stride
                        + col * geometry.stride[1] * input.pixel_stride;
                    // SAFETY: the caller vouches for the windows of all pixels of the part.
                    *pointer = unsafe { pointer.add(offset + window) };
                    *place = (row, col);
                    col += 1;
                    if col == geometry.out_cols {
                        (row, col) = (row + 1, 0);
                    }
                }
                // Four tiles have a line to spare for every line of the next panel.
                let quarter = panel.weights.len() / MAX_VECTORS * (tile % MAX_VECTORS);
                let ahead = panel.next.wrapping_add(quarter * size_of::<Block>());
                // SAFETY: the windows are those of pixels of the part, with the slack after them;
                // the panel was packed for these runs.
                unsafe {
                    let accumulate = TILES[vectors - 1][count - 1];
                    accumulate(&windows, &runs, panel.weights.as_ptr(), ahead, &mut sums);
                    match vectors {
                        1 => self.store::<1, F>(&panel, &sums, &places[..count], output),
                        2 => self.store::<2, F>(&panel, &sums, &places[..count], output),
                        3 => self.store::<3, F>(&panel, &sums, &places[..count], output),
                        _ => self.store::<4, F>(&panel, &sums, &places[..count], output),
                    }
                }
            }
        }
    }

    /// Rescales and stores the sums of a tile.
    ///
    /// # Safety
    /// The CPU has the level; the panel has `V` vectors; the output has the places, and nobody else
    /// uses their channels of this panel.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline(never)]
    unsafe fn store<const V: usize, const F: u8>(
        &self,
        panel: &Panel<'_>,
        sums: &Sums,
        places: &[(usize, usize)],
        output: Output<'_>,
    ) {
        let sums = sums.0.as_ptr().cast::<__m512i>();
        let rescale = &panel.rescale[..V];
        let target = match output {
            Output::Codes(target) => target,
            Output::Wide(target) => {
                for (pixel, &(row, col)) in places.iter().enumerate() {
                    for (vector, rescale) in rescale.iter().enumerate() {
                        // SAFETY: a tile has `V` vectors for each pixel; the caller vouches for
                        // the place.
                        unsafe {
                            let out = target.pixel(row, col).add(panel.channel + vector * LANES);
                            let n = panel.channels - vector * LANES;
                            let acc = sums.add(pixel * V + vector).read();
                            rescale.store_wide::<F>(acc, self.clip, out, n);
                        }
                    }
                }
                return;
            }
        };
        // Four vectors become one register of bytes: those of one pixel, two or four.
        let per_register = MAX_VECTORS / V;
        for (group, places) in places.chunks(per_register).enumerate() {
            let mut results = [_mm512_setzero_si512(); MAX_VECTORS];
            for (i, result) in results.iter_mut().take(per_register * V).enumerate() {
                // SAFETY: `SUMS` is a multiple of the vectors of a register, so what lies after the
                // last pixel is readable, if stale.
                let acc = unsafe { sums.add(group * per_register * V + i).read() };
                *result = rescale[i % V].apply::<F>(acc, self.clip);
            }
            // A lane of the packed register has four results of each vector; a lane of the permuted
            // one has the 16 results of one vector.
            let lanes = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
            let bytes = _mm512_permutexvar_epi32(lanes, to_bytes::<F>(results, self.clip));
            let n = panel.channels;
            // SAFETY: the caller vouches for the places; the masks have no more than the channels
            // of the panel.
            unsafe {
                let out = |i: usize| {
                    let (row, col) = places[i];
                    target.pixel(row, col).add(panel.channel).cast()
                };
                if V > 2 {
                    _mm512_mask_storeu_epi8(out(0), first(n), bytes);
                    continue;
                }
                for i in 0..places.len() {
                    // The mask selects the part of the register; its bytes go where they would if
                    // the register started at the pixel.
                    let skipped = i * V * LANES;
                    let mask = first(n) << skipped;
                    let start = out(i).wrapping_sub(skipped);
                    _mm512_mask_storeu_epi8(start, mask, bytes);
                }
            }
        }
    }
}

impl ConvKernel for Dense {
    fn panels(&self, geometry: &ConvGeometry) -> usize {
        let vectors = geometry.group_outputs().div_ceil(LANES);
        geometry.groups * vectors.div_ceil(MAX_VECTORS)
    }

    unsafe fn run(&self, geometry: &ConvGeometry, part: &Part, input: Map<'_>, output: Output<'_>) {
        // SAFETY: passed on from the caller.
        unsafe {
            match self.form {
                Form::Upper => self.sweep::<UPPER>(geometry, part, &input, output),
                Form::Shifted => self.sweep::<SHIFTED>(geometry, part, &input, output),
                Form::Full => self.sweep::<FULL>(geometry, part, &input, output),
            }
        }
    }

    fn bytes(&self) -> usize {
        let by_row = self.by_row.as_deref().unwrap_or_default();
        size_of_val(&*self.by_tap) + size_of_val(by_row) + size_of_val(&*self.rescale)
    }

    fn name(&self) -> &'static str {
        "dense-vnni"
    }
}
