//! The engine's arithmetic, simulated.
//!
//! Convolutions run on whole numbers in `f32`, cut along the input channels so that no sum exceeds
//! 2^24: every accumulator is exact. What follows them is computed in `f64` from the same
//! coefficients that lowering solves its fixed-point requantisers for.

mod codes;

use burn::tensor::Tensor;
use rayon::prelude::*;
use slimbit_graph::{Activation, NodeId, Op, Precision, Shape, Stage, StageKind};
use slimbit_num::{ActQuant, Clip, Table, WeightGrid};

use self::codes::{Codes, Sums, Weights, accumulate, code, tabulate};
use crate::forward::{geometry, given_norm, given_range, last_use, max_pool};
use crate::ops::{Conv, pad_shortcut};
use crate::params::to_vec;
use crate::{Bits, Mode, Net, NnError, NormMode, Outputs, Quantisation, Value};

/// Least scale of a tensor that leaves the network wide, as of every other quantiser.
const MIN_SCALE: f32 = 1e-12;

/// The integer output of one stage for a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct StageCodes {
    /// The stage.
    pub stage: String,
    /// Shape of one image's tensor.
    pub shape: Shape,
    /// Codes `[images, rows, columns, channels]`.
    pub codes: Vec<i32>,
    /// Real value of one step.
    pub scale: f32,
    /// Code of zero.
    pub zero_point: i32,
}

/// Settings of a deployed pass, taken out of its mode.
struct Deployment<'a> {
    net: &'a Net,
    mode: &'a Mode<'a>,
    bits: Bits,
    grid: WeightGrid,
    input: ActQuant,
    shapes: Vec<Shape>,
}

/// What a stage gives, visited in execution order.
type Visit<'v> = dyn FnMut(&Stage, &Codes) + 'v;

/// The dequantised outputs of a pass.
pub(crate) fn outputs(net: &Net, images: &Tensor<4>, mode: &Mode<'_>) -> Result<Outputs, NnError> {
    let device = images.device().without_autodiff();
    let shapes = net.graph().shapes(mode.width)?;
    let mut outputs = Outputs::default();
    run(net, images, mode, &mut |stage, codes| {
        let named = net.graph().outputs().iter();
        for (name, id) in named.filter(|(_, id)| *id == stage.node) {
            let real = codes.centred() * codes.scale;
            let real = Tensor::from_data(real.into_data(), &device);
            let value = match shapes[id.index()] {
                Shape::Map { .. } => Value::Map(real),
                Shape::Vector { .. } => Value::Vector(real.flatten(1, 3)),
            };
            outputs.0.insert(name.clone(), value);
        }
    })?;
    Ok(outputs)
}

/// The codes of every stage of a pass.
pub(crate) fn stage_codes(
    net: &Net,
    images: &Tensor<4>,
    mode: &Mode<'_>,
) -> Result<Vec<StageCodes>, NnError> {
    let shapes = net.graph().shapes(mode.width)?;
    let mut all = Vec::with_capacity(net.stages().len());
    run(net, images, mode, &mut |stage, codes| {
        let [images, channels, height, width] = codes.dims;
        let positions = height * width;
        let mut nhwc = Vec::with_capacity(codes.values.len());
        for image in 0..images {
            for position in 0..positions {
                nhwc.extend((0..channels).map(|channel| {
                    codes.values[(image * channels + channel) * positions + position] as i32
                }));
            }
        }
        all.push(StageCodes {
            stage: stage.name.clone(),
            shape: shapes[stage.node.index()],
            codes: nhwc,
            scale: codes.scale,
            zero_point: codes.zero_point,
        });
    })?;
    Ok(all)
}

fn run(
    net: &Net,
    images: &Tensor<4>,
    mode: &Mode<'_>,
    visit: &mut Visit<'_>,
) -> Result<(), NnError> {
    let Quantisation::Deployed {
        bits, grid, input, ..
    } = mode.quant
    else {
        return Err(NnError::Mode(
            "only a deployed pass has integer codes; use Quantisation::Deployed",
        ));
    };
    let deployment = Deployment {
        net,
        mode,
        bits,
        grid,
        input,
        shapes: net.graph().shapes(mode.width)?,
    };
    let last_use = last_use(net.stages());
    let mut tensors: Vec<Option<Codes>> = vec![None; net.stages().len()];
    for (index, stage) in net.stages().iter().enumerate() {
        let operands: Vec<&Codes> = stage
            .inputs
            .iter()
            .filter_map(|&i| tensors[i].as_ref())
            .collect();
        let codes = match stage.kind {
            StageKind::Input => deployment.image_codes(images),
            _ => deployment.compute(stage, &operands)?,
        };
        visit(stage, &codes);
        tensors[index] = Some(codes);
        for &input in &stage.inputs {
            if last_use[input] == index {
                tensors[input] = None;
            }
        }
    }
    Ok(())
}

impl Deployment<'_> {
    fn image_codes(&self, images: &Tensor<4>) -> Codes {
        let (scale, zero) = (
            f64::from(self.input.scale),
            f64::from(self.input.zero_point),
        );
        let clip = self.input.clip();
        let values = to_vec(images)
            .iter()
            .map(|&x| code(f64::from(x) / scale + zero, clip))
            .collect();
        Codes::with_quant(self.input, values, images.dims())
    }

    fn compute(&self, stage: &Stage, operands: &[&Codes]) -> Result<Codes, NnError> {
        let x = operands[0];
        match stage.kind {
            StageKind::Input => Ok(x.clone()),
            StageKind::Conv { conv, norm } => self.conv(stage, conv, norm, x),
            StageKind::Linear { linear, norm } => self.linear(stage, linear, norm, x),
            StageKind::Add => self.add(stage, x, operands[1]),
            StageKind::Concat => {
                let output = self.output(stage)?;
                let parts = operands
                    .iter()
                    .map(|part| tabulate(part, &Table::requantise(part.quant(), output)).tensor());
                let all = Tensor::cat(parts.collect(), 1);
                Ok(Codes::with_quant(output, to_vec(&all), all.dims()))
            }
            StageKind::MaxPool(id) => match &self.net.graph().node(id).op {
                Op::MaxPool(pool) => Ok(x.replaced(&max_pool(x.tensor(), pool))),
                _ => unreachable!("checked: the stage's node is a max-pool"),
            },
            StageKind::AvgPool(id) => match &self.net.graph().node(id).op {
                Op::AvgPool(pool) => {
                    let window = Conv {
                        stride: pool.stride,
                        groups: x.dims[1],
                        ..Conv::default()
                    };
                    self.average(stage, x, pool.kernel, window)
                }
                _ => unreachable!("checked: the stage's node is an average pool"),
            },
            StageKind::GlobalAvgPool => {
                let [_, groups, height, width] = x.dims;
                let window = Conv {
                    groups,
                    ..Conv::default()
                };
                self.average(stage, x, [height, width], window)
            }
            StageKind::Flatten => {
                let [images, channels, height, width] = x.dims;
                Ok(Codes {
                    dims: [images, channels * height * width, 1, 1],
                    ..x.clone()
                })
            }
            StageKind::PadShortcut(id) => match self.net.graph().node(id).op {
                Op::PadShortcut { stride, .. } => {
                    let channels = self.shapes[id.index()].channels();
                    let padded = pad_shortcut(x.centred(), channels, stride);
                    Ok(x.replaced(&(padded + x.zero_point as f32)))
                }
                _ => unreachable!("checked: the stage's node is a shortcut"),
            },
            StageKind::Pointwise => {
                let output = self.output(stage)?;
                let f = |v| stage.activation.map_or(v, |activation| activation.apply(v));
                let y = tabulate(x, &Table::from_fn(x.quant(), output, f));
                Ok(Codes::with_quant(output, y.values, y.dims))
            }
        }
    }

    /// The quantiser of a stage's own.
    fn output(&self, stage: &Stage) -> Result<ActQuant, NnError> {
        let Quantisation::Deployed { ranges, .. } = self.mode.quant else {
            return Err(NnError::Mode("a deployed pass needs ranges"));
        };
        let range = stage.quantiser_range(given_range(ranges, &stage.name)?);
        let bits = stage.bits(self.bits.act);
        Ok(ActQuant::from_range(range.min, range.max, bits))
    }

    fn conv(
        &self,
        stage: &Stage,
        id: NodeId,
        norm: Option<NodeId>,
        x: &Codes,
    ) -> Result<Codes, NnError> {
        let node = self.net.graph().node(id);
        let Op::Conv2d(conv) = &node.op else {
            unreachable!("checked: the stage's node is a convolution")
        };
        let channels = x.dims[1];
        let [kh, kw] = conv.kernel;
        let out = self.shapes[id.index()].channels();
        let shape = [out, channels / conv.group_count(channels), kh, kw];
        let weights = self.weights(stage, &node.name, shape)?;
        let sums = accumulate(x, &weights, geometry(conv, channels));
        let bias = conv.bias.then(|| format!("{}.bias", node.name));
        self.requantise(stage, bias, norm, x, &weights, &sums)
    }

    fn linear(
        &self,
        stage: &Stage,
        id: NodeId,
        norm: Option<NodeId>,
        x: &Codes,
    ) -> Result<Codes, NnError> {
        let node = self.net.graph().node(id);
        let Op::Linear(linear) = &node.op else {
            unreachable!("checked: the stage's node is a linear layer")
        };
        let [images, channels, height, width] = x.dims;
        let flat = Codes {
            dims: [images, channels * height * width, 1, 1],
            ..x.clone()
        };
        let shape = [self.shapes[id.index()].channels(), flat.dims[1], 1, 1];
        let weights = self.weights(stage, &node.name, shape)?;
        let sums = accumulate(&flat, &weights, Conv::default());
        let bias = linear.bias.then(|| format!("{}.bias", node.name));
        self.requantise(stage, bias, norm, &flat, &weights, &sums)
    }

    /// The codes of the leading block of a weight, on the grid of the full-width channels.
    fn weights(&self, stage: &Stage, node: &str, shape: [usize; 4]) -> Result<Weights, NnError> {
        let bits = match stage.eight_bit_weights {
            true => 8,
            false => self.bits.weight,
        };
        let full = self.net.store().array(&format!("{node}.weight"))?;
        let row: usize = full.shape[1..].iter().product();
        let mut codes = Vec::with_capacity(shape.iter().product());
        let mut scales = Vec::with_capacity(shape[0]);
        for channel in full.data.chunks_exact(row).take(shape[0]) {
            let max_abs = channel.iter().fold(0f32, |max, w| max.max(w.abs()));
            scales.push(self.grid.scale(max_abs, bits));
            let code = |&w: &f32| f32::from(self.grid.code(w, max_abs, bits));
            // The leading inputs are the leading elements, as kernels are never cut.
            codes.extend(channel[..shape[1] * shape[2] * shape[3]].iter().map(code));
        }
        Ok(Weights {
            codes,
            shape,
            scales,
        })
    }

    fn requantise(
        &self,
        stage: &Stage,
        bias: Option<String>,
        norm: Option<NodeId>,
        x: &Codes,
        weights: &Weights,
        sums: &Sums,
    ) -> Result<Codes, NnError> {
        let wide = stage.precision == Precision::Wide;
        let mut y = if wide {
            let Quantisation::Deployed { ranges, .. } = self.mode.quant else {
                return Err(NnError::Mode("a deployed pass needs ranges"));
            };
            let range = given_range(ranges, &stage.name)?;
            let largest = range.min.abs().max(range.max.abs());
            Codes {
                values: Vec::new(),
                dims: sums.dims,
                scale: (largest / 32767.0).max(MIN_SCALE),
                zero_point: 0,
                clip: Clip::signed(16),
            }
        } else {
            Codes::with_quant(self.output(stage)?, Vec::new(), sums.dims)
        };
        let out = weights.shape[0];
        let bias = match bias {
            Some(name) => self.net.store().array(&name)?.data,
            None => vec![0.0; out],
        };
        let norm = match norm {
            Some(id) => Some(self.norm(id, out)?),
            None => None,
        };
        let (s_in, s_out) = (f64::from(x.scale), f64::from(y.scale));
        let lines: Vec<(f64, f64)> = (0..out)
            .map(|c| {
                let (s_w, bias) = (f64::from(weights.scales[c]), f64::from(bias[c]));
                let n = norm.as_ref().map_or(Normed::IDENTITY, |norm| norm[c]);
                let gain = n.gamma / n.deviation;
                let a = gain * (s_w * s_in) / s_out;
                let b = (gain * (bias - n.mean) + n.beta) / s_out;
                (f64::from(a as f32), b + f64::from(y.zero_point))
            })
            .collect();
        let clip = narrowed(y.clip, stage.activation, y.zero_point, y.scale);
        let positions = sums.dims[2] * sums.dims[3];
        y.values = sums
            .values
            .par_chunks(positions)
            .enumerate()
            .flat_map_iter(|(plane, sums)| {
                let (a, b) = lines[plane % out];
                sums.iter().map(move |sum| code(a * sum + b, clip))
            })
            .collect();
        Ok(y)
    }

    fn norm(&self, id: NodeId, channels: usize) -> Result<Vec<Normed>, NnError> {
        let node = self.net.graph().node(id);
        let (Op::BatchNorm { eps }, NormMode::Given(norms)) = (&node.op, self.mode.norm) else {
            return Err(NnError::Mode(
                "a deployed pass takes given batch-norm statistics, not the batch's",
            ));
        };
        let (mean, variance) = given_norm(norms, &node.name, channels)?;
        let gamma = self
            .net
            .store()
            .array(&format!("{}.weight", node.name))?
            .data;
        let beta = self.net.store().array(&format!("{}.bias", node.name))?.data;
        let channel = |c: usize| Normed {
            gamma: gamma[c].into(),
            beta: beta[c].into(),
            mean: mean[c].into(),
            deviation: (f64::from(variance[c]) + f64::from(*eps)).sqrt(),
        };
        Ok((0..channels).map(channel).collect())
    }

    fn add(&self, stage: &Stage, x: &Codes, y: &Codes) -> Result<Codes, NnError> {
        let output = self.output(stage)?;
        let s_out = f64::from(output.scale);
        let (zero, zero_x, zero_y) = (
            f64::from(output.zero_point),
            f64::from(x.zero_point),
            f64::from(y.zero_point),
        );
        let slope = |s: f32| f64::from((f64::from(s) / s_out) as f32);
        let (a, b) = (slope(x.scale), slope(y.scale));
        let c = zero - a * zero_x - b * zero_y;
        let clip = narrowed(
            output.clip(),
            stage.activation,
            output.zero_point.into(),
            output.scale,
        );
        let values = x
            .values
            .iter()
            .zip(&y.values)
            .map(|(&x, &y)| code(a * f64::from(x) + b * f64::from(y) + c, clip));
        Ok(Codes::with_quant(output, values.collect(), x.dims))
    }

    /// Mean over windows: sums of `q - z`, rescaled unless they leave the network wide.
    fn average(
        &self,
        stage: &Stage,
        x: &Codes,
        kernel: [usize; 2],
        window: Conv,
    ) -> Result<Codes, NnError> {
        let [kh, kw] = kernel;
        let channels = x.dims[1];
        let ones = Weights {
            codes: vec![1.0; channels * kh * kw],
            shape: [channels, 1, kh, kw],
            scales: Vec::new(),
        };
        let sums = accumulate(x, &ones, window);
        let count = (kh * kw) as f64;
        if stage.precision == Precision::Wide {
            return Ok(Codes {
                values: sums.values.iter().map(|&sum| sum as f32).collect(),
                dims: sums.dims,
                scale: (f64::from(x.scale) / count) as f32,
                zero_point: 0,
                clip: Clip::signed(32),
            });
        }
        let output = self.output(stage)?;
        let zero = f64::from(output.zero_point);
        let a = f64::from(x.scale) / (count * f64::from(output.scale));
        let a = f64::from(a as f32);
        let values = sums.values.iter();
        let values = values.map(|sum| code(a * sum + zero, output.clip()));
        Ok(Codes::with_quant(output, values.collect(), sums.dims))
    }
}

/// One channel of a batch-norm.
#[derive(Clone, Copy)]
struct Normed {
    gamma: f64,
    beta: f64,
    mean: f64,
    deviation: f64,
}

impl Normed {
    const IDENTITY: Self = Self {
        gamma: 1.0,
        beta: 0.0,
        mean: 0.0,
        deviation: 1.0,
    };
}

/// The codes that an activation lets through.
fn narrowed(clip: Clip, activation: Option<Activation>, zero_point: i32, scale: f32) -> Clip {
    match activation.and_then(Activation::clamp_ends) {
        Some([lo, hi]) => clip.between(lo, hi, scale, zero_point),
        None => clip,
    }
}
