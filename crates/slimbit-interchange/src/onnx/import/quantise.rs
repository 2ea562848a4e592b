//! Codes and what they stand for, on constants: the weights of a QDQ file.

use std::rc::Rc;

use super::attributes::Attributes;
use super::constant::Constant;
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
    if attributes.int("block_size", 0) != 0 {
        return unsupported("scales of blocks", "quantise per tensor or per channel");
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

pub(super) fn dequantise(
    source: &Constant,
    scale: &Constant,
    zero: Option<&Rc<Constant>>,
    attributes: Attributes<'_>,
    budget: &mut Budget,
) -> Result<Constant, Refusal> {
    budget.take(source.len())?;
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
    let data_type = zero.map_or(data_type::UINT8, |zero| zero.data_type);
    let (low, high) = match data_type {
        data_type::INT8 => (-128.0, 127.0),
        data_type::UINT8 => (0.0, 255.0),
        data_type::INT4 => (-8.0, 7.0),
        data_type::UINT4 => (0.0, 15.0),
        data_type::INT16 => (-32768.0, 32767.0),
        data_type::UINT16 => (0.0, 65535.0),
        _ => {
            return unsupported(
                "rounds weights to another type than integers",
                "export in float",
            );
        }
    };
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
