//! Depthwise convolutions: four rows of the input under one another in a lane.
//!
//! A vector of codes of four rows, `[row 0, row 1, row 2, row 3]` for each channel, meets weights of
//! one column of the kernel: up to four taps in one `vpdpbusd`. Interleaving costs eight shuffles
//! for 64 channels of a column. It is done once for all columns of the kernel, and for as many rows
//! of the output as the four rows hold: two of a 3×3 kernel, whose weights are then
//! `[w0, w1, w2, 0]` and `[0, w0, w1, w2]`.

use super::rescale::{FULL, Form, Rescale16, SHIFTED, UPPER, to_bytes};
use super::{Block, first};
use crate::conv::{ConvKernel, ConvWeights, Output, Part};
use crate::{ConvGeometry, Map};
use slimbit_num::Clip;
use std::arch::x86_64::*;

/// Channels that are computed together.
const CHANNELS: usize = 64;

/// Quadruples of rows that fit the scratch: with their outputs they stay in the first-level cache.
const QUADS: usize = 96;

/// Outputs that share the loads of weights and of rescaling constants.
const OUTPUTS: usize = 4;

/// `None` if the convolution is not depthwise, or a window too large for the scratch.
pub(super) fn pack(packable: &ConvWeights<'_>) -> Option<Box<dyn ConvKernel>> {
    let geometry = &packable.geometry;
    let strip = Strip::of(geometry);
    if !geometry.is_depthwise() || strip.columns(geometry, 1) * strip.planes > QUADS {
        return None;
    }
    let channels = geometry.out_channels;
    let constants = |channel: usize| (packable.requant[channel], packable.accumulator(channel));
    let form = Form::of((0..channels).map(constants), packable.clip);
    let blocks = channels.div_ceil(CHANNELS);
    let [kernel_rows, kernel_cols] = geometry.kernel;
    let mut weights = Vec::with_capacity(blocks * strip.rows * kernel_cols * strip.planes * 4);
    let mut rescale = Vec::with_capacity(blocks * 4);
    for block in 0..blocks {
        for row in 0..strip.rows {
            for col in 0..kernel_cols {
                for plane in 0..strip.planes {
                    for quarter in 0..4 {
                        weights.push(Block(std::array::from_fn(|i| {
                            let channel = CHANNELS * block + channel_of(quarter, i / 4);
                            match (4 * plane + i % 4).checked_sub(row) {
                                Some(tap) if tap < kernel_rows && channel < channels => {
                                    packable.channel(channel)[tap * kernel_cols + col]
                                }
                                _ => 0,
                            }
                        })));
                    }
                }
            }
        }
        rescale.extend((0..4).map(|quarter| {
            Rescale16::new(form, |lane| {
                let channel = CHANNELS * block + channel_of(quarter, lane);
                (channel < channels).then(|| constants(channel))
            })
        }));
    }
    Some(Box::new(Depthwise {
        strip,
        weights,
        rescale,
        form,
        clip: packable.clip,
    }))
}

/// The channel, among 64, in a lane of a quarter: how two rounds of `vpunpck{l,h}` leave them, and
/// how packing to bytes puts them back in order.
fn channel_of(quarter: usize, lane: usize) -> usize {
    16 * (lane / 4) + 4 * quarter + lane % 4
}

/// How many rows are computed together.
#[derive(Clone, Copy)]
struct Strip {
    /// Rows of the output.
    rows: usize,
    /// Quadruples of rows of the input.
    planes: usize,
}

impl Strip {
    fn of(geometry: &ConvGeometry) -> Strip {
        let kernel_rows = geometry.kernel[0];
        let planes = kernel_rows.div_ceil(4);
        let adjoining = geometry.stride[0] == 1 && geometry.dilation[0] == 1;
        Strip {
            rows: if adjoining {
                4 * planes - kernel_rows + 1
            } else {
                1
            },
            planes,
        }
    }

    /// Columns of the input that so many columns of the output read.
    fn columns(self, geometry: &ConvGeometry, outputs: usize) -> usize {
        let window = (geometry.kernel[1] - 1).saturating_mul(geometry.dilation[1]);
        window
            .saturating_add((outputs - 1) * geometry.stride[1])
            .saturating_add(1)
    }
}

struct Depthwise {
    strip: Strip,
    /// `[64 channels][row of the strip][column of the kernel][plane][quarter]`.
    weights: Vec<Block>,
    /// `[64 channels][quarter]`.
    rescale: Vec<Rescale16>,
    form: Form,
    clip: Clip,
}

/// `[column][plane]`: for each quarter of 64 channels, four rows.
type Quads = [[Block; 4]; QUADS];

/// The columns of an output row that are computed from the scratch.
struct Span<'a> {
    /// The first quads of the first output.
    quads: *const __m512i,
    /// Registers from an output to its right neighbour, and from a column of the kernel to the next.
    steps: [usize; 2],
    /// `[column of the kernel][plane][quarter]`.
    weights: &'a [Block],
    rescale: &'a [Rescale16; 4],
    /// Where the first output goes.
    row: usize,
    col: usize,
    channel: usize,
    /// How many channels there are, of the 64.
    channels: usize,
}

impl Depthwise {
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
        let planes = self.strip.planes;
        let window = self.strip.columns(geometry, 1);
        let span = ((QUADS / planes - window) / geometry.stride[1] + 1).min(geometry.out_cols);
        let mut quads: Quads = [const { [const { Block([0; 64]) }; 4] }; QUADS];
        let steps = [geometry.stride[1], geometry.dilation[1]].map(|step| step * planes * 4);
        let per_row = geometry.kernel[1] * planes * 4;
        for row in part.rows.clone().step_by(self.strip.rows) {
            let rows = self.strip.rows.min(part.rows.end - row);
            for block in part.panels.clone() {
                let channel = CHANNELS * block;
                let weights = &self.weights[block * self.strip.rows * per_row..];
                for start in (0..geometry.out_cols).step_by(span) {
                    let outputs = span.min(geometry.out_cols - start);
                    let first = row * geometry.stride[0] * input.row_stride
                        + start * geometry.stride[1] * input.pixel_stride
                        + channel;
                    let columns = self.strip.columns(geometry, outputs);
                    // SAFETY: the caller vouches for the windows of these outputs, and for the
                    // slack where channels end within the 64; the columns of a span fit the
                    // scratch.
                    unsafe {
                        let first = input.data.as_ptr().add(first);
                        self.interleave(geometry, input, first, rows, columns, &mut quads);
                    }
                    for (index, weights) in weights.chunks(per_row).take(rows).enumerate() {
                        let mut span = Span {
                            quads: quads.as_ptr().cast(),
                            steps,
                            weights,
                            rescale: self.rescale[4 * block..]
                                .first_chunk()
                                .expect("four quarters"),
                            row: row + index,
                            col: start,
                            channel,
                            channels: geometry.out_channels - channel,
                        };
                        let end = start + outputs;
                        while span.col < end {
                            // SAFETY: the scratch has the columns of these outputs, and the caller
                            // vouches for their places.
                            unsafe {
                                match end - span.col {
                                    1 => self.outputs::<1, F>(&span, planes, output),
                                    2 => self.outputs::<2, F>(&span, planes, output),
                                    3 => self.outputs::<3, F>(&span, planes, output),
                                    _ => self.outputs::<OUTPUTS, F>(&span, planes, output),
                                }
                            }
                            span.quads = span.quads.wrapping_add(OUTPUTS * span.steps[0]);
                            span.col += OUTPUTS;
                        }
                    }
                }
            }
        }
    }

    /// Fills the scratch with the columns of the input from `first` on.
    ///
    /// # Safety
    /// The CPU has the level. 64 bytes are readable at `columns` pixels of all rows of the windows of
    /// `rows` outputs under one another.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn interleave(
        &self,
        geometry: &ConvGeometry,
        input: &Map<'_>,
        first: *const u8,
        rows: usize,
        columns: usize,
        quads: &mut Quads,
    ) {
        // Rows beyond the last have weights of 0: any codes will do.
        let last = geometry.kernel[0] + rows - 2;
        let row_step = geometry.dilation[0] * input.row_stride;
        for plane in 0..self.strip.planes {
            let offsets: [usize; 4] = std::array::from_fn(|i| (4 * plane + i).min(last) * row_step);
            for column in 0..columns {
                // SAFETY: the caller vouches for the codes.
                let rows = offsets.map(|offset| unsafe {
                    _mm512_loadu_si512(first.add(offset + column * input.pixel_stride).cast())
                });
                let [a, b, c, d] = rows;
                let (low, high) = (
                    [_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d)],
                    [_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d)],
                );
                let quarters = [
                    _mm512_unpacklo_epi16(low[0], low[1]),
                    _mm512_unpackhi_epi16(low[0], low[1]),
                    _mm512_unpacklo_epi16(high[0], high[1]),
                    _mm512_unpackhi_epi16(high[0], high[1]),
                ];
                let to = &raw mut quads[column * self.strip.planes + plane];
                // SAFETY: four blocks are four registers, and as aligned.
                unsafe { to.cast::<[__m512i; 4]>().write(quarters) };
            }
        }
    }

    /// `N` outputs side by side.
    ///
    /// # Safety
    /// The CPU has the level. The quads of the windows are readable; the output has the pixels, and
    /// nobody else uses their channels.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    #[inline(never)]
    unsafe fn outputs<const N: usize, const F: u8>(
        &self,
        span: &Span<'_>,
        planes: usize,
        output: Output<'_>,
    ) {
        let mut acc = [[_mm512_setzero_si512(); 4]; N];
        let mut column = span.quads;
        for weights in span.weights.chunks_exact(4 * planes) {
            for (plane, weights) in weights.chunks_exact(4).enumerate() {
                // SAFETY: four blocks are four registers, and as aligned.
                let weights = unsafe { weights.as_ptr().cast::<[__m512i; 4]>().read() };
                for n in 0..N {
                    let quad = column.wrapping_add(n * span.steps[0] + 4 * plane);
                    // SAFETY: the caller vouches for the quads.
                    let codes = unsafe { quad.cast::<[__m512i; 4]>().read() };
                    for quarter in 0..4 {
                        acc[n][quarter] =
                            _mm512_dpbusd_epi32(acc[n][quarter], codes[quarter], weights[quarter]);
                    }
                }
            }
            column = column.wrapping_add(span.steps[1]);
        }
        for n in 0..N {
            let (row, col) = (span.row, span.col + n);
            // SAFETY: the caller vouches for the channels of the pixel.
            unsafe {
                match output {
                    Output::Codes(target) => {
                        let out = target.pixel(row, col).add(span.channel).cast();
                        let results: [__m512i; 4] = std::array::from_fn(|quarter| {
                            span.rescale[quarter].apply::<F>(acc[n][quarter], self.clip)
                        });
                        let bytes = to_bytes::<F>(results, self.clip);
                        _mm512_mask_storeu_epi8(out, first(span.channels), bytes);
                    }
                    Output::Wide(target) => {
                        let out = target.pixel(row, col).add(span.channel);
                        self.store_wide::<F>(span, acc[n], out);
                    }
                }
            }
        }
    }

    /// Puts the results of four quarters back in order.
    ///
    /// # Safety
    /// The CPU has the level; the channels of the span are writable at `out`.
    #[target_feature(enable = "avx512f")]
    #[inline(never)]
    unsafe fn store_wide<const F: u8>(&self, span: &Span<'_>, acc: [__m512i; 4], out: *mut i32) {
        let mut numbers = [[0; 16]; 4];
        for quarter in 0..4 {
            let to = numbers[quarter].as_mut_ptr();
            // SAFETY: the array holds 16 numbers.
            unsafe { span.rescale[quarter].store_wide::<F>(acc[quarter], self.clip, to, 16) };
        }
        for (quarter, numbers) in numbers.iter().enumerate() {
            for (lane, &number) in numbers.iter().enumerate() {
                let channel = channel_of(quarter, lane);
                if channel < span.channels {
                    // SAFETY: the caller vouches for the channels.
                    unsafe { out.add(channel).write(number) };
                }
            }
        }
    }
}

impl ConvKernel for Depthwise {
    fn panels(&self, geometry: &ConvGeometry) -> usize {
        geometry.out_channels.div_ceil(CHANNELS)
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
        size_of_val(&*self.weights) + size_of_val(&*self.rescale)
    }

    fn name(&self) -> &'static str {
        "depthwise-vnni"
    }
}
