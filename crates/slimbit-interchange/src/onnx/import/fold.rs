//! Operators on constants alone: shapes that an exporter computes, and weights that it stores in
//! pieces.

use std::rc::Rc;

use super::attributes::Attributes;
use super::constant::{Constant, Data};
use super::dimensions::{parts, reshaped, shape_of, sizes};
use super::elementwise::{binary, broadcast, cast, map};
use super::pointwise::refuse_training;
use super::quantise::{dequantise, quantise};
use super::reduction::reduce;
use super::refusal::{Budget, Refusal, damaged, unsupported};
use super::selection::{concat, gather, slice, split, transpose};

/// The operands of a node, all of them known; `None` where one is left out.
pub(super) type Operands = [Option<Rc<Constant>>];

/// The results of `op` on constants, of which the node names `outputs`.
pub(super) fn fold(
    op: &str,
    attributes: Attributes<'_>,
    operands: &Operands,
    outputs: usize,
    budget: &mut Budget,
) -> Result<Vec<Rc<Constant>>, Refusal> {
    let operand = |index: usize| match operands.get(index) {
        Some(Some(constant)) => Ok(constant),
        _ => damaged(format!("operand {index} is missing")),
    };
    let optional = |index: usize| operands.get(index).and_then(Option::as_ref);
    match op {
        "Identity" => return operand(0).cloned().map(|constant| vec![constant]),
        "Dropout" => {
            refuse_training(&operands[1..])?;
            return operand(0).cloned().map(|constant| vec![constant]);
        }
        "Split" => {
            let source = operand(0)?;
            let at = split_axis(attributes, source.dims.len())?;
            let sizes = parts(
                attributes,
                source.dims[at],
                optional(1).map(|p| &**p),
                outputs,
            )?;
            let parts = split(source, at, &sizes, budget)?;
            return Ok(parts.into_iter().map(Rc::new).collect());
        }
        _ => {}
    }
    if let Some(function) = binary(op) {
        let result = broadcast(operand(0)?, operand(1)?, function, budget)?;
        return Ok(vec![Rc::new(result)]);
    }
    let folded = match op {
        "Constant" => constant(attributes)?,
        "ConstantOfShape" => {
            let dims = sizes(operand(0)?.to_i64()?)?;
            let count = budget.take_dims(&dims)?;
            match attributes.tensor("value")? {
                Some(value) => match value.data {
                    Data::Int(values) if values.len() == 1 => Constant {
                        data_type: value.data_type,
                        ..Constant::ints(dims, vec![values[0]; count])
                    },
                    Data::Float(values) if values.len() == 1 => {
                        Constant::floats(dims, vec![values[0]; count])
                    }
                    _ => return damaged("`value` is not a single element"),
                },
                None => Constant::floats(dims, vec![0.0; count]),
            }
        }
        "Cast" => cast(operand(0)?, attributes.int("to", 0), budget)?,
        "CastLike" => cast(operand(0)?, operand(1)?.data_type.into(), budget)?,
        "Shape" => shape_of(&operand(0)?.dims, attributes),
        "Reshape" | "Unsqueeze" | "Squeeze" | "Flatten" => {
            let source = operand(0)?;
            budget.take(source.len())?;
            let dims = reshaped(op, attributes, &source.dims, optional(1).map(|a| &**a))?;
            Constant {
                dims,
                ..Constant::clone(source)
            }
        }
        "Transpose" => transpose(operand(0)?, attributes, budget)?,
        "Concat" => concat(operands, attributes, budget)?,
        "Gather" => gather(operand(0)?, operand(1)?, attributes, budget)?,
        "Slice" => slice(operands, attributes, budget)?,
        "ReduceL2" | "ReduceMax" | "ReduceMean" | "ReduceMin" | "ReduceProd" | "ReduceSum" => {
            let axes = optional(1).map(|axes| &**axes);
            reduce(op, operand(0)?, axes, attributes, budget)?
        }
        "Sqrt" => map(operand(0)?, budget, f32::sqrt)?,
        "Reciprocal" => map(operand(0)?, budget, f32::recip)?,
        "Neg" | "Abs" => match &operand(0)?.data {
            Data::Int(values) => {
                budget.take(values.len())?;
                let function = match op {
                    "Neg" => i64::wrapping_neg,
                    _ => i64::wrapping_abs,
                };
                let values = values.iter().map(|&v| function(v)).collect();
                Constant::ints(operand(0)?.dims.clone(), values).of_type(operand(0)?.data_type)?
            }
            Data::Float(_) if op == "Neg" => map(operand(0)?, budget, |v| -v)?,
            Data::Float(_) => map(operand(0)?, budget, f32::abs)?,
        },
        "Floor" => map(operand(0)?, budget, f32::floor)?,
        "Ceil" => map(operand(0)?, budget, f32::ceil)?,
        "DequantizeLinear" => {
            dequantise(operand(0)?, operand(1)?, optional(2), attributes, budget)?
        }
        "QuantizeLinear" => quantise(operand(0)?, operand(1)?, optional(2), attributes, budget)?,
        _ => {
            return unsupported(
                "is not evaluated on constants",
                "simplify the model first, for example with onnxsim",
            );
        }
    };
    Ok(vec![Rc::new(folded)])
}

/// The axis of a `Split`.
pub(super) fn split_axis(attributes: Attributes<'_>, rank: usize) -> Result<usize, Refusal> {
    super::dimensions::axis(attributes.int("axis", 0), rank)
}

fn constant(attributes: Attributes<'_>) -> Result<Constant, Refusal> {
    if let Some(tensor) = attributes.tensor("value")? {
        return Ok(tensor);
    }
    if let Some(value) = attributes.float("value_float") {
        return Ok(Constant::floats(vec![], vec![value]));
    }
    if let Some(values) = attributes.floats("value_floats") {
        return Ok(Constant::floats(vec![values.len()], values.to_vec()));
    }
    if let Some(values) = attributes.ints("value_ints") {
        return Ok(Constant::ints(vec![values.len()], values.to_vec()));
    }
    if attributes.has("value_int") {
        return Ok(Constant::ints(vec![], vec![attributes.int("value_int", 0)]));
    }
    unsupported("holds no numbers", "simplify the model first")
}
