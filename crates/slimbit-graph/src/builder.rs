use crate::op::{Activation, Conv2d, Groups, Linear, Op, Pool};
use crate::{Channels, Graph, GraphError, Node, NodeId};

/// Batch-norm epsilon unless a backbone asks for another (spec section 1.4).
const EPS: f32 = 1e-5;

/// Writes a graph as a paper's table reads: one call per row, each giving the row's tensor.
///
/// Mistakes (a name used twice, shapes that do not fit) are reported by [`GraphBuilder::finish`].
#[derive(Debug)]
pub struct GraphBuilder {
    name: String,
    nodes: Vec<Node>,
    eps: f32,
}

impl GraphBuilder {
    /// An empty network.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            nodes: Vec::new(),
            eps: EPS,
        }
    }

    /// The same with another epsilon for the batch-norms to come; 1e-5 where this is not called.
    #[must_use]
    pub fn with_batch_norm_eps(mut self, eps: f32) -> Self {
        self.eps = eps;
        self
    }

    /// Appends any operator.
    pub fn push(&mut self, name: impl Into<String>, op: Op, inputs: &[NodeId]) -> NodeId {
        self.nodes.push(Node {
            name: name.into(),
            op,
            inputs: inputs.to_vec(),
        });
        NodeId::new(self.nodes.len() - 1)
    }

    /// The image, named `input`.
    pub fn input(&mut self, channels: usize, height: usize, width: usize) -> NodeId {
        self.push(
            "input",
            Op::Input {
                channels,
                height,
                width,
            },
            &[],
        )
    }

    /// A convolution.
    pub fn conv(&mut self, name: impl Into<String>, x: NodeId, conv: Conv2d) -> NodeId {
        self.push(name, Op::Conv2d(conv), &[x])
    }

    /// Batch normalisation named `{name}.bn` after `x`.
    pub fn batch_norm(&mut self, name: &str, x: NodeId) -> NodeId {
        let eps = self.eps;
        self.push(format!("{name}.bn"), Op::BatchNorm { eps }, &[x])
    }

    /// A non-linearity named `{name}.act`.
    pub fn activation(&mut self, name: &str, x: NodeId, activation: Activation) -> NodeId {
        self.push(format!("{name}.act"), Op::Activation(activation), &[x])
    }

    /// Square convolution `{name}.conv` that keeps the size at stride 1, then `{name}.bn`.
    pub fn conv_bn(
        &mut self,
        name: &str,
        x: NodeId,
        out: Channels,
        kernel: usize,
        stride: usize,
    ) -> NodeId {
        let y = self.conv(format!("{name}.conv"), x, Conv2d::same(out, kernel, stride));
        self.batch_norm(name, y)
    }

    /// [`GraphBuilder::conv_bn`], then ReLU.
    pub fn conv_bn_relu(
        &mut self,
        name: &str,
        x: NodeId,
        out: Channels,
        kernel: usize,
        stride: usize,
    ) -> NodeId {
        let y = self.conv_bn(name, x, out, kernel, stride);
        self.activation(name, y, Activation::Relu)
    }

    /// Depthwise square convolution `{name}.conv`, then `{name}.bn`.
    pub fn depthwise_bn(&mut self, name: &str, x: NodeId, kernel: usize, stride: usize) -> NodeId {
        let conv = Conv2d {
            groups: Groups::Depthwise,
            ..Conv2d::same(Channels::Fixed(1), kernel, stride)
        };
        let y = self.conv(format!("{name}.conv"), x, conv);
        self.batch_norm(name, y)
    }

    /// Sum of two tensors.
    pub fn add(&mut self, name: impl Into<String>, x: NodeId, y: NodeId) -> NodeId {
        self.push(name, Op::Add, &[x, y])
    }

    /// Concatenation along the channels.
    pub fn concat(&mut self, name: impl Into<String>, inputs: &[NodeId]) -> NodeId {
        self.push(name, Op::Concat, inputs)
    }

    /// Square max-pooling.
    pub fn max_pool(
        &mut self,
        name: impl Into<String>,
        x: NodeId,
        kernel: usize,
        stride: usize,
        padding: usize,
    ) -> NodeId {
        let pool = Pool {
            kernel: [kernel; 2],
            stride: [stride; 2],
            padding: [padding; 4],
        };
        self.push(name, Op::MaxPool(pool), &[x])
    }

    /// Mean over the whole map.
    pub fn global_avg_pool(&mut self, name: impl Into<String>, x: NodeId) -> NodeId {
        self.push(name, Op::GlobalAvgPool, &[x])
    }

    /// Fully connected layer with a bias.
    pub fn linear(&mut self, name: impl Into<String>, x: NodeId, out: Channels) -> NodeId {
        self.push(name, Op::Linear(Linear { out, bias: true }), &[x])
    }

    /// Checks everything and gives the graph.
    ///
    /// # Errors
    /// As [`Graph::new`].
    pub fn finish(self, outputs: &[(&str, NodeId)]) -> Result<Graph, GraphError> {
        let outputs = outputs
            .iter()
            .map(|(name, id)| ((*name).to_owned(), *id))
            .collect();
        Graph::new(self.name, self.nodes, outputs)
    }
}
