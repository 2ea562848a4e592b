//! Dimensions and axes, as operators state them.

use super::attributes::Attributes;
use super::constant::Constant;
use super::refusal::{MAX_RANK, Refusal, bounded, damaged, shown};

/// Dimensions from integers.
pub(super) fn sizes(values: &[i64]) -> Result<Vec<usize>, Refusal> {
    if values.len() > MAX_RANK {
        return damaged(format!("a tensor of {} dimensions", values.len()));
    }
    let sizes: Option<Vec<usize>> = values.iter().map(|&v| v.try_into().ok()).collect();
    match sizes {
        Some(sizes) => Ok(sizes),
        None => damaged(format!("{} are not dimensions", shown(values))),
    }
}

/// An axis counted from the front.
pub(super) fn axis(axis: i64, rank: usize) -> Result<usize, Refusal> {
    let from_front = if axis < 0 {
        axis.saturating_add(rank as i64)
    } else {
        axis
    };
    match usize::try_from(from_front) {
        Ok(index) if index < rank => Ok(index),
        _ => damaged(format!("axis {axis} of {rank} dimensions")),
    }
}

/// Axes counted from the front, in order; none twice.
pub(super) fn axes(listed: &[i64], rank: usize) -> Result<Vec<usize>, Refusal> {
    if listed.len() > rank {
        return damaged(format!("axes {} of {rank} dimensions", shown(listed)));
    }
    let mut axes = listed
        .iter()
        .map(|&a| axis(a, rank))
        .collect::<Result<Vec<_>, _>>()?;
    axes.sort_unstable();
    match axes.windows(2).any(|pair| pair[0] == pair[1]) {
        true => damaged(format!("axes {} with one twice", shown(listed))),
        false => Ok(axes),
    }
}

/// The axes that a reduction goes over, in order; none where it leaves its operand as it is.
pub(super) fn reduced(
    attributes: Attributes<'_>,
    rank: usize,
    operand: Option<&Constant>,
) -> Result<Option<Vec<usize>>, Refusal> {
    let listed = match operand {
        Some(constant) => constant.to_i64()?,
        None => attributes.ints("axes").unwrap_or_default(),
    };
    if listed.is_empty() {
        let as_it_is = attributes.int("noop_with_empty_axes", 0) != 0;
        return Ok((!as_it_is).then(|| (0..rank).collect()));
    }
    axes(listed, rank).map(Some)
}

/// Sizes of the parts that a `Split` makes along an axis of `size`.
pub(super) fn parts(
    attributes: Attributes<'_>,
    size: usize,
    operand: Option<&Constant>,
    outputs: usize,
) -> Result<Vec<usize>, Refusal> {
    let listed = match operand {
        Some(constant) => Some(constant.to_i64()?),
        None => attributes.ints("split"),
    };
    if let Some(listed) = listed {
        let known: Option<Vec<usize>> = listed.iter().map(|&n| n.try_into().ok()).collect();
        let parts = known.filter(|parts| {
            let sum = parts.iter().try_fold(0usize, |sum, &n| sum.checked_add(n));
            parts.len() == outputs && sum == Some(size)
        });
        return match parts {
            Some(parts) => Ok(parts),
            None => damaged(format!(
                "splits {size} into {} for {outputs} outputs",
                shown(listed)
            )),
        };
    }
    let count = attributes.int("num_outputs", outputs as i64);
    // Where the size is no multiple, opset 18 makes the last part smaller; before it must be one.
    let even = size.is_multiple_of(outputs.max(1)) || attributes.has("num_outputs");
    let part = size.div_ceil(outputs.max(1));
    let whole = outputs.saturating_sub(1).checked_mul(part);
    match whole.and_then(|whole| size.checked_sub(whole)) {
        Some(last) if even && count == outputs as i64 && outputs > 0 => {
            let mut parts = vec![part; outputs - 1];
            parts.push(last);
            Ok(parts)
        }
        _ => damaged(format!("splits {size} into {outputs} equal parts")),
    }
}

/// The dimensions that a `Shape` gives: all, or those from `start` to `end`.
pub(super) fn shape_of(dims: &[usize], attributes: Attributes<'_>) -> Constant {
    let rank = dims.len() as i64;
    let within = |at: i64| {
        let from_front = if at < 0 { at.saturating_add(rank) } else { at };
        from_front.clamp(0, rank) as usize
    };
    let start = within(attributes.int("start", 0));
    let end = within(attributes.int("end", rank)).max(start);
    let dims: Vec<i64> = dims[start..end].iter().map(|&d| d as i64).collect();
    Constant::ints(vec![dims.len()], dims)
}

/// The dimensions after an operator that keeps the order of the elements.
pub(super) fn reshaped(
    op: &str,
    attributes: Attributes<'_>,
    dims: &[usize],
    operand: Option<&Constant>,
) -> Result<Vec<usize>, Refusal> {
    let listed = || match operand {
        Some(constant) => constant.to_i64().map(Some),
        None => Ok(attributes.ints("axes")),
    };
    match op {
        "Reshape" => {
            let Some(wanted) = operand else {
                return damaged("no shape");
            };
            let allow_zero = attributes.int("allowzero", 0) != 0;
            resolve(dims, wanted.to_i64()?, allow_zero)
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
            let axes = match listed()? {
                Some(listed) => axes(listed, dims.len())?,
                None => (0..dims.len()).filter(|&i| dims[i] == 1).collect(),
            };
            if let Some(&a) = axes.iter().find(|&&a| dims[a] != 1) {
                return damaged(format!("squeezes dimension {a} of {}", shown(dims)));
            }
            let kept = (0..dims.len()).filter(|i| !axes.contains(i));
            Ok(kept.map(|i| dims[i]).collect())
        }
        _ => {
            let Some(listed) = listed()? else {
                return damaged("no axes");
            };
            let rank = dims.len() + listed.len();
            if rank > MAX_RANK {
                return damaged(format!("a tensor of {rank} dimensions"));
            }
            let mut out = vec![None; rank];
            for a in axes(listed, rank)? {
                out[a] = Some(1);
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
    let bad = || damaged(format!("reshapes {} to {}", shown(dims), shown(wanted)));
    if wanted.len() > MAX_RANK {
        return bad();
    }
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
