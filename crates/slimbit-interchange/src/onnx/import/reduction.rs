//! Reductions of constants along axes: norms of weights, and numbers of elements.

use super::attributes::Attributes;
use super::constant::{Constant, Data};
use super::dimensions::reduced;
use super::refusal::{Budget, Refusal, damaged, unsupported};

/// How two elements become one, where that is an `i64`.
type Join = fn(i64, i64) -> Option<i64>;

/// `op` over the axes that the node states.
pub(super) fn reduce(
    op: &str,
    source: &Constant,
    listed: Option<&Constant>,
    attributes: Attributes<'_>,
    budget: &mut Budget,
) -> Result<Constant, Refusal> {
    let rank = source.dims.len();
    let Some(axes) = reduced(attributes, rank, listed)? else {
        budget.take(source.len())?;
        return Ok(source.clone());
    };
    let kept: Vec<usize> = (0..rank)
        .map(|i| if axes.contains(&i) { 1 } else { source.dims[i] })
        .collect();
    let count = budget.take_dims(&kept)?;
    budget.take(source.len())?;
    // Where each element goes.
    let target = |index: usize| {
        let (mut rest, mut stride, mut at) = (index, 1, 0);
        for i in (0..rank).rev() {
            let coordinate = rest % source.dims[i];
            rest /= source.dims[i];
            if kept[i] != 1 {
                at += coordinate * stride;
            }
            stride *= kept[i];
        }
        at
    };
    if count == 0 || source.len() == 0 {
        return damaged("reduces no elements");
    }
    let keep = attributes.int("keepdims", 1) != 0;
    let left = (0..rank).filter(|i| keep || !axes.contains(i));
    let dims = left.map(|i| kept[i]).collect();
    match &source.data {
        Data::Int(values) => {
            let (start, join): (i64, Join) = match op {
                "ReduceSum" => (0, i64::checked_add),
                "ReduceProd" => (1, i64::checked_mul),
                "ReduceMax" => (i64::MIN, |a, b| Some(a.max(b))),
                "ReduceMin" => (i64::MAX, |a, b| Some(a.min(b))),
                _ => return unsupported("averages integers", "simplify the model (onnxsim)"),
            };
            let mut results = vec![start; count];
            for (index, &value) in values.iter().enumerate() {
                let at = target(index);
                results[at] = match join(results[at], value) {
                    Some(result) => result,
                    None => return damaged("overflows"),
                };
            }
            Constant::ints(dims, results).of_type(source.data_type)
        }
        Data::Float(values) => {
            let (start, join): (f64, fn(f64, f64) -> f64) = match op {
                "ReduceSum" | "ReduceMean" => (0.0, |a, b| a + b),
                "ReduceL2" => (0.0, |a, b| a + b * b),
                "ReduceProd" => (1.0, |a, b| a * b),
                "ReduceMax" => (f64::NEG_INFINITY, f64::max),
                _ => (f64::INFINITY, f64::min),
            };
            let mut results = vec![start; count];
            for (index, &value) in values.iter().enumerate() {
                let at = target(index);
                results[at] = join(results[at], value.into());
            }
            let each = (source.len() / count) as f64;
            let end = |sum: f64| match op {
                "ReduceMean" => sum / each,
                "ReduceL2" => sum.sqrt(),
                _ => sum,
            };
            let results = results.into_iter().map(|v| end(v) as f32).collect();
            Ok(Constant::floats(dims, results))
        }
    }
}
