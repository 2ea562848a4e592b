use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::op::{Conv2d, Groups, Op, Pool};
use crate::{GraphError, ParamSpec, Shape, Width};

/// Index of a node in [`Graph::nodes`]. Operands always precede their users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(usize);

impl NodeId {
    pub(crate) fn new(index: usize) -> Self {
        Self(index)
    }

    /// Position in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// One operator, its name and its operands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Unique name; parameters are called `{name}.weight` and `{name}.bias`.
    pub name: String,
    /// The operator.
    pub op: Op,
    /// Operands, in order.
    pub inputs: Vec<NodeId>,
}

/// A network: nodes in execution order, and the tensors it gives back.
///
/// A graph that exists is well formed: names are unique, operands precede their users, and shapes
/// fit at full width. Build one with [`GraphBuilder`](crate::GraphBuilder) or read one with
/// [`Graph::from_json`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Graph {
    name: String,
    nodes: Vec<Node>,
    outputs: Vec<(String, NodeId)>,
}

impl Graph {
    /// Checks and makes a graph.
    ///
    /// # Errors
    /// Any [`GraphError`] that says which node is at fault.
    pub fn new(
        name: impl Into<String>,
        nodes: Vec<Node>,
        outputs: Vec<(String, NodeId)>,
    ) -> Result<Self, GraphError> {
        let graph = Self {
            name: name.into(),
            nodes,
            outputs,
        };
        graph.check_names_and_wiring()?;
        graph.shapes(Width::FULL)?;
        graph.stages()?;
        Ok(graph)
    }

    /// The network's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Nodes in execution order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node with this id.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// Named outputs, in order.
    pub fn outputs(&self) -> &[(String, NodeId)] {
        &self.outputs
    }

    /// Whether the network gives this node's tensor back.
    pub fn is_output(&self, id: NodeId) -> bool {
        self.outputs.iter().any(|(_, output)| *output == id)
    }

    /// Nodes that read `id`, in order.
    pub fn consumers(&self, id: NodeId) -> Vec<NodeId> {
        let reads = |node: &Node| node.inputs.contains(&id);
        (0..self.nodes.len())
            .filter(|&i| reads(&self.nodes[i]))
            .map(NodeId)
            .collect()
    }

    /// Shape of the image, `[channels, rows, columns]`.
    pub fn input_shape(&self) -> Shape {
        match self.nodes[0].op {
            Op::Input {
                channels,
                height,
                width,
            } => Shape::Map {
                channels,
                height,
                width,
            },
            _ => unreachable!("checked: a graph begins with its input"),
        }
    }

    /// Shape of a named output at `width`.
    ///
    /// # Errors
    /// [`GraphError::Name`] where there is no such output.
    pub fn output_shape(&self, name: &str, width: Width) -> Result<Shape, GraphError> {
        let found = self.outputs.iter().find(|(output, _)| output == name);
        let Some((_, id)) = found else {
            return Err(GraphError::Name {
                name: name.to_owned(),
                what: "is not an output",
            });
        };
        Ok(self.shapes(width)?[id.0])
    }

    /// Shape of every node's tensor at `width`.
    ///
    /// # Errors
    /// [`GraphError::ShapeMismatch`] or [`GraphError::Operand`], naming the node and the shapes.
    pub fn shapes(&self, width: Width) -> Result<Vec<Shape>, GraphError> {
        let mut shapes: Vec<Shape> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let operands: Vec<Shape> = node.inputs.iter().map(|id| shapes[id.0]).collect();
            shapes.push(infer(node, &operands, width)?);
        }
        Ok(shapes)
    }

    /// Every trainable parameter at `width`, in execution order. At [`Width::FULL`] these are the
    /// stored tensors; at a narrower width, their leading blocks.
    pub fn params(&self, width: Width) -> Result<Vec<ParamSpec>, GraphError> {
        let shapes = self.shapes(width)?;
        let mut specs = Vec::new();
        let mut push = |node: &Node, part: &str, shape: Vec<usize>| {
            specs.push(ParamSpec {
                name: format!("{}.{part}", node.name),
                shape,
            });
        };
        for (node, output) in self.nodes.iter().zip(&shapes) {
            match &node.op {
                Op::Conv2d(conv) => {
                    let input = shapes[node.inputs[0].0].channels();
                    let per_group = input / conv.group_count(input);
                    let [kh, kw] = conv.kernel;
                    push(node, "weight", vec![output.channels(), per_group, kh, kw]);
                    if conv.bias {
                        push(node, "bias", vec![output.channels()]);
                    }
                }
                Op::Linear(linear) => {
                    let input = shapes[node.inputs[0].0].elements();
                    push(node, "weight", vec![output.channels(), input]);
                    if linear.bias {
                        push(node, "bias", vec![output.channels()]);
                    }
                }
                Op::BatchNorm { .. } => {
                    push(node, "weight", vec![output.channels()]);
                    push(node, "bias", vec![output.channels()]);
                }
                _ => {}
            }
        }
        Ok(specs)
    }

    /// The graph as JSON, the form in which files carry it.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a graph holds nothing that JSON cannot")
    }

    /// Reads and checks a graph.
    ///
    /// # Errors
    /// [`GraphError::Json`] for text that is not a graph; otherwise as [`Graph::new`].
    pub fn from_json(text: &str) -> Result<Self, GraphError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Raw {
            name: String,
            nodes: Vec<Node>,
            outputs: Vec<(String, NodeId)>,
        }
        let raw: Raw = serde_json::from_str(text).map_err(|e| GraphError::Json(e.to_string()))?;
        Self::new(raw.name, raw.nodes, raw.outputs)
    }

    fn check_names_and_wiring(&self) -> Result<(), GraphError> {
        let wiring = |node: &str, what: String| {
            Err(GraphError::Wiring {
                node: node.to_owned(),
                what,
            })
        };
        let mut names = BTreeSet::new();
        for (index, node) in self.nodes.iter().enumerate() {
            if node.name.is_empty() || !names.insert(node.name.as_str()) {
                return Err(GraphError::Name {
                    name: node.name.clone(),
                    what: "is empty or used by two nodes",
                });
            }
            if let Some(id) = node.inputs.iter().find(|id| id.0 >= index) {
                return wiring(&node.name, format!("operand {} does not precede it", id.0));
            }
            let arity = match node.op {
                Op::Input { .. } => 0..=0,
                Op::Add => 2..=2,
                Op::Concat => 2..=usize::MAX,
                _ => 1..=1,
            };
            if !arity.contains(&node.inputs.len()) {
                let least = arity.start();
                let wanted = match arity.end() - least {
                    0 => least.to_string(),
                    _ => format!("{least} or more"),
                };
                let (op, got) = (node.op.name(), node.inputs.len());
                let what = format!("operator `{op}` takes {wanted} operands, not {got}");
                return wiring(&node.name, what);
            }
            if let Some(channels) = node.op.channels()
                && !channels.is_sane(LIMIT)
            {
                let what = format!(
                    "its channels are not a ratio of at least 1 to at most {LIMIT} channels"
                );
                return wiring(&node.name, what);
            }
            if matches!(node.op, Op::Input { .. }) != (index == 0) {
                return wiring(
                    &node.name,
                    "the input is the first node, and the only one".into(),
                );
            }
        }
        if self.nodes.is_empty() {
            return wiring(&self.name, "a graph needs at least its input".into());
        }
        let mut outputs = BTreeSet::new();
        for (name, id) in &self.outputs {
            if id.0 >= self.nodes.len() || name.is_empty() || !outputs.insert(name.as_str()) {
                return Err(GraphError::Name {
                    name: name.clone(),
                    what: "is not a usable output: no such node, or no unique name",
                });
            }
        }
        if self.outputs.is_empty() {
            return wiring(&self.name, "a graph needs at least one output".into());
        }
        Ok(())
    }
}

/// Largest size of one dimension or kernel: beyond it a graph is taken for damaged.
const LIMIT: usize = 1 << 20;

fn infer(node: &Node, operands: &[Shape], width: Width) -> Result<Shape, GraphError> {
    let operand = |shape: Shape, wanted: &str| GraphError::Operand {
        node: node.name.clone(),
        op: node.op.name(),
        shape,
        wanted: wanted.to_owned(),
    };
    let map = |shape: Shape| match shape {
        Shape::Map {
            channels,
            height,
            width,
        } => Ok((channels, height, width)),
        Shape::Vector { .. } => Err(operand(shape, "a map [channels, rows, columns]")),
    };
    let shape = match &node.op {
        &Op::Input {
            channels,
            height,
            width,
        } => Shape::Map {
            channels,
            height,
            width,
        },
        Op::Conv2d(conv) => {
            let (channels, height, columns) = map(operands[0])?;
            let out = match conv.groups {
                Groups::Depthwise => channels,
                Groups::Fixed(_) => conv.out.at(width),
            };
            let groups = conv.group_count(channels);
            if groups == 0 || channels % groups != 0 || out % groups != 0 {
                let wanted =
                    format!("input and output channels ({out}) divisible by {groups} groups");
                return Err(operand(operands[0], &wanted));
            }
            let spatial = conv_extent(conv, height, columns)
                .ok_or_else(|| operand(operands[0], "a map no smaller than the dilated kernel"))?;
            Shape::Map {
                channels: out,
                height: spatial.0,
                width: spatial.1,
            }
        }
        Op::BatchNorm { .. } | Op::Activation(_) => operands[0],
        Op::Add => {
            if operands[0] != operands[1] {
                return Err(GraphError::ShapeMismatch {
                    node: node.name.clone(),
                    op: node.op.name(),
                    left: operands[0],
                    right: operands[1],
                });
            }
            operands[0]
        }
        Op::Concat => {
            let (mut channels, height, columns) = map(operands[0])?;
            for &other in &operands[1..] {
                let (more, h, w) = map(other)?;
                if (h, w) != (height, columns) {
                    return Err(GraphError::ShapeMismatch {
                        node: node.name.clone(),
                        op: node.op.name(),
                        left: operands[0],
                        right: other,
                    });
                }
                channels += more;
            }
            Shape::Map {
                channels,
                height,
                width: columns,
            }
        }
        Op::MaxPool(pool) | Op::AvgPool(pool) => {
            let (channels, height, columns) = map(operands[0])?;
            if matches!(node.op, Op::AvgPool(_)) && pool.padding != [0; 4] {
                return Err(operand(operands[0], "average pooling without padding"));
            }
            let (height, columns) = pool_extent(pool, height, columns).ok_or_else(|| {
                operand(
                    operands[0],
                    "a map no smaller than the window, padding smaller than it",
                )
            })?;
            Shape::Map {
                channels,
                height,
                width: columns,
            }
        }
        Op::GlobalAvgPool => Shape::Vector {
            channels: map(operands[0])?.0,
        },
        Op::Flatten => Shape::Vector {
            channels: operands[0].elements(),
        },
        Op::Linear(linear) => Shape::Vector {
            channels: linear.out.at(width),
        },
        Op::PadShortcut { out, stride } => {
            let (channels, height, columns) = map(operands[0])?;
            let out = out.at(width);
            if *stride == 0 || out < channels {
                return Err(operand(
                    operands[0],
                    "no more channels than the output, and a stride above 0",
                ));
            }
            Shape::Map {
                channels: out,
                height: height.div_ceil(*stride),
                width: columns.div_ceil(*stride),
            }
        }
    };
    let (h, w) = shape.spatial();
    if [shape.channels(), h, w]
        .iter()
        .any(|&d| d == 0 || d > LIMIT)
    {
        return Err(operand(
            shape,
            "an output whose dimensions are between 1 and 2^20",
        ));
    }
    Ok(shape)
}

fn conv_extent(conv: &Conv2d, height: usize, width: usize) -> Option<(usize, usize)> {
    let [top, left, bottom, right] = conv.padding;
    let [kh, kw] = conv.kernel;
    let [dh, dw] = conv.dilation;
    let h = window_extent(height, [top, bottom], kh, dh, conv.stride[0])?;
    let w = window_extent(width, [left, right], kw, dw, conv.stride[1])?;
    Some((h, w))
}

fn pool_extent(pool: &Pool, height: usize, width: usize) -> Option<(usize, usize)> {
    let [top, left, bottom, right] = pool.padding;
    let [kh, kw] = pool.kernel;
    if top.max(bottom) >= kh || left.max(right) >= kw {
        return None;
    }
    let h = window_extent(height, [top, bottom], kh, 1, pool.stride[0])?;
    let w = window_extent(width, [left, right], kw, 1, pool.stride[1])?;
    Some((h, w))
}

fn window_extent(
    size: usize,
    padding: [usize; 2],
    kernel: usize,
    dilation: usize,
    stride: usize,
) -> Option<usize> {
    let sane = [size, padding[0], padding[1], kernel, dilation, stride]
        .iter()
        .all(|&v| v <= LIMIT);
    if !sane || kernel == 0 || dilation == 0 || stride == 0 {
        return None;
    }
    let reach = dilation * (kernel - 1) + 1;
    let padded = size + padding[0] + padding[1];
    padded.checked_sub(reach).map(|room| room / stride + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Channels, GraphBuilder};

    fn residual() -> Result<Graph, GraphError> {
        let mut b = GraphBuilder::new("residual");
        let x = b.input(3, 9, 9);
        let x = b.conv_bn_relu("stem", x, Channels::slim(32), 3, 1);
        let y = b.conv_bn("inner", x, Channels::slim(32), 3, 1);
        let z = b.add("sum", x, y);
        b.finish(&[("map", z)])
    }

    #[test]
    fn json_round_trip_keeps_the_graph() {
        let graph = residual().unwrap();
        assert_eq!(Graph::from_json(&graph.to_json()).unwrap(), graph);
    }

    #[test]
    fn a_mismatch_names_the_node_and_both_shapes() {
        let mut b = GraphBuilder::new("bad");
        let x = b.input(3, 8, 8);
        let y = b.conv_bn("half", x, Channels::Fixed(3), 3, 2);
        let z = b.add("sum", x, y);
        let text = b.finish(&[("map", z)]).unwrap_err().to_string();
        assert!(
            text.contains("`sum`") && text.contains("[3, 8, 8]") && text.contains("[3, 4, 4]"),
            "{text}"
        );
    }

    #[test]
    fn hostile_graphs_give_errors() {
        let good = residual().unwrap().to_json();
        let bad = [
            good.replace("\"inputs\":[0]", "\"inputs\":[9]"),
            good.replace("\"stride\":[1,1]", "\"stride\":[0,1]"),
            good.replace("\"kernel\":[3,3]", "\"kernel\":[4000000000,3]"),
            good.replace("\"max\":32", "\"max\":0"),
            good.replace("\"ratio\":1", "\"ratio\":0"),
            good.replace("\"ratio\":1", "\"ratio\":18446744073709551615"),
            good.replace("stem.conv", "inner.conv"),
            good.replace(
                "\"outputs\":[[\"map\",",
                "\"outputs\":[[\"map\",99],[\"x\",",
            ),
            good.replace("\"name\"", "\"nmae\""),
        ];
        for text in bad {
            assert!(text != good, "the replacement found nothing");
            assert!(Graph::from_json(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn narrower_parameters_are_leading_blocks() {
        let graph = residual().unwrap();
        let full = graph.params(Width::FULL).unwrap();
        let half = graph.params(Width::new(0.5).unwrap()).unwrap();
        for (f, h) in full.iter().zip(&half) {
            assert_eq!(f.name, h.name);
            assert!(f.shape.iter().zip(&h.shape).all(|(f, h)| h <= f));
        }
        assert_eq!(half[0].shape, [16, 3, 3, 3]);
    }
}
