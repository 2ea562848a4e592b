//! Operators that treat every element alike, or every channel.

use std::rc::Rc;

use slimbit_graph::Activation;

use super::attributes::Attributes;
use super::constant::Constant;
use super::dimensions::axis;
use super::fold::Operands;
use super::refusal::{Refusal, damaged, unsupported};
use super::step::Kind;
use super::trace::{Quantiser, Tensor, Trace, Value};
use crate::onnx::proto::data_type;

impl Trace {
    pub(super) fn activation(
        &mut self,
        op: &str,
        attributes: Attributes<'_>,
        x: &Tensor,
        others: &Operands,
    ) -> Result<Tensor, Refusal> {
        // A clip of codes belongs to their quantiser.
        if x.codes {
            return Ok(x.clone());
        }
        let kind = match op {
            "Relu" => Kind::Activation(Activation::Relu),
            "HardSwish" => Kind::Activation(Activation::HardSwish),
            "HardSigmoid" => Kind::HardSigmoid([
                attributes.float("alpha").unwrap_or(0.2),
                attributes.float("beta").unwrap_or(0.5),
            ]),
            _ => {
                let bound = |index: usize, name: &str, default: f32| -> Result<f32, Refusal> {
                    match others.get(index) {
                        Some(Some(bound)) => bound.scalar(),
                        _ => Ok(attributes.float(name).unwrap_or(default)),
                    }
                };
                let low = bound(0, "min", f32::NEG_INFINITY)?;
                let high = bound(1, "max", f32::INFINITY)?;
                if low == 0.0 && high >= f32::MAX {
                    Kind::Activation(Activation::Relu)
                } else {
                    Kind::Clip([low, high])
                }
            }
        };
        self.push_like(kind, x)
    }

    /// A tensor's codes. The float meaning of unsigned codes that begin at zero includes a ReLU.
    pub(super) fn quantise(&mut self, x: &Tensor, others: &Operands) -> Result<Tensor, Refusal> {
        let Some(Some(scale)) = others.first() else {
            return damaged("has no scale");
        };
        if scale.len() != 1 {
            return unsupported(
                "quantises activations per channel",
                "quantise them per tensor",
            );
        }
        let scale = scale.scalar()?;
        let (zero_point, lowest) = match others.get(1) {
            Some(Some(zero)) => {
                let lowest = match zero.data_type {
                    data_type::INT8 => -128,
                    data_type::INT16 => -32768,
                    data_type::INT4 => -8,
                    _ => 0,
                };
                match zero.to_i64()? {
                    &[value] => (value, lowest),
                    values => return damaged(format!("has {} zero points", values.len())),
                }
            }
            _ => (0, 0),
        };
        let mut codes = x.clone();
        let clamps = zero_point == lowest
            && !self.steps[x.step].non_negative
            && !matches!(self.steps[x.step].kind, Kind::Input);
        if clamps {
            let relu6 = (scale * 255.0 - 6.0).abs() < 1e-3;
            let activation = if relu6 {
                Activation::Relu6
            } else {
                Activation::Relu
            };
            codes = self.push_like(Kind::Activation(activation), x)?;
        }
        self.quantisers.push(Quantiser {
            step: codes.step,
            scale,
            zero_point,
        });
        codes.codes = true;
        Ok(codes)
    }

    /// Sums, products and concatenations.
    pub(super) fn joined(
        &mut self,
        op: &str,
        attributes: Attributes<'_>,
        operands: &[Option<Value>],
    ) -> Result<Tensor, Refusal> {
        let mut tensors = Vec::new();
        let mut constants = Vec::new();
        for operand in operands.iter().flatten() {
            match operand {
                Value::Tensor(tensor) => tensors.push(tensor.clone()),
                Value::Constant(constant) => constants.push(constant.clone()),
                Value::Refused => {}
            }
        }
        if op == "Concat" {
            return self.concat(attributes, &tensors, constants.len());
        }
        match (op, &tensors[..], &constants[..]) {
            ("Sum", [x], []) => Ok(x.clone()),
            ("Add" | "Sum", [x, rest @ ..], []) => {
                let mut sum = x.clone();
                for y in rest {
                    sum = self.add(&sum, y)?;
                }
                Ok(sum)
            }
            ("Mul", [x, y], []) => self.product(x, y),
            ("Add" | "Sub" | "Mul" | "Div", [x], [constant]) => {
                let first = matches!(operands.first(), Some(Some(Value::Constant(_))));
                self.scaled(op, x, constant, first)
            }
            _ => unsupported(
                "combines tensors in a way without a counterpart",
                "simplify the model, or cut it before this node",
            ),
        }
    }

    fn add(&mut self, x: &Tensor, y: &Tensor) -> Result<Tensor, Refusal> {
        if x.dims != y.dims || x.channels_last != y.channels_last {
            return unsupported(
                format!("adds {:?} and {:?}", x.dims, y.dims),
                "only sums of tensors of one shape are supported",
            );
        }
        let (channels, space) = x.extent()?;
        self.push(Kind::Add, &[x, y], channels, space, x.dims.clone())
    }

    fn concat(
        &mut self,
        attributes: Attributes<'_>,
        tensors: &[Tensor],
        constants: usize,
    ) -> Result<Tensor, Refusal> {
        let Some(first) = tensors.first() else {
            return damaged("joins nothing");
        };
        let at = axis(attributes.int("axis", 1), first.dims.len())?;
        if at != 1 || constants > 0 || tensors.iter().any(|x| x.map().is_err()) {
            return unsupported(
                "joins other things than maps along their channels",
                "only axis 1 of maps [N, C, H, W] is supported",
            );
        }
        let (_, space) = first.map()?;
        let mut channels = 0;
        for x in tensors {
            let (more, other) = x.map()?;
            if other != space {
                return damaged(format!("joins {:?} and {:?}", first.dims, x.dims));
            }
            channels += more;
        }
        if tensors.len() == 1 {
            return Ok(first.clone());
        }
        let dims = vec![first.dims[0], channels, space[0], space[1]];
        let inputs: Vec<&Tensor> = tensors.iter().collect();
        self.push(Kind::Concat, &inputs, channels, space, dims)
    }

    /// A tensor and a constant.
    fn scaled(
        &mut self,
        op: &str,
        x: &Tensor,
        constant: &Rc<Constant>,
        constant_first: bool,
    ) -> Result<Tensor, Refusal> {
        let values = channel_values(x, constant)?;
        self.budget.take(values.len())?;
        let all = |value: f32| vec![value; values.len()];
        let (gain, shift) = match (op, constant_first) {
            ("Add", _) => (all(1.0), values),
            ("Sub", false) => (all(1.0), values.iter().map(|v| -v).collect()),
            ("Sub", true) => (all(-1.0), values),
            ("Mul", _) => {
                let none = all(0.0);
                (values, none)
            }
            ("Div", false) => (values.iter().map(|v| v.recip()).collect(), all(0.0)),
            _ => {
                return unsupported(
                    "divides by what it computes from the image",
                    "simplify the model, or cut it before this node",
                );
            }
        };
        if let (Kind::Gated(factor), [gain], [0.0]) =
            (&self.steps[x.step].kind, &gain[..], &shift[..])
        {
            let gated = Kind::Gated(factor * gain);
            let input = self.steps[x.step].inputs[0];
            let operand = Tensor {
                step: input,
                ..x.clone()
            };
            return self.push_like(gated, &operand);
        }
        self.push_like(Kind::Scale { gain, shift }, x)
    }

    /// A product of two tensors, which is a hard swish or has no counterpart.
    fn product(&mut self, x: &Tensor, y: &Tensor) -> Result<Tensor, Refusal> {
        for (value, gate) in [(x, y), (y, x)] {
            let Some((source, factor)) = self.gate(gate.step, 2) else {
                continue;
            };
            let (peeled, gain) = self.peel(value.step);
            if peeled == source {
                let operand = Tensor {
                    step: source,
                    ..value.clone()
                };
                return self.push_like(Kind::Gated(factor * gain), &operand);
            }
        }
        unsupported(
            "multiplies two tensors (squeeze-and-excitation, attention or another gate)",
            "only hard swish is supported; use a network without gates",
        )
    }

    /// If a step computes `factor · clip(source + 3, 0, 6)`: its source and factor. The factor may
    /// come of up to `scales` steps of its own.
    fn gate(&self, step: usize, scales: usize) -> Option<(usize, f32)> {
        let near = |a: f32, b: f32| (a - b).abs() <= 1e-4 * b.abs().max(1.0);
        let inner = || self.steps[step].inputs.first().copied();
        match &self.steps[step].kind {
            Kind::HardSigmoid([slope, offset]) if near(*slope, 1.0 / 6.0) && near(*offset, 0.5) => {
                Some((inner()?, 1.0 / 6.0))
            }
            Kind::Clip([low, high]) if *low == 0.0 => {
                let Kind::Scale { gain, shift } = &self.steps[inner()?].kind else {
                    return None;
                };
                let source = *self.steps[inner()?].inputs.first()?;
                match (&gain[..], &shift[..]) {
                    ([g], [s]) if near(*high, 6.0) && near(*g, 1.0) && near(*s, 3.0) => {
                        Some((source, 1.0))
                    }
                    ([g], [s]) if near(*high, 1.0) && near(*g, 1.0 / 6.0) && near(*s, 0.5) => {
                        Some((source, 1.0 / 6.0))
                    }
                    _ => None,
                }
            }
            Kind::Scale { gain, shift } => match (&gain[..], &shift[..]) {
                ([gain], [0.0]) if scales > 0 => {
                    let (source, factor) = self.gate(inner()?, scales - 1)?;
                    Some((source, factor * gain))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// A step without the constant factor before it, and the factor.
    fn peel(&self, step: usize) -> (usize, f32) {
        match &self.steps[step].kind {
            Kind::Scale { gain, shift } => match (&gain[..], &shift[..]) {
                ([gain], [0.0]) => (self.steps[step].inputs[0], *gain),
                _ => (step, 1.0),
            },
            _ => (step, 1.0),
        }
    }
}

/// One number for every channel of `x`, or one for all.
fn channel_values(x: &Tensor, constant: &Constant) -> Result<Vec<f32>, Refusal> {
    if constant.len() == 1 && constant.dims.len() <= x.dims.len() {
        return Ok(constant.to_f32().into_owned());
    }
    let (channels, _) = x.extent()?;
    let rank = x.dims.len();
    let at = if x.channels_last { rank - 1 } else { 1 };
    let missing = rank.checked_sub(constant.dims.len());
    let alone = missing.is_some_and(|missing| {
        let mut dims = constant.dims.iter().enumerate();
        dims.all(|(i, &d)| d == if i + missing == at { channels } else { 1 })
    });
    if alone && constant.len() == channels {
        return Ok(constant.to_f32().into_owned());
    }
    unsupported(
        format!(
            "combines {:?} with a constant of {:?}",
            x.dims, constant.dims
        ),
        "only one number, or one per channel, is supported",
    )
}
