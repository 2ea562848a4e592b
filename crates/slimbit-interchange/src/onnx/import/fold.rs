//! Operators on constants alone: shapes that an exporter computes, and weights that it stores in
//! pieces.

use std::rc::Rc;

use super::attributes::Attributes;
use super::constant::{Constant, Data};
use super::dimensions::{reshaped, sizes};
use super::elementwise::{binary, broadcast, cast, map};
use super::quantise::{dequantise, quantise};
use super::refusal::{Budget, Refusal, damaged, unsupported};
use super::selection::{concat, gather, slice, transpose};

/// The operands of a node, all of them known; `None` where one is left out.
pub(super) type Operands = [Option<Rc<Constant>>];

/// The result of `op` on constants.
pub(super) fn fold(
    op: &str,
    attributes: Attributes<'_>,
    operands: &Operands,
    budget: &mut Budget,
) -> Result<Rc<Constant>, Refusal> {
    let operand = |index: usize| match operands.get(index) {
        Some(Some(constant)) => Ok(constant),
        _ => damaged(format!("operand {index} is missing")),
    };
    if let "Identity" | "Dropout" = op {
        return operand(0).cloned();
    }
    if let Some(function) = binary(op) {
        return broadcast(operand(0)?, operand(1)?, function, budget).map(Rc::new);
    }
    let folded = match op {
        "Constant" => constant(attributes)?,
        "ConstantOfShape" => {
            let dims = sizes(operand(0)?.to_i64()?)?;
            let count = budget.take_dims(&dims)?;
            match attributes.tensor("value")? {
                Some(value) => match value.data {
                    Data::Int(values) if values.len() == 1 => {
                        Constant::ints(dims, vec![values[0]; count])
                    }
                    Data::Float(values) if values.len() == 1 => {
                        Constant::floats(dims, vec![values[0]; count])
                    }
                    _ => return damaged("`value` is not a single element"),
                },
                None => Constant::floats(dims, vec![0.0; count]),
            }
        }
        "Cast" => cast(operand(0)?, attributes.int("to", 1), budget)?,
        "Shape" => {
            let dims = operand(0)?
                .dims
                .iter()
                .map(|&d| d as i64)
                .collect::<Vec<_>>();
            Constant::ints(vec![dims.len()], dims)
        }
        "Reshape" | "Unsqueeze" | "Squeeze" | "Flatten" => {
            let source = operand(0)?;
            budget.take(source.len())?;
            let axes = operands.get(1).and_then(Option::as_ref);
            let dims = reshaped(op, attributes, &source.dims, axes.map(|a| &**a))?;
            Constant {
                dims,
                ..Constant::clone(source)
            }
        }
        "Transpose" => transpose(operand(0)?, attributes, budget)?,
        "Concat" => concat(operands, attributes, budget)?,
        "Gather" => gather(operand(0)?, operand(1)?, attributes, budget)?,
        "Slice" => slice(operands, attributes, budget)?,
        "Sqrt" => map(operand(0)?, budget, f32::sqrt)?,
        "Reciprocal" => map(operand(0)?, budget, f32::recip)?,
        "Neg" => match &operand(0)?.data {
            Data::Int(values) => {
                budget.take(values.len())?;
                let negated = values.iter().map(|v| v.wrapping_neg()).collect();
                Constant::ints(operand(0)?.dims.clone(), negated)
            }
            Data::Float(_) => map(operand(0)?, budget, |v| -v)?,
        },
        "Floor" => map(operand(0)?, budget, f32::floor)?,
        "DequantizeLinear" => {
            let zero = operands.get(2).and_then(Option::as_ref);
            dequantise(operand(0)?, operand(1)?, zero, attributes, budget)?
        }
        "QuantizeLinear" => {
            let zero = operands.get(2).and_then(Option::as_ref);
            quantise(operand(0)?, operand(1)?, zero, attributes, budget)?
        }
        _ => {
            return unsupported(
                "is not evaluated on constants",
                "simplify the model first, for example with onnxsim",
            );
        }
    };
    Ok(Rc::new(folded))
}

fn constant(attributes: Attributes<'_>) -> Result<Constant, Refusal> {
    if let Some(tensor) = attributes.tensor("value")? {
        return Ok(tensor);
    }
    if let Some(value) = attributes.float("value_float") {
        return Ok(Constant::floats(vec![], vec![value]));
    }
    if let Some(values) = attributes.ints("value_ints") {
        return Ok(Constant::ints(vec![values.len()], values.to_vec()));
    }
    match attributes.0.attribute.first() {
        Some(a) if a.name == "value_int" => Ok(Constant::ints(vec![], vec![a.i.unwrap_or(0)])),
        Some(a) if a.name == "value_floats" => {
            Ok(Constant::floats(vec![a.floats.len()], a.floats.clone()))
        }
        _ => unsupported("holds no numbers", "simplify the model first"),
    }
}
