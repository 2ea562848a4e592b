//! The walk over a file's nodes: constants are evaluated, everything else becomes a step.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::attributes::Attributes;
use super::constant::Constant;
use super::fold::{Operands, fold};
use super::operators::{self, ON_CONSTANTS, ON_TENSORS};
use super::refusal::{Budget, Refusal, UnsupportedNode, bounded, damaged, unsupported};
use super::step::{Kind, Step};
use crate::ImportError;
use crate::onnx::proto::{GraphProto, NodeProto};

/// Most elements of a tensor that is not taken for damage.
pub(super) const LARGEST_TENSOR: usize = 1 << 40;

/// What a name of the file stands for.
#[derive(Clone)]
pub(super) enum Value {
    Constant(Rc<Constant>),
    Tensor(Tensor),
    /// The result of a node that was refused: whatever reads it says nothing more.
    Refused,
}

/// The result of a step, as the file sees it.
#[derive(Clone, Debug)]
pub(super) struct Tensor {
    pub(super) step: usize,
    /// Dimensions, the batch included.
    pub(super) dims: Vec<usize>,
    /// Whether the channels come last, as TensorFlow has them.
    pub(super) channels_last: bool,
    /// Whether this is the tensor of codes between a `QuantizeLinear` and a `DequantizeLinear`.
    pub(super) codes: bool,
}

/// The scale and the zero point that a file gives a tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quantiser {
    pub(super) step: usize,
    pub(super) scale: f32,
    pub(super) zero_point: i64,
}

/// The state of the walk.
pub(super) struct Trace {
    pub(super) steps: Vec<Step>,
    pub(super) values: BTreeMap<String, Value>,
    pub(super) quantisers: Vec<Quantiser>,
    pub(super) refused: Vec<UnsupportedNode>,
    pub(super) budget: Budget,
    /// Name of the node at hand.
    pub(super) name: String,
    /// Operator of the node at hand.
    pub(super) op: String,
}

impl Trace {
    /// Walks over all nodes. Nodes without a counterpart are collected in [`Trace::refused`].
    pub(super) fn run(&mut self, graph: &GraphProto) -> Result<(), ImportError> {
        let mut read: BTreeSet<&str> = BTreeSet::new();
        read.extend(graph.output.iter().map(|info| info.name.as_str()));
        for node in &graph.node {
            read.extend(node.input.iter().map(String::as_str));
        }
        read.remove("");
        for node in &graph.node {
            let fallback = node.output.iter().find(|name| !name.is_empty());
            self.name = match &node.name {
                name if name.is_empty() => fallback.cloned().unwrap_or_default(),
                name => name.clone(),
            };
            self.op.clone_from(&node.op_type);
            let result = match self.node(node, &read) {
                Ok(value) => value,
                Err(Refusal::Unsupported { why, remedy }) => {
                    self.refused.push(UnsupportedNode {
                        op: self.op.clone(),
                        node: self.name.clone(),
                        why,
                        remedy: remedy.to_owned(),
                    });
                    Value::Refused
                }
                Err(Refusal::Damaged(what)) => {
                    let at = format!("node `{}` ({})", self.name, self.op);
                    return Err(ImportError::damaged(at, what));
                }
            };
            for (index, output) in node.output.iter().enumerate() {
                let value = if index == 0 {
                    result.clone()
                } else {
                    Value::Refused
                };
                if !output.is_empty() && self.values.insert(output.clone(), value).is_some() {
                    let at = format!("node `{}`", self.name);
                    return Err(ImportError::damaged(
                        at,
                        format!("writes `{output}`, which is already there"),
                    ));
                }
            }
        }
        Ok(())
    }

    fn node(&mut self, node: &NodeProto, read: &BTreeSet<&str>) -> Result<Value, Refusal> {
        let mut operands = Vec::with_capacity(node.input.len());
        for name in &node.input {
            operands.push(match (name.as_str(), self.values.get(name)) {
                ("", _) => None,
                (_, Some(value)) => Some(value.clone()),
                (_, None) => {
                    return damaged(format!("reads `{name}`, which nothing before it writes"));
                }
            });
        }
        if !matches!(node.domain.as_str(), "" | "ai.onnx") {
            return unsupported(
                format!("is an operator of `{}`", node.domain),
                "export without optimising for a runtime",
            );
        }
        let second = node
            .output
            .iter()
            .skip(1)
            .find(|name| read.contains(name.as_str()));
        if let Some(name) = second {
            return unsupported(
                format!("its further output `{name}` is read"),
                "export for inference",
            );
        }
        let op = node.op_type.as_str();
        let mut given = operands.iter().flatten();
        if given.any(|value| matches!(value, Value::Refused)) {
            // Nobody knows whether the operand is constant, but these have no counterpart at all.
            return match ON_TENSORS.contains(&op) || ON_CONSTANTS.contains(&op) {
                true => Ok(Value::Refused),
                false => operators::refuse(op),
            };
        }
        let attributes = Attributes(node);
        let known = |value: &Option<Value>| match value {
            Some(Value::Constant(constant)) => Some(Some(constant.clone())),
            None => Some(None),
            _ => None,
        };
        if let Some(constants) = operands.iter().map(known).collect::<Option<Vec<_>>>() {
            let folded = fold(op, attributes, &constants, &mut self.budget)?;
            return Ok(Value::Constant(folded));
        }
        if !ON_TENSORS.contains(&op) {
            return operators::refuse(op);
        }
        self.operator(op, attributes, &operands)
    }

    /// A node that reads at least one tensor.
    fn operator(
        &mut self,
        op: &str,
        attributes: Attributes<'_>,
        operands: &[Option<Value>],
    ) -> Result<Value, Refusal> {
        if let "Add" | "Sub" | "Mul" | "Div" | "Sum" | "Concat" = op {
            return self.joined(op, attributes, operands).map(Value::Tensor);
        }
        let Some(Some(Value::Tensor(x))) = operands.first() else {
            return unsupported(
                "computes its parameters from the image",
                "only weights that the file holds are supported",
            );
        };
        let others: Vec<Option<Rc<Constant>>> = operands[1..]
            .iter()
            .map(|value| match value {
                Some(Value::Constant(constant)) => Ok(Some(constant.clone())),
                None => Ok(None),
                _ => unsupported(
                    "computes its parameters from the image",
                    "only weights that the file holds are supported",
                ),
            })
            .collect::<Result<_, _>>()?;
        if op == "Shape" {
            let dims: Vec<i64> = x.dims.iter().map(|&d| d as i64).collect();
            return Ok(Value::Constant(Rc::new(Constant::ints(
                vec![dims.len()],
                dims,
            ))));
        }
        self.single(op, attributes, x, &others).map(Value::Tensor)
    }

    fn single(
        &mut self,
        op: &str,
        attributes: Attributes<'_>,
        x: &Tensor,
        others: &Operands,
    ) -> Result<Tensor, Refusal> {
        match op {
            "Conv" => self.convolution(attributes, x, others),
            "Gemm" => self.gemm(attributes, x, others),
            "MatMul" => self.matrix_product(x, others),
            "BatchNormalization" => self.batch_norm(attributes, x, others),
            "Relu" | "Clip" | "HardSwish" | "HardSigmoid" => {
                self.activation(op, attributes, x, others)
            }
            "MaxPool" | "AveragePool" => self.pool(op, attributes, x),
            "GlobalAveragePool" | "ReduceMean" => self.global_average(op, attributes, x, others),
            "Pad" => self.pad(attributes, x, others),
            "Slice" => self.slice(attributes, x, others),
            "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" => {
                self.reshape(op, attributes, x, others)
            }
            "Transpose" => self.transpose(attributes, x),
            "Identity" => Ok(x.clone()),
            "Dropout" => Ok(x.clone()),
            "Cast" => match attributes.int("to", 1) {
                1 | 10 | 11 | 16 => Ok(x.clone()),
                other => unsupported(
                    format!("casts to element type {other}"),
                    "leave conversions of inputs and outputs to the caller",
                ),
            },
            "QuantizeLinear" => self.quantise(x, others),
            "DequantizeLinear" => Ok(Tensor {
                codes: false,
                ..x.clone()
            }),
            "Softmax" | "LogSoftmax" | "Sigmoid" => {
                let (channels, space) = x.extent()?;
                self.push(Kind::Softmax, &[x], channels, space, x.dims.clone())
            }
            _ => operators::refuse(op),
        }
    }

    /// Appends a step and gives its tensor.
    pub(super) fn push(
        &mut self,
        kind: Kind,
        inputs: &[&Tensor],
        channels: usize,
        space: [usize; 2],
        dims: Vec<usize>,
    ) -> Result<Tensor, Refusal> {
        if bounded(&dims).is_none_or(|elements| elements > LARGEST_TENSOR) {
            return unsupported(
                format!("gives a tensor of {dims:?}"),
                "use smaller images or fewer channels",
            );
        }
        let operands = inputs.iter().all(|x| self.steps[x.step].non_negative);
        self.steps.push(Step {
            non_negative: kind.is_non_negative(operands),
            name: self.name.clone(),
            op: self.op.clone(),
            kind,
            inputs: inputs.iter().map(|x| x.step).collect(),
            channels,
            space,
        });
        Ok(Tensor {
            step: self.steps.len() - 1,
            dims,
            channels_last: inputs.iter().any(|x| x.channels_last),
            codes: false,
        })
    }

    /// Appends a step whose result has the shape of its operand.
    pub(super) fn push_like(&mut self, kind: Kind, x: &Tensor) -> Result<Tensor, Refusal> {
        let (channels, space) = x.extent()?;
        self.push(kind, &[x], channels, space, x.dims.clone())
    }
}

impl Tensor {
    /// Channels, rows and columns.
    pub(super) fn extent(&self) -> Result<(usize, [usize; 2]), Refusal> {
        match (&self.dims[..], self.channels_last) {
            (&[_, c], _) => Ok((c, [1, 1])),
            (&[_, c, h, w], false) | (&[_, h, w, c], true) => Ok((c, [h, w])),
            (dims, _) => unsupported(
                format!("reads a tensor of dimensions {dims:?}"),
                "only maps [N, C, H, W] and vectors [N, C] are supported",
            ),
        }
    }

    /// Channels, rows and columns of a map whose channels come first.
    pub(super) fn map(&self) -> Result<(usize, [usize; 2]), Refusal> {
        if self.dims.len() != 4 {
            return unsupported(
                format!("reads a tensor of dimensions {:?}", self.dims),
                "only two-dimensional maps [N, C, H, W] are supported",
            );
        }
        if self.channels_last {
            return unsupported(
                "reads a map whose channels come last",
                "convert the model to NCHW (tf2onnx: --inputs-as-nchw)",
            );
        }
        self.extent()
    }
}
