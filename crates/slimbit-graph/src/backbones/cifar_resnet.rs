use super::resnet::{projection, two_convolutions};
use crate::{Channels, Graph, GraphBuilder, GraphError, Op};

/// What a block adds where its shape changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortcut {
    /// Option A: the subsampled input with zero channels added. No parameters.
    Pad,
    /// Option B: a 1×1 convolution with batch-norm.
    Projection,
    /// Nothing, nor elsewhere: the plain networks that the paper compares with. Features collapse in them more easily.
    Absent,
}

/// The CIFAR residual networks of depth `6n + 2`: three stages of `n` basic blocks (He et al.,
/// 2016, section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CifarResNet {
    /// `6n + 2` with `n >= 1`: 8, 14, 20, 32, 44, 56, ...
    pub depth: usize,
    /// Channels of the stem and the first stage (16 in the paper); they double per stage.
    pub base: usize,
    /// Shortcuts between stages.
    pub shortcut: Shortcut,
    /// Stride of the stem: 1 in the paper, 2 quarters the work on small machines.
    pub stem_stride: usize,
    /// Image: channels, rows, columns.
    pub input: [usize; 3],
    /// Classes of the `logits` output, if there is one.
    pub classes: Option<usize>,
}

impl CifarResNet {
    /// The paper's form: 16 channels, option A, stem stride 1, no classifier.
    pub fn new(depth: usize, input: [usize; 3]) -> Self {
        Self {
            depth,
            base: 16,
            shortcut: Shortcut::Pad,
            stem_stride: 1,
            input,
            classes: None,
        }
    }

    /// Reads `resnet{depth}[-b][-x{k}][-s2]` and `plain{depth}[-x{k}][-s2]`; nothing for any other name.
    pub(super) fn parse(name: &str, input: [usize; 3]) -> Option<Self> {
        let (name, plain) = match name.strip_prefix("plain") {
            Some(rest) => (rest, true),
            None => (name.strip_prefix("resnet")?, false),
        };
        let (name, stem_stride) = match name.strip_suffix("-s2") {
            Some(rest) => (rest, 2),
            None => (name, 1),
        };
        let (name, base) = match name.rsplit_once("-x") {
            Some((rest, times)) => (
                rest,
                16 * times
                    .parse::<usize>()
                    .ok()
                    .filter(|k| (1..=64).contains(k))?,
            ),
            None => (name, 16),
        };
        let (depth, shortcut) = match name.strip_suffix("-b") {
            _ if plain => (name, Shortcut::Absent),
            Some(rest) => (rest, Shortcut::Projection),
            None => (name, Shortcut::Pad),
        };
        let net = Self {
            base,
            shortcut,
            stem_stride,
            ..Self::new(depth.parse().ok()?, input)
        };
        net.blocks().map(|_| net)
    }

    /// Blocks per stage; nothing unless the depth is `6n + 2` and no deeper than the deepest
    /// network of the paper (1202 layers).
    fn blocks(&self) -> Option<usize> {
        let depth = self.depth;
        (depth % 6 == 2 && (8..=1202).contains(&depth)).then_some((depth - 2) / 6)
    }

    /// Builds the network.
    ///
    /// # Errors
    /// [`GraphError::Backbone`] for a depth that is not `6n + 2`; otherwise as [`Graph::new`].
    pub fn graph(&self) -> Result<Graph, GraphError> {
        let Some(blocks) = self.blocks() else {
            return Err(GraphError::Backbone {
                name: format!("{}{}", self.family(), self.depth),
                known: "the depths 6n+2 (8, 14, 20, 32, 44, 56, ... 1202)".to_owned(),
            });
        };
        let mut b = GraphBuilder::new(self.name());
        let [channels, height, width] = self.input;
        let x = b.input(channels, height, width);
        let mut x = b.conv_bn_relu("stem", x, Channels::slim(self.base), 3, self.stem_stride);
        let mut from = self.base;
        for stage in 0..3 {
            let to = self.base << stage;
            for block in 0..blocks {
                let name = format!("layer{}.{block}", stage + 1);
                let stride = if stage > 0 && block == 0 { 2 } else { 1 };
                let shortcut = match self.shortcut {
                    Shortcut::Pad if from != to => {
                        let out = Channels::slim(to);
                        Some(b.push(
                            format!("{name}.shortcut"),
                            Op::PadShortcut { out, stride },
                            &[x],
                        ))
                    }
                    Shortcut::Pad => Some(x),
                    Shortcut::Projection => Some(projection(&mut b, &name, x, [from, to], stride)),
                    Shortcut::Absent => None,
                };
                x = two_convolutions(&mut b, &name, x, shortcut, to, stride);
                from = to;
            }
        }
        super::finish(b, x, self.classes)
    }

    fn family(&self) -> &'static str {
        match self.shortcut {
            Shortcut::Pad | Shortcut::Projection => "resnet",
            Shortcut::Absent => "plain",
        }
    }

    fn name(&self) -> String {
        let option = match self.shortcut {
            Shortcut::Pad | Shortcut::Absent => "",
            Shortcut::Projection => "-b",
        };
        let stem = match self.stem_stride {
            1 => String::new(),
            stride => format!("-s{stride}"),
        };
        let wider = match self.base {
            16 => String::new(),
            base if base % 16 == 0 => format!("-x{}", base / 16),
            base => format!("-{base}-channels"),
        };
        format!("{}{}{option}{wider}{stem}", self.family(), self.depth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Width;

    /// He et al., table 6: 0.27, 0.46, 0.66 and 0.85 million parameters.
    #[test]
    fn sizes_of_the_family() {
        for (depth, millions) in [(20, "0.27"), (32, "0.46"), (44, "0.66"), (56, "0.85")] {
            let net = CifarResNet {
                classes: Some(10),
                ..CifarResNet::new(depth, [3, 32, 32])
            };
            let cost = net.graph().unwrap().cost(Width::FULL).unwrap();
            assert_eq!(
                format!("{:.2}", cost.params as f64 / 1e6),
                millions,
                "{depth}"
            );
        }
    }

    #[test]
    fn names_round_trip() {
        for name in [
            "resnet8",
            "resnet20-b",
            "resnet56-s2",
            "resnet14-b-s2",
            "resnet8-b-x2-s2",
            "plain14-x2-s2",
        ] {
            let net = CifarResNet::parse(name, [1, 28, 28]).unwrap();
            assert_eq!(net.graph().unwrap().name(), name);
        }
    }

    #[test]
    fn a_plain_network_has_the_weights_of_the_residual_one_and_adds_nothing() {
        let [plain, residual] = ["plain20", "resnet20"].map(|name| {
            let net = CifarResNet::parse(name, [3, 32, 32]).unwrap();
            net.graph().unwrap()
        });
        let params = |graph: &Graph| graph.cost(Width::FULL).unwrap().params;
        assert_eq!(params(&plain), params(&residual));
        let adds = |graph: &Graph| graph.nodes().iter().filter(|n| n.op == Op::Add).count();
        assert_eq!((adds(&plain), adds(&residual)), (0, 9));
    }

    #[test]
    fn a_depth_outside_the_family_is_refused() {
        let text = CifarResNet::new(18, [3, 32, 32])
            .graph()
            .unwrap_err()
            .to_string();
        assert!(text.contains("resnet18") && text.contains("6n+2"), "{text}");
    }
}
