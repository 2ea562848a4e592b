//! The operators that are understood, and what to do about others.

use super::refusal::{Refusal, unsupported};

/// Operators with a counterpart, or without effect, where they read what depends on the image.
pub(super) const ON_TENSORS: [&str; 40] = [
    "Add",
    "AveragePool",
    "BatchNormalization",
    "Cast",
    "CastLike",
    "Clip",
    "Concat",
    "Conv",
    "DequantizeLinear",
    "Div",
    "Dropout",
    "Flatten",
    "Gather",
    "Gemm",
    "GlobalAveragePool",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LogSoftmax",
    "MatMul",
    "Max",
    "MaxPool",
    "Min",
    "Mul",
    "Neg",
    "Pad",
    "QuantizeLinear",
    "ReduceMean",
    "Relu",
    "Reshape",
    "Shape",
    "Sigmoid",
    "Slice",
    "Softmax",
    "Split",
    "Squeeze",
    "Sub",
    "Sum",
    "Transpose",
    "Unsqueeze",
];

/// Further operators that are evaluated on constants.
pub(super) const ON_CONSTANTS: [&str; 13] = [
    "Abs",
    "Ceil",
    "Constant",
    "ConstantOfShape",
    "Floor",
    "Pow",
    "Reciprocal",
    "ReduceL2",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "Sqrt",
];

/// Refuses an operator that is none of them.
pub(super) fn refuse<T>(op: &str) -> Result<T, Refusal> {
    let (why, remedy) = match op {
        "QLinearConv" | "QLinearMatMul" | "QLinearAdd" | "ConvInteger" | "MatMulInteger" => (
            "is an integer operator",
            "export in float, or quantised in the QDQ form",
        ),
        "LayerNormalization" | "InstanceNormalization" | "GroupNormalization" | "LRN" => (
            "normalises over what it sees at run time",
            "only batch-norm is supported; retrain with it",
        ),
        "LeakyRelu" | "PRelu" | "Elu" | "Selu" | "Gelu" | "Tanh" | "Softplus" | "Mish"
        | "Swish" => (
            "is a non-linearity without a counterpart",
            "retrain with ReLU, ReLU6 or hard swish",
        ),
        "If" | "Loop" | "Scan" => ("is control flow", "export by tracing, with fixed shapes"),
        "Resize" | "Upsample" | "ConvTranspose" => ("enlarges a map", "cut the model before it"),
        _ => (
            "has no counterpart",
            "simplify the model (onnxsim), or cut it before this node",
        ),
    };
    unsupported(why, remedy)
}
