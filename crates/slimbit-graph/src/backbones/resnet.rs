use crate::{Activation, Channels, Conv2d, Graph, GraphBuilder, GraphError, NodeId};

/// Number of layers, which fixes the kind of block and how many there are per stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResNetDepth {
    /// Basic blocks, 2 2 2 2.
    D18,
    /// Basic blocks, 3 4 6 3.
    D34,
    /// Bottleneck blocks (expansion 4), 3 4 6 3.
    D50,
}

impl ResNetDepth {
    fn layers(self) -> usize {
        match self {
            Self::D18 => 18,
            Self::D34 => 34,
            Self::D50 => 50,
        }
    }

    fn blocks(self) -> [usize; 4] {
        match self {
            Self::D18 => [2, 2, 2, 2],
            Self::D34 | Self::D50 => [3, 4, 6, 3],
        }
    }
}

/// How a network begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stem {
    /// 3×3 convolution of stride 1.
    Cifar,
    /// 7×7 convolution of stride 2, then 3×3 max-pooling of stride 2.
    ImageNet,
}

/// Residual networks of four stages (He et al., 2016) in the layouts of spec section 1.4.
///
/// The stride of a bottleneck is on its 3×3 convolution; shortcuts are 1×1 convolutions with
/// batch-norm wherever the shape changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResNet {
    /// Depth.
    pub depth: ResNetDepth,
    /// Stem.
    pub stem: Stem,
    /// Channels of the stem and of the first stage's 3×3 convolutions; they double per stage.
    pub base: usize,
    /// Image: channels, rows, columns.
    pub input: [usize; 3],
    /// Classes of the `logits` output, if there is one.
    pub classes: Option<usize>,
}

impl ResNet {
    /// The CIFAR form: 64 channels, 3×3 stem, no max-pooling, no classifier.
    pub fn cifar(depth: ResNetDepth, input: [usize; 3]) -> Self {
        Self {
            depth,
            stem: Stem::Cifar,
            base: 64,
            input,
            classes: None,
        }
    }

    /// The ImageNet form (torchvision's layout): 64 channels, no classifier.
    pub fn imagenet(depth: ResNetDepth, input: [usize; 3]) -> Self {
        Self {
            stem: Stem::ImageNet,
            ..Self::cifar(depth, input)
        }
    }

    /// Builds the network.
    ///
    /// # Errors
    /// As [`Graph::new`]: an image too small for the strides, or a dimension of zero.
    pub fn graph(&self) -> Result<Graph, GraphError> {
        let layers = self.depth.layers();
        let mut b = GraphBuilder::new(match self.stem {
            Stem::Cifar => format!("resnet{layers}-cifar"),
            Stem::ImageNet => format!("resnet{layers}"),
        });
        let [channels, height, width] = self.input;
        let x = b.input(channels, height, width);
        let mut x = match self.stem {
            Stem::Cifar => b.conv_bn_relu("stem", x, Channels::slim(self.base), 3, 1),
            Stem::ImageNet => {
                let x = b.conv_bn_relu("stem", x, Channels::slim(self.base), 7, 2);
                b.max_pool("stem.pool", x, 3, 2, 1)
            }
        };
        let mut from = self.base;
        for (stage, blocks) in self.depth.blocks().into_iter().enumerate() {
            let inner = self.base << stage;
            for block in 0..blocks {
                let name = format!("layer{}.{block}", stage + 1);
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                x = match self.depth {
                    ResNetDepth::D50 => bottleneck(&mut b, &name, x, [from, inner], stride),
                    _ => basic_block(&mut b, &name, x, [from, inner], stride),
                };
                from = match self.depth {
                    ResNetDepth::D50 => 4 * inner,
                    _ => inner,
                };
            }
        }
        super::finish(b, x, self.classes)
    }
}

/// Two 3×3 convolutions around a projection shortcut (or none where shapes agree).
fn basic_block(
    b: &mut GraphBuilder,
    name: &str,
    x: NodeId,
    [from, to]: [usize; 2],
    stride: usize,
) -> NodeId {
    let shortcut = projection(b, name, x, [from, to], stride);
    two_convolutions(b, name, x, Some(shortcut), to, stride)
}

/// The main branch of a basic block, joined with its shortcut.
pub(super) fn two_convolutions(
    b: &mut GraphBuilder,
    name: &str,
    x: NodeId,
    shortcut: Option<NodeId>,
    to: usize,
    stride: usize,
) -> NodeId {
    let y = b.conv_bn_relu(&format!("{name}.a"), x, Channels::slim(to), 3, stride);
    let y = b.conv_bn(&format!("{name}.b"), y, Channels::slim(to), 3, 1);
    join(b, name, y, shortcut)
}

/// 1×1, 3×3 and 1×1 convolutions; `inner` channels in between and four times as many at the end.
fn bottleneck(
    b: &mut GraphBuilder,
    name: &str,
    x: NodeId,
    [from, inner]: [usize; 2],
    stride: usize,
) -> NodeId {
    let shortcut = projection(b, name, x, [from, 4 * inner], stride);
    let y = b.conv_bn_relu(&format!("{name}.a"), x, Channels::slim(inner), 1, 1);
    let y = b.conv_bn_relu(&format!("{name}.b"), y, Channels::slim(inner), 3, stride);
    let y = b.conv_bn(&format!("{name}.c"), y, Channels::slim(4 * inner), 1, 1);
    join(b, name, y, Some(shortcut))
}

/// A 1×1 convolution with batch-norm where the block changes the shape; `x` itself elsewhere.
pub(super) fn projection(
    b: &mut GraphBuilder,
    name: &str,
    x: NodeId,
    [from, to]: [usize; 2],
    stride: usize,
) -> NodeId {
    if from == to && stride == 1 {
        return x;
    }
    let name = format!("{name}.shortcut");
    let conv = Conv2d::same(Channels::slim(to), 1, stride);
    let y = b.conv(format!("{name}.conv"), x, conv);
    b.batch_norm(&name, y)
}

fn join(b: &mut GraphBuilder, name: &str, y: NodeId, shortcut: Option<NodeId>) -> NodeId {
    let Some(shortcut) = shortcut else {
        return b.activation(&format!("{name}.b"), y, Activation::Relu);
    };
    let name = format!("{name}.sum");
    let sum = b.add(name.as_str(), y, shortcut);
    b.activation(&name, sum, Activation::Relu)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Precision, StageKind};

    /// U10: SSQL quantises 20 convolutions and 17 activations of ResNet-18 (spec section 4.1).
    #[test]
    fn the_quantised_tensors_of_resnet18_are_those_of_ssql() {
        let graph = ResNet::cifar(ResNetDepth::D18, [3, 32, 32])
            .graph()
            .unwrap();
        let stages = graph.stages().unwrap();
        let convs = stages
            .iter()
            .filter(|s| matches!(s.kind, StageKind::Conv { .. }));
        assert_eq!(convs.count(), 20);
        assert_eq!(stages.iter().filter(|s| s.activation.is_some()).count(), 17);
        let fixed: Vec<_> = stages
            .iter()
            .filter(|s| s.eight_bit_weights)
            .map(|s| &s.name)
            .collect();
        assert_eq!(fixed, ["stem.act"]);
        let points = stages.iter().filter(|s| s.precision == Precision::Point);
        assert_eq!(points.count(), 16);
    }
}
