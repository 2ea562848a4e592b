//! The level that runs everywhere, in plain Rust: what the others must equal.

use crate::conv::{ConvKernel, ConvWeights, Output, Part};
use crate::{Border, ConvGeometry, Isa, Kernels, Map, MapMut, Window, peak};
use slimbit_num::{AddRequant, Clip, Requant, Table};

pub(crate) static KERNELS: Kernels = Kernels {
    isa: Isa::Scalar,
    pack_conv: |packable| Box::new(PlainConv::new(packable)),
    add,
    table,
    max_pool,
    sum_pool,
    global_sum,
    probe: peak::scalar,
};

/// Weights as they come.
struct PlainConv {
    /// `[O][KH][KW][I/groups]`.
    weights: Vec<i8>,
    requant: Vec<Requant>,
    clip: Clip,
}

impl PlainConv {
    fn new(packable: &ConvWeights<'_>) -> PlainConv {
        PlainConv {
            weights: packable.weights.to_vec(),
            requant: packable.requant.to_vec(),
            clip: packable.clip,
        }
    }

    /// One output. `window` starts at the first tap of the output's group.
    fn output(&self, geometry: &ConvGeometry, input: &Map<'_>, window: usize, o: usize) -> i32 {
        let [kernel_rows, kernel_cols] = geometry.kernel;
        let inputs = geometry.group_inputs();
        let weights = &self.weights[o * geometry.taps()..][..geometry.taps()];
        let mut acc = 0;
        for row in 0..kernel_rows {
            for col in 0..kernel_cols {
                let tap = window
                    + row * geometry.dilation[0] * input.row_stride
                    + col * geometry.dilation[1] * input.pixel_stride;
                let weights = &weights[(row * kernel_cols + col) * inputs..][..inputs];
                let products = input.data[tap..][..inputs].iter().zip(weights);
                acc += products
                    .map(|(&q, &w)| i32::from(q) * i32::from(w))
                    .sum::<i32>();
            }
        }
        self.requant[o].apply(acc, self.clip)
    }
}

impl ConvKernel for PlainConv {
    /// One output channel each.
    fn panels(&self, geometry: &ConvGeometry) -> usize {
        geometry.out_channels
    }

    unsafe fn run(&self, geometry: &ConvGeometry, part: &Part, input: Map<'_>, output: Output<'_>) {
        for row in part.rows.clone() {
            for col in 0..geometry.out_cols {
                let pixel = row * geometry.stride[0] * input.row_stride
                    + col * geometry.stride[1] * input.pixel_stride;
                for o in part.panels.clone() {
                    let group = o / geometry.group_outputs();
                    let window = pixel + group * geometry.group_inputs();
                    let result = self.output(geometry, &input, window, o);
                    // SAFETY: the caller vouches for the pixel, and for this channel of it.
                    unsafe {
                        match &output {
                            Output::Codes(map) => *map.pixel(row, col).add(o) = result as u8,
                            Output::Wide(map) => *map.pixel(row, col).add(o) = result,
                        }
                    }
                }
            }
        }
    }

    fn bytes(&self) -> usize {
        self.weights.len() + size_of_val(&*self.requant)
    }

    fn name(&self) -> &'static str {
        "plain"
    }
}

pub(crate) fn add(
    requant: &AddRequant,
    clip: Clip,
    a: Map<'_>,
    b: Map<'_>,
    out: &mut MapMut<'_>,
    [rows, cols, channels]: [usize; 3],
) {
    for row in 0..rows {
        for col in 0..cols {
            let codes = pixel(&a, row, col, channels)
                .iter()
                .zip(pixel(&b, row, col, channels));
            for (out, (&qa, &qb)) in out.pixel(row, col, channels).iter_mut().zip(codes) {
                *out = requant.apply(qa, qb, clip) as u8;
            }
        }
    }
}

pub(crate) fn table(
    table: &Table,
    input: Map<'_>,
    out: &mut MapMut<'_>,
    [rows, cols, channels]: [usize; 3],
) {
    for row in 0..rows {
        for col in 0..cols {
            let codes = pixel(&input, row, col, channels);
            for (out, &code) in out.pixel(row, col, channels).iter_mut().zip(codes) {
                *out = table.0[usize::from(code)];
            }
        }
    }
}

fn max_pool(
    window: Window,
    border: Border,
    input: Map<'_>,
    out: &mut MapMut<'_>,
    [rows, cols, channels]: [usize; 3],
) {
    for row in 0..rows {
        for col in 0..cols {
            let out = out.pixel(row, col, channels);
            out.fill(0);
            for tap_row in border.taps(window, 0, row) {
                for tap_col in border.taps(window, 1, col) {
                    let codes = pixel(&input, tap_row, tap_col, channels);
                    for (out, &code) in out.iter_mut().zip(codes) {
                        *out = code.max(*out);
                    }
                }
            }
        }
    }
}

fn sum_pool(
    window: Window,
    input: Map<'_>,
    out: &mut MapMut<'_>,
    requant: &Requant,
    clip: Clip,
    [rows, cols, channels]: [usize; 3],
) {
    for row in 0..rows {
        for col in 0..cols {
            for (channel, out) in out.pixel(row, col, channels).iter_mut().enumerate() {
                let first = row * window.stride[0] * input.row_stride
                    + col * window.stride[1] * input.pixel_stride
                    + channel;
                let sum = sum(&input, first, window.kernel);
                *out = requant.apply(sum, clip) as u8;
            }
        }
    }
}

fn global_sum(input: Map<'_>, rows: usize, cols: usize, out: &mut [i32]) {
    for (channel, out) in out.iter_mut().enumerate() {
        *out = sum(&input, channel, [rows, cols]);
    }
}

fn sum(input: &Map<'_>, first: usize, [rows, cols]: [usize; 2]) -> i32 {
    let row = |row: usize| {
        let start = first + row * input.row_stride;
        (0..cols)
            .map(|col| i32::from(input.data[start + col * input.pixel_stride]))
            .sum::<i32>()
    };
    (0..rows).map(row).sum()
}

fn pixel<'a>(map: &Map<'a>, row: usize, col: usize, channels: usize) -> &'a [u8] {
    &map.data[row * map.row_stride + col * map.pixel_stride..][..channels]
}
