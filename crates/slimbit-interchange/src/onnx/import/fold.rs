//! Operators on constants alone: shapes that an exporter computes, and weights that it stores in
//! pieces.

use std::rc::Rc;

use super::attributes::Attributes;
use super::constant::{Constant, Data};
use super::refusal::{Budget, Refusal, bounded, damaged, unsupported};
use crate::onnx::proto::data_type;

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
                    _ => return damaged("`value` is no single element"),
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

/// Dimensions from integers.
pub(super) fn sizes(values: &[i64]) -> Result<Vec<usize>, Refusal> {
    let sizes: Option<Vec<usize>> = values.iter().map(|&v| v.try_into().ok()).collect();
    match sizes {
        Some(sizes) => Ok(sizes),
        None => damaged(format!("{values:?} are no dimensions")),
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

fn cast(source: &Constant, to: i64, budget: &mut Budget) -> Result<Constant, Refusal> {
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

fn map(
    source: &Constant,
    budget: &mut Budget,
    f: impl Fn(f32) -> f32,
) -> Result<Constant, Refusal> {
    budget.take(source.len())?;
    let values = source.to_f32().iter().map(|&v| f(v)).collect();
    Ok(Constant::floats(source.dims.clone(), values))
}

/// An operator of two numbers, on floats and on integers.
type Binary = (fn(f32, f32) -> f32, fn(i64, i64) -> Option<i64>);

fn binary(op: &str) -> Option<Binary> {
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
fn broadcast(
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
    let perm = perm
        .iter()
        .map(|&p| axis(p, rank))
        .collect::<Result<Vec<_>, _>>()?;
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    if sorted.iter().copied().eq(0..rank) {
        Ok(perm)
    } else {
        damaged(format!("{perm:?} is no permutation of {rank} dimensions"))
    }
}

fn transpose(
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

fn concat(
    operands: &Operands,
    attributes: Attributes<'_>,
    budget: &mut Budget,
) -> Result<Constant, Refusal> {
    let parts: Vec<&Constant> = operands.iter().flatten().map(|part| &**part).collect();
    let Some(first) = parts.first() else {
        return damaged("joins nothing");
    };
    let at = axis(attributes.int("axis", 0), first.dims.len())?;
    let mut dims = first.dims.clone();
    dims[at] = 0;
    for part in &parts {
        let fits = part.dims.len() == dims.len()
            && (0..dims.len()).all(|i| i == at || part.dims[i] == dims[i]);
        if !fits {
            return damaged(format!("joins {:?} and {:?}", first.dims, part.dims));
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
        Constant::ints(dims, values)
    } else {
        let mut values = Vec::new();
        for (part, range) in rows {
            values.extend_from_slice(&part.to_f32()[range]);
        }
        Constant::floats(dims, values)
    })
}

fn gather(
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
    let axes = listed(3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = listed(4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] {
        return damaged("starts, ends, axes and steps differ in number");
    }
    let mut cuts = Vec::with_capacity(starts.len());
    for i in 0..starts.len() {
        let axis = axis(axes[i], dims.len())?;
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

fn slice(
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

fn dequantise(
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

fn quantise(
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
