//! Arithmetic on every element of constants.

use super::constant::{Constant, Data};
use super::refusal::{Budget, Refusal, damaged};
use crate::onnx::proto::data_type;

pub(super) fn cast(source: &Constant, to: i64, budget: &mut Budget) -> Result<Constant, Refusal> {
    budget.take(source.len())?;
    let float = matches!(
        i32::try_from(to).unwrap_or(0),
        data_type::FLOAT | data_type::FLOAT16 | data_type::DOUBLE | data_type::BFLOAT16
    );
    let dims = source.dims.clone();
    Ok(match (&source.data, float) {
        (_, true) => Constant::floats(dims, source.to_f32().into_owned()),
        (Data::Int(values), false) => Constant::ints(dims, values.clone()),
        (Data::Float(values), false) => {
            Constant::ints(dims, values.iter().map(|&v| v as i64).collect())
        }
    })
}

pub(super) fn map(
    source: &Constant,
    budget: &mut Budget,
    f: impl Fn(f32) -> f32,
) -> Result<Constant, Refusal> {
    budget.take(source.len())?;
    let values = source.to_f32().iter().map(|&v| f(v)).collect();
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
            _ => return damaged(format!("{:?} and {:?} do not fit", a.dims, b.dims)),
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
    if let (Data::Int(x), Data::Int(y)) = (&a.data, &b.data) {
        let values: Option<Vec<i64>> = (0..count)
            .map(|i| int(x[position(a, i)], y[position(b, i)]))
            .collect();
        return match values {
            Some(values) => Ok(Constant::ints(dims, values)),
            None => damaged("overflows, divides by zero, or is not defined on integers"),
        };
    }
    let (x, y) = (a.to_f32(), b.to_f32());
    let values = (0..count).map(|i| float(x[position(a, i)], y[position(b, i)]));
    let values = values.collect();
    Ok(Constant::floats(dims, values))
}
