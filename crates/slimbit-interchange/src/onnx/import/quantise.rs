//! Codes and what they stand for, on constants: the weights of a QDQ file.

use std::rc::Rc;

use super::attributes::Attributes;
use super::constant::{Constant, Data, integers};
use super::dimensions::axis;
use super::refusal::{Budget, Refusal, damaged, unsupported};
use crate::onnx::proto::data_type;

/// The scale and zero point of each element: one of each, or one per index of an axis.
fn quantisers<'a>(
    source: &'a Constant,
    scale: &'a Constant,
    zero: Option<&'a Rc<Constant>>,
    attributes: Attributes<'_>,
) -> Result<impl Fn(usize) -> (f32, f32) + 'a, Refusal> {
    if scale.dims.len() > 1 {
        return unsupported(
            format!("has scales of {} dimensions", scale.dims.len()),
            "quantise per tensor or per channel",
        );
    }
    let rows = scale.len();
    let inner = if rows == 1 {
        source.len().max(1)
    } else {
        let at = axis(attributes.int("axis", 1), source.dims.len())?;
        if source.dims[at] != rows {
            return damaged(format!("{rows} scales for {:?}, axis {at}", source.dims));
        }
        source.dims[at + 1..].iter().product()
    };
    if zero.is_some_and(|zero| zero.len() != rows) || rows == 0 {
        return damaged("scales and zero points differ in number");
    }
    let scales = scale.to_f32();
    let zeros = zero.map(|zero| zero.to_f32());
    Ok(move |index: usize| {
        let row = index / inner % rows;
        (scales[row], zeros.as_ref().map_or(0.0, |zeros| zeros[row]))
    })
}

/// The type of the codes that a `QuantizeLinear` makes, and the least and greatest of them.
pub(super) fn code_type(
    attributes: Attributes<'_>,
    zero: Option<&Rc<Constant>>,
) -> Result<(i32, i64, i64), Refusal> {
    let stated = i32::try_from(attributes.int("output_dtype", 0)).unwrap_or(-1);
    let kind = match (zero, stated) {
        (Some(zero), 0) => zero.data_type,
        (Some(zero), stated) if zero.data_type == stated => stated,
        (Some(_), _) => return damaged("states a type that its zero point does not have"),
        (None, 0) => data_type::UINT8,
        (None, stated) => stated,
    };
    match (kind, integers(kind)) {
        (data_type::BOOL | data_type::INT32 | data_type::INT64, _) | (_, None) => unsupported(
            format!("rounds to element type {kind}"),
            "quantise to integers of 4 to 16 bits, or export in float",
        ),
        (_, Some((low, high))) => Ok((kind, low, high)),
    }
}

pub(super) fn dequantise(
    source: &Constant,
    scale: &Constant,
    zero: Option<&Rc<Constant>>,
    attributes: Attributes<'_>,
    budget: &mut Budget,
) -> Result<Constant, Refusal> {
    budget.take(source.len())?;
    if !matches!(source.data, Data::Int(_)) {
        return damaged("dequantises what is no integer");
    }
    let quantiser = quantisers(source, scale, zero, attributes)?;
    let codes = source.to_f32();
    let values = codes.iter().enumerate().map(|(i, &code)| {
        let (scale, zero) = quantiser(i);
        (code - zero) * scale
    });
    Ok(Constant::floats(source.dims.clone(), values.collect()))
}

pub(super) fn quantise(
    source: &Constant,
    scale: &Constant,
    zero: Option<&Rc<Constant>>,
    attributes: Attributes<'_>,
    budget: &mut Budget,
) -> Result<Constant, Refusal> {
    budget.take(source.len())?;
    let quantiser = quantisers(source, scale, zero, attributes)?;
    let (data_type, low, high) = code_type(attributes, zero)?;
    let (low, high) = (low as f32, high as f32);
    let values = source.to_f32();
    let codes = values.iter().enumerate().map(|(i, &value)| {
        let (scale, zero) = quantiser(i);
        ((value / scale).round_ties_even() + zero).clamp(low, high) as i64
    });
    Ok(Constant {
        data_type,
        ..Constant::ints(source.dims.clone(), codes.collect())
    })
}
