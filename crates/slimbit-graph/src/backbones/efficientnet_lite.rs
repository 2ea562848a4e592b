use super::mobilenet::inverted_residual;
use crate::{Activation, Channels, Conv2d, Graph, GraphBuilder, GraphError, Groups};

/// One row of the paper's table: kernel, expansion, output channels, repetitions, stride of the
/// first.
type Row = (usize, usize, usize, usize, usize);

/// How convolutions pad their input, which weights learn to rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// TensorFlow's `SAME`: as little as gives `⌈size / stride⌉`, and where that is odd, the larger
    /// part at the bottom and on the right.
    Same,
    /// `kernel / 2` on every side.
    Symmetric,
}

impl Padding {
    /// Zeros before and after a dimension of `size`.
    fn around(self, size: usize, kernel: usize, stride: usize) -> [usize; 2] {
        match self {
            Self::Symmetric => [kernel / 2; 2],
            Self::Same => {
                let reach = (size.div_ceil(stride).max(1) - 1) * stride + kernel;
                let total = reach.saturating_sub(size);
                [total / 2, total - total / 2]
            }
        }
    }
}

/// EfficientNet-Lite0 (Tan and Le, 2019, without squeeze-and-excitation and with ReLU6, as the
/// reference implementation's `lite` folder has it): inverted residuals with 3×3 and 5×5 depthwise
/// convolutions.
///
/// The stem's 32 and the head's 1280 channels are the same at every width.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EfficientNetLite0 {
    /// Padding of the stem and the depthwise convolutions.
    pub padding: Padding,
    /// Added to every batch-norm's variance.
    pub eps: f32,
    /// Stride of the stem and of the 24-channel stage: 2 for ImageNet, 1 for CIFAR.
    pub early_stride: usize,
    /// Image: channels, rows, columns.
    pub input: [usize; 3],
    /// Classes of the `logits` output, if there is one.
    pub classes: Option<usize>,
}

impl EfficientNetLite0 {
    /// The published form, for weights that TensorFlow trained: padding `SAME`, epsilon 1e-3,
    /// strides of 2 from the stem on, no classifier.
    pub fn imagenet(input: [usize; 3]) -> Self {
        Self {
            padding: Padding::Same,
            eps: 1e-3,
            early_stride: 2,
            input,
            classes: None,
        }
    }

    /// The form for weights that PyTorch trained: symmetric padding and epsilon 1e-5.
    pub fn symmetric(input: [usize; 3]) -> Self {
        Self {
            padding: Padding::Symmetric,
            eps: 1e-5,
            ..Self::imagenet(input)
        }
    }

    /// [`EfficientNetLite0::symmetric`] with stride 1 in the stem and the 24-channel stage.
    pub fn cifar(input: [usize; 3]) -> Self {
        Self {
            early_stride: 1,
            ..Self::symmetric(input)
        }
    }

    /// Builds the network.
    ///
    /// # Errors
    /// As [`Graph::new`]: an image or a stride of zero.
    pub fn graph(&self) -> Result<Graph, GraphError> {
        let rows: [Row; 7] = [
            (3, 1, 16, 1, 1),
            (3, 6, 24, 2, self.early_stride),
            (5, 6, 40, 2, 2),
            (3, 6, 80, 3, 2),
            (5, 6, 112, 3, 1),
            (5, 6, 192, 4, 2),
            (3, 6, 320, 1, 1),
        ];
        let mut b = GraphBuilder::new(self.name()).with_batch_norm_eps(self.eps);
        let [channels, height, width] = self.input;
        let mut size = [height, width];
        let x = b.input(channels, height, width);
        let stem = Conv2d {
            padding: self.pad(&mut size, 3, self.early_stride),
            ..Conv2d::same(Channels::Fixed(32), 3, self.early_stride)
        };
        let x = b.conv("stem.conv", x, stem);
        let x = b.batch_norm("stem", x);
        let mut x = b.activation("stem", x, Activation::Relu6);
        let mut from = 32;
        let mut index = 0;
        for (kernel, expansion, to, repetitions, first_stride) in rows {
            for repetition in 0..repetitions {
                let stride = if repetition == 0 { first_stride } else { 1 };
                let depthwise = Conv2d {
                    groups: Groups::Depthwise,
                    padding: self.pad(&mut size, kernel, stride),
                    ..Conv2d::same(Channels::Fixed(1), kernel, stride)
                };
                let name = format!("block{index}");
                x = inverted_residual(&mut b, &name, x, [from, to], expansion, depthwise);
                from = to;
                index += 1;
            }
        }
        let x = b.conv_bn("tail", x, Channels::Fixed(1280), 1, 1);
        let x = b.activation("tail", x, Activation::Relu6);
        super::finish(b, x, self.classes)
    }

    /// Top, left, bottom and right padding of the next convolution, which takes the map's `size` to
    /// its own.
    fn pad(&self, size: &mut [usize; 2], kernel: usize, stride: usize) -> [usize; 4] {
        // A stride of zero is for the graph to report.
        let stride = stride.max(1);
        let [rows, columns] = size.map(|size| self.padding.around(size, kernel, stride));
        *size = size.map(|size| size.div_ceil(stride));
        [rows[0], columns[0], rows[1], columns[1]]
    }

    fn name(&self) -> &'static str {
        match (self.early_stride, self.padding) {
            (1, _) => "efficientnet-lite0-cifar",
            (_, Padding::Same) => "efficientnet-lite0",
            (_, Padding::Symmetric) => "efficientnet-lite0-symmetric",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Op, Width};

    /// The published checkpoint's 4,652,008 trainable parameters.
    #[test]
    fn size_and_compute() {
        let net = EfficientNetLite0 {
            classes: Some(1000),
            ..EfficientNetLite0::imagenet([3, 224, 224])
        };
        let cost = net.graph().unwrap().cost(Width::FULL).unwrap();
        assert_eq!(cost.params, 4_652_008);
        assert_eq!(cost.macs / 1_000_000, 385);
    }

    #[test]
    fn same_padding_leaves_the_odd_row_to_the_bottom() {
        assert_eq!(Padding::Same.around(224, 3, 2), [0, 1]);
        assert_eq!(Padding::Same.around(225, 3, 2), [1, 1]);
        assert_eq!(Padding::Same.around(56, 5, 2), [1, 2]);
        assert_eq!(Padding::Same.around(14, 5, 1), [2, 2]);
        assert_eq!(Padding::Symmetric.around(224, 3, 2), [1, 1]);
    }

    #[test]
    fn both_paddings_give_the_same_shapes() {
        for size in [[224, 224], [97, 130], [1, 1]] {
            let input = [3, size[0], size[1]];
            let same = EfficientNetLite0::imagenet(input).graph().unwrap();
            let symmetric = EfficientNetLite0::symmetric(input).graph().unwrap();
            assert_eq!(
                same.shapes(Width::FULL),
                symmetric.shapes(Width::FULL),
                "{size:?}"
            );
        }
    }

    #[test]
    fn nine_blocks_are_residual_and_nine_have_large_kernels() {
        let graph = EfficientNetLite0::imagenet([3, 224, 224]).graph().unwrap();
        let count =
            |wanted: fn(&Op) -> bool| graph.nodes().iter().filter(|n| wanted(&n.op)).count();
        assert_eq!(count(|op| *op == Op::Add), 9);
        assert_eq!(
            count(|op| matches!(op, Op::Conv2d(c) if c.kernel == [5, 5])),
            9
        );
    }
}
