//! Changes of the element type, and what follows from it: codes, pixels and probabilities.

use slimbit_graph::Activation;

use super::attributes::Attributes;
use super::dimensions::axis;
use super::fold::Operands;
use super::quantise::code_type;
use super::refusal::{Refusal, damaged, shown, unsupported};
use super::step::Kind;
use super::trace::{Codes, Holds, Quantiser, Tensor, Trace};
use crate::onnx::proto::data_type as t;

impl Trace {
    /// Floats stay what they are, and so do pixels in wider integers.
    pub(super) fn cast(
        &mut self,
        op: &str,
        attributes: Attributes<'_>,
        x: &Tensor,
        others: &Operands,
    ) -> Result<Tensor, Refusal> {
        let to = match (op, others.first()) {
            ("CastLike", Some(Some(like))) => like.data_type.into(),
            _ => attributes.int("to", 0),
        };
        let to = i32::try_from(to).unwrap_or(0);
        match (x.holds, to) {
            (_, t::FLOAT | t::FLOAT16 | t::DOUBLE | t::BFLOAT16) => Ok(Tensor {
                holds: Holds::Reals,
                ..x.clone()
            }),
            (
                Holds::Pixels,
                t::UINT8 | t::UINT16 | t::INT16 | t::INT32 | t::UINT32 | t::INT64 | t::UINT64,
            ) => Ok(x.clone()),
            _ => unsupported(
                format!("casts to element type {to}"),
                "leave conversions of inputs and outputs to the caller",
            ),
        }
    }

    /// A tensor's codes. The float meaning of unsigned codes that begin at zero includes a ReLU.
    pub(super) fn quantise(
        &mut self,
        attributes: Attributes<'_>,
        x: &Tensor,
        others: &Operands,
    ) -> Result<Tensor, Refusal> {
        let zero = others.get(1).and_then(Option::as_ref);
        let (_, lowest, highest) = code_type(attributes, zero)?;
        let codes = codes(others)?;
        let mut quantised = x.clone();
        let step = &self.steps[x.step];
        if codes.zero_point == highest {
            return unsupported("has no codes above zero", "calibrate the model again");
        }
        if codes.zero_point == lowest && !step.non_negative && !step.is_image {
            let kind = Kind::Activation(clamp(codes, highest));
            quantised = self.push_like(kind, x)?;
        }
        self.quantisers.push(Quantiser {
            step: quantised.step,
            codes,
        });
        quantised.holds = Holds::Codes(codes);
        Ok(quantised)
    }

    /// A clip of codes: at the code of zero it is a ReLU, and below that it ends the quantiser's
    /// range early, as for codes of fewer bits.
    pub(super) fn clip_codes(
        &mut self,
        x: &Tensor,
        codes: Codes,
        [low, high]: [f32; 2],
    ) -> Result<Tensor, Refusal> {
        let zero = codes.zero_point as f32;
        if low > zero || high <= zero {
            return unsupported(
                format!("clips codes to {low} .. {high}, with {zero} for zero"),
                "only clips around zero are supported",
            );
        }
        let step = &self.steps[x.step];
        if low < zero || step.non_negative || step.is_image {
            return Ok(x.clone());
        }
        let highest = if high < 1e6 {
            high as i64
        } else {
            i64::MAX / 2
        };
        let kind = Kind::Activation(clamp(codes, highest));
        let clipped = self.push_like(kind, x)?;
        Ok(Tensor {
            holds: x.holds,
            ..clipped
        })
    }

    /// Codes become what they were, and pixels of an image multiples of themselves.
    pub(super) fn dequantise(&mut self, x: &Tensor, others: &Operands) -> Result<Tensor, Refusal> {
        let Codes { scale, zero_point } = codes(others)?;
        match x.holds {
            Holds::Codes(codes) if codes == (Codes { scale, zero_point }) => Ok(Tensor {
                holds: Holds::Reals,
                ..x.clone()
            }),
            Holds::Codes(codes) => unsupported(
                format!(
                    "reads codes of scale {} and zero point {} as such of {scale} and {zero_point}",
                    codes.scale, codes.zero_point
                ),
                "quantise and dequantise with the same scale",
            ),
            Holds::Pixels | Holds::Reals => {
                let shift = (-f64::from(scale) * zero_point as f64) as f32;
                let kind = Kind::Scale {
                    gain: vec![scale],
                    shift: vec![shift],
                };
                self.push_like(kind, x)
            }
        }
    }

    /// A softmax over all channels keeps their order; over anything else it does not.
    pub(super) fn softmax(
        &mut self,
        attributes: Attributes<'_>,
        x: &Tensor,
    ) -> Result<Tensor, Refusal> {
        x.extent()?;
        let rank = x.dims.len();
        // Up to opset 12, all axes from this one on are normalised together.
        let together = attributes.opset < 13;
        let at = axis(attributes.int("axis", if together { 1 } else { -1 }), rank)?;
        let end = if together { rank } else { at + 1 };
        let remedy = "normalise over the channels (axis 1), or leave the operator out";
        if at == 0 {
            return unsupported("normalises over the batch (axis 0)", remedy);
        }
        let count: usize = x.dims[at..end].iter().product();
        if count == 1 {
            return unsupported(
                format!(
                    "normalises {} over axis {at}, of one element: it gives the same for every \
                     image",
                    shown(&x.dims)
                ),
                remedy,
            );
        }
        if !(at..end).contains(&x.channel_axis()) {
            return unsupported(
                format!(
                    "normalises {} over axis {at}, which is not the channels",
                    shown(&x.dims)
                ),
                remedy,
            );
        }
        self.push_like(Kind::Softmax, x)
    }
}

/// The scale and the zero point that a node has behind its first operand.
fn codes(others: &Operands) -> Result<Codes, Refusal> {
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
    if !(scale > 0.0 && scale.is_finite()) {
        return damaged(format!("has a scale of {scale}"));
    }
    let zero_point = match others.get(1) {
        Some(Some(zero)) => match zero.to_i64()? {
            &[value] => value,
            values => return damaged(format!("has {} zero points", values.len())),
        },
        _ => 0,
    };
    Ok(Codes { scale, zero_point })
}

/// What codes that begin at zero do to their tensor.
fn clamp(codes: Codes, highest: i64) -> Activation {
    let largest = codes.scale * (highest - codes.zero_point) as f32;
    match (largest - 6.0).abs() < 1e-3 {
        true => Activation::Relu6,
        false => Activation::Relu,
    }
}
