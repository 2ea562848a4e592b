//! Operators on constants that choose and order elements.

use super::attributes::Attributes;
use super::constant::{Constant, Data};
use super::dimensions::{axes, axis};
use super::fold::Operands;
use super::refusal::{Budget, Refusal, damaged, shown};

/// Keeps the elements at `positions`, in that order.
fn pick(source: &Constant, dims: Vec<usize>, positions: impl Iterator<Item = usize>) -> Constant {
    match &source.data {
        Data::Float(values) => Constant::floats(dims, positions.map(|p| values[p]).collect()),
        Data::Int(values) => Constant {
            data_type: source.data_type,
            ..Constant::ints(dims, positions.map(|p| values[p]).collect())
        },
    }
}

/// The permutation of a `Transpose`.
pub(super) fn permutation(attributes: Attributes<'_>, rank: usize) -> Result<Vec<usize>, Refusal> {
    let Some(perm) = attributes.ints("perm") else {
        return Ok((0..rank).rev().collect());
    };
    if axes(perm, rank)?.len() != rank {
        return damaged(format!(
            "{} is not a permutation of {rank} dimensions",
            shown(perm)
        ));
    }
    perm.iter().map(|&p| axis(p, rank)).collect()
}

pub(super) fn transpose(
    source: &Constant,
    attributes: Attributes<'_>,
    budget: &mut Budget,
) -> Result<Constant, Refusal> {
    let perm = permutation(attributes, source.dims.len())?;
    budget.take(source.len())?;
    let dims: Vec<usize> = perm.iter().map(|&p| source.dims[p]).collect();
    let mut strides = vec![1; dims.len()];
    for i in (1..dims.len()).rev() {
        strides[i - 1] = strides[i] * source.dims[i];
    }
    let positions = (0..source.len()).map(|index| {
        let (mut rest, mut at) = (index, 0);
        for i in (0..dims.len()).rev() {
            at += rest % dims[i] * strides[perm[i]];
            rest /= dims[i];
        }
        at
    });
    Ok(pick(source, dims.clone(), positions))
}

pub(super) fn concat(
    operands: &Operands,
    attributes: Attributes<'_>,
    budget: &mut Budget,
) -> Result<Constant, Refusal> {
    let parts: Vec<&Constant> = operands.iter().flatten().map(|part| &**part).collect();
    let Some(first) = parts.first() else {
        return damaged("joins nothing");
    };
    if !attributes.has("axis") {
        return damaged("states no axis");
    }
    let at = axis(attributes.int("axis", 0), first.dims.len())?;
    let mut dims = first.dims.clone();
    dims[at] = 0;
    for part in &parts {
        let fits = part.dims.len() == dims.len()
            && (0..dims.len()).all(|i| i == at || part.dims[i] == dims[i]);
        if !fits {
            let (first, part) = (shown(&first.dims), shown(&part.dims));
            return damaged(format!("joins {first} and {part}"));
        }
        dims[at] += part.dims[at];
    }
    budget.take_dims(&dims)?;
    let outer: usize = dims[..at].iter().product();
    let ints = parts.iter().all(|part| matches!(part.data, Data::Int(_)));
    let rows = (0..outer).flat_map(|row| {
        parts.iter().map(move |part| {
            let length = part.len() / outer.max(1);
            (*part, row * length..(row + 1) * length)
        })
    });
    Ok(if ints {
        let mut values = Vec::new();
        for (part, range) in rows {
            values.extend_from_slice(&part.to_i64()?[range]);
        }
        Constant {
            data_type: first.data_type,
            ..Constant::ints(dims, values)
        }
    } else {
        let mut values = Vec::new();
        for (part, range) in rows {
            values.extend_from_slice(&part.to_f32()[range]);
        }
        Constant::floats(dims, values)
    })
}

pub(super) fn gather(
    source: &Constant,
    indices: &Constant,
    attributes: Attributes<'_>,
    budget: &mut Budget,
) -> Result<Constant, Refusal> {
    let at = axis(attributes.int("axis", 0), source.dims.len())?;
    let chosen = indices
        .to_i64()?
        .iter()
        .map(|&i| axis(i, source.dims[at]))
        .collect::<Result<Vec<_>, _>>()?;
    let outer: usize = source.dims[..at].iter().product();
    let inner: usize = source.dims[at + 1..].iter().product();
    let mut dims = source.dims[..at].to_vec();
    dims.extend(&indices.dims);
    dims.extend(&source.dims[at + 1..]);
    // Positions are counted one by one, also where there is nothing at them.
    budget.take(outer.saturating_mul(chosen.len()))?;
    budget.take_dims(&dims)?;
    let size = source.dims[at];
    let positions = (0..outer).flat_map(|o| {
        chosen
            .iter()
            .flat_map(move |&i| (0..inner).map(move |k| (o * size + i) * inner + k))
    });
    Ok(pick(source, dims.clone(), positions))
}

/// Where a `Slice` begins, how far it steps and how many elements it takes, per sliced axis.
pub(super) struct Cut {
    pub(super) axis: usize,
    pub(super) start: i64,
    pub(super) step: i64,
    pub(super) count: usize,
}

/// The cuts of a `Slice` of a tensor with dimensions `dims`.
pub(super) fn cuts(
    dims: &[usize],
    operands: &Operands,
    attributes: Attributes<'_>,
) -> Result<Vec<Cut>, Refusal> {
    let listed = |index: usize, name: &str| -> Result<Option<Vec<i64>>, Refusal> {
        match operands.get(index) {
            Some(Some(constant)) => Ok(Some(constant.to_i64()?.to_vec())),
            _ => Ok(attributes.ints(name).map(<[i64]>::to_vec)),
        }
    };
    let (Some(starts), Some(ends)) = (listed(1, "starts")?, listed(2, "ends")?) else {
        return damaged("no starts or no ends");
    };
    let along = listed(3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    axes(&along, dims.len())?;
    let steps = listed(4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), along.len(), steps.len()] != [starts.len(); 3] {
        return damaged("starts, ends, axes and steps differ in number");
    }
    let mut cuts = Vec::with_capacity(starts.len());
    for i in 0..starts.len() {
        let axis = axis(along[i], dims.len())?;
        let (size, step) = (dims[axis] as i64, steps[i]);
        let from_front = |v: i64| if v < 0 { v.saturating_add(size) } else { v };
        let (start, end) = (from_front(starts[i]), from_front(ends[i]));
        let (start, length) = match step {
            1.. => {
                let start = start.clamp(0, size);
                (start, end.clamp(0, size) - start)
            }
            ..0 => {
                let start = start.clamp(-1, size - 1);
                (start, start - end.clamp(-1, size - 1))
            }
            0 => return damaged("steps by 0"),
        };
        let length = usize::try_from(length).unwrap_or(0);
        cuts.push(Cut {
            axis,
            start,
            step,
            count: length.div_ceil(usize::try_from(step.unsigned_abs()).unwrap_or(usize::MAX)),
        });
    }
    Ok(cuts)
}

pub(super) fn slice(
    operands: &Operands,
    attributes: Attributes<'_>,
    budget: &mut Budget,
) -> Result<Constant, Refusal> {
    let Some(Some(source)) = operands.first() else {
        return damaged("operand 0 is missing");
    };
    let mut result = Constant::clone(source);
    for cut in cuts(&source.dims, operands, attributes)? {
        budget.take(result.len())?;
        let inner: usize = result.dims[cut.axis + 1..].iter().product();
        let outer: usize = result.dims[..cut.axis].iter().product();
        let size = result.dims[cut.axis];
        let mut dims = result.dims.clone();
        dims[cut.axis] = cut.count;
        let positions = (0..outer).flat_map(|o| {
            let Cut {
                start, step, count, ..
            } = cut;
            (0..count).flat_map(move |i| {
                let row = o * size + (start + i as i64 * step) as usize;
                (0..inner).map(move |k| row * inner + k)
            })
        });
        result = pick(&result, dims, positions);
    }
    Ok(result)
}

/// The parts of `sizes` along an axis.
pub(super) fn split(
    source: &Constant,
    at: usize,
    sizes: &[usize],
    budget: &mut Budget,
) -> Result<Vec<Constant>, Refusal> {
    budget.take(source.len().saturating_add(sizes.len()))?;
    let outer: usize = source.dims[..at].iter().product();
    let inner: usize = source.dims[at + 1..].iter().product();
    let row = source.dims[at] * inner;
    let mut start = 0;
    let mut parts = Vec::with_capacity(sizes.len());
    for &size in sizes {
        let mut dims = source.dims.clone();
        dims[at] = size;
        let span = start..start + size * inner;
        let positions = (0..outer).flat_map(|o| span.clone().map(move |k| o * row + k));
        parts.push(pick(source, dims, positions));
        start += size * inner;
    }
    Ok(parts)
}
