use std::collections::BTreeMap;
use std::ops::Range as Span;

use burn::tensor::module::{avg_pool2d, max_pool2d};
use burn::tensor::ops::{AvgPoolOptions, MaxPoolOptions};
use burn::tensor::{Tensor, TensorData, activation as pointwise};
use slimbit_graph::{
    Activation, Conv2d, NodeId, Op, Pool, Precision, Range, Shape, Stage, StageKind,
};
use slimbit_num::ActQuant;

use crate::net::{rounds_output, rounds_weights};
use crate::ops::{self, Conv};
use crate::params::{WeightRounding, to_vec};
use crate::{Bits, Mode, Net, NnError, NormMode, Observer, Outputs, Quantisation, Value};

/// One float or fake-quantised pass: how each kind of stage is computed.
pub(crate) struct Forward<'a> {
    net: &'a Net,
    mode: &'a Mode<'a>,
    /// Shape of every node's tensor at the mode's width.
    shapes: Vec<Shape>,
    observer: Option<&'a mut Observer>,
}

impl<'a> Forward<'a> {
    pub(crate) fn new(
        net: &'a Net,
        mode: &'a Mode<'a>,
        observer: Option<&'a mut Observer>,
    ) -> Result<Self, NnError> {
        Ok(Self {
            net,
            mode,
            shapes: net.graph().shapes(mode.width)?,
            observer,
        })
    }

    pub(crate) fn run(self, images: &Tensor<4>) -> Result<Outputs, NnError> {
        self.run_visited(images, &mut |_, _| {})
    }

    /// As [`run`](Self::run); `visit` sees every stage's output in execution order.
    pub(crate) fn run_visited(
        mut self,
        images: &Tensor<4>,
        visit: &mut dyn FnMut(&Stage, &Value),
    ) -> Result<Outputs, NnError> {
        let mut values = vec![None; self.net.stages().len()];
        values[0] = Some(self.input(images));
        let mut outputs = Outputs::default();
        let net = self.net;
        self.run_stages(0..values.len(), &mut values, &mut |stage, value| {
            visit(stage, value);
            for (name, id) in net.graph().outputs() {
                if *id == stage.node {
                    outputs.0.insert(name.clone(), value.clone());
                }
            }
        })?;
        Ok(outputs)
    }

    /// What the first stage gives: the images. With this a pass begins.
    pub(crate) fn input(&mut self, images: &Tensor<4>) -> Value {
        if let Some(observer) = &mut self.observer {
            observer.pass();
        }
        Value::Map(self.net.store().adopt(images.clone()))
    }

    /// Runs consecutive stages that read nothing but each other and the stage before them, which
    /// gave `input`; gives what the last of them does.
    pub(crate) fn run_part(&mut self, part: Span<usize>, input: Value) -> Result<Value, NnError> {
        let mut values = vec![None; self.net.stages().len()];
        values[part.start - 1] = Some(input);
        let last = part.end - 1;
        self.run_stages(part, &mut values, &mut |_, _| {})?;
        Ok(values[last].take().expect("the part's last stage was run"))
    }

    /// Runs stages that have no value yet, and drops values after their last use.
    fn run_stages(
        &mut self,
        range: Span<usize>,
        values: &mut [Option<Value>],
        visit: &mut dyn FnMut(&Stage, &Value),
    ) -> Result<(), NnError> {
        let stages = self.net.stages();
        let last_use = last_use(stages);
        for index in range {
            let stage = &stages[index];
            let value = match values[index].take() {
                Some(given) => given,
                None => {
                    let operands = stage.inputs.iter();
                    let operands = operands
                        .filter_map(|&i| match last_use[i] == index && stage.inputs.len() == 1 {
                            true => values[i].take(),
                            false => values[i].clone(),
                        })
                        .collect();
                    let value = self.compute(stage, operands)?;
                    self.round(stage, value)?
                }
            };
            visit(stage, &value);
            values[index] = Some(value);
            for &input in &stage.inputs {
                if last_use[input] == index {
                    values[input] = None;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn compute(
        &mut self,
        stage: &Stage,
        operands: Vec<Value>,
    ) -> Result<Value, NnError> {
        let mut operands = operands.into_iter();
        let mut next = || {
            operands
                .next()
                .expect("checked: stages have their operands")
        };
        Ok(match stage.kind {
            StageKind::Input => next(),
            StageKind::Conv { conv, norm } => {
                Value::Map(self.conv(stage, conv, norm, into_map(next()))?)
            }
            StageKind::Linear { linear, norm } => {
                Value::Vector(self.linear(stage, linear, norm, into_matrix(next()))?)
            }
            StageKind::Add => match (next(), next()) {
                (Value::Map(a), Value::Map(b)) => Value::Map(activate(a + b, stage.activation)),
                (a, b) => {
                    let sum = into_matrix(a) + into_matrix(b);
                    Value::Vector(activate(sum, stage.activation))
                }
            },
            StageKind::Concat => Value::Map(Tensor::cat(operands.map(into_map).collect(), 1)),
            StageKind::MaxPool(id) => Value::Map(max_pool(into_map(next()), self.pool(id))),
            StageKind::AvgPool(id) => {
                let pool = self.pool(id);
                let options = AvgPoolOptions::new(pool.kernel).with_stride(pool.stride);
                Value::Map(avg_pool2d(into_map(next()), options))
            }
            StageKind::GlobalAvgPool => {
                let x = into_map(next());
                let [images, channels, height, width] = x.dims();
                let x = x.reshape([images, channels, height * width]);
                Value::Vector(x.mean_dim(2).reshape([images, channels]))
            }
            StageKind::Flatten => Value::Vector(into_matrix(next())),
            StageKind::PadShortcut(id) => {
                let Op::PadShortcut { stride, .. } = self.net.graph().node(id).op else {
                    unreachable!("checked: the stage's node is a shortcut")
                };
                let channels = self.shapes[id.index()].channels();
                Value::Map(ops::pad_shortcut(into_map(next()), channels, stride))
            }
            StageKind::Pointwise => match next() {
                Value::Map(x) => Value::Map(activate(x, stage.activation)),
                Value::Vector(x) => Value::Vector(activate(x, stage.activation)),
            },
        })
    }

    fn conv(
        &mut self,
        stage: &Stage,
        id: NodeId,
        norm: Option<NodeId>,
        x: Tensor<4>,
    ) -> Result<Tensor<4>, NnError> {
        let node = self.net.graph().node(id);
        let Op::Conv2d(conv) = &node.op else {
            unreachable!("checked: the stage's node is a convolution")
        };
        let channels = self.shapes[node.inputs[0].index()].channels();
        let out = self.shapes[id.index()].channels();
        let per_group = channels / conv.group_count(channels);
        let [kh, kw] = conv.kernel;
        let weight = self.weight(stage, &node.name, [out, per_group, kh, kw])?;
        let convolve = match (self.net.uses_half_floats(), self.net.teaches()) {
            (true, _) => ops::conv2d_half,
            (false, true) => ops::conv2d_fast,
            (false, false) => ops::conv2d,
        };
        let y = convolve(x, weight, geometry(conv, channels));
        let bias = match conv.bias {
            true => Some(
                self.block(&node.name, "bias", [out])?
                    .reshape([1, out, 1, 1]),
            ),
            false => None,
        };
        self.finish(stage, norm, y, bias)
    }

    fn linear(
        &mut self,
        stage: &Stage,
        id: NodeId,
        norm: Option<NodeId>,
        x: Tensor<2>,
    ) -> Result<Tensor<2>, NnError> {
        let node = self.net.graph().node(id);
        let Op::Linear(linear) = &node.op else {
            unreachable!("checked: the stage's node is a linear layer")
        };
        let out = self.shapes[id.index()].channels();
        let weight = self.weight(stage, &node.name, [out, x.dims()[1]])?;
        let y = x.matmul(weight.transpose());
        let bias = match linear.bias {
            true => Some(self.block(&node.name, "bias", [out])?.reshape([1, out])),
            false => None,
        };
        self.finish(stage, norm, y, bias)
    }

    /// Bias, batch-norm and activation.
    fn finish<const D: usize>(
        &mut self,
        stage: &Stage,
        norm: Option<NodeId>,
        y: Tensor<D>,
        bias: Option<Tensor<D>>,
    ) -> Result<Tensor<D>, NnError> {
        let y = match bias {
            Some(bias) => y + bias,
            None => y,
        };
        let Some(norm) = norm else {
            return Ok(activate(y, stage.activation));
        };
        let node = self.net.graph().node(norm);
        let Op::BatchNorm { eps } = node.op else {
            unreachable!("checked: the stage's node is a batch-norm")
        };
        let channels = y.dims()[1];
        let own = |part: &str| {
            let name = format!("{}.{part}", node.name);
            let name = self.net.norm_param(name, self.mode.width);
            self.net.store().block(&name, [channels])
        };
        let (gamma, beta) = (own("weight")?, own("bias")?);
        let clamp = clamp_of(stage.activation);
        match self.mode.norm {
            NormMode::Batch => {
                let normed = ops::batch_norm_act(y, gamma, beta, eps, clamp);
                if let Some(observer) = &mut self.observer {
                    let (mean, variance) = (to_vec(&normed.mean), to_vec(&normed.variance));
                    observer.norm(&node.name, &mean, &variance);
                }
                Ok(normed.output)
            }
            NormMode::Given(norms) => {
                let (mean, variance) = given_norm(norms, &node.name, channels)?;
                let (gamma, beta) = (to_vec(&gamma), to_vec(&beta));
                let scale: Vec<f32> = (0..channels)
                    .map(|c| gamma[c] / (variance[c] + eps).sqrt())
                    .collect();
                let shift: Vec<f32> = (0..channels)
                    .map(|c| beta[c] - mean[c] * scale[c])
                    .collect();
                let device = y.device();
                let constant = |v| Tensor::from_data(TensorData::new(v, [channels]), &device);
                Ok(ops::affine_act(y, constant(scale), constant(shift), clamp))
            }
        }
    }

    fn block<const D: usize>(
        &self,
        node: &str,
        part: &str,
        shape: [usize; D],
    ) -> Result<Tensor<D>, NnError> {
        self.net.store().block(&format!("{node}.{part}"), shape)
    }

    fn weight<const D: usize>(
        &self,
        stage: &Stage,
        node: &str,
        shape: [usize; D],
    ) -> Result<Tensor<D>, NnError> {
        let (bits, grid) = match self.mode.quant {
            Quantisation::Dynamic { bits, grid } | Quantisation::Ranges { bits, grid, .. }
                if bits.weight > 0 && rounds_weights(stage) =>
            {
                (bits.weight, grid)
            }
            _ => return self.block(node, "weight", shape),
        };
        let rounding = WeightRounding {
            bits: if stage.eight_bit_weights { 8 } else { bits },
            grid,
            detach_scale: self.net.detaches_scales(),
        };
        let name = format!("{node}.weight");
        self.net.store().quantised_block(&name, shape, rounding)
    }

    fn pool(&self, id: NodeId) -> &'a Pool {
        match &self.net.graph().node(id).op {
            Op::MaxPool(pool) | Op::AvgPool(pool) => pool,
            _ => unreachable!("checked: the stage's node is a pool"),
        }
    }

    /// Observes a stage's output, and rounds it where the mode asks for that.
    fn round(&mut self, stage: &Stage, value: Value) -> Result<Value, NnError> {
        Ok(match value {
            Value::Map(x) => Value::Map(self.round_tensor(stage, x)?),
            Value::Vector(x) => Value::Vector(self.round_tensor(stage, x)?),
        })
    }

    fn round_tensor<const D: usize>(
        &mut self,
        stage: &Stage,
        x: Tensor<D>,
    ) -> Result<Tensor<D>, NnError> {
        let mut seen = None;
        let mut range = || *seen.get_or_insert_with(|| range_of(&x));
        if let Some(observer) = &mut self.observer
            && stage.has_range()
        {
            observer.range(&stage.name, range());
        }
        let (bits, observed) = match self.mode.quant {
            Quantisation::Dynamic { bits, .. } if bits.act > 0 && rounds_output(stage) => {
                (bits, range())
            }
            Quantisation::Ranges { bits, ranges, .. } if bits.act > 0 && rounds_output(stage) => {
                (bits, given_range(ranges, &stage.name)?)
            }
            _ => return Ok(x),
        };
        let range = stage.quantiser_range(observed);
        let (scale, zero_point, bits) = quantiser(range, stage_bits(stage, bits));
        Ok(ops::fake_quant_activation(x, scale, zero_point, bits))
    }
}

/// The last stage that reads each stage's output.
pub(crate) fn last_use(stages: &[Stage]) -> Vec<usize> {
    let mut last = vec![usize::MAX; stages.len()];
    for (index, stage) in stages.iter().enumerate() {
        for &input in &stage.inputs {
            last[input] = index;
        }
    }
    last
}

fn stage_bits(stage: &Stage, bits: Bits) -> u8 {
    match stage.precision {
        Precision::Point => bits.act,
        _ => 8,
    }
}

/// Scale, zero point and bits. Beyond the engine's 8 bits, SSQL's formula as it stands.
fn quantiser(range: Range, bits: u8) -> (f32, i32, u8) {
    if bits <= 8 {
        let quant = ActQuant::from_range(range.min, range.max, bits);
        return (quant.scale, quant.zero_point.into(), bits);
    }
    let scale = (range.max - range.min) / ((1u32 << bits) - 1) as f32;
    let zero_point = if scale > 0.0 {
        -(range.min / scale).round_ties_even() as i32
    } else {
        0
    };
    (scale, zero_point, bits)
}

pub(crate) fn range_of<const D: usize>(x: &Tensor<D>) -> Range {
    let (min, max) = ops::min_max(x.clone());
    Range { min, max }
}

pub(crate) fn given_range(ranges: &BTreeMap<String, Range>, stage: &str) -> Result<Range, NnError> {
    ranges
        .get(stage)
        .copied()
        .ok_or_else(|| NnError::Statistics {
            name: stage.to_owned(),
            what: "lack its range".to_owned(),
        })
}

pub(crate) fn given_norm<'a>(
    norms: &'a BTreeMap<String, (Vec<f32>, Vec<f32>)>,
    node: &str,
    channels: usize,
) -> Result<(&'a [f32], &'a [f32]), NnError> {
    let fault = |what: String| NnError::Statistics {
        name: node.to_owned(),
        what,
    };
    let (mean, variance) = norms
        .get(node)
        .ok_or_else(|| fault("lack its mean and variance".to_owned()))?;
    if mean.len() != channels || variance.len() != channels {
        return Err(fault(format!(
            "have {} means and {} variances for {channels} channels",
            mean.len(),
            variance.len()
        )));
    }
    Ok((mean, variance))
}

pub(crate) fn geometry(conv: &Conv2d, channels: usize) -> Conv {
    Conv {
        stride: conv.stride,
        padding: conv.padding,
        dilation: conv.dilation,
        groups: conv.group_count(channels),
    }
}

pub(crate) fn max_pool(x: Tensor<4>, pool: &Pool) -> Tensor<4> {
    let [top, left, bottom, right] = pool.padding;
    let options = MaxPoolOptions::new(pool.kernel)
        .with_stride(pool.stride)
        .with_padding_pairs([(top, bottom), (left, right)]);
    max_pool2d(x, options)
}

fn clamp_of(activation: Option<Activation>) -> ops::Activation {
    match activation {
        None => ops::Activation::None,
        Some(Activation::Relu) => ops::Activation::Relu,
        Some(Activation::Relu6) => ops::Activation::Relu6,
        Some(Activation::HardSwish) => {
            unreachable!("checked: only clamps join the stage of a batch-norm")
        }
    }
}

fn activate<const D: usize>(x: Tensor<D>, activation: Option<Activation>) -> Tensor<D> {
    match activation {
        None => x,
        Some(Activation::Relu) => pointwise::relu(x),
        Some(Activation::Relu6) => x.clamp(0.0, 6.0),
        Some(Activation::HardSwish) => pointwise::hard_swish(x),
    }
}

pub(crate) fn into_map(value: Value) -> Tensor<4> {
    match value {
        Value::Map(map) => map,
        Value::Vector(vector) => {
            let [images, channels] = vector.dims();
            vector.reshape([images, channels, 1, 1])
        }
    }
}

pub(crate) fn into_matrix(value: Value) -> Tensor<2> {
    match value {
        Value::Map(map) => map.flatten(1, 3),
        Value::Vector(vector) => vector,
    }
}
