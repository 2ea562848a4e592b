//! Dense and grouped convolutions, 1×1 and linear among them.
//!
//! Codes are read where they lie: a block of weights takes four consecutive channels of one tap, so
//! its inputs are four bytes at an offset that all windows share. Offsets are tabulated once per
//! call; the order of the blocks is then free, and each panel of 16 channels has its own.
//!
//! A long sum is cut into chunks of inputs, so that the weights of a panel stay in the first level
//! of the cache while a [`BAND`] of pixels passes over them.

use super::LANES;
use super::block::Panel;
use super::rescale::{Element, Exactness, Form, Full, Rescale16, Shifted, Upper};
use super::saturation::{Arrangement, Arranger, LEVELS, MOST};
use super::tile::{ROWS, Sums, Tile, Weights};
use crate::conv::{ConvKernel, ConvWeights, Output, Part, Target};
use crate::{ConvGeometry, Map};
use slimbit_num::{Clip, Requant};
use std::arch::x86_64::*;
use std::ops::Range;

/// The most blocks of inputs in a chunk: 20 KiB of weights if none is cut.
const CHUNK: usize = 320;
const _: () = assert!(CHUNK <= MOST);

/// Pixels whose sums are kept between chunks, 4 KiB.
const BAND: usize = 64;

/// Bytes of weights below which panels take turns on a band, so that its codes are read once.
const SHARED: usize = 16 << 10;

/// Panels that fill a line of the cache with their results take turns on a band whatever their size.
const LINE: usize = 4;

pub(super) fn pack(packable: &ConvWeights<'_>) -> Box<dyn ConvKernel> {
    // SAFETY: only the table of AVX2 packs for it, and that exists where the CPU has it.
    Box::new(unsafe { Dense::new(packable) })
}

struct Dense {
    inputs: Inputs,
    /// By panel, then by chunk.
    portions: Vec<Portion>,
    /// Of all portions; sources count within a chunk.
    arrangement: Arrangement,
    /// By panel.
    rescale: Vec<Rescale16>,
    form: Exactness,
    clip: Clip,
}

/// The blocks of one panel and one chunk.
struct Portion {
    start: usize,
    spans: [u16; LEVELS],
}

/// How the inputs of a window are cut into blocks and chunks.
#[derive(Clone, Copy)]
struct Inputs {
    /// Channels per tap.
    inputs: usize,
    /// Blocks per tap: the last reads up to three codes beyond, with weights of 0.
    per_tap: usize,
    blocks: usize,
    chunks: usize,
}

impl Inputs {
    fn new(geometry: &ConvGeometry) -> Inputs {
        let per_tap = geometry.group_inputs().div_ceil(4);
        let blocks = geometry.kernel[0] * geometry.kernel[1] * per_tap;
        Inputs {
            inputs: geometry.group_inputs(),
            per_tap,
            blocks,
            chunks: blocks.div_ceil(CHUNK),
        }
    }

    /// The blocks of a chunk; chunks are of about equal length.
    fn chunk(self, index: usize) -> Range<usize> {
        self.blocks * index / self.chunks..self.blocks * (index + 1) / self.chunks
    }

    /// Tabulates where the blocks of a chunk find their codes, from the first code of a window on.
    fn tabulate(self, chunk: usize, geometry: &ConvGeometry, input: &Map<'_>, table: &mut Table) {
        let Range { start, end } = self.chunk(chunk);
        let mut tap = start / self.per_tap;
        let mut skip = start % self.per_tap;
        let mut filled = 0;
        while filled < end - start {
            let (row, col) = (tap / geometry.kernel[1], tap % geometry.kernel[1]);
            let first = row * geometry.dilation[0] * input.row_stride
                + col * geometry.dilation[1] * input.pixel_stride;
            let n = (self.per_tap - skip).min(end - start - filled);
            for (offset, block) in table[filled..][..n].iter_mut().zip(skip..) {
                *offset = first + 4 * block;
            }
            filled += n;
            skip = 0;
            tap += 1;
        }
    }
}

type Table = [usize; CHUNK];

impl Dense {
    #[target_feature(enable = "avx2")]
    fn new(packable: &ConvWeights<'_>) -> Dense {
        let geometry = &packable.geometry;
        let inputs = Inputs::new(geometry);
        let outputs = geometry.group_outputs();
        let form = Exactness::of_all(packable);
        let panels = geometry.groups * outputs.div_ceil(16);
        let mut dense = Dense {
            inputs,
            portions: Vec::with_capacity(panels * inputs.chunks),
            arrangement: Arrangement::with_capacity(panels * inputs.blocks),
            rescale: Vec::with_capacity(panels),
            form,
            clip: packable.clip,
        };
        let absent_weights = vec![0; geometry.taps()];
        let mut arranger = Arranger::default();
        for group in 0..geometry.groups {
            for panel in (0..outputs).step_by(16) {
                let first = group * outputs + panel;
                let channels = first..first + (outputs - panel).min(16);
                let present = &packable.requant[channels.clone()];
                let absent = Requant { m: 0, c: 0, k: 0 };
                let lanes = LANES.map(|lane| present.get(lane).copied().unwrap_or(absent));
                dense.rescale.push(Rescale16::new(lanes, form));
                let weights = Panel {
                    lanes: LANES.map(|lane| match channels.clone().nth(lane) {
                        Some(channel) => packable.channel(channel),
                        None => &absent_weights,
                    }),
                    inputs: inputs.inputs,
                    per_tap: inputs.per_tap,
                };
                for chunk in 0..inputs.chunks {
                    let start = dense.arrangement.blocks.len();
                    weights.cut(inputs.chunk(chunk), &mut arranger.blocks);
                    let spans = arranger.arrange(&mut dense.arrangement);
                    dense.portions.push(Portion { start, spans });
                }
            }
        }
        dense
    }

    fn weights(&self, panel: usize, chunk: usize) -> Weights<'_> {
        let portion = &self.portions[panel * self.inputs.chunks + chunk];
        Weights {
            blocks: &self.arrangement.blocks[portion.start..],
            sources: &self.arrangement.sources[portion.start..],
            spans: &portion.spans,
            has_long: portion.spans[2..].iter().any(|&spans| spans > 0),
        }
    }

    /// # Safety
    /// As [`ConvKernel::run`], with the form that the constants were made for.
    #[target_feature(enable = "avx2")]
    unsafe fn sweep<F: Form, E: Element>(
        &self,
        geometry: &ConvGeometry,
        part: &Part,
        input: &Map<'_>,
        output: &Target<'_, E>,
    ) {
        let outputs = geometry.group_outputs();
        let per_group = outputs.div_ceil(16);
        let shared = (SHARED / (64 * self.inputs.blocks)).max(LINE) / LINE * LINE;
        let mut scratch = Scratch {
            sums: [[[0; 8]; 2]; BAND],
            table: [0; CHUNK],
        };
        if self.inputs.chunks == 1 {
            self.inputs.tabulate(0, geometry, input, &mut scratch.table);
        }
        let mut start = part.panels.start;
        while start < part.panels.end {
            let (group, panel) = (start / per_group, start % per_group);
            let end = (panel / shared * shared + shared).min(per_group);
            let end = (group * per_group + end).min(part.panels.end);
            let pixels = part.rows.start * geometry.out_cols..part.rows.end * geometry.out_cols;
            for first in pixels.clone().step_by(BAND) {
                let band = Band::new(
                    geometry,
                    first..pixels.end.min(first + BAND),
                    (input, group * geometry.group_inputs()),
                    output,
                );
                for panel in start..end {
                    let channel = group * outputs + 16 * (panel - group * per_group);
                    let channels = channel..(channel + 16).min((group + 1) * outputs);
                    // SAFETY: the caller vouches for the windows and the outputs of these pixels,
                    // all of whose panels exist.
                    unsafe {
                        self.panel::<F, E>(
                            geometry,
                            (panel, channels),
                            &band,
                            output,
                            &mut scratch,
                            input,
                        );
                    }
                }
            }
            start = end;
        }
    }

    /// All chunks of a panel at the pixels of a band.
    ///
    /// # Safety
    /// The CPU has AVX2. The windows of the band lie in `input` with the slack after them, its
    /// pixels in `output`; the panel exists and computes these channels.
    #[target_feature(enable = "avx2")]
    unsafe fn panel<F: Form, E: Element>(
        &self,
        geometry: &ConvGeometry,
        (panel, channels): (usize, Range<usize>),
        band: &Band,
        output: &Target<'_, E>,
        scratch: &mut Scratch,
        input: &Map<'_>,
    ) {
        for chunk in 0..self.inputs.chunks {
            if self.inputs.chunks > 1 {
                self.inputs
                    .tabulate(chunk, geometry, input, &mut scratch.table);
            }
            let weights = self.weights(panel, chunk);
            let step = Step {
                weights: &weights,
                first: chunk == 0,
                rescale: (chunk + 1 == self.inputs.chunks).then(|| &self.rescale[panel]),
                clip: self.clip,
                channels: channels.clone(),
            };
            // SAFETY: the caller vouches for the windows and the outputs of these pixels; the table
            // is that of the chunk.
            unsafe { step.sweep::<F, E>(band, output, scratch) };
        }
    }
}

/// One chunk of a panel.
struct Step<'a> {
    weights: &'a Weights<'a>,
    /// Whether the sums start here.
    first: bool,
    /// The constants, if the sums end here.
    rescale: Option<&'a Rescale16>,
    clip: Clip,
    channels: Range<usize>,
}

impl Step<'_> {
    /// # Safety
    /// The CPU has AVX2. The windows of the band lie in memory with the slack after them, its
    /// pixels in `output`; `scratch` has the table of the chunk.
    #[target_feature(enable = "avx2")]
    unsafe fn sweep<F: Form, E: Element>(
        &self,
        band: &Band,
        output: &Target<'_, E>,
        scratch: &mut Scratch,
    ) {
        let mut pixel = 0;
        // SAFETY: as for the caller; no tile leaves the band.
        unsafe {
            while pixel + ROWS <= band.len {
                self.tile::<F, E, ROWS>(band, pixel, output, scratch);
                pixel += ROWS;
            }
            match band.len - pixel {
                3 => self.tile::<F, E, 3>(band, pixel, output, scratch),
                2 => self.tile::<F, E, 2>(band, pixel, output, scratch),
                1 => self.tile::<F, E, 1>(band, pixel, output, scratch),
                _ => (),
            }
        }
    }

    /// The `R` pixels of a band from `pixel` on.
    ///
    /// # Safety
    /// As [`sweep`](Step::sweep); the band has these pixels.
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn tile<F: Form, E: Element, const R: usize>(
        &self,
        band: &Band,
        pixel: usize,
        output: &Target<'_, E>,
        scratch: &mut Scratch,
    ) where
        Sums<R>: Tile,
    {
        let mut sums = [[_mm256_setzero_si256(); 2]; R];
        // SAFETY: the caller vouches for the pixels, and with them for the windows and the table;
        // there are two registers of sums for each pixel of a band.
        unsafe {
            let kept = scratch.sums.as_mut_ptr().cast::<[__m256i; 2]>().add(pixel);
            if !self.first {
                for row in 0..R {
                    sums[row] = kept.add(row).read();
                }
            }
            let mut rows = [*band.windows.get_unchecked(pixel); ROWS];
            for row in 1..R {
                rows[row] = *band.windows.get_unchecked(pixel + row);
            }
            sums = sums.accumulate(rows, scratch.table.as_ptr(), self.weights);
            let Some(rescale) = self.rescale else {
                for row in 0..R {
                    kept.add(row).write(sums[row]);
                }
                return;
            };
            let mut out = [output.pixel(0, 0).add(self.channels.start); R];
            for row in 0..R {
                out[row] = out[row].add(*band.outputs.get_unchecked(pixel + row));
            }
            E::store::<F, R>(rescale, &sums, self.clip, out, self.channels.len());
        }
    }
}

impl ConvKernel for Dense {
    /// 16 channels each.
    fn panels(&self, geometry: &ConvGeometry) -> usize {
        geometry.groups * geometry.group_outputs().div_ceil(16)
    }

    unsafe fn run(&self, geometry: &ConvGeometry, part: &Part, input: Map<'_>, output: Output<'_>) {
        // SAFETY: passed on from the caller.
        unsafe {
            match (&output, self.form) {
                (Output::Codes(to), Exactness::Upper) => {
                    self.sweep::<Upper, _>(geometry, part, &input, to);
                }
                (Output::Codes(to), Exactness::Shifted) => {
                    self.sweep::<Shifted, _>(geometry, part, &input, to);
                }
                (Output::Codes(to), Exactness::Full) => {
                    self.sweep::<Full, _>(geometry, part, &input, to);
                }
                (Output::Wide(to), _) => self.sweep::<Full, _>(geometry, part, &input, to),
            }
        }
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.arrangement.blocks)
            + size_of_val(&*self.arrangement.sources)
            + size_of_val(&*self.portions)
            + size_of_val(&*self.rescale)
    }

    fn name(&self) -> &'static str {
        "dense8"
    }
}

/// Where the pixels of a band find their windows and leave their results.
struct Band {
    len: usize,
    /// The first code of each window.
    windows: [*const u8; BAND],
    /// The offset of each pixel in the output.
    outputs: [usize; BAND],
}

impl Band {
    /// `input` is a map and the first channel that is read.
    ///
    /// # Panics
    /// When a window starts beyond the map.
    fn new<E>(
        geometry: &ConvGeometry,
        pixels: Range<usize>,
        (input, channel): (&Map<'_>, usize),
        output: &Target<'_, E>,
    ) -> Band {
        let mut band = Band {
            len: pixels.len(),
            windows: [std::ptr::null(); BAND],
            outputs: [0; BAND],
        };
        let (mut row, mut col) = (
            pixels.start / geometry.out_cols,
            pixels.start % geometry.out_cols,
        );
        let places = band.windows.iter_mut().zip(&mut band.outputs);
        for (window, place) in places.take(pixels.len()) {
            let first = row * geometry.stride[0] * input.row_stride
                + col * geometry.stride[1] * input.pixel_stride
                + channel;
            *window = input.data[first..].as_ptr();
            *place = row * output.row_stride + col * output.pixel_stride;
            col += 1;
            if col == geometry.out_cols {
                (row, col) = (row + 1, 0);
            }
        }
        band
    }
}

/// Aligned for whole registers.
#[repr(C, align(64))]
struct Scratch {
    /// Sums of the chunks so far, in lane order.
    sums: [[[i32; 8]; 2]; BAND],
    table: Table,
}
