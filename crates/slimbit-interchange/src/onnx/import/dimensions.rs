//! Dimensions and axes, as operators state them.

use super::attributes::Attributes;
use super::constant::Constant;
use super::refusal::{Refusal, bounded, damaged};

/// Dimensions from integers.
pub(super) fn sizes(values: &[i64]) -> Result<Vec<usize>, Refusal> {
    let sizes: Option<Vec<usize>> = values.iter().map(|&v| v.try_into().ok()).collect();
    match sizes {
        Some(sizes) => Ok(sizes),
        None => damaged(format!("{values:?} are not dimensions")),
    }
}

/// An axis counted from the front.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize, Refusal> {
    let from_front = if axis < 0 { axis + rank as i64 } else { axis };
    match usize::try_from(from_front) {
        Ok(index) if index < rank => Ok(index),
        _ => damaged(format!("axis {axis} of {rank} dimensions")),
    }
}

/// The dimensions after an operator that keeps the order of the elements.
pub(super) fn reshaped(
    op: &str,
    attributes: Attributes<'_>,
    dims: &[usize],
    operand: Option<&Constant>,
) -> Result<Vec<usize>, Refusal> {
    let listed = |name: &str| -> Result<Option<Vec<i64>>, Refusal> {
        match operand {
            Some(constant) => Ok(Some(constant.to_i64()?.to_vec())),
            None => Ok(attributes.ints(name).map(<[i64]>::to_vec)),
        }
    };
    match op {
        "Reshape" => {
            let Some(wanted) = listed("shape")? else {
                return damaged("no shape");
            };
            let allow_zero = attributes.int("allowzero", 0) != 0;
            resolve(dims, &wanted, allow_zero)
        }
        "Flatten" => {
            let axis = match attributes.int("axis", 1) {
                end if end == dims.len() as i64 => dims.len(),
                other => axis(other, dims.len())?,
            };
            let (rows, columns) = dims.split_at(axis);
            Ok(vec![rows.iter().product(), columns.iter().product()])
        }
        "Squeeze" => {
            let axes = match listed("axes")? {
                Some(axes) => axes
                    .iter()
                    .map(|&a| axis(a, dims.len()))
                    .collect::<Result<Vec<_>, _>>()?,
                None => (0..dims.len()).filter(|&i| dims[i] == 1).collect(),
            };
            if let Some(&a) = axes.iter().find(|&&a| dims[a] != 1) {
                return damaged(format!("squeezes dimension {a} of {dims:?}"));
            }
            let kept = (0..dims.len()).filter(|i| !axes.contains(i));
            Ok(kept.map(|i| dims[i]).collect())
        }
        _ => {
            let Some(axes) = listed("axes")? else {
                return damaged("no axes");
            };
            let rank = dims.len() + axes.len();
            let mut out = vec![None; rank];
            for a in axes {
                out[axis(a, rank)?] = Some(1);
            }
            let mut rest = dims.iter().copied();
            Ok(out
                .into_iter()
                .map(|slot| slot.unwrap_or_else(|| rest.next().unwrap_or(1)))
                .collect())
        }
    }
}

/// A `Reshape`: 0 keeps a dimension, -1 is what is left over.
fn resolve(dims: &[usize], wanted: &[i64], allow_zero: bool) -> Result<Vec<usize>, Refusal> {
    let bad = || damaged(format!("reshapes {dims:?} to {wanted:?}"));
    let total: usize = dims.iter().product();
    let mut out = Vec::with_capacity(wanted.len());
    let mut open = None;
    for (index, &size) in wanted.iter().enumerate() {
        out.push(match size {
            -1 if open.is_none() => {
                open = Some(index);
                1
            }
            0 if !allow_zero => match dims.get(index) {
                Some(&size) => size,
                None => return bad(),
            },
            _ => match usize::try_from(size) {
                Ok(size) => size,
                Err(_) => return bad(),
            },
        });
    }
    if bounded(&out).is_none() {
        return bad();
    }
    let known: usize = out.iter().product();
    if let Some(open) = open {
        if known == 0 || !total.is_multiple_of(known) {
            return bad();
        }
        out[open] = total / known;
    } else if known != total {
        return bad();
    }
    Ok(out)
}
