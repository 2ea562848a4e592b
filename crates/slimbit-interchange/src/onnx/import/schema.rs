//! The operators' attributes and operands by opset: what is not listed here is refused, and never
//! ignored.

use super::refusal::{Refusal, damaged, quoted, shown, unsupported};
use crate::onnx::proto::{AttributeProto, NodeProto, attribute_type};

/// The type of an attribute's value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Type {
    Float,
    Int,
    Text,
    Tensor,
    Floats,
    Ints,
}

/// One attribute of an operator.
struct Attribute {
    name: &'static str,
    holds: Type,
    /// The first opset that has it, and the last.
    opsets: [i64; 2],
    /// The only value that is understood, of an attribute that is not looked at otherwise.
    only: Option<i64>,
}

const LAST: i64 = i64::MAX;

const fn attribute(name: &'static str, holds: Type, opsets: [i64; 2]) -> Attribute {
    Attribute {
        name,
        holds,
        opsets,
        only: None,
    }
}

const fn int(name: &'static str) -> Attribute {
    attribute(name, Type::Int, [1, LAST])
}

const fn int_since(name: &'static str, since: i64) -> Attribute {
    attribute(name, Type::Int, [since, LAST])
}

const fn ints(name: &'static str) -> Attribute {
    attribute(name, Type::Ints, [1, LAST])
}

const fn ints_until(name: &'static str, until: i64) -> Attribute {
    attribute(name, Type::Ints, [1, until])
}

const fn float(name: &'static str) -> Attribute {
    attribute(name, Type::Float, [1, LAST])
}

const fn text(name: &'static str) -> Attribute {
    attribute(name, Type::Text, [1, LAST])
}

/// An operator that is understood.
struct Operator {
    name: &'static str,
    /// The first opset that has it.
    since: i64,
    /// Least and most operands, from each opset on.
    operands: &'static [(i64, usize, usize)],
    attributes: &'static [Attribute],
}

const ANY: usize = usize::MAX;

const fn operator(
    name: &'static str,
    operands: &'static [(i64, usize, usize)],
    attributes: &'static [Attribute],
) -> Operator {
    Operator {
        name,
        since: 1,
        operands,
        attributes,
    }
}

const fn operator_since(
    since: i64,
    name: &'static str,
    operands: &'static [(i64, usize, usize)],
    attributes: &'static [Attribute],
) -> Operator {
    Operator {
        name,
        since,
        operands,
        attributes,
    }
}

const ONE: &[(i64, usize, usize)] = &[(1, 1, 1)];
const TWO: &[(i64, usize, usize)] = &[(1, 2, 2)];
const MANY: &[(i64, usize, usize)] = &[(1, 1, ANY)];

/// Axes are an attribute up to 17 and an operand from 18 on.
const REDUCTION: &[(i64, usize, usize)] = &[(1, 1, 1), (18, 1, 2)];
const REDUCTION_ATTRIBUTES: &[Attribute] = &[
    ints_until("axes", 17),
    int("keepdims"),
    int_since("noop_with_empty_axes", 18),
];

const BLOCKS: Attribute = Attribute {
    only: Some(0),
    ..int_since("block_size", 21)
};

/// The table. Attributes that cannot change what is computed (a momentum, a seed, what to do about
/// 8-bit floats, which are refused as a type) are listed and not looked at.
const OPERATORS: &[Operator] = &[
    operator("Abs", ONE, &[]),
    operator("Add", TWO, &[]),
    operator(
        "AveragePool",
        ONE,
        &[
            text("auto_pad"),
            int_since("ceil_mode", 10),
            int_since("count_include_pad", 7),
            attribute("dilations", Type::Ints, [19, LAST]),
            ints("kernel_shape"),
            ints("pads"),
            ints("strides"),
        ],
    ),
    operator(
        "BatchNormalization",
        &[(1, 5, 5)],
        &[
            float("epsilon"),
            float("momentum"),
            attribute("spatial", Type::Int, [1, 8]),
            int_since("training_mode", 14),
        ],
    ),
    operator(
        "Cast",
        ONE,
        &[
            int("to"),
            int_since("saturate", 19),
            attribute("round_mode", Type::Text, [24, LAST]),
        ],
    ),
    operator_since(
        15,
        "CastLike",
        TWO,
        &[
            int_since("saturate", 19),
            attribute("round_mode", Type::Text, [24, LAST]),
        ],
    ),
    operator("Ceil", ONE, &[]),
    operator(
        "Clip",
        &[(1, 1, 1), (11, 1, 3)],
        &[
            attribute("max", Type::Float, [1, 10]),
            attribute("min", Type::Float, [1, 10]),
        ],
    ),
    operator("Concat", MANY, &[int("axis")]),
    operator(
        "Constant",
        &[(1, 0, 0)],
        &[
            attribute("value", Type::Tensor, [1, LAST]),
            attribute("value_float", Type::Float, [12, LAST]),
            attribute("value_floats", Type::Floats, [12, LAST]),
            attribute("value_int", Type::Int, [12, LAST]),
            attribute("value_ints", Type::Ints, [12, LAST]),
        ],
    ),
    operator_since(
        9,
        "ConstantOfShape",
        ONE,
        &[attribute("value", Type::Tensor, [9, LAST])],
    ),
    operator(
        "Conv",
        &[(1, 2, 3)],
        &[
            text("auto_pad"),
            ints("dilations"),
            int("group"),
            ints("kernel_shape"),
            ints("pads"),
            ints("strides"),
        ],
    ),
    operator_since(
        10,
        "DequantizeLinear",
        &[(10, 2, 3)],
        &[int_since("axis", 13), BLOCKS, int_since("output_dtype", 23)],
    ),
    operator("Div", TWO, &[]),
    operator(
        "Dropout",
        &[(1, 1, 1), (12, 1, 3)],
        &[
            attribute("ratio", Type::Float, [1, 11]),
            int_since("seed", 12),
        ],
    ),
    operator("Flatten", ONE, &[int("axis")]),
    operator("Floor", ONE, &[]),
    operator("Gather", TWO, &[int("axis")]),
    operator(
        "Gemm",
        &[(1, 3, 3), (11, 2, 3)],
        &[float("alpha"), float("beta"), int("transA"), int("transB")],
    ),
    operator("GlobalAveragePool", ONE, &[]),
    operator("HardSigmoid", ONE, &[float("alpha"), float("beta")]),
    operator_since(14, "HardSwish", ONE, &[]),
    operator("Identity", ONE, &[]),
    operator("LogSoftmax", ONE, &[int("axis")]),
    operator("MatMul", TWO, &[]),
    operator("Max", MANY, &[]),
    operator(
        "MaxPool",
        ONE,
        &[
            text("auto_pad"),
            int_since("ceil_mode", 10),
            attribute("dilations", Type::Ints, [10, LAST]),
            ints("kernel_shape"),
            ints("pads"),
            // The order of indices, a second output whose use is refused.
            int_since("storage_order", 8),
            ints("strides"),
        ],
    ),
    operator("Min", MANY, &[]),
    operator("Mul", TWO, &[]),
    operator("Neg", ONE, &[]),
    operator(
        "Pad",
        &[(1, 1, 1), (11, 2, 3), (18, 2, 4)],
        &[
            text("mode"),
            ints_until("pads", 10),
            attribute("value", Type::Float, [1, 10]),
        ],
    ),
    operator("Pow", TWO, &[]),
    operator_since(
        10,
        "QuantizeLinear",
        &[(10, 2, 3)],
        &[
            int_since("axis", 13),
            BLOCKS,
            int_since("output_dtype", 21),
            int_since("precision", 23),
            int_since("saturate", 19),
        ],
    ),
    operator("Reciprocal", ONE, &[]),
    operator("ReduceL2", REDUCTION, REDUCTION_ATTRIBUTES),
    operator("ReduceMax", REDUCTION, REDUCTION_ATTRIBUTES),
    operator("ReduceMean", REDUCTION, REDUCTION_ATTRIBUTES),
    operator("ReduceMin", REDUCTION, REDUCTION_ATTRIBUTES),
    operator("ReduceProd", REDUCTION, REDUCTION_ATTRIBUTES),
    operator(
        "ReduceSum",
        &[(1, 1, 1), (13, 1, 2)],
        &[
            ints_until("axes", 12),
            int("keepdims"),
            int_since("noop_with_empty_axes", 13),
        ],
    ),
    operator("Relu", ONE, &[]),
    operator("Reshape", TWO, &[int_since("allowzero", 14)]),
    operator(
        "Shape",
        ONE,
        &[int_since("end", 15), int_since("start", 15)],
    ),
    operator("Sigmoid", ONE, &[]),
    operator(
        "Slice",
        &[(1, 1, 1), (10, 3, 5)],
        &[
            ints_until("axes", 9),
            ints_until("ends", 9),
            ints_until("starts", 9),
        ],
    ),
    operator("Softmax", ONE, &[int("axis")]),
    operator(
        "Split",
        &[(1, 1, 1), (13, 1, 2)],
        &[
            int("axis"),
            int_since("num_outputs", 18),
            ints_until("split", 12),
        ],
    ),
    operator("Sqrt", ONE, &[]),
    operator(
        "Squeeze",
        &[(1, 1, 1), (13, 1, 2)],
        &[ints_until("axes", 12)],
    ),
    operator("Sub", TWO, &[]),
    operator("Sum", MANY, &[]),
    operator("Transpose", ONE, &[ints("perm")]),
    operator(
        "Unsqueeze",
        &[(1, 1, 1), (13, 2, 2)],
        &[ints_until("axes", 12)],
    ),
];

/// Checks that nothing about a node is beyond what the importer looks at in operators of version
/// `opset`. An operator that is not in the table has its own refusal.
pub(super) fn check(node: &NodeProto, opset: i64) -> Result<(), Refusal> {
    let found = OPERATORS.iter().find(|o| o.name == node.op_type);
    let Some(operator) = found else {
        return Ok(());
    };
    if opset < operator.since {
        let since = operator.since;
        return unsupported(
            format!("exists since opset {since}, and the file states opset {opset}"),
            "export again with --opset 17",
        );
    }
    let mut given = vec![false; operator.attributes.len()];
    for attribute in &node.attribute {
        let of_name = |known: &Attribute| known.name == attribute.name;
        let Some(index) = operator.attributes.iter().position(of_name) else {
            return unknown(attribute, opset);
        };
        if std::mem::replace(&mut given[index], true) {
            return damaged(format!("has attribute {} twice", quoted(&attribute.name)));
        }
        let known = &operator.attributes[index];
        let [first, last] = known.opsets;
        let read = (first..=last).contains(&opset)
            && attribute.ref_attr_name.is_empty()
            && holds(attribute, known.holds)
            && known.only.is_none_or(|only| attribute.i == Some(only));
        if !read {
            return unknown(attribute, opset);
        }
    }
    let stated = operator.operands.iter().rev().find(|o| o.0 <= opset);
    let &(_, least, most) = stated.unwrap_or(&operator.operands[0]);
    // Operands may be left out at the end by name or by number.
    let count = node.input.len();
    let needed = node.input.iter().take(least);
    if count < least || needed.clone().any(String::is_empty) {
        return damaged(format!(
            "has {} of {least} operands",
            needed.filter(|name| !name.is_empty()).count()
        ));
    }
    if node.input.iter().skip(most).any(|name| !name.is_empty()) {
        return unsupported(
            format!("has {count} operands, where opset {opset} knows {most}"),
            "export again with --opset 17",
        );
    }
    Ok(())
}

/// Whether an operator is in the table.
#[cfg(test)]
pub(super) fn is_known(op: &str) -> bool {
    OPERATORS.iter().any(|operator| operator.name == op)
}

fn unknown(attribute: &AttributeProto, opset: i64) -> Result<(), Refusal> {
    unsupported(
        format!(
            "attribute {} = {} is not understood in opset {opset}",
            quoted(&attribute.name),
            value(attribute)
        ),
        "export without it, or simplify the model (onnxsim)",
    )
}

/// Whether the value of an attribute is of a type. Old files do not state the type.
fn holds(attribute: &AttributeProto, wanted: Type) -> bool {
    use attribute_type as t;
    let stated = match wanted {
        Type::Float => t::FLOAT,
        Type::Int => t::INT,
        Type::Text => t::STRING,
        Type::Tensor => t::TENSOR,
        Type::Floats => t::FLOATS,
        Type::Ints => t::INTS,
    };
    // A value of zero or of no elements may be left out of the file where its type is there.
    if attribute.r#type != 0 {
        return attribute.r#type == stated && (wanted != Type::Tensor || attribute.t.is_some());
    }
    match wanted {
        Type::Float => attribute.f.is_some(),
        Type::Int => attribute.i.is_some(),
        Type::Text => attribute.s.is_some(),
        Type::Tensor => attribute.t.is_some(),
        Type::Floats => !attribute.floats.is_empty(),
        Type::Ints => !attribute.ints.is_empty(),
    }
}

/// A value as messages show it.
fn value(attribute: &AttributeProto) -> String {
    match attribute {
        AttributeProto { i: Some(i), .. } => i.to_string(),
        AttributeProto { f: Some(f), .. } => f.to_string(),
        AttributeProto { s: Some(s), .. } => quoted(&String::from_utf8_lossy(s)),
        a if !a.ints.is_empty() => shown(&a.ints),
        a if !a.floats.is_empty() => shown(&a.floats),
        a if !a.ref_attr_name.is_empty() => format!("that of {}", quoted(&a.ref_attr_name)),
        a if a.r#type == attribute_type::INT => "0".to_owned(),
        _ => "…".to_owned(),
    }
}
