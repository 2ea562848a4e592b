use crate::{Activation, Channels, Conv2d, Graph, GraphBuilder, GraphError, Groups, NodeId};

/// One row of the paper's table: expansion, output channels, repetitions, stride of the first.
type Row = (usize, usize, usize, usize);

/// MobileNetV2 (Sandler et al., 2018) in the layouts of spec section 1.4.
///
/// The inner width of an inverted residual is exactly `expansion` times its slimmed input
/// ([`Channels::Slim`]'s ratio); the tail keeps its 1280 channels at every width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MobileNetV2 {
    /// Stride of the stem and of the 24-channel stage: 2 for ImageNet, 1 for CIFAR.
    pub early_stride: usize,
    /// Image: channels, rows, columns.
    pub input: [usize; 3],
    /// Classes of the `logits` output, if there is one.
    pub classes: Option<usize>,
}

impl MobileNetV2 {
    /// Strides of 2 from the stem on, no classifier.
    pub fn imagenet(input: [usize; 3]) -> Self {
        Self {
            early_stride: 2,
            input,
            classes: None,
        }
    }

    /// Stride 1 in the stem and the 24-channel stage, no classifier.
    pub fn cifar(input: [usize; 3]) -> Self {
        Self {
            early_stride: 1,
            ..Self::imagenet(input)
        }
    }

    /// Builds the network.
    ///
    /// # Errors
    /// As [`Graph::new`]: an image or a stride of zero.
    pub fn graph(&self) -> Result<Graph, GraphError> {
        let rows: [Row; 7] = [
            (1, 16, 1, 1),
            (6, 24, 2, self.early_stride),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ];
        let mut b = GraphBuilder::new(match self.early_stride {
            1 => "mobilenetv2-cifar",
            _ => "mobilenetv2",
        });
        let [channels, height, width] = self.input;
        let x = b.input(channels, height, width);
        let x = b.conv_bn("stem", x, Channels::slim(32), 3, self.early_stride);
        let mut x = b.activation("stem", x, Activation::Relu6);
        let mut from = 32;
        let mut index = 0;
        for (expansion, to, repetitions, first_stride) in rows {
            for repetition in 0..repetitions {
                let stride = if repetition == 0 { first_stride } else { 1 };
                let name = format!("block{index}");
                let depthwise = Conv2d {
                    groups: Groups::Depthwise,
                    ..Conv2d::same(Channels::Fixed(1), 3, stride)
                };
                x = inverted_residual(&mut b, &name, x, [from, to], expansion, depthwise);
                from = to;
                index += 1;
            }
        }
        let x = b.conv_bn("tail", x, Channels::Fixed(1280), 1, 1);
        let x = b.activation("tail", x, Activation::Relu6);
        super::finish(b, x, self.classes)
    }
}

/// Expand 1×1, `depthwise`, project 1×1 (linear), and a sum where the shape stays.
pub(super) fn inverted_residual(
    b: &mut GraphBuilder,
    name: &str,
    x: NodeId,
    [from, to]: [usize; 2],
    expansion: usize,
    depthwise: Conv2d,
) -> NodeId {
    let mut y = x;
    if expansion != 1 {
        let inner = Channels::Slim {
            max: from * expansion,
            ratio: expansion,
        };
        let expand = format!("{name}.expand");
        y = b.conv_bn(&expand, y, inner, 1, 1);
        y = b.activation(&expand, y, Activation::Relu6);
    }
    let spatial = format!("{name}.depthwise");
    y = b.conv(format!("{spatial}.conv"), y, depthwise);
    y = b.batch_norm(&spatial, y);
    y = b.activation(&spatial, y, Activation::Relu6);
    y = b.conv_bn(&format!("{name}.project"), y, Channels::slim(to), 1, 1);
    if depthwise.stride == [1; 2] && from == to {
        y = b.add(format!("{name}.sum"), x, y);
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Op, Width};

    #[test]
    fn ten_of_the_seventeen_blocks_are_residual() {
        let graph = MobileNetV2::imagenet([3, 224, 224]).graph().unwrap();
        let sums = graph.nodes().iter().filter(|node| node.op == Op::Add);
        assert_eq!(sums.count(), 10);
        let last = graph
            .nodes()
            .iter()
            .rfind(|node| node.name.ends_with("project.bn"));
        assert_eq!(last.unwrap().name, "block16.project.bn");
    }

    #[test]
    fn inner_widths_follow_the_slimmed_input() {
        let graph = MobileNetV2::cifar([3, 32, 32]).graph().unwrap();
        let params = graph.params(Width::new(0.25).unwrap()).unwrap();
        let expand = params
            .iter()
            .find(|p| p.name == "block2.expand.conv.weight")
            .unwrap();
        assert_eq!(expand.shape, [48, 8, 1, 1]);
    }
}
