//! Arithmetic on every element of constants.

use half::{bf16, f16};

use super::constant::{Constant, Data};
use super::refusal::{Budget, Refusal, damaged, shown, unsupported};
use crate::onnx::proto::data_type as t;

pub(super) fn cast(source: &Constant, to: i64, budget: &mut Budget) -> Result<Constant, Refusal> {
    budget.take(source.len())?;
    let dims = source.dims.clone();
    let to = i32::try_from(to).unwrap_or(0);
    let rounded: Option<fn(f32) -> f32> = match to {
        t::FLOAT | t::DOUBLE => Some(|v| v),
        t::FLOAT16 => Some(|v| f16::from_f32(v).to_f32()),
        t::BFLOAT16 => Some(|v| bf16::from_f32(v).to_f32()),
        _ => None,
    };
    if let Some(rounded) = rounded {
        let values = source.to_f32().iter().map(|&v| rounded(v)).collect();
        return Ok(Constant::floats(dims, values));
    }
    let values = match &source.data {
        Data::Int(values) => values.clone(),
        // Fractions are cut off; what no integer holds would differ between runtimes.
        Data::Float(values) if values.iter().all(|v| v.abs() < 9e18) => match to {
            t::BOOL => values.iter().map(|&v| (v != 0.0).into()).collect(),
            _ => values.iter().map(|&v| v as i64).collect(),
        },
        Data::Float(_) => return damaged("casts what is no number to an integer"),
    };
    let values = match to {
        t::BOOL => values.iter().map(|&v| (v != 0).into()).collect(),
        _ => values,
    };
    Constant::ints(dims, values).of_type(to)
}

pub(super) fn map(
    source: &Constant,
    budget: &mut Budget,
    f: impl Fn(f32) -> f32,
) -> Result<Constant, Refusal> {
    budget.take(source.len())?;
    let Data::Float(values) = &source.data else {
        return unsupported("computes roots of integers", "simplify the model (onnxsim)");
    };
    let values = values.iter().map(|&v| f(v)).collect();
    Ok(Constant::floats(source.dims.clone(), values))
}

/// An operator of two numbers, on floats and on integers.
pub(super) type Binary = (fn(f32, f32) -> f32, fn(i64, i64) -> Option<i64>);

pub(super) fn binary(op: &str) -> Option<Binary> {
    Some(match op {
        "Add" => (|a, b| a + b, i64::checked_add),
        "Sub" => (|a, b| a - b, i64::checked_sub),
        "Mul" => (|a, b| a * b, i64::checked_mul),
        "Div" => (|a, b| a / b, i64::checked_div),
        "Pow" => (f32::powf, |_, _| None),
        _ => return None,
    })
}

/// Elementwise, with dimensions of 1 stretched.
pub(super) fn broadcast(
    a: &Constant,
    b: &Constant,
    (float, int): Binary,
    budget: &mut Budget,
) -> Result<Constant, Refusal> {
    let rank = a.dims.len().max(b.dims.len());
    let dim = |c: &Constant, i: usize| {
        let missing = rank - c.dims.len();
        if i < missing { 1 } else { c.dims[i - missing] }
    };
    let mut dims = Vec::with_capacity(rank);
    for i in 0..rank {
        dims.push(match (dim(a, i), dim(b, i)) {
            (x, y) if x == y || y == 1 => x,
            (1, y) => y,
            _ => {
                return damaged(format!(
                    "{} and {} do not fit",
                    shown(&a.dims),
                    shown(&b.dims)
                ));
            }
        });
    }
    let count = budget.take_dims(&dims)?;
    let position = |c: &Constant, index: usize| {
        let (mut rest, mut stride, mut at) = (index, 1, 0);
        for i in (0..rank).rev() {
            let coordinate = rest % dims[i];
            rest /= dims[i];
            if dim(c, i) != 1 {
                at += coordinate * stride;
            }
            stride *= dim(c, i);
        }
        at
    };
    match (&a.data, &b.data) {
        (Data::Int(x), Data::Int(y)) => {
            let values: Option<Vec<i64>> = (0..count)
                .map(|i| int(x[position(a, i)], y[position(b, i)]))
                .collect();
            match values {
                Some(values) => Constant::ints(dims, values).of_type(a.data_type),
                None => damaged("overflows, divides by zero, or is not defined on integers"),
            }
        }
        (Data::Int(_), Data::Float(_)) => unsupported(
            "computes integers from floats",
            "simplify the model (onnxsim)",
        ),
        (Data::Float(_), _) => {
            let (x, y) = (a.to_f32(), b.to_f32());
            let values = (0..count).map(|i| float(x[position(a, i)], y[position(b, i)]));
            let values = values.collect();
            Ok(Constant::floats(dims, values))
        }
    }
}
