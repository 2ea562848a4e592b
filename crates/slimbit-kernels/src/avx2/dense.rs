//! Dense and grouped convolutions, 1×1 and linear among them.
//!
//! The windows of a tile are gathered into rows of consecutive codes, [`CHUNK`] at a time;
//! [`PANELS`] panels of 16 channels then pass over them. Gathering once for 64 channels costs
//! little, and leaves one inner loop for every shape.

use super::rescale::Rescale16;
use super::tile::{Block, Exact16, MAX_ROWS, Product, Small8};
use crate::conv::{ConvKernel, ConvWeights, Output, Part};
use crate::{ConvGeometry, Map};
use slimbit_num::Clip;
use std::arch::x86_64::*;
use std::marker::PhantomData;

/// Codes of a window gathered at a time.
const CHUNK: usize = 1024;

/// Panels that share a gathered tile.
const PANELS: usize = 4;

/// A row of gathered codes, and room for the last vector of a copy.
const ROW: usize = CHUNK + 16;

pub(super) fn pack(packable: &ConvWeights<'_>) -> Box<dyn ConvKernel> {
    match safe_run(packable) {
        0 | 1 => Box::new(Dense::<Exact16>::new(packable, 1)),
        run => Box::new(Dense::<Small8>::new(packable, run)),
    }
}

/// The greatest power of two such that sums of so many blocks fit 16 bits in every lane of
/// `vpmaddubsw`; 0 if even a pair of products can saturate. Partial sums lie between the sums of
/// the negative and of the positive products.
fn safe_run(packable: &ConvWeights<'_>) -> usize {
    let fits = |run: usize| {
        (0..packable.geometry.out_channels).all(|channel| {
            packable.channel(channel).chunks(4 * run).all(|blocks| {
                [[0, 1], [2, 3]].into_iter().all(|pair| {
                    let weights = blocks.chunks(4).flat_map(|block| {
                        pair.into_iter()
                            .filter_map(|i| block.get(i))
                            .map(|&w| 255 * i64::from(w))
                    });
                    let (lo, hi) =
                        weights.fold((0, 0), |(lo, hi), w| (lo + w.min(0), hi + w.max(0)));
                    lo >= i16::MIN.into() && hi <= i16::MAX.into()
                })
            })
        })
    };
    let runs = std::iter::successors(Some(CHUNK / 4), |run| Some(run / 2).filter(|&run| run > 0));
    runs.into_iter().find(|&run| fits(run)).unwrap_or(0)
}

/// Packed weights for one way of forming products.
struct Dense<P> {
    /// `[group][panel of 16 channels][block of 4 inputs]`; absent channels and inputs are 0.
    weights: Vec<Block>,
    /// `[group][panel]`.
    rescale: Vec<Rescale16>,
    narrow: bool,
    clip: Clip,
    run: usize,
    product: PhantomData<P>,
}

impl<P: Product> Dense<P> {
    fn new(packable: &ConvWeights<'_>, run: usize) -> Dense<P> {
        let geometry = &packable.geometry;
        let (outputs, taps) = (geometry.group_outputs(), geometry.taps());
        let mut dense = Dense {
            weights: Vec::with_capacity(geometry.groups * outputs.div_ceil(16) * taps.div_ceil(4)),
            rescale: Vec::with_capacity(geometry.groups * outputs.div_ceil(16)),
            narrow: (0..geometry.out_channels)
                .all(|o| Rescale16::is_narrow(packable.requant[o], packable.accumulator(o))),
            clip: packable.clip,
            run,
            product: PhantomData,
        };
        for group in 0..geometry.groups {
            for panel in (0..outputs).step_by(16) {
                let first = group * outputs + panel;
                let present = (outputs - panel).min(16);
                dense
                    .rescale
                    .push(Rescale16::new(&packable.requant[first..][..present]));
                for block in (0..taps).step_by(4) {
                    dense.weights.push(P::block(|channel, input| {
                        if channel < present && block + input < taps {
                            packable.channel(first + channel)[block + input]
                        } else {
                            0
                        }
                    }));
                }
            }
        }
        dense
    }

    /// # Safety
    /// As [`ConvKernel::run`], with `NARROW` only if `self.narrow`.
    #[target_feature(enable = "avx2")]
    unsafe fn sweep<const NARROW: bool>(
        &self,
        geometry: &ConvGeometry,
        part: &Part,
        input: Map<'_>,
        output: Output<'_>,
    ) {
        let runs = Runs::new(geometry, &input);
        let outputs = geometry.group_outputs();
        let panels = outputs.div_ceil(16);
        let passes = panels.div_ceil(PANELS);
        let mut scratch = Scratch::<P::Code>::new();
        for pass in part.panels.clone() {
            let (group, panel) = (pass / passes, pass % passes * PANELS);
            let first = group * panels + panel;
            let channels = Channels {
                panels: first..group * panels + panels.min(panel + PANELS),
                start: group * outputs + 16 * panel,
                end: (group + 1) * outputs,
            };
            let mut pixels = Pixels {
                row: part.rows.start,
                col: 0,
            };
            while pixels.row < part.rows.end {
                let mut tile = Tile {
                    windows: [0; MAX_ROWS],
                    outputs: [0; MAX_ROWS],
                };
                let mut count = 0;
                while count < P::ROWS && pixels.row < part.rows.end {
                    tile.windows[count] = pixels.row * geometry.stride[0] * input.row_stride
                        + pixels.col * geometry.stride[1] * input.pixel_stride
                        + group * geometry.group_inputs();
                    tile.outputs[count] = match &output {
                        Output::Codes(map) => {
                            pixels.row * map.row_stride + pixels.col * map.pixel_stride
                        }
                        Output::Wide(map) => {
                            pixels.row * map.row_stride + pixels.col * map.pixel_stride
                        }
                    };
                    pixels.step(geometry.out_cols);
                    count += 1;
                }
                let compute = match count {
                    1 => Self::tile::<1, NARROW>,
                    2 => Self::tile::<2, NARROW>,
                    3 => Self::tile::<3, NARROW>,
                    4 => Self::tile::<4, NARROW>,
                    5 => Self::tile::<5, NARROW>,
                    _ => Self::tile::<MAX_ROWS, NARROW>,
                };
                // SAFETY: the caller vouches for the windows and the outputs of these pixels.
                unsafe {
                    compute(
                        self,
                        &runs,
                        &channels,
                        &tile,
                        input.data,
                        &output,
                        &mut scratch,
                    );
                }
            }
        }
    }

    /// `R` pixels of up to [`PANELS`] panels.
    ///
    /// # Safety
    /// The CPU has AVX2. The windows of the tile lie in `input` with the slack after them, its
    /// pixels in `output`.
    #[target_feature(enable = "avx2")]
    unsafe fn tile<const R: usize, const NARROW: bool>(
        &self,
        runs: &Runs,
        channels: &Channels,
        tile: &Tile,
        input: &[u8],
        output: &Output<'_>,
        scratch: &mut Scratch<P::Code>,
    ) {
        let blocks = runs.total.div_ceil(4);
        let codes = scratch.rows.as_mut_ptr().cast::<P::Code>();
        let mut start = 0;
        while start < runs.total {
            let end = runs.total.min(start + CHUNK);
            for row in 0..R {
                // SAFETY: the caller vouches for the windows; a scratch row has room for a chunk
                // and a vector.
                unsafe {
                    let window = input.as_ptr().add(tile.windows[row]);
                    runs.gather::<P>(window, start..end, codes.add(row * ROW));
                }
            }
            for (index, panel) in channels.panels.clone().enumerate() {
                let mut acc = [[_mm256_setzero_si256(); 2]; R];
                let sums = scratch.sums[index].as_mut_ptr().cast::<[__m256i; 2]>();
                if start > 0 {
                    for row in 0..R {
                        // SAFETY: `sums` holds two registers for each of `MAX_ROWS` rows.
                        acc[row] = unsafe { sums.add(row).read() };
                    }
                }
                // SAFETY: the rows were gathered up to `end`, and a panel has `blocks` blocks.
                unsafe {
                    let rows = std::array::from_fn(|row| codes.add(row * ROW).cast_const());
                    let weights = self.weights.as_ptr().add(panel * blocks + start / 4);
                    P::accumulate::<R>(
                        &mut acc,
                        rows,
                        weights,
                        (end - start).div_ceil(4),
                        self.run,
                    );
                }
                if end < runs.total {
                    for row in 0..R {
                        // SAFETY: as for the read.
                        unsafe { sums.add(row).write(acc[row]) };
                    }
                    continue;
                }
                let rescale = &self.rescale[panel];
                let channel = channels.start + 16 * index;
                let n = channels.end - channel;
                for row in 0..R {
                    // SAFETY: the caller vouches for all channels of the pixel.
                    unsafe {
                        match output {
                            Output::Codes(map) => {
                                let out = map.pixel(0, 0).add(tile.outputs[row] + channel);
                                rescale.store_codes::<NARROW>(acc[row], self.clip, out, n);
                            }
                            Output::Wide(map) => {
                                let out = map.pixel(0, 0).add(tile.outputs[row] + channel);
                                rescale.store_wide::<NARROW>(acc[row], self.clip, out, n);
                            }
                        }
                    }
                }
            }
            start = end;
        }
    }
}

impl<P: Product> ConvKernel for Dense<P> {
    /// [`PANELS`] panels of 16 channels, which share their gathered tiles.
    fn panels(&self, geometry: &ConvGeometry) -> usize {
        geometry.groups * geometry.group_outputs().div_ceil(16 * PANELS)
    }

    unsafe fn run(&self, geometry: &ConvGeometry, part: &Part, input: Map<'_>, output: Output<'_>) {
        // SAFETY: passed on from the caller.
        unsafe {
            if self.narrow {
                self.sweep::<true>(geometry, part, input, output);
            } else {
                self.sweep::<false>(geometry, part, input, output);
            }
        }
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.weights) + size_of_val(&*self.rescale)
    }

    fn name(&self) -> &'static str {
        P::NAME
    }
}

/// The channels that one pass over the pixels computes.
struct Channels {
    panels: std::ops::Range<usize>,
    start: usize,
    /// End of the group.
    end: usize,
}

/// Offsets of the first tap and of the output of each pixel.
struct Tile {
    windows: [usize; MAX_ROWS],
    outputs: [usize; MAX_ROWS],
}

struct Pixels {
    row: usize,
    col: usize,
}

impl Pixels {
    fn step(&mut self, cols: usize) {
        self.col += 1;
        if self.col == cols {
            *self = Pixels {
                row: self.row + 1,
                col: 0,
            };
        }
    }
}

/// Aligned for whole registers.
#[repr(C, align(64))]
struct Scratch<C> {
    /// Sums of the chunks so far, in lane order.
    sums: [[[i32; 16]; MAX_ROWS]; PANELS],
    rows: [[C; ROW]; MAX_ROWS],
}

impl<C: Copy + Default> Scratch<C> {
    fn new() -> Scratch<C> {
        Scratch {
            sums: [[[0; 16]; MAX_ROWS]; PANELS],
            rows: [[C::default(); ROW]; MAX_ROWS],
        }
    }
}

/// A window as runs of consecutive bytes.
struct Runs {
    len: usize,
    /// Runs per row of the kernel.
    per_row: usize,
    /// Bytes from a run to the next of the same row.
    step: usize,
    row_step: usize,
    /// Codes of all runs.
    total: usize,
}

impl Runs {
    fn new(geometry: &ConvGeometry, input: &Map<'_>) -> Runs {
        let [_, kernel_cols] = geometry.kernel;
        let inputs = geometry.group_inputs();
        let step = geometry.dilation[1] * input.pixel_stride;
        let contiguous = step == inputs;
        Runs {
            len: if contiguous {
                kernel_cols * inputs
            } else {
                inputs
            },
            per_row: if contiguous { 1 } else { kernel_cols },
            step,
            row_step: geometry.dilation[0] * input.row_stride,
            total: geometry.taps(),
        }
    }

    /// Copies the codes `range` of the window to `to`, and up to 15 arbitrary codes after them.
    ///
    /// # Safety
    /// The CPU has AVX2. All runs and 16 more bytes are readable; the range and 16 more codes are
    /// writable.
    #[target_feature(enable = "avx2")]
    #[inline]
    unsafe fn gather<P: Product>(
        &self,
        window: *const u8,
        range: std::ops::Range<usize>,
        to: *mut P::Code,
    ) {
        let mut skip = range.start % self.len;
        let mut col = range.start / self.len % self.per_row;
        let row = range.start / self.len / self.per_row;
        let (mut start, mut done) = (row * self.row_step + col * self.step, 0);
        while done < range.len() {
            let n = (self.len - skip).min(range.len() - done);
            for i in (0..n).step_by(16) {
                // SAFETY: `i` is within the run and within the range; a vector reaches at most 15
                // beyond.
                unsafe { P::copy16(window.add(start + skip + i), to.add(done + i)) };
            }
            done += n;
            skip = 0;
            col += 1;
            start += self.step;
            if col == self.per_row {
                start = start - self.per_row * self.step + self.row_step;
                col = 0;
            }
        }
    }
}
