use slimbit_graph::{Graph, Op, Pool, Stage, StageKind, Width};

use crate::EngineError;

/// How a stage's codes lie in memory: rows, then columns, then channels (HWC).
///
/// A flattened map keeps the layout of its map: flattening moves nothing, and the weights of a
/// linear stage that reads it are stored in the same order. A vector of `n` features is 1 × 1 × n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Channels.
    pub channels: usize,
}

impl Layout {
    /// Number of codes.
    pub fn elements(self) -> usize {
        self.height * self.width * self.channels
    }
}

/// Largest tensor of one image, in codes: beyond it a network is taken for damaged.
const MAX_ELEMENTS: usize = 1 << 31;

/// The layout of every stage's output at `width`, parallel to `stages`, which are `graph.stages()`.
///
/// # Errors
/// [`EngineError::Graph`] where the shapes do not fit at this width; [`EngineError::Unsupported`]
/// for a sum of two vectors whose features lie in different orders, and for a tensor that no
/// machine could hold.
pub fn layouts(graph: &Graph, stages: &[Stage], width: Width) -> Result<Vec<Layout>, EngineError> {
    let shapes = graph.shapes(width)?;
    let mut layouts: Vec<Layout> = Vec::with_capacity(stages.len());
    for stage in stages {
        let shape = shapes[stage.node.index()];
        let (height, columns) = shape.spatial();
        let own = Layout {
            height,
            width: columns,
            channels: shape.channels(),
        };
        let layout = match stage.kind {
            StageKind::Flatten | StageKind::Pointwise => layouts[stage.inputs[0]],
            StageKind::Add => {
                let [a, b] = [layouts[stage.inputs[0]], layouts[stage.inputs[1]]];
                if a != b {
                    let what = "adds a flattened map to a vector, whose features lie in another \
                                order; flatten after the sum instead";
                    return Err(EngineError::unsupported(&stage.name, what));
                }
                a
            }
            _ => own,
        };
        let elements = [layout.height, layout.width, layout.channels]
            .iter()
            .try_fold(1usize, |product, &d| product.checked_mul(d));
        if elements.is_none_or(|n| n > MAX_ELEMENTS) {
            let what = format!("a tensor of shape {shape} exceeds 2^31 codes; use a smaller image");
            return Err(EngineError::unsupported(&stage.name, what));
        }
        layouts.push(layout);
    }
    Ok(layouts)
}

/// A convolution or linear stage as a convolution.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Convolution {
    /// Output channels, kernel rows, kernel columns, input channels per group.
    pub(crate) weights: [usize; 4],
    pub(crate) stride: [usize; 2],
    /// Top, left, bottom, right.
    pub(crate) padding: [usize; 4],
    pub(crate) dilation: [usize; 2],
    pub(crate) groups: usize,
}

impl Convolution {
    /// The convolution that `stage` performs from layout `input` to layout `output`; nothing for a
    /// stage without weights.
    pub(crate) fn of(graph: &Graph, stage: &Stage, input: Layout, output: Layout) -> Option<Self> {
        match stage.kind {
            StageKind::Conv { conv, .. } => match &graph.node(conv).op {
                Op::Conv2d(conv) => {
                    let [rows, columns] = conv.kernel;
                    let groups = conv.group_count(input.channels);
                    let per_group = input.channels / groups;
                    Some(Self {
                        weights: [output.channels, rows, columns, per_group],
                        stride: conv.stride,
                        padding: conv.padding,
                        dilation: conv.dilation,
                        groups,
                    })
                }
                _ => None,
            },
            StageKind::Linear { .. } => Some(Self {
                weights: [output.channels, input.height, input.width, input.channels],
                stride: [1; 2],
                padding: [0; 4],
                dilation: [1; 2],
                groups: 1,
            }),
            _ => None,
        }
    }
}

/// The shape of a stage's weights (output channels, kernel rows, kernel columns, input channels
/// per group) where its operand has layout `input` and its output layout `output`; nothing for a
/// stage without weights.
pub fn weight_shape(
    graph: &Graph,
    stage: &Stage,
    input: Layout,
    output: Layout,
) -> Option<[usize; 4]> {
    Convolution::of(graph, stage, input, output).map(|conv| conv.weights)
}

/// The window of a pooling stage: its own, or the whole map.
pub(crate) fn window(graph: &Graph, stage: &Stage, input: Layout) -> Option<Pool> {
    let whole = Pool {
        kernel: [input.height, input.width],
        stride: [1; 2],
        padding: [0; 4],
    };
    match stage.kind {
        StageKind::MaxPool(node) | StageKind::AvgPool(node) => match graph.node(node).op {
            Op::MaxPool(pool) | Op::AvgPool(pool) => Some(pool),
            _ => None,
        },
        StageKind::GlobalAvgPool => Some(whole),
        _ => None,
    }
}

/// The step of a parameter-free shortcut; 1 for any other stage.
pub(crate) fn shortcut_stride(graph: &Graph, stage: &Stage) -> usize {
    match graph.node(stage.node).op {
        Op::PadShortcut { stride, .. } => stride,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slimbit_graph::{Channels, GraphBuilder};

    #[test]
    fn a_linear_stage_after_flatten_is_a_convolution_over_the_whole_map() {
        let mut b = GraphBuilder::new("flat");
        let x = b.input(3, 4, 5);
        let x = b.conv_bn_relu("stem", x, Channels::slim(16), 3, 1);
        let x = b.push("flat", Op::Flatten, &[x]);
        let x = b.linear("fc", x, Channels::Fixed(7));
        let graph = b.finish(&[("logits", x)]).unwrap();
        let stages = graph.stages().unwrap();
        let half = Width::new(0.5).unwrap();
        let at = layouts(&graph, &stages, half).unwrap();
        assert_eq!(at[2], at[1]);
        assert_eq!(
            weight_shape(&graph, &stages[3], at[2], at[3]),
            Some([7, 4, 5, 8])
        );
        assert_eq!(weight_shape(&graph, &stages[2], at[1], at[2]), None);
    }

    #[test]
    fn vectors_in_different_orders_cannot_be_added() {
        let mut b = GraphBuilder::new("orders");
        let x = b.input(2, 2, 2);
        let flat = b.push("flat", Op::Flatten, &[x]);
        let fc = b.linear("fc", flat, Channels::Fixed(8));
        let sum = b.add("sum", flat, fc);
        let graph = b.finish(&[("sum", sum)]).unwrap();
        let error = layouts(&graph, &graph.stages().unwrap(), Width::FULL).unwrap_err();
        assert!(error.to_string().contains("`sum`"), "{error}");
    }
}
