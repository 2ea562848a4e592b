//! The answer, defined: every stage in plain loops over plain HWC codes, one integer at a time.
//!
//! Nothing is packed, padded, planned or reused here, so that the code can be read against the
//! semantics. Each SIMD level must return the same integers.
#![forbid(unsafe_code)]

use slimbit_graph::{Point, Stage, StageKind};
use slimbit_num::{AddRequant, Clip, Table};

use crate::layout::{Convolution, Layout, layouts, shortcut_stride, window};
use crate::trace::trace_bytes;
use crate::validate::kernel_weights;
use crate::{
    Arithmetic, ChannelRequant, EngineError, Model, OutputQuant, PointModel, StageTrace, Trace,
};

/// Runs one image, `pixels` in HWC order, and gives every stage's integers.
///
/// # Errors
/// [`EngineError::Point`], [`EngineError::InputLength`], [`EngineError::MemoryLimit`], or
/// [`EngineError::Invalid`] for weights that could overflow the intervals stored with them.
pub fn run(model: &Model, point: Point, pixels: &[u8]) -> Result<Trace, EngineError> {
    let made = model.point(point)?;
    let reference = Reference {
        model,
        made,
        layouts: layouts(model.graph(), model.stages(), point.width)?,
    };
    let wanted = reference.layouts[0].elements();
    if pixels.len() != wanted {
        return Err(EngineError::InputLength {
            wanted,
            found: pixels.len(),
        });
    }
    // Every stage's integers are kept, and nothing else is as large.
    model.check_memory(point, trace_bytes(reference.layouts.iter().copied()))?;
    let mut tensors: Vec<Tensor> = Vec::with_capacity(model.stages().len());
    for index in 0..model.stages().len() {
        let tensor = reference.stage(index, &tensors, pixels)?;
        tensors.push(tensor);
    }
    let named = model
        .stages()
        .iter()
        .zip(tensors)
        .map(|(stage, tensor)| StageTrace {
            name: stage.name.clone(),
            layout: tensor.layout,
            codes: tensor.codes,
        });
    Ok(Trace {
        stages: named.collect(),
    })
}

/// The integers of one stage, HWC.
struct Tensor {
    layout: Layout,
    codes: Vec<i32>,
    zero_point: i32,
}

impl Tensor {
    fn at(&self, row: usize, column: usize, channel: usize) -> i32 {
        let Layout {
            width, channels, ..
        } = self.layout;
        self.codes[(row * width + column) * channels + channel]
    }
}

struct Reference<'a> {
    model: &'a Model,
    made: &'a PointModel,
    layouts: Vec<Layout>,
}

impl Reference<'_> {
    fn stage(
        &self,
        index: usize,
        tensors: &[Tensor],
        pixels: &[u8],
    ) -> Result<Tensor, EngineError> {
        let stage = &self.model.stages()[index];
        let made = &self.made.stages[index];
        let layout = self.layouts[index];
        let operand = |i: usize| &tensors[stage.inputs[i]];
        let codes = match &made.arithmetic {
            Arithmetic::Input => input(&self.model.input().tables, pixels),
            Arithmetic::Channels { channels, clip } => {
                self.convolution(index, operand(0), channels, *clip)?
            }
            Arithmetic::Add { requant, clip, .. } => add(operand(0), operand(1), *requant, *clip),
            Arithmetic::Pool { requant, clip } => {
                let sums = self.windows(stage, layout, operand(0), |codes| codes.sum());
                sums.map(|sum| requant.requant.apply(sum, *clip)).collect()
            }
            Arithmetic::Tables(tables) => {
                let operands: Vec<&Tensor> = stage.inputs.iter().map(|&i| &tensors[i]).collect();
                concat(&operands, tables, layout)
            }
            Arithmetic::Copy => match stage.kind {
                StageKind::MaxPool(_) => {
                    let largest = |codes: &mut dyn Iterator<Item = i32>| codes.max().unwrap_or(0);
                    self.windows(stage, layout, operand(0), largest).collect()
                }
                StageKind::GlobalAvgPool => {
                    let zero_point = operand(0).zero_point;
                    let centred =
                        |codes: &mut dyn Iterator<Item = i32>| codes.map(|q| q - zero_point).sum();
                    self.windows(stage, layout, operand(0), centred).collect()
                }
                StageKind::PadShortcut(_) => {
                    let stride = shortcut_stride(self.model.graph(), stage);
                    pad_shortcut(operand(0), layout, stride)
                }
                _ => operand(0).codes.clone(),
            },
        };
        debug_assert_eq!(codes.len(), layout.elements(), "{}", stage.name);
        let zero_point = match made.output {
            OutputQuant::Codes(quant) => quant.zero_point.into(),
            OutputQuant::Wide { zero_point, .. } => zero_point,
        };
        Ok(Tensor {
            layout,
            codes,
            zero_point,
        })
    }

    /// `clip((m·Σ w·(q − z) + c) >> k)`; taps outside the map hold `z` and add nothing.
    fn convolution(
        &self,
        index: usize,
        input: &Tensor,
        channels: &[ChannelRequant],
        clip: Clip,
    ) -> Result<Vec<i32>, EngineError> {
        let (graph, stage) = (self.model.graph(), &self.model.stages()[index]);
        let output = self.layouts[index];
        let conv = Convolution::of(graph, stage, input.layout, output)
            .expect("checked: only convolutions and linear stages rescale channels");
        let weights = kernel_weights(self.model, self.made, index, conv.weights)?.codes;
        let [outputs, rows, columns, per_group] = conv.weights;
        let [top, left, ..] = conv.padding;
        let mut codes = Vec::with_capacity(output.elements());
        for y in 0..output.height {
            for x in 0..output.width {
                for o in 0..outputs {
                    let first = o / (outputs / conv.groups) * per_group;
                    let mut acc = 0i32;
                    for ky in 0..rows {
                        for kx in 0..columns {
                            let down =
                                (y * conv.stride[0] + ky * conv.dilation[0]).checked_sub(top);
                            let right =
                                (x * conv.stride[1] + kx * conv.dilation[1]).checked_sub(left);
                            let (Some(row), Some(column)) = (down, right) else {
                                continue;
                            };
                            if row >= input.layout.height || column >= input.layout.width {
                                continue;
                            }
                            let tap = ((o * rows + ky) * columns + kx) * per_group;
                            for i in 0..per_group {
                                let centred = input.at(row, column, first + i) - input.zero_point;
                                acc += i32::from(weights[tap + i]) * centred;
                            }
                        }
                    }
                    codes.push(channels[o].requant.apply(acc, clip));
                }
            }
        }
        Ok(codes)
    }

    /// `reduce` over the codes of each channel inside each window, in HWC order of the output.
    fn windows<'t>(
        &self,
        stage: &Stage,
        output: Layout,
        input: &'t Tensor,
        reduce: impl Fn(&mut dyn Iterator<Item = i32>) -> i32 + 't,
    ) -> impl Iterator<Item = i32> + 't {
        let pool = window(self.model.graph(), stage, input.layout)
            .expect("checked: only pooling stages have windows");
        let [top, left, ..] = pool.padding;
        let inside = |start: usize, length: usize, border: usize, size: usize| {
            start.saturating_sub(border)..(start + length).saturating_sub(border).min(size)
        };
        let channels = output.channels;
        let pixel = move |p: usize| {
            let (y, x) = (p / output.width, p % output.width);
            let rows = inside(y * pool.stride[0], pool.kernel[0], top, input.layout.height);
            let columns = inside(x * pool.stride[1], pool.kernel[1], left, input.layout.width);
            (rows, columns)
        };
        (0..output.elements()).map(move |e| {
            let (rows, columns) = pixel(e / channels);
            let mut codes = rows.flat_map(|row| {
                columns
                    .clone()
                    .map(move |column| input.at(row, column, e % channels))
            });
            reduce(&mut codes)
        })
    }
}

fn input(tables: &[Table], pixels: &[u8]) -> Vec<i32> {
    let tables = tables.iter().cycle();
    pixels
        .iter()
        .zip(tables)
        .map(|(&pixel, table)| table.apply(pixel).into())
        .collect()
}

fn add(a: &Tensor, b: &Tensor, requant: AddRequant, clip: Clip) -> Vec<i32> {
    let pairs = a.codes.iter().zip(&b.codes);
    pairs
        .map(|(&a, &b)| requant.apply(a as u8, b as u8, clip))
        .collect()
}

/// Each operand through its own table, channels one after the other.
fn concat(operands: &[&Tensor], tables: &[Table], output: Layout) -> Vec<i32> {
    let mut codes = Vec::with_capacity(output.elements());
    for row in 0..output.height {
        for column in 0..output.width {
            for (operand, table) in operands.iter().zip(tables) {
                for channel in 0..operand.layout.channels {
                    codes.push(table.apply(operand.at(row, column, channel) as u8).into());
                }
            }
        }
    }
    codes
}

/// Every `stride`-th row and column, and channels of zeros, half before and half after.
fn pad_shortcut(input: &Tensor, output: Layout, stride: usize) -> Vec<i32> {
    let before = (output.channels - input.layout.channels) / 2;
    let own = before..before + input.layout.channels;
    let mut codes = Vec::with_capacity(output.elements());
    for row in 0..output.height {
        for column in 0..output.width {
            for channel in 0..output.channels {
                codes.push(if own.contains(&channel) {
                    input.at(row * stride, column * stride, channel - before)
                } else {
                    input.zero_point
                });
            }
        }
    }
    codes
}
