use crate::op::{Activation, Op};
use crate::{Graph, GraphError, NodeId, Range};

/// Index of a stage in [`Graph::stages`].
pub type StageId = usize;

/// What a stage computes before its activation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageKind {
    /// The image.
    Input,
    /// A convolution node, with the batch-norm that follows it.
    Conv {
        /// The convolution.
        conv: NodeId,
        /// The batch-norm folded into its requantisation.
        norm: Option<NodeId>,
    },
    /// A linear node, with the batch-norm that follows it.
    Linear {
        /// The linear layer.
        linear: NodeId,
        /// The batch-norm folded into its requantisation.
        norm: Option<NodeId>,
    },
    /// Sum of two stages.
    Add,
    /// Concatenation of stages along the channels.
    Concat,
    /// A max-pooling node.
    MaxPool(NodeId),
    /// An average-pooling node.
    AvgPool(NodeId),
    /// Mean over the map.
    GlobalAvgPool,
    /// Flattening: the same numbers, channels first.
    Flatten,
    /// A parameter-free shortcut node.
    PadShortcut(NodeId),
    /// Nothing: the stage is its activation, which is not a clamp or has no producer of its own.
    Pointwise,
}

/// How a stage's output is represented in integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Unsigned codes of the point's activation bits: what follows a non-linearity.
    Point,
    /// Unsigned codes of 8 bits at every point: the image, the stem, addends, and everything else
    /// that no non-linearity follows.
    Eight,
    /// The quantiser of its (first) operand: maxima, subsampling, flattening.
    Operand,
    /// Signed 32-bit integers with one scale: pooled features and logits that leave the network
    /// and that no other stage reads.
    Wide,
}

/// One quantised operation: the nodes that all interpreters execute as a unit.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// The name of the last node of the stage; names the tensor too.
    pub name: String,
    /// What is computed.
    pub kind: StageKind,
    /// The non-linearity at the end.
    pub activation: Option<Activation>,
    /// Operands.
    pub inputs: Vec<StageId>,
    /// The last node: its shape is the stage's shape.
    pub node: NodeId,
    /// Representation of the output.
    pub precision: Precision,
    /// Whether the weights keep 8 bits at every point (the stem and classifiers) instead of the
    /// point's.
    pub eight_bit_weights: bool,
}

impl Stage {
    /// Whether calibration measures a range for this stage's output.
    pub fn has_range(&self) -> bool {
        match self.precision {
            Precision::Point | Precision::Eight => self.kind != StageKind::Input,
            Precision::Wide => matches!(self.kind, StageKind::Linear { .. }),
            Precision::Operand => false,
        }
    }

    /// Activation bits of the output codes, for stages with a quantiser of their own.
    pub fn bits(&self, act_bits: u8) -> u8 {
        match self.precision {
            Precision::Point => act_bits,
            _ => 8,
        }
    }

    /// `observed`, narrowed to what the activation can give and widened to include zero.
    pub fn quantiser_range(&self, observed: Range) -> Range {
        let ends = self.activation.and_then(Activation::clamp_ends);
        let [lo, hi] = ends.unwrap_or([f64::NEG_INFINITY, f64::INFINITY]);
        Range {
            min: observed.min.max(lo as f32).min(0.0),
            max: observed.max.min(hi as f32).max(0.0),
        }
    }
}

impl Graph {
    /// The nodes grouped into quantised operations, in execution order.
    ///
    /// A batch-norm joins the convolution or linear layer that only it reads, and a ReLU or ReLU6
    /// joins the convolution, linear layer or sum that only it reads. Weights and activations take
    /// the point's bits except where SSQL fixes 8 (spec section 4.1): the stem, the classifier, and
    /// tensors that no non-linearity follows. The latter are unquantised in the paper; an integer
    /// engine has no such thing, and 8 bits is the closest it has.
    ///
    /// # Errors
    /// [`GraphError::Wiring`] for a batch-norm without a producer of its own.
    pub fn stages(&self) -> Result<Vec<Stage>, GraphError> {
        let mut stages: Vec<Stage> = Vec::new();
        let mut stage_of: Vec<StageId> = Vec::with_capacity(self.nodes().len());
        let readers = self.readers();
        for (index, node) in self.nodes().iter().enumerate() {
            let id = NodeId::new(index);
            let inputs: Vec<StageId> = node.inputs.iter().map(|i| stage_of[i.index()]).collect();
            let alone = || {
                let producer = node.inputs[0];
                readers[producer.index()] == 1 && !self.is_output(producer)
            };
            match node.op {
                Op::BatchNorm { .. } => {
                    let stage = &mut stages[inputs[0]];
                    let joined = match &mut stage.kind {
                        StageKind::Conv { norm, .. } | StageKind::Linear { norm, .. }
                            if norm.is_none() && stage.activation.is_none() && alone() =>
                        {
                            *norm = Some(id);
                            true
                        }
                        _ => false,
                    };
                    if !joined {
                        return Err(GraphError::Wiring {
                            node: node.name.clone(),
                            what: "batch-norm must directly follow a convolution or linear layer that nothing else reads".into(),
                        });
                    }
                    stage.node = id;
                    stage.name.clone_from(&node.name);
                    stage_of.push(inputs[0]);
                }
                Op::Activation(activation)
                    if activation.is_clamp()
                        && stages[inputs[0]].activation.is_none()
                        && matches!(
                            stages[inputs[0]].kind,
                            StageKind::Conv { .. } | StageKind::Linear { .. } | StageKind::Add
                        )
                        && alone() =>
                {
                    let stage = &mut stages[inputs[0]];
                    stage.activation = Some(activation);
                    stage.node = id;
                    stage.name.clone_from(&node.name);
                    stage_of.push(inputs[0]);
                }
                _ => {
                    stage_of.push(stages.len());
                    stages.push(new_stage(id, node, inputs));
                }
            }
        }
        self.assign_precision(&mut stages, &readers);
        Ok(stages)
    }

    /// How many nodes read each node: one walk, where asking for every node's
    /// [consumers](Graph::consumers) would take as many as there are nodes.
    fn readers(&self) -> Vec<usize> {
        let mut readers = vec![0; self.nodes().len()];
        for node in self.nodes() {
            let mut inputs = node.inputs.clone();
            inputs.sort_unstable();
            inputs.dedup();
            for input in inputs {
                readers[input.index()] += 1;
            }
        }
        readers
    }

    fn assign_precision(&self, stages: &mut [Stage], readers: &[usize]) {
        for index in 0..stages.len() {
            let stage = &stages[index];
            // Codes leave the network wide only where nothing inside reads them: the engine's
            // operands are bytes.
            let output = self.is_output(stage.node) && readers[stage.node.index()] == 0;
            let stem = stage
                .inputs
                .iter()
                .any(|&i| stages[i].kind == StageKind::Input);
            let precision = match stage.kind {
                StageKind::MaxPool(_) | StageKind::PadShortcut(_) | StageKind::Flatten => {
                    Precision::Operand
                }
                StageKind::GlobalAvgPool | StageKind::Linear { .. }
                    if output && stage.activation.is_none() =>
                {
                    Precision::Wide
                }
                StageKind::AvgPool(_) | StageKind::Concat => Precision::Point,
                StageKind::Input => Precision::Eight,
                _ if stem || stage.activation.is_none() => Precision::Eight,
                _ => Precision::Point,
            };
            let classifier =
                matches!(stage.kind, StageKind::Linear { .. }) && precision == Precision::Wide;
            stages[index].precision = precision;
            stages[index].eight_bit_weights = stem || classifier;
        }
    }
}

fn new_stage(id: NodeId, node: &crate::Node, inputs: Vec<StageId>) -> Stage {
    let (kind, activation) = match &node.op {
        Op::Input { .. } => (StageKind::Input, None),
        Op::Conv2d(_) => (
            StageKind::Conv {
                conv: id,
                norm: None,
            },
            None,
        ),
        Op::Linear(_) => (
            StageKind::Linear {
                linear: id,
                norm: None,
            },
            None,
        ),
        Op::Add => (StageKind::Add, None),
        Op::Concat => (StageKind::Concat, None),
        Op::MaxPool(_) => (StageKind::MaxPool(id), None),
        Op::AvgPool(_) => (StageKind::AvgPool(id), None),
        Op::GlobalAvgPool => (StageKind::GlobalAvgPool, None),
        Op::Flatten => (StageKind::Flatten, None),
        Op::PadShortcut { .. } => (StageKind::PadShortcut(id), None),
        Op::Activation(activation) => (StageKind::Pointwise, Some(*activation)),
        Op::BatchNorm { .. } => unreachable!("batch-norm joins its producer"),
    };
    Stage {
        name: node.name.clone(),
        kind,
        activation,
        inputs,
        node: id,
        precision: Precision::Eight,
        eight_bit_weights: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Channels, GraphBuilder};

    #[test]
    fn a_residual_block_is_four_operations_and_a_pool() {
        let mut b = GraphBuilder::new("block");
        let x = b.input(3, 8, 8);
        let x = b.conv_bn_relu("stem", x, Channels::slim(16), 3, 1);
        let y = b.conv_bn_relu("a", x, Channels::slim(16), 3, 1);
        let y = b.conv_bn("b", y, Channels::slim(16), 3, 1);
        let z = b.add("sum", x, y);
        let z = b.activation("sum", z, Activation::Relu);
        let z = b.global_avg_pool("pool", z);
        let graph = b.finish(&[("features", z)]).unwrap();
        let stages = graph.stages().unwrap();
        let seen: Vec<_> = stages
            .iter()
            .map(|s| (s.name.as_str(), s.precision, s.eight_bit_weights))
            .collect();
        assert_eq!(
            seen,
            [
                ("input", Precision::Eight, false),
                ("stem.act", Precision::Eight, true),
                ("a.act", Precision::Point, false),
                ("b.bn", Precision::Eight, false),
                ("sum.act", Precision::Point, false),
                ("pool", Precision::Wide, false),
            ]
        );
        assert_eq!(stages[4].inputs, [1, 3]);
    }

    #[test]
    fn a_tensor_that_others_read_is_not_fused_away() {
        let mut b = GraphBuilder::new("tap");
        let x = b.input(3, 8, 8);
        let x = b.conv_bn("stem", x, Channels::slim(16), 3, 1);
        let y = b.activation("relu", x, Activation::Relu);
        let z = b.add("sum", x, y);
        let graph = b.finish(&[("map", z)]).unwrap();
        let kinds: Vec<_> = graph.stages().unwrap().iter().map(|s| s.kind).collect();
        assert_eq!(kinds.len(), 4);
        assert_eq!(kinds[2], StageKind::Pointwise);
    }
}
