//! The walk over a file's nodes: constants are evaluated, everything else becomes a step.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::attributes::Attributes;
use super::constant::Constant;
use super::dimensions::shape_of;
use super::fold::{Operands, fold};
use super::operators::{self, ON_CONSTANTS, ON_TENSORS};
use super::order::execution_order;
use super::refusal::{
    Budget, Refusal, UnsupportedNode, bounded, damaged, quoted, shown, unsupported,
};
use super::schema;
use super::step::{Kind, Step};
use crate::ImportError;
use crate::onnx::proto::{GraphProto, NodeProto, data_type};

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
    /// Dimensions, the batch included. Those of a map may lack axes of one.
    pub(super) dims: Vec<usize>,
    /// Whether the channels come last, as TensorFlow has them.
    pub(super) channels_last: bool,
    pub(super) holds: Holds,
}

/// What the elements of a tensor are to the file. The step behind it has their real values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Holds {
    Reals,
    /// The codes between a `QuantizeLinear` and a `DequantizeLinear`.
    Codes(Codes),
    /// The pixels of an image of integers, before they are cast to floats.
    Pixels,
}

/// What codes stand for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Codes {
    pub(super) scale: f32,
    pub(super) zero_point: i64,
}

/// The scale and the zero point that a file gives a tensor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quantiser {
    pub(super) step: usize,
    pub(super) codes: Codes,
}

/// The state of the walk.
pub(super) struct Trace {
    pub(super) steps: Vec<Step>,
    pub(super) values: BTreeMap<String, Value>,
    pub(super) quantisers: Vec<Quantiser>,
    pub(super) refused: Vec<UnsupportedNode>,
    pub(super) budget: Budget,
    /// Version of the operators.
    pub(super) opset: i64,
    /// Images per run, where the file fixes them, or 1.
    pub(super) batch: usize,
    /// Operators that the file defines itself, by domain and name.
    pub(super) functions: BTreeSet<(String, String)>,
    /// Name of the node at hand.
    pub(super) name: String,
    /// Operator of the node at hand.
    pub(super) op: String,
}

/// The domain of the standard's operators has two names.
pub(super) fn is_standard(domain: &str) -> bool {
    matches!(domain, "" | "ai.onnx")
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
        let order = execution_order(&graph.node, |name| self.values.contains_key(name))?;
        for node in order.into_iter().map(|index| &graph.node[index]) {
            let fallback = node.output.iter().find(|name| !name.is_empty());
            self.name = match &node.name {
                name if name.is_empty() => fallback.cloned().unwrap_or_default(),
                name => name.clone(),
            };
            self.op.clone_from(&node.op_type);
            let results = match self.node(node, &read) {
                Ok(values) => values,
                Err(Refusal::Unsupported { why, remedy }) => {
                    self.refused.push(UnsupportedNode {
                        op: self.op.clone(),
                        node: self.name.clone(),
                        why,
                        remedy: remedy.to_owned(),
                    });
                    Vec::new()
                }
                Err(Refusal::Damaged(what)) => {
                    let at = format!("node {} ({})", quoted(&self.name), quoted(&self.op));
                    return Err(ImportError::damaged(at, what));
                }
            };
            let mut results = results.into_iter();
            for output in &node.output {
                let value = results.next().unwrap_or(Value::Refused);
                if !output.is_empty() && self.values.insert(output.clone(), value).is_some() {
                    let at = format!("node {}", quoted(&self.name));
                    return Err(ImportError::damaged(
                        at,
                        format!("writes {}, which is already there", quoted(output)),
                    ));
                }
            }
        }
        Ok(())
    }

    /// What a node's outputs are, as far as they are anything.
    fn node(&mut self, node: &NodeProto, read: &BTreeSet<&str>) -> Result<Vec<Value>, Refusal> {
        let mut operands = Vec::with_capacity(node.input.len());
        for name in &node.input {
            operands.push(match (name.as_str(), self.values.get(name)) {
                ("", _) => None,
                (_, Some(value)) => Some(value.clone()),
                (_, None) => {
                    return damaged(format!("reads {}, which nothing writes", quoted(name)));
                }
            });
        }
        let standard = is_standard(&node.domain);
        let domain = if standard { "" } else { &node.domain };
        let defined = (domain.to_owned(), node.op_type.clone());
        if self.functions.contains(&defined) {
            return unsupported(
                "is a function that the file defines",
                "put functions in place of their calls (onnx.inliner.inline_local_functions)",
            );
        }
        if !standard {
            return unsupported(
                format!("is an operator of {}", quoted(&node.domain)),
                "export without optimising for a runtime",
            );
        }
        let op = node.op_type.as_str();
        if !ON_TENSORS.contains(&op) && !ON_CONSTANTS.contains(&op) {
            return operators::refuse(op);
        }
        schema::check(node, self.opset)?;
        // The second way, up to opset 13, to say that a batch-norm trains.
        let further = node.output.iter().skip(1).any(|name| !name.is_empty());
        if op == "BatchNormalization" && further {
            return normalises_by_batch();
        }
        let mut others = node.output.iter().skip(1);
        let second = others.find(|name| read.contains(name.as_str()));
        if let Some(name) = second
            && op != "Split"
        {
            return unsupported(
                format!("its further output {} is read", quoted(name)),
                "export for inference",
            );
        }
        let mut given = operands.iter().flatten();
        if given.any(|value| matches!(value, Value::Refused)) {
            return Ok(Vec::new());
        }
        let attributes = Attributes::new(node, self.opset);
        let known = |value: &Option<Value>| match value {
            Some(Value::Constant(constant)) => Some(Some(constant.clone())),
            None => Some(None),
            _ => None,
        };
        if let Some(constants) = operands.iter().map(known).collect::<Option<Vec<_>>>() {
            let outputs = node.output.len();
            let folded = fold(op, attributes, &constants, outputs, &mut self.budget)?;
            return Ok(folded.into_iter().map(Value::Constant).collect());
        }
        if !ON_TENSORS.contains(&op) {
            return operators::refuse(op);
        }
        self.operator(op, attributes, &operands, node.output.len())
    }

    /// A node that reads at least one tensor.
    fn operator(
        &mut self,
        op: &str,
        attributes: Attributes<'_>,
        operands: &[Option<Value>],
        outputs: usize,
    ) -> Result<Vec<Value>, Refusal> {
        let one = |tensor| vec![Value::Tensor(tensor)];
        if let "Add" | "Sub" | "Mul" | "Div" | "Sum" | "Concat" | "Max" | "Min" = op {
            return self.joined(op, attributes, operands).map(one);
        }
        if let ("CastLike", [Some(Value::Constant(source)), Some(Value::Tensor(like))]) =
            (op, operands)
        {
            return self.cast_like(source, like);
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
            let shape = shape_of(&x.dims, attributes);
            return Ok(vec![Value::Constant(Rc::new(shape))]);
        }
        let integers = x.holds != Holds::Reals;
        let moves = matches!(
            op,
            "Flatten"
                | "Gather"
                | "Identity"
                | "MaxPool"
                | "Reshape"
                | "Slice"
                | "Split"
                | "Squeeze"
                | "Transpose"
                | "Unsqueeze"
        );
        match (op, x.holds) {
            ("Cast" | "CastLike", Holds::Reals | Holds::Pixels)
            | ("DequantizeLinear", Holds::Pixels | Holds::Codes(_))
            | ("Clip", Holds::Codes(_)) => {}
            _ if !integers && op != "DequantizeLinear" => {}
            _ if integers && moves => {}
            _ => {
                return unsupported(
                    "computes on integers",
                    "cast or dequantise the tensor to floats first",
                );
            }
        }
        if op == "Split" {
            let parts = self.split(attributes, x, &others, outputs)?;
            return Ok(parts.into_iter().map(Value::Tensor).collect());
        }
        let mut result = self.single(op, attributes, x, &others)?;
        if moves {
            result.holds = x.holds;
        }
        Ok(one(result))
    }

    /// A constant in the type of a tensor.
    fn cast_like(&mut self, source: &Constant, like: &Tensor) -> Result<Vec<Value>, Refusal> {
        if like.holds != Holds::Reals {
            return unsupported("computes on integers", "cast the image to floats first");
        }
        let to = data_type::FLOAT.into();
        let cast = super::elementwise::cast(source, to, &mut self.budget)?;
        Ok(vec![Value::Constant(Rc::new(cast))])
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
            "Gather" => self.gather(attributes, x, others),
            "Flatten" | "Reshape" | "Squeeze" | "Unsqueeze" => {
                self.reshape(op, attributes, x, others)
            }
            "Transpose" => self.transpose(attributes, x),
            "Identity" => Ok(x.clone()),
            "Dropout" => {
                super::pointwise::refuse_training(others)?;
                Ok(x.clone())
            }
            "Cast" | "CastLike" => self.cast(op, attributes, x, others),
            "Neg" => self.push_like(
                Kind::Scale {
                    gain: vec![-1.0],
                    shift: vec![0.0],
                },
                x,
            ),
            "QuantizeLinear" => self.quantise(attributes, x, others),
            "DequantizeLinear" => self.dequantise(x, others),
            "Softmax" | "LogSoftmax" => self.softmax(attributes, x),
            "Sigmoid" => self.push_like(Kind::Softmax, x),
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
                format!("gives a tensor of {}", shown(&dims)),
                "use smaller images or fewer channels",
            );
        }
        let operands = inputs.iter().all(|x| self.steps[x.step].non_negative);
        let of_image = inputs.iter().all(|x| self.steps[x.step].is_image);
        self.steps.push(Step {
            non_negative: kind.is_non_negative(operands),
            is_image: of_image && kind.is_affine(),
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
            holds: Holds::Reals,
        })
    }

    /// Appends a step whose result has the shape of its operand.
    pub(super) fn push_like(&mut self, kind: Kind, x: &Tensor) -> Result<Tensor, Refusal> {
        let Step {
            channels, space, ..
        } = self.steps[x.step];
        self.push(kind, &[x], channels, space, x.dims.clone())
    }
}

/// The refusal of a batch-norm in training.
pub(super) fn normalises_by_batch<T>() -> Result<T, Refusal> {
    unsupported(
        "normalises by the batch, as in training",
        "export for inference (model.eval())",
    )
}

impl Tensor {
    /// Channels, rows and columns.
    pub(super) fn extent(&self) -> Result<(usize, [usize; 2]), Refusal> {
        match (&self.dims[..], self.channels_last) {
            (&[_, c], _) => Ok((c, [1, 1])),
            (&[_, c, h, w], false) | (&[_, h, w, c], true) => Ok((c, [h, w])),
            (dims, _) => unsupported(
                format!("reads a tensor of dimensions {}", shown(dims)),
                "only maps [N, C, H, W] and vectors [N, C] are supported",
            ),
        }
    }

    /// Channels, rows and columns of a map whose channels come first.
    pub(super) fn map(&self) -> Result<(usize, [usize; 2]), Refusal> {
        if self.dims.len() != 4 {
            return unsupported(
                format!("reads a tensor of dimensions {}", shown(&self.dims)),
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

    /// The axis of the channels.
    pub(super) fn channel_axis(&self) -> usize {
        match self.channels_last {
            true => self.dims.len() - 1,
            false => 1,
        }
    }
}
