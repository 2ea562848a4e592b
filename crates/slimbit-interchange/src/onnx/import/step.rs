use slimbit_graph::{Activation, Array, Conv2d, Pool};

/// One operator of the file in the terms of a [`Graph`](slimbit_graph::Graph), or of what will be
/// folded into one.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// The node's name in the file, or its output's.
    pub(super) name: String,
    /// The operator in the file.
    pub(super) op: String,
    pub(super) kind: Kind,
    /// Indices of earlier steps.
    pub(super) inputs: Vec<usize>,
    /// Channels of the result, or features of a vector.
    pub(super) channels: usize,
    /// Rows and columns of the result, both 1 for a vector.
    pub(super) space: [usize; 2],
    /// Whether no element of the result can be negative.
    pub(super) non_negative: bool,
    /// Whether this is the image itself, or each of its channels a multiple of one of the image's
    /// and a constant: the normalisation that a file may begin with.
    pub(super) is_image: bool,
}

/// What a step computes.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Input,
    Conv {
        conv: Conv2d,
        weight: Array,
        bias: Option<Vec<f32>>,
    },
    Linear {
        /// `[out, in]`.
        weight: Array,
        bias: Option<Vec<f32>>,
    },
    Norm(Norm),
    /// `gain · x + shift`, per channel or the same for all.
    Scale {
        gain: Vec<f32>,
        shift: Vec<f32>,
    },
    Activation(Activation),
    /// A clip that may still become part of a hard swish.
    Clip([f32; 2]),
    /// `clip(slope · x + offset, 0, 1)`, only ever part of a hard swish.
    HardSigmoid([f32; 2]),
    /// `factor · x · clip(x + 3, 0, 6)`.
    Gated(f32),
    Add,
    Concat,
    MaxPool(Pool),
    AvgPool(Pool),
    /// An average whose window counts the border's zeros.
    PaddedAverage(Pool),
    GlobalAvgPool,
    /// A border of constant values: top, left, bottom, right.
    Pad {
        space: [usize; 4],
        value: f32,
    },
    /// Zero channels before and after.
    PadChannels([usize; 2]),
    /// Channels of the operand, in the order given, each times a factor; no factors are all one.
    Select {
        channels: Vec<usize>,
        factors: Vec<f32>,
    },
    /// Every so many rows and columns.
    Subsample([usize; 2]),
    Flatten,
    /// A monotone function of all outputs, left out where nothing follows.
    Softmax,
}

/// A batch-norm's parameters and statistics.
#[derive(Clone, Debug)]
pub(super) struct Norm {
    pub(super) gamma: Vec<f32>,
    pub(super) beta: Vec<f32>,
    pub(super) mean: Vec<f32>,
    pub(super) variance: Vec<f32>,
    pub(super) eps: f32,
}

impl Norm {
    /// The same as `gain · x + shift`.
    pub(super) fn line(&self) -> (Vec<f64>, Vec<f64>) {
        let lines = (0..self.gamma.len()).map(|c| {
            let deviation = (f64::from(self.variance[c]) + f64::from(self.eps)).sqrt();
            let gain = f64::from(self.gamma[c]) / deviation;
            let shift = f64::from(self.beta[c]) - gain * f64::from(self.mean[c]);
            (gain, shift)
        });
        lines.unzip()
    }
}

impl Kind {
    /// Whether the steps behind this one may make it their own.
    pub(super) fn may_be_taken_in(&self) -> bool {
        matches!(
            self,
            Self::Scale { .. }
                | Self::Clip(_)
                | Self::HardSigmoid(_)
                | Self::Gated(_)
                | Self::Pad { .. }
                | Self::PadChannels(_)
                | Self::Select { .. }
                | Self::Softmax
        )
    }

    /// Whether every channel of the result is a multiple of one channel of an operand, and a
    /// constant.
    pub(super) fn is_affine(&self) -> bool {
        matches!(
            self,
            Self::Input | Self::Norm(_) | Self::Scale { .. } | Self::Select { .. } | Self::Concat
        )
    }

    /// Whether the result cannot be negative, given whether all operands cannot.
    pub(super) fn is_non_negative(&self, operands: bool) -> bool {
        match self {
            Self::Activation(activation) => activation.is_clamp(),
            Self::Clip([low, _]) => *low >= 0.0,
            Self::HardSigmoid(_) | Self::Softmax => true,
            Self::Add
            | Self::Concat
            | Self::MaxPool(_)
            | Self::AvgPool(_)
            | Self::PaddedAverage(_)
            | Self::GlobalAvgPool
            | Self::PadChannels(_)
            | Self::Subsample(_)
            | Self::Flatten => operands,
            Self::Pad { value, .. } => *value >= 0.0 && operands,
            Self::Select { factors, .. } => factors.is_empty() && operands,
            Self::Scale { gain, shift } => {
                operands && gain.iter().chain(shift).all(|&value| value >= 0.0)
            }
            Self::Input
            | Self::Conv { .. }
            | Self::Linear { .. }
            | Self::Norm(_)
            | Self::Gated(_) => false,
        }
    }
}
