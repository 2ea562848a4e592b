//! Operators that treat every element alike, or every channel.

use std::rc::Rc;

use slimbit_graph::Activation;

use super::attributes::Attributes;
use super::constant::Constant;
use super::dimensions::axis;
use super::fold::Operands;
use super::refusal::{Refusal, damaged, shown, unsupported};
use super::step::{Kind, Step};
use super::trace::{Holds, Tensor, Trace, Value};

/// Refuses a `Dropout` that is told to train, by its operands behind the first.
pub(super) fn refuse_training(others: &Operands) -> Result<(), Refusal> {
    let given = |index: usize| others.get(index).and_then(Option::as_ref);
    let trains = match given(1) {
        Some(mode) => mode.scalar()? != 0.0,
        None => false,
    };
    let drops = match given(0) {
        Some(ratio) => ratio.scalar()? != 0.0,
        None => true,
    };
    match trains && drops {
        true => unsupported(
            "drops elements at random, as in training",
            "export for inference (model.eval())",
        ),
        false => Ok(()),
    }
}

/// From here on a bound is none: exporters write the largest float in few digits.
const UNBOUNDED: f32 = 3.4e38;

impl Trace {
    pub(super) fn activation(
        &mut self,
        op: &str,
        attributes: Attributes<'_>,
        x: &Tensor,
        others: &Operands,
    ) -> Result<Tensor, Refusal> {
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
                return match x.holds {
                    Holds::Codes(codes) => self.clip_codes(x, codes, [low, high]),
                    _ => self.clip(x, [low, high]),
                };
            }
        };
        self.push_like(kind, x)
    }

    /// `min(max(x, low), high)`.
    fn clip(&mut self, x: &Tensor, [low, high]: [f32; 2]) -> Result<Tensor, Refusal> {
        if low > high || low.is_nan() || high.is_nan() {
            return unsupported(
                format!("clips to {low} .. {high}, which is empty"),
                "only 0 .. 6 and 0 .. infinity are supported",
            );
        }
        let mut bounds = [low, high];
        if low <= -UNBOUNDED {
            bounds[0] = f32::NEG_INFINITY;
        }
        if high >= UNBOUNDED {
            bounds[1] = f32::INFINITY;
        }
        let mut source = x.clone();
        // A clip of a clip is a clip.
        let before = match self.steps[x.step].kind {
            Kind::Clip(before) => Some(before),
            Kind::Activation(Activation::Relu) => Some([0.0, f32::INFINITY]),
            Kind::Activation(Activation::Relu6) => Some([0.0, 6.0]),
            _ => None,
        };
        if let Some(before) = before {
            let joint = before.map(|bound| bound.clamp(bounds[0], bounds[1]));
            if joint == before {
                return Ok(source);
            }
            bounds = joint;
            source.step = self.steps[x.step].inputs[0];
        }
        if self.steps[source.step].non_negative && bounds[0] < 0.0 && bounds[1] > 0.0 {
            bounds[0] = 0.0;
        }
        let free = bounds[0] == f32::NEG_INFINITY
            || (bounds[0] == 0.0 && self.steps[source.step].non_negative);
        let kind = match bounds {
            [_, f32::INFINITY] if free => return Ok(source),
            [0.0, f32::INFINITY] => Kind::Activation(Activation::Relu),
            bounds => Kind::Clip(bounds),
        };
        self.push_like(kind, &source)
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
        if tensors.iter().any(|x| x.holds != Holds::Reals) {
            return unsupported(
                "computes on integers",
                "cast or dequantise the tensor to floats first",
            );
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
            ("Max" | "Min", [x], bounds) => {
                let mut clipped = x.clone();
                for bound in bounds {
                    let fits = bound.dims.len() <= x.dims.len();
                    clipped = match (bound.scalar(), op) {
                        (Ok(low), "Max") if fits => self.clip(&clipped, [low, f32::INFINITY])?,
                        (Ok(high), _) if fits => self.clip(&clipped, [f32::NEG_INFINITY, high])?,
                        _ => {
                            return unsupported(
                                format!("takes a bound of {}", shown(&bound.dims)),
                                "only one number for all elements is supported",
                            );
                        }
                    };
                }
                Ok(clipped)
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
                format!("adds {} and {}", shown(&x.dims), shown(&y.dims)),
                "only sums of tensors of one shape are supported",
            );
        }
        let Step {
            channels, space, ..
        } = self.steps[x.step];
        let other = &self.steps[y.step];
        if (channels, space) != (other.channels, other.space) {
            return damaged("adds maps of other channels");
        }
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
        if !attributes.has("axis") {
            return damaged("states no axis");
        }
        let at = axis(attributes.int("axis", 1), first.dims.len())?;
        let alike = |x: &Tensor| {
            (x.dims.len(), x.channels_last, x.holds) == (4, first.channels_last, first.holds)
        };
        if constants > 0 || !tensors.iter().all(alike) || at != first.channel_axis() {
            return unsupported(
                "joins other things than maps along their channels",
                "only axis 1 of maps [N, C, H, W] is supported",
            );
        }
        let (_, space) = first.extent()?;
        let mut channels = 0;
        for x in tensors {
            let (more, other) = x.extent()?;
            if other != space {
                let (first, x) = (shown(&first.dims), shown(&x.dims));
                return damaged(format!("joins {first} and {x}"));
            }
            channels += more;
        }
        if tensors.len() == 1 {
            return Ok(first.clone());
        }
        let mut dims = first.dims.clone();
        dims[at] = channels;
        let inputs: Vec<&Tensor> = tensors.iter().collect();
        let joined = self.push(Kind::Concat, &inputs, channels, space, dims)?;
        Ok(Tensor {
            holds: first.holds,
            ..joined
        })
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
        self.budget.take(3 * values.len())?;
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
    let values = constant.to_f32();
    if constant.len() == 1 && constant.dims.len() <= x.dims.len() {
        return Ok(values.into_owned());
    }
    let (channels, _) = x.extent()?;
    let refuse = |why: String| {
        unsupported(
            why,
            "only one number, or one per channel, is supported; in place of a mean image, take its \
             mean per channel",
        )
    };
    let Some(missing) = x.dims.len().checked_sub(constant.dims.len()) else {
        let (x, constant) = (shown(&x.dims), shown(&constant.dims));
        return refuse(format!("combines {x} with a constant of {constant}"));
    };
    let at = x.channel_axis();
    let mut dims = constant.dims.iter().enumerate();
    let fits = dims.all(|(i, &d)| d == 1 || (i + missing > 0 && d == x.dims[i + missing]));
    let of_channels = at
        .checked_sub(missing)
        .is_some_and(|at| constant.dims[at] == channels);
    if !fits || !of_channels || constant.len() == 0 {
        let (x, constant) = (shown(&x.dims), shown(&constant.dims));
        return refuse(format!("combines {x} with a constant of {constant}"));
    }
    // A whole image of numbers may still be one per channel.
    let inner: usize = constant.dims[at - missing + 1..].iter().product();
    let first: Vec<f32> = (0..channels).map(|c| values[c * inner]).collect();
    let mut all = values.iter().enumerate();
    match all.all(|(i, v)| v.to_bits() == first[i / inner % channels].to_bits()) {
        true => Ok(first),
        false => refuse(format!(
            "combines {} with a constant that differs from pixel to pixel",
            shown(&x.dims)
        )),
    }
}
