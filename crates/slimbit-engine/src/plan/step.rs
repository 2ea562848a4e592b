use std::ops::Range;

use slimbit_kernels::{Border, PackedConv, Threaded, Window};
use slimbit_num::{AddRequant, Clip, Requant, Table};

use super::tensor::View;

/// One call into the kernels. All offsets are into the arena, or into the wide outputs.
#[derive(Debug)]
pub(crate) enum Step {
    /// Pixels, which may already be the codes, into a tensor.
    Input { tables: Vec<Table>, target: View },
    Conv {
        packed: PackedConv,
        source: View,
        target: View,
    },
    ConvWide {
        packed: PackedConv,
        source: View,
        target: Range<usize>,
    },
    Add {
        requant: AddRequant,
        clip: Clip,
        sources: [View; 2],
        target: View,
    },
    Table {
        table: Table,
        source: View,
        target: View,
    },
    MaxPool {
        window: Window,
        border: Border,
        source: View,
        target: View,
    },
    SumPool {
        window: Window,
        requant: Requant,
        clip: Clip,
        source: View,
        target: View,
    },
    /// `Σ (q − z)` over the map.
    GlobalSum {
        source: View,
        /// `rows · columns · z`.
        offset: i32,
        target: Range<usize>,
    },
    /// Every n-th pixel, into the middle channels; the others become `zero_point`.
    PadShortcut {
        stride: usize,
        zero_point: u8,
        source: View,
        target: View,
    },
    /// Codes that leave the network.
    Export { source: View, target: Range<usize> },
}

/// What steps work on.
pub(crate) struct Memory<'a> {
    pub(crate) pixels: &'a [u8],
    pub(crate) arena: &'a mut [u8],
    pub(crate) wide: &'a mut [i32],
}

impl Step {
    /// The kernel in a word.
    pub(crate) fn kernel(&self) -> &'static str {
        match self {
            Self::Input { .. } => "input",
            Self::Conv { packed, .. } | Self::ConvWide { packed, .. } => packed.kernel_name(),
            Self::Add { .. } => "add",
            Self::Table { .. } => "table",
            Self::MaxPool { .. } => "max_pool",
            Self::SumPool { .. } => "sum_pool",
            Self::GlobalSum { .. } => "global_sum",
            Self::PadShortcut { .. } => "pad_shortcut",
            Self::Export { .. } => "export",
        }
    }

    /// Multiply-accumulates.
    pub(crate) fn macs(&self) -> u64 {
        match self {
            Self::Conv { packed, .. } | Self::ConvWide { packed, .. } => {
                packed.geometry().macs() as u64
            }
            _ => 0,
        }
    }

    /// Bytes of weights, constants and tables.
    pub(crate) fn packed_bytes(&self) -> usize {
        match self {
            Self::Conv { packed, .. } | Self::ConvWide { packed, .. } => packed.bytes(),
            Self::Table { .. } => size_of::<Table>(),
            Self::Input { tables, .. } => tables.len() * size_of::<Table>(),
            _ => 0,
        }
    }

    pub(crate) fn run(&self, kernels: &mut Threaded<'_>, memory: &mut Memory<'_>) {
        match self {
            Self::Input { tables, target } => {
                let bytes = &mut memory.arena[target.range.clone()];
                let codes = target.map_mut(bytes);
                kernels.pixels(tables, memory.pixels, codes, target.extent);
            }
            Self::Conv {
                packed,
                source,
                target,
            } => {
                let (input, output) = pair(memory.arena, source, target);
                kernels.conv(packed, source.map(input), target.map_mut(output));
            }
            Self::ConvWide {
                packed,
                source,
                target,
            } => {
                let input = source.map(&memory.arena[source.range.clone()]);
                kernels.conv_wide(packed, input, &mut memory.wide[target.clone()]);
            }
            Self::Add {
                requant,
                clip,
                sources: [first, second],
                target,
            } => {
                let mut run = |a: &[u8], b: &[u8], output: &mut [u8]| {
                    let maps = (first.map(a), second.map(b), target.map_mut(output));
                    kernels.add(requant, *clip, maps.0, maps.1, maps.2, target.extent);
                };
                if first.range == second.range {
                    let (both, output) = pair(memory.arena, first, target);
                    run(both, both, output);
                } else {
                    let ranges = [first, second, target].map(|view| view.range.clone());
                    let [a, b, output] = disjoint(memory.arena, ranges);
                    run(a, b, output);
                }
            }
            Self::Table {
                table,
                source,
                target,
            } => {
                let (input, output) = pair(memory.arena, source, target);
                kernels.table(
                    table,
                    source.map(input),
                    target.map_mut(output),
                    source.extent,
                );
            }
            Self::MaxPool {
                window,
                border,
                source,
                target,
            } => {
                let (input, output) = pair(memory.arena, source, target);
                let (input, output) = (source.map(input), target.map_mut(output));
                kernels.max_pool(*window, *border, input, output, target.extent);
            }
            Self::SumPool {
                window,
                requant,
                clip,
                source,
                target,
            } => {
                let (input, output) = pair(memory.arena, source, target);
                let (input, output) = (source.map(input), target.map_mut(output));
                kernels.sum_pool(*window, input, output, requant, *clip, target.extent);
            }
            Self::GlobalSum {
                source,
                offset,
                target,
            } => {
                let [rows, columns, channels] = source.extent;
                let input = source.map(&memory.arena[source.range.clone()]);
                let sums = &mut memory.wide[target.clone()];
                kernels.global_sum(input, rows, columns, channels, sums);
                sums.iter_mut().for_each(|sum| *sum -= offset);
            }
            Self::PadShortcut {
                stride,
                zero_point,
                source,
                target,
            } => {
                let (input, output) = pair(memory.arena, source, target);
                pad_shortcut(*stride, *zero_point, source, input, target, output);
            }
            Self::Export { source, target } => {
                let codes = source.pixels(&memory.arena[source.range.clone()]).flatten();
                for (wide, &code) in memory.wide[target.clone()].iter_mut().zip(codes) {
                    *wide = code.into();
                }
            }
        }
    }
}

fn disjoint<const N: usize>(arena: &mut [u8], ranges: [Range<usize>; N]) -> [&mut [u8]; N] {
    arena
        .get_disjoint_mut(ranges)
        .expect("planned: tensors alive at the same step do not overlap")
}

fn pair<'a>(arena: &'a mut [u8], source: &View, target: &View) -> (&'a [u8], &'a mut [u8]) {
    let [input, output] = disjoint(arena, [source.range.clone(), target.range.clone()]);
    (input, output)
}

fn pad_shortcut(
    stride: usize,
    zero_point: u8,
    source: &View,
    input: &[u8],
    target: &View,
    output: &mut [u8],
) {
    let [rows, columns, channels] = target.extent;
    let own = source.extent[2];
    let before = (channels - own) / 2;
    for row in 0..rows {
        for column in 0..columns {
            let from = source.start
                + row * stride * source.row_stride
                + column * stride * source.pixel_stride;
            let to = target.start + row * target.row_stride + column * target.pixel_stride;
            let pixel = &mut output[to..to + channels];
            pixel[..before].fill(zero_point);
            pixel[before..before + own].copy_from_slice(&input[from..from + own]);
            pixel[before + own..].fill(zero_point);
        }
    }
}
